"""What hides in a payload: XOR, records, handshakes, and bytes with no hello."""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilml.payload import _facts, _grammar, _records, _wu, _xor

REAL = os.environ.get("EXFILML_REAL_DATA")
PERIODS = (1, 4, 16, 23, 32)
ANY_BYTES = st.one_of(
    st.binary(max_size=400),
    st.builds(lambda b, n: b * n, st.binary(max_size=24), st.integers(0, 200)),
    st.builds(lambda n, k: bytes(i * k % 256 for i in range(n)), st.integers(0, 900),
              st.integers(0, 255)),
)  # fmt: skip


def random_bytes(n: int, seed: int = 0) -> bytes:
    """Seeded bytes that stand for ciphertext."""
    return np.random.default_rng(seed).bytes(n)


def _texts() -> dict[str, bytes]:
    draw = random.Random(5)
    days = [f"2024-{m:02d}-{d:02d}" for m in range(1, 13) for d in range(1, 29)]
    names = ("Anna Smith", "Bob", "D. Jones", "Carl-Otto")
    rows = [
        f"{i},{draw.choice(days)},{draw.uniform(0, 9999):.2f},{draw.choice(names)}\n"
        for i in range(300)
    ]
    objects = [
        {"user": draw.randint(1, 9999), "path": f"/home/u{draw.randint(1, 99)}/f{i}.txt",
         "ok": bool(i % 3), "score": round(draw.random(), 6)}
        for i in range(200)
    ]  # fmt: skip
    licence = Path(__file__).parent.parent / "LICENSE"
    return {
        "prose": licence.read_bytes()[500:],
        "csv": "".join(rows).encode(),
        "json": json.dumps(objects).encode(),
        "code": Path(textwrap.__file__).read_bytes()[1000:],
    }


TEXTS = _texts()


def xor(data: bytes, key: bytes) -> bytes:
    """Repeat the key over the data."""
    view = np.frombuffer(data, np.uint8)
    return (view ^ np.resize(np.frombuffer(key, np.uint8), len(view))).tobytes()


