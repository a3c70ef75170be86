"""The park's MQTT broker: connect, subscribe, hand on, and acknowledge what is committed.

MQTT 3.1.1 with a session that the broker keeps (fixed client id, clean session off) and QoS 1, acknowledged by hand: a
message is the broker's until its readings are in the database. So a collector that is killed, or a database that is
away, loses nothing that a durable broker holds. 3.1.1 because mosquitto and iotcore both speak it on their one port.

    paho's network thread                  event loop
    on_message: bytes into the inbox  ──►  Topics.read ──► Batches.put ─ ─ ► commit ──► PUBACK

paho's thread does nothing but hand bytes on, and its own reconnecting is not used: each attempt has a client of its
own, so a late acknowledgement goes to a connection that is gone, never to another message with the same number.
Memory is bounded by what a broker sends without acknowledgement (mosquitto 20 by default, iotcore 100); one that knows
no such bound is left when `MOST_WAITING` messages wait, and delivers again later.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from collector.backoff import Backoff
from collector.batches import Batches, Chunk, Interruption, Rows
from collector.mqtt.payload import Topics
from collector.register import MQTT
from collector.status import SourceStatus, State
from collector.times import micros_of_seconds
from park.clock import RunClock
from park.errors import BrokerError, InputError

_logger = logging.getLogger(__name__)

DEFAULT_PORT = 1883             # IANA: mqtt
KEEP_ALIVE_S = 10               # a broker that is gone without a word is noticed within twice this
CONNECT_S = 4.0                 # reaching the broker
SUBSCRIBE_S = 10.0              # its answers to CONNECT and all SUBSCRIBEs
CLOSE_S = 1.0
TOPICS_A_CALL = 100             # in one SUBSCRIBE; brokers limit the packet's size
MESSAGES_A_CHUNK = 2_000        # read at once, so that a flood does not hold up the event loop
MOST_WAITING = 20_000           # messages in the inbox
STALLED_AT = 10                 # unacknowledged messages from which a broker may wait for us; the least known is 20
STALLED_S = 0.01                # silence after which it is taken to be
_REFUSED = 0x80                 # SUBACK return codes from here on


@dataclass(frozen=True)
class Broker:
    """Where the broker is, and who we are to it.

    Attributes
    ----------
    client_id
        Fixed over restarts: the broker keeps the session under it.
    """

    host: str
    port: int
    client_id: str
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        return f"mqtt://{self.host}:{self.port}"


def broker_of(url: str, park_name: str) -> Broker:
    """Return the broker of ``mqtt://[user[:password]@]host[:port][?client_id=ID]``.

    Without a client id in the URL it follows from the park's name, so that it is the same on any machine.

    Raises
    ------
    InputError
        If the URL is malformed; the text holds no password.
    """
    parts = urlsplit(url)
    try:
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        port = 0
    if parts.scheme != "mqtt" or not parts.hostname or not port:
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        raise InputError(f"broker {shown!r} must be mqtt://host:port")
    client_id = parse_qs(parts.query).get("client_id", [default_client_id(park_name)])[0]
    user, password = (None if text is None else unquote(text) for text in (parts.username, parts.password))
    return Broker(parts.hostname, port, client_id, user, password)


def default_client_id(park_name: str) -> str:
    """Return the client id of a park's collector."""
    return f"symbiosis-collector-{hashlib.sha256(park_name.encode()).hexdigest()[:12]}"


class Message(NamedTuple):
    """A message as paho's thread hands it on; `at` is its arrival [wall s]."""

    link: Link
    topic: str
    payload: bytes
    mid: int
    qos: int
    retained: bool
    at: float


