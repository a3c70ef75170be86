"""The truth closes every balance at every step, whatever the park, and says what perfect meters read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from park.errors import OperationError
from park.model import ENVIRONMENT, Park
from simulators.projection import Problem, UnclosableError
from simulators.scenario import Scenario
from simulators.steam import water
from simulators.truth import RECEIVER, SENDER, Excursion, Truth, step_seconds
from tests.simulators.networks import finite, imbalances, level, meter, node, nominal, park_of, parks, stream

CLOSED = 1e-9


def worst(park: Park, truth: Truth) -> float:
    return max(imbalances(park, truth.state).values(), default=0.0)


# -- closed ---------------------------------------------------------------------------------------------------------

@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parks(), st.integers(0, 1000))
def test_any_network_closes_at_every_step_within_its_bounds(park: Park, seed: int) -> None:
    truth = Truth(park, seed=seed, start=1.7e9)
    for _ in range(25):
        assert worst(park, truth) < CLOSED
        assert truth.imbalance() < CLOSED
        assert finite(truth.state, park)
        assert truth.state.mass_flow.min() > -1e-9
        truth.step(truth.state.time + truth.dt_s)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parks(), st.integers(0, 1000))
def test_tanks_hold_what_came_in_and_did_not_go_out(park: Park, seed: int) -> None:
    truth = Truth(park, seed=seed)
    for _ in range(10):
        before = truth.state
        truth.step(before.time + truth.dt_s)
        grown = before.inventory + before.mass_stored * truth.dt_s
        assert np.array_equal(truth.state.inventory, grown, equal_nan=True)


def test_temperatures_are_those_of_the_heat_flows() -> None:
    park = boiler()
    truth = Truth(park, seed=4, start=1e9)
    truth.step(1e9 + 600)
    for j in (0, 1):
        state = truth.state
        region = "liquid" if j == 0 else "vapour"
        point = water().at(state.temperature[0, j], state.pressure[0, j], region)
        heat = state.mass_flow[0, j] * (point.enthalpy - water().boiling(273.16).enthalpy)
        assert heat == pytest.approx(state.heat_flow[0, j], rel=1e-7)
        assert state.density[0, j] == pytest.approx(point.density, rel=1e-5)


def boiler(**steam: object) -> Park:
    return park_of(
        [node("b", "mass", "energy")],
        [stream("feed", ENVIRONMENT, "b", **nominal(36)), stream("steam", "b", ENVIRONMENT, "steam", **steam),
         stream("fuel", ENVIRONMENT, "b", "heat"), stream("flue", "b", ENVIRONMENT, "heat", **nominal(2000, "kW"))])


def test_wet_steam_lies_on_the_saturation_line() -> None:
    truth = Truth(boiler(phase="saturated", dryness={"value": 0.95, "u95": 0.01}))
    state = truth.step(300)
    assert state.temperature[0, 1] == pytest.approx(water().saturation_temperature(state.pressure[0, 1]))
    assert truth.imbalance() < CLOSED


# -- on the way -----------------------------------------------------------------------------------------------------

def test_a_belt_brings_later_what_was_put_on_it() -> None:
    park = park_of([node("a", "mass"), node("b", "mass")],
                   [stream("in", ENVIRONMENT, "a", "material", **nominal(10)),
                    stream("belt", "a", "b", "material", flow_delay_s=32.0),
                    stream("out", "b", ENVIRONMENT, "material")])
    truth = Truth(park, Scenario(wander_percent=10, wander_period_s=120), seed=1)
    sent, arrived = [], []
    for _ in range(60):
        sent.append(truth.state.mass_flow[SENDER, 1])
        arrived.append(truth.state.mass_flow[RECEIVER, 1])
        truth.step(truth.state.time + 5)
    # 32 s lie between 6 and 7 steps: by hand a straight line between the two
    assert arrived[10] == pytest.approx(0.6 * sent[4] + 0.4 * sent[3], rel=1e-12)
    assert np.ptp(sent) > 0.05 * np.mean(sent)


def test_a_pipe_brings_temperature_later_and_mass_at_once() -> None:
    park = park_of([node("a", "mass")],
                   [stream("in", ENVIRONMENT, "a", **nominal(36)),
                    stream("out", "a", ENVIRONMENT, property_delay_s=100.0)])
    scenario = Scenario.model_validate({"streams": {"out": {"temperature": {
        "value": 60, "unit": "degC", "wander": {"std": 5, "period_s": 300}}}}})
    truth = Truth(park, scenario, seed=1)
    states = [truth.step(5.0 * k) for k in range(60)]
    # IAPWS-95 on both ends: the same enthalpy and nearly the same pressure give the temperature back
    assert states[50].temperature[RECEIVER, 1] == pytest.approx(states[30].temperature[SENDER, 1], abs=0.02)
    assert states[50].mass_flow[RECEIVER, 1] == states[50].mass_flow[SENDER, 1]


def test_a_full_pipe_delays_by_its_volume_over_the_flow() -> None:
    park = park_of([node("a", "mass")],
                   [stream("in", ENVIRONMENT, "a", **nominal(36)),
                    stream("out", "a", ENVIRONMENT, pipe_volume_m3=1.0)])
    scenario = Scenario.model_validate({"wander_percent": 0.0, "streams": {"out": {"temperature": {
        "value": 40, "unit": "degC", "wander": {"std": 5, "period_s": 300}}}}})
    truth = Truth(park, scenario, seed=2)
    states = [truth.step(5.0 * k) for k in range(80)]
    # 1 m3 at 40 degC is 992 kg, at 10 kg/s 99 s, so 20 steps
    assert states[70].temperature[RECEIVER, 1] == pytest.approx(states[50].temperature[SENDER, 1], abs=0.1)


def test_losses_are_drawn_once_within_their_uncertainty() -> None:
    park = park_of([node("a", "mass")],
                   [stream("in", ENVIRONMENT, "a", **nominal(36)),
                    stream("out", "a", ENVIRONMENT, mass_loss_percent={"value": 2.0, "u95": 1.0},
                           heat_loss_kw={"value": 100.0, "u95": 0.0})])
    losses = []
    for seed in range(40):
        truth = Truth(park, seed=seed)
        state = truth.step(60)
        losses.append(1.0 - state.mass_flow[RECEIVER, 1] / state.mass_flow[SENDER, 1])
        carried = state.heat_flow[SENDER, 1] * (1.0 - losses[-1])
        assert state.heat_flow[RECEIVER, 1] == pytest.approx(carried - 100.0)
    assert np.mean(losses) == pytest.approx(0.02, abs=0.003)
    assert np.std(losses) == pytest.approx(0.01 / 1.96, rel=0.4)


# -- the same run ---------------------------------------------------------------------------------------------------

def test_the_same_seed_and_start_give_the_same_run_however_it_is_stepped() -> None:
    park = boiler()
    one, other = Truth(park, seed=7, start=1e9), Truth(park, seed=7, start=1e9)
    for k in range(1, 41):
        one.step(1e9 + 5 * k)
    other.step(1e9 + 201)
    assert np.array_equal(one.state.mass_flow, other.state.mass_flow)
    assert np.array_equal(one.state.temperature, other.state.temperature, equal_nan=True)
    different = Truth(park, seed=8, start=1e9).step(1e9 + 200)
    assert not np.array_equal(one.state.mass_flow, different.mass_flow)


def test_an_earlier_time_changes_nothing() -> None:
    truth = Truth(boiler(), start=1000.0)
    state = truth.step(1100.0)
    assert truth.step(1050.0) is state


@pytest.mark.parametrize(("intervals", "seconds"), [([5, 10, 20], 5.0), ([2, 10], 2.0), ([15], 3.75), ([0.1], 1.0)])
def test_the_step_is_the_common_divisor_of_the_intervals(intervals: list[float], seconds: float) -> None:
    meters = [meter(f"m{k}", "mass_flow", "t/h", stream="feed", interval_s=i) for k, i in enumerate(intervals)]
    assert step_seconds(boiler().model_copy(update={"meters": park_of([], [], meters).meters})) == seconds


# -- parks that say little ------------------------------------------------------------------------------------------

def test_a_park_without_any_number_runs_with_positive_flows() -> None:
    park = park_of([node("a", "mass", "energy"), node("b", "mass")],
                   [stream("in", ENVIRONMENT, "a"), stream("s", "a", "b"), stream("r", "b", "a"),
                    stream("out", "b", ENVIRONMENT), stream("q", ENVIRONMENT, "a", "heat")])
    truth = Truth(park)
    assert truth.state.mass_flow.max() > 0
    assert (truth.state.mass_flow[:, :4] > 0).all()
    assert worst(park, truth) < CLOSED


def test_missing_nominals_follow_from_those_that_are_given() -> None:
    park = park_of([node("a", "mass"), node("b", "mass")],
                   [stream("in", ENVIRONMENT, "a", **nominal(50)), stream("s", "a", "b"),
                    stream("t", "a", ENVIRONMENT, **nominal(20)), stream("out", "b", ENVIRONMENT)])
    flows = Truth(park).plant.flow * 3.6
    assert flows == pytest.approx([50, 30, 20, 30], rel=0.02)


def test_qualities_start_in_the_middle_of_their_limits_and_stay_inside() -> None:
    limits = [{"property": "temperature", "unit": "degC", "low": 60, "high": 80},
              {"property": "conductivity", "unit": "uS/cm", "high": 1000},
              {"property": "pH", "unit": "pH", "low": 6, "high": 9}]
    park = park_of([node("a", "mass"), {**node("b", "mass"), "participant": "q"}],
                   [stream("in", ENVIRONMENT, "a", **nominal(50)), stream("s", "a", "b"),
                    stream("out", "b", ENVIRONMENT)],
                   exchanges=[{"id": "X", "kind": "water", "stream": "s", "settles": "mass", "unit": "t",
                               "agreement": {"quality": limits}}])
    truth = Truth(park, seed=3, step_s=60)
    for k in range(200):
        state = truth.step(60.0 * k)
        assert 333.15 + 2 < state.temperature[1, 1] < 353.15 - 2
        assert 0.06 < state.properties["conductivity"][1, 1] < 0.09
        assert 6.5 < state.properties["pH"][1, 1] < 8.5


def test_bounds_are_kept_where_loads_would_leave_them() -> None:
    park = park_of([node("a", "mass")],
                   [stream("in", ENVIRONMENT, "a", **nominal(50)),
                    stream("s", "a", ENVIRONMENT, bounds={"min": 24, "max": 26, "unit": "t/h"}, **nominal(25)),
                    stream("t", "a", ENVIRONMENT, **nominal(25))])
    truth = Truth(park, Scenario(wander_percent=20, wander_period_s=300), seed=1)
    seen = np.array([truth.step(10.0 * k).mass_flow[0] * 3.6 for k in range(200)])
    assert seen[:, 1].min() >= 24 - 1e-9
    assert seen[:, 1].max() <= 26 + 1e-9
    assert np.ptp(seen[:, 2]) > 5


def test_balances_that_nothing_can_close_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(problem: Problem) -> None:
        raise UnclosableError((0,))

    truth = Truth(boiler())
    monkeypatch.setattr("simulators.motion.project", refuse)
    with pytest.raises(OperationError, match="close the balances of b"):
        truth.step(100)


def test_a_balance_that_nothing_flows_through_is_left_open_and_said(caplog: pytest.LogCaptureFixture) -> None:
    park = park_of([node("users", "mass", "energy")],
                   [stream("steam", ENVIRONMENT, "users", "steam", property_delay_s=60.0, **nominal(36))])
    state = Truth(park).step(100)
    assert state.mass_flow[1, 0] == pytest.approx(10.0, rel=0.1)
    assert "mass of node users is left open: no stream takes it away" in caplog.text
    assert "energy of node users is left open" in caplog.text


def test_energies_that_no_temperature_can_close_are_said(caplog: pytest.LogCaptureFixture) -> None:
    park = park_of([node("users", "mass", "energy")],
                   [stream("steam", ENVIRONMENT, "users", "steam", **nominal(36)), stream("hot", "users", ENVIRONMENT)])
    truth = Truth(park)
    truth.step(100)
    assert truth.imbalance() < CLOSED
    assert "no temperature of their phase" in caplog.text


def test_a_tank_that_only_fills_fills(caplog: pytest.LogCaptureFixture) -> None:
    park = park_of([node("t", "mass")], [stream("in", ENVIRONMENT, "t", **nominal(36))], [level("t")])
    truth = Truth(park)
    before = truth.state.inventory[0]
    assert truth.step(1000).inventory[0] - before == pytest.approx(10000, rel=0.1)
    assert not caplog.records


def test_energy_that_balances_is_not_remarked_on(caplog: pytest.LogCaptureFixture) -> None:
    Truth(boiler())
    assert not caplog.records


def test_a_stream_flows_while_it_is_in_force() -> None:
    park = park_of([node("a", "mass")],
                   [stream("in", ENVIRONMENT, "a", **nominal(30)), stream("old", "a", ENVIRONMENT, **nominal(10)),
                    stream("new", "a", ENVIRONMENT, valid_from="1970-01-01T00:10:00Z", **nominal(20))])
    truth = Truth(park)
    assert truth.state.mass_flow[0, 2] == 0.0
    assert truth.imbalance() < CLOSED
    assert truth.step(700).mass_flow[0, 2] > 4.0
    assert truth.imbalance() < CLOSED


# -- excursions -----------------------------------------------------------------------------------------------------

def decanter() -> Park:
    return park_of([node("d", "mass", "component.solids")],
                   [stream("in", ENVIRONMENT, "d", "material", **nominal(40)),
                    stream("cake", "d", ENVIRONMENT, "material", **nominal(10)),
                    stream("water", "d", ENVIRONMENT, "material", **nominal(30))],
                   [meter("A", "quality.solids", "%", stream="cake", side="sender"),
                    meter("G", "quality.solids", "g/l", stream="cake", side="sender")])


SOLIDS = Scenario.model_validate({"streams": {
    s: {"properties": {"solids": {"value": v, "unit": "%"}}}
    for s, v in {"in": 8.0, "cake": 26.0, "water": 2.0}.items()}})


def test_an_excursion_is_real_and_leaves_balances_closed() -> None:
    park = decanter()
    quiet, struck = Truth(park, SOLIDS, seed=1), Truth(park, SOLIDS, seed=1)
    struck.apply(Excursion("cake", "solids", 100.0, 200.0, -0.06))
    for t in range(0, 300, 5):
        quiet.step(t)
        struck.step(t)
        off = struck.value(park.meters[0]) - quiet.value(park.meters[0])
        assert worst(park, struck) < CLOSED
        if 130 <= t <= 170:
            assert off == pytest.approx(-0.06, abs=0.006)
        elif t <= 100 or t >= 200:
            assert off == 0.0


def test_a_relative_excursion_of_a_plain_property() -> None:
    park = boiler()
    park = park.model_copy(update={"meters": park_of([], [], [
        meter("C", "quality.conductivity", "uS/cm", stream="feed", side="receiver")]).meters})
    truth = Truth(park)
    before = truth.value(park.meters[0])
    truth.apply(Excursion("feed", "conductivity", 0.0, 100.0, 0.5, relative=True, ramp_s=0.0))
    truth.step(50)
    assert truth.value(park.meters[0]) == pytest.approx(1.5 * before, rel=0.1)


@pytest.mark.parametrize(("stream_", "property_"), [("nowhere", "solids"), ("cake", "taste")])
def test_an_excursion_of_what_is_not_there_is_refused(stream_: str, property_: str) -> None:
    with pytest.raises(ValueError, match="no stream with a property"):
        Truth(decanter()).apply(Excursion(stream_, property_, 0.0, 1.0, 0.1))


def test_heat_has_no_temperature_that_could_run_off() -> None:
    with pytest.raises(ValueError, match=r"fuel\.temperature"):
        Truth(boiler()).apply(Excursion("fuel", "temperature", 0.0, 1.0, 5.0))


# -- what meters read -----------------------------------------------------------------------------------------------

def circuit() -> Park:
    """A supply that loses heat and water on its way, and its return, metered in every way."""
    meters = [
        meter("mass", "mass_flow", "t/h", stream="go", side="receiver"),
        meter("volume", "volume_flow", "m3/h", stream="go", side="sender"),
        meter("net", "mass_flow", "t/h", streams={"go": 1, "back": -1}, side="receiver"),
        meter("heat", "heat_flow", "kW", streams={"go": 1, "back": -1}, side="receiver"),
        meter("heat_sent", "heat_flow", "kW", streams={"go": 1, "back": -1}, side="sender"),
        meter("count", "mass_total", "t", stream="go", side="sender", counter={"modulus": 1e6, "resolution": 0.001}),
        meter("energy", "energy_total", "MWh", stream="go", side="sender"),
        meter("ticket", "mass_batch", "t", stream="go", side="sender", interval_s=60.0),
        meter("T", "temperature", "degC", stream="go", side="receiver"),
        meter("p", "pressure", "barg", stream="go", side="sender"),
        meter("power", "power", "kW", stream="grid", side="receiver"),
        level("tank"), level("deep", "m"), level("hot", "MWh"),
    ]
    return park_of(
        [node("a", "mass"), {**node("b", "mass"), "participant": "q"}, node("tank", "mass"), node("deep", "mass"),
         node("hot", "mass", "energy"), node("g", "energy")],
        [stream("go", "a", "b", heat_loss_kw={"value": 50, "u95": 10}, mass_loss_percent={"value": 1, "u95": 0},
                **nominal(36)),
         stream("back", "b", "a", heat_loss_kw={"value": 20, "u95": 5}), stream("fill", ENVIRONMENT, "a"),
         stream("t1", ENVIRONMENT, "tank", **nominal(10)), stream("t2", "tank", ENVIRONMENT),
         stream("d1", ENVIRONMENT, "deep", **nominal(10)), stream("d2", "deep", ENVIRONMENT),
         stream("h1", ENVIRONMENT, "hot", **nominal(10)), stream("h2", "hot", ENVIRONMENT, **nominal(10)),
         stream("hq", ENVIRONMENT, "hot", "heat", **nominal(400, "kW")),
         stream("grid", ENVIRONMENT, "g", "electricity", **nominal(90, "kW")),
         stream("use", "g", ENVIRONMENT, "heat")],
        meters)


def test_each_quantity_is_read_where_its_meter_stands() -> None:
    park = circuit()
    truth = Truth(park, seed=5, start=600.0)
    mass = energy = 0.0
    tickets = []
    for k in range(1, 25):
        state = truth.state
        mass += state.mass_flow[SENDER, 0] * 5.0
        energy += state.heat_flow[SENDER, 0] * 5.0
        state = truth.step(600.0 + 5 * k)
        if k % 12 == 0:
            tickets.append(truth.value(park.meter["ticket"]))
    read = {m.id: truth.value(m) for m in park.meters}
    assert read["mass"] == state.mass_flow[RECEIVER, 0]
    assert read["volume"] == pytest.approx(state.mass_flow[SENDER, 0] / state.density[SENDER, 0])
    assert read["net"] == pytest.approx(state.mass_flow[RECEIVER, 0] - state.mass_flow[SENDER, 1])
    assert read["heat"] == pytest.approx(state.heat_flow[RECEIVER, 0] - state.heat_flow[SENDER, 1])
    assert read["heat_sent"] == pytest.approx(state.heat_flow[SENDER, 0] - state.heat_flow[RECEIVER, 1])
    assert read["count"] == pytest.approx(mass, rel=1e-12)
    assert read["energy"] == pytest.approx(energy, rel=1e-12)
    assert sum(tickets) == pytest.approx(mass, rel=1e-12)
    assert read["T"] == state.temperature[RECEIVER, 0]
    assert read["p"] == state.pressure[SENDER, 0]
    assert read["power"] == state.heat_flow[RECEIVER, 10]
    nodes = {n.id: i for i, n in enumerate(park.nodes)}
    assert read["L.tank"] == state.inventory[nodes["tank"]]
    assert read["L.hot"] == state.heat_inventory[nodes["hot"]]
    assert read["L.deep"] == pytest.approx(state.inventory[nodes["deep"]] / 1000.0 / 100.0, rel=0.02)    # 100 m2
    assert worst(park, truth) < CLOSED


def test_a_heat_meter_reads_something_where_nothing_says_how_warm_supply_and_return_are() -> None:
    """10 kg/s from 80 to 50 degC are 1.26 MW (IAPWS-IF97: 335.3 and 209.7 kJ/kg)."""
    flow = nominal(10, "kg/s")
    park = park_of([node("a"), node("b")], [stream("S", "a", "b", **flow), stream("R", "b", "a", **flow)],
                   [meter("Q", streams={"S": 1, "R": -1}, side="sender", quantity="heat_flow", unit="kW")])
    assert Truth(park).value(park.meters[0]) == pytest.approx(1256, rel=0.1)       # flows and temperatures wander


def test_a_component_is_a_fraction_or_a_concentration_as_its_meter_is() -> None:
    park = decanter()
    truth = Truth(park, SOLIDS)
    fraction, concentration = truth.value(park.meters[0]), truth.value(park.meters[1])
    assert fraction == pytest.approx(0.26, abs=0.02)
    assert concentration == pytest.approx(fraction * 1000.0)      # 1000 kg/m3: a material of which nothing is said


def test_a_heat_store_holds_what_its_balance_leaves() -> None:
    park = circuit()
    truth = Truth(park, seed=1)
    i = [n.id for n in park.nodes].index("hot")
    before = truth.state
    after = truth.step(5)
    assert after.heat_inventory[i] == pytest.approx(before.heat_inventory[i] + 5 * before.heat_stored[i])
    assert before.mass_stored[i] == 0.0


def test_what_a_meter_typically_reads_is_known_from_the_start() -> None:
    park = circuit()
    truth = Truth(park)
    first = {m.id: truth.nominal(m) for m in park.meters}
    truth.step(300)
    assert {m.id: truth.nominal(m) for m in park.meters} == first
    assert first["mass"] == pytest.approx(9.9, rel=0.05)
    assert first["ticket"] == pytest.approx(600.0, rel=0.05)
