"""The command `symbiosis db`: the tables, what the database holds, how long, a copy of it, a question to it.

Each command works on the database that is named, else on the embedded one, whether a run uses it just now or not.
What the tables are is in `park.store`; `status` and `retention` are told in `symbiosis.holdings`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from park.errors import InputError, StoreError
from symbiosis import holdings
from symbiosis.options import add_database, positive

if TYPE_CHECKING:
    import psycopg

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DONE = 0
TIMEOUT_S = 60.0
_PAGE_ROWS = 1000
_BACK_OFF_S = (0.25, 0.5, 1.0, 2.0, 4.0)
_QUOTED = re.compile(r'[",\r\n]')
_EXAMPLE = """examples:
  symbiosis db status
  symbiosis db sql "select meter, count(*) from reading group by meter"
"""


def migrate_when_there(dsn: str, tell: Callable[[str], None], pause: Callable[[float], object]) -> None:
    """Bring the tables up to date as soon as the database answers, and lets whoever it is do that.

    Parameters
    ----------
    dsn
        The database.
    tell
        Told once that the database is away, once that it refuses, and once that it is back.
    pause
        Waits for so many wall seconds; what it returns is true if there is no use in waiting any longer.

    Raises
    ------
    StoreError
        If the tables cannot be brought up to date, however long one waits.
    """
    from park.store import migrate
    from park.store.connection import PASSING

    said = None
    for attempt, pause_s in enumerate(chain(_BACK_OFF_S, repeat(_BACK_OFF_S[-1]))):
        try:
            migrate(dsn)
        except StoreError as error:
            if not isinstance(error.__cause__, PASSING):
                raise
            if type(error.__cause__) is not said:
                tell(f"{error}; waiting for it")
            said = type(error.__cause__)
            if pause(pause_s):
                return
        else:
            if attempt:
                tell("the database answers")
            return


def add_command(commands: Subparsers) -> None:
    """Add `symbiosis db` with its own commands."""
    db = commands.add_parser(
        "db",
        help="the database: migrate, status, retention, backup, sql",
        description="Looks after the database.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = db.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    _add_action(actions, "migrate", "brings the tables up to this version").set_defaults(work=_migrate)
    holdings.add_actions(actions, _add_action, _database)
    backup = _add_action(actions, "backup", "writes a copy that pg_restore reads, while all goes on")
    backup.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default symbiosis-<now>.dump")
    backup.set_defaults(work=_backup)
    sql = _add_action(actions, "sql", "prints the answer to one query as CSV; changes nothing")
    sql.add_argument("query", metavar="QUERY", help="one SQL statement; - reads it from standard input")
    sql.add_argument(
        "--timeout", type=positive, default=TIMEOUT_S, metavar="S",
        help=f"give up after S seconds (default {TIMEOUT_S:g})"
    )
    sql.set_defaults(work=_sql)


def _add_action(actions: Subparsers, name: str, does: str) -> argparse.ArgumentParser:
    """Add one action with the options that say which database."""
    action = actions.add_parser(
        name,
        help=does,
        description=does[0].upper() + does[1:] + ".",
        epilog=f"example: symbiosis db {name}" + (' "select * from event"' if name == "sql" else ""),
    )
    add_database(action)
    return action


def _database(options: argparse.Namespace, *, create: bool = False) -> AbstractContextManager[str]:
    """Return the database that the options mean."""
    from park.store.location import open_database
    from symbiosis.datafolder import default_data_folder

    return open_database(options.dsn, options.data or default_data_folder(), create=create)


def _migrate(options: argparse.Namespace) -> int:
    from park.store import migrate

    with _database(options, create=True) as dsn:
        done = migrate(dsn)
    _say(f"applied {', '.join(done)}" if done else "nothing to apply")
    return DONE


def _backup(options: argparse.Namespace) -> int:
    with _database(options) as dsn:
        file = backup(dsn, options.file or Path(f"symbiosis-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.dump"))
    _say(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
    return DONE


def _sql(options: argparse.Namespace) -> int:
    query = sys.stdin.read() if options.query == "-" else options.query
    with _database(options) as dsn:
        print_query(dsn, query, sys.stdout, timeout_s=options.timeout)
    return DONE


def backup(dsn: str, file: Path) -> Path:
    """Write a dump in pg_dump's custom format; it appears under its name when it is whole.

    Raises
    ------
    StoreError
        If there is no pg_dump, or it fails.
    """
    from park.store.binaries import find_binaries

    pg_dump = find_binaries() / "pg_dump"
    if not pg_dump.is_file():
        raise StoreError(f"no pg_dump in {pg_dump.parent} (hint: install PostgreSQL's client programs)")
    unfinished = file.with_name(file.name + ".part")
    try:
        # the DSN may hold a password: in the environment, unlike among the arguments, others cannot read it
        done = subprocess.run(
            [pg_dump, "--format=custom", f"--file={unfinished}", *_place_of(dsn)],
            env={**os.environ, **_secret_of(dsn)}, capture_output=True, text=True, check=False,
        )
        if done.returncode != 0:
            raise StoreError(f"backup failed: {done.stderr.strip()}")
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    return file


def print_query(dsn: str, query: str, out: TextIO, *, timeout_s: float = TIMEOUT_S) -> None:
    """Print the answer to one query as CSV, values as PostgreSQL writes them, in a transaction that cannot write.

    Parameters
    ----------
    dsn
        The database.
    query
        One SQL statement.
    out
        Where to print; null is nothing, an empty text is ``""``.
    timeout_s
        Limit of the query [s].

    Raises
    ------
    InputError
        If the query is wrong, wants to write, or is more than one.
    StoreError
        If the database is away, or the limit is passed.
    """
    import psycopg

    from park.store import connect

    if not query.strip():
        raise InputError("query: there is none")
    try:
        with connect(dsn, application="symbiosis db sql") as conn:
            conn.read_only = True
            conn.execute("select set_config('statement_timeout', %s, true)", [f"{timeout_s * 1000:.0f}"])
            with closing(_rows_as_text(conn, query)) as lines:      # an unfinished one would hold the connection
                out.writelines(csv_line(line) for line in lines)
    except psycopg.errors.QueryCanceled as error:
        raise StoreError(f"the query took longer than {timeout_s:g} s (hint: --timeout)") from error
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.InternalError, psycopg.NotSupportedError) as error:
        raise InputError(f"query: {str(error).strip()}") from error
    except psycopg.Error as error:
        raise StoreError(f"query: {str(error).strip()}") from error


def _rows_as_text(conn: psycopg.Connection, query: str) -> Generator[Sequence[str | None], None, None]:
    """Yield the column names, then the rows as PostgreSQL writes them, page by page."""
    from psycopg.types.string import TextLoader

    cursor = conn.cursor()
    for kind in cursor.adapters.types:
        cursor.adapters.register_loader(kind.oid, TextLoader)
        if kind.array_oid:
            cursor.adapters.register_loader(kind.array_oid, TextLoader)
    answer = cast("Generator[tuple[str | None, ...], None, None]", cursor.stream(query.encode(), size=_PAGE_ROWS))
    with closing(answer) as rows:
        first = next(rows, None)
        if first is None:       # an answer without rows has not told its columns
            yield _column_names(conn, query)
            return
        yield [column.name for column in cursor.description or ()]
        yield first
        yield from rows


def _column_names(conn: psycopg.Connection, query: str) -> list[str]:
    """Return the columns that the query would answer with."""
    conn.pgconn.prepare(b"", query.encode())
    described = conn.pgconn.describe_prepared(b"")
    return [(described.fname(number) or b"").decode() for number in range(described.nfields)]


def csv_line(fields: Iterable[str | None]) -> str:
    """Return fields as a line of CSV (RFC 4180 with a bare newline)."""
    return ",".join(_csv_field(field) for field in fields) + "\n"


def _csv_field(field: str | None) -> str:
    """Return one field: nothing for null, quoted where it must be."""
    if field is None:
        return ""
    if field == "" or _QUOTED.search(field):
        return '"' + field.replace('"', '""') + '"'
    return field


def _place_of(dsn: str) -> list[str]:
    """Return pg_dump's arguments for a DSN without its password."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    settings = {name: value for name, value in conninfo_to_dict(dsn).items() if name != "password"}
    return ["--dbname=" + make_conninfo("", **settings)]


def _secret_of(dsn: str) -> dict[str, str]:
    """Return the environment that hands a DSN's password to libpq."""
    from psycopg.conninfo import conninfo_to_dict

    password = conninfo_to_dict(dsn).get("password")
    return {"PGPASSWORD": str(password)} if password else {}


def _say(text: str) -> None:
    """Tell the user; data alone goes to standard output."""
    sys.stderr.write(f"{text}\n")
