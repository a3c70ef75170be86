"""Temperature, pressure and state of water and steam wherever the equations need them, in one window.

    meters of T and p ──► by point ──► saturation ──► from neighbours ──► states: enthalpy, density, their slopes

A point without a thermometer takes its neighbours' temperature, one without a gauge their pressure, with more
uncertainty; where nobody knows, the usual ones of the carrier.

Here: that. Not here: IAPWS-IF97 at many points (states.py), flows and fractions (observation.py). The main path enters
at `Conditions`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from park.properties import saturation_pressure, saturation_temperature
from park.usual import USUAL_PRESSURE, USUAL_TEMPERATURE
from processing.combining import Values, combine
from processing.equations import NONE
from processing.meters import UNCERTAIN_FACTOR, Bools, Floats, Ints, Variances
from processing.plan import Plan
from processing.states import Region, States, states
from processing.window import Means

ELSEWHERE_P, ELSEWHERE_T = 0.1, 15.0
"""std of a pressure (share of it) and a temperature [K] that is taken from the stream's other end or a neighbour."""

UNKNOWN_P, UNKNOWN_T = 0.5, 40.0
"""The same for those of which nothing is known but the carrier."""

UNKNOWN_WATER_PA, UNKNOWN_HOT_WATER_PA, BOILING_K = 3.0e5, 1.0e6, 373.15
"""std of a liquid's pressure of which nothing is known: pipes of water up to PN 16 run at 1 to 12 bar, all alike 3 bar;
what is hotter than water boils in the open may be boiler feed water."""


@dataclass(frozen=True, eq=False)
class Told:
    """What the temperature meters say of enthalpies: value, variance, what of it is new in each window [kJ/kg], slope.

    All of shape (n_temperature_slots,), in the order of `Thermo.temperature_slot`.
    """

    value: Floats
    variance: Floats
    noise: Floats
    slope: Floats


