"""Whether the memory of a replay grows with the length of the data.

    python -m benchmarks.replay_memory [HOURS]

Replays HOURS (default 1) of the test park's recorded data, and ten times as much of the same data, each in a process of
its own. Prints, one line a length: readings, windows, seconds, the largest resident memory [MB], and the ratios.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from tests.processing.parks import works
from tests.processing.simulated import START

CHILD = """
import resource, sys, time
from pathlib import Path
from processing.replay import replay
from tests.processing.parks import works
began = time.process_time()
done = replay(works(), [Path(sys.argv[1])], Path(sys.argv[2]))
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(done.read.rows, done.windows, time.process_time() - began, used)
"""


def record(path: Path, hours: float) -> None:
    """Write steady readings with noise for so many hours."""
    rng = np.random.default_rng(0)
    meters = [(m.id, (m.stream and 40.0) or 20.0, m.interval_s) for m in works().meters]
    begin = datetime.fromtimestamp(START, UTC)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("time", "meter", "value"))
        for second in range(0, round(hours * 3600), 5):
            moment = (begin + timedelta(seconds=second)).isoformat()
            noise = rng.normal(0.0, 0.01, len(meters))
            writer.writerows(
                (moment, name, value + e) for (name, value, every), e in zip(meters, noise, strict=True)
                if second % every == 0)


def main() -> None:
    """Measure both lengths and print."""
    hours = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, 10):
            data = Path(folder) / f"{times}.csv"
            record(data, hours * times)
            out = subprocess.run(
                [sys.executable, "-c", CHILD, str(data), str(Path(folder) / f"out{times}")],
                check=True, capture_output=True, text=True).stdout.split()
            found.append([float(entry) for entry in out])
            rows, windows, seconds, megabytes = found[-1]
            print(f"{hours * times:g} h: {rows:.0f} readings, {windows:.0f} windows, {seconds:.1f} s, "
                  f"{megabytes:.0f} MB")
    print(f"memory {found[1][3] / found[0][3]:.2f} times, time {found[1][2] / found[0][2]:.1f} times")


if __name__ == "__main__":
    main()
