"""Raw readings into the store and out of it, in columns.

`ReadingWriter.write` is the one way in: a batch goes in one transaction, with the arrivals that announce it.

    batch ── check ── COPY into reading ──────────────────────── all new ──┐
               │        │ one of the keys is stored already                ├── announce, commit
               │        └─ COPY into staging, INSERT .. ON CONFLICT ───────┘
               └ rejected       the same reading again: nothing; another value or status: reading_conflict

`read_window` is the way out. What came is told in `park.store.arrivals`, what a status means in `park.quality`;
whether a reading is used is decided in processing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import errors

from park.errors import StoreError
from park.store.arrivals import Added, announce, instant_at
from park.store.connection import connect, where
from park.store.copy_format import READING_COLUMNS, decode_window, encode_readings

_FIRST_US = -62_135_596_800_000_000     # 0001-01-01: what Python can name; PostgreSQL holds a little more
_LAST_US = 253_402_300_799_999_999      # 9999-12-31T23:59:59.999999
_CHUNK_BYTES = 1 << 20
_ROW_ERRORS = (errors.DataError, errors.IntegrityError, errors.ProgramLimitExceeded)

_CREATE_STAGING = """
    create temp table if not exists reading_staging (
        meter text, source_time timestamptz, received_at timestamptz, status bigint, value double precision,
        ordinal integer
    ) on commit delete rows
"""
_INSERT_STAGED = f"""
    with inserted as (
        insert into reading ({READING_COLUMNS})
        select distinct on (meter, source_time) {READING_COLUMNS}
        from reading_staging order by meter, source_time, ordinal
        on conflict do nothing
        returning source_time, received_at
    )
    select (extract(epoch from source_time) * 1000000)::bigint, count(*),
           (extract(epoch from max(received_at)) * 1000000)::bigint
    from inserted group by source_time
"""
# OFFSET 0 keeps the planner from joining a small batch with the whole table: one look-up by key for each row. The
# batch's span of time keeps each look-up out of the chunks of other days: 0.2 s and not 9 for 5,000 rows and 400 chunks
_INSERT_CONFLICTS = """
    with differing as (
        select s.*, r.value as stored_value, r.status as stored_status
        from reading_staging s cross join lateral (
            select value, status from reading
            where reading.meter = s.meter and reading.source_time = s.source_time
              and reading.source_time between %s and %s offset 0
        ) r
        where s.value is distinct from r.value or s.status <> r.status
    ), kept as (
        insert into reading_conflict (meter, source_time, received_at, value, status, stored_value, stored_status)
        select meter, source_time, received_at, value, status, stored_value, stored_status
        from differing order by meter, source_time, ordinal
        on conflict do nothing
    )
    select count(*) from differing
"""
_READ_WINDOW = """
    copy (
        select (m.number - 1)::integer, r.source_time, r.received_at, r.status, coalesce(r.value, 'NaN')
        from unnest(%s::text[]) with ordinality as m (meter, number)
        join reading r on r.meter = m.meter
        where r.source_time >= %s and r.source_time < %s
        order by m.number, r.source_time
    ) to stdout (format binary)
