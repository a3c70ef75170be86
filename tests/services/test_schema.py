"""Migrations on a real server."""

from __future__ import annotations

import threading

import psycopg
import pytest

from park.errors import StoreError
from park.store import connect, migrate, status
from park.store.schema import Migration, bundled_migrations
from tests.fixtures.timescale import every_edition

edition = every_edition     # plain PostgreSQL and TimescaleDB

FIRST = Migration(1, "first", "create table a (x int); create table b (y int)")
SECOND = Migration(2, "second", "alter table a add z int")


def test_migrations_are_numbered_without_holes() -> None:
    assert [m.number for m in bundled_migrations()] == list(range(1, len(bundled_migrations()) + 1))


def test_each_migration_runs_once(empty_postgres_dsn: str) -> None:
    assert migrate(empty_postgres_dsn, [FIRST]) == ["0001_first"]
    assert migrate(empty_postgres_dsn, [FIRST, SECOND]) == ["0002_second"]
    assert migrate(empty_postgres_dsn, [FIRST, SECOND]) == []


def test_services_that_start_together_do_not_meet(empty_postgres_dsn: str) -> None:
    done: list[list[str]] = []
    threads = [threading.Thread(target=lambda: done.append(migrate(empty_postgres_dsn))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(names) for names in done) == [0, 0, 0, len(bundled_migrations())]


def test_failed_migration_leaves_no_trace(empty_postgres_dsn: str) -> None:
    broken = Migration(2, "broken", "create table c (x int); create table a (x int)")
    with pytest.raises(StoreError, match='migration 0002_broken failed: relation "a" already exists'):
        migrate(empty_postgres_dsn, [FIRST, broken])
    with connect(empty_postgres_dsn) as conn:
        assert conn.execute("select to_regclass('a') is null, to_regclass('c') is null").fetchone() == (False, True)
    assert migrate(empty_postgres_dsn, [FIRST, SECOND]) == ["0002_second"]


def test_changed_migration_is_refused(empty_postgres_dsn: str) -> None:
    migrate(empty_postgres_dsn, [FIRST])
    with pytest.raises(StoreError, match="migration 0001_first was changed after it was applied"):
        migrate(empty_postgres_dsn, [Migration(1, "first", "create table a (x bigint)")])


def test_database_of_a_newer_version_is_refused(empty_postgres_dsn: str) -> None:
    migrate(empty_postgres_dsn, [FIRST, SECOND])
    with pytest.raises(StoreError, match="0002_second, which this version does not know"):
        migrate(empty_postgres_dsn, [FIRST])


def test_migration_that_slipped_in_below_is_refused(empty_postgres_dsn: str) -> None:
    migrate(empty_postgres_dsn, [Migration(2, "second", "select 1")])
    with pytest.raises(StoreError, match="0001_first is missing below 0002"):
        migrate(empty_postgres_dsn, [FIRST, Migration(2, "second", "select 1")])


def test_status_before_and_after(empty_postgres_dsn: str) -> None:
    before = status(empty_postgres_dsn)
    assert before.applied == ()
    assert before.pending[0] == "0001_readings"
    migrate(empty_postgres_dsn)
    after = status(empty_postgres_dsn)
    assert str(after.applied[0]) == "0001_readings"
    assert after.pending == ()
    assert after.size_bytes > before.size_bytes
    assert "reading" in after.row_estimates


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("meter", "''"),
        ("source_time", "'infinity'"),
        ("received_at", "'-infinity'"),
        ("value", "'NaN'"),
        ("value", "'Infinity'"),
        ("status", "-1"),
        ("status", "4294967296"),
    ],
)
def test_reading_table_refuses(postgres_dsn: str, column: str, value: str) -> None:
    row = {"meter": "'m'", "source_time": "now()", "received_at": "now()", "value": "1", "status": "0", column: value}
    statement = f"insert into reading ({', '.join(row)}) values ({', '.join(row.values())})"
    with connect(postgres_dsn) as conn, pytest.raises(psycopg.errors.CheckViolation):
        conn.execute(statement.encode())


def test_unreachable_server_is_named_without_the_password() -> None:
    with pytest.raises(StoreError, match="cannot connect to database park at /nowhere") as caught:
        connect("host=/nowhere dbname=park password=secret")
    assert "secret" not in str(caught.value)


def test_sessions_speak_utc(postgres_dsn: str) -> None:
    with connect(postgres_dsn) as conn:
        assert conn.execute("show timezone").fetchone() == ("UTC",)
