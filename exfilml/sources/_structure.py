"""Checks the record structure of a capture file, which the packet engine does not.

libpcap stops or stumbles at the first bad record, and NFStream passes that on as
an ordinary end of file. Walking the record headers here costs a few nanoseconds a
packet and tells how much of a file could not be read. On the way it counts what else
the engine drops without a word: of a fragmented IP packet it sees the first fragment.

Formats: draft-ietf-opsawg-pcap (classic), draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml._jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

# libpcap refuses longer records as damage (MAXIMUM_SNAPLEN in its pcap-int.h).
MAX_RECORD: Final = 262144
MAX_BLOCK: Final = 16 * 1024 * 1024

# So much of a file is mapped to memory at a time, whatever its size.
WINDOW: Final = 1 << 26

_SOUND, _CUT, _GARBAGE = 0, 1, 2
_CLASSIC: Final = {
    b"\xd4\xc3\xb2\xa1": 16,
    b"\xa1\xb2\xc3\xd4": 16,
    b"\x4d\x3c\xb2\xa1": 16,
    b"\xa1\xb2\x3c\x4d": 16,
    # Kuznetzov's variant: eight more bytes in every record header.
    b"\x34\xcd\xb2\xa1": 24,
    b"\xa1\xb2\xcd\x34": 24,
}
_PCAPNG: Final = b"\x0a\x0d\x0d\x0a"


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a capture stops being one.

    Attributes
    ----------
    packets
        Sound packet records before that place.
    offset, size
        Of that place and of the file, in bytes.
    cut
        Whether the file merely ends within a record.
    """

    packets: int
    offset: int
    size: int
    cut: bool

    def __str__(self) -> str:
        lost = self.size - self.offset
        how = (
            f"ends within a record; its last {lost:,} bytes are"
            if self.cut
            else f"has no packet record at byte {self.offset:,}; what can be read of "
            f"the {lost:,} bytes from there on is"
        )
        fate = "lost" if self.cut else "uncertain"
        return f"{how} {fate} ({self.packets:,} packets before are sound)"


@dataclass(frozen=True, slots=True)
class Structure:
    """What was found in a capture.

    Attributes
    ----------
    damage
        Where it stops being one, or None.
    fragments, fragment_bytes
        IP fragments other than the first, and their IP bytes.
    oversized
        Packets in pcapng that hold more than their interface's snapshot length;
        libpcap refuses them.
    """

    damage: Damage | None
    fragments: int = 0
    fragment_bytes: int = 0
    oversized: int = 0

    def facts(self) -> dict[str, str | int | None]:
        """Give them as JSON takes them; the damage as a sentence."""
        return {
            "damage": None if self.damage is None else str(self.damage),
            "fragments": self.fragments,
            "fragment_bytes": self.fragment_bytes,
            "oversized": self.oversized,
        }


def inspect_capture(path: Path) -> Structure:
    """Walk the records of a capture.

    Parameters
    ----------
    path
        A file that `exfilml.sources._pcap.detect` takes for a capture.
    """
    size = path.stat().st_size
    if size < 24:
        return Structure(Damage(0, 0, size, cut=True))
    lost = np.zeros(3, dtype=np.int64)
    # What sections of pcapng say of themselves: byte order, link type, longest packet.
    told = np.array([1, -1, MAX_RECORD], dtype=np.int64)
    packets, state = 0, _SOUND
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data: NDArray[np.uint8] = np.frombuffer(mapped, dtype=np.uint8)
        magic = mapped[:4]
        little = magic[0] != 0xA1
        offset = 0 if magic == _PCAPNG else 24
        while offset < size and state == _SOUND:
            stop = min(size, offset + WINDOW)
            if magic == _PCAPNG:
                found, offset, state = _walk_blocks(data, offset, stop, told, lost)
            else:
                header = _CLASSIC[magic]
                found, offset, state = _walk_records(
                    data, offset, stop, header, little, lost
                )
            packets += found
            # Else the whole file would be in memory, and seem to be used.
            behind = min(offset, size) // mmap.PAGESIZE * mmap.PAGESIZE
            mapped.madvise(mmap.MADV_DONTNEED, 0, behind)
        # The mapping can only be closed when no array looks into it.
        del data
        mapped.close()
    cut = state == _CUT
    damage = None if state == _SOUND else Damage(packets, offset, size, cut)
    return Structure(damage, *(int(count) for count in lost))


