"""Flows as nfdump prints them with ``-o csv``, ``-o csv-fast`` and ``-o csv:FORMAT``.

Columns are known by name: those of nfdump 1.6 (``ts,te,td,sa,da,sp,dp,pr,flg,…``), and
those of 1.7 (``firstSeen,duration,proto,srcAddr,…``), see nfdump(1) and nfdump's
output_csv.c. What nfdump adds at the end (``Summary``) is no record.

**Bytes** are NetFlow's: "octets include IP header(s) and IP payload" (IPFIX,
octetDeltaCount, RFC 5102 §5.10.1; NetFlow version 9, IN_BYTES), which is what the flows
table holds. An exporter that samples and does not tell nfdump counts too little, in
proportion: that cannot be seen in the file, and `sampling` says it.

**Times** are local to where nfdump ran, without saying where: `timezone` does.

**Directions** are records of their own, and long flows come in parts: `_pairs` puts
them together. Records that hold both directions (``opkt``, ``obyt``) are complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from exfilml.sources._delimited import TEXT, TIME
from exfilml.sources._directed import printed
from exfilml.sources._headed import Form
from exfilml.sources._logs import whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading

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
    with open_plain(path, options.advance) as plain:
        yield from printed(plain, FORM, path, options)
