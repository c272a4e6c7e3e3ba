"""Where planted transfers rank, beside simple and well-known methods.

    python datasets/compare.py                      print the sample's tables
    python datasets/compare.py validate --write     put a split's into README.md
    python datasets/compare.py develop --attacks    with real attacks laid over it

Every method sees the same captures and the same cases (one local host, place and
service), and gives a case the score of its highest flow, or for upload and ratio that
of its sums; the detector gives its own case score, and once more the score without the
forest's bits. All are measured by `exfilml.evaluation.measure`; ties count against a
method. Forests and ECOD learn from the baseline's flows. PyOD takes part where it is
installed (``pip install exfilml[bench]``).
"""

from __future__ import annotations

import argparse
import copy
import gzip
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from nfstream import NFStreamer
from sklearn.ensemble import IsolationForest

import exfilml
from exfilml.evaluation import POSITIVE, Truth, evaluate, measure

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
FOLDERS = {"sample": HERE / "sample"} | {
    split: HERE / "lab" / split for split in ("develop", "validate", "report")
}
REAL = "EXFILML_REAL_DATA"
KEY = ["src_ip", "src_port", "dst_ip", "dst_port", "protocol", "ms"]
CUTS = (10, 20, 50)
# So many cases looked at for nothing are a place where the detector loses.
MANY = 10
OURS = "exfilml"
SILENT = "exfilml without its forest"


@dataclass(frozen=True)
class Data:
    """Both halves of a dataset: captures, flows and labels."""

    captures: tuple[Path, Path] | None
    baseline: pd.DataFrame
    test: pd.DataFrame
    labels: pd.DataFrame

    @classmethod
    def of(cls, name: str, scratch: Path) -> Data:
        """Read a dataset; compressed captures are unpacked, for NFStream's sake."""
        folder = FOLDERS[name]
        captures = []
        for half in ("baseline", "test"):
            plain = folder / f"{half}.pcap"
            if not plain.exists():
                plain = scratch / plain.name
                with (
                    gzip.open(folder / f"{half}.pcap.gz") as packed,
                    plain.open("wb") as file,
                ):
                    shutil.copyfileobj(packed, file)
            captures.append(plain)
        first, second = captures
        return cls(
            (first, second),
            exfilml.read_flows(first, progress=False),
            exfilml.read_flows(second, progress=False),
            exfilml.read_labels(folder / "labels.csv"),
        )

    @classmethod
    def overlaid(cls, name: str) -> Data:
        """Read a split with real attacks laid over its test days."""
        from lab import attacks

        folder = FOLDERS[name]
        baseline = exfilml.read_flows(folder / "baseline.pcap.gz", progress=False)
        flows, labels = attacks.overlay(folder, Path(os.environ[REAL]))
        return cls(None, baseline, exfilml.validate_flows(flows), labels)


# --- the other methods --------------------------------------------------------------


def statistics(path: Path) -> pd.DataFrame:
    """Return NFStream's numeric columns of each flow, indexed by its key."""
    rows = []
    columns: list[str] = []
    streamer = NFStreamer(
        source=str(path),
        statistical_analysis=True,
        accounting_mode=1,
        snapshot_length=65535,
        n_meters=1,
    )
    for flow in streamer:
        columns = columns or [
            c
            for c in flow.keys()  # noqa: SIM118 - a flow is no mapping
            if c.startswith(("bidirectional", "src2dst", "dst2src"))
        ]
        values = [getattr(flow, c) for c in columns]
        key = (flow.src_ip, flow.src_port, flow.dst_ip, flow.dst_port, flow.protocol)
        rows.append((*key, flow.bidirectional_first_seen_ms, *values))
    table = pd.DataFrame(rows, columns=[*KEY, *columns])
    return table.drop(columns=[c for c in columns if c.endswith("_seen_ms")])


