"""Flows as NFStream writes them: ``NFStreamer(...).to_csv``, and stored as Parquet.

Fields: nfstream.org, "NFStream flow features". Flows that the active timeout cut are
joined again (`_pairs`), as in captures.

**Bytes** depend on ``accounting_mode``, which the file does not tell: 0, the default,
counts link-layer bytes, 1 IP, 2 transport, 3 payload. No TCP packet has less than 54
bytes with an Ethernet header, 40 with IP's and 20 with its own: where the lightest
direction of a TCP flow in the first rows has less on average, the counts are of a
higher layer. Otherwise they are taken as link-layer bytes, and Ethernet headers are
taken off. Counts of IP whose first rows have long packets alone come out 14 bytes a
packet too low for that.

TCP flags need ``statistical_analysis``. ``app_verified`` stays empty: our own check
needs the payload.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._delimited import TEXT
from exfilml.sources._events import (
    Account,
    Made,
    Numbered,
    flows_of_records,
    one,
    parquet_tables,
    whole_numbers,
)
from exfilml.sources._headed import Form, read_blocks
from exfilml.sources._lines import ahead, blocks
from exfilml.sources._logs import bare_bytes, flows_of, whole, with_headers
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._vantages import VANTAGE
from exfilml.sources._words import is_version_6

NAME: Final = "NFStream's table"
_COUNTS: Final = (
    *("src_port", "dst_port", "protocol", "bidirectional_first_seen_ms"),
    *("bidirectional_last_seen_ms", "src2dst_packets", "src2dst_bytes"),
    *("dst2src_packets", "dst2src_bytes"),
)
_BITS: Final = {
    f"bidirectional_{name}_packets": 1 << bit
    for bit, name in enumerate(("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"))
}
_TEXTS: Final = {
    "application_name": "app",
    "requested_server_name": "server_name",
    "client_fingerprint": "fingerprint",
    "user_agent": "user_agent",
    "content_type": "content_type",
    "system_process_name": "process",
}
_KINDS: Final = {
    "src_ip": TEXT,
    "dst_ip": TEXT,
    **dict.fromkeys((*_COUNTS, *_BITS), pa.int64()),
    **dict.fromkeys(_TEXTS, pa.string()),
}
FORM: Final = Form(
    re.compile(
        rb"^(?:[\w.]*,)*src_ip,(?:\w+,)+bidirectional_first_seen_ms,[\w,.]*\r?$",
        re.MULTILINE,
    ),
    None,
    {name: (frozenset({name}), kind) for name, kind in _KINDS.items()},
    frozenset({"src_ip", "dst_ip", *_COUNTS}),
    quote='"',
)
_LINK, _IP, _TRANSPORT, _PAYLOAD = range(4)
_LEAST: Final = ((20, _PAYLOAD), (40, _TRANSPORT), (54, _IP))


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are flows of NFStream."""
    line = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].rstrip(b"\r")
    return FORM.header.fullmatch(line) is not None and b"src2dst_bytes" in line


def is_table(names: frozenset[str]) -> bool:
    """Say from the names of its columns whether a Parquet file holds such flows."""
    return names >= FORM.needed


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
        tables = (
            (records.table.combine_chunks(), _lines(records, first))
            for records, first in ahead(
                read_blocks(blocks(plain, account.bad), FORM, account.bad)
            )
        )
        yield from _read(tables, account, options)
        damage = plain.damage
    yield account.losses(damage)


def _lines(records: Any, first: int) -> Any:
    if records.lines is not None:
        return records.lines
    return pd.RangeIndex(first, first + records.table.num_rows).to_numpy()


def stream_parquet(path: Path, options: Options) -> Iterator[Reading]:
    """Read a Parquet file piece by piece.

    Raises
    ------
    SourceError
        If the file is damaged.
    """
    account = Account(path)
    yield from _read(parquet_tables(path, _KINDS, account.bad), account, options)
    yield account.losses(None)


