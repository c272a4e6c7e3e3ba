r"""Logs of Zeek, whichever of them: fields of TSV or JSON lines as Arrow tables.

TSV explains itself: ``#separator``, ``#unset_field``, ``#empty_field`` and ``#fields``
hold for the lines that follow, and may come again, as in rotated logs that were
joined. Bytes outside the printable are written ``\x09`` (LogAscii in Zeek's
documentation, docs.zeek.org/en/current/log-formats.html). JSON lines have no header;
fields without a value are left out, and times are seconds, milliseconds or ISO 8601 by
``LogAscii::json_timestamps``.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources import _delimited, _jsonl
from exfilml.sources._delimited import TEXT, Layout, Records
from exfilml.sources._lines import BadLines, Block
from exfilml.sources._logs import microseconds

_FIELDS: Final = re.compile(rb"^#fields[\t ,](.*)$", re.MULTILINE)
_ESCAPED: Final = re.compile(r"\\x([0-9a-fA-F]{2})")
# Seconds of the year 5138; what is larger counts milliseconds.
_MOST_SECONDS: Final = 1e11


def fields_of(head: bytes) -> frozenset[str]:
    """Return the fields that a log of Zeek begins with; none if it is no such log."""
    if head.lstrip().startswith(b"#separator"):
        found = _FIELDS.search(head)
        text = found[1].decode("utf-8", "replace") if found else ""
        return frozenset(re.split(r"[\t,| ;]", text.strip()))
    if head.lstrip().startswith(b"{"):
        try:
            record = json.loads(head.lstrip().split(b"\n", 1)[0])
        except (ValueError, RecursionError):
            return frozenset()
        # No other format writes these names.
        if isinstance(record, dict) and "ts" in record:
            return frozenset(record)
    return frozenset()


@dataclass(slots=True)
class _Header:
    """What the lines that begin with ``#`` have said so far."""

    separator: str = "\t"
    unset: str = "-"
    empty: str = "(empty)"
    names: list[str] = field(default_factory=list)

    def take(self, line: str) -> None:
        key, _, value = line[1:].rstrip("\r\n").partition(" ")
        if key == "separator" or line.startswith("#separator"):
            value = line.rstrip("\r\n")[len("#separator") :].strip(" ")
            self.separator = _unescape(value.strip() or "\t")[:1]
            return
        name, _, value = line[1:].rstrip("\r\n").partition(self.separator)
        if name == "unset_field":
            self.unset = value
        elif name == "empty_field":
            self.empty = value
        elif name == "fields":
            self.names = value.split(self.separator)


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Fields to read of a log.

    Attributes
    ----------
    types
        Arrow types; a list for sets and vectors.
    needed
        Fields without which a line is no record.
    """

    types: Mapping[str, Any]
    needed: frozenset[str]


def read_blocks(
    blocks: Iterator[Block], wanted: Wanted, bad: BadLines
) -> Iterator[tuple[Records, int]]:
    """Read blocks of a log; yield records and the number of their first line."""
    header = _Header()
    schema: pa.Schema | None = None
    for at, given in enumerate(blocks):
        block = given
        if at == 0:
            # Some tools leave blanks before the first line.
            blank = len(block.data) - len(block.data.lstrip())
            skipped = block.data[:blank].count(b"\n")
            block = Block.of(block.data[blank:], block.first + skipped)
            if block.data.startswith(b"{"):
                schema = _json_schema(block.data, wanted)
        if schema is not None:
            records = _jsonl.read_block(block, schema, wanted.needed, bad)
            if records is not None:
                yield Records(_finished(records.table), records.lines), block.first
            continue
        # What stands under the same names is read together, however often they are
        # repeated.
        parts = _parts(block, header)
        for told, group in itertools.groupby(parts, lambda _: replace(header)):
            for records, first in _read_parts(list(group), told, wanted, bad):
                yield Records(_finished(records.table), records.lines), first


def _json_schema(data: bytes, wanted: Wanted) -> pa.Schema:
    quoted = re.match(rb'[^\n]*"ts"\s*:\s*"', data)
    kinds = {
        name: pa.string() if kind == TEXT else kind
        for name, kind in wanted.types.items()
    }
    if quoted:
        kinds["ts"] = pa.string()
    return pa.schema(kinds)


def _parts(block: Block, header: _Header) -> Iterator[Block]:
    """Cut a block where a header stands in it; take the header's word on the way."""
    data = block.data
    # One byte is found faster than two.
    if b"#" not in data:
        yield block
        return
    number, start = block.first, 0
    at = 0 if data.startswith(b"#") else data.find(b"\n#") + 1
    while at or (start == 0 and data.startswith(b"#")):
        if at > start:
            part = Block.of(data[start:at], number)
            yield part
            number += part.lines
        end = data.find(b"\n", at)
        line = data[at:] if end < 0 else data[at:end]
        header.take(line.decode("utf-8", "replace"))
        number += 1
        start = len(data) if end < 0 else end + 1
        at = start if data.startswith(b"#", start) else data.find(b"\n#", start) + 1
    if start < len(data):
        yield Block.of(data[start:], number)


def _read_parts(
    parts: list[Block], header: _Header, wanted: Wanted, bad: BadLines
) -> Iterator[tuple[Records, int]]:
    missing = sorted(wanted.needed - set(header.names))
    doubled = len(set(header.names)) != len(header.names)
    if missing or doubled:
        what = (
            f"without {', '.join(missing)}" if missing else "that names a field twice"
        )
        for part in parts:
            lines = [line for line in part.data.split(b"\n") if line.strip()]
            bad.lines += len(lines)
            bad.add(part.first, f"follows a #fields line {what}", len(lines))
        return
    layout = Layout(
        header.names,
        {
            name: pa.string() if _is_text(kind) else kind
            for name, kind in wanted.types.items()
            if name in header.names
        },
        wanted.needed,
        header.separator,
        (header.unset, header.empty, ""),
    )
    if len(parts) > 1:
        data = b"".join(part.data for part in parts)
        records = _delimited.read_sound(Block.of(data, parts[0].first), layout, bad)
        if records is not None:
            numbers = [np.arange(p.first, p.first + p.lines) for p in parts]
            yield Records(records.table, np.concatenate(numbers)), parts[0].first
            return
    for part in parts:
        records = _delimited.read_block(part, layout, bad)
        if records is not None:
            yield records, part.first


def _is_text(kind: Any) -> bool:
    """Whether TSV holds it as a text: sets joined with commas, T and F."""
    return bool(pa.types.is_list(kind) or pa.types.is_boolean(kind))


def _finished(table: pa.Table) -> pa.Table:
    """Return a table with lists as texts, escapes undone and times in microseconds."""
    for at, name in enumerate(table.column_names):
        values = table.column(name)
        if name == "ts":
            table = table.set_column(at, name, _microseconds(values))
        elif pa.types.is_list(values.type):
            table = table.set_column(at, name, pc.binary_join(values, ","))
        elif values.type == pa.string():
            escaped = pc.match_substring(values, "\\x")
            if pc.any(escaped).as_py():
                texts = [
                    None if t is None else _unescape(t) for t in values.to_pylist()
                ]
                table = table.set_column(at, name, pa.array(texts, pa.string()))
    return table


def _microseconds(values: Any) -> Any:
    if pa.types.is_string(values.type):
        return microseconds(values)
    factor = pc.if_else(pc.greater(values, _MOST_SECONDS), 1e3, 1e6)
    return pc.round(pc.multiply(values, factor))
