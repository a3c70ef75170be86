"""Sparkplug B payloads as an edge node writes and reads them: protobuf by hand, for the few fields that it needs.

Field numbers are those of the Sparkplug specification 3.0.0, chapter 6.4. By hand, and not with what the collector
reads with: a mistake in either shows. The state of a node is in `simulators.sparkplug_node`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

REBIRTH = "Node Control/Rebirth"
INT32, INT64, DOUBLE, BOOLEAN = 3, 4, 10, 11      # data types
QUALITY = "Quality"

_VARINT, _FIXED64, _BYTES = 0, 1, 2     # wire types
_NAME, _ALIAS, _TIME, _TYPE, _HISTORICAL, _NULL, _PROPERTIES = 1, 2, 3, 4, 5, 7, 9
_LONG, _DOUBLE, _BOOLEAN = 11, 13, 14
_SEVEN_BITS = 0x7F
_MORE = 0x80
_TOLD_FROM = 0x40000000      # the first StatusCode that is not good


@dataclass(frozen=True)
class Metric:
    """One metric of a payload; what is None is left out.

    Attributes
    ----------
    value
        A float is written as a double, an int as a long, a bool as a boolean; None is null.
    status
        OPC UA StatusCode; one that is not good is told as a quality property.
    """

    value: float | int | bool | None
    name: str | None = None
    alias: int | None = None
    time_ms: int | None = None
    datatype: int | None = None
    historical: bool = False
    status: int = 0


def payload(time_ms: int, metrics: Sequence[Metric], seq: int | None) -> bytes:
    """Return a payload."""
    encoded = b"".join(_sized(2, _metric(metric)) for metric in metrics)
    return _number(1, time_ms) + encoded + (b"" if seq is None else _number(3, seq))


def asks_rebirth(command: bytes) -> bool:
    """Whether an NCMD's payload asks for the BIRTHs; one that is none does not."""
    try:
        for number, metric in _fields(command):
            if number == 2 and isinstance(metric, bytes):
                fields = dict(_fields(metric))
                if fields.get(_NAME) == REBIRTH.encode() and fields.get(_BOOLEAN) == 1:
                    return True
    except (IndexError, ValueError):
        return False
    return False


def _metric(metric: Metric) -> bytes:
    parts = []
    if metric.name is not None:
        parts.append(_sized(_NAME, metric.name.encode()))
    if metric.alias is not None:
        parts.append(_number(_ALIAS, metric.alias))
    if metric.time_ms is not None:
        parts.append(_number(_TIME, metric.time_ms))
    if metric.datatype is not None:
        parts.append(_number(_TYPE, metric.datatype))
    if metric.historical:
        parts.append(_number(_HISTORICAL, 1))
    if metric.value is None:
        parts.append(_number(_NULL, 1))
    if metric.status >= _TOLD_FROM:
        parts.append(_sized(_PROPERTIES, _quality(metric.status)))
    if metric.value is not None:
        parts.append(_value(metric.value))
    return b"".join(parts)


def _value(value: float | int | bool) -> bytes:
    if isinstance(value, bool):
        return _number(_BOOLEAN, int(value))
    if isinstance(value, int):
        return _number(_LONG, value & 0xFFFFFFFFFFFFFFFF)
    return _key(_DOUBLE, _FIXED64) + struct.pack("<d", value)


def _quality(status: int) -> bytes:
    """Return a property set that tells a StatusCode as it is: receivers take the severity from its two top bits."""
    return _sized(1, QUALITY.encode()) + _sized(2, _number(1, INT32) + _number(3, status))


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _number(number: int, value: int) -> bytes:
    return _key(number, _VARINT) + _varint(value)


def _sized(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > _SEVEN_BITS:
        encoded.append(value & _SEVEN_BITS | _MORE)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield numbers and values of a message's fields; a fixed one as its bytes."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        match key & 7:
            case 0:
                value, at = _read_varint(message, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _read_varint(message, at)
            case 5:
                size = 4
            case kind:
                raise ValueError(f"wire type {kind}")
        yield key >> 3, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & _SEVEN_BITS) << shift
        at, shift = at + 1, shift + 7
        if not byte & _MORE:
            return value, at
