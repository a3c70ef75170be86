"""Windows on the source clock: the one place where missing, bad, held and unmeasured are decided.

    Readings ──► average(slots, window) ──► Means: one value a slot, or NaN
    of meters     a slot is a meter, seen some time earlier where its stream has a delay

The rules:

- a window is [start, end) on the instruments' clock, in whole microseconds;
- a reading before its meter's `valid_from`, or from its `valid_to` on, is no reading (`Readings.in_force`);
- a bad reading, and one without a number, is no reading; a window of a meter without any reading is unmeasured;
- uncertain readings are used where a window has no good one, with twice the std (`meters.UNCERTAIN_FACTOR`);
- a periodic meter's value is the mean of its readings; coverage is their number over the number due;
- a meter that is sampled on change, or more slowly than windows pass, holds each value until the next reading, until
  a bad one, or for its `stale_after_s`; the value is the mean over time, coverage the time held over the window;
- a counter's value is the rate between its last reading before the window and its last in it; a count that falls by
  more than half its modulus has rolled over, any other fall is a reset and leaves the window unmeasured;
- an inventory's value is the rate of change between the same two readings, so that over many windows the errors of
  the readings between cancel; what is held up is that of a time earlier by the age of the last reading;
- weighbridge tickets are amounts and belong to no window: they are for statements, not for balances.

Here: that, and nothing of flows or balances. Not here: which windows are due (cycle.py), the meters' uncertainty
(meters.py). The main path enters at `average`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from park.quality import Quality
from processing.meters import Averaging, Bools, Floats, Ints, MeterArrays

Qualities = npt.NDArray[np.uint8]

GOOD, UNCERTAIN, BAD = (np.uint8(int(q)) for q in (Quality.GOOD, Quality.UNCERTAIN, Quality.BAD))

BEFORE = -(2**62)
"""Before any time [us]."""


@dataclass(frozen=True, eq=False)
class Readings:
    """Readings of all meters, in order of meter, then of time, each key once.

    Attributes
    ----------
    meter
        Positions in the park's meters, shape (n,).
    time_us
        Source times, shape (n,) [us since 1970 UTC].
    value
        Shape (n,) [SI]; NaN where none came.
    quality
        Values of `park.quality.Quality`, shape (n,).
    start
        Where each meter's readings begin, shape (n_meters + 1,).
    """

    meter: Ints
    time_us: Ints
    value: Floats
    quality: Qualities
    start: Ints

    @classmethod
    def of(
        cls,
        n_meters: int,
        meter: npt.ArrayLike,
        time_us: npt.ArrayLike,
        value: npt.ArrayLike,
        quality: npt.ArrayLike | None = None,
    ) -> Readings:
        """Sort readings in any order; of several with one key the first given stays.

        Parameters
        ----------
        n_meters
            Number of meters in the park.
        meter, time_us, value, quality
            As the attributes, shape (n,), in any order; without `quality` all are good.

        Raises
        ------
        ValueError
            If the shapes differ, or a meter is not in the park.
        """
        which, time = np.asarray(meter, dtype=np.int64), np.asarray(time_us, dtype=np.int64)
        values = np.asarray(value, dtype=np.float64)
        worth = np.zeros(len(which), np.uint8) if quality is None else np.asarray(quality, dtype=np.uint8)
        if not which.shape == time.shape == values.shape == worth.shape:
            raise ValueError(f"shapes differ: {which.shape}, {time.shape}, {values.shape}, {worth.shape}")
        if which.size and not (which.min() >= 0 and which.max() < n_meters):
            raise ValueError(f"meters must lie in 0..{n_meters - 1}")
        order = np.lexsort((time, which))
        which, time, values, worth = which[order], time[order], values[order], worth[order]
        fresh = np.ones(len(which), dtype=np.bool_)
        fresh[1:] = (which[1:] != which[:-1]) | (time[1:] != time[:-1])
        worth = np.where(np.isnan(values), BAD, worth)
        start = np.searchsorted(which[fresh], np.arange(n_meters + 1))
        return cls(which[fresh], time[fresh], values[fresh], worth[fresh], start.astype(np.int64))

    def __len__(self) -> int:
        return len(self.meter)

    @property
    def n_meters(self) -> int:
        """Number of meters in the park."""
        return len(self.start) - 1

    def between(self, start_us: int, end_us: int) -> Readings:
        """Return the readings of [start_us, end_us)."""
        return self._where((self.time_us >= start_us) & (self.time_us < end_us))

    def joined(self, *others: Readings) -> Readings:
        """Return these and the `others`; of a key that several have, the first one's."""
        parts = (self, *others)
        return Readings.of(
            self.n_meters,
            np.concatenate([part.meter for part in parts]),
            np.concatenate([part.time_us for part in parts]),
            np.concatenate([part.value for part in parts]),
            np.concatenate([part.quality for part in parts]),
        )

    def in_force(self, table: MeterArrays) -> Readings:
        """Return the readings from within their meters' `valid_from` and `valid_to`."""
        begun = self.time_us >= table.valid_from_us[self.meter]
        kept = begun & (self.time_us < table.valid_to_us[self.meter])
        return self if kept.all() else self._where(kept)

    def usable(self) -> Readings:
        """Return the readings that are not bad."""
        kept = self.quality != BAD
        return self if kept.all() else self._where(kept)

    def last_time_us(self) -> Ints:
        """Return each meter's last source time, shape (n_meters,) [us]; `BEFORE` where it has no reading."""
        last = np.full(self.n_meters, BEFORE, dtype=np.int64)
        some = self.start[1:] > self.start[:-1]
        last[some] = self.time_us[self.start[1:][some] - 1]
        return last

    def _where(self, kept: Bools) -> Readings:
        start = np.concatenate([[0], np.cumsum(kept)])[self.start]
        return Readings(self.meter[kept], self.time_us[kept], self.value[kept], self.quality[kept], start)


