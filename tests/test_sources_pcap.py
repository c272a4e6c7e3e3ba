"""Captures in, flows out: right samples, right direction, honest about damage."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import captures as c
import kept
import numpy as np
import pandas as pd
import pytest

import exfilml
from exfilml import payload
from exfilml.columns import COLUMNS, DTYPES
from exfilml.exceptions import FlowsError, OptionError, SourceError, SourceWarning
from exfilml.payload import is_verified
from exfilml.schema import empty_flows
from exfilml.sources import (
    _discover,
    _pcap,
    _pool,
    _process,
    _rows,
    _structure,
    _tables,
    read_flows,
)
from exfilml.sources._job import HEADER, READY, Job
from exfilml.sources._meter import meter, meter_by_plugin
from exfilml.sources._reading import Options
from exfilml.sources._structure import inspect_capture

ROOT = Path(__file__).resolve().parents[1]
REAL = os.environ.get("EXFILML_REAL_DATA")
HEAD, SLICE, SLICES, MAX_PACKETS = 4096, 64, 32, 256


class Here:
    """Stands in for the pool: meters in this process, for speed of the tests."""

    def run(self, job: Job, advance):
        """Meter as the worker does."""
        batches = []
        metered = meter(job, batches.append)
        advance(0)
        facts = inspect_capture(Path(job.path)).facts()
        return batches, {**asdict(metered), **facts}


def find_damage(path: Path):
    return inspect_capture(path).damage


def read_here(path: Path, **options) -> pd.DataFrame:
    return _tables.join([_pcap.read(path, Options(Here(), **options)).flows])


@pytest.fixture
def samples(monkeypatch) -> list[tuple[bytes, bytes, int, bool]]:
    """Record what is handed to the payload room, one entry per judged direction."""
    seen = []
    judge = payload.judge_many

    def record(samples):
        assert samples.width == SLICE
        for head, slices, stream, protocol, packets in kept.handed_on(samples):
            if stream:
                seen.append((head, slices, stream, protocol != 6))
                assert sum(packets) == len(head) or len(packets) == MAX_PACKETS
        return judge(samples)

    monkeypatch.setattr(payload, "judge_many", record)
    return seen


def oracle(packets: list[bytes]) -> tuple[bytes, bytes]:
    """Head and slices of a direction in closed form, from whole packets' payloads."""
    head, rest = b"", []
    for at, data in enumerate(packets):
        head += data
        if len(head) >= HEAD:
            rest = [d for d in packets[at + 1 :] if len(d) >= SLICE]
            break
    stride = 1
    while -(-len(rest) // stride) > SLICES:
        stride *= 2
    return head[:HEAD], b"".join(data[:SLICE] for data in rest[::stride])


def wrap(kind: str, data: bytes) -> bytes:
    """One datagram from the client in an encapsulation."""
    four = c.ip4(c.CLIENT, c.SERVER, 17, c.udp(40001, 9998, data))
    six = c.ip6(c.CLIENT6, c.SERVER6, 17, c.udp(40001, 9998, data))
    return {
        "ethernet": lambda: c.ethernet(four),
        "vlan": lambda: c.ethernet(four, vlan=42),
        "sll": lambda: c.sll(four),
        "raw": lambda: four,
        "ip options": lambda: c.ethernet(
            c.ip4(c.CLIENT, c.SERVER, 17, c.udp(40001, 9998, data), options=8)
        ),
        "ipv6": lambda: c.ethernet(six),
        "ipv6 extensions": lambda: c.ethernet(
            c.ip6(c.CLIENT6, c.SERVER6, 17, c.udp(40001, 9998, data), (0, 43, 44, 60))
        ),
        "ipv6 mobility": lambda: c.ethernet(
            c.ip6(c.CLIENT6, c.SERVER6, 17, c.udp(40001, 9998, data), (135,))
        ),
        "gre": lambda: c.ethernet(c.gre("192.0.2.1", "192.0.2.2", four)),
    }[kind]()


LINKS = {"sll": c.LINUX_SLL, "raw": c.RAW}
SIZES = [0, 1, 5, 17, 18, 63, 64, 65, 500, 1400]


@pytest.mark.parametrize(
    "kind",
    ["ethernet", "vlan", "sll", "raw", "ip options", "ipv6", "ipv6 extensions"]
    + ["ipv6 mobility"],
)
def test_samples_are_the_payload_in_every_encapsulation(kind, tmp_path, samples):
    bodies = [c.noise(SIZES[n % len(SIZES)], n) for n in range(120)]
    frames = [(c.START + n, wrap(kind, body)) for n, body in enumerate(bodies)]
    path = c.write_pcap(tmp_path / "x.pcap", frames, link=LINKS.get(kind, c.ETHERNET))
    flows = read_here(path, idle_timeout=1000)
    assert len(flows) == 1
    assert [(*oracle(bodies), sum(map(len, bodies)), True)] == samples
    assert flows["src_payload_bytes"][0] == sum(map(len, bodies))
    assert flows["dst_payload_bytes"][0] == 0
    assert flows["src_sampled_bytes"][0] == sum(map(len, oracle(bodies)))


@pytest.mark.parametrize("count", [1, 3, 4, 34, 35, 36, 67, 68, 200, 1500])
def test_slices_spread_over_the_whole_stream_in_bounded_memory(
    count, tmp_path, samples
):
    bodies = [c.noise(1400, n) for n in range(count)]
    frames = c.tcp_upload(b"".join(bodies))
    read_here(c.write_pcap(tmp_path / "x.pcap", frames))
    head, slices, size, datagram = samples[0]
    assert (head, slices) == oracle(bodies)
    assert len(slices) <= SLICE * SLICES
    assert (size, datagram) == (1400 * count, False)


def test_padding_of_short_frames_is_no_payload(tmp_path, samples):
    frames = c.udp_flow([b"ab", b"", b"c"])
    assert all(len(frame) == 60 for _, frame in frames)
    read_here(c.write_pcap(tmp_path / "x.pcap", frames))
    assert samples == [(b"abc", b"", 3, True)]


def test_a_truncated_snapshot_counts_whole_and_samples_what_is_there(tmp_path, samples):
    bodies = [c.noise(1000, n) for n in range(10)]
    path = c.write_pcap(tmp_path / "x.pcap", c.udp_flow(bodies), snap=142)
    flows = read_here(path)
    assert [(b"".join(b[:100] for b in bodies), b"", 10_000, True)] == samples
    assert flows["src_bytes"][0] == 10 * 1028
    assert flows["src_payload_bytes"][0] == 10_000


@pytest.mark.parametrize("snap", [14, 20, 34, 38, 42, 43, 54])
def test_snapshots_that_cut_headers_are_survived(snap, tmp_path):
    frames = c.tcp_upload(c.noise(3000)) + c.udp_flow([c.noise(300)])
    frames += [(c.START, wrap("ipv6 extensions", c.noise(200)))]
    path = c.write_pcap(tmp_path / "x.pcap", frames, snap=snap)
    read_here(path)


def test_jumbo_packets_are_read_whole(tmp_path, samples):
    bodies = [c.noise(65000 - n, n) for n in range(40)]
    frames = [
        (
            c.START + n,
            c.ethernet(c.ip4(c.CLIENT, c.SERVER, 6, c.tcp(4000, 9999, body))),
        )
        for n, body in enumerate(bodies)
    ]
    flows = read_here(c.write_pcap(tmp_path / "x.pcap", frames))
    assert samples[0][:3] == (*oracle(bodies), sum(map(len, bodies)))
    assert flows["src_bytes"][0] == sum(40 + len(body) for body in bodies)


@pytest.mark.parametrize("six", [False, True])
def test_icmp_payload_follows_eight_header_bytes_and_has_no_ports(
    six, tmp_path, samples
):
    up, down = [c.noise(900, n) for n in range(6)], [c.text(100)]
    make, number = (c.ip6, 58) if six else (c.ip4, 1)
    a, b = (c.CLIENT6, c.SERVER6) if six else (c.CLIENT, c.SERVER)
    frames = [c.ethernet(make(a, b, number, c.echo(x, six=six))) for x in up]
    frames += [
        c.ethernet(make(b, a, number, c.echo(x, reply=True, six=six))) for x in down
    ]
    timed = [(c.START + n, frame) for n, frame in enumerate(frames)]
    flows = read_here(c.write_pcap(tmp_path / "x.pcap", timed))
    assert [(*oracle(up), 5400, True), (down[0], b"", 100, True)] == samples
    assert flows[["src_port", "dst_port", "protocol"]].to_numpy().tolist() == [
        [0, 0, number]
    ]


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize(
    ("who_says", "how"),
    [
        ("q", "one_sided"),
        ("qR", "established"),
        ("r", "unsolicited"),
        ("rrr", "unsolicited"),
        # Both ends tunnel through replies.
        ("rR", "unsolicited"),
        # A ping that was on its way when the capture began.
        ("rQr", "established"),
        ("qRr", "unsolicited"),
    ],
)
def test_icmp_replies_that_nothing_asked_for_are_told(six, who_says, how, tmp_path):
    """Small letters are the client's; `q` asks, `r` replies."""
    make, number = (c.ip6, 58) if six else (c.ip4, 1)
    client, server = (c.CLIENT6, c.SERVER6) if six else (c.CLIENT, c.SERVER)
    frames = []
    for at, letter in enumerate(who_says):
        ends = (client, server) if letter.islower() else (server, client)
        message = c.echo(c.noise(64, at), reply=letter in "rR", six=six)
        frames.append((c.START + at, c.ethernet(make(*ends, number, message))))
    flows = read_here(c.write_pcap(tmp_path / "x.pcap", frames))
    assert flows["conn_state"].tolist() == [how]
    assert flows["src_ip"].tolist() == [client]


def test_protocols_without_ports_have_the_ip_payload(tmp_path, samples):
    bodies = [c.noise(1000, n) for n in range(50)]
    frames = [
        (c.START + n, c.ethernet(c.ip4(c.CLIENT, c.SERVER, 50, body)))
        for n, body in enumerate(bodies)
    ]
    flows = read_here(c.write_pcap(tmp_path / "x.pcap", frames))
    assert [(*oracle(bodies), 50_000, True)] == samples
    assert flows["src_payload_bytes"][0] == 50_000


def test_a_tunnel_over_gre_is_one_flow_of_its_payload(tmp_path):
    bodies = [c.noise(500, n) for n in range(10)]
    frames = [(c.START + n, wrap("gre", body)) for n, body in enumerate(bodies)]
    flows = read_here(c.write_pcap(tmp_path / "x.pcap", frames))
    assert flows["protocol"].tolist() == [47]
    assert flows["src_payload_bytes"][0] == 10 * (500 + 28 + 4)


def test_of_a_fragmented_datagram_the_engine_sees_the_first_fragment(tmp_path, samples):
    """A limit of NFStream, pinned so that a change is noticed."""
    body = c.udp(40001, 9998, c.noise(3000))
    frames = [
        c.ethernet(c.ip4(c.CLIENT, c.SERVER, 17, body[:1480], flags=0x2000)),
        c.ethernet(c.ip4(c.CLIENT, c.SERVER, 17, body[1480:2960], flags=0x2000 | 185)),
        c.ethernet(c.ip4(c.CLIENT, c.SERVER, 17, body[2960:], flags=370)),
    ]
    timed = [(c.START + n, frame) for n, frame in enumerate(frames)]
    flows = read_here(c.write_pcap(tmp_path / "x.pcap", timed))
    assert flows["src_bytes"].tolist() == [1500]
    assert samples[0][0] == body[8:1480]


@pytest.mark.parametrize("write", [c.write_pcap, c.write_pcapng])
@pytest.mark.parametrize("vlan", [None, 7])
def test_fragments_that_the_engine_drops_are_counted(write, vlan, tmp_path):
    whole = c.ip6(c.CLIENT6, c.SERVER6, 17, c.udp(1, 2, b"abc"), (44,))
    later = whole[:42] + b"\x05\xc8" + whole[44:]
    packets = [
        c.ip4(c.CLIENT, c.SERVER, 17, c.udp(1, 2, c.noise(1472)), flags=0x2000),
        c.ip4(c.CLIENT, c.SERVER, 17, c.noise(700), flags=185),
        whole,
        later,
    ]
    frames = [(c.START, c.ethernet(packet, vlan=vlan)) for packet in packets]
    path = write(tmp_path / "x", frames)
    with pytest.warns(SourceWarning, match=rf"x: 2 IP fragments \({779:,} bytes\)"):
        assert read_flows(path)["src_packets"].sum() == 2


def test_pcapng_gives_the_flows_of_pcap(tmp_path):
    frames = c.tcp_upload(c.noise(20_000), answer=c.text(300)) + c.udp_flow([b"x"])
    old = read_here(c.write_pcap(tmp_path / "same", frames))
    new = read_here(c.write_pcapng(tmp_path / "same", frames))
    pd.testing.assert_frame_equal(old, new)


def test_bytes_are_ip_bytes_and_times_are_those_of_the_capture(tmp_path):
    frames = c.tcp_upload(c.noise(2800), answer=b"thanks")
    flow = read_here(c.write_pcap(tmp_path / "x.pcap", frames)).iloc[0]
    assert flow["src_bytes"] == 5 * 40 + 2800
    assert flow["dst_bytes"] == 4 * 40 + 6
    assert (flow["src_packets"], flow["dst_packets"]) == (5, 4)
    assert flow["start"] == pd.Timestamp(c.START, unit="s", tz="UTC")
    assert flow["duration_s"] == pytest.approx(0.08)
    assert flow["tcp_flags"] == c.SYN | c.ACK | c.PSH | c.FIN
    assert flow["conn_state"] == "established"


# --- direction and parts ---------------------------------------------------------


def conversation(first: int, *, sport: int = 40000, dport: int = 9999) -> list:
    """Start a TCP conversation at its n-th packet."""
    return c.tcp_upload(c.noise(3000), sport=sport, dport=dport)[first:]


@pytest.mark.parametrize(
    ("first", "dport", "src_port", "state"),
    [
        (0, 9999, 40000, "established"),
        (1, 9999, 40000, "established"),  # SYN+ACK first: the server answered
        (2, 9999, 40000, "midstream"),
        (5, 443, 40000, "midstream"),  # server's ACK first, from a registered port
        (5, 9999, 9999, "midstream"),  # no evidence: left as seen
        (5, 999, 999, "midstream"),  # a system port, but no service has it
    ],
)
def test_initiator_is_found_although_its_first_packet_was_missed(
    first, dport, src_port, state, tmp_path
):
    frames = conversation(first, dport=dport)
    flow = read_here(c.write_pcap(tmp_path / "x.pcap", frames)).iloc[0]
    assert (flow["src_port"], flow["conn_state"]) == (src_port, state)
    up = "src" if src_port == 40000 else "dst"
    assert flow[f"{up}_payload_bytes"] == (
        3000 if first < 4 else flow[f"{up}_payload_bytes"]
    )
    assert flow[f"{up}_bytes"] > 200


def test_udp_answer_seen_first_is_turned_round(tmp_path):
    answer = c.ethernet(c.ip4(c.SERVER, c.CLIENT, 17, c.udp(53, 40000, b"x" * 40)))
    flow = read_here(c.write_pcap(tmp_path / "x.pcap", [(c.START, answer)])).iloc[0]
    assert (flow["src_ip"], flow["dst_port"]) == (c.CLIENT, 53)
    assert (flow["src_bytes"], flow["dst_bytes"]) == (0, 68)
    assert flow["conn_state"] == "one_sided"


@pytest.mark.parametrize(
    ("flags", "state"),
    [([(0, c.SYN)], "one_sided"), ([(0, c.SYN), (1, c.RST | c.ACK)], "rejected")],
)
def test_attempts_are_told_from_conversations(flags, state, tmp_path):
    ends = [(c.CLIENT, c.SERVER, 40000, 81), (c.SERVER, c.CLIENT, 81, 40000)]
    frames = []
    for at, (who, flag) in enumerate(flags):
        src, dst, sport, dport = ends[who]
        packet = c.ip4(src, dst, 6, c.tcp(sport, dport, b"", flag))
        frames.append((c.START + at, c.ethernet(packet)))
    flow = read_here(c.write_pcap(tmp_path / "x.pcap", frames)).iloc[0]
    assert flow["conn_state"] == state


@pytest.mark.parametrize("active", [1, 2, 3, 7])
def test_the_active_timeout_changes_nothing(active, tmp_path):
    """Parts are joined: counters, direction, samples and application are the same."""
    frames = c.tcp_upload(c.noise(400_000), step=0.013, answer=c.text(9000))
    frames += c.udp_flow([c.noise(100, n) for n in range(300)], step=0.03)
    hello = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
    frames += c.tcp_upload(hello + c.text(300_000), sport=41000, dport=80, step=0.02)
    frames.sort(key=lambda item: item[0])
    path = c.write_pcap(tmp_path / "x.pcap", frames)
    whole = read_here(path, active_timeout=10_000)
    cut = read_here(path, active_timeout=active)
    order = ["src_port"]
    whole, cut = (
        f.sort_values(order, ignore_index=True).astype({"start": "str"})
        for f in (whole, cut)
    )
    assert len(cut) == 3
    pd.testing.assert_frame_equal(whole, cut)


def test_a_part_that_begins_with_an_answer_keeps_the_direction(tmp_path, samples):
    up, down = ((c.CLIENT, c.SERVER, 40000, 9999), (c.SERVER, c.CLIENT, 9999, 40000))
    frames, sent = [], {up: [], down: []}
    for second in range(40):
        ends = down if second % 10 >= 5 else up
        body = c.noise(700, second)
        sent[ends].append(body)
        packet = c.ip4(*ends[:2], 6, c.tcp(*ends[2:], body))
        frames.append((c.START + second, c.ethernet(packet)))
    path = c.write_pcap(tmp_path / "x.pcap", frames)
    flows = read_here(path, active_timeout=5)
    assert flows[["src_ip", "src_packets", "dst_packets"]].to_numpy().tolist() == [
        [c.CLIENT, 20, 20]
    ]
    assert flows["duration_s"][0] == 39
    assert [s[:2] for s in samples] == [oracle(sent[up]), oracle(sent[down])]


def test_silence_longer_than_the_idle_timeout_ends_a_flow(tmp_path):
    frames = c.udp_flow([b"a" * 80]) + c.udp_flow([b"b" * 80], start=c.START + 200)
    path = c.write_pcap(tmp_path / "x.pcap", frames)
    assert len(read_here(path, idle_timeout=120)) == 2
    assert len(read_here(path, idle_timeout=120, active_timeout=100)) == 2
    assert len(read_here(path, idle_timeout=300, active_timeout=100)) == 1


# --- applications ----------------------------------------------------------------


def test_an_application_is_verified_by_its_payload_only(tmp_path):
    hello = b"GET /a HTTP/1.1\r\nHost: files.example\r\nUser-Agent: probe\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nfine"
    frames = c.tcp_upload(hello, dport=80, answer=answer)
    frames += c.udp_flow([c.noise(200, n) for n in range(9)], dport=53)
    flows = read_here(c.write_pcap(tmp_path / "x.pcap", frames)).set_index("dst_port")
    web, raw = flows.loc[80], flows.loc[53]
    assert (web["app"], web["server_name"]) == ("HTTP", "files.example")
    assert web["app_verified"]
    assert web["user_agent"] == "probe"
    assert pd.isna(raw["user_agent"])
    assert pd.isna(raw["app_verified"]) or not raw["app_verified"]
    assert pd.isna(raw["server_name"])
    assert raw["src_verdict"] == "opaque"


@pytest.mark.parametrize(
    ("app", "protocol", "confidence", "shown", "expected"),
    [
        ("TLS.Google", 6, 6, b"\x16\x03\x01\x00\x30\x01\x00\x00\x2c\x03\x03", True),
        ("TLS.Google", 6, 7, b"\x16\x03\x01\x00\x30\x01\x00\x00\x2c\x03\x03", False),
        ("TLS", 6, 6, c.noise(80), False),
        ("Google", 6, 6, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", False),
        ("HTTP.Google", 6, 6, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        ("SSH", 6, 6, b"SSH-2.0-OpenSSH_9.7\r\n", True),
        ("SSH", 6, 1, b"SSH-2.0-OpenSSH_9.7\r\n", False),
        ("ICMP", 1, 6, c.noise(56), True),
        ("ICMP", 6, 6, c.noise(56), False),
    ],
)
def test_verification_needs_inspection_and_agreement(
    app, protocol, confidence, shown, expected
):
    sides = (payload.judge_stream(b""), payload.judge_stream(shown))
    assert is_verified(app, protocol, confidence, sides) is expected


# --- memory ----------------------------------------------------------------------


def test_sampling_state_is_bounded_per_flow_and_gone_with_it(tmp_path, monkeypatch):
    """What waits to be judged is bounded, and so is what each flow holds."""
    held: list[int] = []
    largest = 0
    add_state, judge = _rows.Rows.add_state, _rows.judge

    def watch(rows, state):
        sides = [len(side.head) + len(side.slices) for side in state.sides]
        assert max(sides) <= HEAD + SLICE * SLICES
        held.append(sum(sides))
        add_state(rows, state)

    def forget(data, *arguments):
        nonlocal largest
        assert len(data) == sum(held)
        largest = max(largest, len(data))
        held.clear()
        return judge(data, *arguments)

    monkeypatch.setattr(_rows.Rows, "add_state", watch)
    monkeypatch.setattr(_rows, "judge", forget)
    long = c.tcp_upload(c.noise(1_400_000), step=0.001)
    short = [
        frame
        for n in range(600)
        for frame in c.udp_flow(
            [c.noise(1000, n)] * 5, sport=20000 + n, start=c.START + 5 + 2 * n
        )
    ]
    path = c.write_pcap(tmp_path / "x.pcap", long + short)
    meter_by_plugin(Job(str(path), None, 1, 1800, True, path.name), lambda _: None)
    assert not held
    assert 0 < largest <= _rows.BATCH_BYTES + 2 * (HEAD + SLICE * SLICES)


# --- the door --------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three captures, the middle one without IP, in two folders."""
    inner = tmp_path / "in" / "ner"
    inner.mkdir(parents=True)
    c.write_pcap(tmp_path / "in" / "b.pcap", c.tcp_upload(c.noise(5000)))
    arp = b"\xff" * 6 + b"\x02" * 6 + b"\x08\x06" + bytes(46)
    c.write_pcap(inner / "arp.pcap", [(c.START, arp)])
    c.write_pcapng(inner / "a.pcapng", c.udp_flow([b"x"] * 3, start=c.START - 60))
    return tmp_path / "in"


def test_read_flows_gives_a_sorted_typed_table_from_a_folder(folder, recwarn):
    affinity = os.sched_getaffinity(0)
    flows = read_flows(folder, n_jobs=2, progress=False)
    assert flows["sensor"].tolist() == ["a.pcapng", "b.pcap"]
    assert flows.index.tolist() == [0, 1]
    assert {c.name: str(flows[c.name].dtype) for c in COLUMNS} == DTYPES
    assert flows["start"].is_monotonic_increasing
    assert os.sched_getaffinity(0) == affinity
    assert [str(w.message)[:32] for w in recwarn] == [
        "1 of 3 files without IP packets."
    ]


def test_read_flows_agrees_with_the_reader_in_this_process(tmp_path):
    path = c.write_pcap(tmp_path / "x.pcap", c.tcp_upload(c.noise(50_000)))
    pd.testing.assert_frame_equal(read_here(path), read_flows(path))


def test_stored_flows_are_read_beside_captures(folder, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flows = read_flows(folder)
    exfilml.write_flows(flows, tmp_path / "flows.parquet")
    again = read_flows(tmp_path / "flows.parquet")
    pd.testing.assert_frame_equal(flows, again)
    both = read_flows([tmp_path / "flows.parquet", str(folder / "b.pcap")])
    assert len(both) == len(flows) + 1


def test_a_capture_without_ip_packets_is_an_empty_table_and_a_warning(folder):
    with pytest.warns(SourceWarning, match="holds no IP packets"):
        flows = read_flows(folder / "ner" / "arp.pcap")
    pd.testing.assert_frame_equal(flows, empty_flows())


def test_a_filter_keeps_what_it_says_and_a_bad_one_is_an_option_error(folder):
    with pytest.warns(SourceWarning, match="match 'udp'"):
        assert len(read_flows(folder / "b.pcap", bpf_filter="udp")) == 0
    with pytest.raises(OptionError, match="'udp porrt 1' cannot be applied"):
        read_flows(folder / "b.pcap", bpf_filter="udp porrt 1")


@pytest.mark.parametrize(
    "option",
    [
        {"n_jobs": 0},
        {"n_jobs": 1.5},
        {"idle_timeout": 0},
        {"active_timeout": True},
        {"active_timeout": "9"},
        {"bpf_filter": 5},
    ],
)
def test_impossible_options_are_named(option, folder):
    with pytest.raises(OptionError, match=next(iter(option))):
        read_flows(folder, **option)


def test_gzip_is_unpacked_and_its_damage_reported(tmp_path):
    path = c.write_pcap(tmp_path / "x.pcap", c.tcp_upload(c.noise(200_000)))
    packed = tmp_path / "x.pcap.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    plain, unpacked = read_flows(path), read_flows(packed)
    assert unpacked["sensor"].tolist() == ["x.pcap.gz"]
    pd.testing.assert_frame_equal(
        plain.drop(columns="sensor"), unpacked.drop(columns="sensor")
    )
    packed.write_bytes(packed.read_bytes()[:100_000])
    with pytest.warns(SourceWarning, match="gzip data are cut off or damaged"):
        assert 0 < read_flows(packed)["src_bytes"][0] < plain["src_bytes"][0]


# --- bad input -------------------------------------------------------------------


def test_each_hopeless_source_has_one_clear_message(tmp_path):
    (tmp_path / "empty.pcap").touch()
    (tmp_path / "text.pcap").write_text("hello, world\n")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (tmp_path / "short.pcap").write_bytes(b"\xd4\xc3\xb2\xa1\x02\0")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "void.pcap").mkdir()
    os.mkfifo(tmp_path / "fifo.pcap")
    for name, expected in {
        "empty.pcap": "the file is empty",
        "text.pcap": r"not a format that exfilml reads \(it begins with b'hello, w'\)",
        "image.png": "not a format that exfilml reads",
        "short.pcap": "cannot open it: truncated dump file",
        "a.parquet": "not a readable Parquet file",
        "void.pcap": "the folder holds no files",
        "fifo.pcap": "not a regular file",
        "absent.pcap": "no such file",
    }.items():
        with pytest.raises(SourceError, match=expected) as caught:
            read_flows(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_folder_or_list_with_nothing_readable_is_an_error(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("nothing")
    with pytest.raises(SourceError, match="None of 2 files can be read"):
        read_flows(tmp_path)
    with pytest.raises(SourceError, match="list of files is empty"):
        read_flows([])
    with pytest.raises(SourceError, match="Expected a path"):
        read_flows(7)


def test_one_bad_file_among_good_ones_is_counted_and_named(folder):
    (folder / "notes.txt").write_text("no capture")
    with pytest.warns(SourceWarning) as caught:
        flows = read_flows(folder)
    texts = [str(w.message) for w in caught]
    assert any(t.startswith("1 of 4 files skipped") and "notes.txt" in t for t in texts)
    assert len(flows) == 2
    with pytest.warns(SourceWarning, match="1 of 2 files could not be read") as caught:
        assert len(read_flows([folder / "b.pcap", folder / "notes.txt"])) == 1
    assert "notes.txt" in str(caught[0].message)


@pytest.mark.parametrize("name", ["", "gone.pcap"])
def test_a_name_that_is_wrong_stops_before_anything_is_read(folder, name):
    """A typing error, or an unset variable of a shell."""
    wrong = folder / name if name else name
    with pytest.raises(SourceError, match=r"no such file or folder|empty name"):
        read_flows([folder / "b.pcap", wrong])


def test_a_parquet_file_that_holds_no_flows_says_what_is_missing(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(FlowsError, match=r"x\.parquet.*\n.*missing columns: start"):
        read_flows(tmp_path / "x.parquet")


def test_an_unreadable_file_is_named(folder, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(_discover.Path, "open", refuse)
    with pytest.raises(SourceError, match=r"b\.pcap: cannot be opened: Permission"):
        read_flows(folder / "b.pcap")


def test_damage_is_reported_with_counts_and_the_rest_is_read(tmp_path):
    path = c.write_pcap(tmp_path / "x.pcap", c.udp_flow([c.noise(100, 1)] * 9))
    sound = path.read_bytes()
    size = 16 + 142
    for data, packets, expected in (
        (sound[:-10], 8, "ends within a record; its last 148 bytes are lost"),
        (sound[: 24 + 3 * size + 7], 3, "ends within a record; its last 7 bytes"),
        (sound + b"\xff" * 99, 9, "has no packet record at byte 1,446"),
    ):
        path.write_bytes(data)
        with pytest.warns(SourceWarning, match=expected) as caught:
            flows = read_flows(path)
        assert f"({packets} packets before are sound)" in str(caught[0].message)
        assert flows["src_packets"].sum() == packets


def test_damage_in_pcapng_is_found(tmp_path):
    path = c.write_pcapng(tmp_path / "x.pcapng", c.udp_flow([b"x" * 100] * 9))
    sound = path.read_bytes()
    assert find_damage(path) is None
    path.write_bytes(sound[:-5])
    assert (find_damage(path).packets, find_damage(path).cut) == (8, True)
    path.write_bytes(sound + b"\x06\0\0\0\x07\0\0\0" + bytes(40))
    assert (find_damage(path).packets, find_damage(path).cut) == (9, False)
    path.write_bytes(sound[:8])
    assert find_damage(path).packets == 0


@pytest.mark.parametrize("write", [c.write_pcap, c.write_pcapng])
def test_structure_is_the_same_however_little_is_mapped(write, tmp_path, monkeypatch):
    whole = c.udp_flow([c.noise(900, n) for n in range(30)])
    later = c.ethernet(c.ip4(c.CLIENT, c.SERVER, 17, c.noise(700), flags=185))
    path = write(tmp_path / "x", [*whole, (c.START + 9, later)], snap=800)
    sound = path.read_bytes()
    for data in (sound, sound[:-7], sound[:9000], sound + b"\xff" * 99):
        path.write_bytes(data)
        found = []
        for window in (1 << 26, 5000, 1):
            monkeypatch.setattr(_structure, "WINDOW", window)
            found.append(inspect_capture(path))
        assert found[0] == found[1] == found[2]
    assert found[0].fragments == 1


def test_packets_longer_than_the_snapshot_length_of_pcapng_are_counted(tmp_path):
    bodies = [c.noise(size) for size in (10, 500, 20, 500)]
    path = c.write_pcapng(tmp_path / "x.pcapng", c.udp_flow(bodies), snap=300)
    with pytest.warns(SourceWarning, match="2 packets are longer than the file's own"):
        assert read_flows(path)["src_payload_bytes"].tolist() == [30]


def test_a_huge_snapshot_length_is_no_damage(tmp_path):
    path = c.write_pcap(tmp_path / "x.pcap", c.udp_flow([b"x"]), snap=2**31 - 1)
    assert len(read_flows(path)) == 1


def test_impossible_times_are_counted_and_left_out(tmp_path):
    frames = c.udp_flow([b"x" * 80]) + c.udp_flow([b"y"], sport=2)
    path = c.write_pcapng(tmp_path / "x.pcapng", frames)
    data = bytearray(path.read_bytes())
    at = data.rindex(struct.pack("<I", 6), 0, len(data) - 60)
    data[at + 12 : at + 16] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.warns(SourceWarning, match="1 flows with impossible times left out"):
        flows = read_flows(path)
    assert len(flows) == 1


# --- the worker ------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch):
    """Start other workers than ours, or ours changed; none is left of either."""

    def replace(code: str) -> None:
        _pool.RESERVE.clear()
        monkeypatch.setattr(_process, "COMMAND", (sys.executable, "-c", code))

    yield replace
    _pool.RESERVE.clear()


def workers() -> set[int]:
    """Processes that wait for the next call."""
    return {worker._process.pid for worker in _pool.RESERVE._idle}


def test_a_dead_engine_names_the_file(folder, stub):
    stub("import os; os.read(0, 1); os.kill(os.getpid(), 11)")
    with pytest.raises(SourceError, match=r"stopped while reading.*SIGSEGV") as caught:
        read_flows(folder / "b.pcap")
    assert "b.pcap" in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ("START_SECONDS", "import time; time.sleep(60)"),
        (
            "STALL_SECONDS",
            f"import os, time; os.write(1, {HEADER.pack(READY, 0)!r}); time.sleep(60)",
        ),
    ],
)
def test_a_stuck_engine_names_the_file_and_is_ended(
    limit, code, folder, stub, monkeypatch
):
    stub(code)
    monkeypatch.setattr(_process, limit, 1.0)
    before = time.monotonic()
    with pytest.raises(SourceError, match="stopped answering while reading"):
        read_flows(folder / "b.pcap")
    assert time.monotonic() - before < 20


TRAPPED = """
import os
import exfilml.sources._meter as m
meter, jobs = m.meter, []
def trap(job, emit):
    jobs.append(job)
    if {condition}:
        os.abort()
    return meter(job, emit)
m.meter = trap
from exfilml.sources._worker import main
main()
"""


@pytest.mark.parametrize("at", range(3))
def test_a_crash_costs_one_file_of_several(at, folder, stub):
    """The real worker serves all files but one that is made to kill it."""
    shutil.copy(folder / "b.pcap", folder / "deadly.pcap")
    stub(TRAPPED.format(condition="'deadly' in job.path"))
    names = [folder / "b.pcap", folder / "ner" / "a.pcapng"]
    names.insert(at, folder / "deadly.pcap")
    with pytest.warns(SourceWarning, match=r"1 of 3 files.*deadly.*SIGABRT"):
        assert len(read_flows(names, n_jobs=1)) == 2


def test_no_file_is_blamed_for_what_others_have_done(folder, stub):
    """A worker that dies later than it was hurt: the file is read in a new one."""
    stub(TRAPPED.format(condition="len(jobs) == 2"))
    assert len(read_flows([folder / "b.pcap"] * 4, n_jobs=1)) == 4


def test_a_worker_serves_one_call_after_the_other(folder):
    read_flows(folder / "b.pcap")
    kept = workers()
    assert 1 <= len(kept) <= _pool.MOST_IDLE
    with pytest.raises(OptionError):
        read_flows(folder / "b.pcap", bpf_filter="no filter (")
    (folder / "bad.pcap").write_bytes(b"\xd4\xc3\xb2\xa1")
    with pytest.raises(SourceError, match="cannot open it"):
        read_flows(folder / "bad.pcap")
    assert len(read_flows(folder / "b.pcap")) == 1
    assert workers() == kept


def test_no_more_workers_are_kept_than_promised(folder, stub, monkeypatch):
    _pool.RESERVE.clear()
    monkeypatch.setattr(_pool, "MOST_IDLE", 1)
    before = set(children_of(os.getpid()))
    assert len(read_flows([folder / "b.pcap"] * 9, n_jobs=3)) == 9
    assert len(workers()) == 1
    assert set(children_of(os.getpid())) - before == workers()


def test_a_worker_that_died_between_two_calls_is_replaced(folder):
    read_flows(folder / "b.pcap")
    dead = workers()
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
    assert len(read_flows(folder / "b.pcap")) == 1
    assert workers().isdisjoint(dead)


def test_a_worker_that_waits_for_long_ends_itself(folder, stub):
    stub(
        "import exfilml.sources._worker as w\n"
        "w.IDLE_SECONDS = 0.5\n"
        "w.main()"
    )  # fmt: skip
    read_flows(folder / "b.pcap")
    (pid,) = workers()
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
    assert len(read_flows(folder / "b.pcap")) == 1


def test_threads_share_the_workers(folder, tmp_path):
    """Whoever calls from whichever thread gets what was asked for, and all of it."""
    paths = [
        c.write_pcap(tmp_path / f"{n}.pcap", c.udp_flow([b"x" * 80] * (n + 1)))
        for n in range(12)
    ]
    with ThreadPoolExecutor(6) as threads:
        tables = list(threads.map(lambda p: read_flows(p, n_jobs=1), paths))
    assert [t["src_packets"].tolist() for t in tables] == [[n + 1] for n in range(12)]
    assert len(workers()) <= _pool.MOST_IDLE


FORKED = """
import os, sys, warnings
sys.path.insert(0, {root!r})
warnings.simplefilter("ignore", DeprecationWarning)
from exfilml.sources import _pool, read_flows
pids = lambda: {{w._process.pid for w in _pool.RESERVE._idle}}
read_flows({path!r})
mine = pids()
child = os.fork()
if child == 0:
    assert not pids()
    assert len(read_flows({path!r})) == 1
    assert pids() and not pids() & mine
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert len(read_flows({path!r})) == 1
assert pids() == mine
print("sound")
if os.fork() == 0:
    import time
    os.close(1), os.close(2)
    time.sleep(30)
    os._exit(0)
print(*mine, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_forked_caller_has_workers_of_its_own(folder):
    """And keeps none of its parent's alive when that dies."""
    script = FORKED.format(root=str(ROOT), path=str(folder / "b.pcap"))
    out, err = run_script(script, ("-X", "dev")).communicate(timeout=120)
    told, *pids = out.split()
    assert (told, err) == ("sound", "")
    deadline = time.monotonic() + 10
    while any(alive(int(pid)) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pids
    assert not any(alive(int(pid)) for pid in pids)


def test_workers_load_no_library_that_they_do_not_need(folder):
    read_flows(folder / "b.pcap")
    for pid in workers():
        loaded = Path(f"/proc/{pid}/maps").read_text()
        assert "/numpy/" in loaded
        for name in ("pandas", "scipy", "sklearn"):
            assert f"/{name}/" not in loaded


@pytest.mark.parametrize(
    ("other", "loaded"), [("pass", False), ("pd.DataFrame", True), ("pd.x()", True)]
)
def test_an_nfstream_that_asks_more_of_pandas_gets_it(other, loaded, tmp_path):
    """Loaded in earnest where it is not enough that it can be imported."""
    (tmp_path / "nfstream.py").write_text(f"import pandas as pd\n{other}\n")
    (tmp_path / "pandas.py").write_text("DataFrame, x = 1, int\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from exfilml.sources._worker import _do_without\n"
        "_do_without()\n"
        "import nfstream\n"
        "try: import pandas\n"
        "except ImportError: print(False)\n"
        "else: print(True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.strip() == str(loaded)


SCRIPT = """
import sys, warnings
sys.path.insert(0, {root!r})
import exfilml
flows = exfilml.read_flows({path!r})
print(len(flows), flows["src_verdict"].iloc[0])
"""


def run_script(script: str, flags=(), **options) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, *flags, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    process.stdin.write(script)
    process.stdin.close()
    process.stdin = None
    return process


def test_a_script_on_stdin_without_main_guard_works_and_nothing_is_printed(folder):
    script = SCRIPT.format(root=str(ROOT), path=str(folder / "b.pcap"))
    out, err = run_script(script).communicate(timeout=120)
    assert (out, err) == ("1 opaque\n", "")


def children_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task")
    try:
        tasks = list(path.iterdir())
        return [int(n) for t in tasks for n in (t / "children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        return (
            "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0]
        )
    except OSError:
        return False


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_caller_leaves_no_process_behind(blow, tmp_path):
    """Ctrl-C and sudden death alike, in the middle of a file."""
    path = c.write_pcap(tmp_path / "x.pcap", c.traffic(300, 20_000))
    script = SCRIPT.format(root=str(ROOT), path=[str(path)] * 40)
    process = run_script(script, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (workers := children_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers
    time.sleep(1.5)
    os.kill(process.pid, blow)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    if blow is signal.SIGINT:
        assert err.rstrip().endswith("KeyboardInterrupt")
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def test_a_caller_that_ends_leaves_no_process_behind(folder):
    script = SCRIPT.format(root=str(ROOT), path=str(folder / "b.pcap"))
    script += (
        "from exfilml.sources import _pool\n"
        "print(*[w._process.pid for w in _pool.RESERVE._idle])\n"
    )
    out, err = run_script(script, ("-X", "dev")).communicate(timeout=120)
    pid = int(out.split()[-1])
    assert err == ""
    assert not Path(f"/proc/{pid}").exists()


def test_progress_goes_to_stderr(folder, capfd):
    read_flows(folder / "b.pcap", progress=True)
    out, _ = capfd.readouterr()
    assert out == ""
    read_flows(folder / "b.pcap")
    assert capfd.readouterr() == ("", "")


# --- real captures ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")
def test_real_captures_agree_with_plain_nfstream():
    """Flows and IP bytes equal NFStream's on every real capture, parts joined."""
    from nfstream import NFStreamer

    paths = sorted(p for p in Path(REAL, "pcap").rglob("*.pcap*") if p.is_file())
    assert len(paths) >= 469
    for path in paths:
        flows = read_here(path)
        plain = list(
            NFStreamer(
                source=str(path), n_meters=1, accounting_mode=1, snapshot_length=262144
            )
        )
        parts = sum(flow.expiration_id == 1 for flow in plain)
        assert len(flows) == len(plain) - parts, path
        total = int(flows["src_bytes"].sum() + flows["dst_bytes"].sum())
        assert total == sum(flow.bidirectional_bytes for flow in plain), path


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")
@pytest.mark.filterwarnings("ignore::exfilml.exceptions.SourceWarning")
@pytest.mark.parametrize("folder", ["benign", "attack"])
def test_real_folders_are_read_through_the_door(folder):
    flows = read_flows(Path(REAL, "pcap", folder))
    assert len(flows) > 1000
    assert np.isfinite(flows["duration_s"]).all()
