"""What must hold in a park in one window: balances of mass, energy and components, and what happens on the way.

    variables x (flows, enthalpies, compositions, losses, hold-up)      g(x) = L x + sum of products = 0

One row of g a balance of a node, a loss or a delay of a stream, or the sum that a heat meter forms:

- node, mass:       sum of F in - sum of F out - stored - closure = 0
- node, energy:     the same of F h, and of heat and electricity E
- node, component:  the same of F c
- loss of mass:     F_receiver - F_departed + lost F_departed = 0
- loss of heat:     F_receiver (h_receiver - h_departed) + Q = 0; E_receiver - E_departed + Q = 0
- delay:            change - v_sender + k v_departed = 0
- signed set:       y - sum of sign F h (or F, or E) = 0

`departed` is what arrives now, as it left: F, h or c of the sender, the delay ago. What has no delay or no loss on
the way has one variable for both ends. Enthalpies h count from the park's reference, so that F h is its heat flow.
In `change` the part of the sender's own error that both its windows share is taken out (k, see observation.py).

Here: which variables and rows a park has, and g with its Jacobian. Not here: what meters say of the variables
(observation.py), and the reconciliation itself (balance/). The main path enters at `Equations.of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from park.model import Meter, Node, Park, Stream
from park.units import Dimension, dimension
from processing.meters import Bools, Floats, Ints

HEAT_QUANTITIES = frozenset({"heat_flow", "power", "energy_total"})
FLOW_QUANTITIES = HEAT_QUANTITIES | {"mass_flow", "mass_total", "volume_flow", "volume_total"}

NONE = -1
"""No such variable."""


class End(IntEnum):
    """Where on a stream, and when."""

    SENDER = 0
    RECEIVER = 1
    DEPARTED = 2       # the sender's end, as far back as what arrives now left it


@dataclass(frozen=True)
class NodeRow:
    """A balance of a node: which row, of what, and the variables that are no flow (`NONE` where there is none)."""

    row: int
    node: int
    quantity: str              # mass | energy | component.<name>
    stored: int
    closure: int


@dataclass(frozen=True)
class Delay:
    """A delay of one quantity of a stream: its row, and the variables that it ties."""

    row: int
    stream: int
    sender: int
    departed: int
    change: int


@dataclass(frozen=True)
class Loss:
    """A loss on the way: its variable, declared value and u95 in the variable's unit."""

    stream: int
    variable: int
    value: float
    u95: float


@dataclass(frozen=True, eq=False)
class Equations:
    """The variables of a park and the constraints g(x) = 0 among them.

    Attributes
    ----------
    names
        What each variable is, length n_variables.
    unit
        Of each variable: kg/s, kW, kJ/kg or 1.
    scale
        Typical size, shape (n_variables,) [unit of the variable]; where nothing better is known a search starts there.
    linear
        L, shape (n_rows, n_variables).
    product_row, product_first, product_second, product_factor
        The products: row, both variables, factor; shape (n_products,) each.
    flow, enthalpy
        Variable of each stream's flow [kg/s; kW of heat and electricity] and enthalpy [kJ/kg] by `End`, shape
        (n_streams, 3); `NONE` where there is none.
    component
        Component -> variable of the mass fraction [1], shape (n_streams, 3).
    sums
        Meter position -> variable of the sum that it forms.
    stored
        Node position and quantity -> variable of what is held up [kg/s or kW].
    nodes, delays, losses
        The rows and variables of that kind.
    """

    names: tuple[str, ...]
    unit: tuple[str, ...]
    scale: Floats
    linear: Floats
    product_row: Ints
    product_first: Ints
    product_second: Ints
    product_factor: Floats
    flow: Ints
    enthalpy: Ints
    component: Mapping[str, Ints]
    sums: Mapping[int, int]
    stored: Mapping[tuple[int, str], int]
    nodes: tuple[NodeRow, ...]
    delays: tuple[Delay, ...]
    losses: tuple[Loss, ...]

    @classmethod
    def of(cls, park: Park) -> Equations:
        """Write down the equations of a park."""
        return _Builder(park).equations()

    @property
    def n_variables(self) -> int:
        """Number of variables."""
        return len(self.names)

    @property
    def bound(self) -> Bools:
        """Whether any equation holds each variable, shape (n_variables,)."""
        held: Bools = np.asarray(self.linear.any(axis=0))
        held[self.product_first] = True
        held[self.product_second] = True
        return held

    def with_delays(self, k: Floats) -> Floats:
        """Return L with the factor k of every delay, shape (n_delays,), put in."""
        linear = self.linear.copy()
        rows = [d.row for d in self.delays]
        linear[rows, [d.departed for d in self.delays]] = k
        return linear

    def residual(self, linear: Floats, x: Floats) -> Floats:
        """Return g(x), shape (n_rows,) [kg/s, kW or kJ/kg], with L as `with_delays` gave it."""
        products = self.product_factor * x[self.product_first] * x[self.product_second]
        closed: Floats = linear @ x + np.bincount(self.product_row, products, minlength=len(linear))
        return closed

    def jacobian(self, linear: Floats, x: Floats) -> Floats:
        """Return dg/dx at x, shape (n_rows, n_variables)."""
        full = linear.copy()
        np.add.at(full, (self.product_row, self.product_first), self.product_factor * x[self.product_second])
        np.add.at(full, (self.product_row, self.product_second), self.product_factor * x[self.product_first])
        return full

    def throughput(self, linear: Floats, x: Floats) -> Floats:
        """Return the sum of what the terms of each row amount to, shape (n_rows,) [unit of the row]."""
        products = abs(self.product_factor * x[self.product_first] * x[self.product_second])
        size: Floats = abs(linear) @ abs(x) + np.bincount(self.product_row, products, minlength=len(linear))
        return size


