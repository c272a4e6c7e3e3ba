"""The compiled walk over a capture: which packets are those of a case.

Each packet is read from its link layer to its ports, and if it belongs to no flow
that is wanted, once more from the header inside, where a tunnel has one. What was
found goes into rows of numbers, `REC` to `EXTRA`, with places in the file and no bytes.

Link types: Ethernet, BSD loopback, PPP, PPPoE, Cisco HDLC, raw IP, Linux cooked (1 and
2), IEEE 802.11 data that is not encrypted. In between: VLAN tags, MPLS, PPPoE, SNAP.
Tunnels: IP in IP (RFC 2003, 4213), GRE (RFC 2784, 2890), VXLAN (RFC 7348), Geneve
(RFC 8926), GTP-U (3GPP TS 29.281), TZSP. Not: AH, ESP, L2TP, Teredo, CAPWAP.

A fragment other than the first has no ports. It follows the first of its datagram (RFC
791, RFC 8200 §4.5), also where it was captured before it: the last `RING` such
fragments between hosts that are wanted are remembered.

Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; link types by
https://www.tcpdump.org/linktypes.html.

One file because numba's cache notices changes only in the file of the function that
is called.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exfilml._jit import compiled, compiled_bare

# libpcap refuses longer records as damage (MAXIMUM_SNAPLEN in its pcap-int.h).
MAX_RECORD: Final = 262144
MAX_BLOCK: Final = 16 * 1024 * 1024

SOUND, CUT, GARBAGE, FULL, SECTION = 0, 1, 2, 3, 4
"""Why a walk ended: end of the window, of the file within a record, no record where one
should be, no room for more rows, a block of pcapng that tells of what follows."""

ANY_PORT: Final = 1 << 16

(
    REC, SIZE, DATA, HELD, WIRE, TIME, FACE, FLOW, WAY, PROTOCOL, PAY, PAY_HELD,
    PAY_WIRE, SEQ, FLAGS, HEAD, EXTRA,
) = range(17)  # fmt: skip
COLUMNS: Final = 17
"""Columns of a row, each int64.

Of the record: place and size in the file, place, captured and real length of the
packet, time in ns since 1970 (`NO_TIME` if there is none), number of the interface. Of
the packet: position of its flow, way (0 from the flow's source, 1 to it), protocol,
place of what it carries (behind the header of TCP, UDP and ICMP echo), captured and
real length of that, TCP sequence number (of later fragments: offset in the datagram;
of UDP the length that its header tells), row of the datagram's first fragment (-1
for what is no later one), and of a first fragment the length of the transport header."""

NO_TIME: Final = -(1 << 62)
FRAGMENT, LAST, UNREADABLE, NO_ECHO = 256, 512, 1024, 2048
"""Flags beside TCP's eight: a fragment; the last one; headers cut off; ICMP but echo."""

(
    T_PACKETS, T_FIRST, T_LAST, T_NOT_IP, T_SHORT, T_UNTIMED, T_CUT, T_SEEN,
    T_FRAGMENTS, T_ROWS, T_LITTLE, T_RING,
) = range(12)  # fmt: skip
TOLD: Final = 12
"""Counts over a capture: packets, first and last time, packets without IP that is
understood, with headers cut off, without a time; of those found: cut ones, what they
were wrapped in (bits below), later fragments, rows so far; and the walk's own state."""

VLAN, STACKED, MPLS, PPPOE, TUNNEL = 1, 2, 4, 8, 16

RING: Final = 4096
_HEADS: Final = 8192
_FRAGMENT_NS: Final = 60_000_000_000
"""How long parts of a datagram wait for each other (RFC 8200 §4.5)."""

_DEPTH: Final = 5
_NOTHING, _SHORT = -1, -2
_A: Final = np.uint64(0x9E3779B97F4A7C15)
_B: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_S29, _S32 = np.uint64(29), np.uint64(32)
_S48: Final = np.uint64(48)

# What is read of an IP packet: addresses, and numbers.
_SRC_HI, _SRC_LO, _DST_HI, _DST_LO, _IDENT = range(5)
_PROTO, _BODY, _END, _REAL, _OFFSET, _MORE, _SPORT, _DPORT, _PORTED, _BITS = range(10)


