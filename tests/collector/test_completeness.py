"""How complete stored readings are: nothing that is still to come lies before a mark."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.completeness import JITTER, NEVER, Completeness
from collector.register import register_of
from collector.times import micros
from park.store.readings import ReadingBatch
from tests.collector.running import START, mqtt, opcua, park_of

SERVER, S = "opcua:opc.tcp://h", 1_000_000
BEGAN = micros(START)


def us(seconds: float) -> int:
    return BEGAN + round(seconds * S)


def batch(*rows: tuple[int, float], way: float = 0.0, names: tuple[str, ...] = ("A", "B", "C")) -> ReadingBatch:
    """Readings of (place, source time in s), that take `way` seconds."""
    meter = np.array([place for place, _ in rows], dtype=np.int64)
    source = np.array([us(at) for _, at in rows], dtype=np.int64)
    ones, good = np.ones(len(rows)), np.zeros(len(rows), dtype=np.int64)
    return ReadingBatch(names, meter, source, source + round(way * S), ones, good)


def server(*ids, grace_s=5.0, **keys):
    keys = {"interval_s": 10.0, **keys}
    book = Completeness(register_of(park_of(*(opcua("opc.tcp://h", id, **keys) for id in ids))), grace_s)
    book.hear(SERVER, us(0))
    return book


def complete(book: Completeness, now: float, *in_gap: str) -> float | None:
    (mark,) = book.sources(us(now), in_gap)
    return None if mark.complete_us is None else (mark.complete_us - BEGAN) / S


def test_nothing_is_known_of_a_source_that_was_never_there():
    book = Completeness(register_of(park_of(opcua("opc.tcp://h", "A"))), 5.0)
    (mark,) = book.sources(us(100), ())
    assert (mark.complete_us, mark.silent, np.isnan(mark.offset_s)) == (None, 0, True)


def test_nothing_is_known_of_a_source_before_all_its_meters_were_heard_or_are_overdue():
    book = server("A", "B")
    book.store(batch((0, 0), (0, 10), (0, 20)))
    assert complete(book, 20) is None
    (mark,) = book.sources(us(20), ())
    assert mark.held_by == "B"
    book.store(batch((0, 30)))
    assert complete(book, 30.1) == 39


def test_a_value_that_is_older_than_the_connection_was_not_promised_away():
    book = Completeness(register_of(park_of(opcua("opc.tcp://h", "A", interval_s=10.0))), 5.0)
    book.hear(SERVER, us(50))
    assert complete(book, 51) is None
    book.store(batch((0, 42), way=9.0))
    assert complete(book, 51) == 51


def test_a_periodic_meter_is_complete_until_its_next_reading_is_due():
    book = server("A", "B")
    book.store(batch((0, 3), (1, 9), (0, 13), (1, 19)))
    assert complete(book, 20) == 22


def test_before_its_steps_are_known_a_reading_may_come_a_tenth_of_its_interval_early():
    book = server("A")
    book.store(batch((0, 3)))
    assert complete(book, 4) == 12


def test_once_its_steps_are_known_a_meter_is_expected_after_the_shortest_less_their_range():
    even, uneven = server("A"), server("A")
    even.store(batch(*((0, 10 * number) for number in range(17))))
    assert complete(even, 160) == 170
    uneven.store(batch(*((0, 10 * number + 0.2 * (number % 2)) for number in range(17))))
    assert complete(uneven, 160) == pytest.approx(160 + 9.8 - 0.4)


def test_a_meter_that_sends_faster_than_it_should_is_expected_so():
    book = server("A")
    book.store(batch((0, 0), (0, 1), (0, 2)))
    assert complete(book, 2) == 3


def test_a_meter_that_sends_more_seldom_than_it_should_is_still_expected_within_its_interval():
    book = server("A")
    book.store(batch(*((0, 20 * number) for number in range(20))))
    assert complete(book, 380) == 389


def test_a_meter_that_falls_silent_holds_nobody_back_and_is_counted():
    book = server("A", "B")
    book.store(batch((0, 0), (1, 0), (1, 10), (1, 20), (1, 30)))
    assert complete(book, 30) == 9                          # 25 s and 5 s of grace are not over
    (mark,) = book.sources(us(30.1), ())
    assert (mark.complete_us, mark.silent, mark.held_by) == (us(39), 1, "B")


def test_readings_that_wait_for_the_database_make_nobody_silent():
    book = server("A", "B")
    book.store(batch((0, 0), (1, 0)))
    assert book.sources(us(600), ())[0].silent == 2         # judged now, all would be
    waits = server("A", "B")
    waits.store(batch((0, 0), (1, 0)))
    as_of = waits.as_of(us(600), waiting=True)
    assert as_of == us(0)
    (mark,) = waits.sources(as_of, ())
    assert (mark.complete_us, mark.silent) == (us(9), 0)


def test_a_gap_that_is_open_covers_what_does_not_come():
    book = server("A")
    book.store(batch((0, 0)))
    assert complete(book, 100, SERVER) == 100


def test_a_gap_covers_meters_without_a_step_too_but_none_that_is_not_due():
    park = park_of(opcua("opc.tcp://h", "A", interval_s=10.0), opcua("opc.tcp://h", "B", interval_s=100.0),
                   opcua("opc.tcp://h", "C", interval_s=10.0, sampling="on_change"))
    book = Completeness(register_of(park), 5.0)
    book.hear(SERVER, us(0))
    book.store(batch((0, 0), (1, 0), (2, 0)))
    assert complete(book, 50, SERVER) == 90                 # B's next one is not in the gap yet


def test_an_on_change_meter_is_as_complete_as_its_source_was_heard_less_the_way():
    book = server("A", sampling="on_change")
    book.store(batch((0, 1), way=0.5))
    book.hear(SERVER, us(60))
    assert complete(book, 61) == 59.5


def test_marks_never_go_back():
    book = server("A")
    book.store(batch((0, 0), (0, 10)))
    assert complete(book, 10) == 19
    book.apply(register_of(park_of(*(opcua("opc.tcp://h", id, interval_s=10.0) for id in "AB"))))
    book.hear(SERVER, us(11))
    assert complete(book, 12) == 19


def test_meters_that_are_dropped_hold_nobody_back_and_begin_anew_when_they_return():
    book = server("A", "B")
    book.store(batch((0, 0), (1, 0), (1, 10)))
    both = register_of(park_of(*(opcua("opc.tcp://h", id, interval_s=10.0) for id in "AB")))
    without = both.after(park_of(opcua("opc.tcp://h", "B", interval_s=10.0)))
    book.apply(without)
    assert complete(book, 11) == 19
    book.store(batch((0, 10)))                              # on its way when it was dropped
    book.store(batch((0, 11), (1, 20)))
    book.apply(both)
    book.hear(SERVER, us(25))
    assert book.meters(us(25)).complete_us.tolist() == [NEVER, us(29)]


def test_a_clock_that_jumps_ahead_promises_nothing_for_the_time_it_has_left_out():
    book = server("A")
    book.store(batch((0, 0), (0, 10)))
    book.store(batch((0, 3620), way=-3600.0))
    assert complete(book, 20) == 29


@pytest.mark.parametrize("ahead", [-7.5, 0.0, 3.0])
def test_the_clock_of_a_device_shows_in_its_shortest_delay(ahead):
    book = server("A")
    delays = [0.2, 0.5, 0.3, 0.2, 0.8]
    for number, delay in enumerate(delays):
        book.store(batch((0, 10 * number + ahead), way=delay - ahead))
    (mark,) = book.sources(us(50), ())
    assert mark.offset_s == pytest.approx(ahead - 0.2)
    assert mark.spread_s == pytest.approx(np.mean(delays) - 0.2)
    meters = book.meters(us(50))
    assert meters.offset_s == pytest.approx([ahead - 0.2])


def test_what_is_filled_in_later_is_no_delay():
    book = server("A")
    book.store(batch((0, 0), (0, 10), (0, 50), way=0.5))
    book.store(batch((0, 20), (0, 30), (0, 40), way=3600.0))
    (mark,) = book.sources(us(51), ())
    assert (mark.offset_s, mark.spread_s) == (-0.5, 0.0)
    assert mark.complete_us == us(59)


def test_a_clock_that_was_set_right_is_forgotten_after_a_while():
    book = server("A")
    for number in range(200):
        wrong = 30.0 if number < 100 else 0.0
        book.store(batch((0, 10 * number + wrong), way=-wrong))
    (mark,) = book.sources(us(2000), ())
    assert mark.offset_s == 0.0


def test_meters_tell_what_each_of_them_has():
    park = park_of(opcua("opc.tcp://h", "A", interval_s=10.0), mqtt("B", interval_s=10.0))
    book = Completeness(register_of(park), 5.0)
    book.hear(SERVER, us(0))
    book.store(batch((0, 5)))
    marks = book.meters(us(6))
    assert marks.ids == ("A", "B")
    assert marks.source == (SERVER, "mqtt")
    assert marks.last_us.tolist() == [us(5), NEVER]
    assert marks.complete_us.tolist() == [us(14), NEVER]
    assert not marks.silent.any()


@given(st.integers(0, 2**32 - 1), st.floats(0.0, JITTER), st.floats(0.0, 0.8))
def test_nothing_that_is_still_to_come_lies_before_a_mark(seed, jitter, way):
    """Meters of any phase, that sample early and late within their jitter; batches of any size are committed."""
    rng = np.random.default_rng(seed)
    intervals = rng.choice([1.0, 3.0, 10.0], size=4)
    park = park_of(*(opcua("opc.tcp://h", f"M{i}", interval_s=float(s)) for i, s in enumerate(intervals)))
    book = Completeness(register_of(park), 5.0)
    book.hear(SERVER, us(0))
    rows = []
    for place, interval in enumerate(intervals):
        ticks = rng.uniform() + np.arange(60 / interval)
        shifts = rng.choice([-jitter / 2, jitter / 2], len(ticks))      # the ends, so that their range soon shows
        rows += [(float(at), place) for at in interval * (ticks + shifts)]
    rows.sort()
    while rows:
        share = int(rng.integers(1, 9))
        sent, rows = rows[:share], rows[share:]
        book.store(batch(*((place, at) for at, place in sent), way=way, names=("M0", "M1", "M2", "M3")))
        (mark,) = book.sources(us(sent[-1][0] + way), ())
        assert all(us(at) + 2 >= (mark.complete_us or 0) for at, _ in rows)     # both are rounded to 1 us


def test_a_meter_whose_clock_is_behind_is_not_silent_and_holds_its_source_where_its_clock_is():
    book = server("A", "B")
    for number in range(4):
        at = 600.0 + 10 * number
        book.store(batch((0, at - 600), way=600.0))
        book.store(batch((1, at)))
        (mark,) = book.sources(us(at), ())
        assert (mark.silent, mark.held_by) == (0, "A")
        assert mark.complete_us == us(at - 600 + 9)
    assert mark.offset_s == -600.0
    meters = book.meters(us(630))
    assert meters.offset_s.tolist() == [-600.0, 0.0]
    assert meters.complete_us.tolist() == [us(39), us(639)]
    for number in range(4):
        book.store(batch((0, 30), way=630.0 + 10 * number))         # one reading, again and again
        book.store(batch((1, 640 + 10 * number)))
    (mark,) = book.sources(us(670), ())
    assert (mark.silent, mark.held_by, mark.complete_us) == (1, "B", us(679))


def test_the_clock_of_a_source_is_the_one_that_is_farthest_off():
    book = server("A", "B", "C")
    for number in range(3):
        book.store(batch((0, 10 * number), way=0.5))
        book.store(batch((1, 10 * number - 4.0), way=4.25))
        book.store(batch((2, 10 * number + 30.0), way=-29.0))
    (mark,) = book.sources(us(30), ())
    assert mark.offset_s == 29.0


def test_a_first_value_that_is_as_old_as_its_last_change_tells_of_no_clock():
    book = server("A", "B", sampling="on_change")
    book.store(batch((0, 0), way=10_000.0))
    (mark,) = book.sources(us(10_000), ())
    assert mark.offset_s == -10_000.0                               # nothing else is known
    book.store(batch((1, 10_000), (1, 10_010), way=0.5))
    (mark,) = book.sources(us(10_011), ())
    assert mark.offset_s == -0.5


def test_a_death_that_is_noticed_late_tells_of_no_clock():
    book = server("A")
    book.store(batch((0, 0), (0, 10), way=0.5))
    dead = batch((0, 10.1), way=500.0)
    dead.value[:] = np.nan
    book.store(dead)
    (mark,) = book.sources(us(511), ())
    assert (mark.offset_s, mark.spread_s) == (-0.5, 0.0)