def streams_by_node(park: Park) -> dict[str, list[int]]:
    """Return the positions of the streams that lead from or to each node, in the park's order."""
    around: dict[str, list[int]] = {}
    for s, stream in enumerate(park.streams):
        for node in {stream.from_node, stream.to_node}:
            around.setdefault(node, []).append(s)
    return around


def carries(stream: Stream, quantity: str) -> bool:
    """Whether a stream brings or takes a conserved quantity: mass, energy or a component."""
    if quantity == "energy":
        return stream.has_enthalpy or not stream.carries_mass
    return stream.carries_mass


def property_delay_s(stream: Stream) -> float:
    """Return how long temperature and composition take from end to end [s], a pipe's volume aside.

    What rides on a belt arrives with it.
    """
    return max(stream.property_delay_s, stream.flow_delay_s)


def delays_properties(stream: Stream) -> bool:
    """Whether temperature and composition arrive later than they left."""
    return stream.carries_mass and (property_delay_s(stream) > 0 or stream.pipe_volume_m3 is not None)


@dataclass
class _Builder:
    """Collects variables and rows; one method a kind."""

    park: Park
    names: list[str] = field(default_factory=list)
    unit: list[str] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)
    entries: list[tuple[int, int, float]] = field(default_factory=list)
    products: list[tuple[int, int, int, float]] = field(default_factory=list)
    rows: int = 0
    nodes: list[NodeRow] = field(default_factory=list)
    delays: list[Delay] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    component: dict[str, Ints] = field(default_factory=dict)
    stored: dict[tuple[int, str], int] = field(default_factory=dict)

    def equations(self) -> Equations:
        """Build everything."""
        self.around = streams_by_node(self.park)
        self.held: dict[str, set[Dimension]] = {}
        for meter in self.park.meters:
            if meter.quantity == "inventory" and meter.node is not None:
                self.held.setdefault(meter.node, set()).add(dimension(meter.unit))
        shape = (len(self.park.streams), len(End))
        self.flow, self.enthalpy = np.full(shape, NONE), np.full(shape, NONE)
        self.typical = typical_flows(self.park)
        components = sorted({c for node in self.park.nodes for c in node.components})
        for s, stream in enumerate(self.park.streams):
            self._flows(s, stream)
            self._enthalpies(s, stream)
        for name in components:
            self._compositions(name)
        for n in range(len(self.park.nodes)):
            self._node(n)
        sums = {m: self._sum(m, meter) for m, meter in enumerate(self.park.meters) if forms_sum(self.park, meter)}
        linear = np.zeros((self.rows, len(self.names)))
        for row, variable, factor in self.entries:
            linear[row, variable] += factor
        columns = np.array(self.products, dtype=np.float64).reshape(-1, 4).T
        row_, first, second = columns[:3].astype(np.int64)
        return Equations(
            tuple(self.names), tuple(self.unit), np.array(self.scale), linear, row_, first, second, columns[3],
            self.flow, self.enthalpy, self.component, sums, self.stored,
            tuple(self.nodes), tuple(self.delays), tuple(self.losses))

    def _variable(self, name: str, unit: str, scale: float) -> int:
        self.names.append(name)
        self.unit.append(unit)
        self.scale.append(scale)
        return len(self.names) - 1

    def _row(self, *entries: tuple[int, float]) -> int:
        self.entries += [(self.rows, variable, factor) for variable, factor in entries]
        self.rows += 1
        return self.rows - 1

    def _delayed(self, s: int, stream: Stream, what: str, unit: str, sender: int) -> int:
        """Add the departed twin of a sender's variable and the row that ties them."""
        scale = self.scale[sender]
        departed = self._variable(f"{stream.id} {what} departed", unit, scale)
        change = self._variable(f"{stream.id} {what} change", unit, 0.0)
        row = self._row((change, 1.0), (sender, -1.0), (departed, 1.0))
        self.delays.append(Delay(row, s, sender, departed, change))
        return departed

    def _flows(self, s: int, stream: Stream) -> None:
        """Flow at both ends [kg/s, kW]: delays and what is lost on the way."""
        unit = "kg/s" if stream.carries_mass else "kW"
        sender = self._variable(f"{stream.id} flow", unit, self.typical[s])
        departed = self._delayed(s, stream, "flow", unit, sender) if stream.flow_delay_s > 0 else sender
        receiver = departed
        loss = stream.mass_loss_percent if stream.carries_mass else stream.heat_loss_kw
        if loss is not None:
            receiver = self._variable(f"{stream.id} flow received", unit, self.typical[s])
            share = 0.01 if stream.carries_mass else 1.0
            lost = self._variable(f"{stream.id} lost", "1" if stream.carries_mass else unit, loss.value * share)
            self.losses.append(Loss(s, lost, loss.value * share, loss.u95 * share))
            row = self._row((receiver, 1.0), (departed, -1.0))
            if stream.carries_mass:
                self.products.append((row, lost, departed, 1.0))
            else:
                self.entries.append((row, lost, 1.0))
        self.flow[s] = sender, receiver, departed

    def _enthalpies(self, s: int, stream: Stream) -> None:
        """Specific enthalpy at both ends [kJ/kg]: delays and heat lost on the way."""
        if not stream.has_enthalpy:
            return
        scale = 2700.0 if stream.carrier == "steam" else 200.0      # saturated steam, water near 50 degC
        sender = self._variable(f"{stream.id} enthalpy", "kJ/kg", scale)
        departed = self._delayed(s, stream, "enthalpy", "kJ/kg", sender) if delays_properties(stream) else sender
        receiver = departed
        if stream.heat_loss_kw is not None:
            receiver = self._variable(f"{stream.id} enthalpy received", "kJ/kg", scale)
            lost = self._variable(f"{stream.id} heat lost", "kW", stream.heat_loss_kw.value)
            self.losses.append(Loss(s, lost, stream.heat_loss_kw.value, stream.heat_loss_kw.u95))
            row = self._row((lost, 1.0))
            flow = int(self.flow[s, End.RECEIVER])
            self.products += [(row, flow, receiver, 1.0), (row, flow, departed, -1.0)]
        self.enthalpy[s] = sender, receiver, departed

    def _compositions(self, name: str) -> None:
        """Mass fraction of a component at both ends [1], of every stream at a node that conserves it."""
        at = {node.id for node in self.park.nodes if name in node.components}
        found = np.full((len(self.park.streams), len(End)), NONE)
        for s, stream in enumerate(self.park.streams):
            if stream.carries_mass and (stream.from_node in at or stream.to_node in at):
                sender = self._variable(f"{stream.id} {name}", "1", 0.1)
                departed = self._delayed(s, stream, name, "1", sender) if delays_properties(stream) else sender
                found[s] = sender, departed, departed
        self.component[name] = found

    def _node(self, n: int) -> None:
        """Add the balances that a node keeps."""
        node = self.park.node[self.park.nodes[n].id]
        for quantity in dict.fromkeys(node.conserves):
            if not self._goes_through(node, quantity):
                continue
            row = self._row()
            terms = [
                self._term(row, s, quantity, end)
                for s in self.around.get(node.id, ())
                for end in (End.RECEIVER, End.SENDER)
                if self.park.streams[s].node_at("receiver" if end is End.RECEIVER else "sender") == node.id
            ]
            scale = max([t for t in terms if t], default=1.0)
            stored = self._stored(n, row, quantity, scale)
            closure = self._closure(n, row, quantity)
            self.nodes.append(NodeRow(row, n, quantity, stored, closure))

    def _goes_through(self, node: Node, quantity: str) -> bool:
        """Whether something can flow through: where streams only bring or only take, the rest is not in the park."""
        around = [self.park.streams[s] for s in self.around.get(node.id, ())]
        carriers = [stream for stream in around if carries(stream, quantity)]
        brings = any(stream.to_node == node.id for stream in carriers)
        takes = any(stream.from_node == node.id for stream in carriers)
        return (brings and takes) or ((brings or takes) and self._holds(node, quantity))

    def _holds(self, node: Node, quantity: str) -> bool:
        """Whether the node is a tank of the quantity; a store of heat alone holds up no mass."""
        holds = self.held.get(node.id, set())
        return bool(holds) and (quantity == "energy" or holds != {Dimension.ENERGY})

    def _term(self, row: int, s: int, quantity: str, end: End) -> float:
        """Add what a stream brings (receiver) or takes (sender), and return its typical size; 0 where it has none."""
        stream, sign = self.park.streams[s], 1.0 if end is End.RECEIVER else -1.0
        flow = int(self.flow[s, end])
        if quantity == "mass" and stream.carries_mass:
            self.entries.append((row, flow, sign))
            return float(self.typical[s])
        if quantity == "energy" and not stream.carries_mass:
            self.entries.append((row, flow, sign))
            return float(self.typical[s])
        if quantity == "energy" and stream.has_enthalpy:
            enthalpy = int(self.enthalpy[s, end])
            self.products.append((row, flow, enthalpy, sign))
            return float(self.typical[s] * self.scale[enthalpy])
        if quantity.startswith("component.") and stream.carries_mass:
            fraction = int(self.component[quantity.removeprefix("component.")][s, end])
            self.products.append((row, flow, fraction, sign))
            return float(self.typical[s] * self.scale[fraction])
        return 0.0

    def _stored(self, n: int, row: int, quantity: str, scale: float) -> int:
        """Add what a tank holds up; of energy and components it is not metered, and the row tells it alone."""
        node = self.park.nodes[n]
        if not self._holds(node, quantity):
            return NONE
        stored = self._variable(f"{node.id} {quantity} stored", "kW" if quantity == "energy" else "kg/s", 0.1 * scale)
        self.entries.append((row, stored, -1.0))
        self.stored[n, quantity] = stored
        return stored

    def _closure(self, n: int, row: int, quantity: str) -> int:
        """Add what a header takes up or gives back in one window."""
        node = self.park.nodes[n]
        u95 = {"mass": node.closure_u95_kg_s, "energy": node.closure_u95_kw}.get(quantity, 0.0)
        if u95 == 0.0:
            return NONE
        closure = self._variable(f"{node.id} {quantity} closure", "kW" if quantity == "energy" else "kg/s", u95)
        self.entries.append((row, closure, -1.0))
        return closure

    def _sum(self, m: int, meter: Meter) -> int:
        """Add the sum that a meter forms over its streams."""
        heat = meter.quantity in HEAT_QUANTITIES
        ends = self.park.meter_ends(meter)
        y = self._variable(f"{meter.id} sum", "kW" if heat else "kg/s", 0.0)
        row = self._row((y, 1.0))
        position = {stream.id: s for s, stream in enumerate(self.park.streams)}
        for name, sign in meter.signed_streams.items():
            s, end = position[name], End.SENDER if ends[name] == "sender" else End.RECEIVER
            flow, enthalpy = int(self.flow[s, end]), int(self.enthalpy[s, end])
            if heat and enthalpy != NONE:
                self.products.append((row, flow, enthalpy, -sign))
            else:
                self.entries.append((row, flow, -sign))
        return y


