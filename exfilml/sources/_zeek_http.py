"""Zeek's http.log where no conn.log counts the same, in TSV or JSON lines.

Fields: docs.zeek.org, script reference of base/protocols/http/main.zeek
(``HTTP::Info``) and entities.zeek.

**Bytes** are ``request_body_len`` and ``response_body_len``: "Actual uncompressed
content size of the data transferred from the client", and from the server. Headers are
not counted, and what was packed counts as unpacked; these stand for IP bytes, and that
is told. What goes through a tunnel (CONNECT) is not counted at all: such requests are
left out, and told.

Requests of one connection (``uid``) to one host are one flow, from the first request
to the last: through a proxy one connection carries requests to many hosts, and each is
a place of its own. Logs without ``host`` name the server's address.

Where a conn.log of the same connections lies beside, that is read, and this gives names
(`exfilml.sources._zeek_names`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._delimited import TEXT
from exfilml.sources._lines import BadLines, ahead, blocks
from exfilml.sources._logs import NO_FLOWS, flows_of, losses, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._requests import HTTP_BYTES, Requests, as_columns
from exfilml.sources._zeek_log import Wanted, fields_of, read_blocks

_TEXT: Final = pa.string()
_LIST: Final = pa.list_(_TEXT)
NAME: Final = "Zeek http.log"
WANTED: Final = Wanted(
    {
        "ts": pa.float64(),
        "uid": pa.string(),
        "id.orig_h": TEXT,
        "id.orig_p": pa.int64(),
        "id.resp_h": TEXT,
        "id.resp_p": pa.int64(),
        "method": pa.string(),
        "host": pa.string(),
        "user_agent": pa.string(),
        "request_body_len": pa.int64(),
        "response_body_len": pa.int64(),
        "orig_mime_types": _LIST,
        "label": pa.string(),
    },
    frozenset({"ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p"})
    | {"request_body_len", "response_body_len"},
)
# sip.log counts bodies under the same names.
_OF_SIP: Final = frozenset({"call_id", "request_from", "request_path", "seq"})
TUNNELS: Final = "with tunnels whose bytes are not counted"


def detect(head: bytes) -> bool:
    """Say from the first bytes whether this is an http.log."""
    fields = fields_of(head)
    return WANTED.needed <= fields and not _OF_SIP & fields


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
    requests = Requests(options.idle_timeout)
    total = tunnels = 0
    with open_plain(path, options.advance) as plain:
        seen = BadLines()
        for records, first in ahead(read_blocks(blocks(plain, seen), WANTED, seen)):
            columns, tunnel = _columns(records.table)
            lines = records.lines
            number = pa.array(
                range(first, first + len(tunnel)) if lines is None else lines
            )
            tunnels += pc.sum(tunnel).as_py() or 0
            asked = pc.invert(tunnel)
            columns["sensor"] = pa.repeat(path.name, len(tunnel))
            kept = number.filter(asked).to_numpy()
            flows = requests.add(flows_of(as_columns(columns, asked), kept, first, bad))
            total += len(flows)
            yield Reading(flows)
    flows = requests.finish()
    total += len(flows)
    yield Reading(flows)
    bad.merge(seen)
    reading = losses(path, bad, plain.damage, total)
    told = list(reading.losses)
    if tunnels:
        text = f"{path}: {tunnels:,} of {bad.lines:,} requests are for tunnels"
        told.append((TUNNELS, f"{text} (CONNECT), whose bytes are not in it; left out"))
    if not any(kind == NO_FLOWS for kind, _ in told):
        text = f"{path}: its bytes are those of unpacked bodies, without headers"
        told.append((HTTP_BYTES, f"{text}; they stand for IP bytes"))
    yield Reading(reading.flows, tuple(told))


def _columns(table: pa.Table) -> tuple[dict[str, Any], Any]:
    """Give the flows table's columns, and which requests are for tunnels."""
    count = table.num_rows

    def column(name: str, kind: Any = _TEXT) -> Any:
        if name not in table.column_names:
            return pa.nulls(count, kind)
        return table.column(name).combine_chunks()

    columns: dict[str, Any] = {
        "start": column("ts"),
        "duration_s": pa.repeat(pa.scalar(0.0), count),
        "src_ip": column("id.orig_h"),
        "src_port": column("id.orig_p"),
        "dst_ip": column("id.resp_h"),
        "dst_port": column("id.resp_p"),
        "protocol": pa.repeat(pa.scalar(6, pa.int64()), count),
        "app": pa.repeat("HTTP", count),
        # A port is no part of the name.
        "server_name": pc.replace_substring_regex(column("host"), r":[0-9]+$", ""),
        "user_agent": column("user_agent"),
        "content_type": pc.replace_substring_regex(
            column("orig_mime_types"), ",.*$", ""
        ),
        "uid": column("uid"),
        "label": column("label"),
    }
    for way, name in (("src", "request_body_len"), ("dst", "response_body_len")):
        columns[f"{way}_bytes"] = columns[f"{way}_payload_bytes"] = column(
            name, pa.int64()
        )
    answered = pc.greater(columns["dst_bytes"], 0)
    unsaid = pa.scalar(None, pa.string())
    columns["conn_state"] = pc.if_else(answered, "established", unsaid)
    return columns, pc.fill_null(pc.equal(column("method"), "CONNECT"), False)
