"""Values of one thing by several meters made one: inverse-variance means, with systematic and random parts apart.

Here: `Values`, `combine`. Not here: which meters measure one thing (placement.py). The main path enters at `combine`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from processing.meters import Bools, Floats, Ints, Variances


@dataclass(frozen=True, eq=False)
class Values:
    """Values with variances; NaN where there is none. All of shape (n,)."""

    value: Floats
    systematic: Floats
    random: Floats

    @property
    def variance(self) -> Floats:
        """Total variance, shape (n,)."""
        total: Floats = self.systematic + self.random
        return total


def combine(target: Ints, value: Floats, variances: Variances, usable: Bools, n: int) -> Values:
    """Combine values of the same target by inverse variance.

    Parameters
    ----------
    target
        Where each value belongs, shape (m,).
    value, variances
        Shape (m,) [any unit].
    usable
        Which values count, bool, shape (m,).
    n
        Number of targets.

    Returns
    -------
    Values
        Shape (n,); NaN where a target has no usable value.

    Notes
    -----
    With weights ``w = (1/v) / sum(1/v)``: value ``sum w x``; each part of the variance ``sum w^2 v_part``, errors of
    different meters being independent. Equal values combine to themselves whatever their weights.
    """
    t, x = target[usable], value[usable]
    total = np.maximum(variances.total[usable], np.square(1e-9 * np.maximum(abs(x), 1e-9)))
    inverse = np.bincount(t, 1.0 / total, minlength=n)
    some = inverse > 0
    scale = np.divide(1.0, inverse, out=np.full(n, np.nan), where=some)
    weight = scale[t] / total
    parts = [np.bincount(t, part, minlength=n) for part in (
        weight * x, weight**2 * variances.systematic[usable], weight**2 * variances.random[usable])]
    return Values(*(np.where(some, part, np.nan) for part in parts))


def weighted(target: Ints, value: Floats, variance: Floats, n: int) -> Floats:
    """Return inverse-variance means of values by target, shape (n,); 0 where there is none.

    Targets, values and variances have shape (m,) [any unit].
    """
    weight = 1.0 / np.maximum(variance, 1e-30)
    total = np.bincount(target, weight, minlength=n)
    summed = np.bincount(target, weight * value, minlength=n)
    mean: Floats = np.divide(summed, total, out=np.zeros(n), where=total > 0)
    return mean
