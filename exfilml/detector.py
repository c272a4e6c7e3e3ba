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
cannot tell 10 MB from 10 GB when both lie beyond its range (evidence of processes, which
few hosts may show, is not shown to the forest at all)::

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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from exfilml._jit import compiled
from exfilml.baseline import DAY_US, Baseline, Observed
from exfilml.calibration import Calibrator, check_budget
from exfilml.chunks import Largest, Sample, in_chunks, starts
from exfilml.exceptions import (
    BaselineError,
    CapabilityWarning,
    StateError,
    StateWarning,
)
from exfilml.features import FAMILIES, Asked, FlowFeatures
from exfilml.features.cases import Cases, largest_of_case
from exfilml.forest import BaselineForest
from exfilml.places import (
    Oriented,
    infer_networks,
    orient,
    parse_networks,
    stays_inside,
)
from exfilml.schema import Doubts, validate_flows
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
LATER_THAN_ANY_US: Final = 2**63 - 1
# Rows of the calibration block that are scored at once.
SCORED_AT_ONCE: Final = 131_072
# A few hosts may well be up for the first time, and a short while knows few.
FEWEST_HOSTS: Final = 5
FEWEST_KNOWN: Final = 20
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
        anomaly = -self.forest.monotone_scores(self.features.for_forest(evidence))
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
        _check_size(len(flows))
        home = infer_networks(flows) if self.home is None else parse_networks(self.home)
        return self._fit([flows], _cuts(len(flows), TABLES_SHARE), home)

    def fit_stream(
        self,
        tables: Iterable[pd.DataFrame],
        n_flows: int,
        *,
        home: Iterable[str] | None = None,
    ) -> Self:
        """Learn as `fit` does, from flows that do not fit into memory.

        The same flows give the same model, bit for bit, however they are cut into
        tables and whatever the order of flows that start together. Kept in memory are
        a chunk of flows (`exfilml.chunks`), the tables of the baseline, a sample of
        `exfilml.chunks.MOST_EVIDENCE` rows of evidence (drawn by content; up to so many
        the forest sees all) and, of the calibration block, a number for each flow and
        each case.

        Parameters
        ----------
        tables
            Flows tables of any size, in order of time from one to the next.
        n_flows
            How many flows they hold in all: blocks are cut by number.
        home
            What `exfilml.places.PublicEnds.networks` infers from all flows, for a
            detector that was given no home networks; `None` for private ones.

        Raises
        ------
        FlowsError
            If one of them is no flows table.
        BaselineError
            If there are fewer than 50 flows or another number than `n_flows`, or if
            tables are out of order.
        OptionError
            If home networks or alert budget are none.

        Warns
        -----
        FlowsWarning, CapabilityWarning
            As `fit`; duplicates are told within a chunk.
        """
        check_budget(self.alerts_per_day)
        _check_size(n_flows)
        networks = parse_networks(home if self.home is None else self.home)
        return self._fit(tables, _cuts(n_flows, TABLES_SHARE), networks)

    def update(self, tables: Iterable[pd.DataFrame], n_flows: int) -> Self:
        """Learn from later flows of normal operation, without those of before.

        What the model knows, its former calibration block among it, becomes the
        tables that the new flows are described by. Of these the first half joins the
        tables and grows a new forest, because a site that is better known shows less
        novelty; the last half calibrates, and no table or tree has seen it. So give as
        much as a calibration needs: it covers only half of the time of the new flows.
        Sums over trailing windows begin anew with the first of them.

        Parameters
        ----------
        tables, n_flows
            As of `fit_stream`.

        Raises
        ------
        FlowsError
            If one of them is no flows table.
        BaselineError
            As `fit_stream`; also if flows begin before the end of what the model
            learned, or show too little payload to go on judging it. The model then
            stays as it was.

        Warns
        -----
        FlowsWarning, CapabilityWarning
            As `fit_stream`.
        """
        check_is_fitted(self, "learned_")
        _check_size(n_flows)
        first, before = self.window_[0], self.n_flows_
        cuts = _cuts(n_flows, 0.0)
        self._fit(tables, cuts, self.home_, self.known_)
        self.window_ = (first, self.window_[1])
        self.n_flows_ += before
        return self

    def _fit(
        self,
        tables: Iterable[pd.DataFrame],
        cuts: NDArray[np.int64],
        home: tuple[str, ...],
        known: Baseline | None = None,
    ) -> Self:
        """Learn block by block: tables, training, and calibration as the last."""
        after = None if known is None else self.window_[1]
        stream = _Stream(tables, cuts, home, after)
        course = _Course(self, stream, known)
        for piece in stream.pieces():
            course.take(*piece)
            # Else it would stay while the next one is made.
            del piece
        stream.doubts.warn(stacklevel=4)
        learned = course.calibrated()
        if "payload" not in learned:
            self._tell_of_payload(stream, update=known is not None)
        assert course.baseline is not None
        assert course.growing is not None
        self.learned_ = learned
        self.baseline_ = course.baseline
        self.recent_ = course.growing
        self.known_ = self.baseline_.merge(self.recent_)
        self.home_ = home
        self.window_ = stream.window
        self.n_flows_ = int(cuts[-1])
        # A loaded model is no longer the work of the version that trained it first.
        self.__dict__.pop("made_by_", None)
        return self

    def _tell_of_payload(self, stream: _Stream, *, update: bool) -> None:
        """Say that payload will not be judged."""
        text = stream.why_payload_is_not_judged
        if update and "payload" in self.learned_:
            raise BaselineError(
                f"{text} The model does judge it: update it with captures, or train "
                "another one."
            )
        if stream.seen.any():
            warnings.warn(text, CapabilityWarning, stacklevel=4)

    def _learn(self, features: FlowFeatures, evidence: NDArray[np.float64]) -> Learned:
        """Grow a forest; it is not calibrated yet."""
        most = self.max_samples
        if isinstance(most, int) and most > len(evidence):
            most = len(evidence)
        forest = BaselineForest(
            n_estimators=self.n_estimators,
            max_samples=most,
            n_jobs=self.n_jobs,
            random_state=self.random_state,
        ).fit(features.for_forest(evidence))
        anomaly = -forest.monotone_scores(features.for_forest(evidence))
        centre, high = np.quantile(anomaly, [0.5, EDGE_QUANTILE])
        surprise_at_high = -np.log2(1.0 - EDGE_QUANTILE)
        # A forest that finds all rows alike, but for rounding, has nothing to say.
        spread = high - centre
        scale = surprise_at_high / spread if spread > LEAST_SPREAD else 0.0
        return Learned(
            features=features,
            forest=forest,
            centre=float(centre),
            scale=float(scale),
            edges=_edges(evidence),
            flows=Calibrator.fit([0.0], 1.0),
            cases=Calibrator.fit([0.0], 1.0),
            bins=Bins.of(evidence[:0]),
        )

    def _features(self, *, payload: bool) -> FlowFeatures:
        """Return the evidence to learn from; ablations leave some of it out."""
        return FlowFeatures(payload=payload)

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
        features = learned.features
        shown = features.for_forest(parts.evidence)
        credit = np.zeros_like(parts.evidence)
        credit[:, features.of_forest] = np.maximum(split(shown, monotone=True), 0.0)
        # What nothing makes easier to isolate is shared alike.
        credit[np.ix_(credit.sum(axis=1) == 0, features.of_forest)] = 1.0
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


