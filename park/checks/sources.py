"""Checks of where meters are read: OPC UA, MQTT with JSON, Sparkplug."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from urllib.parse import urlsplit

import jsonpath_rfc9535
from jsonpath_rfc9535.exceptions import JSONPathError

from park.draft import Draft, Item
from park.errors import Fault
from park.model import Meter
from park.wording import show

PROTOCOLS = ("opcua", "mqtt", "sparkplug")

# OPC UA part 6, section 5.1.12: text form of a NodeId; a semicolon of a URI is written %3B
_NODE_ID = re.compile(
    r"(?:ns=(?P<ns>[0-9]+);|nsu=[^;]+;)?"
    r"(?:i=(?P<i>[0-9]+)|s=.+|g=[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|b=[A-Za-z0-9+/]+={0,2})",
    re.DOTALL,
)
_MAX_NAMESPACE, _MAX_NUMBER = 2**16 - 1, 2**32 - 1  # UInt16 and UInt32
_MAX_TOPIC = 65_535  # bytes; MQTT 3.1.1, section 4.7.3


def check_for_sources_without_one_protocol(draft: Draft) -> Iterator[Fault]:
    """Find a source of no protocol, or of more than one."""
    for item in draft.meters:
        if not item.sound("source"):
            continue
        given = [name for name in PROTOCOLS if getattr(item.entry.source, name) is not None]
        if not given:
            yield item.key_fault(
                ("source",),
                "must name a protocol: opcua, mqtt or sparkplug",
                'such as source: {mqtt: {topic: "plant/FT201", value: "$.value"}}',
            )
        if len(given) > 1:
            yield item.fault(
                ("source", given[1]),
                f"source names {' and '.join(given)}, only one may be",
                "a second way to the same signal is a second meter",
            )


def check_for_wrong_opcua_endpoints(draft: Draft) -> Iterator[Fault]:
    """Find an endpoint that is no opc.tcp URL."""
    for item in draft.meters:
        opcua = item.entry.source.opcua
        if opcua is None or not item.sound("source"):
            continue
        if "@" in opcua.endpoint:
            yield item.key_fault(
                ("source", "opcua", "endpoint"),
                f"must hold no user or password, got them before {show(opcua.endpoint.rpartition('@')[2])}",
                "an entry of the section servers says who we are",
            )
        elif not is_endpoint(opcua.endpoint):
            yield item.key_fault(
                ("source", "opcua", "endpoint"),
                f"must be an opc.tcp URL, got {show(opcua.endpoint)}",
                "such as opc.tcp://127.0.0.1:4840",
            )


def check_for_wrong_opcua_node_ids(draft: Draft) -> Iterator[Fault]:
    """Find a node id that OPC UA cannot read."""
    for item in draft.meters:
        opcua = item.entry.source.opcua
        if opcua is not None and item.sound("source") and not _is_node_id(opcua.node_id):
            yield item.key_fault(
                ("source", "opcua", "node_id"),
                f"must be an OPC UA node id, got {show(opcua.node_id)}",
                "such as ns=2;s=power.FT101 or nsu=http://example.com/plant;i=1001",
            )


def check_for_wrong_mqtt_topics(draft: Draft) -> Iterator[Fault]:
    """Find a topic that is empty, too long, or a filter for many."""
    for item in draft.meters:
        mqtt = item.entry.source.mqtt
        if mqtt is None or not item.sound("source"):
            continue
        if any(sign in mqtt.topic for sign in "+#\0"):
            yield item.key_fault(
                ("source", "mqtt", "topic"),
                f"must be one topic without wildcards, got {show(mqtt.topic)}",
                "a meter has a topic of its own; + and # stand for many",
            )
        elif not 0 < len(mqtt.topic.encode()) <= _MAX_TOPIC:
            yield item.key_fault(
                ("source", "mqtt", "topic"),
                f"must have 1 to {_MAX_TOPIC} bytes, got {show(mqtt.topic)}",
                "such as plant/refinery/FT201",
            )


def check_for_wrong_json_paths(draft: Draft) -> Iterator[Fault]:
    """Find a path that is not RFC 9535 with names and indexes only."""
    for item in draft.meters:
        mqtt = item.entry.source.mqtt
        if mqtt is None or not item.sound("source"):
            continue
        for key in ("value", "time", "status", "samples"):
            path = getattr(mqtt, key)
            reason = "" if path is None else _path_fault(path)
            if reason:
                yield item.key_fault(
                    ("source", "mqtt", key),
                    f"must be a JSON path of names and indexes, got {show(path)}: {reason}",
                    "such as $.value, $['a b'].value or $.samples[0].v",
                )


def check_for_time_formats_of_nothing(draft: Draft) -> Iterator[Fault]:
    """Find a time_format without a path to a time."""
    for item in draft.meters:
        mqtt = item.entry.source.mqtt
        if mqtt is not None and item.sound("source") and mqtt.time_format is not None and mqtt.time is None:
            yield item.key_fault(
                ("source", "mqtt", "time_format"),
                "needs a path to the time",
                'such as time: "$.ts", or leave it out: then the arrival counts',
            )


def check_for_samples_without_time(draft: Draft) -> Iterator[Fault]:
    """Find arrays of samples that would all have the time of their arrival."""
    for item in draft.meters:
        mqtt = item.entry.source.mqtt
        if mqtt is not None and item.sound("source") and mqtt.samples is not None and mqtt.time is None:
            yield item.key_fault(
                ("source", "mqtt", "samples"),
                "needs a path to the time of each sample",
                'such as time: "$.ts", which begins at the sample',
            )


def check_for_wrong_sparkplug_names(draft: Draft) -> Iterator[Fault]:
    """Find a group, edge node or device that cannot be part of a topic, or an empty metric."""
    for item in draft.meters:
        sparkplug = item.entry.source.sparkplug
        if sparkplug is None or not item.sound("source"):
            continue
        for key in ("group", "edge_node", "device"):
            name = getattr(sparkplug, key)
            if name is not None and (not name or any(sign in name for sign in "/+#\0")):
                yield item.key_fault(
                    ("source", "sparkplug", key),
                    f"must be a name without /, + and #, got {show(name)}",
                    "it is one level of the topic spBv1.0/GROUP/DDATA/EDGE_NODE/DEVICE",
                )
        if not sparkplug.metric:
            yield item.key_fault(("source", "sparkplug", "metric"), "must not be empty", "the metric's name in BIRTH")


def check_for_sources_used_twice(draft: Draft) -> Iterator[Fault]:
    """Find two meters that read the same signal at the same time."""
    users: dict[tuple[str, ...], list[Item[Meter]]] = {}
    for item in draft.meters:
        key = _signal(item.entry)
        if not item.sound("source", "valid_from", "valid_to") or key is None:
            continue
        earlier = next((user for user in users.get(key, ()) if _overlap(user.entry, item.entry)), None)
        if earlier is not None:
            yield item.key_fault(
                ("source",),
                f"is that of {earlier.subject} too, at {earlier.file}:{earlier.line(('source',))}",
                "one signal is one meter; look for a row copied and not changed",
            )
        users.setdefault(key, []).append(item)


def is_endpoint(text: str) -> bool:
    """Return whether a text is an opc.tcp URL."""
    try:
        url = urlsplit(text)
        port = url.port  # ValueError beyond 65535
    except ValueError:
        return False
    return url.scheme == "opc.tcp" and bool(url.hostname) and port != 0 and not re.search(r"\s", text)


def _is_node_id(text: str) -> bool:
    match = _NODE_ID.fullmatch(text)
    return match is not None and int(match["ns"] or 0) <= _MAX_NAMESPACE and int(match["i"] or 0) <= _MAX_NUMBER


@cache
def _path_fault(path: str) -> str:
    """Return what is wrong with a JSON path, or nothing."""
    try:
        query = jsonpath_rfc9535.compile(path)
    except JSONPathError as error:
        return str(error).split(", line ")[0]
    return "" if query.singular_query() else "it may find more than one value"


def _signal(meter: Meter) -> tuple[str, ...] | None:
    """Return what makes a signal one and the same; None for a source that has its own fault."""
    source = meter.source
    if source.opcua is not None:
        return ("opcua", source.opcua.endpoint, source.opcua.node_id, str(source.opcua.index))
    if source.mqtt is not None:
        return (source.name, source.mqtt.topic, source.mqtt.samples or "", source.mqtt.value)
    if source.sparkplug is not None:
        s = source.sparkplug
        return (source.name, s.group, s.edge_node, s.device or "", s.metric, str(s.index))
    return None


def _overlap(one: Meter, other: Meter) -> bool:
    """Return whether there is an instant at which both meters are valid: a tag goes on when its meter is replaced."""
    return (one.valid_from or _EARLIEST) < (other.valid_to or _LATEST) and (other.valid_from or _EARLIEST) < (
        one.valid_to or _LATEST
    )


_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
