"""What a database holds, and what that costs: edition, migrations, each table's rows, bytes and chunks, its jobs.

`status` is the one way in; it counts nothing row by row, so rows are what the server's statistics say. What is shown of
it is in `symbiosis.database`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from park.store import hypertables, retention, schema
from park.store.connection import connect
from park.store.editions import Edition, edition_of

_PLAIN_TABLES = """
    select c.relname, greatest(s.n_live_tup, 0), pg_total_relation_size(c.oid), pg_indexes_size(c.oid)
      from pg_class c join pg_stat_user_tables s on s.relid = c.oid
     where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r'
     order by c.relname
"""
# A chunk in the columnstore is a pair of tables; the catalogue says what was in it before, and the sizes on both sides.
_HYPERTABLES = """
    select coalesce(a.view_name, h.table_name), count(c.id),
           coalesce(sum(s.n_live_tup), 0)::bigint + coalesce(sum(z.numrows_pre_compression), 0)::bigint,
           coalesce(sum(pg_total_relation_size(s.relid)), 0)::bigint + coalesce(sum(z.after), 0)::bigint,
           coalesce(sum(pg_indexes_size(s.relid)), 0)::bigint,
           count(z.chunk_id), coalesce(sum(z.before), 0)::bigint, coalesce(sum(z.after), 0)::bigint
      from _timescaledb_catalog.hypertable h
      left join timescaledb_information.continuous_aggregates a
        on a.materialization_hypertable_schema = h.schema_name and a.materialization_hypertable_name = h.table_name
      left join _timescaledb_catalog.chunk c on c.hypertable_id = h.id and not c.dropped
      left join pg_stat_all_tables s on s.schemaname = c.schema_name and s.relname = c.table_name
      left join (select chunk_id, numrows_pre_compression,
                        uncompressed_heap_size + uncompressed_toast_size + uncompressed_index_size as before,
                        compressed_heap_size + compressed_toast_size + compressed_index_size as after
                   from _timescaledb_catalog.compression_chunk_size) z on z.chunk_id = c.id
     where coalesce(a.view_schema, h.schema_name) = current_schema()
     group by 1
"""
# -infinity, which Python cannot name: never
_JOBS = """
    select j.job_id, j.proc_name, coalesce(a.view_name, h.table_name), j.schedule_interval::text, j.scheduled,
           s.last_run_status, coalesce(s.total_failures, 0)::bigint, nullif(s.last_successful_finish, '-infinity'),
           nullif(s.next_start, '-infinity')
      from timescaledb_information.jobs j
      join _timescaledb_catalog.hypertable h
        on h.id = coalesce(j.config ->> 'mat_hypertable_id', j.config ->> 'hypertable_id')::integer
      left join timescaledb_information.continuous_aggregates a
        on a.materialization_hypertable_schema = h.schema_name and a.materialization_hypertable_name = h.table_name
      left join timescaledb_information.job_stats s on s.job_id = j.job_id
     where coalesce(a.view_schema, h.schema_name) = current_schema()
     order by j.job_id
"""


@dataclass(frozen=True)
class Packed:
    """Chunks in the columnstore: how many, and their bytes before and after."""

    chunks: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class TableCost:
    """One table, or one continuous aggregate.

    Attributes
    ----------
    name
        The table.
    rows
        As the server's statistics say.
    bytes_total, bytes_index
        On disk, with indexes; the indexes alone.
    oldest, newest
        First and last time of its rows, of readings the first and last hour (its start) that they are in; None where
        it has no time or no rows.
    chunks
        How many it consists of; None where it is no hypertable.
    packed
        Those in the columnstore; None where there are none.
    """

    name: str
    rows: int
    bytes_total: int
    bytes_index: int
    oldest: datetime | None = None
    newest: datetime | None = None
    chunks: int | None = None
    packed: Packed | None = None


@dataclass(frozen=True)
class Job:
    """One job of the database: what it does to which table, and how its runs went."""

    id: int
    does: str
    table: str
    every: str
    scheduled: bool
    last_status: str | None
    failures: int
    last_success: datetime | None
    next_start: datetime | None

    @property
    def is_well(self) -> bool:
        """Whether it is switched on, and did not fail the last time."""
        return self.scheduled and self.last_status != "Failed"


@dataclass(frozen=True)
class StoreStatus:
    """What a database holds."""

    server_version: str
    edition: Edition
    size_bytes: int
    applied: tuple[schema.AppliedMigration, ...]
    pending: tuple[str, ...]
    tables: tuple[TableCost, ...]
    jobs: tuple[Job, ...]
    retention: Mapping[str, retention.Kept]

    @property
    def row_estimates(self) -> dict[str, int]:
        """Rows by table, as the server's statistics say."""
        return {table.name: table.rows for table in self.tables}


def status(dsn: str) -> StoreStatus:
    """Return what the database holds: versions, edition, size, migrations, and what each table costs.

    Raises
    ------
    StoreError
        If the database cannot be reached.
    """
    with connect(dsn, autocommit=True) as conn:
        applied = schema.applied(conn)
        numbers = {row.number for row in applied}
        edition = edition_of(conn)
        size = conn.execute("select pg_database_size(current_database())").fetchone()
        return StoreStatus(
            server_version=conn.info.parameter_status("server_version") or "",
            edition=edition,
            size_bytes=size[0] if size else 0,
            applied=tuple(applied),
            pending=tuple(str(m) for m in schema.bundled_migrations() if m.number not in numbers),
            tables=tuple(_tables(conn, edition)),
            jobs=tuple(Job(*row) for row in conn.execute(_JOBS)) if edition.version else (),
            retention=retention.retention_of(conn) if _exists(conn, "retention") else {},
        )


def _tables(conn: psycopg.Connection, edition: Edition) -> list[TableCost]:
    """Return what each table costs, by name."""
    found = {row[0]: TableCost(*row) for row in conn.execute(_PLAIN_TABLES)}
    hyper = conn.execute(_HYPERTABLES) if edition.version else ()
    for name, chunks, rows, total, index, n_packed, before, after in hyper:
        packed = Packed(n_packed, before, after) if n_packed else None
        found[name] = TableCost(name, rows, total, index, chunks=chunks, packed=packed)
    return [_with_span(conn, found[name]) for name in sorted(found)]


def _with_span(conn: psycopg.Connection, cost: TableCost) -> TableCost:
    """Return a table's cost with its first and last time, which indexes give."""
    time = next((table.time for table in hypertables.TIME_TABLES if table.name == cost.name), None)
    if time is None:
        return cost
    place, column = cost.name, time
    if cost.name == "reading":      # no index gives its times; the hours do
        place, column = "reading_1h", "bucket"
        if not _exists(conn, place):
            return cost
    query = sql.SQL("select min({0}), max({0}) from {1}").format(sql.Identifier(column), sql.Identifier(place))
    row = conn.execute(query).fetchone()
    oldest, newest = row if row else (None, None)
    return TableCost(
        cost.name, cost.rows, cost.bytes_total, cost.bytes_index, oldest, newest, cost.chunks, cost.packed)


def _exists(conn: psycopg.Connection, relation: str) -> bool:
    row = conn.execute("select to_regclass(%s) is not null", [relation]).fetchone()
    return bool(row and row[0])
