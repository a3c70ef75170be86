"""Results in the store: one transaction a window, with its events and the state that goes with them.

Here: the SQL that processing writes and reads besides raw readings (`park.store`). Not here: when (cycle.py), and the
tables (park/store/migrations/0002_results.sql). The main path enters at `write_window`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from park.model import Park
from processing.attendance import Gap
from processing.chain import Past, WindowResult
from processing.detect.events import Change, Opened

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

ClosedBy = Literal["complete", "lateness", "revised"]

_FLOW = """
    copy flow (window_start, stream, side, quantity, unit, measured, reconciled, std, adjustment, status, coverage,
               best_meter, best_measured, park_version) from stdin (format binary)"""
_FLOW_TYPES = ["timestamptz", *["text"] * 4, *["float8"] * 4, "text", "float8", "text", "float8", "int8"]

_NODE = """
    copy node_balance (window_start, node, quantity, unit, imbalance, stored, std, reconciled_imbalance, park_version)
    from stdin (format binary)"""
_NODE_TYPES = ["timestamptz", *["text"] * 3, *["float8"] * 4, "int8"]

_METER = """
    copy meter_result (window_start, meter, unit, measured, expected, test_statistic, suspect, park_version)
    from stdin (format binary)"""
_METER_TYPES = ["timestamptz", "text", "text", *["float8"] * 3, "bool", "int8"]

_EXCHANGE = """
    copy exchange_flow (window_start, exchange, unit, sender, sender_u95, receiver, receiver_u95, reconciled,
                        reconciled_u95, in_agreement, park_version) from stdin (format binary)"""
_EXCHANGE_TYPES = ["timestamptz", "text", "text", *["float8"] * 6, "bool", "int8"]

_WINDOW = """
    insert into balance_window (window_start, window_end, closed_by, readings, last_source_time, computed_at, revision,
                                park_version, global_test, degrees_of_freedom, max_relative_imbalance, taken_out,
                                leaking)
    values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""

_OPEN_EVENT = """
    insert into event (kind, subject, aspect, started_at, severity, state, value, limit_value, message, evidence,
                       park_version)
    values (%s, %s, %s, %s, %s, 'unacknowledged', %s, %s, %s, %s, %s)
    on conflict (kind, subject, aspect) where ended_at is null do nothing"""

_CLOSE_EVENT = """
    update event
       set ended_at = greatest(%s, started_at),
           state = case state when 'unacknowledged' then 'returned' when 'acknowledged' then 'normal' else state end
     where kind = %s and subject = %s and aspect = %s and ended_at is null"""

_TABLES = ("flow", "node_balance", "meter_result", "exchange_flow", "balance_window")


@dataclass(frozen=True)
class Stamp:
    """How and when a window was computed.

    Attributes
    ----------
    closed_by
        Why it was computed now.
    computed_at_us
        Run time [us since 1970 UTC].
    revision
        How often late readings have changed it.
    park_version
        The stored park that it was computed with.
    """

    closed_by: ClosedBy
    computed_at_us: int
    revision: int
    park_version: int


@dataclass(frozen=True)
class Earlier:
    """What is stored of a past window."""

    revision: int
    found: Past


def instant(us: int) -> datetime:
    """Return microseconds since 1970 UTC as a time, exactly."""
    return EPOCH + timedelta(microseconds=us)


