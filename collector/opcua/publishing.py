"""What a subscription brings: publish requests kept at the server, their answers turned into rows and acknowledged.

The way of a value: `Publisher.fetch` awaits a publish response, `opcua.decode` reads it, `opcua.values` turns it into
rows, `Batches.put` takes them (and waits while memory is full), and only then the notification is acknowledged and the
next one asked for. A subscription that outlived its connection is asked first for the notifications that were on their
way (`Publisher.catch_up`), so that a cut connection loses nothing that the server still has.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from asyncua import ua
from asyncua.ua.uaerrors import BadMessageNotAvailable, BadTooManyPublishRequests, UaStructParsingError

from collector.batches import Batches, Chunk, Rows
from collector.opcua.decode import Published, published_of
from collector.opcua.session import ServerSession, cancel
from collector.opcua.subscribing import Subscription
from collector.opcua.values import Values
from collector.rejections import Rejections
from collector.times import micros_of_seconds
from park.clock import RunClock

PUBLISHES = 3               # requests a server holds, so that it can publish while an answer is under way
LATE_S = 0.1                # to read what came while this process stood still
_LAST_SEQUENCE = 0xFFFFFFFF

Acknowledgements = list[ua.SubscriptionAcknowledgement]


class ServerSilentError(ConnectionError):
    """A server publishes neither data nor keep-alives."""


class SubscriptionEndedError(ConnectionError):
    """A server gave up the subscription."""


@dataclass(frozen=True)
class _Publish:
    """A publish request on its way, and when it was sent [monotonic s]."""

    answer: asyncio.Task[Published]
    asked_at: float

    @classmethod
    def ask(cls, session: ServerSession, acknowledge: Acknowledgements) -> _Publish:
        """Send a request that acknowledges these notifications."""
        return cls(asyncio.create_task(session.published(acknowledge)), time.monotonic())


class Publisher:
    """Takes in what the subscriptions of one server publish.

    Parameters
    ----------
    source
        Name of the server's source.
    values
        Who reads the items.
    batches
        Where readings go.
    rejections
        Where notifications go that cannot be read.
    clock
        The run's clock.
    interrupted
        Told the cause when readings may be missing.
    heard
        Told the run time [us] of every answer, keep-alives included, when what it brought is queued.
    """

    def __init__(
        self, source: str, values: Values, batches: Batches, rejections: Rejections, clock: RunClock,
        interrupted: Callable[[str], None], heard: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._values = values
        self._batches = batches
        self._rejections = rejections
        self._clock = clock
        self._interrupted = interrupted
        self._heard = heard

    async def catch_up(self, session: ServerSession, subscription: Subscription) -> Acknowledgements:
        """Take in what was on its way when a connection was lost; return what to acknowledge.

        Raises
        ------
        UaStatusCodeError
            If the server does not know the subscription any more, or does not republish.
        """
        acknowledge: Acknowledgements = []
        while True:
            missing = subscription.next_sequence or 1
            try:
                message = await session.republish(subscription.id, missing)
            except BadMessageNotAvailable:
                return acknowledge
            if message.SequenceNumber != missing:       # asyncua answers with an empty message
                return acknowledge
            acknowledge += await self._take_in(published_of(message, subscription.id), subscription)

    async def fetch(
        self, session: ServerSession, subscription: Subscription, acknowledge: Acknowledgements
    ) -> None:
        """Keep publish requests at the server, and take in what they bring, in order, until it fails."""
        requests = deque([_Publish.ask(session, acknowledge)])
        requests.extend(_Publish.ask(session, []) for _ in range(PUBLISHES - 1))
        asked_at = requests[0].asked_at
        try:
            while True:
                request = requests[0]
                if request.asked_at - asked_at > subscription.held_s:
                    self._interrupted("the server waited longer to be asked than its queues hold")
                asked_at = request.asked_at
                try:
                    acknowledge = await self._answer(request, subscription)
                except BadTooManyPublishRequests:
                    if len(requests) == 1:
                        raise
                    requests.popleft()          # the server holds fewer: one less from now on
                    continue
                requests.popleft()
                requests.append(_Publish.ask(session, acknowledge))
        finally:
            await cancel(request.answer for request in requests)

    async def _answer(self, request: _Publish, subscription: Subscription) -> Acknowledgements:
        """Await the answer to a publish request and take it in; return what to acknowledge."""
        done, _ = await asyncio.wait({request.answer}, timeout=subscription.silent_s)
        if not done:
            await asyncio.sleep(LATE_S)         # if it was we who stood still, the answer is there and only to be read
            if not request.answer.done():
                raise ServerSilentError(f"neither data nor keep-alive in {subscription.silent_s:g} s")
        try:
            answer = await request.answer
        except UaStructParsingError as error:
            self._unreadable(error)
            return []
        ua.StatusCode(ua.UInt32(answer.result)).check()
        heard_us = micros_of_seconds(self._clock.now())
        acknowledge: Acknowledgements = []
        if answer.subscription == subscription.id and answer.has_data:
            acknowledge = await self._take_in(answer, subscription)
        self._heard(heard_us)       # else a keep-alive: its sequence number is that of the next message
        return acknowledge

    async def _take_in(self, answer: Published, subscription: Subscription) -> Acknowledgements:
        """Hand on the readings of one notification; return what to acknowledge."""
        if subscription.next_sequence not in (None, answer.sequence):
            self._interrupted(f"notification {subscription.next_sequence} did not come")
        rows = Rows()
        if self._values.read(answer.items, micros_of_seconds(self._clock.now()), rows):
            self._interrupted("the server's queue overflowed")
        await self._batches.put(Chunk(self._source, rows))
        subscription.next_sequence = answer.sequence % _LAST_SEQUENCE + 1       # part 4, 7.25: 0 is left out
        if answer.ended is not None:
            raise SubscriptionEndedError(f"the server ended the subscription: {answer.ended}")
        return [ua.SubscriptionAcknowledgement(subscription.id, ua.Counter(answer.sequence))]

    def _unreadable(self, error: BaseException) -> None:
        """Note that the readings of a notification are missing, which asyncua cannot parse and has dropped."""
        self._rejections.add(self._source, "publish response", "notification cannot be read", error.__cause__)
        self._interrupted("a notification could not be read")
