"""What a Sparkplug host application knows of its edge nodes: bytes and clock in, readings and commands out.

    receive ──► in order? ──► BIRTH  names, aliases, data types; its values are readings
                 │  ▲         DATA   by alias or name: readings
          ahead: │  │ tick    DEATH  every meter of the node or device is bad from here on
                 └──┘
                after REORDER_S a gap, and one request for a rebirth

    connected ──► all nodes in doubt ──► confirmed: each is asked for its BIRTH; who is silent is dead since `lost`

Pure: no socket, no clock of its own. `Host.receive` takes every message, `tick` what only waited for time to pass,
`take` gives what followed. The connection is in `client`, the order in `order`, what is known of a node in `node`,
whether it lives in `doubt`, and what becomes of metrics in `readings`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from collector.mqtt.values import Rejected
from collector.register import SPARKPLUG, Register
from collector.rejections import Rejections
from collector.sparkplug import doubt
from collector.sparkplug.node import Node, NodeKey, bd_seq_of, nodes_of
from collector.sparkplug.order import Message
from collector.sparkplug.readings import Readings, Segment
from collector.sparkplug.wire import decoded, rebirth
from collector.times import plausible

NAMESPACE = "spBv1.0"
CONFIRM_S = 5.0                     # wall; our STATE has come back by then, unless the broker keeps it from us
SPREAD_S = 0.02                     # wall; from one node to the next, when all are asked: BIRTHs may be large
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
        self._lost_us: int | None = None            # when the last connection ended
        self._is_confirmed = False                  # what comes is said now: nothing that was kept is still to come
        self._confirm_by = math.inf                 # when that counts as so, whatever the broker says
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

    @property
    def is_in_doubt(self) -> bool:
        """Whether a node may be dead without our knowing: then nothing new is sure of any meter of the source."""
        return not self._is_confirmed or any(node.doubt.since_us is not None for node in self._nodes.values())

    def apply(self, register: Register) -> None:
        """Read the meters of a changed register from now on.

        What is known of nodes stays known, so a metric that was in a BIRTH is read at once. Nodes that are new are
        asked for theirs by `ask_unknown`, once they can be heard.
        """
        asked = nodes_of(register, self.source)
        self._readings.ids = register.ids
        self._readings.on_change = frozenset(
            place for place in register.sparkplug if register.meters[place].sampling == "on_change")
        self._nodes = {key: self._nodes.get(key) or Node(key) for key in asked}
        for key, meters in asked.items():
            self._nodes[key].read_by(meters)

    def due_in(self, now: float) -> float | None:
        """Return the wall seconds until `tick` has something to do; None: nothing waits."""
        nodes = self._nodes.values()
        at = min([self._confirm_by, *(min(node.order.give_up_at, node.doubt.due_at, node.doubt.until, node.devices_by)
                                      for node in nodes)])
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

    def tick(self, now: float, now_us: int, *, caught_up: bool = True) -> None:
        """Go on without what has been missing for too long.

        Parameters
        ----------
        now, now_us
            A monotonic clock [wall s], and the run's [us].
        caught_up
            Whether every message that has come was received: an answer may be among those that were not.
        """
        if caught_up and now >= self._confirm_by:
            self.confirmed(now)
        for node in self._nodes.values():
            if now >= node.order.give_up_at:
                self._give_up(node, now)
            if now >= node.doubt.due_at:
                self._request(node, now_us, now)
            if caught_up and now >= node.doubt.until:
                self._bury_silent(node, now_us, now)
            if caught_up and now >= node.devices_by:
                self._bury_missing(node, now_us)

    # -- the connection ---------------------------------------------------------------------------------------------

    def lost(self, at_us: int) -> None:
        """Note that the connection is lost [us]: nobody can answer any more."""
        self._lost_us, self._is_confirmed, self._confirm_by = at_us, False, math.inf
        for node in self._nodes.values():
            node.doubt.pause()
            node.devices_by = math.inf

    def connected(self, at_us: int, now: float) -> None:
        """Doubt every node: it may have died since the connection before was lost, or before there was one [us].

        What the broker kept of earlier comes first and is no sign of life; `confirmed` says that it is over.
        """
        since_us = at_us if self._lost_us is None else self._lost_us
        self._lost_us, self._is_confirmed, self._confirm_by = None, False, now + CONFIRM_S
        for node in self._nodes.values():
            if not node.is_dead:
                node.doubt.begin(since_us)

    def confirmed(self, now: float) -> None:
        """Ask all nodes for their BIRTHs, one after the other: what comes from now on is said now."""
        if self._is_confirmed:
            return
        self._is_confirmed, self._confirm_by = True, math.inf
        for number, node in enumerate(self._nodes.values()):
            node.doubt.ask_from(now + number * SPREAD_S)

    def ask_unknown(self, at_us: int, now: float) -> None:
        """Ask the nodes of which nothing is known, which a changed park has brought; `at_us`: since when [us]."""
        for node in self._nodes.values():
            if node.order.expected is None and not node.is_dead and node.doubt.since_us is None:
                node.doubt.begin(at_us)
                if self._is_confirmed:
                    node.doubt.ask_from(now)

    # -- order ------------------------------------------------------------------------------------------------------

    def _take_in(self, node: Node, message: Message, now: float) -> None:
        """Apply a message when it is its turn."""
        if message.kind == "NDEATH":
            self._node_death(node, message, now)
            return
        if self._is_confirmed:
            node.doubt.end()                        # it speaks
        else:
            node.doubt.begin(message.received_us)   # it spoke, but nobody knows when
        if message.kind == "NBIRTH":
            self._node_birth(node, message, now)
        elif node.order.expected is None:
            self._nameless(node, message, "no BIRTH of the node is known", now)
        else:
            if node.is_dead:                        # it was silent too long, and lives: what has not changed is missing
                node.is_dead = False
                self._ask(node, message.received_us, now)
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
            if node.meters.keys() <= node.declared.keys():
                node.devices_by = math.inf
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
        if born == node.born and node.order.expected is not None and not node.is_dead:
            return                                  # delivered twice: what came since would look like a gap
        overtook = node.order.withhold(payload.timestamp)
        if node.order.held:
            self._pass_gap(node, now)
        node.declared, node.bd_seq, node.born = {}, bd_seq_of(payload), born
        node.is_dead = node.is_lossy = False
        if self._is_confirmed:
            node.doubt.born()
            node.born_us, node.devices_by = message.received_us, now + doubt.ANSWER_S
        node.order.begin(born[1], overtook, now)
        self._readings.birth(message, node.declare("", payload))
        for ready in node.order.release():
            self._apply(node, ready, now)

    def _node_death(self, node: Node, message: Message, now: float) -> None:
        """Note that a node is dead, if it is this life that ended: its last will may come after its next birth.

        Where that is not sure it is asked: nodes that bear another number are mostly dead all the same, and of one that
        has said nothing yet (we were away) it may be a life before this one.
        """
        if node.is_dead:
            return
        if node.order.expected is None or node.bd_seq not in (None, bd_seq_of(message.payload)):
            node.doubt.begin(message.received_us)
            if self._is_confirmed:
                node.doubt.ask_from(now)
                if now >= node.doubt.due_at:
                    self._request(node, message.received_us, now)
            return
        if node.order.held:
            self._pass_gap(node, now)
        node.order.end()
        node.declared = {}
        at_us = message.received_us                 # a will was written at the connection: its time says nothing
        self._bury(node, at_us, at_us)

    def _bury_silent(self, node: Node, now_us: int, now: float) -> None:
        """Bury a node that did not answer; what its BIRTH declared stays known: it may be one that never answers."""
        since_us = node.doubt.since_us
        if node.order.held:
            self._pass_gap(node, now)
        self._bury(node, now_us if since_us is None else since_us, now_us)

    def _bury_missing(self, node: Node, now_us: int) -> None:
        """Make the meters of devices bad of which no BIRTH followed that of their node."""
        node.devices_by = math.inf
        for device in node.meters.keys() - node.declared.keys():
            self._readings.die(node.places_of(device), node.born_us, now_us)
            self._readings.interrupt(f"{node.subject}/{device} is not there", kept=True)

    def _bury(self, node: Node, at_us: int, received_us: int) -> None:
        """Make all meters of a node bad from an instant."""
        node.is_dead, node.devices_by = True, math.inf
        node.doubt.end()
        self._readings.die(node.places, at_us, received_us)
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
        if self._ask(node, message.received_us, now) or not node.is_lossy:
            node.is_lossy = True
            self._readings.interrupt(f"{node.subject} sent data before its BIRTH")

    def _ask(self, node: Node, received_us: int, now: float) -> bool:
        """Request a rebirth, unless that was done lately; return whether it was."""
        if not self._is_confirmed or not node.doubt.may_ask(now):
            return False                            # it was, or all will be
        self._commands.append(rebirth_of(node.key, received_us // 1000))
        return True

    def _request(self, node: Node, now_us: int, now: float) -> None:
        """Request a rebirth."""
        node.doubt.asked(now)
        self._commands.append(rebirth_of(node.key, now_us // 1000))


def rebirth_of(key: NodeKey, timestamp_ms: int) -> Command:
    """Return the request to an edge node for its BIRTHs."""
    group, node = key
    return Command(f"{NAMESPACE}/{group}/NCMD/{node}", rebirth(timestamp_ms))
