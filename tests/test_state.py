"""State: sums over trailing windows, the same in pieces as at once."""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sites import office, theft

import exfilml.state
from exfilml import (
    Detector,
    load_model,
    rank_cases,
    rank_flows,
    save_model,
    score_flows,
)
from exfilml.exceptions import SiteWarning, StateError, StateWarning
from exfilml.state import KINDS, WINDOWS, State, Uploads, trailing

DAY = 86_400


@st.composite
def streams(draw):
    """Flows in order of time, under few keys: times in µs, keys, amounts."""
    n = draw(st.integers(0, 40))
    gaps = draw(
        st.lists(
            st.sampled_from([0, 1, 59, 301, 3601, DAY, 5 * DAY]), min_size=n, max_size=n
        )
    )
    start = 1_700_000_000 + np.cumsum(np.array(gaps, dtype=np.int64))
    micro = np.array(
        draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)), np.int64
    )
    start = np.sort(start * 1_000_000 + micro * 100_000)
    key = np.array(draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)), np.uint64)
    up = np.array(draw(st.lists(st.integers(0, 10**6), min_size=n, max_size=n)), float)
    return start, key, up


def told(state, start, key, up):
    """All kinds under the same key, every amount alike."""
    keys = dict.fromkeys(KINDS, key)
    amounts = {k: np.column_stack([up] * len(names)) for k, names in KINDS.items()}
    uploads = Uploads.by_kind(keys, start, amounts)
    sums = trailing(state, uploads)
    state.take_in(uploads)
    return sums


@given(streams())
@settings(deadline=None)
def test_sums_are_those_of_the_definition(stream):
    """Every step of the window up to the flow's own, and nothing later."""
    start, key, up = stream
    sums = told(State(), start, key, up)
    for w, (step, count) in enumerate(WINDOWS.values()):
        bucket = start // (step * 1_000_000)
        expected = [
            up[
                (key == key[i]) & (start <= start[i]) & (bucket > bucket[i] - count)
            ].sum()
            for i in range(len(start))
        ]
        for kind, names in KINDS.items():
            for a in range(len(names)):
                assert np.allclose(
                    2.0 ** sums[kind][a, w].astype(float) - 1,
                    expected,
                    rtol=1e-5,
                    atol=1e-3,
                )


@given(streams(), st.lists(st.integers(0, 40), max_size=4))
@settings(deadline=None)
def test_pieces_give_the_sums_of_the_whole(stream, cuts):
    """Cut between flows of different times; and the state that stays is the same."""
    start, key, up = stream
    whole_state, state = State(), State()
    whole = told(whole_state, start, key, up)
    places = sorted({np.searchsorted(start, start[c]) for c in cuts if c < len(start)})
    pieces = [
        told(state, start[a:b], key[a:b], up[a:b])
        for a, b in itertools.pairwise([0, *places, len(start)])
    ]
    for kind in KINDS:
        joined = np.concatenate([piece[kind] for piece in pieces], axis=2)
        assert np.array_equal(joined, whole[kind])
    assert state.to_bytes() == whole_state.to_bytes()
    assert (state.earliest, state.latest) == (whole_state.earliest, whole_state.latest)


@given(streams())
@settings(deadline=None)
def test_order_does_not_matter_within_a_table(stream):
    start, key, up = stream
    order = np.random.default_rng(0).permutation(len(start))
    whole = told(State(), start, key, up)
    mixed = told(State(), start[order], key[order], up[order])
    for kind in KINDS:
        assert np.array_equal(mixed[kind], whole[kind][:, :, order])


@given(streams(), streams())
@settings(deadline=None)
def test_states_of_two_sensors_merge_by_adding(one, other):
    apart = [State(), State()]
    together = State()
    for state, stream in zip(apart, (one, other), strict=True):
        told(state, *stream)
    both = [np.concatenate(parts) for parts in zip(one, other, strict=True)]
    told(together, *both)
    assert apart[0].merge(apart[1]).to_bytes() == together.to_bytes()
    assert apart[1].merge(apart[0]).to_bytes() == together.to_bytes()


def test_what_left_every_window_is_forgotten():
    state = State()
    key, up = np.ones(1, np.uint64), np.ones(1)
    told(state, np.array([0]), key, up)
    assert state.n_rows == len(KINDS)
    told(state, np.array([15 * DAY * 1_000_000]), key * 2, up)
    assert state.n_rows == len(KINDS)


def test_a_state_is_bounded_and_keeps_the_largest(monkeypatch):
    monkeypatch.setattr(exfilml.state, "MAX_ROWS", 10)
    state = State()
    keys = np.arange(100, dtype=np.uint64)
    told(state, np.zeros(100, dtype=np.int64), keys, np.arange(100.0))
    assert state.n_rows == 10 * len(KINDS)
    kept = state.only("case", keys)
    assert sorted(kept.keys.tolist()) == list(range(90, 100))


