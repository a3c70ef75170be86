"""The files of a run: what was sent (sent.csv), what was true (truth.csv), what was wrong (faults.csv).

Here: their formats. Not here: when they are written, which `simulators.serve` decides: a reading stands in sent.csv
before it is handed on. The main path enters at `SentFile.write`. The comparison of the files with the store is made
after the run, by others; nothing of it is known here.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

import numpy as np

from park.model import Park
from simulators.faults import FaultRecord
from simulators.instruments import Floats, Readings
from simulators.state import RECEIVER, SENDER, State

SENT_COLUMNS = ("meter", "seq", "source_time", "value", "status")
TRUTH_COLUMNS = ("window_start", "stream", "side", "quantity", "unit", "value")
FAULT_COLUMNS = ("fault", "kind", "subject", "started_at", "ended_at", "meters", "streams", "nodes", "answers")
ARMED = "armed"
UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(time_us: int) -> datetime:
    """Return microseconds since 1970 as a time in UTC, exactly."""
    return UNIX_EPOCH + timedelta(microseconds=time_us)


def iso(time_us: int) -> str:
    """Return microseconds since 1970 as ISO 8601 in UTC, with as many decimals as it takes: 0, 3 or 6."""
    decimals = "seconds" if time_us % 1_000_000 == 0 else "milliseconds" if time_us % 1000 == 0 else "microseconds"
    return moment(time_us).replace(tzinfo=None).isoformat(timespec=decimals) + "Z"


class SentFile:
    """Every reading that was sent, in the meters' units; written and flushed before it is handed on.

    Parameters
    ----------
    path
        Of the file; one that is there is continued: the simulators crashed and were started again.
    meters
        Ids of the park's meters, in its order.
    """

    def __init__(self, path: Path, meters: Sequence[str]) -> None:
        self._meters = tuple(meters)
        self._next, self._armed = _sent_so_far(path, self._meters)
        self._file = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        if self._file.tell() == 0:
            self._writer.writerow(SENT_COLUMNS)
        self._file.flush()

    @property
    def count(self) -> int:
        """How many readings have been written."""
        return sum(self._next)

    def write(self, readings: Readings) -> None:
        """Write the readings of one instant and flush; a NaN value is left empty."""
        self._writer.writerows(self._rows(readings))
        self._file.flush()

    def mark_armed(self) -> None:
        """Write the line from which readings count, once."""
        if not self._armed:
            self._armed = True
            self._file.write(f"{ARMED}\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> SentFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, readings: Readings) -> Iterator[tuple[object, ...]]:
        time = iso(readings.time_us)
        rows = zip(readings.index.tolist(), readings.values.tolist(), readings.statuses.tolist(), strict=True)
        for i, value, status in rows:
            yield self._meters[i], self._next[i], time, "" if math.isnan(value) else repr(value), status
            self._next[i] += 1


def _sent_so_far(path: Path, meters: Sequence[str]) -> tuple[list[int], bool]:
    """Return how many readings of each meter a sent file holds, and whether it was armed; cut a line without an end."""
    if not path.exists():
        return [0] * len(meters), False
    with path.open("r+b") as file:
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)       # killed while writing: that reading was not handed on
    rows = list(csv.reader(text[: text.rfind(b"\n") + 1].decode().splitlines()))
    counts = Counter(row[0] for row in rows[1:] if len(row) == len(SENT_COLUMNS))
    return [counts[meter] for meter in meters], [ARMED] in rows


class TruthFile:
    """The means of the true flows over the park's windows; only windows that were seen whole.

    Parameters
    ----------
    path
        Of the file; an older one is replaced.
    park
        The park: its streams and its windows, which begin at multiples of `window_s` since 1970.

    Notes
    -----
    A state holds until the next one, so the mean of a window is ``sum(state x overlap) / window_s``.
    """

    def __init__(self, path: Path, park: Park) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(TRUTH_COLUMNS)
        self._file.flush()
        self._window = park.park.window_s
        self._columns = list(_columns(park))
        self._state: State | None = None
        self._covered = 0.0
        self._sums: tuple[Floats, Floats] = (np.zeros((2, len(park.streams))), np.zeros((2, len(park.streams))))

    def add(self, state: State) -> None:
        """Take the next state; the one before has held until now."""
        if self._state is not None:
            self._hold(self._state, state.time)
        self._state = state

    def close(self, until: float) -> None:
        """Take the last state to have held until the run time `until` [s], and close; a second call does nothing."""
        if self._state is not None and not self._file.closed:
            self._hold(self._state, until)
        self._state = None
        self._file.close()

    def _hold(self, state: State, until: float) -> None:
        """Spread the time that `state` held over the windows that it touches."""
        time = state.time
        while time < until:
            window = math.floor(round(time / self._window, 6))
            end = min(until, (window + 1) * self._window)
            self._collect(state, end - time)
            if end < until or abs(end - (window + 1) * self._window) < 1e-6:
                self._finish(window * self._window)
            time = end

    def _collect(self, state: State, seconds: float) -> None:
        self._sums[0][:] += state.mass_flow * seconds
        self._sums[1][:] += state.heat_flow * seconds
        self._covered += seconds

    def _finish(self, start: float) -> None:
        """Write the window that began at `start` [s] if it was seen whole, and begin the next."""
        if self._covered > self._window - 1e-6:
            at = iso(round(start * 1e6))
            means = [sums / self._window for sums in self._sums]
            self._writer.writerows((at, stream, side, quantity, unit, repr(float(means[which][row, column])))
                                   for stream, side, quantity, unit, which, row, column in self._columns)
            self._file.flush()
        for sums in self._sums:
            sums[:] = 0.0
        self._covered = 0.0


def _columns(park: Park) -> Iterator[tuple[str, str, str, str, int, int, int]]:
    """Yield what a window has: stream, side, quantity, unit, and where it stands (which sum, row, column)."""
    for column, stream in enumerate(park.streams):
        sides = ((SENDER, "sender"), (RECEIVER, "receiver")) if stream.two_sided else ((SENDER, "sender"),)
        for row, side in sides:
            if stream.carries_mass:
                yield stream.id, side, "mass_flow", "kg/s", 0, row, column
            if stream.has_enthalpy or not stream.carries_mass:
                yield stream.id, side, "heat_flow", "kW", 1, row, column


def write_faults(path: Path, records: Iterable[FaultRecord]) -> None:
    """Write what has struck so far; the file is replaced whole, so that a reader never sees half of it."""
    partial = path.with_name(f"{path.name}.part")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FAULT_COLUMNS)
        for r in records:
            times = (iso(round(r.started_at * 1e6)), iso(round(r.ended_at * 1e6)))
            lists = (" ".join(names) for names in (r.meters, r.streams, r.nodes, r.answers))
            writer.writerow((r.fault, r.kind, r.subject, *times, *lists))
    partial.replace(path)
