"""`BaselineForest`: scikit-learn's isolation forest, compiled to plain arrays.

Numbers in, scores out; it knows nothing of networks. scikit-learn grows the trees
(F. T. Liu, K. M. Ting, Z.-H. Zhou: "Isolation Forest", ICDM 2008); what is kept
afterwards is a handful of arrays, which can be stored without pickle, checked before
use and scored without scikit-learn's per-call overhead. `score_samples` gives the
same doubles as scikit-learn's, bit for bit.

Scores follow scikit-learn: **lower means more abnormal**.

One file because the audit of the arrays belongs beside their meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.ensemble import IsolationForest
from sklearn.utils.validation import check_is_fitted, validate_data

from exfilml.exceptions import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from exfilml._compiled._boxes import Boxes
    from exfilml._compiled._dense import Dense
    from exfilml._compiled._walk import Nodes, Steps

LEAF: Final = -1
# scikit-learn grows isolation trees to ⌈log2(max_samples)⌉ levels.
DEEPEST: Final = 64
MOST_ROWS: Final = 2**53
# Logarithms differ in the last bits between processors.
LENGTH_ERROR: Final = 1e-9
# All nodes of a tree at once, or a walk? While a row takes one step down a tree, a
# block of rows is compared with this many nodes; measured on evidence of real flows
# by `python tests/benchmarks/bench_forest.py --crossovers`.
NODES_OF_A_STEP: Final = 0.075


@dataclass(frozen=True, eq=False)
class Trees:
    """All trees of a forest, node after node, in preorder.

    Attributes
    ----------
    start
        int64, shape (n_trees + 1,): first node of each tree.
    column
        int32, shape (n_nodes,): column a node splits on, `LEAF` for leaves.
    threshold
        float32: rows with value ≤ threshold go left. The largest float32 not above
        scikit-learn's float64 threshold, which decides alike for float32 rows.
    left, right
        int32: children, counted from the first node of the forest; 0 for leaves.
    missing_left
        uint8: whether a missing value goes left.
    rows
        int64: training rows that reached the node.
    value
        float64: for a leaf its path length, depth plus the expected rest of the
        path; 0 for inner nodes.
    """

    start: NDArray[np.int64]
    column: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.uint8]
    rows: NDArray[np.int64]
    value: NDArray[np.float64]

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the arrays."""
        return tuple(f.name for f in fields(cls))

    @cached_property
    def bounded(self) -> bool:
        """Whether −∞ and +∞ lie on either side of every threshold.

        They then stand for a missing value. An infinite threshold is legal, but only
        a plain walk can follow it.
        """
        return bool(np.isfinite(self.threshold[self.column != LEAF]).all())

    @cached_property
    def nodes(self) -> Nodes:
        """The arrays that a plain walk needs."""
        from exfilml._compiled._walk import Nodes

        return Nodes(*(getattr(self, name) for name in Nodes._fields))

    @cached_property
    def dense(self) -> Dense:
        """What scores many rows fast, derived once; for `bounded` trees."""
        from exfilml._compiled._dense import dense

        return dense(*self.nodes)

    @cached_property
    def steps(self) -> Steps:
        """What scores some rows fast, or bushy trees; for `bounded` trees."""
        from exfilml._compiled._walk import steps

        return steps(*self.nodes)

    def path_shares(self, n_columns: int) -> NDArray[np.float64]:
        """Return what a path to each leaf owes to each column.

        Returns
        -------
        numpy.ndarray of float64, shape (n_leaves, n_columns)
        """
        from exfilml._compiled._boxes import path_shares

        shares: NDArray[np.float64] = path_shares(
            self.start,
            self.column,
            self.left,
            self.right,
            self.rows,
            self.value,
            n_columns,
        )
        return shares

    @cached_property
    def work(self) -> tuple[int, int]:
        """Nodes that a block is compared with, and steps that a row takes down."""
        return len(self.dense.column), int(self.steps.depth.sum())

    def is_better_dense(self, n_rows: int) -> bool:
        """Whether comparing blocks of rows with all nodes beats walking."""
        from exfilml._compiled._dense import BLOCK

        nodes, steps = self.work
        return -(-n_rows // BLOCK) * nodes < NODES_OF_A_STEP * n_rows * steps

    @cached_property
    def boxes(self) -> Boxes:
        """What Shapley values are computed from, derived once."""
        from exfilml._compiled._boxes import boxes

        return boxes(*self.nodes, self.rows)

    @cached_property
    def monotone(self) -> Trees:
        """The same trees with path lengths that never rise with any column.

        A forest finds both ends of the data abnormal. Of directed columns only the
        upper end is: a row is no more abnormal than any row that has as much or more
        in every column. So a leaf gets the largest path length of all leaves that
        lie above it; these are the smallest monotone lengths that nowhere call a row
        more abnormal than the forest does.
        """
        from exfilml._compiled._boxes import monotone_lengths

        leaf, box = self.column == LEAF, self.boxes
        leaf_start = np.concatenate([[0], np.cumsum(leaf)])[self.start]
        value = self.value.copy()
        value[leaf] = monotone_lengths(
            leaf_start,
            self.value[leaf],
            box.start,
            box.column,
            box.low,
            box.high,
            box.missing,
        )
        return replace(self, value=value)

    def leaves(self, X: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the leaf of each row in each tree, shape (n_rows, n_trees).

        In plain numpy: slow, but any trees can be walked and nothing is compiled.
        """
        at = np.tile(self.start[:-1], (len(X), 1))
        rows = np.arange(len(X))[:, None]
        while (inner := self.column[at] != LEAF).any():
            cell = X[rows, np.maximum(self.column[at], 0)]
            left = cell <= self.threshold[at]
            left |= np.isnan(cell) & (self.missing_left[at] != 0)
            child = np.where(left, self.left[at], self.right[at])
            at = np.where(inner, child, at)
        return at

    def __getstate__(self) -> dict[str, NDArray[Any]]:
        # What is derived is derived again: copies and hashes depend on arrays only.
        return {name: getattr(self, name) for name in self.names()}

    def check(self, n_columns: int) -> None:
        """Refuse arrays that would send a walk out of bounds or into a loop.

        Raises
        ------
        ModelFileError
            With what is wrong.
        """
        n = len(self.column)
        if any(len(getattr(self, a)) != n for a in self.names() if a != "start"):
            raise ModelFileError("forest: node arrays differ in length")
        start = self.start
        if len(start) < 2 or start[0] != 0 or start[-1] != n:
            raise ModelFileError("forest: tree offsets do not span the nodes")
        # Compared, not subtracted: differences of wild int64 wrap around.
        if (start[1:] <= start[:-1]).any():
            raise ModelFileError("forest: tree offsets do not increase")
        if ((self.column < LEAF) | (self.column >= n_columns)).any():
            raise ModelFileError(f"forest: a column outside 0 … {n_columns - 1}")
        if np.isnan(self.threshold).any():
            raise ModelFileError("forest: a threshold that is not a number")
        if ((self.rows < 1) | (self.rows > MOST_ROWS)).any():
            raise ModelFileError(f"forest: a node of rows outside 1 … {MOST_ROWS}")
        depth = self._check_walks()
        inner = self.column != LEAF
        below = self.rows[self.left[inner]] + self.rows[self.right[inner]]
        if (self.rows[inner] != below).any():
            raise ModelFileError("forest: a node without the rows of its children")
        expected = np.where(inner, 0.0, depth + _average_path_length(self.rows))
        # The comparison is false for what is not a number.
        if not (np.abs(self.value - expected) <= LENGTH_ERROR).all():
            raise ModelFileError("forest: a path length that rows do not explain")

    def _check_walks(self) -> NDArray[np.int64]:
        """Check that every walk ends, and return the depth of each node."""
        start, at = self.start, np.arange(len(self.column))
        inner = self.column != LEAF
        end = np.repeat(start[1:], np.diff(start))
        # Children after their parent and inside the tree: every walk ends.
        for child in (self.left, self.right):
            if (inner & ((child <= at) | (child >= end))).any():
                raise ModelFileError("forest: a child node outside its tree")
        children = np.concatenate([self.left[inner], self.right[inner]])
        if not np.array_equal(np.sort(children), np.delete(at, start[:-1])):
            raise ModelFileError("forest: a node with two parents or none")
        levels = [start[:-1]]
        depth = np.zeros(len(at), np.int64)
        for steps in range(1, DEEPEST + 1):
            above = levels[-1][inner[levels[-1]]]
            levels.append(np.concatenate([self.left[above], self.right[above]]))
            depth[levels[-1]] = steps
        if inner[levels[-1]].any():
            raise ModelFileError(f"forest: a tree deeper than {DEEPEST} levels")
        size = np.ones(len(at), np.int64)
        for level in reversed(levels):
            above = level[inner[level]]
            size[above] += size[self.left[above]] + size[self.right[above]]
        after = at + 1 + size[np.where(inner, self.left, 0)]
        if (inner & ((self.left != at + 1) | (self.right != after))).any():
            raise ModelFileError("forest: nodes that are not in preorder")
        return depth


class BaselineForest(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Isolation forest with scikit-learn's parameters and scores.

    Parameters
    ----------
    n_estimators, max_samples, contamination, max_features, n_jobs, random_state
        As in `sklearn.ensemble.IsolationForest`. Left out: ``warm_start`` (a
        baseline is fitted anew, or calibration would lie), ``bootstrap`` (draws
        with replacement repeat rows, and a repeated row is never isolated),
        ``verbose`` (a library does not print), sparse input (evidence is dense) and
        weights of rows (they only bias the draw of each tree, so that a weight of
        two is not the same as a row given twice, which scikit-learn's convention
        asks for; repeat rows instead).

    Attributes
    ----------
    trees_
        `Trees`.
    max_samples_
        Rows drawn for each tree.
    offset_
        Threshold of `decision_function`.
    n_features_in_
        Number of columns.
    """

    trees_: Trees
    max_samples_: int
    offset_: float
    n_features_in_: int

    def __init__(
        self,
        *,
        n_estimators: int = 100,
        max_samples: float | str = "auto",
        contamination: float | str = "auto",
        max_features: float = 1.0,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.max_samples = max_samples
        self.contamination = contamination
        self.max_features = max_features
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Grow the trees on rows of normal operation.

        Parameters
        ----------
        X
            Shape (n_rows, n_columns); read as float32, NaN is a missing value.
        y
            Ignored; there for scikit-learn's pipelines.
        """
        X = validate_data(self, X, dtype=np.float32, ensure_all_finite=False)
        grown = IsolationForest(**self.get_params(deep=False))
        grown.fit(X)
        self.trees_ = _compile(grown)
        self.max_samples_ = int(grown.max_samples_)
        self.offset_ = float(grown.offset_)
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score rows; lower means more abnormal.

        Returns
        -------
        numpy.ndarray of float64, shape (n_rows,)
            Between −1 and 0: −2^(−mean path length / expected path length).
        """
        return self._scores(self._walk(self._rows(X), self.trees_))

    def monotone_scores(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score rows of directed columns: no score rises when a value rises.

        Inside the range of the training rows an isolation forest is not monotone,
        so that more evidence can look less abnormal. Here the trees have the path
        lengths of `Trees.monotone`. Missing values are compared with nothing.

        Returns
        -------
        numpy.ndarray of float64, shape (n_rows,)
            As `score_samples`; lower means more abnormal.
        """
        rows = self._rows(X)
        return self._scores(self._walk(rows, self._trees(monotone=True)))

    def reference_scores(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score rows as `score_samples` does, with nothing to compile.

        Equal up to rounding; for a few rows before anything was compiled.
        """
        leaves = self.trees_.leaves(self._rows(X))
        return self._scores(self.trees_.value[leaves].sum(axis=1))

    def _scores(self, lengths: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn sums of path lengths into scores."""
        expected = (len(self.trees_.start) - 1) * _expected_length(self.max_samples_)
        if expected == 0:
            return np.full(len(lengths), -0.5)
        scores: NDArray[np.float64] = -(2.0 ** -(lengths / expected))
        return scores

    def _walk(self, rows: NDArray[np.float32], trees: Trees) -> NDArray[np.float64]:
        """Return the sum of each row's path lengths over the trees."""
        from exfilml._compiled import _dense, _walk
        from exfilml._compiled._threads import over_rows

        n = len(rows)
        lengths = np.empty(n)
        loop: Callable[..., None]
        arrays: tuple[NDArray[Any], ...]
        if not trees.bounded:
            loop, arrays = _walk.walk, trees.nodes
        elif trees.is_better_dense(n):
            loop, arrays = _dense.sum_dense, trees.dense
        else:
            loop, arrays = _walk.walk_eight, trees.steps
        over_rows(
            lambda first, stop: loop(rows, first, stop, *arrays, lengths),
            n,
            self.n_jobs,
        )
        return lengths

    def _rows(self, X: ArrayLike) -> NDArray[np.float32]:
        """Check rows against the fitted columns."""
        check_is_fitted(self, "trees_")
        # `validate_data` finds nothing to say about these, and takes longer than the
        # score of a row.
        if (
            type(X) is not np.ndarray
            or X.dtype not in (np.float32, np.float64)
            or X.shape[1:] != (self.n_features_in_,)
            or hasattr(self, "feature_names_in_")
        ):
            X = validate_data(
                self,
                X,
                dtype=np.float32,
                reset=False,
                ensure_all_finite=False,
                ensure_min_samples=0,
            )
        return np.ascontiguousarray(X, dtype=np.float32)

    def path_credit(
        self, X: ArrayLike, *, monotone: bool = False
    ) -> NDArray[np.float64]:
        """Split how much shorter a row's paths are than average over its columns.

        Each split moves the expected path length; the change is credited to the
        split's column. Credits of a row sum to the mean path length over training
        rows minus its own (A. Saabas, "Interpreting random forests", 2014). Fast
        enough for every row; splits near the root get too little, which
        `shapley_credit` mends.

        Parameters
        ----------
        X
            Shape (n_rows, n_columns).
        monotone
            Whether to split the path lengths of `monotone_scores`.

        Returns
        -------
        numpy.ndarray of float64, shape (n_rows, n_columns)
            Positive where a column makes the row easier to isolate.
        """
        from exfilml._compiled._dense import credit_dense
        from exfilml._compiled._threads import over_rows

        rows = self._rows(X)
        credit = np.empty(rows.shape)
        trees = self._trees(monotone=monotone)
        shares = trees.path_shares(rows.shape[1])
        if not trees.bounded:
            number = np.cumsum(trees.column == LEAF) - 1
            credit[:] = 0.0
            for ends in trees.leaves(rows).T:
                credit += shares[number[ends]]
            return credit
        arrays = (*trees.dense, shares)
        over_rows(
            lambda first, stop: credit_dense(rows, first, stop, *arrays, credit),
            len(rows),
            self.n_jobs,
        )
        return credit

    def _trees(self, *, monotone: bool) -> Trees:
        """Return the trees to use; the monotone ones only where there are such."""
        if monotone and not self.trees_.bounded:
            raise ValueError(
                "Training rows held infinities: monotone scores cannot order them. "
                "Fit on finite rows."
            )
        return self.trees_.monotone if monotone else self.trees_

    def shapley_credit(
        self, X: ArrayLike, *, monotone: bool = False
    ) -> NDArray[np.float64]:
        """Split what `path_credit` splits by exact Shapley values (TreeSHAP).

        What a column is worth to a coalition of known columns is the expected path
        length when the trees' splits on unknown columns send training rows' shares
        both ways ("path-dependent"; S. Lundberg et al., Nature Machine Intelligence
        2, 2020). Minus the values of ``shap.TreeExplainer`` in path length.

        Parameters
        ----------
        X
            Shape (n_rows, n_columns).
        monotone
            Whether to split the path lengths of `monotone_scores`.

        Returns
        -------
        numpy.ndarray of float64, shape (n_rows, n_columns)
            Positive where a column makes the row easier to isolate.
        """
        from exfilml._compiled._shapley import credit_shapley
        from exfilml._compiled._threads import over_rows

        rows = self._rows(X)
        credit = np.empty(rows.shape)
        boxes = self._trees(monotone=monotone).boxes
        over_rows(
            lambda first, stop: credit_shapley(rows, first, stop, *boxes, credit),
            len(rows),
            self.n_jobs,
        )
        return credit

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return `score_samples` minus `offset_`; negative means abnormal."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return −1 for abnormal rows and 1 for the others."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _average_path_length(n_rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the expected path length of an unsuccessful search among n rows.

    ``2 (ln(n − 1) + γ) − 2 (n − 1) / n`` for n > 2, 1 for 2, 0 below (Liu et al.,
    equation 1); the same operations in the same order as scikit-learn's.
    """
    lengths = np.zeros(n_rows.shape)
    lengths[n_rows == 2] = 1.0
    many = n_rows > 2
    n = n_rows[many]
    lengths[many] = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return lengths


@lru_cache(maxsize=64)
def _expected_length(n_rows: int) -> float:
    """Return `_average_path_length` of one number; a row is scored in less time."""
    return float(_average_path_length(np.array([n_rows]))[0])


def _round_down(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the largest float32 not above each float64."""
    rounded = threshold.astype(np.float32)
    above = rounded.astype(np.float64) > threshold
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return rounded


def _compile(grown: IsolationForest) -> Trees:
    """Flatten fitted trees; scikit-learn stores the nodes of each in preorder."""
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in Trees.names()}
    del parts["start"]
    offset = 0
    starts = [0]
    drawn = zip(grown.estimators_, grown.estimators_features_, strict=True)
    for estimator, columns in drawn:
        tree = estimator.tree_
        leaf = tree.children_left == LEAF
        rest = _average_path_length(tree.n_node_samples)
        value = tree.compute_node_depths() + rest - 1.0
        # A leaf's feature is −2, which a forest of one column does not have.
        split = columns[np.where(leaf, 0, tree.feature)]
        parts["column"].append(np.where(leaf, LEAF, split))
        parts["threshold"].append(_round_down(np.where(leaf, 0.0, tree.threshold)))
        parts["left"].append(np.where(leaf, 0, tree.children_left + offset))
        parts["right"].append(np.where(leaf, 0, tree.children_right + offset))
        parts["missing_left"].append(np.where(leaf, 0, tree.missing_go_to_left))
        parts["rows"].append(tree.n_node_samples)
        parts["value"].append(np.where(leaf, value, 0.0))
        offset += tree.node_count
        starts.append(offset)
    types = {
        "column": np.int32,
        "threshold": np.float32,
        "left": np.int32,
        "right": np.int32,
        "missing_left": np.uint8,
        "rows": np.int64,
        "value": np.float64,
    }
    arrays = {name: np.concatenate(parts[name]).astype(t) for name, t in types.items()}
    return Trees(start=np.array(starts, dtype=np.int64), **arrays)
