"""`drift`: what is new is counted and named, and the verdict follows from it."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from sites import office, theft

from exfilml import Detector, drift, load_model, save_model
from exfilml.exceptions import (
    CalibrationWarning,
    FlowsError,
    OptionError,
    SiteWarning,
)
from exfilml.ranking import rank_cases, rank_flows, score_flows


@pytest.fixture(scope="module")
def detector():
    return Detector(random_state=0, n_estimators=30).fit(office(3000, days=10))


@pytest.fixture(scope="module")
def later():
    return office(900, seed=7, days=3, first_day="2026-03-16")


def elsewhere(flows):
    """The same traffic of another site."""
    return flows.assign(
        src_ip=flows["src_ip"].str.replace("10.20.", "172.16.", regex=False),
        server_name=flows["server_name"] + ".other.example",
        dst_ip=flows["dst_ip"].str.replace("198.18", "203.0", regex=False),
    )


def test_later_flows_of_the_same_kind_fit(detector, later):
    found = drift(detector, later)
    assert found.verdict == "fits"
    assert found.why == ()
    assert found.lines()[0] == "verdict: the model fits these flows"
    assert found.n_overlapping == 0
    assert not found.stability["moved"].any()


def test_another_site_is_told(detector, later):
    found = drift(detector, elsewhere(later))
    assert found.verdict == "another site"
    assert "nearly everything is new" in found.why[0]
    host, service, place = found.unseen.to_dict("records")
    assert host["new_names"] == host["names"] == 10
    assert host["new_share"] == 1.0
    assert service["new_names"] == 0
    assert place["new_share"] > 0.5


def test_another_site_with_the_same_private_addresses_is_told(detector, later):
    places = elsewhere(later).assign(src_ip=later["src_ip"])
    assert drift(detector, places).verdict == "another site"


@pytest.mark.parametrize("rank", [score_flows, rank_flows, rank_cases])
def test_ranking_another_site_warns(detector, later, rank):
    with pytest.warns(SiteWarning, match=r"never saw 10 of 10 local hosts"):
        rank(detector, elsewhere(later))


def test_a_few_new_hosts_are_no_other_site(detector, later):
    few = later[later["src_ip"] == later["src_ip"].iloc[0]]
    rank_cases(detector, elsewhere(few))


def test_what_is_unseen_is_counted_and_named(detector, later):
    odd = pd.concat([later, *[theft(later, dst_port=4444)] * 3], ignore_index=True)
    found = drift(detector, odd)
    (service,) = found.unseen[found.unseen["kind"] == "service"].to_dict("records")
    assert service["new_names"] == 1
    assert service["new_flows"] == 3
    assert service["new_share"] == 3 / len(odd)
    named = found.newcomers[found.newcomers["kind"] == "service"]
    assert named.to_dict("records") == [
        {"kind": "service", "name": "tcp/4444", "flows": 3}
    ]
    assert "services never seen: 1 of 6, in 0.3% of flows: tcp/4444 (3)" in "\n".join(
        found.lines()
    )


def test_hours_of_the_week_that_the_baseline_never_saw_are_told(later):
    weekdays = office(2000, days=5, first_day="2026-03-02")
    detector = Detector(random_state=0, n_estimators=10).fit(weekdays)
    hours = detector.known_.hours_of_week
    assert hours.sum() == 2000
    assert (hours[5 * 24 :] == 0).all()
    sunday = office(500, seed=3, days=1, first_day="2026-03-15")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        found = drift(detector, pd.concat([later, sunday], ignore_index=True))
    assert found.covered == pytest.approx(900 / 1400)
    assert found.verdict == "retrain soon"
    assert "36% of flows start in hours of the week" in "\n".join(found.why)
    assert "hours not seen (UTC): Sun 00–23" in "\n".join(found.lines())
    counted = found.hours.set_index(["weekday", "hour"])["flows"]
    assert counted.loc["Sun"].sum() == 500


def test_evidence_that_moved_is_told(detector, later):
    """Uploads forty times as large to the same places are no longer the same site."""
    grown = later.copy()
    for column in ("src_bytes", "src_payload_bytes", "src_packets"):
        grown[column] = grown[column] * 40
    found = drift(detector, grown)
    assert found.verdict == "retrain soon"
    moved = found.stability.set_index("feature")["moved"]
    assert moved["volume_service"]
    assert not moved["misdeclared"]
    assert (found.alerts["low"] > found.alerts["promised_high"]).any()
    assert "were promised" in "\n".join(found.why)


def test_longer_flows_are_counted_in_stretches_of_the_calibration(detector):
    """Cases grow with time; three weeks at once would break the promise by that."""
    weeks = office(6300, seed=9, days=21, first_day="2026-03-16")
    found = drift(detector, weeks)
    assert found.alerts["cases"].sum() > len(np.unique(detector.score(weeks).case))
    assert (found.alerts["low"] <= found.alerts["promised_high"]).all()


def test_a_calibration_too_short_for_the_budget_says_how_much_longer(detector, later):
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        found = drift(detector, later, alerts_per_day=0.01)
    row = found.calibration.set_index("capability").loc["volume"]
    assert row["days_needed"] == pytest.approx(100)
    assert row["more_days"] == pytest.approx((100 - row["days"]) / 0.3)
    assert row["withstands"] <= 0
    assert found.verdict == "retrain soon"
    assert "too short for the budget" in "\n".join(found.why)


def test_the_poisoning_table_says_what_calibration_says(detector, later):
    found = drift(detector, later)
    for row in found.poisoning.to_dict("records"):
        cases = detector.learned_[row["capability"]].cases
        per_day = detector.learned_["volume"].cases.per_day
        assert row["bits"] == pytest.approx(cases.threshold(5.0, per_day))
        assert row["threshold"] == cases.poisoned(row["planted"], 5.0, per_day)
        assert row["threshold"] >= row["bits"]


def test_flows_of_the_baseline_are_named_as_such(detector):
    found = drift(detector, office(3000, days=10))
    assert found.n_overlapping == 3000
    assert "3,000 of 3,000 flows lie in the baseline's time" in found.notes[0]
    with pytest.warns(SiteWarning, match="3,000 of 3,000 flows lie in the time"):
        rank_cases(detector, office(3000, days=10))


def test_a_stored_model_is_compared_alike(detector, later, tmp_path):
    save_model(detector, tmp_path / "m")
    ours, theirs = drift(detector, later), drift(load_model(tmp_path / "m"), later)
    assert ours.to_dict() == theirs.to_dict()


def test_the_dictionary_is_plain_json(detector, later):
    text = json.dumps(drift(detector, later).to_dict(), allow_nan=False)
    assert set(json.loads(text)) >= {"verdict", "why", "stability", "hours", "alerts"}


def test_no_flows_and_bad_budgets_are_refused(detector, later):
    with pytest.raises(FlowsError, match="no flows to compare"):
        drift(detector, later.iloc[:0])
    with pytest.raises(OptionError, match="alerts per day"):
        drift(detector, later, alerts_per_day=0)


def test_neither_input_is_changed(detector, later):
    before = later.copy(deep=True)
    drift(detector, later)
    pd.testing.assert_frame_equal(later, before)
