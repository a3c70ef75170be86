"""Reconciliation with any smooth constraints g(x) = 0: flows times enthalpies, compositions, losses, hold-up.

Here: `reconcile_nonlinear`, successive linearisation with a line search; each step is one linear reconciliation
(dense.py), so that unmeasured variables, dependent constraints, correlated meters and bounds need nothing of their
own. Not here: which equations a park has (the caller's), the faster special case of components (bilinear.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from processing.balance import inputs
from processing.balance.bounds import move_inside
from processing.balance.dense import DenseProjection, project
from processing.balance.errors import BalanceError, ContradictionError
from processing.balance.inputs import Bools, Floats, Matrix
from processing.balance.result import Part, Result
from processing.balance.uncertainty import root_of

HALVINGS = 12
"""Halvings of a step that does not improve; after 2^-12 the direction itself is at fault."""

ROUNDING = 1e-5
"""Below this share of the std, steps that no longer fall are rounding: readings far apart in size cost digits."""

SMALL_STEP = 1e-6
"""Below this share of the std a step is taken whole: the merit can no longer tell steps apart."""


class NonlinearResult(Result):
    """A `Result` of one window, linearised where it came to rest, and how it came there.

    Everything of `Result` holds: `std`, `adjustment`, `global_test`, `degrees_of_freedom`, `measurement_test`,
    `redundant`, `observable`, `covariance()` are those of the linearised constraints.

    Attributes
    ----------
    converged : bool
        Whether steps and constraints fell below the tolerance, or steps as far as rounding lets them.
    iterations : int
        Linearisations made.
    point : ndarray
        All variables where the search ended, shape (n_variables,) [unit of the variable]; unobservable ones are as
        near to the start as the constraints allow, where `reconciled` has NaN.
    constraint_residual : ndarray
        g(point), shape (n_constraints,).
    jacobian : ndarray
        dg/dx at the point, shape (n_constraints, n_variables).
    """

    def __init__(self, search: _Search, projection: DenseProjection, converged: bool, iterations: int) -> None:
        at = search.state
        values = np.where(projection.observable, at.point, np.nan)
        super().__init__(
            search.measured,
            values,
            (at.jacobian @ at.point - at.residual)[None],
            [Part(projection, np.zeros(1, dtype=np.int64), alone=True)],
            (0,) if search.bounded else (),
        )
        self.converged = converged
        self.iterations = iterations
        self.point = at.point
        self.constraint_residual = at.residual
        self.jacobian = at.jacobian


@dataclass(frozen=True, eq=False)
class _State:
    """A point with its constraints; `size` is the sum of |terms| of each constraint, shape (n_constraints,)."""

    point: Floats
    residual: Floats
    jacobian: Floats
    size: Floats


def reconcile_nonlinear(
    constraints: Callable[[Floats], npt.ArrayLike],
    jacobian: Callable[[Floats], Matrix],
    measured: npt.ArrayLike,
    std: npt.ArrayLike | None = None,
    *,
    covariance: Matrix | None = None,
    start: npt.ArrayLike | None = None,
    bounds: Sequence[npt.ArrayLike] | None = None,
    tolerance: float = 1e-9,
    max_iterations: int = 50,
) -> NonlinearResult:
    """Adjust one window's values as little as their std allow so that g(x) = 0.

    Parameters
    ----------
    constraints
        g: x of shape (n_variables,) -> shape (n_constraints,); any units, each row is scaled by its own terms.
    jacobian
        dg/dx: x of shape (n_variables,) -> shape (n_constraints, n_variables), dense or scipy.sparse.
    measured
        y, shape (n_variables,) [unit of the variable]; NaN where unmeasured.
    std
        shape (n_variables,) [unit of the variable]; zero: exact; infinite or NaN: tells nothing.
    covariance
        Instead of `std`: shape (n_variables, n_variables).
    start
        Where the search starts, shape (n_variables,) [unit of the variable]; NaN: at the measured value. Needed for
        unmeasured variables.
    bounds
        (low, high), each shape (n_variables,) or one number for all.
    tolerance
        Steps below this share of the std (of the value, where unmeasured) and constraints below this share of
        their terms end the search.
    max_iterations
        Linearisations at most.

    Returns
    -------
    NonlinearResult
        With `converged` False where the search did not come to rest: then it is no answer.

    Raises
    ------
    BalanceError
        If shapes do not fit, a start is missing, or a constraint is not finite at the start.

    Notes
    -----
    Each step solves min (x - y)' V^-1 (x - y) subject to g(x_k) + J_k (x - x_k) = 0 and the bounds, and goes towards
    it as far as 1/2 |x - y|^2_V + sum_i w_i |g_i(x)| falls, with w_i above the multiplier of constraint i. That is
    Gauss-Newton on the conditions of optimality: what it leaves out, the curvature of g times the multipliers, is
    small where adjustments are.

    References
    ----------
    Knepper, Gorman (1980), AIChE J. 26, 260. Narasimhan, Jordache (2000), ch. 5. Nocedal, Wright (2006), ch. 18.

    Examples
    --------
    >>> import numpy as np
    >>> from processing.balance import reconcile_nonlinear
    >>> power = reconcile_nonlinear(
    ...     lambda x: [x[0] * x[1] - x[2]],
    ...     lambda x: np.array([[x[1], x[0], -1.0]]),
    ...     measured=[2.0, 3.0, 6.6], std=[0.1, 0.1, 0.3])
    >>> power.converged, power.reconciled.round(4).tolist()
    (True, [2.0815, 3.0555, 6.36])
    """
    search = _Search.of(constraints, jacobian, measured, std, covariance, start, bounds, tolerance)
    for iteration in range(1, max_iterations + 1):
        if search.step(search.project(quick=True)):
            return search.result(True, iteration)
    return search.result(False, max_iterations)


class _Search:
    """The state of one search; `step` moves it."""

    def __init__(self, g: Callable[[Floats], Floats], jacobian: Callable[[Floats], Floats], measured: Floats) -> None:
        self.constraints = g
        self.jacobian = jacobian
        self.measured = measured
        self.bounds: tuple[Floats, Floats] | None = None
        self.usable: Bools = ~np.isnan(measured)
        self.root: Floats = np.zeros(0)
        self.tolerance = 0.0
        self.bounded = False
        self.weight: Floats = np.zeros(0)
        self.last = np.inf      # size of the step before

    @classmethod
    def of(
        cls,
        constraints: Callable[[Floats], npt.ArrayLike],
        jacobian: Callable[[Floats], Matrix],
        measured: npt.ArrayLike,
        std: npt.ArrayLike | None,
        covariance: Matrix | None,
        start: npt.ArrayLike | None,
        bounds: Sequence[npt.ArrayLike] | None,
        tolerance: float,
    ) -> _Search:
        """Check what was given and stand at the start."""
        y = inputs.as_floats(measured, "measured")
        if y.ndim != 1 or not y.size:
            raise BalanceError(f"measured must have shape (n_variables,), got {y.shape}")
        n = len(y)
        y = inputs.measured_windows(y, n)
        spread, rows = inputs.checked_uncertainty(std, covariance, n)
        search = cls(
            lambda x: inputs.as_floats(constraints(x), "constraints"),
            lambda x: _dense(jacobian(x)),
            y,
        )
        search.root, known = root_of(spread, rows)
        search.usable &= known
        search.bounds = inputs.checked_bounds(bounds, n)
        search.tolerance = tolerance
        search.state = search.at(search.inside(_start(y, start, search.usable)))
        search.scale = np.where(search.usable, _std_of(search.root), 0.0)
        search.weight = np.zeros(len(search.state.residual))
        if not np.isfinite(search.state.residual).all() or not np.isfinite(search.state.jacobian).all():
            raise BalanceError("constraints and jacobian must be finite at the start")
        return search

    state: _State
    scale: Floats

    def at(self, point: Floats) -> _State:
        """Evaluate the constraints at a point."""
        residual, jacobian = self.constraints(point), self.jacobian(point)
        if residual.ndim != 1 or jacobian.shape != (len(residual), len(point)):
            raise BalanceError(
                f"jacobian must have shape ({residual.size}, {len(point)}) for constraints of shape "
                f"{residual.shape}, got {jacobian.shape}"
            )
        return _State(point, residual, jacobian, abs(jacobian) @ abs(point))

    def inside(self, point: Floats) -> Floats:
        """Clip a point to the bounds."""
        return point if self.bounds is None else np.clip(point, *self.bounds)

    def project(self, *, quick: bool = False) -> DenseProjection:
        """Factor the constraints linearised here."""
        return project(self.state.jacobian, self.usable, self.root, quick=quick)

    def step(self, projection: DenseProjection) -> bool:
        """Go one step; True if there was nothing left to go."""
        here = self.state
        known, rhs = self._linearised()
        target = self._target(projection)
        direction = target - here.point
        allowed = np.where(self.scale > 0, self.scale, np.maximum(abs(target), abs(here.point)))
        steps = float(np.divide(abs(direction), allowed, out=np.zeros_like(allowed), where=direction != 0).max())
        there = self.at(target)
        at_rest = self.last <= steps < ROUNDING and self._closed(there)
        self.last = steps
        if at_rest:
            self.state = there
            return True
        if steps < SMALL_STEP:
            self.state = there
            return steps <= self.tolerance and self._closed(there)
        multipliers = projection.multipliers(projection.residual(known, rhs))[0]
        self.weight = np.maximum(self.weight, 2.0 * abs(multipliers))
        self.state = self._along(direction, there, projection)
        return False

    def _linearised(self) -> tuple[Floats, Floats]:
        """Return what is known and the right-hand side of the constraints linearised here, shapes (1, n)."""
        here = self.state
        return np.where(self.usable, self.measured, 0.0)[None], (here.jacobian @ here.point - here.residual)[None]

    def _target(self, projection: DenseProjection) -> Floats:
        """Return the solution of the linearised problem, shape (n_variables,)."""
        target: Floats = projection.solve_from(*self._linearised(), self.state.point[None])[0]
        return self._within_bounds(target, projection)

    def _closed(self, state: _State) -> bool:
        """Whether every constraint is met to the tolerance of its terms, or of what one std in each makes of it."""
        terms = state.size + abs(state.jacobian) @ self.scale
        return bool((abs(state.residual) <= self.tolerance * terms + np.finfo(float).tiny).all())

    def _within_bounds(self, target: Floats, projection: DenseProjection) -> Floats:
        """Return the solution of the linearised problem within the bounds."""
        if self.bounds is None:
            return target
        low, high = self.bounds
        if not ((target < low) | (target > high)).any():
            return target
        seen = np.where(projection.observable, target, np.nan)
        try:
            moved = move_inside(seen, self.bounds, projection.covariance_of)
        except ContradictionError:
            return self.inside(target)  # of this linearisation only; another one may have a solution
        self.bounded = True
        return self.inside(np.where(projection.observable, moved, target))

    def _along(self, direction: Floats, there: _State, projection: DenseProjection) -> _State:
        """Return the first state along the direction with a lower merit; the whole step where none has."""
        weight = self.weight + 1.0 / np.maximum(self.state.size, np.finfo(float).tiny)
        merit = self._merit(self.state, projection, weight)
        share, state = 1.0, there
        for _ in range(HALVINGS):
            if np.isfinite(state.residual).all() and self._merit(state, projection, weight) < merit:
                return state
            share *= 0.5
            state = self.at(self.state.point + share * direction)
        return there if np.isfinite(there.residual).all() else state

    def _merit(self, state: _State, projection: DenseProjection, weight: Floats) -> float:
        """Half the weighted sum of squares and the weighted sum of open constraints."""
        adjustment = np.where(self.usable, state.point - np.nan_to_num(self.measured), 0.0)
        squares = float(projection.objective_of(adjustment[None])[0])
        return 0.5 * squares + float((weight * abs(state.residual)).sum())

    def result(self, converged: bool, iterations: int) -> NonlinearResult:
        """Linearise where the search ended; with these factors, which are not the quick ones, the balances close."""
        projection = self.project()
        if converged:
            self.state = self.at(self._target(projection))
        return NonlinearResult(self, projection, converged, iterations)


def _start(measured: Floats, start: npt.ArrayLike | None, usable: Bools) -> Floats:
    """Return where to start, shape (n_variables,): `start`, else the measured value."""
    given = np.full(len(measured), np.nan) if start is None else inputs.as_floats(start, "start")
    if given.shape != measured.shape:
        raise BalanceError(f"start must have shape {measured.shape}, got {given.shape}")
    infinite = np.flatnonzero(np.isinf(measured))
    if infinite.size:
        raise BalanceError(f"measured[{infinite[0]}] must be finite, or NaN where unmeasured")
    point = np.where(np.isnan(given), measured, given)
    missing = np.flatnonzero(~np.isfinite(point))
    if missing.size:
        raise BalanceError(f"start must be given where unmeasured, missing for variable {missing[0]}")
    return point


def _dense(matrix: Matrix) -> Floats:
    """Return a Jacobian as a dense array."""
    return inputs.as_floats(matrix.toarray() if inputs.is_sparse(matrix) else matrix, "jacobian")


def _std_of(root: Floats) -> Floats:
    """Return the prior std, shape (n_variables,)."""
    spread: Floats = root if root.ndim == 1 else np.sqrt((root**2).sum(axis=1))
    return spread
