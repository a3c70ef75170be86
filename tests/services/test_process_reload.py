"""A park that changes under running processing, on a real PostgreSQL."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from park.clock import RunClock
from park.errors import InputError
from park.model import Park
from processing import succession
from processing.cycle import process
from tests.processing.parks import works
from tests.processing.simulated import START
from tests.services.test_process_cycle import Cycle, Feed, query


class Watch:
    """Gives a park when the test says so, and keeps what became of it."""

    def __init__(self) -> None:
        self.park: Park | None = None
        self.said: list[tuple[str, str]] = []
        self.times_asked = 0

    def take(self) -> Park | None:
        park, self.park = self.park, None
        return park

    def asked(self) -> None:
        self.times_asked += 1

    def accept(self, line: str) -> None:
        self.said.append(("applied", line))

    def refuse(self, reason: str) -> None:
        self.said.append(("refused", reason))


class Watched(Cycle):
    """A cycle whose park may change."""

    def __init__(self, park: Park, dsn: str, clock: RunClock) -> None:
        self.watch = Watch()
        super().__init__(park, dsn, clock)

    def _run(self, park: Park, dsn: str, clock: RunClock) -> None:
        try:
            process(park, dsn, clock, stop=self.stop, on_state=self._say, watch=self.watch)
        except BaseException as error:      # noqa: BLE001
            self.failure = error
            self._say("failed", {})


@pytest.fixture
def feed(postgres_dsn: str) -> Any:
    feed = Feed(postgres_dsn)
    feed.write(feed.play(180))
    yield feed
    feed.close()


def changed(park: Park) -> Park:
    """The same park, but one meter is believed less."""
    worse = park.meters[0].model_copy(update={"u95_percent_of_reading": 7.0})
    return park.model_copy(update={"meters": (worse, *park.meters[1:])})


def test_a_changed_park_holds_from_the_next_boundary_on_and_results_say_so(postgres_dsn: str, feed: Feed) -> None:
    cycle = Watched(feed.sim.park, postgres_dsn, clock := RunClock(time.time(), START + 61, 20.0))
    cycle.wait(lambda: len(cycle.windows()) >= 3)
    cycle.watch.park = changed(feed.sim.park)
    given = clock.now() - START
    cycle.wait(lambda: len(cycle.windows()) == 9)
    cycle.end()
    log = query(postgres_dsn, "select extract(epoch from window_start)::float8, park_version, revision, closed_by "
                              "from balance_window order by 1")
    assert [round(start - START) for start, *_ in log] == list(range(0, 180, 20))
    assert {(revision, by) for *_, revision, by in log} == {(0, "complete")}
    versions = [version for _, version, *_ in log]
    first_new = versions.index(versions[-1])
    assert versions == [versions[0]] * first_new + [versions[-1]] * (9 - first_new)
    assert 20 * first_new >= given          # the window that had begun is of the park before
    assert first_new < 9
    assert cycle.windows()[-1]["park_version"] == versions[-1]
    stored = dict(query(postgres_dsn, "select id, document -> 'meters' -> 0 ->> 'u95_percent_of_reading' "
                                      "from park_version"))
    assert float(stored[versions[-1]]) == 7.0
    ((result, line),) = cycle.watch.said
    assert result == "applied"
    assert line.startswith("windows from now on are those of ")


def test_processing_lives_while_it_waits_for_its_database(tmp_path: Path) -> None:
    cycle = Watched(works(), f"host={tmp_path} dbname=nowhere", RunClock(time.time(), START, 1.0))
    cycle.wait(lambda: any(state == "waiting" for state, _ in cycle.said))
    deadline = time.monotonic() + 20
    while cycle.watch.times_asked < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    cycle.end()


def test_windows_of_another_length_begin_at_the_boundary(postgres_dsn: str, feed: Feed) -> None:
    cycle = Watched(feed.sim.park, postgres_dsn, RunClock(time.time(), START + 61, 20.0))
    cycle.wait(lambda: len(cycle.windows()) >= 3)
    info = feed.sim.park.park.model_copy(update={"window_s": 40.0})
    cycle.watch.park = feed.sim.park.model_copy(update={"park": info})
    cycle.wait(lambda: bool(cycle.watch.said) and cycle.windows()[-1]["end"] >= "2026-01-01T00:02:40")
    cycle.end()
    spans = query(postgres_dsn, "select extract(epoch from window_start)::float8, "
                                "extract(epoch from window_end - window_start)::float8 from balance_window order by 1")
    lengths = [length for _, length in spans]
    assert lengths == [20.0] * lengths.count(20.0) + [40.0] * lengths.count(40.0)
    assert lengths.count(40.0) >= 1
    assert all((start - START) % length == 0 for start, length in spans)


def test_a_park_that_cannot_be_computed_with_is_refused_and_the_one_before_goes_on(
    postgres_dsn: str, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycle = Watched(feed.sim.park, postgres_dsn, RunClock(time.time(), START + 61, 20.0))
    cycle.wait(lambda: len(cycle.windows()) >= 3)

    def refusing(_park: Park) -> None:
        raise InputError("no balance holds")

    monkeypatch.setattr(succession, "Estimator", refusing)
    cycle.watch.park = changed(feed.sim.park)
    cycle.wait(lambda: len(cycle.windows()) == 9)
    cycle.end()
    assert cycle.watch.said == [("refused", "no balance holds")]
    assert len({version for (version,) in query(postgres_dsn, "select park_version from balance_window")}) == 1
    assert threading.active_count() < 20
