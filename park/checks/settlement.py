"""Checks of exchanges and their agreements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from park.checks.entries import dimension_of, rates, unknown_reference, wrong_unit
from park.checks.metering import wrong_signed_streams
from park.checks.network import wrong_reference_temperature
from park.draft import Draft, Item, Path
from park.errors import Fault
from park.model import Allocation, Delivery, Exchange
from park.schedule import WEEKDAYS, minutes, weekdays
from park.units import Dimension, property_dimensions, to_si
from park.wording import number, show

SETTLED: Mapping[str, frozenset[Dimension]] = {
    "mass": frozenset({Dimension.MASS}),
    "volume": frozenset({Dimension.VOLUME, Dimension.NORMAL_VOLUME}),
    "energy": frozenset({Dimension.ENERGY}),
}
RATE_OF: Mapping[Dimension, Dimension] = {
    Dimension.MASS: Dimension.MASS_FLOW,
    Dimension.VOLUME: Dimension.VOLUME_FLOW,
    Dimension.NORMAL_VOLUME: Dimension.NORMAL_VOLUME_FLOW,
    Dimension.ENERGY: Dimension.POWER,
}
CARRIERS: Mapping[str, tuple[str, ...]] = {
    "mass": ("steam", "water", "material", "gas"),
    "volume": ("steam", "water", "material", "gas"),
    "energy": ("steam", "water", "heat", "gas", "electricity"),
}
SHARES_TOLERANCE = 1e-6  # thirds written with seven digits are well

Allocations = list[tuple[Item[Exchange], Path, Allocation]]


def check_for_exchanges_without_one_place(draft: Draft) -> Iterator[Fault]:
    """Find an exchange of nothing, or of both a stream and a set of streams."""
    shared = _shared(draft)
    for item in draft.exchanges:
        exchange = item.entry
        if not item.sound("stream", "streams", "allocate", ("agreement", "allocate")):
            continue
        if exchange.stream is not None and exchange.streams is not None:
            yield item.fault(
                ("streams",),
                "stream and streams are both given, only one may be",
                "streams sums several, such as {S30: 1, S31: -1}",
            )
        if (
            exchange.stream is None
            and exchange.streams is None
            and exchange.allocation is None
            and exchange.id not in shared
        ):
            yield item.fault(("id",), "stream is missing", "say what is exchanged: stream, streams or allocate")


def check_for_unknown_streams_of_exchanges(draft: Draft) -> Iterator[Fault]:
    """Find an exchange of a stream that is not declared."""
    for item in draft.exchanges:
        if item.entry.stream is not None and item.sound("stream"):
            yield from unknown_reference(draft, item, ("stream",), item.entry.stream, "streams")
        if item.sound("streams"):
            yield from wrong_signed_streams(draft, item, item.entry.streams)


def check_for_exchanges_that_are_not_between_two(draft: Draft) -> Iterator[Fault]:
    """Find an exchange with the environment, within one participant, or among three."""
    for item in draft.exchanges:
        if not item.sound("stream", "streams"):
            continue
        first: frozenset[str] | None = None
        for path, stream in _places(item.entry):
            parties = _parties(draft, stream)
            if parties is None:
                continue
            clause = ""
            if "" in parties:
                clause = f"must lie between two participants, but stream {stream!r} has an end at environment"
            elif len(parties) == 1:
                clause = (
                    f"must lie between two participants, but both ends of stream {stream!r} are {next(iter(parties))}'s"
                )
            elif parties != (first := first or parties):
                clause = f"must lie between {' and '.join(sorted(first))}, but stream {stream!r} does not"
            if clause:
                yield item.key_fault(
                    path, clause, "a stream within a participant or with the outside needs no exchange"
                )


def check_for_units_that_do_not_fit_what_is_settled(draft: Draft) -> Iterator[Fault]:
    """Find a unit, price or rate that measures something else than the exchange settles."""
    for item in draft.exchanges:
        exchange = item.entry
        if not item.sound("settles"):
            continue
        if item.sound("unit"):
            yield from wrong_unit(
                item, ("unit",), exchange.unit, SETTLED[exchange.settles], f"settles {exchange.settles}"
            )
        settled = _settled_dimensions(item)
        why = f"settles {exchange.settles} in {exchange.unit}"
        price = exchange.agreement.price
        if price is not None:
            yield from wrong_unit(item, ("agreement", "price", "per"), price.per, settled, why)
        for path, amount in rates(exchange):
            yield from wrong_unit(item, (*path, "unit"), amount.unit, {RATE_OF[d] for d in settled}, why)


def check_for_carriers_that_do_not_have_what_is_settled(draft: Draft) -> Iterator[Fault]:
    """Find energy of a material, mass of heat, normal cubic metres of water."""
    for item in draft.exchanges:
        exchange = item.entry
        if not item.sound("settles", "stream", "streams"):
            continue
        for place in draft.known_streams(exchange.signed_streams):
            carrier = place.entry.carrier
            if not place.sound("carrier"):
                continue
            if carrier not in CARRIERS[exchange.settles]:
                has = [settles for settles, carriers in CARRIERS.items() if carrier in carriers]
                yield item.key_fault(
                    ("settles",),
                    f"{exchange.settles} is not a quantity of stream {place.entry.id!r}, whose carrier is {carrier}",
                    f"settle {' or '.join(has)}",
                )
            elif (
                item.sound("unit")
                and dimension_of(exchange.unit) is Dimension.NORMAL_VOLUME
                and carrier in ("water", "steam")
            ):
                yield item.key_fault(
                    ("unit",),
                    f"{exchange.unit} is for gas, stream {place.entry.id!r} carries {carrier}",
                    "write m3 or l",
                )


def check_for_wrong_energy_references(draft: Draft) -> Iterator[Fault]:
    """Find a reference that is two things, unknown, or without an enthalpy."""
    path = ("agreement", "energy_reference")
    for item in draft.exchanges:
        reference = item.entry.agreement.energy_reference
        if reference is None or not item.sound(path):
            continue
        if not reference.model_fields_set:
            yield item.key_fault(path, "must name temperature_degC or stream", "such as {temperature_degC: 90}")
        if {"stream", "temperature_degC"} <= reference.model_fields_set and reference.stream is not None:
            yield item.key_fault(
                (*path, "stream"), "stands beside temperature_degC, only one may be", "keep one of the two"
            )
        yield from wrong_reference_temperature(item, path, reference)
        if reference.stream is None:
            continue
        yield from unknown_reference(draft, item, (*path, "stream"), reference.stream, "streams")
        for place in draft.known_streams([reference.stream]):
            if place.sound("carrier") and not place.entry.has_enthalpy:
                yield item.key_fault(
                    (*path, "stream"),
                    f"must be water or steam, but the carrier of stream {reference.stream!r} is {place.entry.carrier}",
                    "name a return, or a temperature",
                )


def check_for_wrong_days_of_delivery(draft: Draft) -> Iterator[Fault]:
    """Find days that are no weekdays."""
    for item, i, delivery in _deliveries(draft):
        try:
            weekdays(delivery.days)
        except ValueError as error:
            word = str(error)
            hint = (
                draft.speller.did_you_mean(word, WEEKDAYS) or f"write {', '.join(WEEKDAYS)}, or mon-sun for every day"
            )
            yield item.key_fault(
                (*_DELIVERY, i, "days"), f"must be days such as mon-fri or mon,wed,fri, got {show(delivery.days)}", hint
            )


def check_for_wrong_times_of_delivery(draft: Draft) -> Iterator[Fault]:
    """Find times that are no HH:MM, or a delivery that ends when it begins."""
    for item, i, delivery in _deliveries(draft):
        read: list[int] = []
        for key, clock in (("from", delivery.from_time), ("to", delivery.to_time)):
            try:
                read.append(minutes(clock))
            except ValueError:
                yield item.key_fault(
                    (*_DELIVERY, i, key),
                    f"must be a time of day HH:MM, got {show(clock)}",
                    "from 00:00 to 24:00, such as 06:00",
                )
        if len(read) == 2 and read[0] == read[1]:
            yield item.key_fault(
                (*_DELIVERY, i, "to"),
                f"must differ from from, both are {show(delivery.to_time)}",
                "a whole day is from 00:00 to 24:00",
            )


def check_for_deliveries_that_leave_nothing(draft: Draft) -> Iterator[Fault]:
    """Find a delivery of more than its most."""
    for item, i, delivery in _deliveries(draft):
        low, high = delivery.min, delivery.max
        if (
            low is None
            or high is None
            or dimension_of(low.unit) is None
            or dimension_of(low.unit) != dimension_of(high.unit)
        ):
            continue
        if to_si(low.value, low.unit) > to_si(high.value, high.unit):
            yield item.key_fault(
                (*_DELIVERY, i, "max"),
                f"must not be below min {number(low.value)} {low.unit}, got {number(high.value)} {high.unit}",
                "swap the two",
            )


def check_for_units_that_do_not_fit_the_property(draft: Draft) -> Iterator[Fault]:
    """Find a limit in a unit that the property, or a meter of it, does not have."""
    for item in draft.exchanges:
        for i, limit in enumerate(item.entry.agreement.quality):
            path = ("agreement", "quality", i, "unit")
            name = limit.property
            if not item.sound(path):
                continue
            faults = list(wrong_unit(item, path, limit.unit, property_dimensions(name), f"property {name}"))
            yield from faults
            if not faults:
                yield from _meters_of_another_unit(draft, item, path, name, limit.unit)


def check_for_limits_that_leave_nothing(draft: Draft) -> Iterator[Fault]:
    """Find a quality limit without a number, or whose low is not below its high."""
    for item in draft.exchanges:
        for i, limit in enumerate(item.entry.agreement.quality):
            path: Path = ("agreement", "quality", i)
            if not item.sound(path):
                continue
            if limit.low is None and limit.high is None:
                yield item.key_fault(path, "must have low, high or both", "such as low: 180, high: 260")
            elif limit.low is not None and limit.high is not None and limit.low >= limit.high:
                yield item.key_fault(
                    (*path, "high"), f"must be above low {number(limit.low)}, got {number(limit.high)}", "swap the two"
                )


def check_for_limits_without_a_stream(draft: Draft) -> Iterator[Fault]:
    """Find a quality limit of an exchange that is a share of a total, through which nothing flows."""
    shared = _shared(draft)
    for item in draft.exchanges:
        is_share = item.entry.allocation is not None or item.entry.id in shared
        without = is_share and not item.entry.signed_streams and item.sound("stream", "streams")
        if without and item.entry.agreement.quality:
            yield item.key_fault(
                ("agreement", "quality"),
                "has no place here: the exchange has no stream of its own",
                "put it into the exchange of the stream",
            )


def check_for_empty_or_double_settle_on(draft: Draft) -> Iterator[Fault]:
    """Find a list of what to settle on that is empty or repeats itself."""
    for item in draft.exchanges:
        words = item.entry.agreement.settle_on
        if item.sound(("agreement", "settle_on")) and (not words or len(set(words)) < len(words)):
            yield item.key_fault(
                ("agreement", "settle_on"),
                f"must name each of its words once, got [{', '.join(words)}]",
                "such as [receiver, sender, reconciled]: the first that has data",
            )


def check_for_wrong_allocations(draft: Draft) -> Iterator[Fault]:
    """Find a share of an unknown total, to an unknown exchange, or shares that are not one in all."""
    for item, path, allocation in _allocations(draft):
        yield from unknown_reference(draft, item, (*path, "total"), allocation.total, "meters", "streams")
        for sharer in allocation.by:
            yield from unknown_reference(
                draft, item, (*path, "by", sharer), sharer, "exchanges", "participants", "meters"
            )
        total = sum(allocation.by.values())
        if abs(total - 1.0) > SHARES_TOLERANCE:
            yield item.key_fault(
                (*path, "by"), f"must have shares that are 1 in all, got {total:.10g}", "such as {X07: 0.4, X08: 0.6}"
            )


def check_for_two_allocations(draft: Draft) -> Iterator[Fault]:
    """Find an exchange that divides a total twice."""
    for item in draft.exchanges:
        if item.entry.allocate is not None and item.entry.agreement.allocate is not None:
            yield item.key_fault(
                ("agreement", "allocate"), "is given twice, at the exchange and in its agreement", "keep one of the two"
            )


_DELIVERY = ("agreement", "delivery")


def _places(exchange: Exchange) -> Iterator[tuple[Path, str]]:
    """Yield every stream of an exchange with its path."""
    for stream in exchange.signed_streams:
        yield ("stream",) if exchange.streams is None else ("streams", stream), stream


def _parties(draft: Draft, stream: str) -> frozenset[str] | None:
    """Return the participants at the ends of a stream, '' for the environment; None where they are not known."""
    item = draft.stream.get(stream)
    if item is None or not item.sound("from", "to") or item.entry.from_node == item.entry.to_node:
        return None
    ends = (item.entry.from_node, item.entry.to_node)
    if not all(draft.place_is_clear(node) for node in ends):
        return None
    return frozenset(draft.participant_at(node) or "" for node in ends)


def _settled_dimensions(item: Item[Exchange]) -> frozenset[Dimension]:
    """Return what the exchange's own unit measures, or, where that is wrong, all that may be settled."""
    allowed = SETTLED[item.entry.settles]
    measured = dimension_of(item.entry.unit) if item.sound("unit") else None
    return frozenset({measured}) if measured in allowed and measured is not None else allowed


