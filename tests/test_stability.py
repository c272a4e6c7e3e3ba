"""Population stability: what moved is told, what did not is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from exfilml.stability import BINS, MOVED, Bins, count

VALUES = st.one_of(
    st.just(0.0),
    st.just(np.nan),
    st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6),
)


def rows(low=1, high=40):
    return st.integers(low, high).flatmap(
        lambda n: arrays(np.float64, (n, 2), elements=VALUES)
    )


def evidence(n, seed, *, above=0.1, shift=0.0):
    """Zero-inflated columns, as evidence is, some of them missing."""
    rng = np.random.default_rng(seed)
    values = np.where(
        rng.random((n, 3)) < above, rng.exponential(2.0, (n, 3)) + shift, 0.0
    )
    values[rng.random(n) < 0.2, 2] = np.nan
    return values


@given(rows())
def test_every_value_is_in_one_bin(matrix):
    bins = Bins.of(matrix)
    assert bins.counts.shape == (2, BINS)
    assert (bins.counts.sum(axis=1) == len(matrix)).all()
    assert (bins.counts[:, 0] == np.isnan(matrix).sum(axis=0)).all()
    assert (bins.counts[:, 1] == (matrix == 0).sum(axis=0)).all()


# The first call imports scipy.
@settings(deadline=None)
@given(rows(), rows())
def test_the_index_is_finite_and_not_negative(reference, new):
    index, chance = Bins.of(reference).compare(new)
    assert np.isfinite(index).all()
    assert (index >= 0).all()
    assert (chance > 0).all()


@settings(deadline=None)
@given(rows(5), st.randoms(use_true_random=False))
def test_row_order_does_not_matter(matrix, random):
    order = list(range(len(matrix)))
    random.shuffle(order)
    bins = Bins.of(matrix)
    assert np.array_equal(bins.edges, Bins.of(matrix[order]).edges)
    ours, theirs = bins.compare(matrix), bins.compare(matrix[order])
    assert np.array_equal(ours[0], theirs[0])


def test_the_index_is_that_of_the_definition():
    """Σ (a − e) ln(a / e), by hand where smoothing is nothing beside the counts."""
    reference = np.repeat([0.0, 1.0], [800_000, 200_000])[:, None]
    new = np.repeat([0.0, 1.0], [600_000, 400_000])[:, None]
    index, _ = Bins.of(reference).compare(new)
    expected = (0.6 - 0.8) * np.log(0.6 / 0.8) + (0.4 - 0.2) * np.log(0.4 / 0.2)
    assert index[0] == pytest.approx(expected, rel=1e-3)


def test_the_same_population_passes_the_chance_limit_once_in_twenty():
    """The limit is what one column in twenty exceeds where nothing moved."""
    passed = [
        Bins.of(evidence(2000, seed)).compare(evidence(1500, 10_000 + seed))
        for seed in range(200)
    ]
    index, chance = (np.concatenate(part) for part in zip(*passed, strict=True))
    assert 0.02 <= (index > chance).mean() <= 0.09
    assert (index < MOVED).all()


@pytest.mark.parametrize("change", [{"above": 0.45}, {"above": 0.5, "shift": 3.0}])
def test_a_move_is_told(change):
    reference = Bins.of(evidence(2000, 0))
    index, chance = reference.compare(evidence(1500, 1, **change))
    assert (index > MOVED).all()
    assert (index > chance).all()


def test_a_few_rows_claim_nothing():
    reference = Bins.of(evidence(2000, 0))
    index, chance = reference.compare(evidence(3, 1))
    assert not ((index > MOVED) & (index > chance)).any()


def test_a_column_that_never_varied_has_bins_for_what_it_never_was():
    bins = Bins.of(np.zeros((500, 1)))
    index, chance = bins.compare(np.zeros((500, 1)))
    assert index[0] < chance[0]
    assert bins.compare(np.ones((500, 1)))[0] > MOVED
    assert (count(bins.edges, -np.ones((4, 1)))[0] == np.eye(BINS)[2] * 4).all()
