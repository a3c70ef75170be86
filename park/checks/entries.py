"""Checks that hold for every kind of entry: ids, units, times of validity, references to other entries."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator

from park.draft import Draft, Item, Path
from park.entry import Entry
from park.errors import Fault
from park.model import ENVIRONMENT, Amount, Exchange, Meter, Node, Participant, Stream
from park.units import UNITS, Dimension, dimension, similar_units, units_of
from park.wording import either, show

SHORT_LIST = 12  # as many ids fit a hint


def check_for_duplicate_ids(draft: Draft) -> Iterator[Fault]:
    """Find two entries of one kind with one id."""
    for items in draft.sections:
        first: dict[str, Item[Entry]] = {}
        for item in items:
            if not item.sound("id"):
                continue
            earlier = first.setdefault(_id(item), item)
            if earlier is not item:
                yield item.fault(
                    ("id",),
                    f"id is there twice, first at {earlier.file}:{earlier.line(('id',))}",
                    "give each its own id",
                )


def check_for_ids_that_look_alike(draft: Draft) -> Iterator[Fault]:
    """Find two ids that are printed alike but encoded in two ways."""
    for items in draft.sections:
        first: dict[str, Item[Entry]] = {}
        for item in items:
            if not item.sound("id"):
                continue
            earlier = first.setdefault(unicodedata.normalize("NFC", _id(item)), item)
            if _id(earlier) != _id(item):
                yield item.fault(
                    ("id",),
                    f"id looks the same as that at {earlier.file}:{earlier.line(('id',))}, "
                    "but its accents are encoded in another way",
                    "give each its own id, or copy the first",
                )


def check_for_ids_that_cannot_be_printed(draft: Draft) -> Iterator[Fault]:
    """Find ids that are empty, begin or end with a space, or hold control characters."""
    for item in draft.every_item():
        if item is draft.info or not item.sound("id"):
            continue
        text = _id(item)
        if not text or text != text.strip() or not text.isprintable():
            yield item.key_fault(
                ("id",), f"must be printable text without spaces at its ends, got {show(text)}", "such as power.FT101"
            )


def check_for_reserved_ids(draft: Draft) -> Iterator[Fault]:
    """Find a participant or node called environment, which is the outside."""
    items: list[Item[Participant] | Item[Node]] = [*draft.participants, *draft.nodes]
    for item in items:
        if item.sound("id") and item.entry.id == ENVIRONMENT:
            yield item.key_fault(
                ("id",),
                f"must not be {ENVIRONMENT!r}, which is the outside of every park",
                "give it another id; streams may use environment without declaring it",
            )


def check_for_times_that_end_before_they_begin(draft: Draft) -> Iterator[Fault]:
    """Find a valid_to at or before its valid_from."""
    items: list[Item[Node] | Item[Stream] | Item[Meter]] = [*draft.nodes, *draft.streams, *draft.meters]
    for item in items:
        start, end = item.entry.valid_from, item.entry.valid_to
        if item.sound("valid_from", "valid_to") and start is not None and end is not None and end <= start:
            yield item.key_fault(
                ("valid_to",),
                f"must be after valid_from {start:%Y-%m-%dT%H:%M:%SZ}, got {end:%Y-%m-%dT%H:%M:%SZ}",
                "valid_from is the first instant, valid_to the first after",
            )


def check_for_unknown_units(draft: Draft) -> Iterator[Fault]:
    """Find a unit that the contract does not list, anywhere."""
    for item in draft.every_item():
        for path, unit in _units(item.entry):
            if item.sound(path) and unit not in UNITS:
                near = similar_units(unit)
                hint = (
                    f"did you mean {either([repr(u) for u in near])}?" if near else f"known units are {' '.join(UNITS)}"
                )
                yield item.key_fault(path, f"must be a unit that is known, got {show(unit)}", hint)


def dimension_of(unit: str) -> Dimension | None:
    """Return what `unit` measures; None for an unknown unit, which has its own fault."""
    return dimension(unit) if unit in UNITS else None


def wrong_unit(item: Item[Entry], path: Path, unit: str, allowed: Collection[Dimension], why: str) -> Iterator[Fault]:
    """Yield a fault if `unit` measures none of `allowed`."""
    measured = dimension_of(unit)
    if measured is not None and measured not in allowed:
        yield item.key_fault(
            path,
            f"must be a unit of {either(sorted(allowed))} ({why}), got {unit!r}",
            f"one of {' '.join(units_of(*sorted(allowed)))}",
        )


def unknown_reference(
    draft: Draft, item: Item[Entry], path: Path, word: str, *sections: str, also: tuple[str, ...] = ()
) -> Iterator[Fault]:
    """Yield a fault if `word` is no id of the sections, and not in `also`.

    Of a section that is missing or no list nothing is known; that is its own fault.
    """
    if word in also or any(section in draft.wrong_sections for section in sections):
        return
    if not any(getattr(draft, section) for section in sections):
        return
    known = draft.ids(*sections)
    if word in known:
        return
    hint = draft.speller.did_you_mean(word, [*also, *known], of=(sections, also))
    if not hint and len(known) <= SHORT_LIST:
        hint = f"known are {', '.join(known)}"
    kind = either([section.removesuffix("s") for section in sections])
    article = "an" if kind[0] in "aeiou" else "a"
    yield item.key_fault(path, f"must be the id of {article} {kind}, got {show(word)}", hint or f"declare the {kind}")


def _id(item: Item[Entry]) -> str:
    return str(getattr(item.entry, "id", ""))


def _units(entry: Entry) -> Iterator[tuple[Path, str]]:
    """Yield every unit of an entry with its path."""
    if isinstance(entry, Meter):
        yield ("unit",), entry.unit
    elif isinstance(entry, Stream):
        if entry.bounds is not None:
            yield ("bounds", "unit"), entry.bounds.unit
        if entry.nominal is not None:
            yield ("nominal", "unit"), entry.nominal.unit
    elif isinstance(entry, Exchange):
        yield from _exchange_units(entry)


def _exchange_units(exchange: Exchange) -> Iterator[tuple[Path, str]]:
    terms = exchange.agreement
    yield ("unit",), exchange.unit
    if terms.price is not None:
        yield ("agreement", "price", "per"), terms.price.per
    for path, amount in rates(exchange):
        yield (*path, "unit"), amount.unit
    for i, limit in enumerate(terms.quality):
        yield ("agreement", "quality", i, "unit"), limit.unit


def rates(exchange: Exchange) -> Iterator[tuple[Path, Amount]]:
    """Yield every rate of an agreement with its path: nominal, and the least and most of deliveries."""
    terms = exchange.agreement
    if terms.nominal is not None:
        yield ("agreement", "nominal"), terms.nominal
    for i, delivery in enumerate(terms.delivery):
        if delivery.min is not None:
            yield ("agreement", "delivery", i, "min"), delivery.min
        if delivery.max is not None:
            yield ("agreement", "delivery", i, "max"), delivery.max
