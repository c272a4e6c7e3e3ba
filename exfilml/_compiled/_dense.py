"""All nodes of small trees at once, for a block of rows: no branch, no walk.

Leaves of a tree are numbered from left to right. A row starts at leaf 0 and meets
the inner nodes in preorder: a node that is on its way finds it at the leftmost leaf
below the node, and moves it to the leftmost leaf of the right subtree if it goes
right. A node that is not on its way finds it at another leaf and leaves it there.
Each step is the same comparison for all rows of a block, which the compiler turns
into vector instructions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from exfilml._jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Columns of a block fill half of a 32 kB cache at 15 columns.
BLOCK: Final = 256


class Dense(NamedTuple):
    """Trees as lists of comparisons.

    Attributes
    ----------
    node_start
        int64, shape (n_trees + 1,): first inner node of each tree.
    column
        int32, shape (n_inner,): column ``2 i`` is column ``i`` with missing values
        as −∞, which go left; column ``2 i + 1`` has them as +∞.
    threshold
        float32, shape (n_inner,): above it a row goes right.
    at, goes_to
        unsigned, shape (n_inner,): leaf at which rows arrive, and leaf to
        which those go that turn right.
    leaf_start
        int64, shape (n_trees + 1,): first leaf of each tree.
    value
        float64, shape (n_leaves,): path lengths.
    """

    node_start: NDArray[np.int64]
    column: NDArray[np.int32]
    threshold: NDArray[np.float32]
    at: NDArray[np.unsignedinteger[Any]]
    goes_to: NDArray[np.unsignedinteger[Any]]
    leaf_start: NDArray[np.int64]
    value: NDArray[np.float64]


def dense(
    start: NDArray[np.int64],
    column: NDArray[np.int32],
    threshold: NDArray[np.float32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    missing_left: NDArray[np.uint8],
    value: NDArray[np.float64],
) -> Dense:
    """List the comparisons of trees; parents before children, thresholds finite."""
    inner = column >= 0
    leftmost = np.zeros(len(column), np.int64)
    _number_leaves(start, column, left, right, leftmost)
    before = np.concatenate([[0], np.cumsum(inner)])
    node_start, leaf_start = before[start], start - before[start]
    # The fewer bytes, the more rows fit into a vector.
    kind = np.min_scalar_type(np.diff(leaf_start).max() - 1)
    leaves = np.empty(leaf_start[-1])
    tree = np.repeat(np.arange(len(start) - 1), np.diff(start))
    leaves[(leaf_start[tree] + leftmost)[~inner]] = value[~inner]
    return Dense(
        node_start,
        (2 * column + (missing_left == 0))[inner].astype(np.int32),
        threshold[inner],
        leftmost[inner].astype(kind),
        leftmost[right[inner]].astype(kind),
        leaf_start,
        leaves,
    )


@compiled
def _number_leaves(
    start: NDArray[np.int64],
    column: NDArray[np.int32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    leftmost: NDArray[np.int64],
) -> None:
    """Find the leftmost leaf below each node, counted from its tree's first leaf."""
    below = np.ones(column.shape[0], np.int64)
    for node in range(column.shape[0] - 1, -1, -1):
        if column[node] >= 0:
            below[node] = below[left[node]] + below[right[node]]
    for tree in range(start.shape[0] - 1):
        leftmost[start[tree]] = 0
        for node in range(start[tree], start[tree + 1]):
            if column[node] >= 0:
                leftmost[left[node]] = leftmost[node]
                leftmost[right[node]] = leftmost[node] + below[left[node]]


# The next three are functions of their own because LLVM only then knows that their
# arrays are contiguous and apart, and emits vector instructions.


@compiled
def _compare(leaf: Any, cells: Any, threshold: Any, at: Any, goes_to: Any) -> None:
    for row in range(BLOCK):
        here = leaf[row]
        leaf[row] = goes_to if (here == at) & (cells[row] > threshold) else here


@compiled
def _add(sums: Any, leaf: Any, value: Any) -> None:
    for row in range(BLOCK):
        sums[row] += value[np.intp(leaf[row])]


