"""The simulated MQTT instruments at real brokers: everything arrives, also when the broker comes late or goes away."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from park.errors import InputError
from simulators.instruments import Readings
from simulators.mqtt_publisher import MqttPublisher
from tests.fixtures.broker import TestBroker, leave
from tests.simulators.parks import meter, over_mqtt, park_of, until

START_US = 1_800_000_000_000_000
PARK = park_of([meter("FT1", source=over_mqtt("FT1")), meter("FT2", source=over_mqtt("FT2", "werk/äöü/FT 2"))])


def readings(step: int) -> Readings:
    return Readings(START_US + step * 1_000_000, np.arange(2), np.array([float(step), -float(step)]),
                    np.zeros(2, dtype=np.uint32))


@contextmanager
def listening(broker: TestBroker) -> Iterator[list[tuple[str, float]]]:
    """A subscriber with a persistent session, and what it has heard: topic and value."""
    heard: list[tuple[str, float]] = []
    subscribed = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
    client.on_connect = lambda *arguments: client.subscribe("#", qos=1)
    client.on_subscribe = lambda *arguments: subscribed.set()
    client.on_message = lambda c, d, message: heard.append((message.topic, json.loads(message.payload)["value"]))
    client.reconnect_delay_set(1, 1)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    assert subscribed.wait(10)
    yield heard
    leave(client)


@asynccontextmanager
async def publishing(broker: TestBroker) -> AsyncIterator[MqttPublisher]:
    publisher = MqttPublisher(broker.url, PARK, "instruments")
    yield publisher
    await publisher.close()


async def test_every_reading_arrives_and_is_acknowledged(any_broker: TestBroker):
    with listening(any_broker) as heard:
        async with publishing(any_broker) as publisher:
            await publisher.connect()
            for step in range(1000):
                publisher.publish(readings(step))
            async with asyncio.timeout(20):
                await publisher.drain()
            assert publisher.pending == 0
            await until(lambda: len(heard) >= 2000)
    assert [value for topic, value in heard if topic == "plant/FT1"] == list(range(1000))
    assert [value for topic, value in heard if topic == "werk/äöü/FT 2"] == [-value for value in range(1000)]


async def test_a_broker_that_comes_late_gets_everything_and_is_missed_once(
    any_broker: TestBroker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("simulators.mqtt_publisher.BACK_OFF_S", (0.1, 0.2))
    any_broker.stop()
    with caplog.at_level(logging.WARNING, "simulators"):
        async with publishing(any_broker) as publisher:
            connecting = asyncio.create_task(publisher.connect())
            publisher.publish(readings(1))
            await until(lambda: caplog.messages)
            await asyncio.sleep(0.7)                                   # time for more than one attempt
            assert not connecting.done()
            assert publisher.pending == 2
            any_broker.start()
            async with asyncio.timeout(20):
                await connecting
                await publisher.drain()
    assert caplog.messages == [f"broker {any_broker.url} is away; trying again"]


async def test_what_was_not_acknowledged_is_sent_again_after_the_broker_was_killed(broker: TestBroker):
    async with publishing(broker) as publisher:
        await publisher.connect()
        publisher.publish(readings(0))
        await publisher.drain()
        broker.stop(kill=True)
        for step in range(1, 300):
            publisher.publish(readings(step))
        assert publisher.pending == 2 * 299
        broker.start()
        with listening(broker) as heard:
            async with asyncio.timeout(20):
                await publisher.drain()
            await until(lambda: ("plant/FT1", 299.0) in heard)
            # the first messages may pass before the listener has subscribed
            values = [value for topic, value in heard if topic == "plant/FT1"]
            assert sorted(set(values)) == list(np.arange(min(values), 300))


async def test_a_full_backlog_gives_up_new_messages_and_counts_them(
    any_broker: TestBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("simulators.mqtt_publisher.BACKLOG", 10)
    any_broker.stop()
    async with publishing(any_broker) as publisher:
        for step in range(100):
            publisher.publish(readings(step))
        assert publisher.pending == 110                               # 100 in flight and the backlog
        assert publisher.lost == 90
    assert caplog.messages == [f"10 messages wait for {any_broker.url}: new ones are given up"]


@pytest.mark.parametrize("url", ["127.0.0.1:1883", "http://127.0.0.1", "mqtt://"])
async def test_a_url_that_is_none_is_told(url: str):
    with pytest.raises(InputError, match="must be mqtt://host:port"):
        MqttPublisher(url, PARK, "instruments")
