"""Suricata's EVE JSON: flows, halves of flows, and what other events know of them."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import json_lines

import exfilml
from exfilml.exceptions import ExfilmlError, SourceError, SourceWarning
from exfilml.schema import capability
from exfilml.sources import _eve, _packed
from exfilml.sources._lines import blocks

REAL = os.environ.get("EXFILML_REAL_DATA")


def event(kind="flow", flow_id=1, **fields) -> dict[str, object]:
    ends = {
        "timestamp": "2023-11-14T22:14:00.000000+0100",
        "flow_id": flow_id,
        "event_type": kind,
        "src_ip": "10.0.0.5",
        "src_port": 40000,
        "dest_ip": "203.0.113.7",
        "dest_port": 443,
        "proto": "TCP",
    }
    return ends | fields


def flow(flow_id=1, *, counts=None, **fields) -> dict[str, object]:
    about = {
        "pkts_toserver": 8,
        "pkts_toclient": 9,
        "bytes_toserver": 1440,
        "bytes_toclient": 5494,
        "start": "2023-11-14T23:13:20.250000+0100",
        "end": "2023-11-14T23:13:21.750000+0100",
        "state": "closed",
    }
    given_fields = {"app_proto": "tls", "tcp": {"tcp_flags": "1b"}} | fields
    return event("flow", flow_id, flow=about | (counts or {}), **given_fields)


def netflow(flow_id, source, sent, start="23:13:20", **fields) -> dict[str, object]:
    ends = {"src_ip": "10.0.0.5", "dest_ip": "203.0.113.7"}
    ports = {"src_port": 40000, "dest_port": 443}
    if source != "10.0.0.5":
        ends = {"src_ip": ends["dest_ip"], "dest_ip": ends["src_ip"]}
        ports = {"src_port": 443, "dest_port": 40000}
    about = {
        "pkts": 2,
        "bytes": sent,
        "start": f"2023-11-14T{start}.000000+0100",
        "end": f"2023-11-14T{start}.500000+0100",
    }
    return event("netflow", flow_id, netflow=about, **ends, **ports, **fields)


def read(tmp_path, events, name="eve.json"):
    path = tmp_path / name
    data = events if isinstance(events, bytes) else json_lines(events)
    path.write_bytes(data)
    return exfilml.read_flows(path)


def test_columns_of_a_flow(tmp_path):
    row = read(tmp_path, [flow()]).iloc[0]
    expected = {
        "start": pd.Timestamp("2023-11-14T22:13:20.25Z"),
        "duration_s": 1.5,
        "src_ip": "10.0.0.5",
        "src_port": 40000,
        "dst_ip": "203.0.113.7",
        "dst_port": 443,
        "protocol": 6,
        "src_bytes": 1440 - 8 * 14,
        "dst_bytes": 5494 - 9 * 14,
        "src_packets": 8,
        "dst_packets": 9,
        "tcp_flags": 0x1B,
        "conn_state": "established",
        "app": "TLS",
        "sensor": "eve.json",
        "uid": "1",
    }
    assert row[list(expected)].to_dict() == expected
    assert row[["app_verified", "src_payload_bytes", "server_name"]].isna().all()


def test_ethernet_headers_are_taken_off_down_to_the_ip_header(tmp_path):
    counts = {"bytes_toserver": 8 * 30, "bytes_toclient": 9 * 60}
    row = read(tmp_path, [flow(counts=counts)]).iloc[0]
    assert (row["src_bytes"], row["dst_bytes"]) == (8 * 20, 9 * 46)


def test_other_events_give_names_by_flow_id_and_only_to_that_flow(tmp_path):
    hash_ = {"ja3": {"hash": "j3", "string": "771,…"}}
    events = [
        event("tls", 1, tls={"sni": "a.example", **hash_}),
        event("http", 2, http={"hostname": "b.example", "http_user_agent": "curl"}),
        event("http", 2, http={"hostname": "later", "http_content_type": "a/zip"}),
        event("dns", 3, dns={"type": "query", "rrname": "q.example"}),
        event("dns", 4, dns={"queries": [{"rrname": "v3.example"}, {"rrname": "x"}]}),
        event("ssh", 5, ssh={"client": {"hassh": {"hash": "h5"}}}),
        event("anomaly", 6, anomaly={"event": "ODD", "type": "applayer"}),
        event("quic", 7, quic={"sni": "c.example", "ja4": "j4"}),
        event("alert", 8, alert={"signature": "s"}, flow={"pkts_toserver": 1}),
        *(flow(i) for i in range(1, 10)),
    ]
    flows = read(tmp_path, events).set_index("uid")
    shown = ["server_name", "fingerprint", "user_agent", "content_type", "anomaly"]
    actual = flows[shown].astype(object).where(flows[shown].notna(), None)
    nothing = [None] * 5
    assert actual.T.to_dict("list") == {
        "1": ["a.example", "j3", None, None, None],
        "2": ["b.example", None, "curl", "a/zip", None],
        "3": ["q.example", None, None, None, None],
        "4": ["v3.example", None, None, None, None],
        "5": [None, "h5", None, None, None],
        "6": [None, None, None, None, "ODD"],
        "7": ["c.example", "j4", None, None, None],
        "8": nothing,
        "9": nothing,
    }


def test_names_are_found_over_any_distance_and_forgotten_after(tmp_path, monkeypatch):
    monkeypatch.setattr(_packed, "CHUNK", 300)
    monkeypatch.setattr(_eve, "blocks", lambda p, bad: blocks(p, bad, size=500))
    events = [event("tls", 7, tls={"sni": "a.example"})]
    events += [flow(i) for i in range(100, 120)]
    events += [flow(7), *(flow(i) for i in range(200, 210)), flow(7)]
    flows = read(tmp_path, events)
    assert flows.loc[flows["uid"] == "7", "server_name"].fillna("").tolist() == [
        "a.example",
        "",
    ]


@pytest.mark.parametrize(
    ("fields", "counts", "expected"),
    [
        ({}, {}, "established"),
        ({"tcp": {"tcp_flags": "16"}}, {}, "rejected"),
        ({"tcp": {"tcp_flags": "02"}}, {"pkts_toclient": 0}, "one_sided"),
        ({"tcp": {"tcp_flags": "18"}}, {}, "midstream"),
        ({"tcp": None}, {}, "established"),
        ({"proto": "UDP", "tcp": None}, {"pkts_toclient": 0}, "one_sided"),
        ({"proto": "ICMP", "icmp_type": 0}, {"pkts_toclient": 0}, "unsolicited"),
        ({"proto": "ICMP", "icmp_type": 8}, {"pkts_toclient": 0}, "one_sided"),
    ],
)
def test_how_conversations_went(tmp_path, fields, counts, expected):
    assert read(tmp_path, [flow(counts=counts, **fields)])["conn_state"][0] == expected


@pytest.mark.parametrize(
    ("proto", "source", "number"),
    [("UDP", "10.0.0.5", 17), ("ICMP", "10.0.0.5", 1), ("IPv6-ICMP", "fe80::1", 58),
     ("GRE", "10.0.0.5", 47), ("050", "10.0.0.5", 50), ("odd", "10.0.0.5", 255)],
)  # fmt: skip
def test_protocols(tmp_path, proto, source, number):
    row = flow(proto=proto, src_ip=source, src_port=None, dest_port=None, tcp=None)
    actual = read(tmp_path, [row]).iloc[0]
    assert actual[["protocol", "src_port", "dst_port"]].tolist() == [number, 0, 0]
    assert pd.isna(actual["tcp_flags"])


def test_netflow_events_of_both_directions_are_one_flow(tmp_path):
    events = [
        netflow(1, "10.0.0.5", 1000),
        netflow(1, "203.0.113.7", 3000),
        netflow(2, "10.0.0.5", 500, start="23:50:00"),
    ]
    flows = read(tmp_path, events)
    assert flows["src_ip"].tolist() == ["10.0.0.5"] * 2
    assert flows["src_bytes"].tolist() == [1000 - 28, 500 - 28]
    assert flows["dst_bytes"].tolist() == [3000 - 28, 0]
    assert flows["conn_state"].tolist() == ["established", "one_sided"]


def test_netflow_events_beside_flow_events_are_not_counted_twice(tmp_path):
    events = [flow(), netflow(1, "10.0.0.5", 1440), netflow(1, "203.0.113.7", 5494)]
    assert len(read(tmp_path, events)) == 1


def test_documents_over_several_lines_and_of_elasticsearch_are_read(tmp_path):
    row = flow()
    forms = [
        json.dumps(row, indent=2) + "\n" + json.dumps(row, indent=2),
        json.dumps([row, row]),
        json.dumps({"_index": "x", "_source": row}, indent=1) + "\n" + json.dumps(row),
        json.dumps({"_index": "x", "_source": row}) * 2,
    ]
    for at, text in enumerate(forms):
        assert len(read(tmp_path, text.encode(), f"{at}.json")) == 2, text[:30]


def test_a_document_that_is_too_long_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(_eve, "MOST_DOCUMENT", 100)
    with pytest.raises(SourceError, match=r"longer than .*jq -c"):
        read(tmp_path, json.dumps(flow(), indent=2).encode())


def test_events_without_flows_are_no_flows_and_that_is_told(tmp_path):
    with pytest.warns(
        SourceWarning, match="holds no flows: of 2 events none is of a flow"
    ):
        assert len(read(tmp_path, [event("alert"), event("stats")])) == 0


def test_bad_lines_are_counted(tmp_path):
    events = [flow(1), flow(2, src_ip="nowhere"), flow(3, counts={"start": "23:10"})]
    events.append(flow(4, counts={"start": "2023-11-14T23:13:20"}))
    data = json_lines(events) + b"{broken\n" + json_lines([flow(5)])[:-30]
    with pytest.warns(SourceWarning, match="5 of 6 lines could not be read") as caught:
        assert len(read(tmp_path, data)) == 1
    assert "first: line 2: src_ip cannot be 'nowhere'" in str(caught[0].message)


def test_capability_is_application_where_suricata_knows_one(tmp_path):
    flows = read(tmp_path, [flow(), flow(2, app_proto="failed")])
    assert capability(flows).tolist() == ["application", "packets"]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(), st.text(), max_size=2),
)  # fmt: skip
CHUNKS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"{", b"}", b"\n", b'"', b"null", b"\xff", b"[" * 5000, b"\\ud800"]
    ),
)


def fuzzed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "eve.json"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = exfilml.read_flows(path)
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)


EVENTS = [
    event("dns", 1, dns={"rrname": "a.example"}),
    flow(1),
    netflow(2, "10.0.0.5", 100),
    event("tls", 3, tls={"sni": "a.example"}),
    flow(3),
]


@settings(deadline=None, max_examples=150)
@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 60), CHUNKS), max_size=5),
)
def test_damaged_events_end_in_flows_or_one_clear_error(
    tmp_path_factory, pretty, edits
):
    lines = [json.dumps(e, indent=1 if pretty else None).encode() for e in EVENTS]
    data = bytearray(b"\n".join(lines))
    for at, cut, put in edits:
        data[at : at + cut] = put
    fuzzed(tmp_path_factory, bytes(data))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(range(len(EVENTS))),
            st.sampled_from(
                [*flow(), *netflow(1, "10.0.0.5", 1), "dns", "tls", "http"]
            ),
            st.sampled_from(["", *flow()["flow"], "rrname", "sni", "queries"]),
            VALUES,
        ),
        max_size=5,
    )
)
def test_values_of_any_kind_end_in_flows_or_one_clear_error(tmp_path_factory, changes):
    events = json.loads(json.dumps(EVENTS))
    for at, name, inner, value in changes:
        if inner and isinstance(events[at].get(name), dict):
            events[at][name][inner] = value
        else:
            events[at][name] = value
    fuzzed(tmp_path_factory, b"\n".join(json.dumps(e).encode() for e in events))


# -- real logs ---------------------------------------------------------------------

real = pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")


def real_logs():
    return sorted((Path(REAL) / "logs" / "suricata").glob("*")) if REAL else []


@real
@pytest.mark.parametrize("path", real_logs(), ids=lambda p: p.name)
def test_totals_of_real_logs_equal_those_of_jq(path):
    program = """
        def bare(b; p): [b - 14 * p, ([b, 20 * p] | min)] | max;
        [inputs | (._source // .) | select(.event_type == "flow") | .flow
         | [1, bare(.bytes_toserver; .pkts_toserver), bare(.bytes_toclient; .pkts_toclient),
            .pkts_toserver, .pkts_toclient]]
        | [range(5) as $i | (map(.[$i]) | add) // 0]"""
    done = subprocess.run(
        ["jq", "-nc", program, path], capture_output=True, text=True, check=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flows = exfilml.read_flows(path)
    columns = ["src_bytes", "dst_bytes", "src_packets", "dst_packets"]
    actual = [len(flows), *(int(flows[name].sum()) for name in columns)]
    assert actual == json.loads(done.stdout)


def test_an_absurd_time_costs_its_flow_alone(tmp_path):
    """Arrow refuses whole columns for one number that a float cannot hold exactly."""
    absurd = flow(2)
    absurd["flow"]["start"] = "0958-01-01T00:00:00.000001+0000"
    with pytest.warns(SourceWarning, match="1 of 2 lines could not be read"):
        flows = read(tmp_path, [flow(1), absurd])
    assert len(flows) == 1
    late = flow(3)
    late["flow"]["end"] = "9999-01-01T00:00:00.000001+0000"
    with pytest.warns(SourceWarning, match="1 impossible value"):
        assert len(read(tmp_path, [flow(1), late], name="late.json")) == 2
