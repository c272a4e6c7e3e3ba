"""The W3C's extended log format, as proxies (Blue Coat, ProxySG) and IIS write it.

Format: W3C working draft WD-logfile-960323. A line ``#Fields:`` names what follows, and
may come again with other fields; ``-`` is no value; texts with blanks are quoted.
Fields: Symantec's "Access Log Fields" for ProxySG; learn.microsoft.com, "W3C Logging".

**Bytes**: ``cs-bytes`` went from the client to the proxy or server, ``sc-bytes`` back:
"Number of bytes sent from client to appliance" and the reverse, "number of bytes
received and processed by the server" and sent by it. They are what HTTP carried, which
stands for IP bytes, and that is told. IIS logs neither unless it is told to: without
them a file is refused, with what to do.

**Times** are UTC, by the draft, by IIS ("the time, in coordinated universal time") and
by Blue Coat, whose ``date`` and ``time`` are GMT; ``localtime`` is not read. They are
those of the end of a request, ``time-taken`` after its beginning: whole milliseconds,
as all of these write it; seconds, as the draft has it, where there is a decimal point.

**Direction**: a proxy's log tells of a site's clients and others' hosts
(`exfilml.sources._requests`). A web server's own log, which names neither a requested
host's address nor what the proxy did, tells of clients elsewhere that fetch from the
site: what leaves is ``sc-bytes``, and the place is the client's address. That is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.exceptions import SourceError
from exfilml.sources import _delimited
from exfilml.sources._delimited import TEXT, Records
from exfilml.sources._headed import times
from exfilml.sources._lines import BadLines, Block, ahead, blocks
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
from exfilml.sources._w3c_header import KINDS, Section, first_section, of_viewers

_TEXT: Final = pa.string()
_HEADER: Final = re.compile(rb"^#.*$", re.MULTILINE)
SERVERS_VIEW: Final = "of a web server, not of a proxy"


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are requests with bytes of both sides."""
    section = first_section(head.removeprefix(b"\xef\xbb\xbf"))
    return bool(section.names) and not section.missing and not of_viewers(section)


