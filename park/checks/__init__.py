"""What a park must fulfil beyond the shape of its entries: one `check_for_<fault>` function for each fault.

Every check takes a `Draft`, reads only what has no fault yet, and yields faults with their place and a mend:

    entries      ids, units, times: what holds for every kind of entry
    network      the park itself, nodes and streams
    metering     meters: where they stand, what they measure and how well
    sources      where meters are read: OPC UA, MQTT, Sparkplug
    servers      how OPC UA servers are reached
    brokers      how MQTT brokers are reached
    settlement   exchanges and their agreements

The way in is `find_faults`. What is odd but allowed is no fault: `symbiosis.check` gives hints for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from park.checks import brokers, entries, metering, network, servers, settlement, sources
from park.draft import Draft
from park.errors import Fault

Check = Callable[[Draft], Iterator[Fault]]

CHECKS: tuple[Check, ...] = tuple(
    function
    for module in (entries, network, metering, sources, servers, brokers, settlement)
    for name, function in vars(module).items()
    if name.startswith("check_for_")
)


def find_faults(draft: Draft) -> list[Fault]:
    """Return the faults that the checks find, in no order."""
    return [fault for check in CHECKS for fault in check(draft)]
