"""What a collected reading costs, through to the committed row, as ratios to the bare libraries in the same run.

    python benchmarks/collector_rates.py [SECONDS]

OPC UA: a server in another process pushes values at a steady pace; CPU of this process a value, for asyncua's own
data-change handler (which stores nothing) and for the collector with its database writes.
MQTT: a publisher in another process sends as fast as it may, at QoS 1; messages/s of a bare paho subscriber
(which stores nothing) and of the collector, whose acknowledgements wait for the commit.
Servers, database and broker share the machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as paho
import psycopg
from asyncua import Client, Server, ua
from paho.mqtt.enums import CallbackAPIVersion

from collector.agent import collect
from park.clock import REAL_TIME
from park.model import Park
from park.store import migrate
from park.store.embedded import EmbeddedPostgres
from simulators.opcua_server import Reading
from symbiosis.broker import Broker

TAGS = 400
ROUND_S = 0.1                   # 4,000 values/s: a third of what one asyncua server can push
TOPICS = 100
LOOK_S = 0.1                    # each look costs a millisecond of CPU
START = datetime(2026, 1, 1, tzinfo=UTC)
CONTEXT = multiprocessing.get_context("spawn")


def park_of(sources: list[dict[str, Any]]) -> Park:
    """Return a park of one stream with these sources as meters."""
    return Park.model_validate({
        "park": {"name": "Benchmark", "timezone": "UTC"},
        "participants": [{"id": "a", "name": "A"}],
        "nodes": [{"id": "n", "participant": "a"}],
        "streams": [{"id": "S", "from": "environment", "to": "n", "carrier": "water"}],
        "meters": [{"id": f"M{i}", "stream": "S", "side": "receiver", "quantity": "mass_flow", "unit": "t/h",
                    "u95_percent_of_reading": 1.0, "interval_s": ROUND_S, "source": source}
                   for i, source in enumerate(sources)],
    })


# -- the other processes ----------------------------------------------------------------------------------------------


def serve(pipe: Connection) -> None:
    """Serve nodes; push the number of rounds that the pipe asks for."""
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
    for node in nodes:
        await server.nodes.objects.add_variable(node, f"2:{node.Identifier}", 0.0)
    write = server.iserver.aspace.write_attribute_value
    async with server:
        pipe.send(f"opc.tcp://127.0.0.1:{server.bserver.port}")
        pushed = 0
        while rounds := await asyncio.to_thread(pipe.recv):
            begun = time.monotonic()
            for k in range(rounds):
                when: Any = START + timedelta(seconds=ROUND_S * pushed)
                pushed += 1
                for node in nodes:
                    await write(node, ua.AttributeIds.Value, Reading(ua.Variant(float(k)), ua.StatusCode(), when, when))
                await asyncio.sleep(max(0.0, begun + (k + 1) * ROUND_S - time.monotonic()))


def publish(port: int, count: int, pipe: Connection) -> None:
    """Publish `count` messages as fast as the broker takes them, each time that the pipe asks."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="publisher")
    client.max_inflight_messages_set(100)
    client.connect("127.0.0.1", port)
    client.loop_start()
    sent = 0
    while pipe.recv():
        last = None
        for _ in range(count):
            when = (START + timedelta(seconds=ROUND_S * sent)).isoformat()
            last = client.publish(f"b/M{sent % TOPICS}", json.dumps({"value": 1.5, "ts": when}), qos=1)
            sent += 1
        if last is not None:
            last.wait_for_publish()
    client.disconnect()


# -- the contenders ---------------------------------------------------------------------------------------------------


async def collected(
    park: Park, dsn: str, count: int, begin: Callable[[], None], *, on_stored: Callable[[int], None] = lambda _: None,
    **options: Any,
) -> tuple[float, float]:
    """Return wall seconds and CPU seconds of the collector until `count` readings are committed."""
    stop, armed = asyncio.Event(), asyncio.Event()

    def on_state(state: str, _detail: dict[str, object]) -> None:
        if state == "armed":
            armed.set()

    running = asyncio.create_task(collect(park, dsn, REAL_TIME, stop=stop, on_state=on_state, **options))
    await armed.wait()
    with psycopg.connect(dsn, autocommit=True) as conn:
        before = _stored(conn)
        begun, cpu = time.monotonic(), time.process_time()
        begin()
        while (stored := _stored(conn) - before) < count:
            on_stored(stored)
            await asyncio.sleep(LOOK_S)         # the store announces batches, not a sum
        spent = time.monotonic() - begun, time.process_time() - cpu
    stop.set()
    await running
    return spent


def _stored(conn: psycopg.Connection) -> int:
    row = conn.execute("select coalesce(sum(row_count), 0) from arrival").fetchone()
    return int(row[0]) if row else 0


