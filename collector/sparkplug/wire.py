"""Sparkplug B payloads on the wire, as far as a host application reads and writes them.

Field numbers and types are those of the Sparkplug specification 3.0.0, chapter 6.4. The messages are made from them at
run time, so there is no generated code; protobuf skips every field that is not named here. What the fields mean is in
`metrics` and `host`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from collector.mqtt.values import Rejected

_Field = descriptor_pb2.FieldDescriptorProto
_Row = tuple[str, int, "_Field.Type.ValueType"]

_PACKAGE = "symbiosis.sparkplug"
_ONE_OF = "value"
REBIRTH = "Node Control/Rebirth"
BOOLEAN = 11
LARGEST_PAYLOAD = 4 << 20           # bytes; a BIRTH of 10,000 metrics with metadata is about 1 MiB

_PAYLOAD: Sequence[_Row] = (
    ("timestamp", 1, _Field.TYPE_UINT64), ("metrics", 2, _Field.TYPE_MESSAGE), ("seq", 3, _Field.TYPE_UINT64))
_METRIC: Sequence[_Row] = (
    ("name", 1, _Field.TYPE_STRING), ("alias", 2, _Field.TYPE_UINT64), ("timestamp", 3, _Field.TYPE_UINT64),
    ("datatype", 4, _Field.TYPE_UINT32), ("is_historical", 5, _Field.TYPE_BOOL), ("is_null", 7, _Field.TYPE_BOOL),
    ("properties", 9, _Field.TYPE_MESSAGE))
_METRIC_VALUE: Sequence[_Row] = (
    ("int_value", 10, _Field.TYPE_UINT32), ("long_value", 11, _Field.TYPE_UINT64),
    ("float_value", 12, _Field.TYPE_FLOAT), ("double_value", 13, _Field.TYPE_DOUBLE),
    ("boolean_value", 14, _Field.TYPE_BOOL), ("string_value", 15, _Field.TYPE_STRING),
    ("bytes_value", 16, _Field.TYPE_BYTES))
_PROPERTIES: Sequence[_Row] = (("keys", 1, _Field.TYPE_STRING), ("values", 2, _Field.TYPE_MESSAGE))
_PROPERTY: Sequence[_Row] = (("type", 1, _Field.TYPE_UINT32), ("is_null", 2, _Field.TYPE_BOOL))
_PROPERTY_VALUE: Sequence[_Row] = (
    ("int_value", 3, _Field.TYPE_UINT32), ("long_value", 4, _Field.TYPE_UINT64), ("float_value", 5, _Field.TYPE_FLOAT),
    ("double_value", 6, _Field.TYPE_DOUBLE), ("boolean_value", 7, _Field.TYPE_BOOL),
    ("string_value", 8, _Field.TYPE_STRING))
_OF = {"metrics": "Metric", "properties": "Properties", "values": "Property"}
_REPEATED = frozenset({"metrics", "keys", "values"})


def _describe(
    file: descriptor_pb2.FileDescriptorProto, name: str, fields: Sequence[_Row], value: Sequence[_Row] = (),
) -> None:
    """Add a message with these fields, and those of which only one may be there."""
    message = file.message_type.add(name=name)
    for field, number, kind in (*fields, *value):
        label = _Field.LABEL_REPEATED if field in _REPEATED else _Field.LABEL_OPTIONAL
        added = message.field.add(name=field, number=number, type=kind, label=label)
        if kind == _Field.TYPE_MESSAGE:
            added.type_name = f".{_PACKAGE}.{_OF[field]}"
        if (field, number, kind) in value:
            added.oneof_index = 0
    if value:
        message.oneof_decl.add(name=_ONE_OF)


def _payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="symbiosis/sparkplug.proto", package=_PACKAGE, syntax="proto2")
    _describe(file, "Payload", _PAYLOAD)
    _describe(file, "Metric", _METRIC, _METRIC_VALUE)
    _describe(file, "Properties", _PROPERTIES)
    _describe(file, "Property", _PROPERTY, _PROPERTY_VALUE)
    pool = descriptor_pool.DescriptorPool()     # our own: the default one is shared with every library
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Payload"))


Payload: Any = _payload_class()     # a class made at run time, which no type checker can know


def rebirth(timestamp_ms: int) -> bytes:
    """Return the payload of the command that asks an edge node for its BIRTHs."""
    payload = Payload(timestamp=timestamp_ms)
    payload.metrics.add(name=REBIRTH, timestamp=timestamp_ms, datatype=BOOLEAN, boolean_value=True)
    encoded: bytes = payload.SerializeToString()
    return encoded


def decoded(payload: bytes) -> Any:
    """Return the payload's fields.

    Raises
    ------
    Rejected
        If it is too large or none.
    """
    if len(payload) > LARGEST_PAYLOAD:
        raise Rejected("payload is larger than 4 MiB")
    try:
        return Payload.FromString(payload)
    except DecodeError:
        raise Rejected("payload is not Sparkplug B") from None
