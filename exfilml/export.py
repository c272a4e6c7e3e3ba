"""Tables to CSV, JSON, JSON lines and Parquet; files that are whole or not there.

Host names, user agents and file names come from whoever sent the packets. Text that
a spreadsheet would run as a formula is disarmed in CSV, and control characters never
reach a terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from exfilml.exceptions import OptionError, OutputError

FORMATS: Final = ("csv", "json", "jsonl", "parquet")

# Also the full-width forms, which spreadsheets of some languages take for the same.
_FORMULA: Final = re.compile("[=+\\-@\uff1d\uff0b\uff0d\uff20]")
# C0 and C1 controls, marks that reorder or hide text, and halves of surrogate pairs,
# which no file can hold.
_CONTROL: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


def printable(text: str) -> str:
    r"""Replace characters that a terminal would act upon by their escapes.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode("ascii"), text)


def to_text(table: pd.DataFrame, form: str) -> str:
    """Write a table as ``csv``, ``json`` or ``jsonl``, times in ISO 8601 UTC.

    Raises
    ------
    OptionError
        If the format is none of these.
    """
    if form == "csv":
        columns = {i: _disarmed(_timed(c)) for i, (_, c) in enumerate(table.items())}
        plain = pd.DataFrame(columns, index=table.index)
        header = [str(_safe_cell(name)) for name in table.columns]
        return plain.to_csv(index=False, header=header)
    if form in {"json", "jsonl"}:
        values = [_json_values(_timed(column)) for _, column in table.items()]
        names = [str(name) for name in table.columns]
        rows = zip(*values, strict=True)
        lines = [json_text(dict(zip(names, row, strict=True))) for row in rows]
        if form == "jsonl":
            return "".join(line + "\n" for line in lines)
        return "[" + ",\n".join(lines) + "]\n"
    raise OptionError(f"format {form!r}: expected csv, json or jsonl.")


def json_text(value: object) -> str:
    """Write a value of plain types as JSON in one line, fit for a terminal."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    return _CONTROL.sub(lambda m: json.dumps(m[0])[1:-1], text)


def _timed(column: pd.Series) -> pd.Series:
    """Write times as ISO 8601 UTC; other columns stay as they are."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_convert("UTC")
    if column.dtype.kind == "M":
        texts: pd.Series = column.dt.strftime(_TIME)
        return texts
    return column


def _safe_cell(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    text = printable(cell)
    return "'" + text if _FORMULA.match(text) else text


def as_written(cell: str) -> str:
    """Take off the mark that disarms a formula in CSV, of text that is read back."""
    armed = cell[1:]
    return armed if cell.startswith("'") and _FORMULA.match(armed) else cell


def _disarmed(column: pd.Series) -> pd.Series:
    """Escape and disarm whatever text is in a column, of whatever dtype."""
    if column.dtype.kind in "biufcM":
        return column
    cells = [_safe_cell(cell) for cell in column.tolist()]
    return pd.Series(cells, index=column.index, dtype=object)


def _json_values(column: pd.Series) -> list[object]:
    """Return Python values; None for what is missing, and for what JSON has not."""
    there = column.notna().to_numpy()
    if column.dtype.kind == "f":
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        there = there & np.isfinite(numbers)
    cells = column.tolist()
    return [
        (c.item() if isinstance(c, np.generic) else c) if ok else None
        for c, ok in zip(cells, there, strict=True)
    ]


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table to a file whose suffix names the format.

    The file appears under its name only when it is complete.

    Raises
    ------
    OptionError
        If the suffix is none of `FORMATS`.
    OutputError
        If the place cannot be written.
    """
    form = output_format(path)
    text = None if form == "parquet" else to_text(table, form)
    with complete_file(path) as part:
        if text is None:
            table.to_parquet(part)
        else:
            part.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def complete_file(path: str | Path) -> Iterator[Path]:
    """Give a place to write to; what was written appears as `path` when all is done.

    After an error or Ctrl-C nothing is left, and an older file of that name stands. A
    link stays one, and what it leads to is written.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    target = Path(path)
    # What no system takes for a name is refused below.
    with contextlib.suppress(OSError, ValueError):
        target = Path(os.path.realpath(path)) if target.is_symlink() else target
    # Another name each time: two writers, or a file of the user, are not in the way.
    part = target.parent / f".exfilml-{secrets.token_hex(8)}.part"
    try:
        if target.exists() and not target.is_file():
            raise OutputError(f"{path}: is no regular file; give a file name.")
        yield part
        part.replace(target)
    except (OSError, ValueError) as error:
        # ValueError: a path with a NUL in it, or a value that Parquet cannot hold.
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"{path}: cannot be written: {reason}. Choose a folder that exists and "
            "that you may write to."
        ) from error
    finally:
        # Also after Ctrl-C; a part that cannot be removed was never made.
        with contextlib.suppress(OSError, ValueError):
            part.unlink(missing_ok=True)


def output_format(path: str | Path, *others: str) -> str:
    """Return the format that a file's suffix names.

    Raises
    ------
    OptionError
        If the suffix is none of `FORMATS`, nor of `others` that are not for tables.
    """
    form = Path(path).suffix.lower().lstrip(".")
    known = (*FORMATS, *others)
    if form not in known:
        raise OptionError(
            f"{path}: the suffix must name a format, one of ." + ", .".join(known) + "."
        )
    return form
