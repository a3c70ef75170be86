"""Gross errors: alarms kept to alpha, errors found and sized, what no balance can tell said so."""

from __future__ import annotations

import numpy as np
import pytest

from processing.balance import (
    BalanceError,
    find_gross_errors,
    identify_gross_errors,
    prepare,
    reconcile,
    reconcile_nonlinear,
)
from processing.balance.hypotheses import hypotheses_of
from processing.balance.statistics import global_test_limit, sidak_limit
from tests.balance.networks import plant
from tests.reference import cases
from tests.reference.power import SEVERAL, bias_power, leak_power, several_biases

NETWORKS = cases.linear_networks()


def noisy(case, rng, windows):
    """Windows of error-free meters around flows that close every balance."""
    true = reconcile(case["incidence"], case["true"], case["std"]).reconciled
    return true, true + case["std"] * rng.standard_normal((windows, case["n_streams"]))


@pytest.mark.parametrize("name", ["P2", "P8", "P12", "P15"])
@pytest.mark.parametrize("kinds", [("bias",), ("leak",), ("bias", "leak")])
def test_clean_windows_alarm_with_probability_alpha(kinds, name):
    case = NETWORKS[name]
    _, windows = noisy(case, np.random.default_rng(11), 8000)
    found = identify_gross_errors(case["incidence"], windows, case["std"], alpha=0.1, hypotheses=kinds)
    alarms = (found.suspects.any(axis=1) | found.leaks.any(axis=1)).mean()
    assert alarms == pytest.approx(0.1, abs=3 * np.sqrt(0.09 / 8000))
    np.testing.assert_array_equal(
        found.statistic > found.threshold, found.suspects.any(axis=1) | found.leaks.any(axis=1)
    )


def ring(n_nodes=25):
    """A ring of pipes with short cuts and outlets, std over two decades: what a pipe-flow simulator gives."""
    rng = np.random.default_rng(9)
    pipes = [(i, (i + 1) % n_nodes) for i in range(n_nodes)] + [(i, n_nodes) for i in range(0, n_nodes, 3)]
    pipes += [tuple(rng.choice(n_nodes, 2, replace=False)) for _ in range(20)]
    matrix = np.zeros((n_nodes + 1, len(pipes)))
    for j, (start, end) in enumerate(pipes):
        matrix[start, j], matrix[end, j] = -1.0, 1.0
    return matrix[:n_nodes], 10.0 ** rng.uniform(-1, 1, len(pipes))


@pytest.mark.parametrize("alpha", [0.02, 0.1])
def test_clean_windows_of_a_ring_of_pipes(alpha):
    """Signed flows around cycles, some meters silent."""
    matrix, std = ring()
    rng = np.random.default_rng(3)
    windows = std * rng.standard_normal((8000, len(std)))
    windows[:, rng.random(len(std)) < 0.1] = np.nan
    found = identify_gross_errors(matrix, windows, std, alpha=alpha)
    alarms = (found.suspects.any(axis=1) | found.leaks.any(axis=1)).mean()
    assert alarms == pytest.approx(alpha, abs=3 * np.sqrt(alpha * (1 - alpha) / 8000))


def test_clean_windows_that_each_have_their_own_std():
    """Their thresholds are simulated with fewer draws, and keep to alpha all the same."""
    case = NETWORKS["P7"]
    rng = np.random.default_rng(8)
    std = case["std"] * np.exp(0.5 * rng.standard_normal((900, case["n_streams"])))
    true, _ = noisy(case, rng, 1)
    windows = true + std * rng.standard_normal(std.shape)
    found = identify_gross_errors(case["incidence"], windows, std, alpha=0.1)
    alarms = (found.suspects.any(axis=1) | found.leaks.any(axis=1)).mean()
    assert alarms == pytest.approx(0.1, abs=3 * np.sqrt(0.09 / len(std)))
    for k in range(5):
        thorough = identify_gross_errors(prepare(case["incidence"], std[k]), windows[k], alpha=0.1).threshold
        assert found.threshold[k] == pytest.approx(thorough, abs=0.03)
        beside_another = identify_gross_errors(case["incidence"], windows[k : k + 2], std[k : k + 2], alpha=0.1)
        assert beside_another.threshold[0] == found.threshold[k]


