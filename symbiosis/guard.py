"""The last one out: a small process that clears up after a supervisor, however that ended.

It waits for the end of its standard input, which comes when the supervisor closes it or dies, `kill -9` included. Then
it waits until no process of the run uses the data folder any more, kills what still does after a grace, and removes
the folder if it was temporary. A process of the run is one of this program that began after the guard.

It imports nothing but the standard library: it runs as a file of its own (`python -I -S guard.py`), because it has to
outlive everything else and cost nothing meanwhile.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GRACE_S = 7.0           # everything must be gone 10 s after the supervisor died
SERVERS = ("postgres", "mosquitto")


@contextmanager
def guarded(folder: Path, *, temporary: bool) -> Iterator[None]:
    """Keep a guard over `folder` while the block runs, and let it finish its work afterwards."""
    arguments = [sys.executable, "-I", "-S", __file__, str(folder), "temporary" if temporary else "lasting"]
    guard = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, cwd="/"
    )
    assert guard.stdin is not None
    try:
        yield
    finally:
        guard.stdin.close()
        guard.wait()


def main(folder: Path, *, temporary: bool, grace_s: float = GRACE_S) -> None:
    """Wait for the supervisor's end, then clear up."""
    for order in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(order, signal.SIG_IGN)
    sys.stdin.buffer.read()
    if not _wait_until_unused(folder, grace_s):
        for pid in processes_using(folder):
            _kill(pid)
        _wait_until_unused(folder, 2.0)
    if temporary:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_unused(folder: Path, timeout_s: float) -> bool:
    """Return whether all processes of the run have let go of the folder within the time."""
    deadline = time.monotonic() + timeout_s
    while users := processes_using(folder):
        if not _wait_for_ends(users, deadline - time.monotonic()):
            return False
    return True


def _wait_for_ends(pids: list[int], timeout_s: float) -> bool:
    """Return whether all of `pids` ended within the time."""
    deadline = time.monotonic() + timeout_s
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ended, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
        finally:
            os.close(handle)
        if not ended:
            return False
    return True


def processes_using(folder: Path) -> list[int]:
    """Return the processes of this program, younger than this one, that work in `folder` or have a file open in it."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    began = _begin(os.getpid())
    others = [pid for pid in pids if pid != os.getpid() and _begin(pid) >= began]
    return [pid for pid in others if _is_ours(pid) and _uses(pid, str(folder))]


def _begin(pid: int) -> int:
    """Return when a process began [clock ticks since boot], field 22 of proc(5) stat; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _is_ours(pid: int) -> bool:
    """Whether the process is of this program: a look into the folder from a shell is left alone."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        program = Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return False        # ended meanwhile, or another user's
    return program in SERVERS or any(word.startswith(b"symbiosis") or b"iotcore" in word for word in arguments)


def _uses(pid: int, folder: str) -> bool:
    """Whether the process has its working directory or an open file in the folder."""
    inside = folder.rstrip("/") + "/"
    try:
        links = [Path(f"/proc/{pid}/cwd"), *Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    for link in links:
        try:
            if f"{link.readlink()}/".startswith(inside):
                return True
        except OSError:     # closed meanwhile
            continue
    return False


def _kill(pid: int) -> None:
    """Kill a process that may have ended meanwhile."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main(Path(sys.argv[1]), temporary=sys.argv[2] == "temporary")
