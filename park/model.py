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

from pydantic import BaseModel, ConfigDict, Field

from park.units import to_si, to_si_difference

ENVIRONMENT = "environment"

Side = Literal["sender", "receiver"]
Carrier = Literal["steam", "water", "heat", "material", "gas", "electricity"]
Phase = Literal["liquid", "vapour", "saturated"]


class Entry(BaseModel):
    """Base of all entries: frozen, unknown keys are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Amount(Entry):
    """A number with its unit."""

    value: float
    unit: str

    @property
    def si(self) -> float:
        """The value in SI."""
        return to_si(self.value, self.unit)


class Uncertain(Entry):
    """A number with its 95 % half-width, in the unit of its key."""

    value: float
    u95: Annotated[float, Field(ge=0)] = 0.0


class EnthalpyReference(Entry):
    """The state whose enthalpy is zero: liquid water at this temperature (or that of a stream)."""

    temperature_degC: float = 0.01
    stream: str | None = None


class ParkInfo(Entry):
    """The park as a whole."""

    name: str
    timezone: str
    currency: str = "EUR"
    window_s: Annotated[float, Field(gt=0)] = 60.0
    lateness_s: Annotated[float, Field(ge=0)] = 30.0
    enthalpy_reference: EnthalpyReference = EnthalpyReference()


class Participant(Entry):
    """A company or public body that owns nodes and meters."""

    id: str
    name: str
    latitude: float | None = None
    longitude: float | None = None


class Node(Entry):
    """A control volume of one participant."""

    id: str
    participant: str
    name: str = ""
    conserves: tuple[str, ...] = ()          # mass | energy | component.<name>
    closure_u95_kg_s: float = 0.0
    closure_u95_kw: float = 0.0
    valid_from: datetime | None = None
    valid_to: datetime | None = None

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components that the node conserves."""
        return tuple(c.removeprefix("component.") for c in self.conserves if c.startswith("component."))


class Bounds(Entry):
    """The range that a stream cannot leave."""

    unit: str
    min: float | None = 0.0
    max: float | None = None


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
    property_delay_s: float = 0.0
    pipe_volume_m3: float | None = None
    flow_delay_s: float = 0.0
    heat_loss_kw: Uncertain | None = None
    mass_loss_percent: Uncertain | None = None
    bounds: Bounds | None = None
    nominal: Amount | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None

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


class OpcuaSource(Entry):
    """Where an OPC UA meter is read."""

    endpoint: str
    node_id: str


class MqttSource(Entry):
    """Where a JSON-over-MQTT meter is read; the paths are RFC 9535 with names and indexes only."""

    topic: str
    value: str = "$"
    time: str | None = None


class SparkplugSource(Entry):
    """Where a Sparkplug B metric is read."""

    group: str
    edge_node: str
    metric: str
    device: str | None = None


class Source(Entry):
    """Exactly one of the protocols."""

    opcua: OpcuaSource | None = None
    mqtt: MqttSource | None = None
    sparkplug: SparkplugSource | None = None


class Counter(Entry):
    """How a counter rolls over, and its smallest step."""

    modulus: float
    resolution: float


class Meter(Entry):
    """One instrument signal."""

    id: str
    quantity: str
    unit: str
    source: Source
    stream: str | None = None
    streams: Mapping[str, float] | None = None
    node: str | None = None
    side: Side | None = None
    participant: str | None = None
    u95_percent_of_reading: float | None = None
    u95_percent_of_span: float | None = None
    u95_absolute: float | None = None
    span: tuple[float, float] | None = None
    systematic_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    interval_s: Annotated[float, Field(gt=0)] = 10.0
    sampling: Literal["periodic", "on_change"] = "periodic"
    stale_after_s: float | None = Field(default=-1.0, validate_default=True)   # the loader puts in 3 x interval_s; None: never
    never_suspect: bool = False
    counter: Counter | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None

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

    value: float
    per: str


class Delivery(Entry):
    """When how much must be delivered; local time of the park."""

    days: str
    from_time: Annotated[str, Field(alias="from")]
    to_time: Annotated[str, Field(alias="to")]
    min: Amount | None = None
    max: Amount | None = None


class QualityLimit(Entry):
    """The range that a property of the exchanged stream must keep."""

    property: str
    unit: str
    low: float | None = None
    high: float | None = None
    delay_on_s: float = 0.0
    delay_off_s: float = 0.0
    deadband: float = 0.0


class Avoids(Entry):
    """What one unit of the exchange saves."""

    co2_kg_per_unit: float = 0.0
    water_m3_per_unit: float = 0.0
    material_t_per_unit: float = 0.0
    cost_per_unit: float = 0.0


class Agreement(Entry):
    """The terms of an exchange."""

    period: Literal["15min", "1h", "1d", "1month"] = "1d"
    settled_at: Side = "receiver"
    settle_on: tuple[Literal["receiver", "sender", "reconciled"], ...] = ("reconciled",)
    energy_reference: EnthalpyReference | None = None
    nominal: Amount | None = None
    tolerance_percent: Annotated[float, Field(ge=0)] = 0.0
    price: Price | None = None
    delivery: tuple[Delivery, ...] = ()
    quality: tuple[QualityLimit, ...] = ()
    avoids: Avoids = Avoids()
    allocate: dict[str, object] | None = None


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
    unit: str
    name: str = ""
    stream: str | None = None
    streams: Mapping[str, float] | None = None
    agreement: Agreement = Agreement()

    @property
    def signed_streams(self) -> Mapping[str, float]:
        """The streams that the exchange sums, with their signs."""
        if self.streams is not None:
            return self.streams
        return {self.stream: 1.0} if self.stream is not None else {}


class Park(Entry):
    """The whole network."""

    park: ParkInfo
    participants: tuple[Participant, ...] = ()
    nodes: tuple[Node, ...] = ()
    streams: tuple[Stream, ...] = ()
    meters: tuple[Meter, ...] = ()
    exchanges: tuple[Exchange, ...] = ()

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
        at = stream.from_node if meter.side == "sender" else stream.to_node
        participant = self.participant_of(at)
        if participant is None:
            raise ValueError(f"meter {meter.id!r} stands at the environment and names no participant")
        return participant

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
