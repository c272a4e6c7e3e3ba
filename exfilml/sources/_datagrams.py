"""NetFlow and IPFIX datagrams, found in files and captures, cut into sets.

A raw file is one datagram after the other. Version 5 and IPFIX say how long each is.
Version 9 does not (RFC 3954 §5.1): a datagram goes on for as long as sets follow, and
2 to 255 are no set's number (§5.2), so that 5, 9 or 10 begins the next.

What is inside is the business of a library (`_exports`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from exfilml.exceptions import SourceError

V5: Final = 5
V9: Final = 9
IPFIX: Final = 10
# Bytes of headers, and of a record of version 5, which has at most 30 of them.
HEADERS: Final = {V5: 24, V9: 20, IPFIX: 16}
V5_RECORD: Final = 48
V5_MOST: Final = 30
LONGEST: Final = 65535
# Numbers of sets: of templates, of options templates; data begin at 256.
TEMPLATE_SETS: Final = {V9: (0, 1), IPFIX: (2, 3)}
DATA: Final = 256
_INSTALL: Final = 'pip install "exfilml[netflow]"'
_NANOSECONDS: Final = 10**9
# Link layers, by libpcap's numbers.
_NULL, _ETHERNET, _SLL, _SLL2 = 0, 1, 113, 276
_RAW: Final = frozenset({12, 14, 101, 228, 229})


@dataclass(frozen=True, slots=True)
class Datagram:
    """One datagram.

    Attributes
    ----------
    data
        From its header to its end.
    exporter
        Address of who sent it; empty where the file does not say.
    """

    data: bytes
    exporter: str = ""

    @property
    def version(self) -> int:
        """Of the protocol: 5, 9 or 10."""
        return int.from_bytes(self.data[:2])

    @property
    def seconds(self) -> int:
        """When it was sent, in seconds since 1970."""
        at = 4 if self.version == IPFIX else 8
        return int.from_bytes(self.data[at : at + 4])

    @property
    def records(self) -> int:
        """How many records version 5 says there are; in IPFIX, bytes."""
        return int.from_bytes(self.data[2:4])

    @property
    def domain(self) -> int:
        """The observation domain (source ID), or the engine in version 5."""
        at = {V5: 20, V9: 16, IPFIX: 12}[self.version]
        return int.from_bytes(self.data[at : at + (2 if self.version == V5 else 4)])

    @property
    def cut(self) -> bool:
        """Whether it goes on behind the end of the data; by its records in version 5."""
        if self.version == IPFIX:
            return self.records > len(self.data)
        return any(end > len(self.data) for _, _, end in self._sets())

    def sets(self) -> Iterator[tuple[int, int, int]]:
        """Yield number, begin and end of each set's content."""
        for number, begin, end in self._sets():
            yield number, begin, min(end, len(self.data))

    def _sets(self) -> Iterator[tuple[int, int, int]]:
        if self.version == V5:
            return
        at = HEADERS[self.version]
        while at + 4 <= len(self.data):
            number, length = struct.unpack_from("!HH", self.data, at)
            if length < 4:
                return
            yield number, at + 4, at + length
            at += length


@dataclass(slots=True)
class Found:
    """What was met on the way to the datagrams of a file.

    Attributes
    ----------
    damage
        Why reading ended before the end of the file, if it did.
    packets, others, fragments
        Of a capture: packets, those that are no exports, and fragments.
    """

    damage: str | None = None
    packets: int = 0
    others: int = 0
    fragments: int = 0


def check_library(path: Path, *, captured: bool) -> None:
    """Check that the libraries are there which take datagrams and captures apart.

    Raises
    ------
    SourceError
        If one is not.
    """
    try:
        import netflume  # noqa: F401 - asked for before anything is read

        if captured:
            import dpkt  # noqa: F401 - likewise
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{path}: NetFlow or IPFIX as exporters send it, which needs "
            f"{error.name}. Install it: {_INSTALL}."
        ) from error


def begins(head: bytes | memoryview) -> bool:
    """Say whether bytes begin with a datagram; it may go on behind them."""
    if len(head) < HEADERS[V5]:
        return False
    version, count = struct.unpack_from("!HH", head)
    if version not in HEADERS or not count:
        return False
    if version == V5:
        nanoseconds = int.from_bytes(head[12:16])
        return len(head) >= HEADERS[V5] + V5_RECORD and nanoseconds < _NANOSECONDS
    at = HEADERS[version]
    number, length = struct.unpack_from("!HH", head, at)
    known = number in TEMPLATE_SETS[version] or number >= DATA
    longest = count - at if version == IPFIX else LONGEST - at
    return bool(known and 4 < length <= longest)


