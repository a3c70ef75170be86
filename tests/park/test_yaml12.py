"""YAML 1.2: the core schema, positions, and what is refused."""

from __future__ import annotations

import math

import pytest

from park.yaml12 import parse, scalar

# YAML 1.2.2, section 10.3.2, and what YAML 1.1 would have made of the same
SCALARS = [
    ("22:00", "22:00"), ("1e3", 1000.0), ("no", "no"), ("on", "on"), ("yes", "yes"), ("off", "off"), ("y", "y"),
    ("0o17", 15), ("017", 17), ("0x1F", 31), ("1_000", "1_000"), ("0b1", "0b1"), ("2026-01-01", "2026-01-01"),
    (".5", 0.5), ("5.", 5.0), ("+1", 1), ("-1.5e-3", -0.0015), ("1e", "1e"), ("-", "-"), ("=", "="),
    ("~", None), ("null", None), ("NULL", None), ("", None), ("nULL", "nULL"),
    ("true", True), ("False", False), ("TRUE", True), ("tRUE", "tRUE"), (".inf", math.inf), ("-.Inf", -math.inf),
    ("190:20:30", "190:20:30"), ("1.0e+8", 1e8), ("12e03", 12000.0), ("0.", 0.0), ("\uff11\uff12", "\uff11\uff12"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_plain_scalars_follow_the_core_schema(text, value):
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_one():
    assert math.isnan(scalar(".nan"))


def test_numbers_beyond_doubles_are_infinite_and_no_crash():
    assert scalar("9" * 5000) == math.inf


def test_quoted_scalars_are_texts():
    assert parse("a: '1'\nb: \"no\"\nc: |\n  1\n", "f").data == {"a": "1", "b": "no", "c": "1\n"}


def test_explicit_tags_of_the_schema():
    document = parse("a: !!str 1\nb: !!float 1", "f")
    assert document.data == {"a": "1", "b": 1.0}
    assert document.faults == []


def test_anchors_are_shared():
    document = parse("a: &x {k: 1}\nb: *x\n", "f")
    assert document.data == {"a": {"k": 1}, "b": {"k": 1}}
    assert document.faults == []


def test_a_version_directive_is_well():
    assert parse("%YAML 1.2\n---\na: no\n", "f").data == {"a": "no"}


def test_lines_of_values():
    text = "a:\n  - {b: 1}\n  - b: 2\n    c:\n      - 3\n      - 4\nd: 5\n"
    document = parse(text, "f")
    paths = {("a",): 1, ("a", 0): 2, ("a", 0, "b"): 2, ("a", 1): 3, ("a", 1, "c"): 4, ("a", 1, "c", 1): 6, ("d",): 7}
    assert {path: document.line(path) for path in paths} == paths


def test_the_line_of_what_is_not_there_is_that_of_what_holds_it():
    document = parse("a:\n  - b: 1\n", "f")
    assert document.line(["a", 0, "missing", "deeper"]) == 2
    assert document.line(["a", 7]) == 1
    assert document.line(["nothing"]) == 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "key 'a' is there twice"),
        ("x: {b: 1, b: 2}\n", 1, "key 'b' is there twice"),
        ("1: a\n", 1, "key 1 must be text"),
        ("? [a, b]\n: c\n", 1, "must be text"),
        ("a: &x [*x]\n", 1, "an alias stands inside what it names"),
        ("a: !!int x\n", 1, "does not fit 'x'"),
        ("a: !mine 1\n", 1, "tag '!mine' is unknown"),
        ("a: !mine {b: 1}\n", 1, "tag '!mine' is unknown"),
        ("a: [1\nb: 2\n", 1, "not YAML"),
        ("a: 'x\n\nb: 1\n", 1, "quotation mark"),
        ("a:\n\t- b\n", 2, "spaces, not tabs"),
        ("a: 1\n---\nb: 1\n", 2, "one document"),
        ("a: *nothing\n", 1, "undefined alias"),
        ("a: b: c\n", 1, "mapping values"),
        ("a: 1\nb: \x07\n", 2, "control characters"),
        ("a: " + "[" * 200 + "]" * 200, 1, "levels"),
        ("a: " + "[" * 200_000, 1, "levels"),
        ("- " * 200_000 + "a", 1, "levels"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text, line, words):
    faults = parse(text, "f.yaml").faults
    assert faults
    assert faults[0].file == "f.yaml"
    assert faults[0].line == line
    assert words in str(faults[0])


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null"])
def test_empty_documents(text):
    document = parse(text, "f")
    assert document.data is None
    assert document.faults == []


def test_duplicates_keep_the_first():
    assert parse("a: 1\na: 2\n", "f").data == {"a": 1}
