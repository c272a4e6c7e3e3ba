"""nfdump's CSV and Argus' binetflow: columns, times, directions, totals."""

from __future__ import annotations

import os
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exfilml
from exfilml.exceptions import ExfilmlError, OptionError, SourceError, SourceWarning
from exfilml.schema import capability
from exfilml.sources._pairs import Pairs

REAL = os.environ.get("EXFILML_REAL_DATA")
OLD = "ts,te,td,sa,da,sp,dp,pr,flg,fwd,stos,ipkt,ibyt,opkt,obyt,in,out,sas,das"
NEW = "firstSeen,duration,proto,srcAddr,srcPort,dstAddr,dstPort,packets,bytes,flows"
FAST = (
    "cnt,af,firstSeen,lastSeen,proto,srcAddr,srcPort,dstAddr,dstPort,srcAS,dstAS,"
    "input,output,flags,srcTos,packets,bytes"
)
BINET = "StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,State,sTos,dTos,"
BINET += "TotPkts,TotBytes,SrcBytes,SrcPkts,Label"
SUMMARY = "Summary\nflows,bytes,packets,avg_bps,avg_pps,avg_bpp\n2,1,1,1,1,1\n"


def half(**changed) -> str:
    """One record of nfdump 1.6, of which there are two for each flow."""
    row = {
        "start": "2023-07-14 12:00:00.250",
        "end": "2023-07-14 12:00:01.750",
        "src": "10.0.0.5",
        "dst": "203.0.113.7",
        "sport": 40000,
        "dport": 443,
        "proto": "TCP",
        "flags": "...AP.SF",
        "packets": 8,
        "bytes": 1328,
    } | changed
    return (
        "{start},{end},1.500,{src},{dst},{sport},{dport},{proto},{flags},0,0,{packets},"
        "{bytes},0,0,1,2,0,0\n"
    ).format(**row)


def answer(**changed) -> str:
    ends = {"src": "203.0.113.7", "dst": "10.0.0.5", "sport": 443, "dport": 40000}
    return half(**(ends | {"packets": 9, "bytes": 5368} | changed))


