"""The compiled Gauss-Newton iteration for constraints whose terms are a variable, or a product of two.

Here: arithmetic for some windows at once, on a pattern found beforehand. Not here: which constraints a network has and
what is returned (bilinear.py). The slow twin is `reconcile_nonlinear`, see tests/balance/test_bilinear.py.

The conditions of optimality, in units where measured variables have std one: [D J'; J 0] [dz; l] = [-D (z - y); -g],
D one where measured and zero where not. They are factored as [D + e, J'; J, -e], which has an L D L' for every order
of rows (quasidefinite, Vanderbei 1995) so that one pattern serves all iterations and windows, and the difference is
taken out by refinement; what no measurement determines stays where it is, and dependent constraints do no harm.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from processing.balance.factors import Pattern, factorise, solve_each

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SHIFT = 1e-8
"""e above: the root of the rounding error, which balances what the factor and the refinement each must mend."""

REFINEMENTS = 3
"""Solutions of one step, each on what the last left: always as many, so that no window depends on its company."""


class Entries(NamedTuple):
    """The entries of the Jacobian, in any order.

    Parameters
    ----------
    row, variable
        Where each is.
    other
        The variable that it is multiplied by, or -1.
    share
        Its coefficient.
    slot
        Its place in L.
    """

    row: Ints
    variable: Ints
    other: Ints
    share: Floats
    slot: Ints


@njit(cache=True, nogil=True)
def evaluate(entries: Entries, z: Floats, rhs: Floats, value: Floats, residual: Floats, size: Floats) -> None:
    """Fill the Jacobian's entries (n_entries, n_windows), the residuals and the sums of |terms| (n_rows, n_windows)."""
    width = z.shape[1]
    for r in range(residual.shape[0]):
        for b in range(width):
            residual[r, b] = -rhs[r, b]
            size[r, b] = abs(rhs[r, b])
    for p in range(len(entries.row)):
        r, v, o, a = entries.row[p], entries.variable[p], entries.other[p], entries.share[p]
        for b in range(width):
            if o < 0:
                value[p, b] = a
                term = a * z[v, b]
            else:
                value[p, b] = a * z[o, b]
                term = 0.5 * a * z[o, b] * z[v, b]  # each product has two entries
            residual[r, b] += term
            size[r, b] += abs(term)


@njit(cache=True, nogil=True)
def scale_entries(entries: Entries, value: Floats, scale: Floats, row_scale: Floats) -> None:
    """Bring the Jacobian to variables of std one and rows of length one, in place; row_scale gets the rows' factors."""
    row_scale[:] = 0.0
    for p in range(len(entries.row)):
        v, r = entries.variable[p], entries.row[p]
        for b in range(value.shape[1]):
            value[p, b] *= scale[v, b]
            row_scale[r, b] += value[p, b] * value[p, b]
    for r in range(row_scale.shape[0]):
        for b in range(row_scale.shape[1]):
            row_scale[r, b] = 1.0 / np.sqrt(row_scale[r, b]) if row_scale[r, b] > 0.0 else 1.0
    for p in range(len(entries.row)):
        r = entries.row[p]
        for b in range(value.shape[1]):
            value[p, b] *= row_scale[r, b]


@njit(cache=True, nogil=True)
def factor_conditions(
    entries: Entries, value: Floats, measured: Floats, pattern: Pattern, place: Ints, lower: Floats, diagonal: Floats
) -> None:
    """Factor the shifted conditions of optimality for a scaled Jacobian, in place of lower and diagonal."""
    n = measured.shape[0]
    lower[:] = 0.0
    for p in range(len(entries.row)):
        s = entries.slot[p]
        for b in range(value.shape[1]):
            lower[s, b] += value[p, b]
    for u in range(len(place)):
        for b in range(value.shape[1]):
            diagonal[place[u], b] = measured[u, b] + SHIFT if u < n else -SHIFT
    factorise(
        pattern.l_start, pattern.l_index, pattern.row_start, pattern.row_column, pattern.row_place, lower, diagonal
    )


