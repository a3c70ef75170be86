"""The live cycle: readings as they come, windows as they close, results and events in the store.

    arrival ──► take in ──► window complete or late? ──► Chain.run ──► one transaction: results, events, state
       ▲            └─────► closed window touched?  ──► Chain.revise ──► one transaction
       └── LISTEN

A window closes when its sources are complete up to its end (`complete`), or `lateness_s` after it (`lateness`). How
complete a source is says the collector (`park.store.completeness`); of one that it does not speak of, every live
periodic meter must have sent its last due reading. Lateness counts for meters, not for the way here: while a whole
source has not got as far as the window's end, the window waits up to `PATIENCE_S` of wall time more, which matters
where a run goes faster than life. Silent meters, and those whose source has a gap, are not waited for.

A reading that comes for a closed window computes that window again, and those that its delays reach, with
`revision` one higher; events stay as they were found.

Everything that the next window needs is in the store with the last one (`processing_state`: how far arrivals have been
seen and windows closed, the detectors, the times of runs). So a process that is killed at any moment neither loses
nor doubles a window; one that starts goes on where the last stopped, and computes what was collected in between.
Windows between two runs in which nothing was collected are no windows.

Here: when, and in which transaction. Not here: what a window gives (chain.py), and the SQL (results_store.py). The
main path enters at `process`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

import numpy as np
import psycopg

from park.clock import RunClock
from park.errors import StoreError
from park.model import Park
from park.quality import qualities_of
from park.store import Arrival, ArrivalListener, arrivals_after, connect, read_window, store_park
from park.store.completeness import read_marks
from park.store.rollups import advance_rollups
from park.watch import ParkWatch
from processing import results_store
from processing.attendance import NEVER, Attendance, Gap
from processing.chain import NOTHING, Chain, WindowResult
from processing.estimate import Estimator
from processing.meters import Averaging, Bools, Ints
from processing.results_store import ClosedBy, Stamp
from processing.succession import Succession
from processing.window import BEFORE, Readings

log = logging.getLogger(__name__)

OnState = Callable[[str, dict[str, object]], None]

PATIENCE_S = 3.0
"""Wall time that a whole source may lag behind the clock before windows close without it."""

JITTER = 0.1
"""A reading may come this share of its interval early and still be the last one due in its window."""

CHUNK = 60
"""Windows that are read at once when there is much to make up for."""

LOOK_S = 0.25
"""How often a wait for arrivals looks whether it is to stop."""

LEAST_WAIT_S = 0.03
"""Least wait: a window that is due but waits for its sources is looked at so often, beside every arrival."""

SETTLE_S = 1.0
"""Wall time from a late reading to the revision of its window: late readings come in flocks."""

BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Waits between attempts to reach a database that is away."""

RUNS_KEPT = 50
"""Runs whose times are remembered."""

ARRIVALS_KEPT_US = 3600 * 10**6
"""Arrivals that have been seen are forgotten after this run time; boards look at the last minute of them."""

FORGET_EVERY = 100
"""Windows between two times of forgetting arrivals."""


def process(
    park: Park, dsn: str, clock: RunClock, *, stop: threading.Event, on_state: OnState | None = None,
    watch: ParkWatch | None = None,
) -> None:
    """Process a park's readings until `stop` is set; then compute what is complete, and return.

    Parameters
    ----------
    park
        The park.
    dsn
        The database, with its tables. If it is away, it is waited for.
    clock
        The run's clock.
    stop
        Set to stop.
    on_state
        Told ``"ready"`` once, ``"window"`` after each commit (start, end, closed_by, revision, readings, reconciled,
        events, open_events by kind, park_version, lag_s, took_s), ``"waiting"`` with the reason when the database goes
        away, ``"processing"`` when it is back.
    watch
        Gives the park when its files have changed; it is in force from the next boundary of windows on.
    """
    tell = on_state or (lambda state, detail: None)
    estimator = Estimator(park)
    estimator.warm_up()
    tell("ready", {"streams": len(park.streams), "meters": len(park.meters)})
    away, attempt = False, 0
    succession = Succession(watch)
    while True:
        try:
            with _Session(park, dsn, clock, estimator, tell) as session:
                if away:
                    tell("processing", {})
                away, attempt = False, 0
                heir = session.run(stop, succession)
            if heir is None:
                return
            park, estimator = heir
            continue
        except (StoreError, psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not away:
                log.warning("waiting for the database: %s", error)
                tell("waiting", {"reason": str(error)})
            away = True
        if watch is not None:
            watch.asked()
        if stop.wait(BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)]):
            return
        attempt += 1


