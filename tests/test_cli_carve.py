"""`exfilml carve` and `exfilml decrypt`: from a ranking to the plaintext."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import captures
import dpkt
import pandas as pd
import pytest
from captures import START
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from test_carve import records
from test_carve_streams import segment, write

from exfilml import cli

ROOT = Path(__file__).parent.parent
REAL = os.environ.get("EXFILML_REAL_DATA", "")
KEY = bytes(range(16))
NONCE = b"\x9aZ-nonce-of-16\xfe."[:16]
SECRET = b"name;iban;amount\n" + b"".join(
    b"Customer %d;DE%020d;%d\n" % (n, n * 7919, n * n % 977) for n in range(1500)
)


def aes_ctr(data):
    cipher = Cipher(algorithms.AES(KEY), modes.CTR(NONCE)).encryptor()
    return NONCE + cipher.update(data)


@pytest.fixture
def run(capfd):
    """Run the command line; give exit status, standard output and error."""

    def run(*arguments):
        status = cli.run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="module")
def stolen(tmp_path_factory):
    """A capture of an upload under AES-CTR, in disorder, among other traffic."""
    folder = tmp_path_factory.mktemp("stolen")
    data = aes_ctr(SECRET)
    parts = [segment(1 + at, data[at : at + 1400]) for at in range(0, len(data), 1400)]
    parts[3], parts[4] = parts[4], parts[3]
    parts.insert(9, parts[7])
    frames = [segment(0, flags=2), segment(500, flags=18, back=True), *parts]
    frames.append(segment(501, b"thanks\x1b[2J\n", back=True))
    noise = [frame for _, frame in captures.traffic(flows=40, packets=400)]
    return write(folder / "day.pcap", [*noise[:200], *frames, *noise[200:]])


@pytest.fixture(scope="module")
def case(stolen):
    """The case's name, from a ranking."""
    out = stolen.with_suffix(".csv")
    assert cli.run(["rank", str(stolen), "-q", "--out", str(out)]) == 0
    cases = pd.read_csv(out)
    (name,) = cases.loc[cases["dst_port"] == 9999, "case"]
    return str(name)


def test_a_case_is_carved_shown_and_decrypted(stolen, case, run, tmp_path):
    out, payload = tmp_path / "case.pcap", tmp_path / "payload"
    status, text, err = run(
        "carve", case, stolen, "--out", out, "--payload", payload, "-q", "--hex", 32
    )
    assert status == 0
    assert f"written to {out}" in err
    assert "2 files written to" in err
    mine = [f for _, f in records(stolen) if b"\x27\x0f" in f[34:38]]
    assert [f for _, f in records(out)] == mine
    size = len(SECRET) + 16
    assert f"10.0.0.1:40000 → 198.51.100.7:9999 tcp\n  {size:,} bytes; no gaps" in text
    assert "opaque from byte 0 on" in text
    assert f"00000000  {NONCE[:8].hex(' ')}" in text
    assert "\x1b" not in text
    assert "|thanks.[2J.|" in text
    assert text.startswith("tshark -Y 'tcp and not icmp")
    assert "\ntcpdump 'tcp and ((src host 10.0.0.1 and" in text
    up = payload / "00001_10.0.0.1-40000_to_198.51.100.7-9999_tcp.bin"
    assert up.read_bytes() == aes_ctr(SECRET)
    plain = tmp_path / "plain.csv"
    for source in (up, out):
        status, text, err = run(
            "decrypt",
            source,
            "--key",
            "wrong",
            "--key",
            KEY.hex(),
            "--out",
            plain,
            "-q",
        )
        assert status == 0
        assert "AES-CTR with the key 000102030405060708090a0b0c0d0e0f (hex)" in text
        assert "IV at the head from byte 0 on gives text" in text
        assert "a false hit among them has a probability of" in text
        assert "|name;iban;amount|" in text
        assert plain.read_bytes() == SECRET
        plain.unlink()


def test_flows_can_stand_for_the_captures(stolen, case, run, tmp_path):
    flows = tmp_path / "flows.parquet"
    assert run("flows", stolen, "-q", "--out", flows)[0] == 0
    status, text, _ = run("carve", case, stolen, "--flows", flows, "--format", "json")
    assert status == 0
    rows = json.loads(text)
    assert [row["way"] for row in rows] == ["src", "dst"]
    assert rows[0]["verdict"] == "opaque"
    assert rows[0]["repeated"] == 1400
    assert (rows[1]["head_text"], rows[1]["gaps"]) == (r"thanks\x1b[2J\x0a", 0)
    status, text, err = run("carve", "all", stolen, "--flows", flows, "--top", 3)
    assert status == 0
    assert text.count(" → ") == 3
    assert "3 of " in err


