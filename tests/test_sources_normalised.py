"""Normalised tables: OCSF, Elastic's ECS, NFStream's own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from captures import traffic, write_pcap
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import exfilml
from exfilml.exceptions import ExfilmlError, SourceWarning
from exfilml.schema import capability

REAL = os.environ.get("EXFILML_REAL_DATA")
ENDS = ["src_ip", "src_port", "dst_ip", "dst_port"]
COUNTS = ["src_bytes", "dst_bytes", "src_packets", "dst_packets"]


def read(tmp_path, data, name="events.json", **options):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return exfilml.read_flows(path, **options)


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# -- OCSF ----------------------------------------------------------------------------


def ocsf(**changed) -> dict[str, object]:
    """One event of network activity."""
    return {
        "class_uid": 4001,
        "activity_id": 2,
        "time": 1700000001750,
        "start_time": 1700000000250,
        "end_time": 1700000001750,
        "duration": 1500,
        "src_endpoint": {"ip": "10.0.0.5", "port": 40000, "hostname": "desk"},
        "dst_endpoint": {"ip": "203.0.113.7", "port": 443},
        "traffic": {
            "bytes_out": 1328,
            "bytes_in": 5368,
            "packets_out": 8,
            "packets_in": 9,
        },
        "connection_info": {"protocol_num": 6, "tcp_flags": 27, "uid": "C1"},
        "app_name": "ssl",
        "tls": {"sni": "drop.example", "ja3_hash": {"value": "abcd"}},
        "actor": {"process": {"name": "curl", "pid": 17}},
        "metadata": {"version": "1.1.0", "product": {"name": "Agent"}},
    } | changed


def half(**changed) -> dict[str, object]:
    """One direction, as VPC flow logs are normalised."""
    traffic = {"bytes": 1328, "packets": 8}
    endpoint = {"ip": "10.0.0.5", "port": 40000, "interface_uid": "eni-a"}
    product = {"product": {"name": "Amazon VPC"}}
    return (
        ocsf(
            traffic=traffic,
            src_endpoint=endpoint,
            metadata=product,
            tls=None,
            actor=None,
        )
        | changed
    )


OCSF = {
    "start": pd.Timestamp("2023-11-14T22:13:20.25Z"),
    "duration_s": 1.5,
    "src_ip": "10.0.0.5",
    "src_port": 40000,
    "dst_ip": "203.0.113.7",
    "dst_port": 443,
    "protocol": 6,
    "src_bytes": 1328,
    "dst_bytes": 5368,
    "src_packets": 8,
    "dst_packets": 9,
    "tcp_flags": 27,
    "conn_state": "established",
    "app": "TLS",
    "server_name": "drop.example",
    "fingerprint": "abcd",
    "process": "curl",
    "uid": "C1",
}


@pytest.mark.parametrize("indent", [None, 2])
def test_columns_of_an_ocsf_event(tmp_path, indent):
    flows = read(tmp_path, json.dumps([ocsf()], indent=indent))
    assert flows.iloc[0][list(OCSF)].to_dict() == OCSF
    assert capability(flows).tolist() == ["application"]
    pd.testing.assert_frame_equal(read(tmp_path, lines([ocsf()])), flows)


def test_ocsf_in_parquet_reads_as_its_json(tmp_path):
    rows = [ocsf(), half(), ocsf(class_uid=4003)]
    with pytest.warns(SourceWarning, match="of 3 records .* 1 events of other classes"):
        flows = read(tmp_path, lines(rows))
    path = tmp_path / "events.json"
    parquet.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    with pytest.warns(SourceWarning, match="of 3 records .* 1 events of other classes"):
        pd.testing.assert_frame_equal(exfilml.read_flows(path), flows)


def test_totals_of_one_direction_are_paired(tmp_path):
    back = half(
        src_endpoint={"ip": "203.0.113.7", "port": 443},
        dst_endpoint={"ip": "10.0.0.5", "port": 40000, "interface_uid": "eni-a"},
        traffic={"bytes": 5368, "packets": 9},
        start_time=1700000000300,
    )
    flows = read(tmp_path, lines([half(), back]))
    assert flows[[*COUNTS, "sensor"]].values.tolist() == [[1328, 5368, 8, 9, "eni-a"]]
    # Another product means both directions by it.
    other = half(metadata={"product": {"name": "Some Firewall"}})
    with pytest.warns(SourceWarning, match="1 events tell the total of bytes alone"):
        assert read(tmp_path, lines([other]))[COUNTS].values.tolist() == [
            [1328, 0, 8, 0]
        ]


def test_packets_that_nobody_counted_are_not_visible(tmp_path):
    flows = read(tmp_path, lines([half(traffic={"bytes": 7}, app_name=None)]))
    assert flows["src_packets"].isna().all()
    assert capability(flows).tolist() == ["volume"]


def test_events_that_count_nothing_are_passed_over(tmp_path):
    rows = [ocsf(), ocsf(traffic=None), ocsf(traffic={"packets": 1})]
    with pytest.warns(SourceWarning, match="of 3 records .* 2 events that count no"):
        assert len(read(tmp_path, lines(rows))) == 1


def test_what_an_ocsf_event_may_lack(tmp_path):
    event = ocsf(traffic={"bytes_out": 7}, connection_info={"protocol_name": "udp"})
    for name in ("start_time", "tls", "actor", "app_name"):
        del event[name]
    row = read(tmp_path, lines([event])).iloc[0]
    assert row[["start", "protocol", "src_bytes", "dst_bytes"]].tolist() == [
        OCSF["start"],
        17,
        7,
        0,
    ]
    assert row[["src_packets", "app", "process", "server_name"]].isna().all()
    del event["end_time"], event["connection_info"]
    row = read(tmp_path, lines([event])).iloc[0]
    assert row["start"] == pd.Timestamp("2023-11-14T22:13:21.75Z")
    assert row["protocol"] == 255


# -- ECS -----------------------------------------------------------------------------


def report(**changed) -> dict[str, object]:
    """One report of Packetbeat on a flow."""
    row = {
        "@timestamp": "2023-11-14T22:13:30.000Z",
        "source.ip": "10.0.0.5",
        "source.port": 40000,
        "source.bytes": 1440,
        "source.packets": 8,
        "destination.ip": "203.0.113.7",
        "destination.port": 443,
        "destination.bytes": 5494,
        "destination.packets": 9,
        "network.transport": "tcp",
        "network.type": "ipv4",
        "network.application": "tls",
        "event.start": "2023-11-14T22:13:20.250Z",
        "event.end": "2023-11-14T22:13:21.750Z",
        "event.duration": 1_500_000_000,
        "event.dataset": "flow",
        "event.category": ["network"],
        "agent.type": "packetbeat",
        "agent.name": "desk",
        "flow.id": "EAT/////",
        "flow.final": True,
        "process.name": "curl",
        "tls.client.server_name": "drop.example",
    }
    row |= {name.replace("__", "."): value for name, value in changed.items()}
    return {name: value for name, value in row.items() if value is not None}


def nested(row) -> dict[str, object]:
    """The same, fields within fields."""
    tree: dict = {}
    for name, value in row.items():
        *outer, last = name.split(".")
        place = tree
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


ECS = OCSF | {
    "src_bytes": 1440 - 8 * 14,
    "dst_bytes": 5494 - 9 * 14,
    "sensor": "desk",
    "uid": "EAT/////",
}
for absent in ("tcp_flags", "fingerprint"):
    del ECS[absent]


def hits(rows) -> dict[str, object]:
    found = [{"_index": "packetbeat", "_id": str(i), "_source": r} for i, r in
             enumerate(rows)]  # fmt: skip
    total = {"value": len(found), "relation": "eq"}
    return {"took": 3, "timed_out": False, "hits": {"total": total, "hits": found}}


@pytest.mark.parametrize(
    "write",
    [
        lines,
        lambda rows: lines(map(nested, rows)),
        lambda rows: json.dumps(list(map(nested, rows)), indent=2),
        lambda rows: json.dumps(hits(map(nested, rows))),
        lambda rows: json.dumps(hits(rows), indent=1),
        lambda rows: lines(hits(rows)["hits"]["hits"]),
        lambda rows: lines(rows[:1]) + lines(map(nested, rows[1:])),
        lambda rows: lines([rows[0] | {"source.bytes": "1440"}, *rows[1:]]),
        lambda rows: lines([{k: str(v) if type(v) is int else v for k, v in r.items()}
                            for r in rows]),
    ],
)  # fmt: skip
def test_columns_of_ecs_however_they_are_written(tmp_path, write):
    flows = read(tmp_path, write([report(), report(flow__id="B", source__port=40001)]))
    assert flows.iloc[0][list(ECS)].to_dict() == ECS
    assert flows["src_port"].tolist() == [40000, 40001]


def test_the_last_report_of_a_flow_counts(tmp_path):
    going = [
        report(flow__final=False, source__bytes=sent, source__packets=1)
        for sent in (200, 700, 900)
    ]
    flows = read(tmp_path, lines([*going, report()]))
    assert flows[COUNTS].values.tolist() == [[1328, 5368, 8, 9]]
    # Without an end, too.
    assert read(tmp_path, lines(going))["src_bytes"].tolist() == [886]


def test_reports_of_differences_are_told(tmp_path):
    rows = [report(flow__final=False), report(source__bytes=100, source__packets=1)]
    with pytest.warns(SourceWarning, match="1 flows count less in later reports"):
        read(tmp_path, lines(rows))


def test_what_is_no_flow_is_passed_over(tmp_path):
    transaction = report(event__dataset="http", type="http")
    alert = report(agent__type="filebeat", event__module="suricata", flow__id=None)
    rows = [transaction, nested(alert | {"suricata.eve.event_type": "alert"})]
    rows += [report(), {"@timestamp": "2023-11-14T22:13:30.000Z", "message": "x"}]
    with pytest.warns(SourceWarning, match="2 events that are no flows; 1 events that"):
        assert len(read(tmp_path, lines(rows))) == 1


def filebeat(**changed) -> dict[str, object]:
    return report(
        **{"agent__type": "filebeat", "event__dataset": "zeek.connection"}
        | {"flow__id": None, "flow__final": None}
        | changed
    )


def test_bytes_are_those_of_the_writer(tmp_path):
    zeek = read(tmp_path, lines([filebeat(event__module="zeek")]))
    assert zeek[COUNTS].values.tolist() == [[1440, 5494, 8, 9]]
    event = {"suricata.eve.event_type": "flow"}
    suricata = filebeat(event__module="suricata", event__dataset="suricata.eve") | event
    flows = read(tmp_path, lines([suricata]))
    assert flows[COUNTS].values.tolist() == [[1328, 5368, 8, 9]]


def test_records_of_one_direction_are_paired(tmp_path):
    one = filebeat(
        event__dataset="netflow.log", destination__bytes=None, destination__packets=None
    )
    turned = {
        "source.ip": one["destination.ip"],
        "source.port": one["destination.port"],
    }
    turned |= {"destination.ip": one["source.ip"], "source.bytes": 5494}
    turned |= {"destination.port": one["source.port"], "source.packets": 9}
    flows = read(tmp_path, lines([one, one | turned]))
    assert flows[COUNTS].values.tolist() == [[1440, 5494, 8, 9]]


def test_protocols_of_ecs(tmp_path):
    rows = [
        report(network__transport=None, network__iana_number="17"),
        report(network__transport="icmp", source__port=None, destination__port=None),
        report(network__transport="ipv6-icmp", source__ip="fe80::1"),
        report(network__transport=None),
    ]
    flows = read(tmp_path, lines([r | {"flow.id": str(i)} for i, r in enumerate(rows)]))
    assert flows["protocol"].tolist() == [17, 1, 58, 255]
    assert flows["src_port"].tolist() == [40000, 0, 40000, 40000]


# -- NFStream ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return write_pcap(tmp_path_factory.mktemp("nfstream") / "site.pcap", traffic())


@pytest.fixture(scope="module")
def written(capture, tmp_path_factory):
    """What NFStream itself writes, by accounting mode."""
    from nfstream import NFStreamer

    folder = tmp_path_factory.mktemp("csv")
    paths = []
    for mode in range(4):
        path = folder / f"mode{mode}.csv"
        with contextlib.redirect_stdout(None):
            NFStreamer(
                source=str(capture),
                accounting_mode=mode,
                statistical_analysis=True,
                n_meters=1,
                active_timeout=1800,
            ).to_csv(str(path))
        paths.append(path)
    return paths


def totals_of_pandas(path, header):
    """IP bytes and packets, as the file says and the mode means."""
    table = pd.read_csv(path)
    octets = table["bidirectional_bytes"] + header * table["bidirectional_packets"]
    return [octets.sum(), table["bidirectional_packets"].sum()]


def totals(flows):
    return [
        flows["src_bytes"].sum() + flows["dst_bytes"].sum(),
        flows["src_packets"].sum() + flows["dst_packets"].sum(),
    ]


@pytest.mark.parametrize(("mode", "header"), [(0, -14), (1, 0), (2, 20)])
def test_totals_of_nfstream_equal_its_own(written, mode, header):
    flows = exfilml.read_flows(written[mode])
    assert totals(flows) == totals_of_pandas(written[mode], header)


def test_payload_of_nfstream_has_headers_added(written):
    flows, ip = (exfilml.read_flows(written[mode]) for mode in (3, 1))
    tcp = ip["protocol"] == 6
    # TCP's options are not known, which are few.
    most = 40 * (ip["src_packets"] + ip["dst_packets"])
    total, ip_total = (f["src_bytes"] + f["dst_bytes"] for f in (flows, ip))
    assert (total[~tcp] == ip_total[~tcp]).all()
    assert ((total <= ip_total) & (total >= ip_total - most))[tcp].all()


def test_flows_of_nfstream_are_those_of_the_capture(written, capture):
    flows, own = exfilml.read_flows(written[1]), exfilml.read_flows(capture)
    shared = [*ENDS, "protocol", *COUNTS, "tcp_flags"]
    order = [*ENDS, "protocol"]
    pd.testing.assert_frame_equal(
        flows.sort_values(order, ignore_index=True)[shared],
        own.sort_values(order, ignore_index=True)[shared],
    )


def test_nfstream_in_parquet_reads_as_its_csv(written, tmp_path):
    path = tmp_path / written[0].name
    pd.read_csv(written[0]).to_parquet(path)
    pd.testing.assert_frame_equal(
        exfilml.read_flows(path), exfilml.read_flows(written[0])
    )


# -- damage --------------------------------------------------------------------------

NFSTREAM = (
    "id,expiration_id,src_ip,src_port,dst_ip,dst_port,protocol,ip_version,vlan_id,"
    "bidirectional_first_seen_ms,bidirectional_last_seen_ms,src2dst_packets,"
    "src2dst_bytes,dst2src_packets,dst2src_bytes,application_name,user_agent\r\n"
    "0,0,10.0.0.5,40000,203.0.113.7,443,6,4,0,1700000000250,1700000001750,8,1440,9,"
    '5494,TLS,"curl, ""the"" tool"\r\n'
)


def test_quoted_fields_of_nfstream(tmp_path):
    row = read(tmp_path, NFSTREAM).iloc[0]
    assert row["user_agent"] == 'curl, "the" tool'
    assert row[COUNTS].tolist() == [1328, 5368, 8, 9]


WHOLE = [
    lines([ocsf(), half(), ocsf(traffic=None)]).encode(),
    json.dumps([ocsf(), half()], indent=2).encode(),
    lines([report(), nested(report(flow__final=False)), filebeat()]).encode(),
    json.dumps(hits([report(), filebeat()])).encode(),
    (NFSTREAM * 2).encode(),
]
CHUNKS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b",", b"\n", b"\xff", b"\x00", b"-1", b"9" * 30, b"nan", b'"', b"{", b"}",
         b"[", b"]", b'{"hits":{"hits":[', b"null", b"\\u0000", b"\\ud800", b"1e400",
         b"true", b'"_source":', b"src2dst_bytes"]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 40), CHUNKS), max_size=6),
)
def test_damaged_tables_end_in_flows_or_one_clear_error(tmp_path_factory, text, edits):
    data = bytearray(text)
    for at, cut, put in edits:
        data[at : at + cut] = put
    path = tmp_path_factory.mktemp("fuzz") / "events.json"
    path.write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = exfilml.read_flows(path, timezone="UTC")
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)


def test_one_broken_record_in_an_array_costs_itself_alone(tmp_path):
    rows = [ocsf(src_endpoint={"ip": "10.0.0.5", "port": n}) for n in range(1, 6)]
    text = json.dumps(rows).replace('"port": 3', '"port": ,')
    with pytest.warns(SourceWarning, match="could not be read"):
        assert read(tmp_path, text)["src_port"].tolist() == [1, 2, 4, 5]
    cut = json.dumps(rows)[:-30]
    with pytest.warns(SourceWarning, match="1 of 5 lines could not be read"):
        assert read(tmp_path, cut)["src_port"].tolist() == [1, 2, 3, 4]


def test_arrays_of_any_length_are_read_in_pieces(tmp_path):
    rows = [ocsf(time=1700000000000 + n) for n in range(30_000)]
    path = tmp_path / "events.json"
    path.write_text(json.dumps(rows))
    tables = list(exfilml.iter_flows(path, chunk=10_000))
    assert sum(map(len, tables)) == 30_000
    assert sum(t["src_bytes"].sum() for t in tables) == 30_000 * 1328


# -- totals --------------------------------------------------------------------------


def jq(path, program):
    done = subprocess.run(
        ["jq", "-s", "-c", program, path], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_totals_of_ocsf_and_ecs_equal_those_of_jq(tmp_path):
    rng = np.random.default_rng(0)
    sizes = rng.integers(60, 99999, (500, 2)).tolist()
    path = tmp_path / "ocsf.json"
    path.write_text(
        lines(ocsf(traffic={"bytes_out": a, "bytes_in": b}) for a, b in sizes)
    )
    flows = exfilml.read_flows(path)
    assert flows[["src_bytes", "dst_bytes"]].sum().tolist() == jq(
        path, "[(map(.traffic.bytes_out)|add), (map(.traffic.bytes_in)|add)]"
    )
    path = tmp_path / "ecs.json"
    path.write_text(
        lines(nested(filebeat(source__bytes=a, destination__bytes=b)) for a, b in sizes)
    )
    flows = exfilml.read_flows(path)
    assert flows[["src_bytes", "dst_bytes"]].sum().tolist() == jq(
        path, "[(map(.source.bytes)|add), (map(.destination.bytes)|add)]"
    )


@pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")
def test_totals_of_the_real_ocsf_sample_equal_those_of_jq():
    path = Path(REAL or "") / "logs/ocsf/ocsf_sample.ndjson"
    with pytest.warns(SourceWarning, match="of 3 records .* 2 events that count no"):
        flows = exfilml.read_flows(path)
    assert flows[["src_bytes", "dst_bytes", "src_packets"]].sum().tolist() == jq(
        path,
        "map(select(.traffic)) | [(map(.traffic.bytes_out)|add), "
        "(map(.traffic.bytes_in)|add), (map(.traffic.packets_out)|add)]",
    )


@pytest.mark.parametrize(
    "write", ["null\n{}", "{}null\n", "{} null\n{}", "null", "\tnull\n"]
)
def test_a_null_instead_of_an_event_does_not_end_the_process(tmp_path, write):
    text = lines([ocsf()]) + write.replace("{}", json.dumps(ocsf())) + "\n"
    (tmp_path / "events.json").write_text(text)
    program = f"""
import warnings, exfilml
warnings.simplefilter("ignore")
print(len(exfilml.read_flows({str(tmp_path / "events.json")!r})))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, int(done.stdout) >= 1) == (0, True), done.stderr
