"""What a park is: participants, nodes, streams, meters, exchanges, as park.yaml writes them.

The field names are the keys of park.yaml (see docs/park.md); values keep the units of the file, and the
properties ending in a unit give them in SI. Here: the park as a whole, and who stands where in it. Its entries are in
`park.network`, `park.meters` and `park.agreements`, and can be had from here, as those who work with a whole park do.
Reading and checking files is in `park.load`; units in `park.units`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from park.agreements import Agreement, Allocation, Avoids, Delivery, Exchange, ExchangeKind, Price, QualityLimit
from park.brokers import MqttBroker
from park.entry import Entry, NotNegative, Positive
from park.meters import STALE_INTERVALS, Counter, Meter, MqttSource, OpcuaSource, Source, SparkplugSource
from park.network import (
    ENVIRONMENT,
    WATER_DENSITY,
    Amount,
    Bounds,
    Carrier,
    EnthalpyReference,
    Node,
    Participant,
    Phase,
    Side,
    SignedStreams,
    Stream,
    Uncertain,
    other_end,
)
from park.servers import OpcuaServer

__all__ = [
    "ENVIRONMENT", "STALE_INTERVALS", "WATER_DENSITY", "Agreement", "Allocation", "Amount", "Avoids", "Bounds",
    "Carrier", "Counter", "Delivery", "EnthalpyReference", "Exchange", "ExchangeKind", "Meter", "MqttSource", "Node",
    "OpcuaSource", "Park", "ParkInfo", "Participant", "Phase", "Price", "QualityLimit", "Side", "SignedStreams",
    "Source", "SparkplugSource", "Stream", "Uncertain", "other_end",
]


class ParkInfo(Entry):
    """The park as a whole."""

    name: str
    timezone: str
    currency: str = "EUR"
    window_s: Positive = 60.0
    lateness_s: NotNegative = 30.0
    enthalpy_reference: EnthalpyReference = EnthalpyReference()


class Park(Entry):
    """The whole network."""

    park: ParkInfo
    participants: tuple[Participant, ...] = ()
    nodes: tuple[Node, ...] = ()
    streams: tuple[Stream, ...] = ()
    meters: tuple[Meter, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    servers: tuple[OpcuaServer, ...] = ()
    brokers: tuple[MqttBroker, ...] = ()

    @cached_property
    def node(self) -> dict[str, Node]:
        """Nodes by id."""
        return {n.id: n for n in self.nodes}

    @cached_property
    def stream(self) -> dict[str, Stream]:
        """Streams by id."""
        return {s.id: s for s in self.streams}

    @cached_property
    def meter(self) -> dict[str, Meter]:
        """Meters by id."""
        return {m.id: m for m in self.meters}

    @cached_property
    def exchange(self) -> dict[str, Exchange]:
        """Exchanges by id."""
        return {e.id: e for e in self.exchanges}

    @cached_property
    def tanks(self) -> frozenset[str]:
        """Nodes whose inventory is metered: what they hold up is balanced over time."""
        return frozenset(m.node for m in self.meters if m.quantity == "inventory" and m.node is not None)

    def participant_of(self, node: str) -> str | None:
        """Return the participant that owns the node; None for the environment."""
        return None if node == ENVIRONMENT else self.node[node].participant

    def owner(self, meter: Meter) -> str:
        """Return the participant that owns the meter: of the node at its side, else as declared."""
        if meter.participant is not None:
            return meter.participant
        if meter.node is not None:
            return self.node[meter.node].participant
        stream = self.stream[next(iter(meter.signed_streams))]
        participant = self.participant_of(stream.node_at(self.meter_side(meter)))
        if participant is None:
            raise ValueError(f"meter {meter.id!r} stands at the environment and names no participant")
        return participant

    def meter_side(self, meter: Meter) -> Side:
        """Return the end of its (first) stream that a meter stands at.

        A side that park.yaml leaves out follows from the meter's participant where that owns one end alone, else
        it is the end that is not the environment, else the receiver.
        """
        if meter.side is not None:
            return meter.side
        stream = self.stream[next(iter(meter.signed_streams))]
        sender, receiver = (self.participant_of(node) for node in (stream.from_node, stream.to_node))
        if meter.participant is not None and sender != receiver and meter.participant in (sender, receiver):
            return "sender" if meter.participant == sender else "receiver"
        return "sender" if receiver is None else "receiver"

    def meter_ends(self, meter: Meter) -> dict[str, Side]:
        """Return, for each stream of the meter, the end at which the meter sees it; empty for a meter on a node."""
        streams = meter.signed_streams
        return {stream: self.side_of(streams, stream, self.meter_side(meter)) for stream in streams}

    def exchange_ends(self, exchange: Exchange, at: Side) -> dict[str, Side]:
        """Return, for each stream of the exchange, the end that `at` means: for a return, the end at the same party."""
        streams = exchange.signed_streams
        return {stream: self.side_of(streams, stream, at) for stream in streams}

    def parties(self, exchange: Exchange) -> tuple[str, str]:
        """Return the participants that an exchange goes from and to: those of its first forward stream.

        Raises
        ------
        ValueError
            If the exchange has no stream of its own (a share of a total).
        """
        first = next(iter(exchange.signed_streams), None)
        ends = None if first is None else (self.stream[first].from_node, self.stream[first].to_node)
        sender, receiver = (None, None) if ends is None else (self.participant_of(node) for node in ends)
        if sender is None or receiver is None:
            raise ValueError(f"exchange {exchange.id!r} has no stream between two participants")
        return sender, receiver

    def side_of(self, signed_streams: Mapping[str, float], stream: str, side: Side) -> Side:
        """Return the end of `stream` that lies where the signed set's first stream has its end `side`.

        A heat meter or an exchange over a supply and its return stands at one place: where the supply arrives, the
        return leaves. The end is the one at the same node, else at the same participant, else the same `side`.
        """
        first, ends = self.stream[next(iter(signed_streams))], self.stream[stream]
        place = first.from_node if side == "sender" else first.to_node
        at_node = (ends.from_node == place, ends.to_node == place)
        owner = self.participant_of(place)
        at_owner = (self.participant_of(ends.from_node) == owner, self.participant_of(ends.to_node) == owner)
        for at_sender, at_receiver in (at_node, at_owner):
            if at_sender != at_receiver:
                return "sender" if at_sender else "receiver"
        return side