def refusal(path: str, head: bytes) -> SourceError | None:
    """Say what such a log lacks; None if it is no such log."""
    section = first_section(head.removeprefix(b"\xef\xbb\xbf"))
    if not section.names:
        return None
    if of_viewers(section):
        return SourceError(
            f"{path}: CloudFront's log of who looked at what it delivers: no flows of "
            "a site's hosts."
        )
    lacking = ", ".join(section.missing)
    how = (
        'In IIS: Logging, W3C, "Select Fields", Bytes Sent and Bytes Received '
        "(logExtFileFlags BytesSent,BytesRecv)."
        if section.serves
        else "Add them to the access log format of the proxy."
    )
    return SourceError(
        f"{path}: a log in the W3C's extended format without {lacking}: how much was "
        f"uploaded, by whom and when cannot be said without. {how}"
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
    serves = False
    with open_plain(path, options.advance) as plain:
        seen = BadLines()
        for records, first, section in ahead(_records(blocks(plain, seen), seen)):
            fields, over = _fields(records, section, path)
            columns, asked = requests_of(fields, proxied=not section.serves)
            denied += pc.sum(over).as_py() or 0
            hostless += pc.sum(pc.and_not(pc.invert(asked), over)).as_py() or 0
            asked = pc.and_not(asked, over)
            columns["sensor"] = pa.repeat(path.name, len(over))
            lines = records.lines
            if lines is None:
                lines = np.arange(first, first + len(over))
            kept = lines[asked.to_numpy(zero_copy_only=False)]
            flows = requests.add(flows_of(as_columns(columns, asked), kept, 0, bad))
            total += len(flows)
            serves = serves or section.serves
            yield Reading(flows)
    flows = requests.finish()
    total += len(flows)
    yield Reading(flows)
    bad.merge(seen)
    reading = told(
        losses(path, bad, plain.damage, total), path, bad.lines, denied, hostless
    )
    if serves and total:
        text = f"{path}: a web server wrote it: its clients are the remote side, what"
        text += " it sent them (sc-bytes) is what left the site"
        reading = Reading(reading.flows, (*reading.losses, (SERVERS_VIEW, text)))
    yield reading


def _records(
    given: Iterator[Block], bad: BadLines
) -> Iterator[tuple[Records, int, Section]]:
    """Read blocks; yield records, the number of their first line, and their header."""
    section = Section()
    for block in given:
        number, start = block.first, 0
        cuts = [*_HEADER.finditer(block.data), None]
        for cut in cuts:
            data = block.data[start : cut.start() if cut else len(block.data)]
            if data and not data.isspace():
                part = Block.of(data, number)
                found = _read(part, section, bad)
                if found is not None:
                    yield found, part.first, section
            if cut is not None:
                number += block.data.count(b"\n", start, cut.end() + 1)
                start = cut.end() + 1
                section = section.after(cut[0].rstrip(b"\r"))


def _read(block: Block, section: Section, bad: BadLines) -> Records | None:
    if not section.names or section.missing:
        what = ", ".join(section.missing) if section.names else "a #Fields line"
        bad.lines += block.lines
        bad.add(block.first, f"without {what} before it", block.lines)
        return None
    layout = section.layout
    if b"\t" in block.data.partition(b"\n")[0]:
        layout = replace(layout, separator="\t")
    return _delimited.read_block(block, layout, bad)


def _fields(
    records: Records, section: Section, path: Path
) -> tuple[dict[str, Any], Any]:
    """Give the fields of requests, and which of them the proxy denied."""
    table, ours = records.table, section.ours
    count = table.num_rows

    def column(our: str) -> Any:
        kind = KINDS.get(our, _TEXT)
        if our not in ours:
            return pa.nulls(count, _TEXT if kind == TEXT else kind)
        values = table.column(ours[our]).combine_chunks()
        return values.cast(_TEXT) if kind == TEXT else values

    stamps = pc.binary_join_element_wise(column("date"), column("time"), " ")
    end = times(stamps, "UTC", path)
    uri_scheme, uri_host, uri_port = parts_of(column("uri"))
    _, host, host_port = parts_of(column("host"))
    agent = column("agent")
    port = pc.coalesce(column("port"), host_port, uri_port)
    if section.serves:
        # IIS writes blanks as plus signs.
        agent = pc.replace_substring(agent, "+", " ")
        port = pc.coalesce(column("proxy_port"), 80)
    over = pc.or_(
        pc.fill_null(pc.equal(column("verdict"), "DENIED"), False),
        pc.fill_null(pc.match_substring(column("action"), "DENIED"), False),
    )
    fields = {
        "start": pc.subtract(end, _lasted(column("taken"))),
        "end": end,
        "client": column("client"),
        "client_port": column("client_port"),
        "up": column("up"),
        "down": column("down"),
        "method": column("method"),
        "scheme": pc.coalesce(pc.utf8_lower(column("scheme")), uri_scheme),
        "host": pc.coalesce(host, uri_host),
        "port": port,
        "server": addresses(column("server")),
        "proxy": addresses(column("proxy")),
        "agent": agent,
        "type": pc.replace_substring_regex(column("type"), ";.*$", ""),
    }
    return fields, over


def _lasted(texts: Any) -> Any:
    """Return microseconds of milliseconds, or of seconds with a decimal point."""
    right = pc.match_substring_regex(texts, r"^[0-9]{1,9}(\.[0-9]{0,6})?$")
    numbers = pc.if_else(right, texts, pa.scalar(None, _TEXT)).cast(pa.float64())
    factor = pc.if_else(pc.match_substring(texts, "."), 1e6, 1e3)
    lasted = pc.round(pc.multiply(numbers, factor)).cast(pa.int64())
    return pc.fill_null(lasted, 0)
