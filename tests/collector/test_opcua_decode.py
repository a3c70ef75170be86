"""The short way through a publish response gives what asyncua's decoder gives."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary
from asyncua.ua.uaerrors import UaStructParsingError
from hypothesis import given
from hypothesis import strategies as st

from collector.opcua import decode
from collector.opcua.decode import Item, published, republished, us_of_ticks
from collector.times import micros

NUMBERS = {
    ua.VariantType.Boolean: st.booleans(),
    ua.VariantType.SByte: st.integers(-(2**7), 2**7 - 1), ua.VariantType.Byte: st.integers(0, 2**8 - 1),
    ua.VariantType.Int16: st.integers(-(2**15), 2**15 - 1), ua.VariantType.UInt16: st.integers(0, 2**16 - 1),
    ua.VariantType.Int32: st.integers(-(2**31), 2**31 - 1), ua.VariantType.UInt32: st.integers(0, 2**32 - 1),
    ua.VariantType.Int64: st.integers(-(2**63), 2**63 - 1), ua.VariantType.UInt64: st.integers(0, 2**64 - 1),
    ua.VariantType.Float: st.floats(width=32, allow_nan=False), ua.VariantType.Double: st.floats(allow_nan=False),
    ua.VariantType.Null: st.none(),
}
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
UNUSUAL = {ua.VariantType.String: st.text(max_size=5), ua.VariantType.DateTime: st.just(NEW_YEAR)}
TIMES = st.none() | st.builds(timedelta, microseconds=st.integers(-10**15, 10**15)).map(lambda since: NEW_YEAR + since)


def variants(kinds):
    return st.one_of(*(st.builds(ua.Variant, values, st.just(kind)) for kind, values in kinds.items()))


def items(kinds):
    values = st.builds(
        ua.DataValue, variants(kinds), st.builds(ua.StatusCode, st.integers(0, 2**32 - 1)), TIMES, TIMES)
    return st.lists(st.builds(ua.MonitoredItemNotification, st.integers(0, 2**32 - 1), values), max_size=6)


def response(*notifications, subscription=7, sequence=9, kept=(3, 4)):
    answer = ua.PublishResponse()
    answer.Parameters.SubscriptionId = subscription
    answer.Parameters.AvailableSequenceNumbers = list(kept)
    answer.Parameters.Results = [ua.StatusCode()]
    answer.Parameters.NotificationMessage.SequenceNumber = sequence
    answer.Parameters.NotificationMessage.NotificationData = list(notifications)
    return struct_to_binary(answer)


def changes(found):
    return ua.DataChangeNotification(MonitoredItems=found)


@given(st.lists(items(NUMBERS), max_size=3))
def test_usual_responses_are_read_the_short_way_as_asyncua_reads_them(lists):
    data = response(*map(changes, lists))
    assert decode._by_short_way(data) == decode._by_asyncua(data) == published(data)


@given(items(NUMBERS | UNUSUAL))
def test_any_response_is_read_as_asyncua_reads_it(found):
    data = response(changes(found))
    assert published(data) == decode._by_asyncua(data)


def test_a_value_of_a_double_with_all_its_parts():
    when = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    item = ua.MonitoredItemNotification(3, ua.DataValue(
        ua.Variant(1.5), ua.StatusCode(ua.UInt32(0x40930000)), when, when + timedelta(seconds=1)))
    answer = decode._by_short_way(response(changes([item])))
    assert (answer.result, answer.subscription, answer.sequence, answer.has_data, answer.ended) == (0, 7, 9, True, None)
    [(handle, value, code, source, server)] = answer.items
    assert (handle, value, code) == (3, 1.5, 0x40930000)
    assert (us_of_ticks(source), us_of_ticks(server)) == (micros(when), micros(when) + 1_000_000)


def test_a_keep_alive_has_no_data():
    answer = decode._by_short_way(response())
    assert (answer.has_data, answer.items) == (False, [])


@pytest.mark.parametrize("variant", [
    ua.Variant([1.0, 2.0]), ua.Variant("text"), ua.Variant(ua.Range(ua.Double(0), ua.Double(1)))])
def test_other_types_take_the_long_way(variant):
    data = response(changes([ua.MonitoredItemNotification(3, ua.DataValue(variant))]))
    with pytest.raises(decode._Unusual):
        decode._by_short_way(data)
    assert published(data).items == [Item(3, variant.Value, 0, None, None)]


def test_a_nan_stays_one():
    [item] = published(response(changes([ua.MonitoredItemNotification(3, ua.DataValue(ua.Variant(math.nan)))]))).items
    assert math.isnan(item.value)


def test_the_end_of_a_subscription_is_told():
    answer = published(response(ua.StatusChangeNotification(Status=ua.StatusCode(ua.StatusCodes.BadTimeout))))
    assert (answer.has_data, answer.ended) == (True, "BadTimeout")


def test_one_that_was_transferred_has_not_ended():
    moved = ua.StatusCode(ua.UInt32(ua.StatusCodes.GoodSubscriptionTransferred))
    answer = published(response(ua.StatusChangeNotification(Status=moved)))
    assert (answer.has_data, answer.ended) == (True, None)


@pytest.mark.parametrize("kept", [[], [3], [1, 2**32 - 1]])
def test_what_the_server_keeps_is_read_either_way(kept):
    for notification in (changes([]), ua.StatusChangeNotification(Status=ua.StatusCode())):
        assert list(published(response(notification, kept=kept)).available) == kept


def test_what_was_published_again_is_read_or_not_at_all():
    answer = ua.RepublishResponse()
    answer.NotificationMessage = ua.NotificationMessage(SequenceNumber=9, NotificationData=[changes([])])
    data = struct_to_binary(answer)
    assert (republished(data, 7).subscription, republished(data, 7).sequence) == (7, 9)
    with pytest.raises(UaStructParsingError):
        republished(data[:-5], 7)


@given(items(NUMBERS), st.data())
def test_bytes_that_are_cut_or_changed_raise_one_error_or_are_read(found, data):
    whole = bytearray(response(changes(found)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with suppress(UaStructParsingError):
        published(cut)
