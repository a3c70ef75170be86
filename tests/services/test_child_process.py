"""Guarded children: real processes, stopped and killed in every way."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from park.child_process import GuardedChild, Identity, NotStartedError, ServerCommand

# Says which signal it got, and whether it may end by it.
STUBBORN = """
import signal, sys, time
deaf = [int(n) for n in sys.argv[1].split(",") if n]
def take(number, _frame):
    print("got", number, flush=True)
    if number not in deaf:
        sys.exit(0)
signal.signal(signal.SIGTERM, take)
signal.signal(signal.SIGINT, take)
print("ready", flush=True)
while True:
    time.sleep(60)
"""
PARENT = """
import os, sys, time
from pathlib import Path
from park.child_process import GuardedChild, ServerCommand
folder = Path(sys.argv[1])
(folder / "sockets").mkdir()
child = GuardedChild(ServerCommand(argv=["/bin/sleep", "1000"], log=folder / "log", cwd=folder, env={},
    remove=[folder / "sockets"]))
if sys.argv[2] == "forked" and os.fork() == 0:
    time.sleep(1000)        # holds a copy of the guard's pipe
print(os.getpid(), child.pid, child.guard_pid, flush=True)
time.sleep(1000)
"""


def namespaces_can_be_made() -> bool:
    """Whether this machine lets this user make user namespaces; many containers don't."""
    program = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000) != 0)"
    return subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def command(folder: Path, *argv: str, **changes: object) -> ServerCommand:
    return ServerCommand(argv=argv, log=folder / "log", cwd=folder, env={"HOME": "/"}, **changes)  # type: ignore[arg-type]


def python(folder: Path, program: str, *arguments: str, **changes: object) -> ServerCommand:
    return command(folder, sys.executable, "-S", "-c", program, *arguments, **changes)


