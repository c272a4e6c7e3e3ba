"""Scores of flows and cases, held against the calibration block's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from exfilml.blindspots import SEEING
from exfilml.calibration import CONFIDENCE, Calibrator
from exfilml.drawing import BLUE, GREY, RED, SKY, axes_for
from exfilml.exceptions import FlowsError, OptionError
from exfilml.policy import Policy
from exfilml.ranking import at_home, judge

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from exfilml.detector import Detector, Scored

BY: Final = ("case", "flow")
# Points of a curve, and bars of a distribution: more could not be told apart.
MOST_POINTS: Final = 400
MOST_BARS: Final = 60


def plot_scores(
    detector: Detector,
    flows: pd.DataFrame,
    *,
    by: str = "case",
    capability: str | None = None,
    alerts_per_day: float | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how suspicious flows are, beside the calibration block's.

    Where the flows are of normal operation the two agree; thefts stand on the right,
    alone. What stays inside the site is left out.

    Parameters
    ----------
    detector
        A fitted detector.
    flows
        A flows table.
    by
        ``case``, with the suspicion from which on a case alerts, or ``flow``.
    capability
        ``payload`` or ``volume``; `None` for what most of them were scored by.
    alerts_per_day
        Alert budget in cases a day; `None` for the detector's own.
    policy
        What the site declares, as in `exfilml.rank_cases`: home networks, and rules,
        which add bits to what breaks them.
    ax
        Where to draw; `None` for a new figure.

    Raises
    ------
    FlowsError
        If `flows` is no flows table, or has no rows.
    OptionError
        If `by`, the capability or the budget is none.
    """
    ax = axes_for(ax)
    _check_by(by)
    judged = judge(detector, flows, alerts_per_day=alerts_per_day, policy=policy)
    some = _Some.of(detector, judged.scored, by, capability)
    block = some.calibrator.suspicion(some.calibrator.block)
    new = some.suspicion
    end = float(np.ceil(max(block.max(), new.max()))) + 1.0
    edges = np.linspace(0.0, end, int(min(end, MOST_BARS)) + 1)
    what = "cases" if by == "case" else "flows"
    for bits, colour, label, style in (
        (block, BLUE, f"calibration: {len(block):,} {what} of normal operation", "-"),
        (new, RED, f"these {len(new):,} {what}", "--"),
    ):
        counts = np.histogram(np.maximum(bits, 0.0), edges)[0]
        share = np.where(counts > 0, counts / len(bits), np.nan)
        ax.stairs(
            np.nan_to_num(share), edges, fill=True, color=colour, alpha=0.25, baseline=0
        )
        ax.stairs(
            np.nan_to_num(share), edges, color=colour, linewidth=1.6, label=label,
            linestyle=style,
        )  # fmt: skip
    if by == "case":
        limit = judged.thresholds[some.capability]["suspicion"]
        budget = detector.alerts_per_day if alerts_per_day is None else alerts_per_day
        ax.axvline(
            limit,
            color="black",
            linewidth=1.2,
            label=f"alerts from {limit:.1f} bits ({budget:g} a day)",
        )
    ax.set_yscale("log")
    ax.set_ylim(0.5 / max(len(block), len(new)), 1.3)
    ax.set(
        xlim=(0.0, end),
        xlabel="suspicion (bits)",
        ylabel=f"share of {what}",
        title=f"Suspicion of {what}, {SEEING[some.capability]}",
    )
    ax.legend(loc="upper right", fontsize=8)
    return ax


