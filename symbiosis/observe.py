"""What the live views show: one consistent look at the store's views.

Reads views alone, on a connection that cannot write. How it is shown is in `symbiosis.terminal`. The main path
enters at `Observer.look`, which never raises because the database is away: it says so in what it returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import LiteralString, TypeVar

import psycopg
from psycopg.rows import class_row

from park.clock import RunClock
from park.errors import StoreError
from park.store import connect

EVENTS_SHOWN = 50

# Results come in the SI unit that the exchange settles by; people of the trade read these.
SHOWN_UNIT = {"kg/s": ("t/h", 3.6), "m3/s": ("m3/h", 3600.0), "kW": ("MW", 1e-3)}

T = TypeVar("T")


@dataclass(frozen=True)
class ExchangeRow:
    """An exchange in the latest window; flows in `unit`, None where nothing is known."""

    exchange: str
    name: str
    from_name: str | None
    to_name: str | None
    unit: str | None
    sender: float | None
    receiver: float | None
    reconciled: float | None
    reconciled_u95: float | None
    in_agreement: bool | None

    @property
    def shown_unit(self) -> str:
        """The unit that people read it in."""
        return SHOWN_UNIT.get(self.unit or "", (self.unit or "", 1.0))[0]

    def shown(self, flow: float | None) -> float | None:
        """Return a flow in the unit that people read it in."""
        scale = SHOWN_UNIT.get(self.unit or "", ("", 1.0))[1]
        return None if flow is None else flow * scale


@dataclass(frozen=True)
class NodeRow:
    """A balance of a node in the latest window: what its raw values leave open, in `unit`."""

    node: str
    name: str
    quantity: str
    unit: str
    imbalance: float | None
    std: float | None

    @property
    def ratio(self) -> float:
        """Imbalance over its 95 % half-width; above 1 the raw values disagree more than their uncertainty allows."""
        return abs(self.imbalance) / (1.96 * self.std) if self.imbalance is not None and self.std else 0.0


@dataclass(frozen=True)
class EventRow:
    """A deviation, open while `ended_at` is None."""

    event: int
    kind: str
    subject: str
    started_at: datetime
    ended_at: datetime | None
    severity: str
    message: str


@dataclass(frozen=True)
class WindowRow:
    """The latest window, and how many there are."""

    window_start: datetime
    window_end: datetime
    computed_at: datetime
    closed_by: str
    max_relative_imbalance: float | None
    windows: int


@dataclass(frozen=True)
class RateRow:
    """What came in during the last minute of run time."""

    until: datetime | None
    readings_per_s: float


@dataclass(frozen=True)
class Look:
    """One look at the store; the fields keep what was seen last while the database is away."""

    window: WindowRow | None = None
    exchanges: Sequence[ExchangeRow] = ()
    nodes: Sequence[NodeRow] = ()
    events: Sequence[EventRow] = ()         # the latest first
    rate: RateRow | None = None
    away: str = ""                          # why the database cannot be asked; empty while it answers


WINDOW: LiteralString = """
    select window_start, window_end, computed_at, closed_by, max_relative_imbalance,
           (select count(*) from window_log) as windows
      from window_log order by window_start desc limit 1
"""
EXCHANGES: LiteralString = """
    select exchange, name, from_name, to_name, unit, sender, receiver, reconciled, reconciled_u95, in_agreement
      from exchange_now order by position
"""
NODES: LiteralString = """
    select node, name, quantity, unit, imbalance, std from node_now order by position, quantity
"""
EVENTS: LiteralString = """
    select event, kind, subject, started_at, ended_at, severity, message
      from event_list where started_at >= %s order by event desc limit %s
"""
RATE: LiteralString = "select until, readings_per_s from reading_rate"


class Observer:
    """Looks at a store again and again; of one thread.

    Parameters
    ----------
    dsn
        The database.
    since
        Events that started before this run time are not shown [s since 1970].
    """

    def __init__(self, dsn: str, since: float) -> None:
        self._dsn = dsn
        self._since = datetime.fromtimestamp(since).astimezone()
        self._conn: psycopg.Connection | None = None
        self._last = Look()

    def look(self) -> Look:
        """Return what the store says now, or what it said last and why it cannot be asked."""
        try:
            self._last = self._ask()
        except (psycopg.Error, StoreError) as error:
            self.close()
            reason = str(error).strip().splitlines()
            self._last = replace(self._last, away=reason[0] if reason else type(error).__name__)
        return self._last

    def close(self) -> None:
        """Let go of the connection."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _ask(self) -> Look:
        """Ask all in one snapshot."""
        if self._conn is None:
            self._conn = _open_to_read(self._dsn)
        with self._conn.transaction():
            windows = self._rows(WindowRow, WINDOW)
            rates = self._rows(RateRow, RATE)
            return Look(
                window=windows[0] if windows else None,
                exchanges=self._rows(ExchangeRow, EXCHANGES),
                nodes=self._rows(NodeRow, NODES),
                events=self._rows(EventRow, EVENTS, self._since, EVENTS_SHOWN),
                rate=rates[0] if rates else None,
            )

    def _rows(self, kind: type[T], query: LiteralString, *values: object) -> list[T]:
        """Return the rows of a query as objects."""
        assert self._conn is not None
        with self._conn.cursor(row_factory=class_row(kind)) as cursor:
            return cursor.execute(query, values).fetchall()


class Watcher:
    """Looks at a store from a thread of its own, and hands each look on.

    Parameters
    ----------
    observer
        What to look at.
    show
        Called with each look.
    every_s
        Time between two looks [s].
    """

    def __init__(self, observer: Observer, show: Callable[[Look], None], every_s: float = 1.0) -> None:
        self._observer = observer
        self._show = show
        self._every_s = every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="view", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Take one more look, show it, and end."""
        self._end.set()
        self._thread.join(5.0)

    def _watch(self) -> None:
        while True:
            ended = self._end.is_set()
            self._show(self._observer.look())
            if ended:
                break
            self._end.wait(self._every_s)
        self._observer.close()


@dataclass(frozen=True)
class Pace:
    """How well the results keep up; wall seconds, None while nothing is known."""

    reading_age_s: float | None
    result_age_s: float | None
    lag_s: float | None                     # from the end of the latest window to its result
    values_per_s: float

    @classmethod
    def of(cls, look: Look, clock: RunClock, now: float) -> Pace:
        """Return the pace of a look at the wall time `now` [s]."""
        until, window = look.rate.until if look.rate else None, look.window
        run_per_wall = clock.at(now) - clock.at(now - 1.0)
        return cls(
            reading_age_s=None if until is None else max(0.0, now - clock.wall(until.timestamp())),
            result_age_s=None if window is None else max(0.0, now - clock.wall(window.computed_at.timestamp())),
            lag_s=None if window is None
            else clock.wall(window.computed_at.timestamp()) - clock.wall(window.window_end.timestamp()),
            values_per_s=look.rate.readings_per_s * run_per_wall if look.rate else 0.0,
        )


def _open_to_read(dsn: str) -> psycopg.Connection:
    """Open a connection that cannot write and does not wait for ever."""
    conn = connect(dsn, autocommit=True, application="symbiosis view")
    conn.execute("set default_transaction_read_only = on")
    conn.execute("set default_transaction_isolation = 'repeatable read'")
    conn.execute("set statement_timeout = '5s'")
    return conn
