"""Whom the detector names when a meter of the reference park becomes biased.

    python -m benchmarks.naming [STD] [EVERY]

Each EVERYth (default 3) meter that the balances check reads STD (default 8) of its own std too much from the ninth
window on, errors else drawn from what the park declares. Prints how many are named within five windows, are in the
class of the one named, make nobody be named (mostly one of the two meters of an exchange: its mismatch says it), or
make another one be named, and which those are.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np

import simulators.kalundborg
from park.load import load_park
from processing.detect.events import Opened
from processing.detect.gross_errors import GrossErrors
from processing.estimate import Estimator
from simulators.scenario_file import load_scenario
from tests.processing.drawn_errors import CleanRuns
from tests.processing.simulated import Simulated

FOLDER = Path(simulators.kalundborg.__file__).parent
SINCE, WINDOWS = 8, 13


def main() -> None:
    """Measure and print."""
    size, every = (float(a) for a in (*sys.argv[1:3], *("8", "3")[len(sys.argv) - 1:]))
    park = load_park(FOLDER / "park.yaml")
    scenario = load_scenario(FOLDER / "scenario.yaml", park).model_copy(update={"faults": ()})
    estimator, sim = Estimator(park), Simulated(park, scenario, seed=1)
    *_, window = sim.windows(12)
    end_us = window.start_us + round(park.park.window_s * 1e6)
    runs = CleanRuns(estimator, estimator.estimate(sim.readings, window.start_us, end_us))
    found = {estimator.table.ids[m]: _first(runs, int(m), size) for m in np.flatnonzero(runs.checked)[:: int(every)]}
    print(dict(Counter(_word(name, opened) for name, opened in found.items())))
    for name, opened in found.items():
        if opened is not None and _word(name, opened) == "another":
            print(f"  {name}: {opened.kind} of {opened.subject}")


def _first(runs: CleanRuns, meter: int, size: float) -> Opened | None:
    """Return the first event of a run in which a meter becomes biased."""
    estimator = runs.estimator
    detector = GrossErrors(estimator.park, estimator.plan)
    nobody = np.zeros(len(estimator.table), dtype=np.bool_)
    windows = runs.windows(np.random.default_rng(meter), WINDOWS, biased=meter, size=size, since=SINCE)
    changes = (change for window in windows for change in detector.step(window, nobody))
    return next((change for change in changes if isinstance(change, Opened)), None)


def _word(name: str, opened: Opened | None) -> str:
    if opened is None:
        return "nobody"
    members = opened.evidence["class"]
    assert isinstance(members, list)
    return "itself" if opened.subject == name else "class" if name in members else "another"


if __name__ == "__main__":
    main()
