"""A capture that is read, and the blocks of pcapng that tell of what follows."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from exfilml.carve import _packets

PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
_MOST_TICKS: Final = 63
_TSRESOL, _TSOFFSET = 9, 14


class Sink(Protocol):
    """What becomes of the packets that are found."""

    def begin(self, capture: Capture) -> None:
        """Learn of a capture that is read from here on."""

    def section(self, block: bytes, *, little: bool) -> None:
        """Learn of a section or an interface of pcapng, as it stands in the file."""

    def take(
        self, data: NDArray[np.uint8], rows: NDArray[np.int64], capture: Capture
    ) -> None:
        """Take packets, by their rows (`_packets`)."""


@dataclass(slots=True)
class Capture:
    """A capture, and what is known of it so far.

    Attributes
    ----------
    path
        As it was given.
    kind
        ``pcap`` or ``pcapng``.
    network
        Of classic pcap, the link type with what else its field tells.
    nano
        Whether its times are finer than microseconds, as far as was read.
    snap
        The longest packet it was to hold.
    faces
        Link type, unit of time (three numbers) and snapshot length by interface.
    told
        Counts over it (`_packets.T_PACKETS` …).
    size
        Bytes of the plain file.
    """

    path: Path
    kind: str = "pcap"
    network: int = 1
    nano: bool = False
    snap: int = 0
    known: int = 0
    faces: NDArray[np.int64] = field(default_factory=lambda: np.zeros((8, 5), np.int64))
    told: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(_packets.TOLD, np.int64)
    )
    size: int = 0

    @property
    def times(self) -> tuple[int, int] | None:
        """First and last time in ns since 1970; None for no packets with a time."""
        first, last = self.told[_packets.T_FIRST], self.told[_packets.T_LAST]
        return (int(first), int(last)) if first <= last else None

    def add_face(self, link: int, unit: tuple[int, int, int], snap: int) -> None:
        """Add an interface."""
        if self.known == len(self.faces):
            self.faces = np.vstack([self.faces, np.zeros_like(self.faces)])
        self.faces[self.known] = (link, *unit, snap)
        self.known += 1
        self.snap = max(self.snap, snap)


def read_section(
    mapped: mmap.mmap, offset: int, capture: Capture, sink: Sink
) -> tuple[int, int]:
    """Read a block that begins a section or an interface; say where it ends, or why not."""
    if offset + 12 > capture.size:
        return offset, _packets.CUT
    little = bool(capture.told[_packets.T_LITTLE])
    begins = mapped[offset : offset + 4] == PCAPNG
    if begins:
        mark = mapped[offset + 8 : offset + 12]
        little = mark == b"\x4d\x3c\x2b\x1a"
        if not little and mark != b"\x1a\x2b\x3c\x4d":
            return offset, _packets.GARBAGE
    order = "<" if little else ">"
    (length,) = struct.unpack_from(f"{order}I", mapped, offset + 4)
    least = 28 if begins else 20
    if length < least or length > _packets.MAX_BLOCK or length % 4:
        return offset, _packets.GARBAGE
    if offset + length > capture.size:
        return offset, _packets.CUT
    block = mapped[offset : offset + length]
    if struct.unpack_from(f"{order}I", block, length - 4) != (length,):
        return offset, _packets.GARBAGE
    if begins:
        capture.told[_packets.T_LITTLE] = int(little)
        capture.known = 0
    else:
        link, _, snap = struct.unpack_from(f"{order}HHI", block, 8)
        unit, fine = _unit_of(block, order)
        capture.nano |= fine
        capture.add_face(link, unit, snap)
    sink.section(block, little=little)
    return offset + length, _packets.SOUND


def _unit_of(block: bytes, order: str) -> tuple[tuple[int, int, int], bool]:
    """Read the unit of an interface's times: how, by what, and ns to be added.

    Also whether it is finer than a microsecond. 0 multiplies, 1 divides, 2 shifts by
    so many bits.
    """
    resolution, offset = 6, 0
    at, end = 16, len(block) - 4
    while at + 4 <= end:
        code, size = struct.unpack_from(f"{order}HH", block, at)
        at += 4
        if code == 0 or at + size > end:
            break
        if code == _TSRESOL and size == 1:
            resolution = block[at]
        elif code == _TSOFFSET and size == 8:
            (offset,) = struct.unpack_from(f"{order}q", block, at)
        at += -(-size // 4) * 4
    # What no clock has; times of the far future would leave 64 bits.
    offset = offset * 10**9 if abs(offset) < 9 * 10**9 else 0
    power = resolution & 0x7F
    if resolution & 0x80:
        return (2, min(power, _MOST_TICKS), offset), power > 19
    if power <= 9:
        return (0, 10 ** (9 - power), offset), power > 6
    return (1, 10 ** min(power - 9, 18), offset), True