class Wanted(NamedTuple):
    """Flows to look for: keys in a hash table, and the times of each key's flows."""

    pairs: NDArray[np.uint8]
    slots: NDArray[np.int32]
    ends: NDArray[np.uint64]
    ports: NDArray[np.int64]
    first: NDArray[np.int64]
    counts: NDArray[np.int64]
    begins: NDArray[np.int64]
    finishes: NDArray[np.int64]
    reach: NDArray[np.int64]
    order: NDArray[np.int64]
    uses: NDArray[np.uint8]
    slack: int


class Memory(NamedTuple):
    """What a walk remembers of fragments: of datagrams found, and those that wait."""

    codes: NDArray[np.uint64]
    heads: NDArray[np.int64]
    waiting: NDArray[np.uint64]
    ring: NDArray[np.int64]
    addresses: NDArray[np.uint64]
    numbers: NDArray[np.int64]
    row: NDArray[np.int64]


def new_memory() -> Memory:
    """Return the memory of a walk that begins."""
    return Memory(
        np.zeros(_HEADS, np.uint64),
        np.zeros((_HEADS, 4), np.int64),
        np.zeros(RING, np.uint64),
        np.zeros((RING, COLUMNS), np.int64),
        np.zeros(5, np.uint64),
        np.zeros(10, np.int64),
        np.zeros(COLUMNS, np.int64),
    )


@compiled_bare
def _mix(value: Any) -> Any:
    value = (value ^ (value >> _S32)) * _A
    value = (value ^ (value >> _S29)) * _B
    return value ^ (value >> _S32)


@compiled_bare
def _pair(a_hi: Any, a_lo: Any, b_hi: Any, b_lo: Any) -> Any:
    both = _mix(a_hi * _B ^ a_lo) + _mix(b_hi * _B ^ b_lo)
    return np.int64(_mix(both) >> _S48)


@compiled_bare
def _key(a_hi: Any, a_lo: Any, b_hi: Any, b_lo: Any, ports: int) -> Any:
    return _mix(_mix(a_hi * _B ^ a_lo) * _A + _mix(b_hi * _B ^ b_lo) + np.uint64(ports))


@compiled_bare
def fill(
    ends: NDArray[np.uint64],
    ports: NDArray[np.int64],
    slots: NDArray[np.int32],
    pairs: NDArray[np.uint8],
) -> None:
    """Put keys into an empty table, twice as large at least, and mark their hosts."""
    mask = np.uint64(len(slots) - 1)
    for key in range(len(ports)):
        a_hi, a_lo, b_hi, b_lo = ends[key, 0], ends[key, 1], ends[key, 2], ends[key, 3]
        pairs[_pair(a_hi, a_lo, b_hi, b_lo)] = 1
        at = _key(a_hi, a_lo, b_hi, b_lo, ports[key]) & mask
        while slots[at] != 0:
            at = (at + np.uint64(1)) & mask
        slots[at] = key + 1


@compiled_bare
def _find(
    wanted: Any, a_hi: Any, a_lo: Any, b_hi: Any, b_lo: Any, ports: int, time: int
) -> Any:
    """Find the flow of these ends nearest in time, -1 for none."""
    mask = np.uint64(len(wanted.slots) - 1)
    at = _key(a_hi, a_lo, b_hi, b_lo, ports) & mask
    while wanted.slots[at] != 0:
        key = wanted.slots[at] - 1
        if (
            wanted.ports[key] == ports
            and wanted.ends[key, 0] == a_hi
            and wanted.ends[key, 1] == a_lo
            and wanted.ends[key, 2] == b_hi
            and wanted.ends[key, 3] == b_lo
        ):
            return _in_time(wanted, key, time)
        at = (at + np.uint64(1)) & mask
    return -1


@compiled_bare
def _in_time(wanted: Any, key: int, time: int) -> Any:
    first = wanted.first[key]
    if time == NO_TIME:
        return wanted.order[first]
    low, high = first, first + wanted.counts[key]
    while low < high:
        middle = (low + high) // 2
        if wanted.begins[middle] <= time + wanted.slack:
            low = middle + 1
        else:
            high = middle
    best, least = -1, wanted.slack + 1
    at = low - 1
    while at >= first and wanted.reach[at] >= time - wanted.slack:
        off = max(wanted.begins[at] - time, time - wanted.finishes[at], 0)
        if off < least:
            best, least = wanted.order[at], off
            if off == 0:
                break
        at -= 1
    return best


