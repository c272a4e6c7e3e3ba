"""How large model files are, and how fast they load.

Run as ``python tests/benchmarks/bench_model.py``. Models are trained on made-up sites
of more and more hosts, each with a hundred flows in ten days to places that grow in
number with the site. Loading is audit, construction and canary rows, in a warm
interpreter; the peers are `joblib.load` of the same detector, which checks nothing and
runs whatever code the file carries, and of scikit-learn's forest of the same size.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
import numpy as np
from sklearn.ensemble import IsolationForest

import exfilml

sys.path.insert(0, str(Path(__file__).parents[1]))

from sites import office

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTS = (10, 100, 1_000, 10_000)
FLOWS_OF_A_HOST = 100
TURNS = 15


def say(text: str = "") -> None:
    """Write one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def turns(*runs: Callable[[], object]) -> list[tuple[float, float]]:
    """Best and median milliseconds of each, measured in turns."""
    used: list[list[float]] = [[] for _ in runs]
    for turn in range(TURNS + 1):
        for run, times in zip(runs, used, strict=True):
            begin = time.perf_counter()
            run()
            if turn:
                times.append(1e3 * (time.perf_counter() - begin))
    return [(min(times), float(np.median(times))) for times in used]


def main() -> None:
    """Print a line for each size."""
    warnings.simplefilter("ignore")
    say("load: best (median) milliseconds of a number of turns")
    say(
        f"{'hosts':>7s}{'flows':>11s}{'keys':>11s}{'file, kB':>10s}{'B/host':>8s}"
        f"{'load_model':>16s}{'joblib.load':>16s}{'its file, kB':>14s}"
    )
    with tempfile.TemporaryDirectory() as folder:
        model, peer = Path(folder) / "m.exfilml", Path(folder) / "m.joblib"
        for hosts in HOSTS:
            n = max(FLOWS_OF_A_HOST * hosts, 1_000)
            flows = office(n, days=10.0, hosts=hosts)
            detector = exfilml.Detector(random_state=0).fit(flows)
            exfilml.save_model(detector, model)
            joblib.dump(detector, peer)
            size = model.stat().st_size
            keys = sum(len(t.keys) for t in detector.known_.tables.values())
            ours, theirs = turns(
                lambda: exfilml.load_model(model), lambda: joblib.load(peer)
            )
            say(
                f"{hosts:7,d}{n:11,d}{keys:11,d}{size / 1e3:10,.0f}{size / hosts:8,.0f}"
                f"{ours[0]:8.1f} ({ours[1]:5.1f}){theirs[0]:8.1f} ({theirs[1]:5.1f})"
                f"{peer.stat().st_size / 1e3:14,.0f}"
            )
        bare = IsolationForest(n_estimators=200, random_state=0).fit(
            np.random.default_rng(0).exponential(size=(2_000, 15))
        )
        joblib.dump(bare, peer)
        ((best, usual),) = turns(lambda: joblib.load(peer))
        say(
            f"scikit-learn's forest of 200 trees alone: {peer.stat().st_size / 1e3:,.0f}"
            f" kB, joblib.load {best:.1f} ({usual:.1f}) ms"
        )


if __name__ == "__main__":
    main()
