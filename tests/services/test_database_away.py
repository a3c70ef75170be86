"""A database that is away when a service starts: waited for, said once; one that refuses is not waited for."""

from __future__ import annotations

import socket
from pathlib import Path

import psycopg
import pytest

from park.errors import StoreError
from park.store import status
from park.store.embedded import EmbeddedPostgres
from symbiosis.database import migrate_when_there


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
