"""What Check Point's Log Exporter sends: forms, updates, counters, values that lie."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest
from firewall_logs import check_point, check_point_line
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
    "src_bytes": 1328,
    "dst_bytes": 5368,
    "app": "MEGA",
    "uid": "{0x65e19a14,0x0,0x6401a8c0,0xc0000001}",
    "sensor": "cp.log",
}
FORMS = ("syslog", "structured", "splunk")


def read(tmp_path, text, timezone=None, name="cp.log"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return exfilml.read_flows(path, timezone=timezone)


@pytest.mark.parametrize("form", FORMS)
def test_fields_of_a_connection(tmp_path, form):
    flows = read(tmp_path, check_point_line(check_point(), form))
    assert flows.iloc[0][list(EXPECTED)].to_dict() == EXPECTED
    assert flows["src_packets"].isna().all()
    assert capability(flows).tolist() == ["application"]


def test_times_are_those_of_the_start_the_record_or_the_header(tmp_path):
    row = check_point(start_time=None)
    assert read(tmp_path, check_point_line(row))["start"][0].second == 20
    row = check_point(start_time=None, time=None, head="2024-03-01T10:00:20+01:00")
    flow = read(tmp_path, check_point_line(row, "structured")).iloc[0]
    assert flow["start"] == pd.Timestamp("2024-03-01T09:00:20Z")
    row = check_point(start_time=None, time=None, head="2024-03-01T10:00:20")
    text = check_point_line(row, "structured")
    with pytest.raises(SourceError, match=r"times are local .*--timezone"):
        read(tmp_path, text)
    flow = read(tmp_path, text, "Europe/Prague").iloc[0]
    assert flow["start"] == pd.Timestamp("2024-03-01T09:00:20Z")


def test_the_last_update_of_a_connection_counts(tmp_path):
    rows = [check_point(sent_bytes=n, loguid=uid) for uid in "ab" for n in (1, 20, 300)]
    flows = read(tmp_path, "".join(map(check_point_line, rows)))
    assert flows["src_bytes"].tolist() == [300, 300]
    rows = [check_point(loguid=None), check_point(loguid=None), check_point()]
    assert len(read(tmp_path, "".join(map(check_point_line, rows)))) == 3


def test_connections_without_counts_are_passed_over_and_told(tmp_path):
    log = check_point(sent_bytes=None, received_bytes=None)
    other = log | {"client_inbound_bytes": 10**9, "client_outbound_bytes": 1}
    audit = check_point(src=None, dst=None)
    rows = [log, other, audit, check_point()]
    with (
        pytest.warns(SourceWarning, match="2 records of connections without sent_byt"),
        pytest.warns(SourceWarning, match="1 of 2 lines are of something else"),
    ):
        flows = read(tmp_path, "".join(map(check_point_line, rows)))
    assert flows["src_bytes"].tolist() == [1328]


EVIL = st.lists(
    st.sampled_from(
        ['; src:"6.6.6.6"', ' src="6.6.6.6"', '"', "\\", "]", "[", ";", " ", "é", ":"]
    ),
    max_size=6,
).map("".join)


@settings(deadline=None, max_examples=60)
@given(EVIL, EVIL, st.sampled_from(["syslog", "structured"]))
def test_what_attackers_name_changes_no_other_field(tmp_path_factory, user, name, form):
    row = {"head": "2024-03-01T09:00:20Z", "user": user, **check_point()}
    text = check_point_line(row | {"dst_domain_name": name}, form)
    flow = read(tmp_path_factory.mktemp("evil"), text).iloc[0]
    assert flow[list(EXPECTED)].to_dict() == EXPECTED
    assert (flow["server_name"] if name else "") == name


def test_fields_that_stand_twice_are_not_believed(tmp_path):
    forged = check_point_line(check_point(user="x|src=6.6.6.6"), "splunk")
    with pytest.warns(
        SourceWarning, match=r"1 of 2 .* src stands there more than once"
    ):
        flows = read(tmp_path, forged + check_point_line(check_point(), "splunk"))
    assert flows["src_ip"].tolist() == ["10.0.0.5"]


def test_quotes_mean_nothing_where_values_are_not_quoted(tmp_path):
    text = check_point_line(check_point(user='"'), "splunk")
    flow = read(tmp_path, text).iloc[0]
    assert flow[list(EXPECTED)].to_dict() == EXPECTED


def test_icmp_has_no_ports(tmp_path):
    row = check_point(proto=1, s_port=None, service=None)
    flow = read(tmp_path, check_point_line(row)).iloc[0]
    assert flow[["protocol", "src_port", "dst_port"]].tolist() == [1, 0, 0]


def test_bad_lines_are_named(tmp_path):
    text = check_point_line(check_point(loguid="a"))
    text += check_point_line(check_point(loguid="b", src="host"))
    text += check_point_line(check_point(loguid="c", sent_bytes="many"))
    with pytest.warns(SourceWarning, match="2 of 3 lines could not be read") as caught:
        assert len(read(tmp_path, text)) == 1
    assert "first: line 2: src_ip cannot be 'host'" in str(caught[0].message)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 10**9)), min_size=1),
    st.integers(400, 4000),
)
def test_totals_equal_those_of_plain_python(tmp_path_factory, rows, block):
    text = "".join(
        check_point_line(check_point(loguid=uid, sent_bytes=sent)) for uid, sent in rows
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lines.blocks, "__defaults__", (block,))
        flows = read(tmp_path_factory.mktemp("sum"), text)
    assert flows["src_bytes"].sum() == sum(dict(rows).values())


CHUNKS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b" ", b'"', b"\n", b"\\", b"=", b"\xff", b"\x00", b"-1", b"9" * 18, b";", b"[",
         b"]", b":", b"|", b"src:", b"\r", b"[Fields@1.3.6.1.4.1.2620 ", b"x" * 300]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=120)
@given(
    st.sampled_from(FORMS),
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 40), CHUNKS), max_size=6),
)
def test_damaged_files_end_in_flows_or_one_clear_error(tmp_path_factory, form, edits):
    data = bytearray(check_point_line(check_point(), form).encode() * 3)
    for at, cut, put in edits:
        data[at : at + cut] = put
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = read(tmp_path_factory.mktemp("fuzz"), bytes(data), timezone="UTC")
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)
