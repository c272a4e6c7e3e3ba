"""Zeek's conn.log and its companions: every column means what the schema says."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import CONN_FIELDS, conn, json_lines, zeek_header, zeek_line, zeek_tsv

import exfilml
from exfilml.exceptions import ExfilmlError, SourceError, SourceWarning
from exfilml.schema import capability
from exfilml.sources import _delimited
from exfilml.sources._zeek_names import beside

REAL = os.environ.get("EXFILML_REAL_DATA")


def read(path, data, **options):
    path.write_bytes(data)
    return exfilml.read_flows(path, **options)


def one(tmp_path, **changed):
    """Read one connection from TSV and from JSON, which must agree."""
    row = conn(**changed)
    tsv = read(tmp_path / "conn.tsv.log", zeek_tsv([row]))
    lines = read(tmp_path / "conn.json.log", json_lines([row]))
    pd.testing.assert_frame_equal(
        tsv.drop(columns="sensor"), lines.drop(columns="sensor")
    )
    return tsv.iloc[0]


def test_columns_of_a_connection(tmp_path):
    flow = one(tmp_path)
    expected = {
        "start": pd.Timestamp("2023-11-14T22:13:20.25Z"),
        "duration_s": 1.5,
        "src_ip": "10.0.0.5",
        "src_port": 40000,
        "dst_ip": "203.0.113.7",
        "dst_port": 443,
        "protocol": 6,
        "src_bytes": 1328,
        "dst_bytes": 5368,
        "src_payload_bytes": 1000,
        "dst_payload_bytes": 5000,
        "src_packets": 8,
        "dst_packets": 9,
        "tcp_flags": 1 | 2 | 16,
        "conn_state": "established",
        "first_speaker": "src",
        "app": "TLS",
        "sensor": "conn.tsv.log",
        "uid": "CAbc1",
    }
    assert flow[list(expected)].to_dict() == expected
    missing = {"app_verified", "server_name", "label", "process", "src_sampled_bytes"}
    assert flow[list(missing)].isna().all()


def test_microseconds_are_kept(tmp_path):
    flow = one(tmp_path, ts=1379288667.706265)
    assert flow["start"] == pd.Timestamp("2013-09-15T23:44:27.706265Z")


@pytest.mark.parametrize(
    ("written", "kind"),
    [("2023-11-14T22:13:20.250000Z", "ISO 8601"), (1700000000250, "milliseconds")],
)
def test_every_kind_of_json_time_is_read(tmp_path, written, kind):
    flows = read(tmp_path / "conn.log", json_lines([conn(ts=written)]))
    assert flows["start"][0] == pd.Timestamp("2023-11-14T22:13:20.25Z"), kind


def test_more_payload_than_the_packets_can_have_carried_is_lowered_and_told(tmp_path):
    rows = [conn(uid="C1"), conn(uid="C2", orig_bytes=2**31, resp_bytes=5009)]
    with pytest.warns(SourceWarning, match="1 of 2 flows have more payload"):
        flows = read(tmp_path / "conn.log", zeek_tsv(rows))
    assert flows["src_bytes"].tolist() == [1328, 1328]
    assert flows["src_payload_bytes"].tolist() == [1000, 1328 - 8 * 40]
    assert flows["dst_payload_bytes"].tolist() == [5000, 5368 - 9 * 40]


def test_without_ip_bytes_payload_stands_for_them_and_that_is_told(tmp_path):
    gone = {"orig_ip_bytes", "resp_ip_bytes", "orig_pkts", "resp_pkts"}
    fields = {k: v for k, v in CONN_FIELDS.items() if k not in gone}
    with pytest.warns(
        SourceWarning, match="1 of 1 flows without orig_ip_bytes; payload"
    ):
        flows = read(tmp_path / "conn.log", zeek_tsv([conn()], fields=fields))
    assert flows[["src_bytes", "dst_bytes"]].iloc[0].tolist() == [1000, 5000]
    assert capability(flows).tolist() == ["application"]


def test_capability_follows_from_the_columns_that_are_there(tmp_path):
    rows = [conn(uid="C1"), conn(uid="C2", service=None)]
    flows = read(tmp_path / "conn.log", zeek_tsv(rows))
    assert capability(flows).tolist() == ["application", "packets"]
    gone = {"service", "orig_pkts", "resp_pkts"}
    fields = {k: v for k, v in CONN_FIELDS.items() if k not in gone}
    flows = read(tmp_path / "conn.log", zeek_tsv(rows, fields=fields))
    assert capability(flows).tolist() == ["volume", "volume"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "established"),
        ({"history": "S", "conn_state": "S0", "resp_pkts": 0}, "one_sided"),
        ({"history": "Sr", "conn_state": "REJ"}, "rejected"),
        ({"history": "ShR", "conn_state": "RSTO"}, "rejected"),
        ({"history": "ShADR", "conn_state": "RSTO"}, "established"),
        ({"history": "DdA", "conn_state": "OTH"}, "midstream"),
        ({"history": None, "conn_state": "REJ"}, "rejected"),
        ({"history": None, "conn_state": "SH"}, "one_sided"),
        ({"history": None, "conn_state": "OTH"}, "midstream"),
        ({"proto": "udp", "history": "Dd"}, "established"),
        ({"proto": "udp", "history": "D", "resp_pkts": 0}, "one_sided"),
        (
            {"proto": "icmp", "history": None, "conn_state": "OTH", "id__orig_p": 8},
            "established",
        ),
        ({"proto": "icmp", "id__orig_p": 0, "resp_pkts": 0}, "unsolicited"),
        ({"proto": "icmp", "id__orig_p": 8, "resp_pkts": 0}, "one_sided"),
        (
            {"proto": "udp", "history": None, "conn_state": "SF"}
            | {"orig_pkts": None, "resp_pkts": None},
            "established",
        ),
    ],
)
def test_how_conversations_went(tmp_path, changed, expected):
    assert one(tmp_path, **changed)["conn_state"] == expected


@pytest.mark.parametrize(
    ("history", "expected"),
    [("ShADad", "src"), ("ShAdDa", "dst"), ("ShAd", "dst"), ("S", None), ("^dD", None)],
)
def test_who_spoke_first(tmp_path, history, expected):
    actual = one(tmp_path, history=history)["first_speaker"]
    assert actual == expected if expected else pd.isna(actual)


@pytest.mark.parametrize(
    ("proto", "source", "number", "port"),
    [
        ("tcp", "10.0.0.5", 6, 40000),
        ("udp", "fe80::1", 17, 40000),
        ("icmp", "10.0.0.5", 1, 0),
        ("icmp", "fe80::1", 58, 0),
        ("unknown_transport", "10.0.0.5", 255, 40000),
    ],
)
def test_protocols_and_ports(tmp_path, proto, source, number, port):
    flow = one(tmp_path, proto=proto, id__orig_h=source, orig_bytes=0, resp_bytes=0)
    assert (flow["protocol"], flow["src_port"]) == (number, port)


def test_the_protocol_number_of_new_zeek_counts(tmp_path):
    fields = CONN_FIELDS | {"ip_proto": "count"}
    rows = [conn(proto="unknown_transport", ip_proto=47)]
    flows = read(tmp_path / "conn.log", zeek_tsv(rows, fields=fields))
    assert flows["protocol"].tolist() == [47]


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("dns", "DNS"),
        ("ftp-data", "FTP_DATA"),
        ("-ssl,http", "HTTP"),
        ("gssapi,smb", "gssapi"),
        ("-ssl", None),
    ],
)
def test_applications_have_the_names_of_captures(tmp_path, service, expected):
    actual = one(tmp_path, service=service)["app"]
    assert actual == expected if expected else pd.isna(actual)


def test_labels_are_kept(tmp_path):
    fields = CONN_FIELDS | {"label": "string", "detailedlabel": "string"}
    rows = [conn(label="Malicious", detailedlabel="C2"), conn(label="(empty)")]
    flows = read(tmp_path / "conn.log.labeled", zeek_tsv(rows, fields=fields))
    assert flows["label"].fillna("none").tolist() == ["Malicious", "none"]


def test_a_header_that_comes_again_with_other_fields_is_obeyed(tmp_path):
    turned = dict(reversed(CONN_FIELDS.items()))
    data = zeek_tsv([conn(uid="C1")]) + zeek_tsv([conn(uid="C2")], fields=turned)
    data += zeek_tsv([conn(uid="C3")], separator="|", unset="?")
    flows = read(tmp_path / "conn.log", data).drop(columns=["uid"])
    assert len(flows) == 3
    pd.testing.assert_frame_equal(
        *(flows.iloc[[i]].reset_index(drop=True) for i in (0, 1))
    )
    pd.testing.assert_frame_equal(
        *(flows.iloc[[i]].reset_index(drop=True) for i in (0, 2))
    )


def test_a_header_that_comes_again_and_again_costs_little_and_lines_keep_their_number(
    tmp_path, monkeypatch
):
    read_block = _delimited.read_block
    calls = []
    monkeypatch.setattr(
        _delimited, "read_block", lambda *a: calls.append(1) or read_block(*a)
    )
    data = b"".join(zeek_tsv([conn(uid=f"C{at}")]) for at in range(500))
    assert len(read(tmp_path / "conn.log", data)) == 500
    assert len(calls) == 0
    # 10 lines each: 8 of the header, the connection, #close.
    bad = data.replace(b"C321\t10.0.0.5", b"C321\t10.0.0.X")
    with pytest.warns(
        SourceWarning, match="1 of 500 lines .* first: line 3,219: src_ip"
    ):
        assert len(read(tmp_path / "conn.log", bad)) == 499


def test_lines_under_a_header_that_lacks_an_address_are_bad_lines(tmp_path):
    fewer = {k: v for k, v in CONN_FIELDS.items() if k != "id.resp_h"}
    data = zeek_tsv([conn()]) + zeek_tsv([conn(), conn()], fields=fewer)
    with pytest.warns(
        SourceWarning, match=r"2 of 3 lines .* #fields .* without id\.resp_h"
    ):
        assert len(read(tmp_path / "conn.log", data)) == 1


def test_a_first_line_that_is_indented_is_a_header_all_the_same(tmp_path):
    assert len(read(tmp_path / "conn.log", b"\t" + zeek_tsv([conn()]))) == 1


def test_json_lines_that_are_none_are_counted(tmp_path):
    data = json_lines([conn(uid="C1")]) + b'{"ts": 17000\n[1]\n5\n\xff\xfe\n'
    data += json_lines([conn(uid="C2"), {"ts": 1.0, "uid": "C3"}])
    data += (
        b'{"ts":1700000000.0,"id.orig_h":{"a":1},"id.orig_p":1,"id.resp_h":"1.2.3.4"}\n'
    )
    with pytest.warns(SourceWarning, match="6 of 8 lines .* first: line 2: no JSON"):
        flows = read(tmp_path / "conn.log", data)
    assert flows["uid"].tolist() == ["C1", "C2"]


def test_text_that_is_none_costs_no_flow(tmp_path):
    row = conn(uid="C1", service="\ud800")
    data = json_lines([row, conn(uid="C2")]).replace(b"C2", b"C\x802")
    flows = read(tmp_path / "conn.log", data)
    assert flows["uid"].tolist() == ["C1", "C\ufffd2"]
    assert flows["app"].tolist() == ["?", "TLS"]


def test_other_logs_alone_are_refused_by_name(tmp_path):
    fields = {"ts": "time", "uid": "string", "server_name": "string"}
    path = tmp_path / "ssl.log"
    path.write_bytes(zeek_tsv([{"ts": 1.0, "uid": "C"}], path="ssl", fields=fields))
    with pytest.raises(SourceError, match="a log of Zeek that counts no bytes"):
        exfilml.read_flows(path)


LOGS = {
    "ssl": (
        {"ts": "time", "uid": "string", "server_name": "string", "ja3": "string"},
        [{"uid": "C1", "server_name": "a.example", "ja3": "abc"}, {"uid": "C9"}],
    ),
    "http": (
        {"uid": "string", "host": "string", "user_agent": "string"}
        | {"orig_mime_types": "vector[string]"},
        [
            {"uid": "C2", "host": "b.example:8080", "user_agent": "curl/8\\x09x"}
            | {"orig_mime_types": "application/zip,text/plain"},
            {"uid": "C2", "host": "later.example"},
        ],
    ),
    "dns": (
        {"uid": "string", "query": "string"},
        [{"uid": "C3", "query": "q.example"}],
    ),
    "ssh": ({"uid": "string", "hassh": "string"}, [{"uid": "C4", "hassh": "h4"}]),
    "ftp": ({"uid": "string", "user": "string"}, [{"uid": "C5", "user": "u"}]),
    "files": (
        {"conn_uids": "set[string]", "mime_type": "string", "is_orig": "bool"},
        [
            {"conn_uids": "C6", "mime_type": "image/png", "is_orig": True},
            {"conn_uids": "C7", "mime_type": "image/png", "is_orig": False},
        ],
    ),
}


def companions(folder, *, as_json, suffix=".log"):
    for kind, (fields, rows) in LOGS.items():
        named = {"ts": "time"} | fields
        lines = [{"ts": 1700000000.0} | row for row in rows]
        if as_json:
            for row in lines:
                for key in ("orig_mime_types", "conn_uids"):
                    if key in row:
                        row[key] = row[key].split(",")
                if "user_agent" in row:
                    row["user_agent"] = "curl/8\tx"
            data = json_lines(lines)
        else:
            data = zeek_tsv(lines, path=kind, fields=named)
        (folder / f"{kind}{suffix}").write_bytes(data)
    rows = [conn(uid=f"C{i}", service=None) for i in range(1, 8)]
    data = json_lines(rows) if as_json else zeek_tsv(rows)
    (folder / f"conn{suffix}").write_bytes(data)


@pytest.mark.parametrize("as_json", [False, True])
def test_other_logs_give_names_by_uid(tmp_path, as_json):
    companions(tmp_path, as_json=as_json)
    flows = exfilml.read_flows(tmp_path / "conn.log").set_index("uid")
    shown = ["server_name", "fingerprint", "user_agent", "content_type", "app"]
    actual = flows[shown].astype(object).where(flows[shown].notna(), None)
    assert actual.T.to_dict("list") == {
        "C1": ["a.example", "abc", None, None, "TLS"],
        "C2": ["b.example", None, "curl/8\tx", "application/zip", "HTTP"],
        "C3": ["q.example", None, None, None, "DNS"],
        "C4": [None, "h4", None, None, "SSH"],
        "C5": [None, None, None, None, "FTP_CONTROL"],
        "C6": [None, None, None, "image/png", None],
        "C7": [None, None, None, None, None],
    }


def test_a_folder_of_zeek_logs_is_its_connections(tmp_path):
    companions(tmp_path, as_json=False)
    flows = exfilml.read_flows(tmp_path)
    assert flows["server_name"].notna().sum() == 3


def test_rotated_logs_find_their_own_and_the_one_before(tmp_path):
    for hour in ("09:00:00-10:00:00", "10:00:00-11:00:00", "11:00:00-12:00:00"):
        (tmp_path / f"ssl.{hour}.log.gz").write_bytes(b"")
    (tmp_path / "ssl.log").write_bytes(b"")
    (tmp_path / "ssl_extra.log").write_bytes(b"")
    found = beside(tmp_path / "conn.10:00:00-11:00:00.log.zst", "ssl")
    assert [p.name for p in found] == [
        "ssl.09:00:00-10:00:00.log.gz",
        "ssl.10:00:00-11:00:00.log.gz",
    ]
    assert [p.name for p in beside(tmp_path / "conn.log", "ssl")] == ["ssl.log"]
    assert [p.name for p in beside(tmp_path / "labeled-conn.log", "ssl")] == ["ssl.log"]


def test_a_broken_companion_costs_its_names_alone(tmp_path):
    companions(tmp_path, as_json=False)
    data = (tmp_path / "ssl.log").read_bytes().replace(b"C1\ta", b"C1 a")
    (tmp_path / "ssl.log").write_bytes(data)
    with pytest.warns(SourceWarning, match=r"ssl\.log: 1 of 2 lines could not be read"):
        flows = exfilml.read_flows(tmp_path / "conn.log")
    assert flows["server_name"].notna().sum() == 2


def fuzzed(tmp_path_factory, data, name="conn.log"):
    """Whatever stands in a log: flows and warnings, or one clear error."""
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = exfilml.read_flows(path)
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)


CHUNKS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"\t", b"\n", b"-", b"#", b"#fields\tts\n", b"#separator \\x7c\n", b"{", b"}",
         b"nan", b"inf", b"1e400", b"-1", b"99999999999999999999", b"\xff", b"\x00",
         b'{"ts":1,"uid":2}', b'"\\ud800"', b"[" * 3000, b"\r\n", b"(empty)"]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 60), CHUNKS), max_size=6),
)
def test_damaged_logs_end_in_flows_or_one_clear_error(tmp_path_factory, as_json, edits):
    rows = [conn(uid=f"C{i}") for i in range(6)]
    data = bytearray(json_lines(rows) if as_json else zeek_tsv(rows))
    for at, cut, put in edits:
        data[at : at + cut] = put
    fuzzed(tmp_path_factory, bytes(data))


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(), st.text(), max_size=2),
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(sorted(CONN_FIELDS)), VALUES, max_size=4),
        max_size=5,
    )
)
def test_values_of_any_kind_end_in_flows_or_one_clear_error(tmp_path_factory, changes):
    rows = [conn(), *({**conn(), **changed} for changed in changes)]
    lines = [json.dumps(row).encode() for row in rows]
    fuzzed(tmp_path_factory, b"\n".join(lines))
    fuzzed(
        tmp_path_factory,
        (zeek_header() + "".join(map(zeek_line, rows))).encode("utf-8", "replace"),
    )


# -- real logs ---------------------------------------------------------------------

real = pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")


def real_logs():
    return sorted((Path(REAL) / "logs" / "zeek").glob("*/*")) if REAL else []


@real
@pytest.mark.parametrize("path", real_logs(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_real_log_is_read_or_refused_by_name(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "conn" in path.name or path.name.startswith("http"):
            assert len(exfilml.read_flows(path)) > 0 or "empty" in path.name
        else:
            with pytest.raises(ExfilmlError, match=r"a log of Zeek|not a format"):
                exfilml.read_flows(path)


def awk_totals(path):
    """Sum what the header calls them, by a program of its own."""
    program = r"""
        BEGIN { FS = "\t" }
        /^[ \t]*#fields/ { for (i = 2; i <= NF; i++) at[$i] = i - 1; next }
        /^[ \t]*#/ { next }
        { n += 1; a += $at["orig_ip_bytes"]; b += $at["resp_ip_bytes"]
          c += $at["orig_pkts"]; d += $at["resp_pkts"] }
        END { printf "%d %d %d %d %d", n, a, b, c, d }"""
    done = subprocess.run(
        ["awk", program, path], capture_output=True, text=True, check=True
    )
    return [int(n) for n in done.stdout.split()]


def json_totals(path):
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    keys = ("orig_ip_bytes", "resp_ip_bytes", "orig_pkts", "resp_pkts")
    return [len(rows), *(sum(row.get(key, 0) for row in rows) for key in keys)]


@real
@pytest.mark.parametrize(
    "path",
    [p for p in real_logs() if "conn" in p.name],
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_totals_of_real_logs_equal_those_of_awk_and_json(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flows = exfilml.read_flows(path)
    columns = ["src_bytes", "dst_bytes", "src_packets", "dst_packets"]
    actual = [len(flows), *(int(flows[name].sum()) for name in columns)]
    is_json = path.read_bytes().startswith(b"{")
    assert actual == (json_totals if is_json else awk_totals)(path)


@real
def test_names_of_a_real_folder_equal_a_join_by_hand():
    folder = Path(REAL) / "logs" / "zeek" / "zat-json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flows = exfilml.read_flows(folder / "conn.log")
    names: dict[str, str] = {}
    for log, key in (("ssl", "server_name"), ("http", "host"), ("dns", "query")):
        for line in (folder / f"{log}.log").read_text().splitlines():
            row = json.loads(line)
            if row.get(key):
                names.setdefault(row["uid"], row[key])
    expected = flows["uid"].map(names)
    assert flows["server_name"].fillna("").tolist() == expected.fillna("").tolist()
    assert np.count_nonzero(flows["server_name"].notna()) > 20
