"""Flows and cases scored, and which of them are ranked after all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.detector._learned import Parts
from exfilml.features import Asked
from exfilml.features.cases import Cases, largest_of_case
from exfilml.places import stays_inside

if TYPE_CHECKING:
    from numpy.typing import NDArray

# More bits than any suspicion has.
BELOW: Final = 1e6


@dataclass(frozen=True)
class Scored:
    """Flows and cases scored by a detector.

    Attributes
    ----------
    asked
        The flows.
    with_payload
        bool, shape (n_flows,): scored with payload evidence.
    raw, suspicion, p_value
        float64, shape (n_flows,).
    case
        int64, shape (n_flows,): which case each flow belongs to.
    case_suspicion, case_p_value
        float64, shape (n_cases,).
    worst
        int64, shape (n_cases,): the flow whose score is the case's.
    case_with_payload
        bool, shape (n_cases,).
    case_key
        uint64, shape (n_flows,): what the flows of a case have in common.
    apart
        bool, shape (n_cases,): stays inside the site.
    not_covered
        Windows of `exfilml.state` that reach back beyond the first flow known.
    follows
        Whether the flows go on where the state left off; else it is probably of
        another site, or their clock is wrong.
    """

    asked: Asked
    with_payload: NDArray[np.bool_]
    raw: NDArray[np.float64]
    suspicion: NDArray[np.float64]
    p_value: NDArray[np.float64]
    case: NDArray[np.int64]
    case_suspicion: NDArray[np.float64]
    case_p_value: NDArray[np.float64]
    worst: NDArray[np.int64]
    case_with_payload: NDArray[np.bool_]
    case_key: NDArray[np.uint64]
    apart: NDArray[np.bool_]

    not_covered: tuple[str, ...]
    follows: bool = True

    @property
    def ranked_cases(self) -> NDArray[np.float64]:
        """Suspicion of cases as they are ranked: what stays inside comes last."""
        return self.case_suspicion - BELOW * self.apart

    @property
    def ranked_flows(self) -> NDArray[np.float64]:
        """Suspicion of flows as they are ranked: what stays inside comes last."""
        return self.suspicion - BELOW * self.apart[self.case]


def apart(asked: Asked, cases: Cases) -> NDArray[np.bool_]:
    """Say which cases stay inside the site, shape (n_cases,)."""
    apart = np.zeros(cases.n_cases, dtype=bool)
    apart[cases.code] = stays_inside(asked.oriented)
    return apart


def case_raw(
    parts: Parts,
    cases: Cases,
    rows: NDArray[np.int64],
    tie: NDArray[np.uint64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Raw score of each case, and the flow whose score it is.

    `parts` are those of some rows; −∞ for cases that have none of them.
    """
    raw = np.full(len(cases.code), -np.inf)
    raw[rows] = parts.raw
    worst = largest_of_case(raw, cases.code, tie)
    return raw[worst], worst
