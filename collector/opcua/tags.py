"""What is asked of an OPC UA server: the register of its tags, their node ids, sampling, queues and publishing.

Pure: node ids are resolved against the namespaces that the server gives at each connect, and sizes are worked out from
each meter's interval on the run's clock. The connection is in `opcua.client`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from asyncua import ua
from asyncua.ua.uaerrors import UaError

from collector.register import Register
from park.errors import InputError
from park.model import Meter
from park.servers import Deadband, OpcuaServer

SHORTEST_PUBLISHING_S = 0.1     # a server walks through its subscriptions this often at most
LONGEST_PUBLISHING_S = 0.5      # adds to the delay from instrument to store
HELD_S = 10.0                   # wall time that a server's queue covers while nothing is fetched
FEWEST_QUEUED = 10
MOST_QUEUED = 10_000            # asyncua's limit; other servers have lower ones, and say so
KEEP_ALIVE_S = 2.0              # a server with nothing to say says that this often
_URI_PREFIX = "nsu="


@dataclass(frozen=True)
class Tag:
    """One meter at a server.

    Attributes
    ----------
    place
        Number in the register.
    meter
        Id, for messages.
    node_id
        As configured, ``ns=2;s=...`` or ``nsu=URI;s=...``.
    interval_s
        Wall time from one reading to the next [s].
    sampling_ms
        Sampling interval to ask for [wall ms]; None: half the interval.
    queue
        Values that the server is to keep; None: as many as come while nobody asks.
    deadband
        Changes that are not told; None: every change is.
    index
        Of an array: which of its elements, from 0.
    unit, span
        What park.yaml says that it measures in, and between which ends; to be held against the server's.
    """

    place: int
    meter: str
    node_id: str
    interval_s: float
    sampling_ms: float | None = None
    queue: int | None = None
    deadband: Deadband | None = None
    index: int | None = None
    unit: str = ""
    span: tuple[float, float] | None = None

    def asks_as(self, other: Tag) -> bool:
        """Whether the same is asked of the server for both, wherever they stand in the register."""
        return replace(self, place=other.place, unit=other.unit, span=other.span) == other


def tags_of(register: Register, endpoint: str, speed: float, server: OpcuaServer | None = None) -> list[Tag]:
    """Return the tags of one endpoint (as configured), for a run at `speed` run seconds a wall second.

    Parameters
    ----------
    register
        The meters.
    endpoint
        The server.
    speed
        Of the run.
    server
        Its settings, which hold where a meter has none of its own; None: the defaults.

    Raises
    ------
    InputError
        If a node id is malformed.
    """
    server = server or OpcuaServer(id=endpoint, endpoint=endpoint)
    tags = [_tag(place, register.meters[place], server, speed) for place in register.opcua[endpoint]]
    for tag in tags:
        _split(tag)
    return tags


def _tag(place: int, meter: Meter, server: OpcuaServer, speed: float) -> Tag:
    own = meter.source.opcua
    assert own is not None
    sampling_ms = own.sampling_interval_ms or server.sampling_interval_ms
    # Of a periodic meter every reading counts, changed or not: a deadband of the server's is for the others.
    deadband = own.deadband or (server.deadband if meter.sampling == "on_change" else None)
    return Tag(
        place, meter.id, own.node_id, meter.interval_s / speed, None if sampling_ms is None else sampling_ms / speed,
        own.queue_size or server.queue_size, deadband, own.index, meter.unit, meter.span)


def resolve(tag: Tag, namespaces: Sequence[str]) -> ua.NodeId | None:
    """Return the tag's node id at a server with these namespace URIs; None if its namespace is not among them."""
    uri, node_id = _split(tag)
    if uri is None:
        return node_id
    if uri not in namespaces:
        return None
    return ua.NodeId(node_id.Identifier, ua.Int16(namespaces.index(uri)), node_id.NodeIdType)


def index_of(tag: Tag) -> int | None:
    """Return the index by which a node id names its namespace; None if it names it by URI."""
    uri, node_id = _split(tag)
    return int(node_id.NamespaceIndex) if uri is None else None


