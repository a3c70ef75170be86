"""Holes filled from a server's history: what came between two stored readings while nobody fetched it.

`coverage` finds a hole when a meter is heard again; here its node's raw history is read from the reading before to the
reading after, in pages. What lies between them is queued like any other reading. The hole counts as filled once that is
durable, and only if the history can be held against what is known: of a periodic meter no reading is missing between
the two, of one on change both are in the history. So a server whose history began after the hole, or whose node is not
kept, leaves the gap as it is. A history that lags behind is asked again.

HistoryRead is OPC 10000-4, 5.11.3; its details for raw values are OPC 10000-11, 6.5.3.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from asyncua import ua
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from collector.batches import Batches, Chunk, Rows
from collector.holes import Hole
from collector.opcua.decode import item_of
from collector.opcua.failures import TOO_MANY, reason_of
from collector.opcua.session import Connection
from collector.opcua.subscribing import Item, Subscription
from collector.opcua.values import Values
from collector.times import micros_of_seconds, moment
from park.clock import RunClock

_logger = logging.getLogger(__name__)

GATHER_S = 0.2              # meters are heard again one after the other: their holes are read together
NODES_A_CALL = 10           # each may bring a page
PAGE = 1_000                # values a node and call
RETRY_S = (1.0, 5.0, 20.0)  # a history lags behind what is published; then the hole stays
SAME_US = 1_000             # some histories keep milliseconds: nearer than that, it is the same reading
_HISTORY_READ = 0x04        # bit of AccessLevel (part 3, 8.57)
_NONE = (ua.StatusCodes.BadServiceUnsupported, ua.StatusCodes.BadHistoryOperationUnsupported,
         ua.StatusCodes.BadHistoryOperationInvalid, ua.StatusCodes.BadUserAccessDenied)


@dataclass
class _Task:
    """A hole, what its node's history has shown of it so far, and whom to tell."""

    hole: Hole
    done: Callable[[Hole, bool], None]
    tries: int = 0
    due_at: float = 0.0                 # of the event loop [s]
    last_us: int = 0
    has_start: bool = False
    has_end: bool = False
    is_whole: bool = True

    def begin(self) -> None:
        """Forget what an earlier try has shown."""
        self.last_us, self.has_start, self.has_end, self.is_whole = self.hole.started_us, False, False, True

    def take(self, times_us: Sequence[int]) -> list[int]:
        """Take note of the times of a page, in their order; return the numbers of those inside the hole."""
        inside = []
        for number, time_us in enumerate(times_us):
            if abs(time_us - self.hole.started_us) < SAME_US:
                self.has_start = True
            elif abs(time_us - self.hole.ended_us) < SAME_US:
                self.has_end = True
            elif self.hole.started_us < time_us < self.hole.ended_us:
                self._step(time_us)
                inside.append(number)
        return inside

    def _step(self, time_us: int) -> None:
        if self.hole.skipped_us is not None and time_us - self.last_us > self.hole.skipped_us:
            self.is_whole = False
        self.last_us = max(self.last_us, time_us)

    @property
    def is_filled(self) -> bool:
        """Whether nothing is missing between the two readings, as far as can be known."""
        if self.hole.skipped_us is None:
            return self.has_start and self.has_end
        return self.is_whole and self.hole.ended_us - self.last_us <= self.hole.skipped_us


@dataclass
class _Page:
    """A node whose history is being read, and the holes that it may fill."""

    item: Item
    tasks: list[_Task]
    continuation: bytes | None = None
    latest_us: int = 0                  # time of the last value of the page before
    refused: str = ""


