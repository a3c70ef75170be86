"""Reconciliation of flows with what they carry: compositions, enthalpies, any property that mixes by flow.

Here: `prepare_bilinear` and `reconcile_bilinear`: balances of flows, and of flows times properties, over one window or
many. Not here: the check of readings (bilinear_case.py), the iteration (quadratic.py), the answer
(bilinear_result.py), other nonlinear constraints (nonlinear.py). The main path:
`BilinearNetwork.reconcile`.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from processing.balance import inputs
from processing.balance.bilinear_case import Case, Sizes
from processing.balance.bilinear_result import BilinearResult
from processing.balance.errors import BalanceError
from processing.balance.inputs import Floats, Ints, Matrix
from processing.balance.mixing import Constraints, constraints_of, slots_of
from processing.balance.network import Network
from processing.balance.nonlinear import reconcile_nonlinear
from processing.balance.ordering import as_rows, minimum_degree, pattern_of_factor
from processing.balance.quadratic import Entries, gauss_newton
from processing.balance.result import Part, Result

WIDTH = 8
"""Windows solved side by side: as many as one vector instruction takes."""


class BilinearNetwork:
    """Everything about a bilinear network that does not depend on the readings; made by `prepare_bilinear`."""

    def __init__(self, constraints: Constraints, sizes: Sizes) -> None:
        self.constraints = constraints
        self.sizes = sizes
        c = constraints
        n, m = c.n_variables, c.n_rows
        pairs = sp.coo_array((np.ones(len(c.row)), (c.row + n, c.variable)), shape=(n + m, n + m)).tocsc()
        graph = (pairs + pairs.T + sp.diags_array(np.ones(n + m))).tocsc()
        order = minimum_degree(graph)
        self._place = np.empty(n + m, dtype=np.int64)
        self._place[order] = np.arange(n + m)
        self._pattern = pattern_of_factor(graph[order][:, order])
        one, two = self._place[c.variable], self._place[c.row + n]
        low, high = np.minimum(one, two), np.maximum(one, two)
        self._entries = Entries(c.row, c.variable, c.other, c.share, slots_of(self._pattern, low, high))

    @property
    def n_streams(self) -> int:
        """Number of streams."""
        return self.sizes.n_streams

    @property
    def n_properties(self) -> int:
        """Number of properties that each stream carries."""
        return self.sizes.n_properties

    def reconcile(
        self,
        flow: npt.ArrayLike,
        carried: npt.ArrayLike,
        flow_std: npt.ArrayLike,
        carried_std: npt.ArrayLike,
        *,
        rhs: npt.ArrayLike | None = None,
        carried_rhs: npt.ArrayLike | None = None,
        start: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        bounds: tuple[Sequence[npt.ArrayLike], Sequence[npt.ArrayLike]] | None = None,
        tolerance: float = 1e-9,
        max_iterations: int = 50,
    ) -> BilinearResult:
        """Reconcile one window or many.

        Parameters
        ----------
        flow
            shape (n_streams,) or (n_windows, n_streams) [unit of the flow]; NaN where unmeasured.
        carried
            shape (n_streams, n_properties) or (n_windows, n_streams, n_properties) [unit of the property].
        flow_std, carried_std
            One window's shape, or all windows'; zero: exact; infinite or NaN: tells nothing.
        rhs
            What the flow balances add up to, shape (n_nodes,) or (n_windows, n_nodes); default zero.
        carried_rhs
            What the balances of the properties add up to, shape (n_carried_nodes, n_properties) or with windows first.
        start
            (flow, carried) where the search starts; NaN or absent: the measured value, or the mean of the measured.
        bounds
            ((low, high) of the flows, (low, high) of the properties).
        tolerance, max_iterations
            As in `reconcile_nonlinear`.

        Returns
        -------
        BilinearResult

        Raises
        ------
        BalanceError
            If the shapes do not fit.
        """
        case = self.sizes.case(flow, carried, flow_std, carried_std, rhs, carried_rhs, start)
        for first in range(0, len(case.z), WIDTH):
            self._iterate(case, np.arange(first, min(first + WIDTH, len(case.z))), tolerance, max_iterations)
        self._mend(case, self.sizes.bounds(bounds), tolerance, max_iterations)
        return BilinearResult(case, self.n_streams, lambda window: self.linearised(case, window))

    def linearised(self, case: Case, window: int) -> Result:
        """Return one window linearised at its answer."""
        z = case.z[window]
        jacobian = self.constraints.jacobian(z)
        rhs = jacobian @ z - self.constraints.residual(z, case.rhs[window])
        network = Network(as_rows(jacobian), np.where(np.isnan(case.std[window]), np.inf, case.std[window]), None, None)
        given = case.given[window]
        usable = np.isfinite(given) & np.isfinite(case.std[window])
        part = Part(network.projection(usable), np.zeros(1, dtype=np.int64))
        held = (0,) if case.held[window] else ()
        return Result(given, np.where(part.projection.observable, z, np.nan), rhs[None], [part], held)

    def _iterate(self, case: Case, windows: Ints, tolerance: float, most: int) -> None:
        """Solve some windows side by side; a block that is not full repeats its last."""
        block = windows[np.minimum(np.arange(WIDTH), len(windows) - 1)] if len(windows) > 1 else windows
        known = np.isfinite(case.std[block])
        given = np.where(known, case.given[block], np.nan).T.copy()
        z = case.z[block].T.copy()
        scale = np.where(
            np.isnan(given), np.maximum(abs(z), 1e-3 * abs(z).max()), np.where(known, case.std[block], 1.0).T
        )
        report = np.empty((3, len(block)))
        limits = np.array([tolerance, float(most)])
        gauss_newton(
            z, given, scale, case.rhs[block].T.copy(), self._entries, self._pattern, self._place, limits, report
        )
        case.z[windows] = z.T[: len(windows)]
        case.report[windows] = report.T[: len(windows)]

    def _mend(self, case: Case, bounds: tuple[Floats, Floats] | None, tolerance: float, most: int) -> None:
        """Search again, with line search and bounds, in windows that did not converge or left their bounds."""
        outside = case.report[:, 0] == 0.0
        if bounds is not None:
            outside |= ((case.z < bounds[0]) | (case.z > bounds[1])).any(axis=1)
        for k in np.flatnonzero(outside):
            begin = np.where(np.isnan(case.given[k]), self.sizes.guess(case.given[k][None])[0], case.given[k])
            found = reconcile_nonlinear(
                lambda z, k=k: self.constraints.residual(z, case.rhs[k]),  # type: ignore[misc]
                self.constraints.jacobian,
                case.given[k],
                case.std[k],
                start=begin,
                bounds=bounds,
                tolerance=tolerance,
                max_iterations=most,
            )
            case.z[k], case.held[k] = found.point, found.bounded.size > 0
            size = abs(found.jacobian) @ abs(found.point)
            left = np.divide(abs(found.constraint_residual), size, out=np.zeros_like(size), where=size > 0).max(
                initial=0.0
            )
            case.report[k] = float(found.converged), found.iterations, left


def prepare_bilinear(
    incidence: Matrix,
    n_properties: int,
    *,
    carried_incidence: Matrix | None = None,
    same: Sequence[tuple[int, int]] = (),
    whole: npt.ArrayLike | None = None,
) -> BilinearNetwork:
    """Make a bilinear network ready: the order of elimination is found once.

    Parameters
    ----------
    incidence
        The balances of flows, shape (n_nodes, n_streams).
    n_properties
        Number of properties that a stream carries.
    carried_incidence
        The balances of flow times property, shape (n_carried_nodes, n_streams), for each property; default
        `incidence`.
    same
        Pairs of streams with the same properties: both sides of a splitter.
    whole
        bool, shape (n_streams,): streams whose properties add up to one, as mass fractions of all components do.

    Returns
    -------
    BilinearNetwork

    Raises
    ------
    BalanceError
        If the shapes do not fit.
    """
    mass = inputs.rows_of(incidence, "incidence")
    carry = mass if carried_incidence is None else inputs.rows_of(carried_incidence, "carried_incidence")
    n = mass.n_columns
    if carry.n_columns != n:
        raise BalanceError(f"carried_incidence must have {n} columns, got {carry.n_columns}")
    if not isinstance(n_properties, Integral) or n_properties < 1:
        raise BalanceError(f"n_properties must be a whole number of at least 1, got {n_properties!r}")
    for pair in same:
        if len(pair) != 2 or not all(isinstance(s, Integral) and 0 <= s < n for s in pair):
            raise BalanceError(f"same must be pairs of streams, each from 0 to {n - 1}, got {pair!r}")
    full = np.zeros(n, dtype=bool) if whole is None else np.asarray(whole)
    if full.shape != (n,) or full.dtype != np.bool_:
        raise BalanceError(f"whole must be bool of shape ({n},), got {full.dtype} of {full.shape}")
    constraints = constraints_of(mass, carry, int(n_properties), same, full)
    sizes = Sizes(n, int(n_properties), mass.n_rows, carry.n_rows, int(full.sum()), constraints.n_rows)
    return BilinearNetwork(constraints, sizes)


def reconcile_bilinear(
    incidence: Matrix,
    flow: npt.ArrayLike,
    carried: npt.ArrayLike,
    flow_std: npt.ArrayLike,
    carried_std: npt.ArrayLike,
    **options: Any,
) -> BilinearResult:
    """Reconcile flows with what they carry, so that flows and flows times each property balance.

    Parameters
    ----------
    incidence
        The balances, of flows and of flow times property alike, shape (n_nodes, n_streams).
    flow
        shape (n_streams,) or (n_windows, n_streams) [unit of the flow]; NaN where unmeasured.
    carried
        shape (n_streams, n_properties), or with windows first [unit of the property]; NaN where unmeasured.
    flow_std, carried_std
        Of one window's shape or all windows' [units as above].
    options
        `carried_incidence`, `same`, `whole` of `prepare_bilinear`; the rest of `BilinearNetwork.reconcile`.

    Returns
    -------
    BilinearResult

    Raises
    ------
    BalanceError
        If the shapes do not fit.

    Notes
    -----
    Minimise the weighted squares of all adjustments subject to A F = b and A (F x_k) = c_k for each property k, by
    Gauss-Newton on the conditions of optimality. Crowe (1986), AIChE J. 32, 616; Simpson, Voller, Everett (1991).

    Examples
    --------
    >>> from processing.balance import reconcile_bilinear
    >>> mixed = reconcile_bilinear([[1, 1, -1]], [10.0, 5.0, 15.3], [[0.2], [0.5], [float("nan")]],
    ...                            [0.1, 0.1, 0.2], [[0.01], [0.01], [0.01]])
    >>> mixed.flow.round(3).tolist(), mixed.carried[2, 0].round(4)
    ([10.05, 5.05, 15.1], np.float64(0.3003))
    """
    of_network = {key: options.pop(key) for key in ("carried_incidence", "same", "whole") if key in options}
    network = prepare_bilinear(incidence, np.shape(carried)[-1], **of_network)
    return network.reconcile(flow, carried, flow_std, carried_std, **options)
