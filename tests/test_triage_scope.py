"""Scope of exposure: every number is what the named flows add up to."""

import numpy as np
import pandas as pd
import pytest
from cases import case
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilml.triage._doubles import Doubles
from exfilml.triage._scope import MOST_PATHS, scope_of, whose
from exfilml.triage._traffic import Traffic

START = pd.Timestamp("2026-03-04T22:10:00Z")
PROXY = "10.20.0.80"
SEEN = {"src_payload_bytes": 9, "src_sampled_bytes": 9}


def fact(facts, name):
    (found,) = [fact for fact in facts if fact.name == name]
    return found


def paths(facts):
    return [
        f.text.partition(" (")[2].rpartition(")")[0] for f in facts if ".path" in f.name
    ]


def traffic(*cases):
    return Traffic.join([Traffic.of(one.flows) for one in cases])


def scope(*flows, asset=None):
    return scope_of(traffic(case(*flows)), {"10.20.0.17": asset} if asset else {})


def to_proxy(**more):
    """A request to the site's proxy, for a host elsewhere."""
    return {
        "dst_ip": PROXY,
        "dst_port": 3128,
        "server_name": "www.thief.example",
        "app": "HTTP_Proxy",
        "app_verified": True,
        **more,
    }


def from_proxy(**more):
    """The same request, as it leaves the site."""
    return to_proxy(
        **{"src_ip": PROXY, "dst_ip": "198.51.100.99", "dst_port": 80, **more}
    )


def test_bytes_days_and_addresses_are_those_of_the_flows():
    flows = [
        {
            "src_bytes": 1000 + i,
            "dst_bytes": i,
            "start": START + pd.Timedelta(hours=9 * i),
        }
        for i in range(5)
    ]
    facts = scope(*flows, {"dst_ip": "203.0.113.7", "src_bytes": 5})
    total = fact(facts, "scope.bytes").numbers
    assert total == {"up_bytes": 5015, "down_bytes": 61_010, "flows": 6}
    time = fact(facts, "scope.time").numbers
    assert time["days"] == 3
    assert time["first"] == START
    assert time["last"] == START + pd.Timedelta(hours=36, seconds=12.5)
    assert fact(facts, "scope.addresses").numbers == {"addresses": 2, "places": 2}


def test_the_busiest_hour_and_day_name_their_flows():
    flows = [
        {"src_bytes": 10, "start": START},
        {"src_bytes": 700, "start": START + pd.Timedelta(days=1)},
        {"src_bytes": 500, "start": START + pd.Timedelta(days=2)},
        {"src_bytes": 400, "start": START + pd.Timedelta(days=2, hours=-3)},
    ]
    busiest = fact(scope(*flows), "scope.busiest")
    assert busiest.numbers["hour_up_bytes"] == 700
    assert busiest.numbers["hour"] == pd.Timestamp("2026-03-05T22:00Z")
    assert busiest.numbers["day_up_bytes"] == 900
    assert busiest.numbers["day"] == pd.Timestamp("2026-03-06T00:00Z")
    assert set(busiest.flows) == {1, 2, 3}


def test_hidden_bytes_and_what_was_not_seen():
    facts = scope(
        {"src_payload_bytes": 900, "hidden_bytes": 900},
        {"concealed": False},
        {"concealed": False, **SEEN},
    )
    hidden = fact(facts, "scope.hidden")
    assert hidden.numbers == {"hidden_bytes": 900, "hidden_flows": 1, "unseen_flows": 1}
    assert "of 1 flow no payload was seen" in hidden.text


def test_no_payload_is_not_visible_and_never_none():
    text = fact(scope({"concealed": False}), "scope.hidden").text
    assert "was not visible" in text
    assert "none of what" not in text


def test_payload_that_a_log_only_counts_is_not_seen():
    """Zeek's conn.log says how much there was, not what."""
    facts = scope({"concealed": False, "src_payload_bytes": 900})
    assert "no payload was seen" in fact(facts, "scope.hidden").text
    assert paths(facts) == ["TCP, payload not visible"]
    empty = scope({"concealed": False, "src_payload_bytes": 0})
    assert paths(empty) == ["bare TCP"]


@pytest.mark.parametrize(
    ("flow", "carrier"),
    [
        ({**SEEN}, "bare TCP"),
        ({"protocol": 17, "dst_port": 53, **SEEN}, "bare UDP"),
        ({"src_handshake": "tls", **SEEN}, "inside TLS"),
        ({"dst_handshake": "ssh", **SEEN}, "inside SSH"),
        ({"src_protocol": "http", **SEEN}, "HTTP"),
        ({"src_protocol": "smtp", **SEEN}, "mail"),
        ({"concealed": False}, "TCP, payload not visible"),
        (
            {"protocol": 1, "src_port": 0, "dst_port": 0, "src_carried_bytes": 90},
            "ICMP echo data",
        ),
        ({"protocol": 17, "dst_port": 53, "src_carried_bytes": 90}, "names in DNS"),
        (
            {"protocol": 47, "src_port": 0, "dst_port": 0, **SEEN},
            "bare IP protocol 47",
        ),
    ],
)
def test_the_carrier_is_what_was_seen(flow, carrier):
    given = {"concealed": False, **flow}
    assert paths(scope(given)) == [carrier]


def test_a_port_alone_verifies_no_application():
    raw = {"app": "DNS", "protocol": 17, "dst_port": 53, **SEEN}
    assert paths(scope(raw)) == ["bare UDP, application DNS unverified"]
    real = {**raw, "app_verified": True, "concealed": False}
    assert paths(scope(real)) == ["DNS, application DNS"]


