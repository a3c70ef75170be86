"""Laws that reconciliation obeys, whatever the network: balances close, nothing depends on names, order or units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processing.balance import identify_gross_errors, network, reconcile

SETTINGS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True, params=["dense", "sparse"])
def factors(request, monkeypatch):
    """Everything here holds for dense factors and for sparse ones."""
    if request.param == "sparse":
        monkeypatch.setattr(network, "DENSE_STREAMS", 0)


@st.composite
def problems(draw, silent=True):
    """A network (joined places, some real coefficients), flows that close it, std, readings, right-hand side."""
    n_nodes, n_streams = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    places = st.integers(0, n_nodes)
    matrix = np.zeros((n_nodes, n_streams))
    for j in range(n_streams):
        start, end = draw(places), draw(places)
        factor = draw(st.sampled_from([1.0, 1.0, 1.0, 0.5, 2.5]))
        if start != end:
            if start < n_nodes:
                matrix[start, j] = -1.0
            if end < n_nodes:
                matrix[end, j] = factor
    numbers = st.lists(st.floats(0.1, 10.0), min_size=n_streams, max_size=n_streams)
    true, std = np.array(draw(numbers)), np.array(draw(numbers)) / 10
    noise = np.array(draw(st.lists(st.floats(-3.0, 3.0), min_size=n_streams, max_size=n_streams)))
    measured = true + std * noise
    if silent:
        measured[np.array(draw(st.lists(st.booleans(), min_size=n_streams, max_size=n_streams)), dtype=bool)] = np.nan
    return matrix, measured, std, matrix @ true


def answer(problem):
    """Reconcile a problem."""
    matrix, measured, std, rhs = problem
    return reconcile(matrix, measured, std, rhs=rhs)


@SETTINGS
@given(problems())
def test_balances_of_known_streams_close(problem):
    matrix, _, _, rhs = problem
    result = answer(problem)
    known = ~((matrix != 0) & ~result.observable).any(axis=1)
    left = matrix[known] @ np.nan_to_num(result.reconciled) - rhs[known]
    np.testing.assert_allclose(left, 0.0, atol=1e-10)


@SETTINGS
@given(problems())
def test_reconciling_twice_changes_nothing(problem):
    matrix, measured, std, rhs = problem
    once = answer(problem).reconciled
    again = reconcile(matrix, np.where(np.isnan(measured), np.nan, once), std, rhs=rhs)
    np.testing.assert_allclose(again.reconciled, once, rtol=1e-9, atol=1e-9)
    assert again.global_test == pytest.approx(0.0, abs=1e-12)


@SETTINGS
@given(problems(), st.floats(1e-3, 1e3))
def test_scaling_all_std_changes_no_value(problem, factor):
    matrix, measured, std, rhs = problem
    one, other = answer(problem), reconcile(matrix, measured, factor * std, rhs=rhs)
    np.testing.assert_allclose(other.reconciled, one.reconciled, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(other.std, factor * one.std, rtol=1e-6, atol=1e-8 * factor)
    assert other.global_test == pytest.approx(one.global_test / factor**2, rel=1e-6, abs=1e-9 / factor**2)


@SETTINGS
@given(problems(), st.randoms(use_true_random=False))
def test_permuting_streams_and_nodes_permutes_the_answer(problem, random):
    matrix, measured, std, rhs = problem
    streams, nodes = list(range(len(std))), list(range(len(rhs)))
    random.shuffle(streams)
    random.shuffle(nodes)
    one = answer(problem)
    other = reconcile(matrix[nodes][:, streams], measured[streams], std[streams], rhs=rhs[nodes])
    np.testing.assert_allclose(other.reconciled, one.reconciled[streams], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(other.std, one.std[streams], rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(other.redundant, one.redundant[streams])


@SETTINGS
@given(problems(), st.floats(1e-3, 1e3))
def test_a_change_of_unit_scales_the_answer(problem, unit):
    """Of one stream: its column by 1 / unit, its value and std by unit."""
    matrix, measured, std, rhs = problem
    scale = np.ones(len(std))
    scale[0] = unit
    one = answer(problem)
    other = reconcile(matrix / scale, measured * scale, std * scale, rhs=rhs)
    np.testing.assert_allclose(other.reconciled / scale, one.reconciled, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(other.std / scale, one.std, rtol=1e-6, atol=1e-8)
    assert other.global_test == pytest.approx(one.global_test, rel=1e-6, abs=1e-9)


@SETTINGS
@given(problems())
def test_knowing_more_is_never_less_sure(problem):
    _, measured, std, _ = problem
    result = answer(problem)
    known = ~np.isnan(measured)
    assert (result.std[known] <= std[known] * (1 + 1e-12)).all()
    assert result.degrees_of_freedom >= 0
    assert result.global_test >= -1e-12
    np.testing.assert_allclose(
        result.std[known] ** 2 + result.adjustment_std[known] ** 2, std[known] ** 2, rtol=1e-7, atol=1e-12
    )


@SETTINGS
@given(problems())
def test_a_balance_written_twice_changes_nothing(problem):
    matrix, measured, std, rhs = problem
    one = answer(problem)
    weights = np.arange(1.0, len(rhs) + 1)
    other = reconcile(np.vstack([matrix, weights @ matrix]), measured, std, rhs=np.append(rhs, weights @ rhs))
    np.testing.assert_allclose(other.reconciled, one.reconciled, rtol=1e-8, atol=1e-8)
    assert other.degrees_of_freedom == one.degrees_of_freedom


@SETTINGS
@given(problems(silent=False), st.floats(50.0, 500.0))
def test_an_error_taken_out_leaves_the_balances_closed(problem, size):
    matrix, measured, std, rhs = problem
    measured = measured.copy()
    measured[0] += size
    found = identify_gross_errors(matrix, measured, std, rhs=rhs, hypotheses=("bias",), at_most=1)
    seen = ~((matrix != 0) & np.isnan(found.reconciled)).any(axis=1)
    left = matrix[seen] @ np.nan_to_num(found.reconciled) - rhs[seen]
    np.testing.assert_allclose(left, 0.0, atol=1e-7 * size)
    assert not (found.bias[~found.suspects]).any()
