"""What is asked of a server: node ids, queues, sampling, publishing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from asyncua import ua

from collector.opcua.tags import (
    Tag,
    item_of,
    needs_namespaces,
    publishing_s,
    queue_size,
    resolve,
    sampling_ms,
    subscription_of,
    tags_of,
)
from collector.register import register_of
from park.errors import InputError
from park.servers import Deadband, OpcuaServer
from tests.collector.running import opcua, park_of

URIS = ["http://opcfoundation.org/UA/", "urn:server", "urn:plant"]


def tag(node_id: str = "ns=2;s=FT1", interval_s: float = 1.0) -> Tag:
    return Tag(3, "FT1", node_id, interval_s)


@pytest.mark.parametrize(("text", "node_id"), [
    ("ns=2;s=a;b=c", ua.NodeId("a;b=c", 2)), ("i=85", ua.NodeId(85, 0)), ("nsu=urn:plant;s=FT 1", ua.NodeId("FT 1", 2)),
    ("nsu=urn:server;i=7", ua.NodeId(7, 1)),
    ("ns=1;b=AQI=", ua.NodeId(b"\1\2", 1)),
])
def test_node_ids_are_resolved_by_index_or_uri(text, node_id):
    assert resolve(tag(text), URIS) == node_id


def test_a_uri_may_hold_an_escaped_semicolon():
    assert resolve(tag("nsu=urn:a%3Bb;s=x"), ["", "urn:a;b"]) == ua.NodeId("x", 1)


def test_a_namespace_that_the_server_does_not_have_is_none():
    assert resolve(tag("nsu=urn:elsewhere;s=x"), URIS) is None


@pytest.mark.parametrize("text", ["FT1", "ns=2", "ns=x;s=a", "nsu=urn:plant", ""])
def test_a_malformed_node_id_is_refused_with_its_meter(text):
    with pytest.raises(InputError, match=r"meter 'FT1': node id .* is malformed"):
        tags_of(register_of(park_of(opcua("opc.tcp://h", "FT1", node_id=text))), "opc.tcp://h", 1.0)


def test_intervals_are_those_of_the_wall_clock():
    register = register_of(park_of(opcua("opc.tcp://h", "A", interval_s=5), opcua("opc.tcp://other", "B")))
    assert tags_of(register, "opc.tcp://h", 20.0) == [Tag(0, "A", "ns=2;s=A", 0.25, unit="t/h")]


@pytest.mark.parametrize(("interval_s", "publishing", "queue"), [
    (0.05, 0.1, 200), (0.25, 0.125, 40), (1.0, 0.5, 10), (60.0, 0.5, 10), (1e-4, 0.1, 10_000)])
def test_a_queue_lasts_for_ten_seconds_and_publishing_follows_the_fastest(interval_s, publishing, queue):
    slow = tag(interval_s=3600.0)
    assert publishing_s([slow, tag(interval_s=interval_s)]) == publishing
    assert queue_size(tag(interval_s=interval_s), publishing) == queue


def test_a_server_that_publishes_seldom_must_keep_more():
    assert queue_size(tag(interval_s=1.0), 30.0) == 60


def test_every_change_of_status_value_or_time_is_asked_for_oldest_discarded_first():
    item = item_of(tag(interval_s=0.5), ua.NodeId("x", 2), 7, 0.25)
    asked = item.RequestedParameters
    assert (asked.ClientHandle, asked.QueueSize, asked.DiscardOldest) == (7, 20, True)
    assert (asked.SamplingInterval, sampling_ms(tag(interval_s=0.5))) == (250.0, 250.0)
    assert asked.Filter.Trigger == ua.DataChangeTrigger.StatusValueTimestamp
    assert (asked.Filter.DeadbandType, asked.Filter.DeadbandValue) == (0, 0.0)


def test_a_subscription_outlives_a_pause_and_keeps_alive_in_between():
    wanted = subscription_of(0.1, 60.0)
    assert (wanted.RequestedPublishingInterval, wanted.RequestedMaxKeepAliveCount) == (100.0, 20)
    assert wanted.RequestedLifetimeCount >= 3 * wanted.RequestedMaxKeepAliveCount


def test_what_a_meter_leaves_out_is_its_servers():
    server = OpcuaServer(id="s", endpoint="opc.tcp://h", sampling_interval_ms=200, queue_size=7,
                         deadband=Deadband(percent=1))
    park = park_of(
        opcua("opc.tcp://h", "A", interval_s=5), opcua("opc.tcp://h", "B", interval_s=5, sampling="on_change"),
        opcua("opc.tcp://h", "C", interval_s=5, sampling="on_change", index=3, sampling_interval_ms=40, queue_size=9,
              deadband={"absolute": 2}))
    plain, changing, own = tags_of(register_of(park), "opc.tcp://h", 2.0, server)
    assert (plain.sampling_ms, plain.queue, plain.deadband, plain.index) == (100.0, 7, None, None)
    assert (changing.sampling_ms, changing.queue, changing.deadband) == (100.0, 7, Deadband(percent=1))
    assert (own.sampling_ms, own.queue, own.deadband, own.index) == (20.0, 9, Deadband(absolute=2), 3)


@pytest.mark.parametrize(("deadband", "kind", "value"), [
    (Deadband(absolute=0.5), ua.DeadbandType.Absolute, 0.5), (Deadband(percent=2), ua.DeadbandType.Percent, 2)])
def test_with_a_deadband_a_change_is_one_of_value_or_status(deadband, kind, value):
    item = item_of(replace(tag(), deadband=deadband, index=4, queue=3), ua.NodeId("x", 2), 7, 0.25)
    asked = item.RequestedParameters
    assert asked.Filter.Trigger == ua.DataChangeTrigger.StatusValue
    assert (asked.Filter.DeadbandType, asked.Filter.DeadbandValue) == (kind, value)
    assert (item.ItemToMonitor.IndexRange, asked.QueueSize) == ("4", 3)


def test_a_tag_asks_the_same_wherever_it_stands_and_whatever_it_means():
    assert tag().asks_as(replace(tag(), place=9, unit="kg/s", span=(0, 1)))
    assert not tag().asks_as(replace(tag(), index=1))


@pytest.mark.parametrize(("texts", "needed"), [
    (["i=85", "ns=0;i=2258"], False), (["i=85", "ns=2;s=a"], True), (["nsu=urn:plant;s=a"], True), ([], False)])
def test_a_server_is_asked_for_its_namespaces_where_they_may_change(texts, needed):
    assert needs_namespaces([tag(text) for text in texts]) is needed
