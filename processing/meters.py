"""The park's meters as arrays: how each is averaged over a window, and how uncertain the result is.

Here: `MeterArrays`, everything about meters that does not change from window to window, and the variance of a window's
value. Not here: averaging (window.py) and what a meter says about the park's flows (observation.py). The main path
enters at `MeterArrays.of`, once a park, and at `MeterArrays.variances`, once a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from park.model import Meter, Park
from park.units import conversion

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

STD_PER_U95 = 1.0 / 1.96
"""VDI 2048: the 95 % half-width is 1.96 standard deviations."""

HOLD_INTERVALS = 3.0
"""A held value lasts this many intervals where park.yaml says that the meter never goes stale."""

LEAST_RANDOM_SHARE = 0.01
"""No meter is taken to repeat itself exactly: of the variance at least this share is taken for random. It matters
where a systematic error cancels (levels, counters, the two ends of a delay), and keeps such differences from weighing
without limit."""

UNCERTAIN_FACTOR = 4.0
"""Variance of a window that has uncertain readings alone, over that of good ones: twice the std. OPC UA says of
Uncertain only that the value is less sure than usual; doubling keeps it in use without letting it lead."""

ALWAYS_US = 2**62
"""Beyond any time [us]: a meter without `valid_to` counts until then, one without `valid_from` from minus that on."""

COUNTERS = frozenset({"mass_total", "volume_total", "energy_total"})


class Averaging(IntEnum):
    """How the readings of a window become one value."""

    MEAN = 0        # of the readings: periodic meters
    HELD = 1        # each reading lasts until the next: meters sampled on change, or more slowly than windows pass
    COUNTER = 2     # the rate at which a counter ran on
    LEVEL = 3       # the rate at which an inventory changed
    TICKET = 4      # weighbridge tickets: amounts, which belong to no window


@dataclass(frozen=True, eq=False)
class Variances:
    """Variance of values, apart by whether it averages out from one window to the next.

    Attributes
    ----------
    systematic, random
        Shape (n,) [unit of the value, squared].
    """

    systematic: Floats
    random: Floats

    @property
    def total(self) -> Floats:
        """Both together, shape (n,)."""
        total: Floats = self.systematic + self.random
        return total


@dataclass(frozen=True, eq=False)
class MeterArrays:
    """All meters of a park, each array of shape (n_meters,) in the park's order, in SI.

    Attributes
    ----------
    ids
        The meters' ids.
    averaging
        Values of `Averaging`.
    interval_us, hold_us
        Sampling interval, and how long a value may be held [us].
    stale_us
        Without a reading for this long a meter is silent [us]; 0: never.
    offset
        SI value of the unit's zero: percentages of reading count from there.
    relative, fixed
        u95 of a reading: share of the reading [1], and the terms that do not depend on it [SI].
    share
        Systematic share of the variance [1].
    modulus, resolution
        Of counters [SI]; infinite and 0 where there is none.
    valid_from_us, valid_to_us
        First instant at which a meter counts, and first at which it no longer does [us].
    """

    ids: tuple[str, ...]
    averaging: Ints
    interval_us: Ints
    hold_us: Ints
    stale_us: Ints
    offset: Floats
    relative: Floats
    fixed: Floats
    share: Floats
    modulus: Floats
    resolution: Floats
    valid_from_us: Ints
    valid_to_us: Ints

    @classmethod
    def of(cls, park: Park) -> MeterArrays:
        """Tabulate the meters of a park."""
        meters, window_s = park.meters, park.park.window_s
        units = [conversion(m.unit) for m in meters]
        scale = np.array([u.scale for u in units])
        interval = np.array([m.interval_s for m in meters])
        stale = np.array([m.stale_after_s or 0.0 for m in meters])
        return cls(
            ids=tuple(m.id for m in meters),
            averaging=np.array([_averaging(m, window_s) for m in meters], dtype=np.int64),
            interval_us=_microseconds(interval),
            hold_us=_microseconds(np.array([_hold_s(m) for m in meters])),
            stale_us=_microseconds(stale),
            offset=np.array([u.offset for u in units]),
            relative=np.array([(m.u95_percent_of_reading or 0.0) / 100.0 for m in meters]),
            fixed=np.array([_fixed_u95(m) for m in meters]) * scale,
            share=np.array([min(m.systematic_share, 1.0 - LEAST_RANDOM_SHARE) for m in meters]),
            modulus=np.array([m.counter.modulus if m.counter else np.inf for m in meters]) * scale,
            resolution=np.array([m.counter.resolution if m.counter else 0.0 for m in meters]) * scale,
            valid_from_us=np.array([instant_us(m.valid_from, -ALWAYS_US) for m in meters], dtype=np.int64),
            valid_to_us=np.array([instant_us(m.valid_to, ALWAYS_US) for m in meters], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def variances(self, meter: Ints, expected: Floats, count: Floats, span_s: Floats) -> Variances:
        """Return the variances of window values.

        Parameters
        ----------
        meter
            Which meters, shape (n,).
        expected
            What they should have read, shape (n,) [SI; of counters the rate, of inventories the level].
        count
            Readings that the value comes from, shape (n,).
        span_s
            Of counters and inventories: the time between the first and the last reading, shape (n,) [s].

        Returns
        -------
        Variances
            Of the window's values, shape (n,) [SI; of counters and inventories of the rate].

        Notes
        -----
        A mean: ``(u95 / 1.96)^2 (share + (1 - share) / n)``. A rate from two readings d apart: what is fixed and
        systematic cancels, ``2 (1 - share) (fixed / 1.96)^2 / d^2``, a counter's steps add
        ``resolution^2 / (6 d^2)`` (two uniform errors), and its percentage applies to the rate as to a mean.
        """
        kind, share = self.averaging[meter], self.share[meter]
        relative = (self.relative[meter] * abs(expected - self.offset[meter]) * STD_PER_U95) ** 2
        fixed = (self.fixed[meter] * STD_PER_U95) ** 2
        n = np.maximum(count, 1.0)
        spread = np.square(np.maximum(span_s, 1e-6))
        varies = 1.0 - share
        mean = Variances((relative + fixed) * share, (relative + fixed) * varies / n)
        steps = self.resolution[meter] ** 2 / 6.0
        counter = Variances(relative * share, relative * varies / n + (2.0 * fixed * varies + steps) / spread)
        level = Variances(np.zeros_like(fixed), 2.0 * (relative + fixed) * varies / spread)
        cases = [kind == Averaging.COUNTER, kind == Averaging.LEVEL]
        return Variances(
            np.select(cases, [counter.systematic, level.systematic], mean.systematic),
            np.select(cases, [counter.random, level.random], mean.random),
        )


def _averaging(meter: Meter, window_s: float) -> Averaging:
    if meter.quantity in COUNTERS:
        return Averaging.COUNTER
    if meter.quantity == "inventory":
        return Averaging.LEVEL
    if meter.quantity == "mass_batch":
        return Averaging.TICKET
    slow = meter.interval_s > window_s
    return Averaging.HELD if slow or meter.sampling == "on_change" else Averaging.MEAN


def _hold_s(meter: Meter) -> float:
    """How long a value may stand for the time after it [s]; without limit for one that is sampled on change."""
    if meter.stale_after_s is not None:
        return max(meter.stale_after_s, meter.interval_s)
    return np.inf if meter.sampling == "on_change" else HOLD_INTERVALS * meter.interval_s


def _fixed_u95(meter: Meter) -> float:
    """Return the terms of u95 that do not depend on the reading, in the meter's unit."""
    return meter.u95(0.0)


def instant_us(moment: datetime | None, otherwise: int) -> int:
    """Return a time as microseconds since 1970 UTC; `otherwise` where there is none [us]."""
    return otherwise if moment is None else round(moment.timestamp() * 1e6)


def _microseconds(seconds: Floats) -> Ints:
    """Seconds as whole microseconds; infinite becomes a century, which no sum overflows."""
    return np.rint(np.minimum(seconds, 3.2e9) * 1e6).astype(np.int64)
