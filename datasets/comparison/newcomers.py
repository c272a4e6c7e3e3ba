"""Hosts that the baseline has never seen: how many false alarms they are good for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from comparison import ablation
from exfilml.evaluation import POSITIVE, Truth, measure
from exfilml.places import orient
from exfilml.ranking import alerted_cases

if TYPE_CHECKING:
    from comparison.data import Data
    from exfilml.detector import Detector

SHARES: Final = 4


def judged(detector: Detector, data: Data) -> dict[str, Any]:
    """Return cases with their hosts, which are honest, and which are alerted."""
    scored = detector.score(data.test)
    truth = Truth.of(data.test, data.labels, scored.case)
    planted, counted = truth.case_label == POSITIVE, truth.judged
    host = np.empty(len(planted), dtype=object)
    host[scored.case] = scored.asked.oriented["local_ip"].to_numpy()
    found = measure(scored.ranked_cases[counted], planted[counted])
    alerted = alerted_cases(detector, scored)
    return {
        "precision": found["average_precision"],
        "alarms": host[alerted & counted & ~planted],
        "thefts": host[planted],
        "found": host[planted & alerted],
    }


def table(data: Data, seed: int = 0) -> str:
    """Return false alarms with a share of the hosts unknown, as Markdown."""
    known = ablation.fit(data.baseline, seed=seed)
    before = judged(known, data)
    oriented = orient(data.baseline, known.home_)
    hosts = sorted(set(oriented["local_ip"][oriented["direction"] == "outbound"]))
    lines = [
        (
            f"Each row leaves every flow of a quarter of the {len(hosts)} hosts out of "
            "the baseline; in brackets what the same hosts are with the whole of it. "
            "False alarms at the default budget of "
            f"{known.alerts_per_day:g} alerts a day."
        ),
        "",
        (
            "| new hosts | false alarms of these | of all others | their thefts alerted "
            "| average precision |"
        ),
        "|---|---|---|---|---|",
    ]
    for k in range(SHARES):
        new = hosts[k::SHARES]
        flows = data.baseline
        kept = ~(flows["src_ip"].isin(new) | flows["dst_ip"].isin(new))
        after = judged(ablation.fit(flows[kept], seed=seed), data)
        (ours, theirs), (ours_before, theirs_before), (thefts, _), (found, _) = (
            _counts(run[what], new)
            for run, what in (
                (after, "alarms"),
                (before, "alarms"),
                (after, "thefts"),
                (after, "found"),
            )
        )
        lines.append(
            f"| {len(new)} | {ours} ({ours_before}) | {theirs} ({theirs_before}) | "
            f"{found} of {thefts} | {after['precision']:.3f} "
            f"({before['precision']:.3f}) |"
        )
    return "\n".join(lines)


def _counts(hosts: Any, new: list[str]) -> tuple[int, int]:
    ours = int(np.isin(hosts.astype(str), new).sum())
    return ours, len(hosts) - ours
