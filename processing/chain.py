"""The whole chain of one window: readings to results and events, without a clock, a socket or a database.

    readings ──► silent, stuck ──► estimate ──► biased, leaking ──► exchanges ──► mismatch, quality ──► WindowResult
                 (out of the       of the       (estimate again
                  balances)        state         without them)

The live cycle (cycle.py) and replay (replay.py) are both this, so their results are the same, bit for bit: what a
window gives depends on its readings, on those before it as far as delays and holding reach, and on the state that
`Chain.as_json` writes.

Here: the order of the parts, and what a detector's verdict means for the balances. A meter that is silent has no
value; one that is stuck or named as biased is left out while that lasts, a leaking node has no balances while it leaks,
and the event says so, with what it means for settlement. The main path enters at `Chain.run`, window after window in
order; `Chain.revise` computes a past window again when readings came late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from park.model import Park
from processing.detect.events import Change, Opened
from processing.detect.gross_errors import GrossErrors
from processing.detect.meter_silent import Presence, SilentMeters
from processing.detect.meter_stuck import StuckMeters
from processing.detect.quality_deviation import QualityLimits
from processing.detect.suspicion import LEAK
from processing.detect.volume_mismatch import Mismatches
from processing.estimate import Estimate, Estimator
from processing.exchanges import ExchangeFlow, ExchangeTable, compared
from processing.meters import Bools
from processing.observation import Observation, observe
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
        Every exchange, and whether it was as agreed; None where nothing is known of it.
    changes
        Events that began or ended; none of a revision.
    taken_out
        Meters left out of the balances.
    leaking
        Leaks that leave balances open, each as node and quantity.
    global_test, degrees_of_freedom
        Of the reconciliation; None where there was none.
    solved
        Whether the balances had a solution; without one no flow that they hold has a reconciled value.
    """

    start_us: int
    end_us: int
    readings: int
    last_source_time_us: int | None
    rows: Rows
    exchanges: tuple[tuple[ExchangeFlow, bool | None], ...]
    changes: tuple[Change, ...]
    taken_out: tuple[str, ...]
    leaking: tuple[str, ...]
    global_test: float | None
    degrees_of_freedom: int | None
    solved: bool


@dataclass(frozen=True)
class Past:
    """What stood against meters, nodes and exchanges in a window.

    Attributes
    ----------
    taken_out
        Meters left out of the balances.
    suspects
        Meters named as biased; they are in what was measured all the same.
    leaking
        Leaks that leave balances open, each as node and quantity.
    deviating
        Exchanges outside their agreement.
    """

    taken_out: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()
    leaking: tuple[str, ...] = ()
    deviating: frozenset[str] = frozenset()


