"""Scenario files: read, held against their park, and refused with file, line and mend."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from park.errors import ParkError
from park.model import ENVIRONMENT, Park
from simulators.scenario import Fault, PropertySubject, Scenario
from simulators.scenario_file import load_scenario
from tests.simulators.networks import level, meter, node, nominal, park_of, stream

PARK = park_of(
    [node("a", "mass"), node("tank", "mass")],
    [stream("S1", ENVIRONMENT, "a", **nominal(10)), stream("S2", "a", "tank"), stream("S3", "tank", ENVIRONMENT),
     stream("Q1", ENVIRONMENT, "a", "heat")],
    [meter("p.FT1", "mass_flow", "t/h", stream="S1", side="receiver"),
     meter("p.AT1", "quality.solids", "%", stream="S1", side="receiver"), level("tank")])


def read(tmp_path: Path, text: str, park: Park = PARK) -> Scenario:
    path = tmp_path / "scenario.yaml"
    path.write_text(text, encoding="utf-8")
    return load_scenario(path, park)


def refused(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ParkError) as error:
        read(tmp_path, text)
    return [str(fault).removeprefix(f"{tmp_path}/") for fault in error.value.faults]


def test_without_a_file_the_defaults_play() -> None:
    assert load_scenario(None, PARK) == Scenario()


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing\n") == Scenario()


def test_a_whole_scenario(tmp_path: Path) -> None:
    scenario = read(tmp_path, """
profiles: {office: {days: [1, 1, 1, 1, 1, 0.5, 0.5]}}
tanks: {tank: {capacity_t: 50, start_percent: 40}}
streams:
  S1:
    profile: office
    temperature: {value: 40, unit: degC, wander: {std: 0.5, period_s: 900}}
    properties: {solids: {value: 3, unit: "%"}}
resolution: {p.FT1: 0.01}
faults:
  - {id: F1, kind: bias, subject: p.FT1, size_percent: 8, after_s: 60, duration_s: 300}
  - {id: F2, kind: quality_excursion, subject: {stream: S1, property: solids}, size: {value: 2, unit: "%"},
     after_s: 60, duration_s: 300}
