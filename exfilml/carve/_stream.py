"""One direction of a flow, put together; its bytes stay where they were captured."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from exfilml.carve import _packets
from exfilml.carve._carved import Source
from exfilml.export import complete_file

_AT_ONCE: Final = 1 << 23


@dataclass(frozen=True, eq=False)
class Stream:
    """What one direction of a flow carried, in order.

    The bytes stay in the capture until they are read. Offsets count missing bytes too.

    Attributes
    ----------
    flow
        The flow, by the index of the flows given.
    way
        ``src`` for what the flow's source sent, ``dst`` for the answers.
    protocol
        IANA number.
    length
        Bytes that were sent, as far as can be seen: held and missing ones.
    held
        Bytes that are there.
    gaps
        Offsets at which missing bytes begin and end, int64 of shape (n_gaps, 2).
    gap_cut
        Of each gap, whether the capture cut packets off (snapshot length); else packets
        are missing.
    messages
        Lengths of the datagrams or echo messages, in order; None for TCP.
    connections
        TCP connections of the same ends, one behind the other.
    begin_seen, end_seen
        Whether the first connection's SYN and the last one's FIN were seen; True
        without connections.
    segments
        Segments or datagrams with bytes, retransmissions and fragments counted.
    repeated
        Bytes that came again, or overlap what was there.
    differing
        Of these, bytes that are not the same: someone hides something, or a device
        in between is broken.
    outside
        Segments that have no place in the stream: sequence numbers of no connection
        seen, or headers cut off.
    """

    flow: Any
    way: str
    protocol: int
    length: int
    held: int
    gaps: NDArray[np.int64]
    gap_cut: NDArray[np.bool_]
    messages: NDArray[np.int64] | None
    connections: int
    begin_seen: bool
    end_seen: bool
    segments: int
    repeated: int
    differing: int
    outside: int
    _at: NDArray[np.int64] = field(repr=False)
    _parts: NDArray[np.int64] = field(repr=False)
    _store: Store = field(repr=False)

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return bytes from an offset on, zeros where they are missing."""
        stop = self.length if size is None else min(self.length, offset + size)
        if offset < 0 or stop <= offset:
            return b""
        plain = bytearray(stop - offset)
        for at, part in self._pieces(offset, stop):
            plain[at - offset : at - offset + len(part)] = part
        return bytes(plain)

    def runs(self) -> NDArray[np.int64]:
        """Return begin and end of what is there without a gap, shape (n_runs, 2)."""
        edges = np.concatenate(([0], self.gaps.ravel(), [self.length])).reshape(-1, 2)
        return edges[edges[:, 0] < edges[:, 1]]

    def write(self, path: Source) -> None:
        """Write the stream to a file; missing bytes are zeros, so that offsets hold.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        with complete_file(Path(path)) as part, part.open("wb") as file:
            for at, piece in self._pieces(0, self.length):
                file.seek(at)
                file.write(piece)
            file.truncate(self.length)

    def _pieces(self, begin: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield runs of bytes with their offsets, in order."""
        first = max(int(np.searchsorted(self._at, begin, side="right")) - 1, 0)
        last = int(np.searchsorted(self._at, stop, side="left"))
        at, parts = self._at[first:last].copy(), self._parts[first:last].copy()
        if not len(at):
            return
        before = max(begin - int(at[0]), 0)
        at[0] += before
        parts[0] += (before, -before)
        over = max(int(at[-1] + parts[-1, 1]) - stop, 0)
        parts[-1, 1] -= over
        there = parts[:, 1] > 0
        at, parts = at[there], parts[there]
        ends = at + parts[:, 1]
        breaks = np.flatnonzero(at[1:] != ends[:-1]) + 1
        sums = np.cumsum(parts[:, 1])
        piece = 0
        for stop_at in [*breaks.tolist(), len(at)]:
            while piece < stop_at:
                done = int(sums[piece - 1]) if piece else 0
                most = int(np.searchsorted(sums, done + _AT_ONCE, side="right"))
                upto = min(max(most, piece + 1), stop_at)
                yield int(at[piece]), self._store.copy(parts[piece:upto])
                piece = upto


class Store:
    """The capture that streams look into, mapped to memory."""

    def __init__(self, path: Path) -> None:
        self.data: NDArray[np.uint8] = np.zeros(0, np.uint8)
        if path.stat().st_size:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.data = np.frombuffer(mapped, np.uint8)

    def copy(self, parts: NDArray[np.int64]) -> bytes:
        """Return parts of the file, given by place and length, one behind the other."""
        target = np.empty(int(parts[:, 1].sum()), np.uint8)
        none = np.empty((len(parts), 0), np.uint8)
        _packets.gather(self.data, parts, 0, 1, none, False, target)
        return target.tobytes()
