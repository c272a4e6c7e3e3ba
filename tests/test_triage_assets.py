"""Assets: whose host an address is, or that nobody knows."""

from __future__ import annotations

import ipaddress
import json
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import exfilml
from exfilml.exceptions import AssetsError, AssetsWarning
from exfilml.triage._entries import CRITICALITIES
from exfilml.triage._hosts import DTYPES

CAPPED = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
HEAD = (
    "address,network,hostname,owner,department,role,criticality,lease_start,lease_end"
)
SITE = [
    ",10.1.0.0/16,,net team,IT,,low,,",
    ",10.1.2.0/24,,,Finance,,high,,",
    "10.1.2.3,,fin1.corp.example,Ann,,server,critical,,",
    "10.1.2.4,,lap7,,,,,2026-03-01T00:00:00Z,2026-03-02T00:00:00Z",
    "10.1.2.4,,lap8,,,,,2026-03-01T12:00:00Z,2026-03-01T18:00:00Z",
    ",,lap7.corp.example,Bob,Sales,laptop,medium,,",
]


@pytest.fixture
def read(tmp_path):
    """Write a table or JSON into a file and read it; warnings are not news here."""

    def read_one(content, name="assets.csv", **options):
        data = content
        if not isinstance(content, str | bytes):
            data = json.dumps(content)
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AssetsWarning)
            return exfilml.read_assets(path, **options)

    return read_one


def table(*rows):
    return "\n".join([HEAD, *rows])


def left_out(assets):
    return dict(zip(assets.left_out["reason"], assets.left_out["count"], strict=True))


def said(assets, ip, at=None):
    """What is known of one address, without what is missing."""
    (row,) = assets.of([ip], at=at).to_dict("records")
    return {key: value for key, value in row.items() if not pd.isna(value)}


def test_the_most_specific_entry_wins(read):
    assets = read(table(*SITE))
    assert said(assets, "10.1.2.3") == {
        "known": True,
        "by": "address",
        "entry": "10.1.2.3",
        "hostname": "fin1.corp.example",
        "owner": "Ann",
        "department": "Finance",
        "role": "server",
        "criticality": "critical",
        "inherited": "department from network 10.1.2.0/24",
        "source": "assets.csv",
    }
    assert said(assets, "10.1.9.9")["department"] == "IT"
    assert said(assets, "::ffff:10.1.9.9")["department"] == "IT"


def test_an_unknown_asset_is_said_to_be_unknown(read):
    assets = read(table(*SITE))
    assert said(assets, "10.9.9.9") == {"known": False}
    assert said(assets, "2a02::1") == {"known": False}
    assert said(assets, None) == {"known": False}


@pytest.mark.parametrize(
    ("at", "hostname", "owner"),
    [
        ("2026-02-28T23:59:59Z", None, "net team"),
        ("2026-03-01T00:00:00Z", "lap7", "Bob"),
        ("2026-03-01T12:00:00Z", "lap8", "net team"),
        ("2026-03-01T18:00:00Z", None, "net team"),
        ("2026-03-01T20:00:00Z", None, "net team"),
        (None, None, "net team"),
    ],
)
def test_a_lease_holds_until_it_ends_or_another_begins(read, at, hostname, owner):
    answer = said(read(table(*SITE)), "10.1.2.4", at)
    assert answer.get("hostname") == hostname
    assert answer["owner"] == owner
    assert answer["by"] == ("lease" if hostname else "network")


def test_a_leased_address_is_not_its_former_host(read):
    """What an inventory says of an address does not hold for another host on it."""
    assets = read(
        table(
            "10.1.2.4,,old,Carol,,server,critical,,",
            "10.1.2.4,,guest,,,,,2026-03-01T00:00:00Z,2026-03-02T00:00:00Z",
        )
    )
    during = said(assets, "10.1.2.4", "2026-03-01T10:00:00Z")
    assert during["hostname"] == "guest"
    assert "owner" not in during
    assert said(assets, "10.1.2.4", "2026-03-05")["owner"] == "Carol"


def test_leases_of_kea_are_read_as_they_are(read):
    assets = read(
        "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,"
        "hostname,state,user_context\n"
        "10.1.2.4,08:00:2b:02:3f:4e,,3600,1772326800,1,0,0,lap7,0,\n"
    )
    assert said(assets, "10.1.2.4", "2026-03-01T00:30:00Z")["hostname"] == "lap7"
    assert said(assets, "10.1.2.4", "2026-02-28T23:59:00Z") == {"known": False}
    assert said(assets, "10.1.2.4", "2026-03-01T01:00:00Z") == {"known": False}


