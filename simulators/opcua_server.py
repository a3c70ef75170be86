"""The OPC UA servers of a simulated park: one for each endpoint that park.yaml names.

    Objects / <participant> / <node or stream> / <meter>     AnalogItemType: EngineeringUnits, EURange
                                                             node id exactly as in park.yaml

Here: the address space, and the way of a reading into it. Not here: when readings are due (`simulators.serve`).
The main path enters at `OpcuaServer.write`, once a tick.

Limits, of asyncua 2.1 (each is held by a test in tests/services/test_opcua_server.py):

- A subscription queues every value that is written; nothing is merged between two publishing instants. A queue is
  as long as the client asks, at most 10,000 (asked 0: 10,000), and is told as revised. When it is full the oldest
  value is dropped **without** the overflow bit, whatever `discardOldest` says.
- What a client has not acknowledged is held, 5,000 messages a subscription at most. When the client has gone, its
  subscriptions queue on until the session's time-out; it finds them again by TransferSubscriptions.
- With a bad status the value is nulled, as Part 4, 7.7.1 asks. The server's own time is the run's clock.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Self, cast
from urllib.parse import urlsplit

import numpy as np
from asyncua import Server, ua
from asyncua.server.address_space import AddressSpace, AttributeValue, NodeData
from asyncua.server.internal_server import InternalServer
from asyncua.server.subscription_service import SubscriptionService
from numpy.typing import NDArray

from park.errors import InputError, OperationError
from park.model import Meter, Park
from simulators.engineering_units import engineering_units
from simulators.instruments import Readings
from simulators.record import moment

NAMESPACE = "urn:symbiosis:simulator"
DEFAULT_PORT = 4840                       # IANA: opcua-tcp
NO_STATUS_YET = ua.StatusCode(ua.UInt32(ua.StatusCodes.BadWaitingForInitialData))
VALUE = ua.AttributeIds.Value

logging.getLogger("asyncua.server").setLevel(logging.ERROR)
for chatty in ("server", "uaprocessor"):  # each client that leaves, and each port in use, is told by us or is no error
    logging.getLogger(f"asyncua.server.{chatty}").setLevel(logging.CRITICAL)


class Reading(ua.DataValue):
    """A value as it is handed on: never changed, so never copied.

    asyncua copies each value for each subscription, with `copy.deepcopy`: three quarters of the cost of a write.
    """

    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class StandardNodes:
    """The nodes that every OPC UA server has, built once for all servers of a process: it takes a second."""

    _built: ClassVar[StandardNodes | None] = None

    def __init__(self, space: AddressSpace) -> None:
        self._nodes = {nodeid: space[nodeid] for nodeid in list(space.keys())}

    @classmethod
    async def build(cls) -> StandardNodes:
        """Build them, the first time."""
        if cls._built is None:
            server = InternalServer()
            await server.load_standard_address_space()
            cls._built = cls(server.aspace)
        return cls._built

    def copy_into(self, space: AddressSpace) -> None:
        """Give `space` nodes of its own; what never changes (values, descriptions of references) is shared."""
        for nodeid, node in self._nodes.items():
            copy = NodeData(nodeid)
            copy.attributes = {attribute: AttributeValue(held.value) for attribute, held in node.attributes.items()
                               if held.value is not None}
            copy.references = list(node.references)
            space[nodeid] = copy


class _Subscriptions(SubscriptionService):
    """asyncua's subscriptions, with publish requests that move along when a subscription is transferred.

    asyncua 2.1 leaves a transferred subscription with the publish requests of its lost connection: it stays silent.
    """

    async def transfer_subscriptions(
        self, params: ua.TransferSubscriptionsParameters, session_id: ua.NodeId, callback: Callable[..., Any]
    ) -> list[ua.TransferResult]:
        """Move subscriptions to the connection whose `callback` sends the publish responses."""
        results = await super().transfer_subscriptions(params, session_id, callback)
        processor: Any = callback.__self__            # type: ignore[attr-defined]  # a UaProcessor's bound method
        for number in params.SubscriptionIds:
            if subscription := self.subscriptions.get(int(number)):
                subscription.pub_request_callback = processor.get_publish_request
        return results


class _InternalServer(InternalServer):
    """asyncua's server on a copy of the standard nodes."""

    def __init__(self, standard: StandardNodes) -> None:
        super().__init__()
        self._standard = standard
        self.allow_remote_admin = False
        self.subscription_service = _Subscriptions(self.aspace, iserver=self)

    async def load_standard_address_space(self, shelf_file: object = None) -> None:
        """Take the nodes that were built before."""
        self._standard.copy_into(self.aspace)


