"""Threat intelligence: what files claim is matched, or refused and counted."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import pickle
import socket
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import exfilml
from exfilml.domains import are_public_suffixes, is_public_suffix
from exfilml.exceptions import IntelError, IntelWarning, OptionError
from exfilml.triage._ranges import Ranges
from exfilml.triage._stix_pattern import Alternative, NoPatternError, understand
from exfilml.triage._suffixes import endings
from exfilml.triage._times import time_of
from exfilml.triage.intel import MATCH_DTYPES

START = pd.Timestamp("2026-03-01T12:00:00", tz="UTC")
CAPPED = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def flow(dst="8.8.4.4", name=None, **more):
    return {
        "start": START,
        "src_ip": "10.0.0.1",
        "src_port": 50000,
        "dst_ip": dst,
        "dst_port": 443,
        "protocol": 6,
        "src_bytes": 1000,
        "dst_bytes": 100,
        "server_name": name,
        **more,
    }


def flows_of(*rows, index=None):
    return pd.DataFrame(list(rows), index=index)


@pytest.fixture
def read(tmp_path):
    """Write texts, or JSON, into files and read them; warnings are not news here."""

    def read_all(*contents, names=None, **options):
        paths = []
        for n, content in enumerate(contents):
            name = names[n] if names else f"list{n}.txt"
            data = content
            if not isinstance(content, str | bytes):
                data = json.dumps(content)
            path = tmp_path / name
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
            paths.append(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IntelWarning)
            return exfilml.read_intel(paths, **options)

    return read_all


def found(intel, *rows):
    """The indicators that flows meet, row by row."""
    met = intel.match(flows_of(*rows))
    return [sorted(met["indicator"][met.index == row]) for row in range(len(rows))]


def left_out(intel):
    return dict(zip(intel.left_out["reason"], intel.left_out["count"], strict=True))


# What is matched, against a plain oracle.

FOUR = st.builds(
    "{}.{}.{}.{}".format,
    st.sampled_from([45, 46]),
    *[st.sampled_from([0, 1, 127, 128, 255])] * 3,
)
SIX = st.builds(
    "2a02:{:x}::{:x}".format,
    st.sampled_from([0, 1, 0x8000, 0xFFFF]),
    st.sampled_from([0, 1, 2, 0xFFFF]),
)
NAME = st.lists(st.sampled_from(["a", "b", "evil"]), min_size=1, max_size=4).map(
    lambda labels: ".".join([*labels, "example", "com"])
)


def network(text, length):
    return str(ipaddress.ip_network(f"{text}/{length}", strict=False))


INDICATOR = st.one_of(
    FOUR,
    SIX,
    st.builds(network, FOUR, st.integers(8, 31)),
    st.builds(network, SIX, st.integers(16, 127)),
    st.builds("{}:{}".format, FOUR, st.sampled_from([80, 443])),
    NAME,
    NAME.map("*.{}".format),
    NAME.map("http://{}/path".format),
)
FLOW = st.builds(
    flow,
    st.one_of(FOUR, SIX, FOUR.map("::ffff:{}".format)),
    st.one_of(
        st.none(),
        NAME,
        NAME.map(str.upper),
        FOUR,
        st.builds("{}:{}".format, FOUR, st.sampled_from([80, 443])),
        SIX.map("[{}]:80".format),
    ),
    dst_port=st.sampled_from([80, 443]),
)


def plain(text):
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def oracle(indicator, row):
    """Say whether a flow meets an indicator, one at a time."""
    ends = [(plain(row["dst_ip"]), row["dst_port"])]
    host = (row["server_name"] or "").lower()
    try:
        ends.append((plain(host), row["dst_port"]))
    except ValueError:
        bare, _, port = host.rpartition(":")
        with contextlib.suppress(ValueError):
            ends.append((plain(bare.strip("[]")), int(port)))
    if indicator.startswith("http://"):
        return host == indicator[7:].partition("/")[0]
    if indicator.startswith("*."):
        return host.endswith(indicator[1:])
    if indicator.endswith(".com"):
        return host == indicator or host.endswith("." + indicator)
    bare, colon, port = indicator.partition(":")
    if colon and "." in bare:
        return any(str(a) == bare and p == int(port) for a, p in ends)
    net = ipaddress.ip_network(indicator)
    return any(a in net for a, _ in ends if a.version == net.version)


@CAPPED
@given(
    st.lists(INDICATOR, min_size=1, max_size=30),
    st.lists(FLOW, max_size=12),
    # Few and many texts are told apart in different ways.
    st.sampled_from([1, 6]),
)
def test_matches_are_those_of_a_plain_loop(read, indicators, rows, times):
    rows = rows * times
    indicators = list(dict.fromkeys(indicators))
    intel = read("\n".join(indicators))
    assert intel.left_out.empty
    table = flows_of(*rows) if rows else exfilml.validate_flows(flows_of(flow()))[:0]
    met = intel.match(table)
    expected = [
        (n, text)
        for n, row in enumerate(rows)
        for text in indicators
        if oracle(text, row)
    ]
    assert sorted(expected) == sorted(zip(met.index, met["indicator"], strict=True))


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 8)), max_size=40),
    st.lists(st.integers(0, 255), max_size=20),
)
def test_overlapping_networks_are_all_found(nets, keys):
    """Overlaps, repetitions and neighbours, in a space of 256 addresses."""
    length = np.array([n for _, n in nets], np.int64)
    size = 1 << (8 - length)
    first = np.array([a for a, _ in nets], np.int64) // size * size
    last = first + size - 1
    ranges, place = Ranges.of(first.astype(np.uint32), last.astype(np.uint32), length)
    rows, networks = ranges.holding(np.array(keys, np.uint32))
    expected = {
        (n, int(place[i]))
        for n, key in enumerate(keys)
        for i in range(len(nets))
        if first[i] <= key <= last[i]
    }
    pairs = list(zip(rows.tolist(), networks.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected


@given(st.lists(NAME, max_size=20), st.lists(NAME, max_size=20, unique=True))
def test_names_end_where_labels_end(names, known):
    import pyarrow as pa

    at, met, below = endings(pa.array(names, pa.string()), pa.array(known, pa.string()))
    expected = {
        (n, k, name != other)
        for n, name in enumerate(names)
        for k, other in enumerate(known)
        if f".{name}".endswith(f".{other}")
    }
    assert set(zip(at.tolist(), met.tolist(), below.tolist(), strict=True)) == expected


def test_a_name_of_a_hundred_labels_is_found(read):
    name = ".".join(["x"] * 100 + ["evil", "com"])
    assert found(read("evil.com"), flow(name=name)) == [["evil.com"]]


# What a list can look like.


@pytest.mark.parametrize(
    ("line", "indicator", "kind"),
    [
        ("hxxp://evil[.]example.com/a?b=1#c", "http://evil.example.com/a?b=1#c", "url"),
        ("hXXps[://]Evil[.]Example(dot)com", "https://Evil.Example.com", "url"),
        ("https://user:secret@evil.example.com:8443/", None, "url"),
        ("evil.example.com/path", "evil.example.com/path", "url"),
        ("https://[2a02::1]:8080/x", None, "url"),
        ("http://45.1.2.3/x", None, "url"),
        ("45.1[.]2[.]3", "45.1.2.3", "address"),
        ("45.1.2.3/32", "45.1.2.3/32", "address"),
        ("45.1.2.0/24 ; SBL1", "45.1.2.0/24", "network"),
        ("45.1.2.3-45.1.2.9", "45.1.2.3-45.1.2.9", "network"),
        ("45.1.2.3:8080", "45.1.2.3:8080", "address"),
        ("2A02:0:0::1", "2a02:0:0::1", "address"),
        ("[2a02::1]:443", "[2a02::1]:443", "address"),
        ("2a02:1::/32", None, "network"),
        ("EVIL.example.com.", "evil.example.com", "domain"),
        ("evil[.example.com", None, None),
        ("0.0.0.0 evil.example.com # hosts file", "evil.example.com", "domain"),
        ("||evil.example.com^", "evil.example.com", "domain"),
        ('"evil.example.com",', "evil.example.com", "domain"),
        ("bücher.example.com", "bücher.example.com", "domain"),
        ("_dmarc.evil.example.com", "_dmarc.evil.example.com", "domain"),
        ("E7D705A3286E19EA42F587B344EE6865", None, "fingerprint"),
        ("t13d1516h2_8daaf6152771_e5627efa2ab1", None, "fingerprint"),
        ("1.2.3.4.5", None, None),
        ("45.01.2.3", None, None),
        ("45.1.2.3/24", None, None),
        ("45.1.2.3/33", None, None),
        ("45.1.2.3:99999", None, None),
        ("45.1.2.9-45.1.2.3", None, None),
        ("localhost", None, None),
        ("mail@example.com", None, None),
        ("d" * 64, None, None),
    ],
)
def test_a_line_is_what_people_mean_by_it(read, line, indicator, kind):
    intel = read(f"# a list\n{line}\nother.example.org\n")
    table = intel.indicators.query("indicator != 'other.example.org'")
    if kind is None:
        assert table.empty
        assert intel.left_out["count"].sum() == 1
    else:
        assert kind in set(table["kind"])
        if indicator:
            assert set(table["indicator"]) == {indicator}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_ends_of_lines_do_not_matter(read, encoding, end):
    text = end.join(["// comment", "45.1.2.3", "", "evil.example.com"])
    intel = read(text.encode(encoding))
    assert intel.indicators["indicator"].tolist() == ["45.1.2.3", "evil.example.com"]


def test_names_match_below_but_not_beside(read):
    intel = read("evil.com\n")
    rows = [flow(name=n) for n in ("evil.com", "a.evil.com", "notevil.com", "com")]
    assert found(intel, *rows) == [["evil.com"], ["evil.com"], [], []]


def test_the_host_of_a_url_is_no_domain(read):
    intel = read("https://docs.example.com/malware")
    rows = [flow(name=n) for n in ("docs.example.com", "a.docs.example.com")]
    assert [len(f) for f in found(intel, *rows)] == [1, 0]


def test_suffixes_cover_nobody_elses_names(read):
    intel = read("co.uk\ngithub.io\n*.duckdns.org\nevil.co.uk\n")
    assert left_out(intel) == {"public suffixes, below which everyone has names": 1}
    rows = [
        flow(name=n)
        for n in (
            "github.io",
            "me.github.io",
            "a.duckdns.org",
            "duckdns.org",
            "x.co.uk",
        )
    ]
    assert found(intel, *rows) == [["github.io"], [], ["*.duckdns.org"], [], []]


@pytest.mark.parametrize(
    ("name", "any_", "public"),
    [
        ("co.uk", True, True),
        ("github.io", True, False),
        ("anything.ck", True, True),
        ("www.ck", False, False),
        ("example.com", False, False),
    ],
)
def test_public_suffixes(name, any_, public):
    import pyarrow as pa

    assert are_public_suffixes(pa.array([name]))[0] == any_
    assert is_public_suffix(name) == public


def test_networks_that_would_match_everybody_are_refused(read):
    text = "\n".join(
        [
            *("0.0.0.0/0", "44.0.0.0/7", "::/0", "2000::/3"),
            *("10.1.2.3", "192.168.0.0/16", "127.0.0.1", "224.0.0.5", "fe80::1"),
            *("100.64.1.1", "::ffff:10.0.0.1", "255.255.255.255", "::1"),
            *("45.9.1.2", "45.9.0.0/16", "45.8.0.0/13"),
            *("44.0.0.1-99.0.0.1", "45.8.255.255-45.9.1.0", "9.255.255.1-10.0.0.1"),
            "46.1.1.1",
        ]
    )
    intel = read(text, home="45.9.0.0/20")
    assert intel.indicators["indicator"].tolist() == ["46.1.1.1"]
    assert left_out(intel) == {
        "networks larger than /8 (version 6: /16)": 5,
        "entries with addresses of the site's own": 4,
        "addresses of special use (private, loopback, multicast, reserved)": 10,
    }


def test_a_refusal_is_told_with_counts(tmp_path):
    path = tmp_path / "feed.txt"
    path.write_text("0.0.0.0/0\n45.1.2.3\n")
    with pytest.warns(IntelWarning, match=r"feed\.txt: 1 networks larger than /8"):
        exfilml.read_intel(path)


def test_no_home_network_is_refused(read):
    with pytest.raises(OptionError, match="home network"):
        read("45.1.2.3", home="office")


def test_a_proxy_is_asked_for_an_address(read):
    intel = read("45.1.2.3:8080\n45.1.2.0/24\n2a02::1\n")
    rows = [
        flow("10.0.0.9", "45.1.2.3:8080"),
        flow("10.0.0.9", "45.1.2.3:443"),
        flow("10.0.0.9", "[2a02::1]:443"),
        flow("10.0.0.9", "2A02:0::1"),
    ]
    assert found(intel, *rows) == [
        ["45.1.2.0/24", "45.1.2.3:8080"],
        ["45.1.2.0/24"],
        ["2a02::1"],
        ["2a02::1"],
    ]


def test_each_side_and_each_column_is_named(read):
    intel = read("45.1.2.3\nevil.com\ne7d705a3286e19ea42f587b344ee6865\n")
    rows = [
        flow(src_ip="45.1.2.3", dst_ip="10.0.0.1"),
        flow(src_domain="evil.com"),
        flow(fingerprint="E7D705A3286E19EA42F587B344EE6865"),
    ]
    met = intel.match(flows_of(*rows))
    assert met["matched"].tolist() == ["src_ip", "src_domain", "fingerprint"]
    assert met["value"].iloc[0] == "45.1.2.3"


# Time, sources and contradictions.

CSV = "indicator,source,confidence,tlp,valid_from,valid_until,reference\n"


def test_validity_is_judged_by_the_time_of_the_flow(read):
    intel = read(
        CSV + "45.1.2.3,a,,,,2026-03-01T12:00:00Z,\n"
        "45.1.2.3,b,,,,2026-03-01T12:00:01Z,\n"
        "45.1.2.3,c,,,2026-03-02,,\n"
    )
    met = intel.match(flows_of(flow("45.1.2.3")))
    assert met["source"].tolist() == ["b", "c"]
    assert met["early"].tolist() == [False, True]
    assert met.attrs["expired"] == 1


def test_what_had_expired_is_left_out_and_counted(read):
    intel = read(CSV + "45.1.2.3,a,,,,2026-01-01,\n45.1.2.4,a,,,,,\n", at="2026-01-01")
    assert intel.indicators["indicator"].tolist() == ["45.1.2.4"]
    assert left_out(intel) == {"expired indicators": 1}


def test_what_ends_before_it_begins_is_left_out(read):
    intel = read(CSV + "45.1.2.3,a,,,2026-01-02,2026-01-01,\n45.1.2.4,a,,,,,\n")
    assert left_out(intel) == {"indicators that end before they begin": 1}


ROWS = [
    "45.1.2.3,a,90,green,,2025-01-01,x",
    "45.1.2.3,a,50,amber,,2027-01-01,y",
    "45.1.2.3,a,40,red,,2027-01-01,z",
    "45.1.2.3,a,50,amber,,2027-01-01,y",
    "45.1.2.3,b,10,clear,,,w",
]


@given(st.permutations(ROWS))
@CAPPED
def test_contradictions_are_settled_whatever_the_order(read, rows):
    intel = read(CSV + "\n".join(rows))
    table = intel.indicators.sort_values("source")
    assert table["confidence"].tolist() == [50.0, 10.0]
    assert table["tlp"].tolist() == ["red", "clear"]
    assert table["reference"].tolist() == ["y", "w"]
    assert left_out(intel) == {
        "entries that others of their source contradict": 2,
        "repeated entries": 1,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01", "2026-03-01"),
        ("2026-03-01 10:00:00", "2026-03-01T10:00"),
        ("2026-03-01 10:00:00 UTC", "2026-03-01T10:00"),
        ("2026-03-01T10:00:00.5Z", "2026-03-01T10:00:00.5"),
        ("2026-03-01T10:00:00.123456789Z", "2026-03-01T10:00:00.123456"),
        ("2026-03-01T10:00:00+02:00", "2026-03-01T08:00"),
        ("2026-03-01 10:00:00 +0200", "2026-03-01T08:00"),
        ("1772359200", "2026-03-01T10:00"),
        ("1772359200.5", "2026-03-01T10:00:00.5"),
        ("1772359200000", "2026-03-01T10:00"),
        ("now", "NaT"),
        ("2026", "NaT"),
        ("0001-01-01T00:00:00+14:00", "NaT"),
        ("2026-13-01", "NaT"),
        (True, "NaT"),
        (None, "NaT"),
        (float("inf"), "NaT"),
        (10**30, "NaT"),
    ],
)
def test_times_are_read_as_they_are_written(text, expected):
    assert str(time_of(text)) == str(np.datetime64(expected, "us"))


# CSV.


def test_the_columns_of_feeds_are_known(read):
    intel = read(
        "####\n# Feodo\n# first_seen_utc,dst_ip,dst_port,c2_status,malware\n"
        "2026-01-01 00:00:00,45.1.2.3,443,online,Dridex\n"
        "2026-01-01 00:00:00,45.1.2.4,8080,online,Dridex\n",
        '# "first_seen_utc","ioc_id","ioc_value","confidence_level","reporter"\n'
        '"2026-01-01 00:00:00", "12", "45.9.9.9:443", "75", "me, ""you"""\n',
        "ja3_md5,Firstseen,Lastseen,Listingreason\n"
        "e7d705a3286e19ea42f587b344ee6865,2017-07-14 18:08:15,2019,Gozi\n",
        names=["feodo.csv", "threatfox.csv", "sslbl.csv"],
    )
    table = intel.indicators
    assert table["port"].tolist()[:3] == [443, 8080, 443]
    assert table["confidence"].tolist()[2] == 75
    assert table["description"].tolist()[0] == "Dridex"
    assert table["source"].tolist() == ["feodo.csv"] * 2 + [
        "threatfox.csv",
        "sslbl.csv",
    ]
    assert found(intel, flow("45.1.2.3"), flow("45.1.2.4")) == [["45.1.2.3"], []]


