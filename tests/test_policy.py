"""Policy files: what they say is understood, or refused in one clear error."""

from __future__ import annotations

import ast
import datetime as dt
import re
import textwrap
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilml import policy as room
from exfilml.exceptions import PolicyError
from exfilml.policy import CLASSES, HANDSHAKES, Policy

ROOT = Path(__file__).parent.parent
APPROVAL = {
    "place": "vault.example",
    "payload": "tls",
    "max_upload_per_day": "2 GB",
    "reason": "backup",
    "owner": "dev team",
    "expires": dt.date(2027, 1, 1),
}
KEYS = (
    *("home", "nat", "resolvers", "proxies", "mail_relays", "segment", "approve"),
    *("network", "services", "name", "service", "host", "reason", "owner", "expires"),
    *("place", "payload", "max_upload_per_day"),
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["10.0.0.0/8", "https", "tls", "2 GB", "a.example", "tcp/99999"])
    | st.dates()
    | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(max_size=8), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def approving(**changes):
    """A policy of one approval with some keys changed, None to leave one out."""
    table = {k: v for k, v in {**APPROVAL, **changes}.items() if v is not None}
    return Policy.parse({"approve": [table]}, "office.toml")


@given(st.dictionaries(st.sampled_from(KEYS[:7]) | st.text(max_size=8), VALUES))
def test_any_table_is_a_policy_or_one_error(table):
    try:
        policy = Policy.parse(table, "office.toml")
    except PolicyError as error:
        text = str(error)
    else:
        assert isinstance(policy, Policy)
        return
    assert text.startswith("office.toml")
    assert "\n" not in text


@given(st.sampled_from([k for k in KEYS if k not in {"home", "nat"}]), VALUES)
def test_any_value_in_an_approval_is_understood_or_named(key, value):
    try:
        approving(**{key: value})
    except PolicyError as error:
        text = str(error)
    else:
        return
    assert "[[approve]] number 1" in text
    assert key in text


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_file_is_a_policy_or_one_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    try:
        Policy.read(path)
    except PolicyError as error:
        text = str(error)
    else:
        return
    assert str(path) in text


def test_everything_that_can_be_said_is_understood():
    policy = Policy.parse(
        {
            "home": ["10.20.0.0/16", "2001:db8::/32"],
            "nat": "10.20.0.1",
            "resolvers": ["10.20.0.53", "192.0.2.53"],
            "proxies": ["10.20.0.80"],
            "mail_relays": ["10.20.0.24/30"],
            "segment": [{"network": "10.20.3.0/24", "services": []}],
            "approve": [{**APPROVAL, "host": "10.20.2.22", "service": ["ssh"]}],
        }
    )
    assert policy.home == ("10.20.0.0/16", "2001:db8::/32")
    assert policy.resolvers.covers("192.0.2.53")
    assert policy.mail_relays.covers("10.20.0.26")
    assert policy.segments[0].name == "10.20.3.0/24"
    approval = policy.approvals[0]
    assert approval.max_upload_per_day == 2_000_000_000
    assert approval.places == {"vault.example"}
    assert approval.expires == dt.date(2027, 1, 1)


def test_the_example_of_the_docstring_is_a_policy_with_every_key():
    doc = ast.get_docstring(ast.parse(Path(room.__file__).read_text(encoding="utf-8")))
    example = textwrap.dedent(
        re.search(r"code-block:: toml\n\n(.*?)\n\nWhere", doc, re.DOTALL)[1]
    )
    assert Policy.parse(tomllib.loads(example)).segments[0].name == "finance"
    for key in KEYS:
        assert re.search(rf"\b{key}\b", example), key


@pytest.mark.parametrize(
    ("given_size", "expected"),
    [
        ("2 GB", 2 * 10**9),
        ("1.5 kB", 1500),
        ("512 MiB", 512 * 2**20),
        (7, 7),
        ("9B", 9),
    ],
)
def test_sizes_are_bytes_or_texts(given_size, expected):
    policy = approving(max_upload_per_day=given_size)
    assert policy.approvals[0].max_upload_per_day == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("domain", {"domain", "domain/udp"}),
        ("domain/udp", {"domain/udp"}),
        ("domain/tcp", {"domain"}),
        ("udp/53", {"domain/udp"}),
        ("tcp/8443", {"tcp/8443"}),
        ("tcp/50000", {"tcp/high"}),
        ("tcp/high", {"tcp/high"}),
        ("icmp", {"icmp"}),
    ],
)
def test_services_are_named_as_in_the_ranking(text, expected):
    assert approving(service=text).approvals[0].services == expected


