"""A collector without processing beside it: its park is in the store, so that boards show what it collects."""

from __future__ import annotations

from pathlib import Path

import psycopg

from collector import storing
from park.model import Park
from park.store import load_stored_park
from tests.collector.running import collecting, mqtt, park_of, rows, until, until_stored
from tests.services.test_collector_mqtt import publishing, reading
from tests.services.test_collector_reload import plant

SHOWN = "select source, open_gaps from source_completeness"


def stored(dsn: str) -> list[Park]:
    with psycopg.connect(dsn) as conn:
        return [load_stored_park(conn, number) for (number,) in conn.execute("select id from park_version order by id")]


async def test_boards_show_the_sources_of_a_collector_alone(broker, postgres_dsn: str) -> None:
    park = park_of(mqtt("FT1"))
    for _ in range(2):          # and a second start stores nothing more
        async with collecting(park, postgres_dsn, broker=broker.url), publishing(broker) as publisher:
            await publisher.send("plant/FT1", [reading(0, 1.0)])
            await until_stored(postgres_dsn, 1)
            await until(lambda: bool(rows(postgres_dsn, SHOWN)), "the source on the board")
        assert stored(postgres_dsn) == [park]
    assert [row[0] for row in rows(postgres_dsn, "select meter from meter_completeness")] == ["FT1"]


async def test_a_park_that_cannot_be_stored_is_said_once_and_holds_up_no_reading(
    broker, postgres_dsn: str, caplog, monkeypatch
) -> None:
    caplog.set_level("INFO", "collector")
    monkeypatch.setattr(storing, "DESCRIBE_AGAIN_S", 0.1)
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:
        conn.execute("alter table park_meter rename to elsewhere")
        async with collecting(park_of(mqtt("FT1")), postgres_dsn, broker=broker.url), publishing(broker) as publisher:
            await until(lambda: "description cannot be stored" in caplog.text, "the warning")
            await publisher.send("plant/FT1", [reading(tick, 1.0) for tick in range(3)])
            await until_stored(postgres_dsn, 3)
            conn.execute("alter table elsewhere rename to park_meter")
            await until(lambda: "the park's description is stored" in caplog.text, "the description")
    assert caplog.text.count("description cannot be stored") == 1
    assert len(stored(postgres_dsn)) == 1


async def test_a_park_that_has_changed_is_stored_too(broker, postgres_dsn: str, tmp_path: Path) -> None:
    async with plant(tmp_path, postgres_dsn, mqtt("FT1"), broker=broker.url) as running:
        await until(lambda: len(stored(postgres_dsn)) == 1, "the park")
        await running.change(mqtt("FT1"), mqtt("FT2"))
        await until(lambda: len(stored(postgres_dsn)) == 2, "the changed park")
    assert [meter.id for meter in stored(postgres_dsn)[-1].meters] == ["FT1", "FT2"]