def read(tmp_path, text, timezone="Europe/Prague", name="flows.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return exfilml.read_flows(path, timezone=timezone)


def test_two_directions_of_nfdump_are_one_flow(tmp_path):
    flows = read(tmp_path, f"{OLD}\n{half()}{answer()}{SUMMARY}")
    expected = {
        "start": pd.Timestamp("2023-07-14T10:00:00.25Z"),
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
        "tcp_flags": 0x1B,
        "conn_state": "established",
        "sensor": "flows.csv",
    }
    assert len(flows) == 1
    assert flows.iloc[0][list(expected)].to_dict() == expected
    assert capability(flows).tolist() == ["packets"]


def test_the_earlier_direction_began_whichever_comes_first_in_the_file(tmp_path):
    late = answer(start="2023-07-14 12:00:00.300")
    flows = read(tmp_path, f"{OLD}\n{late}{half()}")
    assert flows[["src_ip", "src_bytes"]].values.tolist() == [["10.0.0.5", 1328]]
    # In the same instant, the higher port is the client's.
    flows = read(tmp_path, f"{OLD}\n{answer()}{half()}")
    assert flows[["src_ip", "src_bytes"]].values.tolist() == [["10.0.0.5", 1328]]


def test_parts_of_a_long_flow_are_joined_and_silence_ends_one(tmp_path):
    text = f"{OLD}\n" + half()
    text += half(start="2023-07-14 12:01:00.000", end="2023-07-14 12:03:00.000")
    text += half(start="2023-07-14 12:05:00.000", end="2023-07-14 12:05:01.000")
    text += half(start="2023-07-14 12:07:01.001", end="2023-07-14 12:07:02.000")
    flows = read(tmp_path, text)
    assert flows["src_bytes"].tolist() == [3 * 1328, 1328]
    assert flows["duration_s"].tolist() == [300.75, 0.999]


def test_records_of_both_directions_are_complete(tmp_path):
    both = half().replace(",8,1328,0,0,", ",8,1328,9,5368,")
    row = read(tmp_path, f"{OLD}\n{both}").iloc[0]
    assert row[["src_bytes", "dst_bytes", "dst_packets"]].tolist() == [1328, 5368, 9]


def test_layouts_of_newer_nfdump(tmp_path):
    new = f"{NEW}\n2023-07-14 12:00:00.250,1.500,TCP,10.0.0.5,40000,203.0.113.7,443,8,1328,1\n"
    fast = (
        f"{FAST}\n1,4,2023-07-14 12:00:00.250,2023-07-14 12:00:01.750,6,10.0.0.5,40000,"
    )
    fast += "203.0.113.7,443,0,0,1,2,...AP.SF,0,8,1328\n"
    old = read(tmp_path, f"{OLD}\n{half()}").drop(columns=["tcp_flags"])
    for text in (new, fast):
        flows = read(tmp_path, text).drop(columns=["tcp_flags"])
        pd.testing.assert_frame_equal(flows, old)


def test_counts_that_were_not_printed_are_not_visible(tmp_path):
    text = "ts,te,sa,da,sp,dp,pr,ibyt\n2023-07-14 12:00:00,2023-07-14 12:00:01,"
    flows = read(tmp_path, f"{text}10.0.0.5,203.0.113.7,40000,443,TCP,1328\n")
    assert capability(flows).tolist() == ["volume"]
    assert flows["conn_state"].isna().all()
    with pytest.warns(SourceWarning, match="1 impossible values left out"):
        flows = read(tmp_path, f"{OLD}\n{half()}{answer(packets='many')}")
    assert flows[["src_packets", "dst_bytes"]].iloc[0].tolist() == [8, 5368]


def test_joined_files_keep_their_own_columns(tmp_path):
    new = (
        f"{NEW}\n2023-07-14 13:00:00.250,1.5,UDP,10.0.0.6,40000,203.0.113.7,53,1,60,1\n"
    )
    flows = read(tmp_path, f"{OLD}\n{half()}{SUMMARY}{new}{SUMMARY}{OLD}\n{SUMMARY}")
    assert flows["dst_port"].tolist() == [443, 53]


def test_icmp_has_no_ports_and_no_flags(tmp_path):
    text = half(proto="ICMP", sport=0, dport="8.0", flags="........")
    row = read(tmp_path, f"{OLD}\n{text}").iloc[0]
    assert row[["protocol", "src_port", "dst_port"]].tolist() == [1, 0, 0]
    assert pd.isna(row["tcp_flags"])


def test_a_reset_without_payload_is_rejected(tmp_path):
    text = half(flags="......S.", packets=1, bytes=60)
    text += answer(flags="...A.R..", packets=1, bytes=40)
    assert read(tmp_path, f"{OLD}\n{text}")["conn_state"].tolist() == ["rejected"]


@pytest.mark.parametrize("kind", ["nfdump", "argus"])
def test_local_times_without_a_zone_are_refused_with_what_to_do(tmp_path, kind):
    text = f"{OLD}\n{half()}" if kind == "nfdump" else f"{BINET}\n{binet()}"
    with pytest.raises(SourceError, match=r"times are local .*--timezone"):
        read(tmp_path, text, timezone=None)
    with pytest.raises(SourceError, match="times are local"):
        list(exfilml.iter_flows(tmp_path / "flows.csv"))
    (table,) = exfilml.iter_flows(tmp_path / "flows.csv", timezone="UTC")
    assert table["start"][0].hour == 12


def test_a_zone_that_is_none_is_refused(tmp_path):
    for name in ("Europe/Atlantis", "", "../etc/passwd", 3):
        with pytest.raises(OptionError, match="no such time zone"):
            exfilml.read_flows(tmp_path, timezone=name)


def test_hours_that_come_twice_or_never_are_read(tmp_path):
    text = half(start="2023-10-29 02:30:00.000", end="2023-10-29 02:30:01.000")
    text += half(start="2023-03-26 02:30:00.000", end="2023-03-26 02:30:01.000")
    starts = read(tmp_path, f"{OLD}\n{text}")["start"]
    assert starts.dt.strftime("%m-%d %H:%M").tolist() == ["03-26 01:00", "10-29 00:30"]


def test_bad_lines_are_counted(tmp_path):
    text = f"{OLD}\n{half()}{half(src='x')}half,a,line\n{half(bytes='1.3 M')}"
    text += half(start="12:00") + half(start="2023-13-14 12:00:00")
    with pytest.warns(SourceWarning, match="5 of 6 lines could not be read") as caught:
        assert len(read(tmp_path, text)) == 1
    assert "first: line 3: src_ip cannot be 'x'" in str(caught[0].message)


def test_names_that_lack_an_address_are_refused(tmp_path):
    text = f"{OLD}\n{half()}{NEW.replace('srcAddr', 'other')}\nx,y\nz\n"
    with pytest.warns(SourceWarning, match="2 of 3 lines .* without src_ip"):
        assert len(read(tmp_path, text)) == 1


# -- pairing -----------------------------------------------------------------------


def records(rng, n):
    """Halves between few hosts, in order of time."""
    hosts = np.array(["10.0.0.1", "10.0.0.2", "203.0.113.1", "203.0.113.2"])
    start = np.sort(rng.integers(0, 3_000_000_000, n))
    return pd.DataFrame(
        {
            "start": pd.to_datetime(start + 10**15, unit="us", utc=True).as_unit("us"),
            "duration_s": rng.integers(0, 30_000_000, n) / 1e6,
            "src_ip": pd.array(hosts[rng.integers(0, 4, n)], dtype="str"),
            "dst_ip": pd.array(hosts[rng.integers(0, 4, n)], dtype="str"),
            "src_port": rng.integers(1, 3, n),
            "dst_port": rng.integers(1, 3, n),
            "protocol": rng.choice([6, 17], n),
            "src_bytes": rng.integers(1, 1000, n),
            "dst_bytes": np.zeros(n, dtype=np.int64),
            "src_packets": pd.array(rng.integers(1, 9, n), dtype="Int64"),
            "dst_packets": pd.array(np.zeros(n, dtype=np.int64), dtype="Int64"),
            "tcp_flags": pd.array(rng.integers(0, 64, n), dtype="Int64"),
        }
    )


def paired_by_hand(table, idle):
    """The rule, one record at a time."""
    flows: list[dict] = []
    going: dict = {}
    for row in table.to_dict("records"):
        here, there = (row["src_ip"], row["src_port"]), (row["dst_ip"], row["dst_port"])
        key = (frozenset((here, there)), row["protocol"])
        end = row["start"] + pd.Timedelta(microseconds=round(row["duration_s"] * 1e6))
        flow = going.get(key)
        if flow is None or row["start"] - flow["end"] > pd.Timedelta(seconds=idle):
            flow = {
                "start": row["start"],
                "end": end,
                "from": here,
                "to": there,
                "up": 0,
            }
            flow |= {"down": 0, "flags": 0}
            going[key] = flow
            flows.append(flow)
        flow["end"] = max(flow["end"], end)
        flow["up" if here == flow["from"] else "down"] += row["src_bytes"]
        flow["flags"] |= row["tcp_flags"]
    return sorted(
        (f["start"], *f["from"], *f["to"], f["up"], f["down"], f["flags"],
         (f["end"] - f["start"]) // pd.Timedelta(microseconds=1))
        for f in flows
    )  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 120), st.integers(5, 200))
