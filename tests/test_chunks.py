"""Flows that come in pieces give what they give in one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sites import office, theft

from exfilml import Detector, chunks, read_flows, save_model
from exfilml.baseline import Baseline, Observed
from exfilml.chunks import (
    LEARNED,
    TIME_ORDER,
    Largest,
    Sample,
    in_chunks,
    in_time_order,
)
from exfilml.exceptions import (
    BaselineError,
    CapabilityWarning,
    FlowsError,
    OptionError,
)
from exfilml.features import Asked, FlowFeatures
from exfilml.features.cases import Cases
from exfilml.places import (
    PRIVATE_NETWORKS,
    PublicEnds,
    infer_networks,
    orient,
    stays_inside,
)
from exfilml.schema import DTYPES, validate_flows

BASELINE = Path(__file__).parent.parent / "datasets" / "sample" / "baseline.pcap"


def cut(flows, rng, most):
    """Pieces of random lengths, some of them empty, rows of equal start shuffled."""
    ends = np.sort(rng.integers(0, len(flows) + 1, most))
    shuffled = flows.iloc[rng.permutation(len(flows))]
    ordered = shuffled.sort_values("start", kind="stable", ignore_index=True)
    return [ordered.iloc[a:b] for a, b in zip([0, *ends], [*ends, None], strict=True)]


def coarse(n_flows, **options):
    """A site whose sensor tells seconds: many flows start together."""
    flows = office(n_flows, **options)
    return flows.assign(start=flows["start"].dt.floor("10min"))


def model_bytes(detector, folder, name):
    save_model(detector, folder / name)
    return (folder / name).read_bytes()


# --- order --------------------------------------------------------------------------


def test_ties_in_time_are_broken_by_content():
    """Also of flows that differ in nothing but volumes or payload."""
    flows = coarse(300)
    again = flows.iloc[:40].assign(dst_bytes=7, src_declared="png")
    both = pd.concat([flows, again], ignore_index=True)
    expected = in_time_order(both)
    assert expected["start"].is_monotonic_increasing
    by_ends = expected.sort_values(TIME_ORDER, kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(by_ends, expected)
    for seed in range(5):
        mixed = both.sample(frac=1.0, random_state=seed)
        pd.testing.assert_frame_equal(in_time_order(mixed), expected)


@given(seed=st.integers(0, 10**6), most=st.integers(15, 150), pieces=st.integers(0, 8))
@settings(max_examples=15, deadline=None)
def test_chunks_do_not_depend_on_pieces(seed, most, pieces):
    flows = coarse(120, days=0.5)
    expected = list(in_chunks([flows], most))
    assert sum(map(len, expected)) == 120
    actual = list(in_chunks(cut(flows, np.random.default_rng(seed), pieces), most))
    assert [len(c) for c in actual] == [len(c) for c in expected]
    for one, other in zip(actual, expected, strict=True):
        pd.testing.assert_frame_equal(one, other)
    # A minute is never cut, and a chunk has no more than it must.
    starts = [c["start"].iloc[[0, -1]].dt.floor("min").tolist() for c in expected]
    assert all(a[1] < b[0] for a, b in pairwise(starts))
    assert all(len(c) >= most for c in expected[:-1])


def test_pieces_may_lack_columns_that_others_have():
    flows = office(100, payload=False)
    few = flows[[c for c in flows if flows[c].notna().any()]]
    pieces = [
        few.iloc[:30].drop(columns="server_name"),
        few.iloc[30:60],
        flows.iloc[60:],
    ]
    expected = flows.copy()
    expected.loc[:29, "server_name"] = pd.NA
    (actual,) = in_chunks(pieces)
    learned = in_time_order(expected)[list(LEARNED)]
    pd.testing.assert_frame_equal(actual, validate_flows(learned))


def test_nothing_is_learned_from_other_columns(tmp_path):
    """Of packets of many kinds; else the column belongs to `LEARNED`."""
    flows = read_flows(BASELINE, progress=False)
    others = [name for name in DTYPES if name not in LEARNED]
    assert flows[others].notna().any().sum() > 30
    bare = validate_flows(flows[list(LEARNED)])
    # By another way than that of `fit`, which reads no other columns either.
    for one, other in zip(_described(flows), _described(bare), strict=True):
        assert np.array_equal(one, other, equal_nan=True)


def _described(flows):
    oriented = orient(flows, PRIVATE_NETWORKS)
    observed = Observed.of(oriented)
    baseline = Baseline.learn(observed.rows(slice(0, 1500)))
    asked = Asked(oriented, observed, baseline, baseline)
    yield from (tally.keys for tally in baseline.tables.values())
    yield from (c for t in baseline.tables.values() for c in t.values.values())
    yield from (h.cells for h in baseline.histograms.values())
    yield FlowFeatures(payload=True).matrix(asked)
    yield Cases.of(asked).keys
    yield stays_inside(oriented)


def test_pieces_out_of_order_are_refused():
    flows = office(100)
    with pytest.raises(BaselineError, match="before the end of the one before"):
        list(in_chunks([flows.iloc[50:], flows.iloc[:50]]))
    with pytest.raises(FlowsError):
        list(in_chunks([flows.drop(columns="dst_ip")]))


# --- samples --------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), n=st.integers(1, 400), pieces=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_sample_is_the_rows_of_the_smallest_hashes(seed, n, pieces):
    """However they come, in the order in which they come; ties go to the first."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 300, n).astype(np.uint64)
    rows = np.arange(n, dtype=np.float64)[:, None]
    expected = np.sort(np.argsort(hashes, kind="stable")[:50])
    sample = Sample(50)
    ends = np.sort(rng.integers(0, n + 1, pieces))
    for a, b in zip([0, *ends], [*ends, n], strict=True):
        wanted = sample.wanted(hashes[a:b])
        sample.add(hashes[a:b][wanted], rows[a:b][wanted])
    assert sample.rows()[:, 0].tolist() == expected.tolist()


