"""VPC flow logs of AWS, as text (default and custom formats) and as Parquet.

Fields: docs.aws.amazon.com, "Flow log records"; files: "Flow log files". Text has its
fields in the order of its first line, or, without one, in the default format of
version 2; before each line may stand the time at which CloudWatch took it in. Parquet
has the same names with underscores.

**Bytes** are "the number of bytes transferred during the flow". AWS does not say of
which layer; its examples have 84 bytes for each echo request, which are IP bytes, and
so they are taken. Records are not sampled. What AWS could not record (``SKIPDATA``),
and intervals without traffic (``NODATA``), are counted.

**Ends** are those of the packets (``pkt-srcaddr``, ``pkt-dstaddr``) where they are
logged: behind a NAT gateway the others are its own. What the gateway sends on in its
own name is another flow, of the gateway's address.

**Directions** are records of their own, and long flows come in one for each minute or
ten: `_vantages` pairs and sums them. What goes from interface to interface of the same
log is recorded at both: it counts once, see there. Without interfaces in the log,
``flow-direction`` tells the two apart. Logs of several files are told apart by nobody:
join them first (``cat``, ``zcat``).

**Flags** are SYN, SYN-ACK, FIN and RST alone, so that a reset counts as one before any
payload only if the packets were too short for some. A record that was rejected counts
as any other: its packets reached the interface, and no further.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources import _delimited
from exfilml.sources._delimited import TEXT, Layout
from exfilml.sources._events import (
    Account,
    Made,
    Numbered,
    flows_of_records,
    parquet_tables,
    whole_numbers,
)
from exfilml.sources._lines import BadLines, Block, blocks
from exfilml.sources._logs import flows_of, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._vantages import VANTAGE
from exfilml.sources._words import told_conversations

NAME: Final = "AWS VPC flow log"
_DEFAULT: Final = (
    *("version", "account-id", "interface-id", "srcaddr", "dstaddr", "srcport"),
    *("dstport", "protocol", "packets", "bytes", "start", "end", "action"),
    "log-status",
)
_NUMBERS: Final = frozenset(
    {"srcport", "dstport", "protocol", "packets", "bytes", "start", "end", "tcp-flags"}
)
_TEXTS: Final = frozenset(
    {"srcaddr", "dstaddr", "pkt-srcaddr", "pkt-dstaddr", "log-status", "interface-id"}
    | {"flow-direction", "tgw-attachment-id"}
)
NEEDED: Final = frozenset(
    {"srcaddr", "dstaddr", "srcport", "dstport", "protocol", "bytes", "start"}
)
_HEADER: Final = re.compile(
    rb"^(?=[a-z -]*\b(?:pkt-)?srcaddr\b)(?=[a-z -]*\bbytes\b)[a-z][a-z -]*\r?$",
    re.MULTILINE,
)
_RECORD: Final = re.compile(
    rb"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T\S+ )?[2-9] (?:[0-9]{12}|unknown|-) \S+ \S+ \S+ "
    rb"(?:\S+ ){7}(?:ACCEPT|REJECT|-) (?:OK|NODATA|SKIPDATA)\r?(?:\n|$)"
)
_TAKEN_IN: Final = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T\S+ ")
_SKIPPED: Final = {
    "SKIPDATA": "intervals of which AWS skipped records (SKIPDATA)",
    "NODATA": "intervals without traffic (NODATA)",
}
_PSH, _SYN_ACK = 8, 18


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are flow logs of a VPC, as text."""
    head = head.removeprefix(b"\xef\xbb\xbf")
    line = head.split(b"\n", 1)[0].rstrip(b"\r")
    return _HEADER.fullmatch(line) is not None or _RECORD.match(head) is not None


def is_table(names: frozenset[str]) -> bool:
    """Say from the names of its columns whether a Parquet file holds flow logs."""
    return {name.replace("-", "_") for name in NEEDED} <= names


def read(path: Path, options: Options) -> Reading:
    """Read a whole file."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a file piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If not one line could be read.
    """
    account = Account(path)
    with open_plain(path, options.advance) as plain:
        tables = _tables(blocks(plain, account.bad), account.bad)
        yield from _flows(tables, account, options)
    yield account.losses(plain.damage)


def stream_parquet(path: Path, options: Options) -> Iterator[Reading]:
    """Read a Parquet file piece by piece.

    Raises
    ------
    SourceError
        If the file is damaged.
    """
    account = Account(path)
    names = {name.replace("-", "_"): name for name in _NUMBERS | _TEXTS}
    tables = (
        (table.rename_columns([names[n] for n in table.column_names]), lines)
        for table, lines in parquet_tables(path, names, account.bad)
    )
    yield from _flows(tables, account, options)
    yield account.losses(None)


def _flows(
    tables: Iterator[Numbered], account: Account, options: Options
) -> Iterator[Reading]:
    make = functools.partial(_made, account=account)
    return flows_of_records(tables, make, account, options, _say_state)


