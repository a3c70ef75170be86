"""Payloads -> rows: paths, numbers, times, status."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.batches import Rows
from collector.mqtt.paths import MISSING, at, compile_path
from collector.mqtt.payload import Topics, rules_of
from collector.mqtt.values import Rejected, number, status_code, time_us
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


@pytest.mark.parametrize(("form", "value", "us"), [
    ("iso", "2026-03-01T12:00:00Z", NOON_US), ("s", NOON_US // 10**6, NOON_US), ("s", 1.5, 1_500_000),
    ("ms", 5, 5_000), ("ms", 5.25, 5_250), ("us", 7, 7), ("us", 7.5, 8), ("ns", 1_999, 1), ("ns", -1, -1),
    ("ns", NOON_US * 1000 + 999, NOON_US),
])
def test_a_format_says_what_a_number_means(form, value, us):
    assert time_us(value, form) == us


@pytest.mark.parametrize(("form", "value"), [
    ("iso", 5), ("s", "2026-03-01T12:00:00Z"), ("ms", "5"), ("ns", True), ("us", math.inf), ("s", None)])
def test_a_time_of_another_format_is_rejected(form, value):
    with pytest.raises(Rejected, match=f"time is not of the format {form}"):
        time_us(value, form)


@pytest.mark.parametrize(("value", "code"), [
    (0, 0), (0x80310000, 0x80310000), ("good", 0), ("Uncertain", 0x40000000), ("BAD", 0x80000000),
    (True, 0), (False, 0x80000000)])
def test_a_status_is_a_code_a_word_or_a_truth(value, code):
    assert status_code(value) == code


@pytest.mark.parametrize("value", [-1, 2**32, 1.0, "fine", "true", None, []])
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


SAMPLES = {"samples": "$.s", "value": "$.v", "time": "$.t", "status": "$.q"}


def read_samples(document, **paths):
    rejections, rows = Rejections(), Rows()
    topics = Topics(rules_of(register_of(park_of(mqtt("FT1", "t", paths=SAMPLES | paths)))), rejections)
    topics.read("t", json.dumps(document).encode(), LATER_US, rows)
    return list(zip(rows.source_us, rows.value, rows.status, strict=True)), rejections.by_reason("mqtt")


def test_each_sample_of_an_array_is_a_reading():
    samples = [{"v": 1, "t": NOON_US}, {"v": 2, "t": NOON_US + 1, "q": False}, {"v": None, "t": NOON_US + 2}]
    found, reasons = read_samples({"s": samples})
    assert found[:2] == [(NOON_US, 1.0, 0), (NOON_US + 1, 2.0, 0x80000000)]
    assert found[2][::2] == (NOON_US + 2, 0x80000000)
    assert reasons == {}
    assert read_samples({"s": []}) == ([], {})


def test_a_bad_sample_stops_no_other_and_is_counted():
    samples = [{"v": "1", "t": NOON_US}, {"v": 2, "t": NOON_US}, {"v": "3", "t": 1}, {"v": 4}, {"w": 5}, 6]
    found, reasons = read_samples({"s": samples})
    assert found == [(NOON_US, 2.0, 0)]
    assert reasons == {"value is not a number": 2, "nothing at the path of the time": 1}


@pytest.mark.parametrize(("document", "reason"), [
    ({"s": {"v": 1}}, "no array at the path of the samples"), ({"r": []}, "nothing at the path of the value"),
    ({"s": [1, 2]}, "nothing at the path of the value"), ({"s": "abc"}, "no array at the path of the samples")])
def test_what_has_no_samples_is_counted(document, reason):
    assert read_samples(document) == ([], {reason: 1})


def test_samples_may_be_pairs():
    pairs = [[NOON_US, 1.5], [NOON_US + 1, 2.5]]
    assert read_samples(pairs, samples="$", value="$[1]", time="$[0]", status=None)[0] == [
        (NOON_US, 1.5, 0), (NOON_US + 1, 2.5, 0)]


def test_a_changed_register_is_read_from_then_on():
    rejections, rows = Rejections(), Rows()
    paths = {"value": "$.v"}
    before = register_of(park_of(mqtt("FT1", "a", paths=paths), mqtt("FT2", "b", paths=paths)))
    topics = Topics(rules_of(before), rejections)
    topics.apply(before.after(park_of(mqtt("FT2", "b", paths={"value": "$.v"}), mqtt("FT3", "c", paths={}))))
    assert topics.topics == ["b", "c"]
    for topic, payload in (("a", b'{"v": 1}'), ("b", b'{"v": 2}'), ("c", b"3")):
        topics.read(topic, payload, LATER_US, rows)
    assert (rows.place, rows.value) == ([1, 2], [2.0, 3.0])
    assert topics.take_strange() == {"a"}
    assert topics.take_strange() == set()
