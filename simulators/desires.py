"""What each stream would do if it were alone: its nominal operation, moved by loads, wander and excursions.

Here: `Desires`, functions of run time and seed. Not here: the balances that have the last word (`simulators.motion`).
"""

from __future__ import annotations

import numpy as np

from simulators.plant import STD_PER_U95, Plant
from simulators.signals import Loads, Wanders
from simulators.state import Excursion, FloatArray

CLOSURE_PERIOD_S = 600.0        # typical period of what a header takes up and gives back
TANK_TURNS = 8.0                # typical period of a tank's filling and emptying, in the times that it is turned over
MASS_SHARE = 0.9                # of a declared closure of energy: what the mass that is taken up brings at most
LOSS_PERIOD_S = 14400.0
LOSS_WANDER = 0.3               # of the std of a heat loss: most of it is the same all through a run


class Desires:
    """Desired flows, temperatures, pressures and properties of a plant at any instant, at the senders.

    Parameters
    ----------
    plant
        The park as built.
    seed
        Of the run.
    """

    def __init__(self, plant: Plant, seed: int) -> None:
        park, scenario = plant.park, plant.scenario
        self._plant, self.excursions = plant, list[Excursion]()
        percent = [scenario.wander_percent if p.wander_percent is None else p.wander_percent for p in plant.played]
        periods = np.array([p.wander_period_s or scenario.wander_period_s for p in plant.played])
        self._flow_std = np.array(percent) / 100.0
        self._flow = Wanders(seed, [f"flow {s.id}" for s in park.streams], periods)
        self._loads = Loads([None if p.profile is None else scenario.profiles[p.profile] for p in plant.played],
                            park.park.timezone)
        # What leaves one node moves together: it has mixed there.
        origins = [s.from_node if s.from_node in park.node else f"stream {s.id}" for s in park.streams]
        self._temperature = Wanders(seed, [f"temperature {o}" for o in origins], plant.temperature_period)
        self._pressure = Wanders(seed, [f"pressure {o}" for o in origins], plant.pressure_period)
        self._having = {name: np.flatnonzero(np.isfinite(p.mean)) for name, p in plant.properties.items()}
        self._properties = {
            name: Wanders(seed, [f"{name} {origins[j]}" for j in having], plant.properties[name].period_s[having])
            for name, having in self._having.items()
        }
        self._closures = {
            heat: Wanders(seed, [f"closure {heat} {n.id}" for n in park.nodes], _periods(plant))
            for heat in (False, True)
        }
        self._content = plant.node_enthalpy
        mass, whole = (np.array(u95) * STD_PER_U95 for u95 in (
            [n.closure_u95_kg_s for n in park.nodes], [n.closure_u95_kw for n in park.nodes]))
        room = np.where(whole > 0.0, MASS_SHARE * whole / np.maximum(self._content, 1e-9), np.inf)
        self._closure_std = np.minimum(mass, room)
        self._rest_std = np.sqrt(np.maximum(whole**2 - (self._closure_std * self._content) ** 2, 0.0))
        losses = [0.0 if s.heat_loss_kw is None else s.heat_loss_kw.u95 for s in park.streams]
        self._loss_std = np.array(losses) * STD_PER_U95 * LOSS_WANDER
        self._loss = Wanders(seed, [f"loss {s.id}" for s in park.streams], np.full(len(losses), LOSS_PERIOD_S))

    def load(self, time: float) -> FloatArray:
        """Return the factor on each nominal flow, shape (n_streams,), never negative."""
        factor: FloatArray = self._loads.at(time) * np.maximum(1.0 + self._flow_std * self._flow.at(time), 0.0)
        return factor

    def warming(self, time: float) -> FloatArray:
        """Return how far each temperature is from its nominal [K], shape (n_streams,)."""
        plant = self._plant
        off = plant.temperature_std * self._temperature.at(time)
        return off + self._excursion("temperature", plant.temperature, time)

    def pressure(self, time: float) -> FloatArray:
        """Return the pressures [Pa], shape (n_streams,)."""
        plant = self._plant
        value = plant.pressure + plant.pressure_std * self._pressure.at(time)
        return np.maximum(value + self._excursion("pressure", plant.pressure, time), 0.1 * plant.pressure)

    def value(self, name: str, time: float) -> FloatArray:
        """Return a quality property [SI], shape (n_streams,); NaN where a stream has none."""
        plant, p = self._plant, self._plant.properties[name]
        mean = plant.fraction.get(name, p.mean)
        moved, having = mean + self._excursion(name, mean, time), self._having[name]
        moved[having] += p.std[having] * self._properties[name].at(time)
        return moved

    def struck(self, name: str, time: float) -> FloatArray:
        """Return whether a property of each stream is in an excursion now, shape (n_streams,)."""
        plant = self._plant
        struck = np.zeros(len(plant.flow))
        for e in self.excursions:
            if e.property == name and e.share(time) > 0.0:
                struck[plant.stream_index[e.stream]] = 1.0
        return struck

    def closure(self, time: float, heat: bool) -> FloatArray:
        """Return what each node with a closure takes up [kg/s, kW of heat], shape (n_nodes,).

        The mass that a node takes up has heat; what else it takes up brings the whole to the declared closure.
        """
        mass: FloatArray = self._closure_std * self._closures[False].at(time)
        return mass * self._content + self._rest_std * self._closures[True].at(time) if heat else mass

    def tank_movement(self, time: float, heat: bool) -> FloatArray:
        """Return a movement of each tank about its level, std 1, shape (n_nodes,)."""
        return self._closures[heat].at(time)

    def heat_loss(self, time: float) -> FloatArray:
        """Return the heat lost on the way at nominal flow [kW], shape (n_streams,)."""
        return np.maximum(self._plant.heat_loss + self._loss_std * self._loss.at(time), 0.0)

    def _excursion(self, name: str, mean: FloatArray, time: float) -> FloatArray:
        """Return the sum of the excursions of a property, shape (n_streams,)."""
        off = np.zeros(len(mean))
        for e in self.excursions:
            if e.property == name:
                j = self._plant.stream_index[e.stream]
                off[j] += e.share(time) * e.size * (mean[j] if e.relative else 1.0)
        return off


def _periods(plant: Plant) -> FloatArray:
    """Return how slowly each node takes up and gives back, shape (n_nodes,) [s]."""
    periods = np.full(len(plant.park.nodes), CLOSURE_PERIOD_S)
    for tank in plant.tanks:
        periods[tank.node] = TANK_TURNS * tank.capacity / tank.throughput
    return periods
