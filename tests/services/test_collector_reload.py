"""A park that changes under a running collector: real servers, a real broker and database, real files."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from park import watch as watching
from park.load import load_park
from park.watch import ParkWatch
from tests.collector.running import (
    PATIENCE_S,
    Running,
    collecting,
    mqtt,
    opcua,
    park_of,
    rows,
    until,
    until_stored,
)
from tests.services.test_collector_mqtt import publishing

BEAT_S = 0.1
# On a busy machine our own instruments fall silent for longer than a few beats, which is rightly marked.
GAPS = "select * from gap where cause not like 'nothing came%'"


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch):
    monkeypatch.setattr(watching, "LOOK_S", 0.05)


class Plant:
    """A collector, the file of its park, and what became of changes."""

    def __init__(self, path: Path, *meters: dict[str, Any]) -> None:
        self.path = path
        self.registry = CollectorRegistry()
        self.said: list[tuple[str, str]] = []
        self.running: Running
        self.write(*meters)
        self.park = load_park(path)
        self.watch = ParkWatch(path, self.park, lambda *said: self.said.append(said))

    def write(self, *meters: dict[str, Any], **sections: Any) -> None:
        """Save the park with these meters and other sections: JSON is YAML."""
        park = json.loads(park_of(*meters).model_dump_json(by_alias=True, exclude_defaults=True)) | sections
        self.path.write_text(json.dumps({key: value for key, value in park.items() if value}))

    async def change(self, *meters: dict[str, Any], **sections: Any) -> tuple[str, str]:
        """Save the park with other meters or sections, and wait until that is answered."""
        count = len(self.said)
        self.write(*meters, **sections)
        async with asyncio.timeout(PATIENCE_S):
            while len(self.said) == count:      # noqa: ASYNC110 - the watch tells nobody else
                await asyncio.sleep(0.02)
        return self.said[-1]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@asynccontextmanager
async def plant(path: Path, dsn: str, *meters: dict[str, Any], **options: Any) -> AsyncIterator[Plant]:
    of = Plant(path / "park.yaml", *meters)
    async with collecting(of.park, dsn, watch=of.watch, metrics=of.registry, **options) as of.running:
        yield of


@asynccontextmanager
async def beating(push: Callable[[datetime], Awaitable[None]]) -> AsyncIterator[list[datetime]]:
    """Let an instrument sample all the while; give the times of what it has sent."""
    sent: list[datetime] = []

    async def beat() -> None:
        while True:
            now = datetime.now(UTC)
            sent.append(now)
            await push(now)
            await asyncio.sleep(BEAT_S)
    task = asyncio.create_task(beat())
    try:
        yield sent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def stored(dsn: str, meter: str) -> list[datetime]:
    return [time for (time,) in rows(dsn, f"select source_time from reading where meter = '{meter}' order by 1")]


async def test_opcua_tags_come_and_go_over_one_subscription_and_no_reading_of_others_is_touched(
    opcua_server, postgres_dsn, tmp_path
):
    server = await opcua_server(["FT1", "FT2", "FT3"])
    first, second, third = (opcua(server.url, id) for id in ("FT1", "FT2", "FT3"))
    async with plant(tmp_path, postgres_dsn, first, second) as of:
        async with beating(lambda now: server.push("FT1", 1.0, now)) as sent:
            await server.push("FT2", 2.0, datetime.now(UTC))
            await until_stored(postgres_dsn, 5)
            assert await of.change(first, third) == (
                "applied", "park.yaml has changed: meter 'FT3' added, meter 'FT2' dropped; meters collected now: 2")
            dropped = datetime.now(UTC)
            await server.push("FT2", 2.5, dropped)
            await server.push("FT3", 3.0, datetime.now(UTC))
            await until(lambda: len(stored(postgres_dsn, "FT3")) == 1, "FT3")
            after = len(sent)
            await until(lambda: len(stored(postgres_dsn, "FT1")) > after, "FT1 after the change")
        await until(lambda: len(stored(postgres_dsn, "FT1")) >= len(sent) - 1, "all but the last, which was cut off")
        source = f"opcua:{server.url}"
        assert of.metric("symbiosis_source_connects_total", source=source) == 1
        assert of.metric("symbiosis_readings_repeated_total") == 0
    assert stored(postgres_dsn, "FT1") == sent[: len(stored(postgres_dsn, "FT1"))]
    assert dropped not in stored(postgres_dsn, "FT2")
    assert rows(postgres_dsn, GAPS) == []
    assert rows(postgres_dsn, "select * from reading_conflict") == []


async def test_mqtt_topics_come_and_go_over_one_connection(broker, postgres_dsn, tmp_path):
    first, second, third = mqtt("A"), mqtt("B"), mqtt("C")

    def payload(now: datetime) -> list[str]:
        return [json.dumps({"value": 1.0, "ts": now.isoformat()})]

    async with (
        plant(tmp_path, postgres_dsn, first, second, broker=broker.url) as of,
        publishing(broker) as instrument,
    ):
        async with beating(lambda now: instrument.send("plant/A", payload(now))) as sent:
            await until_stored(postgres_dsn, 5)
            assert (await of.change(first, third))[0] == "applied"
            await instrument.send("plant/B", payload(datetime.now(UTC)))
            await instrument.send("plant/C", payload(datetime.now(UTC)))
            await until(lambda: len(stored(postgres_dsn, "C")) == 1, "C")
            after = len(sent)
            await until(lambda: len(stored(postgres_dsn, "A")) > after, "A after the change")
        await until(lambda: len(stored(postgres_dsn, "A")) >= len(sent) - 1, "all but the last, which was cut off")
        assert of.metric("symbiosis_source_connects_total", source="mqtt") == 1
    assert stored(postgres_dsn, "A") == sent[: len(stored(postgres_dsn, "A"))]
    assert stored(postgres_dsn, "B") == []
    assert rows(postgres_dsn, GAPS) == []


async def test_a_server_that_comes_and_one_that_goes_touch_no_other(opcua_server, postgres_dsn, tmp_path):
    stays, goes, comes = [await opcua_server([id]) for id in ("FT1", "FT2", "FT3")]
    first, second, third = opcua(stays.url, "FT1"), opcua(goes.url, "FT2"), opcua(comes.url, "FT3")
    async with plant(tmp_path, postgres_dsn, first, second) as of:
        assert (await of.change(first, third))[0] == "applied"
        await stays.push("FT1", 1.0, datetime.now(UTC))
        await until(lambda: of.metric("symbiosis_source_up", source=f"opcua:{comes.url}") == 1, "the new server")
        await comes.push("FT3", 3.0, datetime.now(UTC))
        await until_stored(postgres_dsn, 2)
        assert of.metric("symbiosis_source_connects_total", source=f"opcua:{stays.url}") == 1
        assert of.metric("symbiosis_source_up", source=f"opcua:{goes.url}") == 0
        await until(lambda: dict(rows(postgres_dsn, "select source, state from collector_source")) == {
            f"opcua:{stays.url}": "receiving", f"opcua:{goes.url}": "stopped", f"opcua:{comes.url}": "receiving"})


async def test_a_server_whose_settings_have_changed_is_connected_anew_and_no_other(
    opcua_server, postgres_dsn, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "collector")
    same, other = [await opcua_server([id]) for id in ("FT1", "FT2")]
    first, second = opcua(same.url, "FT1"), opcua(other.url, "FT2")
    async with plant(tmp_path, postgres_dsn, first, second) as of:
        settings = [{"id": "other", "endpoint": other.url, "publishing_interval_ms": 200}]
        assert (await of.change(first, second, servers=settings))[0] == "applied"
        await until(lambda: caplog.text.count(f"opcua:{other.url}: receiving") == 2, "the new connection")
        await same.push("FT1", 1.0, datetime.now(UTC))
        await other.push("FT2", 2.0, datetime.now(UTC))
        await until_stored(postgres_dsn, 2)
        assert caplog.text.count(f"opcua:{same.url}: receiving") == 1


async def test_a_meter_that_is_read_in_another_unit_keeps_what_was_read_in_the_old_one(
    opcua_server, postgres_dsn, tmp_path
):
    server = await opcua_server(["FT1"])
    async with plant(tmp_path, postgres_dsn, opcua(server.url, "FT1", unit="t/h")) as of:
        await server.push("FT1", 3.6, datetime(2026, 3, 1, tzinfo=UTC))
        await until_stored(postgres_dsn, 1)
        result, line = await of.change(opcua(server.url, "FT1", unit="kg/s"))
        assert result == "applied"
        assert line.endswith("meter 'FT1' has another unit; meters collected now: 1, in another way than before: 1")
        await server.push("FT1", 3.6, datetime(2026, 3, 2, tzinfo=UTC))
        await until_stored(postgres_dsn, 2)
    assert [value for (value,) in rows(postgres_dsn, "select value from reading order by source_time")] == [1.0, 3.6]


async def test_a_change_of_units_while_readings_come_leaves_no_gap(broker, postgres_dsn, tmp_path):
    units = [mqtt("A", unit=unit, interval_s=2.0) for unit in ("kg/s", "t/h")]
    async with (
        plant(tmp_path, postgres_dsn, units[0], broker=broker.url) as of,
        publishing(broker) as instrument,
        beating(lambda now: instrument.send("plant/A", [json.dumps({"value": 1.0, "ts": now.isoformat()})])) as sent,
    ):
        for number in range(1, 3):
            after = len(sent)
            await until(lambda after=after: len(stored(postgres_dsn, "A")) > after + 35, "A before the change")
            assert (await of.change(units[number % 2]))[0] == "applied"
    assert rows(postgres_dsn, "select meter, cause, started_at, ended_at from gap") == []


async def test_a_change_that_cannot_be_put_into_force_is_refused_and_nothing_has_changed(
    opcua_server, postgres_dsn, tmp_path
):
    """A park file without faults, but with MQTT meters where no broker is known."""
    server = await opcua_server(["FT1", "FT2"])
    first, second = opcua(server.url, "FT1"), opcua(server.url, "FT2")
    async with plant(tmp_path, postgres_dsn, first) as of:
        result, why = await of.change(first, second, mqtt("C"))
        assert result == "refused"
        assert "no broker is given" in why
        await server.push("FT2", 2.0, datetime.now(UTC))
        await server.push("FT1", 1.0, datetime.now(UTC))
        await until_stored(postgres_dsn, 1)
        assert of.metric("symbiosis_source_connects_total", source=f"opcua:{server.url}") == 1
        assert (await of.change(first, second))[0] == "applied"
        await until(lambda: len(stored(postgres_dsn, "FT2")) == 1, "FT2, whose value waits at the server")