def test_bounds_only_make_alarms_rarer():
    case = NETWORKS["P15"]
    true, windows = noisy(case, np.random.default_rng(12), 4000)
    network = prepare(case["incidence"], 0.025 * true)
    windows = true + (windows - true) / case["std"] * 0.025 * true
    options = {"alpha": 0.1, "hypotheses": ("bias",)}
    free = identify_gross_errors(network, windows, **options).suspects.any(axis=1)
    bounded = identify_gross_errors(network, windows, bounds=(0.0, 2 * true), **options).suspects.any(axis=1)
    assert not (bounded & ~free).any()
    assert 0.085 < bounded.mean() <= free.mean()


def test_with_bounds_a_suspect_is_anywhere_between_them():
    """Its reading gives way to the middle of its bounds, as unsure as what is anywhere between them."""
    case = NETWORKS["P15"]
    true, windows = noisy(case, np.random.default_rng(5), 30)
    std, bounds = 0.025 * true, (np.zeros(28), 2.0 * true)
    windows = true + (windows - true) / case["std"] * std
    rng = np.random.default_rng(6)
    for window in windows:
        window[rng.choice(28, 3, replace=False)] *= rng.uniform(1.3, 1.9, 3)
    found = identify_gross_errors(case["incidence"], windows, std, hypotheses=("bias",), bounds=bounds)
    assert found.compensated.sum(axis=1).max() > 2
    for k, out in enumerate(found.compensated):
        spread = np.where(out, np.hypot(2.0 * true / np.sqrt(12.0), std), std)
        instead = reconcile(case["incidence"], np.where(out, true, windows[k]), spread)
        np.testing.assert_allclose(found.reconciled[k], instead.reconciled, rtol=1e-7)
        off = windows[k] - instead.reconciled
        np.testing.assert_allclose(found.bias[k][out], off[out], rtol=0.01, atol=0.2 * std[out].max())
        assert (found.bias_std[k][out] <= 2.0 * true[out] / np.sqrt(12.0)).all()


@pytest.mark.parametrize("name", ["P2", "P8", "P15"])
@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_threshold_against_plain_simulation(name, alpha):
    case = NETWORKS[name]
    network = prepare(case["incidence"], case["std"])
    errors = hypotheses_of(network.projection(np.ones(network.n_streams, dtype=bool)), ("bias",), None)
    rng = np.random.default_rng(3)
    residual = (rng.standard_normal((200_000, network.n_streams)) * case["std"]) @ case["incidence"].T
    largest = (abs(errors.scores(residual)) / np.sqrt(errors.information)).max(axis=1)
    assert (largest > errors.threshold(alpha)).mean() == pytest.approx(alpha, rel=0.06)
    assert errors.threshold(alpha) < sidak_limit(alpha, errors.count)


def test_one_hypothesis_has_the_normal_quantile():
    network = prepare([[1.0, -1.0]], [1.0, 1.0])
    errors = hypotheses_of(network.projection(np.ones(2, dtype=bool)), ("bias",), None)
    assert len(errors.leaders) == 1
    assert errors.threshold(0.05) == pytest.approx(1.959964, abs=1e-3)


def test_published_power_of_one_error():
    for name in ("P2", "P6", "P12"):
        printed = NETWORKS[name]["published"]
        ours = bias_power(NETWORKS[name], 2, 7, 1000)
        assert ours["alone"] == pytest.approx(printed["op_bias_2_7"], abs=0.02)
        assert ours["global"] == pytest.approx(printed["power_global_test"], abs=0.02)
        leak = leak_power(NETWORKS[name], 1500)
        assert leak["glr"] == pytest.approx(printed["op_leak_glr"], abs=0.02)
        assert leak["nodal"] == pytest.approx(printed["op_leak_nodal"], abs=0.02)


def test_published_power_by_class_and_over_time():
    assert bias_power(NETWORKS["P2"], 2, 7, 1000)["class"] == pytest.approx(0.654, abs=0.02)
    assert bias_power(NETWORKS["P15"], 2, 7, 300, windows=16)["alone"] == pytest.approx(0.696, abs=0.02)


@pytest.mark.parametrize("number", [3, 5])
def test_published_power_of_several_errors(number):
    ours = several_biases(NETWORKS["P15"], number, 500)
    for key, figure in ours.items():
        assert figure > SEVERAL[key][number - 1] - 0.02, key


