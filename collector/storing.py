"""What goes into the database and into the spool, and what follows from each: counts, marks, gaps, and what is said.

Here is one step of each kind; which of the two places something goes to, and when, is in `writing`. What blocks is
called by `durable`, in a thread for each of the two. The main paths are `Storing.commit` and `Storing.to_spool`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from collector.batches import Batches
from collector.coverage import Coverage, Gap
from collector.dead_letters import DeadLetters
from collector.durable import Away, Database, Disk
from collector.register import Register
from collector.rejections import Rejections
from collector.spool import SpoolSettings
from collector.spool_rescue import Rescued
from collector.standing import Marks, Standing
from collector.times import EARLIEST_US, micros_of_seconds
from park.clock import RunClock
from park.errors import SpoolError, StoreError
from park.model import Park
from park.store.dead_letters import DeadLetter
from park.store.readings import ReadingBatch, WriteResult

DAMAGED = "the spool was damaged"
DESCRIBE_AGAIN_S = 60.0                 # where the description was refused: a right that is missing
DATABASE, SPOOL = "database", "spool"   # beside the names of sources, in what is waited for


@dataclass(frozen=True)
class Inflow:
    """What came, on the way to the store."""

    register: Register
    batches: Batches
    coverage: Coverage
    letters: DeadLetters
    rejections: Rejections
    clock: RunClock
    standing: Standing


class Storing:
    """The two places where what came becomes durable.

    Parameters
    ----------
    dsn
        The database.
    inflow
        What came.
    spool
        Where the spool is; None: there is none.
    on_change
        Called when one of them has gone away or come back.

    Attributes
    ----------
    database, disk
        The two; `disk` None without a spool.
    spooled
        Set while something waits in the spool.
    park
        The park whose description is to be stored; None once it is.
    """

    def __init__(self, dsn: str, inflow: Inflow, spool: SpoolSettings | None, on_change: Callable[[], None]) -> None:
        self.database = Database(dsn, on_change)
        self.disk = Disk(spool, on_change, self._mark_lost) if spool else None
        self.spooled = asyncio.Event()
        self._in = inflow
        self.park: Park | None = None
        self._unmarked, self._undescribed = Away(lambda: None), Away(lambda: None)
        self._describe_from = 0.0           # monotonic [s]
        self._sources = dict(zip(inflow.register.ids, inflow.register.source, strict=True))
        inflow.standing.spooled_rows = lambda: self.spooled_rows

    def apply(self, inflow: Inflow) -> None:
        """Go over to the register of a changed park."""
        self._in = inflow
        self._sources |= dict(zip(inflow.register.ids, inflow.register.source, strict=True))

    @property
    def away(self) -> dict[str, str]:
        """What is away, and why."""
        places = {DATABASE: self.database.away, SPOOL: self.disk.away if self.disk else None}
        return {name: away.detail for name, away in places.items() if away is not None and away.detail is not None}

    @property
    def spooled_rows(self) -> int:
        """Readings that wait in the spool."""
        return self.disk.spool.rows if self.disk else 0

    @property
    def since_us(self) -> int:
        """Source time from which readings belong to this run."""
        return max(EARLIEST_US, micros_of_seconds(self._in.clock.start))

    async def commit(self, batch: ReadingBatch) -> bool:
        """Write gaps and rows in the database; return whether they are there. A repeated write changes nothing."""
        try:
            result, gaps = await self.database.save(
                self._in.coverage, lambda store, gaps: store.write(batch, gaps))
        except StoreError as error:
            self.say_away(str(error))
            return False
        self.say_back()
        self._in.standing.stored(batch, result)
        self._reject_refused(batch, result)
        await self.forget_gaps(gaps)
        await self.mark(self._in.standing.due_marks())
        return True

    async def mark(self, marks: Marks | None) -> None:
        """Store how complete sources and meters are, after what makes them so; if it fails, the next marks say it."""
        if marks is None:
            return
        try:
            await self.database.use(lambda store: store.mark(*marks))
        except StoreError as error:
            self._unmarked.since(str(error), "how complete sources are cannot be stored, windows close late: %s")
        else:
            self._unmarked.over("how complete sources are is stored again")

    async def describe(self) -> None:
        """Store the description of the park that is collected, if it is not stored yet; nothing else waits for it."""
        park = self.park
        if park is None or time.monotonic() < self._describe_from:
            return
        try:
            await self.database.use(lambda store: store.describe(park))
        except StoreError as error:
            self._describe_from = time.monotonic() + DESCRIBE_AGAIN_S
            self._undescribed.since(str(error), "the park's description cannot be stored, boards may lack it: %s")
        else:
            self._undescribed.over("the park's description is stored")
            if self.park is park:       # else it has changed meanwhile
                self.park = None

    async def to_spool(self, batch: ReadingBatch, letters: Sequence[DeadLetter] = ()) -> bool:
        """Put rows, letters, and the gaps that the database does not have into the spool; return if it took them."""
        if self.disk is None:
            return False
        try:
            await self.disk.put(batch, self._in.coverage.changes(), letters)
        except SpoolError as error:
            self.disk.away.since(str(error), "the spool takes nothing, readings wait with their sources: %s")
            return False
        self.disk.away.over("the spool takes readings again")
        if not self.disk.spool.is_empty:
            self.spooled.set()
        return True

    async def letters_to_database(self, letters: Sequence[DeadLetter]) -> str | None:
        """Store letters in the database; return why it does not take them."""
        try:
            await self.database.use(lambda store: store.keep(letters, self._in.letters.limits.kept))
        except StoreError as error:
            return str(error)
        return None

    async def forget_gaps(self, stored: Sequence[Gap]) -> None:
        """Let the spool forget gaps that the database has."""
        if self.disk is not None:
            await self.disk.forget(stored)

    def _mark_lost(self, rescued: Rescued) -> None:
        """Mark what a damaged spool has lost as gaps of all sources: it is not known whose readings they were."""
        now_us = micros_of_seconds(self._in.clock.now())
        for before, after in rescued.holes:
            ended = now_us if after is None else after
            started = min(ended, ended if before is None else before)
            self._in.coverage.inherit(
                [Gap(source, started, ended, DAMAGED) for source in sorted(set(self._in.register.source))])

    def say_away(self, detail: str) -> None:
        """Say that the database is away, once."""
        where = "go to the spool" if self.disk else "wait in memory and with their sources"
        self.database.away.since(detail, f"database is away, readings {where}: %s")

    def say_back(self) -> None:
        """Say that the database is back, once."""
        waiting = len(self._in.batches) + self.spooled_rows
        self.database.away.over("database is back, %d readings wait", waiting)

    def _reject_refused(self, batch: ReadingBatch, result: WriteResult) -> None:
        """Count the rows that the database refused for what they are."""
        for refused in result.rejected:
            meter = batch.names[int(batch.meter[refused.row])]
            self._in.rejections.add(self._sources.get(meter, SPOOL), meter, "refused by the database", refused.reason)
