"""The compiled part of reassembly: where in a stream each segment belongs.

Sequence numbers (RFC 9293, section 3.4) count modulo 2**32 and are unwound to offsets.
Where segments overlap, what was captured first stays, as Wireshark shows it; bytes that
differ in what came later are counted, because receivers do not agree on which to take
(Ptacek and Newsham, "Insertion, Evasion, and Denial of Service", 1998).

One file because numba's cache notices changes only in the file of the function that
is called.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from exfilml._jit import compiled, compiled_bare

NOWHERE: Final = -(1 << 62)
"""Offset of a segment that has no place in the stream."""

FAR: Final = 1 << 26
"""Bytes ahead, from which on a second segment must confirm a first: more than hosts
keep in flight. As many behind is no retransmission."""

_NEAR: Final = 1 << 20
_FIN, _SYN, _RST = 1, 2, 4
_UNREADABLE: Final = 1024
_WORD: Final = (1 << 32) - 1
_HALF: Final = 1 << 31


@compiled_bare
def _signed(step: int) -> int:
    """Return a step between sequence numbers the shorter way round."""
    step &= _WORD
    return step - (1 << 32) if step >= _HALF else step


@compiled
def unwind(  # noqa: C901, PLR0912, PLR0915 - one pass, one state
    seq: NDArray[np.int64], wire: NDArray[np.int64], flags: NDArray[np.int64]
) -> tuple[Any, Any, Any, Any, int]:
    """Unwind sequence numbers of one direction, in order of arrival.

    Returns
    -------
    offsets, connections : int64 of shape (n_segments,)
        Offset in its connection, `NOWHERE` for what carries nothing; and which
        connection it is, as the same ends may have several.
    opened, closed : per connection
        Whether its first number was seen (bool), and the offset at which it was closed,
        `NOWHERE` if that was not seen.
    outside : int
        Segments with numbers that belong to no connection seen.
    """
    size = len(seq)
    offsets = np.full(size, NOWHERE, np.int64)
    connections = np.zeros(size, np.int64)
    opened = np.zeros(size + 1, np.bool_)
    closed = np.full(size + 1, NOWHERE, np.int64)
    # Offset of the first number, where data were captured before it was known.
    shift = np.zeros(size + 1, np.int64)
    now, begun, outside = 0, False, 0
    first, low_seq, ref_seq, ref = 0, 0, 0, 0
    doubted = -1
    for i in range(size):
        connections[i] = now
        if flags[i] & _UNREADABLE or flags[i] & _RST:
            continue
        here = seq[i]
        if flags[i] & _SYN:
            here = (here + 1) & _WORD
            late = begun and not opened[now] and (low_seq - here) & _WORD <= FAR
            if late:
                # It was captured behind the data that follow it.
                opened[now], first, low_seq = True, here, here
                shift[now] = ref + _signed(here - ref_seq)
            elif not begun or not opened[now] or here != first:
                now += 1 if begun else 0
                opened[now], begun = True, True
                first = low_seq = ref_seq = here
                ref = 0
            connections[i] = now
        if wire[i] == 0 and not flags[i] & _FIN:
            continue
        if not begun:
            begun = True
            low_seq = ref_seq = here
            ref = 0
        step = _signed(here - ref_seq)
        if abs(step) > FAR:
            near = (here - doubted) & _WORD
            if doubted < 0 or near > _NEAR:
                doubted = (here + wire[i]) & _WORD
                outside += 1
                continue
            step = (here - ref_seq) & _WORD
        doubted = -1
        offset = ref + step
        if offset < 0 and not opened[now] and (low_seq - here) & _WORD < _HALF:
            low_seq = here
        if offset + wire[i] >= ref:
            ref, ref_seq = offset + wire[i], (here + wire[i]) & _WORD
        if flags[i] & _FIN:
            closed[now] = max(closed[now], offset + wire[i])
        if wire[i]:
            offsets[i] = offset
    for i in range(size):
        if offsets[i] != NOWHERE:
            offsets[i] -= shift[connections[i]]
    for i in range(now + 1):
        if closed[i] != NOWHERE:
            closed[i] -= shift[i]
    return offsets, connections, opened[: now + 1], closed[: now + 1], outside


@compiled_bare
def _push(heap: NDArray[np.int64], size: int, value: int) -> None:
    at = size
    while at and heap[(at - 1) // 2] > value:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = value


@compiled_bare
def _pop(heap: NDArray[np.int64], size: int) -> None:
    value, at = heap[size - 1], 0
    size -= 1
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


@compiled
def cover(
    starts: NDArray[np.int64], ends: NDArray[np.int64], order: NDArray[np.int64]
) -> tuple[Any, Any, Any]:
    """Say which segment each byte of a stream is taken from: the first that has it.

    Parameters
    ----------
    starts, ends
        Of segments, in order of arrival.
    order
        Their positions in order of start.

    Returns
    -------
    at, length, segment : int64 of shape (n_pieces,)
        Pieces in order of the stream, that do not overlap.
    """
    size = len(starts)
    heap = np.empty(size, np.int64)
    at = np.empty(2 * size, np.int64)
    length = np.empty(2 * size, np.int64)
    segment = np.empty(2 * size, np.int64)
    held, taken, following, here = 0, 0, 0, NOWHERE
    while True:
        while held and ends[heap[0]] <= here:
            _pop(heap, held)
            held -= 1
        if not held:
            if following == size:
                break
            here = max(here, starts[order[following]])
        while following < size and starts[order[following]] <= here:
            if ends[order[following]] > here:
                _push(heap, held, order[following])
                held += 1
            following += 1
        if not held:
            continue
        top = heap[0]
        stop = ends[top]
        if following < size:
            stop = min(stop, starts[order[following]])
        last = taken - 1
        if taken and segment[last] == top and at[last] + length[last] == here:
            length[last] += stop - here
        else:
            at[taken], length[taken], segment[taken] = here, stop - here, top
            taken += 1
        here = stop
    return at[:taken].copy(), length[:taken].copy(), segment[:taken].copy()


@compiled
def count_differing(
    data: Any,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    places: NDArray[np.int64],
    at: NDArray[np.int64],
    length: NDArray[np.int64],
    segment: NDArray[np.int64],
) -> int:
    """Count bytes of segments that differ from those that were taken instead."""
    used = np.zeros(len(starts), np.int64)
    for piece in range(len(at)):
        used[segment[piece]] += length[piece]
    differing = 0
    for i in range(len(starts)):
        if used[i] == ends[i] - starts[i]:
            continue
        piece = np.searchsorted(at, starts[i], side="right") - 1
        while piece < len(at) and at[piece] < ends[i]:
            other = segment[piece]
            if other != i:
                begin = max(at[piece], starts[i])
                stop = min(at[piece] + length[piece], ends[i])
                mine = places[i] - starts[i]
                theirs = places[other] - starts[other]
                for byte in range(begin, stop):
                    if data[mine + byte] != data[theirs + byte]:
                        differing += 1
            piece += 1
    return differing
