"""Mail: the messages a client hands to an SMTP server, and their parts.

Sources: RFC 5321 (dialogue; DATA in section 4.1.1.4, transparency in 4.5.2), RFC 3030
(BDAT), RFC 2045 and 2046 (parts).
"""

from __future__ import annotations

import re
from typing import Final

from exfilml.payload import _content, _mime
from exfilml.payload._content import Carried, Joined, Part

_HELLO = re.compile(rb"(?:EHLO|HELO|LHLO)(?:[ \t][^\r\n]*)?\r?\n", re.IGNORECASE)
_COMMAND = re.compile(
    rb"(?:MAIL FROM:|RCPT TO:|(?:EHLO|HELO|LHLO|AUTH|BDAT|VRFY|EXPN|NOOP) "
    rb"|(?:DATA|RSET|QUIT|NOOP|STARTTLS)\r?\n)",
    re.IGNORECASE,
)
_BDAT = re.compile(rb"BDAT[ \t]+([0-9]{1,15})([ \t]+LAST)?[ \t]*", re.IGNORECASE)
_END = re.compile(rb"\n\.\r?\n")

_MAX_LINES: Final = 1024
"""More lines of a dialogue are not walked; so many do not fit into the head."""


def unwrap(head: bytes, slices: bytes, width: int) -> Carried | None:
    """Open the messages in the client's direction of an SMTP stream.

    Parameters
    ----------
    head
        First bytes of the direction.
    slices, width
        Starts of later packets, `width` bytes each.

    Returns
    -------
    Carried or None
        A part for each message, or for each MIME part of it, without headers, with
        doubled dots undone and text encodings as they are. The dialogue is no part:
        a client that was refused, or turned to TLS, has none. None if no client's
        greeting begins here, so also for the server's direction.

    Notes
    -----
    A message whose header does not end in `head` (a relay's, with many traces) is an
    empty part that the later slices belong to. So do they where only the dialogue
    was seen; without any part they are what came after it. Slices that begin with a
    command or hold a boundary line are left out.
    """
    if _HELLO.match(head) is None:
        return None
    entities = _mime.Entities()
    in_message = _walk(head, entities)
    if in_message is None:
        return Carried(tuple(entities.parts), b"", 0)

    def is_content(piece: bytes) -> bool:
        if not in_message and _COMMAND.match(piece):
            return False
        return not any(delimiter in piece for delimiter in entities.delimiters)

    later = _content.only(slices, width, is_content)
    parts = [part for part in entities.parts if part.data or later]
    return Carried(_content.at_most(parts), later, width if later else 0)


def _walk(head: bytes, entities: _mime.Entities) -> bool | None:
    """Collect the messages of a dialogue; say whether the last one goes on.

    None where the dialogue turns to TLS, and nothing more can be seen.
    """
    at = 0
    spans: list[tuple[int, int]] = []
    for _ in range(_MAX_LINES):
        stop = head.find(b"\n", at)
        if stop < 0:
            break
        line = head[at:stop].rstrip().upper()
        at = stop + 1
        if line == b"STARTTLS" and _COMMAND.match(head, at) is None:
            return None
        # Where the server refuses, the dialogue goes on instead of a message.
        if line == b"DATA" and _COMMAND.match(head, at) is None:
            end = _END.search(head, stop)
            size = len(head) if end is None else end.start() + 1
            _add(head, [(at, size)], entities, cut=end is None, dotted=True)
            if end is None:
                return True
            at = end.end()
        chunk = _BDAT.fullmatch(line)
        if chunk is not None:
            begin, at = at, at + int(chunk[1])
            spans.append((begin, min(at, len(head))))
            if chunk[2] and at <= len(head):
                _add(head, spans, entities, cut=False, dotted=False)
                spans = []
    if spans:
        _add(head, spans, entities, cut=True, dotted=False)
    return bool(spans)


def _add(
    head: bytes,
    spans: list[tuple[int, int]],
    entities: _mime.Entities,
    *,
    cut: bool,
    dotted: bool,
) -> None:
    """Add the parts of a message that lies in `spans`."""
    known = len(entities.parts)
    message = Joined.of(head, spans)
    entities.add_message(message, cut=cut)
    if dotted:
        # Headers and boundary lines begin with no dot, so that parts can be found
        # first and keep their places.
        entities.parts[known:] = [
            Part(_undot(part.data), part.declared, part.start)
            for part in entities.parts[known:]
        ]


def _undot(text: bytes) -> bytes:
    """Take one dot from each line that begins with one."""
    return text.removeprefix(b".").replace(b"\n.", b"\n")
