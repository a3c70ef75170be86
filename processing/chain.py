"""The whole chain of one window: readings to results and events, without a clock, a socket or a database.

    readings ──► silent, stuck ──► estimate ──► biased ──► exchanges ──► mismatch, quality ──► WindowResult
                 (out of the       of the       (estimate
                  balances)        state         again without it)

The live cycle (cycle.py) and replay (replay.py) are both this, so their results are the same, bit for bit: what a
window gives depends on its readings, on those before it as far as delays and holding reach, and on the state that
`Chain.as_json` writes.

Here: the order of the parts, and what a detector's verdict means for the balances. A meter that is silent has no
value; one that is stuck or named as biased is left out while that lasts, and the event says so. The main path enters
at `Chain.run`, window after window in order; `Chain.revise` computes a past window again when readings came late.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from park.model import Park
from processing.detect.events import Change, Opened
from processing.detect.meter_bias import BiasedMeters
from processing.detect.meter_silent import Presence, SilentMeters
from processing.detect.meter_stuck import StuckMeters
from processing.detect.quality_deviation import QualityLimits
from processing.detect.volume_mismatch import Mismatches
from processing.estimate import Estimate, Estimator
from processing.exchanges import ExchangeFlow, ExchangeTable
from processing.meters import Bools
from processing.observation import Observation
from processing.results import Reporter, Rows
from processing.window import BAD, Readings


@dataclass(frozen=True)
class WindowResult:
    """What one window gave.

    Attributes
    ----------
    start_us, end_us
        The window [us since 1970 UTC].
    readings
        Usable readings in it.
    last_source_time_us
        Of those; None without any.
    rows
        Flows, balances of nodes, meters.
    exchanges
        Every exchange, and whether it was as agreed.
    changes
        Events that began or ended; none of a revision.
    taken_out
        Meters left out of the balances.
    global_test, degrees_of_freedom
        Of the reconciliation; None where there was none.
    """

    start_us: int
    end_us: int
    readings: int
    last_source_time_us: int | None
    rows: Rows
    exchanges: tuple[tuple[ExchangeFlow, bool], ...]
    changes: tuple[Change, ...]
    taken_out: tuple[str, ...]
    global_test: float | None
    degrees_of_freedom: int | None


class Chain:
    """A park's processing; its state moves from window to window.

    Parameters
    ----------
    park
        The park.
    estimator
        Of the park, where there is one already; it has no state.
    """

    def __init__(self, park: Park, estimator: Estimator | None = None) -> None:
        self.park = park
        self.estimator = estimator or Estimator(park)
        self.table = self.estimator.table
        self._reporter, self._exchanges = Reporter(self.estimator), ExchangeTable(self.estimator)
        self._silent, self._stuck = SilentMeters(park, self.table), StuckMeters(park, self.table)
        self._biased = BiasedMeters(park, self.estimator.plan)
        self._mismatches, self._limits = Mismatches(park), QualityLimits(park)

    @property
    def silent(self) -> Bools:
        """Meters that nothing is to be expected of: silent, or not in force; bool, shape (n_meters,)."""
        return self._silent.flagged | self._silent.out_of_force

    def run(self, readings: Readings, start_us: int, end_us: int, presence: Presence) -> WindowResult:
        """Compute a window and move on.

        Parameters
        ----------
        readings
            Those of the window, and those before it as far as `Plan.reach_us` says.
        start_us, end_us
            The window [us since 1970 UTC].
        presence
            Who has sent what until its end.
        """
        readings = readings.in_force(self.table)
        changes = self._silent.step(presence)
        changes += self._stuck.step(readings.between(start_us, end_us))
        dumb = self._silent.flagged | self._stuck.flagged
        estimate = self.estimator.estimate(readings, start_us, end_us, dumb | self._biased.flagged)
        named = self._biased.step(estimate, dumb | self._stuck.pausing)
        seen = self._seen(estimate, dumb)
        if any(isinstance(change, Opened) for change in named):
            within = self._exchanges.flows(estimate, seen)
            estimate = self.estimator.estimate(readings, start_us, end_us, dumb | self._biased.flagged)
            seen = self._seen(estimate, dumb)
            named = [self._weighed(c, within, self._exchanges.flows(estimate, seen)) for c in named]
        changes += named
        flows = self._exchanges.flows(estimate, seen)
        changes += self._mismatches.step(start_us, end_us, flows)
        n = len(self.table)
        changes += self._limits.step(start_us, end_us, estimate.means.value[:n], ~(dumb | self._biased.flagged))
        return self._result(readings, estimate, seen, flows, tuple(changes))

    def revise(self, readings: Readings, start_us: int, end_us: int, taken_out: Iterable[str]) -> WindowResult:
        """Compute a past window again, with the meters left out that were left out then; events stay as they are."""
        readings = readings.in_force(self.table)
        out = np.isin(np.array(self.table.ids), list(taken_out))
        estimate = self.estimator.estimate(readings, start_us, end_us, out)
        return self._result(
            readings, estimate, estimate.observation, self._exchanges.flows(estimate, estimate.observation), ())

    def _seen(self, estimate: Estimate, dumb: Bools) -> Observation:
        """Return what the meters say with the biased among them."""
        if not self._biased.flagged.any():
            return estimate.observation
        return self.estimator.plan.observe(
            estimate.means, ~dumb[self.estimator.plan.slots.meter], estimate.expected)

    def _weighed(
        self, change: Change, within: tuple[ExchangeFlow, ...], without: tuple[ExchangeFlow, ...]
    ) -> Change:
        """Add to the naming of a meter what its exchanges amount to with and without it."""
        if not isinstance(change, Opened):
            return change
        streams = set(self.park.meter[change.subject].signed_streams)
        amounts = {
            w.exchange: {"unit": w.unit, "with": w.reconciled, "with_u95": w.reconciled_u95,
                         "without": o.reconciled, "without_u95": o.reconciled_u95}
            for x, w, o in zip(self.park.exchanges, within, without, strict=True)
            if streams & set(x.signed_streams)}
        return replace(change, evidence={**change.evidence, "exchanges": amounts})

    def _result(
        self, readings: Readings, estimate: Estimate, seen: Observation, flows: tuple[ExchangeFlow, ...],
        changes: tuple[Change, ...],
    ) -> WindowResult:
        inside = readings.between(estimate.start_us, estimate.end_us)
        times = inside.time_us[inside.quality != BAD]
        out = ~estimate.believed[: len(self.table)] & ~np.isnan(estimate.means.value[: len(self.table)])
        out |= self._silent.flagged | self._stuck.flagged | self._biased.flagged
        rows = self._reporter.rows(estimate, seen, self._biased.flagged)
        deviating = self._mismatches.open_exchanges | self._limits.open_exchanges
        solved = estimate.converged and bool(estimate.degrees_of_freedom)
        return WindowResult(
            estimate.start_us, estimate.end_us, len(times), int(times.max()) if times.size else None, rows,
            tuple((flow, flow.exchange not in deviating) for flow in flows), changes,
            tuple(self.table.ids[m] for m in np.flatnonzero(out)),
            estimate.global_test if solved else None, estimate.degrees_of_freedom if solved else None)

    # -- state ----------------------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, Any]:
        return {"meter_silent": self._silent, "meter_stuck": self._stuck, "meter_bias": self._biased,
                "volume_mismatch": self._mismatches, "quality_deviation": self._limits}

    def as_json(self) -> dict[str, object]:
        """Return all that the next window needs of those before, for the store."""
        return {name: part.as_json() for name, part in self._parts().items()}

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Take up the state that `as_json` wrote."""
        for name, part in self._parts().items():
            if name in stored:
                part.restore(stored[name])
