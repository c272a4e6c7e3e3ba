"""Approvals suppress until something changes; broken rules add evidence."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sites import office, theft

import exfilml
from exfilml import Detector, Policy, rank_cases, rank_flows, score_flows
from exfilml.exceptions import SiteWarning
from exfilml.precedents import MOST_BITS
from exfilml.ruling import payload_classes

SAMPLE = Path(__file__).parent.parent / "datasets" / "sample"
APPROVAL = {
    "network": "203.0.113.9",
    "payload": "opaque",
    "max_upload_per_day": "12 MB",
    "reason": "test upload",
    "owner": "lab",
    "expires": dt.date(2027, 1, 1),
}


def approving(**changes):
    table = {k: v for k, v in {**APPROVAL, **changes}.items() if v is not None}
    return Policy.parse({"approve": [table]})


@pytest.fixture(scope="module")
def detector():
    return Detector(random_state=0, n_estimators=50).fit(office(1500))


@pytest.fixture(scope="module")
def strict():
    """A detector of a site that keeps its rules (`RULES`)."""
    return Detector(random_state=0, n_estimators=50).fit(obedient(office(1500)))


@pytest.fixture(scope="module")
def flows():
    normal = office(600, seed=1, days=2, first_day="2026-03-09")
    return pd.concat([normal, theft(normal)], ignore_index=True)


@pytest.fixture(scope="module")
def plain(detector, flows):
    return rank_cases(detector, flows)


def of_theft(cases):
    """Return the row of the planted upload."""
    (row,) = cases[cases["place"] == "203.0.113.9"].to_dict("records")
    return row


def obedient(flows):
    """Return flows with names asked, the web and mail through the declared hosts."""
    port = flows["dst_port"]
    web = port.isin([80, 443])
    return flows.assign(
        dst_ip=flows["dst_ip"].mask(port == 53, "10.20.0.53"),
        src_ip=flows["src_ip"].mask(port == 25, "10.20.0.25").mask(web, "10.20.0.80"),
    )


def outward(flows, port, *, src="10.20.0.12", dst="203.0.113.77", protocol=17, n=1):
    """Return flows of a service that exist already, moved to other ends."""
    rows = flows[(flows["dst_port"] == port) & (flows["protocol"] == protocol)].head(n)
    return rows.assign(src_ip=src, dst_ip=dst, server_name=pd.NA)


# Approvals


def test_an_approved_case_raises_no_alert_comes_last_and_is_counted(
    detector, flows, plain
):
    cases = rank_cases(detector, flows, policy=approving())
    before, after = of_theft(plain), of_theft(cases)
    assert before["alert"]
    assert not after["alert"]
    assert after["rank"] == len(cases)
    assert after["reasons"] == (
        f"approved: test upload (lab, until 2027-01-01); {before['reasons']}"
    )
    for same in ("suspicion", "p_value", "case", "up_bytes"):
        assert before[same] == after[same]
    assert cases.attrs["suppressed"] == 1
    assert cases.attrs["alerted"] == plain.attrs["alerted"] - 1
    assert cases.attrs["policy"]["approved"] == 1
    others = cases["place"] != "203.0.113.9"
    pd.testing.assert_frame_equal(
        cases[others].drop(columns="rank").reset_index(drop=True),
        plain[plain["place"] != "203.0.113.9"]
        .drop(columns="rank")
        .reset_index(drop=True),
    )


def test_flows_of_an_approved_case_raise_none_either(detector, flows):
    ranking = rank_flows(detector, flows, policy=approving())
    assert ranking.index[-1] == 600
    assert ranking["reasons"].iloc[-1].startswith("approved: test upload")
    scores = score_flows(detector, flows, policy=approving())
    assert not scores.loc[600, "alert"]
    assert scores.loc[600, "suspicion"] == ranking["suspicion"].iloc[-1]
    assert scores.attrs["suppressed"] == ranking.attrs["suppressed"] == 1


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"max_upload_per_day": 4_999_999}, "upload", "5,000,000 B on 2026-03-10"),
        (
            {"max_upload_per_day": "2 GB", "payload": "tls"},
            "payload",
            "payload opaque,",
        ),
        ({"expires": dt.date(2026, 3, 9)}, "expired", "expired on 2026-03-09"),
    ],
)
def test_what_left_the_approval_re_arms_it_and_is_said(
    detector, flows, plain, changes, kind, text
):
    cases = rank_cases(detector, flows, policy=approving(**changes))
    row = of_theft(cases)
    assert row["alert"]
    assert row["rank"] == of_theft(plain)["rank"]
    assert row["reasons"].startswith("approval re-armed (test upload; lab): ")
    assert text in row["reasons"]
    assert cases.attrs["policy"]["changes"] == {kind: 1}
    assert cases.attrs["policy"]["rearmed"] == 1
    assert cases.attrs["suppressed"] == cases.attrs["policy"]["approved"] == 0


def test_the_last_day_of_an_approval_counts_whole(detector, flows):
    day = flows.loc[600, "start"].date()
    for expires, approved in ((day, 1), (day - dt.timedelta(days=1), 0)):
        cases = rank_cases(detector, flows, policy=approving(expires=expires))
        assert cases.attrs["policy"]["approved"] == approved


def test_a_flow_that_outlasts_the_approval_re_arms_it(detector, flows):
    longer = flows.copy()
    longer.loc[600, "duration_s"] = 86_400.0
    policy = approving(expires=flows.loc[600, "start"].date())
    assert rank_cases(detector, longer, policy=policy).attrs["policy"]["approved"] == 0


def test_more_upload_than_approved_re_arms(detector, flows):
    """Two of 5 MB a day are within 12 MB, three are not, on three days they are."""
    row = flows.iloc[[600]]
    for copies, days, approved in ((2, 0, 1), (3, 0, 0), (3, 1, 1)):
        more = pd.concat(
            [flows.iloc[:600]]
            + [row.assign(start=row["start"] + pd.Timedelta(days=days * i))
               for i in range(copies)],
            ignore_index=True,
        )  # fmt: skip
        cases = rank_cases(detector, more, policy=approving())
        assert cases.attrs["policy"]["approved"] == approved, (copies, days)
        if not approved:
            assert (
                "15 MB on 2026-03-10, above 12 MB a day" in of_theft(cases)["reasons"]
            )


def test_what_a_host_sends_to_all_that_an_approval_names_is_added_up(detector, flows):
    other = theft(flows, dst_ip="203.0.113.10")
    more = pd.concat([flows, other], ignore_index=True)
    policy = approving(network="203.0.113.0/24", max_upload_per_day="6 MB")
    assert rank_cases(detector, more, policy=policy).attrs["policy"]["approved"] == 0
    other = theft(flows, dst_ip="203.0.113.10", src_ip="10.20.0.13")
    more = pd.concat([flows, other], ignore_index=True)
    assert rank_cases(detector, more, policy=policy).attrs["policy"]["approved"] == 2


def test_a_state_remembers_what_was_sent_before(detector, flows):
    """Pieces of a day are held against the ceiling together."""
    row, policy = flows.iloc[[600]], approving(max_upload_per_day="9 MB")
    later = row.assign(start=row["start"] + pd.Timedelta(minutes=30))
    state = detector.new_state()
    first = score_flows(detector, row, state=state, policy=policy)
    second = score_flows(detector, later, state=state, policy=policy)
    assert [first["alert"].iloc[0], second["alert"].iloc[0]] == [False, True]
    assert not score_flows(detector, later, policy=policy)["alert"].iloc[0]
    next_day = row.assign(start=row["start"] + pd.Timedelta(days=1))
    third = score_flows(detector, next_day, state=state, policy=policy)
    assert not third["alert"].iloc[0]


@pytest.mark.parametrize(
    ("changes", "is_meant"),
    [
        ({}, True),
        ({"network": "203.0.113.0/24", "service": "tcp/8443"}, True),
        ({"service": "https"}, False),
        ({"host": "10.20.0.0/28"}, True),
        ({"host": "10.20.0.13"}, False),
        ({"network": "203.0.113.10"}, False),
        ({"place": "vault.example"}, False),
    ],
)
def test_destination_service_and_host_must_all_hold(detector, flows, changes, is_meant):
    about = rank_cases(detector, flows, policy=approving(**changes)).attrs["policy"]
    assert (about["approved"], about["unused"]) == ((1, 0) if is_meant else (0, 1))


def test_places_are_registered_domains_or_names_below_one(detector, flows):
    named = flows.copy()
    named.loc[600, "server_name"] = "eu2.vault.example"
    for place, approved in (
        ("vault.example", 1),
        ("eu2.vault.example", 1),
        ("eu.vault.example", 0),
        ("u2.vault.example", 0),
        ("example", 0),
    ):
        policy = approving(network=None, place=place)
        cases = rank_cases(detector, named, policy=policy)
        assert cases.attrs["policy"]["approved"] == approved, place


def test_one_flow_elsewhere_re_arms_the_case(detector, flows):
    """The same place, but an address or a name that was not approved."""
    two = pd.concat([flows, flows.iloc[[600]].assign(src_port=1)], ignore_index=True)
    two.loc[[600, 601], "server_name"] = ["eu2.vault.example", "us1.vault.example"]
    policy = approving(network=None, place="eu2.vault.example")
    row = rank_cases(detector, two, policy=policy)
    assert row.attrs["policy"]["changes"] == {"destination": 1}
    assert row["reasons"].str.contains("1 of 2 flows not as approved").sum() == 1


def test_an_inbound_connection_is_not_what_was_approved(detector, flows):
    turned = flows.copy()
    turned.loc[600, ["src_ip", "dst_ip"]] = ["203.0.113.9", "10.20.0.12"]
    assert (
        rank_cases(detector, turned, policy=approving()).attrs["policy"]["unused"] == 1
    )


def test_one_of_several_approvals_is_enough_and_the_closest_is_told(detector, flows):
    late = {**APPROVAL, "expires": dt.date(2020, 1, 1), "reason": "old"}
    worse = {**late, "max_upload_per_day": 1, "reason": "worse"}
    policy = Policy.parse({"approve": [worse, late, APPROVAL]})
    assert rank_cases(detector, flows, policy=policy).attrs["policy"]["approved"] == 1
    policy = Policy.parse({"approve": [worse, late]})
    assert (
        "(old; lab): expired"
        in of_theft(rank_cases(detector, flows, policy=policy))["reasons"]
    )


def test_without_payload_only_unseen_payload_is_within(detector, flows):
    """A ceiling on what payload looks like cannot hold where none is seen."""
    bare = flows.drop(columns=[c for c in flows if c.endswith("sampled_bytes")])
    for payload, approved in (("opaque", 0), (["opaque", "unseen"], 1)):
        cases = rank_cases(detector, bare, policy=approving(payload=payload))
        assert cases.attrs["policy"]["approved"] == approved
    row = of_theft(rank_cases(detector, bare, policy=approving()))
    assert "payload unseen, approved opaque" in row["reasons"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, "opaque"),
        ({"src_handshake": "ssh"}, "ssh"),
        ({"dst_handshake": "tls"}, "tls"),
        ({"src_verdict": "encoded"}, "opaque"),
        ({"src_verdict": "encoded", "src_concealed": False}, "plain"),
        ({"src_verdict": "text", "src_concealed": False}, "plain"),
        ({"src_verdict": "compressed", "src_concealed": False}, "compressed"),
        ({"src_verdict": "unknown", "src_concealed": False}, "unknown"),
        ({"src_verdict": pd.NA, "src_concealed": pd.NA}, "unknown"),
        ({"src_sampled_bytes": 31}, ""),
        ({"src_sampled_bytes": pd.NA}, "unseen"),
    ],
)
def test_payload_classes_say_what_an_upload_looks_like(
    detector, flows, columns, expected
):
    row = flows.iloc[[600]].assign(**columns)
    asked = detector.score(row).asked
    assert payload_classes(asked, np.array([0])).tolist() == [expected]


# Rules


RULES = {
    "resolvers": ["10.20.0.53"],
    "proxies": ["10.20.0.80"],
    "mail_relays": ["10.20.0.25"],
}


@pytest.mark.parametrize(
    ("declared", "port", "protocol", "text"),
    [
        ("resolvers", 53, 17, "DNS to 203.0.113.77, which is no sanctioned resolver"),
        (
            "proxies",
            443,
            6,
            "web traffic straight to 203.0.113.77, through no sanction",
        ),
        ("proxies", 80, 6, "web traffic straight to 203.0.113.77"),
        ("mail_relays", 25, 6, "mail straight to 203.0.113.77, through no sanctioned"),
    ],
)
def test_going_round_is_evidence(strict, flows, declared, port, protocol, text):
    """All bits where nobody did so before; p-values stay what calibration says."""
    policy = Policy.parse({declared: RULES[declared]})
    row = outward(flows, port, protocol=protocol)
    (before,), (after,) = (
        rank_cases(strict, row, policy=p).to_dict("records") for p in (None, policy)
    )
    assert after["suspicion"] == before["suspicion"] + MOST_BITS
    assert after["p_value"] == before["p_value"]
    assert after["reasons"].startswith(f"policy: {text}")
    assert RULES[declared][0] in after["reasons"]
    (flow,) = rank_flows(strict, row, policy=policy).to_dict("records")
    assert flow["reasons"].startswith(f"policy: {text}")
    scores = [score_flows(strict, row, policy=p) for p in (None, policy)]
    assert (scores[1]["suspicion"] - scores[0]["suspicion"]).iloc[0] == pytest.approx(
        MOST_BITS
    )
    assert scores[1]["p_value"].iloc[0] == scores[0]["p_value"].iloc[0]


@pytest.mark.parametrize(
    ("port", "protocol", "ends"),
    [
        (53, 17, {"src": "10.20.0.53"}),
        (53, 17, {"dst": "10.20.0.53"}),
        (53, 17, {"dst": "10.20.0.54"}),
        (443, 6, {"src": "10.20.0.80"}),
        (443, 6, {"dst": "10.20.0.99"}),
        (25, 6, {"src": "10.20.0.25"}),
        (22, 6, {}),
    ],
)
def test_declared_hosts_and_what_stays_inside_break_no_rule(
    strict, flows, port, protocol, ends
):
    row = outward(flows, port, protocol=protocol, **ends)
    cases = rank_cases(strict, row, policy=Policy.parse(RULES))
    assert cases.attrs["policy"]["broken"] == {}


def test_connections_from_outside_break_no_rule(strict, flows):
    row = outward(flows, 25, protocol=6, src="203.0.113.77", dst="10.20.0.12")
    cases = rank_cases(strict, row, policy=Policy.parse(RULES))
    assert cases.attrs["policy"]["broken"] == {}


def test_verified_dns_over_another_port_is_dns(strict, flows):
    row = outward(flows, 53).assign(dst_port=5300)
    for verified, broken in ((True, {"DNS": 1}), (False, {})):
        about = rank_cases(
            strict, row.assign(app_verified=verified), policy=Policy.parse(RULES)
        ).attrs["policy"]
        assert about["broken"] == broken


def test_a_segment_names_what_may_leave_it_and_the_first_counts(strict, flows):
    row = outward(flows, 22, protocol=6)
    first = {"name": "lab {x}", "network": "10.20.0.8/29", "services": ["ssh"]}
    second = {"network": "10.20.0.0/16", "services": []}
    for segments, broken in (
        ([first, second], {}),
        ([second, first], {"segment 10.20.0.0/16": 1}),
        ([{**first, "services": ["https"]}], {"segment lab {x}": 1}),
    ):
        cases = rank_cases(strict, row, policy=Policy.parse({"segment": segments}))
        assert cases.attrs["policy"]["broken"] == broken
    assert (
        cases["reasons"]
        .iloc[0]
        .startswith("policy: ssh to 203.0.113.77, which segment lab {x} may not use; ")
    )


def test_what_goes_through_declared_hosts_is_allowed_in_every_segment(strict, flows):
    closed = {"segment": [{"network": "10.20.0.0/16", "services": []}]}
    outside = {"resolvers": ["192.0.2.53"], "proxies": ["192.0.2.80"]}
    rows = pd.concat(
        [
            outward(flows, 53, dst="192.0.2.53"),
            outward(flows, 80, dst="192.0.2.80", protocol=6).assign(dst_port=3128),
            outward(flows, 22, dst="192.0.2.53", protocol=6),
        ]
    )
    about = rank_cases(strict, rows, policy=Policy.parse(closed | outside))
    assert about.attrs["policy"]["broken"] == {"segment 10.20.0.0/16": 1}


def test_a_host_alerts_once_for_a_rule(strict, flows):
    """Five foreign resolvers are one fact, and one alert."""
    rows = outward(flows, 53, n=60)
    rows["dst_ip"] = flows.loc[rows.index, "dst_ip"]
    rows = rows.drop_duplicates("dst_ip").head(5)
    plain = rank_cases(strict, rows)
    cases = rank_cases(strict, rows, policy=Policy.parse(RULES))
    assert plain.attrs["alerted"] == 0
    assert cases.attrs["policy"]["broken"] == {"DNS": 5}
    assert cases["alert"].tolist() == [True] + [False] * 4
    both = pd.concat([rows, rows.assign(src_ip="10.20.0.13")])
    cases = rank_cases(strict, both, policy=Policy.parse(RULES))
    assert cases.attrs["alerted"] == 2


def test_an_approved_breach_hides_no_other_of_the_same_host(strict, flows):
    rows = outward(flows, 53, n=2).assign(dst_ip=["203.0.113.1", "203.0.113.2"])
    worst = rank_cases(strict, rows, policy=Policy.parse(RULES))["dst_ip"].iloc[0]
    approval = {**APPROVAL, "network": worst, "payload": "plain"}
    policy = Policy.parse({**RULES, "approve": [approval]})
    cases = rank_cases(strict, rows, policy=policy)
    assert cases["alert"].tolist() == [True, False]
    assert cases["dst_ip"].tolist()[1] == worst
    assert cases.attrs["suppressed"] == 0


def test_a_case_says_how_many_of_its_flows_break_a_rule(strict, flows):
    rows = outward(flows, 53, n=3)
    declared = Policy.parse({"resolvers": ["203.0.113.78"]})
    cases = rank_cases(strict, rows, policy=declared)
    assert cases["reasons"].iloc[0].startswith("policy: DNS to 203.0.113.77")
    mixed = rows.assign(
        server_name="ns.mixed.example",
        dst_ip=["203.0.113.77", "203.0.113.78", "203.0.113.78"],
    )
    cases = rank_cases(strict, mixed, policy=declared)
    assert (
        cases["reasons"].iloc[0].startswith("policy: 1 of 3 flows, DNS to 203.0.113.77")
    )


def test_what_goes_to_a_declared_host_may_leave_the_site(strict, flows):
    """A proxy on a port of its own is no end of the way: it is ranked with the rest."""
    row = theft(flows, dst_ip="10.20.0.80", dst_port=9090)
    inside = rank_cases(strict, row, policy=Policy.parse({"resolvers": "10.20.0.53"}))
    assert inside.attrs["inside"] == 1
    assert not inside["alert"].any()
    outward = rank_cases(strict, row, policy=Policy.parse({"proxies": "10.20.0.80"}))
    assert outward.attrs["inside"] == 0
    assert outward["alert"].all()


def test_shared_addresses_are_named(strict, flows):
    policy = Policy.parse({"nat": "10.20.0.12"})
    assert of_theft(rank_cases(strict, flows, policy=policy))["reasons"].endswith(
        "; 10.20.0.12 is declared as a NAT address, and stands for many hosts"
    )


# Both


@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "resolvers": st.just(["10.20.0.53"]),
            "proxies": st.sampled_from([["10.20.0.0/28"], ["198.18.0.0/16"]]),
            "mail_relays": st.just(["10.20.0.12"]),
            "segment": st.lists(
                st.fixed_dictionaries(
                    {
                        "network": st.sampled_from(["10.20.0.0/16", "10.20.0.8/29"]),
                        "services": st.lists(
                            st.sampled_from(["https", "ssh", "domain"])
                        ),
                    }
                ),
                max_size=2,
            ),
            "approve": st.lists(
                st.fixed_dictionaries(
                    {
                        **{k: st.just(v) for k, v in APPROVAL.items()},
                        "network": st.sampled_from(["0.0.0.0/0", "203.0.113.9"]),
                        "max_upload_per_day": st.sampled_from([1, 10**6, 10**9]),
                        "payload": st.sampled_from(["opaque", ["tls", "plain"]]),
                    }
                ),
                max_size=3,
            ),
        },
    )
)
def test_no_policy_lowers_suspicion_and_every_case_is_accounted_for(
    detector, flows, plain, table
):
    cases = rank_cases(detector, flows, policy=Policy.parse(table))
    before = plain.set_index("case")
    after = cases.set_index("case").loc[before.index]
    gained = after["suspicion"] - before["suspicion"]
    assert gained.between(0.0, MOST_BITS + 1e-9).all()
    assert (gained > 0).sum() <= after["reasons"].str.contains("policy: ").sum()
    assert (after["p_value"] == before["p_value"]).all()
    approved = after["reasons"].str.startswith("approved: ")
    assert (before["alert"] & ~after["alert"] & ~approved).sum() == 0
    assert not after.loc[approved, "alert"].any()
    about = cases.attrs["policy"]
    assert approved.sum() == about["approved"] >= cases.attrs["suppressed"]
    assert (
        after["reasons"].str.startswith("approval re-armed").sum() == about["rearmed"]
    )
    assert about["rearmed"] <= sum(about["changes"].values()) or not about["rearmed"]
    if about["approved"]:
        assert cases["reasons"].tail(about["approved"]).str.startswith("approved").all()


def test_row_order_changes_nothing(detector, flows):
    policy = Policy.parse({**RULES, "approve": [{**APPROVAL, "network": "0.0.0.0/0"}]})
    expected = rank_cases(detector, flows, policy=policy)
    mixed = flows.sample(frac=1.0, random_state=1)
    found = rank_cases(detector, mixed, policy=policy)
    pd.testing.assert_frame_equal(found, expected)
    assert found.attrs == expected.attrs


def test_a_policy_that_says_nothing_changes_nothing(detector, flows, plain):
    cases = rank_cases(detector, flows, policy=Policy())
    pd.testing.assert_frame_equal(cases, plain)
    assert cases.attrs.pop("policy") == {
        "approved": 0,
        "unused": 0,
        "rearmed": 0,
        "changes": {},
        "broken": {},
    }
    assert cases.attrs == plain.attrs


@pytest.mark.parametrize("ranker", [rank_flows, rank_cases, score_flows])
def test_no_rows_in_no_rows_out(detector, flows, ranker):
    policy = dataclasses.replace(approving(), resolvers=Policy.parse(RULES).resolvers)
    found = ranker(detector, flows.iloc[:0], policy=policy)
    assert len(found) == 0
    assert found.attrs["suppressed"] == 0


@pytest.mark.parametrize("ranker", [rank_flows, rank_cases])
def test_top_cuts_and_counts_the_same(detector, flows, ranker):
    whole = ranker(detector, flows, policy=approving())
    cut = ranker(detector, flows, policy=approving(), top=3)
    pd.testing.assert_frame_equal(cut, whole.iloc[:3])
    assert cut.attrs == whole.attrs


def test_home_networks_of_the_policy_come_before_the_models(detector, flows):
    policy = Policy.parse({"home": ["203.0.113.0/24"]})
    with pytest.warns(SiteWarning, match="Only 1 of 601 flows have exactly one end"):
        cases = rank_cases(detector, flows, policy=policy)
    assert set(cases["direction"]) == {"external", "inbound"}
    assert detector.home_ != policy.home


def test_by_false_discovery_rate_approvals_and_rules_hold_too(detector, flows):
    rows = pd.concat([flows, outward(flows, 53, src="10.20.0.10")])
    policy = Policy.parse({**RULES, "approve": [APPROVAL]})
    cases = rank_cases(detector, rows, fdr=0.9, policy=policy)
    assert cases.attrs["suppressed"] == 1
    assert not of_theft(cases)["alert"]


# The sample, end to end


@pytest.fixture(scope="module")
def sample():
    """A detector of the sample's baseline, its test days, and their scenarios."""
    baseline = exfilml.read_flows(SAMPLE / "baseline.pcap", progress=False)
    test = exfilml.read_flows(SAMPLE / "test.pcap", progress=False)
    labels = exfilml.read_labels(SAMPLE / "labels.csv")
    labelled = exfilml.apply_labels(test, labels)
    return Detector(random_state=0).fit(baseline), test, labelled["scenario"]


