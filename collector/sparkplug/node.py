"""What is known of one edge node: its meters, and the metrics that its BIRTHs declared.

Not here: the order of its messages (`order`), whether it lives (`doubt`), and what follows from both (`host`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from collector.register import Register
from collector.sparkplug.doubt import Doubt
from collector.sparkplug.metrics import DOUBLE, FLOAT
from collector.sparkplug.order import Order

BD_SEQ = "bdSeq"
NODE_CONTROL = "Node Control/"      # how names of metrics begin that are commands

NodeKey = tuple[str, str]           # group, edge node
Asker = tuple[int | None, int]      # which element of an array (None: the metric is one number), place of the meter
Meters = Mapping[str, Sequence[Asker]]          # by metric


class Known(NamedTuple):
    """A metric as its BIRTH declared it; `askers`: the meters that read it, none where it is not of the park."""

    name: str
    datatype: int
    askers: Sequence[Asker]


def known(name: str, datatype: int, meters: Meters) -> Known:
    """Return a metric with the meters that read it."""
    return Known(name, datatype, tuple(meters.get(name, ())))


class Declared:
    """The metrics of a node or device that is alive.

    Attributes
    ----------
    names, aliases
        All of them, by name and by alias.
    doubles, floats
        By alias the place of the only meter of those that are one real number of this datatype.
    """

    def __init__(self, names: dict[str, Known], aliases: dict[int, Known]) -> None:
        self.names, self.aliases = names, aliases
        self.doubles = _plain(aliases, DOUBLE)
        self.floats = _plain(aliases, FLOAT)

    def without(self, aliases: Iterable[int]) -> Declared:
        """Return it without some aliases."""
        gone = set(aliases)
        return Declared(self.names, {alias: of for alias, of in self.aliases.items() if alias not in gone})

    def asked_by(self, meters: Meters) -> Declared:
        """Return the same metrics, read by other meters."""
        names = {name: known(name, of.datatype, meters) for name, of in self.names.items()}
        return Declared(names, {alias: names[of.name] for alias, of in self.aliases.items()})


@dataclass
class Node:
    """An edge node that has meters.

    Attributes
    ----------
    meters
        By device (empty: the node itself) and metric, who reads it.
    declared
        By device that is alive, what its BIRTH declared.
    bd_seq
        The number of this life; None where the BIRTH had none.
    born
        Timestamp and seq of the last NBIRTH.
    born_us, devices_by
        Its arrival [us], and until when its devices' BIRTHs should have followed [monotonic s].
    doubt
        Whether it lives.
    is_dead
        Whether its meters are bad: its DEATH came, or no answer when it was in doubt.
    is_lossy
        Whether a gap was marked for values that cannot be named without its BIRTH.
    """

    key: NodeKey
    meters: dict[str, dict[str, list[Asker]]] = field(default_factory=dict)
    declared: dict[str, Declared] = field(default_factory=dict)
    order: Order = field(default_factory=Order)
    bd_seq: int | None = None
    born: tuple[int, int] | None = None
    born_us: int = 0
    devices_by: float = math.inf
    doubt: Doubt = field(default_factory=Doubt)
    is_dead: bool = False
    is_lossy: bool = False

    @property
    def subject(self) -> str:
        """How messages call it."""
        return "/".join(self.key)

    @property
    def places(self) -> list[int]:
        """All its meters."""
        return [place for device in self.meters for place in self.places_of(device)]

    def places_of(self, device: str) -> list[int]:
        """Return the meters of a device (empty: the node's own)."""
        return [place for askers in self.meters.get(device, {}).values() for _, place in askers]

    def declare(self, device: str, payload: Any) -> list[Known]:
        """Take in a BIRTH; return its metrics in its order."""
        meters = self.meters.get(device, {})
        metrics = [known(text(metric.name), metric.datatype, meters) for metric in payload.metrics]
        aliases = {metric.alias: of for metric, of in zip(payload.metrics, metrics, strict=True)
                   if metric.HasField("alias")}
        for name, other in self.declared.items():   # an alias is one of the whole node: the latest BIRTH has it
            if name != device and not aliases.keys().isdisjoint(other.aliases):
                self.declared[name] = other.without(aliases)
        self.declared[device] = Declared({of.name: of for of in metrics}, aliases)
        return metrics

    def read_by(self, meters: dict[str, dict[str, list[Asker]]]) -> None:
        """Let other meters read it from now on."""
        self.meters = meters
        self.declared = {device: of.asked_by(meters.get(device, {})) for device, of in self.declared.items()}


def _plain(aliases: Mapping[int, Known], datatype: int) -> dict[int, int]:
    return {alias: of.askers[0][1] for alias, of in aliases.items()
            if of.datatype == datatype and len(of.askers) == 1 and of.askers[0][0] is None}


def nodes_of(register: Register, source: str) -> dict[NodeKey, dict[str, dict[str, list[Asker]]]]:
    """Return the meters of a source by node, device and metric."""
    found: dict[NodeKey, dict[str, dict[str, list[Asker]]]] = {}
    for place, of in _metrics(register, source):
        devices = found.setdefault((of.group, of.edge_node), {})
        devices.setdefault(of.device or "", {}).setdefault(of.metric, []).append((of.index, place))
    return found


def _metrics(register: Register, source: str) -> Iterator[tuple[int, Any]]:
    for place in register.sparkplug:
        if register.source[place] == source:
            yield place, register.meters[place].source.sparkplug


def text(name: str | bytes) -> str:
    """Return a name; protobuf gives one that is not UTF-8 as bytes."""
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")


def bd_seq_of(payload: Any) -> int | None:
    """Return the number of a node's life."""
    for metric in payload.metrics:
        if metric.name == BD_SEQ and metric.WhichOneof("value") in ("int_value", "long_value"):
            return int(metric.long_value or metric.int_value)
    return None