@pytest.mark.parametrize("name", ["P4", "P6", "P15"])
def test_bounds_help_with_several_errors(name):
    inside, free = (several_biases(NETWORKS[name], 4, 200, bounded=bounded) for bounded in (True, False))
    for key, figure in inside.items():
        assert figure > free[key], key


@pytest.mark.parametrize("name", ["P4", "P6", "P7", "P15"])
def test_each_bias_is_found_and_sized(name):
    case = NETWORKS[name]
    true, _ = noisy(case, np.random.default_rng(0), 1)
    network = prepare(case["incidence"], case["std"])
    sizes = 30 / np.sqrt(network.projection(np.ones(case["n_streams"], dtype=bool)).bias_information)
    for j, size in enumerate(sizes):
        measured = true.copy()
        measured[j] += size
        found = identify_gross_errors(network, measured, hypotheses=("bias",))
        assert found.suspects[j]
        assert found.bias[j] == pytest.approx(size, rel=1e-6)
        assert found.bias[~found.suspects].tolist() == [0.0] * int((~found.suspects).sum())
        if found.suspects.sum() == 1:
            np.testing.assert_allclose(found.reconciled, true, rtol=1e-7)


def test_each_leak_is_found_and_sized():
    case = NETWORKS["P12"]
    true, _ = noisy(case, np.random.default_rng(0), 1)
    for i in range(case["n_nodes"]):
        rhs = np.zeros(case["n_nodes"])
        rhs[i] = -20.0  # the balances are told that 20 are held up which in truth are not: 20 lost
        found = identify_gross_errors(case["incidence"], true, case["std"], rhs=rhs, hypotheses=("leak",))
        assert found.leaks.nonzero()[0].tolist() == [i]
        assert found.leak_size[i] == pytest.approx(20.0)
        np.testing.assert_allclose(found.reconciled, true, rtol=1e-9)
        assert found.leak_std[i] > 0


def test_clean_window_names_nobody():
    case = NETWORKS["P7"]
    true, _ = noisy(case, np.random.default_rng(0), 1)
    found = identify_gross_errors(case["incidence"], true, case["std"])
    assert not found.suspects.any()
    assert not found.leaks.any()
    assert not found.bias.any()
    np.testing.assert_allclose(found.reconciled, true, rtol=1e-12)


def test_glr_of_a_bias_is_the_measurement_test():
    case = NETWORKS["P15"]
    found = identify_gross_errors(case["incidence"], case["measured"], case["std"])
    result = reconcile(case["incidence"], case["measured"], case["std"])
    np.testing.assert_allclose(found.bias_test, result.measurement_test, rtol=1e-9)
    assert found.leak_test.shape == (11,)


def test_compensation_is_leaving_the_meter_out():
    case = NETWORKS["P15"]
    _, windows = noisy(case, np.random.default_rng(2), 40)
    rng = np.random.default_rng(3)
    for window in windows:
        window[rng.choice(28, 2, replace=False)] *= 1.8
    found = identify_gross_errors(case["incidence"], windows, case["std"], hypotheses=("bias",))
    assert found.compensated.sum(axis=1).max() > 1
    without = reconcile(case["incidence"], np.where(found.compensated, np.nan, windows), case["std"])
    np.testing.assert_allclose(found.reconciled, without.reconciled, rtol=1e-8)
    biases = np.where(found.compensated, windows - without.reconciled, 0.0)
    np.testing.assert_allclose(np.where(found.compensated, found.bias, 0.0), biases, rtol=1e-7, atol=1e-9)
    expected = np.sqrt(without.std**2 + case["std"] ** 2)
    np.testing.assert_allclose(found.bias_std[found.compensated], expected[found.compensated], rtol=1e-7)


def test_what_no_balance_can_tell_is_named_whole():
    """Two parallel feeds of one node: a bias of either shows the same; with leaks asked, the node's leak too."""
    matrix, std = [[1, 1, -1, 0], [0, 0, 1, -1]], [0.1, 0.2, 0.1, 0.1]
    measured = [10.0, 5.0, 15.0, 15.0]
    measured[0] += 3.0
    found = identify_gross_errors(matrix, measured, std, hypotheses=("bias",))
    assert found.classes == [[("stream", 0), ("stream", 1)]]
    assert found.suspects.tolist() == [True, True, False, False]
    assert found.compensated.tolist() == [False, True, False, False]
    np.testing.assert_allclose(found.bias[:2], 3.0)
    both = identify_gross_errors(matrix, measured, std)
    assert [("stream", 0), ("stream", 1), ("node", 0)] in both.classes
    assert both.leaks.tolist() == [True, False]
    np.testing.assert_allclose(both.leak_size, [3.0, 0.0])
    assert both.classes_of(0) == both.classes


