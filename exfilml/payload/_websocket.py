"""WebSocket: frames behind an HTTP upgrade, unmasked and joined.

Sources: RFC 6455 (frames in section 5.2, masking in 5.3, fragments in 5.4), RFC 7692
(permessage-deflate).

Clients mask each frame with four bytes that stand in the clear in front of it, so
that a proxy does not take content for HTTP. To whoever counts bytes, masked text is
text obscured with a repeating key; here it is just framing.
"""

from __future__ import annotations

from typing import Final

from exfilml.payload import _content
from exfilml.payload._content import Carried, Part
from exfilml.payload._frames import (
    CONTINUATION,
    CONTROL,
    KINDS,
    LONGEST_HEADER,
    Frame,
    Inflater,
    read_frame,
)
from exfilml.payload._http_messages import Message, messages

_DEFLATED: Final = "websocket/deflate"

_MAX_FRAMES: Final = 2048
"""More frames are not walked; so many do not fit into the head that is kept."""


def _upgrade(head: bytes) -> Message | None:
    """Message after which `head` goes on with frames."""
    found: Message | None = None
    # Walking the messages of the web takes many times as long as this.
    if b"websocket" not in head.lower():
        return None
    for message in messages(head):
        # After a refused upgrade the client goes on with HTTP.
        found = message if "websocket" in message.upgrade else None
    return found if found is not None and found.body is None else None


class _Messages:
    """Messages of one direction, joined by kind.

    Attributes
    ----------
    masked
        Whether frames are masked; None before the first frame.
    deflated
        Whether any message was deflated.
    """

    def __init__(self, head: bytes) -> None:
        self.masked: bool | None = None
        self.deflated = False
        self._head = head
        # Kinds in the order in which they were last seen.
        self._pieces: dict[str | None, list[bytes]] = {}
        self._starts: dict[str | None, int] = {}
        self._inflater = Inflater()
        self._kind = KINDS[2]
        # Payloads of a deflated message, and where the first of them starts.
        self._waiting: list[bytes] | None = None
        self._waiting_start = 0

    def read(self, at: int, *, deflates: bool) -> None:
        """Read the frames from `at` to the end of the head."""
        head = self._head
        for _ in range(_MAX_FRAMES):
            if at >= len(head):
                break
            frame = read_frame(head, at, deflates=deflates)
            if frame is None or self.masked not in (None, bool(frame.key)):
                if len(head) - at >= LONGEST_HEADER and self.masked is not None:
                    self._end_deflated(whole=False)
                    self._add(None, head[at:], at)
                return
            self.masked = bool(frame.key)
            at = frame.stop
            if frame.opcode not in CONTROL:
                self._take(frame)
        self._end_deflated(whole=False)

    def _take(self, frame: Frame) -> None:
        if frame.opcode != CONTINUATION:
            self._end_deflated(whole=False)
            self._kind = KINDS[frame.opcode]
            self._waiting = [] if frame.is_deflated else None
            self._waiting_start = frame.start
        data = frame.payload(self._head)
        is_cut = frame.stop > len(self._head)
        if self._waiting is not None:
            self.deflated = True
            self._waiting.append(data)
            if frame.is_final:
                self._end_deflated(whole=not is_cut)
        elif data or is_cut:
            self._add(self._kind, data, frame.start)

    def _end_deflated(self, *, whole: bool) -> None:
        if self._waiting is None:
            return
        deflated, self._waiting = b"".join(self._waiting), None
        data = self._inflater.inflate(deflated, whole=whole)
        if data is None:
            self._add(_DEFLATED, deflated, self._waiting_start)
        else:
            self._add(self._kind, data, self._waiting_start)

    def _add(self, kind: str | None, data: bytes, start: int) -> None:
        pieces = self._pieces.pop(kind, [])
        pieces.append(data)
        self._pieces[kind] = pieces
        self._starts.setdefault(kind, start)

    def parts(self) -> list[Part]:
        """One part for each kind."""
        return [
            Part(b"".join(pieces), kind, self._starts[kind])
            for kind, pieces in self._pieces.items()
        ]


def unwrap(head: bytes, slices: bytes, width: int) -> Carried | None:
    """Open the frames that follow an upgrade to WebSocket.

    Parameters
    ----------
    head
        First bytes of the direction: the request or the reply, then frames.
    slices, width
        Starts of later packets, `width` bytes each.

    Returns
    -------
    Carried or None
        One part for the text of all messages and one for the bytes of all binary
        messages, declared ``websocket/text`` and ``websocket/binary``; that of which
        more came last is the last one. Deflated messages are inflated and belong to
        their kind; those that cannot be inflated are a part ``websocket/deflate``.
        Bytes that are no frame are one more part, undeclared. None without an
        upgrade, or where what follows it is no frame.

    Notes
    -----
    Of later packets those are used that begin with a frame. The others lie in the
    middle of one: where frames are masked, their key was sent in a packet that was
    not kept, and they say nothing; where they are not, they are content. Nothing is
    used of deflated frames, which depend on all bytes before them. The kind of the
    last part follows the later packets if these say another one.
    """
    upgrade = _upgrade(head)
    if upgrade is None:
        return None
    deflates = "deflate" in upgrade.fields.get("sec-websocket-extensions", "").lower()
    messages = _Messages(head)
    messages.read(upgrade.end, deflates=deflates)
    masked = messages.masked
    if masked is None:
        if len(head) - upgrade.end >= LONGEST_HEADER:
            return None
        # Clients must mask and servers must not.
        masked = not upgrade.status
    parts = messages.parts()
    later, kind = b"", None
    if not messages.deflated:
        later, kind = _later(slices, width, masked=masked, deflates=deflates)
    if kind is not None:
        same = [part for part in parts if part.declared == kind]
        parts = [part for part in parts if part.declared != kind]
        parts += same or [Part(b"", kind, len(head))]
    if not later:
        parts = [part for part in parts if part.data]
    return Carried(tuple(parts), later, 0)


def _later(
    slices: bytes, width: int, *, masked: bool, deflates: bool
) -> tuple[bytes, str | None]:
    """Content of later packets, and the kind that most of it says it is."""
    kept: list[bytes] = []
    sizes: dict[str, int] = {}
    left = _MAX_FRAMES
    for piece in _content.each(slices, width):
        if left <= 0:
            break
        frames = _frames(piece, masked=masked, deflates=deflates)
        if frames is None:
            left -= 1
            if not masked:
                kept.append(piece)
            continue
        left -= len(frames)
        for frame in frames:
            if frame.opcode in CONTROL or frame.is_deflated:
                continue
            data = frame.payload(piece)
            kept.append(data)
            if frame.opcode in KINDS:
                kind = KINDS[frame.opcode]
                sizes[kind] = sizes.get(kind, 0) + len(data)
    best = max(sizes, key=lambda kind: sizes[kind]) if sizes else None
    return b"".join(kept), best


def _frames(piece: bytes, *, masked: bool, deflates: bool) -> list[Frame] | None:
    """Frames that a slice begins with; None if it begins in the middle of one.

    Where a short frame ends inside the slice another must follow, else the first two
    bytes only looked like a header.
    """
    found: list[Frame] = []
    at = 0
    while at < len(piece):
        frame = read_frame(piece, at, deflates=deflates)
        if frame is None or masked != bool(frame.key):
            if found and len(piece) - at < LONGEST_HEADER:
                break
            return None
        found.append(frame)
        at = frame.stop
    return found
