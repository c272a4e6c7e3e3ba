"""A host name belongs to the domain that somebody registered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilml.domains import REMEMBERED, registered_domain


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cdn7.static.example.com", "example.com"),
        ("WWW.Example.CO.UK.", "example.co.uk"),
        ("bucket.s3.amazonaws.com", "bucket.s3.amazonaws.com"),
        ("host.example.com:8080", "example.com"),
        ("printer", "printer"),
        ("203.0.113.7", None),
        ("203.0.113.7:8080", None),
        ("[2001:db8::1]", None),
        (".cut.from.the.left.example.com", "example.com"),
        ("", None),
        ("...", None),
    ],
)
def test_registered_domain(name, expected):
    assert registered_domain(name) == expected


@given(st.text())
def test_no_name_breaks_the_domain(name):
    """Names come from packets: any text gives a name or None."""
    domain = registered_domain(name)
    assert domain is None or isinstance(domain, str)


def test_names_from_packets_do_not_fill_the_memory():
    for number in range(2 * REMEMBERED):
        registered_domain(f"host{number}.example.com")
    assert registered_domain.cache_info().currsize == REMEMBERED
