"""What a simulated reading costs, as ratios to asyncua's own write in the same run.

    python benchmarks/simulators_serve.py [METERS]

Three contenders put the same number of values into OPC UA nodes that a client in another process subscribes to
(100 ms, filter StatusValueTimestamp): asyncua's `write_attribute_value` with its own DataValue; the simulator's
`OpcuaServer.write`; and the whole of a tick (truth, instruments, sent.csv, write). Prints for each: CPU of the
serving process a value, the ratio to the first, and how many values/s half a core serves.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
from asyncua import Client, ua

from park.model import Park
from simulators.instruments import Readings, Schedule, Tick
from simulators.opcua_server import OpcuaServer, StandardNodes
from simulators.record import SentFile, moment
from simulators.sampling import Sampler
from simulators.scenario import Scenario

ROUNDS = 60
START_S = 1_800_000_000
URL = "opc.tcp://127.0.0.1:0"

Put = Callable[[Readings], Awaitable[None]]


def park_of(count: int) -> Park:
    """Return a chain of streams with four meters each, in a park of two companies."""
    streams = max(2, count // 4)
    nominal = {"value": 40, "unit": "t/h"}
    return Park.model_validate({
        "park": {"name": "Benchmark", "timezone": "UTC"},
        "participants": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}],
        "nodes": [{"id": f"n{i}", "participant": "ab"[i % 2], "conserves": ["mass"]} for i in range(streams)],
        "streams": [{"id": f"S{i}", "from": f"n{i - 1}" if i else "environment", "to": f"n{i}", "carrier": "water",
                     "nominal": nominal} for i in range(streams)]
        + [{"id": "out", "from": f"n{streams - 1}", "to": "environment", "carrier": "water", "nominal": nominal}],
        "meters": [{"id": f"M{i}", "stream": f"S{i % streams}", "side": "receiver", "quantity": "mass_flow",
                    "unit": "t/h", "u95_percent_of_reading": 2.0, "interval_s": 5,
                    "source": {"opcua": {"endpoint": URL, "node_id": f"ns=2;s=M{i}"}}} for i in range(count)],
    })


async def _listen(url: str, count: int, expected: int, pipe: Connection) -> None:
    """Subscribe to all meters, and tell when all values have come."""
    whole = asyncio.Event()

    class Heard:
        values = 0

        def datachange_notification(self, node: object, value: object, data: object) -> None:
            self.values += 1
            if self.values == expected:
                whole.set()

    heard = Heard()
    async with Client(url) as client:
        subscription = await client.create_subscription(100, heard)
        nodes = [client.get_node(f"ns=2;s=M{i}") for i in range(count)]
        changes = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
        await subscription._subscribe(nodes, queuesize=10_000, mfilter=changes)
        pipe.send("subscribed")
        await whole.wait()
        pipe.send("whole")


def listen(url: str, count: int, expected: int, pipe: Connection) -> None:
    """Run the subscriber; the entry of its process."""
    logging.disable(logging.WARNING)
    asyncio.run(_listen(url, count, expected, pipe))


async def cost(server: OpcuaServer, count: int, ticks: Iterator[Readings], put: Put) -> float:
    """Return the CPU seconds a value of this process, from the first reading to the last delivery."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=listen, args=(server.url, count, (ROUNDS + 1) * count, theirs))
    process.start()
    await asyncio.to_thread(ours.recv)
    await asyncio.sleep(0.3)                    # the first notification, of what was there before
    begun = time.process_time()
    for readings in ticks:
        await put(readings)
        await asyncio.sleep(0.05)               # as in life: several publishing instants, not one heap
    await asyncio.to_thread(ours.recv)
    spent = time.process_time() - begun
    await asyncio.to_thread(process.join)      # the subscriber takes its leave, and is answered
    return spent / (ROUNDS * count)


def made_up(count: int) -> Iterator[Readings]:
    """Yield rounds of readings without a simulation behind them."""
    good = np.zeros(count, dtype=np.uint32)
    for k in range(ROUNDS):
        yield Readings((START_S + k) * 1_000_000, np.arange(count), np.full(count, float(k)), good)


async def bare(server: OpcuaServer, readings: Readings) -> None:
    """Write with asyncua's own means."""
    for i, value in enumerate(readings.values.tolist()):
        at = cast(Any, moment(readings.time_us))
        data = ua.DataValue(ua.Variant(value, ua.VariantType.Double), ua.StatusCode(ua.UInt32(0)), at, at)
        await server._server.write_attribute_value(server._nodes[i], data)


async def main(count: int) -> None:
    """Run all contenders and print a line each."""
    park = park_of(count)
    ranges = dict.fromkeys(range(count), (0.0, 100.0))
    sampler = Sampler(park, Scenario(), seed=1, start=START_S, on_state=lambda state: None)
    ticks = islice(Schedule(park.meters).ticks(START_S + 5), ROUNDS)

    async def serving(contender: Callable[[OpcuaServer], tuple[Iterator[Readings], Put]]) -> float:
        server = OpcuaServer(URL, park, range(count), await StandardNodes.build(), time.time)
        await server.start(ranges)
        spent = await cost(server, count, *contender(server))
        await server.stop()
        return spent

    names = [m.id for m in park.meters]
    with tempfile.TemporaryDirectory() as folder, SentFile(Path(folder) / "sent.csv", names) as sent:
        def whole(server: OpcuaServer) -> tuple[Iterator[Readings], Put]:
            def read(tick: Tick) -> Readings:
                readings = sampler.read(tick)
                sent.write(readings)
                return readings
            return (read(tick) for tick in ticks), server.write

        costs = {
            "asyncua write": await serving(lambda s: (made_up(count), lambda readings: bare(s, readings))),
            "OpcuaServer.write": await serving(lambda s: (made_up(count), s.write)),
            "truth, instruments, sent.csv, write": await serving(whole),
        }
    first = costs["asyncua write"]
    for name, spent in costs.items():
        print(f"{name:38} {spent * 1e6:7.1f} us/value  ratio {spent / first:5.2f}"
              f"  {0.5 / spent:9,.0f} values/s on half a core")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
