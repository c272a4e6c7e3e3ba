"""Trees as boxes: what `_shapley` computes from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from exfilml._jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_ROWS: Final = 2.0**53


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
def count_rows(
    column: NDArray[np.int32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    value: NDArray[np.float64],
    depth: NDArray[np.int64],
    rows: NDArray[np.float64],
) -> None:
    """Fill in each node's depth and how many training rows reached it.

    A leaf at depth h with n rows has path length h + c(n), where c is the expected
    path length of a search among n rows, c(1) = 0, c(2) = 1 and beyond
    ``2 (ln(n − 1) + γ) − 2 (n − 1) / n``. So ``exp((c + 2) / 2 − γ)`` equals
    ``(n − 1) exp(1 / n)``, which is n − 1/(2n) − … and rounds to n.
    """
    n = column.shape[0]
    depth[:] = 0
    for node in range(n):
        if column[node] >= 0:
            depth[left[node]] = depth[node] + 1
            depth[right[node]] = depth[node] + 1
            continue
        rest = value[node] - depth[node]
        if rest < 0.5:
            rows[node] = 1.0
        elif rest < 1.1:
            rows[node] = 2.0
        else:
            guess = np.round(math.exp(min(rest, 80.0) / 2.0 + 1.0 - np.euler_gamma))
            # Only a made-up value exceeds it.
            rows[node] = min(guess, MOST_ROWS)
    for node in range(n - 1, -1, -1):
        if column[node] >= 0:
            rows[node] = rows[left[node]] + rows[right[node]]


@compiled
def _boxes(  # noqa: C901
    column: NDArray[np.int32],
    threshold: NDArray[np.float32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    missing_left: NDArray[np.uint8],
    rows: NDArray[np.float64],
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
) -> Boxes:
    """Turn trees into boxes."""
    leaf = column < 0
    depth, rows = np.empty(len(column), np.int64), np.empty(len(column))
    count_rows(column, left, right, value, depth, rows)
    trees = (column, threshold, left, right, missing_left)
    first = np.empty(int(leaf.sum()) + 1, np.int64)
    # A path of h splits is bounded in at most h columns.
    n = int(depth[leaf].sum())
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
