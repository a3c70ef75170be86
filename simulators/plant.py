"""A park as built: its balances in matrices, its losses, and the operation about which it moves.

    levels (what is wanted) ──► flows that close mass ──► heat that closes energy ──► fractions that close components

Here: `Plant`, made once a run; its nominal operation is what the arrows end in. Not here: time (`simulators.truth`),
the rules of thumb for what a park leaves unsaid (`simulators.levels`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import starmap

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from park.model import WATER_DENSITY, Node, Park, Stream
from park.units import Dimension, dimension, to_si, to_si_difference
from simulators.levels import Levels
from simulators.projection import Problem, UnclosableError, project, project_within
from simulators.scenario import Scenario, StreamScenario, TankScenario
from simulators.signals import draw
from simulators.steam import Region, Water

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]
Incidence = csr_array[np.float64]

STD_PER_U95 = 1.0 / 1.96        # VDI 2048
KELVIN = 273.15

GIVEN, GUESSED = 0.01, 0.5      # of a flow: how far closing the balances may move what is given, what is guessed
GIVEN_K, GUESSED_K = 0.5, 20.0  # [K] the same for temperatures
GIVEN_X, GUESSED_X = 0.02, 0.2  # of 1: the same for mass fractions
FILLS = 1e3                     # of all flows: how freely a tank takes up that nothing leaves
LEAST = 0.02                    # of the park's typical flow: what a stream of which nothing is said carries at least
EMPTY_SCALE = 1.0               # [kg/s, kW] typical flow of a park that gives no flow at all
HOURS_OF_HOLDING = 2.0          # [h] of its throughput: how much a tank of which nothing is said holds
DENSITY = {"material": 1000.0, "gas": 1.0}      # [kg/m3, kg/Nm3] where the park gives none


@dataclass(frozen=True)
class Balance:
    """The balances of one conserved quantity over some nodes.

    Attributes
    ----------
    nodes
        Node of each row, shape (m,).
    streams
        Stream of each of the first columns, shape (n,); further columns are what the `holders` hold up.
    leaves, arrives
        1 where the stream leaves (arrives at) the node, sparse of shape (m, n).
    holders
        Rows that can hold something up, shape (k,).
    """

    nodes: IntArray
    streams: IntArray
    leaves: Incidence
    arrives: Incidence
    holders: IntArray

    @property
    def one_way(self) -> BoolArray:
        """Which holders are only filled, or only emptied, shape (k,)."""
        ways = np.diff(self.leaves.indptr) * np.diff(self.arrives.indptr)
        return np.asarray(ways[self.holders] == 0, dtype=np.bool_)

    def matrix(self, now: FloatArray) -> Incidence:
        """Return the constraints, shape (m, n + k); `now` is how much of what is sent arrives at once, shape (n,)."""
        fixed, arriving, indices, indptr = self._pattern
        share = np.append(now, 0.0)
        shape = (len(self.nodes), len(self.streams) + len(self.holders))
        return csr_array((fixed + share[arriving], indices, indptr), shape=shape)

    @cached_property
    def _pattern(self) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
        """Return, entry by entry of the constraints: what is always there, the stream that arrives (or -1), where."""
        count = len(self.streams)
        leaves, arrives = self.leaves.tocoo(), self.arrives.tocoo()
        rows = np.concatenate([leaves.row, arrives.row, self.holders])
        columns = np.concatenate([leaves.col, arrives.col, count + np.arange(len(self.holders))])
        order = np.lexsort((columns, rows))
        arriving = np.where(np.repeat([False, True, False], [leaves.nnz, arrives.nnz, len(self.holders)]), columns, -1)
        starts = np.searchsorted(rows[order], np.arange(len(self.nodes) + 1))
        return np.where(arriving < 0, -1.0, 0.0)[order], arriving[order], columns[order], starts.astype(np.intp)

    def rhs(self, past: FloatArray) -> FloatArray:
        """Return the right-hand side, shape (m,); `past` is what arrives now and was sent before, shape (n,)."""
        return np.asarray(-(self.arrives @ past), dtype=np.float64)

    def throughput(self, flow: FloatArray) -> FloatArray:
        """Return half of what passes each row's node, shape (m,), from the flows of all columns, shape (n,)."""
        return np.asarray(0.5 * (self.leaves @ np.abs(flow) + self.arrives @ np.abs(flow)), dtype=np.float64)


