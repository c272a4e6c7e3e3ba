"""Explanations: bits that add up, the ranking's reasons, a waterfall that is right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from pieces import Piece
from sites import office, theft

import exfilml
from exfilml.exceptions import FlowsError, OptionError
from exfilml.policy import Policy


@pytest.fixture(scope="module")
def detector():
    return exfilml.Detector(random_state=0, n_estimators=30).fit(office(1500))


@pytest.fixture(scope="module")
def today():
    normal = office(500, seed=1, days=2, first_day="2026-03-09")
    drip = pd.concat([theft(normal, up=30_000, dst_port=4444)] * 20)
    bare = office(60, seed=2, days=1, first_day="2026-03-09", payload=False)
    return pd.concat([normal, theft(normal), drip, bare], ignore_index=True)


@pytest.fixture(scope="module")
def ranking(detector, today):
    return exfilml.rank_flows(detector, today)


@pytest.fixture(scope="module")
def whole(detector, today, ranking):
    return exfilml.explain(detector, today, ranking.index)


def test_bits_add_up_to_the_rankings_suspicion(whole, ranking):
    """For every flow, with payload and without, by column and by family."""
    assert (ranking["capability"] != "payload").any()
    for table in (whole.table, whole.families):
        sums = table.groupby("number")["bits"].sum().to_numpy()
        np.testing.assert_allclose(sums, ranking["suspicion"], atol=1e-9)
    assert whole.flows.index.equals(ranking.index)
    for column in ("suspicion", "p_value", "alert", "case", "place"):
        assert whole.flows[column].tolist() == ranking[column].tolist()


def test_reasons_are_the_rankings(whole, ranking):
    assert whole.flows["reasons"].tolist() == ranking["reasons"].tolist()
    worst = whole.families[whole.families["number"] == 0]
    told = worst.loc[worst["reason"] != "", "reason"]
    assert set(told) == set(ranking["reasons"].iloc[0].split("; "))


def test_columns_are_those_of_the_detectors_split(detector, today, whole, ranking):
    """`Detector.explain` splits alike; here is one row for each column."""
    split = detector.explain(today).loc[ranking.index[:5]]
    for number in range(5):
        rows = whole.table[whole.table["number"] == number].set_index("feature")["bits"]
        theirs = split.iloc[number].droplevel("family").dropna()
        pd.testing.assert_series_equal(
            rows.sort_index(), theirs.sort_index(), check_names=False
        )
    assert whole.table["definition"].str.len().min() > 10
    silent = whole.table[~(whole.table["evidence"] > 0)]
    assert (silent["reason"] == "").all()


def test_the_most_suspicious_flow_is_explained_unasked(detector, today, ranking):
    found = exfilml.explain(detector, today)
    assert found.flows.index.tolist() == [ranking.index[0]]


def test_a_case_is_explained_by_its_worst_flow(detector, today):
    cases = exfilml.rank_cases(detector, today)
    drip = cases[cases["flows"] == 20].iloc[0]
    found = exfilml.explain(detector, today, case=drip["case"])
    (about,) = found.flows.to_dict("records")
    assert about["case"] == drip["case"]
    assert about["case_suspicion"] == drip["suspicion"]
    assert drip["reasons"] == f"20 flows; worst flow: {about['reasons']}"


def test_rules_of_a_policy_are_bits_of_their_own(detector, today):
    policy = Policy.parse({"resolvers": ["10.20.0.53"]})
    ruled = exfilml.rank_flows(detector, today, policy=policy)
    found = exfilml.explain(detector, today, ruled.index, policy=policy)
    sums = found.table.groupby("number")["bits"].sum()
    np.testing.assert_allclose(sums, ruled["suspicion"], atol=1e-9)
    assert found.flows["reasons"].tolist() == ruled["reasons"].tolist()
    broken = found.families[found.families["family"] == "policy"]
    assert 0 < len(broken) < len(ruled)
    assert broken["reason"].str.startswith("policy: ").all()
    assert (today.loc[broken["flow"], "dst_port"] == 53).all()
    Piece(found._repr_html_())


def test_a_state_is_left_as_it_is(detector, today):
    state = detector.new_state()
    exfilml.score_flows(detector, today.iloc[:100], state=state)
    before = state.span
    later = today.iloc[100:500]
    one = exfilml.explain(detector, later, later.index[:3], state=state)
    two = exfilml.explain(detector, later, later.index[:3], state=state)
    assert state.span == before
    pd.testing.assert_frame_equal(one.table, two.table)


def test_labels_may_repeat_and_be_text(detector, today):
    named = today.iloc[:60].set_axis([f"f{i // 2}" for i in range(60)])
    found = exfilml.explain(detector, named, "f3")
    assert found.flows.index.tolist() == ["f3", "f3"]
    sums = found.table.groupby("number")["bits"].sum()
    np.testing.assert_allclose(sums, found.flows["suspicion"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"rows": 10_000_000}, "1 of 1 are not in the index"),
        ({"rows": [0, "x\x1b"]}, "1 of 2 are not in the index"),
        ({"rows": []}, "got none"),
        ({"case": "nowhere"}, "no flow is of such a case"),
        ({"rows": 0, "case": "x"}, "give one"),
    ],
)
def test_what_is_not_there_is_named(detector, today, asked, said):
    with pytest.raises(OptionError, match=said):
        exfilml.explain(detector, today, **asked)


def test_no_flows_are_refused(detector, today):
    with pytest.raises(FlowsError, match="no flows to explain"):
        exfilml.explain(detector, today.iloc[:0])


def test_the_waterfall_reaches_the_suspicion(whole):
    ax = Figure().subplots()
    assert whole.plot(ax) is ax
    *steps, total = ax.patches
    assert total.get_width() == whole.flows["suspicion"].iloc[0]
    reached = 0.0
    for step in steps:
        assert step.get_x() == pytest.approx(reached)
        reached += step.get_width()
    assert reached == pytest.approx(total.get_width(), abs=0.06 * 8)
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names[0] == whole.families["family"].iloc[0]
    assert names[-1] == "suspicion"
    ax.figure.canvas.draw()


def test_any_of_the_flows_can_be_drawn(whole, ranking):
    for flow in (ranking.index[-1], ranking.index[30]):
        ax = whole.plot(Figure().subplots(), flow=flow)
        assert f"(flow {flow})" in ax.get_title()
        ax.figure.canvas.draw()
    with pytest.raises(OptionError, match="is not one of the flows"):
        whole.plot(flow="nothing")


def test_a_notebook_shows_the_waterfall_and_says_what_it_leaves_out(whole, ranking):
    page = Piece(whole._repr_html_())
    assert f"The first 10 of {len(ranking):,} flows are shown" in page.text
    for reason in ranking["reasons"].iloc[0].split("; "):
        assert reason in page.text
    assert page.text.count("suspicion") >= 10
    assert any("bits" in tip for tip in page.tips)
    assert len(repr(whole).splitlines()) == 11
