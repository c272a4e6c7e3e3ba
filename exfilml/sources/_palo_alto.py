"""TRAFFIC logs of Palo Alto's firewalls: syslog lines, and CSV that PAN-OS exports.

Fields: PAN-OS Administrator's Guide, "Traffic Log Fields", versions 9.0 to 11.0. Syslog
has no line of names: fields are known by their place, which no version has changed, and
each line may have its own number of them. What stands before the first comma is
syslog's. The export of the web interface has names.

**Bytes**: the guide does not say of which layer. A ping of 60 bytes of IP counts 74, and
a shorter packet 60, in logs that have been published: frames as on Ethernet, without
the checksum. They are converted as Argus' are, 14 bytes of Ethernet header a packet;
where packets are not told (PAN-OS before 6.1), they stay as they are.

**Records**: ``end``, ``drop`` and ``deny`` tell of a whole session. ``start`` counts
nothing yet, and other logs (THREAT, SYSTEM …) are no sessions: passed over and counted.

**Times** are local to the firewall. The high-resolution timestamp (PAN-OS 10 and later)
says in which zone; before it, `timezone` does.

**Ends** are those before address translation. **Conversation** follows from packets: the
firewall lets no TCP through that did not begin with a handshake, unless it is told to. A
session that the server reset with its first packet was rejected.
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

from exfilml.sources import _delimited
from exfilml.sources._delimited import TEXT, Layout, Records
from exfilml.sources._headed import Form, read_blocks
from exfilml.sources._keyvalues import portions
from exfilml.sources._lines import BadLines, Block, ahead, blocks
from exfilml.sources._logs import bare_bytes, flows_of, losses, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._sessions import session_states
from exfilml.sources._words import APPLICATIONS, named, protocol_numbers
from exfilml.sources._zones import offsets, told_times

NOT_WHOLE: Final = "with records that are not of whole sessions"
_HEADER: Final = re.compile(
    rb'^"?(?:Domain"?,"?)?Receive Time"?,.*Bytes Sent.*$', re.MULTILINE
)
_LINE: Final = rb"^[^,\n]*,[^,\n]*,[^,\n]*,TRAFFIC,[a-z]+,"
_TRAFFIC: Final = re.compile(_LINE, re.MULTILINE)
_WHOLE: Final = _LINE.replace(b"[a-z]+", b"(?:end|drop|deny)").decode()
_QUOTED: Final = '"(?:[^"]|"")*"'
_COUNT: Final = pa.int64()


def _known(kind: Any, *names: str) -> tuple[frozenset[str], Any]:
    return frozenset(names), kind


FORM: Final = Form(
    _HEADER,
    None,
    {
        "kind": _known(TEXT, "Threat/Content Type", "Subtype"),
        "src_ip": _known(TEXT, "Source address", "Source Address", "Source IP"),
        "dst_ip": _known(
            TEXT, "Destination address", "Destination Address", "Destination IP"
        ),
        "app": _known(TEXT, "Application"),
        "session": _known(pa.string(), "Session ID"),
        "src_port": _known(_COUNT, "Source Port"),
        "dst_port": _known(_COUNT, "Destination Port"),
        "protocol": _known(TEXT, "IP Protocol", "Protocol"),
        "src_bytes": _known(_COUNT, "Bytes Sent"),
        "dst_bytes": _known(_COUNT, "Bytes Received"),
        "start": _known(pa.string(), "Start Time"),
        "elapsed": _known(pa.float64(), "Elapsed Time (sec)", "Elapsed Time"),
        "src_packets": _known(_COUNT, "pkts_sent", "Packets Sent"),
        "dst_packets": _known(_COUNT, "pkts_received", "Packets Received"),
        "reason": _known(TEXT, "session_end_reason", "Session End Reason"),
        "precise": _known(
            pa.string(), "High Res Timestamp", "High Resolution Timestamp"
        ),
    },
    frozenset(
        {"kind", "src_ip", "dst_ip", "src_port", "dst_port", "protocol", "start"}
        | {"src_bytes", "dst_bytes"}
    ),
    quote='"',
)
_PLACES: Final = {
    4: "kind", 7: "src_ip", 8: "dst_ip", 14: "app", 22: "session", 24: "src_port",
    25: "dst_port", 29: "protocol", 32: "src_bytes", 33: "dst_bytes", 35: "start",
    36: "elapsed", 44: "src_packets", 45: "dst_packets", 46: "reason", 102: "precise",
}  # fmt: skip
_LEAST_FIELDS: Final = 37
_RESET: Final = "tcp-rst-from-server"
_WHOLE_SESSIONS: Final = pa.array(["end", "drop", "deny"])
_APPS: Final = APPLICATIONS | {
    "dns-base": "DNS",
    "ftp-base": "FTP_CONTROL",
    "ms-ds-smb": "SMBv23",
    "ms-ds-smbv2": "SMBv23",
    "ms-ds-smbv3": "SMBv23",
    "ms-rdp": "RDP",
    "msrpc": "DCERPC",
    "msrpc-base": "DCERPC",
    "netbios-ns": "NetBIOS",
    "ntp-base": "NTP",
    "ping": "ICMP",
    "quic-base": "QUIC",
    "smtp-base": "SMTP",
    "web-browsing": "HTTP",
    # Words for what was not recognised.
    **dict.fromkeys(
        (
            *("incomplete", "insufficient-data", "non-syn-tcp", "not-applicable"),
            *("unknown-tcp", "unknown-udp", "unknown-p2p", "unknown"),
        )
    ),
}


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are TRAFFIC logs of a Palo Alto firewall."""
    head = head.removeprefix(b"\xef\xbb\xbf")
    return _HEADER.match(head) is not None or _TRAFFIC.search(head) is not None


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
    bad, seen = BadLines(), BadLines()
    total = other = 0
    with open_plain(path, options.advance) as plain:
        every = blocks(plain, seen)
        first = next(every, None)
        if first is not None:
            parts = _with(first, every)
            found = (
                _headed(parts, seen)
                if _HEADER.match(first.data)
                else _by_place(parts, seen)
            )
            for table, number, passed in ahead(found):
                flows, more = _flows(table, number, options, path, bad)
                other += passed + more
                total += len(flows)
                yield Reading(flows)
    bad.merge(seen)
    reading = losses(path, bad, plain.damage, total)
    told = list(reading.losses)
    if other:
        text = f"{path}: {other:,} records are of sessions that began, or of no session"
        told.append((NOT_WHOLE, f"{text}; passed over"))
    yield Reading(reading.flows, tuple(told))


