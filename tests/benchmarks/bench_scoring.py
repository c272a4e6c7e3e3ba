"""How long it takes from a flows table to scores and ranked tables.

Run as ``python tests/benchmarks/bench_scoring.py [FLOWS]`` (default a million). The
peer is scikit-learn's ``IsolationForest.score_samples`` alone, on one thread and on
evidence that was computed beforehand: for one flow with its default of 100 trees, for
a million with the detector's number of trees and with 100. All takes place in turns
within one run; smaller ratios are better. Seconds are processor time of the whole
process, because others may be at work on the machine; work that Arrow gives to other
threads counts in full.

The flows are those of the sample and of a made-up site, repeated with jittered sizes
among 2,000 hosts, 100,000 addresses and 50,000 host names. They arrive once as they
were made, once through a Parquet file.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest
from threadpoolctl import threadpool_limits

import exfilml
from exfilml.baseline import Observed
from exfilml.features import Asked
from exfilml.features.cases import Cases
from exfilml.places import orient
from exfilml.schema import REQUIRED, validate_flows

sys.path.insert(0, str(Path(__file__).parents[1]))

from sites import office

if TYPE_CHECKING:
    from collections.abc import Callable

    from exfilml.detector import Learned

SAMPLE = Path(__file__).parents[2] / "datasets" / "sample"
MANY = 1_000_000
HOSTS, ADDRESSES, PLACES = 2_000, 100_000, 50_000
SPAN_S = 5 * 86400.0
INBOUND = 0.03
TURNS_OF_ONE, TURNS_OF_MANY = 60, 5
TOP = 100
# Rows that the peer's trees are grown on.
TRAIN = 27_000
PACKAGES = ("scikit-learn", "pandas", "pyarrow", "numpy", "numba")

Runs = dict[str, "Callable[[], object]"]


def say(text: str = "") -> None:
    """Write one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def machine() -> None:
    """Print what the figures depend on."""
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    say(f"{platform.machine()}, {os.cpu_count()} processors, load average {load}")
    versions = [f"{p} {importlib.metadata.version(p)}" for p in PACKAGES]
    say(f"Python {platform.python_version()}, {', '.join(versions)}")
    say()


def strongest(detector: exfilml.Detector) -> Learned:
    """Return what was learned with payload, where there is any."""
    return detector.learned_.get("payload", detector.learned_["volume"])


def text(values: np.ndarray) -> pd.Series:
    """Return a text column."""
    return pd.Series(values).astype("str")


