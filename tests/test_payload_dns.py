"""DNS names: what is asked under one domain, and the data written there."""

from __future__ import annotations

import base64
import random
import time

import dpkt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import TCP, UDP, directions, keep, needs_real_data, real

from exfilml.payload import OPAQUE_P, SIDE_COLUMNS, _kernel, _skim, judge, warm_up
from exfilml.payload import _alphabets as alphabets
from exfilml.payload._dns import TEXT_BYTES, DnsNames, is_settled, place, read
from exfilml.payload._verdict import facts_of

DOMAIN = "t.example.com"
BASE32HEX = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789abcdefghijklmnopqrstuv"
)
IODINE = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"abcdefghijklmnopqrstuvwxyz012345"
)
ENCODERS = {
    "hex": bytes.hex,
    "base32": lambda data: base64.b32encode(data).decode().strip("=").lower(),
    "base32hex": lambda data: (
        base64.b32encode(data).strip(b"=").translate(BASE32HEX).decode()
    ),
    "iodine": lambda data: (
        base64.b32encode(data).strip(b"=").translate(IODINE).decode()
    ),
    "base64": lambda data: base64.urlsafe_b64encode(data).decode().strip("="),
}


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up()


def query(name: str, kind: int = 1) -> bytes:
    return bytes(dpkt.dns.DNS(id=7, qd=[dpkt.dns.DNS.Q(name=name, type=kind, cls=1)]))


def wire(*labels: bytes) -> bytes:
    """A query for labels of any bytes."""
    name = b"".join(bytes([len(x)]) + x for x in labels)
    return b"\x12\x34\x01\x00\x00\x01" + bytes(6) + name + b"\0\0\x01\0\x01"


def response(name: str, **record: object) -> bytes:
    answer = dpkt.dns.DNS.RR(name=name, cls=1, ttl=5, **record)
    question = dpkt.dns.DNS.Q(name=name, type=answer.type, cls=1)
    return bytes(dpkt.dns.DNS(id=7, op=0x8180, qd=[question], an=[answer]))


def over_udp(messages) -> DnsNames:
    found = read(*keep(messages), stream=False)
    assert found is not None
    return found


def labels_of(text: str, size: int = 60) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def tunnel(data: bytes, encode, step: int, domain: str = DOMAIN) -> list[bytes]:
    """Queries that carry data, each with a counter label, as tools write them."""
    pieces = [data[i : i + step] for i in range(0, len(data), step)]
    return [
        query(".".join([*labels_of(encode(piece)), f"{number:x}", domain]))
        for number, piece in enumerate(pieces)
    ]


# Ordinary names.


@pytest.mark.parametrize(("names", "domain", "carried", "longest"), [
    (["www.example.com"], "example.com", 3, 3),
    (["example.com"], "example.com", 0, 0),
    (["a.b.example.co.uk"], "example.co.uk", 2, 1),
    (["WWW.Example.COM", "www.example.com"], "example.com", 3, 3),
    (["www.example.com", "mail.example.com", "a.net"], "example.com", 7, 4),
    (["e1.g.akamaiedge.net"], "g.akamaiedge.net", 2, 2),
    (["wpad"], "wpad", 0, 0),
    (["4.3.2.1.in-addr.arpa"], "in-addr.arpa", 4, 1),
    (["_googlecast._tcp.local"], "_tcp.local", 11, 11),
])  # fmt: skip
def test_names_are_grouped_by_registered_domain(names, domain, carried, longest):
    """Repeated names count once, whatever their case."""
    found = over_udp([query(name) for name in names])
    assert (found.domain, found.carried, found.longest) == (domain, carried, longest)
    assert (found.messages, found.strays) == (len(names), 0)
    assert found.encoding is None
    assert found.data is None


ORDINARY = [
    "settings-win.data.microsoft.com", "ec2-54-23-45-67.eu-west-1.compute.amazonaws.com",
    "android.clients.google.com", "pull-hls-f16-va01.tiktokcdn.com",
    "d31qbv1cthcecs.cloudfront.net", "autodiscover.outlook.com.akadns.net",
    "ip-10-24-7-31.internal.corp.example", "r3---sn-4g5e6nsz.googlevideo.com",
    "5.6.7.8.zen.spamhaus.org", "printserver2.floor3.building12.corp.example",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
    "http2.http11.tls13.tls12.quic443.udp53.speedtest2.measurement.example.net",
    "MyOfficePrinterInRoom12.SecondFloor.MainBuilding.example.com",
]  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_are_no_encoding(name):
    assert over_udp([query(name)]).encoding is None


