"""The order by feedback: bounded, reversible, shown, and no alert changes."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ranked_cases import listed, ranked, unsynced

from exfilml import Feedback, rerank
from exfilml.exceptions import FeedbackError, FeedbackWarning
from exfilml.feedback import _rerank
from exfilml.feedback._rerank import MOST_BITS, WEIGHTS

NOW = "2026-04-01"
BY = {"reason": "looked at", "analyst": "kim", "at": NOW}
N = 12
VERDICTS = st.lists(st.sampled_from(["true", "false", None]), min_size=N, max_size=N)
ANY = settings(
    max_examples=7,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True, scope="module")
def _unsynced():
    with unsynced():
        yield


def bits(cases, store, at=NOW):
    """Return the bits of each case, by its id."""
    found = rerank(cases, store, at=at)
    return found.set_index("case")["feedback_bits"].loc[cases["case"]].to_numpy()


@pytest.fixture
def said(tmp_path_factory):
    """Make a store of verdicts on the first cases."""

    def make(cases, verdicts):
        store = Feedback(tmp_path_factory.mktemp("said") / "store")
        store.path.touch()
        judgements = listed(cases, verdicts)
        store.judge_each(cases, judgements, analyst="kim", at=NOW)
        return store

    return make


# What the formula says


def test_what_one_verdict_is_worth(said):
    """The sums of the docstring's table: t and f of each kind of similarity."""
    base = ranked(1)
    rows = {
        "same": {},
        "other host": {"local_ip": "10.9.9.9"},
        "other service": {"dst_port": 9999},
        "other service and host": {"dst_port": 9999, "local_ip": "10.9.9.9"},
        "other place": {"place": "elsewhere.example"},
        "nothing": {"place": "elsewhere.example", "local_ip": "10.9.9.9"},
    }
    cases = pd.concat([base.assign(**change) for change in rows.values()])
    cases = cases.assign(
        case=[f"c{i}" for i in range(len(rows))], rank=range(len(rows))
    )
    false = bits(cases, said(cases, ["false"]))
    weights = [1.0, 0.5, 0.25, 0.125, 0.0, 0.0]
    np.testing.assert_allclose(false, [-math.log2(1 + w) for w in weights])
    true = bits(cases, said(cases, ["true"]))
    weights = [1.0, 0.5, 0.5, 0.125, 0.25, 0.0]
    np.testing.assert_allclose(true, [math.log2(1 + w) for w in weights])


def test_weights_of_a_case_on_itself_add_up_to_one():
    for verdict in (0, 1):
        assert sum(worth[verdict] for worth in WEIGHTS.values()) == 1.0


@pytest.mark.parametrize(("verdict", "most"), [("false", -3.0), ("true", 3.0)])
def test_many_verdicts_move_no_case_by_more_than_three_bits(said, verdict, most):
    cases = pd.concat([ranked(1)] * 40, ignore_index=True).assign(
        case=[f"c{i}" for i in range(40)],
        local_ip=[f"10.0.1.{i}" for i in range(40)],
        rank=range(40),
    )
    assert set(bits(cases, said(cases, [verdict] * 40))) == {most}


def test_a_verdict_fades_by_half_in_thirty_days(said):
    cases = ranked(1)
    store = said(cases, ["false"])
    later = pd.Timestamp(NOW) + pd.Timedelta("30D")
    np.testing.assert_allclose(bits(cases, store, later), [-math.log2(1.5)])


def test_what_was_judged_later_is_not_known_yet(said):
    cases = ranked(1)
    store = said(cases, ["false"])
    assert bits(cases, store, "2026-03-31").tolist() == [0.0]


def test_reasons_say_how_many_and_what_is_similar(said):
    cases = ranked(27)
    ends = ["place", "protocol", "dst_port"]
    there = (cases[ends] == cases.loc[0, ends]).all(axis=1)
    verdicts = ["false" if same and i else None for i, same in enumerate(there)]
    found = rerank(cases, said(cases, verdicts), at=NOW)
    assert there.sum() == 3
    assert (
        found.loc[0, "feedback_reason"].split("; ")[0]
        == "2 of 2 similar cases judged false (same place and service)"
    )
    untouched = found["feedback_bits"] == 0.0
    assert (found.loc[untouched, "feedback_reason"] == "").all()
    assert (found.loc[~untouched, "feedback_reason"] != "").all()


