"""Messages between paho's thread and the event loop: their order, how they are counted, and when it is too many."""

from __future__ import annotations

import asyncio
import time

import pytest

from collector.mqtt.inbox import Acknowledging, Inbox, Parcel, acknowledge, receipts_of
from collector.mqtt.sifting import Publish


class Link(Acknowledging):
    def __init__(self) -> None:
        self.outstanding = 0
        self.sent: list[bytes] = []

    def acknowledge(self, receipts) -> None:
        self.outstanding -= len(receipts)
        self.sent += receipts


def parcel(link: Link, *numbers: int, qos: int = 1) -> Parcel:
    return Parcel(link, [Publish("t", b"", bytes([number]) if qos else b"", False) for number in numbers], 1.0)


async def test_whole_parcels_are_taken_in_order():
    inbox, link = Inbox(asyncio.get_running_loop()), Link()
    for numbers in ((1, 2), (3, 4), (5,)):
        inbox.put(parcel(link, *numbers))
    assert len(inbox) == 5
    assert await inbox.take(3) == [parcel(link, 1, 2), parcel(link, 3, 4)]
    assert await inbox.take(3) == [parcel(link, 5)]
    assert (len(inbox), await inbox.filled_within(0.01)) == (0, False)


async def test_a_parcel_of_another_thread_wakes_who_waits():
    inbox, link = Inbox(asyncio.get_running_loop()), Link()
    waiting = asyncio.create_task(inbox.take(9))
    await asyncio.sleep(0)
    await asyncio.to_thread(inbox.put, parcel(link, 7))
    assert await asyncio.wait_for(waiting, 5) == [parcel(link, 7)]


async def test_receipts_go_to_the_connection_that_brought_the_messages_and_none_for_qos_0():
    before, after = Link(), Link()
    receipts = receipts_of([parcel(before, 1, 2), parcel(after, 9, qos=0), parcel(after, 3), parcel(before, 4)])
    assert (before.outstanding, after.outstanding) == (3, 1)
    acknowledge(receipts)
    assert (before.sent, after.sent) == ([b"\1", b"\2", b"\4"], [b"\3"])
    assert (before.outstanding, after.outstanding) == (0, 0)
    assert not receipts_of([parcel(after, 1, qos=0)])


async def test_who_puts_sleeps_from_half_of_what_may_wait_and_hears_when_it_is_too_much(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    inbox, link = Inbox(asyncio.get_running_loop(), 8), Link()
    assert inbox.put(parcel(link, 1, 2, 3, 4))
    assert slept == []
    assert inbox.put(parcel(link, 5, 6))
    assert inbox.put(parcel(link, 7, 8))
    assert slept == [0.125, 0.25]
    assert not inbox.put(parcel(link, 9))
    await inbox.take(9)
    assert inbox.put(parcel(link, 1))
    assert len(slept) == 2
