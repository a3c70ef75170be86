"""How brokers are reached, on real ones: MQTT 5, TLS both ways, users, shared subscriptions, several, changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.backoff import Backoff
from collector.batches import Batches
from collector.mqtt.broker import broker_of, brokers_of
from collector.mqtt.client import MqttSource
from collector.mqtt.listen import listen
from collector.mqtt.payload import Topics, rules_of
from collector.register import register_of
from collector.rejections import Rejections
from collector.sparkplug.client import SparkplugSource
from collector.sparkplug.host import Host
from collector.status import SourceStatus
from park.brokers import MqttBroker, Tls
from park.clock import REAL_TIME
from park.errors import BrokerError, InputError
from park.model import Park
from park.secret import Secret
from simulators.sparkplug_wire import DOUBLE, INT64, Metric, payload
from symbiosis.services import broker_of_simulation, default_broker
from tests.collector.running import at, collecting, meter, mqtt, park_of, rows, until, until_stored
from tests.fixtures import broker as brokers
from tests.fixtures.authority import Authority
from tests.fixtures.broker import MOSQUITTO, TestBroker
from tests.services.test_collector_mqtt import publishing, reading
from tests.services.test_sparkplug import listening

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="iotcore has no TLS, users and shared subscriptions")


def at_brokers(park: Park, *entries: MqttBroker) -> Park:
    """The park with these brokers."""
    return park.model_copy(update={"brokers": entries})


def of_broker(url: str, **keys: Any) -> Park:
    """A park with one meter at one broker."""
    return at_brokers(park_of(mqtt("FT1")), MqttBroker(id="b", url=url, **keys))


@contextlib.contextmanager
def mosquitto(folder: Path, more: str) -> Iterator[TestBroker]:
    """A mosquitto with more lines of configuration; its plain listener, for instruments, stays open to all."""
    as_us = "user root\n" if os.geteuid() == 0 else ""       # else it gives up root, and cannot read the test's files
    broker = TestBroker("mosquitto", folder, as_us + more)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def over_tls(authority: Authority, port: int, host: str = "127.0.0.1", more: str = "") -> str:
    """The lines of a listener with a certificate for a host."""
    certificate, key = authority.sign("server", host)
    return (f"listener {port} 127.0.0.1\ncafile {authority.file}\ncertfile {certificate}\nkeyfile {key}\n"
            f"allow_anonymous true\n{more}\n")


def password_file(folder: Path, user: str, password: str) -> Path:
    """Mosquitto's file of users."""
    file = folder / "users"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(file), user, password], check=True)
    return file


@pytest.fixture
def port() -> int:
    return brokers.free_port()


async def stores(park: Park, broker: TestBroker, dsn: str) -> None:
    """Collect a park until a reading of FT1, published at the plain listener, is stored."""
    async with collecting(park, dsn), publishing(broker) as publisher:
        await publisher.send("plant/FT1", [reading(0, 3.6)])
        await until_stored(dsn, 1)
    assert rows(dsn) == [("FT1", at(0), 1.0, 0)]


@needs_mosquitto
@pytest.mark.parametrize("password", [None, "tell nobody"])
async def test_both_sides_show_certificates(authority, port, tmp_path, postgres_dsn, monkeypatch, password):
    monkeypatch.setenv("KEY_SECRET", "tell nobody")
    certificate, key = authority.sign("collector", password=password)
    tls = Tls(ca_file=str(authority.file), cert_file=str(certificate), key_file=str(key),
              key_password=Secret(env="KEY_SECRET") if password else None)
    with mosquitto(tmp_path, over_tls(authority, port, more="require_certificate true")) as broker:
        await stores(of_broker(f"mqtts://127.0.0.1:{port}", tls=tls, version="5"), broker, postgres_dsn)


@needs_mosquitto
async def test_without_an_entry_the_authorities_of_the_system_are_trusted(
    authority, port, tmp_path, postgres_dsn, monkeypatch
):
    url = f"mqtts://127.0.0.1:{port}"
    with mosquitto(tmp_path, over_tls(authority, port)) as broker:
        with pytest.raises(BrokerError, match="certificate verify failed"):
            await asyncio.to_thread(listen, broker_of(url, "P"), seconds=0.2)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        async with publishing(broker) as publisher:
            await publisher.send("plant/FT1", ["1.5"], retain=True)
            offer = await asyncio.to_thread(listen, broker_of(url, "P"), seconds=0.5)
            assert [found.names for found in offer.found] == [["plant.FT1", "plant.FT1"]]
            async with collecting(park_of(mqtt("FT1", paths={})), postgres_dsn, broker=url):
                await publisher.send("plant/FT1", ["3.6"])
                await until_stored(postgres_dsn, 1)


