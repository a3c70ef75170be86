"""A network made ready once, and the reconciliation of any number of windows with it.

Here: `prepare`, `reconcile`, `Network`, and the grouping of windows by which meters are silent: each pattern of
silent meters has its own projection, made on first use and kept. Not here: the factors (dense.py, sparse.py), what
is derived from a reconciliation (result.py), bounds that bind (bounds.py). The main path: `Network.reconcile`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.balance import inputs
from processing.balance.bounds import move_inside
from processing.balance.dense import DenseProjection, project
from processing.balance.errors import BalanceError, ContradictionError
from processing.balance.inputs import Bools, Floats, Ints, Matrix, Rows
from processing.balance.projection import Projection
from processing.balance.result import Part, Result
from processing.balance.uncertainty import known_of, root_of, sparse_covariance

PATTERNS_KEPT = 256
"""Projections kept for patterns of silent meters; beyond it the one unused for longest goes."""

DENSE_STREAMS = 256
"""Up to this many streams dense factors are as fast and know more digits; no kernel need be loaded."""

DENSE_ENTRIES = 4_000_000
"""Balances times streams up to which a network too badly scaled for normal equations is factored densely."""


TOGETHER = 64
"""From this many windows with std of their own on the compiled factors are worth being loaded."""


class Network:
    """Everything about a network that does not depend on the readings.

    Made by `prepare`; see there for the parameters.

    Attributes
    ----------
    incidence : Rows
        The balances, shape (n_nodes, n_streams).
    std : ndarray or None
        Prior std, shape (n_streams,) [unit of the stream]; None where a covariance was given.
    covariance : Rows or None
        Prior covariance where meters are correlated.
    bounds : tuple of ndarray or None
        (low, high), each shape (n_streams,) [unit of the stream].
    """

    def __init__(
        self,
        incidence: Rows,
        std: Floats | None,
        covariance: Rows | None,
        bounds: tuple[Floats, Floats] | None,
    ) -> None:
        self.incidence = incidence
        self.std = std
        self.bounds = bounds
        self.covariance = covariance
        self._known = known_of(std, covariance)
        self._all_known = bool(self._known.all())
        self._projections: OrderedDict[bytes, Projection] = OrderedDict()
        self._quick: tuple[Floats, list[Part]] | None = None

    @property
    def n_nodes(self) -> int:
        """Number of balances."""
        return self.incidence.n_rows

    @property
    def n_streams(self) -> int:
        """Number of streams."""
        return self.incidence.n_columns

    @property
    def std_by_stream(self) -> Floats:
        """Prior std of every stream, shape (n_streams,); infinite where it tells nothing."""
        if self.std is not None:
            return self.std
        assert self.covariance is not None
        diagonal = self.covariance.row_of_entry() == self.covariance.index
        variance = np.zeros(self.n_streams)
        variance[self.covariance.index[diagonal]] = self.covariance.value[diagonal]
        return np.where(self._known, np.sqrt(np.where(self._known, variance, 0.0)), np.inf)

    def without_bounds(self) -> Network:
        """Return the network without its bounds."""
        return Network(self.incidence, self.std, self.covariance, None) if self.bounds else self

    def reconcile(
        self,
        measured: npt.ArrayLike,
        *,
        rhs: npt.ArrayLike | None = None,
        threads: int = 1,
        out: Floats | None = None,
    ) -> Result:
        """Reconcile one window or many.

        Parameters
        ----------
        measured
            shape (n_streams,) or (n_windows, n_streams) [unit of the stream]; NaN where unmeasured.
        rhs
            What each balance adds up to, such as hold-up, shape (n_nodes,) or (n_windows, n_nodes); default zero.
        threads
            How many threads share many windows of a large network.
        out
            Where the reconciled values go, float64 of the shape of `measured`; default new memory, whose first touch
            takes as long as reconciling a window of a sparse network.

        Returns
        -------
        Result
            Its arrays have the shape of `measured`.

        Raises
        ------
        BalanceError
            If a shape does not fit or a value is infinite.
        ContradictionError
            If balances that cannot be adjusted are not met, or no values within the bounds meet them all.
        """
        if self._quick is not None and rhs is None and out is None and type(measured) is np.ndarray:
            quick = self._reconcile_quickly(measured)
            if quick is not None:
                return quick
        values = inputs.measured_windows(measured, self.n_streams)
        windows = values.reshape(-1, self.n_streams)
        right = inputs.checked_rhs(rhs, self.n_nodes, None if values.ndim == 1 else len(windows))
        if right is not None:
            right = np.broadcast_to(right, (len(windows), self.n_nodes))
        parts = [Part(self.projection(usable), members) for members, usable in self._patterns(windows)]
        reconciled = _solved(parts, windows, right, threads, _memory(out, values, windows.shape))
        bounded = [k for part in parts for k in self.keep_inside(part, reconciled)]
        if values.ndim == 1 and self.bounds is None:
            self._remember(parts[0])
        return Result(values, reconciled, right, parts, bounded, self.n_nodes)

    def projection(self, usable: Bools) -> Projection:
        """Return the projection for one pattern of usable meters, bool, shape (n_streams,); kept for later."""
        key = np.packbits(usable).tobytes()
        if key not in self._projections:
            self._projections[key] = self._project(usable)
            if len(self._projections) > PATTERNS_KEPT:
                self._projections.popitem(last=False)
        self._projections.move_to_end(key)
        return self._projections[key]

    def _project(self, usable: Bools) -> Projection:
        """Factor one pattern: densely where small or badly scaled, else sparsely."""
        if self.n_streams > DENSE_STREAMS:
            from processing.balance.sparse import SparseProjection

            sparse = SparseProjection(self.incidence, usable, *self._sparse_covariance)
            if not sparse.doubtful or self.n_nodes * self.n_streams > DENSE_ENTRIES:
                return sparse
        return project(self._matrix, usable, self._root)

    @cached_property
    def _matrix(self) -> Floats:
        """The balances written out."""
        return self.incidence.dense()

    @cached_property
    def _root(self) -> Floats:
        """C with V = C C'."""
        return root_of(self.std, self.covariance)[0]

    @cached_property
    def _sparse_covariance(self) -> tuple[Any, Any]:
        """V and its root, as scipy.sparse; zero where nothing is known."""
        return sparse_covariance(self.std, self.covariance, self._known)

    def _patterns(self, windows: Floats) -> list[tuple[Ints, Bools]]:
        """Group windows by usable meters."""
        usable = np.isfinite(windows)
        if usable.all():
            return [(np.arange(len(windows)), self._known)] if len(windows) else []
        if np.isinf(windows).any():
            raise BalanceError(inputs.infinite(windows))
        return patterns_of(usable if self._all_known else usable & self._known)

    def keep_inside(self, part: Part, reconciled: Floats) -> list[int]:
        """Move the windows of one part inside the bounds, in place; return the numbers of those moved."""
        if self.bounds is None:
            return []
        low, high = self.bounds
        values = reconciled[part.windows]
        moved: list[int] = part.windows[((values < low) | (values > high)).any(axis=1)].tolist()
        for k in moved:
            reconciled[k] = move_inside(reconciled[k], self.bounds, part.projection.covariance_of, k)
        return moved

    def _remember(self, part: Part) -> None:
        """Keep the gain of a small network with all its meters for the quick path."""
        projection = part.projection
        if isinstance(projection, DenseProjection) and self._all_known and projection.measured.all():
            self._quick = (projection.gain, [part]) if not projection.depend.any() else None

    def _reconcile_quickly(self, measured: Floats) -> Result | None:
        """Reconcile one window of a small network with all its meters; None where it is not that."""
        assert self._quick is not None
        gain, parts = self._quick
        if measured.shape != (len(gain),) or measured.dtype != np.float64:
            return None
        if not math.isfinite(measured.dot(measured)):
            return None
        return Result(measured, gain @ measured, None, parts, (), self.incidence.n_rows)


