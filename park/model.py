"""What a park is: participants, nodes, streams, meters, exchanges, as park.yaml writes them.

The field names are the keys of park.yaml (see docs/park.md); values keep the units of the file, and the
properties ending in a unit give them in SI. Reading and checking files is in `park.load`; units in `park.units`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from park.brokers import MqttBroker
from park.entry import Entry, Flag, Moment, NotNegative, Number, Positive, Unit
from park.schedule import minutes, weekdays
from park.servers import Count, Deadband, OpcuaServer
from park.units import Dimension, dimension, to_si, to_si_difference

ENVIRONMENT = "environment"

WATER_DENSITY = 998.2       # [kg/m3] liquid water at 20 degC and 1 atm (IAPWS-95); for nominal and bounds in m3 only

Side = Literal["sender", "receiver"]
Carrier = Literal["steam", "water", "heat", "material", "gas", "electricity"]
Phase = Literal["liquid", "vapour", "saturated"]


def other_end(side: Side) -> Side:
    """Return the other end of a stream."""
    return "receiver" if side == "sender" else "sender"


def _forward_first(streams: Mapping[str, float]) -> Mapping[str, float]:
    """Put the streams that count positive before those that count negative: the first says where from and where to."""
    return dict(sorted(streams.items(), key=lambda signed: signed[1] < 0))


SignedStreams = Annotated[Mapping[str, Number], AfterValidator(_forward_first)]


class Amount(Entry):
    """A number with its unit."""

    value: Number
    unit: Unit

    @property
    def si(self) -> float:
        """The value in SI."""
        return to_si(self.value, self.unit)


class Uncertain(Entry):
    """A number with its 95 % half-width, in the unit of its key."""

    value: Number
    u95: NotNegative = 0.0


class EnthalpyReference(Entry):
    """The state whose enthalpy is zero: liquid water at this temperature (or that of a stream)."""

    temperature_degC: Number = 0.01
    stream: str | None = None


class ParkInfo(Entry):
    """The park as a whole."""

    name: str
    timezone: str
    currency: str = "EUR"
    window_s: Positive = 60.0
    lateness_s: NotNegative = 30.0
    enthalpy_reference: EnthalpyReference = EnthalpyReference()


class Participant(Entry):
    """A company or public body that owns nodes and meters."""

    id: str
    name: str
    latitude: Annotated[Number, Field(ge=-90, le=90)] | None = None
    longitude: Annotated[Number, Field(ge=-180, le=180)] | None = None


class Node(Entry):
    """A control volume of one participant."""

    id: str
    participant: str
    name: str = ""
    conserves: tuple[str, ...] = ()          # mass | energy | component.<name>
    closure_u95_kg_s: NotNegative = 0.0
    closure_u95_kw: NotNegative = 0.0
    valid_from: Moment | None = None
    valid_to: Moment | None = None

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components that the node conserves."""
        return tuple(c.removeprefix("component.") for c in self.conserves if c.startswith("component."))


class Bounds(Entry):
    """The range that a stream cannot leave."""

    unit: Unit
    min: Number | None = 0.0
    max: Number | None = None


class Stream(Entry):
    """A directed flow between two nodes."""

    id: str
    from_node: Annotated[str, Field(alias="from")]
    to_node: Annotated[str, Field(alias="to")]
    carrier: Carrier
    name: str = ""
    phase: Phase | None = None
    dryness: Uncertain | None = None
    material: str | None = None
    density_kg_m3: Uncertain | None = None      # where it does not follow from temperature; of a gas at normal state
    property_delay_s: NotNegative = 0.0
    pipe_volume_m3: Positive | None = None
    flow_delay_s: NotNegative = 0.0
    heat_loss_kw: Uncertain | None = None
    mass_loss_percent: Uncertain | None = None
    bounds: Bounds | None = None
    nominal: Amount | None = None
    valid_from: Moment | None = None
    valid_to: Moment | None = None

    def node_at(self, side: Side) -> str:
        """Return the node at an end of the stream."""
        return self.from_node if side == "sender" else self.to_node

    @property
    def carries_mass(self) -> bool:
        """Whether the stream is matter; heat and electricity are energy alone."""
        return self.carrier not in ("heat", "electricity")

    @property
    def has_enthalpy(self) -> bool:
        """Whether its energy flow follows from mass flow, temperature and pressure (water and steam)."""
        return self.carrier in ("water", "steam")

    @property
    def two_sided(self) -> bool:
        """Whether sender and receiver see different flows: a loss or a flow delay lies between."""
        return bool(self.heat_loss_kw or self.mass_loss_percent or self.flow_delay_s)

    @property
    def nominal_si(self) -> float | None:
        """The nominal flow [kg/s, kW of heat and electricity]; None where none is given or no density is known."""
        return None if self.nominal is None else self._flow_si(self.nominal.value, self.nominal.unit)

    @property
    def bounds_si(self) -> tuple[float, float]:
        """The lowest and highest flow [kg/s, kW of heat and electricity], infinite where there is no bound."""
        if self.bounds is None:
            return 0.0, float("inf")
        unit, infinite = self.bounds.unit, float("inf")
        low = None if self.bounds.min is None else self._flow_si(self.bounds.min, unit)
        high = None if self.bounds.max is None else self._flow_si(self.bounds.max, unit)
        return -infinite if low is None else low, infinite if high is None else high

    def _flow_si(self, value: float, unit: str) -> float | None:
        """Return a flow of this stream in kg/s or kW, also from a volume flow where the density is known."""
        if value == 0:
            return 0.0
        if dimension(unit) in (Dimension.MASS_FLOW, Dimension.POWER):
            return to_si(value, unit)
        if self.density_kg_m3 is not None:
            return to_si(value, unit) * self.density_kg_m3.value
        return to_si(value, unit) * WATER_DENSITY if self.carrier == "water" else None


