"""A simulated run in memory: truth and instruments straight into arrays, without protocols or clocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from park.model import Park
from park.quality import qualities_of
from park.units import conversion
from processing.meters import Floats
from processing.window import Readings
from simulators.instruments import Schedule, Tick
from simulators.sampling import Sampler
from simulators.scenario import Scenario
from simulators.truth import State

START = 1_767_225_600.0          # 2026-01-01T00:00:00Z


@dataclass
class Window:
    """One window's true means, shape (2, n_streams) each: sender, receiver."""

    start_us: int
    mass_flow: Floats
    heat_flow: Floats


class Simulated:
    """A park that runs; `windows` plays it window by window."""

    def __init__(self, park: Park, scenario: Scenario | None = None, *, seed: int = 1, start: float = START) -> None:
        self.park, self.start = park, start
        self._states: list[State] = []
        self.sampler = Sampler(
            park, scenario or Scenario(), seed=seed, start=start, on_state=lambda s: self._states.append(s))
        if not self._states:
            self._states.append(self.sampler.truth.state)
        self._ticks = Schedule(park.meters).ticks(start)
        self._tick = next(self._ticks, Tick(2**62, np.zeros(0, dtype=np.intp)))
        units = [conversion(m.unit) for m in park.meters]
        self._scale, self._offset = np.array([u.scale for u in units]), np.array([u.offset for u in units])
        self.readings = Readings.of(len(park.meters), [], [], [])

    def windows(self, n: int, keep_s: float = 900.0) -> Iterator[Window]:
        """Play n windows; `readings` then holds them and what came up to `keep_s` before."""
        length = self.park.park.window_s
        for k in range(n):
            end = self.start + (k + 1) * length
            chunk = self._play(end)
            old = self.readings.between(int((end - length - keep_s) * 1e6), int(end * 1e6))
            self.readings = old.joined(chunk)
            yield self._truth(end - length, end)

    def _play(self, end: float) -> Readings:
        meter, time, value, status = [], [], [], []
        while self._tick.time < end - 1e-6:
            found = self.sampler.read(self._tick)
            meter.append(found.index)
            time.append(np.full(len(found.index), found.time_us))
            value.append(found.values * self._scale[found.index] + self._offset[found.index])
            status.append(found.statuses)
            self._tick = next(self._ticks, Tick(2**62, np.zeros(0, dtype=np.intp)))
        self.sampler.run_to(end)
        if not meter:
            return Readings.of(len(self.park.meters), [], [], [])
        return Readings.of(
            len(self.park.meters), np.concatenate(meter), np.concatenate(time), np.concatenate(value),
            qualities_of(np.concatenate(status)))

    def _truth(self, start: float, end: float) -> Window:
        states = [s for s in self._states if s.time < end]
        edges = [*[max(s.time, start) for s in states], end]
        seconds = np.maximum(np.diff(edges), 0.0)
        mass = sum(w * s.mass_flow for w, s in zip(seconds, states, strict=True)) / (end - start)
        heat = sum(w * s.heat_flow for w, s in zip(seconds, states, strict=True)) / (end - start)
        self._states = self._states[-2:]
        return Window(round(start * 1e6), np.asarray(mass), np.asarray(heat))
