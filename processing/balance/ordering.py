"""In which order balances are eliminated, and the pattern that L has then.

Here: minimum degree, and the symbolic factorisation. Not here: the numbers (factors.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from processing.balance import factors
from processing.balance.inputs import Ints, Rows
from processing.balance.reduction import Reduced, take_rows


@dataclass(frozen=True, eq=False)
class Order:
    """The pattern of L for one order of the rows; the same for any positive variances.

    Parameters
    ----------
    rows
        Kept balances in elimination order, shape (n_kept, n_streams).
    nodes
        Which row of `Reduced.after` each is, shape (n_kept,).
    l_start, l_index
        L by columns.
    row_start, row_column, row_place
        L by rows: columns and places in `l_index`.
    """

    rows: Rows
    nodes: Ints
    l_start: Ints
    l_index: Ints
    row_start: Ints
    row_column: Ints
    row_place: Ints

    @property
    def pattern(self) -> factors.Pattern:
        """The pattern as the kernels take it."""
        return factors.Pattern(self.l_start, self.l_index, self.row_start, self.row_column, self.row_place)


def order_rows(reduced: Reduced, covariance: sp.csr_array) -> Order:
    """Choose the order of elimination by minimum degree and find the pattern of L."""
    rows = take_rows(reduced.after, reduced.kept)
    entered = as_csr(Rows(rows.start, rows.index, np.ones(len(rows.value)), rows.n_columns))
    touched = abs(covariance)
    touched.data[:] = 1.0
    touched = touched + sp.diags_array(np.ones(rows.n_columns))
    graph = (entered @ touched @ entered.T).tocsc()
    order = minimum_degree(graph)
    pattern = pattern_of_factor(graph[order][:, order])
    return Order(take_rows(rows, order), reduced.kept[order], *pattern)


def pattern_of_factor(graph: Any) -> factors.Pattern:
    """Return the pattern of L for a symmetric pattern, diagonal included, in the order given."""
    columns = graph.tocsc()
    columns.sort_indices()
    start, index = columns.indptr.astype(np.int64), columns.indices.astype(np.int64)
    n = columns.shape[0]
    parent = np.empty(n, dtype=np.int64)
    l_start = np.concatenate([[0], np.cumsum(factors.symbolic(start, index, parent))]).astype(np.int64)
    l_index = np.empty(l_start[-1], dtype=np.int64)
    factors.fill_pattern(start, index, parent, l_start, l_index)
    column = np.repeat(np.arange(n), np.diff(l_start))
    place = np.argsort(l_index, kind="stable")
    row_start = np.concatenate([[0], np.cumsum(np.bincount(l_index, minlength=n))]).astype(np.int64)
    return factors.Pattern(l_start, l_index, row_start, column[place], place)


def minimum_degree(graph: sp.csc_array) -> Ints:
    """Return an order of elimination with little fill for a symmetric pattern, shape (n_rows,)."""
    n = graph.shape[0]
    if n < 3:
        return np.arange(n, dtype=np.int64)
    from scipy.sparse.linalg import splu

    # only SuperLU's multiple-minimum-degree order is used: the values make every pivot safe
    degree = np.diff(graph.indptr)
    values = sp.csc_array((np.full(graph.nnz, -1.0), graph.indices, graph.indptr), shape=graph.shape)
    values = values + sp.diags_array(degree + 2.0, format="csc")
    options = {"SymmetricMode": True}
    found = splu(values.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    order = np.argsort(found.perm_c).astype(np.int64)
    ordered = graph[order][:, order].tocsc()
    ordered.sort_indices()
    parent = np.empty(n, dtype=np.int64)
    factors.symbolic(ordered.indptr.astype(np.int64), ordered.indices.astype(np.int64), parent)
    # the same fill, but what is eliminated together lies together
    return order[factors.postorder(parent)]


def as_csr(rows: Rows) -> sp.csr_array:
    """Return the matrix in scipy's form."""
    return sp.csr_array((rows.value, rows.index, rows.start), shape=rows.shape)


def as_rows(matrix: Any) -> Rows:
    """Return a scipy matrix by rows, sorted."""
    csr = matrix.tocsr()
    csr.sort_indices()
    return Rows(csr.indptr.astype(np.int64), csr.indices.astype(np.int64), csr.data.astype(np.float64), csr.shape[1])