async def handled(url: str, count: int, begin: Callable[[], None]) -> tuple[float, float]:
    """Return wall seconds and CPU seconds of asyncua's handler until it has seen `count` values."""
    whole = asyncio.Event()

    class Handler:
        seen = -TAGS                    # the first notification tells what was there before

        def datachange_notification(self, _node: object, _value: object, _data: object) -> None:
            self.seen += 1
            if self.seen >= count:
                whole.set()

    async with Client(url) as client:
        subscription = await client.create_subscription(100, Handler())
        changes = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
        nodes = [client.get_node(f"ns=2;s=M{i}") for i in range(TAGS)]
        await subscription._subscribe(nodes, queuesize=1000, mfilter=changes)
        await asyncio.sleep(0.5)
        begun, cpu = time.monotonic(), time.process_time()
        begin()
        await whole.wait()
        return time.monotonic() - begun, time.process_time() - cpu


def subscribed(port: int, count: int, begin: Callable[[], None]) -> tuple[float, float]:
    """Return wall seconds and CPU seconds of a bare paho subscriber, with a session, until it has `count` messages."""
    ready, whole = threading.Event(), threading.Event()
    seen = 0

    def on_message(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            whole.set()

    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="bare", clean_session=False)
    client.on_message = on_message
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe("b/#", qos=1)
    ready.wait()
    begun, cpu = time.monotonic(), time.process_time()
    begin()
    whole.wait()
    spent = time.monotonic() - begun, time.process_time() - cpu
    client.unsubscribe("b/#")           # lest the broker keep what the next contender is sent
    client.disconnect()
    client.loop_stop()
    return spent


# -- the runs ---------------------------------------------------------------------------------------------------------


async def opcua(dsn: str, seconds: float) -> None:
    """Run both OPC UA contenders and print them."""
    ours, theirs = CONTEXT.Pipe()
    server = CONTEXT.Process(target=serve, args=(theirs,))
    server.start()
    url = await asyncio.to_thread(ours.recv)
    rounds = round(seconds / ROUND_S)
    park = park_of([{"opcua": {"endpoint": url, "node_id": f"ns=2;s=M{i}"}} for i in range(TAGS)])

    async def run(work: Callable[[int, Callable[[], None]], Awaitable[tuple[float, float]]]) -> tuple[float, float]:
        return await work(rounds * TAGS, lambda: ours.send(rounds))

    bare = await run(lambda count, begin: handled(url, count, begin))
    full = await run(lambda count, begin: collected(park, dsn, count, begin))
    ours.send(0)
    server.join()
    _print(f"OPC UA, {TAGS} tags, at the server's pace", rounds * TAGS, {"asyncua's handler": bare, "collector": full})


async def mqtt(dsn: str, count: int, folder: Path, program: Literal["mosquitto", "iotcore"] | None) -> None:
    """Run both MQTT contenders and print them."""
    with Broker(folder, program=program) as broker:
        ours, theirs = CONTEXT.Pipe()
        publisher = CONTEXT.Process(target=publish, args=(broker.port, count, theirs))
        publisher.start()
        park = park_of([{"mqtt": {"topic": f"b/M{i}", "value": "$.value", "time": "$.ts"}} for i in range(TOPICS)])
        bare = await asyncio.to_thread(subscribed, broker.port, count, lambda: ours.send(True))
        full = await collected(park, dsn, count, lambda: ours.send(True), broker=broker.url)
        ours.send(False)
        publisher.join()
    _print(f"MQTT, QoS 1, {broker.description}", count, {"paho subscriber": bare, "collector": full})


def _print(title: str, count: int, contenders: dict[str, tuple[float, float]]) -> None:
    """Print a line a contender; the first is the one that the others are held against."""
    (first_wall_s, first_cpu_s), *_ = contenders.values()
    print(f"\n{title}\n{'':24}{'rate 1/s':>12}{'ratio':>8}{'CPU us each':>14}{'ratio':>8}")
    for name, (wall_s, cpu_s) in contenders.items():
        print(f"  {name:22}{count / wall_s:12,.0f}{first_wall_s / wall_s:8.2f}"
              f"{cpu_s / count * 1e6:14.1f}{cpu_s / first_cpu_s:8.2f}")


async def main(seconds: float) -> None:
    """Run everything on a database and brokers of its own."""
    programs: list[Literal["mosquitto", "iotcore"]] = ["iotcore"]
    if shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin"):
        programs.append("mosquitto")
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name, EmbeddedPostgres(Path(name)) as database:
        migrate(database.dsn)
        await opcua(database.dsn, seconds)
        for program in programs:
            await mqtt(database.dsn, round(1000 * seconds), Path(name) / program, program)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0))
