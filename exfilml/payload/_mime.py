"""MIME entities: a message or a body by its parts.

Source: RFC 2046, section 5.1 (multipart).

Everything here walks forward and stops at a count, so that cost grows with the number
of bytes and no faster, whatever they are.
"""

from __future__ import annotations

import re
from typing import Final

from exfilml.payload._content import BLANK_BELOW, Joined, Part
from exfilml.payload._fields import (
    BLANK,
    FIELD,
    declared,
    fields,
    media_type,
    parameter,
)

_MAX_DELIMITERS: Final = 1_024
"""More places that look like a boundary are not walked."""

_MAX_KNOWN: Final = 8
"""Boundaries that are looked for in later packets."""

_NESTED: Final = 1
"""Levels of multipart inside multipart that are opened: text and its attachments."""

_PADDING = re.compile(rb"[ \t]+")


class Entities:
    """Collects the parts of MIME entities of one direction.

    Attributes
    ----------
    parts
        Parts found so far.
    delimiters
        Boundary lines that may still come: a slice that holds one is no content.
    """

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.delimiters: set[bytes] = set()

    def add_message(self, body: Joined, *, cut: bool) -> None:
        """Add an entity with its header, such as a mail; `cut`: the head ends in it."""
        self.delimiters.clear()
        self._add_entity(body, 0, len(body.data), cut, 0)

    def add_content(
        self, body: Joined, header: dict[str, str], *, cut: bool, name: str | None
    ) -> None:
        """Add content whose header was read elsewhere, and a name known from there."""
        self.delimiters.clear()
        self._add(body, 0, len(body.data), header, cut, 0, name)

    def _add_entity(
        self, body: Joined, at: int, stop: int, cut: bool, depth: int
    ) -> None:
        data = body.data
        if data.startswith((b"\n", b"\r\n"), at, stop):
            self._add(body, data.index(b"\n", at) + 1, stop, {}, cut, depth)
        elif FIELD.match(data, at, stop) is None:
            # No header at all, or the first bytes of one.
            self._add(body, at, stop, {}, cut, depth)
        elif (end := BLANK.search(data, at, stop)) is not None:
            header = fields(data[at : end.start() + 1])
            self._add(body, end.end(), stop, header, cut, depth)
        elif cut:
            # A header that is cut off announces content all the same.
            self._add(body, stop, stop, {}, cut, depth)

    def _add(
        self,
        body: Joined,
        at: int,
        stop: int,
        header: dict[str, str],
        cut: bool,
        depth: int,
        name: str | None = None,
    ) -> None:
        """Add content by its parts, if it has any, else as one."""
        kind = header.get("content-type", "")
        if depth <= _NESTED and (media_type(kind) or "").startswith("multipart/"):
            boundary = (parameter(kind, "boundary") or "").rstrip()
            line = b"--" + boundary.encode("latin-1", "replace")[:70]
            if boundary and self._add_parts(body, at, stop, line, cut, depth):
                return
        if at < stop or cut:
            what = declared(header, name)
            self.parts.append(Part(body.data[at:stop], what, body.place(at)))

    def _add_parts(
        self, body: Joined, at: int, stop: int, delimiter: bytes, cut: bool, depth: int
    ) -> bool:
        """Add the parts between boundary lines (RFC 2046, section 5.1.1), if any."""
        if len(self.delimiters) < _MAX_KNOWN:
            self.delimiters.add(delimiter)
        lines, closed = _boundary_lines(body.data, at, stop, delimiter)
        if not lines:
            return False
        self._add_rest(body, at, lines[0][0])
        for i, (_, begin) in enumerate(lines):
            last = i + 1 == len(lines)
            if last and closed:
                self._add_rest(body, begin, stop)
                break
            # Boundary lines without anything between share a line break.
            end = stop if last else max(begin, lines[i + 1][0])
            self._add_entity(body, begin, end, cut and last, depth + 1)
        return True

    def _add_rest(self, body: Joined, at: int, stop: int) -> None:
        """Add what lies before the first or behind the last boundary line.

        Receivers skip it, and whoever hides something there knows that.
        """
        if stop - at >= BLANK_BELOW:
            self.parts.append(Part(body.data[at:stop], None, body.place(at)))


def _boundary_lines(
    data: bytes, at: int, stop: int, delimiter: bytes
) -> tuple[list[tuple[int, int]], bool]:
    """Boundary lines as (where content before it ends, where the next begins).

    The second value says whether the last one closes the multipart.
    """
    found: list[tuple[int, int]] = []
    after_break = b"\n" + delimiter
    if data.startswith(delimiter, at):
        place, line = at, at
    else:
        place = data.find(after_break, at, stop)
        line = place + 1
    for _ in range(_MAX_DELIMITERS):
        if place < 0 or line >= stop:
            break
        end = line + len(delimiter)
        closes = data.startswith(b"--", end)
        end += 2 * closes
        padding = _PADDING.match(data, end, stop)
        end = end if padding is None else padding.end()
        if closes or end >= stop or data.startswith((b"\n", b"\r\n"), end):
            before = place - (place > at and data[place - 1] == 0x0D)
            stop_line = data.find(b"\n", end, end + 2)
            begin = stop if end >= stop else end if stop_line < 0 else stop_line + 1
            found.append((max(at, before), min(begin, stop)))
            if closes:
                return found, True
            # The line break of one boundary line may also begin the next.
            end = max(line, begin - 1)
        place = data.find(after_break, end, stop)
        line = place + 1
    return found, False
