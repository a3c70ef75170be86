"""What nobody expected: an error of a library, or of ours, that ends a source's work and must end no other's.

A source that is away is its own affair, tried again in its own way. What is raised beyond that is a fault: it is said
with its traceback, once for each kind, and counted; the source then begins anew after a while. Where faults are caught
is `collector.sources`; the way in is `Faults.take`.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator

from collector.backoff import Backoff
from collector.status import SourceStatus

_logger = logging.getLogger(__name__)

FIRST_S = 1.0
LONGEST_S = 60.0        # somebody has to mend it: nothing is gained by more haste
STEADY_S = 600.0        # a source that ran for so long has a new fault, which is said again

Kind = tuple[str, ...]


class Faults:
    """The faults of one source.

    Parameters
    ----------
    status
        Of the source.
    """

    def __init__(self, status: SourceStatus) -> None:
        self._status = status
        self._backoff = Backoff(FIRST_S, LONGEST_S)
        self._said: set[Kind] = set()
        self._began = time.monotonic()

    def take(self, error: Exception) -> float:
        """Say and count a fault; return how long to wait before the source begins anew [s]."""
        if time.monotonic() - self._began > STEADY_S:
            self._backoff.reset()
            self._said.clear()
        self._status.faults += 1
        wait_s = self._backoff.next()
        kind = tuple(_kinds(error))
        if kind not in self._said:
            self._said.add(kind)
            _logger.error("%s: a fault, in this program or a library; the source begins anew, the others go on",
                          self._status.source, exc_info=error)
        return wait_s

    def begin(self) -> None:
        """Note that the source begins anew."""
        self._began = time.monotonic()


def words_of(error: Exception) -> str:
    """Return what was raised, in one clause."""
    first = next(_leaves(error))
    text = str(first).strip()
    return f"a fault, {type(first).__name__}{f': {text}' if text else ''} (hint: the log has the traceback)"


def _kinds(error: Exception) -> Iterator[str]:
    """Yield what was raised and where, by which two faults are the same."""
    for leaf in _leaves(error):
        frames = traceback.extract_tb(leaf.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        yield f"{type(leaf).__name__} at {place}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors of a group, however deep; of one that is none itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
