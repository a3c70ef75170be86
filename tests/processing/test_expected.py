"""What flows are expected to be before anything is estimated: meters are believed until balances outvote them."""

from __future__ import annotations

import numpy as np
import pytest

from park.model import Park
from processing.estimate import Estimate, Estimator
from processing.observation import FARTHEST
from processing.plan import Plan
from tests.processing.parks import flow
from tests.processing.test_estimate import constant, node, park_of, stream

S = 1_000_000


def ring(**keys: object) -> Park:
    """Water in a ring of three nodes; A with a meter at each end, B and C with one."""
    return park_of(
        [node("a.n", "mass"), node("b.m", "mass"), node("b.k", "mass")],
        [stream("A", "a.n", "b.m", **keys), stream("B", "b.m", "b.k", **keys), stream("C", "b.k", "a.n", **keys)],
        [flow("A1", "A", "sender", 1.0, "kg/s"), flow("A2", "A", "receiver", 2.0, "kg/s"),
         flow("B1", "B", "receiver", 1.0, "kg/s"), flow("C1", "C", "sender", 1.0, "kg/s")])


def estimated(park: Park, values: dict[str, float]) -> Estimate:
    return Estimator(park).estimate(constant(park, values), 0, 20 * S)


HONEST = {"A1": 11.0, "A2": 11.1, "B1": 11.05, "C1": 10.95}


@pytest.mark.parametrize("reads", [0.0, 0.011, 11_050.0])
@pytest.mark.parametrize("t_per_h", [None, 40, 200])
def test_std_is_that_of_the_flow_whatever_one_meter_reads(reads, t_per_h):
    park = ring(**({"nominal": {"value": t_per_h, "unit": "t/h"}} if t_per_h else {}))
    well, ill = estimated(park, HONEST), estimated(park, HONEST | {"B1": reads})
    assert 0.9 * well.std[0] < ill.std[0] < 1.5 * well.std[0]      # 1.2: one meter in four is not heard
    worst = int(np.nanargmax(abs(ill.statistic)))
    assert park.meters[worst].id == "B1"
    assert abs(ill.statistic[worst]) > 30.0


def sizes(plan: Plan, values: dict[str, float]) -> np.ndarray:
    said = np.array([values.get(m.id, np.nan) for m in plan.park.meters])
    return plan.expectation.sizes(plan.slot_variable, said, ~np.isnan(said), plan.taken_as)


def test_meters_that_agree_within_a_factor_are_taken_at_their_word():
    plan = Estimator(ring(nominal={"value": 40, "unit": "t/h"})).plan
    np.testing.assert_array_equal(sizes(plan, HONEST)[plan.equations.flow[:, 0]], [11.05, 11.05, 10.95])
    assert (sizes(plan, dict.fromkeys(HONEST, 8.0))[plan.equations.flow[:, 0]] == 8.0).all()


def test_source_with_one_meter_is_not_held_against_what_a_wrong_neighbour_makes_of_it():
    """The source has one balance, and two votes: its own meter's, and one that its neighbour's meter spoils."""
    park = park_of(
        [node("a.n", "mass"), node("b.m", "mass")],
        [stream("A", "environment", "a.n"), stream("B", "a.n", "b.m"), stream("C", "b.m", "environment")],
        [flow(name, name[0], side, 1.0, "kg/s") for name, side in (("A1", "receiver"), ("B1", "sender"),
                                                                   ("C1", "sender"))])
    plan = Estimator(park).plan
    for wrong in ({"B1": 11_050.0}, {"B1": 0.0}, {"A1": 0.0}):
        said = {"A1": 11.0, "B1": 11.05, "C1": 10.95} | wrong
        np.testing.assert_allclose(sizes(plan, said)[plan.equations.flow[:, 0]], 11.0, rtol=0.01)


def test_no_meter_carries_the_first_estimate_away():
    """One that reads a thousandfold is named beyond doubt, and hardly moves what the others say."""
    well, ill = estimated(ring(), HONEST), estimated(ring(), HONEST | {"B1": 11_050.0})
    np.testing.assert_allclose(ill.values, well.values, rtol=0.01)
    assert ill.statistic[2] == pytest.approx(FARTHEST, rel=0.01)
    assert ill.observation.slot_variance[2] == pytest.approx(((11_050.0 - 11.0) / FARTHEST) ** 2, rel=0.01)


def test_meter_that_is_off_by_less_weighs_what_it_always_does():
    well, ill = estimated(ring(), HONEST), estimated(ring(), HONEST | {"B1": 11.05 * 1.3})
    assert ill.observation.slot_variance[2] == pytest.approx(well.observation.slot_variance[2], rel=0.35)


def test_plant_that_stands_still_is_expected_to_stand_still():
    plan = Estimator(ring(nominal={"value": 40, "unit": "t/h"})).plan
    assert (sizes(plan, dict.fromkeys(HONEST, 0.0))[plan.equations.flow[:, 0]] == 0.0).all()


def test_one_meter_is_outvoted_by_the_balances_of_both_its_nodes():
    plan = Estimator(ring()).plan
    for reads in (0.0, 0.011, 11_050.0):
        expected = sizes(plan, HONEST | {"B1": reads})
        np.testing.assert_allclose(expected[plan.equations.flow[:, 0]], 11.0, rtol=0.02)


def test_without_balances_and_nominal_there_is_nothing_to_hold_a_meter_against():
    plan = Estimator(ring()).plan
    assert sizes(plan, {"B1": 0.011})[plan.equations.flow[1, 0]] == 0.011
