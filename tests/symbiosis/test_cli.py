"""The command line: help, exit codes, and what goes where."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from park.errors import InputError, OperationError
from symbiosis import cli

PARSER = cli.build_parser()
COMMANDS = next(a for a in PARSER._actions if isinstance(a, argparse._SubParsersAction)).choices


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_with_an_example_that_it_takes(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    examples = re.findall(r"symbiosis (.*)", shown.out.partition("\nexample")[2])
    assert examples
    for example in examples:
        assert PARSER.parse_args(shlex.split(example.partition(" > ")[0])).command == command


def test_without_a_command_the_help_goes_to_stderr(capsys):
    assert cli.main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "demo" in shown.err


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("symbiosis 0.")


@pytest.mark.parametrize(("arguments", "message"), [
    (["demo", "--speed", "0.5"], "must be at least 1, got 0.5"),
    (["demo", "--speed", "fast"], "must be a number, got 'fast'"),
    (["demo", "--duration", "0"], "must be above 0, got 0"),
    (["demo", "--duration", "nan"], "must be above 0, got nan"),
    (["demo", "--start", "yesterday"], "must be a time such as"),
    (["demo", "--start", "2026-01-01T00:00:00"], "needs its offset from UTC, such as 2026-01-01T00:00:00Z"),
    (["demo", "--start", "2026-01-01"], "needs its offset from UTC, such as 2026-01-01T00:00:00Z"),
    (["dance"], "invalid choice"),
])
def test_a_wrong_option_is_input(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code", "text"), [
    (InputError("park.yaml:1: wrong"), 2, "park.yaml:1: wrong\n"),
    (OperationError("the database is away"), 1, "symbiosis: the database is away\n"),
    (KeyboardInterrupt(), 130, ""),
])
def test_errors_become_exit_codes_and_messages_on_stderr(error, code, text, capsys):
    def work() -> int:
        raise error

    assert cli._guarded(work) == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", text)


def test_a_reader_who_has_enough_is_no_failure():
    code = "import sys; from symbiosis import cli; sys.exit(cli._guarded(lambda: print('x' * 9**7) or 0))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        writer.stdout.close()
        assert writer.stderr.read() == b""
        assert writer.wait() == 0


def test_a_report_that_cannot_be_written_is_said_before_anything_starts(tmp_path, monkeypatch, capsys):
    assert cli.main(["demo", "--report", str(tmp_path / "none" / "r.json"), "--data", str(tmp_path / "d")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert cli.main(["demo", "--report", str(tmp_path), "--data", str(tmp_path / "d")]) == 2
    assert "it is a folder (hint: name a file in it)" in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert cli.main(["demo", "--report", str(tmp_path / "r.json"), "--data", str(tmp_path / "d")]) == 2
    assert "is not yours to write" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_a_kill_before_a_command_has_its_own_answer_is_an_interrupt():
    code = "import os, signal, sys; from symbiosis import cli; " \
           "sys.exit(cli._guarded(lambda: os.kill(os.getpid(), signal.SIGTERM)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_park_that_is_wrong_is_input(tmp_path, capsys):
    (tmp_path / "park.yaml").write_text("park: {name: P, timezone: Nowhere}\n")
    for command in ("run", "check"):
        assert cli.main([command, str(tmp_path / "park.yaml")]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "park.yaml:1" in shown.err
    done = subprocess.run(
        [sys.executable, "-m", "symbiosis", "collect", str(tmp_path / "park.yaml")], capture_output=True, text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("park.yaml:1")


def test_a_malformed_broker_is_said_before_anything_starts(tmp_path, capsys):
    park = Path(__file__).parents[1] / "cases" / "parks" / "contract" / "park.yaml"
    data = tmp_path / "data"
    assert cli.main(["run", str(park), "--broker", "http://plant", "--data", str(data)]) == 2
    assert "broker 'http://plant' must be mqtt://host:port" in capsys.readouterr().err
    assert not data.exists()


def test_help_imports_nothing_heavy():
    heavy = ("numpy", "pandas", "psycopg", "asyncua", "numba", "rich", "pydantic", "asyncio")
    code = "import sys; from symbiosis import cli; cli.build_parser(); " \
           f"print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_kernels_are_cached_where_the_user_may_write(monkeypatch, tmp_path):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cli.prepare_numerics()
    assert "NUMBA_CACHE_DIR" not in os.environ                  # the package can be written to
    monkeypatch.setattr(os, "access", lambda *_: False)
    cli.prepare_numerics()
    assert os.environ.pop("NUMBA_CACHE_DIR") == str(tmp_path / "symbiosis" / "numba")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cli.prepare_numerics()
    assert Path(os.environ.pop("NUMBA_CACHE_DIR")).name.startswith("symbiosis-numba-")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_service_by_hand_finishes_its_work_when_told_to_stop(number, code):
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE, "by hand"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as service:
        assert "stand-in: began n=1" in service.stderr.readline()
        service.send_signal(number)
        assert service.wait(10) == code
        assert service.stdout.read() == "finished\n"


def test_a_supervised_service_takes_orders_and_ends_with_its_supervisor():
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE, "supervised"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdout.readline() == '{"state": "loaded"}\n'
        service.stdin.write("start\n")
        service.stdin.flush()
        assert service.stdout.readline() == '{"state": "began", "n": 1}\n'
        service.stdin.close()               # the supervisor is dead
        assert service.wait(10) == 1
        assert service.stdout.read() == ""


SERVICE = """
import sys
from symbiosis.service import run_service
def load():
    def body(orders, say):
        say("began", {"n": 1})
        say("began", {"n": 2}) if sys.argv[1] == "by hand" else None
        orders.event("stop").wait()
        print("finished")
    return body
sys.exit(run_service("stand-in", load, supervised=sys.argv[1] == "supervised"))
"""