class Historian:
    """Fills the holes of one session's meters.

    Parameters
    ----------
    source
        Name of the server's source.
    values
        Who reads values: history is read as what is published.
    batches
        Where readings go.
    clock
        The run's clock.
    """

    def __init__(self, source: str, values: Values, batches: Batches, clock: RunClock) -> None:
        self._source = source
        self._values = values
        self._batches = batches
        self._clock = clock
        self._tasks: list[_Task] = []
        self._added = asyncio.Event()
        self._nodes_a_call = NODES_A_CALL
        self._page = PAGE
        self._said_none = False

    def fill(self, hole: Hole, done: Callable[[Hole, bool], None]) -> None:
        """Fill a hole when the server is there.

        Parameters
        ----------
        hole
            The hole.
        done
            Told once whether it is filled, durably.
        """
        self._tasks.append(_Task(hole, done))
        self._added.set()

    async def run(self, connection: Connection, subscription: Subscription) -> None:
        """Fill holes for ever; what is not done when the connection is lost is done over the next one."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._tasks:
                self._added.clear()
                await self._added.wait()
            await asyncio.sleep(max(GATHER_S, min(task.due_at for task in self._tasks) - loop.time()))
            due = [task for task in self._tasks if task.due_at <= loop.time()]
            await self._fill(connection, subscription, due)

    async def _fill(self, connection: Connection, subscription: Subscription, tasks: Sequence[_Task]) -> None:
        """Read what is due, some nodes at a time; holes of one node together."""
        items = {item.tag.place: item for item in subscription.items.values()}
        by_place: dict[int, list[_Task]] = {}
        for task in sorted(tasks, key=lambda task: task.hole.started_us):
            if task.hole.place in items:
                by_place.setdefault(task.hole.place, []).append(task)
            else:
                self._end(task, False)          # its meter is gone, or not found any more
        pages = [_Page(items[place], its) for place, its in by_place.items()]
        while pages:
            some, pages = pages[: self._nodes_a_call], pages[self._nodes_a_call :]
            try:
                await self._read(connection, some)
            except (UaError, TimeoutError) as error:    # of the history alone: what is published goes on beside it
                code = error.code if isinstance(error, UaStatusCodeError) else None
                if code in TOO_MANY and self._nodes_a_call > 1:
                    self._nodes_a_call = max(1, self._nodes_a_call // 2)
                    pages = some + pages
                    continue
                for page in some:
                    page.refused = reason_of(error) if code in _NONE else ""
            await self._judge(some)

    async def _read(self, connection: Connection, pages: Sequence[_Page]) -> None:
        """Read the history of some nodes to its end, and queue what lies in holes."""
        levels = await connection.session.read_attributes(
            [page.item.node for page in pages], ua.AttributeIds.UserAccessLevel)
        for page, level in zip(pages, levels, strict=True):
            page.continuation, page.latest_us = None, 0
            granted = level.Value.Value if level.Value is not None else 0
            page.refused = "" if isinstance(granted, int) and granted & _HISTORY_READ else "it keeps no history"
            for task in page.tasks:
                task.begin()
        open_pages = [page for page in pages if not page.refused]
        if not open_pages:
            return
        span = (min(task.hole.started_us for page in open_pages for task in page.tasks),
                max(task.hole.ended_us for page in open_pages for task in page.tasks))
        while open_pages:
            results = await connection.session.history_read(_request(open_pages, span, self._page))
            rows = Rows()
            for page, result in zip(open_pages, results, strict=True):
                self._take(page, result, rows)
            if len(rows):
                await self._batches.put(Chunk(self._source, rows))
            open_pages = [page for page in open_pages if page.continuation]

    def _take(self, page: _Page, result: ua.HistoryReadResult, rows: Rows) -> None:
        """Take in one page of one node: what lies in its holes goes to the rows."""
        page.continuation = None
        if result.StatusCode.is_bad():
            page.refused = result.StatusCode.name
            return
        data = result.HistoryData
        found = list(data.DataValues or ()) if isinstance(data, ua.HistoryData) else []
        items = [item_of(ua.MonitoredItemNotification(page.item.handle, value)) for value in found]
        read = Rows()
        self._values.read(items, micros_of_seconds(self._clock.now()), read)
        latest_us = max(read.source_us, default=0)
        if result.ContinuationPoint and latest_us > page.latest_us:     # else it would go round in a circle
            page.continuation = result.ContinuationPoint
        elif not result.ContinuationPoint and 0 < self._page <= len(found):
            self._page = 0              # asyncua ends a full page without a way on: from now on it makes the pages
        page.latest_us = latest_us
        for task in page.tasks:
            for number in task.take(read.source_us):
                rows.add(read.place[number], read.source_us[number], read.received_us[number], read.value[number],
                         read.status[number])

    async def _judge(self, pages: Sequence[_Page]) -> None:
        """Tell which holes are filled, once what fills them is durable; try the others again, but not for ever."""
        filled = []
        for page in pages:
            for task in page.tasks:
                if page.refused:
                    self._say_none(page)
                    self._end(task, False)
                elif task.is_filled:
                    filled.append(task)
                    self._tasks.remove(task)
                elif task.tries >= len(RETRY_S):
                    self._end(task, False)
                else:
                    task.due_at = asyncio.get_running_loop().time() + RETRY_S[task.tries]
                    task.tries += 1
        if filled:
            await self._batches.put(Chunk(self._source, committed=functools.partial(_tell_filled, filled)))

    def _end(self, task: _Task, is_filled: bool) -> None:
        self._tasks.remove(task)
        task.done(task.hole, is_filled)

    def _say_none(self, page: _Page) -> None:
        if not self._said_none:
            self._said_none = True
            _logger.info("%s: a gap of %s stays: the server was asked for what it holds of that time, but %s "
                         "(said once a server)", self._source, page.item.tag.meter, page.refused)


def _tell_filled(tasks: Sequence[_Task]) -> None:
    for task in tasks:
        task.done(task.hole, True)


def _request(pages: Sequence[_Page], span_us: tuple[int, int], page: int) -> ua.HistoryReadParameters:
    """Return the request for the next page of some nodes; both ends are wanted, and the end is exclusive."""
    margin = timedelta(microseconds=2 * SAME_US)
    return ua.HistoryReadParameters(
        HistoryReadDetails=ua.ReadRawModifiedDetails(
            IsReadModified=False, StartTime=moment(span_us[0]) - margin, EndTime=moment(span_us[1]) + margin,
            NumValuesPerNode=page, ReturnBounds=False),
        TimestampsToReturn=ua.TimestampsToReturn.Both,
        ReleaseContinuationPoints=False,
        NodesToRead=[
            ua.HistoryReadValueId(
                NodeId=asked.item.node, ContinuationPoint=asked.continuation,
                IndexRange=None if asked.item.tag.index is None else ua.String(str(asked.item.tag.index)))
            for asked in pages])
