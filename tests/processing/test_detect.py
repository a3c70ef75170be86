"""Detectors one by one: each silent where it must be and firing where it must."""

from __future__ import annotations

import json

import numpy as np
import pytest

from park.model import Park
from processing.attendance import Attendance
from processing.detect.events import Alarm, Closed, Opened
from processing.detect.meter_silent import Presence, SilentMeters
from processing.detect.meter_stuck import StuckMeters
from processing.detect.quality_deviation import QualityLimits
from processing.detect.volume_mismatch import Mismatches
from processing.exchanges import ExchangeFlow
from processing.meters import MeterArrays
from processing.window import BAD, BEFORE, Readings
from tests.processing.parks import flow, thermometer
from tests.processing.test_estimate import node, park_of, stream

S = 1_000_000
PAIR = park_of(
    [node("a.n"), node("b.n")], [stream("X", "a.n", "b.n")],
    [flow("F", "X", "sender", 1.0), flow("G", "X", "receiver", 1.0),
     flow("H", "X", "receiver", 1.0, source={"mqtt": {"topic": "h"}})])


# -- alarm -------------------------------------------------------------------------------------------------------------


def states(conditions, delays=(40, 60)):
    alarm, seen = Alarm(), []
    for k, condition in enumerate(conditions):
        before, alarm = alarm, alarm.updated(condition, 20 * k, 20 * k + 20, delays)
        if alarm.is_open != before.is_open:
            seen.append((20 * k + 20, alarm.is_open, alarm.changed_at(before, 20 * k)))
    return seen


def test_alarm_waits_for_its_delays_and_says_since_when():
    assert states([False, True, True, True, False, False, False]) == [(60, True, 20), (140, False, 80)]


def test_alarm_ignores_what_does_not_last():
    assert states([True, False, True, False]) == []
    assert states([True, True, False, False, True, False, False]) == [(40, True, 0)]


def test_nothing_known_changes_nothing():
    assert states([True, None, None, True]) == [(80, True, 0)]


def test_without_delay_it_is_at_once():
    assert states([True, False], (0, 0)) == [(20, True, 0), (40, False, 20)]


# -- silent ------------------------------------------------------------------------------------------------------------


def presence(last, end, *, first=None, alive=0, excused=(False, False, False), patience=10, heard=None):
    return Presence(
        np.array([BEFORE if t is None else t * S for t in last]),
        np.array([BEFORE if t is None else t * S for t in (first or [None] * 3)]), np.full(3, alive * S),
        np.array(excused), end * S, patience * S, None if heard is None else np.array(heard) * S)


@pytest.fixture
def silent() -> SilentMeters:
    return SilentMeters(PAIR, MeterArrays.of(PAIR))


def test_meter_is_silent_while_its_neighbours_send(silent):
    assert silent.step(presence([80, 95, 95], 100)) == []            # 15 s: not yet more than stale_after_s
    opened, = silent.step(presence([80, 115, 115], 120))
    assert isinstance(opened, Opened)
    assert (opened.subject, opened.started_at_us) == ("F", 85 * S)
    assert silent.step(presence([80, 135, 135], 140)) == []
    assert silent.step(presence([145, 155, 155], 160, first=[145, 140, 140])) == [Closed("meter_silent", "F", 145 * S)]
    assert not silent.flagged.any()


def test_slow_source_makes_nobody_silent(silent):
    """Both OPC UA meters are 30 s behind, the one on MQTT is not: neither is silent while the source may lag."""
    assert silent.step(presence([70, 70, 95], 100, patience=30)) == []
    changes = silent.step(presence([70, 70, 115], 120, patience=30))
    assert {c.subject for c in changes} == {"F", "G"}


def test_gap_excuses_and_time_before_the_run_does_not_count(silent):
    assert silent.step(presence([80, 195, 195], 200, excused=(True, False, False))) == []
    assert silent.step(presence([80, 195, 195], 200, alive=190)) == []
    assert len(silent.step(presence([80, 215, 215], 220, alive=190))) == 1


def test_meter_that_never_sent_is_silent_once_its_source_has(silent):
    opened, = silent.step(presence([None, 95, 95], 100, alive=50))
    assert opened.subject == "F"


