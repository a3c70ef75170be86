"""A database that is away when a service starts: waited for, said once; one that refuses is not waited for."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import psycopg
import pytest

from park.errors import StoreError
from park.store import status
from park.store.embedded import EmbeddedPostgres
from symbiosis import services
from symbiosis.database import migrate_when_there
from symbiosis.services import meanwhile_migrated


def test_a_database_that_comes_later_is_waited_for_and_said_once(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    with server:
        dsn = server.dsn
    said: list[str] = []
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            server.start()

    try:
        migrate_when_there(dsn, said.append, pause)
        with psycopg.connect(dsn) as conn:
            assert not status(dsn).pending
            assert conn.execute("select count(*) from reading").fetchone() == (0,)
    finally:
        server.stop()
    assert [line.endswith("; waiting for it") for line in said] == [True, False]
    assert said[-1] == "the database answers"
    assert pauses == [0.25, 0.5, 1.0]


def test_nobody_waits_longer_than_asked() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        said: list[str] = []
        migrate_when_there(f"host=127.0.0.1 port={free.getsockname()[1]}", said.append, lambda _seconds: len(said) > 0)
    assert len(said) == 1


def test_a_database_that_answers_at_once_says_nothing(empty_postgres_dsn: str) -> None:
    said: list[str] = []
    migrate_when_there(empty_postgres_dsn, said.append, lambda _seconds: True)
    assert said == []


def test_a_malformed_dsn_is_not_waited_for() -> None:
    with pytest.raises(StoreError, match="malformed DSN"):
        migrate_when_there("nonsense", lambda _line: None, lambda _seconds: True)


async def test_work_that_bears_it_begins_while_the_database_is_away(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(services, "HEAD_START_S", 0.1)
    server = EmbeddedPostgres(tmp_path)
    with server:
        dsn = server.dsn
    said: list[str] = []
    answered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell(line: str) -> None:
        said.append(line)
        if line == "the database answers":
            loop.call_soon_threadsafe(answered.set)

    async def work() -> None:
        said.append("at work")
        await asyncio.to_thread(server.start)
        await answered.wait()

    try:
        await meanwhile_migrated(dsn, tell, work())
        assert not status(dsn).pending
    finally:
        server.stop()
    assert said[1:] == ["at work", "the database answers"]


async def test_work_begins_with_its_tables_where_the_database_is_there(empty_postgres_dsn: str) -> None:
    pending: list[object] = []

    async def work() -> None:
        pending.append(status(empty_postgres_dsn).pending)

    await meanwhile_migrated(empty_postgres_dsn, pending.append, work())
    assert pending == [()]


async def test_work_that_ends_does_not_wait_for_a_database_that_never_comes(monkeypatch) -> None:
    monkeypatch.setattr(services, "HEAD_START_S", 0.1)
    said: list[str] = []

    async def work() -> None:
        said.append("done")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        async with asyncio.timeout(5):
            await meanwhile_migrated(f"host=127.0.0.1 port={free.getsockname()[1]}", said.append, work())
    assert said[1:] == ["done"]


async def test_tables_that_cannot_be_made_end_the_work(monkeypatch) -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StoreError, match="malformed DSN"):
        await meanwhile_migrated("nonsense", lambda _line: None, work())
