"""The contract's units and their SI values; used when a configuration is read, never for a single reading.

Here are the list of units (`UNITS`), what each measures (`dimension`), which of them a quantity may have
(`dimensions_of_quantity`) and the conversions. Not here: fluid properties, which turn volume into mass.
The way in is `conversion`: take it once for a meter, apply it to arrays of its readings.

"SI" is what the store and the processing hold: kg/s, m3/s, kW, kJ, kg, m3, K, Pa absolute, fractions of 1,
kg/m3, S/m, NTU, pH, m. Normal cubic metres stay normal cubic metres: they are an amount of gas, not a space.

pint knows neither m3/h, barg, Nm3 nor NTU and reads pH as picohenry; so it runs on the definitions below alone,
in fractions, which makes every scale the double nearest to the true one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pint

Number = TypeVar("Number", float, npt.NDArray[np.float64])

_DEFINITIONS = """
kilo- = 1000
mega- = 1000000
giga- = 1000000000
gram = [mass] = g
meter = [length] = m
second = [time] = s
kelvin = [temperature]; offset: 0 = K
siemens = [conductance] = S
turbidity_unit = [turbidity]
acidity_unit = [acidity]
normal_cubic_meter = [amount_of_gas]
minute = 60 * second
hour = 3600 * second
day = 86400 * second
tonne = 1000 * kilogram
liter = meter ** 3 / 1000
watt = kilogram * meter ** 2 / second ** 3
joule = watt * second
watt_hour = watt * hour
pascal = kilogram / meter / second ** 2
bar = 100000 * pascal
gauge_bar = bar; offset: 1.01325
degree_celsius = kelvin; offset: 273.15
"""
# gauge_bar: above the standard atmosphere of 101 325 Pa (ISO 2533); degree_celsius: the SI brochure, section 2.3.4


class Dimension(StrEnum):
    """What a unit measures."""

    MASS_FLOW = "mass flow"
    VOLUME_FLOW = "volume flow"
    NORMAL_VOLUME_FLOW = "normal volume flow"
    POWER = "power"
    ENERGY = "energy"
    MASS = "mass"
    VOLUME = "volume"
    NORMAL_VOLUME = "normal volume"
    TEMPERATURE = "temperature"
    PRESSURE = "pressure"
    RATIO = "ratio"
    CONCENTRATION = "concentration"
    CONDUCTIVITY = "conductivity"
    TURBIDITY = "turbidity"
    ACIDITY = "acidity"
    LENGTH = "length"


_SI: Mapping[Dimension, tuple[str, str]] = {     # dimension: its SI unit for pint, and as it is printed
    Dimension.MASS_FLOW: ("kilogram / second", "kg/s"),
    Dimension.VOLUME_FLOW: ("meter ** 3 / second", "m3/s"),
    Dimension.NORMAL_VOLUME_FLOW: ("normal_cubic_meter / second", "Nm3/s"),
    Dimension.POWER: ("kilowatt", "kW"),
    Dimension.ENERGY: ("kilojoule", "kJ"),
    Dimension.MASS: ("kilogram", "kg"),
    Dimension.VOLUME: ("meter ** 3", "m3"),
    Dimension.NORMAL_VOLUME: ("normal_cubic_meter", "Nm3"),
    Dimension.TEMPERATURE: ("kelvin", "K"),
    Dimension.PRESSURE: ("pascal", "Pa"),
    Dimension.RATIO: ("dimensionless", "1"),
    Dimension.CONCENTRATION: ("kilogram / meter ** 3", "kg/m3"),
    Dimension.CONDUCTIVITY: ("siemens / meter", "S/m"),
    Dimension.TURBIDITY: ("turbidity_unit", "NTU"),
    Dimension.ACIDITY: ("acidity_unit", "pH"),
    Dimension.LENGTH: ("meter", "m"),
}

_UNITS: Mapping[str, tuple[str, Fraction]] = {   # the contract's unit: its pint unit, and how many of those it is
    "kg/s": ("kilogram / second", Fraction(1)),
    "kg/min": ("kilogram / minute", Fraction(1)),
    "kg/h": ("kilogram / hour", Fraction(1)),
    "t/h": ("tonne / hour", Fraction(1)),
    "t/d": ("tonne / day", Fraction(1)),
    "m3/s": ("meter ** 3 / second", Fraction(1)),
    "m3/h": ("meter ** 3 / hour", Fraction(1)),
    "m3/d": ("meter ** 3 / day", Fraction(1)),
    "l/s": ("liter / second", Fraction(1)),
    "l/min": ("liter / minute", Fraction(1)),
    "Nm3/h": ("normal_cubic_meter / hour", Fraction(1)),
    "W": ("watt", Fraction(1)),
    "kW": ("kilowatt", Fraction(1)),
    "MW": ("megawatt", Fraction(1)),
    "GJ/h": ("gigajoule / hour", Fraction(1)),
    "kWh": ("kilowatt_hour", Fraction(1)),
    "MWh": ("megawatt_hour", Fraction(1)),
    "GJ": ("gigajoule", Fraction(1)),
    "kg": ("kilogram", Fraction(1)),
    "t": ("tonne", Fraction(1)),
    "m3": ("meter ** 3", Fraction(1)),
    "l": ("liter", Fraction(1)),
    "Nm3": ("normal_cubic_meter", Fraction(1)),
    "degC": ("degree_celsius", Fraction(1)),
    "K": ("kelvin", Fraction(1)),
    "Pa": ("pascal", Fraction(1)),
    "kPa": ("kilopascal", Fraction(1)),
    "bar": ("bar", Fraction(1)),
    "bara": ("bar", Fraction(1)),
    "barg": ("gauge_bar", Fraction(1)),
    "1": ("dimensionless", Fraction(1)),
    "%": ("dimensionless", Fraction(1, 100)),
    "ppm": ("dimensionless", Fraction(1, 1_000_000)),
    "mg/kg": ("dimensionless", Fraction(1, 1_000_000)),
    "mg/l": ("gram / liter", Fraction(1, 1000)),
    "g/l": ("gram / liter", Fraction(1)),
    "uS/cm": ("siemens / meter", Fraction(1, 10_000)),
    "mS/cm": ("siemens / meter", Fraction(1, 10)),
    "NTU": ("turbidity_unit", Fraction(1)),
    "pH": ("acidity_unit", Fraction(1)),
    "m": ("meter", Fraction(1)),
}

UNITS: tuple[str, ...] = tuple(_UNITS)
"""The contract's units, exactly, in its order."""

