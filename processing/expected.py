"""What a window's flows are expected to be before anything is estimated: no single meter decides that alone.

A meter's percentage of reading counts at the flow that is expected. Were that its own reading, a meter that has failed
to zero would be taken to be exact, and pull all others with it. So what the meters of a variable say is held against
what else is known of it: the flow that is declared as nominal, and what each balance makes of the other flows of its
node. Where the mean of its meters is more than `APART` away from the median of all of these, the median is expected.
Where nothing else is known, and its meters read next to nothing, it may be as large as what passes beside it.

Here: that. Not here: variances (meters.py), the first estimate, which takes over from this (estimate.py). The main path
enters at `Expectation.sizes`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from park.model import Park
from processing.equations import Equations
from processing.meters import Bools, Floats, Ints

NOTHING = 0.01
"""Share of what passes beside it below which a flow reads next to nothing. Should it be so, then the first estimate
says it too, and the second pass takes its std there."""

APART = 2.0
"""Factor up to which meters are taken at their word: a std that is wrong by less costs the first estimate little."""


@dataclass(frozen=True, eq=False)
class Expectation:
    """What there is to hold meters against, for a park; made once.

    Attributes
    ----------
    linear
        Rows of the equations that are sums of variables, shape (n_sums, n_variables).
    row, variable
        Which variables are in which of these sums, shape (n_terms,) each.
    nominal
        What the park declares of every variable, shape (n_variables,) [unit of the variable]; NaN where nothing.
    scale
        Typical size of every variable, shape (n_variables,) [unit of the variable].
    """

    linear: Floats
    row: Ints
    variable: Ints
    nominal: Floats
    scale: Floats

    @classmethod
    def of(cls, park: Park, equations: Equations) -> Expectation:
        """Pick the sums of a park's equations, and what it declares of its flows."""
        sums = np.setdiff1d(np.arange(len(equations.linear)), equations.product_row)
        linear = equations.linear[sums]
        row, variable = np.nonzero(linear)
        nominal = np.full(equations.n_variables, np.nan)
        for s, stream in enumerate(park.streams):
            if stream.nominal_si is not None:
                nominal[equations.flow[s]] = stream.nominal_si
        return cls(linear, row, variable, nominal, equations.scale)

    def sizes(self, variable: Ints, value: Floats, usable: Bools, known: Floats) -> Floats:
        """Return what every variable is expected to be.

        Parameters
        ----------
        variable, value, usable
            What each meter says of which variable, and whether it counts, shape (n_meters,) [unit of the variable].
        known
            What the park declares to be so (losses, closures), shape (n_variables,) [unit of the variable]; NaN where
            it declares nothing.

        Returns
        -------
        ndarray
            Shape (n_variables,) [unit of the variable]: the mean of its meters, or the median described above; the
            typical size where no meter speaks of it.
        """
        n = len(self.scale)
        of, said = variable[usable], value[usable]
        count = np.bincount(of, minlength=n)
        mean = np.bincount(of, said, minlength=n) / np.maximum(count, 1)
        x = np.where(count > 0, mean, known)
        # a first vote of more than two, so that its neighbours are not held against what one wrong meter makes of them
        for quorum in (3, 1):
            middle, votes = self._middle(x, of, said)
            outvoted = (count > 0) & (votes >= quorum) & _apart(mean, middle)
            x = np.where(outvoted, middle, np.where(count > 0, mean, known))
        beside = self._beside(x)
        alone = (votes == count) & (abs(x) < NOTHING * beside)
        return np.where(count > 0, np.where(alone, beside, x), self.scale)

    def _middle(self, x: Floats, of: Ints, said: Floats) -> tuple[Floats, Ints]:
        """Return the median of what meters, balances and the park say of each variable, and how many say something."""
        at, implied = self._implied(x)
        declared = np.flatnonzero(~np.isnan(self.nominal))
        about = np.concatenate([of, at, declared])
        return (_median(about, np.concatenate([said, implied, self.nominal[declared]]), len(x)),
                np.bincount(about, minlength=len(x)))

    def _implied(self, x: Floats) -> tuple[Ints, Floats]:
        """Return what each sum makes of each of its variables where all others are known: variable, value."""
        factor, own = self.linear[self.row, self.variable], x[self.variable]
        missing = (self.linear[:, np.isnan(x)] != 0.0).sum(axis=1)[self.row] - np.isnan(own)
        others = (self.linear @ np.nan_to_num(x))[self.row] - factor * np.nan_to_num(own)
        complete = missing == 0
        return self.variable[complete], (-others / factor)[complete]

    def _beside(self, x: Floats) -> Floats:
        """Return the largest of what else is known in the sums of each variable, shape (n,) [unit of the variable]."""
        factor = abs(self.linear[self.row, self.variable])
        size = factor * abs(np.nan_to_num(x[self.variable]))
        order = np.lexsort((size, self.row))
        is_largest = np.zeros(len(size), dtype=np.bool_)
        is_largest[order[np.append(np.diff(self.row[order]) > 0, True)[: len(size)]]] = True
        largest, second, found = np.zeros(len(self.linear)), np.zeros(len(self.linear)), np.zeros(len(x))
        np.maximum.at(largest, self.row, size)
        np.maximum.at(second, self.row, np.where(is_largest, 0.0, size))
        np.maximum.at(found, self.variable, np.where(is_largest, second[self.row], largest[self.row]) / factor)
        return found


def _apart(one: Floats, other: Floats) -> Bools:
    """Whether two sizes differ by more than `APART`; or cannot be compared."""
    return np.asarray(~((abs(one) <= APART * abs(other)) & (abs(other) <= APART * abs(one))))


def _median(of: Ints, value: Floats, n: int) -> Floats:
    """Return the median in size of the values of each variable, the larger of two, shape (n,); NaN where none is."""
    order = np.lexsort((abs(value), of))
    count = np.bincount(of, minlength=n)
    middle = np.cumsum(count) - count + count // 2
    some = count > 0
    found = np.full(n, np.nan)
    found[some] = value[order][middle[some]]
    return found
