"""The guard: a tiny process between a program and a server that it started (see `park.child_process`).

Run as a script by `GuardedChild`, with the standard library alone, never imported by it. It reads one line of JSON
from standard input, starts the server under the identity asked for, and reports on standard output. It ends the
server, in the server's own way and then by force, when standard input closes or the program is gone, however it went;
then it removes what the server leaves outside its data folder. Should the guard itself be killed, the kernel sends
the server its first stop signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

# <linux/prctl.h>, <linux/securebits.h>, <linux/sched.h>, <linux/capability.h>
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CLONE_NEWUSER = 0x10000000
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522

ORPHANS_END_S = 2.0     # the server is gone: its own children have noticed by then, or are killed


class Unable(Exception):
    """A step before the server's start failed; the text names the step."""


def main() -> int:
    """Start the server, watch, end it; return its exit status."""
    order = json.loads(_read_line(0))
    watch = _Watch(order["parent"])
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        server = _spawn(order)
    except Unable as error:
        _report(failed=str(error))
        return 1
    _report(pid=server)
    status = watch.until_exit_or_stop(server)
    if status is None:
        status = _end(server, order["stop"], watch)
    _end_orphans(watch)
    for path in order["remove"]:
        shutil.rmtree(path, ignore_errors=True)
    _report(exit=os.waitstatus_to_exitcode(status))
    return 0


class _Watch:
    """Waits for the server's exit, the program's end and signals, without polling."""

    def __init__(self, parent: int) -> None:
        self._wakeup, writer = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._told_to_stop = False
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)       # a Ctrl-C is the program's to answer
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._poll = select.poll()
        self._poll.register(self._wakeup, select.POLLIN)
        self._poll.register(0, select.POLLIN | select.POLLHUP)
        self._program = _pidfd(parent)      # seen even while a forked copy of the pipe is still open elsewhere
        if self._program is not None:
            self._poll.register(self._program, select.POLLIN)
        if os.getppid() != parent:
            self._told_to_stop = True

    def _stop(self, _number: int, _frame: object) -> None:
        self._told_to_stop = True

    def until_exit_or_stop(self, server: int) -> int | None:
        """Return the server's wait status, or None when it is to be ended."""
        while not self._told_to_stop:
            status = _reap(server)
            if status is not None:
                return status
            for descriptor, _event in self._poll.poll():
                if descriptor == self._wakeup:
                    self._drain()
                elif descriptor == self._program or not os.read(0, 4096):
                    self._told_to_stop = True
        return None

    def exit_within(self, server: int, seconds: float) -> int | None:
        """Return the server's wait status, or None if it lives on after so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            status = _reap(server)
            left = deadline - time.monotonic()
            if status is not None or left <= 0:
                return status
            select.select([self._wakeup], [], [], left)
            self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 4096)


def _end(server: int, steps: list[tuple[int, float]], watch: _Watch) -> int:
    """Send each stop signal and wait; then kill. Return the wait status."""
    for number, seconds in steps:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, number)
        status = watch.exit_within(server, seconds)
        if status is not None:
            return status
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, signal.SIGKILL)
    return os.waitpid(server, 0)[1]


def _end_orphans(watch: _Watch) -> None:
    """Wait for processes that the server left behind (they are ours now), and kill those that stay."""
    deadline = time.monotonic() + ORPHANS_END_S
    while orphans := _children():
        if time.monotonic() > deadline:
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        watch.exit_within(orphans[0], 0.1)


def _children() -> list[int]:
    """Return the pids of this process's living children."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        me = str(os.getpid())
        found = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                after_name = entry.read_text().rpartition(")")[2].split()
                if after_name[1] == me:
                    found.append(int(entry.parent.name))
        return found
    return []


def _reap(pid: int) -> int | None:
    """Return the wait status of an ended child, None while it lives."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return status if done else None


def _spawn(order: dict[str, Any]) -> int:
    """Start the server; raise Unable with the reason if its program never came to run."""
    reader, writer = os.pipe()
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_server(order, guard, writer)
    os.close(writer)
    reason = b""
    while chunk := os.read(reader, 4096):
        reason += chunk
    os.close(reader)
    if reason:
        os.waitpid(pid, 0)
        raise Unable(reason.decode())
    return pid


def _become_server(order: dict[str, Any], guard: int, writer: int) -> NoReturn:
    """In the forked child: take the identity, tie life to the guard's, run the program."""
    step = "start"
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        step = "open the log"
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        step = "take the identity"
        os.umask(0o077)
        take_identity(order["identity"])
        for path in order["needs"]:
            step = f"open {path}"
            os.close(os.open(path, os.O_RDONLY))
        step = "tie its life to the guard's"        # after the identity: a change of credentials undoes it
        first_signal = order["stop"][0][0] if order["stop"] else signal.SIGKILL
        _prctl(PR_SET_PDEATHSIG, first_signal)
        if os.getppid() != guard:
            os._exit(1)
        step = f"enter {order['cwd']}"
        os.chdir(order["cwd"])
        for descriptor, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        step = f"run {order['argv'][0]}"
        os.execve(order["argv"][0], order["argv"], order["env"])
    except OSError as error:
        os.write(writer, f"cannot {step}: {error.strerror}".encode())
    os._exit(127)


def take_identity(identity: dict[str, Any]) -> None:
    """Become whom the server shall run as; `kind` is ``same``, ``namespace`` or ``user``."""
    if identity["kind"] == "namespace":
        _enter_user_namespace(identity["uid"], identity["gid"])
    elif identity["kind"] == "user":
        _become_user(identity["uid"], identity["gid"], keep_file_access=identity["file_access"])


def _enter_user_namespace(uid: int, gid: int) -> None:
    """See oneself as `uid` in a user namespace of one's own; outside nothing changes (user_namespaces(7))."""
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "no user namespace: " + os.strerror(ctypes.get_errno()))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")


def _become_user(uid: int, gid: int, *, keep_file_access: bool) -> None:
    """Give up root for an ordinary user; keep, if asked, root's way through folders such as /root."""
    if keep_file_access:
        _prctl(PR_SET_KEEPCAPS, 1)
        with contextlib.suppress(OSError):      # else access(2), by which initdb finds postgres, forgets the capability
            _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if keep_file_access:
        _keep_capability(CAP_DAC_OVERRIDE)


def _keep_capability(capability: int) -> None:
    """Reduce this process to one capability that survives exec (capabilities(7), ambient set)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    bit = 1 << capability
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)       # effective, permitted, inheritable; low word, high word
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "cannot keep access to files: " + os.strerror(ctypes.get_errno()))
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _prctl(option: int, *arguments: int) -> None:
    """Call prctl(2)."""
    padded = [*arguments, 0, 0, 0, 0][:4]
    if ctypes.CDLL(None, use_errno=True).prctl(option, *(ctypes.c_ulong(a) for a in padded)) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: " + os.strerror(ctypes.get_errno()))


def _pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends; None where the kernel has none."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _read_line(descriptor: int) -> bytes:
    """Read up to the first newline, and not a byte more."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            break
        line += byte
    return line


def _report(**message: object) -> None:
    """Tell the program; it may be gone."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.exit(main())
