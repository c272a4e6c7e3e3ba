"""How often random bytes are rejected at each level: the promise of ``p_random``.

Run as ``python tests/benchmarks/bench_randomness.py [--share S]``. For each length the
share of random buffers with p <= alpha, divided by alpha: it should be at most 1, up to
simulation error (two standard errors are printed), and at least 0.8 from 256 B on.
The bytes are those of a seeded generator other than the one that the table of quantiles
was simulated with; below, real ciphertext of seven ciphers.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

try:
    from cryptography.hazmat.decrepit.ciphers import algorithms as old
except ImportError:
    old = algorithms

from exfilml.payload import _kernel as kernel
from exfilml.payload._randomness import null as of_random

ALPHAS = (0.05, 0.01, 1e-3, 1e-4)
LENGTHS = (
    *(16, 20, 24, 32, 48, 64, 100, 128, 200, 256, 300, 512, 1024, 1400, 2048),
    *(4096, 6144, 16384, 65536, 1048576),
)
MOST_TRIALS = 1_000_000
MOST_BYTES = 8_000_000_000
BLOCK = 1 << 24


@kernel.compiled
def p_values(data: np.ndarray, n: int, null: np.ndarray, out: np.ndarray) -> None:
    """p-value of each n bytes."""
    counts = np.zeros(256, np.int32)
    deltas = np.zeros(256, np.int32)
    for i in range(out.shape[0]):
        counts[:] = 0
        deltas[:] = 0
        kernel.tally(data, i * n, (i + 1) * n, counts, deltas)
        entropy = kernel.entropy_of(counts, n)
        out[i] = kernel.p_uniform(counts, deltas, n, entropy, null)


def judge_all(data: bytes, n: int) -> np.ndarray:
    """p-values of a buffer cut into pieces of n bytes."""
    view = np.frombuffer(data, np.uint8)
    out = np.empty(len(view) // n)
    p_values(view, n, of_random(), out)
    return out


def row(name: str, p: np.ndarray) -> str:
    """One line of the table."""
    cells = []
    for alpha in ALPHAS:
        share = float((p <= alpha).mean())
        error = math.sqrt(alpha / len(p))
        cells.append(f"{share / alpha:6.2f} ±{2 * error / alpha:5.2f}")
    return f"{name:>16} {len(p):>9,} " + "  ".join(cells)


def seeded(share: float) -> None:
    """Print the table by length."""
    rng = np.random.Generator(np.random.PCG64(20))
    worst = dict.fromkeys(ALPHAS, 0.0)
    least = math.inf
    for n in LENGTHS:
        trials = int(share * min(MOST_TRIALS, MOST_BYTES // n))
        each = max(1, BLOCK // n)
        p = np.concatenate(
            [
                judge_all(rng.bytes(n * min(each, trials - at)), n)
                for at in range(0, trials, each)
            ]
        )
        print(row(f"{n:,} B", p), flush=True)
        for alpha in ALPHAS:
            ratio = float((p <= alpha).mean()) / alpha
            sigma = (ratio - 1.0) / math.sqrt(1.0 / (alpha * len(p)))
            worst[alpha] = max(worst[alpha], sigma)
            # At 1 MB and 1e-4 two or three are expected: that says nothing.
            if n >= 256 and alpha * len(p) >= 30:
                least = min(least, ratio + 2.0 / math.sqrt(alpha * len(p)))
    text = ", ".join(f"{alpha:g}: {sigma:.1f}" for alpha, sigma in worst.items())
    print(f"largest excess over alpha in standard errors, by alpha: {text}")
    print(f"smallest share from 256 B on, of alpha, plus two errors: {least:.2f}")


def ciphers() -> dict[str, Cipher]:
    """Return the ciphers, each with a fixed key."""
    key, iv = bytes(range(32)), bytes(range(16))
    return {
        "AES-256-CTR": Cipher(algorithms.AES(key), modes.CTR(iv)),
        "AES-256-CBC": Cipher(algorithms.AES(key), modes.CBC(iv)),
        "AES-256-GCM": Cipher(algorithms.AES(key), modes.GCM(iv[:12])),
        "ChaCha20": Cipher(algorithms.ChaCha20(key, iv), None),
        "3DES-CBC": Cipher(old.TripleDES(key[:24]), modes.CBC(iv[:8])),
        "Camellia-CBC": Cipher(old.Camellia(key), modes.CBC(iv)),
        "RC4": Cipher(old.ARC4(key[:16]), None),
    }


def real(share: float) -> None:
    """Print the table by cipher, over plaintext that repeats."""
    plain = (b"%07d;customer;invoice;paid\r\n" * 64) % tuple(range(64))
    size = int(share * 48_000_000)
    plain = (plain * (size // len(plain) + 1))[: size // 16 * 16]
    for n in (64, 512, 4096):
        print(f"\nciphertext in pieces of {n} B, share with p <= alpha over alpha")
        for name, cipher in ciphers().items():
            print(row(name, judge_all(cipher.encryptor().update(plain), n)))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0)
    options = parser.parse_args()
    levels = "  ".join(f"{f'alpha {alpha:g}':>13}" for alpha in ALPHAS)
    print(f"{'length':>16} {'buffers':>9} {levels}")
    seeded(options.share)
    real(options.share)


if __name__ == "__main__":
    main()
