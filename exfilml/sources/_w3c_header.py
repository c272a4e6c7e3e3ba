"""The lines of the W3C's extended format that say what follows, and who wrote it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from exfilml.sources._delimited import TEXT, Layout

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
    "server": ("r-ip", "r-supplier-ip"),
    "proxy": ("s-ip", "cs-ip"),
    "proxy_port": ("s-port",),
    "agent": ("cs(User-Agent)", "c-agent"),
    "type": ("rs(Content-Type)",),
    "action": ("s-action",),
    "verdict": ("sc-filter-result",),
}
KINDS: Final = {
    "client": TEXT, "up": pa.int64(), "down": pa.int64(), "client_port": pa.int64(),
    "port": pa.int64(), "proxy_port": pa.int64(),
}  # fmt: skip
NEEDED: Final = ("date", "time", "client", "up", "down")
# Only who asks others' hosts for a client has these to say.
_PROXIES: Final = frozenset({"uri", "server", "action", "verdict", "scheme", "port"})
_HOSTS: Final = frozenset({"host", "uri", "server"})


@dataclass(frozen=True, slots=True)
class Section:
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

    def after(self, line: bytes) -> Section:
        """Return what holds after another such line."""
        found = _FIELDS.match(line)
        if found:
            text = found[1].decode("utf-8", "replace").split()
            return Section(tuple(text), self.software_serves)
        if line.lower().startswith(b"#software:"):
            return Section(self.names, _SERVERS.match(line) is not None)
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
            {name: KINDS.get(our, _TEXT) for our, name in ours.items()},
            frozenset(ours[our] for our in NEEDED),
            " ",
            ("-", ""),
            '"',
        )


def first_section(head: bytes) -> Section:
    """Read the lines that a log begins with."""
    section = Section()
    for line in head.lstrip().splitlines():
        if not line.startswith(b"#"):
            break
        section = section.after(line)
    return section


def of_viewers(section: Section) -> bool:
    """Whether CloudFront wrote it, of who looked at what it delivers."""
    return any(name.startswith("x-edge-") for name in section.names)