def test_a_short_name_stands_for_the_only_host_that_has_it(read):
    rows = ["10.1.2.3,,lap,,,,,,", ",,lap.a.example,Ann,,,,,"]
    assert said(read(table(*rows)), "10.1.2.3")["owner"] == "Ann"
    both = [*rows, ",,lap.b.example,Bob,,,,,"]
    assert "owner" not in said(read(table(*both)), "10.1.2.3")


CONFLICTS = [
    "10.1.2.3,,a,Ann,,,low,,",
    "10.1.2.3,,b,Bob,,,critical,,",
    "10.1.2.3,,c,Cyd,,,critical,,",
    "10.1.2.3,,b,Bob,,,critical,,",
]


@CAPPED
@given(st.permutations(CONFLICTS))
def test_contradictions_are_settled_whatever_the_order(read, rows):
    assets = read(table(*rows))
    assert said(assets, "10.1.2.3")["owner"] == "Bob"
    assert left_out(assets) == {
        "entries that others contradict": 2,
        "repeated entries": 1,
    }


def test_contradictions_are_told(tmp_path):
    path = tmp_path / "cmdb.csv"
    path.write_text(table(*CONFLICTS))
    with pytest.warns(
        AssetsWarning, match=r"cmdb\.csv: 2 entries that others contradict"
    ):
        exfilml.read_assets(path)


def test_rows_that_name_nothing_are_counted(read):
    assets = read(
        table(
            "10.1.2.300,,x,,,,,,",
            ",,,Ann,,,,,",
            "10.1.2.3,,x,,,,,soon,",
            "10.1.2.3,,x,,,,,2026-03-02T00:00:00Z,2026-03-01T00:00:00Z",
            "10.1.2.3,,x,,,,highest,,",
        )
    )
    assert left_out(assets) == {
        "entries without a valid address, network, host name or time": 4,
        "criticalities other than low, medium, high, critical": 1,
    }
    assert "criticality" not in said(assets, "10.1.2.3")


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"assets": rows}])
def test_json_says_the_same(read, wrap):
    rows = [
        {"ip": "10.1.2.3", "owner": "Ann", "criticality": "High", "tags": ["x"]},
        {"cidr": "10.1.0.0/16", "department": "IT"},
        "nothing",
    ]
    assets = read(wrap(rows), "assets.json")
    assert said(assets, "10.1.2.3")["criticality"] == "high"
    assert left_out(assets) == {"entries that are no object": 1}


def test_a_column_map_says_what_is_what(read):
    columns = {"address": "Adresse", "owner": "Wer"}
    assets = read("Adresse;Wer\n10.1.2.3;Ann\n", columns=columns)
    assert said(assets, "10.1.2.3")["owner"] == "Ann"


# Against a plain oracle.

IP = st.builds(
    "10.0.{}.{}".format, *[st.sampled_from([0, 1, 127, 128])] * 2
) | st.builds("fd00::{:x}".format, st.sampled_from([0, 1, 0x8000]))
LEVEL = st.sampled_from(["", *CRITICALITIES])
NET = st.builds(
    lambda ip, n: str(ipaddress.ip_network(f"{ip}/{n}", strict=False)),
    IP,
    st.integers(8, 31),
)


@CAPPED
@given(
    st.dictionaries(NET | IP, LEVEL, min_size=1, max_size=12),
    st.lists(
        st.tuples(IP, st.integers(0, 20), st.integers(1, 20), LEVEL),
        max_size=10,
        unique_by=lambda lease: lease[:2],
    ),
    st.lists(st.tuples(IP, st.integers(0, 40)), min_size=1, max_size=20),
)
def test_criticality_is_that_of_a_plain_search(read, entries, leases, asked):
    def time(n):
        return pd.Timestamp("2026-03-01", tz="UTC") + pd.Timedelta(hours=n)

    rows = [
        f",{key},,,,,{level},," if "/" in key else f"{key},,,,,,{level},,"
        for key, level in entries.items()
    ]
    rows += [
        f"{ip},,,,,,{level},{time(begin).isoformat()},{time(begin + n).isoformat()}"
        for ip, begin, n, level in leases
    ]
    ips, hours = zip(*asked, strict=True)
    answer = read(table(*rows)).of(ips, at=[time(n) for n in hours])
    expected = []
    for ip, hour in asked:
        nets = [(ipaddress.ip_network(k), v) for k, v in entries.items()]
        address = ipaddress.ip_address(ip)
        static = [
            (net.prefixlen, level)
            for net, level in nets
            if net.version == address.version and address in net
        ]
        chain = [level for _, level in sorted(static, reverse=True)]
        mine = [lease for lease in leases if lease[0] == ip and lease[1] <= hour]
        if mine and max(mine)[1] + max(mine)[2] > hour:
            bits = address.max_prefixlen
            wider = [pair for pair in static if pair[0] < bits]
            chain = [max(mine)[3], *(v for _, v in sorted(wider, reverse=True))]
        expected.append(next((level for level in chain if level), None))
    assert [None if pd.isna(c) else c for c in answer["criticality"]] == expected
    assert answer["known"].tolist() == [level is not None for level in expected]


