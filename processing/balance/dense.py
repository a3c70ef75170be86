"""The projection of one pattern of measured streams, by orthogonal factors of dense matrices.

Here: what small networks use, and what the sparse factors (sparse.py) are checked against. Orthogonal factors
keep twice the digits of the normal equations, decide ranks safely, and cost nothing below some hundred streams.
Not here: which pattern a window has (network.py). The main path enters at `project`.

Notation (Narasimhan & Jordache 2000, ch. 3 and 7): A x = b the balances; M the measured, U the unmeasured streams;
y the measured values with covariance V = C C'. A_U = Q R by QR with column pivoting; Q2 spans what A_U does not
reach, so Q2' A_M x_M = Q2' b are the balances that hold among measured streams alone (Crowe's projection, 1983).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg as la

from processing.balance.inputs import Bools, Floats, Ints

RANK_TOLERANCE = 1e-10
"""A pivot below this share of the largest, after rows and columns were scaled to one, counts as zero.

Coefficients come from files with six to twelve digits, double precision leaves about 1e-14 after factoring: any
value between separates dependence written in the file from rounding."""


@dataclass(frozen=True, eq=False)
class DenseProjection:
    """Everything about one pattern that does not depend on the values.

    Parameters
    ----------
    measured, redundant, observable
        bool, shape (n_streams,).
    degrees_of_freedom
        Number of independent balances among measured streams of positive std.
    gain
        shape (n_streams, n_streams): reconciled = gain @ y + gain_rhs @ b, with y = 0 where unmeasured.
    gain_rhs
        shape (n_streams, n_nodes).
    multiplier
        shape (n_nodes, n_nodes): lambda = multiplier @ (A y - b), the multipliers of the balances.
    left_null
        shape (n_dependent, n_nodes): combinations of balances that no stream of positive std enters.
    root
        shape (n_streams, n_streams): gain @ C, a square root of the covariance of the reconciled values.
    prior
        shape (n_streams, n_streams): V with zeros where unmeasured.
    matrix
        shape (n_nodes, n_streams): A.
    """

    measured: Bools
    redundant: Bools
    observable: Bools
    degrees_of_freedom: int
    gain: Floats
    gain_rhs: Floats
    multiplier: Floats
    left_null: Floats
    root: Floats
    prior: Floats
    matrix: Floats

    def covariance(self) -> Floats:
        """Return the covariance of the reconciled values, shape (n_streams, n_streams); NaN where unobservable."""
        full: Floats = self.root @ self.root.T
        full[~self.observable] = np.nan
        full[:, ~self.observable] = np.nan
        return full

    def covariance_of(self, streams: Ints) -> Floats:
        """Return columns of the covariance of the reconciled values, shape (n_streams, k), for (k,) streams."""
        columns: Floats = self.root @ self.root[streams].T
        return columns

    def adjustment_covariance(self) -> Floats:
        """Return the covariance of the adjustments: V A' L A V, shape (n_streams, n_streams)."""
        spread = self.prior @ self.matrix.T
        full: Floats = spread @ self.multiplier @ spread.T
        return full


def project(matrix: Floats, measured: Bools, root: Floats) -> DenseProjection:
    """Factor one pattern.

    Parameters
    ----------
    matrix
        A, shape (n_nodes, n_streams).
    measured
        bool, shape (n_streams,): streams with a usable value of finite std.
    root
        C with V = C C', shape (n_streams, n_streams); rows of unmeasured streams are not read.
    """
    row_size = abs(matrix).max(axis=1, initial=0.0)
    row_size[row_size == 0.0] = 1.0
    scaled = matrix / row_size[:, None]
    unmeasured = np.flatnonzero(~measured)
    reach, free, solve_unmeasured = _eliminate(scaled[:, unmeasured])
    balances = reach.T @ scaled
    balances[abs(balances) <= RANK_TOLERANCE * (abs(reach.T) @ abs(scaled))] = 0.0
    balances[:, unmeasured] = 0.0
    size = np.sqrt((scaled**2).sum(axis=0))
    redundant = np.sqrt((balances**2).sum(axis=0)) > RANK_TOLERANCE * size
    redundant &= size > 0.0
    balances[:, ~redundant] = 0.0
    spread = np.where(measured[:, None], root, 0.0)
    basis, upper, order, rank = _ranked(balances @ spread)
    # x = y - C basis upper^-T (Pi' Q2' (A y - b)); the dependent rows of Pi' Q2' say what cannot be adjusted
    chosen = reach[:, order[:rank]] if rank else np.zeros((len(scaled), 0))
    inverse = la.solve_triangular(upper, np.eye(rank)) if rank else np.zeros((0, 0))
    to_balance = (chosen @ inverse).T / row_size
    correction = spread @ basis @ to_balance
    fit = np.diag(measured.astype(float)) - correction @ matrix
    fit[:, unmeasured] = 0.0
    fit_rhs = correction
    observable = measured.copy()
    observable[unmeasured] = ~free
    if unmeasured.size:
        through = solve_unmeasured @ scaled
        fit[unmeasured] = -through @ fit
        fit_rhs[unmeasured] = solve_unmeasured / row_size - through @ fit_rhs
    fit[~observable] = np.nan
    fit_rhs[~observable] = np.nan
    depend = _clean(reach @ _complement(balances @ spread, basis, upper, order, rank)).T / row_size
    return DenseProjection(
        measured=measured,
        redundant=redundant,
        observable=observable,
        degrees_of_freedom=rank,
        gain=fit,
        gain_rhs=fit_rhs,
        multiplier=to_balance.T @ to_balance,
        left_null=depend,
        root=np.nan_to_num(fit) @ spread,
        prior=spread @ spread.T,
        matrix=matrix,
    )