def test_a_hard_negative_of_the_sample_is_approved_and_re_arms(sample):
    """The backup to a new vault: approved, then larger, then out of date."""
    detector, test, scenario = sample
    backup = scenario[scenario == "first-backup"].index
    approval = {
        **APPROVAL,
        "network": "198.18.11.222",
        "service": "ssh",
        "host": "10.20.2.22",
        "payload": "ssh",
        "max_upload_per_day": "6 MB",
    }
    plain = score_flows(detector, test)
    policy = Policy.parse({"approve": [approval]})
    approved = score_flows(detector, test, policy=policy)
    assert plain.loc[backup, "alert"].all()
    assert not approved.loc[backup, "alert"].any()
    assert approved.attrs["suppressed"] == 1
    others = test.index.difference(backup)
    assert (plain.loc[others, "alert"] == approved.loc[others, "alert"]).all()

    again = test.loc[backup]
    again = again.assign(start=again["start"] + pd.Timedelta(hours=1))
    more = pd.concat([test, again], ignore_index=True)
    cases = rank_cases(detector, more, policy=policy)
    row = cases[cases["dst_ip"] == "198.18.11.222"].iloc[0]
    assert row["alert"]
    assert "11 MB on 2024-03-11, above 6.0 MB a day" in row["reasons"]
    assert cases.attrs["policy"]["changes"] == {"upload": 1}

    late = Policy.parse({"approve": [{**approval, "expires": dt.date(2024, 3, 10)}]})
    cases = rank_cases(detector, test, policy=late)
    row = cases[cases["dst_ip"] == "198.18.11.222"].iloc[0]
    assert row["alert"]
    assert "expired on 2024-03-10" in row["reasons"]


def test_a_host_of_the_sample_that_goes_round_the_resolver_is_evidence(sample):
    detector, test, scenario = sample
    policy = Policy.parse({"resolvers": ["10.20.0.53"], "mail_relays": ["10.20.0.25"]})
    plain, ruled = (score_flows(detector, test, policy=p) for p in (None, policy))
    gained = ruled["suspicion"] - plain["suspicion"]
    for name in ("cbc-udp-53", "3des-tcp-25"):
        assert gained[scenario == name].between(5.0, MOST_BITS + 1e-9).all()
    by_resolver = test["src_ip"] == "10.20.0.53"
    assert (gained[by_resolver] == 0).all()
    direct = (test["dst_port"] == 53) & (test["src_ip"] == "10.20.2.23")
    direct &= test["dst_ip"] == "198.51.100.53"
    assert direct.sum() == 1
    assert (gained[direct] > 4.0).all()
