"""What a park's exchanges amount to in a year, at the rate of the windows looked at: the year table.

Here: the table from mean reconciled flows, generic for any park; every figure follows from metered flows and from what
each exchange `avoids`, none from constants of a place. Not here: settlement. `year` is the table of given means;
`year_table` takes the means from the store's views.

===========================  ==========================================================================================
material_diverted_t          sum over exchanges of amount x `avoids.material_t_per_unit`
co2_avoided_t                the same with `co2_kg_per_unit` / 1000
water_saved_m3, saved_eur    the same with `water_m3_per_unit`, `cost_per_unit`
gypsum_t                     mass of all exchanged streams whose material is gypsum, where settled
freshwater_m3                water drawn from the environment that is fresh (no other material named), by 1000 kg/m3
freshwater_reduction         water saved / (water saved + freshwater drawn)
mean_water_uses              water delivered by exchanges of kind water, at the receivers, over freshwater drawn
heat_grades                  rungs of the thermal cascade that are fed by the rung above; see `heat_grades`
primary_fuel_reduction       1 - F / (Q / 0.86 + P / 0.37), Directive 2012/27/EU, annex II; see `fuel_reduction`
===========================  ==========================================================================================

A figure whose flows are not all known is None.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import psycopg

from park.model import ENVIRONMENT, Exchange, ExchangeKind, Park, Stream
from park.properties import enthalpy, reference_enthalpy
from park.units import from_si

YEAR_S = 365.0 * 86400.0

FRESH = (None, "freshwater")
"""Materials of a water stream that make it freshwater; sewage or sea water are named otherwise."""

REFERENCE_HEAT, REFERENCE_POWER = 0.86, 0.37
"""Efficiencies of separate production from wood fuels (Commission Delegated Regulation (EU) 2015/2402)."""

GRADES = (360.65, 333.15, 293.15)
"""Lowest temperatures of grades 2, 3 and 4 [K]: 87.5, 60 and 20 degC; grade 1 is steam."""

LIQUID_PA = 5e5
"""Pressure at which a liquid's temperature is read off its enthalpy: 1 bar more is 0.02 K."""

SURE = 1.96
"""A stream flows when its flow is above so many of its std."""


@dataclass(frozen=True)
class Means:
    """Means over the windows looked at, in SI; None or absent where not known.

    Attributes
    ----------
    flows
        (stream, side, quantity) -> mean reconciled flow and its std [kg/s or kW].
    exchanges
        Exchange -> mean reconciled flow where it is settled [kg/s, m3/s or kW].
    temperatures
        Stream -> mean measured temperature at its sender, else at its receiver [K].
    """

    flows: Mapping[tuple[str, str, str], tuple[float, float]]
    exchanges: Mapping[str, float]
    temperatures: Mapping[str, float]

    def flow(self, stream: str, side: str, quantity: str) -> float | None:
        """Return a mean flow; where the two ends are one flow, whichever is asked."""
        found = self.flows.get((stream, side, quantity)) or self.flows.get((stream, "sender", quantity))
        return None if found is None else found[0]


def year_table(conn: psycopg.Connection, park: Park, *, since: datetime | None = None) -> dict[str, float | int | None]:
    """Return the year table at the rate of the stored windows.

    Parameters
    ----------
    conn
        A connection to the store.
    park
        The park.
    since
        Windows from this time on count; None: all.
    """
    return year(park, _stored_means(conn, park, since))


def year(park: Park, means: Means) -> dict[str, float | int | None]:
    """Return the year table of mean flows; keys as in the module's table."""
    water = _avoided(park, means, "water_m3_per_unit")
    fresh = _sum(means.flow(s.id, "sender", "mass_flow") for s in park.streams if _is_fresh(s))
    fresh_m3 = None if fresh is None else fresh * YEAR_S / 1000.0
    co2 = _avoided(park, means, "co2_kg_per_unit")
    uses = _water_uses(park, means)
    return {
        "material_diverted_t": _avoided(park, means, "material_t_per_unit"),
        "gypsum_t": _gypsum(park, means),
        "co2_avoided_t": None if co2 is None else co2 / 1000.0,
        "water_saved_m3": water,
        "saved_eur": _avoided(park, means, "cost_per_unit"),
        "mean_water_uses": None if uses is None or not fresh else uses / fresh,
        "heat_grades": heat_grades(park, means),
        "freshwater_m3": fresh_m3,
        "freshwater_reduction": None if water is None or not fresh_m3 else water / (water + fresh_m3),
        "primary_fuel_reduction": fuel_reduction(park, means),
    }


