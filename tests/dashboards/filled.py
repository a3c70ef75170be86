"""A database filled by the simulators: a quarter of an hour of Kalundborg with its faults, through the whole chain."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import psycopg

from park.load import load_park
from park.store import connect, store_park
from processing import results_store
from processing.chain import Chain
from processing.detect.meter_silent import Presence
from processing.results_store import Stamp, instant
from processing.window import BEFORE
from simulators.scenario_file import load_scenario
from tests.processing.simulated import START, Simulated

KALUNDBORG = Path(__file__).parents[2] / "simulators" / "kalundborg"
WINDOWS = 45
BEGAN = instant(round(START * 1e6))
ENDED = BEGAN + timedelta(seconds=20 * WINDOWS)


def fill(dsn: str, windows: int = WINDOWS) -> None:
    """Play Kalundborg from its scenario, faults from the first window on, and store what processing makes of it."""
    park = load_park(KALUNDBORG / "park.yaml")
    played = Simulated(park, load_scenario(KALUNDBORG / "scenario.yaml", park), start=START)
    played.sampler.faults.arm(START)
    chain = Chain(park)
    with connect(dsn) as conn:
        version = store_park(conn, park)
        conn.commit()
        for window in played.windows(windows):
            start, end = window.start_us, window.start_us + round(park.park.window_s * 1e6)
            result = chain.run(played.readings, start, end, _presence(played, start, end))
            with conn.transaction():
                results_store.write_window(conn, result, Stamp("complete", end + 1_500_000, 0, version))
        _collector(conn)


def _presence(played: Simulated, start: int, end: int) -> Presence:
    """Everybody has sent since the beginning."""
    n = len(played.park.meters)
    inside = played.readings.between(start, end)
    first = np.full(n, BEFORE, dtype=np.int64)
    some = inside.start[1:] > inside.start[:-1]
    first[some] = inside.time_us[inside.start[:-1][some]]
    return Presence(
        played.readings.last_time_us(),
        first,
        np.full(n, round(played.start * 1e6), dtype=np.int64),
        np.zeros(n, dtype=np.bool_),
        end,
        10_000_000,
    )


def _collector(conn: psycopg.Connection) -> None:
    """Write what the collector would say of two sources, and a gap of each kind."""
    with conn.transaction():
        conn.cursor().executemany(
            "insert into collector_source (source, protocol, state, since, last_source_time, last_received_at,"
            " readings, rejected, detail) values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                ("opcua:opc.tcp://127.0.0.1:4841", "opcua", "receiving", BEGAN, ENDED, ENDED, 20_000, 0, None),
                ("mqtt", "mqtt", "receiving", BEGAN, ENDED, ENDED, 9_000, 2, None),
            ],
        )
        conn.cursor().executemany(
            "insert into source_mark"
            " (source, complete_to, computed_at, silent, waiting, clock_offset_s, clock_spread_s)"
            " values (%s, %s, %s, 0, 0, %s, 0.1)",
            [
                ("opcua:opc.tcp://127.0.0.1:4841", ENDED - timedelta(seconds=2), ENDED, 0.2),
                ("mqtt", ENDED - timedelta(seconds=7), ENDED, None),
            ],
        )
        conn.execute(
            "insert into meter_mark (meter, source, computed_at, silent)"
            " values ('power.FT-S20', 'opcua:opc.tcp://127.0.0.1:4841', %s, false)", [ENDED])
        conn.cursor().executemany(
            "insert into gap (source, meter, started_at, ended_at, cause) values (%s, %s, %s, %s, %s)",
            [
                ("mqtt", None, BEGAN + timedelta(minutes=5), BEGAN + timedelta(minutes=6), "broker was away"),
                (
                    "opcua:opc.tcp://127.0.0.1:4841",
                    "power.FT-S20",
                    BEGAN + timedelta(minutes=9),
                    None,
                    "queue overflow",
                ),
            ],
        )
        conn.execute(
            "insert into arrival (period_start, period_end, row_count, received_at) values (%s, %s, 1000, %s)",
            [ENDED - timedelta(seconds=20), ENDED, ENDED],
        )
