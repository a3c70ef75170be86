"""A park at its design point: the steady window that it would show if every meter read what it should.

    nominal flows ──► balances closed ──► what every meter reads then ──► balances linearised there ──► classes and std

Here: that point and that window, from park.yaml alone. Not here: what each meter is worth there (metering.py), how it
is printed (`symbiosis.check`), and time: nothing moves. Variances, equations and rows are those of the live cycle, so
that what is expected is what comes.

The way in is `expect`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt

from park.model import Meter, Park, Stream
from park.units import to_si
from processing.balance import BalanceError, prepare, reconcile
from processing.equations import NONE, End, Equations
from processing.estimate import Estimate, Estimator
from processing.guesses import Guesses
from processing.metering import Metering, metering_of
from processing.meters import STD_PER_U95, Averaging
from processing.observation import Observation, observe
from processing.park_parts import mass_alone, part_in_force
from processing.results import FlowRow, Reporter
from processing.window import Means, Readings

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NEAR_NOMINAL, UNKNOWN = 0.01, 1.0  # how far the balances may pull a flow: std, as a share of its size
ENTHALPY_STD = 100.0  # [kJ/kg] the same of an enthalpy: 24 K of water
CLOSED = 1e-9  # of what passes: a balance that is open by less is closed
FAR = 5.0  # an enthalpy moved by more of these was guessed badly: the temperatures are unknown
HARDLY = 1e-3  # std of a flow in the balances of energy, as a share of it
STEPS = 3  # of Newton: towards closed balances, and from a meter's guess to what it reads there
REST = 4  # intervals of readings before the window, for values that are held
MOST_READINGS = 100_000  # of one meter: a long delay at a short interval
LARGE = 600  # streams: beyond, the balances of mass alone, or their algebra takes minutes


@dataclass(frozen=True)
class Expectation:
    """What to expect of a park at its design point.

    Attributes
    ----------
    flows
        As the rows of a window: every stream with its class, value and std.
    checked
        Ids of the meters that the balances or other meters check.
    mass_only
        Whether the park is so large that its balances of energy and components were left out.
    metering
        What each meter is worth, and where one more would help most.
    absent
        Ids of the streams that are not in force: they are in no balance.
    """

    flows: tuple[FlowRow, ...]
    checked: frozenset[str]
    mass_only: bool
    metering: Metering
    absent: tuple[str, ...]


def expect(park: Park, now: datetime) -> Expectation:
    """Return the classes and std to expect of every stream of a checked park, by what is in force at `now`."""
    whole, park = park, part_in_force(park, now)
    absent = tuple(stream.id for stream in whole.streams if stream.id not in park.stream)
    mass_only = len(park.streams) > LARGE
    estimator = DesignEstimator(mass_alone(park) if mass_only else park)
    in_force = np.array([meter.is_in_force(now) for meter in park.meters], dtype=np.bool_)
    estimate = estimator.at(design_point(estimator.park, estimator.equations), in_force)
    rows = Reporter(estimator).rows(estimate, estimate.observation, np.zeros(len(park.meters), dtype=np.bool_))
    variable = np.where(in_force, estimator.plan.slot_variable[: len(park.meters)], NONE)
    users = np.bincount(variable[variable != NONE], minlength=estimator.equations.n_variables)
    at = np.where(variable == NONE, 0, variable)
    checked = (variable != NONE) & (estimate.status.redundant[at] | (users[at] > 1))
    ids = frozenset(meter.id for meter, is_checked in zip(park.meters, checked.tolist(), strict=True) if is_checked)
    return Expectation(rows.flows, ids, mass_only, metering_of(estimator, estimate, in_force), absent)


class DesignEstimator(Estimator):
    """The live cycle's estimator, with its balances linearised at a point at which everything agrees."""

    def at(self, point: Floats, in_force: Bools) -> Estimate:
        """Return the estimate of a window whose meters read what they should.

        Parameters
        ----------
        point
            The variables, shape (n_variables,).
        in_force
            Which meters there are, shape (n_meters,).
        """
        means = _means_at(self, point)
        believed = ~np.isnan(means.value) & in_force[self.plan.slots.meter]
        said = observe(self.plan, means, believed, point)
        equations = self.equations
        variance = np.diag(np.where(equations.bound, np.nan, said.variance))
        bound = np.flatnonzero(equations.bound)
        if bound.size:
            self._put_covariance(variance, said, point, bound)
        nothing = np.zeros(len(equations.linear))
        return Estimate(
            start_us=0,
            end_us=round(self.park.park.window_s * 1e6),
            means=means,
            observation=said,
            believed=believed,
            values=(values := np.where(np.isnan(np.diagonal(variance)), np.nan, point)),
            unbounded=values,
            covariance=variance,
            status=self._status(said, believed),
            residual=nothing,
            throughput=nothing,
            statistic=np.zeros(len(means.value)),
            global_test=0.0,
            degrees_of_freedom=0,
            converged=True,
            expected=point,
        )

    def _put_covariance(
        self, covariance: Floats, said: Observation, point: Floats, bound: npt.NDArray[np.int64]
    ) -> None:
        """Put the covariance of the variables that equations hold in its place; NaN where they are unobservable."""
        jacobian = self.equations.jacobian(self.equations.with_delays(said.delay_factor), point)[:, bound]
        std = np.where(np.isnan(said.measured[bound]), np.inf, np.sqrt(said.variance[bound]))
        seen = prepare(jacobian, std).projection(np.isfinite(std))
        if self.equations.product_row.size:
            covariance[np.ix_(bound, bound)] = seen.covariance_of(np.arange(len(bound)))
        else:       # of mass alone nothing is multiplied: what flows share is not asked for
            covariance[bound, bound] = seen.std**2


