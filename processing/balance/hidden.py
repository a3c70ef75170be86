"""Bounds of streams that nothing determines: what they leave to the streams that are determined.

A node that takes 5 and splits it into two pipes without meters, each of at most 2, takes at most 4. Here: `keep_inside`
for windows with such streams. Not here: bounds of determined streams alone (bounds.py). Entered from
`Network.keep_inside`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from processing.balance.bounds import move_inside
from processing.balance.inputs import Bools, Floats, Rows
from processing.balance.projection import Projection
from processing.balance.result import Part
from processing.balance.scaling import scales_of

if TYPE_CHECKING:
    from processing.balance.network import Network

VAGUE = 300.0
"""Std of a guess against the largest of a meter: it pulls with 1e-5 of one, and its variance leaves 1e-11 of digits."""

GUESSES = 4
"""Times that the guesses are moved to where they came out: each leaves 1e-5 of the pull of the one before."""

TOUCHED = (1e-7, 1e-10)
"""Shares of its std and of its value by which a stream must move to count as moved by a bound."""


def has_hidden(network: Network, projection: Projection) -> bool:
    """Whether a stream that nothing determines has a bound."""
    if network.bounds is None or projection.observable.all():
        return False
    low, high = network.bounds
    return bool(((np.isfinite(low) | np.isfinite(high)) & ~projection.observable).any())


def keep_inside(network: Network, part: Part, given: Floats, rhs: Floats | None, reconciled: Floats) -> list[int]:
    """Move the windows of one part inside all bounds, in place; return the numbers of those moved.

    Streams that nothing determines are given a guess each, so vague that it moves no other. given and reconciled have
    shape (n_windows, n_streams), rhs (n_windows, n_nodes).

    Raises
    ------
    ContradictionError
        If no values within the bounds close every balance.
    """
    assert network.bounds is not None
    low, high = network.bounds
    hidden = ~part.projection.observable
    guessed = _with_guesses(network, part.projection, hidden)
    values = given[part.windows].copy()
    values[:, hidden] = np.clip(0.0, low, high)[hidden]
    right = None if rhs is None else rhs[part.windows]
    start = guessed.solve(values, right)
    moved = []
    for i in np.flatnonzero(((start < low) | (start > high)).any(axis=1)):
        k = int(part.windows[i])
        x = _moved(guessed, values[i], None if right is None else right[i], hidden, network.bounds, k)
        enough = TOUCHED[0] * part.projection.std + TOUCHED[1] * abs(x)
        if (abs(x - reconciled[k]) > enough)[~hidden].any():
            reconciled[k, ~hidden] = x[~hidden]
            moved.append(k)
    return moved


def _moved(
    guessed: Projection, values: Floats, rhs: Floats | None, hidden: Bools, bounds: tuple[Floats, Floats], window: int
) -> Floats:
    """Return one window's values inside the bounds, shape (n_streams,)."""
    right, x = None if rhs is None else rhs[None], values
    for _ in range(GUESSES):
        x = move_inside(guessed.solve(values[None], right)[0], bounds, guessed.covariance_of, window)
        values = np.where(hidden, x, values)
    return x


def _with_guesses(network: Network, projection: Projection, hidden: Bools) -> Projection:
    """Return the pattern in which what nothing determines has a vague meter; kept with the pattern."""
    if "guessed" not in projection.kept:
        unit = scales_of(network.incidence)[1]
        finite = np.sqrt(np.nan_to_num(projection.prior_variance)) / unit
        vague = unit * VAGUE * (finite.max(initial=0.0) or 1.0)
        std, covariance = network.std, network.covariance
        if std is not None:
            std = np.where(hidden, vague, std)
        else:
            assert covariance is not None
            covariance = _replaced(covariance, hidden, vague)
        projection.kept["guessed"] = type(network)(network.incidence, std, covariance, None).projection(
            projection.measured | hidden
        )
    guessed: Projection = projection.kept["guessed"]
    return guessed


def _replaced(covariance: Rows, hidden: Bools, std: Floats) -> Rows:
    """Return a covariance in which some streams are independent of all others, with std of their own."""
    row = covariance.row_of_entry()
    held = ~hidden[row] & ~hidden[covariance.index]
    rows, columns = (
        np.append(row[held], np.flatnonzero(hidden)),
        np.append(covariance.index[held], np.flatnonzero(hidden)),
    )
    values = np.append(covariance.value[held], std[hidden] ** 2)
    order = np.lexsort((columns, rows))
    start = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=covariance.n_rows))]).astype(np.int64)
    return Rows(start, columns[order], values[order], covariance.n_columns)
