"""Scores to p-values, suspicion in bits, and thresholds for an alert budget.

The calibration block is normal operation that nothing else has seen. A new score's
conformal p-value is the share of block scores at least as high, the new one counted
(V. Vovk et al., "Algorithmic Learning in a Random World", 2005):
``p = (1 + #{block ≥ score}) / (n + 1)``. It holds if new normal flows are
exchangeable with the block's, and it can never be smaller than 1 / (n + 1).

*Suspicion* orders what p-values tie. Inside the block it is −log2 p, interpolated
between block scores; beyond, an exponential tail fitted to the block's highest
tenth continues it (the mean excess over a high threshold; J. Pickands, Annals of
Statistics 3, 1975, with shape 0). Beyond the block it is an extrapolation, and no
p-value.

Here, and only here, the sign flips: block scores and suspicion are *higher = worse*.

One file because everything in it is read off the same block of scores.
"""

from __future__ import annotations

import math
import numbers
import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.exceptions import CalibrationWarning, ModelFileError, OptionError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

TAIL_SHARE: Final = 0.1
# However large the budget: one normal score in twenty is no alert (4.3 bits).
MOST_ALERTED: Final = 0.05
# A tail fitted to fewer scores would be one accident.
TAIL_LEAST: Final = 10
# Scores that differ by less than this differ by rounding.
LEAST_EXCESS: Final = 1e-6
# No site asks for less or more; beyond, sentences would be full of zeros.
BUDGETS: Final = (1e-6, 1e9)
LEAST_RATE: Final = 1e-6
# Of intervals.
CONFIDENCE: Final = 0.9
# Far beyond any sum of bits; above, differences of scores could overflow.
MOST_SCORE: Final = 1e30
LN2: Final = math.log(2.0)


