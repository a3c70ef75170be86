"""What a Sparkplug host application knows of its edge nodes: bytes and clock in, readings and commands out.

    receive ──► in order? ──► BIRTH  names, aliases, data types; its values are readings
                 │  ▲         DATA   by alias or name: readings
          ahead: │  │ tick    DEATH  every meter of the node or device is bad from here on
                 └──┘
                after REORDER_S a gap, and one request for a rebirth

Pure: no socket, no clock of its own. `Host.receive` takes every message, `tick` what only waited for time to pass,
`take` gives what followed. The connection is in `client`, the order in `order`, what is known of a node in `node`, and
what becomes of metrics in `readings`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from collector.mqtt.values import Rejected
from collector.register import SPARKPLUG, Register
from collector.rejections import Rejections
from collector.sparkplug.node import REBIRTH_S, Node, NodeKey, bd_seq_of, nodes_of
from collector.sparkplug.order import Message
from collector.sparkplug.readings import Readings, Segment
from collector.sparkplug.wire import Payload, rebirth
from collector.times import plausible

NAMESPACE = "spBv1.0"
ANSWER_S = 5.0                      # wall; a node that lives has answered a request for its BIRTH by then
LARGEST_PAYLOAD = 4 << 20           # bytes; a BIRTH of 10,000 metrics with metadata is about 1 MiB
_LEVELS = (4, 5)                    # spBv1.0/GROUP/TYPE/NODE[/DEVICE]
_OF_NODE = frozenset({"NBIRTH", "NDATA", "NDEATH"})
_OF_DEVICE = frozenset({"DBIRTH", "DDATA", "DDEATH"})


class Command(NamedTuple):
    """What is to be published."""

    topic: str
    payload: bytes


class Host:
    """The states of all edge nodes with meters at one broker.

    Parameters
    ----------
    register
        The meters.
    rejections
        Where goes what is no reading.
    source
        Whose meters they are: a park may have several brokers.
    """

    def __init__(self, register: Register, rejections: Rejections, source: str = SPARKPLUG) -> None:
        self.source = source
        self._rejections = rejections
        self._nodes: dict[NodeKey, Node] = {}
        self._commands: list[Command] = []
        self._readings = Readings(source, register.ids, rejections)
        self.apply(register)

    @property
    def topics(self) -> list[str]:
        """The topics to subscribe."""
        return sorted({f"{NAMESPACE}/{group}/#" for group, _ in self._nodes})

    @property
    def held(self) -> int:
        """Messages that wait for one before them."""
        return sum(len(node.order.held) for node in self._nodes.values())

    @property
    def ignored(self) -> int:
        """Metrics without a meter, counted at each message."""
        return self._readings.ignored

    def apply(self, register: Register) -> None:
        """Read the meters of a changed register from now on.

        What is known of nodes stays known, so a metric that was in a BIRTH is read at once. Of a node that is new, the
        next message brings a request for its BIRTH.
        """
        asked = nodes_of(register, self.source)
        self._readings.ids = register.ids
        self._nodes = {key: self._nodes.get(key) or Node(key) for key in asked}
        for key, meters in asked.items():
            self._nodes[key].read_by(meters)

    def due_in(self, now: float) -> float | None:
        """Return the wall seconds until `tick` has something to do; None: nothing waits."""
        at = min((min(node.order.give_up_at, node.doubt_until) for node in self._nodes.values()), default=math.inf)
        return None if math.isinf(at) else max(0.0, at - now)

    def take(self) -> tuple[list[Segment], list[Command]]:
        """Remove and return what followed from the messages."""
        commands, self._commands = self._commands, []
        return self._readings.take(), commands

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
            self._rejections.add(self.source, topic, "message is retained", payload)
            return
        try:
            self._take_in(node, Message(kind, device, decoded(payload), received_us, topic, payload), now)
        except Rejected as reason:
            self._rejections.add(self.source, topic, str(reason), payload)

    def tick(self, now: float) -> None:
        """Go on without what has been missing for too long."""
        for node in self._nodes.values():
            if now >= node.order.give_up_at:
                self._give_up(node, now)
            if now >= node.doubt_until:
                self._bury(node, node.doubted_us)

    # -- order ------------------------------------------------------------------------------------------------------

    def _take_in(self, node: Node, message: Message, now: float) -> None:
        """Apply a message when it is its turn."""
        if message.kind == "NDEATH":
            self._node_death(node, message, now)
            return
        node.doubt_until = math.inf                 # it speaks
        if message.kind == "NBIRTH":
            self._node_birth(node, message, now)
        elif node.order.expected is None:
            self._nameless(node, message, "no BIRTH of the node is known", now)
        else:
            for ready in node.order.offer(message, now):
                self._apply(node, ready, now)
            if node.order.is_full:
                self._give_up(node, now)

    def _give_up(self, node: Node, now: float) -> None:
        """Go on behind a gap, and ask for a rebirth: what is missing may have been a BIRTH."""
        received_us = max(message.received_us for message in node.order.held.values())
        self._pass_gap(node, now)
        self._ask(node, received_us, now)

    def _pass_gap(self, node: Node, now: float) -> None:
        """Mark a gap, and apply what was held in its order."""
        self._readings.interrupt(f"messages of {node.subject} are missing")
        for ready in node.order.skip():
            self._apply(node, ready, now)

    def _apply(self, node: Node, message: Message, now: float) -> None:
        """Apply a message whose turn it is."""
        if message.kind == "DBIRTH":
            self._readings.birth(message, node.declare(message.device, message.payload))
        elif message.kind == "DDEATH":
            self._device_death(node, message)
        elif message.device not in node.declared:
            self._nameless(node, message, "no BIRTH of the device is known", now)
        elif self._readings.data(node, message):
            self._ask(node, message.received_us, now)

    # -- births and deaths ------------------------------------------------------------------------------------------

    def _node_birth(self, node: Node, message: Message, now: float) -> None:
        payload = message.payload
        born = int(payload.timestamp), int(payload.seq)
        if born == node.born and node.order.expected is not None:
            return                                  # delivered twice: what came since would look like a gap
        overtook = node.order.withhold(payload.timestamp)
        if node.order.held:
            self._pass_gap(node, now)
        node.declared, node.bd_seq, node.born, node.is_dead = {}, bd_seq_of(payload), born, False
        node.ask_after_s = REBIRTH_S
        node.order.begin(born[1], overtook, now)
        self._readings.birth(message, node.declare("", payload))
        for ready in node.order.release():
            self._apply(node, ready, now)

    def _node_death(self, node: Node, message: Message, now: float) -> None:
        """Note that a node is dead, if it is this life that ended: its last will may come after its next birth.

        Of a node that has said nothing yet (we were away) it may be a life before this one: it is asked.
        """
        if node.is_dead:
            return
        if node.order.expected is None:
            self._ask(node, message.received_us, now)
            node.doubted_us, node.doubt_until = message.received_us, now + ANSWER_S
            return
        if node.bd_seq is not None and node.bd_seq != bd_seq_of(message.payload):
            self._rejections.add(self.source, node.subject, "DEATH of an earlier life", bd_seq_of(message.payload))
            return
        if node.order.held:
            self._pass_gap(node, now)
        self._bury(node, message.received_us)       # a will was written at the connection: its time says nothing

    def _bury(self, node: Node, at_us: int) -> None:
        """Make all meters of a node bad from an instant."""
        node.order.end()
        node.declared, node.is_dead, node.doubt_until = {}, True, math.inf
        self._readings.die(node.places, at_us, at_us)
        self._readings.interrupt(f"{node.subject} is dead", kept=True)

    def _device_death(self, node: Node, message: Message) -> None:
        if node.declared.pop(message.device, None) is None:
            return
        at_us = int(message.payload.timestamp) * 1000
        if not plausible(at_us, message.received_us):
            at_us = message.received_us
        self._readings.die(node.places_of(message.device), at_us, message.received_us)
        self._readings.interrupt(f"{node.subject}/{message.device} is dead", kept=True)

    # -- what cannot be named ---------------------------------------------------------------------------------------

    def _nameless(self, node: Node, message: Message, reason: str, now: float) -> None:
        """Set aside a message of which no metric can be named: until its BIRTH comes, values are lost."""
        self._rejections.add(self.source, message.topic, reason, message.raw)
        if self._ask(node, message.received_us, now):
            self._readings.interrupt(f"{node.subject} sent data before its BIRTH")

    def _ask(self, node: Node, received_us: int, now: float) -> bool:
        """Request a rebirth, unless that was done lately; return whether it was."""
        if not node.may_ask(now):
            return False
        self._commands.append(rebirth_of(node.key, received_us // 1000))
        return True


def rebirth_of(key: NodeKey, timestamp_ms: int) -> Command:
    """Return the request to an edge node for its BIRTHs."""
    group, node = key
    return Command(f"{NAMESPACE}/{group}/NCMD/{node}", rebirth(timestamp_ms))


def decoded(payload: bytes) -> Any:
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
