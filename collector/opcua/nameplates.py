"""What a server says of its variables, unit and range, held against park.yaml: a difference is said, never mended.

A value in another unit than its meter's is a wrong reading that looks right; which of the two is wrong, people decide.
Each meter is compared once a process, beside the readings, and a server that has nothing to say of it is no fault.
The properties are EngineeringUnits and EURange (OPC 10000-8, 5.3.2).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from asyncua import ua
from asyncua.ua.uaerrors import UaError

from collector.discovery import unit_named
from collector.opcua.engineering_units import unit_of_code
from collector.opcua.session import Connection
from collector.opcua.subscribing import Item, Subscription
from collector.opcua.tags import Tag

_logger = logging.getLogger(__name__)

SAME_END = 1e-6             # of the span: ends nearer than that are the same, whatever the server's float makes of them
_PROPERTIES = ("EngineeringUnits", "EURange")
_BARS = frozenset({"bar", "bara", "barg"})      # a server's bar may be either: its code is one


class Nameplates:
    """Compares the meters of one server with what that says of their variables.

    Parameters
    ----------
    source
        Name of the server's source, for messages.
    items_per_call
        Variables that are asked after at once.
    """

    def __init__(self, source: str, items_per_call: int) -> None:
        self._source = source
        self._items_per_call = items_per_call
        self._compared: set[str] = set()

    async def compare(self, connection: Connection, subscription: Subscription) -> None:
        """Compare the meters that were not yet."""
        new = [item for meter, item in subscription.items.items() if meter not in self._compared]
        for start in range(0, len(new), self._items_per_call):
            some = new[start : start + self._items_per_call]
            try:
                told = await _told(connection, some)
            except (UaError, TimeoutError):         # it knows no browse paths, or wants smaller calls: it says nothing
                told = [(None, None)] * len(some)
            for item, (unit, span) in zip(some, told, strict=True):
                self._compared.add(item.tag.meter)
                self._hold_against(item.tag, unit, span)

    def _hold_against(self, tag: Tag, told_unit: Any, told_range: Any) -> None:
        """Say what differs of one meter."""
        unit = _unit(told_unit)
        if unit and tag.unit and unit != tag.unit and not {unit, tag.unit} <= _BARS:
            _logger.warning("%s: %s: the server gives its unit as %r, park.yaml as %r; its values are taken as %s",
                            self._source, tag.meter, unit, tag.unit, tag.unit)
            return                          # then the ranges are of different units too
        if tag.span is None or not isinstance(told_range, ua.Range):
            return
        ends = (told_range.Low, told_range.High)
        if not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
            return
        near = SAME_END * (tag.span[1] - tag.span[0])
        if any(abs(told - ours) > near for told, ours in zip(ends, tag.span, strict=True)):
            _logger.warning("%s: %s: the server gives its range as %.9g to %.9g, park.yaml its span as %.9g to %.9g",
                            self._source, tag.meter, *ends, *tag.span)


def _unit(told: Any) -> str:
    """Return the unit that a server gives, as park.yaml writes it if that knows it; empty if it gives none."""
    if not isinstance(told, ua.EUInformation):
        return ""
    name = ((told.DisplayName.Text if told.DisplayName else None) or "").strip()
    return unit_named(name) or unit_of_code(told.UnitId) or name


async def _told(connection: Connection, items: Sequence[Item]) -> list[tuple[Any, Any]]:
    """Return EngineeringUnits and EURange of some variables; None for what a variable has not."""
    session = connection.session
    found = await session.translate_browsepaths_to_nodeids([
        ua.BrowsePath(item.node, ua.RelativePath([ua.RelativePathElement(
            ReferenceTypeId=ua.NodeId(ua.Int32(ua.ObjectIds.HasProperty)), TargetName=ua.QualifiedName(name, 0),
            IsInverse=False, IncludeSubtypes=True)]))       # type: ignore[arg-type]  # asyncua's Boolean is a mark
        for item in items for name in _PROPERTIES])
    nodes = [result.Targets[0].TargetId if result.StatusCode.is_good() and result.Targets else None
             for result in found]
    there = [ua.NodeId(node.Identifier, node.NamespaceIndex, node.NodeIdType) for node in nodes if node is not None]
    answers = iter(await session.read_attributes(there, ua.AttributeIds.Value) if there else [])
    values = []
    for node in nodes:
        answer = None if node is None else next(answers)
        values.append(None if answer is None or answer.Value is None else answer.Value.Value)
    return list(zip(values[::2], values[1::2], strict=True))
