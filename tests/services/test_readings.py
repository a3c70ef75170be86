"""Readings into a real database and out of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest

from park.errors import StoreError
from park.store import (
    ArrivalListener,
    ReadingBatch,
    ReadingWriter,
    WriteResult,
    arrivals_after,
    connect,
    latest_arrival,
    read_window,
    reading_batch,
)
from park.store.arrivals import LOCK_KEY
from tests.fixtures.timescale import every_edition

edition = every_edition     # plain PostgreSQL and TimescaleDB

T0 = 1_767_225_600_000_000      # 2026-01-01T00:00:00Z
SECOND = 1_000_000


@pytest.fixture
def conn(postgres_dsn: str) -> Iterator[psycopg.Connection]:
    with connect(postgres_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def writer(postgres_dsn: str) -> Iterator[ReadingWriter]:
    with ReadingWriter(postgres_dsn) as open_writer:
        yield open_writer


def seconds(*at: float) -> list[int]:
    return [T0 + round(s * SECOND) for s in at]


def stored(conn: psycopg.Connection) -> list[tuple[object, ...]]:
    return conn.execute(
        "select meter, extract(epoch from source_time - '2026-01-01')::float8, value, status from reading order by 1, 2"
    ).fetchall()


def conflicts(conn: psycopg.Connection) -> list[tuple[object, ...]]:
    columns = "value, status, stored_value, stored_status"
    return conn.execute(f"select {columns} from reading_conflict order by id".encode()).fetchall()


def test_new_rows_are_stored_as_they_are(conn: psycopg.Connection, writer: ReadingWriter) -> None:
    meters = ["a", "b.längere", "a", "c"]
    values = [1.5, -0.1, np.nan, 1e-300]
    batch = reading_batch(
        meters, seconds(0, 0, 1.000001, 2), T0 + 1, values, [0, 0x40930000, 0x80000000, 0xFFFFFFFF]
    )
    assert writer.write(batch) == WriteResult(new=4)
    assert stored(conn) == [
        ("a", 0.0, 1.5, 0),
        ("a", 1.000001, None, 0x80000000),
        ("b.längere", 0.0, -0.1, 0x40930000),
        ("c", 2.0, 1e-300, 0xFFFFFFFF),
    ]


def test_second_write_changes_nothing(conn: psycopg.Connection, writer: ReadingWriter) -> None:
    batch = reading_batch(["a", "a", "b"], seconds(0, 1, 0), T0, [1.0, np.nan, 3.0])
    writer.write(batch)
    before = latest_arrival(conn)
    assert writer.write(batch) == WriteResult(repeated=3)
    assert len(stored(conn)) == 3
    assert conflicts(conn) == []
    assert latest_arrival(conn) == before


def test_repeated_and_new_in_one_batch(conn: psycopg.Connection, writer: ReadingWriter) -> None:
    writer.write(reading_batch(["a"], seconds(0), T0, 1.0))
    assert writer.write(reading_batch(["a", "a"], seconds(0, 1), T0, [1.0, 2.0])) == WriteResult(new=1, repeated=1)
    assert writer.write(reading_batch(["a"], seconds(2), T0, 1.0)) == WriteResult(new=1)      # by the merging path
    assert writer.write(reading_batch(["a"], seconds(3), T0, 1.0)) == WriteResult(new=1)      # straight again
    assert len(stored(conn)) == 4


@pytest.mark.parametrize(
    ("value", "status"), [(2.0, 0), (1.0, 0x40000000), (np.nan, 0)], ids=["value", "status", "value against none"]
)
def test_another_reading_for_a_key_is_a_conflict(
    conn: psycopg.Connection, writer: ReadingWriter, value: float, status: int
) -> None:
    writer.write(reading_batch(["a"], seconds(0), T0, 1.0))
    other = reading_batch(["a"], seconds(0), T0, value, status)
    assert writer.write(other) == WriteResult(conflicting=1)
    assert writer.write(other) == WriteResult(conflicting=1)      # once more: still one conflict
    assert stored(conn) == [("a", 0.0, 1.0, 0)]
    assert conflicts(conn) == [(None if np.isnan(value) else value, status, 1.0, 0)]


def test_first_of_two_in_one_batch_stays(conn: psycopg.Connection, writer: ReadingWriter) -> None:
    batch = reading_batch(["long name", "a", "a", "a"], seconds(0, 0, 0, 0), T0, [0.0, 1.0, 2.0, 1.0])
    assert writer.write(batch) == WriteResult(new=2, repeated=1, conflicting=1)
    assert stored(conn) == [("a", 0.0, 1.0, 0), ("long name", 0.0, 0.0, 0)]
    assert conflicts(conn) == [(2.0, 0, 1.0, 0)]


def test_a_batch_is_written_in_the_order_of_its_key_with_the_names_that_it_uses(
    conn: psycopg.Connection, writer: ReadingWriter
) -> None:
    batch = ReadingBatch(["c", "unused", "a", "b"], np.array([0, 3, 2, 0, 2]), np.array(seconds(1, 1, 2, 0, 1)),
                         np.full(5, T0), np.arange(5.0), np.zeros(5, np.int64))
    assert batch.compact().names == ["a", "b", "c"]
    assert writer.write(batch) == WriteResult(new=5)
    laid = conn.execute("select meter, value from reading order by ctid").fetchall()
    assert laid == [("a", 4.0), ("a", 2.0), ("b", 1.0), ("c", 3.0), ("c", 0.0)]


def test_no_number_twice_is_a_repetition(writer: ReadingWriter) -> None:
    batch = reading_batch(["a"], seconds(0), T0, np.nan, 0x80000000)
    writer.write(batch)
    assert writer.write(batch) == WriteResult(repeated=1)


def test_rows_that_the_table_refuses_are_named_and_the_others_kept(
    conn: psycopg.Connection, writer: ReadingWriter
) -> None:
    batch = ReadingBatch(
        ["a", ""],
        np.array([0, 0, 0, 0, 1, 7, 0]),
        np.array([*seconds(0, 1), 2**63 - 1, T0, T0, T0, T0 + 9]),
        np.array([T0, T0, T0, -(2**63), T0, T0, T0]),
        np.array([1.0, np.inf, 1.0, 1.0, 1.0, 1.0, 1.0]),
        np.array([0, 0, 0, 0, 0, 0, 1 << 32]),
    )
    result = writer.write(batch)
    assert result.new == 1
    assert [row for row, _ in result.rejected] == [1, 2, 3, 4, 5, 6]
    assert result.rejected[0].reason == "value inf is not finite"
    assert result.rejected[3].reason == "meter has no name"
    assert result.rejected[5].reason == "status 4294967296 is not an unsigned 32-bit number"
    assert stored(conn) == [("a", 0.0, 1.0, 0)]


def test_rows_that_only_the_server_refuses_are_found_by_halving(
    conn: psycopg.Connection, writer: ReadingWriter
) -> None:
    rng = np.random.default_rng(1)
    noise = "".join(chr(c) for c in rng.integers(0x4E00, 0x9FFF, 4000))      # does not compress into an index row
    meters = [f"m{i}" for i in range(100)]
    meters[17], meters[18], meters[80] = "nul\0", "surrogate\ud800", noise
    writer.write(reading_batch(["m3"], [T0], T0, 5.0))
    result = writer.write(reading_batch(meters, T0, T0, 5.0))
    assert (result.new, result.repeated, result.conflicting) == (96, 1, 0)
    assert [row for row, _ in result.rejected] == [17, 18, 80]
    assert 'invalid byte sequence for encoding "UTF8"' in result.rejected[0].reason
    assert "index row" in result.rejected[2].reason
    assert len(stored(conn)) == 97


def test_nothing_but_bad_rows(conn: psycopg.Connection, writer: ReadingWriter) -> None:
    result = writer.write(reading_batch(["a"], [T0], T0, np.inf))
    assert (result.new, len(result.rejected)) == (0, 1)
    assert latest_arrival(conn) == 0


def test_an_empty_batch_is_nothing(conn: psycopg.Connection, writer: ReadingWriter) -> None:
    assert writer.write(reading_batch([], [], [], [])) == WriteResult()
    assert latest_arrival(conn) == 0


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        reading_batch(["a", "b"], [T0, T0, T0], T0, 1.0)


def test_window_comes_back_in_columns(conn: psycopg.Connection, writer: ReadingWriter) -> None:
    meters = ["b", "a", "a", "a", "c"]
    values = [2.0, 9.0, np.nan, 1.0, 3.0]
    writer.write(reading_batch(meters, seconds(5, 10, 5, 0, 5), T0 + 7, values, [0, 0, 0x80000000, 0, 0]))
    window = read_window(conn, ["a", "nobody", "b"], T0, T0 + 10 * SECOND)
    assert [window.names[m] for m in window.meter] == ["a", "a", "b"]
    assert window.source_us.tolist() == seconds(0, 5, 5)
    assert window.received_us.tolist() == [T0 + 7] * 3
    np.testing.assert_array_equal(window.value, [1.0, np.nan, 2.0])
    assert window.status.tolist() == [0, 0x80000000, 0]


def test_empty_window(conn: psycopg.Connection) -> None:
    assert len(read_window(conn, ["a"], T0, T0 + SECOND)) == 0
    assert len(read_window(conn, [], T0, T0 + SECOND)) == 0


def test_arrivals_tell_spans_and_a_late_reading_has_its_own(conn: psycopg.Connection, writer: ReadingWriter) -> None:
    writer.write(reading_batch(["a"] * 4, seconds(0, 100, 101, 105), [T0, T0 + 3, T0 + 9, T0 + 4], 1.0))
    arrivals = arrivals_after(conn, 0)
    assert [(a.start_us, a.end_us, a.row_count, a.received_us) for a in arrivals] == [
        (T0, T0, 1, T0),
        (T0 + 100 * SECOND, T0 + 105 * SECOND, 3, T0 + 9),
    ]
    assert [a.id for a in arrivals] == sorted({a.id for a in arrivals})
    assert latest_arrival(conn) == arrivals[-1].id
    assert arrivals_after(conn, arrivals[-1].id) == []


def test_arrivals_of_a_merged_batch_tell_only_new_rows(conn: psycopg.Connection, writer: ReadingWriter) -> None:
    writer.write(reading_batch(["a"], seconds(0), T0, 1.0))
    seen = latest_arrival(conn)
    writer.write(reading_batch(["a", "a", "b"], seconds(0, 50, 50), [T0, T0 + 1, T0 + 2], 1.0))
    assert [a[1:] for a in arrivals_after(conn, seen)] == [(T0 + 50 * SECOND, T0 + 50 * SECOND, 2, T0 + 2)]


def test_listener_wakes_for_arrivals_alone(postgres_dsn: str, writer: ReadingWriter) -> None:
    with ArrivalListener(postgres_dsn) as listener:
        assert not listener.wait(0.05)
        batch = reading_batch(["a"], seconds(0), T0, 1.0)
        writer.write(batch)
        assert listener.wait(5.0)
        writer.write(batch)         # changes nothing, so wakes nobody
        assert not listener.wait(0.05)


def test_ids_of_two_writers_are_in_commit_order(postgres_dsn: str, conn: psycopg.Connection) -> None:
    """What a reader sees never gets a lower id afterwards, however the writers interleave."""
    stop = threading.Event()
    failures: list[str] = []

    def watch() -> None:
        with connect(postgres_dsn, autocommit=True) as reader:
            seen: set[int] = set()
            while not stop.is_set():
                ids = {row[0] for row in reader.execute("select id from arrival")}
                if ids - seen and seen and min(ids - seen) < max(seen):
                    failures.append(f"{min(ids - seen)} came after {max(seen)}")
                seen = ids

    def write(name: str) -> None:
        with ReadingWriter(postgres_dsn) as own:
            for i in range(60):
                own.write(reading_batch([name] * 20, T0 + np.arange(20) * 30 * SECOND + i, T0, 1.0))

    watcher = threading.Thread(target=watch)
    writers = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
    for thread in (watcher, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    watcher.join()
    assert failures == []
    assert conn.execute("select count(*), sum(row_count) from arrival").fetchone() == (2400, 2400)


def test_announcing_waits_for_the_lock(postgres_dsn: str, conn: psycopg.Connection, writer: ReadingWriter) -> None:
    conn.execute("begin")
    conn.execute("select pg_advisory_xact_lock(%s)", [LOCK_KEY])
    thread = threading.Thread(target=writer.write, args=(reading_batch(["a"], seconds(0), T0, 1.0),))
    thread.start()
    with connect(postgres_dsn, autocommit=True) as other:
        waiting = "select 1 from pg_locks where locktype = 'advisory' and not granted"
        while other.execute(waiting).fetchone() is None:
            assert thread.is_alive()
        assert other.execute("select count(*) from reading").fetchone() == (0,)
    conn.execute("commit")
    thread.join()
    assert latest_arrival(conn) > 0


def test_two_writers_with_the_same_rows_store_them_once(postgres_dsn: str, conn: psycopg.Connection) -> None:
    batch = reading_batch([f"m{i % 40}" for i in range(4000)], T0 + np.arange(4000), T0, 1.0)
    results: list[WriteResult] = []

    def write(rows: np.ndarray) -> None:
        with ReadingWriter(postgres_dsn) as own:
            results.append(own.write(batch.take(rows)))

    threads = [threading.Thread(target=write, args=(np.arange(4000)[::step],)) for step in (1, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r.new for r in results) == [0, 4000]
    assert sorted(r.repeated for r in results) == [0, 4000]
    assert conn.execute("select count(*) from reading").fetchone() == (4000,)


def test_writer_works_on_after_its_connection_was_cut(
    postgres_dsn: str, conn: psycopg.Connection, writer: ReadingWriter
) -> None:
    writer.write(reading_batch(["a"], seconds(0), T0, 1.0))
    conn.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'symbiosis readings'"
        " and datname = current_database()"
    )
    batch = reading_batch(["a"], seconds(1), T0, 1.0)
    with pytest.raises(StoreError, match="cannot write readings to database test_"):
        writer.write(batch)
    assert writer.write(batch) == WriteResult(new=1)


def test_missing_tables_name_the_command(empty_postgres_dsn: str) -> None:
    with ReadingWriter(empty_postgres_dsn) as writer, pytest.raises(StoreError, match="hint: symbiosis db migrate"):
        writer.write(reading_batch(["a"], seconds(0), T0, 1.0))


def test_server_that_is_away_is_a_store_error() -> None:
    with ReadingWriter("host=/nowhere dbname=park") as writer, pytest.raises(StoreError, match="cannot connect"):
        writer.write(reading_batch(["a"], seconds(0), T0, 1.0))
