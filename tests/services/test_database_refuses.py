"""A database that answers and refuses: read-only, or to a role without the right; and the rights that are enough."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from collector.spool import SpoolSettings
from park.errors import StoreError
from park.store import migrate
from symbiosis import services
from symbiosis.cli import main
from symbiosis.database import migrate_when_there
from symbiosis.services import meanwhile_migrated
from tests.collector.running import Running, collecting, mqtt, park_of, rows, until, until_stored
from tests.fixtures.timescale import every_edition
from tests.processing.parks import works
from tests.services.test_collector_mqtt import publishing, reading
from tests.services.test_process_cycle import Cycle, Feed, later

edition = every_edition     # plain PostgreSQL and TimescaleDB
ONE_EDITION = pytest.mark.parametrize("edition", ["plain"], indirect=True)

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"


def administer(dsn: str, *statements: str) -> None:
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


@contextmanager
def read_only(dsn: str) -> Iterator[None]:
    """Let a database be read alone, as a standby can, from this moment on."""
    name = conninfo_to_dict(dsn)["dbname"]
    cut = f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    administer(dsn, f"alter database {name} set default_transaction_read_only = on", cut)
    try:
        yield
    finally:
        administer(dsn, f"alter database {name} reset default_transaction_read_only", cut)


@pytest.fixture
def roles(postgres_dsn: str) -> Iterator[Callable[[str], str]]:
    """The roles of docs/operating.md, with its GRANTs and nothing else; gives the DSN of each."""
    text = OPERATING.read_text("utf-8").partition("## Rights in the database")[2]
    grants = re.search(r"```sql\n(.*?)```", text, re.DOTALL)
    assert grants
    names = re.findall(r"CREATE ROLE (\w+)", grants[1])
    administer(postgres_dsn, *(f"drop role if exists {name}" for name in names))
    with psycopg.connect(postgres_dsn) as conn:
        conn.execute(grants[1].encode())
    yield lambda name: make_conninfo(postgres_dsn, user=name)
    with psycopg.connect(postgres_dsn) as conn:
        for name in names:
            conn.execute(f"drop owned by {name}; drop role {name}".encode())


@contextmanager
def refused_role(dsn: str) -> Iterator[str]:
    """Give the DSN of a role that may do nothing here."""
    administer(dsn, "drop role if exists nobody_here", "create role nobody_here login")
    try:
        yield make_conninfo(dsn, user="nobody_here")
    finally:
        administer(dsn, "drop role nobody_here")


# -- the tables --------------------------------------------------------------------------------------------------------


def test_nothing_is_written_where_nothing_is_missing(postgres_dsn: str) -> None:
    with read_only(postgres_dsn):
        assert migrate(postgres_dsn) == []


@ONE_EDITION
def test_a_read_only_database_without_tables_is_a_refusal(empty_postgres_dsn: str) -> None:
    said = r"cannot bring database \w+ at .* up to date: cannot execute CREATE TABLE.*name the primary"
    with read_only(empty_postgres_dsn), pytest.raises(StoreError, match=said):
        migrate(empty_postgres_dsn)
    assert migrate(empty_postgres_dsn)


@ONE_EDITION
def test_the_command_ends_with_one_line(empty_postgres_dsn: str, capsys) -> None:
    with refused_role(empty_postgres_dsn) as dsn:
        assert main(["db", "migrate", "--dsn", dsn]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "permission denied for schema public (hint: symbiosis db migrate as the role that owns the tables" in said[0]


@ONE_EDITION
def test_a_refusal_is_waited_for_and_said_once(empty_postgres_dsn: str) -> None:
    said: list[str] = []
    pauses: list[float] = []
    with read_only(empty_postgres_dsn):
        def pause(seconds: float) -> bool:
            pauses.append(seconds)
            return len(pauses) == 3
        migrate_when_there(empty_postgres_dsn, said.append, pause)
    assert len(pauses) == 3
    assert len(said) == 1
    assert "read-only transaction" in said[0]
    migrate_when_there(empty_postgres_dsn, said.append, lambda _seconds: True)      # and done when it is over
    assert len(said) == 1


# -- the services ------------------------------------------------------------------------------------------------------


@ONE_EDITION
async def test_a_collector_that_starts_with_a_read_only_database_spools_and_goes_on(
    broker, empty_postgres_dsn: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(services, "HEAD_START_S", 0.1)
    said: list[str] = []
    park = park_of(mqtt("FT1"))

    async def work() -> None:
        async with (
            collecting(park, empty_postgres_dsn, broker=broker.url, spool=SpoolSettings(tmp_path / "spool")) as running,
            publishing(broker) as publisher,
        ):
            await running.saw("waiting")
            await publisher.send("plant/FT1", [reading(tick, 1.0) for tick in range(20)])    # acknowledged
            refusing.__exit__(None, None, None)
            await running.saw("collecting")
            await until_stored(empty_postgres_dsn, 20)

    refusing = read_only(empty_postgres_dsn)
    refusing.__enter__()
    await meanwhile_migrated(empty_postgres_dsn, said.append, work())
    assert [line.endswith("; waiting for it") for line in said] == [True, False]
    assert rows(empty_postgres_dsn, "select count(*) from reading") == [(20,)]


@ONE_EDITION
def test_processing_waits_for_a_read_only_database(postgres_dsn: str) -> None:
    feed = Feed(postgres_dsn)
    feed.write(feed.play(60))
    feed.close()
    with read_only(postgres_dsn):
        cycle = Cycle(feed.sim.park, postgres_dsn, later(61))
        cycle.wait(lambda: any(state == "waiting" and "read-only" in str(detail["reason"])
                               for state, detail in cycle.said))
    cycle.wait(lambda: len(cycle.windows()) == 3)
    cycle.end()


@ONE_EDITION
def test_a_command_by_hand_waits_too(empty_postgres_dsn: str) -> None:
    stop = threading.Event()
    with refused_role(empty_postgres_dsn) as dsn:
        migrate_when_there(dsn, lambda line: stop.set(), stop.wait)
    assert stop.is_set()


# -- least rights ------------------------------------------------------------------------------------------------------


async def test_a_collector_needs_no_more_than_is_documented(broker, roles, postgres_dsn: str, tmp_path: Path) -> None:
    dsn = roles("park_collector")
    said: list[str] = []
    migrate_when_there(dsn, said.append, lambda _seconds: True)
    park = park_of(mqtt("FT1"))
    spool = SpoolSettings(tmp_path / "spool")
    async with collecting(park, dsn, broker=broker.url, spool=spool) as running, publishing(broker) as publisher:
        await publisher.send("plant/FT1", [reading(tick, 1.0) for tick in range(10)])
        await until_stored(postgres_dsn, 10)
        await publisher.send("plant/FT1", [reading(9, 1.0), reading(8, 2.0), "{"])  # repeated, a conflict, no reading
        await until_filled(postgres_dsn, "reading_conflict")
        await until_filled(postgres_dsn, "dead_letter")
        await until_filled(postgres_dsn, "gap")                      # readings of long ago: since then nothing came
        await until_filled(postgres_dsn, "source_mark")
        await until_filled(postgres_dsn, "collector_source")
        await until_filled(postgres_dsn, "park_version")
        assert not waited_for(running, "database")
    async with collecting(park, dsn, broker=broker.url, spool=spool), publishing(broker) as publisher:
        await publisher.send("plant/FT1", [reading(20, 1.0)])           # takes up its gaps and ends them
        await until_stored(postgres_dsn, 11)
    assert said == []


async def until_filled(dsn: str, table: str) -> None:
    await until(lambda: bool(rows(dsn, f"select from {table}")), f"a row of {table}")


def waited_for(running: Running, what: str) -> bool:
    return any(state == "waiting" and what in str(detail) for state, detail in running.said)


def test_processing_needs_no_more_than_is_documented(roles, postgres_dsn: str) -> None:
    dsn = roles("park_processing")
    migrate_when_there(dsn, pytest.fail, lambda _seconds: True)
    feed = Feed(roles("park_collector"))
    cycle = Cycle(works(), dsn, later(101))
    readings = feed.play(100)
    late = (readings.meter == 0) & (readings.time_us == round((feed.sim.start + 35) * 1_000_000))
    feed.write(readings._where(~late))
    cycle.wait(lambda: len(cycle.windows()) == 5, 120)
    feed.write(readings._where(late))
    cycle.wait(lambda: bool(cycle.windows("revised")))
    cycle.end()
    feed.close()
    assert not [state for state, _ in cycle.said if state == "waiting"]
    assert rows(postgres_dsn, "select count(*) from flow_now")[0][0] > 0


@ONE_EDITION
@pytest.mark.parametrize("name", ["park_collector", "park_processing"])
def test_a_service_changes_no_table(roles, name: str) -> None:
    with psycopg.connect(roles(name), autocommit=True) as conn:
        for statement in ("create table mine (x int)", "drop table reading", "alter table reading add mine int",
                          "delete from reading", "update reading set value = 0", "truncate flow"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())