class OpcuaSource(Entry):
    """Where an OPC UA meter is read; what it leaves out is that of its server (`park.servers`)."""

    endpoint: str
    node_id: str
    index: Annotated[int, Field(strict=True, ge=0)] | None = None       # of an array: which of its elements, from 0
    sampling_interval_ms: Positive | None = None
    queue_size: Count | None = None
    deadband: Deadband | None = None


class MqttSource(Entry):
    """Where a JSON-over-MQTT meter is read; the paths are RFC 9535 with names and indexes only."""

    topic: str
    value: str = "$"
    time: str | None = None
    time_format: Literal["iso", "s", "ms", "us", "ns"] | None = None    # none: told by its kind and size
    status: str | None = None                # StatusCode, good, uncertain, bad, true, false; none: good, null: bad
    samples: str | None = None               # an array of samples: then the other paths begin at each of them
    broker: str | None = None                # an entry of `brokers`; none: that of the command line, or the only entry


class SparkplugSource(Entry):
    """Where a Sparkplug B metric is read."""

    group: str
    edge_node: str
    metric: str
    device: str | None = None
    index: Annotated[int, Field(strict=True, ge=0)] | None = None       # of an array: which of its elements, from 0
    broker: str | None = None                # as of MQTT


class Source(Entry):
    """Exactly one of the protocols."""

    opcua: OpcuaSource | None = None
    mqtt: MqttSource | None = None
    sparkplug: SparkplugSource | None = None

    @property
    def name(self) -> str:
        """What goes away and comes back as one, as the store names it.

        A server by its endpoint; of a broker the protocol, with its id where the meter names it: ``mqtt:plant``.
        """
        if self.opcua is not None:
            return f"opcua:{self.opcua.endpoint}"
        protocol, source = ("mqtt", self.mqtt) if self.mqtt is not None else ("sparkplug", self.sparkplug)
        return protocol if source is None or source.broker is None else f"{protocol}:{source.broker}"


class Counter(Entry):
    """How a counter rolls over, and its smallest step."""

    modulus: Positive
    resolution: NotNegative = 0.0


STALE_INTERVALS = 3.0        # the contract's default of stale_after_s, in intervals


