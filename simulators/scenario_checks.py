"""What a scenario must fulfil in its park: one function for each sort of mistake, each yielding where and what.

A mistake is a path into scenario.yaml, a clause that says what is wrong there, and how to mend it. Not here: the
shape of the entries (`simulators.scenario`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

from park.model import Park
from park.units import UnknownUnitError, dimension, dimensions_of_quantity
from park.wording import Speller, either, show
from simulators.levels import STATE, Levels

if TYPE_CHECKING:
    from simulators.scenario import Fault, Scenario, Size


class Mistake(NamedTuple):
    """Something in a scenario that its park does not bear out."""

    path: tuple[str | int, ...]
    clause: str
    hint: str = ""


def mistakes(scenario: Scenario, park: Park) -> Iterator[Mistake]:
    """Yield every mistake of a scenario, in no order."""
    for check in (_unknown_names, _unknown_profiles, _properties_without_mass, _wrong_units, _wrong_faults):
        yield from check(scenario, park)


def _unknown(path: tuple[str | int, ...], what: str, name: str, known: Collection[str]) -> Iterator[Mistake]:
    """Yield a mistake if `name` is not one of those that are known."""
    if name not in known:
        hint = Speller().did_you_mean(name, known) or (f"there is {either(sorted(known)[:8])}" if known else "")
        yield Mistake(path, f"no {what} {show(name)}", hint)


def _unknown_names(scenario: Scenario, park: Park) -> Iterator[Mistake]:
    """Find streams, tanks and meters that the park has not."""
    for stream in scenario.streams:
        yield from _unknown(("streams", stream), "stream", stream, park.stream)
    for tank in scenario.tanks:
        yield from _unknown(("tanks", tank), "tank (a node whose inventory is metered)", tank, park.tanks)
    for meter in scenario.resolution:
        yield from _unknown(("resolution", meter), "meter", meter, park.meter)


def _unknown_profiles(scenario: Scenario, park: Park) -> Iterator[Mistake]:
    """Find loads after a profile that is not there."""
    for stream, played in scenario.streams.items():
        if played.profile is not None:
            yield from _unknown(("streams", stream, "profile"), "profile", played.profile, scenario.profiles)


def _properties_without_mass(scenario: Scenario, park: Park) -> Iterator[Mistake]:
    """Find temperatures, pressures and compositions of heat and electricity."""
    for stream, played in scenario.streams.items():
        if stream in park.stream and not park.stream[stream].carries_mass:
            for key in ("temperature", "pressure", "pressure_drop", "properties"):
                if getattr(played, key):
                    carrier = park.stream[stream].carrier
                    yield Mistake(("streams", stream, key), f"{carrier} has no {key}", "take it away")


def _wrong_units(scenario: Scenario, park: Park) -> Iterator[Mistake]:
    """Find units that are unknown, or measure something else than the property or its meters do."""
    said = Levels(park, scenario)
    for stream, played in scenario.streams.items():
        given = [("temperature", played.temperature), ("pressure", played.pressure)]
        for name, level in given:
            if level is not None:
                yield from _unit(("streams", stream, name, "unit"), level.unit, name)
        if played.pressure_drop is not None:
            yield from _unit(("streams", stream, "pressure_drop", "unit"), played.pressure_drop.unit, "pressure")
        for name, level in played.properties.items():
            path = ("streams", stream, "properties", name, "unit")
            wrong = _unit(path, level.unit, f"quality.{name}")
            if not wrong and stream in park.stream:
                wrong = _as_metered(path, level.unit, name, said.units(park.stream[stream], name))
            yield from wrong


def _unit(path: tuple[str | int, ...], unit: str, quantity: str) -> list[Mistake]:
    """Return a mistake if the unit is unknown or not one of the quantity."""
    try:
        measures = dimension(unit)
    except UnknownUnitError as error:
        return [Mistake(path, str(error))]
    allowed = dimensions_of_quantity(quantity)
    if allowed and measures not in allowed:
        return [Mistake(path, f"{unit} measures {measures}, not {quantity.removeprefix('quality.')}")]
    return []


def _as_metered(path: tuple[str | int, ...], unit: str, name: str, units: list[str]) -> list[Mistake]:
    """Return a mistake if the stream's meters of a property, or its limits, measure something else than the unit."""
    other = next((u for u in units if dimension(u) != dimension(unit)), None)
    return [] if other is None else [Mistake(path, f"{unit} cannot be compared with {other}, as {name} is measured")]


def _wrong_faults(scenario: Scenario, park: Park) -> Iterator[Mistake]:
    """Find faults of what the park has not, in units that do not fit, or of one id."""
    seen: set[str] = set()
    for index, fault in enumerate(scenario.faults):
        if fault.id in seen:
            yield Mistake(("faults", index, "id"), f"id {show(fault.id)} is there twice", "give each fault its own")
        seen.add(fault.id)
        for number in range(len(fault.all_subjects)):
            yield from _wrong_subject(scenario, park, fault, index, number)


def _wrong_subject(scenario: Scenario, park: Park, fault: Fault, index: int, number: int) -> Iterator[Mistake]:
    """Yield the mistakes of one subject of a fault."""
    subject = fault.all_subjects[number]
    path: tuple[str | int, ...] = ("faults", index, "subject")
    if fault.subject is None:
        path = ("faults", index, "subjects", number)
    if isinstance(subject, str):
        found = list(_unknown(path, "meter", subject, park.meter))
        yield from found
        if not found:
            meter = park.meter[subject]
            yield from _size(index, fault.size, meter.quantity, meter.unit)
        return
    found = list(_unknown((*path, "stream"), "stream", subject.stream, park.stream))
    yield from found
    if not found:
        stream = park.stream[subject.stream]
        known = (*Levels(park, scenario).properties(stream), *(STATE if stream.carries_mass else ()))
        what = f"property of stream {subject.stream!r} called"
        yield from _unknown((*path, "property"), what, subject.property, known)
        quantity = subject.property if subject.property in STATE else f"quality.{subject.property}"
        yield from _size(index, fault.size, quantity, None)


def _size(index: int, size: Size | None, quantity: str, unit: str | None) -> Iterator[Mistake]:
    """Yield a mistake if a fault's size is in a unit that does not fit what it strikes."""
    if size is None:
        return
    path = ("faults", index, "size", "unit")
    wrong = _unit(path, size.unit, quantity)
    yield from wrong
    if not wrong and unit is not None and dimension(size.unit) != dimension(unit):
        yield Mistake(path, f"{size.unit} cannot be compared with the meter's {unit}")