def test_pairing_is_the_rule_in_however_many_pieces(seed, n, piece):
    table = records(np.random.default_rng(seed), n)
    pairs = Pairs(60)
    parts = [pairs.add(table.iloc[i : i + piece]) for i in range(0, n, piece)]
    flows = pd.concat([*(p for p in parts if len(p)), pairs.finish()])
    actual = sorted(
        zip(
            *(flows[c] for c in ("start", "src_ip", "src_port", "dst_ip", "dst_port")),
            *(flows[c] for c in ("src_bytes", "dst_bytes", "tcp_flags")),
            (flows["duration_s"] * 1e6).round().astype("int64"),
            strict=True,
        )
    )
    assert actual == paired_by_hand(table, 60)


# -- Argus -------------------------------------------------------------------------


def binet(**changed) -> str:
    row = {
        "start": "2023/07/14 12:00:00.250000",
        "proto": "tcp",
        "src": "10.0.0.5",
        "sport": 40000,
        "dir": "   ->",
        "dst": "203.0.113.7",
        "dport": 443,
        "state": "SPA_SRPA",
        "pkts": 17,
        "bytes": 6934,
        "sbytes": 1440,
        "spkts": 8,
        "label": "flow=Background",
    } | changed
    return (
        "{start},1.500000,{proto},{src},{sport},{dir},{dst},{dport},{state},0,0,{pkts},"
        "{bytes},{sbytes},{spkts},{label}\n"
    ).format(**row)


