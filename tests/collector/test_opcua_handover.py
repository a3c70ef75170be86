"""What a collector leaves at a server for the next one: the files."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from asyncua import ua

from collector.opcua.handover import FOLDER, NOWHERE, Handover, Keeping, Left, Owner
from collector.opcua.session import Former
from collector.opcua.subscribing import Item, Subscription
from collector.opcua.tags import Tag
from park.servers import Deadband
from tests.collector.sourcing import Sourcing, tag

OWNER = Owner("opcua:opc.tcp://h", "opc.tcp://h", 0, 0)
BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)
TAGS = [Tag(3, "A", "ns=2;s=A", 0.5, 20.0, 7, Deadband(absolute=2.0), 1, "t/h", (0.0, 1.0)), Tag(4, "B", "i=9", 1.0)]
NODES = [ua.NodeId("A", ua.Int16(2)), ua.NodeId(ua.Int32(9))]


def left(number=77, token=None):
    items = {tag.meter: Item(tag, node, handle, handle + 100)
             for handle, (tag, node) in enumerate(zip(TAGS, NODES, strict=True), 5)}
    policy = ua.UserTokenPolicy(PolicyId="name", TokenType=ua.UserTokenType.UserName)
    former = Former(token or ua.NodeId(b"secret", ua.Int16(1), ua.NodeIdType.ByteString), b"nonce", [policy])
    return Left(former, BEGAN, Subscription(number, 0.25, items=items), frozenset({5}))


def written(folder, what, durable_to=None, *, settled=True, owner=OWNER):
    handover = Handover(folder, owner)
    asyncio.run(handover.write(what))
    if durable_to is not None:
        what.subscription.receipts.durable(durable_to)
        handover.note(what.subscription, settled=settled)
    handover.close()
    return handover


def test_what_was_left_is_read_whole_but_for_the_places(tmp_path):
    written(tmp_path, left(), 12)
    read, position = Handover(tmp_path, OWNER).read()
    assert (read.former, read.began, read.wholes) == (left().former, BEGAN, {5})
    assert (read.subscription.id, read.subscription.asked_s) == (77, 0.25)
    items = read.subscription.items
    assert [(item.tag.place, item.node, item.handle, item.number) for item in items.values()] == [
        (NOWHERE, NODES[0], 5, 105), (NOWHERE, NODES[1], 6, 106)]
    assert all(items[tag.meter].tag.asks_as(tag) for tag in TAGS)
    assert not items["A"].tag.asks_as(replace(TAGS[0], deadband=None))
    assert (position.durable_to, position.settled) == (12, True)
    assert 0.0 <= position.asked_s < 60.0


def test_only_its_owner_can_read_the_token(tmp_path):
    written(tmp_path, left(), 1)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / FOLDER).iterdir()} == {0o600}


def test_a_position_of_another_subscription_says_that_nothing_is_durable(tmp_path):
    written(tmp_path, left(), 12)
    written(tmp_path, left(78))
    _, position = Handover(tmp_path, OWNER).read()
    assert position.durable_to == 0


def test_while_nothing_is_published_the_time_stands_still(tmp_path):
    what = left()
    what.subscription.paused_at = time.monotonic() - 100.0
    written(tmp_path, what, 3, settled=False)
    _, position = Handover(tmp_path, OWNER).read()
    assert 100.0 <= position.asked_s < 160.0
    assert not position.settled


@pytest.mark.parametrize("other", [
    {"source": "opcua:opc.tcp://g"}, {"url": "opc.tcp://g"}, {"run_us": 1}, {"session": 1}])
def test_nothing_is_left_to_another_source_server_run_or_session(tmp_path, other):
    written(tmp_path, left(), 1)
    assert Handover(tmp_path, replace(OWNER, **other)).read() is None


@pytest.mark.parametrize("damage", [
    lambda text: "", lambda text: text[:-2], lambda text: "[]", lambda text: "{}",
    lambda text: text.replace('"version": 1', '"version": 2'), lambda text: text.replace('"token": "', '"token": "zz'),
    lambda text: text.replace('"items": [', '"items": [1, '),
    lambda text: json.dumps(json.loads(text) | {"token": "05"})])
def test_a_file_that_is_none_leaves_nothing(tmp_path, damage):
    written(tmp_path, left(), 1)
    [file] = (tmp_path / FOLDER).glob("*.json")
    file.write_text(damage(file.read_text()))
    assert Handover(tmp_path, OWNER).read() is None


@pytest.mark.parametrize("position", [None, b"", b"short"])
def test_a_subscription_without_a_position_leaves_nothing(tmp_path, position):
    written(tmp_path, left(), 1)
    [file] = (tmp_path / FOLDER).glob("*.position")
    file.unlink() if position is None else file.write_bytes(position)
    assert Handover(tmp_path, OWNER).read() is None


def test_who_said_goodbye_leaves_nothing(tmp_path):
    written(tmp_path, left(), 1).drop()
    assert list((tmp_path / FOLDER).iterdir()) == []
    Handover(tmp_path, OWNER).drop()            # nor does it twice


def test_without_a_spool_nothing_is_left(tmp_path):
    assert written(None, left(), 1).read() is None


def test_a_disk_that_takes_nothing_is_said_once_and_stops_nothing(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / FOLDER).write_text("no folder")
    handover = Handover(tmp_path, OWNER)
    for _ in range(2):
        asyncio.run(handover.write(left()))
        handover.note(left().subscription, settled=True)
    assert caplog.text.count("what is at the server cannot be noted for a next collector") == 1
    assert handover.is_behind
    assert handover.read() is None
    (tmp_path / FOLDER).unlink()
    asyncio.run(handover.write(left()))
    handover.note(left().subscription, settled=True)
    handover.close()
    assert not handover.is_behind
    assert handover.read() is not None


async def test_nothing_is_settled_while_an_interruption_waits_in_memory():
    running = Sourcing("opc.tcp://127.0.0.1:1", [tag("FT1")], {}, Keeping(), None)
    source = running.source
    assert source.is_settled()
    source.interrupted("lost", kept=True)
    assert source.is_settled()
    source.interrupted("lost")
    assert not source.is_settled()
    running.take()
    assert source.is_settled()


@pytest.mark.parametrize(("folder", "held_back", "leaves"), [
    (None, True, False), ("spool", False, False), ("spool", True, True)])
async def test_sessions_are_left_at_a_stop_only_with_readings_that_nobody_takes(tmp_path, folder, held_back, leaves):
    keeping = Keeping(None if folder is None else tmp_path / folder, is_held_back=lambda: held_back)
    running = Sourcing("opc.tcp://127.0.0.1:1", [tag("FT1")], {}, keeping, None)
    assert running.source.is_leaving() == leaves
