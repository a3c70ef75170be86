"""Which kind of database this is: plain PostgreSQL, TimescaleDB's Apache edition, or its Community edition.

    plain      tables as the migrations make them; BRIN index on the time of readings
    apache     hypertables                                              (park.store.hypertables)
    community  hypertables, columnstore, continuous aggregates, policies   (park.store.community)

`fit` is the one way in; `park.store.schema.migrate` calls it after the migrations. It does what is not done yet, each
step in a transaction of its own, so a kill loses one step at most and the next call does that again. What an operator
has changed stays. A database that gets the extension later is converted with its rows, by the next `fit`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Literal

import psycopg

from park.store import community, hypertables

log = logging.getLogger(__name__)

Kind = Literal["plain", "apache", "community"]

OLDEST = (2, 13)        # the first with by_range(); Debian 13 has 2.19, deploy/compose.yaml names its own


@dataclass(frozen=True)
class Edition:
    """What a database is.

    Attributes
    ----------
    kind
        What it offers.
    version
        Version of the extension in this database; None where it is not created.
    offered
        Version that the server would create or update to; None where the server has none.
    is_loaded
        Whether the server has the extension in `shared_preload_libraries`; without, it cannot be created.
    """

    kind: Kind
    version: str | None
    offered: str | None
    is_loaded: bool

    def __str__(self) -> str:
        if self.version is None:
            return "plain PostgreSQL"
        return f"TimescaleDB {self.version}, {'Community' if self.kind == 'community' else 'Apache'} edition"

    @property
    def hint(self) -> str:
        """What would have to be done to get more; empty where there is nothing."""
        if self.version is None and self.offered is not None:
            if not self.is_loaded:
                return "TimescaleDB is installed on the server, but not in its shared_preload_libraries"
            return "TimescaleDB can be created here: symbiosis db migrate, as a role that may"
        if self.version is not None and self.number < OLDEST:
            return f"TimescaleDB is used from {OLDEST[0]}.{OLDEST[1]} on; the tables stay plain"
        if self.version != self.offered and self.offered is not None:
            return f"the server has TimescaleDB {self.offered}: psql -X -c 'ALTER EXTENSION timescaledb UPDATE'"
        return ""

    @property
    def number(self) -> tuple[int, int]:
        """Version as (major, minor); (0, 0) without the extension."""
        return version_number(self.version or "0.0")


def version_number(version: str) -> tuple[int, int]:
    """Return major and minor of a version such as ``2.23.0-dev``."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def edition_of(conn: psycopg.Connection) -> Edition:
    """Return what the database is."""
    row = conn.execute(
        """
        select (select extversion from pg_extension where extname = 'timescaledb'),
               (select default_version from pg_available_extensions where name = 'timescaledb'),
               current_setting('timescaledb.disable_load', true) is not null,
               current_setting('timescaledb.license', true)
        """
    ).fetchone()
    version, offered, is_loaded, licence = row if row else (None, None, False, None)
    if version is None:
        return Edition("plain", None, offered, is_loaded)
    return Edition("community" if licence == "timescale" else "apache", version, offered, is_loaded)


def fit(conn: psycopg.Connection) -> list[str]:
    """Make of the tables what the database's edition offers; safe to call again at any time.

    Parameters
    ----------
    conn
        A connection in autocommit mode of a role that owns the tables; the caller keeps others from doing the same.

    Returns
    -------
    list of str
        What was done now, in words; empty if there was nothing to do.

    Raises
    ------
    psycopg.Error
        If a step fails; that step leaves no trace, those before it stay.
    """
    edition = edition_of(conn)
    done = []
    if edition.version is None and edition.offered is not None and edition.is_loaded and _create(conn):
        edition = edition_of(conn)
        done.append(f"extension timescaledb {edition.version}")
    if edition.version is None or edition.number < OLDEST:
        return done
    done += hypertables.make(conn)
    if edition.kind == "community":
        done += community.make(conn, edition.number)
    return done


def _create(conn: psycopg.Connection) -> bool:
    """Create the extension; return False where this role may not, or nobody may just now."""
    try:
        with conn.transaction():
            conn.execute("create extension if not exists timescaledb")
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as error:
        log.info("the tables stay plain: %s", str(error).strip().splitlines()[0])
        return False
    return True
