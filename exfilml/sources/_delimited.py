"""Lines of separated fields into Arrow tables, fast where all is well.

Arrow reads a block at once and refuses it at the first line that does not fit. Only
then is the block taken apart line by line, still by whole columns, to say which lines
those are. Fields may be quoted, as RFC 4180 has it, where the format says so; a quoted
field that goes on in the next line is no record.
"""

from __future__ import annotations

import csv as python_csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from exfilml.sources._lines import BadLines, Block, shown

_WHOLE: Final = r"^\s*[+-]?[0-9]{1,18}\s*$"
_DECIMAL: Final = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*$"
TEXT: Final = pa.dictionary(pa.int32(), pa.string())
# A local time; a text where it is read line by line.
TIME: Final = pa.timestamp("us")

# Bytes that are taken apart line by line at once.
AT_ONCE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """How lines are made up.

    Attributes
    ----------
    names
        All fields of a line, in order.
    wanted
        The fields to read, and their Arrow types: int64, float64, string, `TEXT` or
        `TIME`.
    needed
        Fields without which a line is no record.
    separator
        Between fields, one character.
    nulls
        Texts that mean "no value".
    quote
        What stands around fields that hold the separator, and twice in a field for
        itself; None where nothing does.
    """

    names: Sequence[str]
    wanted: Mapping[str, Any]
    needed: frozenset[str]
    separator: str
    nulls: Sequence[str] = field(default=("",))
    quote: str | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """A table, and the number of the line that each row stands on."""

    table: pa.Table
    lines: Any


def read_block(block: Block, layout: Layout, bad: BadLines) -> Records | None:
    """Read a block; count lines that cannot be read. None if nothing is left.

    ``lines`` is None where all is well: rows are lines then.
    """
    if block.data.isspace():
        return None
    sound = read_sound(block, layout, bad)
    if sound is not None:
        return sound
    # Lines may be short, and each of them takes memory of its own.
    parts = [
        records
        for part in block.parts(AT_ONCE)
        if (records := line_by_line(part, layout, bad)) is not None
    ]
    if len(parts) < 2:
        return parts[0] if parts else None
    lines = np.concatenate([part.lines for part in parts])
    return Records(pa.concat_tables([part.table for part in parts]), lines)


def read_sound(block: Block, layout: Layout, bad: BadLines) -> Records | None:
    """Read a block of nothing but records; None if it is none."""
    table = _at_once(block.data, layout)
    if table is None or table.num_rows != block.lines:
        return None
    bad.lines += table.num_rows
    return Records(table, None)


def _at_once(data: bytes, layout: Layout) -> pa.Table | None:
    try:
        return csv.read_csv(
            pa.BufferReader(data),
            read_options=csv.ReadOptions(
                column_names=layout.names, block_size=max(len(data), 1)
            ),
            parse_options=csv.ParseOptions(
                delimiter=layout.separator,
                quote_char=layout.quote or False,
                escape_char=False,
            ),
            convert_options=csv.ConvertOptions(
                include_columns=list(layout.wanted),
                column_types=dict(layout.wanted),
                null_values=list(layout.nulls),
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, UnicodeError):
        return None


def line_by_line(block: Block, layout: Layout, bad: BadLines) -> Records | None:
    """Read a block in which something is wrong."""
    texts = pa.array(block.data.decode("utf-8", "replace").split("\n"), pa.string())
    texts = pc.utf8_rtrim(texts, "\r")
    lines = pa.array(np.arange(block.first, block.first + len(texts)))
    full = pc.not_equal(pc.utf8_trim_whitespace(texts), "")
    texts, lines = texts.filter(full), lines.filter(full)
    bad.lines += len(texts)
    width = len(layout.names)
    split, fields = _split(texts, layout)
    odd = pc.not_equal(fields, width)
    if pc.any(odd).as_py():
        at = pc.index(odd, value=True).as_py()
        count = fields[at].as_py()
        what = f"{count} of {width} fields" if count else "a quote that does not close"
        reason = f"{what}: {shown(texts[at].as_py())}"
        bad.add(lines[at].as_py(), reason, pc.sum(odd).as_py())
        even = pc.invert(odd)
        texts, lines, split = texts.filter(even), lines.filter(even), split.filter(even)
    if not len(texts):
        return None
    split = split.flatten()
    columns: dict[str, Any] = {}
    fit = np.ones(len(texts), dtype=bool)
    for name, kind in layout.wanted.items():
        at = layout.names.index(name)
        values = split.take(pa.array(np.arange(at, len(split), width)))
        known = pc.invert(pc.is_in(values, pa.array(list(layout.nulls), pa.string())))
        values = pc.if_else(known, values, pa.scalar(None, pa.string()))
        values, wrong = _convert(values, kind)
        wrong &= fit
        if name in layout.needed:
            if wrong.any():
                row = int(wrong.argmax())
                text = split[row * width + at].as_py()
                reason = f"{name} is no number: {shown(text)}"
                bad.add(lines[row].as_py(), reason, int(wrong.sum()))
            fit &= ~wrong
        else:
            bad.blanked += int(wrong.sum())
        columns[name] = values
    kept = pa.array(fit)
    return Records(pa.table(columns).filter(kept), lines.filter(kept).to_numpy())


def _split(texts: Any, layout: Layout) -> tuple[Any, Any]:
    """Take lines apart; say how many fields each has, 0 where a quote stays open."""
    if layout.quote is None or not _holds(texts, layout.quote):
        split = pc.split_pattern(texts, layout.separator)
        return split, pc.list_value_length(split)
    # Each line for itself: a quote that does not close must not take the next in.
    rows = [
        split_line(text, layout.separator, layout.quote) for text in texts.to_pylist()
    ]
    split = pa.array(rows, pa.list_(pa.string()))
    return split, pc.list_value_length(split)


def _holds(texts: Any, mark: str) -> bool:
    return bool(pc.any(pc.match_substring(texts, mark)).as_py())


def split_line(text: str, separator: str, quote: str | None) -> list[str]:
    """Take a line apart; nothing is left of one in which a quote stays open."""
    if quote is None:
        return text.split(separator)
    fields = python_csv.reader(
        [text], delimiter=separator, quotechar=quote, strict=True
    )
    try:
        return next(fields, [])
    except python_csv.Error:
        return []


def _convert(values: Any, kind: Any) -> tuple[Any, Any]:
    """Convert texts; say which are no numbers, and leave those out."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        pattern = _WHOLE if pa.types.is_integer(kind) else _DECIMAL
        good = pc.fill_null(pc.match_substring_regex(values, pattern), True)
        values = pc.if_else(good, values, pa.scalar(None, pa.string()))
        trimmed = pc.utf8_ltrim(pc.utf8_trim_whitespace(values), "+")
        return trimmed.cast(kind), ~good.to_numpy(zero_copy_only=False)
    wrong = np.zeros(len(values), dtype=bool)
    return (
        values.dictionary_encode() if pa.types.is_dictionary(kind) else values
    ), wrong


def split_header(line: str, separator: str) -> list[str]:
    """Take the names of a header line apart."""
    return [
        name.strip() for name in re.split(re.escape(separator), line.rstrip("\r\n"))
    ]
