"""The playbook answered: each answer, and whom a case goes to, follow from evidence."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sites import office, theft

import exfilml
from exfilml.exceptions import OptionError
from exfilml.policy import Policy
from exfilml.ranking import CASE_COLUMNS
from exfilml.schema import validate_flows
from exfilml.triage.case import LEVELS, NO, NOT_VISIBLE, TABLE_COLUMNS, YES
from exfilml.triage.escalation import RULES, Situation, decide

POLICY = """
[[approve]]
network = "203.0.113.9"
payload = "opaque"
max_upload_per_day = "1 GB"
reason = "backup"
owner = "it"
expires = 2027-01-01
"""
ANSWERS = ("external_port", "encryption_signs", "volume_rise") + (
    "unexpected_transfer",
    "nonstandard_encryption",
    "threat_intelligence",
)


@pytest.fixture(scope="module")
def detector():
    return exfilml.Detector(random_state=0, n_estimators=50).fit(office(1500))


@pytest.fixture(scope="module")
def normal():
    return office(600, seed=1, days=2, first_day="2026-03-09")


@pytest.fixture(scope="module")
def flows(normal):
    return pd.concat([normal, theft(normal)], ignore_index=True)


@pytest.fixture(scope="module")
def triage(detector, flows):
    return exfilml.triage_cases(detector, flows)


def of_flow(triage, label):
    """Return the case that a flow belongs to."""
    return next(case for case in triage if label in case.flows.index)


def answers(case):
    return {a.name: a.answer for a in (*case.indicators, *case.questions)}


def test_a_theft_answers_yes_and_goes_to_t2(triage):
    case = of_flow(triage, 600)
    assert answers(case) == dict.fromkeys(ANSWERS, YES) | {
        "threat_intelligence": NOT_VISIBLE
    }
    assert case.decision.level == "T2"
    assert case.decision.rules[1].name == "opaque-to-new"
    assert [technique.id for technique in case.techniques] == ["T1048.001"]
    assert case.against == ()
    assert case.answer("encryption_signs").answer == YES
    with pytest.raises(KeyError):
        case.answer("nothing")


def test_what_a_handshake_explains_is_no_sign_and_stays_at_l1(detector, normal):
    tls = theft(normal).assign(
        dst_port=443, app="TLS", app_verified=True, src_handshake="tls"
    )
    found = exfilml.triage_cases(detector, pd.concat([normal, tls], ignore_index=True))
    case = of_flow(found, 600)
    assert answers(case)["encryption_signs"] == NO
    assert answers(case)["nonstandard_encryption"] == NO
    assert answers(case)["unexpected_transfer"] == YES
    assert case.decision.level == "L1"
    assert case.techniques[0].id == "T1048.002"
    assert "tls" in case.against[0].text


def test_without_payload_encryption_is_not_visible(normal):
    detector = exfilml.Detector(random_state=0, n_estimators=50).fit(
        office(1500, payload=False)
    )
    plain = office(600, seed=1, days=2, first_day="2026-03-09", payload=False)
    moved = theft(normal)[plain.columns]
    hidden = validate_flows(
        moved.assign(
            **{c: None for c in moved if c.startswith("src_") and c not in KEPT}
        )
    )
    found = exfilml.triage_cases(
        detector, pd.concat([plain, hidden], ignore_index=True)
    )
    case = of_flow(found, 600)
    told = answers(case)
    assert told["encryption_signs"] == NOT_VISIBLE
    assert told["nonstandard_encryption"] == NOT_VISIBLE
    assert told["unexpected_transfer"] == YES
    assert case.techniques[0].id == "T1048"
    assert case.decision.level == "L1"


KEPT = {"src_ip", "src_port", "src_bytes", "src_packets"}


def test_every_statement_names_flows_of_its_case(triage, flows):
    for case in triage:
        evidence = case.evidence
        assert set(evidence["about"]) >= set(ANSWERS)
        for labels in evidence["flows"]:
            assert set(labels) <= set(case.flows.index)
        assert case.row["up_bytes"] == case.flows["up_bytes"].sum()
        assert case.row["flows"] == len(case.flows)
        assert case.flows["start"].is_monotonic_increasing
        opaque = case.answer("encryption_signs").facts[0]
        if opaque.name == "payload.concealed":
            named = flows.loc[list(opaque.flows)]
            assert opaque.numbers["up_bytes"] == named["src_payload_bytes"].sum()
            assert opaque.numbers["concealed_flows"] == len(named)


def test_contributions_add_up_to_the_suspicion(triage):
    for case in triage:
        assert sum(case.contributions.values()) == pytest.approx(
            case.flows["suspicion"].max(), rel=1e-6
        )


def test_the_table_and_the_dictionary_hold_all_cases(triage):
    assert tuple(triage.table.columns) == TABLE_COLUMNS
    assert triage.table["case"].tolist() == [case.name for case in triage]
    assert triage["" + triage[0].name] is triage[0]
    with pytest.raises(KeyError):
        triage["none such"]
    told = json.loads(json.dumps(triage.to_dict(), allow_nan=False))
    assert told["format"] == "exfilml-triage-1"
    assert len(told["cases"]) == len(triage)
    assert set(CASE_COLUMNS) <= set(told["cases"][0])
    assert len(told["cases"][0]["flow_table"]) == told["cases"][0]["flows"]


def test_ranks_are_those_of_the_ranking_and_all_alerts_are_answered(detector, flows):
    ranking = exfilml.rank_cases(detector, flows)
    found = exfilml.triage_cases(detector, flows, top=1)
    wanted = ranking[(ranking["rank"] == 1) | ranking["alert"]]
    assert found.table["case"].tolist() == wanted["case"].tolist()
    assert found.table["rank"].tolist() == wanted["rank"].tolist()
    for column in CASE_COLUMNS:
        told = [case.row[column] for case in found]
        pd.testing.assert_series_equal(
            pd.Series(told).astype(object),
            wanted[column].reset_index(drop=True).astype(object),
            check_names=False,
        )


def test_order_and_labels_of_the_flows_change_nothing(detector, flows, triage):
    shuffled = flows.sample(frac=1.0, random_state=0)
    again = exfilml.triage_cases(detector, shuffled)
    assert [case.name for case in again] == [case.name for case in triage]
    for one, other in zip(triage, again, strict=True):
        assert one.decision == other.decision
        assert [a.answer for a in one.questions] == [a.answer for a in other.questions]
    twins = flows.set_axis(np.zeros(len(flows), dtype=np.int64))
    doubled = exfilml.triage_cases(detector, twins)
    assert [case.name for case in doubled] == [case.name for case in triage]


def test_a_case_and_a_triage_show_themselves_in_a_line(triage):
    case = of_flow(triage, 600)
    assert repr(case) == (
        f"<Case {case.name}: {case.row['local_ip']} to {case.row['place']}, T2>"
    )
    assert repr(triage).startswith(f"<Triage: {len(triage)} cases, 1 T2")


def test_no_flows_give_no_cases(detector, flows):
    found = exfilml.triage_cases(detector, flows.iloc[:0])
    assert len(found) == 0
    assert tuple(found.table.columns) == TABLE_COLUMNS
    json.dumps(found.to_dict(), allow_nan=False)


def test_impossible_options_are_refused(detector, flows):
    with pytest.raises(OptionError, match="top"):
        exfilml.triage_cases(detector, flows, top=0)


def test_an_indicator_makes_a_theft_an_incident(detector, flows, tmp_path):
    place = flows.loc[600, "dst_ip"]
    feed = tmp_path / "feed.csv"
    feed.write_text(
        f"indicator,confidence,description\n{place},90,known C2 server\n"
        "198.18.0.1,40,\n",
        encoding="utf-8",
    )
    intel = exfilml.read_intel(feed)
    found = exfilml.triage_cases(detector, flows, intel=intel, top=1)
    case = of_flow(found, 600)
    assert case.answer("threat_intelligence").answer == YES
    assert case.decision.level == "incident"
    assert case.techniques[0].id == "T1041"
    assert case.intel.index.tolist() == [600]
    met = [c for c in found if c.answer("threat_intelligence").answer == YES]
    assert len(met) > 1
    assert all(LEVELS.index(c.decision.level) >= LEVELS.index("L1") for c in met)
    assert not all(c.row["alert"] for c in met)


def test_criticality_moves_what_reached_l1(detector, flows, tmp_path):
    cmdb = tmp_path / "cmdb.csv"
    host = flows.loc[600, "src_ip"]
    cmdb.write_text(
        f"address,owner,criticality\n{host},Ada,critical\n", encoding="utf-8"
    )
    found = exfilml.triage_cases(detector, flows, assets=exfilml.read_assets(cmdb))
    case = of_flow(found, 600)
    assert case.asset["owner"] == "Ada"
    assert case.decision.level == "incident"
    other = next(c for c in found if c.row["local_ip"] != host)
    assert other.asset["known"] is False


def test_an_approval_closes_a_case(detector, flows, tmp_path):
    path = tmp_path / "office.toml"
    path.write_text(
        POLICY.replace("203.0.113.9", str(flows.loc[600, "dst_ip"])), encoding="utf-8"
    )
    found = exfilml.triage_cases(
        detector, flows, policy=Policy.read(path), top=len(flows)
    )
    case = of_flow(found, 600)
    assert case.decision.level == "close"
    assert case.against[0].name == "policy.approved"


def test_what_the_history_knows_argues_against(detector, flows, tmp_path):
    """Ten days of uploads by three hosts to the place make it a habit."""
    case = of_flow(exfilml.triage_cases(detector, flows), 600)
    days = pd.to_timedelta(np.repeat(np.arange(1, 13), 3), unit="D")
    once = flows.loc[[600] * len(days)].reset_index(drop=True)
    hosts = [f"10.20.0.{10 + i % 3}" for i in range(len(days))]
    past = validate_flows(once.assign(start=once["start"] - days, src_ip=hosts))
    history = exfilml.History.open(tmp_path / "history", create=True)
    history.add(past)
    history.add(flows)
    again = of_flow(exfilml.triage_cases(detector, flows, history=history), 600)
    told = {fact.name: fact for fact in again.against}
    assert told["history.place"].numbers["hosts"] == 3
    assert told["history.place"].numbers["days"] == 12
    assert told["history.place"].numbers["up_bytes"] == (
        len(days) * case.row["up_bytes"]
    )
    seen = again.history.set_index("by")
    assert seen.loc["place", "flows"] == len(days)
    # Such encryption is as surprising there as before: a habit does not excuse it.
    assert again.decision.level == case.decision.level


situations = st.builds(
    Situation,
    suspicion=st.floats(0, 60),
    threshold=st.none() | st.floats(0, 40),
    alert=st.booleans(),
    inside=st.booleans(),
    approved=st.booleans(),
    answers=st.fixed_dictionaries(
        {name: st.sampled_from([YES, NO, NOT_VISIBLE]) for name in ANSWERS}
    ),
    confidence=st.none() | st.floats(0, 100),
    habit=st.sampled_from(["", "41 hosts on 60 days"]),
    surprising_place=st.booleans(),
    criticality=st.none() | st.sampled_from(["low", "medium", "high", "critical"]),
)


@given(situations)
def test_every_decision_shows_the_rules_that_led_to_it(case):
    decision = decide(case)
    assert decision.level == decision.rules[-1].level
    assert decision.level in decision.text
    names = [rule.name for rule in RULES]
    at = [names.index(rule.name) for rule in decision.rules]
    assert at == sorted(at)
    assert all(rule.text for rule in decision.rules)


@given(situations)
def test_what_does_not_alert_and_meets_no_indicator_goes_to_nobody(case):
    if not case.alert and case.confidence is None:
        assert decide(case).level in {"close", "watch"}


@given(situations)
def test_without_odd_encryption_or_an_indicator_l1_is_the_most(case):
    """Unless a rule that is shown says that the host is critical."""
    odd = case.answers["nonstandard_encryption"] == YES
    if not odd and case.confidence is None:
        decision = decide(case)
        raised = any(rule.name == "critical-asset" for rule in decision.rules)
        assert LEVELS.index(decision.level) <= LEVELS.index("L1") + raised


@given(situations)
def test_an_approval_never_closes_what_intelligence_knows(case):
    if case.confidence is not None and not case.inside:
        assert LEVELS.index(decide(case).level) >= LEVELS.index("L1")


def test_every_rule_has_a_case_that_it_decides():
    """No rule stands in the list for nothing."""
    quiet = Situation(5.0, 20.0, False, False, False, dict.fromkeys(ANSWERS, NO))
    alert = {"suspicion": 40.0, "alert": True}
    odd = quiet.answers | {
        "nonstandard_encryption": YES,
        "unexpected_transfer": YES,
    }
    raised = quiet.answers | {"nonstandard_encryption": YES, "volume_rise": YES}
    decided = {
        "quiet": quiet,
        "near": changed(quiet, suspicion=18.0),
        "alert": changed(quiet, **alert),
        "opaque-to-new": changed(quiet, **alert, answers=odd),
        "opaque-rise": changed(quiet, **alert, answers=raised),
        "known-to-intel": changed(quiet, confidence=50.0),
        "sure-intel": changed(
            quiet,
            confidence=80.0,
            answers=quiet.answers | {"unexpected_transfer": YES},
        ),
        "intel-and-encryption": changed(quiet, **alert, confidence=50.0, answers=odd),
        "habit": changed(
            quiet, **alert, answers=odd, habit="long", surprising_place=False
        ),
        "critical-asset": changed(quiet, **alert, criticality="high"),
        "inside": changed(quiet, inside=True),
        "approved": changed(quiet, **alert, approved=True),
    }
    assert list(decided) == [rule.name for rule in RULES]
    for name, case in decided.items():
        assert name in [rule.name for rule in decide(case).rules]
    assert decide(decided["habit"]).level == "L1"
    assert decide(decided["critical-asset"]).level == "T2"
    assert decide(decided["approved"]).level == "close"


def test_what_only_the_inside_of_the_site_keeps_quiet_is_watched():
    """Nobody is told that 40 bits are too few where 20 alert."""
    quiet = Situation(40.0, 20.0, False, True, False, dict.fromkeys(ANSWERS, YES))
    assert decide(quiet).text == "watch: it would alert if it left the site"
    assert "in spite of its 40.0 bits" in decide(quiet).rules[0].text
    assert decide(changed(quiet, suspicion=18.0)).level == "close"
    approved = changed(quiet, inside=False, approved=True)
    assert decide(approved).level == "close"
    assert "does not alert (from" not in decide(approved).rules[0].text


def changed(case, **what):
    from dataclasses import replace

    return replace(case, **what)
