"""HTTP/1: the content that the messages of a stream carry.

Sources: RFC 9112 and 9110 (messages, tunnels), RFC 7578 (forms).

Beyond the letter of the RFC: bytes that follow a message and begin no other one are
content, whatever its header says. That is how a tunnel (CONNECT, Upgrade) looks,
and also how someone hides bytes behind a request that has no body.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from exfilml.payload import _content, _fields, _mime
from exfilml.payload._content import BLANK_BELOW, Carried, Part
from exfilml.payload._http_messages import START, TEXT, Message, messages

_METHODS: Final = (
    b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ",
    b"CONNECT ", b"TRACE ", b"PROPFIND ", b"PROPPATCH ", b"MKCOL ", b"COPY ",
    b"MOVE ", b"LOCK ", b"UNLOCK ", b"REPORT ", b"SEARCH ", b"HTTP/1.",
)  # fmt: skip
_CUT_START = re.compile(rb"(?:%s)[\x20-\x7e]*\r?" % b"|".join(map(re.escape, _METHODS)))
"""A start line of which the head shows the first bytes only."""

_AGAIN = re.compile(
    rb"HTTP/1\.[01] [1-5][0-9][0-9][ \r\n]"
    rb"|(?:%s)[\x21-\xff]{1,2000} HTTP/1\.[01]\r?\n"
    % b"|".join(map(re.escape, _METHODS[:-1]))
)
"""A start line behind bytes that begin none."""

_LATER_CHUNK = re.compile(rb"(?:\r\n)?[0-9A-Fa-f]{1,8}\r\n")
_EXTENSION = re.compile(r".*\.[a-z0-9]{1,8}", re.ASCII)

_LONG_HEADER: Final = 1024
"""Headers from this size on may go on in a second packet of the network."""

_MAX_GAPS: Final = 8
"""Stretches between messages that begin none. More come of no honest stream."""

_MAX_GAP: Final = 65_536
"""Bytes of such a stretch in which the next message is looked for."""


def unwrap(head: bytes, slices: bytes, width: int) -> Carried | None:
    """Open the messages of one direction of an HTTP/1 stream.

    Parameters
    ----------
    head
        First bytes of the direction.
    slices, width
        Starts of later packets, `width` bytes each.

    Returns
    -------
    Carried or None
        A part for each body, and for each MIME part of a ``multipart/*`` body. Bytes
        behind a message that begin no other one belong to its body, if it has one;
        else they are a part too (a tunnel, or content that no header announces), but
        for segments that were sent twice. None if no message begins here or the first
        header does not end in `head`.

    Notes
    -----
    Where the content of the last part goes on behind the head, `later` is the slices
    but those that hold a boundary line. Where the last message ended inside the head,
    the slices are those of messages that were not seen: headers and bodies of any
    kind. They are handed over too, because what is uploaded late is uploaded all the
    same, but for slices that begin a message and, if headers of this stream are long
    enough to fill a packet, those that are plain text and may be the middle of one.
    With no part at all (nothing but requests for pages) such slices are all there is.

    A WebSocket is a tunnel here; ask `_websocket.unwrap` first.
    """
    entities = _mime.Entities()
    walked = _walk(head, entities)
    if walked is None:
        return None
    last, in_body, longest = walked
    later, width = _later(slices, width, entities.delimiters, in_body, longest, last)
    parts = [part for part in entities.parts if part.data or later]
    return Carried(_content.at_most(parts), later, width if later else 0)


def _walk(head: bytes, entities: _mime.Entities) -> tuple[Message, bool, int] | None:
    """Collect the parts of all messages.

    Returns the last message, whether content goes on behind the head, and the length
    of the longest header; None if there is no message.
    """
    last: Message | None = None
    in_body = False
    longest = at = 0
    for _ in range(_MAX_GAPS):
        for message in messages(head, at):
            last = message
            in_body = message.is_open
            longest = max(longest, message.header_end - message.begin)
            at = message.end
            if message.body is not None:
                name = _path_name(message)
                entities.add_content(
                    message.body, message.fields, cut=in_body, name=name
                )
        rest = head[at:].lstrip(b"\r\n")
        at = len(head) - len(rest)
        if last is None or not rest or _begins_message(rest):
            break
        again = None if last.is_tunnel else _AGAIN.search(head, at, at + _MAX_GAP)
        stop = len(head) if again is None else again.start()
        _add_rest(entities.parts, head, at, stop, last)
        in_body = again is None
        at = stop
        if in_body:
            break
    return None if last is None else (last, in_body, longest)


def _add_rest(
    parts: list[Part], head: bytes, at: int, stop: int, last: Message
) -> None:
    """Add bytes from `at` to `stop`, which follow a message and begin no other one."""
    rest = head[at:stop]
    if last.is_tunnel:
        # A tunnel speaks its own language.
        parts.append(Part(rest, None, at))
    elif last.body is not None and last.body.data and parts:
        # Its length was wrong, or a segment of the network was sent twice.
        parts[-1] = Part(parts[-1].data + rest, parts[-1].declared, parts[-1].start)
    elif head.find(rest[:BLANK_BELOW], 0, at) < 0:
        # Content that no header announced, and no segment of one sent twice.
        parts.append(Part(rest, _fields.declared(last.fields), at))


def _begins_message(rest: bytes) -> bool:
    """Whether a message begins here of which the head shows the first bytes only."""
    if START.match(rest) or _CUT_START.fullmatch(rest):
        return True
    return len(rest) < 11 and any(method.startswith(rest) for method in _METHODS)


def _path_name(message: Message) -> str | None:
    """File name in the path of a PUT, if it has an extension."""
    if message.method != "PUT":
        return None
    path = message.target[-2048:].split("?", 1)[0]
    if "://" in path:
        # The absolute form, as proxies are asked: a host is no file.
        path = path.partition("://")[2].partition("/")[2]
    name = _fields.file_name(unquote(path.rsplit("/", 1)[-1]))
    return name if name and _EXTENSION.fullmatch(name) else None


def _later(
    slices: bytes,
    width: int,
    delimiters: set[bytes],
    in_body: bool,
    longest: int,
    last: Message,
) -> tuple[bytes, int]:
    """Slices that are content, and their width."""

    def is_content(piece: bytes) -> bool:
        if START.match(piece) or _CUT_START.fullmatch(piece):
            return False
        if not in_body and longest >= _LONG_HEADER and TEXT.issuperset(piece):
            return False
        return not any(delimiter in piece for delimiter in delimiters)

    kept = _content.only(slices, width, is_content)
    if not (last.is_chunked and in_body):
        return kept, width
    pieces = list(_content.each(kept, width))
    bare = [piece[_chunk_size(piece) :] for piece in pieces]
    if all(map(int.__eq__, map(len, bare), map(len, pieces))):
        return kept, width
    return b"".join(bare), 0


def _chunk_size(piece: bytes) -> int:
    """Length of the chunk size a slice begins with."""
    found = _LATER_CHUNK.match(piece)
    return found.end() if found is not None else 0