def test_the_largest_of_each_key_and_what_was_last_said():
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 40, 500).astype(np.uint64)
    values, flags = rng.normal(size=500), rng.random(500) < 0.5
    largest = Largest()
    for part in np.array_split(np.arange(500), 7):
        largest.add(keys[part], values[part], flags[part])
    table = pd.DataFrame({"key": keys, "value": values, "flag": flags}).groupby("key")
    assert largest.keys.tolist() == sorted(set(keys.tolist()))
    assert largest.values.tolist() == table["value"].max().tolist()
    assert largest.flags.tolist() == table["flag"].last().tolist()


# --- detectors ------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [True, False])
@pytest.mark.parametrize("most", [100, 10**6])
def test_a_stream_gives_the_model_of_the_table(tmp_path, monkeypatch, payload, most):
    """Bit for bit, whatever the pieces; with chunks smaller than blocks, and larger."""
    monkeypatch.setattr(chunks, "CHUNK", most)
    flows = coarse(1500, payload=payload, days=9)
    hidden = flows.index % 3 == 0
    if payload:
        flows["src_sampled_bytes"] = flows["src_sampled_bytes"].mask(hidden)
        flows["dst_sampled_bytes"] = flows["dst_sampled_bytes"].mask(hidden)
    flows = pd.concat([flows, theft(flows)], ignore_index=True)
    expected = model_bytes(
        Detector(random_state=0, n_estimators=10).fit(flows), tmp_path, "table"
    )
    for seed, pieces in enumerate((0, 3, 40)):
        tables = cut(flows, np.random.default_rng(seed), pieces)
        detector = Detector(random_state=0, n_estimators=10)
        detector.fit_stream(iter(tables), len(flows))
        assert model_bytes(detector, tmp_path, "stream") == expected


def test_a_chunk_that_ends_changes_sums_by_rounding_alone(tmp_path, monkeypatch):
    flows = office(1500)
    whole = Detector(random_state=0, n_estimators=10).fit(flows)
    monkeypatch.setattr(chunks, "CHUNK", 100)
    pieces = Detector(random_state=0, n_estimators=10).fit(flows)
    for name, tally in whole.known_.tables.items():
        other = pieces.known_.tables[name]
        assert np.array_equal(tally.keys, other.keys)
        for value, column in tally.values.items():
            assert np.allclose(column, other.values[value], rtol=1e-12), value
    fresh = office(300, seed=1, first_day="2026-03-09")
    expected, actual = whole.score(fresh), pieces.score(fresh)
    assert np.allclose(expected.suspicion, actual.suspicion, atol=1e-6)


@pytest.mark.parametrize("bound", [150, 400])
def test_a_bounded_sample_depends_on_content_alone(tmp_path, monkeypatch, bound):
    """Neither on the order of rows nor on pieces; and p-values stay right."""
    monkeypatch.setattr(chunks, "MOST_EVIDENCE", bound)
    monkeypatch.setattr(chunks, "CHUNK", 200)
    flows = office(3000, days=10)
    detector = Detector(random_state=0, n_estimators=10)
    expected = model_bytes(detector.fit(flows), tmp_path, "table")
    mixed = flows.sample(frac=1.0, random_state=0)
    assert model_bytes(detector.fit(mixed), tmp_path, "mixed") == expected
    tables = cut(flows, np.random.default_rng(0), 30)
    assert model_bytes(detector.fit_stream(tables, 3000), tmp_path, "s") == expected
    assert detector.learned_["payload"].bins.counts.sum(axis=1).max() == bound
    # All flows of the last block calibrate, not only those of the sample.
    assert len(detector.learned_["payload"].flows.block) == 900
    fresh = office(2000, seed=1, days=6, first_day="2026-03-12")
    p = detector.score(fresh).p_value
    assert (p <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 / 900)


def test_a_stream_must_hold_what_was_announced():
    flows = office(200)
    detector = Detector(random_state=0, n_estimators=5)
    for n in (199, 201):
        with pytest.raises(BaselineError, match="hold 200 flows"):
            detector.fit_stream([flows], n)
    with pytest.raises(BaselineError, match="at least 50"):
        detector.fit_stream([flows.iloc[:10]], 10)
    with pytest.raises(OptionError, match="n_flows: got '200'"):
        detector.fit_stream([flows], "200")
    with pytest.raises(FlowsError, match="got str"):
        detector.fit_stream(flows, 200)
    assert not hasattr(detector, "learned_")


