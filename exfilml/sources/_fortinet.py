"""Traffic logs of Fortinet's FortiGate: ``key=value``, with syslog's header or without.

Fields: FortiOS Log Message Reference 6.0 to 7.4 (traffic), and the FortiOS
Administration Guide, "Log fields for long-live sessions". Between fields stand blanks,
or commas (``set format csv``); texts are quoted.

**Bytes** (``sentbyte``, ``rcvdbyte``) are of IP: ten pings of 84 bytes count 840. On
models that hand sessions over to a network processor (NP6, NP7) they count little more
than the handshake unless ``per-session-accounting`` is on, which the log does not show.

**Records**: sessions that end. What is logged of a session that begins
(``action="start"``) counts nothing yet. Long sessions are reported every few minutes
(message 20) with all they have counted since they began: the last report counts, and
what is logged at the end takes the place of all of them. A session that goes on where
the file ends, or is not reported for an hour, counts as far as it is told, and again in
the file in which it ends. Other types (utm, event) are no sessions.

**Times**: ``eventtime`` since 1970, in seconds or parts of them, is that of the report;
the session began ``duration`` before. Without it ``date`` and ``time`` are local: ``tz``
says where, before FortiOS 6.2 `timezone` does.

**Application** is ``app``; where nothing looked inside (``appcat="unscanned"``) it only
repeats what the port is for, and is none. **Ends** are those before translation.

A line in which an address, port or count stands twice could be forged by whoever named
a host or a user, and is not read.
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

from exfilml.sources._keyvalues import KeyValues, portions, sound_lines
from exfilml.sources._lines import BadLines, Block, ahead, blocks
from exfilml.sources._logs import flows_of, losses, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._sessions import LongSessions, begun, session_states
from exfilml.sources._words import APPLICATIONS, named, protocol_numbers
from exfilml.sources._zones import offsets, told_times

NOT_WHOLE: Final = "with records that are not of whole sessions"
GOING_ON: Final = "with sessions whose end is not in it"
_TRAFFIC: Final = re.compile(rb'(?m)(?:^|[ ,])type="?traffic"?(?=[ ,\r\n])')
_TEXTS: Final = ("srcip", "dstip", "proto", "action", "app", "appcat", "hostname", "tz")
_COUNTS: Final = (
    *("srcport", "dstport", "duration", "eventtime"),
    *("sentbyte", "rcvdbyte", "sentpkt", "rcvdpkt"),
)
_ONCE: Final = ("type", "srcip", "dstip", "proto", "logid", "sessionid", *_COUNTS)
_SESSION: Final = (
    *("devid", "vd", "sessionid", "srcip", "srcport", "dstip", "dstport", "proto"),
)
# LOG_ID_TRAFFIC_STAT, and the same of a sniffer.
_REPORT: Final = r"0000(20|21)$"
_DIGITS: Final = r"^[0-9]{10}([0-9]{3}){0,3}$"
_SECONDS_DIGITS: Final = 10
_APPS: Final = {
    **{name.upper(): app for name, app in APPLICATIONS.items()},
    "HTTP.BROWSER": "HTTP",
    "HTTPS": "TLS",
    "HTTPS.BROWSER": "TLS",
    "UNKNOWN": None,
    "unknown": None,
}


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are logs of a FortiGate's traffic."""
    return (
        b"srcip=" in head
        and (b"logid=" in head or b"devid=" in head)
        and _TRAFFIC.search(head) is not None
    )


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
    sessions = LongSessions()
    total = other = 0
    with open_plain(path, options.advance) as plain:
        found = (_reports(block, seen) for block in portions(blocks(plain, seen)))
        for reports, passed in ahead(found):
            other += passed
            flows = _flows(sessions.add(reports), options, path, bad)
            total += len(flows)
            yield Reading(flows)
    last = sessions.finish()
    if last is not None:
        flows = _flows(last, options, path, bad)
        total += len(flows)
        yield Reading(flows)
    bad.merge(seen)
    reading = losses(path, bad, plain.damage, total)
    told = list(reading.losses)
    if other:
        text = f"{path}: {other:,} records are of sessions that began, or of no session"
        told.append((NOT_WHOLE, f"{text}; passed over"))
    if sessions.open:
        text = f"{path}: {sessions.open:,} sessions whose end is not in it: counted as"
        told.append((GOING_ON, f"{text} far as it tells, and again where they end"))
    yield Reading(reading.flows, tuple(told))


