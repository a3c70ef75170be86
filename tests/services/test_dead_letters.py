"""What is no reading: kept with its reason, replayed after a fix, never in the way of what is one."""

from __future__ import annotations

import csv
import json
import math
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
import yaml
from asyncua import ua

from collector import dead_letters
from collector.dead_letters import DeadLetters, LetterLimits, Replay
from collector.register import register_of
from collector.rejections import Rejections
from collector.sparkplug.wire import Payload
from park.errors import StoreError
from park.store import connect
from park.store.dead_letters import DeadLetter, Which, insert_dead_letters
from symbiosis.cli import main
from tests.collector.running import at, collecting, meter, mqtt, opcua, park_of, rows, until, until_stored
from tests.fixtures.broker import MOSQUITTO, TestBroker
from tests.services.test_collector_mqtt import publishing, reading
from tests.services.test_sparkplug import listening

LETTERS = "select subject, meter, reason, convert_from(payload, 'LATIN1') from dead_letter order by id"


def stored_letters(dsn: str) -> int:
    return int(rows(dsn, "select count(*) from dead_letter")[0][0])


BAD = {
    b"{": "payload is not JSON",
    b"\xff": "payload is not UTF-8",
    b'{"value": NaN, "ts": 1772366400}': "payload is not JSON",
    b'{"value": Infinity, "ts": 1772366400}': "payload is not JSON",
    b'{"value": 1e999, "ts": 1772366400}': "value is not finite",
    b'{"value": "4", "ts": 1772366400}': "value is not a number",
    b'{"value": [4], "ts": 1772366400}': "value is not a number",
    b'{"value": true, "ts": 1772366400}': "value is not a number",
    b'{"value": 1, "ts": "yesterday"}': "time is neither ISO 8601 nor an epoch",
    b'{"value": 1, "ts": "1999-12-31T23:59:59Z"}': "time is before 2000 or more than a day ahead",
    b'{"value": 1, "ts": "9999-01-01T00:00:00Z"}': "time is before 2000 or more than a day ahead",
    b'{"value": 1, "ts": 1772366400, "status": "fine"}': "status is no StatusCode, good, uncertain, bad, true or false",
    b'{"tag": "unknown", "ts": 1772366400}': "nothing at the path of the value",
    b"": "payload is not JSON",
}


async def test_each_kind_is_kept_with_its_reason_and_stops_nothing(any_broker, postgres_dsn):
    park = park_of(mqtt("FT1"))
    async with collecting(park, postgres_dsn, broker=any_broker.url), publishing(any_broker) as publisher:
        await publisher.send("plant/FT1", [*BAD, reading(0, 3.6)])
        await until_stored(postgres_dsn, 1)
    found = rows(postgres_dsn, LETTERS)
    assert [(reason, payload) for _, _, reason, payload in found] == [
        (reason, payload.decode("LATIN1")) for payload, reason in BAD.items()]
    assert {topic for topic, *_ in found} == {"plant/FT1"}
    assert rows(postgres_dsn, "select rejected from collector_source") == [(len(BAD),)]
    assert {meter for _, meter, reason, _ in found if reason.startswith(("value", "time"))} == {"FT1"}


@pytest.mark.skipif(MOSQUITTO is None, reason="iotcore takes no payload of 10 MB")
async def test_of_a_large_payload_the_beginning_is_kept_and_its_size(broker: TestBroker, postgres_dsn):
    payload = b'{"value": 1, "more": "' + b"x" * 10_000_000 + b'"}'
    async with collecting(park_of(mqtt("FT1")), postgres_dsn, broker=broker.url), publishing(broker) as publisher:
        await publisher.send("plant/FT1", [payload, reading(0, 3.6)])
        await until_stored(postgres_dsn, 1)
    assert rows(postgres_dsn, "select reason, payload_bytes, is_cut from dead_letter_list") == [
        ("payload is larger than 1 MiB", len(payload), True)]
    assert rows(postgres_dsn, "select octet_length(payload) from dead_letter") == [(LetterLimits().excerpt_bytes,)]
    assert Replay(register_of(park_of(mqtt("FT1")))).run(postgres_dsn).unreadable == 1


