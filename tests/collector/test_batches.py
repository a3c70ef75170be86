"""The queue between sources and store: order, room, and when a batch is due; the clock is passed in."""

from __future__ import annotations

import asyncio
import math

import numpy as np

from collector.batches import Batches, Chunk, Interruption, Limits, Rows, batch_of
from collector.register import register_of
from tests.collector.running import mqtt, park_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def chunk(count: int, source: str = "mqtt") -> Chunk:
    rows = Rows()
    for number in range(count):
        rows.add(0, number, number, 1.0, 0)
    return Chunk(source, rows)


def queue(**limits):
    clock = Clock()
    return Batches(Limits(**limits), clock), clock


async def test_nothing_is_due_when_nothing_waits():
    batches, _ = queue()
    assert batches.due_in() is None
    await batches.finished()


async def test_a_batch_is_due_with_enough_rows_or_after_its_time():
    batches, clock = queue(flush_rows=10, flush_s=0.2)
    await batches.put(chunk(4))
    assert batches.due_in() == 0.2
    clock.now = 0.15
    await batches.put(chunk(5))
    assert math.isclose(batches.due_in(), 0.05)
    await batches.put(chunk(1))
    assert batches.due_in() == 0.0


async def test_hurry_makes_it_due_at_once_and_is_forgotten_with_an_empty_queue():
    batches, _ = queue()
    batches.hurry()
    await batches.put(chunk(1))
    assert batches.due_in() > 0.0
    batches.hurry()
    assert batches.due_in() == 0.0
    await batches.due()
    batches.take()
    await batches.put(chunk(1))
    assert batches.due_in() > 0.0


async def test_whole_chunks_are_taken_in_order():
    batches, _ = queue(flush_rows=5, most_rows=10)
    chunks = [chunk(6), chunk(6), chunk(6)]
    for each in chunks:
        await batches.put(each)
    assert batches.take() == chunks[:2]
    assert batches.take() == chunks[2:]
    assert batches.take() == []


async def test_waiting_for_due_ends_when_rows_come():
    batches, _ = queue(flush_rows=1)
    waiting = asyncio.create_task(batches.due())
    await asyncio.sleep(0)
    await batches.put(chunk(1))
    await asyncio.wait_for(waiting, 5)


async def test_sources_wait_while_memory_is_full_but_interruptions_pass():
    batches, _ = queue(flush_rows=5, buffer_rows=10)
    await batches.put(chunk(10))
    assert batches.full
    putting = asyncio.create_task(batches.put(chunk(1)))
    batches.put_now(Chunk("mqtt", interruption=Interruption("lost")))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not putting.done()
    batches.take()
    await asyncio.wait_for(putting, 5)
    assert not batches.full


async def test_half_the_room_taken_means_that_the_store_is_slower_than_the_sources():
    batches, _ = queue(flush_rows=5, buffer_rows=10)
    await batches.put(chunk(4))
    assert not batches.is_crowded
    await batches.put(chunk(1))
    assert batches.is_crowded
    batches.take()
    assert not batches.is_crowded


async def test_finished_waits_for_the_commit():
    batches, _ = queue()
    await batches.put(chunk(3))
    batches.take()
    finished = asyncio.create_task(batches.finished())
    await asyncio.sleep(0)
    assert (finished.done(), batches.uncommitted) == (False, 3)
    batches.committed()
    await asyncio.wait_for(finished, 5)
    assert batches.uncommitted == 0


async def test_silence_is_counted_from_the_last_rows():
    batches, _ = queue()
    silent = asyncio.create_task(batches.silence(0.2))
    for _ in range(5):
        await asyncio.sleep(0.05)
        batches.put_now(chunk(1))
    assert not silent.done()
    await asyncio.wait_for(silent, 5)


def test_a_batch_is_in_si_and_keeps_the_order():
    register = register_of(park_of(
        mqtt("FT1"), mqtt("TT1", quantity="temperature", unit="degC"), mqtt("PT1", quantity="pressure", unit="barg")))
    rows = Rows()
    for place, value in ((1, 20.0), (0, 3.6), (2, 1.0), (0, math.nan)):
        rows.add(place, 10, 20, value, 5)
    batch = batch_of([Chunk("mqtt", rows), chunk(1)], register)
    assert [batch.names[place] for place in batch.meter] == ["TT1", "FT1", "PT1", "FT1", "FT1"]
    np.testing.assert_array_equal(batch.value, [293.15, 3.6 * (1000 / 3600), 201325.0, math.nan, 1000 / 3600])
    np.testing.assert_array_equal(batch.source_us, [10, 10, 10, 10, 0])
    np.testing.assert_array_equal(batch.received_us, [20, 20, 20, 20, 0])
    np.testing.assert_array_equal(batch.status, [5, 5, 5, 5, 0])


def test_no_chunks_make_an_empty_batch():
    assert len(batch_of([], register_of(park_of(mqtt("A"))))) == 0
