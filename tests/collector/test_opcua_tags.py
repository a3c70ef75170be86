"""What is asked of a server: node ids, queues, sampling, publishing."""

from __future__ import annotations

import pytest
from asyncua import ua

from collector.opcua.tags import (
    Tag,
    item_of,
    publishing_s,
    queue_size,
    resolve,
    sampling_ms,
    subscription_of,
    tags_of,
)
from collector.register import register_of
from park.errors import InputError
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
    assert tags_of(register, "opc.tcp://h", 20.0) == [Tag(0, "A", "ns=2;s=A", 0.25)]


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
    wanted = subscription_of(0.1)
    assert (wanted.RequestedPublishingInterval, wanted.RequestedMaxKeepAliveCount) == (100.0, 20)
    assert wanted.RequestedLifetimeCount >= 3 * wanted.RequestedMaxKeepAliveCount
