"""Time of the payload's statistics, of a judgement, and its share of extraction.

Run as ``python tests/benchmarks/bench_payload.py [CAPTURE]``. Everything is made here
by real encoders and measured in one run; times are also given as a ratio to the
plainest thing one could do instead, numpy's histogram and entropy. The share is that of
judging in the time of `read_flows`, and in the processor time of the meter alone, for a
capture: the lab's ``develop`` test days unless another is named. For that capture also
how many times the meter's processor time NFStream takes without any plugin, one meter,
with statistics, the processes that it starts included: a figure that holds on a busy
machine, too. What the verdicts are worth is printed
by ``bench_fragments.py``, ``bench_randomness.py`` and ``bench_verdicts.py``.
"""

from __future__ import annotations

import base64
import gzip
import os
import shutil
import sys
import sysconfig
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from nfstream import NFStreamer

from exfilml import read_flows
from exfilml.payload import _dns, judge_stream, warm_up
from exfilml.payload import _kernel as kernel
from exfilml.payload._randomness import null as of_random
from exfilml.sources import _engine
from exfilml.sources._job import Job
from exfilml.sources._meter import meter
from exfilml.sources._rows import SNAPSHOT

if TYPE_CHECKING:
    from collections.abc import Callable

LAB = Path(__file__).resolve().parents[2] / "datasets" / "lab" / "develop"
TARGET_MB = 300
TARGET_SHARE = 0.15
ROUNDS = 7
CALLS = 300


def ciphertext(size: int) -> bytes:
    """AES-256-CTR under a fixed key."""
    cipher = Cipher(algorithms.AES(bytes(range(32))), modes.CTR(bytes(16)))
    return cipher.encryptor().update(bytes(size))


def source_text(limit: int = 200_000) -> bytes:
    """Real text: the standard library's own source."""
    folder = Path(sysconfig.get_path("stdlib"))
    return b"".join(p.read_bytes() for p in sorted(folder.glob("a*.py")))[:limit]


def per_call(run: Callable[[], object]) -> float:
    """Seconds per call, the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(CALLS):
            run()
        best = min(best, (time.perf_counter() - begin) / CALLS)
    return best


def plain_entropy(data: bytes) -> float:
    """Entropy as numpy users write it: the yardstick."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    share = counts[counts > 0] / len(data)
    return float(-(share * np.log2(share)).sum())


def statistics() -> None:
    """Print the throughput of the compiled statistics alone."""
    secret = np.frombuffer(ciphertext(1 << 20), np.uint8)
    none = np.zeros(0, np.uint8)
    out = np.empty(kernel.N_RESULTS)
    print("statistics of one direction   MB/s")
    for size in (512, 1400, 4096, 65536):
        head, content = secret[:size], np.empty(size, np.uint8)
        used = per_call(
            lambda h=head, c=content: kernel.survey(
                h, none, 64, -1, 0, True, of_random(), c, out
            )
        )
        rate = size / used / 1e6
        met = ""
        if size == 4096:
            met = f"   target {TARGET_MB}: {'met' if rate >= TARGET_MB else 'missed'}"
        print(f"{size:>8,} B ciphertext{rate:14.0f}{met}")


