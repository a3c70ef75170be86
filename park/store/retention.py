"""How long what is kept: the table `retention`, one row a tier, and what deletes by it.

Nothing is deleted unless an operator says so (`symbiosis db retention TIER KEEP`): settlement rests on raw readings,
and a statement can be proved from them only while they are there.

| tier | is |
|---|---|
| ``reading`` | raw readings |
| ``reading_1min``, ``reading_15min``, ``reading_1h`` | readings at that step |
| ``result`` | results of each window: flows, balances, meters, exchanges; events and their coarser series stay |

On the Community edition policies of the database delete once a day (`enforce_by_policies`); elsewhere `delete_expired`
does, when it is called. What is cut off are whole UTC days of readings, and whole chunks where there are chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import psycopg
from psycopg import sql

from park.store import hypertables

TIERS = ("reading", "reading_1min", "reading_15min", "reading_1h", "result")
SHORTEST = timedelta(days=1)

_STEPS = {"reading_1min": 60, "reading_15min": 900, "reading_1h": 3600}     # s
_SOURCE = {"reading_aggregate_1min": "reading", "reading_aggregate_15min": "reading_1min",
           "reading_aggregate_1h": "reading_15min"}
_AGGREGATE = {"reading_1min": "reading_aggregate_1min", "reading_15min": "reading_aggregate_15min",
              "reading_1h": "reading_aggregate_1h"}

# a continuous aggregate's policies belong to the hypertable that holds its rows
_POLICY = """
    select j.job_id, j.config ->> %s
      from timescaledb_information.jobs j
      join _timescaledb_catalog.hypertable h
        on h.id = coalesce(j.config ->> 'mat_hypertable_id', j.config ->> 'hypertable_id')::integer
      left join timescaledb_information.continuous_aggregates a
        on a.materialization_hypertable_schema = h.schema_name and a.materialization_hypertable_name = h.table_name
     where j.proc_name = %s and coalesce(a.view_schema, h.schema_name) = current_schema()
       and coalesce(a.view_name, h.table_name) = %s
"""


@dataclass(frozen=True)
class Kept:
    """One tier: how long it is kept (None: for ever), and before when it has been deleted (None: nothing has)."""

    tier: str
    keep: timedelta | None
    cut: datetime | None


def retention_of(conn: psycopg.Connection) -> dict[str, Kept]:
    """Return the setting of each tier, in the order of `TIERS`."""
    rows = {row[0]: Kept(*row) for row in conn.execute("select tier, keep, cut from retention")}
    return {tier: rows.get(tier, Kept(tier, None, None)) for tier in TIERS}


def set_retention(conn: psycopg.Connection, tier: str, keep: timedelta | None) -> None:
    """Say how long a tier is kept; on the Community edition its policy follows at once.

    Parameters
    ----------
    conn
        A connection of the tables' owner.
    tier
        One of `TIERS`.
    keep
        How long, at least `SHORTEST`; None: for ever.

    Raises
    ------
    ValueError
        If there is no such tier, or the time is too short.
    """
    if tier not in TIERS:
        raise ValueError(f"no tier {tier!r} (hint: one of {', '.join(TIERS)})")
    if keep is not None and keep < SHORTEST:
        raise ValueError(f"tier {tier} must be kept for a day at least, got {keep}")
    with conn.transaction():
        conn.execute("update retention set keep = %s where tier = %s", [keep, tier])
        if _has_aggregates(conn):
            enforce_by_policies(conn)


def enforce_by_policies(conn: psycopg.Connection) -> list[str]:
    """Bring the Community edition's policies in line with the settings; return what changed, in words."""
    done = []
    kept = retention_of(conn)
    for tier, relation in _relations():
        done += _set_policy(conn, relation, kept[tier].keep)
    for aggregate, source in _SOURCE.items():
        found = conn.execute(_POLICY, ["start_offset", "policy_refresh_continuous_aggregate", aggregate]).fetchone()
        if found is not None and _as_interval(conn, found[1]) != kept[source].keep:
            job = conn.execute(
                "select config ->> 'end_offset', schedule_interval::text from timescaledb_information.jobs"
                " where job_id = %s", [found[0]]
            ).fetchone()
            conn.execute("select remove_continuous_aggregate_policy(%s)", [aggregate])
            if job is not None:
                set_refresh(conn, aggregate, job[0], job[1])
            done.append(f"{aggregate} refreshed over {_in_words(kept[source].keep)}")
    return done