@dataclass
class _Position:
    """How far processing is; stored with every window."""

    arrival: int = 0
    closed_us: int | None = None
    first_us: int | None = None          # start of the first window of this length
    newest_us: int = BEFORE              # latest source time that has arrived
    length_us: int | None = None         # of the windows so far
    pending: tuple[int, ...] = ()        # windows that late readings have touched


@dataclass
class _Run:
    """What this run has seen: when it began, and from when each meter's source has sent."""

    start_us: int
    began_us: int                        # first source time that came in this run; NEVER before
    last_us: Ints                        # shape (n_meters,), latest source time of each meter
    pending: dict[int, float] = field(default_factory=dict)     # window to revise -> wall time from which


class _Session:
    """Processing over one connection; ends with the database."""

    def __init__(self, park: Park, dsn: str, clock: RunClock, estimator: Estimator, tell: OnState) -> None:
        self.park, self._clock, self._tell, self._dsn = park, clock, tell, dsn
        self._chain, self._table = Chain(park, estimator), estimator.table
        self._length = round(park.park.window_s * 1e6)
        self._lateness = round(park.park.lateness_s * 1e6)
        self._reach = estimator.plan.reach_us()
        self._attendance = Attendance(park, self._table)
        self._waited_for = np.array([
            m.sampling == "periodic" and kind != Averaging.TICKET
            for m, kind in zip(park.meters, self._table.averaging, strict=True)], dtype=np.bool_)
        self._count = 0
        self._computing_since = 0.0              # monotonic [s]
        self._rolled_us: int | None = None

    def __enter__(self) -> _Session:
        with ExitStack() as opened:
            self._conn = connect(self._dsn, application="symbiosis process")
            opened.callback(self._conn.close)
            self._listener = opened.enter_context(ArrivalListener(self._dsn))
            self._restore()
            self._conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _restore(self) -> None:
        """Take up where the last run stopped."""
        now = self._now_us()
        n = len(self._table)
        with self._conn.transaction():
            self._version = store_park(self._conn, self.park)
            results_store.close_orphans(self._conn, self.park, now)
            kept = results_store.read_state(self._conn, "position")
            self._runs: list[list[int]] = results_store.read_state(self._conn, "runs") or []
            self._chain.restore(results_store.read_state(self._conn, "detectors") or {})
        self._position = _Position(**kept) if kept else _Position()
        self._runs = [*self._runs[-RUNS_KEPT:], [now, now]]
        self._run = _Run(
            now, NEVER, np.full(n, BEFORE, dtype=np.int64), dict.fromkeys(self._position.pending, 0.0))
        self._kept, self._fresh = Readings.of(n, [], [], []), list[Readings]()
        self._loaded_us: int | None = None       # source times before this are in memory, as far as they came
        self._marks: dict[str, int] = {}         # up to when each source is complete, as of what was taken in
        self._align()
        if self._position.closed_us is not None:
            with self._conn.transaction():
                self._load(self._position.closed_us - self._reach, self._position.closed_us)

    def _align(self) -> None:
        """Where the length of windows has changed, begin on a boundary of the new ones, and let the old ones be."""
        position = self._position
        if position.length_us not in (None, self._length) and position.closed_us is not None:
            position.closed_us = position.first_us = -(-position.closed_us // self._length) * self._length
            self._run.pending.clear()
        position.length_us = self._length

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, succession: Succession) -> tuple[Park, Estimator] | None:
        """Work until `stop` is set and everything that is complete is computed, or a changed park comes into force."""
        while True:
            heir = succession.due(self._now_us(), self._length, self._position.closed_us)
            if heir is not None:
                return heir
            self._take_in()
            if self._close_next() or self._revise_next(at_once=stop.is_set()):
                continue
            if stop.is_set():
                return None
            self._roll_up()
            self._listener.wait(self._wait_s())

    def _roll_up(self) -> None:
        """Bring the readings at 1 min and more up to date as far as windows are closed; there is time for it now."""
        closed = self._position.closed_us
        if closed in (None, self._rolled_us):
            return
        if advance_rollups(self._conn, results_store.instant(closed)) == 0:
            self._rolled_us = closed

    def _wait_s(self) -> float:
        """How long nothing can become due without an arrival."""
        due = [wall - time.monotonic() for wall in self._run.pending.values()]
        window = self._next()
        if window is not None:
            due.append(self._clock.wall_seconds_until((window + self._length + self._lateness) / 1e6))
        return min(LOOK_S, *(max(d, LEAST_WAIT_S) for d in due)) if due else LOOK_S

    def _now_us(self) -> int:
        return round(self._clock.now() * 1e6)

    # -- taking in ------------------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        """Read what has arrived; note which closed windows it touches."""
        with self._conn.transaction():          # one snapshot: what a mark says has come is taken in with it
            self._marks = read_marks(self._conn)
            arrivals = arrivals_after(self._conn, self._position.arrival)
            if arrivals:
                self._position.arrival = arrivals[-1].id
                self._position.newest_us = max(self._position.newest_us, *(a.end_us for a in arrivals))
                self._take(arrivals)
            self._load_ahead()

    def _take(self, arrivals: list[Arrival]) -> None:
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
        for start, end in _joined((max(a.start_us, keep), min(a.end_us + 1, horizon)) for a in arrivals):
            self._load(start, end)

    def _load_ahead(self) -> None:
        """Read on as far as is known to have come, but no more than is wanted soon."""
        window = self._next()
        if window is None:
            return
        start = self._kept_from() if self._loaded_us is None else self._loaded_us
        end = min(self._position.newest_us + 1, window + (CHUNK + 1) * self._length)
        if end > start:
            self._load(start, end)
            self._loaded_us = end

    def _kept_from(self) -> int:
        window = self._next()
        return BEFORE // 2 if window is None else window - self._reach

    def _load(self, start_us: int, end_us: int) -> None:
        """Read an interval of source time into memory."""
        if end_us <= start_us:
            return
        batch = read_window(self._conn, self._table.ids, max(start_us, 0), end_us)
        fresh = Readings.of(len(self._table), batch.meter, batch.source_us, batch.value, qualities_of(batch.status))
        self._fresh.append(fresh)
        self._run.last_us = np.maximum(self._run.last_us, fresh.last_time_us())
        recent = fresh.time_us[fresh.time_us >= self._run.start_us - self._length]
        self._run.began_us = min(self._run.began_us, int(recent.min(initial=NEVER)))
        self._attendance.note(fresh)

    def _touch(self, arrival: Arrival) -> None:
        """Note the closed windows that an arrival changes: its own, and those that delays carry it to."""
        closed, first = self._position.closed_us, self._position.first_us
        if closed is None or first is None or arrival.start_us >= closed:
            return
        start = max(arrival.start_us // self._length * self._length, first)
        end = min(arrival.end_us + self._chain.estimator.plan.delay_us() + 1, closed)
        for window in range(start, end, self._length):
            self._run.pending.setdefault(window, time.monotonic() + SETTLE_S)

    # -- closing --------------------------------------------------------------------------------------------------

    def _next(self) -> int | None:
        """Return the start of the next window; None before the first reading."""
        return self._position.first_us if self._position.closed_us is None else self._position.closed_us

    def _close_next(self) -> bool:
        """Close the next window if it is due; return whether there was anything to do."""
        window = self._next()
        if window is None:
            return False
        if self._is_idle(window):
            return self._pass_over(window)
        gaps = self._gaps(window)
        closed_by = self._due(window + self._length, self._attendance.excused(gaps, window + self._length)[0])
        if closed_by is None:
            return False
        self._computing_since = time.monotonic()
        presence = self._attendance.presence(
            self._readings(), (window, window + self._length), gaps, self._patience_us())
        result = self._chain.run(self._readings(), window, window + self._length, presence)
        self._position.closed_us = window + self._length
        self._commit(result, Stamp(closed_by, self._now_us(), 0, self._version))
        self._kept = self._readings().between(window + self._length - self._reach, NEVER)
        return True

    def _readings(self) -> Readings:
        """Return what is in memory; readings that came are put in order when somebody asks, not as they come."""
        if self._fresh:
            self._kept = self._kept.joined(*self._fresh)
            self._fresh.clear()
        return self._kept

    def _is_idle(self, window: int) -> bool:
        """Whether a window lies before anything came in this run, and has nothing in it: then it is no window."""
        end = window + self._length
        if end > self._run.began_us:
            return False
        inside = self._readings().time_us
        return not ((inside >= window) & (inside < end)).any()

    def _pass_over(self, window: int) -> bool:
        """Go on to the next window with a reading; return whether there is one."""
        times = self._readings().time_us
        later = times[times >= window]
        found = int(later.min()) if later.size else self._beyond_memory()
        if found is None:
            return False
        self._position.closed_us = found // self._length * self._length
        self._attendance.restart(self._position.closed_us)
        self._attendance.note(self._readings())
        return True

    def _beyond_memory(self) -> int | None:
        """Return the first source time that has come but was not read yet, and read on from there [us]."""
        if self._loaded_us is None or self._loaded_us > self._position.newest_us:
            return None
        with self._conn.transaction():
            found = results_store.first_source_time(self._conn, self._loaded_us)
        self._loaded_us = found
        return found

    def _due(self, end: int, excused: Bools) -> ClosedBy | None:
        """Return why a window that ends at `end` is to be closed now; None: not yet."""
        now = self._now_us()
        if now < end:
            return None
        live = self._waited_for & ~excused & ~self._chain.silent & (self._run.last_us > BEFORE)
        if live.any() and self._is_complete(end)[live].all():
            return "complete"
        if now < end + self._lateness:
            return None
        return "lateness" if self._sources_there(end, live) or now >= end + self._patience_us() else None

    def _is_complete(self, end: int) -> Bools:
        """Whether each meter's readings before `end` are all there: by its source's mark, else by its last reading."""
        marks = self._attendance.of_sources(self._marks, BEFORE)
        last, interval = self._run.last_us, self._table.interval_us
        has_all = last + interval + (JITTER * interval).astype(np.int64) >= end
        complete: Bools = np.where(marks > BEFORE, marks >= end, has_all)
        return complete

    def _sources_there(self, end: int, live: Bools) -> bool:
        """Whether every source has got as far as the window's end."""
        source = self._attendance.source
        newest = np.full(self._attendance.n_sources, BEFORE, dtype=np.int64)
        np.maximum.at(newest, source, self._run.last_us + self._table.interval_us)
        return bool((newest[source[live]] >= end).all())

    def _patience_us(self) -> int:
        """Run time that a whole source may lag: `lateness_s`, and the wall time of `PATIENCE_S` at this speed."""
        now = time.time()
        passes = self._clock.at(now + PATIENCE_S) - self._clock.at(now)
        return max(self._lateness, round(passes * 1e6))

    def _gaps(self, window: int) -> list[Gap]:
        """Return the gaps that matter to a window."""
        with self._conn.transaction():
            return results_store.gaps_since(self._conn, window - self._reach)

    # -- writing --------------------------------------------------------------------------------------------------

    def _commit(self, result: WindowResult, stamp: Stamp) -> None:
        """Write a window with the state that belongs to it, and tell."""
        self._runs[-1][1] = max(self._runs[-1][1], stamp.computed_at_us)
        self._count += 1
        with self._conn.transaction():
            results_store.write_window(self._conn, result, stamp)
            self._position.pending = tuple(sorted(self._run.pending))
            results_store.write_state(self._conn, "position", asdict(self._position))
            results_store.write_state(self._conn, "runs", self._runs)
            if stamp.closed_by != "revised":
                results_store.write_state(self._conn, "detectors", self._chain.as_json())
            if self._count % FORGET_EVERY == 0:
                results_store.forget_arrivals(
                    self._conn, self._position.arrival, stamp.computed_at_us - ARRIVALS_KEPT_US)
            open_events = results_store.open_events(self._conn)
        self._tell("window", {
            "start": results_store.instant(result.start_us).isoformat(),
            "end": results_store.instant(result.end_us).isoformat(),
            "closed_by": stamp.closed_by, "revision": stamp.revision, "readings": result.readings,
            "reconciled": sum(row.reconciled is not None for row in result.rows.flows),
            "events": len(result.changes), "lag_s": (stamp.computed_at_us - result.end_us) / 1e6,
            "open_events": open_events, "park_version": self._version,
            "took_s": time.monotonic() - self._computing_since})

    # -- late readings --------------------------------------------------------------------------------------------

    def _revise_next(self, *, at_once: bool) -> bool:
        """Compute again the earliest window that late readings have changed, if it is time."""
        now = time.monotonic()
        ready = [window for window, wall in self._run.pending.items() if at_once or wall <= now]
        if not ready:
            return False
        window = min(ready)
        del self._run.pending[window]
        self._revise(window)
        return True

    def _revise(self, window: int) -> None:
        end = window + self._length
        self._computing_since = time.monotonic()
        with self._conn.transaction():
            before = results_store.earlier(self._conn, window)
            batch = read_window(self._conn, self._table.ids, window - self._reach, end)
        readings = Readings.of(
            len(self._table), batch.meter, batch.source_us, batch.value, qualities_of(batch.status))
        result = self._chain.revise(readings, window, end, before.found if before else NOTHING)
        self._commit(result, Stamp(
            "revised", self._now_us(), before.revision + 1 if before else 0, self._version))


def _joined(spans: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return half-open spans with those that overlap or touch made one; empty ones left out."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if span[1] > span[0]):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined
