"""The projection of one pattern of measured streams, by sparse factors.

Here: what large networks use: std, tests, scores and directions of errors from the factors, entry by entry; time for a
window grows with the number of streams, not with its square. Not here: the factors and the values (sparse_system.py),
networks so badly scaled that normal equations lose too many digits; these go to dense.py if they are small enough. The
main path: `project_sparse`.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from processing.balance import factors, kernels, lanes
from processing.balance.inputs import Bools, Floats, Ints, Rows
from processing.balance.ordering import as_csr, as_rows
from processing.balance.product import product
from processing.balance.projection import Screening
from processing.balance.reduction import take_rows
from processing.balance.sparse_system import SparseSystem, sums
from processing.balance.uncertainty import sparse_covariance

CLOSE_TO_SURE = 1e-4
"""Where less than this share of the variance is left, it is computed without taking differences."""

SOLVED_STREAMS = 5_000
"""Up to this many streams of a badly scaled network each std of an adjustment is solved for, with refinement."""


class SparseProjection(SparseSystem):
    """One pattern, factored sparsely; see `projection.Projection` for what it answers."""

    @cached_property
    def redundant(self) -> Bools:
        """Measured, and determined without their own meter; bool, shape (n_streams,)."""
        held = np.zeros(self.n_streams, dtype=bool)
        rest = np.concatenate([self.reduced.kept, self.reduced.idle])
        held[take_rows(self.reduced.after, rest).index] = True
        both: Bools = held & self.measured
        return both

    def reweighed(self, std: Floats) -> SparseProjection:
        """Return the same pattern with other, independent std, shape (n_streams,)."""
        return project_sparse(self.source, self.measured, std)

    def objective(self, residual: Floats) -> Floats:
        """Return the weighted sum of squares of the adjustments, shape (n_windows,)."""
        # a sum of squares: the product of multipliers and imbalances is the same, and loses digits where these cancel
        moved = self.over_streams(self.multipliers(residual))
        errors = moved * np.sqrt(self._variance) if self._independent else np.asarray(moved @ self._root)
        total: Floats = (errors**2).sum(axis=1)
        return total

    def objective_of(self, adjustment: Floats) -> Floats:
        """Return the weighted sum of squares of given adjustments, shape (n_windows,), zero where unmeasured."""
        if self._independent:
            positive = self._variance > 0.0
            total: Floats = (adjustment[:, positive] ** 2 / self._variance[positive]).sum(axis=1)
            return total
        share = np.linalg.lstsq(self._root.toarray(), adjustment.T, rcond=1e-12)[0]
        squares: Floats = (share**2).sum(axis=0)
        return squares

    def adjustment_test(self, residual: Floats, values: Floats, reconciled: Floats) -> Floats:
        """Return |adjustment| / its std, shape (n_windows, n_streams); NaN where nothing can be tested."""
        spread = np.where(self.adjustment_std > 0.0, self.adjustment_std, np.nan)
        tested: Floats = abs(reconciled - values) / spread
        if not self._independent:
            return tested
        # V A' multipliers is the adjustment too; of both differences the one that loses fewer digits
        multipliers, per_unit = self.multipliers(residual), self._variance / spread
        lost = abs(multipliers) @ abs(as_csr(self.source)) * per_unit
        fewer = lost < abs(values) / spread
        return np.where(fewer, abs(self.over_streams(multipliers)) * per_unit, tested)

    @cached_property
    def std(self) -> Floats:
        """Std of the reconciled values, shape (n_streams,); NaN where unobservable."""
        variance = np.full(self.n_streams, np.nan)
        if self._independent and self.times == 1:
            taken = self._variance**2 * self._seen
            variance[self.measured] = (self._variance - taken)[self.measured]
            again = self.measured & (variance < CLOSE_TO_SURE * self._variance)
        else:
            again = self.measured & (self.redundant | ~self._independent)
            variance[self.measured] = self._variance[self.measured]
        chosen = np.flatnonzero(again | (self.observable & ~self.measured))
        for first in range(0, len(chosen), 64):
            some = chosen[first : first + 64]
            weights = self._functionals(some)
            if self._independent:
                variance[some] = weights**2 @ self._variance
            else:
                variance[some] = np.asarray((weights @ self._root) ** 2).sum(axis=1)
        spread: Floats = np.sqrt(variance)
        return spread

    @cached_property
    def prior_variance(self) -> Floats:
        """Variance of the measured values, shape (n_streams,); NaN where unmeasured."""
        return np.where(self.measured, self._variance, np.nan)

    @cached_property
    def adjustment_std(self) -> Floats:
        """Std of the adjustments of error-free meters, shape (n_streams,); zero without redundancy, NaN unmeasured."""
        if self._independent:
            variance = self._variance**2 * self._seen
        else:
            variance = np.empty(self.n_streams)
            by_stream = (self._r @ self._covariance).T.tocsr()
            for first in range(0, self.n_streams, 64):
                some = by_stream[first : first + 64].toarray()
                variance[first : first + 64] = (self._solved(some) * some).sum(axis=1)
        return np.where(self.measured, np.sqrt(np.maximum(variance, 0.0)), np.nan)

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What others have derived from this pattern and keep with it."""
        return {}

    @cached_property
    def open_nodes(self) -> Bools:
        """Nodes with an unmeasured stream: their raw imbalance is unknown; bool, shape (n_nodes,)."""
        unknown = np.zeros(self.n_nodes, dtype=bool)
        unknown[self.source.row_of_entry()[~self.measured[self.source.index]]] = True
        return unknown

    @cached_property
    def imbalance_std(self) -> Floats:
        """Std of the raw imbalances of error-free meters, shape (n_nodes,)."""
        spread = as_csr(self.source) @ self._root
        std: Floats = np.sqrt(np.asarray(spread.multiply(spread).sum(axis=1)).ravel())
        return std

    @cached_property
    def bias_information(self) -> Floats:
        """One over the variance of each meter's bias estimate, shape (n_streams,); zero where it cannot show."""
        return np.where(self.redundant & (self._variance > 0.0), self._seen, 0.0)

    @cached_property
    def leak_information(self) -> Floats:
        """One over the variance of each node's leak estimate, shape (n_nodes,); zero where it cannot show."""
        information = np.zeros(self.n_nodes)
        if not len(self.reduced.target):
            information[self.order.nodes] = self._inverse[1]
            return information * self.reduced.by_row**2
        for first in range(0, self.n_nodes, 64):
            some = np.arange(first, min(first + 64, self.n_nodes))
            unit = np.zeros((len(some), self.n_nodes))
            unit[np.arange(len(some)), some] = 1.0
            information[some] = self.multipliers(unit)[np.arange(len(some)), some]
        return information

    def covariance_of(self, streams: Ints) -> Floats:
        """Return columns of the covariance of the reconciled values, shape (n_streams, k), for (k,) streams."""
        roots = self._functionals(streams) @ self._root  # shape (k, n_errors)
        half = np.asarray(roots @ self._root.T)
        # C C' g', then the projection once more: P g = T V T' g
        columns = self.solve(np.ascontiguousarray(half), None).T
        columns[:, ~self.observable[streams]] = np.nan
        return columns

    @cached_property
    def adjusts_apart(self) -> bool:
        """Whether an adjustment is the stream's own variance times A' multipliers: all measured, and independent."""
        return bool(self._independent and self.measured.all() and self.times == 1)

    def column(self, stream: int) -> Floats:
        """Return column `stream` of A, shape (n_nodes,)."""
        full = np.zeros(self.n_nodes)
        first, last = self._by_stream.start[stream], self._by_stream.start[stream + 1]
        full[self._by_stream.index[first:last]] = self._by_stream.value[first:last]
        return full

    def over_streams(self, multipliers: Floats) -> Floats:
        """Return A' multipliers, shape (n_windows, n_streams)."""
        return product(self._by_stream, multipliers)

    def screening(self, streams: Ints, nodes: Ints, per_std: Floats) -> Screening | None:
        """Return what scores biases of streams and leaks of nodes in many windows at once.

        None where unmeasured streams were eliminated or solutions are refined: multipliers are more than w there.
        """
        place = np.full(self.n_nodes, -1)
        place[self.order.nodes] = np.arange(len(self.order.nodes))
        place = place[nodes]
        if len(self.reduced.target) or self.times > 1 or (place < 0).any():
            return None
        leaks = sp.csr_array(
            (self.reduced.by_row[nodes], (np.arange(len(nodes)), place)), shape=(len(nodes), len(self.order.nodes))
        )
        # the kernel solves with right - R x, the negative of the imbalance
        over = as_rows(-sp.vstack([self._r.T.tocsr()[streams], leaks], format="csr"))
        return partial(self._screen, sums(over, self.n_streams), per_std)

    def _screen(
        self, over: kernels.Sums, per_std: Floats, values: Floats, rhs: Floats | None
    ) -> tuple[Floats, Floats]:
        """Return scores, shape (n_windows, n_hypotheses), and the largest |z|, shape (n_windows,)."""
        rights = np.ascontiguousarray(self._scaled(rhs, len(values))[:, self.order.nodes])
        given, scores = np.require(values, requirements=("C", "W")), np.empty((len(values), len(per_std)))
        rows = self.n_streams + rights.shape[1] * (1 + (len(rights) > 0)) + len(per_std) + 1
        with lanes.borrowed_block(rows) as block:
            largest = kernels.score_windows(
                given, rights, self._sums[0], over, per_std, self.factor, block, scores
            )
        return scores, largest

    def alike(self, streams: Ints, nodes: Ints) -> Ints:
        """Return a number for the direction in which each bias, then each leak, shows, shape (n_hypotheses,)."""
        columns = self._kept_by_stream
        units = [self._direction(columns.index[a:b], columns.value[a:b]) for a, b in _spans(columns.start, streams)]
        at = np.full(self.n_nodes, -1)
        at[self.order.nodes] = np.arange(len(self.order.nodes))
        for i in nodes:
            unit = np.zeros((1, self.n_nodes))
            unit[0, i] = 1.0
            self._combine(unit)
            places = np.flatnonzero((unit[0] != 0.0) & (at >= 0))
            by_row = places[np.argsort(at[places])]
            units.append(self._direction(at[by_row], unit[0, by_row]))
        numbers: dict[Any, int] = {}
        return np.array([numbers.setdefault(unit, len(numbers)) for unit in units], dtype=np.int64)

    def draw_multipliers(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw the multipliers of windows without errors, shape (count, n_nodes)."""
        drawn = rng.standard_normal((count, self._root.shape[1]))
        errors = drawn * np.sqrt(self._variance) if self._independent else np.asarray(drawn @ self._root.T)
        return self.multipliers(self.residual(errors, None))

    @staticmethod
    def _direction(index: Ints, value: Floats) -> tuple[tuple[int, float], ...]:
        """Return a column up to its size and sign, rounded, so that equal directions compare equal."""
        return tuple(zip(index.tolist(), np.round(value / value[0], 9).tolist(), strict=True)) if len(index) else ()

    @cached_property
    def _inverse(self) -> tuple[Floats, Floats]:
        """S^-1 on the pattern of L: below and on the diagonal."""
        return factors.inverse_on_pattern(self.factor.start, self.factor.row, self.factor.value, self.factor.inverse)

    @cached_property
    def _seen(self) -> Floats:
        """R_j' S^-1 R_j for each stream, shape (n_streams,)."""
        columns = self._kept_by_stream
        if self.times > 1 and self.n_streams <= SOLVED_STREAMS:
            return self._seen_by_solving(columns)
        below, on = self._inverse
        return factors.quadratic_by_column(
            columns.start, columns.index, columns.value, self.factor.start, self.factor.row, below, on
        )

    def _seen_by_solving(self, columns: Rows) -> Floats:
        """Return the same as a sum of squares, stream by stream: no digits cancel."""
        seen = np.empty(self.n_streams)
        by_stream = as_csr(columns)
        for first in range(0, self.n_streams, 64):
            some = slice(first, min(first + 64, self.n_streams))
            moved = self._solved(by_stream[some].toarray()) @ self._r
            seen[some] = (np.asarray(moved @ self._root) ** 2).sum(axis=1)
        return seen


def _spans(start: Ints, chosen: Ints) -> list[tuple[int, int]]:
    """Return (first, last) of the chosen rows."""
    return list(zip(start[chosen].tolist(), start[chosen + 1].tolist(), strict=True))


def project_sparse(rows: Rows, measured: Bools, std: Floats) -> SparseProjection:
    """Factor one pattern of independent meters.

    Parameters
    ----------
    rows
        The balances, shape (n_nodes, n_streams).
    measured
        bool, shape (n_streams,).
    std
        shape (n_streams,), not read where unmeasured.
    """
    return SparseProjection(rows, measured, *sparse_covariance(std, None, measured & np.isfinite(std)))