def _tables(parts: Iterator[Block], bad: BadLines) -> Iterator[Numbered]:
    """Read blocks of text, in the order of fields that the last header gave."""
    names = list(_DEFAULT)
    given = False
    for block in parts:
        # Blocks without a line of names are told faster by a word of it.
        named = _HEADER.finditer(block.data) if b"srcaddr" in block.data else ()
        cuts = sorted({0, *(m.start() for m in named)})
        number = block.first
        for start, stop in itertools.pairwise([*cuts, len(block.data)]):
            part = Block.of(block.data[start:stop], number)
            number += part.lines
            line, _, rest = part.data.partition(b"\n")
            if _HEADER.fullmatch(line.rstrip(b"\r")):
                names, given = line.decode().split(), True
                part = Block.of(rest, part.first + 1)
            if not part.data or part.data.isspace():
                continue
            taken_in = not given and _TAKEN_IN.match(part.data) is not None
            layout = _layout(["taken-in", *names] if taken_in else names)
            if layout is None:
                missing = ", ".join(sorted(NEEDED - set(names)))
                reason = f"follows names without {missing}, or that repeat themselves"
                bad.lines += part.lines
                bad.add(part.first, reason, part.lines)
                continue
            found = _delimited.read_block(part, layout, bad)
            if found is not None:
                lines = found.lines
                if lines is None:
                    rows = found.table.num_rows
                    lines = np.arange(part.first, part.first + rows)
                yield found.table.combine_chunks(), lines


def _layout(names: list[str]) -> Layout | None:
    # Logs of the ends of packets alone are complete too.
    have = set(names) | {name.removeprefix("pkt-") for name in names}
    if NEEDED - have or len(set(names)) != len(names):
        return None
    wanted = {
        name: pa.int64() if name in _NUMBERS else TEXT
        for name in names
        if name in _NUMBERS | _TEXTS
    }
    return Layout(names, wanted, NEEDED & set(names), " ", ("-", ""))


def _made(table: pa.Table, lines: Any, account: Account) -> Made:
    for word, reason in _SKIPPED.items():
        # Formats without the status say so by their silence.
        status = pc.fill_null(
            pc.equal(_text(table, "log-status"), word), word == "NODATA"
        )
        empty = pc.is_null(_number(table, "bytes"))
        kept = pc.invert(pc.and_(status, empty))
        table, lines = account.keep(reason, kept, table, lines)
    protocol = _number(table, "protocol")
    start, end = _number(table, "start"), _number(table, "end")
    zero = pa.repeat(pa.scalar(0, pa.int64()), table.num_rows)
    interface = pc.coalesce(
        _text(table, "interface-id"), _text(table, "tgw-attachment-id")
    )
    flags = _number(table, "tcp-flags")
    # Of two that begin in the same second, who sent SYN-ACK comes after; a microsecond
    # is the least that says so.
    answered = pc.equal(pc.bit_wise_and(flags, _SYN_ACK), _SYN_ACK)
    answers = pc.fill_null(answered, False).cast(pa.int64())
    columns: dict[str, Any] = {
        "start": pc.add(pc.multiply(_within(start), 1_000_000), answers),
        "duration_s": pc.subtract(
            pc.subtract(end, start).cast(pa.float64(), safe=False),
            # It still ends when it ended.
            pc.if_else(pc.greater(end, start), pc.divide(answers, 1e6), 0.0),
        ),
        "protocol": protocol,
        "src_bytes": _number(table, "bytes"),
        "dst_bytes": zero,
        "tcp_flags": pc.if_else(
            pc.equal(protocol, 6), flags, pa.scalar(None, pa.int64())
        ),
        "sensor": interface,
        VANTAGE: pc.coalesce(interface, _text(table, "flow-direction")),
    }
    for way in ("src", "dst"):
        ends = pc.coalesce(_text(table, f"pkt-{way}addr"), _text(table, f"{way}addr"))
        columns[f"{way}_ip"] = ends.dictionary_encode()
        columns[f"{way}_port"] = _number(table, f"{way}port")
    if "packets" in table.column_names:
        packets = _number(table, "packets")
        none = pc.if_else(pc.is_valid(packets), zero, None)
        columns |= {"src_packets": packets, "dst_packets": none}
    return pd.DataFrame(), flows_of(columns, lines, 0, account.bad)


def _text(table: pa.Table, name: str) -> Any:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    texts = table.column(name).combine_chunks().cast(pa.string())
    return pc.if_else(pc.equal(texts, "-"), pa.scalar(None, pa.string()), texts)


def _number(table: pa.Table, name: str) -> Any:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, pa.int64())
    return whole_numbers(table.column(name).combine_chunks())


def _within(seconds: Any) -> Any:
    """Leave out what no clock shows, and would not fit when multiplied."""
    return pc.if_else(pc.less(pc.abs(seconds), 10**11), seconds, None)


def _say_state(flows: pd.DataFrame) -> None:
    """Say how conversations went, of which no PSH is logged."""
    if "src_packets" not in flows or "tcp_flags" not in flows:
        return
    # With the longest headers that there are, still payload.
    longest = np.where(flows["src_ip"].str.contains(":"), 100, 120)
    carried = np.zeros(len(flows), dtype=bool)
    for way in ("src", "dst"):
        packets = flows[f"{way}_packets"].fillna(0).to_numpy(dtype=np.int64)
        carried |= flows[f"{way}_bytes"].to_numpy() > packets * longest
    flags = flows["tcp_flags"].where(~carried, flows["tcp_flags"] | _PSH)
    flows["conn_state"] = told_conversations(flows.assign(tcp_flags=flags))