def test_many_ordinary_names_of_one_domain_are_no_encoding():
    words = ["mail", "www", "login", "cdn7", "api", "static", "img2", "assets", "edge"]
    names = [f"{a}-{b}.{c}.example.org" for a in words for b in words for c in words]
    found = over_udp([query(name) for name in names])
    assert found.encoding is None
    assert found.carried > 1000
    assert found.unique == found.messages


def test_service_names_in_utf8_are_no_encoding():
    """Multicast DNS has names in UTF-8 (RFC 6763)."""
    label = "Büro-Drucker im Köthener Raum für Gäste öffnen".encode()
    assert over_udp([wire(label, b"_ipp", b"_tcp", b"local")]).encoding is None


@pytest.mark.parametrize("kind", ["letters", "digits"])
def test_the_model_of_ordinary_labels_bounds_false_alarms(kind):
    """A likelihood ratio of k bits has a probability of 2**-k at most."""
    rng = random.Random(5)
    letters = "".join(map(chr, alphabets._COMMON))[:26]
    weights = list(alphabets._COMMON.values())[:26]
    alarms = 0
    for _ in range(3000):
        words = ["".join(rng.choices(letters, weights, k=6)) for _ in range(8)]
        if kind == "digits":
            words = [word + str(rng.randrange(100)) for word in words]
        found = alphabets.recognise([w.encode() for w in words], keeps_case=True)
        alarms += found is not None
    assert alarms <= 3


# Data in names.


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("step", [30, 45, 90])
def test_random_data_comes_back_and_is_random(name, step):
    """Counters and the tag are set aside, the data is whole."""
    data = random.Random(step).randbytes(step * 12)
    found = over_udp(tunnel(data, ENCODERS[name], step))
    assert found.domain == "example.com"
    assert found.encoding == ("base32" if "32" in name or name == "iodine" else name)
    assert found.unique == 12
    assert found.data is not None
    if name != "base32hex":  # its letters are those of base32 in another order
        assert judge(found.data).p_random > OPAQUE_P
    if name in ("hex", "base32", "base64"):
        assert data in found.data


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["hex", "base32", "base64"]), st.integers(8, 30), st.integers())
def test_any_random_data_comes_back(name, pieces, seed):
    """Also in names of one short label beside its counter, as a slow drip has them."""
    step = 15
    data = random.Random(seed).randbytes(step * pieces)
    found = over_udp(tunnel(data, ENCODERS[name], step))
    assert found.encoding == name
    assert found.data is not None
    assert data in found.data


@pytest.mark.parametrize("encoding", ["hex", "base32", "base64"])
def test_text_in_names_is_no_ciphertext(encoding):
    data = b"".join(
        b"user%03d;secret word;2024-03-%02d\n" % (i, i % 28) for i in range(40)
    )
    found = over_udp(tunnel(data[:900], ENCODERS[encoding], 90))
    assert found.carried > 1000
    if found.data is not None:
        assert judge(found.data).p_random < OPAQUE_P


def test_one_query_is_enough():
    """Resolvers ask each name from a new port: one message is one flow."""
    data = random.Random(1).randbytes(85)
    found = over_udp(tunnel(data, bytes.hex, 85))
    assert (found.encoding, found.data) == ("hex", data)


def test_resolvers_that_randomise_case_do_not_hide_data():
    """The 0x20 bit flips letters of the domain, too."""
    rng = random.Random(3)
    messages = tunnel(rng.randbytes(900), ENCODERS["base32"], 90)
    flipped = [
        m[:12]
        + bytes(
            c ^ 0x20 * (rng.random() < 0.5) if chr(c).isalpha() else c for c in m[12:]
        )
        for m in messages
    ]
    plain, mixed = over_udp(messages), over_udp(flipped)
    assert mixed.encoding == "base32"
    assert (mixed.data, mixed.carried) == (plain.data, plain.carried)


def test_headers_inside_labels_are_set_aside():
    """A packet number, a session and a sequence number, as dnscat2 writes them."""
    rng = random.Random(4)
    messages = []
    for number in range(20):
        head = rng.randbytes(2) + b"\x01\x5e\xc2" + (0x1F00 + number).to_bytes(2)
        data = head + rng.randbytes(80)
        messages.append(query(".".join([*labels_of(data.hex()), DOMAIN])))
    found = over_udp(messages)
    assert judge(found.data).p_random > OPAQUE_P
    assert found.carried > 20 * 160


