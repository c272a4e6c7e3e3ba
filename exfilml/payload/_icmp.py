"""What ICMP echo carries: data that is no filler and does not repeat.

Programs fill echo requests with a timestamp and a constant pattern, so an honest
ping says next to nothing after its first packet. `read` counts what is left when
fillers, repetitions and messages that are no echo are set aside.

Fillers known by their form, from the first byte on or behind a prefix of up to
`PREFIX` bytes (timestamps and sequence numbers):

- bytes that increase or decrease by one, with a break in ten at most: ping of Linux,
  BSD, macOS and Solaris (behind a timeval or timespec), Windows, .NET and their kin
  (``abcdefghijklmnopqrstuvwabcdefghi``), alphabets and digits in order;
- a repetition of up to `_PERIOD` bytes: zeros and spaces (fping, WinMTR, dpinger, nping,
  check_icmp), ``X`` (hping), 0xABCD (Cisco), 0x55 and 0xAA, ``ping -p``;
- Apple's SimplePing ("99 bottles of beer on the wall").

The prefix is exempt while it looks like a clock: a prefix of which more than
`_CLOCK` columns differ in most messages is data.

The header of ICMP is not among the payload, so that other messages have to be known
by form: errors quote the packet that caused them (RFC 792; RFC 4443, section 3; RFC
4884 for what may follow), and neighbour discovery and group membership of IPv6 (RFC
4861, RFC 3810) have fields of fixed form.

Limits
------
A prefix of up to `_CLOCK` bytes before an honest filler is a channel that is not
seen. A tunnel of whole IP packets has the form of quotes; `Echo.quoted_source` tells
who sent the quoted packets, which for an honest error is the address that the error
is sent to, and `read` can be asked to take nothing for a quote.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from exfilml.payload import _framing, _kernel
from exfilml.payload._sampling import KEPT_HEAD

PREFIX: Final = 24
"""Bytes at the start of an echo that may change from one to the next."""

_START: Final = 64
_CLOCK: Final = 8
_PERIOD: Final = 16
_LEAST_FILLER: Final = 8
_LEAST_REST: Final = 16
_LEAST_CUT: Final = 32
_PADDING: Final = 8
_FEW: Final = 4

_RAMP: Final = bytes(range(256)) * (KEPT_HEAD // 256 + 2)
_BEER: Final = re.compile(rb" *[0-9]{1,3} bottles? of beer on the wall")
_STARTS: Final = (0, 8, 16, 4, 12, 20, PREFIX)

_FOUR_CARRIES: Final = frozenset({1, 2, 4, 6, 17, 41, 47, 50, 51, 58, 89, 103, 132})
_SIX_CARRIES: Final = frozenset({0, 6, 17, 43, 44, 47, 50, 51, 58, 60, 132})
_LINK_LOCAL: Final = b"\xfe\x80" + bytes(6)
_EXTENDED: Final = 128
# Options of neighbour discovery and their greatest length in units of 8 bytes: link
# layer addresses, prefix, MTU, nonce, route, DNS servers, search list, captive portal.
_OPTIONS: Final = {1: 2, 2: 2, 3: 4, 5: 1, 14: 1, 24: 3, 25: 9, 31: 8, 37: 8, 38: 2}


@dataclass(frozen=True, slots=True)
class Echo:
    """What the ICMP payload of one direction holds.

    Attributes
    ----------
    messages
        Messages with payload that were seen, at least in part.
    fillers
        Those that are a known filler.
    repeats
        Those that repeat an earlier one, apart from the prefix.
    quotes
        Those that quote an IP packet: errors.
    controls
        Those of neighbour discovery and group membership.
    carried
        Bytes of echo data seen that are neither filler nor repetition, padding at the
        end not counted, nor repetition within a message. A message that is cut counts
        as far as it is seen.
    data
        Those bytes, in order, to be judged: without headers that the messages begin
        with (`_kernel.frame_columns`) where ciphertext stands behind them.
    quoted_source
        Address that sent the quoted packets, packed; None without quotes or if they
        do not agree.
    """

    messages: int
    fillers: int
    repeats: int
    quotes: int
    controls: int
    carried: int
    data: bytes
    quoted_source: bytes | None


def read(
    head: bytes,
    packets: tuple[int, ...],
    slices: bytes,
    width: int,
    *,
    may_quote: bool = True,
) -> Echo:
    """Read the ICMP payload of one direction.

    Parameters
    ----------
    head
        First payload bytes, what follows the 8 bytes of the ICMP header, packets one
        behind the other.
    packets
        Payload bytes of each packet of `head`; empty where that is not known, then
        `head` is taken for one message.
    slices
        Starts of later packets, `width` bytes each.
    may_quote
        Whether messages may be errors. False counts IP packets as data: for flows
        whose quotes were not sent by the address that they go to.

    Returns
    -------
    Echo
        Defined for any bytes, also for none.
    """
    seen = _Seen()
    fillers = repeats = controls = quotes = 0
    messages = 0
    sources = set()
    for message, whole in _messages(head, packets, slices, width):
        messages += 1
        if may_quote and _is_quote(message):
            quotes += 1
            at = 12 if message[0] >> 4 == 4 else 8
            sources.add(message[at : at + (4 if at == 12 else 16)])
        elif (start := _filler_from(message)) >= 0:
            fillers += 1
            seen.prefixes.append(message[:start])
        elif _is_control(message):
            controls += 1
        elif seen.has(message, whole=whole):
            repeats += 1
        else:
            seen.add(message, whole=whole)
    prefixes = seen.judge_prefixes()
    data = b"".join(seen.data)
    if skip := _header(seen.data):
        framed = b"".join([message[skip:] for message in seen.data])
        if _framing.is_better(framed, data):
            data = framed
    return Echo(
        messages,
        fillers,
        repeats,
        quotes,
        controls,
        sum(map(len, seen.data)) + len(prefixes),
        data + prefixes,
        sources.pop() if len(sources) == 1 else None,
    )


def echoed(
    request: bytes,
    request_packets: tuple[int, ...],
    reply: bytes,
    reply_packets: tuple[int, ...],
) -> float:
    """Share of the bytes of replies that repeat what was requested.

    Parameters
    ----------
    request, reply
        Heads of the two directions, as for `read`.
    request_packets, reply_packets
        Their packet sizes.

    Returns
    -------
    float
        1.0 for every honest ping: a reply returns the data of its request (RFC 792),
        or the start of it, where a host answers with less. nan without replies.
        Replies at the end of their head may belong to requests behind the other head,
        where requests went unanswered; they repeat what is requested if they do apart
        from the prefix, and else lower the share.
    """
    asked = dict.fromkeys(m for m, _ in _messages(request, request_packets, b"", 0))
    rests = [m[PREFIX:] for m in asked if len(m) >= _LEAST_CUT]
    same = total = 0
    for message, _ in _messages(reply, reply_packets, b"", 0):
        if _is_quote(message) or _is_control(message):
            continue
        total += len(message)
        if message in asked:
            same += len(message)
        elif len(message) >= _LEAST_CUT:
            # Either may be the shorter, because either may be cut.
            rest = message[PREFIX:]
            if any(r.startswith(rest) or rest.startswith(r) for r in rests):
                same += len(message)
    return same / total if total else math.nan


def _messages(
    head: bytes, packets: tuple[int, ...], slices: bytes, width: int
) -> Iterator[tuple[bytes, bool]]:
    """Messages, each with whether it is seen to its end."""
    at = 0
    for size in packets or (len(head),):
        message = head[at : at + size] if size > 0 else b""
        at += len(message)
        whole = at < len(head) or (len(head) < KEPT_HEAD and size == len(message))
        # What little is seen of a message at the end of the head says nothing.
        if message and (whole or len(message) >= _LEAST_CUT or not packets):
            yield message, whole
    if width > 0:
        for at in range(0, len(slices), width):
            yield slices[at : at + width], False


class _Seen:
    """Echo data seen so far, to tell what repeats.

    Attributes
    ----------
    data
        What did not, without padding.
    prefixes
        Starts of messages that are known but for them.
    """

    __slots__ = ("data", "prefixes", "rests", "starts", "wholes")

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.prefixes: list[bytes] = []
        self.wholes: set[bytes] = set()
        self.rests: set[bytes] = set()
        self.starts: set[bytes] = set()

    def add(self, message: bytes, *, whole: bool) -> None:
        """Remember a message."""
        self.data.append(_without_padding(message))
        rest = message[PREFIX:]
        if whole:
            self.wholes.add(message)
            self.rests.add(rest)
        self.starts.add(rest[: _START - PREFIX])

    def has(self, message: bytes, *, whole: bool) -> bool:
        """Whether a message like this was seen, apart from the prefix."""
        if whole and message in self.wholes:
            return True
        rest = message[PREFIX:]
        if whole:
            known = len(rest) >= _LEAST_REST and rest in self.rests
        else:
            rest = rest[: _START - PREFIX]
            known = len(rest) >= _LEAST_FILLER and (
                rest in self.starts
                or (
                    len(rest) < _START - PREFIX
                    and any(start.startswith(rest) for start in self.starts)
                )
            )
        if known:
            self.prefixes.append(message[:PREFIX])
        return known

    def judge_prefixes(self) -> bytes:
        """Return the prefixes where they are no clock."""
        distinct = list(dict.fromkeys(self.prefixes))
        if len(distinct) < _FEW:
            return b""
        varied = 0
        for column in range(PREFIX):
            values = [p[column] for p in distinct if column < len(p)]
            varied += 2 * len(set(values)) > len(distinct)
        return b"".join(distinct) if varied > _CLOCK else b""


def _filler_from(message: bytes) -> int:
    """Return where a filler starts that goes on to the end, -1 for none."""
    for start in _STARTS:
        if len(message) - start < max(_LEAST_FILLER, start // 2):
            continue
        if _is_filler(message[start:]):
            return start
    return -1


def _header(messages: list[bytes]) -> int:
    """Length of the header that the messages begin with, 0 for none."""
    if len(messages) < _kernel.FRAME_SLICES:
        return 0
    width = min(_START, sorted(map(len, messages))[len(messages) // 2])
    starts = b"".join([m[:width] for m in messages if len(m) >= width])
    return int(_kernel.frame_columns(np.frombuffer(starts, np.uint8), width))


def _without_padding(data: bytes) -> bytes:
    """Drop a run of one byte at the end, and what repeats the start to the end."""
    short = data.rstrip(data[-1:])
    if len(data) - len(short) >= _PADDING:
        return short
    period = data.find(data[:_PERIOD], 1)
    if period > 0 and data[period:] == data[:-period]:
        return data[:period]
    return data


def _is_filler(data: bytes) -> bool:
    if data in _RAMP or data[::-1] in _RAMP:
        return True
    size = len(data)
    for period in range(1, min(_PERIOD, size // 2) + 1):
        if data[period] == data[0] and data[period:] == data[:-period]:
            return True
    if _BEER.fullmatch(data):
        return True
    if size < 16:
        return False
    view = np.frombuffer(data, np.uint8)
    steps = np.count_nonzero(view[1:] - view[:-1] == 1)
    return bool(size - 1 - steps <= 1 + size // 10)


def _is_quote(data: bytes) -> bool:
    """Whether this is an IP header, and what followed it, as errors quote them."""
    if len(data) < 28:
        return False
    if data[0] >> 4 == 4:
        size = (data[0] & 15) * 4
        total = int.from_bytes(data[2:4])
        if (
            size < 20
            or len(data) < size + 8
            or data[6] & 0x80
            or data[9] not in _FOUR_CARRIES
            or total < size
        ):
            return False
        # Some quote the header with the time to live already lowered.
        words = sum(int.from_bytes(data[at : at + 2]) for at in range(0, size, 2))
        if data[10:12] != b"\0\0" and (words % 0xFFFF) % 256:
            return False
    elif data[0] >> 4 == 6 and len(data) >= 48:
        total = 40 + int.from_bytes(data[4:6])
        if (
            data[6] not in _SIX_CARRIES
            or not (_is_unicast(data[8:24]) or data[8:16] == bytes(8))
            or not (
                _is_unicast(data[24:40]) or data[24] == 0xFF or data[24:32] == bytes(8)
            )
        ):
            return False
    else:
        return False
    # Behind a packet that is shorter there is padding, or an extension.
    more = data[total:]
    return not more.strip(b"\0") or data[_EXTENDED : _EXTENDED + 1] == b"\x20"


def _is_unicast(address: bytes) -> bool:
    """Whether an IPv6 address is global or local (RFC 4291, RFC 4193)."""
    first = address[0]
    return first & 0xE0 == 0x20 or first & 0xFE == 0xFC or address[:8] == _LINK_LOCAL


def _is_control(data: bytes) -> bool:
    """Whether this is what neighbour discovery or group membership of IPv6 says."""
    size = len(data)
    if size < 8 or size % 4:
        return False
    if _are_groups(data):
        return True
    # Solicitation or advertisement of a neighbour, or redirection: addresses first.
    # Without options nothing but the form of a link-local address tells one.
    if size == 16:
        return data[:8] == _LINK_LOCAL
    if size > 16 and _is_unicast(data[:16]):
        return _are_options(data, 16) or (size > 32 and _are_options(data, 32))
    # Solicitation of a router, and its advertisement behind two times.
    return _are_options(data, 0) or (size > 8 and _are_options(data, 8))


def _are_options(data: bytes, at: int) -> bool:
    while at < len(data):
        size = data[at + 1] if at + 1 < len(data) else 0
        if not 0 < size <= _OPTIONS.get(data[at], 0):
            return False
        at += 8 * size
    return at == len(data)


def _are_groups(data: bytes) -> bool:
    """Report or query of groups, which are multicast addresses (RFC 2710, RFC 3810)."""
    if len(data) in (16, 20) and (data[0] == 0xFF or not any(data[:16])):
        return len(data) == 16 or data[18:20] == b"\0\0"
    at = 0
    while at + 20 <= len(data):
        sources = int.from_bytes(data[at + 2 : at + 4])
        if not 0 < data[at] <= 6 or data[at + 1] or data[at + 4] != 0xFF:
            return False
        at += 20 + 16 * sources
    return at == len(data)
