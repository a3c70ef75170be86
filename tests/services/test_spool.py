"""The collector's spool beside a real broker and a real PostgreSQL: databases that go, collectors that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from collector import writing
from collector.batches import Limits
from collector.spool import SpoolSettings
from park.errors import SpoolError, StoreError
from tests.collector.running import PATIENCE_S, at, collecting, mqtt, park_of, rows, spawned, until, until_stored
from tests.services.test_collector_database import Database, database, refusing  # noqa: F401 - a fixture
from tests.services.test_collector_mqtt import publishing, reading

READINGS = "select meter, source_time, value, status from reading order by 2, 1"


LOST = "select * from gap where cause <> 'nothing came, though its source was there'"    # times that are long ago


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def in_spool(folder: Path, query: str = "select coalesce(sum(row_count), 0) from batch") -> int:
    """Ask a copy of a spool that a collector holds."""
    with tempfile.TemporaryDirectory() as name:
        for file in folder.glob("spool.sqlite3*"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(file, Path(name) / file.name)
        try:
            with contextlib.closing(sqlite3.connect(Path(name) / "spool.sqlite3")) as conn:
                return int(conn.execute(query).fetchone()[0])
        except sqlite3.DatabaseError:       # copied while it was written
            return -1


def damaged(folder: Path) -> list[str]:
    """Names of files that were set aside."""
    return [file.name for file in folder.glob("*damaged*.sqlite3")]


async def until_spooled(folder: Path, count: int) -> None:
    await until(lambda: in_spool(folder) >= count, f"{count} readings in the spool")


def expected(start: int, stop: int, *meters: str) -> list[tuple[object, ...]]:
    return [(meter, at(tick), tick * (1000 / 3600), 0) for tick in range(start, stop) for meter in meters]


def readings(start: int, stop: int) -> list[str]:
    return [reading(tick, float(tick)) for tick in range(start, stop)]


async def test_a_collector_that_is_killed_with_a_spool_loses_nothing_that_it_acknowledged(
    broker, database: Database, folder: Path  # noqa: F811
) -> None:
    async with publishing(broker) as publisher:
        await database.kill()
        process = spawned(park_of(mqtt("FT1"), mqtt("FT2")), database.dsn, broker.url, str(folder))
        try:
            async with asyncio.timeout(PATIENCE_S):
                while in_spool(folder) < 1:         # until it has subscribed; each reading is stored once
                    await publisher.send("plant/FT1", readings(0, 1))
                    await asyncio.sleep(0.05)
            await publisher.send("plant/FT1", readings(0, 300))
            await publisher.send("plant/FT2", [*readings(0, 300), "{"])
            await until_spooled(folder, 601)        # a broker gives 20 without acknowledgement
            await until(lambda: in_spool(folder, "select count(*) from letter") == 1, "a dead letter in the spool")
        finally:
            process.kill()
            process.wait()
    broker.stop(kill=True)
    await database.start()
    # another park: what waits is stored by the meters' ids, not by their numbers
    park = park_of(mqtt("FT9"), mqtt("FT2"), mqtt("FT1"))
    async with collecting(park, database.dsn, broker=broker.url, spool=SpoolSettings(folder), armed=False):
        await until_stored(database.dsn, 600)
        await until(lambda: in_spool(folder) == 0, "an empty spool")
        await until(lambda: rows(database.dsn, "select count(*) from dead_letter") == [(1,)], "the dead letter")
    assert rows(database.dsn, READINGS) == expected(0, 300, "FT1", "FT2")
    assert rows(database.dsn, "select * from reading_conflict") == []


async def test_a_database_that_is_away_at_the_start_and_comes_back_gets_all_in_order(
    broker, postgres_dsn: str, folder: Path, caplog, monkeypatch
) -> None:
    caplog.set_level("INFO", "collector")
    monkeypatch.setattr(writing, "PATIENCE_S", 0.3)
    monkeypatch.setattr(writing, "REPLAY_ROWS", 40)
    options = {"broker": broker.url, "spool": SpoolSettings(folder), "limits": Limits(flush_rows=20, flush_s=0.05)}
    async with publishing(broker) as publisher:
        async with refusing(postgres_dsn):
            running_park = park_of(mqtt("FT1"))
            collector = collecting(running_park, postgres_dsn, **options)
            running = await collector.__aenter__()          # armed without a database
            await publisher.send("plant/FT1", readings(0, 200))
            await until_spooled(folder, 200)
            await running.saw("waiting")
        for tick in range(200, 300):
            await publisher.send("plant/FT1", readings(tick, tick + 1))
        await until_stored(postgres_dsn, 300)
        await until(lambda: in_spool(folder) == 0, "an empty spool")
        await publisher.send("plant/FT1", readings(300, 310))
        await until_stored(postgres_dsn, 310)
        await running.saw("collecting")
        await collector.__aexit__(None, None, None)
    assert rows(postgres_dsn, READINGS) == expected(0, 310, "FT1")
    starts = [start for (start,) in rows(postgres_dsn, "select period_start from arrival order by id")]
    assert starts == sorted(starts)
    assert len(starts) > 2         # not in one piece; into how many depends on how many readings came at once
    assert rows(postgres_dsn, LOST) == []
    assert caplog.text.count("database is away") == 1
    assert caplog.text.count("database is back") == 1


async def test_a_database_that_does_not_answer_does_not_hold_up_the_sources(
    broker, postgres_dsn: str, folder: Path, monkeypatch
) -> None:
    monkeypatch.setattr(writing, "PATIENCE_S", 0.2)
    park = park_of(mqtt("FT1"))
    async with (
        collecting(park, postgres_dsn, broker=broker.url, spool=SpoolSettings(folder)) as running,
        publishing(broker) as publisher,
    ):
        await publisher.send("plant/FT1", readings(0, 10))
        await until_stored(postgres_dsn, 10)
        with psycopg.connect(postgres_dsn) as conn:
            conn.execute("lock table reading in access exclusive mode")
            await publisher.send("plant/FT1", readings(10, 100))
            await until_spooled(folder, 90)
            await running.saw("waiting")
        await until_stored(postgres_dsn, 100)
        await until(lambda: in_spool(folder) == 0, "an empty spool")
    assert rows(postgres_dsn, READINGS) == expected(0, 100, "FT1")
    assert rows(postgres_dsn, "select * from reading_conflict") == []


@contextmanager
def small_disk(folder: Path, kilobytes: int = 150) -> Iterator[Callable[[], None]]:
    """Let a folder lie on a small disk; the function that is given makes it large.

    A file system of its own where that may be mounted, else a limit on the size of this process's files.
    """
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0:
        grow = ["mount", "-o", "remount,size=64m", str(folder)]
        try:
            yield lambda: subprocess.run(grow, check=True) and None
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 667, before[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_holds_the_sources_back_and_loses_nothing(
    broker, postgres_dsn: str, folder: Path, caplog
) -> None:
    caplog.set_level("INFO", "collector")
    park = park_of(mqtt("FT1"))
    options = {"broker": broker.url, "spool": SpoolSettings(folder), "limits": Limits(buffer_rows=100)}
    with small_disk(folder) as grow:
        async with collecting(park, postgres_dsn, **options) as running, publishing(broker) as publisher:
            await publisher.send("plant/FT1", readings(0, 10))
            await until_stored(postgres_dsn, 10)
            async with refusing(postgres_dsn):
                await publisher.send("plant/FT1", readings(10, 4_000))
                await until(lambda: any("spool" in detail.get("for", {}) for _, detail in running.said), "a full disk")
                held = in_spool(folder)
                await publisher.send("plant/FT1", readings(4_000, 4_100))
                assert 0 < in_spool(folder) <= held + 40        # nothing more is taken
                assert caplog.text.count("the spool takes nothing") == 1
                grow()
                await until_spooled(folder, 4_000)
                assert caplog.text.count("the spool takes readings again") == 1
            await until_stored(postgres_dsn, 4_100)
    assert rows(postgres_dsn, READINGS) == expected(0, 4_100, "FT1")
    assert rows(postgres_dsn, LOST) == []


async def test_a_full_spool_goes_on_when_the_database_is_back(broker, postgres_dsn: str, folder: Path) -> None:
    park = park_of(mqtt("FT1"))
    options = {"broker": broker.url, "spool": SpoolSettings(folder), "limits": Limits(buffer_rows=100)}
    with small_disk(folder):
        async with collecting(park, postgres_dsn, **options) as running, publishing(broker) as publisher:
            await publisher.send("plant/FT1", readings(0, 1))
            await until_stored(postgres_dsn, 1)
            async with refusing(postgres_dsn):
                await publisher.send("plant/FT1", readings(1, 4_000))
                await until(lambda: any("spool" in detail.get("for", {}) for _, detail in running.said), "a full disk")
            await until_stored(postgres_dsn, 4_000)         # though the disk is as small as it was
            await running.saw("collecting")
    assert rows(postgres_dsn, READINGS) == expected(0, 4_000, "FT1")


async def test_a_collector_that_starts_with_a_full_disk_stores_what_it_holds_and_goes_on(
    broker, postgres_dsn: str, folder: Path
) -> None:
    park = park_of(mqtt("FT1"))
    with small_disk(folder):
        async with publishing(broker) as publisher:
            async with refusing(postgres_dsn):
                process = spawned(park, postgres_dsn, broker.url, str(folder))
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        while in_spool(folder) < 1:         # until it has subscribed
                            await publisher.send("plant/FT1", readings(0, 1))
                            await asyncio.sleep(0.05)
                    await publisher.send("plant/FT1", readings(0, 4_000))       # more than there is room for
                    await until(lambda: full(folder), "a full disk")
                finally:
                    process.kill()
                    process.wait()
            assert in_spool(folder) > 100
            async with collecting(park, postgres_dsn, broker=broker.url, spool=SpoolSettings(folder)):
                await until_stored(postgres_dsn, 4_000)
    assert rows(postgres_dsn, READINGS) == expected(0, 4_000, "FT1")
    assert rows(postgres_dsn, LOST) == []


def full(folder: Path) -> bool:
    """Whether a folder's disk takes no page more."""
    try:
        with (folder / "page").open("wb") as file:
            file.write(bytes(4096))
    except OSError:
        return True
    finally:
        (folder / "page").unlink(missing_ok=True)
    return False


