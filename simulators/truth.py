"""The truth of a simulated park: every flow, temperature, pressure and composition at every instant.

    Truth.step(t) ──► Motion (balances closed at every step) ──► State ──► Truth.value(meter)

Here: `Truth`, which steps a park through time and says what a perfect meter would read. Not here: how the park moves
(`simulators.motion`), what instruments make of it (`simulators.instruments`), or anything of `processing`: truth is
not computed by the code that it checks. The main path enters at `Truth.step`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import gcd

import numpy as np

from park.errors import OperationError
from park.model import Meter, Park
from park.units import Dimension, dimension
from simulators.desires import Desires
from simulators.motion import Motion
from simulators.plant import Balance, Plant
from simulators.scenario import Scenario
from simulators.state import RECEIVER, SENDER, Excursion, FloatArray, State
from simulators.steam import water

__all__ = ["RECEIVER", "SENDER", "Excursion", "State", "Truth", "step_seconds"]

LONGEST_STEP_S, SHORTEST_STEP_S = 5.0, 1.0

Totals = Mapping[str, FloatArray]                       # "mass" [kg], "volume" [m3], "heat" [kJ]: shape (2, n_streams)
Reading = Callable[[State, Totals], float]

_FLOWS = {"mass_flow": "mass", "volume_flow": "volume", "heat_flow": "heat", "power": "heat"}
_TOTALS = {"mass_total": "mass", "volume_total": "volume", "energy_total": "heat", "mass_batch": "mass"}


class Truth:
    """A park that runs: step it through time and ask what each meter would read if it were perfect.

    Parameters
    ----------
    park
        The network.
    scenario
        What it does; None: the defaults.
    seed
        The same seed and start give the same run.
    start
        Run time of the first step [s]; `state` is that of the grid's instant there.
    step_s
        The step [s]; None: that of `step_seconds`. A coarse one plays weeks in seconds.

    Raises
    ------
    OperationError
        If no flows close the park's balances; names the nodes.
    """

    def __init__(
        self, park: Park, scenario: Scenario | None = None, *, seed: int = 0, start: float = 0.0,
        step_s: float | None = None,
    ) -> None:
        self.park, self.scenario, self.seed = park, scenario or Scenario(), seed
        self.dt_s = step_s or step_seconds(park)
        try:
            self.plant = Plant(park, self.scenario, seed, water())
        except ValueError as error:
            raise OperationError(f"the park cannot be simulated: {error}") from error
        self._desires = Desires(self.plant, seed)
        self._tick = self._grid(start)
        self._motion = Motion(self.plant, self._desires, water(), self.dt_s, self._tick * self.dt_s)
        self._first = self._motion.state
        self._totals = {name: np.zeros_like(flow) for name, flow in _flows(self.state).items()}
        self._readings: dict[str, Reading] = {}
        self._batches = {m.id: _Batch(m, self.state, self._reading(m)) for m in park.meters
                         if m.quantity == "mass_batch"}

    @property
    def state(self) -> State:
        """The park now."""
        return self._motion.state

    def step(self, t: float) -> State:
        """Advance to the last instant of the step grid that is not after run time `t` [s], and return the state there.

        The grid is the multiples of `dt_s` of run time; an earlier `t` than the state's changes nothing.

        Raises
        ------
        OperationError
            If what is on its way leaves no flows that close a balance; names the nodes.
        """
        while self._tick < self._grid(t):
            for name, flow in _flows(self.state).items():
                self._totals[name] += np.nan_to_num(flow) * self.dt_s
            self._tick += 1
            self._motion.step(self._tick * self.dt_s)
            for batch in self._batches.values():
                batch.pass_to(self.state, self._totals)
        return self.state

    def value(self, meter: Meter) -> float:
        """Return what the meter would read now if it were perfect, in SI.

        Flows, heat and power as signed sums over the meter's streams, each at the end that lies where the meter is
        (`Park.meter_ends`). Counters (`*_total`) are the integral since the start of the run, not rolled over
        [kg, m3, kJ]; a `mass_batch` is what has passed between the meter's last two instants [kg]. A conserved
        component is a mass fraction, or kg/m3 for a meter whose unit is a concentration. NaN: the park has no such
        value, as the heat flow of a material.
        """
        if meter.id in self._batches:
            return self._batches[meter.id].mass
        if meter.id not in self._readings:
            self._readings[meter.id] = self._reading(meter)
        return self._readings[meter.id](self.state, self._totals)

    def nominal(self, meter: Meter) -> float:
        """Return what the meter typically reads, in SI: as at the run's start; a counter or batch, an interval's."""
        per_interval = {name: flow * meter.interval_s for name, flow in _flows(self._first).items()}
        return self._reading(meter)(self._first, per_interval)

    def apply(self, excursion: Excursion) -> None:
        """Let a property run off; balances stay closed. Tell it before it starts.

        `temperature` and `pressure` may run off as well as quality properties. Excursions of one property add up.

        Raises
        ------
        ValueError
            If the stream has no such property.
        """
        has = self.plant.properties.get(excursion.property)
        j = self.plant.stream_index.get(excursion.stream)
        state = excursion.property in ("temperature", "pressure")
        if j is None or not (self.plant.is_mass[j] if state else has is not None and np.isfinite(has.mean[j])):
            raise ValueError(f"no stream with a property {excursion.stream}.{excursion.property} in the park")
        self._desires.excursions.append(excursion)

    def imbalance(self) -> float:
        """Return the largest imbalance of any balance now, relative to what passes its node."""
        state, plant = self.state, self.plant
        worst = [_imbalance(plant.mass, state.mass_flow, state.mass_stored),
                 _imbalance(plant.energy, state.heat_flow, state.heat_stored)]
        worst += [_imbalance(plant.component[c], state.mass_flow * state.properties[c], state.component_stored[c])
                  for c in plant.components]
        return max(worst)

    def _grid(self, t: float) -> int:
        """Return the number of the last step that is not after `t` [s]; a microsecond early counts as there."""
        return int(np.floor(t / self.dt_s + 1e-6 / self.dt_s))

    def _reading(self, meter: Meter) -> Reading:
        """Return how the meter is read off a state."""
        if meter.quantity == "inventory" and meter.node is not None:
            return self._inventory(meter, self.plant.node_index[meter.node])
        index = self.plant.stream_index
        ends = self.park.meter_ends(meter)
        terms = [(sign, SENDER if ends[s] == "sender" else RECEIVER, index[s])
                 for s, sign in meter.signed_streams.items()]
        if meter.property_name is not None:
            return self._property(meter, *terms[0][1:])
        flows, totals = _FLOWS.get(meter.quantity), _TOTALS.get(meter.quantity, "")

        def read(state: State, passed: Totals) -> float:
            values = passed[totals] if flows is None else _flow(state, flows)
            return float(sum(sign * values[side, j] for sign, side, j in terms))

        return read

    def _property(self, meter: Meter, side: int, j: int) -> Reading:
        """Return how a meter of temperature, pressure or a quality property is read."""
        name = meter.property_name or ""
        if name == "temperature":
            return lambda state, _: float(state.temperature[side, j])
        if name == "pressure":
            return lambda state, _: float(state.pressure[side, j])
        conserved = name in self.plant.components and j in self.plant.component[name].streams
        if conserved and dimension(meter.unit) == Dimension.CONCENTRATION:
            return lambda state, _: float(state.properties[name][side, j] * state.density[side, j])
        return lambda state, _: float(state.properties[name][side, j])

    def _inventory(self, meter: Meter, node: int) -> Reading:
        """Return how a tank's meter is read, in kg, kJ, m3 or m of level."""
        tank = next(t for t in self.plant.tanks if t.node == node)
        if tank.heat:
            return lambda state, _: float(state.heat_inventory[node])
        per = {Dimension.VOLUME: tank.density, Dimension.NORMAL_VOLUME: tank.density,
               Dimension.LENGTH: tank.density * tank.area}.get(dimension(meter.unit), 1.0)
        return lambda state, _: float(state.inventory[node] / per)


