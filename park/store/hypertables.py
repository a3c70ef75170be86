"""Tables of times as hypertables, which both editions of TimescaleDB have: `make` turns them, with the rows they hold.

A chunk is a table of its own for a span of time: old ones are dropped whole, queries of a range open only theirs, and
the index that new rows go into stays small. Spans are in UTC. Why these:

- `reading`: a day. 40 readings/s (Kalundborg) make 0.4 GB a day, 1,000/s 11 GB; the index of the day that is being
  written, a third of it, should fit into memory. Shorter ones would make thousands of chunks in a few years, and each
  costs planning time.
- results: a week. A window a minute makes 10,080 windows, so a chunk holds thousands of rows of each stream or meter,
  which the columnstore packs by the thousand.
- `balance_window`: one row a window, so a quarter of a year still is small; every view asks for its newest row.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import psycopg
from psycopg import sql

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TimeTable:
    """A table whose rows have a time.

    Attributes
    ----------
    name, time
        The table and its time column.
    chunk
        Span of a chunk, as PostgreSQL reads an interval.
    segment_by
        Columns whose rows lie together in the columnstore; empty: rows stay rows.
    """

    name: str
    time: str
    chunk: str
    segment_by: str = ""


TIME_TABLES = (
    TimeTable("reading", "source_time", "1 day", "meter"),
    TimeTable("balance_window", "window_start", "90 days"),
    TimeTable("flow", "window_start", "7 days", "stream, side, quantity"),
    TimeTable("node_balance", "window_start", "7 days", "node, quantity"),
    TimeTable("meter_result", "window_start", "7 days", "meter"),
    TimeTable("exchange_flow", "window_start", "7 days", "exchange"),
)

_IS_HYPERTABLE = """
    select exists (select from timescaledb_information.hypertables
                    where hypertable_schema = current_schema() and hypertable_name = %s)
"""


def make(conn: psycopg.Connection) -> list[str]:
    """Turn the tables that are not hypertables yet into ones, each with its rows in one transaction.

    Returns
    -------
    list of str
        What was done now, in words.
    """
    return [_turn(conn, table) for table in TIME_TABLES if not is_hypertable(conn, table.name)]


def is_hypertable(conn: psycopg.Connection, name: str) -> bool:
    """Whether a table of this schema is a hypertable."""
    row = conn.execute(_IS_HYPERTABLE, [name]).fetchone()
    return bool(row and row[0])


def _turn(conn: psycopg.Connection, table: TimeTable) -> str:
    """Turn one table; nobody reads or writes it meanwhile."""
    estimate = conn.execute("select reltuples::bigint from pg_class where oid = %s::regclass", [table.name]).fetchone()
    rows = max(0, estimate[0]) if estimate else 0
    if rows > 1_000_000:        # minutes, in which collectors wait: the log says what for
        log.info("table %s becomes a hypertable; moving about %d rows", table.name, rows)
    statement = sql.SQL(
        "select create_hypertable({}, by_range({}, {}::interval), create_default_indexes => false,"
        " if_not_exists => true, migrate_data => true)"
    ).format(sql.Literal(table.name), sql.Literal(table.time), sql.Literal(table.chunk))
    with conn.transaction():
        conn.execute(statement)
    return f"hypertable {table.name}, chunks of {table.chunk}"
