"""One row a source: is it connected, since when, what came from it. What the terminal and the boards show of sources.

A change of state is logged once and passed on; counts are only counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from collector.batches import Rows

_logger = logging.getLogger(__name__)
_HINT = "(hint: "           # what somebody is to do about it, which the log shall have


class State(StrEnum):
    """Where a source stands."""

    CONNECTING = "connecting"           # for the first time
    RECEIVING = "receiving"             # connected, every subscription in force
    WAITING = "waiting"                 # away; tried again
    STOPPED = "stopped"                 # the collector stopped in order


@dataclass
class SourceStatus:
    """State and counts of one source.

    Attributes
    ----------
    source, protocol
        Its name (``opcua:<endpoint>``, ``mqtt``, ``sparkplug``) and protocol.
    since
        Run time at which the state began [s].
    detail
        Why it is so: the error of a source that is away, meters that are not found.
    last_source_us, last_received_us
        Latest times of its readings [us]; None before the first.
    readings
        Readings that became durable, those the store already had included.
    connects
        How often it began to receive.
    heard_us
        When it was last heard, keep-alives included [us]; None where only the state tells that it is there.
    faults
        How often it ended by an error that nobody expected, and began anew.
    refused
        Why, of the meters that its server or broker refuses to give; at a broker of the topic where that is of many.
    is_in_doubt
        Whether somebody behind it may be gone: that it is there says nothing of its meters.
    """

    source: str
    protocol: str
    now: Callable[[], float]
    on_change: Callable[[SourceStatus], None] | None = None
    state: State = State.CONNECTING
    since: float = 0.0
    detail: str = ""
    last_source_us: int | None = None
    last_received_us: int | None = None
    readings: int = 0
    connects: int = 0
    heard_us: int | None = None
    faults: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)
    is_in_doubt: bool = False
    _said: set[str] = field(default_factory=set, init=False, repr=False)    # details of this state that were logged

    def __post_init__(self) -> None:
        self.since = self.now()

    def become(self, state: State, detail: str = "") -> None:
        """Change the state; logged and passed on if it is another one. Of a detail alone only a hint is logged."""
        changed, before = state != self.state, self.detail
        self.detail = detail
        if not changed:
            if state is State.WAITING and detail != before:
                if _HINT in detail and detail not in self._said:
                    self._say(logging.WARNING)
                self._tell()
            return
        self.state, self.since = state, self.now()
        self.connects += state is State.RECEIVING
        self._said.clear()
        self._say(logging.WARNING if state is State.WAITING else logging.INFO)
        self._tell()

    def refuse(self, refused: Mapping[str, str]) -> None:
        """Note which meters are not to be had; whoever found it out has logged it."""
        if refused != self.refused:
            self.refused = dict(refused)
            self._tell()

    def _say(self, level: int) -> None:
        self._said.add(self.detail)
        _logger.log(level, "%s: %s%s", self.source, self.state, f": {self.detail}" if self.detail else "")

    def _tell(self) -> None:
        if self.on_change is not None:
            self.on_change(self)

    def hear(self, at_us: int) -> None:
        """Note that it was there at `at_us` (run time): what it had for us before, it has sent, and we have queued."""
        self.heard_us = at_us

    def count(self, rows: Rows) -> None:
        """Count rows that became durable."""
        if not len(rows):
            return
        self.readings += len(rows)
        self.last_source_us = max(self.last_source_us or 0, max(rows.source_us))
        self.last_received_us = max(self.last_received_us or 0, max(rows.received_us))
