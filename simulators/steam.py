"""Water and steam by IAPWS-95 (CoolProp's HEOS): what the truth knows of them.

Processing uses IAPWS-IF97; the truth does not, so that processing is not checked against itself. CoolProp is
imported where it is first used: its import takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

Region = Literal["liquid", "vapour", "saturated"]

SUPERHEAT = 1.0             # [K] a vapour stays this far above saturation, a liquid as far below
FREEZING = 273.16           # [K] triple point
HOTTEST = 1273.15           # [K] end of IF97's range of vapour
ACCURATE = 1e-3             # [K] a Newton step this small is right to 1e-9 K, and its density to 1e-6
NEWTON_STEPS = 25


@dataclass(frozen=True)
class Point:
    """A state: temperature [K], specific enthalpy [kJ/kg], density [kg/m3], slope of enthalpy [kJ/kg/K]."""

    temperature: float
    enthalpy: float
    density: float
    slope: float


class Water:
    """States of water and steam; one object for each thread."""

    @cached_property
    def _library(self) -> Any:
        import CoolProp

        return CoolProp

    @cached_property
    def _states(self) -> dict[Region, Any]:
        regions: tuple[Region, ...] = ("liquid", "vapour", "saturated")
        states = {region: self._library.AbstractState("HEOS", "Water") for region in regions}
        states["liquid"].specify_phase(self._library.iphase_liquid)
        states["vapour"].specify_phase(self._library.iphase_gas)
        return states

    def at(self, temperature: float, pressure: float, region: Region) -> Point:
        """Return the state at `temperature` [K] and `pressure` [Pa], as liquid or as vapour."""
        state = self._states[region]
        state.update(self._library.PT_INPUTS, pressure, temperature)
        return Point(temperature, state.hmass() / 1e3, state.rhomass(), state.cpmass() / 1e3)

    def with_enthalpy(self, enthalpy: float, pressure: float, region: Region, guess: float) -> Point:
        """Return the state of `enthalpy` [kJ/kg] at `pressure` [Pa], as the region says; `guess` [K] starts Newton.

        An enthalpy that the region does not have gives the state that IAPWS-95 has for it.
        """
        if region == "saturated":
            return self._flash(enthalpy, pressure)
        try:
            return self._newton(enthalpy, pressure, region, guess) or self._flash(enthalpy, pressure)
        except ValueError:          # CoolProp's, of a state that is far from the region
            return self._flash(enthalpy, pressure)

    def _newton(self, enthalpy: float, pressure: float, region: Region, guess: float) -> Point | None:
        """Return the state of an enthalpy within a region; None if that does not come to rest."""
        temperature = guess
        for _ in range(NEWTON_STEPS):
            if not FREEZING - 10.0 < temperature < HOTTEST:
                return None
            point = self.at(temperature, pressure, region)
            step = (enthalpy - point.enthalpy) / point.slope
            temperature += step
            if abs(step) < ACCURATE:
                return Point(temperature, enthalpy, point.density, point.slope)
        return None

    def saturated(self, pressure: float, dryness: float) -> Point:
        """Return the state of wet steam of a `dryness` (fraction of vapour by mass) at `pressure` [Pa]."""
        state = self._states["saturated"]
        state.update(self._library.PQ_INPUTS, pressure, dryness)
        return Point(state.T(), state.hmass() / 1e3, state.rhomass(), 0.0)

    def boiling(self, temperature: float) -> Point:
        """Return the saturated liquid at `temperature` [K]; below the triple point, that of the triple point."""
        state = self._states["saturated"]
        state.update(self._library.QT_INPUTS, 0.0, max(temperature, FREEZING))
        return Point(state.T(), state.hmass() / 1e3, state.rhomass(), 0.0)

    def saturation_temperature(self, pressure: float) -> float:
        """Return the boiling temperature at `pressure` [Pa]."""
        return self.saturated(pressure, 0.0).temperature

    def saturation_pressure(self, temperature: float) -> float:
        """Return the pressure [Pa] at which water boils at `temperature` [K]."""
        state = self._states["saturated"]
        state.update(self._library.QT_INPUTS, 0.0, temperature)
        return float(state.p())

    def range(self, pressure: float, region: Region, dryness: tuple[float, float]) -> tuple[float, float]:
        """Return the lowest and highest enthalpy [kJ/kg] of the region at `pressure` [Pa]."""
        if region == "saturated":
            return self.saturated(pressure, dryness[0]).enthalpy, self.saturated(pressure, dryness[1]).enthalpy
        boiling = self.saturation_temperature(pressure)
        if region == "liquid":
            return self.at(FREEZING, pressure, region).enthalpy, self.at(boiling - SUPERHEAT, pressure, region).enthalpy
        return self.at(boiling + SUPERHEAT, pressure, region).enthalpy, self.at(HOTTEST, pressure, region).enthalpy

    def _flash(self, enthalpy: float, pressure: float) -> Point:
        """Return the state of an enthalpy in whatever phase it has; the coldest or hottest where it has none."""
        state = self._states["saturated"]
        try:
            state.update(self._library.HmassP_INPUTS, enthalpy * 1e3, pressure)
        except ValueError:
            cold, hot = self.at(FREEZING, pressure, "liquid"), self.at(HOTTEST, pressure, "vapour")
            return cold if enthalpy < 0.5 * (cold.enthalpy + hot.enthalpy) else hot
        return Point(state.T(), enthalpy, state.rhomass(), 0.0)


@cache
def water() -> Water:
    """Return the process's one object for the states of water."""
    return Water()