def needs_namespaces(tags: Sequence[Tag]) -> bool:
    """Whether any node id is in a namespace that a server may count differently one day."""
    return any(index_of(tag) != 0 for tag in tags)


def publishing_s(tags: Sequence[Tag]) -> float:
    """Return the publishing interval to ask for [wall s]: half the shortest interval, within limits."""
    shortest = min((tag.interval_s for tag in tags), default=math.inf)
    return min(LONGEST_PUBLISHING_S, max(SHORTEST_PUBLISHING_S, shortest / 2.0))


def queue_size(tag: Tag, publishing_s: float) -> int:
    """Return how many values the server must keep for a tag between two publishings, and while we are late."""
    if tag.queue is not None:
        return tag.queue
    held = max(HELD_S, 2.0 * publishing_s)
    return min(MOST_QUEUED, max(FEWEST_QUEUED, math.ceil(held / tag.interval_s)))


def sampling_ms(tag: Tag) -> float:
    """Return the sampling interval to ask for [ms]: half the instrument's, so that no reading is passed over."""
    return tag.interval_s * 1000.0 / 2.0 if tag.sampling_ms is None else tag.sampling_ms


def subscription_of(publishing_s: float, lifetime_s: float) -> ua.CreateSubscriptionParameters:
    """Return the request for a subscription that publishes at this interval, and is kept so long unasked [wall s]."""
    return ua.CreateSubscriptionParameters(
        RequestedPublishingInterval=publishing_s * 1000.0,
        RequestedLifetimeCount=math.ceil(max(lifetime_s, 3.0 * KEEP_ALIVE_S) / publishing_s),     # part 4, 5.13.2
        RequestedMaxKeepAliveCount=math.ceil(KEEP_ALIVE_S / publishing_s),
        MaxNotificationsPerPublish=0,       # no limit: a limit only splits what is sent anyway
        PublishingEnabled=True,
        Priority=0,
    )


def item_of(tag: Tag, node_id: ua.NodeId, handle: int, publishing_s: float) -> ua.MonitoredItemCreateRequest:
    """Return the request for a tag's monitored item, oldest value discarded first.

    Asked for is every change of status, value or time; with a deadband, of status, or of value beyond it.
    """
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(
            NodeId=node_id, AttributeId=ua.AttributeIds.Value,
            IndexRange=None if tag.index is None else ua.String(str(tag.index))),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=handle,
            SamplingInterval=sampling_ms(tag),
            Filter=_filter(tag.deadband),
            QueueSize=queue_size(tag, publishing_s),
            DiscardOldest=True,
        ),
    )


def _filter(deadband: Deadband | None) -> ua.DataChangeFilter:
    """Return what counts as a change; a deadband knows no trigger by time (part 4, 7.22.2)."""
    if deadband is None:
        return ua.DataChangeFilter(
            Trigger=ua.DataChangeTrigger.StatusValueTimestamp, DeadbandType=ua.DeadbandType.None_, DeadbandValue=0.0)
    absolute = deadband.absolute is not None
    return ua.DataChangeFilter(
        Trigger=ua.DataChangeTrigger.StatusValue,
        DeadbandType=ua.DeadbandType.Absolute if absolute else ua.DeadbandType.Percent,
        DeadbandValue=deadband.absolute or deadband.percent,
    )


def _split(tag: Tag) -> tuple[str | None, ua.NodeId]:
    """Return the namespace URI, if the node id has one, and the rest as a node id."""
    text, uri = tag.node_id, None
    if text.startswith(_URI_PREFIX):
        uri, _, text = text.removeprefix(_URI_PREFIX).partition(";")
        uri = uri.replace("%3B", ";").replace("%25", "%")       # OPC UA part 6, 5.1.12
    try:
        return uri, ua.NodeId.from_string(text)
    except UaError as error:
        raise InputError(f"meter {tag.meter!r}: node id {tag.node_id!r} is malformed: {error.args[0]}") from None
