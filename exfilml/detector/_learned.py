"""What one capability learned, and the raw scores that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from exfilml._jit import compiled
from exfilml.calibration import Calibrator
from exfilml.features import FAMILIES, FlowFeatures
from exfilml.forest import BaselineForest
from exfilml.stability import Bins

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Learned:
    """What one capability learned.

    Attributes
    ----------
    features
        Evidence columns.
    forest
        Fitted on evidence of the middle of the baseline.
    centre, scale
        Anomaly score at the median and bits per unit of it.
    edges
        float64, shape (n_features,): where the tail of each column begins.
    flows, cases
        Calibration of flows and of cases.
    bins
        Where the evidence of the calibration block lay, to tell drift by. No
        score depends on it.
    """

    features: FlowFeatures
    forest: BaselineForest
    centre: float
    scale: float
    edges: NDArray[np.float64]
    flows: Calibrator
    cases: Calibrator
    bins: Bins

    def parts(self, evidence: NDArray[np.float64]) -> Parts:
        """Score rows of evidence, shape (n_flows, n_features)."""
        if len(evidence) == 0:
            return Parts(evidence, np.zeros(0), np.zeros_like(evidence))
        anomaly = -self.forest.monotone_scores(self.features.for_forest(evidence))
        tails = _tails(evidence, self.edges, self.features.families, len(FAMILIES))
        return Parts(evidence, (anomaly - self.centre) * self.scale, tails)


@compiled
def _tails(
    evidence: NDArray[np.float64],
    edges: NDArray[np.float64],
    families: NDArray[np.int64],
    n_families: int,
) -> NDArray[np.float64]:
    """Return the bits beyond the edge of the strongest column of each family.

    Columns of a family see the same thing: only the strongest counts, the first
    among equals. Zeros elsewhere and where a column cannot be judged.
    """
    tails = np.zeros(evidence.shape)
    most = np.empty(n_families)
    strongest = np.empty(n_families, dtype=np.int64)
    for row in range(len(evidence)):
        most[:] = 0.0
        for column in range(len(edges)):
            beyond = evidence[row, column] - edges[column]
            family = families[column]
            # Not so for NaN.
            if beyond > most[family]:
                most[family] = beyond
                strongest[family] = column
        for family in range(n_families):
            if most[family] > 0.0:
                tails[row, strongest[family]] = most[family]
    return tails


@dataclass(frozen=True)
class Parts:
    """Where the raw score of each flow comes from, row by row.

    Attributes
    ----------
    evidence
        Shape (n_flows, n_features); NaN where it cannot be judged.
    forest_bits
        Shape (n_flows,).
    tails
        Shape (n_flows, n_features): bits beyond the edge, for the strongest column
        of each family.
    """

    evidence: NDArray[np.float64]
    forest_bits: NDArray[np.float64]
    tails: NDArray[np.float64]

    @cached_property
    def raw(self) -> NDArray[np.float64]:
        """Raw score, higher = worse, shape (n_flows,)."""
        total: NDArray[np.float64] = self.forest_bits + self.tails.sum(axis=1)
        return total
