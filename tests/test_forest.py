"""`BaselineForest`: scikit-learn's numbers from plain arrays, and arrays checked."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import replace
from itertools import combinations
from math import factorial

import joblib
import numba
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.utils.estimator_checks import parametrize_with_checks

from exfilml import forest as room
from exfilml._compiled import _threads
from exfilml._jit import compiled
from exfilml.exceptions import ModelFileError
from exfilml.forest import LEAF, BaselineForest, Trees

FEW = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Values that tie, values one float32 step apart, zeros of both signs, and the ends
# of the range: where a threshold rounded the wrong way would show.
ONE = np.float32(1.0)
EDGY = (
    0.0,
    -0.0,
    1.0,
    float(np.nextafter(ONE, np.float32(2))),
    float(np.nextafter(ONE, np.float32(0))),
    -1.0,
    16777216.0,
    16777218.0,
    float(np.finfo(np.float32).tiny),
    float(np.finfo(np.float32).max) / 4,
    -float(np.finfo(np.float32).max) / 4,
)
CELL = st.one_of(
    st.sampled_from(EDGY), st.floats(-1e6, 1e6, width=32), st.just(float("nan"))
)


@st.composite
def tables(draw, most_rows: int = 40):
    """Return training rows and rows to score, with the same columns."""
    columns = draw(st.integers(1, 5))
    train = draw(
        arrays(np.float32, (draw(st.integers(1, most_rows)), columns), elements=CELL)
    )
    other = draw(arrays(np.float32, (draw(st.integers(1, 20)), columns), elements=CELL))
    if draw(st.booleans()):
        train[:, draw(st.integers(0, columns - 1))] = draw(CELL)
    return train, np.concatenate([train, other])


def both(X, **options):
    """Fit scikit-learn's forest and ours on the same rows."""
    options = {"random_state": 0, "n_estimators": 5} | options
    with warnings.catch_warnings():
        # max_samples larger than the table: scikit-learn's warning, the same twice.
        warnings.filterwarnings("ignore", "max_samples", UserWarning)
        return IsolationForest(**options).fit(X), BaselineForest(**options).fit(X)


def same(X, rows, **options):
    """Say whether all scores are the same doubles."""
    theirs, ours = both(X, **options)
    return (
        np.array_equal(theirs.score_samples(rows), ours.score_samples(rows))
        and np.array_equal(theirs.decision_function(rows), ours.decision_function(rows))
        and np.array_equal(theirs.predict(rows), ours.predict(rows))
        and theirs.offset_ == ours.offset_
        and theirs.max_samples_ == ours.max_samples_
    )


# --- the same doubles as scikit-learn's -----------------------------------------


@FEW
@given(
    tables(),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 7]),
    st.sampled_from(["auto", 1, 2, 8, 1.0]),
    st.sampled_from([1.0, 0.5, 1]),
)
def test_scores_equal_scikit_learn_bit_for_bit(
    table, seed, n_trees, max_samples, max_features
):
    X, rows = table
    assert same(
        X,
        rows,
        random_state=seed,
        n_estimators=n_trees,
        max_samples=max_samples,
        max_features=max_features,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_estimators": 1},
        {"n_estimators": 200},
        {"max_samples": 0.3},
        {"max_samples": 1000},
        {"max_samples": 5000},
        {"max_samples": 2},
        {"max_features": 0.4},
        {"max_features": 3},
        {"contamination": 0.1},
        {"n_jobs": 2},
    ],
    ids=str,
)
def test_every_parameter_means_what_it_means_in_scikit_learn(options):
    rng = np.random.default_rng(1)
    X = rng.lognormal(0, 2, (1500, 6))
    X[rng.random(X.shape) < 0.1] = np.nan
    assert same(X, np.concatenate([X, 100 * X]), **({"n_estimators": 20} | options))


@pytest.mark.parametrize(
    "cells", [[np.inf], [-np.inf], [np.inf, -np.inf], [np.nan, np.inf, -np.inf]]
)
def test_infinite_values_score_as_in_scikit_learn(cells):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(120, 3))
    X[:30, 0] = rng.choice(cells, 30)
    assert same(X, np.concatenate([X, np.full((1, 3), np.inf)]), n_estimators=30)


