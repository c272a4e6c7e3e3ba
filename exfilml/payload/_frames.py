"""WebSocket frames: read, unmasked and inflated.

Sources: RFC 6455 (frames in section 5.2, masking in 5.3), RFC 7692
(permessage-deflate).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

CONTINUATION: Final = 0
KINDS: Final = {1: "websocket/text", 2: "websocket/binary"}
"""Opcodes of messages, and what they declare."""

CONTROL: Final = frozenset({8, 9, 10})
"""Opcodes of close, ping and pong."""

LONGEST_HEADER: Final = 14

_MAX_INFLATED: Final = 65_536
"""Inflated bytes of one direction. Content is judged by less, and a few hundred bytes
of deflate can stand for megabytes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Header of a frame, with where its payload starts and stops."""

    opcode: int
    is_final: bool
    is_deflated: bool
    key: bytes
    start: int
    stop: int

    def payload(self, data: bytes) -> bytes:
        """Payload as far as `data` shows it, unmasked."""
        return unmask(data[self.start : self.stop], self.key)


def unmask(data: bytes, key: bytes) -> bytes:
    """XOR with the repeated key of four bytes; no key, no change."""
    if not key or not data:
        return data
    mask = (key * (len(data) // 4 + 1))[: len(data)]
    mixed = int.from_bytes(data, "little") ^ int.from_bytes(mask, "little")
    return mixed.to_bytes(len(data), "little")


def read_frame(data: bytes, at: int, *, deflates: bool) -> Frame | None:  # noqa: C901, PLR0911
    """Read the frame header at `at`; None if there is none, or not all of it."""
    if at + 2 > len(data):
        return None
    first, second = data[at], data[at + 1]
    opcode, is_final, is_deflated = first & 15, bool(first & 0x80), bool(first & 0x40)
    if first & 0x30 or (is_deflated and not deflates):
        return None
    size = second & 0x7F
    if opcode in CONTROL:
        if not is_final or is_deflated or size > 125:
            return None
    elif opcode != CONTINUATION and opcode not in KINDS:
        return None
    at += 2
    # The shortest form of a length is the only one allowed.
    if size == 126:
        size, at, least = int.from_bytes(data[at : at + 2]), at + 2, 126
    elif size == 127:
        size, at, least = int.from_bytes(data[at : at + 8]), at + 8, 65_536
    else:
        least = 0
    if not least <= size < 1 << 63:
        return None
    key = b""
    if second & 0x80:
        key, at = data[at : at + 4], at + 4
    if at > len(data):
        return None
    return Frame(opcode, is_final, is_deflated, key, at, at + size)


class Inflater:
    """Inflates the messages of one direction, one after the other.

    The window is kept from message to message (context takeover); messages that were
    deflated without it refer to themselves only and are read all the same.
    """

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._left = _MAX_INFLATED

    def inflate(self, data: bytes, *, whole: bool) -> bytes | None:
        """Inflate a message, or its beginning; None if it is not deflate."""
        for _ in range(2):
            try:
                found = self._take(data, whole=whole)
            except zlib.error:
                # A message before it was lost or false: this one may stand alone.
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
                continue
            if self._stream.eof:
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
            return found
        return None

    def _take(self, data: bytes, *, whole: bool) -> bytes:
        if not self._left:
            return b""
        # The sender leaves out the end of an empty block (RFC 7692, section 7.2.1).
        tail = b"\x00\x00\xff\xff" if whole else b""
        found = self._stream.decompress(data + tail, self._left)
        self._left -= len(found)
        return found