@compiled_bare
def _look_up(wanted: Any, who: Any, num: Any, time: int) -> tuple[int, int]:
    """Find flow and way of what was read of a packet; -1 for none."""
    a_hi, a_lo, b_hi, b_lo = who[0], who[1], who[2], who[3]
    if not wanted.pairs[_pair(a_hi, a_lo, b_hi, b_lo)]:
        return -1, 0
    proto = num[_PROTO] << 40
    ported = num[_PORTED]
    for way in range(2):
        here, there = num[_SPORT + way], num[_DPORT - way]
        for use in range(4):
            if not wanted.uses[use] or (not ported and use != 3):
                continue
            src = ANY_PORT if use & 1 else here
            dst = ANY_PORT if use & 2 else there
            ports = proto | src << 20 | dst
            if way == 0:
                found = _find(wanted, a_hi, a_lo, b_hi, b_lo, ports, time)
            else:
                found = _find(wanted, b_hi, b_lo, a_hi, a_lo, ports, time)
            if found >= 0:
                return found, way
    return -1, 0


@compiled_bare
def _two(data: Any, at: int) -> Any:
    return np.int64(data[at]) << 8 | np.int64(data[at + 1])


@compiled_bare
def _four(data: Any, at: int) -> Any:
    return _two(data, at) << 16 | _two(data, at + 2)


@compiled_bare
def _eight(data: Any, at: int) -> Any:
    high = np.uint64(_four(data, at)) << _S32
    return high | np.uint64(_four(data, at + 4))


@compiled_bare
def _u32(data: Any, at: int, little: bool) -> Any:
    if little:
        a, b = np.int64(data[at]), np.int64(data[at + 1])
        c, d = np.int64(data[at + 2]), np.int64(data[at + 3])
        return a | b << 8 | c << 16 | d << 24
    return _four(data, at)


@compiled_bare
def _of_ppp(data: Any, at: int, end: int) -> Any:
    """Find IP behind a PPP protocol number, which may be one byte long."""
    if at < end and data[at] & 1:
        kind, at = np.int64(data[at]), at + 1
    elif at + 2 <= end:
        kind, at = _two(data, at), at + 2
    else:
        return _SHORT
    return at if kind in (0x21, 0x57) else _NOTHING


@compiled_bare
def _of_type(data: Any, at: int, end: int, kind: int, num: Any) -> Any:  # noqa: C901, PLR0911, PLR0912 - a call costs more than it clears up here
    """Find IP behind an EtherType; `at` is what follows the type."""
    tags = 0
    for _ in range(16):
        if kind in (0x0800, 0x86DD):
            return at
        if kind in (0x8100, 0x88A8, 0x9100, 0x9200):
            if at + 4 > end:
                return _SHORT
            tags += 1
            num[_BITS] |= VLAN if tags == 1 else STACKED
            kind, at = _two(data, at + 2), at + 4
        elif kind == 0x8864:
            num[_BITS] |= PPPOE
            return _of_ppp(data, at + 6, end)
        elif kind in (0x8847, 0x8848):
            num[_BITS] |= MPLS
            bottom = False
            while not bottom:
                if at + 5 > end:
                    return _SHORT
                bottom = data[at + 2] & 1 == 1
                at += 4
            if data[at] >> 4 in (4, 6):
                return at
            # A pseudowire, with its control word.
            if data[at] >> 4 != 0 or at + 18 > end:
                return _NOTHING
            kind, at = _two(data, at + 16), at + 18
        elif kind == 0x6558:
            if at + 14 > end:
                return _SHORT
            kind, at = _two(data, at + 12), at + 14
        elif kind < 1536 and at + 8 <= end and _two(data, at) == 0xAAAA:
            kind, at = _two(data, at + 6), at + 8
        else:
            return _NOTHING
    return _NOTHING


