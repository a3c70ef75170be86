"""Rows of a window: what is measured, by whom, and what the raw values leave open."""

from __future__ import annotations

import numpy as np
import pytest

from processing.estimate import Estimator
from processing.exchanges import ExchangeTable
from processing.results import Reporter
from simulators.scenario import Scenario
from tests.processing.parks import SCENARIO, flow, meter, thermometer, works
from tests.processing.simulated import Simulated
from tests.processing.test_estimate import S, constant, flows, node, park_of, stream

TWO = park_of(
    [node("a.n", "mass"), node("b.n", "mass", closure_u95_kg_s=0.1)],
    [stream("I", "environment", "a.n"), stream("X", "a.n", "b.n"), stream("O", "b.n", "environment")],
    [flow("FI", "I", "receiver", 1.0, "kg/s"), flow("FX", "X", "sender", 1.0, "kg/s"),
     flow("GX", "X", "receiver", 2.0, "kg/s"), flow("FO", "O", "sender", 1.0, "kg/s")])


def test_measured_is_the_inverse_variance_mean_and_best_the_smallest_u95():
    found, *_ = flows(TWO, {"FI": 10.0, "FX": 10.0, "GX": 10.5, "FO": 10.0})
    row = found["X", "sender", "mass_flow"]
    assert row.measured == pytest.approx((10.0 * 4 + 10.5) / 5, rel=1e-4)
    assert (row.best_meter, row.best_measured) == ("FX", 10.0)
    assert row.adjustment == pytest.approx(row.reconciled - row.measured)


def test_imbalance_is_of_the_raw_values_and_its_std_theirs():
    *_, rows = flows(TWO, {"FI": 10.4, "FX": 10.0, "GX": 10.0, "FO": 9.0})
    a, b = rows.nodes
    assert a.imbalance == pytest.approx(0.4)
    assert b.imbalance == pytest.approx(1.0)
    assert b.std == pytest.approx(np.sqrt(sum(v**2 for v in (
        0.1 * np.sqrt(0.5 + 0.5 / 4) / np.sqrt(1.25), 0.095 * np.sqrt(0.5 + 0.5 / 4), 0.1))) / 1.96, rel=0.02)
    assert abs(a.reconciled_imbalance) < 1e-12


def test_node_with_an_unmeasured_flow_has_no_imbalance():
    *_, rows = flows(TWO, {"FI": 10.4, "FO": 9.0})
    assert [row.imbalance for row in rows.nodes] == [None, None]


def test_tank_says_what_it_stored():
    park = park_of(
        [node("a.n", "mass")], [stream("I", "environment", "a.n"), stream("O", "a.n", "environment")],
        [flow("FI", "I", "receiver", 1.0, "kg/s"), flow("FO", "O", "sender", 1.0, "kg/s"),
         meter("L", None, None, "inventory", "t", node="a.n", u95_absolute=0.001)])
    estimator = Estimator(park)
    rows = [(m, t * S, v) for t in range(-100, 20, 5) for m, v in ((0, 10.0), (1, 8.0), (2, 5000.0 + 2.1 * t))]
    from processing.window import Readings

    which, time, value = zip(*rows, strict=True)
    found = estimator.estimate(Readings.of(3, which, time, value), 0, 20 * S)
    row, = Reporter(estimator).rows(found, found.observation, np.zeros(3, dtype=np.bool_)).nodes
    assert row.stored == pytest.approx(2.1)
    assert row.imbalance == pytest.approx(-0.1)
    assert abs(row.reconciled_imbalance) < 1e-12


def test_meters_say_what_they_should_have_read_in_their_own_quantity():
    park = park_of(
        [node("a.n", "mass")], [stream("I", "environment", "a.n"), stream("O", "a.n", "environment")],
        [meter("V", "I", "receiver", "volume_flow", "m3/h", u95_percent_of_reading=1.0),
         thermometer("T", "I", "receiver"), flow("F", "O", "sender", 1.0),
         meter("Q", "I", "receiver", "quality.turbidity", "NTU", u95_absolute=0.1)])
    *_, rows = flows(park, {"V": 0.0100, "T": 313.15, "F": 10.0, "Q": 0.4})
    found = {m.meter: m for m in rows.meters}
    assert found["V"].unit == "m3/s"
    assert found["V"].expected == pytest.approx(0.01004, abs=2e-5)
    assert found["T"].expected == pytest.approx(313.15, abs=0.01)
    assert (found["Q"].expected, found["Q"].test_statistic) == (None, None)


def test_both_rows_of_a_two_sided_stream_are_there():
    park = works()
    sim = Simulated(park, Scenario.model_validate(SCENARIO), seed=2)
    *_, window = sim.windows(5)
    estimator = Estimator(park)
    found = estimator.estimate(sim.readings, window.start_us, window.start_us + 20 * S)
    rows = Reporter(estimator).rows(found, found.observation, np.zeros(len(park.meters), dtype=np.bool_))
    keys = {(f.stream, f.side, f.quantity) for f in rows.flows}
    for s in park.streams:
        assert ((s.id, "receiver", "mass_flow") in keys) == (s.two_sided and s.carries_mass)
        assert ((s.id, "sender", "heat_flow") in keys) == (s.has_enthalpy or not s.carries_mass)
    assert rows.max_relative_imbalance < 1e-9


