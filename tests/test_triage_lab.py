"""The playbook on the lab: answers that a checklist written from its labels expects.

`lab_checklist` holds the checklist, `lab_recount` counts anew what facts say. What is
not answered as expected is listed here with its reason; anything else is a failure.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lab_checklist as checklist
import pandas as pd
import pytest
from lab_recount import Recount, untraceable

import exfilml
from exfilml.triage.case import LEVELS

LAB = Path(__file__).parent.parent / "datasets" / "lab"
REAL = os.environ.get("EXFILML_REAL_DATA")
TOP = 100
QUIET = ("close", "watch")

sys.path.insert(0, str(LAB.parent))

from lab import attacks  # noqa: E402

# Answers that the checklist does not expect, and why they stand.
KNOWN = {
    "develop": {
        # XOR with a key of 21 bytes over text: the payload verdict is "compressed".
        ("tcp-as-https-a", "encryption_signs"),
        ("tcp-as-https-a", "nonstandard_encryption"),
        ("tcp-as-https-a", "technique"),
        # The site's relay does not show where this mail goes: the place is the relay.
        ("mail-relay-a", "unexpected_transfer"),
    },
    "validate": {
        ("mail-relay-b", "unexpected_transfer"),
        # What the baseline sent over port 587 is encrypted, by STARTTLS.
        ("tcp-as-mail-b", "external_port"),
    },
}


@pytest.fixture(scope="module", params=["develop", "validate"])
def lab(request):
    """A split, triaged by a detector that learned its baseline."""
    baseline, flows, labels, scenarios = checklist.read(LAB / request.param)
    detector = exfilml.Detector(random_state=0).fit(baseline)
    past = checklist.Past.of(baseline)
    triage = exfilml.triage_cases(detector, flows, top=TOP)
    table = checklist.judged(triage, flows, labels, scenarios, past)
    return SimpleNamespace(
        split=request.param,
        baseline=baseline,
        flows=flows,
        labels=labels,
        scenarios=scenarios,
        detector=detector,
        past=past,
        triage=triage,
        table=table,
    )


@pytest.mark.slow
def test_true_cases_are_answered_as_the_labels_expect(lab):
    """Each miss is one that is known; a transfer that was not ranked is none of these."""
    true = lab.table[lab.table["label"] == "exfil"]
    print(f"\n{lab.split}\n{checklist.summary(lab.table)}")
    assert true["scenario"].nunique() >= 40
    wrong = true[~true["ok"] & true["case"].notna()]
    unexpected = wrong[
        [
            (scenario, about) not in KNOWN[lab.split]
            for scenario, about in zip(wrong["scenario"], wrong["about"], strict=True)
        ]
    ]
    told = unexpected[["scenario", "side", "about", "wanted", "got", "reason", "said"]]
    assert told.empty, told.to_string()
    assert true["ok"].mean() >= 0.95


@pytest.mark.slow
def test_concealment_is_never_claimed_where_nobody_can_see_it(lab):
    sealed = lab.scenarios.loc[lab.scenarios["payload_visible"] == "no", "scenario"]
    mine = lab.table[lab.table["scenario"].isin(sealed)]
    signs = mine[mine["about"].isin(["encryption_signs", "nonstandard_encryption"])]
    assert len(signs) >= 6
    assert "yes" not in set(signs["got"])


@pytest.mark.slow
def test_hard_negatives_go_no_higher_than_l1_or_a_rule_says_why(lab):
    honest = lab.table[
        (lab.table["label"] == "hard-negative") & (lab.table["about"] == "level")
    ]
    assert honest["scenario"].nunique() == 12
    higher = honest[~honest["ok"] & honest["case"].notna()]
    for row in higher.itertuples():
        case = lab.triage[row.case]
        assert checklist.explained(case)
        raising = [r for r in case.decision.rules if r.level == row.got and r.text]
        assert raising, row.scenario
    # Opaque bytes to a place that nobody knows: what they are cannot be seen.
    assert higher["scenario"].nunique() <= 3, higher.to_string()


@pytest.mark.slow
def test_every_decision_follows_from_its_rules(lab):
    assert all(checklist.explained(case) for case in lab.triage)
    assert not [c for c in lab.triage if c.row["alert"] and c.decision.level in QUIET]


@pytest.mark.slow
def test_every_statement_is_found_again_in_rows(lab):
    recount = Recount(lab.baseline)
    strange = [
        (case.name, *one) for case in lab.triage for one in untraceable(case, recount)
    ]
    assert not strange, strange[:5]
    assert sum(len(case.evidence) for case in lab.triage) > 1000


@pytest.mark.slow
def test_the_recount_sees_what_is_wrong(lab):
    """Facts with a number, or a flow, that is not theirs are found out."""
    recount = Recount(lab.baseline)
    case = lab.triage[0]
    fact = case.indicators[1].facts[0]
    numbers = {**fact.numbers, "up_bytes": fact.numbers["up_bytes"] + 1}
    other = lab.triage[1].flows.index[0]
    for change in ({"numbers": numbers}, {"flows": (*fact.flows, other)}):
        bent = replace(case.indicators[1], facts=(replace(fact, **change),))
        assert list(untraceable(replace(case, indicators=(bent,)), recount))


@pytest.mark.slow
def test_indicators_answer_for_the_cases_they_meet_and_raise_them(lab, tmp_path):
    known = lab.scenarios[lab.scenarios["label"] == "exfil"].iloc[::2]
    places = sorted({p.rsplit(":", 1)[0] for to in known["to"] for p in to.split()})
    (tmp_path / "iocs.txt").write_text("\n".join(places), encoding="utf-8")
    intel = exfilml.read_intel(tmp_path / "iocs.txt", home=lab.detector.home_)
    found = exfilml.triage_cases(lab.detector, lab.flows, top=TOP, intel=intel)
    table = checklist.judged(found, lab.flows, lab.labels, lab.scenarios, lab.past)
    cases = table.dropna(subset="case").groupby("scenario")["case"].unique()
    met = {
        scenario: {found[c].answer("threat_intelligence").answer for c in names}
        for scenario, names in cases.items()
    }
    asked = 0
    for row in lab.scenarios.itertuples():
        theirs = {p.rsplit(":", 1)[0] for p in row.to.split()}
        names = cases.get(row.scenario, [])
        seen = theirs & {text for c in names for text in _seen(found[c])}
        if names and seen:
            asked += 1
            assert ("yes" in met[row.scenario]) == bool(seen & set(places)), (
                row.scenario
            )
    assert asked >= 35
    before = {case.name: LEVELS.index(case.decision.level) for case in lab.triage}
    for case in found:
        level = LEVELS.index(case.decision.level)
        assert level >= before.get(case.name, 0)
        if case.answer("threat_intelligence").answer == "yes":
            assert level >= LEVELS.index("L1")


def _seen(case):
    """Return addresses and names that flows show; FTP, for one, shows no names."""
    columns = ("src_ip", "dst_ip", "server_name", "src_domain", "dst_domain")
    return {text for name in columns for text in case.flows[name].dropna()}


@pytest.mark.slow
def test_both_sides_of_a_relay_are_one_incident(lab):
    incident = {name: one.name for one in lab.triage.incidents for name in one.cases}
    pairs, apart = 0, []
    for row in lab.scenarios[lab.scenarios["via"] != ""].itertuples():
        mine = lab.table[lab.table["scenario"] == row.scenario].dropna(subset="case")
        names = mine["case"].unique()
        reached = [n for n in names if lab.triage[n].decision.level not in QUIET]
        # Where the relay does not show where a mail goes, its place is the relay.
        places = {lab.triage[name].row["place"] for name in names}
        if mine["side"].nunique() == 2 and reached and len(places) == 1:
            pairs += 1
            joined = {incident.get(name) for name in names}
            if len(joined) > 1 or None in joined:
                apart.append(row.scenario)
    print(f"\n{lab.split}: {pairs} transfers seen on two sides, apart: {apart}")
    assert pairs >= 8
    # A proxy's own case can hold much of other hosts.
    assert len(apart) <= 1


@pytest.mark.slow
def test_scope_holds_what_the_transfer_carried(lab):
    """No less than the ciphertext, and no more than encodings and headers make of it."""
    for row in lab.scenarios[lab.scenarios["label"] == "exfil"].itertuples():
        mine = lab.table[(lab.table["scenario"] == row.scenario)].dropna(subset="case")
        for name in mine["case"].unique():
            (total,) = [f for f in lab.triage[name].scope if f.name == "scope.bytes"]
            assert total.numbers["up_bytes"] >= row.bytes, row.scenario


@pytest.mark.slow
@pytest.mark.skipif(
    REAL is None, reason="EXFILML_REAL_DATA names no folder of real captures"
)
def test_real_attacks_over_the_lab(lab):
    """What was ranked of real tunnels goes to T2; what goes higher than L1 says why."""
    flows, _ = attacks.overlay(LAB / lab.split, Path(REAL))
    found = exfilml.triage_cases(lab.detector, flows, top=150)
    whose = {label: case.name for case in found for label in case.flows.index}
    marked = flows[flows["label"].notna()]
    cases = marked.groupby(["label", "scenario"]).apply(
        lambda rows: {whose[i] for i in rows.index if i in whose}
    )
    tunnels = [
        found[name]
        for (label, scenario), names in cases.items()
        for name in names
        if label in {"exfil", "exfil-like"}
        and ("ICMP" in scenario or "DNS tunnel" in scenario)
    ]
    assert len(tunnels) >= 8
    for case in tunnels:
        assert case.answer("encryption_signs").answer == "yes"
        assert case.answer("unexpected_transfer").answer == "yes"
        assert case.decision.level == "T2"
    honest = [
        (scenario, found[name])
        for (label, scenario), names in cases.items()
        for name in names
        if label == "hard-negative"
    ]
    higher = [(s, c) for s, c in honest if c.decision.level not in checklist.LOW]
    print(f"\n{len(honest)} honest cases, {len(higher)} above L1:")
    for scenario, case in higher:
        print(f"  {scenario}: {case.decision.text}")
        assert checklist.explained(case)
        # Nothing but opaque bytes without any handshake.
        assert case.answer("encryption_signs").answer == "yes", scenario
    assert len(higher) <= 0.2 * len(honest)


def test_the_checklist_is_data_with_a_reason_for_each_expectation():
    past = checklist.Past(frozenset(), frozenset(), {"10.0.0.1": 10})
    for split in ("develop", "validate"):
        scenarios = pd.read_csv(LAB / split / "scenarios.csv", keep_default_na=False)
        for row in scenarios.itertuples():
            asked = list(checklist.checks(row, past, row.src_ip, 100))
            assert asked
            assert all(check.reason and check.wanted for check in asked)
            assert len({check.about for check in asked}) == len(asked)