@njit(cache=True, nogil=True)
def refine(
    entries: Entries,
    value: Floats,
    away: Floats,
    left: Floats,
    place: Ints,
    factor: tuple[Pattern, Floats, Floats],
    step: Floats,
    multiplier: Floats,
) -> None:
    """Add one solution of what step and multiplier leave of the unshifted conditions.

    away (n_variables, n_windows) is the scaled distance from the measured values before the step, NaN where there is
    none; left (n_rows, n_windows) the scaled residuals there.
    """
    pattern, lower, diagonal = factor
    n, width = step.shape
    block = np.empty((len(place), width))
    for u in range(len(place)):
        for b in range(width):
            if u >= n:
                block[place[u], b] = -left[u - n, b]
            else:
                block[place[u], b] = 0.0 if np.isnan(away[u, b]) else -away[u, b] - step[u, b]
    for p in range(len(entries.row)):
        v, r = entries.variable[p], entries.row[p]
        for b in range(width):
            block[place[v], b] -= value[p, b] * multiplier[r, b]
            block[place[n + r], b] -= value[p, b] * step[v, b]
    solve_each(block, pattern, lower, diagonal)
    for v in range(n):
        for b in range(width):
            step[v, b] += block[place[v], b]
    for r in range(multiplier.shape[0]):
        for b in range(width):
            multiplier[r, b] += block[place[n + r], b]


@njit(cache=True, nogil=True)
def judge(step: Floats, residual: Floats, terms: Floats, tolerance: float, iteration: int, report: Floats) -> bool:
    """Note in report which windows have come to rest; True if all have."""
    done = True
    for b in range(step.shape[1]):
        if report[0, b] > 0.0:
            continue
        moved, left = 0.0, 0.0
        for v in range(step.shape[0]):
            moved = max(moved, abs(step[v, b]))
        for r in range(residual.shape[0]):
            left = max(left, abs(residual[r, b]) / terms[r, b])
        report[2, b] = left
        if moved <= tolerance and left <= tolerance:
            report[0, b], report[1, b] = 1.0, iteration + 1.0
        else:
            done = False
    return done


@njit(cache=True, nogil=True)
def gauss_newton(
    z: Floats,
    given: Floats,
    scale: Floats,
    rhs: Floats,
    entries: Entries,
    pattern: Pattern,
    place: Ints,
    limits: Floats,
    report: Floats,
) -> None:
    """Move z onto the constraints, as near to the measured values as their scale says, in place.

    z, given and scale have shape (n_variables, n_windows); given is NaN where unmeasured, scale the std there the size
    of a step. rhs has shape (n_rows, n_windows), place (n_variables + n_rows,) the position of each unknown in the
    order of elimination. limits holds tolerance and most iterations; report (3, n_windows) gets whether a window
    converged, its iterations, and its largest open constraint as a share of its terms and of what one std makes of it.
    """
    n, width = z.shape
    m = rhs.shape[0]
    value = np.empty((len(entries.row), width))
    residual, size, row_scale = np.empty((m, width)), np.empty((m, width)), np.empty((m, width))
    left, multiplier = np.empty((m, width)), np.empty((m, width))
    measured, away, step = np.empty((n, width)), np.empty((n, width)), np.empty((n, width))
    lower, diagonal = np.empty((len(pattern.l_index), width)), np.empty((n + m, width))
    report[0], report[1], report[2] = 0.0, limits[1], np.inf
    for v in range(n):
        for b in range(width):
            measured[v, b] = 0.0 if np.isnan(given[v, b]) else 1.0
    evaluate(entries, z, rhs, value, residual, size)
    for iteration in range(int(limits[1])):
        scale_entries(entries, value, scale, row_scale)
        factor_conditions(entries, value, measured, pattern, place, lower, diagonal)
        for v in range(n):
            for b in range(width):
                away[v, b] = (z[v, b] - given[v, b]) / scale[v, b] if scale[v, b] > 0.0 else 0.0
        for r in range(m):
            for b in range(width):
                left[r, b] = residual[r, b] * row_scale[r, b]
        step[:] = 0.0
        multiplier[:] = 0.0
        for _ in range(REFINEMENTS):
            refine(entries, value, away, left, place, (pattern, lower, diagonal), step, multiplier)
        for v in range(n):
            for b in range(width):
                if report[0, b] == 0.0:
                    z[v, b] += scale[v, b] * step[v, b]
        evaluate(entries, z, rhs, value, residual, size)
        for r in range(m):
            for b in range(width):
                size[r, b] += 1.0 / row_scale[r, b]
        if judge(step, residual, size, limits[0], iteration, report):
            return