async def test_metrics_are_kept_with_name_and_datatype_and_read_again_after_a_fix(broker, postgres_dsn):
    def spark(id: str, metric: str, **keys: Any) -> dict[str, Any]:
        return meter(id, {"sparkplug": {"group": "g", "edge_node": "e", "metric": metric, **keys}}, unit="kg/s")

    ms = round(at(0).timestamp() * 1000)
    nan, text, late = Payload(timestamp=ms, seq=1), Payload(timestamp=ms, seq=2), Payload(timestamp=ms, seq=3)
    nan.metrics.add(alias=1, double_value=math.nan)
    text.metrics.add(alias=2, bytes_value=np.array([1.5, 2.5]).tobytes())
    late.metrics.add(alias=1, double_value=7.0, timestamp=12)
    born = Payload(timestamp=ms, seq=0)
    born.metrics.add(name="flow", alias=1, datatype=10, is_null=True)
    born.metrics.add(name="list", alias=2, datatype=31, is_null=True)
    wrong = park_of(spark("FT1", "flow"), spark("FT2", "list"))
    async with collecting(wrong, postgres_dsn, broker=broker.url):
        with listening(broker) as (client, _):
            client.publish("spBv1.0/g/NBIRTH/e", born.SerializeToString())
            for data in (nan, text, late):
                client.publish("spBv1.0/g/NDATA/e", data.SerializeToString())
            client.publish("spBv1.0/g/NDATA/e", b"\xff\xff")
            await until(lambda: stored_letters(postgres_dsn) == 4)
    found = rows(postgres_dsn, "select subject, meter, reason, format from dead_letter order by id")
    assert found == [
        ("spBv1.0/g/NDATA/e", "FT1", "value is not finite", "mqtt"),
        ("spBv1.0/g/NDATA/e", "FT2", "datatype holds no number", "mqtt"),
        ("spBv1.0/g/NDATA/e", "FT1", "time is before 2000 or more than a day ahead", "mqtt"),
        ("spBv1.0/g/NDATA/e", None, "payload is not Sparkplug B", "mqtt")]
    result = Replay(register_of(park_of(spark("FT1", "flow"), spark("FT2", "list", index=1)))).run(postgres_dsn)
    assert (result.stored, result.readings, result.unreadable) == (1, 1, 0)
    assert set(result.still) == {reason for _, _, reason, _ in found} - {"datatype holds no number"}
    assert rows(postgres_dsn) == [("FT2", at(0), 2.5, 0)]


async def test_values_of_a_server_are_kept_and_say_the_same_when_read_again(opcua_server, postgres_dsn):
    server = await opcua_server(["FT1"])
    park = park_of(opcua(server.url, "FT1"))
    async with collecting(park, postgres_dsn):
        await server.push("FT1", math.nan, at(0))
        await server.push("FT1", "3", at(1), kind=ua.VariantType.String)
        await server.push("FT1", [1.0, 2.0], at(2))
        await server.push("FT1", 1.0, at(0) + timedelta(days=40_000))
        await server.push("FT1", 1.0, at(0) - timedelta(days=20_000))
        await server.push("FT1", 3.6, at(3))
        await until_stored(postgres_dsn, 1)
    reasons = ["value is not finite", "value is not a number", "value is not a number",
               *["time is before 2000 or more than a day ahead"] * 2]
    assert rows(postgres_dsn, "select meter, reason, format from dead_letter order by id") == [
        ("FT1", reason, "opcua") for reason in reasons]
    replayed = Replay(register_of(park)).run(postgres_dsn)
    assert replayed.still == {reason: reasons.count(reason) for reason in reasons}
    assert rows(postgres_dsn) == [("FT1", at(3), 1.0, 0)]


