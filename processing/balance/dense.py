"""The projection of one pattern of measured streams, by orthogonal factors of dense matrices.

Here: what small networks and each step of the nonlinear solver use, and what the sparse factors (sparse.py) are
checked against. Orthogonal factors keep twice the digits of the normal equations, decide ranks safely, and cost
nothing below some hundred streams. Not here: which pattern a window has (network.py). The main path: `project`.

Notation (Narasimhan & Jordache 2000, ch. 3 and 7): A x = b the balances; M the measured, U the unmeasured streams;
y the measured values with covariance V = C C'. A_U = Q R by QR with column pivoting; Q2 spans what A_U does not
reach, so Q2' A_M x_M = Q2' b are the balances that hold among measured streams alone (Crowe's projection, 1983).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from processing.balance import orthogonal
from processing.balance.inputs import Bools, Floats, Ints, rows_of
from processing.balance.orthogonal import RANK_TOLERANCE
from processing.balance.scaling import scales_of

COLLINEAR = 1e-9
"""Signatures whose angle has a cosine within this of one count as the same: no balance tells them apart."""

MANY_STD = 1e3
"""A meter may be wrong by this many std and yet no balance of sure values be called contradicted."""

NOISE = 1e-9
"""What correlated meters leave of a meter's std, as a share; below it nothing is left but rounding."""

CONTRADICTION = 1e-8
"""A balance that cannot be adjusted may stay open by this share of its largest term."""


