"""What a park's network is made of: participants, nodes, and the streams between them.

Also the small things that streams, meters and agreements are told in: amounts, ends, signed sets. Not here: what is
measured (`park.meters`) and agreed (`park.agreements`), and the park as a whole (`park.model`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from park.entry import Entry, Moment, NotNegative, Number, Positive, Unit
from park.units import Dimension, dimension, to_si

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
