"""What the sides of a flow send: streams of bytes that are made where they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from exfilml import payload

SEGMENT: Final = 1448
_BLOCK: Final = 1024

Read = Callable[[int, int], bytes]
"""Bytes of a stream: offset and count to bytes, fewer at the end."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one side of a flow sends: payload bytes, payload per packet, its bytes."""

    size: int
    packet: int
    read: Read

    @property
    def packets(self) -> int:
        """Packets with payload."""
        return -(-self.size // self.packet)

    def judge(self, protocol: int) -> payload.PayloadEvidence:
        """Judge what the extractor would keep."""
        kept = payload.KEPT_HEAD
        head = self.read(0, min(self.size, kept))
        first = -(-kept // self.packet)
        # Of equal packets only the last can be too short for a slice.
        behind = max(0, (self.size - payload.SLICE_BYTES) // self.packet + 1 - first)
        slices = (
            self.read((first + i) * self.packet, payload.SLICE_BYTES)
            for i in payload.kept_slices(behind)
        )
        return payload.judge_stream(
            head,
            b"".join(slices),
            stream_bytes=self.size,
            protocol=protocol,
            packets=[
                min(self.packet, len(head) - at)
                for at in range(0, len(head), self.packet)
            ],
        )


@dataclass(frozen=True, slots=True)
class Wire:
    """What the local and the remote side of a flow send."""

    up: Side
    down: Side


_PLAIN: Final = b"".join(
    b"%06d;%s %s;%d.%02d EUR;open\r\n"
    % (
        i,
        (b"Anna", b"Jonas", b"Mia", b"Paul")[i % 4],
        b"Example",
        i * 37 % 9973,
        i % 97,
    )
    for i in range(1000)
)


def encrypted(key: bytes, size: int) -> Read:
    """Return records as a stream cipher gives them: plaintext XOR keystream."""

    def read(at: int, count: int) -> bytes:
        count = min(count, size - at)
        if count <= 0:
            return b""
        blocks = range(at // _BLOCK, (at + count - 1) // _BLOCK + 1)
        pad = b"".join(
            hashlib.shake_256(key + i.to_bytes(8, "big")).digest(_BLOCK) for i in blocks
        )[at % _BLOCK :][:count]
        start = at % len(_PLAIN)
        plain = (_PLAIN * (2 + count // len(_PLAIN)))[start : start + count]
        return (int.from_bytes(pad) ^ int.from_bytes(plain)).to_bytes(count)

    return read


def fixed(data: bytes) -> Read:
    return lambda at, count: data[at : at + count]


def after(prefix: bytes, read: Read) -> Read:
    """Return a stream that begins with a prefix."""

    def both(at: int, count: int) -> bytes:
        lead = prefix[at : at + count]
        rest = count - len(lead)
        return lead + (read(max(0, at - len(prefix)), rest) if rest else b"")

    return both


def framed(frame: Callable[[int], bytes], width: int) -> Read:
    """Return a stream of frames of equal width; the last may be shorter."""

    def read(at: int, count: int) -> bytes:
        frames = range(at // width, (at + count - 1) // width + 1)
        return b"".join(map(frame, frames))[at % width :][:count]

    return read


SILENT: Final = Side(0, SEGMENT, fixed(b""))
