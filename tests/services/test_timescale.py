"""TimescaleDB where it is found: what each edition makes of the tables, and how a plain database becomes one of it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from park.store import connect, migrate, status
from park.store.binaries import find_binaries
from park.store.community import _enable_columnstore
from park.store.editions import Edition, edition_of
from park.store.embedded import EmbeddedPostgres
from park.store.hypertables import TIME_TABLES
from park.store.readings import _CREATE_STAGING, _INSERT_CONFLICTS
from park.store.retention import set_retention
from park.store.schema import bundled_migrations
from symbiosis.database import backup
from symbiosis.holdings import status_lines, status_record
from tests.fixtures.timescale import EDITIONS
from tests.services.test_rollups import BEGAN, held_against_raw

HYPERTABLES = [table.name for table in TIME_TABLES]

MIGRATE = "import sys; from park.store import migrate; migrate(sys.argv[1])"

# readings of some meters, those of each fifth minute bad
FILL = """
    insert into reading select meter, at, at + interval '1 s', extract(epoch from at) / 7 %% 11,
                               case when extract(minute from at) %% 5 = 0 then 2147483648 else 0 end
      from unnest(%(meters)s::text[]) meter, generate_series(%(since)s::timestamptz, %(until)s, %(step)s::interval) at
     order by at
"""
RESULTS = """
    insert into meter_result (window_start, meter, unit, measured, park_version)
    select at, meter, 'K', 1, 1
      from unnest(%(meters)s::text[]) meter, generate_series(%(since)s::timestamptz, %(until)s, '10 min') at
