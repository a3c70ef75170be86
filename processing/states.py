"""States of water and steam where meters stand: enthalpy and density, and how they move with what is measured.

Here: many points at once, each liquid, vapour or on the saturation line, by IAPWS-IF97 from `park.properties`. Not
here: which meters say temperature and pressure there (observation.py). The main path enters at `states`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from park.model import Phase, Stream
from park.properties import density, enthalpy
from processing.meters import Floats, Ints

STEP_K, STEP_RELATIVE = 0.05, 1e-4
"""Steps of temperature [K] and pressure [1] for slopes: far above IF97's last digit, far below its curvature."""

LATENT = 2000.0
"""Enthalpy of evaporation near 10 bar [kJ/kg]: what dryness moves; its own uncertainty is second order."""


class Region(IntEnum):
    """Which side of the saturation line a stream is on, by its declared phase."""

    LIQUID = 0
    VAPOUR = 1
    SATURATED = 2


_PHASES: dict[Region, Phase] = {
    Region.LIQUID: "liquid", Region.VAPOUR: "vapour", Region.SATURATED: "saturated"}


def region_of(stream: Stream) -> Region:
    """Return the region that a stream of water or steam declares; steam that declares none is vapour."""
    if stream.carrier == "water" or stream.phase == "liquid":
        return Region.LIQUID
    return Region.SATURATED if stream.phase == "saturated" else Region.VAPOUR


@dataclass(frozen=True, eq=False)
class States:
    """Properties at some points, shape (n_points,) each; NaN where IF97 knows no such state.

    Attributes
    ----------
    enthalpy
        [kJ/kg], absolute.
    by_temperature, by_pressure, by_dryness
        Its slopes [kJ/kg/K], [kJ/kg/Pa], [kJ/kg].
    density
        [kg/m3].
    density_by_temperature, density_by_pressure
        Its slopes [kg/m3/K], [kg/m3/Pa].
    """

    enthalpy: Floats
    by_temperature: Floats
    by_pressure: Floats
    by_dryness: Floats
    density: Floats
    density_by_temperature: Floats
    density_by_pressure: Floats


def states(temperature: Floats, pressure: Floats, dryness: Floats, region: Ints) -> States:
    """Return the states at some points.

    Parameters
    ----------
    temperature, pressure, dryness
        [K], [Pa], [1], shape (n_points,). On the saturation line the temperature says which state, elsewhere the
        dryness does not matter.
    region
        Values of `Region`, shape (n_points,).

    Returns
    -------
    States
        NaN where a temperature or pressure is NaN.
    """
    n = len(region)
    step = STEP_RELATIVE * pressure
    t = np.concatenate([temperature, temperature + STEP_K, temperature])
    p = np.concatenate([pressure, pressure, pressure + step])
    h, rho = np.full(3 * n, np.nan), np.full(3 * n, np.nan)
    for kind, phase in _PHASES.items():
        at = np.flatnonzero(np.tile(region == kind, 3))
        if at.size:
            given = np.full(at.size, np.nan) if kind is Region.SATURATED else p[at]
            wet = np.tile(dryness, 3)[at]
            h[at], rho[at] = enthalpy(given, t[at], phase, wet), density(given, t[at], phase, wet)
    here, hotter, denser = h.reshape(3, n)
    thick, warm, tight = rho.reshape(3, n)
    return States(
        here, (hotter - here) / STEP_K, (denser - here) / step, np.where(region == Region.SATURATED, LATENT, 0.0),
        thick, (warm - thick) / STEP_K, (tight - thick) / step)