def test_missing_values_that_training_never_saw_score_as_in_scikit_learn():
    X = np.random.default_rng(3).normal(size=(300, 4))
    assert same(X, np.full((3, 4), np.nan), n_estimators=50)


@pytest.mark.parametrize(
    "X",
    [
        np.ones((1, 1)),
        np.ones((1, 4)),
        np.ones((50, 3)),
        np.full((50, 3), np.nan),
        np.arange(50.0)[:, None],
        np.array([[0.0], [1.0]]),
        np.tile([[np.nan, 1.0], [2.0, np.nan]], (20, 1)),
    ],
    ids=[
        "one row, one column",
        "one row",
        "constant",
        "all missing",
        "one column",
        "two rows",
        "half missing",
    ],
)
def test_degenerate_tables_score_as_in_scikit_learn(X):
    assert same(X, np.concatenate([X, X + 1, np.full_like(X, np.nan)]))


def test_values_around_a_threshold_go_the_way_scikit_learn_sends_them():
    """Thresholds are float64 and rows float32; rounding one must not move a row."""
    rng = np.random.default_rng(4)
    X = (1 + rng.integers(0, 6, (200, 2)) * np.finfo(np.float32).eps).astype("f4")
    theirs, ours = both(X, n_estimators=40)
    near = []
    for tree in theirs.estimators_:
        limit = tree.tree_.threshold[tree.tree_.feature >= 0].astype(np.float32)
        near += [limit, np.nextafter(limit, ONE * 2), np.nextafter(limit, ONE * 0)]
    values = np.unique(np.concatenate(near))
    rows = np.stack(np.meshgrid(values, values), axis=-1).reshape(-1, 2)
    assert np.array_equal(theirs.score_samples(rows), ours.score_samples(rows))


def test_order_and_type_of_memory_do_not_matter():
    X = np.random.default_rng(5).normal(size=(100, 4)).astype(np.float32)
    forest = BaselineForest(n_estimators=10, random_state=0).fit(X)
    expected = forest.score_samples(X)
    for form in (np.asfortranarray(X), X.astype(float), X.tolist(), X[::-1][::-1]):
        assert np.array_equal(forest.score_samples(form), expected)


def test_one_row_scores_as_it_does_among_others():
    X = np.random.default_rng(6).normal(size=(60, 3))
    forest = BaselineForest(n_estimators=10, random_state=0).fit(X)
    alone = np.concatenate([forest.score_samples(row[None]) for row in X])
    assert np.array_equal(forest.score_samples(X), alone)


# --- every way of scoring gives the same doubles ------------------------------------

WAYS = ("dense", "eight rows", "walk")


def score_by(monkeypatch, forest, rows, way):
    """Score rows in a way that their number would not have chosen."""
    with monkeypatch.context() as patch:
        patch.setattr(room, "NODES_OF_A_STEP", 1e9 if way == "dense" else -1.0)
        if way == "walk":
            patch.setitem(forest.trees_.__dict__, "bounded", False)
        return forest.score_samples(rows)


@settings(FEW, suppress_health_check=list(HealthCheck))
@given(
    tables(),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 5]),
    st.sampled_from(["auto", 8]),
)
def test_every_way_of_scoring_gives_scikit_learns_doubles(
    monkeypatch, table, seed, n_trees, max_samples
):
    X, rows = table
    rows = np.concatenate([rows, np.where(np.isnan(rows), np.inf, -np.inf)])
    theirs, ours = both(
        X, random_state=seed, n_estimators=n_trees, max_samples=max_samples
    )
    expected = theirs.score_samples(rows)
    for way in WAYS:
        assert np.array_equal(score_by(monkeypatch, ours, rows, way), expected), way


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 255, 256, 257, 1000])
def test_any_number_of_rows_scores_alike(monkeypatch, way, n):
    rng = np.random.default_rng(8)
    X = rng.lognormal(0, 2, (2000, 5))
    X[rng.random(X.shape) < 0.05] = np.nan
    theirs, ours = both(X, n_estimators=10)
    expected = theirs.score_samples(X[:n]) if n else np.zeros(0)
    assert np.array_equal(score_by(monkeypatch, ours, X[:n], way), expected)


