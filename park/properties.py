"""Enthalpy and density of water and steam by IAPWS-IF97, and how they change with what is measured.

Here are `enthalpy`, `density`, their slopes (for the propagation of uncertainty) and the states at saturation. Not
here: the true state that a simulator plays, which it takes from another formulation (IAPWS-95), so that nothing
checks itself; and which pressure a stream without a pressure meter has.

All functions take floats or arrays that broadcast, in SI (Pa absolute, K), and return float64 arrays in kJ/kg and
kg/m3. NaN in, NaN out. A state that IF97 does not know gives NaN too, never an exception: it knows 273.15 K to
1073.15 K up to 100 MPa, and up to 2273.15 K up to 50 MPa. Liquid is carried on in a straight line for 3 K below,
because a thermometer in freezing water reads less than 0 degC as often as more.

**Near saturation** pressure and temperature do not tell water from steam: an error of 0.1 K would be one of
2,000 kJ/kg. A declared phase decides:

===========  =====================================================================================================
phase        state
===========  =====================================================================================================
liquid       liquid at (p, T); where p is below the saturation pressure at T, the saturated liquid at T
vapour       vapour at (p, T); where p is above the saturation pressure at T, the saturated vapour at T
saturated    the mixture of both at p, with `dryness` its fraction of vapour; where p is NaN, at T
None         the stable phase at (p, T)
===========  =====================================================================================================

All four go over into one another without a step, so that a noisy reading moves the result by a little.

CoolProp computes; importing it takes 2-3 s, so only functions import it.

References
----------
W. Wagner et al., "The IAPWS Industrial Formulation 1997 for the Thermodynamic Properties of Water and Steam",
J. Eng. Gas Turbines Power 122 (2000) 150-184; IAPWS R7-97(2012).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from park.model import Phase, Stream

Values = npt.NDArray[np.float64]
Given = npt.ArrayLike

TRIPLE_TEMPERATURE = 273.16  # [K]  IAPWS R7-97(2012), section 1
TRIPLE_PRESSURE = 611.657  # [Pa] the same
HIGHEST_PRESSURE = 100e6            # [Pa] the same, section 4
ZERO_CELSIUS = 273.15  # [K] and the lowest temperature that IF97 knows

_BESIDE = 1e-6  # so far, relative to p, a state stays off the saturation line, on which (p, T) tells no phase
_STEP_KELVIN = 0.01  # of the differences; truncation and rounding both stay below 1e-7 of a slope
_STEP_PRESSURE = 1e-4  # relative
_BELOW_FREEZING = 3.0  # [K] more than the error of any thermometer that deserves the name


@dataclass(frozen=True)
class Slopes:
    """How a property changes with what is measured.

    Attributes
    ----------
    per_kelvin
        Partial derivative by temperature at constant pressure, shape as broadcast [kJ/(kg K) or kg/(m3 K)].
    per_pascal
        By pressure at constant temperature [kJ/(kg Pa) or kg/(m3 Pa)].
    per_dryness
        By the fraction of vapour [kJ/kg or kg/m3]; 0 unless the phase is saturated.
    """

    per_kelvin: Values
    per_pascal: Values
    per_dryness: Values


def enthalpy(pressure: Given, temperature: Given, phase: Phase | None = None, dryness: Given = 1.0) -> Values:
    """Return the specific enthalpy of water or steam.

    Parameters
    ----------
    pressure, temperature
        Absolute [Pa] and [K], of shapes that broadcast.
    phase
        As declared for the stream; see the table above.
    dryness
        Fraction of the mass that is vapour [1]; for phase saturated alone.

    Returns
    -------
    numpy.ndarray
        Of the broadcast shape [kJ/kg]; zero near liquid at the triple point, as IF97 has it: take
        `reference_enthalpy` off for the contract's heat flow.

    Examples
    --------
    >>> float(enthalpy(3e6, 300.0).round(6))
    115.331273
    """
    return _mixed("H", pressure, temperature, phase, dryness) / 1000.0


def density(pressure: Given, temperature: Given, phase: Phase | None = None, dryness: Given = 1.0) -> Values:
    """Return the density of water or steam, of the broadcast shape [kg/m3]; parameters as for `enthalpy`."""
    return 1.0 / _mixed("V", pressure, temperature, phase, dryness)


def enthalpy_slopes(pressure: Given, temperature: Given, phase: Phase | None = None, dryness: Given = 1.0) -> Slopes:
    """Return how `enthalpy` changes with temperature, pressure and dryness; parameters as there."""
    return _slopes(enthalpy, pressure, temperature, phase, dryness)


def density_slopes(pressure: Given, temperature: Given, phase: Phase | None = None, dryness: Given = 1.0) -> Slopes:
    """Return how `density` changes with temperature, pressure and dryness; parameters as for `enthalpy`."""
    return _slopes(density, pressure, temperature, phase, dryness)


def saturation_pressure(temperature: Given) -> Values:
    """Return the pressure [Pa] at which water boils at `temperature` [K]; NaN outside triple and critical point."""
    kelvin = np.asarray(temperature, dtype=np.float64)
    return _computed("P", kelvin, np.zeros_like(kelvin), "T", "Q")


def saturation_temperature(pressure: Given) -> Values:
    """Return the temperature [K] at which water boils at `pressure` [Pa]; NaN outside triple and critical point."""
    pascal = np.asarray(pressure, dtype=np.float64)
    return _computed("T", pascal, np.zeros_like(pascal), "P", "Q")


def reference_enthalpy(temperature_degC: float) -> float:
    """Return the enthalpy [kJ/kg] of the contract's reference state: saturated liquid water at `temperature_degC`."""
    kelvin = temperature_degC + ZERO_CELSIUS
    return float(enthalpy(TRIPLE_PRESSURE, kelvin, "liquid"))


