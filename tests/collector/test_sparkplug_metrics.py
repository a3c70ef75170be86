"""The value, status and time of a Sparkplug metric."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from collector.mqtt.values import Rejected
from collector.sparkplug import metrics
from collector.sparkplug.wire import Payload

NOW = 1_800_000_000_000_000


def metric(**fields: Any) -> Any:
    return Payload().metrics.add(**fields)


def with_quality(field: str, value: int) -> Any:
    made = metric(double_value=1.0)
    made.properties.keys.extend(["unit", "Quality"])
    made.properties.values.add()
    made.properties.values.add(**{field: value})
    return made


@pytest.mark.parametrize(("datatype", "fields", "value"), [
    (1, {"int_value": 0xFFFFFFF4}, -12), (1, {"int_value": 0xF4}, -12), (1, {"int_value": 127}, 127),
    (2, {"int_value": 0xFFFF}, -1), (2, {"int_value": 0x7FFF}, 32767), (2, {"int_value": 0x8000}, -32768),
    (3, {"int_value": 4294967284}, -12), (3, {"int_value": 0x7FFFFFFF}, 2**31 - 1), (3, {"long_value": 2**64 - 1}, -1),
    (4, {"long_value": 2**64 - 5}, -5), (4, {"long_value": 2**62}, 2**62), (4, {"int_value": 3}, 3),
    (5, {"int_value": 255}, 255), (6, {"int_value": 65535}, 65535), (7, {"int_value": 4294967284}, 4294967284),
    (8, {"long_value": 2**64 - 1}, float(2**64 - 1)),
    (9, {"float_value": 0.5}, 0.5), (9, {"double_value": 0.25}, 0.25), (10, {"double_value": -1e300}, -1e300),
    (10, {"int_value": 3}, 3), (11, {"boolean_value": True}, 1), (11, {"boolean_value": False}, 0),
])
def test_a_number_is_read_by_its_datatype(datatype, fields, value):
    assert metrics.number(metric(**fields), datatype) == value


@pytest.mark.parametrize(("datatype", "fields", "reason"), [
    (12, {"string_value": "4"}, "datatype holds no number"), (13, {"long_value": 1}, "datatype holds no number"),
    (0, {"int_value": 1}, "datatype holds no number"), (3, {"double_value": 1.0}, "another type"),
    (3, {"string_value": "4"}, "another type"), (10, {"boolean_value": True}, "another type"),
    (11, {"double_value": 1.0}, "another type"), (10, {"double_value": math.nan}, "not finite"),
    (9, {"float_value": math.inf}, "not finite"), (10, {}, "no value"),
])
def test_what_is_no_number_is_rejected(datatype, fields, reason):
    with pytest.raises(Rejected, match=reason):
        metrics.number(metric(**fields), datatype)


@pytest.mark.parametrize(("quality", "status"), [
    (192, 0), (216, 0), (0, 0x80000000), (64, 0x40000000), (24, 0x80000000), (500, 0x408F0000), (300, 0x80000000),
    (0x80310000, 0x80310000), (0x40930000, 0x40930000),
])
@pytest.mark.parametrize("field", ["int_value", "long_value"])
def test_the_quality_property_is_the_status(field, quality, status):
    assert metrics.status(with_quality(field, quality)) == status


def test_without_quality_a_value_is_good_and_a_null_is_bad():
    assert metrics.reading(metric(double_value=1.5), 10) == (1.5, 0)
    value, status = metrics.reading(metric(is_null=True), 10)
    assert math.isnan(value)
    assert status == 0x80000000


def test_the_time_is_the_metrics_else_the_payloads_else_the_arrival():
    ms = NOW // 1000
    assert metrics.source_us(metric(timestamp=ms - 5), Payload(timestamp=ms - 9), NOW) == NOW - 5_000
    assert metrics.source_us(metric(), Payload(timestamp=ms - 9), NOW) == NOW - 9_000
    assert metrics.source_us(metric(), Payload(), NOW) == NOW


@pytest.mark.parametrize(("fields", "reason"), [
    ({"timestamp": 12}, "before 2000"), ({"timestamp": 2**63}, "before 2000 or more than a day ahead"),
    ({"is_historical": True}, "historical value without a time"),
])
def test_a_time_that_cannot_be_meant_is_rejected(fields, reason):
    with pytest.raises(Rejected, match=reason):
        metrics.source_us(metric(**fields), Payload(timestamp=NOW // 1000), NOW)


@pytest.mark.parametrize(("datatype", "kind", "values"), [
    (22, "i1", [1, -12]), (23, "<i2", [1, -300]), (24, "<i4", [1, -70_000]), (25, "<i8", [1, -5 * 10**9]),
    (26, "u1", [1, 200]), (27, "<u2", [1, 60_000]), (28, "<u4", [1, 4 * 10**9]), (29, "<u8", [1, 2**60]),
    (30, "<f4", [1, 0.5]), (31, "<f8", [1, -1e300]),
])
def test_an_element_of_an_array_is_a_number(datatype, kind, values):
    packed = metric(bytes_value=np.array(values, kind).tobytes())
    assert metrics.reading(packed, datatype, 1) == (float(values[1]), 0)
    with pytest.raises(Rejected, match="too short"):
        metrics.reading(packed, datatype, 2)


def test_booleans_of_an_array_are_bits_behind_their_count():
    packed = metric(bytes_value=(10).to_bytes(4, "little") + bytes([0b01000000, 0b10000000]))
    assert [metrics.element(packed, 32, index) for index in range(10)] == [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    with pytest.raises(Rejected, match="too short"):
        metrics.element(packed, 32, 10)


@pytest.mark.parametrize(("datatype", "data", "reason"), [
    (31, b"1234567", "size"), (32, b"\x09\0\0\0\1", "size"), (32, b"\x09", "size"), (10, b"", "no array"),
    (33, b"ab", "no array"), (19, b"", "no array"), (31, np.array([np.nan]).tobytes(), "not finite")])
def test_what_is_no_array_of_numbers_is_rejected(datatype, data, reason):
    with pytest.raises(Rejected, match=reason):
        metrics.element(metric(bytes_value=data), datatype, 0)


def test_an_array_or_template_is_no_number_and_a_number_no_array():
    with pytest.raises(Rejected, match="datatype holds no number"):
        metrics.number(metric(bytes_value=b""), 31)
    with pytest.raises(Rejected, match="datatype holds no number"):
        metrics.number(metric(), 19)
    with pytest.raises(Rejected, match="another type"):
        metrics.element(metric(double_value=1.0), 31, 0)
    assert math.isnan(metrics.reading(metric(is_null=True), 31, 0)[0])


def test_a_quality_that_is_no_whole_number_is_bad():
    made = metric(double_value=1.0)
    made.properties.keys.append("Quality")
    made.properties.values.add(string_value="good")
    assert metrics.status(made) == 0x80000000