"""


def fill(conn: psycopg.Connection, meters: str, days: float, since: datetime = BEGAN, step: str = "1 min") -> None:
    what = {"meters": list(meters), "since": since, "until": since + timedelta(days=days), "step": step}
    conn.execute(FILL, what)
    conn.execute(RESULTS, what)


def one(conn: psycopg.Connection, query: str) -> object:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def hypertables(conn: psycopg.Connection) -> set[str]:
    return {row[0] for row in conn.execute("select hypertable_name from timescaledb_information.hypertables"
                                           " where hypertable_schema = 'public'")}


# -- plain PostgreSQL and the Apache edition ---------------------------------------------------------------------------


@pytest.mark.parametrize("edition", EDITIONS, indirect=True)
def test_what_is_found_is_told(postgres_dsn: str, edition: str) -> None:
    with connect(postgres_dsn, autocommit=True) as conn:
        fill(conn, "ab", 0.5)
        conn.execute("select reading_rollup_mark(%s, %s)", [BEGAN, BEGAN + timedelta(days=0.5)])
        conn.execute("select pg_stat_force_next_flush()")
        conn.execute("analyze")
        set_retention(conn, "result", timedelta(days=90))
    found = status(postgres_dsn)
    lines = status_lines(found)
    record = status_record(found)
    reading = next(table for table in found.tables if table.name == "reading")
    assert reading.rows == pytest.approx(2 * 721, rel=0.01)
    assert (reading.oldest, reading.newest) == (BEGAN, BEGAN + timedelta(hours=12))
    assert 50 < reading.bytes_total / reading.rows < 1000
    told = next(line for line in lines if line.startswith("table reading:"))
    assert f"source times within the hours from {BEGAN:%Y-%m-%d %H}:00Z to {BEGAN:%Y-%m-%d} 13:00Z" in told
    assert "retention result: kept 90 days" in lines
    assert record["retention"]["result"] == {"keep_days": 90, "cut": None}      # type: ignore[index]
    if edition == "plain":
        assert "no TimescaleDB" in lines[0]
        assert (found.edition.kind, reading.chunks) == ("plain", None)
    else:
        assert "TimescaleDB 2.19.3, Apache edition" in lines[0]
        assert (found.edition.kind, reading.chunks, reading.packed, found.jobs) == ("apache", 1, None, ())


@pytest.mark.parametrize("edition", EDITIONS, indirect=True)
def test_time_tables_are_cheap_to_cut_or_to_search_by_time(postgres_dsn: str, edition: str) -> None:
    with connect(postgres_dsn) as conn:
        if edition == "plain":
            assert one(conn, "select amname from pg_class i join pg_am a on a.oid = i.relam"
                             " where i.relname = 'reading_source_time'") == "brin"
        else:
            assert hypertables(conn) == set(HYPERTABLES)


@pytest.fixture
def plain_with_data(empty_postgres_dsn: str) -> str:
    """A database on a server that has TimescaleDB, made before it had: plain tables with rows."""
    dsn = empty_postgres_dsn
    migrate(dsn, bundled_migrations())
    with connect(dsn, autocommit=True) as conn:
        assert edition_of(conn).kind == "plain"
        assert "TimescaleDB can be created here" in edition_of(conn).hint
        fill(conn, "abcde", 1.2)
        conn.execute("select reading_rollup_mark(%s, %s)", [BEGAN, BEGAN + timedelta(days=1.2)])
    return dsn


@pytest.mark.parametrize("edition", ["timescale"], indirect=True)
def test_a_plain_database_is_converted_with_its_rows(plain_with_data: str) -> None:
    with connect(plain_with_data, autocommit=True) as conn:
        before = conn.execute("select * from reading order by meter, source_time").fetchall()
        assert migrate(plain_with_data) == []
        assert hypertables(conn) == set(HYPERTABLES)
        assert conn.execute("select * from reading order by meter, source_time").fetchall() == before
        assert one(conn, "select count(*) from only reading") == 0
        assert one(conn, "select count(*) from show_chunks('reading')") == 2
        held_against_raw(conn)
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute("insert into reading values ('a', %s, now(), 1, 0)", [BEGAN])
        chunks = one(conn, "select count(*) from timescaledb_information.chunks")
        migrate(plain_with_data)
        assert one(conn, "select count(*) from timescaledb_information.chunks") == chunks


@pytest.mark.parametrize("edition", ["timescale"], indirect=True)
def test_a_conversion_that_is_killed_loses_nothing_and_goes_on(plain_with_data: str) -> None:
    with connect(plain_with_data, autocommit=True) as conn:
        n_readings = one(conn, "select count(*) from reading")
        with connect(plain_with_data) as holds_it_up:
            holds_it_up.execute("lock table meter_result in access share mode")     # so it stops after `reading`
            worker = subprocess.Popen([sys.executable, "-c", MIGRATE, plain_with_data])
            await_wait_for(conn, "meter_result")
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        assert one(conn, "select count(*) from reading") == n_readings
        migrate(plain_with_data)
        assert hypertables(conn) == set(HYPERTABLES)
        assert one(conn, "select count(*) from reading") == n_readings
        assert one(conn, "select count(*) from meter_result") == 5 * 173


def await_wait_for(conn: psycopg.Connection, table: str) -> None:
    """Return as soon as somebody waits for a table's lock."""
    deadline = time.monotonic() + 60
    query = "select count(*) from pg_locks where relation = %s::regclass and not granted"
    while conn.execute(query, [table]).fetchone() == (0,):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_role_that_may_not_create_it_keeps_plain_tables(timescale_server: EmbeddedPostgres) -> None:
    with connect(timescale_server.dsn, autocommit=True) as admin:
        admin.execute("drop database if exists modest")
        admin.execute("drop role if exists modest_owner")
        admin.execute("create role modest_owner login")
        admin.execute("create database modest")
    with connect(make_conninfo(timescale_server.dsn, dbname="modest"), autocommit=True) as admin:
        admin.execute("grant create on schema public to modest_owner")
    dsn = make_conninfo(timescale_server.dsn, dbname="modest", user="modest_owner")
    migrate(dsn)
    found = status(dsn)
    assert found.edition.kind == "plain"
    assert "hint: TimescaleDB can be created here: symbiosis db migrate, as a role that may" in status_lines(found)


@pytest.mark.parametrize("edition", ["timescale"], indirect=True)
def test_a_repeated_reading_is_looked_up_in_the_chunk_of_its_day(postgres_dsn: str) -> None:
    with connect(postgres_dsn, autocommit=True) as conn:
        for day in range(20):
            conn.execute("insert into reading values ('a', %s, now(), 1, 0)", [BEGAN + timedelta(days=day)])
        conn.execute(_CREATE_STAGING.encode())
        with conn.transaction():
            plan = conn.execute(f"explain {_INSERT_CONFLICTS}".encode(), [BEGAN, BEGAN + timedelta(hours=1)]).fetchall()
    chunks = {name for (line,) in plan for name in re.findall(r"_hyper_\d+_\d+_chunk", line)}
    assert len(chunks) == 1, plan