def test_what_no_balance_can_tell_once_others_are_taken_out_is_named_with_them():
    """Of the three meters of a loop, any two explain what two of them do: window by window and all together."""
    ends = [(0, 1), (1, 2), (2, 3), (3, 0), (3, 4), (4, 1), (4, 2)]
    matrix = np.zeros((5, 7))
    for stream, (start, end) in enumerate(ends):
        matrix[start, stream], matrix[end, stream] = -1.0, 1.0
    true = prepare(matrix, 1.0).reconcile(np.linspace(60.0, 90.0, 7)).reconciled
    windows = true + np.random.default_rng(3).standard_normal((200, 7))
    windows[:, 4] += 30.0
    windows[:, 6] += 18.0
    together = identify_gross_errors(matrix, windows, 1.0, hypotheses=("bias",))
    assert together.suspects[:, [2, 4, 6]].all()
    assert together.classes == [[("stream", 2), ("stream", 4), ("stream", 6)]]
    assert (together.compensated.sum(axis=1) == 2).mean() > 0.95
    assert together.suspects[:, [0, 1, 3, 5]].any(axis=1).mean() < 0.05
    for k in range(0, 200, 10):
        alone = identify_gross_errors(matrix, windows[k], 1.0, hypotheses=("bias",))
        np.testing.assert_array_equal(alone.suspects, together.suspects[k])
        np.testing.assert_array_equal(alone.compensated, together.compensated[k])
        if alone.compensated[[4, 6]].all():
            np.testing.assert_allclose(alone.bias[[4, 6]], [30.0, 18.0], atol=8.0)


def test_a_line_that_stands_still_hides_no_error():
    """Half of its windows are below zero by noise, which no step of the search is to blame for."""
    windows = np.array([110.0, 100.0, 0.0, 0.0]) + 0.5 * np.random.default_rng(1).standard_normal((400, 4))
    for matrix in ([[1, -1, 0, 0], [0, 0, 1, -1]], [[1, -1, -1, 0], [0, 0, 1, -1]]):
        found = identify_gross_errors(matrix, windows, 0.5, hypotheses=("bias",), bounds=(0.0, np.inf))
        assert found.suspects.any(axis=1).all()


def test_signs_within_a_class():
    """A meter that reads too much before, or too little behind: opposite signs, one statistic."""
    found = identify_gross_errors([[1.0, -1.0]], [10.0, 12.0], [0.1, 0.1], hypotheses=("bias",))
    np.testing.assert_allclose(found.bias, [-2.0, 2.0])


def test_bounds_forbid_an_explanation():
    """The last meter of a line reads too much; that its true value were below its bound is no explanation."""
    matrix, measured = [[1, -1, -1, 0], [0, 1, 0, -1]], [10.0, 6.0, 4.0, 9.0]
    free = identify_gross_errors(matrix, measured, 0.1, hypotheses=("bias",))
    assert free.suspects.tolist() == [False, False, False, True]
    assert free.reconciled[3] == pytest.approx(6.0)
    low = [0.0, 0.0, 0.0, 8.0]
    bound = identify_gross_errors(matrix, measured, 0.1, hypotheses=("bias",), bounds=(low, 20.0))
    assert not bound.suspects[3]
    assert bound.reconciled[3] >= 8.0


def test_windows_within_bounds_without_errors():
    found = identify_gross_errors(
        [[1, -1, -1]], [[5.0, 5.1, -0.4], [5.0, 3.0, 2.0]], [1.0, 1.0, 1.0], hypotheses=("bias",), bounds=(0.0, 100.0)
    )
    assert not found.suspects.any()
    assert found.reconciled[0, 2] == 0.0
    np.testing.assert_allclose(found.reconciled[0, 0], found.reconciled[0, 1])