def set_refresh(conn: psycopg.Connection, aggregate: str, end: str, every: str) -> None:
    """Have a continuous aggregate refreshed, as far back as its source is kept.

    Further back nothing may be refreshed: where the source's rows are gone, a refresh deletes the aggregate's.
    """
    kept = retention_of(conn)[_SOURCE[aggregate]].keep
    conn.execute(
        "select add_continuous_aggregate_policy(%s, start_offset => %s::interval, end_offset => %s::interval,"
        " schedule_interval => %s::interval, if_not_exists => true)",
        [aggregate, kept, end, every],
    )


def delete_expired(conn: psycopg.Connection, now: datetime | None = None) -> dict[str, datetime]:
    """Delete what is older than its tier is kept, where no policy of the database does that.

    Parameters
    ----------
    conn
        A connection in autocommit mode of the tables' owner.
    now
        The present time; default the clock's.

    Returns
    -------
    dict
        The time before which rows were deleted, by tier that has a limit and no policy.
    """
    moment = now or datetime.now(UTC)
    by_policy = _has_aggregates(conn)
    cuts = {}
    for tier, kept in retention_of(conn).items():
        if kept.keep is None or by_policy:
            continue
        cuts[tier] = _midnight(moment - kept.keep)
        if tier == "reading":
            _finish_rollups(conn, cuts[tier])
        with conn.transaction():
            # before the rows go: from then on late readings touch no bucket that could not be computed again
            conn.execute("update retention set cut = greatest(cut, %s) where tier = %s", [cuts[tier], tier])
            _delete_before(conn, tier, cuts[tier])
    return cuts


def _delete_before(conn: psycopg.Connection, tier: str, cut: datetime) -> None:
    """Delete a tier's rows before a time: whole chunks where the table has chunks."""
    if tier in _STEPS:
        conn.execute("delete from reading_rollup where step_s = %s and bucket < %s", [_STEPS[tier], cut])
        return
    has_chunks = conn.execute("select from pg_extension where extname = 'timescaledb'").fetchone() is not None
    for table in hypertables.TIME_TABLES:
        if (table.name == "reading") != (tier == "reading"):
            continue
        if has_chunks and hypertables.is_hypertable(conn, table.name):
            conn.execute("select drop_chunks(%s::regclass, older_than => %s::timestamptz)", [table.name, cut])
        else:
            statement: LiteralString = "delete from {} where {} < %s"
            conn.execute(sql.SQL(statement).format(sql.Identifier(table.name), sql.Identifier(table.time)), [cut])


def _finish_rollups(conn: psycopg.Connection, cut: datetime) -> None:
    """Compute the buckets that the readings before a time still owe."""
    while True:
        with conn.transaction():
            row = conn.execute("select reading_rollup_advance(%s)", [cut]).fetchone()
        if row is None or not row[0]:
            return


def _relations() -> list[tuple[str, str]]:
    """Return tier and relation of everything that is deleted by a policy."""
    results = [("result", table.name) for table in hypertables.TIME_TABLES if table.name != "reading"]
    return [("reading", "reading"), *_AGGREGATE.items(), *results]


def _set_policy(conn: psycopg.Connection, relation: str, keep: timedelta | None) -> list[str]:
    """Bring one retention policy in line; return what changed, in words."""
    found = conn.execute(_POLICY, ["drop_after", "policy_retention", relation]).fetchone()
    present = _as_interval(conn, found[1]) if found else None
    if present == keep:
        return []
    if found is not None:
        conn.execute("select remove_retention_policy(%s::regclass)", [relation])
    if keep is not None:
        conn.execute("select add_retention_policy(%s::regclass, %s::interval)", [relation, keep])
    return [f"{relation} kept {_in_words(keep)}"]


def _has_aggregates(conn: psycopg.Connection) -> bool:
    """Whether continuous aggregates stand behind the views of readings."""
    row = conn.execute("select to_regclass('reading_aggregate_1h') is not null").fetchone()
    return bool(row and row[0])


def _as_interval(conn: psycopg.Connection, text: str | None) -> timedelta | None:
    """Return an interval that the server wrote as text."""
    row = conn.execute("select %s::interval", [text]).fetchone()
    return row[0] if row else None


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _in_words(keep: timedelta | None) -> str:
    return "for ever" if keep is None else f"{keep.days} days"
