"""What a server was asked to watch: one subscription a session, brought in line with the register of tags.

`Subscriber.align` is all there is: it gives up items whose tag is gone or asked for differently, and asks for tags that
have none, in batches that the server can answer. A new subscription, a retry of refused tags and a changed park are the
same to it. A tag that is refused is named once and harms no other.

Not here: what the answers bring (`opcua.publishing`), what is asked for a tag (`opcua.tags`).
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from asyncua import ua
from asyncua.ua.uaerrors import UaStatusCodeError

from collector.opcua import tags as asked
from collector.opcua.failures import TOO_MANY
from collector.opcua.namespaces import Namespaces
from collector.opcua.receipts import Receipts
from collector.opcua.session import Connection, ignore
from collector.opcua.tags import Tag
from collector.opcua.values import Values
from park.errors import SourceError
from park.servers import OpcuaServer

_logger = logging.getLogger(__name__)

SILENT_KEEP_ALIVES = 4      # keep-alives missed after which a server counts as gone
_NO_INDEX = "4294967294"    # an element that no array has: a server that gives a value for it knows no index ranges


@dataclass
class Item:
    """A monitored item that the server granted."""

    tag: Tag
    node: ua.NodeId
    handle: int                 # ours
    number: int                 # the server's


@dataclass
class Subscription:
    """What the server granted; it lives at the server, and may outlive a connection.

    Attributes
    ----------
    id
        The server's number for it.
    asked_s
        How often it was asked to publish [wall s].
    publishing_s, keep_alive_s
        How often it publishes, and how often it says that there is nothing to publish [wall s].
    items, refused
        By meter: what is watched, and why something is not.
    receipts
        Which of its notifications came, and which may go.
    asked_at
        When it was last asked for notifications that have come [monotonic s]; None: never.
    paused_at
        Since when it shall publish nothing [monotonic s]; None: it publishes.
    """

    id: int
    asked_s: float
    publishing_s: float = math.inf
    keep_alive_s: float = math.inf
    items: dict[str, Item] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    receipts: Receipts = field(default_factory=Receipts)
    asked_at: float | None = None
    paused_at: float | None = None

    def revise(self, granted: ua.CreateSubscriptionResult | ua.ModifySubscriptionResult) -> None:
        """Take what the server made of what it was asked for."""
        self.publishing_s = granted.RevisedPublishingInterval / 1000.0
        self.keep_alive_s = max(asked.KEEP_ALIVE_S, self.publishing_s * granted.RevisedMaxKeepAliveCount)

    @property
    def silent_s(self) -> float:
        """Without a word for this long, the server is gone [wall s]."""
        return SILENT_KEEP_ALIVES * self.keep_alive_s

    @property
    def held_s(self) -> float:
        """Not asked for longer than this, its queues may have overflowed [wall s]."""
        return max(asked.HELD_S, 2.0 * self.keep_alive_s)

    @property
    def numbers(self) -> dict[str, int]:
        """The server's numbers of what is watched, by meter."""
        return {meter: item.number for meter, item in self.items.items()}

    @property
    def refusals(self) -> str:
        """What is not watched and why, as a detail of the state."""
        names = [f"{meter}: {why}" for meter, why in sorted(self.refused.items())]
        return f"not collected: {'; '.join(names)}" if names else ""


