r"""An order of cases that takes judgements into account, bounded and reversible.

Each judged case *j* speaks for or against a case that resembles it, with the weight

.. math:: w_j = s_j \, 2^{-a_j / 30}

of its similarity *s* and its age *a* in days. With *t* the weight of those judged true
and *f* of those judged false, the case moves by::

    feedback_bits = log2((1 + t) / (1 + f)), no further than 3 bits either way

which is the log-odds of a Beta-Bernoulli posterior mean with a Beta(1, 1) prior
(Laplace's rule of succession; Gelman et al., "Bayesian Data Analysis", section 2.4): one
verdict says little, and what it says fades. Order by feedback that leaves the score as
it is follows Das et al., "Incorporating Expert Feedback into Active Anomaly Discovery"
(ICDM 2016), and Siddiqui et al., "Feedback-Guided Anomaly Discovery via Online
Optimization" (KDD 2018); unlike theirs it has no weights to learn, so that every bit of
it can be told.

**Similarity** adds up what two cases have in common:

=====================================  ===============  ================
in common                              was judged true  was judged false
=====================================  ===============  ================
place                                  1/8              1/8
place and service                      + 3/8            + 3/8
place and host                         + 1/8            + 1/8
place, service and host                + 1/8            + 3/8
host                                   + 1/4            0
=====================================  ===============  ================

so that a case resembles itself by 1, and one of another host to the same place over the
same service by 1/2. A host that stole once may do so elsewhere; that it was once accused
wrongly excuses nothing it does elsewhere.

**What holds.** ``suspicion``, ``p_value`` and ``alert`` stay what they are: feedback
makes no alert and removes none. No case moves by more than 3 bits, and one false
verdict moves a case of another host by at most log2(1.5) = 0.58 bits: it falls below
no case that was more than that below it. A verdict changed from false to true, or one
more that says true, lowers no case. Cases that a policy put last stay last. Without
judgements the order is as it was; withdrawing one brings back what was before it.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.exceptions import FeedbackError, FeedbackWarning
from exfilml.feedback._facts import check_cases, facts_of
from exfilml.feedback._judgement import CLOCKS_US, TRUE, moment_of
from exfilml.feedback._store import Feedback
from exfilml.places import service_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_BITS: Final = 3.0
HALF_LIFE_DAYS: Final = 30.0
PRIOR: Final = 1.0
NEEDED: Final = ("case", "suspicion", "local_ip", "place", "protocol", "dst_port")

_USED: Final = (
    *("local_ip", "place", "direction", "protocol", "dst_port"),
    *("suspicion", "alert", "rank"),
)
_PLACE: Final = ("place",)
_SERVICE: Final = ("place", "service")
_PAIR: Final = ("place", "local_ip")
_ALL: Final = ("place", "service", "local_ip")
_HOST: Final = ("local_ip",)
# What is in common, and what it adds for a true and for a false verdict.
WEIGHTS: Final = {
    _PLACE: (1 / 8, 1 / 8),
    _SERVICE: (3 / 8, 3 / 8),
    _PAIR: (1 / 8, 1 / 8),
    _ALL: (1 / 8, 3 / 8),
    _HOST: (1 / 4, 0.0),
}


def rerank(
    cases: pd.DataFrame,
    feedback: Feedback | str | os.PathLike[str],
    *,
    at: Any = None,
    top: int | None = None,
) -> pd.DataFrame:
    """Order cases by suspicion and by what was judged of similar ones.

    Parameters
    ----------
    cases
        As `exfilml.rank_cases` gives it. Their order is that of the column ``rank``
        where there is one, else that of the rows.
    feedback
        Judgements, or the path of the store.
    at
        As of when, in UTC: later judgements are not known yet. `None` for now.
    top
        Number of rows to return; `None` for all. An alert that is among the first
        `top` without feedback stays in the table with it, whatever was judged.

    Returns
    -------
    pandas.DataFrame
        The cases, with their index, in the new order, and two columns more:
        ``feedback_bits`` (float64, positive: more suspicious) and ``feedback_reason``
        (str, "" where nothing similar was judged). ``rank`` stays the place by
        suspicion alone, and sorting by it brings the old order back.

    Raises
    ------
    FeedbackError
        If it is no table of cases, or the store cannot be read.
    """
    if top is not None and (
        isinstance(top, bool) or not isinstance(top, int) or top < 1
    ):
        raise FeedbackError(f"top={top!r}: expected a number of rows from 1 on.")
    check_cases(cases, NEEDED)
    latest = Feedback.of(feedback).latest(at=at)
    now = moment_of(at)
    _warn_of_clocks(latest, now)
    facts = facts_of(cases, _USED)
    bits, reasons = _moved(_ends(facts), _ends(latest), latest, now)
    told = cases.assign(
        feedback_bits=bits, feedback_reason=pd.array(reasons, dtype="str")
    )
    before = _before(facts)
    after = before[_order(facts.iloc[before], cases.iloc[before], bits[before])]
    chosen = _cut(facts, before, after, top)
    found = told.iloc[chosen]
    found.attrs = dict(cases.attrs)
    return found


def _warn_of_clocks(latest: pd.DataFrame, now: pd.Timestamp) -> None:
    ahead = latest["judged_at"] > now + pd.Timedelta(CLOCKS_US, unit="us")
    if ahead.any():
        warnings.warn(
            f"{int(ahead.sum()):,} of {len(latest):,} judgements lie ahead of this "
            "clock, as if one of the clocks were wrong; they count as made now.",
            FeedbackWarning,
            stacklevel=3,
        )


def _before(facts: pd.DataFrame) -> NDArray[np.int64]:
    """Return rows in the order that they were ranked in."""
    rank = facts["rank"]
    if len(facts) == 0 or rank.isna().any() or not rank.is_unique:
        return np.arange(len(facts))
    return np.argsort(rank.to_numpy(dtype=np.int64), kind="stable")


def _order(
    facts: pd.DataFrame, cases: pd.DataFrame, bits: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the new order of cases that stand in the old one."""
    suspicion = facts["suspicion"].ffill().fillna(np.inf).to_numpy()
    # Cases that stay inside or are approved come last, whatever their suspicion: where
    # it rises, another part of the ranking begins, and parts are not mixed.
    part = np.zeros(len(facts), dtype=np.int64)
    part[1:] = np.cumsum(suspicion[1:] > suspicion[:-1])
    quiet = (facts["direction"] == "internal").to_numpy(dtype=bool, na_value=False)
    if "reasons" in cases.columns:
        said = cases["reasons"].astype("str").str.startswith("approved: ")
        quiet = quiet | said.to_numpy(dtype=bool, na_value=False)
    last = np.logical_and.accumulate(quiet[::-1])[::-1]
    return np.lexsort((np.arange(len(facts)), -(suspicion + bits), part + last))


