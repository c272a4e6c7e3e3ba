"""Train the forest behind ``exfilml.payload``'s log odds for fragments.

Run as ``python datasets/train_fragments.py``, with the ``bench`` extra installed. It
makes both corpora (`fragments`), prints how each type fares when its family was *not*
trained on, and with the final forest, each by length and on files that were not
trained on, and writes ``exfilml/data/fragments.npz``. About ten minutes on two cores.

Types weigh alike, and ciphertext as much as all types together, so that the log odds
are those at even prior odds. Lengths are drawn log-uniformly, so that one forest
serves them all.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import fragments  # noqa: E402

from exfilml.payload import _fragments  # noqa: E402

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

OUTPUT = HERE.parent / "exfilml" / "data" / "fragments.npz"
CIPHERTEXT = "ciphertext"
# Shortest, longest, share of the fragments.
LENGTHS = ((256, 1024, 0.42), (1024, 4096, 0.30), (4096, 16384, 0.22),
           (16384, 65537, 0.06))  # fmt: skip


def say(text: str) -> None:
    """Write one line at once: the run is long."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def lengths(count: int, rng: Generator) -> NDArray[np.int64]:
    """Draw lengths, half of them from those that results are reported for."""
    which = rng.choice(len(LENGTHS), count, p=[share for _, _, share in LENGTHS])
    low, high = np.array([(a, b) for a, b, _ in LENGTHS], float)[which].T
    drawn = (low * (high / low) ** rng.random(count)).astype(np.int64)
    sizes = np.array((256, *fragments.SIZES))
    nearest = sizes[np.abs(np.log(sizes[:, None] / drawn)).argmin(0)]
    return np.where(rng.random(count) < 0.5, nearest, drawn)


