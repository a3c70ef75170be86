"""Readings at 1 minute, 15 minutes and 1 hour: the call that keeps their tables up to date.

The tables, the views on them and what a bucket holds are in migration 0007; on the Community edition of TimescaleDB the
database does it by itself and this finds nothing to do. Who writes into `reading` without announcing it
(`park.store.arrivals`) calls the SQL function ``reading_rollup_mark(from, to)`` afterwards.
"""

from __future__ import annotations

from datetime import datetime

import psycopg

AT_ONCE = 10        # buckets of each step: 0.2 s of work for Kalundborg, so a backlog holds up nothing else


def advance_rollups(conn: psycopg.Connection, until: datetime) -> int:
    """Compute the oldest of the buckets that end before a time and whose readings have changed, a few at once.

    Those that are left are computed by the views when somebody looks. Call it until it returns 0.

    Parameters
    ----------
    conn
        A connection without a transaction under way.
    until
        Up to which source time readings are as good as complete.

    Returns
    -------
    int
        How many buckets were computed.
    """
    with conn.transaction():
        # whatever the connection's level is: the statements must see what was committed before their rows were locked
        conn.execute("set transaction isolation level read committed")
        row = conn.execute("select reading_rollup_advance(%s, %s)", [until, AT_ONCE]).fetchone()
    return int(row[0]) if row else 0