"""


@dataclass(frozen=True)
class ReadingBatch:
    """Readings in columns, each array of shape (n_rows,).

    Attributes
    ----------
    names
        Meter ids, in any order.
    meter
        Index into `names` [1].
    source_us, received_us
        Source time and arrival [us since 1970-01-01 UTC].
    value
        Value [SI]; NaN where no number came.
    status
        OPC UA StatusCode [1].
    """

    names: Sequence[str]
    meter: npt.NDArray[np.int64]
    source_us: npt.NDArray[np.int64]
    received_us: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    status: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.meter)

    def take(self, rows: npt.NDArray[np.intp]) -> ReadingBatch:
        """Return the rows with these numbers."""
        return ReadingBatch(
            self.names,
            self.meter[rows],
            self.source_us[rows],
            self.received_us[rows],
            self.value[rows],
            self.status[rows],
        )

    def compact(self) -> ReadingBatch:
        """Return the same rows with the names that they use alone, sorted."""
        used, meter = np.unique(self.meter, return_inverse=True)
        names = [self.names[place] for place in used]
        order = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names), dtype=np.int64)
        rank[order] = np.arange(len(names))
        return replace(self, names=[names[place] for place in order], meter=rank[meter])


def reading_batch(
    meters: Sequence[str],
    source_us: npt.ArrayLike,
    received_us: npt.ArrayLike,
    value: npt.ArrayLike,
    status: npt.ArrayLike = 0,
) -> ReadingBatch:
    """Return a batch of rows whose meters are given by name.

    Parameters
    ----------
    meters
        The meter of each row: n_rows names.
    source_us, received_us, value, status
        As in `ReadingBatch`, shape (n_rows,); one number stands for all rows.

    Raises
    ------
    ValueError
        If the columns have different lengths (NumPy's).
    """
    number: dict[str, int] = {}
    meter = np.array([number.setdefault(name, len(number)) for name in meters], dtype=np.int64)
    n_rows = meter.shape
    return ReadingBatch(
        list(number),
        meter,
        np.broadcast_to(np.asarray(source_us, dtype=np.int64), n_rows),
        np.broadcast_to(np.asarray(received_us, dtype=np.int64), n_rows),
        np.broadcast_to(np.asarray(value, dtype=np.float64), n_rows),
        np.broadcast_to(np.asarray(status, dtype=np.int64), n_rows),
    )


class RejectedReading(NamedTuple):
    """A row that the store cannot hold: its number in the batch, and why."""

    row: int
    reason: str


class WriteResult(NamedTuple):
    """What became of a batch: new + repeated + conflicting + len(rejected) is its length."""

    new: int = 0
    repeated: int = 0
    conflicting: int = 0
    rejected: tuple[RejectedReading, ...] = ()


class ReadingWriter:
    """Writes batches of readings over a connection of its own, which it opens when needed.

    Every reading is stored once, under its meter and source time; the first write stays. Writing a batch again
    changes nothing, so a caller that cannot know whether a commit was reached writes again. Not for several
    threads at once.

    Parameters
    ----------
    dsn
        The database.

    Examples
    --------
    >>> with ReadingWriter("postgresql:///park") as writer:                     # doctest: +SKIP
    ...     writer.write(reading_batch(["power.FT101"], 0, 0, 1.5)).new
    1
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._conn: psycopg.Connection | None = None
        self._expect_new = True     # a repeated reading seldom comes alone: after one, the merging path is tried first

    def write(self, batch: ReadingBatch) -> WriteResult:
        """Write a batch in one transaction: all rows that the store can hold, or none.

        Parameters
        ----------
        batch
            The rows. Of two with the same key the first counts as written before the second.

        Returns
        -------
        WriteResult
            How many rows were new, repeated, or in conflict with a stored one; and which were rejected.

        Raises
        ------
        StoreError
            If the database is away or fails. The next call connects anew; write the same batch again.
        """
        try:
            return self._write(batch)
        except psycopg.Error as error:
            self.close()
            reason = str(error).strip().splitlines() or [type(error).__name__]
            hint = " (hint: symbiosis db migrate)" if isinstance(error, errors.UndefinedTable) else ""
            raise StoreError(f"cannot write readings to {where(self._dsn)}: {reason[0]}{hint}") from error

    def close(self) -> None:
        """Let the connection go; the next write opens another."""
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, batch: ReadingBatch) -> WriteResult:
        conn = self._connection()
        refused = _rows_to_refuse(batch)
        good = np.delete(np.arange(len(batch)), [row for row, _reason in refused])
        with conn.transaction():
            work = _Work(conn)
            if len(good) and not (self._expect_new and work.copy_new(batch.take(good) if refused else batch)):
                work.merge(batch, good)
            announce(conn, work.added)
        new = sum(int(added.rows.sum()) for added in work.added)
        rejected = tuple(sorted(refused + work.rejected))
        repeated = len(batch) - len(rejected) - new - work.conflicting
        self._expect_new = repeated == 0 and work.conflicting == 0
        return WriteResult(new, repeated, work.conflicting, rejected)

    def _connection(self) -> psycopg.Connection:
        """Return the connection, opened if need be."""
        if self._conn is None or self._conn.closed:
            self._conn = connect(self._dsn, autocommit=True, application="symbiosis readings")
            self._conn.execute(_CREATE_STAGING)
        return self._conn