def test_a_column_map_says_what_is_what(read):
    intel = read(
        "What;Sure;Bis\n45.1.2.3;high;2030-01-01\nevil.com;150;soon\n;;\n",
        columns={"indicator": "What", "confidence": "Sure", "valid_until": "Bis"},
    )
    assert intel.indicators["indicator"].tolist() == ["45.1.2.3", "evil.com"]
    assert intel.indicators["confidence"].tolist()[0] == 85
    assert left_out(intel) == {
        "confidences that are none (0 to 100 or words)": 1,
        "times of valid_until": 1,
    }


def test_a_quotation_that_never_ends_loses_no_line_silently(read):
    intel = read(
        'indicator,comment\n45.1.2.3,"fine, really"\n45.1.2.4,"open\n'
        "45.1.2.5,x\n45.1.2.6,y\n"
    )
    assert intel.indicators["indicator"].tolist() == [
        "45.1.2.3",
        "45.1.2.5",
        "45.1.2.6",
    ]
    assert left_out(intel) == {
        "lines that have more or fewer fields than the header": 1
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"what": "x"}, "unknown 'what'"),
        ({"indicator": "nothing"}, "no column 'nothing'"),
    ],
)
def test_a_column_map_that_does_not_fit_is_refused(read, columns, message):
    with pytest.raises(IntelError, match=message):
        read("indicator,comment\n45.1.2.3,x\n", columns=columns)


