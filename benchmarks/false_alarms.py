"""How often honest meters raise an alarm, and how far they stay from one: the reference park without faults.

    python -m benchmarks.false_alarms [RUNS] [SIMULATED]

1. RUNS (default 20) runs of 90 windows with errors drawn from what the park declares, through the detector alone:
   alarms at the product's rate, and at 1 in 2, where the share of runs with an alarm must be below one half.
2. SIMULATED (default 2) simulated runs of 60 windows, as they are and with five of the seven sources dead from window 7
   to 12: alarms, the largest ratio of a lasting innovation to its limit, and the largest innovation of those whose
   limit is the allowance for moving loads (`CHANGE`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import simulators.kalundborg
from park.load import load_park
from processing.detect import gross_errors
from processing.detect.gross_errors import GrossErrors
from processing.estimate import Estimator
from simulators.scenario_file import load_scenario
from tests.processing.drawn_errors import CleanRuns, alarms
from tests.processing.simulated import Simulated

FOLDER = Path(simulators.kalundborg.__file__).parent
S = 1_000_000
WINDOW_US = 20 * S
DEAD = (7.25, 12.4)


def main() -> None:
    """Measure and print."""
    drawn, simulated = (int(a) for a in (*sys.argv[1:3], *("20", "2")[len(sys.argv) - 1:]))
    park = load_park(FOLDER / "park.yaml")
    scenario = load_scenario(FOLDER / "scenario.yaml", park).model_copy(update={"faults": ()})
    estimator = Estimator(park)
    _drawn(estimator, Simulated(park, scenario, seed=1), drawn)
    for seed in range(simulated):
        for dead in (False, True):
            print(f"simulated, seed {seed}, {'sources die' if dead else 'undisturbed'}: "
                  + _simulated(estimator, Simulated(park, scenario, seed=seed), dead))


def _drawn(estimator: Estimator, sim: Simulated, count: int) -> None:
    *_, window = sim.windows(12)
    runs = CleanRuns(estimator, estimator.estimate(sim.readings, window.start_us, window.start_us + WINDOW_US))
    for rate, change in ((gross_errors.FALSE_ALARMS, gross_errors.CHANGE), (0.5, 0.0)):
        kept = gross_errors.FALSE_ALARMS, gross_errors.CHANGE
        gross_errors.FALSE_ALARMS, gross_errors.CHANGE = rate, change
        found = [alarms(runs, seed, 90) for seed in range(count)]
        gross_errors.FALSE_ALARMS, gross_errors.CHANGE = kept
        print(f"drawn errors, {count} runs, rate {rate:g}, CHANGE {change:g}: "
              f"{np.mean([n > 0 for n in found]):.3f} of the runs alarm")


def _simulated(estimator: Estimator, sim: Simulated, dead: bool) -> str:
    detector = GrossErrors(sim.park, estimator.plan)
    names = np.array([m.source.name for m in sim.park.meters])
    away = np.flatnonzero(np.isin(names, sorted(set(names))[:5]))
    seen: list[Any] = []
    watched = detector._tests
    detector._tests = lambda *a: seen.append(watched(*a)) or seen[-1]      # type: ignore[method-assign,func-returns-value]
    events, ratio, floor = 0, 0.0, 0.0
    for k, window in enumerate(sim.windows(60)):
        readings = sim.readings.in_force(estimator.table)
        if dead:
            start = sim.start * S
            gone = (readings.time_us >= start + DEAD[0] * WINDOW_US) & (readings.time_us < start + DEAD[1] * WINDOW_US)
            readings = readings._where(~(gone & np.isin(readings.meter, away)))
        estimate = estimator.estimate(
            readings, window.start_us, window.start_us + WINDOW_US, detector.taken_out,
            detector.rows_of(detector.leaking))
        events += len(detector.step(estimate, np.zeros(len(estimator.table), dtype=np.bool_)))
        if k >= 6:
            lasting = np.where(seen[-1].believed, abs(detector._memory.lasting(by_change=True, long=False)), 0.0)
            limit = detector.limits(seen[-1], gross_errors._Look(True, False))
            ratio = max(ratio, float((lasting / limit).max()))
            floor = max(floor, float(lasting[limit == gross_errors.CHANGE].max(initial=0.0)))
        del seen[:-1]
    return f"{events} events, {ratio:.2f} of the limit, {floor:.2f} where CHANGE is the limit"


if __name__ == "__main__":
    main()
