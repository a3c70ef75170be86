"""One OPC UA server: its sessions, each kept connected and subscribed, with what is between two connections.

    OpcuaSource          the server: its tags dealt out to sessions, its state as a whole
      _Share             the tags of one session, from connection to connection
        session          connecting, taking up what a lost connection left
        subscribing      what the server was asked to watch
        publishing       what that brings: the way of a value is told there
        history          holes filled from what the server has kept
        nameplates       units and ranges of the server held against park.yaml

The register of tags (`opcua.tags`) is the truth; each attempt has a client of its own, and one thing at a time knocks
at a server, with one back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from asyncua import ua
from asyncua.ua.uaerrors import UaStatusCodeError

from collector.backoff import Backoff
from collector.batches import Batches, Chunk, Interruption
from collector.holes import Hole
from collector.opcua.history import Historian
from collector.opcua.nameplates import Nameplates
from collector.opcua.publishing import Acknowledgements, Publisher, SubscriptionEndedError
from collector.opcua.security import Settings, settings_of
from collector.opcua.session import (
    FAILED,
    Connection,
    ForeignSessionError,
    Former,
    cancel,
    connect,
    quiet_library,
    reason_of,
)
from collector.opcua.subscribing import Subscriber, Subscription
from collector.opcua.tags import Tag
from collector.opcua.values import Values
from collector.register import opcua_source
from collector.rejections import Rejections
from collector.status import SourceStatus, State
from park.clock import RunClock
from park.servers import OpcuaServer

__all__ = ["Endpoint", "OpcuaSource", "quiet_library"]

CONNECT_S = 10.0            # connecting and subscribing 100 tags, in all; asyncua limits single steps only (its #1660)
RATE_A_SESSION = 5000.0     # readings/s: half of what one asyncua server can publish in one session
_MOST_HANDLES = 1 << 30     # where handles begin is drawn: two clients of one server shall not have the same
RETRY_BAD_FIRST_S = 5.0     # nodes that the server refused
RETRY_BAD_LONGEST_S = 60.0


@dataclass(frozen=True)
class Endpoint:
    """A server: as the park configures it, where it is reached in this run, and its settings."""

    configured: str
    url: str
    settings: Settings = field(default_factory=lambda: Settings(OpcuaServer(id="", endpoint="")))

    @classmethod
    def of(cls, server: OpcuaServer, url: str) -> Endpoint:
        """Return the endpoint of a server, its secrets read.

        Raises
        ------
        InputError
            If a secret, certificate or key cannot be read.
        """
        return cls(server.endpoint, url, settings_of(server))

    @property
    def source(self) -> str:
        """Name of the source."""
        return opcua_source(self.configured)


class OpcuaSource:
    """Collects the tags of one server until it is cancelled.

    Parameters
    ----------
    endpoint
        The server.
    tags
        Its tags.
    batches
        Where readings go.
    status, rejections
        Where it says how it fares.
    clock
        The run's clock.
    backoff
        How long to wait between attempts.
    """

    def __init__(
        self, endpoint: Endpoint, tags: Sequence[Tag], batches: Batches, status: SourceStatus, rejections: Rejections,
        clock: RunClock, backoff: Backoff | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.armed = asyncio.Event()            # every tag was asked for and answered, once
        self.backoff = backoff or Backoff()
        self.knocking = asyncio.Lock()          # one session at a time tries to connect
        self.values = Values(endpoint.source, rejections, secrets.randbelow(_MOST_HANDLES))
        self.batches = batches
        self.clock = clock
        self._status = status
        self.publisher = Publisher(endpoint.source, self.values, batches, rejections, clock, self.interrupted,
                                   status.hear)
        self._shares = [_Share(self) for _ in range(_sessions(endpoint.settings.server, tags))]
        self._deal(tags)

    async def run(self) -> None:
        """Connect and collect, again and again.

        Raises
        ------
        SourceError
            If the server, at its first connect, keeps fewer values than a tag needs; in a group.
        """
        async with asyncio.TaskGroup() as group:
            for number, share in enumerate(self._shares):
                group.create_task(share.run(), name=f"{self.endpoint.source} session {number}")

    async def apply(self, tags: Sequence[Tag]) -> None:
        """Collect these tags from now on, without touching those that stay.

        Returns when the server has answered, or at once where it is away: then it is asked when it is back. A meter
        that stands at another place of the register now is only told apart anew, here and not at the server.

        Parameters
        ----------
        tags
            All tags of the server.
        """
        self._deal(tags)
        await asyncio.gather(*(share.aligned() for share in self._shares))

    def _deal(self, tags: Sequence[Tag]) -> None:
        """Give each session its tags: those that it has, and of the new ones as many readings as the others."""
        homes = {meter: share for share in self._shares for meter in share.tags}
        dealt: dict[_Share, dict[str, Tag]] = {share: {} for share in self._shares}
        rates = dict.fromkeys(self._shares, 0.0)
        for tag in sorted(tags, key=lambda tag: tag.meter not in homes):
            share = homes.get(tag.meter) or min(self._shares, key=lambda share: rates[share])
            dealt[share][tag.meter] = tag
            rates[share] += 1.0 / tag.interval_s
        for share, its in dealt.items():
            share.want(its)

    def fill(self, hole: Hole, done: Callable[[Hole, bool], None]) -> None:
        """Fill a hole of one of its meters from the server's history, if it has one.

        Parameters
        ----------
        hole
            The hole; its readings at both ends are stored.
        done
            Told once whether it is filled, and that durably.
        """
        for share in self._shares:
            if any(tag.place == hole.place for tag in share.tags.values()):
                share.historian.fill(hole, done)
                return
        done(hole, False)

    # -- what its sessions tell -------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Say how the server fares as a whole: it is receiving when every session is."""
        away = [share.away for share in self._shares if share.away is not None]
        if not away:
            self._status.become(State.RECEIVING, "; ".join(filter(None, (s.refusals for s in self._shares))))
            self.armed.set()
        elif any(away):
            self._status.become(State.WAITING, next(filter(None, away)))

    def interrupted(self, cause: str, *, kept: bool = False) -> None:
        """Note that readings may be missing from here on; `kept`: only if the server's queues did not last."""
        self.batches.put_now(Chunk(self.endpoint.source, interruption=Interruption(cause, kept)))


