"""Sparse factors against dense ones on networks of some hundred streams, through the public functions."""

from __future__ import annotations

import numpy as np
import pytest

from processing.balance import (
    BalanceError,
    ContradictionError,
    assess,
    classify,
    identify_gross_errors,
    kernels,
    network,
    prepare,
    reconcile,
)
from tests.balance.networks import flows, plant


@pytest.fixture
def both(monkeypatch):
    """Run a function with dense and with sparse factors and return both answers."""

    def run(function):
        monkeypatch.setattr(network, "DENSE_STREAMS", 10_000)
        dense = function()
        monkeypatch.setattr(network, "DENSE_STREAMS", 0)
        return dense, function()

    return run


def case(seed, n_nodes=60, n_streams=130, silent=0.2, spread=1.0):
    """A plant with silent meters, some in every window, some in one."""
    rng = np.random.default_rng(seed)
    matrix = plant(n_nodes, n_streams, seed, real=0.1)
    true, rhs = flows(matrix, seed)
    std = 10.0 ** rng.uniform(-spread, spread, n_streams)
    measured = true + std * rng.standard_normal((7, n_streams))
    measured[:, rng.random(n_streams) < silent] = np.nan
    measured[3, :5] = np.nan
    return matrix, measured, std, rhs


@pytest.mark.parametrize("seed", range(6))
def test_everything_a_result_has(both, seed):
    matrix, measured, std, rhs = case(seed)
    dense, sparse = both(lambda: reconcile(matrix, measured, std, rhs=rhs))
    for name in ("observable", "redundant", "degrees_of_freedom"):
        np.testing.assert_array_equal(getattr(sparse, name), getattr(dense, name), err_msg=name)
    for name in ("reconciled", "std", "adjustment_std", "global_test", "imbalance", "nodal_test"):
        np.testing.assert_allclose(getattr(sparse, name), getattr(dense, name), rtol=1e-8, atol=1e-8, err_msg=name)
    np.testing.assert_allclose(sparse.measurement_test, dense.measurement_test, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sparse.covariance(2)[:9, :9], dense.covariance(2)[:9, :9], atol=1e-8)


def test_badly_scaled_networks_are_refined(both):
    """Std over eight orders of magnitude: balances still close to rounding, and the answer is the dense one."""
    matrix, measured, std, rhs = case(3, spread=4.0)
    dense, sparse = both(lambda: reconcile(matrix, measured, std, rhs=rhs))
    np.testing.assert_allclose(sparse.reconciled, dense.reconciled, rtol=1e-7, atol=1e-7)
    seen = sparse.observable[0]
    if seen.all():
        assert abs(matrix @ sparse.reconciled[0] - rhs).max() < 1e-9
    np.testing.assert_allclose(sparse.std, dense.std, rtol=1e-5, atol=1e-9)


def test_correlated_meters(both):
    rng = np.random.default_rng(0)
    matrix, measured, std, rhs = case(1, silent=0.1)
    covariance = np.diag(std**2)
    for j in range(0, 120, 7):
        mix = rng.standard_normal((3, 3))
        covariance[j : j + 3, j : j + 3] = mix @ mix.T
    dense, sparse = both(lambda: reconcile(matrix, measured, covariance=covariance, rhs=rhs))
    for name in ("reconciled", "std", "adjustment_std", "global_test"):
        np.testing.assert_allclose(getattr(sparse, name), getattr(dense, name), rtol=1e-6, atol=1e-6, err_msg=name)
    measured[0, np.flatnonzero(~np.isnan(measured[0]))[4]] += 500.0
    dense, sparse = both(
        lambda: identify_gross_errors(matrix, measured[0], covariance=covariance, rhs=rhs, hypotheses=("bias",))
    )
    np.testing.assert_array_equal(sparse.suspects, dense.suspects)
    assert sparse.suspects.any()


def test_gross_errors(both):
    matrix, measured, std, rhs = case(2, silent=0.1)
    measured[:, 40] += 500.0
    measured[2:, 77] -= 700.0
    right = np.tile(rhs, (7, 1))
    right[5, 11] -= 900.0
    dense, sparse = both(lambda: identify_gross_errors(matrix, measured, std, rhs=right, at_most=6))
    np.testing.assert_array_equal(sparse.suspects, dense.suspects)
    np.testing.assert_array_equal(sparse.leaks, dense.leaks)
    assert sparse.suspects[:, 40].all()
    for name in ("bias", "bias_std", "leak_size", "reconciled", "bias_test", "leak_test"):
        np.testing.assert_allclose(getattr(sparse, name), getattr(dense, name), rtol=1e-6, atol=1e-6, err_msg=name)
    assert {frozenset(group) for group in sparse.classes} == {frozenset(group) for group in dense.classes}
    np.testing.assert_allclose(sparse.threshold, dense.threshold, rtol=0.01)


