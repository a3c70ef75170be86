"""One OPC UA server: connect, subscribe, fetch what it publishes, and begin again when that fails.

asyncua's client gives the services; its reconnecting, its subscriptions and its publish loop are not used. They forget
tags that fail once, keep one Publish outstanding, go on for ever after an error, and drop in silence what cannot be
parsed. Instead each attempt has a client of its own, and the register of tags (`opcua.tags`) is the truth.

The way of a value: `_fetch` awaits a publish response, `opcua.decode` reads it, `opcua.values` turns it into rows,
`Batches.put` takes them (and waits while memory is full), and only then the notification is acknowledged and the next
one asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncua import Client, ua
from asyncua.client.ua_session import UaSession
from asyncua.common.shortcuts import Shortcuts
from asyncua.ua.uaerrors import BadTooManyPublishRequests, UaError, UaStatusCodeError, UaStructParsingError

from collector.backoff import Backoff
from collector.batches import Batches, Chunk, Interruption, Rows
from collector.opcua import tags as asked
from collector.opcua.decode import Published, published
from collector.opcua.tags import Tag
from collector.opcua.values import Values
from collector.register import opcua_source
from collector.rejections import Rejections
from collector.status import SourceStatus, State
from collector.times import micros_of_seconds
from park.clock import RunClock
from park.errors import SourceError

_logger = logging.getLogger(__name__)

CONNECT_S = 10.0            # connecting and subscribing 100 tags, in all; asyncua limits single steps only (its #1660)
REQUEST_S = 8.0             # one answer
CLOSE_S = 2.0               # saying goodbye to a server that may be gone
SESSION_S = 60.0            # a server drops our session this long after we vanished
PUBLISHES = 3               # requests a server holds, so that it can publish while an answer is under way
ITEMS_A_CALL = 100          # what small controllers take in one call (an S7-1200 is slow above 200)
SILENT_KEEP_ALIVES = 4      # keep-alives missed after which a server counts as gone
LATE_S = 0.1                # to read what came while this process stood still
RETRY_BAD_FIRST_S = 5.0     # nodes that the server refused
RETRY_BAD_LONGEST_S = 60.0

# What asyncua raises when a server is gone or answers with what cannot be read.
_FAILED = (OSError, TimeoutError, UaError, struct.error, ValueError, LookupError)
_TOO_MANY = (ua.StatusCodes.BadTooManyOperations, ua.StatusCodes.BadRequestTooLarge,
             ua.StatusCodes.BadEncodingLimitsExceeded, ua.StatusCodes.BadResponseTooLarge)


class ServerSilentError(ConnectionError):
    """A server publishes neither data nor keep-alives."""


class SubscriptionEndedError(ConnectionError):
    """A server gave up the subscription."""


class _Session(UaSession):
    """A session whose publishing is asked for by `OpcuaSource`, not by a loop of asyncua, and read by `decode`."""

    def ensure_publish_loop(self) -> None:
        """Start no loop."""

    async def published(self, acknowledge: list[ua.SubscriptionAcknowledgement]) -> Published:
        """Ask for what is published, acknowledge what came before, and return the answer, however long it takes."""
        request = ua.PublishRequest()
        request.Parameters.SubscriptionAcknowledgements = acknowledge
        return published(bytes(await self._send_request(request, timeout=0)))


def _new_client(url: str) -> Client:
    """Return a client for one attempt; asyncua's own watching only backs up ours, and is slow enough not to disturb."""
    client = Client(url, timeout=REQUEST_S, watchdog_intervall=REQUEST_S)
    client.name = client.description = "symbiosis collector"
    client.application_uri = "urn:symbiosis:collector"
    client.session_timeout = round(SESSION_S * 1000)
    client.uaclient.session = _Session(client.uaclient)
    client.nodes = Shortcuts(client.uaclient.session)
    return client


def _session_of(client: Client) -> _Session:
    """Return the session that `_new_client` gave it."""
    session = client.uaclient.session
    assert isinstance(session, _Session)
    return session


