"""The compiled inner loops over windows that share one sparse factor: many solved at once.

Here: arithmetic on arrays that were checked before; NaN where a meter is silent, which no loop reads. Not here: what a
row of windows side by side is (lanes.py), the factors (factors.py), windows that each have their own
(varying_kernels.py), streams without a meter (steps.py), which rows and columns take part and what is computed when
(sparse_system.py). Every loop has a slow, obvious twin in tests/balance/test_kernels.py. S = R V R' = L D L'.

A block holds `lanes.WIDTH` windows, transposed: its first rows are streams, its last the balances in elimination order.
Each pass gathers what one row needs, sums it in registers and writes the row once:

    forward    w = L^-1 (right - R x)     rows of R and of L in one list
    backward   w = L'^-1 D^-1 w
    correct    x = x + V R' w
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from processing.balance.lanes import TILE, WIDTH, fetch, larger, load, minus, nothing, plus, scaled, store, turn

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EARLY = 64
"""Entries ahead of its use that a row is asked for: large networks leave the caches, and memory takes 100 ns."""


class Sums(NamedTuple):
    """What one pass gathers: result k sums `value[start[k]:start[k + 1]]` times the rows `row[...]` of a block.

    Parameters
    ----------
    start, value
        shape (n_results + 1,) and (n_entries,).
    row
        shape (n_entries + EARLY,): EARLY more rows, asked for and never read, end the list.
    """

    start: Ints
    row: Ints
    value: Floats


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
def forward(block: Floats, right: Floats, sums: Sums) -> None:
    """Fill the balances of a block with L^-1 (right - R x); right has shape (n_balances, WIDTH), or none: all zero."""
    n_balances = len(sums.start) - 1
    first = block.shape[0] - n_balances
    given = right.shape[0] > 0
    for k in range(n_balances):
        total = load(right, k) if given else nothing()
        for p in range(sums.start[k], sums.start[k + 1]):
            fetch(block, sums.row[p + EARLY])
            total = minus(total, sums.value[p], load(block, sums.row[p]))
        store(block, first + k, total)


@njit(cache=True, nogil=True)
def backward(block: Floats, factor: Factor) -> None:
    """Apply L'^-1 D^-1 to the balances of a block, in place."""
    n_balances = len(factor.inverse)
    first = block.shape[0] - n_balances
    for k in range(n_balances - 1, -1, -1):
        total = scaled(factor.inverse[k], load(block, first + k))
        for p in range(factor.start[k], factor.start[k + 1]):
            total = minus(total, factor.value[p], load(block, first + factor.row[p]))
        store(block, first + k, total)


@njit(cache=True, nogil=True)
def correct(block: Floats, sums: Sums, seen: Floats) -> None:
    """Add V R' w to the streams of a block, in place; seen (1, WIDTH) gets zero, or NaN where a value is not finite."""
    sign = nothing()
    for j in range(len(sums.start) - 1):
        total = load(block, j)
        sign = plus(sign, 0.0, total)
        for p in range(sums.start[j], sums.start[j + 1]):
            fetch(block, sums.row[p + EARLY])
            total = plus(total, sums.value[p], load(block, sums.row[p]))
        store(block, j, total)
    store(seen, 0, sign)


@njit(cache=True, nogil=True)
def take_windows(values: Floats, first: int, count: int, block: Floats) -> None:
    """Copy windows first .. first + count into the first columns of a block; others keep what they had."""
    n = values.shape[1]
    tiled, whole = n - n % TILE, count - count % TILE
    for b in range(0, whole, TILE):
        for j in range(0, tiled, TILE):
            turn(values, first + b, j, block, j, b)
        for j in range(tiled, n):
            for c in range(b, b + TILE):
                block[j, c] = values[first + c, j]
    for b in range(whole, count):
        for j in range(n):
            block[j, b] = values[first + b, j]


@njit(cache=True, nogil=True)
def put_windows(block: Floats, first: int, count: int, out: Floats) -> None:
    """Copy the columns of a block into windows first .. first + count; the way back of `take_windows`."""
    n = out.shape[1]
    tiled, whole = n - n % TILE, count - count % TILE
    for b in range(0, whole, TILE):
        for j in range(0, tiled, TILE):
            turn(block, j, b, out, first + b, j)
        for j in range(tiled, n):
            for c in range(b, b + TILE):
                out[first + c, j] = block[j, c]
    for b in range(whole, count):
        for j in range(n):
            out[first + b, j] = block[j, b]


