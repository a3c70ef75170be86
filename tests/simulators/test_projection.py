"""Closing balances: exact, nearest, within bounds, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from simulators.projection import Problem, UnclosableError, project, project_within, residual

SPLIT = np.array([[1.0, -1.0, -1.0]])


def problem(desired: list[float], matrix: np.ndarray = SPLIT, **keys: np.ndarray) -> Problem:
    n = len(desired)
    defaults = {"weight": np.ones(n), "rhs": np.zeros(len(matrix)), "low": np.zeros(n), "high": np.full(n, np.inf)}
    return Problem(np.array(desired, dtype=float), matrix=csr_array(matrix), **(defaults | keys))


def test_a_split_shares_what_is_open_by_weight() -> None:
    # open: 10 - 6 - 1 = 3; by hand: x = d - w A (A w A)^-1 3, sum of weights 3
    assert project(problem([10.0, 6.0, 1.0])) == pytest.approx([9.0, 7.0, 2.0])


def test_what_has_no_weight_stays() -> None:
    x = project(problem([10.0, 6.0, 1.0], weight=np.array([0.0, 1.0, 0.0])))
    assert x == pytest.approx([10.0, 9.0, 1.0])


def test_what_closes_already_is_left_alone_bit_for_bit() -> None:
    desired = [0.3, 0.1, 0.2]
    assert project(problem(desired)).tolist() == desired


def test_dependent_balances_close() -> None:
    ring = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]])
    assert project(problem([3.0, 4.0, 5.0], ring)) == pytest.approx([4.0, 4.0, 4.0])


def test_bounds_hold_and_the_rest_closes() -> None:
    x = project(problem([1.0, 6.0, 0.1]))
    assert x.min() >= 0.0
    assert residual(x, csr_array(SPLIT), np.zeros(1)).max() < 1e-12


def test_bounds_that_only_a_search_can_keep() -> None:
    # a chain in which clamping one flow starves the next: 0 -> a -> b with tight upper bounds on both branches
    matrix = np.array([[1.0, -1.0, -1.0, 0.0], [0.0, 1.0, 0.0, -1.0]])
    high = np.array([np.inf, 2.0, 3.0, 2.0])
    within = project_within(problem([50.0, 40.0, 1.0, 9.0], matrix, high=high))
    assert within is not None
    assert (within <= high + 1e-9).all()
    assert residual(within, csr_array(matrix), np.zeros(2)).max() < 1e-12


def test_where_no_point_keeps_both_the_balances_win() -> None:
    case = problem([1.0, 1.0, 1.0], rhs=np.array([5.0]), high=np.full(3, 1.0))
    assert project_within(case) is None
    x = project(case)
    assert residual(x, csr_array(SPLIT), np.array([5.0])).max() < 1e-12


def test_flows_that_can_only_be_nothing_become_nothing() -> None:
    leaking_ring = np.array([[0.99, -1.0], [-1.0, 1.0]])
    assert project(problem([3.0, 4.0], leaking_ring)) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_balances_that_contradict_each_other_are_refused_by_row() -> None:
    twice = np.array([[1.0, -1.0], [1.0, -1.0]])
    with pytest.raises(UnclosableError, match="cannot be closed") as error:
        project(problem([1.0, 1.0], twice, rhs=np.array([0.0, 1.0])))
    assert error.value.rows


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_projection_is_the_nearest_point(n_extra: int, n_rows: int, seed: int) -> None:
    """Against the solution by null space, in exact form: W-orthogonality of the correction."""
    rng = np.random.default_rng(seed)
    n = n_rows + n_extra
    matrix = rng.normal(size=(n_rows, n))
    weight, desired, rhs = rng.uniform(0.1, 10.0, n), rng.normal(size=n), rng.normal(size=n_rows)
    free = np.full(n, np.inf)
    x = project(Problem(desired, weight, csr_array(matrix), rhs, -free, free))
    exact = desired + weight * (matrix.T @ np.linalg.solve((matrix * weight) @ matrix.T, rhs - matrix @ desired))
    assert x == pytest.approx(exact, rel=1e-6, abs=1e-6 * (1.0 + np.abs(exact).max()))
    assert residual(x, csr_array(matrix), rhs).max() < 1e-12


def test_many_balances_close_as_few_do(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = np.eye(40, 41) - np.eye(40, 41, k=1)
    case = problem(list(np.random.default_rng(1).uniform(5.0, 6.0, 41)), chain)
    dense = project(case)
    monkeypatch.setattr("simulators.projection.DENSE_ROWS", 10)
    assert project(case) == pytest.approx(dense, rel=1e-12)
    assert np.ptp(project(case)) < 1e-10