def _read(
    tables: Iterator[Numbered], account: Account, options: Options
) -> Iterator[Reading]:
    make = functools.partial(_made, account=account, counted=_Counted())
    return flows_of_records(tables, make, account, options)


@dataclass(slots=True)
class _Counted:
    """Which layer's bytes were counted, as far as the first rows tell."""

    layer: int | None = None

    def of(self, columns: dict[str, Any]) -> int:
        """Return the layer, found out from the first rows."""
        if self.layer is None:
            self.layer = _LINK
            for way in ("src", "dst"):
                packets = columns[f"{way}_packets"]
                tcp = pc.and_(pc.equal(columns["protocol"], 6), pc.greater(packets, 0))
                mean = pc.divide(
                    columns[f"{way}_bytes"].filter(tcp).cast(pa.float64(), safe=False),
                    packets.filter(tcp).cast(pa.float64(), safe=False),
                )
                least = pc.min(mean).as_py()
                found = next(
                    (n for most, n in _LEAST if least is not None and least < most),
                    _LINK,
                )
                self.layer = max(self.layer, found)
        return self.layer


def _made(table: pa.Table, lines: Any, account: Account, counted: _Counted) -> Made:
    def number(name: str) -> Any:
        return whole_numbers(one(table, name))

    def text(name: str) -> Any:
        texts = one(table, name).cast(pa.string())
        none = pc.is_in(texts, pa.array(["", "Unknown", "nan"]))
        return pc.if_else(none, pa.scalar(None, pa.string()), texts)

    start, end = (number(f"bidirectional_{at}_seen_ms") for at in ("first", "last"))
    start = pc.if_else(pc.less(pc.abs(start), 10**15), start, None)
    protocol = number("protocol")
    src_ip = one(table, "src_ip").cast(pa.string()).dictionary_encode()
    columns: dict[str, Any] = {
        "start": pc.multiply(start, 1000),
        "duration_s": pc.divide(
            pc.subtract(end, start).cast(pa.float64(), safe=False), 1e3
        ),
        "src_ip": src_ip,
        "src_port": number("src_port"),
        "dst_ip": one(table, "dst_ip").cast(pa.string()).dictionary_encode(),
        "dst_port": number("dst_port"),
        "protocol": protocol,
        **{our: text(name) for name, our in _TEXTS.items()},
    }
    for way, name in (("src", "src2dst"), ("dst", "dst2src")):
        columns[f"{way}_packets"] = number(f"{name}_packets")
        columns[f"{way}_bytes"] = number(f"{name}_bytes")
    layer = counted.of(columns)
    version6 = is_version_6(src_ip)
    for way in ("src", "dst"):
        octets, packets = columns[f"{way}_bytes"], columns[f"{way}_packets"]
        if layer == _LINK:
            octets = bare_bytes(octets, packets)
        elif layer == _TRANSPORT:
            header = pc.if_else(version6, 40, 20)
            octets = pc.add(octets, pc.multiply(packets, header))
        elif layer == _PAYLOAD:
            octets = with_headers(octets, packets, protocol, version6)
        columns[f"{way}_bytes"] = octets
    columns["tcp_flags"] = _flags(table, protocol)
    columns[VANTAGE] = pa.nulls(table.num_rows, pa.string())
    return pd.DataFrame(), flows_of(columns, lines, 0, account.bad)


def _flags(table: pa.Table, protocol: Any) -> Any:
    """Return the flags that any packet had, where they were counted."""
    if not set(_BITS) <= set(table.column_names):
        return pa.nulls(table.num_rows, pa.int64())
    flags = pa.repeat(pa.scalar(0, pa.int64()), table.num_rows)
    for name, bit in _BITS.items():
        seen = pc.greater(pc.fill_null(whole_numbers(one(table, name)), 0), 0)
        flags = pc.add(flags, pc.if_else(seen, bit, 0))
    return pc.if_else(pc.equal(protocol, 6), flags, pa.scalar(None, pa.int64()))
