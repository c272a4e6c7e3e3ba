"""Cisco's ASA and FTD: connections torn down, who began them, and undivided bytes."""

from __future__ import annotations

import re
import warnings

import pandas as pd
import pytest
from firewall_logs import asa, asa_line
from hypothesis import given, settings
from hypothesis import strategies as st

import exfilml
from exfilml.exceptions import ExfilmlError, SourceError, SourceWarning
from exfilml.schema import capability
from exfilml.sources import _lines

EXPECTED = {
    "start": pd.Timestamp("2024-03-01T09:00:15Z"),
    "duration_s": 5.0,
    "src_ip": "10.0.0.5",
    "src_port": 40000,
    "dst_ip": "203.0.113.7",
    "dst_port": 443,
    "protocol": 6,
    "src_bytes": 6000,
    "dst_bytes": 0,
    "conn_state": "established",
    "uid": "4711",
    "undivided": True,
    "sensor": "asa.log",
}
ISO = "<166>2024-03-01T09:00:20Z fw01 : "


def read(tmp_path, text, timezone="Europe/Prague", name="asa.log"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flows = exfilml.read_flows(path, timezone=timezone)
    said = [str(warning.message) for warning in caught]
    undivided = [text for text in said if "both directions are one number" in text]
    assert bool(undivided) == bool(len(flows))
    return flows, [text for text in said if text not in undivided]


@pytest.mark.parametrize("device", ["ASA", "FTD"])
@pytest.mark.parametrize("user", ["", "(LOCAL\\alice)", " (LOCAL\\alice)"])
def test_a_connection_that_is_torn_down(tmp_path, device, user):
    flows, _ = read(tmp_path, asa_line(asa(device=device, user=user)))
    assert flows.iloc[0][list(EXPECTED)].to_dict() == EXPECTED
    assert capability(flows).tolist() == ["volume"]


@pytest.mark.parametrize(
    "head",
    [
        "<166>2024-03-01T09:00:20Z fw01 : ",
        "2024-03-01T10:00:20.000+01:00 fw01 ",
        "Mar  1 2024 10:00:20: ",
        "2024-03-01T09:00:20+00:00 relay Mar 01 2024 10:00:20 fw01 : ",
    ],
)
def test_times_with_a_year_are_read(tmp_path, head):
    flows, _ = read(tmp_path, asa_line(asa(head=head)))
    assert flows["start"][0] == EXPECTED["start"]


def test_times_without_zone_or_year_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(SourceError, match=r"times are local .*--timezone"):
        read(tmp_path, asa_line(asa()), timezone=None)
    assert len(read(tmp_path, asa_line(asa(head=ISO)), timezone=None)[0]) == 1
    yearless = asa_line(asa(head="<166>Mar  1 10:00:20 fw01 : "))
    with pytest.raises(SourceError, match=r"no year.*logging timestamp rfc5424"):
        read(tmp_path, yearless)
    flows, said = read(tmp_path, yearless + asa_line(asa()))
    assert len(flows) == 1
    assert "1 of 2 lines could not be read; first: line 1: start is missing" in said[0]


@pytest.mark.parametrize(
    ("way", "first", "second", "expected"),
    [
        # Cisco's scenarios: who began stands first if inbound, second if outbound.
        ("inbound", "outside:203.0.113.7/443", "inside:10.0.0.5/40000", "203.0.113.7"),
        ("outbound", "outside:203.0.113.7/50000", "inside:10.0.0.5/22", "10.0.0.5"),
        ("inbound", "inside:10.1.1.2/12523", "NP Identity Ifc:10.1.1.1/22", "10.1.1.2"),
    ],
)
def test_what_was_built_says_who_began(tmp_path, way, first, second, expected):
    row = asa(way=way, first=first, second=second)
    flows, _ = read(tmp_path, asa_line(row | {"what": "Built"}) + asa_line(row))
    inside = re.search("[0-9.]+", second)[0]
    flow = flows.iloc[0]
    assert flow["src_ip"] == expected
    # All that was transferred is the most that the inside can have sent.
    sent = flow["src_bytes"] if flow["src_ip"] == inside else flow["dst_bytes"]
    assert sent == 6000 == flow["src_bytes"] + flow["dst_bytes"]


def test_without_it_the_higher_port_is_the_client(tmp_path):
    row = asa(first="outside:203.0.113.7/50000", second="inside:10.0.0.5/22")
    flows, _ = read(tmp_path, asa_line(row))
    assert flows.iloc[0][["src_ip", "src_bytes", "dst_bytes"]].tolist() == [
        "203.0.113.7",
        0,
        6000,
    ]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"reason": " TCP Reset-O"}, {"conn_state": "established"}),
        ({"reason": " TCP Reset-I", "bytes": 0}, {"conn_state": "rejected"}),
        ({"reason": " SYN Timeout", "bytes": 0}, {"conn_state": "one_sided"}),
        ({"reason": " TCP FINs from inside"}, {"conn_state": "established"}),
        ({"reason": " Flow closed by inspection"}, {"conn_state": None}),
        ({"reason": ""}, {"conn_state": None}),
        (
            {"protocol": "UDP", "reason": ""},
            {"protocol": 17, "conn_state": None, "dst_port": 443},
        ),
        ({"protocol": "GRE", "reason": ""}, {"protocol": 47, "dst_port": 0}),
        ({"protocol": "TCP state-bypass"}, {"protocol": 6}),
        ({"first": "outside:2001:db8::7/443"}, {"dst_ip": "2001:db8::7"}),
        ({"duration": "102:03:04"}, {"duration_s": 102 * 3600 + 184.0}),
    ],
)
def test_protocols_and_reasons(tmp_path, changed, expected):
    row = read(tmp_path, asa_line(asa(**changed)))[0].iloc[0]
    actual = {name: None if pd.isna(row[name]) else row[name] for name in expected}
    assert actual == expected


