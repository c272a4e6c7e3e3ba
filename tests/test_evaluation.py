"""Evaluation: honest figures, and labels that do not fit are named."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from sites import office, theft
from sklearn.metrics import average_precision_score

from exfilml import Detector, Policy, evaluate, rank_cases
from exfilml.evaluation import CUTS, Truth, measure, measure_lead
from exfilml.exceptions import LabelsError, OptionError
from exfilml.schema import label_rows
from exfilml.terminal import evaluation_text


@pytest.fixture(scope="module")
def detector():
    return Detector(random_state=0, n_estimators=50).fit(office(1500))


@pytest.fixture(scope="module")
def flows():
    normal = office(600, seed=1, days=2, first_day="2026-03-09")
    drip = pd.concat(
        [theft(normal, up=60_000, dst_port=4444, dst_ip="203.0.113.7")] * 30
    )
    drip["start"] += pd.to_timedelta(np.arange(30), unit="min")
    return pd.concat([normal, theft(normal), drip], ignore_index=True)


def label(**change):
    row = {
        "src_ip": "10.20.0.12",
        "src_port": pd.NA,
        "dst_ip": "203.0.113.9",
        "dst_port": 8443,
        "protocol": 6,
        "start": pd.NaT,
        "end": pd.NaT,
        "label": "exfil",
        "scenario": "burst",
    }
    return row | change


def table(*rows):
    types = dict.fromkeys(("src_port", "dst_port", "protocol"), "Int64")
    types |= dict.fromkeys(("src_ip", "dst_ip", "label", "scenario"), "str")
    made = pd.DataFrame(rows, columns=list(label())).astype(types)
    for name in ("start", "end"):
        made[name] = pd.to_datetime(made[name], utc=True).astype("datetime64[us, UTC]")
    return made


@pytest.fixture(scope="module")
def labels():
    return table(label(), label(dst_ip="203.0.113.7", dst_port=4444, scenario="drip"))


# --- measuring -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 15), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_average_precision_is_scikit_learns_without_ties(n_true, n_false, seed):
    rng = np.random.default_rng(seed)
    score = rng.permutation(n_true + n_false).astype(float)
    truth = np.arange(n_true + n_false) < n_true
    found = measure(score, truth)
    expected = average_precision_score(truth, score)
    assert found["average_precision"] == pytest.approx(expected)
    for k in CUTS:
        first = truth[np.argsort(-score)][:k].sum()
        assert found[f"precision_at_{k}"] == first / k
        assert found[f"recall_at_{k}"] == first / n_true
    assert 0 <= found["low"] <= found["high"] <= 1


def test_ties_count_against_the_score():
    found = measure(np.ones(10), np.arange(10) == 3)
    assert found["average_precision"] == pytest.approx(0.1)
    assert found["recall_at_5"] == 0


def test_intervals_hold_the_figure_of_other_draws_of_the_same_kind():
    """The true figure of a known mixture lies inside in about nine of ten draws."""
    rng = np.random.default_rng(0)

    def draw(n):
        truth = np.arange(30 * n) < 3 * n
        return rng.normal(size=30 * n) + 2.0 * truth, truth

    exact = average_precision_score(*reversed(draw(20_000)))
    held = [
        found["low"] <= exact <= found["high"]
        for found in (measure(*draw(10), seed=i) for i in range(60))
    ]
    assert np.mean(held) >= 0.75


@st.composite
def two_scores(draw):
    """Two scores of the same rows, and which rows are true."""
    n_true, n_false = draw(st.integers(1, 8)), draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = np.arange(n_true + n_false) < n_true
    # Few values, so that there are ties.
    ours, theirs = rng.integers(0, 12, size=(2, len(truth))).astype(float)
    return ours, theirs, truth


@settings(max_examples=10, deadline=None)
@given(two_scores())
def test_a_lead_is_the_difference_and_changes_its_sign_with_the_sides(drawn):
    ours, theirs, truth = drawn
    here, there = measure_lead(ours, theirs, truth), measure_lead(theirs, ours, truth)
    a, b = (measure(s, truth)["average_precision"] for s in (ours, theirs))
    assert here["lead"] == pytest.approx(a - b)
    assert here["lead"] == -there["lead"]
    assert here["low"] == pytest.approx(-there["high"])
    assert here["low"] <= here["high"]


@settings(max_examples=10, deadline=None)
@given(two_scores())
def test_a_score_has_no_lead_over_one_that_ranks_alike(drawn):
    ours, _, truth = drawn
    same = measure_lead(ours, 3.0 * ours - 7.0, truth)
    assert same == {"lead": 0.0, "low": 0.0, "high": 0.0}


def test_a_lead_that_every_resample_shows_excludes_0():
    truth = np.arange(60) < 10
    by = measure_lead(truth.astype(float), -truth.astype(float), truth)
    assert 0 < by["low"] <= by["lead"]


def test_pairing_finds_a_small_lead_that_is_there_in_each_scenario():
    """Two scores that vary alike differ by less than either varies."""
    rng = np.random.default_rng(0)
    truth = np.arange(600) < 40
    theirs = rng.normal(size=600) + 1.5 * truth
    ours = theirs + 0.3 * truth
    by, alone = measure_lead(ours, theirs, truth), measure(ours, truth)
    assert by["low"] > 0
    assert by["high"] - by["low"] < (alone["high"] - alone["low"]) / 2


def test_members_of_a_scenario_are_drawn_together():
    """Ten cases of one scenario are one observation, not ten."""
    rng = np.random.default_rng(0)
    truth = np.arange(300) < 40
    good = np.repeat([True, False], 20)
    ours, theirs = rng.normal(size=(2, 300))
    ours[:40] += 4.0 * good
    theirs[:40] += 4.0 * ~good
    group = np.where(truth, np.arange(300) // 10, -1)
    alone, whole = (measure_lead(ours, theirs, truth, group=g) for g in (None, group))
    assert whole["lead"] == alone["lead"]
    assert whole["high"] - whole["low"] > 1.5 * (alone["high"] - alone["low"])


# --- a detector -----------------------------------------------------------------------


def test_an_evaluation_says_what_the_ranking_says(detector, flows, labels):
    found = evaluate(detector, flows, labels)
    cases = rank_cases(detector, flows)
    truth = cases["dst_port"].isin([8443, 4444]).to_numpy(dtype=bool)
    expected = average_precision_score(truth, cases["suspicion"])
    assert found.cases["average_precision"] == pytest.approx(expected)
    assert found.alerts == cases["alert"].sum()
    assert found.false_alarms == (cases["alert"] & ~truth).sum()
    assert (found.scenarios_found, found.scenarios) == (2, 2)
    assert found.n_normal == len(cases) - 2
    rates = found.false_alarms / found.n_normal, found.false_alarms / found.days / 10
    assert found.false_alarms_per_1000_cases == pytest.approx(1000 * rates[0])
    per_day = found.false_alarms_per_day_per_1000_hosts
    assert per_day == pytest.approx(1000 * rates[1])
    ranks = cases.set_index("dst_port")["rank"]
    by_scenario = found.table.set_index("scenario")["rank"]
    assert by_scenario["burst"] == ranks[8443]
    assert by_scenario["drip"] == ranks[4444]


def test_a_drip_is_found_before_all_of_it_is_gone(detector, flows, labels):
    found = evaluate(detector, flows, labels).table.set_index("scenario")
    assert found.loc["burst", "bytes_before"] == found.loc["burst", "up_bytes"]
    drip = found.loc["drip"]
    assert 60_000 <= drip["bytes_before"] < drip["up_bytes"] == 30 * 60_000


def test_other_labels_count_neither_way(detector, flows, labels):
    host = flows["src_ip"] == "10.20.0.15"
    other = table(label(src_ip="10.20.0.15", dst_port=443, label="c2", dst_ip=None))
    found = evaluate(detector, flows, pd.concat([other, labels], ignore_index=True))
    plain = evaluate(detector, flows, labels)
    cases = rank_cases(detector, flows[host & (flows["dst_port"] == 443)])
    assert plain.n_cases - found.n_cases == len(cases)
    assert any("neither" in note and "c2" in note for note in found.notes)


def test_all_of_it_is_json(detector, flows, labels):
    found = evaluate(detector, flows, labels)
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["cases"]["average_precision"] == found.cases["average_precision"]
    assert [row["scenario"] for row in again["table"]] == list(found.table["scenario"])


def test_the_plot_takes_and_returns_axes(detector, flows, labels):
    ax = Figure().subplots()
    assert evaluate(detector, flows, labels).plot(ax) is ax
    assert ax.get_xlabel() == "recall over cases"


def test_steps_are_told(detector, flows, labels):
    steps = []
    evaluate(detector, flows, labels, progress=steps.append)
    assert steps[0] == "scoring flows"
    assert len(steps) == 4


# --- under a policy -------------------------------------------------------------------


def approving(most="12 MB", network="203.0.113.9"):
    approval = {
        "network": network,
        "payload": "opaque",
        "max_upload_per_day": most,
        "reason": "test upload",
        "owner": "lab",
        "expires": dt.date(2027, 1, 1),
    }
    return Policy.parse({"resolvers": "10.20.0.53", "approve": [approval]})


def test_under_a_policy_an_evaluation_says_what_the_ranking_says(
    detector, flows, labels
):
    found = evaluate(detector, flows, labels, policy=approving())
    cases = rank_cases(detector, flows, policy=approving())
    truth = cases["dst_port"].isin([8443, 4444]).to_numpy(dtype=bool)
    # Cases come in their order: approved ones last.
    expected = average_precision_score(truth, -cases["rank"].to_numpy())
    assert found.cases["average_precision"] == pytest.approx(expected)
    assert found.alerts == cases["alert"].sum()
    assert found.false_alarms == (cases["alert"] & ~truth).sum()
    assert found.suppressed == cases.attrs["suppressed"]
    assert found.policy == cases.attrs["policy"]
    assert set(found.policy["broken"]) == {"DNS"}
    ranks = cases.set_index("dst_port")["rank"]
    by_scenario = found.table.set_index("scenario")["rank"]
    assert by_scenario["burst"] == ranks[8443] == len(cases)
    assert by_scenario["drip"] == ranks[4444]


def test_a_theft_that_an_approval_hides_is_named_as_one_that_is_missed(
    detector, flows, labels
):
    plain = evaluate(detector, flows, labels)
    found = evaluate(detector, flows, labels, policy=approving())
    assert found.scenarios_found == plain.scenarios_found - 1 == 1
    assert found.alerts_true == plain.alerts_true - 1
    assert (found.suppressed, found.suppressed_true) == (1, 1)
    row = found.table.set_index("scenario").loc["burst"]
    assert not row["alert"]
    assert row["approved"] == "approved: test upload (lab, until 2027-01-01)"
    assert np.isnan(row["bytes_before"])
    said = "hidden by an approval: 1 of 2 scenarios: burst (approved: test upload"
    assert any(line.startswith(said) for line in found.lines())
    assert not any(line.startswith("missed") for line in found.lines())
    (shown,) = (x for x in evaluation_text(found).splitlines() if " burst  " in x)
    assert "APPROVED" in shown
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["policy"]["approved"] == again["suppressed_true"] == 1


def test_a_theft_that_is_missed_is_named(detector, flows, labels):
    small = flows.assign(
        label=None,
        src_concealed=flows["src_concealed"] & (flows["dst_port"] != 443),
    )
    web = flows.index[flows["dst_port"] == 443][0]
    small.loc[web, ["src_ip", "dst_ip", "dst_port"]] = ["10.20.0.12", "198.18.0.1", 443]
    quiet = label(dst_ip="198.18.0.1", dst_port=443, scenario="quiet")
    found = evaluate(
        detector, small, pd.concat([labels, table(quiet)], ignore_index=True)
    )
    assert not found.table.set_index("scenario").loc["quiet", "alert"]
    assert "missed: 1 of 3 scenarios: quiet" in found.lines()
    (shown,) = (x for x in evaluation_text(found).splitlines() if " quiet  " in x)
    assert "missed" in shown


def test_what_an_approval_lets_pass_is_gone_before_it_re_arms(detector, flows, labels):
    """1.8 MB in 30 pieces of 60 kB, of which a day may see 600 kB."""
    policy = approving("600 kB", "203.0.113.7")
    plain = evaluate(detector, flows, labels).table.set_index("scenario")
    found = evaluate(detector, flows, labels, policy=policy)
    assert found.policy["changes"] == {"upload": 1}
    drip = found.table.set_index("scenario").loc["drip"]
    assert drip["alert"]
    assert drip["approved"] == ""
    assert plain.loc["drip", "bytes_before"] < 600_000
    assert drip["bytes_before"] == 660_000


def test_an_upload_elsewhere_that_re_arms_an_approval_counts(detector, flows, labels):
    """The ceiling is of all that the approval names, whatever the case."""
    policy = approving("5.5 MB", "203.0.113.0/24")
    found = evaluate(detector, flows, labels, policy=policy)
    assert found.policy["rearmed"] == 2
    assert found.table.loc[found.table["label"] == "exfil", "alert"].all()
    assert (found.table["bytes_before"] > 0).all()


# --- labels that do not fit --------------------------------------------------------------


def test_a_label_without_a_flow_is_named(detector, flows, labels):
    lost = table(label(dst_port=9, scenario="nowhere"))
    found = evaluate(detector, flows, pd.concat([labels, lost], ignore_index=True))
    assert "1 of 3 label rows match no flow (nowhere)" in found.notes


def test_clocks_that_differ_are_named(detector, flows, labels):
    start = flows["start"].iloc[600]
    late = start + pd.Timedelta("1h")
    skewed = table(label(start=late, end=late + pd.Timedelta("5s"), scenario="skewed"))
    found = evaluate(
        detector, flows, pd.concat([labels.iloc[1:], skewed], ignore_index=True)
    )
    assert any(
        "start -3,600 s from" in note and "clocks" in note for note in found.notes
    )


def test_rows_that_later_ones_override_are_counted(detector, flows, labels):
    found = evaluate(detector, flows, pd.concat([labels, labels], ignore_index=True))
    assert found.notes == ("2 label rows are overridden by later ones",)


def test_labels_of_another_name_are_shown(detector, flows, labels):
    with pytest.raises(LabelsError, match=r"2 label rows \(EXFIL\), 31 of 631"):
        evaluate(detector, flows, labels.assign(label="EXFIL"))


def test_cases_that_count_neither_way_leave_nothing_to_tell_from(
    detector, flows, labels
):
    rest = [
        label(src_ip=None, dst_ip=None, dst_port=pd.NA, protocol=p, label="c2")
        for p in (6, 17)
    ]
    with pytest.raises(LabelsError, match="No case is left that is no theft"):
        evaluate(detector, flows, pd.concat([table(*rest), labels], ignore_index=True))


@pytest.mark.parametrize(
    ("labels", "text"), [(None, "got NoneType"), (pd.DataFrame(), "columns missing")]
)
def test_what_is_no_labels_table_is_refused(detector, flows, labels, text):
    with pytest.raises(LabelsError, match=text):
        evaluate(detector, flows, labels)


def test_a_label_of_several_cases_is_named(detector, flows, labels):
    wide = table(label(src_ip="10.20.0.14", dst_ip=None, dst_port=443, scenario="wide"))
    found = evaluate(detector, flows, pd.concat([labels, wide], ignore_index=True))
    assert any("several cases (wide; up to" in note for note in found.notes)


def test_nothing_to_find_is_an_error_that_says_what_matched(detector, flows):
    with pytest.raises(LabelsError, match=r"No flow is labelled 'exfil'.*0 of 631"):
        evaluate(detector, flows, table(label(dst_port=9)))


def test_nothing_to_tell_it_from_is_an_error(detector, flows, labels):
    with pytest.raises(LabelsError, match="No case is left"):
        evaluate(detector, flows.iloc[600:], labels)


def test_no_flows_are_an_error(detector, flows, labels):
    with pytest.raises(LabelsError, match="no flows"):
        evaluate(detector, flows.iloc[:0], labels)


def test_a_split_that_overlaps_the_baseline_is_refused(detector, labels):
    past = office(1500)
    with pytest.raises(OptionError, match="random split of one capture"):
        evaluate(detector, pd.concat([past, theft(past)], ignore_index=True), labels)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_label_rows_match_as_their_definition_says(data):
    flows = office(40, seed=3)
    rows = []
    for _ in range(data.draw(st.integers(0, 6))):
        flow = flows.iloc[data.draw(st.integers(0, 39))]
        ends = ("src_ip", "src_port", "dst_ip", "dst_port")
        turned = (*ends[2:], *ends[:2]) if data.draw(st.booleans()) else ends
        row = {e: flow[t] for e, t in zip(ends, turned, strict=True)}
        for end in ends:
            if data.draw(st.integers(0, 3)) == 0:
                row[end] = None
        off = pd.Timedelta(data.draw(st.integers(-3, 3)), unit="s")
        times = data.draw(
            st.sampled_from([(True, True), (False, True), (False, False)])
        )
        row["start"] = flow["start"] + off if times[0] else pd.NaT
        row["end"] = flow["start"] + pd.Timedelta("2s") if times[1] else pd.NaT
        rows.append(label(**row, protocol=flow["protocol"]))
    labels = table(*rows)
    expected = {}
    for at, row in enumerate(labels.to_dict("records")):
        for i, flow in enumerate(flows.to_dict("records")):
            inside = not (flow["start"] < row["start"] or flow["start"] > row["end"])
            for a, b in (("src", "dst"), ("dst", "src")):
                ends = all(
                    pd.isna(row[f"{there}_{part}"])
                    or row[f"{there}_{part}"] == flow[f"{here}_{part}"]
                    for here, there in (("src", a), ("dst", b))
                    for part in ("ip", "port")
                )
                if ends and inside and row["protocol"] == flow["protocol"]:
                    expected[i] = at
    found, matched = label_rows(flows, labels)
    assert dict(zip(found.tolist(), matched.tolist(), strict=True)) == expected


def test_the_worst_label_of_a_case_counts():
    flows = office(4)
    labels = table(
        *(
            label(
                src_ip=row.src_ip,
                dst_ip=row.dst_ip,
                dst_port=row.dst_port,
                src_port=row.src_port,
                protocol=row.protocol,
                label=what,
            )
            for row, what in zip(
                flows.itertuples(), ("hard-negative", "exfil", "c2", ""), strict=True
            )
        )
    )
    truth = Truth.of(flows, labels, np.array([0, 0, 1, 2]))
    assert truth.case_label.tolist() == ["exfil", "c2", ""]
    assert truth.judged.tolist() == [True, False, True]
