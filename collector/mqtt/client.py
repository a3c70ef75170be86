"""A source at an MQTT broker: connect, hand on, acknowledge what is durable, connect again.

QoS 1 in a session that the broker keeps, acknowledged by hand: a message is the broker's until its readings are
durable. So a collector that is killed, or a database that is away, loses nothing that a durable broker holds.

    paho's network thread                  event loop
    sifting: messages into the inbox  ──►  Topics.read ──► Batches.put ─ ─ ► durable ──► PUBACK

Memory is bounded by what a broker sends without acknowledgement (mosquitto 20 by default, iotcore 100, in version 5 at
most as many as we allow); one that knows no such bound, as for messages at QoS 0, is read more slowly the more wait
(`inbox`), and left when `inbox.MOST_WAITING` do: what it holds for us it delivers again later.
One connection is in `link`, which brokers there are in `broker`, what a payload says in `payload`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from collector.backoff import Backoff
from collector.batches import Batches, Chunk, Interruption, Rows
from collector.mqtt.broker import Broker
from collector.mqtt.inbox import MOST_WAITING, Acknowledging, Inbox, Parcel, acknowledge, receipts_of
from collector.mqtt.link import Link
from collector.mqtt.payload import Topics
from collector.register import Register
from collector.status import SourceStatus, State
from collector.times import micros_of_seconds
from park.clock import RunClock
from park.errors import BrokerError

_logger = logging.getLogger(__name__)

MESSAGES_A_CHUNK = 1_000        # read at once, so that a flood does not hold up the event loop: some 6 ms
STALLED_AT = 10                 # unacknowledged messages from which a broker may wait for us; the least known is 20
STALLED_S = 0.01                # silence after which it is taken to be


class BrokerSource:
    """Keeps a connection to a broker until it is cancelled; what the messages mean is a subclass's.

    Parameters
    ----------
    broker
        The broker.
    batches
        Where readings go.
    status
        Where it says how it fares; its name is the source's.
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
        self._inbox = Inbox(asyncio.get_running_loop(), max(MOST_WAITING, broker.receive_maximum))
        self._link: Link | None = None          # the connection with all subscriptions in force
        self._said_refused: set[str] = set()
        self._stalled_at = 0
        self._window = 0                        # messages that the broker sends without acknowledgement; 0: not known

    @property
    def name(self) -> str:
        """The source's name."""
        return self._status.source

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

    def leave(self) -> None:
        """Say that the collector is about to go, to senders who heed that."""

    async def _subscribe_anew(self, before: Sequence[str], after: Sequence[str]) -> None:
        """Bring the running connection's subscriptions in line; without one, or where it fails, the next one does."""
        link = self._link
        added, dropped = sorted(set(after) - set(before)), sorted(set(before) - set(after))
        if link is None or not (added or dropped):
            return
        try:
            await link.change(added, dropped)
        except (TimeoutError, BrokerError) as error:
            _logger.warning("%s: topics changed, but the broker does not answer: %s", self.name, error or "in time")
            await link.close()
        else:
            self._say_refused(link)

    async def _hurry_if_stalled(self, link: Acknowledging) -> None:
        """Commit at once if nothing comes any more: the broker may wait for acknowledgements.

        How many it sends without them is learnt when it stops twice at the same number. From then on half of that is
        committed while the other half comes.
        """
        outstanding = link.outstanding
        if outstanding < STALLED_AT:
            return
        if outstanding > self._window:
            self._window = 0                    # it was chance: a broker sends no more than its number
        if not self._window or 2 * outstanding < self._window:
            if await self._inbox.filled_within(STALLED_S):
                return
            self._window = outstanding if outstanding == self._stalled_at else self._window
            self._stalled_at = outstanding
        self._batches.hurry()

    def _connected(self, link: Link) -> None:
        self._backoff.reset()
        self._link = link
        self._say_refused(link)
        self.armed.set()

    def _say_refused(self, link: Link) -> None:
        for topic in sorted(link.refused - self._said_refused):
            _logger.warning("%s: the broker refuses topic %r", self.name, topic)
        self._said_refused = set(link.refused)
        self._status.refuse({name: f"the broker refuses topic {topic!r}"
                             for topic in sorted(link.refused) for name in self._meters_of(topic)})
        detail = f"refused: {', '.join(sorted(link.refused))}" if link.refused else ""
        self._status.become(State.RECEIVING, detail)

    def _meters_of(self, topic: str) -> Sequence[str]:
        """Return whose readings come on a topic; the topic itself stands for many that are not told apart."""
        return [topic]

    def _lost(self, reason: str) -> None:
        """Note that the broker is away."""
        self._link = None
        if self._status.state is State.RECEIVING:
            self._interrupted(reason, kept=self.keeps)
        self._status.become(State.WAITING, reason)

    def _interrupted(self, cause: str, *, kept: bool) -> None:
        self._batches.put_now(Chunk(self.name, interruption=Interruption(cause, kept)))


class MqttSource(BrokerSource):
    """Collects the MQTT meters of a broker until it is cancelled: `run` keeps the connection, `read` takes what comes.

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

    async def apply(self, register: Register) -> None:
        """Collect the meters of a changed register from now on, over the running connection.

        Raises
        ------
        InputError
            If a path is malformed; then nothing has changed.
        """
        before = self._topics.topics
        self._topics.apply(register)
        await self._subscribe_anew(before, self._topics.topics)

    async def read(self) -> None:
        """Turn messages into rows, in the order of their arrival."""
        while True:
            chunk, link = self._chunk(await self._inbox.take(MESSAGES_A_CHUNK))
            await self._batches.put(chunk)
            await self._hurry_if_stalled(link)
            await asyncio.sleep(0)              # nothing above waits in a flood: it is the writer's turn

    def _new_link(self) -> Link:
        return Link(self.broker, self._topics.topics, self._inbox)

    def _meters_of(self, topic: str) -> Sequence[str]:
        return self._topics.meters_of(topic)

    def _chunk(self, parcels: Sequence[Parcel]) -> tuple[Chunk, Acknowledging]:
        """Return the readings of messages with whom to tell of their commit, and the last one's connection."""
        rows, read = Rows(), self._topics.read
        for parcel in parcels:
            received_us = micros_of_seconds(self._clock.at(parcel.at))
            for message in parcel.messages:
                read(message.topic, message.payload, received_us, rows, retained=message.retained)
        strange = self._topics.take_strange()
        if strange and self._link is not None:      # subscribed by a collector before us, in this session
            self._link.drop(strange)
        return Chunk(self.name, rows, committed=partial(acknowledge, receipts_of(parcels))), parcels[-1].link