def _memory(out: Floats | None, values: Floats, shape: tuple[int, ...]) -> Floats:
    """Return where to put reconciled values, shape (n_windows, n_streams)."""
    if out is None:
        return np.empty(shape)
    if out.shape != values.shape or out.dtype != np.float64 or not out.flags.c_contiguous:
        raise BalanceError(f"out must be float64, contiguous and of shape {values.shape}, got {out.dtype} {out.shape}")
    return out.reshape(shape)


def _solved(parts: list[Part], values: Floats, rhs: Floats | None, threads: int, out: Floats) -> Floats:
    """Reconcile windows part by part into `out`, shape (n_windows, n_streams)."""
    if len(parts) == 1:
        check_for_contradiction(parts[0], values, rhs)
        return parts[0].projection.solve(values, rhs, threads, out)
    for part in parts:
        some, right = values[part.windows], None if rhs is None else rhs[part.windows]
        check_for_contradiction(part, some, right)
        out[part.windows] = part.projection.solve(some, right, threads)
    return out


def check_for_contradiction(part: Part, values: Floats, rhs: Floats | None) -> None:
    """Refuse windows whose balances are open where nothing can be adjusted."""
    found = part.projection.contradiction(values, rhs)
    if found is not None:
        window, nodes, left = found
        raise ContradictionError(
            f"window {part.windows[window]}: the balances of nodes {nodes} leave {left:.6g} open and no stream with a "
            "positive std can take it up"
        )


