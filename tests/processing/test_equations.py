"""The equations of a park: their Jacobian, what has one variable and what two, which balances are left open."""

from __future__ import annotations

import numpy as np
import pytest

from park.model import Park
from processing.equations import NONE, End, Equations, typical_flows
from tests.processing.parks import works

BASE = {"park": {"name": "p", "timezone": "UTC"}, "participants": [{"id": "a", "name": "A"}]}


def park_of(nodes, streams, meters=()):
    return Park.model_validate({**BASE, "nodes": nodes, "streams": streams, "meters": list(meters)})


def node(id, *conserves, **keys):
    return {"id": id, "participant": "a", "conserves": list(conserves), **keys}


def stream(id, start, end, carrier="water", **keys):
    return {"id": id, "from": start, "to": end, "carrier": carrier, **keys}


def test_jacobian_is_the_derivative():
    equations = Equations.of(works())
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 2.0, equations.n_variables)
    linear = equations.with_delays(rng.uniform(0.5, 1.0, len(equations.delays)))
    jacobian = equations.jacobian(linear, x)
    step = 1e-6
    for j in range(len(x)):
        ahead, behind = x.copy(), x.copy()
        ahead[j] += step
        behind[j] -= step
        slope = (equations.residual(linear, ahead) - equations.residual(linear, behind)) / (2 * step)
        np.testing.assert_allclose(jacobian[:, j], slope, atol=1e-8)


def test_throughput_is_the_sum_of_terms():
    equations = Equations.of(park_of(
        [node("a.n", "mass")], [stream("I", "environment", "a.n"), stream("O", "a.n", "environment")]))
    linear = equations.with_delays(np.zeros(0))
    x = np.zeros(equations.n_variables)
    x[equations.flow[:, End.SENDER]] = 3.0, 2.0
    assert equations.residual(linear, x).tolist() == [1.0]
    assert equations.throughput(linear, x).tolist() == [5.0]


def test_stream_without_loss_or_delay_has_one_flow_and_one_enthalpy():
    equations = Equations.of(park_of([node("a.n")], [stream("S", "environment", "a.n")]))
    assert len(set(equations.flow[0])) == 1
    assert len(set(equations.enthalpy[0])) == 1


@pytest.mark.parametrize(("keys", "flows", "enthalpies"), [
    ({"property_delay_s": 10}, (0, 0, 0), (0, 1, 1)),
    ({"pipe_volume_m3": 10}, (0, 0, 0), (0, 1, 1)),
    ({"flow_delay_s": 10}, (0, 1, 1), (0, 1, 1)),
    ({"mass_loss_percent": {"value": 1}}, (0, 1, 0), (0, 0, 0)),
    ({"heat_loss_kw": {"value": 1}}, (0, 0, 0), (0, 1, 0)),
    ({"heat_loss_kw": {"value": 1}, "property_delay_s": 10}, (0, 0, 0), (0, 2, 1)),
    ({"mass_loss_percent": {"value": 1}, "flow_delay_s": 10}, (0, 2, 1), (0, 1, 1)),
])
def test_losses_and_delays_part_the_ends(keys, flows, enthalpies):
    """The patterns of sender, receiver, departed: equal numbers mean the same variable."""
    equations = Equations.of(park_of([node("a.n")], [stream("S", "environment", "a.n", **keys)]))
    for found, wanted in ((equations.flow[0], flows), (equations.enthalpy[0], enthalpies)):
        assert [[a == b for b in found] for a in found] == [[a == b for b in wanted] for a in wanted]


def test_heat_has_a_flow_and_no_enthalpy():
    equations = Equations.of(park_of([node("a.n")], [stream("Q", "environment", "a.n", "heat")]))
    assert equations.unit[equations.flow[0, 0]] == "kW"
    assert equations.enthalpy[0].tolist() == [NONE] * 3


def test_balance_through_which_nothing_flows_is_left_open():
    both = [stream("I", "environment", "a.n"), stream("O", "a.n", "environment")]
    assert len(Equations.of(park_of([node("a.n", "mass")], both)).nodes) == 1
    for one in both:
        assert not Equations.of(park_of([node("a.n", "mass")], [one])).nodes
    assert not Equations.of(park_of([node("a.n", "energy")], [stream("I", "environment", "a.n", "heat")])).nodes


def test_tank_holds_up_what_comes_in():
    level = {"id": "L", "quantity": "inventory", "unit": "t", "node": "a.n", "u95_absolute": 1,
             "source": {"mqtt": {"topic": "l"}}}
    equations = Equations.of(park_of([node("a.n", "mass")], [stream("I", "environment", "a.n")], [level]))
    assert (0, "mass") in equations.stored
    heat = Equations.of(park_of([node("a.n", "mass", "energy")], [
        stream("I", "environment", "a.n"), stream("O", "a.n", "environment")], [{**level, "unit": "MWh"}]))
    assert set(heat.stored) == {(0, "energy")}


def test_closure_and_components_have_variables():
    equations = Equations.of(park_of(
        [node("a.n", "mass", "component.salt", closure_u95_kg_s=0.1)],
        [stream("I", "environment", "a.n"), stream("O", "a.n", "environment")]))
    by_quantity = {row.quantity: row for row in equations.nodes}
    assert by_quantity["mass"].closure != NONE
    assert by_quantity["component.salt"].closure == NONE
    assert (equations.component["salt"] != NONE).all()


def test_typical_flows_come_from_what_the_park_says():
    park = park_of([node("a.n")], [
        stream("A", "environment", "a.n", nominal={"value": 36, "unit": "t/h"}),
        stream("B", "environment", "a.n", bounds={"max": 72, "unit": "t/h"}),
        stream("C", "environment", "a.n"),
        stream("Q", "environment", "a.n", "heat")])
    assert typical_flows(park).tolist() == [10.0, 10.0, 10.0, 1.0]
