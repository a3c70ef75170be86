"""Two-sided CUSUM on many standardised series at once, and its exact average run length.

Here: the recursion, where a change began, and the limit for a wanted rate of false alarms. Not here: which series a
network gives (sequential.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from processing.balance.inputs import Floats, Ints

NODES = 96
"""Gauss-Legendre nodes for the run-length integral; 64 give ten digits at limits up to 10."""


@dataclass(frozen=True, eq=False)
class Cusum:
    """Sums that grow while a series stays above (`up`) or below (`down`) its mean by more than `slack`.

    Parameters
    ----------
    up, down
        shape (n_series,) [std of the series].
    up_windows, down_windows
        Steps since the sum last was zero, shape (n_series,): when it alarms, the change began that long ago.
    """

    up: Floats
    down: Floats
    up_windows: Ints
    down_windows: Ints

    @classmethod
    def start(cls, n_series: int) -> Cusum:
        """Return sums at zero."""
        zero, none = np.zeros(n_series), np.zeros(n_series, dtype=np.int64)
        return cls(zero, zero, none, none)

    def step(self, values: Floats, slack: float, most: float = np.inf) -> Cusum:
        """Return the sums after one more value of each series, shape (n_series,); NaN leaves its series as it was.

        No sum grows beyond `most`: what ended must not stand for as long again as it lasted.
        """
        given = ~np.isnan(values)
        value = np.where(given, values, 0.0)
        up = np.where(given, np.clip(self.up + value - slack, 0.0, most), self.up)
        down = np.where(given, np.clip(self.down - value - slack, 0.0, most), self.down)
        return Cusum(
            up,
            down,
            np.where(up > 0.0, self.up_windows + given, 0),
            np.where(down > 0.0, self.down_windows + given, 0),
        )

    @property
    def largest(self) -> Floats:
        """The larger of both sums, shape (n_series,)."""
        return np.maximum(self.up, self.down)

    @property
    def windows(self) -> Ints:
        """Steps since the larger sum left zero, shape (n_series,)."""
        return np.where(self.up >= self.down, self.up_windows, self.down_windows)


def average_run_length(slack: float, limit: float, shift: float = 0.0) -> float:
    """Return the mean number of windows until a two-sided CUSUM of a normal series alarms.

    Parameters
    ----------
    slack
        k, subtracted at each step [std].
    limit
        h, above which it alarms [std].
    shift
        Of the mean [std]; 0 gives the mean number of windows between false alarms.

    Notes
    -----
    One side: L(s) = 1 + L(0) P(s + x - k <= 0) + integral_0^h L(t) f(t - s + k) dt (Page 1954), solved at the nodes of
    Gauss and Legendre; both sides: 1 / L = 1 / L+ + 1 / L- (Van Dobben de Bruyn 1968), exact for k > 0.

    Examples
    --------
    >>> from processing.balance.cusum import average_run_length
    >>> round(average_run_length(0.5, 4.0), 1), round(average_run_length(0.5, 4.0, 1.0), 2)
    (167.7, 8.38)
    """
    return 1.0 / (1.0 / _one_sided(slack, limit, shift) + 1.0 / _one_sided(slack, limit, -shift))


def _one_sided(slack: float, limit: float, shift: float) -> float:
    """Return the run length of the upper sum, from zero."""
    from scipy.special import ndtr

    node, weight = np.polynomial.legendre.leggauss(NODES)
    t, w = 0.5 * limit * (node + 1.0), 0.5 * limit * weight
    start = np.append(0.0, t)
    density = np.exp(-0.5 * (t[None, :] - start[:, None] + slack - shift) ** 2) / np.sqrt(2.0 * np.pi)
    to_zero = ndtr(slack - start - shift)
    matrix = np.eye(NODES + 1)
    matrix[:, 0] -= to_zero
    matrix[:, 1:] -= density * w
    return float(np.linalg.solve(matrix, np.ones(NODES + 1))[0])


@lru_cache(maxsize=64)
def cusum_limit(windows_between_alarms: float, slack: float = 0.5) -> float:
    """Return the limit h at which a two-sided CUSUM has this mean number of windows between false alarms.

    Parameters
    ----------
    windows_between_alarms
        At least 2.
    slack
        k [std].

    Examples
    --------
    >>> from processing.balance.cusum import cusum_limit
    >>> round(cusum_limit(465.4), 2)
    5.0
    """
    low, high = 0.1, 40.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        if average_run_length(slack, middle) < windows_between_alarms:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
