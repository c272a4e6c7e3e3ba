"""What is normal here: counts that merge."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sites import office

import exfilml.tally
from exfilml.baseline import TABLES, Baseline, Observed
from exfilml.histograms import ALPHA
from exfilml.places import PRIVATE_NETWORKS, orient
from exfilml.tally import (
    DAYS_KEPT,
    Tally,
    combine,
    day_bits,
    hash_names,
    n_days,
    united,
)


def observed(flows):
    return Observed.of(orient(flows, PRIVATE_NETWORKS))


def test_two_halves_merge_to_the_whole():
    """Cut between days, learning in pieces gives the tables of learning at once."""
    flows = office(800)
    first = (flows["start"] < "2026-03-04").to_numpy()
    seen = observed(flows)
    whole = Baseline.learn(seen)
    merged = Baseline.learn(seen.rows(first)).merge(Baseline.learn(seen.rows(~first)))
    for name in TABLES:
        assert np.array_equal(whole.tables[name].keys, merged.tables[name].keys)
        for value, column in whole.tables[name].values.items():
            assert np.allclose(column, merged.tables[name].values[value]), value


def test_counts_equal_a_plain_groupby():
    flows = office(500)
    table = Baseline.learn(observed(flows)).tables["host"]
    rows = table.find(
        exfilml.tally.combine(hash_names(pd.Series(["10.20.0.12", "10.9.9.9"])))
    )
    mine = flows[flows["src_ip"] == "10.20.0.12"]
    assert table.take("n", rows).tolist() == [len(mine), 0]
    assert table.take("up", rows)[0] == mine["src_payload_bytes"].sum()


def test_no_rows_give_empty_tables_that_merge():
    nothing = Baseline.learn(observed(office(5).iloc[:0]))
    something = Baseline.learn(observed(office(50)))
    merged = nothing.merge(something)
    assert merged.n_hosts == something.n_hosts > 0
    assert nothing.n_hosts == 0


def counted(rows) -> Tally:
    """Tally of (key, day, upload) rows, with a column for each way to merge."""
    key, day, up = (np.array(c) for c in zip(*rows, strict=True)) if rows else [[]] * 3
    keys, day = np.array(key, dtype=np.uint64), np.array(day, dtype=np.int64)
    values = {
        "n": np.ones(len(rows)),
        "up": np.array(up, dtype=np.float64),
        "peak_bits": np.array(up, dtype=np.float64),
        "first_day": day.astype(np.float64),
        "last_day": day.astype(np.float64),
        "days": day_bits(day),
    }
    return Tally.group((keys,), values, len(keys))


def same(one: Tally, other: Tally) -> bool:
    return (
        all(
            np.array_equal(getattr(one, part), getattr(other, part))
            for part in ("keys", "first", "second", "forgotten")
        )
        and list(one.values) == list(other.values)
        and all(np.array_equal(c, other.values[n]) for n, c in one.values.items())
    )


rows = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 84_000), st.integers(0, 2**40)),
    max_size=30,
)


@given(rows, rows, rows)
def test_merging_is_exact_in_any_order(a, b, c):
    """Whole numbers of any chunks, in any order, give the tally of all rows."""
    x, y, z = counted(a), counted(b), counted(c)
    assert same(x.merge(y), y.merge(x))
    assert same(x.merge(y).merge(z), x.merge(y.merge(z)))
    assert same(x.merge(y).merge(z), counted(a + b + c))
    assert same(x.merge(counted([])), x)


@given(rows)
def test_first_last_and_distinct_days_are_those_of_a_plain_groupby(rows):
    tally = counted(rows)
    for key in {key for key, *_ in rows}:
        days = {day for k, day, _ in rows if k == key}
        at = tally.find(combine(np.array([key], dtype=np.uint64)))
        assert tally.take("first_day", at) == min(days)
        assert tally.take("last_day", at) == max(days)
        told = n_days(tally.take("days", at))[0]
        assert told == len({day % DAYS_KEPT for day in days}) <= len(days)


@given(st.lists(st.integers(20_000, 20_000 + DAYS_KEPT - 1)))
def test_distinct_days_are_exact_over_seven_weeks(days):
    tally = counted([(1, day, 0) for day in days])
    assert n_days(tally.values["days"]).sum() == len(set(days))


@given(
    st.lists(st.integers(0, 2**64 - 1), unique=True),
    st.lists(st.integers(0, 2**64 - 1), unique=True),
    st.lists(st.integers(0, 2**64 - 1), unique=True),
)
def test_united_keys_are_those_of_numpy(a, b, shared):
    a, b = (np.unique(np.array([*x, *shared], dtype=np.uint64)) for x in (a, b))
    keys, at_a, at_b = united(a, b)
    assert np.array_equal(keys, np.union1d(a, b))
    assert np.array_equal(keys[at_a], a)
    assert np.array_equal(keys[at_b], b)


def test_a_full_table_forgets_its_rarest_keys(monkeypatch):
    """Of equally rare ones those not seen for longest; it says how much that was."""
    monkeypatch.setattr(exfilml.tally, "MAX_KEYS", 4)
    often = [(1, 9, 0)] * 3 + [(2, 1, 0)] * 2
    tally = counted([*often, (3, 5, 0), (4, 7, 0), (5, 3, 0)])
    assert sorted(tally.values["n"]) == [1, 2, 3]
    assert sorted(tally.values["last_day"]) == [1, 7, 9]
    assert (np.diff(tally.keys.astype("f8")) > 0).all()
    assert tally.forgotten == (2.0, 2.0)
    # The known limit: what was forgotten begins anew.
    again = tally.merge(counted([(3, 9, 0)]))
    assert sorted(again.values["n"]) == [1, 1, 2, 3]
    assert again.forgotten == (2.0, 2.0)


@pytest.mark.parametrize("size", [1, 5, 40])
def test_a_table_stays_bounded_however_many_keys_come(size, monkeypatch):
    """Rows that are not counted are told; frequent keys stay, with exact counts."""
    monkeypatch.setattr(exfilml.tally, "MAX_KEYS", 20)
    known = counted([])
    for day in range(60):
        new = [(100 + day * size + i, day, 0) for i in range(size)]
        known = known.merge(counted([*new, *[(1, day, 0)] * 3, *[(2, day, 0)] * 2]))
        assert len(known.keys) <= 20
    assert known.values["n"].sum() + known.forgotten[1] == 60 * (size + 5)
    at = known.find(combine(np.array([1, 2], dtype=np.uint64)))
    assert known.take("n", at).tolist() == [180, 120]


def test_chunks_give_the_baseline_of_all_flows():
    """Whole numbers agree exactly; sums over windows know the chunks before."""
    flows = office(700)
    days = [chunk for _, chunk in flows.groupby(flows["start"].dt.floor("7h"))]
    whole = Baseline.learn(observed(flows))
    for chunks in (days, [flows], [flows.iloc[:0], *days]):
        pieces = Baseline.of_chunks(iter(chunks), PRIVATE_NETWORKS)
        for name, tally in whole.tables.items():
            assert np.array_equal(tally.keys, pieces.tables[name].keys)
            for value, column in tally.values.items():
                other = pieces.tables[name].values[value]
                assert np.allclose(column, other, rtol=1e-12), value
                if (column % 1 == 0).all():
                    assert np.array_equal(column, other), value
        for name, histograms in whole.histograms.items():
            other = pieces.histograms[name]
            assert np.array_equal(histograms.cells, other.cells)
            assert np.array_equal(histograms.counts, other.counts)


def test_no_chunks_give_an_empty_baseline():
    nothing = Baseline.of_chunks([], PRIVATE_NETWORKS)
    assert nothing.n_hosts == 0
    assert nothing.hours_of_week.tolist() == [0] * 168
    assert np.isnan(nothing.quantile("site", np.zeros(1, dtype=np.uint64), 0.5)).all()


@pytest.mark.parametrize("q", [0.0, 0.5, 0.95, 1.0])
def test_upload_quantiles_are_those_of_the_flows(q):
    flows = office(600)
    baseline = Baseline.learn(observed(flows))
    host = flows["src_ip"].iloc[0]
    mine = flows.loc[flows["src_ip"] == host, "src_payload_bytes"]
    for level, key, up in (
        ("site", np.zeros(1, dtype=np.uint64), flows["src_payload_bytes"]),
        ("host", combine(hash_names(pd.Series([host]))), mine),
    ):
        told = 2.0 ** baseline.quantile(level, key, q)[0] - 1.0
        expected = np.quantile(up.to_numpy(dtype=np.float64), q, method="lower")
        assert abs(told - expected) <= ALPHA * expected * (1 + 1e-9)


def test_hours_are_those_of_the_clock_in_utc():
    flows = office(400)
    baseline = Baseline.learn(observed(flows))
    of_week = flows["start"].dt.day_of_week * 24 + flows["start"].dt.hour
    expected = np.bincount(of_week, minlength=168)
    assert baseline.hours_of_week.tolist() == expected.tolist()
    hosts = ["10.20.0.12", "10.9.9.9"]
    told = baseline.hours_of_day(combine(hash_names(pd.Series(hosts))))
    mine = flows.loc[flows["src_ip"] == hosts[0], "start"].dt.hour
    assert told.tolist() == [np.bincount(mine, minlength=24).tolist(), [0] * 24]


@pytest.mark.parametrize("n_keys", [0, 1, 2, 500])
@pytest.mark.parametrize("few", [0, 10**9])
def test_keys_are_found_and_others_are_not(n_keys, few, monkeypatch):
    monkeypatch.setattr(exfilml.tally, "FEW", few)
    rng = np.random.default_rng(n_keys)
    top = 2**64 - 1
    keys = np.unique(rng.integers(0, top, n_keys, dtype=np.uint64, endpoint=True))
    # Neighbours share a beginning in the directory; the ends are ends.
    keys = np.unique(np.concatenate([keys, keys[:3] + np.uint64(1)]))
    ends = np.array([0, top], dtype=np.uint64)
    asked = np.concatenate([keys, keys + np.uint64(2), ends])
    where = {int(k): i for i, k in enumerate(keys)}
    expected = [where.get(int(k), -1) for k in asked]
    assert Tally(keys, keys, keys, {}).find(asked).tolist() == expected
    held = np.unique(np.concatenate([keys, ends]))
    rows = Tally(held, held, held, {}).find(held)
    assert rows.tolist() == list(range(len(held)))


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_groups_are_those_of_numpy(keys):
    keys = np.array(keys, dtype=np.uint64)
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    found = exfilml.tally.grouped(keys)
    assert [x.tolist() for x in found] == [first.tolist(), group.tolist()]


@given(st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=20))
def test_equal_names_hash_alike_and_others_differ(names):
    series = pd.Series(names, dtype="str")
    hashes = hash_names(series)
    for i, a in enumerate(series):
        for j, b in enumerate(series):
            same = (pd.isna(a) and pd.isna(b)) or a == b
            assert (hashes[i] == hashes[j]) == same


def test_hashes_are_the_same_on_every_machine():
    """Model files depend on it."""
    assert (
        hash_names(pd.Series(["exfilml"]))[0]
        == pd.util.hash_array(np.array(["exfilml"], dtype=object), categorize=False)[0]
    )
    assert int(hash_names(pd.Series(["exfilml-model"]))[0]) == 17492925205155629806


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_row_order_does_not_matter(share):
    flows = office(300)
    mixed = flows.sample(frac=1.0, random_state=int(share * 10))
    a, b = (Baseline.learn(observed(f)) for f in (flows, mixed))
    for name in TABLES:
        for value, column in a.tables[name].values.items():
            assert np.allclose(column, b.tables[name].values[value])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1), st.data())
def test_the_largest_rows_are_those_that_sorting_puts_first(rows, data):
    n = data.draw(st.integers(1, len(rows)))
    a, b = np.array(rows, dtype=np.float64).T
    expected = np.zeros(len(rows), dtype=bool)
    expected[np.lexsort((-b, -a))[:n]] = True
    assert exfilml.tally._largest(n, a, b).tolist() == expected.tolist()
