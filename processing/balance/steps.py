"""The compiled loops that follow an elimination step by step: right-hand sides, streams without a meter, functionals.

Here: arithmetic window by window, on rows as elimination.py left them. Not here: the elimination itself, windows solved
with a factor (kernels.py). Every loop has a slow, obvious twin in tests/balance/test_kernels.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@njit(cache=True, nogil=True)
def multiply(start: Ints, index: Ints, value: Floats, values: Floats, out: Floats) -> None:
    """Return in out the product of a matrix by rows with each row of values: out (n_windows, n_rows)."""
    for w in range(values.shape[0]):
        for k in range(out.shape[1]):
            total = 0.0
            for p in range(start[k], start[k + 1]):
                total += value[p] * values[w, index[p]]
            out[w, k] = total


@njit(cache=True, nogil=True)
def compute_unmeasured(
    out: Floats, rights: Floats, row: Ints, column: Ints, start: Ints, index: Ints, value: Floats
) -> None:
    """Compute unmeasured streams from their pivot rows, the last eliminated first, in place.

    out has shape (n_windows, n_streams); rights (n_windows, n_nodes) or (0, n_nodes). Pivot k is stream column[k] of
    balance row[k], whose entries are `value[start[k]:start[k + 1]]`. A stream without a pivot keeps what it has.
    """
    given = rights.shape[0] > 0
    for w in range(out.shape[0]):
        for k in range(len(column) - 1, -1, -1):
            rest = rights[w, row[k]] if given else 0.0
            pivot = 1.0
            for p in range(start[k], start[k + 1]):
                if index[p] == column[k]:
                    pivot = value[p]
                else:
                    rest -= value[p] * out[w, index[p]]
            out[w, column[k]] = rest / pivot


@njit(cache=True, nogil=True)
def spread_functional(weights: Floats, column: Ints, start: Ints, index: Ints, value: Floats) -> None:
    """Rewrite functionals of all streams as functionals of the measured ones, in place.

    weights has shape (n_functionals, n_streams). The transpose of `compute_unmeasured`: the first eliminated first.
    """
    for w in range(weights.shape[0]):
        for k in range(len(column)):
            g = weights[w, column[k]]
            if g == 0.0:
                continue
            pivot = 1.0
            for p in range(start[k], start[k + 1]):
                if index[p] == column[k]:
                    pivot = value[p]
            for p in range(start[k], start[k + 1]):
                if index[p] != column[k]:
                    weights[w, index[p]] -= g / pivot * value[p]
            weights[w, column[k]] = 0.0


@njit(cache=True, nogil=True)
def combine(values: Floats, target: Ints, source: Ints, share: Floats) -> None:
    """Subtract share[q] times balance source[q] from balance target[q], in order, in place; (n_windows, n_nodes)."""
    for w in range(values.shape[0]):
        for q in range(len(target)):
            values[w, target[q]] -= share[q] * values[w, source[q]]


@njit(cache=True, nogil=True)
def combine_transposed(values: Floats, target: Ints, source: Ints, share: Floats) -> None:
    """Apply the transpose of `combine`, in place; shape (n_windows, n_nodes)."""
    for w in range(values.shape[0]):
        for q in range(len(target) - 1, -1, -1):
            values[w, source[q]] -= share[q] * values[w, target[q]]
