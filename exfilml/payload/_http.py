"""HTTP/1: where the headers end and what the bodies are."""

from __future__ import annotations

import re
from typing import Final

_LENGTH = re.compile(rb"\r?\ncontent-length:[ \t]*([0-9]{1,15})", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r?\ntransfer-encoding:[^\n]*chunked", re.IGNORECASE)
_MESSAGE = re.compile(rb"(?:[A-Z]{3,12} [^\r\n]+ HTTP/1|HTTP/1\.[01] [1-5][0-9][0-9])")
_CHUNK = re.compile(rb"(?:\r?\n)?([0-9A-Fa-f]{1,8})[^\r\n]{0,64}\r?\n")
_MESSAGES: Final = 64
"""More pipelined messages than this in the head of a stream are not walked."""


def bodies(head: bytes) -> bytes | None:
    """Message bodies in the first bytes of an HTTP/1 stream, without framing.

    Returns
    -------
    bytes or None
        Bodies of all messages that begin in `head`, one behind the other and
        without chunk sizes; None if the first header does not end in `head`.
    """
    parts: list[bytes] = []
    at = 0
    for _ in range(_MESSAGES):
        end = head.find(b"\r\n\r\n", at)
        if end < 0:
            break
        start = end + 4
        header = head[at:start]
        length = _LENGTH.search(header)
        if _CHUNKED.search(header):
            at = _dechunk(head, start, parts)
        elif length is not None:
            at = start + int(length[1])
            parts.append(head[start:at])
        elif _MESSAGE.match(head, start):
            at = start
        else:
            # A reply without length, an upgrade or a tunnel: all that follows.
            parts.append(head[start:])
            at = len(head)
        if not _MESSAGE.match(head, at):
            parts.append(head[at:])
            break
    else:
        return b"".join(parts)
    return b"".join(parts) if at or head.find(b"\r\n\r\n") >= 0 else None


def _dechunk(head: bytes, at: int, parts: list[bytes]) -> int:
    """Append the chunks from `at` on; return where the message ends."""
    while True:
        size = _CHUNK.match(head, at)
        if size is None:
            return at
        at = size.end()
        length = int(size[1], 16)
        if length == 0:
            return at + 2 if head[at : at + 2] == b"\r\n" else at
        parts.append(head[at : at + length])
        at += length
