"""What a collected reading costs, through to the committed row, as ratios to the bare libraries in the same run.

    python -m benchmarks.collector_rates [SECONDS]

MQTT: messages at QoS 1 that wait in a session at mosquitto are drained; messages/s of a bare paho subscriber, which
stores nothing and acknowledges at once, of the collector, whose acknowledgements wait for the commit, and of the
collector with a spool while the database is away, whose acknowledgements wait for the disk. With mosquitto's
`max_inflight_messages` at 20, its default, and at 1,000. The contenders take turns, 10,000 messages a second asked for
each; a short first turn, for what Python loads, does not count. Database and broker share the machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psycopg
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client import CollectorRegistry

from collector.agent import collect
from collector.spool import SpoolSettings
from park.clock import REAL_TIME
from park.model import Park
from park.store import migrate
from park.store.embedded import EmbeddedPostgres

TOPICS = 100
ROUND_S = 0.1                   # from one reading of a meter to its next
LOOK_S = 0.1                    # each look costs a millisecond of CPU
MESSAGES_A_SECOND = 10_000      # asked for: a third of what the bare subscriber takes
WARM_UP = 500                   # messages of the turn that does not count
CLIENT_ID = "benchmark"
NOWHERE = "host=/nowhere dbname=park"
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
CONTEXT = multiprocessing.get_context("spawn")
Spent = tuple[float, float]     # wall and CPU of this process [s]


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


def publish(port: int, count: int) -> None:
    """Publish `count` messages as fast as the broker takes them."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="publisher")
    client.max_inflight_messages_set(1_000)
    client.connect("127.0.0.1", port)
    client.loop_start()
    start = datetime.now(UTC) - timedelta(seconds=ROUND_S * count / TOPICS)
    for number in range(count):
        when = (start + timedelta(seconds=ROUND_S * (number // TOPICS))).isoformat()
        last = client.publish(f"b/M{number % TOPICS}", json.dumps({"value": 1.5, "ts": when}), qos=1)
    last.wait_for_publish()
    client.disconnect()


# -- the contenders ---------------------------------------------------------------------------------------------------


async def collected(
    park: Park, dsn: str, count: int, begin: Callable[[], None], *, on_stored: Callable[[int], None] = lambda _: None,
    **options: Any,
) -> Spent:
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


def subscribed(port: int, count: int) -> Spent:
    """Return what a bare paho subscriber spends until it has the `count` messages of its session."""
    whole = threading.Event()
    seen = 0

    def on_message(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            whole.set()

    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=CLIENT_ID, clean_session=False)
    client.on_message = on_message
    begun, cpu = time.monotonic(), time.process_time()
    client.connect("127.0.0.1", port)
    client.loop_start()
    whole.wait()
    spent = time.monotonic() - begun, time.process_time() - cpu
    client.disconnect()
    client.loop_stop()
    return spent


async def drained(park: Park, dsn: str, count: int, **options: Any) -> Spent:
    """Return what the collector spends until the `count` messages of its session are committed, its start included."""
    stop = asyncio.Event()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("truncate reading, arrival")
        begun, cpu = time.monotonic(), time.process_time()
        running = asyncio.create_task(collect(park, dsn, REAL_TIME, stop=stop, **options))
        while _stored(conn) < count:   # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)         # the store announces batches, not a sum
        spent = time.monotonic() - begun, time.process_time() - cpu
    stop.set()
    await running
    return spent


async def spooled(park: Park, count: int, folder: Path, broker: str) -> Spent:
    """Return what the collector spends until the `count` messages of its session are in its spool, start included."""
    stop, told = asyncio.Event(), CollectorRegistry()
    begun, cpu = time.monotonic(), time.process_time()
    running = asyncio.create_task(collect(
        park, NOWHERE, REAL_TIME, stop=stop, broker=broker, spool=SpoolSettings(folder), metrics=told))
    while (told.get_sample_value("symbiosis_spool_readings") or 0) < count:     # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)             # the spool announces nothing
    spent = time.monotonic() - begun, time.process_time() - cpu
    stop.set()
    await running
    return spent


# -- the runs ---------------------------------------------------------------------------------------------------------


async def mqtt(dsn: str, count: int, folder: Path, inflight: int) -> None:
    """Run all MQTT contenders in turn, twice, and print them."""
    park = park_of([{"mqtt": {"topic": f"b/M{i}", "value": "$.value", "time": "$.ts"}} for i in range(TOPICS)])
    spent: dict[str, list[Spent]] = {"paho subscriber": [], "collector": [], "collector to its spool": []}
    with mosquitto(folder, inflight) as port:
        url = f"mqtt://127.0.0.1:{port}?client_id={CLIENT_ID}"
        for turn, messages in enumerate((WARM_UP, count, count)):
            await asyncio.to_thread(fill_session, port, messages)
            spent["paho subscriber"].append(await asyncio.to_thread(subscribed, port, messages))
            await asyncio.to_thread(fill_session, port, messages)
            spent["collector"].append(await drained(park, dsn, messages, broker=url))
            await asyncio.to_thread(fill_session, port, messages)
            spent["collector to its spool"].append(await spooled(park, messages, folder / f"spool{turn}", url))
    sums = {name: (sum(wall for wall, _ in turns[1:]), sum(cpu for _, cpu in turns[1:]))
            for name, turns in spent.items()}
    _print(f"MQTT, QoS 1, max_inflight_messages {inflight}", 2 * count, sums)


def fill_session(port: int, count: int) -> None:
    """Make a session that holds `count` messages."""
    ready = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=CLIENT_ID, clean_session=False)
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe([(f"b/M{i}", 1) for i in range(TOPICS)])
    ready.wait()
    client.disconnect()
    client.loop_stop()
    if not count:
        return
    publisher = CONTEXT.Process(target=publish, args=(port, count))
    publisher.start()
    publisher.join()


@contextmanager
def mosquitto(folder: Path, inflight: int) -> Iterator[int]:
    """Run a mosquitto that keeps all it is given, in memory, so that not the broker is measured; provide its port."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    settings = folder / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
                        f"max_inflight_messages {inflight}\n")
    broker = subprocess.Popen([str(MOSQUITTO), "-c", str(settings)], stderr=subprocess.DEVNULL)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(LOOK_S)
        yield port
    finally:
        broker.kill()
        broker.wait()


def _print(title: str, count: int, contenders: dict[str, Spent]) -> None:
    """Print a line a contender; the first is the one that the others are held against."""
    (first_wall_s, first_cpu_s), *_ = contenders.values()
    print(f"\n{title}\n{'':24}{'rate 1/s':>12}{'ratio':>8}{'CPU us each':>14}{'ratio':>8}")
    for name, (wall_s, cpu_s) in contenders.items():
        print(f"  {name:22}{count / wall_s:12,.0f}{first_wall_s / wall_s:8.2f}"
              f"{cpu_s / count * 1e6:14.1f}{cpu_s / first_cpu_s:8.2f}")


async def main(seconds: float) -> None:
    """Run everything on a database and brokers of its own."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name, EmbeddedPostgres(Path(name)) as database:
        migrate(database.dsn)
        if MOSQUITTO is None:
            print("\nMQTT: not measured, there is no mosquitto here")
        for inflight in (20, 1_000) if MOSQUITTO else ():
            await mqtt(database.dsn, round(MESSAGES_A_SECOND * seconds), Path(name) / f"mqtt{inflight}", inflight)
    print(f"\nmemory of this process at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0))
