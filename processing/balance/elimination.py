"""Sparse Gaussian elimination of chosen columns: what removes unmeasured streams, and what finds dependent balances.

Here: the compiled elimination on rows that grow (Markowitz' choice of pivots, threshold on their size). Not here: what
is done with the rows that remain (sparse.py). For a network of plain streams each elimination joins two nodes into one
(Mah, Stanley, Downing 1976), and all coefficients stay 1 and -1.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PIVOT_SHARE = 0.1
"""A pivot is at least this share of the largest entry of its column: growth stays bounded, sparsity has a choice."""

ZERO_SHARE = 1e-10
"""A sum below this share of its terms is a zero: they cancelled (see dense.RANK_TOLERANCE)."""


@njit(cache=True, nogil=True)
def grown(values: Any, length: int) -> Any:
    """Return a copy with at least twice the room, and at least `length`."""
    more = np.empty(max(2 * len(values), length), dtype=values.dtype)
    more[: len(values)] = values
    return more


@njit(cache=True, nogil=True)
def eliminate(
    start: Ints, index: Ints, value: Floats, pivotable: Bools
) -> tuple[Ints, Ints, Floats, Ints, Ints, Ints, Ints, Floats]:
    """Eliminate the pivotable columns of a matrix by rows, each from all rows not yet used as a pivot.

    Parameters
    ----------
    start, index, value
        The matrix by rows; rows should be of like size.
    pivotable
        bool, shape (n_columns,).

    Returns
    -------
    start, index, value
        The rows afterwards. Pivot rows keep their pivot and what was eliminated later.
    pivot_row, pivot_column
        In order of elimination; the other pivotable columns depend on these.
    target, source, share
        The steps in order: share times row source was taken off row target.
    """
    m, n = len(start) - 1, len(pivotable)
    room = np.empty(m, dtype=np.int64)
    first = np.empty(m, dtype=np.int64)
    length = np.empty(m, dtype=np.int64)
    size = 0
    for i in range(m):
        first[i] = size
        length[i] = start[i + 1] - start[i]
        room[i] = 2 * length[i] + 4
        size += room[i]
    entry = np.empty(size, dtype=np.int64)
    number = np.empty(size, dtype=np.float64)
    # which rows hold a pivotable column: linked lists, which may name a row twice or after its entry is gone
    head = np.full(n, -1, dtype=np.int64)
    link = np.empty(len(index) + 16, dtype=np.int64)
    holder = np.empty(len(index) + 16, dtype=np.int64)
    links = 0
    count = np.zeros(n, dtype=np.int64)
    for i in range(m):
        for p in range(start[i], start[i + 1]):
            j = index[p]
            entry[first[i] + p - start[i]] = j
            number[first[i] + p - start[i]] = value[p]
            if pivotable[j]:
                holder[links], link[links], head[j] = i, head[j], links
                links += 1
                count[j] += 1
    queue = [(np.int64(0), np.int64(0)) for _ in range(0)]
    for j in range(n):
        if pivotable[j]:
            heapq.heappush(queue, (count[j], np.int64(j)))
    free = np.ones(m, dtype=np.bool_)
    where = np.full(n, -1, dtype=np.int64)
    seen = np.full(m, -1, dtype=np.int64)
    pivot_row = np.empty(min(m, n), dtype=np.int64)
    pivot_column = np.empty(min(m, n), dtype=np.int64)
    pivots = 0
    target = np.empty(16, dtype=np.int64)
    source = np.empty(16, dtype=np.int64)
    share = np.empty(16, dtype=np.float64)
    steps = 0
    while len(queue) > 0 and pivots < m:
        held, j = heapq.heappop(queue)
        if held != count[j] or not pivotable[j] or count[j] == 0:
            continue
        # rows of this column, and the largest entry
        rows = np.empty(count[j], dtype=np.int64)
        entries = np.empty(count[j], dtype=np.float64)
        found = 0
        largest = 0.0
        q = head[j]
        while q >= 0:
            i = holder[q]
            if free[i] and seen[i] != j:
                seen[i] = j
                for p in range(first[i], first[i] + length[i]):
                    if entry[p] == j:
                        rows[found] = i
                        entries[found] = number[p]
                        found += 1
                        largest = max(largest, abs(number[p]))
                        break
            q = link[q]
        best = -1
        for r in range(found):
            if abs(entries[r]) >= PIVOT_SHARE * largest and (best < 0 or length[rows[r]] < length[rows[best]]):
                best = r
        pivot = rows[best]
        pivot_row[pivots], pivot_column[pivots] = pivot, j
        pivots += 1
        free[pivot] = False
        pivotable[j] = False
        for p in range(first[pivot], first[pivot] + length[pivot]):
            k = entry[p]
            if pivotable[k]:
                count[k] -= 1
                heapq.heappush(queue, (count[k], k))
        for r in range(found):
            i = rows[r]
            if i == pivot:
                continue
            factor = entries[r] / entries[best]
            if steps == len(target):
                target, source, share = grown(target, 0), grown(source, 0), grown(share, 0)
            target[steps], source[steps], share[steps] = i, pivot, factor
            steps += 1
            if length[i] + length[pivot] > room[i]:
                room[i] = 2 * (length[i] + length[pivot])
                if size + room[i] > len(entry):
                    entry, number = grown(entry, size + room[i]), grown(number, size + room[i])
                for p in range(length[i]):
                    entry[size + p] = entry[first[i] + p]
                    number[size + p] = number[first[i] + p]
                first[i] = size
                size += room[i]
            for p in range(first[i], first[i] + length[i]):
                where[entry[p]] = p
            for p in range(first[pivot], first[pivot] + length[pivot]):
                k = entry[p]
                taken = factor * number[p]
                at = where[k]
                if at < 0:
                    at = first[i] + length[i]
                    entry[at], number[at] = k, -taken
                    where[k] = at
                    length[i] += 1
                    if pivotable[k]:
                        if links == len(link):
                            link, holder = grown(link, 0), grown(holder, 0)
                        holder[links], link[links], head[k] = i, head[k], links
                        links += 1
                        count[k] += 1
                        heapq.heappush(queue, (count[k], k))
                else:
                    before = number[at]
                    number[at] = before - taken
                    if k == j or abs(number[at]) <= ZERO_SHARE * (abs(before) + abs(taken)):
                        number[at] = 0.0
            kept = first[i]
            for p in range(first[i], first[i] + length[i]):
                k = entry[p]
                where[k] = -1
                if number[p] != 0.0:
                    entry[kept], number[kept] = k, number[p]
                    kept += 1
                elif pivotable[k]:
                    count[k] -= 1
                    heapq.heappush(queue, (count[k], k))
            length[i] = kept - first[i]
    out_start = np.zeros(m + 1, dtype=np.int64)
    for i in range(m):
        out_start[i + 1] = out_start[i] + length[i]
    out_index = np.empty(out_start[m], dtype=np.int64)
    out_value = np.empty(out_start[m], dtype=np.float64)
    for i in range(m):
        order = np.argsort(entry[first[i] : first[i] + length[i]])
        for p in range(length[i]):
            out_index[out_start[i] + p] = entry[first[i] + order[p]]
            out_value[out_start[i] + p] = number[first[i] + order[p]]
    return (
        out_start,
        out_index,
        out_value,
        pivot_row[:pivots].copy(),
        pivot_column[:pivots].copy(),
        target[:steps].copy(),
        source[:steps].copy(),
        share[:steps].copy(),
    )