def test_meter_that_sends_only_bad_values_is_silent_and_the_message_says_so(silent):
    assert silent.step(presence([80, 95, 95], 100, heard=[95, 95, 95])) == []           # bad ones, not for long yet
    opened, = silent.step(presence([80, 115, 115], 120, heard=[115, 115, 115]))
    assert opened.subject == "F"
    assert opened.message == "F has sent only bad values for 35 s; it is due every 5 s"
    assert silent.step(presence([140, 135, 135], 140, first=[130, 130, 130], heard=[135, 135, 135])) == [
        Closed("meter_silent", "F", 130 * S)]


def test_single_bad_value_makes_nobody_silent(silent):
    for end in range(100, 300, 20):
        heard = [end - 5] * 3
        assert silent.step(presence([end - 10, end - 5, end - 5], end, first=[end - 20] * 3, heard=heard)) == []


def test_source_that_sends_only_bad_values_is_no_silent_collector(silent):
    assert len(silent.step(presence([80, 80, 80], 120, heard=[115, 115, 115]))) == 3


def test_each_protocol_is_a_source_of_its_own():
    """Sparkplug has the connection and the gaps of its own: its meters are not held against those on MQTT."""
    sparkplug = {"sparkplug": {"group": "g", "edge_node": "e", "metric": "m"}}
    park = park_of([node("a.n"), node("b.n")], [stream("X", "a.n", "b.n")],
                   [flow("F", "X", "sender", 1.0, source=sparkplug), flow("G", "X", "receiver", 1.0),
                    flow("H", "X", "receiver", 1.0, source={"mqtt": {"topic": "h"}})])
    assert [m.source.name for m in park.meters] == ["sparkplug", "opcua:opc.tcp://127.0.0.1:4840", "mqtt"]
    detector = SilentMeters(park, MeterArrays.of(park))
    assert detector.step(presence([70, 95, 95], 100, patience=30)) == []


def test_meter_that_never_goes_stale_is_never_silent():
    park = park_of([node("a.n"), node("b.n")], [stream("X", "a.n", "b.n")], [
        flow(name, "X", "sender", 1.0, stale_after_s=None) for name in "FGH"])
    assert SilentMeters(park, MeterArrays.of(park)).step(presence([10, 995, 995], 1000)) == []


CHANGE = 1767225600         # 2026-01-01T00:00:00Z


def detector_of(**validity) -> SilentMeters:
    park = park_of(
        [node("a.n"), node("b.n")], [stream("X", "a.n", "b.n")],
        [flow("F", "X", "sender", 1.0, **validity), flow("G", "X", "receiver", 1.0), flow("H", "X", "receiver", 1.0)])
    return SilentMeters(park, MeterArrays.of(park))


def test_meter_that_no_longer_counts_is_not_silent_and_one_that_was_is_so_until_then():
    ending = detector_of(valid_to="2026-01-01T00:00:00Z")
    sent = CHANGE - 100
    assert [c.subject for c in ending.step(presence([sent, CHANGE, CHANGE], CHANGE, alive=sent))] == ["F"]
    assert ending.step(presence([sent, CHANGE + 20, CHANGE + 20], CHANGE + 20, alive=sent)) == [
        Closed("meter_silent", "F", CHANGE * S)]
    assert ending.step(presence([sent, CHANGE + 40, CHANGE + 40], CHANGE + 40, alive=sent)) == []
    assert ending.out_of_force.tolist() == [True, False, False]


def test_silence_of_a_meter_counts_from_when_it_is_in_force():
    coming = detector_of(valid_from="2026-01-01T00:00:00Z")
    for end in (CHANGE, CHANGE + 10):
        assert coming.step(presence([None, end, end], end, alive=CHANGE - 1000)) == []
    opened, = coming.step(presence([None, CHANGE + 40, CHANGE + 40], CHANGE + 40, alive=CHANGE - 1000))
    assert isinstance(opened, Opened)
    assert (opened.subject, opened.value) == ("F", 40.0)


def test_silence_survives_a_restart(silent):
    silent.step(presence([80, 115, 115], 120))
    again = SilentMeters(PAIR, MeterArrays.of(PAIR))
    again.restore(json.loads(json.dumps(silent.as_json())))
    assert again.flagged.tolist() == [True, False, False]


def test_attendance_counts_usable_readings_apart_from_bad_ones():
    attendance = Attendance(PAIR, MeterArrays.of(PAIR))
    times = [t * S for t in (0, 5, 10, 15, 20, 25)]
    quality = np.array([0, 0, 2, 2, 2, 2, *[0] * 6], dtype=np.uint8)
    readings = Readings.of(3, [0] * 6 + [1] * 6, times * 2, [1.0] * 12, quality)
    attendance.note(readings)
    found = attendance.presence(readings, (20 * S, 40 * S), (), 10 * S)
    assert found.last_us.tolist() == [5 * S, 25 * S, BEFORE]
    assert found.first_us.tolist() == [BEFORE, 20 * S, BEFORE]
    assert found.any_us.tolist() == [25 * S, 25 * S, BEFORE]