def forms_sum(park: Park, meter: Meter) -> bool:
    """Whether a meter reads a sum of flows rather than one variable: a heat meter, or any over a signed set."""
    if meter.quantity not in FLOW_QUANTITIES:
        return False
    streams = [park.stream[name] for name in meter.signed_streams]
    heat = meter.quantity in HEAT_QUANTITIES
    if any(heat and not s.has_enthalpy and s.carries_mass for s in streams):
        return False                                    # heat of a stream whose energy nobody can tell
    if any(not heat and not s.carries_mass for s in streams):
        return False
    one = len(streams) == 1 and next(iter(meter.signed_streams.values())) == 1.0
    return not one or (heat and streams[0].has_enthalpy)


def typical_flows(park: Park) -> Floats:
    """Return a size for the flow of every stream, shape (n_streams,) [kg/s; kW of heat and electricity].

    The nominal, else half the upper bound, else the median of the streams that have one of these.
    """
    found = np.full(len(park.streams), np.nan)
    for s, stream in enumerate(park.streams):
        high = stream.bounds_si[1]
        if stream.nominal_si:
            found[s] = abs(stream.nominal_si)
        elif np.isfinite(high) and high > 0:
            found[s] = 0.5 * high
    mass = np.array([stream.carries_mass for stream in park.streams], dtype=np.bool_)
    for kind in (mass, ~mass):
        known = found[kind & ~np.isnan(found)]
        found[kind & np.isnan(found)] = np.median(known) if known.size else 1.0
    return found
