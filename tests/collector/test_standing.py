"""What a collector counts, and when its marks are stored."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from collector import standing as standings
from collector.batches import Batches, Chunk, Interruption, Rows
from collector.coverage import Coverage
from collector.metrics import CollectorMetrics
from collector.register import register_of
from collector.rejections import Rejections
from collector.standing import Standing
from collector.status import SourceStatus, State
from collector.times import micros
from park.clock import RunClock
from park.store.readings import ReadingBatch, WriteResult
from tests.collector.running import START, mqtt, opcua, park_of

SERVER = "opcua:opc.tcp://h"
S = 1_000_000
BAD = 0x80310000


class Clock(RunClock):
    """A run's clock that stands where the test puts it."""

    seconds = 0.0

    def at(self, wall: float) -> float:
        return START.timestamp() + Clock.seconds


class Book:
    """A standing with its parts, and a registry that reads it."""

    def __init__(self) -> None:
        Clock.seconds = 0.0
        self.register = register_of(park_of(opcua("opc.tcp://h", "A", interval_s=10.0), mqtt("B", interval_s=10.0)))
        self.batches, self.rejections = Batches(), Rejections(log=False)
        self.coverage = Coverage(self.register)
        self.standing = Standing(self.register, self.coverage, self.batches, self.rejections, Clock())
        for source in (SERVER, "mqtt"):
            status = SourceStatus(source, source.partition(":")[0], Clock().now)
            self.standing.statuses[source] = status
            status.become(State.RECEIVING)
        self.registry = CollectorRegistry()
        self.registry.register(CollectorMetrics(self.standing, None))

    def store(self, *rows: tuple[int, float, int], names: tuple[str, ...] = ("A", "B"), new: int = 0) -> None:
        meter, seconds, status = (np.array(column) for column in zip(*rows, strict=True))
        source = micros(START) + (seconds * S).astype(np.int64)
        self.standing.stored(
            ReadingBatch(names, meter, source, source + S // 2, np.ones(len(rows)), status), WriteResult(new))

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
def book() -> Book:
    return Book()


def test_readings_are_counted_by_source_and_quality(book: Book) -> None:
    book.store((0, 0, 0), (0, 10, BAD), (1, 0, 0), (1, 10, 0), new=3)
    book.store((1, 0, 0), names=("gone", "A"), new=1)
    assert book.value("symbiosis_readings_total", source=SERVER, quality="good") == 2
    assert book.value("symbiosis_readings_total", source=SERVER, quality="bad") == 1
    assert book.value("symbiosis_readings_total", source="mqtt", quality="good") == 2
    assert book.value("symbiosis_readings_total", source="mqtt", quality="bad") is None
    assert book.value("symbiosis_batches_total") == 2
    assert book.value("symbiosis_readings_new_total") == 4


def test_readings_from_the_spool_of_meters_that_the_park_has_no_more_are_counted_without_a_source(book: Book) -> None:
    book.store((0, 0, 0), names=("gone",))
    assert book.value("symbiosis_readings_total", source="", quality="good") == 1


def test_what_is_rejected_is_counted_by_reason(book: Book) -> None:
    for _ in range(3):
        book.rejections.add("mqtt", "plant/B", "not JSON", b"{")
    assert book.value("symbiosis_rejected_total", source="mqtt", reason="not JSON") == 3


def test_sources_say_whether_they_are_there_how_often_they_came_and_what_they_owe(book: Book) -> None:
    status = book.standing.statuses[SERVER]
    status.become(State.WAITING, "no answer in time")
    assert book.value("symbiosis_source_up", source=SERVER) == 0
    status.become(State.RECEIVING)
    assert book.value("symbiosis_source_up", source=SERVER) == 1
    assert book.value("symbiosis_source_connects_total", source=SERVER) == 2
    rows = Rows()
    rows.add(0, micros(START), micros(START), 1.0, 0)
    book.coverage.advance(Chunk(SERVER, rows))
    book.coverage.advance(Chunk(SERVER, interruption=Interruption("cable")))
    book.coverage.tick(micros(START) + 100 * S)
    assert book.value("symbiosis_gaps_open", source=SERVER) == 1
    assert book.value("symbiosis_gaps_open", source="mqtt") == 0


def test_marks_are_those_of_the_sources_that_are_there(book: Book) -> None:
    book.store((0, 0, 0), (0, 10, 0), (1, 0, 0))
    Clock.seconds = 12.0
    sources, meters = book.standing.new_marks()
    complete = {row.source: (row.complete_to - START).total_seconds() for row in sources}
    assert complete == {SERVER: 19.0, "mqtt": 9.0}
    assert [(row.meter, row.source) for row in meters] == [("A", SERVER), ("B", "mqtt")]
    assert book.value("symbiosis_source_lag_seconds", source="mqtt") == pytest.approx(3.0)
    assert book.value("symbiosis_clock_offset_seconds", source="mqtt") == -0.5
    assert book.standing.new_marks()[1] == []           # those of meters are not written each second


def test_after_a_commit_marks_are_due_unless_more_waits_and_they_were_stored_just_now(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert book.standing.due_marks() is not None
    assert book.standing.due_marks() is not None
    rows = Rows()
    rows.add(0, micros(START), micros(START), 1.0, 0)
    book.batches.put_now(Chunk(SERVER, rows))
    assert book.standing.due_marks() is None
    monkeypatch.setattr(standings, "MARK_S", 0.0)
    assert book.standing.due_marks() is not None


def test_what_waits_shows_how_old_it_is(book: Book) -> None:
    book.store((0, 0, 0))
    Clock.seconds = 30.0
    assert book.value("symbiosis_waiting_seconds") == 0.0
    book.standing.spooled_rows = lambda: 7
    assert book.value("symbiosis_waiting_seconds") == 29.5
    assert book.value("symbiosis_spool_readings") == 7


def test_a_source_whose_nodes_may_be_dead_is_complete_no_further_not_even_in_a_gap(book: Book) -> None:
    book.store((0, 0, 0), (1, 0, 0))
    book.coverage.advance(Chunk("mqtt", Rows([1], [micros(START)], [micros(START)], [1.0], [0])))
    book.coverage.advance(Chunk("mqtt", interruption=Interruption("lost")))
    book.coverage.tick(micros(START) + 60 * S)
    assert book.coverage.in_gap() == {"mqtt"}
    book.standing.new_marks()
    Clock.seconds = 60.0
    status = book.standing.statuses["mqtt"]
    status.is_in_doubt = True
    book.standing.new_marks()
    doubted = book.value("symbiosis_source_complete_timestamp_seconds", source="mqtt")
    assert doubted is None or doubted < START.timestamp() + 10
    status.is_in_doubt = False
    book.standing.new_marks()
    assert book.value("symbiosis_source_complete_timestamp_seconds", source="mqtt") == START.timestamp() + 60
