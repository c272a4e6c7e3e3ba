"""`Calibrator`: what p-values, suspicion and thresholds promise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from exfilml.calibration import Calibrator, false_discovery_threshold
from exfilml.exceptions import CalibrationWarning, ModelFileError, OptionError

SETTINGS = settings(max_examples=150, deadline=None)

# Scores are sums of bits; more than 10⁶ of them is more than a century of bytes.
SCORE = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))
BLOCKS = st.one_of(
    st.lists(SCORE, min_size=1, max_size=60),
    # ties
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=1, max_size=60),
    # a constant block
    st.tuples(SCORE, st.integers(1, 40)).map(lambda t: [t[0]] * t[1]),
)


# --- p-values ---------------------------------------------------------------------


@SETTINGS
@given(BLOCKS, st.lists(SCORE, max_size=20))
def test_p_values_count_block_scores_as_high(block, scores):
    calibrator = Calibrator.fit(block, 1.0)
    expected = [(1 + sum(b >= s for b in block)) / (len(block) + 1) for s in scores]
    assert calibrator.p_values(scores).tolist() == expected


@SETTINGS
@given(BLOCKS, st.lists(st.floats(allow_nan=False), max_size=20))
def test_p_values_lie_between_one_nth_and_one(block, scores):
    p = Calibrator.fit(block, 1.0).p_values(scores)
    assert ((p >= 1 / (len(block) + 1)) & (p <= 1)).all()


@pytest.mark.parametrize("n", [1, 9, 99])
@pytest.mark.parametrize("digits", [0, 12], ids=["ties", "no ties"])
def test_p_values_are_conformal(n, digits):
    """P(p ≤ α) ≤ α at every α, over blocks and new scores of one distribution."""
    rng = np.random.default_rng(n)
    rounds = 20_000
    scores = rng.normal(size=(rounds, n + 1)).round(digits)
    # The definition for many blocks at once; the method itself on the first few.
    p = (1 + (scores[:, :n] >= scores[:, n:]).sum(axis=1)) / (n + 1)
    method = [Calibrator.fit(s[:n], 1.0).p_values(s[n:])[0] for s in scores[:200]]
    assert method == p[:200].tolist()
    for alpha in (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.9):
        error = 4 * np.sqrt(alpha * (1 - alpha) / rounds)
        assert (p <= alpha).mean() <= alpha + error


# --- suspicion --------------------------------------------------------------------


@SETTINGS
@given(BLOCKS)
def test_suspicion_is_minus_log2_p_at_block_scores(block):
    calibrator = Calibrator.fit(block, 1.0)
    expected = -np.log2(calibrator.p_values(block))
    assert np.allclose(calibrator.suspicion(block), expected, rtol=0, atol=1e-12)


@SETTINGS
@given(BLOCKS, st.lists(SCORE, min_size=2, max_size=30, unique=True))
def test_suspicion_rises_strictly_with_the_score(block, scores):
    """Below, between, at and above block scores, with ties, with one score."""
    low, high = min(block), max(block)
    every = np.unique(
        [*scores, *block, low - 1.0, low - 1e-3, high + 1e-3, high + 1.0, high + 1e4]
    )
    suspicion = Calibrator.fit(block, 1.0).suspicion(every)
    assert np.isfinite(suspicion).all()
    assert (np.diff(suspicion) > 0).all()


@pytest.mark.parametrize("block", [[3.0], [3.0] * 20, [3.0] * 20 + [3.0 + 1e-15]])
def test_beyond_a_block_that_never_varies_a_bit_is_a_bit(block):
    """Scores that differ by rounding must not make a tail of infinite slope."""
    calibrator = Calibrator.fit(block, 1.0)
    beyond = calibrator.suspicion([4.0, 5.0, 9.0])
    assert np.allclose(np.diff(beyond), [1.0, 4.0])


def test_the_tail_continues_an_exponential_one():
    """On exponential scores suspicion beyond the block is −log2 of the true tail."""
    block = np.random.default_rng(0).exponential(3.0, 20_000)
    calibrator = Calibrator.fit(block, 1.0)
    far = block.max() + np.array([10.0, 30.0])
    slope = np.diff(calibrator.suspicion(far)) / 20.0
    assert slope == pytest.approx(1 / (3.0 * np.log(2)), rel=0.1)


def test_block_order_does_not_matter():
    block = np.random.default_rng(0).normal(size=100)
    scores = np.linspace(-5, 9, 50)
    one, other = Calibrator.fit(block, 1.0), Calibrator.fit(block[::-1], 1.0)
    assert np.array_equal(one.suspicion(scores), other.suspicion(scores))


def test_no_scores_give_no_suspicion():
    calibrator = Calibrator.fit([1.0, 2.0], 1.0)
    assert calibrator.suspicion([]).shape == calibrator.p_values([]).shape == (0,)


# --- thresholds -------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1.0, 5.0, 20.0])
def test_the_budget_is_kept_on_days_like_those_of_the_block(budget):
    rng = np.random.default_rng(0)
    days, a_day = 20, 500
    alerts = []
    for _ in range(40):
        calibrator = Calibrator.fit(rng.gumbel(0, 3, days * a_day), days)
        today = calibrator.suspicion(rng.gumbel(0, 3, a_day))
        alerts.append((today >= calibrator.threshold(budget)).sum())
    assert np.mean(alerts) == pytest.approx(budget, rel=0.25)


def test_however_large_the_budget_one_normal_score_in_twenty_is_no_alert():
    assert Calibrator.fit(np.arange(10.0), 1.0).threshold(1000.0) == np.log2(20)


@SETTINGS
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_a_smaller_budget_never_lowers_the_threshold(one, other):
    calibrator = Calibrator.fit(np.arange(100.0), 10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        less, more = map(calibrator.threshold, sorted((one, other)))
    assert less >= more


def test_a_block_too_short_for_the_budget_is_said_with_the_length_it_needs():
    calibrator = Calibrator.fit(np.arange(100.0), 1.5)
    with pytest.warns(CalibrationWarning) as caught:
        calibrator.threshold(0.001)
    assert str(caught[0].message) == (
        "The calibration block covers 1.5 days: too short to support 0.001 alerts a "
        "day. It would have to cover 1,000 days; until then the threshold is an "
        "extrapolation."
    )


def test_a_block_long_enough_is_silent():
    assert Calibrator.fit(np.arange(100.0), 1.0).threshold(1.0) == pytest.approx(
        np.log2(100)
    )


def test_threshold_intervals_hold_the_exact_threshold():
    """In nine of ten blocks, for a distribution whose quantiles are known."""
    rng = np.random.default_rng(0)
    days, a_day, budget = 10, 200, 3.0
    exact = -np.log(budget / a_day)
    held = []
    for _ in range(400):
        calibrator = Calibrator.fit(rng.exponential(size=days * a_day), days)
        low, high = calibrator.threshold_interval(budget)
        held.append(low <= calibrator.suspicion([exact])[0] <= high)
        assert low <= calibrator.threshold(budget) <= high
    assert np.mean(held) >= 0.88


def test_a_threshold_that_the_block_cannot_bound_has_no_upper_bound():
    low, high = Calibrator.fit(np.arange(100.0), 1.0).threshold_interval(1.0)
    assert low < np.log2(100) < high == np.inf


def test_alert_rates_hold_the_exact_rate():
    rng = np.random.default_rng(0)
    days, a_day, score = 10, 200, 4.0
    exact = a_day * np.exp(-score)
    held = []
    for _ in range(400):
        calibrator = Calibrator.fit(rng.exponential(size=days * a_day), days)
        low, high = calibrator.alert_rate(calibrator.suspicion([score])[0])
        held.append(low <= exact <= high)
    assert np.mean(held) >= 0.88


def test_beyond_the_block_normal_alerts_may_be_none():
    low, high = Calibrator.fit(np.arange(100.0), 2.0).alert_rate(20.0)
    assert low == 0.0
    assert 0 < high < 3


def test_a_false_discovery_rate_out_of_reach_is_said_with_what_it_needs():
    calibrator = Calibrator.fit(np.arange(99.0), 2.0)
    p_values = np.r_[[0.01] * 2, np.full(498, 0.5)]
    with pytest.warns(CalibrationWarning) as caught:
        calibrator.warn_if_too_short(p_values, 500, 0.1)
    assert str(caught[0].message) == (
        "A false discovery rate of 0.1 cannot reject anything here: 2 of 500 scores "
        "lie beyond the whole calibration block, but its 99 scores allow no p-value "
        "below 0.01. It would need 2,499 scores, about 50 days instead of 2; give a "
        "longer baseline, or an alert budget."
    )
    # And with so many it would reject.
    longer = np.r_[[1 / 2500] * 2, np.full(498, 0.5)]
    assert false_discovery_threshold(longer, 0.1) == 1 / 2500


@pytest.mark.parametrize(
    "p_values", [np.full(500, 0.5), np.r_[[0.01] * 60, np.full(440, 0.5)]]
)
def test_a_false_discovery_rate_within_reach_is_silent(p_values):
    """Nothing lies beyond the block, or enough does."""
    Calibrator.fit(np.arange(99.0), 2.0).warn_if_too_short(p_values, 500, 0.1)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), -float("inf")])
def test_impossible_budgets_are_refused(budget):
    with pytest.raises(OptionError, match=r"alerts per day: got .* above 0"):
        Calibrator.fit([1.0], 1.0).threshold(budget)


# --- false discovery rate ---------------------------------------------------------


def step_up(p_values, rate):
    """Benjamini and Hochberg (1995), as they wrote it down."""
    n = len(p_values)
    passed = [p for i, p in enumerate(sorted(p_values), 1) if p <= i / n * rate]
    return max(passed, default=-1.0)


@SETTINGS
@given(st.lists(st.integers(1, 100), max_size=50), st.integers(1, 96))
def test_false_discovery_threshold_is_benjamini_hochbergs(counts, percent):
    p_values = np.array(counts, dtype=float) / 101
    rate = percent / 97
    # Exact ties between p and its limit depend on rounding, in either order.
    limits = np.arange(1, len(counts) + 1) / max(len(counts), 1) * rate
    assume((np.abs(np.sort(p_values) - limits) > 1e-12).all())
    assert false_discovery_threshold(p_values, rate) == step_up(p_values, rate)


def test_no_p_values_reject_nothing():
    assert false_discovery_threshold(np.zeros(0), 0.1) == -1.0


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(OptionError, match=r"false discovery rate: got .* 0 and 1"):
        false_discovery_threshold(np.array([0.5]), rate)


def test_the_false_discovery_rate_is_kept():
    """Uniform p-values plus strong signals: the mean false share stays below Q."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        p = np.r_[rng.random(95), rng.random(5) * 1e-6]
        limit = false_discovery_threshold(p, 0.2)
        shares.append((p[:95] <= limit).sum() / max((p <= limit).sum(), 1))
    assert np.mean(shares) <= 0.2 + 0.02


