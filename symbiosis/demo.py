"""The demonstration: the whole system on this machine, with simulators in the place of a plant.

Here: what a demo is made of and in which order it begins and ends. Processes, servers and their end are in
`symbiosis.machine`; the report is made in `symbiosis.report`. The main path enters at `demo`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from park.clock import RunClock
from park.errors import InputError
from symbiosis.datafolder import HeldFolder, default_data_folder, hold, temporary_root
from symbiosis.guard import guarded
from symbiosis.machine import AT_LEISURE_S, IN_HASTE_S, Machine, has_no_terminal, shown, start_database
from symbiosis.runfile import RunFile
from symbiosis.services import new_clock
from symbiosis.supervisor import Interrupted, Service
from symbiosis.terminal import Screen

if TYPE_CHECKING:
    from park.model import Park
    from symbiosis.report import Report

KALUNDBORG = Path(__file__).parents[1] / "simulators" / "kalundborg"
SERVICES = ("simulate", "collect", "process")       # in the order in which they stop
BACK_S = 600.0                                      # S of the contract where no duration is given
DONE, FAILED, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True)
class DemoOptions:
    """What the command line asks of a demo (see `symbiosis demo --help`), and which park is played."""

    duration_s: float | None = None
    speed: float = 1.0
    start: datetime | None = None
    seed: int = 1
    data: Path | None = None
    fresh: bool = False
    headless: bool = False
    report: Path | None = None
    park: Path = KALUNDBORG / "park.yaml"
    scenario: Path | None = KALUNDBORG / "scenario.yaml"


def demo(options: DemoOptions) -> int:
    """Run a demo to its end; return the exit code.

    Raises
    ------
    InputError
        If the report cannot be written where it is asked for, or the start lies before what the data folder holds.
    OperationError
        If the data folder is held by another run, or a server or service does not start.
    """
    if options.report is not None:
        check_writable(options.report)
    headless = options.headless or has_no_terminal()
    with _data_folder(options) as folder, shown("Kalundborg", headless=headless) as screen:
        return asyncio.run(_Demo(options, folder, screen, headless=headless).conduct())


def check_writable(report: Path) -> None:
    """Refuse a report that could not be written when the run is over."""
    folder = report.absolute().parent
    if not folder.is_dir():
        raise InputError(f"cannot write {report}: there is no folder {folder}")
    if report.is_dir():
        raise InputError(f"cannot write {report}: it is a folder (hint: name a file in it)")
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {report}: the folder {folder} is not yours to write")


@contextmanager
def _data_folder(options: DemoOptions) -> Iterator[HeldFolder]:
    """Provide the folder of the run, held and guarded."""
    temporary = is_temporary(options)
    root = temporary_root() if temporary else (options.data or default_data_folder()).absolute()
    with ExitStack() as stack:
        if temporary:
            stack.callback(shutil.rmtree, root, ignore_errors=True)     # a signal may come before the guard is there
            stack.enter_context(guarded(root, temporary=True))
        folder = stack.enter_context(hold(root))
        if not temporary:
            stack.enter_context(guarded(root, temporary=False))
        if options.fresh:
            folder.clear()
        yield folder


def is_temporary(options: DemoOptions) -> bool:
    """Whether the data of a run go with it."""
    return options.data is None and options.speed != 1.0


class _Demo:
    """One demo: its machine, from the first process to the last."""

    def __init__(self, options: DemoOptions, folder: HeldFolder, screen: Screen, *, headless: bool) -> None:
        self.options = options
        self.folder = folder
        self.screen = screen
        self.machine = Machine(folder, screen, headless=headless)
        self.files = folder.new_run(datetime.now(UTC))
        self.plan = self.files / "run.json"
        self.run: RunFile | None = None
        self.began = time()
        self.temporary = is_temporary(options)

    @cached_property
    def park(self) -> Park:
        """The park that is played."""
        from park.load import load_park

        return load_park(self.options.park)

    async def conduct(self) -> int:
        """Start, run for the time asked, stop in order, report; return the exit code."""
        try:
            async with self.machine:
                return await self._conduct()
        except asyncio.CancelledError:      # a second Ctrl-C: everything was ended at once
            return INTERRUPTED

    async def _conduct(self) -> int:
        interrupts, armed, interrupted = self.machine.interrupts, False, False
        try:
            await interrupts.unless(self._begin())
            armed = True
            await interrupts.unless(self._last(self.options.duration_s))
            await interrupts.unless(self.machine.stop_services(SERVICES, AT_LEISURE_S))
        except Interrupted:
            interrupted = True
            self.screen.note("stopping: what was sent is still stored and reconciled (once more Ctrl-C: at once)")
            await self.machine.stop_services(SERVICES, IN_HASTE_S)
        if not self.temporary:
            self.screen.note(f"the data are in {self.folder.root}")
        whole = True
        if self.options.report is not None and armed:
            if interrupted and self.options.duration_s is not None:     # all shall be gone in 10 s
                self.screen.note("no report: the run was ended before its duration")
            else:
                whole = await self._report()
        if interrupted:
            return INTERRUPTED
        return DONE if whole else FAILED

    async def _begin(self) -> None:
        """Start everything, and return when every subscription is armed and counting has begun."""
        screen, park = self.screen, self.options.park
        scenario = ["--scenario", str(self.options.scenario)] if self.options.scenario is not None else []
        simulate = await self.machine.launch("simulate", park, self.plan, "--seed", str(self.options.seed), *scenario)
        collect, process = [
            await self.machine.launch(name, park, self.folder.runfile) for name in ("collect", "process")]
        screen.step("database")
        dsn = start_database(self.machine, None)
        screen.done("database")
        screen.step("broker")
        broker = self._start_broker()
        screen.done("broker", broker.description.removeprefix("broker: "))
        screen.step("simulators")
        plan = self._plan_run(dsn, broker.url)
        simulate.order("start")
        serving = await simulate.reached("serving")
        self.run = self._begin_run(plan, serving)
        screen.done("simulators", f"{serving.get('opcua')} meters over OPC UA, {serving.get('mqtt')} over MQTT")
        screen.step("subscriptions")
        collect.order("start")
        process.order("start")
        self.machine.watch(dsn, self.run.clock)
        armed = await collect.reached("armed")
        simulate.order("armed")
        screen.done("subscriptions", ", ".join(f"{value} {name}" for name, value in armed.items()))
        screen.step("first window")
        self.machine.meanwhile(self._tell_first_window(process))

    async def _last(self, duration_s: float | None) -> None:
        """Let the run last so long, or until a service cannot run any more, which is raised."""
        with suppress(TimeoutError):
            async with asyncio.timeout(duration_s):
                await self.machine.failure(SERVICES)

    async def _tell_first_window(self, process: Service) -> None:
        """Say when the first window of this run is reconciled."""
        await process.reached("window")
        self.screen.done("first window", f"{time() - self.began:.1f} s after the start")

    def _start_broker(self) -> Any:
        """Start the broker."""
        from symbiosis.broker import Broker

        broker = Broker(self.folder.root, messages_per_s=self.options.speed * mqtt_rate(self.park))
        self.machine.start_server("the broker", broker)
        return broker

    def _plan_run(self, dsn: str, broker: str) -> RunFile:
        """Say in a run.json of their own what the simulators shall do: listen anywhere, begin when they serve."""
        plan = RunFile(
            dsn=dsn, park=str(self.options.park), endpoints=anywhere(self.park), broker=broker,
            sent=str(self.files / "sent.csv"), truth=str(self.files / "truth.csv"),
            faults=str(self.files / "faults.csv"), clock=plan_clock(dsn, self.options),
        )
        plan.write(self.plan)
        return plan

    def _begin_run(self, plan: RunFile, serving: Mapping[str, Any]) -> RunFile:
        """Say in run.json where the simulators listen and when the run began; they find it so if they crash."""
        run = replace(
            plan, endpoints={**plan.endpoints, **serving["endpoints"]},
            clock=replace(plan.clock, epoch=serving["epoch"]),
        )
        run.write(self.plan)
        run.write(self.folder.runfile)
        return run

    async def _report(self) -> bool:
        """Write the report; return whether everything sent was stored as it was."""
        assert self.run is not None
        assert self.options.report is not None
        self.screen.step("report")
        report = await asyncio.to_thread(_make_report, self.run, self.options.report)
        self.screen.done("report", str(self.options.report))
        for line in report.summary:
            self.screen.note(line)
        return report.is_whole


def _make_report(run: RunFile, path: Path) -> Report:
    """Make and write the report."""
    from park.load import load_park
    from symbiosis.report import make_report, write_report

    report = make_report(load_park(run.park), run)
    write_report(report, path)
    return report


def anywhere(park: Park) -> dict[str, str]:
    """Return for each OPC UA endpoint of a park a URL on this machine with any free port."""
    endpoints = sorted({meter.source.opcua.endpoint for meter in park.meters if meter.source.opcua is not None})
    return dict.fromkeys(endpoints, "opc.tcp://127.0.0.1:0")


def mqtt_rate(park: Park) -> float:
    """Return how many readings the MQTT meters of a park send, at speed 1 [1/s]."""
    return sum(1.0 / meter.interval_s for meter in park.meters if meter.source.mqtt is not None)


def plan_clock(dsn: str, options: DemoOptions) -> RunClock:
    """Return the clock of a run that begins now, after everything that the store holds.

    Raises
    ------
    InputError
        If the start that was asked for lies before readings of an earlier run: the same key would get a second value.
    """
    clock = new_clock(options.speed, options.start, options.duration_s or BACK_S)
    last = last_reading(dsn)
    if last is None or clock.start > last:
        return clock
    if options.start is not None:
        raise InputError(
            f"--start {options.start.isoformat()} lies before readings that the data folder holds, up to "
            f"{datetime.fromtimestamp(last, UTC):%Y-%m-%dT%H:%M:%S}Z (hint: --fresh forgets them)"
        )
    return replace(clock, start=last + 1.0)


def last_reading(dsn: str) -> float | None:
    """Return the latest source time that the store holds [s since 1970]; None if it is empty."""
    from park.store import connect

    with connect(dsn) as conn:
        row = conn.execute("select extract(epoch from max(period_end))::double precision from arrival").fetchone()
    return None if row is None or row[0] is None else float(row[0])