def test_bytes_come_back_the_same():
    state = State()
    rng = np.random.default_rng(0)
    start = np.sort(rng.integers(0, 20 * DAY, 500)) * 1_000_000
    told(
        state,
        start,
        rng.integers(0, 9, 500).astype(np.uint64),
        rng.integers(0, 99, 500).astype(float),
    )
    again = State.from_bytes(state.to_bytes())
    assert again.to_bytes() == state.to_bytes()
    assert (again.earliest, again.latest) == (state.earliest, state.latest)
    assert State.from_bytes(State().to_bytes()).n_rows == 0


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_are_one_clear_error(seed):
    """Or, where a checksum is not reached, a state that passes every check."""
    rng = np.random.default_rng(seed)
    state = State()
    told(state, np.arange(50) * 1_000_000, np.arange(50, dtype=np.uint64), np.ones(50))
    data = bytearray(state.to_bytes())
    for _ in range(3):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    with contextlib.suppress(StateError):
        assert State.from_bytes(bytes(data)).n_rows <= 50 * len(KINDS)
    with pytest.raises(StateError, match=r"Expected what State\.to_bytes gave"):
        State.from_bytes(bytes(data[: rng.integers(len(data))]))


@pytest.mark.parametrize("data", [b"", b"nothing", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_what_is_no_state_is_refused(data):
    with pytest.raises(StateError, match="Not a state") as refused:
        State.from_bytes(data)
    assert "it is no zip of arrays. Expected" in str(refused.value)
    assert "pickle" not in str(refused.value)


def packed(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_pickles_and_single_arrays_are_refused_in_our_own_words():
    single = io.BytesIO()
    np.save(single, np.zeros(3))
    for data in (single.getvalue(), packed(format=np.array([None], dtype=object))):
        with pytest.raises(StateError, match=r"\): it is no zip of arrays\. Expected"):
            State.from_bytes(data)


@pytest.mark.parametrize("identity", [None, 0, 2**64 - 1])
def test_an_identity_is_kept_and_survives_only_its_own_kind(identity):
    state = State.from_bytes(State(identity).to_bytes())
    assert state.identity == identity
    assert state.merge(State(identity)).identity == identity
    assert state.merge(State(7)).identity is None


@pytest.mark.parametrize("identity", [np.array(-1), np.zeros(2, np.uint64)])
def test_an_impossible_identity_is_refused(identity):
    with np.load(io.BytesIO(State(1).to_bytes())) as file:
        arrays = dict(file) | {"identity": identity}
    with pytest.raises(StateError, match="an impossible identity"):
        State.from_bytes(packed(**arrays))


# --- as users meet it -----------------------------------------------------------------


@pytest.fixture(scope="module")
def detector():
    return Detector(random_state=0, n_estimators=20).fit(office(1500))


@pytest.fixture(scope="module")
def today():
    flows = office(400, seed=1, days=3, first_day="2026-03-09")
    drip = pd.concat([theft(flows, up=30_000)] * 40, ignore_index=True)
    drip["start"] = flows["start"].iloc[0] + pd.to_timedelta(np.arange(40) * 97, "min")
    return pd.concat([flows, drip]).sort_values("start", ignore_index=True)


def test_scoring_in_pieces_is_scoring_at_once(detector, today):
    whole = score_flows(detector, today)
    state = detector.new_state()
    cuts = [0, 100, 101, 250, len(today)]
    pieces = [
        score_flows(detector, today.iloc[a:b], state=state)
        for a, b in itertools.pairwise(cuts)
    ]
    pd.testing.assert_series_equal(
        pd.concat(pieces)["suspicion"], whole["suspicion"], check_exact=True
    )


def test_without_a_state_a_drip_starts_anew(detector, today):
    """The last of forty small uploads, alone and with what came before."""
    state = detector.new_state()
    drip = today[today["dst_port"] == 8443]
    before, last = drip.iloc[:-1], drip.iloc[[-1]]
    score_flows(detector, before, state=state)
    alone = score_flows(detector, last)["suspicion"].iloc[0]
    known = score_flows(detector, last, state=state)["suspicion"].iloc[0]
    assert known > alone + 1.0


def test_flows_that_a_state_knows_already_are_warned_of(detector, today):
    state = detector.new_state()
    score_flows(detector, today, state=state)
    with pytest.warns(StateWarning, match="what is given twice counts twice"):
        score_flows(detector, today, state=state)


@pytest.fixture(scope="module")
def other():
    """A detector of the same site, trained on less of it."""
    return Detector(random_state=0, n_estimators=20).fit(office(1400))


def test_a_state_of_another_model_is_refused_and_left_as_it_was(detector, other, today):
    state = State.from_bytes(other.new_state().to_bytes())
    score_flows(other, today.iloc[:200], state=state)
    before = state.to_bytes()
    for function in (score_flows, rank_flows, rank_cases):
        with pytest.raises(StateError, match="begun with another model, expected"):
            function(detector, today.iloc[200:], state=state)
    assert state.to_bytes() == before
    assert not detector.has_begun(state)
    assert other.has_begun(state)


def test_sums_of_an_earlier_model_of_the_site_go_on(detector, other, today):
    """As if the new model had scored all of it; the old state is not changed."""
    old, own = other.new_state(), detector.new_state()
    score_flows(other, today.iloc[:300], state=old)
    score_flows(detector, today.iloc[:300], state=own)
    before = old.to_bytes()
    adopted = detector.new_state(after=old)
    assert old.to_bytes() == before
    expected = score_flows(detector, today.iloc[300:], state=own)
    actual = score_flows(detector, today.iloc[300:], state=adopted)
    pd.testing.assert_frame_equal(actual, expected)
    assert adopted.to_bytes() == own.to_bytes()
    assert old.to_bytes() == before


def elsewhere(flows):
    """The same traffic of other hosts to other networks."""
    return flows.assign(
        src_ip=flows["src_ip"].str.replace("10.20.", "10.77."),
        dst_ip=flows["dst_ip"].str.replace("198.1", "203.1"),
    )


def test_a_state_that_knows_none_of_the_hosts_is_warned_of(detector, today):
    state = detector.new_state()
    score_flows(detector, today.iloc[:200], state=state)
    later = today.iloc[200:]
    with (
        pytest.warns(SiteWarning),
        pytest.warns(StateWarning, match="none of the services of their 10 local"),
    ):
        ranking = rank_cases(detector, elsewhere(later), state=state.copy())
    assert not ranking.attrs["follows"]
    mixed = pd.concat([elsewhere(later.iloc[:100]), later.iloc[100:]])
    for flows in (later, mixed, elsewhere(later).iloc[:3], later.iloc[:0]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SiteWarning)
            scores = score_flows(detector, flows, state=state.copy())
        assert scores.attrs["follows"]


def test_a_state_that_knows_little_is_no_ground_for_doubt(detector, today):
    state = detector.new_state()
    score_flows(detector, today.iloc[:10], state=state)
    with pytest.warns(SiteWarning):
        scores = score_flows(detector, elsewhere(today.iloc[10:]), state=state)
    assert scores.attrs["follows"]


def test_a_wrong_clock_that_would_wipe_a_state_is_warned_of(detector, today):
    """One flow of next year; not a table that comes after a pause, or is long."""
    state = detector.new_state()
    score_flows(detector, today.iloc[:200], state=state)
    later = today.iloc[200:].reset_index(drop=True)
    future = later["start"] + pd.Timedelta(days=300)
    wrong = later.assign(start=later["start"].mask(later.index == 5, future))
    with pytest.warns(StateWarning, match=r"1 of \d+ start so much later"):
        ranking = rank_flows(detector, wrong, state=state.copy())
    assert not ranking.attrs["follows"]
    paused = later.assign(start=future)
    stretched = later.assign(
        start=later["start"].iloc[0] + pd.to_timedelta(np.arange(len(later)), "D") / 10
    )
    for flows in (paused, stretched):
        assert score_flows(detector, flows, state=state.copy()).attrs["follows"]


def test_a_stored_model_knows_its_states_whatever_the_home(detector, today, tmp_path):
    """And a state that names no model is usable with all."""
    save_model(detector, tmp_path / "m.exfilml")
    again = load_model(tmp_path / "m.exfilml")
    again.home_ = ("10.0.0.0/8",)
    for state in (again.new_state(), State()):
        for model, rows in ((detector, slice(0, 99)), (again, slice(99, None))):
            score_flows(model, today.iloc[rows], state=state)


def test_windows_that_reach_back_too_far_are_named(detector, today):
    assert rank_flows(detector, today).attrs["windows_not_covered"] == ["14 d"]
    state = State.from_bytes(detector.new_state().to_bytes())
    early = today.iloc[:1].assign(start=today["start"].iloc[0] - pd.Timedelta(days=20))
    score_flows(detector, early, state=state)
    ranking = rank_cases(detector, today, state=state)
    assert ranking.attrs["windows_not_covered"] == []
    assert score_flows(detector, today.iloc[:1]).attrs["windows_not_covered"] == list(
        WINDOWS
    )
