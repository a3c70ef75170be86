"""What participants settle: exchanges, and the terms of their agreements.

Not here: who the parties are, which follows from the streams (`park.model`), and settlement (`processing.account`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from park.entry import Entry, NotNegative, Number, Positive, Unit
from park.network import Amount, EnthalpyReference, Side, SignedStreams
from park.schedule import minutes, weekdays


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
