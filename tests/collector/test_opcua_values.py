"""Data values -> rows."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from asyncua import ua

from collector.batches import Rows
from collector.opcua.decode import item_of
from collector.opcua.values import Values
from collector.rejections import Rejections
from collector.times import micros
from tests.collector.running import at

NOW_US = micros(at(10))
WAITING = ua.StatusCodes.BadWaitingForInitialData

START = at(0)


def item(value, code=0, time=START, server=None, handle=1):
    data = ua.DataValue(ua.Variant(value), ua.StatusCode(ua.UInt32(code)), time, server)
    return item_of(ua.MonitoredItemNotification(ClientHandle=handle, Value=data))


def values():
    rejections = Rejections()
    reader = Values("opcua:x", rejections)
    assert reader.expect(5, "FT1") == 1
    return reader, rejections


def read(reader, *items):
    rows = Rows()
    reader.read(items, NOW_US, rows)
    return list(zip(rows.place, rows.source_us, rows.received_us, rows.value, rows.status, strict=True))


def test_a_value_carries_its_place_times_and_status():
    reader, _ = values()
    assert read(reader, item(1.5, 0x40930000)) == [(5, micros(at(0)), NOW_US, 1.5, 0x40930000)]


@pytest.mark.parametrize("value", [7, True, 2**64 - 1, 1.25])
def test_every_numeric_type_is_a_number(value):
    reader, _ = values()
    assert read(reader, item(value))[0][3] == float(value)


@pytest.mark.parametrize(("value", "code"), [(None, 0x80310000), (None, 0), (math.nan, 0x80310000), ("x", 0x80310000)])
def test_a_status_may_come_without_a_number(value, code):
    reader, rejections = values()
    [(_, _, _, number, status)] = read(reader, item(value, code))
    assert math.isnan(number)
    assert status == code
    assert rejections.total("opcua:x") == 0


@pytest.mark.parametrize(("value", "reason"), [
    ("3", "not a number"), ([1.0], "not a number"), (math.nan, "not finite"), (math.inf, "not finite")])
def test_what_is_no_number_with_a_good_status_is_counted(value, reason):
    reader, rejections = values()
    assert read(reader, item(value)) == []
    [counted] = rejections.by_reason("opcua:x")
    assert reason in counted


def test_only_the_first_value_may_wait_for_initial_data():
    reader, _ = values()
    assert read(reader, item(None, WAITING)) == []
    assert len(read(reader, item(1.0))) == 1
    assert [row[4] for row in read(reader, item(None, WAITING, at(1)))] == [WAITING]
    assert read(reader, item(None, WAITING, at(2), handle=reader.expect(5, "FT1"))) == []


def test_the_overflow_bit_is_told_and_not_stored():
    reader, _ = values()
    rows = Rows()
    assert not reader.read([item(1.0)], NOW_US, rows)
    assert reader.read([item(2.0, 0x0480, at(1)), item(3.0, 0x40930480, at(2))], NOW_US, rows)
    assert rows.status == [0, 0, 0x40930000]
    assert reader.overflowed == 2


@pytest.mark.parametrize("time", [None, datetime(1601, 1, 1, tzinfo=UTC)])
def test_without_a_source_time_the_servers_counts_and_it_is_said_once(time, caplog):
    reader, _ = values()
    rows = read(reader, item(1.0, time=time, server=at(3)), item(2.0, time=time, server=at(4)))
    assert [row[1] for row in rows] == [micros(at(3)), micros(at(4))]
    assert caplog.text.count("no source time, its readings are kept by the server's time") == 1


def test_without_any_time_the_arrival_counts(caplog):
    reader, _ = values()
    assert read(reader, item(1.0, time=None))[0][1] == NOW_US
    assert "kept by their arrival" in caplog.text


def test_a_time_before_2000_is_counted():
    reader, rejections = values()
    assert read(reader, item(1.0, time=datetime(1999, 12, 31, tzinfo=UTC), server=at(3))) == []
    assert rejections.by_reason("opcua:x") == {"time is before 2000 or more than a day ahead": 1}


def test_a_time_far_ahead_is_counted():
    reader, rejections = values()
    assert read(reader, item(1.0, time=at(10) + timedelta(days=2))) == []
    assert rejections.total("opcua:x") == 1
    assert len(read(reader, item(1.0, time=at(10) + timedelta(hours=14)))) == 1


def test_an_item_that_was_not_asked_for_is_counted():
    reader, rejections = values()
    assert read(reader, item(1.0, handle=2)) == []
    assert rejections.by_reason("opcua:x") == {"value of an item that was not asked for": 1}


def test_a_meter_may_move_to_another_place():
    reader, _ = values()
    reader.move(1, 8)
    assert [row[0] for row in read(reader, item(1.0))] == [8]


def test_what_still_comes_of_an_item_that_was_given_up_is_left_out_in_silence():
    reader, rejections = values()
    reader.forget(1)
    assert read(reader, item(1.0)) == []
    assert rejections.total("opcua:x") == 0
    reader.drop([1])
    assert read(reader, item(1.0)) == []
    assert rejections.total("opcua:x") == 1


@pytest.mark.parametrize(("array", "whole", "number"), [
    ([7.5], False, 7.5), ([1.0, 2.0, 3.0], True, 3.0), ([True], False, 1.0), ([4, 5, 6], True, 6.0)])
def test_an_element_of_an_array_is_the_one_that_came_or_the_one_that_is_meant(array, whole, number):
    reader, _ = values()
    handle = reader.expect(6, "FT2", index=2)
    if whole:
        reader.take_whole(handle)
    assert [row[3] for row in read(reader, item(array, handle=handle))] == [number]


@pytest.mark.parametrize(("array", "whole"), [([1.0, 2.0], True), ([1.0, 2.0], False)])
def test_an_element_that_an_array_has_not_is_counted(array, whole):
    reader, rejections = values()
    handle = reader.expect(6, "FT2", index=2)
    if whole:
        reader.take_whole(handle)
    assert read(reader, item(array, handle=handle)) == []
    assert rejections.by_reason("opcua:x") == {"array has no such element": 1}
