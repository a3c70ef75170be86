"""Gaps: the times that a source did not cover."""

from __future__ import annotations

import pytest

from collector.batches import Chunk, Interruption, Rows
from collector.coverage import NOTHING_CAME, Coverage, Gap
from collector.register import register_of
from collector.times import micros
from tests.collector.running import at, mqtt, opcua, park_of

SERVER = "opcua:opc.tcp://h"
BEFORE = Interruption("lost")
KEPT = Interruption("lost", kept=True)


def us(tick: float) -> int:
    return micros(at(tick))


def coverage(*meters):
    return Coverage(register_of(park_of(*meters)), grace_s=0.0)


def server(*ids, **keys):
    return coverage(*(opcua("opc.tcp://h", id, **keys) for id in ids))


def chunk(*rows: tuple[int, float], interruption=None, source=SERVER):
    columns = Rows()
    for place, tick in rows:
        columns.add(place, us(tick), us(tick), 1.0, 0)
    return Chunk(source, columns, interruption)


def marked(of: Coverage):
    gaps = of.changes()
    of.stored(gaps)
    return [(gap.started_us, gap.ended_us, gap.cause) for gap in gaps if not gap.withdrawn and gap.meter is None]


def own(of: Coverage):
    """Gaps of meters alone."""
    gaps = of.changes()
    of.stored(gaps)
    assert {gap.cause for gap in gaps} <= {NOTHING_CAME}
    return [(gap.meter, gap.started_us, gap.ended_us) for gap in gaps if not gap.withdrawn]


def test_readings_that_follow_each_other_leave_no_gap():
    book = server("A", "B")
    book.advance(chunk((0, 0), (1, 0)))
    book.advance(chunk((0, 1), (0, 2), (1, 1)))
    book.tick(us(4))
    assert book.changes() == []


def test_a_skipped_reading_of_a_source_that_is_there_is_a_gap_of_the_meter():
    book = server("A", "B")
    book.advance(chunk((0, 0), (1, 0)))
    book.advance(chunk((0, 2), (1, 1)))
    assert own(book) == [("A", us(0), us(2))]
    book.advance(chunk((0, 3), (0, 9)))
    assert own(book) == [("A", us(3), us(9))]


def test_a_meter_that_is_always_slower_than_said_has_one_gap_that_grows():
    book = server("A")
    book.advance(chunk(*((0, tick) for tick in range(0, 30, 3))))
    [gap] = book.changes()
    assert (gap.meter, gap.started_us, gap.ended_us) == ("A", us(0), us(27))


def test_a_meter_that_was_never_heard_owes_readings_once_all_is_armed():
    book = server("A", "B", "C")
    book.advance(chunk((0, 0)))
    book.begin(us(1))
    book.begin(us(90))                      # all subscriptions are in force again
    book.advance(chunk((0, 1), (0, 2), (1, 2), (2, 5)))
    assert own(book) == [("C", us(1), us(5))]
    later = server("A", "B")
    later.owe({0: us(1)})                   # as an earlier collector noted it, before it was killed
    assert later.begin(us(7)) == {0: us(1), 1: us(7)}
    later.advance(chunk((0, 8), (1, 8)))
    assert own(later) == [("A", us(1), us(8))]
    silent = server("A")
    silent.begin(us(1))
    silent.tick(us(4))
    assert own(silent) == []
    silent.tick(us(5))
    assert own(silent) == [("A", us(1), None)]


def test_an_on_change_meter_may_be_quiet():
    book = server("A", sampling="on_change")
    book.advance(chunk((0, 0), (0, 100)))
    book.tick(us(1000))
    assert book.changes() == []


def test_a_silent_meter_of_a_source_that_is_there_has_an_open_gap_until_it_is_heard():
    book = server("A", "B")
    book.advance(chunk((0, 0), (1, 0), (1, 4)))
    assert own(book) == [("B", us(0), us(4))]
    book.tick(us(3))
    assert own(book) == []
    book.tick(us(4))
    book.tick(us(5))
    assert own(book) == [("A", us(0), None)]
    book.advance(chunk((0, 8)))
    assert own(book) == [("A", us(0), us(8))]


def test_a_silent_meter_whose_reading_was_only_late_has_no_gap():
    book = server("A")
    book.advance(chunk((0, 0)))
    book.tick(us(9))
    [gap] = book.changes()
    book.advance(chunk((0, 1)))
    assert [(later.key, later.withdrawn) for later in book.changes()] == [(gap.key, True)]
    book.advance(chunk((0, 5)))
    assert own(book) == [("A", us(1), us(5))]