def test_a_stream_takes_inferred_home_networks(tmp_path):
    flows = office(600)
    for side in ("src", "dst"):
        moved = flows[f"{side}_ip"].str.replace("10.20.", "147.32.", regex=False)
        flows[f"{side}_ip"] = moved
    ends = PublicEnds()
    for piece in np.array_split(np.arange(600), 5):
        ends = ends.merge(PublicEnds.of(flows.iloc[piece]))
    assert ends.networks() == infer_networks(flows)
    assert "147.32.0.0/16" in ends.networks()
    detector = Detector(random_state=0, n_estimators=5)
    expected = model_bytes(detector.fit(flows), tmp_path, "table")
    detector.fit_stream([flows], 600, home=ends.networks())
    assert model_bytes(detector, tmp_path, "stream") == expected


# --- updates --------------------------------------------------------------------------


@pytest.fixture
def old():
    return Detector(random_state=0, n_estimators=20).fit(office(1500, days=7))


def test_an_update_knows_what_was_known_before(old):
    known, later = old.known_, office(1000, seed=1, days=5, first_day="2026-03-09")
    old.update([later.iloc[:300], later.iloc[300:]], 1000)
    assert old.n_flows_ == 2500
    assert old.window_[1] == later["start"].max()
    assert old.window_[0] < later["start"].min()
    counts = (
        getattr(old, of).tables["site"].values["n"].item()
        for of in ("baseline_", "recent_", "known_")
    )
    assert tuple(counts) == (2000, 500, 2500)
    assert np.isin(
        known.tables["host_place"].keys, old.known_.tables["host_place"].keys
    ).all()
    assert len(old.learned_["payload"].flows.block) == 500
    days = later["start"].iloc[-1] - later["start"].iloc[500]
    assert old.learned_["volume"].cases.days == pytest.approx(days / pd.Timedelta("1D"))


def test_nothing_of_the_last_half_reaches_tables_or_trees_of_an_update(old):
    later = office(1000, seed=1, days=5, first_day="2026-03-09")
    changed = later.copy()
    changed.loc[999, ["dst_ip", "server_name"]] = ["203.0.113.200", pd.NA]
    again = Detector(random_state=0, n_estimators=20).fit(office(1500, days=7))
    old.update([later], 1000)
    again.update([changed], 1000)
    for name, learned in old.learned_.items():
        theirs = again.learned_[name]
        assert np.array_equal(learned.edges, theirs.edges)
        for part in ("column", "threshold", "value"):
            ours = getattr(learned.forest.trees_, part)
            assert np.array_equal(ours, getattr(theirs.forest.trees_, part))
    for name, tally in old.baseline_.tables.items():
        assert np.array_equal(tally.keys, again.baseline_.tables[name].keys)


def test_an_update_refuses_flows_that_the_model_knows(old):
    before = old.n_flows_, old.window_, old.learned_
    later = office(1000, seed=1, days=5, first_day="2026-03-06")
    with pytest.raises(BaselineError, match=r"before 2026-03-08.*--since"):
        old.update([later], 1000)
    assert (old.n_flows_, old.window_, old.learned_) == before


def test_an_update_does_not_silently_lose_payload(old):
    before = old.n_flows_, old.window_, old.learned_
    later = office(1000, seed=1, first_day="2026-03-09", payload=False)
    with pytest.raises(BaselineError, match="The model does judge it"):
        old.update([later], 1000)
    assert (old.n_flows_, old.window_, old.learned_) == before
    bare = Detector(random_state=0, n_estimators=5).fit(office(600, payload=False))
    later = office(1000, seed=1, first_day="2026-03-09")
    hidden = np.arange(1000) % 20 > 0
    later["src_sampled_bytes"] = later["src_sampled_bytes"].mask(hidden)
    with pytest.warns(CapabilityWarning, match="only 50 of 1,000 flows show it"):
        bare.update([later], 1000)
    assert set(bare.learned_) == {"volume"}


@pytest.mark.parametrize("seed", range(3))
def test_p_values_of_an_updated_model_hold_on_later_days(seed):
    past = office(6000, seed=seed, days=10)
    later = office(6000, seed=50 + seed, days=10, first_day="2026-03-12")
    fresh = office(3000, seed=100 + seed, days=5, first_day="2026-03-22")
    detector = Detector(random_state=0, n_estimators=50).fit(past)
    scored = detector.update([later], 6000).score(fresh)
    for p, block in (
        (scored.p_value, detector.learned_["payload"].flows.block),
        (scored.case_p_value, detector.learned_["payload"].cases.block),
    ):
        for alpha in (0.01, 0.05, 0.2):
            error = 3 * np.sqrt(alpha * (1 / len(block) + 1 / len(p)))
            assert (p <= alpha).mean() <= alpha + error


def test_tables_are_not_changed():
    flows = validate_flows(office(300))
    before = flows.copy(deep=True)
    Detector(random_state=0, n_estimators=5).fit_stream([flows], 300)
    pd.testing.assert_frame_equal(flows, before)
