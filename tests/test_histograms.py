"""Histograms by key: their quantiles are as exact as promised, however merged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exfilml.histograms
from exfilml.histograms import (
    ALPHA,
    BINS,
    Histograms,
    upload_bins,
    upload_of_bin,
)
from exfilml.tally import combine

sizes = st.one_of(
    st.integers(0, 2000), st.integers(0, 63).map(lambda i: 2**i), st.integers(0, 2**53)
)
# Few keys with many rows each, and the other way round.
rows = st.lists(st.tuples(st.integers(0, 4), sizes), max_size=60)


def hashed(keys):
    return combine(np.array(keys, dtype=np.uint64))


def learned(rows) -> Histograms:
    keys, up = zip(*rows, strict=True) if rows else ((), ())
    return Histograms.group(hashed(keys), upload_bins(np.array(up, dtype=np.float64)))


def same(one: Histograms, other: Histograms) -> bool:
    return (
        np.array_equal(one.cells, other.cells)
        and np.array_equal(one.counts, other.counts)
        and one.forgotten == other.forgotten
    )


@given(st.floats(0, 2.0**63))
def test_a_bin_stands_for_its_uploads_to_within_the_stated_error(up):
    bins = upload_bins(np.array([up]))
    told = upload_of_bin(bins.astype(np.float64))[0]
    assert abs(told - up) <= ALPHA * up * (1 + 1e-9) or up < 1


def test_the_largest_upload_has_a_bin():
    assert upload_bins(np.array([0.0, 0.5, 1.0, 2.0**63])).tolist() == [0, 0, 1, 219]
    assert BINS > 219


@given(st.lists(rows, min_size=1, max_size=4), st.floats(0, 1), st.randoms())
def test_quantiles_are_numpys_to_within_the_stated_error(pieces, q, random):
    """Also after merging pieces in any order; NaN for keys that were never seen."""
    shuffled = [learned(piece) for piece in pieces]
    random.shuffle(shuffled)
    whole = shuffled[0]
    for piece in shuffled[1:]:
        whole = whole.merge(piece)
    told = upload_of_bin(whole.quantile(hashed(range(6)), q))
    for key in range(6):
        up = [size for piece in pieces for k, size in piece if k == key]
        if not up:
            assert np.isnan(told[key])
            continue
        expected = np.quantile(np.array(up, dtype=np.float64), q, method="lower")
        assert abs(told[key] - expected) <= ALPHA * expected * (1 + 1e-9)


@given(rows, rows, rows)
def test_merging_is_exact_in_any_order(a, b, c):
    x, y, z = learned(a), learned(b), learned(c)
    assert same(x.merge(y), y.merge(x))
    assert same(x.merge(y).merge(z), x.merge(y.merge(z)))
    assert same(x.merge(y).merge(z), learned(a + b + c))
    assert same(x.merge(Histograms()), x)


@given(rows)
def test_counts_of_a_key_are_its_rows(rows):
    histograms = learned(rows)
    counts = histograms.counts_of(hashed(range(6)))
    assert counts.shape == (6, BINS)
    for key in range(6):
        up = np.array([size for k, size in rows if k == key], dtype=np.float64)
        expected = np.bincount(upload_bins(up), minlength=BINS)
        assert counts[key].tolist() == expected.tolist()
    assert histograms.total.tolist() == counts.sum(axis=0).tolist()


@pytest.mark.parametrize("size", [1, 7, 40])
def test_the_rarest_keys_are_forgotten_whole_and_counted(size, monkeypatch):
    """Never more cells than allowed; what stays is exact, what goes is told."""
    monkeypatch.setattr(exfilml.histograms, "MAX_CELLS", 30)
    rng = np.random.default_rng(size)
    known, told = Histograms(), 0
    for _ in range(50):
        keys = combine(rng.zipf(1.5, size).astype(np.uint64))
        known = known.merge(
            Histograms.group(keys, upload_bins(rng.lognormal(6, 2, size)))
        )
        told += size
        assert len(known.cells) <= 30
        assert known.counts.sum() + known.forgotten[1] == told
    assert known.forgotten[0] > 0
    rarest_kept = known.counts_of(combine(np.array([1], dtype=np.uint64))).sum()
    assert rarest_kept > 0 or size == 1
