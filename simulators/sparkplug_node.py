"""The Sparkplug side of a simulated park: one edge node, with a connection of its own, for each that meters name.

    Readings ──► backlog ──► NDATA, DDATA by alias, in seq ──► broker
                 while no host is there, or no broker      NBIRTH, DBIRTH at each connection and when asked
                                                           NDEATH as will, and at the end

DATA go at QoS 0, as the specification has it. A node that knows of a host application (its retained STATE) keeps
readings while the host says that it is gone, and sends them, marked historical, after it is back; without any STATE it
sends what it samples. Unlike the specification's node it does not leave the broker meanwhile. Not here: the bytes
(`simulators.sparkplug_wire`), when readings are due (`simulators.serve`). The main path enters at
`SparkplugNodes.publish`, once a tick.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import paho.mqtt.client as mqtt
from numpy.typing import NDArray
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from park.brokers import address_of, shown
from park.errors import InputError
from park.model import Park
from simulators.instruments import Readings, microseconds
from simulators.mqtt_publisher import BACK_OFF_S, BACKLOG, KEEPALIVE_S, new_client
from simulators.sparkplug_wire import BOOLEAN, DOUBLE, INT64, REBIRTH, Metric, asks_rebirth, payload

log = logging.getLogger(__name__)

NAMESPACE = "spBv1.0"
SEQUENCE = 256              # seq and bdSeq run from 0 to 255
_MILLI = 1000               # microseconds

NodeKey = tuple[str, str]


class _Sample(NamedTuple):
    """A reading as it is kept: NaN where there is only a status."""

    time_us: int
    value: float
    status: int


@dataclass
class _Report:
    """What one DATA message will hold: samples of one device's meters, by position."""

    device: str
    time_us: int
    samples: dict[int, _Sample]
    historical: bool


@dataclass
class _Layout:
    """An edge node's meters: by device the metric of each position; the alias of a meter is its position."""

    devices: dict[str, dict[int, str]] = field(default_factory=lambda: {"": {}})


class SparkplugNodes:
    """All edge nodes of a park, with the same doors as the publisher of JSON.

    Parameters
    ----------
    url
        `mqtt://[user:password@]host[:port]`.
    park
        The park; its Sparkplug meters are published.
    client_id
        How the clients' ids begin.
    now
        The run's clock [s since 1970]: BIRTH and DEATH bear its time, as readings do.

    Raises
    ------
    InputError
        If the URL is wrong, or an interval is not of whole milliseconds, the resolution of Sparkplug's times.
    """

    def __init__(self, url: str, park: Park, client_id: str, now: Callable[[], float] = time.time) -> None:
        layouts: dict[NodeKey, _Layout] = defaultdict(_Layout)
        self._where: dict[int, tuple[NodeKey, str]] = {}
        for position, meter in enumerate(park.meters):
            source = meter.source.sparkplug
            if source is None:
                continue
            if microseconds(meter.interval_s) % _MILLI:
                raise InputError(f"meter {meter.id!r}: interval_s of a Sparkplug meter must be whole milliseconds, "
                                 f"got {meter.interval_s}")
            key = source.group, source.edge_node
            layouts[key].devices.setdefault(source.device or "", {})[position] = source.metric
            self._where[position] = key, source.device or ""
        self.mask: NDArray[np.bool_] = np.array([i in self._where for i in range(len(park.meters))], dtype=np.bool_)
        self._nodes = {
            key: EdgeNode(url, key, layout.devices, f"{client_id}-{'-'.join(key)}", now)
            for key, layout in layouts.items()}

    @property
    def lost(self) -> int:
        """How many readings were given up."""
        return sum(node.lost for node in self._nodes.values())

    @property
    def pending(self) -> int:
        """How many messages have not gone out."""
        return sum(node.pending for node in self._nodes.values())

    async def connect(self) -> None:
        """Connect all nodes, however long it takes."""
        await asyncio.gather(*(node.connect() for node in self._nodes.values()))

    def publish(self, readings: Readings) -> None:
        """Take the readings of this instant; returns at once."""
        devices: dict[tuple[NodeKey, str], dict[int, _Sample]] = defaultdict(dict)
        rows = zip(readings.index.tolist(), readings.values.tolist(), readings.statuses.tolist(), strict=True)
        for position, value, status in rows:
            devices[self._where[position]][position] = _Sample(readings.time_us, value, status)
        for (key, device), samples in devices.items():
            self._nodes[key].report(device, readings.time_us, samples)

    async def close(self) -> None:
        """Say NDEATH and leave the broker."""
        await asyncio.gather(*(node.close() for node in self._nodes.values()))


