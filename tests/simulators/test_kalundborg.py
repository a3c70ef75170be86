"""The reference park: whole, closed, and adding up to its year."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulators.kalundborg
from park.load import load_park
from park.model import ENVIRONMENT, Exchange, Meter, Park
from park.units import to_si
from simulators.faults import FaultSchedule
from simulators.plant import Plant
from simulators.scenario import FAULT_KINDS, Occurrence, PropertySubject, Scenario
from simulators.scenario_file import load_scenario
from simulators.steam import water
from simulators.truth import RECEIVER, SENDER, Excursion, Truth
from tests.simulators.networks import imbalances

HERE = Path(simulators.kalundborg.__file__).parent
YEAR_S = 365 * 86400.0
FLOWS = {"mass_flow", "volume_flow", "heat_flow", "power"}
NEW_YEAR = 1767225600.0             # 2026-01-01T00:00Z, a Thursday


@cache
def park() -> Park:
    return load_park(HERE / "park.yaml")


@cache
def scenario() -> Scenario:
    return load_scenario(HERE / "scenario.yaml", park())


@cache
def nominal() -> Plant:
    """The plant as declared: no draw within the uncertainty of losses."""
    return Plant(certain(park()), scenario(), 0, water())


def certain(uncertain: Park) -> Park:
    def without_u95(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: 0.0 if k == "u95" else without_u95(v) for k, v in value.items()}
        return [without_u95(v) for v in value] if isinstance(value, list | tuple) else value

    return Park.model_validate(without_u95(uncertain.model_dump(by_alias=True)))


# -- whole ----------------------------------------------------------------------------------------------------------

def test_twelve_participants_and_exchanges_of_all_kinds() -> None:
    assert len(park().participants) == 12
    assert len(park().exchanges) > 30
    assert {e.kind.value for e in park().exchanges} == {"material", "energy", "water", "infrastructure"}
    assert {p for e in park().exchanges for p in park().parties(e)} == {p.id for p in park().participants}


def flow_meters(stream: str) -> list[Meter]:
    return [m for m in park().meters if stream in m.signed_streams and m.quantity in FLOWS]


def test_both_parties_meter_each_exchange() -> None:
    for exchange in park().exchanges:
        owners = {park().owner(m) for s in exchange.signed_streams for m in flow_meters(s)}
        assert set(park().parties(exchange)) <= owners, exchange.id


def test_inner_streams_have_one_flow_meter_or_none() -> None:
    exchanged = {s for e in park().exchanges for s in e.signed_streams}
    for stream in park().streams:
        if stream.id not in exchanged:
            assert len(flow_meters(stream.id)) <= 1, stream.id


def test_every_agreed_property_is_metered() -> None:
    for exchange in park().exchanges:
        first = next(iter(exchange.signed_streams))
        for limit in exchange.agreement.quality:
            metered = {m.property_name for m in park().meters if first in m.signed_streams}
            assert limit.property in metered, exchange.id


def test_streams_whose_energy_is_balanced_tell_temperature_and_steam_pressure() -> None:
    metered = {(s, m.property_name) for m in park().meters for s in m.signed_streams}
    for stream in park().streams:
        ends = [park().node[n] for n in (stream.from_node, stream.to_node) if n != ENVIRONMENT]
        if stream.has_enthalpy and any("energy" in n.conserves for n in ends):
            assert (stream.id, "temperature") in metered, stream.id
            assert stream.carrier != "steam" or (stream.id, "pressure") in metered, stream.id


def test_half_of_the_participants_speak_opc_ua_at_an_endpoint_each() -> None:
    endpoints: dict[str, set[str]] = {}
    for meter in park().meters:
        if meter.source.opcua is not None:
            endpoints.setdefault(park().owner(meter), set()).add(meter.source.opcua.endpoint)
    assert len(endpoints) == 6
    assert len(set().union(*endpoints.values())) == 6
    assert all(len(found) == 1 for found in endpoints.values())


def test_values_a_second_leave_room_for_twenty_times_real_time() -> None:
    assert 30 <= sum(1.0 / m.interval_s for m in park().meters) <= 45


# -- closed ---------------------------------------------------------------------------------------------------------

def test_nominal_flows_close_every_mass_balance() -> None:
    flow = {s.id: s.nominal_si or 0.0 for s in park().streams}
    for node in park().nodes:
        if "mass" in node.conserves:
            into = sum(flow[s.id] * (1 - (s.mass_loss_percent.value / 100 if s.mass_loss_percent else 0))
                       for s in park().streams if s.to_node == node.id and s.carries_mass)
            out = sum(flow[s.id] for s in park().streams if s.from_node == node.id and s.carries_mass)
            assert into == pytest.approx(out, rel=1e-9), node.id


def test_nominal_states_close_every_energy_and_component_balance() -> None:
    """The plant leaves alone, to rounding, what park.yaml and scenario.yaml say."""
    plant = nominal()
    for j, stream in enumerate(park().streams):
        played = scenario().streams.get(stream.id)
        if stream.carries_mass:
            assert plant.flow[j] == pytest.approx(stream.nominal_si, rel=1e-9), stream.id
        else:
            assert plant.heat[j] == pytest.approx(stream.nominal_si, rel=1e-9), stream.id
        if stream.has_enthalpy and played is not None and played.temperature is not None:
            region = "liquid" if stream.carrier == "water" else "vapour"
            point = water().at(to_si(played.temperature.value, "degC"), plant.pressure[j], region)
            assert plant.enthalpy[j] + plant.reference == pytest.approx(point.enthalpy, rel=1e-9), stream.id
        for component in plant.components:
            if j in plant.component[component].streams and played is not None and component in played.properties:
                given = to_si(played.properties[component].value, played.properties[component].unit)
                assert plant.fraction[component][j] == pytest.approx(given, rel=1e-9, abs=1e-12), stream.id


def test_the_truth_closes_at_every_step() -> None:
    truth = Truth(park(), scenario(), seed=11, start=NEW_YEAR)
    for _ in range(60):
        truth.step(truth.state.time + truth.dt_s)
        assert truth.imbalance() < 1e-9
    assert max(imbalances(park(), truth.state).values()) < 1e-9


# -- the year -------------------------------------------------------------------------------------------------------

def amount(exchange: Exchange) -> float:
    """Return what an exchange comes to in a year of nominal operation, in its unit."""
    plant, total = nominal(), 0.0
    for stream, sign in exchange.signed_streams.items():
        j = plant.stream_index[stream]
        end = park().side_of(exchange.signed_streams, stream, exchange.agreement.settled_at)
        flow = plant.flow[j] * (plant.kept[j] if end == "receiver" else 1.0)
        if exchange.settles == "energy":
            rate = plant.heat[j] * plant.kept_heat[j] - plant.heat_loss[j] if end == "receiver" else plant.heat[j]
            reference = exchange.agreement.energy_reference
            if reference is not None:
                rate -= flow * (water().boiling(reference.temperature_degC + 273.15).enthalpy - plant.reference)
        elif exchange.settles == "volume":
            rate = flow / water().at(plant.temperature[j], plant.pressure[j], "liquid").density
        else:
            rate = flow
        total += sign * rate
    return total * YEAR_S / to_si(1.0, exchange.unit)


def avoided(name: str) -> float:
    return sum(amount(e) * getattr(e.agreement.avoids, name) for e in park().exchanges)


@pytest.mark.parametrize(("name", "year"), [
    ("material_t_per_unit", 635_000.0), ("co2_kg_per_unit", 240_000_000.0),
    ("water_m3_per_unit", 3_600_000.0), ("cost_per_unit", 24_000_000.0)])
def test_what_the_exchanges_avoid_adds_up_to_the_year(name: str, year: float) -> None:
    assert avoided(name) == pytest.approx(year, rel=1e-3)


def test_gypsum() -> None:
    streams = [e.stream for e in park().exchanges if e.stream and park().stream[e.stream].material == "gypsum"]
    assert sum((park().stream[s].nominal_si or 0.0) for s in streams) * YEAR_S / 1000 == pytest.approx(30_000, rel=1e-9)


def freshwater() -> float:
    """Return the water drawn from the environment [kg/s]."""
    return sum(s.nominal_si or 0.0 for s in park().streams if s.from_node == ENVIRONMENT and s.carrier == "water"
               and s.material in (None, "freshwater"))


def test_freshwater_is_down_by_half_or_more() -> None:
    drawn = freshwater() * YEAR_S / 1000
    assert avoided("water_m3_per_unit") / (avoided("water_m3_per_unit") + drawn) >= 0.5


def test_water_is_used_2_3_times() -> None:
    plant = nominal()
    used = sum(plant.flow[plant.stream_index[s]] * plant.kept[plant.stream_index[s]]
               for e in park().exchanges if e.kind.value == "water" for s, sign in e.signed_streams.items() if sign > 0)
    assert used / freshwater() == pytest.approx(2.3, rel=1e-9)


def grade(stream: str) -> int:
    s, j = park().stream[stream], nominal().stream_index[stream]
    if s.carrier == "steam":
        return 1
    celsius = nominal().temperature[j] - 273.15
    if s.carrier != "water" or any(e.signed_streams.get(stream, 1) < 0 for e in park().exchanges):
        return 0
    return 2 if celsius >= 87.5 else 3 if celsius >= 60 else 4 if celsius >= 20 else 0


def test_four_grades_of_heat_each_fed_by_the_one_above() -> None:
    place = {n.id: n.id for n in park().nodes}
    for s in park().streams:                    # nodes with heat between them are one exchanger
        if s.carrier == "heat" and ENVIRONMENT not in (s.from_node, s.to_node):
            old, new = place[s.to_node], place[s.from_node]
            place = {n: new if p == old else p for n, p in place.items()}
    arrives = {(place.get(s.to_node), grade(s.id)) for s in park().streams}
    leaves = {(place.get(s.from_node), grade(s.id)) for s in park().streams}
    for upper in (1, 2, 3):
        assert any((p, upper) in arrives and (p, upper + 1) in leaves for p in set(place.values())), upper


def test_primary_fuel_is_down_by_20_to_40_percent() -> None:
    """Primary energy savings after annex II of Directive 2012/27/EU, with wood's reference efficiencies."""
    plant = nominal()
    heat = {s.id: plant.heat[plant.stream_index[s.id]] for s in park().streams}
    fuel = sum(heat[s.id] for s in park().streams if s.material == "fuel")
    power = sum(heat[s.id] * ((s.to_node == ENVIRONMENT) - (s.from_node == ENVIRONMENT))
                for s in park().streams if s.carrier == "electricity")
    net: dict[str, float] = {}
    for e in park().exchanges:
        carriers = {park().stream[s].carrier for s in e.signed_streams}
        if e.kind.value == "energy" and e.settles == "energy" and carriers <= {"steam", "water", "heat"}:
            giver, taker = park().parties(e)
            net[giver] = net.get(giver, 0.0) - amount(e) * 3.6e6 / YEAR_S
            net[taker] = net.get(taker, 0.0) + amount(e) * 3.6e6 / YEAR_S
    useful = sum(max(q, 0.0) for q in net.values())
    assert 0.20 <= 1.0 - fuel / (useful / 0.86 + power / 0.37) <= 0.40