class Meter(Entry):
    """One instrument signal."""

    id: str
    quantity: str
    unit: Unit
    source: Source
    stream: str | None = None
    streams: SignedStreams | None = None
    node: str | None = None
    side: Side | None = None
    participant: str | None = None
    u95_percent_of_reading: Positive | None = None
    u95_percent_of_span: Positive | None = None
    u95_absolute: Positive | None = None
    span: tuple[Number, Number] | None = None
    systematic_share: Annotated[Number, Field(ge=0, le=1)] = 1.0
    interval_s: Positive = 10.0
    sampling: Literal["periodic", "on_change"] = "periodic"
    stale_after_s: Positive | None = Field(            # None: never
        default_factory=lambda given: STALE_INTERVALS * float(given.get("interval_s", 10.0)))
    never_suspect: Flag = False
    counter: Counter | None = None
    valid_from: Moment | None = None
    valid_to: Moment | None = None

    @property
    def signed_streams(self) -> Mapping[str, float]:
        """The streams that the meter sums, with their signs; empty for a meter on a node."""
        if self.streams is not None:
            return self.streams
        return {self.stream: 1.0} if self.stream is not None else {}

    @property
    def property_name(self) -> str | None:
        """The quality property that it measures; temperature and pressure are read from either form."""
        if self.quantity in ("temperature", "pressure"):
            return self.quantity
        return self.quantity.removeprefix("quality.") if self.quantity.startswith("quality.") else None

    def is_in_force(self, moment: datetime) -> bool:
        """Whether the meter counts at `moment`: from `valid_from` on, before `valid_to`."""
        begun = self.valid_from is None or self.valid_from <= moment
        return begun and (self.valid_to is None or moment < self.valid_to)

    def u95(self, expected: float) -> float:
        """Return the 95 % half-width of one reading at the expected value, both in the meter's unit."""
        terms = [self.u95_absolute or 0.0]
        if self.u95_percent_of_reading:
            terms.append(abs(expected) * self.u95_percent_of_reading / 100.0)
        if self.u95_percent_of_span and self.span is not None:
            terms.append((self.span[1] - self.span[0]) * self.u95_percent_of_span / 100.0)
        return float(sum(term * term for term in terms) ** 0.5)

    def u95_si(self, expected_si: float) -> float:
        """Return the 95 % half-width of one reading at the expected value, both in SI."""
        scale = to_si_difference(1.0, self.unit)
        offset = to_si(0.0, self.unit)
        return self.u95((expected_si - offset) / scale) * scale


class Price(Entry):
    """What one unit costs, in the park's currency."""

    value: Number
    per: Unit


class Delivery(Entry):
    """When how much must be delivered; local time of the park."""

    days: str
    from_time: Annotated[str, Field(alias="from")]
    to_time: Annotated[str, Field(alias="to")]
    min: Amount | None = None
    max: Amount | None = None

    @property
    def weekdays(self) -> frozenset[int]:
        """Its days; Monday is 0."""
        return weekdays(self.days)

    @property
    def minutes(self) -> tuple[int, int]:
        """From and to, in minutes after local midnight; to is below from where it passes midnight."""
        return minutes(self.from_time), minutes(self.to_time)


class QualityLimit(Entry):
    """The range that a property of the exchanged stream must keep."""

    property: Annotated[str, AfterValidator(lambda name: name.removeprefix("quality."))]
    unit: Unit
    low: Number | None = None
    high: Number | None = None
    delay_on_s: NotNegative = 0.0
    delay_off_s: NotNegative = 0.0
    deadband: NotNegative = 0.0


class Avoids(Entry):
    """What one unit of the exchange saves."""

    co2_kg_per_unit: Number = 0.0
    water_m3_per_unit: Number = 0.0
    material_t_per_unit: Number = 0.0
    cost_per_unit: Number = 0.0


class Allocation(Entry):
    """How a shared total is divided: what is divided (a meter), and each exchange's share."""

    total: str
    by: Mapping[str, Positive]


class Agreement(Entry):
    """The terms of an exchange."""

    period: Literal["15min", "1h", "1d", "1month"] = "1d"
    settled_at: Side = "receiver"
    settle_on: tuple[Literal["receiver", "sender", "reconciled"], ...] = ("reconciled",)
    energy_reference: EnthalpyReference | None = None
    nominal: Amount | None = None
    tolerance_percent: NotNegative = 0.0
    price: Price | None = None
    delivery: tuple[Delivery, ...] = ()
    quality: tuple[QualityLimit, ...] = ()
    avoids: Avoids = Avoids()
    allocate: Allocation | None = None


class ExchangeKind(StrEnum):
    """What sort of thing is exchanged."""

    MATERIAL = "material"
    ENERGY = "energy"
    WATER = "water"
    INFRASTRUCTURE = "infrastructure"


class Exchange(Entry):
    """What two participants settle."""

    id: str
    kind: ExchangeKind
    settles: Literal["mass", "volume", "energy"]
    unit: Unit
    name: str = ""
    stream: str | None = None
    streams: SignedStreams | None = None
    agreement: Agreement = Agreement()
    allocate: Allocation | None = None                  # here or in the agreement

    @property
    def signed_streams(self) -> Mapping[str, float]:
        """The streams that the exchange sums, with their signs; empty for a share of a total."""
        if self.streams is not None:
            return self.streams
        return {self.stream: 1.0} if self.stream is not None else {}

    @property
    def allocation(self) -> Allocation | None:
        """How the exchange divides a shared total, if it does."""
        return self.allocate or self.agreement.allocate


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
