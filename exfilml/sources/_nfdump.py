"""Flows as nfdump prints them with ``-o csv``, ``-o csv-fast`` and ``-o csv:FORMAT``.

Columns are known by name: those of nfdump 1.6 (``ts,te,td,sa,da,sp,dp,pr,flg,…``), and
those of 1.7 (``firstSeen,duration,proto,srcAddr,…``), see nfdump(1) and nfdump's
output_csv.c. What nfdump adds at the end (``Summary``) is no record.

**Bytes** are NetFlow's: "octets include IP header(s) and IP payload" (IPFIX,
octetDeltaCount, RFC 5102 §5.10.1; NetFlow version 9, IN_BYTES), which is what the flows
table holds. An exporter that samples and does not tell nfdump counts too little, in
proportion: that cannot be seen in the file.

**Times** are local to where nfdump ran, without saying where: `timezone` does.

**Directions** are records of their own, and long flows come in parts: `_pairs` puts
them together. Records that hold both directions (``opkt``, ``obyt``) are complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._delimited import TEXT, TIME, Records
from exfilml.sources._headed import Form, read_blocks, times
from exfilml.sources._lines import BadLines, ahead, blocks
from exfilml.sources._logs import flows_of, losses, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._pairs import Pairs
from exfilml.sources._reading import Options, Reading
from exfilml.sources._words import protocol_numbers, told_conversations

NAME: Final = "nfdump CSV"
_HEADER: Final = re.compile(rb"^(?:ts|cnt|firstSeen|first),[A-Za-z].*$", re.MULTILINE)
_END: Final = re.compile(
    rb"^(?:Summary|No match\w* flows?|Time window|Total flows)\b.*$", re.MULTILINE
)


def _known(kind: Any, *names: str) -> tuple[frozenset[str], Any]:
    return frozenset(names), kind


FORM: Final = Form(
    _HEADER,
    _END,
    {
        "start": _known(TIME, "ts", "firstSeen", "first", "tsr", "fsr"),
        "end": _known(TIME, "te", "lastSeen", "last", "ter", "lsr"),
        "duration": _known(pa.float64(), "td", "duration"),
        "src_ip": _known(TEXT, "sa", "srcAddr"),
        "dst_ip": _known(TEXT, "da", "dstAddr"),
        "src_port": _known(pa.float64(), "sp", "srcPort"),
        "dst_port": _known(pa.float64(), "dp", "dstPort"),
        "protocol": _known(TEXT, "pr", "proto"),
        "flags": _known(TEXT, "flg", "flags", "tcpFlags"),
        "src_packets": _known(pa.int64(), "ipkt", "packets", "inPackets", "pkt"),
        "src_bytes": _known(pa.int64(), "ibyt", "bytes", "inBytes", "byt"),
        "dst_packets": _known(pa.int64(), "opkt", "outPackets"),
        "dst_bytes": _known(pa.int64(), "obyt", "outBytes"),
        "label": _known(TEXT, "label", "Label"),
    },
    frozenset(
        {"start", "src_ip", "dst_ip", "src_port", "dst_port", "protocol", "src_bytes"}
    ),
)
_BITS: Final = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "C": 128}


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are flows that nfdump printed."""
    line = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].strip()
    names = set(line.decode("utf-8", "replace").split(","))
    known = {our for our, (theirs, _) in FORM.names.items() if theirs & names}
    return _HEADER.match(line) is not None and known >= FORM.needed


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
    pairs = Pairs(options.idle_timeout)
    total = 0
    with open_plain(path, options.advance) as plain:
        seen = BadLines()
        for records, first in ahead(read_blocks(blocks(plain, seen), FORM, seen)):
            flows = _told(pairs.add(_halves(records, first, options, path, bad)), path)
            total += len(flows)
            yield Reading(flows)
    bad.merge(seen)
    flows = _told(pairs.finish(), path)
    yield Reading(flows)
    yield losses(path, bad, plain.damage, total + len(flows))


def _told(flows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Say of paired flows what their records could not."""
    if len(flows):
        flows["conn_state"] = told_conversations(flows)
        flows["sensor"] = path.name
    return flows


def _halves(
    records: Records, first: int, options: Options, path: Path, bad: BadLines
) -> pd.DataFrame:
    table = records.table.combine_chunks()
    n = table.num_rows

    def column(name: str) -> Any:
        return (
            table.column(name).combine_chunks() if name in table.column_names else None
        )

    start = times(column("start"), options.timezone, path)
    if column("end") is not None:
        end = times(column("end"), options.timezone, path)
        duration = pc.divide(pc.subtract(end, start).cast(pa.float64()), 1e6)
    else:
        duration = column("duration")
    src_ip = _trimmed(column("src_ip"))
    protocol = protocol_numbers(column("protocol"), src_ip)
    zero = pa.repeat(pa.scalar(0, pa.int64()), n)
    columns: dict[str, Any] = {
        "start": start,
        "duration_s": pa.nulls(n, pa.float64()) if duration is None else duration,
        "src_ip": src_ip,
        "src_port": _ports(column("src_port"), protocol),
        "dst_ip": _trimmed(column("dst_ip")),
        "dst_port": _ports(column("dst_port"), protocol),
        "protocol": protocol,
        "tcp_flags": _flags(column("flags"), protocol),
    }
    for way in ("src", "dst"):
        for what in ("packets", "bytes"):
            given = column(f"{way}_{what}")
            columns[f"{way}_{what}"] = zero if given is None else given
    if column("src_packets") is None:
        del columns["src_packets"], columns["dst_packets"]
    if column("label") is not None:
        columns["label"] = column("label").cast(pa.string())
    return flows_of(columns, records.lines, first, bad)


def _trimmed(coded: Any) -> Any:
    words = pc.utf8_trim_whitespace(coded.dictionary)
    return pa.DictionaryArray.from_arrays(coded.indices, words)


def _ports(numbers: Any, protocol: Any) -> Any:
    """Return ports; 0 for ICMP, whose type and code stand there as a fraction."""
    whole_numbers = pc.floor(numbers)
    ports = pc.if_else(pc.equal(whole_numbers, numbers), whole_numbers, None)
    ports = ports.cast(pa.int64(), safe=False)
    return pc.if_else(pc.is_in(protocol, pa.array([1, 58])), 0, ports)


def _flags(coded: Any, protocol: Any) -> Any:
    """Return TCP flags of ``...AP.SF``, ``0x1b`` or a number; None where not TCP."""
    if coded is None:
        return pa.nulls(len(protocol), pa.int64())
    values: list[int | None] = []
    for text in coded.dictionary.to_pylist():
        word = text.strip()
        if re.fullmatch(r"0x[0-9a-fA-F]{1,2}|[0-9]{1,3}", word):
            number = int(word, 0) if word.startswith("0x") else int(word)
            values.append(number if number <= 255 else None)
        elif re.fullmatch(r"[.A-Z]{6,8}", word):
            values.append(sum({_BITS.get(letter, 0) for letter in word}))
        else:
            values.append(None)
    found = pa.array(values, pa.int64()).take(coded.indices)
    return pc.if_else(pc.equal(protocol, 6), found, pa.scalar(None, pa.int64()))