@compiled_bare
def _to_ip(data: Any, at: Any, end: int, link: int, num: Any) -> Any:  # noqa: C901, PLR0911, PLR0912 - a call costs more than it clears up here
    """Find the IP header of a packet."""
    if link == 1:
        if at + 14 > end:
            return _SHORT
        return _of_type(data, at + 14, end, _two(data, at + 12), num)
    if link in (12, 14, 101, 228, 229):
        return at
    if link in (0, 108):
        return at + 4
    if link == 113:
        if at + 16 > end:
            return _SHORT
        return _of_type(data, at + 16, end, _two(data, at + 14), num)
    if link == 276:
        if at + 20 > end:
            return _SHORT
        return _of_type(data, at + 20, end, _two(data, at), num)
    if link in (9, 50, 104):
        if at + 4 > end:
            return _SHORT
        if link == 104 or data[at] in (0x0F, 0x8F):
            return _of_type(data, at + 4, end, _two(data, at + 2), num)
        skip = 2 if data[at] == 0xFF and data[at + 1] == 3 else 0
        return _of_ppp(data, at + skip, end)
    if link == 51:
        num[_BITS] |= PPPOE
        return _of_ppp(data, at + 6, end)
    if link == 127:
        if at + 4 > end:
            return _SHORT
        at += np.int64(data[at + 2]) | np.int64(data[at + 3]) << 8
        link = 105
    if link == 105:
        if at + 24 > end:
            return _SHORT
        # Data, not null, not encrypted; the longer headers of QoS and of four addresses.
        if data[at] & 0x0C != 8 or data[at] & 0x40 or data[at + 1] & 0x40:
            return _NOTHING
        skip = 24
        if data[at + 1] & 3 == 3:
            skip += 6
        if data[at] & 0x80:
            skip += 2
        return _of_type(data, at + skip, end, 0, num)
    return _NOTHING


@compiled_bare
def _read_ip(data: Any, at: Any, end: int, real_end: int, who: Any, num: Any) -> Any:  # noqa: C901, PLR0911, PLR0912 - a call costs more than it clears up here
    """Read an IP header and ports; return `_NOTHING` or `_SHORT` if that fails."""
    if at + 20 > end:
        return _SHORT
    version = data[at] >> 4
    num[_OFFSET] = num[_MORE] = 0
    if version == 4:
        header = np.int64(data[at] & 15) * 4
        if header < 20:
            return _NOTHING
        length = _two(data, at + 2)
        word = _two(data, at + 6)
        num[_OFFSET], num[_MORE] = (word & 0x1FFF) * 8, word >> 13 & 1
        who[_IDENT] = np.uint64(_two(data, at + 4))
        who[_SRC_HI] = who[_DST_HI] = np.uint64(0)
        mapped = np.uint64(0xFFFF00000000)
        who[_SRC_LO] = np.uint64(_four(data, at + 12)) | mapped
        who[_DST_LO] = np.uint64(_four(data, at + 16)) | mapped
        num[_PROTO] = data[at + 9]
        # No length: the network card was to cut the packet up.
        num[_REAL] = at + length if length else real_end
        at += header
    elif version == 6:
        if at + 40 > end:
            return _SHORT
        who[_SRC_HI], who[_SRC_LO] = _eight(data, at + 8), _eight(data, at + 16)
        who[_DST_HI], who[_DST_LO] = _eight(data, at + 24), _eight(data, at + 32)
        length = _two(data, at + 4)
        num[_REAL] = at + 40 + length if length else real_end
        following = np.int64(data[at + 6])
        at += 40
        while following in (0, 43, 44, 60, 135):
            if at + 8 > end:
                return _SHORT
            kind, following = following, np.int64(data[at])
            if kind == 44:
                word = _two(data, at + 2)
                num[_OFFSET], num[_MORE] = word & 0xFFF8, word & 1
                who[_IDENT] = np.uint64(_four(data, at + 4))
                at += 8
                if num[_OFFSET]:
                    break
            else:
                at += 8 + 8 * np.int64(data[at + 1])
        num[_PROTO] = following
    else:
        return _NOTHING
    num[_BODY] = at
    num[_END] = min(end, num[_REAL])
    num[_SPORT] = num[_DPORT] = num[_PORTED] = 0
    if num[_OFFSET] == 0 and num[_PROTO] in (6, 17, 33, 132, 136):
        if at + 4 > num[_END]:
            return _SHORT
        num[_SPORT], num[_DPORT] = _two(data, at), _two(data, at + 2)
        num[_PORTED] = 1
    return 0


