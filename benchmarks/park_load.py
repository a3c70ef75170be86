"""How long a large park takes to load and to check, as ratios to PyYAML's own loader on the same text in the same run.

    python benchmarks/park_load.py [METERS]

Prints one line a contender: seconds (best of three; of the check one run alone) and the ratio to the bare parse with
CSafeLoader. The check is `symbiosis check` without its printing: classes, std, every meter, every place for one more.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import yaml

from park.load import load_park
from symbiosis.check import findings

KEYS = ("id", "stream", "side", "quantity", "unit", "u95_percent_of_reading", "systematic_share", "interval_s")
HEAD = """\
park: {name: Large park, timezone: Europe/Copenhagen, currency: EUR}
participants:
  - {id: a, name: One}
  - {id: b, name: Other}
nodes:
"""


def park_text(meters: int, table: bool) -> tuple[str, str]:
    """Return a park.yaml of `meters` meters, four on each of a chain of streams, and its meters.csv if `table`."""
    streams = max(2, meters // 4)
    nodes = [f"  - {{id: n{i}, participant: {'ab'[i % 2]}, conserves: [mass]}}" for i in range(streams)]
    links = [
        f"  - {{id: S{i}, name: Stream {i}, from: {f'n{i - 1}' if i else 'environment'}, to: n{i}, carrier: water,\n"
        f"     nominal: {{value: {20 + i % 30}, unit: t/h}}, bounds: {{min: 0, max: 60, unit: t/h}}}}"
        for i in range(streams)
    ]
    rows = [
        (
            f"p.FT{i}",
            f"S{i % streams}",
            "receiver",
            "mass_flow",
            "t/h",
            "1.0",
            "0.5",
            "1",
            "opc.tcp://127.0.0.1:4840",
            f"ns=2;s=p.FT{i}",
        )
        for i in range(meters)
    ]
    if table:
        header = ",".join((*KEYS, "opcua.endpoint", "opcua.node_id"))
        section, csv = "meters: {csv: meters.csv}", "\n".join([header, *(",".join(row) for row in rows)])
    else:
        section, csv = "meters:\n" + "\n".join(map(_entry, rows)), ""
    return "\n".join([HEAD.rstrip(), *nodes, "streams:", *links, section, ""]), csv


def _entry(row: tuple[str, ...]) -> str:
    first, *rest = (f"{key}: {cell}" for key, cell in zip(KEYS, row, strict=False))
    source = f'source: {{opcua: {{endpoint: "{row[8]}", node_id: "{row[9]}"}}}}'
    return "\n".join([f"  - {first}", *(f"    {line}" for line in (*rest, source))])


def best_of_three(work: Callable[[], object]) -> float:
    """Return the least wall time of three runs of `work` [s]."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the table."""
    meters = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        inline, tabled = Path(folder, "park.yaml"), Path(folder, "tabled.yaml")
        inline.write_text(park_text(meters, table=False)[0])
        text, csv = park_text(meters, table=True)
        tabled.write_text(text)
        Path(folder, "meters.csv").write_text(csv)
        bare = best_of_three(lambda: yaml.load(inline.read_text(), Loader=yaml.CSafeLoader))
        print(f"{meters} meters{'':24}seconds   ratio")
        print(f"{'bare parse, CSafeLoader':34}{bare:9.2f}{1:8.2f}")
        for name, path in (("load_park, meters in park.yaml", inline), ("load_park, meters in meters.csv", tabled)):
            seconds = best_of_three(partial(load_park, path))
            print(f"{name:34}{seconds:9.2f}{seconds / bare:8.2f}")
        park = load_park(inline)
        start = time.perf_counter()
        findings(park, datetime.now(UTC))
        seconds = time.perf_counter() - start
        print(f"{'check of the loaded park':34}{seconds:9.2f}{seconds / bare:8.2f}")


if __name__ == "__main__":
    main()
