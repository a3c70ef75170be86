"""A source that ends by an error that nobody expected: what becomes of it, and of the others."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from collector import faults
from collector.batches import Batches
from collector.opcua.handover import Keeping
from collector.register import register_of
from collector.rejections import Rejections
from collector.sources import Outflow, Plan, Reach, Sources
from collector.status import SourceStatus, State
from park.clock import REAL_TIME
from park.errors import SourceError
from tests.collector.running import PATIENCE_S, mqtt, park_of


class Instrument:
    """A source whose connection or messages may fail."""

    def __init__(self, status: SourceStatus, fault: Exception | None, where: str) -> None:
        self.name = status.source
        self.armed = asyncio.Event()
        self.applied: list[object] = []
        self._status, self._fault, self._where = status, fault, where

    async def run(self) -> None:
        await self._work("run")

    async def read(self) -> None:
        await self._work("read")

    async def apply(self, register: object) -> None:
        self.applied.append(register)
        if self._where == "apply" and self._fault is not None:
            raise self._fault

    async def _work(self, where: str) -> None:
        if self._fault is not None and self._where == where:
            raise self._fault
        if where == "run":
            self._status.become(State.RECEIVING)
            self.armed.set()
        await asyncio.Event().wait()


class Scene:
    """Two sources, of which one fails so often."""

    def __init__(self, times: int, fault: Exception, where: str) -> None:
        self.made: list[Instrument] = []
        self.changed = asyncio.Event()
        self.statuses: dict[str, SourceStatus] = {}
        self.batches = Batches()
        outflow = Outflow(self.batches, Rejections(), REAL_TIME, self.statuses, self.changed.set, Keeping())
        self.sources = Sources(Reach({}, None), outflow)
        self.left, self.fault, self.where = times, fault, where
        self.plan = Plan(register_of(park_of(mqtt("FT1"))), {}, {"mqtt:a": None, "mqtt:b": None})

    def source(self, name: str, _plan: Plan) -> Instrument:
        fails = name == "mqtt:a" and self.left > 0
        self.left -= fails
        self.made.append(Instrument(self.statuses[name], self.fault if fails else None, self.where))
        return self.made[-1]

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    @property
    def states(self) -> list[State]:
        return [self.statuses[name].state for name in ("mqtt:a", "mqtt:b")]

    def interruptions(self) -> list[str]:
        return [chunk.interruption.cause for chunk in self.batches.take() if chunk.interruption is not None]


@asynccontextmanager
async def running(monkeypatch, times=1, fault=None, where="run"):
    monkeypatch.setattr(faults, "FIRST_S", 0.0)
    scene = Scene(times, fault or ZeroDivisionError("division by zero"), where)
    monkeypatch.setattr(scene.sources, "_source", scene.source)
    scene.sources.make(scene.plan)
    async with asyncio.TaskGroup() as group:
        scene.sources.begin(group)
        yield scene
        await scene.sources.end_receivers()
        await scene.sources.end_connections()


@pytest.mark.parametrize("where", ["run", "read"])
async def test_a_fault_ends_one_source_which_begins_anew_and_is_said_with_its_traceback(monkeypatch, caplog, where):
    caplog.set_level(logging.ERROR, "collector")
    async with running(monkeypatch, times=3, where=where) as scene:
        await asyncio.wait_for(scene.sources.armed(), PATIENCE_S)
        await scene.until(lambda: len(scene.made) == 2 + 3 and scene.states == [State.RECEIVING, State.RECEIVING])
        assert [status.faults for status in scene.statuses.values()] == [3, 0]
        why = "a fault, ZeroDivisionError: division by zero (hint: the log has the traceback)"
        assert scene.interruptions() == [why] * 3
    assert caplog.text.count("mqtt:a: a fault, in this program or a library") == 1
    assert caplog.text.count("Traceback") >= 1
    assert "ZeroDivisionError: division by zero" in caplog.text


async def test_another_fault_is_said_too(monkeypatch, caplog):
    caplog.set_level(logging.ERROR, "collector")
    async with running(monkeypatch) as scene:
        await scene.until(lambda: scene.states == [State.RECEIVING, State.RECEIVING])
        of = faults.Faults(scene.statuses["mqtt:b"])
        for kind in (KeyError("x"), KeyError("y"), AssertionError()):
            of.take(kind)
    assert caplog.text.count("mqtt:b: a fault") == 2


async def test_a_source_that_begins_anew_has_the_park_of_today(monkeypatch):
    async with running(monkeypatch, where="apply") as scene:
        await scene.until(lambda: scene.states == [State.RECEIVING, State.RECEIVING])
        await asyncio.wait_for(scene.sources.change(scene.plan), PATIENCE_S)
        await scene.until(lambda: scene.statuses["mqtt:a"].connects == 2)
        assert [source.applied for source in scene.made] == [[scene.plan.register], [scene.plan.register], []]
        assert scene.statuses["mqtt:b"].faults == 0


async def test_a_server_that_is_of_no_use_stops_the_start(monkeypatch):
    with pytest.raises(ExceptionGroup) as raised:
        async with running(monkeypatch, fault=SourceError("it keeps too few values")):
            await asyncio.Event().wait()
    assert raised.value.subgroup(SourceError) is not None


async def test_a_source_that_is_left_while_it_fails_is_left(monkeypatch):
    async with running(monkeypatch, where="apply") as scene:
        await scene.until(lambda: scene.states == [State.RECEIVING, State.RECEIVING])
        scene.sources._running["mqtt:a"].group.create_task(failing())
        await asyncio.sleep(0)
        await asyncio.wait_for(scene.sources.change(replace(scene.plan, brokers={"mqtt:b": None})), PATIENCE_S)
        assert scene.statuses["mqtt:a"].state is State.STOPPED


async def failing() -> None:
    raise ZeroDivisionError


async def test_a_source_that_is_stopped_does_not_begin_anew(monkeypatch):
    async with running(monkeypatch, times=1_000_000) as scene:
        await scene.until(lambda: scene.statuses["mqtt:a"].faults > 0)
    made = len(scene.made)
    await asyncio.sleep(0)
    assert len(scene.made) == made
