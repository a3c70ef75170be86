"""The store side of the collector: everything that came becomes durable, and then its source is told.

                                     spool empty
    Batches ── take ── coverage ──┬───────────────► database ──┬──► Chunk.committed (acknowledged)
                                  │  away, slow ┐              │
                                  │             ▼              │
                                  └────────► spool ────────────┘
                                               │ oldest first, a transaction of many batches
                                               └──► database ──► removed from the spool

A batch is durable in the database, or in the spool while the database is away, slower than the sources, or has not yet
what waits in the spool: so nothing newer passes it. Where neither takes it, it waits here, and the sources with it.
Gaps and dead letters go the same two ways. Here is what goes where, and when; the steps themselves are in `storing`.
The main path enters at `Writer.write`; `Writer.replay` runs beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from collector.backoff import Backoff
from collector.batches import NOT_RUNNING, Chunk, batch_of
from collector.begun import read_begun, write_begun
from collector.durable import Disk
from collector.register import Register
from collector.spool import NOTHING, SpoolSettings
from collector.store import SourceRow
from collector.storing import Inflow, Storing
from collector.times import moment
from park.errors import SpoolError, StoreError
from park.model import Park
from park.store.readings import ReadingBatch

_logger = logging.getLogger(__name__)

PATIENCE_S = 2.0            # a database that has not committed a batch by then is away; its answer may still come
REPLAY_ROWS = 50_000        # written at once from the spool: a COPY of so many rows runs at its full rate


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
        self._storing = Storing(dsn, inflow, spool, on_change)
        self._database, self._disk = self._storing.database, self._storing.disk
        self._letters_turn = asyncio.Lock()
        self._asked = asyncio.Event()               # the database was asked once how things stand
        self._resumed = asyncio.Event()
        self._moved = asyncio.Event()               # another try may be worth it
        self._commit_under_way: asyncio.Task[bool] | None = None
        _ = inflow.register.scale           # units are read now: 0.3 s, that the first batch would have to wait

    def apply(self, register: Register) -> None:
        """Go over to the register of a changed park, before readings of its new places come."""
        self._in = replace(self._in, register=register)
        self._storing.apply(self._in)

    def describe(self, park: Park) -> None:
        """Have the description of the park stored when the database is there."""
        self._storing.park = park

    @property
    def away(self) -> dict[str, str]:
        """What is away, and why."""
        return self._storing.away

    @property
    def is_resumed(self) -> bool:
        """Whether the database was asked what is stored of this run."""
        return self._resumed.is_set()

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
        begun = await self._disk.use(lambda spool: read_begun(spool.settings.folder, self._storing.since_us))
        self._in.coverage.owe({places[name]: us for name, us in begun.items() if name in places})
        self._in.coverage.resume(
            {places[name]: us for name, us in last_us.items() if name in places and us >= self._storing.since_us},
            [gap for gap in gaps if gap.ended_us is None and not gap.withdrawn], NOT_RUNNING)
        spool = self._disk.spool
        if not spool.is_empty:
            _logger.info("%d readings wait in the spool %s", spool.rows, spool.settings.folder)
            self._storing.spooled.set()

    async def begin(self, now_us: int) -> None:
        """Note, durably, that every subscription is in force at this run time [us]."""
        since_us = self._in.coverage.begin(now_us)
        if self._disk is not None:
            meters = {self._in.register.ids[place]: us for place, us in since_us.items()}
            with contextlib.suppress(OSError):          # a disk that is full: the spool says so
                await self._disk.use(lambda spool: write_begun(spool.settings.folder, self._storing.since_us, meters))

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
        while not (await self._to_database(batch) or await self._storing.to_spool(batch)):
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
        job = self._commit_under_way or asyncio.create_task(self._storing.commit(batch), name="commit")
        self._commit_under_way = job
        await asyncio.wait({job}, timeout=PATIENCE_S if self._disk else None)
        if not job.done():
            self._storing.say_away(f"it has not committed for {PATIENCE_S:g} s")
            return False
        self._commit_under_way = None
        return job.result()

    def _is_turn_of_newest(self) -> bool:
        """Whether nothing older waits, and the database keeps up with the sources."""
        if self._disk is None:
            return True
        return not self._disk.spool.batches and (not self._in.batches.is_crowded or bool(self._disk.away))

    async def _keep_letters(self) -> None:
        """Store what is no reading, once, whether or not it works: readings do not wait for it."""
        async with self._letters_turn:
            waiting = self._in.letters
            letters = waiting.due()
            if not letters:
                return
            is_in_order = self._disk is None or not self._disk.spool.letters
            is_there = not self._database.away
            refused = await self._storing.letters_to_database(letters) if is_in_order and is_there else ""
            if refused is None or await self._storing.to_spool(NOTHING, letters):
                waiting.stored(letters)
            else:
                waiting.refused(refused or ", ".join(self.away.values()))

    # -- what waits in the spool ------------------------------------------------------------------------------------

    async def replay(self) -> None:
        """Take up where an earlier collector stopped, and bring the spool into the database, for ever."""
        await self._until(self._resume)
        self._moved.set()
        disk = self._disk
        while disk is not None:
            await self._storing.spooled.wait()
            if disk.spool.batches:
                await self._until(functools.partial(self._replay_batches, disk))
            elif disk.spool.letters:
                await self._replay_letters(disk)
            else:
                self._storing.spooled.clear()
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
                lambda store: store.earlier(register.ids, sources, moment(self._storing.since_us)))
        except StoreError as error:
            self._storing.say_away(str(error))
            return False
        finally:
            self._asked.set()
        self._storing.say_back()
        opened = [gap for gap in earlier.open_gaps if self._disk is None or not self._disk.has_id(gap.id)]
        self._in.coverage.resume(earlier.last_us, opened, NOT_RUNNING)
        self._resumed.set()
        return True

    async def _replay_batches(self, disk: Disk) -> bool:
        """Bring the oldest batches into the database; return whether they are there."""
        try:
            spooled = await disk.use(lambda spool: spool.head(REPLAY_ROWS))
            if not await self._storing.commit(spooled.batch):
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
            refused = await self._storing.letters_to_database(letters)
            if refused is None:
                await disk.use(lambda spool: spool.remove_letters(letters))
                return
        except SpoolError as error:
            refused = str(error)
        _logger.debug("dead letters wait in the spool: %s", refused)
        self._storing.spooled.clear()
        await _within(limits.retry_s, self._storing.spooled)
        self._storing.spooled.set()

    # -- states and the end -----------------------------------------------------------------------------------------

    async def note(self, sources: Sequence[SourceRow]) -> None:
        """Store the states of the sources and the gaps; while the database is away, the gaps go to the spool."""
        if self._database.away:
            if self._disk is not None and self._disk.lacking(self._in.coverage.changes()):
                await self._storing.to_spool(NOTHING)
        else:
            with contextlib.suppress(StoreError):           # said by whoever writes readings
                _, gaps = await self._database.save(
                    self._in.coverage, lambda store, gaps: store.note(gaps, sources))
                await self._storing.forget_gaps(gaps)
            await self._storing.mark(self._in.standing.new_marks())
            await self._storing.describe()
        await self._keep_letters()

    async def finish(self, within_s: float) -> int:
        """Make durable what waits, and store what is spooled while there is time; return rows that nothing took."""
        self._in.batches.hurry()
        try:
            async with asyncio.timeout(within_s):
                await self._in.batches.finished()
                while self._storing.spooled_rows and not self._database.away:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            pass
        if self._storing.spooled_rows:
            _logger.warning("%d readings wait in the spool for the next start", self._storing.spooled_rows)
        return self._in.batches.uncommitted


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, at most so long [wall s]."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
