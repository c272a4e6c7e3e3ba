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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.exceptions import SourceError
from exfilml.sources import _delimited
from exfilml.sources._delimited import TEXT, Layout, Records
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

_HEADER: Final = re.compile(rb"^#.*$", re.MULTILINE)
_FIELDS: Final = re.compile(rb"^#Fields:[ \t]*(.*)$", re.MULTILINE | re.IGNORECASE)
_SERVERS: Final = re.compile(
    rb"^#Software:.*(?:Internet Information Serv|Microsoft HTTP )", re.MULTILINE
)
_TEXT: Final = pa.string()
# Our field → the fields that say it, in order of preference.
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "date": ("date",),
    "time": ("time",),
    "taken": ("time-taken",),
    "client": ("c-ip",),
    "client_port": ("c-port",),
    "up": ("cs-bytes",),
    "down": ("sc-bytes",),
    "method": ("cs-method", "s-operation"),
    "scheme": ("cs-uri-scheme", "cs-protocol"),
    "host": ("cs-host", "cs-uri-host", "r-host", "r-dns", "cs(Host)"),
    "uri": ("cs-uri", "c-uri"),
    "port": ("cs-uri-port", "r-port"),
    "server": ("r-ip", "cs-ip", "r-supplier-ip"),
    "proxy": ("s-ip",),
    "proxy_port": ("s-port",),
    "agent": ("cs(User-Agent)", "c-agent"),
    "type": ("rs(Content-Type)",),
    "action": ("s-action",),
    "verdict": ("sc-filter-result",),
}
_KINDS: Final = {
    "client": TEXT, "up": pa.int64(), "down": pa.int64(), "client_port": pa.int64(),
    "port": pa.int64(), "proxy_port": pa.int64(),
}  # fmt: skip
NEEDED: Final = ("date", "time", "client", "up", "down")
# Only who asks others' hosts for a client has these to say.
_PROXIES: Final = frozenset({"uri", "server", "action", "verdict", "scheme", "port"})
_HOSTS: Final = frozenset({"host", "uri", "server"})
SERVERS_VIEW: Final = "of a web server, not of a proxy"


@dataclass(frozen=True, slots=True)
class _Section:
    """What the lines that begin with ``#`` said of the lines after them.

    Attributes
    ----------
    names
        Fields as the log names them; none before the first ``#Fields``.
    software_serves
        Whether the log says that a web server wrote it.
    """

    names: tuple[str, ...] = ()
    software_serves: bool = False

    def after(self, line: bytes) -> _Section:
        """Return what holds after another such line."""
        found = _FIELDS.match(line)
        if found:
            text = found[1].decode("utf-8", "replace").split()
            return _Section(tuple(text), self.software_serves)
        if line.lower().startswith(b"#software:"):
            return _Section(self.names, _SERVERS.match(line) is not None)
        return self

    @property
    def ours(self) -> dict[str, str]:
        """Our field → the log's."""
        chosen = (
            (our, next((name for name in names if name in self.names), None))
            for our, names in NAMES.items()
        )
        return {our: name for our, name in chosen if name is not None}

    @property
    def serves(self) -> bool:
        """Whether a web server wrote it, of its own clients."""
        own = {"cs-uri-stem", "s-ip"} <= set(self.names)
        return self.software_serves or (own and not _PROXIES & set(self.ours))

    @property
    def missing(self) -> list[str]:
        """What the log would have to say, and does not."""
        ours = self.ours
        lacking = [NAMES[our][0] for our in NEEDED if our not in ours]
        return lacking + ([] if self.serves or _HOSTS & set(ours) else ["cs-host"])

    @property
    def layout(self) -> Layout:
        """How lines are made up; of a field that comes twice, the first counts."""
        names = [
            f"{name} {at}" if name in self.names[:at] else name
            for at, name in enumerate(self.names)
        ]
        ours = self.ours
        return Layout(
            names,
            {name: _KINDS.get(our, _TEXT) for our, name in ours.items()},
            frozenset(ours[our] for our in NEEDED),
            " ",
            ("-", ""),
            '"',
        )


def _first_section(head: bytes) -> _Section:
    section = _Section()
    for line in head.lstrip().splitlines():
        if not line.startswith(b"#"):
            break
        section = section.after(line)
    return section


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are requests with bytes of both sides."""
    section = _first_section(head.removeprefix(b"\xef\xbb\xbf"))
    return bool(section.names) and not section.missing and not _of_viewers(section)


def _of_viewers(section: _Section) -> bool:
    """Whether CloudFront wrote it, of who looked at what it delivers."""
    return any(name.startswith("x-edge-") for name in section.names)


def refusal(path: str, head: bytes) -> SourceError | None:
    """Say what such a log lacks; None if it is no such log."""
    section = _first_section(head.removeprefix(b"\xef\xbb\xbf"))
    if not section.names:
        return None
    if _of_viewers(section):
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
) -> Iterator[tuple[Records, int, _Section]]:
    """Read blocks; yield records, the number of their first line, and their header."""
    section = _Section()
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


def _read(block: Block, section: _Section, bad: BadLines) -> Records | None:
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
    records: Records, section: _Section, path: Path
) -> tuple[dict[str, Any], Any]:
    """Give the fields of requests, and which of them the proxy denied."""
    table, ours = records.table, section.ours
    count = table.num_rows

    def column(our: str) -> Any:
        kind = _KINDS.get(our, _TEXT)
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
