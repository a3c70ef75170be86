"""Which streams are redundant, nonredundant, observable, unobservable, before any value is read.

Here: `classify` for a pattern of present meters. Not here: the factors (dense.py, sparse.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from processing.balance import inputs
from processing.balance.dense import project
from processing.balance.errors import BalanceError
from processing.balance.inputs import Bools, Matrix, Rows
from processing.balance.network import DENSE_STREAMS
from processing.balance.projection import Projection


@dataclass(frozen=True, eq=False)
class Classes:
    """The class of every stream, by which meters are present.

    Parameters
    ----------
    measured
        bool, shape (n_streams,).
    redundant
        bool, shape (n_streams,): measured, and still determined if its own meter is taken away.
    observable
        bool, shape (n_streams,): measured, or computable from the meters and the balances.
    degrees_of_freedom
        Number of independent balances among the measured streams.
    """

    measured: Bools
    redundant: Bools
    observable: Bools
    degrees_of_freedom: int

    @property
    def status(self) -> list[str]:
        """One word a stream: redundant, nonredundant, observable, unobservable; length n_streams."""
        words = np.where(
            self.measured,
            np.where(self.redundant, "redundant", "nonredundant"),
            np.where(self.observable, "observable", "unobservable"),
        )
        return [str(word) for word in words]


def classify(incidence: Matrix, is_measured: npt.ArrayLike) -> Classes:
    """Say of each stream whether the balances check it, compute it, or neither.

    Parameters
    ----------
    incidence
        The balances, shape (n_nodes, n_streams), dense or scipy.sparse, any real coefficients.
    is_measured
        bool, shape (n_streams,).

    Returns
    -------
    Classes

    Raises
    ------
    BalanceError
        If the shapes do not fit.

    Notes
    -----
    With A = [A_M A_U] and P a basis of the combinations with P A_U = 0: stream j of M is redundant where column j
    of P A_M is not zero; stream j of U is observable where no vector of the null space of A_U has a part in it.

    References
    ----------
    Crowe (1989), AIChE J. 35, 1774. Madron (1992), Process Plant Performance, ch. 3.

    Examples
    --------
    >>> from processing.balance import classify
    >>> classify([[1, -1, -1, 0], [0, 1, 0, -1]], [True, True, False, True]).status
    ['nonredundant', 'redundant', 'observable', 'redundant']
    """
    rows = inputs.rows_of(incidence, "incidence")
    present = np.asarray(is_measured)
    if present.shape != (rows.n_columns,) or present.dtype != np.bool_:
        raise BalanceError(
            f"is_measured must be bool of shape ({rows.n_columns},), got {present.dtype} of shape {present.shape}"
        )
    return classes_of(pattern_of(rows, present))


def pattern_of(rows: Rows, present: Bools) -> Projection:
    """Factor a pattern for its classes alone: every meter has std one, and no large matrix is ordered or factored."""
    std = np.ones(rows.n_columns)
    if rows.n_columns <= DENSE_STREAMS:
        return project(rows.dense(), present, std)
    from processing.balance.sparse import project_sparse

    return project_sparse(rows, present, std)


def classes_of(projection: Projection) -> Classes:
    """Return the classes that a pattern's factors show."""
    return Classes(
        measured=projection.measured,
        redundant=projection.redundant,
        observable=projection.observable,
        degrees_of_freedom=projection.degrees_of_freedom,
    )
