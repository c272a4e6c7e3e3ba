"""The compiled loop that drives NFStream's engine over a capture.

It does what `nfstream.meter.meter_workflow` does, in the same order, and keeps for
each live flow the payload samples that `_plugin` keeps, without a Python object per
packet. `run` goes on until Python has something to do, and says what. In the order
below: what is kept, the table of flows, the memory of samples, which bytes are
sampled, how flows begin and end, the loop.

What is kept
------------
A live flow is a record in ``flows``, linked from the oldest to the newest: NFStream
looks for idle flows at the oldest only. A part that is cut by the active timeout goes
on in the same record, and so in one flow of ours. Its two directions are the records
``2 * n`` and ``2 * n + 1`` of ``sides``; the first is that of the source of the first
part. Samples of a direction lie in a small address space of its own: the head, the
slices, the sizes of the packets of the head. Pages of it are taken when first written
to, and given back when the flow ends: memory follows what live flows have sampled.

What has ended is copied to the ``rows``, ``notes``, ``samples`` and ``sizes`` of an outbox, which
Python empties.

One file because compiled functions that call each other belong in one (see `_jit`).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import carray  # type: ignore[attr-defined]
from numpy.typing import NDArray

from exfilml._jit import compiled
from exfilml.sources import _engine_calls as calls
from exfilml.sources._flows import ICMP, ICMPV6, TCP, UDP
from exfilml.sources._plugin import (
    ANSWERED,
    ASKED,
    HEAD_BYTES,
    MAX_PACKETS,
    MAX_SLICES,
    SLICE_BYTES,
)

# What Python has to do before the loop can go on.
FINISHED, EMPTY_OUTBOX, GROW, LOOK_UP, UNREADABLE, NO_MEMORY = range(6)

# As `nfstream.meter`: how often idle flows are looked for, and at how many at most.
SCAN_EVERY_MS: Final = 10
SCAN_MOST: Final = 1000
# A read error is tried again, as NFStream does, but not for ever.
MOST_ERRORS: Final = 1_000_000

# They are compiled in, and numba's cache notices a change in this file only.
assert (HEAD_BYTES, SLICE_BYTES, MAX_SLICES, MAX_PACKETS) == (4096, 64, 32, 256)

PAGE: Final = 512
PAGES_PER_BLOCK: Final = 4096
_HEAD_AT: Final = 0
_SLICES_AT: Final = HEAD_BYTES
_SIZES_AT: Final = _SLICES_AT + MAX_SLICES * SLICE_BYTES
SIDE_BYTES: Final = _SIZES_AT + 2 * MAX_PACKETS
PAGES_PER_SIDE: Final = SIDE_BYTES // PAGE
"""A slice never lies on two pages, nor does the size of a packet."""

FLOW: Final = np.dtype(
    [
        # The two ends in order, and what else tells flows apart.
        ("low_a", "<u8"), ("high_a", "<u8"), ("low_b", "<u8"), ("high_b", "<u8"),
        ("ports", "<i8"), ("kind", "<i8"), ("tunnel", "<i8"),
        ("hash", "<i8"),
        ("older", "<i8"), ("newer", "<i8"),
        ("c_flow", "<i8"),  # address of NFStream's struct
        ("number", "<i8"),  # of the flow, over its parts
        ("first_end", "<i8"),  # whose packet came first: 0 for a, 1 for b
        ("turned", "<i8"),  # whether this part has its ends the other way round
        ("parts", "<i8"),  # that have ended
        ("v4", "<i8"),
        ("protocol", "<i8"),
        ("first_flags", "<i8"),
        ("speaker", "<i8"),  # which side's payload came first; -1 for none yet
    ]
)  # fmt: skip
"""A live flow."""

SIDE: Final = np.dtype(
    [
        ("flags", "<i8"),
        ("payload", "<i8"),
        ("head", "<i8"),
        ("packets", "<i8"),
        ("slices", "<i8"),
        ("candidates", "<i8"),
        ("mask", "<i8"),
    ]
)
"""What one direction of a live flow has shown; see `_plugin.Side`."""

SHOWN: Final = ("flags", "payload", "head", "packets", "slices")
NOTE: Final = np.dtype(
    [
        ("number", "<i8"),
        ("parts", "<i8"),  # that have ended, this one included
        ("goes_on", "<i8"),  # cut by the active timeout; nothing below is meant
        ("first_flags", "<i8"),
        ("speaker", "<i8"),
        *[(f"{name}_{side}", "<i8") for side in (0, 1) for name in SHOWN],
    ]
)
"""What is known of a part that has ended, beyond NFStream's row."""

