"""Back-off, times, register, rejections, status, broker URLs."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from collector.backoff import JITTER, Backoff
from collector.batches import Batches, Rows
from collector.durable import Away
from collector.mqtt.broker import Broker, broker_of, default_client_id
from collector.mqtt.client import MqttSource
from collector.mqtt.payload import Topics, rules_of
from collector.register import register_of
from collector.rejections import EXCERPT, Rejections
from collector.status import SourceStatus, State
from collector.times import micros, micros_of_seconds, moment, plausible
from park.clock import REAL_TIME
from park.errors import InputError
from tests.collector.running import at, mqtt, opcua, park_of


def test_delays_double_to_the_cap_with_jitter_and_begin_again():
    backoff = Backoff(0.25, 4.0, random.Random(1))
    delays = [backoff.next() for _ in range(40)]
    for delay, full in zip(delays, [0.25, 0.5, 1.0, 2.0, *[4.0] * 36], strict=True):
        assert full * (1 - JITTER) <= delay <= full
    assert len(set(delays)) == 40
    backoff.reset()
    assert backoff.next() <= 0.25


def test_times_are_exact_microseconds():
    us = 1_772_366_400_123_457
    assert micros(moment(us)) == us
    assert micros_of_seconds(1_772_366_400.123457) == us


@pytest.mark.parametrize(("hours", "is_so"), [(-8760, True), (0, True), (23, True), (25, False), (-240_000, False)])
def test_a_time_is_plausible_from_2000_to_a_day_ahead(hours, is_so):
    now = micros(at(0))
    assert plausible(now + hours * 3_600_000_000, now) == is_so


def test_the_register_groups_meters_by_source():
    sparkplug = {"sparkplug": {"group": "g", "edge_node": "e", "metric": "m"}}
    register = register_of(park_of(
        opcua("opc.tcp://a", "A"), mqtt("B"), opcua("opc.tcp://b", "C"), opcua("opc.tcp://a", "D"),
        mqtt("E") | {"source": sparkplug}))
    assert register.opcua == {"opc.tcp://a": [0, 3], "opc.tcp://b": [2]}
    assert (list(register.mqtt), list(register.sparkplug)) == ([1], [4])
    assert register.source == ("opcua:opc.tcp://a", "mqtt", "opcua:opc.tcp://b", "opcua:opc.tcp://a", "sparkplug")


def test_rejections_are_counted_by_reason_and_the_first_of_a_kind_is_logged(caplog):
    told = []
    rejections = Rejections(lambda *what: told.append(what))
    rejections.add("mqtt", "a", "not JSON", b"\xff{\n" + b"x" * 1000)
    rejections.add("mqtt", "b", "not JSON", b"again")
    rejections.add("mqtt", "a", "too old", 3)
    rejections.add("opcua:x", "a", "not JSON", "there")
    assert rejections.by_reason("mqtt") == {"not JSON": 2, "too old": 1}
    assert (rejections.total("mqtt"), rejections.total("opcua:x"), rejections.total("none")) == (3, 1, 0)
    assert len(caplog.records) == 3
    assert "again" not in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert max(len(record.getMessage()) for record in caplog.records) < EXCERPT + 100
    assert told[1] == ("mqtt", "b", "not JSON", b"again")


def test_a_change_of_state_is_said_once_and_the_latest_reason_is_told(caplog):
    seen = []
    status = SourceStatus("mqtt", "mqtt", lambda: 7.0, lambda s: seen.append((s.state, s.detail)))
    status.become(State.WAITING, "refused")
    status.become(State.WAITING, "refused again")
    status.become(State.WAITING, "refused again")
    assert seen == [(State.WAITING, "refused"), (State.WAITING, "refused again")]
    assert (status.detail, status.since) == ("refused again", 7.0)
    assert len(caplog.records) == 1


def test_a_hint_is_logged_once_a_state_though_the_state_is_as_it_was(caplog):
    status = SourceStatus("mqtt", "mqtt", lambda: 7.0)
    for reason in ("no answer", "refused (hint: trust it)", "no answer", "refused (hint: trust it)"):
        status.become(State.WAITING, reason)
    assert [record.getMessage() for record in caplog.records] == [
        "mqtt: waiting: no answer", "mqtt: waiting: refused (hint: trust it)"]


def test_a_database_that_is_away_for_another_reason_now_is_told_and_said_once(caplog):
    told = []
    away = Away(lambda: told.append(away.detail))
    for reason in ("no route", "no route", "out of memory"):
        away.since(reason, "database is away: %s")
    away.over("database is back")
    assert told == ["no route", "out of memory", None]
    assert caplog.text.count("database is away") == 1


async def test_the_meters_of_a_topic_that_a_broker_refuses_are_known_by_name():
    register = register_of(park_of(mqtt("FT1", "plant/1"), mqtt("FT2", "plant/2"), mqtt("TT2", "plant/2")))
    told = []
    status = SourceStatus("mqtt", "mqtt", lambda: 0.0, lambda status: told.append(dict(status.refused)))
    rejections = Rejections()
    source = MqttSource(broker_of("mqtt://127.0.0.1:1", "p"), Topics(rules_of(register, "mqtt"), rejections), Batches(),
                        status, REAL_TIME)
    source._say_refused(SimpleNamespace(refused={"plant/2"}))
    why = "the broker refuses topic 'plant/2'"
    assert told[0] == {"FT2": why, "TT2": why}
    source._say_refused(SimpleNamespace(refused=set()))
    assert status.refused == {}


def test_committed_rows_are_counted_with_their_latest_times():
    status = SourceStatus("mqtt", "mqtt", lambda: 0.0)
    status.count(Rows())
    assert status.last_source_us is None
    rows = Rows()
    rows.add(0, 30, 40, 1.0, 0)
    rows.add(0, 20, 50, 1.0, 0)
    status.count(rows)
    assert (status.readings, status.last_source_us, status.last_received_us) == (2, 30, 50)


def test_a_broker_url_names_host_port_user_and_client():
    assert broker_of("mqtt://h", "P") == Broker("h", 1883, default_client_id("P"))
    user = "u%40x:p%3A"
    assert broker_of(f"mqtt://{user}@h:99?client_id=me", "P") == Broker("h", 99, "me", "u@x", "p:")
    assert str(broker_of(f"mqtt://{user}@h", "P")) == "mqtt://h:1883"


@pytest.mark.parametrize("url", ["h:1883", f"http://{'u:secret'}@h", "mqtt://", "mqtt://h:0", "mqtt://h:99999", ""])
def test_a_wrong_broker_url_is_refused_without_its_password(url):
    with pytest.raises(InputError, match="must be mqtt://host:port") as error:
        broker_of(url, "P")
    assert "secret" not in str(error.value)


def test_the_client_id_follows_from_the_parks_name_alone():
    assert default_client_id("Harbour park") == default_client_id("Harbour park")
    assert default_client_id("Harbour park") != default_client_id("Hafenpark")
    assert default_client_id("ø").startswith("symbiosis-collector-")