@pytest.mark.parametrize("way", WAYS)
def test_trees_of_more_leaves_than_a_byte_counts_score_alike(monkeypatch, way):
    X = np.random.default_rng(9).normal(size=(3000, 4))
    theirs, ours = both(X, max_samples=3000, n_estimators=3)
    assert np.diff(ours.trees_.dense.leaf_start).max() > 256
    assert np.array_equal(score_by(monkeypatch, ours, X, way), theirs.score_samples(X))


def test_infinite_thresholds_are_walked():
    """No number lies beyond them that could stand for a missing value."""
    X = np.random.default_rng(0).normal(size=(100, 2))
    forest = BaselineForest(n_estimators=3, random_state=0).fit(X)
    rows = np.tile([[np.nan, 0.0], [np.inf, 0.0], [-np.inf, np.nan]], (100, 1))
    for limit in (np.inf, -np.inf):
        changed = forest.trees_.threshold.copy()
        changed[forest.trees_.column == 0] = limit
        forest.trees_ = replace(forest.trees_, threshold=changed)
        alone = np.concatenate([forest.score_samples(row[None]) for row in rows])
        assert np.array_equal(forest.score_samples(rows), alone)


# --- threads -------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [2, -1, 64])
def test_threads_change_no_number(monkeypatch, n_jobs):
    monkeypatch.setattr(_threads, "allowed_threads", lambda _: 3)
    X = np.random.default_rng(0).normal(size=(30_001, 4))
    forest = BaselineForest(n_estimators=5, random_state=0).fit(X[:300])
    other = copy.deepcopy(forest).set_params(n_jobs=n_jobs)
    for name in ("score_samples", "path_credit", "shapley_credit"):
        assert np.array_equal(getattr(forest, name)(X), getattr(other, name)(X)), name


def test_no_jobs_is_one_thread_unless_joblib_is_told_otherwise(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    for name in _threads.LIMITS:
        monkeypatch.delenv(name, raising=False)
    assert _threads.allowed_threads(None) == 1
    assert _threads.allowed_threads(3) == 3
    assert _threads.allowed_threads(64) == 8
    with joblib.parallel_config(n_jobs=2):
        assert _threads.allowed_threads(None) == 2


@pytest.mark.parametrize("name", _threads.LIMITS)
def test_threads_stay_within_what_the_environment_allows(monkeypatch, name):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    for limit, expected in [("2", 2), ("1,4", 1), ("", 4), ("many", 4), ("0", 4)]:
        for other in _threads.LIMITS:
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, limit)
        assert _threads.allowed_threads(4) == expected


