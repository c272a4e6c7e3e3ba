"""Suricata's EVE JSON: flow and netflow events, with names from its other events.

Fields: docs.suricata.io, "Eve JSON Format". Lines as Suricata writes them; documents
over several lines, as tools print them and as Elasticsearch returns them
(``_source``), up to `MOST_DOCUMENT` bytes a file.

**Bytes** of flow and netflow events are the lengths of packets as captured, link layer
included: Suricata adds up ``GET_PKT_LEN`` (its source, ``FlowHandlePacketUpdate`` in
flow.c); a SYN on Ethernet counts 60. They are converted: 14 bytes of Ethernet header
are taken off each packet, and what an Ethernet card pads short frames with (up to 6
bytes) stays. Links without Ethernet headers come out 14 bytes a packet too low, but
never below the IP header.

**Application** is ``app_proto``; ``failed`` and ``unknown`` are none. As with Zeek,
``app_verified`` stays empty: our own check needs the payload.

**Conversation** follows from packets and TCP flags by the rules of captures. A reset
flow without PSH and FIN counts as one without payload.

A netflow event is one direction of a flow: those of the same ends are paired
(`_pairs`). Where flow events are there, netflow events say the same again and are
passed over.

Names (tls and quic: server name, JA4, JA3; http: host, user agent, content type of the
response; dns: question; ssh: HASSH; smtp: the recipient's domain; fileinfo and
ftp_data: names of files) and the first ``anomaly`` of a flow come with ``flow_id`` from
events before it in the file, which is the order Suricata writes them in (`_eve_names`).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.exceptions import SourceError
from exfilml.sources import _jsonl
from exfilml.sources._eve_names import HTTP_FIELDS, EventNames, field_of
from exfilml.sources._lines import BadLines, blocks
from exfilml.sources._logs import (
    NO_FLOWS,
    bare_bytes,
    flows_of,
    losses,
    microseconds,
    whole,
)
from exfilml.sources._packed import open_plain
from exfilml.sources._pairs import Pairs
from exfilml.sources._reading import Options, Reading
from exfilml.sources._words import (
    APPLICATIONS,
    conversations,
    named,
    protocol_numbers,
    told_conversations,
)

NAME: Final = "Suricata EVE"
MOST_DOCUMENT: Final = 64 << 20
_SOLID: Final = re.compile(r"[^ \t\r\n]")
_EVENT: Final = re.compile(rb'"event_type"\s*:\s*"[a-z0-9_-]+"')
_TEXT: Final = pa.string()
_COUNT: Final = pa.int64()
_HASH: Final = pa.struct({"hash": _TEXT})
_SHOOK: Final = pa.struct({"sni": _TEXT, "ja3": _HASH, "ja4": _TEXT})
_SCHEMA: Final = pa.schema(
    {
        "event_type": _TEXT,
        "flow_id": _COUNT,
        "src_ip": _TEXT,
        "src_port": _COUNT,
        "dest_ip": _TEXT,
        "dest_port": _COUNT,
        "proto": _TEXT,
        "icmp_type": _COUNT,
        "app_proto": _TEXT,
        "label": _TEXT,
        "flow": pa.struct(
            {
                **dict.fromkeys(("pkts_toserver", "pkts_toclient"), _COUNT),
                **dict.fromkeys(("bytes_toserver", "bytes_toclient"), _COUNT),
                **dict.fromkeys(("start", "end"), _TEXT),
            }
        ),
        "netflow": pa.struct(
            {"pkts": _COUNT, "bytes": _COUNT, "start": _TEXT, "end": _TEXT}
        ),
        "tcp": pa.struct({"tcp_flags": _TEXT}),
        "tls": _SHOOK,
        "quic": _SHOOK,
        "http": pa.struct(dict.fromkeys(HTTP_FIELDS, _TEXT)),
        **dict.fromkeys(("fileinfo", "ftp_data"), pa.struct({"filename": _TEXT})),
        "smtp": pa.struct({"mail_from": _TEXT, "rcpt_to": pa.list_(_TEXT)}),
        "dns": pa.struct(
            {"rrname": _TEXT, "queries": pa.list_(pa.struct({"rrname": _TEXT}))}
        ),
        "ssh": pa.struct({"client": pa.struct({"hassh": _HASH})}),
        "anomaly": pa.struct({"event": _TEXT}),
    }
)
_NONE: Final = {"failed": None, "unknown": None}


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are events of Suricata."""
    start = head.lstrip()[:1]
    return (
        start in (b"{", b"[")
        and _EVENT.search(head) is not None
        and b'"src_ip"' in head
    )


def read(path: Path, options: Options) -> Reading:
    """Read a whole file."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a file piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If not one line could be read, or if one document is too long.
    """
    bad = BadLines()
    names = EventNames()
    pairs = Pairs(options.idle_timeout)
    total = 0
    has_flows = False
    with open_plain(path, options.advance) as plain:
        for block in blocks(_as_lines(plain, path), bad):
            records = _jsonl.read_block(block, _SCHEMA, frozenset(), bad)
            if records is None:
                continue
            table = records.table.combine_chunks()
            names.learn(table)
            is_flow = pc.equal(table.column("event_type"), "flow")
            is_half = pc.equal(table.column("event_type"), "netflow")
            has_flows = has_flows or bool(pc.any(is_flow).as_py())
            number = pa.array(range(block.first, block.first + table.num_rows), _COUNT)
            lines = number if records.lines is None else pa.array(records.lines, _COUNT)
            flows = _read(table, is_flow, lines, "flow", names, bad)
            if len(flows):
                flows["sensor"] = path.name
                total += len(flows)
                yield Reading(flows)
            if not has_flows and pc.any(is_half).as_py():
                halves = _read(table, is_half, lines, "netflow", names, bad)
                flows = _told(pairs.add(halves), path)
                total += len(flows)
                yield Reading(flows)
    if not has_flows:
        flows = _told(pairs.finish(), path)
        total += len(flows)
        yield Reading(flows)
    reading = losses(path, bad, plain.damage, total)
    told = [
        (kind, f"{text}: of {bad.lines:,} events none is of a flow that ended")
        if kind == NO_FLOWS
        else (kind, text)
        for kind, text in reading.losses
    ]
    yield Reading(reading.flows, tuple(told))


