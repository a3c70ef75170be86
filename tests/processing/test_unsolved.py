"""A window whose balances have no solution says so: in its rows, in what a replay came to, in log and metrics."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from processing.chain import Chain, WindowResult
from processing.cycle import Solutions
from processing.metrics import ProcessMetrics
from processing.replay import replay
from simulators.scenario import Scenario
from tests.processing.parks import SCENARIO, works
from tests.processing.simulated import Simulated
from tests.processing.test_chain import presence_of
from tests.processing.test_replay import recorded, write

S = 1_000_000
HEAT_METERS = ("QT1", "QT2")
WILD = 1e12
"""Times what is so: beside that, flows are lost in rounding, and no search comes to rest."""


def window(factor: float) -> WindowResult:
    """The window of a plant whose heat meters read `factor` times what is so."""
    sim = Simulated(works(), Scenario.model_validate(SCENARIO), seed=1)
    *_, last = sim.windows(3)
    share = np.array([factor if meter.id in HEAT_METERS else 1.0 for meter in sim.park.meters])
    readings = replace(sim.readings, value=sim.readings.value * share[sim.readings.meter])
    start, end = last.start_us, last.start_us + 20 * S
    return Chain(sim.park).run(readings, start, end, presence_of(readings, start, end, round(sim.start * S)))


def test_flows_without_a_value_are_not_said_to_be_checked():
    result = window(WILD)
    assert not result.solved
    unknown = [row for row in result.rows.flows if row.reconciled is None]
    assert len(unknown) > 5
    assert {row.status for row in unknown} == {"unobservable"}
    assert any(row.measured is not None for row in unknown)


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_window_with_a_solution_says_what_its_flows_are(factor: float):
    """Slips of the unit in two meters leave a window its solution."""
    result = window(factor)
    assert result.solved
    assert {row.status for row in result.rows.flows} >= {"redundant", "observable"}
    assert all((row.status == "unobservable") == (row.reconciled is None) for row in result.rows.flows)


@pytest.mark.parametrize(("factor", "unsolved"), [(1.0, 0), (1000.0, 0), (WILD, 3)])
def test_replay_counts_the_windows_without_a_solution(tmp_path: Path, factor: float, unsolved: int):
    rows = [(time, meter, value * (factor if meter in HEAT_METERS else 1.0), quality)
            for time, meter, value, quality in recorded(windows=3)]
    done = replay(works(), [write(tmp_path / "a.csv", rows)], tmp_path / "out")
    assert (done.windows, done.unsolved) == (3, unsolved)


def test_log_tells_each_change_once(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "processing.cycle")
    solutions = Solutions()
    for k, solved in enumerate([True, True, False, False, True]):
        solutions.note(solved, 20 * S * k)
    assert [(r.levelname, r.getMessage().split(":")[0]) for r in caplog.records] == [
        ("WARNING", "balances have no solution in the window at 1970-01-01T00"),
        ("INFO", "balances have a solution again in the window at 1970-01-01T00")]


def test_metrics_count_them():
    registry = CollectorRegistry()
    metrics = ProcessMetrics(registry)
    detail = {"closed_by": "complete", "took_s": 0.1, "readings": 3, "events": 0, "park_version": 1, "lag_s": 1.0,
              "end": "2026-01-01T00:00:20+00:00", "open_events": {}}
    for solved in (True, False, True):
        metrics.note("window", {**detail, "solved": solved})
    assert registry.get_sample_value("symbiosis_windows_unsolved_total") == 1.0
