"""Flows as Argus' ra prints them with names: binetflow, in commas or tabs.

Columns are known by name, see ra(1): ``StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,
Dport,State,…,TotPkts,TotBytes,SrcBytes``, with ``SrcPkts``, ``DstBytes`` and the
application bytes ``SAppBytes`` and ``DAppBytes`` where they were asked for, and the
``Label`` of the CTU data sets.

**Bytes** are of layer 2: an ARP request counts 42, an empty UDP datagram 42 over IPv4.
They are converted, 14 bytes of Ethernet header a packet, not below the IP header;
padding stays. Where the packets of the source are not told (CTU-13), those of both
directions are shared out by bytes, and the flow has no packet counts.

**Times** are local to where ra ran, without saying where: `timezone` does. Seconds
since 1970 (``RA_TIME_FORMAT="%s"``) need none.

``Dir`` with the arrow to the left says that the destination began: ends are turned
round. Records of ARP, of the link layer (llc) and of Argus itself (man) are no flows of
IP: they are passed over and counted. ``State`` of TCP holds the flags of either side
(``SPA_SRPA``). ``rtp``, ``rtcp`` and ``udt`` are UDP.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.services import iana_services
from exfilml.sources._delimited import TEXT, Records
from exfilml.sources._headed import Form, read_blocks, times
from exfilml.sources._lines import BadLines, ahead, blocks
from exfilml.sources._logs import bare_bytes, flows_of, losses, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._words import conversations, protocol_numbers

NAME: Final = "Argus binetflow"
NOT_IP: Final = "with records that are not of IP"
_HEADER: Final = re.compile(rb"^StartTime[,\t].*$", re.MULTILINE)


def _known(kind: Any, *names: str) -> tuple[frozenset[str], Any]:
    return frozenset(names), kind


FORM: Final = Form(
    _HEADER,
    None,
    {
        "start": _known(pa.string(), "StartTime", "Stime"),
        "duration": _known(pa.float64(), "Dur"),
        "protocol": _known(TEXT, "Proto"),
        "src_ip": _known(TEXT, "SrcAddr"),
        "src_port": _known(TEXT, "Sport"),
        "dir": _known(TEXT, "Dir"),
        "dst_ip": _known(TEXT, "DstAddr"),
        "dst_port": _known(TEXT, "Dport"),
        "state": _known(TEXT, "State"),
        "packets": _known(pa.int64(), "TotPkts", "Pkts"),
        "bytes": _known(pa.int64(), "TotBytes", "Bytes"),
        "src_bytes": _known(pa.int64(), "SrcBytes"),
        "src_packets": _known(pa.int64(), "SrcPkts"),
        "src_payload": _known(pa.int64(), "SAppBytes"),
        "dst_payload": _known(pa.int64(), "DAppBytes"),
        "label": _known(pa.string(), "Label", "label"),
    },
    frozenset(
        {"start", "protocol", "src_ip", "src_port", "dst_ip", "dst_port"}
        | {"packets", "bytes", "src_bytes"}
    ),
)
_BELOW_IP: Final = frozenset({"arp", "rarp", "llc", "man", "lldp", "stp", "ipx/spx"})
_OVER_UDP: Final = {"rtp": "udp", "rtcp": "udp", "udt": "udp"}
_APPS: Final = {"rtp": "RTP", "rtcp": "RTCP"}
_FLAGS: Final = re.compile(r"[FSRPAUEC]*_[FSRPAUEC]*")
_BITS: Final = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "C": 128}


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are flows that ra printed."""
    line = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].strip()
    return _HEADER.match(line) is not None and b"SrcAddr" in line


def read(path: Path, options: Options) -> Reading:
    """Read a whole file."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a file piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If not one line could be read, or nobody said where its times are local.
    """
    bad = BadLines()
    total = other = 0
    with open_plain(path, options.advance) as plain:
        seen = BadLines()
        for records, first in ahead(read_blocks(blocks(plain, seen), FORM, seen)):
            flows, below = _flows(records, first, options, path, bad)
            other += below
            total += len(flows)
            yield Reading(flows)
    bad.merge(seen)
    reading = losses(path, bad, plain.damage, total)
    told = list(reading.losses)
    if other:
        text = f"{path}: {other:,} of {bad.lines:,} records are not of IP (ARP, link"
        told.append((NOT_IP, f"{text} layer, Argus itself); passed over"))
    yield Reading(reading.flows, tuple(told))