_FLOW = frozenset({Dimension.VOLUME_FLOW, Dimension.NORMAL_VOLUME_FLOW})
_VOLUME = frozenset({Dimension.VOLUME, Dimension.NORMAL_VOLUME})
_PROPERTIES = frozenset({
    Dimension.RATIO, Dimension.CONCENTRATION, Dimension.CONDUCTIVITY, Dimension.TURBIDITY, Dimension.ACIDITY,
    Dimension.LENGTH, Dimension.TEMPERATURE, Dimension.PRESSURE,
})
_QUANTITIES: Mapping[str, frozenset[Dimension]] = {
    "mass_flow": frozenset({Dimension.MASS_FLOW}),
    "volume_flow": _FLOW,
    "heat_flow": frozenset({Dimension.POWER}),
    "power": frozenset({Dimension.POWER}),
    "mass_total": frozenset({Dimension.MASS}),
    "volume_total": _VOLUME,
    "energy_total": frozenset({Dimension.ENERGY}),
    "mass_batch": frozenset({Dimension.MASS}),
    "temperature": frozenset({Dimension.TEMPERATURE}),
    "pressure": frozenset({Dimension.PRESSURE}),
    "inventory": frozenset({Dimension.MASS, Dimension.ENERGY}) | _VOLUME,
}

QUANTITIES: tuple[str, ...] = tuple(_QUANTITIES)
"""The contract's quantities but `quality.<property>`."""


