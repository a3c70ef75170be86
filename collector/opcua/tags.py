"""What is asked of an OPC UA server: the register of its tags, their node ids, sampling, queues and publishing.

Pure: node ids are resolved against the namespaces that the server gives at each connect, and sizes are worked out from
each meter's interval on the run's clock. The connection is in `opcua.client`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from asyncua import ua
from asyncua.ua.uaerrors import UaError

from collector.register import Register
from park.errors import InputError

SHORTEST_PUBLISHING_S = 0.1     # a server walks through its subscriptions this often at most
LONGEST_PUBLISHING_S = 0.5      # adds to the delay from instrument to store
HELD_S = 10.0                   # wall time that a server's queue covers while nothing is fetched
FEWEST_QUEUED = 10
MOST_QUEUED = 10_000            # asyncua's limit; other servers have lower ones, and say so
KEEP_ALIVE_S = 2.0              # a server with nothing to say says that this often
LIFETIME_S = 60.0               # a server keeps a subscription this long that nobody fetches
_URI_PREFIX = "nsu="


@dataclass(frozen=True)
class Tag:
    """One meter at a server.

    Attributes
    ----------
    place
        Number in the register; also the client handle of its monitored item.
    meter
        Id, for messages.
    node_id
        As configured, ``ns=2;s=...`` or ``nsu=URI;s=...``.
    interval_s
        Wall time from one reading to the next [s].
    """

    place: int
    meter: str
    node_id: str
    interval_s: float


def tags_of(register: Register, endpoint: str, speed: float) -> list[Tag]:
    """Return the tags of one endpoint (as configured), for a run at `speed` run seconds a wall second.

    Raises
    ------
    InputError
        If a node id is malformed.
    """
    tags = []
    for place in register.opcua[endpoint]:
        meter = register.meters[place]
        assert meter.source.opcua is not None
        tag = Tag(place, meter.id, meter.source.opcua.node_id, meter.interval_s / speed)
        _split(tag)
        tags.append(tag)
    return tags


def resolve(tag: Tag, namespaces: Sequence[str]) -> ua.NodeId | None:
    """Return the tag's node id at a server with these namespace URIs; None if its namespace is not among them."""
    uri, node_id = _split(tag)
    if uri is None:
        return node_id
    if uri not in namespaces:
        return None
    return ua.NodeId(node_id.Identifier, ua.Int16(namespaces.index(uri)), node_id.NodeIdType)


def needs_namespaces(tags: Sequence[Tag]) -> bool:
    """Whether any node id names its namespace by URI."""
    return any(tag.node_id.startswith(_URI_PREFIX) for tag in tags)


def publishing_s(tags: Sequence[Tag]) -> float:
    """Return the publishing interval to ask for [wall s]: half the shortest interval, within limits."""
    shortest = min(tag.interval_s for tag in tags)
    return min(LONGEST_PUBLISHING_S, max(SHORTEST_PUBLISHING_S, shortest / 2.0))


def queue_size(tag: Tag, publishing_s: float) -> int:
    """Return how many values the server must keep for a tag between two publishings, and while we are late."""
    held = max(HELD_S, 2.0 * publishing_s)
    return min(MOST_QUEUED, max(FEWEST_QUEUED, math.ceil(held / tag.interval_s)))


def sampling_ms(tag: Tag) -> float:
    """Return the sampling interval to ask for [ms]: half the instrument's, so that no reading is passed over."""
    return tag.interval_s * 1000.0 / 2.0


def subscription_of(publishing_s: float) -> ua.CreateSubscriptionParameters:
    """Return the request for a subscription that publishes at this interval [wall s]."""
    return ua.CreateSubscriptionParameters(
        RequestedPublishingInterval=publishing_s * 1000.0,
        RequestedLifetimeCount=math.ceil(LIFETIME_S / publishing_s),
        RequestedMaxKeepAliveCount=math.ceil(KEEP_ALIVE_S / publishing_s),
        MaxNotificationsPerPublish=0,       # no limit: a limit only splits what is sent anyway
        PublishingEnabled=True,
        Priority=0,
    )


def item_of(tag: Tag, node_id: ua.NodeId, publishing_s: float) -> ua.MonitoredItemCreateRequest:
    """Return the request for a tag's monitored item: every change of status, value or time, oldest discarded first."""
    trigger = ua.DataChangeFilter(
        Trigger=ua.DataChangeTrigger.StatusValueTimestamp,
        DeadbandType=ua.DeadbandType.None_,
        DeadbandValue=0.0,
    )
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=node_id, AttributeId=ua.AttributeIds.Value),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=tag.place,
            SamplingInterval=sampling_ms(tag),
            Filter=trigger,
            QueueSize=queue_size(tag, publishing_s),
            DiscardOldest=True,
        ),
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