@dataclass(frozen=True)
class Pending:
    """What a server still holds for its subscribers.

    Attributes
    ----------
    queued
        Values in queues of monitored items.
    unacknowledged
        Messages on the way to a subscriber that is there.
    abandoned
        Values and messages for subscribers that have gone.
    """

    queued: int = 0
    unacknowledged: int = 0
    abandoned: int = 0

    def __add__(self, other: Pending) -> Pending:
        return Pending(self.queued + other.queued, self.unacknowledged + other.unacknowledged,
                       self.abandoned + other.abandoned)

    @property
    def delivered(self) -> bool:
        """Whether everything has reached the subscribers that are there."""
        return not (self.queued or self.unacknowledged)


class OpcuaServer:
    """One OPC UA server, with the meters of one endpoint.

    Parameters
    ----------
    url
        Where it listens, `opc.tcp://host:port/path`; port 0 takes a free one.
    park
        The park.
    positions
        Its meters' positions in `park.meters`.
    standard
        The standard nodes.
    now
        The run's clock [s since 1970 UTC].
    """

    def __init__(
        self, url: str, park: Park, positions: Sequence[int], standard: StandardNodes, now: Callable[[], float]
    ) -> None:
        self._url = url
        self._park = park
        self._now = now
        self._positions = tuple(positions)
        self.mask: NDArray[np.bool_] = np.zeros(len(park.meters), dtype=np.bool_)
        self.mask[list(positions)] = True
        self._server = Server(iserver=_InternalServer(standard))
        self._nodes: dict[int, ua.NodeId] = {}
        self._good: dict[int, ua.StatusCode] = {}

    @property
    def url(self) -> str:
        """Where it listens, with the port that it took."""
        parts = urlsplit(self._url)
        port = self._server.bserver.port if self._server.bserver else parts.port or DEFAULT_PORT
        return parts._replace(netloc=f"{parts.hostname}:{port}").geturl()

    async def start(self, ranges: Mapping[int, tuple[float, float]]) -> None:
        """Build the address space and listen.

        Parameters
        ----------
        ranges
            EURange of each meter, by its position in `park.meters` [unit of the meter].

        Raises
        ------
        InputError
            If two meters have the same node, or one that every OPC UA server has.
        OperationError
            If it cannot listen there.
        """
        parts = urlsplit(self._url)
        host, port = parts.hostname or "127.0.0.1", DEFAULT_PORT if parts.port is None else parts.port
        server = self._server
        server.set_endpoint(self._url)
        server.socket_address = (host, port)
        server.set_server_name(f"{self._park.park.name}: simulated instruments")
        server._application_uri = f"{NAMESPACE}:{host}:{port}"        # before init, which writes it
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.set_identity_tokens([ua.AnonymousIdentityToken])
        server.disable_clock()                                         # the machine's; the run's is put in below
        await server.init()
        await _Builder(server, self._park, self._nodes).build(self._positions, ranges)
        try:
            await server.start()
        except OSError as error:
            raise OperationError(f"cannot listen on {self._url}: {error.strerror or error}") from error
        self._tell_time()

    async def write(self, readings: Readings) -> None:
        """Put readings of this server's meters into their nodes and so into every subscription's queue."""
        when = cast(ua.DateTime, moment(readings.time_us))
        write = self._server.iserver.aspace.write_attribute_value
        rows = zip(readings.index.tolist(), readings.values.tolist(), readings.statuses.tolist(), strict=True)
        for position, value, status in rows:
            number = None if math.isnan(value) else value
            variant = ua.Variant(number, ua.VariantType.Null if number is None else ua.VariantType.Double)
            result = await write(self._nodes[position], VALUE, Reading(variant, self._status(status), when, when))
            result.check()

    def pending(self) -> Pending:
        """Return what is still held for subscribers.

        asyncua tells this nowhere, so it is read from the subscriptions' own queues.
        """
        service = self._server.iserver.subscription_service
        present = self._sessions()
        total = Pending()
        for subscription in service.subscriptions.values():
            queued = sum(map(len, subscription._triggered_datachanges.values()))
            sent = len(subscription._not_acknowledged_results)
            here = subscription.session_id in present
            total += Pending(queued, sent) if here else Pending(abandoned=queued + sent)
        return total

    async def stop(self) -> None:
        """Close all connections and stop listening; returns when the sockets are closed, which asyncua leaves open."""
        connections = list(self._server.iserver.asyncio_transports)
        await self._server.stop()
        for connection in connections:
            connection.abort()               # one whose client reads no more would wait for ever to send its rest
        await asyncio.sleep(0)               # asyncio closes a socket one turn of the loop after its connection
        if self._server.bserver is not None:
            await asyncio.gather(*self._server.bserver.closing_tasks, return_exceptions=True)

    def _sessions(self) -> set[ua.NodeId]:
        """Return the sessions whose client is connected."""
        clients = self._server.bserver.clients if self._server.bserver else []
        processors = (client.processor for client in clients if client.processor is not None)
        return {processor.session.session_id for processor in processors if processor.session is not None}

    def _status(self, code: int) -> ua.StatusCode:
        """Return the status code, made once."""
        if code not in self._good:
            self._good[code] = ua.StatusCode(ua.UInt32(code))
        return self._good[code]

    def _tell_time(self) -> None:
        """Let the server's CurrentTime be that of the run."""
        def current_time(nodeid: ua.NodeId, attribute: ua.AttributeIds) -> ua.DataValue:
            now = cast(ua.DateTime, datetime.fromtimestamp(self._now(), UTC))
            return ua.DataValue(ua.Variant(now, ua.VariantType.DateTime), SourceTimestamp=now)

        node = ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus_CurrentTime))
        self._server.set_attribute_value_callback(node, current_time)


