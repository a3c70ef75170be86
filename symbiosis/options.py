"""Kinds of values that options take: what argparse makes of them, and what it refuses before anything starts.

Nothing heavy is imported here: `--help` answers at once. Which option takes which is where the commands are.
"""

from __future__ import annotations

import argparse
import math
from datetime import datetime
from pathlib import Path


def folder(text: str) -> Path:
    """Read a folder, which need not be there yet, but can be."""
    path = Path(text)
    for place in (path, *path.parents):
        if place.is_dir():
            return path
        if place.exists():
            raise argparse.ArgumentTypeError(f"{str(place)!r} is a file, not a folder")
    return path


def dsn(text: str) -> str:
    """Read a connection string as libpq does; what is wrong with it is not shown, for it may hold a password."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(text)
    except ProgrammingError:
        raise argparse.ArgumentTypeError(
            "is no connection string such as postgresql://user@host/park or 'host=... dbname=...'") from None
    return text


def address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``; an IPv6 address stands in brackets, port 0 is any free one."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, such as 127.0.0.1:9464, got {text!r}")
    return host, int(port)


def positive(text: str) -> float:
    """Read a number above 0."""
    value = number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def speed(text: str) -> float:
    """Read a speed."""
    value = number(text)
    if not 1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def number(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def instant(text: str) -> datetime:
    """Read a moment with its offset from UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a time such as 2026-01-31T06:00:00Z, got {text!r}") from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"needs its offset from UTC, such as {moment.isoformat()}Z")
    return moment


def add_database(command: argparse.ArgumentParser) -> None:
    """Add the options of a command that works on a database and goes."""
    command.add_argument("--dsn", type=dsn, metavar="DSN",
                         help="the database (default $SYMBIOSIS_DSN, else the embedded one)")
    command.add_argument("--data", type=folder, metavar="DIR",
                         help="data folder of the embedded one (default the user's)")
