"""What the meters say of a park's variables in one window.

    Means (by slot) ──► temperature, pressure ──► enthalpy, density     by point: a stream's end, or as it departed
                   └──► flows, heat, fractions, hold-up ─────────────►  by point ──► by variable: value and variance

- A point is where something is measured: flow, enthalpy or a fraction at a stream's sender, at its receiver, or at
  the sender as far back as what arrives now (`End.DEPARTED`); or a tank; or the sum that a heat meter forms.
- Several meters of one point, and the two ends of a stream without delay or loss, are combined by inverse variance.
- Variances are those of the *expected* value: a meter that reads zero has no weight without limit, and of two equal
  meters the lower does not weigh more. In the first pass the expected value is the plain mean of the meters of one
  variable; in the second it is the first estimate.
- Enthalpy follows from temperature, pressure and the declared phase, so heat flows need no meters of their own, and
  what F, T and p share is in the equations rather than in a covariance.
- The two windows of a delayed stream's sender (now, and when what arrives now left) share their meters' systematic
  errors. With c their covariance, v the variance then, `now - (c / v) then` is independent of `then`: that is what
  the variable `change` measures, and k = c / v goes into the equations. Where one window has no meter, the change is
  taken to be 0 within `PERSISTENCE_U95` of the value.

Here: that. Not here: which meter is placed where (placement.py makes the `Plan`, once a park), averages (window.py),
equations (equations.py), reconciliation (estimate.py). The main path enters at `Plan.observe`, once a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from park.model import Park
from park.properties import reference_enthalpy, saturation_pressure, saturation_temperature
from processing.equations import (
    NONE,
    End,
    Equations,
)
from processing.meters import STD_PER_U95, UNCERTAIN_FACTOR, Averaging, Bools, Floats, Ints, MeterArrays, Variances
from processing.states import Region, States, states
from processing.window import Means, Slots

PERSISTENCE_U95 = 0.05
"""What an unmetered flow, enthalpy or fraction may change in its delay, as a share of its value: loads of process
plants wander a few percent in minutes (the simulator's default, 1.5 % std in half an hour, is one such)."""

ELSEWHERE_P, ELSEWHERE_T = 0.1, 15.0
"""std of a pressure (share of it) and a temperature [K] that is taken from the stream's other end or a neighbour."""

UNKNOWN_P, UNKNOWN_LIQUID_PA, UNKNOWN_T = 0.5, 1.0e6, 40.0
"""The same for those of which nothing is known but the carrier; a liquid may be boiler feed water."""

LEAST_EXPECTED = 0.01
"""A flow is never expected below this share of its typical size, so that no meter is exact near zero."""

LEAST_PASSING = 0.2
"""A pipe's delay is that of at least this share of the typical flow: readings must be kept for as long, and what
stands in a pipe for longer has the temperature of the ground rather than that with which it left."""

HEAVIEST = {Region.LIQUID: 1000.0, Region.VAPOUR: 60.0, Region.SATURATED: 60.0}
"""Density that no stream of the region passes [kg/m3]: water, steam at 100 bar; for the longest delay of a pipe."""

MATES = 6
"""How many neighbours are asked for a pressure or temperature that a point has not."""


@dataclass(frozen=True, eq=False)
class Values:
    """Values with variances; NaN where there is none. All of shape (n,)."""

    value: Floats
    systematic: Floats
    random: Floats

    @property
    def variance(self) -> Floats:
        """Total variance, shape (n,)."""
        total: Floats = self.systematic + self.random
        return total


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


@dataclass(frozen=True, eq=False)
class Direct:
    """Slots that measure a variable itself: slot, point, constant factor with its std, point of the density.

    `power` says whether the density multiplies (1: a volume flow) or divides (-1: a concentration).
    """

    slot: Ints
    point: Ints
    factor: Floats
    factor_std: Floats
    density: Ints
    power: Floats


@dataclass(frozen=True, eq=False)
class Thermo:
    """Points of temperature and pressure, `stream * 3 + End`; arrays of shape (n_streams * 3,) unless said."""

    temperature_slot: Ints
    temperature_point: Ints
    pressure_slot: Ints
    pressure_point: Ints
    used: Ints               # the points where states are needed, shape (n_used,)
    region: Ints
    dryness: Floats
    dryness_std: Floats
    mates: Ints              # shape (n_streams * 3, MATES): whom to ask
    steam: Bools


@dataclass(frozen=True, eq=False)
class Plan:
    """Which meter says what of which variable, for a park; made once.

    Attributes
    ----------
    slots
        The first n_meters slots are the meters themselves, in their order; then come those seen earlier.
    slot_variable
        Variable that each slot measures, shape (n_slots,); `NONE` where it measures none.
    point_variable
        Variable of each point, shape (n_points,).
    """

    park: Park
    table: MeterArrays
    equations: Equations
    slots: Slots
    slot_variable: Ints
    point_variable: Ints
    direct: Direct
    thermo: Thermo
    pipes: tuple[tuple[int, int], ...]        # slot, stream: shifts that follow the flow
    declared: tuple[tuple[int, float, float], ...]      # variable, value, std: losses, closures, plain water
    delay_points: Mapping[tuple[int, int], tuple[int, int]]     # (sender, departed) variable -> their points

    @cached_property
    def reference(self) -> float:
        """Enthalpy of the park's reference [kJ/kg]."""
        return reference_enthalpy(self.park.park.enthalpy_reference.temperature_degC)

    @property
    def n_streams(self) -> int:
        """Number of streams."""
        return len(self.park.streams)

    def flow_point(self, stream: int, end: End) -> int:
        """Return the point of a stream's flow."""
        return stream * 3 + int(end)

    def enthalpy_point(self, stream: int, end: End) -> int:
        """Return the point of a stream's enthalpy."""
        return (self.n_streams + stream) * 3 + int(end)

    def component_point(self, name: str, stream: int, end: End) -> int:
        """Return the point of a component's fraction in a stream."""
        block = 2 + list(self.equations.component).index(name)
        return (block * self.n_streams + stream) * 3 + int(end)

    def carry(self, said: Observation, offsets: Floats, declared: Floats) -> Floats:
        """Return what offsets of the meters and of what is declared do to the variables: the linear part of `observe`.

        Parameters
        ----------
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
        slot, point = self._slot_points
        usable = said.usable[slot] & ~np.isnan(said.slot_value[slot]) & ~np.isnan(offsets[slot])
        slot, point = slot[usable], point[usable]
        at_points = _weighted(point, offsets[slot], said.slot_variance[slot], len(self.point_variable))
        known = np.flatnonzero(~np.isnan(said.points.value) & (self.point_variable != NONE))
        variables = _weighted(
            self.point_variable[known], at_points[known], said.points.variance[known], self.equations.n_variables)
        alone = ~np.isin(self.declared_variable, self.point_variable[known])
        variables[self.declared_variable[alone]] = declared[alone]
        for d, delay in enumerate(self.equations.delays):
            now, then = self.delay_points[delay.sender, delay.departed]
            if np.isnan(said.measured[delay.sender]) and not np.isnan(said.points.value[[now, then]]).any():
                variables[delay.change] = at_points[now] - said.delay_factor[d] * at_points[then]
                variables[delay.sender] = 0.0
        return variables

    @cached_property
    def declared_variable(self) -> Ints:
        """Variables of `declared`, shape (n_declared,)."""
        return np.array([variable for variable, _, _ in self.declared], dtype=np.int64)

    @cached_property
    def closures(self) -> frozenset[int]:
        """Variables that say what a node takes up or gives back in a window: no constant error, like a loss's."""
        return frozenset(row.closure for row in self.equations.nodes if row.closure != NONE)

    @cached_property
    def declared_std(self) -> Floats:
        """Std of `declared`, shape (n_declared,) [unit of the variable]."""
        return np.array([std for _, _, std in self.declared], dtype=np.float64)

    @cached_property
    def _slot_points(self) -> tuple[Ints, Ints]:
        """Slots that measure a variable, and their points."""
        shift = self.n_streams * 3
        return (np.concatenate([self.direct.slot, self.thermo.temperature_slot]),
                np.concatenate([self.direct.point, self.thermo.temperature_point + shift]))

    def reach_us(self) -> int:
        """Return how far back of a window's start readings matter: delays, and holding for an hour at most [us]."""
        held = np.minimum(self.table.hold_us[self.slots.meter], 3600 * 10**6)
        return self.delay_us() + int(held.max(initial=0))

    def delay_us(self) -> int:
        """Return the longest delay that any slot can have [us]."""
        fixed = int(self.slots.shift_us.max(initial=0))
        region = self.thermo.region[[s * 3 for _, s in self.pipes]]
        pipes = [self._pipe_delay_us(s, 0.0, HEAVIEST[Region(int(r))]) for (_, s), r in zip(
            self.pipes, region, strict=True)]
        return max([fixed, *pipes])

    def _pipe_delay_us(self, s: int, flow: float, density: float) -> int:
        """Return how long a pipe's content takes at a flow [kg/s] and density [kg/m3]."""
        typical = float(self.equations.scale[self.equations.flow[s, End.SENDER]])
        passing = max(abs(flow) if np.isfinite(flow) else typical, LEAST_PASSING * typical)
        holds = self.park.streams[s].pipe_volume_m3 or 0.0
        return round(min(density, HEAVIEST[Region(int(self.thermo.region[s * 3]))]) * holds / passing * 1e6)

    def shifted(self, flow: Floats, density: Floats) -> Slots:
        """Return the slots of one window, the delays of full pipes from their flow.

        Parameters
        ----------
        flow
            Of each stream, shape (n_streams,) [kg/s]; NaN where unknown.
        density
            At each thermodynamic point, shape (n_streams * 3,) [kg/m3].
        """
        if not self.pipes:
            return self.slots
        shift = self.slots.shift_us.copy()
        for slot, s in self.pipes:
            shift[slot] = self._pipe_delay_us(s, float(flow[s]), float(density[s * 3 + End.SENDER]))
        return Slots(self.slots.meter, shift)

    def observe(self, means: Means, usable: Bools, estimate: Floats | None = None) -> Observation:
        """Say what a window's means tell of the variables.

        Parameters
        ----------
        means
            Of `slots`, shape (n_slots,).
        usable
            Slots whose meters are believed, bool, shape (n_slots,).
        estimate
            The variables as first estimated, shape (n_variables,); without it variances are taken at plain means.
        """
        return _Window(self, means, usable & ~np.isnan(means.value), estimate).observation()


class _Window:
    """One window's observation under way."""

    def __init__(self, plan: Plan, means: Means, usable: Bools, estimate: Floats | None) -> None:
        self.plan, self.means, self.usable, self.estimate = plan, means, usable, estimate
        n = len(plan.slots)
        self.slot_value, self.slot_variance, self.slope = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
        self.slot_noise = np.full(n, np.nan)
        self.n_points = len(plan.point_variable)

    def observation(self) -> Observation:
        """Go through the steps of the picture above."""
        enthalpies = self._thermodynamics()
        flows = self._flows()
        points = Values(*(np.where(np.isnan(a), b, a) for a, b in (
            (enthalpies.value, flows.value), (enthalpies.systematic, flows.systematic),
            (enthalpies.random, flows.random))))
        measured, variance, k = self._variables(points)
        return Observation(
            self.usable, points, self._coverage(), measured, variance, self.noise, self.drift, k, self.slot_value,
            self.slot_variance, self.slope, self.slot_noise, self.states, self.temperature.value, self.density)

    # -- temperature, pressure, enthalpy --------------------------------------------------------------------------

    def _thermodynamics(self) -> Values:
        """Find temperature, pressure and state of every point, and the enthalpies that meters tell."""
        thermo = self.plan.thermo
        n = len(thermo.region)
        temperature = self._read(thermo.temperature_slot, thermo.temperature_point, n)
        pressure = self._read(thermo.pressure_slot, thermo.pressure_point, n)
        told = ~np.isnan(temperature.value)
        wet = thermo.region == Region.SATURATED
        if wet.any():
            temperature, told = self._on_saturation_line(temperature, pressure, wet)
        self.temperature = self._elsewhere(temperature, ELSEWHERE_T, absolute=True)
        self.pressure = self._default_pressure(self._elsewhere(pressure, ELSEWHERE_P, absolute=False))
        self._find_states()
        at = self.states
        by_t, by_p, by_x = at.by_temperature, np.where(wet, 0.0, at.by_pressure), at.by_dryness
        shared = by_p**2 * self.pressure.systematic + (by_x * thermo.dryness_std) ** 2
        shared_random = by_p**2 * self.pressure.random
        self._tell_slots(shared, shared_random)
        value = np.full(self.n_points, np.nan)
        systematic, random = value.copy(), value.copy()
        here = slice(self.plan.n_streams * 3, self.plan.n_streams * 6)
        value[here] = np.where(told, at.enthalpy - self.plan.reference, np.nan)
        systematic[here] = np.where(told, by_t**2 * self.temperature.systematic + shared, np.nan)
        random[here] = np.where(told, by_t**2 * self.temperature.random + shared_random, np.nan)
        return Values(value, systematic, random)

    def _read(self, slot: Ints, point: Ints, n: int) -> Values:
        """Combine slots that read the point's own quantity."""
        value = self.means.value[slot]
        variances = self._variances(slot, value)
        return combine(point, value, variances, self.usable[slot], n)

    def _variances(self, slot: Ints, expected: Floats) -> Variances:
        """Return the variances of slots' values in the meters' units [SI]."""
        means = self.means
        found = self.plan.table.variances(
            self.plan.slots.meter[slot], np.nan_to_num(expected), means.count[slot], means.span_s[slot])
        factor = np.where(means.uncertain[slot], UNCERTAIN_FACTOR, 1.0)
        return Variances(found.systematic * factor, found.random * factor)

    def _on_saturation_line(self, temperature: Values, pressure: Values, wet: Bools) -> tuple[Values, Bools]:
        """Let pressure tell the temperature of saturated streams too."""
        at = np.flatnonzero(wet & ~np.isnan(pressure.value))
        told = saturation_temperature(pressure.value[at])
        slope = (saturation_temperature(pressure.value[at] * 1.001) - told) / (pressure.value[at] * 0.001)
        both = np.concatenate([np.arange(len(wet)), at])
        merged = combine(
            both, np.concatenate([temperature.value, told]),
            Variances(np.concatenate([temperature.systematic, slope**2 * pressure.systematic[at]]),
                      np.concatenate([temperature.random, slope**2 * pressure.random[at]])),
            ~np.isnan(np.concatenate([temperature.value, told])), len(wet))
        return merged, ~np.isnan(merged.value)

    def _elsewhere(self, own: Values, std: float, *, absolute: bool) -> Values:
        """Fill what a point has not from its neighbours."""
        value, systematic, random = own.value.copy(), own.systematic.copy(), own.random.copy()
        for column in self.plan.thermo.mates.T:
            need = np.isnan(value) & (column != NONE)
            need[need] = ~np.isnan(own.value[column[need]])
            mate = column[need]
            value[need] = own.value[mate]
            more = std if absolute else std * own.value[mate]
            systematic[need] = own.systematic[mate] + np.square(more)
            random[need] = own.random[mate]
        return Values(value, systematic, random)

    def _default_pressure(self, found: Values) -> Values:
        """Give pressures of which nothing is known: water 4 bar, steam 10 bar or what its temperature allows."""
        missing = np.isnan(found.value)
        if not missing.any():
            return found
        thermo = self.plan.thermo
        default = np.where(thermo.steam, 1.0e6, 4.0e5)
        hot = missing & ~np.isnan(self.temperature.value)
        boiling = np.full(len(default), np.nan)
        boiling[hot] = saturation_pressure(self.temperature.value[hot])
        vapour = hot & (thermo.region == Region.VAPOUR)
        default[vapour] = np.minimum(default[vapour], 0.9 * boiling[vapour])
        liquid = hot & (thermo.region == Region.LIQUID)
        default[liquid] = np.maximum(default[liquid], 1.5 * boiling[liquid])
        return Values(
            np.where(missing, default, found.value),
            np.where(missing, np.square(np.where(thermo.steam, UNKNOWN_P * default, UNKNOWN_LIQUID_PA)),
                     found.systematic),
            np.where(missing, 0.0, found.random))

    def _find_states(self) -> None:
        """States at the points in use, and densities also where no temperature is known."""
        thermo = self.plan.thermo
        n, used = len(thermo.region), thermo.used
        unknown = np.isnan(self.temperature.value)
        guess = np.where(thermo.steam, 473.15, 313.15)
        self.temperature_or_guess = np.where(unknown, guess, self.temperature.value)
        found = states(
            self.temperature_or_guess[used], self.pressure.value[used], thermo.dryness[used], thermo.region[used])
        self.states = States(*(_scattered(getattr(found, name), used, n) for name in States.__dataclass_fields__))
        self.density = self.states.density
        spread = np.where(unknown, UNKNOWN_T**2, self.temperature.variance)
        by_p = np.where(thermo.region == Region.SATURATED, 0.0, self.states.density_by_pressure)
        self.density_variance = (
            self.states.density_by_temperature**2 * spread + by_p**2 * self.pressure.variance)

    def _tell_slots(self, shared: Floats, shared_random: Floats) -> None:
        """Note what each temperature meter says of its enthalpy."""
        slot, point = self.plan.thermo.temperature_slot, self.plan.thermo.temperature_point
        slope = self.states.by_temperature[point]
        value = self.means.value[slot]
        self.slope[slot] = slope
        self.slot_value[slot] = (
            self.states.enthalpy[point] - self.plan.reference + slope * (value - self.temperature.value[point]))
        own = self._variances(slot, value)
        self.slot_noise[slot] = slope**2 * own.random + shared_random[point]
        self.slot_variance[slot] = slope**2 * own.systematic + shared[point] + self.slot_noise[slot]

    # -- flows, fractions, hold-up, sums --------------------------------------------------------------------------

    def _flows(self) -> Values:
        """Combine the meters that read their variable itself, or by a density."""
        direct = self.plan.direct
        by_density = direct.density != NONE
        factor, factor_variance = direct.factor.copy(), np.square(direct.factor_std)
        at, power = direct.density[by_density], direct.power[by_density]
        factor[by_density] = self.density[at] ** power
        factor_variance[by_density] = self.density_variance[at] * self.density[at] ** (2.0 * (power - 1.0))
        reading = self.means.value[direct.slot]
        value = reading * factor
        expected = self._expected(direct, value) / factor
        inventory = self.plan.table.averaging[self.plan.slots.meter[direct.slot]] == Averaging.LEVEL
        expected = np.where(inventory, self.means.level[direct.slot], expected)
        own = self._variances(direct.slot, expected)
        variances = Variances(
            own.systematic * factor**2 + factor_variance * np.where(inventory, reading, expected) ** 2,
            own.random * factor**2)
        usable = self.usable[direct.slot] & ~np.isnan(value)
        self.slot_value[direct.slot], self.slope[direct.slot] = value, factor
        self.slot_variance[direct.slot], self.slot_noise[direct.slot] = variances.total, variances.random
        return combine(direct.point, value, variances, usable, self.n_points)

    def _expected(self, direct: Direct, value: Floats) -> Floats:
        """Return what each direct slot should say, in its variable's unit: see the rule on variances above."""
        variable = self.plan.slot_variable[direct.slot]
        n = self.plan.equations.n_variables
        if self.estimate is None:
            usable = self.usable[direct.slot] & ~np.isnan(value)
            count = np.bincount(variable[usable], minlength=n)
            total = np.bincount(variable[usable], value[usable], minlength=n)
            expected = np.where(count > 0, total / np.maximum(count, 1), self.plan.equations.scale)[variable]
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


def combine(target: Ints, value: Floats, variances: Variances, usable: Bools, n: int) -> Values:
    """Combine values of the same target by inverse variance.

    Parameters
    ----------
    target
        Where each value belongs, shape (m,).
    value, variances
        Shape (m,) [any unit].
    usable
        Which values count, bool, shape (m,).
    n
        Number of targets.

    Returns
    -------
    Values
        Shape (n,); NaN where a target has no usable value.

    Notes
    -----
    With weights ``w = (1/v) / sum(1/v)``: value ``sum w x``; each part of the variance ``sum w^2 v_part``, errors of
    different meters being independent. Equal values combine to themselves whatever their weights.
    """
    t, x = target[usable], value[usable]
    total = np.maximum(variances.total[usable], np.square(1e-9 * np.maximum(abs(x), 1e-9)))
    inverse = np.bincount(t, 1.0 / total, minlength=n)
    some = inverse > 0
    scale = np.divide(1.0, inverse, out=np.full(n, np.nan), where=some)
    weight = scale[t] / total
    parts = [np.bincount(t, part, minlength=n) for part in (
        weight * x, weight**2 * variances.systematic[usable], weight**2 * variances.random[usable])]
    return Values(*(np.where(some, part, np.nan) for part in parts))


def _weighted(target: Ints, value: Floats, variance: Floats, n: int) -> Floats:
    """Return inverse-variance means of values by target, shape (n,); 0 where there is none."""
    weight = 1.0 / np.maximum(variance, 1e-30)
    total = np.bincount(target, weight, minlength=n)
    summed = np.bincount(target, weight * value, minlength=n)
    mean: Floats = np.divide(summed, total, out=np.zeros(n), where=total > 0)
    return mean


def _scattered(values: Floats, at: Ints, n: int) -> Floats:
    full = np.full(n, np.nan)
    full[at] = values
    return full
