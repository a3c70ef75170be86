"""What moves a park: loads by hour and week, and smooth random wander; functions of run time and seed alone.

Here: `Wanders` and `Loads`, vectorised over streams, and `draw`, one number for ever of a seed and a name. No state:
the same instant gives the same value, whichever way a run came to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from simulators.scenario import Profile

FloatArray = npt.NDArray[np.float64]

TONES = 5               # enough for a sum that looks random; its extreme is sqrt(2 TONES) = 3.2 std, never more
PERIODS = (0.5, 2.0)    # tones lie between half and double the typical period
HOUR, WEEK = 3600.0, 168
MONDAY = 4 * 86400.0    # 1970-01-05, the first Monday of Unix time


def draw(*key: object) -> float:
    """Return a standard normal number that is a function of `key` alone."""
    return float(ndtri(_uniform(key)))


def _uniform(key: Sequence[object]) -> float:
    """Return a number in (0, 1) that is a function of `key` alone, on any machine."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in key).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") + 0.5) / 2.0**64


class Wanders:
    """Smooth random movements about 0 with a standard deviation of 1 each.

    Parameters
    ----------
    seed
        Of the run.
    names
        What moves, length n; equal names move alike.
    periods
        Typical period of each [s], shape (n,).
    """

    def __init__(self, seed: int, names: Sequence[str], periods: FloatArray) -> None:
        shape = (len(names), TONES)
        keys = [[(seed, name, tone) for tone in range(TONES)] for name in names]
        low, high = PERIODS
        factor = np.array([[low * (high / low) ** _uniform((*k, "period")) for k in row] for row in keys])
        phase = np.array([[_uniform((*k, "phase")) for k in row] for row in keys])
        self._phase = 2.0 * np.pi * phase.reshape(shape)
        self._omega = 2.0 * np.pi / (periods[:, None] * factor.reshape(shape))

    def at(self, time: float) -> FloatArray:
        """Return the movements at run time `time` [s], shape (n,)."""
        values: FloatArray = np.sqrt(2.0 / TONES) * np.sin(self._omega * time + self._phase).sum(axis=1)
        return values


class Loads:
    """Load factors over the local week, a mean of 1 over it, straight lines between the middles of the hours.

    Parameters
    ----------
    profiles
        One for each stream, None for a constant 1; length n.
    timezone
        Of the park.
    """

    def __init__(self, profiles: Sequence[Profile | None], timezone: str) -> None:
        weeks = [np.ones(WEEK) if p is None else np.outer(p.days, p.hours).ravel() for p in profiles]
        self._weeks = np.array([week / week.mean() for week in weeks]).reshape(len(profiles), WEEK)
        self._zone = ZoneInfo(timezone)

    def at(self, time: float) -> FloatArray:
        """Return the factors at run time `time` [s], shape (n,)."""
        offset = datetime.fromtimestamp(time, UTC).astimezone(self._zone).utcoffset()
        local = time + (offset.total_seconds() if offset is not None else 0.0)
        hours = ((local - MONDAY) / HOUR - 0.5) % WEEK
        before = int(hours)
        share = hours - before
        values: FloatArray = (1.0 - share) * self._weeks[:, before] + share * self._weeks[:, (before + 1) % WEEK]
        return values
