"""What a bilinear reconciliation returns: values at once, everything else when first asked for.

Here: `BilinearResult`. Not here: how the values were found (bilinear.py), what follows from one linearised window
(result.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.balance.bilinear_case import Case
from processing.balance.inputs import Floats
from processing.balance.result import Result


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

    def __init__(self, case: Case, n_streams: int, linearise: Callable[[int], Result]) -> None:
        self._case, self._n_streams, self._linearise = case, n_streams, linearise
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
            self._linear[window] = self._linearise(window)
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
        flows = values[:, : self._n_streams]
        return flows[0] if self._case.single else flows

    def _properties(self, values: Floats) -> Floats:
        """Return the properties among values by variable."""
        n = self._n_streams
        carried = values[:, n:].reshape(len(values), n, -1)
        return carried[0] if self._case.single else carried

    def _per_window(self, values: npt.NDArray[Any]) -> Any:
        """Return a number for one window."""
        return values[0].item() if self._case.single else values