def test_inbound_flows_are_read_from_the_other_side():
    facts = scope(
        {
            "src_ip": "198.51.100.23",
            "dst_ip": "10.20.0.17",
            "src_bytes": 7,
            "dst_bytes": 8000,
            "dst_payload_bytes": 7900,
            "dst_sampled_bytes": 7900,
            "concealed": False,
        }
    )
    assert fact(facts, "scope.bytes").numbers["up_bytes"] == 8000
    assert fact(facts, "scope.hidden").numbers["unseen_flows"] == 0


def test_smaller_paths_are_added_up():
    flows = [
        {"dst_port": 20000 + i, "src_bytes": 100 + i} for i in range(MOST_PATHS + 3)
    ]
    facts = scope(*flows)
    assert sum(f.name == "scope.path" for f in facts) == MOST_PATHS
    rest = fact(facts, "scope.other_paths")
    assert rest.numbers["flows"] == 3
    assert rest.numbers["up_bytes"] == 100 + 101 + 102


def test_the_relay_and_the_log_of_a_proxy_are_named():
    facts = scope(
        to_proxy(concealed=False), {"via": "proxy 10.9.9.9", "concealed": False}
    )
    texts = " ".join(f.text for f in facts if f.name == "scope.path")
    assert f"through {PROXY}" in texts
    assert "through 10.9.9.9" in texts


def test_a_transfer_seen_on_both_sides_of_a_proxy_counts_once():
    inner = case(to_proxy(), name="a")
    outer = case(
        from_proxy(start=START + pd.Timedelta(seconds=3), src_bytes=5_300_000), name="b"
    )
    outer.flows.index = [77]
    facts = scope_of(traffic(outer, inner), {})
    assert fact(facts, "scope.bytes").numbers["up_bytes"] == 5_200_000
    assert fact(facts, "scope.bytes").flows == (0,)
    again = fact(facts, "scope.again")
    assert again.flows == (77,)
    assert again.numbers == {"up_bytes": 5_300_000, "flows": 1, "transfers": 1}


@pytest.mark.parametrize(
    "differs",
    [
        {"start": START + pd.Timedelta(minutes=30)},
        {"src_bytes": 900},
        {"server_name": "other.example"},
        {"src_ip": "10.20.0.99"},
    ],
    ids=["later", "smaller", "elsewhere", "another host"],
)
def test_what_only_looks_a_little_alike_counts_twice(differs):
    both = [case(to_proxy(), name="a"), case(from_proxy(**differs), name="b")]
    flows = traffic(*both)
    assert Doubles.of(flows).counts.all()
    total = fact(scope_of(flows, {}), "scope.bytes").numbers["flows"]
    assert total == 2


def test_the_log_of_a_proxy_and_the_packets_to_it_are_one_transfer():
    log = to_proxy(via=f"proxy {PROXY}", dst_ip="198.51.100.99", src_bytes=4_900_000)
    facts = scope_of(traffic(case(to_proxy()), case(log)), {})
    assert fact(facts, "scope.bytes").numbers["flows"] == 1
    assert fact(facts, "scope.again").numbers["up_bytes"] == 4_900_000


def test_whose_host_it_is():
    asset = {"known": True, "owner": "Ana", "role": None, "criticality": "high"}
    assert whose(asset) == " (Ana, criticality high)"
    assert whose({"known": False, "owner": np.nan}) == " (in none of the asset files)"
    assert whose({}) == ""
    known = fact(scope({}, asset=asset), "scope.host")
    assert known.source == "assets"
    two = [f for f in scope({}, {"src_ip": "10.20.0.18"}) if f.name == "scope.host"]
    assert [f.source for f in two] == ["flows", "flows"]


def test_no_flows_no_scope():
    assert scope_of(Traffic.of(case().flows.iloc[:0]), {}) == ()


FLOWS = st.lists(
    st.fixed_dictionaries(
        {
            "src_ip": st.sampled_from(["10.20.0.17", "10.20.0.18", PROXY]),
            "dst_ip": st.sampled_from(["198.51.100.23", PROXY, "203.0.113.9"]),
            "server_name": st.sampled_from(["a.example", "b.example", None]),
            "src_bytes": st.integers(0, 10**9),
            "dst_port": st.sampled_from([80, 443, 3128, 9000]),
            "protocol": st.sampled_from([6, 17, 132]),
            "via": st.sampled_from([None, f"proxy {PROXY}", "proxy"]),
            "start": st.integers(0, 200_000).map(
                lambda s: START + pd.Timedelta(seconds=s)
            ),
            "concealed": st.booleans(),
        }
    ),
    min_size=1,
    max_size=12,
)


@given(FLOWS, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_counted_and_not_counted_flows_are_all_flows_in_any_order(flows, draw):
    table = case(*flows).flows
    facts = scope_of(Traffic.of(table), {})
    total = fact(facts, "scope.bytes")
    again = [f for f in facts if f.name == "scope.again"]
    named = [*total.flows, *(label for f in again for label in f.flows)]
    assert sorted(named) == sorted(table.index)
    assert total.numbers["up_bytes"] == int(
        table.loc[list(total.flows), "up_bytes"].sum()
    )
    along = [f.numbers["up_bytes"] for f in facts if "path" in f.name]
    assert sum(along) == total.numbers["up_bytes"]
    parts = [
        Traffic.of(table.iloc[[i]]) for i in draw.sample(range(len(table)), len(table))
    ]
    assert sum(len(part) for part in parts) == len(table)
    shuffled = table.sample(frac=1.0, random_state=draw.randrange(1000))
    other = {
        f.name: f.numbers
        for f in scope_of(Traffic.of(shuffled), {})
        if "path" not in f.name
    }
    assert {f.name: f.numbers for f in facts if "path" not in f.name} == other
