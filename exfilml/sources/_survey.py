"""What can be read here: every file under a folder, one row each.

A file that `read_flows` passes over in a folder has its row here, with the reason.
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exfilml.exceptions import FlowsError, SourceError, SourceWarning
from exfilml.sources._column_map import ColumnMap
from exfilml.sources._discover import (
    FORMATS,
    Columns,
    Source,
    counted_once,
    detect_reader,
    expand,
    lenders,
    reader_name,
)
from exfilml.sources._foreign import CompanionError
from exfilml.sources._stream import CHUNK, Asked, check_sampling, tables

if TYPE_CHECKING:
    import pandas as pd

    from exfilml.sources._reading import Reader

_CLAUSE: Final = re.compile(r"[^,:;.(]+(?:\.[a-z]+[^,:;.(]*)*")
_EXPECTED: Final = f" Expected {FORMATS}."
_NAMES_ONLY: Final = "lies beside a conn.log; to read it alone, name it alone."
_COLUMNS: Final = {
    "file": "str",
    "format": "str",
    "rows": "int64",
    "seconds": "float64",
    "capability": "str",
    "warnings": "str",
}


def survey(
    source: Source | Iterable[Source],
    *,
    timezone: str | None = None,
    sampling: int | None = None,
    exports: bool = False,
    columns: Columns | None = None,
    report: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Read every file of a source, and say what became of it.

    Parameters
    ----------
    source, timezone, sampling, exports, columns
        As of `exfilml.read_flows`. Logs are read piece by piece.
    report
        Is told the name of each file before it is read.

    Returns
    -------
    pandas.DataFrame
        In the order of files: ``file``, ``format``, ``rows`` (flows), ``seconds`` to
        read them, ``capability`` (what their flows show, `exfilml.schema.CAPABILITIES`,
        with the share of each if they differ; empty where there are no flows) and
        ``warnings``: what was lost, or why the file is not read.

    Raises
    ------
    SourceError
        If there is no such file or folder.
    OptionError
        If there is no such time zone, or `sampling` is not 1 or more.
    """
    import pandas as pd

    from exfilml.sources._headed import check_timezone

    check_timezone(timezone)
    check_sampling(sampling)
    paths, _ = expand(source)
    explained = None if columns is None else ColumnMap.of(columns)
    found = [(path, _reader(path, explained)) for path in dict.fromkeys(paths)]
    asked, together = Asked(timezone, sampling, exports), lenders(found)
    conns = {path.parent for path, reader in found if reader_name(reader) == "_zeek"}
    once = {path for path, _ in counted_once(found, conns, [])}
    rows = []
    for path, reader in found:
        if path not in once and not isinstance(reader, SourceError):
            rows.append([str(path), format_name(reader), 0, 0.0, "", _NAMES_ONLY])
            continue
        if report is not None:
            report(str(path))
        # A name that is not UTF-8 has bytes that no table holds.
        name = os.fsencode(path).decode(errors="backslashreplace")
        rows.append([name, *_surveyed(path, reader, asked, together)])
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)


def _reader(path: Path, columns: ColumnMap | None) -> Reader | SourceError:
    mapped = columns is not None and columns.covers(path)
    try:
        return detect_reader(path, columns if mapped else None)
    except SourceError as error:
        return error


def format_name(reader: Reader) -> str:
    """Name the format of a reader: its ``NAME``, else how its text begins."""
    name: str | None = getattr(reader, "NAME", None)
    if name is None:
        first = (reader.__doc__ or "").strip().split("\n")[0]
        found = _CLAUSE.match(first)
        name = found[0].strip() if found else "?"
    return name


def _surveyed(
    path: Path,
    reader: Reader | SourceError,
    asked: Asked,
    together: tuple[Path, ...],
) -> tuple[str, int, float, str, str]:
    """Return format, flows, seconds, capability and warnings of a file."""
    import numpy as np

    from exfilml.schema import CAPABILITIES, capability_level

    if isinstance(reader, SourceError):
        beside = isinstance(reader, CompanionError)
        # What can be read is no news of one file among many.
        reason = str(reader).removeprefix(f"{path}: ").removesuffix(_EXPECTED)
        return "Zeek, beside conn.log" if beside else "", 0, 0.0, "", reason
    began, counts = time.perf_counter(), [0] * len(CAPABILITIES)
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SourceWarning)
        try:
            for flows in tables([(path, reader)], [], CHUNK, asked, together):
                levels = np.bincount(capability_level(flows), minlength=len(counts))
                counts = [a + b for a, b in zip(counts, levels.tolist(), strict=True)]
        except (SourceError, FlowsError) as error:
            said.append(str(error))
    said += [str(w.message) for w in caught if issubclass(w.category, SourceWarning)]
    took, rows = time.perf_counter() - began, sum(counts)
    shown = [(c, n) for c, n in zip(CAPABILITIES, counts, strict=True) if n]
    capability = ", ".join(
        c if n == rows else f"{c} {n / rows:.0%}" for c, n in reversed(shown)
    )
    text = " ".join(t.removeprefix(f"{path}: ") for t in said)
    return format_name(reader), rows, took, capability, text
