"""What meters can achieve: against simulation, and on networks small enough to work by hand."""

from __future__ import annotations

import numpy as np
import pytest

from processing.balance import BalanceError, assess, identify_gross_errors, network, reconcile
from tests.reference import cases

NETWORKS = cases.linear_networks()


def test_std_to_expect_is_the_std_of_the_result():
    case = NETWORKS["P15"]
    plan = assess(case["incidence"], case["std"])
    np.testing.assert_allclose(plan.std, case["std_reconciled"], rtol=1e-6)
    np.testing.assert_allclose(plan.adjustability, 1 - case["std_reconciled"] / case["std"], atol=1e-6)
    np.testing.assert_allclose(plan.detectability, np.sqrt(1 - (1 - plan.adjustability) ** 2), rtol=1e-9)


def test_two_equal_meters_in_line_by_hand():
    plan = assess([[1, -1]], [0.1, 0.1])
    np.testing.assert_allclose(plan.std, 0.1 / np.sqrt(2))
    np.testing.assert_allclose(plan.adjustability, 1 - 1 / np.sqrt(2))
    np.testing.assert_allclose(plan.detectability, 1 / np.sqrt(2))
    np.testing.assert_allclose(plan.smallest_bias, (1.959964 + 1.281552) * 0.1 * np.sqrt(2), rtol=1e-3)
    assert plan.groups == [[("stream", 0), ("stream", 1)]]


def test_smallest_bias_is_seen_nine_times_in_ten():
    case = NETWORKS["P12"]
    true = reconcile(case["incidence"], case["true"], case["std"]).reconciled
    plan = assess(case["incidence"], case["std"], hypotheses=("bias", "leak"), alpha=0.05)
    rng = np.random.default_rng(0)
    for j in (0, 4):
        windows = true + case["std"] * rng.standard_normal((2000, 12))
        windows[:, j] += plan.smallest_bias[j]
        found = identify_gross_errors(case["incidence"], windows, case["std"], alpha=0.05)
        assert (found.bias_test[:, j] > plan.threshold).mean() == pytest.approx(0.9, abs=0.025)
    assert plan.smallest_leak.shape == (6,)
    assert np.isfinite(plan.smallest_leak).all()


def test_what_is_not_checked_shows_no_bias():
    plan = assess([[1, -1, -1]], [0.1, 0.1, np.nan])
    assert plan.smallest_bias.tolist() == [np.inf] * 3
    assert plan.detectability[:2].tolist() == [0.0, 0.0]
    assert np.isnan(plan.detectability[2])
    assert plan.groups == []


def test_the_meter_that_helps_most():
    """A line of three nodes without meters but one: a meter on the branch makes two more streams known."""
    matrix = [[1, -1, -1, 0, 0], [0, 1, 0, -1, 0], [0, 0, 1, 0, -1]]
    plan = assess(matrix, [0.1, np.nan, np.nan, np.nan, np.nan])
    best = plan.extra_meters[0]
    assert (best.stream, best.newly_observable) == (1, 4)
    assert {meter.newly_observable for meter in plan.extra_meters} == {4}
    full = assess(matrix, [0.1, 0.1, 0.1, np.nan, np.nan])
    assert [meter.newly_redundant for meter in full.extra_meters] == [1, 1]
    assert full.extra_meters[0].sharper > 0


def test_with_all_metered_a_second_meter_is_proposed():
    case = NETWORKS["P4"]
    plan = assess(case["incidence"], case["std"])
    assert len(plan.extra_meters) == 6
    assert plan.extra_meters[0].newly_redundant == 1
    halved = assess(case["incidence"], case["std"], extra_std=1e-6)
    assert halved.extra_meters[0].sharper > plan.extra_meters[0].sharper


def test_wrong_input_is_refused():
    with pytest.raises(BalanceError, match="is_measured must be bool"):
        assess([[1, -1]], 0.1, [1, 1])
    with pytest.raises(BalanceError, match="hypotheses must be"):
        assess([[1, -1]], 0.1, hypotheses="bias")


# -- against twins that solve everything anew --------------------------------------------------------------------------


def anew(matrix, std, stream, extra):
    """Solve a network with one more meter: on a stream of its own, equal to the old one."""
    rows, columns = matrix.shape
    wider = np.zeros((rows + 1, columns + 1))
    wider[:rows, :columns] = matrix
    wider[rows, [stream, columns]] = 1.0, -1.0
    return assess(wider, np.append(std, extra))


