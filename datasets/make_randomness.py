"""Simulates what the largest z-score of the randomness test is for random bytes.

Run as ``python datasets/make_randomness.py [--seed N] [--scale SHARE]``; it writes
``exfilml/data/randomness.npz`` and takes about half an hour of one processor. One row a
length n: n, standard deviation and skewness of the plug-in entropy of n random bytes,
and 41 quantiles of the largest of the nine z-scores of `exfilml.payload._kernel`, those
that random bytes reach or exceed with probability 1, 10^(-1/8), 10^(-2/8) … 1e-5.

Every length up to 256 is simulated, because there the scores are few; beyond, eight
lengths for each doubling up to 1 kB and two from there to 8 kB, where the test has
reached its limit: longer buffers have its quantiles.

A quantile that the simulation does not know well is taken on the safe side: at each
length up to 256 the largest of its neighbours', beyond that a line through the logarithm
of the length.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from exfilml.payload import _kernel as kernel  # noqa: E402

TARGET = ROOT / "exfilml" / "data" / "randomness.npz"
TRIALS = 3_000_000
SHORT_TRIALS = 1_200_000
# Bytes to simulate for one length at the most.
MOST_BYTES = 12_000_000_000
BLOCK = 1 << 22
# What a line through noisy quantiles may miss: 2 to 3 % of a p-value.
SAFE_Z = 0.015


def lengths() -> list[int]:
    """Return the lengths to simulate."""
    some = [round(256 * 2 ** (i / 8)) for i in range(1, 17)]
    more = [round(1024 * 2 ** (i / 2)) for i in range(1, 7)]
    return [*range(1, 257), *some, *more]


@kernel.compiled
def entropies(data: np.ndarray, n: int, out: np.ndarray) -> None:
    """Plug-in entropy of each n bytes."""
    counts = np.zeros(256, np.int64)
    deltas = np.zeros(256, np.int64)
    for i in range(out.shape[0]):
        counts[:] = 0
        kernel.tally(data, i * n, (i + 1) * n, counts, deltas)
        out[i] = kernel.entropy_of(counts, n)


@kernel.compiled
def scores(data: np.ndarray, n: int, null: np.ndarray, out: np.ndarray) -> None:
    """Largest z-score of each n bytes; of their entropy the table says enough."""
    counts = np.zeros(256, np.int32)
    deltas = np.zeros(256, np.int32)
    known = np.zeros((2, kernel.KNOWN_COLUMNS))
    kernel.describe(null, n, known[0])
    if n > 1:
        kernel.describe_draws(known[1], n - 1)
    for i in range(out.shape[0]):
        counts[:] = 0
        deltas[:] = 0
        kernel.tally(data, i * n, (i + 1) * n, counts, deltas)
        entropy = kernel.entropy_of(counts, n)
        out[i] = kernel.largest_z(counts, deltas, n, entropy, n - 1, known, 0, 1)


def simulate(n: int, trials: int, rng: np.random.Generator) -> list[float]:
    """Return one row of the table."""
    each = max(1, BLOCK // n)
    sample = np.empty(min(trials, 200_000))
    for at in range(0, len(sample), each):
        part = sample[at : at + each]
        entropies(_bytes(rng, n * len(part)), n, part)
    sd = float(sample.std())
    skew = 0.0
    if sd > 1e-9:
        # Of the gap, which is large where the entropy is small.
        skew = float(-(((sample - sample.mean()) / sd) ** 3).mean())
    else:
        sd = 0.0
    null = np.zeros((1, kernel.NULL_Z + kernel.LEVELS))
    null[0, [kernel.NULL_N, kernel.NULL_SD, kernel.NULL_SKEW]] = n, n * sd, skew
    found = np.empty(trials)
    for at in range(0, trials, each):
        part = found[at : at + each]
        scores(_bytes(rng, n * len(part)), n, null, part)
    found.sort()
    row = [float(n), n * sd, skew]
    for level in range(kernel.LEVELS):
        share = 10.0 ** (-level / kernel.STEPS)
        row.append(_reached(found, share))
    return row


def _reached(found: np.ndarray, share: float) -> float:
    """Smallest value that at most this share of the sorted values reach."""
    allowed = int(share * len(found))
    if allowed >= len(found):
        return float(found[0])
    # The first of the values that are too many; what is larger is allowed.
    over = found[len(found) - 1 - allowed]
    rank = np.searchsorted(found, over, side="right")
    return float(found[rank]) if rank < len(found) else float(over) + 1e-9


def _bytes(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.frombuffer(rng.bytes(count), np.uint8)


def smooth(table: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """Take quantiles on the safe side of what the simulation knows."""
    known = table.copy()
    short = table[:, 0] <= kernel.EXACT_BELOW
    z = slice(kernel.NULL_Z, None)
    rows = np.flatnonzero(short)
    for row in rows:
        near = table[max(0, row - 1) : row + 2, z]
        known[row, z] = near.max(axis=0)
    size = np.log(table[~short, 0])
    for column in range(kernel.NULL_Z, table.shape[1]):
        line = np.polynomial.Polynomial.fit(
            size, table[~short, column], 2, w=np.sqrt(trials[~short])
        )
        known[~short, column] = line(size) + SAFE_Z
    known[:, z] = np.maximum.accumulate(known[:, z], axis=1)
    return known


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    rng = np.random.Generator(np.random.SFC64(options.seed))
    rows, counts = [], []
    for n in lengths():
        most = SHORT_TRIALS if n <= kernel.EXACT_BELOW else TRIALS
        trials = int(options.scale * min(most, MOST_BYTES // n))
        rows.append(simulate(n, trials, rng))
        counts.append(trials)
        print(f"{n:6d} B: {trials:,} trials", flush=True)
    table = smooth(np.array(rows), np.array(counts))
    np.savez_compressed(options.out, null=table)
    print(f"{options.out.name}: {table.shape[0]} lengths")


if __name__ == "__main__":
    main()