# Bad files.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["ip", "cidr", "hostname", "owner", "start", "end", "assets"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def survives(read, content, name):
    try:
        assets = read(content, name)
    except AssetsError as error:
        text = str(error)
    else:
        assets.of(["10.1.2.3", "fd00::1"], at="2026-03-01")
        return
    assert "\n" not in text
    assert name in text


@CAPPED
@given(JSON)
def test_any_json_is_read_or_refused_in_one_line(read, data):
    survives(read, data, "assets.json")


@CAPPED
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_one_line(read, data):
    survives(read, data, "assets.csv")


CELL = st.text('a1.:/",; \n-T', max_size=10) | st.sampled_from(
    ["10.1.2.3", "10.0.0.0/8", "host", "2026-03-01", "1772326800", "high"]
)


@CAPPED
@given(st.lists(st.lists(CELL, min_size=9, max_size=9).map(",".join), max_size=6))
def test_any_row_is_read_or_counted(read, rows):
    survives(read, table(*rows), "assets.csv")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("colour,shape\nred,round\n", "no header with a known column"),
        ("owner,role\nAnn,server\n", "no column names hosts"),
        ('{"a": 1}', "expected a list of objects"),
        ('[{"colour": "red"}]', "no column names hosts"),
        ("", "no header"),
    ],
)
def test_what_is_no_file_of_assets_is_refused(read, data, message):
    with pytest.raises(AssetsError, match=message):
        read(data)


def test_what_is_no_address_or_time_is_refused(read):
    assets = read(table(*SITE))
    with pytest.raises(AssetsError, match="no address"):
        assets.of(["10.1.2.3", "fin1"])
    with pytest.raises(AssetsError, match="2 times for 1 addresses"):
        assets.of(["10.1.2.3"], at=["2026-03-01", "2026-03-02"])
    with pytest.raises(AssetsError, match="expected times"):
        assets.of(["10.1.2.3"], at=["soon"])


def test_no_assets_are_told(tmp_path):
    (tmp_path / "a.csv").write_text(HEAD + "\n")
    with pytest.warns(AssetsWarning, match="file without assets"):
        assets = exfilml.read_assets(tmp_path)
    assert said(assets, "10.1.2.3") == {"known": False}


# The contract of tables.


def test_answers_keep_index_order_and_types(read):
    assets = read(table(*SITE))
    ips = pd.Series(["10.1.2.3", "10.9.9.9", "10.1.2.4"], index=["x", "y", "z"])
    times = pd.Series(pd.to_datetime(["2026-03-01T10:00:00Z"] * 3), index=ips.index)
    answer = assets.of(ips, at=times)
    assert answer.index.tolist() == ["x", "y", "z"]
    assert {n: str(t) for n, t in answer.dtypes.items()} == DTYPES
    turned = assets.of(ips.iloc[::-1], at=times.iloc[::-1])
    pd.testing.assert_frame_equal(turned.iloc[::-1], answer)
    again = pickle.loads(pickle.dumps(assets))
    pd.testing.assert_frame_equal(again.of(ips, at=times), answer)
    none = assets.of(ips.iloc[:0])
    assert {n: str(t) for n, t in none.dtypes.items()} == DTYPES
    assert repr(assets) == "<Assets: 6 entries; 0 left out>"


def test_many_rows_of_few_addresses_are_answered(read):
    assets = read(table(*SITE))
    ips = pd.Series(np.array(["10.1.2.3", "10.9.9.9"])[np.arange(100_000) % 2])
    answer = assets.of(ips)
    assert answer["known"].tolist()[:2] == [True, False]
    assert answer["known"].sum() == 50_000
