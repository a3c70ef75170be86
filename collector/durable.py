"""The two places where readings are durable, each used from one thread of its own: the database, and the spool on disk.

The blocking code of `store` and `spool` is called here alone. What goes where, and when, is in `writing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from collector.coverage import Coverage, Gap
from collector.spool import Spool, SpoolDamagedError, SpoolFullError, SpoolSettings
from collector.spool_rescue import Rescued, open_or_rescue, rescue
from collector.store import CollectorStore
from park.errors import SpoolError
from park.store.dead_letters import DeadLetter
from park.store.readings import ReadingBatch

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

# A commit waits for the server a dozen times, and after each for the interpreter, which the event loop lets go of when
# this has passed [s]. With Python's 5 ms a batch of 5,000 rows took half as long again while messages came.
_SWITCH_S = 0.001


class Away:
    """Whether something is away, said once a change."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.detail: str | None = None      # why; None while it is there
        self._on_change = on_change

    def __bool__(self) -> bool:
        return self.detail is not None

    def since(self, detail: str, said: str) -> None:
        """Note that it is away; that it is for another reason now is told, and not said again."""
        if self.detail is None:
            _logger.warning(said, detail)
        if detail != self.detail:
            self.detail = detail
            self._on_change()

    def over(self, said: str, *values: object) -> None:
        """Note that it is there."""
        if self.detail is not None:
            _logger.info(said, *values)
            self.detail = None
            self._on_change()


class Database:
    """The store, in its thread; all its methods fail with a `StoreError` while it is away.

    Parameters
    ----------
    dsn
        The database.
    on_change
        Called when it has gone away or come back.
    """

    def __init__(self, dsn: str, on_change: Callable[[], None]) -> None:
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_S))
        self.away = Away(on_change)
        self._store = CollectorStore(dsn)
        self._thread = ThreadPoolExecutor(1, "collector-store")
        self._turn = asyncio.Lock()

    async def use(self, work: Callable[[CollectorStore], _Result]) -> _Result:
        """Do work with the store, after whoever uses it now."""
        async with self._turn:
            return await _in_thread(self._thread, functools.partial(work, self._store))

    async def save(
        self, coverage: Coverage, work: Callable[[CollectorStore, Sequence[Gap]], _Result]
    ) -> tuple[_Result, list[Gap]]:
        """Do work that stores the gaps as they are now, among others; return its result and the gaps."""
        async with self._turn:          # or a gap would be stored twice before it has its id
            gaps = coverage.changes()
            result = await _in_thread(self._thread, functools.partial(work, self._store, gaps))
            coverage.stored(gaps)
        return result, gaps

    def close(self) -> None:
        """Let it go; what runs in its thread is waited for."""
        self._thread.shutdown(wait=True)
        self._store.close()


class Disk:
    """The spool, in its thread, and which gaps are in it; its methods fail with a `SpoolError` while it takes nothing.

    Parameters
    ----------
    settings
        Where it is, and how large it may become.
    on_change
        Called when it has stopped taking anything, or takes it again.
    on_rescued
        Called with what became of a damaged file.
    """

    def __init__(
        self, settings: SpoolSettings, on_change: Callable[[], None], on_rescued: Callable[[Rescued], None]
    ) -> None:
        self.away = Away(on_change)
        self.spool = Spool(settings)
        self._on_rescued = on_rescued
        self._thread = ThreadPoolExecutor(1, "collector-spool")
        self._gaps: dict[str, Gap] = {}     # in the file, by key

    async def open(self) -> tuple[Mapping[str, int], list[Gap]]:
        """Open the file, mended if need be; return the latest source time [us] of each meter in it, and its gaps.

        A disk without room for a first file is no reason not to begin: nothing waits, and the file is made later.
        """
        try:
            last_us, rescued = await _in_thread(self._thread, functools.partial(open_or_rescue, self.spool))
            gaps = await self.use(Spool.gaps)
        except SpoolFullError as error:
            self.away.since(str(error), "the spool takes nothing; while the database is away, neither do we: %s")
            return {}, []
        self._gaps = {gap.key: gap for gap in gaps}
        if rescued is not None:
            self._on_rescued(rescued)
        return last_us, gaps

    async def use(self, work: Callable[[Spool], _Result]) -> _Result:
        """Do work with the file; one that turns out to be damaged is mended, and this work fails."""
        try:
            return await _in_thread(self._thread, functools.partial(work, self.spool))
        except SpoolDamagedError as error:
            self._on_rescued(await _in_thread(self._thread, functools.partial(rescue, self.spool, error)))
            self._gaps.clear()          # so that those which are not stored are put into the new file
            raise

    async def put(self, batch: ReadingBatch, gaps: Sequence[Gap], letters: Sequence[DeadLetter]) -> None:
        """Put rows, letters, and the gaps that are not in the file as they are now on disk."""
        changed = self.lacking(gaps)
        await self.use(lambda spool: spool.append(batch, changed, letters))
        self._gaps.update((gap.key, gap) for gap in changed)

    def lacking(self, gaps: Sequence[Gap]) -> list[Gap]:
        """Return the gaps that are not in the file as they are now."""
        return [gap for gap in gaps if self._gaps.get(gap.key) != gap]

    def has_id(self, number: int | None) -> bool:
        """Whether the gap with this number of the database is in the file."""
        return any(gap.id == number for gap in self._gaps.values())

    async def forget(self, stored: Sequence[Gap]) -> None:
        """Let gaps go that the database has."""
        there = [gap for gap in stored if self._gaps.pop(gap.key, None) is not None]
        if there:
            with contextlib.suppress(SpoolError):       # kept: stored once more by the next collector
                await self.use(lambda spool: spool.forget_gaps(there))

    def close(self) -> None:
        """Let it go; what runs in its thread is waited for."""
        self._thread.shutdown(wait=True)
        self.spool.close()


async def _in_thread(thread: ThreadPoolExecutor, work: Callable[[], _Result]) -> _Result:
    return await asyncio.get_running_loop().run_in_executor(thread, work)
