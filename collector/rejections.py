"""What came and is no reading: counted for each source and reason; the first of its kind is logged with what it was.

Nothing is raised: a bad message never stops the rest. `on_rejected` hands them to `dead_letters`, which keeps them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

_logger = logging.getLogger(__name__)

EXCERPT = 200           # characters of a rejected payload that are logged


class Kept(NamedTuple):
    """Something that is kept as the bytes of a message, to be read again, and logged in its own words."""

    payload: bytes
    what: object


class Rejections:
    """Counts by source and reason.

    Parameters
    ----------
    on_rejected
        Called with source, subject (topic, meter), reason and the raw thing for each; default nothing.
    log
        Whether the first of its kind is logged.
    """

    def __init__(
        self, on_rejected: Callable[[str, str, str, object], None] | None = None, *, log: bool = True
    ) -> None:
        self._log = log
        self._counts: Counter[tuple[str, str]] = Counter()
        self._on_rejected = on_rejected

    def add(self, source: str, subject: str, reason: str, what: object) -> None:
        """Count one; log it if it is the first of its source and reason.

        Parameters
        ----------
        source, subject
            Where it came from: the source, and the topic or meter.
        reason
            Why it is no reading: a fixed text, not holding the value, since it is counted by.
        what
            The raw payload or value.
        """
        self._counts[source, reason] += 1
        if self._counts[source, reason] == 1 and self._log:
            _logger.warning("%s: rejected from %s: %s: %s (more of this kind are only counted)",
                            source, subject, reason, excerpt(what))
        if self._on_rejected is not None:
            self._on_rejected(source, subject, reason, what)

    def count(self, source: str, reason: str, more: int) -> None:
        """Count more of a kind that was added from the same message."""
        self._counts[source, reason] += more

    def total(self, source: str) -> int:
        """Return how many of the source were rejected."""
        return sum(count for (of, _), count in self._counts.items() if of == source)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the counts by source and reason, as they are now; for any thread."""
        return dict(self._counts)

    def by_reason(self, source: str) -> dict[str, int]:
        """Return the counts of the source by reason."""
        return {reason: count for (of, reason), count in self._counts.items() if of == source}


def excerpt(what: object) -> str:
    """Return the beginning of a payload or value, printable on one line."""
    if isinstance(what, bytes):
        text = what[: 4 * EXCERPT].decode("utf-8", "backslashreplace")
    else:
        text = str(what.what) if isinstance(what, Kept) else repr(what)
    line = "".join(char if char.isprintable() else "\ufffd" for char in text[: EXCERPT + 1])
    return line if len(line) <= EXCERPT else f"{line[:EXCERPT]}..."
