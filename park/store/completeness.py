"""Up to when each source's readings are complete: written by the collector, read by processing and the boards.

What complete means is worked out in `collector.completeness`; which windows close by it is decided in `processing`.
Blocking; each function is part of the transaction under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import psycopg

from park.store.arrivals import microseconds_of

# Written each second, and again after a crash: nobody waits for the disk on its account.
_AT_LEISURE = "select set_config('synchronous_commit', 'off', true)"


@dataclass(frozen=True)
class SourceMarkRow:
    """A row of `source_mark`; the columns are explained there."""

    source: str
    complete_to: datetime | None
    computed_at: datetime
    held_by: str | None
    silent: int
    waiting: int
    clock_offset_s: float | None
    clock_spread_s: float | None


@dataclass(frozen=True)
class MeterMarkRow:
    """A row of `meter_mark`; the columns are explained there."""

    meter: str
    source: str
    last_source_time: datetime | None
    complete_to: datetime | None
    computed_at: datetime
    silent: bool
    clock_offset_s: float | None
    clock_spread_s: float | None


def _upsert(table: str, row: type[Any], types: str) -> str:
    """Return the statement that writes many rows, each in place of the one with its key."""
    names = [field.name for field in fields(row)]
    news = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
    arrays = ", ".join(f"%s::{type_}[]" for type_ in types.split())
    return (f"insert into {table} ({', '.join(names)}) select * from unnest({arrays}) "
            f"on conflict ({names[0]}) do update set {news}")


_WRITE_SOURCES = _upsert(
    "source_mark", SourceMarkRow, "text timestamptz timestamptz text integer bigint float8 float8"
).replace("complete_to = excluded.complete_to",      # what is complete stays so, also for a collector that starts anew
          "complete_to = greatest(source_mark.complete_to, excluded.complete_to)")
_WRITE_METERS = _upsert(
    "meter_mark", MeterMarkRow, "text text timestamptz timestamptz timestamptz boolean float8 float8")


def write_marks(
    conn: psycopg.Connection, sources: Sequence[SourceMarkRow], meters: Sequence[MeterMarkRow] = ()
) -> None:
    """Write the marks of sources and meters in place of those that are stored; a source's never goes back."""
    conn.execute(_AT_LEISURE)
    for statement, rows in ((_WRITE_SOURCES, sources), (_WRITE_METERS, meters)):
        if rows:
            columns = [[getattr(row, field.name) for row in rows] for field in fields(rows[0])]
            conn.execute(statement.encode(), columns)


def read_marks(conn: psycopg.Connection) -> dict[str, int]:
    """Return up to when each source is complete [us since 1970-01-01 UTC]; sources of which that is known."""
    rows = conn.execute("select source, complete_to from source_mark where complete_to is not null")
    return {source: microseconds_of(complete_to) for source, complete_to in rows}