class _Share:
    """The tags of one session, connected or not."""

    def __init__(self, source: OpcuaSource) -> None:
        server = source.endpoint.settings.server
        self.tags: Mapping[str, Tag] = {}
        self.away: str | None = ""              # why it is not receiving, empty before the first try; None: it is
        self._source = source
        self._subscriber = Subscriber(
            source.endpoint.source, source.values, server.items_per_call, server.publishing_interval_ms)
        self.historian = Historian(source.endpoint.source, source.values, source.batches, source.clock)
        self._nameplates = Nameplates(source.endpoint.source, server.items_per_call)
        self._subscription: Subscription | None = None
        self._former: Former | None = None
        self._started_at: datetime | None = None        # since when the server runs
        self._lost_by = ""                      # why the last connection was lost
        self._wanted = asyncio.Event()          # there are other tags than the server was asked for
        self._in_line = asyncio.Event()
        self._in_line.set()

    @property
    def refusals(self) -> str:
        """What the server refused, as a detail of the state."""
        return "" if self._subscription is None else self._subscription.refusals

    def want(self, tags: Mapping[str, Tag]) -> None:
        """Collect these tags from now on."""
        self.tags = tags
        self._wanted.set()
        if self.away is None:
            self._in_line.clear()

    async def aligned(self) -> None:
        """Wait until the server was asked for what is wanted, or is away."""
        await self._in_line.wait()

    async def run(self) -> None:
        """Connect and collect, again and again."""
        while True:
            connection, acknowledge = await self._reach()
            try:
                await self._collect(connection, acknowledge)
            except FAILED as error:
                self._lost(error)
                await self._let_go(connection, error)
            except BaseException:
                await connection.close()
                raise

    async def _reach(self) -> tuple[Connection, Acknowledgements]:
        """Try until the server is connected and was asked for every tag; return what to acknowledge first."""
        async with self._source.knocking:
            while True:
                try:
                    return await self._attempt()
                except FAILED as error:
                    self._tell(reason_of(error))
                await asyncio.sleep(self._source.backoff.next())

    async def _attempt(self) -> tuple[Connection, Acknowledgements]:
        """Connect once."""
        endpoint, former = self._source.endpoint, self._former
        limit_s = CONNECT_S * (1 + len(self.tags) / endpoint.settings.server.items_per_call)
        connection = None
        try:
            async with asyncio.timeout(limit_s):
                connection = await connect(endpoint.url, endpoint.settings, former)
                self._former = None
                self._wanted.clear()
                acknowledge = await self._take_up(connection, await self._is_same_run(connection))
        except FAILED as error:
            if connection is not None:
                await self._let_go(connection, error)
            raise
        except BaseException:
            if connection is not None:
                await connection.close()
            raise
        self._source.backoff.reset()
        self._tell(None)
        return connection, acknowledge

    async def _let_go(self, connection: Connection, error: BaseException) -> None:
        """Close a session that is of no use to us any more; leave one at a server that is out of reach."""
        if isinstance(error, UaStatusCodeError | SubscriptionEndedError):
            await connection.close()
        else:
            former = await connection.leave()
            self._former = None if isinstance(error, ForeignSessionError) else former

    async def _is_same_run(self, connection: Connection) -> bool:
        """Return whether the server is known to run since the last connection: numbers of another run are not ours.

        Raises
        ------
        ForeignSessionError
            If the session that was taken up is one of another run.
        """
        before, self._started_at = self._started_at, await connection.started_at()
        if connection.resumed and self._started_at != before:
            raise ForeignSessionError("the server has begun anew")
        return before is not None and self._started_at == before

    async def _take_up(self, connection: Connection, is_same_run: bool) -> Acknowledgements:
        """Go on with the subscription of the lost connection if the server still has it, else make one."""
        subscription = self._subscription
        if subscription is not None and not is_same_run and not connection.resumed:
            self._forget(subscription)
        elif subscription is not None:
            try:
                acknowledge = await self._catch_up(connection, subscription)
            except UaStatusCodeError:           # the server has begun anew, or cannot do this
                await self._begin_anew(connection, subscription)
            else:
                await self._subscriber.align(connection, subscription, self.tags)
                return acknowledge
        self._subscription = await self._subscriber.begin(connection, self.tags)
        return []

    async def _begin_anew(self, connection: Connection, subscription: Subscription) -> None:
        """Forget a subscription, here and, should it be there still, at the server."""
        self._forget(subscription)
        with contextlib.suppress(UaStatusCodeError):
            await connection.session.delete_subscriptions([subscription.id])

    def _forget(self, subscription: Subscription) -> None:
        """Forget a subscription, and with it whatever it held for us."""
        self._source.interrupted(self._lost_by)
        self._source.values.drop(item.handle for item in subscription.items.values())
        self._subscription = None

    async def _catch_up(self, connection: Connection, subscription: Subscription) -> Acknowledgements:
        """Bring the subscription into this session if it is not there, and take in what was on its way."""
        if not connection.resumed:
            [moved] = await connection.session.transfer_subscriptions(ua.TransferSubscriptionsParameters(
                [ua.IntegerId(subscription.id)], SendInitialValues=False))
            moved.StatusCode.check()
        await self._subscriber.confirm(connection, subscription, self.tags)
        return await self._source.publisher.catch_up(connection.session, subscription)

    async def _collect(self, connection: Connection, acknowledge: Acknowledgements) -> None:
        """Fetch until the server fails; beside it, keep what was asked for in line, and fill holes from history."""
        assert self._subscription is not None
        fetching = asyncio.create_task(
            self._source.publisher.fetch(connection.session, self._subscription, acknowledge))
        keeping = asyncio.create_task(self._keep_in_line(connection, self._subscription))
        filling = asyncio.create_task(self.historian.run(connection, self._subscription))
        tasks = (fetching, keeping, filling)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await cancel(tasks)

    async def _keep_in_line(self, connection: Connection, subscription: Subscription) -> None:
        """Ask for what is wanted when that changes, and again for what was refused, ever more seldom."""
        backoff = Backoff(RETRY_BAD_FIRST_S, RETRY_BAD_LONGEST_S)
        while True:
            await self._nameplates.compare(connection, subscription)
            try:
                async with asyncio.timeout(backoff.next() if subscription.refused else None):
                    await self._wanted.wait()
                backoff.reset()
            except TimeoutError:
                pass
            self._wanted.clear()
            await self._subscriber.align(connection, subscription, self.tags)
            self._tell(None)

    def _lost(self, error: BaseException) -> None:
        """Note that a connection is lost: a gap may begin, if the server does not keep what comes."""
        self._lost_by = f"connection lost: {reason_of(error)}"
        self._source.interrupted(self._lost_by, kept=True)
        self._tell(reason_of(error))

    def _tell(self, away: str | None) -> None:
        """Say how this session fares: why it is away, or that it is not."""
        self.away = away
        if away is not None or not self._wanted.is_set():
            self._in_line.set()
        self._source.changed()


def _sessions(server: OpcuaServer, tags: Iterable[Tag]) -> int:
    """Return over how many sessions the tags of a server are dealt."""
    rates = [1.0 / tag.interval_s for tag in tags]
    wanted = server.sessions or math.ceil(sum(rates) / RATE_A_SESSION)
    return max(1, min(wanted, len(rates)))
