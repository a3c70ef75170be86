"""Everything that readings come from, running in tasks of its own; sources come and go with the park's meters.

    changed park ──► prepared: settings, secrets, node ids, paths of all ──► each source takes its difference
                        │ a fault: nothing has changed                       new ones begin, those without meters end
                        ▼
                     refused

A source that ends by an error that nobody expected is made anew and begins again; it ends no other (`faults`).

Here: which sources there are, and their tasks. Not here: what a source does (`opcua.client`, `mqtt.client`,
`sparkplug.client`) and what becomes of readings (`writing`). The main path enters at `Sources.begin`; `prepare` and
`change` bring it in line with a changed park.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from collector.batches import Batches, Chunk, Interruption
from collector.faults import Faults, words_of
from collector.holes import Hole
from collector.mqtt.broker import Broker, brokers_of
from collector.mqtt.client import MqttSource
from collector.mqtt.payload import Topics, rules_of
from collector.opcua.client import Endpoint, OpcuaSource
from collector.opcua.handover import Keeping
from collector.opcua.tags import Tag, tags_of
from collector.register import MQTT, OPCUA, Register, opcua_source, protocol_of
from collector.rejections import Rejections
from collector.sparkplug.client import SparkplugSource
from collector.sparkplug.host import Host
from collector.status import SourceStatus, State
from park.clock import RunClock
from park.errors import SourceError
from park.model import Park
from park.servers import OpcuaServer, server_at

_logger = logging.getLogger(__name__)

Source = OpcuaSource | MqttSource | SparkplugSource


@dataclass(frozen=True)
class Reach:
    """How sources are reached in this run.

    Attributes
    ----------
    endpoints
        URL of an OPC UA server by its URL in the park; those not named, as configured.
    broker
        URL of the broker of meters that name none.
    """

    endpoints: Mapping[str, str]
    broker: str | None


@dataclass(frozen=True)
class Outflow:
    """What sources need of the collector.

    Where readings go, what is rejected, whose time it is, who notes states, and what is left to the next collector.
    """

    batches: Batches
    rejections: Rejections
    clock: RunClock
    statuses: dict[str, SourceStatus]
    on_change: Callable[[], None]
    keeping: Keeping


@dataclass(frozen=True)
class Plan:
    """The sources of a park, checked: settings and tags by OPC UA source, broker by source at one."""

    register: Register
    servers: Mapping[str, tuple[OpcuaServer, Endpoint, Sequence[Tag]]]
    brokers: Mapping[str, Broker]

    @property
    def names(self) -> set[str]:
        """Names of all sources."""
        return {*self.servers, *self.brokers}


@dataclass
class _Running:
    """A source, what it was made with, and its tasks: receivers stop before the connection that acknowledges.

    Attributes
    ----------
    keeper
        Runs it, and begins it anew after a fault.
    reading
        Reads what came from a broker, while its connection stays.
    group
        The tasks of the source; None while it does not run.
    has_failed
        Whether it ended by a fault, and is to be made anew.
    is_left
        Whether it is to end, and not to begin anew.
    """

    source: Source
    made_with: OpcuaServer | Broker
    keeper: asyncio.Task[None] | None = None
    reading: asyncio.Task[None] | None = None
    group: asyncio.TaskGroup | None = None
    has_failed: bool = False
    is_left: bool = False

    @property
    def receiver(self) -> asyncio.Task[None] | None:
        """The task without which nothing more is taken."""
        return self.keeper if isinstance(self.source, OpcuaSource) else self.reading


class Sources:
    """The sources of a collector.

    Parameters
    ----------
    reach
        How they are reached.
    outflow
        What they need of the collector.
    """

    def __init__(self, reach: Reach, outflow: Outflow) -> None:
        self._reach = reach
        self._out = outflow
        self._running: dict[str, _Running] = {}
        self._plan: Plan | None = None
        self._group: asyncio.TaskGroup | None = None
        self._ending = False

    def prepare(self, park: Park, register: Register) -> Plan:
        """Return the sources of a park; nothing is changed and no connection made.

        Raises
        ------
        InputError
            If a node id, path, setting or broker URL is wrong, or a secret cannot be read.
        """
        servers = {}
        for endpoint in register.opcua:
            server = server_at(endpoint, park.servers)
            tags = tags_of(register, endpoint, self._out.clock.speed, server)
            at = Endpoint.of(server, self._reach.endpoints.get(endpoint, endpoint))
            servers[opcua_source(endpoint)] = (server, at, tags)
        brokers = brokers_of(park, self._reach.broker)
        for source in brokers:
            if protocol_of(source) == MQTT:
                rules_of(register, source)
        return Plan(register, servers, brokers)

    def make(self, plan: Plan) -> None:
        """Make the sources of the collector's first park; they do nothing before `begin`."""
        self._plan = plan
        for name in sorted(plan.names):
            self._running[name] = self._made(name, plan)

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Let all sources run in tasks of a group."""
        self._group = group
        for name in self._running:
            self._start(name, group)

    def fill(self, hole: Hole, done: Callable[[Hole, bool], None]) -> None:
        """Have a hole filled by its source, and tell whether it is; none but a server's history can."""
        running = self._running.get(hole.source)
        if running is not None and running.group is not None and isinstance(running.source, OpcuaSource):
            running.source.fill(hole, done)
        else:
            done(hole, False)

    async def change(self, plan: Plan) -> None:
        """Bring the sources in line with a changed park: each takes its difference, and none touches another.

        Returns when those that stay were answered, or are away.
        """
        assert self._group is not None
        self._plan = plan
        gone = [name for name in self._running if name not in plan.names or self._is_other(name, plan)]
        ended = [self._running.pop(name) for name in gone]
        staying = list(self._running)
        for running in ended:
            running.is_left = True
        await end(running.receiver for running in ended)
        await end(running.keeper for running in ended)
        for name in gone:
            if name in plan.names:
                why = Interruption("it is reached in another way from now on", kept=protocol_of(name) == MQTT)
                self._out.batches.put_now(Chunk(name, interruption=why))
            else:
                self._out.statuses[name].refuse({})
                self._out.statuses[name].become(State.STOPPED, "no meter of the park is there any more")
        for name in sorted(plan.names - self._running.keys()):
            self._running[name] = self._made(name, plan)
            self._start(name, self._group, may_fail=True)
        await asyncio.gather(*(self._apply(name, plan) for name in staying))

    async def armed(self) -> None:
        """Wait until every subscription is in force."""
        for running in list(self._running.values()):
            await running.source.armed.wait()

    def leave(self) -> None:
        """Say at the brokers that the collector is about to go."""
        for running in self._running.values():
            if not isinstance(running.source, OpcuaSource):
                running.source.leave()

    async def end_receivers(self) -> None:
        """Take nothing more; connections to brokers stay, to hear what became durable."""
        self._ending = True
        await end(running.receiver for running in self._running.values())

    async def end_connections(self) -> None:
        """Leave the brokers."""
        await end(running.keeper for running in self._running.values())

    # -- one source -------------------------------------------------------------------------------------------------

    def _made(self, name: str, plan: Plan) -> _Running:
        """Return a source with its status, not running yet."""
        out = self._out
        out.statuses[name] = SourceStatus(name, protocol_of(name), out.clock.now, lambda _: out.on_change())
        return _Running(self._source(name, plan), _made_with(name, plan))

    def _source(self, name: str, plan: Plan) -> Source:
        out, protocol, status = self._out, protocol_of(name), self._out.statuses[name]
        if protocol == OPCUA:
            _, at, tags = plan.servers[name]
            return OpcuaSource(at, tags, out.batches, status, out.rejections, out.clock, out.keeping)
        broker = plan.brokers[name]
        if protocol == MQTT:
            topics = Topics(rules_of(plan.register, name), out.rejections, name)
            return MqttSource(broker, topics, out.batches, status, out.clock)
        return SparkplugSource(broker, Host(plan.register, out.rejections, name), out.batches, status, out.clock)

    def _start(self, name: str, group: asyncio.TaskGroup, *, may_fail: bool = False) -> None:
        """Let a source run; one that `may_fail` is said and left alone where its server is of no use."""
        running = self._running[name]
        running.keeper = group.create_task(self._keep(name, running, may_fail=may_fail), name=name)

    async def _keep(self, name: str, running: _Running, *, may_fail: bool) -> None:
        """Run a source until it is cancelled, and begin it anew after a fault; none ends the collection of others.

        Raises
        ------
        SourceError
            If a server, at the start of the collector, cannot keep what its meters need; in a group.
        """
        faults = Faults(self._out.statuses[name])
        while True:
            try:
                if running.has_failed:
                    self._remake(name, running)
                await self._run(running)
            except Exception as error:      # whatever it is: said, counted, and no other source's affair
                if useless := _useless(error):
                    if not may_fail:
                        raise
                    self._out.statuses[name].become(State.WAITING, useless)
                    _logger.error("%s is not collected: %s", name, useless)
                    return
                wait_s = faults.take(error)
                self._interrupted(name, words_of(error))
                running.has_failed = may_fail = True
            if self._ending or running.is_left:     # a group that fails at that moment keeps the cancelling to itself
                return
            await asyncio.sleep(wait_s)
            faults.begin()

    async def _run(self, running: _Running) -> None:
        """Run the tasks of a source; none ends by itself."""
        source = running.source
        try:
            async with asyncio.TaskGroup() as running.group:
                if isinstance(source, OpcuaSource):
                    await source.run()
                else:
                    running.reading = running.group.create_task(source.read(), name=f"{source.name} messages")
                    await source.run()
            raise RuntimeError("a source has ended by itself")
        finally:
            running.group = None

    def _interrupted(self, name: str, why: str) -> None:
        """Note that a source has ended: what it had taken and not handed on may be missing."""
        self._out.statuses[name].become(State.WAITING, why)
        self._out.batches.put_now(Chunk(name, interruption=Interruption(why, kept=protocol_of(name) == MQTT)))

    def _remake(self, name: str, running: _Running) -> None:
        """Make a source anew, as the park of today has it; nothing that the old one knew is trusted."""
        assert self._plan is not None
        armed = running.source.armed            # somebody may be waiting for it
        running.source = self._source(name, self._plan)
        running.source.armed = armed
        running.has_failed = False

    def _is_other(self, name: str, plan: Plan) -> bool:
        """Whether a source is reached in another way now, so that it has to begin anew."""
        return self._running[name].made_with != _made_with(name, plan)

    async def _apply(self, name: str, plan: Plan) -> None:
        """Let a source that stays take its difference, as one of its tasks; one that begins anew has it then."""
        running = self._running[name]
        source = running.source
        if running.group is None:
            return
        work = source.apply(plan.servers[name][2]) if isinstance(source, OpcuaSource) else source.apply(plan.register)
        try:
            applying = running.group.create_task(work, name=f"{name} change")
        except RuntimeError:                    # it is just ending by a fault
            work.close()
        else:
            await asyncio.wait([applying])


def _made_with(name: str, plan: Plan) -> OpcuaServer | Broker:
    """Return the settings of a source."""
    return plan.servers[name][0] if name in plan.servers else plan.brokers[name]


def _useless(error: Exception) -> str:
    """Return why a server is of no use, if that is what was raised; else nothing."""
    if not isinstance(error, ExceptionGroup):
        return str(error) if isinstance(error, SourceError) else ""
    reasons = [_useless(inner) for inner in error.exceptions]
    return "; ".join(reasons) if all(reasons) else ""


async def end(tasks: Iterable[asyncio.Task[None] | None]) -> None:
    """Cancel tasks and wait until they have said goodbye to whom they were connected."""
    ending = [task for task in tasks if task is not None]
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending)
