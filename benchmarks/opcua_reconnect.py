"""How soon data flow again when 50 OPC UA servers go down and come back together.

    python -m benchmarks.opcua_reconnect [SERVERS]

The servers stand in a few processes, which are killed (SIGKILL) and started again on the same ports when every back-off
of the client is at its longest. Of each server: the time from when it listens again to its first new reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import random
import resource
import socket
import statistics
import sys
import time
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from asyncua import Server, ua

from collector.batches import Batches
from collector.opcua.client import Endpoint, OpcuaSource
from collector.opcua.session import quiet_library
from collector.opcua.tags import Tag
from collector.rejections import Rejections
from collector.status import SourceStatus
from park.clock import REAL_TIME
from simulators.opcua_server import StandardNodes, _InternalServer

PROCESSES = 3
EVERY_S = 0.5               # a reading of each server
AWAY_S = 8.0                # more than 0.25 + 0.5 + 1 + 2 + 4 s: the next tries are four seconds apart
CONTEXT = multiprocessing.get_context("spawn")


def serve(ports: list[int], pipe: Connection) -> None:
    """Serve one variable at each port, and tell when each listens."""
    logging.disable(logging.CRITICAL)
    asyncio.run(_serve(ports, pipe))


async def _serve(ports: list[int], pipe: Connection) -> None:
    standard = await StandardNodes.build()
    node = ua.NodeId(ua.String("M"), ua.Int16(2))
    servers = []
    for port in ports:
        server = Server(iserver=_InternalServer(standard))
        await server.init()
        server.set_endpoint(f"opc.tcp://127.0.0.1:{port}")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        await server.register_namespace("urn:benchmark")
        await server.nodes.objects.add_variable(node, "2:M", 0.0)
        servers.append(server)
    for port, server in zip(ports, servers, strict=True):
        await server.start()
        pipe.send((port, time.monotonic()))
    while True:
        now: Any = datetime.now(UTC)
        for server in servers:
            await server.iserver.aspace.write_attribute_value(
                node, ua.AttributeIds.Value, ua.DataValue(ua.Variant(now.timestamp()), ua.StatusCode(), now, now))
        await asyncio.sleep(EVERY_S)


async def started(ports: list[int]) -> tuple[list[BaseProcess], dict[int, float]]:
    """Start the servers; return their processes, and when each listens [monotonic s]."""
    processes: list[BaseProcess] = []
    pipes = []
    for number in range(PROCESSES):
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=serve, args=(ports[number::PROCESSES], theirs), daemon=True)
        process.start()
        processes.append(process)
        pipes.append((ours, len(ports[number::PROCESSES])))
    listening: dict[int, float] = {}
    for pipe, count in pipes:
        for _ in range(count):
            port, at = await asyncio.to_thread(pipe.recv)
            listening[port] = at
    return processes, listening


async def main(count: int) -> None:
    """Let the servers go and come once, and print how long it took."""
    quiet_library()
    ports = _free_ports(count)
    processes, _ = await started(ports)
    batches = Batches()
    first: dict[str, float] = {}
    statuses = [SourceStatus(str(port), "opcua", REAL_TIME.now) for port in ports]
    sources = [
        OpcuaSource(Endpoint(f"{port}", f"opc.tcp://127.0.0.1:{port}"), [Tag(0, "M", "ns=2;s=M", EVERY_S)], batches,
                    status, Rejections(), REAL_TIME) for port, status in zip(ports, statuses, strict=True)]
    running = [asyncio.create_task(source.run()) for source in sources]
    for source in sources:
        await source.armed.wait()

    async def taking() -> None:
        while True:
            await batches.due()
            for chunk in batches.take():
                if len(chunk.rows):
                    first.setdefault(chunk.source, time.monotonic())
            batches.committed()

    taker = asyncio.create_task(taking())
    for process in processes:
        process.kill()
    await asyncio.sleep(AWAY_S)
    first.clear()
    begun_cpu = time.process_time()
    processes, listening = await started(ports)
    while len(first) < count:           # noqa: ASYNC110 - `taking` fills it
        await asyncio.sleep(0.05)
    taken = sorted(first[source.endpoint.source] - listening[port] for port, source in zip(ports, sources, strict=True))
    for task in (*running, taker):
        task.cancel()
    await asyncio.gather(*running, taker, return_exceptions=True)
    for process in processes:
        process.kill()
    print(f"{count} servers: data again after {statistics.median(taken):.1f} s (median), {taken[-1]:.1f} s (last); "
          f"CPU {time.process_time() - begun_cpu:.1f} s, "
          f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody uses, below those that the system gives out: they must be free twice."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in ports:
                ports.append(port)
    return ports


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
