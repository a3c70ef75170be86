"""The compiled sparse factorisation S = L D L': pattern, numbers, inverse on the pattern.

Here: loops over columns of L, for one matrix or several of one pattern side by side. Not here: the order of rows
(ordering.py), solving windows that share one factor (kernels.py). Every loop has a slow, obvious twin in
tests/balance/test_kernels.py. L has a unit diagonal and is stored by columns below it, row numbers ascending.

Numba's cache of a loop knows the file of that loop alone: whoever changes this file clears the caches of
varying_kernels.py and quadratic.py, which call it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Pattern(NamedTuple):
    """L by columns and by rows, without its values; see `factorise`."""

    l_start: Ints
    l_index: Ints
    row_start: Ints
    row_column: Ints
    row_place: Ints


class Terms(NamedTuple):
    """What S = R V R' sums, entry by entry; see `assemble`."""

    place: Ints
    stream: Ints
    share: Floats


@njit(cache=True, nogil=True)
def symbolic(start: Ints, index: Ints, parent_out: Ints) -> Ints:
    """Return the column counts of L for a symmetric pattern by columns (upper part is read); fills the parents.

    Elimination tree and counts by row subtrees (Davis 2006, sec. 4.1 and 4.4).
    """
    n = len(start) - 1
    counts = np.zeros(n, dtype=np.int64)
    mark = np.full(n, -1, dtype=np.int64)
    for k in range(n):
        parent_out[k] = -1
        mark[k] = k
        for p in range(start[k], start[k + 1]):
            i = index[p]
            while i < k and mark[i] != k:
                if parent_out[i] == -1:
                    parent_out[i] = k
                counts[i] += 1
                mark[i] = k
                i = parent_out[i]
    return counts