def tied(plan, streams):
    """Which of the streams no balance tells apart."""
    groups = [frozenset(j for kind, j in group if kind == "stream" and j < streams) for group in plan.groups]
    return {group for group in groups if len(group) > 1}


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_what_an_extra_meter_brings_is_what_solving_anew_finds(seed, dense, monkeypatch):
    if not dense:
        monkeypatch.setattr(network, "DENSE_STREAMS", 0)
    matrix, std = random_network(seed)
    before = assess(matrix, std)
    assert before.extra_meters
    for meter in before.extra_meters:
        j, n = meter.stream, len(std)
        after = anew(matrix, std, j, np.nanmedian(std[np.isfinite(std)]) if not np.isfinite(std[j]) else std[j])
        became = np.flatnonzero(after.classes.observable[:n] & ~before.classes.observable)
        assert meter.made_observable == tuple(became.tolist())
        redundant = after.classes.redundant.copy()
        redundant[:n] &= ~before.classes.redundant
        assert meter.newly_redundant == redundant.sum()
        left = tied(after, n)
        assert meter.groups_resolved == sum(not any(group <= other for other in left) for group in tied(before, n))
        known = np.nan_to_num(before.std) > 1e-9  # what must stand still is known without an error
        expected = np.log(before.std[known] / after.std[:n][known]).mean() if known.any() else 0.0
        assert meter.sharper == pytest.approx(expected, abs=1e-9)
        if known[j] or meter.made_observable:
            drop = 1 - after.std[j] / before.std[j] if known[j] else 1.0
            assert meter.drop == pytest.approx(drop, abs=1e-9)


def random_network(seed):
    """A connected random network with loops, some meters missing."""
    rng = np.random.default_rng(seed)
    nodes, streams = 6, 12
    matrix = np.zeros((nodes, streams))
    for j in range(streams):
        one, other = rng.choice(nodes + 1, 2, replace=False)  # the last is the environment
        for node, sign in ((one, -1.0), (other, 1.0)):
            if node < nodes:
                matrix[node, j] = sign
    std = rng.uniform(0.05, 0.5, streams)
    std[rng.random(streams) < 0.2 + 0.06 * seed] = np.nan
    return matrix, std


def test_random_networks_show_every_kind_of_gain():
    """Otherwise the comparison above would compare nothing."""
    meters = [meter for seed in range(12) for meter in assess(*random_network(seed)).extra_meters]
    assert max(meter.newly_observable for meter in meters) > 1
    assert max(meter.newly_redundant for meter in meters) > 1
    assert max(meter.groups_resolved for meter in meters) > 0
    assert max(meter.sharper for meter in meters) > 0.01


def test_a_perturbed_meter_moves_its_adjustment_as_detectability_says():
    """The measurement test moves by one detectability a std of bias; the reconciled value by the rest."""
    case = NETWORKS["P12"]
    plan = assess(case["incidence"], case["std"])
    true = reconcile(case["incidence"], case["true"], case["std"]).reconciled
    for j in range(len(true)):
        shifted = true.copy()
        shifted[j] += case["std"][j]
        found = reconcile(case["incidence"], shifted, case["std"])
        clean = reconcile(case["incidence"], true, case["std"])
        moved = abs(found.measurement_test[j] - clean.measurement_test[j])
        assert moved == pytest.approx(plan.detectability[j], rel=1e-6)
        kept = (found.reconciled[j] - true[j]) / case["std"][j]
        assert kept == pytest.approx((1 - plan.adjustability[j]) ** 2, rel=1e-6)


def test_a_meter_never_suspected_is_in_no_group_and_counts_for_no_gain():
    plan = assess([[1, -1]], [0.1, 0.1], never_suspect=np.array([True, False]))
    assert plan.groups == []
    alone = assess([[1, -1, -1]], [0.1, 0.1, np.nan], never_suspect=np.array([True, True, False]))
    assert [meter.newly_redundant for meter in alone.extra_meters] == [1]  # the new one itself
    assert [meter.newly_redundant for meter in assess([[1, -1, -1]], [0.1, 0.1, np.nan]).extra_meters] == [3]
    with pytest.raises(BalanceError, match="never_suspect must be bool of shape"):
        assess([[1, -1]], 0.1, never_suspect=[True])
    with pytest.raises(BalanceError, match="counted must be bool of shape"):
        assess([[1, -1]], 0.1, counted=[1, 0])