async def test_after_a_mended_path_letters_become_readings_once(broker, postgres_dsn, tmp_path, capsys):
    paths = {"value": "$.v", "time": "$.ts"}
    async with collecting(park_of(mqtt("FT1"), mqtt("FT2", paths={"value": "$.v"})), postgres_dsn,
                          broker=broker.url), publishing(broker) as publisher:
        await publisher.send("plant/FT1", [json.dumps({"v": 3.6 * k, "ts": at(k).isoformat()}) for k in range(3)])
        await publisher.send("plant/FT2", ['{"w": 3.6}', '{"w": 7.2}', "{"])
        await until(lambda: stored_letters(postgres_dsn) == 6)
    file = tmp_path / "park.yaml"
    file.write_text(yaml.safe_dump(park_of(mqtt("FT1", paths=paths), mqtt("FT2", paths={"value": "$.w"})).model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)), encoding="utf-8")
    assert main(["deadletters", "replay", str(file), "--dsn", postgres_dsn, "--reason",
                 "nothing at the path of the value"]) == 0
    assert capsys.readouterr().err == "5 dead letters gave 5 readings\n"
    first = rows(postgres_dsn)
    assert [row[:3] for row in first if row[0] == "FT1"] == [("FT1", at(k), float(k)) for k in range(3)]
    assert [row[2] for row in first if row[0] == "FT2"] == [1.0, 2.0]

    with psycopg.connect(postgres_dsn) as conn:     # as if the replay had been killed before it marked them
        conn.execute("update dead_letter set replayed_at = null")
    assert main(["deadletters", "replay", str(file), "--dsn", postgres_dsn]) == 0
    assert "1 still rejected: payload is not JSON" in capsys.readouterr().err
    assert rows(postgres_dsn) == first
    assert rows(postgres_dsn, "select * from reading_conflict") == []

    assert main(["deadletters", "list", "--dsn", postgres_dsn]) == 0
    [left] = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (left["subject"], left["reason"], left["excerpt"]) == ("plant/FT2", "payload is not JSON", "{")
    assert main(["deadletters", "list", "--all", "--rows", "5", "--dsn", postgres_dsn]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


async def test_a_letter_of_one_meter_is_not_read_for_the_others_of_its_topic(broker, postgres_dsn):
    a, b = mqtt("FT1", "box", paths={"value": "$.a"}), mqtt("FT2", "box", paths={"value": "$.b"})
    async with collecting(park_of(a, b), postgres_dsn, broker=broker.url), publishing(broker) as publisher:
        await publisher.send("box", ['{"a": 3.6, "b": "x", "c": 7.2}'])
        await until(lambda: stored_letters(postgres_dsn) == 1)
    mended = park_of(a, mqtt("FT2", "box", paths={"value": "$.c"}))
    assert Replay(register_of(mended)).run(postgres_dsn).readings == 1
    assert [row[::2] for row in rows(postgres_dsn)] == [("FT1", 1.0), ("FT2", 2.0)]


async def test_a_locked_or_missing_table_holds_up_no_reading(broker, postgres_dsn, monkeypatch, caplog):
    monkeypatch.setattr(LetterLimits.__init__, "__defaults__", (*LetterLimits.__init__.__defaults__[:-1], 0.5))
    park = park_of(mqtt("FT1"))
    async with collecting(park, postgres_dsn, broker=broker.url), publishing(broker) as publisher:
        with psycopg.connect(postgres_dsn) as blocker:
            blocker.execute("lock table dead_letter")
            for k in range(5):
                await publisher.send("plant/FT1", ["{", reading(k, 3.6)])
            await until_stored(postgres_dsn, 5)
            await until(lambda: "dead letters cannot be stored" in caplog.text, "a word of it")
        await until(lambda: stored_letters(postgres_dsn) == 5, "letters after the lock")
        assert caplog.text.count("dead letters cannot be stored") == 1
        with psycopg.connect(postgres_dsn) as conn:
            conn.execute("drop table dead_letter cascade")
        await publisher.send("plant/FT1", ["{", reading(5, 3.6)])
        await until_stored(postgres_dsn, 6)


async def test_a_flood_of_nonsense_loses_no_reading(broker, postgres_dsn):
    park = park_of(mqtt("FT1"))
    async with collecting(park, postgres_dsn, broker=broker.url), publishing(broker) as publisher:
        for k in range(10):
            await publisher.send("plant/FT1", [*[b"\x00\xff{"] * 300, reading(k, 3.6)])
        await until_stored(postgres_dsn, 10)
        await until(lambda: stored_letters(postgres_dsn) == 3000)


def test_the_oldest_beyond_a_limit_are_forgotten(postgres_dsn):
    letter = DeadLetter("mqtt\0", "t\ud800", None, "r", "mqtt", b"\0{", 2, at(0))
    with connect(postgres_dsn, autocommit=True) as conn:
        for _ in range(3):
            with conn.transaction():
                insert_dead_letters(conn, [letter] * 4, 10)
    assert rows(postgres_dsn, "select min(id), max(id) from dead_letter") == [(3, 12)]


def test_more_letters_than_a_page_are_replayed(postgres_dsn, monkeypatch):
    monkeypatch.setattr(dead_letters, "PAGE", 2)
    whole = [DeadLetter("mqtt", "plant/FT1", None, "r", "mqtt", p := reading(k, 3.6).encode(), len(p), at(k))
             for k in range(5)]
    gone = DeadLetter("mqtt", "plant/other", None, "r", "mqtt", b"1", 1, at(9))
    strange = DeadLetter("opcua:x", "FT9", "FT9", "r", "opcua", b'{"value": 1}', 12, at(9))
    with connect(postgres_dsn, autocommit=True) as conn, conn.transaction():
        insert_dead_letters(conn, [*whole, gone, strange], 100)
    replay = Replay(register_of(park_of(mqtt("FT1"))))
    assert replay.run(postgres_dsn, Which(meter="FT1")).stored == 0
    result = replay.run(postgres_dsn)
    assert (result.stored, result.readings, result.unreadable) == (5, 5, 2)
    assert "2 cannot be replayed" in result.lines()[-1]
    with pytest.raises(StoreError):
        replay.run("host=/nowhere dbname=park")


def test_memory_is_bounded_and_what_finds_no_room_is_counted(caplog):
    letters = DeadLetters(register_of(park_of(mqtt("FT1"))), lambda: 1.0, LetterLimits(waiting=3, batch=2))
    rejections = Rejections(letters.add)
    for _ in range(5):
        rejections.add("mqtt", "plant/FT1 (FT1)", "r", b"{")
    assert (len(letters), letters.dropped, rejections.total("mqtt")) == (3, 2, 5)
    assert caplog.text.count("only counted from now on") == 1
    first = letters.due()
    assert [(letter.subject, letter.meter) for letter in first] == [("plant/FT1", "FT1")] * 2
    assert first[0].received_at < first[1].received_at
    letters.stored(first)
    assert len(letters) == 1
    letters.refused("locked")
    assert letters.due() == []
