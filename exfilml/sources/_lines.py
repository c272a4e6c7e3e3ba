"""Text logs in blocks of whole lines, and the account of lines that are none.

A block is large enough for Arrow to read fast and small enough that a log of any
length is read in the same memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Self, TypeVar

_Item = TypeVar("_Item")
BLOCK: Final = 16 << 20
# Longer than any record of any format that is read.
LONGEST_LINE: Final = 4 << 20
_SHOWN: Final = 60
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(slots=True)
class BadLines:
    """Counts lines that could not be read, and remembers the first.

    Attributes
    ----------
    lines
        Lines of records so far, good or bad.
    bad
        How many of them could not be read.
    first
        Number of the first, and what is wrong with it.
    blanked
        Values of columns that a flow can do without, left out because they cannot be.
    foreign
        Lines that are of something else, as where many write into one log.
    unit
        What they are called.
    """

    lines: int = 0
    bad: int = 0
    first: tuple[int, str] | None = None
    blanked: int = 0
    foreign: int = 0
    unit: str = "line"

    def add(self, line: int, reason: str, count: int = 1) -> None:
        """Count bad lines, the first of which has this number."""
        if count:
            self.bad += count
            if self.first is None or line < self.first[0]:
                self.first = (line, reason)

    def merge(self, other: BadLines) -> None:
        """Add another account of the same file."""
        self.lines += other.lines
        self.blanked += other.blanked
        self.foreign += other.foreign
        if other.first is not None:
            self.add(*other.first, other.bad)

    def __str__(self) -> str:
        parts = []
        if self.bad:
            assert self.first is not None
            number, reason = self.first
            parts.append(
                f"{self.bad:,} of {self.lines:,} {self.unit}s could not be read; "
                f"first: {self.unit} {number:,}: {reason}"
            )
        if self.blanked:
            parts.append(f"{self.blanked:,} impossible values left out")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a file, the number of the first, and how many there are."""

    data: bytes
    first: int
    lines: int

    @classmethod
    def of(cls, data: bytes, first: int) -> Self:
        """Count the lines; the last may lack its end."""
        return cls(data, first, data.count(b"\n") + (not data.endswith(b"\n")))

    def parts(self, size: int) -> Iterator[Block]:
        """Cut the block into smaller ones of whole lines."""
        start, number = 0, self.first
        while start < len(self.data):
            end = self.data.find(b"\n", min(start + size, len(self.data)) - 1) + 1
            part = Block.of(self.data[start : end or len(self.data)], number)
            yield part
            start += len(part.data)
            number += part.lines


def blocks(
    pieces: Iterable[bytes], bad: BadLines, size: int = BLOCK
) -> Iterator[Block]:
    """Cut pieces of a file into blocks of whole lines.

    The last line may lack its end. A line longer than `LONGEST_LINE` is counted as bad
    and passed over.
    """
    number = 1
    ready: list[bytes] = []
    tail: list[bytes] = []
    ready_size = tail_size = 0
    skipping = False

    def block() -> Iterator[Block]:
        nonlocal number, ready, ready_size
        if ready:
            made = Block.of(b"".join(ready), number)
            yield made
            number += made.lines
            ready, ready_size = [], 0

    for at, given in enumerate(pieces):
        piece = given if at else given.removeprefix(_BOM)
        if skipping:
            _, end, piece = piece.partition(b"\n")
            if not end:
                continue
            skipping = False
            number += 1
        end_of_lines = piece.rfind(b"\n") + 1
        if end_of_lines:
            ready += [*tail, piece[:end_of_lines]]
            ready_size += tail_size + end_of_lines
            tail, tail_size = [], 0
        tail.append(piece[end_of_lines:])
        tail_size += len(piece) - end_of_lines
        if ready_size >= size:
            yield from block()
        if tail_size > LONGEST_LINE:
            yield from block()
            bad.lines += 1
            bad.add(number, f"longer than {LONGEST_LINE >> 20} MiB")
            tail, tail_size, skipping = [], 0, True
    ready += [piece for piece in tail if piece]
    yield from block()


def ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """Yield items, of which the next is made while one is being used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def shown(text: str | bytes) -> str:
    """Quote what stands in a log, shortened and without control characters."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return repr(text[:_SHOWN] + ("…" if len(text) > _SHOWN else ""))
