"""Windows that each have their own std.

Here: `reconcile_each`, which solves windows of one pattern side by side where there are many. Not here: windows that
share their std (network.py). Entered from `reconcile` (reconciliation.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.balance import inputs
from processing.balance.errors import BalanceError
from processing.balance.inputs import Floats, Ints, Matrix, Rows
from processing.balance.network import Network
from processing.balance.patterns import check_for_contradiction, equal_rows
from processing.balance.projection import Projection
from processing.balance.result import Part, Result

TOGETHER = 64
"""From this many windows with std of their own on the compiled factors are worth being loaded."""


def reconcile_each(
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
        for members in equal_rows(np.concatenate([self.usable, self.std == 0.0], axis=1)):
            reconciled[members] = self._solve(members)
        parts = [Part(partial(self._projection, k), np.array([k]), alone=True) for k in range(len(self.values))]
        bounded = [k for k, part in enumerate(parts) if self._keep_inside(k, part, reconciled)]
        return Result(self.values, reconciled, self.rhs, parts, bounded, self.rows.n_rows)

    def _keep_inside(self, window: int, part: Part, reconciled: Floats) -> list[int]:
        """Move one window inside the bounds, in place."""
        return self._network(window).keep_inside(part, self.values, self.rhs, reconciled)

    def _solve(self, members: Ints) -> Floats:
        """Reconcile windows of one pattern: many together, few or badly scaled ones each with its own factors."""
        out = np.empty((len(members), self.values.shape[1]))
        alone = np.arange(len(members))
        if len(members) >= TOGETHER:
            from processing.balance.sparse import project_sparse
            from processing.balance.sparse_system import SMALL_PIVOT

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
