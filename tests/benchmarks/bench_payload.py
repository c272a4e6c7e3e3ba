"""Time of a judgement, and how often fragments are told from ciphertext.

Run as ``python tests/benchmarks/bench_payload.py``. Everything is made here by
real encoders and measured in one run; times are also given as a ratio to the
plainest thing one could do instead, numpy's histogram and entropy.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import shutil
import subprocess
import sys
import sysconfig
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exfilml.payload import OPAQUE_P, judge, judge_stream, warm_up

if TYPE_CHECKING:
    from collections.abc import Callable

FRAGMENTS = 200
SIZES = (64, 256, 512, 1024, 4096, 8192)


def say(text: str) -> None:
    """Write one line."""
    sys.stdout.write(text + "\n")


def source_text(limit: int = 8_000_000) -> bytes:
    """Real text: the standard library's own source."""
    parts: list[bytes] = []
    size = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        parts.append(path.read_bytes())
        size += len(parts[-1])
        if size >= limit:
            break
    return b"".join(parts)


def jpeg(seed: int) -> bytes:
    """Encode smooth noise as a photograph-like JPEG; empty without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        return b""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((1024, 768)).save(out, "JPEG", quality=88)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    """Zstandard through pyarrow; empty without it."""
    try:
        import pyarrow as pa
    except ImportError:
        return b""
    packed = pa.Codec("zstd").compress(data)
    return bytes(packed)


def ciphertext(size: int) -> bytes:
    """AES-256-CTR by OpenSSL, else seeded random bytes."""
    if shutil.which("openssl") is None:
        return np.random.default_rng(0).bytes(size)
    command = ["openssl", "enc", "-aes-256-ctr", "-pbkdf2", "-iter", "1", "-k", "bench"]
    done = subprocess.run(command, input=bytes(size), capture_output=True, check=True)
    return done.stdout[16:]


def corpora() -> dict[str, bytes]:
    """Long buffers to cut fragments from, beyond headers."""
    text = source_text()
    rng = np.random.default_rng(1)
    numbers = np.cumsum(rng.normal(size=300_000)).astype(np.float32)
    packed = {
        "zlib": zlib.compress(text),
        "gzip -9": gzip.compress(text, 9),
        "bzip2": bz2.compress(text),
        "xz": lzma.compress(text[:3_000_000]),
        "zstd": zstd(text),
        "zlib of floats": zlib.compress(numbers.tobytes()),
        "jpeg": b"".join(jpeg(i)[700:] for i in range(6)),
        "text": text,
        "json": json.dumps([{"i": i, "v": float(v)} for i, v in enumerate(numbers[:40_000])])
        .encode(),
        "base64 of text": base64.b64encode(text[:500_000]),
        "records": np.rec.fromarrays(
            [np.arange(60_000), numbers[:60_000], rng.integers(0, 99, 60_000)]
        ).tobytes(),
        "machine code": Path(sys.executable).resolve().read_bytes()[100_000:],
    }  # fmt: skip
    return {name: data for name, data in packed.items() if len(data) > 20_000}


def fragments(data: bytes, size: int, seed: int) -> list[bytes]:
    """Cut fragments of one size at random offsets."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(200, max(201, len(data) - size), FRAGMENTS)
    return [data[s : s + size] for s in starts.tolist()]


def accuracies() -> None:
    """Print the share of fragments called opaque or concealed, by kind and size."""
    secret = ciphertext(4_000_000)
    kinds = {"ciphertext": secret, "base64 of ciphertext": base64.b64encode(secret)}
    kinds |= corpora()
    say("share called concealed, % (ciphertext should be 100, all else 0)")
    say(f"{'':22s}" + "".join(f"{size:>8d}" for size in SIZES))
    share: dict[str, list[float]] = {}
    for name, data in kinds.items():
        share[name] = [
            float(np.mean([judge(f).concealed for f in fragments(data, size, size)]))
            for size in SIZES
        ]
        say(f"{name:22s}" + "".join(f"{100 * value:8.1f}" for value in share[name]))
    say(f"\nbalanced accuracy against ciphertext, % (verdict: p > {OPAQUE_P:g})")
    for name, values in share.items():
        if "ciphertext" in name:
            continue
        balanced = [
            50 * (c + 1 - v) for c, v in zip(share["ciphertext"], values, strict=True)
        ]
        say(f"{name:22s}" + "".join(f"{value:8.1f}" for value in balanced))


def per_call(run: Callable[[], object]) -> float:
    """Seconds per call, the best of several rounds."""
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(300):
            run()
        best = min(best, (time.perf_counter() - begin) / 300)
    return best


def plain_entropy(data: bytes) -> float:
    """Entropy as numpy users write it: the yardstick."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    share = counts[counts > 0] / len(data)
    return float(-(share * np.log2(share)).sum())


def timings() -> None:
    """Print microseconds a direction."""
    secret = ciphertext(100_000)
    text = source_text()
    tls = b"\x16\x03\x03\x00\x40\x01\x00\x00\x3c" + bytes(60)
    tls += b"\x17\x03\x03\x10\x00" + secret[:4000]
    cases = {
        "64 B ciphertext": (secret[:64], b""),
        "512 B ciphertext": (secret[:512], b""),
        "4 kB ciphertext": (secret[:4096], b""),
        "4 kB + 2 kB slices": (secret[:4096], secret[4096:6144]),
        "4 kB TLS + slices": (tls[:4096], secret[4096:6144]),
        "4 kB text": (text[:4096], b""),
        "4 kB base64": (base64.b64encode(secret)[:4096], b""),
        "4 kB deflate": (zlib.compress(text)[5000:9096], b""),
        "4 kB records": (np.arange(1024, dtype=np.uint32).tobytes(), b""),
    }
    say("\ntime of judge_stream            us   x numpy entropy    MB/s")
    for name, (head, body) in cases.items():
        used = per_call(lambda h=head, b=body: judge_stream(h, b, stream_bytes=10**6))  # type: ignore[misc]
        plain = per_call(lambda d=head + body: plain_entropy(d))  # type: ignore[misc]
        rate = len(head + body) / used / 1e6
        say(f"{name:26s}{used * 1e6:9.1f}{used / plain:13.2f}{rate:13.0f}")


if __name__ == "__main__":
    warm_up()
    timings()
    say("")
    accuracies()