# --- audit ------------------------------------------------------------------------


def test_a_fitted_calibrator_passes_the_audit():
    Calibrator.fit(np.random.default_rng(0).normal(size=50), 3.0).check()


@pytest.mark.parametrize(
    "block",
    [
        [],
        [2.0, 1.0],
        [float("nan")],
        [1.0, float("nan")],
        [float("nan"), 1.0],
        [1.0, float("inf")],
        [-float("inf"), 1.0],
    ],
)
def test_a_block_that_is_empty_unordered_or_not_finite_is_refused(block):
    with pytest.raises(ModelFileError, match="not in order"):
        Calibrator(np.array(block), 1.0).check()


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan"), float("inf")])
def test_a_block_that_covers_no_time_is_refused(days):
    with pytest.raises(ModelFileError, match="no time"):
        Calibrator(np.array([1.0]), days).check()


# --- thefts in the calibration block -------------------------------------------------


@SETTINGS
@given(BLOCKS, st.floats(0.0, 40.0))
def test_the_score_of_a_suspicion_has_that_suspicion(block, bits):
    calibrator = Calibrator.fit(block, 1.0)
    lowest = calibrator.suspicion([calibrator.block[0]])[0]
    there = calibrator.suspicion([calibrator.score_at(bits)])[0]
    assert there == pytest.approx(max(bits, lowest), abs=1e-6)