def test_a_meter_that_may_be_silent_for_ever_is_not_waited_for_but_its_holes_show():
    book = server("A", stale_after_s=None)
    book.advance(chunk((0, 0)))
    book.tick(us(1000))
    assert own(book) == []
    book.advance(chunk((0, 9)))
    assert own(book) == [("A", us(0), us(9))]


def test_a_collector_that_takes_over_closes_the_open_gap_of_a_meter():
    book = server("A", "B")
    gap = Gap(SERVER, us(-5), None, NOTHING_CAME, id=7, meter="A")
    book.resume({0: us(-5), 1: us(0)}, [gap], "not running")
    book.advance(chunk((1, 1), (0, 10)))
    assert [(g.id, g.meter, g.ended_us) for g in book.changes()] == [(None, None, us(10)), (7, "A", us(10))]


def test_a_skipped_reading_after_an_interruption_is_a_gap():
    book = server("A")
    book.advance(chunk((0, 0)))
    book.advance(chunk((0, 5), interruption=BEFORE))
    assert marked(book) == [(us(0), us(5), "lost")]
    book.advance(chunk((0, 50)))
    assert marked(book) == []


def test_the_next_reading_after_an_interruption_is_no_gap():
    book = server("A")
    book.advance(chunk((0, 0)))
    book.advance(chunk((0, 1), interruption=BEFORE))
    assert marked(book) == []


def test_a_repeated_reading_after_an_interruption_tells_nothing():
    book = server("A")
    book.advance(chunk((0, 0)))
    book.advance(chunk((0, 0), interruption=BEFORE))
    assert marked(book) == []
    book.advance(chunk((0, 5)))
    assert marked(book) == [(us(0), us(5), "lost")]


def test_one_interruption_makes_one_gap_over_all_meters_with_a_hole():
    book = server("A", "B", "C")
    book.advance(chunk((0, 0), (1, 2), (2, 3)))
    book.advance(chunk((0, 6), interruption=BEFORE))
    [gap] = book.changes()
    book.advance(chunk((1, 9)))
    book.advance(chunk((2, 4)))
    assert [later.key for later in book.changes()] == [gap.key]
    assert marked(book) == [(us(0), us(9), "lost")]


def test_a_meter_that_was_never_heard_has_no_hole():
    book = server("A", "B")
    book.advance(chunk((0, 0)))
    book.advance(chunk((1, 50), (0, 1), interruption=BEFORE))
    assert marked(book) == []


def test_an_on_change_meter_may_have_changed_meanwhile_unless_the_source_kept_it():
    book = server("A", sampling="on_change")
    book.advance(chunk((0, 0)))
    book.advance(chunk((0, 1), interruption=BEFORE))
    assert marked(book) == [(us(0), us(1), "lost")]
    book.advance(chunk((0, 2), interruption=KEPT))
    assert marked(book) == []


def test_a_broker_that_forgot_its_session_did_not_keep_it():
    book = coverage(mqtt("A", sampling="on_change"))
    book.advance(chunk((0, 0), source="mqtt"))
    book.advance(chunk(interruption=KEPT, source="mqtt"))
    book.advance(chunk((0, 1), interruption=Interruption("no session"), source="mqtt"))
    assert marked(book) == [(us(0), us(1), "lost")]


def test_an_overdue_reading_of_a_source_that_is_away_opens_the_gap():
    book = server("A", "B")
    book.advance(chunk((0, 0), (1, 1)))
    book.advance(chunk(interruption=BEFORE))
    book.tick(us(2))
    assert marked(book) == []
    book.tick(us(3))
    assert marked(book) == [(us(0), None, "lost")]
    book.tick(us(20))
    assert marked(book) == [(us(0), None, "lost")]
    book.tick(us(21))
    assert marked(book) == []
    book.advance(chunk((0, 30), (1, 31)))
    assert marked(book) == [(us(0), us(31), "lost")]


def test_an_open_gap_is_withdrawn_if_nothing_is_missing():
    book = coverage(mqtt("A"), mqtt("B"))
    book.advance(chunk((0, 0), (1, 0), source="mqtt"))
    book.advance(chunk(interruption=KEPT, source="mqtt"))
    book.tick(us(10))
    [gap] = book.changes()
    book.advance(chunk((0, 1), source="mqtt"))
    assert not book.changes()[0].withdrawn
    book.advance(chunk((1, 1), source="mqtt"))
    assert [(later.key, later.withdrawn) for later in book.changes()] == [(gap.key, True)]


