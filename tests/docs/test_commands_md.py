"""docs/commands.md beside the argument parser: every command with every option, and no option that there is not."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from symbiosis import check_text, cli
from symbiosis.check import findings
from tests.processing.small_parks import HEATED, NOW, park_of

TEXT = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
PARSER = cli.build_parser()


def actions_of(parser, name):
    """Yield (command line, its parser) of every command that does something."""
    subparsers = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in subparsers:
        for word, command in action.choices.items():
            yield from actions_of(command, f"{name} {word}")
    if not subparsers:
        yield name, parser


COMMANDS = dict(actions_of(PARSER, "symbiosis"))


def sections():
    """Return the text of each section by the commands that its heading names."""
    found = {}
    for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        for line in re.findall(r"`(symbiosis [^`]*)`", heading):
            command, _, actions = line.removeprefix("symbiosis ").partition(" ")
            for action in actions.split(" ")[0].split("|") if "|" in actions else [""]:
                found[f"symbiosis {command} {action}".strip()] = (line, body)
    return found


SECTIONS = sections()


def test_every_command_has_a_section_and_every_section_a_command():
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_and_argument_stands_in_the_section_of_its_command(command):
    heading, body = SECTIONS[command]
    for action in COMMANDS[command]._actions:
        if action.help == argparse.SUPPRESS or action.dest == "help":
            continue
        wanted = action.option_strings[-1] if action.option_strings else str(action.metavar)
        if action.option_strings and action.nargs != 0:
            wanted += f" {action.metavar}"
        assert wanted in heading + body, wanted


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_no_section_names_an_option_that_its_commands_have_not(command):
    body = SECTIONS[command][1]
    together = [other for other, (_, text) in SECTIONS.items() if text == body]
    known = {option for other in together for a in COMMANDS[other]._actions for option in a.option_strings}
    assert set(re.findall(r"`(--[a-z-]+)", body)) <= known


def test_every_exit_code_is_told():
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, flags=re.MULTILINE)}
    assert codes == {cli.DONE, cli.FAILED, cli.WRONG_INPUT, cli.INTERRUPTED}


def test_every_key_of_the_json_of_check_is_told(tmp_path):
    body = SECTIONS["symbiosis check"][1]
    found = findings(park_of(tmp_path, HEATED), NOW)
    inside = [found["detection"], found["streams"][0], found["meters"][0], found["extra_meters"][0]]
    for key in {*found, *(key for entry in inside for key in entry)}:
        assert f"`{key}`" in body, key


def test_every_column_of_the_meters_of_check_is_told(tmp_path):
    shown = list(check_text.as_text(findings(park_of(tmp_path, HEATED), NOW)))
    head = next(line for line in shown if line.startswith("meter "))
    for column in re.split(r"  +", head):
        assert f"`{column}`" in SECTIONS["symbiosis check"][1] or column in ("meter", "unit")
