"""What Sparkplug BIRTHs offer, as rows for meters.csv: every metric that holds a number, with its unit and range.

Units and ranges are properties that the specification leaves to the makers; read are the names that are in use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from collector.discovery import Found, unit_named
from collector.mqtt.values import Rejected
from collector.sparkplug.host import NAMESPACE, Command, rebirth_of
from collector.sparkplug.metrics import ARRAYS, BOOLEAN_ARRAY, REALS, SIGNED_BITS, UNSIGNED_BITS
from collector.sparkplug.node import BD_SEQ, NODE_CONTROL, NodeKey, text
from collector.sparkplug.wire import BOOLEAN, decoded

COLUMNS = ("sparkplug.group", "sparkplug.edge_node", "sparkplug.device", "sparkplug.metric")
MOST_METRICS = 50_000
_NUMBERS = REALS | SIGNED_BITS.keys() | UNSIGNED_BITS.keys() | {BOOLEAN}
_UNITS = frozenset({"engunit", "engineering units", "engineeringunits", "unit", "units", "uom"})
_LOWS, _HIGHS = frozenset({"englow", "low", "min"}), frozenset({"enghigh", "high", "max"})
_LEVELS = (4, 5)

Place = tuple[str, str, str, str]       # group, edge node, device (empty: the node itself), metric


class Births:
    """What was heard so far; pure, `add` is called for each message of the namespace."""

    def __init__(self) -> None:
        self._found: dict[Place, Found] = {}
        self._born: set[NodeKey] = set()
        self._heard: set[NodeKey] = set()
        self._asked: set[NodeKey] = set()
        self.arrays = 0
        self.passed_over = 0

    def add(self, topic: str, payload: bytes) -> None:
        """Take in a message."""
        levels = topic.split("/")
        if len(levels) not in _LEVELS or levels[0] != NAMESPACE:
            return
        group, kind, node, device = (*levels[1:], "")[:4]
        if kind not in ("NBIRTH", "DBIRTH"):
            if kind in ("NDATA", "DDATA"):
                self._heard.add((group, node))
            return
        try:
            metrics = decoded(payload).metrics
        except Rejected:
            return
        self._born.add((group, node))
        for metric in metrics:
            self._add_metric((group, node, device, text(metric.name)), metric)

    def found(self) -> list[Found]:
        """Return the rows, by node, device and metric."""
        return [self._found[place] for place in sorted(self._found)]

    def without_birth(self) -> set[NodeKey]:
        """Return the nodes whose data were heard, and no BIRTH."""
        return self._heard - self._born

    def requests(self, now_ms: int) -> Iterator[Command]:
        """Yield a request for a rebirth to each node whose data were heard and no BIRTH, once."""
        for key in sorted(self.without_birth() - self._asked):
            self._asked.add(key)
            yield rebirth_of(key, now_ms)

    def _add_metric(self, place: Place, metric: Any) -> None:
        name = place[3]
        if name == BD_SEQ or name.startswith(NODE_CONTROL) or place in self._found:
            return
        if metric.datatype in ARRAYS or metric.datatype == BOOLEAN_ARRAY:
            self.arrays += 1
        elif metric.datatype in _NUMBERS and len(self._found) >= MOST_METRICS:
            self.passed_over += 1
        elif metric.datatype in _NUMBERS:
            unit, span = _unit_and_span(metric)
            source = {column: cell for column, cell in zip(COLUMNS, place, strict=True) if cell}
            self._found[place] = Found(_names(place), source, unit, span)


def path_of(found: Found) -> str:
    """Return the path of a metric, as `--filter` sees it."""
    return "/".join(found.source[column] for column in COLUMNS if column in found.source)


def _names(place: Place) -> list[str]:
    """Return names for a metric, short ones first."""
    words = [word.replace("/", ".") for word in place if word]
    return [".".join(words[-count:]) for count in range(1, len(words) + 1)]


def _unit_and_span(metric: Any) -> tuple[str, tuple[float, float] | None]:
    """Return unit and range of a metric, where its properties tell them."""
    unit, low, high = "", math.nan, math.nan
    for key, value in zip(metric.properties.keys, metric.properties.values, strict=False):
        word, said = text(key).lower(), _said(value)
        if word in _UNITS and isinstance(said, str):
            unit = unit_named(said)
        elif word in _LOWS and isinstance(said, float):
            low = said
        elif word in _HIGHS and isinstance(said, float):
            high = said
    return unit, (low, high) if -math.inf < low < high < math.inf else None


def _said(value: Any) -> str | float | None:
    """Return what a property says."""
    field = value.WhichOneof("value")
    if field is None or field == "boolean_value":
        return None
    said = getattr(value, field)
    return text(said) if isinstance(said, str | bytes) else float(said)