NOTHING = Past()


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
        self._errors = GrossErrors(park, self.estimator.plan)
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
        estimate = self._estimate(readings, start_us, end_us, dumb)
        named = self._errors.step(estimate, dumb | self._stuck.pausing)
        if any(isinstance(change, Opened) for change in named):
            named = [self._weighed(c, readings, estimate, dumb) for c in named]
            estimate = self._estimate(readings, start_us, end_us, dumb)
        changes += named
        seen = self._seen(estimate, dumb, self._errors.taken_out)
        flows = self._exchanges.flows(estimate, seen)
        changes += self._mismatches.step(start_us, end_us, flows)
        n = len(self.table)
        changes += self._limits.step(start_us, end_us, estimate.means.value[:n], ~(dumb | self._errors.taken_out))
        return self._result(readings, estimate, seen, flows, self._found(estimate), tuple(changes))

    def revise(self, readings: Readings, start_us: int, end_us: int, past: Past = NOTHING) -> WindowResult:
        """Compute a past window again, with `past` as it was found then; events stay as they are."""
        readings = readings.in_force(self.table)
        ids = np.array(self.table.ids)
        out, suspects = np.isin(ids, list(past.taken_out)), np.isin(ids, list(past.suspects))
        estimate = self.estimator.estimate(readings, start_us, end_us, out, self._errors.rows_of(past.leaking))
        seen = self._seen(estimate, out & ~suspects, suspects)
        flows = self._exchanges.flows(estimate, seen)
        return self._result(readings, estimate, seen, flows, past)

    def _estimate(self, readings: Readings, start_us: int, end_us: int, dumb: Bools) -> Estimate:
        """Estimate a window without what is silent, stuck, biased or leaking now."""
        errors = self._errors
        return self.estimator.estimate(
            readings, start_us, end_us, dumb | errors.taken_out, errors.rows_of(errors.leaking))

    def _seen(self, estimate: Estimate, dumb: Bools, suspects: Bools) -> Observation:
        """Return what the meters say with the suspects among them."""
        if not suspects.any():
            return estimate.observation
        return observe(
            self.estimator.plan, estimate.means, ~dumb[self.estimator.plan.slots.meter], estimate.expected)

    def _weighed(self, change: Change, readings: Readings, within: Estimate, dumb: Bools) -> Change:
        """Add to a gross error what the exchanges amount to, and would settle, with it in the balances and without."""
        if not isinstance(change, Opened):
            return change
        out, leaking = dumb | self._errors.taken_out, set(self._errors.leaking)
        if change.kind == LEAK:
            around = {s.id for s in self.park.streams if change.subject in (s.from_node, s.to_node)}
        else:
            around = set(self.park.meter[change.subject].signed_streams)
            out = out | (np.array(self.table.ids) == change.subject)
        without = self.estimator.estimate(
            readings, within.start_us, within.end_us, out, self._errors.rows_of(tuple(leaking)))
        pairs = zip(self.park.exchanges, self._exchanges.flows(within, self._seen(within, dumb, out)),
                    self._exchanges.flows(without, without.observation), strict=True)
        return replace(change, evidence={**change.evidence, "exchanges": {
            x.id: compared(x, w, o) for x, w, o in pairs if around & set(x.signed_streams)}})

    def _found(self, estimate: Estimate) -> Past:
        """Return what stands against meters, nodes and exchanges now."""
        n = len(self.table)
        out = ~estimate.believed[:n] & ~np.isnan(estimate.means.value[:n])
        out |= self._silent.flagged | self._stuck.flagged | self._errors.taken_out
        ids = self.table.ids
        return Past(
            tuple(ids[m] for m in np.flatnonzero(out)), tuple(ids[m] for m in np.flatnonzero(self._errors.flagged)),
            self._errors.leaking, self._mismatches.open_exchanges | self._limits.open_exchanges)

    def _result(
        self, readings: Readings, estimate: Estimate, seen: Observation, flows: tuple[ExchangeFlow, ...], found: Past,
        changes: tuple[Change, ...] = (),
    ) -> WindowResult:
        inside = readings.between(estimate.start_us, estimate.end_us)
        times = inside.time_us[inside.quality != BAD]
        suspects = np.isin(np.array(self.table.ids), list(found.suspects))
        tested = estimate.converged and bool(estimate.degrees_of_freedom)
        return WindowResult(
            estimate.start_us, estimate.end_us, len(times), int(times.max()) if times.size else None,
            self._reporter.rows(estimate, seen, suspects), in_agreement(flows, found.deviating), changes,
            found.taken_out, found.leaking,
            estimate.global_test if tested else None, estimate.degrees_of_freedom if tested else None,
            estimate.converged)

    # -- state ----------------------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, Any]:
        return {"meter_silent": self._silent, "meter_stuck": self._stuck, "gross_errors": self._errors,
                "volume_mismatch": self._mismatches, "quality_deviation": self._limits}

    def as_json(self) -> dict[str, object]:
        """Return all that the next window needs of those before, for the store."""
        return {name: part.as_json() for name, part in self._parts().items()}

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Take up the state that `as_json` wrote."""
        for name, part in self._parts().items():
            if name in stored:
                part.restore(stored[name])


def in_agreement(
    flows: Iterable[ExchangeFlow], deviating: Collection[str]
) -> tuple[tuple[ExchangeFlow, bool | None], ...]:
    """Return each exchange with whether it is as agreed: not if it deviates; None where nothing is known of it."""
    return tuple((flow, False if flow.exchange in deviating else True if flow.is_known else None) for flow in flows)
