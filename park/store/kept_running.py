"""An embedded server that is started again when it has ended by itself, for programs without an event loop's help.

`kept_running(server)` is the way in. Clients wait for the server with their own back-off: it comes back under the DSN
that it had. What `symbiosis run` and `demo` start is kept running by `symbiosis.machine`.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from park.errors import OperationError
from park.store.embedded import EmbeddedPostgres

log = logging.getLogger(__name__)

BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0         # a server that ran this long is started again at once


@contextmanager
def kept_running(server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """Run a server for as long as the block runs, whatever becomes of its processes.

    Raises
    ------
    StoreError
        If it does not start the first time.
    """
    with server:
        waker, wake = os.pipe()
        keeper = threading.Thread(target=_keep, args=(server, waker), name="database keeper", daemon=True)
        keeper.start()
        try:
            yield server
        finally:
            os.close(wake)          # which makes the other end readable
            keeper.join()           # a start that is under way is waited for, and stopped with the server
            os.close(waker)


def _keep(server: EmbeddedPostgres, waker: int) -> None:
    """Start the server again whenever it has ended, until the pipe is closed."""
    short_runs = 0
    while True:
        began = time.monotonic()
        if _await_end(server.pid, waker):
            return
        short_runs = 0 if time.monotonic() - began > STEADY_S else short_runs + 1
        log.warning("the database ended unexpectedly; starting it again")
        if short_runs > 1 and _is_closed(waker, _pause_s(short_runs - 2)):
            return
        if not _start_again(server, waker):
            return
        log.warning("the database runs again")


def _start_again(server: EmbeddedPostgres, waker: int) -> bool:
    """Start the server as soon as that is possible; return False if the pipe was closed first."""
    attempt = 0
    while True:
        try:
            server.stop()
            server.start()
        except OperationError as error:
            if not attempt:
                log.warning("the database does not start, trying on: %s", error)
        else:
            return True
        if _is_closed(waker, _pause_s(attempt)):
            return False
        attempt += 1


def _pause_s(attempt: int) -> float:
    return BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)]


def _await_end(pid: int, waker: int) -> bool:
    """Wait until a process has ended; return whether the pipe was closed instead."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return _is_closed(waker, 0.0)
    try:
        poll = select.poll()
        for descriptor in (process, waker):
            poll.register(descriptor, select.POLLIN)
        return any(descriptor == waker for descriptor, _ in poll.poll())
    finally:
        os.close(process)


def _is_closed(waker: int, wait_s: float) -> bool:
    """Whether the pipe is closed within so long [s]."""
    poll = select.poll()
    poll.register(waker, select.POLLIN)
    return bool(poll.poll(wait_s * 1000.0))