@njit(cache=True, nogil=True)
def reconcile_windows(
    values: Floats, rights: Floats, there: Sums, back: Sums, factor: Factor, times: int, block: Floats, out: Floats
) -> bool:
    """Reconcile windows that share one factor; values and out have shape (n_windows, n_streams).

    rights has shape (n_windows, n_balances), or (0, n_balances) where all are zero. `there` and `back` are what the
    passes forward and correct gather. `times` above one repeats all passes on their own result: iterative refinement,
    for badly scaled networks. block is memory of shape (n_streams + 2 n_balances + 1, WIDTH), n_balances less without
    rights. Returns whether every value was finite; a window with one that was not gets no numbers.
    """
    n_streams, n_balances = values.shape[1], rights.shape[1]
    room = n_streams + n_balances
    seen, right = block[room : room + 1], block[room + 1 : room + 1 + n_balances * (rights.shape[0] > 0)]
    finite = True
    for first in range(0, values.shape[0], WIDTH):
        count = min(WIDTH, values.shape[0] - first)
        take_windows(values, first, count, block)
        if rights.shape[0] > 0:
            take_windows(rights, first, count, right)
        for _ in range(times):
            forward(block[:room], right, there)
            backward(block[:room], factor)
            correct(block, back, seen)
        put_windows(block, first, count, out)
        for b in range(count):
            finite = finite and seen[0, b] == 0.0
    return finite


@njit(cache=True, nogil=True)
def solve_windows(rights: Floats, lower: Sums, factor: Factor, block: Floats, out: Floats) -> None:
    """Solve S z = right for each window; rights and out have shape (n_windows, n_balances).

    lower is L by rows; block is memory of shape (n_balances, WIDTH).
    """
    for first in range(0, rights.shape[0], WIDTH):
        count = min(WIDTH, rights.shape[0] - first)
        take_windows(rights, first, count, block)
        forward(block, block, lower)
        backward(block, factor)
        put_windows(block, first, count, out)


@njit(cache=True, nogil=True)
def score_windows(
    values: Floats, rights: Floats, there: Sums, over: Sums, per_std: Floats, factor: Factor, block: Floats, out: Floats
) -> Floats:
    """Fill out (n_windows, n_hypotheses) with scores and return each window's largest |score| per_std, (n_windows,).

    values, rights, `there` as for `reconcile_windows`. `over` gathers the scores from a block's balances, after w =
    S^-1 (right - R x); per_std has shape (n_hypotheses,). block is memory of shape (n_streams + n_balances +
    n_hypotheses + 1, WIDTH), n_balances more with rights.
    """
    room, n, largest = values.shape[1] + rights.shape[1], out.shape[1], np.zeros(values.shape[0])
    found, right = block[room : room + n + 1], block[room + n + 1 : room + n + 1 + rights.shape[1] * len(rights[:1])]
    for first in range(0, values.shape[0], WIDTH):
        count = min(WIDTH, values.shape[0] - first)
        take_windows(values, first, count, block)
        if rights.shape[0] > 0:
            take_windows(rights, first, count, right)
        forward(block[:room], right, there)
        backward(block[:room], factor)
        most = nothing()
        for h in range(n):
            total = nothing()
            for p in range(over.start[h], over.start[h + 1]):
                total = plus(total, over.value[p], load(block, over.row[p]))
            store(found, h, total)
            most = larger(most, per_std[h], total)
        store(found, n, most)
        put_windows(found, first, count, out)
        largest[first : first + count] = found[n, :count]
    return largest


@njit(cache=True, nogil=True)
def multiply_windows(values: Floats, start: Ints, index: Ints, value: Floats, block: Floats, out: Floats) -> None:
    """Fill out (n_windows, n_rows) with the product of a matrix by rows with each row of values (n_windows, n_columns).

    block is memory of shape (n_columns + n_rows, WIDTH). For many windows; the same digits as `steps.multiply`.
    """
    results = block[values.shape[1] :]
    for first in range(0, values.shape[0], WIDTH):
        count = min(WIDTH, values.shape[0] - first)
        take_windows(values, first, count, block)
        for k in range(len(start) - 1):
            total = nothing()
            for p in range(start[k], start[k + 1]):
                total = plus(total, value[p], load(block, index[p]))
            store(results, k, total)
        put_windows(results, first, count, out)
