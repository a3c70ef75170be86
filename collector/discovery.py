"""What a server or broker offers, as rows for meters.csv: only what it can know, the rest is for the plant's people.

Here: the rows, their ids, what a unit's name says, and the CSV. How they are found: `opcua.browse`, `mqtt.listen`.
Left empty is what nobody can read from a server: stream or node, side, uncertainty, and a quantity that its unit leaves
open (kW is heat or power).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from park.units import QUANTITIES, UNITS, dimension, dimensions_of_quantity

COLUMNS = (
    "id", "stream", "node", "side", "quantity", "unit", "u95_percent_of_reading", "u95_percent_of_span", "u95_absolute",
    "span", "interval_s",
)

# How servers write the contract's units; signs that are only another writing are changed first.
_SIGNS = str.maketrans({"³": "3", "²": "2", "µ": "u", "μ": "u", "^": "", "⁻": "-", "·": "", " ": "", "℃": "°C"})
_WRITINGS: Mapping[str, str] = {
    "°C": "degC", "C": "degC", "degreeCelsius": "degC", "°K": "K", "kg/hr": "kg/h", "t/hr": "t/h", "m3/hr": "m3/h",
    "L": "l", "L/s": "l/s", "L/min": "l/min", "bar(a)": "bara", "bar(g)": "barg", "bar_a": "bara", "bar_g": "barg",
    "percent": "%", "g/L": "g/l", "mg/L": "mg/l", "ppmv": "ppm",
}


@dataclass(frozen=True)
class Found:
    """One signal that could be a meter.

    Attributes
    ----------
    names
        Its name, and longer ones to tell it from others with the same; the last is its whole path.
    source
        Columns of its source, such as ``opcua.node_id``.
    unit
        Unit of the contract; empty if it is not known.
    span
        Low and high end of its range [unit]; None if there is none.
    """

    names: Sequence[str]
    source: Mapping[str, str]
    unit: str = ""
    span: tuple[float, float] | None = None


@dataclass
class Offer:
    """What was found, and what there is to say of it, in the order in which it was met."""

    found: list[Found] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def unit_named(name: str) -> str:
    """Return the contract's unit that a server's name for it means; empty if it is none of them."""
    for text in (name.strip(), name.translate(_SIGNS)):
        if text in UNITS:
            return text
        if text in _WRITINGS:
            return _WRITINGS[text]
    return ""


@cache
def quantity_of(unit: str) -> str:
    """Return the quantity that has this unit; empty if several have, or none has."""
    if not unit:
        return ""
    having = [quantity for quantity in QUANTITIES if dimension(unit) in dimensions_of_quantity(quantity)]
    return having[0] if len(having) == 1 else ""


def as_csv(offer: Offer, source_columns: Sequence[str]) -> str:
    """Return the rows with their header, ready to be pasted into meters.csv."""
    out = io.StringIO()
    table = csv.DictWriter(out, [*COLUMNS, *source_columns], restval="", lineterminator="\n")
    table.writeheader()
    for id, found in zip(_ids(offer.found), offer.found, strict=True):
        span = ", ".join(repr(end).removesuffix(".0") for end in found.span or ())
        row = {"id": id, "quantity": quantity_of(found.unit), "unit": found.unit, "span": span}
        table.writerow(row | dict(found.source))
    return out.getvalue()


def left_open(offer: Offer) -> list[str]:
    """Return, in words, what has to be filled in by hand."""
    if not offer.found:
        return []
    said = ["to be filled in: stream or node, side, one of the u95 columns, and interval_s where it is not 10"]
    for what, missing in (
        ("unit", [found for found in offer.found if not found.unit]),
        ("quantity", [found for found in offer.found if not quantity_of(found.unit)]),
    ):
        if missing:
            said.append(f"{what} is not known of {len(missing)} of {len(offer.found)}, {missing[0].names[-1]} for one")
    if any(found.unit == "bar" for found in offer.found):
        said.append("bar is absolute: change it to barg where the instrument reads gauge pressure")
    return said


def _ids(found: Sequence[Found]) -> list[str]:
    """Return an id for each: its shortest name that no other has, else its path with a number."""
    taken: dict[str, int] = {}
    for one in found:
        for name in dict.fromkeys(_printable(name) for name in one.names):
            taken[name] = taken.get(name, 0) + 1
    ids: list[str] = []
    given: set[str] = set()
    for one in found:
        names = [_printable(name) for name in one.names]
        chosen = next((name for name in names if name and taken[name] == 1 and name not in given), names[-1] or "meter")
        number, base = 1, chosen
        while chosen in given:
            number += 1
            chosen = f"{base}.{number}"
        given.add(chosen)
        ids.append(chosen)
    return ids


def _printable(name: str) -> str:
    """Return a name as an id may be."""
    return "".join(char if char.isprintable() else "_" for char in name).strip()
