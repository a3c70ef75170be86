"""The services for a real park on one machine: collector and processing, without simulators.

The database is the one that is named, else an embedded one in the data folder; the broker is the plant's. The main
path enters at `run`; what starts and stops how is in `symbiosis.machine`.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from park.clock import REAL_TIME
from symbiosis.datafolder import HeldFolder, default_data_folder, hold
from symbiosis.guard import guarded
from symbiosis.machine import IN_HASTE_S, Machine, has_no_terminal, shown, start_database
from symbiosis.runfile import RunFile
from symbiosis.services import default_broker
from symbiosis.supervisor import Interrupted
from symbiosis.terminal import Screen

SERVICES = ("collect", "process")       # in the order in which they stop
DONE, INTERRUPTED = 0, 130      # it runs until it is told to stop: SIGTERM, as systemd sends it, is the regular end


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks; see `symbiosis run --help`."""

    park: Path
    dsn: str | None = None
    data: Path | None = None
    broker: str | None = None
    headless: bool = False
    metrics: tuple[str, int] = ("127.0.0.1", 0)


def run(options: RunOptions) -> int:
    """Run the services of a park until Ctrl-C or SIGTERM; return the exit code.

    Raises
    ------
    ParkError
        If the park has faults; before anything is started.
    InputError
        If a broker's URL or settings are wrong; the same.
    OperationError
        If the data folder is held by another run, or a server or service does not start.
    """
    from collector.mqtt.broker import brokers_of
    from park.load import load_park

    park = load_park(options.park)
    brokers_of(park, options.broker or default_broker(park))
    headless = options.headless or has_no_terminal()
    root = (options.data or default_data_folder()).absolute()
    with ExitStack() as stack:
        folder = stack.enter_context(hold(root))
        stack.enter_context(guarded(root, temporary=False))
        screen = stack.enter_context(shown(park.park.name, headless=headless))
        return asyncio.run(_conduct(options, folder, screen, headless=headless))


async def _conduct(options: RunOptions, folder: HeldFolder, screen: Screen, *, headless: bool) -> int:
    """Start, run until interrupted, stop in order."""
    try:
        async with Machine(folder, screen, headless=headless, metrics=options.metrics) as machine:
            try:
                await machine.interrupts.unless(_begin(machine, options))
                await machine.interrupts.unless(machine.failure(SERVICES))
            except Interrupted:
                pass
            screen.note("stopping: what has come is still stored and reconciled (once more Ctrl-C: at once)")
            await machine.stop_services(SERVICES, IN_HASTE_S)
            return DONE if machine.interrupts.number == signal.SIGTERM else INTERRUPTED
    except asyncio.CancelledError:          # a second Ctrl-C: everything was ended at once
        return INTERRUPTED


async def _begin(machine: Machine, options: RunOptions) -> None:
    """Start everything; a source that is away is the collector's to wait for."""
    screen = machine.screen
    collect, process = [
        await machine.launch(name, options.park.absolute(), machine.folder.runfile) for name in SERVICES]
    begun: list[str] = []

    def begin(dsn: str) -> None:
        """Let the collector begin, once: with its spool it needs no database."""
        if not begun:
            RunFile(
                dsn=dsn, park=str(options.park.absolute()), endpoints={}, broker=options.broker or "",
                sent="", truth="", faults="", clock=REAL_TIME,
            ).write(machine.folder.runfile)
            collect.order("start")
            begun.append(dsn)

    screen.step("database")
    dsn = start_database(machine, options.dsn, lambda: begin(options.dsn or ""))
    screen.done("database")
    begin(dsn)
    screen.step("subscriptions")
    process.order("start")
    machine.watch(dsn, REAL_TIME)
    armed = await collect.reached("armed")
    screen.done("subscriptions", ", ".join(f"{value} {name}" for name, value in armed.items()))