def is_datagram(data: bytes) -> bool:
    """Say whether bytes are one whole datagram, and nothing else but padding."""
    if not begins(data):
        return False
    size = _size(data)
    made = Datagram(data[:size])
    if made.version == V5 and size != HEADERS[V5] + V5_RECORD * made.records:
        return False
    return not made.cut and not data[size:].strip(b"\0")


def _size(data: bytes | memoryview) -> int:
    """Return how long the datagram is that bytes begin with, as far as they go."""
    version, count = struct.unpack_from("!HH", data)
    if version == V5:
        size = HEADERS[V5] + V5_RECORD * min(count, V5_MOST)
    elif version == IPFIX:
        size = count
    else:
        size = HEADERS[V9]
        while size + 4 <= len(data):
            number, length = struct.unpack_from("!HH", data, size)
            known = number in TEMPLATE_SETS[V9] or number >= DATA
            if length < 4 or not known:
                break
            size += length
    return int(min(size, len(data)))


def raw_datagrams(pieces: Iterable[bytes], found: Found) -> Iterator[Datagram]:
    """Cut a file into datagrams."""
    held, at, more = b"", 0, True
    given = iter(pieces)
    while True:
        # A datagram is never longer than this, so that its end is in sight.
        while more and len(held) - at <= 2 * LONGEST:
            piece = next(given, None)
            more = piece is not None
            held, at = held[at:] + (piece or b""), 0
        at = _behind_padding(held, at)
        if at + 1 >= len(held) and held[at:] in {b"", b"\0"}:
            if more:
                continue
            return
        view = memoryview(held)[at : at + 2 * LONGEST]
        size = _size(view) if begins(view) else 0
        if not 0 < size <= LONGEST:
            found.damage = "what follows there is no datagram; the rest is lost"
            return
        yield Datagram(held[at : at + size])
        at += size


def _behind_padding(data: bytes, at: int) -> int:
    """Return where zeros between datagrams end; versions begin with one of their own."""
    if data[at : at + 2] != b"\0\0":
        return at
    rest = data[at:].lstrip(b"\0")
    return len(data) - len(rest) - 1


def captured_datagrams(path: Path, found: Found) -> Iterator[Datagram]:
    """Find the datagrams that a capture holds, whichever port they went to.

    Raises
    ------
    SourceError
        If the capture's link layer is none that is read.
    """
    import dpkt

    with path.open("rb") as opened:
        file = _Watched(opened)
        try:
            packets = dpkt.pcap.UniversalReader(file)
            link = packets.datalink()
            if not (link in _RAW or link in {_ETHERNET, _NULL, _SLL, _SLL2}):
                raise SourceError(f"link layer {link} is not read for exports")
            for _, frame in packets:
                found.packets += 1
                datagram = _carried(dpkt, link, frame, found)
                if datagram is None:
                    found.others += 1
                else:
                    yield datagram
        except (ValueError, dpkt.dpkt.Error, struct.error) as error:
            found.damage = f"the capture is cut off or damaged ({error})"
        else:
            found.damage = "the capture is cut off" if file.short else None


class _Watched:
    """A file that notes when it ends in the middle of what is asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.short = False

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.short = self.short or 0 < len(data) < size
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _carried(dpkt: Any, link: int, frame: bytes, found: Found) -> Datagram | None:
    """Return the datagram that a packet carries."""
    layers = {_ETHERNET: dpkt.ethernet.Ethernet, _NULL: dpkt.loopback.Loopback}
    layers |= {_SLL: dpkt.sll.SLL, _SLL2: dpkt.sll2.SLL2}
    try:
        if link in _RAW:
            kind = dpkt.ip6.IP6 if frame[:1] >= b"\x60" else dpkt.ip.IP
            packet = kind(frame)
        else:
            packet = layers[link](frame).data
    except (dpkt.dpkt.Error, ValueError, IndexError, struct.error):
        return None
    if not isinstance(packet, (dpkt.ip.IP, dpkt.ip6.IP6)):
        return None
    if isinstance(packet, dpkt.ip.IP) and (packet.mf or packet.offset):
        found.fragments += 1
    udp = packet.data
    if not isinstance(udp, dpkt.udp.UDP):
        return None
    data = bytes(udp.data)[: max(udp.ulen - 8, 0)]
    if not is_datagram(data):
        return None
    return Datagram(data, dpkt.utils.inet_to_str(packet.src))
