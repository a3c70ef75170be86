"""The kinds of fault: what each does to a rig, and how long."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from tests.faults.rig import FAKETIME, Rig

Inflict = Callable[[Rig, random.Random], Awaitable[str]]


async def _pause(rng: random.Random, low: float = 0.2, high: float = 4.0) -> float:
    seconds = rng.uniform(low, high)
    await asyncio.sleep(seconds)
    return seconds


async def kill_collector(rig: Rig, rng: random.Random) -> str:
    """kill -9 of the collector, and a new one a little later."""
    await rig.collect.kill()
    seconds = await _pause(rng, 0.0, 2.0)
    await rig.collect.start()
    if rng.random() < 0.7:          # else the next fault comes while it starts
        with suppress(TimeoutError):                        # its sources may be away for longer
            await rig.collect.reached("armed", within_s=10.0)
    return f"away for {seconds:.1f} s"


async def kill_servers(rig: Rig, rng: random.Random) -> str:
    """kill -9 of the OPC UA servers and of everything that publishes."""
    await rig.simulate.kill()
    seconds = await _pause(rng, 0.0, 2.0)
    await rig.simulate.start()
    await rig.simulate.reached("serving", within_s=300.0)      # it plays the plant again from the beginning
    return f"away for {seconds:.1f} s"


async def kill_broker(rig: Rig, rng: random.Random) -> str:
    """kill -9 of the broker."""
    os.kill(rig.broker.pid, signal.SIGKILL)
    seconds = await _pause(rng)
    await asyncio.to_thread(rig.broker.stop)
    await asyncio.to_thread(rig.broker.start)
    return f"away for {seconds:.1f} s"


async def kill_database(rig: Rig, rng: random.Random) -> str:
    """kill -9 of the database."""
    os.kill(rig.database.pid, signal.SIGKILL)
    seconds = await _pause(rng)
    await rig.restart_database()
    return f"away for {seconds:.1f} s"


async def cut_connections(rig: Rig, rng: random.Random) -> str:
    """Connections to a server or the broker end at once."""
    name = rng.choice(sorted(rig.proxies))
    rig.proxies[name].cut()
    return name


async def half_open_connections(rig: Rig, rng: random.Random) -> str:
    """Nothing passes any more, and no connection ends; later the old ones are dead."""
    name = rng.choice(sorted(rig.proxies))
    rig.proxies[name].freeze()
    seconds = await _pause(rng, 0.5, 12.0)
    rig.proxies[name].thaw()
    return f"{name} for {seconds:.1f} s"


async def halt_collector(rig: Rig, rng: random.Random) -> str:
    """The collector gets no processor for a while."""
    rig.collect.signal(signal.SIGSTOP)
    seconds = await _pause(rng)
    rig.collect.signal(signal.SIGCONT)
    return f"for {seconds:.1f} s"


async def fill_disk(rig: Rig, rng: random.Random) -> str:
    """The disk of database and spool is full, to the last byte."""
    ballast = rig.disk / "ballast"
    await asyncio.to_thread(_fill, ballast)
    seconds = await _pause(rng, 1.0, 5.0)
    ballast.unlink()
    await rig.ensure_database()
    return f"for {seconds:.1f} s"


async def step_clock(rig: Rig, rng: random.Random) -> str:
    """The collector's wall clock is set forward or back, and put right later."""
    step = rng.choice([-600.0, -20.0, -2.0, 2.0, 20.0, 600.0])
    rig.step_clock(step)
    await _pause(rng, 1.5, 5.0)
    rig.step_clock(0.0)
    return f"by {step:+.0f} s"


def _fill(ballast: object) -> None:
    block = bytes(1 << 20)
    with open(str(ballast), "wb", buffering=0) as file:  # noqa: PTH123
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(block[:size])
            except OSError:
                continue


KINDS: Mapping[str, Inflict] = {
    "kill collector": kill_collector,
    "kill servers": kill_servers,
    "kill broker": kill_broker,
    "kill database": kill_database,
    "cut connections": cut_connections,
    "half-open connections": half_open_connections,
    "halt collector": halt_collector,
    "full disk": fill_disk,
    "clock step": step_clock,
}
TARGETS: Mapping[str, str] = {
    "kill collector": "collector", "halt collector": "collector", "clock step": "clock", "kill servers": "servers",
    "kill broker": "broker", "kill database": "database", "full disk": "database", "cut connections": "network",
    "half-open connections": "network",
}
"""What a fault takes hold of: of one thing one fault at a time, of different ones as it comes."""


def possible(*, disk: bool) -> list[str]:
    """Return the kinds that can be made here."""
    missing = {"full disk"} if not disk else set()
    if FAKETIME is None:
        missing.add("clock step")
    return [kind for kind in KINDS if kind not in missing]
