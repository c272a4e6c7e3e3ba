"""TRAFFIC logs of Palo Alto's firewalls: places, names, sessions, totals."""

from __future__ import annotations

import csv
import warnings

import pandas as pd
import pytest
from firewall_logs import PAN_FIELDS, PAN_WIDTHS, pan, pan_export, pan_line
from hypothesis import given, settings
from hypothesis import strategies as st

import exfilml
from exfilml.exceptions import ExfilmlError, SourceError, SourceWarning
from exfilml.schema import capability


def read(tmp_path, text, timezone=None, name="traffic.log"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return exfilml.read_flows(path, timezone=timezone)


EXPECTED = {
    "start": pd.Timestamp("2024-03-01T09:00:00Z"),
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
    "sensor": "traffic.log",
}


def test_the_list_of_fields_is_as_long_as_the_guide_says():
    assert len(PAN_FIELDS) == 115
    assert PAN_FIELDS.index("Session End Reason") == 46
    assert PAN_FIELDS.index("High Resolution Timestamp") == 102


@pytest.mark.parametrize("version", PAN_WIDTHS)
def test_fields_of_a_syslog_line(tmp_path, version):
    flows = read(tmp_path, pan_line(pan(), version), timezone="Europe/Prague")
    assert flows.iloc[0][list(EXPECTED)].to_dict() == EXPECTED
    assert capability(flows).tolist() == ["application"]


def test_fields_of_an_export(tmp_path):
    flows = read(tmp_path, pan_export([pan()]), timezone="Europe/Prague")
    assert flows.iloc[0][list(EXPECTED)].to_dict() == EXPECTED


def test_the_zone_of_the_precise_time_is_that_of_all(tmp_path):
    rows = [pan(), pan(High_Resolution_Timestamp="2024-03-01T10:00:20.123-05:30")]
    starts = read(tmp_path, "".join(map(pan_line, rows)))["start"]
    assert starts.dt.strftime("%H:%M").tolist() == ["09:00", "15:30"]
    old = pan_line(pan(), "9.1")
    with pytest.raises(SourceError, match=r"times are local .*--timezone"):
        read(tmp_path, old)
    both = read(tmp_path, old + pan_line(pan()), timezone="UTC")
    assert both["start"].dt.hour.tolist() == [9, 10]


def test_quoted_fields_move_no_other(tmp_path):
    rule = 'a, "b", 10.9.9.9, TRAFFIC,end,'
    rows = [pan(Rule_Name=rule), pan(Source_User="x,y"), pan()]
    text = "".join(map(pan_line, rows)) + pan_line(pan(), "9.0")
    flows = read(tmp_path, text, timezone="Europe/Prague")
    for _, row in flows.iterrows():
        assert row[list(EXPECTED)].to_dict() == EXPECTED
    flows = read(tmp_path, pan_export(rows), timezone="Europe/Prague")
    assert flows["src_ip"].tolist() == ["10.0.0.5"] * 3


def test_sessions_that_begin_and_other_logs_are_passed_over_and_counted(tmp_path):
    kind = "Threat/Content Type"
    start = pan() | {kind: "start", "Bytes Sent": 10**9}
    drop = pan(Bytes_Received=0, Packets_Received=0) | {kind: "drop"}
    threat = pan_line(pan(Type="THREAT"))
    text = pan_line(start) + pan_line(drop) + threat + pan_line(pan())
    with pytest.warns(SourceWarning, match="2 records are of sessions that began"):
        flows = read(tmp_path, text)
    assert flows["conn_state"].tolist() == ["one_sided", "established"]
    assert flows["src_bytes"].sum() == 2 * (1440 - 8 * 14)
    with pytest.warns(SourceWarning, match="1 records are of sessions that began"):
        flows = read(tmp_path, pan_export([start, drop]), timezone="UTC")
    assert len(flows) == 1


@pytest.mark.parametrize(
    ("changed", "state", "app"),
    [
        ({"Session_End_Reason": "tcp-rst-from-server"}, "established", "TLS"),
        (
            {"Session_End_Reason": "tcp-rst-from-server", "Packets_Received": 1}
            | {"Bytes_Received": 60, "Application": "incomplete"},
            "rejected",
            None,
        ),
        ({"Session_End_Reason": "aged-out", "Packets_Received": 0}, "one_sided", "TLS"),
        ({"Application": "dropbox-base"}, "established", "dropbox-base"),
        ({"Application": "web-browsing"}, "established", "HTTP"),
        ({"Application": "unknown-tcp"}, "established", None),
    ],
)
def test_states_and_applications(tmp_path, changed, state, app):
    row = read(tmp_path, pan_line(pan(**changed))).iloc[0]
    assert row["conn_state"] == state
    assert row["app"] == app or (app is None and pd.isna(row["app"]))


def test_pings_have_no_ports(tmp_path):
    row = pan(Protocol="icmp", Source_Port=8, Destination_Port=0, Bytes_Sent=74)
    row |= {"Packets Sent": 1, "Bytes Received": 74, "Packets Received": 1}
    flow = read(tmp_path, pan_line(row)).iloc[0]
    assert flow[["protocol", "src_port", "src_bytes"]].tolist() == [1, 0, 60]


def test_bad_lines_are_named(tmp_path):
    text = pan_line(pan()) + "1,2024/03/01 10:00:20,0,TRAFFIC,end,short\n"
    text += pan_line(pan(Bytes_Sent="many")) + pan_line(pan(Source_Address="x"))
    text += pan_line(pan(Start_Time="soon"))
    with pytest.warns(SourceWarning, match="4 of 5 lines could not be read") as caught:
        assert len(read(tmp_path, text)) == 1
    assert "first: line 2: 6 fields" in str(caught[0].message)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**9),
            st.integers(1, 10**6),
            st.sampled_from(["end", "start", "deny"]),
            st.text(st.sampled_from('a,"b '), max_size=6),
            st.sampled_from(list(PAN_WIDTHS)),
        ),
        min_size=1,
    )
)
def test_totals_equal_those_of_plain_python(tmp_path_factory, rows):
    text = "".join(
        pan_line(
            pan(Bytes_Sent=sent + 60 * packets, Packets_Sent=packets, Rule_Name=rule)
            | {"Threat/Content Type": kind},
            version,
        )
        for sent, packets, kind, rule, version in rows
    )
    octets = packets = 0
    for fields in csv.reader(text.splitlines()):
        if fields[4] != "start":
            octets += int(fields[32]) - 14 * int(fields[44])
            packets += int(fields[44])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flows = read(tmp_path_factory.mktemp("sum"), text, timezone="UTC")
    assert flows["src_bytes"].sum() == octets
    assert flows["src_packets"].sum() == packets


CHUNKS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b",", b'"', b"\n", b'","', b"\xff", b"\x00", b"-1", b"9" * 18, b"TRAFFIC,end,",
         b"\r", b"2024/02/30 00:00:00", b"tcp", b"x" * 300]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=120)
@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 40), CHUNKS), max_size=6),
)
def test_damaged_files_end_in_flows_or_one_clear_error(tmp_path_factory, named, edits):
    rows = [pan(), pan(Rule_Name="a,b"), pan()]
    text = pan_export(rows) if named else "".join(map(pan_line, rows))
    data = bytearray(text.encode())
    for at, cut, put in edits:
        data[at : at + cut] = put
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = read(tmp_path_factory.mktemp("fuzz"), bytes(data), timezone="UTC")
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)
