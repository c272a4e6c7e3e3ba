"""Flow logs of AWS, Azure and Google Cloud: columns, totals, what is counted once."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import exfilml
from exfilml.exceptions import ExfilmlError, SourceError, SourceWarning
from exfilml.schema import capability
from exfilml.sources._vantages import Vantages

REAL = os.environ.get("EXFILML_REAL_DATA")
ENDS = ["src_ip", "src_port", "dst_ip", "dst_port"]
COUNTS = ["src_bytes", "dst_bytes", "src_packets", "dst_packets"]


def read(tmp_path, data, name="flows.log", **options):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return exfilml.read_flows(path, **options)


# -- AWS -----------------------------------------------------------------------------

V5 = (
    "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets "
    "bytes start end action log-status vpc-id tcp-flags pkt-srcaddr pkt-dstaddr "
    "flow-direction"
)


def vpc(**changed) -> dict[str, object]:
    """One record of AWS, by the names of its fields with underscores."""
    return {
        "version": 5,
        "account_id": "123456789010",
        "interface_id": "eni-a",
        "srcaddr": "10.0.0.5",
        "dstaddr": "203.0.113.7",
        "srcport": 40000,
        "dstport": 443,
        "protocol": 6,
        "packets": 8,
        "bytes": 1328,
        "start": 1700000000,
        "end": 1700000050,
        "action": "ACCEPT",
        "log_status": "OK",
        "vpc_id": "vpc-1",
        "tcp_flags": 3,
        "pkt_srcaddr": changed.get("srcaddr", "10.0.0.5"),
        "pkt_dstaddr": changed.get("dstaddr", "203.0.113.7"),
        "flow_direction": "egress",
    } | changed


def back(**changed) -> dict[str, object]:
    """The answer to it."""
    ends = {"srcaddr": "203.0.113.7", "dstaddr": "10.0.0.5"}
    ends |= {"srcport": 443, "dstport": 40000, "packets": 9, "bytes": 5368}
    return vpc(**(ends | {"tcp_flags": 19, "flow_direction": "ingress"} | changed))


def vpc_text(rows, header=V5) -> str:
    names = header.replace("-", "_").split()
    lines = [" ".join(str(row[name]) for name in names) for row in rows]
    return "\n".join([header, *lines]) + "\n"


def test_two_directions_of_aws_are_one_flow(tmp_path):
    flows = read(tmp_path, vpc_text([vpc(), back()]))
    expected = {
        "start": pd.Timestamp("2023-11-14T22:13:20Z"),
        "duration_s": 50.0,
        "src_ip": "10.0.0.5",
        "src_port": 40000,
        "dst_ip": "203.0.113.7",
        "dst_port": 443,
        "protocol": 6,
        "src_bytes": 1328,
        "dst_bytes": 5368,
        "src_packets": 8,
        "dst_packets": 9,
        "tcp_flags": 19,
        "conn_state": "established",
        "sensor": "eni-a",
    }
    assert len(flows) == 1
    assert flows.iloc[0][list(expected)].to_dict() == expected
    assert capability(flows).tolist() == ["packets"]


def test_fields_of_aws_are_known_by_name_in_whichever_order(tmp_path):
    names = V5.split()
    turned = " ".join(reversed(names))
    first = read(tmp_path, vpc_text([vpc(), back()]))
    pd.testing.assert_frame_equal(
        read(tmp_path, vpc_text([vpc(), back()], turned)), first
    )
    # Two files joined, the second with other fields.
    both = vpc_text([vpc()]) + vpc_text([back()], turned)
    pd.testing.assert_frame_equal(read(tmp_path, both), first)
    packed = gzip.compress(vpc_text([vpc(), back()]).encode())
    pd.testing.assert_frame_equal(read(tmp_path, packed), first)


def test_default_format_has_no_header_and_may_say_when_it_was_taken_in(tmp_path):
    text = vpc_text([vpc(version=2), back(version=2)], " ".join(V5.split()[:14]))
    bare = text.split("\n", 1)[1]
    flows = read(tmp_path, bare)
    assert flows[COUNTS].values.tolist() == [[1328, 5368, 8, 9]]
    stamped = "".join(f"2023-11-14T22:20:00.000Z {x}\n" for x in bare.splitlines())
    pd.testing.assert_frame_equal(read(tmp_path, stamped), flows)


def test_parquet_of_aws_reads_as_its_text(tmp_path):
    rows = [vpc(), back(), vpc(srcaddr="10.0.0.6", srcport=1)]
    text = read(tmp_path, vpc_text(rows))
    folder = tmp_path / "aws-region=eu-west-1" / "year=2023"
    folder.mkdir(parents=True)
    path = folder / "flows.log"
    parquet.write_table(pa.Table.from_pylist(rows), path, compression="gzip")
    pd.testing.assert_frame_equal(exfilml.read_flows(path), text)
    (table,) = exfilml.iter_flows(path)
    pd.testing.assert_frame_equal(table, text)
    gone = dict.fromkeys(("srcaddr", "dstaddr", "pkt_srcaddr", "pkt_dstaddr", "bytes"))
    rows.append(vpc(**gone, log_status="NODATA"))
    parquet.write_table(pa.Table.from_pylist(rows), path)
    with pytest.warns(SourceWarning, match=r"of 4 records .* 1 intervals without"):
        pd.testing.assert_frame_equal(exfilml.read_flows(path), text)


def test_ends_of_packets_are_the_real_ones_behind_a_gateway(tmp_path):
    text = vpc_text([vpc(dstaddr="10.0.9.9", pkt_dstaddr="203.0.113.7")])
    assert read(tmp_path, text)["dst_ip"].tolist() == ["203.0.113.7"]
    text = vpc_text([vpc(dstaddr="10.0.9.9", pkt_dstaddr="-")])
    assert read(tmp_path, text)["dst_ip"].tolist() == ["10.0.9.9"]


def test_what_two_interfaces_saw_counts_once(tmp_path):
    here = [vpc(dstaddr="10.0.0.9"), back(srcaddr="10.0.0.9")]
    there = [
        row | {"interface_id": "eni-b", "bytes": row["bytes"] - 40, "packets": 7}
        for row in here
    ]
    flows = read(tmp_path, vpc_text([*there, *here]))
    assert flows[COUNTS].values.tolist() == [[1328, 5368, 8, 9]]
    # Without interfaces, by the direction at each.
    for row, way in zip(there, ("ingress", "egress"), strict=True):
        row["flow_direction"] = way
    plain = V5.replace(" interface-id", "")
    flows = read(tmp_path, vpc_text([*here, *there], plain))
    assert flows[COUNTS].values.tolist() == [[1328, 5368, 8, 9]]


def test_who_sent_syn_ack_answers_whatever_the_ports(tmp_path):
    rows = [back(srcport=50051), vpc(dstport=50051)]
    row = read(tmp_path, vpc_text(rows)).iloc[0]
    assert row[["src_ip", "dst_port", "src_bytes"]].tolist() == [
        "10.0.0.5",
        50051,
        1328,
    ]


def test_a_format_without_its_line_of_names_is_refused(tmp_path):
    text = vpc_text([vpc()], f"srcaddr {V5}".replace(" srcaddr", "", 1))
    with pytest.raises(SourceError, match="Put the line of its fields before them"):
        read(tmp_path, text.split("\n", 1)[1])


def test_intervals_of_a_long_flow_are_added_up(tmp_path):
    rows = [vpc(start=1700000000 + 60 * i, end=1700000058 + 60 * i) for i in range(90)]
    flows = read(tmp_path, vpc_text(rows))
    assert flows[["src_bytes", "duration_s"]].values.tolist() == [[90 * 1328, 5398.0]]


def test_a_reset_after_payload_is_no_rejection(tmp_path):
    rows = [vpc(tcp_flags=6), back(tcp_flags=22)]
    assert read(tmp_path, vpc_text(rows))["conn_state"].tolist() == ["established"]
    rows = [vpc(tcp_flags=2, packets=1, bytes=60)]
    rows.append(back(tcp_flags=4, packets=1, bytes=40))
    assert read(tmp_path, vpc_text(rows))["conn_state"].tolist() == ["rejected"]


def test_bad_lines_and_headers_of_aws_are_counted(tmp_path):
    text = vpc_text([vpc(), vpc(srcaddr="x", pkt_srcaddr="x"), vpc(bytes=-1)])
    text += "2 half a line\n" + vpc_text([vpc()], V5.replace(" srcport", ""))
    with pytest.warns(SourceWarning, match="4 of 5 lines could not be read"):
        assert len(read(tmp_path, text)) == 1


# -- Azure ---------------------------------------------------------------------------


def vnet(tuples, mac="112233445566") -> dict[str, object]:
    group = {"rule": "DefaultRule_AllowInternetOutBound", "flowTuples": tuples}
    return {
        "time": "2022-09-14T09:00:52.5625085Z",
        "flowLogVersion": 4,
        "macAddress": mac,
        "category": "FlowLogFlowEvent",
        "flowRecords": {"flows": [{"aclID": "x", "flowGroups": [group]}]},
    }


def nsg(tuples, mac="000D3AF87856", version=2) -> dict[str, object]:
    flows = [{"mac": mac, "flowTuples": tuples}]
    return {
        "time": "2018-11-13T12:00:35.3899262Z",
        "macAddress": mac,
        "category": "NetworkSecurityGroupFlowEvent",
        "properties": {
            "Version": version,
            "flows": [{"rule": "DefaultRule_DenyAllInBound", "flows": flows}],
        },
    }


VNET = [
    "1663146003599,10.0.0.6,192.0.2.180,23956,443,6,O,B,NX,0,0,0,0",
    "1663146303599,10.0.0.6,192.0.2.180,23956,443,6,O,C,NX,1021,588096,8005,4610880",
    "1663146453606,10.0.0.6,192.0.2.180,23956,443,6,O,E,NX,52,29952,47,27072",
    "1663146003637,203.0.113.17,10.0.0.6,22730,57624,17,I,B,NX,0,0,0,0",
    "1663146003637,203.0.113.17,10.0.0.6,22731,57624,6,I,D,NX,0,0,0,0",
]
NSG = [
    "1542110377,94.102.49.190,10.5.16.4,28746,443,U,I,D,B,,,,",
    "1542110424,10.5.16.4,192.0.2.49,49982,443,T,O,A,B,,,,",
    "1542110724,10.5.16.4,192.0.2.49,49982,443,T,O,A,C,25,3768,31,5580",
    "1542110790,10.5.16.4,192.0.2.49,49982,443,T,O,A,E,1,66,2,120",
]


def azure(*records, **options) -> str:
    return json.dumps({"records": list(records)}, **options)


@pytest.mark.parametrize("indent", [None, 4])
def test_updates_of_a_virtual_network_are_added_up(tmp_path, indent):
    with pytest.warns(SourceWarning, match="of 5 records .* 1 tuples of denied flows"):
        flows = read(tmp_path, azure(vnet(VNET), indent=indent))
    expected = {
        "start": pd.Timestamp("2022-09-14T09:00:03.599Z"),
        "duration_s": 450.007,
        "src_ip": "10.0.0.6",
        "src_port": 23956,
        "dst_ip": "192.0.2.180",
        "dst_port": 443,
        "protocol": 6,
        "src_bytes": 588096 + 29952,
        "dst_bytes": 4610880 + 27072,
        "src_packets": 1073,
        "dst_packets": 8052,
        "conn_state": "established",
        "sensor": "112233445566",
    }
    assert flows.iloc[0][list(expected)].to_dict() == expected
    assert flows.iloc[1][COUNTS].tolist() == [0, 0, 0, 0]


def test_tuples_of_security_groups(tmp_path):
    with pytest.warns(SourceWarning, match="1 tuples of denied flows"):
        flows = read(tmp_path, azure(nsg(NSG[:2]), nsg(NSG[2:])))
    assert flows[[*ENDS, *COUNTS, "protocol", "duration_s"]].values.tolist() == [
        ["10.5.16.4", 49982, "192.0.2.49", 443, 3834, 5700, 26, 33, 6, 366.0]
    ]


def test_security_groups_of_version_1_are_refused_for_they_count_nothing(tmp_path):
    old = ["1487282421,42.119.146.95,10.1.0.4,51529,5358,T,I,D"]
    with pytest.raises(SourceError, match="version 1, which count no bytes"):
        read(tmp_path, azure(nsg(old, version=1)))
    with pytest.warns(SourceWarning, match="1 tuples of version 1"):
        assert len(read(tmp_path, azure(nsg(old, version=1), nsg(NSG[1:])))) == 1


def test_what_two_interfaces_of_azure_saw_counts_once(tmp_path):
    inner = [text.replace("192.0.2.180", "10.0.0.9") for text in VNET[:3]]
    there = [text.replace(",O,", ",I,") for text in inner]
    # Files, one an interface, joined.
    text = azure(vnet(inner)) + azure(vnet(there, mac="665544332211"))
    flows = read(tmp_path, text)
    assert flows[COUNTS].values.tolist() == [[618048, 4637952, 1073, 8052]]


def test_what_is_no_tuple_is_counted(tmp_path):
    odd = ["", "x,y", VNET[1].replace("1021", "many"), VNET[1].replace("10.0.0.6", "x")]
    text = azure(vnet([*VNET[:2], *odd]), {"flowTuples": 1}, 7, vnet([3, None]))
    with pytest.warns(SourceWarning, match="5 of 8 lines could not be read") as caught:
        flows = read(tmp_path, text)
    assert "1 impossible values left out" in str(caught[0].message)
    assert flows["src_bytes"].tolist() == [2 * 588096]


# -- Google Cloud --------------------------------------------------------------------


def gcp(*, numbers=False, **changed) -> dict[str, object]:
    """One entry of Cloud Logging."""
    connection = {
        "src_ip": "10.0.0.5",
        "dest_ip": "203.0.113.7",
        "src_port": 40000,
        "dest_port": 443,
        "protocol": 6,
    }
    connection |= {k: changed.pop(k) for k in list(changed) if k in connection}
    counts = {"bytes_sent": 1000, "packets_sent": 8}
    counts |= {k: changed.pop(k) for k in list(changed) if k in counts}
    payload = {
        "connection": connection,
        "start_time": "2023-11-14T22:13:20.250000000Z",
        "end_time": "2023-11-14T22:13:21.750000000Z",
        "reporter": "SRC",
        "src_instance": {"vm_name": "web-1", "zone": "a"},
        **{k: v if numbers else str(v) for k, v in counts.items()},
    }
    return {
        "insertId": "1dmnk4sf1j9o7b",
        "jsonPayload": payload | changed,
        "logName": "projects/p/logs/compute.googleapis.com%2Fvpc_flows",
        "resource": {"type": "gce_subnetwork"},
    }


def gcp_back(**changed) -> dict[str, object]:
    ends = {"src_ip": "203.0.113.7", "dest_ip": "10.0.0.5"}
    ends |= {"src_port": 443, "dest_port": 40000, "reporter": "DEST"}
    return gcp(**(ends | {"bytes_sent": 5000, "packets_sent": 9} | changed))


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_payload_of_google_has_headers_added(tmp_path):
    flows = read(tmp_path, lines([gcp(), gcp_back()]))
    expected = {
        "start": pd.Timestamp("2023-11-14T22:13:20.25Z"),
        "duration_s": 1.5,
        "src_ip": "10.0.0.5",
        "src_port": 40000,
        "dst_ip": "203.0.113.7",
        "dst_port": 443,
        "protocol": 6,
        "src_bytes": 1000 + 8 * 40,
        "dst_bytes": 5000 + 9 * 40,
        "src_packets": 8,
        "dst_packets": 9,
        "src_payload_bytes": 1000,
        "dst_payload_bytes": 5000,
        "conn_state": "established",
        "sensor": "web-1",
    }
    assert len(flows) == 1
    assert flows.iloc[0][list(expected)].to_dict() == expected


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("numbers", [False, True])
def test_exports_of_google_read_alike(tmp_path, indent, numbers):
    rows = [gcp(), gcp_back(), gcp(src_port=40001, bytes_sent=7)]
    first = read(tmp_path, lines(rows))
    rows = [gcp(numbers=numbers), gcp_back(numbers=numbers)]
    rows.append(gcp(src_port=40001, bytes_sent=7, numbers=numbers))
    array = json.dumps(rows, indent=indent)
    pd.testing.assert_frame_equal(read(tmp_path, array), first)
    # Some of each.
    mixed = lines([gcp(numbers=True), *rows[1:]])
    pd.testing.assert_frame_equal(read(tmp_path, mixed), first)


def test_what_source_and_destination_reported_counts_once(tmp_path):
    rows = [
        gcp(dest_ip="10.0.0.9", reporter=who, bytes_sent=sent)
        for who, sent in (("SRC", 1000), ("DEST", 960), ("SRC", 50), ("DEST", 50))
    ]
    flows = read(tmp_path, lines(rows))
    assert flows["src_payload_bytes"].tolist() == [1050]


def test_icmp_of_google_has_no_ports(tmp_path):
    entry = gcp(protocol=1)
    del entry["jsonPayload"]["connection"]["src_port"]
    del entry["jsonPayload"]["connection"]["dest_port"]
    row = read(tmp_path, lines([entry])).iloc[0]
    assert row[["src_port", "dst_port", "src_bytes"]].tolist() == [0, 0, 1000 + 8 * 28]


def test_entries_of_other_logs_are_passed_over(tmp_path):
    other = {"jsonPayload": {"message": "hello"}, "logName": "x"}
    with pytest.warns(SourceWarning, match="of 3 records .* 2 entries of other logs"):
        assert len(read(tmp_path, lines([other, gcp(), {"textPayload": "y"}]))) == 1


# -- what several saw ----------------------------------------------------------------


def sightings(rng, n):
    """Records between few hosts, in order of time, each from one of three vantages."""
    hosts = np.array(["10.0.0.1", "10.0.0.2", "203.0.113.1"])
    start = np.sort(rng.integers(0, 2_000_000_000, n))
    return pd.DataFrame(
        {
            "start": pd.to_datetime(start + 10**15, unit="us", utc=True).as_unit("us"),
            "duration_s": rng.integers(0, 30_000_000, n) / 1e6,
            "src_ip": pd.array(hosts[rng.integers(0, 3, n)], dtype="str"),
            "dst_ip": pd.array(hosts[rng.integers(0, 3, n)], dtype="str"),
            "src_port": rng.integers(1, 3, n),
            "dst_port": rng.integers(1, 3, n),
            "protocol": rng.choice([6, 17], n),
            "src_bytes": rng.integers(1, 1000, n),
            "dst_bytes": rng.integers(0, 2, n),
            "tcp_flags": pd.array(rng.integers(0, 64, n), dtype="Int64"),
            "vantage": pd.array(rng.choice(["a", "b", None], n), dtype="str"),
        }
    )


def merged_by_hand(table, idle):
    """The rule, one record at a time."""
    flows: list[dict] = []
    going: dict = {}
    for row in table.to_dict("records"):
        here, there = (row["src_ip"], row["src_port"]), (row["dst_ip"], row["dst_port"])
        key = (frozenset((here, there)), row["protocol"])
        end = row["start"] + pd.Timedelta(microseconds=round(row["duration_s"] * 1e6))
        flow = going.get(key)
        if flow is None or row["start"] - flow["end"] > pd.Timedelta(seconds=idle):
            flow = {"start": row["start"], "end": end, "from": here, "to": there}
            flow |= {"seen": {}, "flags": 0}
            going[key] = flow
            flows.append(flow)
        flow["end"] = max(flow["end"], end)
        counts = flow["seen"].setdefault(str(row["vantage"]), [0, 0])
        straight = here == flow["from"]
        counts[0] += row["src_bytes"] if straight else row["dst_bytes"]
        counts[1] += row["dst_bytes"] if straight else row["src_bytes"]
        flow["flags"] |= row["tcp_flags"]
    return sorted(
        (f["start"], *f["from"], *f["to"], max(c[0] for c in f["seen"].values()),
         max(c[1] for c in f["seen"].values()), f["flags"],
         (f["end"] - f["start"]) // pd.Timedelta(microseconds=1))
        for f in flows
    )  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 100), st.integers(5, 150))
def test_each_direction_counts_as_the_vantage_that_saw_most(seed, n, piece):
    table = sightings(np.random.default_rng(seed), n)
    vantages = Vantages(60)
    parts = [vantages.add(table.iloc[i : i + piece]) for i in range(0, n, piece)]
    flows = pd.concat([p for p in [*parts, vantages.finish()] if len(p)])
    actual = sorted(
        zip(
            *(
                flows[c]
                for c in ("start", *ENDS, "src_bytes", "dst_bytes", "tcp_flags")
            ),
            (flows["duration_s"] * 1e6).round().astype("int64"),
            strict=True,
        )
    )
    assert actual == merged_by_hand(table, 60)


# -- damage --------------------------------------------------------------------------

WHOLE = [
    vpc_text([vpc(), back(), vpc(srcaddr="10.0.0.8", srcport=1)]).encode(),
    azure(vnet(VNET), vnet(VNET[1:])).encode(),
    azure(nsg(NSG), indent=1).encode(),
    lines([gcp(), gcp_back(numbers=True), gcp(protocol=17)]).encode(),
    json.dumps([gcp(), gcp_back()], indent=2).encode(),
]
CHUNKS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b",", b" ", b"\n", b"\xff", b"\x00", b"-1", b"9" * 30, b"nan", b'"', b"{", b"}",
         b"[", b"]", b'{"records":[', b"null", V5.encode() + b"\n", b"-", b"\\u0000",
         b"\\ud800", b"1e400", b"srcaddr bytes\n"]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 40), CHUNKS), max_size=6),
)
def test_damaged_logs_end_in_flows_or_one_clear_error(tmp_path_factory, text, edits):
    data = bytearray(text)
    for at, cut, put in edits:
        data[at : at + cut] = put
    path = tmp_path_factory.mktemp("fuzz") / "flows.log"
    path.write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = exfilml.read_flows(path, timezone="UTC")
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)


# -- totals --------------------------------------------------------------------------


def many(rng, n):
    """Records of AWS of one interface, of flows that may be any."""
    return [
        vpc(
            srcaddr=f"10.0.0.{rng.integers(1, 200)}",
            dstaddr=f"203.0.113.{rng.integers(1, 200)}",
            srcport=int(rng.integers(1, 65536)),
            packets=int(rng.integers(1, 99)),
            bytes=int(rng.integers(40, 99999)),
            start=1700000000 + (second := int(rng.integers(0, 86400))),
            end=1700000050 + second,
        )
        for _ in range(n)
    ]


AWK = r"""
    NR == 1 && /srcaddr/ { for (i = 1; i <= NF; i++) at[$i] = i; next }
    NR == 1 { at["packets"] = 9; at["bytes"] = 10; at["log-status"] = 14 }
    $at["log-status"] == "OK" { bytes += $at["bytes"]; packets += $at["packets"] }
    END { printf "%d %d", bytes, packets }"""


def totals_of_awk(path):
    done = subprocess.run(
        ["awk", AWK, path], capture_output=True, text=True, check=True
    )
    return list(map(int, done.stdout.split()))


def totals(flows):
    return [
        flows["src_bytes"].sum() + flows["dst_bytes"].sum(),
        flows["src_packets"].sum() + flows["dst_packets"].sum(),
    ]


def test_totals_of_aws_equal_those_of_awk(tmp_path):
    path = tmp_path / "flows.log"
    path.write_text(vpc_text(many(np.random.default_rng(0), 5000)))
    assert totals(exfilml.read_flows(path)) == totals_of_awk(path)


real = pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")


@real
def test_totals_of_the_real_log_of_aws_equal_those_of_awk():
    path = Path(REAL or "") / "logs/cloud/aws-vpcflow-test-extra-samples.log"
    with pytest.warns(SourceWarning, match=r"\(SKIPDATA\); 1 intervals without"):
        assert totals(exfilml.read_flows(path)) == totals_of_awk(path)


@real
def test_traffic_analytics_are_refused_for_they_count_no_bytes():
    path = Path(REAL or "") / "logs/cloud/azure-az_net_flows.csv"
    with pytest.raises(SourceError, match=r"counts flows, not bytes"):
        exfilml.read_flows(path)


def test_traffic_analytics_with_bytes_are_for_a_column_map(tmp_path):
    text = "TimeGenerated,FlowIntervalEndTime,SrcIp,BytesSrcToDest\nx,y,10.0.0.5,7\n"
    with pytest.raises(SourceError, match=r"column map \(--map\)"):
        read(tmp_path, text)