# -- sums over exchanges ----------------------------------------------------------------------------------------------


def _avoided(park: Park, means: Means, what: str) -> float | None:
    """Return what the exchanges avoid in a year, in the unit of `avoids`."""
    per_unit = {x.id: float(getattr(x.agreement.avoids, what)) for x in park.exchanges}
    return _sum(_amount(x, means, per_unit[x.id]) for x in park.exchanges if per_unit[x.id])


def _amount(exchange: Exchange, means: Means, per_unit: float) -> float | None:
    """Return an exchange's yearly amount in its unit, times what a unit avoids."""
    flow = means.exchanges.get(exchange.id)
    return None if flow is None else from_si(flow * YEAR_S, exchange.unit) * per_unit


def _gypsum(park: Park, means: Means) -> float | None:
    """Return the gypsum exchanged in a year [t]."""
    flows = [
        _signed(means.flow(name, park.exchange_ends(x, x.agreement.settled_at)[name], "mass_flow"), sign)
        for x in park.exchanges for name, sign in x.signed_streams.items()
        if park.stream[name].material == "gypsum"]
    total = _sum(flows)
    return None if total is None else total * YEAR_S / 1000.0


def _water_uses(park: Park, means: Means) -> float | None:
    """Return what exchanges of water deliver [kg/s]: each settled delivery is one use."""
    return _sum(
        means.flow(name, park.exchange_ends(x, "receiver")[name], "mass_flow")
        for x in park.exchanges if x.kind == ExchangeKind.WATER
        for name, sign in x.signed_streams.items() if sign > 0)


def _is_fresh(stream: Stream) -> bool:
    return stream.from_node == ENVIRONMENT and stream.carrier == "water" and stream.material in FRESH


