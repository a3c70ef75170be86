"""Reconciliation of flows with what they carry: compositions, enthalpies, any property that mixes by flow.

Here: `prepare_bilinear` and `reconcile_bilinear`: balances of flows, and of flows times properties, over one window or
many. Not here: the iteration (quadratic.py), other nonlinear constraints (nonlinear.py). The main path:
`BilinearNetwork.reconcile`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from processing.balance import inputs
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


class BilinearResult:
    """Flows and properties that meet their balances together.

    Shapes: "as flow" is (n_streams,) for one window or (n_windows, n_streams); "as carried" likewise with a last axis
    of n_properties; "per window" a number or (n_windows,).

    Attributes
    ----------
    flow, carried : ndarray
        Reconciled, as flow and as carried, in the units given; NaN where unobservable.
    converged : ndarray or bool
        per window: whether the search came to rest; where not, the values are no answer.
    iterations : ndarray or int
        per window.
    open_share : ndarray or float
        per window: largest constraint left open, as a share of the sum of its |terms|.
    """

    def __init__(self, network: BilinearNetwork, case: _Case) -> None:
        self._network, self._case = network, case
        self.converged: Any = self._per_window(case.report[:, 0] > 0)
        self.iterations: Any = self._per_window(case.report[:, 1].astype(np.int64))
        self.open_share: Any = self._per_window(case.report[:, 2])

    @cached_property
    def flow(self) -> Floats:
        """Reconciled flows, as flow; NaN where unobservable."""
        return self._flows(self._seen)

    @cached_property
    def carried(self) -> Floats:
        """Reconciled properties, as carried; NaN where unobservable."""
        return self._properties(self._seen)

    @cached_property
    def flow_std(self) -> Floats:
        """Std of the flows, as flow."""
        return self._flows(self._std)

    @cached_property
    def carried_std(self) -> Floats:
        """Std of the properties, as carried."""
        return self._properties(self._std)

    @cached_property
    def global_test(self) -> Any:
        """Weighted sum of squares of the adjustments, per window."""
        share = np.divide(
            self._case.z - self._case.given,
            self._case.std,
            out=np.zeros_like(self._case.z),
            where=(self._case.std > 0) & np.isfinite(self._case.std) & ~np.isnan(self._case.given),
        )
        return self._per_window((share**2).sum(axis=1))

    @cached_property
    def degrees_of_freedom(self) -> Any:
        """Independent constraints among measured variables of positive std, per window."""
        return self._per_window(np.array([self.linear(k).degrees_of_freedom for k in range(len(self._case.z))]))

    def linear(self, window: int = 0) -> Result:
        """Return one window linearised at its answer, variables as flows, then properties stream by stream.

        What a linear result has follows: std, tests, `find_gross_errors`.
        """
        if window not in self._linear:
            self._linear[window] = self._network.linearised(self._case, window)
        return self._linear[window]

    @cached_property
    def _linear(self) -> dict[int, Result]:
        """Linearised windows, as far as asked for."""
        return {}

    @cached_property
    def _seen(self) -> Floats:
        """Variables with NaN where unobservable, shape (n_windows, n_variables)."""
        if not np.isnan(self._case.given).any():
            return self._case.z
        seen = np.array([self.linear(k).observable for k in range(len(self._case.z))]).reshape(self._case.z.shape)
        return np.where(seen, self._case.z, np.nan)

    @cached_property
    def _std(self) -> Floats:
        """Std of all variables, shape (n_windows, n_variables)."""
        return np.array([self.linear(k).std for k in range(len(self._case.z))]).reshape(self._case.z.shape)

    def _flows(self, values: Floats) -> Floats:
        """Return the flows among values by variable."""
        flows = values[:, : self._network.n_streams]
        return flows[0] if self._case.single else flows

    def _properties(self, values: Floats) -> Floats:
        """Return the properties among values by variable."""
        n = self._network.n_streams
        carried = values[:, n:].reshape(len(values), n, -1)
        return carried[0] if self._case.single else carried

    def _per_window(self, values: npt.NDArray[Any]) -> Any:
        """Return a number for one window."""
        return values[0].item() if self._case.single else values


@dataclass(eq=False)
class _Case:
    """Windows as the iteration takes them: by variable, shape (n_windows, n_variables)."""

    given: Floats
    std: Floats
    z: Floats
    rhs: Floats
    report: Floats
    single: bool


class BilinearNetwork:
    """Everything about a bilinear network that does not depend on the readings; made by `prepare_bilinear`."""

    def __init__(self, constraints: Constraints, n_streams: int, n_nodes: int, n_carried: int, n_whole: int) -> None:
        self.constraints = constraints
        self._n_whole = n_whole
        self.n_streams = n_streams
        self.n_properties = constraints.n_variables // n_streams - 1
        self._n_nodes = n_nodes
        self._n_carried = n_carried
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
        case = self._case(flow, carried, flow_std, carried_std, rhs, carried_rhs, start)
        for first in range(0, len(case.z), WIDTH):
            self._iterate(case, np.arange(first, min(first + WIDTH, len(case.z))), tolerance, max_iterations)
        self._mend(case, self._bounds(bounds), tolerance, max_iterations)
        return BilinearResult(self, case)

    def linearised(self, case: _Case, window: int) -> Result:
        """Return one window linearised at its answer."""
        z = case.z[window]
        jacobian = self.constraints.jacobian(z)
        rhs = jacobian @ z - self.constraints.residual(z, case.rhs[window])
        network = Network(as_rows(jacobian), np.where(np.isnan(case.std[window]), np.inf, case.std[window]), None, None)
        given = case.given[window]
        usable = np.isfinite(given) & np.isfinite(case.std[window])
        part = Part(network.projection(usable), np.zeros(1, dtype=np.int64))
        return Result(given, np.where(part.projection.observable, z, np.nan), rhs[None], [part], (0,))

    def _case(
        self, flow: Any, carried: Any, flow_std: Any, carried_std: Any, rhs: Any, carried_rhs: Any, start: Any
    ) -> _Case:
        """Check what was given and put variables side by side."""
        n, k = self.n_streams, self.n_properties
        flows, properties = inputs.as_floats(flow, "flow"), inputs.as_floats(carried, "carried")
        single = flows.ndim == 1
        if flows.shape[-1] != n or properties.shape != (*flows.shape, k):
            raise BalanceError(
                f"flow and carried must have shapes ({n},) and ({n}, {k}), or both with windows first, "
                f"got {flows.shape} and {properties.shape}"
            )
        given = np.concatenate([flows, properties.reshape(*flows.shape[:-1], n * k)], axis=-1).reshape(-1, n * (k + 1))
        std = np.concatenate(
            [_spread(flow_std, flows.shape, "flow_std"), _spread(carried_std, properties.shape, "carried_std")],
            axis=-1,
        )
        std = np.ascontiguousarray(np.broadcast_to(std, given.shape))
        if np.isinf(given).any() or (std < 0).any():
            raise BalanceError("flow and carried must be finite or NaN, and no std negative")
        z = np.where(np.isnan(given), self._guess(given), given)
        if start is not None:
            begin = np.concatenate(
                [
                    inputs.as_floats(start[0], "start"),
                    inputs.as_floats(start[1], "start").reshape(*np.shape(start[0])[:-1], n * k),
                ],
                axis=-1,
            )
            z = np.where(np.isnan(begin), z, begin)
            z = np.where(np.isnan(given) | ~np.isfinite(std), z, given)
        return _Case(
            given,
            std,
            np.ascontiguousarray(z),
            self._rhs(rhs, carried_rhs, len(given)),
            np.zeros((len(given), 3)),
            single,
        )

    def _guess(self, given: Floats) -> Floats:
        """Return where unmeasured variables start: the mean of those measured, of flows or of the same property."""
        n, k = self.n_streams, self.n_properties
        measured, value = ~np.isnan(given), np.nan_to_num(given)
        guess = np.empty_like(given)
        for part in [slice(0, n), *[slice(n + i, n * (k + 1), k) for i in range(k)]]:
            number = np.maximum(measured[:, part].sum(axis=1), 1)
            mean = value[:, part].sum(axis=1) / number
            guess[:, part] = np.where(mean == 0.0, 1.0, mean)[:, None]
        return guess

    def _rhs(self, rhs: Any, carried_rhs: Any, n_windows: int) -> Floats:
        """Return right-hand sides by constraint, shape (n_windows, n_rows)."""
        full = np.zeros((n_windows, self.constraints.n_rows))
        m, q = self._n_nodes, self._n_carried
        full[:, self.constraints.n_rows - self._n_whole :] = 1.0
        if rhs is not None:
            full[:, :m] = np.broadcast_to(inputs.as_floats(rhs, "rhs"), (n_windows, m))
        if carried_rhs is not None:
            shape = (n_windows, q, self.n_properties)
            full[:, m : m + q * self.n_properties] = np.broadcast_to(
                inputs.as_floats(carried_rhs, "carried_rhs"), shape
            ).reshape(n_windows, -1)
        return full

    def _bounds(self, bounds: Any) -> tuple[Floats, Floats] | None:
        """Return bounds by variable."""
        if bounds is None:
            return None
        n, k = self.n_streams, self.n_properties
        sides = []
        for side in (0, 1):
            flow = np.broadcast_to(inputs.as_floats(bounds[0][side], "bounds"), (n,))
            carried = np.broadcast_to(inputs.as_floats(bounds[1][side], "bounds"), (n, k))
            sides.append(np.concatenate([flow, carried.ravel()]))
        return inputs.checked_bounds(sides, n * (k + 1))

    def _iterate(self, case: _Case, windows: Ints, tolerance: float, most: int) -> None:
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

    def _mend(self, case: _Case, bounds: tuple[Floats, Floats] | None, tolerance: float, most: int) -> None:
        """Search again, with line search and bounds, in windows that did not converge or left their bounds."""
        outside = case.report[:, 0] == 0.0
        if bounds is not None:
            outside |= ((case.z < bounds[0]) | (case.z > bounds[1])).any(axis=1)
        for k in np.flatnonzero(outside):
            begin = np.where(np.isnan(case.given[k]), self._guess(case.given[k][None])[0], case.given[k])
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
            case.z[k] = found.point
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
    if carry.n_columns != n or n_properties < 1:
        raise BalanceError(f"carried_incidence must have {n} columns and n_properties be at least 1")
    full = np.zeros(n, dtype=bool) if whole is None else np.asarray(whole)
    if full.shape != (n,) or full.dtype != np.bool_:
        raise BalanceError(f"whole must be bool of shape ({n},), got {full.dtype} of {full.shape}")
    constraints = constraints_of(mass, carry, n_properties, same, full)
    return BilinearNetwork(constraints, n, mass.n_rows, carry.n_rows, int(full.sum()))


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


def _spread(std: Any, shape: tuple[int, ...], name: str) -> Floats:
    """Return std of one window's shape or all windows', flat over properties; shape (n_windows or 1, n)."""
    values = inputs.as_floats(std, name)
    one = shape if len(shape) == (1 if name == "flow_std" else 2) else shape[1:]
    if values.shape not in ((), one, shape):
        raise BalanceError(
            f"{name} must have shape {one}" + (f" or {shape}" if one != shape else "") + f", got {values.shape}"
        )
    width = int(np.prod(one))
    return np.broadcast_to(values, one).reshape(1, width) if values.shape in ((), one) else values.reshape(-1, width)