class Conditions:
    """The conditions at every point of one window, shape (n_streams * 3,) unless said.

    Parameters
    ----------
    plan
        Of the park.
    means
        Of the plan's slots, shape (n_slots,).
    usable
        Slots whose meters are believed and have a value, bool, shape (n_slots,).

    Attributes
    ----------
    temperature, pressure
        [K], [Pa]; NaN temperature where nobody tells.
    states
        Of water and steam.
    density_variance
        [kg2/m6].
    enthalpy
        Above the park's reference [kJ/kg]; NaN where no meter tells.
    told
        What each temperature meter says of it.
    """

    def __init__(self, plan: Plan, means: Means, usable: Bools) -> None:
        self.plan, self.means, self.usable = plan, means, usable
        thermo = plan.thermo
        temperature = self._read(thermo.temperature_slot, thermo.temperature_point)
        pressure = self._read(thermo.pressure_slot, thermo.pressure_point)
        told, wet = ~np.isnan(temperature.value), thermo.region == Region.SATURATED
        if wet.any():
            temperature, told = self._on_saturation_line(temperature, pressure, wet)
        self.temperature = self._elsewhere(temperature, ELSEWHERE_T, absolute=True)
        self.pressure = self._default_pressure(self._elsewhere(pressure, ELSEWHERE_P, absolute=False))
        self._find_states()
        self._find_enthalpies(told, wet)

    def _find_enthalpies(self, told: Bools, wet: Bools) -> None:
        """Find the enthalpies that meters tell, all the points' and each meter's own."""
        thermo, at = self.plan.thermo, self.states
        by_t, by_p, by_x = at.by_temperature, np.where(wet, 0.0, at.by_pressure), at.by_dryness
        shared = by_p**2 * self.pressure.systematic + (by_x * thermo.dryness_std) ** 2
        shared_random = by_p**2 * self.pressure.random
        self.told = self._tell_slots(shared, shared_random)
        self.enthalpy = Values(
            np.where(told, at.enthalpy - self.plan.reference, np.nan),
            np.where(told, by_t**2 * self.temperature.systematic + shared, np.nan),
            np.where(told, by_t**2 * self.temperature.random + shared_random, np.nan))

    def _read(self, slot: Ints, point: Ints) -> Values:
        """Combine slots that read the point's own quantity."""
        value = self.means.value[slot]
        variances = slot_variances(self.plan, self.means, slot, value)
        return combine(point, value, variances, self.usable[slot], len(self.plan.thermo.region))

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
        """Give pressures of which nothing is known: the usual ones, or what the temperature allows."""
        missing = np.isnan(found.value)
        if not missing.any():
            return found
        thermo = self.plan.thermo
        default = np.where(thermo.steam, USUAL_PRESSURE["steam"], USUAL_PRESSURE["water"])
        hot = missing & ~np.isnan(self.temperature.value)
        boiling = np.full(len(default), np.nan)
        boiling[hot] = saturation_pressure(self.temperature.value[hot])
        vapour = hot & (thermo.region == Region.VAPOUR)
        default[vapour] = np.minimum(default[vapour], 0.9 * boiling[vapour])
        liquid = hot & (thermo.region == Region.LIQUID)
        default[liquid] = np.maximum(default[liquid], 1.5 * boiling[liquid])
        of_water = np.where(np.nan_to_num(self.temperature.value) > BOILING_K, UNKNOWN_HOT_WATER_PA, UNKNOWN_WATER_PA)
        return Values(
            np.where(missing, default, found.value),
            np.where(missing, np.square(np.where(thermo.steam, UNKNOWN_P * default, of_water)), found.systematic),
            np.where(missing, 0.0, found.random))

    def _find_states(self) -> None:
        """States at the points in use, and densities also where no temperature is known."""
        thermo = self.plan.thermo
        n, used = len(thermo.region), thermo.used
        unknown = np.isnan(self.temperature.value)
        guess = np.where(thermo.steam, USUAL_TEMPERATURE["steam"], USUAL_TEMPERATURE["water"])
        temperature = np.where(unknown, guess, self.temperature.value)
        found = states(
            temperature[used], self.pressure.value[used], thermo.dryness[used], thermo.region[used])
        self.states = States(*(_scattered(getattr(found, name), used, n) for name in States.__dataclass_fields__))
        spread = np.where(unknown, UNKNOWN_T**2, self.temperature.variance)
        by_p = np.where(thermo.region == Region.SATURATED, 0.0, self.states.density_by_pressure)
        self.density_variance = (
            self.states.density_by_temperature**2 * spread + by_p**2 * self.pressure.variance)

    def _tell_slots(self, shared: Floats, shared_random: Floats) -> Told:
        """Return what each temperature meter says of its enthalpy."""
        slot, point = self.plan.thermo.temperature_slot, self.plan.thermo.temperature_point
        slope, value = self.states.by_temperature[point], self.means.value[slot]
        own = slot_variances(self.plan, self.means, slot, value)
        noise = slope**2 * own.random + shared_random[point]
        told = self.states.enthalpy[point] - self.plan.reference + slope * (value - self.temperature.value[point])
        return Told(told, slope**2 * own.systematic + shared[point] + noise, noise, slope)


def slot_variances(plan: Plan, means: Means, slot: Ints, expected: Floats) -> Variances:
    """Return the variances of slots' values in the meters' units.

    Parameters
    ----------
    plan, means
        Of the park, and of the window.
    slot
        Which slots, shape (n,).
    expected
        What they should have read, shape (n,) [SI].
    """
    found = plan.table.variances(
        plan.slots.meter[slot], np.nan_to_num(expected), means.count[slot], means.span_s[slot])
    factor = np.where(means.uncertain[slot], UNCERTAIN_FACTOR, 1.0)
    return Variances(found.systematic * factor, found.random * factor)


def _scattered(values: Floats, at: Ints, n: int) -> Floats:
    full = np.full(n, np.nan)
    full[at] = values
    return full
