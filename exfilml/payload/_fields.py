"""Header fields as HTTP and mail use them, and what they declare content to be.

Sources: RFC 5322 (fields and folding), RFC 2045 (media types), RFC 2183 and 6266 (file
names), RFC 2231 and 8187 (parameters in other character sets), RFC 2047 (encoded
words), RFC 9110 (content coding, ranges).
"""

from __future__ import annotations

import re
from email.errors import HeaderParseError
from email.header import decode_header
from typing import Final
from urllib.parse import unquote_to_bytes

FIELD: Final = re.compile(rb"[\x21-\x39\x3b-\x7e]{1,76}[ \t]*:")
"""A line that is a header field (RFC 5322, section 3.6.8)."""

BLANK: Final = re.compile(rb"\n\r?\n")
"""The blank line that ends a header; bare line feeds are read too."""

_MAX_HEADER: Final = 65_536
"""Fields beyond this many bytes of one header are not read."""

_MAX_FIELDS: Final = 1_024
_MAX_VALUE: Final = 4_096
"""Longest field value of which parameters are read."""

_TYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}", re.ASCII)
_PARAMETER = re.compile(
    r';\s*([^\s=;"*]{1,64})(?:\*([0-9]{1,3}))?(\*)?\s*='
    r'\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))'
)
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
