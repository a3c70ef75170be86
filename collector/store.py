"""What the collector keeps in the store: readings, gaps, and one row a source. Blocking; the agent runs it in a thread.

Readings go through `park.store.readings`, which stores each once. A gap is stored before the readings that show it:
should the collector die between, it finds the hole again when it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import psycopg
from psycopg import errors

from collector.coverage import Gap
from collector.times import micros, moment
from park.errors import StoreError
from park.model import Park
from park.store.completeness import MeterMarkRow, SourceMarkRow, write_marks
from park.store.connection import connect, where
from park.store.dead_letters import DeadLetter, hurry, insert_dead_letters
from park.store.readings import ReadingBatch, ReadingWriter, WriteResult
from park.store.versions import store_park

_Result = TypeVar("_Result")

_LAST_READINGS = """
    select m.number - 1, r.source_time
    from unnest(%s::text[]) with ordinality as m (meter, number)
    cross join lateral (
        select source_time from reading
        where reading.meter = m.meter and source_time >= %s order by source_time desc limit 1
    ) r
"""
_OPEN_GAPS = """
    select id, source, meter, started_at, cause from gap where ended_at is null and source = any(%s) order by id
"""
# A gap without an id is stored already if the commit was reached and its answer was not.
_INSERT_GAPS = """
    with given as materialized (
        select * from unnest(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::text[])
            with ordinality as g (source, meter, started_at, ended_at, cause, place)
    ), added as (
        insert into gap (source, meter, started_at, ended_at, cause)
        select source, meter, started_at, ended_at, cause from given g
        where not exists (
            select from gap where gap.source = g.source and gap.meter is not distinct from g.meter
            and gap.started_at = g.started_at and gap.cause = g.cause)
        order by place
        returning id, source, meter, started_at, cause
    )
    select g.place - 1, min(t.id)
    from given g join (
        select id, source, meter, started_at, cause from added
        union all select id, source, meter, started_at, cause from gap
    ) t on t.source = g.source and t.meter is not distinct from g.meter
        and t.started_at = g.started_at and t.cause = g.cause
    group by g.place
"""
_UPDATE_GAPS = """
    update gap set started_at = g.started_at, ended_at = g.ended_at
    from unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[]) as g (id, started_at, ended_at)
    where gap.id = g.id and (gap.started_at, gap.ended_at) is distinct from (g.started_at, g.ended_at)
"""
_LATEST_LETTERS = "select received_at, reason from dead_letter order by id desc limit %s"
_DELETE_GAPS = "delete from gap where id = any(%s)"
_SOURCE = """
    insert into collector_source
        (source, protocol, state, since, last_source_time, last_received_at, readings, rejected, detail)
    values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
    on conflict (source) do update set
        protocol = excluded.protocol, state = excluded.state, since = excluded.since,
        last_source_time = coalesce(excluded.last_source_time, collector_source.last_source_time),
        last_received_at = coalesce(excluded.last_received_at, collector_source.last_received_at),
        readings = excluded.readings, rejected = excluded.rejected, detail = excluded.detail
