"""Netfilter's connections: conntrack's events and what ulogd writes of them."""

from __future__ import annotations

import re
import warnings

import pandas as pd
import pytest
from firewall_logs import conntrack_line, gprint_line, printflow_line, tracked, ulogd
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import json_lines

import exfilml
from exfilml.exceptions import ExfilmlError, SourceError, SourceWarning
from exfilml.schema import capability
from exfilml.sources import _lines

EXPECTED = {
    "start": pd.Timestamp("2024-03-01T09:00:15.25Z"),
    "duration_s": 5.0,
    "src_ip": "10.0.0.5",
    "src_port": 40000,
    "dst_ip": "203.0.113.7",
    "dst_port": 443,
    "protocol": 6,
    "src_bytes": 1328,
    "dst_bytes": 5368,
    "src_packets": 8,
    "dst_packets": 9,
    "conn_state": "established",
    "uid": "4711",
    "sensor": "ct.log",
}


def read(tmp_path, text, name="ct.log"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return exfilml.read_flows(path)


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("state", ["", "TIME_WAIT ", "120 CLOSE "])
def test_what_conntrack_says_of_an_end(tmp_path, extended, state):
    row = tracked(flag="[ASSURED] ", more="delta-time=5", state=state)
    flows = read(tmp_path, conntrack_line(row, extended=extended))
    assert flows.iloc[0][list(EXPECTED)].to_dict() == EXPECTED
    assert capability(flows).tolist() == ["packets"]


def test_the_beginning_is_that_of_the_last_new_of_the_connection(tmp_path):
    new = conntrack_line(
        tracked(event="NEW", time=1709283615.25, state="120 SYN_SENT ")
    )
    other = conntrack_line(tracked(event="NEW", time=1709283616.0, sport=1))
    update = conntrack_line(tracked(event="UPDATE", time=1709283617.0))
    flows = read(tmp_path, new + other + update + conntrack_line(tracked()))
    assert flows.iloc[0][list(EXPECTED)].to_dict() == EXPECTED
    assert len(flows) == 1


def test_without_a_beginning_there_is_no_duration(tmp_path):
    flow = read(tmp_path, conntrack_line(tracked())).iloc[0]
    assert flow["start"] == pd.Timestamp("2024-03-01T09:00:20.25Z")
    assert pd.isna(flow["duration_s"])


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"flag": "[UNREPLIED] ", "back_packets": 0, "back_bytes": 0},
            {"conn_state": "one_sided", "dst_bytes": 0},
        ),
        ({"state": "CLOSE ", "back_packets": 1}, {"conn_state": "rejected"}),
        (
            {"protocol": "icmp", "number": 1, "sport": None},
            {"protocol": 1, "src_port": 0, "dst_port": 0, "uid": "4711"},
        ),
        ({"protocol": "udp", "number": 17}, {"protocol": 17, "dst_port": 443}),
        ({"src": "fd20::5", "dst": "2001:db8::7"}, {"dst_ip": "2001:db8::7"}),
    ],
)
def test_protocols_and_states(tmp_path, changed, expected):
    row = read(tmp_path, conntrack_line(tracked(**changed))).iloc[0]
    assert row[list(expected)].to_dict() == expected


def test_printflow_and_ulogd_say_the_same(tmp_path):
    flow = read(tmp_path, printflow_line(tracked())).iloc[0]
    same = [name for name in EXPECTED if name not in {"start", "duration_s", "uid"}]
    assert flow[same].to_dict() == {name: EXPECTED[name] for name in same}
    flow = read(tmp_path, gprint_line(ulogd())).iloc[0]
    assert flow[list(EXPECTED)].to_dict() == EXPECTED
    row = ulogd()
    row["src_ip"], row["dest_ip"] = row["orig.ip.saddr.str"], row["orig.ip.daddr.str"]
    del row["orig.ip.saddr.str"], row["orig.ip.daddr.str"]
    flow = read(tmp_path, json_lines([row])).iloc[0]
    assert flow[list(EXPECTED)].to_dict() == EXPECTED


def test_events_before_the_end_count_nothing(tmp_path):
    early = ulogd(**{"ct.event": 1, "orig.raw.pktlen": 60})
    for text in (
        gprint_line(early) + gprint_line(ulogd()),
        json_lines([early, ulogd()]),
    ):
        assert read(tmp_path, text)["src_bytes"].tolist() == [1328]


def test_connections_without_counts_or_times_are_refused_with_what_to_do(tmp_path):
    line = re.sub(r"(packets|bytes)=[0-9]+ ", "", conntrack_line(tracked()))
    with pytest.raises(SourceError, match="nf_conntrack_acct=1"):
        read(tmp_path, line)
    with pytest.raises(SourceError, match=r"1 of 1 lines .* start is missing"):
        read(tmp_path, conntrack_line(tracked(), time=False))


def test_bad_lines_are_named(tmp_path):
    text = conntrack_line(tracked()) + conntrack_line(tracked(src="x"))
    text += conntrack_line(tracked(bytes="many"))
    with pytest.warns(SourceWarning, match="2 of 3 lines could not be read") as caught:
        assert len(read(tmp_path, text)) == 1
    assert "first: line 2: src_ip cannot be 'x'" in str(caught[0].message)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 10**9)), min_size=1
    ),
    st.integers(150, 1500),
)
def test_totals_and_beginnings_equal_those_of_plain_python(
    tmp_path_factory, rows, block
):
    text, expected, began = "", [], {}
    for at, (port, ends, octets) in enumerate(rows):
        event = "DESTROY" if ends else "NEW"
        row = tracked(event=event, time=1.7e9 + at, sport=port + 1, bytes=octets)
        text += conntrack_line(row)
        if ends:
            expected.append((octets, at - began.pop(port, at)))
        else:
            began[port] = at
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(_lines.blocks, "__defaults__", (block,))
        flows = read(tmp_path_factory.mktemp("sum"), text)
    lasted = flows["duration_s"].fillna(0.0)
    assert sorted(zip(flows["src_bytes"], lasted, strict=True)) == sorted(expected)


CHUNKS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b" ", b'"', b"\n", b"\\", b"=", b"\xff", b"\x00", b"-1", b"9" * 18, b"src=",
         b"[DESTROY]", b"[NEW]", b"\r", b",", b"{", b"orig.raw.pktlen=", b"[", b"x" * 300]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=120)
@given(
    st.sampled_from(["conntrack", "printflow", "gprint", "json"]),
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 40), CHUNKS), max_size=6),
)
def test_damaged_files_end_in_flows_or_one_clear_error(tmp_path_factory, kind, edits):
    new = conntrack_line(tracked(event="NEW"))
    text = {
        "conntrack": (new + conntrack_line(tracked())).encode() * 2,
        "printflow": printflow_line(tracked()).encode() * 3,
        "gprint": gprint_line(ulogd()).encode() * 2,
        "json": json_lines([ulogd(), ulogd()]),
    }[kind]
    data = bytearray(text)
    for at, cut, put in edits:
        data[at : at + cut] = put
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = read(tmp_path_factory.mktemp("fuzz"), bytes(data))
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)
