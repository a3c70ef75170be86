"""Dense orthogonal factors: what is left of balances without some columns, and which of them are independent.

Here: QR decompositions with pivoting, and the decisions about ranks that they carry. Not here: scales of rows and
columns (scaling.py), what the factors are used for (dense.py). Rows and columns come in scaled.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg as la

from processing.balance.inputs import Bools, Floats, Ints

RANK_TOLERANCE = 1e-10
"""A pivot below this share of the largest, after rows and columns were scaled to one, counts as zero.

Coefficients come from files with six to twelve digits, double precision leaves about 1e-14 after factoring: any
value between separates dependence written in the file from rounding."""

CLEAR_PIVOT = 1e-6
"""Above this share of the largest a pivot of weighted balances is no matter of rounding: they are independent."""

SAFE_PIVOT = 1e-4
"""Smallest pivot, of rows of length one, down to which normal equations keep half of the digits."""


def eliminate(columns: Floats) -> tuple[Floats, Bools, Floats]:
    """Return Q2 with Q2' columns = 0, which columns stay undetermined, and a left inverse for the others."""
    m, n = columns.shape
    if not columns.size or not columns.any():
        return np.eye(m), np.ones(n, dtype=bool), np.zeros((n, m))
    size = np.sqrt((columns**2).sum(axis=0))
    size[size == 0.0] = 1.0
    q, r, order = la.qr(columns / size, pivoting=True)
    rank = _rank(r)
    inverse, null = np.zeros((n, m)), np.zeros((n, n - rank))
    inverse[order[:rank]] = la.solve_triangular(r[:rank, :rank], q[:, :rank].T)
    null[order[rank:], np.arange(n - rank)] = 1.0
    if rank < n:
        null[order[:rank]] = -la.solve_triangular(r[:rank, :rank], r[:rank, rank:])
    free = (abs(null) > RANK_TOLERANCE * abs(null).max(axis=0, initial=1.0)).any(axis=1)
    return without_noise(np.asarray(q[:, rank:], dtype=np.float64)), free, inverse / size[:, None]


def orthogonalise(weighted: Floats, terms: Floats) -> tuple[Floats, Floats, Floats]:
    """Return (basis, to_rows, depend): to_rows @ weighted = basis' with orthonormal columns, depend @ weighted = 0.

    `terms` is what each entry is a sum of, in size. Which rows depend on others is decided with every column of length
    one: rows that share a vague meter look alike to rounding once they are weighted, and are not.
    """
    rows, columns = weighted.shape
    if not weighted.size or not weighted.any():
        return np.zeros((columns, 0)), np.zeros((0, rows)), np.eye(rows)
    basis, upper, order, size = _factor(weighted)
    kept, depend = np.arange(rows), np.zeros((0, rows))
    diagonal = abs(np.diagonal(upper))
    if len(diagonal) < rows or not (diagonal > CLEAR_PIVOT * diagonal[0]).all():
        stands = np.where(abs(weighted) > RANK_TOLERANCE * terms, weighted, 0.0)
        kept, depend = independent_rows(stands / _lengths(stands.T))
        basis, upper, order, size = _factor(weighted[kept])
    to_rows = np.zeros((len(kept), rows))
    to_rows[:, kept[order]] = la.solve_triangular(upper, np.eye(len(kept)), trans="T") / size[order]
    return basis, to_rows, depend


def _factor(weighted: Floats) -> tuple[Floats, Floats, Ints, Floats]:
    """Return Q, R, order and the rows' lengths: (weighted / lengths)[order]' = Q R."""
    size = _lengths(weighted)
    # rows of the tall matrix by falling size: Householder QR is then stable row by row (Cox & Higham 1998)
    fall = np.argsort(-abs(weighted).max(axis=0, initial=0.0), kind="stable")
    q, upper, order = la.qr(weighted.T[fall] / size, mode="economic", pivoting=True)
    basis: Floats = np.empty(q.shape)
    basis[fall] = q
    return basis, np.asarray(upper, dtype=np.float64), order.astype(np.int64), size


def independent_rows(unit: Floats) -> tuple[Ints, Floats]:
    """Return the numbers of independent rows, ascending, and combinations of all rows that vanish, by row."""
    rows = len(unit)
    if not unit.any():
        return np.zeros(0, dtype=np.int64), np.eye(rows)
    size = _lengths(unit)
    _, r, order = la.qr(unit.T / size, mode="economic", pivoting=True)
    rank = _rank(np.asarray(r, dtype=np.float64))
    depend = np.zeros((rows - rank, rows))
    depend[np.arange(rows - rank), order[rank:]] = 1.0 / size[order[rank:]]
    if rank < rows:
        depend[:, order[:rank]] = -la.solve_triangular(r[:rank, :rank], r[:rank, rank:]).T / size[order[:rank]]
    return np.sort(order[:rank]).astype(np.int64), depend


def normalise(weighted: Floats) -> tuple[Floats, Floats, Floats] | None:
    """Return what `orthogonalise` does, by Cholesky's factor of the normal equations; None where these are unsafe."""
    rows = len(weighted)
    size = np.sqrt((weighted**2).sum(axis=1))
    if not rows or not (size > 0.0).all():
        return None
    unit = weighted / size[:, None]
    try:
        lower = np.linalg.cholesky(unit @ unit.T)
    except np.linalg.LinAlgError:
        return None
    if np.diagonal(lower).min() < SAFE_PIVOT:
        return None
    to_rows = la.solve_triangular(lower, np.eye(rows), lower=True)
    return np.ascontiguousarray((to_rows @ unit).T), to_rows / size, np.zeros((0, rows))


def without_noise(columns: Floats) -> Floats:
    """Set rounding noise, against the largest of its column, to zero: what it does not touch stays untouched."""
    noise = 64 * np.finfo(float).eps * abs(columns).max(axis=0, initial=0.0)
    return np.where(abs(columns) <= noise, 0.0, columns)


def _lengths(rows: Floats) -> Floats:
    """Return the length of each row, one where it is zero."""
    size: Floats = np.sqrt((rows**2).sum(axis=1))
    size[size == 0.0] = 1.0
    return size


def _rank(upper: Floats) -> int:
    """Return the rank that the diagonal of a pivoted triangular factor shows."""
    diagonal = abs(np.diagonal(upper))
    return int((diagonal > RANK_TOLERANCE * diagonal[0]).sum())
