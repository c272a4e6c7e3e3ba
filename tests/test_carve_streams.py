"""Streams: every byte where it was sent, and what is missing told."""

from __future__ import annotations

import gzip
import math
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import captures
import numpy as np
import pandas as pd
import pytest
from captures import ACK, CLIENT, FIN, RST, SERVER, START, SYN
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_carve import flow, records, table

from exfilml.carve import (
    carve_packets,
    describe_streams,
    find_opaque,
    follow_streams,
    hexdump,
    write_streams,
)
from exfilml.carve._assemble import FAR, NOWHERE, unwind
from exfilml.exceptions import CarveError, OutputError

WORD = 1 << 32
needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="no tshark")


def segment(seq, data=b"", flags=ACK, *, back=False, snap=None):
    """A frame of the client's, or of the server's, with its real length."""
    src, dst, here, there = CLIENT, SERVER, 40000, 9999
    if back:
        src, dst, here, there = dst, src, there, here
    body = captures.tcp(here, there, data, flags, seq=seq % WORD)
    frame = captures.ethernet(captures.ip4(src, dst, 6, body), pad=False)
    return frame if snap is None else (frame[: 54 + snap], len(frame))


def write(path, frames):
    """Classic pcap of frames, some of them cut."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        for frame in frames:
            held, real = frame if isinstance(frame, tuple) else (frame, len(frame))
            file.write(struct.pack("<IIII", round(START), 0, len(held), real) + held)
    return path


def streams_of(path, frames, *rows):
    return follow_streams(write(path, frames), table(*rows))


def only(found):
    (stream,) = found
    return stream


segments = st.lists(
    st.tuples(
        st.integers(0, 60),  # where it begins
        st.integers(1, 25),  # how long it is
        st.integers(0, 30),  # how much of it was captured
        st.sampled_from([0, 0, 0, 1, 2]),  # whose bytes it carries
    ),
    min_size=1,
    max_size=25,
)


@given(
    segments,
    st.sampled_from([0, 1, 1 << 31, WORD - 1, WORD - 20, WORD - 70]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
@example([(0, 5, 5, 0)], WORD - 1, True, True, 0)
@settings(max_examples=60, deadline=None)
def test_any_segments_come_out_as_what_came_first(
    tmp_path_factory, parts, isn, opened, closed, seed
):
    """Cut, lost, repeated, overlapping, out of order, contradicting, wrapped around.

    The model knows each byte by its offset: the first that is captured stays.
    """
    rng = random.Random(seed)
    versions = [rng.randbytes(100) for _ in range(3)]
    first, frames = (isn + 1) % WORD, []
    if opened:
        frames.append(segment(isn, flags=SYN))
    model: dict[int, int] = {}
    sent: set[int] = set()
    total = repeated = differing = 0
    for begin, size, most, version in parts:
        body = versions[version][begin : begin + size]
        held = min(most, size)
        frames.append(segment(first + begin, body, snap=held))
        sent.update(range(begin, begin + size))
        for at, byte in enumerate(body[:held], begin):
            total += 1
            if at in model:
                repeated += 1
                differing += model[at] != byte
            model.setdefault(at, byte)
    end = max(sent) + 1
    if closed:
        end = max(end, 90)
        frames.append(segment(first + 90, flags=FIN | ACK))
    base = 0 if opened else min(sent)
    path = tmp_path_factory.mktemp("any") / "a.pcap"
    stream = only(streams_of(path, frames))
    missing = [at - base for at in range(base, end) if at not in model]
    told = [at for begin, stop in stream.gaps.tolist() for at in range(begin, stop)]
    assert told == missing
    assert stream.length == end - base
    assert stream.read() == bytes(model.get(at, 0) for at in range(base, end))
    assert stream.held == len(model)
    assert (stream.repeated, stream.differing) == (repeated, differing)
    assert (stream.begin_seen, stream.end_seen) == (opened, closed)
    assert (stream.connections, stream.outside) == (1, 0)
    assert stream.segments == len(parts)
    there = [range(begin, stop) for begin, stop in stream.runs().tolist()]
    assert sorted(at + base for run in there for at in run) == sorted(model)
    for begin, stop in ((3, 9), (0, 1), (50, 500)):
        assert stream.read(begin, stop - begin) == stream.read()[begin:stop]
    # What is cut off is told from what is lost.
    for (begin, stop), cut in zip(stream.gaps.tolist(), stream.gap_cut, strict=True):
        assert cut == all(at + base in sent for at in range(begin, stop))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_conversation_comes_out_whole_both_ways(tmp_path_factory, isn, seed):
    """A shuffled upload with retransmissions, and its answer."""
    rng = random.Random(seed)
    up, down = rng.randbytes(5000), rng.randbytes(700)
    frames = [segment(isn, flags=SYN), segment(77, flags=SYN | ACK, back=True)]
    body = []
    at = 0
    while at < len(up):
        size = rng.randint(1, 400)
        body.append(segment(isn + 1 + at, up[at : at + size]))
        at += size
    body += rng.sample(body, len(body) // 3)
    rng.shuffle(body)
    body.insert(2, segment(78, down, back=True))
    frames += [
        *body,
        segment(isn + 1 + len(up), flags=FIN | ACK),
        segment(0, b"no", RST),
    ]
    path = tmp_path_factory.mktemp("talk") / "a.pcap"
    sent, answer = streams_of(path, frames)
    assert (sent.read(), answer.read()) == (up, down)
    assert (sent.way, answer.way) == ("src", "dst")
    assert not len(sent.gaps)
    assert (sent.differing, answer.repeated, answer.end_seen) == (0, 0, False)
    assert sent.repeated > 0


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, WORD - 1), st.integers(0, 300)),
            st.integers(0, 63),
            st.integers(0, 40),
            st.integers(0, 40),
        ),
        max_size=20,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_numbers_and_flags_give_a_stream_that_adds_up(tmp_path_factory, parts):
    """Whatever a sender makes up: no byte is there twice, none is invented."""
    frames = [
        segment(seq, captures.noise(size), flags, snap=held)
        for seq, flags, size, held in parts
    ]
    path = tmp_path_factory.mktemp("odd") / "a.pcap"
    sent = sum(min(size, held) for _, _, size, held in parts)
    for stream in streams_of(path, frames) if frames else []:
        runs, gaps = stream.runs(), stream.gaps
        assert stream.held == (runs[:, 1] - runs[:, 0]).sum() <= sent
        assert stream.held + (gaps[:, 1] - gaps[:, 0]).sum() == stream.length
        edges = np.sort(np.concatenate([runs, gaps]), axis=0)
        assert (edges[1:, 0] == edges[:-1, 1]).all()
        assert 0 <= stream.differing <= stream.repeated <= sent
        assert len(stream.read(0, 50)) == min(50, stream.length)


def test_probes_and_late_handshakes(tmp_path):
    """A probe before the first byte is none of it; a SYN may be captured late."""
    frames = [
        segment(9, flags=SYN),
        segment(9, b"?"),
        segment(10, b"hello"),
        segment(14, b"o"),
        segment(9, flags=SYN),
    ]
    stream = only(streams_of(tmp_path / "a.pcap", frames))
    assert (stream.read(), stream.connections) == (b"hello", 1)
    for late in ([segment(10, b"hello")], [segment(15, b" y"), segment(10, b"hello")]):
        frames = [*late, segment(9, flags=SYN), segment(15, b" you")]
        stream = only(streams_of(tmp_path / "a.pcap", frames))
        assert (stream.read(), stream.connections) == (b"hello you", 1)
        assert stream.begin_seen
    frames = [segment(15, b" you"), segment(9, flags=SYN), segment(18, flags=FIN)]
    stream = only(streams_of(tmp_path / "a.pcap", frames))
    assert (stream.read(), stream.length) == (bytes(5) + b" you", 9)
    assert stream.gaps.tolist() == [[0, 5]]
    stream = only(streams_of(tmp_path / "a.pcap", [segment(9, b"fast", SYN)]))
    assert (stream.read(), stream.begin_seen) == (b"fast", True)


def test_connections_of_the_same_ends_follow_each_other(tmp_path):
    frames = [
        segment(1000, flags=SYN),
        segment(1001, b"first"),
        segment(1006, flags=FIN | ACK),
        segment(5, flags=SYN),
        segment(9, b"nd"),
        segment(6, b"sec"),
    ]
    stream = only(streams_of(tmp_path / "a.pcap", frames))
    assert stream.read() == b"firstsecnd"[:5] + b"secnd"
    assert (stream.connections, stream.end_seen) == (2, False)


def test_a_stray_number_makes_no_gap_of_gigabytes(tmp_path):
    """One segment far away has no place; two that follow each other are the stream."""
    frames = [segment(1, b"abc"), segment(1 << 30, b"stray"), segment(4, b"def")]
    stream = only(streams_of(tmp_path / "a.pcap", frames))
    assert (stream.read(), stream.outside) == (b"abcdef", 1)
    far = 1 + FAR * 2
    frames = [segment(1, b"abc"), segment(far, b"x"), segment(far + 1, b"yz")]
    stream = only(streams_of(tmp_path / "a.pcap", frames))
    assert stream.length == far + 2
    assert stream.read(far) == b"yz"
    assert stream.gaps.tolist() == [[3, far]]


def test_numbers_wrap_around_more_than_once():
    """Ten gigabytes, in steps of 10 MB, each captured twice."""
    step = 10_000_000
    at = np.repeat(np.arange(1000, dtype=np.int64) * step, 2)
    wire = np.full(len(at), step)
    offsets, _, opened, _, outside = unwind(
        (at + 4_000_000_000) % WORD, wire, 0 * at + ACK
    )
    assert (offsets == at).all()
    assert (opened.tolist(), outside) == ([False], 0)
    none = np.zeros(1, np.int64)
    offsets, *_ = unwind(none, none, none + ACK)
    assert offsets.tolist() == [NOWHERE]


def test_headers_cut_off_are_told(tmp_path):
    """Ports without the rest: found, but no place in the stream."""
    whole = segment(1, b"data")
    frames = [whole, (whole[:40], len(whole)), (whole[:50], len(whole))]
    stream = only(streams_of(tmp_path / "a.pcap", frames))
    assert (stream.read(), stream.outside) == (b"data", 1)
    assert follow_streams(write(tmp_path / "a.pcap", frames[1:2]), table()) == []


def test_datagrams_and_echo_follow_in_order(tmp_path):
    """Also what errors quote is left out, and padding behind a datagram."""
    udp = [captures.udp(40000, 9999, body) for body in (b"one", b"", b"three")]
    packets = [captures.ip4(CLIENT, SERVER, 17, body) for body in udp]
    packets.append(captures.ip4(SERVER, CLIENT, 17, captures.udp(9999, 40000, b"back")))
    quote = struct.pack(">BBHI", 3, 3, 0, 0) + packets[0]
    packets += [
        captures.ip4(CLIENT, SERVER, 1, captures.echo(b"ping1")),
        captures.ip4(SERVER, CLIENT, 1, captures.echo(b"ping1", reply=True)),
        captures.ip4(CLIENT, SERVER, 1, quote),
        captures.ip4(CLIENT, SERVER, 1, captures.echo(b"ping2")),
        captures.ip4(CLIENT, SERVER, 50, b"other"),
    ]
    rows = [
        flow(protocol=17),
        flow(protocol=1, sport=0, dport=0),
        flow(protocol=50, sport=0, dport=0),
    ]
    found = streams_of(tmp_path / "a.pcap", map(captures.ethernet, packets), *rows)
    assert [(s.flow, s.way, s.read()) for s in found] == [
        (0, "src", b"onethree"),
        (0, "dst", b"back"),
        (1, "src", b"ping1ping2"),
        (1, "dst", b"ping1"),
        (2, "src", b"other"),
    ]
    assert found[0].messages.tolist() == [3, 0, 5]
    assert all(s.begin_seen and s.end_seen and not len(s.gaps) for s in found)


@pytest.mark.parametrize("protocol", [6, 17, 1])
@pytest.mark.parametrize("lost", [None, 0, 2, 4])
def test_fragments_are_put_together_in_any_order(tmp_path, protocol, lost):
    """Of TCP, UDP and echo; a lost one is a gap, without the first there is nothing."""
    rng = random.Random(3)
    data = rng.randbytes(3992)
    body = {
        6: captures.tcp(40000, 9999, data, seq=1000),
        17: captures.udp(40000, 9999, data),
        1: captures.echo(data),
    }[protocol]
    header = len(body) - len(data)
    parts = [
        captures.ip4(
            CLIENT, SERVER, protocol, body[at : at + 800],
            flags=0x2000 * (at + 800 < len(body)) | at // 8,
        )
        for at in range(0, len(body), 800)
    ]  # fmt: skip
    edges = [
        (max(at - header, 0), min(at + 800 - header, 3992))
        for at in range(0, 4000, 800)
    ]
    after = {
        6: captures.tcp(40000, 9999, b"after", seq=1000 + len(data)),
        17: captures.udp(40000, 9999, b"after"),
        1: captures.echo(b"after"),
    }[protocol]
    row = flow(protocol=protocol, **({} if protocol != 1 else {"sport": 0, "dport": 0}))
    for order in range(6):
        rng = random.Random(order)
        chosen = [part for n, part in enumerate(parts) if n != lost]
        rng.shuffle(chosen)
        frames = [*chosen, captures.ip4(CLIENT, SERVER, protocol, after)]
        frames = [captures.ethernet(frame, pad=False) for frame in frames]
        stream = only(streams_of(tmp_path / "a.pcap", frames, row))
        if lost == 0:
            assert stream.read() == b"after"
            continue
        expected = bytearray(data)
        if lost is not None:
            begin, end = edges[lost]
            expected[begin:end] = bytes(end - begin)
            if lost == 4 and protocol == 1:
                # Nothing tells how long the message was.
                assert stream.read() == data[:begin] + b"after"
                continue
            assert stream.gaps.tolist() == [[begin, end]]
        assert stream.read() == bytes(expected) + b"after"


def test_a_stream_of_a_packed_or_split_capture_outlives_it(tmp_path):
    data = captures.noise(50_000)
    frames = [segment(1, flags=SYN)]
    frames += [
        segment(2 + at, data[at : at + 1000]) for at in range(0, len(data), 1000)
    ]
    whole = write(tmp_path / "a.pcap", frames)
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(whole.read_bytes()))
    stream = only(follow_streams(packed, table()))
    packed.unlink()
    assert stream.read() == data
    one = write(tmp_path / "b.pcap", frames[:20])
    two = write(tmp_path / "c.pcap", frames[20:])
    stream = only(follow_streams([two, one], table()))
    assert stream.read() == data
    stream.write(tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == data
    with pytest.raises(CarveError, match="none of its"):
        follow_streams([packed.with_suffix(".pcap"), one], table(flow(dport=1)))


def test_written_streams_keep_their_offsets(tmp_path):
    """A gap is zeros, also one of gigabytes, which takes no room; and it is named."""
    far = 1 + (3 << 30)
    frames = [
        segment(0, flags=SYN),
        segment(1, b"head"),
        segment(far, b"x"),
        segment(far + 1, b"tail"),
    ]
    capture = write(tmp_path / "a.pcap", frames)
    found = follow_streams(capture, table())
    told = write_streams(found, table(), tmp_path / "new" / "streams")
    path = tmp_path / "new" / "streams" / told["file"][0]
    assert path.name == "00001_10.0.0.1-40000_to_198.51.100.7-9999_tcp.bin"
    assert path.stat().st_size == far + 4
    assert path.stat().st_blocks * 512 < 1 << 20
    with path.open("rb") as file:
        assert file.read(6) == b"head\0\0"
        file.seek(far)
        assert file.read() == b"tail"
    gaps = pd.read_csv(path.parent / "gaps.csv")
    assert gaps.to_numpy().tolist() == [[path.name, 4, far, "not captured"]]
    with pytest.raises(OutputError, match="Give the name of a folder"):
        write_streams(found, table(), capture)


@needs_tshark
def test_tshark_follows_to_the_same_bytes(tmp_path):
    """Out of order, overlapping and sent again, but nothing missing."""
    for seed in range(4):
        rng = random.Random(seed)
        data, isn = rng.randbytes(20_000), WORD - 9000
        body, at = [], 0
        while at < len(data):
            size = rng.randint(1, 900)
            begin = max(0, at - rng.choice((0, 0, 50)))
            body.append(segment(isn + 1 + begin, data[begin : at + size]))
            at += size
        for _ in range(20):
            one = rng.randrange(len(body) - 1)
            body[one], body[one + 1] = body[one + 1], body[one]
            body.insert(one, body[one])
        frames = [
            segment(isn, flags=SYN),
            segment(5, flags=SYN | ACK, back=True),
            *body,
        ]
        capture = write(tmp_path / "a.pcap", frames)
        done = subprocess.run(
            ["tshark", "-r", str(capture), "-q", "-z", "follow,tcp,raw,0"],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line for line in done.stdout.splitlines() if line[:4].isalnum()]
        hexes = [
            line for line in lines if len(line) % 2 == 0 and not line.startswith("Node")
        ]
        theirs = b"".join(
            bytes.fromhex(x) for x in hexes if set(x) <= set("0123456789abcdef")
        )
        stream = only(follow_streams(capture, table()))
        assert stream.read() == data == theirs


def upload(head, cipher, tail=b""):
    data = head + cipher + tail
    frames = [segment(0, flags=SYN)]
    return frames + [
        segment(1 + at, data[at : at + 1400]) for at in range(0, len(data), 1400)
    ]


@pytest.mark.parametrize("before", [0, 300, 3000, 30_000, 200_000, 1_000_003])
def test_where_opaque_bytes_begin(tmp_path, before):
    """Behind text of any length, as closely as is said."""
    for seed in range(3):
        head = captures.text(before)
        frames = upload(head, captures.noise(30_000, seed))
        found = find_opaque(only(streams_of(tmp_path / "a.pcap", frames)))
        assert found.begin is not None
        assert abs(found.begin - before) <= found.within <= 128
        assert found.p_uniform > 1e-4
        assert (found.within == 0) == (before == 0)


def test_what_is_not_opaque_has_no_such_place(tmp_path):
    for data in (
        captures.text(300_000),
        gzip.compress(captures.noise(9, 1) * 9),
        b"abc",
    ):
        found = find_opaque(only(streams_of(tmp_path / "a.pcap", upload(data, b""))))
        assert found.begin is None
        assert math.isnan(found.p_uniform)
    packed = gzip.compress(b"".join(b"%d," % (n * n) for n in range(9000)))
    found = find_opaque(only(streams_of(tmp_path / "a.pcap", upload(packed, b""))))
    assert (found.magic, found.evidence.verdict, found.begin) == (
        "gzip",
        "compressed",
        None,
    )


def test_no_window_spans_a_gap(tmp_path):
    """Random bytes behind a gap are found where they begin."""
    frames = upload(captures.text(14_000), captures.noise(60_000))
    del frames[5:12]
    stream = only(streams_of(tmp_path / "a.pcap", frames))
    assert len(stream.gaps) == 1
    found = find_opaque(stream)
    (_, end) = stream.gaps.tolist()[0]
    assert abs(found.begin - max(14_000, end)) <= found.within


def test_streams_are_described_and_escaped(tmp_path):
    hostile = b"\x1b[2J\\=cmd|'\xff" + captures.text(200)
    frames = [segment(0, flags=SYN), segment(1, hostile), segment(1200, b"end")]
    flows = table(flow(), flow(dport=1))
    flows.index = ["a", "b"]
    found = follow_streams(write(tmp_path / "a.pcap", frames), flows)
    row = describe_streams(found, flows, head=13).iloc[0]
    assert (row["flow"], row["source"], row["destination"]) == (
        "a",
        "10.0.0.1:40000",
        "198.51.100.7:9999",
    )
    assert row["head_text"] == r"\x1b[2J\\=cmd|'\xff" + "T"
    assert row["head_hex"] == (hostile[:13]).hex()
    assert (row["bytes"], row["held"], row["gaps"]) == (1202, len(hostile) + 3, 1)
    assert row["gap_list"] == f"{len(hostile)}-1199"
    assert row["missing"] == 1199 - len(hostile)
    six = table(flow(src="fd00::1", dst="2001:db8::7"))
    assert not len(describe_streams([], six))


def test_hex_is_as_xxd_shows_it():
    assert hexdump(b"") == ""
    assert hexdump(bytes(range(0x1E, 0x2F)), 0x100).split("\n") == [
        "00000100  1e 1f 20 21 22 23 24 25  26 27 28 29 2a 2b 2c 2d  |.. !\"#$%&'()*+,-|",
        "00000110  2e                                                |.|",
    ]


REAL = os.environ.get("EXFILML_REAL_DATA", "")


@pytest.mark.skipif(not REAL, reason="EXFILML_REAL_DATA is not set")
def test_a_real_upload_by_ftp_is_what_dpkt_reads(tmp_path):
    """The data channel of AgentTesla, against sequence numbers sorted by hand."""
    import exfilml

    uploads = 0
    for capture in sorted(Path(REAL, "pcap/attack/corelight-agenttesla").iterdir()):
        flows = exfilml.read_flows(capture, progress=False)
        data = flows[(flows["app"] == "FTP_DATA").fillna(value=False)]
        if not len(data):
            continue
        carved = carve_packets(capture, data, tmp_path / "case.pcap")
        assert carved.missing == 0
        for stream in follow_streams(tmp_path / "case.pcap", data):
            row = data.loc[stream.flow]
            ends = (row["src_port"], row["dst_port"])
            assert stream.read() == _sorted_by_hand(
                capture, ends if stream.way == "src" else ends[::-1]
            )
            uploads += stream.length
    assert uploads > 500


def _sorted_by_hand(capture, ends):
    import dpkt

    parts = {}
    for _, frame in records(capture):
        packet = dpkt.ethernet.Ethernet(frame).data
        if not isinstance(packet, dpkt.ip.IP) or not isinstance(
            packet.data, dpkt.tcp.TCP
        ):
            continue
        tcp = packet.data
        if (tcp.sport, tcp.dport) == tuple(ends) and len(tcp.data):
            parts.setdefault(tcp.seq, tcp.data)
    whole = b""
    base = min(parts)
    for seq in sorted(parts):
        whole = whole[: seq - base] + parts[seq] + whole[seq - base + len(parts[seq]) :]
    return whole
