"""Makes one flows table of what was read, as Arrow's columns or as pandas'.

Loaded when workers have been started: pandas takes as long to load as they do.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import pandas_dtype

from exfilml.columns import COLUMNS
from exfilml.schema import empty_flows, validate_flows


def join(parts: Iterable[pa.Table | pd.DataFrame]) -> pd.DataFrame:
    """Put tables together, check them, and order them by time.

    What comes as Arrow's is converted at once: a table takes 10 ms whatever it holds,
    as long as a worker needs for a small capture.
    """
    frames: list[pd.DataFrame] = []
    for is_table, run in groupby(parts, key=lambda part: isinstance(part, pa.Table)):
        found = list(run)
        frames += [to_frame(pa.concat_tables(found))] if is_table else found
    if not frames:
        return empty_flows()
    flows = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    # Sorted first: columns that the check adds need no sorting.
    return validate_flows(in_order(flows))


def in_order(flows: pd.DataFrame) -> pd.DataFrame:
    """Put a table in order of start, with an index of its own."""
    if flows["start"].is_monotonic_increasing:
        return flows.reset_index(drop=True)
    return flows.sort_values("start", kind="stable", ignore_index=True)


def rows_in_order(table: pa.Table) -> pa.Table:
    """Put a table of Arrow's in order of start."""
    start = table.column("start").cast(pa.int64()).to_numpy()
    if (start[1:] >= start[:-1]).all():
        return table
    # Rows are picked from one piece faster than from several.
    whole = table.unify_dictionaries().combine_chunks()
    return whole.take(pa.array(np.argsort(start, kind="stable")))


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Make a typed table of Arrow's columns; those that it has not are missing."""
    if not table.num_rows:
        return empty_flows()
    known = set(table.column_names)
    columns: dict[str, Any] = {}
    for column in COLUMNS:
        dtype: Any = pandas_dtype(column.dtype)
        if column.name not in known:
            columns[column.name] = pd.array([None], dtype).repeat(table.num_rows)
            continue
        values = table.column(column.name)
        columns[column.name] = (
            dtype.__from_arrow__(values)
            if hasattr(dtype, "__from_arrow__")
            else values.to_numpy()
        )
    # Copied, because Arrow's memory cannot be written.
    return pd.DataFrame(columns)
