"""The tags of one session, from connection to connection: connected, subscribed, fetched from, and begun again.

Each attempt has a client of its own (`opcua.session`). What a lost connection left at the server is taken up again
where the server still has it: the session, else the subscription, with what was on its way. Numbers of a server that
has begun anew are not ours, though they may be the same. What a collector left that was killed is taken up in the
same way: it is noted beside the spool (`opcua.handover`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from asyncua import ua
from asyncua.ua.uaerrors import UaStatusCodeError

from collector.backoff import Backoff
from collector.batches import NOT_RUNNING
from collector.opcua.failures import FAILED, reason_of
from collector.opcua.handover import NOWHERE, Handover, Left, Position
from collector.opcua.history import Historian
from collector.opcua.nameplates import Nameplates
from collector.opcua.publishing import SubscriptionEndedError
from collector.opcua.receipts import following
from collector.opcua.session import Connection, ForeignSessionError, Former, cancel, connect
from collector.opcua.subscribing import Subscriber, Subscription
from collector.opcua.tags import Tag

if TYPE_CHECKING:
    from collector.opcua.client import OpcuaSource

CONNECT_S = 10.0            # connecting and subscribing 100 tags, in all; asyncua limits single steps only (its #1660)
RETRY_BAD_FIRST_S = 5.0     # nodes that the server refused
RETRY_BAD_LONGEST_S = 60.0


class Share:
    """The tags of one session, connected or not."""

    def __init__(self, source: OpcuaSource, handover: Handover) -> None:
        server = source.endpoint.settings.server
        self.tags: Mapping[str, Tag] = {}
        self.away: str | None = ""              # why it is not receiving, empty before the first try; None: it is
        self._source = source
        self._subscriber = Subscriber(source.endpoint.source, source.values, server, source.namespaces)
        self.historian = Historian(source.endpoint.source, source.values, source.batches, source.clock)
        self._nameplates = Nameplates(source.endpoint.source, server.items_per_call)
        self._subscription: Subscription | None = None
        self._former: Former | None = None
        self._started_at: datetime | None = None        # since when the server runs
        self._lost_by = ""                      # why the last connection was lost
        self._handover = handover
        self._inherited = False                 # it was an earlier collector's, and is not taken up yet
        self._wanted = asyncio.Event()          # there are other tags than the server was asked for
        self._in_line = asyncio.Event()
        self._in_line.set()

    def inherit(self) -> Position | None:
        """Go on from what an earlier collector left; return how far that was, None if it left nothing."""
        found = self._handover.read()
        if found is None:
            return None
        left, position = found
        subscription = left.subscription
        subscription.receipts.next = following(position.durable_to)
        subscription.receipts.durable_to = position.durable_to
        subscription.paused_at = time.monotonic()           # it may be, for all that is known: it is told to publish
        subscription.asked_at = subscription.paused_at - position.asked_s
        for meter, item in subscription.items.items():
            self._source.values.restore(item.handle, NOWHERE, meter, item.tag.index)
            if item.handle in left.wholes:
                self._source.values.take_whole(item.handle)
        self._subscription, self._former, self._started_at = subscription, left.former, left.began
        self._lost_by, self._inherited = NOT_RUNNING, True
        return position

    @property
    def watched(self) -> Collection[str]:
        """Meters that the server watches for this session."""
        return () if self._subscription is None else self._subscription.items.keys()

    @property
    def refused(self) -> Mapping[str, str]:
        """Why, of the meters that the server refuses."""
        return {} if self._subscription is None else self._subscription.refused

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
        try:
            while True:
                connection = await self._reach()
                try:
                    await self._collect(connection)
                except FAILED as error:
                    self._lost(error)
                    await self._let_go(connection, error)
                except BaseException:
                    await (connection.leave() if self._source.is_leaving() else self._close(connection))
                    raise
        finally:
            self._handover.close()

    async def _close(self, connection: Connection) -> None:
        """Say goodbye: nothing is left to anybody."""
        await connection.close()
        self._handover.drop()

    async def _reach(self) -> Connection:
        """Try until the server is connected and was asked for every tag."""
        async with self._source.knocking:
            while True:
                try:
                    return await self._attempt()
                except FAILED as error:
                    self._tell(reason_of(error))
                await asyncio.sleep(self._source.backoff.next())

    async def _attempt(self) -> Connection:
        """Connect once."""
        endpoint, former = self._source.endpoint, self._former
        limit_s = CONNECT_S * (1 + len(self.tags) / endpoint.settings.server.items_per_call)
        connection = None
        try:
            async with asyncio.timeout(limit_s):
                connection = await connect(endpoint.url, endpoint.settings, former)
                self._former = None
                self._wanted.clear()
                subscription = await self._take_up(connection, await self._is_same_run(connection))
                await self._leave_note(connection, subscription)
        except FAILED as error:
            if connection is not None:
                await self._let_go(connection, error)
            raise
        except BaseException:
            if connection is not None:
                await self._close(connection)
            raise
        self._source.backoff.reset()
        self._tell(None)
        return connection

    async def _let_go(self, connection: Connection, error: BaseException) -> None:
        """Close a session that is of no use to us any more; leave one at a server that is out of reach."""
        if isinstance(error, UaStatusCodeError | SubscriptionEndedError):
            await self._close(connection)
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
            if self._subscription is not None:
                self._forget(self._subscription)
            raise ForeignSessionError("the server has begun anew")
        return before is not None and self._started_at == before

    async def _take_up(self, connection: Connection, is_same_run: bool) -> Subscription:
        """Go on with the subscription of the lost connection if the server still has it, else make one."""
        subscription = self._subscription
        if subscription is not None and not is_same_run and not connection.resumed:
            self._forget(subscription)
        elif subscription is not None:
            try:
                await self._catch_up(connection, subscription)
            except UaStatusCodeError:           # the server has begun anew, or cannot do this
                await self._begin_anew(connection, subscription)
            else:
                await self._subscriber.align(connection, subscription, self.tags)
                self._subscriber.started = True
                return subscription
        self._subscription = await self._subscriber.begin(connection, self.tags)
        return self._subscription

    async def _leave_note(self, connection: Connection, subscription: Subscription) -> None:
        """Note what is at the server, for a next collector."""
        self._inherited = False
        left = Left(connection.former, self._started_at, subscription, self._source.values.wholes())
        await self._handover.write(left)
        self._note(subscription)

    def _note(self, subscription: Subscription) -> None:
        """Note how far the readings of a subscription are durable."""
        self._handover.note(subscription, settled=self._source.is_settled())

    async def _begin_anew(self, connection: Connection, subscription: Subscription) -> None:
        """Forget a subscription, here and, should it be there still, at the server."""
        self._forget(subscription)
        with contextlib.suppress(UaStatusCodeError):
            await connection.session.delete_subscriptions([subscription.id])

    def _forget(self, subscription: Subscription) -> None:
        """Forget a subscription, and with it whatever it held for us."""
        self._source.interrupted(self._lost_by)
        self._inherited = False
        self._source.values.drop(item.handle for item in subscription.items.values())
        self._subscription = None

    async def _catch_up(self, connection: Connection, subscription: Subscription) -> None:
        """Bring the subscription into this session if it is not there, and take in what was on its way."""
        if not connection.resumed:
            [moved] = await connection.session.transfer_subscriptions(ua.TransferSubscriptionsParameters(
                [ua.IntegerId(subscription.id)], SendInitialValues=False))
            moved.StatusCode.check()
        await self._subscriber.confirm(connection, subscription, self.tags)
        if self._inherited:
            self._place(subscription)
        await self._source.publisher.catch_up(connection.session, subscription)

    def _place(self, subscription: Subscription) -> None:
        """Find the places of meters that an earlier collector asked for; what it held for others is left out."""
        is_as_it_was = True
        for meter, item in subscription.items.items():
            if meter in self.tags:
                self._source.values.move(item.handle, self.tags[meter].place)
                is_as_it_was = is_as_it_was and item.tag.asks_as(self.tags[meter])
            else:
                self._source.values.forget(item.handle)
        if is_as_it_was:
            self._source.continues(self)

    async def _collect(self, connection: Connection) -> None:
        """Fetch until the server fails; beside it, keep what was asked for in line, and fill holes from history."""
        subscription = self._subscription
        assert subscription is not None
        fetching = asyncio.create_task(self._source.publisher.fetch(
            connection.session, subscription, lambda: self._note(subscription)))
        keeping = asyncio.create_task(self._keep_in_line(connection, subscription))
        filling = asyncio.create_task(self.historian.run(connection, subscription))
        tasks = (fetching, keeping, filling)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await cancel(tasks)

    async def _keep_in_line(self, connection: Connection, subscription: Subscription) -> None:
        """Ask for what is wanted when that changes, and again, ever more seldom, for what was refused or not noted."""
        backoff = Backoff(RETRY_BAD_FIRST_S, RETRY_BAD_LONGEST_S)
        while True:
            await self._nameplates.compare(connection, subscription)
            try:
                tries_again = subscription.refused or self._handover.is_behind
                async with asyncio.timeout(backoff.next() if tries_again else None):
                    await self._wanted.wait()
                backoff.reset()
            except TimeoutError:
                pass
            self._wanted.clear()
            before = subscription.numbers
            await self._subscriber.align(connection, subscription, self.tags)
            if subscription.numbers != before or self._handover.is_behind:
                await self._leave_note(connection, subscription)
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
