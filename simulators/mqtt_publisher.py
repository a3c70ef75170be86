"""The MQTT side of a simulated park: one client that publishes the meters' readings as JSON, at QoS 1.

    Readings ──► Message.payload ──► backlog ──► paho, at most IN_FLIGHT ──► broker
                 each meter's own    (bounded)   until its PUBACK
                 JSON paths

Here: payloads built so that each meter's paths find its value, time and status; what has not been acknowledged is
kept, across connections, and sent again. Not here: when readings are due (`simulators.serve`). The main path enters
at `MqttPublisher.publish`, once a tick.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import ssl
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jsonpath_rfc9535 as jsonpath
import numpy as np
import paho.mqtt.client as mqtt
from jsonpath_rfc9535.segments import JSONPathChildSegment, JSONPathSegment
from jsonpath_rfc9535.selectors import IndexSelector, NameSelector
from numpy.typing import NDArray
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from park.brokers import Address, address_of, shown
from park.errors import InputError
from park.model import Meter, MqttSource, Park
from simulators.instruments import Readings
from simulators.record import iso

log = logging.getLogger(__name__)

DEFAULT_PORT = 1883                  # IANA: mqtt
IN_FLIGHT = 100                      # what iotcore's broker takes at most; mosquitto takes any number from a publisher
BACKLOG = 200_000                    # messages, of some 0.5 kB: five minutes of a large park, 100 MB
KEEPALIVE_S = 15
BACK_OFF_S = (1, 5)                  # first and longest wait between two attempts to connect

Step: TypeAlias = str | int
Json: TypeAlias = Any


def steps(path: str) -> tuple[Step, ...]:
    """Return the names and indexes of an RFC 9535 path; the whole document is no step.

    Raises
    ------
    InputError
        If the path is wrong or has more than names and indexes.
    """
    try:
        segments = jsonpath.compile(path).segments
    except jsonpath.JSONPathError as error:
        raise InputError(f"JSON path {path!r} is wrong: {error}") from error
    found = [_step(segment) for segment in segments]
    if None in found:
        raise InputError(f"JSON path {path!r} may have names and indexes only")
    return tuple(step for step in found if step is not None)


def _step(segment: JSONPathSegment) -> Step | None:
    """Return the one name or index of a segment, None if it is anything else."""
    if not isinstance(segment, JSONPathChildSegment) or len(segment.selectors) != 1:
        return None
    match segment.selectors[0]:
        case NameSelector() as selector:
            return selector.name
        case IndexSelector() as selector:
            return selector.index
    return None


def placed(document: Json, path: Sequence[Step], value: Json) -> Json:
    """Return `document` with `value` at `path`; objects and lists on the way are made, None is nothing yet.

    Raises
    ------
    InputError
        If the path runs through something that is already there and of another kind.
    """
    if not path:
        if document is not None and document != value:
            raise InputError("two different values for one place")
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, str):
        if document is not None and not isinstance(document, dict):
            raise InputError(f"the name {step!r} is needed where there is no object")
        made = document if document is not None else {}
        made[step] = placed(made.get(step), rest, value)
        return made
    if document is not None and not isinstance(document, list):
        raise InputError(f"the index {step} is needed where there is no list")
    items = document if document is not None else []
    place = step if step >= 0 else max(len(items), -step) + step
    items += [None] * (place + 1 - len(items))
    items[place] = placed(items[place], rest, value)
    return items


@dataclass(frozen=True)
class Fields:
    """Where a meter's value, time and status stand in its messages."""

    value: tuple[Step, ...]
    time: tuple[Step, ...] | None
    status: tuple[Step, ...] | None

    @classmethod
    def of(cls, source: MqttSource) -> Fields:
        """Read the paths of a meter's source."""
        time = None if source.time is None else steps(source.time)
        return cls(steps(source.value), time, None if source.status is None else steps(source.status))


