"""What a broken rule is worth follows from how often the baseline broke it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sites import office

from exfilml.baseline import Baseline, Observed
from exfilml.networks import Networks
from exfilml.places import PRIVATE_NETWORKS, orient
from exfilml.precedents import MOST_BITS, Precedents

DNS = ["domain", "domain/udp"]
RESOLVER = Networks.parse(["10.20.0.53"])


def precedents(flows):
    oriented = orient(flows, PRIVATE_NETWORKS)
    return Precedents(Baseline.learn(Observed.of(oriented)))


LOOKUPS = office(3000)
LOOKUPS = LOOKUPS[LOOKUPS["dst_port"] == 53]


def lookups(*, direct, through, upstream=0):
    """Return DNS flows of clients past a resolver and to it, and of the resolver."""
    rows = LOOKUPS.iloc[: direct + through + upstream]
    kind = np.repeat(["direct", "through", "upstream"], [direct, through, upstream])
    return rows.assign(
        src_ip=rows["src_ip"].mask(kind == "upstream", "10.20.0.53"),
        dst_ip=rows["dst_ip"].mask(kind == "through", "10.20.0.53"),
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 60))
def test_bits_are_those_of_the_formula(direct, through, upstream):
    """Lookups at the resolver are internal; its own and the direct ones are outward."""
    found = precedents(lookups(direct=direct, through=through, upstream=upstream))
    expected = np.log2((direct + upstream + 256) / (direct + 1))
    assert found.bits_past(RESOLVER, DNS) == pytest.approx(min(expected, MOST_BITS))


def test_the_more_often_a_rule_was_broken_the_less_it_is_worth():
    bits = [
        precedents(lookups(direct=n, through=50)).bits_past(RESOLVER, DNS)
        for n in (0, 1, 10, 200)
    ]
    assert bits[0] == MOST_BITS
    assert bits == sorted(bits, reverse=True)
    assert 0 < bits[-1] < 1.5


def test_a_resolver_outside_is_no_detour():
    foreign = lookups(direct=300, through=0).assign(dst_ip="192.0.2.53")
    found = precedents(foreign)
    assert found.bits_past(Networks.parse(["192.0.2.53"]), DNS) == MOST_BITS
    assert found.bits_past(RESOLVER, DNS) < 1.0


def test_services_of_a_segment_are_worth_less_where_its_hosts_use_them():
    flows = office(2000)
    found = precedents(flows)
    inside = Networks.parse(["10.20.0.10/31"])
    mine = flows[flows["src_ip"].isin(["10.20.0.10", "10.20.0.11"])]
    names, ports = ["https", "ssh", "tcp/8443"], [443, 22, 8443]
    counts = np.array([(mine["dst_port"] == port).sum() for port in ports])
    expected = np.minimum(np.log2((len(mine) + 256) / (counts + 1)), MOST_BITS)
    assert found.bits_of_services(inside, names) == pytest.approx(expected)
    assert expected[0] < expected[1] < expected[2] == MOST_BITS
    others = Networks.parse(["10.99.0.0/16"])
    assert found.bits_of_services(others, names).tolist() == [MOST_BITS] * 3


def test_what_stays_inside_does_not_excuse_what_leaves():
    """SSH to a server of the site is no precedent of SSH outward."""
    flows = office(2000)
    ssh = flows["dst_port"] == 22
    inside = flows.assign(dst_ip=flows["dst_ip"].mask(ssh, "10.20.0.12"))
    hosts = Networks.parse(["10.20.0.0/24"])
    bits = [precedents(f).bits_of_services(hosts, ["ssh"])[0] for f in (flows, inside)]
    assert bits[0] < bits[1] == MOST_BITS


def test_networks_too_large_to_list_are_not_looked_up():
    found = precedents(lookups(direct=300, through=0))
    wide = Networks.parse(["10.0.0.0/8"])
    assert found.bits_past(wide, DNS) == MOST_BITS
    assert found.bits_of_services(wide, DNS).tolist() == [MOST_BITS] * 2


def test_an_empty_baseline_leaves_the_declaration():
    found = precedents(office(50).iloc[:0])
    assert found.bits_past(RESOLVER, DNS) == MOST_BITS
    assert found.bits_of_services(RESOLVER, []).tolist() == []
