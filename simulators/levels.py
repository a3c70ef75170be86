"""Where each quantity of a park lies, and how far it wanders: from the scenario, the park's limits, or defaults.

Here: `Levels`, the rules by which a park without a scenario gets temperatures, pressures, compositions and
first guesses of flows. Not here: the balances, which have the last word on all of them (`simulators.plant`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from park.model import WATER_DENSITY, Amount, Exchange, Meter, Park, QualityLimit, Stream
from park.units import Dimension, dimension, to_si, to_si_difference
from park.usual import USUAL_PRESSURE, UsualTemperatures

if TYPE_CHECKING:
    from simulators.scenario import PropertyScenario, Scenario

STATE = ("temperature", "pressure")     # properties that every stream of mass has

WITHIN = 0.15               # of the way from the mean to the nearest limit: the wander's std, which peaks at 3.2 std
INSIDE = 0.25               # of a single limit's value: how far the mean keeps from it
INSIDE_K = 15.0             # [K] the same for a limit on temperature
OF_SPAN = 0.6               # of a meter's span: where it is used
PERIOD_S = 1800.0

_AMBIENT = 288.15                                              # [K]
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


class Levels:
    """What a park and its scenario say of each stream, found once.

    Parameters
    ----------
    park, scenario
        The network, and what it plays.
    """

    def __init__(self, park: Park, scenario: Scenario) -> None:
        self._park, self._scenario = park, scenario
        self._meters: dict[str, list[Meter]] = {s.id: [] for s in park.streams}
        self._limits: dict[str, list[QualityLimit]] = {s.id: [] for s in park.streams}
        self._agreed: dict[str, Amount] = {}
        for meter in park.meters:
            for stream in meter.signed_streams:
                self._meters[stream].append(meter)
        for exchange in park.exchanges:
            self._read(exchange)
        self._usual = UsualTemperatures(park, lambda stream: self._said(stream, "temperature"))

    def _read(self, exchange: Exchange) -> None:
        """Take what an exchange says: limits hold for the streams that it counts positive."""
        for stream, sign in exchange.signed_streams.items():
            if sign > 0.0:
                self._limits[stream] += exchange.agreement.quality
        if len(exchange.signed_streams) == 1 and exchange.agreement.nominal is not None:
            self._agreed.setdefault(next(iter(exchange.signed_streams)), exchange.agreement.nominal)

    def properties(self, stream: Stream) -> tuple[str, ...]:
        """Return the quality properties that a stream has: what is metered, agreed, played or conserved, sorted."""
        names = {m.property_name for m in self._meters[stream.id]}
        names |= {limit.property for limit in self._limits[stream.id]}
        played = self._scenario.streams.get(stream.id)
        names |= set() if played is None else set(played.properties)
        if stream.carries_mass:
            nodes = (self._park.node[end] for end in (stream.from_node, stream.to_node) if end in self._park.node)
            names |= {c for node in nodes for c in node.components}
        return tuple(sorted(name for name in names if name is not None and name not in STATE))

    def of(self, stream: Stream, name: str) -> Level:
        """Return where a property of a stream lies at its sender."""
        played, limits = self._played(stream, name), self._range(stream, name)
        if played is not None:
            return _from_scenario(played, name, limits)
        middle = _middle(limits, name)
        if middle is not None:
            return Level(middle, _std(name, middle, limits))
        spanned = self._spanned(stream, name)
        if spanned is None and name == "water" and stream.has_enthalpy:
            return Level(1.0, 0.0)                              # water is water
        mean = self._typical(stream, name) if spanned is None else spanned
        return Level(mean, _std(name, mean, limits), guessed=True)

    def _said(self, stream: Stream, name: str) -> float | None:
        """Return what scenario, limits or spans say of a property; None: nothing."""
        played, middle = self._played(stream, name), _middle(self._range(stream, name), name)
        if played is not None:
            return to_si(played.value, played.unit)
        return middle if middle is not None else self._spanned(stream, name)

    def units(self, stream: Stream, name: str) -> list[str]:
        """Return the units in which a property of a stream is played, agreed and metered, in this order."""
        played = self._played(stream, name)
        units = [] if played is None else [played.unit]
        units += [limit.unit for limit in self._limits[stream.id] if limit.property == name]
        return units + [m.unit for m in self._meters[stream.id] if m.property_name == name]

    def flow_guess(self, stream: Stream) -> float | None:
        """Return a first guess of a flow [kg/s, kW] from agreement, meters' spans or bounds; None: no idea."""
        agreed = self._agreed.get(stream.id)
        if agreed is not None:
            return _flow_si(stream, agreed.value, agreed.unit)
        for meter in self._meters[stream.id]:
            if meter.span is not None and len(meter.signed_streams) == 1:
                guess = _flow_si(stream, OF_SPAN * meter.span[1], meter.unit)
                if guess is not None:
                    return guess
        high = stream.bounds_si[1]
        return OF_SPAN * high if high < float("inf") else None

    def _played(self, stream: Stream, name: str) -> PropertyScenario | None:
        """Return what the scenario says of a property."""
        played = self._scenario.streams.get(stream.id)
        if played is None:
            return None
        if name == "temperature":
            return played.temperature
        return played.pressure if name == "pressure" else played.properties.get(name)

    def _range(self, stream: Stream, name: str) -> Range:
        """Return the tightest agreed limits on a property of a stream."""
        limits = [limit for limit in self._limits[stream.id] if limit.property == name]
        lows = [to_si(limit.low, limit.unit) for limit in limits if limit.low is not None]
        highs = [to_si(limit.high, limit.unit) for limit in limits if limit.high is not None]
        return Range(max(lows, default=None), min(highs, default=None))

    def _spanned(self, stream: Stream, name: str) -> float | None:
        """Return where a meter of the property is used within its span."""
        for meter in self._meters[stream.id]:
            if meter.property_name == name and meter.span is not None:
                return to_si(meter.span[0] + OF_SPAN * (meter.span[1] - meter.span[0]), meter.unit)
        return None

    def _typical(self, stream: Stream, name: str) -> float:
        """Return a value for a property of which nothing is said."""
        if name == "temperature":
            usual = self._usual.of(stream)
            return _AMBIENT if usual is None else usual
        if name == "pressure":
            return USUAL_PRESSURE.get(stream.carrier, _ATMOSPHERE)
        units = self.units(stream, name)
        return _TYPICAL.get(dimension(units[0]), 1.0) if units else _TYPICAL[Dimension.RATIO]


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


def _from_scenario(played: PropertyScenario, name: str, limits: Range) -> Level:
    """Return the level that the scenario gives."""
    mean = to_si(played.value, played.unit)
    if played.wander is None:
        return Level(mean, _std(name, mean, limits))
    return Level(mean, to_si_difference(played.wander.std, played.unit), played.wander.period_s)


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
