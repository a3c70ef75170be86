"""What is measured in a park: meters, and where each is read.

Not here: how servers and brokers are reached (`park.servers`, `park.brokers`), and at which end of a stream a meter
stands where it does not say (`park.model`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from park.entry import Entry, Flag, Moment, NotNegative, Number, Positive, Unit
from park.network import Side, SignedStreams
from park.servers import Count, Deadband
from park.units import to_si, to_si_difference


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