@compiled_bare
def _inside(data: Any, num: Any) -> Any:  # noqa: C901, PLR0911, PLR0912 - a call costs more than it clears up here
    """Find the IP header inside a tunnel, `_NOTHING` where there is none."""
    at, end = num[_BODY], num[_END]
    proto = num[_PROTO]
    if num[_OFFSET]:
        return _NOTHING
    if proto in (4, 41):
        return at
    if proto == 47:
        if at + 4 > end or data[at + 1] & 7:
            return _NOTHING
        flags = data[at]
        kind = _two(data, at + 2)
        at += 4
        for bit in (0x80, 0x20, 0x10):
            if flags & bit:
                at += 4
        return _of_type(data, at, end, kind, num)
    if proto != 17:
        return _NOTHING
    src, dst = num[_SPORT], num[_DPORT]
    at += 8
    if dst in (4789, 8472):
        if at + 22 > end:
            return _NOTHING
        return _of_type(data, at + 22, end, _two(data, at + 20), num)
    if dst == 6081:
        if at + 8 > end:
            return _NOTHING
        kind = _two(data, at + 2)
        return _of_type(data, at + 8 + 4 * (data[at] & 63), end, kind, num)
    if dst == 2152 or src == 2152:
        if at + 12 > end or data[at] >> 4 != 3 or data[at + 1] != 0xFF:
            return _NOTHING
        flags = data[at]
        at += 8
        if flags & 7:
            following = data[at + 3] if flags & 4 else 0
            at += 4
            while following:
                if at + 4 > end or data[at] == 0:
                    return _NOTHING
                at += 4 * np.int64(data[at])
                if at > end:
                    return _NOTHING
                following = data[at - 1]
        return at
    if dst == 37008 or src == 37008:
        if at + 5 > end or _two(data, at + 2) != 1:
            return _NOTHING
        at += 4
        while at < end and data[at] != 1:
            if data[at] == 0:
                at += 1
            elif at + 2 > end:
                return _NOTHING
            else:
                at += 2 + np.int64(data[at + 1])
        if at + 15 > end:
            return _NOTHING
        return _of_type(data, at + 15, end, _two(data, at + 13), num)
    return _NOTHING


@compiled_bare
def _describe(data: Any, num: Any, row: Any) -> None:  # noqa: C901 - a call costs more than it clears up here
    """Say what a packet carries, and where."""
    at, end, real = num[_BODY], num[_END], max(num[_REAL], num[_BODY])
    proto = num[_PROTO]
    row[PROTOCOL], row[FLAGS] = proto, 0
    row[SEQ] = row[EXTRA] = 0
    header: Any = 0
    if proto == 6:
        header = 20
        if at + 14 > end:
            row[FLAGS] = UNREADABLE
        else:
            header = 4 * np.int64(data[at + 12] >> 4)
            row[SEQ] = _four(data, at + 4)
            row[FLAGS] = np.int64(data[at + 13])
            if header < 20:
                row[FLAGS] = UNREADABLE
    elif proto in (17, 136):
        header = 8
        if at + 6 > end:
            row[FLAGS] = UNREADABLE
        elif proto == 17:
            length = _two(data, at + 4)
            row[SEQ] = max(length - 8, 0)
            if not num[_MORE] and 8 <= length < real - at:
                real = at + length
    elif proto in (1, 58):
        header = 8
        if at < end and data[at] not in ((0, 8) if proto == 1 else (128, 129)):
            row[FLAGS] = NO_ECHO
    row[PAY] = at + header
    row[PAY_WIRE] = max(real - at - header, 0)
    row[PAY_HELD] = min(max(min(end, real) - at - header, 0), row[PAY_WIRE])
    if num[_MORE]:
        row[FLAGS] |= FRAGMENT
        row[EXTRA] = header


