"""Precision and recall as an analyst meets them: by case, at a budget, by scenario.

A detector ranks cases, an analyst opens the first few a day. So the questions are:
how many of the first k cases are what they should be, how many scenarios are among
them, how many false alarms a budget costs, and how much had left the site when a case
would have come up. `evaluate` answers them for a detector; `measure` answers the
ranking questions for any score of cases, so that other methods stand beside it.

Labels say what a flow is (see `exfilml.schema.LABEL_COLUMNS`). ``exfil`` is what
should be found; flows without a label and ``hard-negative`` ones should not; any
other label (``c2``, ``exfil-like`` …) counts neither way. A case is what the worst
label of its flows says: ``exfil`` before any other, ``hard-negative`` last.

One file because a figure means nothing apart from how it was counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.columns import START_DTYPE
from exfilml.drawing import BLUE, GREY, axes_for
from exfilml.exceptions import LabelsError, OptionError
from exfilml.policy import Policy
from exfilml.ranking import Judged, judge, ranked_suspicion
from exfilml.ruling import Ruling, sentence_of
from exfilml.schema import (
    check_labels,
    label_pairs,
    label_rows,
    validate_flows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from exfilml.detector import Detector

POSITIVE: Final = "exfil"
NEGATIVE: Final = ("", "hard-negative")
CUTS: Final = (5, 10, 20, 50, 100)
# So many cases that are none an analyst looks at before he stops.
PAGE: Final = 20
ROUNDS: Final = 1000
CONFIDENCE: Final = 0.9
DAY_S: Final = 86400.0
MOST_NAMED: Final = 5


@dataclass(frozen=True)
class Truth:
    """What labels say of flows and of the cases that the flows form.

    Attributes
    ----------
    label, scenario
        object arrays of shape (n_flows,), ``""`` where no label row matches.
    case
        int64, shape (n_flows,): case of each flow.
    case_label
        object, shape (n_cases,).
    notes
        What did not fit, each with names and counts.
    """

    label: NDArray[np.object_]
    scenario: NDArray[np.object_]
    case: NDArray[np.int64]
    case_label: NDArray[np.object_]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, flows: pd.DataFrame, labels: pd.DataFrame, case: NDArray[np.int64]
    ) -> Truth:
        """Match labels to flows and say what does not fit.

        Parameters
        ----------
        flows
            A validated flows table.
        labels
            As `exfilml.read_labels` gives it.
        case
            int64, shape (n_flows,): case of each flow, 0 … n_cases − 1.

        Raises
        ------
        LabelsError
            If no flow is labelled ``exfil``, or no case is left that is no theft.
        """
        rows, matched = label_rows(flows, labels)
        label = np.full(len(flows), "", dtype=object)
        scenario = np.full(len(flows), "", dtype=object)
        label[rows] = labels["label"].fillna("").to_numpy(dtype=object)[matched]
        scenario[rows] = labels["scenario"].fillna("").to_numpy(dtype=object)[matched]
        notes = [
            *_unmatched(flows, labels),
            *_overridden(flows, labels, matched),
            *_scattered(labels, case[rows], matched),
        ]
        case_label = np.full(case.max(initial=-1) + 1, "", dtype=object)
        aside = ~np.isin(label, [POSITIVE, *NEGATIVE])
        for rank in (label == "hard-negative", aside, label == POSITIVE):
            case_label[case[rank]] = label[rank]
        if aside.any():
            names, counts = np.unique(label[aside].astype(str), return_counts=True)
            said = ", ".join(f"{n:,} {k}" for k, n in zip(names, counts, strict=True))
            notes.append(
                f"flows that count neither as found nor as false alarm: {said}"
            )
        positive = case_label == POSITIVE
        if not positive.any():
            given = sorted(set(labels["label"].dropna().astype(str)))
            raise LabelsError(
                f"No flow is labelled {POSITIVE!r}: {len(labels):,} label rows "
                f"({', '.join(given[:MOST_NAMED]) or 'no label'}), "
                f"{len(rows):,} of {len(flows):,} flows matched"
                + "".join(f"; {note}" for note in notes)
                + f". What should be found is labelled {POSITIVE!r}, with the addresses, "
                "ports, protocol and times of the flows."
            )
        found = cls(label, scenario, case, case_label, tuple(notes))
        if not (found.judged & ~positive).any():
            raise LabelsError(
                f"No case is left that is no theft: {int(positive.sum()):,} of "
                f"{len(positive):,} are labelled {POSITIVE!r}, the others count neither "
                "way. There is nothing to tell them from; add normal traffic of the "
                "same time."
            )
        return found

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Whether a case counts as found or as false alarm, shape (n_cases,)."""
        counted: NDArray[np.bool_] = np.isin(self.case_label, [POSITIVE, *NEGATIVE])
        return counted