def plot_calibration(
    detector: Detector,
    flows: pd.DataFrame,
    *,
    by: str = "case",
    capability: str | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how often p-values are as small as they say, on flows of normal operation.

    The share of them with a p-value of at most p should be p. The band says how far a
    calibrated detector may stray by chance: 90 % of the counts of m new scores at or
    above a rank of the block's n, which are beta-binomial (V. Vovk, "Conditional
    validity of inductive conformal predictors", 2012), pointwise. Above it false
    alarms are more than promised, below it fewer.

    Cases grow with time: give flows of about as many days as the calibration block
    has. Cases and flows depend on each other, which makes the band too narrow rather
    than too wide. What stays inside the site is left out.

    Parameters
    ----------
    detector
        A fitted detector.
    flows
        A flows table of normal operation that the detector has not learned from.
    by
        ``case`` or ``flow``.
    capability
        ``payload`` or ``volume``; `None` for what most of them were scored by.
    policy
        What the site declares, of which the home networks count here.
    ax
        Where to draw; `None` for a new figure.

    Raises
    ------
    FlowsError
        If `flows` is no flows table, or has no rows.
    OptionError
        If `by` or the capability is none.
    """
    ax = axes_for(ax, (5.6, 5.0))
    _check_by(by)
    declared = None if policy is None else Policy.of(policy)
    scored = at_home(detector, declared).score(flows)
    some = _Some.of(detector, scored, by, capability)
    n, m = len(some.calibrator.block), len(some.p_value)
    ranks = np.unique(
        np.geomspace(1, n + 1, min(n + 1, MOST_POINTS)).round().astype(np.int64)
    )
    p = ranks / (n + 1.0)
    # Equal p-values come from one division: no tolerance is needed but rounding's.
    observed = np.searchsorted(np.sort(some.p_value), p + 1e-12, side="right") / m
    inside = ranks <= n
    low, high = chance_band(n, m, ranks[inside])
    least = 0.5 / max(n + 1, m)
    what = "cases" if by == "case" else "flows"
    ax.fill_between(
        p[inside],
        np.maximum(low, least),
        np.maximum(high, least),
        color=SKY,
        alpha=0.35,
        linewidth=0,
        label="what chance allows (90 %)",
    )
    ax.plot(p, p, color=GREY, linewidth=1, linestyle="--", label="as promised")
    ax.plot(
        p,
        np.where(observed > 0, observed, np.nan),
        color=RED,
        linewidth=1.8,
        label=f"these {m:,} {what}",
    )
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(1.0 / (n + 1.0), 1.0),
        ylim=(least, 1.3),
        xlabel=f"p-value (calibration: {n:,} {what})",
        ylabel=f"share of {what} with a p-value as small",
        title=f"Calibration of {what}, {SEEING[some.capability]}",
    )
    ax.legend(loc="lower right", fontsize=8)
    return ax


def chance_band(
    n: int, m: int, ranks: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return between which shares of m new scores are among the first ranks of n.

    Of scores that are exchangeable with a block of n, the number that is at or above
    the block's k-th highest is beta-binomial with k and n + 1 − k.

    Parameters
    ----------
    n, m
        Scores of the block, and new ones.
    ranks
        k, 1 … n.

    Returns
    -------
    low, high : numpy.ndarray of float64, shape (n_ranks,)
        Of the 90 % interval.
    """
    from scipy.stats import betabinom

    outside = (1.0 - CONFIDENCE) / 2.0
    low, high = (
        betabinom.ppf(q, m, ranks, n + 1 - ranks) / m for q in (outside, 1.0 - outside)
    )
    return low, high


@dataclass(frozen=True)
class _Some:
    """Scores of one capability that are held against its calibration block."""

    capability: str
    suspicion: NDArray[np.float64]
    p_value: NDArray[np.float64]
    calibrator: Calibrator

    @classmethod
    def of(
        cls, detector: Detector, scored: Scored, by: str, capability: str | None
    ) -> _Some:
        if scored.asked.n_flows == 0:
            raise FlowsError("There are no flows to draw.")
        case = by == "case"
        with_payload = scored.case_with_payload if case else scored.with_payload
        if case:
            leaves = ~scored.apart
            suspicion, p_value = scored.case_suspicion, scored.case_p_value
        else:
            # Flows are calibrated with all flows of the block.
            leaves = np.ones(len(scored.suspicion), dtype=bool)
            suspicion, p_value = scored.suspicion, scored.p_value
        if capability is None:
            most = (with_payload & leaves).sum() * 2 >= leaves.sum()
            capability = "payload" if most and with_payload.any() else "volume"
        rows = leaves & (with_payload == (capability == "payload"))
        if capability not in detector.learned_ or not rows.any():
            seen = [
                name
                for name in detector.learned_
                if (leaves & (with_payload == (name == "payload"))).any()
            ]
            raise OptionError(
                f"capability={capability!r}: nothing was scored so; expected one of "
                f"{', '.join(seen) or 'none, as nothing leaves the site'}."
            )
        learned = detector.learned_[capability]
        return cls(
            capability,
            suspicion[rows],
            p_value[rows],
            learned.cases if case else learned.flows,
        )


def _check_by(by: str) -> None:
    if by not in BY:
        raise OptionError(f"by={by!r}: expected one of {', '.join(BY)}.")