def forest_on_statistics(
    captures: tuple[Path, Path], flows: pd.DataFrame, seed: int
) -> np.ndarray:
    """Score the test flows by a forest on NFStream's statistics of the baseline."""
    baseline, test = map(statistics, captures)
    features = [c for c in baseline.columns if c not in KEY]
    forest = IsolationForest(random_state=seed).fit(baseline[features])
    test["score"] = -forest.score_samples(test[features])
    score = test.drop_duplicates(KEY).set_index(KEY)["score"]
    ms = flows["start"].astype("datetime64[ms, UTC]").astype("int64")
    keys = pd.MultiIndex.from_frame(flows[KEY[:-1]].assign(ms=ms))
    swapped = pd.MultiIndex.from_frame(
        flows[["dst_ip", "dst_port", "src_ip", "src_port", "protocol"]].assign(ms=ms)
    )
    found = score.reindex(keys).to_numpy()
    found = np.where(np.isnan(found), score.reindex(swapped).to_numpy(), found)
    # What has no flow of the same key there (parts that were joined) is not found.
    return np.nan_to_num(found, nan=-1.0)


def card(flows: pd.DataFrame) -> np.ndarray:
    """Entropy, ratio, mismatch and volumes of each flow, as a textbook would."""
    up, down = (flows[f"{s}_bytes"].to_numpy("float64") for s in ("src", "dst"))
    return np.column_stack(
        [
            flows["src_entropy"].fillna(0.0),
            (up - down) / np.maximum(up + down, 1.0),
            ~flows["app_verified"].fillna(value=False).astype(bool),
            np.log2(1.0 + up),
            np.log2(1.0 + down),
            np.log2(1.0 + flows["src_packets"].to_numpy("float64")),
            np.log2(1.0 + flows["dst_packets"].to_numpy("float64")),
        ]
    )


def learned(data: Data, seed: int) -> dict[str, np.ndarray]:
    """Scores of the test flows by what learns from the baseline's."""
    train, rows = card(data.baseline), card(data.test)
    card_forest = IsolationForest(random_state=seed).fit(train)
    found = {
        "forest on entropy, ratio, mismatch, volumes": -card_forest.score_samples(rows)
    }
    if data.captures is not None:
        of_captures = forest_on_statistics(data.captures, data.test, seed)
        found = {"forest on NFStream's statistics": of_captures} | found
    try:
        from pyod.models.ecod import ECOD
        from pyod.models.iforest import IForest
    except ImportError:
        return found
    found["PyOD IForest on the same"] = (
        IForest(random_state=seed).fit(train).decision_function(rows)
    )
    found["PyOD ECOD on the same"] = ECOD().fit(train).decision_function(rows)
    return found


# --- the tables -----------------------------------------------------------------------


def by_case(
    detector: exfilml.Detector, data: Data, seed: int
) -> tuple[Truth, dict[str, np.ndarray]]:
    """Return what the cases are, and the score that each method gives each of them."""
    scored = detector.score(data.test)
    case, n = scored.case, len(scored.case_suspicion)
    # The tails alone; order is all that counts here.
    silent = copy.copy(detector)
    silent.learned_ = {
        name: replace(part, scale=0.0) for name, part in detector.learned_.items()
    }
    flows = data.test
    up, down = (
        np.bincount(case, flows[f"{s}_bytes"], minlength=n) for s in ("src", "dst")
    )

    def highest(score: np.ndarray) -> np.ndarray:
        most = np.full(n, -np.inf)
        np.maximum.at(most, case, score)
        return most

    scores = {
        OURS: scored.case_suspicion,
        SILENT: silent.score(flows).case_suspicion,
        "largest total upload": up,
        "producer–consumer ratio": (up - down) / np.maximum(up + down, 1.0),
        "upload entropy": highest(flows["src_entropy"].fillna(0.0).to_numpy()),
    }
    others = learned(data, seed)
    scores |= {name: highest(score) for name, score in others.items()}
    return Truth.of(flows, data.labels, case), scores