def _flows(
    records: Records, first: int, options: Options, path: Path, bad: BadLines
) -> tuple[pd.DataFrame, int]:
    lines = records.lines
    if lines is None:
        lines = range(first, first + records.table.num_rows)
    table = records.table.append_column("line", pa.array(lines, pa.int64()))
    words = _one(table, "protocol")
    below = pc.fill_null(_of_words(words, lambda w: w in _BELOW_IP, pa.bool_()), False)
    table = table.filter(pc.invert(below))
    n = table.num_rows

    def column(name: str) -> Any:
        return _one(table, name) if name in table.column_names else None

    words = column("protocol")
    src_ip, dst_ip = column("src_ip"), column("dst_ip")
    over = _of_words(words, lambda w: _OVER_UDP.get(w, w), pa.string())
    protocol = protocol_numbers(over, src_ip)
    all_packets, all_bytes = column("packets"), column("bytes")
    src_bytes, src_packets = column("src_bytes"), column("src_packets")
    dst_bytes = pc.subtract(all_bytes, src_bytes)
    counted = src_packets is not None
    if not counted:
        share = pc.divide(
            src_bytes.cast(pa.float64(), safe=False), pc.max_element_wise(all_bytes, 1)
        )
        src_packets = pc.round(pc.multiply(share, all_packets)).cast(
            pa.int64(), safe=False
        )
    dst_packets = pc.subtract(all_packets, src_packets)
    ends = {
        "src_ip": src_ip.cast(pa.string()),
        "dst_ip": dst_ip.cast(pa.string()),
        "src_port": _ports(column("src_port"), protocol),
        "dst_port": _ports(column("dst_port"), protocol),
        "src_bytes": bare_bytes(src_bytes, src_packets),
        "dst_bytes": bare_bytes(dst_bytes, dst_packets),
        "src_packets": src_packets,
        "dst_packets": dst_packets,
    }
    for way in ("src", "dst"):
        if column(f"{way}_payload") is not None:
            ends[f"{way}_payload_bytes"] = column(f"{way}_payload")
    turned = _turned(column("dir"), n)
    columns: dict[str, Any] = {
        "start": times(column("start"), options.timezone, path),
        "duration_s": column("duration"),
        "protocol": protocol,
        "app": _of_words(words, _APPS.get, pa.string()),
        "tcp_flags": _flags(column("state"), protocol),
    }
    for name, values in ends.items():
        way, _, what = name.partition("_")
        other = ends.get(f"{'dst' if way == 'src' else 'src'}_{what}", values)
        columns[name] = pc.if_else(turned, other, values)
    columns["conn_state"] = conversations(columns)
    if not counted:
        # Shared out to take headers off, not seen.
        del columns["src_packets"], columns["dst_packets"]
    if column("label") is not None:
        columns["label"] = column("label")
    columns["sensor"] = pa.repeat(path.name, n)
    columns = {name: values for name, values in columns.items() if values is not None}
    flows = flows_of(columns, column("line").to_numpy(), first, bad)
    return flows, records.table.num_rows - n


def _one(table: pa.Table, name: str) -> Any:
    return table.column(name).combine_chunks()


def _of_words(coded: Any, meaning: Any, kind: Any) -> Any:
    """Say something of each word, once for each that is different."""
    words = [meaning(word.strip().lower()) for word in coded.dictionary.to_pylist()]
    return pa.array(words, kind).take(coded.indices)


def _turned(coded: Any | None, n: int) -> Any:
    if coded is None:
        return pa.repeat(pa.scalar(False), n)
    turned = _of_words(coded, lambda w: "<" in w and ">" not in w, pa.bool_())
    return pc.fill_null(turned, False)


@functools.cache
def _port_names() -> dict[str, int]:
    return {name: port for (_, port), name in reversed(iana_services().items())}


def _ports(coded: Any, protocol: Any) -> Any:
    """Return ports, in figures or by name; 0 where the protocol has none."""

    def port(word: str) -> int | None:
        if re.fullmatch("[0-9]{1,9}", word):
            return int(word)
        if re.fullmatch("0x[0-9a-f]{1,4}", word):
            return int(word, 16)
        return _port_names().get(word)

    found = _of_words(coded, port, pa.int64())
    has_ports = pc.is_in(protocol, pa.array([6, 17, 33, 132]))
    return pc.if_else(has_ports, found, 0)


def _flags(coded: Any | None, protocol: Any) -> Any:
    if coded is None:
        return pa.nulls(len(protocol), pa.int64())

    def bits(word: str) -> int | None:
        letters = word.upper()
        if not _FLAGS.fullmatch(letters):
            return None
        return sum(_BITS[letter] for letter in set(letters) - {"_"})

    found = _of_words(coded, bits, pa.int64())
    return pc.if_else(pc.equal(protocol, 6), found, pa.scalar(None, pa.int64()))
