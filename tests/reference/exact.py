"""The slow, obvious twin of the linear package: the conditions of optimality solved in exact rational arithmetic.

No rounding, no tolerance: what it calls zero is zero. For networks of a dozen streams.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def reduced(rows: list[list[Fraction]], columns: int) -> tuple[list[list[Fraction]], list[int]]:
    """Return the reduced row echelon form over the first `columns` columns, and the pivot columns."""
    rows = [row[:] for row in rows]
    pivots: list[int] = []
    for j in range(columns):
        at = len(pivots)
        best = next((i for i in range(at, len(rows)) if rows[i][j] != 0), None)
        if best is None:
            continue
        rows[at], rows[best] = rows[best], rows[at]
        lead = rows[at][j]
        rows[at] = [value / lead for value in rows[at]]
        for i, row in enumerate(rows):
            if i != at and row[j] != 0:
                factor = row[j]
                rows[i] = [a - factor * b for a, b in zip(row, rows[at], strict=True)]
        pivots.append(j)
    return rows, pivots


class Exact:
    """One window: `reconciled`, `covariance`, `observable`, `redundant`, `objective`, `degrees_of_freedom`."""

    def __init__(self, incidence, measured, covariance, rhs=None):
        a = [[Fraction(float(v)) for v in row] for row in np.asarray(incidence)]
        m, n = len(a), len(a[0])
        y = [None if np.isnan(v) else Fraction(float(v)) for v in measured]
        v = [[Fraction(float(value)) for value in row] for row in np.asarray(covariance)]
        b = [Fraction(0)] * m if rhs is None else [Fraction(float(value)) for value in rhs]
        rows = []
        for j in range(n):
            row = [Fraction(0)] * (n + m)
            if y[j] is None:
                row[n:] = [a[i][j] for i in range(m)]
            else:
                row[j] = Fraction(1)
                for k in range(n):
                    if y[k] is not None:
                        for i in range(m):
                            row[n + i] += v[j][k] * a[i][k]
            sides = [Fraction(int(j == k and y[j] is not None)) for k in range(n)]
            rows.append([*row, *sides, y[j] or Fraction(0)])
        rows += [[*a[i], *[Fraction(0)] * (m + n), b[i]] for i in range(m)]
        solved, pivots = reduced(rows, n + m)
        free = [k for k in range(n + m) if k not in pivots]
        self.consistent = all(row[-1] == 0 for row in solved[len(pivots) :])
        at = {j: solved[i] for i, j in enumerate(pivots)}
        self.observable = np.array([j in at and all(at[j][k] == 0 for k in free) for j in range(n)])
        exact = [at[j][-1] if self.observable[j] else None for j in range(n)]
        self.reconciled = np.array([np.nan if x is None else float(x) for x in exact])
        pairs = zip(exact, y, strict=True)
        self.adjustment = np.array([np.nan if None in pair else float(pair[0] - pair[1]) for pair in pairs])
        to = [at[j][n + m : n + m + n] if self.observable[j] else [Fraction(0)] * n for j in range(n)]
        spread = [[sum(t[k] * v[k][j] for k in range(n) if t[k]) for j in range(n)] for t in to]
        self.covariance = np.array([[float(sum(s[k] * t[k] for k in range(n))) for t in to] for s in spread])
        self.std = np.where(self.observable, np.sqrt(np.diagonal(self.covariance)), np.nan)
        kept = [v[j][j] - 2 * spread[j][j] + sum(spread[j][k] * to[j][k] for k in range(n)) for j in range(n)]
        self.adjustment_variance = np.array([np.nan if y[j] is None else float(kept[j]) for j in range(n)])
        self._chi2(a, y, v, b, exact, at, n, m)
        self._classify(a, y)

    def _chi2(self, a, y, v, b, exact, at, n, m):
        """lambda' (A y - b), with lambda any solution."""
        multipliers = [at[n + i][-1] if n + i in at else Fraction(0) for i in range(m)]
        known = [Fraction(0) if value is None else value for value in y]
        open_ = [sum(a[i][j] * known[j] for j in range(n)) - b[i] for i in range(m)]
        self.objective = float(sum(p * q for p, q in zip(multipliers, open_, strict=True)))

    def _classify(self, a, y):
        """Redundant: a combination of balances without unmeasured streams has it."""
        n = len(y)
        order = [j for j in range(n) if y[j] is None] + [j for j in range(n) if y[j] is not None]
        rows, pivots = reduced([[row[j] for j in order] for row in a], sum(value is None for value in y))
        left = rows[len(pivots) :]
        self.redundant = np.zeros(n, dtype=bool)
        for at, j in enumerate(order):
            self.redundant[j] = y[j] is not None and any(row[at] != 0 for row in left)