class Inbox:
    """Messages on their way from paho's thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._messages: deque[Message] = deque()
        self._filled = asyncio.Event()
        self._signalled = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        """Append a message; for paho's thread. One wake-up for many messages: each costs a system call."""
        self._messages.append(message)
        if not self._signalled:
            self._signalled = True
            self._loop.call_soon_threadsafe(self._filled.set)

    async def take(self, limit: int) -> list[Message]:
        """Wait for messages, and remove up to `limit` of them, in order."""
        await self._wait()
        return [self._messages.popleft() for _ in range(min(limit, len(self._messages)))]


    async def filled_within(self, seconds: float) -> bool:
        """Wait for messages so long; return whether there are any."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wait()
        return bool(self._messages)

    async def _wait(self) -> None:
        while not self._messages:
            self._filled.clear()
            self._signalled = False
            if not self._messages:
                await self._filled.wait()


class Link:
    """One connection, from CONNECT to its end. The callbacks run in paho's thread."""

    def __init__(self, broker: Broker, topics: Sequence[str], inbox: Inbox) -> None:
        self.broker = broker
        self.outstanding = 0                    # handed to the event loop, not acknowledged
        self.refused: list[str] = []
        self._topics = topics
        self._inbox = inbox
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[bool] = self._loop.create_future()
        self._subscribed: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._awaited: dict[int, list[str]] = {}       # SUBSCRIBEs without an answer: their topics
        self._started = False
        self._client = self._new_client()

    async def connect(self) -> bool:
        """Connect and send all SUBSCRIBEs; return whether the broker had kept our session.

        Raises
        ------
        OSError, TimeoutError, BrokerError
            If the broker is away, silent, or refuses.
        """
        await asyncio.to_thread(self._client.connect, self.broker.host, self.broker.port, KEEP_ALIVE_S)
        self._client.loop_start()
        self._started = True
        kept: bool = await self._answer(self._connected)
        return kept

    async def subscribed(self) -> None:
        """Wait until every SUBSCRIBE is answered."""
        await self._answer(self._subscribed)

    async def over(self) -> str:
        """Wait for the end of the connection; return why it ended."""
        thread = self._client._thread
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEEP_ALIVE_S):
                    return await asyncio.shield(self._ended)
            if thread is not None and not thread.is_alive():        # paho ends without a word on what it cannot parse
                return "the network thread ended"

    async def close(self) -> None:
        """Send what is still to be acknowledged, leave, and end the thread; the broker keeps the session."""
        if not self._started:
            return
        self._leave(self._client)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.shield(self._ended)
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)     # a broker that does not answer: let the thread see an end
        await asyncio.to_thread(self._client.loop_stop)

    def publish(self, topic: str, payload: bytes, qos: int = 0, *, retain: bool = False) -> None:
        """Publish a message; one at QoS 0 that finds no connection is gone."""
        self._client.publish(topic, payload, qos, retain)

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Tell the broker that these messages are ours now, in the order in which they came."""
        self.outstanding -= len(mids)
        for mid in mids:
            self._client.ack(mid, 1)

    async def _answer(self, future: asyncio.Future[Any]) -> Any:
        """Wait for an answer of the broker, or the end of the connection."""
        async with asyncio.timeout(SUBSCRIBE_S):
            await asyncio.wait({future, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        raise BrokerError(self._ended.result())

    def _new_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self.broker.client_id, clean_session=False, manual_ack=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_S
        if self.broker.user is not None:
            client.username_pw_set(self.broker.user, self.broker.password)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        return client

    def _leave(self, client: paho.Client) -> None:
        """Say goodbye."""
        client.disconnect()

    def _on_connect(self, client: paho.Client, _data: Any, flags: paho.ConnectFlags, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            self._tell(self._ended, f"the broker refuses the connection: {reason}")
            return
        self._tell(self._connected, bool(flags.session_present))
        for start in range(0, len(self._topics), TOPICS_A_CALL):
            topics = list(self._topics[start : start + TOPICS_A_CALL])
            _, mid = client.subscribe([(topic, 1) for topic in topics])
            if mid is not None:
                self._awaited[mid] = topics

    def _on_subscribe(self, _client: paho.Client, _data: Any, mid: int, reasons: Sequence[Any], _more: Any) -> None:
        for topic, reason in zip(self._awaited.pop(mid, []), reasons, strict=False):
            if reason.value >= _REFUSED:
                self.refused.append(topic)
        if not self._awaited:
            self._tell(self._subscribed, None)

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "(a topic that is not UTF-8)"
        payload = bytes(message.payload)
        self._inbox.put(Message(self, topic, payload, message.mid, message.qos, message.retain, time.time()))
        if len(self._inbox) >= MOST_WAITING:
            self._leave(client)

    def _on_disconnect(self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        self._tell(self._ended, f"connection lost: {reason}" if reason.is_failure else "connection closed")

    def _tell(self, future: asyncio.Future[Any], result: object) -> None:
        """Resolve a future of the event loop."""
        self._loop.call_soon_threadsafe(_resolve, future, result)


class BrokerSource:
    """Keeps a connection to a broker until it is cancelled; what the messages mean is a subclass's.

    Parameters
    ----------
    broker
        The broker.
    batches
        Where readings go.
    status
        Where it says how it fares.
    clock
        The run's clock.
    backoff
        How long to wait between attempts.
    """

    keeps = True                                # whether the broker keeps what comes while we are away

    def __init__(
        self, broker: Broker, batches: Batches, status: SourceStatus, clock: RunClock, backoff: Backoff | None = None,
    ) -> None:
        self.broker = broker
        self.armed = asyncio.Event()            # every SUBSCRIBE was answered, once
        self._batches = batches
        self._status = status
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._inbox = Inbox(asyncio.get_running_loop())
        self._said_refused: set[str] = set()
        self._stalled_at = 0

    async def run(self) -> None:
        """Connect and stay connected, again and again."""
        while True:
            link = self._new_link()
            try:
                kept = await link.connect()
                if not kept:
                    self._interrupted("the broker had no session of ours", kept=False)
                await link.subscribed()
                self._connected(link)
                self._lost(await link.over())
            except (OSError, BrokerError) as error:     # TimeoutError is an OSError
                self._lost("no answer in time" if isinstance(error, TimeoutError) else str(error))
            finally:
                await link.close()
            await self._batches.room()
            await asyncio.sleep(self._backoff.next())

    def _new_link(self) -> Link:
        """Return the next attempt's connection."""
        raise NotImplementedError

    async def _hurry_if_stalled(self, link: Link) -> None:
        """Commit at once if nothing comes any more: the broker may wait for acknowledgements.

        How many it sends without them is learnt, and then no time is spent on seeing that nothing comes.
        """
        if link.outstanding < STALLED_AT:
            return
        if link.outstanding != self._stalled_at and await self._inbox.filled_within(STALLED_S):
            return
        self._stalled_at = link.outstanding
        self._batches.hurry()

    def _connected(self, link: Link) -> None:
        self._backoff.reset()
        for topic in sorted(set(link.refused) - self._said_refused):
            _logger.warning("%s: the broker refuses topic %r", self._status.source, topic)
        self._said_refused = set(link.refused)
        self._status.become(State.RECEIVING, f"refused: {', '.join(link.refused)}" if link.refused else "")
        self.armed.set()

    def _lost(self, reason: str) -> None:
        """Note that the broker is away."""
        if self._status.state is State.RECEIVING:
            self._interrupted(reason, kept=self.keeps)
        self._status.become(State.WAITING, reason)

    def _interrupted(self, cause: str, *, kept: bool) -> None:
        self._batches.put_now(Chunk(self._status.source, interruption=Interruption(cause, kept)))


