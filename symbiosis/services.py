"""What each service needs, found and handed to it: park, clock, endpoints, broker, database.

All of it comes from run.json where a run is under way (`--run`), else from the command line: real time, the
configured endpoints, the database and broker that are named. How a service's process behaves is in
`symbiosis.service`. The main path enters at `start`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from park.clock import REAL_TIME, RunClock
from symbiosis.runfile import RunFile
from symbiosis.service import Body, Orders, Say, run_service

if TYPE_CHECKING:
    from park.model import Park

log = logging.getLogger(__name__)

DEFAULT_BROKER = "mqtt://127.0.0.1:1883"        # where none is given, and the park names none
HEAD_START_S = 3.0      # of the tables before the work that needs them and bears their absence
PENDING = 0.0       # epoch of a run that has not begun


def start(name: str, options: argparse.Namespace) -> int:
    """Run a service with the options of its command; return the exit code."""
    loader = {"simulate": load_simulate, "collect": load_collect, "process": load_process}[name]
    return run_service(name, lambda: loader(options), supervised=options.supervised)


def new_clock(speed: float, start: datetime | None, back_s: float) -> RunClock:
    """Return the clock of a run that begins as soon as its simulators serve; its epoch is `PENDING` until then.

    At speed 1 and without a start it is that of the world, which waits for nobody.

    Parameters
    ----------
    speed
        Simulated seconds a wall second.
    start
        Run time at which it begins; None: now at speed 1, else so that it reaches now after `back_s`.
    back_s
        Wall seconds that a fast run lasts until it reaches now, about.
    """
    now = time()
    if start is not None:
        return RunClock(PENDING, start.timestamp(), speed)
    return RunClock(now, now) if speed == 1.0 else RunClock(PENDING, now - speed * back_s, speed)


@dataclass(frozen=True)
class PendingClock(RunClock):
    """A run's clock that stands at its start until the run begins: building up a plant takes none of its time.

    A run with the same start and seed thus begins with the same readings, however fast the machine.
    """

    @classmethod
    def of(cls, clock: RunClock) -> PendingClock:
        """Return the clock, not yet running."""
        return cls(math.inf, clock.start, clock.speed)

    def at(self, wall: float) -> float:
        """Return the run time [s] at the wall time `wall` [s]."""
        return self.start if self.epoch == math.inf else super().at(wall)

    def begin(self) -> None:
        """Let it run from now on."""
        object.__setattr__(self, "epoch", time())       # the one change of a clock, before anybody has read it


@dataclass(frozen=True)
class Surroundings:
    """Where a service finds the others."""

    dsn: str
    broker: str
    clock: RunClock
    endpoints: dict[str, str]

    @classmethod
    def of(cls, options: argparse.Namespace) -> Surroundings:
        """Return them from run.json if there is one, else from the command line."""
        broker = options.broker if "broker" in options else None
        dsn = options.dsn if "dsn" in options else None
        if options.run is None:
            return cls(dsn or "", broker or "", REAL_TIME, {})
        run = RunFile.read(options.run)
        return cls(run.dsn or dsn or "", run.broker or broker or "", run.clock, dict(run.endpoints))


def default_broker(park: Park) -> str:
    """Return the broker of meters that name none where none is given; empty: the park names its own."""
    return "" if park.brokers else DEFAULT_BROKER


def load_simulate(options: argparse.Namespace) -> Body:
    """Import what simulating needs, and read the park and its scenario."""
    from park.load import load_park
    from simulators.scenario_file import load_scenario
    from simulators.serve import simulate

    park = load_park(options.park)
    scenario = load_scenario(options.scenario, park)

    def body(orders: Orders, say: Say) -> None:
        run = RunFile.read(options.run) if options.run is not None else _new_simulation(options, park)
        clock = PendingClock.of(run.clock) if run.clock.epoch == PENDING else run.clock
        if not options.supervised:
            orders.give("armed")
            log.info("computing the plant: %d nodes, %d streams, %d meters", len(park.nodes), len(park.streams),
                     len(park.meters))

        def tell(state: str, detail: Mapping[str, object]) -> None:
            if state == "serving":
                if isinstance(clock, PendingClock):
                    clock.begin()
                detail = {**detail, "epoch": clock.epoch}
                if options.run is None:
                    replace(run, clock=RunClock(clock.epoch, clock.start, clock.speed)).write(_runfile(options))
            say(state, detail)

        async def work(stop: asyncio.Event, armed: asyncio.Event, leave: asyncio.Event) -> None:
            await simulate(
                park, scenario, clock, seed=options.seed, endpoints=run.endpoints, broker=run.broker,
                sent=Path(run.sent), truth=Path(run.truth), faults=Path(run.faults), stop=stop, armed=armed,
                on_state=tell, leave=leave if options.supervised else None,
            )

        asyncio.run(_with_events(orders, work))

    return body


def broker_of_simulation(park: Park) -> str:
    """Return the broker of a simulation by hand where none is given: the only entry of the park."""
    return park.brokers[0].url if len(park.brokers) == 1 else DEFAULT_BROKER


def _new_simulation(options: argparse.Namespace, park: Park) -> RunFile:
    """Return a run by hand; its run.json, from which others by hand take the clock, is written when it begins."""
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    for old in (out / "sent.csv", _runfile(options)):       # a sent file that is there would be continued
        old.unlink(missing_ok=True)
    return RunFile(
        dsn="", park=str(options.park.resolve()), endpoints={}, broker=options.broker or broker_of_simulation(park),
        sent=str(out / "sent.csv"), truth=str(out / "truth.csv"), faults=str(out / "faults.csv"),
        clock=new_clock(options.speed, options.start, 600.0),
    )


def _runfile(options: argparse.Namespace) -> Path:
    """Return where a run by hand says how it is reached."""
    return Path(options.out).resolve() / "run.json"


def load_collect(options: argparse.Namespace) -> Body:
    """Import what collecting needs, and read the park."""
    from collector.agent import collect
    from collector.spool import SpoolSettings
    from symbiosis.health import observed
    from symbiosis.park_in_force import ParkInForce

    parks = ParkInForce("collect", options)
    watch = parks.load()
    park = watch.in_force
    spool = SpoolSettings(_spool_folder(options), round(options.spool_mb * 1e6))

    def body(orders: Orders, say: Say) -> None:
        keep = partial(parks.keep, watch)
        with observed("collect", options.metrics, watch, say, keep) as seen, _found(options) as around:
            orders.on("reload", watch.hurry)
            parks.say(watch)

            async def work(stop: asyncio.Event, _armed: asyncio.Event, _leave: asyncio.Event) -> None:
                collecting = collect(
                    park, around.dsn, around.clock, endpoints=around.endpoints,
                    broker=around.broker or default_broker(park), stop=stop,
                    on_state=seen.say, spool=spool, watch=watch, metrics=seen.registry,
                )
                await (collecting if options.supervised else meanwhile_migrated(around.dsn, log.warning, collecting))

            asyncio.run(_with_events(orders, work))

    return body


async def meanwhile_migrated(dsn: str, tell: Callable[[str], None], work: Coroutine[None, None, None]) -> None:
    """Do work that bears a database that is away, and bring the tables up to date beside it.

    Parameters
    ----------
    dsn, tell
        As of `migrate_when_there`.
    work
        Begins when the tables are up to date, or after `HEAD_START_S`.

    Raises
    ------
    StoreError
        If the tables cannot be brought up to date; the work is cancelled then.
    """
    import asyncio

    from symbiosis.database import migrate_when_there

    ended = threading.Event()
    migrating = asyncio.create_task(asyncio.to_thread(migrate_when_there, dsn, tell, ended.wait))
    working: asyncio.Task[None] | None = None
    try:
        await asyncio.wait({migrating}, timeout=HEAD_START_S)
        working = asyncio.create_task(work)
        await asyncio.wait({migrating, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await migrating
        await working
    finally:
        ended.set()
        if working is None:
            work.close()
        else:
            working.cancel()
        await asyncio.gather(*filter(None, (migrating, working)), return_exceptions=True)


def _spool_folder(options: argparse.Namespace) -> Path:
    """Return where readings wait: the folder that is named, else beside the run's other files."""
    from symbiosis.datafolder import default_data_folder

    if options.spool is not None:
        return Path(options.spool)
    beside = options.run.parent if options.run is not None else options.data or default_data_folder()
    return Path(beside) / "spool"


