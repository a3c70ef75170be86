"""Reconciliation of one window whose unbounded answer breaks a bound.

Here: the search for which bounds bind, in the space of the multipliers. Not here: windows that keep their bounds by
themselves, which never come here; bounds of unobservable streams (hidden.py). The main path enters at `move_inside`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from processing.balance.errors import ContradictionError
from processing.balance.inputs import Floats, Ints

CLOSE = 1e-9
"""A bound may be missed by this share of the larger of the value and its std; rounding, not a decision."""

INFEASIBLE = 1e-7
"""Residual of the dual problem, between 0 and 1, under which no point inside the bounds exists."""

ROUNDING = 1e-13
"""Eigenvalues of the correlations of bounded values below this share of the largest are zero."""

UNMET = 1e-6
"""Share of what a bound asks for by which it may be missed, against the largest asked; rounding of the pushes."""

FAR = 1e7
"""A point inside the bounds that is this many std away is none: it moves what the balances determine, by rounding."""


def move_inside(
    reconciled: Floats, bounds: tuple[Floats, Floats], covariance_of: Callable[[Ints], Floats], window: int = 0
) -> Floats:
    """Return the weighted-least-squares values within the bounds, shape (n_streams,).

    Parameters
    ----------
    reconciled
        x0, the answer without bounds, shape (n_streams,) [unit of the stream]; NaN where unobservable.
    bounds
        (low, high), each shape (n_streams,) [unit of the stream].
    covariance_of
        Gives columns of the covariance P of the reconciled values: (k,) stream numbers -> shape (n_streams, k).
    window
        The window's number, for messages.

    Raises
    ------
    ContradictionError
        If no values within the bounds close every balance.

    Notes
    -----
    Whatever closes the balances is x0 + P^(1/2) w and costs |w|^2 more than x0: minimise |w| subject to the bounds,
    which is least-distance programming (Lawson & Hanson 1974, ch. 23), exact after finitely many steps. Bounds enter
    when first broken, so that the problem has the size of what binds, not of the network.
    """
    low, high = bounds
    seen = ~np.isnan(reconciled)
    x = reconciled
    chosen = np.zeros(0, dtype=np.int64)
    side = np.zeros(0)
    columns = np.zeros((len(x), 0))
    size = np.maximum(abs(np.nan_to_num(reconciled)), np.finfo(float).tiny)
    while True:
        new, sign = _broken(
            np.where(seen, x, 0.0), low, high, np.where(seen, size, np.inf), set(zip(chosen, side, strict=True))
        )
        if not new.size:
            return np.where(seen, np.clip(x, low, high), np.nan)
        chosen, side = np.append(chosen, new), np.append(side, sign)
        columns = np.column_stack([columns, covariance_of(new)])
        limit = np.where(side > 0, low[chosen], high[chosen])
        push = _pushes(columns[chosen] * np.outer(side, side), side * (limit - reconciled[chosen]), window)
        x = reconciled + columns @ (side * push)


def _broken(x: Floats, low: Floats, high: Floats, size: Floats, chosen: set[tuple[int, float]]) -> tuple[Ints, Floats]:
    """Return (streams, sides) of the bounds broken and not yet chosen; side 1 is the lower bound, -1 the upper."""
    slack = CLOSE * np.maximum(size, abs(x))
    pairs = [(int(j), 1.0) for j in np.flatnonzero(low - x > slack)]
    pairs += [(int(j), -1.0) for j in np.flatnonzero(x - high > slack)]
    new = [pair for pair in pairs if pair not in chosen]
    return np.array([j for j, _ in new], dtype=np.int64), np.array([sign for _, sign in new])


def _pushes(covariance: Floats, missing: Floats, window: int) -> Floats:
    """Return the multipliers u >= 0 of the bounds: covariance @ u >= missing, equal where u > 0; shape (k,)."""
    from scipy.optimize import nnls

    spread = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
    if (spread == 0.0).any():
        raise ContradictionError(f"window {window}: a value that cannot be adjusted is outside its bounds")
    scaled, target = covariance / np.outer(spread, spread), missing / spread
    size = max(float(abs(target).max()), 1e-300)
    value, vector = np.linalg.eigh(scaled)
    held = value > ROUNDING * value[-1]  # the root of rounding would be half of all digits
    root = vector[:, held] * np.sqrt(value[held])
    problem = np.vstack([root.T, target / size])
    aim = np.zeros(len(problem))
    aim[-1] = 1.0
    dual, distance = nnls(problem, aim, maxiter=30 * max(len(missing), 10))
    if distance < INFEASIBLE:
        raise ContradictionError(f"window {window}: no values within the bounds close every balance")
    push = np.zeros(len(missing))
    binds = dual > 0.0
    push[binds] = np.linalg.lstsq(scaled[np.ix_(binds, binds)], target[binds], rcond=ROUNDING)[0]
    if (scaled @ push < target - UNMET * size).any() or push @ target > FAR**2:
        raise ContradictionError(f"window {window}: no values within the bounds close every balance")
    return push / spread