def test_the_heat_pump_is_the_published_one() -> None:
    plant, index = nominal(), nominal().stream_index
    taken, given, power = (plant.heat[index[s]] for s in ("Q21", "Q22", "E03"))
    assert taken * 8760 / 1e6 == pytest.approx(60, rel=1e-6)
    assert given * 8760 / 1e6 == pytest.approx(80, rel=1e-6)
    assert given / power == pytest.approx(4.0, rel=0.05)
    assert plant.temperature[index["W12"]] - plant.temperature[index["W13"]] == pytest.approx(8.6, abs=0.05)
    assert plant.flow[index["W12"]] * YEAR_S / 1000 == pytest.approx(6.0e6, rel=1e-3)


def test_the_document_tells_what_the_park_is() -> None:
    text = (HERE.parents[1] / "docs" / "kalundborg.md").read_text(encoding="utf-8")
    p = park()
    assert f"{len(p.participants)} participants, {len(p.exchanges)} exchanges" in text
    assert f"{len(p.nodes)} nodes, {len(p.streams)} streams, {len(p.meters)} meters" in text
    for exchange in p.exchanges:
        row = f"| {exchange.id} | {exchange.name} | {' - '.join(exchange.signed_streams)} | {amount(exchange):,.0f} "
        assert row + exchange.unit in text, row


