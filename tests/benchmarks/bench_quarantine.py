"""What quarantine gains where the baseline holds a theft, and what it costs.

Run as ``python tests/benchmarks/bench_quarantine.py``. Into the part of the lab's
develop baseline that precedes calibration one upload is planted, in five flows of one
day, or of three days in turn. Detectors are fitted on the baseline without it, with it,
and with it after `exfilml.clean_baseline`; then the same upload comes again on a later
day. Recall is how often that alerts, over carriers and seeds; false alarms are alerted
cases of the split's test days without its labelled flows.

The second table plants uploads into the calibration block itself, which is never
cleaned, and compares where the alert threshold then lies with what
`exfilml.calibration.Calibrator.poisoned` says beforehand.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

import exfilml
from exfilml.detector import CALIBRATION_SHARE
from exfilml.inject import CARRIERS
from exfilml.ranking import alerted_cases

LAB = Path(__file__).parents[2] / "datasets" / "lab" / "develop"
SIZES = (100_000, 1_000_000)
DAYS = (1, 3)
SEEDS = (0,)
FORESTS = range(3)
FLOWS = 5
PLANTED = (1, 2, 5, 10)
DAY = pd.Timedelta(days=1)


def say(text: str = "") -> None:
    """Write one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def fitted(flows: pd.DataFrame) -> exfilml.Detector:
    return exfilml.Detector(random_state=0).fit(flows)


def alerts(detector: exfilml.Detector, flows: pd.DataFrame) -> int:
    """Count the cases that alert."""
    return int(alerted_cases(detector, detector.score(flows)).sum())


def planted(
    early: pd.DataFrame, size: int, carrier: str, days: int, seed: int
) -> pd.DataFrame:
    """Return the rows of an upload, the same again on each of so many days."""
    transfer = exfilml.Transfer(carrier, size, flows=FLOWS)
    made = exfilml.inject(early, transfer, seed=seed)
    rows = made.flows.loc[made.index]
    first, span = early["start"].min(), early["start"].max() - early["start"].min()
    return pd.concat(
        [
            rows.assign(start=first + (rows["start"] - first + k * DAY) % span)
            for k in range(days)
        ],
        ignore_index=True,
    )


def gain(base: pd.DataFrame, normal: pd.DataFrame) -> None:
    """Print recall and false alarms with and without quarantine."""
    early = base.iloc[: round((1.0 - CALIBRATION_SHARE) * len(base))]
    clean = fitted(base)
    without, within, aside = [], [], []
    for seed in FORESTS:
        detector = exfilml.Detector(random_state=seed)
        spotless = exfilml.clean_baseline(detector, base)
        aside.append(len(spotless.quarantined))
        without.append(alerts(detector.fit(base), normal))
        within.append(alerts(spotless.detector, normal))
    say(
        f"nothing planted, {len(FORESTS)} forests: {min(aside)} to {max(aside)} flows "
        f"quarantined; false alarms {min(without)} to {max(without)} without, "
        f"{min(within)} to {max(within)} with quarantine"
    )
    say(
        f"{'bytes':>9s}{'days':>6s}{'trials':>8s}{'recall: clean':>15s}"
        f"{'planted':>9s}{'quarantined':>13s}{'caught':>8s}"
        f"{'false alarms: planted':>23s}{'quarantined (most)':>20s}"
    )
    for size in SIZES:
        for days in DAYS:
            seen, false, caught = [], [], []
            for seed in SEEDS:
                for carrier in CARRIERS:
                    rows = planted(early, size, carrier, days, seed)
                    late = rows.iloc[: len(rows) // days]
                    since = normal["start"].min() - late["start"].min()
                    late = late.assign(start=late["start"] + since.ceil("D"))
                    both = pd.concat([base, rows], ignore_index=True)
                    cleaned = exfilml.clean_baseline(
                        exfilml.Detector(random_state=0), both
                    )
                    caught.append(
                        (cleaned.quarantined.index >= len(base)).sum() == len(rows)
                    )
                    dirty = fitted(both)
                    models = (clean, dirty, cleaned.detector)
                    seen.append([alerts(d, late) > 0 for d in models])
                    false.append([alerts(d, normal) for d in models[1:]])
            n = len(seen)
            recall = [f"{k}/{n}" for k in np.sum(seen, axis=0)]
            (before, after), (_, most) = np.mean(false, axis=0), np.max(false, axis=0)
            say(
                f"{size:9,d}{days:6d}{n:8d}{recall[0]:>15s}{recall[1]:>9s}"
                f"{recall[2]:>13s}{f'{sum(caught)}/{n}':>8s}{before:23.1f}"
                f"{f'{after:.1f} ({most})':>20s}"
            )


def shift(base: pd.DataFrame) -> None:
    """Print how far thefts in the calibration block move the threshold."""
    clean = fitted(base).learned_["payload"].cases
    budget = exfilml.Detector().alerts_per_day
    late = base.iloc[round((1.0 - CALIBRATION_SHARE) * len(base)) :]
    say()
    say("thefts in the calibration block: where the alert threshold is, in bits")
    say(f"{'thefts':>7s}{'foretold':>10s}{'found (seeds)':>16s}")
    say(f"{0:7d}{clean.threshold(budget):10.2f}")
    for count in PLANTED:
        found = []
        for seed in SEEDS:
            kinds = (list(CARRIERS) * 2)[seed : seed + count]
            uploads = [exfilml.Transfer(c, SIZES[-1], flows=FLOWS) for c in kinds]
            made = exfilml.inject(late, uploads, seed=seed)
            both = pd.concat([base, made.flows.loc[made.index]], ignore_index=True)
            block = fitted(both).learned_["payload"].cases
            bits = clean.suspicion([block.score_at(block.threshold(budget))])
            found.append(float(bits[0]))
        said = ", ".join(f"{bits:.2f}" for bits in found)
        say(f"{count:7d}{clean.poisoned(count, budget):10.2f}{said:>16s}")


def main() -> None:
    """Print both tables."""
    warnings.simplefilter("ignore")
    base = exfilml.read_flows(LAB / "baseline.pcap.gz", progress=False)
    base = base.sort_values("start", ignore_index=True)
    test = exfilml.read_flows(LAB / "test.pcap.gz", progress=False)
    labels = exfilml.read_labels(LAB / "labels.csv")
    normal = test[exfilml.apply_labels(test, labels)["label"].isna().to_numpy()]
    gain(base, normal)
    shift(base)


if __name__ == "__main__":
    main()
