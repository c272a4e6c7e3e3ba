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


def records(pieces: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Take records out of arrays and wrappers; what is broken comes as its text."""
    parse = json.JSONDecoder().raw_decode
    here = _Text(pieces)
    while here.begin():
        inside = _unwrapped(here.text, here.at)
        if inside is not None:
            here.at = inside
            continue
        try:
            record, end = parse(here.text, here.at)
        except (ValueError, RecursionError) as error:
            if here.may_go_on(error):
                # Twice as much each time: a long record is not parsed too often.
                here.read(len(here.text) - here.at)
                continue
            yield here.text[here.at : here.at + 200].split("\n", 1)[0], None
            here.pass_over(getattr(error, "pos", here.at))
            continue
        yield here.text[here.at : end], record
        here.at = end


class _Text:
    """The part of a text that is being read."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._more = True
        self.text, self.at = "", 0
        self.read(1)
        self.text = self.text.removeprefix("\ufeff")

    def read(self, least: int) -> None:
        """Read so many bytes more, and forget what was read before."""
        parts = [self.text[self.at :]]
        size = 0
        for piece in self._pieces:
            parts.append(self._decode(piece))
            size += len(piece)
            if size >= least:
                break
        else:
            parts.append(self._decode(b"", final=True))
            self._more = False
        self.text, self.at = "".join(parts), 0

    def begin(self) -> bool:
        """Go to where the next record begins; say whether there is one."""
        while True:
            found = _BETWEEN.match(self.text, self.at)
            self.at = self.at if found is None else found.end()
            # Wrappers are short where they begin.
            if not self._more or len(self.text) - self.at >= _WRAPPER:
                return self.at < len(self.text)
            self.read(_WRAPPER)

    def may_go_on(self, error: Exception) -> bool:
        """Say whether a record is only cut off where the text ends for now."""
        left = len(self.text) - getattr(error, "pos", self.at)
        cut = left < _NEAR or "Unterminated string" in str(error)
        return self._more and cut and len(self.text) - self.at < LONGEST

    def pass_over(self, broken: int) -> None:
        """Go on after a record that is broken."""
        after = _NEXT.search(self.text, max(broken, self.at + 1))
        # The rest may begin with the end of what is looked for.
        end = len(self.text) - 1 if self._more else len(self.text)
        self.at = max(self.at + 1, end) if after is None else after.end()