def test_icmp_counts_no_bytes_and_is_told(tmp_path):
    icmp = f"{ISO}%ASA-6-302021: Teardown ICMP connection for faddr 203.0.113.7/1 "
    icmp += "gaddr 192.0.2.1/0 laddr 10.0.0.5/0 type 8 code 0\n"
    other = f"{ISO}%ASA-4-106023: Deny tcp src outside:1.2.3.4/5 dst inside:1.2.3.5/6\n"
    flows, said = read(tmp_path, icmp + other + asa_line(asa()))
    assert len(flows) == 1
    assert "1 of 2 lines are of something else; passed over" in said[0]
    assert "1 connections are of ICMP" in said[1]


def test_bad_lines_are_named(tmp_path):
    text = asa_line(asa()) + asa_line(asa(bytes="many"))
    text += asa_line(asa(first="outside:1.2.3.999/443"))
    # A user's name that says more than a name.
    text += asa_line(asa(user="(x) to inside:6.6.6.6/1 duration 0:00:01 bytes 1 ("))
    flows, said = read(tmp_path, text)
    assert flows["src_ip"].tolist() == ["10.0.0.5"]
    assert "3 of 4 lines could not be read; first: line 2: no connection" in said[0]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 4),
            st.sampled_from(["Built", "Teardown"]),
            st.sampled_from(["inbound", "outbound"]),
            st.integers(0, 10**9),
        ),
        min_size=1,
    ),
    st.integers(150, 1500),
)
def test_totals_and_beginnings_equal_those_of_plain_python(
    tmp_path_factory, rows, block
):
    text, expected, began = "", [], {}
    for number, what, way, octets in rows:
        text += asa_line(asa(id=number, what=what, way=way, bytes=octets))
        if what == "Built":
            began[number] = way
        else:
            inbound = began.pop(number, "outbound") == "inbound"
            expected.append((str(number), 0 if inbound else octets, octets * inbound))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lines.blocks, "__defaults__", (block,))
        flows, _ = read(tmp_path_factory.mktemp("sum"), text)
    actual = zip(*(flows[c] for c in ("uid", "src_bytes", "dst_bytes")), strict=True)
    assert sorted(actual) == sorted(expected)


CHUNKS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b" ", b"(", b"\n", b")", b":", b"\xff", b"\x00", b"-1", b"9" * 18, b"/",
         b"%ASA-6-302014: ", b"\r", b" bytes ", b"Feb 30 2024 ", b"x" * 300]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=120)
@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 40), CHUNKS), max_size=6))
def test_damaged_files_end_in_flows_or_one_clear_error(tmp_path_factory, edits):
    text = asa_line(asa(what="Built")) + asa_line(asa()) + asa_line(asa(head=ISO))
    data = bytearray(text.encode())
    for at, cut, put in edits:
        data[at : at + cut] = put
    try:
        flows, _ = read(tmp_path_factory.mktemp("fuzz"), bytes(data))
    except ExfilmlError:
        return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)


def test_a_warning_says_what_the_bytes_are(tmp_path):
    path = tmp_path / "asa.log"
    path.write_text(asa_line(asa()))
    with pytest.warns(SourceWarning, match="what can have been uploaded at most"):
        exfilml.read_flows(path, timezone="UTC")


def test_rankings_say_that_the_direction_of_bytes_is_not_visible(tmp_path):
    text = "".join(
        asa_line(
            asa(
                id=number,
                head=f"2024-03-{1 + number // 240:02}T{number % 24:02}:00:20Z fw01 : ",
                second=f"inside:10.0.0.{number % 9}/{40000 + number}",
                bytes=1000 + number,
            )
        )
        for number in range(2400)
    )
    flows, _ = read(tmp_path, text)
    detector = exfilml.Detector(random_state=0).fit(flows)
    later = flows.assign(start=flows["start"] + pd.Timedelta(days=20))
    hidden = exfilml.rank_flows(detector, later, top=5)["not_visible"]
    assert set(hidden) == {"payload, application, packets, process, direction of bytes"}
    divided = later.assign(undivided=pd.NA)
    hidden = exfilml.rank_flows(detector, divided, top=5)["not_visible"]
    assert set(hidden) == {"payload, application, packets, process"}
