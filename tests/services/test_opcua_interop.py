"""The collector at a server of another make, node-opcua: what asyncua's own server does not do can be seen here."""

from __future__ import annotations

import asyncio
import itertools
import math
from pathlib import Path

import pytest

from collector.batches import Limits
from collector.holes import Hole
from collector.opcua.session import quiet_library
from collector.times import MICROS
from park.servers import Deadband
from tests.collector.running import PATIENCE_S
from tests.collector.sourcing import sourcing, tag
from tests.fixtures.node_opcua import PASSWORD, PASSWORD_VARIABLE
from tests.fixtures.proxy import FaultProxy

NOON_MS = 1_772_366_400_000         # 2026-03-01 12:00 UTC
times = itertools.count(NOON_MS, 1000)


@pytest.fixture(autouse=True)
def quiet():
    quiet_library()


def at_node(name, place=0, **keys):
    return tag(name, place, node_id=f"nsu=urn:tests:instruments;s={name}", **keys)


async def test_security_user_and_values(node_opcua, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    (tmp_path / "pki/trusted").mkdir(parents=True)
    (tmp_path / "pki/trusted/server.pem").write_bytes(node_opcua.certificate.read_bytes())
    settings = {"security_policy": "Aes256_Sha256_RsaPss", "user": "collector", "password": {"env": PASSWORD_VARIABLE}}
    async with sourcing(node_opcua.url, [at_node("FT1")], **settings) as running:
        time_ms = next(times)
        await node_opcua.push("FT1", 42.5, time_ms, "uncertain")
        await got(running, (0, time_ms * 1000, 42.5, 0x40900000))


async def test_a_server_that_does_not_trust_us_is_waited_for_until_it_does(strict_node_opcua, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pki/trusted").mkdir(parents=True)
    (tmp_path / "pki/trusted/server.pem").write_bytes(strict_node_opcua.certificate.read_bytes())
    settings = {"security_policy": "Aes256_Sha256_RsaPss"}
    async with sourcing(strict_node_opcua.url, [at_node("FT1")], armed=False, **settings) as running:
        why = await running.is_away()
        assert why.startswith("the server refuses our certificate, ")
        assert "BadSecurityChecksFailed" in why
        assert "(hint: let it trust pki/own/symbiosis.der, " in why
        strict_node_opcua.trust()
        await running.receives()


async def test_a_wrong_password_is_refused(node_opcua, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PASSWORD_VARIABLE, "another")
    Path("pki/trusted").mkdir(parents=True)         # noqa: ASYNC240 - nothing else runs yet
    (tmp_path / "pki/trusted/server.pem").write_bytes(node_opcua.certificate.read_bytes())
    settings = {"security_policy": "Basic256Sha256", "user": "collector", "password": {"env": PASSWORD_VARIABLE}}
    async with sourcing(node_opcua.url, [at_node("FT1")], armed=False, **settings) as running:
        assert "BadUserAccessDenied" in await running.is_away()


async def test_numbers_of_every_kind_and_elements_of_arrays(node_opcua):
    tags = [at_node(*spec) for spec in zip(["ENUM", "BOOL", "BYTE", "LONG", "FLOAT"], range(5), strict=True)]
    tags += [at_node("ARRAY", 5, index=2), at_node("COUNTS", 6, index=1)]
    tags[6] = tags[6].__class__(**{**vars(tags[6]), "meter": "COUNTS[1]"})
    async with sourcing(node_opcua.url, tags) as running:
        time_ms = next(times)
        for name, value in {"ENUM": 5, "BOOL": False, "BYTE": 255, "LONG": [1, 5], "FLOAT": 0.25,
                            "ARRAY": [7, 8, 9.5], "COUNTS": [1, 65535, 3]}.items():
            await node_opcua.push(name, value, time_ms)
        values = {0: 5.0, 1: 0.0, 2: 255.0, 3: 2**32 + 5.0, 4: 0.25, 5: 9.5, 6: 65535.0}
        await got(running, *((place, time_ms * 1000, value, 0) for place, value in values.items()))
    assert running.rejections.total("opcua:x") == 0


async def test_an_element_that_an_array_has_not_is_a_bad_reading(node_opcua):
    async with sourcing(node_opcua.url, [at_node("ARRAY", index=9)]) as running:
        [(_, _, value, status)] = await running.got(1)
    assert math.isnan(value)
    assert status == 0x80370000         # BadIndexRangeNoData


async def test_the_sampling_interval_is_kept(node_opcua):
    fast, slow = at_node("RAMP", 0, sampling_ms=50.0), at_node("RAMP", 1, sampling_ms=500.0)
    slow = slow.__class__(**{**vars(slow), "meter": "RAMP seldom"})
    async with sourcing(node_opcua.url, [fast, slow]) as running:
        rows = []
        while sum(row[0] for row in rows) < 4:      # so many of the slow one
            rows = await running.got(len(running.rows) + 1)
    steps = {place: [row[1] for row in rows if row[0] == place] for place in (0, 1)}
    assert len(steps[0]) >= 3 * len(steps[1])
    assert min(b - a for a, b in itertools.pairwise(steps[1])) > 0.3 * MICROS


async def test_a_queue_that_overflows_is_told_and_marked(node_opcua):
    tags = [at_node("RAMP", sampling_ms=20.0, queue=2)]
    async with sourcing(node_opcua.url, tags, publishing_interval_ms=500) as running:
        async with asyncio.timeout(PATIENCE_S):
            while not running.interruptions:
                await running.got(len(running.rows) + 1)
    assert {interruption.cause for interruption in running.interruptions} == {"the server's queue overflowed"}
    assert {row[3] for row in running.rows} == {0}


async def test_a_deadband_in_percent_of_the_servers_range_holds_small_changes_back(node_opcua):
    await node_opcua.push("FT1", 0.0, next(times))
    wanted = at_node("FT1", sampling_ms=10.0, deadband=Deadband(percent=10))        # of 0 to 100
    async with sourcing(node_opcua.url, [wanted]) as running:
        assert [row[2] for row in await running.got(1)] == [0.0]
        for told, value in ((False, 5.0), (False, 9.0), (True, 15.0), (False, 20.0), (True, 26.0), (False, 17.0),
                            (True, 15.5)):
            await node_opcua.push("FT1", value, next(times))
            if told:
                await running.got(len(running.rows) + 1)
            else:
                await asyncio.sleep(0.1)        # ten looks of the server: time to tell what it must not
    assert [row[2] for row in running.rows] == [0.0, 15.0, 26.0, 15.5]


async def test_a_hole_is_filled_from_its_history(node_opcua):
    history = [next(times) for _ in range(2500)]        # more than a page
    for time_ms in history:
        await node_opcua.push("FT1", float(time_ms % 1000), time_ms)
    start, end = history[3], history[-3]
    found = asyncio.get_running_loop().create_future()
    async with sourcing(node_opcua.url, [at_node("FT1", 4)]) as running:
        hole = Hole("opcua:x", 4, start * 1000, end * 1000, 1.5 * MICROS)
        running.source.fill(hole, lambda _hole, filled: found.set_result(filled))
        await running.got(1 + 2500 - 7)
        async with asyncio.timeout(PATIENCE_S):
            while not found.done():
                await running.batches.due()
                running.take()
    assert found.result() is True
    inside = [row[1] for row in running.rows if start * 1000 < row[1] < end * 1000]
    assert inside == [time_ms * 1000 for time_ms in history[4:-3]]


async def test_a_cut_connection_is_taken_up_again(node_opcua):
    async with FaultProxy(node_opcua.port) as proxy:
        url = f"opc.tcp://127.0.0.1:{proxy.port}"
        async with sourcing(url, [at_node("FT1", sampling_ms=10.0)]) as running:
            await running.got(1)
            proxy.cut()
            await running.is_away()
            time_ms = next(times)
            await node_opcua.push("FT1", 77.0, time_ms)
            await running.receives()
            await got(running, (0, time_ms * 1000, 77.0, 0))
    assert [interruption.kept for interruption in running.interruptions] == [True]


async def test_a_server_publishes_nothing_while_memory_is_full_and_goes_on_after(node_opcua):
    limits = Limits(buffer_rows=20)
    async with sourcing(node_opcua.url, [at_node("RAMP", sampling_ms=20.0)], limits=limits) as running:
        await publishing(node_opcua, False)
        held = len(running.batches)
        assert 20 <= held < 100
        await node_opcua.push("FLOAT", 1.0)         # its answer comes after what was published before
        assert len(running.batches) == held
        await running.got(held)
        await publishing(node_opcua, True)
        await running.got(held + 40)
    assert running.status.state == "receiving"
    assert len({row[1] for row in running.rows}) == len(running.rows)


async def publishing(server, wanted):
    """Wait until its only subscription may publish, or may not."""
    async with asyncio.timeout(PATIENCE_S):
        while [one["publishing"] for one in await server.held()] != [wanted]:   # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)


async def test_units_and_ranges_that_differ_are_said_once_with_both(node_opcua, caplog):
    wrong_unit = at_node("FT1", 0, unit="t/h", span=(0.0, 100.0))
    wrong_span = wrong_unit.__class__(**{**vars(wrong_unit), "meter": "FT2", "unit": "kg/s", "span": (0.0, 60.0)})
    right = wrong_unit.__class__(**{**vars(wrong_unit), "meter": "FT3", "unit": "kg/s"})
    nothing_said = at_node("FLOAT", 3, unit="kg/s", span=(0.0, 1.0))
    async with sourcing(node_opcua.url, [wrong_unit, wrong_span, right, nothing_said]) as running:
        async with asyncio.timeout(PATIENCE_S):
            while caplog.text.count("park.yaml") < 2:       # noqa: ASYNC110 - the log tells nobody
                await asyncio.sleep(0.02)
        await running.source.apply([wrong_unit, wrong_span, right])
    said = [record.getMessage() for record in caplog.records if "park.yaml" in record.getMessage()]
    source = running.source.endpoint.source
    assert said == [
        f"{source}: FT1: the server gives its unit as 'kg/s', park.yaml as 't/h'; its values are taken as t/h",
        f"{source}: FT2: the server gives its range as 0 to 100, park.yaml its span as 0 to 60"]


async def got(running, *wanted):
    """Wait until these readings came, among others."""
    async with asyncio.timeout(PATIENCE_S):
        while not set(wanted) <= set(running.rows):
            await running.got(len(running.rows) + 1)