def _with(first: Block, rest: Iterator[Block]) -> Iterator[Block]:
    yield first
    yield from rest


def _headed(
    parts: Iterator[Block], bad: BadLines
) -> Iterator[tuple[pa.Table, Any, int]]:
    """Read what the web interface exports."""
    for records, first in read_blocks(parts, FORM, bad):
        yield records.table, _numbers(records, first), 0


def _numbers(records: Records, first: int) -> Any:
    n = records.table.num_rows
    return np.arange(first, first + n) if records.lines is None else records.lines


def _by_place(
    parts: Iterator[Block], bad: BadLines
) -> Iterator[tuple[pa.Table, Any, int]]:
    """Read lines of syslog, those with the same number of fields together."""
    for block in portions(parts):
        texts = pa.array(
            block.data.decode("utf-8", "replace").rstrip("\n").split("\n"), pa.string()
        )
        wanted = pc.match_substring_regex(texts, _WHOLE)
        passed = pc.sum(pc.and_not(pc.not_equal(texts, ""), wanted)).as_py() or 0
        number = np.flatnonzero(wanted.to_numpy(zero_copy_only=False)) + block.first
        texts = texts.filter(wanted)
        plain = texts
        if b'"' in block.data:
            plain = pc.replace_substring_regex(texts, _QUOTED, "")
        width = pc.add(pc.count_substring(plain, ","), 1).to_numpy()
        yield pa.table({}), number[:0], passed
        for count in np.unique(width):
            same = width == count
            yield from _of_width(
                texts.filter(pa.array(same)), int(count), number[same], bad
            )


def _of_width(
    texts: Any, count: int, number: Any, bad: BadLines
) -> Iterator[tuple[pa.Table, Any, int]]:
    if count < _LEAST_FIELDS:
        bad.lines += len(texts)
        bad.add(int(number[0]), f"{count} fields, at least {_LEAST_FIELDS}", len(texts))
        return
    names = [_PLACES.get(place, f"unused {place}") for place in range(count)]
    wanted = {name: FORM.names[name][1] for name in names if name in FORM.names}
    layout = Layout(names, wanted, FORM.needed, ",", quote='"')
    own = BadLines()
    data = "\n".join(texts.to_pylist()).encode()
    records = _delimited.read_block(Block(data, 0, len(texts)), layout, own)
    if own.first is not None:
        at, reason = own.first
        own.first = int(number[at]), reason
    bad.merge(own)
    if records is not None:
        yield records.table, number[_numbers(records, 0)], 0


def _flows(
    table: pa.Table, number: Any, options: Options, path: Path, bad: BadLines
) -> tuple[pd.DataFrame, int]:
    if not table.num_rows:
        return pd.DataFrame(), 0
    table = table.append_column("line", pa.array(number, _COUNT)).unify_dictionaries()
    ended = pc.is_in(table.column("kind").cast(pa.string()), _WHOLE_SESSIONS)
    n = table.num_rows
    table = table.filter(ended).combine_chunks()
    passed = n - table.num_rows

    def column(name: str, kind: Any) -> Any:
        if name not in table.column_names:
            return pa.nulls(table.num_rows, kind)
        found = table.column(name)
        return found.chunk(0) if found.num_chunks else pa.array([], kind)

    if not table.num_rows:
        return pd.DataFrame(), passed
    src_ip = column("src_ip", TEXT)
    protocol = protocol_numbers(column("protocol", TEXT), src_ip)
    icmp = pc.is_in(protocol, pa.array([1, 58]))
    columns: dict[str, Any] = {
        "start": told_times(
            column("start", pa.string()),
            offsets(column("precise", pa.string())),
            options.timezone,
            path,
        ),
        "duration_s": column("elapsed", pa.float64()),
        "src_ip": src_ip,
        "src_port": pc.if_else(icmp, 0, column("src_port", _COUNT)),
        "dst_ip": column("dst_ip", TEXT),
        "dst_port": pc.if_else(icmp, 0, column("dst_port", _COUNT)),
        "protocol": protocol,
        "app": named(pa.string(), column("app", TEXT), _APPS),
        "uid": column("session", pa.string()),
        "sensor": pa.repeat(path.name, table.num_rows),
    }
    counted = {"src_packets", "dst_packets"} <= set(table.column_names)
    for way in ("src", "dst"):
        octets = column(f"{way}_bytes", _COUNT)
        if counted:
            columns[f"{way}_packets"] = column(f"{way}_packets", _COUNT)
            octets = bare_bytes(octets, columns[f"{way}_packets"])
        columns[f"{way}_bytes"] = octets
    if counted:
        reset = pc.equal(column("reason", TEXT).cast(pa.string()), _RESET)
        columns["conn_state"] = session_states(columns, reset)
    return flows_of(columns, column("line", _COUNT).to_numpy(), 0, bad), passed