@dataclass(frozen=True)
class Tank:
    """What a node holds, in kg, or kJ where it stores heat, and what passes it nominally [kg/s, kW]."""

    node: int
    heat: bool
    throughput: float
    capacity: float
    start: float
    density: float
    area: float


@dataclass(frozen=True)
class Properties:
    """A quality property over all streams: mean and wander at the sender, shape (n_streams,); NaN: it has none."""

    mean: FloatArray
    std: FloatArray
    period_s: FloatArray


class Plant:
    """The arrays of a park; order of streams and nodes is that of the park.

    Parameters
    ----------
    park, scenario
        The network, and what it plays.
    seed
        Of the run: losses, densities and dryness are drawn once, within the uncertainty that the park declares.
    water
        States of water and steam.

    Raises
    ------
    ValueError
        If the balances contradict each other; names the nodes.
    """

    def __init__(self, park: Park, scenario: Scenario, seed: int, water: Water) -> None:
        self.park, self.scenario, self._seed, self._water = park, scenario, seed, water
        self._levels = Levels(park, scenario)
        self.node_index = {node.id: i for i, node in enumerate(park.nodes)}
        self.stream_index = {stream.id: j for j, stream in enumerate(park.streams)}
        self.played = [scenario.streams.get(s.id, StreamScenario()) for s in park.streams]
        self._read_streams(park.streams)
        self.reference = water.boiling(park.park.enthalpy_reference.temperature_degC + KELVIN).enthalpy
        self.mass = self._balance("mass", self.is_mass, [n.closure_u95_kg_s for n in park.nodes], heat=False)
        self.energy = self._balance("energy", self.is_energy, [n.closure_u95_kw for n in park.nodes], heat=True)
        self.flow = self._nominal_flows()
        self._state_levels()
        self.heat, self.enthalpy = self._nominal_energy()
        self.tanks = tuple(starmap(self._tank, self._inventories()))
        self.properties = {name: self._property(name) for name in self.property_names}
        self.components = tuple(sorted({c for n in park.nodes for c in n.components}))
        self.component = {c: self._balance(f"component.{c}", self.is_mass, [0.0] * len(park.nodes), heat=False)
                          for c in self.components}
        self.fraction = {c: self._nominal_fractions(c) for c in self.components}

    # -- what the park says of each stream ------------------------------------------------------------------------

    def _read_streams(self, streams: Sequence[Stream]) -> None:
        self.is_mass = np.array([s.carries_mass for s in streams], dtype=bool)
        self.has_enthalpy = np.array([s.has_enthalpy for s in streams], dtype=bool)
        self.is_power = ~self.is_mass
        self.is_energy = self.has_enthalpy | self.is_power
        self.sender = np.array([self.node_index.get(s.from_node, -1) for s in streams], dtype=np.intp)
        self.receiver = np.array([self.node_index.get(s.to_node, -1) for s in streams], dtype=np.intp)
        self.region: list[Region] = [_region(s) for s in streams]
        self.low, self.high = np.array([s.bounds_si for s in streams], dtype=float).reshape(-1, 2).T
        self.kept = 1.0 - np.array([self._drawn(s, "mass_loss_percent", 0.0) / 100.0 for s in streams])
        self.heat_loss = np.array([self._drawn(s, "heat_loss_kw", 0.0) for s in streams])
        self.dryness = np.array([min(self._drawn(s, "dryness", 1.0), 1.0) for s in streams])
        self.density = np.array([self._drawn(s, "density_kg_m3", DENSITY.get(s.carrier, np.nan)) for s in streams])
        self._since, self._until = np.array([self._validity(s) for s in streams], dtype=float).reshape(-1, 2).T
        self.flow_delay = np.array([s.flow_delay_s for s in streams])
        self.property_delay = np.array([0.0 if s.pipe_volume_m3 else s.property_delay_s for s in streams])
        self.pipe_volume = np.array([s.pipe_volume_m3 or 0.0 for s in streams])

    def _validity(self, stream: Stream) -> tuple[float, float]:
        """Return from when until when [s] a stream and the nodes at its ends are in force."""
        nodes = (self.park.node[end] for end in (stream.from_node, stream.to_node) if end in self.park.node)
        needed: list[Stream | Node] = [stream, *nodes]
        since = [e.valid_from.timestamp() for e in needed if e.valid_from is not None]
        until = [e.valid_to.timestamp() for e in needed if e.valid_to is not None]
        return max(since, default=-np.inf), min(until, default=np.inf)

    def in_force(self, time: float) -> BoolArray:
        """Return which streams are in force at run time `time` [s], shape (n_streams,); the others do not flow."""
        return np.asarray((self._since <= time) & (time < self._until), dtype=np.bool_)

    def _drawn(self, stream: Stream, name: str, default: float) -> float:
        """Return a declared value with this run's draw within its uncertainty; never negative."""
        declared = getattr(stream, name)
        if declared is None:
            return default
        off = declared.u95 * STD_PER_U95 * draw(self._seed, stream.id, name)
        return max(float(declared.value + off), 0.0)

    @cached_property
    def property_names(self) -> tuple[str, ...]:
        """Every quality property that a stream of the park has, sorted."""
        return tuple(sorted({p for s in self.park.streams for p in self._levels.properties(s)}))

    def _property(self, name: str) -> Properties:
        mean, std, period = np.full(len(self.flow), np.nan), np.zeros(len(self.flow)), np.ones(len(self.flow))
        for j, stream in enumerate(self.park.streams):
            if name in self._levels.properties(stream):
                level, scale = self._levels.of(stream, name), self._fraction_scale(stream, name)
                mean[j], std[j], period[j] = level.mean * scale, level.std * scale, level.period_s
        return Properties(mean, std, period)

    def _fraction_scale(self, stream: Stream, name: str) -> float:
        """Return what turns a conserved component that is given as a concentration into a mass fraction."""
        conserved = any(name in node.components for node in self.park.nodes)
        units = self._levels.units(stream, name)
        concentration = bool(units) and dimension(units[0]) == Dimension.CONCENTRATION
        return 1.0 / WATER_DENSITY if conserved and concentration else 1.0

    # -- balances -------------------------------------------------------------------------------------------------

    def _balance(self, quantity: str, carries: BoolArray, closures: Sequence[float], heat: bool) -> Balance:
        """Return the balances of a quantity; energy and components leave out what touches none of their nodes."""
        declared = np.array([i for i, n in enumerate(self.park.nodes) if quantity in n.conserves], dtype=np.intp)
        stores = {node for node, is_heat in self._inventories() if is_heat <= heat}
        nodes = self._through(quantity, declared, carries, stores)
        touching = np.isin(self.sender, nodes) | np.isin(self.receiver, nodes)
        streams = np.flatnonzero(carries & (touching | (quantity == "mass")))
        holders = [row for row, i in enumerate(nodes) if i in stores or closures[i] > 0.0]
        return Balance(nodes, streams, self._ends(nodes, self.sender[streams]),
                       self._ends(nodes, self.receiver[streams]), np.array(holders, dtype=np.intp))

    def _ends(self, nodes: IntArray, ends: IntArray) -> Incidence:
        """Return 1 where a stream ends at a node, shape (n_rows, n_columns), from the node at each stream's end."""
        row = np.full(len(self.park.nodes) + 1, -1, dtype=np.intp)      # the last is the environment, -1
        row[nodes] = np.arange(len(nodes))
        at = row[ends]
        columns = np.flatnonzero(at >= 0)
        return csr_array((np.ones(len(columns)), (at[columns], columns)), shape=(len(nodes), len(ends)))

    def _through(self, quantity: str, nodes: IntArray, carries: BoolArray, stores: set[int]) -> IntArray:
        """Return the nodes through which something can flow; say which are left open because nothing can."""
        leaving, arriving = np.isin(nodes, self.sender[carries]), np.isin(nodes, self.receiver[carries])
        kept = (leaving & arriving) | np.isin(nodes, list(stores)) | ~(leaving | arriving)
        for i in nodes[~kept]:
            way = "no stream brings it there" if i in self.sender[carries] else "no stream takes it away"
            logger.warning("the balance of %s of node %s is left open: %s", quantity, self.park.nodes[i].id, way)
        through: IntArray = nodes[kept]
        return through

    def _inventories(self) -> list[tuple[int, bool]]:
        """Return the tanks: node, and whether what it stores is heat."""
        meters = [m for m in self.park.meters if m.quantity == "inventory" and m.node is not None]
        kinds = {self.node_index[m.node]: dimension(m.unit) == Dimension.ENERGY for m in meters if m.node is not None}
        return sorted(kinds.items())

    # -- nominal operation ----------------------------------------------------------------------------------------

    def _nominal_flows(self) -> FloatArray:
        """Return flows that close the mass balances, close to what the park gives [kg/s]; 0 for heat, electricity."""
        columns = self.mass.streams
        desired, spread, least = self._wanted(columns)
        flow = np.zeros(len(self.is_mass))
        flow[columns] = self._solve(self.mass, self.kept[columns], np.zeros(len(columns)), desired, spread,
                                    (least, self.high[columns]))
        return flow

    def _wanted(self, columns: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the wanted flow, how far it may move, and the least of it, for the streams of `columns`."""
        streams = [self.park.streams[j] for j in columns]
        given = [s.nominal_si for s in streams]
        guess = [self._levels.flow_guess(s) if g is None else g for s, g in zip(streams, given, strict=True)]
        known = [abs(g) for g in guess if g]
        scale = float(np.median(known)) if known else EMPTY_SCALE
        desired = np.array([scale if g is None else g for g in guess])
        unsaid = np.array([g is None for g in given], dtype=bool)
        spread = np.where(unsaid, GUESSED * np.maximum(np.abs(desired), scale),
                          GIVEN * np.maximum(np.abs(desired), 1e-3 * scale))
        low = self.low[columns]
        return desired, spread, np.where(unsaid, np.maximum(low, LEAST * scale * (low >= 0.0)), low)

    def _solve(
        self, balance: Balance, now: FloatArray, past: FloatArray, desired: FloatArray, spread: FloatArray,
        bounds: tuple[FloatArray, FloatArray],
    ) -> FloatArray:
        """Close a balance at rest; where the least flows leave no room, with 0 for them, then without bounds."""
        held = np.zeros(len(balance.holders))
        fills = np.where(balance.one_way, np.inf, 0.0)          # what is only filled cannot be at rest
        freely = np.where(balance.one_way, float((spread**2).sum()) * FILLS**2, 0.0)
        matrix, rhs = balance.matrix(now), balance.rhs(past)
        problem = Problem(
            np.concatenate([desired, held]), np.concatenate([spread**2, freely]), matrix, rhs,
            np.concatenate([bounds[0], -fills]), np.concatenate([np.maximum(bounds[1], bounds[0]), fills]))
        within = project_within(problem)
        if within is None:
            zero = np.minimum(problem.low, 0.0)
            try:
                within = project(Problem(problem.desired, problem.weight, matrix, rhs, zero, problem.high))
            except UnclosableError as error:
                names = ", ".join(self.park.nodes[balance.nodes[row]].id for row in error.rows)
                raise ValueError(f"no flows close the balances of {names}") from None
        return within[: len(desired)]

    def _state_levels(self) -> None:
        """Read temperatures and pressures, and what enthalpy each region of steam has room for."""
        streams, water = self.park.streams, self._water
        pressures = [self._levels.of(s, "pressure") for s in streams]
        temperatures = [self._levels.of(s, "temperature") for s in streams]
        self.pressure = np.array([p.mean for p in pressures])
        self.pressure_std = np.array([p.std for p in pressures])
        self.pressure_period = np.array([p.period_s for p in pressures])
        self.temperature = np.array([t.mean for t in temperatures])
        self.temperature_std = np.array([t.std for t in temperatures])
        self.temperature_period = np.array([t.period_s for t in temperatures])
        self.guessed = np.array([t.guessed for t in temperatures], dtype=bool)
        drops = [p.pressure_drop for p in self.played]
        self.pressure_drop = np.array([0.0 if d is None else to_si_difference(d.value, d.unit) for d in drops])
        self.least_enthalpy, self.most_enthalpy = np.zeros(len(streams)), np.zeros(len(streams))
        for j in np.flatnonzero(self.has_enthalpy):
            self._fit_state(int(j), pressures[j].guessed)
            dry = (max(self.dryness[j] - 0.05, 0.0), min(self.dryness[j] + 0.05, 1.0))
            low, high = water.range(self.pressure[j], self.region[j], dry)
            self.least_enthalpy[j], self.most_enthalpy[j] = low - self.reference, high - self.reference

    def _fit_state(self, j: int, pressure_guessed: bool) -> None:
        """Make temperature and pressure of a stream fit its phase: a guess gives way, else the temperature."""
        water, region, t = self._water, self.region[j], self.temperature[j]
        if region == "liquid":
            if pressure_guessed:
                self.pressure[j] = max(self.pressure[j], 1.5 * water.saturation_pressure(min(t, 600.0)) + 1e5)
            self.temperature[j] = min(t, water.saturation_temperature(self.pressure[j]) - 5.0)
        elif region == "vapour":
            if pressure_guessed and not self.guessed[j]:
                self.pressure[j] = min(self.pressure[j], water.saturation_pressure(min(max(t - 20.0, 300.0), 600.0)))
            self.temperature[j] = max(t, water.saturation_temperature(self.pressure[j]) + 5.0)
            if self.guessed[j] and self.flow[j] > 0.0:
                self.temperature[j] += min(self.heat_loss[j] / (2.0 * self.flow[j]), 200.0)     # dry to the end
        else:
            if pressure_guessed and not self.guessed[j]:
                self.pressure[j] = water.saturation_pressure(min(t, 600.0))
            self.temperature[j] = water.saturation_temperature(self.pressure[j])

    def _nominal_energy(self) -> tuple[FloatArray, FloatArray]:
        """Return heat flows [kW] and specific enthalpies [kJ/kg] that close the energy balances, at the senders."""
        enthalpy, slope = self._wanted_enthalpies()
        heat = self.flow * np.nan_to_num(enthalpy)
        columns = self.energy.streams
        power = np.flatnonzero(self.is_power)
        desired, spread, least = self._wanted(power)
        heat[power] = desired
        soft = np.where(self.guessed, GUESSED_K, GIVEN_K) * slope * np.abs(self.flow)
        soft[power] = self._power_spread(power, spread, heat)
        low, high = self.heat_bounds(self.flow)
        low[power] = least
        lost = np.where(self.is_power | (self.flow != 0.0), self.heat_loss, 0.0)
        heat[columns] = self._solve(self.energy, self.kept_heat[columns], -lost[columns], heat[columns],
                                    soft[columns], (low[columns], high[columns]))
        moving = self.has_enthalpy & (self.flow != 0.0)
        enthalpy[moving] = heat[moving] / self.flow[moving]
        self._warn_of_phases(enthalpy, moving)
        heat[~self.is_energy] = np.nan
        return heat, enthalpy

    def heat_bounds(self, flow: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the range of each heat flow [kW] that the phases allow at flows [kg/s], and the park's bounds."""
        ends = np.stack([flow * self.least_enthalpy, flow * self.most_enthalpy])
        low, high = ends.min(axis=0), ends.max(axis=0)
        return np.where(self.is_power, self.low, low), np.where(self.is_power, self.high, high)

    def _warn_of_phases(self, enthalpy: FloatArray, moving: BoolArray) -> None:
        """Say which streams the energy balances leave no temperature of their phase: a heat stream is missing there."""
        slack = 1e-6 * (1.0 + np.abs(np.nan_to_num(enthalpy)))
        outside = moving & ((enthalpy < self.least_enthalpy - slack) | (enthalpy > self.most_enthalpy + slack))
        if outside.any():
            names = ", ".join(self.park.streams[j].id for j in np.flatnonzero(outside))
            logger.warning("energy balances leave streams %s no temperature of their phase: is heat lost there?", names)

    @cached_property
    def node_enthalpy(self) -> FloatArray:
        """Specific enthalpy of what each energy-balanced node holds: that of what enters, shape (n_nodes,) [kJ/kg]."""
        content, balance = np.zeros(len(self.park.nodes)), self.energy
        wet = self.has_enthalpy[balance.streams]
        flow, heat = self.flow[balance.streams] * wet, self.heat[balance.streams] * wet
        entering = balance.arrives @ flow
        content[balance.nodes] = np.where(entering > 0.0, balance.arrives @ heat / np.maximum(entering, 1e-9), 0.0)
        return content

    @property
    def kept_heat(self) -> FloatArray:
        """What arrives of the enthalpy that is sent: less with lost mass."""
        return np.where(self.has_enthalpy, self.kept, 1.0)

    def _wanted_enthalpies(self) -> tuple[FloatArray, FloatArray]:
        """Return specific enthalpy above the reference [kJ/kg] and its slope [kJ/kg/K] at the wanted states."""
        enthalpy, slope = np.full(len(self.flow), np.nan), np.zeros(len(self.flow))
        for j in np.flatnonzero(self.has_enthalpy):
            if self.region[j] == "saturated":
                point = self._water.saturated(self.pressure[j], self.dryness[j])
            else:
                point = self._water.at(self.temperature[j], self.pressure[j], self.region[j])
            enthalpy[j], slope[j] = point.enthalpy - self.reference, point.slope or 4.2
        self.slope = slope
        return enthalpy, slope

    def _power_spread(self, power: IntArray, spread: FloatArray, heat: FloatArray) -> FloatArray:
        """Let a heat flow of which nothing is said move as far as what passes its nodes."""
        passing = np.zeros(len(self.park.nodes))
        np.add.at(passing, self.sender[self.sender >= 0], np.abs(heat[self.sender >= 0]))
        np.add.at(passing, self.receiver[self.receiver >= 0], np.abs(np.nan_to_num(heat[self.receiver >= 0])))
        unsaid = np.array([self.park.streams[j].nominal is None for j in power], dtype=bool)
        at = np.maximum(passing[self.sender[power]], passing[self.receiver[power]])
        return np.where(unsaid, np.maximum(spread, at), spread)

    def _nominal_fractions(self, component: str) -> FloatArray:
        """Return mass fractions that close a component's balances, shape (n_streams,); NaN: not conserved there."""
        balance = self.component[component]
        columns = balance.streams
        fraction = self.properties[component].mean.copy()
        flow = self.flow[columns]
        guessed = [self._levels.of(self.park.streams[j], component).guessed for j in columns]
        soft = np.where(guessed, GUESSED_X, GIVEN_X) * np.abs(flow)
        sent = self._solve(balance, self.kept[columns], np.zeros(len(columns)), flow * fraction[columns], soft,
                           (np.minimum(flow, 0.0), np.maximum(flow, 0.0)))
        fraction[columns] = np.where(flow != 0.0, sent / np.where(flow != 0.0, flow, 1.0), fraction[columns])
        return fraction

    def _tank(self, node: int, heat: bool) -> Tank:
        """Return what a tank holds: from the scenario, its meter's span, or hours of its throughput."""
        name = self.park.nodes[node].id
        played = self.scenario.tanks.get(name)
        meter = next(m for m in self.park.meters if m.quantity == "inventory" and m.node == name)
        area = played.area_m2 if played is not None else TankScenario(capacity_t=1.0).area_m2
        carried = np.abs(np.nan_to_num(self.heat if heat else self.flow))
        throughput = max(float(carried[self.receiver == node].sum()), float(carried[self.sender == node].sum()), 1e-3)
        holds = HOURS_OF_HOLDING * 3600.0 * throughput
        density = self._tank_density(node)
        if played is not None and not heat:
            holds = played.capacity_t * 1000.0
        elif meter.span is not None:
            holds = to_si(meter.span[1], meter.unit) * _per_unit(meter.unit, density, area)
        start = (played.start_percent if played is not None else 50.0) / 100.0
        return Tank(node, heat, throughput, holds, start * holds, density, area)

    def _tank_density(self, node: int) -> float:
        """Return the density of what a tank holds: that of a stream that leaves it [kg/m3]."""
        for j in np.flatnonzero((self.sender == node) & self.is_mass):
            if not self.has_enthalpy[j]:
                return float(self.density[j])
            return self._water.at(self.temperature[j], self.pressure[j], "liquid").density
        return DENSITY["material"]


def _region(stream: Stream) -> Region:
    """Return what IAPWS-95 shall take the stream for."""
    if stream.carrier == "water" or stream.phase == "liquid":
        return "liquid"
    return "saturated" if stream.phase == "saturated" else "vapour"


def _per_unit(unit: str, density: float, area: float) -> float:
    """Return how many kg (kJ) one SI unit of an inventory's reading stands for."""
    if dimension(unit) in (Dimension.VOLUME, Dimension.NORMAL_VOLUME):
        return density
    return density * area if dimension(unit) == Dimension.LENGTH else 1.0