# STIX.


def bundle(*objects):
    return {"type": "bundle", "id": "bundle--1", "objects": list(objects)}


def indicator(pattern, n=1, **more):
    return {
        "type": "indicator",
        "spec_version": "2.1",
        "id": f"indicator--{n}",
        "pattern": pattern,
        "pattern_type": "stix",
        "valid_from": "2026-01-01T00:00:00Z",
        **more,
    }


@pytest.mark.parametrize(
    ("pattern", "alternatives", "partly", "others"),
    [
        ("[ipv4-addr:value = '45.1.2.3']", [("45.1.2.3", "address", None)], 0, 0),
        (
            "[ipv4-addr:value = '45.1.2.3' OR domain-name:value IN ('a.com','b.com')]",
            [
                ("45.1.2.3", "address", None),
                ("a.com", "domain", None),
                ("b.com", "domain", None),
            ],
            *(0, 0),
        ),
        (
            "[ipv4-addr:value ISSUBSET '45.1.0.0/16'] OR [url:value = 'http://a.com/']",
            [("45.1.0.0/16", "address", None), ("http://a.com/", "url", None)],
            *(0, 0),
        ),
        (
            """[network-traffic:dst_ref.type = 'ipv4-addr' AND
            network-traffic:dst_ref.value = '45.1.2.3' AND
            network-traffic:dst_port = 443]""",
            [("45.1.2.3", None, 443)],
            *(0, 0),
        ),
        (
            """[(ipv4-addr:value = '45.1.2.3' OR ipv4-addr:value = '45.1.2.4') AND
            network-traffic:dst_port = 22]""",
            [("45.1.2.3", "address", 22), ("45.1.2.4", "address", 22)],
            *(0, 0),
        ),
        (r"[domain-name:value = 'it\'s.com']", [("it's.com", "domain", None)], 0, 0),
        ("[x-tls:ja3_hash = 'abc']", [("abc", "fingerprint", None)], 0, 0),
        ("[network-traffic:dst_port = 443]", [], 1, 0),
        (
            """[domain-name:value = 'a.com' AND
            domain-name:resolves_to_refs[*].value = '45.1.2.3/32']""",
            [("a.com", "domain", None, "resolves to 45.1.2.3/32")],
            *(0, 0),
        ),
        ("[domain-name:resolves_to_refs[*].value = '45.1.2.3']", [], 1, 0),
        ("[file:hashes.MD5 = 'abc']", [], 0, 1),
        ("[file:name = 'a' AND ipv4-addr:value = '45.1.2.3']", [], 1, 0),
        ("[ipv4-addr:value = '45.1.2.3'] FOLLOWEDBY [file:name = 'a']", [], 1, 0),
        ("[ipv4-addr:value = '45.1.2.3'] AND [file:name = 'a']", [], 1, 0),
        ("[ipv4-addr:value = '45.1.2.3'] REPEATS 5 TIMES", [], 1, 0),
        ("[ipv4-addr:value = '45.1.2.3'] WITHIN 5 SECONDS", [], 1, 0),
        ("[ipv4-addr:value != '45.1.2.3']", [], 0, 1),
        ("[ipv4-addr:value NOT = '45.1.2.3']", [], 0, 1),
        ("[domain-name:value LIKE '%.evil.com']", [], 0, 1),
        ("[domain-name:value MATCHES '.*']", [], 0, 1),
    ],
)
def test_a_pattern_is_understood_or_left_out(pattern, alternatives, partly, others):
    pytest.importorskip("stix2patterns")
    said = understand(pattern)
    assert said.alternatives == [Alternative(*a) for a in alternatives]
    assert (said.partly, said.others) == (partly, others)


