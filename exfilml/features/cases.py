"""Cases: flows that belong together, as an analyst works on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from exfilml.baseline import FTP, case_key
from exfilml.features._feature import Asked
from exfilml.tally import combine, grouped

if TYPE_CHECKING:
    from numpy.typing import NDArray


def scattered(asked: Asked) -> NDArray[np.bool_]:
    """Say which flows are concealed uploads to new addresses without a name.

    Not those by FTP, which belong to the control connection that opened them.
    """
    hashes = asked.observed.hashes
    nameless = hashes["place"] == hashes["remote_ip"]
    nameless &= ~np.isin(hashes["service"], FTP)
    concealed = asked.is_true("judged") & asked.is_true("bare")
    scattered: NDArray[np.bool_] = concealed & nameless & asked.is_new("service_place")
    return scattered


@dataclass(frozen=True)
class Cases:
    """Flows grouped into cases: one local host, one place, one service.

    All that a host sends over a service that the baseline has never seen is one case,
    however many addresses it goes to; and so are its concealed uploads over another
    service to addresses that have no name and are new.

    Attributes
    ----------
    code
        Case of each flow, int64 of shape (n_flows,).
    n_cases
        Number of cases.
    keys
        uint64, shape (n_flows,): what the flows of a case have in common.
    """

    code: NDArray[np.int64]
    n_cases: int
    keys: NDArray[np.uint64]

    @classmethod
    def of(cls, asked: Asked) -> Cases:
        """Group flows into cases."""
        hashes = asked.observed.hashes
        keys = case_key(hashes)
        together = asked.is_new("service") | scattered(asked)
        if together.any():
            whole = combine(hashes["local_ip"], hashes["service"])
            keys = np.where(together, whole, keys)
        first, code = grouped(keys)
        return cls(code, len(first), keys)


def case_name(key: int) -> str:
    """Return the short name of a case by its key, the same from run to run."""
    return f"{key >> 24:010x}"


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
