"""The state of a park in one window: every flow, enthalpy and fraction reconciled, with its std.

    readings ──► average ──► observe ──► reconcile ──► observe ──► reconcile ──► Estimate
                             std at likely flows       std at the first estimate

Here: that, and which variables the balances check (`status`). Not here: averages (window.py), what meters say
(observation.py), equations (equations.py), least squares (solving.py, balance/), the rows that are stored (results.py).
The main path enters at `Estimator.estimate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from park.model import Park
from processing.balance import NonlinearResult, classify
from processing.equations import NONE, End, Equations
from processing.meters import ALWAYS_US, Bools, Floats, Ints, MeterArrays, instant_us
from processing.observation import Observation, observe
from processing.placement import plan_of
from processing.solving import Balances
from processing.window import Means, Readings, Slots, average

FIRST_ITERATIONS = 2
"""Linearisations at most of the first estimate, which only says at which flow std are taken: two bring it within a
small part of them; where it is worse, weights are a little less than best, and nothing else."""

VARIANCE_FLOOR = 0.1
"""VDI 2048: an adjustment's variance counts as at least a tenth of the meter's, so that meters which hardly anything
checks are not accused by rounding."""

REDUNDANT_FROM = 1e-6
"""A meter whose adjustment has less than this share of its variance is checked by nothing."""


@dataclass(frozen=True, eq=False)
class Status:
    """What the balances say of each variable, by which meters are present; bool, shape (n_variables,)."""

    measured: Bools
    redundant: Bools
    observable: Bools


@dataclass(frozen=True, eq=False)
class Estimate:
    """One window's state.

    Attributes
    ----------
    start_us, end_us
        The window [us since 1970 UTC].
    means
        Of every slot.
    observation
        What the meters said, those taken out left out.
    believed
        Slots that went into the balances, bool, shape (n_slots,).
    values
        The variables, shape (n_variables,) [unit of the variable]; NaN where unobservable.
    unbounded
        The same before any was held at a bound: what is judged, for a meter that is far off may push others to theirs.
    covariance
        Of `unbounded`, shape (n_variables, n_variables); NaN where unobservable.
    status
        Of every variable.
    residual, throughput
        Of every row of the equations, shape (n_rows,) [unit of the row]; rows of leaking nodes are open.
    statistic
        Measurement test of every slot, shape (n_slots,): standard normal where all is well; NaN where nothing checks.
    global_test, degrees_of_freedom
        Of the whole window.
    converged
        Whether the reconciliation came to rest; if not, `values` are NaN.
    expected
        The variables at which variances were taken, shape (n_variables,); never NaN.
    absent
        Streams that are not in force in the window, bool, shape (n_streams,); None where all are.
    found
        The reconciliation itself; None where there was none.
    rows
        Rows of the equations that held, shape (n_kept,): all but those of leaking nodes and of nodes not in force.
    dormant
        Rows of nodes that are not in force in the window, bool, shape (n_rows,); None where all are.
    """

    start_us: int
    end_us: int
    means: Means
    observation: Observation
    believed: Bools
    values: Floats
    unbounded: Floats
    covariance: Floats
    status: Status
    residual: Floats
    throughput: Floats
    statistic: Floats
    global_test: float
    degrees_of_freedom: int
    converged: bool
    expected: Floats
    absent: Bools | None = None
    found: NonlinearResult | None = None
    rows: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    dormant: Bools | None = None

    @property
    def std(self) -> Floats:
        """Std of every variable, shape (n_variables,) [unit of the variable]; NaN where unobservable."""
        spread: Floats = np.sqrt(np.maximum(np.diagonal(self.covariance), 0.0))
        return spread


class Estimator:
    """A park made ready for estimating its state window by window.

    Parameters
    ----------
    park
        The park.
    """

    def __init__(self, park: Park) -> None:
        self.park = park
        self.table = MeterArrays.of(park)
        self.equations = Equations.of(park)
        self.plan = plan_of(park, self.table, self.equations)
        self._bound: Ints = np.flatnonzero(self.equations.bound)
        self._limits = _limits(park, self.equations)
        self._in_force, self._rows_in_force = _in_force(park), _rows_in_force(park, self.equations)
        self._statuses: dict[bytes, Status] = {}

    def average(self, readings: Readings, start_us: int, end_us: int) -> Means:
        """Average all slots over the window [start_us, end_us) of `readings`."""
        plan = self.plan
        slots = plan.slots
        if plan.pipes:
            now = average(readings, self.table, Slots(slots.meter, np.zeros_like(slots.shift_us)), start_us, end_us)
            unshifted = observe(plan, now, np.arange(len(slots)) < len(self.table))
            flow = unshifted.measured[self.equations.flow[:, End.SENDER]]
            slots = plan.shifted(flow, unshifted.density)
        return average(readings, self.table, slots, start_us, end_us)

    def estimate(
        self, readings: Readings, start_us: int, end_us: int, taken_out: Bools | None = None,
        leaking: Bools | None = None,
    ) -> Estimate:
        """Estimate the state in one window.

        Parameters
        ----------
        readings
            As for `window.average`.
        start_us, end_us
            The window [us since 1970 UTC].
        taken_out
            Meters that are not believed, bool, shape (n_meters,).
        leaking
            Rows of the equations that do not hold, bool, shape (n_rows,): balances of nodes that leak.

        Returns
        -------
        Estimate
        """
        means = self.average(readings, start_us, end_us)
        out = np.zeros(len(self.table), dtype=np.bool_) if taken_out is None else taken_out
        believed = ~out[self.plan.slots.meter] & ~np.isnan(means.value)
        absent = self._absent(start_us, end_us)
        nowhere = np.isin(self.plan.slot_variable, self.equations.flow[absent])
        believed &= ~nowhere
        dormant = _outside(self._rows_in_force, start_us, end_us)
        rows = np.flatnonzero(~dormant if leaking is None else ~(dormant | leaking))
        balances = Balances(self.equations, self._bound, self._limits, rows)
        first = self._without(observe(self.plan, means, believed), absent)
        start = self._start(first)
        rough = balances.reconcile(first, start, FIRST_ITERATIONS)
        at = start if rough is None else balances.full(rough.point, start)
        second = self._without(observe(self.plan, means, believed, at), absent)
        estimate = self._estimate((start_us, end_us), means, believed, second, balances, at)
        return replace(
            estimate, absent=absent if absent.any() else None, dormant=dormant if dormant.any() else None,
            statistic=np.where(nowhere, np.nan, estimate.statistic))

    def _absent(self, start_us: int, end_us: int) -> Bools:
        """Return the streams that are not in force, or whose ends are not, shape (n_streams,)."""
        return _outside(self._in_force, start_us, end_us)

    def _without(self, said: Observation, absent: Bools) -> Observation:
        """Let nothing flow where nothing is in force: exactly 0, whatever meters say."""
        if absent.any():
            equations = self.equations
            gone = [loss.variable for loss in equations.losses if absent[loss.stream]]
            flows = equations.flow[absent].ravel()
            gone += [d.change for d in equations.delays if absent[d.stream] and d.sender in flows]
            at = np.concatenate([flows, np.array(gone, dtype=np.int64)])
            said.measured[at] = said.variance[at] = 0.0
        return said

    def warm_up(self) -> None:
        """Do one window of made-up readings, so that whatever is loaded or compiled on first use is there."""
        n = len(self.table)
        nothing = Readings.of(n, np.arange(n), np.zeros(n), np.full(n, np.nan))
        self.estimate(nothing, 0, round(self.park.park.window_s * 1e6))

    def _start(self, said: Observation) -> Floats:
        """Where the search starts: as measured, else as the stream's other end, else the typical size."""
        equations = self.equations
        x = np.where(np.isnan(said.measured), equations.scale, said.measured)
        for block in (equations.flow, equations.enthalpy, *equations.component.values()):
            seen = np.where(block == NONE, np.nan, said.measured[block])
            some = ~np.isnan(seen).all(axis=1)
            mean = np.nanmean(seen[some], axis=1)
            for end in End:
                column = block[some, end]
                missing = np.isnan(said.measured[column])
                x[column[missing]] = mean[missing]
        for d, delay in enumerate(equations.delays):
            if np.isnan(said.measured[delay.sender]) and np.isfinite(said.measured[delay.change]):
                x[delay.sender] = said.measured[delay.change] + said.delay_factor[d] * x[delay.departed]
        return self._with_sums(x, said)

    def _with_sums(self, x: Floats, said: Observation) -> Floats:
        """Start the sums that nobody measured now at what their streams add up to."""
        sums = [y for y in self.equations.sums.values() if np.isnan(said.measured[y])]
        if sums:
            open_ = self.equations.residual(self.equations.linear, x)
            for y in sums:
                row = int(np.flatnonzero(self.equations.linear[:, y])[0])
                x[y] -= open_[row]
        return x

    # -- what comes of it -----------------------------------------------------------------------------------------

    def _estimate(
        self, window_us: tuple[int, int], means: Means, believed: Bools, said: Observation, balances: Balances,
        expected: Floats,
    ) -> Estimate:
        """Put a reconciliation together with what no equation holds."""
        equations, bound = self.equations, self._bound
        found = balances.reconcile(said, expected)
        found = found if found is not None and found.converged else None
        values = np.where(equations.bound, np.nan, said.measured)
        unbounded = values.copy()
        covariance = np.diag(np.where(equations.bound, np.nan, said.variance))
        residual = np.full(len(equations.linear), np.nan)
        throughput, test, dof = residual.copy(), np.nan, 0
        if found is not None:
            inside = balances.within_limits(said, found, expected)
            values[bound], unbounded[bound] = inside.reconciled, found.reconciled
            covariance[np.ix_(bound, bound)] = found.covariance()
            linear = equations.with_delays(said.delay_factor)
            point = balances.full(inside.point, np.nan_to_num(values))
            residual, throughput = equations.residual(linear, point), equations.throughput(linear, point)
            test, dof = float(found.global_test), int(found.degrees_of_freedom)
        return Estimate(
            *window_us, means, said, believed, values, unbounded, covariance,
            self._status(said, believed, balances.rows), residual, throughput,
            self._statistics(said, believed, unbounded, covariance), test, dof,
            found is not None or not bound.size, expected, found=found, rows=balances.rows)

    def _statistics(self, said: Observation, believed: Bools, values: Floats, covariance: Floats) -> Floats:
        """Measurement test of every slot: a meter in the balances against its adjustment, one outside against them."""
        variable = np.where(self.plan.slot_variable == NONE, 0, self.plan.slot_variable)
        off = said.slot_value - np.where(self.plan.slot_variable == NONE, np.nan, values[variable])
        own, found = said.slot_variance, np.diagonal(covariance)[variable]
        spread = np.where(believed, own - found, own + found)
        checked = spread > REDUNDANT_FROM * own
        spread = np.maximum(spread, VARIANCE_FLOOR * own)
        return np.where(checked, off / np.sqrt(np.where(checked, spread, 1.0)), np.nan)

    def _status(self, said: Observation, believed: Bools, rows: Ints | None = None) -> Status:
        """Classify the variables by which meters are present and which rows hold (all by default); each pattern once.

        Ranks are taken at a made-up point, so that a stream that stands still counts like one that flows. What a
        sender's own meters said earlier is not what checks them, so a delay's change counts as known, and the
        departed twin as unmeasured.
        """
        equations, plan = self.equations, self.plan
        n, meters = equations.n_variables, len(self.table)
        measured = ~np.isnan(said.measured)
        own = np.zeros(n, dtype=np.bool_)
        variable = plan.slot_variable[:meters]
        own[variable[believed[:meters] & (variable != NONE) & ~np.isnan(said.slot_value[:meters])]] = True
        for delay in equations.delays:
            measured[delay.sender], measured[delay.departed] = own[delay.sender], own[delay.departed]
        held = np.arange(len(equations.linear)) if rows is None else rows
        key = np.packbits(measured).tobytes() + held.tobytes()
        if key not in self._statuses:
            self._statuses[key] = self._classified(measured, held)
        return self._statuses[key]

    def _classified(self, measured: Bools, rows: Ints) -> Status:
        bound, equations = self._bound, self.equations
        redundant, observable = np.zeros_like(measured), measured.copy()
        if bound.size:
            size = np.where(equations.scale == 0.0, 1.0, abs(equations.scale))
            point = size * np.random.default_rng(1).uniform(0.5, 1.5, len(size))
            linear = equations.with_delays(np.ones(len(equations.delays)))
            classes = classify(equations.jacobian(linear, point)[np.ix_(rows, bound)], measured[bound])
            redundant[bound], observable[bound] = classes.redundant, classes.observable
        return Status(measured, redundant, observable)