async def test_a_collector_that_starts_without_room_for_a_spool_runs_to_the_database_alone(
    broker, postgres_dsn: str, folder: Path, caplog
) -> None:
    options = {"broker": broker.url, "spool": SpoolSettings(folder)}
    with small_disk(folder, kilobytes=4):
        async with (
            collecting(park_of(mqtt("FT1")), postgres_dsn, **options) as running, publishing(broker) as publisher
        ):
            await publisher.send("plant/FT1", readings(0, 10))
            await until_stored(postgres_dsn, 10)
            await running.saw("collecting")
    assert caplog.text.count("the spool takes nothing") == 1


async def test_a_collector_that_starts_with_neither_takes_nothing_until_there_is_room(
    broker, postgres_dsn: str, folder: Path
) -> None:
    options = {"broker": broker.url, "spool": SpoolSettings(folder), "limits": Limits(buffer_rows=100)}
    with small_disk(folder, kilobytes=4) as grow:
        async with (
            refusing(postgres_dsn), collecting(park_of(mqtt("FT1")), postgres_dsn, **options) as running,
            publishing(broker) as publisher,
        ):
            sending = asyncio.create_task(publisher.send("plant/FT1", readings(0, 500)))
            await until(lambda: any(
                {"spool", "database"} <= detail.get("for", {}).keys() for _, detail in running.said), "both away")
            grow()
            await sending
            await until_spooled(folder, 500)
        async with collecting(park_of(mqtt("FT1")), postgres_dsn, **options):
            await until_stored(postgres_dsn, 500)
    assert rows(postgres_dsn, READINGS) == expected(0, 500, "FT1")


