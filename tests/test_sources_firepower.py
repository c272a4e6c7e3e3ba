"""Connections that Cisco's FTD reports with 430003: fields, totals, values that lie."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest
from firewall_logs import asa, asa_line, firepower, firepower_line
from hypothesis import given, settings
from hypothesis import strategies as st

import exfilml
from exfilml.exceptions import ExfilmlError, SourceWarning
from exfilml.schema import capability

EXPECTED = {
    "start": pd.Timestamp("2024-03-01T09:00:15Z"),
    "duration_s": 5.0,
    "src_ip": "10.0.0.5",
    "src_port": 40000,
    "dst_ip": "203.0.113.7",
    "dst_port": 443,
    "protocol": 6,
    "src_bytes": 1440 - 8 * 14,
    "dst_bytes": 5494 - 9 * 14,
    "src_packets": 8,
    "dst_packets": 9,
    "conn_state": "established",
    "app": "TLS",
    "uid": "4711",
    "sensor": "ftd.log",
}


def read(tmp_path, text, name="ftd.log"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return exfilml.read_flows(path)


@pytest.mark.parametrize("head", ["", "<113>:2024-03-01T09:00:20Z: ", "fw01 : "])
def test_fields_of_a_connection(tmp_path, head):
    flows = read(tmp_path, firepower_line(firepower(), head=head))
    assert flows.iloc[0][list(EXPECTED)].to_dict() == EXPECTED
    assert flows["undivided"].isna().all()
    assert capability(flows).tolist() == ["application"]
    bare = {k: v for k, v in firepower().items() if k == "SrcIP"} | firepower()
    flows = read(tmp_path, firepower_line(bare))
    assert flows["src_ip"].tolist() == ["10.0.0.5"]


def test_beginnings_and_what_is_said_again_are_passed_over_and_counted(tmp_path):
    text = firepower_line(firepower(), 430002) + asa_line(asa(device="FTD"))
    with pytest.warns(SourceWarning, match="2 messages are of no connection's end"):
        flows = read(tmp_path, text + firepower_line(firepower()))
    assert flows["src_bytes"].tolist() == [1440 - 8 * 14]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"Protocol": "icmp", "SrcPort": None, "DstPort": None, "InitiatorBytes": 74}
            | {"InitiatorPackets": 1, "ResponderBytes": 0, "ResponderPackets": 0},
            {"protocol": 1, "src_port": 0, "src_bytes": 60, "conn_state": "one_sided"},
        ),
        ({"ReferencedHost": "files.example"}, {"server_name": "files.example"}),
        ({"ApplicationProtocol": "DNS"}, {"app": "DNS"}),
        ({"ApplicationProtocol": None}, {"app": None}),
        ({"SrcIP": "fd20::5"}, {"src_ip": "fd20::5"}),
    ],
)
def test_protocols_and_names(tmp_path, changed, expected):
    row = read(tmp_path, firepower_line(firepower(**changed))).iloc[0]
    actual = {name: None if pd.isna(row[name]) else row[name] for name in expected}
    assert actual == expected


@pytest.mark.parametrize(
    "agent", ['Mozilla/5.0 (X11, "x', "a, b: c, d", "SrcIP: 6.6.6.6", "x,SrcIP:6.6.6.6"]
)
def test_what_attackers_name_hides_and_changes_nothing(tmp_path, agent):
    row = {"EventPriority": "Low", "UserAgent": agent} | firepower()
    flow = read(tmp_path, firepower_line(row)).iloc[0]
    assert flow[list(EXPECTED)].to_dict() == EXPECTED


def test_fields_that_stand_twice_are_not_believed(tmp_path):
    forged = firepower_line(firepower(UserAgent="x, InitiatorBytes: 1"))
    with pytest.warns(
        SourceWarning, match=r"1 of 2 .* InitiatorBytes stands there more"
    ):
        flows = read(tmp_path, forged + firepower_line(firepower()))
    assert len(flows) == 1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 10**6)), min_size=1))
def test_totals_equal_those_of_plain_python(tmp_path_factory, rows):
    text = "".join(
        firepower_line(
            firepower(InitiatorBytes=octets + 60 * packets, InitiatorPackets=packets)
        )
        for octets, packets in rows
    )
    flows = read(tmp_path_factory.mktemp("sum"), text)
    assert flows["src_bytes"].sum() == sum(o + 46 * n for o, n in rows)
    assert flows["src_packets"].sum() == sum(n for _, n in rows)


CHUNKS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b" ", b'"', b"\n", b", ", b": ", b"\xff", b"\x00", b"-1", b"9" * 18, b"SrcIP: ",
         b"%FTD-1-430003: ", b"\r", b"x" * 300]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 40), CHUNKS), max_size=6)
)
def test_damaged_files_end_in_flows_or_one_clear_error(tmp_path_factory, edits):
    data = bytearray(firepower_line(firepower()).encode() * 3)
    for at, cut, put in edits:
        data[at : at + cut] = put
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = read(tmp_path_factory.mktemp("fuzz"), bytes(data))
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)
