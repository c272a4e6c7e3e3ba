"""Trees as boxes: what Shapley values and monotone path lengths are told from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from exfilml._jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Boxes(NamedTuple):
    """Leaves as boxes, with one entry per leaf and column that it is bounded in.

    Attributes
    ----------
    start
        int64, shape (n_leaves + 1,): first entry of each leaf.
    value
        float64, shape (n_leaves,): path lengths divided by the number of trees.
    column
        int32, shape (n_entries,).
    low, high
        float32: inside are values with not ≤ low and ≤ high; NaN for no lower bound.
    missing
        uint8: whether a missing value is inside.
    share
        float64, in (0, 1): of the training rows that reach the splits on the column,
        those that stay on the path.
    point, weight
        float64, shape (most // 2 + 2, most // 2 + 2): row k has the k points and
        weights of Gauss–Legendre quadrature on [0, 1].
    """

    start: NDArray[np.int64]
    value: NDArray[np.float64]
    column: NDArray[np.int32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    missing: NDArray[np.uint8]
    share: NDArray[np.float64]
    point: NDArray[np.float64]
    weight: NDArray[np.float64]


@compiled
def _count_entries(
    column: NDArray[np.int32], left: NDArray[np.int32], right: NDArray[np.int32]
) -> int:
    """Return the sum of the leaves' depths: a split bounds its leaves in a column."""
    depth = np.zeros(column.shape[0], np.int64)
    entries = 0
    for node in range(column.shape[0]):
        if column[node] >= 0:
            depth[left[node]] = depth[node] + 1
            depth[right[node]] = depth[node] + 1
        else:
            entries += depth[node]
    return entries


@compiled
def _boxes(  # noqa: C901
    column: NDArray[np.int32],
    threshold: NDArray[np.float32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    missing_left: NDArray[np.uint8],
    rows: NDArray[np.int64],
    first: NDArray[np.int64],
    box_column: NDArray[np.int32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    missing: NDArray[np.uint8],
    share: NDArray[np.float64],
) -> int:
    """Collect each leaf's bounds on the way up; return the number of entries."""
    parent = np.full(column.shape[0], -1, np.int64)
    for node in range(column.shape[0]):
        if column[node] >= 0:
            parent[left[node]] = node
            parent[right[node]] = node
    size = 0
    leaf = 0
    for end in range(column.shape[0]):
        if column[end] >= 0:
            continue
        first[leaf] = size
        node = end
        while parent[node] >= 0:
            up = parent[node]
            side = first[leaf]
            while side < size and box_column[side] != column[up]:
                side += 1
            if side == size:
                size += 1
                box_column[side] = column[up]
                low[side] = np.nan
                high[side] = np.inf
                missing[side] = 1
                share[side] = 1.0
            share[side] *= rows[node] / rows[up]
            goes_left = left[up] == node
            if (missing_left[up] != 0) != goes_left:
                missing[side] = 0
            limit = threshold[up]
            # No value is ≤ NaN: nothing goes left of it, and all goes right.
            if goes_left and (np.isnan(limit) or high[side] > limit):
                high[side] = limit
            if not goes_left and not np.isnan(limit) and not (low[side] >= limit):
                low[side] = limit
            node = up
        leaf += 1
    first[leaf] = size
    return size


def boxes(
    start: NDArray[np.int64],
    column: NDArray[np.int32],
    threshold: NDArray[np.float32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    missing_left: NDArray[np.uint8],
    value: NDArray[np.float64],
    rows: NDArray[np.int64],
) -> Boxes:
    """Turn trees into boxes."""
    leaf = column < 0
    trees = (column, threshold, left, right, missing_left)
    first = np.empty(int(leaf.sum()) + 1, np.int64)
    n = _count_entries(column, left, right)
    columns, shares = np.empty(n, np.int32), np.empty(n)
    low, high = np.empty((2, n), np.float32)
    missing = np.empty(n, np.uint8)
    n = _boxes(*trees, rows, first, columns, low, high, missing, shares)
    most = int(np.diff(first).max())
    point, weight = np.zeros((2, most // 2 + 2, most // 2 + 2))
    for k in range(1, len(point)):
        x, w = np.polynomial.legendre.leggauss(k)
        point[k, :k], weight[k, :k] = (1.0 + x) / 2.0, w / 2.0
    return Boxes(
        first,
        value[leaf] / (len(start) - 1),
        columns[:n].copy(),
        low[:n].copy(),
        high[:n].copy(),
        missing[:n].copy(),
        shares[:n].copy(),
        point,
        weight,
    )


@compiled
def path_shares(
    start: NDArray[np.int64],
    column: NDArray[np.int32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    rows: NDArray[np.int64],
    value: NDArray[np.float64],
    n_columns: int,
) -> NDArray[np.float64]:
    """Return what a path to each leaf credits to each column, per tree of all.

    A node's expected length is the mean over the rows below it; each step down
    credits the fall of it to the column that was split on.
    """
    n = column.shape[0]
    mean = value.copy()
    for node in range(n - 1, -1, -1):
        if column[node] >= 0:
            a, b = left[node], right[node]
            mean[node] = (rows[a] * mean[a] + rows[b] * mean[b]) / rows[node]
    shares = np.zeros((n, n_columns))
    leaves = 0
    for node in range(n):
        if column[node] < 0:
            # No node to the left of a leaf is needed any more.
            shares[leaves] = shares[node] / (start.shape[0] - 1)
            leaves += 1
            continue
        for child in (left[node], right[node]):
            shares[child] = shares[node]
            shares[child, column[node]] += mean[node] - mean[child]
    return shares[:leaves].copy()


@compiled
def _lies_above(
    side: int, end: int, column: Any, high: Any, missing: Any, below: Any, hidden: Any
) -> bool:
    """Say whether a row of this box can lie above one of the other, or equal it."""
    while side < end:
        i = column[side]
        if not (below[i] < high[side] or (missing[side] != 0 and hidden[i] != 0)):
            return False
        side += 1
    return True


@compiled
def monotone_lengths(
    leaf_start: NDArray[np.int64],
    lengths: NDArray[np.float64],
    start: NDArray[np.int64],
    column: NDArray[np.int32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    missing: NDArray[np.uint8],
) -> NDArray[np.float64]:
    """Return the largest path length of each leaf and all that lie above it.

    `leaf_start` holds each tree's first leaf, the other arrays are those of `Boxes`
    for finite thresholds. Of two leaves the left one lies below the split that parts
    them. So no leaf lies above one to its right, and one pass from the right closes
    the order.
    """
    largest = lengths.copy()
    n_columns = 1
    for i in column:
        n_columns = max(n_columns, i + 1)
    below = np.empty(n_columns, np.float32)
    hidden = np.empty(n_columns, np.uint8)
    for tree in range(leaf_start.shape[0] - 1):
        stop = leaf_start[tree + 1]
        for leaf in range(stop - 1, leaf_start[tree] - 1, -1):
            below[:] = -np.inf
            hidden[:] = 1
            for side in range(start[leaf], start[leaf + 1]):
                if not np.isnan(low[side]):
                    below[column[side]] = low[side]
                hidden[column[side]] = missing[side]
            for other in range(leaf + 1, stop):
                if largest[other] > largest[leaf] and _lies_above(
                    start[other],
                    start[other + 1],
                    column,
                    high,
                    missing,
                    below,
                    hidden,
                ):
                    largest[leaf] = largest[other]
    return largest
