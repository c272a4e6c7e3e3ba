"""Keeps suspicious cases out of a baseline before a detector learns from it.

A model that has learned from a theft finds the next one like it less strange. So each
stretch of a baseline is judged by detectors that never saw it: one fitted on all that
came before, one on all that came after. A case is suspicious if it would alert by
both: what only begins, and goes on, is new to the first and known to the second.

The calibration block, the last part by time, is never touched: a block that has been
trimmed by score promises fewer alarms than will come. What is quarantined lies before
it, so that the block of the detector fitted on what is left begins no earlier. The
detectors that judge do use the block, to learn from. A case that goes on there stays
altogether: large habits would else use the limit up, and the model knows them from the
block all the same. So a theft that goes on to the end is not found here; `left_in`
lists it, if it alerts.
"""

from __future__ import annotations

import numbers
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from sklearn.base import clone

from exfilml.baseline import Observed, case_key
from exfilml.chunks import TIME_ORDER
from exfilml.detector import CALIBRATION_SHARE, FEWEST_FLOWS, Detector
from exfilml.exceptions import (
    BaselineError,
    BaselineWarning,
    ExfilmlWarning,
    OptionError,
)
from exfilml.places import infer_networks, orient, parse_networks
from exfilml.ranking import rank_cases
from exfilml.schema import validate_flows
from exfilml.tally import grouped

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCKS: Final = 4
MOST_SHARE: Final = 0.01
# Who wants more out has another baseline in mind.
LARGEST_SHARE: Final = 0.2


@dataclass(frozen=True)
class Cleaned:
    """A baseline without its suspicious cases, and a detector fitted on it.

    Attributes
    ----------
    detector
        Fitted on `kept`.
    kept, quarantined
        The flows, index and order as given.
    cases
        The quarantined cases, as `rank_cases` shows them to `detector`: for a person
        to look at. What turns out to be normal belongs back into the baseline.
    left_in
        Cases of the calibration block that alert to a detector which learned from
        `kept` before it. As many as the budget allows are normal; if one is a theft,
        end the baseline before it.
    """

    detector: Detector
    kept: pd.DataFrame
    quarantined: pd.DataFrame
    cases: pd.DataFrame
    left_in: pd.DataFrame


def clean_baseline(
    detector: Detector, flows: pd.DataFrame, *, most: float = MOST_SHARE
) -> Cleaned:
    """Keep suspicious cases out of a baseline, and fit a detector on what is left.

    Parameters
    ----------
    detector
        Gives the parameters, its alert budget among them; it is not changed.
    flows
        A flows table of what should be normal operation.
    most
        Share of the flows that may be quarantined. The most suspicious cases come
        first, and a case goes whole or not at all.

    Raises
    ------
    FlowsError
        If `flows` is no flows table.
    BaselineError
        If there are too few flows to judge any of them by others.
    OptionError
        If `most` is not above 0 and at most 0.2, or a parameter of the detector is
        impossible.

    Warns
    -----
    BaselineWarning
        If more is suspicious than may be quarantined.
    """
    if not (isinstance(most, numbers.Real) and 0.0 < most <= LARGEST_SHARE):
        raise OptionError(
            f"most: got {most!r}, expected a share of flows above 0, at most "
            f"{LARGEST_SHARE:g}."
        )
    flows = validate_flows(flows)
    n = len(flows)
    order = flows.reset_index(drop=True).sort_values(TIME_ORDER).index.to_numpy()
    early = order[: round((1.0 - CALIBRATION_SHARE) * n)]
    if len(early) < BLOCKS * FEWEST_FLOWS:
        raise BaselineError(
            f"The baseline has {n} flows, too few to judge a part of it by the others: "
            f"{BLOCKS * FEWEST_FLOWS} are needed before the calibration block, the last "
            f"{CALIBRATION_SHARE:.0%}. Give a longer one, or train without quarantine."
        )
    home = (
        infer_networks(flows)
        if detector.home is None
        else parse_networks(detector.home)
    )
    judge = clone(detector).set_params(home=list(home))
    cuts = np.linspace(0, len(early), BLOCKS + 1).round().astype(int)
    before, after = np.full(n, -np.inf), np.full(n, -np.inf)
    with warnings.catch_warnings():
        # What the fitted detector lacks, it says itself.
        warnings.simplefilter("ignore", ExfilmlWarning)
        for begin, end in pairwise(cuts):
            rows = early[begin:end]
            block = flows.iloc[rows]
            after[rows] = _margins(judge.fit(flows.iloc[order[end:]]), block)
            if begin > 0:
                before[rows] = _margins(judge.fit(flows.iloc[order[:begin]]), block)
    first, case = grouped(case_key(Observed.of(orient(flows, home), kinds=()).hashes))
    margin = np.full(len(first), -np.inf)
    np.maximum.at(margin, case, after)
    earlier = np.full(len(first), -np.inf)
    np.maximum.at(earlier, case, before)
    # What ends in the first block has nothing before it.
    judged = np.isfinite(earlier)
    margin[judged] = np.minimum(margin, earlier)[judged]
    margin[case[order[len(early) :]]] = -np.inf
    suspects = np.flatnonzero(margin >= 0)
    out = np.zeros(n, dtype=bool)
    spared = 0
    for suspect in suspects[np.argsort(-margin[suspects], kind="stable")]:
        rows = np.flatnonzero(case == suspect)
        if out.sum() + len(rows) <= most * n:
            out[rows] = True
        else:
            spared += 1
    if spared:
        warnings.warn(
            f"{spared:,} more cases of the baseline look suspicious, but more than "
            f"{most:g} of its flows ({int(out.sum()):,} of {n:,}) are not quarantined. "
            "Look at those that are; if they are thefts, take a baseline of another "
            "time, or allow more.",
            BaselineWarning,
            stacklevel=2,
        )
    fitted = clone(detector).fit(flows[~out])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExfilmlWarning)
        cases = rank_cases(fitted, flows[out])
        judge.fit(flows.iloc[early[~out[early]]])
        late = rank_cases(judge, flows.iloc[order[len(early) :]])
    left_in = late[late["alert"]]
    return Cleaned(fitted, flows[~out], flows[out], cases, left_in)


def _margins(detector: Detector, flows: pd.DataFrame) -> NDArray[np.float64]:
    """Return by how much the case of each flow passes its threshold, in bits."""
    scored = detector.score(flows)
    per_day = detector.learned_["volume"].cases.per_day
    limit = np.full(len(scored.case_suspicion), np.inf)
    for name, learned in detector.learned_.items():
        mine = scored.case_with_payload == (name == "payload")
        limit[mine] = learned.cases.threshold(detector.alerts_per_day, per_day)
    margins: NDArray[np.float64] = (scored.ranked_cases - limit)[scored.case]
    return margins