def test_no_domain_at_all():
    """Dnscat2 asks its server directly, for names that nobody can register."""
    rng = random.Random(6)
    names = [["dnscat", *labels_of(rng.randbytes(80).hex())] for _ in range(10)]
    found = over_udp([query(".".join(name)) for name in names])
    assert (found.domain, found.encoding) == ("", "hex")
    assert judge(found.data).p_random > OPAQUE_P
    found = over_udp([query(rng.randbytes(25).hex() + ".com") for _ in range(10)])
    assert (found.domain, found.unique, found.encoding) == ("com", 10, "hex")


@pytest.mark.parametrize(("labels", "encoding"), [
    ([random.Random(i).randbytes(60) for i in range(9)], "binary"),
    ([bytes(random.Random(i).choices(alphabets._SEVEN_BITS, k=60)) for i in range(9)],
     "base128"),
    ([bytes(random.Random(i).choices(b"0123456789abcdefghijklmnopqrstuvwxyz", k=60))
      for i in range(9)], "base36"),
    ([bytes(random.Random(i).choices(b"abcdefghijklmnop", k=60)) for i in range(9)],
     "base16"),
    ([bytes(random.Random(i).choices(alphabets._SIX_BITS, k=60)) for i in range(9)],
     "base62"),
])  # fmt: skip
def test_other_alphabets(labels, encoding):
    """Uniform letters give uniform bytes in every alphabet."""
    found = over_udp([wire(label, b"example", b"com") for label in labels])
    assert found.encoding == encoding
    assert judge(found.data).p_random > OPAQUE_P


def test_slices_of_later_packets_count_as_far_as_they_are_seen():
    """Names longer than a slice are cut; the head says which domain they are of."""
    data = random.Random(8).randbytes(90 * 120)
    messages = tunnel(data, ENCODERS["base32"], 90)
    found = over_udp(messages)
    whole = len(over_udp(messages[:20]).text) // 20
    assert found.messages > 40
    assert 20 * whole < found.carried < found.messages * whole
    assert judge(found.data).p_random > OPAQUE_P
    domain = "a-domain-of-which-a-slice-shows-part.example"
    found = over_udp([query(f"host{i}.{domain}") for i in range(300)])
    assert (found.domain, found.longest) == (domain, len("host100"))
    assert b"domain" not in found.text


def test_over_tcp_and_without_packet_sizes():
    messages = tunnel(random.Random(9).randbytes(900), bytes.hex, 60)
    expected = over_udp(messages)
    stream = b"".join(len(m).to_bytes(2) + m for m in messages)
    head = b"".join(messages)
    assert read(stream, (len(stream),), b"", 64, stream=True) == expected
    assert read(head, (), b"", 64, stream=False) == expected


def test_answers_are_the_download():
    text = response("a.example.com", type=16, rdata=b"\x05hello\x03you")
    null = response("a.example.com", type=10, rdata=b"\x00\x01\x02")
    address = response("a.example.com", type=1, rdata=b"\x01\x02\x03\x04")
    found = over_udp([text, null, address])
    assert (found.responses, found.answers) == (3, b"helloyou\x00\x01\x02")
    assert (found.domain, found.unique, found.carried) == ("example.com", 1, 1)


def test_later_questions_may_point_back():
    """Multicast DNS writes a shared ending once."""
    message = (
        bytes(5) + b"\x02" + bytes(6)
        + b"\x04_ipp\x04_tcp\x05local\x00\x00\x0c\x80\x01"
        + b"\x05_raop\xc0\x11\x00\x0c\x00\x01"
    )  # fmt: skip
    found = over_udp([message])
    assert (found.domain, found.unique, found.text) == ("_tcp.local", 2, b"_ipp_raop")


def test_a_decoy_does_not_hide_what_is_no_dns():
    data = random.Random(2).randbytes(600)
    found = over_udp([query("www.example.com"), data])
    assert (found.messages, found.strays) == (1, 600)


def test_names_of_one_letter_each_fill_no_byte():
    """Less than eight bits in a name are taken for padding."""
    letters = b"q7z3x5j2k6w4v9y8g0h1b"
    found = over_udp([wire(bytes([a]), b"example", b"com") for a in letters])
    assert (found.carried, found.encoding) == (len(letters), None)
    pieces = [bytes([c]) for c in letters * 3]
    assert alphabets.recognise(pieces, keeps_case=True) in (None, ("base36", b""))


