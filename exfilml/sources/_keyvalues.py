"""Lines of keys and values, in any order, as many firewalls log.

Separators inside quotes separate nothing: a user, host name or URL that an attacker
chose (``user="x srcip=6.6.6.6"``) stays the value that it is. A backslash keeps a quote
from closing. A key counts where a field begins, and where it comes again in the same
line, a reader can say which one it means, or that it cannot tell.

A block is taken apart at once: where quotes and separators stand is found by numpy over
all its bytes, keys by comparing eight bytes at a time where fields begin.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._lines import BadLines, Block

_NEWLINE, _RETURN, _SPACE, _QUOTE, _BACKSLASH = b'\n\r "\\'
_FILLED: Final = re.compile(rb"[^\s][^\n]*")
_WORD: Final = 8
# A block holds fewer lines of any firewall.
MOST_LINES: Final = 200_000
_WHOLE: Final = r"^[0-9]{1,18}$"


class KeyValues:
    """The fields of a block's lines.

    Parameters
    ----------
    block
        Whole lines.
    separators
        The characters between fields; blanks after one of them are passed over.
    assign
        Between key and value.
    quoted
        Whether quotes mean anything; where they do not, values can hold separators.

    Attributes
    ----------
    open_quotes
        For each line, whether a quote in it does not close: its fields are unknown.
    """

    def __init__(
        self,
        block: Block,
        *,
        separators: bytes = b" ",
        assign: bytes = b"=",
        quoted: bool = True,
    ) -> None:
        self._assign = assign
        text = _valid(block.data)
        if not text.endswith(b"\n"):
            text += b"\n"
        self._text = np.frombuffer(text, np.uint8)
        # Padded, so that eight bytes can be read anywhere.
        padded = np.frombuffer(text + bytes(2 * _WORD), np.uint8)
        self._words = np.ndarray((len(text) + _WORD,), "<u8", padded, strides=(1,))
        newlines = np.flatnonzero(self._text == _NEWLINE)
        self._starts = np.concatenate([[0], newlines[:-1] + 1])
        self._ends = newlines - (self._text[newlines - 1] == _RETURN) * (
            newlines > self._starts
        )
        self._quoted = quoted
        quotes = np.flatnonzero(self._text == _QUOTE) if quoted else newlines[:0]
        quotes = _unescaped(self._text, quotes)
        self.open_quotes = np.zeros(len(newlines), dtype=bool)
        self._bounds = self._outside(quotes, separators)
        begins = self._bounds[:-1] + 1
        for _ in range(2):
            begins = begins + (self._text[np.minimum(begins, len(text) - 1)] == _SPACE)
        self._begins = _places(
            len(text), self._starts, self._after_priority(), begins.clip(max=len(text))
        )
        self._first = self._words[self._begins]
        self._known: dict[str, tuple[Any, Any]] = {}

    def __len__(self) -> int:
        return len(self._starts)

    def texts(self, key: str, nth: int = 0) -> Any:
        """Return the values of a key where it stands for the nth time; None elsewhere."""
        at, line = self._found(key)
        rank = _ranks(line)
        at, line = at[rank == nth], line[rank == nth]
        begin = at + len(key) + len(self._assign)
        end = self._bounds[np.searchsorted(self._bounds, begin)]
        quoted = (self._text[begin] == _QUOTE) & (self._text[end - 1] == _QUOTE)
        quoted &= (end - begin >= 2) & self._quoted
        begin, end = begin + quoted, end - quoted
        values = _slices(self._text, begin, np.maximum(end - begin, 0))
        if quoted.any() and pc.any(pc.match_substring(values, "\\")).as_py():
            plain = pc.replace_substring_regex(values, r"\\(.)", r"\1")
            values = pc.if_else(pa.array(quoted), plain, values)
        place = np.full(len(self), len(line))
        place[line] = np.arange(len(line))
        taken = pa.array(place, pa.int64(), mask=place == len(line))
        return values.take(taken)

    def numbers(self, key: str, nth: int = 0) -> Any:
        """Return whole numbers; None where there is none."""
        return whole_numbers(self.texts(key, nth))

    def times_of(self, key: str) -> Any:
        """Say how often a key stands in each line."""
        return np.bincount(self._found(key)[1], minlength=len(self))

    def _found(self, key: str) -> tuple[Any, Any]:
        """Return where a key begins a field, and in which line."""
        if key in self._known:
            return self._known[key]
        wanted = key.encode() + self._assign
        at, words = self._begins, self._first
        for first in range(0, len(wanted), _WORD):
            part = wanted[first : first + _WORD]
            number = np.uint64(int.from_bytes(part, "little"))
            mask = np.uint64((1 << 8 * len(part)) - 1)
            at = at[(words & mask) == number]
            # What matched so far lies within the text.
            words = self._words[at + first + _WORD]
        line = np.searchsorted(self._starts, at, side="right") - 1
        kept = ~self.open_quotes[line]
        self._known[key] = at[kept], line[kept]
        return self._known[key]

    def _after_priority(self) -> Any:
        """Return where lines go on after syslog's number (``<134>``)."""
        last = len(self._text) - 1
        numbered = self._starts[self._text[self._starts] == ord("<")]
        places = [np.minimum(numbered + width, last) for width in (2, 3, 4)]
        return np.concatenate(
            [at[self._text[at] == ord(">")] + 1 for at in places]
        ).clip(max=last)

    def _outside(self, quotes: Any, separators: bytes) -> Any:
        """Return where fields end: at separators outside quotes and at lines' ends."""
        text = self._text
        marks = np.zeros(256, dtype=bool)
        marks[list(separators)] = True
        ends = np.flatnonzero(marks[text])
        if len(quotes):
            line = np.searchsorted(self._starts, quotes, side="right") - 1
            self.open_quotes = np.bincount(line, minlength=len(self)) % 2 == 1
            # What stays open ends with its line.
            flips = np.zeros(len(text), np.uint8)
            flips[quotes] = 1
            flips[self._ends[self.open_quotes]] ^= 1
            inside = np.bitwise_xor.accumulate(flips)
            ends = ends[inside[ends] == 0]
        return _places(len(text), ends, self._ends)


