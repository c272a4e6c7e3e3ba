"""What an address, a name or a port is."""

from __future__ import annotations

import ipaddress

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sites import office

from exfilml.exceptions import OptionError
from exfilml.places import (
    PRIVATE_NETWORKS,
    infer_networks,
    is_registered,
    orient,
    parse_networks,
    stays_inside,
)
from exfilml.schema import validate_flows
from exfilml.services import iana_services


def flow(src="10.0.0.5", dst="203.0.113.7", port=443, protocol=6, **columns):
    return validate_flows(
        pd.DataFrame(
            {
                "start": pd.to_datetime(["2026-03-02T08:00:00Z"]),
                "src_ip": src,
                "src_port": 40000,
                "dst_ip": dst,
                "dst_port": port,
                "protocol": protocol,
                "src_bytes": 1000,
                "dst_bytes": 70,
                **columns,
            }
        )
    )


def one(table, column):
    return table[column].iloc[0]


@pytest.mark.parametrize(
    ("src", "dst", "expected"),
    [
        ("10.0.0.5", "203.0.113.7", "outbound"),
        ("203.0.113.7", "10.0.0.5", "inbound"),
        ("10.0.0.5", "192.168.1.1", "internal"),
        ("203.0.113.7", "198.51.100.1", "external"),
        ("fd00::1", "2001:db8::1", "outbound"),
        ("fe80::1", "fd00::2", "internal"),
        ("127.0.0.1", "127.0.0.1", "internal"),
        ("10.0.0.5", "224.0.0.251", "internal"),
        ("10.0.0.5", "255.255.255.255", "internal"),
        ("0.0.0.0", "255.255.255.255", "unknown"),
        ("::ffff:10.0.0.5", "203.0.113.7", "outbound"),
    ],
)
def test_direction_follows_the_home_networks(src, dst, expected):
    assert one(orient(flow(src, dst), PRIVATE_NETWORKS), "direction") == expected


def test_up_is_local_to_remote_whoever_opened_the_connection():
    opened = orient(flow(), PRIVATE_NETWORKS)
    accepted = orient(flow("203.0.113.7", "10.0.0.5", 22), PRIVATE_NETWORKS)
    assert (one(opened, "up_bytes"), one(opened, "down_bytes")) == (1000, 70)
    assert (one(accepted, "up_bytes"), one(accepted, "down_bytes")) == (70, 1000)
    assert one(accepted, "local_ip") == "10.0.0.5"
    assert one(accepted, "remote_ip") == "203.0.113.7"


def test_rows_of_oriented_flows_are_those_of_the_table():
    flows = pd.concat(
        [
            flow(src_payload_bytes=9, app="HTTP"),
            flow(
                "203.0.113.7", "10.0.0.5", 22, dst_payload_bytes=7, dst_verdict="text"
            ),
            flow("203.0.113.7", "224.0.0.1", server_name="a.example.com"),
        ],
        ignore_index=True,
    )
    whole = orient(flows, PRIVATE_NETWORKS)
    names = [*whole.named, *whole.values, "start", "up_verdict", "down_payload_bytes"]
    table = whole[names]
    assert table["up_verdict"].tolist()[1] == "text"
    for rows in (slice(1, 3), np.array([2, 0]), np.array([False, True, False])):
        some = whole.rows(rows)
        pd.testing.assert_frame_equal(some[names], table.iloc[rows])
        again = some.rows(slice(0, 1))
        pd.testing.assert_frame_equal(again[names], table.iloc[rows].iloc[:1])
        assert len(again) == 1
        for name in ("up_payload_bytes", "down_payload_bytes", "up_volume"):
            expected = whole[name].iloc[rows].astype("float64")
            assert np.array_equal(some.numbers(name), expected, equal_nan=True)
    with pytest.raises(KeyError):
        whole["nothing"]


def test_without_a_local_end_up_is_initiator_to_responder():
    table = orient(flow("203.0.113.7", "198.51.100.1"), PRIVATE_NETWORKS)
    assert (one(table, "local_ip"), one(table, "up_bytes")) == ("203.0.113.7", 1000)


def test_home_networks_override_the_private_ones():
    home = parse_networks(["203.0.113.0/24"])
    assert one(orient(flow(), home), "direction") == "inbound"


@pytest.mark.parametrize("bad", [["10.0.0.0/33"], ["office"], [""], []])
def test_a_home_network_that_is_none_is_named(bad):
    with pytest.raises(OptionError, match="home network"):
        parse_networks(bad)


def test_multicast_and_broadcast_are_named():
    assert one(orient(flow(dst="224.0.0.251"), PRIVATE_NETWORKS), "place") == (
        "multicast 224.0.0.251"
    )
    assert one(orient(flow(dst="255.255.255.255"), PRIVATE_NETWORKS), "place") == (
        "broadcast 255.255.255.255"
    )


@given(st.ip_addresses())
def test_every_address_lies_in_its_network(address):
    table = orient(flow(dst=str(address)), PRIVATE_NETWORKS)
    network = ipaddress.ip_network(one(table, "network"))
    assert address in network
    assert network.prefixlen == (24 if address.version == 4 else 48)


