"""Meters whose readings the balances contradict: which meter it is, by how much, and since when.

Two findings, both by the measurement test (the adjustment over its std; for one bias it is the GLR test), both only
where they last for `PERSISTENCE` windows:

- *beyond u95*: the statistic itself is larger than honest meters of this park show in `FALSE_ALARMS` of all parks;
- *change*: the statistic has moved by more than `CHANGE` std of the meter's whole uncertainty, and by more than
  `NOISE` std of its own window-to-window noise, from the meter's baseline.

The systematic share of an honest meter's error stays: it moves the statistic once and for all, and is no news. The
baseline is the running mean of each meter's adjustment in units of its std (o), learned over an hour and never
faster than `CLIP` a window. Whatever meters are present, what o does to the adjustments follows from the equations
(`Plan.carry` and the covariance), so a meter that drops out shifts nobody's baseline:

    adjustment expected from o:  o - P R^-1 (o carried to the variables)

Naming. Of one biased meter c, every adjustment moves in proportion to its correlation with c's; so c has the largest
statistic, and the others must follow by that pattern (`EXPLAINED`), else it is no single meter. Meters whose
adjustments are correlated by more than `SAME` cannot be told apart by any balance: they form a class, and a class of
more than one names nobody (the exchange's `volume_mismatch` stays). A named meter is taken out of the balances and
goes on being judged against them from outside; it comes back when it has followed its old baseline again.

False alarms: by `FALSE_ALARMS` for the first finding, with Bonferroni's bound over meters. For the second the
statistic's noise after three windows must exceed `NOISE` std: 2e-9 a meter and window, were it normal.

Here: that verdict. Not here: the statistics themselves (estimate.py). The main path enters at `BiasedMeters.step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from park.model import Park
from park.units import conversion
from processing.detect.events import Change, Closed, Opened
from processing.equations import NONE
from processing.estimate import REDUNDANT_FROM, VARIANCE_FLOOR, Estimate
from processing.meters import Bools, Floats
from processing.observation import Plan

KIND = "meter_bias"

FALSE_ALARMS = 1e-3
"""Share of parks with honest meters in which any meter is found beyond its u95."""

CHANGE = 3.5
"""std of a meter's whole uncertainty that it must move: 1.8 times its u95. What honest meters do when loads move
(their errors are shares of the reading, the balances mix them) stayed below 2.3 in the reference park."""

NOISE = 6.0
"""std of the mean of the last windows' noise."""

PERSISTENCE = 3
"""Windows that a finding must last, and be gone."""

WARM_UP = 5
"""Windows before a baseline counts."""

BASELINE_S = 3600.0
"""Time constant of the baseline: slow against faults, fast against drift."""

CLIP = 0.5
"""Most that one window moves a baseline, in std before the time constant: what is being found is not learned."""

EXPLAINED = 0.5
"""Share of the largest statistic that a single bias may leave unexplained in any other."""

SAME = 0.95
"""Correlation of adjustments above which two meters cannot be told apart: the difference of their statistics then
has a std of 0.3, a tenth of what is found."""

FIRST_NOISE, LEAST_NOISE = 0.2, 0.05
"""std of a statistic's window-to-window noise before any is known, and at least."""


@dataclass(frozen=True, eq=False)
class Judged:
    """One window's adjustments against the baseline; arrays of shape (n_meters,), NaN where nothing checks.

    Attributes
    ----------
    statistic
        Measurement test: adjustment over its std.
    innovation
        The same of what the baseline does not explain.
    std
        Of the meter's window value, in the unit of its variable.
    spread
        Variance of the adjustment over that of the meter.
    """

    statistic: Floats
    innovation: Floats
    std: Floats
    spread: Floats


