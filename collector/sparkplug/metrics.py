"""A Sparkplug metric -> value or values, status and time: the rules, for one metric.

Which meter it is, and the short way for the many metrics that are plain real numbers, is in `readings`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from collector.mqtt.values import Rejected
from collector.sparkplug.wire import BOOLEAN
from collector.times import plausible
from park.quality import BAD_STATUS, GOOD_STATUS, UNCERTAIN_STATUS

# Sparkplug 3.0.0, 6.4.16: the codes of the data types that hold a number, and how many bits they have.
SIGNED_BITS = {1: 8, 2: 16, 3: 32, 4: 64}
UNSIGNED_BITS = {5: 8, 6: 16, 7: 32, 8: 64}
FLOAT, DOUBLE = 9, 10
REALS = frozenset({FLOAT, DOUBLE})
# Sparkplug 3.0.0, 6.4.17: arrays of numbers are packed, little-endian; one of Booleans has its own form.
ARRAYS: Mapping[int, str] = {
    22: "<i1", 23: "<i2", 24: "<i4", 25: "<i8", 26: "<u1", 27: "<u2", 28: "<u4", 29: "<u8", 30: "<f4", 31: "<f8"}
BOOLEAN_ARRAY = 32
_COUNT_BYTES = 4                # of a Boolean array: how many there are, before their bits
_INTEGER_FIELDS = frozenset({"int_value", "long_value"})
_NUMBER_FIELDS = _INTEGER_FIELDS | {"float_value", "double_value"}

QUALITY = "Quality"             # the property of this name; its values are OPC's: 192 good, 0 bad, and 500 stale
_QUALITY_GOOD = 192
_QUALITY_UNCERTAIN = 64
_QUALITY_LARGEST = 255
_QUALITY_STALE = 500
_STALE = 0x408F0000             # OPC UA UncertainNoCommunicationLastUsableValue
_STATUS_CODE_FROM = 0x40000000  # larger ones are StatusCodes already, as Ignition writes them
_MILLI = 1000


def number(metric: Any, datatype: int) -> float:
    """Return the number of a metric by the data type that its BIRTH declared.

    Signed integers stand in unsigned fields in two's complement, of their own width or of the field's: both are read.

    Raises
    ------
    Rejected
        If the data type holds no number, the value is none of that type, or is not finite.
    """
    bits = SIGNED_BITS.get(datatype) or UNSIGNED_BITS.get(datatype)
    if bits is None and datatype not in REALS and datatype != BOOLEAN:
        raise Rejected("datatype holds no number")
    field = metric.WhichOneof("value")
    if field is None:
        raise Rejected("metric has no value and is not null")
    if datatype in REALS:
        if field not in _NUMBER_FIELDS:
            raise Rejected("value is of another type than its datatype")
        value = float(getattr(metric, field))
        if not math.isfinite(value):
            raise Rejected("value is not finite")
        return value
    if datatype == BOOLEAN:
        if field != "boolean_value" and field not in _INTEGER_FIELDS:
            raise Rejected("value is of another type than its datatype")
        return float(bool(getattr(metric, field)))
    if field not in _INTEGER_FIELDS or bits is None:
        raise Rejected("value is of another type than its datatype")
    raw: int = getattr(metric, field) & ((1 << bits) - 1)
    return float(raw - (1 << bits) if datatype in SIGNED_BITS and raw >> (bits - 1) else raw)


def element(metric: Any, datatype: int, index: int) -> float:
    """Return one element of a metric that is an array, by the data type that its BIRTH declared.

    Raises
    ------
    Rejected
        If the data type is no array of numbers, the value none of that type, or the element not there or not finite.
    """
    if datatype not in ARRAYS and datatype != BOOLEAN_ARRAY:
        raise Rejected("datatype is no array of numbers")
    if metric.WhichOneof("value") != "bytes_value":
        raise Rejected("value is of another type than its datatype")
    data: bytes = metric.bytes_value
    if datatype == BOOLEAN_ARRAY:
        return _bit(data, index)
    kind = np.dtype(ARRAYS[datatype])
    if len(data) % kind.itemsize:
        raise Rejected("array has not the size of its datatype")
    if index >= len(data) // kind.itemsize:
        raise Rejected("array is too short")
    value = float(np.frombuffer(data, kind, 1, index * kind.itemsize)[0])
    if not math.isfinite(value):
        raise Rejected("value is not finite")
    return value


def _bit(data: bytes, index: int) -> float:
    """Return one of the Booleans of an array: a count, then bits, the first the highest of its byte."""
    count = int.from_bytes(data[:_COUNT_BYTES], "little")
    if len(data) != _COUNT_BYTES + (count + 7) // 8:
        raise Rejected("array has not the size of its datatype")
    if index >= count:
        raise Rejected("array is too short")
    return float(data[_COUNT_BYTES + index // 8] >> (7 - index % 8) & 1)


def status(metric: Any) -> int:
    """Return the OPC UA StatusCode that a metric's quality property says; good without one."""
    if not metric.HasField("properties"):
        return GOOD_STATUS
    for key, value in zip(metric.properties.keys, metric.properties.values, strict=False):
        if key == QUALITY:
            field = value.WhichOneof("value")
            return BAD_STATUS if field not in _INTEGER_FIELDS or value.is_null else _status_of(getattr(value, field))
    return GOOD_STATUS


def _status_of(quality: int) -> int:
    """Return the StatusCode of a quality; what nobody defined is bad."""
    quality &= 0xFFFFFFFF
    if quality >= _STATUS_CODE_FROM:
        return quality
    if quality == _QUALITY_STALE:
        return _STALE
    if quality > _QUALITY_LARGEST:
        return BAD_STATUS
    if quality >= _QUALITY_GOOD:
        return GOOD_STATUS
    return UNCERTAIN_STATUS if quality >= _QUALITY_UNCERTAIN else BAD_STATUS


def reading(metric: Any, datatype: int, index: int | None = None) -> tuple[float, int]:
    """Return value and status of a metric, or of one element (`index`) of it; a null is NaN and bad.

    Raises
    ------
    Rejected
        If it is no reading.
    """
    code = status(metric)
    if metric.is_null:
        return math.nan, max(code, BAD_STATUS)
    return number(metric, datatype) if index is None else element(metric, datatype, index), code


def source_us(metric: Any, payload: Any, received_us: int) -> int:
    """Return the metric's time, else the payload's, else the arrival [us]; a historical one needs its own.

    Raises
    ------
    Rejected
        If the time cannot be meant.
    """
    if metric.HasField("timestamp"):
        time_us = metric.timestamp * _MILLI
    elif metric.is_historical:
        raise Rejected("historical value without a time")
    elif payload.HasField("timestamp"):
        time_us = payload.timestamp * _MILLI
    else:
        return received_us
    if not plausible(time_us, received_us):
        raise Rejected("time is before 2000 or more than a day ahead")
    return int(time_us)