def pieces(text: bytes, n: int, count: int = 25):
    """Pieces of a text from places spread over it, each with a random key's seed."""
    step = max(1, (len(text) - n) // count)
    for i in range(count):
        yield i + 1, text[i * step : i * step + n]


# Repeating-key XOR.


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("kind", list(TEXTS))
def test_xor_is_undone(kind: str, period: int) -> None:
    """Period, key and text come out, for short and long keys, wherever the cut is."""
    n = max(600, 60 * period)
    hits = 0
    for seed, text in pieces(TEXTS[kind], n):
        key = random_bytes(period, seed)
        found = _xor.find(xor(text, key))
        if found is not None and found.period == period:
            same = np.frombuffer(found.plain, np.uint8) == np.frombuffer(text, np.uint8)
            hits += same.mean() > 0.9
            assert xor(found.plain, found.key) == xor(text, key)
    assert hits >= 0.88 * 25


@pytest.mark.parametrize("period", [16, 23, 32, 64])
def test_xor_needs_twenty_bytes_for_each_of_the_key(period: int) -> None:
    """The least bytes that are stated are enough, and fewer are not asked."""
    hits = 0
    for seed, text in pieces(TEXTS["prose"], _xor.BYTES_PER_COLUMN * period):
        hidden = xor(text, random_bytes(period, seed))
        found = _xor.find(hidden)
        hits += found is not None and found.period == period
        short = _xor.find(hidden[: _xor.BYTES_PER_COLUMN * period - period])
        assert short is None or short.period < period
    assert hits >= 0.85 * 25


def test_xor_keys_of_letters() -> None:
    """A password as key keeps bytes below 128 and is found all the same."""
    for text in TEXTS.values():
        found = _xor.find(xor(text[:2000], b"infected"))
        assert found is not None
        assert (found.period, found.key) == (8, b"infected")


def test_xor_finds_the_shortest_period() -> None:
    """A key written twice has its single length; a constant key has length one."""
    text = TEXTS["json"][:2000]
    assert _xor.find(xor(text, b"\x91\x17\xa5\x3c" * 4)).period == 4
    assert _xor.find(xor(text, b"\x9c" * 16)).period == 1


@pytest.mark.parametrize("offset", [0, 1, 5, 22])
def test_xor_at_any_phase(offset: int) -> None:
    """A cut inside the key turns it, and nothing else."""
    key = random_bytes(23, 4)
    hidden = xor(TEXTS["csv"][:3000], key)[offset:]
    assert _xor.find(hidden).key == key[offset:] + key[:offset]


def test_no_xor_in_random_bytes() -> None:
    """At most one in ten thousand; here none in four thousand."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(64, 1400, 4000)
    assert not [n for n in sizes if _xor.find(rng.bytes(int(n))) is not None]


def structured() -> dict[str, bytes]:
    """Binary data of many kinds that repeats and is not text."""
    rng = np.random.default_rng(3)
    with np.errstate(all="ignore"):
        walk = np.cumsum(rng.normal(0, 4, 8000))
        return {
            "machine code": Path(sys.executable).resolve().read_bytes()[-400_000:],
            "extension": Path(np._core._multiarray_umath.__file__).read_bytes()[
                :400_000
            ],
            "utf-16": TEXTS["prose"].decode().encode("utf-16-le"),
            "utf-32": TEXTS["csv"].decode().encode("utf-32-be"),
            "zeros": bytes(20_000),
            "small integers": rng.poisson(60, 8000).astype("<i4").tobytes(),
            "long integers": rng.integers(0, 10**6, 8000).astype("<i8").tobytes(),
            "doubles": walk.astype("<f8").tobytes(),
            "floats": walk.astype("<f4").tobytes(),
            "audio": (walk * 20).astype("<i2").tobytes(),
            "image": (128 + walk % 90).astype("u1").tobytes(),
            "tables": b"".join(
                struct.pack("<IHH8sd", i, i % 7, 3, b"row%d" % i, i / 3)
                for i in range(2000)
            ),
        }


def test_structured_bytes_are_no_xor() -> None:
    """At most one in two hundred of buffers that repeat for other reasons."""
    rng = np.random.default_rng(4)
    asked = wrong = 0
    for data in structured().values():
        for size in (128, 512, 2048):
            for at in rng.integers(0, len(data) - size, 25):
                cut = data[at : at + size]
                view = np.frombuffer(cut, np.uint8)
                if np.mean((view >= 32) & (view < 127)) < 0.9:
                    asked += 1
                    wrong += _xor.find(cut) is not None
    assert asked > 700
    assert wrong <= asked * 0.005


def test_text_is_no_xor_of_itself() -> None:
    """A key of zeros is none."""
    for text in TEXTS.values():
        assert _xor.find(text[:1000]) is None


@settings(max_examples=60, deadline=None)
@given(ANY_BYTES)
def test_xor_takes_any_bytes(data: bytes) -> None:
    """Whatever comes, the answer is None or a key that gives the text."""
    found = _xor.find(data)
    if found is not None:
        assert 1 <= found.period == len(found.key) <= _xor.MAX_PERIOD
        assert xor(found.plain, found.key) == data
    assert (_xor.find(np.frombuffer(data, np.uint8)) is None) == (found is None)


# Records and pads.


def framed(
    bodies: list[bytes], width: int, order: str, *, fixed: bytes = b"",
    before: bytes = b"", counts: int = 0,
) -> bytes:  # fmt: skip
    """Write length-prefixed records."""
    return before + b"".join(
        fixed + (len(body) + counts).to_bytes(width, order) + body for body in bodies
    )


def bodies(count: int, low: int, high: int, seed: int = 0) -> list[bytes]:
    """Random bodies of random lengths."""
    rng = np.random.default_rng(seed)
    return [rng.bytes(int(rng.integers(low, high))) for _ in range(count)]


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("cut", [None, 1900])
def test_records_are_unwrapped(width: int, order: str, cut: int | None) -> None:
    """What the records hold comes back, also where the last one is cut off."""
    for seed in range(20):
        parts = bodies(12, 100, 300, seed)
        found = _records.contents(framed(parts, width, order)[:cut])
        assert b"".join(parts).startswith(found)
        assert cut or found == b"".join(parts)


@pytest.mark.parametrize(("width", "fixed", "before", "counts"), [
    (1, b"\x05\x01", b"", 0), (2, b"\x17\x03\x03", b"", 0), (2, b"\x01", b"HELO", 2),
    (4, b"", b"\x00" * 16, 4), (2, b"PSK\x00\x00\x01", b"", 8), (4, b"\xff", b"", 5),
])  # fmt: skip
def test_records_behind_types_and_preambles(
    width: int, fixed: bytes, before: bytes, counts: int
) -> None:
    """Fixed bytes, a preamble, lengths that count themselves or all."""
    parts = bodies(14, 60, 200, 7)
    data = framed(parts, width, "big", fixed=fixed, before=before, counts=counts)
    assert _records.contents(data) == b"".join(parts)


def test_two_records_of_wide_lengths() -> None:
    """Four bytes of length need two records, two bytes three in a small buffer."""
    parts = bodies(2, 1500, 2500, 3)
    assert _records.contents(framed(parts, 4, "big")) == b"".join(parts)
    parts = bodies(3, 200, 300, 3)
    assert _records.contents(framed(parts, 2, "little")) == b"".join(parts)


@pytest.mark.parametrize(("block", "pad"), [
    (16, 0), (64, 0), (512, 0x20), (512, 0xFF), (64, 0xFF),
])  # fmt: skip
def test_fixed_pads_are_taken_off(block: int, pad: int) -> None:
    """Records filled up to a block: at most the bytes that look like a pad are lost."""
    parts = [part + b"\x01" for part in bodies(8, block, 3 * block, block)]
    parts = [part[: len(part) - (len(part) % block < 6) * 12] for part in parts]
    parts = [part[:-1] + b"\x01" for part in parts]
    padded = b"".join(part + bytes([pad]) * (-len(part) % block) for part in parts)
    found = _records.contents(padded[:4096])
    assert found is not None
    assert len(found) < len(padded[:4096])
    assert b"".join(parts).startswith(found[: len(parts[0])])


def test_pkcs_pads_are_taken_off() -> None:
    """Inside records and without them."""
    parts = bodies(12, 100, 200, 5)
    filled = [p + bytes([16 - len(p) % 16]) * (16 - len(p) % 16) for p in parts]
    assert _records.contents(framed(filled, 2, "big")) == b"".join(parts)
    assert _records.contents(b"".join(filled)) == b"".join(parts)


def test_random_bytes_hold_no_records() -> None:
    """Less than one in a million; here none in thirty thousand."""
    rng = np.random.default_rng(6)
    for _ in range(30_000):
        assert _records.contents(rng.bytes(int(rng.integers(64, 700)))) is None


def test_weights_of_hypotheses() -> None:
    """The prior weights add up to no more than one, as the bound needs."""
    total = sum(
        2.0 ** -_records.prior_bits(preamble, fixed, counted)
        for preamble in range(_records.MAX_PREAMBLE + 1)
        for fixed in range(_records.MAX_FIXED + 1)
        for counted in range(3)
        for _ in range(5)
    )
    assert 0.9 < total <= 1.0


def test_zeros_and_text_hold_nothing() -> None:
    """What is pad more than by half is structure."""
    assert _records.contents(bytes(4096)) is None
    assert _records.contents(b"short") is None
    assert _records.contents(TEXTS["prose"][:2000]) is None


@settings(max_examples=80, deadline=None)
@given(ANY_BYTES)
def test_records_take_any_bytes(data: bytes) -> None:
    """Whatever comes, what is kept is at least half, of the bytes and no more."""
    found = _records.contents(data)
    assert found is None or 0 < len(found) <= len(data)


# The rules of Wu et al.


def test_fully_encrypted_traffic() -> None:
    """Random bytes have no reason to be exempt."""
    assert (
        sum(_wu.looks_fully_encrypted(random_bytes(300, i)) for i in range(200)) > 195
    )


@pytest.mark.parametrize("first", [
    b"", b"GET /" + random_bytes(90), b"\x16\x03\x01" + random_bytes(90),
    b"SSH-2.0-x\r\n" + random_bytes(200), random_bytes(60) + b"a" * 21 + random_bytes(60, 1),
    TEXTS["prose"][:200], bytes(100), b"\xff" * 100,
    b"".join(bytes((65, b)) for b in random_bytes(100)),
])  # fmt: skip
def test_exempt_traffic(first: bytes) -> None:
    """Each rule lets its kind of packet go."""
    assert not _wu.looks_fully_encrypted(first)


# Handshakes and grammars.

PPP = (
    b"\x30\x81\x88\x0b\x01\x4a\x98\x50\x00\x00\x00\x6a\x00\x00\x00\x8c\xff\x03\x00\x21"
)
IPV6 = (
    b"\x60" + bytes(5) + b"\x3a\xff" + b"\xfe\x80" + bytes(14) + b"\xff\x02" + bytes(14)
)
AS_REQ = bytes.fromhex("6a82011b30820117a103020105a20302010aa3583056")
ERROR = bytes.fromhex("7e643062a003020105a10302011ea411180f32303232")
QUOTED = bytes.fromhex("45000500b45d40002111e8b7c0a801800379f236b7a201bb")
HELLO = b"\x16\x03\x01\x05\xdc\x01\x00\x05\xd8\x03\x03" + random_bytes(1400, 8)
MYSQL = b"\x20\x00\x00\x01\x85\xae\xff\x19\x00\x00\x00\x01\xff" + bytes(23)


@pytest.mark.parametrize(("data", "datagram", "handshake", "protocol"), [
    (b"ED\x00\x01\x00\x00\x04\x08\x09\x08\x02WA\x05\x02\x00\x01\x0e\x12", False, "whatsapp",
     None),
    (b"WA\x06\x03\x00\x00\x24\x12\x22\x0a\x20" + random_bytes(32), False, "whatsapp", None),
    (b"\x13/multistream/1.0.0\n\x07/noise\n", False, "libp2p", None),
    (b"SSTP_DUPLEX_POST /sra_{BA195980} HTTP/1.1\r\n", False, "sstp", None),
    (b"0 think 17\n1 429 672 0 0 2CD4A", False, "tinc", None),
    (b"\x00\x68\x00\x01\x00\x54\x21\x12\xa4\x42" + bytes(12), False, "stun", None),
    (b"\x00\x00\x00\x80\xfdSMB" + random_bytes(60), False, "smb3", None),
    (HELLO + random_bytes(100), False, "tls", None),
    (b"\x00\x03\x00\x6a\x21\x12\xa4\x42" + bytes(12), True, "stun", None),
    (b"\x00\x01\x00\x08" + random_bytes(16) + b"\x00\x03\x00\x04\x00\x00\x00\x00", True, "stun",
     None),
    (b"TS\xf0\x9f\x92\xac" + random_bytes(80), True, "tailscale", None),
    (b"\x10\x00\x12\x34ZRTP" + random_bytes(20), True, "zrtp", None),
    (b"r6fnvWj8" + random_bytes(80), True, "dnscrypt", None),
    (b"\x00\x02\x00\x46\x00\x00\xac\xe3203.0.113.9" + bytes(53) + b"\xc4\x5d", True, "discord",
     None),
    (b"\xc8\x02\x00\x14\x00\x00\x00\x00\x00\x00\x00\x00\x80\x08\x00\x00\x00\x00\x00\x01", True,
     "l2tp", None),
    (PPP, True, "pptp", None),
    (IPV6, True, "teredo", None),
    (b"\x00\x01\x00\x00" + random_bytes(8) + b"\x00" + IPV6, True, "teredo", None),
    (b"\x01\x00\x00\x00\x16\xfe\xff" + bytes(20), True, "dtls", None),
    (b"\xcf\xba\xba\xba\xba\x10" + random_bytes(16) + b"\x08" + random_bytes(60), True, "quic",
     None),
    (b"\x00\x9c\x00\x01\x1a\x2b\x3c\x4d\x00\x01\x00\x00", False, None, "pptp"),
    (AS_REQ, True, None, "kerberos"), (b"\x00\x00\x01\x1f" + AS_REQ, False, None, "kerberos"),
    (ERROR, True, None, "kerberos"),
    (QUOTED, True, None, "ip"),
    (b"\xff\xfd\x03\xff\xfb\x18\xff\xfb\x1f", False, None, "telnet"),
    (MYSQL, False, None, "mysql"),
    (b"S\x16\x03\x03\x00\x58\x02\x00\x00\x54\x03\x03" + bytes(82), False, None, "postgresql"),
    (b"\x00\x00\x00\x26\x00\x03\x00\x00user\x00oryx\x00", False, None, "postgresql"),
    (b"user bob\r\npass secret\r\nstat\r\n", False, None, "pop3"),
    (b". CAPABILITY\r\n. STARTTLS\r\n", False, None, "imap"),
    (b"MODE READER\r\n", False, None, "nntp"),
    (b"003egit-upload-pack /a.git\x00host=b\x00", False, None, "git"),
    (b"00d8" + b"5e" * 20 + b" HEAD\x00multi_ack", False, None, "git"),
    (b"\x04\x00\x00\x00\xff\x02" + bytes(13) + b"\xfb\x04\x00\x00\x00\xff\x02" + bytes(20),
     True, None, None),
])  # fmt: skip
def test_handshakes_and_grammars(
    data: bytes, datagram: bool, handshake: str | None, protocol: str | None
) -> None:
    """Named by structure, at the start of what is sent."""
    assert _facts.find_handshake(data, datagram=datagram) == handshake
    if handshake is None:
        assert _grammar.find_protocol(data, datagram=datagram) == protocol


def test_random_bytes_shake_no_hands() -> None:
    """Far less than one in a million; here none in sixty thousand."""
    data = random_bytes(96 * 30_000, 9)
    for i in range(0, len(data), 96):
        for datagram in (False, True):
            piece = data[i : i + 96]
            assert _facts.find_handshake(piece, datagram=datagram) is None
            assert _grammar.find_protocol(piece, datagram=datagram) is None


@settings(max_examples=150, deadline=None)
@given(
    st.builds(
        lambda a, b: a + b,
        st.sampled_from(
            [b"", b"\x00\x01", IPV6, PPP, AS_REQ, QUOTED, HELLO[:9], MYSQL]
        ),
        ANY_BYTES,
    ),
    st.booleans(),
)
def test_facts_take_any_bytes(data: bytes, datagram: bool) -> None:
    """Whatever comes, a name or None."""
    for cut in (len(data), len(data) // 2, 5):
        for find in (_facts.find_handshake, _grammar.find_protocol):
            name = find(data[:cut], datagram=datagram)
            assert name is None or name.isascii()
    _facts.find_rtp(data, [7, 20, 0, 30, 12])


def rtp(count: int, source: int = 0x5EED, step: int = 1) -> list[bytes]:
    """Some RTP packets with random content."""
    return [
        struct.pack(">BBHII", 0x80, 111, 65530 + i * step & 0xFFFF, i * 960, source)
        + random_bytes(40, i)
        for i in range(count)
    ]


def test_rtp_is_seen_over_packets() -> None:
    """Three packets of one source, with others between, over the end of the count."""
    stun = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)
    packets = [stun, *rtp(2), stun, *rtp(3)[2:]]
    sizes = [len(packet) for packet in packets]
    assert _facts.find_rtp(b"".join(packets), sizes)
    assert not _facts.find_rtp(b"".join(packets)[:-60], sizes)
    assert not _facts.find_rtp(b"".join(packets), [len(b"".join(packets))])
    jumps = rtp(5, step=1000)
    assert not _facts.find_rtp(b"".join(jumps), [len(packet) for packet in jumps])
    assert not _facts.find_rtp(random_bytes(4096), [64] * 64)
    assert not _facts.find_rtp(b"", [])


CAPTURES = [
    ("whatsapp.pcap", "whatsapp"), ("discord.pcap", "discord"), ("tinc.pcap", "tinc"),
    ("tailscale.pcap", "tailscale"), ("teredo.pcap", "teredo"), ("gre.pcapng", "pptp"),
    ("pptp.pcap", "pptp"), ("dnscrypt-v2.pcap", "dnscrypt"), ("kerberos-login.pcap", "kerberos"),
    ("kerberos.pcap", "kerberos"), ("stun.pcap", "stun"), ("stun_classic.pcap", "stun"),
    ("wireguard.pcap", "wireguard"), ("openvpn.pcap", "openvpn"), ("rdp.pcap", "tls"),
    ("quic-forcing-vn-with-data.pcapng", "quic"),
    ("quic-v2.pcapng", "quic"), ("capwap.pcap", "dtls"), ("dtls.pcap", "dtls"),
    ("telnet.pcap", "telnet"), ("mysql.pcapng", "mysql"), ("pgsql.pcap", "postgresql"),
    ("nntp.pcap", "nntp"), ("git.pcap", "git"), ("ssh.pcap", "ssh"), ("tls_missing_ch_frag.pcap", "tls"),
]  # fmt: skip


@pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")
def test_facts_of_real_captures() -> None:
    """Each fact is found in the capture that is named after it."""
    from exfilml import read_flows

    folder = Path(REAL) / "pcap" / "benign"
    flows = read_flows([folder / name for name, _ in CAPTURES], progress=False)
    for name, fact in CAPTURES:
        columns = ["src_handshake", "dst_handshake", "src_protocol", "dst_protocol"]
        seen = set(flows.loc[flows["sensor"] == name, columns].to_numpy().ravel())
        assert fact in seen, name


@pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")
@pytest.mark.parametrize("capture", [
    "rtp.pcapng", "sip.pcap", "skinny.pcap", "discord.pcap", "stun_wa_call.pcapng",
    "stun_google_meet.pcapng", "geforcenow.pcapng",
])  # fmt: skip
def test_rtp_of_real_captures(capture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls show RTP in their packets, alone or after STUN."""
    from exfilml.sources import _meter, _plugin
    from exfilml.sources._job import Job

    sides = []

    class Sized(_plugin.Side):
        __slots__ = ("sizes", "start")

        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[int] = []
            self.start = b""
            sides.append(self)

        def keep(self, data: bytes, size: int) -> None:
            super().keep(data, size)
            if not self.full:
                self.sizes.append(len(data))
                self.start = bytes(self.head)

    monkeypatch.setattr(_plugin, "Side", Sized)
    path = Path(REAL) / "pcap" / "benign" / capture
    _meter.meter_by_plugin(
        Job(str(path), None, 120, 1800, True, capture), lambda _: None
    )
    assert any(_facts.find_rtp(side.start, side.sizes) for side in sides)
