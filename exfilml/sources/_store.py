"""Writes flows tables, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from exfilml.exceptions import OutputError

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES: Final = (".parquet", ".csv")


def write_flows(flows: pd.DataFrame, path: str | Path) -> None:
    """Store a flows table as Parquet or CSV, by the suffix of `path`.

    Parquet gives back an equal table. In CSV a text that a spreadsheet would take
    for a formula is preceded by an apostrophe. The file appears under its name only
    when it is complete.

    Raises
    ------
    FlowsError
        If `flows` is no flows table.
    OutputError
        If the suffix is another one, or the place cannot be written.
    """
    from exfilml.export import write_table
    from exfilml.schema import validate_flows

    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(
            f"{path}: flows are written as {' or '.join(SUFFIXES)}, "
            f"not as {suffix or 'a file without suffix'}."
        )
    write_table(validate_flows(flows), path)
