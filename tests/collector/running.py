"""A collector that runs during a test, the parks it collects, and what it stored."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from collector.agent import collect
from park.clock import REAL_TIME, RunClock
from park.model import Park

PATIENCE_S = 60.0      # nobody waits so long but where something is wrong: the machine may be busy
INTERVAL_S = 0.1        # of every meter, unless said otherwise: a server keeps 100 values
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def meter(id: str, source: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A flow meter of the only stream."""
    return {"id": id, "stream": "S1", "side": "sender", "quantity": "mass_flow", "unit": "t/h",
            "u95_percent_of_reading": 1.0, "interval_s": INTERVAL_S, "source": source} | keys


def opcua(url: str, id: str, **keys: Any) -> dict[str, Any]:
    """A meter at an OPC UA server, ``ns=2;s=<id>``."""
    own = {key: keys.pop(key) for key in ("index", "sampling_interval_ms", "queue_size", "deadband") if key in keys}
    return meter(id, {"opcua": {"endpoint": url, "node_id": keys.pop("node_id", f"ns=2;s={id}")} | own}, **keys)


def mqtt(id: str, topic: str | None = None, **keys: Any) -> dict[str, Any]:
    """A meter on a topic, with value and time in JSON."""
    paths = keys.pop("paths", {"value": "$.value", "time": "$.ts", "status": "$.status"})
    return meter(id, {"mqtt": {"topic": topic or f"plant/{id}", **paths}}, **keys)


def park_of(*meters: dict[str, Any]) -> Park:
    """A park of two companies and one stream, with these meters."""
    return Park.model_validate({
        "park": {"name": "Test park", "timezone": "UTC"},
        "participants": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}],
        "nodes": [{"id": "a.n", "participant": "a", "conserves": ["mass"]},
                  {"id": "b.n", "participant": "b", "conserves": ["mass"]}],
        "streams": [{"id": "S1", "from": "a.n", "to": "b.n", "carrier": "water"}],
        "meters": list(meters),
    })


def at(tick: float) -> datetime:
    """The moment of a meter's reading with this number."""
    return START + timedelta(seconds=INTERVAL_S * tick)


class Running:
    """A collector under way: what it said, and how to wait for what it does."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.said: list[tuple[str, dict[str, object]]] = []
        self._changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.ended = False      # the test has seen its end

    def on_state(self, state: str, detail: dict[str, object]) -> None:
        """Take note."""
        self.said.append((state, detail))
        self._changed.set()

    async def saw(self, state: str, **detail: object) -> dict[str, object]:
        """Wait until a state with these details was said; return the rest of it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for said, what in self.said:
                    if said == state and detail.items() <= what.items():
                        return what
                await self._next()

    async def _next(self) -> None:
        self._changed.clear()
        assert self.task is not None
        waiting = asyncio.create_task(self._changed.wait())
        await asyncio.wait({waiting, self.task}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            self.task.result()
            raise AssertionError(f"the collector ended; it had said {self.said}")

    def forget(self) -> None:
        """Forget what was said."""
        self.said.clear()

    async def finish(self) -> None:
        """Stop it in order."""
        self.stop.set()
        assert self.task is not None
        await self.task


@asynccontextmanager
async def collecting(
    park: Park, dsn: str, *, clock: RunClock = REAL_TIME, armed: bool = True, **options: Any
) -> AsyncIterator[Running]:
    """Run a collector; it is armed at the start of the block unless said otherwise, and stopped in order at its end."""
    running = Running()
    running.task = asyncio.create_task(
        collect(park, dsn, clock, stop=running.stop, on_state=running.on_state, **options))
    try:
        if armed:
            await running.saw("armed")
        yield running
        if not running.ended:
            await running.finish()
    finally:
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)


_COLLECT = """
import asyncio, sys
from pathlib import Path
from collector.agent import collect
from collector.spool import SpoolSettings
from park.clock import REAL_TIME
from park.model import Park

async def run():
    park = Park.model_validate_json(sys.stdin.read())
    spool = SpoolSettings(Path(sys.argv[3])) if len(sys.argv) > 3 else None
    await collect(park, sys.argv[1], REAL_TIME, broker=sys.argv[2], stop=asyncio.Event(), spool=spool)

asyncio.run(run())
"""


def spawned(park: Park, dsn: str, broker: str, *spool: str) -> subprocess.Popen[str]:
    """Start a collector in a process of its own, to be killed; with a spool in this folder, if one is named."""
    process = subprocess.Popen([sys.executable, "-c", _COLLECT, dsn, broker, *spool], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(park.model_dump_json(by_alias=True))
    process.stdin.close()
    return process


def rows(dsn: str, query: str = "select meter, source_time, value, status from reading order by 1, 2") -> list[Any]:
    """Return the rows of a query."""
    with psycopg.connect(dsn, autocommit=True, options="-c TimeZone=UTC") as conn:
        return conn.execute(query.encode()).fetchall()


async def until(condition: Callable[[], bool], what: str = "it") -> None:
    """Wait until a condition of the database holds, which nothing announces to us."""
    deadline = time.monotonic() + PATIENCE_S
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"{what} did not come about"
        await asyncio.sleep(0.02)


async def until_stored(dsn: str, count: int) -> None:
    """Wait until so many readings are stored."""
    await until(lambda: rows(dsn, "select count(*) from reading")[0][0] >= count, f"{count} readings")