@compiled_bare
def _take(  # noqa: C901, PLR0911, PLR0912 - a call costs more than it clears up here
    data: Any, row: Any, link: int, wanted: Any, memory: Any, told: Any
) -> tuple[int, Any, bool]:
    """Fill in a row; say whether it is wanted (1), waits (2) or neither, and its code."""
    none = np.uint64(0)
    who, num = memory.addresses, memory.numbers
    time = row[TIME]
    told[T_PACKETS] += 1
    if time == NO_TIME:
        told[T_UNTIMED] += 1
    else:
        told[T_FIRST] = min(told[T_FIRST], time)
        told[T_LAST] = max(told[T_LAST], time)
    begin = row[DATA]
    end, real = begin + row[HELD], begin + max(row[WIRE], row[HELD])
    num[_BITS] = 0
    at = _to_ip(data, begin, end, link, num)
    for depth in range(_DEPTH):
        if at < 0 or at > end:
            if depth == 0:
                told[T_NOT_IP if at == _NOTHING else T_SHORT] += 1
            return 0, none, False
        failed = _read_ip(data, at, end, real, who, num)
        if failed < 0:
            if depth == 0:
                told[T_NOT_IP if failed == _NOTHING else T_SHORT] += 1
            return 0, none, False
        code = none
        if num[_OFFSET] or num[_MORE]:
            code = _key(who[0], who[1], who[2], who[3], num[_PROTO]) ^ _mix(
                who[_IDENT] + np.uint64(1)
            )
        if num[_OFFSET]:
            row[PROTOCOL], row[SEQ] = num[_PROTO], num[_OFFSET]
            row[PAY] = num[_BODY]
            row[PAY_WIRE] = max(num[_REAL] - num[_BODY], 0)
            row[PAY_HELD] = max(num[_END] - num[_BODY], 0)
            row[FLAGS] = FRAGMENT if num[_MORE] else FRAGMENT | LAST
            row[EXTRA] = 0
            slot = np.int64(code >> _S48) & (_HEADS - 1)
            head = memory.heads[slot]
            if memory.codes[slot] == code and abs(time - head[0]) <= _FRAGMENT_NS:
                row[FLOW], row[WAY], row[HEAD] = head[1], head[2], head[3]
                return 1, code, True
            if wanted.pairs[_pair(who[0], who[1], who[2], who[3])]:
                return 2, code, False
            return 0, none, False
        found, way = _look_up(wanted, who, num, time)
        if found < 0 and told[T_LAST] > time != NO_TIME:
            # Where captures were joined, times go back; the packet engine's clock, which
            # flows have their times from, stands still then.
            found, way = _look_up(wanted, who, num, told[T_LAST])
        if found >= 0:
            if depth:
                num[_BITS] |= TUNNEL
            row[FLOW], row[WAY], row[HEAD] = found, way, -1
            _describe(data, num, row)
            return 1, code, num[_MORE] == 1
        at = _inside(data, num)
    return 0, none, False


@compiled_bare
def _keep(
    data: Any,
    row: Any,
    link: int,
    wanted: Any,
    memory: Any,
    told: Any,
    rows: Any,
    n: int,
) -> Any:
    """Add a row if it is wanted, with fragments that waited; say how many there are."""
    kind, code, fragment = _take(data, row, link, wanted, memory, told)
    if kind == 0:
        return n
    if kind == 2:
        at = told[T_RING] % RING
        memory.waiting[at] = code
        for column in range(COLUMNS):
            memory.ring[at, column] = row[column]
        told[T_RING] += 1
        return n
    told[T_SEEN] |= memory.numbers[_BITS]
    n = _add(row, rows, n, told)
    if fragment and row[HEAD] < 0:
        slot = np.int64(code >> _S48) & (_HEADS - 1)
        memory.codes[slot] = code
        head = memory.heads[slot]
        head[0], head[1], head[2] = row[TIME], row[FLOW], row[WAY]
        head[3] = told[T_ROWS] - 1
        for at in range(RING):
            if memory.waiting[at] == code:
                memory.waiting[at] = np.uint64(0)
                early = memory.ring[at]
                if abs(early[TIME] - row[TIME]) <= _FRAGMENT_NS:
                    early[FLOW], early[WAY], early[HEAD] = head[1], head[2], head[3]
                    n = _add(early, rows, n, told)
    return n


@compiled_bare
def _add(row: Any, rows: Any, n: int, told: Any) -> Any:
    for column in range(COLUMNS):
        rows[n, column] = row[column]
    told[T_ROWS] += 1
    if row[HELD] < row[WIRE]:
        told[T_CUT] += 1
    if row[HEAD] >= 0:
        told[T_FRAGMENTS] += 1
    return n + 1


@compiled_bare
def walk_records(
    data: Any, at: int, stop: int, header: int, little: bool, scale: int,
    wanted: Any, memory: Any, told: Any, rows: Any,
) -> tuple[int, int, int]:  # fmt: skip
    """Walk records of classic pcap; say how many rows, where it ended, and why."""
    n, row = 0, memory.row
    # The upper bits tell of frame check sequences.
    link = _u32(data, 20, little) & 0xFFFF
    while at < stop:
        if n + RING + 1 > len(rows):
            return n, at, FULL
        if at + header > data.size:
            return n, at, CUT
        length = _u32(data, at + 8, little)
        if length > MAX_RECORD:
            return n, at, GARBAGE
        if at + header + length > data.size:
            return n, at, CUT
        row[REC], row[SIZE] = at, header + length
        row[DATA], row[HELD] = at + header, length
        row[WIRE] = _u32(data, at + 12, little)
        row[FACE] = 0
        seconds = _u32(data, at, little)
        row[TIME] = seconds * 1_000_000_000 + _u32(data, at + 4, little) * scale
        n = _keep(data, row, link, wanted, memory, told, rows, n)
        at += header + length
    return n, at, SOUND


