"""Balances without their unmeasured streams, and which of them are independent.

Here: `reduce`, two sparse eliminations (elimination.py) and what must be remembered of them. Not here: the order and
the factors of what remains (ordering.py, sparse.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from processing.balance.elimination import ZERO_SHARE, eliminate
from processing.balance.inputs import Bools, Floats, Ints, Rows
from processing.balance.scaling import scales_of


@dataclass(frozen=True, eq=False)
class Reduced:
    """Balances without unmeasured streams, and how they came about.

    Parameters
    ----------
    rows
        All balances, each multiplied by its scale; shape (n_nodes, n_streams).
    by_row, by_column
        Scales in which coefficients are near one (scaling.py), shape (n_nodes,) and (n_streams,).
    after
        All rows after elimination, shape (n_nodes, n_streams).
    pivot_row, pivot_column
        Where each unmeasured stream with a pivot is computed from, in order of elimination.
    target, source, share
        The steps of the elimination.
    kept
        Rows of `after` that hold measured streams only and are independent: the balances to meet.
    idle
        Rows that depend on the kept ones as far as streams of positive std go.
    idle_steps
        (target, source, share) that show it, rows of `after`.
    """

    rows: Rows
    by_row: Floats
    by_column: Floats
    after: Rows
    pivot_row: Ints
    pivot_column: Ints
    target: Ints
    source: Ints
    share: Floats
    kept: Ints
    idle: Ints
    idle_steps: tuple[Ints, Ints, Floats]


def reduce(rows: Rows, measured: Bools, spread: Rows) -> Reduced:
    """Eliminate unmeasured streams and find the independent balances among the rest.

    Parameters
    ----------
    rows
        The balances, shape (n_nodes, n_streams).
    measured
        bool, shape (n_streams,).
    spread
        C of V = C C', shape (n_streams, n_errors), zero where unmeasured: how errors move the streams.
    """
    by_row, by_column = scales_of(rows)
    scaled = Rows(rows.start, rows.index, rows.value * by_row[rows.row_of_entry()], rows.n_columns)
    start, index, value, row, column, target, source, share = eliminate(
        scaled.start, scaled.index, scaled.value, ~measured
    )
    after = _sorted(Rows(start, index, value, rows.n_columns))
    rest = np.setdiff1d(np.arange(rows.n_rows), row)
    left = _moved(take_rows(after, rest), spread)
    _, _, _, independent, _, to, of, by = eliminate(
        left.start, left.index, left.value, np.ones(left.n_columns, dtype=bool)
    )
    depend = np.setdiff1d(np.arange(len(rest)), independent)
    return Reduced(
        rows=scaled,
        by_row=by_row,
        by_column=by_column,
        after=after,
        pivot_row=row,
        pivot_column=column,
        target=target,
        source=source,
        share=share,
        kept=rest[np.sort(independent)],
        idle=rest[depend],
        idle_steps=(rest[to], rest[of], by),
    )


def _moved(rows: Rows, spread: Rows) -> Rows:
    """Return what each error moves each balance by, errors of a size that moves one of them by about one."""
    balances = sp.csr_array((rows.value, rows.index, rows.start), shape=rows.shape)
    errors = sp.csr_array((spread.value, spread.index, spread.start), shape=spread.shape)
    product: Any = balances @ errors
    terms: Any = abs(balances) @ abs(errors)
    held = product.multiply(abs(product) > ZERO_SHARE * terms).tocsr()
    held.eliminate_zeros()
    start, index = held.indptr.astype(np.int64), held.indices.astype(np.int64)
    largest = np.zeros(spread.n_columns)
    np.maximum.at(largest, index, abs(held.data))
    return Rows(start, index, np.asarray(held.data / largest[index], dtype=np.float64), spread.n_columns)


def _sorted(rows: Rows) -> Rows:
    """Return the same rows with ascending columns."""
    order = np.lexsort((rows.index, rows.row_of_entry()))
    return Rows(rows.start, rows.index[order], rows.value[order], rows.n_columns)


def take_rows(rows: Rows, chosen: Ints) -> Rows:
    """Return the chosen rows, in the order given."""
    lengths = rows.start[chosen + 1] - rows.start[chosen]
    start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    entries = np.repeat(rows.start[chosen] - start[:-1], lengths) + np.arange(start[-1])
    return Rows(start, rows.index[entries], rows.value[entries], rows.n_columns)
