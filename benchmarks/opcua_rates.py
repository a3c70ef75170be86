"""What a value costs the OPC UA client: asyncua's handler, our source alone, and the collector to the committed row.

    python -m benchmarks.opcua_rates [SECONDS [VALUES_A_SECOND]]

Two servers, each in a process of its own since one asyncua server ends at 7,000 to 13,000 values/s, push values at a
steady pace, 10,000/s in all unless said otherwise. Each contender runs in this process, two rounds each, in turn. CPU
is that of this process; "held" is the rate that it took in over the pace. Servers and database share the machine, so
compare ratios.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from asyncua import Client, Server, ua

from benchmarks.collector_rates import collected, park_of
from collector.batches import Batches
from collector.opcua.client import Endpoint, OpcuaSource
from collector.opcua.tags import Tag
from collector.rejections import Rejections
from collector.status import SourceStatus
from park.clock import REAL_TIME
from park.store import migrate
from park.store.embedded import EmbeddedPostgres
from simulators.opcua_server import Reading

SERVERS = 2
TAGS = 500                      # of each server
START = datetime(2026, 1, 1, tzinfo=UTC)
CONTEXT = multiprocessing.get_context("spawn")

Spent = tuple[float, float]     # wall and CPU seconds
Begin = Callable[[], None]


# -- the servers ------------------------------------------------------------------------------------------------------


def serve(pipe: Connection) -> None:
    """Serve nodes; push as many rounds at such an interval as the pipe asks for."""
    logging.disable(logging.WARNING)
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    server = Server()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    server.socket_address = ("127.0.0.1", 0)
    await server.register_namespace("urn:benchmark")
    nodes = [ua.NodeId(ua.String(f"M{i}"), ua.Int16(2)) for i in range(TAGS)]
    for i, node in enumerate(nodes):
        await server.nodes.objects.add_variable(node, f"2:M{i}", 0.0)
    write = server.iserver.aspace.write_attribute_value
    async with server:
        assert server.bserver is not None
        pipe.send(f"opc.tcp://127.0.0.1:{server.bserver.port}")
        pushed = 0
        while work := await asyncio.to_thread(pipe.recv):
            rounds, interval_s = work
            begun = time.monotonic()
            for k in range(rounds):
                when: Any = START + timedelta(seconds=pushed * interval_s)
                pushed += 1
                for node in nodes:
                    await write(node, ua.AttributeIds.Value, Reading(ua.Variant(float(k)), ua.StatusCode(), when, when))
                await asyncio.sleep(max(0.0, begun + (k + 1) * interval_s - time.monotonic()))


# -- the contenders ---------------------------------------------------------------------------------------------------


async def handled(urls: list[str], count: int, begin: Begin) -> Spent:
    """Return what asyncua's data-change handler spends until it has seen `count` values."""
    whole = asyncio.Event()

    class Handler:
        seen = -SERVERS * TAGS              # the first notifications tell what was there before

        def datachange_notification(self, _node: object, _value: object, _data: object) -> None:
            self.seen += 1
            if self.seen >= count:
                whole.set()

    handler = Handler()
    async with AsyncExitStack() as stack:
        for url in urls:
            client = await stack.enter_async_context(Client(url, timeout=60, watchdog_intervall=60))
            subscription = await client.create_subscription(100, handler)
            changes = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
            nodes = [client.get_node(f"ns=2;s=M{i}") for i in range(TAGS)]
            await subscription._subscribe(nodes, queuesize=1000, mfilter=changes)
        await asyncio.sleep(0.5)
        begun, cpu = time.monotonic(), time.process_time()
        begin()
        await whole.wait()
        return time.monotonic() - begun, time.process_time() - cpu


async def sourced(urls: list[str], count: int, begin: Begin) -> Spent:
    """Return what our source spends until `count` values are in its queue, from which they are thrown away."""
    batches = Batches()
    sources = [
        OpcuaSource(Endpoint(url, url), [Tag(i, f"M{i}", f"ns=2;s=M{i}", 0.1) for i in range(TAGS)], batches,
                    SourceStatus(url, "opcua", REAL_TIME.now), Rejections(), REAL_TIME) for url in urls]
    running = [asyncio.create_task(source.run()) for source in sources]
    for source in sources:
        await source.armed.wait()
    await batches.silence(0.5)
    batches.take()
    begun, cpu = time.monotonic(), time.process_time()
    begin()
    while count > 0:
        await batches.due()
        for chunk in batches.take():
            count -= len(chunk.rows)
            if chunk.committed is not None:
                chunk.committed()
        batches.committed()
    spent = time.monotonic() - begun, time.process_time() - cpu
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return spent


# -- the run ----------------------------------------------------------------------------------------------------------


async def compare(dsn: str, seconds: float, rate: float) -> None:
    """Run the contenders in turn, and print them."""
    pipes, servers = _servers()
    urls = [await asyncio.to_thread(pipe.recv) for pipe in pipes]
    interval_s = SERVERS * TAGS / rate
    rounds = round(seconds / interval_s)
    count = rounds * SERVERS * TAGS
    park = park_of([{"opcua": {"endpoint": url, "node_id": f"ns=2;s=M{i}"}} for url in urls for i in range(TAGS)])

    def begin() -> None:
        for pipe in pipes:
            pipe.send((rounds, interval_s))

    contenders: dict[str, Callable[[], Awaitable[Spent]]] = {
        "asyncua's handler": lambda: handled(urls, count, begin),
        "our source": lambda: sourced(urls, count, begin),
        "collector, committed": lambda: collected(park, dsn, count, begin),
    }
    runs: dict[str, list[Spent]] = {name: [] for name in contenders}
    for _ in range(2):
        for name, run in contenders.items():
            runs[name].append(await run())
    for pipe in pipes:
        pipe.send(None)
    for server in servers:
        server.join()
    _print(runs, count, rate)


def _servers() -> tuple[list[Connection], list[BaseProcess]]:
    """Start the servers; return their pipes and processes."""
    pipes = []
    servers: list[BaseProcess] = []
    for _ in range(SERVERS):
        ours, theirs = CONTEXT.Pipe()
        server = CONTEXT.Process(target=serve, args=(theirs,))
        server.start()
        pipes.append(ours)
        servers.append(server)
    return pipes, servers


def _print(runs: dict[str, list[Spent]], count: int, rate: float) -> None:
    """Print a line a contender, its cheaper run; the first is the one that the others are held against."""
    first = min(cpu for _, cpu in runs["asyncua's handler"])
    print(f"OPC UA, {SERVERS} servers, {SERVERS * TAGS} tags, {rate:,.0f} values/s")
    print(f"{'':24}{'held 1/s':>12}{'CPU us a value':>16}{'ratio':>8}")
    for name, spent in runs.items():
        wall_s, cpu_s = min(spent, key=lambda wall_and_cpu: wall_and_cpu[1])
        print(f"  {name:22}{count / wall_s:12,.0f}{cpu_s / count * 1e6:16.1f}{cpu_s / first:8.2f}")
    print(f"  peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")


async def main(seconds: float, rate: float) -> None:
    """Run everything on a database of its own."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name, EmbeddedPostgres(Path(name)) as database:
        migrate(database.dsn)
        await compare(database.dsn, seconds, rate)


if __name__ == "__main__":
    given = [float(text) for text in sys.argv[1:]]
    asyncio.run(main(*given, *(10.0, 10_000.0)[len(given):]))
