"""Where each quantity of a park lies, and how far it wanders: from the scenario, the park's limits, or defaults.

Here: `Level`, and the rules by which a park without a scenario gets temperatures, pressures, compositions and
first guesses of flows. Not here: the balances, which have the last word on all of them (`simulators.plant`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from park.model import WATER_DENSITY, Park, Stream
from park.units import Dimension, dimension, to_si, to_si_difference
from simulators.scenario import PropertyScenario, Scenario, StreamScenario
from simulators.scenario_checks import limits_of

WITHIN = 0.15               # of the way from the mean to the nearest limit: the wander's std, which peaks at 3.2 std
INSIDE = 0.25               # of a single limit's value: how far the mean keeps from it
INSIDE_K = 15.0             # [K] the same for a limit on temperature
OF_SPAN = 0.6               # of a meter's span: where it is used
PERIOD_S = 1800.0

_CARRIER_TEMPERATURE = {"steam": 473.15, "water": 313.15}      # [K] a guess, soft against balances
_AMBIENT = 288.15                                              # [K]
_CARRIER_PRESSURE = {"steam": 1.0e6, "water": 4.0e5}           # [Pa]
_ATMOSPHERE = 101325.0                                         # [Pa]
_TYPICAL = {                                                   # [SI] a quality property of which nothing is said
    Dimension.RATIO: 0.1, Dimension.CONCENTRATION: 0.1, Dimension.CONDUCTIVITY: 0.1, Dimension.TURBIDITY: 5.0,
    Dimension.ACIDITY: 7.0, Dimension.LENGTH: 1.0, Dimension.TEMPERATURE: 293.15, Dimension.PRESSURE: 1.0e5,
}
_RELATIVE_WANDER = 0.01     # of a value of which nothing is said
_WANDERS = {"temperature": 0.5, "pressure": 5.0e3}             # [K, Pa]


@dataclass(frozen=True)
class Level:
    """A mean, the std and typical period of its wander, and whether it is only a guess; in SI."""

    mean: float
    std: float
    period_s: float = PERIOD_S
    guessed: bool = False


class Range(NamedTuple):
    """Limits in SI; None where open."""

    low: float | None
    high: float | None


def level(park: Park, scenario: Scenario, stream: Stream, name: str) -> Level:
    """Return where a property of a stream lies at its sender."""
    played = _played(scenario.streams.get(stream.id, StreamScenario()), name)
    limits = _range(park, stream.id, name)
    if played is not None:
        return _from_scenario(played, name, limits)
    middle = _middle(limits, name)
    if middle is not None:
        return Level(middle, _std(name, middle, limits))
    spanned = _spanned(park, stream.id, name)
    if spanned is None and name == "water" and stream.has_enthalpy:
        return Level(1.0, 0.0)                              # water is water
    mean = _typical(park, stream, name) if spanned is None else spanned
    return Level(mean, _std(name, mean, limits), guessed=True)


def unit_dimension(park: Park, scenario: Scenario, stream: Stream, name: str) -> Dimension | None:
    """Return in which dimension a property of a stream is given; None where nothing is said of it."""
    played = _played(scenario.streams.get(stream.id, StreamScenario()), name)
    units = [] if played is None else [played.unit]
    units += [limit.unit for limit in limits_of(park, stream.id) if limit.property == name]
    units += [m.unit for m in park.meters if m.property_name == name and stream.id in m.signed_streams]
    return dimension(units[0]) if units else None


def flow_guess(park: Park, stream: Stream) -> float | None:
    """Return a first guess of a flow [kg/s, kW] from its agreement, its meters' spans or its bounds; None: no idea."""
    for exchange in park.exchanges:
        nominal = exchange.agreement.nominal
        if tuple(exchange.signed_streams) == (stream.id,) and nominal is not None:
            return _flow_si(stream, nominal.value, nominal.unit)
    for meter in park.meters:
        if meter.span is not None and tuple(meter.signed_streams) == (stream.id,):
            guess = _flow_si(stream, OF_SPAN * meter.span[1], meter.unit)
            if guess is not None:
                return guess
    high = stream.bounds_si[1]
    return OF_SPAN * high if high < float("inf") else None


def _flow_si(stream: Stream, value: float, unit: str) -> float | None:
    """Return a flow in kg/s or kW where it can be told without a state; None for what is no flow of the stream."""
    measures = dimension(unit)
    if measures == (Dimension.MASS_FLOW if stream.carries_mass else Dimension.POWER):
        return to_si(value, unit)
    if measures not in (Dimension.VOLUME_FLOW, Dimension.NORMAL_VOLUME_FLOW) or not stream.carries_mass:
        return None
    if stream.density_kg_m3 is not None:
        return to_si(value, unit) * stream.density_kg_m3.value
    return to_si(value, unit) * WATER_DENSITY if stream.carrier == "water" else None


def _played(played: StreamScenario, name: str) -> PropertyScenario | None:
    """Return what the scenario says of a property."""
    if name == "temperature":
        return played.temperature
    return played.pressure if name == "pressure" else played.properties.get(name)


def _from_scenario(played: PropertyScenario, name: str, limits: Range) -> Level:
    """Return the level that the scenario gives."""
    mean = to_si(played.value, played.unit)
    if played.wander is None:
        return Level(mean, _std(name, mean, limits))
    return Level(mean, to_si_difference(played.wander.std, played.unit), played.wander.period_s)


def _range(park: Park, stream: str, name: str) -> Range:
    """Return the tightest agreed limits on a property of a stream."""
    limits = [limit for limit in limits_of(park, stream) if limit.property == name]
    lows = [to_si(limit.low, limit.unit) for limit in limits if limit.low is not None]
    highs = [to_si(limit.high, limit.unit) for limit in limits if limit.high is not None]
    return Range(max(lows, default=None), min(highs, default=None))


def _middle(limits: Range, name: str) -> float | None:
    """Return a value well inside limits; None where they do not say."""
    low, high = limits
    if low is not None and high is not None:
        return 0.5 * (low + high)
    limit, away = (low, 1.0) if low is not None else (high, -1.0)
    if limit is None or limit == 0.0:
        return None
    return limit + away * (INSIDE_K if name == "temperature" else INSIDE * abs(limit))


def _std(name: str, mean: float, limits: Range) -> float:
    """Return a wander that stays inside the limits with certainty."""
    room = min((abs(mean - limit) for limit in limits if limit is not None), default=float("inf"))
    return min(_WANDERS.get(name, _RELATIVE_WANDER * abs(mean)), WITHIN * room)


def _spanned(park: Park, stream: str, name: str) -> float | None:
    """Return where a meter of the property is used within its span."""
    for meter in park.meters:
        if meter.property_name == name and stream in meter.signed_streams and meter.span is not None:
            return to_si(meter.span[0] + OF_SPAN * (meter.span[1] - meter.span[0]), meter.unit)
    return None


def _typical(park: Park, stream: Stream, name: str) -> float:
    """Return a value for a property of which nothing is said."""
    if name == "temperature":
        return _CARRIER_TEMPERATURE.get(stream.carrier, _AMBIENT)
    if name == "pressure":
        return _CARRIER_PRESSURE.get(stream.carrier, _ATMOSPHERE)
    given = unit_dimension(park, Scenario(), stream, name)
    return _TYPICAL.get(given or Dimension.RATIO, 1.0)
