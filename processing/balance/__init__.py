"""Data reconciliation and gross-error detection for networks of balances.

The package's public functions; each array shape is in their docstrings.

- `prepare`, `reconcile`: linear balances A x = b, one window or thousands (network.py, reconciliation.py).
- `reconcile_nonlinear`: any smooth constraints g(x) = 0, one window (nonlinear.py).
- `prepare_bilinear`, `reconcile_bilinear`: flows times what they carry, one window or thousands (bilinear.py).
- `classify`: redundant, nonredundant, observable, unobservable (classify.py).
- `assess`: std to expect, smallest errors that show, where a meter would help most (assessment.py).
- `MeterWatch`: errors that one window cannot show, over many (sequential.py).
- `identify_gross_errors`, `find_gross_errors`: biased meters and leaking nodes of each window (gross.py, found.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from processing.balance.assessment import Assessment, assess
from processing.balance.classify import Classes, classify
from processing.balance.errors import BalanceError, ContradictionError
from processing.balance.extra_meters import ExtraMeter
from processing.balance.found import Found
from processing.balance.gross import find_gross_errors, identify_gross_errors
from processing.balance.network import Network, prepare
from processing.balance.nonlinear import NonlinearResult, reconcile_nonlinear
from processing.balance.reconciliation import reconcile
from processing.balance.result import Result
from processing.balance.sequential import Finding, MeterWatch, WatchRules

if TYPE_CHECKING:
    from processing.balance.bilinear import BilinearNetwork, prepare_bilinear, reconcile_bilinear
    from processing.balance.bilinear_result import BilinearResult

__all__ = [
    "Assessment",
    "BalanceError",
    "BilinearNetwork",
    "BilinearResult",
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
    "prepare_bilinear",
    "reconcile",
    "reconcile_bilinear",
    "reconcile_nonlinear",
]


def __getattr__(name: str) -> Any:
    """Import what needs the compiler when it is first asked for: small networks never load it."""
    if name in {"BilinearNetwork", "BilinearResult", "prepare_bilinear", "reconcile_bilinear"}:
        from processing.balance import bilinear, bilinear_result

        return getattr(bilinear_result if name == "BilinearResult" else bilinear, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
