"""A gap goes when all that is missing of it is filled in, and only then."""

from __future__ import annotations

import pytest

from collector.batches import Chunk, Interruption, Rows
from collector.coverage import Coverage
from collector.register import register_of
from collector.times import MICROS
from tests.collector.running import opcua, park_of

SOURCE = "opcua:opc.tcp://h"


class Case:
    """Two periodic meters (every second) and one on change of one server, and the holes that somebody is told of."""

    def __init__(self):
        url = SOURCE.removeprefix("opcua:")
        park = park_of(opcua(url, "A", interval_s=1), opcua(url, "B", interval_s=1),
                       opcua(url, "C", interval_s=1, sampling="on_change"))
        self.coverage = Coverage(register_of(park))
        self.holes = []
        self.coverage.holes.on_hole = self.holes.append

    def heard(self, place, *seconds):
        rows = Rows()
        for second in seconds:
            rows.add(place, second * MICROS, second * MICROS, 1.0, 0)
        self.coverage.advance(Chunk(SOURCE, rows))

    def cut(self, kept=False):
        self.coverage.advance(Chunk(SOURCE, interruption=Interruption("cut", kept)))

    def stored(self):
        """The gaps that the store has now, as it is told of changes."""
        changes = self.coverage.changes()
        self.coverage.stored(changes)
        return [(gap.started_us // MICROS, gap.ended_us and gap.ended_us // MICROS, gap.withdrawn) for gap in changes]


@pytest.fixture
def case():
    case = Case()
    for place in (0, 1, 2):
        case.heard(place, 0, 1)
    case.cut()
    return case


def test_each_hole_is_told_once_with_what_lies_at_its_ends(case):
    case.heard(0, 10, 11)
    case.heard(2, 12)
    told = [(hole.place, hole.started_us // MICROS, hole.ended_us // MICROS, hole.skipped_us) for hole in case.holes]
    assert told == [(0, 1, 10, 1.5 * MICROS), (2, 1, 12, None)]


def test_a_gap_goes_with_its_last_hole(case):
    case.heard(0, 10)
    case.heard(1, 10)
    assert case.stored() == [(1, 10, False)]
    case.coverage.filled(case.holes[0], True)
    assert case.stored() == []
    case.coverage.filled(case.holes[1], True)
    assert case.stored() == [(1, 10, True)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_gap_of_which_one_hole_is_not_filled_stays(case, order):
    case.heard(0, 10)
    case.heard(1, 10)
    case.stored()
    for place in order:
        case.coverage.filled(case.holes[place], place == 1)
    assert case.stored() == []


def test_a_hole_that_comes_after_one_that_nobody_can_fill_does_not_take_the_gap_away(case):
    case.heard(0, 10)
    case.coverage.filled(case.holes[0], False)
    case.heard(1, 12)
    case.stored()
    case.coverage.filled(case.holes[1], True)
    assert case.stored() == []


def test_a_gap_stays_while_another_meter_owes_readings(case):
    case.coverage.tick(20 * MICROS)
    case.heard(0, 20)
    case.stored()
    case.coverage.filled(case.holes[0], True)
    assert case.stored() == []
    case.heard(1, 21)
    case.coverage.filled(case.holes[1], True)
    assert case.stored()[-1] == (1, 21, True)


def test_what_comes_after_a_gap_that_went_makes_one_of_its_own(case):
    case.heard(0, 10)
    case.coverage.filled(case.holes[0], True)
    assert case.stored() == [(1, 10, True)]
    case.heard(1, 12)
    assert case.stored() == [(1, 12, False)]


def test_a_hole_of_a_meter_whose_source_was_there_goes_too(case):
    case.heard(0, 2)
    case.holes.clear()
    case.stored()
    case.heard(0, 9)
    assert case.stored() == [(2, 9, False)]
    case.coverage.filled(case.holes[0], True)
    assert case.stored() == [(2, 9, True)]


def test_without_somebody_who_fills_holes_none_is_kept():
    case = Case()
    case.coverage.holes.on_hole = None
    case.heard(0, 0)
    case.cut()
    case.heard(0, 10)
    assert case.stored() == [(0, 10, False)]
    assert case.coverage.holes._of == {}
