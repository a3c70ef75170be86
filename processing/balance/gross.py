"""Which meters are biased and which nodes leak, several at once, with the estimates and what cannot be told apart.

Here: `identify_gross_errors`, `find_gross_errors` and the check of their options. Not here: the answer and how windows
are searched (found.py), the hypotheses and their threshold (hypotheses.py), what shows only over many windows
(sequential.py). The main path: `find_gross_errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral, Real

import numpy as np
import numpy.typing as npt

from processing.balance import inputs
from processing.balance.compensation import Rules
from processing.balance.errors import BalanceError
from processing.balance.found import Found, Table
from processing.balance.hypotheses import KINDS
from processing.balance.inputs import Floats, Matrix
from processing.balance.network import Network
from processing.balance.reconciliation import reconcile
from processing.balance.result import Result


def identify_gross_errors(
    incidence: Matrix | Network,
    measured: npt.ArrayLike,
    std: npt.ArrayLike | None = None,
    *,
    alpha: float = 0.05,
    hypotheses: Sequence[str] = ("bias", "leak"),
    covariance: Matrix | None = None,
    rhs: npt.ArrayLike | None = None,
    bounds: Sequence[npt.ArrayLike] | None = None,
    never_suspect: npt.ArrayLike | None = None,
    at_most: int | None = None,
) -> Found:
    """Name biased meters and leaking nodes, one window at a time.

    Parameters
    ----------
    incidence
        The balances, shape (n_nodes, n_streams), or a network from `prepare` (then without `std` and `covariance`).
    measured
        shape (n_streams,) or (n_windows, n_streams) [unit of the stream]; NaN where unmeasured.
    std
        shape (n_streams,) or the shape of `measured` [unit of the stream].
    alpha
        Probability that a window without errors raises any alarm under the hypotheses asked.
    hypotheses
        "bias", "leak" or both.
    covariance
        Instead of `std`: shape (n_streams, n_streams).
    rhs
        shape (n_nodes,) or (n_windows, n_nodes); default zero.
    bounds
        (low, high), each shape (n_streams,) or one number: an error whose compensation would leave them is not
        accepted. Bounds on both sides also say what the true value of a suspect may be: see the notes.
    never_suspect
        bool, shape (n_streams,): meters that are not suspected.
    at_most
        Errors named in one window at most.

    Returns
    -------
    Found

    Raises
    ------
    BalanceError
        If the arrays or options do not make sense.

    Notes
    -----
    While the largest |z_h| exceeds the threshold, its error joins those taken out, and all statistics are computed
    anew with the errors so far as unknowns (serial compensation, Narasimhan & Mah 1987, here with all sizes estimated
    together, Keller et al. 1994). An explanation that leads outside the bounds gives way to the next (Serth & Heenan
    1986). With finite bounds on every meter that may be suspected, and biases alone asked for, the true value of a
    suspect counts as anywhere between them: its reading gives way to their middle with a variance of width^2 / 12, and
    the candidates are ranked by the evidence of that (compensation.py).

    References
    ----------
    Narasimhan, Mah (1987), AIChE J. 33, 1514. Serth, Heenan (1986), AIChE J. 32, 733. Keller, Darouach, Krzakala
    (1994), Comput. Chem. Eng. 18, 1001. Bagajewicz, Jiang (1998), Comput. Chem. Eng. 22, 1789 (equivalent sets).

    Examples
    --------
    >>> from processing.balance import identify_gross_errors
    >>> found = identify_gross_errors([[1, -1, 0], [0, 1, -1]], [10.0, 12.0, 10.1], std=0.1, hypotheses=["bias"])
    >>> found.suspects.tolist(), found.bias.round(2).tolist()
    ([False, True, False], [0.0, 1.95, 0.0])
    """
    if isinstance(incidence, Network):
        if std is not None or covariance is not None:
            raise BalanceError("a prepared network has its std already")
        plain = (
            Network(incidence.incidence, incidence.std, incidence.covariance, None) if incidence.bounds else incidence
        )
        result = plain.reconcile(measured, rhs=rhs)
        bounds = incidence.bounds if bounds is None else bounds
    else:
        result = reconcile(incidence, measured, std, covariance=covariance, rhs=rhs)
    return find_gross_errors(
        result, alpha=alpha, hypotheses=hypotheses, bounds=bounds, never_suspect=never_suspect, at_most=at_most
    )


def find_gross_errors(
    result: Result,
    *,
    alpha: float = 0.05,
    hypotheses: Sequence[str] = ("bias", "leak"),
    bounds: Sequence[npt.ArrayLike] | None = None,
    never_suspect: npt.ArrayLike | None = None,
    at_most: int | None = None,
    threshold: float | None = None,
) -> Found:
    """Name biased meters and leaking nodes in a reconciliation already made, linear or nonlinear.

    Parameters
    ----------
    result
        From `reconcile`, `Network.reconcile` where no bound binds, or `reconcile_nonlinear`; a nonlinear one is
        searched in its constraints as linearised where it came to rest.
    alpha, hypotheses, bounds, never_suspect, at_most
        As in `identify_gross_errors`.
    threshold
        What |z| must exceed, instead of the one that keeps `alpha`, whose simulation takes longer than the search:
        `Found.threshold` of an earlier window with the same meters, where constraints are linearised anew each time.

    Returns
    -------
    Found

    Raises
    ------
    BalanceError
        If an option does not make sense, or values were moved to a bound: what meters say is judged without bounds.

    Examples
    --------
    >>> from processing.balance import find_gross_errors, reconcile
    >>> found = find_gross_errors(reconcile([[1, -1, 0], [0, 1, -1]], [10.0, 10.1, 10.1], std=0.1))
    >>> bool(found.suspects.any()), bool(found.leaks.any())
    (False, False)
    """
    n_streams = result.measured.shape[-1]
    rules = _rules(alpha, hypotheses, never_suspect, at_most, inputs.checked_bounds(bounds, n_streams), n_streams)
    if threshold is not None and not (isinstance(threshold, Real) and threshold > 0.0):
        raise BalanceError(f"threshold must be a positive number, got {threshold!r}")
    if result.bounded.size:
        raise BalanceError(
            f"window {result.bounded[0]} was moved to a bound: reconcile without bounds, and give them here")
    rules = replace(rules, threshold=threshold)
    table = Table(result)
    for part in result.parts:
        table.search(part, rules)
    return Found(table)


def _rules(
    alpha: float,
    kinds: Sequence[str],
    never: npt.ArrayLike | None,
    at_most: int | None,
    bounds: tuple[Floats, Floats] | None,
    n_streams: int,
) -> Rules:
    """Check the options."""
    if not isinstance(alpha, Real) or not 0.0 < alpha < 1.0:
        raise BalanceError(f"alpha must be between 0 and 1, got {alpha!r}")
    if at_most is not None and not (isinstance(at_most, Integral) and at_most >= 1):
        raise BalanceError(f"at_most must be a whole number of at least 1, got {at_most!r}")
    if isinstance(kinds, str) or not len(kinds) or any(kind not in KINDS for kind in kinds):
        raise BalanceError(f"hypotheses must be one or more of {KINDS}, got {kinds!r}")
    mask = None if never is None else np.asarray(never)
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != (n_streams,)):
        raise BalanceError(f"never_suspect must be bool of shape ({n_streams},), got {mask.dtype} of {mask.shape}")
    return Rules(alpha, tuple(kinds), mask, at_most, bounds)
