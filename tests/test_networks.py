"""Sets of networks: what they cover, and what they refuse to be."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilml.networks import NO_NETWORKS, Networks, address_numbers

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@st.composite
def networks(draw):
    """A network of any length, about one of a few addresses so that it may hold them."""
    address = draw(ADDRESSES)
    length = draw(st.integers(0, address.max_prefixlen))
    return ipaddress.ip_network((address, length), strict=False)


@given(st.lists(networks(), max_size=4), st.lists(ADDRESSES, max_size=6))
def test_covers_what_the_standard_library_says(nets, addresses):
    """IPv4 inside IPv6 networks that hold the mapped range counts as well."""
    addresses += [n[0] for n in nets] + [n[-1] for n in nets]
    ours = Networks.parse(str(n) for n in nets)

    def inside(address, network):
        if address.version == 4 and network.version == 6:
            address = ipaddress.IPv6Address(f"::ffff:{address}")
        elif address.version == 6 and network.version == 4:
            address = address.ipv4_mapped
        return address is not None and address in network

    expected = [any(inside(a, n) for n in nets) for a in addresses]
    assert expected == [ours.covers(str(a)) for a in addresses]
    found = ours.among(address_numbers(str(a) for a in addresses))
    assert expected == found.tolist()


@given(ADDRESSES)
def test_an_address_is_a_network_of_one(address):
    ours = Networks.parse([str(address)])
    assert ours.texts == (str(address),)
    assert ours.covers(str(address))


@pytest.mark.parametrize("text", ["10.0.0.5/8", "moon", "", "10.0.0.0/33", "10.1"])
def test_a_network_is_never_larger_than_what_was_written(text):
    with pytest.raises(ValueError, match=r".+"):
        Networks.parse([text])


def test_no_networks_cover_nothing():
    assert not NO_NETWORKS
    assert not NO_NETWORKS.covers("10.0.0.1")
    assert address_numbers([]).shape == (0, 2)
    assert address_numbers([None]).tolist() == [[0, 0]]
    assert address_numbers(["10.0.0.1"]).dtype == np.uint64


def test_many_networks_are_counted_not_listed():
    assert str(Networks.parse([f"10.0.0.{i}" for i in range(5)])) == (
        "10.0.0.0, 10.0.0.1, 10.0.0.2 and 2 more"
    )