class EdgeNode:
    """One edge node at the broker.

    Parameters
    ----------
    url
        The broker.
    key
        Group and edge node.
    devices
        By device (empty: the node itself) the metric of each meter's position.
    client_id
        Of its own.
    now
        The run's clock [s since 1970].
    """

    def __init__(
        self, url: str, key: NodeKey, devices: dict[str, dict[int, str]], client_id: str, now: Callable[[], float],
    ) -> None:
        self.lost = 0
        self._now = now
        self._url = shown(url)
        self._group, self._name = key
        self._devices = devices
        self._address = address_of(url)
        self._seq = 0
        self._bd_seq = 0
        self._last: dict[int, _Sample] = {}                 # what went out last: a BIRTH tells it again
        self._backlog: deque[_Report] = deque()
        self._in_flight = 0
        self._hosts: dict[str, bool] = {}                   # STATE topic to online
        self._there = False
        self._connected = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._told = ""
        self._client = self._make_client(client_id)

    @property
    def pending(self) -> int:
        """How many messages have not gone out."""
        return len(self._backlog) + self._in_flight

    @property
    def live(self) -> bool:
        """Whether what is sampled goes out at once: the broker is there, and a host, if any was ever heard of."""
        return self._there and (not self._hosts or any(self._hosts.values()))

    async def connect(self) -> None:
        """Connect, however long it takes."""
        self._client.connect_async(self._address.host, self._address.port, keepalive=KEEPALIVE_S)
        self._client.loop_start()
        await self._connected.wait()

    def report(self, device: str, time_us: int, samples: dict[int, _Sample]) -> None:
        """Send readings of one device, or keep them until they can be sent."""
        if len(self._backlog) >= BACKLOG:
            self.lost += len(samples)
            self._tell(f"{BACKLOG} messages of {self._group}/{self._name} wait: new ones are given up")
            return
        self._backlog.append(_Report(device, time_us, samples, historical=not self.live))
        self._pump()

    async def close(self) -> None:
        """Say NDEATH, leave the broker; what waits is given up."""
        if self._there:
            self._client.publish(self._topic("NDEATH"), self._death(), qos=1)
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)
        self._client._reset_sockets()        # paho leaves the pair that wakes its thread to its finaliser

    def _make_client(self, client_id: str) -> mqtt.Client:
        client = new_client(self._address, client_id)
        client.reconnect_delay_set(*BACK_OFF_S)
        client.will_set(self._topic("NDEATH"), self._death(), qos=1)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    # -- what it says -----------------------------------------------------------------------------------------------

    def _topic(self, kind: str, device: str = "") -> str:
        topic = f"{NAMESPACE}/{self._group}/{kind}/{self._name}"
        return f"{topic}/{device}" if device else topic

    def _now_ms(self) -> int:
        return int(self._now() * 1000)

    def _death(self) -> bytes:
        return payload(self._now_ms(), [Metric(self._bd_seq, name="bdSeq", datatype=INT64)], None)

    def _be_born(self) -> None:
        """Publish the BIRTHs of the node and its devices; each tells the readings that went out last."""
        self._seq = 0
        own = [Metric(self._bd_seq, name="bdSeq", datatype=INT64), Metric(False, name=REBIRTH, datatype=BOOLEAN)]
        for device, names in self._devices.items():
            metrics = [self._metric(position, self._last.get(position), name=name) for position, name in names.items()]
            self._send("DBIRTH" if device else "NBIRTH", device, metrics if device else own + metrics)

    def _pump(self) -> None:
        """Send what is kept, while that can be."""
        while self._backlog and self.live:
            report = self._backlog[0]
            metrics = [self._metric(position, sample, historical=report.historical)
                       for position, sample in report.samples.items()]
            if not self._send("DDATA" if report.device else "NDATA", report.device, metrics, report.time_us):
                return
            self._last.update(report.samples)
            self._backlog.popleft()

    def _metric(
        self, position: int, sample: _Sample | None, *, name: str | None = None, historical: bool = False
    ) -> Metric:
        """Return a meter's metric: in a BIRTH with its name, in DATA by its alias alone."""
        datatype = DOUBLE if name is not None else None
        if sample is None:
            return Metric(None, name, position, None, datatype)
        value = None if math.isnan(sample.value) else sample.value
        return Metric(value, name, position, sample.time_us // _MILLI, datatype, historical, sample.status)

    def _send(self, kind: str, device: str, metrics: list[Metric], time_us: int | None = None) -> bool:
        """Publish the next message of the sequence; return whether the client took it."""
        time_ms = self._now_ms() if time_us is None else time_us // _MILLI
        result = self._client.publish(self._topic(kind, device), payload(time_ms, metrics, self._seq), qos=0)
        if result.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        self._seq = (self._seq + 1) % SEQUENCE
        self._in_flight += 1
        return True

    # -- what it hears ----------------------------------------------------------------------------------------------

    def _came(self) -> None:
        self._there = True
        self._told = ""
        self._be_born()
        self._connected.set()
        self._pump()

    def _went(self, text: str) -> None:
        self._there = False
        self._in_flight = 0
        if text:
            self._tell(text)

    def _hear(self, topic: str, content: bytes) -> None:
        """Answer a command; follow the hosts' STATE."""
        if topic == self._topic("NCMD"):
            if asks_rebirth(content):
                self._be_born()
            return
        try:
            said = json.loads(content)
        except ValueError:
            return
        was_live, known = self.live, bool(self._hosts)
        self._hosts[topic] = isinstance(said, dict) and said.get("online") is True
        if self.live and not (was_live and known):
            self._be_born()                         # a host that comes knows no alias
            self._pump()

    def _sent(self) -> None:
        self._in_flight = max(0, self._in_flight - 1)

    def _tell(self, text: str) -> None:
        """Log a change of state, once."""
        if text != self._told:
            self._told = text
            log.warning(text)

    # paho's network thread calls these; all work but the will of the next connection is done on the loop

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_connect(self, client: mqtt.Client, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self._call(self._tell, f"broker {self._url} refuses the connection: {reason}; trying again")
            return
        client.subscribe([(self._topic("NCMD"), 1), (f"{NAMESPACE}/STATE/+", 1)])
        self._call(self._came)

    def _on_connect_fail(self, client: mqtt.Client, data: Any) -> None:
        self._call(self._tell, f"broker {self._url} is away; trying again")

    def _on_disconnect(
        self, client: mqtt.Client, data: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        self._bd_seq = (self._bd_seq + 1) % SEQUENCE
        client.will_set(self._topic("NDEATH"), self._death(), qos=1)
        self._call(self._went, f"broker {self._url} is away; trying again" if reason.is_failure else "")

    def _on_message(self, client: mqtt.Client, data: Any, message: mqtt.MQTTMessage) -> None:
        self._call(self._hear, message.topic, bytes(message.payload))

    def _on_publish(self, client: mqtt.Client, data: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        self._call(self._sent)