def test_a_mixed_record_tells_both(said):
    cases = pd.concat([ranked(1)] * 3).assign(
        case=["a", "b", "c"],
        local_ip=["10.0.0.1", "10.0.0.2", "10.0.0.3"],
        rank=range(3),
    )
    found = rerank(cases, said(cases, [None, "true", "false"]), at=NOW)
    reasons = found.set_index("case")["feedback_reason"]
    assert reasons["a"] == (
        "1 of 2 similar cases judged false, 1 true (same place and service)"
    )
    assert reasons["b"] == (
        "1 of 1 similar case judged true (same host, place and service); "
        "1 of 1 similar case judged false (same place and service)"
    )


# What holds, whatever was judged


@ANY
@given(VERDICTS, st.integers(0, 5))
def test_bounded_and_nothing_but_the_order_changes(said, verdicts, seed):
    cases = ranked(N, seed=seed)
    before = cases.copy(deep=True)
    store = said(cases, verdicts)
    found = rerank(cases, store, at=NOW)
    pd.testing.assert_frame_equal(cases, before)
    assert found["feedback_bits"].abs().max() <= MOST_BITS
    new = ["feedback_bits", "feedback_reason"]
    assert list(found.columns) == [*cases.columns, *new]
    pd.testing.assert_frame_equal(found.drop(columns=new).sort_index(), cases)
    moved = found["suspicion"] + found["feedback_bits"]
    assert moved.is_monotonic_decreasing
    # Sorting by rank brings the old order back, and doing it twice changes nothing.
    assert found.sort_values("rank").index.equals(cases.index)
    pd.testing.assert_frame_equal(rerank(found, store, at=NOW), found)


@ANY
@given(VERDICTS, st.integers(0, N - 1), st.sampled_from(["true", None]))
def test_monotone_in_verdicts(said, verdicts, at, better):
    """From false to none or to true, from none to true: no case is lowered."""
    cases = ranked(N)
    worse = [*verdicts[:at], "false" if better is None else None, *verdicts[at + 1 :]]
    raised = [*verdicts[:at], better, *verdicts[at + 1 :]]
    low, high = (bits(cases, said(cases, v)) for v in (worse, raised))
    assert (high >= low).all()
    flipped = ["true" if v == "false" else v for v in verdicts]
    low, high = (bits(cases, said(cases, v)) for v in (verdicts, flipped))
    assert (high >= low - 1e-12).all()


@ANY
@given(VERDICTS, st.permutations(range(N)))
def test_row_order_changes_nothing(said, verdicts, order):
    cases = ranked(N)
    store = said(cases, verdicts)
    expected = rerank(cases, store, at=NOW)
    found = rerank(cases.iloc[list(order)], store, at=NOW)
    pd.testing.assert_frame_equal(found, expected)


@ANY
@given(VERDICTS, st.integers(0, N - 1))
def test_withdrawing_brings_back_what_was_before(said, verdicts, at):
    cases = ranked(N)
    verdicts[at] = None
    store = said(cases, verdicts)
    expected = rerank(cases, store, at=NOW)
    store.judge(cases, cases["case"][at], "false", **BY)
    store.withdraw(cases["case"][at], **BY)
    pd.testing.assert_frame_equal(rerank(cases, store, at=NOW), expected)


@ANY
@given(st.integers(0, N - 1), st.integers(0, 9))
def test_one_false_verdict_buries_no_case_of_another_host(said, at, seed):
    """It falls below no case that was more than log2(1.5) bits below it."""
    cases = ranked(N, seed=seed)
    judged = cases.loc[at, "local_ip"]
    found = rerank(cases, said(cases, [None] * at + ["false"]), at=NOW)
    place = pd.Series(range(N), index=found["case"])
    limit = math.log2(1.5) + 1e-12
    for one in cases[cases["local_ip"] != judged].itertuples():
        for two in cases.itertuples():
            if one.suspicion > two.suspicion + limit:
                assert place[one.case] < place[two.case]


@ANY
@given(VERDICTS, st.integers(1, N))
def test_no_alert_leaves_the_first_rows(said, verdicts, top):
    cases = ranked(N)
    store = said(cases, verdicts)
    whole = rerank(cases, store, at=NOW)
    cut = rerank(cases, store, at=NOW, top=top)
    assert set(cut["case"]) >= set(whole["case"].head(top))
    assert set(cut["case"]) >= set(cases.head(top).query("alert")["case"])
    assert len(cut) <= 2 * top
    pd.testing.assert_frame_equal(cut, whole[whole["case"].isin(cut["case"])])