def portions(whole: Iterable[Block]) -> Iterator[Block]:
    """Cut blocks of many short lines, as no firewall writes them, into several.

    What is kept of a line takes the same memory however short it is.
    """
    for block in whole:
        if block.lines <= MOST_LINES:
            yield block
            continue
        ends = np.flatnonzero(np.frombuffer(block.data, np.uint8) == _NEWLINE) + 1
        cuts = ends[MOST_LINES - 1 :: MOST_LINES].tolist()
        number = block.first
        for start, stop in itertools.pairwise([0, *cuts, len(block.data)]):
            if start < stop:
                part = Block.of(block.data[start:stop], number)
                yield part
                number += part.lines


def sound_lines(
    fields: KeyValues,
    wanted: Any,
    once: Iterable[str],
    block: Block,
    bad: BadLines,
    *,
    passed: int = 0,
) -> Any:
    """Say which lines can be read; count them, and those that cannot.

    Parameters
    ----------
    fields
        The fields of the block.
    wanted
        For each line, whether it is a record.
    once
        Keys that must not come again in a line: nobody could say which one is meant.
    block
        The block, for the numbers of its lines.
    bad
        The account of the file.
    passed
        How many other lines the reader tells of; the rest are of something else.
    """
    broken = fields.open_quotes
    records = int((wanted | broken).sum())
    bad.lines += records
    bad.foreign += filled(block) - records - passed
    if broken.any():
        at = block.first + int(broken.argmax())
        bad.add(at, "a quote that does not close", int(broken.sum()))
    kept = wanted & ~broken
    for key in once:
        again = kept & (fields.times_of(key) > 1)
        if again.any():
            at = block.first + int(again.argmax())
            bad.add(at, f"{key} stands there more than once", int(again.sum()))
            kept &= ~again
    return kept


def filled(block: Block) -> int:
    """Count the lines that are not blank."""
    return len(_FILLED.findall(block.data))


def line_texts(block: Block) -> Any:
    """Return a block's lines as texts, as many as `KeyValues` counts."""
    text = _valid(block.data).decode()
    return pa.array(text.removesuffix("\n").split("\n"), pa.string())


def whole_numbers(texts: Any) -> Any:
    """Read whole numbers; None where there is none."""
    right = pc.match_substring_regex(texts, _WHOLE)
    return pc.if_else(right, texts, pa.scalar(None, pa.string())).cast(pa.int64())


def _valid(data: bytes) -> bytes:
    """Return text in UTF-8, with marks for what is none."""
    if data.isascii():
        return data
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace").encode()
    return data


def _unescaped(text: Any, quotes: Any) -> Any:
    """Leave out quotes after an odd number of backslashes."""
    before = text[np.maximum(quotes - 1, 0)]
    doubtful = (before == _BACKSLASH) & (quotes > 0)
    if not doubtful.any():
        return quotes
    at = np.flatnonzero(text == _BACKSLASH)
    # Of each backslash, where its run begins.
    first = np.ones(len(at), dtype=bool)
    first[1:] = at[1:] != at[:-1] + 1
    run = at[np.maximum.accumulate(np.where(first, np.arange(len(at)), 0))]
    last = np.searchsorted(at, quotes[doubtful] - 1)
    odd = np.zeros(len(quotes), dtype=bool)
    odd[doubtful] = (quotes[doubtful] - run[last]) % 2 == 1
    return quotes[~odd]


def _places(size: int, *parts: Any) -> Any:
    """Return places in order, each once."""
    marks = np.zeros(size + 1, dtype=bool)
    for part in parts:
        marks[part] = True
    return np.flatnonzero(marks[:size])


def _ranks(line: Any) -> Any:
    """Count the places of a line: 0, 1, 2 …, anew in each."""
    first = np.ones(len(line), dtype=bool)
    first[1:] = line[1:] != line[:-1]
    number = np.arange(len(line))
    return number - np.maximum.accumulate(np.where(first, number, 0))


def _slices(text: Any, begin: Any, length: Any) -> Any:
    """Cut texts out of one, as an Arrow array."""
    offsets = np.concatenate([[0], np.cumsum(length)])
    at = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], length)
    return pa.StringArray.from_buffers(
        len(begin),
        pa.py_buffer(offsets.astype(np.int32)),
        pa.py_buffer(np.ascontiguousarray(text[at])),
    )
