"""Servers that a program starts as its own children, and that never outlive it.

`GuardedChild` starts a small guard (`park.child_guard`), and the guard starts the server. Stopping is closing the
guard's pipe; the kernel does the same when the program is killed, so both ways out are one:

    program ──pipe──> guard ──fork──> server
       │                │ pipe closed, or program gone: stop signals in turn, then kill; clean up; exit
       └── reads pid, exit status

`FolderLock` says which process works on a data folder. A lock handed on to a child (`keep_open`) stays taken until
the last process of that child is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from park.errors import OperationError

_GUARD = Path(__file__).with_name("child_guard.py")
_GUARD_ANSWERS_S = 20.0     # a Python start under heavy load; normally 50 ms
_LOCK_POLL_S = 0.05


@dataclass(frozen=True)
class Identity:
    """Whom a server runs as.

    ``same``: as the program. ``namespace``: as the program, but seen by the server as `uid` (for servers that refuse
    root). ``user``: as `uid`, with `file_access` still able to pass folders that only root may.
    """

    kind: Literal["same", "namespace", "user"] = "same"
    uid: int = 0
    gid: int = 0
    file_access: bool = False


@dataclass(frozen=True)
class ServerCommand:
    """How to run a server and how to end it.

    Parameters
    ----------
    argv
        Program (absolute path) and arguments.
    log
        File that its output is added to.
    cwd
        Folder to run in.
    env
        Its whole environment.
    stop
        Signals to send in turn, each with the seconds to wait for it; SIGKILL follows.
    identity
        Whom it runs as.
    remove
        Folders to remove when it is gone.
    keep_open
        File descriptors that guard and server inherit (locks).
    needs
        Files and folders that it must be able to open under its identity; checked before it is run.
    """

    argv: Sequence[str]
    log: Path
    cwd: Path
    env: Mapping[str, str]
    stop: Sequence[tuple[int, float]] = ((signal.SIGTERM, 5.0),)
    identity: Identity = Identity()
    remove: Sequence[Path] = ()
    keep_open: Sequence[int] = ()
    needs: Sequence[Path] = ()

    @property
    def longest_stop_s(self) -> float:
        """The time after which the server is surely gone [s]."""
        return sum(seconds for _number, seconds in self.stop) + 5.0


class NotStartedError(OperationError):
    """The server's program was never run; the text says at which step it failed."""


class GuardedChild:
    """A server that runs; ends with `stop`, or with this program.

    Raises
    ------
    NotStartedError
        If the server's program could not be run.
    """

    def __init__(self, command: ServerCommand) -> None:
        self.command = command
        self._messages = b""
        self._exit_status: int | None = None
        try:
            with command.log.open("ab") as log:
                self._guard = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_GUARD), Path(command.argv[0]).name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd="/",
                    start_new_session=True,     # a Ctrl-C in the terminal reaches the program alone
                    pass_fds=tuple(command.keep_open),
                )
        except OSError as error:
            raise NotStartedError(f"{Path(command.argv[0]).name} did not start: {error}") from error
        try:
            self._send_order()
            answer = self._receive(_GUARD_ANSWERS_S)
        except BaseException:
            self._close()
            raise
        if answer is None or "pid" not in answer:
            self._close()
            reason = answer.get("failed", "the guard ended") if answer else "the guard did not answer"
            raise NotStartedError(f"{Path(command.argv[0]).name} did not start: {reason}")
        self.pid: int = answer["pid"]

    @property
    def guard_pid(self) -> int:
        """Process id of the guard."""
        return self._guard.pid

    def exit_status(self, wait_s: float = 0.0) -> int | None:
        """Return the server's exit status (negative: the signal that ended it); None while it runs.

        Parameters
        ----------
        wait_s
            Wait so long for an exit [s].
        """
        if self._exit_status is None:
            message = self._receive(wait_s)
            if message is not None:
                self._exit_status = int(message.get("exit", -signal.SIGKILL))
                self._close()
        return self._exit_status

    def stop(self) -> int:
        """End the server and wait until it and all its processes are gone; return its exit status."""
        if self._exit_status is None and self._guard.stdin is not None:
            self._guard.stdin.close()
        status = self.exit_status(self.command.longest_stop_s)
        if status is None:
            self._close()
            raise OperationError(f"{Path(self.command.argv[0]).name} (process {self.pid}) does not end")
        return status

    def _send_order(self) -> None:
        command = self.command
        order = {
            "parent": os.getpid(),
            "argv": list(command.argv),
            "env": dict(command.env),
            "cwd": str(command.cwd),
            "log": str(command.log),
            "stop": [[int(number), seconds] for number, seconds in command.stop],
            "identity": asdict(command.identity),
            "remove": [str(path) for path in command.remove],
            "needs": [str(path) for path in command.needs],
        }
        assert self._guard.stdin is not None
        try:
            self._guard.stdin.write(json.dumps(order).encode() + b"\n")
            self._guard.stdin.flush()
        except BrokenPipeError:
            pass        # the guard is gone; _receive tells

    def _receive(self, wait_s: float) -> dict[str, Any] | None:
        """Return the guard's next message, {} when the guard is gone, None when there is none yet."""
        assert self._guard.stdout is not None
        descriptor = self._guard.stdout.fileno()
        readable = select.poll()        # unlike select(2), for descriptors above 1,023 too
        readable.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + wait_s
        while b"\n" not in self._messages:
            left = max(0.0, deadline - time.monotonic())
            if not readable.poll(left * 1000.0):
                return None
            chunk = os.read(descriptor, 4096)
            if not chunk:
                return {}
            self._messages += chunk
        line, _, self._messages = self._messages.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _close(self) -> None:
        """Let go of the guard: closing its pipe makes it end what still runs."""
        for stream in (self._guard.stdin, self._guard.stdout):
            if stream is not None:
                stream.close()
        try:
            self._guard.wait(self.command.longest_stop_s)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()


