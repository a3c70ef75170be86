"""Windows close by what the collector says of its sources, on a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from park.clock import RunClock
from park.store import connect
from park.store.completeness import SourceMarkRow, write_marks
from tests.processing.simulated import START
from tests.services.test_process_cycle import Cycle, Feed, S, later


@pytest.fixture
def feed(postgres_dsn: str) -> Iterator[Feed]:
    feed = Feed(postgres_dsn)
    yield feed
    feed.close()


def mark(dsn: str, source: str, seconds: float) -> None:
    """Say that a source is complete up to `seconds` after the start."""
    instant = datetime.fromtimestamp(START + seconds, UTC)
    with connect(dsn) as conn:
        write_marks(conn, [SourceMarkRow(source, instant, instant, None, 0, 0, None, None)])


def sources(feed: Feed) -> set[str]:
    return {m.source.name for m in feed.sim.park.meters}


def test_a_window_closes_as_soon_as_its_sources_are_complete_whatever_is_missing(postgres_dsn: str, feed: Feed) -> None:
    """One reading of the window never comes. The collector knows that: nobody waits for the lateness of 10 s."""
    readings = feed.play(20)
    feed.write(readings._where(~((readings.meter == 0) & (readings.time_us == round((START + 15) * S)))))
    for source in sources(feed):
        mark(postgres_dsn, source, 20)
    cycle = Cycle(feed.sim.park, postgres_dsn, RunClock(time.time(), START + 20.5, 1.0))
    cycle.wait(lambda: bool(cycle.windows()))
    cycle.end()
    assert [w["closed_by"] for w in cycle.windows()] == ["complete"]


def test_a_source_that_is_not_complete_is_waited_for_though_no_reading_seems_to_be_missing(
    postgres_dsn: str, feed: Feed
) -> None:
    """Every meter has sent what was due, but the collector says that more is to come: so it is, and none is revised."""
    source = next(iter(sources(feed)))
    mark(postgres_dsn, source, 39.9)
    feed.write(feed.play(40))
    cycle = Cycle(feed.sim.park, postgres_dsn, RunClock(time.time(), START + 40.5, 1.0))
    cycle.wait(lambda: len(cycle.windows()) == 1)
    with pytest.raises(AssertionError):
        cycle.wait(lambda: len(cycle.windows()) == 2, 1.0)
    mark(postgres_dsn, source, 40)
    cycle.wait(lambda: len(cycle.windows()) == 2)
    cycle.end()
    assert [w["closed_by"] for w in cycle.windows()] == ["complete", "complete"]


def test_a_mark_that_stands_still_holds_a_window_no_longer_than_its_lateness(postgres_dsn: str, feed: Feed) -> None:
    mark(postgres_dsn, next(iter(sources(feed))), 10)
    feed.write(feed.play(20))
    cycle = Cycle(feed.sim.park, postgres_dsn, later(31))
    cycle.wait(lambda: len(cycle.windows()) == 1)
    cycle.end()
    assert cycle.windows()[0]["closed_by"] == "lateness"