class Subscriber:
    """Asks one server for tags, and remembers over connections what it learned of it.

    Parameters
    ----------
    source
        Name of the server's source, for messages.
    values
        Who reads what the items bring.
    server
        Its settings.
    namespaces
        What stood behind the indexes that its node ids name.
    """

    def __init__(self, source: str, values: Values, server: OpcuaServer, namespaces: Namespaces) -> None:
        self._source = source
        self._values = values
        self._namespaces = namespaces
        self._items_per_call: int = server.items_per_call       # halved when the server says that it is too many
        self._publishing_ms = server.publishing_interval_ms
        self._lifetime_s = server.session_timeout_s
        self._said: dict[str, str] = {}         # why, of meters that were said to be refused
        self.started = False                    # it was once in line: from now on nothing stops the collector

    async def begin(self, connection: Connection, tags: Mapping[str, Tag]) -> Subscription:
        """Make a subscription with every tag."""
        wanted = asked.subscription_of(self._wanted_s(tags), self._lifetime_s)
        granted = await connection.session.create_subscription(wanted, ignore)
        subscription = Subscription(granted.SubscriptionId, self._wanted_s(tags))
        subscription.revise(granted)
        await self.align(connection, subscription, tags)
        self.started = True
        return subscription

    async def align(self, connection: Connection, subscription: Subscription, tags: Mapping[str, Tag]) -> None:
        """Give up what is asked for no more, and ask for what is missing.

        Parameters
        ----------
        connection
            The server.
        subscription
            What it was asked for so far.
        tags
            What it shall be asked for, by meter.

        Raises
        ------
        SourceError
            If the server, when it is asked for the first time, keeps fewer values than a tag needs.
        """
        await self._give_up(connection, subscription, tags)
        for meter, item in subscription.items.items():
            item.tag = tags[meter]                          # the same but for its place
            self._values.move(item.handle, item.tag.place)
        if self._wanted_s(tags) < subscription.asked_s:     # a tag that came later is faster
            await self.confirm(connection, subscription, tags)
            subscription.asked_s = self._wanted_s(tags)
        missing = [tag for meter, tag in tags.items() if meter not in subscription.items]
        if missing:
            await self._ask(connection, subscription, missing)
        self._say_refused(subscription, tags)

    def _wanted_s(self, tags: Mapping[str, Tag]) -> float:
        if self._publishing_ms is not None:
            return self._publishing_ms / 1000.0
        return asked.publishing_s(list(tags.values()))

    async def confirm(self, connection: Connection, subscription: Subscription, tags: Mapping[str, Tag]) -> None:
        """Ask for a subscription to be published as often as its tags need; the server must know it for that.

        Raises
        ------
        UaStatusCodeError
            If the server does not know it any more.
        """
        wanted = asked.subscription_of(self._wanted_s(tags), self._lifetime_s)
        granted = await connection.session.modify_subscription(ua.ModifySubscriptionParameters(
            subscription.id, wanted.RequestedPublishingInterval, wanted.RequestedLifetimeCount,
            wanted.RequestedMaxKeepAliveCount, wanted.MaxNotificationsPerPublish, wanted.Priority))
        subscription.revise(granted)

    async def _give_up(self, connection: Connection, subscription: Subscription, tags: Mapping[str, Tag]) -> None:
        """Delete the items whose tag is gone, or asks for something else now."""
        for meter in [meter for meter in subscription.refused if meter not in tags]:
            del subscription.refused[meter]
        going = [meter for meter, item in subscription.items.items()
                 if meter not in tags or not item.tag.asks_as(tags[meter])]
        for start in range(0, len(going), self._items_per_call):
            batch = going[start : start + self._items_per_call]
            await connection.session.delete_monitored_items(ua.DeleteMonitoredItemsParameters(
                subscription.id, [ua.IntegerId(subscription.items[meter].number) for meter in batch]))
            for meter in batch:
                self._values.forget(subscription.items.pop(meter).handle)

    async def _ask(self, connection: Connection, subscription: Subscription, tags: Sequence[Tag]) -> None:
        """Ask for these tags in batches; those that are refused are noted."""
        uris = await connection.namespaces() if asked.needs_namespaces(tags) else []
        await self._namespaces.learn({index for tag in tags if (index := asked.index_of(tag)) is not None}, uris)
        known: deque[tuple[Tag, ua.NodeId]] = deque()
        for tag in tags:
            index, node_id = asked.index_of(tag), asked.resolve(tag, uris)
            change = self._namespaces.change_of(index, uris) if index is not None else None
            if node_id is None or change is not None:
                subscription.refused[tag.meter] = change or "its namespace is not on the server"
            else:
                known.append((tag, node_id))
        while known:
            batch = [known.popleft() for _ in range(min(self._items_per_call, len(known)))]
            try:
                await self._ask_batch(connection, subscription, batch)
            except UaStatusCodeError as error:
                if error.code not in TOO_MANY or self._items_per_call == 1:
                    raise
                self._items_per_call = max(1, self._items_per_call // 2)
                known.extendleft(reversed(batch))

    async def _ask_batch(
        self, connection: Connection, subscription: Subscription, batch: Sequence[tuple[Tag, ua.NodeId]]
    ) -> None:
        """Ask for one batch of tags and judge the answers."""
        handles = [self._values.expect(tag.place, tag.meter, tag.index) for tag, _ in batch]
        items = [asked.item_of(tag, node_id, handle, subscription.publishing_s)
                 for (tag, node_id), handle in zip(batch, handles, strict=True)]
        try:
            await self._learn_ranges(connection, batch, handles)
            results = await connection.session.create_monitored_items(ua.CreateMonitoredItemsParameters(
                SubscriptionId=subscription.id, TimestampsToReturn=ua.TimestampsToReturn.Both, ItemsToCreate=items))
        except BaseException:
            self._values.drop(handles)
            raise
        for (tag, node_id), handle, item, result in zip(batch, handles, items, results, strict=True):
            if result.StatusCode.is_good():
                subscription.refused.pop(tag.meter, None)
                subscription.items[tag.meter] = Item(tag, node_id, handle, result.MonitoredItemId)
                self._check_queue(tag, item.RequestedParameters.QueueSize, result.RevisedQueueSize)
                self._check_sampling(tag, result.RevisedSamplingInterval / 1000.0, subscription.publishing_s)
            else:
                subscription.refused[tag.meter] = result.StatusCode.name
                self._values.drop([handle])

    async def _learn_ranges(
        self, connection: Connection, batch: Sequence[tuple[Tag, ua.NodeId]], handles: Sequence[int]
    ) -> None:
        """Find out for which arrays the server gives the whole where an element is asked for, as some do."""
        arrays = [(node_id, handle) for (tag, node_id), handle in zip(batch, handles, strict=True)
                  if tag.index is not None]
        if not arrays:
            return
        answers = await connection.session.read(ua.ReadParameters(NodesToRead=[
            ua.ReadValueId(node_id, ua.AttributeIds.Value, ua.String(_NO_INDEX)) for node_id, _ in arrays]))
        for (_, handle), answer in zip(arrays, answers, strict=True):
            if answer.Value is not None and isinstance(answer.Value.Value, list) and answer.Value.Value:
                self._values.take_whole(handle)

    def _check_queue(self, tag: Tag, needed: int, granted: int) -> None:
        """Refuse to start with a queue that would lose readings between two publishings; later only say so."""
        if granted >= needed:
            return
        message = (f"{self._source.removeprefix('opcua:')}: the server keeps {granted} values of {tag.meter}, "
                   f"{needed} are needed to hold {needed * tag.interval_s:g} s of readings every {tag.interval_s:g} s "
                   "(hint: raise the server's limit of monitored-item queues, or say queue_size in park.yaml)")
        if not self.started:
            raise SourceError(message)
        _logger.error("%s", message)

    def _check_sampling(self, tag: Tag, granted_s: float, publishing_s: float) -> None:
        """Say so if the server looks at a node more seldom than its readings come (asyncua gives its publishing)."""
        if granted_s > max(tag.interval_s, publishing_s) and not self.started:
            _logger.warning("%s: the server samples %s every %g s, but its readings come every %g s",
                            self._source, tag.meter, granted_s, tag.interval_s)

    def _say_refused(self, subscription: Subscription, tags: Mapping[str, Tag]) -> None:
        """Name refused tags once, and those that were found since."""
        for meter, why in subscription.refused.items():
            if self._said.get(meter) != why:
                self._said[meter] = why
                _logger.warning("%s: %s (%s) is not collected: %s; tried again",
                                self._source, meter, tags[meter].node_id, why)
        for meter in [meter for meter in self._said if meter not in subscription.refused]:
            del self._said[meter]
            if meter in subscription.items:
                _logger.info("%s: %s is collected now", self._source, meter)