@pytest.mark.parametrize(
    ("port", "protocol", "expected", "registered"),
    [
        (443, 6, "https", True),
        (443, 17, "https/udp", True),
        (53, 17, "domain/udp", True),
        (8443, 6, "tcp/8443", False),
        (40001, 6, "tcp/high", False),
        (0, 1, "icmp", True),
        (0, 47, "gre", True),
        (0, 200, "ip-200", True),
    ],
)
def test_services_are_named_by_the_registry(port, protocol, expected, registered):
    name = one(orient(flow(port=port, protocol=protocol), PRIVATE_NETWORKS), "service")
    assert name == expected
    assert is_registered(name) == registered


def test_passive_ftp_is_one_service_over_all_ports():
    flows = pd.concat([flow(port=p, app="FTP_DATA") for p in (20, 41000, 52000)])
    assert set(orient(flows, PRIVATE_NETWORKS)["service"]) == {"ftp-data"}


def test_the_registry_ships_with_the_package():
    assert iana_services()[6, 22] == "ssh"
    assert len(iana_services()) > 250


def test_volume_takes_headers_off_where_payload_is_not_visible():
    """A pure download acknowledges: that is no upload."""
    acks = flow(src_bytes=52 * 100, src_packets=100, dst_bytes=150_000, dst_packets=100)
    assert one(orient(acks, PRIVATE_NETWORKS), "up_volume") == 0
    seen = flow(src_payload_bytes=700)
    assert one(orient(seen, PRIVATE_NETWORKS), "up_volume") == 700
    bare = flow()
    assert one(orient(bare, PRIVATE_NETWORKS), "up_volume") == 1000


# --- home networks that nobody gave ---------------------------------------------------


def _moved(flows, networks):
    """Give the hosts of a made-up site public addresses, by turns in some networks."""
    hosts = sorted(set(flows["src_ip"]))
    moved = {h: networks[i % len(networks)].format(i + 1) for i, h in enumerate(hosts)}
    return flows.assign(src_ip=flows["src_ip"].map(moved).astype("str"))


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        (("147.32.84.{}",), {"147.32.0.0/16"}),
        (("147.32.84.{}", "193.84.5.{}"), {"147.32.0.0/16", "193.84.0.0/16"}),
        (("2001:db8:7:1::{}",), {"2001:db8:7::/48"}),
    ],
)
def test_a_site_of_public_addresses_is_found(networks, expected):
    flows = _moved(office(600), networks)
    found = infer_networks(flows)
    assert set(found) - set(PRIVATE_NETWORKS) == expected
    assert (orient(flows, found)["direction"] == "outbound").all()


def test_a_farm_of_servers_is_found():
    """All connections come in, from everywhere."""
    rng = np.random.default_rng(0)
    flows = office(400)
    ends = rng.integers(1, 223, (400, 4))
    flows["src_ip"] = pd.array([f"{a}.{b}.{c}.{d}" for a, b, c, d in ends], "str")
    flows["dst_ip"] = "147.32.84.7"
    assert set(infer_networks(flows)) - set(PRIVATE_NETWORKS) == {"147.32.0.0/16"}


def test_private_addresses_need_no_guess():
    assert infer_networks(office(200)) == PRIVATE_NETWORKS
    assert infer_networks(office(200).iloc[:0]) == PRIVATE_NETWORKS


def test_where_no_few_networks_explain_the_flows_nothing_is_guessed():
    """A tap on a backbone: any host talks to any other."""
    rng = np.random.default_rng(0)
    flows = office(400)
    for side in ("src", "dst"):
        ends = rng.integers(1, 223, (400, 4))
        flows[f"{side}_ip"] = pd.array(
            [f"{a}.{b}.{c}.{d}" for a, b, c, d in ends], "str"
        )
    assert infer_networks(flows) == PRIVATE_NETWORKS


def test_names_of_the_link_lie_behind_no_host():
    """A NetBIOS broadcast is not data that leaves, whatever name it holds."""
    rows = [
        flow(dst="10.0.3.255", port=138, protocol=17, server_name="user-pc"),
        flow(dst="10.0.3.255", port=137, protocol=17, server_name="isatap"),
        flow(dst="203.0.113.7", port=138, protocol=17, server_name="user-pc"),
        flow(dst="10.0.0.53", port=53, protocol=17, server_name="a.example"),
    ]
    oriented = orient(pd.concat(rows, ignore_index=True), PRIVATE_NETWORKS)
    assert stays_inside(oriented).tolist() == [True, True, False, False]


def test_a_name_without_letters_or_digits_is_none():
    """As nDPI takes one from an FTP banner that begins with a ruler."""
    rows = [flow(server_name="---------"), flow(server_name="a-b.example")]
    oriented = orient(pd.concat(rows, ignore_index=True), PRIVATE_NETWORKS)
    assert oriented["place"].tolist() == ["203.0.113.7", "a-b.example"]
