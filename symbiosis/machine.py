"""One machine runs it all: servers (database, broker), services, what is shown, and the order in which all ends.

    start   services load ── database ── broker ── clock, run.json ── services begin ── armed
    stop    simulators ── collector ── processing ── [report] ── broker ── database ── guard

`symbiosis.demo` and `symbiosis.run` say which services and servers there are. The main path enters at `Machine`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

from park.clock import RunClock
from park.errors import SymbiosisError
from symbiosis.datafolder import HeldFolder
from symbiosis.observe import Observer, Watcher
from symbiosis.runfile import RunFile
from symbiosis.supervisor import BACK_OFF_S, Interrupts, Service, ServiceCommand, service_arguments, stop_in_order
from symbiosis.terminal import LiveScreen, PlainScreen, Screen

AT_LEISURE_S = 60.0         # a run that ended by itself lets everything be finished
OBSERVED = ("collect", "process")       # services with metrics
IN_HASTE_S = 7.5            # after Ctrl-C all must be gone within 10 s, the database last


class Server(Protocol):
    """A server that this program starts as its own child: the database, the broker."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def start(self) -> None:
        """Start it and return when it answers."""

    def stop(self) -> None:
        """Stop it and wait until it is gone."""


class Machine:
    """What runs on this machine for one run; an async context manager that leaves nothing running.

    Parameters
    ----------
    folder
        The data folder, held.
    screen
        What shows the run.
    headless
        Whether services log to stderr instead of to files in the data folder.
    metrics
        Where the first of the observed services answers with its metrics, the next ones at the ports after it; port 0:
        each at any free one. run.json says where.
    """

    def __init__(
        self, folder: HeldFolder, screen: Screen, *, headless: bool, metrics: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self.folder = folder
        self.screen = screen
        self.services: dict[str, Service] = {}
        self.interrupts: Interrupts
        self._headless = headless
        self._metrics = metrics
        self._answers_at: dict[str, str] = {}
        self._stack = AsyncExitStack()
        self._watcher: Watcher | None = None

    async def __aenter__(self) -> Machine:
        task = asyncio.current_task()
        assert task is not None
        self.interrupts = Interrupts(task)
        if not sys.stdin.isatty():          # in a terminal it says that the terminal is gone
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        return self

    async def __aexit__(self, *_: object) -> None:
        for service in self.services.values():
            service.kill()
        for service in self.services.values():
            await service.stop(0.0)
        self._stop_watching()
        await self._stack.aclose()

    async def launch(self, name: str, park: Path, run: Path, *options: str) -> Service:
        """Start a service's process; it loads, and begins with the order `start`, for which `run` must be there.

        Returns when the process is there, so that it loads while a server's start keeps this one busy.
        """
        if name in OBSERVED:
            host, port = self._metrics
            options = (*options, "--metrics", f"[{host}]:{port and port + OBSERVED.index(name)}")
        arguments = service_arguments(name, str(park), "--run", str(run), *options)
        log = None if self._headless else self.folder.logs / f"{name}.log"
        finished = "drained" if name == "simulate" else None        # its servers outlast their clients
        command = ServiceCommand(name, arguments, log=log, finished=finished, keep_open=(self.folder.lock,))
        service = Service(command, self.screen.note, partial(self._hear, name))
        self.services[name] = service
        service.launch()
        await service.spawned()
        return service

    def _hear(self, name: str, state: str, detail: Mapping[str, object]) -> None:
        """Write into run.json where a service answers with its metrics, anew when it was started again."""
        if state == "metrics":
            self._answers_at[name] = str(detail["url"])
            replace(RunFile.read(self.folder.runfile), metrics=dict(self._answers_at)).write(self.folder.runfile)

    def _hang_up(self) -> None:
        """Let all services look at their files."""
        for service in self.services.values():
            service.hang_up()

    async def failure(self, names: Sequence[str]) -> NoReturn:
        """Wait until one of the services cannot run any more; then stop all, in the order of their names.

        Raises
        ------
        InputError, OperationError
            Why it cannot.
        """
        waiting = [asyncio.ensure_future(service.failed()) for service in self.services.values()]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        error = done.pop().result()
        self.screen.note("stopping: what has come is still stored and reconciled")
        await self.stop_services(names, IN_HASTE_S)
        raise error

    def start_server(self, name: str, server: Server) -> None:
        """Start a server, keep it running, and stop it when the machine is left."""
        self._stack.callback(server.stop)
        with self.interrupts.raised():
            server.start()
        self.meanwhile(self._keep(name, server))

    def meanwhile(self, work: Coroutine[None, None, None]) -> None:
        """Do `work` beside everything else until the machine is left."""
        self._stack.push_async_callback(_cancel, asyncio.get_running_loop().create_task(work))

    def watch(self, dsn: str, clock: RunClock) -> None:
        """Show from now on what the store says of this run."""
        self.screen.begin(clock, self.states)
        self._watcher = Watcher(Observer(dsn, since=clock.now()), self.screen.show)
        self._watcher.start()

    def states(self) -> Mapping[str, str]:
        """Return what each service does, in words."""
        return {name: service.state for name, service in self.services.items()}

    async def stop_services(self, names: Sequence[str], within_s: float) -> None:
        """Stop services in order, each after the one before has finished."""
        await stop_in_order([self.services[name] for name in names], within_s, self.screen.note)
        self._stop_watching()

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None

    async def _keep(self, name: str, server: Server) -> None:
        """Start a server again when it has ended by itself; its clients wait for it with their own back-off."""
        while True:
            await process_end(server.pid)
            self.screen.note(f"{name} ended unexpectedly; starting it again")
            for pause in (*BACK_OFF_S, *[BACK_OFF_S[-1]] * 1000):
                try:
                    server.stop()
                    server.start()
                    break
                except SymbiosisError as error:
                    self.screen.note(f"{name} does not start: {error}")
                    await asyncio.sleep(pause)
            self.screen.note(f"{name} runs again")


def start_database(machine: Machine, dsn: str | None, when_away: Callable[[], None] = lambda: None) -> str:
    """Start the embedded database unless one is named, bring its tables up to date, and return where it is.

    `when_away` is called each time that a named one is found away.
    """
    from park.store.embedded import EmbeddedPostgres
    from symbiosis.database import migrate_when_there

    if dsn is None:
        database = EmbeddedPostgres(machine.folder.root)
        machine.start_server("the database", database)
        dsn = database.dsn

    def pause(seconds: float) -> None:
        when_away()
        time.sleep(seconds)

    with machine.interrupts.raised():
        migrate_when_there(dsn, machine.screen.note, pause)
    return dsn


async def process_end(pid: int) -> None:
    """Wait until a process has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextmanager
def shown(title: str, *, headless: bool) -> Iterator[Screen]:
    """Provide the live view on a terminal, else plain lines; leave the terminal as it was."""
    screen: Screen = PlainScreen() if headless else LiveScreen(title)
    try:
        yield screen
    finally:
        screen.close()


def has_no_terminal() -> bool:
    """Whether nobody watches, or the terminal cannot be drawn on."""
    return not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb"
