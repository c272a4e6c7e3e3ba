"""`Detector`: baseline, features, forest and calibration behind one estimator.

**Fitting** cuts the baseline by time. The first part only fills the tables; the
middle parts are described, each by the tables of all earlier ones, and train the
forest, so that the forest sees how much novelty normal days have; the last part
calibrates: it is described by the tables of what came before it, and no tree, quantile
or edge ever sees it. New flows are described by the same tables as the calibration
block; what the block itself brought is known too, but it can only take novelty away.
As no score rises when evidence falls, p-values stay valid.

**Scoring** a flow adds up bits: the forest's, and for each family of evidence how
far its strongest column lies beyond what the forest was trained on, because a forest
cannot tell 10 MB from 10 GB when both lie beyond its range::

    raw = forest bits + Σ over families of max over columns of (x − edge)⁺

Forest bits are linear in the forest's monotone anomaly score: 0 at the median of its
training rows, log2(100) at their 99th percentile. The edge of a column is that
percentile of its values. Every term is monotone: more evidence in any column, all
else equal, never lowers the raw score.

**Cases** (one local host, place and service) score as their worst flow. A flow knows
what its case, its host and its place added up to so far (`exfilml.state`), so that the
last of forty small uploads weighs as one large one. `exfilml.calibration` turns both
into p-values and suspicion. Cases that stay inside the site, neither through a
resolver, a proxy nor a mail relay, are ranked after all others and raise no alert:
they can be how a theft is prepared, they are none.

**Explaining** splits suspicion over the features. Calibration is a function of the
raw score alone, 0 at the lowest score of the calibration block; by Aumann and
Shapley's rule ("Values of Non-Atomic Games", 1974) each bit above that score then
counts alike. Tail bits belong to their column. The forest's belong to the columns in
proportion to their Shapley values in path length, where these make the flow easier to
isolate.

What was learned is kept per capability: with payload, and from volumes alone. A
model trained on captures therefore also scores netflow.

One file because fitting and scoring must do the same things in the same order.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from exfilml._jit import compiled
from exfilml.baseline import Baseline, Observed
from exfilml.calibration import Calibrator, check_budget
from exfilml.exceptions import (
    BaselineError,
    CapabilityWarning,
    StateError,
    StateWarning,
)
from exfilml.features import FAMILIES, Asked, FlowFeatures
from exfilml.features.cases import Cases, largest_of_case
from exfilml.forest import BaselineForest
from exfilml.places import infer_networks, orient, parse_networks, stays_inside
from exfilml.schema import capability, validate_flows, warn_of_doubtful_rows
from exfilml.stability import Bins
from exfilml.state import SPANS_S, State
from exfilml.tally import combine

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Fewer flows leave nothing to calibrate with.
FEWEST_FLOWS: Final = 50
# A few odd flows with payload among many without are no picture of a site.
LEAST_VISIBLE: Final = 10
LEAST_SHARE: Final = 0.1
TABLES_SHARE: Final = 0.4
CALIBRATION_SHARE: Final = 0.3
TRAINING_BLOCKS: Final = 3
EDGE_QUANTILE: Final = 0.99
LEAST_SPREAD: Final = 1e-6
DEFAULT_ALERTS_PER_DAY: Final = 5.0
DAY_S: Final = 86400.0
# A few hosts may well be up for the first time, and a short while knows few.
FEWEST_HOSTS: Final = 5
FEWEST_KNOWN: Final = 20
# Ties in time are broken by content, so that row order does not matter.
TIME_ORDER: Final = ["start", "src_ip", "src_port", "dst_ip", "dst_port", "protocol"]
# More bits than any suspicion has.
BELOW: Final = 1e6


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
        anomaly = -self.forest.monotone_scores(evidence)
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


class Detector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Finds uploads that do not belong, after learning what does.

    Parameters
    ----------
    home
        Home networks in CIDR notation; `None` for RFC 1918, unique local and
        link-local addresses, and what `exfilml.places.infer_networks` adds for a site
        of public addresses (``home_`` says what).
    alerts_per_day
        Alert budget: cases that normal operation may raise a day. Scoring functions
        can override it.
    n_estimators, max_samples, n_jobs, random_state
        Of the isolation forest, as in scikit-learn.

    Attributes
    ----------
    baseline_
        `Baseline`: counts of normal operation before the calibration block, which
        evidence is measured against.
    recent_
        `Baseline`: counts of the calibration block.
    known_
        `Baseline`: both together.
    learned_
        `Learned` by capability, ``payload`` and ``volume``.
    home_
        Home networks.
    window_
        First and last start of the baseline's flows, UTC.
    n_flows_
        Number of flows in the baseline.
    made_by_
        Only of loaded models: versions of exfilml and libraries that trained it.

    Examples
    --------
    >>> import exfilml
    >>> flows = exfilml.read_flows("baseline.pcap")  # doctest: +SKIP
    >>> detector = exfilml.Detector(random_state=0).fit(flows)  # doctest: +SKIP
    """

    baseline_: Baseline
    recent_: Baseline
    known_: Baseline
    learned_: Mapping[str, Learned]
    home_: tuple[str, ...]
    window_: tuple[pd.Timestamp, pd.Timestamp]
    n_flows_: int
    made_by_: dict[str, Any]

    def __init__(
        self,
        *,
        home: Iterable[str] | None = None,
        alerts_per_day: float = DEFAULT_ALERTS_PER_DAY,
        n_estimators: int = 200,
        max_samples: float | str = "auto",
        n_jobs: int | None = None,
        random_state: int | None = None,
    ) -> None:
        self.home = home
        self.alerts_per_day = alerts_per_day
        self.n_estimators = n_estimators
        self.max_samples = max_samples
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, flows: pd.DataFrame, y: object = None) -> Self:
        """Learn from flows of normal operation.

        Parameters
        ----------
        flows
            A flows table; its rows may be in any order.
        y
            Ignored; there for scikit-learn's conventions.

        Raises
        ------
        FlowsError
            If `flows` is no flows table.
        BaselineError
            If there are fewer than 50 flows.
        OptionError
            If home networks or alert budget are none.

        Warns
        -----
        FlowsWarning
            If many rows are duplicates, or some are of a wrong time.
        CapabilityWarning
            If too few flows show payload to learn from it.
        """
        check_budget(self.alerts_per_day)
        flows = validate_flows(flows)
        n = len(flows)
        if n < FEWEST_FLOWS:
            raise BaselineError(
                f"The baseline has {n} flows; at least {FEWEST_FLOWS} are needed to "
                "learn and to calibrate. Give a longer capture or more files."
            )
        warn_of_doubtful_rows(flows)
        home = infer_networks(flows) if self.home is None else parse_networks(self.home)
        flows = flows.sort_values(TIME_ORDER, ignore_index=True)
        oriented = orient(flows, home)
        observed = Observed.of(oriented)
        cuts = np.r_[
            0,
            np.linspace(
                TABLES_SHARE * n, (1.0 - CALIBRATION_SHARE) * n, TRAINING_BLOCKS + 1
            ).round(),
            n,
        ].astype(int)
        blocks = [slice(a, b) for a, b in pairwise(cuts)]
        baseline = Baseline.learn(observed.rows(blocks[0]))

        def everything(known: Baseline) -> Asked:
            return Asked(oriented, observed, known, known)

        described = []
        for block in blocks[1:-1]:
            described.append(everything(baseline).only(block))
            baseline = baseline.merge(Baseline.learn(observed.rows(block)))
        calibration = everything(baseline).only(blocks[-1])
        start = flows["start"]
        days = _days(start.iloc[blocks[-1]])

        learned = {
            "volume": self._learn(described, calibration, days, payload=False),
        }
        seen = capability(flows) == "payload"
        trained, calibrated = (
            np.concatenate([seen[block] for block in part])
            for part in (blocks[1:-1], blocks[-1:])
        )
        if _is_enough(trained) and _is_enough(calibrated):
            learned["payload"] = self._learn(
                [_visible(a) for a in described],
                _visible(calibration),
                days,
                payload=True,
            )
        elif seen.any():
            warnings.warn(
                f"Payload is not judged: only {int(seen.sum()):,} of {n:,} flows show "
                f"it, {int(trained.sum()):,} where the forest is trained and "
                f"{int(calibrated.sum()):,} where it is calibrated. At least a tenth "
                "of either is needed.",
                CapabilityWarning,
                stacklevel=2,
            )
        self.learned_ = learned
        self.baseline_ = baseline
        self.recent_ = Baseline.learn(observed.rows(blocks[-1]))
        self.known_ = baseline.merge(self.recent_)
        self.home_ = home
        self.window_ = (start.iloc[0], start.iloc[-1])
        self.n_flows_ = n
        return self

    def _learn(
        self, described: list[Asked], calibration: Asked, days: float, *, payload: bool
    ) -> Learned:
        features = self._features(payload=payload)
        evidence = np.concatenate([features.matrix(a) for a in described])
        most = self.max_samples
        if isinstance(most, int) and most > len(evidence):
            most = len(evidence)
        forest = BaselineForest(
            n_estimators=self.n_estimators,
            max_samples=most,
            n_jobs=self.n_jobs,
            random_state=self.random_state,
        ).fit(evidence)
        anomaly = -forest.monotone_scores(evidence)
        centre, high = np.quantile(anomaly, [0.5, EDGE_QUANTILE])
        surprise_at_high = -np.log2(1.0 - EDGE_QUANTILE)
        # A forest that finds all rows alike, but for rounding, has nothing to say.
        spread = high - centre
        scale = surprise_at_high / spread if spread > LEAST_SPREAD else 0.0
        learned = Learned(
            features=features,
            forest=forest,
            centre=float(centre),
            scale=float(scale),
            edges=_edges(evidence),
            flows=Calibrator.fit([0.0], 1.0),
            cases=Calibrator.fit([0.0], 1.0),
            bins=Bins.of(evidence),
        )
        return self._calibrate(learned, calibration, days)

    def _features(self, *, payload: bool) -> FlowFeatures:
        """Return the evidence to learn from; ablations leave some of it out."""
        return FlowFeatures(payload=payload)

    def _calibrate(self, learned: Learned, calibration: Asked, days: float) -> Learned:
        shown = learned.features.matrix(calibration)
        parts = learned.parts(shown)
        cases = Cases.of(calibration)
        everyone = np.arange(calibration.n_flows)
        raw_cases, _ = _case_raw(parts, cases, everyone, calibration.tie)
        leaving = ~_apart(calibration, cases)
        if leaving.any():
            raw_cases = raw_cases[leaving]
        return replace(
            learned,
            flows=Calibrator.fit(parts.raw, days),
            cases=Calibrator.fit(raw_cases, days),
            bins=Bins.of(shown),
        )

    def score(self, flows: pd.DataFrame, state: State | None = None) -> Scored:
        """Score flows and the cases they form; the other methods are views of this.

        Parameters
        ----------
        flows
            A flows table.
        state
            What came before, from `new_state`; the flows are added to it. `None` for
            nothing.

        Raises
        ------
        FlowsError
            If `flows` is no flows table.
        StateError
            If `state` was begun with another model; it is left as it was.

        Warns
        -----
        CapabilityWarning
            If the flows show payload and the model never saw any.
        StateWarning
            If flows begin before the end of what `state` knows, or seem to be of
            another site or time than that.
        """
        check_is_fitted(self, "learned_")
        flows = validate_flows(flows)
        oriented = orient(flows, self.home_)
        if state is not None and not self.has_begun(state):
            raise StateError(
                f"The state ({state.span}) was begun with another model, expected one "
                "that new_state() of this detector gave. If that model was of this "
                "site too, as before training anew, take its sums over: "
                "new_state(after=state); else begin with new_state()."
            )
        not_covered = _not_covered(flows, state)
        earlier = None if state is None else state.copy()
        observed = Observed.of(oriented, state)
        doubt = "" if earlier is None else _does_not_follow(earlier, flows, observed)
        if earlier is not None and doubt:
            warnings.warn(
                f"The flows do not follow what the state knew ({earlier.span}): "
                f"{doubt}. Keep the state from before, and give these flows another.",
                StateWarning,
                stacklevel=2,
            )
        asked = Asked(oriented, observed, self.baseline_, self.known_)
        visible = ~flows["src_sampled_bytes"].array.isna()
        if visible.any() and "payload" not in self.learned_:
            warnings.warn(
                "The model's baseline showed no payload, or too little; the payload of "
                f"{int(visible.sum()):,} of {len(flows):,} flows is not judged. Train "
                "on captures to use it.",
                CapabilityWarning,
                stacklevel=2,
            )
            visible[:] = False
        scored = self._score(asked, visible, not_covered)
        return replace(scored, follows=not doubt)

    def _score(
        self, asked: Asked, visible: NDArray[np.bool_], not_covered: tuple[str, ...]
    ) -> Scored:
        n = asked.n_flows
        cases = Cases.of(asked)
        raw, suspicion, p_value = np.zeros(n), np.zeros(n), np.ones(n)
        case_suspicion = np.full(cases.n_cases, -np.inf)
        case_p = np.ones(cases.n_cases)
        case_visible = np.zeros(cases.n_cases, dtype=bool)
        case_visible[cases.code[visible]] = True
        worst = np.zeros(cases.n_cases, dtype=np.int64)
        # What shows payload shows all that volumes show.
        whole = self.learned_.get("payload", self.learned_["volume"]).features
        evidence, tie = whole.matrix(asked), asked.tie
        for name, learned in self.learned_.items():
            payload = name == "payload"
            rows = visible if payload else ~visible
            if not rows.any():
                continue
            mine = case_visible if payload else ~case_visible
            # A case is scored by one capability, whatever its flows show.
            some = np.flatnonzero(rows | mine[cases.code])
            shown = evidence
            if len(some) < n:
                shown = shown[some]
            names = learned.features.names
            if names != whole.names:
                shown = shown[:, [whole.names.index(name) for name in names]]
            parts = learned.parts(shown)
            raw[rows] = parts.raw[rows[some]]
            suspicion[rows] = learned.flows.suspicion(raw[rows])
            p_value[rows] = learned.flows.p_values(raw[rows])
            of_case, at = _case_raw(parts, cases, some, tie)
            worst[mine] = at[mine]
            case_suspicion[mine] = learned.cases.suspicion(of_case[mine])
            case_p[mine] = learned.cases.p_values(of_case[mine])
        return Scored(
            asked=asked,
            with_payload=visible,
            raw=raw,
            suspicion=suspicion,
            p_value=p_value,
            case=cases.code,
            case_suspicion=case_suspicion,
            case_p_value=case_p,
            worst=worst,
            case_with_payload=case_visible,
            case_key=cases.keys,
            apart=_apart(asked, cases),
            not_covered=not_covered,
        )

    def new_state(self, after: State | None = None) -> State:
        """Return a memory for scoring a stream of tables.

        Give it to `exfilml.score_flows` and its siblings with each table, in order of
        time: sums over trailing windows then reach back beyond the table. Scoring in
        pieces gives the suspicion, flow by flow, of scoring at once.

        Parameters
        ----------
        after
            State of an earlier model *of the same site*, whose sums go on: they depend
            on the traffic, not on the model. It is not changed. `None` for nothing.
        """
        state = State() if after is None else after.copy()
        state.identity = self._identity
        return state

    def has_begun(self, state: State) -> bool:
        """Say whether a state is this model's own, or of no model in particular."""
        return state.identity in {None, self._identity}

    @property
    def _identity(self) -> int:
        """A number for what was learned from; home networks may be set anew."""
        first, last = (t.isoformat(timespec="microseconds") for t in self.window_)
        text = f"{first} {last} {self.n_flows_} {self.known_.n_hosts}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    def explain(self, flows: pd.DataFrame, *, exact: bool = True) -> pd.DataFrame:
        """Split the suspicion of each flow over the features, in bits.

        Parameters
        ----------
        flows
            A flows table.
        exact
            Whether the forest's bits are split by exact Shapley values (TreeSHAP);
            else by credit along the paths, some ten times as fast.

        Returns
        -------
        pandas.DataFrame
            float64, index of `flows`, two levels of columns, ``family`` and
            ``feature``. A row sums to the suspicion of its flow; NaN where the flow
            does not show what the feature needs. See the module's text for the rule.
        """
        scored = self.score(flows)
        # What shows payload shows all that volumes show.
        whole = self.learned_.get("payload", self.learned_["volume"]).features
        split = np.full((scored.asked.n_flows, len(whole.names)), np.nan)
        for name, learned in self.learned_.items():
            payload = name == "payload"
            rows = np.flatnonzero(scored.with_payload == payload)
            columns = np.array([whole.names.index(n) for n in learned.features.names])
            asked = scored.asked.only(rows)
            split[np.ix_(rows, columns)] = self.contributions(
                asked, payload=payload, exact=exact
            )
        families = [f.family for f in whole.features]
        return pd.DataFrame(
            split,
            index=flows.index,
            columns=pd.MultiIndex.from_arrays(
                [families, list(whole.names)], names=["family", "feature"]
            ),
        )

    def contributions(
        self, asked: Asked, *, payload: bool, exact: bool
    ) -> NDArray[np.float64]:
        """Split suspicion as `explain` does, for flows of one capability.

        Returns
        -------
        numpy.ndarray of float64, shape (n_flows, n_features)
        """
        learned = self.learned_["payload" if payload else "volume"]
        parts = learned.parts(learned.features.matrix(asked))
        forest = learned.forest
        split = forest.shapley_credit if exact else forest.path_credit
        credit = np.maximum(split(parts.evidence, monotone=True), 0.0)
        # What nothing makes easier to isolate is shared alike.
        credit[credit.sum(axis=1) == 0] = 1.0
        share = credit / credit.sum(axis=1, keepdims=True)
        floor = learned.flows.block[0]
        bits = parts.tails + share * (parts.forest_bits - floor)[:, None]
        above = parts.raw - floor
        suspicion = learned.flows.suspicion(parts.raw)
        counts = np.divide(suspicion, above, out=np.zeros_like(above), where=above != 0)
        explained: NDArray[np.float64] = bits * counts[:, None]
        return explained

    def score_samples(self, flows: pd.DataFrame) -> NDArray[np.float64]:
        """Return minus the suspicion of each flow: scikit-learn's "lower = worse"."""
        return -self.score(flows).suspicion

    def decision_function(self, flows: pd.DataFrame) -> NDArray[np.float64]:
        """Return `score_samples` shifted so that negative means alerted.

        The threshold lets `alerts_per_day` flows of normal operation pass it a day.
        (Alerts of `exfilml.score_flows` count cases instead.)
        """
        scored = self.score(flows)
        shifted = np.empty(len(scored.raw))
        # Volumes are seen of every flow: the budget is shared by all of them.
        per_day = self.learned_["volume"].flows.per_day
        for name, learned in self.learned_.items():
            rows = scored.with_payload == (name == "payload")
            if rows.any():
                limit = learned.flows.threshold(self.alerts_per_day, per_day)
                shifted[rows] = limit - scored.suspicion[rows]
        return shifted

    def predict(self, flows: pd.DataFrame) -> NDArray[np.int64]:
        """Return −1 for suspicious flows and 1 for the others."""
        return np.where(self.decision_function(flows) < 0, -1, 1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags


def _days(start: pd.Series) -> float:
    """Return how many days a block covers; days without any flow do not count."""
    span = max((start.iloc[-1] - start.iloc[0]).total_seconds(), 1.0) / DAY_S
    return float(min(span, start.dt.floor("D").nunique()))


def _is_enough(seen: NDArray[np.bool_]) -> bool:
    """Say whether enough flows show payload to learn from them."""
    return bool(seen.sum() >= LEAST_VISIBLE and seen.mean() >= LEAST_SHARE)


def _edges(evidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the tail of each column begins; 0 where nothing showed it."""
    edges = np.zeros(evidence.shape[1])
    shown = ~np.isnan(evidence).all(axis=0)
    if shown.any():
        edges[shown] = np.nanquantile(evidence[:, shown], EDGE_QUANTILE, axis=0)
    return edges


def _not_covered(flows: pd.DataFrame, state: State | None) -> tuple[str, ...]:
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


def _does_not_follow(earlier: State, flows: pd.DataFrame, observed: Observed) -> str:
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


def _apart(asked: Asked, cases: Cases) -> NDArray[np.bool_]:
    """Say which cases stay inside the site, shape (n_cases,)."""
    apart = np.zeros(cases.n_cases, dtype=bool)
    apart[cases.code] = stays_inside(asked.oriented)
    return apart


def _visible(asked: Asked) -> Asked:
    """Return the flows whose payload is visible."""
    seen = asked.oriented["up_sampled_bytes"].notna().to_numpy()
    return asked if seen.all() else asked.only(np.flatnonzero(seen))


def _case_raw(
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
