"""The park that faults are made in: two OPC UA servers, JSON and two Sparkplug nodes on a broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PER_SOURCE = 12
HEAD = """\
park: {name: Faults, timezone: UTC, window_s: 20, lateness_s: 10}
participants: [{id: a, name: A}, {id: b, name: B}]
nodes: [{id: a.out, participant: a, conserves: []}, {id: b.in, participant: b, conserves: []}]
"""


def write_park(folder: Path) -> Path:
    """Write park.yaml into a folder, and return where it is."""
    sources = list(_sources())
    streams = [
        f"  - {{id: S{n}, from: a.out, to: b.in, carrier: water, nominal: {{value: {10 + n}, unit: t/h}}}}"
        for n in range(len(sources))
    ]
    meters = [
        f"  - {{id: M{n}, stream: S{n}, side: sender, quantity: mass_flow, unit: t/h, u95_percent_of_reading: 1,"
        f" interval_s: 1, source: {source}}}"
        for n, source in enumerate(sources)
    ]
    path = folder / "park.yaml"
    path.write_text("\n".join([HEAD, "streams:", *streams, "meters:", *meters, ""]), "utf-8")
    return path


def _sources() -> Iterator[str]:
    """Yield where each meter is read."""
    for server in (4840, 4841):
        for n in range(PER_SOURCE):
            yield f'{{opcua: {{endpoint: "opc.tcp://127.0.0.1:{server}", node_id: "ns=2;s=T{n}"}}}}'
    for n in range(PER_SOURCE):
        yield f'{{mqtt: {{topic: "plant/T{n}", value: "$.value", time: "$.ts", status: "$.status"}}}}'
    for node in ("east", "west"):
        for n in range(PER_SOURCE // 2):
            yield f"{{sparkplug: {{group: plant, edge_node: {node}, device: rack, metric: T{n}}}}}"