def test_a_second_interruption_goes_on_with_a_gap_that_is_still_open():
    book = server("A", "B")
    book.advance(chunk((0, 0), (1, 0)))
    book.advance(chunk(interruption=BEFORE))
    book.tick(us(10))
    book.advance(chunk((0, 1)))
    book.advance(chunk(interruption=Interruption("again")))
    book.advance(chunk((0, 2), (1, 20)))
    assert marked(book) == [(us(0), us(20), "lost")]


def test_a_source_that_is_lost_twice_without_a_word_is_lost_once():
    book = server("A")
    book.advance(chunk((0, 0)))
    book.advance(chunk(interruption=BEFORE))
    book.advance(chunk((0, 9), interruption=Interruption("again")))
    assert marked(book) == [(us(0), us(9), "lost")]


def test_a_collector_that_takes_over_marks_from_what_is_stored():
    book = server("A", "B")
    book.resume({0: us(0)}, [], "not running")
    book.advance(chunk((0, 10), (1, 10)))
    assert marked(book) == [(us(0), us(10), "not running")]


def test_a_collector_that_takes_over_closes_open_gaps():
    book = server("A")
    gap = Gap(SERVER, us(-5), None, "lost", id=7)
    book.resume({0: us(0)}, [gap, Gap("opcua:another", us(0), None, "lost", id=8)], "not running")
    book.advance(chunk((0, 10)))
    assert [(changed.id, changed.started_us, changed.ended_us) for changed in book.changes()] == [(7, us(-5), us(10))]


@pytest.mark.parametrize("stored", [False, True])
def test_a_gap_counts_as_changed_until_it_is_stored(stored):
    book = server("A")
    book.advance(chunk((0, 0)))
    book.advance(chunk((0, 5), interruption=BEFORE))
    gaps = book.changes()
    if stored:
        book.stored(gaps)
    assert len(book.changes()) == 1 - stored


def test_what_changed_since_it_was_stored_is_stored_again_under_its_id():
    book = server("A", "B")
    book.advance(chunk((0, 0), (1, 0)))
    book.advance(chunk((0, 5), interruption=BEFORE))
    [gap] = book.changes()
    book.advance(chunk((1, 9)))             # while that copy is on its way to the store
    gap.id = 7
    book.stored([gap])
    [later] = book.changes()
    assert (later.id, later.key, later.ended_us) == (7, gap.key, us(9))


def test_a_collector_that_hears_of_the_store_late_marks_what_was_missing_before_it_began():
    book = server("A", "B", "C")
    book.advance(chunk((0, 10), (1, 3)))
    book.advance(chunk((0, 11)))
    book.resume({0: us(0), 1: us(2), 2: us(2)}, [], "not running")
    assert marked(book) == [(us(0), us(10), "not running")]
    book.advance(chunk((2, 9)))
    assert marked(book) == [(us(0), us(10), "not running")]
    book.advance(chunk((0, 90), (1, 90), (2, 90)))
    assert marked(book) == []


def test_what_was_delivered_again_before_the_store_was_heard_is_no_gap():
    book = server("A")
    book.advance(chunk((0, 0), (0, 1), (0, 2), (0, 3)))
    book.resume({0: us(2)}, [], "not running")
    book.advance(chunk((0, 90)))
    assert marked(book) == []


def test_only_repetitions_before_the_store_was_heard_leave_the_hole_to_be_judged():
    book = server("A")
    book.advance(chunk((0, 0), (0, 1)))
    book.resume({0: us(2)}, [], "not running")
    book.advance(chunk((0, 9)))
    assert marked(book) == [(us(2), us(9), "not running")]


def test_the_spool_knows_later_readings_than_the_database():
    book = server("A")
    book.resume({0: us(8)}, [], "not running")
    book.resume({0: us(2)}, [], "not running")
    book.advance(chunk((0, 9)))
    assert marked(book) == []


def test_a_late_word_of_the_store_joins_an_interruption_that_is_under_way():
    book = server("A", "B")
    book.advance(chunk((0, 10)))
    book.advance(chunk(interruption=BEFORE))
    book.resume({0: us(9), 1: us(9)}, [], "not running")
    book.advance(chunk((0, 11), (1, 20)))
    assert marked(book) == [(us(9), us(20), "lost")]


