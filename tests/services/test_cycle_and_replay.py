"""The live cycle on a database against a replay of its readings: the same rows and events, bit for bit."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from park.units import Conversion, conversion
from processing.replay import replay
from processing.result_files import iso
from tests.processing.parks import works
from tests.processing.simulated import START
from tests.services.test_process_cycle import Cycle, Feed, later, query

S = 1_000_000
FAULTS = (
    {"id": "d", "kind": "dropout", "subject": "WT4", "after_s": 120, "duration_s": 80},
    {"id": "b", "kind": "bias", "subject": "FT3", "after_s": 200, "duration_s": 120, "size_percent": 7},
    {"id": "s", "kind": "stuck", "subject": "FT6", "after_s": 300, "duration_s": 120})

TABLES = {
    "reconciled": "select window_start, stream, side, quantity, unit, measured, reconciled, std, adjustment, status,"
                  " coverage, best_meter, best_measured from flow",
    "nodes": "select window_start, node, quantity, unit, imbalance, stored, std, reconciled_imbalance"
             " from node_balance",
    "meters": "select window_start, meter, unit, measured, expected, test_statistic, suspect from meter_result",
}
EVENTS = ("select row_number() over (order by id), kind, subject, started_at, ended_at, severity, value, limit_value,"
          " message, aspect from event order by id")


def in_unit(value: float, unit: Conversion) -> float:
    """Return what a meter must have said for this SI value, exactly."""
    guess = float(unit.from_si(value))
    for candidate in (guess, *(np.nextafter(guess, side) for side in (-np.inf, np.inf)), *(
            np.nextafter(np.nextafter(guess, side), side) for side in (-np.inf, np.inf))):
        if float(candidate) * unit.scale + unit.offset == value:
            return float(candidate)
    raise AssertionError(f"no value gives {value}")


def recorded(dsn: str, path: Path) -> Path:
    """Write the readings of a database as replay reads them."""
    units = {m.id: conversion(m.unit) for m in works().meters}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("time", "meter", "value", "quality"))
        for meter, time, value, status in query(dsn, "select meter, source_time, value, status from reading"):
            word = ("good", "uncertain", "bad", "bad")[status >> 30]
            told = "" if value is None else repr(in_unit(value, units[meter]))
            writer.writerow((time.isoformat(), meter, told, word))
    return path


def text(entry: Any) -> str:
    """Return an entry of the store as the files have it."""
    if isinstance(entry, datetime):
        return iso(round(entry.astimezone(UTC).timestamp() * S))
    if isinstance(entry, bool):
        return "true" if entry else "false"
    return "" if entry is None else format(entry, ".17g") if isinstance(entry, float) else str(entry)


def stored(dsn: str, statement: str) -> list[list[str]]:
    return [[text(entry) for entry in row] for row in query(dsn, statement)]


def written(out: Path, name: str) -> list[list[str]]:
    with (out / f"{name}.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def run(dsn: str, feed: Feed, until: float, windows: int) -> None:
    cycle = Cycle(feed.sim.park, dsn, later(until + 11))
    cycle.wait(lambda: len(cycle.windows("complete", "lateness")) == windows)
    cycle.end()


@pytest.fixture
def feed(postgres_dsn: str) -> Any:
    feed = Feed(postgres_dsn, faults=FAULTS)
    yield feed
    feed.close()


def test_what_the_cycle_stores_is_what_a_replay_of_its_readings_writes(postgres_dsn: str, feed: Feed, tmp_path: Path):
    """With a restart in between, in the middle of a silence; a dropout, a bias and a frozen meter."""
    feed.write(feed.play(160))
    run(postgres_dsn, feed, 160, 8)
    feed.write(feed.play(480))
    run(postgres_dsn, feed, 480, 16)
    done = replay(works(), [recorded(postgres_dsn, tmp_path / "readings.csv")], tmp_path / "out")
    assert done.windows == 24
    for name, statement in TABLES.items():
        assert sorted(written(tmp_path / "out", name)) == sorted(stored(postgres_dsn, statement)), name
    events = stored(postgres_dsn, EVENTS)
    assert written(tmp_path / "out", "events") == events
    assert {row[1] for row in events} >= {"meter_silent", "meter_bias", "meter_stuck", "volume_mismatch"}


def test_windows_revised_by_late_readings_are_those_of_a_replay(postgres_dsn: str, tmp_path: Path):
    feed = Feed(postgres_dsn)
    readings = feed.play(200)
    meters = [feed.names.index(name) for name in ("WT1", "FT4")]
    seconds = readings.time_us / S - START
    late = np.isin(readings.meter, meters) & (seconds > 70) & (seconds < 90)
    feed.write(readings._where(~late))
    cycle = Cycle(feed.sim.park, postgres_dsn, later(211))
    cycle.wait(lambda: len(cycle.windows("complete", "lateness")) == 10)
    before = stored(postgres_dsn, TABLES["reconciled"])
    feed.write(readings._where(late))
    cycle.wait(lambda: len(cycle.windows("revised")) >= 4)
    cycle.end()
    feed.close()
    replay(works(), [recorded(postgres_dsn, tmp_path / "readings.csv")], tmp_path / "out")
    for name, statement in TABLES.items():
        assert sorted(written(tmp_path / "out", name)) == sorted(stored(postgres_dsn, statement)), name
    assert sorted(before) != sorted(stored(postgres_dsn, TABLES["reconciled"]))


def test_the_exact_value_in_a_meters_unit_is_found():
    unit = conversion("t/h")
    for value in np.random.default_rng(0).uniform(0, 100, 200).tolist():
        si = value * unit.scale + unit.offset
        assert in_unit(si, unit) * unit.scale + unit.offset == si
