"""Turns what callers give (lists, dense or sparse matrices, one window or many) into checked float64 arrays.

Here: shapes, finiteness, signs, and the messages about them. Not here: any numerical decision.
`Network` (network.py) and the functions beside it enter here before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from processing.balance.errors import BalanceError

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]
Matrix: TypeAlias = Any
"""A dense array-like or any scipy.sparse matrix or array."""


SMALLEST = 1e-100
"""Std below this, or above one over it: their squares leave the range of floating-point numbers."""


@dataclass(frozen=True)
class Rows:
    """A matrix by rows (CSR): row i has columns `index[start[i]:start[i + 1]]` with `value` there.

    Parameters
    ----------
    start
        shape (n_rows + 1,).
    index
        shape (n_entries,), ascending within a row, each column once.
    value
        shape (n_entries,), none of them zero.
    n_columns
        Number of columns.
    """

    start: Ints
    index: Ints
    value: Floats
    n_columns: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.start) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.n_rows, self.n_columns

    def dense(self) -> Floats:
        """Return the matrix written out, shape (n_rows, n_columns)."""
        full = np.zeros(self.shape)
        full[self.row_of_entry(), self.index] = self.value
        return full

    def row_of_entry(self) -> Ints:
        """Return the row of each entry, shape (n_entries,)."""
        return np.repeat(np.arange(self.n_rows, dtype=np.int64), np.diff(self.start))

    def transposed(self) -> Rows:
        """Return the transpose, by rows."""
        order = np.argsort(self.index, kind="stable")
        start = np.zeros(self.n_columns + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.index, minlength=self.n_columns), out=start[1:])
        return Rows(start, self.row_of_entry()[order], self.value[order], self.n_rows)

    def times(self, values: Floats) -> Floats:
        """Return the product with a vector, or with each row of `values`, shape (..., n_rows)."""
        flat = values.reshape(-1, self.n_columns)
        product = np.zeros((len(flat), self.n_rows))
        np.add.at(product.T, self.row_of_entry(), (flat[:, self.index] * self.value).T)
        return product.reshape(*values.shape[:-1], self.n_rows)


def is_sparse(matrix: Matrix) -> bool:
    """Whether `matrix` is one of scipy's sparse formats (without importing scipy for a dense one)."""
    return hasattr(matrix, "tocsr") and hasattr(matrix, "nnz")


def rows_of(matrix: Matrix, name: str) -> Rows:
    """Return a matrix of balances by rows.

    Raises
    ------
    BalanceError
        If it is not two-dimensional, has no column, or an entry is not finite.
    """
    rows = _rows(matrix, name, "(n_nodes, n_streams)")
    if rows.n_columns == 0:
        raise BalanceError(f"{name} has no columns: nothing to reconcile")
    bad = np.flatnonzero(~np.isfinite(rows.value))
    if bad.size:
        i, j = rows.row_of_entry()[bad[0]], rows.index[bad[0]]
        raise BalanceError(f"{name}[{i}, {j}] must be finite, got {rows.value[bad[0]]}")
    return rows


def _rows(matrix: Matrix, name: str, shape: str) -> Rows:
    """Return a dense or sparse matrix by rows."""
    if is_sparse(matrix):
        return _rows_of_sparse(matrix)
    full = as_floats(matrix, name)
    if full.ndim != 2:
        raise BalanceError(f"{name} must be two-dimensional {shape}, got shape {full.shape}")
    return _rows_of_dense(full)


def _rows_of_sparse(matrix: Matrix) -> Rows:
    """Take the entries of a scipy.sparse matrix, duplicates summed."""
    csr = matrix.tocsr().copy()
    csr.sum_duplicates()
    csr.eliminate_zeros()
    start, index = csr.indptr.astype(np.int64), csr.indices.astype(np.int64)
    return Rows(start, index, csr.data.astype(np.float64), csr.shape[1])


def _rows_of_dense(full: Floats) -> Rows:
    """Take the entries of a dense matrix that are not zero."""
    i, j = np.nonzero(full)
    start = np.zeros(full.shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(i, minlength=full.shape[0]), out=start[1:])
    return Rows(start, j.astype(np.int64), full[i, j], full.shape[1])


