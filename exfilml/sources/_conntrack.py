"""Connections that Linux' netfilter tracked: what ``conntrack -E`` and ulogd print.

Lines are those of conntrack(8) with ``-o timestamp`` (conntrack-tools 1.4,
libnetfilter_conntrack's ``__snprintf_conntrack_default``), also with ``extended``,
``id`` and ``ktimestamp``, and those of ulogd2's filter PRINTFLOW (its
``util/printflow.c``); before them may stand syslog's header with a time in ISO 8601.

**Bytes** are of IP, as netfilter sees packets (``nf_conntrack_acct``, which has to be
on: ``sysctl net.netfilter.nf_conntrack_acct=1``).

**Records**: only ``DESTROY`` has totals, and counts. ``NEW`` says when the connection
began; else ``delta-time`` does (``nf_conntrack_timestamp``). With neither, a flow starts
when netfilter forgot it, up to its timeout too late, and has no duration. Other events
are passed over.

**Ends** are those of the original direction, before addresses were translated.
**Conversation** follows from packets; TCP that was closed by the responder's only packet
was rejected.
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

from exfilml.exceptions import SourceError
from exfilml.sources._keyvalues import (
    KeyValues,
    filled,
    line_texts,
    portions,
    whole_numbers,
)
from exfilml.sources._lines import BadLines, Block, ahead, blocks
from exfilml.sources._logs import flows_of, losses, microseconds, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._sessions import Beginnings, begun, session_states
from exfilml.sources._words import protocol_numbers

_EVENT: Final = re.compile(
    rb"\[(?:NEW|UPDATE|DESTROY)\] [^=\n]{0,80}\b(?:src|SRC)=[0-9a-f]"
)
_HEAD: Final = (
    r"^(?:<[0-9]{1,3}>)?(?:1 )?(?:\[(?P<seconds>[0-9]{1,11}\.[0-9]{6})\]"
    r"|(?P<iso>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|[+-][0-9]{2}:?[0-9]{2})))?"
    r"[^\[]*(?:\[[0-9]+\][^\[]*)?\[(?P<event>NEW|DESTROY)\]"
    r"(?:\s+ipv[46]\s+[0-9]+)?(?:\s+\S+\s+(?P<protocol>[0-9]{1,3})"
    r"(?:\s+[0-9]+)?(?:\s+(?P<state>[A-Z_0-9]+))?\s)?"
)
_PARTS: Final = ("seconds", "iso", "event", "protocol", "state")
# conntrack's names, and those of PRINTFLOW.
_NAMES: Final = {
    "src_ip": ("src", "SRC"),
    "dst_ip": ("dst", "DST"),
    "src_port": ("sport", "SPT"),
    "dst_port": ("dport", "DPT"),
    "packets": ("packets", "PKTS"),
    "bytes": ("bytes", "BYTES"),
}
_NO_COUNTS: Final = (
    "connections without byte counts. Let netfilter count them: `sysctl "
    "net.netfilter.nf_conntrack_acct=1`."
)


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are events of connections."""
    return _EVENT.search(head) is not None


def read(path: Path, options: Options) -> Reading:
    """Read a whole file."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a file piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If not one line could be read, or no connection has byte counts.
    """
    bad, seen = BadLines(), BadLines()
    beginnings = Beginnings()
    total = 0
    uncounted = True
    with open_plain(path, options.advance) as plain:
        found = (_events(block, seen) for block in portions(blocks(plain, seen)))
        for events in ahead(found):
            ends = beginnings.add(events, ("time",))
            uncounted = uncounted and not _valid(ends, "src_bytes")
            flows = _flows(ends, path, bad)
            total += len(flows)
            yield Reading(flows)
    bad.merge(seen)
    if bad.bad and not total and uncounted:
        raise SourceError(f"{path}: {_NO_COUNTS}")
    yield losses(path, bad, plain.damage, total)


def _valid(table: pa.Table, name: str) -> bool:
    return bool(table.num_rows > table.column(name).null_count)


