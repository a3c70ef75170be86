"""Notifications: what is acknowledged when, what is asked for again, and what is said to be missing."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from asyncua.ua.uaerrors import BadTooManyPublishRequests, UaStructParsingError

from collector.batches import Batches, Limits
from collector.opcua.decode import FILETIME_US, TICKS_A_US, Item, Published
from collector.opcua.publishing import PUBLISHES, Publisher, SubscriptionEndedError
from collector.opcua.receipts import Receipts
from collector.opcua.subscribing import Subscription
from collector.opcua.values import Values
from collector.rejections import Rejections
from collector.times import micros
from park.clock import REAL_TIME
from tests.collector.running import at

SUBSCRIPTION = 7


def notification(number, *, available=(), data=True, ended=None):
    """A notification with one value, which is its number; without data, the keep-alive before it."""
    ticks = (micros(at(number)) + FILETIME_US) * TICKS_A_US
    items = [Item(1, float(number), 0, ticks, None)] if data else []
    return Published(0, SUBSCRIPTION, number, data, items, ended, available)


class Session:
    """A server that answers publish requests as it is told, in order."""

    def __init__(self):
        self.requests: list[tuple[list[int], asyncio.Future[Published]]] = []
        self.asked = asyncio.Event()
        self.answered = 0
        self.kept: dict[int, Published | Exception] = {}
        self.republished: list[int] = []
        self.modes: list[bool] = []

    async def published(self, acknowledge):
        answer = asyncio.get_running_loop().create_future()
        self.requests.append(([ack.SequenceNumber for ack in acknowledge], answer))
        self.asked.set()
        return await answer

    async def published_again(self, subscription, number):
        assert subscription == SUBSCRIPTION
        self.republished.append(number)
        answer = self.kept.get(number)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def set_publishing(self, subscription, *, enabled):
        assert subscription == SUBSCRIPTION
        self.modes.append(enabled)

    async def answer(self, what):
        """Answer the oldest request, and wait for the one that follows it; return what that acknowledges."""
        while len(self.requests) <= self.answered:
            await self.next()
        _, answer = self.requests[self.answered]
        self.answered += 1
        before = len(self.requests)
        answer.set_exception(what) if isinstance(what, Exception) else answer.set_result(what)
        while len(self.requests) == before:
            await self.next()
        return self.requests[-1][0]

    async def next(self):
        self.asked.clear()
        async with asyncio.timeout(5):
            await self.asked.wait()


class Running:
    """A publisher that fetches, and what came of it."""

    def __init__(self, next=1, limits=None):
        self.session = Session()
        self.rejections = Rejections()
        values = Values("opcua:x", self.rejections)
        values.expect(0, "A")
        self.batches = Batches(limits)
        self.told: list[object] = []            # values and causes, in their order
        self.heard: list[int] = []
        self.notes = 0
        self.publisher = Publisher("opcua:x", values, self.batches, self.rejections, REAL_TIME, self.interrupted,
                                   self.heard.append)
        self.subscription = Subscription(SUBSCRIPTION, 0.1, 0.1, 2.0, receipts=Receipts(next))
        self.task: asyncio.Task[None] | None = None
        self.waiting = []

    def interrupted(self, cause):
        self.take()
        self.told.append(cause)

    def note(self):
        self.notes += 1

    def take(self):
        """Take what is queued; it is durable once `commit` is called."""
        for chunk in self.batches.take():
            self.told += [int(value) for value in chunk.rows.value]
            self.waiting.append(chunk)
        self.batches.committed()

    def commit(self):
        self.take()
        for chunk in self.waiting:
            chunk.committed()
        self.waiting.clear()

    async def answers(self, *what):
        for one in what:
            acknowledged = await self.session.answer(one)
        self.take()
        return acknowledged


@asynccontextmanager
async def fetching(next=1, **options):
    running = Running(next, **options)
    running.task = asyncio.create_task(
        running.publisher.fetch(running.session, running.subscription, running.note))
    try:
        yield running
    finally:
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)


async def test_what_is_durable_is_acknowledged_with_the_next_request_and_nothing_before():
    async with fetching() as running:
        assert await running.answers(notification(1), notification(2)) == []
        running.commit()
        assert await running.answers(notification(3)) == [1, 2]
        assert await running.answers(notification(4)) == []
    assert running.told == [1, 2, 3, 4]
    assert running.notes == PUBLISHES + 4
    assert running.subscription.receipts.durable_to == 2


async def test_what_was_acknowledged_with_a_request_that_failed_is_acknowledged_again():
    async with fetching() as running:
        await running.answers(notification(1))
        running.commit()
        assert await running.answers(notification(2, data=False)) == [1]
    assert running.subscription.receipts.take() == [1]


async def test_acknowledgements_of_a_request_that_is_one_too_many_go_with_another():
    async with fetching() as running:
        for number in range(1, PUBLISHES + 1):
            await running.answers(notification(number))
        running.commit()
        assert await running.answers(notification(4)) == [1, 2, 3]
        running.session.requests[running.session.answered][1].set_exception(BadTooManyPublishRequests())
        running.session.answered += 1
        await running.answers(notification(5))
        assert len(running.session.requests) - running.session.answered == PUBLISHES - 1


async def test_what_did_not_come_is_asked_for_before_what_came_after_it():
    async with fetching() as running:
        running.session.kept = {number: notification(number) for number in (2, 3)}
        await running.answers(notification(1), notification(4, available=(1, 2, 3, 4)))
        running.commit()
        assert await running.answers(notification(5, data=False)) == [1, 2, 3, 4]
    assert running.told == [1, 2, 3, 4]


async def test_what_the_server_has_forgotten_is_missing_from_there_on():
    async with fetching() as running:
        running.session.kept = {3: notification(3)}
        await running.answers(notification(1), notification(4, available=(3, 4)))
    assert running.told == [1, "notification 2 did not come", 3, 4]
    assert running.session.republished == [3]


async def test_a_server_that_does_not_say_what_it_keeps_is_asked_until_it_has_none():
    async with fetching() as running:
        running.session.kept = {number: notification(number) for number in (2, 4)}
        await running.answers(notification(1), notification(5))
    assert running.told == [1, 2, "notification 3 did not come", 5]
    assert running.session.republished == [2, 3]


async def test_a_keep_alive_tells_what_did_not_come_too():
    async with fetching() as running:
        running.session.kept = {2: notification(2)}
        await running.answers(notification(1), notification(3, data=False, available=(1, 2)))
        assert running.told == [1, 2]
        await running.answers(notification(5, data=False, available=(1,)), notification(5))
    assert running.told == [1, 2, "notification 3 did not come", 5]


async def test_numbers_that_go_back_are_said_and_followed():
    async with fetching(5) as running:
        await running.answers(notification(5), notification(1), notification(2))
    assert running.told == [5, "notification 6 did not come", 1, 2]


async def test_a_notification_that_cannot_be_read_the_second_time_either_is_missing():
    async with fetching() as running:
        running.session.kept = {1: UaStructParsingError()}
        await running.answers(UaStructParsingError(), notification(2, available=(1, 2)))
    assert running.told[-2:] == ["notification 1 did not come", 2]
    assert running.told[0] == "a notification could not be read"
    assert running.rejections.total("opcua:x") == 2


async def test_what_was_on_its_way_is_taken_in_until_there_is_no_more():
    running = Running(3)
    running.session.kept = {number: notification(number) for number in (3, 4, 6)}
    await running.publisher.catch_up(running.session, running.subscription)
    running.take()
    assert (running.told, running.session.republished) == ([3, 4], [3, 4, 5])


async def test_nothing_is_published_while_memory_is_full_and_the_server_is_asked_all_the_same():
    async with fetching(limits=Limits(buffer_rows=2)) as running:
        await running.session.answer(notification(1))
        await running.session.answer(notification(2))
        assert running.session.modes == [False]
        heard = len(running.heard)
        for _ in range(5):                      # two were asked for while there was room
            await running.session.answer(notification(3, data=False))
        assert running.session.modes == [False]
        assert len(running.heard) == heard + PUBLISHES - 1
        running.commit()
        await running.session.answer(notification(3, data=False))
        assert running.session.modes == [False, True]
        assert await running.answers(notification(3)) == []
    assert running.told == [1, 2, 3]


async def test_memory_that_is_full_for_longer_than_the_queues_hold_is_said_before_what_comes_next():
    running = Running()
    running.subscription.paused_at = time.monotonic() - running.subscription.held_s - 1.0
    task = asyncio.create_task(running.publisher.fetch(running.session, running.subscription))
    await running.answers(notification(1))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert running.session.modes == [True]
    assert running.told == ["memory was full for longer than the server's queues hold", 1]


@pytest.mark.parametrize(("late_s", "said"), [
    (1.0, []), (600.0, ["the server waited longer to be asked than its queues hold"])])
async def test_a_server_that_was_not_asked_for_long_may_have_dropped_what_came(late_s, said):
    running = Running()
    running.subscription.asked_at = time.monotonic() - late_s
    running.session.kept = {1: notification(1)}
    task = asyncio.create_task(running.publisher.fetch(running.session, running.subscription))
    await running.answers(notification(2, available=(1, 2)))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert running.told == [1, *said, 2]


async def test_a_subscription_that_is_ended_by_the_server_hands_on_what_came_first():
    async with fetching() as running:
        await running.session.next()
        running.session.requests[0][1].set_result(notification(1, ended="BadTimeout"))
        with pytest.raises(SubscriptionEndedError, match="BadTimeout"):
            await running.task
        running.take()
    assert running.told == [1]
