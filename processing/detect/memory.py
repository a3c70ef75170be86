"""What the last windows' tests have shown: short and long means, and how much they differ from window to window.

Two horizons. The short one is the mean of the last `PERSISTENCE` windows, all of one sign and none below half of it:
soon there, but it has most of a window's noise. The long one is a running mean over about `LONG` windows, as long as
the short one goes the same way, and only where most of it was there before the last `PERSISTENCE` windows: it finds
what is small against that noise (a leak beside a tank whose level is coarse), later, and leaves what has just jumped to
the short one, which then has the size and the start of it. Its variance, over that of one window's noise, is followed:
1 / n at first, rate / (2 - rate) in the end. It begins anew when an error is named or ends, because what that did to
its neighbours is in it.

Here: that. Not here: the limits and the verdict (gross_errors.py). The main path enters at `Memory.add`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from processing.meters import Floats

PERSISTENCE = 3
"""Windows that a finding must last, and be gone."""

LONG = 30
"""Windows that the long mean is over, about: ten minutes to half an hour."""

LEAST_NOISE = 0.05
"""std of a statistic's window-to-window noise at least: no meter repeats itself exactly."""

NOISE_S = 3600.0
"""Time constant in which the noise is learned."""


class Memory:
    """The memory of n tests; one object a run.

    Parameters
    ----------
    n
        Number of tests.
    window_s
        Length of a window [s].
    """

    def __init__(self, n: int, window_s: float) -> None:
        self._learn = min(1.0 / PERSISTENCE, window_s / NOISE_S)
        self._seen: Floats = np.zeros(n)
        self._noise: Floats = np.zeros(n)               # variance of the innovation from window to window, as shown
        # innovations, statistics: (2, PERSISTENCE, n), newest last, and their long means (2, n)
        self._recent: Floats = np.full((2, PERSISTENCE, n), np.nan)
        self._mean: Floats = np.zeros((2, n))
        self._share: Floats = np.ones(n)
        self._count: Floats = np.zeros(n)

    def add(self, innovation: Floats, statistic: Floats, declared: Floats, open_: Iterable[int]) -> None:
        """Take in a window's tests, shape (n,); `declared` is the noise that meters declare.

        What is under suspicion, `open_`, teaches no noise.
        """
        now = np.stack([innovation, statistic])
        self._recent = np.concatenate([self._recent[:, 1:], now[:, None]], axis=1)
        seen = ~np.isnan(now).any(axis=0)
        self._count[seen] += 1
        rate = _rate(self._count)
        self._mean[:, seen] += (rate * (now - self._mean))[:, seen]
        self._share[seen] = ((1.0 - rate) ** 2 * self._share + rate**2)[seen]
        self._learn_noise(declared, list(open_))

    def _learn_noise(self, declared: Floats, open_: Sequence[int]) -> None:
        """Learn how much the innovations differ from one window to the next."""
        change = 0.5 * np.square(self._recent[0, -1] - self._recent[0, -2])
        learned = ~np.isnan(change)
        learned[open_] = False
        self._seen[learned] += 1
        capped = np.minimum(change, 9.0 * self.noise(declared))
        rate = np.maximum(self._learn, 1.0 / np.maximum(self._seen, 1.0))
        self._noise[learned] += (rate * (capped - self._noise))[learned]

    def noise(self, declared: Floats) -> Floats:
        """Return the variance of one window's noise, shape (n,): declared or shown, whichever is more."""
        known: Floats = np.maximum(np.maximum(self._noise, np.nan_to_num(declared)), LEAST_NOISE**2)
        return known

    def forget(self) -> None:
        """Begin the long means anew."""
        self._mean[:] = 0.0
        self._share[:] = 1.0
        self._count[:] = 0.0

    def lasting(self, *, by_change: bool, long: bool) -> Floats:
        """Return the mean of innovations (`by_change`) or statistics that lasts, shape (n,); 0 where none does."""
        recent, mean = self._recent[0 if by_change else 1], self._mean[0 if by_change else 1]
        short = _lasting(recent)
        if not long:
            return short
        with np.errstate(invalid="ignore"):
            now = recent.mean(axis=0)
            before = self._long_before(recent, mean)
            goes_on = (np.sign(now) == np.sign(mean)) & (abs(now) > 0.5 * abs(mean)) & (self._count >= LONG // 2)
            goes_on &= (np.sign(before) == np.sign(mean)) & (abs(before) > 0.5 * abs(mean))
        return np.where(goes_on, mean, 0.0)

    def _long_before(self, recent: Floats, mean: Floats) -> Floats:
        """Return what the long mean was before the last windows, shape (n,): these taken out of it again."""
        count, before = self._count.copy(), mean.copy()
        for window in recent[::-1]:
            seen = ~np.isnan(window) & (count > 1)
            rate = np.where(seen, _rate(count), 0.0)
            before = (before - rate * np.where(seen, window, 0.0)) / (1.0 - rate)
            count -= seen
        return before

    def share(self, *, long: bool) -> Floats:
        """Return the variance of a mean over that of one window's noise, shape (n,)."""
        return self._share if long else np.full(len(self._share), 1.0 / PERSISTENCE)

    def is_within(self, test: int, limit: float, *, by_change: bool, long: bool) -> bool:
        """Whether a test has come back below a limit: all its last windows, or its long mean and their mean."""
        which = 0 if by_change else 1
        recent = self._recent[which, :, test]
        if np.isnan(recent).any():
            return False
        if long:
            near = abs(self._mean[which, test]) < limit and abs(recent.mean()) < 2.0 * limit
            return bool(near and self._count[test] >= LONG // 2)
        return bool((abs(recent) < limit).all())

    def as_json(self, keys: Sequence[str]) -> dict[str, object]:
        """Return the state for the store, by test."""
        return {key: [self._seen[k], self._noise[k], self._mean[0, k], self._mean[1, k], self._share[k], self._count[k],
                      *(_plain(self._recent[which, :, k]) for which in (0, 1))] for k, key in enumerate(keys)}

    def restore(self, stored: dict[str, Any], keys: Sequence[str]) -> None:
        """Take up the state that `as_json` wrote; what the park no longer has is forgotten."""
        for k, key in enumerate(keys):
            if key in stored:
                (self._seen[k], self._noise[k], self._mean[0, k], self._mean[1, k], self._share[k],
                 self._count[k]), recent = stored[key][:6], stored[key][6:]
                for which in (0, 1):
                    self._recent[which, :, k] = [np.nan if v is None else v for v in recent[which]]


def _rate(count: Floats) -> Floats:
    """Return how much of the long means the newest window is, shape (n,), by how many there have been."""
    return np.asarray(np.maximum(2.0 / (LONG + 1.0), 1.0 / np.maximum(count, 1.0)), dtype=np.float64)


def _lasting(recent: Floats) -> Floats:
    """Return the mean of the last windows where all have one sign and none is below half of it; else 0."""
    with np.errstate(invalid="ignore"):
        mean = recent.mean(axis=0)
        steady = (np.sign(recent) == np.sign(mean)).all(axis=0) & (abs(recent) > 0.5 * abs(mean)).all(axis=0)
    return np.where(steady & ~np.isnan(mean), mean, 0.0)


def _plain(values: Floats) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]
