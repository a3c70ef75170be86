from __future__ import annotations

from itertools import islice
from typing import ClassVar

import numpy as np
import pytest

from park.model import Meter
from simulators.instruments import (
    Instruments,
    Readings,
    Schedule,
    Tick,
    default_resolution,
    rounded,
    systematic_errors,
)
from tests.simulators.parks import meter

SECOND = 1_000_000


def meters(count: int, **keys: object) -> list[Meter]:
    return [Meter.model_validate(meter(f"M{i:04d}", **keys)) for i in range(count)]


def measure(given: list[Meter], *, seed: int = 1, true: float = 100.0, ticks: int = 1) -> np.ndarray:
    """What all meters measure at each tick, shape (ticks, n_meters)."""
    instruments = Instruments(given, seed, np.full(len(given), true))
    every = np.arange(len(given))
    return np.array([instruments.measure(Tick(k * 5 * SECOND, every), np.full(len(given), true)) for k in range(ticks)])


def test_std_of_a_reading_is_u95_over_1_96_split_by_systematic_share():
    errors = measure(meters(400, u95_percent_of_reading=2.0, systematic_share=0.36), ticks=200) - 100.0
    std = 2.0 / 1.96
    assert errors.std() == pytest.approx(std, rel=0.03)
    assert errors.mean(axis=0).std() == pytest.approx(0.6 * std, rel=0.05)      # what does not average out
    assert (errors - errors.mean(axis=0)).std() == pytest.approx(0.8 * std, rel=0.02)


def test_systematic_share_one_repeats_and_zero_averages_out():
    fixed = measure(meters(3, systematic_share=1.0), ticks=5)
    assert np.ptp(fixed, axis=0) == pytest.approx(0.0)
    free = measure(meters(3, systematic_share=0.0), ticks=4000).mean(axis=0)
    assert free == pytest.approx(100.0, abs=4 * 2.0 / 1.96 / np.sqrt(4000))


@pytest.mark.parametrize("seed", range(5))
def test_systematic_errors_fill_every_slice_of_the_normal_distribution_once(seed: int):
    from scipy.special import ndtr

    given = meters(60) + [Meter.model_validate(meter(f"T{i}", quantity="temperature", unit="degC")) for i in range(40)]
    drawn = systematic_errors(given, seed)
    for family, count in ((drawn[:60], 60), (drawn[60:], 40)):
        assert sorted(np.floor(ndtr(family) * count).astype(int)) == list(range(count))


def test_systematic_errors_differ_by_seed_but_not_by_order():
    given = meters(50)
    forward, backward = systematic_errors(given, 3), systematic_errors(given[::-1], 3)
    assert np.array_equal(forward, backward[::-1])
    assert not np.allclose(forward, systematic_errors(given, 4))


def test_a_reading_depends_on_seed_meter_and_time_alone():
    given = meters(20)
    whole = measure(given, ticks=3)
    instruments = Instruments(given, 1, np.full(20, 100.0))
    backwards, alone = Tick(2 * 5 * SECOND, np.arange(20)[::-1]), Tick(2 * 5 * SECOND, np.array([7]))
    assert np.array_equal(instruments.measure(backwards, np.full(20, 100.0))[::-1], whole[2])
    assert instruments.measure(alone, np.array([100.0])) == whole[2, 7]
    assert not np.isclose(measure(given, seed=2)[0], whole[0]).any()
    assert not np.isclose(whole[0], whole[1]).any()


def test_random_errors_of_meters_and_of_instants_are_independent():
    errors = measure(meters(30, systematic_share=0.0), ticks=3000) - 100.0
    between_meters = np.corrcoef(errors.T)
    between_instants = [np.corrcoef(errors[:-1, m], errors[1:, m])[0, 1] for m in range(30)]
    limit = 5 / np.sqrt(3000)
    assert np.abs(between_meters - np.eye(30)).max() < limit
    assert np.abs(between_instants).max() < limit


def test_u95_terms_add_in_quadrature_as_the_model_says():
    given = meters(1, u95_percent_of_reading=1.0, u95_percent_of_span=0.5, span=[0, 200], u95_absolute=0.3)
    instruments = Instruments(given, 1, np.array([50.0]))
    for true in (0.0, 50.0, -80.0):
        assert instruments.u95(np.array([0]), np.array([true]))[0] == pytest.approx(given[0].u95(true))


def test_a_meter_without_uncertainty_reads_the_truth():
    given = meters(2, u95_percent_of_reading=None, u95_absolute=None)
    assert np.array_equal(measure(given), np.full((1, 2), 100.0))


def test_default_resolution_is_a_power_of_ten_not_above_a_tenth_of_u95():
    u95 = np.array([1.0, 0.99, 25.0, 3e-4, 0.0, np.nan])
    assert default_resolution(u95) == pytest.approx([0.1, 0.01, 1.0, 1e-5, 0.0, 0.0])


def test_rounding_gives_the_number_that_one_would_write():
    values = rounded(np.array([12.3456, 12.3456, 1234.5, 0.1 + 0.2, 7.77]), np.array([0.1, 0.001, 100.0, 0.01, 0.0]))
    assert values.tolist() == [12.3, 12.346, 1200.0, 0.3, 7.77]
    assert rounded(np.array([1.1]), np.array([0.25])).tolist() == [1.0]


