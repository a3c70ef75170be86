"""Publish responses from bytes: by our own short way where they are as usual, else by asyncua.

Nine tenths of what a value costs a client of asyncua go into its general decoder. A notification of data changes is a
list of small records with few layouts; each is read here with one `struct` call. Whatever is not as expected
(arrays, texts, picoseconds, diagnostics, other notifications) goes through asyncua, which gives the same items.

The encoding is that of OPC 10000-6, 5.2.2; PublishResponse and its parts are in OPC 10000-4, 5.14.5 and 7.25.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary
from asyncua.ua.uaerrors import UaError, UaStructParsingError

from collector.times import micros

FILETIME_US = 11_644_473_600_000_000        # from 1601-01-01 to 1970-01-01
TICKS_A_US = 10                             # a FILETIME counts 100 ns

_RESPONSE = struct.pack("<BBH", 1, 0, ua.ObjectIds.PublishResponse_Encoding_DefaultBinary)
_DATA_CHANGE = struct.pack("<BBHB", 1, 0, ua.ObjectIds.DataChangeNotification_Encoding_DefaultBinary, 1)
_PLAIN_HEADER = bytes([0]) + b"\xff\xff\xff\xff" + bytes(3)     # no diagnostics, no strings, no additional header

_HEADER = struct.Struct("<qII")             # time, request handle, service result
_UINT = struct.Struct("<I")
_COUNT = struct.Struct("<i")
_MESSAGE = struct.Struct("<?Iqi")           # more notifications, sequence number, time, count of notifications

# What asyncua's decoder raises for nonsense.
_UNREADABLE = (
    UaError, struct.error, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class Item(NamedTuple):
    """One monitored item's value.

    Attributes
    ----------
    handle
        Client handle.
    value
        The variant's value, of any type; None if there is none.
    code
        StatusCode.
    source_ticks, server_ticks
        FILETIMEs [100 ns since 1601-01-01 UTC]; None if there is none.
    """

    handle: int
    value: Any
    code: int
    source_ticks: int | None
    server_ticks: int | None


@dataclass(frozen=True, slots=True)
class Published:
    """A publish response.

    Attributes
    ----------
    result
        StatusCode of the service.
    subscription, sequence
        Subscription id and sequence number.
    has_data
        Whether it is a notification and not a keep-alive.
    items
        Values, in the server's order.
    ended
        Why the server ended the subscription; None if it did not.
    available
        Sequence numbers that the server keeps for being asked for again.
    """

    result: int
    subscription: int
    sequence: int
    has_data: bool
    items: list[Item]
    ended: str | None = None
    available: Sequence[int] = ()


class _Unusual(Exception):
    """The bytes are not laid out as the short way expects."""


def published(data: bytes) -> Published:
    """Return what a publish response says.

    Raises
    ------
    UaStructParsingError
        If it cannot be read.
    """
    try:
        return _by_short_way(data)
    except (_Unusual, struct.error, IndexError):
        return _by_asyncua(data)


def republished(data: bytes, subscription: int) -> Published:
    """Return what the answer to a republish request says, its sequence number 0 if it says nothing.

    Raises
    ------
    UaStructParsingError
        If it cannot be read.
    """
    try:
        response = struct_from_binary(ua.RepublishResponse, Buffer(data))
    except _UNREADABLE as error:
        raise UaStructParsingError from error
    return published_of(response.NotificationMessage, subscription, response.ResponseHeader.ServiceResult.value)


def us_of_ticks(ticks: int) -> int:
    """Return a FILETIME as microseconds since 1970-01-01 UTC, floored."""
    return ticks // TICKS_A_US - FILETIME_US


def _layouts() -> dict[int, tuple[struct.Struct, itemgetter[tuple[Any, ...]]]]:
    """Return how to read a value by its encoding mask and type: the record, and where its fields stand in it.

    The fields are picked from the record with (None, 0) behind it, for what is absent.
    """
    kinds = {0: "", 1: "?", 2: "b", 3: "B", 4: "h", 5: "H", 6: "i", 7: "I", 8: "q", 9: "Q", 10: "f", 11: "d"}
    layouts = {}
    for mask in range(16):
        for kind, letter in kinds.items() if mask & 1 else [(0, "")]:
            names = ["handle", "mask"] + ["kind"] * (mask & 1) + ["value"] * bool(letter)
            names += [name for bit, name in ((2, "code"), (4, "source"), (8, "server")) if mask & bit]
            places = dict.fromkeys(("value", "source", "server"), len(names)) | {"code": len(names) + 1}
            places |= {name: place for place, name in enumerate(names)}
            record = "B" * (mask & 1) + letter + "I" * (mask >> 1 & 1) + "q" * (mask >> 2 & 1) + "q" * (mask >> 3)
            pick = itemgetter(*(places[name] for name in ("handle", "value", "code", "source", "server")))
            layouts[mask << 8 | kind] = struct.Struct(f"<IB{record}"), pick
    return layouts


_LAYOUTS = _layouts()
_ABSENT = (None, 0)


def _by_short_way(data: bytes) -> Published:
    """Read a response that is laid out as usual."""
    if not data.startswith(_RESPONSE):
        raise _Unusual
    at = len(_RESPONSE)
    _, _, result = _HEADER.unpack_from(data, at)
    at += _HEADER.size
    if data[at : at + 8] not in (_PLAIN_HEADER, bytes(8)):
        raise _Unusual
    subscription, = _UINT.unpack_from(data, at + 8)
    available, at = _numbers(data, at + 12)
    _, sequence, _, notifications = _MESSAGE.unpack_from(data, at)
    at += _MESSAGE.size
    items: list[Item] = []
    for _ in range(notifications):
        at = _read_data_change(data, at, items)
    return Published(result, subscription, sequence, notifications > 0, items, available=available)


def _numbers(data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """Return an array of 32-bit numbers, and the position after it."""
    count = max(0, _COUNT.unpack_from(data, at)[0])
    at += _COUNT.size
    return struct.unpack_from(f"<{count}I", data, at), at + 4 * count


def _read_data_change(data: bytes, at: int, items: list[Item]) -> int:
    """Append the items of one notification of data changes; return the position after it."""
    if not data.startswith(_DATA_CHANGE, at):
        raise _Unusual
    at += len(_DATA_CHANGE)
    length: int = _COUNT.unpack_from(data, at)[0]
    end = at + _COUNT.size + length
    count, = _COUNT.unpack_from(data, at + _COUNT.size)
    at += 2 * _COUNT.size
    layouts, absent, make, append = _LAYOUTS, _ABSENT, Item._make, items.append
    for _ in range(count):
        mask = data[at + 4]
        layout = layouts.get(mask << 8 | (data[at + 5] if mask & 1 else 0))
        if layout is None:
            raise _Unusual
        record, pick = layout
        append(make(pick(record.unpack_from(data, at) + absent)))
        at += record.size
    if at > end:
        raise _Unusual
    return end              # diagnostics of items, if any, lie between


def _by_asyncua(data: bytes) -> Published:
    """Read any response, with asyncua's decoder."""
    try:
        response = struct_from_binary(ua.PublishResponse, Buffer(data))
    except _UNREADABLE as error:
        raise UaStructParsingError from error
    return replace(
        published_of(response.Parameters.NotificationMessage, response.Parameters.SubscriptionId,
                     response.ResponseHeader.ServiceResult.value),
        available=tuple(response.Parameters.AvailableSequenceNumbers or ()))


def published_of(message: ua.NotificationMessage, subscription: int, result: int = 0) -> Published:
    """Return what a notification message of asyncua says."""
    items: list[Item] = []
    ended = None
    for notification in message.NotificationData or ():
        if isinstance(notification, ua.DataChangeNotification):
            items += map(item_of, notification.MonitoredItems or ())
        elif isinstance(notification, ua.StatusChangeNotification) and not notification.Status.is_good():
            # GoodSubscriptionTransferred is meant for the session that it left, but node-opcua tells the new one
            ended = notification.Status.name
    return Published(result, subscription, message.SequenceNumber, bool(message.NotificationData), items, ended)


def item_of(notification: ua.MonitoredItemNotification) -> Item:
    """Return asyncua's notification of one item as an `Item`."""
    data = notification.Value
    return Item(
        notification.ClientHandle,
        None if data.Value is None else data.Value.Value,
        0 if data.StatusCode is None else data.StatusCode.value,
        _ticks(data.SourceTimestamp), _ticks(data.ServerTimestamp),
    )


def _ticks(moment: datetime | None) -> int | None:
    return None if moment is None else (micros(moment) + FILETIME_US) * TICKS_A_US