def _reports(block: Block, bad: BadLines) -> tuple[pa.Table, int]:
    """Read what is reported of sessions; say how many records are of none."""
    fields = KeyValues(block, separators=b" ,")
    kinds = fields.texts("type")
    traffic = pc.fill_null(pc.equal(kinds, "traffic"), False)
    began = pc.fill_null(pc.equal(fields.texts("action"), "start"), False)
    wanted = pc.and_not(traffic, began).to_numpy(zero_copy_only=False)
    passed = len(kinds) - kinds.null_count - int(wanted.sum())
    kept = sound_lines(fields, wanted, _ONCE, block, bad, passed=passed)
    columns = {name: fields.texts(name) for name in _TEXTS}
    columns |= {name: fields.numbers(name) for name in _COUNTS if name != "eventtime"}
    columns["eventtime"] = _microseconds(fields.texts("eventtime"))
    columns["seen"] = columns["eventtime"]
    columns["local"] = pc.binary_join_element_wise(
        fields.texts("date"), fields.texts("time"), " "
    )
    columns["session"] = pc.binary_join_element_wise(
        *(fields.texts(name) for name in _SESSION),
        " ",
        null_handling="replace",
    )
    columns["uid"] = fields.texts("sessionid")
    columns["goes_on"] = pc.fill_null(
        pc.match_substring_regex(fields.texts("logid"), _REPORT), False
    )
    columns["line"] = pa.array(np.arange(block.first, block.first + len(fields)))
    return pa.table(columns).filter(pa.array(kept)), passed


def _microseconds(texts: Any) -> Any:
    """Read seconds, milli-, micro- or nanoseconds since 1970; None if wrong."""
    right = pc.match_substring_regex(texts, _DIGITS)
    texts = pc.if_else(right, texts, pa.scalar(None, pa.string()))
    number = texts.cast(pa.int64())
    digits = pc.utf8_length(texts)
    for more, scale in ((0, 10**6), (3, 10**3)):
        short = pc.equal(digits, _SECONDS_DIGITS + more)
        number = pc.if_else(
            short, pc.multiply(pc.if_else(short, number, 0), scale), number
        )
    long = pc.equal(digits, _SECONDS_DIGITS + 9)
    return pc.if_else(long, pc.divide(number, 1000), number)


def _flows(
    reports: pa.Table, options: Options, path: Path, bad: BadLines
) -> pd.DataFrame:
    if not reports.num_rows:
        return pd.DataFrame()
    reports = reports.combine_chunks()

    def column(name: str) -> Any:
        return reports.column(name).chunk(0)

    src_ip = column("srcip").dictionary_encode()
    protocol = protocol_numbers(column("proto").dictionary_encode(), src_ip)
    has_ports = pc.is_in(protocol, pa.array([6, 17, 33, 132]))
    ended = column("eventtime")
    lacking = pc.is_null(ended)
    if pc.any(lacking).as_py():
        local = pc.if_else(lacking, column("local"), pa.scalar(None, pa.string()))
        told = told_times(local, offsets(column("tz")), options.timezone, path)
        ended = pc.coalesce(ended, told)
    lasted = column("duration")
    denied = pc.fill_null(pc.starts_with(column("action"), "deny"), False)
    unscanned = pc.fill_null(pc.equal(column("appcat"), "unscanned"), False)
    app = pc.if_else(unscanned, pa.scalar(None, pa.string()), column("app"))
    columns: dict[str, Any] = {
        "start": begun(ended, lasted),
        "duration_s": lasted.cast(pa.float64(), safe=False),
        "src_ip": src_ip,
        "dst_ip": column("dstip").dictionary_encode(),
        "protocol": protocol,
        "app": named(pa.string(), app, _APPS),
        "server_name": column("hostname"),
        "uid": column("uid"),
        "sensor": pa.repeat(path.name, reports.num_rows),
    }
    for way, theirs in (("src", "sent"), ("dst", "rcvd")):
        port = column(f"{way}port")
        columns[f"{way}_port"] = pc.if_else(has_ports, port, 0)
        octets = column(f"{theirs}byte")
        # What was denied may be logged without counts.
        nothing = pc.and_(denied, pc.is_null(octets))
        columns[f"{way}_bytes"] = pc.if_else(nothing, 0, octets)
        columns[f"{way}_packets"] = column(f"{theirs}pkt")
    reset = pc.equal(column("action"), "server-rst")
    columns["conn_state"] = session_states(columns, reset)
    return flows_of(columns, column("line").to_numpy(), 0, bad)
