"""What a new reading costs on its way into the table, as ratios to a bare binary COPY into it in the same run.

    python -m benchmarks.store_rates [ROWS]

Each contender writes a million rows (unless ROWS says otherwise) of 1,000 meters into `reading`, which has its unique
key, in batches as the collector makes them:

    bare        psycopg's COPY of rows that were encoded before, in the order of their arrival, and a commit
    in order    the same in the order of the key
    new rows    `ReadingWriter.write`: checks and encodes the rows, writes each once, announces them to the processing
    merging     the same where one row of each batch is stored already: all of it goes by way of a staging table
    again       the same where all rows are stored already

They take turns, batch by batch, each in a database of its own, so that load from elsewhere and the growth of the table
meet all of them alike. The database keeps its usual durability (fsync).
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psycopg
from psycopg.conninfo import make_conninfo

from park.store import ReadingBatch, ReadingWriter, migrate
from park.store.copy_format import READING_COLUMNS, encode_readings
from park.store.embedded import EmbeddedPostgres

METERS = 1_000
NAMES = [f"participant{i % 12}.FT{i:04}" for i in range(METERS)]
START_US = 1_767_225_600_000_000        # 2026-01-01T00:00:00Z
SIZES = (5_000, 50_000)                 # what the collector writes directly, and from its spool
COPY = f"copy reading ({READING_COLUMNS}) from stdin (format binary)".encode()


def batch(number: int, rows: int) -> ReadingBatch:
    """Return a batch of readings of all meters, later than those of the batch before."""
    place = np.arange(number * rows, (number + 1) * rows)
    return ReadingBatch(NAMES, place % METERS, START_US + place // METERS * 1_000_000, START_US + place,
                        np.sin(place), np.zeros(rows, np.int64))


def encoded(rows: ReadingBatch) -> bytes:
    """Return the rows in PostgreSQL's binary format."""
    return encode_readings(rows.names, rows.meter, rows.source_us, rows.received_us, rows.status, rows.value)


@dataclass
class Spent:
    """Time and rows of a contender."""

    rows: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, rows: int, work: Callable[[], object]) -> None:
        """Do work and count it."""
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.wall_s += time.perf_counter() - wall
        self.cpu_s += time.process_time() - cpu
        self.rows += rows


def bare(conn: psycopg.Connection, data: bytes) -> None:
    """COPY and commit."""
    with conn.transaction(), conn.cursor() as cursor, cursor.copy(COPY) as copy:
        copy.write(data)


def compete(dsns: list[str], size: int, rows: int) -> dict[str, Spent]:
    """Let all contenders write the same batches in turn."""
    spent = {name: Spent() for name in ("bare", "in order", "new rows", "merging", "again")}
    with (
        psycopg.connect(dsns[0], autocommit=True) as conn, psycopg.connect(dsns[1], autocommit=True) as in_order,
        ReadingWriter(dsns[2]) as new, ReadingWriter(dsns[3]) as merging,
    ):
        merging.write(batch(-1, size))
        for number in range(rows // size):
            wanted = batch(number, size)
            data = encoded(wanted)
            ordered = encoded(wanted.take(np.lexsort((wanted.source_us, np.array(NAMES)[wanted.meter]))))
            with_old = batch(number, size)
            for column in ("meter", "source_us", "received_us", "value", "status"):
                getattr(with_old, column)[0] = getattr(batch(-1, size), column)[0]
            spent["bare"].add(size, partial(bare, conn, data))
            spent["in order"].add(size, partial(bare, in_order, ordered))
            spent["new rows"].add(size, partial(new.write, wanted))
            spent["merging"].add(size, partial(merging.write, with_old))
        for number in range(min(20, rows // size)):
            wanted = batch(number, size)
            spent["again"].add(size, partial(new.write, wanted))
    return spent


def fresh(dsn: str, name: str) -> str:
    """Return a database of this name with all tables and no rows."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"create database {name}".encode())
    there = make_conninfo(dsn, dbname=name)
    migrate(there)
    return there


def main(rows: int) -> None:
    """Run and print."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as server:
        for size in SIZES:
            dsns = [fresh(server.dsn, f"{name}_{size}") for name in ("bare", "ordered", "new", "merging")]
            spent = compete(dsns, size, rows)
            first = spent["bare"]
            print(f"\n{rows:,} rows in batches of {size:,}")
            print(f"{'':20}{'rows/s':>12}{'ratio':>8}{'client CPU us each':>20}")
            for name, one in spent.items():
                ratio = (one.rows / one.wall_s) / (first.rows / first.wall_s)
                print(f"  {name:18}{one.rows / one.wall_s:12,.0f}{ratio:8.2f}{one.cpu_s / one.rows * 1e6:20.2f}")
    print(f"\nmemory of this process at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