@given(st.text(max_size=30) | st.text("[]()'= :.-ORANDaipv4ru1", max_size=60))
def test_any_text_is_a_pattern_or_none(text):
    pytest.importorskip("stix2patterns")
    with contextlib.suppress(NoPatternError):
        understand(text)


def test_without_the_grammar_simple_patterns_are_read(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "exfilml.triage._stix_grammar", None)
    intel = read(bundle(indicator("[ipv4-addr:value = '45.1.2.3']")))
    assert len(intel) == 1
    several = "[ipv4-addr:value = '45.1.2.3' OR ipv4-addr:value = '45.1.2.4']"
    with pytest.raises(IntelError, match=r"install exfilml\[triage\]"):
        read(bundle(indicator(several)))


def test_deep_and_wide_patterns_end(read):
    pytest.importorskip("stix2patterns")
    deep = "[" + "(" * 3000 + "ipv4-addr:value = '45.1.2.3'" + ")" * 3000 + "]"
    side = " OR ".join(["ipv4-addr:value = '45.1.2.3'"] * 20)
    wide = "[" + " AND ".join([f"({side})"] * 6) + "]"
    intel = read(bundle(*(indicator(p, n) for n, p in enumerate([deep, wide]))))
    assert left_out(intel) == {"STIX patterns that are none": 2}


