"""Who works on a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from park.child_process import FolderLock
from park.errors import OperationError

HOLD = """
import subprocess, sys
from pathlib import Path
from park.child_process import FolderLock
lock = FolderLock(Path(sys.argv[1]), what="it")
lock.acquire()
if len(sys.argv) > 2:       # a child that the lock is handed on to, and that outlives its parent by a moment
    subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=[lock.fileno()], stdin=0)
print("held", flush=True)
input()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "lock"


def test_second_comer_learns_who_was_first(path: Path) -> None:
    with (
        FolderLock(path, what="data folder X"),
        pytest.raises(OperationError, match=f"^data folder X is in use by process {os.getpid()}$"),
    ):
        FolderLock(path, what="data folder X").acquire()


def test_lock_can_be_taken_again_after_release(path: Path) -> None:
    lock = FolderLock(path, what="it")
    assert lock.is_free()
    for _ in range(2):
        with lock:
            assert lock.held
            assert not FolderLock(path, what="it").is_free()
            assert lock.holder() == os.getpid()
        assert not lock.held
        assert lock.is_free()
        assert lock.holder() is None


def test_descriptor_of_a_free_lock_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="it is not locked"):
        FolderLock(path, what="it").fileno()


def test_lock_goes_with_its_killed_holder(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OperationError, match=f"in use by process {holder.pid}"):
            FolderLock(path, what="it").acquire()
        holder.kill()
        holder.wait()
        with FolderLock(path, what="it") as lock:
            assert lock.held


def test_children_of_a_killed_holder_are_waited_for(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, path, "child"], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
        holder.wait()
        with pytest.raises(OperationError, match="in use by a process that cannot be seen from here"):
            FolderLock(path, what="it").acquire(patience_s=0.1)
        threading.Timer(0.2, holder.stdin.close).start()        # now the child ends
        with FolderLock(path, what="it") as lock:
            assert lock.held


@pytest.mark.parametrize("left", ["", "garbage", "1", "x y", "999999999 5", "{pid} 1"])
def test_what_a_dead_holder_left_names_nobody(path: Path, left: str) -> None:
    path.parent.mkdir()
    path.write_text(left.format(pid=os.getpid()))
    assert FolderLock(path, what="it").holder() is None
    with FolderLock(path, what="it") as lock:
        assert lock.held
