"""Baselines that are poor, doubled, out of order or of a wrong time: what comes out.

Each has a defined result: an error, a warning with counts, or a usable detector.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sites import office, theft

from exfilml import Detector, drift, duplicate_flows, rank_cases, rank_flows
from exfilml.exceptions import (
    BaselineError,
    CalibrationWarning,
    FlowsError,
    FlowsWarning,
    SiteWarning,
)

LATER = "2026-03-16"


def fitted(flows):
    return Detector(random_state=0, n_estimators=20).fit(flows)


def no_uploads(flows):
    """Nothing but acknowledgements goes out."""
    return flows.assign(
        src_bytes=80, src_packets=2, src_payload_bytes=0, src_sampled_bytes=0
    )


POOR = {
    "one hour": lambda: office(300, days=1 / 24),
    "one host": lambda: office(300, hosts=1),
    "one service": lambda: office(700).loc[lambda t: t["dst_port"] == 443],
    "no uploads": lambda: no_uploads(office(300)),
    "all internal": lambda: office(300).assign(dst_ip="10.20.9.9", server_name=pd.NA),
    "no payload": lambda: office(300, payload=False),
    "fifty flows": lambda: office(50),
    "of 1970": lambda: office(300, first_day="1970-01-01"),
    "of the next century": lambda: office(300, first_day="2150-01-01"),
}


@pytest.mark.parametrize("what", POOR)
def test_a_poor_baseline_fits_ranks_and_says_that_it_drifts_or_fits(what):
    """A theft still comes first, with finite scores; what is lost is a warning."""
    detector = fitted(POOR[what]())
    day = office(120, seed=3, days=1, first_day=LATER, hosts=1)
    if what == "no payload":
        day = office(120, seed=3, days=1, first_day=LATER, payload=False)
    flows = pd.concat([day, theft(day, src_ip="10.20.0.10")], ignore_index=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        warnings.simplefilter("ignore", SiteWarning)
        cases = rank_cases(detector, flows)
        found = drift(detector, flows)
    assert np.isfinite(cases["suspicion"]).all()
    assert cases["place"].iloc[0] == "203.0.113.9"
    assert found.verdict in {"fits", "retrain soon", "another site"}


def test_an_hour_of_baseline_says_that_it_is_too_short_for_the_budget():
    detector = fitted(office(300, days=1 / 24))
    later = office(200, seed=2, days=1, first_day=LATER)
    with pytest.warns(CalibrationWarning, match="too short to support 5 alerts a day"):
        rank_cases(detector, later)
    found = drift(detector, later)
    assert found.verdict == "retrain soon"
    assert (found.calibration["more_days"] > 0).all()
    assert found.covered < 0.2


def test_a_baseline_of_one_host_is_no_other_site_for_its_neighbours():
    """Four new hosts are not enough to say so; drift counts them."""
    detector = fitted(office(300, hosts=1))
    few = office(200, seed=2, days=1, first_day=LATER, hosts=4)
    found = drift(detector, few)
    assert found.unseen["new_names"].iloc[0] == 3
    assert found.verdict == "retrain soon"


@pytest.mark.parametrize("n", [0, 1, 49])
def test_fewer_than_fifty_flows_are_refused(n):
    with pytest.raises(BaselineError, match=rf"has {n} flows; at least 50"):
        fitted(office(60).iloc[:n])


def test_out_of_order_and_overlapping_parts_teach_the_same():
    """Two days of one site exported apart, out of order, with interleaved times."""
    flows = office(600)
    parts = pd.concat([flows[1::2].iloc[::-1], flows[::2]])
    later = office(100, seed=1, first_day=LATER)
    one, other = fitted(flows), fitted(parts)
    assert np.array_equal(one.score(later).suspicion, other.score(later).suspicion)
    hours = [d.known_.hours_of_week for d in (one, other)]
    assert np.array_equal(*hours)


# --- duplicates ---------------------------------------------------------------------


def test_two_sensors_on_one_link_are_told_when_fitting_and_when_ranking():
    flows = office(600)
    both = pd.concat([flows, flows.assign(sensor="b")], ignore_index=True)
    with pytest.warns(FlowsWarning, match="600 of 1,200 rows are duplicates of others"):
        fitted(both)
    detector = fitted(flows)
    later = office(200, seed=1, days=1, first_day=LATER)
    twice = pd.concat([later, later])
    for rank in (rank_cases, rank_flows):
        with pytest.warns(FlowsWarning, match="200 of 400 rows are duplicates"):
            rank(detector, twice)


def test_dropping_duplicates_gives_what_one_sensor_alone_gives():
    flows = office(600)
    skewed = flows["start"] + pd.to_timedelta(np.arange(600) % 900, unit="ms")
    both = pd.concat([flows, flows.assign(start=skewed)], ignore_index=True)
    kept = both[~duplicate_flows(both)]
    assert len(kept) == 600
    later = office(100, seed=1, first_day=LATER)
    one, other = fitted(flows).score(later), fitted(kept).score(later)
    assert np.array_equal(one.suspicion, other.suspicion)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_as_many_are_duplicates_as_were_doubled(seed, doubled):
    flows = office(60, seed=seed)
    both = pd.concat([flows, flows.iloc[:doubled]], ignore_index=True)
    both = both.sample(frac=1, random_state=1)
    assert duplicate_flows(both).sum() == doubled


@pytest.mark.parametrize(
    "changed",
    [
        {"start": pd.Timedelta("1.001s")},
        {"src_port": 1},
        {"dst_bytes": 1},
        {"protocol": 1},
    ],
)
def test_what_differs_is_no_duplicate(changed):
    flows = office(60)
    other = flows.assign(**{k: flows[k] + more for k, more in changed.items()})
    assert not duplicate_flows(pd.concat([flows, other])).any()


def test_a_few_duplicates_are_no_matter():
    flows = office(600)
    fitted(pd.concat([flows, flows.iloc[:50]], ignore_index=True))


def test_duplicates_of_no_flows_table_are_refused():
    with pytest.raises(FlowsError):
        duplicate_flows(pd.DataFrame({"x": [1]}))
    assert duplicate_flows(office(50).iloc[:0]).tolist() == []


# --- clocks -------------------------------------------------------------------------


@pytest.mark.parametrize(("year", "named"), [(1970, "1970"), (2199, "2199")])
def test_a_sensor_with_a_wrong_clock_is_told(year, named):
    flows = office(600)
    start = flows["start"].copy()
    start.iloc[100:110] = pd.Timestamp(f"{year}-06-01", tz="UTC")
    with pytest.warns(
        FlowsWarning, match=rf"10 of 600 flows start more than a year.*{named}-06-01"
    ):
        detector = fitted(flows.assign(start=start))
    later = office(100, seed=1, first_day=LATER)
    assert np.isfinite(detector.score(later).suspicion).all()


def test_days_that_no_flow_saw_do_not_lengthen_calibration():
    """Ten flows of another century would else be a calibration of 170 years."""
    flows = office(600)
    start = flows["start"].copy()
    start.iloc[-10:] = pd.Timestamp("2199-06-01", tz="UTC")
    with pytest.warns(FlowsWarning):
        detector = fitted(flows.assign(start=start))
    assert detector.learned_["volume"].cases.days < 5


def test_a_time_that_cannot_be_is_refused():
    flows = office(60)
    early = flows.assign(start=flows["start"] - pd.Timedelta(days=365 * 60))
    with pytest.raises(FlowsError, match="outside 1970–2200"):
        fitted(early)


def test_flows_of_the_time_of_the_baseline_are_told():
    """Half a day of overlap is said, with counts; a conversation across is not."""
    detector = fitted(office(600))
    flows = office(300, seed=1, days=1.5, first_day="2026-03-06")
    with pytest.warns(SiteWarning, match="of 300 flows lie in the time of the model"):
        rank_cases(detector, flows)
    across = office(300, seed=1, days=1.5, first_day=LATER)
    start = across["start"].copy()
    start.iloc[0] = detector.window_[1]
    rank_cases(detector, across.assign(start=start))
