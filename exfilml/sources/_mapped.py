"""Tables of any tool, whose columns a column map explains (`_column_map`).

CSV, JSON (lines, arrays and documents, see `_documents`) and Parquet. Bytes of layer 2
have 14 bytes of Ethernet header taken off each packet; payload has the shortest headers
added, and stands in its own columns, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from exfilml.exceptions import SourceError
from exfilml.sources import _delimited
from exfilml.sources._column_map import ColumnMap
from exfilml.sources._delimited import TEXT, Layout
from exfilml.sources._documents import as_lines
from exfilml.sources._events import (
    Account,
    Made,
    Numbered,
    flows_of_records,
    parquet_tables,
    say_payload,
)
from exfilml.sources._jsonl import crashes_arrow
from exfilml.sources._lines import BadLines, Block, blocks, shown
from exfilml.sources._logs import flows_of, whole
from exfilml.sources._mapped_columns import flow_columns
from exfilml.sources._packed import Unpacked, open_plain, plain_head
from exfilml.sources._reading import Options, Reading
from exfilml.sources._vantages import VANTAGE


@dataclass(frozen=True)
class MappedReader:
    """Reads files by a map."""

    columns: ColumnMap
    NAME: ClassVar[str] = "column map"

    def detect(self, head: bytes) -> bool:
        """Say yes: who gives a map says what the files are."""
        return bool(head)

    def read(self, path: Path, options: Options) -> Reading:
        """Read a whole file."""
        return whole(self.stream(path, options))

    def stream(self, path: Path, options: Options) -> Iterator[Reading]:
        """Read a file piece by piece; the last reading says what was lost.

        Raises
        ------
        SourceError
            If columns are missing, not one record could be read, or nobody said where
            its times are local.
        """
        account = Account(path)
        head = plain_head(path, 1 << 12)
        kind = self.columns.format or _told_format(head)
        zone = self.columns.timezone or options.timezone

        def make(table: pa.Table, lines: Any) -> Made:
            columns = flow_columns(table, self.columns, zone, path)
            flows = flows_of(columns, lines, 0, account.bad)
            if self.columns.paired:
                return pd.DataFrame(), flows
            return flows.drop(columns=VANTAGE), pd.DataFrame()

        finished = say_payload if self.columns.layer == "payload" else lambda _: None
        if kind == "parquet":
            tables = self._parquet(path, account.bad)
            yield from flows_of_records(tables, make, account, options, finished)
            yield account.losses(None)
            return
        with open_plain(path, options.advance) as plain:
            tables = (
                self._csv(plain, path, account.bad)
                if kind == "csv"
                else self._json(plain, account.bad)
            )
            yield from flows_of_records(tables, make, account, options, finished)
            damage = plain.damage
        yield account.losses(damage)

    def _missing(self, path: Path, have: list[str]) -> SourceError | None:
        missing = [name for name in self.columns.wanted if name not in have]
        if not missing:
            return None
        return SourceError(
            f"{path}: no column {', '.join(map(shown, missing))}, which "
            f"{self.columns.source} names. There are "
            f"{', '.join(map(shown, have[:30]))}{' …' if len(have) > 30 else ''}."
        )

    def _parquet(self, path: Path, bad: BadLines) -> Iterator[Numbered]:
        from pyarrow import parquet

        try:
            have = parquet.read_schema(path).names
        except (pa.ArrowException, OSError):
            have = list(self.columns.wanted)
        error = self._missing(path, have)
        if error is not None:
            raise error
        for table, lines in parquet_tables(path, self.columns.wanted, bad):
            yield table.combine_chunks(), lines

    def _csv(self, plain: Unpacked, path: Path, bad: BadLines) -> Iterator[Numbered]:
        told = self.columns
        layout: Layout | None = None
        for block in blocks(plain, bad):
            part = block
            if layout is None:
                names = told.names
                if names is None:
                    line, _, rest = block.data.partition(b"\n")
                    text = line.decode("utf-8", "replace").rstrip("\r")
                    found = _delimited.split_line(text, told.delimiter, told.quote)
                    names = tuple(name.strip() for name in found)
                    part = Block.of(rest, block.first + 1)
                layout = self._layout(names, path)
            if not part.data or part.data.isspace():
                continue
            records = _delimited.read_block(part, layout, bad)
            if records is None:
                continue
            lines = records.lines
            if lines is None:
                lines = np.arange(part.first, part.first + records.table.num_rows)
            yield records.table.combine_chunks(), lines

    def _layout(self, names: tuple[str, ...], path: Path) -> Layout:
        error = self._missing(path, list(names))
        if error is not None:
            raise error
        twice = [name for name in self.columns.wanted if names.count(name) > 1]
        if twice:
            raise SourceError(
                f"{path}: several columns are called {', '.join(map(shown, twice))}. "
                f"Give all of them names in {self.columns.source}."
            )
        # Columns that nobody asks for may be called anything.
        every = [
            name if names.count(name) == 1 and name else f"\0{at}"
            for at, name in enumerate(names)
        ]
        wanted = dict.fromkeys(self.columns.wanted, TEXT)
        told = self.columns
        return Layout(
            every, wanted, frozenset(), told.delimiter, told.nulls, quote=told.quote
        )

    def _json(self, plain: Unpacked, bad: BadLines) -> Iterator[Numbered]:
        for block in blocks(as_lines(plain), bad):
            table = _json_at_once(block, self.columns.wanted)
            if table is not None:
                bad.lines += table.num_rows
                yield table, np.arange(block.first, block.first + table.num_rows)
                continue
            found = _json_by_line(block, self.columns.wanted, bad)
            if found is not None:
                yield found


def _told_format(head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in b"{[" else "csv"


def _json_at_once(block: Block, wanted: tuple[str, ...]) -> pa.Table | None:
    """Read a block of objects that are alike; None if they are not."""
    if crashes_arrow(block.data):
        return None
    try:
        table = arrow_json.read_json(
            pa.BufferReader(block.data),
            read_options=arrow_json.ReadOptions(block_size=1 << 22),
        )
        if not block.data.isascii() or b"\\u" in block.data:
            table.validate(full=True)
    except (pa.ArrowException, UnicodeError):
        return None
    if table.num_rows != block.lines:
        return None
    return pa.table({name: _within(table, name) for name in wanted}).combine_chunks()


def _within(table: pa.Table, name: str) -> Any:
    if name in table.column_names:
        return table.column(name)
    outer, _, rest = name.partition(".")
    if outer not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    values = table.column(outer)
    for part in rest.split("."):
        if not pa.types.is_struct(values.type) or values.type.get_field_index(part) < 0:
            return pa.nulls(table.num_rows, pa.string())
        values = pc.struct_field(values, part)
    return values


def _json_by_line(
    block: Block, wanted: tuple[str, ...], bad: BadLines
) -> Numbered | None:
    rows: list[list[str | None]] = []
    numbers: list[int] = []
    for number, line in enumerate(block.data.split(b"\n"), block.first):
        if not line.strip():
            continue
        bad.lines += 1
        try:
            record = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            bad.add(number, f"no JSON object: {shown(line)}")
            continue
        rows.append([_place(record, name) for name in wanted])
        numbers.append(number)
    if not rows:
        return None
    columns = {
        name: pa.array(values, pa.string())
        for name, values in zip(wanted, zip(*rows, strict=True), strict=True)
    }
    return pa.table(columns), np.array(numbers)


def _place(record: dict[str, Any], name: str) -> str | None:
    value: Any = record.get(name)
    if value is None:
        value = record
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    if value is None or isinstance(value, dict | list):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).encode("utf-8", "replace").decode()