# -- stuck -------------------------------------------------------------------------------------------------------------


def feed(detector: StuckMeters, values, start=0, meter=0, interval=5, quality=0):
    times = [(start + interval * k) * S for k in range(len(values))]
    readings = Readings.of(3, [meter] * len(values), times, values, np.full(len(values), quality, dtype=np.uint8))
    return detector.step(readings)


@pytest.fixture
def stuck() -> StuckMeters:
    return StuckMeters(PAIR, MeterArrays.of(PAIR))


def noisy(n, step, seed=0, mean=10.0, std=0.05):
    values = np.random.default_rng(seed).normal(mean, std, n)
    return np.round(values / step) * step


def test_frozen_value_is_found_and_ends_with_the_next_one(stuck):
    assert feed(stuck, noisy(60, 0.01)) == []
    changes = feed(stuck, [10.123] * 20, start=300)
    opened, = changes
    assert (opened.subject, opened.started_at_us) == ("F", 305 * S)
    assert opened.evidence["repeats"] <= 9
    assert stuck.flagged.tolist() == [True, False, False]
    assert feed(stuck, [10.1], start=400) == [Closed("meter_stuck", "F", 400 * S)]


@pytest.mark.parametrize("step", [0.05, 0.1, 0.2, 0.5])
def test_coarse_meter_that_repeats_by_itself_is_not_stuck(stuck, step):
    for seed in range(10):
        assert feed(stuck, noisy(500, step, seed), start=2500 * seed) == []


def test_coarse_meter_is_found_too_only_later(stuck):
    feed(stuck, noisy(2000, 0.1))
    opened, = feed(stuck, [10.0] * 200, start=10_000)
    assert opened.evidence["repeats"] > 20


def test_slow_process_that_repeats_in_clusters_is_not_stuck(stuck):
    """A thermometer without noise over a slow swing: runs of many equal values, every time."""
    values = np.round(20.0 + 2.0 * np.sin(np.arange(6000) / 300.0), 1)
    assert feed(stuck, values) == []


def test_plant_that_stands_still_reads_zero_and_is_not_stuck(stuck):
    feed(stuck, noisy(200, 0.01))
    assert feed(stuck, [0.0] * 500, start=1000) == []


def test_meter_at_zero_is_left_to_the_balances(stuck):
    feed(stuck, noisy(200, 0.01))
    feed(stuck, [10.123] * 6, start=1000)
    assert stuck.pausing.tolist() == [True, False, False]
    feed(stuck, [0.0] * 500, start=2000)
    assert not stuck.pausing.any()


def test_meter_at_the_end_of_its_span_is_not_stuck():
    park = park_of([node("a.n")], [stream("X", "environment", "a.n")], [
        flow("F", "X", "receiver", 1.0, "kg/s", span=[0, 50])])
    detector = StuckMeters(park, MeterArrays.of(park))
    feed(detector, noisy(200, 0.01))
    readings = Readings.of(1, [0] * 100, [(1000 + k) * S for k in range(100)], [50.0] * 100)
    assert detector.step(readings) == []


def test_short_history_makes_it_careful(stuck):
    assert feed(stuck, [1.0, 2.0, 3.0] + [4.0] * 12) == []


def test_bad_readings_are_no_repeats(stuck):
    feed(stuck, noisy(200, 0.01))
    assert feed(stuck, [10.0] * 50, start=1000, quality=int(BAD)) == []


def test_what_a_meter_taught_survives_a_restart(stuck):
    feed(stuck, noisy(100, 0.01))
    again = StuckMeters(PAIR, MeterArrays.of(PAIR))
    again.restore(json.loads(json.dumps(stuck.as_json())))
    assert feed(again, [10.123] * 10, start=500) == feed(stuck, [10.123] * 10, start=500) != []


# -- quality -----------------------------------------------------------------------------------------------------------