def as_floats(values: npt.ArrayLike, name: str) -> Floats:
    """Return `values` as a float64 array; what a masked array hides becomes NaN.

    Raises
    ------
    BalanceError
        If they are not real numbers.
    """
    try:
        array = np.asarray(values)
        if isinstance(values, np.ma.MaskedArray):
            array = np.where(np.ma.getmaskarray(values), np.nan, array)
        if array.dtype.kind == "c":
            raise BalanceError(f"{name} must be real, got complex numbers")
        return np.asarray(array, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        if isinstance(error, BalanceError):
            raise
        raise BalanceError(f"{name} must be an array of numbers: {error}") from None


def fitted(values: npt.ArrayLike, name: str, shape: tuple[int, ...]) -> Floats:
    """Return finite numbers, spread over `shape` where they fit it by numpy's rules.

    Raises
    ------
    BalanceError
        If they do not fit, or one is not finite.
    """
    array = as_floats(values, name)
    try:
        full = np.broadcast_to(array, shape)
    except ValueError:
        raise BalanceError(f"{name} must have shape {shape}, got {array.shape}") from None
    if not np.isfinite(full).all():
        where = [int(k) for k in np.argwhere(~np.isfinite(full))[0]]
        raise BalanceError(f"{name}{where} must be finite, got {full[tuple(where)]}")
    return full


def measured_windows(measured: npt.ArrayLike, n_streams: int) -> Floats:
    """Return measured values of one window (n_streams,) or many (n_windows, n_streams); NaN is unmeasured.

    Raises
    ------
    BalanceError
        If the shape does not fit.
    """
    values = as_floats(measured, "measured")
    if values.ndim not in (1, 2) or values.shape[-1] != n_streams:
        raise BalanceError(f"measured must have shape ({n_streams},) or (n_windows, {n_streams}), got {values.shape}")
    return values


def infinite(windows: Floats) -> str:
    """Return the message about the first infinite value of windows, shape (n_windows, n_streams)."""
    window, stream = (int(k) for k in np.argwhere(np.isinf(windows))[0])
    return f"measured value of window {window}, stream {stream} must be finite, or NaN where unmeasured"


def checked_std(std: npt.ArrayLike, n_streams: int) -> Floats:
    """Return standard deviations (n_streams,) or (n_windows, n_streams); NaN becomes infinite: tells nothing.

    Raises
    ------
    BalanceError
        If the shape does not fit or one is negative.
    """
    values = as_floats(std, "std")
    if values.ndim == 0:
        values = np.full(n_streams, float(values))
    if values.ndim not in (1, 2) or values.shape[-1] != n_streams:
        raise BalanceError(f"std must have shape ({n_streams},) or (n_windows, {n_streams}), got {values.shape}")
    if (values < 0).any():
        where = tuple(int(k) for k in np.argwhere(values < 0)[0])
        raise BalanceError(f"std{list(where)} must not be negative, got {values[where]}")
    extreme = (values != 0.0) & np.isfinite(values) & ((values < SMALLEST) | (values > 1.0 / SMALLEST))
    if extreme.any():
        where = tuple(int(k) for k in np.argwhere(extreme)[0])
        allowed = f"must be zero, infinite, or between {SMALLEST:g} and {1 / SMALLEST:g}"
        raise BalanceError(f"std{list(where)} {allowed}, got {values[where]}")
    return np.where(np.isnan(values), np.inf, values)


def checked_uncertainty(
    std: npt.ArrayLike | None, covariance: Matrix | None, n_streams: int
) -> tuple[Floats | None, Rows | None]:
    """Return (std, None) or (None, covariance), whichever was given.

    Raises
    ------
    BalanceError
        If both or neither were given, or the one given does not fit.
    """
    if std is not None and covariance is not None:
        raise BalanceError("give either std or covariance, not both")
    if covariance is not None:
        return None, checked_covariance(covariance, n_streams)
    if std is None:
        raise BalanceError("give either std or covariance, got neither")
    return checked_std(std, n_streams), None


def checked_covariance(covariance: Matrix, n_streams: int) -> Rows:
    """Return a covariance matrix (n_streams, n_streams) by rows; NaN rows belong to unmeasured streams.

    Raises
    ------
    BalanceError
        If the shape does not fit, or it is not symmetric or has a negative variance.
    """
    rows = _rows(covariance, "covariance", f"({n_streams}, {n_streams})")
    if rows.shape != (n_streams, n_streams):
        raise BalanceError(f"covariance must have shape ({n_streams}, {n_streams}), got {rows.shape}")
    _check_for_symmetry(rows)
    return rows


def _check_for_symmetry(rows: Rows) -> None:
    """Refuse a covariance that is not symmetric or has a variance below zero."""
    import scipy.sparse as sp

    matrix = sp.csr_array((np.nan_to_num(rows.value), rows.index, rows.start), shape=rows.shape)
    variance = matrix.diagonal()
    if (variance < 0).any():
        j = int(np.argmin(variance))
        raise BalanceError(f"covariance[{j}, {j}] must not be negative, got {variance[j]}")
    gap = abs(matrix - matrix.T).tocoo()
    size = np.sqrt(variance[gap.row]) * np.sqrt(variance[gap.col])
    wrong = np.flatnonzero(gap.data > 1e-9 * np.maximum(size, np.finfo(float).tiny))
    if wrong.size:
        i, j, off = int(gap.row[wrong[0]]), int(gap.col[wrong[0]]), gap.data[wrong[0]]
        raise BalanceError(f"covariance must be symmetric, [{i}, {j}] and [{j}, {i}] differ by {off:.3g}")


def checked_rhs(rhs: npt.ArrayLike | None, n_nodes: int, n_windows: int | None) -> Floats | None:
    """Return right-hand sides (n_nodes,) or (n_windows, n_nodes); None where all are zero.

    Raises
    ------
    BalanceError
        If the shape does not fit or one is not finite.
    """
    if rhs is None:
        return None
    values = as_floats(rhs, "rhs")
    shapes = [(n_nodes,)] if n_windows is None else [(n_nodes,), (n_windows, n_nodes)]
    if values.shape not in shapes:
        raise BalanceError(f"rhs must have shape {' or '.join(map(str, shapes))}, got {values.shape}")
    if not np.isfinite(values).all():
        where = tuple(int(k) for k in np.argwhere(~np.isfinite(values))[0])
        raise BalanceError(f"rhs{list(where)} must be finite, got {values[where]}")
    return values if values.any() else None


def checked_bounds(bounds: Sequence[npt.ArrayLike] | None, n_streams: int) -> tuple[Floats, Floats] | None:
    """Return (low, high), each shape (n_streams,); None where nothing is bounded.

    Raises
    ------
    BalanceError
        If the shapes do not fit or a lower bound is above its upper bound.
    """
    if bounds is None:
        return None
    if not isinstance(bounds, Sequence | np.ndarray) or len(bounds) != 2:
        raise BalanceError(f"bounds must be (low, high), got {bounds!r:.80}")
    low, high = (_bound(side, name, n_streams) for side, name in zip(bounds, ("low", "high"), strict=True))
    low[np.isnan(low)] = -np.inf
    high[np.isnan(high)] = np.inf
    if (low > high).any():
        j = int(np.argmax(low > high))
        raise BalanceError(f"bounds of stream {j} must have low <= high, got {low[j]} > {high[j]}")
    return (low, high) if (np.isfinite(low) | np.isfinite(high)).any() else None


def _bound(side: npt.ArrayLike, name: str, n_streams: int) -> Floats:
    """Return one side of bounds, shape (n_streams,)."""
    values = as_floats(side, f"bounds: {name}")
    if values.shape not in ((), (n_streams,)):
        raise BalanceError(f"bounds: {name} must be a number or have shape ({n_streams},), got {values.shape}")
    return np.array(np.broadcast_to(values, (n_streams,)))