async def test_what_is_left_at_the_end_is_in_the_spool_and_no_error(broker, postgres_dsn: str, folder: Path) -> None:
    park = park_of(mqtt("FT1"))
    options = {"broker": broker.url, "spool": SpoolSettings(folder)}
    async with publishing(broker) as publisher:
        async with refusing(postgres_dsn), collecting(park, postgres_dsn, **options):
            await publisher.send("plant/FT1", readings(0, 50))
            await until_spooled(folder, 50)
        assert in_spool(folder) == 50
        async with collecting(park, postgres_dsn, **options):
            await until_stored(postgres_dsn, 50)
    assert rows(postgres_dsn, READINGS) == expected(0, 50, "FT1")


async def test_a_damaged_spool_is_set_aside_and_what_it_lost_is_a_gap(
    broker, postgres_dsn: str, folder: Path, caplog
) -> None:
    park = park_of(mqtt("FT1"))
    options = {"broker": broker.url, "spool": SpoolSettings(folder), "limits": Limits(flush_rows=10)}
    async with publishing(broker) as publisher, refusing(postgres_dsn), collecting(park, postgres_dsn, **options):
        for tick in range(0, 50, 10):
            await publisher.send("plant/FT1", readings(tick, tick + 10))
            await until_spooled(folder, tick + 10)
    with contextlib.closing(sqlite3.connect(folder / "spool.sqlite3")) as conn, conn:
        [harmed] = conn.execute("select number from batch order by number limit 1 offset 2").fetchone()
        conn.execute("update batch set readings = zeroblob(500) where number = ?", [harmed])
    async with collecting(park, postgres_dsn, **options):
        await until(lambda: rows(postgres_dsn, "select count(*) from gap where meter is null") == [(1,)], "a gap")
    [aside] = damaged(folder)
    assert aside in caplog.text
    stored = {time for _, time, _, _ in rows(postgres_dsn)}
    missing = [at(tick) for tick in range(50) if at(tick) not in stored]
    assert 0 < len(missing) < 30
    [(started, ended, cause)] = rows(postgres_dsn, "select started_at, ended_at, cause from gap where meter is null")
    assert cause == "the spool was damaged"
    assert started < min(missing)
    assert max(missing) < ended


async def test_a_second_collector_is_refused(broker, postgres_dsn: str, folder: Path) -> None:
    park = park_of(mqtt("FT1"))
    options = {"broker": broker.url, "spool": SpoolSettings(folder)}
    async with collecting(park, postgres_dsn, **options):
        with pytest.raises(SpoolError, match="is in use by process"):
            async with asyncio.timeout(PATIENCE_S), collecting(park, postgres_dsn, **options):
                pass


async def test_neither_database_nor_spool_at_the_end_is_an_error(
    broker, postgres_dsn: str, folder: Path, monkeypatch
) -> None:
    monkeypatch.setattr("collector.agent.FLUSH_S", 0.3)
    options = {"broker": broker.url, "spool": SpoolSettings(folder), "limits": Limits(buffer_rows=50)}
    with small_disk(folder):
        async with (
            refusing(postgres_dsn),
            collecting(park_of(mqtt("FT1")), postgres_dsn, **options) as running,
            publishing(broker) as publisher,
        ):
            await publisher.send("plant/FT1", readings(0, 4_000))
            await until(lambda: any("spool" in detail.get("for", {}) for _, detail in running.said), "a full disk")
            with pytest.raises(StoreError, match="readings could not be stored"):
                await running.finish()
            running.ended = True
