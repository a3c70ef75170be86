"""When a window of the live cycle closes: complete, or late enough.

Here: that verdict. Not here: the readings (intake.py) and the loop (cycle.py), whose text says the rules. The main path
enters at `Closing.due`.
"""

from __future__ import annotations

import time

import numpy as np

from park.clock import RunClock
from park.model import Park
from processing.attendance import Attendance
from processing.intake import Intake
from processing.meters import Averaging, Bools, MeterArrays
from processing.results_store import ClosedBy
from processing.window import BEFORE

PATIENCE_S = 3.0
"""Wall time that a whole source may lag behind the clock before windows close without it."""

JITTER = 0.1
"""A reading may come this share of its interval early and still be the last one due in its window."""


class Closing:
    """When a park's windows close.

    Parameters
    ----------
    park, table
        The park and its meters.
    attendance
        Which source each meter has.
    clock
        The run's clock.
    """

    def __init__(self, park: Park, table: MeterArrays, attendance: Attendance, clock: RunClock) -> None:
        self._table, self._attendance, self._clock = table, attendance, clock
        self._lateness = round(park.park.lateness_s * 1e6)
        self._waited_for = np.array([
            m.sampling == "periodic" and kind != Averaging.TICKET
            for m, kind in zip(park.meters, table.averaging, strict=True)], dtype=np.bool_)

    def due(self, end_us: int, now_us: int, intake: Intake, quiet: Bools) -> ClosedBy | None:
        """Return why a window is to be closed now; None: not yet.

        Parameters
        ----------
        end_us
            The window's end [us].
        now_us
            Run time [us].
        intake
            What has come.
        quiet
            Meters that are not waited for, silent or excused, bool, shape (n_meters,).
        """
        if now_us < end_us:
            return None
        live = self._waited_for & ~quiet & (intake.last_us > BEFORE)
        if live.any() and self._is_complete(end_us, intake)[live].all():
            return "complete"
        if now_us < end_us + self._lateness:
            return None
        there = self._sources_there(end_us, intake, live)
        return "lateness" if there or now_us >= end_us + self.patience_us() else None

    def wall_seconds_until_late(self, end_us: int) -> float:
        """Return the wall time until a window with this end is late [s]."""
        return self._clock.wall_seconds_until((end_us + self._lateness) / 1e6)

    def patience_us(self) -> int:
        """Return for how much run time a whole source may lag: `lateness_s`, and `PATIENCE_S` of wall time [us]."""
        now = time.time()
        passes = self._clock.at(now + PATIENCE_S) - self._clock.at(now)
        return max(self._lateness, round(passes * 1e6))

    def _is_complete(self, end: int, intake: Intake) -> Bools:
        """Whether each meter's readings before `end` are all there: by its source's mark, else by its last reading."""
        marks = self._attendance.of_sources(intake.marks, BEFORE)
        last, interval = intake.last_us, self._table.interval_us
        has_all = last + interval + (JITTER * interval).astype(np.int64) >= end
        complete: Bools = np.where(marks > BEFORE, marks >= end, has_all)
        return complete

    def _sources_there(self, end: int, intake: Intake, live: Bools) -> bool:
        """Whether every source has got as far as the window's end."""
        source = self._attendance.source
        newest = np.full(self._attendance.n_sources, BEFORE, dtype=np.int64)
        np.maximum.at(newest, source, intake.last_us + self._table.interval_us)
        return bool((newest[source[live]] >= end).all())
