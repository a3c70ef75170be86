"""Clean runs of a park as its detectors see them: errors drawn from what the park declares, without simulating a plant.

One window is estimated for good; then errors of meters, of what is declared and of closures are drawn and go through
its linearised balances: adjustments, reconciled values and imbalances follow. That is fast (some milliseconds a
window), and it is what the limits of detect/gross_errors.py are derived for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from processing.detect.gross_errors import GrossErrors
from processing.equations import NONE
from processing.estimate import REDUNDANT_FROM, VARIANCE_FLOOR, Estimate, Estimator
from processing.meters import Bools, Floats
from processing.observation import carry

DRIFTS_S = 1800.0
"""Typical period of what drifts: the simulator's."""


@dataclass(frozen=True)
class _Found:
    """A reconciliation of which only the imbalances are new."""

    parts: list[Any]
    open: Floats

    def residual(self, part: Any) -> Floats:
        return self.open[None]


class CleanRuns:
    """Draws clean windows about one estimated window of a park."""

    def __init__(self, estimator: Estimator, estimate: Estimate) -> None:
        assert estimate.found is not None
        self.estimator, self._at, self._plan = estimator, estimate, estimator.plan
        said = estimate.observation
        self._projection = estimate.found.parts[0].projection
        self._bound = np.flatnonzero(estimator.equations.bound)
        self._used = ~np.isnan(said.measured) & (said.variance > 0) & np.isfinite(np.diagonal(estimate.covariance))
        inverse = np.where(self._used, 1.0 / np.where(self._used, said.variance, 1.0), 0.0)
        self._transfer = np.nan_to_num(estimate.covariance) * inverse
        n = len(self._plan.table)
        self._variable = self._plan.slot_variable[:n]
        at = np.where(self._variable == NONE, 0, self._variable)
        own, found = said.slot_variance[:n], np.diagonal(estimate.covariance)[at]
        spread = own - found
        checked = (spread > REDUNDANT_FROM * own) & estimate.believed[:n] & (self._variable != NONE)
        self._scale = np.sqrt(np.where(checked, np.maximum(spread, VARIANCE_FLOOR * own), np.nan))
        self._systematic = np.sqrt(np.nan_to_num(np.maximum(said.slot_variance - said.slot_noise, 0.0)))
        self._noise = np.sqrt(np.nan_to_num(said.slot_noise))
        self._std = np.sqrt(np.nan_to_num(said.slot_variance))

    @property
    def checked(self) -> Bools:
        """Meters that the balances check, bool, shape (n_meters,)."""
        return np.asarray(~np.isnan(self._scale))

    def windows(
        self, rng: np.random.Generator, count: int, *, biased: int | None = None, size: float = 0.0, since: int = 0
    ) -> Iterator[Estimate]:
        """Yield the windows of one run: systematic errors and losses stay, closures drift, the rest is always new.

        The meter `biased` reads `size` std of its own too much from the window `since` on.
        """
        plan, length_us = self._plan, round(self.estimator.park.park.window_s * 1e6)
        stays = rng.standard_normal(len(plan.table))[plan.slots.meter] * self._systematic
        lost = rng.standard_normal(len(plan.declared)) * plan.declared_std
        drifts = np.isin(plan.declared_variable, list(plan.closures))
        keeps = np.exp(-self.estimator.park.park.window_s / DRIFTS_S)
        for k in range(count):
            fresh = rng.standard_normal(len(lost)) * plan.declared_std
            lost = np.where(drifts, keeps * lost + np.sqrt(1.0 - keeps**2) * fresh, lost)
            slots = stays + rng.standard_normal(len(stays)) * self._noise
            if biased is not None and k >= since:
                slots[plan.slots.meter == biased] += size * self._std[plan.slots.meter == biased]
            yield self._estimate(k * length_us, length_us, slots, lost)

    def _estimate(self, start_us: int, length_us: int, slots: Floats, declared: Floats) -> Estimate:
        said, n = self._at.observation, len(self._plan.table)
        errors = np.where(self._used, carry(self._plan, said, slots, declared), 0.0)
        off = self._transfer @ errors
        at = np.where(self._variable == NONE, 0, self._variable)
        statistic = np.full(len(said.slot_value), np.nan)
        statistic[:n] = (slots[:n] - off[at]) / self._scale
        values = self._at.unbounded
        imbalance = self._projection.matrix @ errors[self._bound]
        assert self._at.found is not None
        return replace(
            self._at, start_us=start_us, end_us=start_us + length_us, statistic=statistic, values=values + off,
            unbounded=values + off,
            observation=replace(said, measured=np.where(np.isnan(said.measured), np.nan, values + errors)),
            found=_Found(self._at.found.parts, imbalance))      # type: ignore[arg-type]


def alarms(runs: CleanRuns, seed: int, count: int) -> int:
    """Return how many events the detector opens in a clean run of so many windows."""
    estimator = runs.estimator
    detector = GrossErrors(estimator.park, estimator.plan)
    nobody = np.zeros(len(estimator.table), dtype=np.bool_)
    rng = np.random.default_rng(seed)
    return sum(len(detector.step(window, nobody)) for window in runs.windows(rng, count))
