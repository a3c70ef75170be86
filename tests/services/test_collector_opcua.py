"""The collector on real OPC UA servers and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import time
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.server.internal_server import InternalServer
from asyncua.server.subscription_service import SubscriptionService
from asyncua.server.uaprocessor import UaProcessor
from prometheus_client import CollectorRegistry

from collector import faults
from collector.opcua import session, share, tags
from collector.opcua.subscribing import Subscriber
from collector.spool import SpoolSettings
from park.clock import REAL_TIME, RunClock
from park.errors import SourceError
from tests.collector.running import (
    INTERVAL_S,
    at,
    collecting,
    opcua,
    park_of,
    rows,
    until,
    until_stored,
)
from tests.collector.sourcing import sourcing
from tests.fixtures.opcua import NAMESPACE
from tests.fixtures.proxy import FaultProxy

# Without those of meters that are silent: the tests' instruments live in the past.
GAPS = "select source, started_at, ended_at, cause from gap where cause not like 'nothing came%'"


async def test_every_value_is_stored_once_in_si_with_its_status(opcua_server, postgres_dsn):
    server = await opcua_server(["FT1", "TT1"])
    park = park_of(opcua(server.url, "FT1"), opcua(server.url, "TT1", quantity="temperature", unit="degC"))
    async with collecting(park, postgres_dsn):
        for tick in range(50):
            await server.push("FT1", 36.0 + tick, at(tick))
            await server.push("TT1", 20.0, at(tick), status=0x40930000)
        await server.push("FT1", None, at(50), status=0x80310000)
        await until_stored(postgres_dsn, 101)
    stored = rows(postgres_dsn)
    assert [(t, v, s) for m, t, v, s in stored if m == "FT1"] == [
        *((at(k), (36.0 + k) * (1000 / 3600), 0) for k in range(50)), (at(50), None, 0x80310000)]
    assert {(v, s) for m, _, v, s in stored if m == "TT1"} == {(293.15, 0x40930000)}
    assert rows(postgres_dsn, "select source, state, readings, rejected from collector_source") == [
        (f"opcua:{server.url}", "stopped", 101, 0)]
    assert rows(postgres_dsn, GAPS) == []


async def test_a_node_id_by_namespace_uri_is_resolved_at_the_server(opcua_server, postgres_dsn):
    server = await opcua_server(["FT1"])
    park = park_of(opcua(server.url, "FT1", node_id=f"nsu={NAMESPACE};s=FT1"))
    async with collecting(park, postgres_dsn):
        await server.push("FT1", 3.6, at(0))
        await until_stored(postgres_dsn, 1)
    assert rows(postgres_dsn) == [("FT1", at(0), 1.0, 0)]


async def test_an_endpoint_may_be_reached_elsewhere_in_this_run(opcua_server, postgres_dsn):
    server = await opcua_server(["FT1"])
    configured = "opc.tcp://plant.example:4840"
    park = park_of(opcua(configured, "FT1"))
    async with collecting(park, postgres_dsn, endpoints={configured: server.url}):
        await server.push("FT1", 3.6, at(0))
        await until_stored(postgres_dsn, 1)
    assert rows(postgres_dsn, "select source from collector_source") == [(f"opcua:{configured}",)]


async def test_bad_nodes_are_named_once_harm_no_other_and_are_collected_when_they_appear(
    opcua_server, postgres_dsn, caplog, monkeypatch
):
    monkeypatch.setattr(share, "RETRY_BAD_FIRST_S", 0.1)
    caplog.set_level(logging.INFO, "collector")
    server = await opcua_server(["FT1"])
    park = park_of(opcua(server.url, "FT1"), opcua(server.url, "FT2"),
                   opcua(server.url, "FT3", node_id="nsu=urn:elsewhere;s=FT3"))
    counted = CollectorRegistry()
    source = f"opcua:{server.url}"

    def refused() -> float | None:
        return counted.get_sample_value("symbiosis_meters_refused", {"source": source})

    async with collecting(park, postgres_dsn, metrics=counted) as running:
        await until(lambda: rows(postgres_dsn, "select detail from collector_source") == [
            ("not collected: FT2: BadNodeIdUnknown; FT3: its namespace is not on the server",)])
        await running.saw("not_collected", count=2, meters={
            "FT2": f"{source}: BadNodeIdUnknown", "FT3": f"{source}: its namespace is not on the server"})
        assert refused() == 2
        await server.push("FT1", 1.0, at(0))
        await until_stored(postgres_dsn, 1)
        await server.add("FT2")
        await until(lambda: "FT2 is collected now" in caplog.text, "FT2")
        await running.saw("not_collected", count=1)
        assert refused() == 1
        await server.push("FT2", 1.0, at(0))
        await until_stored(postgres_dsn, 2)
    assert caplog.text.count("FT2 (ns=2;s=FT2) is not collected: BadNodeIdUnknown; tried again") == 1
    assert caplog.text.count("FT3 (nsu=urn:elsewhere;s=FT3) is not collected") == 1


async def test_an_index_that_stands_for_another_namespace_now_is_refused_until_that_is_accepted(
    opcua_server, postgres_dsn, caplog, monkeypatch, tmp_path
):
    monkeypatch.setattr(share, "RETRY_BAD_FIRST_S", 0.1)
    monkeypatch.setattr(share, "RETRY_BAD_LONGEST_S", 0.2)
    server = await opcua_server(["FT1"])
    park = park_of(opcua(server.url, "INDEX", node_id="ns=2;s=FT1"),
                   opcua(server.url, "URI", node_id="nsu=urn:other;s=FT1"))
    async with collecting(park, postgres_dsn, spool=SpoolSettings(tmp_path)):
        await server.push("FT1", 3.6, at(0))
        await until_stored(postgres_dsn, 1)
    await server.stop()
    server.uris = ["urn:other", NAMESPACE]
    await server.start()
    async with collecting(park, postgres_dsn, spool=SpoolSettings(tmp_path), armed=False):
        await until(lambda: "INDEX (ns=2;s=FT1) is not collected: " in caplog.text, "a word")
        await server.push("FT1", 7.2, at(10))           # of the other instrument
        await until_stored(postgres_dsn, 2)
        assert rows(postgres_dsn) == [("INDEX", at(0), 1.0, 0), ("URI", at(10), 2.0, 0)]
        assert f"namespace 2 was '{NAMESPACE}' and is 'urn:other' now (hint: write nsu={NAMESPACE};..." in caplog.text
        [file] = (tmp_path / "namespaces").iterdir()
        assert f"or delete {file}, and the new order holds)" in caplog.text
        await until(lambda: bool(rows(postgres_dsn, "select from gap where ended_at is null")), "a gap")
        file.unlink()
        await until(lambda: ("INDEX", at(10), 2.0, 0) in rows(postgres_dsn), "the new order")


@pytest.mark.parametrize("where", ["while it connects", "while it receives"])
async def test_what_a_library_raises_at_one_server_ends_no_other_and_that_one_begins_anew(
    opcua_server, postgres_dsn, caplog, monkeypatch, where
):
    monkeypatch.setattr(faults, "FIRST_S", 0.05)
    steady, shaky = await opcua_server(["FT1"]), await opcua_server(["FT2"])
    owner, name = (share, "connect") if where == "while it connects" else (share.Nameplates, "compare")
    whole, broken = getattr(owner, name), [AssertionError(), AssertionError()]

    async def breaking(*what):
        url = what[0] if owner is share else what[1]._client.server_url.geturl()
        if url == shaky.url and broken:
            raise broken.pop()
        return await whole(*what)

    monkeypatch.setattr(owner, name, breaking)
    counted = CollectorRegistry()
    park = park_of(opcua(steady.url, "FT1"), opcua(shaky.url, "FT2"))
    async with collecting(park, postgres_dsn, metrics=counted):
        await until(lambda: counted.get_sample_value(
            "symbiosis_source_faults_total", {"source": f"opcua:{shaky.url}"}) == 2, "two faults")
        for server, meter in ((steady, "FT1"), (shaky, "FT2")):
            await server.push(meter, 1.0, at(0))
        await until_stored(postgres_dsn, 2)
        assert counted.get_sample_value("symbiosis_source_connects_total", {"source": f"opcua:{steady.url}"}) == 1
    assert caplog.text.count(f"opcua:{shaky.url}: a fault, in this program or a library") == 1
    assert "Traceback" in caplog.text


async def test_a_server_that_keeps_too_few_values_stops_the_start_and_is_named(opcua_server, postgres_dsn):
    server = await opcua_server(["FT1"], longest_queue=20)
    with pytest.raises(SourceError, match=rf"{server.url}: the server keeps 20 values of FT1, 100 are needed"):
        async with collecting(park_of(opcua(server.url, "FT1")), postgres_dsn):
            pass


async def test_more_tags_than_one_call_takes_are_asked_for_in_batches(opcua_server, postgres_dsn):
    names = [f"FT{k}" for k in range(250)]
    server = await opcua_server(names)
    async with collecting(park_of(*(opcua(server.url, name) for name in names)), postgres_dsn) as running:
        assert await running.saw("armed") == {"opcua": 250, "mqtt": 0}
        for name in names:
            await server.push(name, 1.0, at(0))
        await until_stored(postgres_dsn, 250)


async def test_a_server_that_holds_one_publish_request_is_asked_for_one(opcua_server, postgres_dsn, monkeypatch):
    monkeypatch.setattr(UaProcessor, "publish_request_limit", lambda _self, _subscriptions: 1)
    server = await opcua_server(["FT1"])
    async with collecting(park_of(opcua(server.url, "FT1")), postgres_dsn) as running:
        for tick in range(5):
            await server.push("FT1", 1.0, at(tick))
            await until_stored(postgres_dsn, tick + 1)
    assert [state for state, _ in running.said if state == "waiting"] == []


async def test_a_server_that_takes_few_items_a_call_is_asked_in_smaller_calls(opcua_server, postgres_dsn, monkeypatch):
    create = SubscriptionService.create_monitored_items

    async def few(self, params):
        if len(params.ItemsToCreate) > 30:
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        return await create(self, params)

    monkeypatch.setattr(SubscriptionService, "create_monitored_items", few)
    names = [f"FT{k}" for k in range(130)]
    server = await opcua_server(names)
    async with collecting(park_of(*(opcua(server.url, name) for name in names)), postgres_dsn):
        for name in names:
            await server.push(name, 1.0, at(0))
        await until_stored(postgres_dsn, 130)


async def test_values_that_are_no_readings_are_counted_and_stop_nothing(opcua_server, postgres_dsn, caplog):
    server = await opcua_server(["FT1", "FT2"])
    park = park_of(opcua(server.url, "FT1"), opcua(server.url, "FT2", unit="kg/s"))
    async with collecting(park, postgres_dsn):
        await server.push("FT1", "much", at(0), kind=ua.VariantType.String)
        await server.push("FT1", "more", at(1), kind=ua.VariantType.String)
        await server.push("FT1", float("nan"), at(2))
        await server.push("FT1", 1.0, at(3).replace(year=1995))
        await server.push("FT1", "broken", at(4), status=0x80000000, kind=ua.VariantType.String)
        await server.push("FT2", 7, at(0), kind=ua.VariantType.Int32)
        await server.push("FT2", True, at(1), kind=ua.VariantType.Boolean)
        await server.push("FT2", 9.0, None, server_time=at(2))
        await until_stored(postgres_dsn, 4)
    stored = rows(postgres_dsn)
    assert [row for row in stored if row[0] == "FT2"] == [
        ("FT2", at(0), 7.0, 0), ("FT2", at(1), 1.0, 0), ("FT2", at(2), 9.0, 0)]
    assert ("FT1", at(4), None, 0x80000000) in stored
    assert rows(postgres_dsn, "select rejected from collector_source") == [(4,)]
    assert len(re.findall(r"value is not a number: Item\(handle=\d+, value='much'", caplog.text)) == 1
    assert "'more'" not in caplog.text
    assert "gives no source time, its readings are kept by the server's time" in caplog.text


async def test_a_server_that_comes_later_is_waited_for_and_said_once(opcua_server, postgres_dsn, caplog):
    server = await opcua_server(["FT1"])
    await server.stop()
    async with collecting(park_of(opcua(server.url, "FT1")), postgres_dsn, armed=False) as running:
        await running.saw("waiting")
        await server.start()
        await running.saw("armed")
        await server.push("FT1", 1.0, at(0))
        await until_stored(postgres_dsn, 1)
    assert caplog.text.count("waiting") == 1


async def test_a_server_that_restarts_leaves_a_gap_with_its_cause_and_data_flow_again(opcua_server, postgres_dsn):
    server = await opcua_server(["FT1", "FT2"])
    async with collecting(park_of(opcua(server.url, "FT1"), opcua(server.url, "FT2")), postgres_dsn) as running:
        await server.push("FT1", 1.0, at(0))
        await server.push("FT2", 1.0, at(1))
        await until_stored(postgres_dsn, 2)
        running.forget()
        await server.stop()
        await running.saw("waiting")
        await server.start()
        back = time.monotonic()
        await running.saw("collecting")
        await server.push("FT1", 1.0, at(20))
        await until_stored(postgres_dsn, 3)
        assert time.monotonic() - back < 5.0
        await server.push("FT2", 1.0, at(22))
        await until_stored(postgres_dsn, 4)
    [(source, started, ended, cause)] = rows(postgres_dsn, GAPS)
    assert (source, started, ended) == (f"opcua:{server.url}", at(0), at(22))
    assert cause.startswith("connection lost")


async def test_a_restart_between_two_readings_leaves_no_gap(opcua_server, postgres_dsn):
    server = await opcua_server(["FT1"])
    async with collecting(park_of(opcua(server.url, "FT1")), postgres_dsn) as running:
        await server.push("FT1", 1.0, at(0))
        await until_stored(postgres_dsn, 1)
        running.forget()
        await server.stop()
        await running.saw("waiting")
        await server.start()
        await running.saw("collecting")
        await server.push("FT1", 2.0, at(1))
        await until_stored(postgres_dsn, 2)
    assert rows(postgres_dsn, GAPS) == []


async def test_a_server_that_falls_silent_is_left_and_reached_again(opcua_server, postgres_dsn, monkeypatch):
    monkeypatch.setattr(tags, "KEEP_ALIVE_S", 0.2)
    monkeypatch.setattr(session, "CLOSE_S", 0.2)
    server = await opcua_server(["FT1"])
    async with FaultProxy(server.port) as proxy:
        url = f"opc.tcp://127.0.0.1:{proxy.port}"
        async with collecting(park_of(opcua(url, "FT1")), postgres_dsn) as running:
            running.forget()
            proxy.freeze()
            assert await running.saw("waiting") == {
                "for": {f"opcua:{url}": "neither data nor keep-alive in 0.8 s"}}
            proxy.thaw()
            await running.saw("collecting")
            await server.push("FT1", 1.0, at(0))
            await until_stored(postgres_dsn, 1)


async def test_a_collector_that_takes_over_marks_what_was_not_covered_in_the_same_run_only(
    opcua_server, postgres_dsn
):
    server = await opcua_server(["FT1"])
    park = park_of(opcua(server.url, "FT1"))
    for first, clock in ((0, REAL_TIME), (10, REAL_TIME), (20, RunClock(*2 * [at(15).timestamp()]))):
        async with collecting(park, postgres_dsn, clock=clock):
            await server.push("FT1", 1.0, at(first))
            await server.push("FT1", 1.0, at(first + 1))
            await until_stored(postgres_dsn, len(rows(postgres_dsn)) + 1)
    assert rows(postgres_dsn, "select started_at, ended_at from gap where cause = 'the collector was not running'") == [
        (at(1), at(10))]


async def test_a_cut_connection_is_taken_up_again_with_everything_that_came_meanwhile(
    opcua_server, postgres_dsn, monkeypatch
):
    server = await opcua_server(["FT1", "FT2"])
    began, sessions = [], []
    monkeypatch.setattr(Subscriber, "begin", counting(Subscriber.begin, began))
    monkeypatch.setattr(InternalServer, "create_session", counting(InternalServer.create_session, sessions))
    async with FaultProxy(server.port) as proxy:
        url = f"opc.tcp://127.0.0.1:{proxy.port}"
        park = park_of(opcua(url, "FT1"), opcua(url, "FT2", sampling="on_change"))
        async with collecting(park, postgres_dsn) as running:
            for cut in range(3):
                running.forget()
                proxy.cut()
                for tick in range(20):
                    await server.push("FT1", float(tick), at(20 * cut + tick))
                    await server.push("FT2", float(tick), at(20 * cut + tick))
                await running.saw("collecting")
                await until_stored(postgres_dsn, 40 * (cut + 1))
    assert rows(postgres_dsn, GAPS) == []
    assert (len(began), len(sessions)) == (1, 1)


async def test_a_subscription_of_a_session_that_is_gone_is_transferred(opcua_server, postgres_dsn, monkeypatch):
    server = await opcua_server(["FT1"])
    began = []
    monkeypatch.setattr(Subscriber, "begin", counting(Subscriber.begin, began))
    monkeypatch.setattr(InternalServer, "lookup_external_session", lambda _self, _token: None)
    async with FaultProxy(server.port) as proxy:
        url = f"opc.tcp://127.0.0.1:{proxy.port}"
        async with collecting(park_of(opcua(url, "FT1", sampling="on_change")), postgres_dsn) as running:
            await server.push("FT1", 1.0, at(0))
            await until_stored(postgres_dsn, 1)
            running.forget()
            proxy.cut()
            for tick in range(1, 20):
                await server.push("FT1", float(tick), at(tick))
            await running.saw("collecting")
            await until_stored(postgres_dsn, 20)
    assert rows(postgres_dsn, GAPS) == []
    assert len(began) == 1


def counting(function, calls):
    """The same function, noting each call."""

    @functools.wraps(function)
    def call(*args, **options):
        calls.append(args)
        return function(*args, **options)

    return call


@pytest.mark.parametrize("sessions", [1, 3])
async def test_tags_come_and_go_without_touching_the_others(opcua_server, sessions):
    server = await opcua_server([f"FT{k}" for k in range(6)])
    async with sourcing(server.url, [tag(k, k) for k in range(4)], sessions=sessions) as running:
        items = server.items
        assert len(items) == 4
        # 0 goes, 1 asks for something else, 2 stands at another place, 3 stays, 5 comes, 9 is not there
        await running.source.apply([replace(tag(1, 1), interval_s=0.05), tag(2, 8), tag(3, 3), tag(5, 5), tag(9, 9)])
        now = server.items
        assert {name for name in now if items.get(name) == now[name]} == {"FT2", "FT3"}
        assert set(now) == {"FT1", "FT2", "FT3", "FT5"}
        assert running.status.detail == "not collected: FT9: BadNodeIdUnknown"
        for k in range(6):
            await server.push(f"FT{k}", float(k), at(0))
        assert {row[0]: row[2] for row in await running.got(4)} == {1: 1.0, 8: 2.0, 3: 3.0, 5: 5.0}
        await running.source.apply([])
        assert server.items == {}
        assert running.status.state == "receiving"
    assert server.subscriptions == []


def tag(k, place):
    return tags.Tag(place, f"FT{k}", f"ns=2;s=FT{k}", INTERVAL_S)


async def test_ten_servers_that_come_back_together_give_data_again_within_five_seconds(opcua_server):
    server = await opcua_server(["FT1"])        # one behind ten doors
    async with AsyncExitStack() as stack:
        doors = [await stack.enter_async_context(FaultProxy(server.port)) for _ in range(10)]
        sources = [await stack.enter_async_context(sourcing(f"opc.tcp://127.0.0.1:{door.port}", [tag(1, 0)]))
                   for door in doors]
        await server.push("FT1", 0.0, at(0))
        await asyncio.gather(*(source.got(1) for source in sources))
        await server.stop()
        await asyncio.gather(*(source.is_away() for source in sources))
        for source in sources:
            source.source.backoff.tries = 10    # as after a long while: the next tries are four seconds apart
        await server.start()
        back = time.monotonic()
        await asyncio.gather(*(source.receives() for source in sources))
        await server.push("FT1", 1.0, at(10))
        await asyncio.gather(*(source.got(2) for source in sources))
    assert time.monotonic() - back < 5.0
    assert server.subscriptions == []
