"""Which meter says what of which variable: the plan of a park, laid out once.

    meter ──► slot (and one more, seen earlier, at the sender of a delayed stream) ──► point ──► variable

Here: `plan_of`. Not here: what a plan does with a window's values (observation.py). A meter that says nothing of a
variable (a quality that no node conserves, a level in metres, a volume flow of unknown density) keeps its slot: it is
averaged, but observes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from park.model import WATER_DENSITY, Meter, Park
from park.units import Dimension, dimension
from processing.equations import (
    HEAT_QUANTITIES,
    NONE,
    End,
    Equations,
    delays_properties,
    forms_sum,
    property_delay_s,
    streams_by_node,
)
from processing.meters import STD_PER_U95, Averaging, Ints, MeterArrays
from processing.plan import MATES, Direct, Plan, Thermo
from processing.states import region_of
from processing.window import Slots

SAME_AS_WATER = 1e-3
"""u95 of the fraction of water in a water or steam stream that nobody analyses."""

VOLUMES = frozenset({"volume_flow", "volume_total"})


def plan_of(park: Park, table: MeterArrays, equations: Equations) -> Plan:
    """Lay out the plan of a park."""
    return _Planner(park, table, equations).plan()


@dataclass
class _Planner:
    """Lays out which meter says what; lists grow by one method a kind of quantity."""

    park: Park
    table: MeterArrays
    equations: Equations
    meter: list[int] = field(default_factory=list)
    shift: list[float] = field(default_factory=list)
    direct: list[tuple[int, int, float, float, int, float]] = field(default_factory=list)
    temperature: list[tuple[int, int]] = field(default_factory=list)
    pressure: list[tuple[int, int]] = field(default_factory=list)
    pipes: list[tuple[int, int]] = field(default_factory=list)

    def plan(self) -> Plan:
        """Go through the meters, then lay the lists out as arrays."""
        self.position = {stream.id: s for s, stream in enumerate(self.park.streams)}
        self.node_position = {node.id: n for n, node in enumerate(self.park.nodes)}
        self.around = streams_by_node(self.park)
        self._number_points()
        self.meter, self.shift = list(range(len(self.park.meters))), [0.0] * len(self.park.meters)
        for m, meter in enumerate(self.park.meters):
            self._place(m, meter)
        direct, thermo = self._direct(), self._thermo()
        variable = np.full(len(self.meter), NONE)
        variable[direct.slot] = self.point_variable[direct.point]
        variable[thermo.temperature_slot] = self.equations.enthalpy.ravel()[thermo.temperature_point]
        slots = Slots(np.array(self.meter, dtype=np.int64), np.rint(np.array(self.shift) * 1e6).astype(np.int64))
        return Plan(
            self.park, self.table, self.equations, slots, variable, self.point_variable, direct, thermo,
            tuple(self.pipes), tuple(self._declared()), dict(self._delay_points()))

    def _number_points(self) -> None:
        """Points: flows, enthalpies, fractions of each component, all by stream and end; then tanks and sums."""
        equations = self.equations
        blocks = [equations.flow.ravel(), equations.enthalpy.ravel()]
        self.block = {"flow": 0, "enthalpy": 1}
        for name, found in equations.component.items():
            self.block[f"component.{name}"] = len(blocks)
            blocks.append(found.ravel())
        self.first_single = sum(map(len, blocks))
        singles = [*equations.stored.values(), *equations.sums.values()]
        self.single = {variable: self.first_single + i for i, variable in enumerate(singles)}
        self.point_variable = np.concatenate([*blocks, np.array(singles, dtype=np.int64)]).astype(np.int64)

    def _point(self, block: str, s: int, end: End) -> int:
        return (self.block[block] * len(self.park.streams) + s) * 3 + int(end)

    def _place(self, m: int, meter: Meter) -> None:
        """Put a meter where it belongs; what says nothing of a variable stays a slot of its own."""
        if self.table.averaging[m] == Averaging.TICKET:
            return
        if meter.node is not None:
            self._inventory(m, meter)
        elif m in self.equations.sums:
            self._sum(m, meter)
        elif len(meter.signed_streams) == 1 and not forms_sum(self.park, meter):
            name, end = next(iter(self.park.meter_ends(meter).items()))
            self._on_stream(m, meter, self.position[name], End.SENDER if end == "sender" else End.RECEIVER)

    def _inventory(self, m: int, meter: Meter) -> None:
        """Levels tell what a tank holds up; in metres they need an area that nobody declares."""
        measures, node = dimension(meter.unit), self.node_position[str(meter.node)]
        quantity = "energy" if measures == Dimension.ENERGY else "mass"
        variable = self.equations.stored.get((node, quantity))
        if variable is None or measures == Dimension.LENGTH:
            return
        factor = (1.0, 0.0, NONE)
        if measures in (Dimension.VOLUME, Dimension.NORMAL_VOLUME):
            leaving = next((s for s, st in enumerate(self.park.streams) if st.from_node == meter.node
                            and st.carries_mass), None)
            found = None if leaving is None else self._density(leaving, End.SENDER)
            if found is None:
                return
            factor = found
        self.direct.append((m, self.single[variable], *factor, 1.0))

    def _sum(self, m: int, meter: Meter) -> None:
        """Place a meter over several streams, or a heat meter: it reads its own sum."""
        point = self.single[self.equations.sums[m]]
        if meter.quantity not in VOLUMES:
            self.direct.append((m, point, 1.0, 0.0, NONE, 1.0))
            return
        first, end = next(iter(self.park.meter_ends(meter).items()))
        found = self._density(self.position[first], End.SENDER if end == "sender" else End.RECEIVER)
        if found is not None:
            self.direct.append((m, point, *found, 1.0))

    def _on_stream(self, m: int, meter: Meter, s: int, end: End) -> None:
        """Place a meter of one quantity at one end of a stream."""
        stream, name = self.park.streams[s], meter.property_name
        if name in ("temperature", "pressure"):
            if stream.has_enthalpy:
                self._thermometer(m, s, end, self.temperature if name == "temperature" else self.pressure)
        elif name is not None:
            self._fraction(m, meter, s, end, name)
        elif stream.carries_mass and meter.quantity not in HEAT_QUANTITIES:
            found = self._density(s, end) if meter.quantity in VOLUMES else (1.0, 0.0, NONE)
            if found is not None:
                self._flow(m, s, end, *found)
        elif not stream.carries_mass:
            self._flow(m, s, end, 1.0, 0.0, NONE)

    def _flow(self, m: int, s: int, end: End, factor: float, std: float, density: int) -> None:
        self.direct.append((m, self._point("flow", s, end), factor, std, density, 1.0))
        delay = self.park.streams[s].flow_delay_s
        if end is End.SENDER and delay > 0:
            there = density + int(End.DEPARTED) if density != NONE and self._is_delayed(s) else density
            slot = self._earlier(m, s, delay)
            self.direct.append((slot, self._point("flow", s, End.DEPARTED), factor, std, there, 1.0))

    def _thermometer(self, m: int, s: int, end: End, kept: list[tuple[int, int]]) -> None:
        kept.append((m, s * 3 + int(end)))
        if end is End.SENDER and self._is_delayed(s):
            kept.append((self._earlier(m, s, property_delay_s(self.park.streams[s])), s * 3 + int(End.DEPARTED)))

    def _fraction(self, m: int, meter: Meter, s: int, end: End, name: str) -> None:
        """Place a quality property: it is a variable where a node conserves it as a component."""
        found = self.equations.component.get(name)
        measures = dimension(meter.unit)
        if found is None or found[s, 0] == NONE or measures not in (Dimension.RATIO, Dimension.CONCENTRATION):
            return
        thick = self._density(s, end) if measures == Dimension.CONCENTRATION else (1.0, 0.0, NONE)
        factor, std, density = thick or (WATER_DENSITY, 0.0, NONE)
        rest = (1.0 / factor, std / factor**2, density, -1.0)       # mg/l is mass in volume: divide by density
        self.direct.append((m, self._point(f"component.{name}", s, end), *rest))
        if end is End.SENDER and self._is_delayed(s):
            slot = self._earlier(m, s, property_delay_s(self.park.streams[s]))
            self.direct.append((slot, self._point(f"component.{name}", s, End.DEPARTED), *rest))

    def _is_delayed(self, s: int) -> bool:
        return delays_properties(self.park.streams[s])

    def _earlier(self, m: int, s: int, delay_s: float) -> int:
        """Add a slot that sees a meter earlier, and return it."""
        self.meter.append(m)
        self.shift.append(delay_s)
        slot = len(self.meter) - 1
        if self.park.streams[s].pipe_volume_m3 is not None and self.park.streams[s].flow_delay_s == 0:
            self.pipes.append((slot, s))
        return slot

    def _density(self, s: int, end: End) -> tuple[float, float, int] | None:
        """Return factor, its std, and point of density that make kg/s of m3/s; None where nobody knows."""
        stream = self.park.streams[s]
        if stream.density_kg_m3 is not None:
            return stream.density_kg_m3.value, stream.density_kg_m3.u95 * STD_PER_U95, NONE
        return (1.0, 0.0, s * 3 + int(end)) if stream.has_enthalpy else None

    # -- as arrays ------------------------------------------------------------------------------------------------

    def _direct(self) -> Direct:
        slot, point, factor, std, density, power = np.array(self.direct, dtype=np.float64).reshape(-1, 6).T
        return Direct(slot.astype(np.int64), point.astype(np.int64), factor, std, density.astype(np.int64), power)

    def _thermo(self) -> Thermo:
        streams = self.park.streams
        region = np.repeat([int(region_of(s)) if s.has_enthalpy else 0 for s in streams], 3).astype(np.int64)
        dryness = np.repeat([s.dryness.value if s.dryness else 1.0 for s in streams], 3).astype(np.float64)
        spread = np.repeat([s.dryness.u95 * STD_PER_U95 if s.dryness else 0.0 for s in streams], 3)
        t_slot, t_point = _columns(self.temperature)
        p_slot, p_point = _columns(self.pressure)
        used = [s * 3 + int(end) for s, stream in enumerate(streams) if stream.has_enthalpy
                for end in (End if self._is_delayed(s) else (End.SENDER, End.RECEIVER))]
        mates, known = np.full((len(streams) * 3, MATES), NONE), set(used)
        for point in used:
            found = list(islice((mate for mate in self._mates(point) if mate in known), MATES))
            mates[point, : len(found)] = found
        return Thermo(
            t_slot, t_point, p_slot, p_point, np.array(used, dtype=np.int64), region, dryness,
            spread.astype(np.float64), mates, np.repeat([s.carrier == "steam" for s in streams], 3).astype(np.bool_))

    def _mates(self, point: int) -> Iterator[int]:
        """Yield whom to ask for a point's pressure and temperature: the stream's other ends, then its neighbours."""
        s, end = divmod(point, 3)
        stream = self.park.streams[s]
        yield from (s * 3 + other for other in (2, 0, 1) if other != end)
        node = stream.to_node if end == End.RECEIVER else stream.from_node
        if node not in self.node_position:
            return
        for o in self.around[node]:
            other_stream = self.park.streams[o]
            alike = o != s and other_stream.has_enthalpy and region_of(other_stream) == region_of(stream)
            if alike and other_stream.from_node == node:
                yield o * 3 + int(End.SENDER)
            if alike and other_stream.to_node == node:
                yield o * 3 + int(End.RECEIVER)

    def _declared(self) -> Iterator[tuple[int, float, float]]:
        """Yield what the park says without a meter: losses, closures, and that water is water."""
        for loss in self.equations.losses:
            yield loss.variable, loss.value, loss.u95 * STD_PER_U95
        for row in self.equations.nodes:
            node = self.park.nodes[row.node]
            if row.closure != NONE:
                u95 = node.closure_u95_kg_s if row.quantity == "mass" else node.closure_u95_kw
                yield row.closure, 0.0, u95 * STD_PER_U95
        for s, end in np.argwhere(self.equations.component.get("water", np.zeros((0, 3))) != NONE):
            if self.park.streams[s].has_enthalpy and end != End.RECEIVER:
                yield int(self.equations.component["water"][s, end]), 1.0, SAME_AS_WATER * STD_PER_U95

    def _delay_points(self) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Yield the sender's points now and as it departed, of every delay."""
        blocks = {"flow": self.equations.flow, "enthalpy": self.equations.enthalpy}
        blocks |= {f"component.{name}": found for name, found in self.equations.component.items()}
        for delay in self.equations.delays:
            for block, found in blocks.items():
                if found[delay.stream, End.SENDER] == delay.sender:
                    yield (delay.sender, delay.departed), (
                        self._point(block, delay.stream, End.SENDER), self._point(block, delay.stream, End.DEPARTED))


def _columns(pairs: list[tuple[int, int]]) -> tuple[Ints, Ints]:
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return first, second
