"""Exit codes of every command: 2 where the input is wrong, 1 where the work fails; nothing of either on stdout."""

from __future__ import annotations

import argparse
import errno
import os
import re
import shlex
from pathlib import Path

import pytest

from symbiosis import cli

PARK = str(Path(__file__).parents[1] / "cases" / "parks" / "contract" / "park.yaml")
DONE, FAILED, WRONG = 0, 1, 2


def run(arguments, capsys):
    """Run a command; return its exit code and what it said on stdout and stderr."""
    try:
        code = cli.main(arguments)
    except SystemExit as ended:  # argparse says so of options
        code = ended.code
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch, tmp_path):
    for name in ("SYMBIOSIS_DSN", "SYMBIOSIS_BROKER", "SYMBIOSIS_GRAFANA_TOKEN", "SYMBIOSIS_READER_DSN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    with Path(os.devnull).open() as nothing:  # pytest's stand-in has no descriptor, which services look at
        monkeypatch.setattr("sys.stdin", nothing)
        yield


COMMANDS_WITH_A_PARK = ("check", "simulate", "collect", "process", "run")
WITH_DATA = (
    ["demo"], ["run", PARK], ["collect", PARK], ["process", PARK], ["db", "status"], ["db", "migrate"],
    ["db", "backup"], ["db", "sql", "select 1"], ["deadletters", "list"], ["deadletters", "replay", PARK],
)
WITH_A_DSN = tuple(command for command in WITH_DATA if command != ["demo"])


@pytest.mark.parametrize("command", WITH_DATA, ids=" ".join)
@pytest.mark.parametrize("below", [False, True])
def test_a_data_folder_that_cannot_be_one_is_input(command, below, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "data" if below else tmp_path / "file"
    code, out, err = run([*command, "--data", str(folder)], capsys)
    assert (code, out) == (WRONG, "")
    assert f"argument --data: '{tmp_path / 'file'}' is a file, not a folder" in err


@pytest.mark.parametrize("command", [
    ["db", "status"], ["db", "backup"], ["db", "sql", "select 1"], ["deadletters", "list"],
    ["deadletters", "replay", PARK],
], ids=" ".join)
def test_a_data_folder_without_a_database_is_input(command, tmp_path, capsys):
    code, out, err = run([*command, "--data", str(tmp_path / "none")], capsys)
    assert (code, out) == (WRONG, "")
    assert err.startswith(f"no database in {tmp_path / 'none'} (hint: ")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", WITH_A_DSN, ids=" ".join)
def test_a_connection_string_that_is_none_is_input_and_not_repeated(command, capsys):
    secret = "pass" + "word in words"     # pragma: allowlist secret
    code, out, err = run([*command, "--dsn", secret], capsys)
    assert (code, out) == (WRONG, "")
    assert "argument --dsn: is no connection string" in err
    assert secret not in err


@pytest.mark.parametrize("command", [
    ["db", "status"], ["db", "migrate"], ["db", "backup"], ["db", "sql", "select 1"], ["deadletters", "list"],
], ids=" ".join)
def test_a_database_that_is_away_is_work_that_fails(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run([*command, "--dsn", "host=127.0.0.1 port=1 dbname=park connect_timeout=2"], capsys)
    assert (code, out) == (FAILED, "")
    assert err.startswith("symbiosis: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS_WITH_A_PARK)
def test_a_park_that_is_not_there_is_input(command, tmp_path, capsys):
    code, out, err = run([command, str(tmp_path / "park.yaml")], capsys)
    assert (code, out) == (WRONG, "")
    assert "there is no file" in err


@pytest.mark.parametrize(("command", "said"), [
    (["replay", PARK, "none.csv", "--out", "out"], "there is no file 'none.csv'"),
    (["replay", PARK, ".", "--out", "out"], "'.' is no file"),
    (["replay", PARK, "file", "--out", "file"], "argument --out: 'file' is a file, not a folder"),
    (["replay", PARK, "file", "--out", "out", "--window", "long"], "argument --window: must be a number, got 'long'"),
    (["simulate", PARK, "--out", "file"], "argument --out: 'file' is a file, not a folder"),
    (["dashboards", "build", PARK, "--out", "file"], "argument --out: 'file' is a file, not a folder"),
    (["dashboards", "deploy", PARK, "--url", "http://127.0.0.1:1"], "token: there is none"),
    (["dashboards", "deploy", PARK, "--url", "nonsense", "--token", "t"], "url: must be like"),
    (["db", "sql", "select 1", "--timeout", "0"], "argument --timeout: must be above 0, got 0"),
    (["db"], "arguments are required: ACTION"),
    (["discover", "plant"], "URL must begin with opc.tcp://"),
    (["collect", PARK, "--run", "none.json"], "cannot read none.json"),
    (["process", PARK, "--run", "none.json"], "cannot read none.json"),
    (["simulate", PARK, "--scenario", "none.yaml"], "cannot read the scenario"),
], ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "")
def test_wrong_input_is_said_and_nothing_is_left_behind(command, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    code, out, err = run(command, capsys)
    assert (code, out) == (WRONG, "")
    assert said in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("url", ["opc.tcp://127.0.0.1:1", "mqtt://127.0.0.1:1"])
def test_a_plant_that_is_away_is_work_that_fails(url, capsys):
    code, out, err = run(["discover", url], capsys)
    assert (code, out) == (FAILED, "")
    assert url in err


def test_what_the_operating_system_refuses_is_a_message(capsys):
    def work() -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/run.json")

    assert cli._guarded(work) == FAILED
    assert capsys.readouterr().err == "symbiosis: /data/run.json: No space left on device\n"


def test_what_is_printed_into_a_pipe_has_no_colours(capsys):
    code, out, _ = run(["check", PARK], capsys)
    assert code == DONE
    assert out
    assert "\x1b" not in out


def leaves(parser, words=()):
    """Yield (words, parser) of every command that does something."""
    deeper = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in deeper:
        for name, command in action.choices.items():
            yield from leaves(command, (*words, name))
    if not deeper:
        yield words, parser


@pytest.mark.parametrize("words", [words for words, _ in leaves(cli.build_parser())], ids=" ".join)
def test_every_action_has_help_with_an_example_that_it_takes(words, capsys):
    code, out, err = run([*words, "--help"], capsys)
    assert (code, err) == (DONE, "")
    told = " ".join(out.partition("\nexample")[2].split())  # argparse breaks long lines
    examples = re.findall(r"symbiosis (.*)", told.replace(" symbiosis", "\nsymbiosis"))
    assert examples
    for example in examples:
        parsed = cli.build_parser().parse_args(shlex.split(example.partition(" > ")[0]))
        assert parsed.command == words[0]