def prepare(
    incidence: Matrix,
    std: npt.ArrayLike | None = None,
    *,
    covariance: Matrix | None = None,
    bounds: Sequence[npt.ArrayLike] | None = None,
) -> Network:
    """Make a network ready: everything that does not depend on the readings is computed once.

    Parameters
    ----------
    incidence
        The balances A of A x = rhs, shape (n_nodes, n_streams), dense or scipy.sparse, any real coefficients.
    std
        Standard deviations of the meters, shape (n_streams,) [unit of the stream], or one for all. Zero: the value
        is exact and stays. Infinite or NaN: it tells nothing, as if unmeasured.
    covariance
        Instead of `std`, for correlated meters: shape (n_streams, n_streams), positive semidefinite.
    bounds
        (low, high), each shape (n_streams,) or one number for all; NaN or infinite where there is none.

    Returns
    -------
    Network

    Raises
    ------
    BalanceError
        If shapes do not fit, numbers are not finite, a std is negative, or both or neither of `std` and
        `covariance` are given.

    Examples
    --------
    >>> from processing.balance import prepare
    >>> network = prepare([[1, -1, -1]], std=[0.2, 0.1, 0.1])
    >>> network.reconcile([10.3, 6.0, 4.0]).reconciled.round(3).tolist()
    [10.1, 6.05, 4.05]
    """
    rows = inputs.rows_of(incidence, "incidence")
    limits = inputs.checked_bounds(bounds, rows.n_columns)
    spread, correlated = inputs.checked_uncertainty(std, covariance, rows.n_columns)
    if spread is not None and spread.ndim == 2:
        raise BalanceError("prepare takes one std a stream; give std by window to reconcile")
    return Network(rows, spread, correlated, limits)


def reconcile(
    incidence: Matrix,
    measured: npt.ArrayLike,
    std: npt.ArrayLike | None = None,
    *,
    covariance: Matrix | None = None,
    rhs: npt.ArrayLike | None = None,
    bounds: Sequence[npt.ArrayLike] | None = None,
) -> Result:
    """Adjust measured values as little as their std allow so that every balance closes.

    Weighted least squares over one window or many: minimise (x - y)' V^-1 (x - y) subject to A x = rhs and the
    bounds. Streams without a value are computed from the balances where these determine them.

    Parameters
    ----------
    incidence
        The balances A, shape (n_nodes, n_streams), dense or scipy.sparse, any real coefficients.
    measured
        y, shape (n_streams,) or (n_windows, n_streams) [unit of the stream]; NaN where unmeasured.
    std
        shape (n_streams,) or the shape of `measured` [unit of the stream]; zero: exact; infinite: tells nothing.
    covariance
        Instead of `std`: V, shape (n_streams, n_streams).
    rhs
        shape (n_nodes,) or (n_windows, n_nodes): what each balance adds up to (hold-up); default zero.
    bounds
        (low, high), each shape (n_streams,) or one number for all.

    Returns
    -------
    Result
        `reconciled`, `std`, `adjustment`, `global_test`, `degrees_of_freedom`, `measurement_test` and more, each
        computed when first asked for.

    Raises
    ------
    BalanceError
        If the arrays do not make a reconciliation problem.
    ContradictionError
        If values without uncertainty contradict each other, or no values within the bounds meet every balance.

    Notes
    -----
    All streams measured: x = y - V A' (A V A')^-1 (A y - b). Unmeasured streams are projected out first (Crowe et
    al. 1983), dependent balances are recognised and left out.

    References
    ----------
    Crowe, Garcia Campos, Hrymak (1983), AIChE J. 29, 881. Narasimhan, Jordache (2000), Data Reconciliation and Gross
    Error Detection. Madron (1992), Process Plant Performance. VDI 2048 Part 1.

    Examples
    --------
    >>> from processing.balance import reconcile
    >>> result = reconcile([[1, -1, 0], [0, 1, -1]], [10.2, 9.9, float("nan")], std=0.1)
    >>> result.reconciled.round(3).tolist()
    [10.05, 10.05, 10.05]
    """
    if std is not None and np.ndim(std) == 2 and np.shape(std)[0] != 1:
        return _reconcile_each(incidence, measured, std, rhs, bounds)
    single = std if std is None or np.ndim(std) < 2 else np.asarray(std, dtype=float)[0]
    return prepare(incidence, single, covariance=covariance, bounds=bounds).reconcile(measured, rhs=rhs)


