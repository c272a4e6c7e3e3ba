"""Squid's access.log, native or like a web server's, with the bytes of requests.

Formats: squid-cache.org, configuration directive ``logformat``. What Squid writes by
itself (``squid``, ``common``, ``combined``) counts ``%<st``, what it sent to the client,
and no upload: that is refused (`refusal`), because of an upload that nobody counted
nothing can be said. One more word in the format mends it, ``up=%>st``, and a few that
are read where they are there (`_squid_lines.LABELS`), in any order, at the end of the line::

    logformat exfilml %ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt up=%>st
        port=%>p proxy=%>la agent=%#{User-Agent}>h
    access_log daemon:/var/log/squid/access.log exfilml

**Bytes**: ``%>st`` is "Total size of request received from client", headers and body,
``%<st`` the same of the reply. In a CONNECT tunnel both count what went through it
(Squid's tunnel.cc points the sizes of client and server at these). They are what TCP
carries and no IP bytes: payload stands for them, and that is told.

**Times**: a line is written when a request is over, ``%tr`` milliseconds after it
began. Those of the formats like a web server's say their zone, and not how long.

**Hosts**: see `exfilml.sources._requests`. The server is the address that Squid
connected to (``%<a``), which is another proxy's where there is one above it. What a
tunnel was asked for by address has the name of the TLS handshake where that is logged
(``sni=%ssl::>sni``). Requests that Squid denied (TCP_DENIED, also the first of each
client that must authenticate) sent nothing to anybody: they are passed over, and told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from exfilml.exceptions import SourceError
from exfilml.sources._keyvalues import portions
from exfilml.sources._lines import BadLines, ahead, blocks
from exfilml.sources._logs import flows_of, losses, whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading
from exfilml.sources._requests import (
    Requests,
    addresses,
    as_columns,
    parts_of,
    requests_of,
    told,
)
from exfilml.sources._squid_lines import read_lines

LOGFORMAT: Final = (
    "logformat exfilml %ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt "
    "up=%>st port=%>p proxy=%>la agent=%#{User-Agent}>h"
)
_NATIVE: Final = re.compile(
    rb"^\s*[0-9]{1,11}\.[0-9]{3} +-?[0-9]+ \S+ [A-Z_]+/[0-9-]{1,3} [0-9]+ \S+ \S+ \S+ "
    rb"[A-Z_0-9]+/\S* ",
    re.MULTILINE,
)
_HTTPD: Final = re.compile(
    rb'^\S+ \S+ [^\[\r\n]*\[[^\]\r\n]+\] "[^\r\n]*" [^"\r\n]*\b[A-Z_]+:[A-Z_0-9]+'
    rb"(?: [^\"\r\n]*)?$",
    re.MULTILINE,
)
_COUNTED: Final = re.compile(rb" up=[0-9]+\s")


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are requests that Squid counted."""
    return _COUNTED.search(head + b"\n") is not None and _is_squid(head)


def _is_squid(head: bytes) -> bool:
    return _NATIVE.search(head) is not None or _HTTPD.search(head) is not None


def refusal(path: str, head: bytes) -> SourceError | None:
    """Say what to do where Squid counted no uploads; None if it is not Squid's."""
    if not _is_squid(head):
        return None
    return SourceError(
        f"{path}: Squid's access.log, which counts what was sent to clients (%<st) and "
        "no uploads. To have them, write in squid.conf, in one line: "
        f'"{LOGFORMAT}", and name that format in access_log. At the least, add '
        '"up=%>st" at the end of the format that you have.'
    )


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
    bad = BadLines()
    requests = Requests(options.idle_timeout)
    total = denied = hostless = 0
    with open_plain(path, options.advance) as plain:
        seen = BadLines()
        for block in ahead(portions(blocks(plain, seen))):
            table = read_lines(block, bad)
            over = pc.starts_with(table.column("result"), "TCP_DENIED")
            over = pc.fill_null(over, False)
            denied += pc.sum(over).as_py() or 0
            table = table.filter(pc.invert(over)).combine_chunks()
            if not table.num_rows:
                continue
            columns, asked = _columns(table)
            hostless += len(asked) - (pc.sum(asked).as_py() or 0)
            columns["sensor"] = pa.repeat(path.name, table.num_rows)
            lines = table.column("line").filter(asked).to_numpy()
            flows = requests.add(flows_of(as_columns(columns, asked), lines, 0, bad))
            total += len(flows)
            yield Reading(flows)
    flows = requests.finish()
    total += len(flows)
    yield Reading(flows)
    bad.merge(seen)
    yield told(
        losses(path, bad, plain.damage, total), path, bad.lines, denied, hostless
    )


def _columns(table: pa.Table) -> tuple[dict[str, Any], Any]:
    fields = {name: table.column(name).combine_chunks() for name in table.column_names}
    scheme, host, port = parts_of(fields["url"])
    literal = pc.is_valid(addresses(host))
    fields |= {
        "scheme": scheme,
        "host": pc.if_else(literal, pc.coalesce(fields["sni"], host), host),
        "port": port,
        "server": addresses(pc.if_else(literal, host, fields["server"])),
        "proxy": addresses(fields["proxy"]),
    }
    return requests_of(fields, proxied=True)