@pytest.mark.parametrize("separator", [",", "\t"])
def test_columns_of_a_binetflow(tmp_path, separator):
    text = f"{BINET}\n{binet()}".replace(",", separator)
    row = read(tmp_path, text).iloc[0]
    expected = {
        "start": pd.Timestamp("2023-07-14T10:00:00.25Z"),
        "duration_s": 1.5,
        "src_ip": "10.0.0.5",
        "src_port": 40000,
        "dst_ip": "203.0.113.7",
        "dst_port": 443,
        "protocol": 6,
        "src_bytes": 1440 - 8 * 14,
        "dst_bytes": 6934 - 1440 - 9 * 14,
        "src_packets": 8,
        "dst_packets": 9,
        "tcp_flags": 2 | 4 | 8 | 16,
        "conn_state": "established",
        "label": "flow=Background",
        "sensor": "flows.csv",
    }
    assert row[list(expected)].to_dict() == expected


def test_without_packets_of_the_source_headers_are_shared_out_by_bytes(tmp_path):
    text = f"{BINET.replace('SrcPkts,', '')}\n{binet().replace(',8,flow', ',flow')}"
    flows = read(tmp_path, text)
    row = flows.iloc[0]
    # 1440 of 6934 bytes: 4 of 17 packets.
    assert row[["src_bytes", "dst_bytes"]].tolist() == [1440 - 56, 5494 - 13 * 14]
    assert capability(flows).tolist() == ["volume"]


def test_an_arrow_to_the_left_turns_the_ends_round(tmp_path):
    row = read(tmp_path, f"{BINET}\n{binet(dir='  <-')}").iloc[0]
    assert row[["src_ip", "src_port", "dst_ip"]].tolist() == [
        "203.0.113.7",
        443,
        "10.0.0.5",
    ]
    assert row[["src_bytes", "src_packets"]].tolist() == [5494 - 126, 9]
    row = read(tmp_path, f"{BINET}\n{binet(dir=' <?>')}").iloc[0]
    assert row["src_ip"] == "10.0.0.5"


