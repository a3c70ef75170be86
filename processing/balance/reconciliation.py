"""Reconciliation in one call: network, uncertainty and windows together.

Here: `reconcile`. Not here: a network made ready once for many calls (network.py), windows that each have their own std
(varying.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from processing.balance.inputs import Matrix
from processing.balance.network import prepare
from processing.balance.result import Result
from processing.balance.varying import reconcile_each


def reconcile(
    incidence: Matrix,
    measured: npt.ArrayLike,
    std: npt.ArrayLike | None = None,
    *,
    covariance: Matrix | None = None,
    rhs: npt.ArrayLike | None = None,
    bounds: Sequence[npt.ArrayLike] | None = None,
) -> Result:
    """Adjust measured values as little as their std allow so that every balance closes.

    Weighted least squares over one window or many: minimise (x - y)' V^-1 (x - y) subject to A x = rhs and the
    bounds. Streams without a value are computed from the balances where these determine them.

    Parameters
    ----------
    incidence
        The balances A, shape (n_nodes, n_streams), dense or scipy.sparse, any real coefficients.
    measured
        y, shape (n_streams,) or (n_windows, n_streams) [unit of the stream]; NaN where unmeasured.
    std
        shape (n_streams,) or the shape of `measured` [unit of the stream]; zero: exact; infinite: tells nothing.
    covariance
        Instead of `std`: V, shape (n_streams, n_streams).
    rhs
        shape (n_nodes,) or (n_windows, n_nodes): what each balance adds up to (hold-up); default zero.
    bounds
        (low, high), each shape (n_streams,) or one number for all. Those of streams that nothing determines count too:
        they narrow the others, though these streams stay NaN.

    Returns
    -------
    Result
        `reconciled`, `std`, `adjustment`, `global_test`, `degrees_of_freedom`, `measurement_test` and more, each
        computed when first asked for.

    Raises
    ------
    BalanceError
        If the arrays do not make a reconciliation problem.
    ContradictionError
        If values without uncertainty contradict each other, or no values within the bounds meet every balance.

    Notes
    -----
    All streams measured: x = y - V A' (A V A')^-1 (A y - b). Unmeasured streams are projected out first (Crowe et
    al. 1983), dependent balances are recognised and left out.

    References
    ----------
    Crowe, Garcia Campos, Hrymak (1983), AIChE J. 29, 881. Narasimhan, Jordache (2000), Data Reconciliation and Gross
    Error Detection. Madron (1992), Process Plant Performance. VDI 2048 Part 1.

    Examples
    --------
    >>> from processing.balance import reconcile
    >>> result = reconcile([[1, -1, 0], [0, 1, -1]], [10.2, 9.9, float("nan")], std=0.1)
    >>> result.reconciled.round(3).tolist()
    [10.05, 10.05, 10.05]
    """
    if std is not None and np.ndim(std) == 2 and np.shape(std)[0] != 1:
        return reconcile_each(incidence, measured, std, rhs, bounds)
    single = std if std is None or np.ndim(std) < 2 else np.asarray(std, dtype=float)[0]
    return prepare(incidence, single, covariance=covariance, bounds=bounds).reconcile(measured, rhs=rhs)
