"""What is kept beside the readings, over failures: gaps and dead letters, in the database and in the spool."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from collector.coverage import Gap
from collector.dead_letters import LetterLimits
from collector.spool import NOTHING, Spool, SpoolSettings
from collector.spool_rescue import open_or_rescue
from collector.store import CollectorStore
from collector.times import micros
from park.errors import StoreError
from park.store.dead_letters import DeadLetter
from tests.collector.running import at, collecting, mqtt, park_of, rows, until, until_stored
from tests.services.test_collector_database import refusing
from tests.services.test_collector_mqtt import publishing, reading
from tests.services.test_spool import in_spool

GAPS = "select source, meter, started_at, ended_at, cause from gap order by id"


def gap(start: float, end: float | None, cause: str = "lost", **more: object) -> Gap:
    return Gap("mqtt", micros(at(start)), None if end is None else micros(at(end)), cause, **more)


def letter(number: int) -> DeadLetter:
    return DeadLetter("mqtt", "plant/FT1", None, "payload is not JSON", "mqtt", b"{", 1,
                      datetime(2026, 3, 1, tzinfo=UTC) + timedelta(microseconds=number))


@pytest.fixture
def store(postgres_dsn: str):
    store = CollectorStore(postgres_dsn)
    yield store
    store.close()


def test_gaps_are_stored_changed_and_withdrawn_together(store: CollectorStore, postgres_dsn: str) -> None:
    gaps = [gap(0, None), gap(1, 2, meter="FT1"), gap(1, 3, meter="FT2"), gap(4, 5, withdrawn=True)]
    store.write(NOTHING, gaps)
    assert [one.id for one in gaps] == [1, 2, 3, None]
    gaps[0].ended_us = micros(at(9))
    gaps[1].withdrawn = True
    store.write(NOTHING, [*gaps, gap(7, 8)])
    assert rows(postgres_dsn, GAPS) == [
        ("mqtt", None, at(0), at(9), "lost"), ("mqtt", "FT2", at(1), at(3), "lost"),
        ("mqtt", None, at(7), at(8), "lost")]


def test_a_gap_whose_commit_was_reached_without_an_answer_is_stored_once_and_brought_up_to_date(
    store: CollectorStore, postgres_dsn: str
) -> None:
    store.write(NOTHING, [gap(0, None)])
    again = gap(0, 5)
    store.write(NOTHING, [again])
    assert again.id == 1
    assert rows(postgres_dsn, GAPS) == [("mqtt", None, at(0), at(5), "lost")]


def test_letters_whose_commit_was_reached_without_an_answer_are_stored_once(postgres_dsn: str) -> None:
    count = "select count(*), count(distinct received_at) from dead_letter"
    store = CollectorStore(postgres_dsn)
    store.keep([letter(number) for number in range(5)], 100)
    store.close()
    after = CollectorStore(postgres_dsn)            # of a collector that was killed before it heard of that commit
    after.keep([letter(number) for number in range(5)], 100)
    after.keep([letter(number) for number in range(5, 8)], 100)
    after.close()
    assert rows(postgres_dsn, count) == [(8, 8)]


async def test_letters_that_failed_are_stored_once_when_they_work(postgres_dsn: str) -> None:
    store = CollectorStore(postgres_dsn)
    store.keep([letter(0)], 100)
    async with refusing(postgres_dsn):
        with pytest.raises(StoreError):
            store.keep([letter(1)], 100)
    store.keep([letter(1)], 100)
    store.close()
    assert rows(postgres_dsn, "select count(*) from dead_letter") == [(2,)]


async def test_gaps_and_letters_that_a_killed_collector_left_in_its_spool_are_stored(
    broker, postgres_dsn: str, tmp_path: Path
) -> None:
    left = Spool(SpoolSettings(tmp_path / "spool"))
    open_or_rescue(left)
    known = gap(2, None)
    left.append(NOTHING, [gap(0, 1), known], [letter(number) for number in range(LetterLimits().batch + 5)])
    known.ended_us = micros(at(3))
    left.append(NOTHING, [known])
    left.close()
    park = park_of(mqtt("FT1"))
    options = {"broker": broker.url, "spool": SpoolSettings(tmp_path / "spool")}
    async with collecting(park, postgres_dsn, **options), publishing(broker) as publisher:
        await until(lambda: rows(postgres_dsn, "select count(*) from dead_letter") == [(LetterLimits().batch + 5,)])
        await publisher.send("plant/FT1", [reading(10, 1.0)])
        await until_stored(postgres_dsn, 1)
    assert rows(postgres_dsn, GAPS)[:2] == [
        ("mqtt", None, at(0), at(1), "lost"), ("mqtt", None, at(2), at(3), "lost")]
    after = Spool(SpoolSettings(tmp_path / "spool"))
    open_or_rescue(after)
    assert after.is_empty
    assert after.gaps() == []
    after.close()


async def test_a_gap_that_opens_while_the_database_is_away_is_on_disk(
    broker, postgres_dsn: str, tmp_path: Path
) -> None:
    park = park_of(mqtt("FT1"))
    folder = tmp_path / "spool"
    options = {"broker": broker.url, "spool": SpoolSettings(folder)}
    async with collecting(park, postgres_dsn, **options) as running, publishing(broker) as publisher:
        await publisher.send("plant/FT1", [reading(0, 1.0)])
        await until_stored(postgres_dsn, 1)
        async with refusing(postgres_dsn):
            await publisher.send("plant/FT1", [reading(1, 1.0)])        # so that it is noticed
            await running.saw("waiting")
            await until(lambda: in_spool(folder, "select count(*) from gap") > 0, "a gap in the spool")
            running.stop.set()
            await running.finish()
            running.ended = True
    assert in_spool(folder, "select count(*) from gap where started_us > 0") > 0

