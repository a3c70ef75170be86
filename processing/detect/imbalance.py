"""Leaks of nodes as the balances see them: how large each would be, how sure that is, and how it would show.

A leak of mass takes along the energy and the components of what leaves the node; a leak of energy is heat alone. Its
signature a has what one unit of it leaves open in each row of the equations. With r the imbalances that the meters
leave and L the inverse of their covariance (unmeasured variables eliminated), the generalised likelihood ratio test of
a leak (Narasimhan & Mah 1987) is

    z = a' L r / sqrt(a' L a)     size = a' L r / (a' L a), with variance 1 / (a' L a)

A node that is known to leak has no balances (`Estimator.estimate`); there the leak is what the reconciled values leave
open, and its variance that of the row.

Here: those numbers of one window. Not here: which leak is believed (gross_errors.py), and what is usual (baseline.py).
The main path enters at `LeakTests.judge`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from park.model import Park
from processing.balance.dense import DenseProjection
from processing.detect.baseline import Baseline, Judged
from processing.equations import NONE, End, Equations, NodeRow
from processing.estimate import Estimate
from processing.meters import Floats, Ints

SHOWS = 1e-9
"""Least share of what its own rows could tell, were all streams metered, from which on a leak can be seen."""


@dataclass(frozen=True)
class Leak:
    """A leak that could be: of which node, of mass [kg/s] or energy [kW], and the rows that it leaves open."""

    node: int
    quantity: str
    rows: tuple[NodeRow, ...]       # the quantity's own first


@dataclass(frozen=True, eq=False)
class JudgedLeaks:
    """One window's leaks; of shape (n_leaks,) unless said, NaN where a leak would not show.

    Attributes
    ----------
    statistic, innovation
        z, and what of it is not usual [1].
    std
        Of the leak's size [kg/s or kW].
    noise, drift
        Variance of the innovation: new in each window, and at an unknown pace [1].
    shift
        By how much the estimate falls short for a leak of one std, shape (n_variables, n_leaks) [unit of the variable].
    alike
        Correlation of the tests of two leaks, shape (n_leaks, n_leaks).
    """

    statistic: Floats
    innovation: Floats
    std: Floats
    noise: Floats
    drift: Floats
    shift: Floats
    alike: Floats


class LeakTests:
    """The leaks that a park's balances could show.

    Parameters
    ----------
    park
        The park.
    equations
        Its equations.
    """

    def __init__(self, park: Park, equations: Equations) -> None:
        self._equations = equations
        self._bound: Ints = np.flatnonzero(equations.bound)
        self.leaks = tuple(_leaks(equations))
        self._ends = [_passing(park, park.nodes[leak.node].id) for leak in self.leaks]

    def __len__(self) -> int:
        return len(self.leaks)

    def judge(self, estimate: Estimate, judged: Judged, baseline: Baseline) -> JudgedLeaks:
        """Test every leak."""
        n = len(self.leaks)
        if estimate.found is None or not n:
            nothing = np.full(n, np.nan)
            return JudgedLeaks(
                nothing, nothing, nothing, nothing, nothing, np.zeros((self._equations.n_variables, n)), np.eye(n))
        projection = estimate.found.parts[0].projection
        assert isinstance(projection, DenseProjection)      # a search always is
        return self._with_open(estimate, judged, self._tested(estimate, projection, judged, baseline))

    def _tested(
        self, estimate: Estimate, projection: DenseProjection, judged: Judged, baseline: Baseline
    ) -> JudgedLeaks:
        """Test the leaks of the nodes that have balances."""
        found, bound, used = estimate.found, self._bound, projection.measured
        assert found is not None
        signature = self._signatures(estimate)[estimate.rows]
        reach = projection.to_basis @ signature
        information = np.square(reach).sum(axis=0)
        shows = information > SHOWS * np.square(abs(signature) * _row_information(projection)[:, None]).sum(axis=0)
        std = np.where(shows, 1.0 / np.sqrt(np.where(shows, information, 1.0)), np.nan)
        per_std = np.nan_to_num(std)
        unit = reach * per_std
        by_variable = np.zeros((len(self.leaks), self._equations.n_variables))
        by_variable[:, bound] = (unit.T @ projection.to_basis) @ np.where(used, projection.matrix, 0.0)
        raw = found.residual(found.parts[0])[0]
        statistic = np.where(shows, unit.T @ (projection.to_basis @ raw), np.nan)
        shift = np.zeros((self._equations.n_variables, len(self.leaks)))
        shift[bound] = np.nan_to_num(
            projection.solve(np.zeros((len(self.leaks), len(bound))), (signature * per_std).T)).T
        new = np.square(baseline.apart(estimate.observation, by_variable))
        return JudgedLeaks(
            statistic, statistic - by_variable @ judged.usual, std, new @ judged.noise_on,
            np.square(by_variable) @ judged.drift_on, shift, unit.T @ unit)

    def _signatures(self, estimate: Estimate) -> Floats:
        """Return what one unit of each leak leaves open, shape (n_rows, n_leaks)."""
        found = np.zeros((len(self._equations.linear), len(self.leaks)))
        for k, (leak, ends) in enumerate(zip(self.leaks, self._ends, strict=True)):
            found[leak.rows[0].row, k] = 1.0
            for row in leak.rows[1:]:
                found[row.row, k] = self._content(row.quantity, ends, estimate)
        return found

    def _content(self, quantity: str, ends: list[tuple[int, End]], estimate: Estimate) -> float:
        """Return how much of a quantity a unit of mass takes along: the mean of what passes the node."""
        equations = self._equations
        block = equations.enthalpy if quantity == "energy" else equations.component[quantity.removeprefix("component.")]
        at = [int(block[s, end]) for s, end in ends if block[s, end] != NONE]
        known = estimate.values[at] if at else np.zeros(0)
        known = known[~np.isnan(known)]
        return float(known.mean()) if known.size else 0.0

    def _with_open(self, estimate: Estimate, judged: Judged, tested: JudgedLeaks) -> JudgedLeaks:
        """Let nodes without balances tell their leak by what the reconciled values leave open."""
        gone = estimate.dormant
        open_ = [k for k, leak in enumerate(self.leaks)
                 if leak.rows[0].row not in estimate.rows and (gone is None or not gone[leak.rows[0].row])]
        if not open_:
            return tested
        equations = self._equations
        linear = equations.with_delays(estimate.observation.delay_factor)
        point = np.nan_to_num(estimate.unbounded)       # where one is unobservable, so is the leak: its std is NaN
        slopes, left = equations.jacobian(linear, point), equations.residual(linear, point)
        off = judged.transfer @ judged.usual
        statistic, innovation, std = tested.statistic.copy(), tested.innovation.copy(), tested.std.copy()
        for k in open_:
            row = self.leaks[k].rows[0].row
            at = np.flatnonzero(slopes[row])
            slope = slopes[row, at]
            std[k] = np.sqrt(slope @ estimate.covariance[np.ix_(at, at)] @ slope)
            statistic[k] = left[row] / std[k]
            innovation[k] = statistic[k] - slope @ off[at] / std[k]
        return replace(tested, statistic=statistic, innovation=innovation, std=std)


def _row_information(projection: DenseProjection) -> Floats:
    """Return the root of what each row alone could tell of a leak, shape (n_rows,)."""
    spread = projection.imbalance_std
    return np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)


def _leaks(equations: Equations) -> Iterator[Leak]:
    """Yield a leak of mass for each node that balances it, and one of energy for each that balances that."""
    by_node: dict[int, dict[str, NodeRow]] = {}
    for row in equations.nodes:
        by_node.setdefault(row.node, {})[row.quantity] = row
    for node, rows in by_node.items():
        if "mass" in rows:
            yield Leak(node, "mass", (rows["mass"], *(row for name, row in rows.items() if name != "mass")))
        if "energy" in rows:
            yield Leak(node, "energy", (rows["energy"],))


def _passing(park: Park, node: str) -> list[tuple[int, End]]:
    """Return the ends of the streams that leave a node; where none does, of those that come."""
    leaving = [(s, End.SENDER) for s, stream in enumerate(park.streams) if stream.from_node == node]
    return leaving or [(s, End.RECEIVER) for s, stream in enumerate(park.streams) if stream.to_node == node]
