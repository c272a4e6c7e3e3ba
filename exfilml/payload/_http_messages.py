"""HTTP/1: where the messages of a stream begin and end, and what their bodies are.

Sources: RFC 9112 (message format, body length in section 6.3, chunks in section 7.1),
RFC 9110 (CONNECT, Upgrade).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from exfilml.payload._content import Joined
from exfilml.payload._fields import BLANK, FIELD
from exfilml.payload._fields import fields as fields_of

START = re.compile(
    rb"(?:[A-Z][A-Z-]{2,19} [^\r\n]+ HTTP/1\.[01][ \t]*\r?\n"
    rb"|HTTP/1\.[01] [1-5][0-9][0-9][ \r\n])"
)
"""The line a message starts with; of a reply, its beginning."""

TEXT: Final = frozenset((*range(32, 127), 9, 10, 13))
"""Characters of headers."""

_CHUNK = re.compile(rb"(?:\r?\n)?([0-9A-Fa-f]{1,8})[^\r\n]{0,256}\r?\n")

_MAX_MESSAGES: Final = 256
"""More messages are not walked; so many do not fit into the head that is kept."""

_MAX_CHUNKS: Final = 2048
"""Likewise for the chunks of a message."""

_LONGEST_CUT_TRAILER: Final = 256


class Message(NamedTuple):
    """One message.

    Attributes
    ----------
    method
        Method of a request, upper case; "" for a reply.
    status
        Status of a reply; 0 for a request.
    target
        Target of a request.
    fields
        Header fields.
    begin, header_end
        Where it begins in the head, and where its header ends.
    body
        Its content without chunk sizes; None where it has none.
    end
        Where the next message begins in the head.
    is_open
        Whether the content goes on behind the head.
    is_chunked
        Whether it comes in chunks.
    """

    method: str
    status: int
    target: str
    fields: dict[str, str]
    begin: int
    header_end: int
    body: Joined | None
    end: int
    is_open: bool
    is_chunked: bool

    @property
    def is_tunnel(self) -> bool:
        """Whether bytes of another protocol may follow."""
        return bool(self.upgrade) or self.status == 101 or self.method == "CONNECT"

    @property
    def upgrade(self) -> str:
        """Protocol that a request asks for or a reply switches to, lower case."""
        if self.status not in (0, 101):
            return ""
        return self.fields.get("upgrade", "").lower()


def messages(head: bytes, at: int = 0) -> Iterator[Message]:
    """Walk the messages from `at` on, up to bytes that begin none.

    Those whose header does not end in `head` are not told.
    """
    for _ in range(_MAX_MESSAGES):
        line = START.match(head, at)
        if line is None:
            return
        blank = BLANK.search(head, at)
        if blank is None:
            return
        message = _message(head, at, blank.start() + 1, blank.end())
        yield message
        at = message.end
        # Servers skip an empty line before a request (RFC 9112, section 2.2).
        while head.startswith(b"\r\n", at) and at < message.end + 8:
            at += 2


def _message(head: bytes, at: int, header_end: int, start: int) -> Message:
    line, _, rest = head[at:header_end].partition(b"\n")
    fields = fields_of(rest)
    words = line.strip().decode("latin-1").split(" ")
    is_reply = words[0].startswith("HTTP/1.")
    method = "" if is_reply else words[0]
    status = int(words[1]) if is_reply else 0
    target = "" if is_reply else " ".join(words[1:-1])
    coding = fields.get("transfer-encoding", "").lower()
    length = fields.get("content-length", "").strip()
    size = (
        int(length)
        if length.isascii() and length.isdigit() and len(length) < 16
        else -1
    )

    spans: list[tuple[int, int]] = []
    end, is_open = start, False
    chunked = "chunked" in coding
    if is_reply and (status < 200 or status in (204, 304) or START.match(head, start)):
        # No body, or the reply to a HEAD: the next message follows.
        chunked = False
    elif chunked:
        spans, end, is_open = _chunks(head, start)
    elif size >= 0:
        end = min(start + size, len(head))
        is_open = start + size > len(head)
        spans = [(start, end)] if size else []
    elif is_reply:
        end, is_open = len(head), True
        spans = [(start, end)]
    body = Joined.of(head, spans) if spans else None
    return Message(
        method, status, target, fields, at, start, body, end, is_open, chunked
    )


def _chunks(head: bytes, at: int) -> tuple[list[tuple[int, int]], int, bool]:
    """Spans of the chunks from `at` on, where the message ends, whether it goes on."""
    spans: list[tuple[int, int]] = []
    for _ in range(_MAX_CHUNKS):
        size = _CHUNK.match(head, at)
        if size is None:
            # The head ends in front of a size, or this is no chunk.
            is_open = len(head) - at < 12
            return spans or [(at, at)], len(head) if is_open else at, is_open
        at = size.end()
        length = int(size[1], 16)
        if length == 0:
            return spans, _trailer(head, at), False
        spans.append((at, min(at + length, len(head))))
        at += length
        if at >= len(head):
            return spans, len(head), True
    return spans, len(head), True


def _trailer(head: bytes, at: int) -> int:
    """Where the trailer section that starts at `at` ends (RFC 9112, 7.1.2)."""
    if head.startswith((b"\r\n", b"\n"), at):
        return head.index(b"\n", at) + 1
    end = BLANK.search(head, at)
    if end is not None:
        is_trailer = FIELD.match(head, at) and not START.match(head, at)
        return end.end() if is_trailer else at
    # The head may end in the middle of one.
    rest = head[at : at + _LONGEST_CUT_TRAILER + 1]
    is_cut = len(rest) <= _LONGEST_CUT_TRAILER and TEXT.issuperset(rest)
    return len(head) if is_cut and not START.match(rest) else at