# -- as it runs -----------------------------------------------------------------------------------------------------

@cache
def week() -> tuple[Truth, list[Any]]:
    truth = Truth(park(), scenario(), seed=5, start=NEW_YEAR, step_s=1200.0)
    return truth, [truth.step(NEW_YEAR + 1200.0 * k) for k in range(504)]


def test_over_a_week_no_tank_overflows_or_runs_dry_and_each_moves() -> None:
    truth, states = week()
    for tank in truth.plant.tanks:
        held = np.array([s.inventory[tank.node] for s in states]) / tank.capacity
        assert 0.2 < held.min() < held.max() < 0.8
        assert np.ptp(held) > 0.02


def test_over_a_week_flows_stay_near_their_nominal_and_average_to_it() -> None:
    truth, states = week()
    plant = truth.plant
    mean = np.where(plant.is_mass, plant.flow, np.nan_to_num(plant.heat))
    flows = np.array([np.where(plant.is_mass, s.mass_flow[0], np.nan_to_num(s.heat_flow[0])) for s in states]) / mean
    assert 0.8 < flows.min() < flows.max() < 1.2
    assert np.abs(flows.mean(axis=0) - 1.0).max() < 0.01


def within_limits(truth: Truth, state: Any) -> dict[str, bool]:
    """Return, for each limit of each agreement, whether the truth keeps it at both ends."""
    kept = {}
    for exchange in park().exchanges:
        j = truth.plant.stream_index[next(iter(exchange.signed_streams))]
        for limit in exchange.agreement.quality:
            named = {"temperature": state.temperature, "pressure": state.pressure}
            values = named[limit.property] if limit.property in named else state.properties[limit.property]
            low = -np.inf if limit.low is None else to_si(limit.low, limit.unit)
            high = np.inf if limit.high is None else to_si(limit.high, limit.unit)
            kept[f"{exchange.id}.{limit.property}"] = bool((low < values[:, j]).all() and (values[:, j] < high).all())
    return kept