def _limits(park: Park, equations: Equations) -> tuple[Floats, Floats]:
    """Bounds of every variable: flows as the park says; a fraction that noise lifts above 1 hurts nobody."""
    low, high = np.full(equations.n_variables, -np.inf), np.full(equations.n_variables, np.inf)
    for s, stream in enumerate(park.streams):
        for variable in equations.flow[s]:
            low[variable], high[variable] = stream.bounds_si
    return low, high


def _in_force(park: Park) -> tuple[Ints, Ints]:
    """From when until when each stream and both its ends are in force, shape (n_streams,) each [us]."""
    nodes = {node.id: (node.valid_from, node.valid_to) for node in park.nodes}
    since, until = np.full(len(park.streams), -ALWAYS_US), np.full(len(park.streams), ALWAYS_US)
    for s, stream in enumerate(park.streams):
        never = (None, None)
        limits = [(stream.valid_from, stream.valid_to)]
        limits += [nodes.get(end, never) for end in (stream.from_node, stream.to_node)]
        since[s] = max(instant_us(begun, -ALWAYS_US) for begun, _ in limits)
        until[s] = min(instant_us(ended, ALWAYS_US) for _, ended in limits)
    return since, until


def _rows_in_force(park: Park, equations: Equations) -> tuple[Ints, Ints]:
    """From when until when each row of the equations holds, shape (n_rows,) each [us]: a node's while that is there."""
    since, until = (np.full(len(equations.linear), sign * ALWAYS_US) for sign in (-1, 1))
    for row in equations.nodes:
        node = park.nodes[row.node]
        since[row.row], until[row.row] = instant_us(node.valid_from, -ALWAYS_US), instant_us(node.valid_to, ALWAYS_US)
    return since, until


def _outside(force: tuple[Ints, Ints], start_us: int, end_us: int) -> Bools:
    """Return what is in force at no time of a window [start_us, end_us)."""
    since, until = force
    return np.asarray((end_us <= since) | (start_us >= until))