def test_gaps_that_an_earlier_collector_could_not_store_are_stored():
    book = server("A")
    gap = Gap(SERVER, us(0), None, "lost")
    book.inherit([gap])
    book.resume({0: us(0)}, [gap], "not running")
    assert marked(book) == [(us(0), None, "lost")]
    book.advance(chunk((0, 10)))
    assert marked(book) == [(us(0), us(10), "lost")]


CONTINUES = Interruption("lost", kept=True, continues=True)


def taken_over(*told):
    """An on-change meter stored at 0 by a collector that was killed, heard again at 5 after what is told."""
    book = server("A", sampling="on_change")
    for what in told:
        if what == "resume":
            book.resume({0: us(0)}, [], "killed")
        else:
            book.advance(chunk(interruption=what))
    book.advance(chunk((0, 5)))
    if "resume" not in told:
        book.resume({0: us(0)}, [], "killed")
    return book


@pytest.mark.parametrize("told", [("resume", CONTINUES), (CONTINUES, "resume"), (CONTINUES,)])
def test_a_source_that_continues_where_a_killed_collector_stopped_leaves_no_gap(told):
    assert marked(taken_over(*told)) == []


@pytest.mark.parametrize("told", [("resume",), (), ("resume", KEPT), (CONTINUES, BEFORE), (CONTINUES, BEFORE, "resume"),
                                  ("resume", CONTINUES, BEFORE), ("resume", BEFORE)])
def test_one_that_does_not_continue_or_has_lost_something_since_does(told):
    assert marked(taken_over(*told)) == [(us(0), us(5), "killed")]


def test_what_a_source_owes_is_settled_once_its_meters_were_heard_or_it_kept_everything():
    book = server("A", "B")
    assert not book.is_settled(SERVER, resumed=False)
    assert book.is_settled(SERVER, resumed=True)
    book.advance(chunk((0, 0), (1, 0)))
    book.advance(chunk((0, 1), interruption=BEFORE))
    assert not book.is_settled(SERVER, resumed=True)
    book.advance(chunk((1, 1)))
    assert book.is_settled(SERVER, resumed=True)
    book.advance(chunk(interruption=KEPT))
    assert book.is_settled(SERVER, resumed=True)
    another = server("A")
    another.advance(chunk(interruption=CONTINUES))
    assert another.is_settled(SERVER, resumed=False)


def late_rows(*rows: tuple[float, float]) -> Chunk:
    """Readings of the first meter: source time and arrival."""
    columns = Rows()
    for tick, arrival in rows:
        columns.add(0, us(tick), us(arrival), 1.0, 0)
    return Chunk(SERVER, columns)


@pytest.mark.parametrize("behind", [6000, -6000])
def test_a_meter_whose_readings_arrive_is_not_silent_whatever_its_clock_says(behind):
    book = server("A", stale_after_s=0.3)
    book.begin(us(-1))
    book.advance(late_rows((-behind, 0)))
    book.stored(book.changes())                 # since it was armed, as its clock has it
    for tick in range(1, 100):
        book.advance(late_rows((tick - behind, tick)))
        book.tick(us(tick + 0.5))
        assert (book.changes(), book.open_gaps()) == ([], {})
    book.tick(us(103))
    assert own(book) == [("A", us(99 - behind), None)]
    assert book.open_gaps() == {SERVER: 1}


def test_a_clock_that_is_put_back_makes_no_meter_silent_and_ends_a_silence():
    book = server("A", stale_after_s=0.3)
    book.advance(late_rows((0, 0), (1, 1)))
    for tick in range(2, 50):
        book.advance(late_rows((tick - 6000, tick)))
        book.tick(us(tick + 0.5))
        assert book.changes() == []
    book.tick(us(60))
    assert own(book) == [("A", us(1), None)]
    book.advance(late_rows((61 - 6000, 61)))
    assert own(book) == [("A", us(1), us(61))]
    assert not book.open_gaps()
    book.tick(us(62))
    assert own(book) == []


def test_a_source_that_is_away_owes_readings_by_arrival_too():
    book = server("A")
    book.advance(late_rows((-6000, 0)))
    book.advance(chunk(interruption=BEFORE))
    book.tick(us(2))
    assert marked(book) == []
    book.tick(us(3))
    assert marked(book) == [(us(-6000), None, "lost")]
    book.advance(late_rows((3 - 6000, 3.5)))
    assert marked(book) == [(us(-6000), us(3 - 6000), "lost")]
