"""Powers of two that bring the coefficients of balances near one, whatever units their rows and columns are in.

Here: `scales_of`. Not here: the factors that decide about ranks with the scaled coefficients (dense.py, reduction.py).
"""

from __future__ import annotations

import numpy as np

from processing.balance.inputs import Floats, Rows

WIDE = 2.0**14
"""Coefficients that differ by less than this need only their rows scaled: ranks are decided safely as they are."""

STEPS = 200
"""Steps towards the best scales at most; rounding to powers of two needs a digit, which a few dozen give."""


def scales_of(rows: Rows) -> tuple[Floats, Floats]:
    """Return (by row, by column), shape (n_rows,) and (n_columns,): row * coefficient * column is near one.

    Powers of two, so that nothing is rounded and coefficients of one stay one. Where units differ from column to column
    the scales make the squares of all logarithms least (Curtis & Reid 1972).
    """
    size = abs(rows.value)
    largest = np.zeros(rows.n_rows)
    np.maximum.at(largest, rows.row_of_entry(), size)
    largest[largest == 0.0] = 1.0
    by_row, by_column = _power(-np.log2(largest)), np.ones(rows.n_columns)
    if size.size and size.max() > WIDE * size.min():
        return _least_logarithms(rows)
    return by_row, by_column


def _least_logarithms(rows: Rows) -> tuple[Floats, Floats]:
    """Return scales that make the sum of squares of all logarithms least."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import lsmr

    entries = np.arange(len(rows.value))
    places = np.concatenate([rows.row_of_entry(), rows.n_rows + rows.index])
    shape = (len(entries), rows.n_rows + rows.n_columns)
    sums = sp.csr_array((np.ones(len(places)), (np.tile(entries, 2), places)), shape=shape)
    found = lsmr(sums, -np.log2(abs(rows.value)), atol=1e-4, btol=1e-4, maxiter=STEPS)[0]
    return _power(found[: rows.n_rows]), _power(found[rows.n_rows :])


def _power(exponent: Floats) -> Floats:
    """Return two to the nearest whole exponent."""
    power: Floats = np.ldexp(1.0, np.round(exponent).astype(np.int64))
    return power
