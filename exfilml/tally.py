"""Counts by key: mergeable, bounded tables of sums and peaks.

Keys are 64-bit hashes of names, so that a table is a few plain arrays, small in a
model file and fast to look up.

A table that outgrows `MAX_KEYS` forgets its rarest keys, and of equally rare ones
those that were not seen for longest, down to `KEPT_SHARE` of it, so that it does not
have to forget with every chunk. What is forgotten is forgotten: a key that comes
again begins anew, and counts are then too low. `Tally.forgotten` says how many keys
that were, with how many rows. So long as no table forgets, merging is exact in any
order; after that, which keys stay depends on the order.

One file because what a column's name means for rows and for tables stands together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.names import Names

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_KEYS: Final = 1_000_000
KEPT_SHARE: Final = 0.9
# Days of `days`, seven whole weeks: as many bits are exact in a float64.
DAYS_KEPT: Final = 49

# So few keys are found by bisection before a directory is of use.
FEW: Final = 100

# Value columns that merge by maximum, by minimum and by the union of their bits; all
# others merge by sum.
PEAKS: Final = frozenset({"peak_bits", "last_day"})
LEAST: Final = frozenset({"first_day"})
BITMAPS: Final = frozenset({"days"})


def hash_names(names: Names | pd.Series) -> NDArray[np.uint64]:
    """Hash each name to 64 bits; equal names give equal hashes on every machine.

    A missing name hashes to 0.
    """
    if not isinstance(names, Names):
        names = Names.of(names)
    there = np.array([text is not None for text in names.texts])
    hashes = np.zeros(len(there), dtype=np.uint64)
    if there.any():
        hashes[there] = pd.util.hash_array(names.texts[there], categorize=False)
    return hashes[names.codes]


def combine(*hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Combine hashes of the parts of a key, in order (splitmix64 finaliser)."""
    mixed = np.full(len(hashes[0]), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for part in hashes:
        mixed = (mixed ^ part) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def grouped(
    keys: NDArray[np.uint64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group rows by key, in the order of keys.

    Returns
    -------
    first
        First row of each group, shape (n_groups,).
    group
        Group of each row, shape (n_rows,).
    """
    # To hash all keys and sort the distinct ones takes a quarter of the time that
    # `numpy.unique` takes to sort them all, where many rows share a key.
    seen, distinct = pd.factorize(keys)
    first = np.empty(len(distinct), dtype=np.int64)
    # Of several values for one place the last stays.
    first[seen[::-1]] = np.arange(len(keys) - 1, -1, -1)
    order = np.argsort(distinct)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[seen]


def united(
    mine: NDArray[np.uint64], theirs: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Unite two strictly increasing arrays of keys.

    Costs a search for each of theirs and one pass over mine: a small chunk joins a
    large table without sorting it.

    Returns
    -------
    keys
        All keys, strictly increasing, shape (n_keys,).
    at_mine, at_theirs
        Where in `keys` each of mine and of theirs stands.
    """
    at = np.searchsorted(mine, theirs)
    new = np.ones(len(theirs), dtype=bool)
    inside = at < len(mine)
    new[inside] = mine[at[inside]] != theirs[inside]
    before = at[new]
    shift = np.cumsum(np.bincount(before, minlength=len(mine) + 1))[: len(mine)]
    at_mine = np.arange(len(mine)) + shift
    at_theirs = np.empty(len(theirs), dtype=np.int64)
    at_theirs[new] = before + np.arange(len(before))
    at_theirs[~new] = at_mine[at[~new]]
    keys = np.empty(len(mine) + len(before), dtype=np.uint64)
    keys[at_mine], keys[at_theirs] = mine, theirs
    return keys, at_mine, at_theirs


def day_bits(day: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each UTC day since 1970 as one bit of ``days``: day modulo `DAYS_KEPT`.

    The union of such bits counts distinct days exactly over seven weeks, and at least
    so many beyond; it is the same whatever the order in which days are added.
    """
    return np.left_shift(1, day % DAYS_KEPT).astype(np.float64)


def n_days(days: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many distinct days a column of ``days`` holds, 0 … `DAYS_KEPT`."""
    return np.bitwise_count(days.astype(np.int64)).astype(np.int64)


@dataclass(frozen=True)
class Tally:
    """Counts by key.

    Attributes
    ----------
    keys
        uint64, shape (n_keys,), strictly increasing.
    first, second
        uint64, shape (n_keys,): hashes of the first and second part of each key
        (zeros where there is none).
    values
        float64 arrays of shape (n_keys,) by name.
    forgotten
        How many keys were forgotten, with how many rows. A key that was forgotten
        twice counts twice.
    """

    keys: NDArray[np.uint64]
    first: NDArray[np.uint64]
    second: NDArray[np.uint64]
    values: Mapping[str, NDArray[np.float64]]
    forgotten: tuple[float, float] = (0.0, 0.0)
    # What was worked out from the values, so that it is done once.
    derived: dict[tuple[str, ...], tuple[Any, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def group(
        cls,
        parts: tuple[NDArray[np.uint64], ...],
        values: Mapping[str, NDArray[np.float64]],
        n_rows: int,
    ) -> Tally:
        """Count rows by the combination of `parts`; no parts is one key for all."""
        nothing = np.zeros(n_rows, dtype=np.uint64)
        keys = combine(*parts) if parts else nothing
        first = parts[0] if parts else nothing
        second = parts[1] if len(parts) > 1 else nothing
        at, group = grouped(keys)
        reduced = {
            name: _reduced(name, column, group, len(at))
            for name, column in values.items()
        }
        return cls(keys[at], first[at], second[at], reduced).bounded()

    def bounded(self) -> Tally:
        """Forget the rarest keys of what outgrew `MAX_KEYS`."""
        if len(self.keys) <= MAX_KEYS:
            return self
        count = self.count
        last_day = self.values.get("last_day", count)
        keep = _largest(int(KEPT_SHARE * MAX_KEYS), count, last_day)
        lost_keys, lost_rows = self.forgotten
        return Tally(
            self.keys[keep],
            self.first[keep],
            self.second[keep],
            {name: column[keep] for name, column in self.values.items()},
            (lost_keys + float((~keep).sum()), lost_rows + float(count[~keep].sum())),
        )

    @property
    def count(self) -> NDArray[np.float64]:
        """Rows of each key, shape (n_keys,)."""
        return self.values["n" if "n" in self.values else "judged"]

    def merge(self, other: Tally) -> Tally:
        """Return the tally of both row sets together."""
        if len(self.keys) < len(other.keys):
            return other.merge(self)
        keys, mine, theirs = united(self.keys, other.keys)

        def both(ours: NDArray[np.uint64], more: NDArray[np.uint64]) -> Any:
            column = np.empty(len(keys), dtype=np.uint64)
            column[mine], column[theirs] = ours, more
            return column

        values = {}
        for name, column in self.values.items():
            union = np.full(len(keys), _start(name))
            union[mine] = column
            union[theirs] = _joined(name, union[theirs], other.values[name])
            values[name] = union
        (a, b), (c, d) = self.forgotten, other.forgotten
        return Tally(
            keys,
            both(self.first, other.first),
            both(self.second, other.second),
            values,
            (a + c, b + d),
        ).bounded()

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of each key, −1 where it was never seen."""
        if len(self.keys) == 0:
            return np.full(len(keys), -1, dtype=np.int64)
        if len(keys) < FEW:
            at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            return np.where(self.keys[at] == keys, at, -1)
        shift, start, ordered = self._directory
        at = start[keys >> shift].astype(np.int64)
        behind = np.flatnonzero(ordered[at] < keys)
        while len(behind):
            at[behind] += 1
            behind = behind[ordered[at[behind]] < keys[behind]]
        found = (ordered[at] == keys) & (at < len(self.keys))
        return np.where(found, at, -1)

    @cached_property
    def _directory(
        self,
    ) -> tuple[np.uint64, NDArray[np.int32], NDArray[np.uint64]]:
        """Where the keys with the same leading bits begin.

        Returns how far to shift a key to its leading bits, the row where keys with
        these begin, and the keys with one behind them that none exceeds.

        Hashes are spread evenly: with four times as many beginnings as keys the
        first guess is nearly always right, where bisection guesses a dozen times.
        """
        bits = len(self.keys).bit_length() + 2
        shift = np.uint64(64 - bits)
        begin = np.arange(2**bits, dtype=np.uint64) << shift
        start = np.searchsorted(self.keys, begin).astype(np.int32)
        last = np.array([np.iinfo(np.uint64).max], dtype=np.uint64)
        return shift, start, np.concatenate([self.keys, last])

    def take(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return a value for rows that `find` gave; 0 where never seen."""
        values = self.values[name]
        if len(values) == 0:
            return np.zeros(len(rows))
        taken = values[rows]
        taken[rows < 0] = 0.0
        return taken

    @cached_property
    def unseen_share(self) -> float:
        """Chance that the next row's key is new: Good and Turing's, smoothed.

        Keys seen once plus one, over rows plus two.
        """
        count = self.values["n"]
        return (float((count == 1).sum()) + 1.0) / (float(count.sum()) + 2.0)

    @cached_property
    def by_second(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Distinct second parts and how many keys (hosts) each appears in."""
        distinct, counts = np.unique(self.second, return_counts=True)
        return distinct, counts

    @cached_property
    def by_first(
        self,
    ) -> tuple[NDArray[np.uint64], NDArray[np.float64], NDArray[np.float64]]:
        """Distinct first parts, in how many rows they were seen, and keys seen once."""
        distinct, at = np.unique(self.first, return_inverse=True)
        total, once = (
            np.bincount(at, weights, minlength=len(distinct)).astype(np.float64)
            for weights in (self.values["n"], self.values["n"] == 1)
        )
        return distinct, total, once


def _largest(n: int, *by: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the rows with the n largest values, among equals by the next column.

    The first rows of those that are equal in all columns. Takes a tenth of the time
    of sorting.
    """
    keep = np.zeros(len(by[0]), dtype=bool)
    rest = np.arange(len(keep))
    for column in by:
        values = column[rest]
        edge = np.partition(values, len(values) - n)[len(values) - n]
        above = values > edge
        keep[rest[above]] = True
        n -= int(above.sum())
        rest = rest[values == edge]
    keep[rest[:n]] = True
    return keep


def _start(name: str) -> float:
    """Return the value that changes nothing when a column of this name is merged."""
    return np.inf if name in LEAST else 0.0


def _joined(
    name: str, mine: NDArray[np.float64], theirs: NDArray[np.float64]
) -> NDArray[np.float64]:
    if name in BITMAPS:
        return (mine.astype(np.int64) | theirs.astype(np.int64)).astype(np.float64)
    if name in PEAKS:
        return np.maximum(mine, theirs)
    return np.minimum(mine, theirs) if name in LEAST else mine + theirs


def _reduced(
    name: str, column: NDArray[np.float64], group: NDArray[np.int64], n: int
) -> NDArray[np.float64]:
    """Reduce a column of rows to one value for each group."""
    if name in BITMAPS:
        bits = np.zeros(n, dtype=np.int64)
        np.bitwise_or.at(bits, group, column.astype(np.int64))
        return bits.astype(np.float64)
    if name in PEAKS or name in LEAST:
        reduced = np.full(n, _start(name))
        (np.maximum if name in PEAKS else np.minimum).at(reduced, group, column)
        return reduced
    # `bincount` waits for each addition to one place before the next.
    if n == 1:
        return np.array([column.sum()])
    return np.bincount(group, column, minlength=n).astype(np.float64)
