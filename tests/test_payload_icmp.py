"""ICMP echo: what is neither filler nor repetition."""

from __future__ import annotations

import math
import random
import struct
import time

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import ICMP, ICMPV6, directions, keep, needs_real_data, real

from exfilml.payload import KEPT_HEAD, OPAQUE_P, SLICE_BYTES, judge, warm_up
from exfilml.payload._icmp import Echo, echoed, read

WINDOWS = b"abcdefghijklmnopqrstuvwabcdefghi"


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up()


def over(messages, **options: bool) -> Echo:
    return read(*keep(messages), **options)


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def linux(number: int, size: int = 56) -> bytes:
    """Data of Linux ping: a timeval, then each byte says where it stands."""
    clock = struct.pack("<QQ", 1_700_000_000 + number, (number * 377_123) % 10**6)
    return (clock + bytes(i & 255 for i in range(16, size)))[:size]


def macos(number: int) -> bytes:
    clock = struct.pack(">II", 1_700_000_000 + number, (number * 377_123) % 10**6)
    return clock + bytes(range(8, 56))


def file_in_echoes(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


FILLERS = {
    "linux": [linux(i) for i in range(60)],
    "linux-large": [linux(i, 1400) for i in range(60)],
    "macos": [macos(i) for i in range(60)],
    "windows": [WINDOWS] * 60,
    "windows-large": [(WINDOWS[:23] * 60)[:1300]] * 4,
    "zeros": [bytes(56)] * 60,
    "fping": [struct.pack("<QQ", i, i * 977) + bytes(40) for i in range(60)],
    "hping": [b"X" * 120] * 60,
    "spaces": [b" " * 36] * 60,
    "cisco": [b"\xab\xcd" * 36] * 60,
    "pattern": [bytes.fromhex("00112233445566778899aabbccddeeff") * 4] * 9,
    "down": [bytes(range(99, 30, -1))] * 9,
    "ramp-from-anywhere": [bytes(i % 256 for i in range(200, 400))] * 9,
    "alphabets": [b"1234567890ABCDEFGHIJKLMNOPQRSTUVWXYZ" * 4] * 3,
    "simple-ping": [b"%28d bottles of beer on the wall" % (99 - i) for i in range(60)],
}  # fmt: skip


@pytest.mark.parametrize("name", FILLERS)
def test_fillers_carry_nothing(name):
    """Also in slices of later packets, and where the head cuts the last one."""
    found = over(FILLERS[name])
    assert (found.carried, found.data) == (0, b"")
    assert found.fillers == found.messages > 0


@pytest.mark.parametrize("name", FILLERS)
def test_fillers_without_packet_sizes_are_not_ciphertext(name):
    head, _, slices, width = keep(FILLERS[name])
    found = read(head, (), slices, width)
    assert found.carried <= KEPT_HEAD
    if found.data:
        assert judge(found.data).p_random < OPAQUE_P


def test_a_constant_text_counts_once():
    """A monitor that sends its own words."""
    text = b"monitoring probe of the operations centre, please ignore"
    found = over([text] * 80)
    assert (found.carried, found.data) == (len(text), text)
    assert found.repeats == found.messages - 1
    clocked = [struct.pack("<QQ", i, i * 977) + bytes(8) + text for i in range(80)]
    found = over(clocked)
    assert found.carried == 24 + len(text)
    long = text * 30
    assert over([long]).carried == len(text)


@pytest.mark.parametrize("size", [32, 56, 200, 512, 1400])
def test_ciphertext_is_carried_and_opaque(size):
    data = random_bytes(20_000, size)
    found = over(file_in_echoes(data, size))
    seen = KEPT_HEAD + (32 * SLICE_BYTES if size >= SLICE_BYTES else 0)
    assert found.carried > 0.7 * seen
    assert found.carried <= seen
    assert data.startswith(found.data[:size])
    assert judge(found.data).p_random > OPAQUE_P


def test_headers_before_ciphertext_are_set_aside():
    """A magic number, a session and a sequence number, as tunnels write them."""
    rng = random.Random(2)
    packets = [
        b"\xd5\x20\x08\x80" + bytes(8) + i.to_bytes(4) + rng.randbytes(300)
        for i in range(60)
    ]
    found = over(packets)
    assert judge(found.data).p_random > OPAQUE_P
    assert found.carried > len(found.data)


def test_text_keeps_its_phase():
    """Columns of text repeat, too, and are no headers."""
    data = b"the quick brown fox jumps over the lazy dog and comes back again, " * 99
    found = over(file_in_echoes(data[:4000], 50))
    assert data.startswith(found.data[:50])
    assert found.carried == len(found.data)


def test_padding_at_the_end_is_not_carried():
    text = b"a secret word and then some more of them"
    found = over([text + bytes(50), random_bytes(40) + b"X" * 60])
    assert found.data == text + random_bytes(40)


def test_data_in_front_of_an_honest_filler_is_carried():
    """A clock changes in few of its bytes, data in all."""
    rng = random.Random(7)
    packets = [rng.randbytes(16) + bytes(range(16, 56)) for _ in range(40)]
    found = over(packets)
    assert found.fillers == 40
    assert found.carried == 40 * 16
    assert judge(found.data).p_random > OPAQUE_P


# What is no echo.


def ip4(total: int, source: bytes = b"\x0a\x00\x00\x05") -> bytes:
    fields = struct.pack(">BBHHHBB", 0x45, 0, total, 4711, 0x4000, 9, 17)
    ends = source + b"\xc6\x33\x64\x07"
    checksum = dpkt.in_cksum(fields + b"\0\0" + ends)
    return fields + struct.pack(">H", checksum) + ends


def ip6(total: int) -> bytes:
    return (
        struct.pack(">IHBB", 0x60012345, total, 17, 61)
        + bytes.fromhex("20010db8") + bytes(11) + b"\x07"
        + bytes.fromhex("fe80") + bytes(13) + b"\x07"
    )  # fmt: skip


@pytest.mark.parametrize("quote", [
    ip4(1200) + random_bytes(8), ip4(1200) + random_bytes(528), ip4(60) + random_bytes(40),
    ip4(60) + random_bytes(40) + bytes(68) + b"\x20\x00\xaa\xbb\x00\x08\x01\x01" + bytes(4),
    ip4(900)[:8] + b"\x01" + ip4(900)[9:] + random_bytes(8),
    ip6(1200) + random_bytes(8), ip6(1200) + random_bytes(1192),
], ids=["8", "548", "whole", "extended", "expired", "six", "six-large"])  # fmt: skip
def test_errors_quote_and_carry_nothing(quote):
    found = over([quote] * 3)
    assert (found.quotes, found.carried) == (3, 0)
    assert over([quote], may_quote=False).carried > 0


def test_who_sent_what_is_quoted():
    """An honest error quotes what its receiver sent; a tunnel does not."""
    one, other = ip4(900), ip4(900, b"\x0a\x00\x00\x06")
    assert over([one + bytes(8)] * 2).quoted_source == b"\x0a\x00\x00\x05"
    assert over([one + bytes(8), other + bytes(8)]).quoted_source is None
    assert over([ip6(900) + bytes(8)]).quoted_source == ip6(900)[8:24]
    assert over([b"x"]).quoted_source is None


@pytest.mark.parametrize("data", [
    bytes.fromhex("fe80000000000000 02aabbfffeccddee 0101 02aabbccddee"),
    bytes.fromhex("20010db800000000 02aabbfffeccddee 0201 02aabbccddee"),
    bytes.fromhex("fe80000000000000 02aabbfffeccddee"),
    bytes.fromhex("0101 02aabbccddee"),
    bytes(8) + bytes.fromhex("03044040 00015180 00003840 00000000 20010db8") + bytes(12)
    + bytes.fromhex("0501 0000 000005dc 0101 02aabbccddee"),
    bytes.fromhex("04000000 ff02") + bytes(11) + bytes.fromhex("01ffaa 04000000 ff02")
    + bytes(13) + b"\xfb",
], ids=["solicit", "advertise", "probe", "router?", "router!", "groups"])  # fmt: skip
def test_neighbour_discovery_carries_nothing(data):
    found = over([data])
    assert (found.controls, found.carried) == (1, 0)


@pytest.mark.parametrize("size", [8, 16, 20, 24, 32, 56, 128])
def test_random_bytes_are_taken_for_nothing_else(size):
    rng = random.Random(size)
    packets = [rng.randbytes(size) for _ in range(3000)]
    found = [read(p, (size,), b"", 64) for p in packets]
    other = sum(1 for e in found if e.quotes or e.controls or e.fillers)
    assert other <= 1


# Replies.


@pytest.mark.parametrize("name", FILLERS)
def test_honest_replies_repeat_what_was_asked(name):
    head, sizes, *_ = keep(FILLERS[name])
    assert echoed(head, sizes, head, sizes) == 1.0


def test_replies_with_data_of_their_own():
    asked = [random_bytes(64, i) for i in range(10)]
    own = [random_bytes(64, 100 + i) for i in range(10)]
    request, sizes, *_ = keep(asked)

    def share(replies) -> float:
        head, packets, *_ = keep(replies)
        return echoed(request, sizes, head, packets)

    assert share(asked) == 1.0
    assert share(asked[::2]) == 1.0
    assert share(own) == 0.0
    assert share(asked[:5] + own[:5]) == 0.5
    assert share([a[:40] for a in asked]) == 1.0
    assert math.isnan(share([]))


def test_replies_to_requests_that_were_not_kept_are_not_judged():
    large = [random_bytes(1400, i) for i in range(20)]
    replies, sizes, *_ = keep([m[:512] for m in large])
    head, packets, *_ = keep(large)
    assert echoed(head, packets, replies, sizes) == 1.0


# Any bytes.

MESSAGES = st.one_of(
    st.binary(max_size=80),
    st.builds(lambda b, n: b * n, st.binary(max_size=20), st.integers(0, 90)),
    st.builds(lambda b, n: b + bytes(range(n)), st.binary(max_size=30), st.integers(0, 90)),
    st.builds(lambda b: b"\x45\x00" + b, st.binary(max_size=60)),
    st.builds(lambda b: b"\x60\x00" + b, st.binary(max_size=60)),
    st.builds(lambda b: b"\x01\x01" + b, st.binary(max_size=60)),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(MESSAGES, max_size=8),
    st.binary(max_size=300),
    st.integers(-1, 70),
    st.lists(st.integers(-2, 90), max_size=9),
    st.booleans(),
)
def test_any_bytes_give_a_result_in_range(messages, slices, width, sizes, exact):
    head = b"".join(messages)
    packets = tuple(map(len, messages)) if exact else tuple(sizes)
    found = read(head, packets, slices, width)
    kinds = found.fillers + found.repeats + found.quotes + found.controls
    assert 0 <= kinds <= found.messages
    assert 0 <= len(found.data) <= found.carried <= len(head) + len(slices)
    share = echoed(head, packets, slices, packets)
    assert math.isnan(share) or 0 <= share <= 1
    share = echoed(head, packets, head, packets)
    assert math.isnan(share) or share == 1


@pytest.mark.parametrize("size", [1, 2, 8, 32, 64])
def test_many_small_messages_cost_a_bounded_time(size):
    head = random_bytes(KEPT_HEAD, size)
    other = random_bytes(KEPT_HEAD, size + 1)
    packets = (size,) * (KEPT_HEAD // size)
    started = time.perf_counter()
    read(head, packets, other[:2048], 64)
    echoed(head, packets, other, packets)
    assert time.perf_counter() - started < 0.5


# Real captures.

TRANSFERS = {
    "attack/icmp-exfil-sithari/EgressAssess-sample-text-file.pcap": 600,
    "attack/icmp-exfil-sithari/hping3-sample-text-file-448-bytes-5-sec-95-byte-packets.pcap":
        448,
    "attack/icmp-exfil-sithari/icmp-file-transfer-sample-text-file-2mb.pcap": 4000,
    "attack/icmp-exfil-sithari/pyexfil-sample-text-file-448-bytes.pcap": 600,
    "attack/icmp-tunnel-nulloperatorr/ICMP_Tunneling.pcap": 3000,
}  # fmt: skip


@needs_real_data
@pytest.mark.parametrize("name", TRANSFERS)
def test_real_transfers_are_found(name):
    flows = directions(real(name), {ICMP}, set()).values()
    assert max(over(packets).carried for packets in flows) >= TRANSFERS[name]


@needs_real_data
def test_a_real_tunnel_of_ip_packets():
    """It has the form of quotes, but of packets that others sent."""
    flows = directions(real("attack/ndpi/icmp-tunnel.pcap"), {ICMP}, set())
    for (_, _, receiver), packets in flows.items():
        found = over(packets)
        assert found.quotes == found.messages
        assert found.quoted_source != receiver
        assert over(packets, may_quote=False).carried > 1000


@needs_real_data
def test_real_pings_and_errors_carry_nothing():
    seen = 0
    for path in sorted(real("benign").glob("*.pcap*")):
        if path.stat().st_size > 3_000_000:
            continue
        for packets in directions(path, {ICMP, ICMPV6}, set()).values():
            seen += 1
            assert over(packets).carried < 100, path.name
    assert seen > 20


@settings(max_examples=30)
@given(st.lists(st.sampled_from(FILLERS["linux"]), min_size=1, max_size=20))
def test_pings_in_any_order_carry_nothing(messages):
    assert over(messages).carried == 0
