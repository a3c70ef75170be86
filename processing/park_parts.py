"""Parts of a park, each a park of its own: what is in force at a moment, what is balanced in mass alone.

Here: that. Not here: what is done with them (design_point.py).
"""

from __future__ import annotations

from datetime import datetime

from park.entry import Entry
from park.model import ENVIRONMENT, Node, Park, Stream


def part_in_force(park: Park, now: datetime) -> Park:
    """Return the park without streams that are not in force, or whose ends are not, and without their meters."""
    nodes = {node.id for node in park.nodes if _is_in_force(node, now)} | {ENVIRONMENT}
    streams = tuple(s for s in park.streams if _is_in_force(s, now) and {s.from_node, s.to_node} <= nodes)
    if len(streams) == len(park.streams):
        return park
    there = {stream.id for stream in streams}
    meters = tuple(
        meter if set(meter.signed_streams) <= there else meter.model_copy(
            update={"streams": {s: sign for s, sign in meter.signed_streams.items() if s in there}})
        for meter in park.meters
        if meter.node is not None or not there.isdisjoint(meter.signed_streams)
    )
    return _with(park, streams=streams, meters=meters)


def _is_in_force(entry: Node | Stream, now: datetime) -> bool:
    begun = entry.valid_from is None or entry.valid_from <= now
    return begun and (entry.valid_to is None or now < entry.valid_to)


def _with(park: Park, **sections: tuple[Entry, ...]) -> Park:
    """Return a park with other sections; model_copy would hand on what the park has cached about the old ones."""
    return Park(**{name: getattr(park, name) for name in Park.model_fields} | sections)


def mass_alone(park: Park) -> Park:
    """Return the park without its balances of energy and components."""
    nodes = tuple(
        node.model_copy(update={"conserves": tuple(c for c in node.conserves if c == "mass")}) for node in park.nodes
    )
    return _with(park, nodes=nodes)
