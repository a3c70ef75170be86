"""What a Sparkplug host application knows of its edge nodes: bytes and clock in, readings and commands out.

    receive ──► in order? ──► BIRTH  names, aliases, data types; its values are readings
                 │  ▲         DATA   by alias or name: readings
          ahead: │  │ tick    DEATH  every meter of the node or device is bad from here on
                 └──┘
                after REORDER_S a gap, and one request for a rebirth

Pure: no socket, no clock of its own. `Host.receive` takes every message, `tick` what only waited for time to pass,
`take` gives what followed. The connection is in `client`, what a metric's value is in `metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from collector.batches import Interruption, Rows
from collector.mqtt.payload import Rejected
from collector.register import SPARKPLUG, Register
from collector.rejections import Rejections
from collector.sparkplug import metrics
from collector.sparkplug.wire import Payload, rebirth
from collector.times import plausible
from park.quality import BAD_STATUS

NAMESPACE = "spBv1.0"
SEQUENCE = 256                      # seq runs from 0 to 255
LATE_WITHIN = 16                    # so many behind is a late or repeated message; more is taken for a gap
REORDER_S = 2.0                     # wall; what is missing for longer will not come
MOST_HELD = 128                     # messages of a node that wait for a missing one
REBIRTH_S = 10.0                    # wall; between two requests to one node, doubled while it does not answer
REBIRTH_LONGEST_S = 600.0
LARGEST_PAYLOAD = 4 << 20           # bytes; a BIRTH of 10,000 metrics with metadata is about 1 MiB
NO_COMMUNICATION = 0x80310000       # OPC UA BadNoCommunication
_BD_SEQ = "bdSeq"
_NODE_CONTROL = "Node Control/"
_LEVELS = (4, 5)                    # spBv1.0/GROUP/TYPE/NODE[/DEVICE]
_OF_NODE = frozenset({"NBIRTH", "NDATA", "NDEATH"})
_OF_DEVICE = frozenset({"DBIRTH", "DDATA", "DDEATH"})

NodeKey = tuple[str, str]           # group, edge node
Names = Mapping[str, int]           # metric to the place of its meter


class Command(NamedTuple):
    """What is to be published."""

    topic: str
    payload: bytes


class Segment(NamedTuple):
    """Rows in order, with the interruption before them, if there was one."""

    interruption: Interruption | None
    rows: Rows


class _Known(NamedTuple):
    """A metric as its BIRTH declared it; `place` None: no meter of the park."""

    name: str
    place: int | None
    datatype: int


class _Message(NamedTuple):
    """A decoded message of a node or device; `device` empty for the node itself."""

    kind: str
    device: str
    payload: Any
    received_us: int


@dataclass
class _Node:
    """An edge node that has meters.

    Attributes
    ----------
    meters
        By device (empty: the node itself), the meters' places by metric.
    named
        By device that is alive, its metrics by name.
    aliases
        Metrics by alias; an alias is one of the whole node.
    expected
        The next seq; None: no BIRTH yet.
    """

    key: NodeKey
    meters: dict[str, dict[str, int]] = field(default_factory=dict)
    named: dict[str, dict[str, _Known]] = field(default_factory=dict)
    aliases: dict[int, tuple[str, _Known]] = field(default_factory=dict)
    expected: int | None = None
    bd_seq: int | None = None
    born: tuple[int, int] | None = None             # timestamp and seq of the last NBIRTH
    held: dict[int, _Message] = field(default_factory=dict)
    give_up_at: float = math.inf
    ask_at: float = -math.inf
    ask_after_s: float = REBIRTH_S

    @property
    def subject(self) -> str:
        """How messages call it."""
        return "/".join(self.key)


class Host:
    """The states of all edge nodes with meters in a park.

    Parameters
    ----------
    register
        The meters.
    rejections
        Where goes what is no reading.
    """

    def __init__(self, register: Register, rejections: Rejections) -> None:
        self.ignored = 0                            # metrics without a meter, counted at each message
        self._rejections = rejections
        self._nodes: dict[NodeKey, _Node] = {}
        self._last_us: dict[int, int] = {}          # latest source time by place
        self._dead: set[int] = set()                # places whose last reading is that of a death
        self._commands: list[Command] = []
        self._segments: list[Segment] = []
        for place in register.sparkplug:
            source = register.meters[place].source.sparkplug
            assert source is not None
            key = source.group, source.edge_node
            node = self._nodes.setdefault(key, _Node(key))
            node.meters.setdefault(source.device or "", {})[source.metric] = place

    @property
    def topics(self) -> list[str]:
        """The topics to subscribe."""
        return sorted({f"{NAMESPACE}/{group}/#" for group, _ in self._nodes})

    @property
    def held(self) -> int:
        """Messages that wait for one before them."""
        return sum(len(node.held) for node in self._nodes.values())

    def due_in(self, now: float) -> float | None:
        """Return the wall seconds until `tick` has something to do; None: nothing waits."""
        at = min((node.give_up_at for node in self._nodes.values()), default=math.inf)
        return None if math.isinf(at) else max(0.0, at - now)

    def take(self) -> tuple[list[Segment], list[Command]]:
        """Remove and return what followed from the messages."""
        segments, self._segments = self._segments, []
        commands, self._commands = self._commands, []
        return segments, commands

    def receive(self, topic: str, payload: bytes, received_us: int, now: float, *, retained: bool = False) -> None:
        """Take in one message.

        Parameters
        ----------
        topic, payload
            The message; those of nodes without meters and commands are passed over.
        received_us
            Its arrival on the run's clock [us].
        now
            A monotonic clock [wall s].
        retained
            Whether the broker had kept it: then nobody knows from when it is, and it is counted only.
        """
        levels = topic.split("/")
        if len(levels) not in _LEVELS or levels[0] != NAMESPACE:
            return
        kind, device = levels[2], levels[4] if len(levels) == max(_LEVELS) else ""
        node = self._nodes.get((levels[1], levels[3]))
        if node is None or kind not in (_OF_DEVICE if device else _OF_NODE):
            return
        if retained:
            self._rejections.add(SPARKPLUG, topic, "message is retained", payload)
            return
        try:
            self._order(node, _Message(kind, device, _decoded(payload), received_us), now)
        except Rejected as reason:
            self._rejections.add(SPARKPLUG, topic, str(reason), payload)

    def tick(self, now: float) -> None:
        """Go on without what has been missing for too long."""
        for node in self._nodes.values():
            if now >= node.give_up_at:
                self._give_up(node, now)

    # -- order ------------------------------------------------------------------------------------------------------

    def _order(self, node: _Node, message: _Message, now: float) -> None:
        """Apply a message when it is its turn."""
        if message.kind == "NDEATH":
            self._node_death(node, message, now)
        elif message.kind == "NBIRTH":
            self._node_birth(node, message, now)
        elif node.expected is None:
            self._rejections.add(SPARKPLUG, node.subject, "no BIRTH of the node is known", message.kind)
            self._ask(node, message.received_us, now)
        elif not message.payload.HasField("seq"):
            self._apply(node, message, now)
        else:
            self._in_turn(node, message, now)

    def _in_turn(self, node: _Node, message: _Message, now: float) -> None:
        assert node.expected is not None
        seq = int(message.payload.seq) % SEQUENCE
        ahead = (seq - node.expected) % SEQUENCE
        if ahead == 0:
            self._apply(node, message, now)
            node.expected = (seq + 1) % SEQUENCE
            self._release(node, now)
        elif ahead >= SEQUENCE - LATE_WITHIN:
            if message.kind.endswith("DATA"):       # late or repeated: a reading by its own time all the same
                self._apply(node, message, now)
        else:
            node.held[seq] = message
            node.give_up_at = min(node.give_up_at, now + REORDER_S)
            if len(node.held) >= MOST_HELD:
                self._give_up(node, now)

    def _release(self, node: _Node, now: float) -> None:
        """Apply what was held and is in turn now."""
        while node.expected is not None and (message := node.held.pop(node.expected, None)) is not None:
            self._apply(node, message, now)
            node.expected = (node.expected + 1) % SEQUENCE
        if not node.held:
            node.give_up_at = math.inf

    def _give_up(self, node: _Node, now: float) -> None:
        """Go on behind a gap, and ask for a rebirth: what is missing may have been a BIRTH."""
        received_us = max(message.received_us for message in node.held.values())
        self._pass_gap(node, now)
        self._ask(node, received_us, now)

    def _pass_gap(self, node: _Node, now: float) -> None:
        """Mark a gap, and apply what was held in its order."""
        self._interrupt(f"messages of {node.subject} are missing")
        while node.held:
            expected = node.expected
            assert expected is not None
            node.expected = min(node.held, key=lambda seq: (seq - expected) % SEQUENCE)
            self._release(node, now)

    # -- births and deaths ------------------------------------------------------------------------------------------

    def _node_birth(self, node: _Node, message: _Message, now: float) -> None:
        payload = message.payload
        born = int(payload.timestamp), int(payload.seq)
        if born == node.born and node.expected is not None:
            return                                  # delivered twice: what came since would look like a gap
        overtook = {seq: held for seq, held in node.held.items() if held.payload.timestamp >= payload.timestamp}
        node.held = {seq: held for seq, held in node.held.items() if seq not in overtook}
        if node.held:
            self._pass_gap(node, now)
        known = _definitions(payload, node.meters.get("", {}))
        node.named, node.aliases, node.bd_seq = {}, {}, _bd_seq(payload)
        node.born, node.expected = born, (born[1] + 1) % SEQUENCE
        node.ask_after_s = REBIRTH_S
        node.held, node.give_up_at = overtook, now + REORDER_S if overtook else math.inf
        self._declare(node, "", known, message)
        self._release(node, now)

    def _declare(self, node: _Node, device: str, known: list[tuple[int | None, _Known]], message: _Message) -> None:
        """Take the metrics of a BIRTH, and its values for readings."""
        node.named[device] = {definition.name: definition for _, definition in known}
        node.aliases = {alias: of for alias, of in node.aliases.items() if of[0] != device}
        node.aliases.update({alias: (device, definition) for alias, definition in known if alias is not None})
        for metric, (_, definition) in zip(message.payload.metrics, known, strict=True):
            unknown_yet = metric.is_null and (definition.place in self._dead or definition.place not in self._last_us)
            if not unknown_yet:                     # a null at first says that there is no value yet: no reading
                self._read(node, device, metric, definition, message)

    def _node_death(self, node: _Node, message: _Message, now: float) -> None:
        """Note that a node is dead, if it is this life that ended: its last will may come after its next birth."""
        if node.expected is None:
            return
        if node.bd_seq is not None and node.bd_seq != _bd_seq(message.payload):
            self._rejections.add(SPARKPLUG, node.subject, "DEATH of an earlier life", _bd_seq(message.payload))
            return
        if node.held:
            self._pass_gap(node, now)
        node.expected = None
        node.named, node.aliases = {}, {}
        for names in node.meters.values():          # a will was written at the connection: its time says nothing
            self._die(names, message.received_us, message.received_us)
        self._interrupt(f"{node.subject} is dead", kept=True)

    def _device_death(self, node: _Node, message: _Message) -> None:
        if node.named.pop(message.device, None) is None:
            return
        node.aliases = {alias: of for alias, of in node.aliases.items() if of[0] != message.device}
        at_us = int(message.payload.timestamp) * 1000
        if not plausible(at_us, message.received_us):
            at_us = message.received_us
        self._die(node.meters.get(message.device, {}), at_us, message.received_us)
        self._interrupt(f"{node.subject}/{message.device} is dead", kept=True)

    def _die(self, names: Names, at_us: int, received_us: int) -> None:
        """Make meters bad from an instant, which is after their last reading whatever their clock says."""
        for place in names.values():
            if place not in self._dead:
                self._add(place, max(at_us, self._last_us.get(place, 0) + 1), received_us, math.nan, NO_COMMUNICATION)
                self._dead.add(place)

    def _ask(self, node: _Node, received_us: int, now: float) -> None:
        """Request a rebirth, unless that was done lately."""
        if now < node.ask_at:
            return
        node.ask_at = now + node.ask_after_s
        node.ask_after_s = min(2.0 * node.ask_after_s, REBIRTH_LONGEST_S)
        group, name = node.key
        self._commands.append(Command(f"{NAMESPACE}/{group}/NCMD/{name}", rebirth(received_us // 1000)))

    # -- values -----------------------------------------------------------------------------------------------------

    def _apply(self, node: _Node, message: _Message, now: float) -> None:
        """Apply a message whose turn it is."""
        if message.kind == "DBIRTH":
            known = _definitions(message.payload, node.meters.get(message.device, {}))
            self._declare(node, message.device, known, message)
        elif message.kind == "DDEATH":
            self._device_death(node, message)
        elif message.device not in node.named:
            self._rejections.add(SPARKPLUG, f"{node.subject}/{message.device}", "no BIRTH of the device is known",
                                 message.kind)
            self._ask(node, message.received_us, now)
        else:
            self._data(node, message, now)

    def _data(self, node: _Node, message: _Message, now: float) -> None:
        names = node.named[message.device]
        for metric in message.payload.metrics:
            of = node.aliases.get(metric.alias) if metric.HasField("alias") else None
            known = of[1] if of is not None and of[0] == message.device else names.get(metric.name)
            if known is None:
                reason = "unknown alias" if metric.HasField("alias") else "metric is not in the BIRTH"
                self._rejections.add(SPARKPLUG, node.subject, reason, metric.name or metric.alias)
                self._ask(node, message.received_us, now)
            else:
                self._read(node, message.device, metric, known, message)

    def _read(self, node: _Node, device: str, metric: Any, known: _Known, message: _Message) -> None:
        """Append the reading of one metric, or count why it is none."""
        if known.place is None:
            self.ignored += known.name != _BD_SEQ and not known.name.startswith(_NODE_CONTROL)
            return
        try:
            value, status = metrics.reading(metric, known.datatype)
            source_us = metrics.source_us(metric, message.payload, message.received_us)
        except Rejected as reason:
            self._rejections.add(SPARKPLUG, f"{node.subject}/{device} ({known.name})", str(reason), str(metric))
            return
        self._add(known.place, source_us, message.received_us, value, status)
        if status < BAD_STATUS:
            self._dead.discard(known.place)

    def _add(self, place: int, source_us: int, received_us: int, value: float, status: int) -> None:
        if not self._segments:
            self._segments.append(Segment(None, Rows()))
        self._segments[-1].rows.add(place, source_us, received_us, value, status)
        self._last_us[place] = max(source_us, self._last_us.get(place, 0))

    def _interrupt(self, cause: str, *, kept: bool = False) -> None:
        self._segments.append(Segment(Interruption(cause, kept), Rows()))


def _decoded(payload: bytes) -> Any:
    """Return the payload's fields.

    Raises
    ------
    Rejected
        If it is too large or none.
    """
    if len(payload) > LARGEST_PAYLOAD:
        raise Rejected("payload is larger than 4 MiB")
    try:
        return Payload.FromString(payload)
    except DecodeError:
        raise Rejected("payload is not Sparkplug B") from None


def _definitions(payload: Any, names: Names) -> list[tuple[int | None, _Known]]:
    """Return the metrics of a BIRTH with their aliases, in its order."""
    return [
        (metric.alias if metric.HasField("alias") else None,
         _Known(name := _text(metric.name), names.get(name), metric.datatype))
        for metric in payload.metrics
    ]


def _text(name: str | bytes) -> str:
    """Return a name; protobuf gives one that is not UTF-8 as bytes."""
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")


def _bd_seq(payload: Any) -> int | None:
    """Return the number of a node's life."""
    for metric in payload.metrics:
        if metric.name == _BD_SEQ and metric.WhichOneof("value") in ("int_value", "long_value"):
            return int(metric.long_value or metric.int_value)
    return None
