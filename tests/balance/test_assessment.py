"""What meters can achieve: against simulation, and on networks small enough to work by hand."""

from __future__ import annotations

import numpy as np
import pytest

from processing.balance import BalanceError, assess, identify_gross_errors, reconcile
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
