"""A park's instruments on the run clock, over the real protocols, with the record of what they sent.

    Schedule.ticks ──► Sampler.read ──► sent.csv ──► OpcuaServer.write ──► subscriptions
     (run clock)          │ State        (flushed)   MqttPublisher.publish ──► broker
                          └────► truth.csv                   SparkplugNodes.publish ──► broker

Here: the order of these at each tick, catching up tick by tick when the process lags, arming, and the drain at the
end. Not here: what the meters read (`simulators.sampling`), how a value gets into a protocol
(`simulators.opcua_server`, `simulators.mqtt_publisher`, `simulators.sparkplug_node`). The main path enters at
`simulate`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from park.clock import RunClock
from park.errors import InputError
from park.model import Meter, Park
from simulators.faults import FaultRecord
from simulators.instruments import Readings, Schedule, Tick
from simulators.mqtt_publisher import MqttPublisher
from simulators.opcua_server import DEFAULT_PORT, OpcuaServer, Pending, StandardNodes
from simulators.record import SentFile, TruthFile, write_faults
from simulators.sampling import Sampler
from simulators.scenario import Scenario
from simulators.sparkplug_node import SparkplugNodes
from simulators.state import State

log = logging.getLogger(__name__)

OnState = Callable[[str, dict[str, object]], None]

DRAIN_S = 30.0                # wall; what is not delivered by then is told; who is in a hurry ends us before
DRAIN_LOOK_S = 0.02           # wall; asyncua signals no empty queue, so we look
LATE_S = 1.0                  # wall; behind by more than this is told, once
ON_TIME_S = 0.1               # wall; and when it is over
WARM_UP_MAX_S = 6 * 3600.0    # run time; a run that began longer ago is not played again from its beginning
TOLD_S = 1800.0               # run time; playing that much again takes seconds, and is told


async def simulate(
    park: Park,
    scenario: Scenario,
    clock: RunClock,
    *,
    seed: int,
    endpoints: Mapping[str, str],
    broker: str,
    sent: Path,
    truth: Path,
    faults: Path,
    stop: asyncio.Event,
    armed: asyncio.Event,
    on_state: OnState,
    leave: asyncio.Event | None = None,
) -> None:
    """Serve a park's meters until `stop` is set.

    Parameters
    ----------
    park, scenario
        What is simulated.
    clock
        The run's clock. The plant runs from `clock.start`; instruments hand on readings from the moment that all
        servers listen.
    seed
        Same start and seed, same readings at the same source times.
    endpoints
        Configured `opc.tcp` URL to the URL to listen on; a URL that is not in it is taken as it is.
    broker
        URL of the MQTT broker, `mqtt://host:port`; not looked at if no meter speaks MQTT or Sparkplug.
    sent, truth, faults
        The files of the run; older ones are replaced.
    stop
        Ends the sampling; then what is on its way is delivered, for 30 s at most, and the files are closed.
    armed
        From the tick after it is set readings count, and the schedule of faults begins.
    on_state
        Told `serving` (with `endpoints` as they are), `unserved` (meters that stay silent, and why), `armed`,
        `late` and `on_time`, `drained`; and `note` with a `text` for people, which is no state.
    leave
        Where given, the servers stay after the drain until it is set, so that clients can go before them.

    Raises
    ------
    InputError
        If the scenario's faults, the node ids or the JSON paths cannot be served.
    OperationError
        If a server cannot listen.
    """
    run = _Run(park, scenario, clock, seed=seed, truth=truth, faults=faults, armed=armed, on_state=on_state)
    run.say_unserved()
    async with AsyncExitStack() as stack:
        stack.callback(run.close)
        sent_file = stack.enter_context(SentFile(sent, [m.id for m in park.meters]))
        await run.connect(stack, endpoints, broker, stop)
        if not stop.is_set():
            on_state("serving", run.serving())
            await run.sample(sent_file, stop)
            await run.drain()
            if leave is not None:
                await leave.wait()


class _Run:
    """What lives as long as the simulation."""

    def __init__(
        self, park: Park, scenario: Scenario, clock: RunClock, *, seed: int, truth: Path, faults: Path,
        armed: asyncio.Event, on_state: OnState,
    ) -> None:
        self.park = park
        self.clock = clock
        self.on_state = on_state
        self._faults = faults
        self._armed = armed
        self._is_armed = False
        self._start = _start(clock)
        self.sampler = Sampler(park, scenario, seed=seed, start=self._start, on_state=self._note)
        self.truth_file = TruthFile(truth, park)
        self._note(self.sampler.truth.state)
        self._unserved = {
            "the plant has no such value": self.sampler.unknown}
        self._served = ~np.logical_or.reduce(list(self._unserved.values()))
        self._servers: list[OpcuaServer] = []
        self._actual: dict[str, str] = {}
        self._publisher: MqttPublisher | None = None
        self._nodes: SparkplugNodes | None = None
        self._late = False
        self._until = self._start
        self._recorded: list[FaultRecord] = []
        write_faults(faults, self._recorded)
        self._dropped_out = {s for f in scenario.faults if f.kind == "dropout" for s in f.all_subjects}

    def _note(self, state: State) -> None:
        self.truth_file.add(state)

    def say_unserved(self) -> None:
        """Say which meters stay silent, and why."""
        for reason, silent in self._unserved.items():
            if names := [meter.id for meter, is_silent in zip(self.park.meters, silent, strict=True) if is_silent]:
                log.warning("%s, so these meters stay silent: %s", reason, ", ".join(names))
                self.on_state("unserved", {"meters": names, "reason": reason})

    async def connect(
        self, stack: AsyncExitStack, endpoints: Mapping[str, str], broker: str, stop: asyncio.Event
    ) -> None:
        """Start the servers and connect to the broker; returns early if `stop` is set meanwhile."""
        if any(m.source.mqtt is not None for m in self.park.meters):
            client_id = f"symbiosis-simulator-{self.park.park.name}"
            self._publisher = MqttPublisher(broker, self.park, client_id)
            stack.push_async_callback(self._publisher.close)
            self._check_dropouts(self._publisher)
        if any(m.source.sparkplug is not None for m in self.park.meters):
            self._nodes = SparkplugNodes(
                broker, self.park, f"symbiosis-simulator-{self.park.park.name}", self.clock.now)
            stack.push_async_callback(self._nodes.close)
        gc.disable()
        stack.callback(gc.unfreeze)
        try:
            await self._listen(stack, endpoints)
        finally:
            gc.enable()
            gc.freeze()          # a hundred thousand nodes a server, for good: no collection need look at them again
        if self._publisher is not None:
            await _first(self._publisher.connect(), stop)
        if self._nodes is not None:
            await _first(self._nodes.connect(), stop)

    def serving(self) -> dict[str, object]:
        """Return what is served, and where."""
        meters = self.park.meters
        return {
            "opcua": sum(m.source.opcua is not None for m in meters),
            "mqtt": sum(m.source.mqtt is not None for m in meters),
            "sparkplug": sum(m.source.sparkplug is not None for m in meters),
            "endpoints": dict(self._actual),
        }

    async def sample(self, sent: SentFile, stop: asyncio.Event) -> None:
        """Read the due meters at every tick until `stop`; ticks before now only bring the plant to the present."""
        serving_since = self.clock.now()
        self._tell_what_is_played_again(serving_since - self._start)
        waiting = [asyncio.create_task(stop.wait()), asyncio.create_task(self._armed.wait())]
        try:
            for tick in Schedule(self.park.meters).ticks(self._start):
                if tick.time < serving_since:
                    self._take(tick)
                    self.sampler.forget_delivered()
                    await asyncio.sleep(0)
                    continue
                await self._wait_for(tick.time, waiting, sent)
                if stop.is_set():
                    return
                self._tell_lateness(tick.time)
                readings = self._take(tick)
                sent.write(readings)
                await self._hand_on(readings)
            await stop.wait()
        finally:
            for task in waiting:
                task.cancel()

    async def drain(self) -> None:
        """Wait until subscribers and broker have everything, 30 s at most, and say what remained."""
        deadline = time.monotonic() + DRAIN_S
        while not self._delivered() and time.monotonic() < deadline:    # noqa: ASYNC110  (asyncua signals nothing)
            await asyncio.sleep(DRAIN_LOOK_S)
        opcua, mqtt = self._pending(), self._publisher.pending if self._publisher else 0
        mqtt += self._nodes.pending if self._nodes else 0
        given_up = (self._publisher.lost if self._publisher else 0) + (self._nodes.lost if self._nodes else 0)
        remained: dict[str, object] = {
            "queued": opcua.queued, "unacknowledged": opcua.unacknowledged, "abandoned": opcua.abandoned,
            "mqtt": mqtt, "given_up": given_up}
        if any(remained.values()):
            log.warning("not delivered when the simulators stopped: %s",
                        ", ".join(f"{name} {count}" for name, count in remained.items() if count))
        self.on_state("drained", remained)

    def close(self) -> None:
        """Write out the truth and the faults up to the last tick."""
        self.truth_file.close(self._until)
        write_faults(self._faults, self.sampler.faults.records(self._until))

    async def _listen(self, stack: AsyncExitStack, endpoints: Mapping[str, str]) -> None:
        """Start one server for each place that the configured endpoints lead to."""
        places = _places(self.park.meters, endpoints)
        if not places:
            return
        ranges = {i: eu_range(m, float(self.sampler.typical[i])) for i, m in enumerate(self.park.meters)}
        standard = await StandardNodes.build()
        for place in places:
            server = OpcuaServer(place.url, self.park, place.positions, standard, self.clock.now)
            await server.start(ranges)
            stack.push_async_callback(server.stop)
            self._servers.append(server)
            self._actual.update(dict.fromkeys(place.configured, server.url))

    def _take(self, tick: Tick) -> Readings:
        """Return what the served meters hand on at this tick; keeps the record of faults up to date."""
        readings = self.sampler.read(tick).of(self._served)
        self._until = tick.time
        records = self.sampler.faults.records()
        if records != self._recorded:
            self._recorded = records
            write_faults(self._faults, records)
        return readings

    async def _wait_for(self, run_time: float, waiting: Sequence[asyncio.Task[bool]], sent: SentFile) -> None:
        """Wait until the run time [s] or the stop; arm meanwhile, for here is between two ticks."""
        while True:
            pending = [task for task in waiting if not (task is waiting[1] and self._is_armed)]
            done, _ = await asyncio.wait(pending, timeout=self.clock.wall_seconds_until(run_time),
                                         return_when=asyncio.FIRST_COMPLETED)
            if waiting[1] in done:
                self._is_armed = True
                sent.mark_armed()
                self.sampler.faults.arm(self.clock.now())
                self.on_state("armed", {"sent": sent.count})
            if waiting[0] in done or not done:
                return

    async def _hand_on(self, readings: Readings) -> None:
        """Give the readings to their protocols."""
        for server in self._servers:
            await server.write(readings.of(server.mask))
        if self._publisher is not None:
            self._publisher.publish(readings.of(self._publisher.mask))
        if self._nodes is not None:
            self._nodes.publish(readings.of(self._nodes.mask))

    def _delivered(self) -> bool:
        at_broker = (self._publisher.pending if self._publisher else 0) + (self._nodes.pending if self._nodes else 0)
        return self._pending().delivered and not at_broker

    def _pending(self) -> Pending:
        return sum((server.pending() for server in self._servers), Pending())

    def _tell_what_is_played_again(self, seconds: float) -> None:
        """Say that the plant is played from the start of the run to the present, where that takes a while."""
        if seconds > TOLD_S:
            self.on_state("note", {
                "text": f"playing the plant again from the start of the run, {seconds / 3600.0:.1f} h ago, so that it "
                        "goes on where it was; new readings come after that, none is sent again"})

    def _tell_lateness(self, run_time: float) -> None:
        """Say when the process falls behind the run clock, and when it has caught up."""
        behind = time.time() - self.clock.wall(run_time)
        if not self._late and behind > LATE_S:
            self._late = True
            log.warning("the simulators are %.1f s behind the run clock; no reading is left out", behind)
            self.on_state("late", {"seconds": behind})
        elif self._late and behind < ON_TIME_S:
            self._late = False
            self.on_state("on_time", {})

    def _check_dropouts(self, publisher: MqttPublisher) -> None:
        """Refuse a dropout of a meter that can only be sent together with others."""
        bound = sorted(self.park.meters[i].id for i in publisher.inseparable)
        if silent := [meter for meter in bound if meter in self._dropped_out]:
            raise InputError(f"meters {', '.join(map(repr, silent))} share a list with others on their topic, "
                             "so a dropout cannot strike them alone")


def eu_range(meter: Meter, typical: float) -> tuple[float, float]:
    """Return the range that OPC UA tells of a meter [its unit]: its span, its dial, or up to twice the typical value.

    Parameters
    ----------
    meter
        The meter.
    typical
        Its typical true value [its unit]; NaN: unknown.
    """
    if meter.span is not None:
        return meter.span
    if meter.counter is not None:
        return 0.0, meter.counter.modulus
    size = 1.0 if math.isnan(typical) else 2.0 * abs(typical) or 1.0
    power = 10.0 ** math.floor(math.log10(size))
    top = next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= size * (1.0 - 1e-9))
    return (-top if typical < 0 else 0.0), top


@dataclass
class _Place:
    """Where a server listens, the configured endpoints that lead there, and the positions of their meters."""

    url: str
    configured: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)


def _places(meters: Sequence[Meter], endpoints: Mapping[str, str]) -> list[_Place]:
    """Return where to listen; endpoints with the same host and port are one server, whatever their paths."""
    places: dict[object, _Place] = {}
    for position, meter in enumerate(meters):
        if meter.source.opcua is None:
            continue
        configured = meter.source.opcua.endpoint
        url = endpoints.get(configured, configured)
        parts = urlsplit(url)
        port = DEFAULT_PORT if parts.port is None else parts.port
        place = places.setdefault((parts.hostname, port) if port else configured, _Place(url))
        place.configured.append(configured)
        place.positions.append(position)
    return list(places.values())


def _start(clock: RunClock) -> float:
    """Return the run time at which the plant begins [s]: the run's start, or now where there is none to play from."""
    now = clock.now()
    if clock.start <= 0.0 or now - clock.start > WARM_UP_MAX_S:
        return now
    return clock.start


async def _first(work: Coroutine[None, None, None], stop: asyncio.Event) -> None:
    """Do `work` until it is done or `stop` is set."""
    tasks = [asyncio.create_task(work), asyncio.create_task(stop.wait())]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()