def phase_of(stream: Stream) -> Phase | None:
    """Return the phase that decides near saturation: water is liquid, steam is what it declares."""
    return "liquid" if stream.carrier == "water" else stream.phase


def _mixed(output: str, pressure: Given, temperature: Given, phase: Phase | None, dryness: Given) -> Values:
    """Return a mass-specific property in CoolProp's SI; V is the specific volume, which mixes as enthalpy does."""
    pascal, kelvin, wet = (np.asarray(given, dtype=np.float64) for given in (pressure, temperature, dryness))
    if phase != "saturated":
        pascal, kelvin = np.broadcast_arrays(pascal, kelvin)
        return _one_phase(output, pascal, kelvin, phase)
    pascal, kelvin, wet = np.broadcast_arrays(pascal, kelvin, wet)
    at = np.where(np.isnan(pascal), saturation_pressure(kelvin), pascal)
    liquid, vapour = (_computed_specific(output, at, np.full_like(at, share), "P", "Q") for share in (0.0, 1.0))
    return liquid + wet * (vapour - liquid)


def _one_phase(output: str, pascal: Values, kelvin: Values, phase: Phase | None) -> Values:
    """Return a property at (p, T), kept on its side of the saturation line; of liquid also a little below freezing."""
    below = kelvin - ZERO_CELSIUS
    cold = (below < 0.0) & (below >= -_BELOW_FREEZING)
    if phase == "vapour" or not cold.any():
        return _known_phase(output, pascal, kelvin, phase)
    freezing = _known_phase(output, pascal, np.where(cold, ZERO_CELSIUS, kelvin), phase)
    warmer = _known_phase(output, pascal, np.where(cold, ZERO_CELSIUS + 1.0, kelvin), phase)
    return np.where(cold, freezing + below * (warmer - freezing), freezing)


def _known_phase(output: str, pascal: Values, kelvin: Values, phase: Phase | None) -> Values:
    """Return a property at (p, T) where IF97 knows it, kept on its side of the saturation line."""
    boiling = saturation_pressure(kelvin)
    boiling = np.where(kelvin < TRIPLE_TEMPERATURE, TRIPLE_PRESSURE, boiling)  # no ice: water down to 273.15 K
    above, below = boiling * (1.0 + _BESIDE), boiling * (1.0 - _BESIDE)
    liquid, vapour = np.fmax(pascal, above), np.fmin(pascal, below)  # fmax: above the critical point there is no line
    if phase == "liquid":
        kept = liquid
    elif phase == "vapour":
        kept = vapour
    else:
        kept = np.where(pascal > boiling, liquid, np.where(np.isnan(boiling), pascal, vapour))
    in_range = (pascal > 0) & (pascal <= HIGHEST_PRESSURE)      # of the reading itself, wherever it is kept
    return _computed_specific(output, np.where(in_range, kept, np.nan), kelvin, "P", "T")


def _computed_specific(output: str, first: Values, second: Values, first_name: str, second_name: str) -> Values:
    if output == "V":
        return 1.0 / _computed("D", first, second, first_name, second_name)
    return _computed(output, first, second, first_name, second_name)


def _computed(output: str, first: Values, second: Values, first_name: str, second_name: str) -> Values:
    """Return what CoolProp's IF97 computes, NaN where it cannot."""
    from CoolProp.CoolProp import PropsSI

    result = np.full(first.shape, np.nan)
    known = np.isfinite(first) & np.isfinite(second)
    if known.any():
        try:
            values = np.asarray(PropsSI(output, first_name, first[known], second_name, second[known], "IF97::Water"))
        except ValueError:  # every single state is out of range; with one inside, CoolProp gives inf for the others
            return result
        result[known] = np.where(np.isfinite(values), values, np.nan)
    return result


def _slopes(
    function: Callable[[Given, Given, Phase | None, Given], Values],
    pressure: Given,
    temperature: Given,
    phase: Phase | None,
    dryness: Given,
) -> Slopes:
    """Return the slopes of `function` by differences; one-sided where the other side is out of range."""
    pascal, kelvin, wet = np.broadcast_arrays(
        *(np.asarray(g, dtype=np.float64) for g in (pressure, temperature, dryness))
    )
    pascal = np.where(np.isfinite(pascal), pascal, np.nan)
    step = _STEP_PRESSURE * pascal
    here = function(pascal, kelvin, phase, wet)
    per_kelvin = _slope(
        here,
        function(pascal, kelvin - _STEP_KELVIN, phase, wet),
        function(pascal, kelvin + _STEP_KELVIN, phase, wet),
        _STEP_KELVIN,
    )
    per_pascal = _slope(
        here, function(pascal - step, kelvin, phase, wet), function(pascal + step, kelvin, phase, wet), step
    )
    per_dryness = np.where(np.isnan(here), np.nan, 0.0)
    if phase == "saturated":
        per_kelvin = np.where(np.isnan(pascal), per_kelvin, np.where(np.isnan(here), np.nan, 0.0))
        per_pascal = np.where(np.isnan(pascal) & ~np.isnan(here), 0.0, per_pascal)
        small = 1e-6
        per_dryness = (function(pascal, kelvin, phase, wet + small) - function(pascal, kelvin, phase, wet - small)) / (
            2 * small
        )
    return Slopes(per_kelvin, per_pascal, per_dryness)


def _slope(here: Values, before: Values, after: Values, step: Values | float) -> Values:
    """Return the mean of the slopes before and after, or the one of them that there is."""
    backward, forward = (here - before) / step, (after - here) / step
    return np.where(np.isnan(backward), forward, np.where(np.isnan(forward), backward, (backward + forward) / 2))
