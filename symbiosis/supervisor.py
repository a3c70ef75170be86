"""Runs services as processes of its own: starts them, awaits their states, restarts what crashed, stops them in order.

Which services there are, and what they need first, is decided in `symbiosis.demo` and `symbiosis.run`. What happens
inside a service's process is in `symbiosis.service`. The main path enters at `Service.launch`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from park.errors import InputError, OperationError, SymbiosisError

BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0             # a service that ran this long starts again from the first back-off
STARTS = 3                  # a service that never came up is not tried more often
COMES_UP_WITHIN_S = 10.0    # a run that has so long to end waits for a service that still builds up
INPUT_IS_WRONG = 2
_LONGEST_LINE = 1 << 20
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM came while something was awaited."""


class Interrupts:
    """Ctrl-C and SIGTERM: the first one ends what is awaited, the second one cancels `task`."""

    def __init__(self, task: asyncio.Task[int]) -> None:
        self.came = asyncio.Event()
        self.number = 0                 # of the first signal
        self._task = task
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._take, number)

    def _take(self, number: int) -> None:
        if self.came.is_set():
            self._task.cancel()
        self.number = self.number or number
        self.came.set()

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Let a signal raise `Interrupted` in the block, which keeps the event loop from seeing signals."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def interrupt(_number: int, _frame: object) -> None:
            raise Interrupted

        try:
            for number in _SIGNALS:
                signal.signal(number, interrupt)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def unless(self, work: Awaitable[T]) -> T:
        """Return what `work` returns.

        Raises
        ------
        Interrupted
            If a signal came first; `work` is cancelled then.
        """
        task = asyncio.ensure_future(work)
        signalled = asyncio.ensure_future(self.came.wait())
        try:
            await asyncio.wait([task, signalled], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Interrupted
            return task.result()
        finally:
            for future in (task, signalled):
                if not future.done():
                    future.cancel()
                    with suppress(asyncio.CancelledError):
                        await future


@dataclass(frozen=True)
class ServiceCommand:
    """How to run a service.

    Parameters
    ----------
    name
        Its name in messages.
    arguments
        The command line.
    log
        File that its stderr is added to; None leaves it on this process's stderr.
    ready
        The state from which on a crash is answered by restarts without end; input that is wrong ends it at any time.
    finished
        The state in which a service that was told to stop has done its work, but stays for others until it is told
        to leave; None: its end says so.
    keep_open
        Descriptors that the process inherits (the lock of the data folder).
    """

    name: str
    arguments: Sequence[str]
    log: Path | None = None
    ready: str = "loaded"
    finished: str | None = None
    keep_open: Sequence[int] = ()


class Service:
    """One service in a process of its own, kept running until it is stopped.

    Parameters
    ----------
    command
        How to run it.
    tell
        Called with a line when something happened that a person should know.
    hear
        Called with each state that the service says, and what it says of it.
    """

    def __init__(
        self, command: ServiceCommand, tell: Callable[[str], None],
        hear: Callable[[str, Mapping[str, object]], None] = lambda state, detail: None,
    ) -> None:
        self.command = command
        self.state = "starting"
        self.states: dict[str, Mapping[str, object]] = {}       # what it said of each state since it was started
        self.starts = 0
        self._tell = tell
        self._hear = hear
        self._orders: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._failure: SymbiosisError | None = None
        self._changed = asyncio.Condition()
        self._was_ready = False
        self._spawned = asyncio.Event()
        self._killed = False
        self._stopping = asyncio.Event()

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.command.name

    def launch(self) -> None:
        """Start the process, and keep it running until `stop` or `kill`."""
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def spawned(self) -> None:
        """Wait until its process is there: what follows may keep the event loop from making it."""
        assert self._keeper is not None
        spawned = asyncio.ensure_future(self._spawned.wait())
        await asyncio.wait([spawned, self._keeper], return_when=asyncio.FIRST_COMPLETED)
        if not spawned.done():
            spawned.cancel()
            self._keeper.result()       # what kept it from being made

    async def failed(self) -> SymbiosisError:
        """Wait until it is clear that the service cannot run; return why."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._failure)
        assert self._failure is not None
        return self._failure

    def order(self, word: str) -> None:
        """Give the service an order; a restarted one gets all its orders again."""
        self._orders.append(word)
        self._write(word)

    async def reached(self, state: str) -> Mapping[str, object]:
        """Wait until the service says that it is in `state`; return what it said of it.

        Raises
        ------
        InputError, OperationError
            If the service cannot come up.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: state in self.states or self._failure)
        if state not in self.states and self._failure is not None:
            raise self._failure
        return self.states[state]

    async def finish(self, timeout_s: float) -> bool:
        """Let the service finish its work; return whether it did so within the time (else it is killed).

        A service that has only loaded may be deaf while it builds up: where time is short it is ended at once.
        """
        self._stopping.set()
        has_begun = not self.states.keys() <= {"loaded"}
        has_begun |= "start" in self._orders and timeout_s > COMES_UP_WITHIN_S
        self.order("stop")
        finished = await self._finished_within(timeout_s) if has_begun else True
        if not (finished and has_begun):
            self.kill()
        return finished

    async def stop(self, timeout_s: float) -> bool:
        """Let the service finish its work and leave; return whether it did so within the time (else it is killed)."""
        finished = await self.finish(timeout_s)
        self.order("leave")
        left = await self._ended_within(timeout_s if finished else 0.0)
        self.kill()
        await self._ended_within(None)
        return finished and left

    def hang_up(self) -> None:
        """Let the service look at its files: SIGHUP."""
        if self.pid is not None and self.states:        # before it has loaded the signal would end it
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGHUP)

    def kill(self) -> None:
        """End the process at once."""
        self._stopping.set()
        self._killed = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    @property
    def pid(self) -> int | None:
        """The process id, None when none runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process is not None and running else None

    async def _finished_within(self, timeout_s: float) -> bool:
        """Wait for the state that says that the work is done, or for the keeper's end."""
        if self.command.finished is None:
            return await self._ended_within(timeout_s)
        async with self._changed:
            done = self._changed.wait_for(lambda: self.state in (self.command.finished, "stopped"))
            with suppress(TimeoutError):
                return bool(await asyncio.wait_for(done, timeout_s))
        return False

    async def _ended_within(self, timeout_s: float | None) -> bool:
        """Wait for the keeper's end."""
        if self._keeper is None:
            return True
        done, _ = await asyncio.wait([self._keeper], timeout=timeout_s)
        return bool(done)

    async def _keep(self) -> None:
        """Run the process again and again until it is to stop, or it is clear that it cannot run."""
        attempt = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once()
            self.states.clear()
            if self._stopping.is_set():
                break
            attempt = 1 if time.monotonic() - began > STEADY_S else attempt + 1
            if code == INPUT_IS_WRONG or (attempt >= STARTS and not self._was_ready):
                await self._fail(code)
                return
            if attempt == 1:
                self._tell(f"{self.name} ended unexpectedly ({describe_exit(code)}); starting it again")
            await self._set_state("restarting", {})
            await self._pause(BACK_OFF_S[min(attempt, len(BACK_OFF_S)) - 1])
        await self._set_state("stopped", {})

    async def _run_once(self) -> int:
        """Run the process to its end; return its exit code (negative: the signal that killed it)."""
        self.starts += 1
        with _log_file(self.command.log) as errors:
            again = ["--again"] if self._was_ready else []
            self._process = await asyncio.create_subprocess_exec(
                *self.command.arguments, *again,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
                limit=_LONGEST_LINE, pass_fds=tuple(self.command.keep_open),
                start_new_session=True,     # Ctrl-C in the terminal is for the supervisor alone
            )
        self._spawned.set()
        if self._killed:            # while the process was being made
            self.kill()
        for word in self._orders:
            self._write(word)
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            await self._take(line)
        return await self._process.wait()

    async def _take(self, line: bytes) -> None:
        """Take one line of status."""
        try:
            detail = json.loads(line)
            state = detail.pop("state")
        except (ValueError, KeyError, TypeError, AttributeError):
            self._tell(f"{self.name}: {line.decode(errors='replace').rstrip()}")      # a library that prints
            return
        if state == "note":
            self._tell(f"{self.name}: {detail.get('text')}")
            return
        await self._set_state(state, detail)
        self._hear(state, detail)

    async def _set_state(self, state: str, detail: Mapping[str, object]) -> None:
        """Note a state and wake those who wait for it."""
        async with self._changed:
            self.state = state
            self.states[state] = detail
            self._was_ready = self._was_ready or state == self.command.ready
            self._changed.notify_all()

    async def _fail(self, code: int) -> None:
        """Give up: the service cannot run."""
        kind = InputError if code == INPUT_IS_WRONG else OperationError
        what = "finds its input wrong and is not started again" if self._was_ready else "does not start"
        said = _last_lines(self.command.log)
        async with self._changed:
            self.state = "failed"
            self._failure = kind(f"{self.name} {what} ({describe_exit(code)}){said}")
            self._changed.notify_all()

    async def _pause(self, seconds: float) -> None:
        """Wait before a restart; `stop` and `kill` end it."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _write(self, word: str) -> None:
        """Write an order; a process that is gone is noticed elsewhere."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(f"{word}\n".encode())


