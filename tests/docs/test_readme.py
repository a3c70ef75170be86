"""What the documents say is so: links lead somewhere, commands exist, named functions stand where they are said to."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from symbiosis import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("**/*.md"))]
PARSER = cli.build_parser()
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _named(pattern: str, documents=DOCUMENTS):
    return [
        pytest.param(document, found, id=f"{document.name}:{found}")
        for document in documents
        for found in dict.fromkeys(re.findall(pattern, document.read_text("utf-8")))
    ]


@pytest.mark.parametrize(("document", "link"), _named(r"\]\(([^)#]+)[^)]*\)"))
def test_links_lead_somewhere(document, link):
    if not link.startswith("http"):
        assert (document.parent / link).exists()


@pytest.mark.parametrize(("document", "place"), _named(r"`([\w/]+\.py(?::[\w.]+)?)`"))
def test_a_named_function_stands_where_it_is_said_to(document, place):
    path, _, name = place.partition(":")
    body = ast.parse((ROOT / path).read_text("utf-8")).body
    for part in name.split(".") if name else []:
        found = [n for n in body if isinstance(n, DEFINITIONS) and n.name == part]
        assert found, f"{path} has no {name}"
        body = found[0].body


def _commands():
    for document in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", document.read_text("utf-8"), re.DOTALL):
            for line in block.splitlines():
                if line.split("#")[0].strip():
                    yield pytest.param(line.split("#")[0].strip(), id=line.strip())


@pytest.mark.parametrize("line", list(_commands()))
def test_a_command_in_a_document_is_one_that_there_is(line):
    program, *words = shlex.split(line)
    if program == "symbiosis":
        PARSER.parse_args(words)
        return
    assert program == "make"
    subprocess.run(["make", "-n", *words], cwd=ROOT, check=True, capture_output=True)
    target, *settings = words
    for setting in settings:
        PARSER.parse_args([target, *shlex.split(setting.removeprefix("ARGS="))])


def test_every_option_of_every_command_is_documented():
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    commands = next(a for a in PARSER._actions if hasattr(a, "choices") and a.choices).choices
    for name, command in commands.items():
        assert f"symbiosis {name}" in text
        for action in command._actions:
            for option in action.option_strings:
                if option.startswith("--") and option != "--help" and action.help != "==SUPPRESS==":
                    assert option in text, f"{name} {option}"


def test_every_environment_variable_that_is_read_is_documented():
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    packages = ("park", "collector", "processing", "simulators", "dashboards", "symbiosis")
    code = "\n".join(path.read_text("utf-8") for package in packages for path in (ROOT / package).rglob("*.py"))
    for name in set(re.findall(r"\"(SYMBIOSIS_[A-Z_]+|XDG_[A-Z_]+|NUMBA_CACHE_DIR)\"", code)):
        assert name in text, name


def test_constraints_are_names_and_versions_alone():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][0-9a-z.]*", line), line


def test_the_version_is_told_in_the_changes():
    import tomllib

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
