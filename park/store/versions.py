"""Park descriptions in the store: each one once, so that a result can say which it came from.

A description is stored as canonical JSON, under the digest of that text. `store_park` is called by every service at
its start; the same park has the same id for all of them.
"""

from __future__ import annotations

import hashlib
import json

import psycopg

from park.errors import StoreError
from park.model import Park


def canonical_json(park: Park) -> str:
    """Return the park as JSON that depends on its content alone: all fields, keys in order, no white space."""
    document = park.model_dump(mode="json", by_alias=True)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def store_park(conn: psycopg.Connection, park: Park) -> int:
    """Store the park unless it is stored already, and return its version.

    Parameters
    ----------
    conn
        A connection; the row is committed, or part of the transaction that is under way.
    park
        The description.

    Returns
    -------
    int
        `park_version.id`: equal parks have equal versions.
    """
    text = canonical_json(park)
    digest = hashlib.sha256(text.encode()).hexdigest()
    with conn.transaction():
        conn.execute(
            "insert into park_version (digest, name, document) values (%s, %s, %s::jsonb) on conflict do nothing",
            [digest, park.park.name, text],
        )
        row = conn.execute("select id from park_version where digest = %s", [digest]).fetchone()
    assert row is not None      # written above, or by another service before
    return int(row[0])


def load_stored_park(conn: psycopg.Connection, version: int | None = None) -> Park:
    """Return a stored park.

    Parameters
    ----------
    conn
        A connection.
    version
        `park_version.id`; None for the one stored last.

    Raises
    ------
    StoreError
        If there is no such version.
    """
    row = conn.execute(
        "select document from park_version where id = %(id)s or %(id)s::bigint is null order by id desc limit 1",
        {"id": version},
    ).fetchone()
    if row is None:
        raise StoreError("no park is stored" if version is None else f"park version {version} is not stored")
    return Park.model_validate(row[0])
