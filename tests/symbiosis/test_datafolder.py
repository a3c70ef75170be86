"""Data folder, run.json and guard: on real files, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from park.clock import RunClock
from park.errors import InputError, StoreError
from symbiosis import guard
from symbiosis.datafolder import default_data_folder, hold
from symbiosis.runfile import RunFile

HOLDER = """
import sys, pathlib
from symbiosis.datafolder import hold
with hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_told_which_process_holds_the_folder(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(StoreError, match=rf"data folder {tmp_path} is in use by process {holder.pid} .*--data"),
            hold(tmp_path),
        ):
            pass
        holder.communicate("")
    with hold(tmp_path) as folder:
        assert folder.root == tmp_path


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to the data folder"), hold(tmp_path / "file" / "data"):
        pass


def test_clearing_removes_what_is_ours_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with hold(tmp_path) as folder:
        folder.new_run(datetime(2026, 1, 1, tzinfo=UTC))
        (tmp_path / "postgres").mkdir()
        (tmp_path / "run.json").write_text("{}")
        folder.clear()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock", "notes.txt"]


def test_the_default_folder_follows_the_desktop_standard(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_data_folder() == tmp_path / "symbiosis"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_data_folder() == Path("/home/someone/.local/share/symbiosis")


def test_run_json_comes_back_as_it_was_written(tmp_path):
    clock = RunClock(5.5, 1.0, 20.0)
    run = RunFile("dsn", "p.yaml", {"opc.tcp://a:1": "opc.tcp://b:2"}, "mqtt://c", "s", "t", "f", clock)
    run.write(tmp_path / "run.json")
    assert RunFile.read(tmp_path / "run.json") == run
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"clock": {"speed": 0}}', '{"clock": {}, "more": 1}'])
def test_a_wrong_run_json_is_input(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json is no run\.json"):
        RunFile.read(tmp_path / "run.json")
    with pytest.raises(InputError, match="cannot read"):
        RunFile.read(tmp_path / "none.json")


# The third argument names it as a process of a run, as `python -m symbiosis` does.
USER = "import os, sys; os.chdir(sys.argv[1]); print(1, flush=True); sys.stdin.read()"


def _start_user(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    user = subprocess.Popen(
        [sys.executable, "-c", USER, str(folder), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert user.stdout.readline() == "1\n"
    return user


def _run_guard(folder: Path, grace_s: float = 5.0) -> subprocess.Popen[bytes]:
    code = f"import sys; sys.argv = ['guard']; from symbiosis.guard import main; from pathlib import Path; " \
           f"main(Path({str(folder)!r}), temporary=True, grace_s={grace_s})"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)


def test_the_guard_removes_a_temporary_folder_and_keeps_another(tmp_path):
    for temporary in (True, False):
        folder = tmp_path / f"data-{temporary}"
        folder.mkdir()
        with guard.guarded(folder, temporary=temporary):
            assert folder.is_dir()
        assert folder.is_dir() is not temporary


def test_the_guard_waits_for_processes_of_the_run_and_outlives_signals(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    elder, keeper = _start_user(folder, "symbiosis"), _run_guard(folder)
    _await_ready(keeper)
    user = _start_user(folder, "symbiosis")
    assert guard.processes_using(folder) == [elder.pid, user.pid]       # both are younger than these tests
    keeper.stdin.close()
    os.kill(keeper.pid, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        keeper.wait(0.5)
    user.communicate("")
    keeper.wait(5)
    assert elder.poll() is None         # began before the guard: of another run
    elder.communicate("")
    assert not folder.exists()


def _await_ready(keeper) -> None:
    """Wait until the guard waits, 10 ms after which a process counts as younger (proc(5) counts in ticks)."""
    while not _ignores_sigterm(keeper.pid):
        pass
    time.sleep(0.02)


def _ignores_sigterm(pid: int) -> bool:
    ignored = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn"))
    return bool(int(ignored.split()[1], 16) & (1 << (signal.SIGTERM - 1)))


def test_the_guard_kills_what_does_not_go_and_leaves_strangers_alone(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    keeper = _run_guard(folder, grace_s=0.3)
    _await_ready(keeper)
    ours, stranger = _start_user(folder, "symbiosis"), _start_user(folder, "notebook")
    keeper.communicate()
    assert ours.wait(5) == -signal.SIGKILL
    assert stranger.poll() is None
    stranger.communicate("")
    ours.stdin.close()
    ours.stdout.close()