def _sum(values: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _signed(value: float | None, sign: float) -> float | None:
    return None if value is None else sign * value


# -- heat -------------------------------------------------------------------------------------------------------------


def heat_grades(park: Park, means: Means) -> int:
    """Return the length of the thermal cascade: grade 1 and each further grade that is fed by the one above.

    Grades: 1 steam; 2 water from 87.5 degC; 3 from 60 degC; 4 from 20 degC; colder water has none, nor has a return
    (negative in an exchange) or a stream that does not flow. Grade g feeds g + 1 where at one place a stream of g
    arrives and one of g + 1 leaves; nodes joined by a heat stream (the sides of an exchanger) are one place.
    """
    grade = {s.id: _grade(s, means) for s in park.streams}
    for exchange in park.exchanges:
        grade.update({name: 0 for name, sign in exchange.signed_streams.items() if sign < 0})
    place = _places(park)
    arrives, leaves = defaultdict(set), defaultdict(set)
    for stream in park.streams:
        arrives[place[stream.to_node]].add(grade[stream.id])
        leaves[place[stream.from_node]].add(grade[stream.id])
    inside = [p for p in place.values() if p != ENVIRONMENT]
    length = 1 if 1 in grade.values() else 0
    while length and any(length in arrives[p] and length + 1 in leaves[p] for p in inside):
        length += 1
    return length


def _places(park: Park) -> dict[str, str]:
    """Return the place of every node: itself, or one name for all sides of an exchanger."""
    place = {node.id: node.id for node in park.nodes} | {ENVIRONMENT: ENVIRONMENT}
    for stream in park.streams:
        ends = (stream.from_node, stream.to_node)
        if stream.carrier == "heat" and ENVIRONMENT not in ends:
            old, new = place[stream.to_node], place[stream.from_node]
            place = {node: new if at == old else at for node, at in place.items()}
    return place


def _grade(stream: Stream, means: Means) -> int:
    """Return the grade of a stream by its carrier and temperature; 0: none."""
    found = means.flows.get((stream.id, "sender", "mass_flow"))
    if not stream.has_enthalpy or found is None or found[0] < SURE * found[1]:
        return 0
    if stream.carrier == "steam":
        return 1
    kelvin = _temperature(stream, found[0], means)
    return next((g for g, lowest in enumerate(GRADES, start=2) if kelvin is not None and kelvin >= lowest), 0)


def _temperature(stream: Stream, flow: float, means: Means) -> float | None:
    """Return the temperature at the sender [K]: from its enthalpy, else as measured."""
    heat = means.flow(stream.id, "sender", "heat_flow")
    if heat is None or flow <= 0.0:
        return means.temperatures.get(stream.id)
    kelvin = np.linspace(273.16, 423.16, 301)
    at = enthalpy(LIQUID_PA, kelvin, "liquid") - reference_enthalpy(0.01)
    return float(np.interp(heat / flow, at, kelvin))


def fuel_reduction(park: Park, means: Means) -> float | None:
    """Return the primary energy saved against separate production: 1 - F / (Q / 0.86 + P / 0.37).

    F is the heat of the streams of material ``fuel`` from the environment, P the electricity given to the environment
    less that taken, Q the heat that participants keep of exchanges of kind energy that settle energy (received less
    given, where positive: what is handed on counts once). None without fuel.
    """
    fuel = _sum(means.flow(s.id, "sender", "heat_flow") for s in park.streams
                if s.carrier == "heat" and s.from_node == ENVIRONMENT and s.material == "fuel")
    power = _sum(
        _signed(means.flow(s.id, "sender", "heat_flow"), 1.0 if s.to_node == ENVIRONMENT else -1.0)
        for s in park.streams if s.carrier == "electricity" and ENVIRONMENT in (s.from_node, s.to_node))
    kept: dict[str, float] = defaultdict(float)
    for x in park.exchanges:
        if x.kind == ExchangeKind.ENERGY and x.settles == "energy" and x.signed_streams:
            amount = means.exchanges.get(x.id)
            if amount is None:
                return None
            sender, receiver = park.parties(x)
            kept[sender] -= amount
            kept[receiver] += amount
    if not fuel or power is None:
        return None
    heat = sum(max(0.0, amount) for amount in kept.values())
    return 1.0 - fuel / (heat / REFERENCE_HEAT + power / REFERENCE_POWER)


# -- from the store ---------------------------------------------------------------------------------------------------

_FLOWS = """
    select stream, side, quantity, avg(reconciled), avg(std) from flow_history
     where reconciled is not null and window_start >= %s group by stream, side, quantity"""
_EXCHANGES = """
    select exchange, avg(reconciled) from exchange_history
     where reconciled is not null and window_start >= %s group by exchange"""
_METERS = """
    select meter, avg(measured) from meter_history
     where meter = any(%s) and window_start >= %s group by meter"""


def _stored_means(conn: psycopg.Connection, park: Park, since: datetime | None) -> Means:
    """Read the means from the store's views."""
    start = datetime(1970, 1, 1, tzinfo=UTC) if since is None else since
    flows = {(stream, side, quantity): (value, std) for stream, side, quantity, value, std
             in conn.execute(_FLOWS, [start])}
    exchanges: dict[str, float] = dict(conn.execute(_EXCHANGES, [start]).fetchall())
    thermometers = {m.id: m for m in park.meters if m.property_name == "temperature" and len(m.signed_streams) == 1}
    read: dict[str, float] = dict(conn.execute(_METERS, [list(thermometers), start]).fetchall())
    temperatures: dict[str, float] = {}
    for side in ("receiver", "sender"):
        for name, value in read.items():
            (stream, end), = park.meter_ends(thermometers[name]).items()
            if end == side:
                temperatures[stream] = value
    return Means(flows, exchanges, temperatures)
