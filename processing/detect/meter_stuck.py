"""Meters that repeat themselves: the same value with new source times, for longer than their own noise allows.

How often a meter repeats its last value by itself depends on its resolution and on the noise of what it measures, and
nobody declares either. So each meter teaches it, apart for each octave of its value (a percent-of-reading meter is
quieter at low flow): n comparisons of neighbouring readings, of which k were equal. A run of r equal readings is then
judged by its probability under what is known (Beta-binomial, Jeffreys' prior), which is honest about how little a
short history says:

    P(run >= r) = product over i < r of (k + 1/2 + i) / (n + 1 + i)

A meter is stuck when that is below `CHANCE` and the run is well beyond its longest so far (a slow process repeats in
clusters). What it teaches excludes the run in progress. Zeros are never stuck: plants stand still; nor is a value at
the end of the span, which is another fault. Counters and meters sampled on change have no repeats to judge.

False alarms: `CHANCE` a run for independent noise: about one in 10^9 readings, one a year for 200 meters at 5 s.

Here: that verdict. The main path enters at `StuckMeters.step`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from park.model import Meter, Park
from park.units import conversion
from processing.detect.events import Change, Closed, Opened
from processing.meters import Averaging, Bools, MeterArrays
from processing.window import BAD, Readings

KIND = "meter_stuck"

CHANCE = 1e-9
"""Probability below which a run of repeats is no chance."""

BEYOND_LONGEST, AT_LEAST = 3, 4
"""A run must be this many times the longest seen in its octave, plus `AT_LEAST`."""

MEMORY = 4000
"""Comparisons after which the older half of what was learned is forgotten: some hours at 5 s."""


@dataclass
class _Octave:
    """What a meter has taught of one octave of its value."""

    compared: float = 0.0
    equal: float = 0.0
    longest: int = 0

    def learn(self, repeats: int) -> None:
        """Take in a finished run."""
        self.compared += repeats + 1
        self.equal += repeats
        self.longest = max(self.longest, repeats)
        if self.compared > MEMORY:
            self.compared, self.equal = 0.5 * self.compared, 0.5 * self.equal
            self.longest = math.ceil(0.5 * self.longest)

    def chance(self, repeats: int) -> float:
        """Return the probability of a run of at least so many repeats."""
        steps = range(repeats)
        return math.prod((self.equal + 0.5 + i) / (self.compared + 1.0 + i) for i in steps)


@dataclass
class _Memory:
    """One meter: its last value, the run of it, and what it has taught."""

    value: float = math.nan
    since_us: int = 0
    repeats: int = 0
    stuck: bool = False
    octaves: dict[int, _Octave] = field(default_factory=dict)

    def octave(self) -> _Octave:
        """Return what is known of values like the present one."""
        exponent = math.frexp(self.value)[1]
        known = self.octaves.get(exponent)
        if known is None:
            known = self.octaves[exponent] = _Octave()
        return known


class StuckMeters:
    """Which meters are stuck; one object a run.

    Parameters
    ----------
    park
        The park.
    table
        Its meters.
    """

    def __init__(self, park: Park, table: MeterArrays) -> None:
        self._meters: Sequence[Meter] = park.meters
        self._table = table
        self._judged = np.array([
            m.sampling == "periodic" and kind not in (Averaging.COUNTER, Averaging.TICKET)
            for m, kind in zip(park.meters, table.averaging, strict=True)], dtype=np.bool_)
        units = [conversion(m.unit) for m in park.meters]
        self._exempt = [
            {0.0, u.offset} | ({u.to_si(m.span[0]), u.to_si(m.span[1])} if m.span else set())
            for m, u in zip(park.meters, units, strict=True)]
        self._memory = [_Memory() for _ in park.meters]

    @property
    def flagged(self) -> Bools:
        """Meters that are stuck, bool, shape (n_meters,)."""
        return np.array([memory.stuck for memory in self._memory], dtype=np.bool_)

    @property
    def pausing(self) -> Bools:
        """Meters that have just repeated themselves and may turn out to be stuck, bool, shape (n_meters,).

        One at zero or at the end of its span never is; if the balances contradict it, that is a bias.
        """
        return np.array([
            memory.repeats >= AT_LEAST and memory.value not in exempt
            for memory, exempt in zip(self._memory, self._exempt, strict=True)], dtype=np.bool_)

    def step(self, readings: Readings) -> list[Change]:
        """Judge the new readings of a window, in order of time for each meter."""
        usable = (readings.quality != BAD) & self._judged[readings.meter]
        changes: list[Change] = []
        columns = (readings.meter[usable].tolist(), readings.time_us[usable].tolist(), readings.value[usable].tolist())
        for m, time_us, value in zip(*columns, strict=True):
            memory = self._memory[m]
            if value == memory.value:
                memory.repeats += 1
                if not memory.stuck and self._is_stuck(m, memory):
                    memory.stuck = True
                    changes.append(self._opened(m, memory, time_us))
            else:
                changes += self._ended(m, memory, time_us)
                memory.value, memory.since_us, memory.repeats = value, time_us, 0
        return changes

    def _is_stuck(self, m: int, memory: _Memory) -> bool:
        if memory.value in self._exempt[m] or memory.repeats < AT_LEAST:
            return False
        known = memory.octave()
        return memory.repeats >= BEYOND_LONGEST * known.longest + AT_LEAST and known.chance(memory.repeats) < CHANCE

    def _ended(self, m: int, memory: _Memory, time_us: int) -> list[Change]:
        """Finish a run: learn from it, or close the event."""
        if memory.stuck:
            memory.stuck = False
            return [Closed(KIND, self._table.ids[m], time_us)]
        if not math.isnan(memory.value) and memory.value not in self._exempt[m]:
            memory.octave().learn(memory.repeats)
        return []

    def _opened(self, m: int, memory: _Memory, time_us: int) -> Opened:
        meter, known = self._meters[m], memory.octave()
        shown = conversion(meter.unit).from_si(memory.value)
        lasted_s = (time_us - memory.since_us) / 1e6
        return Opened(
            KIND, meter.id, memory.since_us + int(self._table.interval_us[m]), "medium",
            f"{meter.id} has repeated {shown:.6g} {meter.unit} for {lasted_s:.0f} s",
            float(memory.repeats), float(BEYOND_LONGEST * known.longest + AT_LEAST),
            evidence={"value": shown, "unit": meter.unit, "repeats": memory.repeats,
                      "chance": known.chance(memory.repeats), "compared": known.compared, "equal": known.equal,
                      "longest_before": known.longest})

    def as_json(self) -> dict[str, object]:
        """Return the state for the store: by meter the value, since, repeats, stuck, and what was learned."""
        return {
            meter.id: [None if math.isnan(s.value) else s.value, s.since_us, s.repeats, s.stuck,
                       [[o, known.compared, known.equal, known.longest] for o, known in s.octaves.items()]]
            for meter, s in zip(self._meters, self._memory, strict=True)}

    def restore(self, stored: Mapping[str, object]) -> None:
        """Take up the state that `as_json` wrote; meters that the park no longer has are forgotten."""
        for m, meter in enumerate(self._meters):
            kept = stored.get(meter.id)
            if isinstance(kept, list):
                value, since, repeats, stuck, octaves = kept
                self._memory[m] = _Memory(
                    math.nan if value is None else value, since, repeats, stuck,
                    {o: _Octave(compared, equal, longest) for o, compared, equal, longest in octaves})
