"""The collector as a whole: sources, memory, store, from start to stop. The main path enters at `collect`.

Here is what there is, and what is said of it. Who readings come from is in `sources`, how they become durable in
`writing`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from collector.batches import Batches, Chunk, Limits
from collector.coverage import Coverage
from collector.dead_letters import DeadLetters
from collector.metrics import CollectorMetrics
from collector.opcua.client import quiet_library
from collector.opcua.handover import Keeping
from collector.register import Register, register_of
from collector.rejections import Rejections
from collector.sources import Outflow, Reach, Sources, end
from collector.spool import FILE_NAME, SpoolSettings
from collector.standing import GRACE_S, Standing
from collector.status import SourceStatus, State
from collector.store import SourceRow
from collector.storing import Inflow
from collector.times import MICROS, micros_of_seconds, moment
from collector.writing import Writer
from park.clock import RunClock
from park.errors import InputError, StoreError, SymbiosisError
from park.model import Park
from park.watch import ParkWatch

OnState = Callable[[str, dict[str, object]], None]
_Start = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]

NOTE_S = 1.0            # how often states of sources are stored, and overdue readings looked for
FOLLOW_S = 0.25         # how often the park's files are asked for
SILENCE_S = 0.5         # without a reading for this long at the end, everything that was sent has come
DRAIN_S = 3.0           # sources that never fall silent are cut off
REFUSED_TOLD = 5        # meters that are not collected: where there are many, a few tell why
FLUSH_S = 4.0           # the last commits, and as much of the spool as that leaves time for


async def collect(
    park: Park,
    dsn: str,
    clock: RunClock,
    *,
    endpoints: Mapping[str, str] | None = None,
    broker: str | None = None,
    stop: asyncio.Event,
    on_state: OnState | None = None,
    spool: SpoolSettings | None = None,
    limits: Limits | None = None,
    watch: ParkWatch | None = None,
    metrics: CollectorRegistry | None = None,
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
        ``mqtt[s]://[user[:password]@]host[:port][?client_id=ID]``, of the MQTT and Sparkplug meters that name none of
        the park's brokers; without it these are at the park's only broker. The client id follows from the park's name
        unless given.
    stop
        Set to stop.
    on_state
        Told ``"connecting"`` while not every source was there, ``"armed"`` with the numbers of meters, once, when
        every subscription is in force, ``"waiting"`` with what is away (sources, ``database``, ``spool``) and why,
        ``"collecting"`` when nothing is away any more, and ``"not_collected"`` with the number of meters that servers
        and brokers refuse, and why some of them, whenever these change.
    spool
        Where readings wait on disk while the database is away or slow; None: in memory and with their sources.
    limits
        Sizes and delays of batches.
    watch
        Gives the park when its files have changed: tags come and go, and nothing else is touched.
    metrics
        Where what is counted is registered.

    Raises
    ------
    InputError
        If a node id, path or broker URL is malformed; before any connection is made.
    SourceError
        If a server cannot keep as many values as its meters need.
    StoreError
        If readings were left over at the end because neither the database nor the spool took them.
    SpoolError
        If the spool's folder is another collector's, or cannot be used.
    """
    quiet_library()
    store = Store(dsn, spool, limits)
    collector = Collector(park, store, clock, Reach(endpoints or {}, broker), on_state or _tell_nobody)
    if metrics is not None:
        metrics.register(collector.metrics)
    try:
        await collector.run(stop, watch)
    except BaseExceptionGroup as group:
        known = group.subgroup(SymbiosisError)
        if known is None:
            raise
        raise _first_of(known) from None


@dataclass(frozen=True)
class Store:
    """Where what is collected goes, and in what portions."""

    dsn: str
    spool: SpoolSettings | None = None
    limits: Limits | None = None


