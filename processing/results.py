"""What a window's estimate says, as rows: flows, balances of nodes, meters.

Here: the rows, with the columns of the store's tables and of replay's files, and how they follow from an `Estimate`.
Not here: exchanges (exchanges.py), events (detect/), writing them down. The main path enters at `Reporter.rows`.

`measured` of a flow is the inverse-variance mean of its usable meters, suspects included: what a detector has named
is left out of the balances, but not out of what was measured. Meters that are silent or stuck have no value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from park.model import Meter, Park, Stream
from park.units import si_unit
from processing.combining import Values, combine
from processing.equations import NONE, End, Equations, carries, streams_by_node
from processing.estimate import Estimate, Estimator
from processing.meters import Bools, Floats, Ints, Variances
from processing.observation import Observation
from processing.plan import Plan

SI_RATES = {"mass_total": "kg/s", "volume_total": "m3/s", "energy_total": "kW"}
"""A counter's window value is a rate."""

ENDS = (End.SENDER, End.RECEIVER)


@dataclass(frozen=True)
class FlowRow:
    """One flow of a stream in one window; None where there is no value."""

    stream: str
    side: str
    quantity: str
    unit: str
    measured: float | None
    reconciled: float | None
    std: float | None
    adjustment: float | None
    status: str
    coverage: float
    best_meter: str | None
    best_measured: float | None


@dataclass(frozen=True)
class NodeBalanceRow:
    """One balance of a node: what the raw values leave open, with its std, and what the reconciled ones do."""

    node: str
    quantity: str
    unit: str
    imbalance: float | None
    stored: float | None
    std: float | None
    reconciled_imbalance: float | None


@dataclass(frozen=True)
class MeterRow:
    """One meter: what it read, what it should have read, and its test statistic."""

    meter: str
    unit: str
    measured: float
    expected: float | None
    test_statistic: float | None
    suspect: bool


@dataclass(frozen=True)
class Rows:
    """All rows of one window, and how far its reconciled balances are from closing."""

    flows: tuple[FlowRow, ...]
    nodes: tuple[NodeBalanceRow, ...]
    meters: tuple[MeterRow, ...]
    max_relative_imbalance: float | None


class Reporter:
    """Turns estimates of one park into rows.

    Parameters
    ----------
    estimator
        Of the park.
    """

    def __init__(self, estimator: Estimator) -> None:
        self._flows = _FlowTable(estimator.park, estimator.equations, estimator.plan)
        self._nodes = _NodeTable(estimator.park, estimator.equations, estimator.plan)
        self._plan = estimator.plan
        self._units = tuple(window_unit(m) for m in estimator.park.meters)

    def rows(self, estimate: Estimate, seen: Observation, suspects: Bools) -> Rows:
        """Return a window's rows.

        Parameters
        ----------
        estimate
            The window's state.
        seen
            What its meters say with suspects included; `estimate.observation` where there are none.
        suspects
            Meters under suspicion, bool, shape (n_meters,).
        """
        return Rows(
            self._flows.rows(estimate, seen), self._nodes.rows(estimate, seen), self._meters(estimate, suspects),
            self._nodes.worst(estimate))

    def _meters(self, estimate: Estimate, suspects: Bools) -> tuple[MeterRow, ...]:
        """Return a row of every meter with a value."""
        n = len(self._plan.table)
        said, variable = estimate.observation, self._plan.slot_variable[:n]
        reading = estimate.means.value[:n]
        target = np.where(variable == NONE, np.nan, estimate.values[np.where(variable == NONE, 0, variable)])
        slope = np.where(said.slope[:n] == 0.0, np.nan, said.slope[:n])
        expected = reading + (target - said.slot_value[:n]) / slope
        columns = (reading.tolist(), _nones(expected), _nones(estimate.statistic[:n]), suspects.tolist())
        table = zip(self._plan.table.ids, self._units, *columns, strict=True)
        return tuple(MeterRow(*row) for row in table if row[2] == row[2])


def flow_values(estimate: Estimate, flow: Ints, enthalpy: Ints) -> tuple[Floats, Floats]:
    """Return flows, or flows times enthalpies, and their std.

    Parameters
    ----------
    estimate
        The window's state.
    flow, enthalpy
        Variables, shape (n,); `NONE` in `enthalpy` for the flow alone.

    Returns
    -------
    tuple of ndarray
        Values and std, shape (n,) [kg/s or kW]; NaN where unobservable.

    Notes
    -----
    ``var(F h) = h^2 var F + 2 F h cov(F, h) + F^2 var h``, to first order.
    """
    alone = enthalpy == NONE
    at = np.where(alone, 0, enthalpy)
    f, h = estimate.values[flow], np.where(alone, 1.0, estimate.values[at])
    p = estimate.covariance
    product = h**2 * p[flow, flow] + 2.0 * f * h * p[flow, at] + f**2 * p[at, at]
    variance = np.where(alone, p[flow, flow], product)
    return f * h, np.sqrt(np.maximum(variance, 0.0))


