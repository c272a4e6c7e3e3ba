"""Files that commands and analysts write: ranked cases, and lists of judgements.

Cases are read as ``exfilml rank --by case --out`` and ``exfilml triage --out`` write
them: CSV, JSON (a list of objects, or an object with a list ``cases``), JSON lines, or
Parquet. All of CSV and JSON stays text until it is known what a column is: a case named
``0012345678`` is no number. Judgements are CSV with the columns ``case``, ``verdict``
and ``reason``, and ``analyst`` where it differs from row to row.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from exfilml.declarations import quoted
from exfilml.exceptions import FeedbackError, FeedbackWarning
from exfilml.export import FORMATS, as_written
from exfilml.feedback._facts import check_cases

LARGEST_FILE: Final = 1_000_000_000
LARGEST_LIST: Final = 64_000_000
MOST_COLUMNS: Final = 1000
JUDGEMENT_COLUMNS: Final = ("case", "verdict", "reason")


def read_cases(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of cases that a command wrote.

    Parameters
    ----------
    path
        A file that ends in .csv, .json, .jsonl or .parquet.

    Returns
    -------
    pandas.DataFrame
        The file's columns; texts where the format knows no more.

    Raises
    ------
    FeedbackError
        If it cannot be read, or holds no cases.
    """
    path = Path(path)
    form = path.suffix.lower().lstrip(".")
    if form not in FORMATS:
        raise FeedbackError(
            f"{path}: the suffix must name a format, one of .{', .'.join(FORMATS)}."
        )
    reader = {"csv": _csv, "json": _json, "jsonl": _lines, "parquet": _parquet}[form]
    cases = reader(path, _bytes(path, LARGEST_FILE))
    try:
        check_cases(cases, ("case",))
    except FeedbackError as error:
        raise FeedbackError(f"{path}: {error}") from error
    return cases


def read_judgements(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a list of judgements: CSV with ``case``, ``verdict`` and ``reason``.

    Returns
    -------
    pandas.DataFrame
        All columns as texts, "" where a cell is empty; the index counts rows from 1,
        as they stand under the header.

    Raises
    ------
    FeedbackError
        If it cannot be read, or columns are missing.
    """
    path = Path(path)
    table = _csv(path, _bytes(path, LARGEST_LIST))
    missing = [name for name in JUDGEMENT_COLUMNS if name not in table.columns]
    if missing:
        raise FeedbackError(
            f"{path}: {', '.join(missing)} missing; expected CSV whose first line is "
            f"{','.join(JUDGEMENT_COLUMNS)}."
        )
    table.index = pd.RangeIndex(1, len(table) + 1, name="row")
    return table


def _bytes(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FeedbackError(
            f"{path}: cannot be read: {reason}; expected a file of cases or judgements."
        ) from error
    if len(data) > most:
        raise FeedbackError(f"{path}: more than {most // 1_000_000:,} MB.")
    if not data.strip():
        raise FeedbackError(f"{path}: empty, expected at least a header.")
    return data


def _text(data: bytes) -> str:
    # Windows editors begin a text with a mark of byte order.
    return data.decode("utf-8-sig", errors="replace")


def _csv(path: Path, data: bytes) -> pd.DataFrame:
    odd: list[str] = []

    def skip(row: Any) -> str:
        odd.append(f"{row.actual_columns} columns instead of {row.expected_columns}")
        return "skip"

    clean = _text(data).encode("utf-8")
    try:
        # One block, so that rows are counted in order and a long cell fits.
        table = csv.read_csv(
            io.BytesIO(clean),
            read_options=csv.ReadOptions(
                use_threads=False,
                block_size=len(clean) + 1,
                autogenerate_column_names=True,
            ),
            parse_options=csv.ParseOptions(
                newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=csv.ConvertOptions(
                column_types={f"f{i}": pa.string() for i in range(MOST_COLUMNS)},
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise FeedbackError(
            f"{path}: not CSV: {_short(error)}; expected commas and a header."
        ) from error
    if table.num_columns > MOST_COLUMNS:
        raise FeedbackError(f"{path}: {table.num_columns:,} columns; no such table.")
    _tell(path, len(odd), "lines", odd[0] if odd else "")
    # The first of two columns of the same name stays.
    return pd.DataFrame(
        {
            str(column[0]).strip(): _disarmed(column.slice(1))
            for column in reversed(table.columns)
        }
    )


def _disarmed(column: pa.ChunkedArray) -> pd.Series:
    """Return a column of texts, without the marks that disarm formulas."""
    texts = pd.Series(column.to_pandas(), dtype="str")
    marked = texts.str.startswith("'").to_numpy(dtype=bool, na_value=False)
    if marked.any():
        texts[marked] = texts[marked].map(as_written)
    return texts


def _json(path: Path, data: bytes) -> pd.DataFrame:
    try:
        given = json.loads(_text(data), parse_int=_number)
    except (ValueError, RecursionError) as error:
        raise FeedbackError(f"{path}: not JSON: {_short(error)}.") from error
    if isinstance(given, dict):
        given = given.get("cases")
    if not isinstance(given, list) or not all(isinstance(row, dict) for row in given):
        raise FeedbackError(
            f"{path}: expected a list of cases, or an object with a list cases."
        )
    return _table(given)


def _lines(path: Path, data: bytes) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    bad, first = 0, ""
    for number, line in enumerate(_text(data).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=_number)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad += 1
            first = first or f"line {number}: {quoted(line)}"
    _tell(path, bad, "lines", first)
    return _table(rows)


def _number(text: str) -> int | float:
    """Read a whole number; none that is too long to be one of ours."""
    return int(text) if len(text) < 20 else float(text)


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    # What nests (answers of a triage) is no fact of a case.
    plain = [
        {k: v for k, v in row.items() if not isinstance(v, dict | list)} for row in rows
    ]
    return pd.DataFrame(plain, dtype="object")


def _parquet(path: Path, data: bytes) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(data), engine="pyarrow")
    except (pa.ArrowException, ValueError, TypeError, KeyError, OSError) as error:
        raise FeedbackError(f"{path}: not Parquet: {_short(error)}.") from error


def _tell(path: Path, bad: int, what: str, first: str) -> None:
    if bad:
        warnings.warn(
            f"{path}: {bad:,} {what} could not be read; first: {first}.",
            FeedbackWarning,
            stacklevel=4,
        )


def _short(error: object) -> str:
    return " ".join(str(error).split())[:160].rstrip(".")