def test_what_cannot_be_carved_is_one_line(stolen, case, run, tmp_path):
    later = tmp_path / "later.pcap"
    with later.open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        for _, frame in records(stolen):
            writer.writepkt(frame, ts=START + 90_000)
    flows = tmp_path / "flows.parquet"
    assert run("flows", stolen, "-q", "--out", flows)[0] == 0
    empty = captures.write_pcap(tmp_path / "empty.pcap", [])
    text = tmp_path / "text.pcap"
    text.write_text("no capture")
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(stolen.read_bytes()[:-7])
    same = ("--flows", flows)
    for arguments, said in (
        (("nonsense", stolen), "case 'nonsense': is none of"),
        ((case, later, *same), "It reaches from 2023-11-15 23:13:20"),
        ((case, empty, *same), "holds no packets"),
        ((case, text, *same), "is no capture"),
        ((case, tmp_path / "none.pcap", *same), "no such file"),
        ((case, stolen, "--out", stolen), "is another file of this command"),
        ((case, stolen, "--out", tmp_path / "no" / "a.pcap"), "does not exist"),
        ((case, stolen, "--payload", stolen), "is no folder"),
        ((case, stolen, *same, "--slack", "-1"), "expected seconds, 0 or more"),
    ):
        status, out, err = run("carve", *arguments, "-q")
        lines = [line for line in err.splitlines() if not line.startswith("no --model")]
        assert (status, out, len(lines)) == (2, "", 1), err
        assert said in lines[0]
    status, _, err = run("carve", case, cut, *same, "-q")
    assert status == 0
    assert "warning: " in err
    assert "damaged capture: it ends within a record" in err


def test_gaps_and_cut_packets_are_shown(run, tmp_path):
    frames = [segment(1, b"x" * 50), segment(61, b"y" * 50, snap=20)]
    status, text, err = run("carve", "all", write(tmp_path / "a.pcap", frames), "-q")
    assert status == 0
    assert "110 bytes; 40 bytes missing in 2 gaps, 30 of them cut off by the" in text
    assert "capture: 50-60, 80-110; its beginning was not captured" in text
    assert "1 packets are cut off by the capture" in err


def test_no_key_fits_is_said_with_status_1(stolen, run, tmp_path):
    payload = tmp_path / "up.bin"
    payload.write_bytes(aes_ctr(SECRET))
    status, out, err = run(
        "decrypt", payload, "--key", "guess", "-q", "--out", tmp_path / "x"
    )
    assert status == 1
    assert "No key fits: " in out
    tried = int(out.split("No key fits: ")[1].split(" attempts")[0].replace(",", ""))
    assert f"no key fits: {tried:,} attempts on 1 pieces of payload" in err
    assert tried > 1000
    assert not (tmp_path / "x").exists()


def test_what_is_not_encrypted_is_told(run, tmp_path):
    payload = tmp_path / "up.bin"
    for data, said in (
        (gzip.compress(SECRET), "It is compressed (gzip): compressed, not encrypted."),
        (SECRET, "It is text."),
        (b"".join(b"%02x" % b for b in captures.noise(400)), "hex. Decode it first."),
    ):
        payload.write_bytes(data)
        status, out, _ = run(
            "decrypt",
            payload,
            "--key",
            "hex:00112233445566778899aabbccddeeff",
            "--offset",
            0,
        )
        assert status == 1
        assert "The data do not look encrypted" in out
        assert said in out


def test_keys_come_in_files_and_xor_needs_none(run, tmp_path):
    payload, keys = tmp_path / "up.bin", tmp_path / "keys"
    payload.write_bytes(aes_ctr(SECRET))
    for content in (
        KEY,
        b"wrong\n" + KEY.hex().encode() + b"\n",
        b"hex:" + KEY.hex().encode(),
    ):
        keys.write_bytes(content)
        status, out, _ = run(
            "decrypt", payload, "--key-file", keys, "--offset", 0, "-q"
        )
        assert status == 0
        assert "AES-CTR" in out
    payload.write_bytes(aes_ctr(SECRET)[16:])
    given = ("--key", f"hex:{KEY.hex()}", "--iv", NONCE.hex())
    status, out, _ = run("decrypt", payload, *given, "--offset", 0, "-q")
    assert status == 0
    assert "(given)" in out
    key = b"\x13\xa7K\xee\x01"
    payload.write_bytes(bytes(b ^ key[n % 5] for n, b in enumerate(SECRET)))
    plain = tmp_path / "plain"
    status, out, _ = run("decrypt", payload, "--out", plain)
    assert status == 0
    assert f"XOR with the key {key.hex()} (recovered without a key)" in out
    assert plain.read_bytes() == SECRET


