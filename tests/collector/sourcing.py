"""One OPC UA source that runs during a test, without a store: what it puts into its queue, and how it fares."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from collector.batches import Batches, Interruption, Limits
from collector.opcua.client import Endpoint, OpcuaSource
from collector.opcua.handover import Keeping
from collector.opcua.tags import Tag
from collector.rejections import Rejections
from collector.status import SourceStatus, State
from park.clock import REAL_TIME
from park.servers import OpcuaServer
from tests.collector.running import INTERVAL_S, PATIENCE_S


def tag(name: str, place: int = 0, interval_s: float = INTERVAL_S, **keys: Any) -> Tag:
    """A tag of the test servers."""
    return Tag(place, name, keys.pop("node_id", f"ns=2;s={name}"), interval_s, **keys)


class Sourcing:
    """A source under way."""

    def __init__(self, url: str, tags: Sequence[Tag], settings: dict[str, Any], keeping: Keeping | None,
                 limits: Limits | None) -> None:
        self.batches = Batches(limits)
        self.rejections = Rejections()
        self.changed = asyncio.Event()
        self.states: list[tuple[State, str]] = []
        self.status = SourceStatus("opcua:x", "opcua", REAL_TIME.now, self._note)
        server = OpcuaServer.model_validate({"id": "plc", "endpoint": url} | settings)
        self.source = OpcuaSource(
            Endpoint.of(server, url), tags, self.batches, self.status, self.rejections, REAL_TIME, keeping)
        self.rows: list[tuple[int, int, float, int]] = []       # place, source time [us], value, status
        self.interruptions: list[Interruption] = []

    def _note(self, status: SourceStatus) -> None:
        self.states.append((status.state, status.detail))
        self.changed.set()

    async def is_away(self) -> str:
        """Wait until it is away; return why."""
        async with asyncio.timeout(PATIENCE_S):
            while self.status.state is not State.WAITING:
                self.changed.clear()
                await self.changed.wait()
        return self.status.detail

    async def receives(self) -> None:
        """Wait until it receives."""
        async with asyncio.timeout(PATIENCE_S):
            while self.status.state is not State.RECEIVING:
                self.changed.clear()
                await self.changed.wait()

    async def got(self, count: int) -> list[tuple[int, int, float, int]]:
        """Wait until so many readings came in all; return them."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.rows) < count:
                await self.batches.due()
                self.take()
        return self.rows

    def take(self) -> None:
        """Take what is in the queue."""
        for chunk in self.batches.take():
            rows = chunk.rows
            self.rows += zip(rows.place, rows.source_us, rows.value, rows.status, strict=True)
            if chunk.interruption is not None:
                self.interruptions.append(chunk.interruption)
            if chunk.committed is not None:
                chunk.committed()
        self.batches.committed()


@asynccontextmanager
async def sourcing(
    url: str, tags: Sequence[Tag], *, armed: bool = True, keeping: Keeping | None = None,
    limits: Limits | None = None, **settings: Any
) -> AsyncIterator[Sourcing]:
    """Run a source; it is armed at the start of the block unless said otherwise."""
    running = Sourcing(url, tags, settings, keeping, limits)
    task = asyncio.create_task(running.source.run())
    try:
        if armed:
            waiting = asyncio.create_task(running.source.armed.wait())
            await asyncio.wait({waiting, task}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                if task.done():
                    task.result()
                raise TimeoutError(f"not armed: {running.states}")
        yield running
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