def test_never_suspect_and_at_most():
    case = NETWORKS["P15"]
    true, _ = noisy(case, np.random.default_rng(0), 1)
    measured = true.copy()
    measured[[2, 20]] *= 1.5
    both = identify_gross_errors(case["incidence"], measured, case["std"], hypotheses=("bias",))
    assert both.suspects.nonzero()[0].tolist() == [2, 20]
    one = identify_gross_errors(case["incidence"], measured, case["std"], hypotheses=("bias",), at_most=1)
    assert one.suspects.sum() == 1
    trusted = np.arange(28) == 2
    other = identify_gross_errors(case["incidence"], measured, case["std"], hypotheses=("bias",), never_suspect=trusted)
    assert not other.suspects[2]
    assert other.suspects.any()


def test_exact_and_nonredundant_meters_are_not_suspected():
    found = identify_gross_errors([[1, -1, 0], [0, 0, 1]], [10.0, 12.0, np.nan], [0.0, 0.1, 1.0], hypotheses=("bias",))
    assert found.suspects.tolist() == [False, True, False]
    assert np.isnan(found.bias_test).tolist() == [True, False, True]
    nothing = identify_gross_errors([[1, -1, -1]], [10.0, np.nan, 3.0], 0.1)
    assert nothing.threshold == np.inf
    assert not nothing.suspects.any()


def test_windows_with_one_lasting_error_are_each_window_alone():
    """Together they are dealt with as one; a second error in some of them is found all the same."""
    case = NETWORKS["P14"]
    _, windows = noisy(case, np.random.default_rng(6), 40)
    windows[5:, 8] *= 1.3
    windows[20:26, 17] *= 1.5
    for options in ({}, {"at_most": 1}, {"hypotheses": ("bias",)}):
        together = identify_gross_errors(case["incidence"], windows, case["std"], **options)
        for k in range(40):
            alone = identify_gross_errors(case["incidence"], windows[k], case["std"], **options)
            for name in ("suspects", "leaks", "compensated"):
                np.testing.assert_array_equal(getattr(together, name)[k], getattr(alone, name))
            for name in ("bias", "bias_std", "leak_size", "leak_std", "reconciled", "statistic"):
                np.testing.assert_allclose(getattr(together, name)[k], getattr(alone, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kinds", [("bias",), ("bias", "leak")])
def test_windows_of_a_large_network_are_each_window_alone(kinds):
    """Scored side by side: signs, leaks, what flows in from outside, a meter that is silent."""
    rng, n_streams = np.random.default_rng(8), 300
    network = prepare(plant(150, n_streams), rng.uniform(0.5, 2.0, n_streams))
    rhs = np.tile(rng.uniform(-1.0, 1.0, network.n_nodes), (40, 1))
    true = network.reconcile(rng.uniform(50.0, 90.0, n_streams), rhs=rhs[0]).reconciled
    windows = true + network.std * rng.standard_normal((40, n_streams))
    windows[10:, 100] += 40.0
    windows[20:30, 50] -= 30.0
    rhs[30:, 7] += 40.0
    windows[35:, 3] = np.nan
    options = {"hypotheses": kinds}
    together = identify_gross_errors(network, windows, rhs=rhs, **options)
    assert together.suspects[10:, 100].all()
    assert "leak" not in kinds or together.leaks[30:, 7].any()
    for k in (5, 15, 25, 33, 37):
        alone = identify_gross_errors(network, windows[k], rhs=rhs[k], **options)
        for name in ("suspects", "leaks", "compensated"):
            np.testing.assert_array_equal(getattr(together, name)[k], getattr(alone, name))
        for name in ("bias", "bias_std", "leak_size", "leak_std", "reconciled", "statistic"):
            np.testing.assert_allclose(getattr(together, name)[k], getattr(alone, name), rtol=1e-7, atol=1e-7)


def test_windows_with_silent_meters_have_their_own_hypotheses():
    case = NETWORKS["P15"]
    _, windows = noisy(case, np.random.default_rng(4), 30)
    windows[::3, 2] = np.nan
    windows[:, 20] *= 2.0
    together = identify_gross_errors(case["incidence"], windows, case["std"])
    for k in (0, 1):
        alone = identify_gross_errors(case["incidence"], windows[k], case["std"])
        np.testing.assert_array_equal(together.suspects[k], alone.suspects)
        np.testing.assert_allclose(together.reconciled[k], alone.reconciled)
        assert together.threshold[k] == alone.threshold


def test_prepared_network_is_taken_as_it_is():
    case = NETWORKS["P12"]
    network = prepare(case["incidence"], case["std"])
    one = identify_gross_errors(network, case["measured"])
    two = identify_gross_errors(case["incidence"], case["measured"], case["std"])
    assert one.statistic == two.statistic
    with pytest.raises(BalanceError, match="has its std already"):
        identify_gross_errors(network, case["measured"], case["std"])


def test_correlated_meters():
    """Two meters that err together: their common error is no gross error of one, a single one is."""
    matrix = np.array([[1.0, 1.0, -1.0], [0.0, 0.0, 1.0]])
    covariance = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 0.01]])
    rhs = [0.0, 20.0]
    rng = np.random.default_rng(0)
    clean = np.array([10.0, 10.0, 20.0]) + rng.multivariate_normal(np.zeros(3), covariance, 4000)
    found = identify_gross_errors(matrix, clean, covariance=covariance, rhs=rhs, hypotheses=("bias",), alpha=0.1)
    assert found.suspects.any(axis=1).mean() == pytest.approx(0.1, abs=0.015)


