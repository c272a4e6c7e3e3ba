"""Population stability: how far the distribution of a column moved since training.

The population stability index compares the shares e of reference values with the
shares a of new values in fixed bins: ``PSI = Σ (a − e) ln(a / e)``, the symmetrised
divergence of S. Kullback and R. Leibler (Annals of Mathematical Statistics 22, 1951).
By custom, below 0.1 nothing moved, above 0.25 something did (N. Siddiqi, "Credit Risk
Scorecards", 2006). Two samples of one population have a PSI as well: about
``(1/n + 1/m) χ²`` with one degree of freedom less than there are bins (B. Yurdakul,
J. Naranjo, "Statistical properties of the population stability index", Journal of
Risk Model Validation 14, 2020). A move is therefore told only above both.

**Bins of a column.** Evidence is 0 for most flows and missing where it cannot be
judged, so deciles of all values would mostly be 0. Missing values have a bin of
their own, values that are exactly 0 have one, and deciles of the other reference
values bound ten more. Where deciles coincide, the bins between them can hold nothing
and count as none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DECILES: Final = 9
# Missing, zero, and between the deciles.
BINS: Final = DECILES + 3
MOVED: Final = 0.25
CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Bins:
    """Where the values of each column lay at training.

    Attributes
    ----------
    edges
        float64, shape (n_columns, 9), increasing along rows: deciles of the values
        that are neither missing nor 0; zeros where there are none.
    counts
        float64, shape (n_columns, 12): values in each bin.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, matrix: NDArray[np.float64]) -> Bins:
        """Learn bins from reference rows, shape (n_rows, n_columns)."""
        edges = np.zeros((matrix.shape[1], DECILES))
        shares = np.arange(1, DECILES + 1) / (DECILES + 1)
        for column, values in enumerate(matrix.T):
            varying = values[~np.isnan(values) & (values != 0.0)]
            if len(varying):
                edges[column] = np.quantile(varying, shares, method="inverted_cdf")
        return cls(edges, count(edges, matrix))

    def compare(
        self, matrix: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Say how far new rows have moved.

        A share of the reference is that of its values and half a value in each bin
        that can hold any; a new share is that of its values and of one more, spread
        as the reference is. So no share is 0, and few rows claim little.

        Parameters
        ----------
        matrix
            float64, shape (n_rows, n_columns): new values of the same columns.

        Returns
        -------
        index, chance : numpy.ndarray of float64, shape (n_columns,)
            The population stability index, and what it exceeds by chance for one
            column in twenty, if rows are drawn independently of each other. (Flows
            are not; `MOVED` has to be passed as well.)
        """
        from scipy.stats import chi2

        possible = np.ones(self.counts.shape, dtype=bool)
        possible[:, 3:-1] = np.diff(self.edges, axis=1) > 0
        expected = (self.counts + 0.5) * possible
        total = self.counts.sum(axis=1, keepdims=True)
        expected /= expected.sum(axis=1, keepdims=True)
        actual = (count(self.edges, matrix) + expected) / (len(matrix) + 1.0)
        ratio = np.divide(actual, expected, out=np.ones_like(actual), where=possible)
        index: NDArray[np.float64] = ((actual - expected) * np.log(ratio)).sum(axis=1)
        sizes = 1.0 / (total[:, 0] + 1.0) + 1.0 / (len(matrix) + 1.0)
        freedom = possible.sum(axis=1) - 1
        chance: NDArray[np.float64] = sizes * chi2.ppf(CONFIDENCE, freedom)
        return index, chance


def count(
    edges: NDArray[np.float64], matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Count the values of each column in the bins of `Bins`, shape (n_columns, 12)."""
    counts = np.zeros((len(edges), BINS))
    for column, values in enumerate(matrix.T):
        place = 2 + np.searchsorted(edges[column], values, side="left")
        place[values == 0.0] = 1
        place[np.isnan(values)] = 0
        counts[column] = np.bincount(place, minlength=BINS)
    return counts
