"""The host application and an edge node that is not ours: npm's sparkplug-client."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.collector.running import PATIENCE_S, at, collecting, meter, park_of, rows, until_stored
from tests.fixtures.broker import TestBroker
from tests.fixtures.npm import installed

SCRIPT = Path(__file__).parents[1] / "fixtures" / "sparkplug_node.cjs"
NO_COMMUNICATION = 0x80310000

VALUES: dict[str, tuple[str, Any, float]] = {
    "int8": ("Int8", -12, -12.0), "int16": ("Int16", -300, -300.0), "int32": ("Int32", -70_000, -70_000.0),
    "uint8": ("UInt8", 200, 200.0), "uint16": ("UInt16", 60_000, 60_000.0),
    "uint32": ("UInt32", 4_000_000_000, 4e9), "uint64": ("UInt64", 5_000_000_000, 5e9),
    "int64": ("Int64", -5_000_000_000, -5e9), "float": ("Float", 0.5, 0.5), "double": ("Double", -1e-3, -1e-3),
    "flag": ("Boolean", True, 1.0),
}


@pytest.fixture(scope="session")
def packages() -> Path:
    folder = installed("sparkplug-client@3.2.4")
    if folder is None:
        pytest.skip("no npm and node here")
    return folder


class Node:
    """The other library's node, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def tell(self, **message: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def said(self, word: str) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while (line := await self._process.stdout.readline()).strip() != word.encode():
                assert line, "the node ended"

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def node(packages: Path, broker: TestBroker) -> AsyncIterator[Node]:
    program = shutil.which("node")
    assert program is not None
    process = await asyncio.create_subprocess_exec(
        program, str(SCRIPT), str(packages), broker.url, "g", "e",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    other = Node(process)
    try:
        yield other
    finally:
        await other.kill()


def metrics(tick: int, **more: Any) -> list[dict[str, Any]]:
    when = round(at(tick).timestamp() * 1000)
    return [{"name": name, "type": kind, "value": value, "timestamp": when, **more}
            for name, (kind, value, _) in VALUES.items()]


PARK = park_of(*(
    meter(name, {"sparkplug": {"group": "g", "edge_node": "e", "device": "d", "metric": name}}, unit="kg/s")
    for name in VALUES))


async def test_every_datatype_of_another_library_is_read(packages, broker, postgres_dsn):
    async with collecting(PARK, postgres_dsn, broker=broker.url), node(packages, broker) as other:
        other.tell(birth=metrics(0))
        await other.said("born")
        other.tell(data=metrics(1), timestamp=round(at(1).timestamp() * 1000))
        await until_stored(postgres_dsn, 2 * len(VALUES))
    assert {(name, when): (value, status) for name, when, value, status in rows(postgres_dsn)
            if status != NO_COMMUNICATION} == {     # the node is gone by now
        (name, at(tick)): (number, 0) for name, (_, _, number) in VALUES.items() for tick in (0, 1)}
    assert rows(postgres_dsn, "select * from dead_letter") == []


async def test_a_host_that_comes_later_asks_for_the_births_and_a_killed_node_makes_its_meters_bad(
    packages, broker, postgres_dsn
):
    async with node(packages, broker) as other:
        other.tell(birth=metrics(0))
        await other.said("born")
        async with collecting(PARK, postgres_dsn, broker=broker.url):
            other.tell(data=metrics(1), timestamp=round(at(1).timestamp() * 1000))
            await other.said("ncmd")
            await other.said("born")
            await until_stored(postgres_dsn, len(VALUES))
            other.tell(data=metrics(2), timestamp=round(at(2).timestamp() * 1000))
            await until_stored(postgres_dsn, 2 * len(VALUES))
            await other.kill()
            await until_stored(postgres_dsn, 3 * len(VALUES))
    bad = [row for row in rows(postgres_dsn) if row[3]]
    assert sorted(row[0] for row in bad) == sorted(VALUES)
    assert {(row[2], row[3]) for row in bad} == {(None, NO_COMMUNICATION)}
    good = {(row[0], row[1]) for row in rows(postgres_dsn) if not row[3]}
    assert good == {(name, at(tick)) for name in VALUES for tick in (0, 2)}
