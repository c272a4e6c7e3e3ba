"""Incidents: what belongs together is together, and nothing else."""

import time
from dataclasses import replace

import pandas as pd
import pytest
from cases import case
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilml.baseline import Baseline, Observed
from exfilml.places import PRIVATE_NETWORKS, orient
from exfilml.policy import Policy
from exfilml.schema import validate_flows
from exfilml.triage import _incidents
from exfilml.triage._traffic import Traffic
from exfilml.triage.case import Decision

START = pd.Timestamp("2026-03-04T08:00:00Z")
PROXY = "10.20.0.80"
USUAL = "www.usual.example"


def baseline(*flows):
    """A baseline in which many hosts use one place, and nobody any other."""
    usual = [
        {"src_ip": f"10.20.1.{i}", "dst_ip": "192.0.2.1", "server_name": USUAL}
        for i in range(1, 6)
    ]
    table = validate_flows(
        pd.DataFrame(
            [
                {
                    "start": START - pd.Timedelta(days=20),
                    "duration_s": 1.0,
                    "src_port": 50000,
                    "dst_port": 443,
                    "protocol": 6,
                    "src_bytes": 900,
                    "dst_bytes": 900,
                    "fingerprint": "ja3-usual",
                    "user_agent": "browser",
                    **flow,
                }
                for flow in (*usual, *flows)
            ]
        )
    )
    return Baseline.learn(Observed.of(orient(table, PRIVATE_NETWORKS)))


BASELINE = baseline()


def one(name, rank, *, hours=0.0, level="L1", **flow):
    return case(
        {"start": START + pd.Timedelta(hours=hours), **flow},
        name=name,
        rank=rank,
        level=level,
    )


def many(*given):
    """Build cases of one flow each at once, which is faster."""
    flows = [
        {k: v for k, v in g.items() if k not in {"hours", "level"}}
        | {"start": START + pd.Timedelta(hours=g["hours"])}
        for g in given
    ]
    whole = case(*flows)
    cases = []
    for i, g in enumerate(given):
        flow = whole.flows.loc[[i]]
        row = {**whole.row, "case": f"c{i:03}", "rank": i + 1}
        row["local_ip"] = flow["local_ip"].iloc[0]
        decision = Decision(g.get("level", "L1"), ())
        cases.append(replace(whole, row=row, flows=flow, decision=decision))
    return cases


def incidents(cases, **options):
    traffic = [Traffic.of(one.flows) for one in cases]
    return _incidents.incidents(cases, traffic, **options)


def groups(*cases, known=BASELINE, **options):
    found = incidents(cases, baseline=known, **options)
    return [set(incident.cases) for incident in found]


def two(first, second, **options):
    """Two cases of different hosts and places, but for what is given."""
    plain = [
        {"src_ip": "10.20.0.1", "dst_ip": "198.51.100.1"},
        {"src_ip": "10.20.0.2", "dst_ip": "203.0.113.1"},
    ]
    cases = [
        one(name, rank, **{**base, **given})
        for name, rank, base, given in zip(
            "ab", (1, 2), plain, (first, second), strict=True
        )
    ]
    return groups(*cases, **options)


TOGETHER = [{"a", "b"}]


def test_strangers_stay_apart():
    assert two({}, {}) == []


def test_the_same_new_place_joins_hosts_even_days_apart():
    names = {"server_name": "drop.thief.example"}
    assert two(names, {**names, "hours": 24 * 9}) == TOGETHER
    assert two(names, {**names, "hours": 24 * 15}) == []


def test_a_common_place_joins_nobody():
    assert two({"server_name": USUAL}, {"server_name": USUAL}) == []


def test_without_a_baseline_nothing_is_known_to_be_uncommon():
    names = {"server_name": "drop.thief.example"}
    assert two(names, names, known=None) == []


def test_the_same_host_joins_within_a_day_only():
    host = {"src_ip": "10.20.0.1"}
    assert two(host, {**host, "hours": 20}) == TOGETHER
    assert two(host, {**host, "hours": 30}) == []


def test_days_of_one_host_do_not_chain():
    cases = [
        one(c, i, hours=20 * i, dst_ip=f"198.51.{i}.1") for i, c in enumerate("abcd")
    ]
    assert all(len(group) == 2 for group in groups(*cases))


def test_host_and_network_do_not_chain():
    cases = [
        one("a", 1, src_ip="10.20.0.1", dst_ip="198.51.100.1"),
        one("b", 2, src_ip="10.20.0.1", dst_ip="203.0.113.1"),
        one("c", 3, src_ip="10.20.0.2", dst_ip="203.0.113.2"),
        one("d", 4, src_ip="10.20.0.2", dst_ip="192.0.2.2"),
    ]
    assert all(len(group) == 2 for group in groups(*cases))


def test_a_network_that_the_baseline_knows_joins_nobody():
    pair = ({"dst_ip": "192.0.2.77"}, {"dst_ip": "192.0.2.78"})
    assert two(*pair) == []
    other = ({"dst_ip": "198.51.7.77"}, {"dst_ip": "198.51.7.78"})
    assert two(*other) == TOGETHER


@pytest.mark.parametrize("column", ["fingerprint", "user_agent"])
def test_a_new_client_joins_and_a_usual_one_does_not(column):
    assert two({column: "new"}, {column: "new"}) == TOGETHER
    usual = {"fingerprint": "ja3-usual", "user_agent": "browser"}[column]
    assert two({column: usual}, {column: usual}) == []