class FolderLock:
    """Says that one process works on a folder: an flock on a file in it, which goes with its last holder.

    Parameters
    ----------
    path
        The lock file; it stays when the lock goes.
    what
        What is locked, for the message to the second comer, such as ``data folder /srv/park``.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, FolderLock(Path(folder) / "lock", what="data folder") as lock:
    ...     lock.held
    True
    """

    def __init__(self, path: Path, *, what: str) -> None:
        self.path = path
        self.what = what
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def fileno(self) -> int:
        """Return the descriptor, to hand the lock on to a child."""
        if self._descriptor is None:
            raise ValueError(f"{self.what} is not locked")
        return self._descriptor

    def acquire(self, *, patience_s: float = 10.0) -> None:
        """Take the lock.

        A holder that lives is named at once. If the process that took the lock is gone and only its children are
        still ending, they are waited for.

        Parameters
        ----------
        patience_s
            How long to wait for children of a process that is gone [s].

        Raises
        ------
        OperationError
            If another process holds the lock; the text names it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + patience_s
        while not _try_lock(descriptor):
            holder = self.holder()
            if holder is not None or time.monotonic() > deadline:
                os.close(descriptor)
                who = f"process {holder}" if holder else "a process that cannot be seen from here"
                raise OperationError(f"{self.what} is in use by {who}")
            time.sleep(_LOCK_POLL_S)        # flock has no wait with a limit
        os.ftruncate(descriptor, 0)
        with suppress(OSError):     # a disk that is full: the lock holds, and its holder cannot be named
            os.write(descriptor, f"{os.getpid()} {_start_time(os.getpid())}\n".encode())
        self._descriptor = descriptor

    def is_free(self) -> bool:
        """Whether nobody holds the lock just now."""
        try:
            descriptor = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            return _try_lock(descriptor)
        finally:
            os.close(descriptor)

    def holder(self) -> int | None:
        """Return the pid of the living process that took the lock, None if it is gone."""
        try:
            words = self.path.read_text().split()
        except FileNotFoundError:
            return None
        if len(words) != 2 or not words[0].isdecimal() or _start_time(int(words[0])) != words[1]:
            return None
        return int(words[0])

    def release(self) -> None:
        """Let go; children that the lock was handed on to keep it until they end."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)       # a later collision is not with this process
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _try_lock(descriptor: int) -> bool:
    """Take the flock if it is free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start_time(pid: int) -> str | None:
    """Return when a process began (field 22 of proc(5) stat): with the pid it names a process for good."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
