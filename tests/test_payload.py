"""The payload room: bytes in, evidence out, for the number of bytes seen."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import math
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exfilml.payload import (
    OPAQUE_P,
    SIDE_COLUMNS,
    SLICE_BYTES,
    VERDICTS,
    Samples,
    judge,
    judge_many,
    judge_stream,
    warm_up,
)

ANY_BYTES = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda b, n: b * n, st.binary(max_size=24), st.integers(0, 300)),
    st.builds(lambda a, b: a + b, st.sampled_from([
        b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"Salted__",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n", b"\x30\x82\x01",
        b"PK\x03\x04", b"\x17\xfe\xfd\x00\x01", b"\xc3\x00\x00\x00\x01\x08", b"%41%42",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"\x30\x84", b"\x03\x00",
    ]), st.binary(max_size=200)),
)  # fmt: skip
NAN_PAIRS = (
    ("head_entropy", "head_p_random"),
    ("body_entropy", "body_p_random"),
    ("entropy", "p_random"),
)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up()


def random_bytes(n: int, seed: int = 0) -> bytes:
    """Seeded bytes that stand for ciphertext."""
    return np.random.default_rng(seed).bytes(n)


def prose(n: int, seed: int = 0) -> bytes:
    """Words with natural letter frequencies, n bytes."""
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", np.uint8)
    weight = 1 / np.arange(1, 27)
    words = [
        bytes(rng.choice(letters, rng.integers(2, 10), p=weight / weight.sum()))
        for _ in range(600)
    ]
    text = b""
    while len(text) < n:
        text += b" ".join(words[i] for i in rng.zipf(1.3, 200) % 600) + b".\r\n"
    return text[:n]


def table(n: int, seed: int = 0) -> bytes:
    """Binary records: a counter, a time, small numbers, a flag."""
    rng = np.random.default_rng(seed)
    rows = [
        struct.pack("<IQHHf", i, 1_700_000_000_000 + 250 * i, int(a), 7, float(b))
        for i, (a, b) in enumerate(rng.integers(0, 900, (n // 20 + 1, 2)))
    ]
    return b"".join(rows)[:n]


# Promises that hold for any bytes.


@given(ANY_BYTES, ANY_BYTES, st.integers(0, 80), st.sampled_from([6, 17, 1, 58, 47]))
@example(bytes(24), b"Salted__", 1, 1)
@settings(max_examples=400, deadline=None)
def test_any_bytes_give_evidence_in_range(
    head: bytes, body: bytes, width: int, protocol: int
) -> None:
    """No bytes raise, and every field is in its range or nan."""
    found = judge_stream(head, body, slice_bytes=width, protocol=protocol)
    n = len(head) + len(body)
    assert found.n_bytes == n == found.stream_bytes
    assert found.verdict in VERDICTS
    for name, p_name in NAN_PAIRS:
        entropy, p = getattr(found, name), getattr(found, p_name)
        assert math.isnan(entropy) == math.isnan(p)
        assert math.isnan(p) or (0 <= entropy <= 8 and 0 <= p <= 1)
    assert math.isnan(found.entropy) == (n == 0)
    if n:
        assert 0 <= found.set_bits <= 8
        assert 0 <= found.printable <= 1
    if found.verdict in ("text", "structured", "unknown", "compressed"):
        assert not found.concealed
    if found.verdict == "opaque":
        assert found.concealed
    assert (found.encoding is not None) == (found.verdict == "encoded")


@given(st.binary(min_size=1, max_size=600), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_entropy_does_not_depend_on_order(data: bytes, rng) -> None:
    """Plug-in entropy, set bits and printable share are those of a multiset."""
    shuffled = bytearray(data)
    rng.shuffle(shuffled)
    first, second = judge(data), judge(bytes(shuffled))
    for name in ("entropy", "set_bits", "printable"):
        assert getattr(first, name) == getattr(second, name)


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_judge_is_judge_stream(data: bytes) -> None:
    """A buffer is judged as a stream of which everything was seen."""
    assert repr(judge(data)) == repr(judge_stream(data, stream_bytes=len(data)))


@given(st.binary(min_size=1, max_size=500))
@settings(deadline=None)
def test_entropy_is_shannons(data: bytes) -> None:
    """The compiled entropy equals the definition."""
    counts = np.unique(np.frombuffer(data, np.uint8), return_counts=True)[1]
    share = counts / len(data)
    assert judge(data).entropy == pytest.approx(
        -(share * np.log2(share)).sum(), abs=1e-9
    )


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
def test_few_bytes_are_unknown(n: int) -> None:
    """Nothing is claimed about next to no bytes."""
    found = judge(random_bytes(n))
    assert found.verdict == "unknown"
    assert not found.concealed
    assert math.isnan(found.body_entropy)
    assert math.isnan(found.entropy) == (n == 0)


@pytest.mark.parametrize("n", [24, 64, 512, 4096, 200_000])
@pytest.mark.parametrize("value", [0, 65, 255])
def test_one_repeated_byte(n: int, value: int) -> None:
    """No entropy, no randomness, and a defined verdict."""
    found = judge(bytes([value]) * n)
    assert found.entropy == 0
    assert found.p_random < 1e-9
    assert found.verdict in ("structured", "text", "encoded")
    assert not found.concealed


def test_stream_bytes_are_at_least_what_was_seen() -> None:
    """A source that counts fewer bytes than it hands over is not believed."""
    assert judge_stream(b"abcd", b"efgh", stream_bytes=3).stream_bytes == 8
    assert judge_stream(b"abcd", b"efgh", stream_bytes=99).stream_bytes == 99


def test_evidence_is_immutable() -> None:
    """Evidence can be shared between rooms."""
    with pytest.raises(AttributeError):
        judge(b"x").verdict = "opaque"  # type: ignore[misc]


# The randomness test.


@pytest.mark.parametrize("n", [8, 16, 32, 64, 100, 256, 512, 1400, 4096, 6144])
def test_p_random_never_claims_too_much(n: int) -> None:
    """P(p <= alpha) <= alpha for random bytes of every length, up to 4 sigma."""
    repeats = 8000 if n <= 512 else 3000
    data = random_bytes(n * repeats, seed=n)
    p = np.array([judge(data[i * n : (i + 1) * n]).p_random for i in range(repeats)])
    for alpha in (0.05, 0.01, 0.001):
        error = math.sqrt(alpha * (1 - alpha) / repeats)
        assert (p <= alpha).mean() <= alpha + 4 * error, alpha
    if n >= 256:
        assert (p <= 0.05).mean() >= 0.8 * 0.05 - 4 * math.sqrt(0.0475 / repeats)


@pytest.mark.parametrize("n", [64, 100, 256, 1400, 4096])
def test_random_bytes_are_opaque(n: int) -> None:
    """About one random buffer in a thousand is missed, as documented."""
    verdicts = [judge(random_bytes(n, seed=s)).verdict for s in range(300)]
    assert verdicts.count("opaque") >= 300 * (1 - OPAQUE_P) - 4


@pytest.mark.parametrize("n", [64, 100, 256, 1400, 4096])
@pytest.mark.parametrize("make", [prose, table])
def test_text_and_records_are_never_opaque(n: int, make) -> None:
    """The test has power from OPAQUE_BELOW bytes on."""
    for seed in range(100):
        found = judge(make(n, seed))
        assert found.verdict in ("text", "structured"), seed
        assert found.p_random < 1e-6


@pytest.mark.parametrize("data", [
    bytes(range(256)) * 4,
    bytes(range(64)),
    b"abcdefghijklmnopqrstuvwabcdefghi" * 4,
    b"".join(i.to_bytes(2) for i in range(700)),
], ids=["ramp", "short-ramp", "ping", "counter"])  # fmt: skip
def test_too_even_is_not_random(data: bytes) -> None:
    """Counters and fillings have even frequencies and are rejected all the same."""
    found = judge(data)
    assert found.p_random < 1e-6
    assert found.verdict in ("structured", "text", "encoded")
    assert not found.concealed


# Verdicts on what real encoders make.


def zipped(data: bytes) -> bytes:
    """Make a zip archive with one member."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", data)
    return out.getvalue()


