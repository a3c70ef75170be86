"""What a reading costs on disk and what its coarser views save, on each kind of database that there is here.

Half a day of 100 meters, a reading every 10 s each (432,000), in the order of time, as collectors write them; a tenth
of that in the WebAssembly build that has the Community edition.

    python -m benchmarks.store_size
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from park.store import connect, migrate
from park.store.binaries import find_binaries
from park.store.editions import edition_of
from park.store.embedded import EmbeddedPostgres
from park.store.storage import StoreStatus, status
from tests.fixtures.timescale import community_session
from tests.fixtures.timescale_root import postgres_binaries

METERS, HOURS = 100, 12
FILL = """
    insert into reading
    select 'participant.FT-' || m, at, at + interval '1 s',
           20 + sin(extract(epoch from at) / 600 + m) + random() / 100, 0
      from generate_series('2026-03-01Z'::timestamptz, '2026-03-01Z'::timestamptz + %s, '10 s') at,
           generate_series(1, %s) m
     order by at
"""


@contextmanager
def server(binaries: Path) -> Iterator[str]:
    """Run a server of one's own on a folder that goes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder), binaries=binaries, settings={"fsync": "off"}) as running,
    ):
        yield running.dsn


@contextmanager
def community() -> Iterator[str]:
    """Run the Community edition on a folder that goes."""
    with tempfile.TemporaryDirectory() as folder, community_session(Path(folder)) as dsn:
        yield dsn


def fill(conn: psycopg.Connection, hours: int, meters: int) -> None:
    """Store readings, and bring what is computed from them up to date."""
    conn.execute(FILL, [f"{hours} hours", meters])
    mark = "select reading_rollup_mark('2026-03-01Z', '2026-03-01Z'::timestamptz + %s::interval)"
    conn.execute(mark, [f"{hours} hours"])
    if edition_of(conn).kind == "community":
        for step in ("1min", "15min", "1h"):
            conn.execute(f"call refresh_continuous_aggregate('reading_aggregate_{step}', null, null)".encode())
        for (chunk,) in conn.execute("select show_chunks('reading')::text").fetchall():
            conn.execute(f"call convert_to_columnstore('{chunk}')".encode())
    while conn.execute("select reading_rollup_advance(now(), 1000)").fetchone() != (0,):
        pass
    conn.execute("analyze")


def milliseconds(conn: psycopg.Connection, query: str) -> float:
    """Return the best of five."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        conn.execute(query.encode()).fetchall()
        best = min(best, time.perf_counter() - began)
    return 1000 * best


def told(found: StoreStatus, hours: int, meters: int) -> None:
    """Print what tables cost for each reading stored."""
    readings = (hours * 360 + 1) * meters
    print(f"{found.edition}, PostgreSQL {found.server_version.split()[0]}: {readings} readings")
    for table in found.tables:
        if table.name.startswith("reading") and table.bytes_total > 40_000 * (table.name != "reading"):
            packed = ""
            if table.packed is not None:
                before, after = table.packed.bytes_before / readings, table.packed.bytes_after / readings
                packed = f"; columnstore {before:.1f} -> {after:.1f}"
            print(f"  {table.name}: {table.bytes_total / readings:.1f} bytes a reading, of them index "
                  f"{table.bytes_index / readings:.1f}{packed}")


def main() -> None:
    """Measure each database that there is."""
    databases = [(server(find_binaries()), METERS), (server(postgres_binaries()), METERS), (community(), METERS // 10)]
    for running, meters in databases:
        with running as dsn:
            migrate(dsn)
            with connect(dsn, autocommit=True) as conn:
                fill(conn, HOURS, meters)
            told(status(dsn), HOURS, meters)
            with connect(dsn, autocommit=True) as conn:
                raw = milliseconds(conn, "select date_bin('1 hour', source_time, '2000-01-01Z') as b, meter, avg(value)"
                                         " from reading group by 1, 2")
                hour = milliseconds(conn, "select bucket, meter, mean from reading_1h")
                minute = milliseconds(conn, "select bucket, meter, mean from reading_1min")
            print(f"  all of it by the hour: {raw:.0f} ms from the readings, {hour:.1f} ms from reading_1h;"
                  f" by the minute {minute:.0f} ms from reading_1min")


if __name__ == "__main__":
    main()
