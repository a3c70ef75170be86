"""Checks of meters: where they stand, what they measure, and how well."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from park.checks.entries import dimension_of, unknown_reference, wrong_unit
from park.draft import Draft, Item
from park.entry import Entry
from park.errors import Fault
from park.model import ENVIRONMENT, Exchange, Meter, Stream
from park.units import QUANTITIES, Dimension, dimensions_of_quantity
from park.wording import either, number, show

U95_KEYS = ("u95_percent_of_reading", "u95_percent_of_span", "u95_absolute")
COUNTERS = ("mass_total", "volume_total", "energy_total")
OF_NODES = ("inventory", "temperature", "pressure")  # and quality.*: of what a tank holds

MATTER = ("steam", "water", "material", "gas")
# Which carriers have the quantity. heat_flow is defined for IF97's fluids (the contract, section 1) and for heat;
# the heat of a gas or electric power is what their own meters say.
CARRIERS: Mapping[str, tuple[str, ...]] = {
    "mass_flow": MATTER,
    "mass_total": MATTER,
    "mass_batch": MATTER,
    "volume_flow": MATTER,
    "volume_total": MATTER,
    "heat_flow": ("steam", "water", "heat", "gas"),
    "energy_total": ("steam", "water", "heat", "gas", "electricity"),
    "power": ("electricity", "heat"),
    "temperature": (*MATTER, "heat"),
    "pressure": (*MATTER, "heat"),
}
NORMAL = (Dimension.NORMAL_VOLUME, Dimension.NORMAL_VOLUME_FLOW)


def check_for_meters_without_one_place(draft: Draft) -> Iterator[Fault]:
    """Find a meter on nothing, or on more than one of stream, streams and node."""
    for item in draft.meters:
        if not item.sound("stream", "streams", "node"):
            continue
        given = [key for key in ("stream", "streams", "node") if getattr(item.entry, key) is not None]
        if not given:
            yield item.fault(("id",), "stream is missing", "say where it stands: stream, streams or node")
        if len(given) > 1:
            yield item.fault(
                (given[1],), f"{' and '.join(given)} are given, only one may be", "keep the one place where it stands"
            )


def check_for_unknown_places_of_meters(draft: Draft) -> Iterator[Fault]:
    """Find a meter on a stream or node that is not declared."""
    for item in draft.meters:
        meter = item.entry
        if meter.stream is not None and item.sound("stream"):
            yield from unknown_reference(draft, item, ("stream",), meter.stream, "streams")
        if meter.node is not None and item.sound("node"):
            if meter.node == ENVIRONMENT:
                yield item.key_fault(
                    ("node",), "must not be environment, which has no balance", "name a node of the park"
                )
            else:
                yield from unknown_reference(draft, item, ("node",), meter.node, "nodes")
        if item.sound("streams"):
            yield from wrong_signed_streams(draft, item, meter.streams)


def check_for_missing_sides(draft: Draft) -> Iterator[Fault]:
    """Find a meter on a stream, without a side, where the two ends differ."""
    for item in draft.meters:
        if item.entry.side is None and item.sound("side", "stream", "streams", "node", "participant"):
            why = _why_a_side(draft, item.entry)
            if why:
                yield item.fault(("id",), f"side is missing: {why}", "add side: sender or side: receiver")


def check_for_sides_of_nodes(draft: Draft) -> Iterator[Fault]:
    """Find a meter on a node that has a side."""
    for item in draft.meters:
        if (
            item.entry.node is not None
            and item.entry.side is not None
            and item.sound("node", "side")
            and not item.entry.signed_streams
        ):
            yield item.key_fault(("side",), "has no place here: the meter stands on a node", "take it away")


def check_for_meters_without_participant(draft: Draft) -> Iterator[Fault]:
    """Find a meter at the environment that names no participant, or one that is not declared."""
    for item in draft.meters:
        meter = item.entry
        if not item.sound("participant"):
            continue
        if meter.participant is not None:
            yield from unknown_reference(draft, item, ("participant",), meter.participant, "participants")
        elif meter.side is not None and item.sound("side", "stream", "streams"):
            first = next(iter(draft.known_streams(meter.signed_streams)), None)
            key = "from" if meter.side == "sender" else "to"
            if first is not None and first.sound(key) and first.entry.node_at(meter.side) == ENVIRONMENT:
                yield item.fault(
                    ("side",),
                    f"participant is missing: the {meter.side} of stream {first.entry.id!r} is environment",
                    "add participant: the owner of the meter",
                )


def check_for_unknown_quantities(draft: Draft) -> Iterator[Fault]:
    """Find a quantity that the contract does not know."""
    known = (*QUANTITIES, "quality.purity")
    for item in draft.meters:
        quantity = item.entry.quantity
        if item.sound("quantity") and not dimensions_of_quantity(quantity):
            hint = draft.speller.did_you_mean(quantity, known)
            yield item.key_fault(
                ("quantity",),
                f"must be {either((*QUANTITIES, 'quality.<property>'))}, got {show(quantity)}",
                hint or "a property of what flows is written quality.<property>",
            )


def check_for_units_that_do_not_fit_the_quantity(draft: Draft) -> Iterator[Fault]:
    """Find a unit that measures something else than the meter does."""
    for item in draft.meters:
        meter = item.entry
        allowed = dimensions_of_quantity(meter.quantity)
        if allowed and item.sound("quantity", "unit"):
            yield from wrong_unit(item, ("unit",), meter.unit, allowed, f"quantity {meter.quantity}")


def check_for_quantities_that_do_not_fit_the_place(draft: Draft) -> Iterator[Fault]:
    """Find an inventory of a stream, a flow of a node, a property of a sum of streams."""
    for item in draft.meters:
        meter = item.entry
        if not item.sound("quantity", "stream", "streams", "node") or not dimensions_of_quantity(meter.quantity):
            continue
        on_node = meter.node is not None and not meter.signed_streams
        of_node = meter.quantity in OF_NODES or meter.property_name is not None
        if meter.quantity == "inventory" and meter.node is None and meter.signed_streams:
            yield item.key_fault(
                ("quantity",),
                "inventory belongs to a node, but the meter stands on a stream",
                "write node: in place of stream:",
            )
        elif on_node and not of_node:
            yield item.key_fault(
                ("quantity",),
                f"{meter.quantity} belongs to a stream, but the meter stands on node {show(meter.node)}",
                "write stream: and side: in place of node:",
            )
        elif meter.streams is not None and meter.property_name is not None:
            yield item.key_fault(
                ("quantity",),
                f"{meter.quantity} belongs to one stream, but streams are summed",
                "write stream: in place of streams:",
            )


def check_for_quantities_that_the_carrier_does_not_have(draft: Draft) -> Iterator[Fault]:
    """Find a heat flow of gypsum, a mass flow of heat, normal cubic metres of water."""
    for item in draft.meters:
        meter = item.entry
        if not item.sound("quantity", "stream", "streams"):
            continue
        for place in draft.known_streams(meter.signed_streams):
            carrier = place.entry.carrier
            if not place.sound("carrier"):
                continue
            if carrier not in CARRIERS.get(meter.quantity, (carrier,)):
                yield item.key_fault(
                    ("quantity",),
                    f"{meter.quantity} is not a quantity of stream {place.entry.id!r}, whose carrier is {carrier}",
                    _mend_of_carrier(carrier, meter.quantity),
                )
            elif item.sound("unit") and dimension_of(meter.unit) in NORMAL and carrier in ("water", "steam"):
                yield item.key_fault(
                    ("unit",),
                    f"{meter.unit} is for gas, stream {place.entry.id!r} carries {carrier}",
                    "write m3/h, l/s ... for what the fluid fills as it flows",
                )


def check_for_meters_without_uncertainty(draft: Draft) -> Iterator[Fault]:
    """Find a meter of which nothing says how well it measures."""
    for item in draft.meters:
        if item.sound(*U95_KEYS) and all(getattr(item.entry, key) is None for key in U95_KEYS):
            yield item.fault(
                ("id",),
                "u95_percent_of_reading is missing",
                "at least one of u95_percent_of_reading, u95_percent_of_span and u95_absolute says how good it is",
            )


def check_for_missing_spans(draft: Draft) -> Iterator[Fault]:
    """Find a percentage of a span that is not given."""
    for item in draft.meters:
        meter = item.entry
        if meter.u95_percent_of_span is not None and meter.span is None and item.sound("span"):
            yield item.fault(
                ("u95_percent_of_span",),
                "u95_percent_of_span asks for span, which is missing",
                f"such as span: [0, 60], in {meter.unit}",
            )


def check_for_spans_that_leave_nothing(draft: Draft) -> Iterator[Fault]:
    """Find a span whose end is not above its start."""
    for item in draft.meters:
        span = item.entry.span
        if span is not None and item.sound("span") and span[0] >= span[1]:
            yield item.key_fault(
                ("span",),
                f"must end above where it begins, got [{span[0]:g}, {span[1]:g}]",
                "the lowest and the highest value that it can read",
            )


def check_for_misplaced_counters(draft: Draft) -> Iterator[Fault]:
    """Find a counter of a meter that does not count, or one whose step is not below its modulus."""
    for item in draft.meters:
        counter = item.entry.counter
        if counter is None or not item.sound("counter", "quantity"):
            continue
        if item.entry.quantity not in COUNTERS and dimensions_of_quantity(item.entry.quantity):
            yield item.key_fault(
                ("counter",),
                f"has no place here: quantity {item.entry.quantity} is no counter",
                f"counters are {', '.join(COUNTERS)}",
            )
        if counter.resolution >= counter.modulus:
            yield item.key_fault(
                ("counter", "resolution"),
                f"must be below modulus {number(counter.modulus)}, got {number(counter.resolution)}",
                "modulus: where it rolls over; resolution: its step",
            )


def wrong_signed_streams(
    draft: Draft,
    item: Item[Meter] | Item[Exchange],
    streams: Mapping[str, float] | None,
) -> Iterator[Fault]:
    """Yield the faults of a signed set of streams."""
    if streams is None:
        return
    if not streams:
        yield item.key_fault(("streams",), "must name at least one stream", "such as {S30: 1, S31: -1}")
    for stream, sign in streams.items():
        entry: Item[Entry] = item
        yield from unknown_reference(draft, entry, ("streams", stream), stream, "streams")
        if not (sign and math.isfinite(sign)):
            yield item.key_fault(
                ("streams", stream), f"must not be {number(sign)}", "1 adds the stream, -1 takes it off"
            )


def _why_a_side(draft: Draft, meter: Meter) -> str:
    """Return why a meter needs a side, or nothing."""
    places = draft.known_streams(meter.signed_streams)
    for place in places:
        why = _why_ends_differ(place.entry, meter)
        if why:
            return f"stream {place.entry.id!r} {why}"
    first = next(iter(places), None)
    if first is None or not first.sound("from", "to"):
        return ""
    ends = (first.entry.from_node, first.entry.to_node)
    if ENVIRONMENT in ends or not all(draft.place_is_clear(node) for node in ends):
        return ""
    owners = [draft.participant_at(node) for node in ends]
    if owners[0] == owners[1] or meter.participant in owners:
        return ""
    return f"stream {first.entry.id!r} leads from {owners[0]} to {owners[1]}"


def _why_ends_differ(stream: Stream, meter: Meter) -> str:
    """Return why the two ends of a stream read differently, or nothing."""
    if stream.two_sided:
        return "loses something or takes its time on the way"
    if meter.property_name is not None and (stream.property_delay_s or stream.pipe_volume_m3):
        return "delays its properties on the way"
    return ""


def _mend_of_carrier(carrier: str, quantity: str) -> str:
    """Return which quantities a carrier has."""
    has = [name for name, carriers in CARRIERS.items() if carrier in carriers]
    return f"carrier {carrier} has {', '.join(has)}"
