"""What the balances contradict over several windows: which meter is biased or which node leaks, and since when.

    Estimate ──► adjustments against their baseline ──► lasting beyond the limit? ──► whose pattern is it? ──► event
                 (baseline.py), leaks (imbalance.py)                                  else: nobody is named

Two findings, both by the generalised likelihood ratio test (for one bias that is the measurement test), both only
where they last for `PERSISTENCE` windows:

- *beyond u95*: the statistic is larger than honest meters of this park show in `FALSE_ALARMS` of all parks;
- *change*: the mean innovation of the last windows is larger than `CHANGE`, and than its own std allows.

Limits. Under honest meters a statistic is standard normal. With n tests (meters and leaks) Bonferroni's bound gives the
first limit, z(FALSE_ALARMS / n): that is a probability for ever, since systematic errors stay. The mean innovation of
the last N = `PERSISTENCE` windows against a baseline of m windows has the variance

    noise (1 / N + 1 / m) + 2 drift

(baseline.py says of what; `Baseline.share` is 1 / m, and the steady state's value once the baseline forgets), and the
second limit is z(FALSE_ALARMS / (n windows a day)) of its roots: `FALSE_ALARMS` bounds the probability of a false
change in a day, all tests together. The noise is the larger of the declared one and the one that the statistic has
shown. So few windows, at a start or after hours without data, make the limit wide and not the alarm false.
`python -m benchmarks.false_alarms` measures both.

Naming. Of one error c, every statistic moves in proportion to its correlation with c's; so c has the largest, and the
others must follow by that pattern (`EXPLAINED`), else it is no single error. Which is the largest is a question to the
statistics without VDI 2048's floor (`_sharpness`), else a neighbour that is checked better would be named. Errors whose
tests are correlated by more than `SAME` form a class that no balance can tell apart:

- one meter, perhaps with nodes: the meter is named (meters err more often than pipes leak), and the class is said;
- nodes alone: a leak;
- several meters: the likeliest stands for the class, which is said; none is taken out. The same imbalance is a smaller
  error, in its own std, for the meter of the larger std: the likelier culprit. Where they all stand on one exchange
  nobody is named: its `volume_mismatch` says it.

A named meter is taken out of the balances, a leaking node loses its balances, and both go on being judged from outside;
they come back when they have followed their baseline again. Meters that are `never_suspect` are never in a class.

Here: those verdicts. The main path enters at `GrossErrors.step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import ndtri

from park.model import Park
from processing.detect.baseline import Baseline, Judged
from processing.detect.events import Change, Closed, Opened
from processing.detect.imbalance import JudgedLeaks, LeakTests
from processing.detect.suspicion import Finding, Teller
from processing.equations import NONE
from processing.estimate import VARIANCE_FLOOR, Estimate
from processing.meters import Bools, Floats
from processing.plan import Plan

FALSE_ALARMS = 1e-3
"""Share of parks with honest meters in which anything is found beyond u95; probability of a false change in a day."""

CHANGE = 2.5
"""std of a meter's whole uncertainty that it must move: 1.3 times its u95. What honest meters do when loads move (their
errors are shares of the reading, the balances mix them) is in no formula; where noise and drift are small it stayed
below 1.5 in the reference park (`python -m benchmarks.false_alarms`)."""

PERSISTENCE = 3
"""Windows that a finding must last, and be gone."""

EXPLAINED = 0.5
"""Share of the largest statistic that a single error may leave unexplained in any other."""

SAME = 0.95
"""Correlation of tests above which two errors cannot be told apart: the difference of their statistics then has a std
of 0.3, a tenth of what is found."""

LEAST_NOISE = 0.05
"""std of a statistic's window-to-window noise at least: no meter repeats itself exactly."""

DAY_S = 86400.0


@dataclass(frozen=True, eq=False)
class _Tests:
    """One window's tests, meters first, then leaks; of shape (n_tests,).

    `believed` are those that a meter in the balances, or a node that has some, stands behind; `sharpness` frees a
    statistic from its floor, 0 where nothing checks; `noise` and `drift` are variances of the innovation.
    """

    statistic: Floats
    innovation: Floats
    noise: Floats
    drift: Floats
    believed: Bools
    sharpness: Floats


