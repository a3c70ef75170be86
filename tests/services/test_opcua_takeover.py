"""A collector that is killed (`kill -9`) between the receipt of readings and their commit, and the one that follows."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace

import psycopg
import pytest

from collector.batches import NOT_RUNNING, Interruption
from collector.opcua import share
from collector.opcua.handover import FOLDER, Handover, Keeping
from collector.opcua.session import Connection
from collector.opcua.tags import HELD_S
from collector.spool import FILE_NAME, SpoolSettings
from tests.collector.running import PATIENCE_S, at, collecting, opcua, park_of, rows, spawned, until
from tests.collector.sourcing import sourcing, tag
from tests.fixtures.node_opcua import PASSWORD, PASSWORD_VARIABLE

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


# -- the source alone, as if its process had been killed: it says no goodbye ------------------------------------------

CONTINUES = Interruption(NOT_RUNNING, kept=True, continues=True)
TAGS = [tag("FT1", 0), tag("FT2", 1)]


async def abandon(connection):
    """Let go of a connection as a process does that is killed."""
    connection.session.leave()
    connection._client.disconnect_socket()


@pytest.fixture
def killed(monkeypatch):
    """Run sources that end as if they were killed."""

    @asynccontextmanager
    async def killed(*args, **options):
        with monkeypatch.context() as patch:
            async with sourcing(*args, **options) as running:
                yield running
                patch.setattr(Connection, "close", abandon)
                patch.setattr(Handover, "drop", Handover.close)

    return killed


def at_node(name, place=0):
    return tag(name, place, node_id=f"nsu=urn:tests:instruments;s={name}")


async def push(server, *ticks):
    for tick in ticks:
        for name in ("FT1", "FT2"):
            await server.push(name, float(tick), at(tick))


async def received(running, count):
    """Wait until so many readings are in memory."""
    async with asyncio.timeout(PATIENCE_S):
        while len(running.batches) < count:         # noqa: ASYNC110 - whoever waits for a batch takes it
            await asyncio.sleep(0.01)


async def left_by(killed, server, folder, **keeping):
    """Let a source make the first readings durable, receive the next ones, and die."""
    async with killed(server.url, TAGS, keeping=Keeping(folder, **keeping)) as running:
        await push(server, 0)
        await running.got(2)
        await push(server, 1, 2)
        await received(running, 4)
    await push(server, 3)


def expected(*ticks):
    return {(place, tick) for place in (0, 1) for tick in ticks}


def seen(running):
    return {(place, int(value)) for place, _, value, _ in running.rows}


async def has_seen(running, wanted):
    """Wait until these readings came, repeated or not, and no others."""
    async with asyncio.timeout(PATIENCE_S):
        while not seen(running) >= wanted:
            await running.got(len(running.rows) + 1)
    assert seen(running) == wanted


async def test_what_was_received_comes_again_from_a_server_of_asyncua(opcua_server, killed, tmp_path):
    server = await opcua_server(["FT1", "FT2"])
    await left_by(killed, server, tmp_path)
    subscriptions = server.subscriptions
    async with sourcing(server.url, TAGS, keeping=Keeping(tmp_path)) as running:
        await running.got(6)
        assert server.subscriptions == subscriptions
    assert seen(running) == expected(1, 2, 3)
    assert running.interruptions == [CONTINUES]
    assert server.subscriptions == []


async def test_a_session_that_is_gone_leaves_its_subscription(node_opcua, killed, tmp_path):
    tags = [at_node("TOLD1"), at_node("TOLD2", 1)]
    instruments = Instruments(node_opcua)
    await instruments.send(1)
    async with killed(node_opcua.url, tags, keeping=Keeping(tmp_path)) as running:
        await running.got(2)
        await instruments.send(3)
        await received(running, 6)
    [file] = (tmp_path / FOLDER).glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"token": "0000"}))
    async with sourcing(node_opcua.url, tags, keeping=Keeping(tmp_path)) as running:
        await instruments.send(2)
        await has_seen(running, expected(*instruments.sent[1:]))
    assert running.interruptions == [CONTINUES]


async def test_a_source_that_is_stopped_with_readings_that_nobody_takes_leaves_them_to_the_next(opcua_server, tmp_path):
    server = await opcua_server(["FT1", "FT2"])
    async with sourcing(server.url, TAGS, keeping=Keeping(tmp_path, is_held_back=lambda: True)) as running:
        await push(server, 1, 2)
        await received(running, 4)
    async with sourcing(server.url, TAGS, keeping=Keeping(tmp_path)) as running:
        await running.got(4)
    assert seen(running) == expected(1, 2)
    assert server.subscriptions == []


async def test_what_a_full_disk_did_not_take_is_noted_once_it_has_room(opcua_server, killed, tmp_path, monkeypatch):
    monkeypatch.setattr(share, "RETRY_BAD_FIRST_S", 0.05)
    server = await opcua_server(["FT1", "FT2"])
    (tmp_path / FOLDER).write_text("in the way")
    async with killed(server.url, TAGS, keeping=Keeping(tmp_path)) as running:
        await push(server, 1)
        await received(running, 2)
        (tmp_path / FOLDER).unlink()
        await until(lambda: any(tmp_path.glob(f"{FOLDER}/*.position")), "the note")
        await push(server, 2)
        await received(running, 4)
    async with sourcing(server.url, TAGS, keeping=Keeping(tmp_path)) as running:
        await has_seen(running, expected(1, 2))


async def test_a_secured_session_of_a_user_is_taken_up(node_opcua, killed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    (tmp_path / "pki/trusted").mkdir(parents=True)
    (tmp_path / "pki/trusted/server.pem").write_bytes(node_opcua.certificate.read_bytes())
    settings = {"security_policy": "Basic256Sha256", "user": "collector", "password": {"env": PASSWORD_VARIABLE}}
    source = (node_opcua.url, [at_node("TOLD1")])
    instruments = Instruments(node_opcua)
    await instruments.send(1)
    async with killed(*source, keeping=Keeping(tmp_path), **settings) as running:
        await running.got(1)
        await instruments.send(3)
        await received(running, 3)
    async with sourcing(*source, keeping=Keeping(tmp_path), **settings) as running:
        await instruments.send(2)
        await has_seen(running, {(0, tick) for tick in instruments.sent[1:]})
    assert running.interruptions == [CONTINUES]
    assert PASSWORD.encode() not in b"".join(path.read_bytes() for path in (tmp_path / FOLDER).iterdir())


async def test_of_a_server_that_began_anew_nothing_is_taken_up(opcua_server, killed, tmp_path):
    server = await opcua_server(["FT1", "FT2"])
    await left_by(killed, server, tmp_path)
    await server.stop()
    await server.start()
    async with sourcing(server.url, TAGS, keeping=Keeping(tmp_path)) as running:
        await push(server, 9)
        await running.got(2)
    assert seen(running) == expected(9)
    assert running.interruptions == [Interruption(NOT_RUNNING)]


async def test_a_park_that_changed_meanwhile_is_brought_to_the_server(opcua_server, killed, tmp_path):
    server = await opcua_server(["FT1", "FT2", "FT3"])
    await left_by(killed, server, tmp_path)
    before = server.items
    tags = [replace(TAGS[0], place=5), tag("FT3", 6)]
    async with sourcing(server.url, tags, keeping=Keeping(tmp_path)) as running:
        await running.got(3)
        assert server.items.keys() == {"FT1", "FT3"}
        assert server.items["FT1"] == before["FT1"]
        await server.push("FT3", 9.0, at(9))
        await running.got(4)
    assert seen(running) == {(5, 1), (5, 2), (5, 3), (6, 9)}
    assert running.interruptions == [CONTINUES]
    assert running.rejections.total("opcua:x") == 0


async def test_a_meter_that_is_asked_for_otherwise_may_have_lost_something(opcua_server, killed, tmp_path):
    server = await opcua_server(["FT1", "FT2"])
    await left_by(killed, server, tmp_path)
    async with sourcing(server.url, [TAGS[0], replace(TAGS[1], queue=50)], keeping=Keeping(tmp_path)) as running:
        await running.got(5)
    assert seen(running) >= expected(1, 2)
    assert running.interruptions == []


@pytest.mark.parametrize("sure", [False, True])
async def test_what_was_missing_before_the_kill_is_not_forgotten(opcua_server, killed, tmp_path, sure):
    server = await opcua_server(["FT1", "FT2"])
    await left_by(killed, server, tmp_path, is_settled=lambda _source: sure)
    async with sourcing(server.url, TAGS, keeping=Keeping(tmp_path)) as running:
        await running.got(6)
    assert running.interruptions == [CONTINUES] * sure


async def test_a_collector_that_comes_later_than_the_queues_hold_says_so(opcua_server, killed, tmp_path, monkeypatch):
    server = await opcua_server(["FT1", "FT2"])
    await left_by(killed, server, tmp_path)
    now = time.time() + HELD_S + 30.0
    monkeypatch.setattr(time, "time", lambda: now)
    async with sourcing(server.url, TAGS, keeping=Keeping(tmp_path)) as running:
        await running.got(6)
    late = Interruption("the server waited longer to be asked than its queues hold")
    assert running.interruptions == [CONTINUES, late]