def test_a_park_with_brokers_needs_no_other():
    assert default_broker(of_broker("mqtt://h")) == ""
    assert default_broker(park_of(mqtt("FT1"))).startswith("mqtt://127.0.0.1")


def test_a_simulation_publishes_to_the_only_broker_of_the_park():
    one = MqttBroker(id="b", url="mqtt://h")
    assert broker_of_simulation(of_broker("mqtt://h")) == "mqtt://h"
    assert broker_of_simulation(park_of(mqtt("FT1"))).startswith("mqtt://127.0.0.1")
    assert broker_of_simulation(at_brokers(park_of(mqtt("FT1")), one, one)).startswith("mqtt://127.0.0.1")


@needs_mosquitto
async def test_a_broker_that_is_not_trusted_is_waited_for_and_said(authority, port, tmp_path, postgres_dsn):
    url = f"mqtts://127.0.0.1:{port}"
    with mosquitto(tmp_path, over_tls(authority, port)):
        park = of_broker(url, tls=Tls(ca_file=str(Authority(tmp_path, "another").file)))
        async with collecting(park, postgres_dsn, armed=False) as running:
            assert "certificate verify failed" in str(await running.saw("waiting"))


@needs_mosquitto
async def test_a_broker_that_does_not_trust_us_is_waited_for_and_said(authority, port, tmp_path, postgres_dsn):
    park = of_broker(f"mqtts://127.0.0.1:{port}", tls=Tls(ca_file=str(authority.file)))
    with mosquitto(tmp_path, over_tls(authority, port, more="require_certificate true")):
        async with collecting(park, postgres_dsn, armed=False) as running:
            why = str(await running.saw("waiting"))
            assert "(hint: the broker may ask for a certificate of ours: tls.cert_file" in why
            assert not any(said == "armed" for said, _ in running.said)


@needs_mosquitto
async def test_the_name_in_a_certificate_is_checked_unless_told_otherwise(authority, port, tmp_path, postgres_dsn):
    url, trusted = f"mqtts://127.0.0.1:{port}", str(authority.file)
    with mosquitto(tmp_path, over_tls(authority, port, "broker.elsewhere")) as broker:
        async with collecting(of_broker(url, tls=Tls(ca_file=trusted)), postgres_dsn, armed=False) as running:
            assert "not valid for '127.0.0.1'" in str(await running.saw("waiting"))
        await stores(of_broker(url, tls=Tls(ca_file=trusted, check_name=False)), broker, postgres_dsn)


