"""One window's least squares: which equations hold in it, the search, and what bounds make of it.

Here: `Balances`. Not here: what the meters say (observation.py), in which steps a window is estimated (estimate.py),
the mathematics (balance/). The main path enters at `Balances.reconcile`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from processing.balance import BalanceError, NonlinearResult, reconcile_nonlinear
from processing.equations import Equations
from processing.meters import Floats, Ints
from processing.observation import Observation

log = logging.getLogger(__name__)

TOLERANCE = 1e-7
"""Steps below this share of the std end the search; the last one leaves balances open by about its square."""

ITERATIONS = 30
"""Linearisations at most."""

BOUND_ROUNDS, LEAVES = 5, 1e-9
"""Rounds in which variables are held at their bounds, and by how much of its typical size one must leave them."""


@dataclass(frozen=True, eq=False)
class Balances:
    """The equations that hold in a window.

    Attributes
    ----------
    equations
        Of the park.
    bound
        Variables that equations hold, shape (n_bound,).
    limits
        Bounds of every variable, low and high, shape (n_variables,) each.
    rows
        Rows of the equations that hold: all but those of leaking nodes, shape (n_kept,).
    """

    equations: Equations
    bound: Ints
    limits: tuple[Floats, Floats]
    rows: Ints

    def reconcile(self, said: Observation, start: Floats, iterations: int = ITERATIONS) -> NonlinearResult | None:
        """Reconcile what the meters say, from `start` of shape (n_variables,); None where that has no answer."""
        bound = self.bound
        return self._solve(said, said.measured[bound], np.sqrt(said.variance[bound]), start, iterations)

    def _solve(
        self, said: Observation, measured: Floats, std: Floats, start: Floats, iterations: int
    ) -> NonlinearResult | None:
        equations, bound, rows = self.equations, self.bound, self.rows
        if not bound.size or not rows.size:
            return None
        linear = equations.with_delays(said.delay_factor)
        x = start.copy()

        def residual(part: Floats) -> Floats:
            x[bound] = part
            return equations.residual(linear, x)[rows]

        def jacobian(part: Floats) -> Floats:
            x[bound] = part
            return equations.jacobian(linear, x)[np.ix_(rows, bound)]

        try:
            return reconcile_nonlinear(
                residual, jacobian, measured, std, start=start[bound], tolerance=TOLERANCE, max_iterations=iterations)
        except BalanceError as error:
            log.debug("no reconciliation: %s", error)
            return None

    def within_limits(self, said: Observation, found: NonlinearResult, start: Floats) -> NonlinearResult:
        """Hold what has left its bounds at them, and reconcile the rest; as found where that has no answer.

        What was held stays held: a flow that would have to come back from its bound has moved by less than its std.
        """
        bound = self.bound
        low, high = (limit[bound] for limit in self.limits)
        measured, std = said.measured[bound].copy(), np.sqrt(said.variance[bound])
        inside = found
        for _ in range(BOUND_ROUNDS):
            value = inside.reconciled
            slack = LEAVES * np.maximum(abs(self.equations.scale[bound]), 1e-12)
            below, above = value < low - slack, value > high + slack
            if not (below | above).any():
                break
            measured[below], measured[above] = low[below], high[above]
            std[below | above] = 0.0
            again = self._solve(said, measured, std, self.full(inside.point, start), ITERATIONS)
            if again is None or not again.converged:
                break
            inside = again
        return inside

    def full(self, part: Floats, rest: Floats) -> Floats:
        """Return all variables, shape (n_variables,): those that equations hold from `part`, the others from `rest`."""
        full = rest.copy()
        full[self.bound] = part
        return full
