"""The projection of one pattern of measured streams, by sparse factors.

Here: what large networks use; the time for a window grows with the number of streams, not with its square. The steps:
eliminate unmeasured streams and drop balances that depend on others (reduction.py), order (ordering.py) and factor
(factors.py) S = R V R', solve many windows at once (kernels.py). Not here: networks so badly scaled that normal
equations lose too many digits; these go to dense.py if they are small enough, and are refined if not. The main path:
`project_sparse`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from processing.balance import factors, kernels
from processing.balance.dense import CONTRADICTION
from processing.balance.inputs import Bools, Floats, Ints, Rows
from processing.balance.ordering import Order, as_csr, as_rows, order_rows
from processing.balance.reduction import reduce, take_rows
from processing.balance.uncertainty import sparse_covariance

SMALL_PIVOT = 1e-7
"""Below this share of its own diagonal a pivot of S has lost half of its digits: solutions are refined."""

LOST_PIVOT = 1e-11
"""Below this share the digits are gone: `SparseProjection.doubtful`."""

CLOSE_TO_SURE = 1e-4
"""Where less than this share of the variance is left, it is computed without taking differences."""

SOLVED_STREAMS = 5_000
"""Up to this many streams of a badly scaled network each std of an adjustment is solved for, with refinement."""

NULL_SHARE = 1e-9
"""A part in a random vector of the null space below this counts as none: rounding, not chance, makes it so small."""

WIDTHS = (32, 16)
"""Windows taken at a time: enough for the indices to cost nothing, few enough for the caches; fewer if large."""

LARGE = 20_000
"""Streams from which on a network counts as large: its windows no longer fit the second-level cache."""

VARYING_WIDTH = 16
"""Windows at a time where each has a factor of its own."""


class SparseProjection:
    """One pattern, factored sparsely; see `projection.Projection` for what it answers."""

    def __init__(self, source: Rows, measured: Bools, covariance: sp.csr_array, root: sp.csr_array) -> None:
        keep = sp.diags_array(measured.astype(float))
        self.source = source
        self.measured = measured
        self._root = (keep @ root).tocsr()
        self._covariance = (keep @ covariance @ keep).tocsr()
        self._covariance.eliminate_zeros()
        self._variance = np.asarray(self._covariance.diagonal())
        self._independent = self._covariance.nnz == np.count_nonzero(self._variance)
        self.reduced = reduce(source, measured, as_rows(self._root))

    @cached_property
    def order(self) -> Order:
        """Order of elimination and pattern of L."""
        return order_rows(self.reduced, self._covariance)

    @property
    def balances(self) -> kernels.Balances:
        """R and V R' in elimination order."""
        return self._factored[0]

    @property
    def factor(self) -> kernels.Factor:
        """L and D."""
        return self._factored[1]

    @property
    def times(self) -> int:
        """How often a solution is refined, the first time included."""
        return 1 if self._factored[2] > SMALL_PIVOT else 3

    @property
    def doubtful(self) -> bool:
        """Whether normal equations have lost too many digits to be trusted even with refinement."""
        return not self._factored[2] > LOST_PIVOT

    @cached_property
    def _factored(self) -> tuple[kernels.Balances, kernels.Factor, float]:
        """R with V R', L D L' = R V R', and the smallest pivot as a share of its diagonal."""
        order = self.order
        r = as_csr(order.rows)
        weighted = as_rows(r @ self._covariance)
        s = as_rows(as_csr(weighted) @ r.T)
        lower, diagonal = np.zeros((len(order.l_index), 1)), np.zeros((order.rows.n_rows, 1))
        factors.scatter(s.start, s.index, s.value, order.l_start, order.l_index, lower, diagonal)
        before = diagonal[:, 0].copy()
        factors.factorise(
            order.l_start, order.l_index, order.row_start, order.row_column, order.row_place, lower, diagonal
        )
        share = float((diagonal[:, 0] / before).min(initial=1.0))
        balances = kernels.Balances(
            order.rows.start, order.rows.index, order.rows.value, weighted.start, weighted.index, weighted.value
        )
        factor = kernels.Factor(order.l_start, order.l_index, lower[:, 0].copy(), 1.0 / diagonal[:, 0])
        return balances, factor, share

    @property
    def n_nodes(self) -> int:
        """Number of balances."""
        return self.source.n_rows

    @property
    def n_streams(self) -> int:
        """Number of streams."""
        return self.source.n_columns

    @property
    def degrees_of_freedom(self) -> int:
        """Number of independent balances among measured streams of positive std."""
        return len(self.reduced.kept)

    @cached_property
    def redundant(self) -> Bools:
        """Measured, and determined without their own meter; bool, shape (n_streams,)."""
        held = np.zeros(self.n_streams, dtype=bool)
        rest = np.concatenate([self.reduced.kept, self.reduced.idle])
        held[take_rows(self.reduced.after, rest).index] = True
        both: Bools = held & self.measured
        return both

    @cached_property
    def observable(self) -> Bools:
        """Measured, or computable; bool, shape (n_streams,)."""
        free = self._free
        if not free.any():
            return np.ones(self.n_streams, dtype=bool)
        vectors = np.zeros((2, self.n_streams))
        random = np.random.default_rng(0).standard_normal((2, int(free.sum())))
        vectors[:, free] = random * self.reduced.by_column[free]
        self._compute(vectors, np.zeros((0, self.n_nodes)))
        part = abs(vectors).max(axis=0) / self.reduced.by_column
        seen: Bools = self.measured | (part <= NULL_SHARE * part.max())
        return seen

    def reweighed(self, std: Floats) -> SparseProjection:
        """Return the same pattern with other, independent std, shape (n_streams,)."""
        return project_sparse(self.source, self.measured, std)

    def residual(self, values: Floats, rhs: Floats | None) -> Floats:
        """Return A y - b, shape (n_windows, n_nodes), unmeasured streams counted as zero."""
        out = np.empty((len(values), self.n_nodes))
        seen = self._measured_rows
        kernels.multiply(seen.start, seen.index, seen.value, values, out)
        return out if rhs is None else out - rhs

    def solve(self, values: Floats, rhs: Floats | None, threads: int = 1, out: Floats | None = None) -> Floats:
        """Return reconciled values, shape (n_windows, n_streams), in `out` if given; NaN where unobservable."""
        out = np.empty(values.shape) if out is None else out
        scaled = self._scaled(rhs, len(values))
        rights = np.ascontiguousarray(scaled[:, self.order.nodes])

        def some(first: int, last: int) -> None:
            given = rights[first:last] if len(rights) else rights
            width = self._width(last - first)
            kernels.reconcile_windows(
                values[first:last], given, self.balances, self.factor, self.times, width, out[first:last]
            )

        share_out(some, len(values), max(WIDTHS), threads)
        if not self.measured.all():
            out[:, self._free] = 0.0
            self._compute(out, scaled)
            out[:, ~self.observable] = np.nan
        return out

    def solve_varying(self, values: Floats, rhs: Floats | None, std: Floats) -> tuple[Floats, Floats]:
        """Reconcile windows with std of their own, zero where this pattern's are; as `solve`.

        Returns
        -------
        reconciled
            shape (n_windows, n_streams); NaN where unobservable.
        least
            shape (n_windows,): smallest pivot as a share of its diagonal; below `SMALL_PIVOT` digits were lost.
        """
        out, least = np.empty(values.shape), np.empty(len(values))
        scaled = self._scaled(rhs, len(values))
        rights = np.ascontiguousarray(scaled[:, self.order.nodes])
        variances = np.where(self.measured, std, 0.0) ** 2
        width = min(self._width(len(values)), VARYING_WIDTH)
        kernels.reconcile_varying(
            values, rights, variances, self.balances, self.order.pattern, self._terms, width, out, least
        )
        if not self.measured.all():
            out[:, self._free] = 0.0
            self._compute(out, scaled)
            out[:, ~self.observable] = np.nan
        return out, least

    def multipliers(self, residual: Floats) -> Floats:
        """Return the balances' multipliers, shape (n_windows, n_nodes): adjustment = -V A' multipliers."""
        scaled = self._scaled(residual, len(residual))
        solved = self._solved(np.ascontiguousarray(scaled[:, self.order.nodes]))
        scaled[:] = 0.0
        scaled[:, self.order.nodes] = solved
        kernels.combine_transposed(scaled, self.reduced.target, self.reduced.source, self.reduced.share)
        multipliers: Floats = scaled * self.reduced.by_row
        return multipliers

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

    def contradiction(self, values: Floats, rhs: Floats | None) -> tuple[int, list[int], float] | None:
        """Return (window, nodes, what is left open) of the first balance open where nothing can be adjusted."""
        idle, r = self.reduced.idle, self.reduced
        movable = self._independent and not (self.measured & (self._variance == 0.0)).any()
        if not len(idle) or (rhs is None and movable):
            return None
        left = self._scaled(self.residual(values, rhs), len(values))
        kernels.combine(left, *r.idle_steps)
        seen = self._measured_rows
        terms = np.empty_like(left)
        kernels.multiply(seen.start, seen.index, abs(seen.value), abs(values), terms)
        terms = (terms if rhs is None else terms + abs(rhs)) * r.by_row
        kernels.combine(terms, r.target, r.source, -abs(r.share))
        kernels.combine(terms, r.idle_steps[0], r.idle_steps[1], -abs(r.idle_steps[2]))
        bad = np.argwhere(abs(left[:, idle]) > CONTRADICTION * terms[:, idle])
        if not bad.size:
            return None
        window, which = (int(k) for k in bad[0])
        weights = np.zeros((1, self.n_nodes))
        weights[0, idle[which]] = 1.0
        kernels.combine_transposed(weights, *r.idle_steps)
        kernels.combine_transposed(weights, r.target, r.source, r.share)
        open_by = float(left[window, idle[which]] / r.by_row[idle[which]])
        return window, np.flatnonzero(abs(weights[0]) > NULL_SHARE).tolist(), open_by

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
            g = self.balances
            by_stream = Rows(g.weighted_start, g.weighted_stream, g.weighted, self.n_streams).dense().T
            variance = (self._solved(by_stream) * by_stream).sum(axis=1)
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

    def column(self, stream: int) -> Floats:
        """Return column `stream` of A, shape (n_nodes,)."""
        full = np.zeros(self.n_nodes)
        first, last = self._by_stream.start[stream], self._by_stream.start[stream + 1]
        full[self._by_stream.index[first:last]] = self._by_stream.value[first:last]
        return full

    def over_streams(self, multipliers: Floats) -> Floats:
        """Return A' multipliers, shape (n_windows, n_streams)."""
        out = np.empty((len(multipliers), self.n_streams))
        t = self._by_stream
        kernels.multiply(t.start, t.index, t.value, np.ascontiguousarray(multipliers), out)
        return out

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

    def draw_residuals(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw raw imbalances of windows without errors, shape (count, n_nodes)."""
        drawn = rng.standard_normal((count, self._root.shape[1]))
        errors = drawn * np.sqrt(self._variance) if self._independent else np.asarray(drawn @ self._root.T)
        return self.residual(errors, None)

    @staticmethod
    def _direction(index: Ints, value: Floats) -> tuple[tuple[int, float], ...]:
        """Return a column up to its size and sign, rounded, so that equal directions compare equal."""
        return tuple(zip(index.tolist(), np.round(value / value[0], 9).tolist(), strict=True)) if len(index) else ()

    def _width(self, n_windows: int) -> int:
        """Return how many windows to take at a time."""
        return min(WIDTHS[self.n_streams >= LARGE], max(n_windows, 1))

    def _scaled(self, rhs: Floats | None, n_windows: int) -> Floats:
        """Return right-hand sides of the balances after elimination; none of shape (0, n_nodes) where all are zero."""
        if rhs is None:
            return np.zeros((0, self.n_nodes))
        scaled: Floats = rhs * self.reduced.by_row
        self._combine(scaled)
        return scaled

    def _combine(self, values: Floats) -> None:
        """Apply the steps of the elimination to values by balance, in place."""
        kernels.combine(values, self.reduced.target, self.reduced.source, self.reduced.share)

    def _compute(self, out: Floats, scaled: Floats) -> None:
        """Compute unmeasured streams in place."""
        r, pivots = self.reduced, self._pivot_rows
        kernels.compute_unmeasured(out, scaled, r.pivot_row, r.pivot_column, pivots.start, pivots.index, pivots.value)

    def _solved(self, rights: Floats) -> Floats:
        """Return S^-1 rights, rows in elimination order, shape (n_windows, n_rows)."""
        given = np.ascontiguousarray(rights)
        out, width = np.empty(given.shape), self._width(len(given))
        kernels.solve_windows(given, self.factor, width, out)
        for _ in range(1, self.times):
            left, more = np.ascontiguousarray(given - self._times_normal(out)), np.empty(given.shape)
            kernels.solve_windows(left, self.factor, width, more)
            out += more
        return out

    def _times_normal(self, values: Floats) -> Floats:
        """Return S values, factor by factor: the sum of a sure and a vague meter's variance has forgotten the sure."""
        product: Floats = ((values @ self._r) @ self._covariance) @ self._r.T
        return product

    @cached_property
    def _r(self) -> sp.csr_array:
        """R in scipy's form."""
        return as_csr(self.order.rows)

    def _functionals(self, streams: Ints) -> Floats:
        """Return what each reconciled value is of the measured ones: rows of the gain, shape (k, n_streams)."""
        weights = np.zeros((len(streams), self.n_streams))
        weights[np.arange(len(streams)), streams] = 1.0
        pivots, b = self._pivot_rows, self.balances
        kernels.spread_functional(weights, self.reduced.pivot_column, pivots.start, pivots.index, pivots.value)
        weights[:, ~self.measured] = 0.0
        # the transpose of the gain: the same steps with R and V R' in each other's place
        turned = kernels.Balances(b.weighted_start, b.weighted_stream, b.weighted, b.start, b.stream, b.value)
        none, out = np.zeros((0, self.degrees_of_freedom)), np.empty_like(weights)
        kernels.reconcile_windows(weights, none, turned, self.factor, self.times, self._width(len(streams)), out)
        return out

    @cached_property
    def _kept_by_stream(self) -> Rows:
        """R by stream, rows in elimination order."""
        return self.order.rows.transposed()

    @cached_property
    def _terms(self) -> factors.Terms:
        """What S sums, for independent meters."""
        columns = self._kept_by_stream
        return factors.Terms(
            *factors.list_terms(columns.start, columns.index, columns.value, self.order.l_start, self.order.l_index)
        )

    @cached_property
    def _free(self) -> Bools:
        """Unmeasured streams that no balance is left for; bool, shape (n_streams,)."""
        free: Bools = ~self.measured
        free[self.reduced.pivot_column] = False
        return free

    @cached_property
    def _measured_rows(self) -> Rows:
        """The balances without unmeasured streams, whose values may be NaN."""
        held = self.measured[self.source.index]
        start = np.concatenate([[0], np.cumsum(held)])[self.source.start]
        return Rows(start, self.source.index[held], self.source.value[held], self.n_streams)

    @cached_property
    def _pivot_rows(self) -> Rows:
        """Rows that unmeasured streams are computed from, in order of elimination."""
        return take_rows(self.reduced.after, self.reduced.pivot_row)

    @cached_property
    def _by_stream(self) -> Rows:
        """The balances by stream."""
        return self.source.transposed()

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


def share_out(task: Callable[[int, int], None], count: int, block: int, threads: int) -> None:
    """Run task(first, last) over 0..count, in as many threads as asked, each some whole blocks."""
    each = -(-count // (max(threads, 1) * block)) * block
    if threads <= 1 or each >= count:
        task(0, count)
        return
    firsts = range(0, count, each)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda first: task(first, min(first + each, count)), firsts))


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
