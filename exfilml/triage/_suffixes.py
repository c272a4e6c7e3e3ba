"""Which names of a list a host name is, or lies below, for a million of each.

Names end where labels end: ``notevil.com`` does not lie below ``evil.com``. All that a
name ends in is looked up at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK: Final = 1 << 20
"""Names that are looked up together."""


def endings(
    names: Any, known: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return all pairs of a name and a known name that it is or lies below.

    Parameters
    ----------
    names, known
        Arrow arrays of lower-case host names without a dot at the end; those known
        are distinct.

    Returns
    -------
    at, found : numpy.ndarray of int64
        Positions in `names` and `known`.
    is_below : numpy.ndarray of bool
        Whether the name lies below, rather than being the same.
    """
    parts = [
        (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, dtype=bool)),
    ]
    if len(known):
        most = pc.max(pc.count_substring(known, ".")).as_py() + 1
        for begin in range(0, len(names), BLOCK):
            at, found, is_below = _endings(names.slice(begin, BLOCK), known, most)
            parts.append((at + begin, found, is_below))
    at, found, is_below = (np.concatenate(part) for part in zip(*parts, strict=True))
    return at, found, is_below


def _endings(names: Any, known: Any, most: int) -> tuple[Any, Any, Any]:
    rows = np.arange(len(names))
    labels = pc.add(pc.count_substring(names, "."), 1).to_numpy(zero_copy_only=False)
    below = labels > most
    if below.any():
        # An attacker's name can have a hundred labels: no known name has as many.
        pattern = rf"^.*\.((?:[^.]*\.){{{most - 1}}}[^.]*)$"
        short = pc.replace_substring_regex(names, pattern, r"\1")
        names = pc.if_else(pa.array(below), short, names)
    texts, at, are_below = [names], [rows], [below]
    while True:
        more = pc.match_substring(names, ".")
        names, kept = names.filter(more), more.to_numpy(zero_copy_only=False)
        rows = rows[kept]
        if not len(rows):
            break
        halves = pc.split_pattern(names, ".", max_splits=1).flatten()
        names = halves.take(pa.array(np.arange(1, len(halves), 2)))
        texts.append(names)
        at.append(rows)
        are_below.append(np.ones(len(rows), dtype=bool))
    found = pc.index_in(pa.chunked_array(texts), value_set=known)
    found = found.combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False)
    hit = np.flatnonzero(found >= 0)
    every, is_below = np.concatenate(at), np.concatenate(are_below)
    return every[hit], found[hit].astype(np.int64), is_below[hit]