def test_what_cannot_be_decrypted_is_one_line(run, tmp_path):
    empty, short, keys = tmp_path / "empty", tmp_path / "short", tmp_path / "keys"
    empty.write_bytes(b"")
    short.write_bytes(b"fifteen bytes..")
    keys.write_bytes(b"")
    silent = write(tmp_path / "silent.pcap", [segment(1, flags=2)])
    long = tmp_path / "long"
    long.write_bytes(bytes(range(64)))
    for arguments, said in (
        ((empty, "--key", "a"), "the file is empty"),
        ((tmp_path / "none", "--key", "a"), "no such file"),
        ((long, "case", "--key", "a"), "a case needs a capture"),
        ((long, "--key", "hex:zz"), "expected hex of"),
        ((long, "--iv", "zz"), "--iv: non-hexadecimal"),
        ((long, "--key-file", keys), "expected keys, one a line"),
        ((long, "--key-file", tmp_path / "none"), "cannot be read"),
        ((long, "--key", "a", "--out", long), "is another file of this command"),
        ((silent, "--key", "a"), "carried anything"),
        (
            (captures.write_pcap(tmp_path / "a.pcap", []), "--key", "a"),
            "holds no flows",
        ),
    ):
        status, out, err = run("decrypt", *arguments, "-q")
        errors = [line for line in err.splitlines() if not line.startswith("warning")]
        assert (status, out, len(errors)) == (2, "", 1), err
        assert said in errors[0]
    status, out, _ = run("decrypt", short, "--key", "a")
    assert status == 1
    assert "15 bytes, fewer than 16" in out


def test_each_direction_of_a_capture_is_tried_up_to_a_gap(run, tmp_path):
    data = aes_ctr(SECRET)
    parts = [segment(1 + at, data[at : at + 1000]) for at in range(0, len(data), 1000)]
    del parts[8]
    frames = [segment(0, flags=2), *parts, segment(1, captures.noise(500), back=True)]
    capture = write(tmp_path / "a.pcap", frames)
    status, out, err = run("decrypt", capture, "--key", KEY.hex(), "--offset", 0, "-q")
    assert status == 0
    assert f"tcp, bytes 0 to 8,000 of {len(data):,}: AES-CTR" in out
    assert "198.51.100.7:9999 → 10.0.0.1:40000 tcp: No key fits" in out
    status, out, err = run("decrypt", capture, "--key", KEY.hex(), "--top", 1, "-q")
    assert "1 of 2 directions are tried" in err


def test_datagrams_may_have_an_iv_each(run, tmp_path):
    bodies = [aes_ctr(SECRET[at : at + 900]) for at in range(0, 5000, 900)]
    bodies.insert(0, captures.noise(40))
    key, plain = f"hex:{KEY.hex()}", tmp_path / "plain"
    capture = captures.write_pcap(tmp_path / "a.pcap", captures.udp_flow(bodies))
    status, out, _ = run(
        "decrypt", capture, "--key", key, "--offset", 0, "-q", "--out", plain
    )
    assert status == 0
    assert "udp: No key fits" in out
    assert "udp, its longest message: AES-CTR" in out
    assert plain.read_bytes() == SECRET[:900]


@pytest.mark.skipif(not REAL, reason="EXFILML_REAL_DATA is not set")
@pytest.mark.parametrize(
    "name",
    [
        "icmp-file-transfer-sample-text-file-448-bytes.pcap",
        "pyexfil-sample-text-file-448-bytes.pcap",
        pytest.param(
            "icmp-file-transfer-sample-text-file-2mb.pcap", marks=pytest.mark.slow
        ),
    ],
)
def test_a_real_transfer_by_icmp_is_what_its_echo_carried(run, tmp_path, name):
    """Each way, the data of echo requests and replies, one behind the other."""
    capture = Path(REAL, "pcap/attack/icmp-exfil-sithari", name)
    folder = tmp_path / "payload"
    status, _, _ = run("carve", "all", capture, "--payload", folder, "-q")
    assert status == 0
    expected: dict[tuple[bytes, bytes], bytes] = {}
    with capture.open("rb") as file:
        opened = dpkt.pcapng.Reader if file.read(4) == b"\n\r\r\n" else dpkt.pcap.Reader
        file.seek(0)
        for _, frame in opened(file):
            packet = dpkt.ethernet.Ethernet(frame).data
            if not isinstance(packet, dpkt.ip.IP) or packet.p != 1:
                continue
            raw = bytes(packet.data)
            if raw[0] in {0, 8}:
                ends = (packet.src, packet.dst)
                expected[ends] = expected.get(ends, b"") + raw[8:]
    found = pd.read_csv(folder / "streams.csv")
    echo = found[found["protocol"] == "icmp"]
    files = sorted((folder / name).read_bytes() for name in echo["file"])
    assert files == sorted(data for data in expected.values() if data)
    assert sum(map(len, files)) > 400