def _eliminate(columns: Floats) -> tuple[Floats, Bools, Floats]:
    """Return Q2 with Q2' columns = 0, which columns stay undetermined, and a left inverse for the others."""
    m, n = columns.shape
    size = np.sqrt((columns**2).sum(axis=0))
    scale = np.where(size > 0, size, 1.0)
    if n == 0 or m == 0:
        return np.eye(m), np.ones(n, dtype=bool), np.zeros((n, m))
    q, r, order = la.qr(columns / scale, pivoting=True)
    rank = int((abs(np.diagonal(r)) > RANK_TOLERANCE * abs(r[0, 0])).sum()) if size.any() else 0
    inverse = np.zeros((n, m))
    null = np.zeros((n, n - rank))
    if rank:
        inverse[order[:rank]] = la.solve_triangular(r[:rank, :rank], q[:, :rank].T)
        null[order[:rank]] = -la.solve_triangular(r[:rank, :rank], r[:rank, rank:])
    null[order[rank:], np.arange(n - rank)] = 1.0
    free = abs(null).max(axis=1, initial=0.0) > RANK_TOLERANCE * max(1.0, abs(null).max(initial=0.0))
    return _clean(np.asarray(q[:, rank:], dtype=np.float64)), free, inverse / scale[:, None]


def _ranked(weighted: Floats) -> tuple[Floats, Floats, Ints, int]:
    """Return (basis, upper, order, rank) with weighted[order[:rank]].T = basis @ upper, basis orthonormal."""
    rows, columns = weighted.shape
    if rows == 0 or not weighted.any():
        return np.zeros((columns, 0)), np.zeros((0, 0)), np.arange(rows), 0
    size = np.sqrt((weighted**2).sum(axis=1))
    scale = np.where(size > 0, size, 1.0)
    # rows of the tall matrix by falling size: Householder QR is then stable row by row (Cox & Higham 1998)
    fall = np.argsort(-abs(weighted).max(axis=0), kind="stable")
    q, r, order = la.qr(weighted.T[fall] / scale, mode="economic", pivoting=True)
    rank = int((abs(np.diagonal(r)) > RANK_TOLERANCE * abs(r[0, 0])).sum())
    basis = np.empty((columns, rank))
    basis[fall] = q[:, :rank]
    upper = np.asarray(r[:rank, :rank] * scale[order[:rank]], dtype=np.float64)
    return basis, upper, order.astype(np.int64), rank


def _complement(weighted: Floats, basis: Floats, upper: Floats, order: Ints, rank: int) -> Floats:
    """Return combinations of the rows of `weighted` that vanish, shape (n_rows, n_dependent)."""
    rows = weighted.shape[0]
    null = np.zeros((rows, rows - rank))
    null[order[rank:], np.arange(rows - rank)] = 1.0
    if rank and rows > rank:
        null[order[:rank]] = -la.solve_triangular(upper, basis.T @ weighted[order[rank:]].T)
    return null


def _clean(columns: Floats) -> Floats:
    """Set rounding noise, against the largest of its column, to exact zero, so that untouched streams stay untouched."""
    noise = 64 * np.finfo(float).eps * abs(columns).max(axis=0, initial=0.0)
    return np.where(abs(columns) <= noise, 0.0, columns)
