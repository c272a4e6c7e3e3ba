"""How fast the forest scores and explains, side by side with its peers.

Run as ``python tests/benchmarks/bench_forest.py``; with ``--crossovers`` it measures
instead where one way of scoring overtakes another. Rows are evidence of the sample's
flows, repeated and jittered; forests have 100 trees of 256 samples. All ratios are to
scikit-learn's ``score_samples`` on one thread on the same rows, measured in turns
within one run: larger is faster. PyOD, isotree, ONNX Runtime and shap take part where
they are installed.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.ensemble import IsolationForest
from threadpoolctl import threadpool_limits

import exfilml
from exfilml._compiled import _dense, _walk
from exfilml.features import FlowFeatures
from exfilml.forest import NODES_OF_A_STEP, BaselineForest, Trees

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLE = Path(__file__).parents[2] / "datasets" / "sample"
SIZES = (1, 10, 1_000, 100_000, 1_000_000)
MOST = max(SIZES)
TURNS = 7
# A million rows take the slowest peer long enough to average over.
FEWER_TURNS = 3
PACKAGES = (
    "scikit-learn",
    "numba",
    "numpy",
    "joblib",
    "pyod",
    "isotree",
    "onnxruntime",
    "shap",
)
JITTER = 0.02


def say(text: str = "") -> None:
    """Write one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def evidence() -> tuple[np.ndarray, np.ndarray]:
    """Evidence of the baseline's flows, and a million rows like both captures'."""
    flows = exfilml.read_flows(str(SAMPLE / "baseline.pcap"))
    test = exfilml.read_flows(str(SAMPLE / "test.pcap"))
    detector = exfilml.Detector(random_state=0, n_estimators=10).fit(flows)
    features = FlowFeatures(payload="payload" in detector.learned_)
    train, other = (features.matrix(detector.score(t).asked) for t in (flows, test))
    real = np.concatenate([train, other])
    rng = np.random.default_rng(0)
    rows = real[rng.integers(0, len(real), MOST)]
    rows *= 1 + JITTER * rng.normal(size=rows.shape)
    return train.astype(np.float32), rows.astype(np.float32)


def turns(
    runs: dict[str, Callable[[], object]],
    calls: int,
    clock: Callable[[], float] = time.perf_counter,
    n_turns: int = TURNS,
) -> dict[str, list[float]]:
    """Seconds a call, in turns: what slows the machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(n_turns):
        for name, run in runs.items():
            begin = clock()
            for _ in range(calls):
                run()
            seconds[name].append((clock() - begin) / calls)
    return seconds


def version(package: str) -> str:
    """Return a package's version, or that it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def machine(forest: BaselineForest, n_columns: int) -> None:
    """Print what the figures depend on."""
    leaves = np.diff(forest.trees_.dense.leaf_start)
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    say(f"{platform.machine()}, {os.cpu_count()} processors, load average {load}")
    for package in PACKAGES:
        say(f"  {package:14s}{version(package)}")
    say(f"  Python        {platform.python_version()}")
    say(
        f"{len(leaves)} trees, {forest.max_samples_} samples, {n_columns} columns; "
        f"inner nodes a tree: mean {leaves.mean() - 1:.1f}, "
        f"{leaves.min() - 1} to {leaves.max() - 1}"
    )


def peers(theirs: IsolationForest, train: np.ndarray) -> dict[str, Any]:
    """Score functions of other libraries, one thread each."""
    found: dict[str, Any] = {}
    if version("pyod") != "not installed":
        from pyod.models.iforest import IForest

        found["PyOD IForest"] = IForest(random_state=0).fit(train).decision_function
    if version("isotree") != "not installed":
        from isotree import IsolationForest as Isotree

        model = Isotree(
            ntrees=100, sample_size=256, ndim=1, nthreads=1, missing_action="fail"
        ).fit(train)
        found["isotree"] = model.predict
    if "not installed" not in (version("onnxruntime"), version("skl2onnx")):
        import onnxruntime
        from skl2onnx import to_onnx

        model = to_onnx(theirs, train[:1], target_opset={"": 18, "ai.onnx.ml": 3})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found["ONNX Runtime"] = lambda rows: session.run(["scores"], {"X": rows})
    for name in ("PyOD IForest", "isotree", "ONNX Runtime"):
        if name not in found:
            say(f"{name}: not installed")
    return found