def test_without_faults_no_limit_is_left_in_a_week() -> None:
    truth, states = week()
    assert all(all(within_limits(truth, state).values()) for state in states)


def test_nominal_values_lie_comfortably_inside_the_limits() -> None:
    """At least five times what the meter may be off, so that no noise trips a limit."""
    truth = Truth(park(), scenario(), seed=1, start=NEW_YEAR)
    for exchange in park().exchanges:
        first = next(iter(exchange.signed_streams))
        for limit in exchange.agreement.quality:
            for meter in park().meters:
                if meter.property_name == limit.property and first in meter.signed_streams:
                    value = truth.nominal(meter)
                    edges = [to_si(x, limit.unit) for x in (limit.low, limit.high) if x is not None]
                    assert min(abs(value - e) for e in edges) > 5 * meter.u95_si(value), (exchange.id, meter.id)


# -- faults ---------------------------------------------------------------------------------------------------------

def first_half_hour() -> list[Occurrence]:
    return [next(fault.occurrences()) for fault in scenario().faults]


def test_the_first_half_hour_brings_one_fault_of_each_kind() -> None:
    faults = first_half_hour()
    assert sorted(o.kind.name for o in faults) == sorted(FAULT_KINDS)
    assert min(o.starts_s for o in faults) <= 180
    assert max(o.ends_s for o in faults) <= 26 * 60


def test_faults_of_one_hour_touch_no_balance_in_common() -> None:
    for number in range(3):
        nodes = []
        for fault in scenario().faults:
            occurrence = [o for o, _ in zip(fault.occurrences(), range(number + 1), strict=False)][-1]
            nodes.append(touched(occurrence))
        assert all(not a & b for a, b in combinations(nodes, 2)), nodes


def touched(occurrence: Occurrence) -> set[str]:
    subject = occurrence.subject
    streams = [subject.stream] if isinstance(subject, PropertySubject) else list(park().meter[subject].signed_streams)
    return {n for s in streams for n in (park().stream[s].from_node, park().stream[s].to_node)} - {ENVIRONMENT}


def test_every_subject_is_metered_by_the_other_party_too() -> None:
    exchanged = {s: e for e in park().exchanges for s in e.signed_streams}
    for fault in scenario().faults:
        for subject in fault.all_subjects:
            if isinstance(subject, str):
                meter = park().meter[subject]
                assert meter.stream in exchanged
                assert len(flow_meters(str(meter.stream))) >= 2


def test_the_bias_is_far_beyond_uncertainty_and_tolerance() -> None:
    fault = next(f for f in scenario().faults if f.kind == "bias")
    exchanged = {s: e for e in park().exchanges for s in e.signed_streams}
    for subject in fault.all_subjects:
        meter = park().meter[str(subject)]
        both = sum((m.u95_percent_of_reading or 0.0) ** 2 for m in flow_meters(str(meter.stream))) ** 0.5
        tolerance = exchanged[str(meter.stream)].agreement.tolerance_percent
        assert fault.size_percent is not None
        assert fault.size_percent > 2 * (both + tolerance)


def test_faults_are_known_to_the_schedule() -> None:
    told: list[Excursion] = []
    schedule = FaultSchedule(park(), scenario(), told.append)
    schedule.arm(NEW_YEAR)
    assert {e.stream for e in told} == {"M01"}


@pytest.mark.parametrize("number", [0, 1])
def test_an_excursion_trips_its_own_limit_and_no_other_and_ends(number: int) -> None:
    fault = next(f for f in scenario().faults if f.kind == "quality_excursion")
    subject = fault.all_subjects[number]
    assert isinstance(subject, PropertySubject)
    assert fault.size_percent is not None
    truth = Truth(park(), scenario(), seed=2, start=NEW_YEAR)
    truth.apply(Excursion(subject.stream, subject.property, NEW_YEAR + 60, NEW_YEAR + 300,
                          fault.size_percent / 100, relative=True))
    exchange = next(e.id for e in park().exchanges if subject.stream in e.signed_streams)
    struck = f"{exchange}.{subject.property}"
    for t in (200, 480):
        kept = within_limits(truth, truth.step(NEW_YEAR + t))
        assert truth.imbalance() < 1e-9
        assert {name for name, ok in kept.items() if not ok} == ({struck} if t == 200 else set())
    j = truth.plant.stream_index[subject.stream]
    assert truth.state.properties[subject.property][SENDER, j] == pytest.approx(
        truth.state.properties[subject.property][RECEIVER, j], rel=0.05)
