"""The processing chain over recorded data, without a database: files in, files out.

    CSV, Parquet ──► Recordings: buckets of ──► Chain.run, window by window ──► Results: reconciled, nodes, meters,
      any order      time on disk                                               events, statements .csv

The data are sorted into buckets on disk first, so memory holds one bucket and what the longest delay reaches back,
whatever the length of the data (`python -m benchmarks.replay_memory`).

Results are those of the live cycle, bit for bit, had the same readings come in time and without gaps
(tests/services/test_cycle_and_replay.py). Where readings came late, the rows of their windows are the same; events were
found without them, and the baselines learned without them. Times in which nothing was recorded have no windows.

Here: that loop. Not here: the files of readings (recordings.py) and of results (result_files.py), what a window gives
(chain.py). The main path enters at `replay`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from park.model import Park
from processing.attendance import Attendance
from processing.chain import Chain, WindowResult
from processing.recordings import Count, Recordings
from processing.result_files import Results
from processing.window import Readings

PATIENCE_S = 3.0
"""As in the live cycle at the speed of life."""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Replayed:
    """What a replay came to: what was read, how many windows and events were found.

    `unsolved` of the windows are those whose balances had no solution: nothing in them is reconciled.
    """

    read: Count
    windows: int
    events: int
    unsolved: int = 0


def replay(
    park: Park, data: Sequence[Path], out: Path, *, window_s: float | None = None, on_progress: OnProgress | None = None
) -> Replayed:
    """Run the chain over recorded data.

    Parameters
    ----------
    park
        The park.
    data
        Files ending in ``.csv``, ``.csv.gz`` or ``.parquet``.
    out
        Folder for the results; made if it is not there, files of earlier replays are replaced.
    window_s
        Instead of the park's window [s].
    on_progress
        Told ``("reading", bytes done, bytes)`` and ``("windows", windows done, windows at most)``.

    Returns
    -------
    Replayed

    Raises
    ------
    InputError
        If a file cannot be read or rows are wrong; names the file, the lines and what is wrong.
    OSError
        If results cannot be written.
    """
    if window_s is not None:
        park = park.model_copy(update={"park": park.park.model_copy(update={"window_s": window_s})})
    tell = on_progress or (lambda what, done, of: None)
    chain = Chain(park)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="symbiosis-replay-", dir=out) as folder:
        recordings = Recordings(Path(folder), park)
        _read(recordings, data, tell)
        with Results(out, park) as results:
            for result in _windows(chain, recordings, tell):
                results.write(result)
            results.finish()
        return Replayed(recordings.count, results.windows, results.events, results.unsolved)


def _read(recordings: Recordings, data: Sequence[Path], tell: OnProgress) -> None:
    """Read all files, telling how far it is."""
    sizes = [path.stat().st_size if path.exists() else 0 for path in data]
    done, total = 0, sum(sizes)
    tell("reading", 0, total)
    for path, size in zip(data, sizes, strict=True):
        recordings.add(path, partial(_tell_read, tell, done, total))
        done += size
    tell("reading", total, total)


def _tell_read(tell: OnProgress, before: int, total: int, read: int) -> None:
    tell("reading", min(before + read, total), total)


def _windows(chain: Chain, recordings: Recordings, tell: OnProgress) -> Iterator[WindowResult]:
    """Run the chain over all windows that have readings, in order."""
    park, table = chain.park, chain.table
    length, reach = round(park.park.window_s * 1e6), chain.estimator.plan.reach_us()
    patience = round(max(park.park.lateness_s, PATIENCE_S) * 1e6)
    attendance = Attendance(park, table)
    readings = Readings.of(len(table), [], [], [])
    done, expected, most = 0, None, len(recordings) * recordings.windows
    for fresh in recordings.in_order():
        attendance.note(fresh)
        readings = readings.joined(fresh)
        for start in np.unique(fresh.time_us // length * length).tolist():
            if expected is not None and start != expected:
                attendance.restart(start)
                attendance.note(readings)
            window = (start, start + length)
            expected = start + length
            yield chain.run(readings, *window, attendance.presence(readings, window, (), patience))
            readings = readings.between(expected - reach, 2**62)        # as the live cycle keeps them
            done += 1
            tell("windows", done, max(most, done))
    tell("windows", done, done)
