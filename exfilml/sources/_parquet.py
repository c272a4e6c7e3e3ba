"""Flows tables that were stored as Parquet, by us or by others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from exfilml.exceptions import FlowsError, SourceError
from exfilml.sources._reading import Options, Reading

if TYPE_CHECKING:
    import pandas as pd

MAGIC: Final = b"PAR1"


def detect(head: bytes) -> bool:
    """Say from the first bytes whether this is a Parquet file."""
    return head.startswith(MAGIC)


def read(path: Path, options: Options) -> Reading:  # noqa: ARG001
    """Read one flows table; a missing ``sensor`` becomes the file name."""
    flows = read_parquet(path)
    flows["sensor"] = flows["sensor"].fillna(path.name)
    return Reading(flows)


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

    from exfilml.schema import validate_flows

    try:
        table = pd.read_parquet(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(f"{path}: not a readable Parquet file: {reason}") from error
    try:
        return validate_flows(table)
    except FlowsError as error:
        raise FlowsError(f"{path}: {error}") from None
