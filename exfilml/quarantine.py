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

`clean_stream` does the same with months of flows, and with those that a model is
updated with. The model that is updated knows what came before, and has seen none of
the new flows: it is the first of the two judges of them all.

One file because what is judged, chosen and left out must be cut alike.
"""

from __future__ import annotations

import copy
import numbers
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from sklearn.base import clone

from exfilml.baseline import Observed, case_key
from exfilml.chunks import Largest, in_chunks
from exfilml.detector import (
    CALIBRATION_SHARE,
    FEWEST_FLOWS,
    UPDATE_CALIBRATION_SHARE,
    Detector,
)
from exfilml.exceptions import (
    BaselineError,
    BaselineWarning,
    ExfilmlWarning,
    OptionError,
)
from exfilml.places import infer_networks, orient, parse_networks
from exfilml.ranking import rank_cases
from exfilml.schema import empty_flows, validate_flows

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


@dataclass(frozen=True)
class CleanedStream:
    """What `clean_stream` gives.

    Attributes
    ----------
    detector
        Fitted on, or updated with, the flows that are kept.
    n_flows, n_kept
        How many flows there were, and how many are kept.
    quarantined
        The others, with the columns that are learned from.
    cases, left_in
        As of `Cleaned`; what goes on from one chunk of the calibration block to the
        next is listed once, as it was when it was most suspicious.
    """

    detector: Detector
    n_flows: int
    n_kept: int
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
    flows = validate_flows(flows)
    home = (
        infer_networks(flows)
        if detector.home is None
        else parse_networks(detector.home)
    )
    cleaned = clean_stream(
        detector, lambda: [flows], len(flows), home=home, most=most, stacklevel=3
    )
    out = np.zeros(len(flows), dtype=bool)
    if len(cleaned.quarantined):
        keys = np.unique(_cases(cleaned.quarantined, home))
        out = np.isin(_cases(flows, home), keys)
    fitted, gone = cleaned.detector, flows[out]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExfilmlWarning)
        cases = rank_cases(fitted, gone)
    return Cleaned(fitted, flows[~out], gone, cases, cleaned.left_in)


# Flows tables in order of time, as often as they are asked for.
Tables = Callable[[], Iterable[pd.DataFrame]]


def clean_stream(
    detector: Detector,
    tables: Tables,
    n_flows: int,
    *,
    home: Iterable[str] | None = None,
    most: float = MOST_SHARE,
    update: bool = False,
    stacklevel: int = 2,
) -> CleanedStream:
    """Do as `clean_baseline` with flows that do not fit into memory.

    They are read some seven times. Kept in memory are, besides what
    `Detector.fit_stream` takes, the model that judges, a number for each case, and the
    flows that are quarantined.

    Parameters
    ----------
    detector
        Gives the parameters, or is the model to update; it is not changed.
    tables
        Gives flows tables of any size, in order of time, as often as it is called.
    n_flows
        How many flows they hold in all.
    home
        As of `Detector.fit_stream`.
    most
        As of `clean_baseline`.
    update
        Whether the flows are later ones, for `Detector.update`. They are judged by the
        model as it is, and by detectors fitted on what came after them.
    stacklevel
        Whose line a warning names.

    Raises
    ------
    FlowsError, BaselineError, OptionError
        As `clean_baseline`, and `Detector.fit_stream` or `Detector.update`.

    Warns
    -----
    BaselineWarning
        If more is suspicious than may be quarantined.
    """
    _check_most(most)
    calibrated = UPDATE_CALIBRATION_SHARE if update else CALIBRATION_SHARE
    n_early = round((1.0 - calibrated) * n_flows)
    if n_early < BLOCKS * FEWEST_FLOWS:
        what = "The update" if update else "The baseline"
        raise BaselineError(
            f"{what} has {n_flows} flows, too few to judge a part of it by the others: "
            f"{BLOCKS * FEWEST_FLOWS} are needed before the calibration block, the last "
            f"{calibrated:.0%}. Give a longer one, or train without quarantine."
        )
    if update:
        networks = detector.home_
    else:
        networks = parse_networks(home if detector.home is None else detector.home)
    with warnings.catch_warnings():
        # What the fitted detector lacks, it says itself.
        warnings.simplefilter("ignore", ExfilmlWarning)
        suspects = _suspects(
            detector, tables, n_flows, n_early, networks, update=update
        )
    counts = _counts(suspects, tables, n_early, networks)
    chosen, n_out = _chosen(
        suspects, counts, most * n_flows, n_flows, stacklevel=stacklevel + 1
    )

    def learned(last: int) -> Detector:
        kept = (
            flows[~np.isin(_cases(flows, networks), chosen)]
            for flows in _part(tables, 0, last)
        )
        if update:
            # It replaces what a model knows, and changes none of it.
            return copy.copy(detector).update(kept, last - n_out)
        fresh: Detector = clone(detector)
        return fresh.fit_stream(kept, last - n_out, home=networks)

    fitted = learned(n_flows)
    gone = [empty_flows()]
    if n_out:
        gone = [
            flows[np.isin(_cases(flows, networks), chosen)]
            for flows in _part(tables, 0, n_early)
        ]
    quarantined = pd.concat(gone, ignore_index=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExfilmlWarning)
        cases = rank_cases(fitted, quarantined)
        left_in = _alerts(learned(n_early), _part(tables, n_early, n_flows))
    return CleanedStream(fitted, n_flows, n_flows - n_out, quarantined, cases, left_in)


def _check_most(most: float) -> None:
    if not (isinstance(most, numbers.Real) and 0.0 < most <= LARGEST_SHARE):
        raise OptionError(
            f"most: got {most!r}, expected a share of flows above 0, at most "
            f"{LARGEST_SHARE:g}."
        )


def _suspects(
    detector: Detector,
    tables: Tables,
    n_flows: int,
    n_early: int,
    home: tuple[str, ...],
    *,
    update: bool,
) -> NDArray[np.uint64]:
    """Return the cases before calibration that all judges find suspicious."""
    judge = clone(detector).set_params(home=list(home))
    margins = _Margins(home)
    cuts = np.linspace(0, n_early, BLOCKS + 1).round().astype(int).tolist()
    for begin, end in pairwise(cuts):
        judge.fit_stream(_part(tables, end, n_flows), n_flows - end)
        margins.add("after", judge, _part(tables, begin, end))
        if not update and begin > 0:
            judge.fit_stream(_part(tables, 0, begin), begin)
            margins.add("before", judge, _part(tables, begin, end))
    if update:
        margins.add("before", detector, _part(tables, 0, n_early))
    return margins.suspects()


def _chosen(
    suspects: NDArray[np.uint64],
    counts: NDArray[np.int64],
    most: float,
    n_flows: int,
    *,
    stacklevel: int,
) -> tuple[NDArray[np.uint64], int]:
    """Choose whole cases, the worst first; return them and how many flows they are."""
    chosen, n_out, spared = [], 0, 0
    for key, n in zip(suspects.tolist(), counts.tolist(), strict=True):
        # What goes on in the calibration block stays.
        if n == 0:
            continue
        if n_out + n <= most:
            chosen.append(key)
            n_out += n
        else:
            spared += 1
    if spared:
        warnings.warn(
            f"{spared:,} more cases of the baseline look suspicious, but more than "
            f"{most / n_flows:g} of its flows ({n_out:,} of {n_flows:,}) are not "
            "quarantined. Look at those that are; if they are thefts, take a baseline "
            "of another time, or allow more.",
            BaselineWarning,
            stacklevel=stacklevel,
        )
    return np.array(chosen, dtype=np.uint64), n_out


def _part(tables: Tables, first: int, last: int) -> Iterator[pd.DataFrame]:
    """Give the flows of these numbers, in order of time."""
    number = 0
    for chunk in in_chunks(tables()):
        rows = chunk.iloc[max(first - number, 0) : max(last - number, 0)]
        if len(rows):
            yield rows.reset_index(drop=True)
        number += len(chunk)
        if number >= last:
            return


def _cases(flows: pd.DataFrame, home: tuple[str, ...]) -> NDArray[np.uint64]:
    """Return the case that each flow belongs to, whatever the baseline knows."""
    return case_key(Observed.of(orient(flows, home), kinds=()).hashes)


class _Margins:
    """By how much each case passes the threshold of those that judge it, in bits."""

    def __init__(self, home: tuple[str, ...]) -> None:
        self._home = home
        self._judged = {"before": Largest(), "after": Largest()}

    def add(self, when: str, detector: Detector, parts: Iterable[pd.DataFrame]) -> None:
        """Judge flows, which come in order of time."""
        per_day = detector.learned_["volume"].cases.per_day
        limits = {
            name: learned.cases.threshold(detector.alerts_per_day, per_day)
            for name, learned in detector.learned_.items()
        }
        state = detector.new_state()
        for flows in parts:
            scored = detector.score(flows, state)
            limit = np.full(len(scored.case_suspicion), np.inf)
            for name, most in limits.items():
                limit[scored.case_with_payload == (name == "payload")] = most
            margins = (scored.ranked_cases - limit)[scored.case]
            keys = _cases(flows, self._home)
            self._judged[when].add(keys, margins, np.zeros(len(keys), dtype=bool))

    def suspects(self) -> NDArray[np.uint64]:
        """Return the cases that would alert by all their judges, the worst first."""
        before, after = self._judged["before"], self._judged["after"]
        margin = after.values.copy()
        # What ends in the first block has nothing before it.
        judged = np.searchsorted(after.keys, before.keys)
        margin[judged] = np.minimum(margin[judged], before.values)
        found = np.flatnonzero(margin >= 0)
        return after.keys[found[np.argsort(-margin[found], kind="stable")]]


def _counts(
    suspects: NDArray[np.uint64], tables: Tables, n_early: int, home: tuple[str, ...]
) -> NDArray[np.int64]:
    """Count the flows of each suspect; 0 for one that goes on in the later ones."""
    counts = np.zeros(len(suspects), dtype=np.int64)
    if not len(suspects):
        return counts
    order = np.argsort(suspects)
    ordered = suspects[order]
    lasting = np.zeros(len(suspects), dtype=bool)
    number = 0
    for flows in in_chunks(tables()):
        keys = _cases(flows, home)
        at = np.searchsorted(ordered, keys).clip(max=len(ordered) - 1)
        mine = ordered[at] == keys
        early = np.arange(number, number + len(keys)) < n_early
        counts += np.bincount(at[mine & early], minlength=len(counts))
        lasting[at[mine & ~early]] = True
        number += len(keys)
    counts[lasting] = 0
    found = np.empty_like(counts)
    found[order] = counts
    return found


def _alerts(detector: Detector, parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Rank the cases of flows that come in order of time, and keep those that alert."""
    state = detector.new_state()
    found = []
    for flows in parts:
        cases = rank_cases(detector, flows, state=state)
        found.append(cases[cases["alert"]])
    every = pd.concat(found, ignore_index=True)
    every = every.sort_values("suspicion", ascending=False, kind="stable")
    every = every.drop_duplicates("case").reset_index(drop=True)
    every["rank"] = np.arange(1, len(every) + 1)
    every.attrs = found[0].attrs
    return every