@compiled
def _u32(data: NDArray[np.uint8], at: int, little: bool) -> np.int64:
    a, b = np.int64(data[at]), np.int64(data[at + 1])
    c, d = np.int64(data[at + 2]), np.int64(data[at + 3])
    if little:
        return a | b << 8 | c << 16 | d << 24
    return d | c << 8 | b << 16 | a << 24


@compiled
def _ip_offset(data: NDArray[np.uint8], at: int, end: int, link: int) -> int:
    """Find the IP header of a packet on the common link types; -1 for none."""
    if link == 1:
        at += 12
        while at + 4 <= end and data[at] == 0x81 and data[at + 1] == 0:
            at += 4
        four = at + 2 <= end and data[at] == 0x08 and data[at + 1] == 0
        six = at + 2 <= end and data[at] == 0x86 and data[at + 1] == 0xDD
        return at + 2 if four or six else -1
    if link == 113:
        return at + 16
    if link == 276:
        return at + 20
    if link == 0:
        return at + 4
    return at if link in (12, 14, 101, 228, 229) else -1


@compiled
def _note_fragment(
    data: NDArray[np.uint8], at: int, length: int, link: int, lost: NDArray[np.int64]
) -> None:
    end = at + length
    at = _ip_offset(data, at, end, link)
    if at < 0 or at + 20 > end:
        return
    version = data[at] >> 4
    if version == 4 and (data[at + 6] & 0x1F or data[at + 7]):
        lost[0] += 1
        lost[1] += data[at + 2] * 256 + data[at + 3]
        return
    split = version == 6 and at + 48 <= end and data[at + 6] == 44
    if split and (data[at + 42] or data[at + 43] & 0xF8):
        lost[0] += 1
        lost[1] += 40 + data[at + 4] * 256 + data[at + 5]


@compiled
def _walk_records(
    data: NDArray[np.uint8],
    at: int,
    stop: int,
    header: int,
    little: bool,
    lost: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Walk from a record to the first at or behind `stop`; say how many, and where."""
    packets = 0
    # The upper bits tell of frame check sequences.
    link = _u32(data, 20, little) & 0xFFFF
    while at < stop:
        if at + header > data.size:
            return packets, at, _CUT
        length = _u32(data, at + 8, little)
        if length > MAX_RECORD:
            return packets, at, _GARBAGE
        if at + header + length > data.size:
            return packets, at, _CUT
        _note_fragment(data, at + header, length, link, lost)
        at += header + length
        packets += 1
    return packets, at, _SOUND


@compiled
def _walk_blocks(  # noqa: C901, PLR0911, PLR0912 - calls cost more than they clear up here
    data: NDArray[np.uint8],
    at: int,
    stop: int,
    told: NDArray[np.int64],
    lost: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Walk as `_walk_records`, and keep what sections tell."""
    packets = 0
    little = told[0] == 1
    while at < stop:
        if at + 12 > data.size:
            return packets, at, _CUT
        kind = _u32(data, at, little)
        if kind == 0x0A0D0D0A:
            little = data[at + 8] == 0x4D
            told[0] = 1 if little else 0
            if _u32(data, at + 8, little) != 0x1A2B3C4D:
                return packets, at, _GARBAGE
        length = _u32(data, at + 4, little)
        if length < 12 or length > MAX_BLOCK or length % 4:
            return packets, at, _GARBAGE
        if at + length > data.size:
            return packets, at, _CUT
        if _u32(data, at + length - 4, little) != length:
            return packets, at, _GARBAGE
        if kind == 1:
            # libpcap reads no further when a second interface has another link type.
            link = _u32(data, at + 8, little) & 0xFFFF
            if told[1] < 0:
                told[1] = link
                stated = _u32(data, at + 12, little)
                told[2] = stated if 0 < stated < MAX_RECORD else MAX_RECORD
            elif link != told[1]:
                return packets, at, _GARBAGE
        if kind in (2, 3, 6):
            packets += 1
            if kind != 3 and length >= 32:
                held = min(_u32(data, at + 20, little), length - 32)
                if held > told[2]:
                    lost[2] += 1
                else:
                    _note_fragment(data, at + 28, held, told[1], lost)
            elif length >= 16:
                held = min(_u32(data, at + 8, little), length - 16)
                _note_fragment(data, at + 12, held, told[1], lost)
        at += length
    return packets, at, _SOUND