class Message:
    """What is published on one topic: the readings of its meters that were taken at the same instant.

    Parameters
    ----------
    topic
        The topic.
    meters
        Its meters by their position in `park.meters`.

    Raises
    ------
    InputError
        If the paths of two meters cannot stand in one message.
    """

    def __init__(self, topic: str, meters: Mapping[int, Meter]) -> None:
        self.topic = topic
        self._fields = {i: Fields.of(m.source.mqtt) for i, m in meters.items() if m.source.mqtt is not None}
        self._check(meters)
        self.separable = all(self._alone(i) for i in self._fields)

    def payload(self, time_us: int, rows: Mapping[int, tuple[float, int]]) -> bytes:
        """Return the message with the values and statuses of some of its meters, by position; NaN becomes null."""
        return json.dumps(self._document(time_us, rows), ensure_ascii=False, allow_nan=False).encode()

    def _document(self, time_us: int, rows: Mapping[int, tuple[float, int]]) -> Json:
        document: Json = None
        statuses: dict[tuple[Step, ...], int] = defaultdict(int)
        for i, (value, status) in rows.items():
            fields = self._fields[i]
            document = placed(document, fields.value, None if math.isnan(value) else value)
            if fields.time is not None:
                document = placed(document, fields.time, iso(time_us))
            if fields.status is not None:          # meters that share a status have the worst of theirs
                statuses[fields.status] = max(statuses[fields.status], status)
        for path, status in statuses.items():
            document = placed(document, path, status)
        return document

    def _check(self, meters: Mapping[int, Meter]) -> None:
        """Build one message with every meter and read every value back."""
        rows = {i: (float(number), 0) for number, i in enumerate(self._fields, 1)}
        try:
            document = self._document(0, rows)
        except InputError as error:
            raise InputError(f"topic {self.topic!r}: the JSON paths of meters {_named(meters)} do not fit into "
                             f"one message: {error}") from error
        for i, (value, _) in rows.items():
            if _found(document, self._fields[i].value) != value:
                raise InputError(f"topic {self.topic!r}: the JSON paths of meters {_named(meters)} do not fit into "
                                 f"one message: that of {meters[i].id!r} would find another's value")

    def _alone(self, i: int) -> bool:
        """Whether a message with this meter's reading only has nothing where the others are looked for."""
        document = self._document(0, {i: (1.0, 0)})
        return not any(_exists(document, fields.value) for j, fields in self._fields.items() if j != i)


def _named(meters: Mapping[int, Meter]) -> str:
    """Return the ids of meters for a message."""
    return ", ".join(repr(m.id) for m in meters.values())


def _exists(document: Json, path: Sequence[Step]) -> bool:
    """Whether there is something at `path`, null included."""
    for step in path:
        if isinstance(step, str):
            if not isinstance(document, dict) or step not in document:
                return False
        elif not isinstance(document, list) or not -len(document) <= step < len(document):
            return False
        document = document[step]
    return True


def _found(document: Json, path: Sequence[Step]) -> Json:
    """Return what is at `path`, None if nothing."""
    if not _exists(document, path):
        return None
    for step in path:
        document = document[step]
    return document


def messages(park: Park) -> dict[str, Message]:
    """Return the message of each topic of the park.

    Raises
    ------
    InputError
        With every topic whose meters do not fit into one message, all at once.
    """
    topics: dict[str, dict[int, Meter]] = defaultdict(dict)
    for position, meter in enumerate(park.meters):
        if meter.source.mqtt is not None:
            topics[meter.source.mqtt.topic][position] = meter
    made, mistakes = {}, []
    for topic, meters in topics.items():
        try:
            made[topic] = Message(topic, meters)
            mistakes += _apart(made[topic], meters)
        except InputError as error:
            mistakes.append(str(error))
    if mistakes:
        raise InputError("\n".join(mistakes))
    return made


def _apart(message: Message, meters: Mapping[int, Meter]) -> list[str]:
    """Return what is wrong with meters that can only be sent together, but are not always due together."""
    paces = {(m.interval_s, m.sampling) for m in meters.values()}
    if message.separable or (len(paces) == 1 and paces.pop()[1] == "periodic"):
        return []
    return [f"topic {message.topic!r}: meters {_named(meters)} share a list, so they need the same interval_s "
            "and periodic sampling"]


