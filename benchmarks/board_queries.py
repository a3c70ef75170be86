"""How long every query of the boards takes on thirty days of Kalundborg, as the role that Grafana uses.

    python -m benchmarks.board_queries [--days N] [--data DIR] [--limit MS]

Makes the database first, unless DIR has one of an earlier run. Asks each query over 6 hours (every window), 3 days
(steps of 5 minutes) and all days (of an hour), each three times;
prints the median of the slowest ones, and fails if one is
above the limit. Nothing but the machine's load and the first time's cold pages is left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks.thirty_days import DAYS, extend
from park.store import connect, migrate
from park.store.embedded import EmbeddedPostgres
from tests.dashboards.expand import Values, expand, variables
from tests.dashboards.filled import BEGAN, ENDED, fill
from tests.dashboards.test_queries import ASKED, BOARDS, RULES

LIMIT_MS = 300.0
READER = "grafana_of_benchmark"
FAST_TO_FILL = {"fsync": "off", "max_wal_size": "8GB", "wal_level": "minimal", "max_wal_senders": "0"}


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=float, default=LIMIT_MS)
    options = parser.parse_args()
    with _folder(options.data) as folder, EmbeddedPostgres(folder, settings=FAST_TO_FILL) as server:
        _prepare(server.dsn, options.days)
        with connect(make_conninfo(server.dsn, user=READER), autocommit=True) as reader:
            found = sorted(_measured(reader, options.days), reverse=True)
    for taken, rows, span, place in found[:20]:
        print(f"{taken:8.1f} ms {rows:7d} rows  {span!s:>17}  {place}")
    over = [place for taken, _, _, place in found if taken > options.limit]
    print(
        f"{len(found)} measured, median {statistics.median(t for t, *_ in found):.1f} ms; "
        f"{len(over)} above {options.limit:g} ms"
    )
    return 1 if over else 0


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="symbiosis-benchmark-") as made:
        yield Path(made)


def _prepare(dsn: str, days: int) -> None:
    """Fill the database unless it is, and make the reader's login."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        has_tables = conn.execute("select to_regclass('balance_window') is not null").fetchone() == (True,)
    if not has_tables:
        migrate(dsn)
        fill(dsn)
        extend(dsn, days)
    with psycopg.connect(dsn, autocommit=True) as conn:
        if conn.execute("select from pg_roles where rolname = %s", [READER]).fetchone() is None:
            conn.execute(f"create role {READER} login in role symbiosis_reader".encode())


def _measured(reader: psycopg.Connection, days: int) -> Iterator[tuple[float, int, timedelta, str]]:
    spans = (timedelta(hours=6), timedelta(days=3), timedelta(days=days))
    values = {name: _first_choices(reader, name) for name in BOARDS}
    for place, (board, asked) in ASKED.items():
        for span in spans if "__time" in asked.text else spans[:1]:
            yield *_timed(reader, expand(asked.text, ENDED - span, ENDED, values[board])), span, place
    for rule in RULES:
        yield *_timed(reader, rule["data"][0]["model"]["rawSql"]), timedelta(0), rule["uid"]


def _timed(reader: psycopg.Connection, query: str) -> tuple[float, int]:
    """Return the median of three times [ms] and the number of rows."""
    times, rows = [], 0
    for _ in range(3):
        began = time.perf_counter()
        rows = len(reader.execute(query.encode()).fetchall())
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times), rows


def _first_choices(reader: psycopg.Connection, board: str) -> Values:
    """Set every variable to its first choice, those of several to all: as the boards open."""
    found: dict[str, list[str]] = {}
    for variable in variables(BOARDS[board]):
        offered = reader.execute(expand(variable["query"], BEGAN, ENDED, found).encode()).fetchall()
        names = [str(row[-1]) for row in offered]
        found[variable["name"]] = names if variable["multi"] else names[:1]
    return found


if __name__ == "__main__":
    sys.exit(main())