def test_what_a_bundle_says_is_kept(read):
    intel = read(
        bundle(
            {"type": "identity", "id": "identity--1", "name": "Agency"},
            {
                "type": "marking-definition",
                "id": "marking-definition--x",
                "extensions": {"extension-definition--1": {"tlp_2_0": "amber+strict"}},
            },
            indicator(
                "[ipv4-addr:value = '45.1.2.3']",
                created_by_ref="identity--1",
                confidence=80,
                valid_until="2026-06-01T00:00:00.5Z",
                name="Case 7",
                object_marking_refs=[
                    "marking-definition--bab4a63c-aed9-4cf5-a766-dfca5abac2bb",
                    "marking-definition--x",
                ],
            ),
        )
    )
    (row,) = intel.match(flows_of(flow("45.1.2.3"))).to_dict("records")
    assert row["source"] == "Agency"
    assert row["confidence"] == 80
    assert row["tlp"] == "amber+strict"
    assert row["valid_until"] == pd.Timestamp("2026-06-01T00:00:00.5Z")
    assert row["reference"] == "indicator--1"
    assert row["description"] == "Case 7"


def test_what_a_flow_does_not_show_is_said(read):
    pytest.importorskip("stix2patterns")
    pattern = (
        "[domain-name:value = 'evil.com' AND "
        "domain-name:resolves_to_refs[*].value = '45.1.2.3']"
    )
    met = read(bundle(indicator(pattern))).match(flows_of(flow(name="evil.com")))
    assert met["unseen"].tolist() == ["resolves to 45.1.2.3"]