def load_process(options: argparse.Namespace) -> Body:
    """Import what processing needs, read the park, and compile what has to be compiled."""
    from processing.cycle import process
    from processing.estimate import Estimator
    from processing.metrics import ProcessMetrics
    from symbiosis.health import observed
    from symbiosis.park_in_force import ParkInForce

    parks = ParkInForce("process", options)
    watch = parks.load()
    park = watch.in_force
    Estimator(park).warm_up()       # compiles the kernels while the others start up; what follows finds them

    def body(orders: Orders, say: Say) -> None:
        with observed("process", options.metrics, watch, say, partial(parks.keep, watch)) as seen:
            orders.on("reload", watch.hurry)
            parks.say(watch)
            counted = ProcessMetrics(seen.registry)

            def tell(state: str, detail: Mapping[str, object]) -> None:
                counted.note(state, detail)
                seen.say(state, detail)

            with _store(options, orders) as around:
                process(
                    park, around.dsn, around.clock, stop=orders.event("stop"), on_state=tell, watch=watch)

    return body


Work = Callable[[asyncio.Event, asyncio.Event, asyncio.Event], Awaitable[None]]


async def _with_events(orders: Orders, work: Work) -> None:
    """Do `work` with events of this loop that the orders `stop`, `armed` and `leave` set."""
    loop = asyncio.get_running_loop()
    events = {order: asyncio.Event() for order in ("stop", "armed", "leave")}
    for order, event in events.items():
        orders.on(order, partial(loop.call_soon_threadsafe, event.set))
    try:
        await work(*events.values())
    finally:
        orders.forget()     # before the loop closes: an order that comes now has nobody to act


@contextmanager
def _store(options: argparse.Namespace, orders: Orders) -> Iterator[Surroundings]:
    """Provide the surroundings with a database that has this version's tables."""
    from symbiosis.database import migrate_when_there

    with _found(options) as around:
        if not options.supervised:
            migrate_when_there(around.dsn, log.warning, orders.event("stop").wait)
        yield around


@contextmanager
def _found(options: argparse.Namespace) -> Iterator[Surroundings]:
    """Provide the surroundings with the database that is meant, there or not."""
    from park.store.location import open_database
    from symbiosis.datafolder import default_data_folder

    around = Surroundings.of(options)
    with open_database(around.dsn or None, options.data or default_data_folder(), create=True) as dsn:
        yield replace(around, dsn=dsn)
