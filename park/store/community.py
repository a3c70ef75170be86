"""What the Community edition of TimescaleDB has besides hypertables: columnstore, continuous aggregates, policies.

`make` sets up what is missing, step by step. A setting or policy that is there already is an operator's and stays;
retention alone follows the table `retention` (park.store.retention).

The columnstore takes a chunk `COLUMNSTORE_AFTER` its end: rows that come later than that are stored and change what
they must, but cost more, since the packed rows of their meter and time are unpacked first. A week is longer than any
outage whose readings a collector has kept on disk.

The aggregates are refreshed up to a few buckets before now; what is younger the database computes when it is asked,
so they are never behind. Readings that come later than `Rollup.end` show after a refresh or two, within twice
`Rollup.every`: a run works in batches and may leave a bucket to the next. A finer step feeds the next coarser one.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import LiteralString

import psycopg
from psycopg import sql

from park.store import retention
from park.store.hypertables import TIME_TABLES, TimeTable

COLUMNSTORE_AFTER = "7 days"
COLUMNSTORE_NAMES_SINCE = (2, 20)       # before, the same things were called compression

_UNPACKING_LIMIT: LiteralString = "timescaledb.max_tuples_decompressed_per_dml_transaction"
_UNPACKING = """
    select d.datname, pg_has_role(d.datdba, 'USAGE'),
           exists (select from pg_db_role_setting s
                    where s.setdatabase = d.oid and (s.setrole = 0 or s.setrole = current_user::regrole)
                      and exists (select from unnest(s.setconfig) c where c like %s || '=%%'))
      from pg_database d where d.datname = current_database()
"""


@dataclass(frozen=True)
class Rollup:
    """One continuous aggregate of readings.

    Attributes
    ----------
    step
        As in the names of its views: ``reading_<step>``.
    end
        How far before now it is refreshed: a few buckets, and longer than readings usually are late.
    every
        How often.
    chunk
        Span of a chunk of its own table.
    """

    step: str
    end: str
    every: str
    chunk: str

    @property
    def name(self) -> str:
        """The continuous aggregate."""
        return f"reading_aggregate_{self.step}"


ROLLUPS = (
    Rollup("1min", end="10 minutes", every="5 minutes", chunk="7 days"),
    Rollup("15min", end="30 minutes", every="15 minutes", chunk="30 days"),
    Rollup("1h", end="2 hours", every="30 minutes", chunk="90 days"),
)


def make(conn: psycopg.Connection, version: tuple[int, int]) -> list[str]:
    """Set up what is missing, each step in a transaction of its own.

    Parameters
    ----------
    conn
        A connection in autocommit mode of the tables' owner.
    version
        Major and minor of the extension.

    Returns
    -------
    list of str
        What was done now, in words.
    """
    done = []
    for table in TIME_TABLES:
        if table.segment_by and not _has_columnstore(conn, table.name):
            with conn.transaction():
                _enable_columnstore(conn, table, version)
            done.append(f"columnstore of {table.name}, {COLUMNSTORE_AFTER} after a chunk's end")
    if not _has_aggregates(conn):
        with conn.transaction():
            _make_aggregates(conn)
        done.append("continuous aggregates of readings at " + ", ".join(rollup.step for rollup in ROLLUPS))
    done += _lift_unpacking_limit(conn)
    with conn.transaction():
        done += retention.enforce_by_policies(conn)
    return done


def _has_columnstore(conn: psycopg.Connection, table: str) -> bool:
    row = conn.execute(
        "select compression_enabled from timescaledb_information.hypertables"
        " where hypertable_schema = current_schema() and hypertable_name = %s", [table]
    ).fetchone()
    return bool(row and row[0])


def _enable_columnstore(conn: psycopg.Connection, table: TimeTable, version: tuple[int, int]) -> None:
    """Declare how rows are packed, and when."""
    names: LiteralString
    if version >= COLUMNSTORE_NAMES_SINCE:
        names = "timescaledb.enable_columnstore = true, timescaledb.segmentby = {}, timescaledb.orderby = {}"
    else:
        names = "timescaledb.compress = true, timescaledb.compress_segmentby = {}, timescaledb.compress_orderby = {}"
    settings = sql.SQL(names).format(sql.Literal(table.segment_by), sql.Literal(table.time))
    conn.execute(sql.SQL("alter table {} set ({})").format(sql.Identifier(table.name), settings))
    policy: LiteralString
    if version >= COLUMNSTORE_NAMES_SINCE:
        policy = "call add_columnstore_policy({}, after => {}::interval, if_not_exists => true)"
    else:
        policy = "select add_compression_policy({}, compress_after => {}::interval, if_not_exists => true)"
    conn.execute(sql.SQL(policy).format(sql.Literal(table.name), sql.Literal(COLUMNSTORE_AFTER)))


def _has_aggregates(conn: psycopg.Connection) -> bool:
    row = conn.execute(
        "select count(*) from timescaledb_information.continuous_aggregates"
        " where view_schema = current_schema() and view_name = any(%s)", [[rollup.name for rollup in ROLLUPS]]
    ).fetchone()
    return bool(row and row[0] == len(ROLLUPS))


def _make_aggregates(conn: psycopg.Connection) -> None:
    """Put continuous aggregates behind the views `reading_<step>`; what readings can no longer give stays."""
    text = resources.files("park.store").joinpath("aggregates.sql").read_text("utf-8")
    conn.execute(text.encode())
    for rollup in ROLLUPS:
        name = sql.Literal(rollup.name)
        chunk = sql.Literal(rollup.chunk)
        conn.execute(sql.SQL("select set_chunk_time_interval({}, {}::interval)").format(name, chunk))
        retention.set_refresh(conn, rollup.name, rollup.end, rollup.every)


def _lift_unpacking_limit(conn: psycopg.Connection) -> list[str]:
    """Let a revision unpack as many rows as it must.

    A late reading may revise a window that is packed: all rows of a window lie in as many packs as there are streams, a
    thousand rows each, more than the extension's limit of 100,000 for one transaction.
    """
    row = conn.execute(_UNPACKING, [_UNPACKING_LIMIT]).fetchone()
    if row is None or row[2]:
        return []
    database, owns, _ = row
    place = sql.SQL("database {}" if owns else "role current_user in database {}").format(sql.Identifier(database))
    conn.execute(sql.SQL("alter {} set {} = 0").format(place, sql.SQL(_UNPACKING_LIMIT)))
    return ["no limit to unpacking: late readings may revise what is in the columnstore"]
