"""Connections that Cisco's Firepower Threat Defense reports when they end (430003).

Fields: "Cisco Secure Firewall Threat Defense Syslog Messages", security event syslog
messages, of version 6.5 and later, which say when a connection's first packet came.
Unlike 302014 (`_cisco`), they count what each side sent; where a file holds both, these
are read and the others passed over, since they say the same again.

**Bytes** are of Ethernet frames: a ping of 60 bytes of IP counts 74, a bare TCP segment
54. They are converted as Argus' are, 14 bytes of Ethernet header a packet.

**Records** of a connection's start (430002) count nothing yet and are passed over, as
are other messages. **Application** is ``ApplicationProtocol``, the name
``ReferencedHost``. **Conversation** follows from packets.

Values are not quoted, and some are chosen by attackers (``UserAgent: x, SrcIP: …``): a
line in which an address, port or count stands twice is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._keyvalues import KeyValues, line_texts, portions, sound_lines
from exfilml.sources._lines import BadLines, Block, ahead, blocks
from exfilml.sources._logs import bare_bytes, flows_of, losses, microseconds, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._sessions import session_states
from exfilml.sources._words import APPLICATIONS, named, protocol_numbers

NOT_WHOLE: Final = "with messages that are not of connections that ended"
_MESSAGE: Final = re.compile(rb"%(?:FTD|NGIPS)-[0-7]-430003: ")
_WANTED: Final = r"%(?:FTD|NGIPS)-[0-7]-430003: "
_OTHER: Final = r"%(?:FTD|NGIPS|ASA)-(?:[a-z]+-)?[0-7]-[0-9]{6}: "
_TEXTS: Final = ("SrcIP", "DstIP", "Protocol", "FirstPacketSecond")
_COUNTS: Final = (
    *("SrcPort", "DstPort", "ConnectionDuration", "InitiatorPackets"),
    *("ResponderPackets", "InitiatorBytes", "ResponderBytes"),
)
_APPS: Final = {
    **{name.upper(): app for name, app in APPLICATIONS.items()},
    "HTTPS": "TLS",
    "Unknown": None,
}


def detect(head: bytes) -> bool:
    """Say from the first bytes whether an FTD reported connections here."""
    return _MESSAGE.search(head) is not None


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
    bad, seen = BadLines(), BadLines()
    total = other = 0
    with open_plain(path, options.advance) as plain:
        found = (_ends(block, seen) for block in portions(blocks(plain, seen)))
        for ends, passed in ahead(found):
            other += passed
            flows = _flows(ends, path, bad)
            total += len(flows)
            yield Reading(flows)
    bad.merge(seen)
    reading = losses(path, bad, plain.damage, total)
    told = list(reading.losses)
    if other:
        text = f"{path}: {other:,} messages are of no connection's end, or say again"
        told.append((NOT_WHOLE, f"{text} what 430003 says; passed over"))
    yield Reading(reading.flows, tuple(told))


def _ends(block: Block, bad: BadLines) -> tuple[pa.Table, int]:
    """Read connections that ended; say how many messages are others."""
    texts = line_texts(block)
    wanted = pc.match_substring_regex(texts, _WANTED)
    others = pc.and_not(pc.match_substring_regex(texts, _OTHER), wanted)
    passed = pc.sum(others).as_py() or 0
    # The first field begins after the number of the message, as if after another.
    data = block.data.replace(b"-430003: ", b"-430003, ")
    fields = KeyValues(
        Block(data, block.first, block.lines),
        separators=b",",
        assign=b": ",
        quoted=False,
    )
    once = (*_TEXTS, *_COUNTS)
    told = wanted.to_numpy(zero_copy_only=False)
    kept = sound_lines(fields, told, once, block, bad, passed=passed)
    columns = {name: fields.texts(name) for name in _TEXTS}
    columns |= {name: fields.numbers(name) for name in _COUNTS}
    columns |= {
        name: fields.texts(name)
        for name in ("ApplicationProtocol", "ReferencedHost", "ConnectionID")
    }
    columns["line"] = pa.array(np.arange(block.first, block.first + len(fields)))
    return pa.table(columns).filter(pa.array(kept)), passed


def _flows(ends: pa.Table, path: Path, bad: BadLines) -> pd.DataFrame:
    if not ends.num_rows:
        return pd.DataFrame()
    ends = ends.combine_chunks()

    def column(name: str) -> Any:
        return ends.column(name).chunk(0)

    src_ip = column("SrcIP").dictionary_encode()
    protocol = protocol_numbers(column("Protocol").dictionary_encode(), src_ip)
    has_ports = pc.is_in(protocol, pa.array([6, 17, 33, 132]))
    columns: dict[str, Any] = {
        "start": microseconds(column("FirstPacketSecond")),
        "duration_s": column("ConnectionDuration").cast(pa.float64(), safe=False),
        "src_ip": src_ip,
        "dst_ip": column("DstIP").dictionary_encode(),
        "protocol": protocol,
        "app": named(pa.string(), column("ApplicationProtocol"), _APPS),
        "server_name": column("ReferencedHost"),
        "uid": column("ConnectionID"),
        "sensor": pa.repeat(path.name, ends.num_rows),
    }
    sides = (("src", "Src", "Initiator"), ("dst", "Dst", "Responder"))
    for way, end, who in sides:
        columns[f"{way}_port"] = pc.if_else(has_ports, column(f"{end}Port"), 0)
        columns[f"{way}_packets"] = column(f"{who}Packets")
        columns[f"{way}_bytes"] = bare_bytes(
            column(f"{who}Bytes"), columns[f"{way}_packets"]
        )
    never = pa.repeat(pa.scalar(False), ends.num_rows)
    columns["conn_state"] = session_states(columns, never)
    return flows_of(columns, column("line").to_numpy(), 0, bad)
