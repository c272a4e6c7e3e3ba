"""Flows tables that were stored as Parquet, by us or by others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exfilml.exceptions import FlowsError, SourceError
from exfilml.sources._reading import Options, Reading

if TYPE_CHECKING:
    import pandas as pd

NAME: Final = "Parquet"
MAGIC: Final = b"PAR1"
BATCH_ROWS: Final = 1 << 16


def detect(head: bytes) -> bool:
    """Say from the first bytes whether this is a Parquet file."""
    return head.startswith(MAGIC)


def read(path: Path, options: Options) -> Reading:  # noqa: ARG001
    """Read one flows table; a missing ``sensor`` becomes the file name."""
    flows = read_parquet(path)
    flows["sensor"] = flows["sensor"].fillna(path.name)
    return Reading(flows)


def stream(path: Path, options: Options) -> Iterator[Reading]:  # noqa: ARG001
    """Read a flows table piece by piece."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                flows = _checked(pa.Table.from_batches([batch]).to_pandas(), path)
                flows["sensor"] = flows["sensor"].fillna(path.name)
                yield Reading(flows)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def read_parquet(path: str | Path) -> pd.DataFrame:
    """Read and check a flows table stored by `write_flows` or by other tools.

    Raises
    ------
    SourceError
        If the file is no Parquet file.
    FlowsError
        If its table is no flows table.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        table = pd.read_parquet(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return _checked(table, path)


def _unreadable(path: str | Path, error: Exception) -> SourceError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SourceError(f"{path}: not a readable Parquet file: {reason}")


def _checked(table: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    from exfilml.schema import validate_flows

    try:
        return validate_flows(table)
    except FlowsError as error:
        raise FlowsError(f"{path}: {error}") from None
