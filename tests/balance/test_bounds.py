"""Bounds: random networks against the conditions of optimality; what has no solution against linear programming."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog, lsq_linear, minimize

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


def test_pipes_without_meters_narrow_what_feeds_them():
    """5 into two pipes of at most 2 each is 4; what each carries stays unknown."""
    bounds = (0.0, [10.0, 2.0, 2.0])
    result = reconcile([[1, -1, -1]], [[5.0, np.nan, np.nan], [3.0, np.nan, np.nan]], 1.0, bounds=bounds)
    np.testing.assert_allclose(result.reconciled[:, 0], [4.0, 3.0], rtol=1e-9)
    assert np.isnan(result.reconciled[:, 1:]).all()
    assert result.bounded.tolist() == [0]
    assert result.reconciled[1, 0] == reconcile([[1, -1, -1]], [3.0, np.nan, np.nan], 1.0).reconciled[0]
    np.testing.assert_allclose(result.global_test, [1.0, 0.0], rtol=1e-9)
    with pytest.raises(ContradictionError, match="window 0: no values within the bounds"):
        reconcile([[1, -1, -1]], [5.0, np.nan, np.nan], 1.0, bounds=([5.0, 0.0, 0.0], [10.0, 2.0, 2.0]))


@pytest.mark.parametrize("block", range(4))
def test_bounds_of_streams_that_nothing_determines(block):
    """The determined streams are the nearest for which the others still find a place; nothing found is nearer."""
    hidden = 0
    for seed in range(15 * block, 15 * block + 15):
        matrix, true, measured, covariance, low, high, _ = random_case(seed)
        measured[np.random.default_rng(seed).random(len(true)) < 0.4] = np.nan
        rhs, known = matrix @ true, ~np.isnan(measured)
        seen = reconcile(matrix, measured, covariance=covariance, rhs=rhs).observable
        if seen.all() or not known.any():
            continue
        hidden += 1
        try:
            values = reconcile(matrix, measured, covariance=covariance, rhs=rhs, bounds=(low, high)).reconciled
        except ContradictionError:
            bounds = list(zip(low, high, strict=True))
            assert linprog(np.zeros(len(true)), A_eq=matrix, b_eq=rhs, bounds=bounds).status == 2
            continue
        close = [(x - 1e-7, x + 1e-7) if s else (a, b) for x, s, a, b in zip(values, seen, low, high, strict=True)]
        whole = linprog(np.zeros(len(true)), A_eq=matrix, b_eq=rhs, bounds=close)
        assert whole.status == 0  # the others find a place
        weight = np.linalg.inv(covariance[np.ix_(known, known)])

        def cost(x, known=known, given=measured, weight=weight):
            away = (x - given)[known]
            return away @ weight @ away

        best = minimize(
            cost,
            whole.x,
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "eq", "fun": lambda x, a=matrix, b=rhs: a @ x - b},
            options={"ftol": 1e-12, "maxiter": 300},
        )
        assert cost(values) <= best.fun * (1 + 1e-6) + 1e-6
    assert hidden >= 3
