"""Memory and pace of the collector over time, at half of what it can take, with a database that comes and goes.

    python -m benchmarks.soak [SECONDS] [RATE]

RATE messages/s (default 2,000, about half of what one process takes on this machine while all else runs beside it) are
published at QoS 1 to mosquitto for SECONDS (default 60). The collector has a spool; its database lets nobody in for the
third quarter of the time. Each row: time, resident memory of the collector's process, its share of a core, readings in
the database and in the spool. What the summary says of memory is the least squares slope, in MiB an hour, before the
database goes (without the first tenth of the time) and after it is back. At the end every reading that was sent must be
stored; what waits at the broker is waited for as long as it becomes less.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import psutil
import psycopg
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks.collector_rates import CLIENT_ID, CONTEXT, TOPICS, fill_session, mosquitto, park_of
from collector.agent import collect
from collector.spool import SpoolSettings
from park.clock import REAL_TIME
from park.store import migrate
from park.store.embedded import EmbeddedPostgres

EVERY_S = 0.1           # messages go out in portions, as instruments send them
ROWS = 20               # of the table that is printed
STUCK_S = 30.0          # without a reading more at the end, the rest is missing


def publish(port: int, seconds: float, rate: float, pipe: Connection) -> None:
    """Publish at a steady rate; tell how many it were."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="publisher")
    client.max_queued_messages_set(0)
    client.max_inflight_messages_set(1_000)
    client.connect("127.0.0.1", port)
    client.loop_start()
    start, begun, sent = datetime.now(UTC), time.monotonic(), 0
    while (passed := time.monotonic() - begun) < seconds:
        for _ in range(sent, int(passed * rate)):
            when = (start + timedelta(seconds=sent // TOPICS * TOPICS / rate)).isoformat()
            payload = json.dumps({"value": sent % 1000, "ts": when})
            topic, full = f"b/M{sent % TOPICS}", MQTTErrorCode.MQTT_ERR_QUEUE_SIZE
            while (last := client.publish(topic, payload, qos=1)).rc == full:
                time.sleep(EVERY_S)     # 65,535 are on their way: paho takes no more, however long its queue may be
            sent += 1
        time.sleep(EVERY_S)
    last.wait_for_publish()
    client.disconnect()
    pipe.send(sent)


def run_collector(dsn: str, url: str, folder: Path, pipe: Connection) -> None:
    """Collect until the pipe says so; tell when all is armed, and how many readings wait in the spool when asked."""
    logging.disable(logging.WARNING)
    asyncio.run(_run_collector(dsn, url, folder, pipe))


async def _run_collector(dsn: str, url: str, folder: Path, pipe: Connection) -> None:
    park = park_of([{"mqtt": {"topic": f"b/M{i}", "value": "$.value", "time": "$.ts"}} for i in range(TOPICS)])
    stop = asyncio.Event()

    def on_state(state: str, _detail: dict[str, object]) -> None:
        if state == "armed":
            pipe.send(state)

    collecting = asyncio.create_task(collect(
        park, dsn, REAL_TIME, broker=url, stop=stop, on_state=on_state, spool=SpoolSettings(folder)))
    await asyncio.to_thread(pipe.recv)
    stop.set()
    await collecting


def let_in(dsn: str, *, yes: bool) -> None:
    """Let connections to the database in, or cut all and let none in."""
    name = str(conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as conn:
        conn.execute(f"alter database {name} allow_connections {yes}".encode())
        if not yes:
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])


def stored(dsn: str) -> int:
    """Return how many readings are in the database; -1 while it lets nobody in."""
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            row = conn.execute("select coalesce(sum(row_count), 0) from arrival").fetchone()
            return int(row[0]) if row else 0
    except psycopg.OperationalError:
        return -1


def watch(dsn: str, pid: int, folder: Path, seconds: float) -> list[tuple[float, float]]:
    """Print how it fares, and cut the database off for the third quarter; return time [s] and memory [MiB]."""
    process = psutil.Process(pid)
    process.cpu_percent()
    seen: list[tuple[float, float]] = []
    begun, is_away = time.monotonic(), False
    print(f"{'s':>8}{'RSS MiB':>10}{'core %':>8}{'stored':>12}{'spool MiB':>11}")
    while (passed := time.monotonic() - begun) < seconds:
        should_be_away = 0.5 <= passed / seconds < 0.75
        if should_be_away != is_away:
            let_in(dsn, yes=is_away)
            is_away = should_be_away
        memory = process.memory_info().rss / 2**20
        seen.append((passed, memory))
        spool = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
        print(f"{passed:8.0f}{memory:10.1f}{process.cpu_percent():8.0f}{stored(dsn):12,}{spool:11.1f}", flush=True)
        time.sleep(seconds / ROWS)
    let_in(dsn, yes=True)
    return seen


def wait_for(dsn: str, sent: int) -> None:
    """Wait until all that was sent is stored, or nothing more comes."""
    there, since = stored(dsn), time.monotonic()
    while there < sent and time.monotonic() - since < STUCK_S:
        time.sleep(1.0)
        now = stored(dsn)
        if now > there:
            there, since = now, time.monotonic()


def slope(seen: np.ndarray, start: float, end: float) -> float:
    """Return how memory grew from one share of the time to another [MiB/h]."""
    time_s, memory = seen[(seen[:, 0] >= start * seen[-1, 0]) & (seen[:, 0] <= end * seen[-1, 0])].T
    return float(np.polyfit(time_s, memory, 1)[0] * 3600) if len(time_s) > 2 else float("nan")


def main(seconds: float, rate: float) -> None:
    """Run, print, and fail if a reading is missing."""
    with tempfile.TemporaryDirectory() as name, EmbeddedPostgres(Path(name)) as database:
        migrate(database.dsn)
        spool = Path(name) / "spool"
        with mosquitto(Path(name) / "mqtt", 20) as port:
            fill_session(port, 0)
            ours, theirs = CONTEXT.Pipe()
            url = f"mqtt://127.0.0.1:{port}?client_id={CLIENT_ID}"
            collector = CONTEXT.Process(target=run_collector, args=(database.dsn, url, spool, theirs))
            collector.start()
            ours.recv()
            told, telling = CONTEXT.Pipe()
            publisher = CONTEXT.Process(target=publish, args=(port, seconds, rate, telling))
            publisher.start()
            assert collector.pid is not None
            seen = np.array(watch(database.dsn, collector.pid, spool, seconds))
            sent = told.recv()
            publisher.join()
            wait_for(database.dsn, sent)
            ours.send("stop")
            collector.join()
        with psycopg.connect(database.dsn) as conn:
            row = conn.execute("select count(*) from reading").fetchone()
    missing = sent - (row[0] if row else 0)
    print(f"\n{sent:,} sent, {missing} missing; memory {seen[:, 1].min():.1f} to {seen[:, 1].max():.1f} MiB, "
          f"{slope(seen, 0.1, 0.5):+.1f} MiB an hour before the database went, {slope(seen, 0.85, 1.0):+.1f} after")
    if missing:
        sys.exit(1)


if __name__ == "__main__":
    given = [float(argument) for argument in sys.argv[1:]]
    main(given[0] if given else 60.0, given[1] if len(given) > 1 else 2_000.0)
