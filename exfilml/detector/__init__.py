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

One file because fitting and scoring must do the same things in the same order; what
they do it with stands beside it.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from exfilml.baseline import Baseline, Observed
from exfilml.calibration import Calibrator, check_budget
from exfilml.detector._course import DAY_S, Course, Evidence
from exfilml.detector._following import not_covered_by, why_not_following
from exfilml.detector._learned import Learned
from exfilml.detector._scored import Scored, apart, case_raw
from exfilml.detector._stream import (
    CALIBRATION_SHARE,
    FEWEST_FLOWS,
    TABLES_SHARE,
    UPDATE_CALIBRATION_SHARE,
    Stream,
    check_size,
    cuts_of,
)
from exfilml.exceptions import (
    BaselineError,
    CapabilityWarning,
    StateError,
    StateWarning,
)
from exfilml.features import Asked, FlowFeatures
from exfilml.features.cases import Cases
from exfilml.forest import BaselineForest
from exfilml.places import infer_networks, orient, parse_networks
from exfilml.schema import CAPABILITIES, validate_flows
from exfilml.stability import Bins
from exfilml.state import State

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = [
    "CALIBRATION_SHARE",
    "DAY_S",
    "DEFAULT_ALERTS_PER_DAY",
    "FEWEST_FLOWS",
    "UPDATE_CALIBRATION_SHARE",
    "Detector",
    "Learned",
    "Scored",
]

EDGE_QUANTILE: Final = 0.99
LEAST_SPREAD: Final = 1e-6
DEFAULT_ALERTS_PER_DAY: Final = 5.0


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
    shown_
        How many of them showed what, by `exfilml.schema.CAPABILITIES`: the most that
        each did. Empty for models that were written before it was counted.
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
    shown_: dict[str, int]
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
        check_size(len(flows))
        home = infer_networks(flows) if self.home is None else parse_networks(self.home)
        return self._fit([flows], cuts_of(len(flows), TABLES_SHARE), home)

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
            As `fit`. A duplicate starts at most a second after the other; one that
            starts on the other side of a chunk's end, which is a full minute, is not
            counted.
        """
        check_budget(self.alerts_per_day)
        check_size(n_flows)
        networks = parse_networks(home if self.home is None else self.home)
        return self._fit(tables, cuts_of(n_flows, TABLES_SHARE), networks)

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
        check_size(n_flows)
        first, before, shown = self.window_[0], self.n_flows_, self.shown_
        cuts = cuts_of(n_flows, 0.0)
        self._fit(tables, cuts, self.home_, self.known_)
        self.window_ = (first, self.window_[1])
        self.n_flows_ += before
        # Not known of all flows is as good as not known.
        both = Counter(shown) + Counter(self.shown_) if shown else Counter()
        self.shown_ = {name: both[name] for name in CAPABILITIES if both[name]}
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
        stream = Stream(tables, cuts, home, after)
        evidence = Evidence(self._features(payload=True), self._features(payload=False))
        course = Course(self._learn, evidence, stream, known)
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
        self.shown_ = stream.shown
        # A loaded model is no longer the work of the version that trained it first.
        self.__dict__.pop("made_by_", None)
        return self

    def _tell_of_payload(self, stream: Stream, *, update: bool) -> None:
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
        not_covered = not_covered_by(flows, state)
        earlier = None if state is None else state.copy()
        observed = Observed.of(oriented, state)
        doubt = "" if earlier is None else why_not_following(earlier, flows, observed)
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
            of_case, at = case_raw(parts, cases, some, tie)
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
            apart=apart(asked, cases),
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


def _edges(evidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the tail of each column begins; 0 where nothing showed it."""
    edges = np.zeros(evidence.shape[1])
    shown = ~np.isnan(evidence).all(axis=0)
    if shown.any():
        edges[shown] = np.nanquantile(evidence[:, shown], EDGE_QUANTILE, axis=0)
    return edges
