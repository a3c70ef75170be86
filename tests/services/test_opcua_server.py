"""The simulated OPC UA servers as a real client sees them, and the limits of asyncua that we lean on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import numpy as np
import pytest
from asyncua import Client, Node, ua

from park.errors import InputError, OperationError
from park.model import Park
from simulators.instruments import Readings
from simulators.opcua_server import OpcuaServer, StandardNodes, namespaces, node_id
from tests.simulators.parks import OPCUA, meter, park_of, until

SECOND = 1_000_000
START = 1_800_000_000 * SECOND


def at(address: str) -> dict[str, object]:
    return {"opcua": {"endpoint": OPCUA, "node_id": address}}


PARK = park_of([
    meter("FT1", source=at("ns=2;s=alpha.FT1;x=1"), span=[0, 60]),
    meter("TT1", source=at("nsu=http://vendor/plc;s=TT 1"), side="receiver", quantity="temperature", unit="degC",
          u95_absolute=0.5),
    meter("PT1", source=at("ns=2;i=1001"), quantity="pressure", unit="barg", u95_absolute=0.1),
    meter("FQ1", source=at("ns=4;i=7"), quantity="mass_total", unit="t", counter={"modulus": 1e6, "resolution": 0.1}),
    meter("LT1", source=at("ns=2;s=LT1"), stream=None, side=None, node="beta.vat", quantity="inventory", unit="t"),
])
RANGES = {0: (0.0, 60.0), 1: (0.0, 200.0), 2: (0.0, 20.0), 3: (0.0, 1e6), 4: (0.0, 500.0)}


@pytest.fixture(scope="module")
def standard() -> StandardNodes:
    return asyncio.run(StandardNodes.build())


@asynccontextmanager
async def serving(standard: StandardNodes, park: Park = PARK, url: str = "opc.tcp://127.0.0.1:0/park",
                  now: float = 1_800_000_000.0) -> AsyncIterator[OpcuaServer]:
    server = OpcuaServer(url, park, range(len(park.meters)), standard, lambda: now)
    await server.start(RANGES)
    yield server
    await server.stop()


@asynccontextmanager
async def connected(server: OpcuaServer) -> AsyncIterator[Client]:
    async with Client(server.url) as client:
        yield client


def readings(step: int, values: Sequence[float], status: int = 0) -> Readings:
    n = len(values)
    return Readings(START + step * SECOND, np.arange(n), np.array(values), np.full(n, status, dtype=np.uint32))


class Heard:
    """Collects what a subscription brings."""

    def __init__(self) -> None:
        self.values: list[ua.DataValue] = []
        self.news = asyncio.Event()

    def datachange_notification(self, node: Node, value: object, data: object) -> None:
        self.values.append(data.monitored_item.Value)       # type: ignore[attr-defined]
        self.news.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.values) < count:
                self.news.clear()
                await self.news.wait()


async def subscribe(client: Client, address: str, *, period_ms: float = 50, queue: int = 1000) -> Heard:
    heard = Heard()
    subscription = await client.create_subscription(period_ms, heard)
    await subscription.subscribe_data_change(client.get_node(address), queuesize=queue)
    return heard


async def test_tree_is_participant_place_meter(standard: StandardNodes):
    async with serving(standard) as server, connected(server) as client:
        tree = {}
        for participant in await client.nodes.objects.get_children():
            name = (await participant.read_browse_name()).Name
            if name in ("alpha", "beta"):
                tree[name, (await participant.read_display_name()).Text] = {
                    (await place.read_browse_name()).Name: sorted(
                        [(await m.read_browse_name()).Name for m in await place.get_children()])
                    for place in await participant.get_children()}
        assert tree == {("alpha", "Alpha"): {"S1": ["FQ1", "FT1", "PT1"]},
                        ("beta", "Beta ø"): {"S1": ["TT1"], "beta.vat": ["LT1"]}}


async def test_nodes_have_the_ids_of_the_park_and_tell_units_and_ranges(standard: StandardNodes):
    async with serving(standard) as server, connected(server) as client:
        vendor = await client.get_namespace_index("http://vendor/plc")
        expected = {"ns=2;s=alpha.FT1;x=1": ("t/h", 4534584, 60.0), f"ns={vendor};s=TT 1": ("degC", 4408652, 200.0),
                    "ns=2;i=1001": ("barg", -1, 20.0), "ns=4;i=7": ("t", 5525061, 1e6),
                    "ns=2;s=LT1": ("t", 5525061, 500.0)}
        for address, (unit, code, high) in expected.items():
            node = client.get_node(address)
            assert (await node.read_type_definition()).Identifier == ua.ObjectIds.AnalogItemType
            assert (await node.read_data_type()).Identifier == ua.ObjectIds.Double
            units = await (await node.get_child("0:EngineeringUnits")).read_value()
            span = await (await node.get_child("0:EURange")).read_value()
            assert (units.DisplayName.Text, units.UnitId) == (unit, code)
            assert units.NamespaceUri == "http://www.opcfoundation.org/UA/units/un/cefact"
            assert (span.Low, span.High) == (0.0, high)


async def test_before_the_first_reading_a_meter_waits_for_initial_data(standard: StandardNodes):
    async with serving(standard) as server, connected(server) as client:
        value = await client.get_node("ns=2;s=LT1").read_data_value(raise_on_bad_status=False)
        assert value.StatusCode.value == ua.StatusCodes.BadWaitingForInitialData
        assert value.Value.Value is None
        heard = await subscribe(client, "ns=2;s=LT1")
        await server.write(readings(0, [1, 2, 3, 4, 5.5]))
        await heard.wait_for(2)
        assert heard.values[0].StatusCode.value == ua.StatusCodes.BadWaitingForInitialData
        assert heard.values[1].Value.Value == 5.5


async def test_readings_carry_source_time_and_status(standard: StandardNodes):
    async with serving(standard) as server, connected(server) as client:
        node = client.get_node("ns=2;s=alpha.FT1;x=1")
        await server.write(Readings(START + 123_457, np.array([0]), np.array([0.1 + 0.2]),
                                    np.array([0x40000000], dtype=np.uint32)))
        value = await node.read_data_value(raise_on_bad_status=False)
        assert value.Value.Value == 0.1 + 0.2
        assert value.SourceTimestamp == datetime(2027, 1, 15, 8, 0, 0, 123_457, tzinfo=UTC)
        assert value.StatusCode.value == 0x40000000
        await server.write(readings(1, [float("nan")], status=0x80320000))
        value = await node.read_data_value(raise_on_bad_status=False)
        assert value.StatusCode.value == 0x80320000
        assert value.Value.Value is None


async def test_a_client_may_not_write(standard: StandardNodes):
    async with serving(standard) as server, connected(server) as client:
        with pytest.raises(ua.UaStatusCodeError, match="BadUserAccessDenied"):
            await client.get_node("ns=2;s=LT1").write_value(1.0)


async def test_the_server_tells_the_time_of_the_run(standard: StandardNodes):
    async with serving(standard) as server, connected(server) as client:
        node = client.get_node(ua.ObjectIds.Server_ServerStatus_CurrentTime)
        assert await node.read_value() == datetime(2027, 1, 15, 8, tzinfo=UTC)


async def test_two_servers_of_one_process_share_no_node(standard: StandardNodes):
    async with serving(standard) as one, serving(standard) as two, connected(two) as client:
        assert one.url != two.url
        await one.write(readings(0, [1, 2, 3, 4, 5]))
        value = await client.get_node("ns=2;s=LT1").read_data_value(raise_on_bad_status=False)
        assert value.Value.Value is None
        objects = [(await n.read_browse_name()).Name for n in await client.nodes.objects.get_children()]
        assert objects.count("alpha") == 1


async def test_a_node_that_is_taken_is_told_with_its_meter(standard: StandardNodes):
    park = park_of([meter("FT1", source=at("ns=2;s=x")), meter("FT2", source=at("ns=2;s=x")),
                    meter("FT3", source=at("i=85"))])
    server = OpcuaServer("opc.tcp://127.0.0.1:0", park, range(3), standard, lambda: 0.0)
    with pytest.raises(InputError, match=r"(?s)meter 'FT2': node 'ns=2;s=x' is already.*meter 'FT3': node 'i=85'"):
        await server.start(dict.fromkeys(range(3), (0.0, 1.0)))
    await server.stop()


async def test_a_port_that_is_taken_is_told(standard: StandardNodes):
    async with serving(standard) as server:
        second = OpcuaServer(server.url, PARK, range(5), standard, lambda: 0.0)
        with pytest.raises(OperationError, match=r"cannot listen on opc.tcp://127.0.0.1:\d+"):
            await second.start(RANGES)
        await second.stop()


def test_namespaces_make_all_ids_of_an_endpoint_valid():
    uris = namespaces(["ns=4;s=a", "nsu=urn:b;s=b", "ns=1;i=3", "nsu=urn:b;i=9"], "urn:app")
    assert (len(uris), uris[1], uris[5]) == (7, "urn:app", "urn:b")
    assert len(set(uris)) == 7
    assert node_id("nsu=urn:b;s=b;c", uris) == ua.NodeId("b;c", 5)
    assert node_id("ns=4;s=a", uris) == ua.NodeId("a", 4)


# What asyncua's subscriptions do, that the module's docstring states


async def test_a_subscription_queues_every_value_between_two_publishing_instants(standard: StandardNodes):
    async with serving(standard) as server, connected(server) as client:
        heard = await subscribe(client, "ns=2;s=LT1", period_ms=500)
        await heard.wait_for(1)
        for step in range(200):
            await server.write(readings(step, [0, 0, 0, 0, 7.0 if step % 2 else float(step)]))
        await heard.wait_for(201)
        assert [(v.SourceTimestamp.timestamp() - START / SECOND) for v in heard.values[1:]] == list(range(200))


async def test_equal_values_come_only_to_a_filter_on_timestamps(standard: StandardNodes):
    async with serving(standard) as server, connected(server) as client:
        heard = {}
        for trigger in (ua.DataChangeTrigger.StatusValue, ua.DataChangeTrigger.StatusValueTimestamp):
            heard[trigger] = Heard()
            subscription = await client.create_subscription(20, heard[trigger])
            await subscription.create_monitored_items([ua.MonitoredItemCreateRequest(
                ItemToMonitor=ua.ReadValueId(NodeId=client.get_node("ns=2;s=LT1").nodeid,
                                             AttributeId=ua.AttributeIds.Value),
                MonitoringMode=ua.MonitoringMode.Reporting,
                RequestedParameters=ua.MonitoringParameters(
                    ClientHandle=1, QueueSize=100, Filter=ua.DataChangeFilter(Trigger=trigger)))])
        for step in range(10):
            await server.write(readings(step, [0, 0, 0, 0, 3.25]))
        await heard[ua.DataChangeTrigger.StatusValueTimestamp].wait_for(11)
        assert len(heard[ua.DataChangeTrigger.StatusValue].values) <= 2


async def test_a_full_queue_drops_the_oldest_and_does_not_say_so(standard: StandardNodes):
    async with serving(standard) as server, connected(server) as client:
        heard = await subscribe(client, "ns=2;s=LT1", period_ms=500, queue=5)
        await heard.wait_for(1)
        for step in range(20):
            await server.write(readings(step, [0, 0, 0, 0, float(step)]))
        await heard.wait_for(6)
        assert [v.Value.Value for v in heard.values[1:]] == [15, 16, 17, 18, 19]
        assert {v.StatusCode.value for v in heard.values[1:]} == {0}         # no overflow bit 0x480


async def test_queues_are_revised_to_ten_thousand_at_most(standard: StandardNodes):
    async with serving(standard) as server, connected(server) as client:
        subscription = await client.create_subscription(1000, Heard())
        asked = [ua.MonitoredItemCreateRequest(
            ItemToMonitor=ua.ReadValueId(
                NodeId=client.get_node("ns=2;s=LT1").nodeid, AttributeId=ua.AttributeIds.Value),
            MonitoringMode=ua.MonitoringMode.Reporting,
            RequestedParameters=ua.MonitoringParameters(ClientHandle=i, QueueSize=size))
            for i, size in enumerate((0, 50, 20_000))]
        params = ua.CreateMonitoredItemsParameters(subscription.subscription_id, ua.TimestampsToReturn.Both, asked)
        results = await client.uaclient.create_monitored_items(params)
        assert [r.RevisedQueueSize for r in results] == [10_000, 50, 10_000]


async def test_pending_tells_what_is_queued_and_what_has_no_taker(standard: StandardNodes):
    async with serving(standard) as server:
        async with connected(server) as client:
            heard = await subscribe(client, "ns=2;s=LT1", period_ms=300)
            await heard.wait_for(1)
            await server.write(readings(0, [0, 0, 0, 0, 1.0]))
            assert server.pending().queued == 1
            assert not server.pending().delivered
            await heard.wait_for(2)
            await until(lambda: server.pending().delivered)
        assert server.pending().delivered


@asynccontextmanager
async def vanished(server: OpcuaServer) -> AsyncIterator[int]:
    """A client subscribed, and then its cable was pulled; gives its subscription's number."""
    client = Client(server.url)
    await client.connect()
    heard = Heard()
    subscription = await client.create_subscription(100, heard)
    await subscription.subscribe_data_change(client.get_node("ns=2;s=LT1"), queuesize=1000)
    await heard.wait_for(1)
    client.uaclient.protocol.transport.abort()
    await until(lambda: not server._sessions())
    yield subscription.subscription_id
    await client.disconnect()


async def test_a_subscriber_that_vanished_is_not_waited_for(standard: StandardNodes):
    async with serving(standard) as server, vanished(server):
        await server.write(readings(0, [0, 0, 0, 0, 1.0]))
        pending = server.pending()
        assert pending.delivered
        assert pending.abandoned >= 1


async def test_a_transferred_subscription_brings_what_was_queued_meanwhile(standard: StandardNodes):
    async with serving(standard) as server, vanished(server) as number:
        for step in range(30):
            await server.write(readings(step, [0, 0, 0, 0, float(step)]))
        async with connected(server) as client:
            params = ua.TransferSubscriptionsParameters([number], SendInitialValues=False)
            (result,) = await client.uaclient.transfer_subscriptions(params)
            result.StatusCode.check()
            async with asyncio.timeout(5):
                response = await client.uaclient.session.publish([])
        (notification,) = response.Parameters.NotificationMessage.NotificationData
        assert [item.Value.Value.Value for item in notification.MonitoredItems] == list(range(30))