def _overridden(
    flows: pd.DataFrame, labels: pd.DataFrame, matched: NDArray[np.int64]
) -> list[str]:
    """Count label rows all of whose flows a later row labels again."""
    _, every = label_pairs(flows, labels)
    n = len(np.setdiff1d(every, matched))
    return [f"{n:,} label rows are overridden by later ones"] if n else []


def _unmatched(flows: pd.DataFrame, labels: pd.DataFrame) -> list[str]:
    """Name label rows without a flow, and those that only their times keep from one."""
    _, every = label_pairs(flows, labels)
    lost = np.setdiff1d(np.arange(len(labels)), every)
    if len(lost) == 0:
        return []
    missing = labels.iloc[lost]
    named = ", ".join(missing["scenario"].fillna("?").unique()[:MOST_NAMED])
    notes = [f"{len(lost):,} of {len(labels):,} label rows match no flow ({named})"]
    anytime = pd.Series(pd.NaT, index=missing.index, dtype=START_DTYPE)
    timeless = missing.assign(start=anytime, end=anytime)
    rows, again = label_pairs(flows, timeless)
    if len(rows):
        start = flows["start"].iloc[rows].reset_index(drop=True)
        low = missing["start"].iloc[again].reset_index(drop=True)
        off = (start - low).dt.total_seconds().dropna()
        if len(off):
            notes.append(
                f"{len(np.unique(again)):,} of them would match without their times: "
                f"flows start {off.median():+,.0f} s from the label's start (median); "
                "do the clocks differ?"
            )
    return notes


def _scattered(
    labels: pd.DataFrame, case: NDArray[np.int64], matched: NDArray[np.int64]
) -> list[str]:
    """Name label rows whose flows form several cases."""
    pairs = pd.DataFrame({"row": matched, "case": case}).drop_duplicates()
    several = pairs["row"].value_counts()
    several = several[several > 1]
    if several.empty:
        return []
    named = labels["scenario"].iloc[several.index].fillna("?").unique()[:MOST_NAMED]
    return [
        (
            f"{len(several):,} label rows match flows of several cases "
            f"({', '.join(named)}; up to {several.max():,} cases)"
        )
    ]


def measure(
    score: NDArray[np.float64], truth: NDArray[np.bool_], *, seed: int = 0
) -> dict[str, float]:
    """Return how well a score puts the true ones first.

    Ties count against the score: among equals, the false ones come first.

    Parameters
    ----------
    score
        float64, shape (n,), higher = worse.
    truth
        bool, shape (n,): what should come first.
    seed
        Of the bootstrap.

    Returns
    -------
    dict
        ``average_precision`` (Σ over true ones of precision at their rank, divided
        by their number), its 90 % bootstrap interval over resampled true and false
        ones (B. Efron, R. Tibshirani, 1993) as ``low`` and ``high``, and
        ``precision_at_k`` and ``recall_at_k`` for k of `CUTS`.
    """
    ranks = _ranks(score, truth)
    found: dict[str, float] = {"average_precision": _average_precision(ranks)}
    found |= _interval(
        [
            _average_precision(_ranks(score[drawn], truth[drawn]))
            for drawn in _draws([score], truth, np.arange(len(truth)), seed)
        ]
    )
    for k in CUTS:
        hits = int((ranks <= k).sum())
        found[f"precision_at_{k}"] = hits / k
        found[f"recall_at_{k}"] = hits / len(ranks)
    return found


