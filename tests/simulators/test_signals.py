"""Loads and wander: functions of run time, of the right size, by local hours."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from simulators.scenario import Profile
from simulators.signals import Loads, Wanders, draw

COPENHAGEN = ZoneInfo("Europe/Copenhagen")


def test_a_wander_has_mean_0_and_std_1_and_a_firm_peak() -> None:
    wanders = Wanders(3, [f"w{k}" for k in range(200)], np.full(200, 600.0))
    values = np.array([wanders.at(1.7e9 + 37.0 * k) for k in range(2000)])
    assert values.mean() == pytest.approx(0.0, abs=0.02)
    assert values.std() == pytest.approx(1.0, abs=0.03)
    assert np.abs(values).max() < 3.17


def test_a_wander_is_smooth() -> None:
    wanders = Wanders(3, ["w"], np.array([600.0]))
    values = np.array([wanders.at(float(k))[0] for k in range(3600)])
    # the fastest tone has half the period; its slope is at most 2 pi / 300 s times the peak
    assert np.abs(np.diff(values)).max() < 2 * np.pi / 300 * 3.17


def test_a_wander_is_a_function_of_time_seed_and_name_alone() -> None:
    periods = np.array([600.0, 600.0])
    one = Wanders(1, ["a", "b"], periods).at(1e9)
    assert np.array_equal(one, Wanders(1, ["b", "a"], periods).at(1e9)[::-1])
    assert one[0] != Wanders(2, ["a"], periods[:1]).at(1e9)[0]


def test_draws_are_normal_and_keep() -> None:
    drawn = np.array([draw(1, name) for name in range(4000)])
    assert drawn.std() == pytest.approx(1.0, abs=0.04)
    assert draw(1, "S01", "loss") == draw(1, "S01", "loss") != draw(2, "S01", "loss")


def test_loads_follow_local_hours_and_days() -> None:
    hours = tuple(2.0 if h == 8 else 1.0 for h in range(24))
    days = (1.0,) * 6 + (0.5,)
    loads = Loads([Profile(hours=hours, days=days), None], "Europe/Copenhagen")
    scale = (25.0 * 6.5) / 168.0

    def at(*when: int) -> float:
        return float(loads.at(datetime(*when, tzinfo=COPENHAGEN).timestamp())[0])

    assert at(2026, 1, 7, 8, 30) == pytest.approx(2.0 / scale)           # Wednesday, winter time
    assert at(2026, 7, 8, 8, 30) == pytest.approx(2.0 / scale)           # summer time
    assert at(2026, 1, 7, 8, 0) == pytest.approx(1.5 / scale)            # half way between two hours
    assert at(2026, 1, 11, 12, 30) == pytest.approx(0.5 / scale)         # Sunday
    assert loads.at(1e9)[1] == 1.0


def test_a_profile_has_a_mean_of_1_over_the_week() -> None:
    loads = Loads([Profile(hours=tuple(float(h) for h in range(1, 25)), days=(1, 1, 1, 1, 1, 0.3, 0.1))], "UTC")
    week = np.array([loads.at(1e9 + 900.0 * k)[0] for k in range(4 * 168)])
    assert week.mean() == pytest.approx(1.0, rel=1e-6)
