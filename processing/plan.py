"""Which meter says what of which variable: the plan of a park, made once by placement.py.

- A slot is a meter, or the same meter seen earlier, at the sender of a delayed stream.
- A point is where something is measured: flow, enthalpy or a fraction at a stream's sender, at its receiver, or at the
  sender as far back as what arrives now (`End.DEPARTED`); or a tank; or the sum that a heat meter forms.

Here: the plan, how it numbers points, and how far back it looks. Not here: what a window's values say by it
(observation.py). The main path enters at `Plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from park.model import Park
from park.properties import reference_enthalpy
from processing.equations import NONE, End, Equations
from processing.expected import Expectation
from processing.meters import Bools, Floats, Ints, MeterArrays
from processing.states import Region
from processing.window import Slots

LEAST_PASSING = 0.2
"""A pipe's delay is that of at least this share of the typical flow: readings must be kept for as long, and what
stands in a pipe for longer has the temperature of the ground rather than that with which it left."""

HEAVIEST = {Region.LIQUID: 1000.0, Region.VAPOUR: 60.0, Region.SATURATED: 60.0}
"""Density that no stream of the region passes [kg/m3]: water, steam at 100 bar; for the longest delay of a pipe."""

MATES = 6
"""How many neighbours are asked for a pressure or temperature that a point has not."""


@dataclass(frozen=True, eq=False)
class Direct:
    """Slots that measure a variable itself: slot, point, constant factor with its std, point of the density.

    `power` says whether the density multiplies (1: a volume flow) or divides (-1: a concentration).
    """

    slot: Ints
    point: Ints
    factor: Floats
    factor_std: Floats
    density: Ints
    power: Floats


@dataclass(frozen=True, eq=False)
class Thermo:
    """Points of temperature and pressure, `stream * 3 + End`; arrays of shape (n_streams * 3,) unless said."""

    temperature_slot: Ints
    temperature_point: Ints
    pressure_slot: Ints
    pressure_point: Ints
    used: Ints               # the points where states are needed, shape (n_used,)
    region: Ints
    dryness: Floats
    dryness_std: Floats
    mates: Ints              # shape (n_streams * 3, MATES): whom to ask
    steam: Bools


@dataclass(frozen=True, eq=False)
class Plan:
    """Which meter says what of which variable, for a park; made once.

    Attributes
    ----------
    slots
        The first n_meters slots are the meters themselves, in their order; then come those seen earlier.
    slot_variable
        Variable that each slot measures, shape (n_slots,); `NONE` where it measures none.
    point_variable
        Variable of each point, shape (n_points,).
    """

    park: Park
    table: MeterArrays
    equations: Equations
    slots: Slots
    slot_variable: Ints
    point_variable: Ints
    direct: Direct
    thermo: Thermo
    pipes: tuple[tuple[int, int], ...]        # slot, stream: shifts that follow the flow
    declared: tuple[tuple[int, float, float], ...]      # variable, value, std: losses, closures, plain water
    delay_points: Mapping[tuple[int, int], tuple[int, int]]     # (sender, departed) variable -> their points

    @cached_property
    def reference(self) -> float:
        """Enthalpy of the park's reference [kJ/kg]."""
        return reference_enthalpy(self.park.park.enthalpy_reference.temperature_degC)

    @cached_property
    def expectation(self) -> Expectation:
        """What meters are held against before anything is estimated."""
        return Expectation.of(self.park, self.equations)

    @cached_property
    def taken_as(self) -> Floats:
        """What is taken to be so until meters speak, shape (n_variables,); NaN where nothing: losses, no changes."""
        known = np.full(self.equations.n_variables, np.nan)
        known[[delay.change for delay in self.equations.delays]] = 0.0
        for variable, value, _ in self.declared:
            known[variable] = value
        return known

    @property
    def n_streams(self) -> int:
        """Number of streams."""
        return len(self.park.streams)

    def flow_point(self, stream: int, end: End) -> int:
        """Return the point of a stream's flow."""
        return stream * 3 + int(end)

    def enthalpy_point(self, stream: int, end: End) -> int:
        """Return the point of a stream's enthalpy."""
        return (self.n_streams + stream) * 3 + int(end)

    def component_point(self, name: str, stream: int, end: End) -> int:
        """Return the point of a component's fraction in a stream."""
        block = 2 + list(self.equations.component).index(name)
        return (block * self.n_streams + stream) * 3 + int(end)

    @cached_property
    def declared_variable(self) -> Ints:
        """Variables of `declared`, shape (n_declared,)."""
        return np.array([variable for variable, _, _ in self.declared], dtype=np.int64)

    @cached_property
    def closures(self) -> frozenset[int]:
        """Variables that say what a node takes up or gives back in a window: no constant error, like a loss's."""
        return frozenset(row.closure for row in self.equations.nodes if row.closure != NONE)

    @cached_property
    def declared_std(self) -> Floats:
        """Std of `declared`, shape (n_declared,) [unit of the variable]."""
        return np.array([std for _, _, std in self.declared], dtype=np.float64)

    @cached_property
    def slot_points(self) -> tuple[Ints, Ints]:
        """Slots that measure a variable, and their points."""
        shift = self.n_streams * 3
        return (np.concatenate([self.direct.slot, self.thermo.temperature_slot]),
                np.concatenate([self.direct.point, self.thermo.temperature_point + shift]))

    def reach_us(self) -> int:
        """Return how far back of a window's start readings matter: delays, and holding for an hour at most [us]."""
        held = np.minimum(self.table.hold_us[self.slots.meter], 3600 * 10**6)
        return self.delay_us() + int(held.max(initial=0))

    def delay_us(self) -> int:
        """Return the longest delay that any slot can have [us]."""
        fixed = int(self.slots.shift_us.max(initial=0))
        region = self.thermo.region[[s * 3 for _, s in self.pipes]]
        pipes = [self._pipe_delay_us(s, 0.0, HEAVIEST[Region(int(r))]) for (_, s), r in zip(
            self.pipes, region, strict=True)]
        return max([fixed, *pipes])

    def _pipe_delay_us(self, s: int, flow: float, density: float) -> int:
        """Return how long a pipe's content takes at a flow [kg/s] and density [kg/m3]."""
        typical = float(self.equations.scale[self.equations.flow[s, End.SENDER]])
        passing = max(abs(flow) if np.isfinite(flow) else typical, LEAST_PASSING * typical)
        holds = self.park.streams[s].pipe_volume_m3 or 0.0
        return round(min(density, HEAVIEST[Region(int(self.thermo.region[s * 3]))]) * holds / passing * 1e6)

    def shifted(self, flow: Floats, density: Floats) -> Slots:
        """Return the slots of one window, the delays of full pipes from their flow.

        Parameters
        ----------
        flow
            Of each stream, shape (n_streams,) [kg/s]; NaN where unknown.
        density
            At each thermodynamic point, shape (n_streams * 3,) [kg/m3].
        """
        if not self.pipes:
            return self.slots
        shift = self.slots.shift_us.copy()
        for slot, s in self.pipes:
            shift[slot] = self._pipe_delay_us(s, float(flow[s]), float(density[s * 3 + End.SENDER]))
        return Slots(self.slots.meter, shift)
