"""Connections to the store. Every connection speaks UTC, and a failed one is a `StoreError` that says where.

Which database is meant (`--dsn`, environment, embedded) is decided in `park.store.location`.
"""

from __future__ import annotations

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from park.errors import StoreError

# A peer that is gone without a word is noticed after half a minute, not after the two hours of TCP's defaults.
_DEFAULTS = {
    "connect_timeout": "10",            # s
    "keepalives_idle": "15",            # s
    "keepalives_interval": "5",         # s
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",        # ms
}

# The database answers, but not to this: a standby or one that is read-only, a role without the right. A failover or a
# GRANT ends it, so who waits for a database that is away waits for these too.
REFUSALS = (errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege, errors.InvalidSchemaName)
PASSING = (psycopg.OperationalError, psycopg.InterfaceError, *REFUSALS)     # what a service waits for the end of


def connect(dsn: str, *, autocommit: bool = False, application: str = "symbiosis") -> psycopg.Connection:
    """Open a connection whose session time zone is UTC.

    Parameters
    ----------
    dsn
        The database, as libpq reads it: ``postgresql://...`` or ``host=... dbname=...``.
    autocommit
        Whether each statement is its own transaction.
    application
        Name in the server's list of connections.

    Raises
    ------
    StoreError
        If the DSN is malformed or the server cannot be reached; the text names the server and holds no password.
    """
    try:
        given = conninfo_to_dict(dsn)
        settings = {**_DEFAULTS, "application_name": application, **given}
        settings["options"] = f"{given.get('options') or ''} -c TimeZone=UTC".strip()
        complete = make_conninfo("", **settings)
        return psycopg.connect(complete, autocommit=autocommit)
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()
        raise StoreError(f"cannot connect to {where(dsn)}: {reason[-1].strip() if reason else error!r}") from error


def where(dsn: str) -> str:
    """Return the place that a DSN names, for messages: never its password."""
    try:
        settings = conninfo_to_dict(dsn)
    except psycopg.Error:
        return "the database (malformed DSN)"
    host = settings.get("host") or "the local socket"
    port = f":{settings['port']}" if settings.get("port") else ""
    return f"database {settings.get('dbname') or 'default'} at {host}{port}"