def design_point(park: Park, equations: Equations) -> Floats:
    """Return values of all variables, shape (n_variables,), near which the balances close and flows are nominal.

    First the balances of mass are closed: flows without a nominal value give way. Then those of energy and components:
    heat without a nominal value and enthalpies give way, but flows hardly, so that guessed temperatures do not stop
    them. What cannot be closed in this way stays open; a node that only sends or only receives is not asked to.
    """
    value, std = _prior(park, equations)
    mass = np.ones(len(equations.linear), dtype=np.bool_)
    still = _still(park, equations)
    mass[still] = False
    mass[[row.row for row in equations.nodes if row.quantity != "mass"]] = False
    all_rows = np.ones(len(equations.linear), dtype=np.bool_)
    all_rows[still] = False
    point = _closed(equations, mass, value, std, value, _flow_bounds(park, equations))
    flows = np.unique(equations.flow[[s.carries_mass for s in park.streams]])
    if not equations.product_row.size:  # mass alone, and nothing lost on the way
        return point
    std[flows], value[flows] = HARDLY * np.maximum(abs(point[flows]), 1e-9), point[flows]
    further = _closed(equations, all_rows, value, std, _with_fractions(equations, point, value), _fractions(equations))
    enthalpies = np.unique(equations.enthalpy[equations.enthalpy != NONE])
    guessed_badly = (abs(further - value)[enthalpies] > FAR * ENTHALPY_STD).any()
    return point if guessed_badly else further


def _closed(
    equations: Equations,
    rows: Bools,
    value: Floats,
    std: Floats,
    start: Floats,
    bounds: tuple[Floats, Floats] | None = None,
) -> Floats:
    """Return the point near `value` at which some rows close, in a few steps of Newton; `start` where there is none."""
    linear, point = equations.with_delays(np.ones(len(equations.delays))), start
    measured = np.where(np.isfinite(std), value, np.nan)
    for _ in range(STEPS if rows.any() else 0):
        jacobian = equations.jacobian(linear, point)[rows]
        offset = jacobian @ point - equations.residual(linear, point)[rows]
        try:
            found = reconcile(jacobian, measured, std, rhs=offset, bounds=bounds).reconciled
        except BalanceError:
            return start
        point = np.where(np.isfinite(found), found, point)
        left_open = abs(equations.residual(linear, point)[rows])
        if (left_open <= CLOSED * equations.throughput(linear, point)[rows]).all():
            break
    return point


def _flow_bounds(park: Park, equations: Equations) -> tuple[Floats, Floats]:
    """Return what the flows cannot leave; nothing else has bounds here."""
    low, high = np.full(equations.n_variables, -np.inf), np.full(equations.n_variables, np.inf)
    for s, stream in enumerate(park.streams):
        low[equations.flow[s]], high[equations.flow[s]] = stream.bounds_si
    return low, high


def _with_fractions(equations: Equations, point: Floats, value: Floats) -> Floats:
    """Return a point with first values of the fractions: in the balances of mass there are none."""
    full = point.copy()
    for block in equations.component.values():
        full[block[block != NONE]] = value[block[block != NONE]]
    return full


def _fractions(equations: Equations) -> tuple[Floats, Floats]:
    """Return what fractions cannot leave; nothing else has bounds here."""
    low, high = np.full(equations.n_variables, -np.inf), np.full(equations.n_variables, np.inf)
    for block in equations.component.values():
        low[block[block != NONE]], high[block[block != NONE]] = 0.0, 1.0
    return low, high


def _one_way(park: Park) -> frozenset[str]:
    """Return the nodes that mass only leaves, or only enters."""
    leaves = {stream.from_node for stream in park.streams if stream.carries_mass}
    enters = {stream.to_node for stream in park.streams if stream.carries_mass}
    return frozenset(leaves ^ enters)


def _still(park: Park, equations: Equations) -> list[int]:
    """Return the balances of nodes that mass only leaves or enters and that store nothing: nothing would flow."""
    one_way = _one_way(park)
    return [row.row for row in equations.nodes if row.stored == NONE and park.nodes[row.node].id in one_way]