def microseconds(moment: datetime) -> int:
    """Return a time as microseconds since 1970 UTC, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def write_window(conn: psycopg.Connection, result: WindowResult, stamp: Stamp) -> None:
    """Write all rows and events of a window, in place of what is stored of it; part of the transaction under way."""
    start, version = instant(result.start_us), stamp.park_version
    for table in _TABLES if stamp.revision else ():
        conn.execute(f"delete from {table} where window_start = %s".encode(), [start])
    last = None if result.last_source_time_us is None else instant(result.last_source_time_us)
    conn.execute(_WINDOW, [
        start, instant(result.end_us), stamp.closed_by, result.readings, last, instant(stamp.computed_at_us),
        stamp.revision, version, result.global_test, result.degrees_of_freedom, result.rows.max_relative_imbalance,
        list(result.taken_out), list(result.leaking)])
    flows = ((start, *vars(row).values(), version) for row in result.rows.flows)
    _copy(conn, _FLOW, _FLOW_TYPES, flows)
    _copy(conn, _NODE, _NODE_TYPES, ((start, *vars(row).values(), version) for row in result.rows.nodes))
    _copy(conn, _METER, _METER_TYPES, ((start, *vars(row).values(), version) for row in result.rows.meters))
    _copy(conn, _EXCHANGE, _EXCHANGE_TYPES, (
        (start, *astuple(flow)[:8], agreed, version) for flow, agreed in result.exchanges))
    for change in result.changes:
        _write_change(conn, change, version)


def _copy(conn: psycopg.Connection, statement: str, types: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with conn.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def _write_change(conn: psycopg.Connection, change: Change, version: int) -> None:
    if isinstance(change, Opened):
        conn.execute(_OPEN_EVENT, [
            change.kind, change.subject, change.aspect, instant(change.started_at_us), change.severity, change.value,
            change.limit, change.message, Jsonb(dict(change.evidence)), version])
    else:
        conn.execute(_CLOSE_EVENT, [instant(change.ended_at_us), change.kind, change.subject, change.aspect])


def close_orphans(conn: psycopg.Connection, park: Park, at_us: int) -> int:
    """End the open events of what the park no longer has, and return how many there were."""
    known = [entry.id for entries in (park.meters, park.exchanges, park.nodes) for entry in entries]
    return conn.execute(
        "update event set ended_at = greatest(%s, started_at), state = 'normal' "
        "where ended_at is null and subject <> all(%s)", [instant(at_us), known]).rowcount


def open_events(conn: psycopg.Connection) -> dict[str, int]:
    """Return how many events of each kind have not ended."""
    return dict(conn.execute("select kind, count(*) from event where ended_at is null group by kind").fetchall())


def earlier(conn: psycopg.Connection, start_us: int) -> Earlier | None:
    """Return what is stored of a window; None where it was never computed."""
    row = conn.execute(
        "select revision, taken_out, leaking from balance_window where window_start = %s", [instant(start_us)]
    ).fetchone()
    if row is None:
        return None
    bad = conn.execute(
        "select exchange from exchange_flow where window_start = %s and not in_agreement", [instant(start_us)])
    suspects = conn.execute(
        "select meter from meter_result where window_start = %s and suspect", [instant(start_us)])
    return Earlier(row[0], Past(
        tuple(row[1]), tuple(name for name, in suspects), tuple(row[2]), frozenset(name for name, in bad)))


def gaps_since(conn: psycopg.Connection, since_us: int) -> list[Gap]:
    """Return the gaps of sources that lasted at or after a time; a meter's own says no more than that it was silent."""
    rows = conn.execute(
        "select source, meter, started_at, ended_at from gap"
        " where meter is null and (ended_at is null or ended_at >= %s)", [instant(since_us)])
    return [Gap(source, meter, microseconds(started), None if ended is None else microseconds(ended))
            for source, meter, started, ended in rows]


def first_source_time(conn: psycopg.Connection, from_us: int) -> int | None:
    """Return the earliest source time of a reading at or after a time [us]; None where there is none."""
    row = conn.execute("select min(source_time) from reading where source_time >= %s", [instant(from_us)]).fetchone()
    return None if row is None or row[0] is None else microseconds(row[0])


def read_state(conn: psycopg.Connection, key: str) -> Any:
    """Return what was stored under a key of `processing_state`; None where nothing was."""
    row = conn.execute("select value from processing_state where key = %s", [key]).fetchone()
    return None if row is None else row[0]


def write_state(conn: psycopg.Connection, key: str, value: object) -> None:
    """Store a value under a key of `processing_state`."""
    conn.execute(
        "insert into processing_state (key, value) values (%s, %s) "
        "on conflict (key) do update set value = excluded.value",
        [key, Jsonb(value, dumps=lambda v: json.dumps(v, separators=(",", ":")))])


def forget_arrivals(conn: psycopg.Connection, seen: int, before_us: int) -> None:
    """Delete arrivals that have been seen and are old: nobody asks for them again."""
    conn.execute("delete from arrival where id <= %s and received_at < %s", [seen, instant(before_us)])