# Any bytes.

MESSAGES = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda counts, rest: b"\x00\x00\x01\x00" + counts + rest,
        st.sampled_from([
            b"\x00\x01" + bytes(6), b"\x00\x08" + bytes(6), b"\xff\xff" * 4,
            b"\x00\x00\x00\x01" + bytes(4), b"\x00\x01\x01\x90" + bytes(4),
        ]),
        st.one_of(
            st.binary(max_size=120),
            st.builds(
                lambda labels: b"".join(bytes([len(x)]) + x for x in labels)
                + b"\0\0\1\0\1",
                st.lists(st.binary(max_size=63), max_size=6),
            ),
            st.sampled_from([b"\xc0\x0c" * 20, b"\x01a\xc0\x0c" * 9, b"\xc0\xff"]),
        ),
    ),
    st.builds(
        lambda rest: b"\x00\x00\x81\x80\x00\x01\x00\x02" + bytes(4) + rest,
        st.builds(lambda a: b"\x01a\x00\x00\x10\x00\x01" + a, st.binary(max_size=60)),
    ),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(MESSAGES, max_size=8),
    st.binary(max_size=300),
    st.integers(-1, 70),
    st.booleans(),
    st.booleans(),
)
def test_any_bytes_give_a_result_in_range(messages, slices, width, stream, sized):
    head = b"".join(messages)
    sizes = tuple(map(len, messages)) if sized else ()
    found = read(head, sizes, slices, width, stream=stream)
    if found is None:
        return
    seen = len(head) + len(slices)
    assert found.messages > 0
    assert 0 <= found.responses <= found.messages
    assert 0 <= found.strays <= len(head)
    assert found.unique >= 0
    assert 0 <= found.longest <= 63
    assert 0 <= found.carried <= 8 * seen
    assert len(found.text) <= min(TEXT_BYTES, found.carried)
    assert (found.encoding is None) == (found.data is None)
    assert len(found.data or b"") <= found.carried
    assert len(found.answers) <= TEXT_BYTES


@settings(max_examples=50, deadline=None)
@given(st.permutations([f"h{i}.a{i % 3}.example.com" for i in range(6)] + ["a.b.net"]))
def test_what_is_carried_does_not_depend_on_the_order(names):
    found = over_udp([query(name) for name in names])
    ordered = over_udp([query(name) for name in sorted(names)])
    for field in ("domain", "unique", "carried", "longest"):
        assert getattr(found, field) == getattr(ordered, field)


