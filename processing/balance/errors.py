"""What the package refuses, and how it says so.

Here: the package's errors. Not here: the checks that raise them (`inputs`, `network`, `nonlinear`).
"""

from __future__ import annotations

from park.errors import InputError


class BalanceError(InputError, ValueError):
    """The arrays given do not make a reconciliation problem."""


class ContradictionError(BalanceError):
    """Balances whose streams all have zero std, or depend on each other, are not met by the values given."""
