"""How a fault is said: pydantic's errors in the house's words, values as a file writes them, and "did you mean".

Here are words only. Not here: what is checked (`park.model`, `park.checks`) and where it stands (`park.draft`).
"""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Collection, Hashable, Mapping, Sequence

from pydantic_core import ErrorDetails

LONGEST = 60  # characters of a value that a message quotes
PREFIX = 4  # so many letters of a beginning are enough to go on
COMPARISONS = 300_000  # similar words are looked for in about a second in all, then no more

EXAMPLES: Mapping[str, str] = {
    "name": "name: Harbour park",
    "timezone": "timezone: Europe/Copenhagen",
    "id": "id: power.FT101",
    "participant": "participant: power",
    "delivery.days": "days: mon-fri",
    "delivery.from": 'from: "06:00"',
    "delivery.to": 'to: "22:00"',
    "from": "from: power.header",
    "to": "to: refinery.steam",
    "carrier": "carrier: steam",
    "quantity": "quantity: mass_flow",
    "unit": "unit: t/h",
    "value": "value: 40",
    "source": 'source: {mqtt: {topic: "plant/FT201", value: "$.value", time: "$.ts"}}',
    "endpoint": 'endpoint: "opc.tcp://127.0.0.1:4840"',
    "node_id": 'node_id: "ns=2;s=power.FT101"',
    "topic": 'topic: "plant/refinery/FT201"',
    "group": "group: refinery",
    "edge_node": "edge_node: lab",
    "metric": "metric: purity",
    "kind": "kind: energy",
    "settles": "settles: energy",
    "per": "per: MWh",
    "days": "days: mon-fri",
    "property": "property: temperature",
    "total": "total: M_out",
    "by": "by: {X07: 0.4, X08: 0.6}",
    "modulus": "modulus: 1.0e8",
    "url": "url: mqtts://broker.plant:8883",
    "park": "park: {name: Harbour park, ...}",
}

SHAPES: Mapping[str, str] = {  # of the entries that stand inside others, by the name of their class
    "Uncertain": "{value: 400, u95: 150}",
    "Amount": "{value: 40, unit: t/h}",
    "Bounds": "{min: 0, max: 60, unit: t/h}",
    "Price": "{value: 22.5, per: MWh}",
    "Deadband": "{absolute: 0.5}",
    "Counter": "{modulus: 1.0e8, resolution: 0.1}",
    "EnthalpyReference": "{temperature_degC: 0.01}",
    "Source": '{mqtt: {topic: "plant/FT201", value: "$.value"}}',
    "Delivery": '{days: mon-fri, from: "06:00", to: "22:00"}',
    "QualityLimit": "{property: temperature, unit: degC, low: 180, high: 260}",
    "Allocation": "{total: M_out, by: {X07: 0.4, X08: 0.6}}",
}


def number(value: float) -> str:
    """Return a number as people write it: 60 rather than 60.0."""
    return f"{value:.15g}"


def show(value: object) -> str:
    """Return `value` as a message quotes it: texts in quotes, the rest as YAML writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= LONGEST else value[: LONGEST - 3] + "...")
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return repr(value)


def dotted(path: Sequence[str | int]) -> str:
    """Return a path into an entry as a message writes it: ``agreement.delivery[0].days``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def either(words: Collection[str]) -> str:
    """Return the words as a choice: ``a, b or c``."""
    *front, last = words
    return f"{', '.join(front)} or {last}" if front else last


class Speller:
    """Finds what a writer may have meant, and stops looking when that would take too long."""

    def __init__(self, budget: int = COMPARISONS) -> None:
        self._budget = budget
        self._found: dict[tuple[str, Hashable], str] = {}

    def did_you_mean(self, word: str, known: Collection[str], of: Hashable = None) -> str:
        """Return a question that names the nearest of `known`, or nothing; remembered where `of` names `known`."""
        if of is None:
            return self._look(word, known)
        if (word, of) not in self._found:
            self._found[word, of] = self._look(word, known)
        return self._found[word, of]

    def _look(self, word: str, known: Collection[str]) -> str:
        if len(known) > self._budget:
            return ""
        self._budget -= len(known)
        composed = unicodedata.normalize("NFC", word)
        for candidate in known:
            if candidate != word and unicodedata.normalize("NFC", candidate) == composed:
                return f"{candidate!r} looks the same, but its accents are encoded in another way: copy it"
        longer = [candidate for candidate in known if len(word) >= PREFIX and candidate.startswith(word)]
        if longer:
            return f"did you mean {longer[0]!r}?"
        folded = {candidate.casefold(): candidate for candidate in known}
        close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
        return f"did you mean {folded[close[0]]!r}?" if close else ""