CLOCK: Final = np.dtype(
    [
        ("now", "<u8"),
        ("scanned", "<u8"),
        ("scan_left", "<i8"),
        ("ending", "<i8"),
        ("errors", "<i8"),
        ("oldest", "<i8"),
        ("newest", "<i8"),
        ("free_flow", "<i8"),
        ("flows_used", "<i8"),
        ("live", "<i8"),
        ("free_pages", "<i8"),
        ("numbers", "<i8"),
        ("rows", "<i8"),
        ("bytes", "<i8"),
        ("sizes", "<i8"),
    ]
)
"""The state of the loop between two calls."""

# A packet fills the head at most, or adds a slice, and needs a page for its size.
_MOST_PAGES: Final = HEAD_BYTES // PAGE + 2


class Engine(NamedTuple):
    """Addresses in C, and what is handed to its functions."""

    next: int
    initialize: int
    update: int
    expire: int
    free: int
    capture: int
    dissector: int
    packet: int
    packet_bytes: int
    last_seen_at: int
    flow_bytes: int
    tunnels: int
    idle_ms: int
    active_ms: int
    dissections: int


class Memory(NamedTuple):
    """What is known of live flows."""

    flows: NDArray[np.void]
    sides: NDArray[np.void]
    pages: NDArray[np.int32]
    table: NDArray[np.int64]
    keys: NDArray[np.uint64]
    free_pages: NDArray[np.int32]
    blocks: NDArray[np.int64]


class Outbox(NamedTuple):
    """What has ended, for Python to take."""

    rows: NDArray[np.void]
    notes: NDArray[np.void]
    samples: NDArray[np.uint8]
    sizes: NDArray[np.uint16]


# --- the table of flows ----------------------------------------------------------
#
# Open addressing with linear probing, at most half full; a deletion shifts back what
# was displaced, so that there are no tombstones (Knuth, TAOCP 3, 6.4, algorithm R).


@compiled
def _hash(keys: Any, a: Any, b: Any, c: Any, d: Any, rest: Any, kind: Any) -> Any:
    """Hash by random odd multipliers: no capture can be made to force collisions.

    Multilinear hashing of 32-bit words, the upper half of the sum: strongly universal
    (D. Lemire and O. Kaser, "Strongly Universal String Hashing Is Fast", 2014).
    """
    half = np.uint64(0xFFFFFFFF)
    up = np.uint64(32)
    total = keys[0]
    at = 1
    for word in (a, b, c, d, rest, kind):
        total += keys[at] * (word & half) + keys[at + 1] * (word >> up)
        at += 2
    return np.int64(total >> up)


@compiled
def _find(
    memory: Any, code: Any, low_a: Any, high_a: Any, low_b: Any, high_b: Any,
    ports: Any, kind: Any, tunnel: Any,
) -> Any:  # fmt: skip
    """Return the number of a live flow, or -1."""
    flows, table = memory.flows, memory.table
    mask = table.size - 1
    at = code & mask
    number = table[at]
    while number >= 0:
        flow = flows[number]
        if (
            flow.hash == code
            and flow.low_a == low_a and flow.low_b == low_b and flow.ports == ports
            and flow.kind == kind and flow.high_a == high_a and flow.high_b == high_b
            and flow.tunnel == tunnel
        ):  # fmt: skip
            break
        at = (at + 1) & mask
        number = table[at]
    return number


