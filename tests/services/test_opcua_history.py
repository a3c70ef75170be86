"""Holes filled from the history of a real server, down to the rows of `gap`."""

from __future__ import annotations

import asyncio
import logging

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError

from collector.opcua import history
from tests.collector.running import at, collecting, opcua, park_of, rows, until, until_stored

# Without those of meters that are silent: the tests' instruments live in the past.
GAPS = "select started_at, ended_at, cause from gap where cause not like 'nothing came%'"


def park_at(server):
    return park_of(opcua(server.url, "FT1"), opcua(server.url, "FT2"),
                   opcua(server.url, "QT1", sampling="on_change"))


async def push(server, *ticks):
    """Let every instrument send its readings, the one on change but seldom."""
    for tick in ticks:
        for name in server.names:
            if name != "QT1" or tick % 10 == 0:
                await server.push(name, float(tick), at(tick))


async def gone_and_back(server, running, *meanwhile):
    """Stop the server, let its historian hear of some readings, and start it again."""
    running.forget()
    await server.stop()
    await running.saw("waiting")
    await push(server, *meanwhile)
    await server.start()
    await running.saw("collecting")


async def test_what_was_missed_is_fetched_from_the_history_and_the_gap_goes(opcua_server, postgres_dsn):
    server = await opcua_server(["FT1", "FT2", "QT1"], history=["FT1", "FT2", "QT1"])
    server.history.page = 7             # so that every way through continuation points is gone
    async with collecting(park_at(server), postgres_dsn) as running:
        await push(server, 0, 1)
        await until_stored(postgres_dsn, 5)
        await gone_and_back(server, running, *range(2, 51))
        await push(server, *range(51, 61))
        await until_stored(postgres_dsn, 2 * 61 + 7)
        await until(lambda: rows(postgres_dsn, GAPS) == [], "the gap's end")
    stored = rows(postgres_dsn)
    assert [(t, v) for m, t, v, _ in stored if m == "QT1"] == [(at(k), k * 1000 / 3600) for k in range(0, 70, 10)]
    assert [t for m, t, _, _ in stored if m == "FT2"] == [at(k) for k in range(61)]
    assert rows(postgres_dsn, "select * from reading_conflict") == []


async def test_a_collector_that_was_not_running_fetches_what_it_missed(opcua_server, postgres_dsn):
    server = await opcua_server(["FT1", "FT2", "QT1"], history=["FT1", "FT2", "QT1"])
    for last in (1, 61):
        async with collecting(park_at(server), postgres_dsn):
            await push(server, last - 1, last)
            await until_stored(postgres_dsn, {1: 5, 61: 2 * 62 + 7}[last])
            await until(lambda: rows(postgres_dsn, GAPS) == [], "the gap's end")
        await push(server, *range(2, 60))


@pytest.mark.parametrize("kept", [["FT1"], []])
async def test_a_gap_of_which_anything_is_missing_stays(opcua_server, postgres_dsn, kept, caplog):
    caplog.set_level(logging.INFO, "collector")
    server = await opcua_server(["FT1", "FT2"], history=kept)
    async with collecting(park_of(opcua(server.url, "FT1"), opcua(server.url, "FT2")), postgres_dsn) as running:
        await push(server, 0, 1)
        await until_stored(postgres_dsn, 4)
        await gone_and_back(server, running, *range(2, 20))
        await push(server, 20)
        await until_stored(postgres_dsn, 6 + 18 * len(kept))
        await until(lambda: "stays: the server was asked for what it holds of that time, but it keeps no history"
                    in caplog.text, "the refusal")
    [(started, ended, cause)] = rows(postgres_dsn, GAPS)
    assert (started, ended) == (at(1), at(20))
    assert cause.startswith("connection lost")


@pytest.mark.parametrize("sampling", ["periodic", "on_change"])
async def test_a_history_that_began_after_the_hole_does_not_fill_it(
    opcua_server, postgres_dsn, sampling, monkeypatch
):
    monkeypatch.setattr(history, "RETRY_S", (0.0,))
    server = await opcua_server(["FT1"], history=["FT1"])
    async with collecting(park_of(opcua(server.url, "FT1", sampling=sampling)), postgres_dsn) as running:
        await push(server, 0, 1)
        await until_stored(postgres_dsn, 2)
        await gone_and_back(server, running, *range(2, 20))
        del server.history.kept["FT1"][:10]
        await push(server, 20)
        await until_stored(postgres_dsn, 2 + 10 + 1)
        await until(lambda: server.history.reads >= 2, "the second try")
    assert rows(postgres_dsn, GAPS)[0][:2] == (at(1), at(20))


async def test_a_history_that_lags_is_asked_again(opcua_server, postgres_dsn, monkeypatch):
    monkeypatch.setattr(history, "RETRY_S", (0.3, 0.3, 0.3))
    server = await opcua_server(["FT1"], history=["FT1"])
    async with collecting(park_of(opcua(server.url, "FT1")), postgres_dsn) as running:
        await push(server, 0, 1)
        await until_stored(postgres_dsn, 2)
        await gone_and_back(server, running, *range(2, 20))
        late = [server.history.kept["FT1"].pop() for _ in range(5)]
        await push(server, 20)
        while server.history.reads == 0:        # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.02)
        kept = [*server.history.kept["FT1"], *late]
        server.history.kept["FT1"] = sorted(kept, key=lambda value: value.SourceTimestamp)
        await until_stored(postgres_dsn, 21)
        await until(lambda: rows(postgres_dsn, GAPS) == [], "the gap's end")


async def test_a_history_that_fails_disturbs_nothing_but_itself(opcua_server, postgres_dsn, monkeypatch):
    monkeypatch.setattr(history, "RETRY_S", (0.0, 0.0))
    server = await opcua_server(["FT1"], history=["FT1"])
    failures = []

    async def fail(*_what):
        failures.append(_what)
        raise ServiceError(ua.StatusCodes.BadInternalError)

    server.history.read_node_history = fail
    async with collecting(park_of(opcua(server.url, "FT1")), postgres_dsn) as running:
        await push(server, 0, 1)
        await until_stored(postgres_dsn, 2)
        await gone_and_back(server, running, *range(2, 20))
        running.forget()
        await push(server, 20)
        await until(lambda: len(failures) == 3, "the last try")
        await push(server, 21)
        await until_stored(postgres_dsn, 4)
    assert running.said == []
    assert rows(postgres_dsn, GAPS)[0][:2] == (at(1), at(20))
