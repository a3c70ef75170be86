"""A collector that says how complete its sources are: with a real server and a real database."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import psycopg

from park.clock import RunClock
from park.store import connect
from park.store.completeness import read_marks
from tests.collector.running import START, at, collecting, opcua, park_of, rows, until, until_stored


def clock(seconds: float) -> RunClock:
    """A clock that stands so long after the first reading, and goes on."""
    return RunClock(time.time(), START.timestamp() + seconds)


def complete_to(dsn: str, source: str) -> datetime | None:
    found = rows(dsn, f"select complete_to from source_mark where source = '{source}'")
    return found[0][0] if found else None


async def test_a_source_is_complete_as_far_as_its_slowest_meter(opcua_server, postgres_dsn):
    server = await opcua_server(["FT1", "FT2"])
    source = f"opcua:{server.url}"
    park = park_of(opcua(server.url, "FT1", interval_s=10.0), opcua(server.url, "FT2", interval_s=10.0))
    async with collecting(park, postgres_dsn, clock=clock(85)):
        for step in range(8):
            await server.push("FT1", 1.0, at(100 * step))
            await server.push("FT2", 1.0, at(100 * step))
        await server.push("FT1", 1.0, at(800))
        await until_stored(postgres_dsn, 17)
        await until(lambda: complete_to(postgres_dsn, source) == at(790), "the mark")   # FT2's next one may come then
        assert rows(postgres_dsn, "select held_by, silent, waiting from source_mark") == [("FT2", 0, 0)]
        with connect(postgres_dsn) as conn:
            assert read_marks(conn) == {source: round(at(790).timestamp() * 1_000_000)}


async def test_marks_that_cannot_be_stored_are_said_once_and_hold_up_no_reading(opcua_server, postgres_dsn, caplog):
    server = await opcua_server(["FT1"])
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:
        conn.execute("alter table source_mark rename to elsewhere")
        async with collecting(park_of(opcua(server.url, "FT1", interval_s=10.0)), postgres_dsn, clock=clock(75)):
            for step in range(8):
                await server.push("FT1", 1.0, at(100 * step))
            await until_stored(postgres_dsn, 8)
            await until(lambda: "how complete sources are cannot be stored" in caplog.text, "the warning")
            conn.execute("alter table elsewhere rename to source_mark")
            await until(lambda: complete_to(postgres_dsn, f"opcua:{server.url}") == at(790), "the mark")
    assert caplog.text.count("how complete sources are cannot be stored") == 1


async def test_a_source_of_meters_on_change_is_complete_as_far_as_it_was_heard(opcua_server, postgres_dsn):
    """One reading, then keep-alives alone: nothing else has happened at the server."""
    server = await opcua_server(["FT1"])
    source = f"opcua:{server.url}"
    async with collecting(park_of(opcua(server.url, "FT1", sampling="on_change")), postgres_dsn):
        pushed = datetime.now(UTC)
        await server.push("FT1", 1.0, pushed)
        await until_stored(postgres_dsn, 1)
        await until(lambda: (complete_to(postgres_dsn, source) or pushed) > pushed + timedelta(seconds=2), "the mark")
        assert complete_to(postgres_dsn, source) < datetime.now(UTC)