@compiled
def _insert(table: Any, flows: Any, number: Any) -> None:
    mask = table.size - 1
    at = flows[number].hash & mask
    while table[at] >= 0:
        at = (at + 1) & mask
    table[at] = number


@compiled
def _remove(table: Any, flows: Any, number: Any) -> None:
    mask = table.size - 1
    gap = flows[number].hash & mask
    while table[gap] != number:
        gap = (gap + 1) & mask
    at = gap
    while True:
        at = (at + 1) & mask
        other = table[at]
        if other < 0:
            break
        # It may fill the gap unless its home lies behind the gap.
        if ((at - (flows[other].hash & mask)) & mask) >= ((at - gap) & mask):
            table[gap] = other
            gap = at
    table[gap] = -1


@compiled
def rebuild(table: Any, flows: Any, oldest: Any) -> None:
    """Fill a new table with the flows that live."""
    table[:] = -1
    number = oldest
    while number >= 0:
        _insert(table, flows, number)
        number = flows[number].newer


@compiled
def _append(flows: Any, clock: Any, number: Any) -> None:
    """Make a flow the newest."""
    flow = flows[number]
    flow.older = clock.newest
    flow.newer = -1
    if clock.newest >= 0:
        flows[clock.newest].newer = number
    else:
        clock.oldest = number
    clock.newest = number


@compiled
def _unlink(flows: Any, clock: Any, number: Any) -> None:
    flow = flows[number]
    if flow.older >= 0:
        flows[flow.older].newer = flow.newer
    else:
        clock.oldest = flow.newer
    if flow.newer >= 0:
        flows[flow.newer].older = flow.older
    else:
        clock.newest = flow.older


# --- the memory of samples -------------------------------------------------------