class _Builder:
    """Builds the tree of one server and notes the node of each meter."""

    def __init__(self, server: Server, park: Park, nodes: dict[int, ua.NodeId]) -> None:
        self._session = server.iserver.isession
        self._server = server
        self._park = park
        self._nodes = nodes
        self._folders: dict[str, ua.NodeId] = {}
        self._own = 0
        self._uris: list[str] = []

    async def build(self, positions: Sequence[int], ranges: Mapping[int, tuple[float, float]]) -> None:
        """Add every meter; raises `InputError` with all clashes at once."""
        meters = {position: self._park.meters[position] for position in positions}
        self._uris = namespaces((m.source.opcua.node_id for m in meters.values() if m.source.opcua), (
            await self._server.get_namespace_array())[1])
        for uri in self._uris[2:]:
            await self._server.register_namespace(uri)
        self._own = len(self._uris) - 1
        clashes = []
        for position, meter in meters.items():
            if not await self._add_meter(position, meter, ranges[position]):
                clashes.append(f"meter {meter.id!r}: node {_address(meter)!r} is already taken at this endpoint")
        if clashes:
            raise InputError("\n".join(clashes))

    async def _add_meter(self, position: int, meter: Meter, span: tuple[float, float]) -> bool:
        """Add the variable of a meter with its properties; False if its node id is taken."""
        nodeid = node_id(_address(meter), self._uris)
        parent = await self._parent(meter)
        item = _item(parent, nodeid, ua.QualifiedName(meter.id, ua.Int16(self._own)), ua.ObjectIds.HasComponent)
        item.NodeClass = ua.NodeClass.Variable
        item.TypeDefinition = ua.NodeId(ua.Int32(ua.ObjectIds.AnalogItemType))
        item.NodeAttributes = _variable(meter.id, f"{meter.quantity} [{meter.unit}]", ua.ObjectIds.Double,
                                        ua.Variant(0.0, ua.VariantType.Double), meter.interval_s * 1000.0)
        result = (await self._session.add_nodes([item]))[0]
        if not result.StatusCode.is_good():
            return False
        await self._server.iserver.aspace.write_attribute_value(nodeid, VALUE, ua.DataValue(
            ua.Variant(None, ua.VariantType.Null), NO_STATUS_YET))
        await self._add_property(nodeid, meter, "EURange", ua.ObjectIds.Range, ua.Range(*map(ua.Double, span)))
        await self._add_property(
            nodeid, meter, "EngineeringUnits", ua.ObjectIds.EUInformation, engineering_units(meter.unit))
        self._nodes[position] = nodeid
        return True

    async def _add_property(self, parent: ua.NodeId, meter: Meter, name: str, datatype: int, value: object) -> None:
        nodeid = ua.NodeId(ua.String(f"{meter.id}/{name}"), ua.Int16(self._own))
        item = _item(parent, nodeid, ua.QualifiedName(name, ua.Int16(0)), ua.ObjectIds.HasProperty)
        item.NodeClass = ua.NodeClass.Variable
        item.TypeDefinition = ua.NodeId(ua.Int32(ua.ObjectIds.PropertyType))
        item.NodeAttributes = _variable(name, name, datatype, ua.Variant(value, ua.VariantType.ExtensionObject), 0.0)
        (await self._session.add_nodes([item]))[0].StatusCode.check()

    async def _parent(self, meter: Meter) -> ua.NodeId:
        """Return the object of the meter's node or streams, below its participant."""
        owner = self._park.owner(meter)
        name = {p.id: p.name for p in self._park.participants}.get(owner, owner)
        participant = await self._folder(ua.NodeId(ua.Int32(ua.ObjectIds.ObjectsFolder)), owner, owner, name)
        place = meter.node or " ".join(meter.signed_streams)
        return await self._folder(participant, f"{owner}/{place}", place, place)

    async def _folder(self, parent: ua.NodeId, key: str, browse: str, display: str) -> ua.NodeId:
        """Return the folder with this key, made if need be."""
        if key not in self._folders:
            nodeid = ua.NodeId(ua.String(key), ua.Int16(self._own))
            item = _item(parent, nodeid, ua.QualifiedName(browse, ua.Int16(self._own)), ua.ObjectIds.Organizes)
            item.NodeClass = ua.NodeClass.Object
            item.TypeDefinition = ua.NodeId(ua.Int32(ua.ObjectIds.FolderType))
            item.NodeAttributes = ua.ObjectAttributes(
                DisplayName=ua.LocalizedText(display), Description=ua.LocalizedText(display))
            (await self._session.add_nodes([item]))[0].StatusCode.check()
            self._folders[key] = nodeid
        return self._folders[key]


