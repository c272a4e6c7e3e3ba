"""FortiGate's traffic logs: fields, long sessions, times, and values that lie."""

from __future__ import annotations

import re
import warnings

import pandas as pd
import pyarrow as pa
import pytest
from firewall_logs import forti, forti_line
from hypothesis import given, settings
from hypothesis import strategies as st

import exfilml
from exfilml.exceptions import ExfilmlError, SourceError, SourceWarning
from exfilml.schema import capability
from exfilml.sources import _lines, _sessions

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
    "src_packets": 8,
    "dst_packets": 9,
    "conn_state": "established",
    "app": "TLS",
    "uid": "4711",
    "sensor": "fgt.log",
}
REPORT = '"0000000020"'


def read(tmp_path, text, timezone=None, name="fgt.log"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return exfilml.read_flows(path, timezone=timezone)


@pytest.mark.parametrize("head", ["", "<189>", "Mar  1 10:00:20 fgt01 "])
@pytest.mark.parametrize("separator", [" ", ",", ", "])
def test_fields_of_a_session(tmp_path, head, separator):
    flows = read(tmp_path, forti_line(forti(), separator, head))
    assert flows.iloc[0][list(EXPECTED)].to_dict() == EXPECTED
    assert capability(flows).tolist() == ["application"]


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
def test_times_since_1970_in_any_part_of_a_second(tmp_path, scale):
    flows = read(tmp_path, forti_line(forti(eventtime=1709283620 * scale)))
    assert flows["start"][0] == EXPECTED["start"]


def test_local_times_need_a_zone(tmp_path):
    zoned = forti_line(forti(eventtime=None), head="<189>")
    local = forti_line(forti(eventtime=None, tz=None))
    assert read(tmp_path, zoned)["start"][0] == EXPECTED["start"]
    with pytest.raises(SourceError, match=r"times are local .*--timezone"):
        read(tmp_path, local)
    flows = read(tmp_path, local + zoned + forti_line(forti()), "America/New_York")
    assert flows["start"].dt.hour.tolist() == [9, 9, 15]


EVIL = st.lists(
    st.sampled_from(
        [" srcip=6.6.6.6", ' sentbyte=1 x="', '"', "\\", ",proto=17,", "é", " ", "="]
    ),
    max_size=6,
).map("".join)


@settings(deadline=None, max_examples=60)
@given(
    EVIL,
    EVIL,
    st.sampled_from([" ", ","]),
)
def test_what_attackers_name_changes_no_other_field(
    tmp_path_factory, user, name, separator
):
    def quoted(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    row = {"user": quoted(user), **forti(), "hostname": quoted(name)}
    text = forti_line(row, separator, "")
    flow = read(tmp_path_factory.mktemp("evil"), text).iloc[0]
    assert flow[list(EXPECTED)].to_dict() == EXPECTED
    assert (flow["server_name"] if name else "") == name


def test_fields_that_stand_twice_are_not_believed(tmp_path):
    forged = forti_line(forti(srcname='"x" srcip=6.6.6.6 y="z"'))
    with pytest.warns(SourceWarning, match=r"1 of 2 .* srcip stands there more than"):
        flows = read(tmp_path, forged + forti_line(forti()))
    assert flows["src_ip"].tolist() == ["10.0.0.5"]


def test_the_last_report_of_a_long_session_counts(tmp_path):
    at = 1709283620 * 10**9
    text = "".join(
        forti_line(
            forti(
                logid=REPORT,
                action='"accept"',
                sentbyte=sent,
                sentdelta=100,
                duration=sent,
                eventtime=at + sent * 10**9,
            )
        )
        for sent in (100, 200, 300)
    )
    with pytest.warns(SourceWarning, match="1 sessions whose end is not in it"):
        flows = read(tmp_path, text)
    assert flows["src_bytes"].tolist() == [300]
    assert flows["start"][0] == pd.Timestamp("2024-03-01T09:00:20Z")
    other = forti_line(forti(logid=REPORT, sessionid=1, sentbyte=7))
    text += other + forti_line(forti(sentbyte=400, duration=400))
    with pytest.warns(SourceWarning, match="1 sessions whose end is not in it"):
        flows = read(tmp_path, text)
    assert sorted(flows["src_bytes"]) == [7, 400]


def counted_by_hand(rows):
    """Reports one after the other: what ends counts, and the last of what does not."""
    octets, going = 0, {}
    for session, ends, sent in rows:
        going.pop(session, None)
        if ends:
            octets += sent
        else:
            going[session] = sent
    return octets + sum(going.values())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 10**9)), min_size=1
    ),
    st.integers(200, 2000),
)
def test_totals_equal_those_of_plain_python(tmp_path_factory, rows, block):
    text = "".join(
        forti_line(
            forti(
                sessionid=session,
                logid='"0000000013"' if ends else REPORT,
                sentbyte=sent,
            )
        )
        for session, ends, sent in rows
    )
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(_lines.blocks, "__defaults__", (block,))
        flows = read(tmp_path_factory.mktemp("sum"), text)
    assert flows["src_bytes"].sum() == counted_by_hand(rows)


