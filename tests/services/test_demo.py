"""The demonstration for real: everything that was sent is stored, and nothing is left behind, however it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fixtures.pace import at_this_load

GONE_WITHIN_S = 10.0        # the contract of Ctrl-C, SIGTERM and kill -9
STARTED_WITHIN_S = 120.0


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run a demo whose temporary files lie in `folder`."""
    folder.mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "symbiosis", "demo", "--headless", *options], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], text: str) -> list[str]:
    """Read what a demo tells until a line holds `text`."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


def family(pid: int) -> set[int]:
    """Return the process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, more = {pid}, {pid}
    while more:
        more = {child for child, parent in parents.items() if parent in more} - found
        found |= more
    return found


def seconds_until_gone(pids: set[int]) -> float:
    """Return how long it takes until all processes are gone."""
    began = time.monotonic()
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        select.select([handle], [], [], 30)
        os.close(handle)
    return time.monotonic() - began


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("symbiosis"))


def test_a_short_demo_loses_nothing_and_leaves_nothing(tmp_path):
    options = ["--duration", "15", "--speed", "20", "--report", "r.json", "--start", "2026-01-05T06:00:00Z"]
    with demo(tmp_path / "tmp", *options) as process:
        lines = wait_for(process, "subscriptions: ")
        pids = family(process.pid)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, "".join(lines) + err
    assert out == ""
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert left_in(tmp_path / "tmp") == []
    report = json.loads((tmp_path / "tmp" / "r.json").read_text("utf-8"))
    assert (report["participants"], report["exchanges"] > 30) == (12, True)
    assert [report[f"values_{name}"] for name in ("lost", "unsent", "altered", "conflict")] == [0, 0, 0, 0]
    assert report["values_published"] == report["values_stored"] > 3000
    assert report["values_published"] == pytest.approx(report["values_expected"], rel=0.01)
    assert report["windows_reconciled"] >= 8
    assert report["max_relative_imbalance"] < 1e-9
    assert report["error_reconciled"] < report["error_best_meter"]


def test_a_data_folder_outlives_every_end_of_its_runs(tmp_path):
    folder, data = tmp_path / "tmp", str(tmp_path / "data")
    with demo(folder, "--speed", "10", "--data", data) as process:
        wait_for(process, "subscriptions: ")
        with demo(folder, "--speed", "10", "--data", data) as second:
            _, err = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"data folder {data} is in use by process {process.pid}" in err
        pids = family(process.pid)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert time.monotonic() - began < at_this_load(GONE_WITHIN_S)
        assert seconds_until_gone(pids) < at_this_load(0.1)
    with demo(folder, "--speed", "10", "--data", data) as process:
        wait_for(process, "subscriptions: ")
        pids = family(process.pid)
        process.kill()
        assert seconds_until_gone(pids) < at_this_load(GONE_WITHIN_S)
    with demo(folder, "--speed", "10", "--data", data, "--duration", "5", "--report", "r.json") as process:
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert left_in(folder) == []