@compiled
def _locate(memory: Any, clock: Any, side: Any, at: Any) -> Any:
    """Return the address of a byte of a direction; take a page if there is none."""
    page = memory.pages[side, at // PAGE]
    if page < 0:
        clock.free_pages -= 1
        page = memory.free_pages[clock.free_pages]
        memory.pages[side, at // PAGE] = page
    block = memory.blocks[page // PAGES_PER_BLOCK]
    return block + (page % PAGES_PER_BLOCK) * PAGE + at % PAGE


@compiled
def _write(memory: Any, clock: Any, side: Any, at: Any, source: Any, size: Any) -> None:
    while size > 0:
        step = min(size, PAGE - at % PAGE)
        calls.copy_bytes(_locate(memory, clock, side, at), source, step)
        at += step
        source += step
        size -= step


@compiled
def _read(memory: Any, clock: Any, side: Any, at: Any, target: Any, size: Any) -> None:
    while size > 0:
        step = min(size, PAGE - at % PAGE)
        calls.copy_bytes(target, _locate(memory, clock, side, at), step)
        at += step
        target += step
        size -= step


@compiled
def _release(memory: Any, clock: Any, side: Any) -> None:
    for at in range(PAGES_PER_SIDE):
        page = memory.pages[side, at]
        if page >= 0:
            memory.free_pages[clock.free_pages] = page
            clock.free_pages += 1
            memory.pages[side, at] = -1


@compiled
def _thin_out(memory: Any, clock: Any, number: Any) -> None:
    """Drop every second slice, and double the stride."""
    side = memory.sides[number]
    for kept in range(MAX_SLICES // 2):
        source = _locate(memory, clock, number, _SLICES_AT + 2 * kept * SLICE_BYTES)
        target = _locate(memory, clock, number, _SLICES_AT + kept * SLICE_BYTES)
        if kept:
            calls.copy_bytes(target, source, SLICE_BYTES)
    side.slices = MAX_SLICES // 2
    side.mask = 2 * side.mask + 1


# --- which bytes are sampled; every rule is one of `_plugin` ---------------------


@compiled
def _bytes_at(address: Any, size: Any) -> Any:
    return carray(calls.pointer_to(address), size, np.uint8)


@compiled
def _word(data: Any, at: Any) -> Any:
    """Two bytes, big-endian, as far as they were captured."""
    if at + 1 < data.size:
        return np.int64(data[at]) * 256 + data[at + 1]
    return np.int64(data[at]) if at < data.size else np.int64(0)


@compiled
def transport_start(data: Any, four: Any) -> Any:
    """Find where the transport header starts, as `_plugin.transport`."""
    if four:
        return np.int64(data[0] & 15) << 2
    if data.size < 40:
        return np.int64(data.size)
    kind = data[6]
    at = np.int64(40)
    while kind in (0, 43, 44, 60, 135) and at + 8 <= data.size:
        step = np.int64(8) if kind == 44 else 8 * np.int64(data[at + 1]) + 8
        kind = data[at]
        at += step
    return at


@compiled
def _sliced(index: Any, size: Any) -> Any:
    """Bring an index into a buffer, as Python's slices do."""
    if index < 0:
        return max(index + size, np.int64(0))
    return min(index, size)


@compiled
def _is_unicast(data: Any, at: Any) -> Any:
    if data[at] & 0xE0 == 0x20 or data[at] & 0xFE == 0xFC:
        return True
    return data[at] == 0xFE and data[at + 1] == 0x80 and _is_zero(data, at + 2, 6)


@compiled
def _is_zero(data: Any, at: Any, size: Any) -> Any:
    for offset in range(at, at + size):  # noqa: SIM110 - numba has no `all`
        if data[offset]:
            return False
    return True


@compiled
def is_quote(data: Any) -> Any:  # noqa: C901, PLR0911, PLR0912 - one header, read once
    """Say whether this is a quoted packet, as `exfilml.payload.is_quote`."""
    size = data.size
    if size < 28:
        return False
    if data[0] >> 4 == 4:
        header = np.int64(data[0] & 15) * 4
        total = _word(data, 2)
        if header < 20 or size < header + 8 or data[6] & 0x80 or total < header:
            return False
        if data[9] not in (1, 2, 4, 6, 17, 41, 47, 50, 51, 58, 89, 103, 132):
            return False
        words = np.int64(0)
        for at in range(0, header, 2):
            words += _word(data, at)
        if data[10] or data[11]:
            # The remainder of -words, as Python has it.
            off = (0xFFFF - words % 0xFFFF) % 0xFFFF
            if off % 256 or off // 256 > 64:
                return False
    elif data[0] >> 4 == 6 and size >= 48:
        total = 40 + _word(data, 4)
        if data[6] not in (0, 6, 17, 43, 44, 47, 50, 51, 58, 60, 132):
            return False
        if not (_is_unicast(data, 8) or _is_zero(data, 8, 8)):
            return False
        if not (_is_unicast(data, 24) or data[24] == 0xFF or _is_zero(data, 24, 8)):
            return False
    else:
        return False
    if total >= size or _is_zero(data, total, size - total):
        return True
    return size > 128 and data[128] == 0x20


@compiled
def _is_error(protocol: Any, data: Any, start: Any, first: Any, last: Any) -> Any:
    """Whether an ICMP message is an error that quotes a packet."""
    if first >= last or start >= data.size:
        return False
    kind = data[start]
    if protocol == ICMP:
        return kind in (3, 4, 5, 11, 12) and is_quote(data[first:last])
    if protocol == ICMPV6:
        return kind in (1, 2, 3, 4) and is_quote(data[first:last])
    return False


@compiled
def _does(protocol: Any, kind: Any) -> Any:
    """Say what a message of ICMP does: asks, answers, neither."""
    if protocol == ICMP:
        if kind in (8, 13, 15, 17):
            return np.int64(ASKED)
        return np.int64(ANSWERED if kind in (0, 14, 16, 18) else 0)
    if kind in (128, 139):
        return np.int64(ASKED)
    return np.int64(ANSWERED if kind in (129, 140) else 0)


@compiled
def _keep(
    memory: Any, clock: Any, number: Any, source: Any, taken: Any, size: Any
) -> None:
    """Keep head bytes, or the slice of a candidate that is due."""
    side = memory.sides[number]
    if side.head < HEAD_BYTES:
        taken = min(taken, HEAD_BYTES - side.head)
        _write(memory, clock, number, _HEAD_AT + side.head, source, taken)
        side.head += taken
        if side.packets < MAX_PACKETS:
            at = _locate(memory, clock, number, _SIZES_AT + 2 * side.packets)
            calls.write_size(at, taken)
            side.packets += 1
    elif taken >= SLICE_BYTES and size >= SLICE_BYTES:
        if side.slices == MAX_SLICES:
            _thin_out(memory, clock, number)
        at = _SLICES_AT + side.slices * SLICE_BYTES
        _write(memory, clock, number, at, source, SLICE_BYTES)
        side.slices += 1


@compiled
def _sample(packet: Any, number: Any, opening: Any, memory: Any, clock: Any) -> None:  # noqa: C901 - one packet, read once
    """Count a packet's payload, and keep what is to be kept of it."""
    length = np.int64(packet.ip_content_len)
    if length == 0:
        return
    flow = memory.flows[number]
    which = np.int64(packet.direction) ^ flow.turned
    side = memory.sides[2 * number + which]
    data = _bytes_at(packet.ip_content, length)
    four = data[0] >> 4 == 4
    protocol = flow.protocol
    if protocol in (TCP, UDP, ICMP, ICMPV6):
        start = transport_start(data, four or (flow.v4 and not opening))
        if protocol == TCP:
            flags = np.int64(data[start + 13]) if start + 13 < length else np.int64(0)
            side.flags |= flags
            if opening and flow.parts == 0:
                flow.first_flags = flags
        elif protocol in (ICMP, ICMPV6) and start < length:
            side.flags |= _does(protocol, data[start])
        size = np.int64(packet.payload_size)
        first = start + np.int64(packet.transport_size) - size
    else:
        # NFStream does not give the sizes of these.
        first = start = transport_start(data, four)
        total = _word(data, 2) if four else 40 + _word(data, 4)
        size = max(total - start, np.int64(0))
    if size == 0:
        return
    if flow.speaker < 0:
        flow.speaker = which
    side.payload += size
    if side.head == HEAD_BYTES:
        if size < SLICE_BYTES:
            return
        candidate = side.candidates
        side.candidates += 1
        if candidate & side.mask:
            return
    last = _sliced(first + size, length)
    first = _sliced(first, length)
    if not _is_error(protocol, data, start, first, last):
        source = packet.ip_content + first
        taken = max(last - first, np.int64(0))
        _keep(memory, clock, 2 * number + which, source, taken, size)


# --- how flows begin and end -----------------------------------------------------


@compiled
def _end_part(
    engine: Any, memory: Any, clock: Any, outbox: Any, number: Any, goes_on: Any
) -> None:
    """Free NFStream's flow; put it into the outbox, with samples if that was all."""
    flow = memory.flows[number]
    calls.expire_flow(engine.expire, flow.c_flow, engine.dissections, engine.dissector)
    row = outbox.rows.ctypes.data + clock.rows * engine.flow_bytes
    calls.copy_bytes(row, flow.c_flow, engine.flow_bytes)
    calls.free_flow(engine.free, flow.c_flow, engine.dissections, 0, 1)
    note = outbox.notes[clock.rows]
    clock.rows += 1
    note.number = flow.number
    note.goes_on = goes_on
    flow.parts += 1
    note.parts = flow.parts
    if goes_on:
        return
    note.first_flags = flow.first_flags
    note.speaker = flow.speaker
    one, two = memory.sides[2 * number], memory.sides[2 * number + 1]
    note.flags_0, note.flags_1 = one.flags, two.flags
    note.payload_0, note.payload_1 = one.payload, two.payload
    note.head_0, note.head_1 = one.head, two.head
    note.packets_0, note.packets_1 = one.packets, two.packets
    note.slices_0, note.slices_1 = one.slices, two.slices
    at = outbox.samples.ctypes.data
    for which in range(2):
        number_of = 2 * number + which
        side = memory.sides[number_of]
        for start, size in (
            (_HEAD_AT, side.head),
            (_SLICES_AT, side.slices * SLICE_BYTES),
        ):
            _read(memory, clock, number_of, start, at + clock.bytes, size)
            clock.bytes += size
        sizes = outbox.sizes.ctypes.data + 2 * clock.sizes
        _read(memory, clock, number_of, _SIZES_AT, sizes, 2 * side.packets)
        clock.sizes += side.packets


@compiled
def _drop(memory: Any, clock: Any, number: Any) -> None:
    """Forget a flow that has ended."""
    flows = memory.flows
    _remove(memory.table, flows, number)
    _unlink(flows, clock, number)
    _release(memory, clock, 2 * number)
    _release(memory, clock, 2 * number + 1)
    flows[number].newer = clock.free_flow
    clock.free_flow = number
    clock.live -= 1


@compiled
def _new_flow(memory: Any, clock: Any) -> Any:
    """Return the number of a cleared record."""
    number = clock.free_flow
    if number >= 0:
        clock.free_flow = memory.flows[number].newer
    else:
        number = clock.flows_used
        clock.flows_used += 1
    for which in range(2):
        side = memory.sides[2 * number + which]
        side.flags = side.payload = side.head = side.packets = 0
        side.slices = side.candidates = side.mask = 0
    clock.live += 1
    return number


@compiled
def _retire_idle(engine: Any, memory: Any, clock: Any, outbox: Any) -> Any:
    """End the oldest flow if it is idle; say whether to look at the next."""
    oldest = clock.oldest
    if oldest < 0:
        return False
    if not clock.ending:
        idle = np.uint64(engine.idle_ms)
        seen = calls.read_time(memory.flows[oldest].c_flow + engine.last_seen_at)
        if clock.now < idle or clock.now - idle < seen:
            return False
    _end_part(engine, memory, clock, outbox, oldest, 0)
    _drop(memory, clock, oldest)
    return True


@compiled
def _consume(engine: Any, packet: Any, memory: Any, clock: Any, outbox: Any) -> Any:
    """Give a packet to its flow, which may begin or end with it; False: no memory."""
    low_a, high_a = packet.src_ip_low, packet.src_ip_high
    low_b, high_b = packet.dst_ip_low, packet.dst_ip_high
    port_a, port_b = np.int64(packet.src_port), np.int64(packet.dst_port)
    end = 0
    if high_a > high_b or (
        high_a == high_b and (low_a > low_b or (low_a == low_b and port_a > port_b))
    ):
        low_a, high_a, low_b, high_b = low_b, high_b, low_a, high_a
        port_a, port_b = port_b, port_a
        end = 1
    ports = port_a << 16 | port_b
    kind = np.int64(packet.protocol) << 16 | np.int64(packet.vlan_id)
    tunnel = np.int64(packet.tunnel_id)
    code = _hash(
        memory.keys, low_a, high_a, low_b, high_b,
        np.uint64(tunnel << 32 | ports), np.uint64(kind),
    )  # fmt: skip

    number = _find(memory, code, low_a, high_a, low_b, high_b, ports, kind, tunnel)
    flows = memory.flows
    opening = number < 0
    if not opening:
        ended = calls.update_flow(
            engine.update, flows[number].c_flow, engine.packet, engine.idle_ms,
            engine.active_ms, 1, 0, 0, engine.dissections, engine.dissector, 0,
        )  # fmt: skip
        if ended == 1:
            _end_part(engine, memory, clock, outbox, number, 0)
            _drop(memory, clock, number)
            opening, number = True, np.int64(-1)
        elif ended:
            # The same flow of ours, in a new part, which is the newest again.
            _end_part(engine, memory, clock, outbox, number, 1)
            _unlink(flows, clock, number)
            _append(flows, clock, number)
            opening = True
    if opening:
        begun = calls.initialize_flow(
            engine.initialize, engine.packet, 1, 0, 0, engine.dissections,
            engine.dissector, 1,
        )  # fmt: skip
        if begun == 0:
            return False
        if number < 0:
            number = _new_flow(memory, clock)
            flow = flows[number]
            flow.low_a, flow.high_a, flow.low_b, flow.high_b = (
                low_a, high_a, low_b, high_b,
            )  # fmt: skip
            flow.ports, flow.kind, flow.tunnel, flow.hash = ports, kind, tunnel, code
            flow.number = clock.numbers
            clock.numbers += 1
            flow.first_end = end
            flow.parts = flow.first_flags = 0
            flow.v4 = packet.ip_version == 4
            flow.protocol = packet.protocol
            flow.speaker = -1
            _append(flows, clock, number)
            _insert(memory.table, flows, number)
        flow = flows[number]
        flow.c_flow = begun
        flow.turned = flow.first_end != end
    _sample(packet, number, opening, memory, clock)
    return True


# --- the loop --------------------------------------------------------------------


@compiled
def run(  # noqa: C901, PLR0912 - the order of these steps is the point
    engine: Any, packets: Any, memory: Any, clocks: Any, outbox: Any, steps: Any
) -> Any:
    """Read packets until Python is needed.

    Parameters
    ----------
    engine
        An `Engine`.
    packets
        One struct of a packet, which is used for all of them.
    memory
        A `Memory`.
    clocks
        One record of `CLOCK`.
    outbox
        An `Outbox`.
    steps
        After how many packets or ended flows to return in any case.

    Returns
    -------
    int
        ``FINISHED``, ``EMPTY_OUTBOX``, ``GROW``, ``LOOK_UP`` (so that Python can be
        interrupted), ``UNREADABLE`` or ``NO_MEMORY``.
    """
    packet, clock = packets[0], clocks[0]
    for _ in range(steps):
        if (
            clock.rows == outbox.rows.size
            or clock.bytes + 2 * SIDE_BYTES > outbox.samples.size
            or clock.sizes + 2 * MAX_PACKETS > outbox.sizes.size
        ):
            return EMPTY_OUTBOX
        if clock.scan_left > 0:
            if not _retire_idle(engine, memory, clock, outbox):
                if clock.ending:
                    return FINISHED
                clock.scan_left = 0
            elif not clock.ending:
                clock.scan_left -= 1
            continue
        if (
            2 * (clock.live + 1) > memory.table.size
            or (clock.free_flow < 0 and clock.flows_used == memory.flows.size)
            or clock.free_pages < _MOST_PAGES
        ):
            return GROW
        # NFStream hands a new, zeroed struct to every call.
        calls.clear_bytes(engine.packet, engine.packet_bytes)
        kind = calls.capture_next(
            engine.next, engine.capture, engine.packet, engine.tunnels, 1, 0, 0
        )
        if kind > 0:
            clock.errors = 0
            # Time never goes back.
            if packet.time > clock.now:
                clock.now = packet.time
            else:
                packet.time = clock.now
            if kind == 1 and not _consume(engine, packet, memory, clock, outbox):
                return NO_MEMORY
            if clock.now - clock.scanned >= np.uint64(SCAN_EVERY_MS):
                clock.scanned = clock.now
                clock.scan_left = SCAN_MOST
        elif kind == -1:
            clock.errors += 1
            if clock.errors > MOST_ERRORS:
                return UNREADABLE
        elif kind < -1:
            clock.ending = clock.scan_left = 1
    return LOOK_UP
