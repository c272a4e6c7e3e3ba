"""Evidence: what is unusual about a flow, in columns that all point the same way.

Each family is a file of features; `FEATURES` orders them. Every feature is directed
(larger is more suspicious, 0 is normal), vectorised, and a pure function of the
flows and of what the baseline taught. `NaN` means "cannot be judged here", never
"not suspicious".
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from exfilml.features import (
    accumulation,
    conformance,
    mismatch,
    novelty,
    payload,
    process,
    timing,
    volume,
)
from exfilml.features._feature import WORTH_TELLING, Asked, Feature, human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["FAMILIES", "FEATURES", "Asked", "Feature", "FlowFeatures", "human_bytes"]

FEATURES: Final[tuple[Feature, ...]] = (
    *volume.FEATURES,
    *accumulation.FEATURES,
    *timing.FEATURES,
    *payload.FEATURES,
    *mismatch.FEATURES,
    *conformance.FEATURES,
    *novelty.FEATURES,
    *process.FEATURES,
)
FAMILIES: Final = (
    "volume",
    "hidden",
    "timing",
    "payload",
    "mismatch",
    "conformance",
    "novelty",
    "process",
)
BLOCK: Final = 32768


class FlowFeatures:
    """Evidence columns in a fixed order.

    Parameters
    ----------
    payload
        Whether payload is visible; without it only volume and novelty remain.
    names
        Names of the columns, for a model that was trained when there were fewer;
        `None` for all that `payload` allows.
    """

    def __init__(self, *, payload: bool, names: Iterable[str] | None = None) -> None:
        allowed = {f.name: f for f in FEATURES if payload or not f.needs_payload}
        self.features = tuple(allowed[n] for n in names or allowed)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names."""
        return tuple(f.name for f in self.features)

    def learnable(self, evidence: NDArray[np.float64]) -> FlowFeatures:
        """Return the features that a baseline with this evidence can teach.

        One that stands in another's place goes where nothing showed what it judges,
        and the other one goes where something did.
        """
        names = list(self.names)
        for at, feature in enumerate(self.features):
            if feature.instead_of is not None:
                seen = not np.isnan(evidence[:, at]).all()
                gone = feature.instead_of if seen else feature.name
                names = [name for name in names if name != gone]
        payload = any(f.needs_payload for f in self.features)
        return FlowFeatures(payload=payload, names=names)

    @cached_property
    def of_forest(self) -> NDArray[np.int64]:
        """Columns that the forest sees."""
        return np.flatnonzero([f.in_forest for f in self.features])

    def for_forest(self, evidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the columns of evidence that the forest sees."""
        if len(self.of_forest) == len(self.features):
            return evidence
        return np.ascontiguousarray(evidence[:, self.of_forest])

    @cached_property
    def families(self) -> NDArray[np.int64]:
        """Index into `FAMILIES` of each column."""
        return np.array([FAMILIES.index(f.family) for f in self.features])

    @cached_property
    def worth_telling(self) -> NDArray[np.float64]:
        """Evidence from which on each column is worth a reader's time."""
        return np.array([WORTH_TELLING[f.unit] for f in self.features])

    def matrix(self, asked: Asked) -> NDArray[np.float64]:
        """Return the evidence, float64 of shape (n_flows, n_features).

        What goes to a multicast group, a broadcast or a loopback address leaves no
        site: it shows no evidence of exfiltration, however unusual it is.
        """
        columns = np.empty((asked.n_flows, len(self.features)))
        # Block by block, intermediate columns stay in the processor's cache.
        for first in range(0, asked.n_flows, BLOCK):
            rows = slice(first, first + BLOCK)
            some = asked.only(rows) if asked.n_flows > BLOCK else asked
            block = columns[rows]
            for i, feature in enumerate(self.features):
                block[:, i] = feature.compute(some)
            stays = ~some.oriented.leaves
            if stays.any():
                block[stays] = np.where(np.isnan(block[stays]), np.nan, 0.0)
        return columns

    def table(self, asked: Asked) -> pd.DataFrame:
        """Return the evidence as a table with the index of the flows."""
        return pd.DataFrame(
            self.matrix(asked), index=asked.oriented.index, columns=list(self.names)
        )