def _reconcile_each(
    incidence: Matrix, measured: npt.ArrayLike, std: npt.ArrayLike, rhs: npt.ArrayLike | None, bounds: Any
) -> Result:
    """Reconcile windows that each have their own std."""
    rows = inputs.rows_of(incidence, "incidence")
    values = inputs.measured_windows(measured, rows.n_columns)
    spread = inputs.checked_std(std, rows.n_columns)
    if spread.shape != values.shape:
        raise BalanceError(f"std by window must have the shape of measured, {values.shape}, got {spread.shape}")
    right = inputs.checked_rhs(rhs, rows.n_rows, len(values))
    right = right if right is None else np.broadcast_to(right, (len(values), rows.n_rows))
    limits = inputs.checked_bounds(bounds, rows.n_columns)
    return _Varying(rows, values, spread, right, limits).result()


class _Varying:
    """Windows that each have their own std."""

    def __init__(
        self, rows: Rows, values: Floats, std: Floats, rhs: Floats | None, bounds: tuple[Floats, Floats] | None
    ) -> None:
        self.rows, self.values, self.std, self.rhs, self.bounds = rows, values, std, rhs, bounds
        if np.isinf(values).any():
            raise BalanceError(inputs.infinite(values))
        self.usable = np.isfinite(values) & np.isfinite(std)

    def result(self) -> Result:
        """Reconcile, windows of like pattern together; factors for tests and std are made when asked for."""
        reconciled = np.empty_like(self.values)
        for members in _equal_rows(np.concatenate([self.usable, self.std == 0.0], axis=1)):
            reconciled[members] = self._solve(members)
        parts = [Part(partial(self._projection, k), np.array([k])) for k in range(len(self.values))]
        bounded = [k for k, part in enumerate(parts) if self._network(k).keep_inside(part, reconciled)]
        return Result(self.values, reconciled, self.rhs, parts, bounded, self.rows.n_rows)

    def _solve(self, members: Ints) -> Floats:
        """Reconcile windows of one pattern: many together, few or badly scaled ones each with its own factors."""
        out = np.empty((len(members), self.values.shape[1]))
        alone = np.arange(len(members))
        if len(members) >= TOGETHER:
            from processing.balance.sparse import SMALL_PIVOT, project_sparse

            first = members[0]
            pattern = project_sparse(self.rows, self.usable[first], self.std[first])
            rhs = None if self.rhs is None else self.rhs[members]
            check_for_contradiction(Part(pattern, members), self.values[members], rhs)
            out, least = pattern.solve_varying(self.values[members], rhs, self.std[members])
            alone = np.flatnonzero(~(least > SMALL_PIVOT))
        for k in alone:
            window = int(members[k])
            found = self._network(window, bounded=False).reconcile(
                self.values[window], rhs=None if self.rhs is None else self.rhs[window]
            )
            out[k] = found.reconciled
        return out

    def _network(self, window: int, *, bounded: bool = True) -> Network:
        """Return the network as it is in one window."""
        return Network(self.rows, self.std[window], None, self.bounds if bounded else None)

    def _projection(self, window: int) -> Projection:
        """Return the factors of one window."""
        return self._network(window).projection(self.usable[window])


def patterns_of(usable: Bools) -> list[tuple[Ints, Bools]]:
    """Group windows with the same usable meters: (window numbers, the pattern), in order of first appearance."""
    if len(usable) == 0:
        return []
    if (usable == usable[0]).all():
        return [(np.arange(len(usable)), usable[0])]
    return [(members, usable[members[0]]) for members in _equal_rows(np.packbits(usable, axis=1))]


def _equal_rows(table: npt.NDArray[Any]) -> list[Ints]:
    """Row numbers of `table` grouped by equal rows."""
    groups: dict[bytes, list[int]] = {}
    for k, row in enumerate(np.ascontiguousarray(table)):
        groups.setdefault(row.tobytes(), []).append(k)
    return [np.array(members) for members in groups.values()]
