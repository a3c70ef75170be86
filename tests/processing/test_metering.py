"""What meters are worth: by hand, and against the live cycle with a meter made wrong."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from scipy.special import ndtri

from park.model import Park
from processing.design_point import DesignEstimator, design_point, expect, steady_readings
from processing.equations import NONE, Equations
from processing.estimate import Estimator
from processing.meters import Averaging
from tests.processing.parks import works
from tests.processing.small_parks import HEATED, NOW, SPLIT, U95, meter, park_of


def metering(tmp_path, text):
    return expect(park_of(tmp_path, text), NOW).metering


def worth(found, name):
    return next(w for w in found.meters if w.meter.startswith(name))


def test_by_hand_a_split_with_three_meters(tmp_path):
    text = SPLIT + "meters:\n" + meter("in", 3 * U95) + meter("left", 4 * U95) + meter("right", 12 * U95)
    found = metering(tmp_path, text)
    total = (9 + 16 + 144) ** 0.5  # std of what the balance leaves open
    for stream, std in (("in", 3), ("left", 4), ("right", 12)):
        one = worth(found, f"mass_flow.{stream}")
        assert one.detectability == pytest.approx(std / total)
        assert one.adjustability == pytest.approx(1 - (1 - (std / total) ** 2) ** 0.5)
        # one balance alone tests one number: the threshold is the normal one
        assert one.smallest_bias == pytest.approx((1.959964 + float(ndtri(0.9))) * total, rel=1e-3)
        assert one.unit == "kg/s"
    assert [set(group) for group in found.groups] == [{w.meter for w in found.meters}]
    assert (found.false_alarms, found.power) == (0.05, 0.9)


def test_a_meter_that_nothing_checks_shows_no_bias(tmp_path):
    found = metering(tmp_path, SPLIT + "meters:\n" + meter("in", 3 * U95) + meter("other", 1, "quality.salt", "1"))
    alone, outside = found.meters
    assert (alone.detectability, alone.adjustability, alone.smallest_bias) == (0.0, pytest.approx(0.0), None)
    assert (outside.detectability, outside.adjustability, outside.smallest_bias) == (None, None, None)


def test_two_meters_of_one_stream_are_tied_and_a_third_resolves_them(tmp_path):
    found = metering(tmp_path, SPLIT + "meters:\n" + meter("other", 3 * U95) + meter("other", 3 * U95, span="[0, 9]"))
    assert len(found.groups) == 1
    assert len(found.groups[0]) == 2
    assert worth(found, "mass_flow.other").detectability == pytest.approx(0.5**0.5)
    again = next(p for p in found.proposals if p.place.stream == "other")
    assert (again.groups_resolved, again.newly_checked) == (1, 1)


def test_meters_never_suspected_are_in_no_group(tmp_path):
    text = SPLIT + "meters:\n" + meter("other", 3 * U95) + meter("other", 3 * U95, never_suspect="true")
    assert metering(tmp_path, text).groups == ()


def test_the_extra_meter_that_makes_most_observable_comes_first(tmp_path):
    """One of three streams at the split is metered: a meter on either of the others tells both."""
    found = metering(tmp_path, SPLIT + "meters:\n" + meter("in", 3 * U95))
    best = found.proposals[0]
    assert best.place.stream in {"left", "right"}
    assert {place.stream for place in best.made_observable} == {"left", "right"}
    assert best.drop_percent == 100
    assert [p.place.stream for p in found.proposals if p.made_observable] == [best.place.stream, "other"]


def test_an_extra_meter_sharpens_as_by_hand(tmp_path):
    """in and left are known to 1 and 2, so right to 5^0.5; a meter as sure as the median of 10 % and 33 % there."""
    found = metering(tmp_path, SPLIT + "meters:\n" + meter("in", 1 * U95) + meter("left", 2 * U95))
    right = next(p for p in found.proposals if p.place.stream == "right")
    own = 4 * (1 / 10 + 2 / 6) / 2
    assert right.u95_percent == pytest.approx(100 * own / 4 * U95, rel=1e-6)
    assert right.drop_percent == pytest.approx(100 * (1 - (own**2 / (own**2 + 5)) ** 0.5), rel=1e-6)
    assert right.newly_checked == 3


def test_bias_of_a_thermometer_is_told_in_kelvin(tmp_path):
    """The heat is metered too, so that the temperatures are checked."""
    text = HEATED + meter("heat", 100 * U95, "heat_flow", "kW")
    cold = worth(metering(tmp_path, text), "temperature.cold")
    assert cold.unit == "degC"
    # 10 kg/s at 4.19 kJ/kg/K: 100 kW is 2.4 K, the thermometers and the flow meter add to it
    assert 3.24 * 2.4 < cold.smallest_bias < 3.24 * 2.4 * 1.3
    assert cold.smallest_bias_percent is None


NOT_IN_READINGS = (Averaging.LEVEL, Averaging.TICKET)


def test_a_meter_made_wrong_moves_the_live_window_as_detectability_says():
    """The live cycle's global test of a window with one bias is the square of bias / std x detectability."""
    park = works()
    design, live = DesignEstimator(park), Estimator(park)
    everybody = np.ones(len(park.meters), dtype=bool)
    at = design.at(design_point(park, design.equations), everybody)
    found = {w.meter: w for w in expect(park, datetime(2026, 7, 1, tzinfo=UTC)).metering.meters}
    value, window = at.means.value[: len(park.meters)], (0, round(park.park.window_s * 1e6))
    variable, of_meter = design.plan.slot_variable, design.plan.slots.meter
    users = np.bincount(variable[variable != NONE])
    clean = live.estimate(steady_readings(design, value), *window)
    assert clean.converged
    compared = 0
    for m, one in enumerate(park.meters):
        seen_by = variable[of_meter == m]
        # where several meters tell one variable the live test looks at their mean alone
        alone = (seen_by != NONE).all() and (users[seen_by] == 1).all()
        if not alone or design.table.averaging[m] in NOT_IN_READINGS or not found[one.id].detectability:
            continue
        std = at.observation.slot_variance[m] ** 0.5 / abs(at.observation.slope[m])
        seen = []
        for sign in (1.0, -1.0):  # both, so that curvature cancels
            wrong = value.copy()
            wrong[m] += sign * std
            seen.append(live.estimate(steady_readings(design, wrong), *window).global_test - clean.global_test)
        assert np.mean(seen) == pytest.approx(found[one.id].detectability ** 2, rel=0.03, abs=1e-3), one.id
        compared += 1
    assert compared >= 12


def test_fractions_follow_the_spans_of_their_meters():
    """Where slurry, gypsum and water carry alike, the balance of solids repeats that of mass, and checks nothing."""
    spans = {"AT1": [80, 100], "AT2": [85, 100], "AT3": [40, 60], "AT4": [0, 2], "AT5": [0, 2]}
    alike, apart = works(), works()
    meters = tuple(m.model_copy(update={"span": spans.get(m.id, m.span)}) for m in apart.meters)
    apart = Park(**{name: getattr(apart, name) for name in Park.model_fields} | {"meters": meters})
    found = [next(w for w in expect(park, NOW).metering.meters if w.meter == "WT3") for park in (alike, apart)]
    assert found[0].smallest_bias is None
    assert found[1].smallest_bias is not None


def test_plain_water_is_water():
    park = works()
    nodes = tuple(
        n.model_copy(update={"conserves": ("mass", "component.water")}) if n.id == "power.feed" else n
        for n in park.nodes)
    park = Park(**{name: getattr(park, name) for name in Park.model_fields} | {"nodes": nodes})
    equations = Equations.of(park)
    point = design_point(park, equations)
    fractions = equations.component["water"]
    assert point[fractions[fractions != NONE]] == pytest.approx(1.0, abs=1e-3)
