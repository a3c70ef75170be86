"""The compiled inner loops over windows that each have their own variances, and so a factor of their own.

Here: arithmetic on arrays that were checked before. Not here: windows that share one factor (kernels.py), the
factorisation itself (factors.py). Every loop has a slow, obvious twin in tests/balance/test_kernels.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from processing.balance.factors import Pattern, Terms, assemble, factorise, solve_each
from processing.balance.kernels import put_windows

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Balances(NamedTuple):
    """Reduced balances R by row, rows as the plant has them.

    Walking along the plant meets streams in order, which memory likes; elimination jumps about in it.

    Parameters
    ----------
    place
        Position of each row in elimination order, shape (n_rows,).
    start, stream, value
        Row r has `value[start[r]:start[r + 1]]` at `stream[...]`.
    """

    place: Ints
    start: Ints
    stream: Ints
    value: Floats


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
def take_repeated(values: Floats, first: int, count: int, x: Floats) -> None:
    """Copy windows first .. first + count into the columns of x; columns beyond `count` repeat the last of them."""
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
    """Take V R' work off x, each window with its own variances v, in place."""
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