def test_more_sessions_than_are_held_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(_sessions, "MOST_HELD", 2)
    text = "".join(forti_line(forti(logid=REPORT, sessionid=n)) for n in range(5))
    with pytest.warns(SourceWarning, match="5 sessions whose end"):
        assert len(read(tmp_path, text)) == 5


def test_a_session_that_is_silent_for_an_hour_is_held_no_longer():
    def report(session, seconds, *, goes_on=True):
        rows = {"session": [session], "goes_on": [goes_on], "seen": [seconds * 10**6]}
        return pa.table(rows)

    sessions = _sessions.LongSessions()
    assert not sessions.add(report("a", 0)).num_rows
    assert not sessions.add(report("b", 3600)).num_rows
    assert sessions.add(report("c", 3601)).column("session").to_pylist() == ["a"]
    ended = sessions.add(report("b", 3602, goes_on=False))
    assert ended.column("session").to_pylist() == ["b"]
    assert sessions.finish().column("session").to_pylist() == ["c"]
    assert sessions.open == 2


def test_a_session_longer_than_ten_years_is_none(tmp_path):
    text = forti_line(forti()) + forti_line(forti(duration=9 * 10**17))
    with pytest.warns(SourceWarning, match="1 of 2 lines .* line 2: start is missing"):
        assert len(read(tmp_path, text)) == 1


def test_other_types_and_sessions_that_begin_are_passed_over_and_counted(tmp_path):
    text = forti_line(forti(type='"utm"')) + forti_line(forti(action='"start"'))
    with (
        pytest.warns(SourceWarning, match="2 records are of sessions that began"),
        pytest.warns(SourceWarning, match="1 of 2 lines are of something else"),
    ):
        flows = read(tmp_path, text + "kernel: hello\n" + forti_line(forti()))
    assert len(flows) == 1


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"appcat": '"unscanned"'}, {"app": None}),
        ({"app": '"Dropbox"'}, {"app": "Dropbox"}),
        ({"app": '"DNS"'}, {"app": "DNS"}),
        ({"action": '"server-rst"', "rcvdpkt": 1}, {"conn_state": "rejected"}),
        ({"action": '"server-rst"'}, {"conn_state": "established"}),
        ({"action": '"timeout"', "rcvdpkt": 0}, {"conn_state": "one_sided"}),
        (
            {"action": '"deny"', "sentbyte": None, "rcvdbyte": None},
            {"src_bytes": 0, "dst_bytes": 0},
        ),
        (
            {"proto": 1, "srcport": None, "dstport": None, "identifier": 7},
            {"protocol": 1, "src_port": 0, "dst_port": 0},
        ),
        ({"srcip": "fd20::5", "dstip": "2001:db8::7"}, {"dst_ip": "2001:db8::7"}),
    ],
)
def test_applications_states_and_protocols(tmp_path, changed, expected):
    row = read(tmp_path, forti_line(forti(**changed))).iloc[0]
    actual = {name: None if pd.isna(row[name]) else row[name] for name in expected}
    assert actual == expected


def test_bad_lines_are_named(tmp_path):
    text = forti_line(forti()) + forti_line(forti(devname='"fgt'))
    text += forti_line(forti(sentbyte=None)) + forti_line(forti(srcip="x"))
    text += forti_line(forti(eventtime="soon", date=None))
    with pytest.warns(SourceWarning, match="4 of 5 lines could not be read") as caught:
        assert len(read(tmp_path, text, "UTC")) == 1
    assert "first: line 2: a quote that does not close" in str(caught[0].message)


CHUNKS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b" ", b'"', b"\n", b"\\", b"=", b"\xff", b"\x00", b"-1", b"9" * 18,
         b' type="traffic" ', b"srcip=", b"\r", b" logid=0000000020", b",", b"x" * 300]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=120)
@given(
    st.lists(st.tuples(st.integers(0, 1800), st.integers(0, 40), CHUNKS), max_size=6)
)
def test_damaged_files_end_in_flows_or_one_clear_error(tmp_path_factory, edits):
    data = bytearray(
        (forti_line(forti()) * 2 + forti_line(forti(logid=REPORT))).encode()
    )
    for at, cut, put in edits:
        data[at : at + cut] = put
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = read(tmp_path_factory.mktemp("fuzz"), bytes(data), timezone="UTC")
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)


def test_names_of_keys_are_not_found_inside_others(tmp_path):
    text = forti_line(forti(xsrcip="6.6.6.6", sentbytes=9))
    assert re.search("xsrcip", text)
    assert read(tmp_path, text)["src_ip"].tolist() == ["10.0.0.5"]


@pytest.mark.parametrize(
    "text",
    [
        "CEF:0|Fortinet|Fortigate|v7.4|00013|traffic:forward close|3|src=10.0.0.5\n",
        "<14>Mar  1 10:00:20 fw LEEF:1.0|Palo Alto Networks|PAN-OS|10|allow|src=1\n",
    ],
)
def test_cef_and_leef_are_named(tmp_path, text):
    with pytest.raises(SourceError, match="events in CEF or LEEF"):
        read(tmp_path, text)
