"""Thirty days of Kalundborg in a database, made by PostgreSQL itself from a few windows of the real chain.

Each window repeats the newest simulated one with every value moved by a few per cent, as loads move; times, keys and
row counts are those of a real month at `window_s` 20. Of `flow` only the last day is made: no board reads more than its
newest window. Raw readings are not made: no board reads them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

DAYS = 30
WINDOW_S = 20
_COPIES = {
    # table: (columns that are moved, the other columns)
    "exchange_flow": (
        "sender receiver reconciled",
        "exchange unit sender_u95 receiver_u95 reconciled_u95 in_agreement",
    ),
    "node_balance": ("imbalance stored", "node quantity unit std reconciled_imbalance"),
    "meter_result": ("measured expected test_statistic", "meter unit suspect"),
    "flow": (
        "measured reconciled",
        "stream side quantity unit std adjustment status coverage best_meter best_measured",
    ),
}
_MOVED = "t.{0} * (1 + 0.05 * sin(s + t.phase))"


def extend(dsn: str, days: int = DAYS) -> None:
    """Extend what a filled database holds backwards to so many days, and bring its coarser data up to date."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set synchronous_commit = off")
        conn.execute("set maintenance_work_mem = '1GB'")
        conn.execute("alter table balance_window disable trigger rollup_window")
        first, last = conn.execute("select min(window_start), max(window_start) from balance_window").fetchone() or (
            0,
            0,
        )
        conn.execute(
            "create temp table wanted as select w, extract(epoch from w)::double precision / 13751 as s"
            " from generate_series(%s::timestamptz - %s * interval '1 day',"
            " %s::timestamptz - interval '1 second', %s * interval '1 second') w",
            [last, days, first, WINDOW_S],
        )
        for table, (moved, kept) in _COPIES.items():
            with _without_indexes(conn, table):
                _copy(conn, table, moved.split(), kept.split(), last)
        conn.execute(
            "insert into balance_window select w, w + interval '20 s', closed_by, readings, w + interval '19 s',"
            " w + interval '22 s', 0, park_version, global_test, degrees_of_freedom, max_relative_imbalance, taken_out"
            " from wanted cross join balance_window b where b.window_start = %s",
            [last],
        )
        conn.execute("analyze")
        conn.execute(
            "insert into rollup_pending select distinct u.s, date_bin(u.s * interval '1 second', w, '2000-01-01Z')"
            " from wanted cross join unnest(array[300, 3600]) as u(s) on conflict do nothing"
        )
        began = time.perf_counter()
        conn.execute("select rollup_advance()")
        print(f"coarser data of {days} days: {time.perf_counter() - began:.0f} s")
        conn.execute("alter table balance_window enable trigger rollup_window")
        conn.execute("vacuum analyze")


def _copy(conn: psycopg.Connection, table: str, moved: list[str], kept: list[str], last: object) -> None:
    """Copy the newest window's rows of a table to all wanted windows."""
    values = [_MOVED.format(column) for column in moved] + [f"t.{column}" for column in kept]
    since = "where w > %(last)s - interval '1 day'" if table == "flow" else ""
    done = conn.execute(
        f"insert into {table} (window_start, park_version, {', '.join(moved + kept)})"
        f" select w, t.park_version, {', '.join(values)}"
        f" from wanted cross join (select *, row_number() over () as phase from {table}"
        " where window_start = %(last)s) t"
        f" {since}".encode(),
        {"last": last},
    )
    print(f"{table}: {done.rowcount:,} rows")


@contextmanager
def _without_indexes(conn: psycopg.Connection, table: str) -> Iterator[None]:
    """Drop a table's key and indexes, and build them again at the end: that is several times faster."""
    keys = conn.execute(
        "select conname, pg_get_constraintdef(oid) from pg_constraint where conrelid = %s::regclass and contype = 'p'",
        [table],
    ).fetchall()
    for name, _ in keys:
        conn.execute(f"alter table {table} drop constraint {name}".encode())
    indexes = conn.execute("select indexname, indexdef from pg_indexes where tablename = %s", [table]).fetchall()
    for name, _ in indexes:
        conn.execute(f"drop index {name}".encode())
    yield
    for name, definition in keys:
        conn.execute(f"alter table {table} add constraint {name} {definition}".encode())
    for _, definition in indexes:
        conn.execute(definition.encode())
