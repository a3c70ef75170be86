"""The reference park through the chain: honest, closed, fast, silent when all is well, and each fault answered."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import simulators.kalundborg
from park.load import load_park
from park.model import Park
from processing.chain import Chain
from processing.detect.events import Opened
from processing.estimate import Estimator
from simulators.scenario import Scenario
from simulators.scenario_file import load_scenario
from tests.processing.simulated import Simulated
from tests.processing.test_chain import play, presence_of

FOLDER = Path(simulators.kalundborg.__file__).parent
S = 1_000_000


@pytest.fixture(scope="module")
def park() -> Park:
    return load_park(FOLDER / "park.yaml")


@pytest.fixture(scope="module")
def scenario(park: Park) -> Scenario:
    return load_scenario(FOLDER / "scenario.yaml", park)


@pytest.fixture(scope="module")
def estimator(park: Park) -> Estimator:
    return Estimator(park)


def test_clean_windows_are_honest_closed_and_better_than_the_best_meter(park, scenario, estimator):
    sim = Simulated(park, scenario.model_copy(update={"faults": ()}), seed=4)
    chain = Chain(park, estimator)
    column = {stream.id: s for s, stream in enumerate(park.streams)}
    squares, best, reconciled, spent = [], 0.0, 0.0, []
    for window in sim.windows(24):
        start, end = window.start_us, window.start_us + 20 * S
        presence = presence_of(sim.readings, start, end, round(sim.start * S))
        began = time.process_time()
        result = chain.run(sim.readings, start, end, presence)
        spent.append(time.process_time() - began)
        assert result.changes == ()
        assert result.rows.max_relative_imbalance < 1e-9
        for row in result.rows.flows:
            if row.reconciled is not None:
                true = (window.mass_flow if row.quantity == "mass_flow" else window.heat_flow)[
                    0 if row.side == "sender" else 1, column[row.stream]]
                squares.append(((row.reconciled - true) / row.std) ** 2)
                if row.best_measured is not None and row.quantity == "mass_flow":
                    best += abs(row.best_measured - true)
                    reconciled += abs(row.reconciled - true)
    assert 0.85 < np.sqrt(np.mean(squares)) < 1.15
    assert reconciled < 0.9 * best
    assert np.median(spent) < 0.5       # 0.05 on a quiet machine; a window must not outlast its twentieth part


def test_each_fault_of_the_scenario_is_answered_and_nothing_else_is_said(park, scenario, estimator):
    sim = Simulated(park, scenario, seed=1)
    sim.sampler.faults.arm(sim.start)
    opened = [c for result in play(Chain(park, estimator), sim, 75) for c in result.changes if isinstance(c, Opened)]
    records = [*sim.sampler.faults.past, *(record for _, record in sim.sampler.faults._on)]
    assert len(records) == 4
    found = {f"{c.kind}:{c.subject}" for c in opened}
    assert all(record.answers[0] in found for record in records)
    assert found <= {answer for record in records for answer in record.answers}
