"""`Detector`: learns what is normal, and what it learned stays apart in time."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sites import office, theft
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from exfilml import Detector
from exfilml.exceptions import (
    BaselineError,
    CapabilityWarning,
    FlowsError,
    OptionError,
)
from exfilml.features import FAMILIES, FEATURES, FlowFeatures


@pytest.fixture(scope="module")
def detector():
    return Detector(random_state=0, n_estimators=50).fit(office(1500))


@pytest.fixture(scope="module")
def fresh():
    return office(800, seed=1, days=2, first_day="2026-03-09")


def test_a_theft_scores_below_every_normal_flow(detector, fresh):
    flows = pd.concat([fresh, theft(fresh)], ignore_index=True)
    scores = detector.score_samples(flows)
    assert np.argmin(scores) == len(fresh)
    assert detector.predict(flows)[-1] == -1


def test_same_seed_same_scores(fresh):
    a, b = (
        Detector(random_state=3, n_estimators=10).fit(office(300)).score_samples(fresh)
        for _ in range(2)
    )
    assert np.array_equal(a, b)


def test_row_order_of_the_baseline_does_not_matter(fresh):
    flows = office(300)
    mixed = flows.sample(frac=1.0, random_state=0)
    a = Detector(random_state=0, n_estimators=10).fit(flows)
    b = Detector(random_state=0, n_estimators=10).fit(mixed)
    assert np.array_equal(a.score_samples(fresh), b.score_samples(fresh))


def test_row_order_of_the_flows_does_not_matter(detector, fresh):
    mixed = fresh.sample(frac=1.0, random_state=0)
    expected = pd.Series(detector.score_samples(fresh), index=fresh.index)
    actual = pd.Series(detector.score_samples(mixed), index=mixed.index)
    pd.testing.assert_series_equal(actual.sort_index(), expected)


def test_extra_columns_are_ignored_and_the_input_is_not_changed(detector, fresh):
    extended = fresh.assign(note="x")
    before = extended.copy(deep=True)
    expected = detector.score_samples(fresh)
    assert np.array_equal(detector.score_samples(extended), expected)
    pd.testing.assert_frame_equal(extended, before)


def test_no_rows_in_no_rows_out(detector, fresh):
    assert detector.score_samples(fresh.iloc[:0]).shape == (0,)


def test_clone_and_pickle_work(detector, fresh):
    copied = pickle.loads(pickle.dumps(detector))
    assert np.array_equal(copied.score_samples(fresh), detector.score_samples(fresh))
    assert clone(detector).get_params() == detector.get_params()
    with pytest.raises(NotFittedError):
        clone(detector).score_samples(fresh)


@pytest.mark.parametrize("payload", [True, False])
def test_p_values_hold_on_fresh_days_with_skewed_destinations(payload):
    """Of flows and of cases; every day brings new places, and few get most visits."""
    alphas = np.array([0.001, 0.01, 0.05, 0.2])
    flows, cases = [], []
    for seed in range(4):
        past = office(20_000, seed=seed, days=14, payload=payload)
        days = {"days": 4.2, "first_day": "2026-03-16"}
        new = office(6_000, seed=100 + seed, **days, payload=payload)
        scored = Detector(random_state=0, n_estimators=50).fit(past).score(new)
        flows.append(scored.p_value)
        cases.append(scored.case_p_value)
    for p in (np.concatenate(flows), np.concatenate(cases)):
        reached = (p[:, None] <= alphas).mean(axis=0)
        # Four calibration blocks, whose own chance matters more than that of the days.
        error = 3 * np.sqrt(alphas / (4 * 1_000))
        assert (reached <= alphas + error).all()


def test_the_calibration_block_is_last_in_time_and_unseen():
    """Its flows change no tree and no edge."""
    flows = office(400)
    changed = flows.copy()
    changed.loc[changed.index[-1], "dst_ip"] = "203.0.113.200"
    changed.loc[changed.index[-1], "server_name"] = pd.NA
    a = Detector(random_state=0, n_estimators=10).fit(flows)
    b = Detector(random_state=0, n_estimators=10).fit(changed)
    for name, learned in a.learned_.items():
        for part in ("column", "threshold", "value"):
            assert np.array_equal(
                getattr(learned.forest.trees_, part),
                getattr(b.learned_[name].forest.trees_, part),
            )
        assert np.array_equal(learned.edges, b.learned_[name].edges)


def test_what_the_calibration_block_brought_is_known():
    """Nothing of it is new, and reasons count it; but evidence does not."""
    flows = office(400)
    detector = Detector(random_state=0, n_estimators=10).fit(flows)
    for of, n in (("baseline_", 280), ("recent_", 120), ("known_", 400)):
        assert getattr(detector, of).tables["site"].values["n"].tolist() == [n]
    again = FlowFeatures(payload=True).table(detector.score(flows).asked)
    new = again[[c for c in again if c.startswith("new_")]]
    assert (new.fillna(0.0) == 0).all(axis=None)


@pytest.mark.parametrize("seed", range(3))
def test_a_little_payload_is_not_learned_from(seed):
    """A few odd flows are no picture of a site: said, and volumes judge instead."""
    rng = np.random.default_rng(seed)
    flows = office(1000)
    hidden = rng.random(len(flows)) < 0.95
    flows["src_sampled_bytes"] = flows["src_sampled_bytes"].mask(hidden)
    with pytest.warns(CapabilityWarning, match="only .* of 1,000 flows show it"):
        model = Detector(random_state=0, n_estimators=10).fit(flows)
    assert set(model.learned_) == {"volume"}


# --- explanations ----------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
def test_explanations_sum_to_suspicion(detector, fresh, exact):
    """Per feature and per family, with payload and without, usual rows and not."""
    bare = office(100, seed=9, days=2, first_day="2026-03-09", payload=False)
    parts = [fresh, bare, theft(fresh), theft(bare), theft(fresh, up=10**10)]
    flows = pd.concat(parts, ignore_index=True).sample(frac=1.0, random_state=0)
    explained = detector.explain(flows, exact=exact)
    suspicion = -detector.score_samples(flows)
    assert np.abs(explained.sum(axis=1) - suspicion).max() < 1e-9
    families = explained.T.groupby(level="family").sum().T
    assert np.abs(families.sum(axis=1) - suspicion).max() < 1e-9
    pd.testing.assert_index_equal(explained.index, flows.index)
    # The site shows no processes.
    assert set(families) == set(FAMILIES) - {"process"}
    unseen = flows["src_sampled_bytes"].isna()
    needed = [(f.family, f.name) for f in FEATURES if f.needs_payload]
    assert explained.loc[unseen, needed].isna().all(axis=None)
    assert not explained.loc[~unseen, needed].isna().any(axis=None)


def test_the_exact_split_is_the_shapley_split(detector, fresh):
    asked = detector.score(fresh).asked
    learned = detector.learned_["payload"]
    parts = learned.parts(learned.features.matrix(asked))
    credit = learned.forest.shapley_credit(parts.evidence, monotone=True)
    share = np.maximum(credit, 0.0)
    rows = share.sum(axis=1) > 0
    share[rows] /= share[rows].sum(axis=1, keepdims=True)
    floor = learned.flows.block[0]
    expected = parts.tails + share * (parts.forest_bits - floor)[:, None]
    above = parts.raw - floor
    rows &= above > 1e-9
    expected *= (learned.flows.suspicion(parts.raw) / np.where(rows, above, 1))[:, None]
    exact = detector.explain(fresh).to_numpy()
    assert np.allclose(exact[rows], expected[rows], atol=1e-9)
    paths = detector.explain(fresh, exact=False).to_numpy()
    assert np.abs(exact - paths).max() > 1e-3


def test_tails_are_credited_to_their_own_family(detector, fresh):
    """A hundred times the upload: what is added belongs to volumes."""
    before, after = (
        detector.explain(theft(fresh, up=up)).iloc[0].groupby(level="family").sum()
        for up in (5 * 10**6, 5 * 10**8)
    )
    added = after - before
    volumes = added["volume"] + added["hidden"]
    assert volumes > 0
    assert volumes / added.sum() > 0.95


def test_no_rows_have_no_explanation(detector, fresh):
    explained = detector.explain(fresh.iloc[:0])
    # All but that of processes, which the site does not show.
    assert explained.shape == (0, len(FEATURES) - 1)


# --- the forest's part, and that more is never less ---------------------------------------


@pytest.mark.parametrize("capability", ["payload", "volume"])
def test_more_of_any_evidence_is_never_less_suspicious(detector, fresh, capability):
    """One directed column at a time, over its whole range and beyond."""
    learned = detector.learned_[capability]
    features = learned.features
    flows = pd.concat([fresh, theft(fresh)], ignore_index=True)
    rows = features.matrix(detector.score(flows).asked)[::10]
    rows = np.concatenate(
        [rows, np.where(np.arange(rows.size).reshape(rows.shape) % 7, rows, np.nan)]
    )
    trees = learned.forest.trees_
    for i in range(rows.shape[1]):
        splits = trees.threshold[trees.column == i].astype(float)
        steps = np.unique(
            np.r_[0.0, splits, splits + 1e-6, learned.edges[i] + [0, 1, 50]]
        )
        moved = np.repeat(rows, len(steps), axis=0)
        moved[:, i] = np.tile(steps, len(rows))
        raw = learned.parts(moved).raw.reshape(len(rows), -1)
        suspicion = learned.flows.suspicion(raw)
        assert (np.diff(suspicion, axis=1) >= -1e-9).all(), features.names[i]


@pytest.mark.parametrize("payload", [True, False])
def test_more_upload_is_never_less_suspicious(detector, payload):
    """In the table: more bytes of one flow, for the flow and for its case."""
    flows = office(60, seed=5, days=1, first_day="2026-03-09", payload=payload)
    flows = pd.concat([flows, flows.iloc[:6], theft(flows)], ignore_index=True)
    for row in (0, 7, 30, len(flows) - 1):
        before = None
        for factor in (1, 1.1, 2, 5, 30, 1000, 10**6):
            more = flows.copy()
            for column in ("src_bytes", "src_payload_bytes"):
                more[column] = (
                    more[column]
                    .mask(
                        more.index == row,
                        (more[column] * factor).round().astype("Int64"),
                    )
                    .astype(more[column].dtype)
                )
            scored = detector.score(more)
            now = scored.suspicion[row], scored.case_suspicion[scored.case[row]]
            if before is not None:
                assert now[0] >= before[0] - 1e-9
                assert now[1] >= before[1] - 1e-9
            before = now


def test_more_upload_is_never_less_suspicious_beyond_the_baseline(detector, fresh):
    sizes = [10**6, 10**7, 10**8, 10**9, 10**10]
    scores = [detector.score_samples(theft(fresh, up=u))[0] for u in sizes]
    assert (np.diff(scores) < 0).all()


@pytest.mark.parametrize("payload_known", [True, False])
def test_flows_without_payload_are_scored_with_what_is_there(payload_known, detector):
    """A model of captures scores netflow, and finds what volume and novelty show."""
    bare = office(400, seed=2, days=2, first_day="2026-03-09", payload=False)
    flows = pd.concat([bare, theft(bare, up=10**8)], ignore_index=True)
    model = detector
    if not payload_known:
        model = Detector(random_state=0, n_estimators=50).fit(
            office(1500, payload=False)
        )
    assert np.argmin(model.score_samples(flows)) == len(bare)


def test_a_model_without_payload_says_so(fresh):
    blind = Detector(random_state=0, n_estimators=10).fit(office(300, payload=False))
    with pytest.warns(CapabilityWarning, match="800 of 800 flows is not judged"):
        scored = blind.score(fresh)
    assert not scored.with_payload.any()


def test_mixed_capabilities_are_scored_row_by_row(detector, fresh):
    """And what comes later changes nothing."""
    bare = office(100, seed=9, days=2, first_day="2026-03-19", payload=False)
    mixed = pd.concat([fresh, bare], ignore_index=True)
    assert np.array_equal(
        detector.score_samples(mixed)[: len(fresh)], detector.score_samples(fresh)
    )


@pytest.mark.parametrize(
    ("flows", "error", "text"),
    [
        (office(49), BaselineError, "49 flows; at least 50"),
        (office(60).iloc[:0], BaselineError, "0 flows"),
        (office(60).drop(columns="src_ip"), FlowsError, "src_ip"),
        ([1, 2], FlowsError, "list"),
    ],
)
def test_a_bad_baseline_is_named(flows, error, text):
    with pytest.raises(error, match=text):
        Detector().fit(flows)


@pytest.mark.parametrize("budget", [0, -1.0, float("inf"), "five", None])
def test_a_bad_alert_budget_is_named_before_the_work(budget):
    with pytest.raises(OptionError, match="alerts per day"):
        Detector(alerts_per_day=budget).fit([])


def test_a_bad_home_network_is_named():
    with pytest.raises(OptionError, match="banana"):
        Detector(home=["banana"]).fit(office(60))


@pytest.mark.parametrize(
    "what", ["one host", "one service", "all internal", "one time"]
)
def test_poor_baselines_still_give_a_detector(what):
    flows = office(200)
    if what == "one host":
        flows["src_ip"] = "10.20.0.10"
    elif what == "one service":
        flows = flows[flows["dst_port"] == 443]
    elif what == "all internal":
        flows["dst_ip"] = "10.20.9.9"
    else:
        flows["start"] = flows["start"].iloc[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Detector(random_state=0, n_estimators=10).fit(flows)
        scores = model.score_samples(flows)
    assert np.isfinite(scores).all()
