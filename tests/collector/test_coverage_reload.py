"""Gaps over a park that changes: meters that are gone owe nothing, those that come owe from then on."""

from __future__ import annotations

from collector.batches import Chunk, Interruption, Rows
from collector.coverage import NOTHING_CAME, Coverage
from collector.register import register_of
from tests.collector.running import opcua, park_of
from tests.collector.test_coverage import SERVER, us

LOST = Interruption("lost")


def meters(*ids: str):
    return [opcua("opc.tcp://h", id, interval_s=0.1, stale_after_s=0.3) for id in ids]


def rows(*entries: tuple[int, float]) -> Rows:
    columns = Rows()
    for place, tick in entries:
        columns.add(place, us(tick), us(tick), 1.0, 0)
    return columns


def gaps(of: Coverage):
    changed = [(gap.meter, gap.started_us, gap.ended_us, gap.cause) for gap in of.changes() if not gap.withdrawn]
    of.stored(of.changes())
    return changed


def test_the_open_gap_of_a_meter_that_is_dropped_ends_there():
    register = register_of(park_of(*meters("A", "B")))
    book = Coverage(register, grace_s=0.0)
    book.advance(Chunk(SERVER, rows((0, 0), (1, 0), (1, 4))))
    book.tick(us(4))
    assert set(gaps(book)) == {("A", us(0), None, NOTHING_CAME), ("B", us(0), us(4), NOTHING_CAME)}
    book.apply(register.after(park_of(*meters("B"))), us(5))
    assert gaps(book) == [("A", us(0), us(5), NOTHING_CAME)]
    book.advance(Chunk(SERVER, rows((1, 5))))
    book.tick(us(6))
    assert gaps(book) == []
    assert not book.open_gaps()


def test_the_open_gap_of_a_source_ends_when_the_meters_that_it_owes_are_dropped():
    register = register_of(park_of(*meters("A", "B")))
    book = Coverage(register, grace_s=0.0)
    book.advance(Chunk(SERVER, rows((0, 0), (1, 0))))
    book.advance(Chunk(SERVER, interruption=LOST))
    book.tick(us(10))
    assert book.in_gap() == {SERVER}
    assert gaps(book) == [(None, us(0), None, "lost")]
    book.apply(register.after(park_of(opcua("opc.tcp://other", "C"))), us(11))
    assert book.in_gap() == set()
    assert gaps(book) == [(None, us(0), us(11), "lost")]


def test_a_meter_that_comes_with_a_change_owes_readings_from_then_on_and_not_before():
    register = register_of(park_of(*meters("A")))
    book = Coverage(register, grace_s=0.0)
    book.begin(us(0))
    book.advance(Chunk(SERVER, rows((0, 0), (0, 100))))
    gaps(book)
    book.apply(register.after(park_of(*meters("A", "B"))), us(100))
    book.tick(us(102))
    assert gaps(book) == []
    book.advance(Chunk(SERVER, rows((0, 104))))
    book.tick(us(104.5))
    assert ("B", us(100), None, NOTHING_CAME) in gaps(book)


def test_a_meter_that_returns_begins_anew():
    register = register_of(park_of(*meters("A", "B")))
    book = Coverage(register, grace_s=0.0)
    book.advance(Chunk(SERVER, rows((0, 0), (1, 0))))
    without = register.after(park_of(*meters("B")))
    book.apply(without, us(1))
    book.apply(without.after(park_of(*meters("A", "B"))), us(1000))
    book.advance(Chunk(SERVER, rows((0, 1000))))
    assert [gap for gap in gaps(book) if gap[0] == "A"] == []


def in_other_unit(*ids: str):
    return [{**meter, "unit": "kg/h"} for meter in meters(*ids)]


def test_what_is_on_its_way_when_a_meter_is_dropped_is_no_gap():
    register = register_of(park_of(*meters("A", "B")))
    book = Coverage(register, grace_s=0.0)
    book.begin(us(0))
    book.advance(Chunk(SERVER, rows(*((place, tick) for tick in range(100) for place in (0, 1)))))
    book.apply(register.after(park_of(*meters("B"))), us(100))
    book.advance(Chunk(SERVER, rows((0, 100), (1, 100))))
    assert gaps(book) == []
    assert not book.open_gaps()


def test_what_is_on_its_way_when_a_meter_gets_another_unit_is_no_gap_but_what_is_missing_is():
    register = register_of(park_of(*meters("A")))
    book = Coverage(register, grace_s=0.0)
    book.begin(us(0))
    book.advance(Chunk(SERVER, rows(*((0, tick) for tick in range(100)))))
    changed = register.after(park_of(*in_other_unit("A")))
    book.apply(changed, us(99.5))
    book.advance(Chunk(SERVER, rows((0, 100), (0, 101))))
    book.advance(Chunk(SERVER, rows((1, 102), (1, 103))))
    book.tick(us(104))
    assert gaps(book) == []
    book.apply(changed.after(park_of(*meters("A"))), us(103.5))     # and back: the first place again
    book.advance(Chunk(SERVER, rows((1, 104), (0, 105))))
    assert gaps(book) == []
    book.apply(changed, us(105.5))
    book.advance(Chunk(SERVER, rows((1, 109))))
    assert gaps(book) == [("A", us(105), us(109), NOTHING_CAME)]


def test_an_interruption_waits_for_a_meter_that_is_read_in_another_unit_meanwhile():
    register = register_of(park_of(*meters("A", "B")))
    book = Coverage(register, grace_s=0.0)
    book.advance(Chunk(SERVER, rows((0, 0), (1, 0))))
    book.advance(Chunk(SERVER, interruption=LOST))
    book.apply(register.after(park_of(*in_other_unit("A"), *meters("B"))), us(1))
    book.advance(Chunk(SERVER, rows((1, 1), (2, 9))))
    assert gaps(book) == [(None, us(0), us(9), "lost")]


def test_a_meter_that_is_read_elsewhere_begins_anew():
    register = register_of(park_of(*meters("A")))
    book = Coverage(register, grace_s=0.0)
    book.begin(us(0))
    book.advance(Chunk(SERVER, rows((0, 0))))
    book.apply(register.after(park_of(opcua("opc.tcp://other", "A", interval_s=0.1))), us(50))
    book.advance(Chunk(SERVER, rows((0, 1))))
    book.advance(Chunk("opcua:opc.tcp://other", rows((1, 51))))
    assert gaps(book) == []
