"""Walks from root to leaf: eight rows at once without a branch, or one at a time.

Without a branch nothing is mispredicted, which pays even for a single row; the plain
walk is for trees that cannot be laid out so, and for credit along the path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from exfilml._jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Rows and sums of a block stay in the first cache while the trees pass by.
BLOCK: Final = 256


class Nodes(NamedTuple):
    """The arrays of `exfilml.forest.Trees` that say where a row goes."""

    start: NDArray[np.int64]
    column: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.uint8]
    value: NDArray[np.float64]


@compiled
def _child(
    value: float, node: int, threshold: Any, left: Any, right: Any, missing_left: Any
) -> int:
    """Return where a row with this value goes; ≤ is false for NaN."""
    if value <= threshold[node] or (np.isnan(value) and missing_left[node]):
        return int(left[node])
    return int(right[node])


@compiled
def walk(
    X: NDArray[np.float32],
    first: int,
    stop: int,
    start: NDArray[np.int64],
    column: NDArray[np.int32],
    threshold: NDArray[np.float32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    missing_left: NDArray[np.uint8],
    value: NDArray[np.float64],
    lengths: NDArray[np.float64],
) -> None:
    """Sum the path lengths of each row over the trees, in tree order."""
    for begin in range(first, stop, BLOCK):
        end = min(begin + BLOCK, stop)
        for row in range(begin, end):
            lengths[row] = 0.0
        # A tree at a time keeps its nodes in cache, and the order of additions is
        # scikit-learn's.
        for tree in range(start.shape[0] - 1):
            for row in range(begin, end):
                node = start[tree]
                while column[node] >= 0:
                    node = _child(
                        X[row, column[node]], node, threshold, left, right, missing_left
                    )
                lengths[row] += value[node]


class Steps(NamedTuple):
    """Trees laid out so that a step down needs no branch.

    Attributes
    ----------
    root, depth
        int64, shape (n_trees,): first node, and steps to the deepest leaf.
    nodes
        int32, shape (n_nodes, 2): place of the node's value in a widened row, and
        the left child; the right child is the next node. A leaf is its own child.
    threshold
        float32, shape (n_nodes,): above it a row goes right; infinite for leaves.
    value
        float64, shape (n_nodes,): path length of leaves.
    """

    root: NDArray[np.int64]
    depth: NDArray[np.int64]
    nodes: NDArray[np.int32]
    threshold: NDArray[np.float32]
    value: NDArray[np.float64]


def steps(
    start: NDArray[np.int64],
    column: NDArray[np.int32],
    threshold: NDArray[np.float32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    missing_left: NDArray[np.uint8],
    value: NDArray[np.float64],
) -> Steps:
    """Lay the trees out anew; thresholds have to be finite."""
    n = len(column)
    order, depth = np.empty(n, np.int64), np.zeros(len(start) - 1, np.int64)
    _side_by_side(start, column, left, right, order, depth)
    new = np.empty(n, np.int64)
    new[order] = np.arange(n)
    leaf = column[order] < 0
    nodes = np.empty((n, 2), np.int32)
    # Of a widened row's pair, the first sends missing values left.
    nodes[:, 0] = np.where(leaf, 0, 2 * column[order] + (missing_left[order] == 0))
    # What a leaf has for children is not looked at, and not audited.
    nodes[:, 1] = np.where(leaf, np.arange(n), new[np.where(leaf, 0, left[order])])
    limit = np.where(leaf, np.float32(np.inf), threshold[order])
    return Steps(start[:-1].copy(), depth, nodes, limit, value[order])


@compiled
def _side_by_side(
    start: NDArray[np.int64],
    column: NDArray[np.int32],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    order: NDArray[np.int64],
    depth: NDArray[np.int64],
) -> None:
    """Order each tree level by level, so that siblings are neighbours."""
    for tree in range(start.shape[0] - 1):
        order[start[tree]] = start[tree]
        begin, end = start[tree], start[tree] + 1
        while True:
            filled = end
            for at in range(begin, end):
                node = order[at]
                if column[node] >= 0:
                    order[filled] = left[node]
                    order[filled + 1] = right[node]
                    filled += 2
            if filled == end:
                break
            begin, end = end, filled
            depth[tree] += 1


@compiled
def _down(cells: Any, node: int, depth: int, nodes: Any, threshold: Any) -> int:
    """Return the leaf of one row; the processor runs ahead into the next tree."""
    for _ in range(depth):
        node = nodes[node, 1] + (cells[nodes[node, 0]] > threshold[node])
    return node


@compiled
def walk_eight(
    X: NDArray[np.float32],
    first: int,
    stop: int,
    root: NDArray[np.int64],
    depth: NDArray[np.int64],
    nodes: NDArray[np.int32],
    threshold: NDArray[np.float32],
    value: NDArray[np.float64],
    lengths: NDArray[np.float64],
) -> None:
    """Sum path lengths as `walk` does; eight rows hide each other's waits for memory.

    Every row takes as many steps as the tree is deep; those at a leaf stay there.
    """
    wide = 2 * X.shape[1]
    # A last group of fewer rows is filled up with zeros or earlier rows.
    most = min(BLOCK, (stop - first + 7) // 8 * 8)
    cells = np.zeros(most * wide, np.float32)
    sums = np.empty(most)
    low, high = np.float32(-np.inf), np.float32(np.inf)
    for begin in range(first, stop, BLOCK):
        size = min(BLOCK, stop - begin)
        for row in range(size):
            for i in range(X.shape[1]):
                cell = X[begin + row, i]
                missing = np.isnan(cell)
                cells[row * wide + 2 * i] = low if missing else cell
                cells[row * wide + 2 * i + 1] = high if missing else cell
        sums[:] = 0.0
        for tree in range(root.shape[0]):
            if size == 1:
                leaf = _down(cells, root[tree], depth[tree], nodes, threshold)
                sums[0] += value[leaf]
                continue
            for row in range(0, size, 8):
                a = b = c = d = e = f = g = h = root[tree]
                at = row * wide
                for _ in range(depth[tree]):
                    a = nodes[a, 1] + (cells[at + nodes[a, 0]] > threshold[a])
                    b = nodes[b, 1] + (cells[at + wide + nodes[b, 0]] > threshold[b])
                    c = nodes[c, 1] + (
                        cells[at + 2 * wide + nodes[c, 0]] > threshold[c]
                    )
                    d = nodes[d, 1] + (
                        cells[at + 3 * wide + nodes[d, 0]] > threshold[d]
                    )
                    e = nodes[e, 1] + (
                        cells[at + 4 * wide + nodes[e, 0]] > threshold[e]
                    )
                    f = nodes[f, 1] + (
                        cells[at + 5 * wide + nodes[f, 0]] > threshold[f]
                    )
                    g = nodes[g, 1] + (
                        cells[at + 6 * wide + nodes[g, 0]] > threshold[g]
                    )
                    h = nodes[h, 1] + (
                        cells[at + 7 * wide + nodes[h, 0]] > threshold[h]
                    )
                sums[row] += value[a]
                sums[row + 1] += value[b]
                sums[row + 2] += value[c]
                sums[row + 3] += value[d]
                sums[row + 4] += value[e]
                sums[row + 5] += value[f]
                sums[row + 6] += value[g]
                sums[row + 7] += value[h]
        for row in range(size):
            lengths[begin + row] = sums[row]