class _Merge:
    """Combines points of the same thing: for each target the points that measure it."""

    def __init__(self, targets: Iterable[Sequence[int]]) -> None:
        lists = list(targets)
        self.n = len(lists)
        self.target, self.point = _pairs(lists)

    def of(self, points: Values) -> Values:
        """Combine by inverse variance; NaN where no point has a value."""
        value = points.value[self.point]
        variances = Variances(points.systematic[self.point], points.random[self.point])
        return combine(self.target, value, variances, ~np.isnan(value), self.n)

    def coverage(self, of_points: Floats) -> Floats:
        """Return the best coverage of each target's points."""
        found = np.zeros(self.n)
        np.maximum.at(found, self.target, of_points[self.point])
        return found


def _same(block: Ints, s: int, end: End, point: Callable[[int, End], int]) -> list[int]:
    """Return the points at which the variable of `end` is measured in the window itself."""
    return [point(s, e) for e in ENDS if block[s, e] == block[s, end] != NONE]


class _FlowTable:
    """The rows of flows: sender, and receiver where losses or a flow delay lie between."""

    def __init__(self, park: Park, equations: Equations, plan: Plan) -> None:
        self._plan = plan
        keys = [(s, stream, end, quantity)
                for s, stream in enumerate(park.streams)
                for end in (ENDS if stream.two_sided else ENDS[:1])
                for quantity in _quantities(stream)]
        self._heads = [(stream.id, end.name.lower(), quantity, "kg/s" if quantity == "mass_flow" else "kW")
                       for _, stream, end, quantity in keys]
        self._streams = [s for s, *_ in keys]
        with_h = [quantity == "heat_flow" and stream.has_enthalpy for _, stream, _, quantity in keys]
        self._flow = np.array([equations.flow[s, end] for s, _, end, _ in keys], dtype=np.int64)
        self._enthalpy = np.array(
            [equations.enthalpy[s, end] if h else NONE for (s, _, end, _), h in zip(keys, with_h, strict=True)],
            dtype=np.int64)
        self._f = _Merge(_same(equations.flow, s, end, plan.flow_point) for s, _, end, _ in keys)
        self._h = _Merge(_same(equations.enthalpy, s, end, plan.enthalpy_point) if h else []
                         for (s, _, end, _), h in zip(keys, with_h, strict=True))
        sums = [_sums(park, equations, stream, end) if h else [] for (_, stream, end, _), h
                in zip(keys, with_h, strict=True)]
        self._sum_row, self._sum_slot = _pairs(sums)
        self._meter_row, self._meter_slot = _pairs(
            [self._slots(self._f.point[self._f.target == r]) for r in range(len(keys))])

    def _slots(self, points: Ints) -> list[int]:
        """Return the meters that read a flow at these points."""
        direct, meters = self._plan.direct, len(self._plan.table)
        return [int(slot) for slot in direct.slot[np.isin(direct.point, points) & (direct.slot < meters)]]

    def rows(self, estimate: Estimate, seen: Observation) -> tuple[FlowRow, ...]:
        """Return the rows of one window."""
        value, std = flow_values(estimate, self._flow, self._enthalpy)
        f, h = self._f.of(seen.points), self._h.of(seen.points)
        measured = self._measured(f, h, seen)
        best, best_value = self._best(f, h, seen)
        coverage = self._coverage(seen, estimate.means.coverage)
        status = self._status(estimate, ~np.isnan(measured), ~np.isnan(value))
        columns = (_nones(measured), _nones(value), _nones(std), _nones(value - measured),
                   status, coverage.tolist(), best, _nones(best_value))
        rows = (FlowRow(*head, *row) for head, *row in zip(self._heads, *columns, strict=True))
        if estimate.absent is None:
            return tuple(rows)
        return tuple(row for s, row in zip(self._streams, rows, strict=True) if not estimate.absent[s])

    def _measured(self, f: Values, h: Values, seen: Observation) -> Floats:
        """Return what the usable meters say: flow, or flow times enthalpy combined with heat meters of the stream."""
        value, variance = _times(self._enthalpy, f.value, f.variance, h.value, h.variance)
        if not self._sum_row.size:
            return value
        rows = np.concatenate([np.arange(len(value)), self._sum_row])
        values = np.concatenate([value, seen.slot_value[self._sum_slot]])
        variances = np.concatenate([variance, seen.slot_variance[self._sum_slot]])
        usable = np.concatenate([~np.isnan(value), seen.usable[self._sum_slot]])
        return combine(rows, values, Variances(variances, np.zeros_like(variances)), usable, len(value)).value

    def _best(self, f: Values, h: Values, seen: Observation) -> tuple[list[str | None], Floats]:
        """Return the usable meter of the smallest u95 of each flow, and what it says of it."""
        at, slot = self._meter_row, self._meter_slot
        value, variance = _times(
            self._enthalpy[at], seen.slot_value[slot], seen.slot_variance[slot], h.value[at], h.variance[at])
        rows, slots = np.concatenate([at, self._sum_row]), np.concatenate([slot, self._sum_slot])
        value = np.concatenate([value, seen.slot_value[self._sum_slot]])
        variance = np.concatenate([variance, seen.slot_variance[self._sum_slot]])
        usable = seen.usable[slots] & ~np.isnan(value)
        order = np.lexsort((variance[usable], rows[usable]))
        first, where = np.unique(rows[usable][order], return_index=True)
        names: list[str | None] = [None] * len(self._flow)
        found = np.full(len(names), np.nan)
        chosen = np.flatnonzero(usable)[order][where]
        found[first] = value[chosen]
        for r, s in zip(first.tolist(), slots[chosen].tolist(), strict=True):
            names[r] = self._plan.table.ids[s]
        return names, found

    def _status(self, estimate: Estimate, measured: Bools, known: Bools) -> list[str]:
        """Return the class of each flow; a heat flow is checked where both its flow and its enthalpy are.

        What has no value is unobservable, whatever its meters promise: in a window whose balances have no solution.
        """
        status, at = estimate.status, np.where(self._enthalpy == NONE, self._flow, self._enthalpy)
        observable = status.observable[self._flow] & status.observable[at]
        checked = (status.redundant | ~status.measured)
        redundant = checked[self._flow] & checked[at] & observable
        words = np.where(
            measured, np.where(redundant, "redundant", "nonredundant"),
            np.where(observable, "observable", "unobservable"))
        words = np.where(known, words, "unobservable")
        return [str(word) for word in words]

    def _coverage(self, seen: Observation, of_slots: Floats) -> Floats:
        """Share of the window that the flow's meters speak for: of a heat flow the lesser of flow and temperature."""
        f, h = self._f.coverage(seen.coverage), self._h.coverage(seen.coverage)
        found = np.where(self._enthalpy == NONE, f, np.minimum(f, h))
        np.maximum.at(found, self._sum_row, of_slots[self._sum_slot] * seen.usable[self._sum_slot])
        return found


