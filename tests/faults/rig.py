"""The data path from end to end in processes of its own, with a proxy before everything that the collector connects to.

    simulate ── OPC UA ── proxy ──► collect ──► database (on a disk of its own)
    simulate ──► broker ── proxy ──► collect

The main path enters at `Rig`, an async context manager; `judge` says what became of what was sent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from time import time
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psycopg

from park.clock import RunClock
from park.load import load_park
from park.store import migrate
from park.store.embedded import EmbeddedPostgres
from symbiosis.broker import Broker
from symbiosis.delivery import Delivery, compare
from symbiosis.runfile import RunFile
from tests.faults.park import write_park
from tests.faults.process import Process
from tests.fixtures.proxy import FaultProxy

SPEED = 5.0
DISK_MB = 600
FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
"""Lets a process see another wall clock; package faketime."""


class Rig:
    """Simulators, collector, broker and database, each in a process that may be killed.

    Parameters
    ----------
    folder
        For files that must be whole: what was sent, logs, the broker's queues.
    disk
        For the database and the collector's spool.
    """

    def __init__(self, folder: Path, disk: Path) -> None:
        self.disk = disk
        self.park_file = write_park(folder)
        self.park = load_park(self.park_file)
        self.database = EmbeddedPostgres(disk)
        self.broker = Broker(folder, messages_per_s=1000.0)
        self.proxies: dict[str, FaultProxy] = {}
        self._folder = folder
        self._clock_file = folder / "clock_step"
        self._plan, self._runfile = folder / "plan.json", folder / "run.json"
        self._stack = AsyncExitStack()
        self.simulate = Process(["simulate", str(self.park_file), "--run", str(self._plan)], folder / "simulate.log")
        self.collect = Process(
            ["collect", str(self.park_file), "--run", str(self._runfile), "--spool", str(disk / "spool")],
            folder / "collect.log", self._faked_clock())

    async def __aenter__(self) -> Self:
        self._stack.push_async_callback(self._end_everything)
        try:
            await self._begin()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _begin(self) -> None:
        await asyncio.to_thread(self.database.start)
        await asyncio.to_thread(migrate, self.database.dsn)
        await asyncio.to_thread(self.broker.start)
        now = time()
        endpoints = sorted({m.source.opcua.endpoint for m in self.park.meters if m.source.opcua is not None})
        plan = RunFile(
            dsn=self.database.dsn, park=str(self.park_file), endpoints=dict.fromkeys(endpoints, "opc.tcp://127.0.0.1:0"),
            broker=self.broker.url, sent=str(self._folder / "sent.csv"), truth=str(self._folder / "truth.csv"),
            faults=str(self._folder / "faults.csv"), clock=RunClock(0.0, now - 3600.0 * SPEED, SPEED),
        )
        plan.write(self._plan)
        await self.simulate.start()
        self.simulate.order("start")
        serving = await self.simulate.reached("serving")
        begun = replace(plan, endpoints=serving["endpoints"], clock=replace(plan.clock, epoch=serving["epoch"]))
        begun.write(self._plan)
        await self._begin_collecting(begun)

    async def _begin_collecting(self, run: RunFile) -> None:
        """Start the collector, which reaches everybody through proxies."""
        endpoints = {}
        for configured, actual in run.endpoints.items():
            proxy = await self._proxy(configured, int(urlsplit(actual).port or 0))
            endpoints[configured] = f"opc.tcp://127.0.0.1:{proxy.port}"
        proxy = await self._proxy("broker", self.broker.port)
        replace(run, endpoints=endpoints, broker=f"mqtt://127.0.0.1:{proxy.port}").write(self._runfile)
        await self.collect.start()
        self.collect.order("start")
        await self.collect.reached("armed")
        self.simulate.order("armed")

    async def _proxy(self, name: str, port: int) -> FaultProxy:
        self.proxies[name] = await self._stack.enter_async_context(FaultProxy(port))
        return self.proxies[name]

    def _faked_clock(self) -> dict[str, str]:
        if FAKETIME is None:
            return {}
        self._clock_file.write_text("+0\n")
        return {
            "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(self._clock_file),
            "FAKETIME_CACHE_DURATION": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
        }

    def step_clock(self, seconds: float) -> None:
        """Let the collector's wall clock stand `seconds` from the true one."""
        draft = self._clock_file.with_suffix(".new")
        draft.write_text(f"{seconds:+.3f}\n")
        draft.replace(self._clock_file)

    async def restart_database(self) -> None:
        """Start the database, however it ended."""
        await asyncio.to_thread(self.database.stop)
        await asyncio.to_thread(self.database.start)

    async def ensure_database(self) -> None:
        """Start the database if it does not answer: a full disk may have ended it."""
        with suppress(psycopg.Error):
            async with await psycopg.AsyncConnection.connect(self.database.dsn, connect_timeout=10):
                return
        await self.restart_database()

    async def recovered(self, within_s: float = 90.0) -> None:
        """Wait until every meter has a reading that was sent after now."""
        run = RunFile.read(self._plan)
        since, meters = run.clock.now(), len(self.park.meters)
        question = "select count(distinct meter) from reading_list where source_time > to_timestamp(%s)"
        async with asyncio.timeout(within_s):
            async with await psycopg.AsyncConnection.connect(self.database.dsn, autocommit=True) as conn:
                while True:
                    answer = await (await conn.execute(question, [since])).fetchone()
                    if answer == (meters,):
                        return
                    await asyncio.sleep(0.2)

    async def judge(self) -> Delivery:
        """Stop the sources, let the collector finish, and hold what was sent against what is stored."""
        self.simulate.order("stop")
        await self.simulate.reached("drained")
        self.collect.order("stop")
        assert await self.collect.ended() == 0
        self.simulate.order("leave")
        await self.simulate.ended()
        run = RunFile.read(self._plan)
        with psycopg.connect(self.database.dsn) as conn:
            return compare(conn, self.park, run.clock, Path(run.sent))

    async def _end_everything(self) -> None:
        for process in (self.simulate, self.collect):
            with suppress(AssertionError):      # never started
                process.signal(signal.SIGCONT)
                await process.kill()
        await asyncio.to_thread(self.broker.stop)
        await asyncio.to_thread(self.database.stop)


def mount_disk(folder: Path) -> bool:
    """Mount a small disk on a folder; return whether that is allowed here."""
    folder.mkdir()
    if os.geteuid() != 0:
        return False
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=755", "tmpfs", str(folder)], check=False,
        capture_output=True)
    return done.returncode == 0


def unmount_disk(folder: Path) -> None:
    """Take the disk away again."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)
