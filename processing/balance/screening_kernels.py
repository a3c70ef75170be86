"""The compiled loops over windows that alarm: which one error is likeliest, whether another is left, one taken out.

Here: single passes over some windows. Not here: when they are worth it (screening.py), the scores (kernels.py). Every
loop has a slow, obvious twin in tests/balance/test_kernel_pieces.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@njit(cache=True, nogil=True)
def likeliest(scores: Floats, chosen: Ints, weight: Floats) -> Ints:
    """Return where |score| weight is largest, the first such place, in some windows; shape (n_chosen,)."""
    places = np.zeros(len(chosen), dtype=np.int64)
    for i in range(len(chosen)):
        score, most = scores[chosen[i]], -1.0
        for h in range(len(weight)):
            size = abs(score[h] * weight[h])
            if size > most:
                most, places[i] = size, h
    return places


@njit(cache=True, nogil=True)
def shows_more(scores: Floats, chosen: Ints, steps: Floats, response: Floats, bar: Floats) -> Bools:
    """Return whether (score - step response)^2 is above its bar anywhere, in some windows; shape (n_chosen,)."""
    more = np.zeros(len(chosen), dtype=np.bool_)
    for i in range(len(chosen)):
        score, step, above = scores[chosen[i]], steps[i], 0
        for h in range(len(bar)):  # to count them all is faster than to stop: several at a time
            rest = score[h] - step * response[h]
            above += rest * rest > bar[h]
        more[i] = above > 0
    return more


@njit(cache=True, nogil=True)
def take_out(values: Floats, chosen: Ints, steps: Floats, relief: Floats) -> None:
    """Add step relief to some windows of values, shape (n_windows, n_streams), in place."""
    for i in range(len(chosen)):
        value, step = values[chosen[i]], steps[i]
        for j in range(len(relief)):
            value[j] += step * relief[j]
