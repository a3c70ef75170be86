"""The collector while its database is away, killed, or comes late."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from collector.batches import Limits
from collector.opcua import tags
from park.errors import StoreError
from park.store import migrate
from park.store.embedded import EmbeddedPostgres
from tests.collector.running import at, collecting, mqtt, opcua, park_of, rows, until, until_stored
from tests.fixtures.timescale import every_edition
from tests.services.test_collector_mqtt import publishing, reading

edition = every_edition     # plain PostgreSQL and TimescaleDB


class Database:
    """A PostgreSQL of the test's own that keeps its address over restarts."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._folder = folder
        self._binaries = binaries
        self._link = folder / "s"
        self._server: EmbeddedPostgres | None = None
        self.dsn = make_conninfo(host=str(self._link), user="symbiosis", dbname="symbiosis")

    async def start(self) -> None:
        """Start, and let the address lead to it."""
        self._server = EmbeddedPostgres(
            self._folder / "data", binaries=self._binaries, settings={"fsync": "off"})
        await asyncio.to_thread(self._server.start)
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(conninfo_to_dict(self._server.dsn)["host"])

    async def kill(self) -> None:
        """Kill it at once."""
        assert self._server is not None
        os.kill(self._server.pid, signal.SIGKILL)
        await asyncio.to_thread(self._server.stop)

    async def stop(self) -> None:
        """Stop."""
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)


@pytest.fixture
async def database(tmp_path: Path, server_binaries: Path) -> AsyncIterator[Database]:
    there = Database(tmp_path, server_binaries)
    await there.start()
    migrate(there.dsn)
    yield there
    await there.stop()


@asynccontextmanager
async def refusing(dsn: str) -> AsyncIterator[None]:
    """Cut every connection to a database and let none in."""
    name = conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as conn:
        conn.execute(f"alter database {name} allow_connections false".encode())
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        try:
            yield
        finally:
            conn.execute(f"alter database {name} allow_connections true".encode())


async def test_a_database_that_restarts_loses_nothing_and_is_said_once(opcua_server, broker, database, caplog):
    caplog.set_level(logging.INFO, "collector")
    server = await opcua_server(["FT1"])
    park = park_of(opcua(server.url, "FT1"), mqtt("FT2"))
    async with collecting(park, database.dsn, broker=broker.url) as running, publishing(broker) as publisher:
        async def send(start: int, stop: int) -> None:
            for tick in range(start, stop):
                await server.push("FT1", float(tick), at(tick))
            await publisher.send("plant/FT2", [reading(tick, float(tick)) for tick in range(start, stop)])

        await send(0, 50)
        await until_stored(database.dsn, 60)
        await send(50, 70)
        await database.stop()
        await send(70, 100)
        await running.saw("waiting")
        await send(100, 120)
        await database.start()
        await until_stored(database.dsn, 240)
    stored = rows(database.dsn, "select meter, source_time, value from reading order by 1, 2")
    assert stored == [(name, at(tick), tick * (1000 / 3600)) for name in ("FT1", "FT2") for tick in range(120)]
    assert rows(database.dsn, "select * from gap where meter is null") == []
    assert caplog.text.count("database is away") == 1
    assert caplog.text.count("database is back") == 1


async def test_a_database_that_comes_late_is_waited_for(opcua_server, database):
    server = await opcua_server(["FT1"])
    await database.stop()
    async with collecting(park_of(opcua(server.url, "FT1")), database.dsn) as running:
        await server.push("FT1", 3.6, at(0))
        await running.saw("waiting")
        await database.start()
        await until_stored(database.dsn, 1)


async def test_memory_is_bounded_and_what_the_server_then_drops_is_a_gap(opcua_server, postgres_dsn, monkeypatch):
    monkeypatch.setattr(tags, "HELD_S", 1.0)
    monkeypatch.setattr(tags, "KEEP_ALIVE_S", 0.5)          # so that a publishing held back for 1 s is noticed
    server = await opcua_server(["FT1"])
    limits = Limits(buffer_rows=20)
    async with collecting(park_of(opcua(server.url, "FT1")), postgres_dsn, limits=limits) as running:
        await server.push("FT1", 0.0, at(0))
        await until_stored(postgres_dsn, 1)
        async with refusing(postgres_dsn):
            await server.push("FT1", 1.0, at(1))
            await running.saw("waiting")        # from here on memory only fills: nothing is taken out of it any more
            for tick in range(2, 200):          # in memory: 20 and what is on its way; at the server: 10
                await server.push("FT1", float(tick), at(tick))
                await asyncio.sleep(0.01)
        await until(lambda: rows(postgres_dsn, "select max(source_time) from reading")[0][0] == at(199))
    stored = [time for _, time, _, _ in rows(postgres_dsn)]
    missing = [at(tick) for tick in range(200) if at(tick) not in stored]
    assert len(missing) > 50
    [(started, ended, cause)] = rows(postgres_dsn, "select started_at, ended_at, cause from gap where meter is null")
    assert cause == "memory was full for longer than the server's queues hold"
    assert started < min(missing)
    assert max(missing) < ended


async def test_readings_that_are_left_at_the_end_are_an_error(opcua_server, postgres_dsn, monkeypatch):
    monkeypatch.setattr("collector.agent.FLUSH_S", 0.3)
    server = await opcua_server(["FT1"])
    async with refusing(postgres_dsn), collecting(park_of(opcua(server.url, "FT1")), postgres_dsn) as running:
        await server.push("FT1", 3.6, at(0))
        await running.saw("waiting")
        with pytest.raises(StoreError, match="1 readings could not be stored: the database was away"):
            await running.finish()
        running.ended = True


async def test_a_missing_table_is_said_with_its_mend(opcua_server, empty_postgres_dsn):
    server = await opcua_server(["FT1"])
    async with collecting(park_of(opcua(server.url, "FT1")), empty_postgres_dsn) as running:
        away = await running.saw("waiting")
        assert "symbiosis db migrate" in str(away["for"])
        migrate(empty_postgres_dsn)
        await server.push("FT1", 3.6, at(0))
        await until_stored(empty_postgres_dsn, 1)
