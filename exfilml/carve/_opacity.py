"""Where in a stream opaque bytes begin, and what stands before them.

`exfilml.payload` judges the head. Where that is not opaque, windows of `WINDOW` bytes
behind it are judged in turn, and two in a row (or all that is left) must be opaque: the
verdict of one is wrong too often. From the first of them, steps of `STEP` bytes go back
as long as these can be random bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from exfilml.carve._stream import Stream
from exfilml.payload import (
    OPAQUE_P,
    PayloadEvidence,
    find_magic,
    judge,
    judge_stream,
    p_uniform,
)

HEAD: Final = 1 << 16
WINDOW: Final = 4096
STEP: Final = 128
MOST: Final = 1 << 26
"""Bytes that are searched."""

_HEAD_STEP: Final = 64
"""How closely payload knows where opaque bytes begin in a head."""

_CANNOT: Final = 1e-4
"""Of 32 steps in a window of random bytes, one in 300 is taken for something else."""

_LEAST: Final = 256


@dataclass(frozen=True, slots=True)
class Opacity:
    """What a stream is, and from where on it cannot be told from random bytes.

    Attributes
    ----------
    begin
        Offset in the stream; None where no opaque bytes were found.
    within
        Bytes by which that may be wrong.
    p_uniform
        p-value of uniform random bytes for up to `HEAD` bytes from `begin` on; nan for
        none.
    magic
        File format that the stream begins with, by its magic number.
    evidence
        What payload says of its head.
    searched
        Offset up to which it was searched.
    """

    begin: int | None
    within: int
    p_uniform: float
    magic: str | None
    evidence: PayloadEvidence
    searched: int


def find_opaque(stream: Stream) -> Opacity:
    """Find where opaque bytes begin.

    Parameters
    ----------
    stream
        One direction of a flow. Gaps are left out: no window spans one.
    """
    runs = [(int(begin), int(end)) for begin, end in stream.runs()[:HEAD]]
    if not runs:
        none = judge(b"")
        return Opacity(None, 0, math.nan, None, none, 0)
    first, end = runs[0]
    head = stream.read(first, min(end - first, HEAD))
    evidence = judge_stream(
        head,
        stream_bytes=stream.length,
        protocol=stream.protocol,
        packets=_packets_of(stream, first, len(head)),
    )
    begin, within, searched = None, 0, first + len(head)
    if not math.isnan(evidence.opaque_from):
        begin, within = first + int(evidence.opaque_from), _HEAD_STEP
        if begin == first:
            within = 0
    elif not evidence.concealed:
        begin, searched = _search(stream, runs)
        within = 0 if begin is None or begin in {a for a, _ in runs} else STEP
    p = math.nan
    if begin is not None:
        stop = next((b for a, b in runs if a <= begin < b), begin)
        p = p_uniform(stream.read(begin, min(stop - begin, HEAD)))
    return Opacity(
        begin, within, p, find_magic(head) or evidence.magic, evidence, searched
    )


def _packets_of(stream: Stream, first: int, size: int) -> tuple[int, ...]:
    """Return the lengths of the messages that a head is made of."""
    if stream.messages is None or first:
        return ()
    taken = []
    for length in stream.messages.tolist():
        if size <= 0:
            break
        taken.append(min(length, size))
        size -= length
    return tuple(taken)


def _search(stream: Stream, runs: list[tuple[int, int]]) -> tuple[int | None, int]:
    """Look for opaque windows; say where they begin, and how far was searched."""
    left = MOST
    for begin, end in runs:
        if end - begin < _LEAST:
            continue
        earlier: int | None = None
        for at in range(begin, end, WINDOW):
            data = stream.read(at, min(WINDOW, end - at))
            left -= len(data)
            opaque = (
                len(data) >= _LEAST
                and p_uniform(data) > OPAQUE_P
                and judge(data).verdict == "opaque"
            )
            last = at + WINDOW >= end
            if opaque and (earlier is not None or last):
                found = at if earlier is None else earlier
                return _back(stream, begin, found), at + len(data)
            if len(data) < _LEAST and earlier is not None:
                return _back(stream, begin, earlier), at + len(data)
            earlier = at if opaque else None
            if left <= 0:
                return None, at + len(data)
    return None, runs[-1][1]


def _back(stream: Stream, begin: int, at: int) -> int:
    """Go back to where the random bytes begin of which a window is full."""
    while at - STEP >= begin and p_uniform(stream.read(at - STEP, STEP)) > _CANNOT:
        at -= STEP
    return at