class UnknownUnitError(ValueError):
    """The unit is not in the contract's list."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The straight line from a unit to SI: ``si = value * scale + offset``.

    Parameters
    ----------
    scale
        SI units in one unit.
    offset
        SI value of zero [SI]; other than 0 for degC and barg only.
    """

    scale: float
    offset: float = 0.0

    def to_si(self, value: Number) -> Number:
        """Return `value`, a float or an array of any shape [unit], in SI."""
        return value * self.scale + self.offset

    def from_si(self, value: Number) -> Number:
        """Return the SI `value`, a float or an array of any shape, in the unit."""
        return (value - self.offset) / self.scale


@cache
def conversion(unit: str) -> Conversion:
    """Return the conversion of `unit` to SI.

    Raises
    ------
    UnknownUnitError
        If the contract has no such unit; the message names the nearest ones.

    Examples
    --------
    >>> conversion("barg").to_si(1.0)
    201325.0
    """
    registry = _registry()
    expression, factor = _expression(unit)
    target = _SI[dimension(unit)][0]
    offset = registry.Quantity(Fraction(0), expression).to(target).magnitude
    scale = factor * (registry.Quantity(Fraction(1), expression).to(target).magnitude - offset)
    return Conversion(float(scale), float(offset))


@cache
def dimension(unit: str) -> Dimension:
    """Return what `unit` measures; raises `UnknownUnitError` as `conversion` does."""
    registry = _registry()
    dimensionality = registry.Unit(_expression(unit)[0]).dimensionality
    return next(d for d, (si, _) in _SI.items() if registry.Unit(si).dimensionality == dimensionality)


@cache
def units_of(*dimensions: Dimension) -> tuple[str, ...]:
    """Return the contract's units that measure any of `dimensions`, in its order."""
    return tuple(unit for unit in UNITS if dimension(unit) in dimensions)


def si_unit(unit: str) -> str:
    """Return how the SI unit is printed that values of `unit` are held in."""
    return _SI[dimension(unit)][1]


def dimensions_of_quantity(quantity: str) -> frozenset[Dimension]:
    """Return what a meter's `quantity` may be measured in; empty for a quantity that the contract does not know.

    A `quality.<property>` may have any unit that describes matter rather than an amount of it;
    the properties temperature and pressure have their own units alone.
    """
    if quantity.startswith("quality."):
        name = quantity.removeprefix("quality.")
        return property_dimensions(name) if name else frozenset()
    return _QUANTITIES.get(quantity, frozenset())


def property_dimensions(name: str) -> frozenset[Dimension]:
    """Return what the quality property `name` may be measured in."""
    return _QUANTITIES[name] if name in ("temperature", "pressure") else _PROPERTIES


def to_si(value: float, unit: str) -> float:
    """Return `value` of `unit` in SI; raises `UnknownUnitError` as `conversion` does."""
    return conversion(unit).to_si(value)


def from_si(value: float, unit: str) -> float:
    """Return the SI `value` in `unit`; raises `UnknownUnitError` as `conversion` does."""
    return conversion(unit).from_si(value)


def to_si_difference(value: float, unit: str) -> float:
    """Return a difference of two values of `unit` in SI: the scale without the offset."""
    return value * conversion(unit).scale


def similar_units(unit: str) -> tuple[str, ...]:
    """Return the contract's units that look most like `unit`, for a hint."""
    plain = unit.replace("³", "3").replace("°", "deg").replace("µ", "u").replace("μ", "u").replace(" ", "")
    lower = {known.lower(): known for known in UNITS}
    if plain.lower() in lower:
        return (lower[plain.lower()],)
    close = difflib.get_close_matches(plain.lower(), lower, n=3, cutoff=0.5)
    return tuple(lower[match] for match in close)


def _expression(unit: str) -> tuple[str, Fraction]:
    if unit not in _UNITS:
        near = similar_units(unit)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UnknownUnitError(f"unit {unit!r} is unknown{hint}")
    return _UNITS[unit]


@cache
def _registry() -> pint.UnitRegistry[Fraction]:
    """Build pint's registry of our definitions; pint takes 0.3 s to import, so nothing imports it before."""
    import pint

    registry: pint.UnitRegistry[Fraction] = pint.UnitRegistry(
        None, non_int_type=Fraction, autoconvert_offset_to_baseunit=True)
    registry.load_definitions(_DEFINITIONS.strip().splitlines())
    return registry