def _check_size(n_flows: int) -> None:
    if n_flows < FEWEST_FLOWS:
        raise BaselineError(
            f"The baseline has {n_flows} flows; at least {FEWEST_FLOWS} are needed to "
            "learn and to calibrate. Give a longer capture or more files."
        )


def _cuts(n_flows: int, tables_share: float) -> NDArray[np.int64]:
    """Cut so many flows into one block of tables, some of training, and calibration.

    What the tables leave is shared as in a fit: calibration has as many as training.
    """
    # As literals, because two sums of shares may differ in the last bit.
    calibrated = CALIBRATION_SHARE if tables_share else 0.5
    training = np.linspace(
        tables_share * n_flows, (1.0 - calibrated) * n_flows, TRAINING_BLOCKS + 1
    )
    cuts: NDArray[np.int64] = np.r_[0, training.round(), n_flows].astype(np.int64)
    return cuts


class _Stream:
    """Flows on their way into a detector, and what is counted of them.

    Attributes
    ----------
    cuts
        int64, shape (n_blocks + 1,): number of the first flow of each block, and of all.
    seen
        int64, shape (n_blocks,): how many flows of each block show payload.
    doubts
        Duplicates and wrong clocks.
    """

    def __init__(
        self,
        tables: Iterable[pd.DataFrame],
        cuts: NDArray[np.int64],
        home: tuple[str, ...],
        after: pd.Timestamp | None,
    ) -> None:
        self.cuts = cuts
        self.seen = np.zeros(len(cuts) - 1, dtype=np.int64)
        self.doubts = Doubts()
        self._tables, self._home, self._after = tables, home, after
        self._first: pd.Timestamp | None = None
        self._last: pd.Timestamp | None = None

    def pieces(self) -> Iterator[tuple[int, Oriented, Observed]]:
        """Prepare flows chunk by chunk; no piece is of two blocks.

        Yields
        ------
        block, flows, observed
            Number of the block, and rows of it.
        """
        state = State()
        first = 0
        for chunk in in_chunks(self._tables):
            self._note(chunk)
            flows = orient(chunk, self._home)
            observed = Observed.of(flows, state)
            ends = np.clip(self.cuts - first, 0, len(chunk)).tolist()
            for block, (begin, end) in enumerate(pairwise(ends)):
                rows = slice(begin, end)
                if begin < end:
                    shown = flows.rows(rows)["src_sampled_bytes"].notna()
                    self.seen[block] += int(shown.sum())
                    whole = end - begin == len(chunk)
                    yield (
                        block,
                        flows if whole else flows.rows(rows),
                        observed if whole else observed.rows(rows),
                    )
            first += len(chunk)
            # Else they would stay while the next ones are made.
            del chunk, flows, observed
        if first != self.cuts[-1]:
            raise BaselineError(
                f"The tables hold {first:,} flows; {int(self.cuts[-1]):,} were announced."
            )

    def _note(self, chunk: pd.DataFrame) -> None:
        first, last = chunk["start"].iloc[0], chunk["start"].iloc[-1]
        if self._first is None:
            if self._after is not None and first < self._after:
                raise BaselineError(
                    f"The flows begin at {first:%Y-%m-%d %H:%M:%S} UTC, before "
                    f"{self._after:%Y-%m-%d %H:%M:%S} UTC, the end of what the model "
                    "learned from: flows would count twice. Leave out what it knows "
                    "(train --since)."
                )
            self._first = first
        self._last = last
        self.doubts.add(chunk)

    @property
    def window(self) -> tuple[pd.Timestamp, pd.Timestamp]:
        """First and last start."""
        assert self._first is not None
        assert self._last is not None
        return self._first, self._last

    def shows_payload(self, blocks: int | slice) -> bool:
        """Say whether enough flows of some blocks show payload to learn from them."""
        n_seen = int(self.seen[blocks].sum())
        n_flows = int(np.diff(self.cuts)[blocks].sum())
        return n_seen >= LEAST_VISIBLE and n_seen >= LEAST_SHARE * n_flows

    @property
    def why_payload_is_not_judged(self) -> str:
        """Say how few flows show payload."""
        return (
            f"Payload is not judged: only {int(self.seen.sum()):,} of "
            f"{int(self.cuts[-1]):,} flows show it, {int(self.seen[1:-1].sum()):,} where "
            f"the forest is trained and {int(self.seen[-1]):,} where it is calibrated. "
            "At least a tenth of either is needed."
        )