class MqttPublisher:
    """Publishes readings, and keeps them until the broker has them.

    Parameters
    ----------
    url
        `mqtt[s]://[user:password@]host[:port]`.
    park
        The park; its MQTT meters are published.
    client_id
        Fixed, so that a broker takes a new connection for the old one's successor.

    Raises
    ------
    InputError
        If the URL is wrong, or meters on one topic do not fit into one message.
    """

    def __init__(self, url: str, park: Park, client_id: str) -> None:
        self._url = shown(url)
        self._address = address_of(url)
        self._messages = messages(park)
        self._topic = {i: m.source.mqtt.topic for i, m in enumerate(park.meters) if m.source.mqtt is not None}
        self.mask: NDArray[np.bool_] = np.array([i in self._topic for i in range(len(park.meters))], dtype=np.bool_)
        self.lost = 0
        self._backlog: deque[tuple[str, bytes]] = deque()
        self._in_flight = 0
        self._connected = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self._told = ""
        self._client = self._make_client(client_id)

    @property
    def inseparable(self) -> frozenset[int]:
        """Positions of meters that can only be sent together with others: none of them can be silent alone."""
        return frozenset(i for i, topic in self._topic.items() if not self._messages[topic].separable)

    @property
    def pending(self) -> int:
        """How many messages the broker has not acknowledged."""
        return len(self._backlog) + self._in_flight

    async def connect(self) -> None:
        """Connect, however long it takes; told once if the broker is away."""
        self._client.connect_async(self._address.host, self._address.port, keepalive=KEEPALIVE_S)
        self._client.loop_start()
        await self._connected.wait()

    def publish(self, readings: Readings) -> None:
        """Take the readings of this instant; returns at once, whether the broker is there or not."""
        topics: dict[str, dict[int, tuple[float, int]]] = defaultdict(dict)
        rows = zip(readings.index.tolist(), readings.values.tolist(), readings.statuses.tolist(), strict=True)
        for i, value, status in rows:
            topics[self._topic[i]][i] = (value, status)
        for topic, meters in topics.items():
            self._keep(topic, self._messages[topic].payload(readings.time_us, meters))
        self._pump()

    async def drain(self) -> None:
        """Wait until the broker has everything."""
        await self._idle.wait()

    async def close(self) -> None:
        """Leave the broker; what it has not acknowledged is given up."""
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)
        self._client._reset_sockets()        # paho leaves the pair that wakes its thread to its finaliser

    def _make_client(self, client_id: str) -> mqtt.Client:
        client = new_client(self._address, client_id)
        client.max_inflight_messages_set(IN_FLIGHT)
        client.max_queued_messages_set(IN_FLIGHT)                 # the backlog is ours, so paho never queues
        client.reconnect_delay_set(*BACK_OFF_S)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        return client

    def _keep(self, topic: str, payload: bytes) -> None:
        """Put a message into the backlog; give it up if that is full."""
        if len(self._backlog) >= BACKLOG:
            self.lost += 1
            self._tell(f"{BACKLOG} messages wait for {self._url}: new ones are given up")
            return
        self._backlog.append((topic, payload))

    def _pump(self) -> None:
        """Hand messages to paho while it may have more in flight."""
        while self._backlog and self._in_flight < IN_FLIGHT:
            result = self._client.publish(*self._backlog[0], qos=1)
            if result.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                break
            self._backlog.popleft()
            self._in_flight += 1
        if self.pending:
            self._idle.clear()
        else:
            self._idle.set()

    def _acknowledged(self) -> None:
        self._in_flight -= 1
        self._pump()

    def _came(self) -> None:
        self._told = ""
        self._connected.set()
        self._pump()

    def _tell(self, text: str) -> None:
        """Log a change of state, once."""
        if text != self._told:
            self._told = text
            log.warning(text)

    # paho's network thread calls these; all work is done on the loop

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_connect(self, client: mqtt.Client, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self._call(self._tell, f"broker {self._url} refuses the connection: {reason}; trying again")
        else:
            self._call(self._came)

    def _on_connect_fail(self, client: mqtt.Client, data: Any) -> None:
        self._call(self._tell, f"broker {self._url} is away; trying again")

    def _on_disconnect(
        self, client: mqtt.Client, data: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            self._call(self._tell, f"broker {self._url} is away; trying again")

    def _on_publish(self, client: mqtt.Client, data: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        self._call(self._acknowledged)


def new_client(address: Address, client_id: str) -> mqtt.Client:
    """Return a client for a broker; over TLS it trusts the system's authorities."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
    if address.user is not None:
        client.username_pw_set(address.user, address.password)
    if address.tls:
        client.tls_set_context(ssl.create_default_context())
    return client