def ahead(score: np.ndarray, truth: Truth) -> np.ndarray:
    """Return how many cases that are no theft come before each case; ties do."""
    normal = np.sort(score[truth.judged & (truth.case_label != POSITIVE)])
    own = truth.judged & (truth.case_label != POSITIVE)
    return len(normal) - np.searchsorted(normal, score, side="left") - own


def tables(data: Data, seed: int = 0) -> str:
    """Return the tables as Markdown."""
    detector = exfilml.Detector(random_state=seed).fit(data.baseline)
    truth, scores = by_case(detector, data, seed)
    planted = truth.case_label == POSITIVE
    counted = truth.judged
    before = {m: ahead(s, truth) for m, s in scores.items()}
    lines = [
        (
            f"{len(data.test):,} flows in {len(planted):,} cases, {planted.sum()} of them "
            f"planted; seed {seed}."
        ),
        "",
        "| method | average precision (90 % interval) | "
        + " | ".join(f"recall at {k}" for k in CUTS)
        + " |",
        "|---|---|" + "---|" * len(CUTS),
    ]
    for method, score in scores.items():
        found = measure(score[counted], planted[counted], seed=seed)
        ap, low, high = (found[k] for k in ("average_precision", "low", "high"))
        recall = " | ".join(f"{found[f'recall_at_{k}']:.0%}" for k in CUTS)
        lines.append(f"| {method} | {ap:.2f} ({low:.2f}–{high:.2f}) | {recall} |")
    found = evaluate(detector, data.test, data.labels, seed=seed)
    honest = int((found.table["alert"] & (found.table["label"] != POSITIVE)).sum())
    lines += [
        "",
        (
            f"At a budget of {found.budget:g} alerts a day exfilml finds "
            f"{found.scenarios_found} of {found.scenarios} scenarios and alerts "
            f"{found.false_alarms} of the {found.n_normal} cases that are no theft, in "
            f"{found.days:.1f} days; the budget allows {found.budget * found.days:.0f}. "
            f"{honest} scenarios among the false alarms are hard negatives."
        ),
        (
            f"False alarms: {found.false_alarms_per_1000_cases:.1f} per 1,000 cases; "
            f"{found.false_alarms_per_day_per_1000_hosts:.0f} per (virtual) day per 1,000 "
            "hosts."
        ),
        "",
        (
            "How many cases that are no theft come before each scenario's best case, "
            f"by method; **bold** where exfilml has {MANY} or more and another method "
            "at most half as many before a theft."
        ),
        "",
        "| label | scenario | " + " | ".join(scores) + " |",
        "|---|---|" + "---|" * len(scores),
    ]
    about = pd.DataFrame(
        {"label": truth.label, "scenario": truth.scenario, "case": truth.case}
    )
    labelled = about[about["label"] != ""]
    for (label, scenario), group in labelled.groupby(["label", "scenario"]):
        cases = group["case"].unique()
        best = {m: int(n[cases].min()) for m, n in before.items()}
        lost = label == POSITIVE and best[OURS] >= MANY
        cells = [
            f"**{n}**"
            if lost and m not in (OURS, SILENT) and 2 * n <= best[OURS]
            else n
            for m, n in best.items()
        ]
        lines.append(f"| {label} | {scenario} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def write(path: Path, name: str, text: str) -> None:
    """Put the tables between a file's markers."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main(say: Callable[[str], object] = print) -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", choices=FOLDERS, default="sample")
    parser.add_argument("--write", action="store_true", help="update README.md")
    parser.add_argument(
        "--attacks", action="store_true", help=f"lay ${REAL} over the split's test days"
    )
    asked = parser.parse_args()
    if asked.attacks and (asked.data == "sample" or REAL not in os.environ):
        parser.error(f"--attacks needs a split of the lab, and ${REAL}")
    with tempfile.TemporaryDirectory() as scratch:
        read = partial(Data.of, scratch=Path(scratch))
        text = tables((Data.overlaid if asked.attacks else read)(asked.data))
    say(text)
    if asked.write:
        write(HERE / "README.md", asked.data + "-attacks" * asked.attacks, text)


if __name__ == "__main__":
    main()