def test_only_the_last_version_of_an_indicator_counts(read):
    old = indicator("[ipv4-addr:value = '45.1.2.3']", modified="2026-01-01T00:00:00Z")
    new = indicator("[ipv4-addr:value = '45.1.2.4']", modified="2026-01-02T00:00:00Z")
    gone = indicator("[ipv4-addr:value = '45.1.2.5']", n=2, revoked=True)
    for objects in ([old, new, gone], [new, gone, old]):
        intel = read(bundle(*objects))
        assert intel.indicators["indicator"].tolist() == ["45.1.2.4"]


def test_malformed_bundles_are_counted_not_fatal(read):
    intel = read(
        bundle(
            None,
            {"id": "x"},
            indicator(None, 1),
            indicator("[ipv4-addr:value = ", 2),
            indicator("alert tcp", 3, pattern_type="snort"),
            {"type": "ipv4-addr", "id": "ipv4-addr--1", "value": "45.1.2.9"},
            indicator("[ipv4-addr:value = '45.1.2.3']", 4, valid_until="never"),
        )
    )
    assert intel.indicators["indicator"].tolist() == ["45.1.2.3"]
    assert left_out(intel) == {
        "STIX objects without a type": 2,
        "STIX patterns that are none": 2,
        "STIX indicators in other pattern languages": 1,
        "STIX objects that are no indicators": 1,
        "times of valid_until": 1,
    }


# MISP.


def attribute(kind, value, **more):
    return {"type": kind, "value": value, "to_ids": True, "uuid": "u1", **more}


