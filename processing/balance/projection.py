"""What the rest of the package asks of a factored pattern, whether its factors are dense or sparse.

Here: the interface. Not here: the factors (dense.py, sparse.py), which of them a network uses (network.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from processing.balance.inputs import Bools, Floats, Ints

Screening = Callable[[Floats, Floats | None], tuple[Floats, Floats]]
"""From y and b: a_h' L r, shape (n_windows, n_hypotheses), and the largest |a_h' L r| per_std, shape (n_windows,)."""


class Projection(Protocol):
    """One pattern of measured streams, factored: everything that does not depend on the values.

    Values y have shape (n_windows, n_streams) and are not read where unmeasured; right-hand sides b have shape
    (n_windows, n_nodes), None where all are zero. What is not asked for is not computed.
    """

    @property
    def measured(self) -> Bools:
        """Streams with a usable value of finite std; bool, shape (n_streams,)."""
        ...

    @property
    def redundant(self) -> Bools:
        """Measured, and determined without their own meter; bool, shape (n_streams,)."""
        ...

    @property
    def observable(self) -> Bools:
        """Measured, or computable; bool, shape (n_streams,)."""
        ...

    @property
    def n_nodes(self) -> int:
        """Number of balances."""
        ...

    @property
    def n_streams(self) -> int:
        """Number of streams."""
        ...

    @property
    def degrees_of_freedom(self) -> int:
        """Number of independent balances among measured streams of positive std."""
        ...

    @property
    def source(self) -> Any:
        """The balances as given; the same object for all patterns of one network."""
        ...

    @property
    def kept(self) -> dict[Any, Any]:
        """What others have derived from this pattern and keep with it."""
        ...

    @property
    def std(self) -> Floats:
        """Std of the reconciled values, shape (n_streams,); NaN where unobservable."""
        ...

    @property
    def prior_variance(self) -> Floats:
        """Variance of the measured values, shape (n_streams,); NaN where unmeasured."""
        ...

    @property
    def adjustment_std(self) -> Floats:
        """Std of the adjustments of error-free meters, shape (n_streams,); zero without redundancy, NaN unmeasured."""
        ...

    @property
    def open_nodes(self) -> Bools:
        """Nodes with an unmeasured stream: their raw imbalance is unknown; bool, shape (n_nodes,)."""
        ...

    @property
    def imbalance_std(self) -> Floats:
        """Std of the raw imbalances of error-free meters, shape (n_nodes,)."""
        ...

    @property
    def bias_information(self) -> Floats:
        """One over the variance of each meter's bias estimate, shape (n_streams,); zero where it cannot show."""
        ...

    @property
    def leak_information(self) -> Floats:
        """One over the variance of each node's leak estimate, shape (n_nodes,); zero where it cannot show."""
        ...

    def reweighed(self, std: Floats) -> Projection:
        """Return the same pattern with other, independent std, shape (n_streams,)."""
        ...

    def residual(self, values: Floats, rhs: Floats | None) -> Floats:
        """Return A y - b, shape (n_windows, n_nodes), unmeasured streams counted as zero."""
        ...

    def solve(self, values: Floats, rhs: Floats | None, threads: int = 1, out: Floats | None = None) -> Floats:
        """Return reconciled values, shape (n_windows, n_streams), in `out` if given; NaN where unobservable."""
        ...

    def multipliers(self, residual: Floats) -> Floats:
        """Return the balances' multipliers, shape (n_windows, n_nodes): adjustment = -V A' multipliers."""
        ...

    def objective(self, residual: Floats) -> Floats:
        """Return the weighted sum of squares of the adjustments, shape (n_windows,)."""
        ...

    def objective_of(self, adjustment: Floats) -> Floats:
        """Return the weighted sum of squares of given adjustments, shape (n_windows,), zero where unmeasured."""
        ...

    def adjustment_test(self, residual: Floats, values: Floats, reconciled: Floats) -> Floats:
        """Return |adjustment| / its std, shape (n_windows, n_streams); NaN where nothing can be tested.

        `residual` and `reconciled` are those of `values`, without bounds.
        """
        ...

    def contradiction(self, values: Floats, rhs: Floats | None) -> tuple[int, list[int], float] | None:
        """Return (window, nodes, what is left open) of the first balance open where nothing can be adjusted."""
        ...

    def covariance_of(self, streams: Ints) -> Floats:
        """Return columns of the covariance of the reconciled values, shape (n_streams, k), for (k,) streams."""
        ...

    @property
    def adjusts_apart(self) -> bool:
        """Whether an adjustment is the stream's own variance times A' multipliers: all measured, and independent."""
        ...

    def column(self, stream: int) -> Floats:
        """Return column `stream` of A, shape (n_nodes,)."""
        ...

    def over_streams(self, multipliers: Floats) -> Floats:
        """Return A' multipliers, shape (n_windows, n_streams)."""
        ...

    def screening(self, streams: Ints, nodes: Ints, per_std: Floats) -> Screening | None:
        """Return what scores biases of streams and leaks of nodes in many windows at once; None if nothing does."""
        ...

    def alike(self, streams: Ints, nodes: Ints) -> Ints:
        """Return a number for the direction in which each bias, then each leak, shows, shape (n_hypotheses,)."""
        ...

    def draw_multipliers(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw the multipliers of windows without errors, shape (count, n_nodes)."""
        ...