def test_what_is_not_ip_is_passed_over_and_counted(tmp_path):
    text = binet() + binet(proto="arp", sport="", dport="", dir="who")
    text += binet(proto="llc", src="00:00:00:00:00:00", sport=0)
    with pytest.warns(SourceWarning, match="2 of 3 records are not of IP"):
        assert len(read(tmp_path, f"{BINET}\n{text}")) == 1


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"proto": "icmp", "sport": "0x0008", "dport": "0x1c0c"}, (1, 0, 0, None)),
        ({"proto": "ipv6-icmp", "src": "fe80::1", "sport": ""}, (58, 0, 0, None)),
        ({"proto": "rtp"}, (17, 40000, 443, "RTP")),
        ({"proto": "udt"}, (17, 40000, 443, None)),
        ({"dport": "https"}, (6, 40000, 443, None)),
        ({"proto": "igmp", "sport": "", "dport": ""}, (2, 0, 0, None)),
    ],
)
def test_protocols_and_ports_of_argus(tmp_path, changed, expected):
    row = read(tmp_path, f"{BINET}\n{binet(**changed)}").iloc[0]
    actual = (*row[["protocol", "src_port", "dst_port"]], row["app"])
    assert actual[:3] == expected[:3]
    assert actual[3] == expected[3] or pd.isna(actual[3])


def test_seconds_since_1970_need_no_zone(tmp_path):
    text = f"{BINET}\n{binet(start='1689328800.250000')}"
    flows = read(tmp_path, text, timezone=None)
    assert flows["start"][0] == pd.Timestamp("2023-07-14T10:00:00.25Z")


CHUNKS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b",", b"\t", b"\n", b"Summary\n", b"\xff", b"\x00", b"-1", b"9" * 30, b"nan",
         OLD.encode() + b"\n", NEW.encode() + b"\n", BINET.encode() + b"\n", b"0x0",
         b"2023-02-30 00:00:00", b"_", b"<-", b'"']
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=120)
@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 40), CHUNKS), max_size=6),
)
def test_damaged_files_end_in_flows_or_one_clear_error(tmp_path_factory, argus, edits):
    text = (
        f"{BINET}\n{binet() * 4}"
        if argus
        else f"{OLD}\n{half()}{answer()}{half()}{SUMMARY}"
    )
    data = bytearray(text.encode())
    for at, cut, put in edits:
        data[at : at + cut] = put
    path = tmp_path_factory.mktemp("fuzz") / "flows.csv"
    path.write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = exfilml.read_flows(path, timezone="Europe/Prague")
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)


# -- real files --------------------------------------------------------------------

real = pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")


def real_files(pattern):
    return sorted((Path(REAL) / "logs").glob(pattern)) if REAL else []


@real
@pytest.mark.parametrize("path", real_files("nfdump/*.csv"), ids=lambda p: p.name)
def test_totals_equal_those_that_nfdump_printed_itself(path):
    flows = exfilml.read_flows(path, timezone="Europe/Prague")
    _, octets, packets, *_ = map(int, path.read_text().splitlines()[-1].split(","))
    assert flows["src_bytes"].sum() + flows["dst_bytes"].sum() == octets
    assert flows["src_packets"].sum() + flows["dst_packets"].sum() == packets


@real
@pytest.mark.parametrize("path", real_files("argus/*"), ids=lambda p: p.name)
def test_totals_of_argus_equal_those_of_awk(path):
    program = r"""
        BEGIN { FS = "[,\t]" }
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        $at["Proto"] ~ /^(arp|llc|man)$/ { next }
        { n += 1; bytes += $at["TotBytes"]; packets += $at["TotPkts"] }
        END { printf "%d %d %d", n, bytes, packets }"""
    done = subprocess.run(
        ["awk", program, path], capture_output=True, text=True, check=True
    )
    n, octets, packets = map(int, done.stdout.split())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flows = exfilml.read_flows(path, timezone="Europe/Prague")
    # No record of these has so few bytes that its headers could not be taken off whole.
    total = flows["src_bytes"].sum() + flows["dst_bytes"].sum()
    assert (len(flows), total + 14 * packets) == (n, octets)
    counted = flows["src_packets"].sum() + flows["dst_packets"].sum()
    assert counted in (packets, 0)