def _deliveries(draft: Draft) -> Iterator[tuple[Item[Exchange], int, Delivery]]:
    for item in draft.exchanges:
        for i, delivery in enumerate(item.entry.agreement.delivery):
            if item.sound((*_DELIVERY, i)):
                yield item, i, delivery


def _meters_of_another_unit(
    draft: Draft,
    item: Item[Exchange],
    path: Path,
    name: str,
    unit: str,
) -> Iterator[Fault]:
    """Yield a fault for a meter of the property whose unit cannot be compared with the limit's."""
    for meter in draft.meters:
        if (
            meter.entry.property_name != name
            or not meter.sound("quantity", "unit", "stream")
            or meter.entry.stream not in item.entry.signed_streams
        ):
            continue
        measured = dimension_of(meter.entry.unit)
        if measured is not None and measured != dimension_of(unit):
            yield item.key_fault(
                path,
                f"must be comparable with {meter.subject}, which measures it in {meter.entry.unit}, got {unit!r}",
                "use units of one kind for both",
            )


def _shared(draft: Draft) -> frozenset[str]:
    """Return the exchanges that get a share of a total."""
    return frozenset(exchange for _, _, allocation in _allocations(draft) for exchange in allocation.by)


def _allocations(draft: Draft) -> Allocations:
    """Return every allocation that has no fault yet, with its path."""
    found: Allocations = []
    for item in draft.exchanges:
        for path, allocation in (
            (("allocate",), item.entry.allocate),
            (("agreement", "allocate"), item.entry.agreement.allocate),
        ):
            if allocation is not None and item.sound(path):
                found.append((item, path, allocation))
    return found
