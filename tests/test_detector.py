"""`Detector`: learns what is normal, and what it learned stays apart in time."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
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
from exfilml.features import FlowFeatures


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


def test_fresh_normal_days_are_calibrated(detector, fresh):
    """The share of normal flows with p ≤ α is about α (exchangeable days)."""
    p = detector.score(fresh).p_value
    for alpha in (0.01, 0.05, 0.2):
        share = (p <= alpha).mean()
        assert share <= alpha + 3 * np.sqrt(alpha / 400) + 0.01


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


def test_reasons_speak_of_the_whole_baseline():
    """Once it has calibrated, the last part is known too: nothing of it is new."""
    flows = office(400)
    detector = Detector(random_state=0, n_estimators=10).fit(flows)
    assert detector.baseline_.tables["site"].values["n"].tolist() == [400]
    again = FlowFeatures(payload=True).table(detector.score(flows).asked)
    assert (again[[c for c in again if c.startswith("new_")]] == 0).all(axis=None)


def test_contributions_sum_to_the_raw_score(detector, fresh):
    scored = detector.score(fresh)
    split = detector.contributions(scored.asked, payload=True).sum(axis=1)
    surprising = split != 0
    assert surprising.any()
    assert np.allclose(split[surprising], scored.raw[surprising])


def test_the_forest_speaks(detector):
    """On normal rows the order is the forest's own, not that of the tails."""
    scored = detector.score(office(1500))
    matrix = FlowFeatures(payload=True).matrix(scored.asked)
    alone = -detector.learned_["payload"].forest.score_samples(matrix)
    assert spearmanr(alone, scored.raw).statistic > 0.9


def test_more_upload_is_never_less_suspicious_beyond_the_baseline(detector, fresh):
    sizes = [10**6, 10**7, 10**8, 10**9, 10**10]
    flows = pd.concat([theft(fresh, up=u) for u in sizes], ignore_index=True)
    assert (np.diff(detector.score_samples(flows)) < 0).all()


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
    bare = office(100, seed=9, days=2, first_day="2026-03-09", payload=False)
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
