"""The balances that hold among measured streams, factored sparsely, and windows solved with them.

Here: the steps from balances to a window's values: eliminate unmeasured streams and drop balances that depend on others
(reduction.py), order (ordering.py) and factor (factors.py) S = R V R', solve many windows at once (kernels.py), with
refinement where digits were lost. Not here: std and tests (sparse.py). The main path: `SparseSystem.solve`.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.sparse as sp

from processing.balance import factors, kernels, lanes, steps, varying_kernels
from processing.balance.dense import CONTRADICTION
from processing.balance.inputs import Bools, Floats, Ints, Rows
from processing.balance.ordering import Order, as_csr, as_rows, order_rows
from processing.balance.product import product
from processing.balance.reduction import reduce, take_rows
from processing.balance.sharing import share_out

SMALL_PIVOT = 1e-7
"""Below this share of its own diagonal a pivot of S has lost half of its digits: solutions are refined."""

LOST_PIVOT = 1e-11
"""Below this share the digits are gone: `SparseProjection.doubtful`."""

NULL_SHARE = 1e-9
"""A part in a random vector of the null space below this counts as none: rounding, not chance, makes it so small."""

VARYING_WIDTH = 16
"""Windows at a time where each has a factor of its own."""


class SparseSystem:
    """One pattern of measured streams, factored sparsely.

    Parameters
    ----------
    source
        The balances, shape (n_nodes, n_streams).
    measured
        bool, shape (n_streams,).
    covariance, root
        V, shape (n_streams, n_streams), and C with V = C C', shape (n_streams, n_errors).
    """

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
    def factor(self) -> kernels.Factor:
        """L and D."""
        return self._factored[0]

    @property
    def times(self) -> int:
        """How often a solution is refined, the first time included."""
        return 1 if self._factored[1] > SMALL_PIVOT else 3

    @property
    def doubtful(self) -> bool:
        """Whether normal equations have lost too many digits to be trusted even with refinement."""
        return not self._factored[1] > LOST_PIVOT

    @cached_property
    def _factored(self) -> tuple[kernels.Factor, float]:
        """L D L' = R V R', and the smallest pivot as a share of its diagonal."""
        order = self.order
        s = as_rows(self._weighted @ self._r.T)
        lower, diagonal = np.zeros((len(order.l_index), 1)), np.zeros((order.rows.n_rows, 1))
        factors.scatter(s.start, s.index, s.value, order.l_start, order.l_index, lower, diagonal)
        before = diagonal[:, 0].copy()
        factors.factorise(
            order.l_start, order.l_index, order.row_start, order.row_column, order.row_place, lower, diagonal
        )
        share = float((diagonal[:, 0] / before).min(initial=1.0))
        return kernels.Factor(order.l_start, order.l_index, lower[:, 0].copy(), 1.0 / diagonal[:, 0]), share

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

    def residual(self, values: Floats, rhs: Floats | None) -> Floats:
        """Return A y - b, shape (n_windows, n_nodes), unmeasured streams counted as zero."""
        out = product(self._measured_rows, values)
        return out if rhs is None else np.subtract(out, rhs, out=out)

    def solve(self, values: Floats, rhs: Floats | None, threads: int = 1, out: Floats | None = None) -> Floats:
        """Return reconciled values, shape (n_windows, n_streams), in `out` if given; NaN where unobservable."""
        out = np.empty(values.shape) if out is None else out
        self.solve_finite(values, rhs, threads, out)
        return out

    def solve_finite(self, values: Floats, rhs: Floats | None, threads: int, out: Floats) -> bool:
        """As `solve`; tell whether every value was finite, unmeasured streams' too.

        Who expects no gap asks this way: to look for one beforehand takes a third of the time of reconciling.
        """
        scaled = self._scaled(rhs, len(values))
        rights = np.ascontiguousarray(scaled[:, self.order.nodes])
        whole, (there, back) = np.require(values, requirements=("C", "W")), self._sums  # or it is compiled once more
        rows = self.n_streams + 1 + rights.shape[1] * (1 + (len(rights) > 0))

        def some(first: int, last: int) -> bool:
            given, read, moved = rights[first:last] if len(rights) else rights, whole[first:last], out[first:last]
            with lanes.borrowed_block(rows) as block:
                return kernels.reconcile_windows(read, given, there, back, self.factor, self.times, block, moved)

        finite = share_out(some, len(values), lanes.WIDTH, threads)
        self._fill_in(out, scaled)
        return all(finite)

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
        width = min(VARYING_WIDTH, max(len(values), 1))
        varying_kernels.reconcile_varying(
            values, rights, variances, self.balances, self.order.pattern, self._terms, width, out, least
        )
        self._fill_in(out, scaled)
        return out, least

    def multipliers(self, residual: Floats) -> Floats:
        """Return the balances' multipliers, shape (n_windows, n_nodes): adjustment = -V A' multipliers."""
        r = self.reduced
        plain = not len(r.target) and bool((r.by_row == 1.0).all())
        scaled = residual if plain else self._scaled(residual, len(residual))
        multipliers = np.zeros(residual.shape)
        multipliers[:, self.order.nodes] = self._solved(scaled[:, self.order.nodes])
        if not plain:
            steps.combine_transposed(multipliers, r.target, r.source, r.share)
            multipliers *= r.by_row
        return multipliers

    def contradiction(self, values: Floats, rhs: Floats | None) -> tuple[int, list[int], float] | None:
        """Return (window, nodes, what is left open) of the first balance open where nothing can be adjusted."""
        idle, r = self.reduced.idle, self.reduced
        movable = self._independent and not (self.measured & (self._variance == 0.0)).any()
        if not len(idle) or (rhs is None and movable):
            return None
        left = self._scaled(self.residual(values, rhs), len(values))
        steps.combine(left, *r.idle_steps)
        seen = self._measured_rows
        terms = product(Rows(seen.start, seen.index, abs(seen.value), seen.n_columns), abs(values))
        terms = (terms if rhs is None else terms + abs(rhs)) * r.by_row
        steps.combine(terms, r.target, r.source, -abs(r.share))
        steps.combine(terms, r.idle_steps[0], r.idle_steps[1], -abs(r.idle_steps[2]))
        bad = np.argwhere(abs(left[:, idle]) > CONTRADICTION * terms[:, idle])
        if not bad.size:
            return None
        window, which = (int(k) for k in bad[0])
        weights = np.zeros((1, self.n_nodes))
        weights[0, idle[which]] = 1.0
        steps.combine_transposed(weights, *r.idle_steps)
        steps.combine_transposed(weights, r.target, r.source, r.share)
        open_by = float(left[window, idle[which]] / r.by_row[idle[which]])
        return window, np.flatnonzero(abs(weights[0]) > NULL_SHARE).tolist(), open_by

    def _scaled(self, rhs: Floats | None, n_windows: int) -> Floats:
        """Return right-hand sides of the balances after elimination; none of shape (0, n_nodes) where all are zero."""
        if rhs is None:
            return np.zeros((0, self.n_nodes))
        scaled: Floats = rhs * self.reduced.by_row
        self._combine(scaled)
        return scaled

    def _combine(self, values: Floats) -> None:
        """Apply the steps of the elimination to values by balance, in place."""
        steps.combine(values, self.reduced.target, self.reduced.source, self.reduced.share)

    def _fill_in(self, out: Floats, scaled: Floats) -> None:
        """Compute unmeasured streams of reconciled windows in place; NaN where unobservable."""
        if not self.measured.all():
            out[:, self._free] = 0.0
            self._compute(out, scaled)
            out[:, ~self.observable] = np.nan

    def _compute(self, out: Floats, scaled: Floats) -> None:
        """Compute unmeasured streams in place."""
        r, pivots = self.reduced, self._pivot_rows
        steps.compute_unmeasured(out, scaled, r.pivot_row, r.pivot_column, pivots.start, pivots.index, pivots.value)

    def _solved(self, rights: Floats) -> Floats:
        """Return S^-1 rights, rows in elimination order, shape (n_windows, n_rows)."""
        given = np.ascontiguousarray(rights)
        out = np.empty(given.shape)
        with lanes.borrowed_block(given.shape[1]) as block:
            kernels.solve_windows(given, self._lower, self.factor, block, out)
            for _ in range(1, self.times):
                left, more = np.ascontiguousarray(given - self._times_normal(out)), np.empty(given.shape)
                kernels.solve_windows(left, self._lower, self.factor, block, more)
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
        pivots = self._pivot_rows
        steps.spread_functional(weights, self.reduced.pivot_column, pivots.start, pivots.index, pivots.value)
        weights[:, ~self.measured] = 0.0
        # the transpose of the gain: the same steps with R and V R' in each other's place
        there, back = self._sums_of(self._weighted, self._r)
        none, out = np.zeros((0, self.degrees_of_freedom)), np.empty_like(weights)
        with lanes.borrowed_block(self.n_streams + self.degrees_of_freedom + 1) as block:
            kernels.reconcile_windows(weights, none, there, back, self.factor, self.times, block, out)
        return out

    @cached_property
    def _sums(self) -> tuple[kernels.Sums, kernels.Sums]:
        """What the kernels gather on the way there and back."""
        return self._sums_of(self._r, self._weighted)

    def _sums_of(self, there: sp.csr_array, back: sp.csr_array) -> tuple[kernels.Sums, kernels.Sums]:
        """Return sums over a block of streams and balances: `there` and L by balance, `back` by stream.

        A stream meets its balances in the plant's order.
        """
        by_stream = as_rows(back[self._place].T)
        by_stream = Rows(by_stream.start, self._place[by_stream.index], by_stream.value, by_stream.n_columns)
        return sums(as_rows(sp.hstack([there, self._by_row], format="csr"))), sums(by_stream, self.n_streams)

    @cached_property
    def _lower(self) -> kernels.Sums:
        """L by rows, without its diagonal, as the kernels gather it."""
        return sums(as_rows(self._by_row))

    @cached_property
    def _by_row(self) -> sp.csr_array:
        """L without its diagonal."""
        factor, n = self.factor, self.degrees_of_freedom
        return sp.csc_array((factor.value, factor.row, factor.start), shape=(n, n)).tocsr()

    @cached_property
    def balances(self) -> varying_kernels.Balances:
        """R, rows in the plant's order."""
        rows = take_rows(self.order.rows, self._place)
        return varying_kernels.Balances(self._place, rows.start, rows.index, rows.value)

    @cached_property
    def _place(self) -> Ints:
        """Position in elimination order of each kept balance, in the plant's order."""
        return np.argsort(self.order.nodes)

    @cached_property
    def _weighted(self) -> sp.csr_array:
        """R V, rows in elimination order."""
        return as_csr(as_rows(self._r @ self._covariance))

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


def sums(rows: Rows, first: int = 0) -> kernels.Sums:
    """Return a matrix by rows as the kernels gather it, its first column at row `first` of a block."""
    early = np.zeros(kernels.EARLY, dtype=np.int64)
    return kernels.Sums(rows.start, np.concatenate([rows.index + first, early]), rows.value)
