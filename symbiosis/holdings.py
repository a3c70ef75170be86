"""`symbiosis db status` and `symbiosis db retention`: what a database holds, what that costs, and how long it is kept.

What is told is found in `park.store.storage` and `park.store.retention`; which database is meant, in
`symbiosis.database`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from park.errors import InputError

if TYPE_CHECKING:
    from park.store.retention import Kept
    from park.store.storage import Job, StoreStatus, TableCost

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DONE = 0
FOR_EVER = "forever"
HOUR = timedelta(hours=1)
_DAYS = re.compile(r"(\d{1,6})d")
_SHOWN_BYTES = 1_000_000        # smaller tables are told with --json alone, unless they have a time

_Database = Callable[[argparse.Namespace], AbstractContextManager[str]]


def add_actions(actions: Subparsers, add: Callable[..., argparse.ArgumentParser], database: _Database) -> None:
    """Add `status` and `retention` to the actions of `symbiosis db`."""
    status = add(actions, "status", "tells what the database holds, and what that costs")
    status.add_argument("--json", action="store_true", help="as JSON, every table")
    status.set_defaults(work=_status, database=database)
    kept = add(actions, "retention", "tells or sets how long what is kept; nothing is deleted unless you say so")
    kept.add_argument("tier", nargs="?", metavar="TIER",
                      help="reading, reading_1min, reading_15min, reading_1h or result")
    kept.add_argument("keep", nargs="?", metavar="KEEP", help=f"days as 400d, or {FOR_EVER}")
    kept.add_argument("--apply", action="store_true", help="delete what is older, where the database does not itself")
    kept.set_defaults(work=_retention, database=database)


def _status(options: argparse.Namespace) -> int:
    from park.store import status

    with options.database(options) as dsn:
        found = status(dsn)
    if options.json:
        sys.stdout.write(json.dumps(status_record(found), indent=2, default=_plain) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in status_lines(found))
    return DONE


def _retention(options: argparse.Namespace) -> int:
    from park.store import connect, retention
    from park.store.editions import edition_of

    if (options.tier is None) != (options.keep is None):
        raise InputError("retention: name a tier and how long, as in: symbiosis db retention reading 400d")
    keep = keep_of(options.keep) if options.keep is not None else None
    with options.database(options) as dsn, connect(dsn, autocommit=True, application="symbiosis db retention") as conn:
        if options.tier is not None:
            try:
                retention.set_retention(conn, options.tier, keep)
            except ValueError as error:
                raise InputError(f"retention: {error}") from error
        cuts = retention.delete_expired(conn) if options.apply else {}
        by_itself = edition_of(conn).kind == "community"
        kept = retention.retention_of(conn)
    for tier, cut in cuts.items():
        sys.stderr.write(f"{tier}: deleted what was before {cut:%Y-%m-%d}Z\n")
    sys.stdout.writelines(f"{line}\n" for line in retention_lines(kept, by_itself=by_itself))
    return DONE


def keep_of(text: str) -> timedelta | None:
    """Return how long something is kept: ``400d``, or None for ``forever``.

    Raises
    ------
    InputError
        If it is neither.
    """
    days = _DAYS.fullmatch(text)
    if days is None and text != FOR_EVER:
        raise InputError(f"retention: KEEP must be days such as 400d, or {FOR_EVER}, got {text!r}")
    return timedelta(days=int(days[1])) if days else None


def retention_lines(kept: dict[str, Kept], *, by_itself: bool) -> list[str]:
    """Return how long each tier is kept, in lines."""
    lines = [f"{tier}: kept {_kept_in_words(entry)}" for tier, entry in kept.items()]
    if not by_itself and any(entry.keep for entry in kept.values()):
        lines.append("this database deletes nothing by itself: run `symbiosis db retention --apply` once a day")
    return lines


def _kept_in_words(entry: Kept) -> str:
    words = "for ever" if entry.keep is None else f"{entry.keep.days} days"
    return words + (f", deleted before {entry.cut:%Y-%m-%d}Z" if entry.cut else "")


def status_lines(found: StoreStatus) -> list[str]:
    """Return what a database holds, in lines."""
    edition = str(found.edition) if found.edition.version else "no TimescaleDB"
    lines = [f"PostgreSQL {found.server_version}, {edition}, size {_megabytes(found.size_bytes)}"]
    lines += [f"hint: {found.edition.hint}"] if found.edition.hint else []
    lines += [f"migration {m} applied {m.applied_at:%Y-%m-%d %H:%M:%S}Z" for m in found.applied]
    lines += [f"migration {name} pending (hint: symbiosis db migrate)" for name in found.pending]
    shown = [table for table in found.tables if _is_shown(table)]
    lines += [_table_line(table) for table in shown]
    if len(shown) < len(found.tables):
        rest = sum(table.bytes_total for table in found.tables if table not in shown)
        lines.append(f"{len(found.tables) - len(shown)} smaller tables: {_megabytes(rest)}")
    lines += [_job_line(job) for job in found.jobs]
    limited = [entry for entry in found.retention.values() if entry.keep]
    lines += [f"retention {entry.tier}: kept {_kept_in_words(entry)}" for entry in limited]
    return lines


def status_record(found: StoreStatus) -> dict[str, object]:
    """Return what a database holds, as JSON can say it."""
    return {
        "server_version": found.server_version,
        "edition": {**asdict(found.edition), "hint": found.edition.hint},
        "size_bytes": found.size_bytes,
        "migrations": [{"name": str(m), "applied_at": m.applied_at} for m in found.applied],
        "pending": list(found.pending),
        "tables": [asdict(table) for table in found.tables],
        "jobs": [{**asdict(job), "is_well": job.is_well} for job in found.jobs],
        "retention": {tier: {"keep_days": entry.keep.days if entry.keep else None, "cut": entry.cut}
                      for tier, entry in found.retention.items()},
    }


def _plain(value: object) -> str:
    """Return what JSON has no form for: times."""
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _is_shown(table: TableCost) -> bool:
    return table.bytes_total >= _SHOWN_BYTES or table.chunks is not None or table.name == "reading"


def _table_line(table: TableCost) -> str:
    """Return one table in words."""
    words = [f"table {table.name}: about {table.rows} rows", _megabytes(table.bytes_total)]
    if table.rows:
        words.append(f"{table.bytes_total / table.rows:.0f} bytes a row")
    if table.oldest and table.newest:
        words.append(_span_in_words(table.name, table.oldest, table.newest))
    if table.chunks is not None:
        words.append(f"{table.chunks} chunks")
    if table.packed is not None:
        share = table.packed.bytes_after / max(table.packed.bytes_before, 1)
        before = _megabytes(table.packed.bytes_before)
        words.append(f"{table.packed.chunks} of them in the columnstore, at {share:.0%} of {before}")
    return ", ".join(words)


def _span_in_words(table: str, oldest: datetime, newest: datetime) -> str:
    """Return of which time the rows of a table are; of readings the whole hours are known (`park.store.storage`)."""
    if table == "reading":
        return f"source times within the hours from {oldest:%Y-%m-%d %H}:00Z to {newest + HOUR:%Y-%m-%d %H}:00Z"
    return f"times from {oldest:%Y-%m-%d %H:%M}Z to {newest:%Y-%m-%d %H:%M}Z"


def _job_line(job: Job) -> str:
    """Return one job in words."""
    words = [f"job {job.id}: {job.does.removeprefix('policy_')} of {job.table}, every {job.every}"]
    words.append("switched off" if not job.scheduled else f"last run {job.last_status or 'not yet'}")
    words.append(f"{job.failures} failures")
    if job.last_success:
        words.append(f"last success {job.last_success:%Y-%m-%d %H:%M}Z")
    return ", ".join(words) + ("" if job.is_well else " (hint: timescaledb_information.job_errors says why)")


def _megabytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB"