EVENT = {
    "Event": {
        "info": "Case 8",
        "Orgc": {"name": "CERT"},
        "Tag": [
            {"name": "tlp:green"},
            {"name": 'misp:confidence-level="fairly-confident"'},
        ],
        "Attribute": [
            attribute("ip-dst", "45.1.2.3"),
            attribute("ip-dst|port", "45.1.2.4|443", Tag=[{"name": "tlp:red"}]),
            attribute("domain|ip", "evil.com|45.1.2.5"),
            attribute("sha256", "d" * 64),
            attribute("ip-dst", "45.1.2.6", to_ids=False),
            attribute("ip-dst", "45.1.2.7", deleted=True),
            attribute("ip-dst|port", "45.1.2.8"),
            "nothing",
        ],
        "Object": [
            {"Attribute": [attribute("ja3-fingerprint-md5", "a" * 32)]},
            {"Attribute": None},
        ],
    }
}


def test_an_event_says_what_is_meant_for_detection(read):
    intel = read(EVENT)
    table = intel.indicators.set_index("indicator")
    assert set(table.index) == {
        *("45.1.2.3", "45.1.2.4", "45.1.2.5", "evil.com", "a" * 32)
    }
    assert set(table["source"]) == {"CERT"}
    assert table.loc["45.1.2.4", "tlp"] == "red"
    assert table.loc["45.1.2.3", "tlp"] == "green"
    assert set(table["confidence"]) == {50.0}
    assert table["valid_until"].isna().all()
    assert left_out(intel) == {
        "MISP attributes of types that flows do not show": 1,
        "MISP attributes that are not meant for detection": 1,
        "deleted MISP attributes": 1,
        "MISP values that do not fit their type": 1,
        "MISP attributes without a type and a value": 1,
        "MISP objects without attributes": 1,
    }


def test_a_feed_is_a_folder(tmp_path):
    uuid = "5a1f2b3c-0000-4000-8000-000000000001"
    (tmp_path / "manifest.json").write_text(json.dumps({uuid: {"info": "x"}}))
    (tmp_path / "hashes.csv").write_text(f"{'a' * 32},{uuid}\n")
    (tmp_path / f"{uuid}.json").write_text(
        json.dumps({"Event": {"Attribute": [attribute("hostname", "evil.com")]}})
    )
    with pytest.warns(IntelWarning, match="file without indicators"):
        intel = exfilml.read_intel(tmp_path)
    assert intel.indicators["indicator"].tolist() == ["evil.com"]


@pytest.mark.parametrize(
    "data",
    [
        {"response": [EVENT]},
        [EVENT],
        {"response": {"Attribute": EVENT["Event"]["Attribute"]}},
    ],
)
def test_exports_hold_events_in_several_ways(read, data):
    assert "45.1.2.3" in set(read(data).indicators["indicator"])


# Bad files.

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(
        [
            "indicator",
            "[ipv4-addr:value = '45.1.2.3']",
            "ip-dst",
            "45.1.2.3",
            "2026-01-01",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "id", "pattern", "objects", "valid_until", "confidence"),
                    *("object_marking_refs", "definition", "extensions", "modified"),
                    *("Event", "Attribute", "Object", "value", "Tag", "name", "to_ids"),
                    *("response", "Orgc", "comment", "info", "uuid", "deleted"),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


def survives(read, content, **options):
    try:
        intel = read(content, **options)
    except IntelError as error:
        text = str(error)
    else:
        intel.match(flows_of(flow("45.1.2.3", "evil.com")))
        return
    assert "\n" not in text
    assert "list0" in text


@CAPPED
@given(JSON, st.sampled_from(["stix", "misp", "misp-attribute", "bare"]))
def test_any_json_is_read_or_refused_in_one_line(read, data, form):
    wrapped = {
        "stix": {
            "type": "bundle",
            "objects": [data, {"type": "indicator", "id": data}],
        },
        "misp": {"Event": {"Attribute": [data], "Object": data, "Tag": data}},
        "misp-attribute": {
            "Event": {
                "Attribute": [{"type": "ip-dst", "value": "45.1.2.3", "Tag": data}],
                "Orgc": data,
            }
        },
        "bare": data,
    }[form]
    survives(read, wrapped)


@CAPPED
@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("confidence", "valid_from", "valid_until", "revoked", "pattern"),
                *("object_marking_refs", "created_by_ref", "name", "modified"),
            ]
        ),
        JSON,
    )
)
def test_any_value_of_an_indicator_is_understood_or_counted(read, more):
    each = indicator("[ipv4-addr:value = '45.1.2.3']")
    survives(read, bundle({**each, **more}))


@CAPPED
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused_in_one_line(read, data):
    survives(read, data)


@CAPPED
@given(st.text("45.1.2/[]()\"',;:|#\n\t\r*hxtp-evil.com \ud7ff\u0130", max_size=120))
def test_any_list_is_read_or_refused(read, text):
    survives(read, text.encode("utf-8", "replace"))