def test_names_are_compared_as_packets_carry_them():
    places = approving(place=["Bücher.example.", "WWW.example"]).approvals[0].places
    assert places == {"xn--bcher-kva.example", "www.example"}


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"onwer": "x"}, ["unknown key 'onwer'", "did you mean 'owner'"]),
        ({"owner": None}, ["owner is missing", "expected a text"]),
        ({"reason": " "}, ["reason = ' '", "expected a text"]),
        ({"expires": None}, ["expires is missing", "2027-01-01"]),
        ({"expires": "2027-01-01"}, ["'2027-01-01'", "without quotes"]),
        (
            {"expires": dt.datetime(2027, 1, 1, tzinfo=dt.UTC)},
            ["expires", "without quotes or time"],
        ),
        ({"payload": "shh"}, ["'shh'", "did you mean 'ssh'", "opaque"]),
        ({"payload": []}, ["an empty list says nothing"]),
        ({"max_upload_per_day": None}, ["max_upload_per_day is missing"]),
        ({"max_upload_per_day": "2 gigs"}, ["'2 gigs'", "'2 GB'"]),
        ({"max_upload_per_day": 1.5}, ["1.5", "expected bytes"]),
        ({"max_upload_per_day": True}, ["True", "expected bytes"]),
        ({"max_upload_per_day": 0}, ["out of range"]),
        ({"max_upload_per_day": "9999999 TB"}, ["out of range"]),
        ({"service": "htps"}, ["'htps' is no service", "did you mean 'https'"]),
        ({"service": "tcp/70000"}, ["'tcp/70000' is no service"]),
        ({"place": None}, ["place and network are both missing"]),
        ({"place": "*.vault.example"}, ["write 'vault.example'"]),
        ({"place": "192.0.2.1"}, ["behind the key network"]),
        ({"place": "https://vault.example/x"}, ["no host name"]),
        ({"place": "a..b"}, ["place = 'a..b'"]),
        ({"network": "10.0.0.5/8"}, ["has host bits set"]),
        ({"host": ["10.0.0.1", 5]}, ["host = ['10.0.0.1', 5]", "expected networks"]),
    ],
)
def test_each_mistake_names_file_table_key_and_what_was_expected(changes, texts):
    with pytest.raises(PolicyError) as caught:
        approving(**changes)
    for text in ("office.toml, [[approve]] number 1: ", *texts):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"resolver": []}, "did you mean 'resolvers'"),
        ({"home": []}, "an empty list says nothing"),
        ({"approve": {"place": "x"}}, r"\[\[approve\]\]"),
        ({"approve": ["x"]}, "expected a table"),
        ({"segment": [{"network": "10.0.0.0/8"}]}, "services is missing"),
        ({"segment": [{"services": []}]}, "network is missing"),
    ],
)
def test_mistakes_outside_of_approvals_are_named_too(table, text):
    with pytest.raises(PolicyError, match=text):
        Policy.parse(table)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"home = [", "not a TOML file"),
        (b"\xff\xfe", "not a TOML file"),
        (b"x = " + b"[" * 5000, "not a TOML file"),
        (b"x = " + b"9" * 5000, "not a TOML file"),
        (b"#" * 16_000_001, "more than 16 MB"),
    ],
)
def test_a_file_that_is_no_policy_is_named(tmp_path, data, text):
    (tmp_path / "p.toml").write_bytes(data)
    with pytest.raises(PolicyError, match=text):
        Policy.of(tmp_path / "p.toml")


def test_a_path_that_leads_nowhere_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.toml", "a\0b"):
        with pytest.raises(PolicyError, match="cannot be read"):
            Policy.of(path)
    with pytest.raises(PolicyError, match=r"expected an exfilml\.Policy or"):
        Policy.of({"home": []})


def test_every_handshake_that_payload_names_is_a_class():
    """Read from the source: an approval can name whatever a flow may show."""
    names = set()
    for file in ("_facts.py", "_verdict.py"):
        tree = ast.parse((ROOT / "exfilml/payload" / file).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and "_handshake" in node.name:
                returned = [n for n in ast.walk(node) if isinstance(n, ast.Return)]
                names |= {c.value for r in returned for c in constants(r)}
            if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") in {
                "_PREFIXES",
                "_DATAGRAMS",
            }:
                names |= constants_of_pairs(node.value)
            if isinstance(node, ast.Assign):
                targets = [t for x in node.targets for t in ast.walk(x)]
                if any(getattr(t, "attr", "") == "handshake" for t in targets):
                    names |= {c.value for c in constants(node.value)}
    assert {"tls", "ssh", "rtp", "whatsapp", "zrtp", "ipsec"} <= names
    assert names <= set(HANDSHAKES) <= set(CLASSES)


def constants(tree):
    return [
        c
        for c in ast.walk(tree)
        if isinstance(c, ast.Constant) and isinstance(c.value, str)
    ]


def constants_of_pairs(tree):
    return {entry.elts[-1].value for entry in tree.elts}


def test_a_mark_of_byte_order_is_no_mistake(tmp_path):
    """Windows editors begin a text with one, and end lines their own way."""
    path = tmp_path / "policy.toml"
    path.write_bytes(b'\xef\xbb\xbfhome = "10.0.0.0/8"\r\nnat = "10.0.0.1"\r\n')
    assert Policy.read(path).home == ("10.0.0.0/8",)
    path.write_bytes(b"\xff\xfeh\x00")
    with pytest.raises(PolicyError, match="not a TOML file: no text in UTF-8"):
        Policy.read(path)