class _NodeTable:
    """The rows of node balances."""

    def __init__(self, park: Park, equations: Equations, plan: Plan) -> None:
        self._equations = equations
        self._heads = [(park.nodes[row.node].id, row.quantity, "kW" if row.quantity == "energy" else "kg/s")
                       for row in equations.nodes]
        around = streams_by_node(park)
        terms = [(k, s, end, sign)
                 for k, (node, quantity, _) in enumerate(self._heads)
                 for s, end, sign in _terms(park, around[node], node, quantity)]
        self._row = np.array([k for k, *_ in terms], dtype=np.int64)
        self._sign = np.array([sign for *_, sign in terms])
        self._flow = np.array([equations.flow[s, end] for _, s, end, _ in terms], dtype=np.int64)
        blocks = [_second(equations, plan, equations.nodes[k].quantity, s) for k, s, *_ in terms]
        self._part = np.array(
            [NONE if found is None else found[0][s, end] for found, (_, s, end, _) in zip(blocks, terms, strict=True)],
            dtype=np.int64)
        self._f = _Merge(_same(equations.flow, s, end, plan.flow_point) for _, s, end, _ in terms)
        self._p = _Merge([] if found is None else _same(found[0], s, end, found[1])
                         for found, (_, s, end, _) in zip(blocks, terms, strict=True))
        self._rows = np.array([row.row for row in equations.nodes], dtype=np.int64)

    def rows(self, estimate: Estimate, seen: Observation) -> tuple[NodeBalanceRow, ...]:
        """Return the rows of one window."""
        value, variance = self._raw(seen)
        n = len(self._heads)
        open_ = np.bincount(self._row, self._sign * value, minlength=n)
        spread = np.bincount(self._row, variance, minlength=n)
        stored = np.zeros(n)
        for k, row in enumerate(self._equations.nodes):
            if row.stored != NONE:
                stored[k], own = seen.measured[row.stored], seen.variance[row.stored]
                spread[k] += own
            if row.closure != NONE:
                spread[k] += seen.variance[row.closure]
        columns = (open_ - stored, stored, np.sqrt(spread), estimate.residual[self._rows])
        rows = (NodeBalanceRow(*head, *row) for head, *row in zip(self._heads, *map(_nones, columns), strict=True))
        if estimate.dormant is None:
            return tuple(rows)
        return tuple(row for at, row in zip(self._rows.tolist(), rows, strict=True) if not estimate.dormant[at])

    def worst(self, estimate: Estimate) -> float | None:
        """Return the largest imbalance of the balances that hold, relative to half of what passes the node."""
        held = self._rows[np.isin(self._rows, estimate.rows)]
        open_, passing = abs(estimate.residual[held]), 0.5 * estimate.throughput[held]
        relative = open_[passing > 0] / passing[passing > 0]
        return None if not relative.size or np.isnan(relative).any() else float(relative.max())

    def _raw(self, seen: Observation) -> tuple[Floats, Floats]:
        """Return the raw value of every term and its variance; where its end has no meter, what the other says."""
        f, p = self._f.of(seen.points), self._p.of(seen.points)
        part = np.where(self._part == NONE, 0, self._part)
        flow = np.where(np.isnan(f.value), seen.measured[self._flow], f.value)
        flow_variance = np.where(np.isnan(f.value), seen.variance[self._flow], f.variance)
        other = np.where(np.isnan(p.value), seen.measured[part], p.value)
        other_variance = np.where(np.isnan(p.value), seen.variance[part], p.variance)
        return _times(self._part, flow, flow_variance, other, other_variance)


