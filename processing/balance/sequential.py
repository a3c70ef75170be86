"""Errors that one window cannot show, found over many windows.

Here: `MeterWatch`, fed with the reconciliation of each window. Not here: the tests of one window (gross.py), the CUSUM
itself (cusum.py). The main path: `MeterWatch.update`.

An honest meter's error has a part that stays (its systematic share) and a part that averages out. Two findings follow,
and are kept apart:

- `beyond_u95`: over many windows the meter differs from what the balances say by more than the std of the systematic
  parts, its own and its neighbours', allows. It may always have done so.
- `changed`: the meter differs from its own baseline by more than the random parts allow. What stays cancels, so a
  change far inside the u95 shows; but nothing is said about who was right before.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

import numpy as np

from processing.balance.cusum import Cusum, cusum_limit
from processing.balance.errors import BalanceError
from processing.balance.found import Found
from processing.balance.gross import find_gross_errors
from processing.balance.hypotheses import hypotheses_of
from processing.balance.inputs import Bools, Floats, as_floats
from processing.balance.projection import Projection
from processing.balance.result import Part, Result
from processing.balance.statistics import sidak_limit

CONFIRMED = 0.01
"""Once a CUSUM alarmed, errors are named from the windows since the change at this alpha."""

MOST = 2.0
"""Sums stop growing at this multiple of the limit, so that a finding ends soon after its cause."""

FACTORS_KEPT = 8
"""Factors kept for linear networks: silent meters come and go."""

LONGEST = 10
"""The baseline grows to this many times its first length."""


@dataclass(frozen=True)
class Finding:
    """One error found over time.

    Parameters
    ----------
    kind
        "changed": differs from its own baseline; "beyond_u95": differs by more than all u95 allow.
    streams
        The meter, with all whose error the balances cannot tell from its.
    bias, bias_std
        Measured minus true for the first of `streams` [unit of the stream]; for "changed" the change.
    statistic, limit
        |bias| / std, and what it must exceed.
    windows
        Over how many windows it was found: for "changed" those since the change, its delay.
    """

    kind: Literal["changed", "beyond_u95"]
    streams: tuple[int, ...]
    bias: float
    bias_std: float
    statistic: float
    limit: float
    windows: int


@dataclass(frozen=True)
class WatchRules:
    """How a watch decides.

    Parameters
    ----------
    baseline_windows
        Windows that a meter's own baseline is the mean of.
    mean_windows
        Windows that are averaged before the mean is compared with what the u95 allow.
    slack
        k of the CUSUM [std of one window]: changes of twice this are found soonest.
    windows_between_alarms
        Windows between false findings of a change, all meters together, on average at least.
    alpha
        Probability that a network whose meters keep their u95 is ever said to be beyond them.
    random_floor
        The random std counts at least this share of the whole std: no meter repeats itself exactly.

    Raises
    ------
    BalanceError
        If a number of windows is not whole or below 1, or another rule outside its range.
    """

    baseline_windows: int = 60
    mean_windows: int = 60
    slack: float = 0.5
    windows_between_alarms: float = 20_000.0
    alpha: float = 0.01
    random_floor: float = 0.1

    def __post_init__(self) -> None:
        for name in ("baseline_windows", "mean_windows"):
            number = getattr(self, name)
            if not isinstance(number, Integral) or number < 1:
                raise BalanceError(f"{name} must be a whole number of at least 1, got {number!r}")
        ranges = {"slack": (0.0, np.inf), "windows_between_alarms": (1.0, np.inf), "alpha": (0.0, 1.0),
                  "random_floor": (0.0, 1.0)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, Real) or not low < float(value) < high:
                raise BalanceError(f"{name} must be between {low:g} and {high:g}, got {value!r}")


class _Window(NamedTuple):
    """Errors of one window, 0 where silent, and which meters spoke; shape (n_streams,) each."""

    error: Floats
    measured: Bools


@dataclass
class MeterWatch:
    """Follows a network's meters from window to window.

    Parameters
    ----------
    n_streams
        Number of streams (variables).
    rules
        How it decides.

    Notes
    -----
    What a window tells of the errors is its adjustments: A (y + a) = b, so that minus the mean adjustment is, as far
    as balances see, the mean error. The mean over N windows is tested as one window whose std is
    sqrt(systematic^2 + random^2 / N); the difference of a mean over n windows from the baseline's over m as one of
    std random sqrt(1 / n + 1 / m). Which windows: since the CUSUM of a meter's test left zero. Means are over windows
    with the same meters. Where one of those that the baseline knows is silent, windows are compared without it; where
    one speaks that the baseline does not know, nothing is compared until as many windows in a row as a baseline takes
    have it: then all is learned anew from them. Where windows vary more than `std_random` says while the baseline is
    learned (flows that are not steady), it is widened by as much.

    Examples
    --------
    >>> import numpy as np
    >>> from processing.balance import prepare
    >>> from processing.balance.sequential import MeterWatch, WatchRules
    >>> rng = np.random.default_rng(0)
    >>> network = prepare([[1, -1, 0], [0, 1, -1]], std=1.0)
    >>> watch = MeterWatch(3, WatchRules(baseline_windows=20))
    >>> for k in range(60):
    ...     flows = 50.0 + 0.5 * rng.standard_normal(3) + [0.0, 1.5 * (k >= 40), 0.0]
    ...     findings = watch.update(network.reconcile(flows), std_random=0.5, std_systematic=0.87)
    >>> [(finding.kind, finding.streams) for finding in findings]
    [('changed', (1,))]
    """

    n_streams: int
    rules: WatchRules = field(default_factory=WatchRules)
    _usual: Bools | None = None
    _sum: Floats = field(default_factory=lambda: np.zeros(0))
    _count: int = 0
    _young: int = 0
    _dispersion: float = 1.0
    _cusum: Cusum = field(default_factory=lambda: Cusum.start(0))
    _recent: deque[_Window] = field(default_factory=deque)
    _limit: float = 0.0
    _source: Any = None
    _kept: dict[bytes, Projection] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sum = np.zeros(self.n_streams)
        self._cusum = Cusum.start(self.n_streams)

    def update(self, result: Result, std_random: Any, std_systematic: Any) -> list[Finding]:
        """Take in one window; return what is found up to now.

        Parameters
        ----------
        result
            Of one window, from `reconcile` or `reconcile_nonlinear`, with the whole std.
        std_random
            Std of what averages out from window to window, shape (n_streams,) or one number [unit of the stream].
        std_systematic
            Std of what stays, likewise.

        Returns
        -------
        list of Finding
            Standing findings, the clearest first; empty while the baseline is being learned.

        Raises
        ------
        BalanceError
            If `result` has more than one window or another number of streams, or a std is negative.
        """
        if result.measured.shape != (self.n_streams,):
            raise BalanceError(f"update takes one window of {self.n_streams} streams, got {result.measured.shape}")
        stays, varies = self._std(std_systematic, "std_systematic"), self._std(std_random, "std_random")
        varies = np.maximum(varies, self.rules.random_floor * np.hypot(varies, stays))
        projection = result.parts[0].projection
        window = _Window(np.where(projection.measured, -result.adjustment, 0.0), projection.measured.copy())
        self._recent.append(window)
        if self._usual is None or self._is_new(window.measured):
            self._begin(projection, varies)
            return []
        if self._count < self.rules.baseline_windows:
            self._drop_old(steady=False)
            if self._is_usual(window):
                self._learn(window.error, projection, varies)
            return []
        varies = varies * self._dispersion
        findings = [] if self._has_unknown(window.measured) else self._changes(projection, window.error, varies)
        self._drop_old(steady=self._cusum.largest.max() < 0.5 * self._limit)
        alike = self._alike(window.measured)
        if len(alike) >= self.rules.mean_windows:
            findings += self._beyond(projection, alike, varies, stays)
        return findings

    def _std(self, std: Any, name: str) -> Floats:
        """Return a std of every stream, shape (n_streams,)."""
        values = as_floats(std, name)
        if values.shape not in ((), (self.n_streams,)) or not (values >= 0.0).all():
            raise BalanceError(f"{name} must be {self.n_streams} numbers from 0 on, or one, got {std!r:.80}")
        return np.broadcast_to(values, (self.n_streams,))

    def _is_usual(self, window: _Window) -> bool:
        """Whether a window has the meters of the baseline."""
        return bool((window.measured == self._usual).all())

    def _has_unknown(self, measured: Bools) -> bool:
        """Whether a meter speaks that the baseline does not know."""
        return bool((measured & ~np.asarray(self._usual)).any())

    def _is_new(self, measured: Bools) -> bool:
        """Whether these meters are to be learned anew, for they have been so for longer than what is learned now.

        While a baseline is learned, any others; later such as it does not know.
        """
        learned = self._count < self.rules.baseline_windows
        if bool((measured == self._usual).all()) or not (learned or self._has_unknown(measured)):
            return False
        return self._run_of(measured) > (self._count if learned else self.rules.baseline_windows)

    def _run_of(self, measured: Bools) -> int:
        """Return how many of the latest windows in a row have these meters."""
        count = 0
        for window in reversed(self._recent):
            if not (window.measured == measured).all():
                break
            count += 1
        return count

    def _alike(self, measured: Bools) -> list[Floats]:
        """Return the errors of the recent windows with these meters, the oldest first."""
        return [window.error for window in self._recent if (window.measured == measured).all()]

    def _begin(self, projection: Projection, varies: Floats) -> None:
        """Learn anew, from the latest windows that have the present meters."""
        count = min(self._run_of(projection.measured), self.rules.baseline_windows)
        latest = list(self._recent)[-count:]
        self.forget()
        self._usual = projection.measured.copy()
        for window in latest:
            self._recent.append(window)
            self._learn(window.error, projection, varies)

    def _learn(self, error: Floats, pattern: Projection, varies: Floats) -> None:
        """Take one window into the baseline; with the last, see whether windows vary more than the std say."""
        self._sum += error
        self._count += 1
        self._young += 1
        if self._count == self.rules.baseline_windows:
            projection = self._factors(pattern, varies)
            about = np.array(self._alike(projection.measured)[-self._count :]) - self._sum / self._count
            freedom = projection.degrees_of_freedom * max(len(about) - 1, 1)
            squares = float(projection.objective(projection.residual(about, None)).sum())
            self._dispersion = float(np.sqrt(max(1.0, squares / freedom))) if freedom else 1.0

    def _drop_old(self, *, steady: bool) -> None:
        """Drop windows too old for a mean; while nothing is afoot they sharpen the baseline."""
        rules = self.rules
        while len(self._recent) > max(rules.mean_windows, rules.baseline_windows):
            oldest = self._recent.popleft()
            if not self._is_usual(oldest):
                continue
            if self._young:
                self._young -= 1
            elif steady and self._count < LONGEST * rules.baseline_windows:
                self._sum += oldest.error
                self._count += 1

    def _changes(self, pattern: Projection, error: Floats, varies: Floats) -> list[Finding]:
        """Test this window, and those since a change, against the baseline."""
        baseline = np.where(pattern.measured, self._sum / self._count, 0.0)
        errors = hypotheses_of(self._factors(pattern, varies), ("bias",), None)
        z = np.full(self.n_streams, np.nan)
        if errors.count:
            residual = pattern.residual((error - baseline)[None], None)
            z[errors.streams] = errors.scores(residual)[0] / np.sqrt(errors.information)
            if not self._limit:
                self._limit = cusum_limit(self.rules.windows_between_alarms * len(errors.leaders), self.rules.slack)
        slack = self.rules.slack + 1.0 / np.sqrt(self._count)  # the baseline errs by that much, in one direction
        self._cusum = self._cusum.step(z, slack, MOST * self._limit)
        if not self._limit or self._cusum.largest.max() <= self._limit:
            return []
        clearest = int(self._cusum.largest.argmax())
        since = list(self._recent)[-int(self._cusum.windows[clearest]) or -1 :]
        latest = [window.error for window in since if (window.measured == pattern.measured).all()]
        spread = varies * np.sqrt(1.0 / len(latest) + 1.0 / self._count)
        found = _search(self._factors(pattern, spread), np.mean(latest, axis=0) - baseline, CONFIRMED)
        return _findings("changed", found, int(self._cusum.windows[clearest]))

    def _beyond(self, pattern: Projection, alike: list[Floats], varies: Floats, stays: Floats) -> list[Finding]:
        """Test the mean of the latest windows with the same meters against what systematic errors allow."""
        n = self.rules.mean_windows
        mean = np.mean(alike[-n:], axis=0)
        projection = self._factors(pattern, np.sqrt(stays**2 + varies**2 / n))
        found = _search(projection, mean, self.rules.alpha)
        return _findings("beyond_u95", found, n)

    def _factors(self, pattern: Projection, spread: Floats) -> Projection:
        """Factor the balances for one std; kept while the balances are the same (linear networks)."""
        if pattern.source is not self._source:
            self._source = pattern.source
            self._kept.clear()
        key = pattern.measured.tobytes() + spread.tobytes()
        if key not in self._kept:
            if len(self._kept) >= FACTORS_KEPT:
                self._kept.clear()
            self._kept[key] = pattern.reweighed(spread)
        return self._kept[key]

    def forget(self) -> None:
        """Learn the baseline anew: after a meter was calibrated or replaced."""
        self._sum = np.zeros(self.n_streams)
        self._count, self._young, self._usual = 0, 0, None
        self._recent.clear()
        self._cusum = Cusum.start(self.n_streams)

    def state(self) -> dict[str, Any]:
        """Return everything learned, as JSON can hold it."""
        c = self._cusum
        return {
            "usual": None if self._usual is None else self._usual.tolist(),
            "sum": self._sum.tolist(),
            "dispersion": self._dispersion,
            "count": self._count,
            "young": self._young,
            "up": c.up.tolist(),
            "down": c.down.tolist(),
            "up_windows": c.up_windows.tolist(),
            "down_windows": c.down_windows.tolist(),
            "recent": [window.error.tolist() for window in self._recent],
            "measured": [window.measured.tolist() for window in self._recent],
            "limit": self._limit,
        }

    @classmethod
    def restored(cls, state: dict[str, Any], rules: WatchRules | None = None) -> MeterWatch:
        """Return a watch that goes on where `state()` was taken."""
        watch = cls(len(state["sum"]), rules or WatchRules())
        watch._usual = None if state["usual"] is None else np.array(state["usual"], dtype=bool)
        watch._sum, watch._dispersion = np.array(state["sum"]), float(state["dispersion"])
        watch._count, watch._young, watch._limit = int(state["count"]), int(state["young"]), float(state["limit"])
        ups, downs = np.array(state["up_windows"], dtype=np.int64), np.array(state["down_windows"], dtype=np.int64)
        watch._cusum = Cusum(np.array(state["up"]), np.array(state["down"]), ups, downs)
        watch._recent = deque(
            _Window(np.array(error), np.array(measured, dtype=bool))
            for error, measured in zip(state["recent"], state["measured"], strict=True))
        return watch


def _search(projection: Projection, error: Floats, alpha: float) -> Found:
    """Search mean errors, shape (n_streams,), as one window of the std that the projection was made with."""
    values = np.where(projection.measured, error, np.nan)
    part = Part(projection, np.zeros(1, dtype=np.int64))
    result = Result(values, projection.solve(values[None], None), None, [part])
    # Sidak's limit is a little high for correlated tests, and needs no simulation for each window's own std
    limit = sidak_limit(alpha, max(int(projection.redundant.sum()), 1))
    return find_gross_errors(result, hypotheses=("bias",), threshold=limit)


def _findings(kind: Literal["changed", "beyond_u95"], found: Found, windows: int) -> list[Finding]:
    """List what a search found, the clearest first."""
    groups = {j: tuple(k for what, k in group if what == "stream") for group in found.classes for _, j in group}
    listed = []
    for j in np.flatnonzero(found.compensated).tolist():
        others = tuple(k for k in groups.get(j, (j,)) if k != j)
        bias, spread = float(found.bias[j]), float(found.bias_std[j])
        listed.append(Finding(kind, (j, *others), bias, spread, abs(bias) / spread, found.threshold, windows))
    return sorted(listed, key=lambda finding: -finding.statistic)
