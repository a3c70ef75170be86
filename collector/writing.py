"""The store side of the collector: everything that came becomes durable, and then its source is told.

                                     spool empty
    Batches ── take ── coverage ──┬───────────────► database ──┬──► Chunk.committed (PUBACK)
                                  │  away, slow ┐              │
                                  │             ▼              │
                                  └────────► spool ────────────┘
                                               │ oldest first, a transaction of many batches
                                               └──► database ──► removed from the spool

A batch is durable in the database, or in the spool while the database is away, slower than the sources, or has not yet
what waits in the spool: so nothing newer passes it. Where neither takes it, it waits here, and the sources with it.
Gaps and dead letters go the same two ways. What blocks is called by `durable`, in a thread for each of the two.
The main path enters at `Writer.write`; `Writer.replay` runs beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from collector.backoff import Backoff
from collector.batches import NOT_RUNNING, Batches, Chunk, batch_of
from collector.begun import read_begun, write_begun
from collector.coverage import Coverage, Gap
from collector.dead_letters import DeadLetters
from collector.durable import Away, Database, Disk
from collector.register import Register
from collector.rejections import Rejections
from collector.spool import NOTHING, SpoolSettings
from collector.spool_rescue import Rescued
from collector.standing import Marks, Standing
from collector.store import SourceRow
from collector.times import EARLIEST_US, micros_of_seconds, moment
from park.clock import RunClock
from park.errors import SpoolError, StoreError
from park.store.dead_letters import DeadLetter
from park.store.readings import ReadingBatch, WriteResult

_logger = logging.getLogger(__name__)

PATIENCE_S = 2.0            # a database that has not committed a batch by then is away; its answer may still come
REPLAY_ROWS = 50_000        # written at once from the spool: a COPY of so many rows runs at its full rate
DAMAGED = "the spool was damaged"
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


class Writer:
    """Makes durable what came, and brings into the database what went to the spool.

    Parameters
    ----------
    dsn
        The database.
    inflow
        What came.
    spool
        Where the spool is; None: there is none, and a database that is away holds up the sources.
    on_durable
        Called with each chunk that has become durable, before its source is told.
    on_change
        Called when database or spool have gone away or come back.
    """

    def __init__(
        self, dsn: str, inflow: Inflow, spool: SpoolSettings | None, *, on_durable: Callable[[Chunk], None],
        on_change: Callable[[], None],
    ) -> None:
        self.is_held_back = False           # neither takes what came
        self._in = inflow
        self._on_durable = on_durable
        self._database = Database(dsn, on_change)
        self._disk = Disk(spool, on_change, self._mark_lost) if spool else None
        self._unmarked = Away(lambda: None)
        self._letters_turn = asyncio.Lock()
        inflow.standing.spooled_rows = lambda: self.spooled_rows
        self._sources = dict(zip(inflow.register.ids, inflow.register.source, strict=True))
        self._asked = asyncio.Event()               # the database was asked once how things stand
        self._resumed = asyncio.Event()
        self._spooled = asyncio.Event()             # something waits in the spool
        self._moved = asyncio.Event()               # another try may be worth it
        self._commit_under_way: asyncio.Task[bool] | None = None
        _ = inflow.register.scale           # units are read now: 0.3 s, that the first batch would have to wait

    def apply(self, register: Register) -> None:
        """Go over to the register of a changed park, before readings of its new places come."""
        self._in = replace(self._in, register=register)
        self._sources |= dict(zip(register.ids, register.source, strict=True))

    @property
    def away(self) -> dict[str, str]:
        """What is away, and why."""
        places = {DATABASE: self._database.away, SPOOL: self._disk.away if self._disk else None}
        return {name: away.detail for name, away in places.items() if away is not None and away.detail is not None}

    @property
    def is_resumed(self) -> bool:
        """Whether the database was asked what is stored of this run."""
        return self._resumed.is_set()

    @property
    def spooled_rows(self) -> int:
        """Readings that wait in the spool."""
        return self._disk.spool.rows if self._disk else 0

    async def open(self) -> None:
        """Open the spool, mend it if need be, and take over what an earlier collector left there.

        Raises
        ------
        SpoolError
            If the folder cannot be used.
        """
        if self._disk is None:
            return
        last_us, gaps = await self._disk.open()
        self._in.coverage.inherit(gaps)
        places = {name: place for place, name in enumerate(self._in.register.ids)}
        begun = await self._disk.use(lambda spool: read_begun(spool.settings.folder, self._since_us))
        self._in.coverage.owe({places[name]: us for name, us in begun.items() if name in places})
        self._in.coverage.resume(
            {places[name]: us for name, us in last_us.items() if name in places and us >= self._since_us},
            [gap for gap in gaps if gap.ended_us is None and not gap.withdrawn], NOT_RUNNING)
        spool = self._disk.spool
        if not spool.is_empty:
            _logger.info("%d readings wait in the spool %s", spool.rows, spool.settings.folder)
            self._spooled.set()

    async def begin(self, now_us: int) -> None:
        """Note, durably, that every subscription is in force at this run time [us]."""
        since_us = self._in.coverage.begin(now_us)
        if self._disk is not None:
            meters = {self._in.register.ids[place]: us for place, us in since_us.items()}
            with contextlib.suppress(OSError):          # a disk that is full: the spool says so
                await self._disk.use(lambda spool: write_begun(spool.settings.folder, self._since_us, meters))

    def close(self) -> None:
        """Let database and spool go; what runs in their threads is waited for."""
        self._database.close()
        if self._disk is not None:
            self._disk.close()

    # -- what comes -------------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Take batches for ever; each is durable before its source is told and the next one is taken."""
        batches = self._in.batches
        await _within(PATIENCE_S, self._asked)
        while True:
            await batches.due()
            chunks = batches.take()
            for chunk in chunks:
                self._in.coverage.advance(chunk)
            await self._keep(batch_of(chunks, self._in.register))
            await self._keep_letters()
            for chunk in chunks:
                self._on_durable(chunk)
                if chunk.committed is not None:
                    chunk.committed()
            batches.committed()

    async def _keep(self, batch: ReadingBatch) -> None:
        """Make a batch durable, however long nothing takes it."""
        self._commit_under_way = None
        backoff = Backoff()
        while not (await self._to_database(batch) or await self._to_spool(batch)):
            self.is_held_back = True
            self._moved.clear()
            await _within(backoff.next(), self._moved)
        self.is_held_back = False
        if self._disk is not None and self._disk.spool.is_empty:
            self._disk.away.over("the spool is not needed any more")

    async def _to_database(self, batch: ReadingBatch) -> bool:
        """Write a batch into the database, if it is its turn; return whether it is there."""
        if not self._resumed.is_set() or not self._is_turn_of_newest():
            return False
        job = self._commit_under_way or asyncio.create_task(self._commit(batch), name="commit")
        self._commit_under_way = job
        await asyncio.wait({job}, timeout=PATIENCE_S if self._disk else None)
        if not job.done():
            self._say_away(f"it has not committed for {PATIENCE_S:g} s")
            return False
        self._commit_under_way = None
        return job.result()

    def _is_turn_of_newest(self) -> bool:
        """Whether nothing older waits, and the database keeps up with the sources."""
        if self._disk is None:
            return True
        return not self._disk.spool.batches and (not self._in.batches.is_crowded or bool(self._disk.away))

    async def _commit(self, batch: ReadingBatch) -> bool:
        """Write gaps and rows in the database; return whether they are there. A repeated write changes nothing."""
        try:
            result, gaps = await self._database.save(
                self._in.coverage, lambda store, gaps: store.write(batch, gaps))
        except StoreError as error:
            self._say_away(str(error))
            return False
        self._say_back()
        self._in.standing.stored(batch, result)
        self._reject_refused(batch, result)
        await self._forget_gaps(gaps)
        await self._mark(self._in.standing.due_marks())
        return True

    async def _mark(self, marks: Marks | None) -> None:
        """Store how complete sources and meters are, after what makes them so; if it fails, the next marks say it."""
        if marks is None:
            return
        try:
            await self._database.use(lambda store: store.mark(*marks))
        except StoreError as error:
            self._unmarked.since(str(error), "how complete sources are cannot be stored, windows close late: %s")
        else:
            self._unmarked.over("how complete sources are is stored again")

    async def _to_spool(self, batch: ReadingBatch, letters: Sequence[DeadLetter] = ()) -> bool:
        """Put rows, letters, and the gaps that the database does not have into the spool; return if it took them."""
        if self._disk is None:
            return False
        try:
            await self._disk.put(batch, self._in.coverage.changes(), letters)
        except SpoolError as error:
            self._disk.away.since(str(error), "the spool takes nothing, readings wait with their sources: %s")
            return False
        self._disk.away.over("the spool takes readings again")
        if not self._disk.spool.is_empty:
            self._spooled.set()
        return True

    async def _keep_letters(self) -> None:
        """Store what is no reading, once, whether or not it works: readings do not wait for it."""
        async with self._letters_turn:
            waiting = self._in.letters
            letters = waiting.due()
            if not letters:
                return
            is_in_order = self._disk is None or not self._disk.spool.letters
            is_there = not self._database.away
            refused = await self._letters_to_database(letters) if is_in_order and is_there else ""
            if refused is None or await self._to_spool(NOTHING, letters):
                waiting.stored(letters)
            else:
                waiting.refused(refused or ", ".join(self.away.values()))

    async def _letters_to_database(self, letters: Sequence[DeadLetter]) -> str | None:
        """Store letters in the database; return why it does not take them."""
        try:
            await self._database.use(lambda store: store.keep(letters, self._in.letters.limits.kept))
        except StoreError as error:
            return str(error)
        return None

    # -- what waits in the spool ------------------------------------------------------------------------------------

    async def replay(self) -> None:
        """Take up where an earlier collector stopped, and bring the spool into the database, for ever."""
        await self._until(self._resume)
        self._moved.set()
        disk = self._disk
        while disk is not None:
            await self._spooled.wait()
            if disk.spool.batches:
                await self._until(functools.partial(self._replay_batches, disk))
            elif disk.spool.letters:
                await self._replay_letters(disk)
            else:
                self._spooled.clear()
                disk.away.over("the spool is empty")
                _logger.info("all that waited in the spool is in the database")

    async def _until(self, attempt: Callable[[], Awaitable[bool]]) -> None:
        """Do something until it has worked."""
        backoff = Backoff()
        while not await attempt():      # noqa: ASYNC110 - another program's state: nothing tells when it changes
            await asyncio.sleep(backoff.next())

    async def _resume(self) -> bool:
        """Ask what is stored of this run; a run before this one is none of its business."""
        register = self._in.register
        sources = sorted(set(register.source))
        try:
            earlier = await self._database.use(
                lambda store: store.earlier(register.ids, sources, moment(self._since_us)))
        except StoreError as error:
            self._say_away(str(error))
            return False
        finally:
            self._asked.set()
        self._say_back()
        opened = [gap for gap in earlier.open_gaps if self._disk is None or not self._disk.has_id(gap.id)]
        self._in.coverage.resume(earlier.last_us, opened, NOT_RUNNING)
        self._resumed.set()
        return True

    async def _replay_batches(self, disk: Disk) -> bool:
        """Bring the oldest batches into the database; return whether they are there."""
        try:
            spooled = await disk.use(lambda spool: spool.head(REPLAY_ROWS))
            if not await self._commit(spooled.batch):
                return False
            await disk.use(lambda spool: spool.remove(spooled))
        except SpoolError as error:
            disk.away.since(str(error), "the spool cannot be read: %s")
            return False
        self._moved.set()
        return True

    async def _replay_letters(self, disk: Disk) -> None:
        """Bring the oldest letters into the database; where it refuses them, wait, but not longer than for readings."""
        limits = self._in.letters.limits
        try:
            letters = await disk.use(lambda spool: spool.oldest_letters(limits.batch))
            refused = await self._letters_to_database(letters)
            if refused is None:
                await disk.use(lambda spool: spool.remove_letters(letters))
                return
        except SpoolError as error:
            refused = str(error)
        _logger.debug("dead letters wait in the spool: %s", refused)
        self._spooled.clear()
        await _within(limits.retry_s, self._spooled)
        self._spooled.set()

    async def _forget_gaps(self, stored: Sequence[Gap]) -> None:
        """Let the spool forget gaps that the database has."""
        if self._disk is not None:
            await self._disk.forget(stored)

    def _mark_lost(self, rescued: Rescued) -> None:
        """Mark what a damaged spool has lost as gaps of all sources: it is not known whose readings they were."""
        now_us = micros_of_seconds(self._in.clock.now())
        for before, after in rescued.holes:
            ended = now_us if after is None else after
            started = min(ended, ended if before is None else before)
            self._in.coverage.inherit(
                [Gap(source, started, ended, DAMAGED) for source in sorted(set(self._in.register.source))])

    # -- states and the end -----------------------------------------------------------------------------------------

    async def note(self, sources: Sequence[SourceRow]) -> None:
        """Store the states of the sources and the gaps; while the database is away, the gaps go to the spool."""
        if self._database.away:
            if self._disk is not None and self._disk.lacking(self._in.coverage.changes()):
                await self._to_spool(NOTHING)
        else:
            with contextlib.suppress(StoreError):           # said by whoever writes readings
                _, gaps = await self._database.save(
                    self._in.coverage, lambda store, gaps: store.note(gaps, sources))
                await self._forget_gaps(gaps)
            await self._mark(self._in.standing.new_marks())
        await self._keep_letters()

    async def finish(self, within_s: float) -> int:
        """Make durable what waits, and store what is spooled while there is time; return rows that nothing took."""
        self._in.batches.hurry()
        try:
            async with asyncio.timeout(within_s):
                await self._in.batches.finished()
                while self.spooled_rows and not self._database.away:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            pass
        if self.spooled_rows:
            _logger.warning("%d readings wait in the spool for the next start", self.spooled_rows)
        return self._in.batches.uncommitted

    # -- helpers ----------------------------------------------------------------------------------------------------

    @property
    def _since_us(self) -> int:
        """Source time from which readings belong to this run."""
        return max(EARLIEST_US, micros_of_seconds(self._in.clock.start))

    def _say_away(self, detail: str) -> None:
        where = "go to the spool" if self._disk else "wait in memory and with their sources"
        self._database.away.since(detail, f"database is away, readings {where}: %s")

    def _say_back(self) -> None:
        waiting = len(self._in.batches) + self.spooled_rows
        self._database.away.over("database is back, %d readings wait", waiting)

    def _reject_refused(self, batch: ReadingBatch, result: WriteResult) -> None:
        """Count the rows that the database refused for what they are."""
        for refused in result.rejected:
            meter = batch.names[int(batch.meter[refused.row])]
            self._in.rejections.add(self._sources.get(meter, SPOOL), meter, "refused by the database", refused.reason)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, at most so long [wall s]."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
