"""One connection to a broker, from CONNECT to its end, over MQTT 3.1.1 or 5, with or without TLS.

A session that the broker keeps (fixed client id, clean session off; in version 5 clean start off and an expiry), QoS 1,
acknowledged by hand. paho's thread does nothing but hand bytes on (`sifting`), and its own reconnecting is not used:
each attempt has a client of its own, so a late acknowledgement goes to a connection that is gone, never to another
message with the same number. When to connect again is in `client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from collector.mqtt.broker import Broker
from collector.mqtt.inbox import Inbox, Parcel
from collector.mqtt.sifting import Publish, SiftedSocket, SiftingClient
from park.errors import BrokerError

CONNECT_S = 4.0                 # reaching the broker
SUBSCRIBE_S = 10.0              # its answers to CONNECT and all SUBSCRIBEs
CLOSE_S = 1.0
TOPICS_A_CALL = 100             # in one SUBSCRIBE; brokers limit the packet's size
REFUSED = 0x80                  # SUBACK reason codes from here on


def new_client(broker: Broker, *, keeps_session: bool = True) -> SiftingClient:
    """Return a client for a broker that acknowledges nothing by itself and never reconnects."""
    if broker.version == "5":
        client = SiftingClient(
            CallbackAPIVersion.VERSION2, client_id=broker.client_id, protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True, reconnect_on_failure=False)
    else:
        client = SiftingClient(
            CallbackAPIVersion.VERSION2, client_id=broker.client_id, clean_session=not keeps_session, manual_ack=True,
            reconnect_on_failure=False)
    client.connect_timeout = CONNECT_S
    if broker.user is not None:
        client.username_pw_set(broker.user, broker.password)
    if broker.tls is not None:
        client.tls_set_context(broker.tls)
        client.tls_insecure_set(not broker.tls.check_hostname)
    return client


def connect(client: paho.Client, broker: Broker, *, keeps_session: bool = True) -> None:
    """Connect a client; blocks.

    Raises
    ------
    OSError
        If the broker cannot be reached, or its certificate is not trusted.
    """
    if broker.version != "5":
        client.connect(broker.host, broker.port, broker.keep_alive_s)
        return
    properties = Properties(PacketTypes.CONNECT)    # type: ignore[no-untyped-call]     # paho's are all untyped
    properties.SessionExpiryInterval = broker.session_expiry_s if keeps_session else 0
    properties.ReceiveMaximum = broker.receive_maximum
    client.connect(broker.host, broker.port, broker.keep_alive_s, clean_start=not keeps_session, properties=properties)


class Link:
    """One connection. The callbacks run in paho's thread.

    Parameters
    ----------
    broker
        The broker.
    topics
        What is subscribed.
    inbox
        Where messages go.

    Attributes
    ----------
    outstanding
        Messages that were handed to the event loop and are not acknowledged.
    refused
        Topics that the broker does not let us subscribe.
    """

    def __init__(self, broker: Broker, topics: Sequence[str], inbox: Inbox) -> None:
        self.broker = broker
        self.outstanding = 0
        self.refused: set[str] = set()
        self._topics = topics
        self._inbox = inbox
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[bool] = self._loop.create_future()
        self._subscribed: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._awaited: dict[int, list[str]] = {}        # SUBSCRIBEs without an answer: their topics
        self._awaiting = threading.Lock()               # an answer may come before its number is noted
        self._started = False
        self._was_answered = False      # the broker has said yes or no
        self._client = self._new_client()

    async def connect(self) -> bool:
        """Connect and send all SUBSCRIBEs; return whether the broker had kept our session.

        Raises
        ------
        OSError, TimeoutError, BrokerError
            If the broker is away, silent, not trusted, or refuses.
        """
        await asyncio.to_thread(connect, self._client, self.broker)
        self._client.loop_start()
        self._started = True
        try:
            kept: bool = await self._answer(self._connected)
        except BrokerError as error:
            raise BrokerError(f"{error}{self._hint()}") from None
        return kept

    async def subscribed(self) -> None:
        """Wait until every SUBSCRIBE is answered."""
        await self._answer(self._subscribed)

    async def over(self) -> str:
        """Wait for the end of the connection; return why it ended."""
        thread = self._client._thread
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.broker.keep_alive_s):
                    return await asyncio.shield(self._ended)
            if thread is not None and not thread.is_alive():        # paho ends without a word on what it cannot parse
                return "the network thread ended"

    async def close(self) -> None:
        """Send what is still to be acknowledged, leave, and end the thread; the broker keeps the session."""
        if self._started:
            self._started = False
            await self._part()
        self._client._reset_sockets()       # paho leaves the pair that wakes its thread to its finaliser

    async def _part(self) -> None:
        self._leave(self._client)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.shield(self._ended)
        sock = self._client.socket()
        if isinstance(sock, SiftedSocket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)     # a broker that does not answer: let the thread see an end
        await asyncio.to_thread(self._client.loop_stop)

    def publish(self, topic: str, payload: bytes, qos: int = 0, *, retain: bool = False) -> None:
        """Publish a message; one at QoS 0 that finds no connection is gone."""
        self._client.publish(topic, payload, qos, retain)

    def acknowledge(self, receipts: Sequence[bytes]) -> None:
        """Tell the broker that these messages are ours now, in the order in which they came."""
        self.outstanding -= len(receipts)
        # One packet of many: `ack` would take a lock and a system call for each.
        self._client._packet_queue(paho.PUBACK, b"".join(receipts), 0, 1)

    async def change(self, added: Sequence[str], dropped: Sequence[str]) -> None:
        """Subscribe and unsubscribe topics on the running connection; return when the broker has answered.

        Raises
        ------
        TimeoutError, BrokerError
            If the broker does not answer, or the connection ends.
        """
        self.drop(dropped)
        if added:
            self._subscribed = self._loop.create_future()
            self._subscribe(added)
            await self._answer(self._subscribed)

    def drop(self, topics: Iterable[str]) -> None:
        """Unsubscribe topics; a session that is kept has those of collectors before us too."""
        filters = [self._filter(topic) for topic in topics]
        for start in range(0, len(filters), TOPICS_A_CALL):
            self._client.unsubscribe(filters[start : start + TOPICS_A_CALL])

    async def _answer(self, future: asyncio.Future[Any]) -> Any:
        """Wait for an answer of the broker, or the end of the connection."""
        async with asyncio.timeout(SUBSCRIBE_S):
            await asyncio.wait({future, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        raise BrokerError(self._ended.result())

    def _hint(self) -> str:
        """Return what may be wrong where a broker ends a connection over TLS without a word, as in TLS 1.3."""
        tls = None if self.broker.entry is None else self.broker.entry.tls
        if self.broker.tls is None or self._was_answered or (tls is not None and tls.cert_file is not None):
            return ""
        return " (hint: the broker may ask for a certificate of ours: tls.cert_file and tls.key_file of its entry)"

    def _new_client(self) -> SiftingClient:
        client = new_client(self.broker)
        client.on_publishes = self._on_publishes
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        return client

    def _leave(self, client: paho.Client) -> None:
        """Say goodbye."""
        client.disconnect()

    def _filter(self, topic: str) -> str:
        """Return what is subscribed for a topic."""
        group = self.broker.shared_group
        return topic if group is None else f"$share/{group}/{topic}"

    def _subscribe(self, topics: Sequence[str]) -> None:
        for start in range(0, len(topics), TOPICS_A_CALL):
            some = topics[start : start + TOPICS_A_CALL]
            wanted: Any = [(self._filter(topic), self._options()) for topic in some]
            with self._awaiting:
                _, mid = self._client.subscribe(wanted)
                if mid is not None:
                    self._awaited[mid] = list(some)

    def _options(self) -> int | SubscribeOptions:
        """Return how a topic is subscribed; version 5 can ask for what is retained once, not at each connection."""
        if self.broker.version != "5":
            return 1
        return SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)

    def _on_connect(self, _client: paho.Client, _data: Any, flags: paho.ConnectFlags, reason: Any, _more: Any) -> None:
        self._was_answered = True
        if reason.is_failure:
            self._tell(self._ended, f"the broker refuses the connection: {reason}")
            return
        self._tell(self._connected, bool(flags.session_present))
        self._subscribe(self._topics)
        if not self._topics:
            self._tell(self._subscribed, None)

    def _on_subscribe(self, _client: paho.Client, _data: Any, mid: int, reasons: Sequence[Any], _more: Any) -> None:
        with self._awaiting:
            topics, answered = self._awaited.pop(mid, []), not self._awaited
        for topic, reason in zip(topics, reasons, strict=False):
            (self.refused.add if reason.value >= REFUSED else self.refused.discard)(topic)
        if answered:
            self._tell(self._subscribed, None)

    def _on_publishes(self, messages: Sequence[Publish]) -> None:
        if not self._inbox.put(Parcel(self, messages, time.time())):
            self._leave(self._client)

    def _on_disconnect(self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        self._tell(self._ended, f"connection lost: {reason}" if reason.is_failure else "connection closed")

    def _tell(self, future: asyncio.Future[Any], result: object) -> None:
        """Resolve a future of the event loop."""
        self._loop.call_soon_threadsafe(_resolve, future, result)


def _resolve(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)