def _address(meter: Meter) -> str:
    """Return the node id that park.yaml gives the meter."""
    if meter.source.opcua is None:
        raise ValueError(f"meter {meter.id!r} is not read over OPC UA")
    return meter.source.opcua.node_id


def _item(parent: ua.NodeId, nodeid: ua.NodeId, name: ua.QualifiedName, reference: int) -> ua.AddNodesItem:
    """Return the request for a node below `parent`."""
    item = ua.AddNodesItem()
    item.RequestedNewNodeId = nodeid
    item.BrowseName = name
    item.ParentNodeId = parent
    item.ReferenceTypeId = ua.NodeId(ua.Int32(reference))
    return item


def _variable(name: str, text: str, datatype: int, value: ua.Variant, sampling_ms: float) -> ua.VariableAttributes:
    """Return the attributes of a scalar that clients may read and not write."""
    attributes = ua.VariableAttributes()
    attributes.DisplayName = ua.LocalizedText(name)
    attributes.Description = ua.LocalizedText(text)
    attributes.DataType = ua.NodeId(ua.Int32(datatype))
    attributes.Value = value
    attributes.ValueRank = ua.ValueRank.Scalar
    attributes.MinimumSamplingInterval = sampling_ms
    attributes.AccessLevel = attributes.UserAccessLevel = ua.AccessLevel.CurrentRead.mask
    return attributes


def namespaces(addresses: Iterable[str], application: str) -> list[str]:
    """Return the namespace array that makes all node ids of an endpoint valid.

    Indexes that are used as numbers get a namespace each; URIs come after them; the server's own nodes last.

    Parameters
    ----------
    addresses
        Node ids as park.yaml writes them.
    application
        URI of the server, always index 1.
    """
    parsed = [ua.NodeId.from_string(address) for address in addresses]
    uris = [p.NamespaceUri for p in parsed if isinstance(p, ua.ExpandedNodeId) and p.NamespaceUri]
    highest = max((p.NamespaceIndex for p in parsed), default=1)
    numbered = [f"{NAMESPACE}:{number}" for number in range(2, highest + 1)]
    array = ["http://opcfoundation.org/UA/", application, *numbered]
    return [*array, *(uri for uri in dict.fromkeys(uris) if uri not in array), f"{NAMESPACE}:tree"]


def node_id(address: str, uris: Sequence[str]) -> ua.NodeId:
    """Return a node id as park.yaml writes it (`ns=2;s=...`, `nsu=URI;s=...`, `ns=2;i=...`) in a namespace array."""
    parsed = ua.NodeId.from_string(address)
    if isinstance(parsed, ua.ExpandedNodeId) and parsed.NamespaceUri:
        return ua.NodeId(parsed.Identifier, ua.Int16(uris.index(parsed.NamespaceUri)), parsed.NodeIdType)
    return parsed
