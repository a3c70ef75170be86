"""Checks of the park itself, its nodes and its streams."""

from __future__ import annotations

import re
from collections.abc import Iterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from park.checks.entries import dimension_of, unknown_reference, wrong_unit
from park.draft import Draft, Item
from park.entry import Entry
from park.errors import Fault
from park.model import ENVIRONMENT, EnthalpyReference, Stream
from park.units import Dimension
from park.wording import number, show

CONSERVED = ("mass", "energy")

REFERENCE_RANGE = (0.0, 370.0)  # [degC] between the triple point and the critical point there is liquid water
MASS_FLOWS = frozenset({Dimension.MASS_FLOW})
VOLUME_FLOWS = frozenset({Dimension.VOLUME_FLOW, Dimension.NORMAL_VOLUME_FLOW})


def check_for_unknown_time_zone(draft: Draft) -> Iterator[Fault]:
    """Find a time zone that the IANA database does not have."""
    item = draft.info
    if item is None or not item.sound("timezone") or zone(item.entry.timezone) is not None:
        return
    hint = draft.speller.did_you_mean(item.entry.timezone, available_timezones())
    yield item.key_fault(
        ("timezone",),
        f"must be an IANA time zone, got {show(item.entry.timezone)}",
        hint or "such as Europe/Copenhagen",
    )


def check_for_unknown_currency(draft: Draft) -> Iterator[Fault]:
    """Find a currency that is no ISO 4217 code."""
    item = draft.info
    if item is not None and item.sound("currency") and not re.fullmatch("[A-Z]{3}", item.entry.currency):
        yield item.key_fault(
            ("currency",), f"must be three capital letters (ISO 4217), got {show(item.entry.currency)}", "such as EUR"
        )


def check_for_wrong_enthalpy_reference(draft: Draft) -> Iterator[Fault]:
    """Find a park whose reference is no state of liquid water."""
    item = draft.info
    if item is None or not item.sound("enthalpy_reference"):
        return
    reference = item.entry.enthalpy_reference
    if reference.stream is not None:
        yield item.key_fault(
            ("enthalpy_reference", "stream"),
            "has no place here: the park's reference is a temperature",
            "such as {temperature_degC: 0.01}; an agreement may refer to a stream",
        )
    yield from wrong_reference_temperature(item, ("enthalpy_reference",), reference)


def check_for_empty_sections(draft: Draft) -> Iterator[Fault]:
    """Find a park without participants, nodes or streams."""
    if draft.info is None:
        return
    for section in ("participants", "nodes", "streams"):
        if not getattr(draft, section) and section not in draft.wrong_sections:
            yield Fault(
                draft.info.file, 1, "", f"{section} are missing", f"add a list {section}: with at least one entry"
            )


def check_for_unknown_participants_of_nodes(draft: Draft) -> Iterator[Fault]:
    """Find a node whose participant is not declared."""
    for item in draft.nodes:
        if item.sound("participant"):
            yield from unknown_reference(draft, item, ("participant",), item.entry.participant, "participants")


def check_for_unknown_conserved_quantities(draft: Draft) -> Iterator[Fault]:
    """Find a word in conserves that is not mass, energy or component.<name>, or is there twice."""
    for item in draft.nodes:
        if not item.sound("conserves"):
            continue
        words = item.entry.conserves
        for i, word in enumerate(words):
            if word not in CONSERVED and not re.fullmatch(r"component\.\S+", word):
                hint = (
                    draft.speller.did_you_mean(word, CONSERVED)
                    or f"for a substance write component.{word.removeprefix('component.') or 'water'}"
                )
                yield item.key_fault(
                    ("conserves", i), f"must be mass, energy or component.<name>, got {show(word)}", hint
                )
            elif word in words[:i]:
                yield item.key_fault(("conserves", i), f"is there twice: {show(word)}", "keep one of the two")