@dataclass(frozen=True, eq=False)
class Slots:
    """Which meters are averaged, and how much earlier than the window each is seen.

    Attributes
    ----------
    meter
        Positions in the park's meters, shape (n_slots,).
    shift_us
        Shape (n_slots,) [us]; 0: in the window itself.
    """

    meter: Ints
    shift_us: Ints

    def __len__(self) -> int:
        return len(self.meter)


@dataclass(frozen=True, eq=False)
class Means:
    """What the slots' meters read in one window; each array of shape (n_slots,).

    Attributes
    ----------
    value
        Mean [SI], of counters and inventories the rate [SI/s]; NaN where unmeasured.
    level
        Of inventories the mean level [SI], else the same as `value`.
    count
        Readings that `value` comes from.
    coverage
        Share of the window that they speak for, 0 to 1.
    span_s
        Of counters and inventories the time between the two readings [s]; else 0.
    uncertain
        Whether there were only uncertain readings.
    """

    value: Floats
    level: Floats
    count: Floats
    coverage: Floats
    span_s: Floats
    uncertain: Bools


def average(readings: Readings, table: MeterArrays, slots: Slots, start_us: int, end_us: int) -> Means:
    """Average the readings of one window.

    Parameters
    ----------
    readings
        At least those of the window and of what came before it as far as slots look back and values are held.
    table
        The meters.
    slots
        What to average, shape (n_slots,).
    start_us, end_us
        The window [us since 1970 UTC].

    Returns
    -------
    Means
        Arrays of shape (n_slots,).

    Raises
    ------
    ValueError
        If the window is empty.
    """
    if end_us <= start_us:
        raise ValueError(f"a window ends after its start, got [{start_us}, {end_us})")
    found = np.full((len(slots), 6), np.nan)
    low = start_us - slots.shift_us
    high = np.minimum(end_us - slots.shift_us, table.valid_to_us[slots.meter])      # nothing is held beyond
    kind = table.averaging[slots.meter]
    for averaging, kernel in _KERNELS.items():
        chosen = np.flatnonzero(kind == averaging)
        if chosen.size:
            which = slots.meter[chosen]
            limits = np.stack([low[chosen], high[chosen], table.hold_us[which]], axis=1)
            found[chosen] = kernel(
                readings.start, readings.time_us, readings.value, readings.quality, which, limits, table.modulus[which])
    value, level, count, covered, span_us, uncertain = found.T
    due = np.maximum(1.0, np.rint((end_us - start_us) / table.interval_us[slots.meter]))
    by_number = np.isin(kind, (Averaging.MEAN, Averaging.COUNTER, Averaging.LEVEL))
    share = np.where(by_number, covered / due, covered / (end_us - start_us))
    return Means(
        value=value.copy(),
        level=np.where(kind == Averaging.LEVEL, level, value),
        count=np.nan_to_num(count),
        coverage=np.where(np.isnan(value), 0.0, np.minimum(np.nan_to_num(share), 1.0)),
        span_s=np.nan_to_num(span_us) / 1e6,
        uncertain=uncertain == 1.0,
    )


