"""Limits of the standard tests of the field.

Here: what a global test, a nodal test or a measurement test is compared with. Not here: the statistics themselves
(`Result.global_test`, `Result.nodal_test`, `Result.measurement_test`), the generalised likelihood ratio and its
threshold (hypotheses.py).
"""

from __future__ import annotations

from typing import Any


def global_test_limit(alpha: float, degrees_of_freedom: Any) -> Any:
    """Return what the global test of a clean window exceeds with probability `alpha`.

    Parameters
    ----------
    alpha
        Between 0 and 1.
    degrees_of_freedom
        A number, or shape (n_windows,).

    Returns
    -------
    float or ndarray
        Quantile of chi-square; 0 for no degrees of freedom. VDI 2048 takes alpha = 0.05.

    Examples
    --------
    >>> from processing.balance.statistics import global_test_limit
    >>> round(float(global_test_limit(0.05, 3)), 5)
    7.81473
    """
    from scipy.special import chdtri

    return chdtri(degrees_of_freedom, alpha)


def sidak_limit(alpha: float, tests: int) -> float:
    """Return what the largest of `tests` independent |z| exceeds with probability `alpha` (Sidak 1967).

    The limit of textbooks for measurement and nodal tests. Tests of one network are correlated: at this limit a clean
    window raises an alarm less often than `alpha`. `identify_gross_errors` uses the limit that keeps `alpha`.

    Parameters
    ----------
    alpha
        Between 0 and 1.
    tests
        Number of tests, at least 1.

    Returns
    -------
    float

    Examples
    --------
    >>> from processing.balance.statistics import sidak_limit
    >>> round(sidak_limit(0.05, 1), 2), round(sidak_limit(0.05, 28), 2)
    (1.96, 3.12)
    """
    from scipy.special import ndtri

    return float(-ndtri(0.5 * (1.0 - (1.0 - alpha) ** (1.0 / tests))))