class MqttSource(BrokerSource):
    """Collects the park's MQTT meters until it is cancelled: `run` keeps the connection, `read` takes what it brings.

    Parameters
    ----------
    broker, batches, status, clock, backoff
        As of every source at a broker.
    topics
        What the payloads mean.
    """

    def __init__(
        self, broker: Broker, topics: Topics, batches: Batches, status: SourceStatus, clock: RunClock,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(broker, batches, status, clock, backoff)
        self._topics = topics

    async def read(self) -> None:
        """Turn messages into rows, in the order of their arrival."""
        while True:
            chunk, link = self._chunk(await self._inbox.take(MESSAGES_A_CHUNK))
            await self._batches.put(chunk)
            await self._hurry_if_stalled(link)

    def _new_link(self) -> Link:
        return Link(self.broker, self._topics.topics, self._inbox)

    def _chunk(self, messages: Sequence[Message]) -> tuple[Chunk, Link]:
        """Return the readings of messages with whom to tell of their commit, and the last one's connection."""
        rows = Rows()
        for message in messages:
            received_us = micros_of_seconds(self._clock.at(message.at))
            self._topics.read(message.topic, message.payload, received_us, rows, retained=message.retained)
        return Chunk(MQTT, rows, committed=partial(acknowledge, receipts_of(messages))), messages[-1].link


Receipts = dict[Link, list[int]]


def receipts_of(messages: Sequence[Message]) -> Receipts:
    """Return what is to be acknowledged when the messages' readings are committed; counted as outstanding."""
    receipts: Receipts = {}
    for message in messages:
        if message.qos:
            receipts.setdefault(message.link, []).append(message.mid)
            message.link.outstanding += 1
    return receipts


def acknowledge(receipts: Receipts) -> None:
    """Acknowledge each message on the connection that brought it."""
    for link, mids in receipts.items():
        link.acknowledge(mids)


def _resolve(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)
