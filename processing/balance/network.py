"""A network made ready once, and the reconciliation of any number of windows with it.

Here: `prepare`, `reconcile`, `Network`, and the grouping of windows by which meters are silent: each pattern of
silent meters has its own projection, made on first use and kept. Not here: the factors (dense.py, sparse.py), what
is derived from a reconciliation (result.py), bounds that bind (bounds.py). The main path: `Network.reconcile`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.balance import inputs
from processing.balance.bounds import move_inside
from processing.balance.dense import DenseProjection, project
from processing.balance.errors import BalanceError, ContradictionError
from processing.balance.inputs import Bools, Floats, Ints, Matrix, Rows
from processing.balance.result import Part, Result

PATTERNS_KEPT = 256
"""Projections kept for patterns of silent meters; beyond it the one unused for longest goes."""


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
        self._matrix = incidence.dense()
        self._root, self._known = root_of(std, covariance, incidence.n_columns)
        self._projections: OrderedDict[bytes, DenseProjection] = OrderedDict()

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
        spread = np.sqrt((self._root**2).sum(axis=1))
        return np.where(self._known, spread, np.inf)

    def reconcile(self, measured: npt.ArrayLike, *, rhs: npt.ArrayLike | None = None) -> Result:
        """Reconcile one window or many.

        Parameters
        ----------
        measured
            shape (n_streams,) or (n_windows, n_streams) [unit of the stream]; NaN where unmeasured.
        rhs
            What each balance adds up to, such as hold-up, shape (n_nodes,) or (n_windows, n_nodes); default zero.

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
        values = inputs.measured_windows(measured, self.n_streams)
        windows = values.reshape(-1, self.n_streams)
        given = inputs.checked_rhs(rhs, self.n_nodes, None if values.ndim == 1 else len(windows))
        right = np.zeros((len(windows), self.n_nodes))
        if given is not None:
            right[:] = given
        reconciled = np.empty_like(windows)
        parts: list[Part] = []
        bounded: list[int] = []
        for members, usable in patterns_of(~np.isnan(windows) & self._known):
            part = Part(self.projection(usable), members)
            reconciled[members] = _solve(part, windows[members], right[members])
            bounded += self._keep_inside(part, reconciled)
            parts.append(part)
        return Result(values, reconciled, right, parts, bounded)

    def projection(self, usable: Bools) -> DenseProjection:
        """Return the projection for one pattern of usable meters, bool, shape (n_streams,); kept for later."""
        key = np.packbits(usable).tobytes()
        if key not in self._projections:
            self._projections[key] = project(self._matrix, usable, self._root)
            if len(self._projections) > PATTERNS_KEPT:
                self._projections.popitem(last=False)
        self._projections.move_to_end(key)
        return self._projections[key]

    def _keep_inside(self, part: Part, reconciled: Floats) -> list[int]:
        """Move the windows of one part inside the bounds, in place; return the numbers of those moved."""
        if self.bounds is None:
            return []
        low, high = self.bounds
        values = reconciled[part.windows]
        moved: list[int] = part.windows[((values < low) | (values > high)).any(axis=1)].tolist()
        for k in moved:
            reconciled[k] = move_inside(reconciled[k], self.bounds, part.projection.covariance_of, k)
        return moved


def _solve(part: Part, values: Floats, rhs: Floats) -> Floats:
    """Reconcile the windows of one pattern, shape (n_members, n_streams)."""
    known = np.where(part.projection.measured, values, 0.0)
    check_for_contradiction(part.projection, known, rhs, part.windows)
    return part.projection.solve(known, rhs)


def check_for_contradiction(projection: DenseProjection, known: Floats, rhs: Floats, members: Ints) -> None:
    """Refuse windows whose balances are open where nothing can be adjusted."""
    found = projection.contradiction(known, rhs)
    if found is not None:
        window, nodes, left = found
        raise ContradictionError(
            f"window {members[window]}: the balances of nodes {nodes} leave {left:.6g} open and no stream with a "
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
    right = np.broadcast_to(np.zeros(rows.n_rows) if right is None else right, (len(values), rows.n_rows))
    limits = inputs.checked_bounds(bounds, rows.n_columns)
    reconciled = np.empty_like(values)
    parts: list[Part] = []
    bounded: list[int] = []
    for members in _equal_rows(spread):
        found = Network(rows, spread[members[0]], None, limits).reconcile(values[members], rhs=right[members])
        reconciled[members] = found.reconciled
        parts += [Part(part.projection, members[part.windows]) for part in found.parts]
        bounded += members[found.bounded].tolist()
    return Result(values, reconciled, right, parts, bounded)


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


def root_of(std: Floats | None, covariance: Rows | None, n: int) -> tuple[Floats, Bools]:
    """Return C with V = C C', shape (n,) if diagonal, else (n, n), and which streams have a finite std."""
    if std is not None:
        known = np.isfinite(std)
        return np.where(known, std, 0.0), known
    assert covariance is not None
    full = covariance.dense()
    known = np.isfinite(np.diagonal(full))
    full[~known] = 0.0
    full[:, ~known] = 0.0
    if not np.isfinite(full).all():
        raise BalanceError("covariance between two streams of finite std must be finite")
    size = np.sqrt(np.diagonal(full))
    scale = np.where(size > 0, size, 1.0)
    value, vector = np.linalg.eigh(full / np.outer(scale, scale))
    if value.min(initial=0.0) < -1e-9:
        raise BalanceError(
            f"covariance must be positive semidefinite, smallest eigenvalue of correlations {value.min():.3g}"
        )
    return scale[:, None] * vector * np.sqrt(np.maximum(value, 0.0)), known
