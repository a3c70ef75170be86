"""What the meters say of a park's variables in one window.

    Means (by slot) ──► temperature, pressure ──► enthalpy, density     by point: a stream's end, or as it departed
                   └──► flows, heat, fractions, hold-up ─────────────►  by point ──► by variable: value and variance

- Several meters of one point, and the two ends of a stream without delay or loss, are combined by inverse variance.
- Variances are those of the *expected* value: a meter that reads zero has no weight without limit, and of two equal
  meters the lower does not weigh more. In the first pass the expected value is what meters, balances and nominal flows
  make likely (expected.py); in the second it is the first estimate. A meter more than `FARTHEST` std off it weighs
  less, so that one that reads a thousandfold carries neither the first estimate with it nor its neighbours' std.
- Enthalpy follows from temperature, pressure and the declared phase, so heat flows need no meters of their own, and
  what F, T and p share is in the equations rather than in a covariance.
- The two windows of a delayed stream's sender (now, and when what arrives now left) share their meters' systematic
  errors. With c their covariance, v the variance then, `now - (c / v) then` is independent of `then`: that is what
  the variable `change` measures, and k = c / v goes into the equations. Where one window has no meter, the change is
  taken to be 0 within `PERSISTENCE_U95` of the value.

Here: that. Not here: slots and points (plan.py, laid out by placement.py), temperature and pressure
(thermodynamics.py), averages (window.py), equations (equations.py), reconciliation (estimate.py). The main path enters
at `observe`, once a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from processing.combining import Values, combine, weighted
from processing.equations import NONE, End
from processing.meters import STD_PER_U95, Averaging, Bools, Floats, Variances
from processing.plan import Direct, Plan
from processing.states import States
from processing.thermodynamics import Conditions, slot_variances
from processing.window import Means

PERSISTENCE_U95 = 0.05
"""What an unmetered flow, enthalpy or fraction may change in its delay, as a share of its value: loads of process
plants wander a few percent in minutes (the simulator's default, 1.5 % std in half an hour, is one such)."""

FARTHEST = 100.0
"""std that a meter is off what is expected at most: more is beyond doubt already, and in products of flows and
enthalpies least squares would be carried so far away that they find no way back. Its std grows to that."""

LEAST_EXPECTED = 0.01
"""A flow is never expected below this share of its typical size, so that no meter is exact near zero."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What one window's meters say.

    Attributes
    ----------
    usable
        Slots that were listened to, bool, shape (n_slots,).
    points
        Every point: its meters combined, shape (n_points,) [unit of its variable].
    coverage
        Of each point, shape (n_points,): that of its best covered meter.
    measured, variance
        Every variable, shape (n_variables,); NaN where unmeasured. Declared losses and closures count as measured.
    noise, drift
        What of the variance changes from one window to the next, shape (n_variables,): independently (the meters'
        random errors; of the change over a delay those of the meters now, since those then are in what departed),
        and at a pace that nobody declares (closures, what an unmetered delay may change).
    delay_factor
        k of each delay, shape (n_delays,).
    slot_value, slot_variance, slope
        Every slot: its reading in the unit of its variable, its variance, and how much the variable moves with the
        reading, shape (n_slots,); NaN where it says nothing of a variable.
    slot_noise
        What of `slot_variance` changes independently from one window to the next, shape (n_slots,).
    states
        Water and steam at every thermodynamic point (as enthalpy points).
    temperature
        [K], shape (n_streams * 3,).
    density
        [kg/m3] where known, shape (n_streams * 3,).
    """

    usable: Bools
    points: Values
    coverage: Floats
    measured: Floats
    variance: Floats
    noise: Floats
    drift: Floats
    delay_factor: Floats
    slot_value: Floats
    slot_variance: Floats
    slope: Floats
    slot_noise: Floats
    states: States
    temperature: Floats
    density: Floats


def observe(plan: Plan, means: Means, usable: Bools, estimate: Floats | None = None) -> Observation:
    """Say what a window's means tell of the variables.

    Parameters
    ----------
    plan
        Of the park.
    means
        Of the plan's slots, shape (n_slots,).
    usable
        Slots whose meters are believed, bool, shape (n_slots,).
    estimate
        The variables as first estimated, shape (n_variables,); without it variances are taken at
        what meters, balances and nominal flows make likely (expected.py).
    """
    return _Window(plan, means, usable & ~np.isnan(means.value), estimate).observation()


def carry(plan: Plan, said: Observation, offsets: Floats, declared: Floats) -> Floats:
    """Return what offsets of the meters and of what is declared do to the variables: the linear part of `observe`.

    Parameters
    ----------
    plan
        Of the park.
    said
        A window's observation, for its weights.
    offsets
        Of every slot, in the unit of its variable, shape (n_slots,).
    declared
        Of every entry of `declared`, in the unit of its variable, shape (n_declared,).

    Returns
    -------
    ndarray
        Shape (n_variables,); 0 where unmeasured.
    """
    slot, point = plan.slot_points
    usable = said.usable[slot] & ~np.isnan(said.slot_value[slot]) & ~np.isnan(offsets[slot])
    slot, point = slot[usable], point[usable]
    at_points = weighted(point, offsets[slot], said.slot_variance[slot], len(plan.point_variable))
    known = np.flatnonzero(~np.isnan(said.points.value) & (plan.point_variable != NONE))
    variables = weighted(
        plan.point_variable[known], at_points[known], said.points.variance[known], plan.equations.n_variables)
    alone = ~np.isin(plan.declared_variable, plan.point_variable[known])
    variables[plan.declared_variable[alone]] = declared[alone]
    for d, delay in enumerate(plan.equations.delays):
        now, then = plan.delay_points[delay.sender, delay.departed]
        if np.isnan(said.measured[delay.sender]) and not np.isnan(said.points.value[[now, then]]).any():
            variables[delay.change] = at_points[now] - said.delay_factor[d] * at_points[then]
            variables[delay.sender] = 0.0
    return variables


class _Window:
    """One window's observation under way."""

    def __init__(self, plan: Plan, means: Means, usable: Bools, estimate: Floats | None) -> None:
        self.plan, self.means, self.usable, self.estimate = plan, means, usable, estimate
        n = len(plan.slots)
        self.slot_value, self.slot_variance, self.slope = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
        self.slot_noise = np.full(n, np.nan)
        self.n_points = len(plan.point_variable)
        self.at = Conditions(plan, means, usable)

    def observation(self) -> Observation:
        """Go through the steps of the picture above."""
        points = self._with_enthalpies(self._flows())
        measured, variance, k = self._variables(points)
        return Observation(
            self.usable, points, self._coverage(), measured, variance, self.noise, self.drift, k, self.slot_value,
            self.slot_variance, self.slope, self.slot_noise, self.at.states, self.at.temperature.value,
            self.at.states.density)

    def _with_enthalpies(self, flows: Values) -> Values:
        """Put the enthalpies that meters tell among the points, and what each meter says of one among the slots."""
        slot, told = self.plan.thermo.temperature_slot, self.at.told
        self.slot_value[slot], self.slot_variance[slot] = told.value, told.variance
        self.slot_noise[slot], self.slope[slot] = told.noise, told.slope
        here = slice(self.plan.n_streams * 3, self.plan.n_streams * 6)
        found = Values(flows.value.copy(), flows.systematic.copy(), flows.random.copy())
        known = ~np.isnan(self.at.enthalpy.value)
        for all_, own in ((found.value, self.at.enthalpy.value), (found.systematic, self.at.enthalpy.systematic),
                          (found.random, self.at.enthalpy.random)):
            all_[here] = np.where(known, own, all_[here])
        return found

    # -- flows, fractions, hold-up, sums --------------------------------------------------------------------------

    def _flows(self) -> Values:
        """Combine the meters that read their variable itself, or by a density."""
        direct = self.plan.direct
        by_density = direct.density != NONE
        factor, factor_variance = direct.factor.copy(), np.square(direct.factor_std)
        at, power = direct.density[by_density], direct.power[by_density]
        factor[by_density] = self.at.states.density[at] ** power
        factor_variance[by_density] = self.at.density_variance[at] * self.at.states.density[at] ** (2.0 * (power - 1.0))
        reading = self.means.value[direct.slot]
        value = reading * factor
        expected = self._expected(direct, value) / factor
        inventory = self.plan.table.averaging[self.plan.slots.meter[direct.slot]] == Averaging.LEVEL
        expected = np.where(inventory, self.means.level[direct.slot], expected)
        own = slot_variances(self.plan, self.means, direct.slot, expected)
        variances = Variances(
            own.systematic * factor**2 + factor_variance * np.where(inventory, reading, expected) ** 2,
            own.random * factor**2)
        usable = self.usable[direct.slot] & ~np.isnan(value)
        off = np.where(usable & ~inventory, abs(value - expected * factor), 0.0)
        variances = _tempered(variances, off)
        self.slot_value[direct.slot], self.slope[direct.slot] = value, factor
        self.slot_variance[direct.slot], self.slot_noise[direct.slot] = variances.total, variances.random
        return combine(direct.point, value, variances, usable, self.n_points)

    def _expected(self, direct: Direct, value: Floats) -> Floats:
        """Return what each direct slot should say, in its variable's unit: see the rule on variances above."""
        variable = self.plan.slot_variable[direct.slot]
        if self.estimate is None:
            usable = self.usable[direct.slot] & ~np.isnan(value)
            expected = self.plan.expectation.sizes(variable, value, usable, self.plan.taken_as)[variable]
        else:
            expected = self.estimate[variable]
        least = LEAST_EXPECTED * self.plan.equations.scale[variable]
        return np.where(abs(expected) < least, least, expected)

    # -- variables ------------------------------------------------------------------------------------------------

    def _variables(self, points: Values) -> tuple[Floats, Floats, Floats]:
        """Combine points of one variable, tie delays, and add what the park declares."""
        plan, equations = self.plan, self.plan.equations
        n = equations.n_variables
        known = ~np.isnan(points.value) & (plan.point_variable != NONE)
        variable = np.where(plan.point_variable == NONE, 0, plan.point_variable)
        merged = combine(variable, points.value, Variances(points.systematic, points.random), known, n)
        measured, variance = merged.value, merged.variance
        self.noise, self.drift = np.nan_to_num(merged.random), np.zeros(n)
        for which, value, std in plan.declared:
            if np.isnan(measured[which]):
                measured[which], variance[which] = value, std**2
                self.drift[which] = std**2 if which in plan.closures else 0.0
        self._limit_losses(measured, variance)
        k = np.ones(len(equations.delays))
        for d, delay in enumerate(equations.delays):
            now, then = self._ends_of(delay.sender, delay.departed, points)
            if now is not None and then is not None:
                covariance = np.sqrt(points.systematic[now] * points.systematic[then])
                k[d] = covariance / points.variance[then]
                measured[delay.change] = points.value[now] - k[d] * points.value[then]
                variance[delay.change] = points.variance[now] - covariance * k[d]
                self.noise[delay.change] = points.random[now]
                measured[delay.sender] = variance[delay.sender] = np.nan
            else:
                size = measured[delay.sender] if now is not None else measured[delay.departed]
                size = size if np.isfinite(size) else equations.scale[delay.sender]
                measured[delay.change] = 0.0
                variance[delay.change] = self.drift[delay.change] = np.square(PERSISTENCE_U95 * STD_PER_U95 * size)
        return measured, variance, k

    def _limit_losses(self, measured: Floats, variance: Floats) -> None:
        """Let no stream lose more heat than half of what it carries: one that hardly flows arrives cold, not below."""
        equations = self.plan.equations
        for loss in equations.losses:
            enthalpy = equations.enthalpy[loss.stream, End.DEPARTED]
            if enthalpy == NONE or equations.unit[loss.variable] != "kW":
                continue
            flow = measured[equations.flow[loss.stream, End.RECEIVER]]
            heat = measured[enthalpy] if np.isfinite(measured[enthalpy]) else equations.scale[enthalpy]
            most = 0.5 * max(flow * heat, 0.0) if np.isfinite(flow) else np.inf
            if measured[loss.variable] > most:
                measured[loss.variable], variance[loss.variable] = most, np.square(0.5 * most)

    def _ends_of(self, sender: int, departed: int, points: Values) -> tuple[int | None, int | None]:
        """Return the sender's points now and then, where they have values."""
        now, then = self.plan.delay_points[sender, departed]
        return (now if np.isfinite(points.value[now]) else None, then if np.isfinite(points.value[then]) else None)

    def _coverage(self) -> Floats:
        """Coverage of each point by its best covered meter."""
        found = np.zeros(self.n_points)
        plan = self.plan
        shift = plan.n_streams * 3
        for slot, point in ((plan.direct.slot, plan.direct.point),
                            (plan.thermo.temperature_slot, plan.thermo.temperature_point + shift)):
            some = self.usable[slot]
            np.maximum.at(found, point[some], self.means.coverage[slot][some])
        return found


def _tempered(variances: Variances, off: Floats) -> Variances:
    """Return variances such that nothing of `off`, shape (n,), is more than `FARTHEST` std."""
    factor = np.maximum(1.0, np.square(off / FARTHEST) / np.maximum(variances.total, np.finfo(float).tiny))
    return Variances(variances.systematic * factor, variances.random * factor)