def test_workers_of_joblib_do_not_start_more_threads_than_their_share():
    share = joblib.Parallel(n_jobs=2)(
        joblib.delayed(_threads.allowed_threads)(-1) for _ in range(2)
    )
    assert max(share) <= max(1, joblib.cpu_count() // 2)
    inner = joblib.Parallel(n_jobs=2, prefer="threads")(
        joblib.delayed(_threads.allowed_threads)(-1) for _ in range(2)
    )
    assert max(inner) <= max(1, joblib.cpu_count())


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(_threads, "allowed_threads", lambda _: 2)

    def fail(first, stop):
        raise MemoryError

    with pytest.raises(MemoryError):
        _threads.over_rows(fail, 10**6, 2)


def test_every_row_is_worked_on_once(monkeypatch):
    monkeypatch.setattr(_threads, "allowed_threads", lambda _: 3)
    for n in (0, 1, 4095, 4096, 4097, 24_576, 100_001):
        seen = np.zeros(n, int)

        def count(first, stop, seen=seen):
            seen[first:stop] += 1

        _threads.over_rows(count, n, 3)
        assert (seen == 1).all()


def test_no_jobs_at_all_are_refused():
    forest = BaselineForest(n_estimators=3, random_state=0).fit(np.eye(4))
    with pytest.raises(ValueError, match="n_jobs is 0"):
        forest.set_params(n_jobs=0).score_samples(np.eye(4))


def test_a_machine_without_a_writable_cache_compiles_in_memory(monkeypatch):
    njit = numba.njit

    def refuse(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", refuse)
    assert compiled(lambda x: x + 1)(1) == 2


# --- the estimator ----------------------------------------------------------------


@parametrize_with_checks([BaselineForest(n_estimators=20, random_state=0)])
@pytest.mark.filterwarnings("default")
def test_scikit_learns_contract_holds_without_exception(estimator, check):
    check(estimator)


def test_no_rows_give_no_scores():
    forest = BaselineForest(n_estimators=5, random_state=0).fit(np.eye(4))
    nothing = np.zeros((0, 4))
    assert forest.score_samples(nothing).shape == (0,)
    assert forest.decision_function(nothing).shape == (0,)
    assert forest.predict(nothing).shape == (0,)
    assert forest.path_credit(nothing).shape == (0, 4)
    assert forest.shapley_credit(nothing).shape == (0, 4)


def test_input_is_not_changed():
    X = np.random.default_rng(0).normal(size=(50, 3))
    X[3] = np.nan
    before = X.copy()
    forest = BaselineForest(n_estimators=5, random_state=0).fit(X)
    forest.score_samples(X)
    forest.path_credit(X)
    assert np.array_equal(X, before, equal_nan=True)


def test_copies_pickles_and_clones_score_alike():
    X = np.random.default_rng(0).normal(size=(80, 3))
    forest = BaselineForest(n_estimators=10, random_state=7).fit(X)
    expected = forest.score_samples(X)
    for other in (
        pickle.loads(pickle.dumps(forest)),
        copy.deepcopy(forest),
        clone(forest).fit(X),
    ):
        assert np.array_equal(other.score_samples(X), expected)


def test_what_is_derived_for_speed_is_no_part_of_the_state():
    X = np.random.default_rng(0).normal(size=(800, 3))
    forest = BaselineForest(n_estimators=10, random_state=7).fit(X)
    state, size = joblib.hash(forest), len(pickle.dumps(forest))
    forest.score_samples(X)
    forest.score_samples(X[:9])
    forest.shapley_credit(X)
    assert {"dense", "steps", "boxes"} <= set(vars(forest.trees_))
    assert joblib.hash(forest) == state
    assert len(pickle.dumps(forest)) == size
    assert set(vars(copy.deepcopy(forest).trees_)) == set(Trees.names())


def test_a_second_fit_scores_with_the_second_trees():
    X = np.random.default_rng(0).normal(size=(500, 3))
    forest = BaselineForest(n_estimators=10, random_state=7).fit(X)
    forest.score_samples(X)
    again = forest.fit(10 * X).score_samples(X)
    fresh = BaselineForest(n_estimators=10, random_state=7).fit(10 * X)
    assert np.array_equal(again, fresh.score_samples(X))


@pytest.mark.parametrize(
    "rows",
    [np.ones((2, 4)), np.ones(3), np.ones((2, 3), complex), np.ones((1, 2, 3))],
    ids=["too wide", "one dimension", "complex", "three dimensions"],
)
def test_rows_of_another_shape_or_kind_are_refused(rows):
    forest = BaselineForest(n_estimators=3, random_state=0).fit(np.eye(3))
    for name in ("score_samples", "path_credit", "shapley_credit"):
        with pytest.raises(ValueError, match=r"features|1D|[Cc]omplex|dim"):
            getattr(forest, name)(rows)


def test_column_names_are_kept_and_checked():
    table = pd.DataFrame(np.eye(3), columns=["a", "b", "c"])
    forest = BaselineForest(n_estimators=3, random_state=0).fit(table)
    assert list(forest.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names"):
        forest.score_samples(table[["c", "b", "a"]])


@pytest.mark.parametrize(
    "options",
    [
        {"n_estimators": 0},
        {"max_samples": 0},
        {"max_samples": "all"},
        {"max_features": 0.0},
        {"contamination": 0.9},
        {"random_state": "zero"},
    ],
    ids=str,
)
def test_impossible_parameters_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        BaselineForest(**options).fit(np.eye(4))


# --- path credit ------------------------------------------------------------------


def mean_length(trees):
    """Mean over the trees of the mean path length of their training rows."""
    tree = np.repeat(np.arange(len(trees.start) - 1), np.diff(trees.start))
    weighted = np.bincount(tree, trees.value * trees.rows)
    return (weighted / trees.rows[trees.start[:-1]]).mean()


@FEW
@given(tables(), st.integers(0, 1000))
def test_path_credit_sums_to_average_minus_own_path_length(table, seed):
    X, rows = table
    _, forest = both(X, random_state=seed)
    trees = forest.trees_
    root = mean_length(trees)
    own = forest._walk(rows, trees) / (len(trees.start) - 1)
    assert np.allclose(forest.path_credit(rows).sum(axis=1), root - own, atol=1e-9)


def credit_by_definition(theirs, row):
    """Walk down and credit the fall of the mean path length to the split's column."""
    credit = np.zeros(len(row))
    for estimator in theirs.estimators_:
        tree = estimator.tree_
        rest = room._average_path_length(tree.n_node_samples)
        node = depth = 0
        while tree.children_left[node] >= 0:
            column = tree.feature[node]
            if np.isnan(row[column]):
                left = tree.missing_go_to_left[node]
            else:
                left = row[column] <= tree.threshold[node]
            child = tree.children_left[node] if left else tree.children_right[node]
            credit[column] += expected_length(tree, row, (), rest, node, depth)
            credit[column] -= expected_length(tree, row, (), rest, child, depth + 1)
            node, depth = child, depth + 1
    return credit / len(theirs.estimators_)


@FEW
@given(tables(most_rows=25), st.integers(0, 1000))
def test_path_credit_is_what_its_definition_says(table, seed):
    X, rows = table
    theirs, ours = both(X, random_state=seed, n_estimators=3)
    rows = rows[-4:]
    expected = [credit_by_definition(theirs, row) for row in rows]
    assert np.allclose(ours.path_credit(rows), expected, atol=1e-9)


def test_a_column_no_tree_splits_on_gets_no_credit():
    X = np.c_[np.random.default_rng(0).normal(size=100), np.ones(100)]
    _, forest = both(X)
    assert (forest.path_credit(X * 50)[:, 1] == 0).all()


def test_the_odd_column_gets_the_credit():
    X = np.random.default_rng(0).normal(size=(500, 4))
    _, forest = both(X, n_estimators=100)
    row = np.zeros((1, 4))
    row[0, 2] = 50.0
    assert forest.path_credit(row).argmax() == 2


# --- Shapley credit ----------------------------------------------------------------


def expected_length(tree, row, known, rest, node=0, depth=0):
    """Path length expected when only some columns of a row are known."""
    if tree.children_left[node] < 0:
        return depth + rest[node]
    column = tree.feature[node]
    sides = (tree.children_left[node], tree.children_right[node])
    if column in known:
        if np.isnan(row[column]):
            left = tree.missing_go_to_left[node]
        else:
            left = row[column] <= tree.threshold[node]
        side = sides[0] if left else sides[1]
        return expected_length(tree, row, known, rest, side, depth + 1)
    return (
        sum(
            tree.n_node_samples[side]
            * expected_length(tree, row, known, rest, side, depth + 1)
            for side in sides
        )
        / (tree.n_node_samples[node])
    )


def shapley_by_definition(theirs, row):
    """Average a column's effect over all orders in which columns become known."""
    n = len(row)
    credit = np.zeros(n)
    for estimator in theirs.estimators_:
        tree = estimator.tree_
        rest = room._average_path_length(tree.n_node_samples)
        worth = {
            known: expected_length(tree, row, known, rest)
            for size in range(n + 1)
            for known in combinations(range(n), size)
        }
        for known, length in worth.items():
            for column in set(range(n)) - set(known):
                orders = factorial(len(known)) * factorial(n - 1 - len(known))
                more = worth[tuple(sorted({*known, column}))]
                credit[column] += orders / factorial(n) * (length - more)
    return credit / len(theirs.estimators_)


@FEW
@given(tables(most_rows=25), st.integers(0, 1000))
def test_shapley_credit_is_what_its_definition_says(table, seed):
    X, rows = table
    theirs, ours = both(X, random_state=seed, n_estimators=3)
    rows = rows[-4:]
    expected = [shapley_by_definition(theirs, row) for row in rows]
    assert np.allclose(ours.shapley_credit(rows), expected, atol=1e-9)


@FEW
@given(tables(), st.integers(0, 1000))
def test_shapley_credit_sums_to_average_minus_own_path_length(table, seed):
    X, rows = table
    _, forest = both(X, random_state=seed)
    trees = forest.trees_
    rows = np.concatenate([rows, np.where(np.isnan(rows), np.inf, -np.inf)])
    root = mean_length(trees)
    own = forest._walk(rows, trees) / (len(trees.start) - 1)
    assert np.allclose(forest.shapley_credit(rows).sum(axis=1), root - own, atol=1e-9)


@pytest.mark.parametrize("max_samples", [256, 3000])
@pytest.mark.parametrize("missing", [0.0, 0.1], ids=["complete", "missing"])
def test_shapley_credit_equals_the_shap_package(max_samples, missing):
    with warnings.catch_warnings():
        # Its plots, which are not used, warn of matplotlib's next version.
        warnings.simplefilter("ignore")
        import shap
    rng = np.random.default_rng(0)
    X = rng.lognormal(0, 1, (3000, 6)).astype(np.float32)
    X[rng.random(X.shape) < missing] = np.nan
    theirs, ours = both(X, n_estimators=20, max_samples=max_samples)
    rows = np.concatenate([X[:200], 20 * X[:50]])
    explainer = shap.TreeExplainer(theirs, feature_perturbation="tree_path_dependent")
    expected = explainer.shap_values(rows, check_additivity=False)
    assert np.allclose(ours.shapley_credit(rows), -expected, atol=1e-6)


# --- monotone scores ---------------------------------------------------------------


@FEW
@given(tables(), st.integers(0, 1000), st.sampled_from(["auto", 8]), st.data())
def test_monotone_scores_never_rise_with_a_column(table, seed, max_samples, data):
    """More of one column is never less abnormal, missing values elsewhere or not."""
    X, rows = table
    _, forest = both(X, random_state=seed, max_samples=max_samples)
    i = data.draw(st.integers(0, X.shape[1] - 1))
    splits = forest.trees_.threshold[forest.trees_.column == i]
    # On both sides of every split; what lies between splits alike.
    steps = np.unique(np.r_[-np.inf, splits, np.nextafter(splits, np.float32(np.inf))])
    moved = np.repeat(rows, len(steps), axis=0)
    moved[:, i] = np.tile(steps, len(rows))
    scores = forest.monotone_scores(moved).reshape(len(rows), len(steps))
    assert (np.diff(scores, axis=1) <= 1e-12).all()


def test_monotone_lengths_are_the_largest_of_all_leaves_above():
    """Told from a grid of rows that meets every leaf, instead of from boxes."""
    X = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    _, forest = both(X, n_estimators=1, max_samples=32)
    trees = forest.trees_
    leaf = trees.column == LEAF
    # A fine grid meets every leaf in enough places to see which lie above which.
    axes = [
        np.sort(np.r_[t, np.nextafter(t, np.float32(np.inf)), -9])
        for t in (trees.threshold[trees.column == i] for i in range(2))
    ]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2).astype(np.float32)
    number = np.full(len(trees.column), -1)
    number[leaf] = np.arange(leaf.sum())
    ends = number[trees.leaves(grid)[:, 0]]
    above = np.zeros((leaf.sum(), leaf.sum()), dtype=bool)
    for row, end in zip(grid, ends, strict=True):
        above[end, ends[(grid >= row).all(axis=1)]] = True
    for _ in range(leaf.sum()):
        # What lies above a leaf above lies above.
        above |= (above.astype(int) @ above.astype(int)) > 0
    expected = np.where(above, trees.value[leaf], 0.0).max(axis=1)
    assert np.array_equal(trees.monotone.value[leaf], expected)
    assert not np.array_equal(trees.value[leaf], expected)


def test_monotone_scores_of_one_column_that_rises_are_the_forests_own():
    """Exponential values: only the large ones are abnormal, nothing is to mend."""
    X = np.random.default_rng(0).exponential(size=(2000, 1))
    _, forest = both(X, n_estimators=100)
    rows = np.linspace(1, 20, 100)[:, None]
    own, monotone = forest.score_samples(rows), forest.monotone_scores(rows)
    assert np.corrcoef(own, monotone)[0, 1] > 0.995


@pytest.mark.parametrize("call", ["monotone_scores", "path_credit", "shapley_credit"])
def test_infinite_thresholds_have_no_monotone_scores(call):
    X = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    _, forest = both(X)
    trees = forest.trees_
    limit = np.where(trees.column == 0, np.float32(np.inf), trees.threshold)
    forest.trees_ = replace(trees, threshold=limit)
    options = {} if call == "monotone_scores" else {"monotone": True}
    with pytest.raises(ValueError, match="infinities"):
        getattr(forest, call)(X, **options)


def test_path_credit_follows_infinite_thresholds():
    X = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    _, forest = both(X)
    expected = forest.path_credit(X)
    # A threshold that all training rows stay below, and one that none does.
    trees = forest.trees_
    rows = np.concatenate([X, [[np.inf, -np.inf], [np.nan, 0]]]).astype(np.float32)
    for limit in (np.inf, -np.inf):
        changed = trees.threshold.copy()
        changed[trees.column == 0] = limit
        forest.trees_ = replace(trees, threshold=changed)
        own = forest._walk(rows, forest.trees_) / 5
        gap = forest.path_credit(rows).sum(axis=1) - (mean_length(trees) - own)
        assert np.allclose(gap, 0, atol=1e-9)
    forest.trees_ = trees
    assert np.array_equal(forest.path_credit(X), expected)


@FEW
@given(tables(), st.integers(0, 1000))
def test_credits_of_monotone_scores_sum_to_their_path_lengths(table, seed):
    X, rows = table
    _, forest = both(X, random_state=seed)
    trees = forest.trees_.monotone
    expected = mean_length(trees) - forest._walk(rows, trees) / (len(trees.start) - 1)
    for credit in (forest.path_credit, forest.shapley_credit):
        assert np.allclose(credit(rows, monotone=True).sum(axis=1), expected, atol=1e-9)


@FEW
@given(tables())
def test_the_plain_walk_scores_alike(table):
    X, rows = table
    _, forest = both(X)
    expected = forest.score_samples(rows)
    assert np.allclose(forest.reference_scores(rows), expected, atol=1e-12)


@FEW
@given(tables(), st.integers(0, 1000), st.sampled_from([1.0, 0.5]))
def test_rows_of_every_node_are_kept(table, seed, max_features):
    X, _ = table
    theirs, ours = both(X, random_state=seed, max_features=max_features)
    counts = [e.tree_.n_node_samples for e in theirs.estimators_]
    assert np.array_equal(ours.trees_.rows, np.concatenate(counts))


# --- audit ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trees() -> Trees:
    X = np.random.default_rng(0).normal(size=(200, 3))
    X[::7, 1] = np.nan
    return BaselineForest(n_estimators=4, random_state=0).fit(X).trees_


def changed(trees: Trees, name: str, at: int, value) -> Trees:
    array = getattr(trees, name).copy()
    array[at] = value
    return replace(trees, **{name: array})


def test_grown_trees_pass_the_audit(trees):
    trees.check(3)


@FEW
@given(tables(), st.sampled_from([1.0, 0.5]))
def test_whatever_was_grown_passes_the_audit(table, max_features):
    X, _ = table
    both(X, max_features=max_features)[1].trees_.check(X.shape[1])


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("left", 0, 10**9, "outside its tree"),
        ("right", 0, 10**9, "outside its tree"),
        ("left", 0, -1, "outside its tree"),
        ("left", 0, 0, "outside its tree"),
        ("right", 1, 0, "outside its tree"),
        ("right", 0, 2**31 - 1, "outside its tree"),
        ("right", 0, -(2**31), "outside its tree"),
        ("column", 0, 3, "column outside 0 … 2"),
        ("column", 0, -2, "column outside"),
        ("column", 0, 2**31 - 1, "column outside"),
        ("threshold", 0, np.nan, "not a number"),
        ("value", 0, np.nan, "path length"),
        ("value", 0, np.inf, "path length"),
        ("value", 0, -1.0, "path length"),
        ("value", 0, 1e-3, "path length"),
        ("value", 8, 1e300, "path length"),
        ("rows", 0, 0, "rows outside"),
        ("rows", 0, -(2**63), "rows outside"),
        ("rows", 0, 2**62, "rows outside"),
        ("rows", 0, 199, "rows of its children"),
        ("start", 0, 1, "span"),
        ("start", -1, 10**9, "span"),
        ("start", 1, 0, "increase"),
        ("start", 1, 10**9, "increase"),
        ("start", 1, -5, "increase"),
    ],
)
def test_tampered_trees_are_refused(trees, name, at, value, message):
    with pytest.raises(ModelFileError, match=message):
        changed(trees, name, at, value).check(3)


