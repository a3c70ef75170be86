"""A collector that is killed (`kill -9`) between the receipt of readings and their commit, and the one that follows."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import psycopg
import pytest

from collector.opcua.handover import FOLDER
from collector.spool import FILE_NAME, SpoolSettings
from tests.collector.running import at, collecting, opcua, park_of, rows, spawned, until

BROKER = "mqtt://127.0.0.1:1"       # of no meter
# Without those of meters that are silent: the tests' instruments live in the past.
GAPS = "select started_at, ended_at, cause from gap where cause not like 'nothing came%'"
next_tick = itertools.count()       # of all tests: one server serves them, and time does not go back


class Instruments:
    """Two meters at a node-opcua server, without history: one periodic, one on change; both send at each tick."""

    def __init__(self, server):
        self.server = server
        self.sent: list[int] = []           # ticks
        self.park = park_of(*(
            opcua(server.url, name, node_id=f"nsu=urn:tests:instruments;s={name}", sampling=sampling, unit="kg/s")
            for name, sampling in (("TOLD1", "periodic"), ("TOLD2", "on_change"))))

    async def send(self, ticks):
        """Let both send so many readings, some milliseconds apart."""
        for _ in range(ticks):
            tick = next(next_tick)
            for name in ("TOLD1", "TOLD2"):
                await self.server.push(name, float(tick), round(at(tick).timestamp() * 1000))
            self.sent.append(tick)

    async def delivered(self):
        """Wait until all that was sent is on its way to the collector, and not acknowledged."""
        async with asyncio.timeout(1.5):
            while any(one["waiting"] or not one["sent"] for one in await self.server.held()):     # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)

    @property
    def wanted(self):
        """The readings that are to be stored in the end."""
        return [(at(tick), float(tick)) for tick in self.sent]

    def stored(self, dsn, name):
        """The readings of a meter that are stored."""
        return [(t, value) for meter, t, value, _ in rows(dsn) if meter == name]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def instruments(node_opcua):
    return Instruments(node_opcua)


def all_stored(instruments, dsn):
    return all(instruments.stored(dsn, name) == instruments.wanted for name in ("TOLD1", "TOLD2"))


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


@asynccontextmanager
async def no_commits(dsn) -> AsyncIterator[None]:
    """Hold up whoever writes readings, and end their connections in the end, before they can go on."""
    with psycopg.connect(dsn) as holding:
        holding.execute("lock table reading in access exclusive mode")
        yield
        with psycopg.connect(dsn, autocommit=True) as ending:
            ending.execute("select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'")


def spooled(folder) -> int:
    with closing(sqlite3.connect(f"file:{folder / FILE_NAME}?mode=ro", uri=True)) as spool:
        return spool.execute("select count(*) from batch").fetchone()[0]


async def killed_with_readings_in_memory(instruments, dsn, folder):
    """Start a collector, let it receive readings while nothing is committed, and kill it."""
    await instruments.send(1)
    process = spawned(instruments.park, dsn, BROKER, str(folder))
    try:
        await until(lambda: all_stored(instruments, dsn), "the first reading")
        before = rows(dsn, "select count(*) from reading")
        async with no_commits(dsn):
            await instruments.send(10)
            await instruments.delivered()
            kill(process)
    finally:
        kill(process)
    assert rows(dsn, "select count(*) from reading") == before
    assert spooled(folder) == 0


async def test_what_was_received_and_not_committed_comes_again_without_a_history(instruments, postgres_dsn, folder):
    await killed_with_readings_in_memory(instruments, postgres_dsn, folder)
    await instruments.send(10)                  # while no collector runs
    assert [one["sent"] > 0 for one in await instruments.server.held()] == [True]
    async with collecting(instruments.park, postgres_dsn, spool=SpoolSettings(folder)):
        await instruments.send(10)
        await until(lambda: all_stored(instruments, postgres_dsn), "everything")
        assert len(await instruments.server.held()) == 1
    assert rows(postgres_dsn, GAPS) == []
    assert rows(postgres_dsn, "select * from reading_conflict") == []
    assert list((folder / FOLDER).iterdir()) == []         # it said goodbye


async def test_what_the_server_has_forgotten_is_a_gap(instruments, postgres_dsn, folder):
    await killed_with_readings_in_memory(instruments, postgres_dsn, folder)
    await instruments.server.held(keep=0)
    await instruments.send(2)
    async with collecting(instruments.park, postgres_dsn, spool=SpoolSettings(folder)):
        await until(lambda: instruments.stored(postgres_dsn, "TOLD2")[-1:] == instruments.wanted[-1:], "the last")
    first, last = instruments.wanted[0][0], instruments.wanted[-2][0]
    assert instruments.stored(postgres_dsn, "TOLD2") == [instruments.wanted[k] for k in (0, -2, -1)]
    assert [(start, end) for start, end, _ in rows(postgres_dsn, GAPS)] == [(first, last)]


async def test_collectors_that_are_killed_again_and_again_lose_nothing(instruments, postgres_dsn, folder):
    await instruments.send(1)
    for _ in range(2):
        process = spawned(instruments.park, postgres_dsn, BROKER, str(folder))
        try:
            await until(lambda: instruments.stored(postgres_dsn, "TOLD1")[-1:] == instruments.wanted[-1:], "the last")
            await instruments.send(20)          # some of it is stored, some received, some not yet fetched
        finally:
            kill(process)
    async with collecting(instruments.park, postgres_dsn, spool=SpoolSettings(folder)):
        await until(lambda: all_stored(instruments, postgres_dsn), "everything")
    assert rows(postgres_dsn, GAPS) == []
