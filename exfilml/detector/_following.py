"""Whether flows go on where a state left off, and how far sums reach back."""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
import pandas as pd

from exfilml.baseline import Observed
from exfilml.exceptions import StateWarning
from exfilml.state import SPANS_S, State
from exfilml.tally import combine

# A few hosts may well be up for the first time, and a short while knows few.
FEWEST_HOSTS: Final = 5
FEWEST_KNOWN: Final = 20


def not_covered_by(flows: pd.DataFrame, state: State | None) -> tuple[str, ...]:
    """Name the windows that reach back beyond the first flow that is known."""
    if len(flows) == 0:
        return ()
    start = flows["start"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    first, last = start.min() / 1e6, start.max() / 1e6
    if state is not None and state.earliest is not None and state.latest is not None:
        if first < state.latest:
            begin, end = (
                pd.Timestamp(t, unit="s").strftime("%Y-%m-%d %H:%M:%S")
                for t in (first, state.latest)
            )
            warnings.warn(
                f"The flows begin at {begin} UTC, before the end of what the state "
                f"knows, {end} UTC. Give tables in order of time and none of them "
                "twice: what is given twice counts twice.",
                StateWarning,
                stacklevel=4,
            )
        first = min(first, state.earliest)
    return tuple(name for name, span in SPANS_S.items() if last - first < span)


def why_not_following(earlier: State, flows: pd.DataFrame, observed: Observed) -> str:
    """Say why flows do not go on where a state left off, "" if they do."""
    if earlier.latest is None or len(flows) == 0:
        return ""
    start = np.sort(flows["start"].to_numpy(dtype="datetime64[us]").astype(np.int64))
    longest = max(SPANS_S.values()) * 1_000_000
    # From there on nothing of it is in any window.
    first = np.searchsorted(start, earlier.latest * 1_000_000 + longest, "right")
    late = len(start) - int(first)
    if 0 < late < len(start) / 2 and start[first] - start[first - 1] > longest:
        return (
            f"{late:,} of {len(start):,} start so much later than the others that all "
            "of it is forgotten, as if the clock of a sensor were wrong"
        )
    n_hosts = len(np.unique(observed.hashes["local_ip"]))
    known = earlier.trails["host_service"]
    n_known = max((np.count_nonzero(np.diff(t.keys)) for t in known), default=0)
    if late or n_hosts < FEWEST_HOSTS or n_known < FEWEST_KNOWN:
        return ""
    keys = combine(observed.hashes["local_ip"], observed.hashes["service"])
    if len(earlier.only("host_service", np.unique(keys)).keys):
        return ""
    return (
        f"it knows none of the services of their {n_hosts:,} local hosts, as if it were "
        "of another site"
    )