@dataclass
class _Open:
    """An event under way: since when, by which finding, against which limit, and the meters of its class."""

    since_us: int
    by_change: bool
    limit: float
    members: list[int] = field(default_factory=list)
    taken_out: bool = True


class GrossErrors:
    """Which meters are biased and which nodes leak; one object a run.

    Parameters
    ----------
    park
        The park.
    plan
        How its meters measure.
    """

    def __init__(self, park: Park, plan: Plan) -> None:
        self._plan, self._n = plan, len(plan.table)
        self._baseline, self._leaks = Baseline(park, plan), LeakTests(park, plan.equations)
        self._teller = Teller(park, plan, self._leaks.leaks)
        n = self._n + len(self._leaks)
        self._suspectable = np.array(
            [not m.never_suspect for m in park.meters] + [True] * len(self._leaks), dtype=np.bool_)
        self.beyond = _limit(n)
        self._per_std = _limit(n * max(DAY_S / park.park.window_s, 1.0))
        self._learn = min(1.0 / PERSISTENCE, park.park.window_s / 3600.0)
        self._seen: Floats = np.zeros(n)
        self._noise: Floats = np.zeros(n)               # variance of the innovation from window to window, as shown
        self._recent: Floats = np.full((PERSISTENCE, n), np.nan)    # innovations, newest last
        self._beyond: Floats = np.full((PERSISTENCE, n), np.nan)    # statistics, newest last
        self._open: dict[int, _Open] = {}

    # -- what follows for the balances ----------------------------------------------------------------------------

    @property
    def flagged(self) -> Bools:
        """Meters that an open event names, bool, shape (n_meters,)."""
        return self._mask([k for k in self._open if k < self._n], self._n)

    @property
    def taken_out(self) -> Bools:
        """Meters that are left out of the balances, bool, shape (n_meters,)."""
        return self._mask([k for k, entry in self._open.items() if k < self._n and entry.taken_out], self._n)

    @property
    def leaking(self) -> tuple[str, ...]:
        """Leaks that are open, each as node and quantity."""
        return tuple(self._teller.leak_name(k - self._n) for k in sorted(self._open) if k >= self._n)

    def rows_of(self, leaking: Mapping[str, Any] | tuple[str, ...]) -> Bools:
        """Return the rows of the equations that such leaks leave open, bool, shape (n_rows,)."""
        rows = [row.row for k, leak in enumerate(self._leaks.leaks) if self._teller.leak_name(k) in leaking
                for row in leak.rows]
        return self._mask(rows, len(self._plan.equations.linear))

    @staticmethod
    def _mask(at: list[int], n: int) -> Bools:
        mask = np.zeros(n, dtype=np.bool_)
        mask[at] = True
        return mask

    # -- one window -----------------------------------------------------------------------------------------------

    def step(self, estimate: Estimate, doubtful: Bools) -> list[Change]:
        """Judge a window; meters in `doubtful` (shape (n_meters,)) are being judged by another detector."""
        if not self._n:
            return []
        judged = self._baseline.judge(estimate)
        leaks = self._leaks.judge(estimate, judged, self._baseline)
        tests = self._tests(estimate, judged, leaks)
        self._recent = np.vstack([self._recent[1:], tests.innovation])
        self._beyond = np.vstack([self._beyond[1:], tests.statistic])
        changes: list[Change] = self._returned(estimate)
        for by_change in (True, False):
            opened = self._named(by_change, tests, judged, leaks, estimate, doubtful)
            if opened is not None:
                changes.append(opened)
                break
        self._learn_noise(tests)
        held = doubtful.copy()
        held[[m for k, entry in self._open.items() for m in (k, *entry.members) if m < self._n]] = True
        self._baseline.learn(judged, held)
        return changes

    def _tests(self, estimate: Estimate, judged: Judged, leaks: JudgedLeaks) -> _Tests:
        """Put the tests of meters and leaks side by side."""
        believed = estimate.believed[: self._n] & (self._plan.slot_variable[: self._n] != NONE)
        closed = np.ones(len(self._leaks), dtype=np.bool_)
        closed[[k - self._n for k in self._open if k >= self._n]] = False
        return _Tests(
            np.concatenate([judged.statistic, leaks.statistic]), np.concatenate([judged.innovation, leaks.innovation]),
            np.concatenate([judged.noise, leaks.noise]), np.concatenate([judged.drift, leaks.drift]),
            np.concatenate([believed, closed & ~np.isnan(leaks.statistic)]),
            np.concatenate([_sharpness(judged), np.ones(len(self._leaks))]))

    def _learn_noise(self, tests: _Tests) -> None:
        """Learn how much the innovations differ from one window to the next."""
        change = 0.5 * np.square(self._recent[-1] - self._recent[-2])
        learned = ~np.isnan(change)
        learned[list(self._open)] = False
        self._seen[learned] += 1
        known = np.maximum(np.maximum(self._noise, np.nan_to_num(tests.noise)), LEAST_NOISE**2)
        capped = np.minimum(change, 9.0 * known)
        rate = np.maximum(self._learn, 1.0 / np.maximum(self._seen, 1.0))
        self._noise[learned] += (rate * (capped - self._noise))[learned]

    def limits(self, tests: _Tests) -> Floats:
        """Return what the mean innovation must exceed, shape (n_tests,)."""
        known = self._baseline.known
        share = self._baseline.share
        youngest = float(share[known].max()) if known.any() else 1.0
        shares = np.concatenate([share, np.full(len(self._leaks), youngest)])
        noise = np.maximum(np.maximum(self._noise, np.nan_to_num(tests.noise)), LEAST_NOISE**2)
        std = np.sqrt(noise * (1.0 / PERSISTENCE + shares) + 2.0 * np.nan_to_num(tests.drift))
        return np.maximum(CHANGE, self._per_std * std)

    # -- naming ---------------------------------------------------------------------------------------------------

    def _named(
        self, by_change: bool, tests: _Tests, judged: Judged, leaks: JudgedLeaks, estimate: Estimate, doubtful: Bools
    ) -> Opened | None:
        """Name the one error that explains what the balances contradict, if there is one."""
        lasting = _lasting(self._recent if by_change else self._beyond)
        limits = self.limits(tests) if by_change else np.full(len(lasting), self.beyond)
        sharp = np.where(tests.believed, lasting * tests.sharpness, 0.0)
        first = int(np.argmax(abs(sharp)))
        pattern = self._pattern(first, judged, leaks, estimate, tests.believed)
        if abs(sharp - pattern * sharp[first]).max() > EXPLAINED * abs(sharp[first]):
            return None
        known = self._baseline.known
        ready = np.concatenate([known & ~doubtful, np.full(len(self._leaks), known.any())])
        same = np.flatnonzero((abs(pattern) > SAME) & tests.believed & self._suspectable)
        meters, nodes = same[same < self._n], same[same >= self._n]
        if self._teller.is_one_exchange(meters) or any(test in self._open for test in same.tolist()):
            return None
        meters = meters[np.argsort(-judged.spread[meters], kind="stable")]
        nodes = nodes[np.argsort(-abs(sharp[nodes]), kind="stable")]
        chosen = next(iter((*meters.tolist(), *nodes.tolist())), None)
        if chosen is None or not ready[chosen] or abs(lasting[chosen]) <= limits[chosen]:
            return None
        finding = Finding(
            chosen, by_change, float(lasting[chosen]), float(limits[chosen]), float(tests.sharpness[chosen]),
            tuple(same.tolist()), pattern)
        return self._opened(finding, judged, leaks, estimate)

    def _opened(self, finding: Finding, judged: Judged, leaks: JudgedLeaks, estimate: Estimate) -> Opened:
        since = estimate.end_us - PERSISTENCE * (estimate.end_us - estimate.start_us)
        meters = [m for m in finding.members if m < self._n]
        self._open[finding.test] = _Open(
            since, finding.by_change, finding.limit, meters, finding.test >= self._n or len(meters) == 1)
        return self._teller.opened(finding, since, judged, leaks, estimate)

    def _pattern(
        self, test: int, judged: Judged, leaks: JudgedLeaks, estimate: Estimate, believed: Bools
    ) -> Floats:
        """Return the correlation of every test with one, shape (n_tests,): how that error shows in the others."""
        n = self._n
        variable = np.where(self._plan.slot_variable[:n] == NONE, 0, self._plan.slot_variable[:n])
        size = judged.std * np.sqrt(judged.spread)
        with np.errstate(invalid="ignore", divide="ignore"):
            if test < n:
                shared = -np.nan_to_num(estimate.covariance[variable[test], variable])
                of_meters = shared / (size * size[test])
                of_leaks = leaks.shift[variable[test]] / size[test]
            else:
                of_meters, of_leaks = leaks.shift[variable, test - n] / size, leaks.alike[:, test - n]
        pattern: Floats = np.nan_to_num(np.concatenate([of_meters, of_leaks]), posinf=0.0, neginf=0.0)
        pattern[~believed] = 0.0
        pattern[test] = 1.0
        return pattern

    # -- coming back ----------------------------------------------------------------------------------------------

    def _returned(self, estimate: Estimate) -> list[Change]:
        """Close the events of what agrees with the balances again."""
        changes: list[Change] = []
        for test, entry in list(self._open.items()):
            recent = (self._recent if entry.by_change else self._beyond)[:, test]
            agrees = not np.isnan(recent).any() and (abs(recent) < 0.5 * entry.limit).all()
            if agrees or self._is_over(test, estimate):
                del self._open[test]
                lasted = PERSISTENCE if agrees else 1
                since = estimate.end_us - lasted * (estimate.end_us - estimate.start_us)
                kind, subject = self._teller.subject(test)
                changes.append(Closed(kind, subject, max(since, entry.since_us), self._teller.aspect(test)))
        return changes

    def _is_over(self, test: int, estimate: Estimate) -> bool:
        """Whether a meter or node is no longer in force."""
        if test < self._n:
            return bool(self._plan.table.valid_to_us[test] <= estimate.start_us)
        return estimate.dormant is not None and bool(estimate.dormant[self._leaks.leaks[test - self._n].rows[0].row])

    # -- state ----------------------------------------------------------------------------------------------------

    def as_json(self) -> dict[str, object]:
        """Return the state for the store, by test."""
        keys = self._teller.keys
        return {
            "baseline": self._baseline.as_json(),
            "tests": {key: [self._seen[k], self._noise[k], _plain(self._recent[:, k]), _plain(self._beyond[:, k])]
                      for k, key in enumerate(keys)},
            "open": {keys[k]: [entry.since_us, entry.by_change, entry.limit, [keys[m] for m in entry.members],
                               entry.taken_out] for k, entry in self._open.items()}}

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Take up the state that `as_json` wrote; what the park no longer has is forgotten."""
        self._baseline.restore(stored["baseline"])
        at = {key: k for k, key in enumerate(self._teller.keys)}
        for key, (seen, noise, recent, beyond) in stored["tests"].items():
            if key in at:
                self._seen[at[key]], self._noise[at[key]] = seen, noise
                self._recent[:, at[key]] = [np.nan if v is None else v for v in recent]
                self._beyond[:, at[key]] = [np.nan if v is None else v for v in beyond]
        self._open = {
            at[key]: _Open(since, by_change, limit, [at[m] for m in members if m in at], taken_out)
            for key, (since, by_change, limit, members, taken_out) in stored["open"].items() if key in at}


def _limit(tests: float) -> float:
    """Return what standard normal statistics exceed in `FALSE_ALARMS` of all cases, so many together (Bonferroni)."""
    return float(-ndtri(0.5 * FALSE_ALARMS / max(tests, 1.0)))


def _lasting(recent: Floats) -> Floats:
    """Return the mean of the last windows where all have one sign and none is below half of it; else 0."""
    with np.errstate(invalid="ignore"):
        mean = recent.mean(axis=0)
        steady = (np.sign(recent) == np.sign(mean)).all(axis=0) & (abs(recent) > 0.5 * abs(mean)).all(axis=0)
    return np.where(steady & ~np.isnan(mean), mean, 0.0)


def _sharpness(judged: Judged) -> Floats:
    """Return what a statistic is multiplied by to be free of its floor, shape (n_meters,); 0 where nothing checks.

    The floor keeps hardly checked meters from being accused; but which meter looks most like the culprit is a
    question to the statistics as they are, else a neighbour that is checked better would be named for it.
    """
    spread = np.where(np.isnan(judged.spread), np.inf, judged.spread)
    with np.errstate(invalid="ignore"):
        sharp = np.sqrt(np.maximum(spread, VARIANCE_FLOOR) / spread)
    return np.asarray(np.nan_to_num(sharp))


def _plain(values: Floats) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]