def _events(block: Block, bad: BadLines) -> pa.Table:
    """Read when connections began and how they ended."""
    fields = KeyValues(block, separators=b" \t", quoted=False)
    head = pc.extract_regex(line_texts(block), _HEAD)
    part = {name: pc.struct_field(head, name) for name in _PARTS}
    none = pa.scalar(None, pa.string())
    part = {
        name: pc.if_else(pc.equal(texts, ""), none, texts)
        for name, texts in part.items()
    }
    known = part["event"].is_valid().to_numpy(zero_copy_only=False)
    bad.lines += int(known.sum())
    updates = block.data.count(b"[UPDATE]")
    bad.foreign += max(filled(block) - int(known.sum()) - updates, 0)

    def texts(name: str, nth: int = 0) -> Any:
        return pc.coalesce(*(fields.texts(key, nth) for key in _NAMES[name]))

    columns: dict[str, Any] = {
        "begins": pc.equal(part["event"], "NEW"),
        "time": pc.coalesce(_microseconds(part["seconds"]), microseconds(part["iso"])),
        "protocol": pc.coalesce(part["protocol"], fields.texts("PROTO")),
        "state": part["state"],
        "lasted": fields.numbers("delta-time"),
        "id": fields.texts("id"),
        # Both directions of an echo have one of their own before it.
        "echo_id": fields.texts("id", 2),
    }
    for name in ("src_ip", "dst_ip", "src_port", "dst_port"):
        columns[name] = texts(name)
    for nth, way in enumerate(("src", "dst")):
        for what in ("packets", "bytes"):
            columns[f"{way}_{what}"] = whole_numbers(texts(what, nth))
    ends = ("protocol", "src_ip", "src_port", "dst_ip", "dst_port", "id")
    columns["session"] = pc.binary_join_element_wise(
        *(columns[name] for name in ends), " ", null_handling="replace"
    )
    columns["line"] = pa.array(np.arange(block.first, block.first + len(fields)))
    return pa.table(columns).filter(pa.array(known))


def _microseconds(texts: Any) -> Any:
    """Read seconds with six decimals, in microseconds."""
    return whole_numbers(pc.replace_substring(texts, ".", ""))


def _flows(ends: pa.Table, path: Path, bad: BadLines) -> pd.DataFrame:
    if not ends.num_rows:
        return pd.DataFrame()
    ends = ends.combine_chunks()

    def column(name: str) -> Any:
        return ends.column(name).chunk(0)

    src_ip = column("src_ip").dictionary_encode()
    protocol = protocol_numbers(column("protocol").dictionary_encode(), src_ip)
    has_ports = pc.is_in(protocol, pa.array([6, 17, 33, 132, 136]))
    ended, began = column("time"), column("began_time")
    seen = pc.subtract(ended, began)
    told = pc.subtract(ended, begun(ended, column("lasted")))
    lasted = pc.coalesce(seen, pc.if_else(column("lasted").is_valid(), told, seen))
    is_icmp = pc.is_in(protocol, pa.array([1, 58]))
    columns: dict[str, Any] = {
        "start": pc.subtract(ended, pc.fill_null(lasted, 0)),
        "duration_s": pc.divide(lasted.cast(pa.float64(), safe=False), 1e6),
        "src_ip": src_ip,
        "dst_ip": column("dst_ip").dictionary_encode(),
        "protocol": protocol,
        "uid": pc.if_else(is_icmp, column("echo_id"), column("id")),
        "sensor": pa.repeat(path.name, ends.num_rows),
    }
    for way in ("src", "dst"):
        port = whole_numbers(column(f"{way}_port"))
        columns[f"{way}_port"] = pc.if_else(has_ports, port, 0)
        columns[f"{way}_bytes"] = column(f"{way}_bytes")
        columns[f"{way}_packets"] = column(f"{way}_packets")
    closed = pc.equal(column("state"), "CLOSE")
    columns["conn_state"] = session_states(columns, closed)
    return flows_of(columns, column("line").to_numpy(), 0, bad)
