"""Payloads -> rows: paths, numbers, times, status."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.batches import Rows
from collector.mqtt.payload import (
    MISSING,
    Rejected,
    Topics,
    at,
    compile_path,
    number,
    rules_of,
    status_code,
    time_us,
)
from collector.register import register_of
from collector.rejections import Rejections
from collector.times import micros
from park.errors import InputError
from tests.collector.running import mqtt, park_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_US = micros(NOON)
LATER_US = NOON_US + 5_000_000


@pytest.mark.parametrize(("path", "steps"), [
    ("$", ()), ("$.value", ("value",)), ("$['a b'].c[0]", ("a b", "c", 0)), ("$[1][-1]", (1, -1)),
    ('$["größe"]', ("größe",)), ("$.größe", ("größe",)),
])
def test_a_path_of_names_and_indexes_becomes_steps(path, steps):
    assert compile_path(path) == steps


@pytest.mark.parametrize("path", ["value", "$.", "$.a[", "$..a", "$.*", "$[0:2]", "$['a','b']", "$[?@.a]", ""])
def test_other_paths_are_refused(path):
    with pytest.raises(InputError, match="JSON path"):
        compile_path(path)


@pytest.mark.parametrize(("document", "path", "found"), [
    ({"a": [1, {"b": 2}]}, "$.a[1].b", 2), ({"a": None}, "$.a", None), (3, "$", 3), ([1, 2], "$[-1]", 2),
    ({"a": 1}, "$.b", MISSING), ({"a": 1}, "$.a.b", MISSING), ([1], "$[1]", MISSING), ([1], "$.a", MISSING),
    (None, "$.a", MISSING), ({"0": 1}, "$[0]", MISSING),
])
def test_what_stands_at_a_path(document, path, found):
    assert at(document, compile_path(path)) == found


@pytest.mark.parametrize("value", [0, -3, 1.5, 2**70])
def test_numbers_are_numbers(value):
    assert number(value) == float(value)


@pytest.mark.parametrize("value", ["1.5", True, [1], {}, 1e400, -1e400, 10**400])
def test_what_is_no_finite_number_is_rejected(value):
    with pytest.raises(Rejected, match="value is not"):
        number(value)


@pytest.mark.parametrize("value", [
    "2026-03-01T12:00:00Z", "2026-03-01T12:00:00.000000+00:00", "2026-03-01T13:00:00+01:00", "20260301T120000Z",
    NOON_US // 1_000_000, NOON_US / 1e6, NOON_US // 1000, NOON_US / 1e3, NOON_US, NOON_US * 1000,
])
def test_a_time_is_iso_8601_or_an_epoch_told_by_its_size(value):
    assert time_us(value) == NOON_US


def test_a_fraction_of_a_second_keeps_its_microseconds():
    assert time_us("2026-03-01T12:00:00.123456Z") == NOON_US + 123_456
    assert time_us((NOON_US + 123_456) / 1e6) == NOON_US + 123_456
    assert time_us(NOON_US * 1000 + 123_456_789) == NOON_US + 123_456


@given(st.integers(micros(datetime(2000, 1, 1, tzinfo=UTC)), micros(datetime(2100, 1, 1, tzinfo=UTC))))
def test_any_time_of_this_century_is_read_the_same_in_every_form(us):
    assert time_us(us) == time_us(us * 1000) == us
    assert time_us(us / 1e6) == us
    assert time_us(datetime.fromtimestamp(us // 1_000_000, UTC).replace(microsecond=us % 1_000_000).isoformat()) == us


@pytest.mark.parametrize(("value", "reason"), [
    ("yesterday", "neither"), ("", "neither"), (None, "neither"), (True, "neither"), ([], "neither"),
    (math.nan, "neither"), ("2026-03-01T12:00:00", "no offset"), ("2026-03-01", "no offset"),
])
def test_what_is_no_time_is_rejected(value, reason):
    with pytest.raises(Rejected, match=reason):
        time_us(value)


@pytest.mark.parametrize(("value", "code"), [
    (0, 0), (0x80310000, 0x80310000), ("good", 0), ("Uncertain", 0x40000000), ("BAD", 0x80000000)])
def test_a_status_is_a_code_or_a_word(value, code):
    assert status_code(value) == code


@pytest.mark.parametrize("value", [-1, 2**32, 1.0, True, "fine", None, []])
def test_what_is_no_status_is_rejected(value):
    with pytest.raises(Rejected, match="status"):
        status_code(value)


def topics(*meters):
    rejections = Rejections()
    return Topics(rules_of(register_of(park_of(*meters))), rejections), rejections


def read(topics, topic, document, **more):
    rows = Rows()
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    topics.read(topic, payload, LATER_US, rows, **more)
    return list(zip(rows.place, rows.source_us, rows.value, rows.status, strict=True))


def test_a_topic_with_a_wildcard_is_no_meters_topic():
    with pytest.raises(InputError, match="wildcard"):
        topics(mqtt("FT1", "plant/+"))


def test_a_reading_carries_place_time_value_and_status():
    reader, _ = topics(mqtt("A"), mqtt("B"))
    assert read(reader, "plant/B", {"value": 2, "ts": "2026-03-01T12:00:00Z", "status": "uncertain"}) == [
        (1, NOON_US, 2.0, 0x40000000)]


@pytest.mark.parametrize(("fields", "value", "status"), [
    ({"value": None}, None, 0x80000000), ({"value": None, "status": 0x40000000}, None, 0x80000000),
    ({"value": None, "status": 0x80310000}, None, 0x80310000), ({"status": 0x80310000}, None, 0x80310000),
    ({"value": "fault", "status": 0x80310000}, None, 0x80310000), ({"value": 7, "status": 0x80310000}, 7, 0x80310000),
])
def test_a_bad_reading_keeps_its_code_with_or_without_a_value(fields, value, status):
    reader, rejections = topics(mqtt("A"))
    [(_, _, stored, code)] = read(reader, "plant/A", {"ts": "2026-03-01T12:00:00Z"} | fields)
    assert code == status
    assert stored == value or (value is None and math.isnan(stored))
    assert rejections.total("mqtt") == 0


def test_a_message_may_speak_of_some_of_its_topics_meters():
    paths = {"time": "$.t"}
    reader, rejections = topics(
        mqtt("A", "box", paths=paths | {"value": "$.a"}), mqtt("B", "box", paths=paths | {"value": "$.b"}))
    assert [row[0] for row in read(reader, "box", {"t": NOON_US, "b": 1})] == [1]
    assert rejections.total("mqtt") == 0
    assert read(reader, "box", {"t": NOON_US, "c": 1}) == []
    assert rejections.by_reason("mqtt") == {"nothing at the path of the value": 1}


def test_a_bad_value_of_one_meter_harms_no_other_of_the_topic():
    paths = {"time": "$.t"}
    reader, rejections = topics(
        mqtt("A", "box", paths=paths | {"value": "$.a"}), mqtt("B", "box", paths=paths | {"value": "$.b"}))
    assert [row[0] for row in read(reader, "box", {"t": NOON_US, "a": "x", "b": 1})] == [1]
    assert rejections.by_reason("mqtt") == {"value is not a number": 1}


def test_arrivals_of_one_meter_never_share_a_time():
    reader, _ = topics(mqtt("A", paths={}))
    assert [read(reader, "plant/A", 1)[0][1] for _ in range(3)] == [LATER_US, LATER_US + 1, LATER_US + 2]


def test_a_retained_message_is_a_reading_by_its_own_time_only():
    reader, rejections = topics(mqtt("A"), mqtt("B", paths={}))
    assert len(read(reader, "plant/A", {"value": 1, "ts": NOON_US}, retained=True)) == 1
    assert read(reader, "plant/B", 1, retained=True) == []
    assert rejections.total("mqtt") == 0


def test_a_topic_nobody_asked_for_is_counted():
    reader, rejections = topics(mqtt("A"))
    read(reader, "other", 1)
    assert rejections.by_reason("mqtt") == {"topic has no meter": 1}


@given(st.binary(max_size=60) | st.from_regex(rb'\{"value": ?.{0,12}, ?"ts": ?.{0,30}\}', fullmatch=True))
def test_no_payload_raises(payload):
    reader, rejections = topics(mqtt("A"))
    rows = Rows()
    reader.read("plant/A", payload, LATER_US, rows)
    assert len(rows) + rejections.total("mqtt") == 1
    assert all(math.isfinite(value) for value, code in zip(rows.value, rows.status, strict=True) if code < 0x80000000)


def test_a_payload_of_ten_megabytes_is_counted():
    reader, rejections = topics(mqtt("A"))
    read(reader, "plant/A", b"[" + b"1," * 5_000_000 + b"1]")
    assert rejections.by_reason("mqtt") == {"payload is larger than 1 MiB": 1}
