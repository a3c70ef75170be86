"""The collector as a whole: sources, memory, store, from start to stop. The main path enters at `collect`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from collector.backoff import Backoff
from collector.batches import Batches, Chunk, Limits, batch_of
from collector.coverage import Coverage
from collector.dead_letters import DeadLetters
from collector.mqtt.client import MqttSource, broker_of
from collector.mqtt.payload import Topics, rules_of
from collector.opcua.client import Endpoint, OpcuaSource, quiet_library
from collector.opcua.tags import tags_of
from collector.register import MQTT, SPARKPLUG, register_of
from collector.rejections import Rejections
from collector.sparkplug.client import SparkplugSource
from collector.sparkplug.host import Host
from collector.status import SourceStatus, State
from collector.store import CollectorStore, SourceRow
from collector.times import EARLIEST_US, MICROS, micros_of_seconds, moment
from park.clock import RunClock
from park.errors import InputError, StoreError, SymbiosisError
from park.model import Park

_logger = logging.getLogger(__name__)

OnState = Callable[[str, dict[str, object]], None]
_Result = TypeVar("_Result")
_Start = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]

NOTE_S = 1.0            # how often states of sources are stored, and overdue readings looked for
SILENCE_S = 0.5         # without a reading for this long at the end, everything that was sent has come
DRAIN_S = 3.0           # sources that never fall silent are cut off
FLUSH_S = 4.0           # the last commits; a database that is away is given up then
GRACE_S = 5.0           # wall time from a reading to us that is not late yet; sources that stop with us have as long
DATABASE = "database"   # beside the names of sources, in what is waited for


async def collect(
    park: Park,
    dsn: str,
    clock: RunClock,
    *,
    endpoints: Mapping[str, str] | None = None,
    broker: str | None = None,
    stop: asyncio.Event,
    on_state: OnState | None = None,
    limits: Limits | None = None,
) -> None:
    """Collect all meters of a park into its store until `stop` is set; then drain, store the rest and return.

    Parameters
    ----------
    park
        The park; its meters' sources say what is read, and where.
    dsn
        The database, with its tables. If it is away, it is waited for.
    clock
        The run's clock.
    endpoints
        Where an OPC UA server is reached in this run, by its URL in the park; those not named, as configured.
    broker
        ``mqtt://[user[:password]@]host[:port][?client_id=ID]``; needed if the park has MQTT or Sparkplug meters.
        The client id follows from the park's name unless given.
    stop
        Set to stop.
    on_state
        Told ``"connecting"`` while not every source was there, ``"armed"`` with the numbers of meters, once, when
        every subscription is in force, ``"waiting"`` with what is away (sources, ``database``) and why, and
        ``"collecting"`` when nothing is away any more.
    limits
        Sizes and delays of batches.

    Raises
    ------
    InputError
        If a node id, path or broker URL is malformed; before any connection is made.
    SourceError
        If a server cannot keep as many values as its meters need.
    StoreError
        If readings were left over at the end because the database was away.
    """
    quiet_library()
    collector = Collector(park, dsn, clock, endpoints or {}, broker, on_state or _tell_nobody, limits)
    try:
        await collector.run(stop)
    except BaseExceptionGroup as group:
        known = group.subgroup(SymbiosisError)
        if known is None:
            raise
        raise _first_of(known) from None


class Collector:
    """The pipeline of one park.

        server ──► OpcuaSource.run ─────────────┐
        server ──► OpcuaSource.run ─────────────┤ rows                    batch
                                                ├──────► Batches ──► _write ──► ReadingWriter ──► reading, arrival
        broker ──► MqttSource.run, .read ───────┤
        broker ──► SparkplugSource.run, .read ──┘  waits while full    │  ▲
                          ▲                                            │  └── Coverage ──► gap
                          └──────────── PUBACK after the commit ───────┘
                                                                    _note, each second ──► collector_source

    Each arrow from the left is a named task of one group, and an interruption travels in the same queue as the rows,
    so that coverage sees both in the order in which they happened. What blocks (psycopg) runs in one thread.

    Parameters are those of `collect`.
    """

    def __init__(
        self, park: Park, dsn: str, clock: RunClock, endpoints: Mapping[str, str], broker: str | None,
        on_state: OnState, limits: Limits | None,
    ) -> None:
        self._clock = clock
        self._on_state = on_state
        self._register = register_of(park)
        self._batches = Batches(limits)
        self._coverage = Coverage(self._register, GRACE_S * clock.speed)
        self._letters = DeadLetters(self._register, clock.now)
        self._rejections = Rejections(self._letters.add)
        self._statuses: dict[str, SourceStatus] = {}
        self._store = CollectorStore(dsn)
        self._store_thread = ThreadPoolExecutor(1, "collector-store")
        self._store_turn = asyncio.Lock()           # coverage changes only between two uses of the store
        self._store_there: bool | None = None
        self._store_detail = ""
        self._said: tuple[str, dict[str, object]] = ("", {})
        self._opcua = [self._opcua_source(url, endpoints.get(url, url)) for url in self._register.opcua]
        self._mqtt = self._mqtt_source(park.park.name, broker)
        self._sparkplug = self._sparkplug_source(park.park.name, broker)

    async def run(self, stop: asyncio.Event) -> None:
        """Collect until `stop` is set, and then until nothing is left to store."""
        try:
            async with asyncio.TaskGroup() as group, _tasks(group) as start:
                writing = start("store", self._write())
                servers = [start(source.endpoint.source, source.run()) for source in self._opcua]
                connection = start("mqtt", self._mqtt.run()) if self._mqtt else None
                reading = start("mqtt messages", self._mqtt.read()) if self._mqtt else None
                hosting = start("sparkplug", self._sparkplug.run()) if self._sparkplug else None
                hearing = start("sparkplug messages", self._sparkplug.read()) if self._sparkplug else None
                noting = start("status", self._note(stop))
                start("armed", self._announce())
                await stop.wait()
                if self._sparkplug:
                    self._sparkplug.leave()
                await self._drain()
                await _end([*servers, reading, hearing])    # the broker stays, to hear what was committed
                left = await self._flush()
                await _end([writing, noting, connection, hosting])
            await self._note_end()
        finally:
            self._store_thread.shutdown(wait=True)
            self._store.close()
        if left:
            raise StoreError(f"{left} readings could not be stored: the database was away at the end")

    # -- sources ----------------------------------------------------------------------------------------------------

    def _opcua_source(self, configured: str, url: str) -> OpcuaSource:
        endpoint = Endpoint(configured, url)
        return OpcuaSource(
            endpoint, tags_of(self._register, configured, self._clock.speed), self._batches,
            self._status(endpoint.source, "opcua"), self._rejections, self._clock,
        )

    def _mqtt_source(self, park_name: str, broker: str | None) -> MqttSource | None:
        if not self._register.mqtt:
            return None
        if broker is None:
            raise InputError("the park has MQTT meters, but no broker is given (hint: --broker mqtt://host:port)")
        topics = Topics(rules_of(self._register), self._rejections)
        return MqttSource(
            broker_of(broker, park_name), topics, self._batches, self._status(MQTT, "mqtt"), self._clock)

    def _sparkplug_source(self, park_name: str, broker: str | None) -> SparkplugSource | None:
        if not self._register.sparkplug:
            return None
        if broker is None:
            raise InputError("the park has Sparkplug meters, but no broker is given (hint: --broker mqtt://host:port)")
        host = Host(self._register, self._rejections)
        return SparkplugSource(
            broker_of(broker, park_name), host, self._batches, self._status(SPARKPLUG, "sparkplug"), self._clock)

    def _status(self, source: str, protocol: str) -> SourceStatus:
        status = SourceStatus(source, protocol, self._clock.now, lambda _: self._tell())
        self._statuses[source] = status
        return status

    def _tell(self) -> None:
        """Tell how the whole fares, if that has changed."""
        states = [status.state for status in self._statuses.values()]
        away = {s.source: s.detail for s in self._statuses.values() if s.state is State.WAITING}
        if self._store_there is False:
            away[DATABASE] = self._store_detail
        said: tuple[str, dict[str, object]]
        if away:
            said = ("waiting", {"for": away})
        elif State.CONNECTING in states:
            said = ("connecting", {"receiving": states.count(State.RECEIVING), "of": len(states)})
        elif self._said[0] == "waiting" and State.STOPPED not in states:
            said = ("collecting", {})
        else:
            return
        if said != self._said:
            self._said = said
            self._on_state(*said)

    async def _announce(self) -> None:
        """Tell when every subscription is in force."""
        for source in self._opcua:
            await source.armed.wait()
        if self._mqtt:
            await self._mqtt.armed.wait()
        if self._sparkplug:
            await self._sparkplug.armed.wait()
        opcua = sum(len(places) for places in self._register.opcua.values())
        counts: dict[str, object] = {"opcua": opcua, "mqtt": len(self._register.mqtt)}
        if self._sparkplug:
            counts["sparkplug"] = len(self._register.sparkplug)
        self._on_state("armed", counts)

    # -- store ------------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Write batches for ever, each until it is stored."""
        await self._resume()
        while True:
            await self._batches.due()
            chunks = self._batches.take()
            async with self._store_turn:
                for chunk in chunks:
                    self._coverage.advance(chunk)
            await self._store_batch(chunks)
            await self._store_letters()         # before the broker is told that what it sent is ours
            for chunk in chunks:
                self._statuses[chunk.source].count(chunk.rows)
                if chunk.committed is not None:
                    chunk.committed()
            self._batches.committed()

    async def _store_batch(self, chunks: Sequence[Chunk]) -> None:
        """Write a batch, again and again while the database is away: a repeated write changes nothing."""
        batch = batch_of(chunks, self._register)

        async def attempt() -> None:
            async with self._store_turn:
                gaps = self._coverage.changes()
                result = await self._in_thread(functools.partial(self._store.write, batch, gaps))
                self._coverage.stored(gaps)
            for refused in result.rejected:
                place = int(batch.meter[refused.row])
                self._rejections.add(self._register.source[place], self._register.ids[place],
                                     "refused by the database", refused.reason)
        await self._until_stored(attempt)

    async def _store_letters(self) -> None:
        """Store what is no reading, once, whether or not it works: readings do not wait for it."""
        async with self._store_turn:
            letters = self._letters.due()
            if not letters:
                return
            try:
                await self._in_thread(functools.partial(self._store.keep, letters, self._letters.limits.kept))
            except StoreError as error:
                self._letters.refused(error)
            else:
                self._letters.stored(letters)

    async def _resume(self) -> None:
        """Take up where an earlier collector of the same run stopped; a run before this one is none of its business."""
        since_us = max(EARLIEST_US, micros_of_seconds(self._clock.start))

        async def attempt() -> None:
            earlier = await self._in_thread(functools.partial(
                self._store.earlier, self._register.ids, list(self._statuses), moment(since_us)))
            self._coverage.resume(earlier.last_us, earlier.open_gaps, "the collector was not running")
        await self._until_stored(attempt)

    async def _until_stored(self, attempt: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something in the database, however long it is away; said once."""
        backoff = Backoff()
        while True:
            try:
                await attempt()
            except StoreError as error:
                self._tell_store(False, str(error))
            else:
                self._tell_store(True, "")
                return
            await asyncio.sleep(backoff.next())

    def _tell_store(self, there: bool, detail: str) -> None:
        if there == self._store_there:
            return
        if not there:
            _logger.warning("database is away, readings wait in memory and with their sources: %s", detail)
        elif self._store_there is not None:
            _logger.info("database is back, %d readings wait", len(self._batches))
        self._store_there, self._store_detail = there, detail
        self._tell()

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, work)

    # -- states -----------------------------------------------------------------------------------------------------

    async def _note(self, stop: asyncio.Event) -> None:
        """Store the state of every source each second, and open gaps for readings that are overdue."""
        while True:
            await asyncio.sleep(NOTE_S)
            if not self._store_there:
                continue            # the writer tries; what it could not store yet would look overdue
            async with self._store_turn:
                if not stop.is_set():       # sources that stop with us owe nothing
                    self._coverage.tick(round(self._clock.now() * MICROS))
                await self._store_states()
            await self._store_letters()

    async def _note_end(self) -> None:
        """Store that all sources are stopped."""
        for status in self._statuses.values():
            status.become(State.STOPPED)
        await self._store_states()
        await self._store_letters()

    async def _store_states(self) -> None:
        gaps = self._coverage.changes()
        with contextlib.suppress(StoreError):           # said by the writer; the next second tries again
            await self._in_thread(functools.partial(self._store.note, gaps, self._source_rows()))
            self._coverage.stored(gaps)

    def _source_rows(self) -> list[SourceRow]:
        return [
            SourceRow(
                status.source, status.protocol, str(status.state), moment(micros_of_seconds(status.since)),
                None if status.last_source_us is None else moment(status.last_source_us),
                None if status.last_received_us is None else moment(status.last_received_us),
                status.readings, self._rejections.total(status.source), status.detail,
            )
            for status in self._statuses.values()
        ]

    # -- the end ----------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Wait until the sources are silent, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._batches.silence(SILENCE_S)

    async def _flush(self) -> int:
        """Commit what waits; return how many readings could not be, because the database is away."""
        self._batches.hurry()
        try:
            async with asyncio.timeout(FLUSH_S):
                await self._batches.finished()
        except TimeoutError:
            return self._batches.uncommitted
        return 0


@contextlib.asynccontextmanager
async def _tasks(group: asyncio.TaskGroup) -> AsyncIterator[_Start]:
    """Give a function that starts named tasks in the group; at the end all that still run are cancelled."""
    started: list[asyncio.Task[None]] = []

    def start(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = group.create_task(work, name=name)
        started.append(task)
        return task

    try:
        yield start
    finally:
        for task in started:
            task.cancel()


async def _end(tasks: Sequence[asyncio.Task[None] | None]) -> None:
    """Cancel tasks and wait until they have said goodbye to whom they were connected."""
    ending = [task for task in tasks if task is not None]
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending)


def _first_of(group: BaseExceptionGroup[SymbiosisError]) -> SymbiosisError:
    """Return the first error of a group, however deep."""
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _tell_nobody(_state: str, _detail: dict[str, object]) -> None:
    """Take no notice."""