@pytest.mark.parametrize("edition", ["timescale"], indirect=True)
def test_a_backup_is_restored_between_the_extensions_calls(
    postgres_dsn: str, timescale_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    with connect(postgres_dsn, autocommit=True) as conn:
        fill(conn, "ab", 1.2)
    file = backup(postgres_dsn, tmp_path / "park.dump")
    with connect(timescale_server.dsn, autocommit=True) as admin:
        admin.execute("drop database if exists restored with (force)")
        admin.execute("create database restored")
    dsn = make_conninfo(timescale_server.dsn, dbname="restored")
    with connect(dsn, autocommit=True) as conn:
        conn.execute("create extension timescaledb")
        conn.execute("select timescaledb_pre_restore()")
    subprocess.run([find_binaries() / "pg_restore", "--dbname", dsn, file], check=True, capture_output=True)
    with connect(dsn, autocommit=True) as conn:
        conn.execute("select timescaledb_post_restore()")
        assert hypertables(conn) == set(HYPERTABLES)
        assert one(conn, "select count(*) from reading") == 2 * 1729
    assert migrate(dsn) == []


def test_hints_say_what_would_give_more() -> None:
    assert Edition("plain", None, None, is_loaded=False).hint == ""
    assert "not in its shared_preload_libraries" in Edition("plain", None, "2.19.3", is_loaded=False).hint
    assert "used from 2.13 on" in Edition("apache", "2.11.0", "2.11.0", is_loaded=True).hint
    assert "ALTER EXTENSION timescaledb UPDATE" in Edition("apache", "2.19.3", "2.21.0", is_loaded=True).hint
    assert Edition("community", "2.21.0", "2.21.0", is_loaded=True).hint == ""


# -- the Community edition ---------------------------------------------------------------------------------------------

LATE = BEGAN + timedelta(hours=23.5)        # an hour from here lies on two days


@pytest.fixture(scope="module")
def community(community_server: str) -> str:
    """A database that was made with plain tables, has rows, and then became one of the Community edition."""
    migrate(community_server, bundled_migrations())
    with connect(community_server, autocommit=True) as conn:
        fill(conn, "abcd", 1 / 24, LATE, "10 s")
        conn.execute("select reading_rollup_mark(%s, %s)", [LATE, LATE + timedelta(hours=1)])
        assert one(conn, "select reading_rollup_advance(now(), 100)") == 61 + 5 + 2
    migrate(community_server)
    return community_server


def refresh(conn: psycopg.Connection) -> None:
    """Refresh everything there is, the finest first."""
    for step in ("1min", "15min", "1h"):
        conn.execute(f"call refresh_continuous_aggregate('reading_aggregate_{step}', null, null)".encode())


def run_refresh_jobs(conn: psycopg.Connection) -> None:
    """Run the refresh jobs as the database's scheduler would, the finest first."""
    jobs = conn.execute(
        "select job_id from timescaledb_information.jobs where proc_name = 'policy_refresh_continuous_aggregate'"
        " order by (config ->> 'mat_hypertable_id')::integer"
    ).fetchall()
    for (job,) in jobs:
        conn.execute(f"call run_job({job})".encode())


def test_community_has_hypertables_columnstore_aggregates_and_policies(community: str) -> None:
    found = status(community)
    assert found.edition.kind == "community"
    packed = {table.name for table in TIME_TABLES if table.segment_by}
    assert {job.table for job in found.jobs if job.does == "policy_compression"} == packed
    aggregates = {f"reading_aggregate_{step}" for step in ("1min", "15min", "1h")}
    assert {job.table for job in found.jobs if job.does == "policy_refresh_continuous_aggregate"} == aggregates
    assert not [job for job in found.jobs if job.does == "policy_retention"]        # nothing is deleted unasked
    with connect(community, autocommit=True) as conn:
        assert hypertables(conn) == set(HYPERTABLES)


def test_community_says_the_same_of_readings_as_the_tables_did(community: str) -> None:
    with connect(community, autocommit=True) as conn:
        n_buckets = held_against_raw(conn)          # nothing is refreshed yet: computed when asked
        assert one(conn, "select count(*) from reading_rollup") == 0
        refresh(conn)
        assert held_against_raw(conn) == n_buckets
        total = one(conn, "select sum(readings) from reading_aggregate_1h where bucket < '2026-03-02 01:00Z'")
        assert total == 4 * 361


def test_community_late_readings_reach_the_aggregates_with_the_next_refresh(community: str) -> None:
    with connect(community, autocommit=True) as conn:
        refresh(conn)
        fill(conn, "l", 1 / 144, LATE + timedelta(seconds=5))
        before = one(conn, "select coalesce(sum(readings), 0) from reading_1h where meter = 'l'")
        run_refresh_jobs(conn)
        conn.execute("select reading_rollup_mark(%s, %s)", [LATE, LATE + timedelta(hours=1)])
        assert one(conn, "select reading_rollup_advance(now())") == 0       # not twice
        assert before == 0      # below the watermark a late reading waits for the refresh
        assert one(conn, "select sum(readings) from reading_1min where meter = 'l'") == 11
        refresh(conn)           # a run of a job may leave the last bucket of a coarser step to the next
        held_against_raw(conn)


def test_community_packs_chunks_and_revises_what_is_packed(community: str) -> None:
    with connect(community, autocommit=True) as conn:
        n_readings = one(conn, "select count(*) from reading")
        digest = "select md5(string_agg(r::text, ',' order by meter, source_time)) from reading r"
        same = one(conn, digest)
        for table in ("reading", "meter_result"):
            for (chunk,) in conn.execute("select show_chunks(%s)::text", [table]).fetchall():
                conn.execute(f"call convert_to_columnstore('{chunk}')".encode())
        assert one(conn, digest) == same
        # a reading that comes late into a packed day, one that is there already, and a window computed anew
        conn.execute("insert into reading values ('a', %s, now(), 5, 0) on conflict do nothing",
                     [LATE + timedelta(seconds=5)])
        conn.execute("insert into reading values ('a', %s, now(), 999, 0) on conflict do nothing", [LATE])
        assert one(conn, "select count(*) from reading") == n_readings + 1      # type: ignore[operator]
        conn.execute("delete from meter_result where window_start = %s", [LATE])
        assert one(conn, f"select count(*) from meter_result where window_start = '{LATE}'") == 0
        refresh(conn)
        held_against_raw(conn)
    found = {table.name: table for table in status(community).tables}
    assert found["reading"].packed is not None
    assert found["reading"].packed.bytes_after < found["reading"].packed.bytes_before / 2
    assert found["reading"].rows == pytest.approx(n_readings, rel=0.05)
    assert any("in the columnstore, at" in line for line in status_lines(status(community)))


def test_community_keeps_what_an_operator_set(community: str) -> None:
    query = "select config ->> 'compress_after' from timescaledb_information.jobs where hypertable_name = 'flow'"
    with connect(community, autocommit=True) as conn:
        conn.execute("call remove_columnstore_policy('flow')")
        conn.execute("call add_columnstore_policy('flow', after => interval '3 days')")
    migrate(community)
    with connect(community, autocommit=True) as conn:
        assert one(conn, query) == "3 days"


def test_community_retention_is_a_policy_and_spares_the_aggregates(community: str) -> None:
    with connect(community, autocommit=True) as conn:
        refresh(conn)
        hours = conn.execute("select * from reading_1h order by meter, bucket").fetchall()
        set_retention(conn, "reading", timedelta(days=30))
        set_retention(conn, "result", timedelta(days=400))
    policies = {(job.table, job.does) for job in status(community).jobs}
    assert {(name, "policy_retention") for name in HYPERTABLES} <= policies
    with connect(community, autocommit=True) as conn:
        for (job,) in conn.execute(
            "select job_id from timescaledb_information.jobs where proc_name = 'policy_retention'").fetchall():
            conn.execute(f"call run_job({job})".encode())
        assert one(conn, "select count(*) from reading") == 0       # all of them are older than a month
        assert one(conn, "select count(*) from meter_result") != 0
        run_refresh_jobs(conn)
        assert conn.execute("select * from reading_1h order by meter, bucket").fetchall() == hours
        set_retention(conn, "reading", None)
        set_retention(conn, "result", None)
    assert "policy_retention" not in {job.does for job in status(community).jobs}


def test_community_before_2_20_is_set_up_by_its_older_names(community: str) -> None:
    table = next(table for table in TIME_TABLES if table.name == "flow")
    query = """
        select j.config ->> 'compress_after' || ' ' || s.segmentby
          from timescaledb_information.jobs j join timescaledb_information.hypertable_columnstore_settings s
            on s.hypertable = 'flow'::regclass
         where j.hypertable_name = 'flow' and j.proc_name = 'policy_compression'"""
    with connect(community, autocommit=True) as conn:
        conn.execute("call remove_columnstore_policy('flow')")
        conn.execute("alter table flow set (timescaledb.enable_columnstore = false)")
        _enable_columnstore(conn, table, (2, 19))
        assert one(conn, query) == "7 days stream,side,quantity"
