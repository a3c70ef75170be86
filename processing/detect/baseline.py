"""What is usual: by how much each meter has differed from the balances so far, and how far it may stray from that.

The systematic share of an honest meter's error stays: it moves its test statistic once and for all, and is no news.
So each meter has a baseline o: the running mean of its adjustment in units of its std, learned over an hour and never
faster than `CLIP` a window; what the park declares (losses, closures) has one too. Whatever meters are present, what o
does to the adjustments follows from the equations (`observation.carry` and the covariance), so a meter that drops out
shifts nobody's baseline:

    adjustment expected from o:  o - P R^-1 (o carried to the variables)

What is left is the innovation. Its variance follows from the declared uncertainties too, with S = I - P R^-1 (the
adjustments of a window are S times its errors):

- the meters' random errors are new in every window: `noise`, diag(S R_random S'); the mean of N windows against a
  baseline of n has noise (1 / N + 1 / n), which is how few windows make the verdict careful;
- closures, and what an unmetered delay changes, move at a pace that nobody declares: `drift`, diag(S R_drift S'); they
  may differ from what they were by the root of twice that however long one waits. So do the systematic errors of
  meters that are not known yet.

Here: that bookkeeping. Not here: leaks (imbalance.py) and verdicts (gross_errors.py). The main path enters at
`Baseline.judge`, then `Baseline.learn`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from park.model import Park
from processing.equations import NONE
from processing.estimate import REDUNDANT_FROM, VARIANCE_FLOOR, Estimate
from processing.meters import Bools, Floats, Ints
from processing.observation import Observation, carry
from processing.plan import Plan

WARM_UP = 5
"""Windows before a baseline counts."""

BASELINE_S = 3600.0
"""Time constant of the baseline: slow against faults, fast against drift."""

CLIP = 0.5
"""Most that one window moves a baseline, in std before the time constant: what is being found is not learned."""


@dataclass(frozen=True, eq=False)
class Judged:
    """One window's adjustments against the baseline; of shape (n_meters,) unless said, NaN where nothing checks.

    Attributes
    ----------
    statistic
        Measurement test: adjustment over its std [1].
    innovation
        The same of what the baseline does not explain [1].
    std
        Of the meter's window value [unit of its variable].
    spread
        Variance of the adjustment over that of the meter [1].
    noise, drift
        Variance of the innovation: new in each window, and at an unknown pace [1].
    noise_on, drift_on
        The same variances of the measured variables, shape (n_variables,) [unit of the variable, squared].
    usual
        What the baseline says the measured variables are off by, shape (n_variables,) [unit of the variable].
    transfer
        P R^-1: what a unit of error in a measured variable does to the estimate, shape (n_variables, n_variables).
    step
        What the baselines were off by, meters first, then what is declared, shape (n_meters + n_declared,) [std].
    """

    statistic: Floats
    innovation: Floats
    std: Floats
    spread: Floats
    noise: Floats
    drift: Floats
    noise_on: Floats
    drift_on: Floats
    usual: Floats
    transfer: Floats
    step: Floats


class Baseline:
    """The baselines of a park's meters; one object a run.

    Parameters
    ----------
    park
        The park.
    plan
        How its meters measure.
    """

    def __init__(self, park: Park, plan: Plan) -> None:
        n = len(plan.table) + len(plan.declared)
        self._ids = [*plan.table.ids, *(f"\x1f{plan.equations.names[v]}" for v in plan.declared_variable)]
        self._plan = plan
        self._rate = min(1.0 / WARM_UP, park.park.window_s / BASELINE_S)
        self._offset: Floats = np.zeros(n)              # o, in std
        self.seen: Floats = np.zeros(n)                 # windows learned from
        self._share: Floats = np.ones(n)                # variance of the baseline over that of one window's noise

    @property
    def share(self) -> Floats:
        """Variance of each meter's baseline over that of one window's noise, shape (n_meters,): 1 / n at first."""
        return self._share[: len(self._plan.table)]

    @property
    def known(self) -> Bools:
        """Meters whose baseline counts, bool, shape (n_meters,)."""
        return np.asarray(self.seen[: len(self._plan.table)] >= WARM_UP)

    def judge(self, estimate: Estimate) -> Judged:
        """Hold a window's adjustments against the baselines."""
        plan, n = self._plan, len(self._plan.table)
        said, variable = estimate.observation, plan.slot_variable[:n]
        std, at = np.sqrt(said.slot_variance), np.where(variable == NONE, 0, variable)
        offsets = np.nan_to_num(self._offset[plan.slots.meter] * std)
        declared = self._offset[n:] * plan.declared_std
        usual = carry(plan, said, offsets, declared)
        transfer, used = _transfer(estimate)
        base = transfer @ np.where(used, usual, 0.0)
        believed, own = estimate.believed[:n], said.slot_variance[:n]
        found = np.diagonal(estimate.covariance)[at]
        spread = np.where(believed, own - found, own + found)
        checked = (spread > REDUNDANT_FROM * own) & (variable != NONE)
        scale = np.sqrt(np.where(checked, np.maximum(spread, VARIANCE_FLOOR * own), np.nan))
        expected = (offsets[:n] - base[at]) / scale
        statistic = estimate.statistic[:n]
        innovation = statistic - expected
        ratio = spread / np.where(checked, own, np.nan)
        slot_drift = self._unknown(said)
        noise_on = np.where(used, said.noise, 0.0)
        drift_on = np.where(used, said.drift + self._on_variables(said, slot_drift), 0.0)
        noise = self._adjusted(said, believed, self.apart(said, transfer), said.slot_noise[:n], noise_on)
        drift = self._adjusted(said, believed, transfer, slot_drift[:n], drift_on)
        with np.errstate(invalid="ignore"):
            step = innovation * np.sqrt(np.maximum(ratio, VARIANCE_FLOOR))
        return Judged(
            statistic, innovation, std[:n], ratio, noise / scale**2, drift / scale**2, noise_on, drift_on,
            np.where(used, usual, 0.0), transfer, np.concatenate([step, self._declared_step(estimate, declared, base)]))

    def _adjusted(
        self, said: Observation, believed: Bools, transfer: Floats, of_slots: Floats, of_variables: Floats
    ) -> Floats:
        """Return the variance that errors of such variances give the adjustments, shape (n_meters,): diag(S V S')."""
        n = len(believed)
        variable = self._plan.slot_variable[:n]
        at = np.where(variable == NONE, 0, variable)
        enters, combined = self._enters(said)
        with np.errstate(invalid="ignore"):
            weight = combined[at] / said.slot_variance[:n]         # of the meter in what it is combined to
        through = np.where(believed, transfer[at, enters[at]] * np.nan_to_num(weight), 0.0)
        total: Floats = of_slots * (1.0 - 2.0 * through) + np.square(transfer[at]) @ of_variables
        return np.maximum(total, 0.0)

    def apart(self, said: Observation, by_variable: Floats) -> Floats:
        """Return what the random errors of each window do, from what errors of the variables do: (n, n_variables) both.

        What the meters at the sender of a delay said then is in the change and in what departed.
        """
        found = by_variable.copy()
        for d, delay in enumerate(self._plan.equations.delays):
            if np.isnan(said.measured[delay.sender]) and said.noise[delay.change] > 0:
                found[:, delay.departed] -= said.delay_factor[d] * by_variable[:, delay.change]
        return found

    def _enters(self, said: Observation) -> tuple[Ints, Floats]:
        """Return by which variable the meters of each enter, and the variance of those combined, shape (n_variables,).

        Those at the sender of a delay enter by its change, where both its windows have values.
        """
        enters, combined = np.arange(len(said.variance)), said.variance.copy()
        for delay in self._plan.equations.delays:
            if np.isnan(said.measured[delay.sender]) and said.noise[delay.change] > 0:
                now, _ = self._plan.delay_points[delay.sender, delay.departed]
                enters[delay.sender], combined[delay.sender] = delay.change, said.points.variance[now]
        return enters, combined

    def _unknown(self, said: Observation) -> Floats:
        """Return the systematic variance of the slots whose meters are not known yet, shape (n_slots,)."""
        young = (self.seen < WARM_UP)[self._plan.slots.meter] & said.usable
        return np.where(young, np.nan_to_num(said.slot_variance - said.slot_noise), 0.0)

    def _on_variables(self, said: Observation, of_slots: Floats) -> Floats:
        """Carry variances of slots to the variables that they are combined into, shape (n_variables,)."""
        variable = self._plan.slot_variable
        some = np.flatnonzero((of_slots > 0) & (variable != NONE))
        weight = np.nan_to_num(said.variance[variable[some]] / said.slot_variance[some])
        squares = weight**2 * of_slots[some]
        return np.bincount(variable[some], squares, minlength=len(said.variance)).astype(np.float64)

    def _declared_step(self, estimate: Estimate, expected: Floats, base: Floats) -> Floats:
        """Return what the baselines of declared values were off by, shape (n_declared,) [std]; NaN if not in use."""
        variable, std = self._plan.declared_variable, self._plan.declared_std
        off = estimate.observation.measured[variable] - estimate.unbounded[variable]
        alone = abs(np.sqrt(estimate.observation.variance[variable]) - std) <= 1e-9 * std
        return np.where(alone & (std > 0), (off - expected + base[variable]) / np.where(std > 0, std, 1.0), np.nan)

    def learn(self, judged: Judged, held: Bools) -> None:
        """Move the baselines towards what was seen, but those of the meters in `held`, shape (n_meters,)."""
        step = judged.step
        used = ~np.isnan(step)
        used[: len(held)] &= ~held
        late = used & (self.seen == 0) & (self.seen.max(initial=0) >= WARM_UP)      # what it brings is its own
        late[len(held):] = False
        spread = np.ones_like(step)
        spread[: len(held)] = np.where(np.isnan(judged.spread), 1.0, np.clip(judged.spread, REDUNDANT_FROM, 1.0))
        self.seen[used] += 1
        rate = np.maximum(self._rate, 1.0 / np.maximum(self.seen, 1.0))
        clip = np.where(self.seen <= WARM_UP, np.inf, CLIP)
        moved = np.where(late, step / spread, rate * np.clip(step, -clip, clip))
        self._offset[used] += moved[used]
        self._share[used] = ((1.0 - rate) ** 2 * self._share + rate**2)[used]

    def as_json(self) -> dict[str, object]:
        """Return the state for the store, by meter."""
        return {name: [self._offset[k], self.seen[k], self._share[k]] for k, name in enumerate(self._ids)}

    def restore(self, stored: Mapping[str, object]) -> None:
        """Take up the state that `as_json` wrote; what the park no longer has is forgotten."""
        for k, name in enumerate(self._ids):
            kept = stored.get(name)
            if isinstance(kept, list):
                self._offset[k], self.seen[k], self._share[k] = kept


def _transfer(estimate: Estimate) -> tuple[Floats, Bools]:
    """Return P R^-1, shape (n_variables, n_variables), and which variables were measured within equations."""
    said = estimate.observation
    with np.errstate(invalid="ignore"):
        known = np.isfinite(np.diagonal(estimate.covariance))
        used = np.asarray(~np.isnan(said.measured) & (said.variance > 0) & known)
    inverse = np.where(used, 1.0 / np.where(used, said.variance, 1.0), 0.0)
    return np.nan_to_num(estimate.covariance) * inverse, used
