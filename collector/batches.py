"""Readings between their arrival and the commit: in memory, in order, bounded.

Here are the rows, the queue in which they wait, the rule when a batch is due, and its conversion to SI. Not here: where
readings come from (`opcua`, `mqtt`) and the writing itself (`writing`). The way in is `Batches.put`, the way out
`Batches.take`.

Memory is bounded by `Limits.buffer_rows`: a source puts its rows only when there is room, and takes no more from its
server or broker meanwhile. So where neither database nor spool takes anything, the queue is pushed back to where the
readings come from.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from collector.register import Register
from park.store.readings import ReadingBatch

Number = TypeVar("Number", int, float)
Scalar = TypeVar("Scalar", bound=np.generic)

NOT_RUNNING = "the collector was not running"


@dataclass(slots=True)
class Rows:
    """Readings in columns, as they are appended one by one.

    Attributes
    ----------
    place
        Meter of each reading, its number in the register.
    source_us, received_us
        The instrument's time and the arrival [us since 1970-01-01 UTC].
    value
        Value [unit of the meter]; NaN where no number came.
    status
        OPC UA StatusCode.
    """

    place: list[int] = field(default_factory=list)
    source_us: list[int] = field(default_factory=list)
    received_us: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.place)

    def add(self, place: int, source_us: int, received_us: int, value: float, status: int) -> None:
        """Append one reading."""
        self.place.append(place)
        self.source_us.append(source_us)
        self.received_us.append(received_us)
        self.value.append(value)
        self.status.append(status)


@dataclass(frozen=True, slots=True)
class Interruption:
    """From here on readings of a source may be missing: its next ones are held against those before.

    Attributes
    ----------
    cause
        Why, as it stands in the gap.
    kept
        Whether the source says that it keeps what comes meanwhile (an MQTT session).
    continues
        Nothing is interrupted: the source kept what an earlier collector, which was killed, did not make durable.
    """

    cause: str
    kept: bool = False
    continues: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a source hands over at once: an interruption before the rows, rows, and whom to tell when they are durable.

    `committed` is called when the rows are in the database, or in the spool on disk.
    """

    source: str
    rows: Rows = field(default_factory=Rows)
    interruption: Interruption | None = None
    committed: Callable[[], None] | None = None


def batch_of(chunks: Sequence[Chunk], register: Register) -> ReadingBatch:
    """Return the rows of the chunks, in order and in SI, as the store takes them."""
    place = _column([chunk.rows.place for chunk in chunks], np.int64)
    value = _column([chunk.rows.value for chunk in chunks], np.float64)
    return ReadingBatch(
        names=register.ids,
        meter=place,
        source_us=_column([chunk.rows.source_us for chunk in chunks], np.int64),
        received_us=_column([chunk.rows.received_us for chunk in chunks], np.int64),
        value=register.to_si(place, value),
        status=_column([chunk.rows.status for chunk in chunks], np.int64),
    )


def _column(lists: Sequence[Sequence[Number]], dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    return np.fromiter(chain.from_iterable(lists), dtype, count=sum(map(len, lists)))


@dataclass(frozen=True)
class Limits:
    """When a batch is written, and how much may wait.

    Attributes
    ----------
    flush_rows
        A batch is due with this many rows. A COPY of 5,000 rows runs at two thirds of the rate of one of 50,000,
        at a tenth of its delay.
    flush_s
        A batch is due this long after its first row [wall s].
    most_rows
        Rows of a batch at most: what came while the last one was stored goes at once, so that a flood is stored in
        large COPYs; 20,000 take 0.1 s, on a machine overbooked ten times 0.3 s.
    buffer_rows
        Rows that may wait in all; about 150 bytes each.
    """

    flush_rows: int = 5_000
    flush_s: float = 0.2
    most_rows: int = 20_000
    buffer_rows: int = 250_000


class Batches:
    """The queue of chunks between the sources and the store.

    Parameters
    ----------
    limits
        When a batch is due and how much may wait.
    now
        A monotonic clock [s].
    """

    def __init__(self, limits: Limits | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits or Limits()
        self._now = now
        self._chunks: deque[Chunk] = deque()
        self._rows = 0
        self._taken = 0
        self._first_at: float | None = None      # when the oldest waiting chunk came
        self._hurried = False
        self._changed = asyncio.Event()          # something to write, or hurry
        self._room = asyncio.Event()
        self._room.set()
        self._finished = asyncio.Event()         # nothing waits, and what was taken is committed
        self._finished.set()
        self._arrived = asyncio.Event()          # rows were put

    def __len__(self) -> int:
        return self._rows

    @property
    def uncommitted(self) -> int:
        """Rows that were put and are not committed."""
        return self._rows + self._taken

    @property
    def full(self) -> bool:
        """Whether sources wait for room."""
        return not self._room.is_set()

    @property
    def is_crowded(self) -> bool:
        """Whether half the room is taken: the store is slower than the sources."""
        return 2 * self._rows >= self._limits.buffer_rows

    async def room(self) -> None:
        """Wait until rows can be put without passing the limit."""
        await self._room.wait()

    async def put(self, chunk: Chunk) -> None:
        """Queue a chunk when there is room; chunks of one source keep their order.

        Room is asked for before, not for this very chunk, so the limit may be passed by one chunk a source.
        """
        await self._room.wait()
        self.put_now(chunk)

    def put_now(self, chunk: Chunk) -> None:
        """Queue a chunk whether or not there is room: an interruption, or what came before a source could stop."""
        self._chunks.append(chunk)
        self._rows += len(chunk.rows)
        now = self._now()
        if len(chunk.rows):
            self._arrived.set()
        if self._first_at is None:
            self._first_at = now
        if self._rows >= self._limits.buffer_rows:
            self._room.clear()
        self._changed.set()
        self._finished.clear()

    def hurry(self) -> None:
        """Make what waits due at once: a source stands still until it is committed, or the end has come."""
        if self._chunks:
            self._hurried = True
            self._changed.set()

    async def silence(self, seconds: float) -> None:
        """Wait until, from now on, no rows are put for `seconds`."""
        with contextlib.suppress(TimeoutError):
            while True:
                self._arrived.clear()
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()

    def due_in(self) -> float | None:
        """Return the wall seconds until a batch is due, 0 if it is; None with nothing waiting."""
        if self._first_at is None:
            return None
        if self._hurried or self._rows >= self._limits.flush_rows:
            return 0.0
        return max(0.0, self._first_at + self._limits.flush_s - self._now())

    async def due(self) -> None:
        """Wait until a batch is due."""
        while (left := self.due_in()) != 0.0:
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return

    def take(self) -> list[Chunk]:
        """Remove and return a batch: whole chunks in order, up to `most_rows` rows or one chunk more."""
        taken: list[Chunk] = []
        rows = 0
        while self._chunks and rows < self._limits.most_rows:
            chunk = self._chunks.popleft()
            taken.append(chunk)
            rows += len(chunk.rows)
        self._rows -= rows
        self._taken = rows
        self._first_at = self._now() if self._chunks else None
        self._hurried = self._hurried and bool(self._chunks)
        if self._rows < self._limits.buffer_rows:
            self._room.set()
        return taken

    def committed(self) -> None:
        """Note that what was taken last is committed."""
        self._taken = 0
        if not self._chunks:
            self._finished.set()

    async def finished(self) -> None:
        """Wait until everything that was put is committed."""
        await self._finished.wait()