"""


@dataclass(frozen=True)
class SourceRow:
    """A row of `collector_source`; counts are those of this collector process."""

    source: str
    protocol: str
    state: str
    since: datetime
    last_source_time: datetime | None
    last_received_at: datetime | None
    readings: int
    rejected: int
    detail: str


@dataclass(frozen=True)
class Earlier:
    """What an earlier collector left: latest source time by place [us], and gaps without an end."""

    last_us: dict[int, int]
    open_gaps: list[Gap]


class CollectorStore:
    """The collector's two connections: one for readings, one for gaps and states. Not for several threads at once.

    Parameters
    ----------
    dsn
        The database.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._writer = ReadingWriter(dsn)
        self._conn: psycopg.Connection | None = None
        self._unsure_of_letters = True      # a commit of letters may have been reached without its answer

    def earlier(self, meters: Sequence[str], sources: Sequence[str], since: datetime) -> Earlier:
        """Return what is stored of these meters from `since` on, and the open gaps of these sources.

        Raises
        ------
        StoreError
            If the database is away or fails; so do all methods but `close`.
        """
        def ask(conn: psycopg.Connection) -> Earlier:
            last = conn.execute(_LAST_READINGS, [list(meters), since]).fetchall()
            gaps = conn.execute(_OPEN_GAPS, [list(sources)]).fetchall()
            return Earlier(
                {int(place): micros(time) for place, time in last},
                [Gap(source, micros(started), None, cause, id=number, meter=meter)
                 for number, source, meter, started, cause in gaps],
            )
        return self._run(ask)

    def write(self, batch: ReadingBatch, gaps: Sequence[Gap]) -> WriteResult:
        """Store gaps, then readings. To be called again with the same after a failure."""
        self._save_gaps(gaps)
        return self._writer.write(batch) if len(batch) else WriteResult()

    def note(self, gaps: Sequence[Gap], sources: Iterable[SourceRow]) -> None:
        """Store gaps and the states of sources."""
        rows = [(r.source, r.protocol, r.state, r.since, r.last_source_time, r.last_received_at, r.readings,
                 r.rejected, r.detail) for r in sources]

        def save(conn: psycopg.Connection) -> None:
            with conn.cursor() as cursor:
                cursor.executemany(_SOURCE, rows)
        self._save_gaps(gaps)
        self._run(save)

    def mark(self, sources: Sequence[SourceMarkRow], meters: Sequence[MeterMarkRow]) -> None:
        """Store how complete sources and meters are."""
        self._run(lambda conn: write_marks(conn, sources, meters))

    def describe(self, park: Park) -> None:
        """Store the park's description, once: boards list its sources and meters by it before anything is computed."""
        self._run(lambda conn: store_park(conn, park))

    def keep(self, letters: Sequence[DeadLetter], most: int) -> None:
        """Store what is no reading, and forget the oldest beyond `most`. To be called again after a failure."""
        is_unsure, self._unsure_of_letters = self._unsure_of_letters, True

        def insert(conn: psycopg.Connection) -> None:
            hurry(conn)
            there = set(conn.execute(_LATEST_LETTERS, [len(letters)]).fetchall()) if is_unsure else set()
            missing = [letter for letter in letters if (letter.received_at, letter.reason) not in there]
            insert_dead_letters(conn, missing, most)
        self._run(insert)
        self._unsure_of_letters = False

    def close(self) -> None:
        """Let both connections go."""
        self._writer.close()
        self._drop()

    def _save_gaps(self, gaps: Sequence[Gap]) -> None:
        """Store gaps; they know their ids only once they are committed."""
        if gaps:
            for gap, number in self._run(lambda conn: _save_gaps(conn, gaps)):
                gap.id = number

    def _run(self, work: Callable[[psycopg.Connection], _Result]) -> _Result:
        """Do work in one transaction."""
        try:
            if self._conn is None or self._conn.closed:
                self._conn = connect(self._dsn, autocommit=True, application="symbiosis collector")
            with self._conn.transaction():
                return work(self._conn)
        except psycopg.Error as error:
            self._drop()
            reason = str(error).strip().splitlines() or [type(error).__name__]
            hint = " (hint: symbiosis db migrate)" if isinstance(error, errors.UndefinedTable) else ""
            raise StoreError(f"cannot use {where(self._dsn)}: {reason[0]}{hint}") from error

    def _drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with suppress(psycopg.Error):
                conn.close()


def _save_gaps(conn: psycopg.Connection, gaps: Sequence[Gap]) -> list[tuple[Gap, int]]:
    """Bring the rows of these gaps up to date; return the ids of those that are new."""
    unknown = [gap for gap in gaps if gap.id is None and not gap.withdrawn]
    new: list[tuple[Gap, int]] = []
    if unknown:
        rows = conn.execute(_INSERT_GAPS, [
            [gap.source for gap in unknown], [gap.meter for gap in unknown], *_times(unknown),
            [gap.cause for gap in unknown]]).fetchall()
        new = [(unknown[place], number) for place, number in rows]
    changed = [(gap, gap.id) for gap in gaps if gap.id is not None and not gap.withdrawn] + new
    if changed:
        conn.execute(_UPDATE_GAPS, [[number for _, number in changed], *_times([gap for gap, _ in changed])])
    withdrawn = [gap.id for gap in gaps if gap.id is not None and gap.withdrawn]
    if withdrawn:
        conn.execute(_DELETE_GAPS, [withdrawn])
    return new


def _times(gaps: Sequence[Gap]) -> tuple[list[datetime], list[datetime | None]]:
    """Return starts and ends."""
    return ([moment(gap.started_us) for gap in gaps],
            [None if gap.ended_us is None else moment(gap.ended_us) for gap in gaps])
