"""Networks like plants: places in a line, pipes mostly between neighbours, some to the outside."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def plant(n_nodes, n_streams, seed=0, *, reach=3.0, outside=0.15, real=0.0):
    """Return an incidence matrix, shape (n_nodes, n_streams); a share `real` of the coefficients is not one."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, n_nodes, n_streams)
    start[: min(n_nodes, n_streams)] = np.arange(min(n_nodes, n_streams))
    end = start + rng.geometric(1.0 / reach, n_streams) * rng.choice((-1, 1), n_streams)
    inside = (end >= 0) & (end < n_nodes) & (rng.random(n_streams) >= outside)
    rows = np.concatenate([start, end[inside]])
    columns = np.concatenate([np.arange(n_streams), np.flatnonzero(inside)])
    values = np.concatenate([-np.ones(n_streams), np.ones(int(inside.sum()))])
    odd = rng.random(len(values)) < real
    values[odd] *= rng.uniform(0.2, 3.0, int(odd.sum()))
    return sp.csr_array((values, (rows, columns)), shape=(n_nodes, n_streams))


def flows(incidence, seed=0):
    """Return flows, positive, that close every balance with the right-hand side returned too."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(1.0, 100.0, incidence.shape[1])
    return true, incidence @ true
