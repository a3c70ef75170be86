"""Everything that readings come from, running in tasks of its own; sources come and go with the park's meters.

    changed park ──► prepared: settings, secrets, node ids, paths of all ──► each source takes its difference
                        │ a fault: nothing has changed                       new ones begin, those without meters end
                        ▼
                     refused

Here: which sources there are, and their tasks. Not here: what a source does (`opcua.client`, `mqtt.client`,
`sparkplug.client`) and what becomes of readings (`writing`). The main path enters at `Sources.begin`; `prepare` and
`change` bring it in line with a changed park.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from collector.batches import Batches, Chunk, Interruption
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
    """A source, what it was made with, and its tasks: receivers stop before the connection that acknowledges."""

    source: Source
    made_with: OpcuaServer | Broker
    receivers: list[asyncio.Task[None]] = field(default_factory=list)
    connections: list[asyncio.Task[None]] = field(default_factory=list)


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
        self._group: asyncio.TaskGroup | None = None

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
        for name in sorted(plan.names):
            self._running[name] = self._made(name, plan)

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Let all sources run in tasks of a group."""
        self._group = group
        for running in self._running.values():
            self._start(running, group)

    def fill(self, hole: Hole, done: Callable[[Hole, bool], None]) -> None:
        """Have a hole filled by its source, and tell whether it is; none but a server's history can."""
        running = self._running.get(hole.source)
        if running is not None and isinstance(running.source, OpcuaSource):
            running.source.fill(hole, done)
        else:
            done(hole, False)

    async def change(self, plan: Plan) -> None:
        """Bring the sources in line with a changed park: each takes its difference, and none touches another.

        Returns when those that stay were answered, or are away.
        """
        assert self._group is not None
        gone = [name for name in self._running if name not in plan.names or self._is_other(name, plan)]
        ended = [self._running.pop(name) for name in gone]
        staying = list(self._running)
        await end(task for running in ended for task in running.receivers)
        await end(task for running in ended for task in running.connections)
        for name in gone:
            if name in plan.names:
                why = Interruption("it is reached in another way from now on", kept=protocol_of(name) == MQTT)
                self._out.batches.put_now(Chunk(name, interruption=why))
            else:
                self._out.statuses[name].become(State.STOPPED, "no meter of the park is there any more")
        for name in sorted(plan.names - self._running.keys()):
            self._running[name] = self._made(name, plan)
            self._start(self._running[name], self._group, may_fail=True)
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
        await end(task for running in self._running.values() for task in running.receivers)

    async def end_connections(self) -> None:
        """Leave the brokers."""
        await end(task for running in self._running.values() for task in running.connections)

    # -- one source -------------------------------------------------------------------------------------------------

    def _made(self, name: str, plan: Plan) -> _Running:
        """Return a source with its status, not running yet."""
        out, protocol = self._out, protocol_of(name)
        status = out.statuses[name] = SourceStatus(name, protocol, out.clock.now, lambda _: out.on_change())
        if protocol == OPCUA:
            server, at, tags = plan.servers[name]
            return _Running(OpcuaSource(at, tags, out.batches, status, out.rejections, out.clock, out.keeping),
                            server)
        broker = plan.brokers[name]
        if protocol == MQTT:
            topics = Topics(rules_of(plan.register, name), out.rejections, name)
            return _Running(MqttSource(broker, topics, out.batches, status, out.clock), broker)
        host = Host(plan.register, out.rejections, name)
        return _Running(SparkplugSource(broker, host, out.batches, status, out.clock), broker)

    def _start(self, running: _Running, group: asyncio.TaskGroup, *, may_fail: bool = False) -> None:
        """Let a source run; one that `may_fail` is said and left alone where its server is of no use."""
        source = running.source
        if isinstance(source, OpcuaSource):
            work = self._unless_useless(source) if may_fail else source.run()
            running.receivers.append(group.create_task(work, name=source.endpoint.source))
        else:
            running.connections.append(group.create_task(source.run(), name=source.name))
            running.receivers.append(group.create_task(source.read(), name=f"{source.name} messages"))

    async def _unless_useless(self, source: OpcuaSource) -> None:
        """Run a server's source; one that cannot keep what its meters need does not end the collection of others."""
        try:
            await source.run()
        except* SourceError as group:
            reason = "; ".join(str(error) for error in group.exceptions)
            self._out.statuses[source.endpoint.source].become(State.WAITING, reason)
            _logger.error("%s is not collected: %s", source.endpoint.source, reason)

    def _is_other(self, name: str, plan: Plan) -> bool:
        """Whether a source is reached in another way now, so that it has to begin anew."""
        wanted = plan.servers[name][0] if name in plan.servers else plan.brokers[name]
        return self._running[name].made_with != wanted

    async def _apply(self, name: str, plan: Plan) -> None:
        """Let a source that stays take its difference."""
        source = self._running[name].source
        if isinstance(source, OpcuaSource):
            await source.apply(plan.servers[name][2])
        else:
            await source.apply(plan.register)


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have said goodbye to whom they were connected."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending)
