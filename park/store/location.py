"""Which database is meant: the one named, else the embedded one of a data folder.

`open_database` is the one way there for commands that run by themselves. A supervisor keeps an `EmbeddedPostgres` of
its own for as long as it runs; a command beside it finds that server and uses it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from park.errors import InputError
from park.store.embedded import EmbeddedPostgres, InUseError, database_lock, running_dsn
from park.store.kept_running import kept_running

DSN_VARIABLE = "SYMBIOSIS_DSN"
PATIENCE_S = 30.0       # for a server that recovers after a kill
LINGER_S = 60.0         # a command that used the server of another one meanwhile may finish its query

_POLL_S = 0.05


@contextmanager
def open_database(dsn: str | None, data_dir: Path, *, create: bool = False) -> Iterator[str]:
    """Yield the DSN of the database that is meant, reachable for as long as the block runs.

    Parameters
    ----------
    dsn
        The database named by the user; default what the environment names in ``SYMBIOSIS_DSN``.
    data_dir
        Where the embedded database is, if none is named: its server is used if one runs, else started for the block,
        and started again if it ends meanwhile.
    create
        Whether to make the embedded database if there is none.

    Raises
    ------
    InputError
        If there is no database in the folder.
    StoreError
        If its server does not start.
    """
    named = dsn or os.environ.get(DSN_VARIABLE)
    if named:
        yield named
        return
    if not create and not (data_dir / "postgres").is_dir():
        raise InputError(f"no database in {data_dir} (hint: name another folder with --data, or a database with --dsn)")
    with ExitStack() as stack:
        yield _server_of_another(data_dir) or _server_of_ones_own(data_dir, stack)


def _server_of_ones_own(data_dir: Path, stack: ExitStack) -> str:
    """Start a server, keep it running, and return its DSN; that of another one if a process has been faster."""
    server = EmbeddedPostgres(data_dir, linger_s=LINGER_S)
    try:
        return stack.enter_context(kept_running(server)).dsn
    except InUseError:
        found = _server_of_another(data_dir)
        if found is None:
            raise
        return found


def _server_of_another(data_dir: Path) -> str | None:
    """Return the DSN of the server that another process runs on the folder, None if nobody has the folder.

    One that is just starting or stopping is waited for.
    """
    deadline = time.monotonic() + PATIENCE_S
    lock = database_lock(data_dir)
    while time.monotonic() < deadline:
        found = running_dsn(data_dir)
        if found is not None:
            return found
        if lock.is_free():
            return None
        time.sleep(_POLL_S)     # another program's state: nothing tells when it changes
    raise InUseError(f"{lock.what} is in use by process {lock.holder() or 'unknown'}, and its server does not answer")