@needs_mosquitto
async def test_a_password_is_told_to_the_broker_and_to_nobody_else(tmp_path, postgres_dsn, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    users = password_file(tmp_path, "anna", "tell nobody")
    with mosquitto(tmp_path, f"password_file {users}\n") as broker:
        park = of_broker(broker.url, user="anna", password=Secret(env="PLANT_SECRET"))
        monkeypatch.setenv("PLANT_SECRET", "tell somebody")
        async with collecting(park, postgres_dsn, armed=False) as running:
            assert "refuses the connection" in str(await running.saw("waiting"))
        monkeypatch.setenv("PLANT_SECRET", "tell nobody")
        async with collecting(park, postgres_dsn):
            pass
    assert "tell " not in caplog.text + repr(brokers_of(park)) + park.model_dump_json()


async def test_version_5_keeps_its_session(broker, postgres_dsn):
    park = of_broker(broker.url, version="5", session_expiry_s=60, receive_maximum=7)
    async with publishing(broker) as publisher:
        async with collecting(park, postgres_dsn):
            await publisher.send("plant/FT1", [reading(tick, 1.0) for tick in range(100)])
            await until_stored(postgres_dsn, 100)
        await publisher.send("plant/FT1", [reading(tick, 1.0) for tick in range(100, 150)])
        async with collecting(park, postgres_dsn):
            await until_stored(postgres_dsn, 150)
    assert [row[1] for row in rows(postgres_dsn)] == [at(tick) for tick in range(150)]
    assert rows(postgres_dsn, "select * from gap") == []


@needs_mosquitto
@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_two_collectors_share_the_messages(broker, postgres_dsn, monkeypatch, version):
    park = of_broker(broker.url, version=version, shared_group="collectors")
    async with contextlib.AsyncExitStack() as stack:
        for host in ("one", "two"):
            monkeypatch.setattr("socket.gethostname", lambda host=host: host)
            await stack.enter_async_context(collecting(park, postgres_dsn))
        publisher = await stack.enter_async_context(publishing(broker))
        await publisher.send("plant/FT1", [reading(tick, 1.0) for tick in range(200)])
        await until_stored(postgres_dsn, 200)
    assert len(rows(postgres_dsn)) == 200
    assert rows(postgres_dsn, "select * from reading_conflict") == []


async def test_meters_are_read_from_the_brokers_that_they_name(broker, tmp_path_factory, postgres_dsn):
    second, third = (TestBroker(broker.kind, tmp_path_factory.mktemp("broker")) for _ in range(2))
    paths = {"value": "$.value", "time": "$.ts", "broker": "b"}
    park = at_brokers(
        park_of(mqtt("FT1"), mqtt("FT2", "plant/FT1", paths=paths),
                meter("FT3", {"sparkplug": {"group": "g", "edge_node": "e", "metric": "m", "broker": "c"}})),
        MqttBroker(id="b", url=second.url), MqttBroker(id="c", url=third.url))
    second.start()
    third.start()
    try:
        async with collecting(park, postgres_dsn, broker=broker.url) as running:
            for number, at_one in enumerate((broker, second), 1):
                async with publishing(at_one) as publisher:
                    await publisher.send("plant/FT1", [reading(number, 3.6 * number)])
            await until_stored(postgres_dsn, 2)
            second.stop()
            assert list((await running.saw("waiting"))["for"]) == ["mqtt:b"]
            async with publishing(broker) as publisher:
                await publisher.send("plant/FT1", [reading(5, 3.6)])
            await until_stored(postgres_dsn, 3)
    finally:
        second.stop()
        third.stop()
    assert rows(postgres_dsn) == [("FT1", at(1), 1.0, 0), ("FT1", at(5), 1.0, 0), ("FT2", at(2), 2.0, 0)]
    assert rows(postgres_dsn, "select source, protocol from collector_source order by 1") == [
        ("mqtt", "mqtt"), ("mqtt:b", "mqtt"), ("sparkplug:c", "sparkplug")]


def test_wrong_settings_are_said_before_any_connection(tmp_path, monkeypatch, authority):
    monkeypatch.delenv("PLANT_SECRET", raising=False)
    certificate, key = (str(authority.sign(name)[which]) for which, name in enumerate("ab"))
    wrong = {
        "password: environment variable 'PLANT_SECRET' is not set": {
            "url": "mqtt://h", "user": "anna", "password": Secret(env="PLANT_SECRET")},
        "tls.ca_file: cannot read .* no such file": {"url": "mqtts://h", "tls": Tls(ca_file=str(tmp_path / "none"))},
        "tls.ca_file: cannot read .* no certificate": {"url": "mqtts://h", "tls": Tls(ca_file=key)},
        "they do not belong together": {"url": "mqtts://h", "tls": Tls(cert_file=certificate, key_file=key)},
    }
    for said, keys in wrong.items():
        with pytest.raises(InputError, match=f"broker 'b': .*{said}"):
            brokers_of(of_broker(**keys))


def test_meters_without_a_broker_or_with_the_same_twice_are_refused():
    one, two = MqttBroker(id="b", url="mqtt://h"), MqttBroker(id="c", url="mqtt://i")
    with pytest.raises(InputError, match="meter 'FT1' names none of the brokers b, c"):
        brokers_of(at_brokers(park_of(mqtt("FT1")), one, two))
    mixed = at_brokers(park_of(mqtt("FT1"), mqtt("FT2", paths={"broker": "b"})), one)
    with pytest.raises(InputError, match="throw each other out"):
        brokers_of(mixed)
    assert set(brokers_of(mixed, "mqtt://i")) == {"mqtt", "mqtt:b"}


async def test_topics_come_and_go_over_one_connection(any_broker):
    before = register_of(park_of(mqtt("FT1"), mqtt("FT2")))
    after = before.after(park_of(mqtt("FT2"), mqtt("FT3")))
    batches, rejections = Batches(), Rejections()
    status = SourceStatus("mqtt", "mqtt", REAL_TIME.now)
    topics = Topics(rules_of(before), rejections)
    source = MqttSource(broker_of(any_broker.url, "P"), topics, batches, status, REAL_TIME, Backoff())
    async with asyncio.timeout(20), under_way(source), publishing(any_broker) as publisher:
        await source.armed.wait()
        since = status.since
        for name in ("FT1", "FT2", "FT3"):
            await publisher.send(f"plant/{name}", [reading(0, 1.0)])
        assert sorted(await heard(batches, 2)) == [0, 1]
        await source.apply(after)
        for name in ("FT1", "FT2", "FT3"):
            await publisher.send(f"plant/{name}", [reading(1, 1.0)])
        assert sorted(await heard(batches, 2)) == [1, 2]
    assert (status.since, rejections.total("mqtt")) == (since, 0)


def spark(id: str, group: str = "g") -> dict[str, Any]:
    return meter(id, {"sparkplug": {"group": group, "edge_node": "e", "metric": id}})


async def test_metrics_come_and_go_over_one_connection(broker):
    now_ms = round(at(0).timestamp() * 1000)
    before = register_of(park_of(spark("A"), spark("B")))
    after = before.after(park_of(spark("B"), spark("C"), spark("D", group="h")))
    batches = Batches()
    status = SourceStatus("sparkplug", "sparkplug", REAL_TIME.now)
    host = Host(before, Rejections())
    source = SparkplugSource(broker_of(broker.url, "P"), host, batches, status, REAL_TIME, Backoff())
    bd_seq = Metric(0, name="bdSeq", datatype=INT64)
    born = [bd_seq, *(Metric(None, name, alias, None, DOUBLE) for alias, name in enumerate("ABC", 1))]
    data = [Metric(1.0, alias=alias) for alias in (1, 2, 3)]
    async with asyncio.timeout(20), under_way(source):
        with listening(broker) as (client, _):
            await source.armed.wait()
            client.publish("spBv1.0/g/NBIRTH/e", payload(now_ms, born, 0))
            client.publish("spBv1.0/g/NDATA/e", payload(now_ms, data, 1))
            assert await heard(batches, 2) == [0, 1]
            await source.apply(after)
            client.publish("spBv1.0/g/NDATA/e", payload(now_ms, data, 2))
            client.publish("spBv1.0/h/NBIRTH/e", payload(now_ms, [bd_seq, Metric(2.0, "D", 1, None, DOUBLE)], 0))
            assert await heard(batches, 3) == [1, 2, 3]


@contextlib.asynccontextmanager
async def under_way(source: MqttSource | SparkplugSource) -> Any:
    """Let a source run during the block."""
    tasks = [asyncio.create_task(source.run()), asyncio.create_task(source.read())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def heard(batches: Batches, count: int) -> list[int]:
    """Take what comes until so many readings have come; return their places."""
    places: list[int] = []
    while len(places) < count:
        await batches.due()
        for chunk in batches.take():
            places += chunk.rows.place
            if chunk.committed is not None:
                chunk.committed()
        batches.committed()
    return places


async def test_topics_of_a_collector_before_us_are_let_go(broker, postgres_dsn):
    letters = "select subject, reason from dead_letter"
    async with publishing(broker) as publisher:
        async with collecting(park_of(mqtt("FT1"), mqtt("FT2")), postgres_dsn, broker=broker.url):
            pass
        async with collecting(park_of(mqtt("FT1")), postgres_dsn, broker=broker.url):
            await publisher.send("plant/FT2", [reading(0, 1.0)])
            await until(lambda: bool(rows(postgres_dsn, letters)))
            await publisher.send("plant/FT2", [reading(tick, 1.0) for tick in range(5)])
            await publisher.send("plant/FT1", [reading(0, 1.0)])
            await until_stored(postgres_dsn, 1)
    assert rows(postgres_dsn, letters) == [("plant/FT2", "topic has no meter")]


async def test_what_a_broker_had_kept_is_a_reading_by_a_time_of_its_own_only(any_broker, postgres_dsn):
    park = park_of(mqtt("FT1"), mqtt("FT2", paths={"value": "$.value"}))
    async with publishing(any_broker) as publisher:
        await publisher.send("plant/FT1", [reading(0, 3.6)], retain=True)
        await publisher.send("plant/FT2", [json.dumps({"value": 7.2})], retain=True)
        for count in (2, 3):
            async with collecting(park, postgres_dsn, broker=any_broker.url):
                await publisher.send("plant/FT2", [json.dumps({"value": 3.6})])
                await until_stored(postgres_dsn, count)
    assert [row for row in rows(postgres_dsn) if row[0] == "FT1"] == [("FT1", at(0), 1.0, 0)]
    assert [row[2] for row in rows(postgres_dsn) if row[0] == "FT2"] == [1.0, 1.0]
    assert rows(postgres_dsn, "select * from dead_letter") == []