def judgements() -> None:
    """Print microseconds a direction."""
    secret = ciphertext(100_000)
    text = source_text()
    tls = b"\x16\x03\x03\x00\x40\x01\x00\x00\x3c" + bytes(60)
    tls += b"\x17\x03\x03\x10\x00" + secret[:4000]
    key = (secret[:23] * 200)[:4096]
    xor = bytes(a ^ b for a, b in zip(text[:4096], key, strict=True))
    post = b"POST /in HTTP/1.1\r\nHost: a.example\r\nContent-Length: 90000\r\n\r\n"
    query = (
        b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x03www\x07example\x03com\0\0\1\0\1"
    )
    cases = {
        "40 B DNS query": (query, b"", 17),
        "64 B ciphertext": (secret[:64], b"", 6),
        "512 B ciphertext": (secret[:512], b"", 6),
        "4 kB ciphertext": (secret[:4096], b"", 6),
        "4 kB + 2 kB slices": (secret[:4096], secret[4096:6144], 6),
        "4 kB TLS + slices": (tls[:4096], secret[4096:6144], 6),
        "4 kB HTTP body + slices": ((post + secret)[:4096], secret[5000:7048], 6),
        "4 kB text": (text[:4096], b"", 6),
        "4 kB base64": (base64.b64encode(secret)[:4096], b"", 6),
        "4 kB deflate": (zlib.compress(text)[5000:9096], b"", 6),
        "4 kB records": (np.arange(1024, dtype=np.uint32).tobytes(), b"", 6),
        "4 kB XOR over text": (xor, b"", 6),
    }
    print("\ntime of judge_stream            us   x numpy entropy    MB/s")
    for name, (head, body, protocol) in cases.items():
        used = per_call(
            lambda h=head, b=body, p=protocol: judge_stream(
                h, b, stream_bytes=10**6, protocol=p, packets=[len(h)]
            )
        )
        plain = per_call(lambda d=head + body: plain_entropy(d))
        rate = len(head + body) / used / 1e6
        print(f"{name:26s}{used * 1e6:9.1f}{used / plain:13.2f}{rate:13.0f}")


def processor_time() -> float:
    """Seconds of this process and of those it has waited for."""
    return sum(os.times()[:4])


def share(capture: Path) -> None:
    """Print how much of the meter's time goes into judgements."""
    judge, add = _engine.judge, _engine._Flows.add
    reading = []
    for _ in range(3):
        begin = time.perf_counter()
        read_flows(capture, progress=False)
        reading.append(time.perf_counter() - begin)
    spent = made = 0.0
    flows = 0

    def timed(*samples: object) -> object:
        nonlocal spent, flows
        begin = time.thread_time()
        judged = judge(*samples)
        spent += time.thread_time() - begin
        flows += len(judged.echoed)
        return judged

    def making(*outbox: object) -> None:
        nonlocal made
        begin = time.thread_time()
        add(*outbox)
        made += time.thread_time() - begin

    shares, times, all_made, ratios = [], [], [], []
    _engine.judge, _engine._Flows.add = timed, making
    for _ in range(ROUNDS):
        spent, made, flows = 0.0, 0.0, 0
        # A capture is read once: names known from the round before would flatter.
        _dns.place.cache_clear()
        begin = processor_time()
        meter(Job(str(capture), None, 120, 1800, True, capture.name), lambda _: None)
        whole = processor_time() - begin
        begin = processor_time()
        for _ in NFStreamer(
            source=str(capture),
            n_meters=1,
            accounting_mode=1,
            statistical_analysis=True,
            snapshot_length=SNAPSHOT,
        ):
            pass
        ratios.append((processor_time() - begin) / whole)
        shares.append(spent / whole)
        times.append(spent)
        all_made.append(made / whole)
    _engine.judge, _engine._Flows.add = judge, add
    middle = ROUNDS // 2
    of_meter, of_all = (
        sorted(shares)[middle],
        sorted(times)[middle] / sorted(reading)[1],
    )
    print(
        f"\n{capture.name}: judging {flows:,} flows takes {spent / flows * 1e6:.0f} us a "
        f"flow.\n{of_all:.1%} of the time of read_flows, with the start of its worker; "
        f"target {TARGET_SHARE:.0%}: {'met' if of_all < TARGET_SHARE else 'missed'}\n"
        f"{of_meter:.1%} of the meter's own processor time, inside a running worker, "
        f"with rows {sorted(all_made)[middle]:.1%}; "
        f"target {TARGET_SHARE:.0%}: {'met' if of_meter < TARGET_SHARE else 'missed'}\n"
        f"NFStream alone takes {sorted(ratios)[middle]:.2f} times the meter's processor "
        "time."
    )


def main() -> None:
    """Print all three."""
    warm_up()
    statistics()
    judgements()
    if len(sys.argv) > 1:
        share(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "develop-test.pcap"
        with gzip.open(LAB / "test.pcap.gz") as packed, plain.open("wb") as target:
            shutil.copyfileobj(packed, target)
        share(plain)


if __name__ == "__main__":
    main()
