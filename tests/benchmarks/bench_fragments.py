"""Ciphertext against compressed fragments: by type, by length, beside simpler tests.

Run as ``python tests/benchmarks/bench_fragments.py`` with the ``bench`` extra; two to
three minutes on two cores. All fragments are cut beyond the headers of files that the
shipped forest was not trained on. Beside it stand the test of randomness alone, and
an entropy threshold chosen for each length on the very fragments it is judged by, in
its favour. *Left out* is a forest trained here, on less than the shipped one, without
the type and its relatives: what to expect of formats nobody thought of.
"""

from __future__ import annotations

import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "datasets"))

import fragments  # noqa: E402
import train_fragments as training  # noqa: E402

from exfilml.payload import OPAQUE_P, judge  # noqa: E402
from exfilml.payload._fragments import (  # noqa: E402
    FRAGMENT_MIN,
    VERDICT_BITS,
    ciphertext_log_odds,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEST_BYTES, LEARN_BYTES = 700_000, 500_000
PER_TYPE = 150
SHORT = (64, 128, 256, 512)
# The sixteen types that EnCoD's figures are held against.
SIXTEEN = (
    "gzip", "zip", "bzip2", "xz", "zstd", "brotli", "lz4", "png", "jpeg", "webp", "gif",
    "mp3", "mp4", "pdf", "docx", "parquet",
)  # fmt: skip
# Ideal range coders: nothing but the sparse facts between their headers.
IDEAL = ("xz", "7z", "avif", "webp")
ENCOD = {512: 82.0, 8192: 92.0}


def say(text: str = "") -> None:
    """Write one line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def entropy(data: NDArray[np.uint8]) -> float:
    """Plug-in entropy, bits per byte."""
    counts = np.bincount(data, minlength=256)
    share = counts[counts > 0] / len(data)
    return float(-(share * np.log2(share)).sum())


def auc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Area under the ROC curve: P(positive > negative), ties count half."""
    both = np.concatenate([positive, negative])
    values, where, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    total = ranks[where[: len(positive)]].sum()
    n = len(positive)
    assert len(values)
    return float((total - n * (n + 1) / 2) / (n * len(negative)))


def pieces(
    corpus: fragments.Corpus, size: int, count: int
) -> dict[str, list[NDArray[np.uint8]]]:
    """Fragments by type; ciphertext of all ciphers together, as many as all types."""
    rng = np.random.default_rng(size)
    kinds = (*corpus.compressed, *fragments.CONTROLS)
    found = {k: fragments.draw(corpus.files[k], size, count, rng) for k in kinds}
    each = count * len(corpus.compressed) // len(corpus.ciphers)
    found["ciphertext"] = [
        piece
        for name in corpus.ciphers
        for piece in fragments.draw(corpus.files[name], size, each, rng)
    ]
    return {kind: drawn for kind, drawn in found.items() if drawn}


def best_threshold(
    secret: NDArray[np.float64], others: list[NDArray[np.float64]]
) -> float:
    """Threshold with the best balanced accuracy on these very values."""
    values = np.unique(np.concatenate([secret, *others]))
    tried = values[:: max(1, len(values) // 500)]

    def balanced(cut: float) -> float:
        return float(
            (secret > cut).mean() + np.mean([(o <= cut).mean() for o in others])
        )

    return max(tried.tolist(), key=balanced)


Rates = dict[str, dict[str, dict[int, float]]]


def rates(corpus: fragments.Corpus) -> Rates:
    """Share judged rightly, %: by judge, type and length."""
    found: Rates = {}
    for size in fragments.SIZES:
        count = PER_TYPE if size < 60_000 else PER_TYPE // 3
        drawn = pieces(corpus, size, count)
        odds = {
            k: np.array([ciphertext_log_odds(p) for p in v]) for k, v in drawn.items()
        }
        # p_random of text underflows to zero.
        p = {
            k: np.array([judge(x.tobytes()).p_random for x in v])
            for k, v in drawn.items()
        }
        h = {k: np.array([entropy(x) for x in v]) for k, v in drawn.items()}
        kinds = [k for k in corpus.compressed if k in drawn]
        cut = best_threshold(h["ciphertext"], [h[k] for k in kinds])
        for judged, values, threshold in (
            ("log odds", odds, 0.0),
            ("verdict", odds, VERDICT_BITS),
            ("p-value", p, OPAQUE_P),
            ("entropy", h, cut),
        ):
            for kind, of_kind in values.items():
                kept = float((of_kind > threshold).mean())
                right = kept if kind == "ciphertext" else 1 - kept
                found.setdefault(judged, {}).setdefault(kind, {})[size] = 100 * right
    return found


def left_out(learn: fragments.Corpus, check: fragments.Corpus) -> Rates:
    """Share judged rightly by forests that never saw the type's family, %."""
    rows, names = training.table(learn, 400, 1)
    tests = {s: training.table(check, 60, s + 1, s) for s in fragments.SIZES}
    found = training.left_out(rows, names, tests, trees=50)
    secret = found.pop("ciphertext, mean")
    found["ciphertext"] = secret
    return {
        "left out": {
            kind: {size: 100 * value for size, value in by_size.items()}
            for kind, by_size in found.items()
        }
    }


def print_types(found: Rates, kinds: list[str]) -> None:
    """Print one row a type, worst first, with all judges at each length."""
    judges = ("log odds", "p-value", "entropy", "left out")
    say("judged rightly, %: forest at even odds / p-value > 0.001 / entropy / left out")
    say(f"{'':15s}" + "".join(f"{size:>16d}" for size in fragments.SIZES))

    def mean(kind: str) -> float:
        return float(np.mean(list(found["log odds"][kind].values())))

    for kind in ("ciphertext", *sorted(kinds, key=mean)):
        cells = (
            "/".join(f"{found[j][kind].get(size, math.nan):.0f}" for j in judges)
            for size in fragments.SIZES
        )
        say(f"{kind:15s}" + "".join(f"{cell:>16s}" for cell in cells))


def print_balanced(found: Rates, kinds: list[str]) -> None:
    """Print balanced accuracies of groups of types."""
    groups = {
        f"all {len(kinds)} types": kinds,
        "the sixteen": [k for k in kinds if k in SIXTEEN],
        "all but ideal range coders": [k for k in kinds if k not in IDEAL],
    }
    say("\nbalanced accuracy, %   (EnCoD, its own types: 82 at 512 B, 92 at 8 kB)")
    say(f"{'':42s}" + "".join(f"{size:>8d}" for size in fragments.SIZES))
    for title, group in groups.items():
        for judged in ("log odds", "verdict", "p-value", "entropy", "left out"):
            cells = ""
            for size in fragments.SIZES:
                of = [found[judged][k].get(size, math.nan) for k in group]
                secret = found[judged]["ciphertext"][size]
                cells += f"{(secret + np.nanmean(of)) / 2:8.1f}"
            say(f"{title:30s}{judged:12s}{cells}")
    say(f"\nat the verdict's threshold, log odds > {VERDICT_BITS:g} bits, %")
    for title, group in {"ciphertext kept": ["ciphertext"], **groups}.items():
        cells = "".join(
            f"{np.nanmean([found['verdict'][k].get(s, math.nan) for k in group]):8.1f}"
            for s in fragments.SIZES
        )
        label = title if title.startswith("cipher") else f"{title}: refused"
        say(f"{label:42s}{cells}")


def print_controls(found: Rates) -> None:
    """Print what is neither ciphertext nor compressed."""
    say("\nplain contents judged not ciphertext, %: forest at even odds / p-value")
    for kind in fragments.CONTROLS:
        cells = (
            f"{found['log odds'][kind].get(s, math.nan):.0f}/"
            f"{found['p-value'][kind].get(s, math.nan):.0f}"
            for s in fragments.SIZES
        )
        say(f"{kind:15s}" + "".join(f"{cell:>16s}" for cell in cells))


def short_payloads(corpus: fragments.Corpus) -> None:
    """Print areas under the ROC curve on short payloads."""
    say("\nROC AUC on short payloads, ciphertext against ... (higher is better)")
    say(f"{'':32s}" + "".join(f"{size:>8d}" for size in SHORT))
    areas: dict[tuple[str, str], list[float]] = {}
    for size in SHORT:
        drawn = pieces(corpus, size, 60)
        mixes = {
            "compressed": [k for k in drawn if k in corpus.compressed],
            "plain contents": list(fragments.CONTROLS),
        }
        mixes["both"] = mixes["compressed"] + mixes["plain contents"] * 4
        h, p, ours = {}, {}, {}
        for kind, of_kind in drawn.items():
            h[kind] = np.array([entropy(x) for x in of_kind])
            p[kind] = np.array([judge(x.tobytes()).p_random for x in of_kind])
            odds = np.array([ciphertext_log_odds(x) for x in of_kind])
            ours[kind] = odds if size >= FRAGMENT_MIN else p[kind]
        for mix, kinds in mixes.items():
            for name, values in (
                ("entropy", h), ("p-value", p), ("log odds, p below 256", ours),
            ):  # fmt: skip
                others = np.concatenate([values[k] for k in kinds])
                area = auc(values["ciphertext"], others)
                areas.setdefault((mix, name), []).append(area)
    for (mix, name), by_size in areas.items():
        say(f"{mix:16s}{name:24s}".ljust(32) + "".join(f"{a:8.3f}" for a in by_size))


def timings() -> None:
    """Print microseconds a call, and as a multiple of numpy's entropy."""
    say("\ntime of ciphertext_log_odds      us   x numpy entropy    MB/s")
    for size in (512, 1024, 4096, 16384, 65536):
        data = np.frombuffer(np.random.default_rng(size).bytes(size), np.uint8)
        used = []
        for run in (ciphertext_log_odds, entropy):
            run(data)
            best = math.inf
            for _ in range(5):
                begin = time.perf_counter()
                for _ in range(100):
                    run(data)
                best = min(best, (time.perf_counter() - begin) / 100)
            used.append(best)
        rate = size / used[0] / 1e6
        ratio = used[0] / used[1]
        say(f"{size:>8d} B{used[0] * 1e6:26.1f}{ratio:13.2f}{rate:13.0f}")


def main() -> None:
    """Make the corpora and print every table."""
    with ProcessPoolExecutor(2) as pool:
        learn, check = pool.map(
            fragments.build, ("train", "test"), (LEARN_BYTES, TEST_BYTES), (7, 7)
        )
    for missing in sorted({*learn.missing, *check.missing}):
        say(f"not made: {missing}")
    found = rates(check) | left_out(learn, check)
    kinds = [k for k in check.compressed if k in found["left out"]]
    print_types(found, kinds)
    print_balanced(found, kinds)
    print_controls(found)
    short_payloads(check)
    timings()


if __name__ == "__main__":
    main()
