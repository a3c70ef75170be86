"""Linear reconciliation: published cases to their digits, and random networks against exact arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from processing.balance import BalanceError, ContradictionError, classify, network, prepare, reconcile, varying
from tests.reference import cases
from tests.reference.exact import Exact

NETWORKS = cases.linear_networks()


@pytest.fixture(autouse=True, params=["dense", "sparse"])
def factors(request, monkeypatch):
    """Everything here holds for dense factors and for sparse ones."""
    if request.param == "sparse":
        monkeypatch.setattr(network, "DENSE_STREAMS", 0)
        monkeypatch.setattr(varying, "TOGETHER", 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_published_networks_to_their_digits(name):
    case = NETWORKS[name]
    result = reconcile(case["incidence"], case["measured"], case["std"])
    np.testing.assert_allclose(result.reconciled, case["reconciled"], rtol=1e-6)
    np.testing.assert_allclose(result.std, case["std_reconciled"], rtol=1e-6)
    assert result.global_test == pytest.approx(case["objective"], rel=1e-9)
    assert result.degrees_of_freedom == case["n_nodes"]


def test_vdi_2048_to_each_printed_digit():
    case = cases.vdi2048()
    result = reconcile(case["incidence"], case["measured"], covariance=case["covariance"])
    assert result.reconciled.round(3).tolist() == case["reconciled"]
    assert (1.96 * result.std).round(3).tolist() == case["u95_reconciled"]
    assert round(result.global_test, 3) == case["objective"]
    for ours, printed in zip(result.local_test, case["local_test"], strict=True):
        digits = len(str(printed).split(".")[1])
        assert round(float(ours), digits) == printed
    assert (result.local_test < 1.96).all()


def random_network(rng, n_nodes, n_streams):
    """A network whose streams join two places, one of which may be the outside; real coefficients now and then."""
    matrix = np.zeros((n_nodes, n_streams))
    for j in range(n_streams):
        ends = rng.choice(n_nodes + 1, 2, replace=False)
        for i, sign in zip(ends, (1.0, -1.0), strict=True):
            if i < n_nodes:
                matrix[i, j] = sign * (1.0 if rng.random() < 0.8 else rng.integers(1, 5) / 4)
    return matrix


def random_case(seed):
    """A network with silent, exact and correlated meters and a right-hand side that can be met."""
    rng = np.random.default_rng(seed)
    n_nodes = int(rng.integers(1, 6))
    n_streams = int(rng.integers(1, 9))
    matrix = random_network(rng, n_nodes, n_streams)
    true = rng.integers(1, 64, n_streams) / 4
    std = rng.integers(1, 16, n_streams) / 8
    exact = rng.random(n_streams) < 0.15
    std[exact] = 0.0
    measured = np.where(exact, true, true + std * rng.integers(-16, 17, n_streams) / 8)
    measured[rng.random(n_streams) < 0.3] = np.nan
    return matrix, measured, std, matrix @ true


@pytest.mark.parametrize("seed", range(80))
def test_against_exact_arithmetic(seed):
    matrix, measured, std, rhs = random_case(seed)
    exact = Exact(matrix, measured, np.diag(std**2), rhs)
    assert exact.consistent
    result = reconcile(matrix, measured, std, rhs=rhs)
    np.testing.assert_array_equal(result.observable, exact.observable)
    np.testing.assert_array_equal(result.redundant, exact.redundant)
    np.testing.assert_allclose(result.reconciled, exact.reconciled, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.std, exact.std, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(result.adjustment_std**2, exact.adjustment_variance, rtol=1e-7, atol=1e-9)
    assert result.global_test == pytest.approx(exact.objective, rel=1e-9, abs=1e-9)
    classes = classify(matrix, ~np.isnan(measured))
    np.testing.assert_array_equal(classes.observable, exact.observable)
    np.testing.assert_array_equal(classes.redundant, exact.redundant)


@pytest.mark.parametrize("seed", range(30))
def test_correlated_meters_against_exact_arithmetic(seed):
    matrix, measured, std, rhs = random_case(seed)
    rng = np.random.default_rng(1000 + seed)
    mix = np.tril(rng.integers(-2, 3, (len(std), len(std))) / 4, -1) + np.eye(len(std))
    root = np.where(std[:, None] > 0, mix * np.maximum(std, 0.125), 0.0)
    covariance = root @ root.T
    exact = Exact(matrix, measured, covariance, rhs)
    result = reconcile(matrix, measured, covariance=covariance, rhs=rhs)
    np.testing.assert_allclose(result.reconciled, exact.reconciled, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(result.std, exact.std, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(result.adjustment_std**2, exact.adjustment_variance, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        result.covariance()[np.ix_(exact.observable, exact.observable)],
        exact.covariance[np.ix_(exact.observable, exact.observable)],
        rtol=1e-7,
        atol=1e-7,
    )


def test_many_windows_are_each_window_alone():
    rng = np.random.default_rng(5)
    case = NETWORKS["P8"]
    windows = case["true"] + case["std"] * rng.standard_normal((40, 11))
    windows[rng.random(windows.shape) < 0.1] = np.nan
    rhs = rng.standard_normal((40, 4)) * 10
    together = reconcile(case["incidence"], windows, case["std"], rhs=rhs)
    assert together.reconciled.shape == together.std.shape == together.measurement_test.shape == windows.shape
    assert together.global_test.shape == together.degrees_of_freedom.shape == (40,)
    for k in range(40):
        alone = reconcile(case["incidence"], windows[k], case["std"], rhs=rhs[k])
        for name in ("reconciled", "std", "adjustment", "measurement_test", "local_test", "observable", "redundant"):
            np.testing.assert_allclose(getattr(together, name)[k], getattr(alone, name), rtol=1e-9, err_msg=name)
        assert together.global_test[k] == pytest.approx(alone.global_test)
        assert together.degrees_of_freedom[k] == alone.degrees_of_freedom


def test_std_by_window():
    rng = np.random.default_rng(6)
    case = NETWORKS["P12"]
    windows = case["true"] + case["std"] * rng.standard_normal((20, 12))
    windows[rng.random(windows.shape) < 0.1] = np.nan
    std = case["std"] * rng.uniform(0.5, 2.0, windows.shape)
    together = reconcile(case["incidence"], windows, std)
    for k in range(20):
        alone = reconcile(case["incidence"], windows[k], std[k])
        np.testing.assert_allclose(together.reconciled[k], alone.reconciled, rtol=1e-9)
        np.testing.assert_allclose(together.std[k], alone.std, rtol=1e-9)
        assert together.global_test[k] == pytest.approx(alone.global_test)


def test_sparse_and_dense_are_one():
    case = NETWORKS["P15"]
    for form in (sp.csr_array, sp.csc_matrix, sp.coo_array):
        result = reconcile(form(case["incidence"].astype(float)), case["measured"], case["std"])
        np.testing.assert_array_equal(
            result.reconciled, reconcile(case["incidence"], case["measured"], case["std"]).reconciled
        )


def test_one_stream_networks():
    closed = reconcile([[1.0]], [5.0], [0.1])
    assert (closed.reconciled[0], closed.std[0], closed.degrees_of_freedom) == (0.0, 0.0, 1)
    free = reconcile(np.zeros((1, 1)), [5.0], [0.1])
    assert (free.reconciled[0], free.std[0], free.degrees_of_freedom) == (5.0, 0.1, 0)
    computed = reconcile([[2.0]], [np.nan], [0.1], rhs=[3.0])
    assert (computed.reconciled[0], computed.std[0]) == (1.5, 0.0)
    assert np.isnan(reconcile(np.zeros((1, 1)), [np.nan], [0.1]).reconciled[0])


def test_no_windows():
    result = prepare([[1.0, -1.0]], 0.1).reconcile(np.zeros((0, 2)))
    assert result.reconciled.shape == result.std.shape == (0, 2)
    assert result.global_test.shape == (0,)


def test_infinite_std_tells_nothing():
    matrix, measured = [[1, -1, -1]], [10.0, 7.0, 4.0]
    vague = reconcile(matrix, measured, [0.1, 0.1, np.inf])
    absent = reconcile(matrix, [10.0, 7.0, np.nan], [0.1, 0.1, 0.1])
    np.testing.assert_array_equal(vague.reconciled, absent.reconciled)
    assert vague.adjustment[2] == -1.0
    assert np.isnan(vague.measurement_test[2])


def test_dependent_rows_change_nothing():
    case = NETWORKS["P5"]
    doubled = np.vstack([case["incidence"], case["incidence"].sum(axis=0), 3 * case["incidence"][0]])
    one = reconcile(case["incidence"], case["measured"], case["std"])
    two = reconcile(doubled, case["measured"], case["std"])
    np.testing.assert_allclose(two.reconciled, one.reconciled, rtol=1e-12)
    np.testing.assert_allclose(two.std, one.std, rtol=1e-12)
    assert two.degrees_of_freedom == one.degrees_of_freedom
    assert two.global_test == pytest.approx(one.global_test)


def test_sure_and_vague_meters_together():
    """Std over ten orders of magnitude: no digits lost against exact arithmetic."""
    matrix = np.array([[1, -1, -1, 0, 0], [0, 1, 0, -1, 0], [0, 0, 1, 0, -1]])
    std = np.array([1e5, 1e-5, 1.0, 1e4, 1e-3])
    measured = np.array([130.0, 64.0, 36.0, 90.0, 35.0])
    exact = Exact(matrix, measured, np.diag(std**2))
    result = reconcile(matrix, measured, std)
    np.testing.assert_allclose(result.reconciled, exact.reconciled, rtol=1e-9)
    np.testing.assert_allclose(result.std, exact.std, rtol=1e-6)


def test_exact_values_that_contradict_are_refused():
    with pytest.raises(ContradictionError, match=r"window 1: the balances of nodes \[0\] leave -0\.5 open"):
        reconcile([[1, -1]], [[2.0, 2.0], [2.0, 2.5]], 0.0)
    with pytest.raises(ContradictionError, match="nodes"):
        reconcile([[1, -1], [1, -1]], [2.0, 2.0], 0.1, rhs=[0.0, 1.0])
    assert reconcile([[1, -1], [1, -1]], [2.0, 2.0], 0.1, rhs=[1.0, 1.0]).degrees_of_freedom == 1


def test_bounds_hold_and_are_optimal():
    from scipy.optimize import minimize

    rng = np.random.default_rng(3)
    for _ in range(30):
        matrix = random_network(rng, 3, 6)
        true = rng.uniform(0.0, 5.0, 6)
        std = rng.uniform(0.5, 2.0, 6)
        measured, rhs = true + std * rng.standard_normal(6), matrix @ true
        low, high = true - 0.5 * rng.random(6), true + 0.5 * rng.random(6)
        result = reconcile(matrix, measured, std, rhs=rhs, bounds=(low, high))
        assert (result.reconciled >= low - 1e-9).all()
        assert (result.reconciled <= high + 1e-9).all()
        np.testing.assert_allclose(matrix @ result.reconciled, rhs, atol=1e-9)
        best = minimize(
            lambda x, y=measured, s=std: (((x - y) / s) ** 2).sum(),
            true,
            jac=lambda x, y=measured, s=std: 2 * (x - y) / s**2,
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "eq", "fun": lambda x, a=matrix, b=rhs: a @ x - b, "jac": lambda x, a=matrix: a},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert result.global_test <= best.fun * (1 + 1e-6) + 1e-9  # inside the bounds, and nothing found is better


def test_bounds_that_do_not_bind_change_nothing():
    case = NETWORKS["P6"]
    free = reconcile(case["incidence"], case["measured"], case["std"])
    bounded = reconcile(case["incidence"], case["measured"], case["std"], bounds=(0.0, np.inf))
    np.testing.assert_array_equal(free.reconciled, bounded.reconciled)


def test_bounds_of_computed_streams_hold():
    result = reconcile([[1, -1, -1]], [[5.0, 6.0, np.nan], [8.0, 6.0, np.nan]], [1.0, 1.0, 1.0], bounds=(0.0, None))
    np.testing.assert_allclose(result.reconciled, [[5.5, 5.5, 0.0], [8.0, 6.0, 2.0]], atol=1e-12)
    assert result.global_test == pytest.approx([0.5, 0.0])


def test_bounds_without_a_solution_are_refused():
    with pytest.raises(ContradictionError, match="window 0: no values within the bounds"):
        reconcile([[1, -1]], [1.0, 4.0], 1.0, bounds=([0, 3], [2, 5]))
    with pytest.raises(ContradictionError, match="cannot be adjusted"):
        reconcile([[1, -1]], [4.0, 1.0], [0.0, 1.0], bounds=([0, 0], [3, 9]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"incidence": [1, 2], "measured": [1, 2], "std": 1}, "two-dimensional"),
        ({"incidence": np.zeros((2, 0)), "measured": [], "std": 1}, "no columns"),
        ({"incidence": [[1, np.nan]], "measured": [1, 2], "std": 1}, r"incidence\[0, 1\] must be finite"),
        ({"incidence": [["a", "b"]], "measured": [1, 2], "std": 1}, "array of numbers"),
        ({"incidence": [[1j, 1]], "measured": [1, 2], "std": 1}, "must be real"),
        ({"incidence": [[1, -1]], "measured": [1, 2, 3], "std": 1}, r"measured must have shape \(2,\)"),
        ({"incidence": [[1, -1]], "measured": [1, np.inf], "std": 1}, "window 0, stream 1 must be finite"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "std": [1, 2, 3]}, "std must have shape"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "std": [1, -1]}, r"std\[1\] must not be negative"),
        ({"incidence": [[1, -1]], "measured": [1, 2]}, "got neither"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "std": 1, "covariance": np.eye(2)}, "not both"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "covariance": np.eye(3)}, "covariance must have shape"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "covariance": [[1, 0.5], [0, 1]]}, "must be symmetric"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "covariance": [[-1, 0], [0, 1]]}, r"covariance\[0, 0\]"),
        ({"incidence": [[0, 1, -1]], "measured": [1, 1, 2],
          "covariance": [[1e12, 0, 0], [0, 1, 0.9], [0, -0.9, 1]]}, r"must be symmetric, \[1, 2\]"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "covariance": [[1, 2], [2, 1]]}, "positive semidefinite"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "std": 1, "rhs": [1, 2]}, "rhs must have shape"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "std": 1, "rhs": [np.nan]}, r"rhs\[0\] must be finite"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "std": [1, 1e-200]}, r"std\[1\] must be zero, infinite, or"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "covariance": [1, 1]}, r"covariance must be two-dimensional"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "covariance": [[1, np.inf], [np.inf, 1]]}, r"covariance\[0, 1\]"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "std": 1, "bounds": ([1, 2, 3], 9)}, "bounds: low must be"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "std": 1, "bounds": (2, 1)}, "low <= high"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "std": 1, "bounds": (2,)}, r"bounds must be \(low, high\)"),
        ({"incidence": [[1, -1]], "measured": [1, 2], "std": 1, "bounds": 5}, r"bounds must be \(low, high\), got 5"),
        ({"incidence": [[1, -1]], "measured": [1e200, -np.inf], "std": 1}, "window 0, stream 1 must be finite"),
        ({"incidence": [[1, -1]], "measured": [[1, 2]] * 3, "std": np.ones((2, 2))}, "shape of measured"),
    ],
)
def test_wrong_input_is_refused_with_the_place(arguments, message):
    with pytest.raises(BalanceError, match=message):
        reconcile(**arguments)


def test_prepare_takes_one_std_a_stream():
    with pytest.raises(BalanceError, match="std by window"):
        prepare([[1, -1]], np.ones((3, 2)))


def test_memory_and_threads_are_checked():
    made, window = prepare([[1, -1]], 1.0), np.array([1.0, 2.0])
    with pytest.raises(BalanceError, match="threads must be at least 1, got 0"):
        made.reconcile(window, threads=0)
    with pytest.raises(BalanceError, match="out must be a numpy array, got list"):
        made.reconcile(window, out=[0.0, 0.0])


def test_what_a_masked_array_hides_is_unmeasured():
    hidden = np.ma.array([10.3, 1e6, 4.0, 4.0], mask=[0, 1, 0, 0])
    result = reconcile([[1, -1, -1, 0], [0, 0, 1, -1]], hidden, 0.1)
    assert result.reconciled[1] == pytest.approx(6.3)


def test_a_result_is_of_the_window_that_was_given_whatever_its_memory_holds_later():
    made, memory = prepare([[1, -1, -1, 0], [0, 0, 1, -1]], [0.2, 0.1, 0.1, 0.1]), np.array([13.3, 6.0, 4.0, 4.0])
    kept = [made.reconcile(memory) for _ in range(2)]       # the second goes the quick way
    memory[:] = [10.0, 6.0, 4.0, 4.0]
    assert all(result.global_test > 100.0 for result in kept)


def test_values_may_be_put_where_the_measured_ones_are():
    windows = np.array([[10.3, 6.0, 4.0], [10.0, 6.0, 4.0]])
    result = prepare([[1, -1, -1]], 0.1).reconcile(windows, out=windows)
    np.testing.assert_allclose(result.adjustment, [[-0.1, 0.1, 0.1], [0.0, 0.0, 0.0]], atol=1e-12)


def test_nobody_can_write_to_what_all_windows_share():
    result = prepare([[1, -1]], 1.0).reconcile([1.0, 2.0])
    for name in ("std", "adjustment_std", "redundant", "observable"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(result, name)[0] = 9


def test_numbers_near_the_end_of_their_range_raise_no_warning():
    made = prepare([[1, -1]], 1.0)
    for _ in range(2):
        np.testing.assert_allclose(made.reconcile(np.array([1e200, 1e200])).reconciled, 1e200)


def test_classify_refuses_what_is_not_a_mask():
    with pytest.raises(BalanceError, match="is_measured must be bool"):
        classify([[1, -1]], [1, 0])


def test_imbalance_is_what_raw_values_leave_open():
    result = reconcile([[1, -1, 0], [0, 1, -1]], [5.0, 4.0, np.nan], 0.1, rhs=[0.5, 0.0])
    np.testing.assert_allclose(result.imbalance, [0.5, np.nan])


def test_the_same_window_has_the_same_bits_every_time():
    case = NETWORKS["P15"]
    made = prepare(case["incidence"], case["std"])
    first = made.reconcile(case["measured"]).reconciled
    for again in (made, prepare(case["incidence"], case["std"])):
        np.testing.assert_array_equal(again.reconcile(case["measured"]).reconciled, first)
    np.testing.assert_array_equal(made.reconcile(case["measured"].tolist(), rhs=np.zeros(11)).reconciled, first)


def test_the_quick_path_sees_what_is_not_quick():
    made = prepare([[1, -1, -1]], [0.2, 0.1, 0.1])
    values = np.array([10.3, 6.0, 4.0])
    made.reconcile(values)
    values[1] = np.nan
    assert made.reconcile(values).reconciled.tolist() == pytest.approx([10.3, 6.3, 4.0])
    values[1] = np.inf
    with pytest.raises(BalanceError, match="window 0, stream 1"):
        made.reconcile(values)
    with pytest.raises(BalanceError, match="shape"):
        made.reconcile(np.zeros(4))


def test_memory_given_is_used():
    case = NETWORKS["P12"]
    windows = np.tile(case["measured"], (5, 1))
    windows[2, 3] = np.nan
    made, memory = prepare(case["incidence"], case["std"]), np.empty((5, 12))
    for given in (windows, windows[:2]):
        expected = made.reconcile(given).reconciled
        result = made.reconcile(given, out=memory[: len(given)])
        assert np.shares_memory(result.reconciled, memory)
        np.testing.assert_array_equal(result.reconciled, expected)
    assert made.reconcile(windows[0], out=memory[0]).reconciled.shape == (12,)
    with pytest.raises(BalanceError, match="out must be float64"):
        made.reconcile(windows, out=memory[:2])