def test_a_leaf_turned_into_a_split_is_refused(trees):
    leaf = int(np.flatnonzero(trees.column == LEAF)[0])
    with pytest.raises(ModelFileError, match="outside its tree"):
        changed(trees, "column", leaf, 0).check(3)


def test_a_cycle_is_refused(trees):
    parents = np.flatnonzero(trees.column != LEAF)
    inner = next(p for p in parents if trees.column[trees.left[p]] != LEAF)
    with pytest.raises(ModelFileError, match="outside its tree"):
        changed(trees, "left", trees.left[inner], inner).check(3)


def test_a_child_in_the_next_tree_is_refused(trees):
    with pytest.raises(ModelFileError, match="outside its tree"):
        changed(trees, "right", 0, trees.start[1]).check(3)


def test_a_node_with_two_parents_is_refused(trees):
    with pytest.raises(ModelFileError, match="two parents or none"):
        changed(trees, "left", 0, trees.right[0]).check(3)


def chain(depth: int) -> Trees:
    """One tree whose every right child splits again."""
    n = 2 * depth + 1
    inner = np.arange(n) % 2 == 0
    inner[-1] = False
    at = np.arange(n)
    return Trees(
        start=np.array([0, n]),
        column=np.where(inner, 0, LEAF).astype(np.int32),
        threshold=np.zeros(n, dtype=np.float32),
        left=np.where(inner, at + 1, 0).astype(np.int32),
        right=np.where(inner, at + 2, 0).astype(np.int32),
        missing_left=np.zeros(n, dtype=np.uint8),
        rows=np.where(inner, depth + 1 - at // 2, 1),
        value=np.where(inner, 0.0, np.minimum((at + 1) // 2, depth)),
    )


def test_a_tree_too_deep_to_walk_in_time_is_refused():
    chain(64).check(1)
    for depth in (65, 100_000):
        with pytest.raises(ModelFileError, match="deeper than 64 levels"):
            chain(depth).check(1)


@pytest.mark.parametrize("name", [n for n in Trees.names() if n != "start"])
def test_arrays_of_different_length_are_refused(trees, name):
    with pytest.raises(ModelFileError, match="length"):
        replace(trees, **{name: getattr(trees, name)[:-1]}).check(3)


@pytest.mark.parametrize("start", [[], [0], [0, 0], [5, 3]])
def test_a_forest_without_trees_is_refused(trees, start):
    with pytest.raises(ModelFileError, match="offsets"):
        replace(trees, start=np.array(start, dtype=np.int64)).check(3)


def test_offsets_whose_differences_wrap_around_are_refused(trees):
    """Four offsets with every wrapped difference positive and their sum right."""
    n = len(trees.column)
    start = np.array([0, 2**62, -(2**63) + n + 1, n], dtype=np.int64)
    assert (np.diff(start) > 0).all()
    with pytest.raises(ModelFileError, match="offsets do not increase"):
        replace(trees, start=start).check(3)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_trees_that_pass_the_audit_can_be_walked(trees, data):
    """Any one number changed: refused, or scored without a crash or a loop."""
    name = data.draw(st.sampled_from(Trees.names()))
    array = getattr(trees, name)
    at = data.draw(st.integers(0, len(array) - 1))
    if array.dtype.kind == "f":
        value = data.draw(st.floats(width=array.dtype.itemsize * 8))
    else:
        limits = np.iinfo(array.dtype)
        near = st.integers(max(limits.min, -3), min(limits.max, len(trees.column) + 3))
        value = data.draw(near | st.integers(limits.min, limits.max))
    other = changed(trees, name, at, value)
    try:
        other.check(3)
    except ModelFileError:
        return
    forest = BaselineForest()
    forest.trees_, forest.max_samples_, forest.n_features_in_ = other, 200, 3
    rows = np.random.default_rng(0).normal(size=(300, 3)) * 3
    rows[::9, 1] = np.nan
    scores = forest.score_samples(rows)
    assert ((scores >= -1) & (scores <= 0)).all()
    assert np.array_equal(forest.score_samples(rows[:20]), scores[:20])
    assert np.array_equal(forest.score_samples(rows[:1]), scores[:1])
    forest.shapley_credit(rows[:20])