def clause(error: ErrorDetails, speller: Speller, keys: Collection[str]) -> tuple[str, str]:
    """Return what a pydantic error says, in the house's words, and how to mend it.

    Parameters
    ----------
    error
        One of `ValidationError.errors()`.
    speller
        Finds similar words.
    keys
        The keys that are known where the error stands.
    """
    kind, value, path = error["type"], error["input"], error["loc"]
    name, key = dotted(path), str(path[-1]) if path else ""
    if kind == "missing":
        if isinstance(path[-1], int):
            return f"{dotted(path[:-1])} must be two numbers, got one", "such as [0, 60]"
        example = EXAMPLES.get(f"delivery.{key}" if "delivery" in path else key)
        return f"{name} is missing", f"such as {example}" if example else ""
    if kind == "extra_forbidden" and key == "<<":
        return "YAML 1.2 has no merge key '<<'", "write the keys out"
    if kind == "extra_forbidden":
        hint = speller.did_you_mean(key, keys) or f"known keys are {', '.join(keys)}"
        return f"unknown key {name!r}", hint
    if kind in ("literal_error", "enum"):
        return _choice(error, name, speller)
    if kind == "secret":                        # the value may be one: it is not quoted
        return f"{name} {error['msg']}", f"such as {key}: {{env: PLANT_SECRET}} or {key}: {{file: /run/secrets/plant}}"
    what, hint = _expected(error)
    return f"{name} {what}, got {show(value)}", hint


def _choice(error: ErrorDetails, name: str, speller: Speller) -> tuple[str, str]:
    words = [word.strip("' ") for word in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
    value = error["input"]
    hint = speller.did_you_mean(value, words) if isinstance(value, str) else ""
    return f"{name} must be {either(words)}, got {show(value)}", hint


def _expected(error: ErrorDetails) -> tuple[str, str]:
    """Return what a value must be, and how to mend it, for the errors that say so by their type alone."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind in ("float_type", "float_parsing"):
        return "must be a number", _number_hint(value)
    if kind == "string_type":
        return "must be text", "put it in quotes" if isinstance(value, bool | int | float) else ""
    if kind == "greater_than":
        return "must be positive" if context["gt"] == 0 else f"must be above {context['gt']}", ""
    if kind == "greater_than_equal":
        return "must not be negative" if context["ge"] == 0 else f"must be at least {context['ge']}", ""
    if kind in ("int_type", "int_from_float", "int_parsing"):
        return "must be a whole number", _number_hint(value)
    if kind == "less_than_equal":
        return f"must be at most {context['le']:g}", ""
    plain = {
        "finite_number": ("must be a finite number", ""),
        "bool_type": ("must be true or false", "YAML 1.2 knows no other words for them"),
        "tuple_type": ("must be a list", "such as [a, b]"),
        "too_long": ("must be two numbers", "such as [0, 60]"),
        "model_type": ("must be a mapping of keys to values", _shape_hint(context)),
        "mapping_type": ("must be a mapping", "such as {S30: 1, S31: -1}"),
        "moment": (error["msg"], "put an offset to it, or leave it out for the park's local time"),
    }
    plain["model_attributes_type"] = plain["model_type"]
    return plain.get(kind, (error["msg"][:1].lower() + error["msg"][1:], ""))


def _shape_hint(context: Mapping[str, object]) -> str:
    """Return how the entry that an error speaks of is written."""
    shape = SHAPES.get(str(context.get("class_name")))
    return f"such as {shape}" if shape else ""


def _number_hint(value: object) -> str:
    """Return how a text may become a number."""
    if not isinstance(value, str):
        return ""
    for candidate, hint in ((value, "take the quotes away"), (value.replace(",", "."), "decimals follow a point")):
        try:
            float(candidate)
        except ValueError:
            continue
        return hint
    return "the unit has a key of its own" if value[:1].isdigit() else ""
