"""How the collection stands: what was stored, how complete it is, and what waits. Counted here, told by others.

The writer reports each commit (`Standing.stored`) and asks for marks to store (`due_marks`); `metrics` renders the
counts, `agent` the states. Everything runs in the event loop; a scrape only reads.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt

from collector.batches import Batches
from collector.completeness import NEVER, Completeness, SourceMark
from collector.coverage import Coverage
from collector.register import Register
from collector.rejections import Rejections
from collector.status import SourceStatus, State
from collector.times import MICROS, moment
from park.clock import RunClock
from park.quality import Quality, qualities_of
from park.store.completeness import MeterMarkRow, SourceMarkRow
from park.store.readings import ReadingBatch, WriteResult

GRACE_S = 5.0           # wall time from a reading to us that is not late yet; sources that stop with us have as long
MARK_S = 0.2            # marks are not stored more often, while readings keep coming
METERS_S = 10.0         # those of single meters, of which there may be thousands

Marks = tuple[list[SourceMarkRow], list[MeterMarkRow]]


@dataclass
class Tally:
    """What this process has stored.

    Attributes
    ----------
    readings
        Readings by source and quality, those the store already had included.
    batches
        Transactions.
    new, repeated, conflicting
        What the store made of the readings.
    """

    readings: Counter[tuple[str, Quality]] = field(default_factory=Counter)
    batches: int = 0
    new: int = 0
    repeated: int = 0
    conflicting: int = 0


class Standing:
    """The counts and marks of one collector.

    Parameters
    ----------
    register, coverage, batches, rejections
        Its parts.
    clock
        The run's clock.

    Attributes
    ----------
    statuses
        The sources, by name.
    spooled_rows
        Gives the readings that wait in the spool.
    marks
        How complete the sources were when that was last asked.
    """

    def __init__(
        self, register: Register, coverage: Coverage, batches: Batches, rejections: Rejections, clock: RunClock
    ) -> None:
        self.tally = Tally()
        self.statuses: dict[str, SourceStatus] = {}
        self.coverage, self.batches, self.rejections = coverage, batches, rejections
        self.spooled_rows: Callable[[], int] = int
        self.marks: list[SourceMark] = []
        self._clock = clock
        self._completeness = Completeness(register, GRACE_S * clock.speed)
        self._marked_at = self._meters_marked_at = -math.inf
        self.apply(register)

    def apply(self, register: Register) -> None:
        """Go over to the register of a changed park."""
        self._completeness.apply(register)
        self._source_of = dict(zip(register.ids, register.source, strict=True))
        self._sources = ["", *dict.fromkeys(register.source)]       # without a name: of meters that are not in the park
        self._names: Sequence[str] | None = None                    # of the batches that come
        self._source_numbers = np.empty(0, dtype=np.int64)

    @property
    def waiting(self) -> int:
        """Readings that have come and are not in the database."""
        return self.batches.uncommitted + self.spooled_rows()

    def waiting_s(self) -> float:
        """Return how long ago came what was committed last [run s]; 0 while nothing waits."""
        return self._completeness.behind_us(self.now_us()) / MICROS if self.waiting else 0.0

    def now_us(self) -> int:
        """Return the run time [us]."""
        return round(self._clock.now() * MICROS)

    def stored(self, batch: ReadingBatch, result: WriteResult) -> None:
        """Take note of a batch that the database has."""
        tally = self.tally
        tally.batches += 1
        tally.new += result.new
        tally.repeated += result.repeated
        tally.conflicting += result.conflicting
        self._completeness.store(batch)
        kinds = np.bincount(self._sources_of(batch.names)[batch.meter] * len(Quality) + qualities_of(batch.status))
        for kind in np.flatnonzero(kinds).tolist():
            source, quality = divmod(kind, len(Quality))
            tally.readings[self._sources[source], Quality(quality)] += int(kinds[kind])

    def _sources_of(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the number of each named meter's source; most batches name the same."""
        if names is not self._names:
            numbers = {source: number for number, source in enumerate(self._sources)}
            self._source_numbers = np.array(
                [numbers[self._source_of.get(name, "")] for name in names], dtype=np.int64)
            self._names = names
        return self._source_numbers

    def due_marks(self) -> Marks | None:
        """Return the marks after a commit, if they are to be stored now: nothing else waits, or it is a while ago."""
        waiting = len(self.batches) + self.spooled_rows()
        if waiting and time.monotonic() - self._marked_at < MARK_S:
            return None
        return self._new_marks(waiting)

    def new_marks(self) -> Marks:
        """Return the marks of all sources, and now and then those of all meters."""
        return self._new_marks(self.waiting)

    def _new_marks(self, waiting: int) -> Marks:
        now = time.monotonic()
        self._marked_at = now
        self._hear()
        as_of_us = self._completeness.as_of(self.now_us(), waiting=waiting > 0)
        doubtful = {status.source for status in self.statuses.values() if status.is_in_doubt}
        self.marks = self._completeness.sources(as_of_us, self.coverage.in_gap() - doubtful)
        sources = [
            SourceMarkRow(mark.source, _moment(mark.complete_us), moment(self.now_us()), mark.held_by or None,
                          mark.silent, waiting, _known(mark.offset_s), _known(mark.spread_s))
            for mark in self.marks]
        if now - self._meters_marked_at < METERS_S:
            return sources, []
        self._meters_marked_at = now
        return sources, self._meter_rows(as_of_us)

    def _hear(self) -> None:
        """Note which sources are there: a broker's while it is connected, a server's when it last said so.

        A broker speaks for the nodes behind it; while one of them may be dead, it does not.
        """
        now_us = self.now_us()
        for status in self.statuses.values():
            if status.state is State.RECEIVING and not status.is_in_doubt:
                self._completeness.hear(status.source, status.heard_us or now_us)

    def _meter_rows(self, as_of_us: int) -> list[MeterMarkRow]:
        marks, now = self._completeness.meters(as_of_us), moment(self.now_us())
        columns = zip(marks.ids, marks.source, marks.last_us.tolist(), marks.complete_us.tolist(),
                      marks.silent.tolist(), marks.offset_s.tolist(), marks.spread_s.tolist(), strict=True)
        return [MeterMarkRow(id, source, _moment(last), _moment(complete), now, silent, _known(offset), _known(spread))
                for id, source, last, complete, silent, offset, spread in columns]


def _moment(us: int | None) -> datetime | None:
    return None if us is None or us == NEVER else moment(us)


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds
