"""Counts by key: mergeable, bounded tables of sums and peaks.

Keys are 64-bit hashes of names, so that a table is a few plain arrays, small in a
model file and fast to look up. A table that outgrows `MAX_KEYS` forgets its rarest
keys first.
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

# So few keys are found by bisection before a directory is of use.
FEW: Final = 100

# Value columns that merge by maximum; all others merge by sum.
PEAKS: Final = frozenset({"peak_bits"})


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
    first = np.flatnonzero(np.diff(np.maximum.accumulate(seen), prepend=-1))
    order = np.argsort(distinct)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[seen]


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
    """

    keys: NDArray[np.uint64]
    first: NDArray[np.uint64]
    second: NDArray[np.uint64]
    values: Mapping[str, NDArray[np.float64]]
    # What was worked out from the values, so that it is done once.
    derived: dict[tuple[str, ...], tuple[NDArray[Any], ...]] = field(
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
        return cls._reduce(keys, first, second, values)

    @classmethod
    def _reduce(
        cls,
        keys: NDArray[np.uint64],
        first: NDArray[np.uint64],
        second: NDArray[np.uint64],
        values: Mapping[str, NDArray[np.float64]],
    ) -> Tally:
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(keys)])
        reduced = {
            name: _REDUCERS[name in PEAKS](column[order], starts)
            for name, column in values.items()
        }
        at = order[starts]
        tally = cls(ordered[starts], first[at], second[at], reduced)
        return tally if len(starts) <= MAX_KEYS else tally._most_frequent()

    def _most_frequent(self) -> Tally:
        count = self.values.get("n", self.values.get("judged"))
        assert count is not None
        keep = np.sort(np.argsort(-count, kind="stable")[:MAX_KEYS])
        return Tally(
            self.keys[keep],
            self.first[keep],
            self.second[keep],
            {name: column[keep] for name, column in self.values.items()},
        )

    def merge(self, other: Tally) -> Tally:
        """Return the tally of both row sets together."""
        return self._reduce(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.first, other.first]),
            np.concatenate([self.second, other.second]),
            {
                name: np.concatenate([column, other.values[name]])
                for name, column in self.values.items()
            },
        )

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


_REDUCERS: Final = {
    False: lambda column, at: np.add.reduceat(column, at) if len(at) else column[:0],
    True: lambda column, at: np.maximum.reduceat(column, at) if len(at) else column[:0],
}
