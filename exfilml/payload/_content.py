"""What carriers hold: the form in which opened content is handed on.

A carrier (HTTP, WebSocket, SMTP) wraps content in headers, chunks, masks and
boundaries. Its module has one door, ``unwrap(head, slices, width)``, which undoes
the wrapping of the first bytes of one direction and of the slices of its later
packets. Text encodings (base64, quoted-printable) stay: they are recognised where
content is judged.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

MAX_PARTS: Final = 32
"""More parts of one direction are not handed on."""

BLANK_BELOW: Final = 64
"""Bytes outside every MIME part (preamble, epilogue) are a part from here on: fewer
cannot be judged, and mail programs leave a line of text there."""


class Part(NamedTuple):
    """One piece of content that a carrier holds.

    Attributes
    ----------
    data
        Content with the carrier's framing undone (chunking, masking, dot-stuffing),
        text encodings not undone. Empty only where the carrier announces content
        that begins behind the head.
    declared
        Media type (``"text/csv"``) or file name (``"report.pdf"``) the carrier gives
        for it, lower case; None if it gives none that says anything.
    start
        Offset in the head of its first byte.
    """

    data: bytes
    declared: str | None
    start: int


class Carried(NamedTuple):
    """What a carrier holds.

    Attributes
    ----------
    parts
        Parts in the order of the stream.
    later
        Slices of later packets with the carrier's framing undone, as far as they can
        be used. They belong to the last part.
    width
        Bytes per slice of `later`; 0 if not sliced: slices lost unequal headers and
        stand one behind the other.
    """

    parts: tuple[Part, ...]
    later: bytes
    width: int


class Joined(NamedTuple):
    """Bytes that lie in several pieces of the head, one behind the other.

    Attributes
    ----------
    data
        The pieces, joined.
    begins
        Offset of each piece in `data`, ascending.
    places
        Offset of each piece in the head.
    """

    data: bytes
    begins: tuple[int, ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, head: bytes, spans: Sequence[tuple[int, int]]) -> Joined:
        """Join the spans (start, stop) of `head`."""
        begins, size = [], 0
        pieces = [head[start:stop] for start, stop in spans]
        for piece in pieces:
            begins.append(size)
            size += len(piece)
        return cls(b"".join(pieces), tuple(begins), tuple(start for start, _ in spans))

    def place(self, at: int) -> int:
        """Offset in the head of byte `at` of the joined data."""
        piece = max(0, bisect_right(self.begins, at) - 1)
        return self.places[piece] + at - self.begins[piece]


def at_most(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Keep `MAX_PARTS` parts: the last, to which later bytes belong, and the largest.

    The first ones would do for honest streams, but many small form fields before a
    file would then hide it.
    """
    if len(parts) <= MAX_PARTS:
        return tuple(parts)
    order = sorted(range(len(parts) - 1), key=lambda i: -len(parts[i].data))
    kept = sorted(order[: MAX_PARTS - 1])
    return (*(parts[i] for i in kept), parts[-1])


def each(slices: bytes, width: int) -> Iterator[bytes]:
    """Yield the slices; all of them as one where they have no width."""
    step = width if width > 0 else max(1, len(slices))
    for at in range(0, len(slices), step):
        yield slices[at : at + step]


def only(slices: bytes, width: int, fits: Callable[[bytes], bool]) -> bytes:
    """Slices that fit, one behind the other."""
    return b"".join(piece for piece in each(slices, width) if fits(piece))