class BiasedMeters:
    """Which meters are biased; one object a run.

    Parameters
    ----------
    park
        The park.
    plan
        How its meters measure.
    """

    def __init__(self, park: Park, plan: Plan) -> None:
        n = len(plan.table)
        self._meters, self._plan = park.meters, plan
        self._learn = min(1.0 / WARM_UP, park.park.window_s / BASELINE_S)
        self._suspectable = np.array([not m.never_suspect for m in park.meters], dtype=np.bool_)
        self.beyond = float(-ndtri(0.5 * FALSE_ALARMS / max(n, 1)))
        self.flagged: Bools = np.zeros(n, dtype=np.bool_)
        self._offset: Floats = np.zeros(n)              # o, in std of the meter
        self._seen: Floats = np.zeros(n)                # windows learned from
        self._noise: Floats = np.full(n, FIRST_NOISE**2)   # variance of the innovation from window to window
        self._recent: Floats = np.full((PERSISTENCE, n), np.nan)    # innovations, newest last
        self._beyond: Floats = np.full((PERSISTENCE, n), np.nan)    # statistics, newest last
        self._found_by_change: Bools = np.zeros(n, dtype=np.bool_)
        self._since: dict[int, int] = {}

    # -- one window -----------------------------------------------------------------------------------------------

    def judge(self, estimate: Estimate) -> Judged:
        """Hold a window's adjustments against the baselines."""
        plan, n = self._plan, len(self._plan.table)
        said, variable = estimate.observation, plan.slot_variable
        std = np.sqrt(said.slot_variance)
        offsets = np.nan_to_num(self._offset[plan.slots.meter] * std)
        carried = plan.carry(said, offsets)
        weight = np.zeros_like(carried)
        used = ~np.isnan(said.measured) & (said.variance > 0) & plan.equations.bound
        weight[used] = carried[used] / said.variance[used]
        base = np.nan_to_num(estimate.covariance) @ weight
        at = np.where(variable == NONE, 0, variable)[:n]
        believed = estimate.believed[:n]
        own, found = said.slot_variance[:n], np.diagonal(estimate.covariance)[at]
        spread = np.where(believed, own - found, own + found)
        checked = (spread > REDUNDANT_FROM * own) & (variable[:n] != NONE)
        scale = np.sqrt(np.where(checked, np.maximum(spread, VARIANCE_FLOOR * own), np.nan))
        expected = (offsets[:n] - base[at]) / scale
        statistic = estimate.statistic[:n]
        return Judged(statistic, statistic - expected, std[:n],
                      spread / np.where(checked, own, np.nan))

    def step(self, estimate: Estimate, doubtful: Bools) -> list[Change]:
        """Judge a window; meters in `doubtful` (shape (n_meters,)) are being judged by another detector."""
        if not len(self._meters):
            return []
        judged = self.judge(estimate)
        self._recent = np.vstack([self._recent[1:], judged.innovation])
        self._beyond = np.vstack([self._beyond[1:], judged.statistic])
        changes: list[Change] = self._returned(estimate)
        named = self._name(judged, estimate, doubtful)
        if named is not None:
            changes.append(named)
        self._learn_from(judged, doubtful)
        return changes

    def _learn_from(self, judged: Judged, doubtful: Bools) -> None:
        """Move the baselines towards what was seen, and learn the noise about them."""
        with np.errstate(invalid="ignore"):
            step = judged.innovation * np.sqrt(np.maximum(judged.spread, VARIANCE_FLOOR))
        used = ~np.isnan(step) & ~self.flagged & ~doubtful
        self._seen[used] += 1
        rate = np.maximum(self._learn, 1.0 / np.maximum(self._seen, 1.0))
        clip = np.where(self._seen <= WARM_UP, np.inf, CLIP)
        self._offset[used] += (rate * np.clip(step, -clip, clip))[used]
        change = 0.5 * np.square(self._recent[-1] - self._recent[-2])
        learned = used & ~np.isnan(change)
        capped = np.minimum(change, 9.0 * np.maximum(self._noise, LEAST_NOISE**2))
        self._noise[learned] += (np.maximum(self._learn, 1.0 / (self._seen + 1.0)) * (capped - self._noise))[learned]

    # -- naming ---------------------------------------------------------------------------------------------------

    def _lasting(self, recent: Floats) -> Floats:
        """Return the mean of the last windows where all have one sign and none is below half of it; else 0."""
        with np.errstate(invalid="ignore"):
            mean = recent.mean(axis=0)
            steady = (np.sign(recent) == np.sign(mean)).all(axis=0) & (abs(recent) > 0.5 * abs(mean)).all(axis=0)
        return np.where(steady & ~np.isnan(mean), mean, 0.0)

    def _name(self, judged: Judged, estimate: Estimate, doubtful: Bools) -> Opened | None:
        """Name the one meter that explains what the balances contradict, if there is one."""
        noise = NOISE * np.sqrt(np.maximum(self._noise, LEAST_NOISE**2) / PERSISTENCE)
        ready = (self._seen >= WARM_UP) & estimate.believed[: len(self.flagged)] & ~doubtful & self._suspectable
        for by_change in (True, False):
            lasting = self._lasting(self._recent if by_change else self._beyond)
            limit = np.maximum(CHANGE, noise) if by_change else np.full(len(noise), self.beyond)
            sharp = np.where(estimate.believed[: len(lasting)], lasting * _sharpness(judged), 0.0)
            meter = int(np.argmax(abs(sharp)))
            if abs(lasting[meter]) > limit[meter] and ready[meter]:
                pattern = self._pattern(meter, judged, estimate)
                same = np.flatnonzero(abs(pattern) > SAME)
                left = abs(sharp - pattern * sharp[meter])
                if same.size == 1 and left.max() <= EXPLAINED * abs(sharp[meter]):
                    return self._opened(meter, by_change, lasting[meter], limit[meter], pattern, judged, estimate)
        return None

    def _pattern(self, meter: int, judged: Judged, estimate: Estimate) -> Floats:
        """Correlation of every meter's adjustment with one's, shape (n_meters,): how a bias of that one shows."""
        n = len(self.flagged)
        variable = np.where(self._plan.slot_variable[:n] == NONE, 0, self._plan.slot_variable[:n])
        shared = -np.nan_to_num(estimate.covariance[variable[meter], variable])
        size = judged.std * np.sqrt(judged.spread)
        with np.errstate(invalid="ignore"):
            pattern = np.asarray(np.nan_to_num(shared / (size * size[meter])))
        pattern[~estimate.believed[:n] | (self._plan.slot_variable[:n] == NONE)] = 0.0
        pattern[meter] = 1.0
        return np.asarray(pattern)

    def _opened(
        self, meter: int, by_change: bool, statistic: float, limit: float, pattern: Floats, judged: Judged,
        estimate: Estimate,
    ) -> Opened:
        window_us = estimate.end_us - estimate.start_us
        since = estimate.end_us - PERSISTENCE * window_us
        self.flagged[meter], self._since[meter], self._found_by_change[meter] = True, since, by_change
        bias, u95 = self._bias(meter, statistic, judged, estimate)
        entry = self._meters[meter]
        unit, reading = conversion(entry.unit), float(estimate.means.value[meter])
        share = "" if unit.offset else f" ({100.0 * bias * unit.scale / reading:+.1f} %)" if reading else ""
        finding = "than it used to, against the balances" if by_change else "than the balances and its u95 allow"
        rate = entry.unit if entry.quantity not in ("inventory", *_COUNTED) else f"{entry.unit}/s"
        return Opened(
            KIND, entry.id, since, "high",
            f"{entry.id} reads {abs(bias):.4g} {rate}{share} {'more' if bias > 0 else 'less'} {finding}",
            float(statistic), float(limit),
            evidence={
                "finding": "change" if by_change else "beyond_u95", "statistic": float(statistic),
                "limit": float(limit), "bias": bias, "bias_u95": u95, "unit": rate,
                "class": [entry.id],
                "next_likely": _next(self._plan.table.ids, pattern, meter)})

    def _bias(self, meter: int, statistic: float, judged: Judged, estimate: Estimate) -> tuple[float, float]:
        """Estimate the bias and its u95 in the meter's unit: what would make its adjustment vanish.

        With a = (1 - P/R) b + noise: ``b = statistic sqrt(R) / sqrt(1 - P/R)``, ``var b = R / (1 - P/R)``.
        """
        slope = float(estimate.observation.slope[meter]) * conversion(self._meters[meter].unit).scale
        unit = float(judged.std[meter] / np.sqrt(judged.spread[meter])) / slope
        return float(statistic) * unit, 1.96 * abs(unit)

    # -- coming back ----------------------------------------------------------------------------------------------

    def _returned(self, estimate: Estimate) -> list[Change]:
        """Close the events of meters that agree with the balances again."""
        changes: list[Change] = []
        for meter in np.flatnonzero(self.flagged).tolist():
            recent = (self._recent if self._found_by_change[meter] else self._beyond)[:, meter]
            limit = 0.5 * (CHANGE if self._found_by_change[meter] else self.beyond)
            if not np.isnan(recent).any() and (abs(recent) < limit).all():
                self.flagged[meter] = False
                since = estimate.end_us - PERSISTENCE * (estimate.end_us - estimate.start_us)
                changes.append(Closed(KIND, self._meters[meter].id, max(since, self._since.pop(meter, since))))
        return changes

    # -- state ----------------------------------------------------------------------------------------------------

    def as_json(self) -> dict[str, object]:
        """Return the state for the store, by meter."""
        return {
            meter.id: [
                self._offset[m], self._seen[m], self._noise[m], bool(self.flagged[m]), bool(self._found_by_change[m]),
                self._since.get(m), _plain(self._recent[:, m]), _plain(self._beyond[:, m])]
            for m, meter in enumerate(self._meters)}

    def restore(self, stored: Mapping[str, object]) -> None:
        """Take up the state that `as_json` wrote; meters that the park no longer has are forgotten."""
        for m, meter in enumerate(self._meters):
            kept = stored.get(meter.id)
            if isinstance(kept, list):
                self._offset[m], self._seen[m], self._noise[m], self.flagged[m], self._found_by_change[m] = kept[:5]
                if kept[5] is not None:
                    self._since[m] = kept[5]
                self._recent[:, m] = [np.nan if v is None else v for v in kept[6]]
                self._beyond[:, m] = [np.nan if v is None else v for v in kept[7]]


_COUNTED = ("mass_total", "volume_total", "energy_total")


def _sharpness(judged: Judged) -> Floats:
    """Return what a statistic is multiplied by to be free of its floor, shape (n_meters,); 0 where nothing checks.

    The floor keeps hardly checked meters from being accused; but which meter looks most like the culprit is a
    question to the statistics as they are, else a neighbour that is checked better would be named for it.
    """
    spread = np.where(np.isnan(judged.spread), np.inf, judged.spread)
    with np.errstate(invalid="ignore"):
        sharp = np.sqrt(np.maximum(spread, VARIANCE_FLOOR) / spread)
    return np.asarray(np.nan_to_num(sharp))


def _next(ids: tuple[str, ...], pattern: Floats, meter: int) -> dict[str, float]:
    """Return the meters that look most alike in the balances, with the correlation."""
    order = [int(m) for m in np.argsort(-abs(pattern))[:4] if m != meter and abs(pattern[m]) > 0.3]
    return {ids[m]: round(float(pattern[m]), 3) for m in order}


def _plain(values: Floats) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]
