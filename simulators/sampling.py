"""One instant of a simulated park: the truth stepped to it, the due meters read, the faults applied.

    Truth.step ──► value(meter) ──► Instruments.measure ──► distort ──► show ──► deliver ──► Readings
                                    errors                  faults      dial,    faults,
                                                                        rounding on_change

Here: that order, and nothing of clocks in wall time, files or protocols (`simulators.serve`). The main path enters
at `Sampler.read`, once a tick, in the order of time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from park.errors import InputError
from park.model import Meter, Park
from park.quality import BAD_STATUS, GOOD_STATUS
from park.units import conversion
from simulators.faults import FaultSchedule
from simulators.instruments import COUNTERS, Floats, Indices, Instruments, Readings, Tick
from simulators.scenario import Scenario
from simulators.state import State
from simulators.truth import Truth

GOOD, BAD = np.uint32(GOOD_STATUS), np.uint32(BAD_STATUS)


class Sampler:
    """The instruments of a running park.

    Parameters
    ----------
    park, scenario
        What runs, and how.
    seed
        The same seed and start give the same readings at the same source times.
    start
        Run time at which the plant begins [s since 1970 UTC].
    on_state
        Told every state of the truth after the first, in order.

    Attributes
    ----------
    typical
        What each meter typically measures, shape (n_meters,) [unit of each meter]; NaN where the plant has no such
        value, as the heat flow of a material.
    unknown
        Those meters, shape (n_meters,).

    Raises
    ------
    InputError
        If a fault or a resolution names what the park has not.
    """

    def __init__(
        self, park: Park, scenario: Scenario, *, seed: int, start: float, on_state: Callable[[State], None]
    ) -> None:
        if strangers := sorted(set(scenario.resolution) - set(park.meter)):
            raise InputError(f"resolution: no meters {', '.join(map(repr, strangers))} in the park")
        self.park = park
        self.truth = Truth(park, scenario, seed=seed, start=start)
        self.faults = FaultSchedule(park, scenario, self.truth.apply)
        conversions = [conversion(m.unit) for m in park.meters]
        self._scale = np.array([c.scale for c in conversions])
        self._offset = np.array([c.offset for c in conversions])
        typical = (np.array([self.truth.nominal(m) for m in park.meters]) - self._offset) / self._scale
        self.typical: Floats = typical
        self.instruments = Instruments(park.meters, seed, typical, resolution=scenario.resolution)
        self._counts = np.array([m.quantity in COUNTERS for m in park.meters], dtype=np.bool_)
        self._totals = np.array([self.truth.value(m) if m.quantity in COUNTERS else 0.0 for m in park.meters])
        self._last = np.full(len(park.meters), np.nan)
        self._on_change = np.array(
            [m.sampling == "on_change" for m in park.meters], dtype=np.bool_)
        self.unknown: NDArray[np.bool_] = np.isnan(typical)
        self._is_ticket = np.array([m.quantity == "mass_batch" for m in park.meters], dtype=np.bool_)
        self._validity = _validity(park.meters)
        self._on_state = on_state

    def run_to(self, time: float) -> None:
        """Step the plant to the run time `time` [s], one step of its grid after the other."""
        while self.truth.state.time + self.truth.dt_s <= time + 1e-6:
            self._on_state(self.truth.step(self.truth.state.time + self.truth.dt_s))

    def read(self, tick: Tick) -> Readings:
        """Return what the due meters hand on at this tick; ticks come in the order of time."""
        self.run_to(tick.time)
        self.faults.advance(tick.time)
        tick = Tick(tick.time_us, self._in_force(tick))
        measured = self._distorted(tick, self.instruments.measure(tick, self._true(tick.index)))
        return self._delivered(tick, self.instruments.show(tick, measured))

    def forget_delivered(self) -> None:
        """Forget what was handed on, so that every meter sampled on change hands on its next value."""
        self._last[:] = np.nan

    def _in_force(self, tick: Tick) -> Indices:
        """Return the due meters that stand in the plant at this time."""
        since, until = self._validity
        return tick.index[(since[tick.index] <= tick.time) & (tick.time < until[tick.index])]

    def _true(self, index: Indices) -> Floats:
        """Return the true values of the meters [their units]; of counters what has passed since their last tick."""
        meters = self.park.meters
        true = np.array([self.truth.value(meters[i]) for i in index])
        counts = self._counts[index]
        passed = np.where(counts, true - self._totals[index], true)
        self._totals[index] = np.where(counts, true, 0.0)
        in_units: Floats = (passed - self._offset[index]) / self._scale[index]
        return in_units

    def _distorted(self, tick: Tick, measured: Floats) -> Floats:
        """Apply the faults that change what a meter measures."""
        for position, meter in self._struck(tick.index):
            for defect, occurrence in self.faults.defects_of(meter.id):
                measured[position] = defect.distort(float(measured[position]), occurrence, meter)
        return measured

    def _delivered(self, tick: Tick, shown: Floats) -> Readings:
        """Apply the faults that change what a meter hands on, and leave out what has not changed."""
        handed = np.ones(len(shown), dtype=np.bool_)
        for position, meter in self._struck(tick.index):
            last = self._last[tick.index[position]]
            for defect, _ in self.faults.defects_of(meter.id):
                value = defect.deliver(float(shown[position]), None if np.isnan(last) else float(last))
                handed[position] &= value is not None
                shown[position] = shown[position] if value is None else value
        handed &= ~self._unchanged(tick.index, shown)
        index, values = tick.index[handed], shown[handed]
        self._last[index] = values
        return Readings(tick.time_us, index, values, np.where(np.isnan(values), BAD, GOOD))

    def _unchanged(self, index: Indices, shown: Floats) -> NDArray[np.bool_]:
        """Return which meters sampled on change have nothing new: the same value, or an empty weighbridge."""
        same = np.where(self._is_ticket[index], shown == 0.0, shown == self._last[index])
        return np.asarray(same & self._on_change[index], dtype=np.bool_)

    def _struck(self, index: Indices) -> list[tuple[int, Meter]]:
        """Return the due meters that have a defect now: their place in `index`, and themselves."""
        struck = self.faults.struck
        if not struck:
            return []
        due = ((position, self.park.meters[i]) for position, i in enumerate(index))
        return [(position, meter) for position, meter in due if meter.id in struck]


def _validity(meters: tuple[Meter, ...]) -> tuple[Floats, Floats]:
    """Return from when until when each meter stands in the plant, shape (n_meters,) each [s since 1970 UTC]."""
    since = [-np.inf if m.valid_from is None else m.valid_from.timestamp() for m in meters]
    until = [np.inf if m.valid_to is None else m.valid_to.timestamp() for m in meters]
    return np.array(since), np.array(until)
