"""Zeek's conn.log, in TSV or JSON lines, with the names that its other logs know.

Fields and their meaning: docs.zeek.org, script reference of
base/protocols/conn/main.zeek (``Conn::Info``), and packages of labelled logs.

**Bytes** are ``orig_ip_bytes`` and ``resp_ip_bytes``: "IP level bytes (as seen on the
wire, taken from the IP total_length header field)", which is what the flows table
holds. ``orig_bytes`` and ``resp_bytes`` are payload, "for TCP taken from sequence
numbers and might be inaccurate": they go to the payload columns. Lost packets and
retransmission games make them larger than the packets that Zeek counted can have
carried; such a count is lowered to what these can have carried, and said. A log
without the IP bytes (``use_conn_size_analyzer=F``) is read with payload for bytes, and
that is said too.

**Application** is ``service``, "confirmed protocol(s)": Zeek's parser accepted what it
saw. Our own structural check of the payload, which `exfilml.schema` asks of
``app_verified``, needs the payload, which no log holds: the column stays empty, and the
port–protocol mismatch does not speak. Of several protocols the first that Zeek did not
drop counts; Zeek writes a minus before one that it dropped.

**Conversation** follows the rules of captures, from ``history`` (SYN, FIN, RST and
payload of either side) and the packet counts; ``conn_state`` speaks where history is
missing. The side whose payload comes first in ``history`` spoke first, unless Zeek
turned the connection round on the way (``^``). ``tcp_flags`` holds what history tells:
SYN, FIN, RST, ACK; PSH and URG are not logged.

ICMP has port 0: Zeek writes type and code there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._delimited import TEXT
from exfilml.sources._lines import BadLines, ahead, blocks
from exfilml.sources._logs import checked, losses, most_payload, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._words import (
    APPLICATIONS,
    coded,
    is_version_6,
    protocol_numbers,
)
from exfilml.sources._zeek_history import first_speaker, how_it_went, tcp_flags
from exfilml.sources._zeek_log import Wanted, fields_of, read_blocks
from exfilml.sources._zeek_names import Companions

NAME: Final = "Zeek conn.log"
_ENDS: Final = ("id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p")
WANTED: Final = Wanted(
    {
        "ts": pa.float64(),
        "uid": pa.string(),
        "id.orig_h": TEXT,
        "id.orig_p": pa.int64(),
        "id.resp_h": TEXT,
        "id.resp_p": pa.int64(),
        "proto": TEXT,
        "service": TEXT,
        "duration": pa.float64(),
        "orig_bytes": pa.int64(),
        "resp_bytes": pa.int64(),
        "conn_state": TEXT,
        "history": TEXT,
        "orig_pkts": pa.int64(),
        "orig_ip_bytes": pa.int64(),
        "resp_pkts": pa.int64(),
        "resp_ip_bytes": pa.int64(),
        "ip_proto": pa.int64(),
        "label": TEXT,
    },
    frozenset({"ts", *_ENDS, "proto"}),
)
# What no other log of Zeek counts.
_COUNTED: Final = frozenset({"orig_bytes", "orig_ip_bytes", "conn_state"})
CAPPED: Final = "with more payload than their packets can have carried"
PAYLOAD_ONLY: Final = "that count payload, not IP bytes"


def detect(head: bytes) -> bool:
    """Say from the first bytes whether this is a conn.log."""
    fields = fields_of(head)
    return WANTED.needed <= fields and bool(_COUNTED & fields)


def read(path: Path, options: Options) -> Reading:
    """Read a whole log."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a log piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If not one line could be read.
    """
    bad = BadLines()
    companions = Companions(path)
    total = capped = bare = 0
    with open_plain(path, options.advance) as plain:
        seen = BadLines()
        for records, first in ahead(read_blocks(blocks(plain, seen), WANTED, seen)):
            columns, lowered, counted = _columns(records.table)
            companions.enrich(columns)
            columns["sensor"] = coded(
                np.zeros(records.table.num_rows, np.int32), [path.name]
            )
            flows = checked(columns, records.lines, first, bad)
            total += len(flows)
            capped += lowered
            bare += 0 if counted else len(flows)
            yield Reading(flows)
    bad.merge(seen)
    reading = losses(path, bad, plain.damage, total)
    told = [*reading.losses, *companions.losses]
    if capped:
        text = f"{path}: {capped:,} of {total:,} flows have more payload by their"
        text += " sequence numbers than the packets that Zeek counted can have carried"
        told.append((CAPPED, f"{text}; lowered to that"))
    if bare:
        text = f"{path}: {bare:,} of {total:,} flows without orig_ip_bytes"
        told.append((PAYLOAD_ONLY, f"{text}; payload stands for bytes"))
    yield Reading(reading.flows, tuple(told))


def _columns(table: pa.Table) -> tuple[dict[str, Any], int, bool]:
    """Give the flows table's columns; how many counts were lowered; IP bytes or not."""
    n = table.num_rows

    def column(name: str, kind: Any) -> Any:
        if name not in table.column_names:
            return pa.nulls(n, kind)
        values = table.column(name).combine_chunks()
        return values.dictionary_encode() if kind == TEXT else values

    number = functools.partial(column, kind=pa.int64())
    text = functools.partial(column, kind=TEXT)
    src_ip = text("id.orig_h")
    version6 = is_version_6(src_ip)
    by_name = protocol_numbers(text("proto"), src_ip)
    protocol = pc.coalesce(number("ip_proto"), by_name)
    portless = pc.is_in(protocol, pa.array([1, 58]))
    counted = "orig_ip_bytes" in table.column_names
    columns: dict[str, Any] = {
        "start": table.column("ts").combine_chunks(),
        "duration_s": column("duration", pa.float64()),
        "src_ip": src_ip,
        "src_port": pc.if_else(portless, 0, number("id.orig_p")),
        "dst_ip": text("id.resp_h"),
        "dst_port": pc.if_else(portless, 0, number("id.resp_p")),
        "protocol": protocol,
        "app": _applications(text("service")),
        "uid": column("uid", pa.string()),
        "label": text("label"),
    }
    lowered = np.zeros(n, dtype=bool)
    for way, theirs in (("src", "orig"), ("dst", "resp")):
        payload = number(f"{theirs}_bytes")
        columns[f"{way}_packets"] = number(f"{theirs}_pkts")
        octets = number(f"{theirs}_ip_bytes")
        columns[f"{way}_bytes"] = pc.fill_null(pc.coalesce(octets, payload), 0)
        if counted:
            packets = columns[f"{way}_packets"]
            most = most_payload(columns[f"{way}_bytes"], packets, protocol, version6)
            over = pc.and_(pc.greater(payload, most), pc.greater_equal(octets, 0))
            over = pc.fill_null(over, False)
            lowered |= over.to_numpy(zero_copy_only=False)
            payload = pc.if_else(over, most, payload)
        columns[f"{way}_payload_bytes"] = payload
    columns |= _conversation(columns, text, number("id.orig_p"))
    return columns, int(lowered.sum()), counted


