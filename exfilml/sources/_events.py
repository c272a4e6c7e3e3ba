"""What readers of clouds' and platforms' records share: from tables to flows.

A reader turns tables of its records into flows that are complete and records that are
to be paired; what it passes over it counts, with a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from exfilml.exceptions import SourceError
from exfilml.sources import _jsonl
from exfilml.sources._documents import as_lines
from exfilml.sources._lines import BadLines, blocks
from exfilml.sources._logs import losses, most_payload
from exfilml.sources._packed import Unpacked
from exfilml.sources._reading import Options, Reading
from exfilml.sources._vantages import Vantages
from exfilml.sources._words import told_conversations

PASSED_OVER: Final = "with records that were passed over"
_ROWS: Final = 1 << 16
_WHOLE: Final = r"^-?[0-9]{1,18}$"


@dataclass(slots=True)
class Account:
    """What became of a file's records.

    Attributes
    ----------
    path
        The file.
    bad
        Its lines, and those that could not be read.
    flows
        How many flows they made.
    passed
        How many records were passed over, by reason.
    notes
        What else is to be said: by kind, a sentence and how many records it is about.
    """

    path: Path
    bad: BadLines = field(default_factory=BadLines)
    flows: int = 0
    passed: Counter[str] = field(default_factory=Counter)
    notes: dict[str, tuple[str, int]] = field(default_factory=dict)

    def keep(
        self, reason: str, kept: Any, table: pa.Table, lines: Any
    ) -> tuple[pa.Table, Any]:
        """Keep some records, and count the others under a reason."""
        kept = pc.fill_null(kept, False)
        wanted = kept.to_numpy(zero_copy_only=False)
        self.pass_over(reason, int((~wanted).sum()))
        if wanted.all():
            return table, lines
        return table.filter(kept).combine_chunks(), lines[wanted]

    def pass_over(self, reason: str, count: int) -> None:
        """Count records that are passed over."""
        if count:
            self.passed[reason] += count

    def note(self, kind: str, text: str, count: int) -> None:
        """Count records of which something is to be said."""
        if count:
            self.notes[kind] = (text, self.notes.get(kind, ("", 0))[1] + count)

    def losses(self, damage: str | None) -> Reading:
        """Say what was lost, as the last reading of a stream."""
        reading = losses(self.path, self.bad, damage, self.flows)
        told = list(reading.losses)
        if self.passed:
            reasons = "; ".join(f"{n:,} {why}" for why, n in self.passed.items())
            text = f"{self.path}: of {self.bad.lines:,} records passed over: {reasons}"
            told.append((PASSED_OVER, text))
        for kind, (text, count) in self.notes.items():
            told.append((kind, f"{self.path}: {count:,} {text}"))
        return Reading(reading.flows, tuple(told))


Numbered = tuple[pa.Table, Any]
Made = tuple[pd.DataFrame, pd.DataFrame]


def flows_of_records(
    tables: Iterable[Numbered],
    make: Callable[[pa.Table, Any], Made],
    account: Account,
    options: Options,
    finished: Callable[[pd.DataFrame], None] = lambda _: None,
    last: Callable[[], pd.DataFrame] = pd.DataFrame,
) -> Iterator[Reading]:
    """Read tables of records; the caller yields what was lost.

    Parameters
    ----------
    tables
        Tables, and the number of the line of each row.
    make
        Makes complete flows of a table, and records to be paired.
    account
        Of the file.
    options
        How long silence is.
    finished
        Adds to flows what only their sums tell.
    last
        Gives the flows that were held back.

    Raises
    ------
    SourceError
        If a column is of a type that tells nothing.
    """
    pairs = Vantages(options.idle_timeout)
    name = account.path.name

    def told(flows: pd.DataFrame) -> Iterator[Reading]:
        if not len(flows):
            return
        finished(flows)
        if "tcp_flags" not in flows:
            flows["tcp_flags"] = pd.array([pd.NA] * len(flows), dtype="Int64")
        if "conn_state" not in flows:
            flows["conn_state"] = told_conversations(flows)
        known = flows["sensor"].fillna(name) if "sensor" in flows else name
        flows["sensor"] = known
        account.flows += len(flows)
        yield Reading(flows)

    for table, lines in tables:
        try:
            complete, halves = make(table, lines)
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise SourceError(
                f"{account.path}: a column is of a type that cannot be read: {reason}"
            ) from error
        yield from told(complete)
        yield from told(pairs.add(halves))
    yield from told(last())
    yield from told(pairs.finish())


def json_tables(
    plain: Unpacked, schema: pa.Schema, bad: BadLines, loose: pa.Schema | None = None
) -> Iterator[Numbered]:
    """Read JSON in tables of a schema, or of another where some writers differ."""
    for block in blocks(as_lines(plain), bad):
        records = _jsonl.read_block(block, schema, frozenset(), bad, loose)
        if records is None:
            continue
        lines = records.lines
        if lines is None:
            lines = np.arange(block.first, block.first + records.table.num_rows)
        yield records.table.combine_chunks(), lines


def parquet_tables(
    path: Path, wanted: Iterable[str], bad: BadLines
) -> Iterator[Numbered]:
    """Read columns of a Parquet file, those of them that it has.

    Raises
    ------
    SourceError
        If the file is damaged.
    """
    first = 1
    try:
        with parquet.ParquetFile(path) as file:
            known = set(file.schema_arrow.names)
            names = [name for name in wanted if name in known]
            for batch in file.iter_batches(_ROWS, columns=names):
                table = pa.Table.from_batches([batch])
                bad.lines += table.num_rows
                yield table, np.arange(first, first + table.num_rows)
                first += table.num_rows
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(f"{path}: not a readable Parquet file: {reason}") from error


def whole_numbers(values: Any) -> Any:
    """Return counts, which some writers put into texts; None where there is none."""
    if pa.types.is_integer(values.type):
        return values.cast(pa.int64(), safe=False)
    if pa.types.is_floating(values.type):
        small = pc.less(pc.abs(values), 2.0**62)
        kept = pc.if_else(small, values, pa.scalar(None, values.type))
        return pc.floor(kept).cast(pa.int64(), safe=False)
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.int64())
    texts = values.cast(pa.string())
    good = pc.fill_null(pc.match_substring_regex(texts, _WHOLE), False)
    return pc.if_else(good, texts, pa.scalar(None, pa.string())).cast(pa.int64())


def one(table: pa.Table, *place: str) -> Any:
    """Return a field, or a field within fields; all None where there is none."""
    if place[0] not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    values = table.column(place[0])
    for name in place[1:]:
        kind = values.type
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return pa.nulls(table.num_rows, pa.string())
        values = pc.struct_field(values, name)
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def say_payload(flows: pd.DataFrame) -> None:
    """Say what was counted: headers, which were added, are taken off again."""
    version6 = pa.array(flows["src_ip"].str.contains(":", regex=False).to_numpy())
    protocol = pa.array(flows["protocol"].to_numpy())
    for way in ("src", "dst"):
        octets = pa.array(flows[f"{way}_bytes"].to_numpy())
        packets = pa.array(flows[f"{way}_packets"].fillna(0).to_numpy(dtype="int64"))
        payload = most_payload(octets, packets, protocol, version6)
        flows[f"{way}_payload_bytes"] = pd.array(payload.to_numpy(), dtype="Int64")
