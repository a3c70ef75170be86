"""Broken parks and their messages: tests/cases/park_faults/<fault>/{park.yaml[, meters.csv], error.txt}."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from park.checks import CHECKS
from park.errors import ParkError
from park.load import load_park, read_draft

CASES = Path(__file__).parents[1] / "cases"
BROKEN = sorted((CASES / "park_faults").iterdir())
GOOD = sorted((CASES / "parks").iterdir())


@pytest.mark.parametrize("folder", BROKEN, ids=lambda folder: folder.name)
def test_a_broken_park_says_what_is_wrong_where_and_how_to_mend_it(folder):
    with pytest.raises(ParkError) as raised:
        load_park(folder / "park.yaml")
    assert str(raised.value).replace(f"{folder}/", "") + "\n" == (folder / "error.txt").read_text()


@pytest.mark.parametrize("folder", BROKEN, ids=lambda folder: folder.name)
def test_every_message_has_the_form_of_the_contract(folder):
    for line in (folder / "error.txt").read_text().splitlines():
        assert re.match(r"(park\.yaml|meters\.csv):[1-9]\d*: \S", line), line
        clause = line.split(": ", 1)[1].removesuffix(")")
        assert not clause.endswith("."), line
        assert "Input should" not in line
        assert "pydantic" not in line.lower()


def test_there_are_cases_enough():
    assert len(BROKEN) >= 30


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_check_fires_on_a_broken_park(check):
    assert any(list(check(draft)) for draft in drafts(BROKEN))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_no_check_fires_on_a_good_park(check):
    for draft in drafts(GOOD):
        assert list(check(draft)) == []


@pytest.mark.parametrize("folder", GOOD, ids=lambda folder: folder.name)
def test_a_good_park_loads(folder):
    park = load_park(folder / "park.yaml")
    assert park.meters
    assert all(meter.side is not None or meter.node is not None for meter in park.meters)


_DRAFTS = {}


def drafts(folders):
    for folder in folders:
        if folder not in _DRAFTS:
            _DRAFTS[folder] = read_draft(folder / "park.yaml")
        yield _DRAFTS[folder]