def _applications(service: Any) -> Any:
    """Return the first protocol of each list that Zeek did not drop."""
    first: list[str | None] = []
    for listed in service.dictionary.to_pylist():
        kept = [word for word in listed.split(",") if word and not word.startswith("-")]
        first.append(APPLICATIONS.get(kept[0], kept[0]) if kept else None)
    return coded(service.indices, first)


def _conversation(columns: dict[str, Any], text: Any, icmp_type: Any) -> dict[str, Any]:
    """Say how conversations went: once for each kind of them, however many flows."""
    history, state = text("history"), text("conn_state")

    def codes(values: Any) -> Any:
        return pc.fill_null(values, -1).to_numpy().astype(np.int64)

    def sent(way: str) -> Any:
        packets = pc.fill_null(columns[f"{way}_packets"], -1)
        return np.sign(packets.to_numpy()).astype(np.int64) + 1

    protocol = codes(columns["protocol"])
    kind = np.where(np.isin(protocol, (1, 58)), codes(icmp_type) & 0xFF, 0)
    key = protocol & 0xFF
    for part, most in (
        (kind, 256),
        (sent("src"), 3),
        (sent("dst"), 3),
        (codes(state.indices) + 1, len(state.dictionary) + 1),
        (codes(history.indices) + 1, len(history.dictionary) + 1),
    ):
        key = key * most + part
    inverse, distinct = pd.factorize(key)
    first = np.empty(len(distinct), dtype=np.int64)
    first[inverse[::-1]] = np.arange(len(key))[::-1]
    hows, speakers, flags = [], [], []
    packets = {
        way: columns[f"{way}_packets"].take(pa.array(first)) for way in ("src", "dst")
    }
    for number, reply, how, letters, there, back in zip(
        protocol[first],
        kind[first],
        state.take(pa.array(first)).to_pylist(),
        history.take(pa.array(first)).to_pylist(),
        packets["src"].to_pylist(),
        packets["dst"].to_pylist(),
        strict=True,
    ):
        hows.append(how_it_went(int(number), int(reply), how, letters, there, back))
        speakers.append(first_speaker(letters))
        flags.append(tcp_flags(letters) if number == 6 and letters else None)
    rows = pa.array(inverse)
    return {
        "conn_state": coded(rows, hows),
        "first_speaker": coded(rows, speakers),
        "tcp_flags": pa.array(flags, pa.int64()).take(rows),
    }