def service_arguments(command: str, *options: str) -> list[str]:
    """Return the command line of a supervised service of this program."""
    # -P: a folder of the user's own named `park` or `collector` must not stand in for ours
    return [sys.executable, "-P", "-m", "symbiosis", command, *options, "--supervised"]


def describe_exit(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


async def stop_in_order(services: Sequence[Service], within_s: float, tell: Callable[[str], None]) -> None:
    """Stop services, the next when the one before has done its work, all within a time; none leaves before the last."""
    deadline = time.monotonic() + within_s
    for service in services:
        left_s = max(0.0, deadline - time.monotonic())
        share_s = left_s if service is services[-1] else left_s / 2
        if not await service.finish(share_s):
            tell(f"{service.name} did not finish within {share_s:.1f} s and was ended")
    await asyncio.gather(*(service.stop(max(0.0, deadline - time.monotonic())) for service in services))


def _log_file(path: Path | None) -> AbstractContextManager[IO[bytes] | None]:
    """Open a log file to append to; none means stderr as it is."""
    if path is None:
        return nullcontext()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def _last_lines(log: Path | None, count: int = 6) -> str:
    """Return the end of a log for a message; nothing where stderr was seen already."""
    if log is None:
        return ""
    lines = log.read_text("utf-8", errors="replace").splitlines()[-count:]
    return ":\n" + "\n".join(f"    {line}" for line in lines)