def quality_park(**limit) -> Park:
    park = park_of([node("a.n"), node("b.n")], [stream("X", "a.n", "b.n")],
                   [thermometer("T", "X", "sender"), thermometer("U", "X", "receiver")])
    return type(park).model_validate({**park.model_dump(by_alias=True), "exchanges": [{
        "id": "E", "name": "Hot water", "kind": "energy", "stream": "X", "settles": "energy", "unit": "MWh",
        "agreement": {"quality": [{"property": "temperature", "unit": "degC", **limit}]}}]})


def judge(limits: QualityLimits, celsius, usable=(True, True)):
    """Sender and receiver read what `celsius` says, window by window; returns changes by window."""
    found = []
    for k, pair in enumerate(celsius):
        means = np.array([np.nan if v is None else 273.15 + v for v in pair])
        found.append(limits.step(20 * k * S, 20 * (k + 1) * S, means, np.array(usable)))
    return found


def test_low_property_opens_and_closes_by_delays_and_deadband():
    limits = QualityLimits(quality_park(low=70, delay_on_s=40, delay_off_s=40, deadband=2))
    readings = [(80, 75), (80, 69), (80, 68.5), (80, 71), (80, 71), (80, 72.5), (80, 73)]
    found = judge(limits, readings)
    opened, = found[2]
    assert (opened.subject, opened.aspect, opened.started_at_us) == ("E", "temperature", 20 * S)
    assert opened.limit == 70
    assert "Hot water (E): temperature 68.5 degC is below the agreed 70 degC" in opened.message
    assert [len(c) for c in found] == [0, 0, 1, 0, 0, 0, 1]
    assert found[6][0].ended_at_us == 100 * S


def test_high_property_opens_and_property_inside_does_not():
    assert judge(QualityLimits(quality_park(high=90)), [(80, 91)])[0][0].limit == 90
    assert judge(QualityLimits(quality_park(low=60, high=90)), [(200, 61), (0, 89)]) == [[], []]


def test_other_end_speaks_only_where_the_settled_end_is_dumb():
    limits = QualityLimits(quality_park(low=70))
    assert judge(limits, [(60, 75)]) == [[]]
    opened, = judge(QualityLimits(quality_park(low=70)), [(60, None)])[0]
    assert opened.evidence["meters"] == ["T"]
    assert judge(QualityLimits(quality_park(low=70)), [(75, 60)], usable=(True, False)) == [[]]


def test_unknown_property_changes_nothing():
    limits = QualityLimits(quality_park(low=70))
    found = judge(limits, [(None, 60), (None, None), (None, 75)])
    assert [len(c) for c in found] == [1, 0, 1]


# -- mismatch ----------------------------------------------------------------------------------------------------------


def mismatches(difference, *, std=0.05, tolerance=3.0, windows=3):
    park = park_of([node("a.n"), node("b.n")], [stream("X", "a.n", "b.n")], [])
    park = type(park).model_validate({**park.model_dump(by_alias=True), "exchanges": [{
        "id": "E", "kind": "water", "stream": "X", "settles": "mass", "unit": "t",
        "agreement": {"tolerance_percent": tolerance}}]})
    detector = Mismatches(park)
    found = []
    for k, d in enumerate(difference if isinstance(difference, list) else [difference] * windows):
        row = ExchangeFlow("E", "kg/s", 10.0, 0.1, 10.0, 0.1, 10.0, 0.1, d, None if d is None else std)
        found.append(detector.step(20 * k * S, 20 * (k + 1) * S, [row]))
    return found


def test_difference_beyond_uncertainty_and_tolerance_is_a_mismatch():
    found = mismatches(0.5)
    assert [len(c) for c in found] == [0, 0, 1]
    assert found[2][0].started_at_us == 0
    assert "1.8 t/h more than the receiver's" in found[2][0].message


def test_difference_within_tolerance_or_uncertainty_is_none():
    assert mismatches(0.29, std=0.01) == [[]] * 3              # 3 % of 10 is 0.3
    assert mismatches(0.5, std=0.2) == [[]] * 3                # 2.5 std


def test_difference_that_does_not_last_is_none():
    assert mismatches([0.5, 0.5, 0.1, 0.5, 0.5]) == [[]] * 5


def test_mismatch_ends_below_its_hysteresis():
    found = mismatches([0.5] * 3 + [0.26] * 3 + [0.1] * 3)
    assert [len(c) for c in found] == [0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert found[8][0].ended_at_us == 120 * S


def test_mismatch_waits_where_an_end_is_dumb():
    assert [len(c) for c in mismatches([0.5, 0.5, None, 0.5])] == [0, 0, 0, 1]
