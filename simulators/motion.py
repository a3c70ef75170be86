"""How a park moves: at each step the flows nearest to what is desired that close every balance.

    desires ──► mass flows ──► heat flows on them ──► component flows on them ──► temperatures (IAPWS-95) ──► State
       ▲             what is on its way (belts, pipes) and in tanks goes in as known             │
       └───────────────────────────────────── next step ◄───────────────────────────────────────┘

Here: `Motion`, which carries a run from step to step. Not here: what meters read of it (`simulators.truth`).
Mass, energy and components are each linear once the flows before them are known, so one projection a quantity
closes all of its balances to rounding. Temperatures follow from enthalpies and never the other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from park.errors import OperationError
from simulators.delays import History, Lag, pipe_steps
from simulators.desires import Desires
from simulators.plant import Balance, Plant, Tank
from simulators.projection import BoolArray, Problem, UnclosableError, project
from simulators.state import RECEIVER, SENDER, FloatArray, State
from simulators.steam import Point, Water

FREE_FLOW = 0.1             # of a flow: how far the balances move it against others; flows share by their size
FREE_FLOW_LEAST = 0.02      # of its nominal: what a flow near 0 counts as
FREE_POWER = 0.3            # of a heat or electricity flow: heat gives way rather than temperatures
FREE_K = 1.0                # [K]
FREE_X, FREE_X_LEAST = 0.2, 0.002       # of x (1 - x) of a mass fraction x; of 1
STRUCK = 0.05               # an excursion is real: what it strikes gives way this much less
MIXED = 1e3                 # of its throughput: a mixed tank takes up whatever its contents leave open
FREE_TANK = 0.04            # of its throughput: how far the balances move what a tank takes up
TANK_STIRS = 0.04           # of its throughput: how much a tank's own filling and emptying wanders
TANK_STEERS = 0.3           # of its throughput, for each capacity that a tank is off its level
EDGE, GUARD_S = 0.03, 600.0         # of its capacity from empty or full, a tank is held, over this time
PIPE_MARGIN, LONGEST_PIPE_S = 4.0, 14400.0      # how much longer than at nominal flow a pipe may take
LOSS_FADES = 0.1            # of nominal flow: below, a pipe has cooled and loses less


@dataclass(frozen=True)
class Carried:
    """A conserved quantity at one instant, shape (n_streams,), and what the nodes hold up of it, (n_nodes,)."""

    sent: FloatArray
    arrived: FloatArray
    stored: FloatArray


@dataclass(frozen=True)
class Hold:
    """What the holders of a balance would take up, how freely, and within which bounds; shape (k,) each."""

    desired: FloatArray
    weight: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True)
class Want:
    """What the streams of a balance would carry, how freely it moves, and its bounds; shape (n_streams,) each."""

    desired: FloatArray
    weight: FloatArray
    low: FloatArray
    high: FloatArray

    def stopped(self, where: BoolArray) -> Want:
        """Return the same with nothing carried `where` a stream is not in force."""
        if not where.any():
            return self
        return Want(*(np.where(where, 0.0, given) for given in (self.desired, self.weight, self.low, self.high)))


class Motion:
    """A run of a plant; `state` is where it is.

    Parameters
    ----------
    plant, desires
        The park as built, and what it would do.
    water
        States of water and steam.
    dt_s, start
        The step, and the run time of the first one [s].

    Raises
    ------
    OperationError
        If no flows close a balance.
    """

    def __init__(self, plant: Plant, desires: Desires, water: Water, dt_s: float, start: float) -> None:
        self._plant, self._desires, self._water, self._dt_s = plant, desires, water, dt_s
        streams, nodes = len(plant.flow), len(plant.park.nodes)
        self._points: dict[tuple[int, int], Point] = {}
        self._inventory, self._heat_inventory = np.full(nodes, np.nan), np.full(nodes, np.nan)
        for tank in plant.tanks:
            (self._heat_inventory if tank.heat else self._inventory)[tank.node] = tank.start
        self._held = {c: self._contents(plant.fraction[c]) for c in plant.components}
        self._held_heat = self._contents(plant.enthalpy)
        self._passed = np.zeros(streams)
        self._enthalpy = np.nan_to_num(plant.enthalpy)
        self._flow_lag = self._property_lag = Lag(np.zeros(streams))        # at rest: what arrives is what is sent
        self._history = History(1, dict.fromkeys(self._names(), np.zeros(streams)))
        self.state = self._solve(start)
        self._history = History(self._depth(), self._on_its_way())
        self._flow_lag = Lag(plant.flow_delay / dt_s)
        self._property_lag = Lag(self._property_steps())

    def step(self, time: float) -> State:
        """Let the present step pass and go on to the next, at run time `time` [s].

        Raises
        ------
        OperationError
            If what is on its way leaves no flows that close a balance.
        """
        self._pass()
        self.state = self._solve(time)
        return self.state

    # -- from step to step ----------------------------------------------------------------------------------------

    def _pass(self) -> None:
        """Let a step pass: what is held up grows, what was sent is on its way."""
        state, dt = self.state, self._dt_s
        for tank in self._plant.tanks:
            held, stored = ((self._heat_inventory, state.heat_stored) if tank.heat
                            else (self._inventory, state.mass_stored))
            held[tank.node] += stored[tank.node] * dt
        self._held_heat = self._held_heat + state.heat_stored * dt
        for component, stored in state.component_stored.items():
            self._held[component] = self._held[component] + stored * dt
        self._history.push(self._on_its_way())
        self._passed = self._passed + state.mass_flow[SENDER] * dt
        self._property_lag = Lag(self._property_steps())

    def _names(self) -> list[str]:
        """Name what the history keeps."""
        return ["mass", "heat", "enthalpy", "temperature", "passed",
                *(f"{kind} {name}" for name in self._plant.property_names for kind in ("value", "amount"))]

    def _on_its_way(self) -> dict[str, FloatArray]:
        """Return what the history keeps of the present step."""
        state = self.state
        kept = {"mass": state.mass_flow[SENDER], "heat": np.nan_to_num(state.heat_flow[SENDER]), "passed": self._passed,
                "enthalpy": self._enthalpy, "temperature": np.nan_to_num(state.temperature[SENDER])}
        for name, values in state.properties.items():
            kept[f"value {name}"] = np.nan_to_num(values[SENDER])
            kept[f"amount {name}"] = np.nan_to_num(values[SENDER]) * state.mass_flow[SENDER]
        return kept

    def _depth(self) -> int:
        """Return how many steps must be remembered."""
        plant = self._plant
        residence = self._pipe_content() / np.maximum(np.abs(plant.flow), 1e-9)
        longest = max(float(plant.flow_delay.max(initial=0.0)), float(plant.property_delay.max(initial=0.0)),
                      min(PIPE_MARGIN * float(residence.max(initial=0.0)), LONGEST_PIPE_S))
        return int(np.ceil(longest / self._dt_s)) + 2

    def _pipe_content(self) -> FloatArray:
        """Return what each pipe of a declared volume holds [kg]."""
        return np.asarray(self._plant.pipe_volume * np.nan_to_num(self.state.density[SENDER]), dtype=np.float64)

    def _property_steps(self) -> FloatArray:
        """Return how long temperature and composition take on their way, in steps, shape (n_streams,)."""
        steps: FloatArray = self._plant.property_delay / self._dt_s
        content = self._pipe_content()
        for j in np.flatnonzero(content):
            steps[j] = pipe_steps(self._history, int(j), float(self._passed[j]), float(content[j]))
        return steps

    def _contents(self, specific: FloatArray) -> FloatArray:
        """Return what is in each tank of a property of what leaves it, at the start; 0 elsewhere."""
        plant, held = self._plant, np.zeros(len(self._inventory))
        for tank in plant.tanks:
            leaving = (plant.sender == tank.node) & (plant.flow != 0.0) & np.isfinite(specific)
            if not tank.heat and leaving.any():
                held[tank.node] = tank.start * float(np.average(specific[leaving], weights=plant.flow[leaving]))
        return held

    # -- one instant ----------------------------------------------------------------------------------------------

    def _solve(self, time: float) -> State:
        """Return the state at an instant: mass, then energy and components on its flows, then what follows."""
        mass = self._mass(time)
        heat = self._heat(time, mass)
        components = {c: self._component(c, time, mass) for c in self._plant.components}
        return self._state(time, mass, heat, components)

    def _close(self, balance: Balance, want: Want, now: FloatArray, past: FloatArray, hold: Hold) -> Carried:
        """Project what is wanted on a balance; `now`, `past`: how much arrives at once, what was sent before."""
        columns, count = balance.streams, len(balance.streams)
        joined = [np.concatenate([of_streams[columns], of_holders]) for of_streams, of_holders in (
            (want.desired, hold.desired), (want.weight, hold.weight), (want.low, hold.low), (want.high, hold.high))]
        desired, weight, low, high = joined
        try:
            solved = project(Problem(desired, weight, balance.matrix(now[columns]), balance.rhs(past[columns]),
                                     low, high))
        except UnclosableError as error:
            names = ", ".join(self._plant.park.nodes[balance.nodes[row]].id for row in error.rows)
            raise OperationError(f"no flows close the balances of {names}") from error
        sent = want.desired.copy()
        sent[columns] = solved[:count]
        stored = np.zeros(len(self._plant.park.nodes))
        stored[balance.nodes[balance.holders]] = solved[count:]
        return Carried(sent, now * sent + past, stored)

    def _mass(self, time: float) -> Carried:
        """Return the mass flows [kg/s]."""
        plant = self._plant
        desired = plant.flow * self._desires.load(time)
        size = np.maximum(np.abs(desired), FREE_FLOW_LEAST * np.abs(plant.flow))
        want = Want(desired, (FREE_FLOW * np.maximum(size, 1e-9)) ** 2,
                    np.minimum(plant.low, plant.flow), np.maximum(plant.high, plant.flow))
        want = want.stopped(~plant.in_force(time))
        past = plant.kept * self._flow_lag.past(self._history, "mass")
        hold = self._hold(plant.mass, time, plant.mass.throughput(plant.flow[plant.mass.streams]), heat=False)
        return self._close(plant.mass, want, plant.kept * self._flow_lag.now, past, hold)

    def _heat(self, time: float, mass: Carried) -> Carried:
        """Return the heat flows [kW] above the enthalpy reference; 0 for material and gas."""
        plant, desires = self._plant, self._desires
        wet = np.where(plant.has_enthalpy, np.nan_to_num(plant.enthalpy) + plant.slope * desires.warming(time), 0.0)
        wet = self._as_mixed(wet, self._held_heat, plant.energy)
        power = np.where(plant.is_power, np.nan_to_num(plant.heat) * desires.load(time), 0.0)
        desired = mass.sent * wet + power
        struck = np.where(desires.struck("temperature", time) > 0.0, STRUCK, 1.0)
        spread = np.where(plant.is_power, FREE_POWER * np.maximum(np.abs(np.nan_to_num(plant.heat)), 1e-6),
                          FREE_K * struck * plant.slope * np.abs(mass.sent))
        now, past = self._arriving("heat", "enthalpy", mass, np.where(plant.is_power, 1.0, plant.kept))
        lost = desires.heat_loss(time) * self._fading(mass.sent + desired * plant.is_power)
        hold = self._hold(plant.energy, time, plant.energy.throughput(desired[plant.energy.streams]), heat=True)
        want = Want(desired, spread**2, *plant.heat_bounds(mass.sent)).stopped(plant.is_power & ~plant.in_force(time))
        return self._close(plant.energy, want, now, past - lost, hold)

    def _fading(self, flow: FloatArray) -> FloatArray:
        """Return the share of its nominal loss that each stream has: less where next to nothing flows."""
        nominal = np.abs(self._plant.flow + np.nan_to_num(self._plant.heat) * self._plant.is_power)
        share: FloatArray = np.minimum(1.0, np.abs(flow) / np.maximum(LOSS_FADES * nominal, 1e-9))
        return share

    def _component(self, component: str, time: float, mass: Carried) -> Carried:
        """Return the flows of a component [kg/s]."""
        plant, balance = self._plant, self._plant.component[component]
        fraction = np.clip(np.nan_to_num(self._desires.value(component, time)), 0.0, 1.0)
        fraction = self._as_mixed(fraction, self._held[component], balance)
        struck = np.where(self._desires.struck(component, time) > 0.0, STRUCK, 1.0)
        free = np.maximum(FREE_X * fraction * (1.0 - fraction), FREE_X_LEAST) * struck
        want = Want(mass.sent * fraction, (free * mass.sent) ** 2,
                    np.minimum(mass.sent, 0.0), np.maximum(mass.sent, 0.0))
        now, past = self._arriving(f"amount {component}", f"value {component}", mass, plant.kept)
        passing = balance.throughput(mass.sent[balance.streams])
        return self._close(balance, want, now, past, self._mixing(balance, passing))

    def _arriving(self, amount: str, specific: str, mass: Carried, kept: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return how much of a carried quantity arrives at once, and what arrives of what was sent before.

        A belt brings the amount that was put on it; a pipe brings the flow of now with the property of then.
        """
        plant, belt = self._plant, self._plant.flow_delay > 0.0
        now = kept * np.where(belt, self._flow_lag.now, self._property_lag.now)
        carried = np.where(plant.is_power, 0.0, mass.arrived)
        past = np.where(belt, kept * self._flow_lag.past(self._history, amount),
                        carried * self._property_lag.past(self._history, specific))
        return np.where(plant.is_power & ~belt, 1.0, now), past

    # -- what nodes hold up ---------------------------------------------------------------------------------------

    def _hold(self, balance: Balance, time: float, throughput: FloatArray, heat: bool) -> Hold:
        """Return what the holders would take up: a header its closure, a tank what steers it to its level."""
        rows = balance.holders
        nodes, passing = balance.nodes[rows], throughput[rows]
        desired = self._desires.closure(time, heat)[nodes]
        spread = 0.1 * np.maximum(np.abs(desired), 1e-6 * passing)
        low, high = np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
        stirs = self._desires.tank_movement(time, heat)[nodes]
        for tank in self._plant.tanks:
            for k in np.flatnonzero(nodes == tank.node):
                if tank.heat == heat and not balance.one_way[k]:
                    desired[k], low[k], high[k] = self._steer(tank, passing[k], stirs[k])
                    spread[k] = FREE_TANK * passing[k]
                else:                   # what is only filled takes all; a tank of mass whose heat is balanced is mixed
                    desired[k], spread[k] = 0.0, MIXED * passing[k]
        return Hold(desired, np.maximum(spread, 1e-9) ** 2, low, high)

    def _steer(self, tank: Tank, passing: float, stirs: float) -> tuple[float, float, float]:
        """Return what a tank would take up, and within which bounds, to come back to its level."""
        level = float((self._heat_inventory if tank.heat else self._inventory)[tank.node])
        desired = passing * (TANK_STEERS * (tank.start - level) / tank.capacity + TANK_STIRS * stirs)
        return desired, (EDGE * tank.capacity - level) / GUARD_S, ((1.0 - EDGE) * tank.capacity - level) / GUARD_S

    def _mixing(self, balance: Balance, throughput: FloatArray) -> Hold:
        """Return the hold of mixed tanks: whatever is left open."""
        rows = balance.holders
        free = np.full(len(rows), np.inf)
        return Hold(np.zeros(len(rows)), np.maximum(MIXED * throughput[rows], 1e-9) ** 2, -free, free)

    def _as_mixed(self, specific: FloatArray, held: FloatArray, balance: Balance) -> FloatArray:
        """Let what leaves a mixed tank have the property of its contents."""
        mixed = specific.copy()
        for node in balance.nodes[balance.holders]:
            if self._inventory[node] > 0.0:
                mixed[(self._plant.sender == node) & ~self._plant.is_power] = held[node] / self._inventory[node]
        return mixed

    # -- what follows ---------------------------------------------------------------------------------------------

    def _state(self, time: float, mass: Carried, heat: Carried, components: Mapping[str, Carried]) -> State:
        """Return the state: what the carried quantities mean in temperatures, densities and fractions."""
        plant = self._plant
        pressure = self._desires.pressure(time)
        pressures = np.where(plant.is_mass, np.stack([pressure, pressure - plant.pressure_drop]), np.nan)
        moving = plant.has_enthalpy & (mass.sent != 0.0)
        self._enthalpy = np.where(moving, heat.sent / np.where(moving, mass.sent, 1.0), self._enthalpy)
        arriving = plant.has_enthalpy & (mass.arrived != 0.0)
        arrived = np.where(arriving, heat.arrived / np.where(arriving, mass.arrived, 1.0), self._enthalpy)
        temperatures, densities = self._states_of(np.stack([self._enthalpy, arrived]), pressures, time)
        heats = np.where(plant.is_energy, np.stack([heat.sent, heat.arrived]), np.nan)
        return State(
            time, np.stack([mass.sent, mass.arrived]), heats, temperatures, pressures, densities,
            {name: self._property(name, time, mass, components) for name in plant.property_names},
            self._inventory.copy(), self._heat_inventory.copy(), mass.stored, heat.stored,
            {c: carried.stored for c, carried in components.items()},
        )

    def _states_of(self, enthalpy: FloatArray, pressure: FloatArray, time: float) -> tuple[FloatArray, FloatArray]:
        """Return temperatures [K] and densities [kg/m3] at both ends, shape (2, n_streams) each."""
        plant = self._plant
        dry = plant.temperature + self._desires.warming(time)
        later = np.where(plant.flow_delay > 0.0, self._lagged(self._flow_lag, "temperature", dry),
                         self._lagged(self._property_lag, "temperature", dry))
        temperature = np.where(plant.is_mass, np.stack([dry, later]), np.nan)
        density = np.where(plant.is_mass, np.stack([plant.density, plant.density]), np.nan)
        for j in np.flatnonzero(plant.has_enthalpy).tolist():
            for side in (SENDER, RECEIVER):
                same = side == RECEIVER and enthalpy[0, j] == enthalpy[1, j] and pressure[0, j] == pressure[1, j]
                point = (self._points[SENDER, j] if same
                         else self._point(side, j, float(enthalpy[side, j]), float(pressure[side, j])))
                self._points[side, j] = point
                temperature[side, j], density[side, j] = point.temperature, point.density
        return temperature, density

    def _point(self, side: int, j: int, enthalpy: float, pressure: float) -> Point:
        """Return the state of water or steam of an enthalpy above the reference, from its last one."""
        plant, last = self._plant, self._points.get((side, j))
        absolute = enthalpy + plant.reference
        guess = float(plant.temperature[j]) if last is None else last.temperature
        if last is not None and last.slope > 0.0:
            guess += (absolute - last.enthalpy) / last.slope
        return self._water.with_enthalpy(absolute, pressure, plant.region[j], guess)

    def _property(self, name: str, time: float, mass: Carried, components: Mapping[str, Carried]) -> FloatArray:
        """Return a quality property at both ends, shape (2, n_streams)."""
        plant = self._plant
        value = self._desires.value(name, time)
        belt = self._lagged(self._flow_lag, f"value {name}", value)
        later = np.where(plant.flow_delay > 0.0, belt, self._lagged(self._property_lag, f"value {name}", value))
        both = np.stack([value, np.where(np.isfinite(value), later, np.nan)])
        if name in components:
            carried, on = components[name], plant.component[name].streams
            for side, (amount, flow) in enumerate([(carried.sent, mass.sent), (carried.arrived, mass.arrived)]):
                moving = on[flow[on] != 0.0]
                both[side, moving] = amount[moving] / flow[moving]
        return both

    def _lagged(self, lag: Lag, name: str, value: FloatArray) -> FloatArray:
        """Return a property as it arrives."""
        arrives: FloatArray = lag.now * value + lag.past(self._history, name)
        return arrives
