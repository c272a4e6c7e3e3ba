"""Ordered, explained tables of flows and cases."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sites import office, theft

from exfilml import Detector, flows_of_case, rank_cases, rank_flows, score_flows
from exfilml.exceptions import (
    CalibrationWarning,
    CapabilityWarning,
    OptionError,
    SiteWarning,
)
from exfilml.policy import Policy
from exfilml.ranking import CASE_COLUMNS, FLOW_COLUMNS, SCORE_COLUMNS
from exfilml.schema import validate_flows


@pytest.fixture(scope="module")
def detector():
    return Detector(random_state=0, n_estimators=50).fit(office(1500))


@pytest.fixture(scope="module")
def flows():
    normal = office(600, seed=1, days=2, first_day="2026-03-09")
    drip = pd.concat([theft(normal, up=30_000, dst_port=4444)] * 20)
    return pd.concat([normal, theft(normal), drip], ignore_index=True)


def test_flows_come_worst_first_with_all_columns(detector, flows):
    ranking = rank_flows(detector, flows)
    assert tuple(ranking.columns) == FLOW_COLUMNS
    assert ranking["suspicion"].is_monotonic_decreasing
    assert ranking["rank"].tolist() == list(range(1, len(flows) + 1))
    assert ranking.index[0] == 600
    assert flows.loc[ranking.index[0], "dst_ip"] == ranking["dst_ip"].iloc[0]


def test_cases_come_worst_first_with_all_columns(detector, flows):
    ranking = rank_cases(detector, flows)
    assert tuple(ranking.columns) == CASE_COLUMNS
    assert ranking["suspicion"].is_monotonic_decreasing
    assert set(ranking["dst_port"].iloc[:2]) == {8443, 4444}
    assert ranking["flows"].sum() == len(flows)
    assert ranking["up_bytes"].sum() == flows["src_bytes"].sum()


def test_a_case_gives_back_its_flows(detector, flows):
    named = rank_flows(detector, flows)["case"]
    for case in named.iloc[[0, 1, -1]]:
        found = flows_of_case(detector, flows, case)
        assert sorted(found.index) == sorted(named.index[named == case])
    assert len(flows_of_case(detector, flows, "none such")) == 0


def test_a_drip_is_one_case(detector, flows):
    ranking = rank_cases(detector, flows)
    drip = ranking[ranking["dst_port"] == 4444].iloc[0]
    assert drip["flows"] == 20
    assert drip["reasons"].startswith("20 flows; worst flow: ")
    assert "20 concealed uploads in 5 min" in drip["reasons"]


def test_reasons_say_what_and_how_much(detector, flows):
    reasons = rank_flows(detector, flows, top=1)["reasons"].iloc[0]
    for part in ("5.0 MB", "10.20.0.12", "tcp/8443"):
        assert part in reasons


def test_what_all_flows_of_a_service_do_is_no_reason(detector, flows):
    """TLS over https is opaque after a handshake in every flow of the baseline."""
    reasons = rank_flows(detector, flows)["reasons"]
    assert not reasons.str.contains(r"\([1-9]\d* of \d+ such flows").any()
    assert (reasons == "nothing unusual").any()
    assert reasons.str.startswith("slight evidence only: ").any()


@pytest.mark.parametrize("ranker", [rank_flows, rank_cases])
def test_flows_without_names_are_told_from_a_baseline_with_names(detector, ranker):
    """As netflow ranked by a model of captures: places have names there."""
    later = office(200, seed=3, days=1, first_day="2026-03-09")
    ends = later[["start", "src_ip", "src_port", "dst_ip", "dst_port", "protocol"]]
    bare = validate_flows(ends.join(later[["src_bytes", "dst_bytes"]]))
    with pytest.warns(CapabilityWarning, match="No flow names an application"):
        ranker(detector, bare)
    of_its_kind = Detector(random_state=0, n_estimators=5).fit(
        bare.assign(start=bare["start"] - pd.Timedelta("30D"))
    )
    ranker(of_its_kind, bare)


@pytest.mark.parametrize("home", ["0.0.0.0/0", "172.16.0.0/12"])
@pytest.mark.parametrize("ranker", [score_flows, rank_flows, rank_cases])
def test_home_networks_that_nothing_crosses_are_warned_of(
    detector, flows, ranker, home
):
    """Once, and with the networks; a few flows inside say nothing."""
    policy = Policy(home=(home,))
    with pytest.warns(SiteWarning) as said:
        ranker(detector, flows, policy=policy)
    (text,) = (str(w.message) for w in said)
    assert text.startswith("Only 0 of 621 flows have exactly one end")
    assert home in text
    assert "--home" in text
    ranker(detector, flows.iloc[:4], policy=policy)


def test_row_order_changes_no_ranking(detector, flows):
    """Ties are broken by what a flow is, not by where it stands."""
    tied = pd.concat([flows, flows.iloc[100:400].assign(src_port=1)], ignore_index=True)
    expected = rank_cases(detector, tied), rank_flows(detector, tied)
    for seed in range(3):
        mixed = tied.sample(frac=1.0, random_state=seed)
        pd.testing.assert_frame_equal(rank_cases(detector, mixed), expected[0])
        rows = rank_flows(detector, mixed).reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, expected[1].reset_index(drop=True))


def test_the_budget_is_shared_by_what_sees_payload_and_what_does_not():
    """Half of the hosts show none: together they alert as often as was asked for."""
    past = office(6000, days=10)
    new = office(6000, seed=9, days=10, first_day="2026-03-12")
    for table in (past, new):
        host = table["src_ip"].str[-1].astype(int) % 2 == 0
        table["src_sampled_bytes"] = table["src_sampled_bytes"].mask(host)
    detector = Detector(random_state=0, n_estimators=50, alerts_per_day=5).fit(past)
    cases = rank_cases(detector, new)
    assert cases["capability"].nunique() == 2
    assert cases.attrs["alerted"] / 10 < 1.6 * 5


def test_cases_show_their_largest_upload_and_distinct_addresses(detector):
    normal = office(100, seed=1, first_day="2026-03-09")
    flows = pd.concat([normal, *[theft(normal)] * 2], ignore_index=True)
    big = theft(flows, up=50_000, dst_ip="203.0.113.9")
    flows = pd.concat([flows, big.assign(src_port=4242)], ignore_index=True)
    cases = rank_cases(detector, flows).set_index("case")
    ranking = rank_flows(detector, flows)
    for case, rows in ranking.groupby("case"):
        assert cases.loc[case, "addresses"] <= rows["dst_ip"].nunique()
    theirs = cases[cases["place"] == "203.0.113.9"]
    assert theirs["addresses"].tolist() == [1]
    assert theirs["flows"].tolist() == [3]


def test_scores_keep_order_and_index(detector, flows):
    shuffled = flows.sample(frac=1.0, random_state=0)
    scores = score_flows(detector, shuffled)
    assert tuple(scores.columns) == SCORE_COLUMNS
    pd.testing.assert_index_equal(scores.index, shuffled.index)
    pd.testing.assert_frame_equal(scores.sort_index(), score_flows(detector, flows))
    assert np.array_equal(scores["suspicion"], -detector.score_samples(shuffled))


def test_a_flow_is_alerted_when_its_case_is(detector, flows):
    by_flow = rank_flows(detector, flows).set_index("case")["alert"]
    by_case = rank_cases(detector, flows).set_index("case")["alert"]
    assert (by_flow == by_case.loc[by_flow.index]).all()
    scored = score_flows(detector, flows)
    assert scored["alert"].iloc[600]
    assert scored["alert"].iloc[601:].all()


def test_names_asked_of_the_neighbours_stay_inside(detector, flows):
    """NetBIOS to all of a small network inside a home of /8: a name is no place."""
    asked = theft(flows, up=10**6, dst_ip="10.20.1.255", dst_port=137)
    asked = asked.assign(protocol=17, server_name="WORKGROUP")
    cases = rank_cases(detector, pd.concat([flows, asked], ignore_index=True))
    found = cases[cases["dst_port"] == 137]
    assert found["alert"].tolist() == [False]
    assert cases.attrs["inside"] == 1


def test_what_stays_inside_comes_last_and_raises_no_alert(detector, flows):
    """The same upload to a file server and to the internet; through a relay it leaves."""
    inside = theft(flows, up=10**9, dst_ip="10.20.0.20", dst_port=445)
    relayed = theft(flows, up=10**9, dst_ip="10.20.0.25", dst_port=25)
    table = pd.concat([flows, inside, relayed], ignore_index=True)
    cases = rank_cases(detector, table)
    last = cases.iloc[-1]
    assert (last["dst_ip"], last["direction"], last["alert"]) == (
        "10.20.0.20",
        "internal",
        False,
    )
    assert last["suspicion"] > cases["suspicion"].median()
    assert cases[cases["dst_ip"] == "10.20.0.25"]["alert"].all()
    assert cases.attrs["inside"] == 1
    by_flow = rank_flows(detector, table)
    assert by_flow["dst_ip"].iloc[-1] == "10.20.0.20"
    assert not score_flows(detector, table)["alert"].iloc[-2]
    assert not rank_cases(detector, table, fdr=0.5)["alert"].iloc[-1]


def test_a_smaller_budget_alerts_less(detector, flows):
    counts = [
        int(rank_cases(detector, flows, alerts_per_day=b)["alert"].sum())
        for b in (1, 5, 50)
    ]
    assert counts == sorted(counts)
    assert counts[0] >= 2


def test_a_false_discovery_rate_instead_of_a_budget(detector, flows):
    assert rank_cases(detector, flows, fdr=0.9)["alert"].sum() >= 2
    with pytest.raises(OptionError, match="give one"):
        rank_cases(detector, flows, fdr=0.1, alerts_per_day=3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"top": 0}, "top"),
        ({"alerts_per_day": 0}, "alerts per day"),
        ({"alerts_per_day": float("nan")}, "alerts per day"),
        ({"fdr": 1.5}, "false discovery rate"),
    ],
)
def test_bad_options_are_named(detector, flows, options, text):
    with pytest.raises(OptionError, match=text):
        rank_cases(detector, flows, **options)


def test_a_budget_that_the_block_cannot_support_is_said(detector, flows):
    with pytest.warns(CalibrationWarning, match="would have to cover 100 days"):
        rank_cases(detector, flows, alerts_per_day=0.01)


@pytest.mark.parametrize("ranker", [rank_flows, rank_cases, score_flows])
def test_no_rows_in_no_rows_out(detector, flows, ranker):
    empty, full = ranker(detector, flows.iloc[:0]), ranker(detector, flows)
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


@pytest.mark.parametrize("ranker", [rank_flows, rank_cases])
def test_top_cuts_and_changes_nothing_else(detector, flows, ranker):
    cut, whole = ranker(detector, flows, top=1), ranker(detector, flows)
    assert cut.attrs == whole.attrs
    assert cut.attrs["total"] == len(whole)
    assert cut.attrs["alerted"] == whole["alert"].sum()
    pd.testing.assert_frame_equal(
        ranker(detector, flows, top=7), ranker(detector, flows).iloc[:7]
    )


def test_what_could_not_be_judged_is_said(detector, flows):
    scores = score_flows(detector, flows)
    tls = flows["src_handshake"] == "tls"
    assert (scores.loc[tls, "not_visible"] == "payload inside tls, process").all()
    bare = office(30, payload=False)
    scores = score_flows(detector, bare)
    assert set(scores["capability"]) == {"packets"}
    assert set(scores["not_visible"]) == {"payload, application, process"}


def test_cases_have_the_same_name_in_every_run(detector, flows):
    a = rank_cases(detector, flows)
    b = rank_cases(detector, flows.iloc[300:])
    shared = a.merge(b, on=["local_ip", "place", "src_ip", "dst_ip", "protocol"])
    shared = shared[shared["dst_port_x"] == shared["dst_port_y"]]
    assert len(shared) > 50
    assert (shared["case_x"] == shared["case_y"]).all()


def test_a_case_over_changing_ports_has_no_port(detector):
    normal = office(100, seed=1, first_day="2026-03-09")
    data = pd.concat(
        [
            theft(normal, up=9000, dst_port=p).assign(app="FTP_DATA")
            for p in (4001, 4002)
        ]
    )
    ranking = rank_cases(detector, data)
    assert len(ranking) == 1
    assert pd.isna(ranking["dst_port"].iloc[0])
