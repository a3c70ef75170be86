"""The constraints of flows and what they carry, term by term: balances, splitters, fractions that add up to one.

Here: which terms there are and their value. Not here: the iteration over them (quadratic.py), readings (bilinear.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from processing.balance.inputs import Bools, Floats, Ints, Rows


@dataclass(frozen=True, eq=False)
class Constraints:
    """All constraints on the variables (flows, then properties stream by stream), term by term.

    Parameters
    ----------
    row, variable, other, share
        One entry of the Jacobian each: share, times variable `other` unless that is -1; shape (n_entries,).
    n_rows, n_variables
        Their numbers.
    """

    row: Ints
    variable: Ints
    other: Ints
    share: Floats
    n_rows: int
    n_variables: int

    def residual(self, z: Floats, rhs: Floats) -> Floats:
        """Return g(z), shape (n_rows,)."""
        product = self.share * z[self.variable] * np.where(self.other < 0, 1.0, 0.5 * z[self.other])
        return np.bincount(self.row, product, self.n_rows) - rhs

    def jacobian(self, z: Floats) -> sp.csr_array:
        """Return dg/dz, shape (n_rows, n_variables)."""
        value = self.share * np.where(self.other < 0, 1.0, z[self.other])
        return sp.coo_array((value, (self.row, self.variable)), shape=(self.n_rows, self.n_variables)).tocsr()


def constraints_of(mass: Rows, carry: Rows, k: int, same: Sequence[tuple[int, int]], whole: Bools) -> Constraints:
    """List all entries of the Jacobian."""
    n, m, q = mass.n_columns, mass.n_rows, carry.n_rows
    row, variable, other, share = [mass.row_of_entry()], [mass.index], [np.full(len(mass.index), -1)], [mass.value]
    for c in range(k):
        at = m + carry.row_of_entry() * k + c
        held = n + carry.index * k + c
        row += [at, at]
        variable += [carry.index, held]
        other += [held, carry.index]
        share += [carry.value, carry.value]
    first = m + q * k
    for p, (one, two) in enumerate(same):
        at = first + p * k + np.arange(k)
        row += [at, at]
        variable += [n + one * k + np.arange(k), n + two * k + np.arange(k)]
        other += [np.full(k, -1), np.full(k, -1)]
        share += [np.ones(k), -np.ones(k)]
    first += len(same) * k
    for p, stream in enumerate(np.flatnonzero(whole)):
        row.append(np.full(k, first + p))
        variable.append(n + stream * k + np.arange(k))
        other.append(np.full(k, -1))
        share.append(np.ones(k))
    rows, variables, others = (np.concatenate(part).astype(np.int64) for part in (row, variable, other))
    return Constraints(rows, variables, others, np.concatenate(share), first + int(whole.sum()), n * (k + 1))


def slots_of(pattern: Any, low: Ints, high: Ints) -> Ints:
    """Return where in L the entries (high, low) are."""
    column = np.repeat(np.arange(len(pattern.l_start) - 1), np.diff(pattern.l_start))
    n = len(pattern.l_start)
    return np.searchsorted(column * n + pattern.l_index, low * n + high).astype(np.int64)