class _Course:
    """What is learned on the way through the blocks.

    Attributes
    ----------
    baseline
        What describes the flows of the block.
    growing
        What learns from them.
    """

    def __init__(
        self, detector: Detector, stream: _Stream, known: Baseline | None
    ) -> None:
        self.baseline = self.growing = known
        self._learn = detector._learn  # noqa: SLF001 - ablations change it, and that:
        features = detector._features  # noqa: SLF001
        self._evidence = _Evidence(features(payload=True), features(payload=False))
        self._stream = stream
        self._block = 0
        self._trained = Sample()
        self._calibration: _Calibration | None = None

    def take(self, block: int, flows: Oriented, observed: Observed) -> None:
        """Learn from some flows of a block; blocks come in order."""
        if block > self._block:
            self._block, self.baseline = block, self.growing
            if block == len(self._stream.seen) - 1:
                self.growing = None
                self._calibration = _Calibration(self._forests())
                self._trained = Sample()
        if block > 0:
            assert self.baseline is not None
            asked = Asked(flows, observed, self.baseline, self.baseline)
            if self._calibration is not None:
                self._calibration.add(asked, self._evidence)
            else:
                rows = self._trained.wanted(asked.tie)
                some = asked if len(rows) == asked.n_flows else asked.only(rows)
                self._trained.add(some.tie, self._evidence.matrix(some))
        new = Baseline.learn(observed)
        self.growing = new if self.growing is None else self.growing.merge(new)

    def _forests(self) -> dict[str, Learned]:
        """Learn from a sample of evidence what each capability has to know."""
        rows = self._trained.rows()
        self._evidence, rows = self._evidence.learnable(rows)
        evidence = self._evidence
        learned = {
            "volume": self._learn(evidence.volume, evidence.seen(rows, "volume"))
        }
        if self._stream.shows_payload(slice(1, -1)):
            mine = evidence.seen(rows, "payload")
            learned["payload"] = self._learn(evidence.payload, mine)
        return learned

    def calibrated(self) -> dict[str, Learned]:
        """Return what was learned, calibrated by the last block."""
        assert self._calibration is not None
        if not self._stream.shows_payload(-1):
            self._calibration.learned.pop("payload", None)
        return self._calibration.calibrated(self._evidence)


