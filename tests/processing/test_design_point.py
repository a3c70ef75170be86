"""The design point: classes and std by hand, and the same as the live cycle finds."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from park.properties import enthalpy, enthalpy_slopes
from processing.design_point import (
    LARGE,
    DesignEstimator,
    design_point,
    expect,
    steady_readings,
)
from processing.estimate import Estimator
from processing.park_parts import mass_alone, part_in_force
from processing.results import Reporter
from tests.processing.small_parks import HEATED, NOW, SPLIT, U95, flow, meter, park_of


def test_by_hand_a_split_with_two_meters_computes_the_third(tmp_path):
    found = expect(park_of(tmp_path, SPLIT + "meters:\n" + meter("in", 3 * U95) + meter("left", 4 * U95)), NOW)
    assert {r.stream: r.status for r in found.flows if r.quantity == "mass_flow"} == {
        "in": "nonredundant",
        "left": "nonredundant",
        "right": "observable",
        "other": "unobservable",
    }
    assert flow(found, "in").std == pytest.approx(3)
    assert flow(found, "right").std == pytest.approx(5)  # 3 and 4 in quadrature
    assert flow(found, "right").reconciled == pytest.approx(4)
    assert flow(found, "other").std is None
    assert found.checked == set()


def test_by_hand_a_split_with_three_meters_checks_them_all(tmp_path):
    text = SPLIT + "meters:\n" + meter("in", 3 * U95) + meter("left", 4 * U95) + meter("right", 12 * U95)
    found = expect(park_of(tmp_path, text), NOW)
    assert flow(found, "in").status == "redundant"
    assert flow(found, "in").std == pytest.approx((1 / 9 + 1 / (16 + 144)) ** -0.5)
    assert flow(found, "right").std == pytest.approx((1 / 144 + 1 / (9 + 16)) ** -0.5)
    assert len(found.checked) == 3


def test_two_meters_of_one_stream_check_each_other(tmp_path):
    text = SPLIT + "meters:\n" + meter("other", 3 * U95) + meter("other", 4 * U95, never_suspect="false")
    found = expect(park_of(tmp_path, text), NOW)
    assert flow(found, "other").status == "nonredundant"
    assert flow(found, "other").std == pytest.approx((1 / 9 + 1 / 16) ** -0.5)
    assert len(found.checked) == 2


def test_flows_without_nominal_follow_from_the_others(tmp_path):
    text = SPLIT.replace(", nominal: {value: 10, unit: kg/s}", "")
    percent = meter("in", 1).replace("u95_absolute: 1", "u95_percent_of_reading: 1.96")
    found = expect(park_of(tmp_path, text + "meters:\n" + percent), NOW)
    assert flow(found, "in").reconciled == pytest.approx(10, rel=1e-3)
    assert flow(found, "in").std == pytest.approx(0.1, rel=1e-3)  # 1 % of 10 kg/s


def test_by_hand_heat_follows_from_flow_and_both_temperatures(tmp_path):
    found = expect(park_of(tmp_path, HEATED), NOW)
    heat = flow(found, "heat", "heat_flow")
    assert heat.status == "observable"
    rise = float(enthalpy(5e5, 353.15, "liquid") - enthalpy(5e5, 293.15, "liquid"))
    assert heat.reconciled == pytest.approx(10 * rise, rel=0.02)
    slopes = [float(enthalpy_slopes(5e5, kelvin, "liquid").per_kelvin) for kelvin in (293.15, 353.15)]
    by_hand = ((rise * 0.2) ** 2 + sum((10 * slope * 1.0) ** 2 for slope in slopes)) ** 0.5 / 1.96
    assert heat.std == pytest.approx(by_hand, rel=0.02)


def test_what_is_expected_is_what_the_live_cycle_finds(tmp_path):
    """The live estimator, fed with the steady readings of the design point, gives the same values and std."""
    park = park_of(tmp_path, HEATED)
    design = DesignEstimator(park)
    at = design.at(design_point(park, design.equations), np.ones(len(park.meters), dtype=bool))
    live = Estimator(park)
    seen = live.estimate(steady_readings(design, at.means.value[: len(park.meters)]), 0, 10_000_000)
    assert seen.converged
    nobody = np.zeros(len(park.meters), dtype=np.bool_)
    found = {(r.stream, r.quantity): r for r in Reporter(live).rows(seen, seen.observation, nobody).flows}
    for row in expect(park, NOW).flows:
        assert found[row.stream, row.quantity].status == row.status
        assert found[row.stream, row.quantity].reconciled == pytest.approx(row.reconciled, rel=1e-4)
        assert found[row.stream, row.quantity].std == pytest.approx(row.std, rel=1e-3)


def test_a_park_too_large_for_all_its_balances_keeps_those_of_mass(tmp_path, monkeypatch):
    monkeypatch.setattr("processing.design_point.LARGE", 2)
    park = park_of(tmp_path, HEATED)
    assert len(park.streams) < LARGE
    found = expect(park, NOW)
    assert found.mass_only
    assert flow(found, "heat", "heat_flow").status == "unobservable"
    assert flow(found, "warm").status == "observable"


def test_a_park_without_its_balances_of_energy_remembers_nothing_of_them(tmp_path):
    park = park_of(tmp_path, HEATED)
    assert park.node["hx"].conserves == ("mass", "energy")  # cached now
    assert mass_alone(park).node["hx"].conserves == ("mass",)


def test_streams_that_are_not_in_force_are_in_no_balance(tmp_path):
    """Without `right`, what comes in goes left: two meters in line check each other."""
    text = SPLIT.replace("id: right,", "id: right, valid_to: 2026-06-30,") + "meters:\n"
    park = park_of(tmp_path, text + meter("in", 3 * U95) + meter("left", 4 * U95) + meter("right", 1))
    now = expect(park, NOW)
    assert now.absent == ("right",)
    assert {r.stream for r in now.flows} == {"in", "left", "other"}
    assert flow(now, "in").status == "redundant"
    assert flow(now, "in").std == pytest.approx((1 / 9 + 1 / 16) ** -0.5)
    before = expect(park, NOW - timedelta(days=2))
    assert before.absent == ()
    assert flow(before, "in").std == pytest.approx((1 / 9 + 1 / (16 + 1 / 1.96**2)) ** -0.5)


def test_a_node_that_is_not_in_force_takes_its_streams_with_it(tmp_path):
    text = SPLIT.replace("id: b.use,", "id: b.use, valid_from: 2027-01-01,") + "meters:\n" + meter("in", 1)
    assert expect(park_of(tmp_path, text), NOW).absent == ("left", "other")


def test_a_signed_set_goes_on_with_what_is_in_force(tmp_path):
    signed = meter("in", 1, unit="kg/s").replace("stream: in", "streams: {in: 1, right: -1}")
    park = park_of(tmp_path, SPLIT.replace("id: right,", "id: right, valid_to: 2026-06-30,") + "meters:\n" + signed)
    assert [dict(m.signed_streams) for m in part_in_force(park, NOW).meters] == [{"in": 1.0}]
