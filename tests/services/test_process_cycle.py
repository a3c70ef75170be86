"""The live cycle on a real PostgreSQL: windows close, late readings revise, restarts and kills lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from park.clock import RunClock
from park.model import MqttSource, Park, Source
from park.store import ReadingBatch, ReadingWriter
from processing.chain import Chain
from processing.cycle import process
from processing.window import Readings
from simulators.scenario import Scenario
from tests.fixtures.timescale import every_edition
from tests.processing.parks import SCENARIO, works
from tests.processing.simulated import START, Simulated
from tests.processing.test_chain import play

edition = every_edition     # plain PostgreSQL and TimescaleDB
# of long tests on what a window's one transaction, or the clock, makes sure of, whatever the tables are
ONE_EDITION = pytest.mark.parametrize("edition", ["plain"], indirect=True)

S = 1_000_000
WINDOW = 20 * S

WORKER = """
import sys, threading
from park.clock import RunClock
from processing.cycle import process
from tests.processing.parks import works
process(works(), sys.argv[1], RunClock(*map(float, sys.argv[2:5])), stop=threading.Event(),
        on_state=lambda state, detail: print(state, flush=True))
"""


class Cycle:
    """`process` in a thread, and what it says."""

    def __init__(self, park: Park, dsn: str, clock: RunClock) -> None:
        self.stop, self.said, self._changed = threading.Event(), [], threading.Condition()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(park, dsn, clock), daemon=True)
        self._thread.start()

    def _run(self, park: Park, dsn: str, clock: RunClock) -> None:
        try:
            process(park, dsn, clock, stop=self.stop, on_state=self._say)
        except BaseException as error:      # noqa: BLE001
            self.failure = error
            self._say("failed", {})

    def _say(self, state: str, detail: dict[str, Any]) -> None:
        with self._changed:
            self.said.append((state, detail))
            self._changed.notify_all()

    def windows(self, *closed_by: str) -> list[dict[str, Any]]:
        found = [detail for state, detail in list(self.said) if state == "window"]
        return [detail for detail in found if not closed_by or detail["closed_by"] in closed_by]

    def wait(self, condition: Any, seconds: float = 60.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition() or self.failure is not None, seconds), self.said[-3:]
        if self.failure is not None:
            raise self.failure

    def end(self) -> None:
        self.stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure


class Feed:
    """A simulated works whose readings are written as a collector would."""

    def __init__(self, dsn: str, *, start: float = START, faults: tuple[dict[str, Any], ...] = ()) -> None:
        scenario = Scenario.model_validate({**SCENARIO, "faults": list(faults)})
        self.sim = Simulated(works(), scenario, seed=1, start=start)
        self.sim.sampler.faults.arm(start)
        self.names = [m.id for m in self.sim.park.meters]
        self._writer = ReadingWriter(dsn)

    def play(self, until: float) -> Readings:
        """Return the readings up to `until` seconds after the start."""
        return self.sim._play(self.sim.start + until)

    def write(self, readings: Readings) -> None:
        if len(readings):
            status = np.where(readings.quality == 2, 0x80000000, 0)
            self._writer.write(ReadingBatch(
                self.names, readings.meter, readings.time_us, readings.time_us + S, readings.value, status))

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
def feed(postgres_dsn: str) -> Iterator[Feed]:
    feed = Feed(postgres_dsn)
    yield feed
    feed.close()


def later(seconds: float) -> RunClock:
    """A clock that stands `seconds` after the start of the run, so that everything before is overdue."""
    return RunClock(time.time(), START + seconds, 1.0)


def query(dsn: str, text: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as conn:
        return conn.execute(text.encode(), values).fetchall()


def window_starts(dsn: str) -> list[int]:
    return [round(row[0].timestamp() - START) for row in query(
        dsn, "select window_start from window_log order by window_start")]


def stored_flows(dsn: str) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    rows = query(dsn, "select window_start, stream, side, quantity, measured, reconciled, std from flow_history")
    return {row[:4]: row[4:] for row in rows}


def test_windows_close_complete_and_hold_what_the_chain_gives(postgres_dsn: str, feed: Feed) -> None:
    cycle = Cycle(feed.sim.park, postgres_dsn, later(101))
    feed.write(feed.play(100))
    cycle.wait(lambda: len(cycle.windows()) == 5)
    cycle.end()
    assert window_starts(postgres_dsn) == [0, 20, 40, 60, 80]
    assert {w["closed_by"] for w in cycle.windows()} == {"complete"}
    twin = Simulated(works(), Scenario.model_validate(SCENARIO), seed=1)
    expected = list(play(Chain(works()), twin, 5))
    found = stored_flows(postgres_dsn)
    assert len(found) == sum(len(r.rows.flows) for r in expected)
    for result in expected:
        for row in result.rows.flows:
            key = next(k for k in found if k[0].timestamp() * S == result.start_us
                       and k[1:] == (row.stream, row.side, row.quantity))
            assert found[key] == (row.measured, row.reconciled, row.std)


def test_views_answer_from_what_was_written(postgres_dsn: str, feed: Feed) -> None:
    cycle = Cycle(feed.sim.park, postgres_dsn, later(61))
    feed.write(feed.play(60))
    cycle.wait(lambda: len(cycle.windows()) == 3)
    cycle.end()
    park = feed.sim.park
    now = query(postgres_dsn, "select exchange, from_participant, to_participant, reconciled, in_agreement "
                              "from exchange_now order by position")
    assert [row[0] for row in now] == [x.id for x in park.exchanges]
    assert all(row[1:3] == park.parties(x) for row, x in zip(now, park.exchanges, strict=True))
    assert all(row[3] is not None and row[4] for row in now)
    assert len(query(postgres_dsn, "select * from node_now")) == 12
    assert {row[0] for row in query(postgres_dsn, "select meter from meter_now")} == {m.id for m in park.meters}
    assert query(postgres_dsn, "select count(*) from flow_now")[0][0] == 30


def test_exchange_of_which_nothing_is_known_is_neither_in_nor_out_of_agreement(postgres_dsn: str, feed: Feed) -> None:
    readings = feed.play(60)
    belt = [m for m, meter in enumerate(feed.sim.park.meters) if meter.id in ("WT1", "WT2", "WT3", "WT4", "WT5")]
    cycle = Cycle(feed.sim.park, postgres_dsn, later(61 + 10))
    feed.write(readings._where(~np.isin(readings.meter, belt)))
    cycle.wait(lambda: len(cycle.windows()) == 3)
    cycle.end()
    found = dict(query(postgres_dsn, "select exchange, in_agreement from exchange_now"))
    assert found["X3"] is None
    assert found["X1"] is True
    worst = query(postgres_dsn, "select state, deviating from network_edge where kind = 'material'")
    assert worst == [("no value", None)]


@ONE_EDITION
def test_missing_reading_is_waited_for_as_long_as_lateness_says(postgres_dsn: str, feed: Feed) -> None:
    readings = feed.play(20)
    last = (readings.meter == 0) & (readings.time_us == round((START + 15) * S))
    feed.write(readings._where(~last))
    cycle = Cycle(feed.sim.park, postgres_dsn, RunClock(time.time(), START + 24, 1.0))
    cycle.wait(lambda: any(state == "ready" for state, _ in cycle.said))
    began = time.monotonic()
    cycle.wait(lambda: bool(cycle.windows()))
    cycle.end()
    assert cycle.windows()[0]["closed_by"] == "lateness"
    assert cycle.windows()[0]["lag_s"] >= 10.0
    assert time.monotonic() - began < 20


def test_late_reading_revises_its_window_and_those_its_delay_reaches(postgres_dsn: str, feed: Feed) -> None:
    """WT1 stands at the sender of a belt of 50 s: its reading of 30 s matters to the windows of 20 and 80 s."""
    readings = feed.play(120)
    m = feed.names.index("WT1")
    late = (readings.meter == m) & (readings.time_us == round((START + 30) * S))
    feed.write(readings._where(~late))
    cycle = Cycle(feed.sim.park, postgres_dsn, later(131))
    cycle.wait(lambda: len(cycle.windows()) == 6)
    before = stored_flows(postgres_dsn)
    feed.write(readings._where(late))
    cycle.wait(lambda: len(cycle.windows("revised")) >= 4)
    cycle.end()
    log = {round(r[0].timestamp() - START): r[1:] for r in query(
        postgres_dsn, "select window_start, closed_by, revision, readings from window_log")}
    assert log[20][:2] == ("revised", 1)
    assert log[80][:2] == ("revised", 1)
    assert log[0][1] == 0
    after = stored_flows(postgres_dsn)
    changed = {round(k[0].timestamp() - START) for k in before if before[k] != after[k] and k[1] == "GY"}
    assert changed == {20, 80}
    assert len(after) == len(before)


def test_restart_goes_on_where_it_stopped(postgres_dsn: str, feed: Feed) -> None:
    feed.write(feed.play(60))
    first = Cycle(feed.sim.park, postgres_dsn, later(61))
    first.wait(lambda: len(first.windows()) == 3)
    first.end()
    feed.write(feed.play(140))          # collected while processing was down
    second = Cycle(feed.sim.park, postgres_dsn, later(141))
    second.wait(lambda: len(second.windows()) == 4)
    second.end()
    assert window_starts(postgres_dsn) == [0, 20, 40, 60, 80, 100, 120]
    assert query(postgres_dsn, "select count(*) from event_list") == [(0,)]


def test_time_between_runs_is_neither_silence_nor_a_window(postgres_dsn: str, feed: Feed) -> None:
    feed.write(feed.play(60))
    first = Cycle(feed.sim.park, postgres_dsn, later(61))
    first.wait(lambda: len(first.windows()) == 3)
    first.end()
    hour = Feed(postgres_dsn, start=START + 3600)
    second = Cycle(feed.sim.park, postgres_dsn, RunClock(time.time(), START + 3661, 1.0))
    hour.write(hour.play(60))
    second.wait(lambda: len(second.windows()) == 3)
    second.end()
    hour.close()
    assert window_starts(postgres_dsn) == [0, 20, 40, 3600, 3620, 3640]
    assert query(postgres_dsn, "select kind, subject from event_list") == []


def test_events_open_and_close_with_their_evidence(postgres_dsn: str) -> None:
    feed = Feed(postgres_dsn, faults=(
        {"id": "d", "kind": "dropout", "subject": "WT4", "after_s": 200, "duration_s": 100},
        {"id": "b", "kind": "bias", "subject": "FT3", "after_s": 200, "duration_s": 160, "size_percent": 7}))
    feed.write(feed.play(500))
    cycle = Cycle(feed.sim.park, postgres_dsn, later(511))
    cycle.wait(lambda: len(cycle.windows()) == 25)
    cycle.end()
    feed.close()
    found = {row[0]: row[1:] for row in query(
        postgres_dsn, "select kind, subject, state, started_at, ended_at, participant, evidence from event_list")}
    assert set(found) == {"meter_silent", "meter_bias", "volume_mismatch"}
    subject, state, started, ended, participant, _ = found["meter_silent"]
    assert (subject, state, participant) == ("WT4", "returned", "plant")
    assert (started.timestamp() - START, ended.timestamp() - START) == (200, 300)
    assert found["meter_bias"][0] == "FT3"
    assert set(found["meter_bias"][5]["exchanges"]) == {"X1"}
    out = query(postgres_dsn, "select distinct unnest(taken_out) from window_log")
    assert {name for name, in out} == {"WT4", "FT3"}
    out_of = query(postgres_dsn, "select count(*) from exchange_history where not in_agreement and exchange = 'X1'")
    assert out_of[0][0] > 3


@pytest.mark.parametrize("marked", [True, False])
def test_gap_of_a_source_makes_no_meter_silent(postgres_dsn: str, feed: Feed, marked: bool) -> None:
    """The MQTT meters are away for 100 s: with a gap that says so nobody is silent, without it all of them are."""
    over_mqtt = feed.sim.park.meters[:6]
    park = feed.sim.park.model_copy(update={"meters": tuple(
        m.model_copy(update={"source": Source(mqtt=MqttSource(topic=m.id))}) if m in over_mqtt else m
        for m in feed.sim.park.meters)})
    readings = feed.play(300)
    away = (readings.meter < 6) & (readings.time_us >= (START + 100) * S) & (readings.time_us < (START + 200) * S)
    if marked:
        with psycopg.connect(postgres_dsn) as conn:
            conn.execute("insert into gap (source, started_at, ended_at, cause) values "
                         "('mqtt', to_timestamp(%s), to_timestamp(%s), 'broker was away')", [START + 95, START + 200])
    feed.write(readings._where(~away))
    cycle = Cycle(park, postgres_dsn, later(311))
    cycle.wait(lambda: len(cycle.windows()) == 15)
    cycle.end()
    silent = {row[0] for row in query(postgres_dsn, "select subject from event_list where kind = 'meter_silent'")}
    assert silent == (set() if marked else {m.id for m in over_mqtt})


def test_database_that_goes_away_is_waited_for_and_said_once(postgres_dsn: str, feed: Feed) -> None:
    cycle = Cycle(feed.sim.park, postgres_dsn, later(61))
    feed.write(feed.play(40))
    cycle.wait(lambda: len(cycle.windows()) == 2)
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:
        for _ in range(2):
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name in "
                         "('symbiosis process', 'symbiosis arrivals') and datname = current_database()")
    feed.write(feed.play(60))
    cycle.wait(lambda: len(cycle.windows()) == 3)
    cycle.end()
    states = [state for state, _ in cycle.said]
    assert states.count("waiting") == 1
    assert states.index("waiting") < states.index("processing")
    assert window_starts(postgres_dsn) == [0, 20, 40]


def test_database_that_is_away_at_the_start_can_be_given_up(tmp_path: Path) -> None:
    cycle = Cycle(works(), f"host={tmp_path} dbname=nowhere", later(0))
    cycle.wait(lambda: any(state == "waiting" for state, _ in cycle.said))
    cycle.end()


@ONE_EDITION
def test_kill_at_any_moment_neither_loses_nor_doubles_a_window(postgres_dsn: str) -> None:
    """Killed again and again while it makes up for 20 minutes; at the end the store holds what one run gives."""
    feed = Feed(postgres_dsn, faults=(
        {"id": "d", "kind": "dropout", "subject": "WT4", "after_s": 300, "duration_s": 100},
        {"id": "s", "kind": "stuck", "subject": "FT6", "after_s": 600, "duration_s": 200}))
    feed.write(feed.play(1200))
    feed.close()
    rng = np.random.default_rng(0)
    kills = 0
    while len(window_starts(postgres_dsn)) < 60:
        command = [sys.executable, "-c", WORKER, postgres_dsn, str(time.time()), str(START + 1211), "1.0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
                              env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}) as worker:
            assert worker.stdout is not None
            for _ in range(int(rng.integers(10, 24))):
                if not worker.stdout.readline() or len(window_starts(postgres_dsn)) == 60:
                    break
            time.sleep(float(rng.uniform(0, 0.05)))
            worker.send_signal(signal.SIGKILL)
        kills += 1
        assert kills < 30
    assert kills >= 3
    assert window_starts(postgres_dsn) == list(range(0, 1200, 20))
    twin = Simulated(works(), Scenario.model_validate({**SCENARIO, "faults": [
        {"id": "d", "kind": "dropout", "subject": "WT4", "after_s": 300, "duration_s": 100},
        {"id": "s", "kind": "stuck", "subject": "FT6", "after_s": 600, "duration_s": 200}]}), seed=1)
    twin.sampler.faults.arm(START)
    expected = {(r.start_us, f.stream, f.side, f.quantity): f.reconciled
                for r in play(Chain(works()), twin, 60) for f in r.rows.flows}
    found = {(round(k[0].timestamp() * S), *k[1:]): v[1] for k, v in stored_flows(postgres_dsn).items()}
    assert found == expected
    assert sorted(query(postgres_dsn, "select kind, subject from event_list")) == [
        ("meter_silent", "WT4"), ("meter_stuck", "FT6")]


def test_windows_begin_on_boundaries_after_their_length_has_changed(postgres_dsn: str, feed: Feed) -> None:
    feed.write(feed.play(100))
    first = Cycle(feed.sim.park, postgres_dsn, later(101))
    first.wait(lambda: len(first.windows()) == 5)
    first.end()
    info = feed.sim.park.park.model_copy(update={"window_s": 30.0})
    feed.write(feed.play(180))
    second = Cycle(feed.sim.park.model_copy(update={"park": info}), postgres_dsn, later(181))
    second.wait(lambda: len(second.windows()) == 2)
    second.end()
    assert window_starts(postgres_dsn) == [0, 20, 40, 60, 80, 120, 150]