@pytest.mark.parametrize(("name", "pack"), [
    ("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress), ("zip", zipped),
])  # fmt: skip
def test_magic_means_compressed(name: str, pack) -> None:
    """A container is known by its first bytes, at any length."""
    data = pack(prose(20_000))
    for n in (32, 512, 4096):
        found = judge(data[:n])
        assert (found.magic, found.verdict, found.concealed) == (
            name,
            "compressed",
            False,
        )


def test_compressed_without_magic_is_told_from_ciphertext_when_long() -> None:
    """Nearly random, but rejected: bzip2 from the middle of its output."""
    data = bz2.compress(prose(120_000))[100:][:16384]
    assert len(data) == 16384
    found = judge(data)
    assert (found.verdict, found.concealed, found.magic) == ("compressed", False, None)
    assert found.entropy > 7.5


@pytest.mark.parametrize("head", [
    b"Salted__", b"\x8c\x0d\x04\x09\x03\x0a", b"PK\x03\x04\x33\x00\x01\x00", b"LUKS\xba\xbe",
    b"age-encryption.org/v1\n",
])  # fmt: skip
def test_ciphertext_containers_are_concealed(head: bytes) -> None:
    """A format that holds ciphertext by definition needs no statistics."""
    found = judge(head + random_bytes(40))
    assert (found.verdict, found.concealed) == ("opaque", True)
    assert found.magic is not None


@pytest.mark.parametrize(("name", "encode"), [
    ("base64", base64.b64encode), ("base64", base64.urlsafe_b64encode),
    ("base64", base64.encodebytes), ("base32", base64.b32encode),
    ("hex", lambda b: b.hex().encode()), ("hex", lambda b: b.hex(":").upper().encode()),
    ("url", lambda b: quote_from_bytes(b, safe="").encode()),
])  # fmt: skip
def test_encodings_are_decoded_and_judged(name: str, encode) -> None:
    """Encoded ciphertext is concealed, encoded text is not."""
    for n in (200, 1500):
        found = judge(encode(random_bytes(n)))
        assert (found.verdict, found.encoding, found.concealed) == (
            "encoded",
            name,
            True,
        )
    if name != "url":
        found = judge(encode(prose(1500)))
        assert (found.verdict, found.encoding, found.concealed) == (
            "encoded",
            name,
            False,
        )


def test_base64_of_openssl_output() -> None:
    """``openssl enc -a`` is recognised from its first line."""
    found = judge(base64.encodebytes(b"Salted__" + random_bytes(40)))
    assert (found.verdict, found.concealed) == ("encoded", True)


@pytest.mark.parametrize("wrap", [
    lambda d: json.dumps({"id": 7, "name": "a b c", "data": d.decode()}).encode(),
    lambda d: b"id=7&user=x&data=" + d.replace(b"+", b"%2B").replace(b"/", b"%2F"),
    lambda d: b"--b\r\nContent-Disposition: form-data; name=f\r\n\r\n" + d + b"\r\n--b--",
    lambda d: b"EHLO a.b\r\nMAIL FROM:<a@b.c>\r\nDATA\r\nSubject: x\r\n\r\n" + d,
], ids=["json", "form", "multipart", "smtp"])  # fmt: skip
def test_encoded_runs_inside_text(wrap) -> None:
    """A long base64 run is decoded wherever text carries it."""
    found = judge(wrap(base64.b64encode(random_bytes(900))))
    assert (found.verdict, found.encoding, found.concealed) == (
        "encoded",
        "base64",
        True,
    )
    found = judge(wrap(base64.b64encode(prose(900))))
    assert not found.concealed


@pytest.mark.parametrize("text", [
    prose(3000),
    json.dumps([{"user": i, "path": f"/home/user/projects/readme{i}.txt"} for i in range(90)])
    .encode(),
    b"<html><body>" + b"<p class='x'>hello world</p>\n" * 60,
    ("Größe und Maß über Straße. " * 40).encode(),
    ("日本語のテキストはここにあります。" * 30).encode(),
], ids=["prose", "json", "html", "german", "japanese"])  # fmt: skip
def test_text_is_text(text: bytes) -> None:
    """Text is named, in ASCII and in UTF-8, and is never concealed."""
    found = judge(text)
    assert (found.verdict, found.concealed) == ("text", False)


# Carriers.


def tls_record(kind: int, data: bytes) -> bytes:
    """One TLS 1.2 record."""
    return struct.pack(">BHH", kind, 0x0303, len(data)) + data


HELLO = tls_record(22, b"\x01\x00\x00\xf8\x03\x03" + bytes(32) + b"\x00" * 214)


def test_tls_is_judged_by_what_its_records_hold() -> None:
    """Handshake and record headers do not spoil the verdict of the body."""
    stream = (
        HELLO
        + tls_record(20, b"\x01")
        + b"".join(tls_record(23, random_bytes(300, seed=i)) for i in range(12))
    )
    later = b"".join(
        tls_record(23, random_bytes(300, seed=100 + i))[:SLICE_BYTES] for i in range(32)
    )
    found = judge_stream(stream[:4096], later, stream_bytes=90_000)
    assert (found.handshake, found.verdict) == ("tls", "opaque")
    assert found.p_random < 1e-6 < OPAQUE_P < found.body_p_random


@pytest.mark.parametrize("before", [
    b"220 mail ESMTP Postfix\r\n250-STARTTLS\r\n220 Ready\r\n",
    b"220 FTP server\r\n234 AUTH TLS ok\r\n",
    b"CONNECT a.b:443 HTTP/1.1\r\nHost: a.b\r\n\r\n",
])  # fmt: skip
def test_tls_after_a_plaintext_dialogue(before: bytes) -> None:
    """STARTTLS and CONNECT: the dialogue is verified, the handshake is a fact."""
    found = judge(before + HELLO + tls_record(23, random_bytes(900)))
    assert (found.handshake, found.verdict) == ("tls", "opaque")
    assert found.protocol in ("smtp", "ftp", "http")


@pytest.mark.parametrize(("body", "verdict", "concealed", "magic"), [
    (random_bytes(900), "opaque", True, None),
    (b"Salted__" + random_bytes(900), "opaque", True, "openssl-salted"),
    (gzip.compress(prose(9000)), "compressed", False, "gzip"),
    (zipped(prose(9000)), "compressed", False, "zip"),
    (prose(900), "text", False, None),
    (base64.b64encode(random_bytes(900)), "encoded", True, None),
    (json.dumps({"d": base64.b64encode(random_bytes(300)).decode()}).encode(), "encoded",
     True, None),
    (b"", "text", False, None),
])  # fmt: skip
@pytest.mark.parametrize("chunked", [False, True])
def test_http_bodies(
    body: bytes, verdict: str, concealed: bool, magic: str | None, chunked: bool
) -> None:
    """Headers apart from bodies; chunk sizes are no part of a body."""
    head = b"POST /upload HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x/1\r\n"
    if chunked:
        parts = [body[i : i + 100] for i in range(0, len(body), 100)]
        framed = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"
        stream = head + b"Transfer-Encoding: chunked\r\n\r\n" + framed
    else:
        stream = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    found = judge(stream)
    assert found.protocol == "http"
    assert (found.verdict, found.concealed, found.magic) == (verdict, concealed, magic)


def test_http_requests_without_body_are_text() -> None:
    """Pipelined requests are read one after the other."""
    get = (
        b"GET /a HTTP/1.1\r\nHost: a.example\r\nCookie: " + b"k=v; " * 20 + b"\r\n\r\n"
    )
    found = judge(get * 12)
    assert (found.protocol, found.verdict) == ("http", "text")


@pytest.mark.parametrize(
    "preamble", [b"HELLO upload v1 file=report.docx\n", b"\x00\x01" * 60]
)
def test_preamble_before_ciphertext(preamble: bytes) -> None:
    """A banner does not hide what follows it."""
    found = judge_stream(
        preamble + random_bytes(4000), random_bytes(2048, 1), stream_bytes=10**6
    )
    assert (found.verdict, found.concealed) == ("opaque", True)


TEXTS = {
    "prose": prose(4000),
    "records": b"".join(
        b'{"id": %d, "name": "report", "ok": true}\n' % (i * 7919) for i in range(120)
    )[:4000],
    "table": b"".join(
        b"%d,alpha,%d.%02d,ok\r\n" % (i, i * 37 % 990, i % 100) for i in range(300)
    )[:4000],
    "cyrillic": ("Съешь же ещё этих мягких булок, да выпей чаю. " * 60).encode()[:4000],
}
PREAMBLES = (16, 64, 100, 200, 300, 350, 400, 500, 600, 800, 2000, 4000)


def kept(data: bytes) -> tuple[bytes, bytes]:
    """Head and slices of a stream in packets of 1,024 bytes."""
    slices = [data[at : at + SLICE_BYTES] for at in range(4096, len(data) - 64, 1024)]
    return data[:4096], b"".join(slices[:32])


@pytest.mark.parametrize("n", PREAMBLES)
@pytest.mark.parametrize("text", TEXTS)
def test_text_of_any_length_before_ciphertext_does_not_hide_it(
    text: str, n: int
) -> None:
    """What follows the text is judged, and told where it begins."""
    found = []
    for seed in range(4):
        for size in (8192, 30_000, 60_000):
            data = TEXTS[text][:n] + random_bytes(size, 1000 * n + seed)
            head, body = kept(data)
            found += [judge(data), judge_stream(head, body, stream_bytes=len(data))]
    # One ciphertext in a thousand fails the test, one in a hundred the trained odds.
    opaque = [x for x in found if (x.verdict, x.concealed) == ("opaque", True)]
    assert len(opaque) >= len(found) - 3
    # Less than a window of text that is not ASCII is too short to be seen.
    near = 64 if text == "cyrillic" else 16
    assert sum(abs(x.opaque_from - n) <= near for x in opaque) >= len(opaque) - 2


@pytest.mark.parametrize("n", [64, 300, 600, 2000])
@pytest.mark.parametrize("kind", ["raw", "zlib", "gzip"])
def test_text_before_compressed_data_makes_it_no_ciphertext(kind: str, n: int) -> None:
    """Compressed data have behind a text the chances to pass that they have alone."""
    alone = behind = 0
    for seed in range(12):
        source = prose(60_000, seed)
        packed = {
            "raw": zlib.compress(source, 9)[2:],
            "zlib": zlib.compress(source),
            "gzip": gzip.compress(source, mtime=seed),
        }[kind]
        for size in (4096, 8192, 20_000):
            alone += judge(packed[:size]).concealed
            behind += judge(TEXTS["prose"][:n] + packed[:size]).concealed
    assert behind <= alone + 1


@pytest.mark.parametrize("given", [5, None, [1], "text", 1.5])
def test_what_is_no_bytes_is_one_clear_error(given: object) -> None:
    """The error names the type that was given and the one expected."""
    with pytest.raises(TypeError, match=f"{type(given).__name__}.*bytes-like"):
        judge(given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"{type(given).__name__}.*bytes-like"):
        judge_stream(b"", given)  # type: ignore[arg-type]


def test_long_dialogue_before_ciphertext() -> None:
    """Later slices decide when they stand for most of the stream."""
    later = random_bytes(2048)
    assert judge_stream(table(4096), later, stream_bytes=10**6).verdict == "opaque"
    assert judge_stream(table(4096), later, stream_bytes=6144).verdict == "structured"


@pytest.mark.parametrize("header", [4, 8, 16])
def test_headers_of_tunnel_packets_are_set_aside(header: int) -> None:
    """A session id and a counter in front of each packet are no structure of the data."""
    rng = np.random.default_rng(header)
    fixed = rng.bytes(header - 2)
    packets = [
        fixed + i.to_bytes(2) + rng.bytes(int(rng.integers(300, 1200)))
        for i in range(60)
    ]
    head = b"".join(packets)[:4096]
    body = b"".join(p[:SLICE_BYTES] for p in packets[8:40])
    sizes = []
    for packet in packets:
        sizes.append(min(len(packet), len(head) - sum(sizes)))
        if sum(sizes) == len(head):
            break
    found = judge_stream(head, body, stream_bytes=60_000, protocol=17, packets=sizes)
    assert found.verdict == "opaque"
    assert found.body_p_random > 1e-12


def test_ecb_repeats_do_not_hide_ciphertext() -> None:
    """Equal plaintext blocks make equal ciphertext blocks, the rest stays random."""
    blocks = [random_bytes(8, seed=i) for i in range(38)] * 2
    data = b"".join(blocks[:48])
    assert judge(data).p_random < OPAQUE_P
    assert (judge(data).verdict, judge(data).concealed) == ("opaque", True)


# The randomness table.


@pytest.mark.parametrize("damage", ["missing", "short", "text", "nan"])
def test_a_damaged_table_of_quantiles_is_one_clear_error(
    damage: str, tmp_path, monkeypatch
) -> None:
    """The installation is at fault, and the error says so."""
    from exfilml.exceptions import ModelFileError
    from exfilml.payload import _randomness

    good = np.array(_randomness.quantiles())
    (tmp_path / "data").mkdir()
    target = tmp_path / "data" / _randomness.NAME
    if damage == "text":
        target.write_text("no array")
    elif damage != "missing":
        bad = good[:, :-1] if damage == "short" else np.full_like(good, np.nan)
        np.savez(target, null=bad)
    monkeypatch.setattr(_randomness.importlib.resources, "files", lambda _: tmp_path)
    with pytest.raises(ModelFileError, match=r"randomness\.npz.*Install exfilml again"):
        _randomness.quantiles.__wrapped__()


def test_the_table_is_on_the_safe_side_of_its_order() -> None:
    """Quantiles rise with the level, so that a p-value falls with its score."""
    from exfilml.payload import _kernel, _randomness

    z = _randomness.quantiles()[:, _kernel.NULL_Z :]
    assert (np.diff(z, axis=1) >= 0).all()


@pytest.mark.parametrize("n", [1, 2, 3, 24, 64, 128, 255, 256, 300, 1000, 6144])
def test_what_is_known_of_lengths_beforehand_changes_no_p_value(n: int) -> None:
    """Nor does the short way to tell what fails by far; for each kind of bytes."""
    from exfilml.payload import _kernel, _randomness

    null = _randomness.null()
    none = null._replace(lengths=np.zeros((0, _kernel.KNOWN_COLUMNS)))
    kinds = [random_bytes(n, seed) for seed in range(40)]
    kinds += [bytes(n), b"GET /a HTTP/1.1\r\n" * n, bytes(range(256)) * n]
    # From random bytes to none, so that all scores and p-values are met.
    kinds += [bytes(k) + random_bytes(n, k) for k in range(0, n, 1 + n // 50)]
    for data in kinds:
        counts, deltas = np.zeros(256, np.int32), np.zeros(256, np.int32)
        view = np.frombuffer(data, np.uint8)
        _kernel.tally(view, 0, n, counts, deltas)
        entropy = _kernel.entropy_of(counts, n)
        p = _kernel.p_uniform(counts, deltas, n, entropy, null)
        assert p == _kernel.p_uniform(counts, deltas, n, entropy, none)
        assert _kernel.fails_by_far(counts, deltas, n, null) == (p < 1e-6)


# Facts.


def dns_query(name: bytes) -> bytes:
    """Make a query for the address of `name`."""
    labels = b"".join(bytes([len(x)]) + x for x in name.split(b"."))
    return b"\x12\x34\x01\x00\x00\x01" + bytes(6) + labels + b"\x00\x00\x01\x00\x01"


def test_names_that_hide_nothing_are_structure_for_sure() -> None:
    """The verdict of a DNS message is not left over from its decoded labels."""
    for name in (b"www.example.com", b"0123456789abcdef" * 3 + b".cdn.example.net"):
        found = judge_stream(dns_query(name), protocol=17, packets=[17])
        assert (found.verdict, found.verdict_probability) == ("structured", 1.0)
        assert (found.encoding, found.concealed) == (None, False)
        assert math.isnan(found.opaque_from)


@pytest.mark.parametrize(("data", "datagram", "handshake", "protocol"), [
    (HELLO, False, "tls", None),
    (b"SSH-2.0-OpenSSH_9.9\r\n", False, "ssh", None),
    (b"\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x50" + bytes(80), True, "dtls", None),
    (b"\xc3\x00\x00\x00\x01\x08" + bytes(60), True, "quic", None),
    (b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12), True, "stun", None),
    (b"\x04\x00\x00\x00" + b"abcd" + bytes(8) + bytes(32), True, "wireguard", None),
    (b"\x38\x8f\xdd\x2b\x9e\x41\xd8\xab\xea" + bytes(5), True, "openvpn", None),
    (b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00", False,
     "rdp", None),
    (dns_query(b"www.example.com"), True, None, "dns"),
    (b"\x00\x21" + dns_query(b"www.example.com"), False, None, "dns"),
    (b"\x23\x02\x06\xec" + bytes(44), True, None, "ntp"),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", False, None, "http"),
    (b"EHLO client.example\r\n", False, None, "smtp"),
    (b"USER bob\r\nPASS x\r\nTYPE I\r\nPASV\r\n", False, None, "ftp"),
    (b"USER bob\r\nPASS x\r\nSTAT\r\n", False, None, "pop3"),
    (b"* OK IMAP4rev1 ready\r\n", False, None, "imap"),
    (b"INVITE sip:a@b SIP/2.0\r\n", True, None, "sip"),
    (b"220 ready when you are\r\n", False, None, None),
    (b"\x30\x26\x02\x01\x01\x04\x06public" + bytes(27), True, None, "snmp"),
])  # fmt: skip
def test_facts(
    data: bytes, datagram: bool, handshake: str | None, protocol: str | None
) -> None:
    """Handshakes and grammars are named by structure."""
    found = judge_stream(data, protocol=17 if datagram else 6)
    assert (found.handshake, found.protocol) == (handshake, protocol)


def hello(rest: bytes) -> bytes:
    """Make a TLS client hello that fills its record, and what follows."""
    return b"\x16\x03\x01\x00\x30\x01\x00\x00\x2c\x03\x03" + bytes(42) + rest


def test_many_directions_are_judged_as_each_alone() -> None:
    """Neither what stands beside a direction nor how many there are matters."""
    secret, text = random_bytes(6000), prose(4096)
    query, other = dns_query(b"www.Example.com"), dns_query(b"mail.example.com")
    answer = bytearray(query + b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\6\4mail\xc0\x10")
    answer[2], answer[7] = 0x80, 1
    tunnel = dns_query(secret[:30].hex().encode() + b".example.com")
    record = b"\x17\x03\x03\x0f\xa0"
    directions = [
        (b"", b"", 0, 6, ()),
        (b"", b"", 900, 17, (0,)),
        (query, b"", len(query), 17, (len(query),)),
        (query + query.swapcase(), b"", 4000, 17, (len(query), len(query))),
        (query + other, b"", len(query + other), 17, (len(query), len(other))),
        (query + other, b"", len(query + other), 17, ()),
        (query, other.ljust(64, b"\0"), 5000, 17, (len(query),)),
        (query[:25], b"", len(query), 17, (25,)),
        (bytes(answer), b"", len(answer), 17, (len(answer),)),
        (bytes(answer) * 2, b"", 2 * len(answer), 17, (len(answer),) * 2),
        (tunnel, b"", len(tunnel), 17, (len(tunnel),)),
        (len(query).to_bytes(2) + query, b"", 2 + len(query), 6, (2 + len(query),)),
        (hello(record + secret[:4000]), b"", 4090, 6, (100, 3990)),
        (hello(record + secret[:3000]), secret[3000:5048], 10**6, 6, (1448,) * 3),
        (hello(b"")[:7], b"", 7, 6, (7,)),
        (b"\x16\x03\x01\x00ftyp" + secret[:90], b"", 98, 6, (98,)),
        (secret[:4096], b"", 4096, 6, (1448,) * 3),
        (secret[:40], b"", 40, 17, (40,)),
        (text, b"", 4096, 6, (1448,) * 3),
        (base64.b64encode(secret)[:4096], b"", 10**5, 6, ()),
        (zlib.compress(text), b"", 2000, 6, (2000,)),
        (b"POST /a HTTP/1.1\r\nContent-Length: 900\r\n\r\n" + secret, b"", 999, 6, ()),
        (b"EHLO a.example\r\n", b"", 16, 6, (16,)),
        (secret[:56] * 3, b"", 168, 1, (56,) * 3),
        (b"", b"", 0, 58, ()),
    ]
    alone = [
        judge_stream(head, body, stream_bytes=size, protocol=protocol, packets=packets)
        for head, body, size, protocol, packets in directions
    ]
    assert len({(e.verdict, e.protocol, e.handshake, e.magic) for e in alone}) > 9
    for order in (directions, directions[::-1]):
        sides = np.zeros((len(order), SIDE_COLUMNS), np.int64)
        at = begin = 0
        for row, (head, body, size, protocol, packets) in zip(
            sides, order, strict=True
        ):
            total = max(size, len(head) + len(body))
            row[:7] = at, len(head), len(body), begin, len(packets), total, protocol
            at += len(head) + len(body)
            begin += len(packets)
        data = b"".join(head + body for head, body, *_ in order)
        sizes = np.array([s for *_, packets in order for s in packets])
        samples = Samples(np.frombuffer(data, np.uint8), sizes, sides, 64)
        columns = judge_many(samples)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        expected = alone if order is directions else alone[::-1]
        for row, one in zip(rows, expected, strict=True):
            assert repr(row) == repr(tuple(one))


@pytest.mark.parametrize("datagram", [False, True])
def test_random_bytes_show_no_fact(datagram: bool) -> None:
    """What random bytes pass cannot verify an application."""
    data = random_bytes(96 * 20_000, seed=5)
    for i in range(0, len(data), 96):
        found = judge_stream(data[i : i + 96], protocol=17 if datagram else 6)
        facts = (found.handshake, found.magic, found.protocol, found.encoding)
        assert facts == (None, None, None, None), i


def test_raw_ciphertext_is_not_the_protocol_of_its_port() -> None:
    """Nothing is verified from a port: opaque bytes over UDP stay unnamed."""
    found = judge_stream(random_bytes(480), protocol=17)
    assert (found.verdict, found.handshake, found.protocol) == ("opaque", None, None)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("cipher", ["aes-256-cbc", "aes-128-ctr", "chacha20"])
def test_real_ciphertext(cipher: str) -> None:
    """What ``openssl enc`` writes is opaque, with and without its header."""
    command = ["openssl", "enc", f"-{cipher}", "-pbkdf2", "-iter", "1", "-k", "shared"]
    done = subprocess.run(command, input=prose(60_000), capture_output=True, check=True)
    assert judge(done.stdout[:4096]).magic == "openssl-salted"
    p = []
    for at in range(16, 55_000, 512):
        found = judge(done.stdout[at : at + 512])
        assert found.magic is None
        p.append(found.p_random)
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 4 * math.sqrt(0.0475 / len(p))


def test_works_without_a_writable_cache(monkeypatch) -> None:
    """Numba refuses to cache where nothing can be written; the room still compiles."""
    import numba

    from exfilml.payload import _kernel

    real = numba.njit

    def refuse(**options: object):
        if options.get("cache"):
            message = "cannot cache function 'f': no locator available for file 'x'"
            raise RuntimeError(message)
        return real(**options)

    monkeypatch.setattr(numba, "njit", refuse)
    double = _kernel.compiled(lambda x: 2 * x)
    assert double(21) == 42


def test_importing_the_package_does_not_import_numba() -> None:
    """The room is paid for when it is used."""
    code = "import sys, exfilml; print('numba' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == "False"
