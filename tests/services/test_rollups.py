"""Readings at 1 minute, 15 minutes and 1 hour say what the readings say; retention takes what it was told to take."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from park.store import ReadingWriter, connect, reading_batch
from park.store.retention import delete_expired, retention_of, set_retention
from park.store.rollups import advance_rollups
from tests.fixtures.timescale import every_edition

edition = every_edition     # plain PostgreSQL and TimescaleDB

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
S = 1_000_000
START_US = int(BEGAN.timestamp()) * S
VIEWS = {"reading_1min": 60, "reading_15min": 900, "reading_1h": 3600}

# what the views must say, by the obvious way over all readings
RAW = """
    select meter, date_bin(%(step)s * interval '1 second', source_time, '2000-01-01Z') as bucket, count(*),
           count(value) filter (where status < 1073741824),
           avg(value) filter (where status < 1073741824), min(value) filter (where status < 1073741824),
           max(value) filter (where status < 1073741824),
           (array_agg(value order by source_time) filter (where status < 1073741824 and value is not null))[1],
           (array_agg(value order by source_time desc) filter (where status < 1073741824 and value is not null))[1]
      from reading group by 1, 2 order by 1, 2
"""


@pytest.fixture
def conn(postgres_dsn: str) -> Iterator[psycopg.Connection]:
    with connect(postgres_dsn, autocommit=True) as connection:
        yield connection


def write(dsn: str, meters: str, seconds: np.ndarray, seed: int = 0) -> None:
    """Write a reading a second given for each meter: good, uncertain and bad ones, some without a number."""
    rng = np.random.default_rng(seed)
    names = np.repeat(list(meters), len(seconds))
    times = START_US + np.tile(np.round(seconds * S).astype(np.int64), len(meters))
    values = np.where(rng.random(len(names)) < 0.1, np.nan, rng.normal(20, 5, len(names)))
    status = rng.choice([0, 0, 0, 0x00960000, 0x40000000, 0x80000000], len(names))
    with ReadingWriter(dsn) as writer:
        writer.write(reading_batch(names.tolist(), times, times + S, values, status))


def held_against_raw(conn: psycopg.Connection) -> int:
    """Hold each view against the readings; return how many buckets there were."""
    buckets = 0
    for view, step in VIEWS.items():
        expected = conn.execute(RAW, {"step": step}).fetchall()
        query = f"select meter, bucket, readings, good, mean, low, high, first, last from {view} order by 1, 2"
        found = conn.execute(query.encode()).fetchall()
        assert [row[:4] for row in found] == [row[:4] for row in expected], view
        for mine, raw in zip(found, expected, strict=True):
            assert mine[5:] == raw[5:]
            assert (mine[4] is None) == (raw[4] is None)
            assert mine[4] is None or mine[4] == pytest.approx(raw[4], rel=1e-12)
        buckets += len(found)
    return buckets


def counts(conn: psycopg.Connection) -> tuple[int, int]:
    """Return how many buckets are stored, and how many are pending."""
    row = conn.execute(
        "select (select count(*) from reading_rollup), (select count(*) from reading_rollup_pending)").fetchone()
    assert row is not None
    return row


def test_views_say_what_the_readings_say_before_and_after_they_are_stored(
    conn: psycopg.Connection, postgres_dsn: str
) -> None:
    write(postgres_dsn, "abc", np.arange(0, 3 * 3600 + 100, 7.5))
    n_buckets = held_against_raw(conn)
    assert counts(conn)[0] == 0
    while advance_rollups(conn, BEGAN + timedelta(hours=3)):
        pass
    assert counts(conn) == (3 * (180 + 12 + 3), 2 + 1 + 1)      # what is after the third hour goes on
    assert held_against_raw(conn) == n_buckets


def test_late_and_repeated_readings_reach_the_buckets_that_they_touch(
    conn: psycopg.Connection, postgres_dsn: str
) -> None:
    seconds = np.arange(0, 7200, 20)
    write(postgres_dsn, "ab", seconds)
    while advance_rollups(conn, BEGAN + timedelta(hours=2)):
        pass
    write(postgres_dsn, "ab", seconds)      # once more the same: nothing new, nothing pending
    assert counts(conn)[1] == 0
    write(postgres_dsn, "c", np.array([65.0, 70.0]), seed=1)
    assert counts(conn)[1] == 3
    held_against_raw(conn)
    assert advance_rollups(conn, BEGAN + timedelta(hours=2)) == 3
    held_against_raw(conn)


def test_a_writer_that_has_not_committed_keeps_its_buckets_pending(conn: psycopg.Connection, postgres_dsn: str) -> None:
    write(postgres_dsn, "a", np.arange(0, 50, 10))
    with connect(postgres_dsn) as late:
        late.execute("insert into reading values ('b', %s, now(), 1, 0)", [BEGAN])
        late.execute("insert into arrival (period_start, period_end, row_count, received_at) values (%s, %s, 1, now())",
                     [BEGAN, BEGAN])
        assert advance_rollups(conn, BEGAN + timedelta(days=1)) == 0
        late.commit()
    assert advance_rollups(conn, BEGAN + timedelta(days=1)) == 3
    held_against_raw(conn)


def test_no_more_than_asked_for_is_computed_at_once(conn: psycopg.Connection, postgres_dsn: str) -> None:
    write(postgres_dsn, "a", np.arange(0, 6 * 3600, 30))
    assert advance_rollups(conn, BEGAN + timedelta(hours=6)) == 10 + 10 + 6
    assert advance_rollups(conn, BEGAN + timedelta(hours=6)) == 10 + 10
    held_against_raw(conn)


def test_the_reader_sees_the_three_views(conn: psycopg.Connection, postgres_dsn: str) -> None:
    write(postgres_dsn, "a", np.array([0.0]))
    conn.execute("drop role if exists rollups_reader")
    conn.execute("create role rollups_reader login in role symbiosis_reader")
    with connect(make_conninfo(postgres_dsn, user="rollups_reader"), autocommit=True) as reader:
        for view in VIEWS:
            assert len(reader.execute(f"select * from {view}".encode()).fetchall()) == 1
        for hidden in ("reading", "reading_rollup", "reading_rollup_1min", "reading_tail_1min", "retention"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(f"select * from {hidden}".encode())


def test_nothing_is_deleted_unless_somebody_says_so(conn: psycopg.Connection, postgres_dsn: str) -> None:
    write(postgres_dsn, "a", np.arange(0, 100, 10))
    assert delete_expired(conn, BEGAN + timedelta(days=10_000)) == {}
    assert conn.execute("select count(*) from reading").fetchone() == (10,)
    assert all(kept.keep is None and kept.cut is None for kept in retention_of(conn).values())


def test_readings_go_after_their_time_and_their_hours_stay(conn: psycopg.Connection, postgres_dsn: str) -> None:
    write(postgres_dsn, "ab", np.arange(0, 3 * 86400, 600))
    hours = conn.execute("select * from reading_1h order by meter, bucket").fetchall()
    set_retention(conn, "reading", timedelta(days=1))
    set_retention(conn, "reading_1min", timedelta(days=2))
    cuts = delete_expired(conn, BEGAN + timedelta(days=3, hours=2))
    assert cuts == {"reading": BEGAN + timedelta(days=2), "reading_1min": BEGAN + timedelta(days=1)}
    assert conn.execute("select min(source_time), count(*) from reading").fetchone() == (BEGAN + timedelta(days=2), 288)
    assert conn.execute("select min(bucket) from reading_1min").fetchone() == (BEGAN + timedelta(days=1),)
    assert conn.execute("select * from reading_1h order by meter, bucket").fetchall() == hours
    assert delete_expired(conn, BEGAN + timedelta(days=3, hours=2)) == cuts
    # a reading that comes later than that is stored, and changes no hour that it cannot compute again
    write(postgres_dsn, "a", np.array([5.0]), seed=2)
    while advance_rollups(conn, BEGAN + timedelta(days=3)):
        pass
    assert conn.execute("select * from reading_1h order by meter, bucket").fetchall() == hours


def test_results_go_after_their_time(conn: psycopg.Connection) -> None:
    for day in (0, 100):
        moment = BEGAN + timedelta(days=day)
        conn.execute(
            "insert into meter_result (window_start, meter, unit, park_version) values (%s, 'a', 'K', 1)", [moment])
    set_retention(conn, "result", timedelta(days=30))
    delete_expired(conn, BEGAN + timedelta(days=101))
    assert conn.execute("select window_start from meter_result").fetchall() == [(BEGAN + timedelta(days=100),)]


@pytest.mark.parametrize(
    ("tier", "keep", "message"),
    [("hourly", timedelta(days=2), "no tier 'hourly'"), ("reading", timedelta(hours=2), "a day at least, got 2:00:00")],
)
def test_wrong_retention_is_refused(conn: psycopg.Connection, tier: str, keep: timedelta, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        set_retention(conn, tier, keep)