def many_flows(sample: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return the sample and a made-up site, repeated among many hosts and places."""
    rng = np.random.default_rng(0)
    made = office(20_000, seed=1).astype(sample.dtypes.to_dict())
    both = pd.concat([sample, made], ignore_index=True)
    of_sample = rng.integers(0, len(sample), n)
    of_site = rng.integers(len(sample), len(both), n)
    flows = both.iloc[np.where(rng.random(n) < 0.5, of_sample, of_site)]
    flows = flows.reset_index(drop=True)
    hosts = np.array([f"10.20.{h // 200}.{h % 200 + 10}" for h in range(HOSTS)], "O")
    parts = zip(*(rng.integers(1, 255, ADDRESSES) for _ in range(3)), strict=True)
    addresses = np.array([f"{20 + a % 70}.{a}.{b}.{c}" for a, b, c in parts], "O")
    ends = ("com", "net", "co.uk", "de")
    names = np.array([f"www.p{i}.{ends[i % 4]}" for i in range(PLACES)], dtype="O")
    # Most traffic goes to few places.
    where = np.minimum(rng.zipf(1.3, n), 10**9)
    host, remote = hosts[rng.integers(0, HOSTS, n)], addresses[where % ADDRESSES]
    inbound = rng.random(n) < INBOUND
    flows["src_ip"] = text(np.where(inbound, remote, host))
    flows["dst_ip"] = text(np.where(inbound, host, remote))
    named = flows["server_name"].notna().to_numpy()
    flows["server_name"] = text(np.where(named, names[where % PLACES], None))
    for name in ("src_bytes", "dst_bytes", "src_payload_bytes", "dst_payload_bytes"):
        jittered = flows[name].astype("Float64") * np.exp(rng.normal(0.0, 0.5, n))
        flows[name] = jittered.round().astype(flows[name].dtype)
    start = pd.to_timedelta(np.sort(rng.uniform(0, SPAN_S, n)), unit="s")
    flows["start"] = pd.Timestamp("2026-03-02", tz="UTC") + start.as_unit("us")
    return validate_flows(flows)


def through_parquet(flows: pd.DataFrame) -> pd.DataFrame:
    """Return the flows as they come from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flows.parquet"
        flows.to_parquet(path)
        return pd.read_parquet(path)


def turns(runs: Runs, n_turns: int) -> dict[str, list[float]]:
    """Seconds of each run, in turns: what slows the machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(n_turns + 1):
        for name, run in runs.items():
            begin = time.process_time()
            run()
            if turn:
                seconds[name].append(time.process_time() - begin)
    return seconds


def table(seconds: dict[str, list[float]], peers: list[str], unit: float) -> None:
    """Print best and median of each run, and its ratios to the peers."""
    width = max(map(len, seconds)) + 2
    say(f"{'':{width}s}{'best':>9s}{'median':>9s}   best (median) ratio to")
    for name, used in seconds.items():
        line = f"{name:{width}s}{min(used) * unit:9.2f}{np.median(used) * unit:9.2f}"
        if name not in peers:
            for peer in peers:
                theirs = seconds[peer]
                best = min(used) / min(theirs)
                usual = np.median(used) / np.median(theirs)
                line += f"   {peer}: {best:.2f} ({usual:.2f})"
        say(line)
    say()


def one_flow(
    detector: exfilml.Detector, flows: pd.DataFrame, evidence: np.ndarray
) -> None:
    """Print what one flow takes, different ones in turns."""
    say("one flow, milliseconds")
    forest = IsolationForest(random_state=0).fit(evidence)
    rows = [flows.iloc[[i]] for i in range(TURNS_OF_ONE + 1)]
    bare = [row[list(REQUIRED)] for row in rows]
    whole_turn, bare_turn = iter(rows), iter(bare)
    runs: Runs = {
        "sklearn": lambda: forest.score_samples(evidence[:1]),
        "score_flows, all columns": lambda: exfilml.score_flows(
            detector, next(whole_turn)
        ),
        "score_flows, required columns": lambda: exfilml.score_flows(
            detector, next(bare_turn)
        ),
    }
    table(turns(runs, TURNS_OF_ONE), ["sklearn"], 1e3)


def many(detector: exfilml.Detector, flows: pd.DataFrame, title: str) -> None:
    """Print what many flows take, beside the peer on the same evidence."""
    say(f"{len(flows):,} flows {title}, seconds")
    asked = detector.score(flows).asked
    n_cases = len(np.unique(Cases.of(asked).code))
    evidence = strongest(detector).features.matrix(asked)
    say(f"{n_cases:,} cases, {evidence.shape[1]} columns of evidence")
    runs: Runs = {
        "score_flows": lambda: exfilml.score_flows(detector, flows),
        f"rank_flows, top {TOP}": lambda: exfilml.rank_flows(detector, flows, top=TOP),
        f"rank_cases, top {TOP}": lambda: exfilml.rank_cases(detector, flows, top=TOP),
    }
    peers = []
    train = evidence[:: max(1, len(evidence) // TRAIN)]
    for trees in sorted({100, detector.n_estimators}, reverse=True):
        forest = IsolationForest(n_estimators=trees, random_state=0).fit(train)
        peers.append(f"sklearn, {trees} trees")
        runs[peers[-1]] = lambda forest=forest: forest.score_samples(evidence)
    table(turns(runs, TURNS_OF_MANY), peers, 1.0)


def steps(detector: exfilml.Detector, flows: pd.DataFrame) -> None:
    """Print what each step takes, one after the other."""
    say(f"steps of {len(flows):,} flows, seconds: best of {TURNS_OF_MANY}")
    learned = strongest(detector)
    best: dict[str, float] = {}

    def step(what: str, run: Callable[[], Any]) -> Any:
        begin = time.process_time()
        result = run()
        best[what] = min(best.get(what, np.inf), time.process_time() - begin)
        return result

    for _ in range(TURNS_OF_MANY):
        valid = step("validate", lambda: validate_flows(flows))
        oriented = step("orient", lambda t=valid: orient(t, detector.home_))
        observed = step("hash", lambda t=oriented: Observed.of(t))
        asked = Asked(oriented, observed, detector.baseline_, detector.known_)
        step("cases", lambda a=asked: Cases.of(a))
        evidence = step("features", lambda a=asked: learned.features.matrix(a))
        step("forest", lambda e=evidence: learned.forest.monotone_scores(e))
        parts = learned.parts(evidence)
        step(
            "calibration",
            lambda raw=parts.raw: (
                learned.flows.suspicion(raw),
                learned.flows.p_values(raw),
            ),
        )
        whole = step("all", lambda: exfilml.rank_flows(detector, flows, top=TOP))
        assert len(whole) == TOP
    everything = best.pop("all")
    for what, used in best.items():
        say(f"{what:14s}{used:7.2f}{used / everything:7.0%}")
    rest = everything - sum(best.values())
    say(f"{'tails, ranking':14s}{rest:7.2f}{rest / everything:7.0%}   (the rest)")
    say(f"{'rank_flows':14s}{everything:7.2f}")


def main() -> None:
    """Measure on one thread."""
    warnings.simplefilter("ignore")
    n = int(sys.argv[1].replace("_", "")) if len(sys.argv) > 1 else MANY
    baseline = exfilml.read_flows(SAMPLE / "baseline.pcap", progress=False)
    detector = exfilml.Detector(random_state=0).fit(baseline)
    sample = exfilml.read_flows(str(SAMPLE / "test.pcap"))
    machine()
    with threadpool_limits(1):
        asked = detector.score(sample).asked
        one_flow(detector, sample, strongest(detector).features.matrix(asked))
        flows = many_flows(sample, n)
        many(detector, flows, "as they were made")
        flows = through_parquet(flows)
        many(detector, flows, "from Parquet")
        steps(detector, flows)


if __name__ == "__main__":
    main()
