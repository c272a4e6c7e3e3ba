"""What the labels of names hold beside data: tags, counters, headers.

They repeat or increase, and ciphertext beside them would look as if it did. Set aside
are, in this order (`without_counters`, then `columns`):

1. labels that more than half of the names share (and two at least): a tag;
2. where labels of `_LONG` characters or more hold most of the characters, labels of
   `_SHORT` or fewer: counters, session numbers, the rest of the last piece;
3. elsewhere the first or the last label of each name, if in at least `_COUNTED` names
   it increases from name to name, by length and then by letter, nine times of ten:
   a counter to any base;
4. the first columns of what is left, up to the last that repeats from name to name
   more often than random letters can (z > 5, `_kernel.collision_z`, at least
   `_kernel.FRAME_SLICES` names), and likewise the last columns: headers within a
   label, as `_kernel.frame_columns` finds them in slices. Columns of text repeat as
   well: without columns is better only where ciphertext stands behind (`_framing`).

With less than `_kernel.FRAME_SLICES` names a header inside a label cannot be told from
data and stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from exfilml.payload import _kernel

_LONG: Final = 16
_SHORT: Final = 8
_COUNTED: Final = 6
_COLUMNS: Final = 24
_COLUMN_Z: Final = 5.0


def without_counters(names: list[list[bytes]]) -> list[bytes]:
    """Set aside the labels that are no data; return the rest of each name, joined."""
    if len(names) > 1:
        shared = Counter([x for name in names for x in {x.lower() for x in name}])
        tags = {x for x, n in shared.items() if n > 1 and 2 * n > len(names)}
        names = [[x for x in name if x.lower() not in tags] for name in names]
    sizes = [len(x) for name in names for x in name]
    if 2 * sum([n for n in sizes if n >= _LONG]) > sum(sizes):
        names = [[x for x in name if len(x) > _SHORT] for name in names]
    else:
        for side in (0, -1):
            if _counts_up([name[side] for name in names if len(name) > 1]):
                names = [_without(name, side) for name in names]
    return [b"".join(name) for name in names]


def columns(texts: Sequence[bytes]) -> int:
    """How many of the first columns hold a header, 0 for none."""
    if len(texts) < _kernel.FRAME_SLICES:
        return 0
    cells = max(16, len(set(b"".join(texts).lower())))
    header = 0
    for column in range(_COLUMNS):
        letters = [text[column] for text in texts if column < len(text)]
        size = len(letters)
        if size < _kernel.FRAME_SLICES:
            break
        pairs = sum([n * (n - 1) for n in Counter(letters).values()]) / 2
        if _kernel.collision_z(pairs, size, cells, -0.5) > _COLUMN_Z:
            header = column + 1
    return header


def _without(name: list[bytes], side: int) -> list[bytes]:
    if len(name) < 2:
        return name
    return name[1:] if side == 0 else name[:-1]


def _counts_up(labels: Sequence[bytes]) -> bool:
    """Whether labels increase from name to name."""
    if len(labels) < _COUNTED:
        return False
    keys = [(len(x), x.lower()) for x in labels]
    steps = sum([a < b for a, b in pairwise(keys)])
    return steps >= 0.9 * (len(labels) - 1)
