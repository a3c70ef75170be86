"""What came when: the `arrival` rows that announce each committed batch, and how to wait for them.

The writer announces the source times that a batch added, as few tight spans; processing reads the rows above the last
id that it has seen, and so learns which windows are touched. Ids are in commit order: whoever announces holds one
lock until its commit, so an id that is seen has no lower one still to come.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import psycopg

from park.errors import StoreError
from park.store.connection import connect, where

CHANNEL = "arrival"
LOCK_KEY = 0x53594D42_0002      # beside that of park.store.schema

SPAN_GAP_US = 10_000_000        # source times closer than this are one span; windows are rarely shorter
SPANS_LIMIT = 256               # a year of hourly readings is announced in so many spans, not in 8,760

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Arrival(NamedTuple):
    """What a committed batch added: source times from start to end, both included [us since 1970-01-01 UTC]."""

    id: int
    start_us: int
    end_us: int
    row_count: int
    received_us: int


class Added(NamedTuple):
    """New rows by source time, arrays of shape (n_times,); a time may come more than once.

    Attributes
    ----------
    source_us
        Source times [us since 1970-01-01 UTC].
    rows
        New rows at each [1].
    received_us
        Latest arrival of each [us since 1970-01-01 UTC].
    """

    source_us: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    received_us: npt.NDArray[np.int64]


def announce(conn: psycopg.Connection, added: list[Added]) -> None:
    """Tell in the transaction under way what it adds; at its very end, for the lock is held until the commit."""
    spans = spans_of(added)
    if not spans:
        return
    with conn.pipeline(), conn.cursor() as cursor:      # one way there and back instead of one each
        cursor.execute("select pg_advisory_xact_lock(%s)", [LOCK_KEY])
        cursor.executemany(
            "insert into arrival (period_start, period_end, row_count, received_at) values (%s, %s, %s, %s)",
            [(instant_at(s.start_us), instant_at(s.end_us), s.row_count, instant_at(s.received_us)) for s in spans],
        )
        cursor.execute("select pg_notify(%s, '')", [CHANNEL])


def spans_of(added: list[Added], *, gap_us: int = SPAN_GAP_US, limit: int = SPANS_LIMIT) -> list[Arrival]:
    """Return the spans of source time that the new rows fill, in order; their ids are 0.

    Parameters
    ----------
    added
        The new rows.
    gap_us
        Times further apart than this are in different spans [us].
    limit
        With more spans than this, those nearest to each other become one.
    """
    source_us = np.concatenate([np.empty(0, np.int64), *(a.source_us for a in added)])
    if not len(source_us):
        return []
    order = np.argsort(source_us, kind="stable")
    source_us = source_us[order]
    rows = np.concatenate([a.rows for a in added])[order]
    received_us = np.concatenate([a.received_us for a in added])[order]
    gaps = np.diff(source_us)
    cuts = np.flatnonzero(gaps > gap_us)
    if len(cuts) >= limit:
        widest = np.argsort(gaps[cuts], kind="stable")[len(cuts) - (limit - 1) :]
        cuts = np.sort(cuts[widest])
    starts = np.concatenate([[0], cuts + 1])
    ends = np.concatenate([cuts, [len(source_us) - 1]])
    counts = np.add.reduceat(rows, starts)
    latest = np.maximum.reduceat(received_us, starts)
    return [
        Arrival(0, int(source_us[start]), int(source_us[end]), int(count), int(received))
        for start, end, count, received in zip(starts, ends, counts, latest, strict=True)
    ]


def latest_arrival(conn: psycopg.Connection) -> int:
    """Return the highest arrival id, 0 before the first."""
    row = conn.execute("select coalesce(max(id), 0) from arrival").fetchone()
    return int(row[0]) if row else 0


def arrivals_after(conn: psycopg.Connection, last_seen: int) -> list[Arrival]:
    """Return the arrivals with an id above `last_seen`, in commit order."""
    rows = conn.execute(
        "select id, period_start, period_end, row_count, received_at from arrival where id > %s order by id",
        [last_seen],
    )
    return [
        Arrival(id_, microseconds_of(start), microseconds_of(end), count, microseconds_of(received))
        for id_, start, end, count, received in rows
    ]


class ArrivalListener:
    """Waits for arrivals, on a connection of its own; a context manager.

    Listen first, then read `arrivals_after`, then wait: so none is missed. A wait that ends may have been for
    nothing, and one with a limit says so itself.

    Parameters
    ----------
    dsn
        The database.

    Raises
    ------
    StoreError
        From all methods, if the database is away.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._conn = connect(dsn, autocommit=True, application="symbiosis arrivals")
        self._conn.execute(f"listen {CHANNEL}".encode())

    def wait(self, limit_s: float) -> bool:
        """Wait until something has arrived since the last wait, at most `limit_s` [s]; return whether it has."""
        try:
            told = False
            for _notice in self._conn.notifies(timeout=limit_s, stop_after=1):
                told = True
            for _notice in self._conn.notifies(timeout=0):      # several batches are one reason to look
                pass
        except psycopg.Error as error:
            raise StoreError(f"cannot listen to {where(self._dsn)}: {error}") from error
        return told

    def close(self) -> None:
        """Stop listening."""
        self._conn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def instant_at(us: int) -> datetime:
    """Return the instant [us since 1970-01-01 UTC] as a datetime, exactly."""
    return _EPOCH + us * _MICROSECOND


def microseconds_of(instant: datetime) -> int:
    """Return the datetime as an instant [us since 1970-01-01 UTC], exactly."""
    return (instant - _EPOCH) // _MICROSECOND
