"""What the balances contradict over several windows: which meter is biased or which node leaks, and since when.

    Estimate ──► adjustments against their baseline ──► lasting beyond the limit? ──► whose pattern is it? ──► event
                 (baseline.py), leaks (imbalance.py)                                  else: nobody is named

Two findings, both by the generalised likelihood ratio test (for one bias that is the measurement test), both on means
that last, over few windows and over many (memory.py):

- *beyond u95*: the mean statistic is larger than honest meters of this park show in `FALSE_ALARMS` of all parks;
- *change*: the mean innovation is larger than `CHANGE`, and than its own std allows.

Limits. Under honest meters a statistic is standard normal, and of its variance the noise averages out: the mean over N
windows has 1 - noise (1 - 1 / N). With n tests (meters and leaks, both horizons) Bonferroni's bound gives the first
limit, z(FALSE_ALARMS / n) of its roots: that is a probability for ever, since systematic errors stay. The mean
innovation of N windows against a baseline of m windows has the variance

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
  error, in its own std, for the meter of the larger std: the likelier culprit. Where they all settle one exchange
  nobody is named: its `volume_mismatch` says it.

A named meter is taken out of the balances, a leaking node loses its balances, and both go on being judged from outside;
they come back when they have followed their baseline again. Meters that are `never_suspect` are never in a class.

Here: those verdicts. The main path enters at `GrossErrors.step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from itertools import product
from typing import Any

import numpy as np
from scipy.special import ndtri

from park.model import Park
from processing.detect.baseline import Baseline, Judged
from processing.detect.events import Change, Closed, Opened
from processing.detect.imbalance import JudgedLeaks, LeakTests
from processing.detect.memory import LONG, PERSISTENCE, Memory
from processing.detect.suspicion import Finding, Teller
from processing.equations import NONE
from processing.estimate import VARIANCE_FLOOR, Estimate
from processing.meters import Bools, Floats, Ints
from processing.plan import Plan

FALSE_ALARMS = 1e-3
"""Share of parks with honest meters in which anything is found beyond u95; probability of a false change in a day."""

CHANGE = 2.5
"""std of a meter's whole uncertainty that it must move: 1.3 times its u95. What honest meters do when loads move (their
errors are shares of the reading, the balances mix them) is in no formula; where noise and drift are small it stayed
below 1.5 in the reference park (`python -m benchmarks.false_alarms`)."""

EXPLAINED = 0.5
"""Share of the largest statistic that a single error may leave unexplained in any other."""

SAME = 0.95
"""Correlation of tests above which two errors cannot be told apart: the difference of their statistics then has a std
of 0.3, a tenth of what is found."""

BACK = 0.5
"""Share of the limit below which an error is over."""

NO_SYSTEMATIC = 0.98
"""Share of noise in a meter's variance from which on nothing of its error stays: levels, whose errors telescope."""

TRIED = 12
"""Tests whose patterns are tried at most."""

HORIZONS = (False, True)
"""Few windows, many windows: what is found soon is named first."""

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


@dataclass(frozen=True)
class _Look:
    """A way of looking: against the baseline or against what u95 allow, over few windows or many."""

    by_change: bool
    long: bool


