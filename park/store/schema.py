"""The schema of the store: numbered SQL migrations, applied once, in order, and kept track of.

A migration is `park/store/migrations/NNNN_name.sql`. `migrate` runs the missing ones, each in a transaction of its
own, under an advisory lock, so that services that start together do not meet. The digest of an applied file is kept:
a file that changed afterwards is refused, because the database no longer is what the file says. It looks first: where
nothing is missing nothing is written, so a standby and a role that may create nothing are no hindrance.
After them the tables become what the database's edition offers (`park.store.editions`). What a database holds is told
in `park.store.storage`; rows are written elsewhere (`park.store.readings`).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources

import psycopg
from psycopg import errors

from park.errors import StoreError
from park.store import editions
from park.store.connection import REFUSALS, connect, where

log = logging.getLogger(__name__)

LOCK_KEY = 0x53594D42_0001  # "SYMB": any number that no other program on this database uses

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_CREATE_REGISTER = """
    create table if not exists schema_migration (
        number     integer primary key,
        name       text not null,
        digest     text not null,
        applied_at timestamptz not null default now()
    )
"""


@dataclass(frozen=True)
class Migration:
    """One numbered SQL file."""

    number: int
    name: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.number:04d}_{self.name}"


@dataclass(frozen=True)
class AppliedMigration:
    """One row of `schema_migration`."""

    number: int
    name: str
    digest: str
    applied_at: datetime

    def __str__(self) -> str:
        return f"{self.number:04d}_{self.name}"


def bundled_migrations() -> list[Migration]:
    """Return the migrations of this version, in order."""
    found = []
    for file in resources.files("park.store").joinpath("migrations").iterdir():
        match = _FILE_NAME.fullmatch(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.read_text("utf-8").replace("\r\n", "\n")))
    found.sort(key=lambda m: m.number)
    return found


def migrate(dsn: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Bring the database up to this version's schema; safe to call from several processes at once.

    Parameters
    ----------
    dsn
        The database.
    migrations
        Other migrations than the bundled ones, in order (tests).

    Returns
    -------
    list of str
        The migrations that were applied now, such as ``0001_readings``; empty if there was nothing to do.

    Raises
    ------
    StoreError
        If the database cannot be reached, a migration fails (it leaves no trace), an applied one has changed, or the
        database was written by a newer version. Caused by one of `REFUSALS`: something is missing, and this role or
        this server may not write it.
    """
    wanted = bundled_migrations() if migrations is None else list(migrations)
    try:
        with connect(dsn, autocommit=True) as conn:
            conn.add_notice_handler(_pass_on)
            missing = _check_for_missing(wanted, applied(conn))
            conn.execute("select pg_advisory_lock(%s)", [LOCK_KEY])       # freed with the connection
            if missing:
                conn.execute(_CREATE_REGISTER)
                missing = _check_for_missing(wanted, _applied(conn))        # another service may have been faster
            for migration in missing:
                _apply(conn, migration)
            if migrations is None:
                _fit(conn)
    except psycopg.Error as error:
        hint = _hint(error)
        raise StoreError(f"cannot bring {where(dsn)} up to date: {_first_line(error)}{hint}") from error
    return [str(migration) for migration in missing]


def applied(conn: psycopg.Connection) -> list[AppliedMigration]:
    """Return the migrations that a database has, in order; none where it never was migrated."""
    return _applied(conn) if _has_register(conn) else []


def _apply(conn: psycopg.Connection, migration: Migration) -> None:
    """Run one migration and register it, in one transaction."""
    try:
        with conn.transaction():
            conn.execute(migration.text.encode())      # bytes: several statements, no parameters
            conn.execute(
                "insert into schema_migration (number, name, digest) values (%s, %s, %s)",
                [migration.number, migration.name, migration.digest],
            )
    except psycopg.Error as error:
        raise StoreError(f"migration {migration} failed: {_first_line(error)}{_hint(error)}") from error


def _fit(conn: psycopg.Connection) -> None:
    """Make of the tables what the database's edition offers."""
    try:
        for step in editions.fit(conn):
            log.info("%s", step)
    except psycopg.Error as error:
        raise StoreError(f"cannot set up TimescaleDB: {_first_line(error)}{_hint(error)}") from error


def _pass_on(notice: psycopg.errors.Diagnostic) -> None:
    """Log what a migration warns of, such as a role that it may not create."""
    if notice.severity_nonlocalized == "WARNING":
        log.warning("%s", notice.message_primary)


def _check_for_missing(wanted: Sequence[Migration], applied: Sequence[AppliedMigration]) -> list[Migration]:
    """Return the migrations to run; refuse a database that this version does not fit."""
    known = {migration.number: migration for migration in wanted}
    for row in applied:
        if row.number not in known:
            raise StoreError(
                f"the database has migration {row}, which this version does not know (hint: install a newer version)"
            )
        if known[row.number].digest != row.digest:
            raise StoreError(
                f"migration {row} was changed after it was applied at {row.applied_at:%Y-%m-%d %H:%M}Z "
                "(hint: put the change into a migration with a new number)"
            )
    done = {row.number for row in applied}
    highest = max(done, default=0)
    missing = [migration for migration in wanted if migration.number not in done]
    for migration in missing:
        if migration.number < highest:
            raise StoreError(f"migration {migration} is missing below {highest:04d}, which was applied already")
    return missing


def _has_register(conn: psycopg.Connection) -> bool:
    """Whether this database was ever migrated."""
    row = conn.execute("select to_regclass('schema_migration') is not null").fetchone()
    return bool(row and row[0])


def _applied(conn: psycopg.Connection) -> list[AppliedMigration]:
    """Return the register, in order."""
    rows = conn.execute("select number, name, digest, applied_at from schema_migration order by number")
    return [AppliedMigration(*row) for row in rows]


def _hint(error: psycopg.Error) -> str:
    """Return who could do what was refused."""
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return " (hint: name the primary, or let the database be written to)"
    if isinstance(error, REFUSALS):
        return " (hint: symbiosis db migrate as the role that owns the tables; docs/operating.md has the rights)"
    return ""


def _first_line(error: psycopg.Error) -> str:
    """Return the server's message without its context."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
