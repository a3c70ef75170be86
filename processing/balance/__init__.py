"""Data reconciliation and gross-error detection for networks of balances.

The package's public functions; each array shape is in their docstrings.

- `prepare`, `reconcile`: linear balances A x = b, one window or thousands (network.py).
- `reconcile_nonlinear`: any smooth constraints g(x) = 0, one window (nonlinear.py).
- `classify`: redundant, nonredundant, observable, unobservable (classify.py).
- `assess`: std to expect, smallest errors that show, where a meter would help most (assessment.py).
- `MeterWatch`: errors that one window cannot show, over many (sequential.py).
- `identify_gross_errors`, `find_gross_errors`: biased meters and leaking nodes of each window (gross.py).
"""

from __future__ import annotations

from processing.balance.assessment import Assessment, ExtraMeter, assess
from processing.balance.classify import Classes, classify
from processing.balance.errors import BalanceError, ContradictionError
from processing.balance.gross import Found, find_gross_errors, identify_gross_errors
from processing.balance.network import Network, prepare, reconcile
from processing.balance.nonlinear import NonlinearResult, reconcile_nonlinear
from processing.balance.result import Result
from processing.balance.sequential import Finding, MeterWatch, WatchRules

__all__ = [
    "Assessment",
    "BalanceError",
    "Classes",
    "ContradictionError",
    "ExtraMeter",
    "Finding",
    "Found",
    "MeterWatch",
    "Network",
    "NonlinearResult",
    "Result",
    "WatchRules",
    "assess",
    "classify",
    "find_gross_errors",
    "identify_gross_errors",
    "prepare",
    "reconcile",
    "reconcile_nonlinear",
]
