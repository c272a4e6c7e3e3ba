"""Flows tables that were stored as Parquet, by us or by others.

Other tables in Parquet are known by the names of their columns, see `reader_of`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from exfilml.columns import REQUIRED
from exfilml.exceptions import FlowsError, SourceError
from exfilml.sources._reading import Options, Reader, Reading

if TYPE_CHECKING:
    import pandas as pd

NAME: Final = "Parquet"
MAGIC: Final = b"PAR1"
BATCH_ROWS: Final = 1 << 16
# Modules with `is_table` and `stream_parquet`, loaded when asked.
_TABLES: Final = ("_aws", "_ocsf", "_nfstream")


def detect(head: bytes) -> bool:
    """Say from the first bytes whether this is a Parquet file."""
    return head.startswith(MAGIC)


@dataclass(frozen=True, slots=True)
class Other:
    """The reader of a table that is no flows table."""

    module: Any

    @property
    def NAME(self) -> str:  # noqa: N802 - as the modules that know one format each
        """What it reads."""
        return f"{self.module.NAME} in Parquet"

    def detect(self, head: bytes) -> bool:
        """Say from the first bytes whether this is a Parquet file."""
        return detect(head)

    def read(self, path: Path, options: Options) -> Reading:
        """Read a whole file."""
        from exfilml.sources._logs import whole

        return whole(self.stream(path, options))

    def stream(self, path: Path, options: Options) -> Iterator[Reading]:
        """Read a file piece by piece."""
        readings: Iterator[Reading] = self.module.stream_parquet(path, options)
        return readings


def reader_of(path: Path) -> Reader:
    """Find the reader of the table in a Parquet file, by its columns.

    Our own says what is wrong where there is none.
    """
    import pyarrow as pa
    from pyarrow import parquet

    ours = cast("Reader", sys.modules[__name__])
    try:
        names = frozenset(parquet.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return ours
    if names >= frozenset(REQUIRED):
        return ours
    for name in _TABLES:
        module = importlib.import_module(f"exfilml.sources.{name}")
        if module.is_table(names):
            return Other(module)
    return ours


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
