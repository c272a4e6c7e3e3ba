"""What each piece of evidence earns: the detector learned anew without it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
from joblib import Parallel, delayed

import exfilml
from exfilml.evaluation import POSITIVE, Truth, measure
from exfilml.features import FAMILIES, FEATURES, FlowFeatures, accumulation
from exfilml.ranking import alerted_cases

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from comparison.data import Data
    from exfilml.detector import Learned

WHOLE = "all evidence"


class Ablated(exfilml.Detector):
    """A detector that learns without some features, or without its forest.

    It is calibrated like any other, so that its alerts keep the budget.
    """

    without: frozenset[str] = frozenset()
    silent = False

    def _features(self, *, payload: bool) -> FlowFeatures:
        names = FlowFeatures(payload=payload).names
        left = [name for name in names if name not in self.without]
        if not left:
            raise ValueError("No evidence is left to learn from.")
        return FlowFeatures(payload=payload, names=left)

    def _learn(self, features: FlowFeatures, evidence: NDArray[np.float64]) -> Learned:
        learned = super()._learn(features, evidence)
        return replace(learned, scale=0.0) if self.silent else learned


def fit(
    baseline: pd.DataFrame,
    *,
    seed: int,
    without: frozenset[str] = frozenset(),
    silent: bool = False,
    **options: object,
) -> exfilml.Detector:
    """Fit a detector without some features, or without its forest."""
    detector = Ablated(random_state=seed, **options)
    detector.without, detector.silent = without, silent
    return detector.fit(baseline)


def pieces(data: Data, *, each: bool) -> dict[str, dict[str, object]]:
    """Return what is left out by the name of its row; `each` for single features."""
    judged = [f for f in FEATURES if not (data.netflow and f.needs_payload)]
    names = {family: _of(judged, family) for family in FAMILIES}
    sums = frozenset(f.name for f in accumulation.FEATURES if f in judged)
    rows: dict[str, dict[str, object]] = {WHOLE: {}}
    rows |= {
        f"without {family} ({len(gone)})": {"without": gone}
        for family, gone in names.items()
        if gone
    }
    rows[f"without sums over time ({len(sums)})"] = {"without": sums}
    rows["without the forest"] = {"silent": True}
    if each:
        for feature in judged:
            row = f"without `{feature.name}` of {feature.family}"
            rows[row] = {"without": frozenset([feature.name])}
    return rows


def _of(features: list[exfilml.features.Feature], family: str) -> frozenset[str]:
    return frozenset(f.name for f in features if f.family == family)


def figures(data: Data, seed: int, left_out: dict[str, object]) -> dict[str, float]:
    """Fit without a piece and return what is found then."""
    detector = fit(data.baseline, seed=seed, **left_out)
    scored = detector.score(data.test)
    truth = Truth.of(data.test, data.labels, scored.case)
    planted, counted = truth.case_label == POSITIVE, truth.judged
    alerted = alerted_cases(detector, scored)
    theft = truth.label == POSITIVE
    found = measure(scored.ranked_cases[counted], planted[counted])
    return {
        "average precision": found["average_precision"],
        "scenarios found": len(set(truth.scenario[theft & alerted[truth.case]])),
        "false alarms": int((alerted & counted & ~planted).sum()),
    }


def table(data: Data, seeds: int, *, each: bool, n_jobs: int) -> str:
    """Return the ablation as Markdown: means over several seeds of the forest."""
    rows = pieces(data, each=each)
    asked = [(name, seed) for name in rows for seed in range(seeds)]
    results = Parallel(n_jobs=n_jobs)(
        delayed(figures)(data, seed, rows[name]) for name, seed in asked
    )
    index = pd.MultiIndex.from_tuples(asked, names=["piece", "seed"])
    every = pd.DataFrame(results, index=index)
    # By seed, so that what the seed does is no part of a difference.
    change = every["average precision"] - every["average precision"].loc[WHOLE]
    mean = every.groupby("piece", sort=False).mean()
    low, high = (change.groupby("piece").agg(f) for f in ("min", "max"))
    lines = [
        (
            f"Means over {seeds} seeds of the forest; the change is the mean over seeds "
            "(lowest to highest). Found and false alarms at the default budget of "
            f"{exfilml.Detector().alerts_per_day:g} alerts a day. In brackets: how "
            "many features go."
        ),
        "",
        "| evidence | average precision | change | scenarios found | false alarms |",
        "|---|---|---|---|---|",
    ]
    for name, row in mean.iterrows():
        ap, found, false = row
        gain = ap - mean.loc[WHOLE, "average precision"]
        shown = f"{gain:+.3f} ({low[name]:+.3f} to {high[name]:+.3f})"
        change_cell = "" if name == WHOLE else shown
        lines.append(
            f"| {name} | {ap:.3f} | {change_cell} | {found:.1f} | {false:.1f} |"
        )
    return "\n".join(lines)