def scores(train: np.ndarray, rows: np.ndarray) -> None:
    """Print the ratios of scores."""
    theirs = IsolationForest(random_state=0).fit(train)
    one = BaselineForest(random_state=0).fit(train)
    two = BaselineForest(random_state=0, n_jobs=2).fit(train)
    machine(one, train.shape[1])
    others = peers(theirs, train)
    same = np.array_equal(theirs.score_samples(rows), two.score_samples(rows))
    say(f"scores equal scikit-learn's bit for bit on {MOST:,} rows: {same}")
    say()
    say("times as fast as scikit-learn on one thread: best (median) of some turns")
    names = ["exfilml, 1 thread", "exfilml, 2 threads", "monotone, 1 thread", *others]
    say(f"{'rows':>9s}{'sklearn, µs/row':>17s}" + "".join(f"{n:>20s}" for n in names))
    for size in SIZES:
        some = np.ascontiguousarray(rows[:size])
        runs: dict[str, Any] = {
            "sklearn": lambda x=some: theirs.score_samples(x),
            names[0]: lambda x=some: one.score_samples(x),
            names[1]: lambda x=some: two.score_samples(x),
            names[2]: lambda x=some: one.monotone_scores(x),
            **{n: lambda x=some, f=f: f(x) for n, f in others.items()},
        }
        n_turns = TURNS if size < MOST else FEWER_TURNS
        seconds = turns(runs, max(1, min(20, 2_000 // size)), n_turns=n_turns)
        base = seconds.pop("sklearn")
        line = f"{size:9,d}{min(base) / size * 1e6:17.2f}"
        for name in names:
            used = seconds[name]
            best, usual = min(base) / min(used), np.median(base) / np.median(used)
            line += f"{best:11.2f} ({usual:6.2f})"
        say(line)
    # Others on the machine take processors away, but not work done per second of one.
    used = turns({n: runs[n] for n in ("sklearn", *names[:2])}, 1, time.process_time)
    base, alone, shared = (min(seconds) for seconds in used.values())
    say(
        f"{size:,} rows, per second of a processor: 1 thread {base / alone:.2f}, "
        f"2 threads {base / shared:.2f} each, at most {2 * base / shared:.2f} together"
    )


def explanations(train: np.ndarray, rows: np.ndarray) -> None:
    """Print rows a second of both credits, and the ratio to shap."""
    theirs = IsolationForest(random_state=0).fit(train)
    ours = BaselineForest(random_state=0).fit(train)
    some = np.ascontiguousarray(rows[:20_000])
    runs: dict[str, Any] = {
        "path_credit": lambda: ours.path_credit(some),
        "shapley_credit": lambda: ours.shapley_credit(some),
    }
    say()
    say("explanations, one thread: rows a second, and ratio to shap.TreeExplainer")
    few = some[:500]
    if version("shap") != "not installed":
        import shap

        explainer = shap.TreeExplainer(
            theirs, feature_perturbation="tree_path_dependent"
        )
        runs["shap"] = lambda: explainer.shap_values(few, check_additivity=False)
        gap = np.abs(ours.shapley_credit(few) + explainer.shap_values(few)).max()
        say(f"largest difference to shap, in path length: {gap:.1e}")
    seconds = {name: min(used) for name, used in turns(runs, 1).items()}
    peer = seconds.pop("shap", np.nan) / len(few)
    for name, used in seconds.items():
        each = used / len(some)
        ratio = " (not installed)" if np.isnan(peer) else f"{peer / each:8.1f}"
        say(f"{name:16s}{1 / each:12,.0f}{ratio}")


def ways(trees: Trees, rows: np.ndarray) -> dict[str, Callable[[], object]]:
    """Score the same rows in each way."""
    n = len(rows)
    out = np.empty(n)
    return {
        "dense": lambda: _dense.sum_dense(rows, 0, n, *trees.dense, out),
        "eight": lambda: _walk.walk_eight(rows, 0, n, *trees.steps, out),
        "one": lambda: _walk.walk(rows, 0, 1, *trees.nodes, out),
        "one of eight": lambda: _walk.walk_eight(rows, 0, 1, *trees.steps, out),
    }


def crossovers(rows: np.ndarray) -> None:
    """Print what comparing a block with a node costs, in steps of a row."""
    say("nodes that a block of rows is compared with while a row takes a step down")
    say("    inner nodes          depth   nodes a step   one row: walk / eight rows")
    ratios = []
    blocks = 10
    for samples in (64, 256, 1024, 4096, 16384):
        forest = BaselineForest(random_state=0, max_samples=samples)
        trees = forest.fit(rows[: max(20_000, 2 * samples)]).trees_
        inner = len(trees.dense.column) / len(trees.steps.depth)
        some = rows[: blocks * _dense.BLOCK]
        best = {n: min(used) for n, used in turns(ways(trees, some), 10).items()}
        node = best["dense"] / (blocks * inner)
        depth = trees.steps.depth.mean()
        ratios.append(best["eight"] / len(some) / depth / node)
        alone = best["one"] / best["one of eight"]
        say(f"{inner:15.1f}{depth:15.1f}{ratios[-1]:15.3f}{alone:15.2f}")
    say(f"NODES_OF_A_STEP is {NODES_OF_A_STEP}; median now {np.median(ratios):.3f}")


def main() -> None:
    """Measure on one thread unless a forest was given more."""
    warnings.simplefilter("ignore")
    train, rows = evidence()
    with threadpool_limits(1):
        if "--crossovers" in sys.argv:
            crossovers(rows)
        else:
            scores(train, rows)
            explanations(train, rows)


if __name__ == "__main__":
    main()
