"""Which meters are biased and which nodes leak, several at once, with the estimates and what cannot be told apart.

Here: `identify_gross_errors`, serial compensation with the generalised likelihood ratio. Not here: the hypotheses
and their threshold (hypotheses.py), what shows only over many windows (sequential.py). The main path: `_Search.run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.balance import inputs
from processing.balance.bounds import move_inside
from processing.balance.errors import BalanceError
from processing.balance.hypotheses import KINDS, SPENT, Hypotheses, hypotheses_of
from processing.balance.inputs import Bools, Floats, Ints, Matrix
from processing.balance.network import Network, reconcile
from processing.balance.result import Part, Result


@dataclass(frozen=True, eq=False)
class Found:
    """Suspects and what follows from taking them out.

    Shapes: "as measured" is (n_streams,) for one window or (n_windows, n_streams); "by node" (n_nodes,) or
    (n_windows, n_nodes); "per window" a number or (n_windows,). Values are in the unit of their stream or node.

    Parameters
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
    classes
        Groups of ("stream", j) and ("node", i) that the balances cannot tell apart, with all meters that the first
        window has; `classes_of` gives another window's.
    reconciled
        as measured: after compensation; NaN where unobservable.
    statistic
        per window: the largest |z| of any hypothesis, before compensation.
    threshold
        per window: what it must exceed for an alarm.
    bias_test, leak_test
        as measured, by node: |z| of each hypothesis before compensation; NaN where it cannot show.
    """

    suspects: Bools
    leaks: Bools
    compensated: Bools
    bias: Floats
    bias_std: Floats
    leak_size: Floats
    leak_std: Floats
    classes: list[list[tuple[str, int]]]
    reconciled: Floats
    statistic: Any
    threshold: Any
    bias_test: Floats
    leak_test: Floats
    uncompensated: Result = field(repr=False)
    tested: list[tuple[Hypotheses, Ints]] = field(repr=False)

    def classes_of(self, window: int) -> list[list[tuple[str, int]]]:
        """Return the groups that the balances cannot tell apart with the meters of one window."""
        for hypotheses, windows in self.tested:
            if window in windows:
                return hypotheses.classes()
        raise IndexError(f"no window {window}")


@dataclass(frozen=True)
class Rules:
    """What `identify_gross_errors` was asked.

    Parameters
    ----------
    alpha
        Probability that a clean window raises any alarm.
    kinds
        Of "bias", "leak".
    never_suspect
        bool, shape (n_streams,), or None.
    at_most
        Errors named in one window at most; None: as many as the balances can tell.
    bounds
        (low, high), each shape (n_streams,), or None.
    threshold
        What |z| must exceed; None: what keeps `alpha`.
    """

    alpha: float = 0.05
    kinds: tuple[str, ...] = ("bias", "leak")
    never_suspect: Bools | None = None
    at_most: int | None = None
    bounds: tuple[Floats, Floats] | None = None
    threshold: float | None = None


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
    return table.found()


def _rules(
    alpha: float,
    kinds: Sequence[str],
    never: npt.ArrayLike | None,
    at_most: int | None,
    bounds: tuple[Floats, Floats] | None,
    n_streams: int,
) -> Rules:
    """Check the options."""
    if not 0.0 < alpha < 1.0:
        raise BalanceError(f"alpha must be between 0 and 1, got {alpha}")
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
        self.single = result.measured.ndim == 1
        n_windows = result.n_windows
        by_stream, by_node = (n_windows, result.measured.shape[-1]), (n_windows, result.n_nodes)
        self.suspects, self.leaks = np.zeros(by_stream, dtype=bool), np.zeros(by_node, dtype=bool)
        self.compensated = np.zeros(by_stream, dtype=bool)
        self.size = (np.zeros(by_stream), np.zeros(by_node))
        self.spread = (np.zeros(by_stream), np.zeros(by_node))
        self.test = (np.full(by_stream, np.nan), np.full(by_node, np.nan))
        self.reconciled = np.array(result.reconciled.reshape(by_stream))
        self.statistic, self.threshold = np.zeros(n_windows), np.full(n_windows, np.inf)
        self.tested: list[tuple[Hypotheses, Ints]] = []

    def search(self, part: Part, rules: Rules) -> None:
        """Search the windows of one pattern."""
        errors = hypotheses_of(part.projection, rules.kinds, rules.never_suspect)
        self.tested.append((errors, part.windows))
        if errors.count:
            scores = errors.scores(self.result.residual(part))
            magnitude = abs(scores) / np.sqrt(errors.information)
            biases = len(errors.streams)
            self.test[0][np.ix_(part.windows, errors.streams)] = magnitude[:, :biases]
            self.test[1][np.ix_(part.windows, errors.nodes)] = magnitude[:, biases:]
            self.statistic[part.windows] = magnitude.max(axis=1)
            self.threshold[part.windows] = limit = (
                errors.threshold(rules.alpha) if rules.threshold is None else rules.threshold
            )
            search = _Search(errors, rules, limit)
            for k in np.flatnonzero(magnitude.max(axis=1) > limit):
                self._write(int(part.windows[k]), search.run(scores[k], self.reconciled[part.windows[k]]), errors)
        if rules.bounds is not None:
            self._keep_inside(part, rules.bounds)

    def _keep_inside(self, part: Part, bounds: tuple[Floats, Floats]) -> None:
        """Hold windows in which no error was taken out to the bounds."""
        for k in part.windows:
            x = self.reconciled[k]
            if ((x < bounds[0]) | (x > bounds[1])).any() and not (self.suspects[k].any() or self.leaks[k].any()):
                self.reconciled[k] = move_inside(x, bounds, part.projection.covariance_of, int(k))

    def _write(self, window: int, taken: _Taken, errors: Hypotheses) -> None:
        """Enter what was taken out of one window, for every member of each group."""
        self.reconciled[window] = taken.reconciled
        scale = np.sqrt(errors.information)
        for chosen, size, spread in zip(taken.errors, taken.sizes, taken.spreads, strict=True):
            if chosen < len(errors.streams):
                self.compensated[window, errors.streams[chosen]] = True
            response = errors.response(chosen)
            for h in np.flatnonzero(errors.group == errors.group[chosen]):
                kind, at = (
                    (0, errors.streams[h]) if h < len(errors.streams) else (1, errors.nodes[h - len(errors.streams)])
                )
                (self.suspects, self.leaks)[kind][window, at] = True
                self.size[kind][window, at] = size * np.sign(response[h]) * scale[chosen] / scale[h]
                self.spread[kind][window, at] = spread * scale[chosen] / scale[h]

    def found(self) -> Found:
        """Return the filled table in the shape of what was given."""

        def out(values: npt.NDArray[Any]) -> Any:
            return values[0] if self.single else values

        return Found(
            suspects=out(self.suspects),
            leaks=out(self.leaks),
            compensated=out(self.compensated),
            bias=out(self.size[0]),
            bias_std=out(self.spread[0]),
            leak_size=out(self.size[1]),
            leak_std=out(self.spread[1]),
            classes=self.tested[0][0].classes() if self.tested else [],
            reconciled=out(self.reconciled),
            statistic=float(self.statistic[0]) if self.single else self.statistic,
            threshold=float(self.threshold[0]) if self.single else self.threshold,
            bias_test=out(self.test[0]),
            leak_test=out(self.test[1]),
            uncompensated=self.result,
            tested=self.tested,
        )


@dataclass(frozen=True, eq=False)
class _Taken:
    """What was taken out of one window: hypotheses, their sizes and stds, the reconciled values without them."""

    errors: list[int]
    sizes: Floats
    spreads: Floats
    reconciled: Floats


class _Search:
    """Serial compensation for windows of one pattern; responses of the hypotheses are kept between windows."""

    def __init__(self, errors: Hypotheses, rules: Rules, limit: float) -> None:
        self.errors = errors
        self.limit = limit
        self.bounds = rules.bounds
        self.most = min(errors.projection.degrees_of_freedom, rules.at_most or errors.count)
        self.leads = np.zeros(errors.count, dtype=bool)
        self.leads[errors.leaders] = True
        self.range = self._range()
        self._response: dict[int, Floats] = {}
        self._relief: dict[int, Floats] = {}

    def run(self, scores: Floats, reconciled: Floats) -> _Taken:
        """Take errors out of one window until none is above the limit.

        `basis` holds, for each error taken, its response made orthogonal to those before (Gram-Schmidt in the metric
        of L); `part` how much of it the window shows, `relief` what taking one unit of it changes.
        """
        information, score, x = self.errors.information.copy(), scores.copy(), reconciled
        taken: list[int] = []
        basis: list[Floats] = []
        parts: list[float] = []
        reliefs: list[Floats] = []
        while len(taken) < self.most:
            for h in self._candidates(score, information, taken):
                direction, relief = self._orthogonal(h, basis, reliefs)
                step = score[h] / np.sqrt(information[h])
                if self._inside(x + step * relief):
                    break
            else:
                break
            taken.append(h)
            basis.append(direction)
            parts.append(step)
            reliefs.append(relief)
            x, score = x + step * relief, score - step * direction
            information = information - direction**2
        triangle = np.array([[row[h] for h in taken] for row in basis]).reshape(len(taken), len(taken))
        inverse = np.linalg.inv(np.triu(triangle))
        return _Taken(taken, inverse @ np.array(parts), np.sqrt((inverse**2).sum(axis=1)), x)

    def _candidates(self, score: Floats, information: Floats, taken: list[int]) -> list[int]:
        """Hypotheses above the limit, the likeliest first."""
        live = self.leads & (information > SPENT * self.errors.information)
        live[taken] = False
        z = np.where(live, abs(score), 0.0) / np.sqrt(np.where(live, information, 1.0))
        above = np.flatnonzero(z > self.limit)
        rank = 0.5 * z[above] ** 2
        if self.range is not None:
            rank -= np.log(np.sqrt(information[above]) * self.range[above])
        order: list[int] = above[np.argsort(-rank, kind="stable")].tolist()
        return order

    def _orthogonal(self, h: int, basis: list[Floats], reliefs: list[Floats]) -> tuple[Floats, Floats]:
        """Return the response and the relief of h, less what the errors taken before account for, to unit length."""
        if h not in self._response:
            self._response[h] = self.errors.response(h)
            self._relief[h] = self.errors.relief(h)
        direction, relief = self._response[h], self._relief[h]
        for row, before in zip(basis, reliefs, strict=True):
            relief = relief - row[h] * before
            direction = direction - row[h] * row
        length = np.sqrt(direction[h])
        return direction / length, relief / length

    def _inside(self, x: Floats) -> bool:
        """Whether reconciled values keep the bounds."""
        return self.bounds is None or not ((x < self.bounds[0]) | (x > self.bounds[1])).any()

    def _range(self) -> Floats | None:
        """How far apart each hypothesis' bounds are, shape (n_hypotheses,); None unless all are known."""
        if self.bounds is None or len(self.errors.nodes):
            return None
        width = (self.bounds[1] - self.bounds[0])[self.errors.streams]
        return width if (np.isfinite(width) & (width > 0)).all() else None
