"""Whether bytes can be what their carrier declares them to be.

A contradiction is evidence of its own: ciphertext called ``photo.jpg`` was named to
be overlooked. It is only said where the declared format leaves no room, because
declarations are careless far more often than they are false.
"""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Final

from exfilml.payload import _facts

SHORT_BELOW: Final = 64
"""Fewer bytes contradict nothing: they cannot be judged."""

_LOOKED_AT: Final = 1024

# Anything with an end in +json or +xml (RFC 6838, section 4.2.8) and all of text/*
# besides; multipart begins with a boundary line. Forms (x-www-form-urlencoded) are
# ASCII too, but curl calls any bytes so that it is not told the type of.
_TEXT_TYPES: Final = frozenset(
    {
        "application/csv",
        "application/ecmascript",
        "application/graphql",
        "application/javascript",
        "application/json",
        "application/jsonlines",
        "application/rtf",
        "application/sql",
        "application/toml",
        "application/x-javascript",
        "application/x-json",
        "application/x-ndjson",
        "application/x-sh",
        "application/x-yaml",
        "application/xml",
        "application/yaml",
        "message/http",
        "message/rfc822",
        "websocket/text",
    }
)
_TEXT_NAMES: Final = frozenset(
    {
        "asp", "bat", "cfg", "conf", "css", "csv", "eml", "htm", "html", "ics", "ini",
        "js", "json", "jsonl", "log", "md", "ndjson", "php", "ps1", "py", "rtf", "sh",
        "sql", "svg", "tex", "toml", "tsv", "txt", "vbs", "vcf", "xhtml", "xml", "yaml",
        "yml",
    }
)  # fmt: skip

# Office documents are zip archives; with a password they are OLE files.
_ZIPPED: Final = frozenset({"zip", "zip-encrypted", "ole"})
_ISO_MEDIA: Final = frozenset({"mp4"})
_MAGIC_OF_TYPES: Final = {
    "application/gzip": frozenset({"gzip"}),
    "application/java-archive": _ZIPPED,
    "application/pdf": frozenset({"pdf"}),
    "application/vnd.android.package-archive": _ZIPPED,
    "application/vnd.rar": frozenset({"rar"}),
    "application/x-7z-compressed": frozenset({"7z"}),
    "application/x-bzip2": frozenset({"bzip2"}),
    "application/x-gzip": frozenset({"gzip"}),
    "application/x-pdf": frozenset({"pdf"}),
    "application/x-rar-compressed": frozenset({"rar"}),
    "application/x-xz": frozenset({"xz"}),
    "application/x-zip-compressed": _ZIPPED,
    "application/zip": _ZIPPED,
    "application/zstd": frozenset({"zstd"}),
    "audio/flac": frozenset({"flac"}),
    "audio/mp4": _ISO_MEDIA,
    "audio/ogg": frozenset({"ogg"}),
    "font/woff": frozenset({"woff"}),
    "font/woff2": frozenset({"woff"}),
    "image/avif": _ISO_MEDIA,
    "image/gif": frozenset({"gif"}),
    "image/heic": _ISO_MEDIA,
    "image/jpeg": frozenset({"jpeg"}),
    "image/jpg": frozenset({"jpeg"}),
    "image/pjpeg": frozenset({"jpeg"}),
    "image/png": frozenset({"png"}),
    "image/webp": frozenset({"webp"}),
    "video/mp4": _ISO_MEDIA,
    "video/webm": frozenset({"matroska"}),
    "video/x-matroska": frozenset({"matroska"}),
    **dict.fromkeys(
        (
            "application/vnd.openxmlformats-officedocument.presentationml.presentation",
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ),
        _ZIPPED,
    ),
}
_MAGIC_OF_NAMES: Final = {
    **dict.fromkeys(
        ("apk", "docx", "epub", "jar", "odp", "ods", "odt", "pptx", "xlsx", "zip"),
        _ZIPPED,
    ),
    **dict.fromkeys(("jpeg", "jpg"), frozenset({"jpeg"})),
    **dict.fromkeys(("gz", "tgz"), frozenset({"gzip"})),
    **dict.fromkeys(("avif", "heic", "m4a", "m4v", "mp4"), _ISO_MEDIA),
    **dict.fromkeys(("mkv", "webm"), frozenset({"matroska"})),
    **dict.fromkeys(("ogg", "opus"), frozenset({"ogg"})),
    **dict.fromkeys(("woff", "woff2"), frozenset({"woff"})),
    "7z": frozenset({"7z"}),
    "bz2": frozenset({"bzip2"}),
    "flac": frozenset({"flac"}),
    "gif": frozenset({"gif"}),
    "pdf": frozenset({"pdf"}),
    "png": frozenset({"png"}),
    "rar": frozenset({"rar"}),
    "webp": frozenset({"webp"}),
    "xz": frozenset({"xz"}),
    "zst": frozenset({"zstd"}),
}