""")
    assert scenario.streams["S1"].profile == "office"
    assert scenario.faults[1].subject == PropertySubject(stream="S1", property="solids")


@pytest.mark.parametrize(("text", "expected"), [
    ("streams: {S9: {}}", "scenario.yaml:1: stream 'S9': no stream 'S9'"),
    ("streams:\n  S1: {profile: x}", "scenario.yaml:2: stream 'S1': no profile 'x'"),
    ("streams:\n  Q1:\n    temperature: {value: 3, unit: degC}",
     "scenario.yaml:3: stream 'Q1': heat has no temperature"),
    ("streams: {S1: {temperature: {value: 3, unit: bar}}}", "bar measures pressure, not temperature"),
    ("streams: {S1: {temperature: {value: 3, unit: blub}}}", "unit 'blub' is unknown"),
    ('streams: {S1: {pressure_drop: {value: 3, unit: "%"}}}', "% measures ratio, not pressure"),
    ("streams: {S1: {properties: {solids: {value: 3, unit: NTU}}}}", "NTU cannot be compared with %"),
    ("tanks: {a: {capacity_t: 1}}", "no tank (a node whose inventory is metered) 'a' (hint: there is tank)"),
    ("tanks: {tank: {capacity_t: 0}}", "capacity_t must be positive, got 0"),
    ("wander_percent: '3'", "wander_percent must be a number, got '3' (hint: take the quotes away)"),
    ("wander_prcent: 3", "unknown key 'wander_prcent' (hint: did you mean 'wander_percent'?)"),
    ("wander_percent: 1\nwander_percent: 2", "scenario.yaml:2: key 'wander_percent' is there twice"),
    ("resolution: {p.FT9: 1}", "no meter 'p.FT9' (hint: did you mean 'p.FT1'?)"),
    ("profiles: {x: {hours: [1, 2]}}", "profile 'x': hours takes 24 numbers, got 2"),
    ("profiles: {x: {days: [1, 1, 1, 1, 1, 1, -1]}}", "days must not be negative"),
    ("[1, 2]", "must be a mapping"),
])
def test_a_wrong_scenario_is_refused_with_line_and_mend(tmp_path: Path, text: str, expected: str) -> None:
    assert any(expected in line for line in refused(tmp_path, text)), refused(tmp_path, text)


FAULT = "faults:\n  - {{id: F1, after_s: 0, duration_s: 10, {}}}"


@pytest.mark.parametrize(("keys", "expected"), [
    ("kind: bais, subject: p.FT1", "fault 'F1': unknown kind 'bais': one of bias, dropout, stuck, quality_excursion"),
    ("kind: bias, subject: p.FT1", "a bias takes exactly one of size_percent and size"),
    ("kind: stuck, subject: p.FT1, size_percent: 3", "a stuck takes no size"),
    ("kind: stuck", "exactly one of subject and subjects is needed"),
    ("kind: stuck, subject: {stream: S1, property: solids}", "the subject of a stuck is a meter's id"),
    ("kind: quality_excursion, size_percent: 3, subject: p.AT1", "is {stream: ..., property: ...}, got 'p.AT1'"),
    ("kind: stuck, subject: p.FT2", "scenario.yaml:2: fault 'F1': no meter 'p.FT2' (hint: did you mean 'p.FT1'?)"),
    ("kind: bias, subject: p.FT1, size: {value: 3, unit: degC}", "degC measures temperature, not mass_flow"),
    ("kind: bias, subject: p.AT1, size: {value: 3, unit: NTU}", "NTU cannot be compared with the meter's %"),
    ("kind: quality_excursion, size_percent: 3, subject: {stream: S1, property: taste}",
     "no property of stream 'S1' called 'taste'"),
    ("kind: quality_excursion, size_percent: 3, subject: {stream: S9, property: solids}", "no stream 'S9'"),
    ("kind: stuck, subject: p.FT1, every_s: 5", "every_s 5 must be longer than duration_s 10"),
])
def test_a_wrong_fault_is_refused_by_its_id(tmp_path: Path, keys: str, expected: str) -> None:
    found = refused(tmp_path, FAULT.format(keys))
    assert any(expected in line for line in found), found


def test_two_faults_of_one_id_are_refused(tmp_path: Path) -> None:
    one = "  - {id: F1, kind: stuck, subject: p.FT1, after_s: 0, duration_s: 10}\n"
    assert "scenario.yaml:3: fault 'F1': id 'F1' is there twice" in refused(tmp_path, "faults:\n" + one + one)[0]


def test_all_faults_come_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    found = refused(tmp_path, "streams:\n  S9: {}\n  S8: {}\ntanks: {a: {capacity_t: 1}}\n")
    assert [line.split(":")[1] for line in found] == ["2", "3", "4"]


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ParkError, match="cannot read the scenario: no such file"):
        load_scenario(tmp_path / "none.yaml", PARK)


def test_a_file_that_is_no_text_is_said(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParkError, match="not UTF-8"):
        load_scenario(path, PARK)


def test_a_fault_strikes_once_or_again_and_again_elsewhere() -> None:
    once = Fault(id="F", kind="stuck", subject="m", after_s=60.0, duration_s=30.0)
    assert [(o.id, o.starts_s, o.ends_s) for o in once.occurrences()] == [("F", 60.0, 90.0)]
    again = Fault(id="F", kind="bias", subjects=("m", "n"), size_percent=5.0,
                  after_s=60.0, duration_s=30.0, every_s=100.0)
    found = list(islice(again.occurrences(), 3))
    assert [(o.id, o.subject) for o in found] == [("F", "m"), ("F.2", "n"), ("F.3", "m")]
    assert [o.starts_s for o in found] == [60.0, 160.0, 260.0]
    assert (found[0].size, found[0].relative) == (0.05, True)