def _told(flows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Say of paired flows what their halves could not."""
    if len(flows):
        flows["conn_state"] = told_conversations(flows)
        flows["sensor"] = path.name
    return flows


def _as_lines(pieces: Iterable[bytes], path: Path) -> Iterator[bytes]:
    """Give events line by line, however they are printed."""
    whole_text = b""
    stream = iter(pieces)
    for piece in stream:
        whole_text += piece
        first, end, _ = whole_text.lstrip().partition(b"\n")
        if end or len(whole_text) > MOST_DOCUMENT:
            break
    else:
        first = whole_text.strip()
    if not _is_document(first):
        yield whole_text
        yield from stream
        return
    for piece in itertools.chain([b""], stream):
        whole_text += piece
        if len(whole_text) > MOST_DOCUMENT:
            raise SourceError(
                f"{path}: JSON over several lines, longer than {MOST_DOCUMENT >> 20} "
                "MiB. Print one event a line, for example with `jq -c .`."
            )
    decoder = json.JSONDecoder()
    text = whole_text.decode("utf-8", "replace").removeprefix("\ufeff").rstrip()
    at = _solid(text, 0)
    while at < len(text):
        try:
            found, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            # Given on as it is, to be counted as a line that cannot be read.
            yield text[at:].split("\n", 1)[0].encode() + b"\n"
            return
        for event in found if isinstance(found, list) else [found]:
            inner = event.get("_source", event) if isinstance(event, dict) else event
            yield json.dumps(inner).encode() + b"\n"
        at = _solid(text, at)


def _solid(text: str, at: int) -> int:
    """Return where the next character that is no blank stands, else the end."""
    found = _SOLID.search(text, at)
    return len(text) if found is None else found.start()


def _is_document(line: bytes) -> bool:
    """Whether the first line is the beginning of something longer, or wraps events."""
    line = line.removeprefix(b"\xef\xbb\xbf").strip()
    if line in (b"{", b"["):
        return True
    return line.startswith((b"[", b'{"_index"')) or b'"_source"' in line[:4096]


def _read(
    table: pa.Table,
    wanted: Any,
    lines: Any,
    kind: str,
    names: EventNames,
    bad: BadLines,
) -> pd.DataFrame:
    """Give the flows, or the halves of flows, of a block."""
    wanted = pc.fill_null(wanted, False)
    table, lines = table.filter(wanted), lines.filter(wanted.combine_chunks())
    text = {
        name: table.column(name).combine_chunks()
        for name in ("src_ip", "dest_ip", "proto", "app_proto", "label")
    }
    src_ip = text["src_ip"].dictionary_encode()
    protocol = protocol_numbers(text["proto"], src_ip)
    start, end = (microseconds(field_of(table, kind, at)) for at in ("start", "end"))
    lasted = pc.subtract(end, start).cast(pa.float64(), safe=False)
    sides = (
        (
            ("src", "pkts_toserver", "bytes_toserver"),
            ("dst", "pkts_toclient", "bytes_toclient"),
        )
        if kind == "flow"
        else (("src", "pkts", "bytes"),)
    )
    columns: dict[str, Any] = {
        "start": start,
        "duration_s": pc.divide(lasted, 1e6),
        "src_ip": src_ip,
        "src_port": pc.fill_null(field_of(table, "src_port"), 0),
        "dst_ip": text["dest_ip"].dictionary_encode(),
        "dst_port": pc.fill_null(field_of(table, "dest_port"), 0),
        "protocol": protocol,
        "app": named(_TEXT, text["app_proto"], APPLICATIONS | _NONE),
        "uid": field_of(table, "flow_id").cast(_TEXT),
        "label": text["label"],
    }
    for way, packets, octets in sides:
        columns[f"{way}_packets"] = field_of(table, kind, packets)
        columns[f"{way}_bytes"] = bare_bytes(
            field_of(table, kind, octets), columns[f"{way}_packets"]
        )
    flags = _flags(field_of(table, "tcp", "tcp_flags"))
    columns["tcp_flags"] = pc.if_else(
        pc.equal(protocol, 6), flags, pa.scalar(None, _COUNT)
    )
    if kind == "flow":
        columns["conn_state"] = conversations(columns, field_of(table, "icmp_type"))
    else:
        zero = pa.repeat(pa.scalar(0, _COUNT), table.num_rows)
        columns |= {"dst_packets": zero, "dst_bytes": zero}
    columns |= names.of(field_of(table, "flow_id"), columns)
    return flows_of(columns, lines.to_numpy(), 0, bad)


def _flags(hexadecimal: Any) -> Any:
    coded = hexadecimal.dictionary_encode()
    values = [
        int(text, 16) if re.fullmatch("[0-9a-fA-F]{1,2}", text) else None
        for text in coded.dictionary.to_pylist()
    ]
    return pa.array(values, _COUNT).take(coded.indices)