def await_log(folder: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in (folder / "log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ends_within(pid: int, seconds: float) -> bool:
    """Whether a process that is not our child ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ready, _, _ = select.select([descriptor], [], [], seconds)
    os.close(descriptor)
    return bool(ready)


def test_output_and_exit_status(tmp_path: Path) -> None:
    child = GuardedChild(command(tmp_path, "/bin/sh", "-c", "pwd; echo $HOME; echo fault >&2; exit 3"))
    assert child.exit_status(10) == 3
    assert child.exit_status() == 3
    assert child.stop() == 3
    assert (tmp_path / "log").read_text() == f"{tmp_path}\n/\nfault\n"


def test_running_child_has_no_status_and_is_ended_by_its_first_signal(tmp_path: Path) -> None:
    child = GuardedChild(python(tmp_path, STUBBORN, "", stop=[(signal.SIGINT, 20.0)]))
    await_log(tmp_path, "ready")
    assert child.exit_status() is None
    assert child.stop() == 0
    assert (tmp_path / "log").read_text() == "ready\ngot 2\n"
    assert ends_within(child.pid, 0)
    assert ends_within(child.guard_pid, 0)


def test_signals_follow_each_other_and_then_it_is_killed(tmp_path: Path) -> None:
    stop = [(signal.SIGINT, 0.2), (signal.SIGTERM, 0.2)]
    child = GuardedChild(python(tmp_path, STUBBORN, "2,15", stop=stop))
    await_log(tmp_path, "ready")
    assert child.stop() == -signal.SIGKILL
    assert (tmp_path / "log").read_text() == "ready\ngot 2\ngot 15\n"


def test_server_killed_by_others_is_noticed(tmp_path: Path) -> None:
    child = GuardedChild(command(tmp_path, "/bin/sleep", "1000"))
    os.kill(child.pid, signal.SIGKILL)
    assert child.exit_status(10) == -signal.SIGKILL


def test_what_the_server_leaves_behind_is_ended_and_removed(tmp_path: Path) -> None:
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    (sockets / "file").touch()
    child = GuardedChild(command(tmp_path, "/bin/sh", "-c", "sleep 1000 & echo $!; exit 0", remove=[sockets]))
    assert child.exit_status(20) == 0
    assert ends_within(int((tmp_path / "log").read_text()), 0)
    assert not sockets.exists()


@pytest.mark.parametrize("forked", ["alone", "forked"])
def test_kill_of_the_program_ends_its_servers(tmp_path: Path, forked: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path, forked], stdout=-1, text=True) as parent:
        assert parent.stdout is not None
        pid, server, guard = (int(word) for word in parent.stdout.readline().split())
        group = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if int(p) != guard]
        parent.kill()
        assert ends_within(server, 5)
        assert ends_within(guard, 5)
        for other in group:
            os.kill(other, signal.SIGKILL)
    assert not (tmp_path / "sockets").exists()


def test_kill_of_the_guard_ends_the_server(tmp_path: Path) -> None:
    child = GuardedChild(command(tmp_path, "/bin/sleep", "1000"))
    os.kill(child.guard_pid, signal.SIGKILL)
    assert ends_within(child.pid, 5)
    assert child.exit_status(5) == -signal.SIGKILL


def test_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match=r"nothing did not start: cannot run /no/nothing: No such file"):
        GuardedChild(command(tmp_path, "/no/nothing"))


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match=r"cannot enter .*: No such file"):
        GuardedChild(ServerCommand(argv=["/bin/true"], log=tmp_path / "log", cwd=tmp_path / "none", env={}))


def test_log_that_cannot_be_written(tmp_path: Path) -> None:
    order = ServerCommand(argv=["/bin/true"], log=tmp_path / "none" / "log", cwd=tmp_path, env={})
    with pytest.raises(NotStartedError, match=r"true did not start: .*No such file"):
        GuardedChild(order)


def test_file_that_it_needs_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match=r"cannot open .*none: No such file"):
        GuardedChild(command(tmp_path, "/bin/true", needs=[tmp_path / "none"]))


def test_an_interrupt_of_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    child = GuardedChild(command(tmp_path, "/bin/sleep", "1000"))
    assert os.getsid(child.pid) != os.getsid(0)
    os.kill(child.guard_pid, signal.SIGINT)
    os.kill(child.guard_pid, signal.SIGHUP)
    assert child.exit_status(0.2) is None
    assert child.stop() == -signal.SIGTERM


@pytest.mark.skipif(not namespaces_can_be_made(), reason="user namespaces are barred on this machine")
def test_a_namespace_shows_another_user_and_changes_nothing_outside(tmp_path: Path) -> None:
    script = "id -u; id -g; touch made; grep CapEff /proc/self/status"
    child = GuardedChild(command(tmp_path, "/bin/sh", "-c", script, identity=Identity("namespace", 7, 8)))
    assert child.exit_status(10) == 0
    assert (tmp_path / "log").read_text().split() == ["7", "8", "CapEff:", "0000000000000000"]
    assert (tmp_path / "made").stat().st_uid == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("file_access", [False, True])
def test_another_user_passes_closed_folders_only_with_file_access(tmp_path: Path, *, file_access: bool) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    inner = closed / "open"
    inner.mkdir()
    inner.chmod(0o777)
    order = ServerCommand(
        argv=["/bin/sh", "-c", "id -u; touch made; grep Cap /proc/self/status"],
        log=tmp_path / "log", cwd=inner, env={"PATH": os.defpath},
        identity=Identity("user", 65534, 65534, file_access=file_access),
    )
    if not file_access:
        with pytest.raises(NotStartedError, match=r"cannot enter .*: Permission denied"):
            GuardedChild(order)
        return
    assert GuardedChild(order).exit_status(10) == 0
    assert (inner / "made").stat().st_uid == 65534
    words = (tmp_path / "log").read_text().split()
    assert words[0] == "65534"
    assert dict(zip(words[1::2], words[2::2], strict=True))["CapEff:"] == "0000000000000002"
