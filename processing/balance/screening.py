"""Passes over windows that alarm: which one error is likeliest, whether another is left, one taken out.

Here: the choice between NumPy and the compiled loops (screening_kernels.py), which small networks do without: to load
the compiler takes longer than thousands of their windows. Not here: what follows (found.py, compensation.py).
"""

from __future__ import annotations

import numpy as np

from processing.balance.inputs import Bools, Floats, Ints

MANY = 512
"""Hypotheses beyond which loops are compiled: twice the streams of a network that no compiled loop solves."""


def likeliest(scores: Floats, chosen: Ints, weight: Floats) -> Ints:
    """Return where |score| weight is largest, the first such place, in some windows; shape (n_chosen,)."""
    if len(weight) > MANY:
        from processing.balance import screening_kernels

        return screening_kernels.likeliest(scores, chosen, weight)
    places: Ints = abs(scores[chosen] * weight).argmax(axis=1)
    return places


def shows_more(scores: Floats, chosen: Ints, steps: Floats, response: Floats, bar: Floats) -> Bools:
    """Return whether (score - step response)^2 is above its bar anywhere, in some windows; shape (n_chosen,)."""
    if len(bar) > MANY:
        from processing.balance import screening_kernels

        return screening_kernels.shows_more(scores, chosen, steps, response, bar)
    rest = scores[chosen] - steps[:, None] * response
    return np.asarray((rest * rest > bar).any(axis=1), dtype=np.bool_)


def take_out(values: Floats, chosen: Ints, steps: Floats, relief: Floats) -> None:
    """Add step relief to some windows of values, shape (n_windows, n_streams), in place."""
    if len(relief) > MANY:
        from processing.balance import screening_kernels

        screening_kernels.take_out(values, chosen, steps, relief)
    else:
        values[chosen] += steps[:, None] * relief
