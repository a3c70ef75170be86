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

Here: the loop, and what goes into which transaction. Not here: the readings in memory (intake.py), when a window closes
(closing.py), what it gives (chain.py), and the SQL (results_store.py). The main path enters at `process`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict

import psycopg

from park.clock import RunClock
from park.errors import StoreError
from park.model import Park
from park.store import ArrivalListener, connect, store_park
from park.store.connection import PASSING
from park.store.rollups import advance_rollups
from park.watch import ParkWatch
from processing import results_store
from processing.attendance import Attendance, Gap
from processing.chain import NOTHING, Chain, WindowResult
from processing.closing import Closing
from processing.estimate import Estimator
from processing.intake import Intake, Position
from processing.results_store import Stamp
from processing.succession import Succession

log = logging.getLogger(__name__)

OnState = Callable[[str, dict[str, object]], None]

LOOK_S = 0.25
"""How often a wait for arrivals looks whether it is to stop."""

LEAST_WAIT_S = 0.03
"""Least wait: a window that is due but waits for its sources is looked at so often, beside every arrival."""

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
        solved, events, open_events by kind, park_version, lag_s, took_s), ``"waiting"`` with the reason when the
        database goes away, ``"processing"`` when it is back.
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
        except (StoreError, *PASSING) as error:
            if not away:
                log.warning("waiting for the database: %s", error)
                tell("waiting", {"reason": str(error)})
            away = True
        if watch is not None:
            watch.asked()
        if stop.wait(BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)]):
            return
        attempt += 1


class Solutions:
    """Logs when balances begin to have no solution, and when they have one again; silent in between."""

    def __init__(self) -> None:
        self._there = True

    def note(self, solved: bool, start_us: int) -> None:
        """Take in whether the balances of the window from `start_us` on [us since 1970 UTC] had a solution."""
        if solved == self._there:
            return
        self._there, start = solved, results_store.instant(start_us).isoformat()
        if solved:
            log.info("balances have a solution again in the window at %s", start)
        else:
            log.warning("balances have no solution in the window at %s: nothing in it is reconciled", start)


class _Session:
    """Processing over one connection; ends with the database."""

    def __init__(self, park: Park, dsn: str, clock: RunClock, estimator: Estimator, tell: OnState) -> None:
        self.park, self._clock, self._tell, self._dsn = park, clock, tell, dsn
        self._chain, self._table = Chain(park, estimator), estimator.table
        self._length = round(park.park.window_s * 1e6)
        self._reach = estimator.plan.reach_us()
        self._attendance = Attendance(park, self._table)
        self._closing = Closing(park, self._table, self._attendance, clock)
        self._count = 0
        self._computing_since = 0.0              # monotonic [s]
        self._rolled_us: int | None = None
        self._solutions = Solutions()

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
        with self._conn.transaction():
            self._version = store_park(self._conn, self.park)
            results_store.close_orphans(self._conn, self.park, now)
            kept = results_store.read_state(self._conn, "position")
            self._runs: list[list[int]] = results_store.read_state(self._conn, "runs") or []
            self._chain.restore(results_store.read_state(self._conn, "detectors") or {})
        self._position = Position(**kept) if kept else Position()
        if self._position.aligned(self._length):
            self._position.pending = ()         # windows of another length are let be
        self._runs = [*self._runs[-RUNS_KEPT:], [now, now]]
        self._intake = Intake(self._chain.estimator.plan, self._attendance, self._position, now)
        with self._conn.transaction():
            self._intake.begin(self._conn)

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, succession: Succession) -> tuple[Park, Estimator] | None:
        """Work until `stop` is set and everything that is complete is computed, or a changed park comes into force."""
        while True:
            heir = succession.due(self._now_us(), self._length, self._position.closed_us)
            if heir is not None:
                return heir
            with self._conn.transaction():
                self._intake.take_in(self._conn)
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
        due = [wall - time.monotonic() for wall in self._intake.pending.values()]
        window = self._position.next_us
        if window is not None:
            due.append(self._closing.wall_seconds_until_late(window + self._length))
        return min(LOOK_S, *(max(d, LEAST_WAIT_S) for d in due)) if due else LOOK_S

    def _now_us(self) -> int:
        return round(self._clock.now() * 1e6)

    # -- closing --------------------------------------------------------------------------------------------------

    def _close_next(self) -> bool:
        """Close the next window if it is due; return whether there was anything to do."""
        window = self._position.next_us
        if window is None:
            return False
        if self._intake.is_idle(window):
            return self._pass_over(window)
        end, gaps = window + self._length, self._gaps(window)
        quiet = self._attendance.excused(gaps, end)[0] | self._chain.silent
        closed_by = self._closing.due(end, self._now_us(), self._intake, quiet)
        if closed_by is None:
            return False
        self._computing_since = time.monotonic()
        readings = self._intake.readings()
        presence = self._attendance.presence(readings, (window, end), gaps, self._closing.patience_us())
        result = self._chain.run(readings, window, end, presence)
        self._position.closed_us = end
        self._solutions.note(result.solved, window)
        self._commit(result, Stamp(closed_by, self._now_us(), 0, self._version))
        self._intake.forget(end)
        return True

    def _pass_over(self, window: int) -> bool:
        """Go on to the next window with a reading; return whether there is one."""
        found = self._intake.first_from(self._conn, window)
        if found is None:
            return False
        self._position.closed_us = found // self._length * self._length
        self._attendance.restart(self._position.closed_us)
        self._attendance.note(self._intake.readings())
        return True

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
            self._position.pending = tuple(sorted(self._intake.pending))
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
            "solved": result.solved, "events": len(result.changes),
            "lag_s": (stamp.computed_at_us - result.end_us) / 1e6,
            "open_events": open_events, "park_version": self._version,
            "took_s": time.monotonic() - self._computing_since})

    # -- late readings --------------------------------------------------------------------------------------------

    def _revise_next(self, *, at_once: bool) -> bool:
        """Compute again the earliest window that late readings have changed, if it is time."""
        now = time.monotonic()
        ready = [window for window, wall in self._intake.pending.items() if at_once or wall <= now]
        if not ready:
            return False
        window = min(ready)
        del self._intake.pending[window]
        self._revise(window)
        return True

    def _revise(self, window: int) -> None:
        end = window + self._length
        self._computing_since = time.monotonic()
        with self._conn.transaction():
            before = results_store.earlier(self._conn, window)
            readings = self._intake.read(self._conn, window - self._reach, end)
        result = self._chain.revise(readings, window, end, before.found if before else NOTHING)
        self._commit(result, Stamp(
            "revised", self._now_us(), before.revision + 1 if before else 0, self._version))