def check_for_unknown_nodes_of_streams(draft: Draft) -> Iterator[Fault]:
    """Find a stream that leaves or enters a node that is not declared."""
    for item in draft.streams:
        for key, node in (("from", item.entry.from_node), ("to", item.entry.to_node)):
            if item.sound(key):
                yield from unknown_reference(draft, item, (key,), node, "nodes", also=(ENVIRONMENT,))


def check_for_streams_that_end_where_they_begin(draft: Draft) -> Iterator[Fault]:
    """Find a stream from a node to itself."""
    for item in draft.streams:
        if item.sound("from", "to") and item.entry.from_node == item.entry.to_node:
            yield item.key_fault(
                ("to",),
                f"must differ from from, both are {show(item.entry.to_node)}",
                "a stream leads from one node to another; split the node if it has two parts",
            )


def check_for_phases_that_do_not_fit(draft: Draft) -> Iterator[Fault]:
    """Find water that is no liquid, or a phase of heat and electricity."""
    for item in draft.streams:
        stream = item.entry
        if stream.phase is None or not item.sound("phase", "carrier"):
            continue
        if stream.carrier == "water" and stream.phase != "liquid":
            yield item.key_fault(
                ("phase",),
                f"must be liquid for carrier water, got {show(stream.phase)}",
                "write carrier: steam for vapour and for a mixture of both",
            )
        if not stream.carries_mass:
            yield item.key_fault(
                ("phase",), f"has no place here: carrier {stream.carrier} has no phase", "take it away"
            )


def check_for_dryness_without_saturation(draft: Draft) -> Iterator[Fault]:
    """Find saturated steam without a dryness, a dryness of anything else, or one that is no fraction."""
    for item in draft.streams:
        if not item.sound("phase", ("dryness", "value"), "carrier"):
            continue
        phase, dryness = item.entry.phase, item.entry.dryness
        if phase == "saturated" and dryness is None and item.entry.carrier == "steam":
            yield item.fault(
                ("phase",),
                "phase saturated asks for dryness, which is missing",
                "such as dryness: {value: 0.98, u95: 0.02}",
            )
        if dryness is None:
            continue
        if phase != "saturated":
            yield item.key_fault(
                ("dryness",),
                f"asks for phase saturated, got {show(phase)}",
                "add phase: saturated, or take dryness away",
            )
        if not 0 <= dryness.value <= 1:
            yield item.key_fault(
                ("dryness", "value"),
                f"must be between 0 and 1, got {number(dryness.value)}",
                "the fraction of the mass that is vapour",
            )


def check_for_two_property_delays(draft: Draft) -> Iterator[Fault]:
    """Find a delay that is given both as a time and by the pipe's volume."""
    for item in draft.streams:
        stream = item.entry
        if (
            item.sound("property_delay_s", "pipe_volume_m3")
            and stream.pipe_volume_m3 is not None
            and "property_delay_s" in stream.model_fields_set
        ):
            yield item.fault(
                ("pipe_volume_m3",),
                "property_delay_s and pipe_volume_m3 are both given",
                "keep one: the time itself, or the volume from which it follows with the flow",
            )


def check_for_losses_that_cannot_be(draft: Draft) -> Iterator[Fault]:
    """Find a mass loss of heat or electricity, or of more than all."""
    for item in draft.streams:
        loss = item.entry.mass_loss_percent
        if loss is None or not item.sound(("mass_loss_percent", "value"), "carrier"):
            continue
        if not item.entry.carries_mass:
            yield item.key_fault(
                ("mass_loss_percent",),
                f"has no place here: carrier {item.entry.carrier} is no mass",
                "write heat_loss_kw for energy that is lost on the way",
            )
        if not 0 <= loss.value < 100:
            yield item.key_fault(
                ("mass_loss_percent", "value"),
                f"must be at least 0 and below 100, got {number(loss.value)}",
                "percent of what the sender sends",
            )