@dataclass
class _Open:
    """An event under way: since when, by which look, below what it is over, and the meters of its class."""

    since_us: int
    look: _Look
    back: float
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
        looks = n * len(HORIZONS)
        self.beyond = _limit(looks)
        self._per_std = _limit(looks * max(DAY_S / park.park.window_s, 1.0))
        self._memory = Memory(n, park.park.window_s)
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
        self._memory.add(tests.innovation, tests.statistic, tests.noise, self._open)
        changes: list[Change] = self._returned(estimate)
        for long, by_change in product(HORIZONS, (True, False)):
            opened = self._named(_Look(by_change, long), tests, judged, leaks, estimate, doubtful)
            if opened is not None:
                changes.append(opened)
                break
        if changes:
            self._memory.forget()
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

    def limits(self, tests: _Tests, look: _Look) -> Floats:
        """Return what a lasting mean must exceed, shape (n_tests,)."""
        std = self._std(tests, look)
        return np.asarray(np.maximum(CHANGE, self._per_std * std) if look.by_change else self.beyond * std)

    def _std(self, tests: _Tests, look: _Look) -> Floats:
        """Return the std of the lasting means of honest meters, shape (n_tests,)."""
        of_mean = self._memory.share(long=look.long)
        if not look.by_change:
            noise = np.clip(np.nan_to_num(tests.noise), 0.0, 1.0)
            return np.asarray(np.sqrt(1.0 - noise * (1.0 - of_mean)), dtype=np.float64)
        known, share = self._baseline.known, self._baseline.share
        youngest = float(share[known].max()) if known.any() else 1.0
        shares = np.concatenate([share, np.full(len(self._leaks), youngest)])
        variance = self._memory.noise(tests.noise) * (of_mean + shares) + 2.0 * np.nan_to_num(tests.drift)
        return np.asarray(np.sqrt(variance), dtype=np.float64)

    # -- naming ---------------------------------------------------------------------------------------------------

    def _named(
        self, look: _Look, tests: _Tests, judged: Judged, leaks: JudgedLeaks, estimate: Estimate, doubtful: Bools
    ) -> Opened | None:
        """Name the one error that explains what the balances contradict, if there is one."""
        lasting = self._memory.lasting(by_change=look.by_change, long=look.long)
        limits = self.limits(tests, look)
        sharp = np.where(tests.believed, lasting * tests.sharpness, 0.0)
        std = self._std(tests, look) if look.long else np.ones(len(sharp))
        best: tuple[float, int, Floats] | None = None
        for first in self._candidates(lasting, limits, sharp, look):
            tried = self._pattern(first, judged, leaks, estimate, tests.believed)
            left = float((abs(sharp - tried * sharp[first]) / std).max())
            if left <= EXPLAINED * abs(sharp[first]) / std[first] and (best is None or left < best[0]):
                best = left, first, tried
        if best is None:
            return None
        _, first, pattern = best
        known = self._baseline.known
        ready = np.concatenate([known & ~doubtful, np.full(len(self._leaks), known.any())])
        same = np.flatnonzero((abs(pattern) > SAME) & tests.believed & self._suspectable)
        meters, nodes = same[same < self._n], same[same >= self._n]
        if self._teller.is_one_exchange(meters) or any(test in self._open for test in same.tolist()):
            return None
        meters = self._likeliest(meters, judged, estimate, look)
        nodes = nodes[np.argsort(-abs(sharp[nodes]), kind="stable")]
        chosen = next(iter((*meters.tolist(), *nodes.tolist())), None)
        speaks = first if look.long else chosen      # of a class whose statistics are floored, one that is less so
        if chosen is None or speaks is None or not ready[chosen] or abs(lasting[speaks]) <= limits[speaks]:
            return None
        statistic = abs(float(lasting[speaks])) * float(np.sign(lasting[chosen]))
        finding = Finding(
            chosen, look.by_change, statistic, float(limits[speaks]), float(sharp[chosen]), tuple(same.tolist()),
            pattern, LONG if look.long else PERSISTENCE, float(self._std(tests, _Look(False, look.long))[speaks]))
        back = BACK * float(limits[speaks] * abs(lasting[chosen] / lasting[speaks]))
        return self._opened(finding, look, back, judged, leaks, estimate)

    def _likeliest(self, meters: Ints, judged: Judged, estimate: Estimate, look: _Look) -> Ints:
        """Sort the meters of a class, the likeliest first; over many windows, those without a systematic error last."""
        said = estimate.observation
        share = said.slot_noise[meters] / said.slot_variance[meters]
        stays = (share < NO_SYSTEMATIC) | (not look.long)
        return meters[np.lexsort((-judged.spread[meters], ~stays))]

    def _candidates(self, lasting: Floats, limits: Floats, sharp: Floats, look: _Look) -> list[int]:
        """Return the tests that may be the culprit's own.

        Over few windows that is the one of the largest statistic. Over many, noise has averaged out of some tests and
        not of others, so the largest proves nothing: all beyond their limits are tried, and the best explanation wins.
        """
        if not look.long:
            return [int(np.argmax(abs(sharp)))]
        beyond = np.flatnonzero((abs(lasting) > limits) & (sharp != 0.0))
        return [int(k) for k in beyond[np.argsort(-abs(lasting[beyond] / limits[beyond]), kind="stable")][:TRIED]]

    def _opened(
        self, finding: Finding, look: _Look, back: float, judged: Judged, leaks: JudgedLeaks, estimate: Estimate
    ) -> Opened:
        since = estimate.end_us - PERSISTENCE * (estimate.end_us - estimate.start_us)
        meters = [m for m in finding.members if m < self._n]
        self._open[finding.test] = _Open(
            since, look, back, meters, finding.test >= self._n or len(meters) == 1)
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
            agrees = self._memory.is_within(
                test, entry.back, by_change=entry.look.by_change, long=entry.look.long)
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
            "baseline": self._baseline.as_json(), "tests": self._memory.as_json(keys),
            "open": {keys[k]: [entry.since_us, list(astuple(entry.look)), entry.back, [keys[m] for m in entry.members],
                               entry.taken_out] for k, entry in self._open.items()}}

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Take up the state that `as_json` wrote; what the park no longer has is forgotten."""
        self._baseline.restore(stored["baseline"])
        self._memory.restore(stored["tests"], self._teller.keys)
        at = {key: k for k, key in enumerate(self._teller.keys)}
        self._open = {
            at[key]: _Open(since, _Look(*look), back, [at[m] for m in members if m in at], taken_out)
            for key, (since, look, back, members, taken_out) in stored["open"].items() if key in at}


def _limit(tests: float) -> float:
    """Return what standard normal statistics exceed in `FALSE_ALARMS` of all cases, so many together (Bonferroni)."""
    return float(-ndtri(0.5 * FALSE_ALARMS / max(tests, 1.0)))


def _sharpness(judged: Judged) -> Floats:
    """Return what a statistic is multiplied by to be free of its floor, shape (n_meters,); 0 where nothing checks.

    The floor keeps hardly checked meters from being accused; but which meter looks most like the culprit is a
    question to the statistics as they are, else a neighbour that is checked better would be named for it.
    """
    spread = np.where(np.isnan(judged.spread), np.inf, judged.spread)
    with np.errstate(invalid="ignore"):
        sharp = np.sqrt(np.maximum(spread, VARIANCE_FLOOR) / spread)
    return np.asarray(np.nan_to_num(sharp))
