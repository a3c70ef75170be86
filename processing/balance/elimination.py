"""Sparse Gaussian elimination of chosen columns: what removes unmeasured streams, and what finds dependent balances.

Here: the compiled elimination on rows that grow (Markowitz' choice of pivots, threshold on their size). Not here: what
is done with the rows that remain (sparse.py). For a network of plain streams each elimination joins two nodes into one
(Mah, Stanley, Downing 1976), and all coefficients stay 1 and -1.
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

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


class Table(NamedTuple):
    """Rows that grow: row i has `number[first[i]:first[i] + length[i]]` at columns `entry[...]`, in no order.

    Made anew for each call: numba 0.68 frees arrays too early where a variable holding the tuple is bound anew in a
    loop (test_elimination_of_many_columns shows it).
    """

    entry: Ints
    number: Floats
    first: Ints
    length: Ints


@njit(cache=True, nogil=True)
def grown(values: Any, length: int) -> Any:
    """Return a copy with at least twice the room, and at least `length`."""
    more = np.empty(max(2 * len(values), length), dtype=values.dtype)
    for k in range(len(values)):  # a loop compiles ten times faster than assigning to a slice
        more[k] = values[k]
    return more


@njit(cache=True, nogil=True)
def spread_out(start: Ints, index: Ints, value: Floats) -> tuple[Ints, Floats, Ints, Ints, Ints]:
    """Copy what is not zero to where it can grow: entries, numbers, and first place, length and room of each row."""
    m = len(start) - 1
    first, length, room = np.empty(m, dtype=np.int64), np.empty(m, dtype=np.int64), np.empty(m, dtype=np.int64)
    size = 0
    for i in range(m):
        first[i] = size
        room[i] = 2 * (start[i + 1] - start[i]) + 4
        size += room[i]
    entry, number = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.float64)
    for i in range(m):
        length[i] = 0
        for p in range(start[i], start[i + 1]):
            if value[p] != 0.0:
                entry[first[i] + length[i]] = index[p]
                number[first[i] + length[i]] = value[p]
                length[i] += 1
    return entry, number, first, length, room


@njit(cache=True, nogil=True)
def find_rows(
    column: Any, place: Any, link: Ints, holder: Ints, free: Bools, seen: Ints, table: Table, rows: Ints
) -> int:
    """Fill the places of one column's entries in rows not yet used: rows (2, n_rows) gets row and place; their number.

    `place` is the head of the column's list, which may name a row twice or after its entry is gone.
    """
    found = 0
    while place >= 0:
        i = holder[place]
        if free[i] and seen[i] != column:
            seen[i] = column
            for p in range(table.first[i], table.first[i] + table.length[i]):
                if table.entry[p] == column:
                    rows[0, found], rows[1, found] = i, p
                    found += 1
                    break
        place = link[place]
    return found


@njit(cache=True, nogil=True)
def choose_pivot(rows: Ints, found: int, number: Floats, length: Ints) -> int:
    """Return which of the rows found is the pivot: the shortest of those whose entry is large enough."""
    largest = 0.0
    for r in range(found):
        largest = max(largest, abs(number[rows[1, r]]))
    best = -1
    for r in range(found):
        enough = abs(number[rows[1, r]]) >= PIVOT_SHARE * largest
        if enough and (best < 0 or length[rows[0, r]] < length[rows[0, best]]):
            best = r
    return best


@njit(cache=True, nogil=True)
def subtract(
    row: Any, pivot: Any, column: Any, factor: Any, table: Table, where: Ints, changed: Ints
) -> tuple[int, int]:
    """Take factor times row `pivot` off row `row`, which has the room; `column` is gone from it for good.

    changed (2, n_columns) gets the columns that are new in the row, and those that vanished; their numbers are
    returned. `where` is -1 everywhere, before and after.
    """
    entry, number, first, length = table.entry, table.number, table.first, table.length
    fresh, gone = 0, 0
    for p in range(first[row], first[row] + length[row]):
        where[entry[p]] = p
    for p in range(first[pivot], first[pivot] + length[pivot]):
        k, taken = entry[p], factor * number[p]
        at = where[k]
        if at < 0:
            at = first[row] + length[row]
            entry[at], number[at], where[k] = k, -taken, at
            length[row] += 1
            changed[0, fresh] = k
            fresh += 1
        else:
            before = number[at]
            number[at] = before - taken
            if k == column or abs(number[at]) <= ZERO_SHARE * (abs(before) + abs(taken)):
                number[at] = 0.0
    kept = first[row]
    for p in range(first[row], first[row] + length[row]):
        k = entry[p]
        where[k] = -1
        if number[p] != 0.0:
            entry[kept], number[kept] = k, number[p]
            kept += 1
        else:
            changed[1, gone] = k
            gone += 1
    length[row] = kept - first[row]
    return fresh, gone


@njit(cache=True, nogil=True)
def gather_rows(table: Table) -> tuple[Ints, Ints, Floats]:
    """Return the rows by start, index, value, in no order within a row."""
    m = len(table.first)
    start = np.zeros(m + 1, dtype=np.int64)
    for i in range(m):
        start[i + 1] = start[i] + table.length[i]
    index, value = np.empty(start[m], dtype=np.int64), np.empty(start[m], dtype=np.float64)
    for i in range(m):
        for p in range(table.length[i]):
            index[start[i] + p] = table.entry[table.first[i] + p]
            value[start[i] + p] = table.number[table.first[i] + p]
    return start, index, value


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
        bool, shape (n_columns,); used up.

    Returns
    -------
    start, index, value
        The rows afterwards, columns in no order. Pivot rows keep their pivot and what was eliminated later.
    pivot_row, pivot_column
        In order of elimination; the other pivotable columns depend on these.
    target, source, share
        The steps in order: share times row source was taken off row target.
    """
    m, n = len(start) - 1, len(pivotable)
    entry, number, first, length, room = spread_out(start, index, value)
    size = len(entry)
    # which rows hold a pivotable column: linked lists
    head, count = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=np.int64)
    link, holder = np.empty(len(index) + 16, dtype=np.int64), np.empty(len(index) + 16, dtype=np.int64)
    links = 0
    for i in range(m):
        for p in range(first[i], first[i] + length[i]):
            j = entry[p]
            if pivotable[j]:
                holder[links], link[links], head[j] = i, head[j], links
                links += 1
                count[j] += 1
    queue = [(count[j], np.int64(j)) for j in range(n) if pivotable[j]]
    heapq.heapify(queue)
    free, seen = np.ones(m, dtype=np.bool_), np.full(m, -1, dtype=np.int64)
    where, changed = np.full(n, -1, dtype=np.int64), np.empty((2, n), dtype=np.int64)
    rows = np.empty((2, m), dtype=np.int64)
    pivot_row, pivot_column = np.empty(min(m, n), dtype=np.int64), np.empty(min(m, n), dtype=np.int64)
    target, source = np.empty(16, dtype=np.int64), np.empty(16, dtype=np.int64)
    share = np.empty(16, dtype=np.float64)
    pivots, steps = 0, 0
    while len(queue) > 0 and pivots < m:
        held, j = heapq.heappop(queue)
        if held != count[j] or held == 0 or not pivotable[j]:
            continue  # an old entry of the queue, or a column with no rows left
        found = find_rows(j, head[j], link, holder, free, seen, Table(entry, number, first, length), rows)
        best = choose_pivot(rows, found, number, length)
        pivot = rows[0, best]
        lead = number[rows[1, best]]
        pivot_row[pivots], pivot_column[pivots] = pivot, j
        pivots += 1
        free[pivot], pivotable[j] = False, False
        for p in range(first[pivot], first[pivot] + length[pivot]):
            k = entry[p]
            if pivotable[k]:
                count[k] -= 1
                heapq.heappush(queue, (count[k], k))
        for r in range(found):
            i = rows[0, r]
            if i == pivot:
                continue
            factor = number[rows[1, r]] / lead
            if steps == len(target):
                target, source, share = grown(target, 0), grown(source, 0), grown(share, 0)
            target[steps], source[steps], share[steps] = i, pivot, factor
            steps += 1
            need = length[i] + length[pivot]
            if need > room[i]:
                room[i] = 2 * need
                if size + room[i] > len(entry):
                    entry, number = grown(entry, size + room[i]), grown(number, size + room[i])
                for p in range(length[i]):
                    entry[size + p] = entry[first[i] + p]
                    number[size + p] = number[first[i] + p]
                first[i] = size
                size += room[i]
            fresh, gone = subtract(i, pivot, j, factor, Table(entry, number, first, length), where, changed)
            while links + fresh > len(link):
                link, holder = grown(link, 0), grown(holder, 0)
            for q in range(fresh):
                k = changed[0, q]
                if pivotable[k]:
                    holder[links], link[links], head[k] = i, head[k], links
                    links += 1
                    count[k] += 1
                    heapq.heappush(queue, (count[k], k))
            for q in range(gone):
                k = changed[1, q]
                if pivotable[k]:
                    count[k] -= 1
                    heapq.heappush(queue, (count[k], k))
    out_start, out_index, out_value = gather_rows(Table(entry, number, first, length))
    return (
        out_start,
        out_index,
        out_value,
        pivot_row[:pivots],
        pivot_column[:pivots],
        target[:steps],
        source[:steps],
        share[:steps],
    )