# Sealed containers that may come in an ASCII armour, and are text then.
_ARMOURED: Final = frozenset({"age", "pgp"})

_PRINTABLE: Final = bytes((9, 10, 13, *range(32, 127)))
_BLANKS: Final = b" \t\r\n"
_BASE64_START = re.compile(rb"[A-Za-z0-9+/]{16,}")


def contradicts(  # noqa: PLR0911
    declared: str | None,
    verdict: str,
    concealed: bool,
    magic: str | None,
    data: bytes = b"",
) -> bool:
    """Whether what a carrier declares cannot be what the bytes are.

    Parameters
    ----------
    declared
        Media type or file name, as in `Part.declared`.
    verdict, concealed
        Verdict about the content, and whether it conceals something.
    magic
        File format that the content begins with, if any.
    data
        First bytes of the content, as the carrier holds them. Without them less is
        said: neither obscured text nor encoded files can be checked.

    Returns
    -------
    bool
        True only by one of these rules; ``application/octet-stream``, unknown types,
        ranges and short data contradict nothing.

        1. *Text, but opaque.* Text of any character set is far from random bytes. An
           armoured message is text; compressed bytes are no contradiction, because
           carriers compress text on the way (content coding) and forget to say so.
        2. *Text, but obscured.* Concealed without being opaque means encoded or XOR
           with a repeating key. Base64 and hex are text, also of ciphertext; bytes
           that are not printable are not.
        3. *A format with a magic number, but opaque and without it.* Images, archives
           and documents begin with their signature. Another format's signature is no
           contradiction (a PNG called ``.jpg`` is daily life), unless it is that of a
           sealed container. A PDF may begin within its first 1024 bytes.
        4. The same for base64 that holds a file, as mail does: the signature is
           looked for in what it decodes to. Text that only contains base64 says
           nothing.
    """
    if not declared or (data and len(data) < SHORT_BELOW):
        return False
    if verdict != "opaque" and not (concealed and verdict == "encoded"):
        return False
    if _is_textual(declared):
        if magic in _ARMOURED or (data and _is_printable(data)):
            return False
        return verdict == "opaque" or bool(data)
    expected = _expected_magic(declared)
    if not expected:
        return False
    if magic is not None and (magic in expected or not _facts.is_sealed(magic)):
        return False
    if verdict == "encoded":
        if not data:
            return False
        if _is_printable(data):
            start = _decoded_start(data)
            return start is not None and not _begins_as(start, expected)
    return not _begins_as(data, expected)


def _extension(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return extension if dot and stem else ""


def _is_textual(declared: str) -> bool:
    declared = declared.lower()
    if "/" not in declared:
        return _extension(declared) in _TEXT_NAMES
    return (
        declared.startswith(("text/", "multipart/"))
        or declared.endswith(("+json", "+xml"))
        or declared in _TEXT_TYPES
    )


def _expected_magic(declared: str) -> frozenset[str]:
    declared = declared.lower()
    if "/" in declared:
        return _MAGIC_OF_TYPES.get(declared, frozenset())
    return _MAGIC_OF_NAMES.get(_extension(declared), frozenset())


def _is_printable(data: bytes) -> bool:
    """Whether the first bytes are ASCII text, but for a few."""
    sample = data[:_LOOKED_AT]
    return len(sample.translate(None, _PRINTABLE)) * 20 < len(sample)


def _decoded_start(text: bytes) -> bytes | None:
    """First bytes of a file that `text` is the base64 of, line by line."""
    plain = text[:_LOOKED_AT].translate(None, _BLANKS)
    found = _BASE64_START.match(plain)
    if found is None:
        return None
    return b64decode(found[0][: len(found[0]) // 4 * 4])


def _begins_as(data: bytes, expected: frozenset[str]) -> bool:
    """Whether `data` begins with one of the expected formats."""
    if "pdf" in expected and b"%PDF-" in data[:_LOOKED_AT]:
        return True
    return _facts.find_magic(data) in expected
