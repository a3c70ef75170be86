"""Marks of completeness in a real PostgreSQL: written, read, and shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from park.store import connect, store_park
from park.store.completeness import MeterMarkRow, SourceMarkRow, read_marks, write_marks
from tests.collector.running import mqtt, opcua, park_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SERVER = "opcua:opc.tcp://h"


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def source(name: str = SERVER, complete: float | None = 0.0) -> SourceMarkRow:
    return SourceMarkRow(name, None if complete is None else at(complete), at(2), "A", 1, 7, -0.25, 0.5)


def meter(name: str, of: str = SERVER) -> MeterMarkRow:
    return MeterMarkRow(name, of, at(-5), at(0), at(2), False, -0.25, None)


def test_marks_are_written_in_place_of_those_before_and_read_again(postgres_dsn: str) -> None:
    with connect(postgres_dsn) as conn:
        write_marks(conn, [source(), source("mqtt", None)], [meter("A")])
        write_marks(conn, [source(complete=10.5)])
        assert read_marks(conn) == {SERVER: round(at(10.5).timestamp() * 1_000_000)}
        assert conn.execute("select count(*) from source_mark").fetchone() == (2,)
        assert conn.execute("select count(*) from meter_mark").fetchone() == (1,)


def test_views_tell_of_the_sources_of_the_present_park_with_their_gaps(postgres_dsn: str) -> None:
    with connect(postgres_dsn) as conn:
        store_park(conn, park_of(opcua("opc.tcp://h", "A"), mqtt("B")))
        write_marks(conn, [source(), source("mqtt", None), source("opcua:opc.tcp://gone")],
                    [meter("A"), meter("B", "mqtt"), meter("Z", "opcua:opc.tcp://gone")])
        for began, ended, cause in ((-90000, -89999, "old"), (-100, -50, "cable"), (-1, None, "server is away")):
            conn.execute("insert into gap (source, started_at, ended_at, cause) values (%s, %s, %s, %s)",
                         [SERVER, at(began), None if ended is None else at(ended), cause])
        rows = conn.execute(
            "select source, lag_s, held_by, silent, waiting, open_gaps, open_since, open_cause, gaps_24h, "
            "last_gap_end, last_cause, clock_offset_s from source_completeness order by source").fetchall()
        assert rows == [
            ("mqtt", None, "A", 1, 7, 0, None, None, 0, None, None, -0.25),
            (SERVER, 2.0, "A", 1, 7, 1, at(-1), "server is away", 1, at(-50), "cable", -0.25),
        ]
        meters = conn.execute("select meter, participant, lag_s, silent from meter_completeness order by position")
        assert meters.fetchall() == [("A", "a", 2.0, False), ("B", "a", 2.0, False)]