def measure_lead(
    score: NDArray[np.float64],
    other: NDArray[np.float64],
    truth: NDArray[np.bool_],
    *,
    group: NDArray[Any] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Return by how much a score is ahead of another on the same rows.

    Parameters
    ----------
    score, other
        float64, shape (n,), higher = worse.
    truth
        bool, shape (n,): what should come first.
    group
        Shape (n,): what true ones belong to, such as a scenario. It is drawn as a
        whole, since its members succeed and fail together; `None` for each alone.
    seed
        Of the bootstrap.

    Returns
    -------
    dict
        ``lead`` (average precision of `score` minus that of `other`), and its 90 %
        interval as ``low`` and ``high`` by the paired bootstrap (B. Efron, R.
        Tibshirani, 1993, §8): each resample of true groups and false ones is given
        to both.
    """

    def lead(rows: NDArray[np.int64] | slice) -> float:
        ours, theirs = (
            _average_precision(_ranks(s[rows], truth[rows])) for s in (score, other)
        )
        return ours - theirs

    group = np.arange(len(truth)) if group is None else group
    drawn = _draws([score, other], truth, group, seed)
    return {"lead": lead(slice(None)), **_interval([lead(rows) for rows in drawn])}


def _draws(
    scores: list[NDArray[np.float64]],
    truth: NDArray[np.bool_],
    group: NDArray[Any],
    seed: int,
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each resample of true groups and of false ones.

    False ones that come after every true one in all scores change no precision and
    are left out.
    """
    rng = np.random.default_rng(seed)
    true, false = np.flatnonzero(truth), np.flatnonzero(~truth)
    groups = [true[group[true] == name] for name in pd.unique(group[true])]
    counts = np.zeros(len(false), dtype=bool)
    for score in scores:
        counts |= score[false] >= score[true].min()
    ahead = false[counts]
    for _ in range(ROUNDS):
        # How often each false one is drawn in n draws, for the few that matter.
        times = rng.multinomial(len(false), _chances(len(ahead), len(false)))[:-1]
        chosen = rng.integers(len(groups), size=len(groups))
        yield np.concatenate([*(groups[i] for i in chosen), np.repeat(ahead, times)])


def _interval(rounds: list[float]) -> dict[str, float]:
    outside = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(rounds, [outside, 1.0 - outside])
    return {"low": float(low), "high": float(high)}


def _chances(few: int, of: int) -> NDArray[np.float64]:
    chances = np.full(few + 1, 1.0 / max(of, 1))
    chances[-1] = max(0.0, 1.0 - few / max(of, 1))
    return chances


def _ranks(score: NDArray[np.float64], truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the ranks of the true ones, 1 for the worst score, in order."""
    order = np.lexsort((truth, -score))
    ranks: NDArray[np.int64] = np.flatnonzero(truth[order]) + 1
    return ranks


def _average_precision(ranks: NDArray[np.int64]) -> float:
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())


@dataclass(frozen=True)
class Evaluation:
    """What a detector finds in labelled flows, and what it costs.

    Attributes
    ----------
    cases, flows
        As `measure` gives it.
    n_cases, n_normal, n_flows, n_hosts, days
        What was evaluated; `n_normal` of the cases are false alarms if they alert.
    alerts, alerts_true, false_alarms
        Cases alerted at the budget; true ones among them, and the others.
    scenarios_found, scenarios
        Scenarios with an alerted case, and all.
    budget
        Alert budget in cases a day.
    table
        A row for each labelled scenario: ``label scenario cases rank suspicion alert
        approved up_bytes bytes_before`` (rank of its best case; which approval covers
        one of its cases, if none alerts, else ""; its own uploaded bytes in the best
        case, and how many of them were gone when fewer than 20 cases that are no theft
        would have come before it; missing where that never was).
    precision, recall
        float64: the curve over cases.
    notes
        What did not fit.
    suppressed, suppressed_true
        Cases that only an approval keeps from alerting, and thefts among them.
    policy
        What the policy did, as `exfilml.ruling.Ruling.counts`; `None` without one.
    """

    cases: dict[str, float]
    flows: dict[str, float]
    n_cases: int
    n_normal: int
    n_flows: int
    n_hosts: int
    days: float
    alerts: int
    alerts_true: int
    false_alarms: int
    scenarios_found: int
    scenarios: int
    budget: float
    table: pd.DataFrame
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    notes: tuple[str, ...]
    suppressed: int = 0
    suppressed_true: int = 0
    policy: dict[str, Any] | None = None

    @property
    def false_alarms_per_1000_cases(self) -> float:
        """False alarms among a thousand cases that are none."""
        return 1e3 * self.false_alarms / self.n_normal

    @property
    def false_alarms_per_day_per_1000_hosts(self) -> float:
        """False alarms a day at a site of a thousand such hosts."""
        return 1e3 * self.false_alarms / self.days / self.n_hosts

    def lines(self) -> list[str]:
        """Return the figures as sentences, with their arithmetic."""
        ap, low, high = (self.cases[k] for k in ("average_precision", "low", "high"))
        flows = self.flows["average_precision"]
        at = [f"{self.cases[f'recall_at_{k}']:.0%} at {k}" for k in CUTS]
        right = [f"{self.cases[f'precision_at_{k}']:.0%} at {k}" for k in CUTS]
        return [
            (
                f"{self.n_flows:,} flows in {self.n_cases:,} cases of {self.n_hosts:,} "
                f"local hosts, {self.days:.2f} days"
            ),
            (
                f"average precision over cases {ap:.3f} (90 % interval {low:.3f} to "
                f"{high:.3f}), over flows {flows:.3f}"
            ),
            f"recall over cases: {', '.join(at)}",
            f"precision over cases: {', '.join(right)}",
            (
                f"at a budget of {self.budget:g} alerts a day: {self.alerts:,} alerts, "
                f"{self.alerts_true:,} right; {self.scenarios_found} of {self.scenarios} "
                "scenarios found"
            ),
            *self._lost(),
            (
                f"false alarms: {self.false_alarms:,} / {self.n_normal:,} cases × 1,000 = "
                f"{self.false_alarms_per_1000_cases:.1f} per 1,000 cases"
            ),
            (
                f"              {self.false_alarms:,} / {self.days:.2f} days / "
                f"{self.n_hosts:,} hosts × 1,000 = "
                f"{self.false_alarms_per_day_per_1000_hosts:.1f} per day per 1,000 hosts"
            ),
            *(f"note: {note}" for note in self.notes),
        ]

    def _lost(self) -> Iterator[str]:
        """Name the thefts that raise no alert, and say whose doing that is."""
        lost = self.table[(self.table["label"] == POSITIVE) & ~self.table["alert"]]
        hidden = lost["approved"] != ""
        of = f"of {self.scenarios} scenarios"
        if not hidden.all():
            named = ", ".join(lost.loc[~hidden, "scenario"])
            yield f"missed: {int((~hidden).sum())} {of}: {named}"
        if hidden.any():
            named = "; ".join(
                f"{row['scenario']} ({row['approved']})"
                for row in lost[hidden].to_dict("records")
            )
            yield f"hidden by an approval: {int(hidden.sum())} {of}: {named}"
        if self.policy is not None:
            yield sentence_of(self.policy, self.suppressed) + (
                f"; thefts among the suppressed alerts: {self.suppressed_true:,}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        names = (
            *(
                "cases",
                "flows",
                "n_cases",
                "n_normal",
                "n_flows",
                "n_hosts",
                "days",
                "budget",
            ),
            *("alerts", "alerts_true", "false_alarms", "scenarios_found", "scenarios"),
            *("suppressed", "suppressed_true", "policy"),
        )
        return {
            **{name: getattr(self, name) for name in names},
            "false_alarms_per_1000_cases": self.false_alarms_per_1000_cases,
            "false_alarms_per_day_per_1000_hosts": (
                self.false_alarms_per_day_per_1000_hosts
            ),
            "table": self.table.astype(object)
            .where(self.table.notna(), None)
            .to_dict("records"),
            "notes": list(self.notes),
        }

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw precision over recall of cases; return the Axes."""
        ax = axes_for(ax, (6.0, 4.2))
        recall = np.r_[0.0, self.recall]
        precision = np.r_[self.precision[:1], self.precision]
        ap, low, high = (self.cases[k] for k in ("average_precision", "low", "high"))
        ax.step(
            recall,
            precision,
            where="pre",
            color=BLUE,
            label=f"average precision {ap:.2f} ({low:.2f} to {high:.2f})",
        )
        share = (self.n_cases - self.n_normal) / self.n_cases
        ax.axhline(share, color=GREY, linestyle="--", linewidth=1, label="by chance")
        said: dict[tuple[float, float], list[int]] = {}
        for k in CUTS:
            hit = self.cases[f"recall_at_{k}"], self.cases[f"precision_at_{k}"]
            said.setdefault(hit, []).append(k)
        before, below = np.array([-1.0, -1.0]), True
        for hit, first in said.items():
            # Points that stand close together are named above and below in turn.
            near = np.abs(hit - before) < (0.12, 0.06)
            below, before = not (near.all() and below), np.array(hit)
            ax.plot(*hit, "o", color="black", markersize=4)
            ax.annotate(
                f"first {', '.join(map(str, first))}",
                hit,
                textcoords="offset points",
                xytext=(4, -4 if below else 4),
                ha="left" if hit[0] < 0.15 else "right",
                va="top" if below else "bottom",
                fontsize=8,
            )
        ax.set(
            xlabel="recall over cases",
            ylabel="precision over cases",
            xlim=(0, 1.02),
            ylim=(0, 1.05),
            title="Precision and recall, the most suspicious cases first",
        )
        ax.legend(loc="lower left", fontsize=8)
        return ax


def evaluate(
    detector: Detector,
    flows: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    alerts_per_day: float | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Evaluation:
    """Say what a detector finds in labelled flows, and what it costs.

    Parameters
    ----------
    detector
        Fitted on traffic of another time.
    flows
        A flows table.
    labels
        As `exfilml.read_labels` gives it.
    alerts_per_day
        Alert budget in cases a day; `None` for the detector's own.
    policy
        What the site declares, or the path of a policy file, as in
        `exfilml.rank_cases`.
    seed
        Of the bootstrap.
    progress
        Called with each step's name.

    Raises
    ------
    FlowsError
        If `flows` is no flows table.
    LabelsError
        If labels leave nothing to find, or nothing to tell it from.
    OptionError
        If the flows overlap the detector's baseline in time.
    PolicyError
        If the policy is none.
    """
    tell = progress or (lambda _: None)
    check_labels(labels)
    flows = validate_flows(flows)
    _refuse_overlap(detector, flows)
    declared = None if policy is None else Policy.of(policy)
    tell("scoring flows")
    budget = detector.alerts_per_day if alerts_per_day is None else alerts_per_day
    judged = judge(detector, flows, alerts_per_day=budget, policy=declared)
    scored, alerted = judged.scored, judged.alerted
    tell("matching labels")
    truth = Truth.of(flows, labels, scored.case)
    positive = truth.case_label == POSITIVE
    counted = truth.judged
    tell("resampling")
    by_case = measure(judged.ranked_cases[counted], positive[counted], seed=seed)
    of_counted = counted[scored.case]
    by_flow = measure(
        judged.ranked_flows[of_counted],
        (truth.label == POSITIVE)[of_counted],
        seed=seed,
    )
    tell("following scenarios")
    table = _scenarios(detector, judged, truth, declared)
    wanted = table["label"] == POSITIVE
    ranks = _ranks(judged.ranked_cases[counted], positive[counted])
    span = (flows["start"].max() - flows["start"].min()).total_seconds()
    return Evaluation(
        cases=by_case,
        flows=by_flow,
        n_cases=int(counted.sum()),
        n_normal=int((counted & ~positive).sum()),
        n_flows=len(flows),
        n_hosts=scored.asked.oriented["local_ip"].nunique(),
        days=max(span, 1.0) / DAY_S,
        alerts=int(alerted[counted].sum()),
        alerts_true=int((alerted & positive).sum()),
        false_alarms=int((alerted & counted & ~positive).sum()),
        scenarios_found=int((wanted & table["alert"]).sum()),
        scenarios=int(wanted.sum()),
        budget=float(budget),
        table=table,
        precision=np.arange(1, len(ranks) + 1) / ranks,
        recall=np.arange(1, len(ranks) + 1) / len(ranks),
        notes=truth.notes,
        suppressed=int(judged.suppressed.sum()),
        suppressed_true=int((judged.suppressed & positive).sum()),
        policy=judged.ruling.counts,
    )


def _refuse_overlap(detector: Detector, flows: pd.DataFrame) -> None:
    if len(flows) == 0:
        raise LabelsError("There are no flows to evaluate.")
    first, last = detector.window_
    begin, end = flows["start"].min(), flows["start"].max()
    if begin <= last and end >= first:
        raise OptionError(
            f"The flows ({begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}) overlap the "
            f"model's baseline ({first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}): what "
            "it has seen it finds normal, so that a random split of one capture proves "
            "nothing. Train on an earlier time and evaluate on a later one."
        )


def _scenarios(
    detector: Detector, judged: Judged, truth: Truth, policy: Policy | None
) -> pd.DataFrame:
    """Return a row for each labelled scenario, found ones first."""
    scored, suspicion = judged.scored, judged.ranked_cases
    # Ties rank last, as everywhere here.
    order = np.lexsort((truth.case_label == POSITIVE, -suspicion))
    rank = np.empty(len(suspicion), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    labelled = pd.DataFrame(
        {"label": truth.label, "scenario": truth.scenario, "case": truth.case}
    )
    labelled = labelled[labelled["label"] != ""]
    rows = []
    for (label, scenario), group in labelled.groupby(["label", "scenario"], sort=True):
        cases = group["case"].unique()
        best = int(cases[np.argmin(rank[cases])])
        own = np.zeros(len(scored.case))
        at = group.index[group["case"] == best]
        own[at] = scored.asked.up[at]
        before = None
        if label == POSITIVE:
            others = suspicion[truth.case_label != POSITIVE]
            before = _bytes_before(detector, judged, best, own, others, policy)
        alert = bool(judged.alerted[cases].any())
        approved = cases[judged.ruling.approved[cases]]
        rows.append(
            {
                "label": label,
                "scenario": scenario,
                "cases": len(cases),
                "rank": int(rank[best]),
                "suspicion": float(scored.case_suspicion[best]),
                "alert": alert,
                "approved": ""
                if alert or len(approved) == 0
                else judged.ruling.note_of(int(approved[0])),
                "up_bytes": float(own.sum()),
                "bytes_before": before,
            }
        )
    table = pd.DataFrame(rows)
    table["bytes_before"] = table["bytes_before"].astype("float64")
    return table.sort_values(["label", "rank"], ignore_index=True)


def _bytes_before(
    detector: Detector,
    judged: Judged,
    case: int,
    own: NDArray[np.float64],
    others: NDArray[np.float64],
    policy: Policy | None,
) -> float | None:
    """Return the bytes a scenario had uploaded when its case would have come up.

    `own` are its bytes in each flow, those of other cases left out.

    The case is scored on its first flows, by bisection, against all that cases which
    are no theft do in the whole table: a little late rather than early. An approval
    is held against all that there was at the time.
    """
    asked, code = judged.scored.asked, judged.scored.case
    flows = asked.oriented.flows
    start = flows["start"].to_numpy()
    mine = np.flatnonzero(code == case)
    mine = mine[np.argsort(start[mine], kind="stable")]
    limit = np.sort(others)[-PAGE] if len(others) >= PAGE else -np.inf
    rules = None if policy is None else replace(policy, approvals=())

    def comes_up(n: int) -> bool:
        first = mine[:n]
        if ranked_suspicion(detector, flows.iloc[first], rules).max() <= limit:
            return False
        # No approval is about any of its flows.
        if not judged.ruling.note_of(case):
            return True
        # What the host sent elsewhere since may have re-armed it.
        if n == len(mine):
            return not judged.ruling.approved[case]
        known = np.flatnonzero(start <= start[first[-1]])
        ruling = Ruling.of(policy, asked.only(known), code[known])
        return not ruling.approved[case]

    low, high = 0, len(mine)
    if not comes_up(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if comes_up(middle) else (middle, high)
    return float(own[mine[:high]].sum())