@CAPPED
@given(
    st.lists(
        st.text('a"4,;\n\t#', max_size=12)
        | st.sampled_from(["45.1.2.3", "evil.com", '"x', "2026-01-01"]),
        max_size=12,
    ),
    st.sampled_from([",", ";", "\t"]),
)
def test_any_table_is_read_or_refused(read, cells, separator):
    rows = [separator.join(cells[i : i + 3]) for i in range(0, len(cells), 3)]
    head = separator.join(["indicator", "valid_until", "comment"])
    survives(read, "\n".join([head, *rows]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html><body>Error 404</body></html>", "none of its 1 lines is an indicator"),
        (b"\x1f\x8b\x08\x00rest", "compressed"),
        (b"a\x00b" * 20, "binary file"),
        (b'{"type": "bundle", "objects": [', "begins like JSON"),
        (b'{"hello": 1}', "no STIX bundle and no MISP event"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_what_is_no_list_is_refused(read, data, message):
    with pytest.raises(IntelError, match=message):
        read(data)


def test_paths_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(IntelError, match="cannot be read: No such file"):
        exfilml.read_intel(tmp_path / "nothing.txt")
    with pytest.raises(IntelError, match="an empty folder"):
        exfilml.read_intel(tmp_path)
    with pytest.raises(IntelError, match="got '3', expected the path"):
        exfilml.read_intel(3)
    with pytest.raises(IntelError, match="got no path"):
        exfilml.read_intel([])
    with pytest.raises(IntelError, match="expected the path"):
        exfilml.read_intel([3])


def test_a_time_that_is_none_is_refused(read):
    with pytest.raises(IntelError, match="at: got 'soon'"):
        read("45.1.2.3", at="soon")


@pytest.mark.parametrize("content", ["", "# nothing yet\n"])
def test_an_empty_list_is_told(tmp_path, content):
    (tmp_path / "feed.txt").write_text(content)
    with pytest.warns(IntelWarning, match="1 file without indicators"):
        intel = exfilml.read_intel(tmp_path / "feed.txt")
    assert len(intel) == 0
    assert intel.match(flows_of(flow("45.1.2.3"))).empty


# The contract of tables.


@pytest.fixture
def intel(read):
    return read("45.1.2.3\n45.1.0.0/16\nevil.com\n", EVENT, names=["a.txt", "b.json"])


TABLE = [flow("45.1.2.3"), flow(name="x.evil.com"), flow(), flow("45.1.2.4")]


def test_matches_keep_the_index_and_their_types(intel):
    met = intel.match(flows_of(*TABLE, index=list("abcd")))
    assert {n: str(t) for n, t in met.dtypes.items()} == MATCH_DTYPES
    assert met.index.tolist() == ["a", "a", "a", "b", "b", "d", "d"]
    assert (
        flows_of(*TABLE, index=list("abcd"))
        .join(met[["indicator"]])
        .notna()
        .any(axis=None)
    )


def test_the_order_of_rows_does_not_matter(intel):
    table = flows_of(*TABLE)
    met = intel.match(table)
    turned = intel.match(table.iloc[::-1])
    columns = ["indicator", "source", "matched"]
    key = lambda m: sorted(map(tuple, m[columns].assign(i=m.index).to_numpy()))  # noqa: E731
    assert key(met) == key(turned)
    pieces = pd.concat([intel.match(table.iloc[:1]), intel.match(table.iloc[1:])])
    pd.testing.assert_frame_equal(pieces, met)


def test_flows_are_not_changed_and_further_columns_ignored(intel):
    table = flows_of(*TABLE)
    before = table.copy(deep=True)
    intel.match(table)
    pd.testing.assert_frame_equal(table, before)
    met = intel.match(table.assign(indicator="mine", extra=1))
    pd.testing.assert_frame_equal(met, intel.match(table))


def test_no_flows_no_matches(intel):
    met = intel.match(flows_of(*TABLE).iloc[:0])
    assert met.empty
    assert {n: str(t) for n, t in met.dtypes.items()} == MATCH_DTYPES


def test_intel_can_be_pickled(intel):
    again = pickle.loads(pickle.dumps(intel))
    table = flows_of(*TABLE)
    pd.testing.assert_frame_equal(again.match(table), intel.match(table))


def test_the_network_is_never_asked(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("asked the network")

    for name in ("socket", "getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    path = tmp_path / "bundle.json"
    pattern = "[url:value = 'http://evil.com/' OR ipv4-addr:value = '45.1.2.3']"
    path.write_text(json.dumps(bundle(indicator(pattern))))
    assert len(exfilml.read_intel(path).match(flows_of(flow("45.1.2.3")))) == 1


def test_it_says_what_it_holds(intel):
    assert repr(intel).startswith("<Intel: 4 address, 2 domain, 1 network")
