"""A network made ready once, and the reconciliation of any number of windows with it.

Here: `prepare` and `Network`; each pattern of silent meters has its own projection, made on first use and kept. Not
here: `reconcile`, everything in one call (reconciliation.py), the factors (dense.py, sparse.py), what is derived from
a reconciliation (result.py), bounds that bind (bounds.py). The main path: `Network.reconcile`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.balance import hidden, inputs
from processing.balance.bounds import move_inside
from processing.balance.dense import DenseProjection, project
from processing.balance.errors import BalanceError
from processing.balance.inputs import Bools, Floats, Ints, Matrix, Rows
from processing.balance.patterns import check_for_contradiction, patterns_of
from processing.balance.projection import Projection
from processing.balance.result import Part, Result
from processing.balance.uncertainty import known_of, root_of, sparse_covariance

PATTERNS_KEPT = 256
"""Projections kept for patterns of silent meters; beyond it the one unused for longest goes."""

DENSE_STREAMS = 256
"""Up to this many streams dense factors are as fast and know more digits; no kernel need be loaded."""

DENSE_ENTRIES = 4_000_000
"""Balances times streams up to which a network too badly scaled for normal equations is factored densely."""


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
            shape (n_streams,) or (n_windows, n_streams) [unit of the stream]; NaN where unmeasured. Many windows are
            not copied: adjustments and tests, computed when first asked for, are of what stands there then.
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
        if threads < 1:
            raise BalanceError(f"threads must be at least 1, got {threads}")
        values = inputs.measured_windows(measured, self.n_streams)
        if values.ndim == 1 or (out is not None and np.may_share_memory(values, out)):
            values = values.copy()      # whoever reads one window after another may use its memory again
        windows = values.reshape(-1, self.n_streams)
        right = inputs.checked_rhs(rhs, self.n_nodes, None if values.ndim == 1 else len(windows))
        if right is not None:
            right = np.broadcast_to(right, (len(windows), self.n_nodes))
        memory = _memory(out, values, windows.shape)
        parts = self._solved_together(windows, right, threads, memory)
        if not parts:
            parts = [Part(self.projection(usable), members) for members, usable in self._patterns(windows)]
            memory = _solved(parts, windows, right, threads, memory)
        bounded = [k for part in parts for k in self.keep_inside(part, windows, right, memory)]
        if values.ndim == 1 and self.bounds is None:
            self._remember(parts[0])
        return Result(values, memory, right, parts, bounded, self.n_nodes)

    def _solved_together(self, windows: Floats, rhs: Floats | None, threads: int, out: Floats) -> list[Part]:
        """Reconcile windows of a large network into `out` as if none had a gap; no part where one had, or may have.

        The kernels notice a gap as they pass: to look for one first takes a third of the time of reconciling.
        """
        if self.n_streams <= DENSE_STREAMS or len(windows) < 2 or np.may_share_memory(windows, out):
            return []
        if not np.isfinite(windows[[0, len(windows) // 2, -1]]).all():
            return []
        from processing.balance.sparse_system import SparseSystem

        part = Part(self.projection(self._known), np.arange(len(windows)))
        if not isinstance(part.projection, SparseSystem) or not part.projection.solve_finite(
            windows, rhs, threads, out
        ):
            return []
        check_for_contradiction(part, windows, rhs)
        return [part]

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

    def keep_inside(self, part: Part, given: Floats, rhs: Floats | None, reconciled: Floats) -> list[int]:
        """Move the windows of one part inside the bounds, in place; return the numbers of those moved."""
        if self.bounds is None:
            return []
        if hidden.has_hidden(self, part.projection):
            return hidden.keep_inside(self, part, given, rhs, reconciled)
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
        own = measured.copy()
        with np.errstate(over="ignore", invalid="ignore"):
            if not math.isfinite(own.dot(own)):
                return None
        return Result(own, gain @ own, None, parts, (), self.incidence.n_rows)


def _memory(out: Floats | None, values: Floats, shape: tuple[int, ...]) -> Floats:
    """Return where to put reconciled values, shape (n_windows, n_streams)."""
    if out is None:
        return np.empty(shape)
    if not isinstance(out, np.ndarray):
        raise BalanceError(f"out must be a numpy array, got {type(out).__name__}")
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
