"""Simulated Sparkplug nodes, a real broker, the collector and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from collector.agent import collect
from collector.mqtt.broker import default_client_id
from collector.sparkplug import doubt
from park.clock import REAL_TIME
from park.errors import InputError
from simulators.instruments import Readings
from simulators.scenario import Scenario
from simulators.serve import simulate
from simulators.sparkplug_node import SparkplugNodes
from simulators.sparkplug_wire import Metric, payload
from tests.collector.running import INTERVAL_S, at, collecting, meter, park_of, rows, spawned, until_stored
from tests.fixtures.broker import MOSQUITTO, TestBroker, leave
from tests.simulators import parks
from tests.simulators.parks import until

HOST = f"spBv1.0/STATE/{default_client_id('Test park')}"
NO_COMMUNICATION = 0x80310000


def spark(id: str, metric: str, device: str | None = None, node: str = "e", **keys: Any) -> dict[str, Any]:
    return meter(id, {"sparkplug": {"group": "g", "edge_node": node, "device": device, "metric": metric}},
                 unit="kg/s", **keys)


PARK = park_of(spark("FT", "flow", "d"), spark("LT", "level"), spark("XT", "flow", "d", node="f"))


def readings(tick: int, *, bad: bool = False) -> Readings:
    time_us = round(at(tick).timestamp() * 1e6)
    values = np.array([float(tick), tick / 4, -float(tick)])
    statuses = np.zeros(3, dtype=np.uint32)
    if bad:
        values[1], statuses[:2] = np.nan, (0x40930000, 0x80310000)
    return Readings(time_us, np.arange(3), values, statuses)


@asynccontextmanager
async def nodes(broker: TestBroker) -> AsyncIterator[SparkplugNodes]:
    made = SparkplugNodes(broker.url, PARK, "nodes")
    await made.connect()
    try:
        yield made
    finally:
        await made.close()


@contextlib.contextmanager
def listening(broker: TestBroker, *topics: str, client_id: str = "listener") -> Any:
    """A plain client, and what it hears: topic, payload, retained."""
    heard: list[tuple[str, bytes, bool]] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
    client.on_connect = lambda *_: client.subscribe([(topic, 1) for topic in topics]) if topics else None
    client.on_message = lambda _c, _d, message: heard.append((message.topic, message.payload, bool(message.retain)))
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        yield client, heard
    finally:
        leave(client)


def stored(dsn: str, meter: str) -> list[tuple[Any, ...]]:
    return rows(dsn, f"select source_time, value, status from reading where meter = '{meter}' order by 1")


async def test_every_value_is_stored_once_over_a_restart_of_the_collector(any_broker, postgres_dsn):
    async with nodes(any_broker) as plant:
        first = 0
        for _ in range(3):
            async with collecting(PARK, postgres_dsn, broker=any_broker.url) as running:
                assert await running.saw("armed") == {"opcua": 0, "mqtt": 0, "sparkplug": 3}
                await until(lambda: all(node.live and node._hosts for node in plant._nodes.values()))
                for tick in range(first, first + 300):
                    plant.publish(readings(tick, bad=tick % 50 == 7))
                await until_stored(postgres_dsn, 3 * (first + 300))
            await until(lambda: not any(node.live for node in plant._nodes.values()))
            for tick in range(first + 300, first + 400):
                plant.publish(readings(tick))
            first += 400
        async with collecting(PARK, postgres_dsn, broker=any_broker.url):
            await until_stored(postgres_dsn, 3 * first)
    assert stored(postgres_dsn, "FT") == [
        (at(k), float(k), 0x40930000 if k % 50 == 7 and k % 400 < 300 else 0) for k in range(first)]
    assert stored(postgres_dsn, "LT") == [
        (at(k), None, NO_COMMUNICATION) if k % 50 == 7 and k % 400 < 300 else (at(k), k / 4, 0) for k in range(first)]
    assert stored(postgres_dsn, "XT") == [(at(k), -float(k), 0) for k in range(first)]
    assert rows(postgres_dsn, "select * from reading_conflict") == []
    assert rows(postgres_dsn, "select * from gap") == []


async def test_a_node_that_dies_makes_its_meters_bad_until_it_is_born_again(any_broker, postgres_dsn):
    async with collecting(PARK, postgres_dsn, broker=any_broker.url), nodes(any_broker) as plant:
        for tick in range(20):
            plant.publish(readings(tick))
        await until_stored(postgres_dsn, 60)
        plant._nodes["g", "e"]._client.socket().shutdown(2)        # the broker sees it go, and publishes its will
        await until_stored(postgres_dsn, 62)
        await until(lambda: plant._nodes["g", "e"].live)
        for tick in range(20, 40):
            plant.publish(readings(tick))
        await until_stored(postgres_dsn, 122)
    for name, sign in (("FT", 1.0), ("LT", 0.25)):
        good = [row for row in stored(postgres_dsn, name) if row[2] == 0]
        assert good == [(at(k), sign * k, 0) for k in range(40)]
        assert next(row[1:] for row in stored(postgres_dsn, name) if row[2]) == (None, NO_COMMUNICATION)
    assert len([row for row in stored(postgres_dsn, "XT") if row[2] == 0]) == 40


async def test_the_host_says_that_it_is_there_and_that_it_goes(broker, postgres_dsn):
    async with collecting(PARK, postgres_dsn, broker=broker.url):
        with listening(broker, "spBv1.0/STATE/+") as (client, heard):
            await until(lambda: heard)
            topic, first, _ = heard[0]              # kept, or live where the listener was faster
            assert (topic, json.loads(first)["online"]) == (HOST, True)
            client.publish(HOST, json.dumps({"online": False, "timestamp": 1}), 1, retain=True)
            await until(lambda: json.loads(heard[-1][1])["online"] is True and len(heard) > 2)
    with listening(broker, "spBv1.0/STATE/+") as (_, heard):
        await until(lambda: heard)
        _, last, retained = heard[0]
    assert json.loads(last) == {"online": False, "timestamp": json.loads(first)["timestamp"]}
    assert retained


async def test_data_of_a_node_that_nobody_knows_bring_one_request_for_a_rebirth(broker, postgres_dsn):
    with listening(broker, "spBv1.0/g/NCMD/e") as (client, heard):
        async with collecting(PARK, postgres_dsn, broker=broker.url):
            for seq in range(5):
                data = payload(round(at(seq).timestamp() * 1000), [Metric(1.5, alias=9)], seq)
                client.publish("spBv1.0/g/NDATA/e", data)
            await until(lambda: heard)
            birth = [Metric(0, name="bdSeq", datatype=4), Metric(2.5, "level", 9, round(at(9).timestamp() * 1000), 10)]
            client.publish("spBv1.0/g/NBIRTH/e", payload(1, birth, 0))
            await until_stored(postgres_dsn, 1)
    assert len(heard) == 1
    assert rows(postgres_dsn) == [("LT", at(9), 2.5, 0)]
    assert rows(postgres_dsn, "select source, rejected from collector_source") == [("sparkplug", 5)]


async def test_a_simulated_park_plays_its_sparkplug_meters(broker, postgres_dsn, tmp_path):
    source = {"sparkplug": {"group": "g", "edge_node": "e", "device": "d", "metric": "flow"}}
    park = parks.park_of([parks.meter("A0", source=source, interval_s=0.5), parks.meter(
        "A1", side="receiver", source=parks.over_mqtt("A1"), interval_s=0.5)])
    stop, said = asyncio.Event(), []
    async with collecting(park, postgres_dsn, broker=broker.url) as running:
        assert await running.saw("armed") == {"opcua": 0, "mqtt": 1, "sparkplug": 1}
        task = asyncio.create_task(simulate(
            park, Scenario(), REAL_TIME, seed=1, endpoints={}, broker=broker.url, sent=tmp_path / "sent.csv",
            truth=tmp_path / "truth.csv", faults=tmp_path / "faults.csv", stop=stop, armed=asyncio.Event(),
            on_state=lambda name, data: said.append((name, data))))
        await until_stored(postgres_dsn, 10)
        stop.set()
        await task
    sent = [line for line in (tmp_path / "sent.csv").read_text("utf-8").splitlines() if line.startswith("A0")]
    kept = [row for row in stored(postgres_dsn, "A0") if row[2] == 0]
    assert len(kept) == len(sent)
    assert dict(said)["serving"] == {"opcua": 0, "mqtt": 1, "sparkplug": 1, "endpoints": {}}


async def test_sparkplug_meters_need_a_broker():
    with pytest.raises(InputError, match="Sparkplug meters, but no broker is given"):
        await collect(PARK, "host=/nowhere", REAL_TIME, stop=asyncio.Event())


async def test_an_interval_finer_than_sparkplugs_times_is_refused():
    park = park_of(spark("FT", "flow") | {"interval_s": 0.0005})
    with pytest.raises(InputError, match="whole milliseconds"):
        SparkplugNodes("mqtt://127.0.0.1:1", park, "nodes")
    assert INTERVAL_S * 1000 == 100


class Samples:
    """Readings that the nodes publish each interval of the real clock, and what they were."""

    def __init__(self, plant: SparkplugNodes) -> None:
        self._plant = plant
        self.sent: dict[tuple[str, datetime], float] = {}

    async def publish(self) -> None:
        """Sample for ever."""
        interval_us = round(INTERVAL_S * 1e6)
        time_us = time.time_ns() // 1000 // interval_us * interval_us
        while True:
            time_us += interval_us
            await asyncio.sleep(max(0.0, time_us / 1e6 - time.time()))
            values = np.array([len(self.sent) + k for k in (0.25, 0.5, 0.75)])
            when = datetime.fromtimestamp(time_us // 1_000_000, UTC).replace(microsecond=time_us % 1_000_000)
            self.sent |= {(meter, when): float(value) for meter, value in zip(METERS, values, strict=True)}
            self._plant.publish(Readings(time_us, np.arange(3), values, np.zeros(3, dtype=np.uint32)))


METERS = [meter.id for meter in PARK.meters]


@pytest.mark.skipif(MOSQUITTO is None, reason="iotcore keeps nothing over a kill")
async def test_collector_and_broker_are_killed_and_what_is_not_stored_is_marked(broker, postgres_dsn):
    async with nodes(broker) as plant:
        process = spawned(PARK, postgres_dsn, broker.url)
        await until(lambda: all(node.live and node._hosts for node in plant._nodes.values()))
        samples = Samples(plant)
        sampling = asyncio.create_task(samples.publish())
        try:
            await until_stored(postgres_dsn, 30)
            process.kill()
            await asyncio.to_thread(process.wait)
            await until(lambda: not any(node.live for node in plant._nodes.values()))
            kept = len(samples.sent)
            await until(lambda: len(samples.sent) > kept + 15)
            process = spawned(PARK, postgres_dsn, broker.url)
            await until(lambda: all(node.live for node in plant._nodes.values()))
            await until_stored(postgres_dsn, kept + 30)
            broker.stop(kill=True)
            await until(lambda: not any(node._there for node in plant._nodes.values()))
            broker.start()
            after = datetime.now(UTC)
            await until(lambda: len(stored_since(postgres_dsn, after)) > 30)
        finally:
            sampling.cancel()
            process.kill()
            await asyncio.to_thread(process.wait)
        async with collecting(PARK, postgres_dsn, broker=broker.url):
            await until(lambda: not any(node.pending for node in plant._nodes.values()))
            last = max(when for _, when in samples.sent)
            await until(lambda: len(stored_since(postgres_dsn, last)) >= 3)
    good = {(row[0], row[1]): row[2] for row in rows(postgres_dsn) if row[3] == 0}
    assert good.items() <= samples.sent.items()             # nothing altered, nothing that was never sent
    gaps = rows(postgres_dsn, "select meter, started_at, ended_at from gap")
    missing = samples.sent.keys() - good.keys()
    unmarked = [(name, when) for name, when in missing if not any(
        of in (None, name) and begun <= when and (end is None or when <= end) for of, begun, end in gaps)]
    assert unmarked == []
    assert len(missing) < len(samples.sent) / 2
    assert rows(postgres_dsn, "select * from reading_conflict") == []


def stored_since(dsn: str, when: datetime) -> list[Any]:
    """Good readings from an instant on."""
    return [row for row in rows(dsn) if row[1] >= when and row[3] == 0]


def on_change() -> Any:
    return park_of(*(spark(id, metric, device, sampling="on_change", stale_after_s=None) for id, metric, device in (
        ("FT", "flow", "d"), ("LT", "level", None))))


def born(node: Any) -> None:
    """Let a node be born with a level, and without its device."""
    birth = [Metric(3, name="bdSeq", datatype=4), Metric(2.5, "level", 9, round(time.time() * 1000), 10)]
    node.publish("spBv1.0/g/NBIRTH/e", payload(1, birth, 0), 1).wait_for_publish(5)


@pytest.mark.parametrize("last_will", [True, False])
async def test_a_node_that_dies_while_the_collector_is_away_makes_its_meters_bad(
    broker, postgres_dsn, monkeypatch, last_will
):
    if last_will and MOSQUITTO is None:
        pytest.skip("iotcore keeps nothing for us at QoS 1 over our absence")
    with listening(broker, "spBv1.0/g/NCMD/e") as (node, heard):
        async with collecting(on_change(), postgres_dsn, broker=broker.url):
            born(node)
            await until(lambda: stored(postgres_dsn, "LT"))
        heard.clear()
        monkeypatch.setattr(doubt, "ANSWER_S", 0.3)
        if last_will:
            death = payload(1, [Metric(3, name="bdSeq", datatype=4)], None)
            node.publish("spBv1.0/g/NDEATH/e", death, 1).wait_for_publish(5)
        async with collecting(on_change(), postgres_dsn, broker=broker.url):
            await until(lambda: len(stored(postgres_dsn, "LT")) == 2)
            await until(lambda: rows(postgres_dsn, "select from gap where ended_at is not null"))
        await until(lambda: heard)
    assert [row[1:] for row in stored(postgres_dsn, "LT")] == [(2.5, 0), (None, NO_COMMUNICATION)]
    assert {row[1:] for row in stored(postgres_dsn, "FT")} == {(None, NO_COMMUNICATION)}


async def test_nodes_that_die_with_the_broker_make_their_meters_bad_and_windows_wait_for_it(broker, postgres_dsn):
    def complete_to() -> Any:
        [(at_,)] = rows(postgres_dsn, "select complete_to from source_mark where source = 'sparkplug'")
        return at_

    async with collecting(on_change(), postgres_dsn, broker=broker.url):
        with listening(broker) as (node, _):
            born(node)
            await until(lambda: stored(postgres_dsn, "LT") and stored(postgres_dsn, "FT"))
            await until(lambda: rows(postgres_dsn, "select from source_mark where complete_to is not null"))
        broker.stop(kill=True)
        await until(lambda: rows(postgres_dsn, "select from collector_source where state = 'waiting'"))
        broker.start()
        marks = []
        while len(stored(postgres_dsn, "LT")) < 2:
            marks.append(complete_to())
            await asyncio.sleep(0.1)
        died, value, status = stored(postgres_dsn, "LT")[-1]
        assert (value, status) == (None, NO_COMMUNICATION)
        assert max(marks) <= died
        await until(lambda: complete_to() > died)
