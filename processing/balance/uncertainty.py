"""Square roots of covariances, and which streams have one.

Here: what std and covariance mean to the factors. Not here: their shapes and signs (inputs.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from processing.balance.errors import BalanceError
from processing.balance.inputs import Bools, Floats, Rows

NEGATIVE = -1e-9
"""An eigenvalue of the correlations below this is not rounding: printed correlations have more digits."""


ROUNDING = 64 * np.finfo(float).eps
"""Times the number of meters: an eigenvalue of the correlations up to here is rounding, and counts as zero."""


def known_of(std: Floats | None, covariance: Rows | None) -> Bools:
    """Return which streams have a finite std, bool, shape (n_streams,)."""
    if std is not None:
        return np.isfinite(std)
    assert covariance is not None
    known = np.ones(covariance.n_rows, dtype=bool)
    own = covariance.row_of_entry() == covariance.index
    known[covariance.index[own & ~np.isfinite(covariance.value)]] = False
    row = covariance.row_of_entry()
    bad = np.flatnonzero(known[covariance.index] & known[row] & ~np.isfinite(covariance.value))
    if bad.size:
        place, value = f"[{row[bad[0]]}, {covariance.index[bad[0]]}]", covariance.value[bad[0]]
        raise BalanceError(f"covariance{place} of two streams of finite std must be finite, got {value}")
    return known


def root_of(std: Floats | None, covariance: Rows | None) -> tuple[Floats, Bools]:
    """Return C with V = C C', shape (n,) if diagonal, else (n, n_errors), and which streams have a finite std."""
    known = known_of(std, covariance)
    if std is not None:
        return np.where(known, std, 0.0), known
    full: Floats = sparse_covariance(None, covariance, known)[1].toarray()
    return full, known


def positive_root(covariance: Floats) -> Floats:
    """Return C with covariance = C C', shape (n, rank).

    Raises
    ------
    BalanceError
        If it is not positive semidefinite.
    """
    size = np.sqrt(np.diagonal(covariance))
    scale = np.where(size > 0, size, 1.0)
    value, vector = np.linalg.eigh(covariance / np.outer(scale, scale))
    if value.min(initial=0.0) < NEGATIVE:
        raise BalanceError(
            f"covariance must be positive semidefinite, smallest eigenvalue of correlations {value.min():.3g}"
        )
    held = value > ROUNDING * len(value)
    root: Floats = size[:, None] * vector[:, held] * np.sqrt(value[held])
    return root


def sparse_covariance(std: Floats | None, covariance: Rows | None, known: Bools) -> tuple[Any, Any]:
    """Return V (n_streams, n_streams) and C (n_streams, n_errors) with V = C C'; zero where nothing is known."""
    import scipy.sparse as sp

    if std is not None:
        finite = np.where(known, std, 0.0)
        return sp.diags_array(finite**2, format="csr"), sp.diags_array(finite, format="csr")
    assert covariance is not None
    held = known[covariance.index] & known[covariance.row_of_entry()]
    row, column, value = covariance.row_of_entry()[held], covariance.index[held], covariance.value[held]
    full = sp.csr_array((value, (row, column)), shape=covariance.shape)
    return full, _root_by_cluster(full)


def _root_by_cluster(covariance: Any) -> Any:
    """Return C with covariance = C C', cluster by cluster of correlated streams: each error moves one cluster alone."""
    import scipy.sparse as sp
    from scipy.sparse.csgraph import connected_components

    number, label = connected_components(covariance, directed=False)
    order = np.argsort(label, kind="stable")
    alone = np.bincount(label, minlength=number) == 1
    single = np.flatnonzero(alone[label])
    blocks = [(single, np.arange(len(single)), np.sqrt(covariance.diagonal()[single]))]
    errors = len(single)
    for members in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        if len(members) > 1:
            root = positive_root(covariance[members][:, members].toarray())
            row, column = np.nonzero(root)
            blocks.append((members[row], errors + column, root[row, column]))
            errors += root.shape[1]
    rows, columns, values = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return sp.csr_array((values, (rows, columns)), shape=(covariance.shape[0], errors))
