"""The meters that are collected, in the order of their places in a batch, with what turns their readings into SI.

Everything that a reading needs is prepared here once, when the park is read: nothing looks up a unit, a path or a
source for a single reading. Which protocol reads a meter is in `opcua.tags`, `mqtt.payload` and `sparkplug.host`.

A place is for good. When the park file changes under a running collector, meters that stay as they are keep their
places, those that go leave theirs empty, and a meter that is read in another way from now on gets a new one: rows that
are still on their way mean what they meant when they came (`Register.after`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from park.model import Meter, Park
from park.units import conversion

OPCUA = "opcua"
MQTT = "mqtt"
SPARKPLUG = "sparkplug"


def protocol_of(source: str) -> str:
    """Return the protocol of a source, by its name."""
    return source.partition(":")[0]


def opcua_source(endpoint: str) -> str:
    """Return the name of a server's source: its endpoint as the park configures it."""
    return f"{OPCUA}:{endpoint}"


@dataclass(frozen=True)
class Register:
    """Meters by place: `meters[i]` is the meter of the rows that carry the number i.

    Attributes
    ----------
    meters
        Every meter of the park, and those that were read in another way before the park file changed.
    dropped
        Places of meters that are not collected any more.
    """

    meters: tuple[Meter, ...]
    dropped: frozenset[int] = frozenset()

    def after(self, park: Park) -> Register:
        """Return the register of a changed park: what is read as before keeps its place."""
        places = {_reading_of(meter): place for place, meter in enumerate(self.meters)}
        meters, live = list(self.meters), set[int]()
        for meter in park.meters:
            place = places.get(_reading_of(meter))
            if place is None:
                place = len(meters)
                meters.append(meter)
            meters[place] = meter
            live.add(place)
        return Register(tuple(meters), frozenset(range(len(meters))) - live)

    @cached_property
    def live(self) -> tuple[int, ...]:
        """Places of the meters that are collected, in order."""
        return tuple(place for place in range(len(self.meters)) if place not in self.dropped)

    @cached_property
    def heirs(self) -> Mapping[int, int]:
        """By the place of a meter that is read in another way, at the same source, from now on: its new place."""
        live = {(self.meters[place].id, self.source[place]): place for place in self.live}
        return {old: live[of] for old in self.dropped if (of := (self.meters[old].id, self.source[old])) in live}

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Meter ids by place."""
        return tuple(meter.id for meter in self.meters)

    @cached_property
    def scale(self) -> npt.NDArray[np.float64]:
        """Scale to SI by place, shape (n_meters,) [SI a unit of the meter]."""
        return np.array([conversion(meter.unit).scale for meter in self.meters], dtype=np.float64)

    @cached_property
    def offset(self) -> npt.NDArray[np.float64]:
        """Offset to SI by place, shape (n_meters,) [SI]."""
        return np.array([conversion(meter.unit).offset for meter in self.meters], dtype=np.float64)

    @cached_property
    def opcua(self) -> Mapping[str, Sequence[int]]:
        """Places of the OPC UA meters by endpoint as configured."""
        found: dict[str, list[int]] = {}
        for place in self.live:
            opcua = self.meters[place].source.opcua
            if opcua is not None:
                found.setdefault(opcua.endpoint, []).append(place)
        return found

    @cached_property
    def mqtt(self) -> Sequence[int]:
        """Places of the meters whose readings come as MQTT payloads."""
        return [place for place in self.live if self.meters[place].source.mqtt is not None]

    @cached_property
    def sparkplug(self) -> Sequence[int]:
        """Places of the meters whose readings come as Sparkplug metrics."""
        return [place for place in self.live if self.meters[place].source.sparkplug is not None]

    @cached_property
    def source(self) -> tuple[str, ...]:
        """Source names by place."""
        return tuple(meter.source.name for meter in self.meters)

    def to_si(self, place: npt.NDArray[np.int64], value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return values in SI.

        Parameters
        ----------
        place
            Meter of each value, shape (n,).
        value
            Values, shape (n,) [unit of the meter]; NaN where there is none, which stays.

        Returns
        -------
        numpy.ndarray
            Values, shape (n,) [SI].
        """
        return value * self.scale[place] + self.offset[place]


def _reading_of(meter: Meter) -> tuple[object, ...]:
    """Return what decides how a meter's readings are read: all else of it may change without a new place."""
    return (meter.id, meter.quantity, meter.unit, meter.interval_s, meter.sampling, meter.source.model_dump_json())


def register_of(park: Park) -> Register:
    """Return the register of all meters of the park."""
    return Register(tuple(park.meters))
