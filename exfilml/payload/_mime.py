"""MIME as HTTP and mail use it: fields, parameters, entities and their parts.

Sources: RFC 5322 (fields and folding), RFC 2045 and 2046 (entities, multipart),
RFC 2183 and 6266 (file names), RFC 2231 and 8187 (parameters in other character
sets), RFC 2047 (encoded words), RFC 9110 (content coding, ranges).

Everything here walks forward and stops at a count, so that cost grows with the
number of bytes and no faster, whatever they are.
"""

from __future__ import annotations

import re
from email.errors import HeaderParseError
from email.header import decode_header
from typing import Final
from urllib.parse import unquote_to_bytes

from exfilml.payload._content import BLANK_BELOW, Joined, Part

FIELD: Final = re.compile(rb"[\x21-\x39\x3b-\x7e]{1,76}[ \t]*:")
"""A line that is a header field (RFC 5322, section 3.6.8)."""

BLANK: Final = re.compile(rb"\n\r?\n")
"""The blank line that ends a header; bare line feeds are read too."""

_MAX_HEADER: Final = 65_536
"""Fields beyond this many bytes of one header are not read."""

_MAX_FIELDS: Final = 1_024
_MAX_VALUE: Final = 4_096
"""Longest field value of which parameters are read."""

_MAX_DELIMITERS: Final = 1_024
"""More places that look like a boundary are not walked."""

_MAX_KNOWN: Final = 8
"""Boundaries that are looked for in later packets."""

_NESTED: Final = 1
"""Levels of multipart inside multipart that are opened: text and its attachments."""

_TYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}", re.ASCII)
_PARAMETER = re.compile(
    r';\s*([^\s=;"*]{1,64})(?:\*([0-9]{1,3}))?(\*)?\s*='
    r'\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))'
)
_PADDING = re.compile(rb"[ \t]+")
_RANGE = re.compile(r"\s*bytes\s+([0-9]{1,19})")

# Types that say "some bytes": a file name beside them says more.
_GENERIC: Final = frozenset(
    {
        "application/octet-stream",
        "application/x-octet-stream",
        "binary/octet-stream",
        "application/binary",
        "application/x-binary",
        "application/x-download",
        "application/force-download",
        "application/unknown",
        "application/x-unknown",
        "unknown/unknown",
    }
)

# What the bytes of coded content are, where the coding has a magic number.
_CODINGS: Final = {
    "gzip": "application/gzip",
    "x-gzip": "application/gzip",
    "zstd": "application/zstd",
}


def fields(header: bytes) -> dict[str, str]:
    """Fields of a header: lower-case name to value, folded lines joined.

    Where a name repeats the first one counts, as most receivers have it.
    """
    found: dict[str, str] = {}
    last = ""
    lines = header[:_MAX_HEADER].split(b"\n", _MAX_FIELDS)
    for line in lines[:_MAX_FIELDS]:
        if line[:1] in (b" ", b"\t"):
            if last and len(found[last]) < _MAX_VALUE:
                found[last] += " " + line.strip().decode("latin-1")
            continue
        name, colon, value = line.partition(b":")
        key = name.strip().lower().decode("latin-1")
        last = key if colon and key not in found else ""
        if last:
            found[last] = value.strip().decode("latin-1")
    return found


def media_type(value: str) -> str | None:
    """Media type of a Content-Type, without parameters, lower case."""
    found = _TYPE.match(value[:_MAX_VALUE].lstrip())
    return found[0].lower() if found is not None else None


def parameter(value: str, name: str) -> str | None:
    """Parameter of a structured field, in whichever of its four forms it comes.

    ``name=token``, ``name="quoted"``, ``name*=charset''percent`` and the numbered
    pieces of RFC 2231, of which forms with a star are believed first (RFC 6266,
    section 4.3).
    """
    plain: str | None = None
    pieces: dict[int, bytes] = {}
    # A field may hold nothing but parameters behind a type we do not need.
    for found in _PARAMETER.finditer(value[:_MAX_VALUE]):
        if found[1].lower() != name:
            continue
        text = (
            found[5].strip() if found[4] is None else re.sub(r"\\(.)", r"\1", found[4])
        )
        raw = text.encode("latin-1", "replace")
        if found[3]:
            if not found[2] or found[2] == "0":
                raw = raw.split(b"'", 2)[-1]
            raw = unquote_to_bytes(raw)
        if found[2] or found[3]:
            pieces.setdefault(int(found[2] or 0), raw)
        elif plain is None:
            plain = raw.decode("utf-8", "replace")
    if pieces:
        return b"".join(pieces[i] for i in sorted(pieces)).decode("utf-8", "replace")
    return plain


def file_name(text: str) -> str | None:
    """Last element of a path that a sender gives, as a lower-case file name."""
    text = text[-1024:]
    if "=?" in text:
        text = _decode_words(text)
    name = re.split(r"[/\\]", text)[-1]
    name = "".join(filter(str.isprintable, name)).strip().lower()
    return name[-255:] or None


def _decode_words(text: str) -> str:
    """Undo encoded words (RFC 2047), which hide the extension of a file name.

    The character set they name is not asked: an extension reads the same in all that
    are in use, and Python's codecs include some that should not see hostile bytes.
    """
    try:
        pieces = decode_header(text)
    except (HeaderParseError, ValueError):
        return text
    return "".join(
        piece if isinstance(piece, str) else piece.decode("utf-8", "replace")
        for piece, _ in pieces
    )


def declared(header: dict[str, str], name: str | None = None) -> str | None:
    """Say what a header declares its content to be.

    Parameters
    ----------
    header
        Fields of the entity.
    name
        File name known from elsewhere, such as the path of a PUT.

    Returns
    -------
    str or None
        The media type; the file name where there is no type, or one that says "some
        bytes". With a content coding the type is that of the decoded bytes, and the
        coding's own is given if it has one. A range from the middle of a file begins
        with no magic number and declares nothing.
    """
    coding = header.get("content-encoding", "").lower().split(",")[-1].strip()
    if coding not in ("", "identity"):
        return _CODINGS.get(coding)
    span = _RANGE.match(header.get("content-range", ""))
    if span is not None and int(span[1]):
        return None
    kind = media_type(header.get("content-type", ""))
    if kind is not None and kind not in _GENERIC:
        return kind
    given = parameter(
        ";" + header.get("content-disposition", ""), "filename"
    ) or parameter(header.get("content-type", ""), "name")
    return (file_name(given) if given else None) or name or kind


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
