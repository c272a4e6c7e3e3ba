"""Exact Shapley values of path lengths (path-dependent TreeSHAP), leaf by leaf.

A leaf with path length v is a box: an interval in each column that its path splits
on. Of the training rows that reach the splits on column j, a share z_j stays on the
path; a row is inside the interval (o_j = 1) or not (o_j = 0). The leaf's game pays v
times the product over columns of o_j (column known) or z_j (unknown), so that column
j earns (S. Lundberg et al., "From local explanations to global understanding with
explainable AI for trees", Nature Machine Intelligence 2, 2020)::

    v (o_j − z_j) Σ_S |S|! (d − 1 − |S|)! / d!  Π_S o_i Π_not-S z_i
  = v (o_j − z_j) ∫₀¹ Π_{i ≠ j} (o_i t + z_i (1 − t)) dt

The weights are beta integrals, which turns the sum over 2^(d − 1) subsets into the
integral of a polynomial of degree d − 1, and Gauss–Legendre quadrature with ⌈d / 2⌉
points gives that exactly. All terms of the products are positive: nothing cancels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from exfilml._jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK: Final = 128
# No tree is deeper, so that no leaf is bounded in more columns.
MOST_SIDES: Final = 64


# Functions of their own, over contiguous arrays, so that LLVM vectorises them.


@compiled
def _is_inside(inside: Any, cells: Any, low: Any, high: Any, missing: Any) -> None:
    for row in range(BLOCK):
        x = cells[row]
        within = (not (x <= low)) & (x <= high)
        inside[row] = 1.0 if within | (missing & np.isnan(x)) else 0.0


@compiled
def _multiply(product: Any, inside: Any, known: Any, unknown: Any) -> None:
    for row in range(BLOCK):
        product[row] *= inside[row] * known + unknown


@compiled
def _pay(credit: Any, product: Any, inside: Any, gain: Any, loss: Any) -> None:
    for row in range(BLOCK):
        credit[row] -= product[row] * (inside[row] * (gain - loss) + loss)


@compiled
def _play(
    earned: Any,
    product: Any,
    inside: Any,
    value: float,
    column: NDArray[np.int32],
    share: NDArray[np.float64],
    point: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> None:
    """Pay out the game of one leaf, one point of the quadrature after another."""
    sides = column.shape[0]
    for k in range((sides + 1) // 2):
        t = point[k]
        product[:] = weight[k] * value
        for j in range(sides):
            _multiply(product, inside[j], t, share[j] * (1.0 - t))
        for j in range(sides):
            # (o − z) over the column's own factor, which the product has and the
            # integrand has not; for o = 0 the share cancels.
            gain = (1.0 - share[j]) / (t + share[j] * (1.0 - t))
            loss = -1.0 / (1.0 - t)
            _pay(earned[column[j]], product, inside[j], gain, loss)


@compiled
def credit_shapley(
    X: NDArray[np.float32],
    first: int,
    stop: int,
    start: NDArray[np.int64],
    value: NDArray[np.float64],
    column: NDArray[np.int32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    missing: NDArray[np.uint8],
    share: NDArray[np.float64],
    point: NDArray[np.float64],
    weight: NDArray[np.float64],
    credit: NDArray[np.float64],
) -> None:
    """Write minus the Shapley values of the mean path length."""
    n_columns = X.shape[1]
    cells = np.zeros((n_columns, BLOCK), np.float32)
    earned = np.empty((n_columns, BLOCK))
    inside = np.empty((MOST_SIDES, BLOCK))
    product = np.empty(BLOCK)
    for begin in range(first, stop, BLOCK):
        size = min(BLOCK, stop - begin)
        for row in range(size):
            for i in range(n_columns):
                cells[i, row] = X[begin + row, i]
        earned[:] = 0.0
        for leaf in range(value.shape[0]):
            own, end = start[leaf], start[leaf + 1]
            for side in range(own, end):
                _is_inside(
                    inside[side - own],
                    cells[column[side]],
                    low[side],
                    high[side],
                    missing[side] != 0,
                )
            points = (end - own + 1) // 2
            _play(
                earned,
                product,
                inside,
                value[leaf],
                column[own:end],
                share[own:end],
                point[points],
                weight[points],
            )
        for row in range(size):
            for i in range(n_columns):
                credit[begin + row, i] = earned[i, row]