def _terms(park: Park, around: Iterable[int], node: str, quantity: str) -> Iterable[tuple[int, End, float]]:
    """Yield those of the streams around a node that are in its balance of a quantity, with end and sign."""
    for s in around:
        stream = park.streams[s]
        if carries(stream, quantity) and stream.to_node == node:
            yield s, End.RECEIVER, 1.0
        if carries(stream, quantity) and stream.from_node == node:
            yield s, End.SENDER, -1.0


def _second(
    equations: Equations, plan: Plan, quantity: str, s: int
) -> tuple[Ints, Callable[[int, End], int]] | None:
    """Return what a flow is multiplied with in a balance: block of variables and numbering of points."""
    if quantity == "energy" and equations.enthalpy[s, 0] != NONE:
        return equations.enthalpy, plan.enthalpy_point
    if quantity.startswith("component."):
        name = quantity.removeprefix("component.")
        return equations.component[name], lambda stream, end: plan.component_point(name, stream, end)
    return None


def _times(
    second: Ints, value: Floats, variance: Floats, other: Floats, other_variance: Floats
) -> tuple[Floats, Floats]:
    """Return values times others, of independent meters, where there is a second variable; else the values."""
    alone = second == NONE
    return (np.where(alone, value, value * other),
            np.where(alone, variance, other**2 * variance + value**2 * other_variance))


def _sums(park: Park, equations: Equations, stream: Stream, end: End) -> list[int]:
    """Return the heat meters of this stream alone at this end."""
    found = []
    for m in equations.sums:
        ends = park.meter_ends(park.meters[m])
        alone = dict(park.meters[m].signed_streams) == {stream.id: 1.0}
        if alone and (ends[stream.id] == end.name.lower() or not stream.two_sided):
            found.append(m)
    return found


def _quantities(stream: Stream) -> list[str]:
    mass = ["mass_flow"] if stream.carries_mass else []
    return mass + (["heat_flow"] if stream.has_enthalpy or not stream.carries_mass else [])


def _pairs(lists: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    pairs = [(row, entry) for row, entries in enumerate(lists) for entry in entries]
    row, entry = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return row, entry


def window_unit(meter: Meter) -> str:
    """Return the unit of a meter's window value."""
    unit = SI_RATES.get(meter.quantity, si_unit(meter.unit))
    return f"{unit}/s" if meter.quantity in ("inventory",) else unit


def _nones(values: Floats) -> list[float | None]:
    """Turn an array into a list with None for NaN."""
    return [None if v != v else v for v in values.tolist()]
