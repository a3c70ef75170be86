"""Which meters are biased and which nodes leak, several at once, with the estimates and what cannot be told apart.

Here: `identify_gross_errors`, `find_gross_errors` and their answer. Not here: the hypotheses and their threshold
(hypotheses.py), the search in one window (compensation.py), what shows only over many windows (sequential.py). The main
path: `_Table.search`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.balance import inputs
from processing.balance.bounds import move_inside
from processing.balance.compensation import Rules, Search, Taken
from processing.balance.errors import BalanceError
from processing.balance.hypotheses import KINDS, Hypotheses, hypotheses_of
from processing.balance.inputs import Bools, Floats, Ints, Matrix
from processing.balance.network import Network, reconcile
from processing.balance.result import Part, Result

TOGETHER = 64
"""Windows tested at a time: their statistics stay in the cache."""

ALIKE = 4
"""From this many alarmed windows on it is worth looking for those with the same single error."""


class Found:
    """Suspects and what follows from taking them out.

    Shapes: "as measured" is (n_streams,) for one window or (n_windows, n_streams); "by node" (n_nodes,) or
    (n_windows, n_nodes); "per window" a number or (n_windows,). Values are in the unit of their stream or node.

    Attributes
    ----------
    suspects
        bool, as measured: meters that a bias was found in, with everything that the balances cannot tell from it.
    leaks
        bool, by node: likewise.
    compensated
        bool, as measured: of each group of suspects the one whose value was replaced.
    bias, bias_std
        as measured: measured minus true, as if this member of its group were the one; 0 where none.
    leak_size, leak_std
        by node: what is lost, positive; 0 where none.
    reconciled
        as measured: after compensation; NaN where unobservable.
    statistic
        per window: the largest |z| of any hypothesis, before compensation.
    threshold
        per window: what it must exceed for an alarm.
    uncompensated
        The result that was searched.
    """

    def __init__(self, table: _Table) -> None:
        self._table = table
        self._single = table.result.measured.ndim == 1
        self.suspects: Bools = self._out(table.suspects)
        self.leaks: Bools = self._out(table.leaks)
        self.compensated: Bools = self._out(table.compensated)
        self.bias: Floats = self._out(table.size[0])
        self.bias_std: Floats = self._out(table.spread[0])
        self.leak_size: Floats = self._out(table.size[1])
        self.leak_std: Floats = self._out(table.spread[1])
        self.reconciled: Floats = self._out(table.reconciled)
        self.statistic: Any = float(table.statistic[0]) if self._single else table.statistic
        self.threshold: Any = float(table.threshold[0]) if self._single else table.threshold
        self.uncompensated = table.result

    @cached_property
    def classes(self) -> list[list[tuple[str, int]]]:
        """Groups of ("stream", j) and ("node", i) that the balances cannot tell apart with the first window's meters.

        `classes_of` gives another window's.
        """
        return self.classes_of(0) if self._table.tested else []

    def classes_of(self, window: int) -> list[list[tuple[str, int]]]:
        """Return the groups that the balances cannot tell apart with the meters of one window."""
        for hypotheses, part in self._table.tested:
            if window in part.windows:
                return hypotheses.classes()
        raise IndexError(f"no window {window}")

    @cached_property
    def bias_test(self) -> Floats:
        """|z| of the bias of each meter before compensation, as measured; NaN where it cannot show."""
        tests: Floats = self._out(self._tests[0])
        return tests

    @cached_property
    def leak_test(self) -> Floats:
        """|z| of the leak of each node before compensation, by node; NaN where it cannot show."""
        tests: Floats = self._out(self._tests[1])
        return tests

    @cached_property
    def _tests(self) -> tuple[Floats, Floats]:
        """|z| of all hypotheses, by stream and by node."""
        tests = np.full(self._table.suspects.shape, np.nan), np.full(self._table.leaks.shape, np.nan)
        for errors, part in self._table.tested:
            if errors.count:
                z = abs(errors.scores(self._table.result.residual(part))) / np.sqrt(errors.information)
                tests[0][np.ix_(part.windows, errors.streams)] = z[:, : len(errors.streams)]
                tests[1][np.ix_(part.windows, errors.nodes)] = z[:, len(errors.streams) :]
        return tests

    def _out(self, values: npt.NDArray[Any]) -> Any:
        """Return values by window in the shape of what was given."""
        return values[0] if self._single else values


def identify_gross_errors(
    incidence: Matrix | Network,
    measured: npt.ArrayLike,
    std: npt.ArrayLike | None = None,
    *,
    alpha: float = 0.05,
    hypotheses: Sequence[str] = ("bias", "leak"),
    covariance: Matrix | None = None,
    rhs: npt.ArrayLike | None = None,
    bounds: Sequence[npt.ArrayLike] | None = None,
    never_suspect: npt.ArrayLike | None = None,
    at_most: int | None = None,
) -> Found:
    """Name biased meters and leaking nodes, one window at a time.

    Parameters
    ----------
    incidence
        The balances, shape (n_nodes, n_streams), or a network from `prepare` (then without `std` and `covariance`).
    measured
        shape (n_streams,) or (n_windows, n_streams) [unit of the stream]; NaN where unmeasured.
    std
        shape (n_streams,) or the shape of `measured` [unit of the stream].
    alpha
        Probability that a window without errors raises any alarm under the hypotheses asked.
    hypotheses
        "bias", "leak" or both.
    covariance
        Instead of `std`: shape (n_streams, n_streams).
    rhs
        shape (n_nodes,) or (n_windows, n_nodes); default zero.
    bounds
        (low, high), each shape (n_streams,) or one number: an error whose compensation would leave them is not
        accepted. Bounds on both sides also weigh how likely each explanation is.
    never_suspect
        bool, shape (n_streams,): meters that are not suspected.
    at_most
        Errors named in one window at most.

    Returns
    -------
    Found

    Raises
    ------
    BalanceError
        If the arrays or options do not make sense.

    Notes
    -----
    While the largest |z_h| exceeds the threshold, its error joins those taken out, and all statistics are computed
    anew with the errors so far as unknowns (serial compensation, Narasimhan & Mah 1987, here with all sizes estimated
    together, Keller et al. 1994). An explanation that leads outside the bounds gives way to the next (Serth & Heenan
    1986). With finite bounds on every stream the candidates are ranked by the evidence of a true value anywhere
    between them, log E_h = z_h^2 / 2 + log(std_h / (high_h - low_h)).

    References
    ----------
    Narasimhan, Mah (1987), AIChE J. 33, 1514. Serth, Heenan (1986), AIChE J. 32, 733. Keller, Darouach, Krzakala
    (1994), Comput. Chem. Eng. 18, 1001. Bagajewicz, Jiang (1998), Comput. Chem. Eng. 22, 1789 (equivalent sets).

    Examples
    --------
    >>> from processing.balance import identify_gross_errors
    >>> found = identify_gross_errors([[1, -1, 0], [0, 1, -1]], [10.0, 12.0, 10.1], std=0.1, hypotheses=["bias"])
    >>> found.suspects.tolist(), found.bias.round(2).tolist()
    ([False, True, False], [0.0, 1.95, 0.0])
    """
    if isinstance(incidence, Network):
        if std is not None or covariance is not None:
            raise BalanceError("a prepared network has its std already")
        plain = (
            Network(incidence.incidence, incidence.std, incidence.covariance, None) if incidence.bounds else incidence
        )
        result = plain.reconcile(measured, rhs=rhs)
        bounds = incidence.bounds if bounds is None else bounds
    else:
        result = reconcile(incidence, measured, std, covariance=covariance, rhs=rhs)
    return find_gross_errors(
        result, alpha=alpha, hypotheses=hypotheses, bounds=bounds, never_suspect=never_suspect, at_most=at_most
    )


def find_gross_errors(
    result: Result,
    *,
    alpha: float = 0.05,
    hypotheses: Sequence[str] = ("bias", "leak"),
    bounds: Sequence[npt.ArrayLike] | None = None,
    never_suspect: npt.ArrayLike | None = None,
    at_most: int | None = None,
    threshold: float | None = None,
) -> Found:
    """Name biased meters and leaking nodes in a reconciliation already made, linear or nonlinear.

    Parameters
    ----------
    result
        From `reconcile`, `Network.reconcile` (without bounds) or `reconcile_nonlinear`; a nonlinear one is searched in
        its constraints as linearised where it came to rest.
    alpha, hypotheses, bounds, never_suspect, at_most
        As in `identify_gross_errors`.
    threshold
        What |z| must exceed, instead of the one that keeps `alpha`, whose simulation takes longer than the search:
        `Found.threshold` of an earlier window with the same meters, where constraints are linearised anew each time.

    Returns
    -------
    Found

    Raises
    ------
    BalanceError
        If an option does not make sense.

    Examples
    --------
    >>> from processing.balance import find_gross_errors, reconcile
    >>> found = find_gross_errors(reconcile([[1, -1, 0], [0, 1, -1]], [10.0, 10.1, 10.1], std=0.1))
    >>> bool(found.suspects.any()), bool(found.leaks.any())
    (False, False)
    """
    n_streams = result.measured.shape[-1]
    rules = _rules(alpha, hypotheses, never_suspect, at_most, inputs.checked_bounds(bounds, n_streams), n_streams)
    rules = replace(rules, threshold=threshold)
    table = _Table(result)
    for part in result.parts:
        table.search(part, rules)
    return Found(table)


def _rules(
    alpha: float,
    kinds: Sequence[str],
    never: npt.ArrayLike | None,
    at_most: int | None,
    bounds: tuple[Floats, Floats] | None,
    n_streams: int,
) -> Rules:
    """Check the options."""
    if not isinstance(alpha, Real) or not 0.0 < alpha < 1.0:
        raise BalanceError(f"alpha must be between 0 and 1, got {alpha!r}")
    if at_most is not None and at_most < 1:
        raise BalanceError(f"at_most must be at least 1, got {at_most}")
    if isinstance(kinds, str) or not len(kinds) or any(kind not in KINDS for kind in kinds):
        raise BalanceError(f"hypotheses must be one or more of {KINDS}, got {kinds!r}")
    mask = None if never is None else np.asarray(never)
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != (n_streams,)):
        raise BalanceError(f"never_suspect must be bool of shape ({n_streams},), got {mask.dtype} of {mask.shape}")
    return Rules(alpha, tuple(kinds), mask, at_most, bounds)


class _Table:
    """The answer while it is filled: windows by streams, and windows by nodes."""

    def __init__(self, result: Result) -> None:
        self.result = result
        n_windows = result.n_windows
        by_stream, by_node = (n_windows, result.measured.shape[-1]), (n_windows, result.n_nodes)
        self.suspects, self.leaks = np.zeros(by_stream, dtype=bool), np.zeros(by_node, dtype=bool)
        self.compensated = np.zeros(by_stream, dtype=bool)
        self.size = (np.zeros(by_stream), np.zeros(by_node))
        self.spread = (np.zeros(by_stream), np.zeros(by_node))
        self.reconciled = np.array(result.reconciled.reshape(by_stream))
        self.statistic, self.threshold = np.zeros(n_windows), np.full(n_windows, np.inf)
        self.tested: list[tuple[Hypotheses, Part]] = []

    def search(self, part: Part, rules: Rules) -> None:
        """Search the windows of one pattern, some at a time."""
        errors = hypotheses_of(part.projection, rules.kinds, rules.never_suspect)
        self.tested.append((errors, part))
        if errors.count:
            search = Search(errors, rules)
            self.threshold[part.windows] = search.limit
            for first in range(0, len(part.windows), TOGETHER):
                some = Part(part.projection, part.windows[first : first + TOGETHER])
                self._search_some(search, some)
        if rules.bounds is not None:
            self._keep_inside(part, rules.bounds)

    def _search_some(self, search: Search, part: Part) -> None:
        """Test some windows, and take errors out of those that alarm."""
        scores = search.errors.scores(self.result.residual(part))
        magnitude = scores * search.per_std
        largest = np.maximum(magnitude.max(axis=1), -magnitude.min(axis=1))
        self.statistic[part.windows] = largest
        alarmed = np.flatnonzero(largest > search.limit)
        for k in self._search_alike(search, alarmed, scores, part.windows):
            window = int(part.windows[k])
            self._write(window, search.run(scores[k], self.reconciled[window]), search)

    def _search_alike(self, search: Search, alarmed: Ints, scores: Floats, windows: Ints) -> Ints:
        """Deal together with windows whose one error is the same, as a bias that lasts is; return those left over."""
        if search.bounds is not None or len(alarmed) < ALIKE:
            return alarmed
        first = abs(scores[alarmed] * (search.per_std * search.leads)).argmax(axis=1)
        left = []
        for h in np.unique(first).tolist():
            some = alarmed[first == h]
            steps, more = search.first_step(h, scores[some])
            left.append(some[more])
            alone, step = windows[some[~more]], steps[~more]
            direction = search.direction(h)
            self.reconciled[alone] += step[:, None] * direction.relief
            length = direction.response[h]
            self._enter(alone, h, step / length, 1.0 / length, search)
        return np.sort(np.concatenate(left)) if left else alarmed

    def _keep_inside(self, part: Part, bounds: tuple[Floats, Floats]) -> None:
        """Hold windows in which no error was taken out to the bounds."""
        for k in part.windows:
            x = self.reconciled[k]
            if ((x < bounds[0]) | (x > bounds[1])).any() and not (self.suspects[k].any() or self.leaks[k].any()):
                self.reconciled[k] = move_inside(x, bounds, part.projection.covariance_of, int(k))

    def _write(self, window: int, taken: Taken, search: Search) -> None:
        """Enter what was taken out of one window, for every member of each group."""
        self.reconciled[window] = taken.reconciled
        for chosen, size, spread in zip(taken.errors, taken.sizes, taken.spreads, strict=True):
            self._enter(window, chosen, size, spread, search)

    def _enter(self, windows: Any, chosen: int, size: Any, spread: Any, search: Search) -> None:
        """Enter one error of one window or several, for every member of its group."""
        errors = search.errors
        biases = len(errors.streams)
        if chosen < biases:
            self.compensated[windows, errors.streams[chosen]] = True
        for h, share in search.members(chosen):
            kind, at = (0, errors.streams[h]) if h < biases else (1, errors.nodes[h - biases])
            (self.suspects, self.leaks)[kind][windows, at] = True
            self.size[kind][windows, at] = size * share
            self.spread[kind][windows, at] = spread * abs(share)
