"""The year table: sums by hand, the cascade of heat, and what is not known."""

from __future__ import annotations

import pytest

from park.model import Park
from processing.account.kpi import YEAR_S, Means, fuel_reduction, heat_grades, year

BASE = {"park": {"name": "p", "timezone": "UTC"},
        "participants": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}],
        "nodes": [{"id": n, "participant": n[0]} for n in ("a.n", "a.m", "b.n", "b.m")]}


def park_of(streams, exchanges=()):
    return Park.model_validate({**BASE, "streams": streams, "exchanges": list(exchanges)})


def stream(id, start, end, carrier="water", **keys):
    return {"id": id, "from": start, "to": end, "carrier": carrier, **keys}


def exchange(id, name, settles, unit, kind="material", avoids=None, **keys):
    return {"id": id, "kind": kind, "stream": name, "settles": settles, "unit": unit, **keys,
            "agreement": {"avoids": avoids or {}}}


def mass(**flows):
    return {(name, "sender", "mass_flow"): (value, 0.0) for name, value in flows.items()}


def heat(**flows):
    return {(name, "sender", "heat_flow"): (value, 0.0) for name, value in flows.items()}


def test_amounts_times_what_a_unit_avoids():
    park = park_of(
        [stream("G", "a.n", "b.n", "material", material="gypsum")],
        [exchange("X", "G", "mass", "t", avoids={"material_t_per_unit": 1.0, "co2_kg_per_unit": 50.0,
                                                 "cost_per_unit": 3.0, "water_m3_per_unit": 0.5})])
    table = year(park, Means(mass(G=2.0), {"X": 2.0}, {}))
    tonnes = 2.0 * YEAR_S / 1000
    assert table["material_diverted_t"] == table["gypsum_t"] == pytest.approx(tonnes)
    assert table["co2_avoided_t"] == pytest.approx(0.05 * tonnes)
    assert table["saved_eur"] == pytest.approx(3 * tonnes)
    assert table["water_saved_m3"] == pytest.approx(0.5 * tonnes)


def test_energy_is_counted_in_its_unit():
    park = park_of([stream("S", "a.n", "b.n")],
                   [exchange("X", "S", "energy", "MWh", "energy", avoids={"cost_per_unit": 10.0})])
    assert year(park, Means({}, {"X": 1000.0}, {}))["saved_eur"] == pytest.approx(10 * 8760)


def test_uses_of_water_are_deliveries_over_what_was_drawn():
    park = park_of(
        [stream("F", "environment", "a.n"), stream("Sea", "environment", "a.n", material="sea water"),
         stream("W", "a.n", "b.n"), stream("R", "b.n", "a.m")],
        [exchange("X", "W", "mass", "t", "water", avoids={"water_m3_per_unit": 1.0}),
         exchange("Y", "R", "mass", "t", "water")])
    table = year(park, Means(mass(F=10.0, Sea=100.0, W=9.0, R=6.0), {"X": 9.0, "Y": 6.0}, {}))
    assert table["mean_water_uses"] == pytest.approx(1.5)
    assert table["freshwater_m3"] == pytest.approx(10 * YEAR_S / 1000)
    assert table["freshwater_reduction"] == pytest.approx(9 / 19)


def test_what_is_not_known_is_none_and_what_nobody_does_is_zero():
    park = park_of([stream("F", "environment", "a.n"), stream("W", "a.n", "b.n")],
                   [exchange("X", "W", "mass", "t", "water", avoids={"cost_per_unit": 1.0})])
    table = year(park, Means({}, {}, {}))
    assert table["saved_eur"] is table["mean_water_uses"] is table["freshwater_m3"] is None
    assert table["co2_avoided_t"] == table["gypsum_t"] == 0.0
    assert table["heat_grades"] == 0
    assert table["primary_fuel_reduction"] is None


CASCADE = [stream("S", "a.n", "a.m", "steam"), stream("H", "a.m", "b.n"), stream("Q", "b.n", "b.m", "heat"),
           stream("D", "b.m", "environment")]


def cascade(hot, warm):
    """Steam to a.m, hot water to b.n, whose heat goes through an exchanger to b.m, from which warm water leaves."""
    flows = {**mass(S=5.0, H=5.0, D=5.0), **heat(Q=100.0)}
    return Means(flows, {}, {"H": 273.15 + hot, "D": 273.15 + warm})


@pytest.mark.parametrize(("hot", "warm", "length"), [(95, 70, 3), (95, 30, 2), (70, 30, 1), (95, 10, 2)])
def test_each_grade_counts_where_the_one_above_feeds_it(hot, warm, length):
    assert heat_grades(park_of(CASCADE), cascade(hot, warm)) == length


def test_returns_and_streams_that_stand_still_have_no_grade():
    park = park_of([*CASCADE, stream("R", "b.n", "a.m")], [{
        "id": "X", "kind": "energy", "streams": {"H": -1, "R": 1}, "settles": "energy", "unit": "MWh"}])
    assert heat_grades(park, cascade(95, 70)) == 1
    still = Means({**cascade(95, 70).flows, ("H", "sender", "mass_flow"): (0.1, 0.2)}, {}, {"H": 368.0, "D": 343.0})
    assert heat_grades(park_of(CASCADE), still) == 1


def test_temperature_comes_from_the_reconciled_heat_where_there_is_one():
    means = cascade(20, 70)
    with_heat = Means({**means.flows, ("H", "sender", "heat_flow"): (5.0 * 398.0, 0.0)}, {}, means.temperatures)
    assert heat_grades(park_of(CASCADE), with_heat) == 3


def test_fuel_is_held_against_separate_production():
    park = park_of(
        [stream("F", "environment", "a.n", "heat", material="fuel"),
         stream("E", "a.n", "environment", "electricity"), stream("H", "a.n", "b.n")],
        [exchange("X", "H", "energy", "MWh", "energy")])
    means = Means(heat(F=100.0, E=25.0), {"X": 60.0}, {})
    assert fuel_reduction(park, means) == pytest.approx(1 - 100 / (60 / 0.86 + 25 / 0.37))