class _Work:
    """The statements of one transaction, and what they have done so far."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn
        self.added: list[Added] = []
        self.conflicting = 0
        self.rejected: list[RejectedReading] = []
        self._staging_used = False

    def copy_new(self, batch: ReadingBatch) -> bool:
        """COPY rows straight into the table; return False, with nothing done, if it refuses one of them.

        In the order of the key: rows that go to the same page of its index come one after the other.
        """
        batch = batch.compact()
        batch = batch.take(np.lexsort((batch.source_us, batch.meter)))
        with suppress(*_ROW_ERRORS, errors.DeadlockDetected), self._conn.transaction():
            self._copy(f"reading ({READING_COLUMNS})", batch)
            self.added.append(Added(batch.source_us, np.ones(len(batch), np.int64), batch.received_us))
            return True
        return False

    def merge(self, batch: ReadingBatch, rows: npt.NDArray[np.intp]) -> None:
        """Store the new ones of the rows; where the server refuses one, halve until it stands alone."""
        try:
            self._merge(batch.take(rows))
        except _ROW_ERRORS as error:
            if len(rows) == 1:
                reason = (error.diag.message_primary or str(error)).strip()
                self.rejected.append(RejectedReading(int(rows[0]), reason))
                return
            middle = len(rows) // 2
            self.merge(batch, rows[:middle])
            self.merge(batch, rows[middle:])

    def _merge(self, batch: ReadingBatch) -> None:
        """Store the new ones of the rows, and keep apart those that contradict stored ones."""
        if self._staging_used:      # it empties itself at the commit alone
            self._conn.execute("truncate reading_staging")
        with self._conn.transaction():
            self._copy(f"reading_staging ({READING_COLUMNS}, ordinal)", batch.compact(), numbered=True)
            rows = self._conn.execute(_INSERT_STAGED.encode()).fetchall()
            added = np.array(rows, dtype=np.int64).reshape(-1, 3)
            conflicting = 0
            if added[:, 1].sum() < len(batch):
                span = [instant_at(int(batch.source_us.min())), instant_at(int(batch.source_us.max()))]
                counted = self._conn.execute(_INSERT_CONFLICTS, span).fetchone()
                conflicting = counted[0] if counted else 0
        self._staging_used = True
        self.added.append(Added(added[:, 0], added[:, 1], added[:, 2]))
        self.conflicting += conflicting

    def _copy(self, target: str, batch: ReadingBatch, *, numbered: bool = False) -> None:
        """COPY the rows into a table."""
        data = encode_readings(
            batch.names, batch.meter, batch.source_us, batch.received_us, batch.status, batch.value, numbered=numbered
        )
        statement = f"copy {target} from stdin (format binary)"
        with self._conn.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for start in range(0, len(data), _CHUNK_BYTES):
                copy.write(data[start : start + _CHUNK_BYTES])


def read_window(conn: psycopg.Connection, meters: Sequence[str], start_us: int, end_us: int) -> ReadingBatch:
    """Return the readings of some meters in a half-open interval of source time.

    Parameters
    ----------
    conn
        A connection.
    meters
        Meter ids; the result's `names`.
    start_us, end_us
        The interval [us since 1970-01-01 UTC].

    Returns
    -------
    ReadingBatch
        By meter in the order given, then by source time.
    """
    parameters = [list(meters), instant_at(start_us), instant_at(end_us)]
    with conn.cursor() as cursor, cursor.copy(_READ_WINDOW, parameters) as copy:
        rows = decode_window(b"".join(bytes(piece) for piece in copy))
    return ReadingBatch(
        list(meters), rows["meter"], rows["source_us"], rows["received_us"], rows["value"], rows["status"]
    )


def _rows_to_refuse(batch: ReadingBatch) -> list[RejectedReading]:
    """Return the rows that the table's own checks would refuse, found at once rather than by halving."""
    nameless = np.array([not name for name in batch.names], dtype=bool)
    has_meter = (batch.meter >= 0) & (batch.meter < len(batch.names))
    is_nameless = np.zeros(len(batch), dtype=bool)
    is_nameless[has_meter] = nameless[batch.meter[has_meter]]
    limits = "{} is not in the years 1 to 9999 [us since 1970]"
    faults = (
        (~has_meter, batch.meter, "meter index {} is not one of the batch's names"),
        (is_nameless, batch.meter, "meter has no name"),
        (_outside(batch.source_us, _FIRST_US, _LAST_US), batch.source_us, f"source_time {limits}"),
        (_outside(batch.received_us, _FIRST_US, _LAST_US), batch.received_us, f"received_at {limits}"),
        (np.isinf(batch.value), batch.value, "value {} is not finite"),
        (_outside(batch.status, 0, 0xFFFFFFFF), batch.status, "status {} is not an unsigned 32-bit number"),
    )
    reasons: dict[int, str] = {}
    for wrong, column, reason in faults:
        for row in np.flatnonzero(wrong):
            reasons.setdefault(int(row), reason.format(column[row]))
    return [RejectedReading(row, reason) for row, reason in sorted(reasons.items())]


def _outside(values: npt.NDArray[np.int64], low: int, high: int) -> npt.NDArray[np.bool_]:
    """Whether each value is below `low` or above `high`."""
    return (values < low) | (values > high)