class _Batch:
    """What a weighbridge has seen between its last two instants."""

    def __init__(self, meter: Meter, state: State, total: Reading) -> None:
        self._interval, self._total = meter.interval_s, total
        flow = total(state, _flows(state))
        self._number = (state.time + 1e-6) // meter.interval_s
        begun = max(state.time - self._number * meter.interval_s, 0.0)
        self._before = -flow * begun                # the total at the last instant: as if it had always flowed so
        self.mass = flow * meter.interval_s

    def pass_to(self, state: State, totals: Totals) -> None:
        """Take a ticket at each of its instants."""
        number = (state.time + 1e-6) // self._interval
        if number > self._number:
            total = self._total(state, totals)
            self.mass, self._before, self._number = total - self._before, total, number


def step_seconds(park: Park) -> float:
    """Return the step of the truth [s]: the common divisor of the meters' intervals, from 1 s to 5 s."""
    intervals = [round(meter.interval_s * 1000) for meter in park.meters] or [int(LONGEST_STEP_S * 1000)]
    common = gcd(*intervals) / 1000.0
    while common > LONGEST_STEP_S:
        common /= 2.0
    return max(common, SHORTEST_STEP_S)


def _flow(state: State, name: str) -> FloatArray:
    """Return mass [kg/s], volume [m3/s] or heat flows [kW], shape (2, n_streams)."""
    if name == "mass":
        return state.mass_flow
    return state.heat_flow if name == "heat" else state.mass_flow / state.density


def _flows(state: State) -> dict[str, FloatArray]:
    """Return what counters count, by name."""
    return {name: _flow(state, name) for name in ("mass", "volume", "heat")}


def _imbalance(balance: Balance, flow: FloatArray, stored: FloatArray) -> float:
    """Return the largest imbalance of a balance, relative to what passes its node."""
    sent, arrived = np.nan_to_num(flow[:, balance.streams])
    open_ = balance.arrives @ arrived - balance.leaves @ sent - stored[balance.nodes]
    passing = 0.5 * (balance.arrives @ np.abs(arrived) + balance.leaves @ np.abs(sent))
    return float(np.max(np.abs(open_) / np.maximum(passing, 1e-12), initial=0.0))
