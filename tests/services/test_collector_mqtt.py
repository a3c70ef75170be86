"""The collector on real MQTT brokers and a real PostgreSQL: each test with every broker that there is here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from collector.agent import collect
from collector.mqtt import link
from park.brokers import MqttBroker
from park.clock import REAL_TIME
from park.errors import InputError
from tests.collector.running import PATIENCE_S, at, collecting, mqtt, park_of, rows, spawned, until_stored
from tests.fixtures.broker import TestBroker, leave
from tests.fixtures.proxy import FaultProxy


class Publisher:
    """An instrument that publishes at QoS 1 and knows when the broker has it."""

    def __init__(self, client: paho.Client) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._on_the_way: set[int] = set()
        self._acknowledged = asyncio.Event()
        client.on_publish = lambda _c, _d, mid, *_: self._loop.call_soon_threadsafe(self._on_publish, mid)

    async def send(self, topic: str, payloads: Iterable[str | bytes], *, retain: bool = False) -> None:
        """Publish, and wait until the broker has all."""
        self._on_the_way |= {self._client.publish(topic, payload, qos=1, retain=retain).mid for payload in payloads}
        async with asyncio.timeout(PATIENCE_S):
            while self._on_the_way:
                self._acknowledged.clear()
                await self._acknowledged.wait()

    def _on_publish(self, mid: int) -> None:
        self._on_the_way.discard(mid)
        self._acknowledged.set()


@asynccontextmanager
async def publishing(broker: TestBroker) -> AsyncIterator[Publisher]:
    instrument = paho.Client(CallbackAPIVersion.VERSION2, client_id="publisher", clean_session=False)
    instrument.max_queued_messages_set(0)
    instrument.reconnect_delay_set(1, 1)
    await asyncio.to_thread(instrument.connect, "127.0.0.1", broker.port)
    instrument.loop_start()
    try:
        yield Publisher(instrument)
    finally:
        await asyncio.to_thread(leave, instrument)


def reading(tick: int, value: Any, **more: Any) -> str:
    return json.dumps({"value": value, "ts": at(tick).isoformat(), **more})


async def test_every_value_is_stored_once_in_si_with_its_status(any_broker, postgres_dsn):
    park = park_of(mqtt("FT1"), mqtt("TT1", quantity="temperature", unit="degC"))
    async with collecting(park, postgres_dsn, broker=any_broker.url) as running, publishing(any_broker) as publisher:
        assert await running.saw("armed") == {"opcua": 0, "mqtt": 2}
        await publisher.send("plant/FT1", [reading(tick, 36.0 + tick) for tick in range(500)])
        await publisher.send("plant/TT1", [reading(tick, 20.0, status=0x40930000) for tick in range(10)])
        await publisher.send("plant/TT1", [reading(10, None), reading(11, None, status=0x80310000)])
        await until_stored(postgres_dsn, 512)
    stored = rows(postgres_dsn)
    assert [row[1:] for row in stored if row[0] == "FT1"] == [
        (at(tick), (36.0 + tick) * (1000 / 3600), 0) for tick in range(500)]
    assert [row[2:] for row in stored if row[0] == "TT1"] == [
        *[(293.15, 0x40930000)] * 10, (None, 0x80000000), (None, 0x80310000)]
    assert rows(postgres_dsn, "select source, protocol, state, readings, rejected from collector_source") == [
        ("mqtt", "mqtt", "stopped", 512, 0)]


async def test_several_meters_share_a_topic(broker, postgres_dsn):
    paths = {"time": "$.at", "value": "$.flow[1]"}
    park = park_of(mqtt("FT1", "plant/box", paths=paths), mqtt("FT2", "plant/box", paths=paths | {"value": "$['f 2']"}))
    async with collecting(park, postgres_dsn, broker=broker.url), publishing(broker) as publisher:
        seconds = at(0).timestamp()
        await publisher.send("plant/box", [
            json.dumps({"at": seconds, "flow": [0, 3.6], "f 2": 7.2}),
            json.dumps({"at": seconds * 1e3 + 100, "f 2": 3.6}),
        ])
        await until_stored(postgres_dsn, 3)
    assert rows(postgres_dsn) == [("FT1", at(0), 1.0, 0), ("FT2", at(0), 2.0, 0), ("FT2", at(1), 1.0, 0)]


async def test_a_plain_number_is_kept_by_its_arrival_on_the_runs_clock(broker, postgres_dsn):
    park = park_of(mqtt("FT1", paths={}, unit="kg/s"))
    async with collecting(park, postgres_dsn, broker=broker.url), publishing(broker) as publisher:
        before = REAL_TIME.now()
        await publisher.send("plant/FT1", ["1.5", "2", "2"])
        await until_stored(postgres_dsn, 3)
    stored = rows(postgres_dsn, "select value, source_time = received_at, source_time from reading order by 3")
    assert [row[0] for row in stored] == [1.5, 2.0, 2.0]
    assert stored[0][1]
    assert stored[0][2].timestamp() == pytest.approx(before, abs=PATIENCE_S)


async def test_payloads_that_are_no_readings_are_counted_by_reason_and_stop_nothing(broker, postgres_dsn, caplog):
    park = park_of(mqtt("FT1"))
    bad = [b"{", b"\xff", b'{"value": "4", "ts": 1}', b'{"ts": 1772366400}', b'{"value": NaN, "ts": 1772366400}',
           b'{"value": 1}', b'{"value": 1, "ts": "yesterday"}', b'{"value": 1, "ts": "2026-03-01T12:00:00"}',
           b'{"value": 1, "ts": 12}', b'{"value": 1, "ts": "9999-01-01T00:00:00Z"}', b"[" * 100_000, b"", b"{", b"{"]
    async with collecting(park, postgres_dsn, broker=broker.url), publishing(broker) as publisher:
        await publisher.send("plant/FT1", bad)
        await publisher.send("plant/FT1", [reading(0, 3.6)])
        await until_stored(postgres_dsn, 1)
    assert rows(postgres_dsn) == [("FT1", at(0), 1.0, 0)]
    assert rows(postgres_dsn, "select rejected from collector_source") == [(len(bad),)]
    assert caplog.text.count("payload is not JSON") == 1
    assert caplog.text.count("rejected from") == 8


async def test_retained_messages_are_readings_by_their_own_time_only(broker, postgres_dsn):
    park = park_of(mqtt("FT1"), mqtt("FT2", paths={}))
    async with publishing(broker) as publisher:
        await publisher.send("plant/FT1", [reading(0, 3.6)], retain=True)
        await publisher.send("plant/FT2", ["3.6"], retain=True)
        async with collecting(park, postgres_dsn, broker=broker.url):
            await publisher.send("plant/FT1", [reading(1, 3.6)])
            await until_stored(postgres_dsn, 2)
    assert rows(postgres_dsn) == [("FT1", at(0), 1.0, 0), ("FT1", at(1), 1.0, 0)]
    assert rows(postgres_dsn, "select rejected from collector_source") == [(0,)]


async def test_what_comes_between_two_collectors_is_kept_by_the_broker(any_broker, postgres_dsn):
    park = park_of(mqtt("FT1"))
    async with publishing(any_broker) as publisher:
        for first in (0, 100):
            async with collecting(park, postgres_dsn, broker=any_broker.url):
                await publisher.send("plant/FT1", [reading(first + k, 1.0) for k in range(50)])
                await until_stored(postgres_dsn, first + 50)
            await publisher.send("plant/FT1", [reading(first + 50 + k, 1.0) for k in range(50)])
        async with collecting(park, postgres_dsn, broker=any_broker.url):
            await until_stored(postgres_dsn, 200)
    assert rows(postgres_dsn, "select * from gap where meter is null") == []


async def test_a_collector_that_is_killed_loses_nothing_that_the_broker_holds(any_broker, postgres_dsn):
    park = park_of(mqtt("FT1"))
    async with publishing(any_broker) as publisher:
        async with collecting(park, postgres_dsn, broker=any_broker.url):
            pass        # from here on the broker has a session
        for first in range(0, 400, 200):
            process = spawned(park, postgres_dsn, any_broker.url)
            await until_stored(postgres_dsn, first)
            await publisher.send("plant/FT1", [reading(first + k, float(k)) for k in range(200)])
            await until_stored(postgres_dsn, first + 20)
            process.kill()
            await asyncio.to_thread(process.wait)
        async with collecting(park, postgres_dsn, broker=any_broker.url):
            await until_stored(postgres_dsn, 400)
    assert rows(postgres_dsn, "select count(*), count(distinct source_time) from reading") == [(400, 400)]
    assert rows(postgres_dsn, "select * from reading_conflict") == []


async def test_a_broker_that_restarts_is_reached_again_and_what_it_forgot_is_a_gap(any_broker, postgres_dsn, caplog):
    async with collecting(park_of(mqtt("FT1")), postgres_dsn, broker=any_broker.url) as running:
        async with publishing(any_broker) as publisher:
            await publisher.send("plant/FT1", [reading(0, 1.0)])
            await until_stored(postgres_dsn, 1)
        running.forget()
        any_broker.stop()
        await running.saw("waiting")
        any_broker.start()
        await running.saw("collecting")
        async with publishing(any_broker) as publisher:
            await publisher.send("plant/FT1", [reading(10, 1.0)])
            await until_stored(postgres_dsn, 2)
    [(source, started, ended, cause)] = rows(
        postgres_dsn, "select source, started_at, ended_at, cause from gap where meter is null")
    assert (source, started, ended) == ("mqtt", at(0), at(10))
    assert cause.startswith("connection lost")
    assert caplog.text.count("mqtt: waiting") == 1


async def test_a_broker_restart_that_loses_nothing_leaves_no_gap(any_broker, postgres_dsn):
    park = park_of(mqtt("FT1"))
    async with publishing(any_broker) as publisher, collecting(park, postgres_dsn, broker=any_broker.url) as running:
        await publisher.send("plant/FT1", [reading(0, 1.0)])
        await until_stored(postgres_dsn, 1)
        running.forget()
        any_broker.stop()
        await running.saw("waiting")
        any_broker.start()
        await running.saw("collecting")
        await publisher.send("plant/FT1", [reading(k, 1.0) for k in range(1, 20)])
        await until_stored(postgres_dsn, 20)
    assert rows(postgres_dsn, "select * from gap where meter is null") == []


async def test_a_broker_that_comes_later_is_waited_for(broker, postgres_dsn):
    broker.stop()
    async with collecting(park_of(mqtt("FT1")), postgres_dsn, broker=broker.url, armed=False) as running:
        await running.saw("waiting")
        broker.start()
        await running.saw("armed")


async def test_a_broker_that_falls_silent_is_left_and_reached_again(broker, postgres_dsn, monkeypatch):
    monkeypatch.setattr(link, "SUBSCRIBE_S", 1.0)
    async with FaultProxy(broker.port) as proxy, publishing(broker) as publisher:
        entry = MqttBroker(id="b", url=f"mqtt://127.0.0.1:{proxy.port}", keepalive_s=1)
        park = park_of(mqtt("FT1")).model_copy(update={"brokers": (entry,)})
        async with collecting(park, postgres_dsn) as running:
            proxy.freeze()
            await publisher.send("plant/FT1", [reading(0, 1.0)])
            await running.saw("waiting")
            proxy.thaw()
            await running.saw("collecting")
            await until_stored(postgres_dsn, 1)


async def test_more_topics_than_one_subscribe_takes(broker, postgres_dsn):
    names = [f"FT{k}" for k in range(250)]
    park = park_of(*(mqtt(name) for name in names))
    async with collecting(park, postgres_dsn, broker=broker.url), publishing(broker) as publisher:
        for name in names:
            await publisher.send(f"plant/{name}", [reading(0, 1.0)])
        await until_stored(postgres_dsn, 250)


async def test_mqtt_meters_need_a_broker():
    with pytest.raises(InputError, match="no broker is given"):
        await collect(park_of(mqtt("FT1")), "host=/nowhere", REAL_TIME, stop=asyncio.Event())