@compiled_bare
def _time_of(data: Any, at: int, little: bool, face: Any) -> Any:
    """Read a time in units of an interface."""
    ticks = np.uint64(_u32(data, at, little)) << _S32
    ticks |= np.uint64(_u32(data, at + 4, little))
    mode, value, offset = face[1], face[2], face[3]
    if mode == 0:
        return np.int64(ticks) * value + offset
    if mode == 1:
        return np.int64(ticks // np.uint64(value)) + offset
    whole = ticks >> np.uint64(value)
    part = ticks & ((np.uint64(1) << np.uint64(value)) - np.uint64(1))
    # So that a billion times the rest fits.
    if value > 30:
        part, value = part >> np.uint64(value - 30), 30
    nanos = (part * np.uint64(1_000_000_000)) >> np.uint64(value)
    return np.int64(whole) * 1_000_000_000 + np.int64(nanos) + offset


@compiled_bare
def walk_blocks(  # noqa: C901, PLR0911, PLR0912 - a call costs more than it clears up here
    data: Any, at: int, stop: int, faces: Any, known: int,
    wanted: Any, memory: Any, told: Any, rows: Any,
) -> tuple[int, int, int]:  # fmt: skip
    """Walk blocks of pcapng likewise, up to one that begins a section or interface."""
    n, row = 0, memory.row
    little = told[T_LITTLE] == 1
    while at < stop:
        if n + RING + 1 > len(rows):
            return n, at, FULL
        if at + 12 > data.size:
            return n, at, CUT
        kind = _u32(data, at, little)
        if kind in (0x0A0D0D0A, 1):
            return n, at, SECTION
        length = _u32(data, at + 4, little)
        if length < 12 or length > MAX_BLOCK or length % 4:
            return n, at, GARBAGE
        if at + length > data.size:
            return n, at, CUT
        if _u32(data, at + length - 4, little) != length:
            return n, at, GARBAGE
        face, head = 0, 0
        if kind in (2, 6) and length >= 32:
            face, head = _u32(data, at + 8, little), 28
            if kind == 2:
                face = face & 0xFFFF if little else face >> 16
        elif kind == 3 and length >= 16:
            head = 12
        if head:
            if face >= known:
                return n, at, GARBAGE
            row[REC], row[SIZE], row[FACE] = at, length, face
            row[DATA] = at + head
            room = length - head - 4
            if kind == 3:
                row[WIRE] = _u32(data, at + 8, little)
                snap = faces[face, 4]
                held = min(row[WIRE], snap) if snap else row[WIRE]
                row[HELD] = min(held, room)
                row[TIME] = NO_TIME
            else:
                row[HELD] = min(_u32(data, at + 20, little), room)
                row[WIRE] = _u32(data, at + 24, little)
                row[TIME] = _time_of(data, at + 12, little, faces[face])
            n = _keep(data, row, faces[face, 0], wanted, memory, told, rows, n)
        at += length
    return n, at, SOUND


@compiled
def gather(
    data: Any, rows: Any, begin: int, size: int, heads: Any, pad: bool, target: Any
) -> Any:
    """Copy parts of a file, each behind a header of its own; say how many bytes.

    `begin` and `size` are the columns of place and length. With `pad`, parts fill
    blocks of pcapng: they are padded to four bytes, and their total length follows.
    """
    at, head = 0, heads.shape[1]
    for n in range(len(rows)):
        start = at
        target[at : at + head] = heads[n]
        at += head
        place, length = rows[n, begin], rows[n, size]
        target[at : at + length] = data[place : place + length]
        at += length
        if pad:
            while (at - start) % 4:
                target[at] = 0
                at += 1
            total = at + 4 - start
            for byte in range(4):
                target[at + byte] = total >> 8 * byte & 255
            at += 4
    return at
