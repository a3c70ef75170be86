"""Errors over time: run lengths to the published digits, delays, and honest meters left in peace."""

from __future__ import annotations

import json

import numpy as np
import pytest

from processing.balance import BalanceError, prepare
from processing.balance.cusum import Cusum, average_run_length, cusum_limit
from processing.balance.sequential import MeterWatch, WatchRules
from tests.reference import cases

NETWORK = cases.linear_networks()["P12"]
TRUE = prepare(NETWORK["incidence"], NETWORK["std"]).reconcile(NETWORK["true"]).reconciled
RANDOM, STAYS = 0.6 * NETWORK["std"], 0.8 * NETWORK["std"]
RULES = WatchRules(baseline_windows=30, mean_windows=30)


@pytest.mark.parametrize(
    ("limit", "shift", "length"), [(4.0, 0.0, 167.7), (4.0, 1.0, 8.38), (5.0, 0.0, 465.4), (5.0, 1.0, 10.38)]
)
def test_run_lengths_to_their_published_digits(limit, shift, length):
    assert average_run_length(0.5, limit, shift) == pytest.approx(length, abs=0.05 if shift == 0 else 0.005)


def test_limit_for_a_wanted_run_length():
    assert average_run_length(0.5, cusum_limit(10_000)) == pytest.approx(10_000, rel=1e-3)


def test_cusum_against_its_definition():
    rng = np.random.default_rng(1)
    series = rng.standard_normal((200, 3))
    series[50, 1] = np.nan
    sums = Cusum.start(3)
    up, down = np.zeros(3), np.zeros(3)
    for row in series:
        sums = sums.step(row, 0.5, 6.0)
        for j, value in enumerate(row):
            if not np.isnan(value):
                up[j] = min(max(0.0, up[j] + value - 0.5), 6.0)
                down[j] = min(max(0.0, down[j] - value - 0.5), 6.0)
    np.testing.assert_allclose(sums.up, up)
    np.testing.assert_allclose(sums.down, down)


def test_cusum_says_when_the_change_began():
    sums = Cusum.start(1)
    for _ in range(10):
        sums = sums.step(np.array([0.0]), 0.5)
    for _ in range(4):
        sums = sums.step(np.array([2.0]), 0.5)
    assert (sums.largest[0], sums.windows[0]) == (6.0, 4)
    assert sums.step(np.array([np.nan]), 0.5).windows[0] == 4


def run(seed, windows, *, systematic=1.0, change=None, watch=None, silent=()):
    """Feed a watch; return it and the findings of every window. `silent` are (stream, from window, until window)."""
    rng = np.random.default_rng(seed)
    network = prepare(NETWORK["incidence"], NETWORK["std"])
    watch = watch or MeterWatch(12, RULES)
    offset = systematic * STAYS * rng.standard_normal(12)
    found = []
    for k in range(windows):
        measured = TRUE * (1 + 0.1 * np.sin(k / 9)) + offset + RANDOM * rng.standard_normal(12)
        if change is not None:
            measured += change(k)
        measured[[j for j, begin, end in silent if begin <= k < end]] = np.nan
        found.append(watch.update(network.reconcile(measured), RANDOM, STAYS))
    return watch, found


def test_honest_meters_are_left_in_peace():
    """Systematic errors as large as the u95 allow stay, for 20 networks of 12 meters over 150 windows."""
    networks = [run(seed, 150)[1] for seed in range(20)]
    changed = sum(any(f.kind == "changed" for f in findings) for one in networks for findings in one)
    beyond = sum(any(f.kind == "beyond_u95" for findings in one for f in findings) for one in networks)
    assert changed <= 0.005 * 20 * 120
    assert beyond <= 2


def test_a_change_within_the_u95_is_found_with_its_delay():
    """Twice the std of one window's random part, far inside the u95: no single window shows it."""
    delays = []
    for seed in range(6):

        def change(k):
            return np.where(np.arange(12) == 3, 2.0 * NETWORK["std"] * (k >= 60), 0.0)

        _, found = run(seed, 110, systematic=0.5, change=change)
        first = next(k for k, findings in enumerate(found) if any(f.kind == "changed" for f in findings))
        finding = found[-1][0]
        assert finding.kind == "changed"
        assert 3 in finding.streams
        assert finding.bias == pytest.approx(2.0 * NETWORK["std"][3], abs=5 * finding.bias_std)
        assert finding.windows == pytest.approx(50, abs=12)
        delays.append(first - 60)
    assert min(delays) >= 0
    assert np.mean(delays) < 15


def test_what_ends_is_forgotten():
    _, found = run(3, 200, systematic=0.5, change=lambda k: np.where(np.arange(12) == 3, 1.2 * (60 <= k < 100), 0.0))
    assert any(f.kind == "changed" for f in found[90])
    assert not any(f.kind == "changed" for f in found[190])