def test_a_client_that_many_hosts_bring_is_an_update():
    cases = [
        one(c, i, src_ip=f"10.20.0.{i}", dst_ip=f"198.51.{i}.1", user_agent="browser 2")
        for i, c in enumerate("abcde", 1)
    ]
    assert groups(*cases) == []


def test_the_two_sides_of_a_proxy_are_one():
    inner = {"dst_ip": PROXY, "dst_port": 3128, "server_name": USUAL}
    outer = {"src_ip": PROXY, "server_name": USUAL}
    assert two(inner, outer) == TOGETHER
    assert two(inner, {**outer, "src_bytes": 50_000_000}) == []
    assert two(inner, {**outer, "hours": 3}) == []


def test_a_proxy_does_not_join_what_it_forwards():
    host = {"src_ip": PROXY}
    assert two(host, host) == TOGETHER
    policy = Policy.parse({"proxies": [PROXY]})
    assert two(host, host, policy=policy) == []


@pytest.mark.parametrize(("kind", "joined"), [("domain", True), ("network", False)])
def test_the_same_indicator_joins_unless_it_is_a_network(kind, joined):
    match = pd.DataFrame({"indicator": ["bad.example"], "kind": [kind]}, index=[0])
    cases = [
        case(
            {"src_ip": f"10.20.0.{i}", "dst_ip": f"198.51.{i}.1"},
            name=c,
            rank=i,
            intel=match,
        )
        for i, c in ((1, "a"), (2, "b"))
    ]
    found = incidents(cases)
    assert [incident.name for incident in found] == ["ia"] * joined
    if not joined:
        return
    (link,) = found[0].links
    assert (link.name, link.source) == ("link.indicator", "intel")
    assert "bad.example" in link.text


def test_low_cases_are_added_and_join_nothing():
    low = {"level": "watch"}
    place = {"server_name": "drop.thief.example"}
    assert two(place, {**place, **low}) == TOGETHER
    assert two({**place, **low}, {**place, **low}) == []
    bridge = one(
        "b",
        2,
        **low,
        src_ip="10.20.0.9",
        server_name="drop.thief.example",
        user_agent="new",
    )
    cases = [
        one("a", 1, src_ip="10.20.0.1", server_name="drop.thief.example"),
        bridge,
        one("c", 3, src_ip="10.20.0.3", dst_ip="203.0.113.3", user_agent="new"),
    ]
    assert groups(*cases) == [{"a", "b"}]


def test_low_cases_between_do_not_part_high_ones():
    cases = [
        one(
            c,
            i,
            hours=24 * 6 * i,
            level=level,
            src_ip=f"10.20.0.{i}",
            server_name="t.example",
        )
        for i, (c, level) in enumerate((("a", "L1"), ("b", "watch"), ("c", "L1")), 1)
    ]
    assert groups(*cases) == [{"a", "b", "c"}]


def test_an_incident_says_why_and_how_much():
    names = {"server_name": "drop.thief.example", "src_bytes": 1000}
    cases = [
        one(c, i, src_ip=f"10.20.0.{i}", **names, hours=i)
        for i, c in ((2, "b"), (1, "a"))
    ]
    (found,) = incidents(cases, baseline=BASELINE)
    assert (found.name, found.cases) == ("ia", ("a", "b"))
    (link,) = found.links
    assert link.numbers["baseline_hosts"] == 0
    assert link.numbers["apart_hours"] == pytest.approx(1 - 12.5 / 3600)
    assert link.flows
    (total,) = [f for f in found.scope if f.name == "scope.bytes"]
    assert total.numbers["up_bytes"] == 2000


CASES = st.lists(
    st.fixed_dictionaries(
        {
            "src_ip": st.sampled_from(["10.20.0.1", "10.20.0.2", PROXY]),
            "dst_ip": st.sampled_from(
                ["198.51.100.1", "198.51.100.2", PROXY, "192.0.2.9"]
            ),
            "server_name": st.sampled_from([USUAL, "a.example", "b.example", None]),
            "user_agent": st.sampled_from(["browser", "new", "newer", None]),
            "hours": st.sampled_from([0, 1, 20, 40, 400]),
            "level": st.sampled_from(["close", "watch", "L1", "T2"]),
        }
    ),
    min_size=1,
    max_size=9,
)


@given(CASES, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_cases_makes_no_difference(given_cases, draw):
    cases = many(*given_cases)
    found = [i.to_dict() for i in incidents(cases, baseline=BASELINE)]
    mixed = draw.sample(cases, len(cases))
    assert found == [i.to_dict() for i in incidents(mixed, baseline=BASELINE)]
    members = [name for incident in found for name in incident["cases"]]
    assert len(members) == len(set(members))
    high = {c.name for c in cases if c.decision.level in {"L1", "T2"}}
    for incident in found:
        # Of n cases that are joined, n - 1 links say why.
        assert len(incident["links"]) == len(incident["cases"]) - 1
        assert high & set(incident["cases"])


@pytest.mark.slow
def test_five_hundred_cases_are_fast():
    cases = many(
        *(
            {
                "hours": i % 50,
                "src_ip": f"10.20.{i % 7}.{i % 40}",
                "dst_ip": f"198.51.{i % 60}.{i % 200 + 1}",
            }
            for i in range(500)
        )
    )
    begin = time.perf_counter()
    assert incidents(cases, baseline=BASELINE)
    assert time.perf_counter() - begin < 20
