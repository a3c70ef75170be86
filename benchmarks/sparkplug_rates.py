"""Sparkplug payloads of 100 metrics, from the broker to committed rows, beside a bare binary COPY of as many rows.

    python -m benchmarks.sparkplug_rates [MESSAGES] [ROUNDS]

An edge node in another process sends DATA at QoS 0, as the specification has it, as fast as they are stored: it is
never more than `AHEAD` messages before the store, for a broker may drop what a slow subscriber does not take. The bare
COPY writes numpy buffers, encoded before, into a table of the same columns and key. Both in turn, `ROUNDS` times, with
so many messages that the 0.2 s for which the last batch may wait count for little. Printed are rows/s of each round,
their ratio, and CPU and memory of the collector's process. Broker, node and database share the machine.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import psutil
import psycopg
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.collector_rates import collected, park_of
from park.store import migrate
from park.store.copy_format import READING_COLUMNS, encode_readings
from park.store.embedded import EmbeddedPostgres
from simulators.sparkplug_wire import DOUBLE, INT64, Metric, payload
from symbiosis.broker import Broker

METRICS = 100
AHEAD = 1_500               # messages
START_MS = round(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
ROWS_A_COPY = 50_000
CONTEXT = multiprocessing.get_context("spawn")


def be_a_node(port: int, messages: int, stored: Any, pipe: Connection) -> None:
    """Be born, and send `messages` DATA each time that the pipe asks, `AHEAD` before what is stored at most."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="node")
    client.connect("127.0.0.1", port)
    client.loop_start()
    first = 0
    while pipe.recv():
        data = [_data(first + k, (k + 2) % 256) for k in range(messages)]      # its making is not what is measured
        first += messages
        pipe.send(True)
        pipe.recv()
        bd_seq = Metric(0, name="bdSeq", datatype=INT64)
        metrics = [Metric(None, f"m{i}", i, None, DOUBLE) for i in range(METRICS)]
        client.publish("spBv1.0/g/NBIRTH/e", payload(START_MS, [bd_seq], 0))
        client.publish("spBv1.0/g/DBIRTH/e/d", payload(START_MS, metrics, 1))
        for k, message in enumerate(data):
            client.publish("spBv1.0/g/DDATA/e/d", message)
            while k - stored.value / METRICS > AHEAD:
                time.sleep(0.005)
    client.disconnect()


def _data(number: int, seq: int) -> bytes:
    when = START_MS + 100 * number
    return payload(when, [Metric(0.5 * number + i, None, i, when) for i in range(METRICS)], seq)


def bare_copy(dsn: str, rows: int) -> float:
    """Return the wall seconds of binary COPYs of so many new rows into a table with the reading's columns and key."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table bare (like reading including all)")
        names = [f"M{i}" for i in range(METRICS)]
        spent = 0.0
        for first in range(0, rows, ROWS_A_COPY):
            number = np.arange(first, min(first + ROWS_A_COPY, rows))
            when_us = START_MS * 1000 + number // METRICS * 100_000
            data = encode_readings(names, number % METRICS, when_us, when_us, 0 * number,
                                   number.astype(np.float64) * 0.5)
            begun = time.monotonic()
            with conn.cursor() as cursor, cursor.copy(f"copy bare ({READING_COLUMNS}) from stdin binary") as copy:
                copy.write(data)
            spent += time.monotonic() - begun
        conn.execute("drop table bare")
    return spent


async def sparkplug(dsn: str, broker: Broker, messages: int, rounds: int) -> None:
    """Run both in turn, and print them."""
    stored = CONTEXT.Value("q", 0)
    ours, theirs = CONTEXT.Pipe()
    node = CONTEXT.Process(target=be_a_node, args=(broker.port, messages, stored, theirs))
    node.start()
    park = park_of([{"sparkplug": {"group": "g", "edge_node": "e", "device": "d", "metric": f"m{i}"}}
                    for i in range(METRICS)])
    rows = messages * METRICS
    ratios = []
    print(f"Sparkplug, {METRICS} metrics a payload, {broker.description}")
    print(f"{'bare COPY rows/s':>18}{'collector rows/s':>18}{'ratio':>8}{'CPU us a row':>14}{'memory MB':>11}")
    for _ in range(rounds):
        ours.send(True)
        await asyncio.to_thread(ours.recv)
        bare_s = await asyncio.to_thread(bare_copy, dsn, rows)

        def begin() -> None:
            stored.value = 0
            ours.send(True)

        wall_s, cpu_s = await collected(park, dsn, rows, begin, broker=broker.url, on_stored=lambda count: setattr(
            stored, "value", count))
        ratios.append(bare_s / wall_s)
        memory = psutil.Process().memory_info().rss / 1e6
        print(f"{rows / bare_s:18,.0f}{rows / wall_s:18,.0f}{bare_s / wall_s:8.2f}"
              f"{cpu_s / rows * 1e6:14.2f}{memory:11.0f}")
    print(f"{'median ratio':>44}{statistics.median(ratios):8.2f}")
    ours.send(False)
    node.join()


async def main(messages: int, rounds: int) -> None:
    """Run everything on a database and broker of its own."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name, EmbeddedPostgres(Path(name)) as database:
        migrate(database.dsn)
        with Broker(Path(name)) as broker:
            await sparkplug(database.dsn, broker, messages, rounds)


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    asyncio.run(main(*arguments, *(10_000, 3)[len(arguments):]))