def _cut(
    facts: pd.DataFrame,
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    top: int | None,
) -> NDArray[np.int64]:
    """Return the first rows, and alerts that only feedback moved below them."""
    if top is None or top >= len(after):
        return after
    kept = np.zeros(len(after), dtype=bool)
    kept[before[:top]] = True
    kept &= facts["alert"].fillna(value=False).to_numpy(dtype=bool)
    kept[after[:top]] = True
    return after[kept[after]]


def _ends(facts: pd.DataFrame) -> pd.DataFrame:
    """Return what cases are compared by, as texts."""
    protocol = facts["protocol"].fillna(0).to_numpy(dtype=np.int64)
    port = facts["dst_port"].fillna(0).to_numpy(dtype=np.int64) % 65536
    # A port that changes within a case is none to go by.
    changing = facts["dst_port"].isna().to_numpy()
    key = np.where(changing, -1 - protocol, protocol * 65536 + port)
    at, distinct = pd.factorize(key)
    named = [
        f"changing {-1 - k}" if k < 0 else service_name(k >> 16, k & 65535)
        for k in distinct.tolist()
    ]
    service = pd.Series(np.array(named, dtype=object)[at], facts.index, dtype="str")
    service = service.mask(facts["protocol"].isna())
    return pd.DataFrame(
        {
            "place": facts["place"].str.lower(),
            "service": service,
            "local_ip": facts["local_ip"],
        }
    )


def _moved(
    cases: pd.DataFrame,
    judged: pd.DataFrame,
    latest: pd.DataFrame,
    now: pd.Timestamp,
) -> tuple[NDArray[np.float64], list[str]]:
    """Return the bits of each case, and where they come from."""
    true = (latest["verdict"] == TRUE).to_numpy(dtype=bool)
    age = ((now - latest["judged_at"]).dt.total_seconds() / 86_400.0).clip(lower=0.0)
    weight = np.exp2(-age.to_numpy() / HALF_LIFE_DAYS)
    sums = np.zeros((2, len(cases)))
    counts: dict[tuple[str, ...], NDArray[np.int64]] = {}
    for level, worth in WEIGHTS.items():
        theirs, mine = _codes(judged, cases, level)
        counted = np.zeros((2, len(cases)), dtype=np.int64)
        for verdict, those in enumerate((true, ~true)):
            use = those & (theirs >= 0)
            n = max(int(theirs.max(initial=-1)), int(mine.max(initial=-1))) + 2
            # In the order of the file, whatever that of the cases.
            by_key = np.bincount(theirs[use], weight[use], minlength=n)
            sums[verdict] += worth[verdict] * by_key[mine]
            counted[verdict] = np.bincount(theirs[use], minlength=n)[mine]
        counts[level] = counted
    bits = np.log2((PRIOR + sums[0]) / (PRIOR + sums[1])).clip(-MOST_BITS, MOST_BITS)
    return bits, _reasons(counts, len(cases))


def _codes(
    judged: pd.DataFrame, cases: pd.DataFrame, level: tuple[str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a number for what cases have in common; −1 where a part is missing."""
    both = pd.concat([judged[list(level)], cases[list(level)]], ignore_index=True)
    there = both.notna().all(axis=1).to_numpy()
    code = np.full(len(both), -1)
    if there.any():
        code[there] = both[there].groupby(list(level), sort=False).ngroup()
    return code[: len(judged)], code[len(judged) :]


def _reasons(counts: dict[tuple[str, ...], NDArray[np.int64]], n: int) -> list[str]:
    """Say how many similar cases were judged, the most similar first."""
    itself, service = counts[_ALL], counts[_SERVICE] - counts[_ALL]
    pair = counts[_PAIR] - counts[_ALL]
    place = counts[_PLACE] - counts[_SERVICE] - pair
    host = counts[_HOST] - counts[_PAIR]
    # A wrong accusation elsewhere does not count, and is not told of.
    host[1] = 0
    kinds = (
        ("same host, place and service", itself),
        ("same place and service", service),
        ("same place and host", pair),
        ("same place", place),
        ("same host", host),
    )
    reasons = [""] * n
    for row in np.flatnonzero(sum(k.sum(axis=0) for _, k in kinds)).tolist():
        reasons[row] = "; ".join(
            _sentence(int(k[0, row]), int(k[1, row]), what)
            for what, k in kinds
            if k[:, row].any()
        )
    return reasons


def _sentence(true: int, false: int, what: str) -> str:
    total = true + false
    noun = "similar case" if total == 1 else "similar cases"
    if true and false:
        return f"{false} of {total} {noun} judged false, {true} true ({what})"
    verdict = "true" if true else "false"
    return f"{total} of {total} {noun} judged {verdict} ({what})"