@dataclass(frozen=True, eq=False)
class DenseProjection:
    """Everything about one pattern that does not depend on the values; what is not asked for is not computed.

    Parameters
    ----------
    matrix
        A, shape (n_nodes, n_streams).
    root
        C of V = C C', shape (n_streams, n_errors), or (n_streams,) where it is diagonal; zero where unmeasured.
    measured, redundant, observable
        bool, shape (n_streams,).
    basis
        shape (n_errors, degrees_of_freedom): orthonormal, spans what the balances see of the errors.
    to_basis
        shape (degrees_of_freedom, n_nodes): adjustment = -C basis (to_basis @ (A y - b)).
    inverse
        shape (n_unmeasured, n_nodes): x_U = inverse @ (b - A_M x_M).
    depend
        shape (n_dependent, n_nodes): combinations of balances that no stream of positive std enters.
    """

    matrix: Floats
    root: Floats
    measured: Bools
    redundant: Bools
    observable: Bools
    basis: Floats
    to_basis: Floats
    inverse: Floats
    depend: Floats

    @property
    def n_nodes(self) -> int:
        """Number of balances."""
        return int(self.matrix.shape[0])

    @property
    def n_streams(self) -> int:
        """Number of streams."""
        return int(self.matrix.shape[1])

    @property
    def degrees_of_freedom(self) -> int:
        """Number of independent balances among measured streams of positive std."""
        return int(self.basis.shape[1])

    @property
    def source(self) -> Floats:
        """The balances as given; the same object for all patterns of one network."""
        return self.matrix

    def reweighed(self, std: Floats) -> DenseProjection:
        """Return the same pattern with other, independent std, shape (n_streams,)."""
        return project(self.matrix, self.measured, std)

    def residual(self, values: Floats, rhs: Floats | None) -> Floats:
        """Return A y - b, shape (n_windows, n_nodes), unmeasured streams counted as zero."""
        product: Floats = self._known(values) @ self.matrix.T
        return product if rhs is None else product - rhs

    def solve(self, values: Floats, rhs: Floats | None, threads: int = 1, out: Floats | None = None) -> Floats:
        """Return reconciled values, shape (n_windows, n_streams); NaN where unobservable. BLAS has its own threads."""
        known = self._known(values)
        full: Floats = np.empty(values.shape) if out is None else out
        if len(known) == 1:  # by the same operation as Network's quick path: the same bits, whichever way it came
            np.matmul(self.gain, known[0], out=full[0])
        else:
            np.matmul(known, self.gain.T, out=full)
        if rhs is not None:
            full += rhs @ self.gain_rhs.T
        if not self.observable.all():
            full[:, ~self.observable] = np.nan
        return full

    def solve_from(self, known: Floats, rhs: Floats, start: Floats) -> Floats:
        """Return values that close the balances as `solve`, unobservable streams as near to `start` as these allow.

        `known` is zero where unmeasured.
        """
        seen = (known @ self.matrix.T - rhs) @ self.to_basis.T
        full = known - _weigh(seen @ self.basis.T, self.root.T)
        unmeasured = ~self.measured
        if unmeasured.any():
            full[:, unmeasured] = start[:, unmeasured]
            full[:, unmeasured] += (rhs - full @ self.matrix.T) @ self.inverse.T
        return full

    @cached_property
    def gain(self) -> Floats:
        """What each reconciled value takes of each measured one, shape (n_streams, n_streams), for b = 0."""
        unit = np.diag(self.measured.astype(float))
        return np.ascontiguousarray(self.solve_from(unit, np.zeros((1, self.n_nodes)), np.zeros_like(unit)).T)

    @cached_property
    def gain_rhs(self) -> Floats:
        """What each reconciled value takes of each right-hand side, shape (n_streams, n_nodes)."""
        zero = np.zeros((self.n_nodes, self.n_streams))
        return np.ascontiguousarray(self.solve_from(zero, np.eye(self.n_nodes), zero).T)

    def _known(self, values: Floats) -> Floats:
        """Return values with zero where unmeasured."""
        return values if self.measured.all() else np.where(self.measured, values, 0.0)

    def multipliers(self, residual: Floats) -> Floats:
        """Return the balances' multipliers, shape (n_windows, n_nodes): adjustment = -V A' multipliers."""
        product: Floats = (residual @ self.to_basis.T) @ self.to_basis
        return product

    def objective(self, residual: Floats) -> Floats:
        """Return the weighted sum of squares of the adjustments, shape (n_windows,)."""
        total: Floats = ((residual @ self.to_basis.T) ** 2).sum(axis=1)
        return total

    def objective_of(self, adjustment: Floats) -> Floats:
        """Return the weighted sum of squares of given adjustments, shape (n_windows,), 0 where unmeasured."""
        if self.root.ndim == 1:
            share = np.divide(adjustment, self.root, out=np.zeros_like(adjustment), where=self.root > 0)
        else:
            share = np.linalg.lstsq(self.root, adjustment.T, rcond=1e-12)[0].T
        total: Floats = (share**2).sum(axis=1)
        return total

    def adjustment_test(self, residual: Floats, values: Floats, reconciled: Floats) -> Floats:
        """Return |adjustment| / its std, shape (n_windows, n_streams); NaN where nothing can be tested."""
        # from the errors that the balances show: a sure meter's adjustment is a small difference of large values
        moves = self.basis if self.root.ndim == 1 else self.root @ self.basis
        size = np.sqrt((moves**2).sum(axis=1))
        tested: Floats = abs((residual @ self.to_basis.T) @ moves.T)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.adjustment_std > 0.0, tested / size, np.nan)

    def contradiction(self, values: Floats, rhs: Floats | None) -> tuple[int, list[int], float] | None:
        """Return (window, nodes, what is left open) of the first balance open where nothing can be adjusted."""
        if not self.depend.size:
            return None
        left = self.residual(values, rhs) @ self.depend.T
        terms = abs(self._known(values)) @ abs(self.matrix.T) + (0.0 if rhs is None else abs(rhs))
        bad = np.argwhere(abs(left) > CONTRADICTION * (terms @ abs(self.depend.T)) + self._slack)
        if not bad.size:
            return None
        window, which = (int(k) for k in bad[0])
        return window, np.flatnonzero(self.depend[which]).tolist(), float(left[window, which])

    @cached_property
    def _slack(self) -> Floats:
        """What `depend` in its rounding leaves of the meters' errors, and errors of many std, shape (n_dependent,)."""
        spread: Floats = np.sqrt((_weigh(self.depend @ self.matrix, self.root) ** 2).sum(axis=1))
        return MANY_STD * spread

    @cached_property
    def covariance_root(self) -> Floats:
        """Square root of the covariance of the reconciled values, shape (n_streams, n_errors)."""
        # C (I - basis basis') and not V minus what the balances take away: no digits cancel for sure meters
        full = -_weigh_rows(self.root, self.basis) @ self.basis.T
        full += np.diag(self.root) if self.root.ndim == 1 else self.root
        unmeasured = ~self.measured
        if unmeasured.any():
            full[unmeasured] = -(self.inverse @ self.matrix) @ full
            full[~self.observable] = np.nan
        return full

    @cached_property
    def std(self) -> Floats:
        """Std of the reconciled values, shape (n_streams,); NaN where unobservable."""
        variance: Floats = (self.covariance_root**2).sum(axis=1)
        return np.sqrt(variance)

    @cached_property
    def prior_variance(self) -> Floats:
        """Variance of the measured values, shape (n_streams,); NaN where unmeasured."""
        variance = self.root**2 if self.root.ndim == 1 else (self.root**2).sum(axis=1)
        return np.where(self.measured, variance, np.nan)

    @cached_property
    def adjustment_std(self) -> Floats:
        """Std of the adjustments of error-free meters, shape (n_streams,); zero without redundancy, NaN unmeasured."""
        moves = _weigh_rows(self.root, self.basis)
        spread: Floats = np.sqrt((moves**2).sum(axis=1))
        if self.root.ndim == 1:
            spread[~self.redundant] = 0.0  # free of rounding noise; correlated with others it may be adjusted too
        else:
            spread[spread <= NOISE * np.sqrt((self.root**2).sum(axis=1))] = 0.0
        return np.where(self.measured, spread, np.nan)

    def covariance_of(self, streams: Ints) -> Floats:
        """Return columns of the covariance of the reconciled values, shape (n_streams, k), for (k,) streams."""
        columns: Floats = self.covariance_root @ self.covariance_root[streams].T
        return columns

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What others have derived from this pattern and keep with it."""
        return {}

    @cached_property
    def open_nodes(self) -> Bools:
        """Nodes with an unmeasured stream: their raw imbalance is unknown; bool, shape (n_nodes,)."""
        unmeasured: Bools = (self.matrix[:, ~self.measured] != 0.0).any(axis=1)
        return unmeasured

    @cached_property
    def imbalance_std(self) -> Floats:
        """Std of the raw imbalances of error-free meters, shape (n_nodes,)."""
        spread: Floats = np.sqrt((_weigh(self.matrix, self.root) ** 2).sum(axis=1))
        return spread

    @property
    def adjusts_apart(self) -> bool:
        """False: the gain is at hand, and a product with it costs little."""
        return False

    def screening(self, streams: Ints, nodes: Ints, per_std: Floats) -> None:
        """Return None: a product of dense matrices is as fast as it gets."""

    def column(self, stream: int) -> Floats:
        """Return column `stream` of A, shape (n_nodes,)."""
        entries: Floats = self.matrix[:, stream]
        return entries

    def over_streams(self, multipliers: Floats) -> Floats:
        """Return A' multipliers, shape (n_windows, n_streams)."""
        product: Floats = multipliers @ self.matrix
        return product

    @cached_property
    def bias_information(self) -> Floats:
        """One over the variance of each meter's bias estimate, shape (n_streams,); zero where it cannot show."""
        information: Floats = ((self.to_basis @ self.matrix) ** 2).sum(axis=0)
        return np.where(self.redundant & (np.nan_to_num(self.prior_variance) > 0.0), information, 0.0)

    @cached_property
    def leak_information(self) -> Floats:
        """One over the variance of each node's leak estimate, shape (n_nodes,); zero where it cannot show."""
        information: Floats = (self.to_basis**2).sum(axis=0)
        return information

    def alike(self, streams: Ints, nodes: Ints) -> Ints:
        """Return a number for the direction in which each bias, then each leak, shows, shape (n_hypotheses,)."""
        signature = np.concatenate([self.to_basis @ self.matrix[:, streams], self.to_basis[:, nodes]], axis=1)
        if not signature.shape[1]:
            return np.zeros(0, dtype=np.int64)
        signature /= np.sqrt((signature**2).sum(axis=0))
        same = abs(signature.T @ signature) > 1.0 - COLLINEAR
        return np.unique(same.argmax(axis=1), return_inverse=True)[1].astype(np.int64)

    def draw_multipliers(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw the multipliers of windows without errors, shape (count, n_nodes)."""
        seen = rng.standard_normal((count, self.degrees_of_freedom))  # what orthonormal directions show of errors
        drawn: Floats = seen @ self.to_basis
        return drawn


def project(matrix: Floats, measured: Bools, root: Floats, *, quick: bool = False) -> DenseProjection:
    """Factor one pattern.

    Parameters
    ----------
    matrix
        A, shape (n_nodes, n_streams).
    measured
        bool, shape (n_streams,): streams with a usable value of finite std.
    root
        C with V = C C', shape (n_streams, n_errors), or the std, shape (n_streams,), where errors are independent.
    quick
        Take normal equations where they keep half of the digits: for the steps of a search, not for its answer.
    """
    by_row, by_column = _scales(matrix, quick=quick)
    scaled = matrix * by_row[:, None]
    unmeasured = ~measured
    reach, free, inverse = orthogonal.eliminate(scaled[:, unmeasured] * by_column[unmeasured])
    balances = scaled
    if unmeasured.any():
        balances = reach.T @ scaled
        balances[abs(balances) <= RANK_TOLERANCE * np.sqrt((scaled**2).sum(axis=0))] = 0.0
        balances[:, unmeasured] = 0.0
    spread = np.where(measured if root.ndim == 1 else measured[:, None], root, 0.0)
    weighted = _weigh(balances, spread)
    factors = orthogonal.normalise(weighted) if quick else None
    basis, to_rows, depend = factors or orthogonal.orthogonalise(weighted, _weigh(abs(balances), abs(spread)))
    observable = measured.copy()
    observable[unmeasured] = ~free
    return DenseProjection(
        matrix=matrix,
        root=spread,
        measured=measured,
        redundant=measured & (balances != 0.0).any(axis=0),
        observable=observable,
        basis=basis,
        to_basis=(to_rows @ reach.T if unmeasured.any() else to_rows) * by_row,
        inverse=by_column[unmeasured, None] * inverse * by_row,
        depend=orthogonal.without_noise(reach @ depend.T).T * by_row,
    )


def _scales(matrix: Floats, *, quick: bool) -> tuple[Floats, Floats]:
    """Return the scales of rows and columns; for a search the rows' alone, which cost nothing."""
    if not quick:
        return scales_of(rows_of(matrix, "incidence"))
    size = abs(matrix).max(axis=1, initial=0.0)
    return 1.0 / np.where(size == 0.0, 1.0, size), np.ones(matrix.shape[1])


def _weigh(rows: Floats, root: Floats) -> Floats:
    """Return rows @ C for C given whole, or by its diagonal."""
    product: Floats = rows * root if root.ndim == 1 else rows @ root
    return product


def _weigh_rows(root: Floats, columns: Floats) -> Floats:
    """Return C @ columns for C given whole, or by its diagonal."""
    product: Floats = root[:, None] * columns if root.ndim == 1 else root @ columns
    return product
