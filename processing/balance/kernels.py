"""The compiled inner loops over windows: solving many at once with one sparse factor, or each with its own.

Here: arithmetic on arrays that were checked before; NaN where a meter is silent, which no loop reads. Not here: the
factors (factors.py), streams without a meter (steps.py), which rows and columns take part and what is computed when
(sparse.py). Every loop has a slow, obvious twin in tests/balance/test_kernels.py.

Windows are taken some at a time, transposed, so that the innermost loop runs over windows: contiguous, the same
operation for each, whatever the sparsity. Multipliers are in elimination order throughout. S = R V R' = L D L'.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from processing.balance.factors import Pattern, Terms, assemble, factorise, solve_each

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Balances(NamedTuple):
    """Reduced balances R, and G = V R' transposed, both by row of R, rows as the plant has them.

    Walking along the plant meets streams in order, which memory likes; elimination jumps about in it.

    Parameters
    ----------
    place
        Position of each row in elimination order, shape (n_rows,).
    start, stream, value
        R: row r has `value[start[r]:start[r + 1]]` at `stream[...]`.
    weighted_start, weighted_stream, weighted
        (V R')' likewise: what one unit of multiplier r takes off each stream.
    """

    place: Ints
    start: Ints
    stream: Ints
    value: Floats
    weighted_start: Ints
    weighted_stream: Ints
    weighted: Floats


class Factor(NamedTuple):
    """L by columns, and one over D.

    Parameters
    ----------
    start, row, value
        Column k of L has `value[start[k]:start[k + 1]]` at `row[...]`, all greater than k, ascending.
    inverse
        1 / D, shape (n_rows,).
    """

    start: Ints
    row: Ints
    value: Floats
    inverse: Floats


@njit(cache=True, nogil=True)
def solve_block(block: Floats, factor: Factor) -> None:
    """Solve S z = block in place; block has shape (n_rows, n_windows)."""
    width = block.shape[1]
    for k in range(block.shape[0]):
        for p in range(factor.start[k], factor.start[k + 1]):
            i = factor.row[p]
            a = factor.value[p]
            for b in range(width):
                block[i, b] -= a * block[k, b]
    for k in range(block.shape[0] - 1, -1, -1):
        d = factor.inverse[k]
        for b in range(width):
            block[k, b] *= d
        for p in range(factor.start[k], factor.start[k + 1]):
            i = factor.row[p]
            a = factor.value[p]
            for b in range(width):
                block[k, b] -= a * block[i, b]


@njit(cache=True, nogil=True)
def leave_open(x: Floats, right: Floats, balances: Balances, work: Floats) -> None:
    """Fill work with R x - right; x has shape (n_streams, n_windows), right and work (n_rows, n_windows)."""
    width = x.shape[1]
    for r in range(work.shape[0]):
        k = balances.place[r]
        for b in range(width):
            work[k, b] = -right[k, b]
        for p in range(balances.start[r], balances.start[r + 1]):
            j = balances.stream[p]
            a = balances.value[p]
            for b in range(width):
                work[k, b] += a * x[j, b]


@njit(cache=True, nogil=True)
def adjust_block(x: Floats, right: Floats, work: Floats, balances: Balances, factor: Factor) -> None:
    """Move values x onto the balances R x = right in place: x -= G S^-1 (R x - right).

    x has shape (n_streams, n_windows), right and work (n_rows, n_windows).
    """
    width = x.shape[1]
    leave_open(x, right, balances, work)
    solve_block(work, factor)
    for r in range(work.shape[0]):
        k = balances.place[r]
        for p in range(balances.weighted_start[r], balances.weighted_start[r + 1]):
            j = balances.weighted_stream[p]
            a = balances.weighted[p]
            for b in range(width):
                x[j, b] -= a * work[k, b]


@njit(cache=True, nogil=True)
def take_windows(values: Floats, first: int, count: int, x: Floats) -> None:
    """Copy windows first .. first + count into the columns of x, shape (n_streams, width)."""
    whole = count - count % 8
    for b in range(0, whole, 8):  # eight at a time: each cache line of x is written once
        w = first + b
        for j in range(x.shape[0]):
            x[j, b] = values[w, j]
            x[j, b + 1] = values[w + 1, j]
            x[j, b + 2] = values[w + 2, j]
            x[j, b + 3] = values[w + 3, j]
            x[j, b + 4] = values[w + 4, j]
            x[j, b + 5] = values[w + 5, j]
            x[j, b + 6] = values[w + 6, j]
            x[j, b + 7] = values[w + 7, j]
    for b in range(whole, count):
        for j in range(x.shape[0]):
            x[j, b] = values[first + b, j]


@njit(cache=True, nogil=True)
def put_windows(x: Floats, first: int, count: int, out: Floats) -> None:
    """Copy the columns of x into windows first .. first + count; the way back of `take_windows`."""
    whole = count - count % 8
    for b in range(0, whole, 8):
        w = first + b
        for j in range(x.shape[0]):
            out[w, j] = x[j, b]
            out[w + 1, j] = x[j, b + 1]
            out[w + 2, j] = x[j, b + 2]
            out[w + 3, j] = x[j, b + 3]
            out[w + 4, j] = x[j, b + 4]
            out[w + 5, j] = x[j, b + 5]
            out[w + 6, j] = x[j, b + 6]
            out[w + 7, j] = x[j, b + 7]
    for b in range(whole, count):
        for j in range(x.shape[0]):
            out[first + b, j] = x[j, b]


@njit(cache=True, nogil=True)
def reconcile_windows(
    values: Floats, rights: Floats, balances: Balances, factor: Factor, times: int, width: int, out: Floats
) -> None:
    """Reconcile windows that share one factor; values and out have shape (n_windows, n_streams).

    rights has shape (n_windows, n_rows), or (0, n_rows) where all are zero. `times` above one repeats the step on its
    own result: iterative refinement, for badly scaled networks.
    """
    n_windows, n_streams = values.shape
    n_rows = rights.shape[1]
    x = np.empty((n_streams, width))
    right = np.zeros((n_rows, width))
    work = np.empty((n_rows, width))
    for first in range(0, n_windows, width):
        count = min(width, n_windows - first)
        take_windows(values, first, count, x)
        for b in range(count, width):
            for j in range(n_streams):
                x[j, b] = 0.0
        if rights.shape[0] > 0:
            for b in range(count):
                for k in range(n_rows):
                    right[k, b] = rights[first + b, k]
        for _ in range(times):
            adjust_block(x, right, work, balances, factor)
        put_windows(x, first, count, out)


@njit(cache=True, nogil=True)
def solve_windows(rights: Floats, factor: Factor, width: int, out: Floats) -> None:
    """Solve S z = right for each window; rights and out have shape (n_windows, n_rows)."""
    n_windows, n_rows = rights.shape
    block = np.zeros((n_rows, width))
    for first in range(0, n_windows, width):
        count = min(width, n_windows - first)
        take_windows(rights, first, count, block)
        solve_block(block, factor)
        put_windows(block, first, count, out)


@njit(cache=True, nogil=True)
def take_repeated(values: Floats, first: int, count: int, x: Floats) -> None:
    """Copy windows as `take_windows`; columns beyond `count` repeat the last of them."""
    for b in range(x.shape[1]):
        w = first + min(b, count - 1)
        for j in range(x.shape[0]):
            x[j, b] = values[w, j]


@njit(cache=True, nogil=True)
def least_share(diagonal: Floats, before: Floats, least: Floats) -> None:
    """Fill least (n_windows,) with the smallest pivot of each window as a share of its diagonal; (n_rows, width)."""
    for b in range(len(least)):
        smallest = 1.0
        for k in range(diagonal.shape[0]):
            smallest = min(smallest, diagonal[k, b] / before[k, b])
        least[b] = smallest


@njit(cache=True, nogil=True)
def adjust_each(x: Floats, v: Floats, work: Floats, balances: Balances) -> None:
    """Take V R' work off x, each window with its own variances v, in place; as `adjust_block` otherwise."""
    width = x.shape[1]
    for r in range(work.shape[0]):
        k = balances.place[r]
        for p in range(balances.start[r], balances.start[r + 1]):
            j = balances.stream[p]
            a = balances.value[p]
            for b in range(width):
                x[j, b] -= a * v[j, b] * work[k, b]


@njit(cache=True, nogil=True, error_model="numpy")
def reconcile_varying(
    values: Floats,
    rights: Floats,
    variances: Floats,
    balances: Balances,
    pattern: Pattern,
    terms: Terms,
    width: int,
    out: Floats,
    least: Floats,
) -> None:
    """Reconcile windows that each have their own variances, all of shape (n_windows, n_streams).

    rights has shape (n_windows, n_rows), or (0, n_rows) where all are zero. least (n_windows,) gets the smallest pivot
    of each window as a share of its diagonal: below some 1e-7 the window is to be done with more care.
    """
    n_windows, n_streams = values.shape
    n_rows = rights.shape[1]
    x, v = np.empty((n_streams, width)), np.empty((n_streams, width))
    right, work = np.zeros((n_rows, width)), np.empty((n_rows, width))
    for first in range(0, n_windows, width):
        count = min(width, n_windows - first)
        take_repeated(values, first, count, x)
        take_repeated(variances, first, count, v)
        if rights.shape[0] > 0:
            take_repeated(rights, first, count, right)
        lower, diagonal = np.zeros((len(pattern.l_index), width)), np.zeros((n_rows, width))
        assemble(v, terms.place, terms.stream, terms.share, lower, diagonal)
        before = diagonal.copy()
        factorise(
            pattern.l_start,
            pattern.l_index,
            pattern.row_start,
            pattern.row_column,
            pattern.row_place,
            lower,
            diagonal,
        )
        least_share(diagonal, before, least[first : first + count])
        leave_open(x, right, balances, work)
        solve_each(work, pattern, lower, diagonal)
        adjust_each(x, v, work, balances)
        put_windows(x, first, count, out)
