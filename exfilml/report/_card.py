"""A detector's card as a notebook shows it: in place of scikit-learn's parameters."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Final

from exfilml.blindspots import SEEING
from exfilml.exceptions import CalibrationWarning
from exfilml.features import FAMILIES
from exfilml.report._html import (
    LONGEST_REASON,
    Shown,
    bar,
    page,
    rows_of,
    tip,
    told,
)
from exfilml.schema import CAPABILITIES

if TYPE_CHECKING:
    from exfilml.detector import Detector, Learned


def shown_card(detector: Detector) -> Shown:
    """Say what a detector learned from, when, and what it can judge."""
    if not hasattr(detector, "learned_"):
        text = f"{detector!r}: not fitted yet; fit it on flows of normal operation."
        return Shown(page(f"<p>{told(text, LONGEST_REASON)}</p>"), text)
    first, last = detector.window_
    days = (last - first).total_seconds() / 86_400
    facts = [
        (
            "learned from",
            f"{detector.n_flows_:,} flows of {detector.known_.n_hosts:,} local hosts",
        ),
        (
            "time",
            f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC ({days:.1f} days)",
        ),
        ("home networks", ", ".join(detector.home_)),
        ("alert budget", f"{detector.alerts_per_day:g} cases a day"),
    ]
    made = getattr(detector, "made_by_", None)
    if made:
        facts.append(("made by", f"exfilml {made.get('exfilml', '?')}"))
    lines = [f"{key}: {value}" for key, value in facts]
    body = "".join(
        f'<tr><th scope="row">{told(key)}</th><td>{told(value, LONGEST_REASON)}</td></tr>'
        for key, value in facts
    )
    shown = [
        (kind, detector.shown_[kind])
        for kind in reversed(CAPABILITIES)
        if detector.shown_.get(kind)
    ]
    most = max((n for _, n in shown), default=1)
    bars = rows_of(
        (
            [told(_SHOWED.get(kind, kind)), f"{bar(n / most)} {n:,}"]
            for kind, n in shown
        ),
        ("the most that a flow showed", "flows"),
        "",
    )
    lines += [f"showed {kind}: {n:,} flows" for kind, n in shown]
    # Volumes are seen of every case: the budget is shared by all of them.
    per_day = detector.learned_["volume"].cases.per_day
    told_of = [
        _capability(name, learned, detector.alerts_per_day, per_day)
        for name, learned in sorted(detector.learned_.items())
    ]
    lines += [line for _, some in told_of for line in some]
    return Shown(
        page(
            "<p><strong>exfilml Detector</strong></p>",
            f"<table><tbody>{body}</tbody></table>",
            bars if shown else "",
            *(piece for piece, _ in told_of),
        ),
        "\n".join(["exfilml Detector", *lines]),
    )


_SHOWED: Final = {
    "payload": "payload",
    "application": "application",
    "packets": "packets",
    "volume": "volume only",
}


def _capability(
    name_: str, learned: Learned, budget: float, per_day: float
) -> tuple[str, list[str]]:
    """Say what one capability judges, and how it is calibrated."""
    cases = learned.cases
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        limit = cases.threshold(budget, per_day)
    low, high = cases.alert_rate(limit, per_day)
    needed = cases.days_needed(budget, per_day)
    about = (
        f"{SEEING[name_]}: a case alerts from {limit:.1f} bits on; normal operation "
        f"then raises {low:.2g} to {high:.2g} alerts a day (90 % interval)"
    )
    calibrated = (
        f"calibrated on {len(learned.flows.block):,} flows in {len(cases.block):,} cases "
        f"of {cases.days:.2g} days"
    )
    if cases.days < needed:
        calibrated += (
            f": too short for this budget, which needs {math.ceil(10 * needed) / 10:g} "
            "days; until then the threshold is an extrapolation"
        )
    features = learned.features.features
    rows = []
    for family in FAMILIES:
        mine = [f for f in features if f.family == family]
        if mine:
            tips = [f"{f.name}: {' '.join(f.definition.split())}" for f in mine]
            names = ", ".join(f.name for f in mine)
            rows.append([told(family), f"<span{tip(tips)}>{told(names, 900)}</span>"])
    trees = len(learned.forest.trees_.start) - 1
    forest = f"{trees} trees of {learned.forest.max_samples_} flows each"
    piece = (
        f"<p><strong>{told(about, 400)}</strong><br>{told(calibrated, 400)}; "
        f"{told(forest)}.</p>"
        f"<details><summary>{len(features)} columns of evidence in {len(rows)} "
        f"families</summary>{rows_of(rows, ('family', 'evidence'), '')}</details>"
    )
    return piece, [about, calibrated, forest]
