"""What the live cycle has in memory: readings as they come in, as far as the next windows need them.

    arrivals ──► which closed windows do they touch? ──► `pending`
        └──────► read from the store, once in a while ahead of the window ──► `readings`

Here: that, and how far processing is (`Position`). Not here: when a window closes (closing.py), the loop around it
(cycle.py). The main path enters at `Intake.take_in`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import psycopg

from park.quality import qualities_of
from park.store import Arrival, arrivals_after, read_window
from park.store.completeness import read_marks
from processing import results_store
from processing.attendance import NEVER, Attendance
from processing.meters import Ints, MeterArrays
from processing.plan import Plan
from processing.window import BEFORE, Readings

CHUNK = 60
"""Windows that are read at once when there is much to make up for."""

SETTLE_S = 1.0
"""Wall time from a late reading to the revision of its window: late readings come in flocks."""


@dataclass
class Position:
    """How far processing is; stored with every window."""

    arrival: int = 0
    closed_us: int | None = None
    first_us: int | None = None          # start of the first window of this length
    newest_us: int = BEFORE              # latest source time that has arrived
    length_us: int | None = None         # of the windows so far
    pending: tuple[int, ...] = ()        # windows that late readings have touched

    @property
    def next_us(self) -> int | None:
        """Start of the next window [us]; None before the first reading."""
        return self.first_us if self.closed_us is None else self.closed_us

    def aligned(self, length_us: int) -> bool:
        """Take up windows of a length; where it has changed, begin on a boundary of theirs, and return True."""
        changed = self.length_us not in (None, length_us) and self.closed_us is not None
        if changed and self.closed_us is not None:
            self.closed_us = self.first_us = -(-self.closed_us // length_us) * length_us
        self.length_us = length_us
        return changed


class Intake:
    """The readings in memory; one object a session.

    Parameters
    ----------
    plan
        Of the park: its meters, and how far back they matter.
    attendance
        Told of every reading.
    position
        How far processing is.
    start_us
        When the run began [us].

    Attributes
    ----------
    last_us
        Latest source time of each meter in this run, shape (n_meters,) [us].
    pending
        Windows to revise, and the wall time (monotonic) from which.
    marks
        Up to when each source is complete, as of what was taken in [us].
    """

    def __init__(self, plan: Plan, attendance: Attendance, position: Position, start_us: int) -> None:
        self._plan, self._attendance, self._position, self._start_us = plan, attendance, position, start_us
        self._table: MeterArrays = plan.table
        self._length = position.length_us or 0
        self._reach, self._delay = plan.reach_us(), plan.delay_us()
        n = len(self._table)
        self.last_us: Ints = np.full(n, BEFORE, dtype=np.int64)
        self.pending: dict[int, float] = dict.fromkeys(position.pending, 0.0)
        self.marks: dict[str, int] = {}
        self._began_us = NEVER                   # first source time that came in this run
        self._kept, self._fresh = Readings.of(n, [], [], []), list[Readings]()
        self._loaded_us: int | None = None       # source times before this are in memory, as far as they came

    # -- taking in ------------------------------------------------------------------------------------------------

    def begin(self, conn: psycopg.Connection) -> None:
        """Read what the next window needs of the time before it."""
        closed = self._position.closed_us
        if closed is not None:
            self._load(conn, closed - self._reach, closed)

    def take_in(self, conn: psycopg.Connection) -> None:
        """Read what has arrived, in one snapshot: what a mark says has come is taken in with it."""
        self.marks = read_marks(conn)
        arrivals = arrivals_after(conn, self._position.arrival)
        if arrivals:
            self._position.arrival = arrivals[-1].id
            self._position.newest_us = max(self._position.newest_us, *(a.end_us for a in arrivals))
            self._take(conn, arrivals)
        self._load_ahead(conn)

    def _take(self, conn: psycopg.Connection, arrivals: list[Arrival]) -> None:
        """Note which windows arrivals touch, and read those that lie in what is in memory already."""
        if self._position.closed_us is None:
            first = min(a.start_us for a in arrivals)
            if self._position.first_us is None or first < self._position.first_us:
                self._position.first_us = first // self._length * self._length
                self._loaded_us = None
        for a in arrivals:
            self._touch(a)
        horizon = self._loaded_us
        if horizon is None:
            return
        keep = self._kept_from()
        for start, end in joined((max(a.start_us, keep), min(a.end_us + 1, horizon)) for a in arrivals):
            self._load(conn, start, end)

    def _load_ahead(self, conn: psycopg.Connection) -> None:
        """Read on as far as is known to have come, but no more than is wanted soon."""
        window = self._position.next_us
        if window is None:
            return
        start = self._kept_from() if self._loaded_us is None else self._loaded_us
        end = min(self._position.newest_us + 1, window + (CHUNK + 1) * self._length)
        if end > start:
            self._load(conn, start, end)
            self._loaded_us = end

    def _kept_from(self) -> int:
        window = self._position.next_us
        return BEFORE // 2 if window is None else window - self._reach

    def _load(self, conn: psycopg.Connection, start_us: int, end_us: int) -> None:
        """Read an interval of source time into memory."""
        if end_us <= start_us:
            return
        fresh = self.read(conn, max(start_us, 0), end_us)
        self._fresh.append(fresh)
        self.last_us = np.maximum(self.last_us, fresh.last_time_us())
        recent = fresh.time_us[fresh.time_us >= self._start_us - self._length]
        self._began_us = min(self._began_us, int(recent.min(initial=NEVER)))
        self._attendance.note(fresh)

    def read(self, conn: psycopg.Connection, start_us: int, end_us: int) -> Readings:
        """Return the stored readings of [start_us, end_us)."""
        batch = read_window(conn, self._table.ids, start_us, end_us)
        return Readings.of(len(self._table), batch.meter, batch.source_us, batch.value, qualities_of(batch.status))

    def _touch(self, arrival: Arrival) -> None:
        """Note the closed windows that an arrival changes: its own, and those that delays carry it to."""
        closed, first = self._position.closed_us, self._position.first_us
        if closed is None or first is None or arrival.start_us >= closed:
            return
        start = max(arrival.start_us // self._length * self._length, first)
        end = min(arrival.end_us + self._delay + 1, closed)
        for window in range(start, end, self._length):
            self.pending.setdefault(window, time.monotonic() + SETTLE_S)

    # -- what is there --------------------------------------------------------------------------------------------

    def readings(self) -> Readings:
        """Return what is in memory; readings that came are put in order when somebody asks, not as they come."""
        if self._fresh:
            self._kept = self._kept.joined(*self._fresh)
            self._fresh.clear()
        return self._kept

    def forget(self, before_us: int) -> None:
        """Let go of what no window needs from the one that begins at `before_us` on."""
        self._kept = self.readings().between(before_us - self._reach, NEVER)

    def is_idle(self, window: int) -> bool:
        """Whether a window lies before anything came in this run, and has nothing in it: then it is no window."""
        end = window + self._length
        if end > self._began_us:
            return False
        inside = self.readings().time_us
        return not ((inside >= window) & (inside < end)).any()

    def first_from(self, conn: psycopg.Connection, window: int) -> int | None:
        """Return the first source time at or after a window's start [us]; None where nothing more has come."""
        times = self.readings().time_us
        later = times[times >= window]
        return int(later.min()) if later.size else self._beyond_memory(conn)

    def _beyond_memory(self, conn: psycopg.Connection) -> int | None:
        """Return the first source time that has come but was not read yet, and read on from there [us]."""
        if self._loaded_us is None or self._loaded_us > self._position.newest_us:
            return None
        with conn.transaction():
            found = results_store.first_source_time(conn, self._loaded_us)
        self._loaded_us = found
        return found


def joined(spans: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return half-open spans with those that overlap or touch made one; empty ones left out."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if span[1] > span[0]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found