def test_nonlinear_results_are_searched_too():
    """A heat meter that reads 20 % too much, against flow and temperatures measured twice."""

    def constraints(x):
        return [x[0] * x[1] - x[2], x[0] - x[3], x[1] - x[4], x[2] - x[5]]

    def jacobian(x):
        row = np.zeros((4, 6))
        row[0, :3] = x[1], x[0], -1.0
        row[[1, 2, 3], [0, 1, 2]] = 1.0
        row[[1, 2, 3], [3, 4, 5]] = -1.0
        return row

    std = np.array([0.02, 0.03, 0.06, 0.02, 0.03, 0.06])
    clean = reconcile_nonlinear(constraints, jacobian, [2.0, 3.0, 6.0, 2.01, 2.98, 6.02], std)
    assert not find_gross_errors(clean, hypotheses=("bias",)).suspects.any()
    wrong = reconcile_nonlinear(constraints, jacobian, [2.0, 3.0, 7.2, 2.01, 2.98, 6.02], std)
    found = find_gross_errors(wrong, hypotheses=("bias",))
    assert found.suspects.nonzero()[0].tolist() == [2]
    assert found.bias[2] == pytest.approx(1.2, abs=0.1)
    np.testing.assert_allclose(found.reconciled[:3], [2.0, 3.0, 6.0], rtol=0.02)


def test_nodal_test_and_limits():
    result = reconcile([[1, -1, 0], [0, 1, -1]], [[10.0, 10.5, 10.0], [10.0, 10.5, np.nan]], [0.3, 0.4, 0.1])
    np.testing.assert_allclose(result.nodal_test, [[1.0, 0.5 / np.hypot(0.4, 0.1)], [1.0, np.nan]])
    assert global_test_limit(0.05, 3) == pytest.approx(7.81473, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must be between 0 and 1"),
        ({"alpha": "few"}, "alpha must be between 0 and 1, got 'few'"),
        ({"at_most": 0}, "at_most must be a whole number of at least 1, got 0"),
        ({"at_most": 1.5}, "at_most must be a whole number of at least 1, got 1.5"),
        ({"hypotheses": "bias"}, "hypotheses must be"),
        ({"hypotheses": ()}, "hypotheses must be"),
        ({"hypotheses": ("theft",)}, "hypotheses must be"),
        ({"never_suspect": [1, 0]}, "never_suspect must be bool"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(BalanceError, match=message):
        identify_gross_errors([[1, -1]], [1.0, 2.0], 0.1, **options)


@pytest.mark.parametrize("threshold", [np.nan, -1.0, "high"])
def test_wrong_threshold_is_refused(threshold):
    with pytest.raises(BalanceError, match="threshold must be a positive number"):
        find_gross_errors(reconcile([[1, -1]], [1.0, 2.0], 0.1), threshold=threshold)


def test_values_that_were_moved_to_a_bound_are_not_judged():
    made = prepare([[1, -1, -1, 0], [0, 0, 1, -1]], 0.1, bounds=([0] * 4, [20, 6, 20, 20]))
    assert not find_gross_errors(made.reconcile([9.0, 5.0, 4.0, 4.0])).suspects.any()
    with pytest.raises(BalanceError, match="window 0 was moved to a bound"):
        find_gross_errors(made.reconcile([13.3, 7.0, 4.0, 4.0]))
