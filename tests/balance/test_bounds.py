"""Bounds: random networks against the conditions of optimality; what has no solution against linear programming."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog, lsq_linear

from processing.balance import ContradictionError, network, reconcile


@pytest.fixture(autouse=True, params=["dense", "sparse"])
def factors(request, monkeypatch):
    """Everything here holds for dense factors and for sparse ones."""
    if request.param == "sparse":
        monkeypatch.setattr(network, "DENSE_STREAMS", 0)


def random_case(seed):
    """A network, one window, its uncertainty, right-hand side, bounds; now and then no point is within them."""
    rng = np.random.default_rng(seed)
    m, n = int(rng.integers(1, 8)), int(rng.integers(2, 16))
    matrix = np.zeros((m, n))
    for j in range(n):
        ends = rng.choice(m + 1, 2, replace=False)
        for i, sign in zip(ends, (-1.0, rng.choice([1.0, 1.0, 0.5])), strict=True):
            if i < m:
                matrix[i, j] = sign
    true, std = rng.uniform(0.0, 5.0, n), rng.uniform(0.2, 2.0, n)
    measured = true + 2 * std * rng.standard_normal(n)
    measured[rng.random(n) < rng.choice([0.0, 0.0, 0.2])] = np.nan
    mix = np.eye(n) + rng.choice([0.0, 0.4]) * rng.standard_normal((n, n))
    covariance = (mix * std[:, None]) @ (mix * std[:, None]).T
    width = rng.random((2, n)) * rng.random()
    low, high = true - width[0] + rng.choice([0.0, 0.0, 0.5]), true + width[1] + 0.5
    low[rng.random(n) < 0.3] = -np.inf
    fixed = rng.random(n) < 0.1
    low[fixed] = high[fixed] = true[fixed]
    unit = 10.0 ** rng.uniform(-4, 4, n) if rng.random() < 0.3 else np.ones(n)
    return matrix, true, measured, (covariance + covariance.T) / 2, low, high, unit


def optimality(matrix, values, given, covariance, low, high):
    """Largest part of the gradient that no multiplier of a balance or of a bound that binds accounts for."""
    measured = ~np.isnan(given)
    at_low, at_high = abs(values - low) < 1e-7, abs(values - high) < 1e-7
    unit = np.eye(len(values))
    forces = np.hstack([matrix.T, unit[:, at_low], -unit[:, at_high]])
    least = np.r_[np.full(len(matrix), -np.inf), np.zeros(at_low.sum() + at_high.sum())]
    moved = np.vstack([(np.where(measured, covariance, 0.0) @ forces)[measured], forces[~measured]])
    aim = np.r_[(values - given)[measured], np.zeros((~measured).sum())]
    found = lsq_linear(moved, aim, bounds=(least, np.inf), method="bvls", tol=1e-14)
    return abs(moved @ found.x - aim).max(initial=0.0)


@pytest.mark.parametrize("block", range(6))
def test_within_bounds_nothing_is_better(block):
    refused = 0
    for seed in range(20 * block, 20 * block + 20):
        matrix, true, measured, covariance, low, high, unit = random_case(seed)
        rhs, outer = matrix @ true, np.outer(unit, unit)
        seen = reconcile(matrix, measured, covariance=covariance, rhs=rhs).observable
        if not seen.all():
            measured = np.where(seen, measured, true)
        try:
            result = reconcile(
                matrix / unit, measured * unit, covariance=covariance * outer, rhs=rhs, bounds=(low * unit, high * unit)
            )
        except ContradictionError:
            bounds = list(zip(low, high, strict=True))
            assert linprog(np.zeros(len(true)), A_eq=matrix, b_eq=rhs, bounds=bounds).status == 2  # infeasible
            refused += 1
            continue
        values = result.reconciled / unit
        assert (values >= low - 1e-9).all()
        assert (values <= high + 1e-9).all()
        np.testing.assert_allclose(matrix @ values, rhs, atol=1e-8)
        assert optimality(matrix, values, measured, covariance, low, high) < 1e-7
    assert refused
