"""Accumulation: what many flows of one case add up to.

A case is one local host, one place and one service. A drip of small uploads, or one
upload split over many connections, shows only in the sum: the largest upload of a
UTC day, against the usual high mark of such a day for this host and service.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from exfilml.baseline import Observed, case_key
from exfilml.features._feature import Asked
from exfilml.features.volume import mark
from exfilml.tally import combine, grouped

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Cases:
    """Flows grouped into cases, and the largest day of each case.

    Attributes
    ----------
    code
        Case of each flow, int64 of shape (n_flows,).
    n_cases
        Number of cases.
    day_flows
        Flows of the day with the largest upload, int64 of shape (n_cases,).
    day_up
        Largest upload of a UTC day in bytes, float64 of shape (n_cases,).
    day_mark
        Usual high mark of such a day as log2 bytes, float64 of shape (n_cases,).
    """

    code: NDArray[np.int64]
    n_cases: int
    day_flows: NDArray[np.int64]
    day_up: NDArray[np.float64]
    day_mark: NDArray[np.float64]

    @classmethod
    def of(cls, asked: Asked) -> Cases:
        """Group flows into cases."""
        keys = case_key(asked.observed.hashes)
        first, code = grouped(keys)
        days = asked.observed.day.astype(np.uint64)
        day_first, day_code = grouped(combine(keys, days))
        up = np.bincount(day_code, asked.up, minlength=len(day_first)).astype(
            np.float64
        )
        size = np.bincount(day_code, minlength=len(day_first))
        most = largest_of_case(up, code[day_first])
        # Only these are looked up, and cases can be many.
        seen = Observed(
            {k: asked.observed.hashes[k][first] for k in ("local_ip", "service")},
            {},
            asked.observed.day[first],
        )
        usual = replace(asked, oriented=asked.oriented.rows(first), observed=seen)
        marks = mark(usual, "host_service_day", "service_day")
        return cls(code, len(first), size[most], up[most], marks)

    @property
    def excess(self) -> NDArray[np.float64]:
        """log2 upload of the largest day above its mark, shape (n_cases,)."""
        return np.maximum(np.log2(1.0 + self.day_up) - self.day_mark, 0.0)


def largest_of_case(
    values: NDArray[np.float64],
    code: NDArray[np.int64],
    tie: NDArray[np.uint64] | None = None,
) -> NDArray[np.int64]:
    """Return the row of the largest value of each case.

    Parameters
    ----------
    values
        Shape (n_flows,).
    code
        Case of each flow, 0 … n_cases − 1, shape (n_flows,).
    tie
        Among equals the row with the smallest number is taken; `None` for the first.
    """
    # Cheaper than to sort a million rows for a largest one in each of many cases.
    largest = np.full(code.max(initial=-1) + 1, -np.inf)
    np.maximum.at(largest, code, values)
    rows = np.flatnonzero(values == largest[code])
    if tie is not None:
        rows = rows[np.argsort(tie[rows], kind="stable")]
    first = np.empty(len(largest), dtype=np.int64)
    # Of several values for one place the last stays.
    first[code[rows[::-1]]] = rows[::-1]
    return first