@pytest.mark.parametrize("head", [
    (b"\x00\x00\x01\x00\x00\x08" + bytes(6) + b"\xc0\x0c" * 8) * 150,
    b"\x00\x00\x81\x80\x00\x01\x01\x90\x01\x90\x01\x90" + b"\x01a" * 2000,
    (b"\x00\x00\x01\x00\x00\x01" + bytes(6)) * 340,
    b"\x00\x00\x81\x80\x00\x00\x01\x90" + bytes(4000),
    b"".join(wire(bytes([97 + i % 26, 97 + i // 26]), b"x%d" % i) for i in range(180)),
], ids=["pointers", "labels", "headers", "records", "domains"])  # fmt: skip
def test_hostile_bytes_cost_a_bounded_time(head):
    started = time.perf_counter()
    for sizes in ((), (26,) * 200, (12,) * 340, (len(head),)):
        read(head[:4096], sizes, head[:2048], 64, stream=False)
    read(head[:4096], (), head[:2048], 64, stream=True)
    assert time.perf_counter() - started < 1


# Real captures.

TUNNELS = {
    "attack/ndpi/dns_exfiltration.pcap": ("", "hex", 4000),
    "attack/dnstunnel-comnet24s/learn.netrack.github.com.pcap":
        ("hidemyself.org", "base64", 4000),
    "attack/ndpi/dns-tunnel-iodine.pcap": ("pirate.sea", "binary", 4000),
    "benign/bad-dns-traffic.pcap": ("skullseclabs.org", "hex", 4000),
    "benign/dns-exf.pcap": ("test.txt", "base64", 60),
}  # fmt: skip


@needs_real_data
@pytest.mark.parametrize("name", TUNNELS)
def test_real_tunnels_are_read(name):
    domain, encoding, carried = TUNNELS[name]
    ups = [
        over_udp(packets)
        for (*_, port), packets in directions(real(name), {UDP}, {53}).items()
        if port == 53
    ]
    found = max(ups, key=lambda names: names.carried)
    assert (found.domain, found.encoding) == (domain, encoding)
    assert found.carried >= carried
    if name.startswith("attack") and encoding != "binary":
        assert judge(found.data).p_random > OPAQUE_P


@needs_real_data
def test_real_names_are_no_encoding():
    """Except in the captures that hold tunnels."""
    seen = 0
    for path in sorted(real("benign").glob("*dns*")):
        if path.name in ("bad-dns-traffic.pcap", "dns-exf.pcap"):
            continue
        for key, packets in directions(path, {UDP, TCP}, {53, 5353, 5355}).items():
            found = read(*keep(packets), stream=key[0] == TCP)
            if found is not None:
                seen += 1
                assert found.encoding is None, (path.name, found.text)
                assert found.carried < 200, path.name
    assert seen > 20


# --- look-ups told in compiled code ----------------------------------------------


def skimmed(packets: list[bytes]) -> tuple[int, bytes]:
    """What is found at once in one direction, and the name in it."""
    sides = np.zeros((1, SIDE_COLUMNS), np.int64)
    head = b"".join(packets)
    sides[0, [_kernel.HEAD, _kernel.PACKETS, _kernel.PROTOCOL]] = (
        len(head), len(packets), UDP,
    )  # fmt: skip
    sizes = np.array([len(packet) for packet in packets], np.int64)
    _skim.skim(np.frombuffer(head, np.uint8), sizes, sides)
    at, size = sides[0, [_kernel.NAME_AT, _kernel.NAME_BYTES]].tolist()
    return int(sides[0, _kernel.LOOKUP]), head[at : at + size]


LONG = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b82.t.example.com"
MESSAGES = (
    query("www.example.com"),
    query("WWW.example.COM", 28),
    query("mail.example.com"),
    query("4.3.2.1.in-addr.arpa", 12),
    query(LONG, 16),
    wire(b"a" * 63, b"b", b"com"),
    wire(),
    response("www.example.com", type=1, rdata=bytes(4)),
    response("www.example.com", type=5, cname="edge.example.net"),
    response(LONG, type=5, cname=LONG),
    response("www.example.com", type=16, text=[b"v=spf1 -all", b"x" * 200]),
    response("example.com", type=15, mxname="mx.example.com", preference=5),
)


def test_look_ups_are_told_at_once():
    one, other, elsewhere = MESSAGES[:3]
    assert skimmed([one]) == (_skim.ONE_NAME, b"\3www\7example\3com")
    assert skimmed([one, other]) == (_skim.ONE_NAME, b"\3www\7example\3com")
    assert skimmed([one, elsewhere])[0] == _skim.TO_READ
    assert skimmed([one, one[:20]])[0] == _skim.TO_READ
    assert skimmed([one, MESSAGES[7]])[0] == _skim.TO_READ
    for answer in MESSAGES[7:]:
        assert skimmed([answer])[0] == _skim.ANSWERS
    assert skimmed([MESSAGES[7], MESSAGES[8]])[0] == _skim.ANSWERS
    assert skimmed([MESSAGES[7], MESSAGES[10]])[0] == _skim.TO_READ
    assert skimmed([b"\0" * 40])[0] == _skim.OTHER
    assert skimmed([])[0] == _skim.OTHER


@given(
    st.lists(
        st.tuples(
            st.sampled_from(MESSAGES),
            st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=2),
            st.integers(10, 400),
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=1500, deadline=None)
def test_what_is_told_at_once_is_what_reading_tells(parts):
    """Whatever is changed or cut: the short way out says nothing else."""
    packets = []
    for message, changes, stop in parts:
        changed = bytearray(message)
        for at, value in changes:
            changed[at % len(changed)] = value
        packets.append(bytes(changed[:stop]))
    found, name = skimmed(packets)
    if found < _skim.ANSWERS:
        return
    sizes = tuple(map(len, packets))
    facts = facts_of(b"".join(packets), b"", sizes, 64, UDP, is_dns=True)
    assert facts.grammar == "dns"
    if found == _skim.ANSWERS:
        assert (facts.names, facts.carried, facts.n_carried) == (None, None, None)
        return
    domain, _, carried, longest = place(name.lower())
    assert facts.names is not None
    assert facts.names[:2] == (domain, len(packets))
    assert facts.names.unique == 1
    assert (facts.n_carried, facts.names.longest) == (carried, longest)
    assert facts.carried is None or not is_settled(domain, carried)