@compiled
def _split_missing(left: Any, right: Any) -> int:
    """Fill two copies of a column, if it has missing values; return whether."""
    missing = np.int32(0)
    for row in range(BLOCK):
        missing += np.int32(np.isnan(left[row]))
    if missing == 0:
        return 0
    low, high = np.float32(-np.inf), np.float32(np.inf)
    for row in range(BLOCK):
        cell = left[row]
        left[row] = low if np.isnan(cell) else cell
        right[row] = high if np.isnan(cell) else cell
    return 1


@compiled
def _take(X: Any, begin: int, size: int, cells: Any, place: Any) -> None:
    """Turn a block of rows into columns, with missing values on either side."""
    n_columns = X.shape[1]
    for row in range(size):
        for i in range(n_columns):
            cells[2 * i, row] = X[begin + row, i]
    for i in range(n_columns):
        # Without missing values one copy serves both directions, and stays in the
        # cache.
        place[2 * i] = 2 * i
        place[2 * i + 1] = 2 * i + _split_missing(cells[2 * i], cells[2 * i + 1])


@compiled
def _drop(
    leaf: Any,
    cells: Any,
    place: Any,
    column: Any,
    threshold: Any,
    at: Any,
    goes_to: Any,
    first: int,
    stop: int,
) -> None:
    """Find the leaf of each row of a block in one tree."""
    leaf[:] = 0
    for node in range(first, stop):
        _compare(
            leaf, cells[place[column[node]]], threshold[node], at[node], goes_to[node]
        )


@compiled
def sum_dense(
    X: NDArray[np.float32],
    first: int,
    stop: int,
    node_start: NDArray[np.int64],
    column: NDArray[np.int32],
    threshold: NDArray[np.float32],
    at: NDArray[Any],
    goes_to: NDArray[Any],
    leaf_start: NDArray[np.int64],
    value: NDArray[np.float64],
    lengths: NDArray[np.float64],
) -> None:
    """Sum the path lengths of each row over the trees, in tree order."""
    cells = np.zeros((2 * X.shape[1], BLOCK), np.float32)
    place = np.empty(2 * X.shape[1], np.int64)
    leaf = np.zeros(BLOCK, at.dtype)
    sums = np.zeros(BLOCK)
    for begin in range(first, stop, BLOCK):
        size = min(BLOCK, stop - begin)
        _take(X, begin, size, cells, place)
        sums[:] = 0.0
        for tree in range(node_start.shape[0] - 1):
            own, end = node_start[tree], node_start[tree + 1]
            _drop(leaf, cells, place, column, threshold, at, goes_to, own, end)
            _add(sums, leaf, value[leaf_start[tree] : leaf_start[tree + 1]])
        for row in range(size):
            lengths[begin + row] = sums[row]


@compiled
def credit_dense(
    X: NDArray[np.float32],
    first: int,
    stop: int,
    node_start: NDArray[np.int64],
    column: NDArray[np.int32],
    threshold: NDArray[np.float32],
    at: NDArray[Any],
    goes_to: NDArray[Any],
    leaf_start: NDArray[np.int64],
    value: NDArray[np.float64],  # noqa: ARG001
    shares: NDArray[np.float64],
    credit: NDArray[np.float64],
) -> None:
    """Sum over the trees what each leaf credits to each column."""
    n_columns = X.shape[1]
    cells = np.zeros((2 * n_columns, BLOCK), np.float32)
    place = np.empty(2 * n_columns, np.int64)
    leaf = np.zeros(BLOCK, at.dtype)
    for begin in range(first, stop, BLOCK):
        size = min(BLOCK, stop - begin)
        _take(X, begin, size, cells, place)
        credit[begin : begin + size] = 0.0
        for tree in range(node_start.shape[0] - 1):
            own, end = node_start[tree], node_start[tree + 1]
            _drop(leaf, cells, place, column, threshold, at, goes_to, own, end)
            for row in range(size):
                share = shares[leaf_start[tree] + np.intp(leaf[row])]
                for i in range(n_columns):
                    credit[begin + row, i] += share[i]
