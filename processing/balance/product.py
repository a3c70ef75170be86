"""Products of a sparse matrix with windows of values.

Here: `product`, the same digits whether a window comes alone or among many. Not here: the loops (kernels.py, steps.py).
"""

from __future__ import annotations

import numpy as np

from processing.balance import kernels, lanes, steps
from processing.balance.inputs import Floats, Rows

FEW = 8
"""Windows below which a product is as fast one window at a time."""


def product(rows: Rows, values: Floats) -> Floats:
    """Return the product of a matrix by rows with each window's values, shape (n_windows, n_rows)."""
    given, out = np.require(values, requirements=("C", "W")), np.empty((len(values), rows.n_rows))
    if len(given) < FEW:
        steps.multiply(rows.start, rows.index, rows.value, given, out)
        return out
    with lanes.borrowed_block(rows.n_columns + rows.n_rows) as block:
        kernels.multiply_windows(given, rows.start, rows.index, rows.value, block, out)
    return out