@dataclass(frozen=True)
class _Evidence:
    """Evidence of all capabilities in one matrix; what payload is visible is marked."""

    payload: FlowFeatures
    volume: FlowFeatures

    @cached_property
    def columns(self) -> list[int]:
        """Where in the matrix the columns are that volumes alone show."""
        return [self.payload.names.index(name) for name in self.volume.names]

    def matrix(self, asked: Asked) -> NDArray[np.float64]:
        """Return evidence, and as the last column whether payload is visible."""
        visible = asked.is_true("visible")
        matrix = np.full((asked.n_flows, len(self.payload.names) + 1), np.nan)
        # What nothing shows need not be worked out.
        if visible.any():
            matrix[:, :-1] = self.payload.matrix(asked)
        else:
            matrix[:, self.columns] = self.volume.matrix(asked)
        matrix[:, -1] = visible
        return matrix

    def learnable(
        self, rows: NDArray[np.float64]
    ) -> tuple[_Evidence, NDArray[np.float64]]:
        """Return what these rows of a baseline can teach, and the rows cut to it."""
        whole = self.payload.learnable(rows[:, :-1])
        names = self.payload.names
        if whole.names == names:
            return self, rows
        volume = [n for n in self.volume.names if n in whole.names]
        left = _Evidence(whole, FlowFeatures(payload=False, names=volume))
        return left, rows[:, [*map(names.index, whole.names), -1]]

    def seen(self, rows: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        """Return the evidence that a capability judges."""
        if name == "payload":
            return rows[rows[:, -1] > 0, :-1]
        return np.ascontiguousarray(rows[:, self.columns])


class _Calibration:
    """Scores of the calibration block, flow by flow and by case."""

    def __init__(self, learned: dict[str, Learned]) -> None:
        self.learned = learned
        self.flows: dict[str, list[NDArray[np.float64]]] = {n: [] for n in learned}
        self.cases = {name: Largest() for name in learned}
        self.sample = Sample()
        self.days: set[int] = set()
        self.first, self.last = LATER_THAN_ANY_US, 0

    def add(self, asked: Asked, evidence: _Evidence) -> None:
        """Score flows that nothing was learned from."""
        for first in range(0, asked.n_flows, SCORED_AT_ONCE):
            rows = slice(first, first + SCORED_AT_ONCE)
            some = asked if asked.n_flows <= SCORED_AT_ONCE else asked.only(rows)
            matrix = evidence.matrix(some)
            wanted = self.sample.wanted(some.tie)
            self.sample.add(some.tie[wanted], matrix[wanted])
            keys, inside = Cases.of(some).keys, stays_inside(some.oriented)
            for name, learned in self.learned.items():
                mine = slice(None) if name == "volume" else matrix[:, -1] > 0
                raw = learned.parts(evidence.seen(matrix, name)).raw
                self.flows[name].append(raw)
                self.cases[name].add(keys[mine], raw, inside[mine])
        start = starts(asked.oriented.flows)
        if asked.oriented.at is not None:
            start = start[asked.oriented.at]
        self.first = min(self.first, int(start[0]))
        self.last = int(start[-1])
        self.days.update(np.unique(start // DAY_US).tolist())

    def calibrated(self, evidence: _Evidence) -> dict[str, Learned]:
        """Return what was learned, calibrated."""
        span = max((self.last - self.first) / 1e6, 1.0) / DAY_S
        # Days without any flow do not count.
        days = float(min(span, len(self.days)))
        shown = self.sample.rows()
        calibrated = {}
        for name, learned in self.learned.items():
            cases = self.cases[name]
            leaving = ~cases.flags
            of_cases = cases.values[leaving] if leaving.any() else cases.values
            calibrated[name] = replace(
                learned,
                flows=Calibrator.fit(np.concatenate(self.flows[name]), days),
                cases=Calibrator.fit(of_cases, days),
                bins=Bins.of(evidence.seen(shown, name)),
            )
        return calibrated


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
