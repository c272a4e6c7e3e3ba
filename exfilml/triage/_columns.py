"""Texts in columns: headers, separators, quotation, and which column is which.

Some feeds put the names of their columns into a comment.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.exceptions import ExfilmlError
from exfilml.triage._account import Account, shown
from exfilml.triage._texts import Text

_SEPARATORS: Final = (",", ";", "\t", "|")
_COMMENT: Final = ("#", "//", ";")
_ODD_ROWS: Final = "lines that have more or fewer fields than the header"


@dataclass(frozen=True, slots=True)
class Columns:
    """Named columns of text, all of one length; an empty cell is an empty text."""

    names: tuple[str, ...]
    arrays: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.arrays[0]) if self.arrays else 0

    def get(self, name: str) -> Any:
        """Return a column, trimmed."""
        return pc.utf8_trim_whitespace(self.arrays[self.names.index(name)])


def header_of(text: Text, known: Iterable[str]) -> tuple[list[str], str] | None:
    """Return names and separator of the header; `None` if there seems to be none.

    It is the first line that is no comment, or the last comment before it, if one of
    its names is known.
    """
    wanted = {fold(name) for name in known}
    comment = ""
    for line in _lines(text.text):
        plain = line.strip()
        if plain.startswith(_COMMENT):
            comment = plain.lstrip("#/; ") or comment
            continue
        for head in (plain, comment):
            for separator in _SEPARATORS:
                names = _fields(head, separator)
                # One word of a comment is prose.
                enough = 1 if separator == "," and head is plain else 2
                if len(names) >= enough and wanted & set(map(fold, names)):
                    return names, separator
        return None
    return None


def _lines(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        if text[at:end].strip():
            yield text[at:end]
        at = end + 1


def fold(name: str) -> str:
    """Return a column's name as names are compared: `First Seen` is `first_seen`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _fields(line: str, separator: str) -> list[str]:
    try:
        reader = csv.reader(
            [line], delimiter=separator, skipinitialspace=True, strict=True
        )
        fields = next(reader)
    except (csv.Error, StopIteration):
        return []
    return [field.strip() for field in fields]


def columns_of(
    text: Text, names: list[str], separator: str, account: Account
) -> Columns:
    """Read the lines below a header; lines that do not fit are counted."""
    # A line can begin with an empty field.
    marks = tuple(mark for mark in _COMMENT if mark != separator)
    rows = [
        line
        for line in text.text.split("\n")
        if line.strip() and not line.lstrip(" ").startswith(marks)
    ]
    if rows and _fields(rows[0], separator) == names:
        del rows[0]
    if not rows:
        return Columns(tuple(names), tuple(pa.array([], pa.string()) for _ in names))
    if '"' in text.text:
        return _quoted(text.name, names, separator, rows, account)
    return _plain(text.name, names, separator, rows, account)


def _plain(
    file: str, names: list[str], separator: str, rows: list[str], account: Account
) -> Columns:
    lines = pa.array(rows, pa.string())
    fields = pc.add(pc.count_substring(lines, separator), 1)
    odd = pc.not_equal(fields, len(names)).to_numpy(zero_copy_only=False)
    if odd.any():
        account.add(file, _ODD_ROWS, int(odd.sum()), rows[int(odd.argmax())])
        lines = lines.filter(pa.array(~odd))
    split = pc.split_pattern(lines, separator).flatten()
    return Columns(
        tuple(names),
        tuple(
            split.take(pa.array(np.arange(at, len(split), len(names))))
            for at in range(len(names))
        ),
    )


def _quoted(
    file: str, names: list[str], separator: str, rows: list[str], account: Account
) -> Columns:
    reader = csv.reader(
        (f"{row}\n" for row in rows),
        delimiter=separator,
        skipinitialspace=True,
        strict=True,
    )
    kept: list[list[str]] = []
    before = 0
    while True:
        try:
            row = next(reader, None)
        except csv.Error:
            row = []
        if row is None:
            break
        lines = rows[before : reader.line_num]
        before = reader.line_num
        if len(row) == len(names):
            kept.append(row)
            continue
        # A quotation mark that is never closed swallows lines that can be read alone.
        for line in lines:
            alone = _fields(line, separator)
            if len(alone) == len(names):
                kept.append(alone)
            else:
                account.add(file, _ODD_ROWS, 1, line)
    cells = zip(*kept, strict=True) if kept else [()] * len(names)
    return Columns(tuple(names), tuple(pa.array(c, pa.string()) for c in cells))


def choose(
    file: Path,
    names: Iterable[str],
    aliases: Mapping[str, tuple[str, ...]],
    given: Mapping[str, str],
    error: type[ExfilmlError],
) -> dict[str, list[str]]:
    """Say which columns of a file hold what, by a column map or by known names.

    Parameters
    ----------
    file
        For errors.
    names
        The columns of the file.
    aliases
        What is wanted, and how others name it.
    given
        The user's map: what is wanted, and the column of the file.
    error
        Class of errors.

    Returns
    -------
    dict
        What is wanted, and the columns found, in the order of the aliases.
    """
    names = list(names)
    folded = {fold(name): name for name in reversed(names)}
    for wanted, name in given.items():
        if name not in names:
            raise error(
                f"{file}: no column {shown(name)} for {wanted}; the file has "
                f"{', '.join(map(shown, names[:20]))}."
            )
    found = {}
    for wanted, known in aliases.items():
        if wanted in given:
            found[wanted] = [given[wanted]]
        else:
            taken = set(given.values())
            here = [folded[n] for n in known if n in folded]
            found[wanted] = [name for name in here if name not in taken]
    return found


def check_map(
    given: Mapping[str, str] | None, known: Iterable[str], error: type[ExfilmlError]
) -> dict[str, str]:
    """Refuse a column map that names what no file can say."""
    columns = dict(given or {})
    odd = [name for name in columns if name not in set(known)]
    if odd:
        raise error(
            f"column map: unknown {', '.join(map(shown, odd))}; known are "
            f"{', '.join(known)}."
        )
    return columns
