"""Forms of ICMP payload that carry nothing of their sender's.

Fillers known by their form, from the first byte on or behind a prefix of up to
`PREFIX` bytes (timestamps and sequence numbers):

- bytes that increase or decrease by one, with a break in ten at most: ping of Linux,
  BSD, macOS and Solaris (behind a timeval or timespec), Windows, .NET and their kin
  (``abcdefghijklmnopqrstuvwabcdefghi``), alphabets and digits in order;
- a repetition of up to `PERIOD` bytes: zeros and spaces (fping, WinMTR, dpinger, nping,
  check_icmp), ``X`` (hping), 0xABCD (Cisco), 0x55 and 0xAA, ``ping -p``;
- Apple's SimplePing ("99 bottles of beer on the wall").

The header of ICMP is not among the payload, so that other messages have to be known
by form: errors quote the packet that caused them (RFC 792; RFC 4443, section 3; RFC
4884 for what may follow), and neighbour discovery and group membership of IPv6 (RFC
4861, RFC 3810) have fields of fixed form.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

import numpy as np

from exfilml.payload._sampling import KEPT_HEAD

PREFIX: Final = 24
"""Bytes at the start of an echo that may change from one to the next."""

PERIOD: Final = 16
"""A longer pattern that repeats is not taken for a filler, but counted once."""

LEAST_FILLER: Final = 8
"""A shorter one says nothing."""

_LEAST_RAMP: Final = 16

_RISING: Final = bytes(range(256)) * (KEPT_HEAD // 256 + 2)
_FALLING: Final = _RISING[::-1]
_BEER: Final = re.compile(rb" *[0-9]{1,3} bottles? of beer on the wall")
_WINDOWS: Final = b"abcdefghijklmnopqrstuvw" * (KEPT_HEAD // 23 + 1)
_STARTS: Final = (0, 8, 16, 4, 12, 20, PREFIX)

_FOUR_CARRIES: Final = frozenset({1, 2, 4, 6, 17, 41, 47, 50, 51, 58, 89, 103, 132})
_SIX_CARRIES: Final = frozenset({0, 6, 17, 43, 44, 47, 50, 51, 58, 60, 132})
_LINK_LOCAL: Final = b"\xfe\x80" + bytes(6)
_EXTENDED: Final = 128
_HOPS: Final = 64
# Options of neighbour discovery and their greatest length in units of 8 bytes: link
# layer addresses, prefix, MTU, nonce, route, DNS servers, search list, captive portal.
_OPTIONS: Final = {1: 2, 2: 2, 3: 4, 5: 1, 14: 1, 24: 3, 25: 9, 31: 8, 37: 8, 38: 2}


def filler_from(message: bytes) -> int:
    """Return where a filler starts that goes on to the end, -1 for none."""
    size = len(message)
    if size < LEAST_FILLER:
        return -1
    if message == _WINDOWS[:size]:
        return 0
    starts = [s for s in _STARTS if size - s >= max(LEAST_FILLER, s // 2)]
    for start in starts:
        rest, first = message[start:], message[start]
        if rest in (
            _RISING[first : first + size - start],
            _FALLING[255 - first : 255 - first + size - start],
        ):
            return start
    # What a message ends with rules most patterns out at once.
    end = message[-2:]
    periods = [
        p for p in range(1, PERIOD + 1) if message[size - 2 - p : size - p] == end
    ]
    tail = message[-LEAST_FILLER:]
    breaks = sum([b - a not in (1, -255) for a, b in pairwise(tail)])
    for start in starts if periods or breaks <= 2 else ():
        rest = message[start:]
        if any(2 * p <= len(rest) and rest[p:] == rest[:-p] for p in periods):
            return start
        if breaks <= 2 and _is_broken_ramp(rest):
            return start
    return 0 if message.endswith(b"wall") and _BEER.fullmatch(message) else -1


def _is_broken_ramp(data: bytes) -> bool:
    """Whether bytes increase by one, with a break in ten at most."""
    size = len(data)
    if size < _LEAST_RAMP:
        return False
    view = np.frombuffer(data, np.uint8)
    steps = np.count_nonzero(view[1:] - view[:-1] == 1)
    return bool(size - 1 - steps <= 1 + size // 10)


def is_quote(data: bytes) -> bool:
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
        # Some quote the header with the time to live lowered, its sum as it was.
        words = sum(int.from_bytes(data[at : at + 2]) for at in range(0, size, 2))
        lowered, odd = divmod(-words % 0xFFFF, 256)
        if data[10:12] != b"\0\0" and (odd or lowered > _HOPS):
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


def is_control(data: bytes) -> bool:
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
    if len(data) in (16, 20) and (_is_group(data, 0) or not any(data[:16])):
        return len(data) == 16 or data[18:20] == b"\0\0"
    at = 0
    while at + 20 <= len(data):
        sources = int.from_bytes(data[at + 2 : at + 4])
        if not 0 < data[at] <= 6 or data[at + 1] or not _is_group(data, at + 4):
            return False
        at += 20 + 16 * sources
    return at == len(data)


def _is_group(data: bytes, at: int) -> bool:
    """Whether a well-known or solicited-node multicast address stands here."""
    return data[at] == 0xFF and data[at + 2 : at + 8] == bytes(6)
