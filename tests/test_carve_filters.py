"""Filters for tshark and tcpdump: they select what is carved."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess

import captures
import pytest
from captures import CLIENT, CLIENT6, SERVER, SERVER6, START
from test_carve import flow, records, table

from exfilml.carve import carve_packets, packet_filters
from exfilml.exceptions import CarveError, FlowsError

needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="no tshark")
needs_tcpdump = pytest.mark.skipif(not shutil.which("tcpdump"), reason="no tcpdump")
OUTER = ("192.0.2.1", "192.0.2.2")


def mixed():
    """Packets of many kinds between few hosts; some repeat an hour later."""
    rng = random.Random(11)
    packets = []
    for _ in range(600):
        six = rng.random() < 0.4
        ends = [CLIENT6, SERVER6] if six else [CLIENT, SERVER]
        if rng.random() < 0.3:
            ends[0] = "fd00::2" if six else "10.0.0.2"
        ports = [rng.choice((0, 40000, 40001, 40003)), rng.choice((0, 53, 9999))]
        kind = rng.choice(("tcp", "udp", "echo", "other", "sctp"))
        if rng.random() < 0.4:
            ends.reverse()
            ports.reverse()
        body = {
            "tcp": lambda p=ports: (6, captures.tcp(*p, b"data")),
            "udp": lambda p=ports: (17, captures.udp(*p, b"data")),
            "echo": lambda s=six: (58 if s else 1, captures.echo(b"ping", six=s)),
            "other": lambda: (50, bytes(32)),
            "sctp": lambda p=ports: (132, captures.tcp(*p, b"data")),
        }[kind]()
        make = captures.ip6 if six else captures.ip4
        packets.append(make(*ends, *body))
        if kind == "udp" and not six:
            # An error that quotes it: other addresses, another protocol.
            quote = struct.pack(">BBHI", 3, 3, 0, 0) + packets[-1]
            packets.append(captures.ip4(*ends[::-1], 1, quote))
    times = [START + n / 100 for n in range(len(packets))]
    return list(zip(times, packets, strict=True))


CASES = {
    "tcp": [flow()],
    "tcp, several ports": [flow(sport=40000), flow(sport=40001), flow(sport=40003)],
    "udp": [flow(protocol=17, dport=53), flow(protocol=17, dport=53, src="10.0.0.2")],
    "port 0": [flow(sport=0, dport=0), flow(protocol=17, sport=0, dport=53)],
    "icmp": [flow(protocol=1, sport=0, dport=0)],
    "icmp 6": [flow(CLIENT6, 0, SERVER6, 0, 58)],
    "tcp 6": [flow(CLIENT6, 40000, SERVER6, 9999), flow("fd00::2", 0, SERVER6, 53)],
    "udp 6": [flow(CLIENT6, 40003, SERVER6, 53, 17)],
    "other": [flow(protocol=50, sport=0, dport=0), flow(CLIENT6, 0, SERVER6, 0, 50)],
    "sctp": [flow(protocol=132, sport=40000, dport=9999)],
    "unknown port": [flow(sport=None), flow(protocol=17, dport=None)],
    "a part of the time": [
        flow(seconds=1.5),
        flow(protocol=17, start=START + 3, seconds=1),
    ],
}


SELDOM = {"udp", "icmp", "tcp 6", "other", "sctp", "unknown port"}


def selected(program, capture, expression, folder):
    out = folder / f"{program}.pcap"
    options = ["-Y", expression, "-F", "pcap"] if program == "tshark" else [expression]
    done = subprocess.run(
        [program, "-r", str(capture), "-w", str(out), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return records(out)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * (case in SELDOM)) for case in CASES],
)
@pytest.mark.parametrize(
    "program",
    [
        pytest.param("tshark", marks=needs_tshark),
        pytest.param("tcpdump", marks=needs_tcpdump),
    ],
)
def test_programs_select_what_is_carved(tmp_path, program, case):
    if case == "a part of the time" and program == "tcpdump":
        pytest.skip("tcpdump's filters know no time")
    frames = [(time, captures.ethernet(packet)) for time, packet in mixed()]
    capture = captures.write_pcap(tmp_path / "a.pcap", frames)
    flows = table(*CASES[case])
    carved = carve_packets(capture, flows, tmp_path / "case.pcap", slack_s=0.1)
    filters = packet_filters(flows, slack_s=0.1)
    assert filters.width == "flows"
    theirs = selected(program, capture, getattr(filters, program), tmp_path)
    assert theirs == records(tmp_path / "case.pcap")
    assert 0 < carved.packets < len(frames) / 2


def tagged(packet, *tags):
    kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"
    return b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01" + b"".join(tags) + kind + packet


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("tshark", marks=needs_tshark),
        pytest.param("tcpdump", marks=needs_tcpdump),
    ],
)
@pytest.mark.parametrize("kind", ["vlan", "vlan in vlan", "mpls", "pppoe"])
def test_programs_look_behind_tags(tmp_path, program, kind):
    """Where some packets have tags and others not."""
    wrap = {
        "vlan": lambda p: tagged(p, b"\x81\0\0\x2a"),
        "vlan in vlan": lambda p: tagged(p, b"\x88\xa8\0\x07", b"\x81\0\0\x2a"),
        "mpls": _mpls,
        "pppoe": _pppoe,
    }[kind]
    frames = [
        (time, captures.ethernet(p) if n % 3 else wrap(p))
        for n, (time, p) in enumerate(mixed())
    ]
    capture = captures.write_pcap(tmp_path / "a.pcap", frames)
    flows = table(flow(), flow(protocol=17, dport=53))
    carved = carve_packets(capture, flows, tmp_path / "case.pcap")
    assert kind in carved.wrapped
    filters = packet_filters(flows, wrapped=carved.wrapped)
    theirs = selected(program, capture, getattr(filters, program), tmp_path)
    assert theirs == records(tmp_path / "case.pcap")


def _mpls(packet):
    head = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x88\x47"
    return head + struct.pack(">I", 17 << 12 | 1 << 8 | 64) + packet


def _pppoe(packet):
    head = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x88\x64"
    kind = b"\0\x57" if packet[0] >> 4 == 6 else b"\0\x21"
    return head + struct.pack(">BBHH", 0x11, 0, 1, len(packet) + 2) + kind + packet


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("tshark", marks=needs_tshark),
        pytest.param("tcpdump", marks=needs_tcpdump),
    ],
)
@pytest.mark.parametrize("six", [False, True])
def test_fragments_are_selected(tmp_path, program, six):
    body = captures.udp(40000, 9999, captures.noise(3000))
    packets = [captures.ip4("10.0.0.9", SERVER, 17, captures.udp(40000, 9999, b"x"))]
    for at in range(0, len(body), 1000):
        part, more = body[at : at + 1000], at + 1000 < len(body)
        if six:
            head = struct.pack(">BBHI", 17, 0, at | more, 77)
            packets.append(captures.ip6(CLIENT6, SERVER6, 44, head + part))
        else:
            flags = 0x2000 * more | at // 8
            packets.append(captures.ip4(CLIENT, SERVER, 17, part, flags=flags))
    frames = [(START, captures.ethernet(packet)) for packet in packets]
    capture = captures.write_pcap(tmp_path / "a.pcap", frames)
    ends = (CLIENT6, SERVER6) if six else (CLIENT, SERVER)
    flows = table(flow(ends[0], 40000, ends[1], 9999, 17))
    carved = carve_packets(capture, flows, tmp_path / "case.pcap")
    assert carved.packets == 4
    filters = packet_filters(flows, fragments=carved.fragments > 0)
    theirs = selected(program, capture, getattr(filters, program), tmp_path)
    assert theirs == records(tmp_path / "case.pcap")


@needs_tshark
def test_tshark_looks_into_tunnels(tmp_path):
    inner = [packet for _, packet in mixed() if packet[0] >> 4 == 4]
    frames = [(START, captures.ethernet(captures.gre(*OUTER, p))) for p in inner]
    capture = captures.write_pcap(tmp_path / "a.pcap", frames)
    flows = table(flow(), flow(protocol=17, dport=53))
    carve_packets(capture, flows, tmp_path / "case.pcap")
    filters = packet_filters(flows)
    theirs = selected("tshark", capture, filters.tshark, tmp_path)
    assert theirs == records(tmp_path / "case.pcap")


@pytest.mark.parametrize(
    ("rows", "width"),
    [
        ([flow(sport=n) for n in range(1024, 65536)], "flows"),
        ([flow(sport=n) for n in range(1024, 65536, 2)], "services"),
        ([flow(dport=n) for n in range(1, 2000)], "host pairs"),
        (
            [flow(dst=f"198.51.{n // 250}.{n % 250}", dport=n) for n in range(1, 2000)],
            "hosts",
        ),
        ([flow(src=f"fd00::{n:x}", dst=SERVER6) for n in range(1, 60)], "hosts"),
    ],
)
def test_filters_of_many_flows_are_short_and_lose_none(tmp_path, rows, width):
    flows = table(*rows)
    filters = packet_filters(flows)
    assert filters.width == width
    assert len(filters.tshark) < 9000
    assert len(filters.tcpdump) < 9000
    step = max(1, len(rows) // 300)
    frames = []
    for row in rows[::step]:
        make = captures.ip6 if ":" in row["src_ip"] else captures.ip4
        body = captures.tcp(row["src_port"], row["dst_port"], b"x")
        frames.append(
            (START, captures.ethernet(make(row["src_ip"], row["dst_ip"], 6, body)))
        )
    capture = captures.write_pcap(tmp_path / "a.pcap", frames)
    for program in ("tshark", "tcpdump"):
        if shutil.which(program):
            theirs = selected(program, capture, getattr(filters, program), tmp_path)
            assert len(theirs) == len(frames)


def test_filters_need_flows_with_ends():
    with pytest.raises(CarveError, match="No flow of the case has addresses"):
        packet_filters(table(flow(dst=None)))
    with pytest.raises(CarveError, match="no flows"):
        packet_filters(table().iloc[:0])
    with pytest.raises(FlowsError, match="no column"):
        packet_filters(table().drop(columns="src_ip"))
