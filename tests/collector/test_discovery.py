"""Names of units, ids of rows, paths of numbers."""

from __future__ import annotations

import csv
import io

import pytest

from collector.discovery import Found, Offer, as_csv, left_open, quantity_of, unit_named
from collector.mqtt.listen import Beside, numbers, path_text
from collector.mqtt.paths import compile_path
from collector.opcua.engineering_units import _UNIT_OF_CODE, unit_of_code
from collector.times import micros
from park.units import UNITS
from simulators.engineering_units import COMMON_CODE, unit_id
from tests.collector.running import at

NOW_US = micros(at(0))


@pytest.mark.parametrize(("name", "unit"), [
    ("t/h", "t/h"), (" m³/h ", "m3/h"), ("°C", "degC"), ("µS/cm", "uS/cm"), ("bar(g)", "barg"), ("kg / h", "kg/h"),
    ("furlong", ""), ("", "")])
def test_a_units_name_means_a_unit_of_the_contract(name, unit):
    assert unit_named(name) == unit


def test_codes_of_units_are_those_that_others_write():
    assert set(_UNIT_OF_CODE.values()) <= set(UNITS)
    for unit in COMMON_CODE:
        if unit != "bara":
            assert unit_of_code(unit_id(unit)) == unit
    assert unit_of_code(-1) == unit_of_code(0) == unit_of_code(2**31 - 1) == ""


@pytest.mark.parametrize(("unit", "quantity"), [
    ("kg/s", "mass_flow"), ("Nm3/h", "volume_flow"), ("degC", "temperature"), ("barg", "pressure"),
    ("kW", ""), ("t", ""), ("%", ""), ("", "")])
def test_a_quantity_follows_only_from_a_unit_that_has_one(unit, quantity):
    assert quantity_of(unit) == quantity


def test_ids_are_as_short_as_they_can_be_told_apart():
    paths = [("a", "FT1"), ("b", "FT1"), ("b", "TT\n1"), ("c", "X"), ("c", "X"), ("", "")]
    offer = Offer([Found([path[-1], ".".join(path)], {"k": "v"}) for path in paths])
    ids = [row["id"] for row in csv.DictReader(io.StringIO(as_csv(offer, ["k"])))]
    assert ids == ["a.FT1", "b.FT1", "TT_1", "c.X", "c.X.2", "."]


def test_what_is_open_is_said_and_nothing_of_nothing():
    assert left_open(Offer()) == []
    said = "\n".join(left_open(Offer([Found(["P1"], {}, "bar"), Found(["E1"], {}, "kW")])))
    assert "bar is absolute" in said
    assert "quantity is not known of 1 of 2, E1 for one" in said
    assert "unit is not known" not in said


@pytest.mark.parametrize("steps", [(), ("a",), ("a", 0, "b c"), ("it's", 'say "x"', "\\", "é", "\n", "$")])
def test_a_path_is_read_as_it_was_written(steps):
    assert compile_path(path_text(steps)) == steps


@pytest.mark.parametrize(("status", "found"), [
    (0, True), (0x40930000, True), (192, False), ("Good", True), ("fine", False), (None, False)])
def test_a_status_is_proposed_only_where_it_means_what_the_collector_takes_it_for(status, found):
    [(_, beside)] = numbers({"v": 1.0, "status": status}, NOW_US)
    assert (beside.status == ("status",)) == found


def test_a_time_that_cannot_be_is_neither_a_time_nor_a_number():
    assert list(numbers({"v": 1, "t": 20.5}, NOW_US)) == [(("v",), Beside())]
    assert list(numbers({"v": 1, "quality": 0}, NOW_US)) == [(("v",), Beside())]
    assert list(numbers(float("nan"), NOW_US)) == list(numbers("1", NOW_US)) == list(numbers(True, NOW_US)) == []