def _prior(park: Park, equations: Equations) -> tuple[Floats, Floats]:
    """Return a first value of every variable and how firmly it stands; infinite where the rows alone tell it."""
    one_way, guesses = _one_way(park), Guesses(park)
    value, std = equations.scale.copy(), np.full(equations.n_variables, np.inf)
    for s, stream in enumerate(park.streams):
        for end in End:
            flow, enthalpy = int(equations.flow[s, end]), int(equations.enthalpy[s, end])
            firm = NEAR_NOMINAL if stream.nominal_si else UNKNOWN if stream.carries_mass else np.inf
            std[flow] = firm * abs(value[flow])
            if enthalpy != NONE:
                value[enthalpy], std[enthalpy] = guesses.enthalpy(stream), ENTHALPY_STD
    for name, block in equations.component.items():
        for s, end in np.argwhere(block != NONE):
            value[block[s, end]], std[block[s, end]] = guesses.fraction(park.streams[s], name)
    for loss in equations.losses:
        std[loss.variable] = max(loss.u95 * STD_PER_U95, NEAR_NOMINAL * abs(loss.value), 1e-9)
    for row in equations.nodes:
        for held in (row.stored, row.closure):
            if held != NONE:
                free = held == row.stored and park.nodes[row.node].id in one_way
                std[held], value[held] = np.inf if free else max(NEAR_NOMINAL * abs(equations.scale[held]), 1e-9), 0.0
    for delay in equations.delays:
        value[delay.change], std[delay.change] = 0.0, 1e-6 * max(abs(value[delay.sender]), 1e-6)
    return value, std


# -- what every meter reads there ------------------------------------------------------------------------------------


def _means_at(estimator: Estimator, point: Floats) -> Means:
    """Return the means of a steady window in which all slots say of their variables what they are at `point`."""
    park, plan, table = estimator.park, estimator.plan, estimator.table
    guesses = Guesses(park)
    guess = np.array([_reading_guess(park, guesses, meter) for meter in park.meters])
    means = estimator.average(steady_readings(estimator, guess), 0, round(park.park.window_s * 1e6))
    means = replace(means, coverage=np.where(np.isnan(means.value), 0.0, 1.0))
    fixed = np.isin(table.averaging[plan.slots.meter], (Averaging.LEVEL, Averaging.TICKET))
    target = np.where(
        plan.slot_variable == NONE, np.nan, point[np.where(plan.slot_variable == NONE, 0, plan.slot_variable)]
    )
    for _ in range(STEPS):
        said = observe(plan, means, ~np.isnan(means.value), point)
        step = (target - said.slot_value) / np.where(said.slope == 0.0, np.nan, said.slope)
        value = np.where(np.isfinite(step) & ~fixed, means.value + np.nan_to_num(step), means.value)
        value = _kept(park, plan.slots.meter, value)
        means = replace(means, value=value, level=np.where(fixed, means.level, value))
    return means


def _reading_guess(park: Park, guesses: Guesses, meter: Meter) -> float:
    """Return a first value for a meter [SI; of counters the rate]."""
    if meter.node is not None:
        low, high = meter.span or (0.0, 1.0)
        return to_si((low + high) / 2.0, meter.unit)
    stream = park.stream[next(iter(meter.signed_streams))]
    if meter.property_name is not None:
        return guesses.property(stream, meter.property_name, meter.unit)
    return stream.nominal_si or 1.0


def _kept(park: Park, slot_meter: npt.NDArray[np.int64], value: Floats) -> Floats:
    """Return temperatures and pressures that the properties of water know, and all else as it is."""
    names = np.array([meter.property_name or "" for meter in park.meters])[slot_meter]
    value = np.where(names == "temperature", np.clip(value, 274.0, 1000.0), value)
    return np.where(names == "pressure", np.clip(value, 1e3, 2e7), value)


def steady_readings(estimator: Estimator, value: Floats) -> Readings:
    """Return readings of all meters that stay the same, as far back as the window [0, window_s) looks.

    Parameters
    ----------
    estimator
        Of the park.
    value
        What each meter reads, shape (n_meters,) [SI]; of counters the rate at which they run on [SI/s].
    """
    park, window_us = estimator.park, round(estimator.park.park.window_s * 1e6)
    plan, table = estimator.plan, estimator.table
    which, times, values = [], [], []
    back = np.zeros(len(table), dtype=np.int64)
    np.maximum.at(back, plan.slots.meter, plan.slots.shift_us)
    for slot, s in plan.pipes:
        back[plan.slots.meter[slot]] = max(int(back[plan.slots.meter[slot]]), _longest_delay_us(park.streams[s]))
    for m in range(len(table)):
        interval = int(table.interval_us[m])
        steps = min((int(back[m]) + window_us) // interval + REST, MOST_READINGS)
        time = window_us - interval * np.arange(1, steps + 1)
        counts = table.averaging[m] == Averaging.COUNTER
        which.append(np.full(steps, m))
        times.append(time)
        values.append(np.where(counts, value[m] * (time - time[-1]) / 1e6, value[m]))
    if not which:
        return Readings.of(0, [], [], [])
    return Readings.of(len(table), np.concatenate(which), np.concatenate(times), np.concatenate(values))


def _longest_delay_us(stream: Stream) -> int:
    """Return how long a full pipe holds what enters it, at a third of its nominal flow [us]."""
    flow = abs(stream.nominal_si or 1.0) / 3.0
    return round((stream.pipe_volume_m3 or 0.0) * 1000.0 / flow * 1e6)
