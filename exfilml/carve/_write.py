"""Writes the packets that were found, as pcap or pcapng.

pcapng to pcapng keeps sections, interfaces and packets as they stand, with their
options, and leaves out all other blocks: names and keys of other connections are not
the case's. The length of a section, which is no longer true, is left open.
"""

from __future__ import annotations

import struct
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from exfilml.carve import _packets
from exfilml.carve._blocks import Capture
from exfilml.exceptions import CarveError

_MICRO, _NANO = 0xA1B2C3D4, 0xA1B23C4D
_SECTION: Final = 0x0A0D0D0A
_MOST_SNAP: Final = 262144
_OPEN: Final = b"\xff" * 8
# Of a packet block: type, length, interface, time in two halves, captured, real length.
_WORDS: Final = 7


class PcapFile:
    """A file of classic pcap, little-endian; one link type.

    Parameters
    ----------
    file
        Where to write.
    nano
        Whether times have nanoseconds, not microseconds.
    """

    def __init__(self, file: IO[bytes], *, nano: bool) -> None:
        self._file = file
        self._nano = nano
        self._network: int | None = None
        self._snap = 0
        # Written anew at the end, when the link type is known.
        file.write(bytes(24))

    def begin(self, capture: Capture) -> None:
        """Learn of a capture."""

    def section(self, block: bytes, *, little: bool) -> None:
        """Sections are for pcapng."""

    def take(
        self, data: NDArray[np.uint8], rows: NDArray[np.int64], capture: Capture
    ) -> None:
        """Write packets.

        Raises
        ------
        CarveError
            If they are of another link type than those before.
        """
        self._check_link(rows, capture)
        times = np.maximum(rows[:, _packets.TIME], 0)
        seconds, nanos = np.divmod(times, 1_000_000_000)
        head = np.empty((len(rows), 4), "<u4")
        head[:, 0] = seconds & 0xFFFFFFFF
        head[:, 1] = nanos if self._nano else nanos // 1000
        head[:, 2] = rows[:, _packets.HELD]
        head[:, 3] = rows[:, _packets.WIRE]
        _copy(self._file, data, rows, (_packets.DATA, _packets.HELD), head, pad=False)
        self._snap = max(self._snap, capture.snap, int(rows[:, _packets.HELD].max()))

    def _check_link(self, rows: NDArray[np.int64], capture: Capture) -> None:
        links = set(capture.faces[np.unique(rows[:, _packets.FACE]), 0].tolist())
        network = capture.network if capture.kind == "pcap" else min(links)
        if self._network is None:
            self._network = network
        both = sorted({*links, self._network & 0xFFFF})
        if len(both) > 1:
            raise CarveError(
                f"{capture.path}: the packets of the case have several link types "
                f"({', '.join(map(str, both))}), and pcap holds one. Give the output "
                "the suffix .pcapng."
            )

    def finish(self) -> None:
        """Write the header, now that all is known."""
        network = 1 if self._network is None else self._network
        magic = _NANO if self._nano else _MICRO
        self._file.seek(0)
        snap = self._snap or _MOST_SNAP
        self._file.write(struct.pack("<IHHiIII", magic, 2, 4, 0, 0, snap, network))


class PcapngFile:
    """A file of pcapng: a section for each capture, or each section of it.

    Parameters
    ----------
    file
        Where to write.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._pending: list[bytes] = []

    def begin(self, capture: Capture) -> None:
        """Learn of a capture."""
        self._pending = []
        if capture.kind == "pcap":
            self._pending = [_section_block(), _interface_block(capture)]

    def section(self, block: bytes, *, little: bool) -> None:
        """Keep a block until a packet needs it; a section forgets the one before."""
        if block[:4] == struct.pack("<I", _SECTION):
            self._pending = [block[:16] + _OPEN + block[24:]]
        else:
            self._pending.append(block)

    def take(
        self, data: NDArray[np.uint8], rows: NDArray[np.int64], capture: Capture
    ) -> None:
        """Write packets."""
        self._file.writelines(self._pending)
        self._pending = []
        if capture.kind == "pcapng":
            none = np.empty((len(rows), 0), "<u4")
            _copy(
                self._file, data, rows, (_packets.REC, _packets.SIZE), none, pad=False
            )
            return
        times = rows[:, _packets.TIME]
        if not capture.nano:
            times = times // 1000
        head = np.empty((len(rows), _WORDS), "<u4")
        held = rows[:, _packets.HELD]
        head[:, 0], head[:, 2] = 6, 0
        head[:, 1] = 32 + -(-held // 4) * 4
        head[:, 3], head[:, 4] = times >> 32, times & 0xFFFFFFFF
        head[:, 5], head[:, 6] = held, rows[:, _packets.WIRE]
        _copy(self._file, data, rows, (_packets.DATA, _packets.HELD), head, pad=True)

    def finish(self) -> None:
        """Leave a file that is one, also if no packet was found."""
        if not self._file.tell():
            self._file.write(_section_block())


def _section_block() -> bytes:
    return (
        struct.pack("<IIIHH", _SECTION, 28, 0x1A2B3C4D, 1, 0)
        + _OPEN
        + struct.pack("<I", 28)
    )


def _interface_block(capture: Capture) -> bytes:
    """Describe the one interface of classic pcap; times as fine as there."""
    resolution = struct.pack("<HHB3xHH", 9, 1, 9 if capture.nano else 6, 0, 0)
    link = capture.network & 0xFFFF
    body = struct.pack("<HHI", link, 0, capture.snap) + resolution
    total = 12 + len(body)
    return struct.pack("<II", 1, total) + body + struct.pack("<I", total)


def _copy(
    file: IO[bytes],
    data: NDArray[np.uint8],
    rows: NDArray[np.int64],
    columns: tuple[int, int],
    head: NDArray[Any],
    *,
    pad: bool,
) -> None:
    heads = np.ascontiguousarray(head).view(np.uint8).reshape(len(rows), -1)
    size = int(rows[:, columns[1]].sum()) + heads.size + 8 * len(rows)
    target = np.empty(size, np.uint8)
    used = _packets.gather(data, rows, *columns, heads, pad, target)
    file.write(target[:used].data)