def test_a_given_resolution_outranks_the_default():
    given = meters(2)
    instruments = Instruments(given, 1, np.full(2, 100.0), resolution={"M0000": 5.0})
    tick = Tick(0, np.arange(2))
    assert instruments.show(tick, np.array([101.7, 101.77])).tolist() == [100.0, 101.8]
    assert instruments.resolution(np.arange(2)) == pytest.approx([5.0, 0.1])


def test_typical_values_must_be_one_a_meter():
    with pytest.raises(ValueError, match=r"typical must have shape \(2,\), got \(3,\)"):
        Instruments(meters(2), 1, np.zeros(3))


class TestCounters:
    KEYS: ClassVar = {"quantity": "mass_total", "unit": "t", "counter": {"modulus": 1000.0, "resolution": 0.1}}

    def run(self, amounts: list[float], **keys: object) -> np.ndarray:
        given = meters(1, **(self.KEYS | keys))
        instruments = Instruments(given, 1, np.array([1.0]))
        return np.array([instruments.show(tick, instruments.measure(tick, np.array([amount])))[0]
                         for k, amount in enumerate(amounts) for tick in [Tick(k * 5 * SECOND, np.array([0]))]])

    def test_counts_in_steps_and_rolls_over_at_its_modulus(self):
        shown = self.run([7.77] * 400, u95_percent_of_reading=None)
        assert shown.min() >= 0.0
        assert shown.max() < 1000.0
        assert np.array_equal(rounded(shown, np.full(400, 0.1)), shown)
        passed = np.diff(shown) % 1000.0
        assert (np.diff(shown) < 0).sum() in (3, 4)
        assert passed == pytest.approx(7.77, abs=0.1 + 1e-6)
        assert passed.sum() == pytest.approx(399 * 7.77, abs=0.1)

    def test_registers_every_increment_with_its_percentage(self):
        given = self.run([50.0] * 300, u95_percent_of_reading=2.0, systematic_share=1.0,
                         counter={"modulus": 1e8, "resolution": 0.001})
        registered = np.diff(given)
        assert np.ptp(registered) == pytest.approx(0.0, abs=0.0021)
        assert registered.mean() != pytest.approx(50.0, abs=0.001)

    def test_never_runs_backwards_even_with_an_error_of_reading_the_dial(self):
        shown = self.run([0.2] * 300, u95_percent_of_reading=None, u95_absolute=1.0, systematic_share=0.2,
                         counter={"modulus": 1e8, "resolution": 0.1})
        assert (np.diff(shown) >= 0).all()
        assert shown[-1] - shown[0] == pytest.approx(299 * 0.2, abs=3.0)

    def test_does_not_run_backwards_with_the_flow(self):
        assert np.ptp(self.run([-5.0] * 10, u95_percent_of_reading=None)) == 0.0


def test_a_weighbridge_ticket_is_the_amount_with_its_error_and_never_negative():
    given = meters(200, quantity="mass_batch", unit="t", u95_percent_of_reading=None, u95_absolute=0.98)
    instruments = Instruments(given, 1, np.full(200, 20.0))
    tick = Tick(0, np.arange(200))
    tickets = instruments.show(tick, instruments.measure(tick, np.full(200, 20.0)))
    assert tickets.std() == pytest.approx(0.5, rel=0.15)
    assert tickets.mean() == pytest.approx(20.0, abs=0.15)
    assert instruments.show(tick, np.full(200, -1e3)).max() == 0.0


class TestSchedule:
    def test_ticks_are_the_multiples_of_each_interval_in_order(self):
        given = [Meter.model_validate(meter(f"M{i}", interval_s=s)) for i, s in enumerate((5.0, 10.0, 0.1, 5.0))]
        ticks = list(islice(Schedule(given).ticks(9.85), 4))
        assert [(t.time_us, t.index.tolist()) for t in ticks] == [
            (9_900_000, [2]), (10_000_000, [0, 1, 2, 3]), (10_100_000, [2]), (10_200_000, [2])]

    def test_ticks_stay_exact_far_from_1970(self):
        since = 1_800_000_000.0
        ticks = list(islice(Schedule(meters(1, interval_s=0.1)).ticks(since), 1000))
        assert [t.time_us for t in ticks] == [1_800_000_000_000_000 + k * 100_000 for k in range(1000)]
        assert ticks[3].time == pytest.approx(since + 0.3)

    def test_the_first_tick_is_at_the_start_when_that_is_a_multiple(self):
        assert next(Schedule(meters(1)).ticks(1_800_000_000.0)).time_us == 1_800_000_000 * SECOND

    def test_a_park_without_meters_has_no_ticks(self):
        assert list(Schedule([]).ticks(0.0)) == []


def test_readings_of_some_meters():
    readings = Readings(5, np.array([0, 2, 3]), np.array([1.0, 2.0, 3.0]), np.array([0, 7, 0], dtype=np.uint32))
    chosen = readings.of(np.array([False, True, True, False]))
    assert (chosen.time_us, chosen.index.tolist(), chosen.values.tolist(), chosen.statuses.tolist()) == (
        5, [2], [2.0], [7])
