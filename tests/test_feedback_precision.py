"""Precision over time: counted as it should be, and honest about what it is of."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ranked_cases import listed, ranked, unsynced

from exfilml import Feedback
from exfilml.exceptions import FeedbackError

BY = {"reason": "looked at", "analyst": "kim"}


@pytest.fixture(autouse=True, scope="module")
def _unsynced():
    with unsynced():
        yield


@pytest.fixture
def store(tmp_path):
    return Feedback(tmp_path / "store")


@pytest.fixture
def cases():
    """Cases of four weeks, eight of them alerts."""
    return ranked(16, days=28.0).assign(alert=[True] * 8 + [False] * 8)


def wilson(k, n, z=1.6448536269514722):
    """Wilson's interval as his paper has it, computed here independently."""
    middle = (k / n + z * z / (2 * n)) / (1 + z * z / n)
    half = (
        z / (1 + z * z / n) * math.sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n))
    )
    return middle - half, middle + half


@settings(
    max_examples=7,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.sampled_from(["true", "false", None]), max_size=16))
def test_weeks_add_up_to_what_plain_python_counts(tmp_path_factory, cases, verdicts):
    store = Feedback(tmp_path_factory.mktemp("p") / "store")
    store.path.touch()
    store.judge_each(cases, listed(cases, verdicts), analyst="kim")
    found = store.precision(cases)
    weeks: dict[str, list[int]] = {}
    for case, verdict in zip(
        cases.itertuples(), [*verdicts, *[None] * 16], strict=False
    ):
        if case.alert:
            year, week, _ = case.first_seen.isocalendar()
            counts = weeks.setdefault(f"{year}-W{week:02}", [0, 0, 0])
            counts[0] += 1
            counts[1] += verdict is not None
            counts[2] += verdict == "true"
    assert found.table.index.tolist() == sorted(weeks)
    for name, (alerts, judged, true) in weeks.items():
        row = found.table.loc[name]
        assert (row["alerts"], row["judged"], row["true"]) == (alerts, judged, true)
        assert row["false"] == judged - true
        assert row["judged_share"] == judged / alerts
        assert row["least"] == true / alerts
        assert row["most"] == (true + alerts - judged) / alerts
        if judged:
            low, high = wilson(true, judged)
            np.testing.assert_allclose(
                row[["precision", "low", "high"]].astype(float),
                [true / judged, low, high],
                atol=1e-12,
            )
            assert row["low"] <= row["precision"] <= row["high"]
        else:
            assert row[["precision", "low", "high"]].isna().all()
    judged = sum(n for _, n, _ in weeks.values())
    assert found.total["judged"] == judged
    assert found.total["alerts"] == 8
    quiet = sum(v is not None for v in verdicts[8:])
    assert any(f"{quiet} judgements of cases without" in n for n in found.notes) == (
        quiet > 0
    )


def test_a_case_that_comes_back_is_another_alert(store, cases):
    """It is judged by its time; judging the same alert again corrects it."""
    case = cases["case"][0]
    later = cases.assign(first_seen=cases["first_seen"] + pd.Timedelta("70D"))
    store.judge(cases, case, "false", **BY)
    store.judge(later, case, "true", **BY)
    assert store.precision().total["judged"] == 2
    assert store.precision().total["true"] == 1
    store.judge(later, case, "false", **BY)
    assert store.precision().total["judged"] == 2
    assert store.precision().total["true"] == 0
    store.withdraw(case, **BY)
    assert store.precision().total["judged"] == 0


def test_it_says_what_it_is_of(store, cases):
    store.judge(cases, cases["case"].tolist()[:3], "true", **BY)
    text = "\n".join(store.precision(cases.iloc[1:]).lines())
    assert "precision 1.00 (3 true of 3 judged; 90 % interval 0.53 to 1.00)" in text
    assert "not the precision of all alerts (verification bias)" in text
    assert "29% of 7 alerts of the cases given were judged" in text
    assert "lies between 0.29 and 1.00" in text
    assert "1 judged alerts are not among the cases given" in text
    assert "alerts of the cases" not in "\n".join(store.precision().lines())


def test_alerts_of_which_nothing_is_known_are_counted_apart(store, cases):
    store.judge(cases.drop(columns="alert"), cases["case"][0], "true", **BY)
    found = store.precision()
    assert len(found.table) == 0
    assert found.lines()[0] == "no alert was judged: no precision"
    assert "1 judgements of cases of which it is not known" in found.notes[0]


def test_alerts_without_a_time_are_of_no_week(store, cases):
    cases.loc[0, "first_seen"] = pd.NaT
    store.judge(cases, cases["case"].tolist()[:2], "true", **BY)
    found = store.precision(cases)
    assert found.table.loc["unknown", "judged"] == 1
    assert found.table.loc["unknown", "judged_share"] == 1.0
    assert found.table["judged"].sum() == found.total["judged"] == 2
    assert json.dumps(found.to_dict()).count('"judged": 2,') == 1


def test_without_judgements_there_is_a_table_without_rows(store, cases):
    store.path.touch()
    assert len(store.precision().table) == 0
    assert store.precision(cases.iloc[:0]).to_dict()["weeks"] == []
    assert (store.precision(cases).table["judged"] == 0).all()
    with pytest.raises(FeedbackError, match="first_seen missing"):
        store.precision(cases.drop(columns="first_seen"))


def test_it_is_drawn(store, cases):
    from matplotlib.figure import Figure

    store.judge(cases, cases["case"].tolist()[:5], "true", **BY)
    for given_cases in (None, cases):
        found = store.precision(given_cases)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ax = found.plot(Figure().subplots())
        assert ax.get_ylabel() == "precision of judged alerts"
        labels = [t.get_text() for t in ax.get_xticklabels()]
        assert labels == found.table.index.tolist()
        assert ("share of alerts judged" in str(ax.get_legend_handles_labels()[1])) == (
            given_cases is not None
        )
    store.path.unlink()
    store.path.touch()
    assert store.precision().plot(Figure().subplots()) is not None
