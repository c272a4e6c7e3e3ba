"""Histograms by key: mergeable, bounded counts of (key, bin), and their quantiles.

A key's histogram is sparse: only bins that occurred are kept, as one sorted array of
*cells*, the leading 56 bits of the key's hash with the bin in the last eight, and one
of counts. Two histograms merge by adding. (Of a million keys, two share 56 bits with a
chance of 1 : 150,000.)

Upload sizes are binned by the rule of DDSketch (Masson, Rim, Lee: "DDSketch: A Fast and
Fully-Mergeable Quantile Sketch with Relative-Error Guarantees", VLDB 2019): with
γ = (1 + α) / (1 − α), sizes in (γ^(i−1), γ^i] share bin i, so that every quantile is
off by at most the share α of itself, whatever was merged in whatever order; 219 bins
reach from one byte to 2⁶³.

The sketches of Apache DataSketches 5.2 were tried instead: KLL takes 4 times as long to
learn 100,000 keys from a million flows and merge two halves, t-digest 7 times
(``tests/benchmarks/bench_baseline.py``), because each key is an object of its own.
Loading them from a model file would hand bytes of unknown origin to C++ (3 of 25 runs
with mutated KLL sketches ended in a crash, 5 did not end), so the rule is kept here as
arrays, which are audited like all others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.tally import KEPT_SHARE, grouped, united

if TYPE_CHECKING:
    from numpy.typing import NDArray

# So many cells take 16 MB.
MAX_CELLS: Final = 1_000_000
BINS: Final = 256
# Largest relative error of a quantile of upload bytes.
ALPHA: Final = 0.1
GAMMA: Final = (1.0 + ALPHA) / (1.0 - ALPHA)

_BIN: Final = np.uint64(BINS - 1)


def upload_bins(up: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the bin of each upload in bytes: 0 for less than one, else 1 + i."""
    i = np.ceil(np.log(np.maximum(up, 1.0)) / np.log(GAMMA))
    return np.where(up < 1.0, 0.0, 1.0 + i).astype(np.uint8)


def upload_of_bin(bins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the bytes that stand for a bin: 2 γ^i / (γ + 1); NaN stays NaN."""
    size = 2.0 * GAMMA ** (bins - 1.0) / (GAMMA + 1.0)
    return np.where(bins == 0.0, 0.0, size)


@dataclass(frozen=True)
class Histograms:
    """Counts by key and bin.

    Attributes
    ----------
    cells
        uint64, shape (n_cells,), strictly increasing: see the module's text.
    counts
        float64, shape (n_cells,).
    forgotten
        How many keys were forgotten, with how many rows.
    """

    cells: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    counts: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    forgotten: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def group(cls, keys: NDArray[np.uint64], bins: NDArray[np.uint8]) -> Histograms:
        """Count rows by key and bin, both of shape (n_rows,)."""
        cells = (keys & ~_BIN) | bins
        first, group = grouped(cells)
        counts = np.bincount(group, minlength=len(first)).astype(np.float64)
        return cls(cells[first], counts).bounded()

    def merge(self, other: Histograms) -> Histograms:
        """Return the histograms of both row sets together."""
        if len(self.cells) < len(other.cells):
            return other.merge(self)
        cells, mine, theirs = united(self.cells, other.cells)
        counts = np.zeros(len(cells))
        counts[mine] = self.counts
        counts[theirs] += other.counts
        (a, b), (c, d) = self.forgotten, other.forgotten
        return Histograms(cells, counts, (a + c, b + d)).bounded()

    def bounded(self) -> Histograms:
        """Forget the rarest keys, whole, of what outgrew `MAX_CELLS`."""
        if len(self.cells) <= MAX_CELLS:
            return self
        keys = self.cells & ~_BIN
        first = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
        sizes = np.diff(first, append=len(keys))
        rows = np.add.reduceat(self.counts, first)
        rarest_last = np.argsort(-rows, kind="stable")
        fits = np.cumsum(sizes[rarest_last]) <= KEPT_SHARE * MAX_CELLS
        kept_keys = np.zeros(len(first), dtype=bool)
        kept_keys[rarest_last[fits]] = True
        keep = np.repeat(kept_keys, sizes)
        lost_keys, lost_rows = self.forgotten
        lost = (
            lost_keys + float((~kept_keys).sum()),
            lost_rows + float(rows[~kept_keys].sum()),
        )
        return Histograms(self.cells[keep], self.counts[keep], lost)

    def counts_of(self, keys: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Return the histograms of keys, shape (n_keys, 256)."""
        begin, end = self._spans(keys)
        sizes = end - begin
        row = np.repeat(np.arange(len(keys)), sizes)
        at = np.arange(len(row)) + np.repeat(end - np.cumsum(sizes), sizes)
        counts = np.zeros((len(keys), BINS))
        counts[row, self.cells[at] & _BIN] = self.counts[at]
        return counts

    @property
    def total(self) -> NDArray[np.float64]:
        """The histogram of all keys together, shape (256,)."""
        bins = (self.cells & _BIN).astype(np.int64)
        return np.bincount(bins, self.counts, minlength=BINS).astype(np.float64)

    def quantile(self, keys: NDArray[np.uint64], q: float) -> NDArray[np.float64]:
        """Return the bin in which a quantile of each key lies.

        Parameters
        ----------
        keys
            Hashes, shape (n_keys,).
        q
            0 … 1. Of n rows in ascending order it is the one at ⌊q·(n − 1)⌋, counted
            from 0, as of ``numpy.quantile(method="lower")``.

        Returns
        -------
        numpy.ndarray of float64, shape (n_keys,)
            NaN for keys that were never seen.
        """
        begin, end = self._spans(keys)
        upto = np.concatenate([[0.0], np.cumsum(self.counts)])
        rank = upto[begin] + np.floor(q * (upto[end] - upto[begin] - 1.0))
        at = np.searchsorted(upto[1:], rank, side="right")
        bins = np.full(len(keys), np.nan)
        seen = begin < end
        bins[seen] = (self.cells[at[seen]] & _BIN).astype(np.float64)
        return bins

    def _spans(
        self, keys: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        begin = np.searchsorted(self.cells, keys & ~_BIN)
        return begin, np.searchsorted(self.cells, keys | _BIN, side="right")
