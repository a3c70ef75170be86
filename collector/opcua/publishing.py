"""What a subscription brings: publish requests kept at the server, their answers turned into rows and acknowledged.

    server ──► Publisher.fetch ──► decode ──► values ──► Batches ─ ─ ► durable
       ▲                                                                  │
       └── acknowledged with the next request ◄── Receipts ◄──────────────┘

A notification is the server's until its readings are in the database or the spool: only then its number is
acknowledged. What did not come, for a connection or a collector that was lost on the way, is asked for again
(Republish) before what came after it is taken in; what the server has not any more is said to be missing. While memory
is full the server is told to publish nothing, and goes on to be asked, so that it does not give us up.

Here is the way of a value. Not here: which numbers are missing or may go (`opcua.receipts`), and the connection
(`opcua.share`, `opcua.session`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from asyncua import ua
from asyncua.ua.uaerrors import BadTooManyPublishRequests, UaStructParsingError

from collector.batches import Batches, Chunk, Rows
from collector.opcua.decode import Published
from collector.opcua.session import ServerSession, cancel
from collector.opcua.subscribing import Subscription
from collector.opcua.values import Values
from collector.rejections import Rejections
from collector.times import micros_of_seconds
from park.clock import RunClock

PUBLISHES = 3               # requests a server holds, so that it can publish while an answer is under way
LATE_S = 0.1                # to read what came while this process stood still


class ServerSilentError(ConnectionError):
    """A server publishes neither data nor keep-alives."""


class SubscriptionEndedError(ConnectionError):
    """A server gave up the subscription."""


@dataclass(frozen=True)
class _Publish:
    """A publish request on its way: when it was sent [monotonic s], with what, and whether data were wanted."""

    answer: asyncio.Task[Published]
    asked_at: float
    acknowledged: list[int]
    for_data: bool

    @classmethod
    def ask(cls, session: ServerSession, subscription: Subscription) -> _Publish:
        """Send a request that acknowledges what is durable."""
        numbers = subscription.receipts.take()
        acknowledge = [ua.SubscriptionAcknowledgement(ua.IntegerId(subscription.id), ua.Counter(number))
                       for number in numbers]
        return cls(asyncio.create_task(session.published(acknowledge)), time.monotonic(), numbers,
                   subscription.paused_at is None)


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

    async def catch_up(self, session: ServerSession, subscription: Subscription) -> None:
        """Take in what was on its way when a connection, or a collector, was lost.

        Raises
        ------
        UaStatusCodeError
            If the server does not know the subscription any more, or does not republish.
        """
        while await self._take_again(session, subscription, subscription.receipts.next or 1):
            pass

    async def fetch(
        self, session: ServerSession, subscription: Subscription, note: Callable[[], None] = lambda: None
    ) -> None:
        """Keep publish requests at the server, and take in what they bring, in order, until it fails.

        Parameters
        ----------
        session, subscription
            Of the server.
        note
            Called before each request, which acknowledges what is durable.
        """
        requests: deque[_Publish] = deque()

        async def ask() -> None:
            await self._pace(session, subscription)
            note()
            requests.append(_Publish.ask(session, subscription))

        try:
            for _ in range(PUBLISHES):
                await ask()
            while True:
                try:
                    await self._answer(requests[0], session, subscription)
                except BadTooManyPublishRequests:
                    if len(requests) == 1:
                        raise
                    subscription.receipts.give_back(requests.popleft().acknowledged)
                    continue                    # the server holds fewer: one less from now on
                requests.popleft()
                await ask()
        finally:
            await cancel(request.answer for request in requests)
            for request in requests:
                subscription.receipts.give_back(request.acknowledged)

    async def _pace(self, session: ServerSession, subscription: Subscription) -> None:
        """Have nothing published while memory is full.

        It is asked all the same, which keeps the subscription alive, and its queues hold what they can meanwhile.
        """
        is_full, paused_at = self._batches.full, subscription.paused_at
        if is_full and paused_at is None:
            await session.set_publishing(subscription.id, enabled=False)
            subscription.paused_at = time.monotonic()
        elif not is_full and paused_at is not None:
            await session.set_publishing(subscription.id, enabled=True)
            subscription.paused_at = None
            if time.monotonic() - paused_at > subscription.held_s:
                self._interrupted("memory was full for longer than the server's queues hold")

    async def _answer(self, request: _Publish, session: ServerSession, subscription: Subscription) -> None:
        """Await the answer to a publish request and take it in, after what is missing before it."""
        done, _ = await asyncio.wait({request.answer}, timeout=subscription.silent_s)
        if not done:
            await asyncio.sleep(LATE_S)         # if it was we who stood still, the answer is there and only to be read
            if not request.answer.done():
                raise ServerSilentError(f"neither data nor keep-alive in {subscription.silent_s:g} s")
        try:
            answer = await request.answer
        except UaStructParsingError as error:
            self._unreadable(error)
            return
        ua.StatusCode(ua.UInt32(answer.result)).check()
        heard_us = micros_of_seconds(self._clock.now())
        if answer.subscription == subscription.id:
            await self._complete(answer, session, subscription)
            if subscription.asked_at is not None and request.asked_at - subscription.asked_at > subscription.held_s:
                self._interrupted("the server waited longer to be asked than its queues hold")
            subscription.asked_at = request.asked_at
            if answer.has_data:
                self._take_in(answer, subscription)
        if request.for_data:
            self._heard(heard_us)

    async def _complete(self, answer: Published, session: ServerSession, subscription: Subscription) -> None:
        """Ask again for notifications that should have come before an answer; a keep-alive has the next one's number.

        What the server has no more may be missing from here on.
        """
        receipts = subscription.receipts
        missing = receipts.missing_before(answer.sequence)
        if not missing:
            return
        kept = frozenset(answer.available)
        for number in missing:
            if kept and number not in kept:
                continue
            if not await self._take_again(session, subscription, number) and not kept:
                break
        if receipts.next != answer.sequence:
            self._interrupted(f"notification {receipts.next} did not come")
            receipts.skip_to(answer.sequence)

    async def _take_again(self, session: ServerSession, subscription: Subscription, number: int) -> bool:
        """Ask for a notification once more and take it in; return whether the server has it."""
        try:
            answer = await session.published_again(subscription.id, number)
        except UaStructParsingError as error:
            self._unreadable(error)
            return False
        if answer is not None:
            self._take_in(answer, subscription)
        return answer is not None

    def _take_in(self, answer: Published, subscription: Subscription) -> None:
        """Hand on the readings of one notification; it is acknowledged once they are durable."""
        receipts = subscription.receipts
        if not receipts.is_expected(answer.sequence):
            self._interrupted(f"notification {receipts.next} did not come")
        rows = Rows()
        if self._values.read(answer.items, micros_of_seconds(self._clock.now()), rows):
            self._interrupted("the server's queue overflowed")
        receipts.came(answer.sequence)
        self._batches.put_now(Chunk(self._source, rows, committed=partial(receipts.durable, answer.sequence)))
        if answer.ended is not None:
            raise SubscriptionEndedError(f"the server ended the subscription: {answer.ended}")

    def _unreadable(self, error: BaseException) -> None:
        """Note that the readings of a notification are missing, which asyncua cannot parse and has dropped."""
        self._rejections.add(self._source, "publish response", "notification cannot be read", error.__cause__)
        self._interrupted("a notification could not be read")
