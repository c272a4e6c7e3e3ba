"""JSON however it is printed, as one record a line.

Tools print events as lines, as arrays, as documents over many lines, and in wrappers:
``{"records": [...]}`` (Azure), ``{"hits": {"hits": [...]}}`` and ``{"_source": {...}}``
(Elasticsearch). Lines pass as they are. All else is taken apart record by record, in
the memory of the longest, `LONGEST` characters at most; where something is broken,
reading goes on with the next record.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

LONGEST: Final = 64 << 20
_RECORDS: Final = re.compile(r'\{\s*"records"\s*:\s*\[')
_SEARCHED: Final = re.compile(r'\{\s*"(?:took|timed_out|_scroll_id|pit_id|hits)"\s*:')
_HITS: Final = re.compile(r'"hits"\s*:\s*\[')
_WRAPPER: Final = 1 << 13
_BETWEEN: Final = re.compile(r"[\s,\]}\[]*")
_NEXT: Final = re.compile(r"\}\s*,\s*(?=\{)|\n(?=\{)")
# An error that lies further before the end than this is one; else more must be read.
_NEAR: Final = 1 << 16


def as_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Give JSON records line by line, however they are printed."""
    given = iter(pieces)
    start = b""
    for piece in given:
        start += piece
        if b"\n" in start.lstrip() or len(start) > _NEAR:
            break
    if _is_lines(start):
        yield start
        yield from given
        return
    for text, record in records(itertools.chain([start], given)):
        if isinstance(record, dict) and isinstance(record.get("_source"), dict):
            yield json.dumps(record["_source"]).encode() + b"\n"
        else:
            # Within texts, JSON has no ends of lines.
            plain = text.replace("\r", " ").replace("\n", " ")
            yield plain.encode("utf-8", "replace") + b"\n"


def _is_lines(start: bytes) -> bool:
    first = start.lstrip().removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].strip()
    if not first.startswith(b"{") or first == b"{":
        return not first.startswith((b"{", b"["))
    if b'"_source"' in first[:4096]:
        return False
    return _unwrapped(first[:_WRAPPER].decode("utf-8", "replace"), 0) is None


def _unwrapped(text: str, at: int) -> int | None:
    """Return where the records of a wrapper begin; None if there is none here."""
    found = _RECORDS.match(text, at)
    if found is None and _SEARCHED.match(text, at):
        found = _HITS.search(text, at, at + _WRAPPER)
    return None if found is None else found.end()


def records(pieces: Iterator[bytes]) -> Iterator[tuple[str, Any]]:
    """Take records out of arrays and wrappers; what is broken comes as its text."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    parse = json.JSONDecoder().raw_decode
    text, at, more = "", 0, True

    def read(least: int) -> None:
        nonlocal text, at, more
        parts = [text[at:]]
        size = 0
        for piece in pieces:
            parts.append(decode(piece))
            size += len(piece)
            if size >= least:
                break
        else:
            parts.append(decode(b"", final=True))
            more = False
        text, at = "".join(parts).removeprefix("\ufeff"), 0

    read(1)
    while True:
        found = _BETWEEN.match(text, at)
        at = at if found is None else found.end()
        # Wrappers are short where they begin.
        if more and len(text) - at < _WRAPPER:
            read(_WRAPPER)
            continue
        if at >= len(text):
            return
        inside = _unwrapped(text, at)
        if inside is not None:
            at = inside
            continue
        try:
            record, end = parse(text, at)
        except (ValueError, RecursionError) as error:
            place = getattr(error, "pos", at)
            open_text = "Unterminated string" in str(error)
            near = open_text or len(text) - place < _NEAR
            if more and near and len(text) - at < LONGEST:
                # Twice as much each time: a long record is not parsed too often.
                read(len(text) - at)
                continue
            yield text[at : at + 200].split("\n", 1)[0], None
            after = _NEXT.search(text, max(place, at + 1))
            if after is not None:
                at = after.end()
            elif more:
                at = max(at + 1, len(text) - 1)
            else:
                return
            continue
        yield text[at:end], record
        at = end
