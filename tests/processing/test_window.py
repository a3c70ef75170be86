"""Windows: every rule of the module's list once silent, once at work; kernels against a slow twin."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from park.model import Park
from processing.meters import Averaging, MeterArrays
from processing.window import BAD, BEFORE, GOOD, UNCERTAIN, Readings, Slots, average
from tests.processing.parks import flow, meter

S = 1_000_000


def park_of(*meters: dict[str, object], window_s: float = 20.0) -> Park:
    return Park.model_validate({
        "park": {"name": "p", "timezone": "UTC", "window_s": window_s},
        "participants": [{"id": "a", "name": "A"}],
        "nodes": [{"id": "a.n", "participant": "a", "conserves": ["mass"]}],
        "streams": [{"id": "S", "from": "environment", "to": "a.n", "carrier": "water"}],
        "meters": list(meters)})


def means(table: MeterArrays, rows, start=100, end=120, shift=0.0):
    """Average rows (second, value[, quality]) of the one meter."""
    rows = [(t, v, GOOD) if len(rest) == 0 else (t, v, rest[0]) for t, v, *rest in rows]
    time, value, quality = ([row[k] for row in rows] for k in range(3))
    readings = Readings.of(len(table), np.zeros(len(rows)), [round(t * S) for t in time], value, quality)
    slots = Slots(np.array([0]), np.array([round(shift * S)]))
    return average(readings, table, slots, start * S, end * S)


@pytest.fixture
def periodic() -> MeterArrays:
    return MeterArrays.of(park_of(flow("F", "S", "receiver", 1.0)))


def test_mean_is_of_the_half_open_window(periodic):
    found = means(periodic, [(95, 9), (100, 1), (105, 2), (110, 3), (115, 4), (120, 9)])
    assert found.value[0] == 2.5
    assert (found.count[0], found.coverage[0]) == (4, 1.0)


def test_missing_readings_lower_coverage_and_bad_ones_are_no_readings(periodic):
    found = means(periodic, [(100, 1.0), (105, 7.0, BAD), (110, np.nan), (115, 3.0)])
    assert found.value[0] == 2.0
    assert (found.count[0], found.coverage[0]) == (2, 0.5)


def test_window_without_usable_reading_is_unmeasured(periodic):
    for rows in ([], [(100, 1.0, BAD)], [(99.999, 1.0)]):
        found = means(periodic, rows)
        assert np.isnan(found.value[0])
        assert found.coverage[0] == 0.0


def test_uncertain_readings_count_only_where_there_is_no_good_one(periodic):
    alone = means(periodic, [(100, 4.0, UNCERTAIN)])
    beside = means(periodic, [(100, 4.0, UNCERTAIN), (105, 1.0)])
    assert (alone.value[0], bool(alone.uncertain[0])) == (4.0, True)
    assert (beside.value[0], bool(beside.uncertain[0])) == (1.0, False)


def test_readings_count_only_while_their_meter_is_in_force():
    """Of one source that two meters read in turn, each has its own time."""
    table = MeterArrays.of(park_of(
        flow("old", "S", "receiver", 1.0, valid_to="2026-01-01T00:00:00Z"),
        flow("new", "S", "receiver", 1.0, valid_from="2026-01-01T00:00:00Z")))
    change = 1767225600 * S
    times = [change - 2 * S, change - 1, change, change + S]
    readings = Readings.of(2, [0] * 4 + [1] * 4, times * 2, [1.0] * 8).in_force(table)
    assert readings.time_us.tolist() == times
    assert readings.meter.tolist() == [0, 0, 1, 1]
    assert readings.in_force(table) is readings


def test_value_is_not_held_beyond_the_end_of_its_meter():
    table = MeterArrays.of(park_of(flow(
        "F", "S", "receiver", 1.0, sampling="on_change", stale_after_s=None, valid_to="1970-01-01T00:01:45Z")))
    during, after = means(table, [(90, 7.0)]), means(table, [(90, 7.0)], 120, 140)
    assert (during.value[0], during.coverage[0]) == (7.0, 0.25)
    assert np.isnan(after.value[0])


def test_shifted_slot_sees_an_earlier_window(periodic):
    found = means(periodic, [(40, 5.0), (55, 7.0), (100, 1.0)], shift=60.0)
    assert found.value[0] == 6.0


def test_values_sampled_on_change_are_held_over_time():
    table = MeterArrays.of(park_of(flow("F", "S", "receiver", 1.0, sampling="on_change", stale_after_s=None)))
    found = means(table, [(10, 2.0), (105, 6.0)])
    assert found.value[0] == pytest.approx((5 * 2.0 + 15 * 6.0) / 20)
    assert found.coverage[0] == 1.0


def test_held_value_ends_when_stale_or_bad():
    table = MeterArrays.of(park_of(flow("F", "S", "receiver", 1.0, sampling="on_change", stale_after_s=30.0)))
    stale = means(table, [(80, 2.0)])
    assert (stale.value[0], stale.coverage[0]) == (2.0, 0.5)
    bad = means(table, [(95, 2.0), (105, 9.0, BAD)])
    assert (bad.value[0], bad.coverage[0]) == (2.0, 0.25)
    assert np.isnan(means(table, [(60, 2.0)]).value[0])


def test_meter_slower_than_the_window_is_held():
    table = MeterArrays.of(park_of(flow("F", "S", "receiver", 1.0, interval_s=60.0)))
    assert table.averaging[0] == Averaging.HELD
    assert means(table, [(50, 3.0)]).value[0] == 3.0


def counter(modulus: float = 1000.0, resolution: float = 0.0) -> MeterArrays:
    return MeterArrays.of(park_of(meter(
        "C", "S", "receiver", "mass_total", "t", u95_percent_of_reading=1.0,
        counter={"modulus": modulus, "resolution": resolution})))


def test_counter_gives_the_rate_between_the_readings_at_its_ends():
    found = means(counter(), [(95, 1000.0), (100, 1500.0), (105, 2000.0), (110, 2500.0), (115, 3000.0)])
    assert found.value[0] == pytest.approx(100.0)
    assert found.span_s[0] == 20.0


def test_counter_rolls_over_at_its_modulus_and_a_reset_is_unmeasured():
    rolled = means(counter(), [(95, 999_900.0), (115, 100.0)])
    assert rolled.value[0] == pytest.approx(200.0 / 20)
    assert np.isnan(means(counter(), [(95, 500_000.0), (115, 499_000.0)]).value[0])


def test_inventory_changes_telescope():
    table = MeterArrays.of(park_of(meter("L", None, None, "inventory", "t", node="a.n", u95_absolute=0.1)))
    level = np.array([5.0, 5.2, 5.1, 5.6, 5.3, 5.9, 6.2, 6.0, 6.4]) * 1000
    rows = list(zip(range(95, 140, 5), level, strict=True))
    first, second = means(table, rows), means(table, rows, 120, 140)
    assert 20 * (first.value[0] + second.value[0]) == pytest.approx(level[8] - level[0])
    assert first.level[0] == pytest.approx(0.5 * (level[0] + level[4]))


def test_tickets_belong_to_no_window():
    table = MeterArrays.of(park_of(meter("B", "S", "receiver", "mass_batch", "t", u95_absolute=0.1)))
    assert np.isnan(means(table, [(100, 30.0)]).value[0])


def test_empty_window_is_refused(periodic):
    with pytest.raises(ValueError, match=r"a window ends after its start"):
        means(periodic, [], 100, 100)


# -- readings ----------------------------------------------------------------------------------------------------------


def test_first_of_equal_keys_stays():
    found = Readings.of(2, [1, 0, 1], [5, 5, 5], [1.0, 2.0, 3.0])
    assert found.value.tolist() == [2.0, 1.0]
    joined = found.joined(Readings.of(2, [1, 1], [5, 6], [9.0, 8.0]))
    assert joined.value.tolist() == [2.0, 1.0, 8.0]


def test_last_times_and_parts_of_a_period():
    found = Readings.of(3, [0, 0, 2], [1, 7, 5], [1.0, 2.0, 3.0])
    assert found.last_time_us().tolist() == [7, BEFORE, 5]
    part = found.between(5, 7)
    assert (part.meter.tolist(), part.time_us.tolist(), part.start.tolist()) == ([2], [5], [0, 0, 0, 1])


def test_shapes_and_meters_are_checked():
    with pytest.raises(ValueError, match="shapes differ"):
        Readings.of(1, [0], [1, 2], [1.0])
    with pytest.raises(ValueError, match=r"0\.\.0"):
        Readings.of(1, [1], [1], [1.0])


# -- variances ---------------------------------------------------------------------------------------------------------


def test_random_part_averages_out_and_systematic_does_not():
    table = MeterArrays.of(park_of(flow("F", "S", "receiver", 1.96, systematic_share=0.5)))
    one, four = (table.variances(np.array([0]), np.array([10.0]), np.array([n]), np.zeros(1)) for n in (1.0, 4.0))
    assert one.total[0] == pytest.approx(0.1**2)
    assert one.systematic[0] == four.systematic[0] == pytest.approx(0.5 * 0.1**2)
    assert four.random[0] == pytest.approx(0.5 * 0.1**2 / 4)


def test_percentages_count_from_the_units_zero():
    table = MeterArrays.of(park_of(meter("T", "S", "receiver", "temperature", "degC", u95_percent_of_reading=1.0)))
    found = table.variances(np.array([0]), np.array([273.15 + 100.0]), np.ones(1), np.zeros(1))
    assert np.sqrt(found.total[0]) * 1.96 == pytest.approx(1.0)


def test_steps_of_a_counter_matter_over_short_times():
    table = counter(resolution=0.001)
    short, long = (table.variances(np.array([0]), np.zeros(1), np.ones(1), np.array([s])) for s in (10.0, 100.0))
    assert short.random[0] == pytest.approx(100 * long.random[0])
    assert np.sqrt(short.random[0]) == pytest.approx(1.0 / np.sqrt(6) / 10.0)


# -- kernels against a slow twin ---------------------------------------------------------------------------------------


def slow_mean(time, value, quality, low, high):
    for wanted in (GOOD, UNCERTAIN):
        inside = [v for t, v, q in zip(time, value, quality, strict=True) if low <= t < high and q == wanted]
        if inside:
            return sum(inside) / len(inside), len(inside)
    return np.nan, 0


def slow_held(time, value, quality, low, high, hold):
    """Look at every microsecond-wide piece between the points where anything can change."""
    turns = [*time, *(t + hold for t in time)]
    edges = sorted({low, high, *(t for t in turns if low < t < high)})
    total, held = {0: 0.0, 1: 0.0}, {0: 0, 1: 0}
    for begin, end in itertools.pairwise(edges):
        latest = max((i for i, t in enumerate(time) if t <= begin), default=None)
        if latest is not None and quality[latest] < 2 and begin < time[latest] + hold:
            total[quality[latest]] += value[latest] * (end - begin)
            held[quality[latest]] += end - begin
    worth = 0 if held[0] else 1
    return total[worth] / held[worth] if held[worth] else np.nan


def test_kernels_match_their_slow_twins():
    rng = np.random.default_rng(5)
    table = MeterArrays.of(park_of(
        flow("F", "S", "receiver", 1.0), flow("G", "S", "receiver", 1.0, sampling="on_change", stale_after_s=12.0)))
    for _ in range(200):
        n = int(rng.integers(0, 12))
        time = np.sort(rng.choice(60, n, replace=False)) * S
        value, quality = rng.normal(size=n), rng.choice([0, 0, 0, 1, 2], n).astype(np.uint8)
        both = Readings.of(2, np.repeat([0, 1], n), np.tile(time, 2), np.tile(value, 2), np.tile(quality, 2))
        found = average(both, table, Slots(np.array([0, 1]), np.zeros(2, dtype=np.int64)), 20 * S, 45 * S)
        mean, count = slow_mean(time, value, quality, 20 * S, 45 * S)
        assert found.value[0] == pytest.approx(mean, nan_ok=True)
        assert found.count[0] == count
        assert found.value[1] == pytest.approx(slow_held(time, value, quality, 20 * S, 45 * S, 12 * S), nan_ok=True)
