"""The probability that a clean run raises an alarm: as stated, with the limits that gross_errors.py derives."""

from __future__ import annotations

import numpy as np
import pytest

from processing.detect import gross_errors
from processing.detect.gross_errors import GrossErrors
from processing.detect.memory import PERSISTENCE
from processing.estimate import Estimator
from simulators.scenario import Scenario
from tests.processing.drawn_errors import CleanRuns, alarms
from tests.processing.parks import SCENARIO, works
from tests.processing.simulated import Simulated

S = 1_000_000


@pytest.fixture(scope="module")
def runs() -> CleanRuns:
    estimator = Estimator(works())
    sim = Simulated(works(), Scenario.model_validate(SCENARIO), seed=1)
    *_, window = sim.windows(8)
    return CleanRuns(estimator, estimator.estimate(sim.readings, window.start_us, window.start_us + 20 * S))


def test_drawn_errors_have_the_std_that_the_estimate_says(runs):
    rng = np.random.default_rng(1)
    drawn = np.array([window.statistic for _ in range(400) for window in runs.windows(rng, 1)])
    checked = ~np.isnan(drawn).any(axis=0)
    spread = drawn[:, checked].std(axis=0)
    assert checked.sum() > 20
    assert np.all(spread < 1.15)            # the floor makes hardly checked meters quieter, nothing makes them louder
    assert np.median(spread) > 0.85


def test_clean_runs_alarm_no_more_often_than_stated_and_no_less_than_that_by_far(runs, monkeypatch):
    """At one in two, so that a few runs can tell; without the allowance for loads that move, which do not move here."""
    monkeypatch.setattr(gross_errors, "FALSE_ALARMS", 0.5)
    monkeypatch.setattr(gross_errors, "CHANGE", 0.0)
    alarmed = [alarms(runs, seed, 40) > 0 for seed in range(40)]
    assert 0.02 < np.mean(alarmed) < 0.5


def test_clean_runs_are_silent_at_the_rate_of_the_product(runs):
    assert sum(alarms(runs, seed, 40) for seed in range(10)) == 0


def test_young_baseline_widens_the_limit_and_so_does_what_drifts(runs, monkeypatch):
    monkeypatch.setattr(gross_errors, "CHANGE", 0.0)
    limits, variances = [], []
    detector = GrossErrors(runs.estimator.park, runs.estimator.plan)
    tests: list[gross_errors._Tests] = []
    watched = detector._tests
    monkeypatch.setattr(detector, "_tests", lambda *a: tests.append(watched(*a)) or tests[-1])
    for k, window in enumerate(runs.windows(np.random.default_rng(0), 60)):
        detector.step(window, np.zeros(len(runs.estimator.table), dtype=np.bool_))
        limits.append(detector.limits(tests[-1], gross_errors._Look(by_change=True, long=False)))
        noise = detector._memory.noise(tests[-1].noise)[: len(runs.estimator.table)]
        variances.append(noise * (1 / PERSISTENCE + 1 / (k + 1)))
    steady = np.flatnonzero((tests[-1].drift[: len(noise)] < 1e-6) & (variances[-1] > 1e-3))
    assert steady.size
    for k in (5, 59):
        assert limits[k][steady] == pytest.approx(detector._per_std * np.sqrt(variances[k][steady]), rel=1e-4)
    drifting = np.nanargmax(tests[-1].drift)
    assert limits[59][drifting] > detector._per_std * np.sqrt(2 * tests[-1].drift[drifting])


def test_meter_that_becomes_biased_is_named(runs):
    estimator = runs.estimator
    meter = estimator.table.ids.index("FT3")
    detector = GrossErrors(estimator.park, estimator.plan)
    nobody = np.zeros(len(estimator.table), dtype=np.bool_)
    windows = runs.windows(np.random.default_rng(0), 14, biased=meter, size=10.0, since=9)
    opened = [change for window in windows for change in detector.step(window, nobody)]
    assert [change.subject for change in opened] == ["FT3"]
