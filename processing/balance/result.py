"""What a reconciliation returns: values at once, everything else when first asked for.

Here: `Result`. Not here: how the values were found (network.py), decisions about gross errors (gross.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.balance.inputs import Bools, Floats, Ints
from processing.balance.projection import Projection

VDI_FLOOR = 0.1
"""VDI 2048 Part 1: the variance of an adjustment counts at least one tenth of the variance of the measured value."""


class Part:
    """The windows of one pattern, and its factors.

    Parameters
    ----------
    projection
        The factors, or what makes them when first asked for.
    windows
        Numbers of the windows, shape (n_members,).
    alone
        Whether the factors serve this one window and no other: std of its own, or constraints linearised in it.
    """

    def __init__(
        self, projection: Projection | Callable[[], Projection], windows: Ints, *, alone: bool = False
    ) -> None:
        self._projection = projection
        self.windows = windows
        self.alone = alone

    @cached_property
    def projection(self) -> Projection:
        """The factors."""
        return self._projection() if callable(self._projection) else self._projection


class Result:
    """Reconciled values and what follows from them.

    Shapes: "as measured" is (n_streams,) for one window, (n_windows, n_streams) for many; "per window" is a number
    for one window, (n_windows,) for many. All values are in the unit of their stream.

    Attributes
    ----------
    measured : ndarray
        The values given, as measured.
    reconciled : ndarray
        as measured; NaN where unobservable.
    parts : list of Part
        Windows grouped by which meters had a value.
    """

    def __init__(
        self,
        measured: Floats,
        reconciled: Floats,
        rhs: Floats | None,
        parts: list[Part],
        bounded: Sequence[int] = (),
        n_nodes: int | None = None,
    ) -> None:
        self.measured = measured
        self.reconciled = reconciled if reconciled.shape == measured.shape else reconciled.reshape(measured.shape)
        self.parts = parts
        self._rhs = rhs
        self._bounded = bounded
        self._n_nodes = n_nodes

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return 1 if self.measured.ndim == 1 else len(self.measured)

    @property
    def n_nodes(self) -> int:
        """Number of balances."""
        return self.parts[0].projection.n_nodes if self._n_nodes is None else self._n_nodes

    @property
    def windows(self) -> Floats:
        """The values given, shape (n_windows, n_streams)."""
        return self.measured.reshape(self.n_windows, -1) if self.measured.ndim == 1 else self.measured

    @cached_property
    def bounded(self) -> Ints:
        """Numbers of the windows in which a bound binds, shape (k,)."""
        return np.asarray(self._bounded, dtype=np.int64)

    @cached_property
    def adjustment(self) -> Floats:
        """Reconciled minus measured, as measured; NaN where unmeasured."""
        return self.reconciled - self.measured

    @cached_property
    def std(self) -> Floats:
        """Std of the reconciled values, as measured; NaN where unobservable.

        Notes
        -----
        Of the problem without bounds: a bound that binds makes the value surer, by how much depends on the reading.
        """
        return self._per_stream(lambda p: p.std)

    @cached_property
    def adjustment_std(self) -> Floats:
        """Std that the adjustments of error-free meters have, as measured; NaN where unmeasured."""
        return self._per_stream(lambda p: p.adjustment_std)

    @cached_property
    def redundant(self) -> Bools:
        """Measured, and still determined if its own meter is taken away; bool, as measured."""
        return self._per_stream(lambda p: p.redundant)

    @cached_property
    def observable(self) -> Bools:
        """Measured, or computable from the other meters and the balances; bool, as measured."""
        return self._per_stream(lambda p: p.observable)

    @cached_property
    def imbalance(self) -> Floats:
        """What the raw values leave open at each node, A y - b, shape (n_nodes,) or (n_windows, n_nodes).

        NaN at nodes with an unmeasured stream.
        """
        full = np.empty((self.n_windows, self.n_nodes))
        for part in self.parts:
            full[part.windows] = np.where(part.projection.open_nodes, np.nan, self.residual(part))
        return full[0] if self.measured.ndim == 1 else full

    @cached_property
    def nodal_test(self) -> Floats:
        """|imbalance| over its std, shape (n_nodes,) or (n_windows, n_nodes); NaN at nodes with an unmeasured stream.

        Standard normal in magnitude without gross errors (Mah, Stanley, Downing 1976); a leak shows at its node, a bias
        at both ends of its stream.
        """
        spread = np.empty((self.n_windows, self.n_nodes))
        for part in self.parts:
            spread[part.windows] = part.projection.imbalance_std
        with np.errstate(divide="ignore", invalid="ignore"):
            test = abs(self.imbalance) / spread.reshape(self.imbalance.shape)
        return np.where(spread.reshape(test.shape) > 0, test, np.nan)

    @cached_property
    def global_test(self) -> Any:
        """Weighted sum of squares of the adjustments, per window; chi-square distributed without gross errors."""
        total = np.empty(self.n_windows)
        for part in self.parts:
            total[part.windows] = part.projection.objective(self.residual(part))
            moved = np.intersect1d(self.bounded, part.windows)
            if moved.size:
                step = self.adjustment.reshape(len(total), -1)[moved]
                total[moved] = part.projection.objective_of(np.where(part.projection.measured, step, 0.0))
        return float(total[0]) if self.measured.ndim == 1 else total

    @cached_property
    def degrees_of_freedom(self) -> Any:
        """Independent balances among measured streams with a positive std, per window."""
        number = np.empty(self.n_windows, dtype=np.int64)
        for part in self.parts:
            number[part.windows] = part.projection.degrees_of_freedom
        return int(number[0]) if self.measured.ndim == 1 else number

    @cached_property
    def measurement_test(self) -> Floats:
        """|adjustment| / std(adjustment), as measured; NaN where nothing can be tested (not redundant).

        Standard normal in magnitude without gross errors (Mah & Tamhane 1982, Almasy & Sztano 1975).
        """
        test = np.empty((self.n_windows, self.measured.shape[-1]))
        reconciled = self.reconciled.reshape(test.shape)
        for part in self.parts:
            k = part.windows
            test[k] = part.projection.adjustment_test(self.residual(part), self.windows[k], reconciled[k])
        if self.bounded.size:
            test[self.bounded] = self._over_std(0.0).reshape(test.shape)[self.bounded]
        return test[0] if self.measured.ndim == 1 else test

    @cached_property
    def local_test(self) -> Floats:
        """The measurement test of VDI 2048, as measured: |a| / sqrt(max(var a, var y / 10)); NaN where unmeasured."""
        return self._over_std(VDI_FLOOR)

    def multipliers(self) -> Floats:
        """Return the multipliers of the balances, shape (n_nodes,) or (n_windows, n_nodes)."""
        full = np.empty((self.n_windows, self.n_nodes))
        for part in self.parts:
            full[part.windows] = part.projection.multipliers(self.residual(part))
        return full[0] if self.measured.ndim == 1 else full

    def covariance(self, window: int = 0) -> Floats:
        """Return the covariance of one window's reconciled values, shape (n_streams, n_streams)."""
        for part in self.parts:
            if window in part.windows:
                return part.projection.covariance_of(np.arange(self.measured.shape[-1]))
        raise IndexError(f"window {window} of {self.n_windows}")

    def residual(self, part: Part) -> Floats:
        """Return A y - b with zero for unmeasured streams, shape (n_members, n_nodes)."""
        return part.projection.residual(*self.given(part))

    def given(self, part: Part) -> tuple[Floats, Floats | None]:
        """Return y, shape (n_members, n_streams), and b, shape (n_members, n_nodes) or None; not copied if in a row."""
        numbers = part.windows
        rows: Any = numbers
        if len(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers):     # they ascend
            rows = slice(numbers[0], numbers[-1] + 1)
        return self.windows[rows], None if self._rhs is None else self._rhs[rows]

    def _over_std(self, floor: float) -> Floats:
        """Divide |adjustment| by its std, the variance no smaller than `floor` times that of the measured value."""
        spread = self.adjustment_std
        if floor:
            prior = self._per_stream(lambda p: p.prior_variance)
            spread = np.sqrt(np.maximum(spread**2, floor * prior))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(spread > 0, abs(self.adjustment) / spread, np.nan)

    def _per_stream(self, of: Any) -> npt.NDArray[Any]:
        """Spread a value per stream and pattern over the windows of that pattern."""
        if self.measured.ndim == 1:
            own = np.asarray(of(self.parts[0].projection)).view()
            own.flags.writeable = False         # it is that of all other windows too
            return own
        if len(self.parts) == 1:
            return np.broadcast_to(of(self.parts[0].projection), self.measured.shape)
        values = [np.asarray(of(part.projection)) for part in self.parts]
        full = np.empty(self.measured.shape, dtype=values[0].dtype if values else float)
        for part, value in zip(self.parts, values, strict=True):
            full[part.windows] = value
        return full