def test_beyond_the_u95_from_the_first_window_on():
    """A meter wrong since before the baseline has not changed; over many windows it is beyond all u95."""

    def wrong(k):
        return np.where(np.arange(12) == 3, 6.0 * NETWORK["std"], 0.0)

    _, found = run(1, 90, systematic=0.5, change=wrong)
    kinds = {f.kind for findings in found for f in findings}
    assert kinds == {"beyond_u95"}
    assert 3 in found[-1][0].streams
    assert found[-1][0].statistic > found[-1][0].limit
    assert found[-1][0].bias == pytest.approx(6.0 * NETWORK["std"][3], abs=4 * found[-1][0].bias_std)


def test_a_meter_that_falls_silent_is_no_change():
    _, found = run(5, 160, silent=[(2, 60, 160)])
    assert not any(f.kind == "changed" for findings in found for f in findings)


@pytest.mark.parametrize(
    "silent", [[(2, 0, 1)], [(2, 0, 45)], [(2, 50, 300)], [(2, 0, 120), (5, 3, 9)], [(2, k, k + 1) for k in range(9)]],
    ids=["in the first window", "while learning", "for good", "back after learning", "now and then"],
)
def test_silent_meters_hide_no_change_of_another_and_are_none(silent):
    def change(k):
        return np.where(np.arange(12) == 3, 3.0 * NETWORK["std"] * (k >= 200), 0.0)

    watch, found = run(6, 230, systematic=0.5, change=change, silent=silent)
    assert not any(f.kind == "changed" for findings in found[:200] for f in findings)
    assert any(f.kind == "changed" and 3 in f.streams for findings in found[200:215] for f in findings)
    assert len(watch._recent) <= 31


def test_meters_that_never_speak_together_fill_no_memory():
    watch, found = run(6, 200, silent=[(k % 12, k, k + 1) for k in range(200)])
    assert not any(found)
    assert len(watch._recent) <= 31


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"baseline_windows": 0}, "baseline_windows must be a whole number of at least 1, got 0"),
        ({"mean_windows": 1.5}, "mean_windows must be a whole number"),
        ({"slack": -1.0}, "slack must be between 0 and inf, got -1.0"),
        ({"alpha": 2}, "alpha must be between 0 and 1, got 2"),
        ({"alpha": float("nan")}, "alpha must be between 0 and 1"),
        ({"windows_between_alarms": "many"}, "windows_between_alarms must be between"),
        ({"random_floor": 0.0}, "random_floor must be between"),
    ],
)
def test_wrong_rules_are_refused(rules, message):
    with pytest.raises(BalanceError, match=message):
        WatchRules(**rules)


@pytest.mark.parametrize("std", [-1.0, np.nan, [1.0, 2.0], [-1.0] * 12])
def test_wrong_std_is_refused(std):
    network = prepare(NETWORK["incidence"], NETWORK["std"])
    with pytest.raises(BalanceError, match="std_random must be 12 numbers from 0 on, or one"):
        MeterWatch(12, RULES).update(network.reconcile(TRUE), std, STAYS)


def test_flows_that_vary_more_than_said_widen_the_baseline():
    rng = np.random.default_rng(0)
    network = prepare(NETWORK["incidence"], NETWORK["std"])
    watch = MeterWatch(12, RULES)
    found = []
    for _ in range(150):
        measured = TRUE + 5 * RANDOM * rng.standard_normal(12)
        found += watch.update(network.reconcile(measured), RANDOM, STAYS)
    assert not any(f.kind == "changed" for f in found)


def test_a_watch_goes_on_where_it_stopped():
    def change(k):
        return np.where(np.arange(12) == 3, 0.6 * (k >= 60), 0.0)

    rng = np.random.default_rng(9)
    network = prepare(NETWORK["incidence"], NETWORK["std"])
    rows = [TRUE + RANDOM * rng.standard_normal(12) + change(k) for k in range(90)]
    whole, first = MeterWatch(12, RULES), MeterWatch(12, RULES)
    for k, row in enumerate(rows):
        expected = whole.update(network.reconcile(row), RANDOM, STAYS)
        if k == 70:
            first = MeterWatch.restored(json.loads(json.dumps(first.state())), RULES)
        assert first.update(network.reconcile(row), RANDOM, STAYS) == expected
    assert expected
    whole.forget()
    assert whole.update(network.reconcile(rows[0]), RANDOM, STAYS) == []


def test_one_window_at_a_time():
    network = prepare(NETWORK["incidence"], NETWORK["std"])
    with pytest.raises(BalanceError, match="one window of 12 streams"):
        MeterWatch(12).update(network.reconcile(np.tile(TRUE, (2, 1))), RANDOM, STAYS)