def test_classes_and_assessment(both):
    matrix, measured, std, _ = case(4, n_nodes=25, n_streams=50)
    present = ~np.isnan(measured[0])
    dense, sparse = both(lambda: classify(matrix, present))
    assert dense.status == sparse.status
    dense, sparse = both(lambda: assess(matrix, std, present))
    for name in ("std", "adjustability", "detectability", "smallest_bias", "smallest_leak"):
        np.testing.assert_allclose(getattr(sparse, name), getattr(dense, name), rtol=1e-2, atol=1e-6, err_msg=name)
    assert [m.stream for m in sparse.extra_meters[:3]] == [m.stream for m in dense.extra_meters[:3]]


def test_bounds(both):
    matrix, measured, std, rhs = case(5, silent=0.0)
    true, _ = flows(matrix, 5)
    bounds = (true - 0.1, true + 0.1)
    dense, sparse = both(lambda: reconcile(matrix, measured[:2], std, rhs=rhs, bounds=bounds))
    np.testing.assert_allclose(sparse.reconciled, dense.reconciled, rtol=1e-7)
    np.testing.assert_allclose(sparse.global_test, dense.global_test, rtol=1e-6)


def test_std_by_window(both):
    rng = np.random.default_rng(1)
    matrix, measured, std, rhs = case(6)
    windows = np.tile(measured, (10, 1)) + rng.standard_normal((70, 1))
    spread = std * rng.uniform(0.5, 2.0, windows.shape)
    dense, sparse = both(lambda: reconcile(matrix, windows, spread, rhs=rhs))
    np.testing.assert_allclose(sparse.reconciled, dense.reconciled, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(sparse.std[[0, 3, 69]], dense.std[[0, 3, 69]], rtol=1e-6)


def test_threads_change_nothing(monkeypatch):
    monkeypatch.setattr(network, "DENSE_STREAMS", 0)
    matrix, measured, std, _ = case(7, silent=0.0)
    windows = np.tile(measured, (30, 1))
    made = prepare(matrix, std)
    one = made.reconcile(windows).reconciled
    np.testing.assert_array_equal(made.reconcile(windows, threads=2).reconciled, one)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_gap_among_whole_windows(monkeypatch, threads):
    """Found on the way: every window is what it is alone, also where the answer replaces the readings."""
    monkeypatch.setattr(network, "DENSE_STREAMS", 0)
    matrix, measured, std, rhs = case(8, silent=0.0)
    measured[3] = measured[0]
    windows = np.tile(measured, (12, 1))
    windows[17, 4], windows[60, 4:90] = np.nan, np.nan
    made = prepare(matrix, std)
    alone = np.array([made.reconcile(y, rhs=rhs).reconciled for y in windows])
    together = made.reconcile(windows, rhs=rhs, threads=threads)
    np.testing.assert_array_equal(together.reconciled, alone)
    np.testing.assert_array_equal(together.redundant[[16, 17], 4], [True, False])
    memory = windows.copy()
    made.reconcile(memory, rhs=rhs, threads=threads, out=memory)
    np.testing.assert_array_equal(memory, alone)


def test_windows_that_cannot_be_written_to_are_not_compiled_for(monkeypatch):
    monkeypatch.setattr(network, "DENSE_STREAMS", 0)
    matrix, measured, std, rhs = case(8, silent=0.0)
    measured[3] = measured[0]
    made = prepare(matrix, std)
    want = made.reconcile(measured, rhs=rhs)
    compiled = len(getattr(kernels.reconcile_windows, "signatures", ()))
    measured.flags.writeable = False
    found = made.reconcile(measured, rhs=rhs)
    np.testing.assert_array_equal(found.reconciled, want.reconciled)
    np.testing.assert_array_equal(found.global_test, want.global_test)
    assert len(getattr(kernels.reconcile_windows, "signatures", ())) == compiled


def test_what_a_batch_of_a_large_network_cannot_have(monkeypatch):
    monkeypatch.setattr(network, "DENSE_STREAMS", 0)
    matrix, measured, std, rhs = case(9, silent=0.0)
    measured[3] = measured[0]
    made = prepare(matrix, std)
    assert made.reconcile(measured[:0]).reconciled.shape == (0, measured.shape[1])
    measured[2, 7] = np.inf
    with pytest.raises(BalanceError, match="window 2, stream 7"):
        made.reconcile(measured, rhs=rhs)
    exact = prepare([[1, -1, 0], [0, 1, -1]], [0.0, 0.0, 1.0])
    with pytest.raises(ContradictionError, match="window 1"):
        exact.reconcile([[1.0, 1.0, 2.0], [1.0, 1.5, 2.0], [2.0, 2.0, 2.0]])


def test_thousands_of_streams_close_their_balances():
    matrix = plant(2_000, 4_000, 1)
    rng = np.random.default_rng(0)
    measured = rng.uniform(1.0, 9.0, (3, 4_000))
    measured[:, rng.random(4_000) < 0.1] = np.nan
    result = reconcile(matrix, measured, rng.uniform(0.1, 1.0, 4_000))
    seen = result.observable[0]
    closed = np.flatnonzero(np.asarray(abs(matrix) @ (~seen).astype(float)) == 0)
    assert len(closed) > 1_500
    assert abs((matrix @ np.nan_to_num(result.reconciled).T)[closed]).max() < 1e-10