@njit(cache=True, nogil=True)
def postorder(parent: Ints) -> Ints:
    """Return the nodes of a forest, children before parents and each subtree in one piece; shape (n,)."""
    n = len(parent)
    head, following = np.full(n, -1, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    for v in range(n - 1, -1, -1):
        if parent[v] >= 0:
            following[v] = head[parent[v]]
            head[parent[v]] = v
    order, stack = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    done = 0
    for root in range(n):
        if parent[root] >= 0:
            continue
        stack[0], height = root, 1
        while height > 0:
            v = stack[height - 1]
            child = head[v]
            if child >= 0:
                head[v] = following[child]
                stack[height] = child
                height += 1
            else:
                order[done] = v
                done += 1
                height -= 1
    return order


@njit(cache=True, nogil=True)
def fill_pattern(start: Ints, index: Ints, parent: Ints, l_start: Ints, l_index: Ints) -> None:
    """Fill the row numbers of L by columns, ascending, by visiting rows in order (row subtrees)."""
    n = len(start) - 1
    mark = np.full(n, -1, dtype=np.int64)
    filled = l_start[:-1].copy()
    for k in range(n):
        mark[k] = k
        for p in range(start[k], start[k + 1]):
            i = index[p]
            while i < k and mark[i] != k:
                l_index[filled[i]] = k
                filled[i] += 1
                mark[i] = k
                i = parent[i]


@njit(cache=True, nogil=True, error_model="numpy")
def factorise(
    l_start: Ints, l_index: Ints, row_start: Ints, row_column: Ints, row_place: Ints, lower: Floats, diagonal: Floats
) -> None:
    """Factor S = L D L' in place, for several matrices of one pattern at once, left-looking by columns.

    lower has shape (n_entries, n_matrices) and holds S below the diagonal, in the pattern of L; diagonal (n_rows,
    n_matrices). Row k of L has its entries in columns row_column, at row_place in `lower`.
    """
    n, width = diagonal.shape
    work = np.zeros((n, width))
    step = np.empty(width)
    for k in range(n):
        for p in range(l_start[k], l_start[k + 1]):
            for b in range(width):
                work[l_index[p], b] = lower[p, b]
        for q in range(row_start[k], row_start[k + 1]):
            j = row_column[q]
            place = row_place[q]
            for b in range(width):
                step[b] = lower[place, b] * diagonal[j, b]
                diagonal[k, b] -= lower[place, b] * step[b]
            for p in range(place + 1, l_start[j + 1]):
                i = l_index[p]
                for b in range(width):
                    work[i, b] -= lower[p, b] * step[b]
        for p in range(l_start[k], l_start[k + 1]):
            for b in range(width):
                lower[p, b] = work[l_index[p], b] / diagonal[k, b]


@njit(cache=True, nogil=True, error_model="numpy")
def solve_each(block: Floats, pattern: Pattern, lower: Floats, diagonal: Floats) -> None:
    """Solve L D L' x = block in place, each window with its own values; block has shape (n_unknowns, n_windows)."""
    width = block.shape[1]
    for k in range(block.shape[0]):
        for p in range(pattern.l_start[k], pattern.l_start[k + 1]):
            i = pattern.l_index[p]
            for b in range(width):
                block[i, b] -= lower[p, b] * block[k, b]
    for k in range(block.shape[0] - 1, -1, -1):
        for b in range(width):
            block[k, b] /= diagonal[k, b]
        for p in range(pattern.l_start[k], pattern.l_start[k + 1]):
            i = pattern.l_index[p]
            for b in range(width):
                block[k, b] -= lower[p, b] * block[i, b]


@njit(cache=True, nogil=True)
def scatter(
    start: Ints, index: Ints, value: Floats, l_start: Ints, l_index: Ints, lower: Floats, diagonal: Floats
) -> None:
    """Put a symmetric matrix by rows into the pattern of L: lower (n_entries, 1), diagonal (n_rows, 1), in place."""
    for i in range(len(start) - 1):
        for p in range(start[i], start[i + 1]):
            j = index[p]
            if j == i:
                diagonal[i, 0] = value[p]
            elif j < i:
                at = l_start[j] + np.searchsorted(l_index[l_start[j] : l_start[j + 1]], i)
                lower[at, 0] = value[p]


@njit(cache=True, nogil=True)
def list_terms(start: Ints, index: Ints, value: Floats, l_start: Ints, l_index: Ints) -> tuple[Ints, Ints, Floats]:
    """Return the terms of S for R given by columns: place, stream and share of each."""
    count = 0
    for j in range(len(start) - 1):
        entries = start[j + 1] - start[j]
        count += entries * (entries + 1) // 2
    place = np.empty(count, dtype=np.int64)
    stream = np.empty(count, dtype=np.int64)
    share = np.empty(count, dtype=np.float64)
    q = 0
    for j in range(len(start) - 1):
        for p in range(start[j], start[j + 1]):
            for o in range(start[j], p + 1):
                low, high = (index[o], index[p]) if index[o] < index[p] else (index[p], index[o])
                if low == high:
                    place[q] = -1 - low
                else:
                    place[q] = l_start[low] + np.searchsorted(l_index[l_start[low] : l_start[low + 1]], high)
                stream[q] = j
                share[q] = value[p] * value[o]
                q += 1
    return place, stream, share


@njit(cache=True, nogil=True)
def assemble(variances: Floats, place: Ints, stream: Ints, share: Floats, lower: Floats, diagonal: Floats) -> None:
    """Sum S = R V R' for several V at once into the pattern of L, in place.

    variances has shape (n_streams, n_matrices). Term q is share[q] V_stream[q] at `lower` place[q], or, where place[q]
    is negative, at diagonal -1 - place[q].
    """
    width = variances.shape[1]
    for q in range(len(place)):
        j = stream[q]
        a = share[q]
        if place[q] >= 0:
            for b in range(width):
                lower[place[q], b] += a * variances[j, b]
        else:
            for b in range(width):
                diagonal[-1 - place[q], b] += a * variances[j, b]


@njit(cache=True, nogil=True)
def inverse_on_pattern(l_start: Ints, l_index: Ints, lower: Floats, inverse: Floats) -> tuple[Floats, Floats]:
    """Return S^-1 on the pattern of L: below the diagonal (n_entries,), on it (n_rows,) (Takahashi et al. 1973)."""
    n = len(inverse)
    below = np.empty(len(lower))
    on = np.empty(n)
    for k in range(n - 1, -1, -1):
        first, last = l_start[k], l_start[k + 1]
        total = inverse[k]
        for p in range(last - 1, first - 1, -1):
            i = l_index[p]
            entry = 0.0
            for q in range(first, last):
                j = l_index[q]
                if j == i:
                    entry -= lower[q] * on[i]
                else:
                    low, high = (i, j) if i < j else (j, i)
                    at = l_start[low] + np.searchsorted(l_index[l_start[low] : l_start[low + 1]], high)
                    entry -= lower[q] * below[at]
            below[p] = entry
            total -= lower[p] * entry
        on[k] = total
    return below, on


@njit(cache=True, nogil=True)
def quadratic_by_column(
    start: Ints, index: Ints, value: Floats, l_start: Ints, l_index: Ints, below: Floats, on: Floats
) -> Floats:
    """Return r_j' S^-1 r_j for each column r_j of R, given by columns; S^-1 on the pattern of L."""
    out = np.zeros(len(start) - 1)
    for j in range(len(out)):
        total = 0.0
        for p in range(start[j], start[j + 1]):
            i = index[p]
            total += value[p] * value[p] * on[i]
            for q in range(start[j], p):
                low, high = (i, index[q]) if i < index[q] else (index[q], i)
                at = l_start[low] + np.searchsorted(l_index[l_start[low] : l_start[low + 1]], high)
                total += 2.0 * value[p] * value[q] * below[at]
        out[j] = total
    return out