class Collector:
    """The pipeline of one park.

        server ──► OpcuaSource.run ─────────────┐
        server ──► OpcuaSource.run ─────────────┤ rows
                                                ├──────► Batches ──► Writer.write ──► reading, gap, dead_letter
        broker ──► MqttSource.run, .read ───────┤                      │  │  ▲
        broker ──► SparkplugSource.run, .read ──┘  waits while full    │  ▼  │ Writer.replay
                          ▲                                            │  spool
                          └────────── acknowledged once durable ───────┘
                                                                    _note, each second ──► collector_source

    Each arrow from the left is a named task of one group, and an interruption travels in the same queue as the rows,
    so that coverage sees both in the order in which they happened.

    Parameters are those of `collect`.
    """

    def __init__(self, park: Park, store: Store, clock: RunClock, reach: Reach, on_state: OnState) -> None:
        self._clock = clock
        self._on_state = on_state
        self._register = register_of(park)
        self._batches = Batches(store.limits)
        self._coverage = Coverage(self._register, GRACE_S * clock.speed)
        self._letters = DeadLetters(self._register, clock.now)
        self._rejections = Rejections(self._letters.add)
        self._standing = Standing(self._register, self._coverage, self._batches, self._rejections, clock)
        self._statuses = self._standing.statuses
        self.metrics = CollectorMetrics(self._standing, store.spool.folder / FILE_NAME if store.spool else None)
        self._said: tuple[str, dict[str, object]] = ("", {})
        self._refused = _refused(())
        self._ending = False
        keeping = Keeping(store.spool.folder if store.spool else None, self._is_settled,
                          lambda: self._writer.is_held_back)
        outflow = Outflow(self._batches, self._rejections, clock, self._statuses, self._tell, keeping)
        self._sources = Sources(reach, outflow)
        self._sources.make(self._sources.prepare(park, self._register))
        self._coverage.holes.on_hole = lambda hole: self._sources.fill(hole, self._coverage.filled)
        inflow = Inflow(
            self._register, self._batches, self._coverage, self._letters, self._rejections, clock, self._standing)
        self._writer = Writer(store.dsn, inflow, store.spool, on_durable=self._count, on_change=self._tell)
        self._writer.describe(park)

    async def run(self, stop: asyncio.Event, watch: ParkWatch | None = None) -> None:
        """Collect until `stop` is set, and then until nothing is left to store."""
        try:
            await self._writer.open()
            left = await self._collect(stop, watch)
            await self._note_end()
        finally:
            self._writer.close()
        if left:
            raise StoreError(f"{left} readings could not be stored: the database was away at the end")

    async def _collect(self, stop: asyncio.Event, watch: ParkWatch | None) -> int:
        """Run all tasks until `stop` is set and what came is durable; return how many readings are not."""
        async with asyncio.TaskGroup() as group, _tasks(group) as start:
            writing = start("store", self._writer.write())
            replaying = start("replay", self._writer.replay())
            self._sources.begin(group)
            noting = start("status", self._note(stop))
            announcing = start("armed", self._announce())
            following = [start("park file", self._follow(watch))] if watch else []
            await stop.wait()
            await end([*following, announcing])
            self._sources.leave()
            await self._drain()
            await self._sources.end_receivers()         # brokers stay, to hear what became durable
            left = await self._writer.finish(FLUSH_S)
            await end([writing, replaying, noting])
            await self._sources.end_connections()
            return left

    # -- the park changes -------------------------------------------------------------------------------------------

    async def _follow(self, watch: ParkWatch) -> None:
        """Go over to the park whenever its files have changed."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            park = watch.take()
            if park is None:
                continue
            before = self._register
            try:
                await self._change(park)
            except InputError as error:
                watch.refuse(str(error))
            else:
                watch.accept(_difference(before, self._register))

    async def _change(self, park: Park) -> None:
        """Collect the meters of a changed park from now on.

        Raises
        ------
        InputError
            If a source cannot be reached as the park says; then nothing has changed.
        """
        register = self._register.after(park)
        plan = self._sources.prepare(park, register)
        self._register = register
        self._writer.apply(register)            # before readings of new places come
        self._writer.describe(park)
        self._standing.apply(register)
        self._coverage.apply(register, self._standing.now_us())
        self._letters.apply(register)
        await self._sources.change(plan)

    # -- what is said -----------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Tell how the whole fares, and what of it is not to be had, if that has changed."""
        refused = _refused(self._statuses.values())
        if refused != self._refused:
            self._refused = refused
            self._on_state("not_collected", refused)
        states = [status.state for status in self._statuses.values()]
        away = {s.source: s.detail for s in self._statuses.values() if s.state is State.WAITING}
        away |= self._writer.away
        said: tuple[str, dict[str, object]]
        if away:
            said = ("waiting", {"for": away})
        elif State.CONNECTING in states:
            said = ("connecting", {"receiving": states.count(State.RECEIVING), "of": len(states)})
        elif self._said[0] == "waiting" and not self._ending:
            said = ("collecting", {})
        else:
            return
        if said != self._said:
            self._said = said
            self._on_state(*said)

    async def _announce(self) -> None:
        """Tell when every subscription is in force."""
        await self._sources.armed()
        await self._writer.begin(round(self._clock.now() * MICROS))
        opcua = sum(len(places) for places in self._register.opcua.values())
        counts: dict[str, object] = {"opcua": opcua, "mqtt": len(self._register.mqtt)}
        if self._register.sparkplug:
            counts["sparkplug"] = len(self._register.sparkplug)
        self._on_state("armed", counts)

    # -- states -----------------------------------------------------------------------------------------------------

    async def _note(self, stop: asyncio.Event) -> None:
        """Store the state of every source each second, and open gaps for readings that are overdue."""
        while True:
            await asyncio.sleep(NOTE_S)
            # Sources that stop with us owe nothing, and what waits in memory would look overdue.
            if not stop.is_set() and not self._writer.is_held_back:
                self._coverage.tick(round(self._clock.now() * MICROS))
            await self._writer.note(self._source_rows())

    async def _note_end(self) -> None:
        """Store that all sources are stopped."""
        self._ending = True
        for status in self._statuses.values():
            status.become(State.STOPPED)
        await self._writer.note(self._source_rows())

    def _is_settled(self, source: str) -> bool:
        return self._coverage.is_settled(source, resumed=self._writer.is_resumed)

    def _count(self, chunk: Chunk) -> None:
        self._statuses[chunk.source].count(chunk.rows)

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


def _difference(before: Register, after: Register) -> str:
    """Return in words what is collected now; a meter that is read in another way has another place."""
    olds, news = ({register.ids[place]: place for place in register.live} for register in (before, after))
    anew = sum(olds[meter] != news[meter] for meter in olds.keys() & news.keys())
    if olds == news:
        return "what is collected stays as it is"
    return f"meters collected now: {len(news)}" + (f", in another way than before: {anew}" if anew else "")


def _first_of(group: BaseExceptionGroup[SymbiosisError]) -> SymbiosisError:
    """Return the first error of a group, however deep."""
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _refused(statuses: Iterable[SourceStatus]) -> dict[str, object]:
    """Return how many meters are refused, and of some of them why."""
    refused = {name: f"{status.source}: {why}" for status in statuses for name, why in status.refused.items()}
    return {"count": len(refused), "meters": dict(sorted(refused.items())[:REFUSED_TOLD])}


def _tell_nobody(_state: str, _detail: dict[str, object]) -> None:
    """Take no notice."""