def measured(pieces: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Measure fragments, one row each."""
    out = np.empty((len(pieces), _fragments.N_MEASURES))
    for i, piece in enumerate(pieces):
        _fragments.measure(piece, out[i])
    return out


def table(
    corpus: fragments.Corpus, per_type: int, seed: int, size: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Cut and measure fragments.

    Parameters
    ----------
    corpus
        Files of one side.
    per_type
        Fragments of each compressed type; ciphertext has as many as all together.
    seed
        Of lengths and places.
    size
        Bytes of each fragment; None for lengths as trained on.

    Returns
    -------
    rows
        Shape ``(fragments, N_MEASURES)``.
    names
        Type of each row, ``ciphertext`` for all ciphers.
    """
    rng = np.random.default_rng(seed)
    pieces: list[NDArray[np.uint8]] = []
    names: list[str] = []
    total = per_type * len(corpus.compressed)
    each = -(-total // len(corpus.ciphers))
    for name in (*corpus.compressed, *corpus.ciphers):
        count = per_type if name in corpus.compressed else each
        sizes = lengths(count, rng) if size is None else np.full(count, size)
        found = [fragments.cut(corpus.files[name], n, rng) for n in sizes.tolist()]
        kept = [piece for piece in found if piece is not None]
        pieces += kept
        names += [name if name in corpus.compressed else CIPHERTEXT] * len(kept)
    return measured(pieces), np.array(names)


def weights(names: NDArray[np.str_]) -> NDArray[np.float64]:
    """Weigh types alike, and ciphertext as all types together."""
    kinds, where, counts = np.unique(names, return_inverse=True, return_counts=True)
    share = np.where(kinds == CIPHERTEXT, 0.5, 0.5 / max(1, len(kinds) - 1))
    found = (share / counts)[where]
    return np.asarray(found * len(names))


def transplanted(
    rows: NDArray[np.float64], names: NDArray[np.str_]
) -> NDArray[np.float64]:
    """Put the facts of compressed fragments among the statistics of ciphertext.

    Trees are greedy: where statistics tell a GIF already, nothing is learned from
    its blocks, and an encoder with better codes and the same frames would be taken
    for ciphertext. Only facts that ciphertext shows once in a thousand fragments
    or less are transplanted, into ciphertext of about the same length.
    """
    f = _fragments
    surely = ((f.FULL_CHAIN, 4), (f.SYNC_CHAIN, 1), (f.NAL_CHAIN, 1), (f.LZMA2, 1),
              (f.BLOCKS, 1), (f.WORDS, 1), (f.RUN, 20))  # fmt: skip
    secret = rows[names == CIPHERTEXT]
    secret = secret[np.argsort(secret[:, f.LOG_N], kind="stable")]
    donors = rows[names != CIPHERTEXT]
    known = np.any([donors[:, column] >= least for column, least in surely], axis=0)
    donors = donors[known]
    at = np.searchsorted(secret[:, f.LOG_N], donors[:, f.LOG_N])
    made = secret[np.minimum(at, len(secret) - 1)]
    columns = [column for column, _ in surely] + [f.NAL, f.SYNC_LONE]
    made[:, columns] = donors[:, columns]
    return np.asarray(made)


def fit(rows: NDArray[np.float64], names: NDArray[np.str_], trees: int = 220) -> Any:
    """Fit gradient-boosted trees to ciphertext against all else."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=trees,
        # Fewer trees take longer steps.
        learning_rate=0.08 * max(1.0, 120 / trees),
        max_leaf_nodes=16,
        min_samples_leaf=60,
        l2_regularization=5.0,
        early_stopping=False,
        random_state=0,
    )
    made = transplanted(rows, names)
    rows = np.concatenate([rows, made])
    # Weighs as one type more.
    names = np.concatenate([names, np.full(len(made), "facts")])
    return model.fit(rows, names == CIPHERTEXT, sample_weight=weights(names))


def flat(model: Any) -> dict[str, NDArray[Any]]:
    """Turn fitted trees into the arrays that `_fragments.read_forest` reads."""
    bits = 1 / np.log(2)
    parts: dict[str, list[NDArray[Any]]] = {
        key: [] for key in ("column", "threshold", "left", "right", "value")
    }
    roots = []
    start = 0
    for (tree,) in model._predictors:  # noqa: SLF001 - no public way to the trees
        nodes = tree.nodes
        leaf = nodes["is_leaf"].astype(bool)
        roots.append(start)
        parts["column"].append(np.where(leaf, -1, nodes["feature_idx"]))
        parts["threshold"].append(np.where(leaf, 0.0, nodes["num_threshold"]))
        parts["left"].append(np.where(leaf, 0, nodes["left"].astype(int) + start))
        parts["right"].append(np.where(leaf, 0, nodes["right"].astype(int) + start))
        parts["value"].append(np.where(leaf, nodes["value"] * bits, 0.0))
        start += len(nodes)
    kinds = {"column": np.int16, "left": np.int32, "right": np.int32}
    return {
        "base": np.float64(float(np.ravel(model._baseline_prediction)[0]) * bits),  # noqa: SLF001
        "roots": np.array(roots, np.int32),
    } | {
        key: np.concatenate(values).astype(kinds.get(key, np.float64))
        for key, values in parts.items()
    }


def log_odds(model: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds in bits."""
    return np.asarray(model.decision_function(rows) / np.log(2))


def left_out(
    rows: NDArray[np.float64],
    names: NDArray[np.str_],
    tests: dict[int, tuple[NDArray[np.float64], NDArray[np.str_]]],
    trees: int = 120,
) -> dict[str, dict[int, float]]:
    """Share judged rightly of each type when its whole family was not trained on.

    At even odds; what such a forest keeps of ciphertext is the last row.
    """
    kinds = [name for name in np.unique(names).tolist() if name != CIPHERTEXT]
    families = {fragments.FAMILIES.get(name, name) for name in kinds}
    found: dict[str, dict[int, float]] = {}
    secret: dict[int, list[float]] = {size: [] for size in tests}
    for family in sorted(families):
        members = [k for k in kinds if fragments.FAMILIES.get(k, k) == family]
        kept = ~np.isin(names, members)
        model = fit(rows[kept], names[kept], trees)
        for size, (x, y) in tests.items():
            odds = log_odds(model, x)
            for member in members:
                rate = float((odds[y == member] <= 0).mean())
                found.setdefault(member, {})[size] = rate
            secret[size].append(float((odds[y == CIPHERTEXT] > 0).mean()))
    found[f"{CIPHERTEXT}, mean"] = {s: float(np.mean(v)) for s, v in secret.items()}
    return found


def report(title: str, rates: dict[str, dict[int, float]]) -> None:
    """Print rates by type, worst first at the shortest length."""
    sizes = fragments.SIZES
    say(f"\n{title}")
    say(f"{'':32s}" + "".join(f"{size:>8d}" for size in sizes))
    for name in sorted(rates, key=lambda key: rates[key].get(sizes[0], 1.0)):
        cells = "".join(f"{100 * rates[name].get(s, np.nan):8.1f}" for s in sizes)
        say(f"{name:32s}{cells}")


def rates_of(
    odds: dict[int, NDArray[np.float64]],
    names: dict[int, NDArray[np.str_]],
    threshold: float,
) -> dict[str, dict[int, float]]:
    """Share judged rightly, by type and length; and the balanced accuracy."""
    found: dict[str, dict[int, float]] = {}
    for size, bits in odds.items():
        kinds = np.unique(names[size]).tolist()
        for kind in kinds:
            kept = bits[names[size] == kind] > threshold
            right = kept.mean() if kind == CIPHERTEXT else 1 - kept.mean()
            found.setdefault(kind, {})[size] = float(right)
        others = [found[k][size] for k in kinds if k != CIPHERTEXT]
        balanced = (found[CIPHERTEXT][size] + float(np.mean(others))) / 2
        found.setdefault("(balanced accuracy)", {})[size] = balanced
    return found


def train(
    learn: fragments.Corpus, check: fragments.Corpus, per_type: int, seed: int
) -> None:
    """Train, write the arrays, print how types fare."""
    rows, names = table(learn, per_type, seed)
    say(f"{len(rows):,} fragments to train on, {len(learn.compressed)} types")
    tests = {s: table(check, 250, seed + s, s) for s in fragments.SIZES}
    model = fit(rows, names)
    store(flat(model))
    odds = {s: log_odds(model, x) for s, (x, _) in tests.items()}
    kinds = {s: y for s, (_, y) in tests.items()}
    report("judged rightly at even odds, %", rates_of(odds, kinds, 0.0))
    for bits in (-4.0, -3.0, -2.0, -1.0):
        found = rates_of(odds, kinds, bits)
        report(
            f"judged rightly at log odds above {bits:g}, %",
            {k: found[k] for k in (CIPHERTEXT, "(balanced accuracy)")},
        )
    # A part of the rows is enough for the two tables that need many forests.
    rows, names = rows[::4], names[::4]
    report(
        "judged rightly at even odds when the family was left out of training, %",
        left_out(rows, names, tests),
    )
    # Can a type be told at all? Trained for nothing but this type, on other files.
    alone: dict[str, dict[int, float]] = {}
    for kind in learn.compressed:
        some = (names == kind) | (names == CIPHERTEXT)
        expert = fit(rows[some], names[some], 60)
        for size, (x, y) in tests.items():
            ours = log_odds(expert, x)
            right = (ours[y == kind] <= 0).mean() + (ours[y == CIPHERTEXT] > 0).mean()
            alone.setdefault(kind, {})[size] = float(right / 2)
    report("balanced accuracy of a forest trained for one type alone, %", alone)


def store(arrays: dict[str, NDArray[Any]]) -> None:
    """Write the arrays, beside the old ones first, and print their checksum."""
    new = OUTPUT.with_suffix(".new")
    with new.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    new.replace(OUTPUT)
    digest = hashlib.sha256(OUTPUT.read_bytes()).hexdigest()
    say(f"{OUTPUT.name}: {OUTPUT.stat().st_size:,} bytes, sha256 {digest}")


def main() -> None:
    """Make both corpora, train, write the arrays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4_000_000, help="bytes a type")
    parser.add_argument("--fragments", type=int, default=3000, help="of each type")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with ProcessPoolExecutor(2) as pool:
        learn, check = pool.map(
            fragments.build, ("train", "test"), (options.size, options.size // 3),
            (options.seed, options.seed),
        )  # fmt: skip
    for side in (learn, check):
        for missing in side.missing:
            say(f"not made: {missing}")
    train(learn, check, options.fragments, options.seed)


if __name__ == "__main__":
    main()