def test_without_judgements_the_order_is_as_it_was(said):
    """Also of a ranking whose last cases were approved or stay inside the site."""
    cases = ranked(N)
    cases.loc[N - 4 :, "suspicion"] = [30.0, 25.0, 12.0, 12.5]
    cases.loc[N - 4 :, "reasons"] = "approved: backup"
    cases.attrs["total"] = 99
    found = rerank(cases, said(cases, []), at=NOW)
    pd.testing.assert_frame_equal(found[cases.columns], cases)
    assert found.attrs == cases.attrs
    assert (found["feedback_bits"] == 0.0).all()


def test_an_approved_case_that_was_judged_true_rises_above_none_that_is_not(said):
    cases = ranked(N).assign(suspicion=np.linspace(3.0, 1.0, N))
    cases["local_ip"] = [f"10.0.0.{i}" for i in range(N)]
    cases["place"] = [f"p{i}.example" for i in range(N)]
    cases.loc[N - 2 :, "reasons"] = "approved: backup"
    store = said(cases, [None] * (N - 1) + ["true"])
    found = rerank(cases, store, at=NOW)
    assert found.index.tolist() == [*range(N - 2), N - 1, N - 2]
    assert found["feedback_bits"].iloc[-2] == 1.0


@ANY
@given(VERDICTS)
def test_what_came_last_stays_last(said, verdicts):
    """A policy put the approved ones there, whatever their suspicion."""
    cases = ranked(N)
    cases.loc[N - 4 :, "reasons"] = "approved: backup"
    cases.loc[N - 4 :, "suspicion"] = [0.4, 0.3, 0.2, 0.1]
    found = rerank(cases, said(cases, verdicts), at=NOW)
    assert set(found.index[-4:]) == set(cases.index[-4:])


# Tables of all kinds


def test_no_cases_in_no_cases_out(said):
    cases = ranked(3)
    found = rerank(cases.iloc[:0], said(cases, ["true"]), at=NOW)
    assert len(found) == 0
    assert list(found.columns)[-2:] == ["feedback_bits", "feedback_reason"]
    assert found["feedback_bits"].dtype == float


def test_missing_ends_are_like_nothing(said):
    cases = pd.concat([ranked(1)] * 2).assign(case=["a", "b"], rank=[1, 2])
    cases["place"] = pd.array([None, None], dtype="str")
    cases["local_ip"] = pd.array([None, None], dtype="str")
    cases["dst_port"] = pd.array([None, None], dtype="Int64")
    cases["suspicion"] = np.nan
    assert bits(cases, said(cases, ["false"])).tolist() == [0.0, 0.0]


def test_changing_ports_are_a_service_of_their_own(said):
    cases = pd.concat([ranked(1)] * 3).assign(
        case=["a", "b", "c"],
        rank=[1, 2, 3],
        local_ip=["10.0.0.1", "10.0.0.2", "10.0.0.3"],
    )
    cases["dst_port"] = pd.array([None, None, 443], dtype="Int64")
    found = bits(cases, said(cases, ["false"]))
    np.testing.assert_allclose(found, [-1.0, -math.log2(1.5), -math.log2(1.125)])


def test_a_clock_ahead_is_told_and_counts_as_now(said, monkeypatch):
    cases = ranked(1)
    store = said(cases, ["false"])
    early = pd.Timestamp("2026-03-01", tz="UTC")
    monkeypatch.setattr(_rerank, "moment_of", lambda _: early)
    with pytest.warns(FeedbackWarning, match="1 of 1 judgements lie ahead"):
        found = rerank(cases, store)
    assert found["feedback_bits"].tolist() == [-1.0]


@pytest.mark.parametrize("top", [0, -1, True, "3"])
def test_options_are_checked(said, top):
    cases = ranked(2)
    with pytest.raises(FeedbackError, match="expected a number of rows"):
        rerank(cases, said(cases, []), top=top)
    with pytest.raises(FeedbackError, match="dst_port missing"):
        rerank(cases.drop(columns="dst_port"), said(cases, []))
    with pytest.raises(FeedbackError, match="no such feedback store"):
        rerank(cases, "/nowhere/at/all")