@dataclass
class _Subscription:
    """What the server granted."""

    id: int
    publishing_s: float
    keep_alive_s: float         # a server with nothing to say says that this often
    refused: dict[int, str] = field(default_factory=dict)      # by place: why
    next_sequence: int | None = None

    @property
    def silent_s(self) -> float:
        """Without a word for this long, the server is gone [wall s]."""
        return SILENT_KEEP_ALIVES * self.keep_alive_s

    @property
    def held_s(self) -> float:
        """Not asked for longer than this, its queues may have overflowed [wall s]."""
        return max(asked.HELD_S, 2.0 * self.keep_alive_s)


@dataclass(frozen=True)
class _Publish:
    """A publish request on its way, and when it was sent [monotonic s]."""

    answer: asyncio.Task[Published]
    asked_at: float

    @classmethod
    def ask(cls, session: _Session, acknowledge: list[ua.SubscriptionAcknowledgement]) -> _Publish:
        """Send a request that acknowledges these notifications."""
        return cls(asyncio.create_task(session.published(acknowledge)), time.monotonic())


@dataclass(frozen=True)
class Endpoint:
    """A server: as the park configures it, and where it is reached in this run."""

    configured: str
    url: str

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
        Its tags, at least one.
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
        self._tags = {tag.place: tag for tag in tags}
        self._batches = batches
        self._status = status
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._values = Values(endpoint.source, {tag.place: tag.meter for tag in tags}, rejections)
        self._rejections = rejections
        self._items_a_call = ITEMS_A_CALL
        self._said_refused: set[int] = set()

    async def run(self) -> None:
        """Connect and collect, again and again.

        Raises
        ------
        SourceError
            If the server, at its first connect, keeps fewer values than a tag needs.
        """
        while True:
            client = _new_client(self.endpoint.url)
            try:
                async with asyncio.timeout(CONNECT_S * (1 + len(self._tags) / ITEMS_A_CALL)):
                    await client.connect()
                    subscription = await self._subscribe(client)
                self._connected(subscription)
                await self._collect(client, subscription)
            except _FAILED as error:
                self._lost(error)
            finally:
                await _close(client)
            await asyncio.sleep(self._backoff.next())

    def _connected(self, subscription: _Subscription) -> None:
        self._backoff.reset()
        self._status.become(State.RECEIVING, self._refusals(subscription))
        self.armed.set()

    def _lost(self, error: BaseException) -> None:
        """Note that the server is away: a gap may begin."""
        reason = _reason(error)
        if self._status.state is State.RECEIVING:
            self._interrupted(f"connection lost: {reason}")
        self._status.become(State.WAITING, reason)

    def _interrupted(self, cause: str) -> None:
        self._batches.put_now(Chunk(self.endpoint.source, interruption=Interruption(cause)))

    # -- subscribing ------------------------------------------------------------------------------------------------

    async def _subscribe(self, client: Client) -> _Subscription:
        """Make the subscription and ask for every tag of the register."""
        session = client.uaclient.session
        wanted_s = asked.publishing_s(list(self._tags.values()))
        granted = await session.create_subscription(asked.subscription_of(wanted_s), _ignore)
        publishing_s = granted.RevisedPublishingInterval / 1000.0
        keep_alive_s = max(asked.KEEP_ALIVE_S, publishing_s * granted.RevisedMaxKeepAliveCount)
        subscription = _Subscription(granted.SubscriptionId, publishing_s, keep_alive_s)
        self._values.begin()
        await self._ask(client, subscription, list(self._tags.values()))
        return subscription

    async def _ask(self, client: Client, subscription: _Subscription, tags: Sequence[Tag]) -> None:
        """Ask for these tags in batches; tags that are refused are noted and harm no other."""
        namespaces = await client.get_namespace_array() if asked.needs_namespaces(tags) else []
        known: deque[tuple[Tag, ua.NodeId]] = deque()
        for tag in tags:
            node_id = asked.resolve(tag, namespaces)
            if node_id is None:
                subscription.refused[tag.place] = "its namespace is not on the server"
            else:
                known.append((tag, node_id))
        while known:
            batch = [known.popleft() for _ in range(min(self._items_a_call, len(known)))]
            try:
                await self._ask_batch(client, subscription, batch)
            except UaStatusCodeError as error:
                if error.code not in _TOO_MANY or self._items_a_call == 1:
                    raise
                self._items_a_call = max(1, self._items_a_call // 2)
                known.extendleft(reversed(batch))
        self._say_refused(subscription)

    async def _ask_batch(
        self, client: Client, subscription: _Subscription, batch: Sequence[tuple[Tag, ua.NodeId]]
    ) -> None:
        """Ask for one batch of tags and judge the answers."""
        items = [asked.item_of(tag, node_id, subscription.publishing_s) for tag, node_id in batch]
        results = await client.uaclient.session.create_monitored_items(ua.CreateMonitoredItemsParameters(
            SubscriptionId=subscription.id, TimestampsToReturn=ua.TimestampsToReturn.Both, ItemsToCreate=items))
        for (tag, _), item, result in zip(batch, items, results, strict=True):
            if result.StatusCode.is_good():
                subscription.refused.pop(tag.place, None)
                self._check_queue(tag, item.RequestedParameters.QueueSize, result.RevisedQueueSize)
                self._check_sampling(tag, result.RevisedSamplingInterval / 1000.0, subscription.publishing_s)
            else:
                subscription.refused[tag.place] = result.StatusCode.name

    def _check_queue(self, tag: Tag, needed: int, granted: int) -> None:
        """Refuse to start with a queue that would lose readings between two publishings; later only say so."""
        if granted >= needed:
            return
        message = (f"{self.endpoint.url}: the server keeps {granted} values of {tag.meter}, {needed} are needed to "
                   f"hold {needed * tag.interval_s:g} s of readings every {tag.interval_s:g} s "
                   "(hint: raise the server's limit of monitored-item queues)")
        if not self.armed.is_set():
            raise SourceError(message)
        _logger.error("%s", message)

    def _check_sampling(self, tag: Tag, granted_s: float, publishing_s: float) -> None:
        """Say so if the server looks at a node more seldom than its readings come (asyncua gives its publishing)."""
        if granted_s > max(tag.interval_s, publishing_s) and not self.armed.is_set():
            _logger.warning("%s: the server samples %s every %g s, but its readings come every %g s",
                            self.endpoint.source, tag.meter, granted_s, tag.interval_s)

    def _say_refused(self, subscription: _Subscription) -> None:
        """Name refused tags once, and those that were found since."""
        refused = set(subscription.refused)
        for place in sorted(refused - self._said_refused):
            _logger.warning("%s: %s (%s) is not collected: %s; tried again", self.endpoint.source,
                            self._tags[place].meter, self._tags[place].node_id, subscription.refused[place])
        for place in sorted(self._said_refused - refused):
            _logger.info("%s: %s is collected now", self.endpoint.source, self._tags[place].meter)
        self._said_refused = refused

    def _refusals(self, subscription: _Subscription) -> str:
        """Return the tags that the server refused, as a detail of the state."""
        names = [f"{self._tags[place].meter}: {why}" for place, why in sorted(subscription.refused.items())]
        return f"not collected: {'; '.join(names)}" if names else ""

    async def _retry_refused(self, client: Client, subscription: _Subscription) -> None:
        """Ask again for refused tags, ever more seldom, until none is left."""
        backoff = Backoff(RETRY_BAD_FIRST_S, RETRY_BAD_LONGEST_S)
        while subscription.refused:
            await asyncio.sleep(backoff.next())
            await self._ask(client, subscription, [self._tags[place] for place in subscription.refused])
            self._status.become(State.RECEIVING, self._refusals(subscription))

    # -- fetching ---------------------------------------------------------------------------------------------------

    async def _collect(self, client: Client, subscription: _Subscription) -> None:
        """Fetch until the server fails; beside it, try refused tags again."""
        fetching = asyncio.create_task(self._fetch(_session_of(client), subscription))
        retrying = asyncio.create_task(self._retry_refused(client, subscription))
        try:
            await asyncio.wait({fetching, retrying}, return_when=asyncio.FIRST_EXCEPTION)
            for task in (retrying, fetching):
                if task.done():
                    task.result()
        finally:
            await _cancel([fetching, retrying])

    async def _fetch(self, session: _Session, subscription: _Subscription) -> None:
        """Keep publish requests at the server, and take in what they bring, in order."""
        requests = deque(_Publish.ask(session, []) for _ in range(PUBLISHES))
        asked_at = requests[0].asked_at
        try:
            while True:
                request = requests[0]
                if request.asked_at - asked_at > subscription.held_s:
                    self._interrupted("the server waited longer to be asked than its queues hold")
                asked_at = request.asked_at
                try:
                    acknowledge = await self._answer(request, subscription)
                except BadTooManyPublishRequests:
                    if len(requests) == 1:
                        raise
                    requests.popleft()          # the server holds fewer: one less from now on
                    continue
                requests.popleft()
                requests.append(_Publish.ask(session, acknowledge))
        finally:
            await _cancel(request.answer for request in requests)

    async def _answer(self, request: _Publish, subscription: _Subscription) -> list[ua.SubscriptionAcknowledgement]:
        """Await the answer to a publish request and take it in; return what to acknowledge."""
        done, _ = await asyncio.wait({request.answer}, timeout=subscription.silent_s)
        if not done:
            await asyncio.sleep(LATE_S)         # if it was we who stood still, the answer is there and only to be read
            if not request.answer.done():
                raise ServerSilentError(f"neither data nor keep-alive in {subscription.silent_s:g} s")
        try:
            answer = await request.answer
        except UaStructParsingError as error:
            self._unreadable(error)
            return []
        return await self._take_in(answer, subscription)

    async def _take_in(self, answer: Published, subscription: _Subscription) -> list[ua.SubscriptionAcknowledgement]:
        """Hand on the readings of one publish response; return what to acknowledge."""
        ua.StatusCode(ua.UInt32(answer.result)).check()
        if answer.subscription != subscription.id or not answer.has_data:
            return []           # a keep-alive: its sequence number is that of the next message
        if subscription.next_sequence not in (None, answer.sequence):
            self._interrupted(f"notification {subscription.next_sequence} did not come")
        subscription.next_sequence = answer.sequence % 0xFFFFFFFF + 1        # part 4, 7.25: 0 is left out
        rows = Rows()
        if self._values.read(answer.items, micros_of_seconds(self._clock.now()), rows):
            self._interrupted("the server's queue overflowed")
        await self._batches.put(Chunk(self.endpoint.source, rows))
        if answer.ended is not None:
            raise SubscriptionEndedError(f"the server ended the subscription: {answer.ended}")
        return [ua.SubscriptionAcknowledgement(subscription.id, ua.Counter(answer.sequence))]

    def _unreadable(self, error: BaseException) -> None:
        """Note that the readings of a notification are missing, which asyncua cannot parse and has dropped."""
        self._rejections.add(self.endpoint.source, "publish response", "notification cannot be read", error.__cause__)
        self._interrupted("a notification could not be read")


async def _close(client: Client) -> None:
    """Close session, channel and socket, so that the server keeps no session of ours; a dead one is left after a while.

    asyncua logs and swallows what fails here; only the limit is ours.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await client.disconnect()
    client.disconnect_socket()


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and await their end, so that none is left with an exception nobody looked at."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def _ignore(_result: ua.PublishResult) -> None:
    """Take nothing from asyncua's dispatch."""


def _reason(error: BaseException) -> str:
    """Return why a server is away, in one clause."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error).strip().rstrip(".") or type(error).__name__


def quiet_library() -> None:
    """Keep asyncua's log to itself: it writes a traceback for each attempt; changes of state are said here."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)