def check_for_wrong_densities(draft: Draft) -> Iterator[Fault]:
    """Find a density that is not positive, or of heat and electricity."""
    for item in draft.streams:
        density = item.entry.density_kg_m3
        if density is None or not item.sound(("density_kg_m3", "value"), "carrier"):
            continue
        if not item.entry.carries_mass:
            yield item.key_fault(
                ("density_kg_m3",), f"has no place here: carrier {item.entry.carrier} is no mass", "take it away"
            )
        if density.value <= 0:
            yield item.key_fault(
                ("density_kg_m3", "value"),
                f"must be positive, got {number(density.value)}",
                "of a gas: at 0 degC and 1.01325 bar",
            )


def check_for_flow_units_that_do_not_fit(draft: Draft) -> Iterator[Fault]:
    """Find a nominal flow or bound in a unit that the carrier's flow does not have."""
    for item in draft.streams:
        if not item.sound("carrier"):
            continue
        allowed, why = flow_dimensions(item.entry), f"carrier {item.entry.carrier}"
        for key, given in (("nominal", item.entry.nominal), ("bounds", item.entry.bounds)):
            if given is not None and item.sound(key):
                yield from wrong_unit(item, (key, "unit"), given.unit, allowed, why)


def check_for_bounds_that_leave_nothing(draft: Draft) -> Iterator[Fault]:
    """Find a lower bound at or above the upper one."""
    for item in draft.streams:
        bounds = item.entry.bounds
        if bounds is None or not item.sound("bounds") or bounds.min is None or bounds.max is None:
            continue
        if bounds.min >= bounds.max:
            yield item.key_fault(
                ("bounds", "max"),
                f"must be above min {number(bounds.min)}, got {number(bounds.max)}",
                "min is 0 where it is not given; a stream that reverses needs a negative min",
            )


def check_for_nominal_flows_out_of_bounds(draft: Draft) -> Iterator[Fault]:
    """Find a nominal flow that the bounds forbid."""
    for item in draft.streams:
        stream = item.entry
        if (
            stream.nominal is None
            or not item.sound("nominal", "bounds", "carrier", "density_kg_m3")
            or not _units_fit(stream)
        ):
            continue
        nominal, (low, high) = stream.nominal_si, stream.bounds_si
        if nominal is not None and low < high and not low <= nominal <= high:
            why = "bounds" if stream.bounds is not None else "the default bounds, min 0"
            yield item.key_fault(
                ("nominal", "value"),
                f"must be inside {why}, got {number(stream.nominal.value)} {stream.nominal.unit}",
                "widen bounds, or give the stream the other direction",
            )


def flow_dimensions(stream: Stream) -> frozenset[Dimension]:
    """Return what the flow of a stream may be given in: mass, or volume where a density may be known; power."""
    if not stream.carries_mass:
        return frozenset({Dimension.POWER})
    if stream.carrier == "steam":
        return MASS_FLOWS
    if stream.carrier == "gas":
        return MASS_FLOWS | VOLUME_FLOWS
    return MASS_FLOWS | {Dimension.VOLUME_FLOW}


def zone(name: str) -> ZoneInfo | None:
    """Return the time zone, or None if there is none of that name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a name that is a folder of the database
        return None


def wrong_reference_temperature(
    item: Item[Entry],
    path: tuple[str, ...],
    reference: EnthalpyReference,
) -> Iterator[Fault]:
    """Yield a fault if there is no liquid water at the reference temperature."""
    low, high = REFERENCE_RANGE
    if not low <= reference.temperature_degC <= high:
        yield item.key_fault(
            (*path, "temperature_degC"),
            f"must be between {low:g} and {high:g}, got {number(reference.temperature_degC)}",
            "the reference is liquid water",
        )


def _units_fit(stream: Stream) -> bool:
    """Return whether nominal and bounds have units of the carrier's flow."""
    units = [given.unit for given in (stream.nominal, stream.bounds) if given is not None]
    return all(dimension_of(unit) in flow_dimensions(stream) for unit in units)
