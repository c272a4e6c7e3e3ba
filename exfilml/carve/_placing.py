"""Where in its stream each packet's bytes belong, before they are put together.

TCP by its numbers (`_assemble`), datagrams one behind the other, IP fragments in the
place that the first of their datagram gives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exfilml.carve import _packets
from exfilml.carve._assemble import NOWHERE, unwind

TCP, UDP = 6, 17
KEPT: Final = (
    _packets.FLOW, _packets.WAY, _packets.PROTOCOL, _packets.PAY, _packets.PAY_HELD,
    _packets.PAY_WIRE, _packets.SEQ, _packets.FLAGS, _packets.HEAD, _packets.EXTRA,
)  # fmt: skip
FLOW, WAY, PROTOCOL, PAY, HELD, WIRE, SEQ, FLAGS, HEAD, EXTRA = range(10)


def place_fragments(rows: NDArray[np.int64]) -> None:
    """Tell later fragments where they belong, in numbers of the first one.

    Of TCP they become segments. Of others, SEQ of the first becomes the length of the
    datagram, and SEQ of a later one its place in it.
    """
    later = np.flatnonzero(rows[:, HEAD] >= 0)
    heads = rows[later, HEAD]
    rows[later, SEQ] -= rows[heads, EXTRA]
    tcp = rows[:, PROTOCOL] == TCP
    segments = tcp[later]
    rows[later[segments], SEQ] += rows[heads[segments], SEQ]
    rows[later[segments], SEQ] &= (1 << 32) - 1
    broken = rows[heads, FLAGS] & (_packets.UNREADABLE | _packets.NO_ECHO)
    rows[later, FLAGS] = broken
    whole = ~tcp & (rows[:, HEAD] < 0)
    split = whole & (rows[:, FLAGS] & _packets.FRAGMENT != 0)
    rows[whole & ~split, SEQ] = rows[whole & ~split, WIRE]
    told = split & (rows[:, PROTOCOL] == UDP)
    rows[split & ~told, SEQ] = 0
    rows[split, SEQ] = np.maximum(rows[split, SEQ], rows[split, WIRE])
    parts, heads = later[~segments], heads[~segments]
    reach = rows[parts, SEQ] + rows[parts, WIRE]
    np.maximum.at(rows[:, SEQ], heads, reach)


@dataclass(slots=True)
class Placed:
    """Segments of a direction with their offsets in the stream, in order of arrival."""

    starts: NDArray[np.int64]
    wire: NDArray[np.int64]
    held: NDArray[np.int64]
    places: NDArray[np.int64]
    length: int
    messages: NDArray[np.int64] | None = None
    connections: int = 0
    begin_seen: bool = True
    end_seen: bool = True
    outside: int = 0


def place_segments(rows: NDArray[np.int64]) -> Placed:
    seq, wire, flags = (
        np.ascontiguousarray(rows[:, column]) for column in (SEQ, WIRE, FLAGS)
    )
    offsets, connection, opened, closed, outside = unwind(seq, wire, flags)
    there = offsets != NOWHERE
    offsets, connection, wire = offsets[there], connection[there], wire[there]
    base = np.full(len(opened), np.iinfo(np.int64).max)
    np.minimum.at(base, connection, offsets)
    base[opened | (base == np.iinfo(np.int64).max)] = 0
    high = np.maximum(base, closed)
    np.maximum.at(high, connection, offsets + wire)
    begins = np.cumsum(high - base) - (high - base)
    starts = offsets - base[connection] + begins[connection]
    # Bytes before the first number are none of the stream: a probe that keeps alive.
    early = np.maximum(begins[connection] - starts, 0)
    return Placed(
        starts=starts + early,
        wire=np.maximum(wire - early, 0),
        held=np.maximum(rows[there, HELD] - early, 0),
        places=rows[there, PAY] + early,
        length=int((high - base).sum()),
        connections=len(opened),
        begin_seen=bool(opened[0]),
        end_seen=bool(closed[-1] != NOWHERE),
        outside=int(outside),
    )


def place_datagrams(rows: NDArray[np.int64], where: NDArray[np.int64]) -> Placed:
    """Place datagrams one behind the other; `where` is each row among all."""
    whole = rows[:, HEAD] < 0
    messages = rows[whole, SEQ]
    begins = np.cumsum(messages) - messages
    # Which datagram a row is of: fragments name theirs by its row among all.
    named = np.where(whole, where, rows[:, HEAD])
    which = np.searchsorted(where[whole], named)
    inside = np.where(whole, 0, rows[:, SEQ])
    room = np.maximum(messages[which] - inside, 0)
    return Placed(
        starts=begins[which] + inside,
        wire=np.minimum(rows[:, WIRE], room),
        held=np.minimum(rows[:, HELD], room),
        places=rows[:, PAY].copy(),
        length=int(messages.sum()),
        messages=messages,
    )


def cut_off(placed: Placed) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the capture cut segments off: begins and ends, joined and in order."""
    cut = placed.held < placed.wire
    begins = placed.starts[cut] + placed.held[cut]
    order = np.argsort(begins, kind="stable")
    begins = begins[order]
    ends = np.maximum.accumulate((placed.starts + placed.wire)[cut][order])
    fresh = np.ones(len(begins), bool)
    fresh[1:] = begins[1:] > ends[:-1]
    last = np.append(fresh[1:], True)[: len(fresh)]
    return begins[fresh], ends[last]


def within(
    gaps: NDArray[np.int64], begins: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Say of each gap whether one of these intervals holds it."""
    if not len(begins):
        return np.zeros(len(gaps), bool)
    at = np.searchsorted(begins, gaps[:, 0], side="right") - 1
    found: NDArray[np.bool_] = (at >= 0) & (ends[at] >= gaps[:, 1])
    return found
