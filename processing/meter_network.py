"""The balances of a park at its design point, with every meter as a variable of its own.

    balances       J x = 0                     x: flows, enthalpies, fractions, losses, hold-up
    each meter     x_v - y_m = 0               y_m measured, x_v not
    one that is    x_v - y_m - e_m = 0         e_m its systematic error, measured as 0; y_m, y_m' have the rest
    seen earlier   x_w - y_m' - e_m = 0        now, and when what arrives now left the sender
    thermometers   x_v - y_m - s_p = 0         s_p what the pressure of the point adds to all of them
    of one point

A bias of meter m is one of y_m, or of e_m where there is one. Losses, closures and what else park.yaml declares are
measured as such, and never suspected.

Here: that network, and where one more meter may be. Not here: what follows for the meters (metering.py), the design
point (design_point.py). Pressure of saturated steam counts as declared, not as a meter. The main path enters at
`MeterNetwork.assessed`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from processing.balance import Assessment, assess
from processing.equations import NONE, End
from processing.estimate import Estimate, Estimator
from processing.meters import STD_PER_U95, Bools, Floats
from processing.observation import LEAST_EXPECTED

FALSE_ALARMS = 0.05
"""Probability that a window without errors raises any alarm, at which biases are said to be seen or not: VDI 2048's
level of significance, over all meters together."""

USUAL_U95 = {"flow": 0.02, "enthalpy": 4.19, "fraction": 0.05}
"""u95 of a meter of a kind that the park has none of: 2 % of a flow, 1 K of water [kJ/kg], 5 % of a fraction."""


@dataclass(frozen=True)
class Place:
    """Something that can be metered: at an end of a stream."""

    stream: str
    side: str
    quantity: str

    def __str__(self) -> str:
        return f"{self.quantity} of {self.stream} ({self.side})"


@dataclass(eq=False)
class MeterNetwork:
    """The balances with a variable for every meter; columns and rows are added one by one."""

    estimator: Estimator
    estimate: Estimate
    std: list[float] = field(default_factory=list)
    entries: list[tuple[int, int, float]] = field(default_factory=list)
    suspect: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        equations, said = self.estimator.equations, self.estimate.observation
        variable = self.estimator.plan.slot_variable
        self.usable: Bools = self.estimate.believed & (variable != NONE) & np.isfinite(said.slot_variance)
        metered = np.zeros(equations.n_variables, dtype=np.bool_)
        metered[variable[self.usable]] = True
        declared = ~np.isnan(said.measured) & ~metered
        for delay in equations.delays:
            declared[delay.change] &= not (metered[delay.sender] and metered[delay.departed])
        self.std = np.where(declared, np.sqrt(said.variance), np.nan).tolist()
        self.rows = len(equations.linear)
        self._add_meters()

    @cached_property
    def assessed(self) -> Assessment:
        """What the network's meters can achieve."""
        point, equations = self.estimate.expected, self.estimator.equations
        balances = sp.coo_array(equations.jacobian(equations.with_delays(np.ones(len(equations.delays))), point))
        row, column, value = np.array(self.entries, dtype=np.float64).reshape(-1, 3).T
        matrix = sp.csr_array(
            (np.concatenate([balances.data, value]),
             (np.concatenate([balances.coords[0], row.astype(np.int64)]),
              np.concatenate([balances.coords[1], column.astype(np.int64)]))),
            shape=(self.rows, len(self.std)))
        spared = np.ones(len(self.std), dtype=np.bool_)
        spared[[j for m, j in self.suspect.items() if not self.estimator.park.meters[m].never_suspect]] = False
        extra = np.full(len(self.std), np.nan)
        extra[: len(self.extra_std)] = self.extra_std
        return assess(
            matrix, self.std, alpha=FALSE_ALARMS, extra_std=extra, never_suspect=spared, counted=np.isfinite(extra))

    def _add_meters(self) -> None:
        """Add the columns and rows of all meters."""
        variable, of_meter = self.estimator.plan.slot_variable, self.estimator.plan.slots.meter
        variance, systematic = self.variances()
        earlier: dict[int, list[int]] = {}
        for slot in np.flatnonzero(self.usable).tolist():
            earlier.setdefault(int(of_meter[slot]), []).append(slot)
        shared = self._shared()
        for m, slots in earlier.items():
            alone = len(slots) == 1
            error = None if alone else self._column(float(np.sqrt(systematic[slots[0]])))
            for slot in slots:
                own = self._column(float(np.sqrt(max(variance[slot] - (0.0 if alone else systematic[slot]), 0.0))))
                parts = [part for part in (own, error, shared.get(slot)) if part is not None]
                self._row(int(variable[slot]), parts)
                self.suspect.setdefault(m, own if error is None else error)

    def variances(self) -> tuple[Floats, Floats]:
        """Return the variance of each slot without what is shared, and its systematic part, shape (n_slots,)."""
        said, means, plan = self.estimate.observation, self.estimate.means, self.estimator.plan
        own = self.estimator.table.variances(
            plan.slots.meter, np.nan_to_num(means.value), means.count, np.maximum(means.span_s, 1e-6))
        variance = said.slot_variance.copy()
        for slots, common in self._alike().values():
            variance[slots] -= common
        # what comes of densities and pressures stays as the instrument's own systematic error does
        return variance, np.maximum(variance - said.slope**2 * own.random, 0.0)

    def _alike(self) -> dict[int, tuple[list[int], float]]:
        """Return the thermometers of one point where there are several, and the variance that they share."""
        plan, said, means = self.estimator.plan, self.estimate.observation, self.estimate.means
        by_point: dict[int, list[int]] = {}
        for slot, point in zip(plan.thermo.temperature_slot.tolist(), plan.thermo.temperature_point.tolist(),
                               strict=True):
            if self.usable[slot]:
                by_point.setdefault(point, []).append(slot)
        several = {point: slots for point, slots in by_point.items() if len(slots) > 1}
        found = {}
        for point, slots in several.items():
            at = np.array(slots)
            own = self.estimator.table.variances(
                plan.slots.meter[at], means.value[at], means.count[at], np.maximum(means.span_s[at], 1e-6))
            common = float((said.slot_variance[at] - said.slope[at] ** 2 * own.total).min())
            found[point] = slots, max(common, 0.0)
        return found

    def _shared(self) -> dict[int, int]:
        """Add a column for what the thermometers of one point share; return it by slot."""
        columns = {}
        for slots, common in self._alike().values():
            columns.update(dict.fromkeys(slots, self._column(common**0.5)))
        return columns

    def _column(self, std: float) -> int:
        self.std.append(std)
        return len(self.std) - 1

    def _row(self, variable: int, parts: list[int]) -> None:
        self.entries += [(self.rows, variable, 1.0), *((self.rows, part, -1.0) for part in parts)]
        self.rows += 1

    # -- where one more may be ----------------------------------------------------------------------------------------

    @cached_property
    def places(self) -> dict[int, Place]:
        """What can be metered, by variable: flows, and enthalpies and fractions that an equation holds."""
        park, equations = self.estimator.park, self.estimator.equations
        blocks = {"flow": equations.flow, "temperature": equations.enthalpy}
        blocks |= {f"quality.{name}": block for name, block in equations.component.items()}
        bound = equations.bound
        found: dict[int, Place] = {}
        for name, block in blocks.items():
            for s, stream in enumerate(park.streams):
                flow = "mass_flow" if stream.carries_mass else "heat_flow"
                for end in (End.SENDER, End.RECEIVER):
                    variable = int(block[s, end])
                    if variable != NONE and (name == "flow" or bound[variable]):
                        place = Place(stream.id, end.name.lower(), flow if name == "flow" else name)
                        found.setdefault(variable, place)
        return found

    @cached_property
    def extra_std(self) -> Floats:
        """Std of a further meter at each variable, shape (n_variables,); NaN where there is no place for one."""
        equations, variable = self.estimator.equations, self.estimator.plan.slot_variable
        value = np.maximum(abs(self.estimate.expected), LEAST_EXPECTED * abs(equations.scale))
        value = np.where(value > 0.0, value, 1.0)
        has = np.zeros(equations.n_variables)
        slots = np.flatnonzero(self.usable)
        has[variable[slots]] = np.sqrt(self.estimate.observation.slot_variance[slots])
        std = np.full(equations.n_variables, np.nan)
        places = np.array(sorted(self.places), dtype=np.int64)
        kind = np.array(["enthalpy" if self.places[v].quantity == "temperature" else "fraction"
                         if self.places[v].quantity.startswith("quality.") else "flow" for v in places.tolist()])
        for name, usual in USUAL_U95.items():
            at = places[kind == name]
            size = np.ones(len(at)) if name == "enthalpy" else value[at]
            metered = has[at] > 0
            typical = np.median(has[at][metered] / size[metered]) if metered.any() else usual * STD_PER_U95
            std[at] = typical * size
        return std