@dataclass(frozen=True)
class Calibrator:
    """The calibration block's scores, sorted, and the time it covers.

    Attributes
    ----------
    block
        float64, shape (n,), increasing; higher = worse.
    days
        Length of the block in days, without days that saw no flow.
    """

    block: NDArray[np.float64]
    days: float

    @classmethod
    def fit(cls, scores: ArrayLike, days: float) -> Calibrator:
        """Keep the scores of the calibration block."""
        return cls(np.sort(np.asarray(scores, dtype=np.float64)), float(days))

    def check(self) -> None:
        """Refuse a block that was tampered with.

        Raises
        ------
        ModelFileError
            If scores are missing, not finite or not in order, or days not positive.
        """
        ordered = len(self.block) > 0 and bool((np.diff(self.block) >= 0).all())
        if not ordered or not (np.abs(self.block) <= MOST_SCORE).all():
            raise ModelFileError("calibration: scores are not in order, or not finite")
        if not (math.isfinite(self.days) and self.days > 0):
            raise ModelFileError("calibration: the block covers no time")

    def p_values(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return conformal p-values, shape (n_scores,)."""
        s = np.asarray(scores, dtype=np.float64)
        n = len(self.block)
        lower = np.searchsorted(self.block, s, side="left").astype(np.float64)
        return (1.0 + (n - lower)) / (n + 1.0)

    @cached_property
    def _curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Distinct scores of the block, and the suspicion of each in bits."""
        distinct = np.unique(self.block)
        return distinct, -np.log2(self.p_values(distinct))

    @cached_property
    def tail(self) -> tuple[float, float]:
        """Where the tail begins, and its mean excess (both in score units)."""
        n = len(self.block)
        k = min(max(TAIL_LEAST, math.ceil(TAIL_SHARE * n)), n)
        begin = float(self.block[-k])
        excess = float((self.block[-k:] - begin).mean())
        # Scores are sums of bits: where the block never varies, a bit is a bit.
        return begin, excess if excess > LEAST_EXCESS else 1.0 / LN2

    def suspicion(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return suspicion in bits, shape (n_scores,); rises with every score.

        Equal to −log2 of the p-value at the block's own scores.
        """
        s = np.asarray(scores, dtype=np.float64)
        distinct, bits = self._curve
        inside = np.interp(s, distinct, bits)
        _, mean_excess = self.tail
        beyond = np.maximum(s - distinct[-1], 0.0) / (mean_excess * LN2)
        # Below the lowest score p is 1; a slight slope keeps the order.
        below = np.maximum(distinct[0] - s, 0.0)
        suspicion: NDArray[np.float64] = inside + beyond - 1e-6 * below
        return suspicion

    def score_at(self, suspicion: float) -> float:
        """Return the lowest score of a suspicion: the inverse of `suspicion`."""
        distinct, bits = self._curve
        _, mean_excess = self.tail
        beyond = max(suspicion - bits[-1], 0.0) * mean_excess * LN2
        return float(np.interp(suspicion, bits, distinct) + beyond)

    @property
    def per_day(self) -> float:
        """Normal scores a day in the block."""
        return len(self.block) / self.days

    def threshold(self, alerts_per_day: float, per_day: float | None = None) -> float:
        """Return the suspicion from which on normal operation alerts so often.

        ``log2(scores a day / alerts a day)``: at suspicion b a share 2^−b of normal
        scores lies above. `per_day` is how many scores a day share the budget, if
        other blocks calibrate some of them; `None` for those of this block. Never below log2(20): where the budget is larger than one
        normal score in twenty, the surprise is too small to alert on.

        Warns
        -----
        CalibrationWarning
            If the block is too short to support the budget, with how long it would
            have to be.

        Raises
        ------
        OptionError
            If the budget is not a positive number.
        """
        check_budget(alerts_per_day)
        needed = self.days_needed(alerts_per_day, per_day)
        if self.days < needed:
            warnings.warn(
                f"The calibration block covers {_short(self.days)} days: too short "
                f"to support {alerts_per_day:g} alerts a day. It would have to cover "
                f"{_short(needed)} days; until then the threshold is "
                "an extrapolation.",
                CalibrationWarning,
                stacklevel=2,
            )
        return -math.log2(self._alerted_share(alerts_per_day, per_day))

    def days_needed(self, alerts_per_day: float, per_day: float | None = None) -> float:
        """Return how long a block supports a budget: it expects one alert in itself."""
        return (per_day or self.per_day) / self.per_day / alerts_per_day

    def poisoned(
        self, planted: int, alerts_per_day: float, per_day: float | None = None
    ) -> float:
        """Return where the threshold would be with thefts in the calibration block.

        The planted scores tie with the block's highest. Where the threshold lies
        inside the block it does not matter how far beyond they are: each moves it up
        by less than one rank. A threshold beyond the block is an extrapolation, which
        higher ones would move further.

        Parameters
        ----------
        planted
            How many scores are added.
        alerts_per_day, per_day
            As in `threshold`.

        Returns
        -------
        float
            Suspicion as it is without the planted scores, in bits.
        """
        block = np.append(self.block, np.full(planted, self.block[-1]))
        theirs = Calibrator.fit(block, self.days)
        each = (per_day or self.per_day) + planted / self.days
        share = min(alerts_per_day / each, MOST_ALERTED)
        return float(self.suspicion(theirs.score_at(-math.log2(share))))

    def withstands(self, alerts_per_day: float, per_day: float | None = None) -> int:
        """Return how many thefts in the block still let another one like them alert.

        With k scores planted that exceed all n others, such a score has the p-value
        (1 + k) / (1 + n + k); it alerts if that is at most the alerted share.

        Returns
        -------
        int
            The largest such k; −1 where even without any a threshold lies beyond
            what the block's p-values reach.
        """
        n, each = len(self.block), per_day or self.per_day
        planted = np.arange(n + 1)
        p_value = (1.0 + planted) / (1.0 + n + planted)
        share = alerts_per_day / (each + planted / self.days)
        alerts = p_value <= np.minimum(share, MOST_ALERTED)
        return int(alerts.sum()) - 1

    def _alerted_share(self, alerts_per_day: float, per_day: float | None) -> float:
        """Return which share of normal scores a budget lets through."""
        return min(alerts_per_day / (per_day or self.per_day), MOST_ALERTED)

    def threshold_interval(
        self,
        alerts_per_day: float,
        per_day: float | None = None,
        confidence: float = CONFIDENCE,
    ) -> tuple[float, float]:
        """Return the suspicions between which the exact threshold lies.

        The score that a share s of all normal scores exceeds lies between two of
        the block's, whose ranks bound a binomial count of n draws with chance s
        (the distribution-free interval of a quantile; H. A. David, H. N. Nagaraja,
        "Order Statistics", 2003, section 7.1).

        Returns
        -------
        tuple of float
            Lower and upper bound in bits; the upper one is infinite where the block
            is too short to bound it.
        """
        n, share = len(self.block), self._alerted_share(alerts_per_day, per_day)
        few, many = _count_interval(n, share, confidence)
        low = -math.log2(min(1.0, (2.0 + many) / (n + 1.0)))
        high = -math.log2((1.0 + few) / (n + 1.0)) if few > 0 else math.inf
        return low, high

    def alert_rate(
        self,
        suspicion: float,
        per_day: float | None = None,
        confidence: float = CONFIDENCE,
    ) -> tuple[float, float]:
        """Return between how many normal scores a day reach a suspicion.

        Clopper and Pearson's interval (Biometrika 26, 1934) for the share of normal
        scores, from the share of the block's, times normal scores a day.
        """
        k = int((self.suspicion(self.block) >= suspicion - 1e-9).sum())
        low, high = share_interval(k, len(self.block), confidence)
        each = per_day or self.per_day
        return low * each, high * each

    def warn_if_too_short(
        self, p_values: NDArray[np.float64], n_tested: int, rate: float
    ) -> None:
        """Say it where nothing is rejected only because the block is too short.

        With n scores in the block no p-value is below 1 / (n + 1). If k of m tested
        scores lie beyond the whole block, a false discovery rate q rejects them only
        if 1 / (n + 1) ≤ k q / m.

        Parameters
        ----------
        p_values
            Of scores calibrated by this block.
        n_tested
            m, scores calibrated by other blocks included.
        rate
            q.

        Warns
        -----
        CalibrationWarning
            With how many scores, and days, the block would need.
        """
        n = len(self.block)
        beyond = int((p_values <= 1.0 / (n + 1.0) + 1e-12).sum())
        if beyond == 0 or 1.0 / (n + 1.0) <= beyond * rate / n_tested:
            return
        needed = math.ceil(n_tested / (beyond * rate)) - 1
        warnings.warn(
            f"A false discovery rate of {rate:g} cannot reject anything here: "
            f"{beyond:,} of {n_tested:,} scores lie beyond the whole calibration block, "
            f"but its {n:,} scores allow no p-value below {1.0 / (n + 1.0):.2g}. It "
            f"would need {needed:,} scores, about {_short(needed / self.per_day)} days "
            f"instead of {_short(self.days)}; give a longer baseline, or an alert "
            "budget.",
            CalibrationWarning,
            stacklevel=2,
        )


# A pipeline asks for the same intervals with every flow, and scipy takes longer to
# answer than the flow to be scored.
@lru_cache(maxsize=256)
def _count_interval(n: int, share: float, confidence: float) -> tuple[int, int]:
    """Return the interval of a binomial count of n draws with chance `share`."""
    from scipy.stats import binom

    outside = (1.0 - confidence) / 2.0
    few, many = (int(binom.ppf(q, n, share)) for q in (outside, 1.0 - outside))
    return few, many


@lru_cache(maxsize=256)
def share_interval(k: int, n: int, confidence: float) -> tuple[float, float]:
    """Return Clopper and Pearson's interval of a share seen as k of n."""
    from scipy.stats import beta

    outside = (1.0 - confidence) / 2.0
    low = float(beta.ppf(outside, k, n - k + 1)) if k > 0 else 0.0
    high = float(beta.ppf(1.0 - outside, k + 1, n - k)) if k < n else 1.0
    return low, high


def check_budget(alerts_per_day: float) -> None:
    """Refuse an alert budget that is no positive number.

    Raises
    ------
    OptionError
        With what was given.
    """
    number = isinstance(alerts_per_day, numbers.Real) and alerts_per_day is not True
    low, high = BUDGETS
    if not (number and low <= alerts_per_day <= high):
        raise OptionError(
            f"alerts per day: got {alerts_per_day!r}, expected a number above 0 "
            f"({low:g} to {high:g})."
        )


def check_rate(rate: float) -> None:
    """Refuse a false discovery rate that is none.

    Raises
    ------
    OptionError
        With what was given.
    """
    if not (isinstance(rate, numbers.Real) and LEAST_RATE <= rate < 1.0):
        raise OptionError(
            f"false discovery rate: got {rate!r}, expected a number between 0 and 1 "
            f"({LEAST_RATE:g} or more)."
        )


def _short(number: float) -> str:
    """Write a number for a sentence: 0.0012, 3.5, 1,234."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def false_discovery_threshold(p_values: NDArray[np.float64], rate: float) -> float:
    """Return the largest p-value rejected at a false discovery rate, else −1.

    Benjamini and Hochberg's step-up procedure (J. R. Stat. Soc. B 57, 1995).

    Raises
    ------
    OptionError
        If the rate is not between 0 and 1.
    """
    check_rate(rate)
    if len(p_values) == 0:
        return -1.0
    from scipy.stats import false_discovery_control

    rejected = false_discovery_control(p_values, method="bh") <= rate
    return float(p_values[rejected].max()) if rejected.any() else -1.0
