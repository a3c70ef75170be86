"""The connection of a Sparkplug host application: STATE out, BIRTH, DATA and DEATH in, rebirth requests out.

A client and a session of its own on the park's broker, beside that of the JSON meters; the connection itself is that of
`mqtt.client`. Nodes publish DATA at QoS 0, as the specification has it, so no broker keeps them for us: while we are
away, a node that heeds our STATE keeps them itself and sends them later, and what another one sent is a gap. What comes
at QoS 1 is acknowledged after its commit.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import paho.mqtt.client as paho

from collector.backoff import Backoff
from collector.batches import Batches, Chunk
from collector.mqtt.broker import Broker
from collector.mqtt.client import BrokerSource
from collector.mqtt.inbox import Inbox, Parcel, acknowledge, receipts_of
from collector.mqtt.link import Link
from collector.mqtt.sifting import Publish, SiftingClient
from collector.register import Register
from collector.sparkplug.host import NAMESPACE, Host
from collector.status import SourceStatus, State
from collector.times import micros_of_seconds
from park.clock import RunClock

MESSAGES_A_CHUNK = 50           # read at once: some 5 ms of the event loop where each holds 100 metrics
IDLE_S = 1.0                    # wall; so often the host looks at the time, with nothing that it waits for
_AT_LEAST_ONCE = 1              # STATE is published so, retained
_NOT_IN_A_LEVEL = re.compile(r"[/+#]")


def host_id_of(broker: Broker) -> str:
    """Return the id under which the host application is known: the client id, made one level of a topic."""
    return _NOT_IN_A_LEVEL.sub("-", broker.client_id)


def state_topic(host_id: str) -> str:
    """Return the topic on which a host application says whether it is there."""
    return f"{NAMESPACE}/STATE/{host_id}"


class _HostLink(Link):
    """A connection with a will: if it ends without a word, the broker says that the host is gone."""

    def __init__(self, broker: Broker, topics: Sequence[str], inbox: Inbox) -> None:
        self._state_topic = state_topic(host_id_of(broker))
        self.since_ms = int(time.time() * 1000)         # one for will and birth, as the specification has it
        super().__init__(replace(broker, client_id=f"{broker.client_id}-sparkplug"),
                         [self._state_topic, *topics], inbox)

    def _filter(self, topic: str) -> str:
        """Return the topic itself: a shared subscription would break the order of a node."""
        return topic

    def tell(self, *, online: bool) -> None:
        """Publish STATE."""
        self.publish(self._state_topic, self._state(online=online), _AT_LEAST_ONCE, retain=True)

    def _new_client(self) -> SiftingClient:
        client = super()._new_client()
        client.will_set(self._state_topic, self._state(online=False), _AT_LEAST_ONCE, retain=True)
        return client

    def _leave(self, client: paho.Client) -> None:
        if client.is_connected():
            client.publish(self._state_topic, self._state(online=False), _AT_LEAST_ONCE, retain=True)
        super()._leave(client)

    def _state(self, *, online: bool) -> bytes:
        return json.dumps({"online": online, "timestamp": self.since_ms}).encode()


class SparkplugSource(BrokerSource):
    """Collects the park's Sparkplug meters until it is cancelled: `run` keeps the connection, `read` takes what comes.

    Parameters
    ----------
    broker
        The broker; the client id there is that of the JSON meters with ``-sparkplug``, the host id without.
    host
        What is known of the nodes.
    batches, status, clock, backoff
        As of every source at a broker.
    """

    keeps = False

    def __init__(
        self, broker: Broker, host: Host, batches: Batches, status: SourceStatus, clock: RunClock,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(broker, batches, status, clock, backoff)
        self._host = host
        self._state_topic = state_topic(host_id_of(broker))
        self._leaving = False
        self._unreleased: list[Parcel] = []            # come, not acknowledgeable: one that they wait for is missing

    def leave(self) -> None:
        """Say that the host goes, so that nodes that heed it keep what they sample from now on."""
        self._leaving = True
        self._tell(online=False)

    async def apply(self, register: Register) -> None:
        """Collect the meters of a changed register from now on, over the running connection."""
        before = self._host.topics
        self._host.apply(register)
        await self._subscribe_anew(before, self._host.topics)
        if self._link is not None:
            self._host.ask_unknown(self._now_us(), time.monotonic())
            self._status.is_in_doubt = self._host.is_in_doubt

    async def read(self) -> None:
        """Turn messages into rows, node by node in their order, and send the commands that follow."""
        while True:
            due_s = self._host.due_in(time.monotonic())
            some = await self._inbox.filled_within(IDLE_S if due_s is None else min(due_s, IDLE_S))
            parcels = await self._inbox.take(MESSAGES_A_CHUNK) if some else []
            for chunk in self._chunks(parcels):
                await self._batches.put(chunk)
            self._status.is_in_doubt = self._host.is_in_doubt       # with what a doubt led to on its way
            if parcels:
                await self._hurry_if_stalled(parcels[-1].link)
            await asyncio.sleep(0)              # nothing above waits in a flood: it is the writer's turn

    def _chunks(self, parcels: Sequence[Parcel]) -> list[Chunk]:
        """Return what follows from messages and the passing of time; the last chunk's commit acknowledges them."""
        now = time.monotonic()
        for parcel in parcels:
            received_us = micros_of_seconds(self._clock.at(parcel.at))
            for message in parcel.messages:
                if message.topic == self._state_topic:
                    self._hear_state(message)
                else:
                    self._host.receive(message.topic, message.payload, received_us, now, retained=message.retained)
        self._host.tick(now, self._now_us(), caught_up=not len(self._inbox))
        segments, commands = self._host.take()
        if self._link is not None and not self._leaving:
            for command in commands:
                self._link.publish(command.topic, command.payload)
        self._say_ignored()
        chunks = [Chunk(self.name, segment.rows, segment.interruption) for segment in segments]
        self._unreleased += parcels
        if self._host.held == 0:
            if receipts := receipts_of(self._unreleased):
                chunks.append(Chunk(self.name, committed=partial(acknowledge, receipts)))
            self._unreleased = []
        return chunks

    def _hear_state(self, message: Publish) -> None:
        """Hear our own STATE: that of this connection is newer than what the broker kept for us, an offline one wrong.

        The will of a connection before this one may come late.
        """
        try:
            said = json.loads(message.payload)
        except ValueError:
            said = None
        online = isinstance(said, dict) and said.get("online") is True
        if online and isinstance(self._link, _HostLink) and said.get("timestamp") == self._link.since_ms:
            self._host.confirmed(time.monotonic())
        if not online and not self._leaving:
            self._tell(online=True)

    def _say_ignored(self) -> None:
        if self._host.ignored and self._status.state is State.RECEIVING:
            self._status.become(State.RECEIVING, f"{self._host.ignored} values of metrics without a meter passed over")

    def _new_link(self) -> Link:
        return _HostLink(self.broker, self._host.topics, self._inbox)

    def _connected(self, link: Link) -> None:
        self._host.connected(self._now_us(), time.monotonic())
        self._status.is_in_doubt = self._host.is_in_doubt
        super()._connected(link)
        if not self._leaving:
            self._tell(online=True)

    def _lost(self, reason: str) -> None:
        if self._status.state is State.RECEIVING:
            self._host.lost(self._now_us())
            self._status.is_in_doubt = self._host.is_in_doubt
        super()._lost(reason)

    def _now_us(self) -> int:
        return micros_of_seconds(self._clock.now())

    def _tell(self, *, online: bool) -> None:
        """Publish STATE, if there is a connection."""
        if isinstance(self._link, _HostLink):
            self._link.tell(online=online)
