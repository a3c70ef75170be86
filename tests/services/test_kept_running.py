"""An embedded database that is killed under a service by hand: whoever started it starts it again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psycopg
import pytest

from collector.spool import SpoolSettings
from park.errors import StoreError
from park.store import embedded, migrate
from park.store import kept_running as module
from park.store.embedded import EmbeddedPostgres, database_lock
from park.store.kept_running import kept_running
from park.store.location import open_database
from tests.collector.running import collecting, mqtt, park_of, rows, until, until_stored
from tests.services.test_collector_mqtt import publishing, reading


def postmaster(data: Path) -> int:
    return int((data / "postgres" / "postmaster.pid").read_text().split()[0])


def answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


async def test_a_database_that_is_killed_comes_back_and_readings_wait_in_the_spool(
    broker, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(embedded, "SETTINGS", {**embedded.SETTINGS, "fsync": "off"})       # the machine lives on
    data = tmp_path / "data"
    park = park_of(mqtt("FT1"))
    with open_database(None, data, create=True) as dsn:
        migrate(dsn)
        async with (
            collecting(park, dsn, broker=broker.url, spool=SpoolSettings(tmp_path / "spool")) as running,
            publishing(broker) as publisher,
        ):
            for number in (1, 2):
                await publisher.send("plant/FT1", [reading(number * 100 + tick, 1.0) for tick in range(20)])
                await until_stored(dsn, number * 40 - 20)
                os.kill(postmaster(data), signal.SIGKILL)
                await publisher.send("plant/FT1", [reading(number * 100 + tick, 1.0) for tick in range(20, 40)])
                await until(lambda: answers(dsn), "the database")
                await until_stored(dsn, number * 40)
            await running.finish()
            running.ended = True
        assert rows(dsn, "select count(*) from reading_conflict") == [(0,)]
    assert database_lock(data).is_free()                # it is stopped with the service
    assert not answers(dsn)


def test_a_server_that_ends_again_and_again_is_tried_with_growing_pauses(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(module, "BACK_OFF_S", (0.01, 0.02))
    server = EmbeddedPostgres(tmp_path / "data", settings={"fsync": "off"})
    with kept_running(server):
        settings = server._settings
        server._settings = {**settings, "shared_buffers": "nonsense"}
        server_started = caplog.text.count("runs again")
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: "the database does not start, trying on: PostgreSQL did not start" in caplog.text)
        server._settings = settings
        wait_for(lambda: caplog.text.count("runs again") == server_started + 1)
        assert caplog.text.count("does not start") == 1
        assert answers(server.dsn)
        monkeypatch.setattr(module, "BACK_OFF_S", (60.0,))
        os.kill(server.pid, signal.SIGKILL)             # so soon after the last time, it is not started at once
        wait_for(lambda: caplog.text.count("ended unexpectedly") == 2)
        began = time.monotonic()
    assert time.monotonic() - began < 30                # and the end waits for no pause
    assert database_lock(tmp_path / "data").is_free()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_never_started_is_an_error(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", settings={"fsync": "off", "shared_buffers": "nonsense"})
    with pytest.raises(StoreError, match=r"initdb failed|did not start"), kept_running(server):
        pytest.fail("it started")