# -- exchanges ---------------------------------------------------------------------------------------------------------


NODES = (node("a.n"), node("b.n"))


def exchanged(exchange, streams, meters, values, nodes=NODES):
    park = park_of(list(nodes), streams, meters).model_copy()
    park = type(park).model_validate(
        {**park.model_dump(by_alias=True), "exchanges": [{"id": "X", "kind": "water", **exchange}]})
    estimator = Estimator(park)
    estimate = estimator.estimate(constant(park, values), 0, 20 * S)
    flow_, = ExchangeTable(estimator).flows(estimate, estimate.observation)
    return flow_


def test_each_end_is_by_its_own_partys_meters():
    found = exchanged(
        {"stream": "X", "settles": "mass", "unit": "t"}, [stream("X", "a.n", "b.n")],
        [flow("F", "X", "sender", 1.0, "kg/s"), flow("G", "X", "receiver", 1.0, "kg/s")], {"F": 10.0, "G": 10.2})
    assert (found.sender, found.receiver, found.unit) == (10.0, 10.2, "kg/s")
    assert found.reconciled == pytest.approx(10.1)
    assert found.difference == pytest.approx(-0.2)
    assert found.difference_std == pytest.approx(np.hypot(found.sender_u95, found.receiver_u95) / 1.96)


def test_declared_losses_are_no_difference():
    found = exchanged(
        {"stream": "X", "settles": "mass", "unit": "t"},
        [stream("X", "a.n", "b.n", mass_loss_percent={"value": 3, "u95": 1})],
        [flow("F", "X", "sender", 1.0, "kg/s"), flow("G", "X", "receiver", 1.0, "kg/s")], {"F": 10.0, "G": 9.7})
    assert found.difference == pytest.approx(0.0, abs=1e-9)
    assert found.reconciled == pytest.approx(9.7)


def test_energy_counts_from_the_agreements_reference():
    keys = {"stream": "X", "settles": "energy", "unit": "MWh"}
    args = ([stream("X", "a.n", "b.n")],
            [flow("F", "X", "receiver", 1.0, "kg/s"), thermometer("T", "X", "receiver")], {"F": 10.0, "T": 363.15})
    plain = exchanged(keys, *args)
    cold = exchanged({**keys, "agreement": {"energy_reference": {"temperature_degC": 90}}}, *args)
    assert plain.receiver == pytest.approx(10 * 377.0, rel=0.001)
    assert cold.receiver == pytest.approx(0.0, abs=5.0)
    assert plain.sender is None


def test_supply_and_return_are_one_exchange_and_a_heat_meter_reads_it_whole():
    found = exchanged(
        {"streams": {"S": 1, "R": -1}, "settles": "energy", "unit": "MWh", "kind": "energy"},
        [stream("S", "a.n", "b.n"), stream("R", "b.n", "a.n")],
        [flow("F", "S", "sender", 1.0, "kg/s"), flow("G", "R", "receiver", 1.0, "kg/s"),
         thermometer("T", "S", "sender"), thermometer("U", "R", "receiver"),
         meter("Q", None, "receiver", "heat_flow", "kW", streams={"S": 1, "R": -1}, u95_percent_of_reading=1.0)],
        {"F": 10.0, "G": 10.0, "T": 353.15, "U": 313.15, "Q": 1672.0})
    assert found.sender == pytest.approx(1673, rel=0.002)
    assert found.receiver == pytest.approx(1672.0)
    assert found.reconciled == pytest.approx(1672, rel=0.002)
    assert abs(found.difference) < 5


def test_volume_is_as_the_volume_meter_says():
    found = exchanged(
        {"stream": "X", "settles": "volume", "unit": "m3"}, [stream("X", "a.n", "b.n")],
        [meter("V", "X", "sender", "volume_flow", "m3/h", u95_percent_of_reading=1.0)], {"V": 0.02})
    assert found.sender == pytest.approx(0.02)
    assert found.reconciled == pytest.approx(0.02)


def test_share_of_a_total_follows_its_meter():
    park = park_of([node("a.n"), node("b.n")], [stream("X", "a.n", "b.n")],
                   [flow("M", "X", "sender", 1.0, "kg/s")])
    park = type(park).model_validate({**park.model_dump(by_alias=True), "exchanges": [
        {"id": x, "kind": "infrastructure", "settles": "mass", "unit": "t",
         "allocate": {"total": "M", "by": {"Y": 0.4, "Z": 0.6}}} for x in ("Y", "Z")]})
    estimator = Estimator(park)
    estimate = estimator.estimate(constant(park, {"M": 10.0}), 0, 20 * S)
    y, z = ExchangeTable(estimator).flows(estimate, estimate.observation)
    assert (y.reconciled, z.reconciled) == (pytest.approx(4.0), pytest.approx(6.0))
