"""What the park's instruments read: the true values with each meter's own errors, rounded as it shows them.

Here: errors (one systematic draw a meter, one random draw a reading), counters, rounding, and which meters are due
at which instant of the run clock. Not here: the true values (`simulators.truth`), defects on a schedule
(`simulators.faults`), the protocols (`simulators.opcua_server`, `simulators.mqtt_publisher`).

The main path enters at `Instruments.measure`, once a tick: `true -> measured`, all meters of the tick at once.
Every draw is a function of (seed, meter, source time) alone, so a run can be repeated, whatever the order of
meters and ticks.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from park.model import Meter

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

STD_PER_U95 = 1.0 / 1.96                  # VDI 2048: u95 is 1.96 standard deviations
RESOLUTION_PER_U95 = 0.1                  # rounding to u95 / 10 adds (0.1 / sqrt(12) x 1.96)^2 = 0.3 % to the variance
COUNTERS = frozenset({"mass_total", "volume_total", "energy_total"})
INTEGRATING = COUNTERS | {"mass_batch"}
GOLDEN = 0x9E3779B97F4A7C15               # 2^64 / golden ratio: the increment of splitmix64 (Steele et al. 2014)


def microseconds(seconds: float) -> int:
    """Return `seconds` since 1970 as whole microseconds, the finest step of a source time."""
    return round(seconds * 1e6)


@dataclass(frozen=True)
class Tick:
    """An instant at which meters are due.

    Attributes
    ----------
    time_us
        Source time [microseconds since 1970 UTC].
    index
        Positions of the meters in `park.meters`, ascending, shape (n_due,).
    """

    time_us: int
    index: Indices

    @property
    def time(self) -> float:
        """Source time [s since 1970 UTC]."""
        return self.time_us / 1e6


@dataclass(frozen=True)
class Readings:
    """What the instruments hand on at one instant.

    Attributes
    ----------
    time_us
        Source time [microseconds since 1970 UTC].
    index
        Positions of the meters in `park.meters`, shape (n,).
    values
        Shape (n,) [unit of each meter]; NaN where there is only a status.
    statuses
        OPC UA StatusCodes, shape (n,).
    """

    time_us: int
    index: Indices
    values: Floats
    statuses: NDArray[np.uint32]

    def of(self, chosen: NDArray[np.bool_]) -> Readings:
        """Return the readings of the `chosen` meters, a mask over all meters of the park, shape (n_meters,)."""
        here = chosen[self.index]
        return Readings(self.time_us, self.index[here], self.values[here], self.statuses[here])


class Schedule:
    """When each meter is due: at the multiples of its interval since 1970, on the run clock alone."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        groups: dict[int, list[int]] = defaultdict(list)
        for position, meter in enumerate(meters):
            groups[max(1, microseconds(meter.interval_s))].append(position)
        self._groups = {interval: np.array(members, dtype=np.intp) for interval, members in sorted(groups.items())}

    def ticks(self, since: float) -> Iterator[Tick]:
        """Yield every tick at or after `since` [s since 1970 UTC], in order, without end.

        A park without meters yields nothing.
        """
        start = math.ceil(round(since * 1e6, 3))
        due = {interval: -(-start // interval) * interval for interval in self._groups}
        while due:
            time_us = min(due.values())
            intervals = [interval for interval, at in due.items() if at == time_us]
            yield Tick(time_us, np.sort(np.concatenate([self._groups[interval] for interval in intervals])))
            for interval in intervals:
                due[interval] += interval


def _key(*parts: object) -> int:
    """Hash `parts` to 64 bits, the same on every machine and in every run."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalise splitmix64: every bit of the result depends on every bit of `state`, shape (n,)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _uniform(keys: NDArray[np.uint64], counter: int) -> Floats:
    """Return one number in (0, 1) for each key and counter, shape (n,)."""
    step = np.array([counter * GOLDEN & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    bits = _mixed(_mixed(keys + step) ^ keys)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def family(quantity: str) -> str:
    """Return the family in which systematic errors are spread evenly: flows of all kinds, or the one property."""
    return "flow" if quantity.rpartition("_")[2] in ("flow", "total", "batch") or quantity == "power" else quantity


def systematic_errors(meters: Sequence[Meter], seed: int) -> Floats:
    """Draw each meter's systematic error of the run, in standard deviations of it.

    A Latin hypercube: the n meters of a family get one draw from each of the n equally probable slices of the
    normal distribution, in random order. So every seed plays a mix of good and bad meters that is typical of
    the family, and no run stands on a lucky draw.

    Parameters
    ----------
    meters
        The park's meters.
    seed
        Of the run.

    Returns
    -------
    ndarray
        Shape (n_meters,), standard normal; independent of the order of `meters`.
    """
    families: dict[str, list[int]] = defaultdict(list)
    for position in sorted(range(len(meters)), key=lambda position: meters[position].id):
        families[family(meters[position].quantity)].append(position)
    drawn = np.zeros(len(meters))
    for name, members in families.items():
        rng = np.random.default_rng(_key(seed, "systematic", name))
        drawn[members] = ndtri((rng.permutation(len(members)) + rng.random(len(members))) / len(members))
    return drawn


def default_resolution(u95: Floats) -> Floats:
    """Return the smallest step that a meter shows: the largest power of ten not above a tenth of its u95.

    Parameters
    ----------
    u95
        Half-width of one reading at the typical value, shape (n,) [unit of each meter]; 0 or NaN: not rounded.

    Returns
    -------
    ndarray
        Shape (n,) [unit of each meter]; 0 where values are not rounded.
    """
    usable = np.isfinite(u95) & (u95 > 0.0)
    exponent = np.floor(np.log10(np.where(usable, u95, 1.0) * RESOLUTION_PER_U95) + 1e-9)
    return np.where(usable, 10.0**exponent, 0.0)


def rounded(values: Floats, resolution: Floats) -> Floats:
    """Round `values`, shape (n,), to the nearest multiple of `resolution`, shape (n,); 0: as they are.

    Steps below 1 are applied as divisions by whole numbers, so that 12.3 comes out as 12.3.
    """
    fine = (resolution > 0.0) & (resolution < 1.0)
    per_unit = np.round(1.0 / np.where(fine, resolution, 1.0))
    whole = np.abs(per_unit * resolution - 1.0) < 1e-9
    step = np.where(resolution > 0.0, resolution, 1.0)
    by_division = np.round(values * per_unit) / per_unit
    by_product = np.round(values / step) * step
    return np.where(resolution > 0.0, np.where(fine & whole, by_division, by_product), values)


class Instruments:
    """All meters of a park, with the errors that this run dealt them.

    Parameters
    ----------
    meters
        The park's meters; every array below follows their order and units.
    seed
        Of the run.
    typical
        A typical true value of each meter, shape (n_meters,) [unit of each meter]: sets the default resolution.
    resolution
        Smallest step shown, by meter id [unit of the meter], where the scenario knows better than the default.

    Raises
    ------
    ValueError
        If `typical` has not one value a meter.

    Notes
    -----
    ``std = sqrt((percent_of_reading x true)^2 + percent_of_span^2 + absolute^2) / 1.96``, and
    ``measured = true + std (sqrt(share) systematic + sqrt(1 - share) random)`` (VDI 2048).

    A counter registers each true increment with the error of its percentage; its absolute term is the error of
    reading the dial, which does not add up. It never runs backwards, but rolls over at its modulus.
    """

    def __init__(
        self, meters: Sequence[Meter], seed: int, typical: Floats, *, resolution: Mapping[str, float] | None = None
    ) -> None:
        if typical.shape != (len(meters),):
            raise ValueError(f"typical must have shape ({len(meters)},), got {typical.shape}")
        self.meters = tuple(meters)
        self._keys = np.array([_key(seed, "random", m.id) for m in meters], dtype=np.uint64)
        self._relative = np.array([(m.u95_percent_of_reading or 0.0) / 100.0 for m in meters])
        self._fixed = np.array([m.u95(0.0) for m in meters])
        share = np.array([m.systematic_share for m in meters])
        self._constant = np.sqrt(share) * systematic_errors(meters, seed)
        self._varying = np.sqrt(1.0 - share)
        self._resolution = self._resolutions(typical, resolution or {})
        self._dials = {i: _Dial(m, seed) for i, m in enumerate(meters) if m.quantity in INTEGRATING}
        self._has_dial = np.array([m.quantity in INTEGRATING for m in meters], dtype=np.bool_)

    def _resolutions(self, typical: Floats, given: Mapping[str, float]) -> Floats:
        """Return the step of each meter, shape (n_meters,): as given, that of the counter, or the default."""
        steps = default_resolution(self.u95(np.arange(len(self.meters)), typical))
        for i, meter in enumerate(self.meters):
            if meter.id in given:
                steps[i] = given[meter.id]
            elif meter.quantity in COUNTERS:
                steps[i] = 0.0           # the dial counts in whole steps by itself
        return steps

    def u95(self, index: Indices, true: Floats) -> Floats:
        """Return the half-width of one reading at `true`, shape (n,) [unit of each meter], of meters `index` (n,)."""
        half_width: Floats = np.hypot(self._relative[index] * true, self._fixed[index])
        return half_width

    def resolution(self, index: Indices) -> Floats:
        """Return the smallest step of the meters `index`, shape (n,) [unit of each meter]; 0: not rounded."""
        steps: Floats = self._resolution[index]
        return steps

    def measure(self, tick: Tick, true: Floats) -> Floats:
        """Return what the due meters measure, before rounding.

        Parameters
        ----------
        tick
            When, and which meters.
        true
            Shape (n_due,) [unit of each meter]: the true value; of a counter or a weighbridge the true amount
            that has passed since its previous tick.

        Returns
        -------
        ndarray
            Shape (n_due,) [unit of each meter]: values, and amounts for counters and weighbridges.
        """
        error: Floats = self._constant[tick.index] + self._varying[tick.index] * ndtri(
            _uniform(self._keys[tick.index], tick.time_us))
        fixed = np.where(self._has_dial[tick.index], 0.0, self._fixed[tick.index])
        std: Floats = np.hypot(self._relative[tick.index] * true, fixed) * STD_PER_U95
        measured: Floats = true + std * error
        return measured

    def show(self, tick: Tick, measured: Floats) -> Floats:
        """Return what the due meters show: counters advanced by what they measured, everything rounded.

        Parameters
        ----------
        tick
            As for `measure`.
        measured
            From `measure`, shape (n_due,) [unit of each meter], with whatever faults distort it.

        Returns
        -------
        ndarray
            Shape (n_due,) [unit of each meter].
        """
        shown = measured.copy()
        for position in np.flatnonzero(self._has_dial[tick.index]):
            i = int(tick.index[position])
            shown[position] = self._dials[i].advance(float(measured[position]), self._dial_error(i, tick.time_us))
        return rounded(shown, self._resolution[tick.index])

    def _dial_error(self, i: int, time_us: int) -> float:
        """Return the error of reading meter i's dial at this instant [unit of the meter]."""
        if not self._fixed[i]:
            return 0.0
        random = float(ndtri(_uniform(self._keys[i:i + 1] ^ np.uint64(GOLDEN), time_us))[0])
        return float(self._fixed[i] * STD_PER_U95 * (self._constant[i] + self._varying[i] * random))


class _Dial:
    """A counter's register, or the sum on a weighbridge ticket."""

    def __init__(self, meter: Meter, seed: int) -> None:
        self._counts = meter.quantity in COUNTERS
        self._modulus = meter.counter.modulus if meter.counter else math.inf
        self._step = meter.counter.resolution if meter.counter else 0.0
        start = _uniform(np.array([_key(seed, "dial", meter.id)], dtype=np.uint64), 0)[0]
        self._register = start * self._modulus if math.isfinite(self._modulus) else 0.0
        self._highest = self._register

    def advance(self, amount: float, error: float) -> float:
        """Register `amount` [unit of the meter] and return what is shown; `error` is that of reading it."""
        if not self._counts:
            return max(0.0, amount + error)
        self._register += max(0.0, amount)
        self._highest = max(self._highest, self._register + error)
        if self._highest >= 2.0 * self._modulus:       # keep the fine steps of a register that has gone round
            self._register -= self._modulus
            self._highest -= self._modulus
        if not self._step:
            return self._highest % self._modulus
        steps = math.floor(self._highest / self._step + 1e-9)      # whole steps, forgiving the last bit of a sum
        if math.isfinite(self._modulus):
            steps %= max(1, round(self._modulus / self._step))
        return float(rounded(np.array([steps * self._step]), np.array([self._step]))[0])
