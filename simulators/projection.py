"""The least change that closes every balance: weighted projection on linear constraints, within bounds.

Here: `project`. Not here: which balances there are (`simulators.truth`). numpy and scipy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import linprog
from scipy.sparse import csr_array, diags_array, eye_array, hstack
from scipy.sparse.linalg import splu

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Matrix = FloatArray | csr_array[np.float64]

RIDGE = 1e-13           # regularises dependent balances; iterative refinement takes its trace out again
REFINEMENTS = 8         # each gains at least five digits; two or three are used
CLOSED = 1e-12          # a row counts as closed when its residual is this small against its terms
ROUNDING = 1e-12        # a bound is kept when it is left by no more than this
LEAST_TERMS = 1e-5      # of the largest variable: against this at least, so that flows of nothing close too
DENSE_ROWS = 100        # of balances: up to here dense algebra is faster than sparse
SMALLEST = 1e-300       # against division by zero
ROUNDS = 30             # of clamping; each fixes at least one variable at a bound


class UnclosableError(ValueError):
    """Balances that contradict each other; `rows` are those that stay open."""

    def __init__(self, rows: tuple[int, ...]) -> None:
        super().__init__(f"balances {', '.join(map(str, rows))} cannot be closed")
        self.rows = rows


@dataclass(frozen=True)
class Problem:
    """Where to go, and what must hold there.

    Attributes
    ----------
    desired
        Shape (n,).
    weight
        Variances: how freely each may move, shape (n,); 0 keeps it.
    matrix, rhs
        The balances ``matrix @ x == rhs``, sparse of shape (m, n), and (m,). Rows may depend on each other.
    low, high
        Bounds, shape (n,), infinite for none.
    """

    desired: FloatArray
    weight: FloatArray
    matrix: csr_array[np.float64]
    rhs: FloatArray
    low: FloatArray
    high: FloatArray

    @cached_property
    def rows(self) -> Matrix:
        """The matrix, dense where that is faster: up to `DENSE_ROWS` rows."""
        return self.matrix.toarray() if len(self.rhs) <= DENSE_ROWS else self.matrix


def project(problem: Problem) -> FloatArray:
    """Return the point closest to what is desired that closes every balance, within bounds where they leave room.

    Returns
    -------
    FloatArray
        Shape (n,). The balances always close; bounds are broken only where no point keeps both.

    Raises
    ------
    UnclosableError
        If the balances contradict each other.

    Notes
    -----
    ``x = d + W A^T (A W A^T)^+ (b - A d)``. What leaves its bounds is set on them and the rest projected again; where
    that runs dry a linear programme finds a point that keeps all. Not the constrained optimum, but a point that
    moves continuously with what is desired as long as the same bounds are met.
    """
    x, closed = _close(problem.desired, problem.weight, problem)
    if not closed:
        open_ = residual(x, problem.rows, problem.rhs, float(np.abs(problem.desired).max(initial=0.0)))
        raise UnclosableError(tuple(np.flatnonzero(open_ > CLOSED).tolist()))
    if _inside(x, problem).all():
        return x
    within = project_within(problem)
    return x if within is None else within


def project_within(problem: Problem) -> FloatArray | None:
    """Return a point near what is desired that closes every balance and keeps every bound; None if there is none."""
    clamped = _clamp(problem)
    return _programme(problem) if clamped is None else clamped


def residual(x: FloatArray, matrix: Matrix, rhs: FloatArray, size: float = 0.0) -> FloatArray:
    """Return what each balance leaves open, relative to the sum of its terms, or to `LEAST_TERMS` of `size`; (m,)."""
    terms = abs(matrix) @ np.abs(x) + np.abs(rhs)
    return np.asarray(np.abs(matrix @ x - rhs) / np.maximum(terms, max(LEAST_TERMS * size, SMALLEST)))


def _close(desired: FloatArray, weight: FloatArray, problem: Problem) -> tuple[FloatArray, bool]:
    """Project without bounds; the second value says whether every balance closed."""
    x, matrix, rhs = desired.copy(), problem.rows, problem.rhs
    size = float(np.abs(desired).max(initial=0.0))
    if (residual(x, matrix, rhs, size) < CLOSED).all():
        return x, True
    solve = _factor(_normal(matrix, weight))
    for _ in range(REFINEMENTS):
        x += weight * np.asarray(matrix.T @ solve(rhs - matrix @ x))
        if (residual(x, matrix, rhs, size) < CLOSED).all():
            return x, True
    return x, False


def _normal(matrix: Matrix, weight: FloatArray) -> Matrix:
    """Return ``A W A^T``, dense where `matrix` is."""
    if isinstance(matrix, np.ndarray):      # as fast as BLAS here, whose threads would wait for each other
        return np.asarray(np.einsum("ij,kj->ik", matrix * weight, matrix))
    return csr_array(matrix @ diags_array(weight) @ matrix.T)


def _factor(normal: Matrix) -> Callable[[FloatArray], FloatArray]:
    """Return what solves the normal equations, scaled to a diagonal of ones and regularised by `RIDGE`."""
    diagonal = normal.diagonal()
    scale = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    if not isinstance(normal, np.ndarray):
        scaled = diags_array(scale) @ normal @ diags_array(scale) + RIDGE * eye_array(len(scale))
        sparse = splu(scaled.tocsc())
        return lambda open_: scale * sparse.solve(scale * open_)
    dense = normal * np.outer(scale, scale)
    dense.flat[:: len(scale) + 1] += RIDGE
    factor = cho_factor(dense, lower=True, check_finite=False)
    return lambda open_: scale * cho_solve(factor, scale * open_, check_finite=False)


def _inside(x: FloatArray, problem: Problem) -> BoolArray:
    """Whether each variable keeps its bounds, to rounding."""
    slack = ROUNDING * (1.0 + np.abs(x))
    return (x >= problem.low - slack) & (x <= problem.high + slack)


def _clamp(problem: Problem) -> FloatArray | None:
    """Set on their bounds what leaves them and project the rest, until all keep them; None if that runs dry."""
    target, free = np.clip(problem.desired, problem.low, problem.high), problem.weight.copy()
    for _ in range(ROUNDS):
        x, closed = _close(target, free, problem)
        inside = _inside(x, problem)
        if inside.all():
            return x if closed else None
        target = np.where(inside, target, np.clip(x, problem.low, problem.high))
        free = np.where(inside, free, 0.0)
    return None


def _programme(problem: Problem) -> FloatArray | None:
    """Find a point near in the weighted 1-norm that keeps all, by linear programming; None if there is none."""
    count = len(problem.desired)
    start = np.clip(problem.desired, problem.low, problem.high)
    floor = max(float(problem.weight.max(initial=0.0)), 1.0) * ROUNDING
    cost = np.tile(1.0 / np.sqrt(np.maximum(problem.weight, floor)), 2)
    room = np.concatenate([problem.high - start, start - problem.low])
    both: Any = hstack([problem.matrix, -problem.matrix])           # scipy's stubs know dense constraints alone
    found = linprog(
        cost / cost.max(), A_eq=both, b_eq=problem.rhs - problem.matrix @ start,
        bounds=[(0.0, float(r)) for r in room], method="highs",
    )
    if found.x is None:
        return None
    x = np.clip(start + found.x[:count] - found.x[count:], problem.low, problem.high)
    apart = np.minimum(x - problem.low, problem.high - x) > 1e-6 * (1.0 + np.abs(x))
    polished, closed = _close(x, np.where(apart, np.maximum(problem.weight, floor), 0.0), problem)
    return polished if closed and _inside(polished, problem).all() else None