@SETTINGS
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 20.0))
def test_more_thefts_never_lower_a_threshold_inside_the_block(seed, budget):
    block = np.random.default_rng(seed).exponential(size=400)
    calibrator = Calibrator.fit(block, 10.0)
    most = calibrator.withstands(budget)
    moved = [calibrator.poisoned(k, budget) for k in range(most + 1)]
    assert (np.diff(moved) >= -1e-9).all()


def test_a_theft_in_the_block_moves_the_threshold_by_less_than_a_rank():
    """By the order statistics: k planted scores shift it k ranks at most."""
    calibrator = Calibrator.fit(np.random.default_rng(0).exponential(size=999), 10.0)
    at = calibrator.threshold(2.0)
    assert calibrator.poisoned(0, 2.0) == pytest.approx(at)
    ranks = 1000 * (2.0**-at - 2.0 ** -calibrator.poisoned(3, 2.0))
    assert 0 < ranks <= 3.01


@SETTINGS
@given(st.integers(30, 400), st.floats(0.1, 20.0))
def test_a_like_theft_alerts_beside_as_many_as_is_said(n, budget):
    """With one more in the block it would not."""
    clean = Calibrator.fit(np.arange(float(n)), 10.0)
    most = clean.withstands(budget)
    for planted, alerts in ((most, True), (most + 1, False)):
        if 0 <= planted <= n:
            block = np.concatenate([clean.block, np.full(planted, 1e6)])
            p_value = Calibrator.fit(block, 10.0).p_values([1e6])[0]
            share = min(budget * 10.0 / (n + planted), 0.05)
            assert (p_value <= share) == alerts