@njit(cache=True)
def _mean(
    start: Ints, time: Ints, value: Floats, quality: Qualities, meter: Ints, limits: Ints, modulus: Floats
) -> Floats:
    """Average each slot's readings; columns value, level, count, covered (readings), span, uncertain."""
    out = np.full((len(meter), 6), np.nan)
    for s in range(len(meter)):
        first, last = start[meter[s]], start[meter[s] + 1]
        i = first + np.searchsorted(time[first:last], limits[s, 0])
        good_sum, good, other_sum, other = 0.0, 0, 0.0, 0
        while i < last and time[i] < limits[s, 1]:
            if quality[i] == 0:
                good_sum += value[i]
                good += 1
            elif quality[i] == 1:
                other_sum += value[i]
                other += 1
            i += 1
        if good:
            out[s, 0], out[s, 2], out[s, 5] = good_sum / good, good, 0.0
        elif other:
            out[s, 0], out[s, 2], out[s, 5] = other_sum / other, other, 1.0
        out[s, 3] = out[s, 2]
    return out


@njit(cache=True)
def _held(
    start: Ints, time: Ints, value: Floats, quality: Qualities, meter: Ints, limits: Ints, modulus: Floats
) -> Floats:
    """Average each slot's value over time, every reading held; covered is the time held [us]."""
    out = np.full((len(meter), 6), np.nan)
    for s in range(len(meter)):
        first, last = start[meter[s]], start[meter[s] + 1]
        low, high, hold = limits[s, 0], limits[s, 1], limits[s, 2]
        i = first + np.searchsorted(time[first:last], low, side="right") - 1
        if i < first:
            i = first
        total = np.zeros(2)
        held = np.zeros(2, dtype=np.int64)
        used = np.zeros(2)
        while i < last and time[i] < high:
            begin = max(time[i], low)
            until = min(time[i] + hold, high)
            if i + 1 < last:
                until = min(until, time[i + 1])
            if quality[i] < 2 and until > begin:
                total[quality[i]] += value[i] * (until - begin)
                held[quality[i]] += until - begin
                used[quality[i]] += 1.0
            i += 1
        worth = 0 if held[0] > 0 else 1
        if held[worth] > 0:
            out[s, 0] = total[worth] / held[worth]
            out[s, 2], out[s, 3], out[s, 5] = used[worth], held[worth], float(worth)
    return out


@njit(cache=True)
def _ends(start: Ints, time: Ints, quality: Qualities, meter: int, limits: Ints) -> tuple[int, int, int]:
    """Return the last usable reading before the window, the last in it (-1: none), and how many are in it."""
    first, last = start[meter], start[meter + 1]
    i = first + np.searchsorted(time[first:last], limits[0])
    before = i - 1
    while before >= first and quality[before] > 1:
        before -= 1
    if before < first or time[before] < limits[0] - limits[2]:
        before = -1
    at, used = -1, 0
    while i < last and time[i] < limits[1]:
        if quality[i] < 2:
            if before == -1:
                before = i
            else:
                at = i
                used += 1
        i += 1
    return before, at, used


@njit(cache=True)
def _counted(
    start: Ints, time: Ints, value: Floats, quality: Qualities, meter: Ints, limits: Ints, modulus: Floats
) -> Floats:
    """Return the rate of each slot's counter; span is the time between the two readings [us]."""
    out = np.full((len(meter), 6), np.nan)
    for s in range(len(meter)):
        before, at, used = _ends(start, time, quality, meter[s], limits[s])
        if before < 0 or at < 0:
            continue
        passed = value[at] - value[before]
        if passed < -0.5 * modulus[s]:
            passed += modulus[s]
        span = time[at] - time[before]
        if passed >= 0.0:
            out[s, 0] = passed / span * 1e6
            out[s, 2], out[s, 3], out[s, 4] = used, used, span
            out[s, 5] = float(max(quality[at], quality[before]))
    return out


@njit(cache=True)
def _changed(
    start: Ints, time: Ints, value: Floats, quality: Qualities, meter: Ints, limits: Ints, modulus: Floats
) -> Floats:
    """Return the rate of change of each slot's inventory, and its level."""
    out = np.full((len(meter), 6), np.nan)
    for s in range(len(meter)):
        before, at, used = _ends(start, time, quality, meter[s], limits[s])
        if before < 0 or at < 0:
            continue
        span = time[at] - time[before]
        out[s, 0] = (value[at] - value[before]) / span * 1e6
        out[s, 1] = 0.5 * (value[at] + value[before])
        out[s, 2], out[s, 3], out[s, 4] = used, used, span
        out[s, 5] = float(max(quality[at], quality[before]))
    return out


_KERNELS = {
    Averaging.MEAN: _mean,
    Averaging.HELD: _held,
    Averaging.COUNTER: _counted,
    Averaging.LEVEL: _changed,
}
