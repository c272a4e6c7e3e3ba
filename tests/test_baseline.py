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
from exfilml.places import PRIVATE_NETWORKS, orient
from exfilml.tally import Tally, hash_names


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


def test_a_full_table_forgets_its_rarest_keys(monkeypatch):
    monkeypatch.setattr(exfilml.tally, "MAX_KEYS", 3)
    keys = np.array([1, 1, 1, 2, 2, 3, 4, 4, 5], dtype=np.uint64)
    tally = Tally.group((keys,), {"n": np.ones(len(keys))}, len(keys))
    assert sorted(tally.values["n"]) == [2, 2, 3]
    assert (np.diff(tally.keys.astype("f8")) > 0).all()


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
