"""Nonlinear reconciliation: a published case, and what must hold for any constraints."""

from __future__ import annotations

import numpy as np
import pytest

from processing.balance import BalanceError, reconcile, reconcile_nonlinear
from tests.reference import cases


def test_swartz_1989():
    case = cases.Swartz()
    result = reconcile_nonlinear(case.constraints, case.jacobian, case.measured, case.std, start=case.start)
    assert result.converged
    np.testing.assert_allclose(result.reconciled, case.reconciled, rtol=1e-9)
    assert result.global_test == pytest.approx(case.case["objective"], rel=1e-9)
    assert result.observable.all()
    assert result.degrees_of_freedom == 3


def pai_fisher(x):
    """Constraints of Pai & Fisher (1988), AIChE J. 34, 876: five measured variables, then three unmeasured."""
    a, b, c, d, e, u, v, w = x
    return np.array(
        [
            0.5 * a**2 - 0.7 * b + c * u + b**2 * u * v + 2 * c * w**2 - 255.8,
            a - 2 * b + 3 * a * c - 2 * b * u - b * v * w + 111.2,
            c * u - a + 3 * b + a * v - c * np.sqrt(w) - 33.57,
            d - a - c**2 + v + 3 * w,
            e - 2 * c * v * w,
            2 * a + b * c * u + v - w - 126.6,
        ]
    )


def complex_step(function, x, step=1e-30):
    """The Jacobian to the last digit."""
    return np.array([function(x + 1j * step * unit).imag / step for unit in np.eye(len(x))]).T


@pytest.mark.parametrize("start", [(10.0, 0.5, 2.0), (1.0, 1.0, 1.0), (20.0, 2.0, 5.0)])
def test_pai_and_fisher_1988(start):
    measured, std = np.array([4.4, 5.5, 1.7, 1.6, 5.0] + 3 * [np.nan]), np.array([1.0] * 5 + [np.inf] * 3)
    begin = np.array([*measured[:5], *start])
    result = reconcile_nonlinear(pai_fisher, lambda x: complex_step(pai_fisher, x), measured, std, start=begin)
    assert result.converged
    printed = ["4.5124", "5.5819", "1.9260", "1.4560", "4.8545", "11.070", "0.61467", "2.0504"]
    assert [
        f"{x:.{len(digits.split('.')[1])}f}" for x, digits in zip(result.reconciled, printed, strict=True)
    ] == printed
    gradient = np.where(np.isnan(measured), 0.0, result.reconciled - np.nan_to_num(measured))
    multipliers, *_ = np.linalg.lstsq(result.jacobian.T, gradient, rcond=None)
    np.testing.assert_allclose(result.jacobian.T @ multipliers, gradient, atol=1e-8)


def test_std_is_that_of_repeated_measurement():
    """Linearised std against 800 simulated windows of a heat meter and its flow."""
    rng = np.random.default_rng(0)
    true, std = np.array([2.0, 3.0, 6.0]), np.array([0.02, 0.03, 0.05])
    found = np.array([product(true + std * rng.standard_normal(3), std).reconciled for _ in range(800)])
    result = product(true, std)
    np.testing.assert_allclose(found.std(axis=0), result.std, rtol=0.08)


def product(measured, std, **more):
    """The product of two measured values, measured too."""
    return reconcile_nonlinear(
        lambda x: [x[0] * x[1] - x[2]], lambda x: np.array([[x[1], x[0], -1.0]]), measured, std, **more
    )


def test_linear_constraints_are_the_linear_answer():
    case = cases.linear_networks()["P15"]
    matrix = case["incidence"].astype(float)
    measured = case["measured"].copy()
    measured[[2, 7, 20]] = np.nan
    nonlinear = reconcile_nonlinear(
        lambda x: matrix @ x, lambda x: matrix, measured, case["std"], start=np.where(np.isnan(measured), 1.0, measured)
    )
    linear = reconcile(matrix, measured, case["std"])
    assert nonlinear.converged
    for name in ("reconciled", "std", "measurement_test", "global_test"):
        np.testing.assert_allclose(getattr(nonlinear, name), getattr(linear, name), rtol=1e-8, err_msg=name)


def test_unmeasured_is_computed_with_its_std():
    result = product([2.0, np.nan, 6.0], [0.1, 1.0, 0.3], start=[np.nan, 1.0, np.nan])
    assert result.converged
    assert result.reconciled[1] == pytest.approx(3.0)
    assert result.std[1] == pytest.approx(3.0 * np.hypot(0.05, 0.05))
    assert result.degrees_of_freedom == 0


def test_unobservable_is_said():
    result = product([2.0, np.nan, np.nan], [0.1, 1.0, 1.0], start=[2.0, 3.0, 5.0])
    assert result.converged
    assert np.isnan(result.reconciled).tolist() == [False, True, True]
    assert result.point[0] * result.point[1] == pytest.approx(result.point[2])


def test_bounds_hold():
    result = product([2.0, -0.4, 0.5], [0.1, 0.5, 0.3], bounds=(0.0, np.inf))
    assert result.converged
    assert (result.reconciled >= 0.0).all()
    free = product([2.0, -0.4, 0.5], [0.1, 0.9, 0.9], bounds=(-9.0, np.inf))
    assert free.converged
    bound = product([2.0, -0.4, -0.5], [0.1, 0.5, 0.3], bounds=(0.0, np.inf))
    np.testing.assert_allclose(bound.reconciled, [2.0, 0.0, 0.0], atol=1e-9)
    assert bound.global_test == pytest.approx((0.4 / 0.5) ** 2 + (0.5 / 0.3) ** 2)


def test_no_convergence_is_said():
    """x^2 + 1 = 0 has no solution: never called an answer."""
    result = reconcile_nonlinear(lambda x: [x[0] ** 2 + 1.0], lambda x: np.array([[2.0 * x[0]]]), [1.0], [1.0])
    assert not result.converged
    assert result.iterations == 50
    exact = product([2.0, 3.0, 7.0], 0.0)
    assert not exact.converged
    assert exact.constraint_residual == pytest.approx(-1.0)


def test_correlated_meters():
    covariance = np.array([[0.01, 0.008, 0.0], [0.008, 0.01, 0.0], [0.0, 0.0, 0.09]])
    result = reconcile_nonlinear(
        lambda x: [x[0] * x[1] - x[2]], lambda x: np.array([[x[1], x[0], -1.0]]), [2.0, 3.0, 6.6], covariance=covariance
    )
    assert result.converged
    adjustment = result.adjustment
    gradient = np.linalg.solve(covariance, adjustment)
    normal = result.jacobian[0]
    np.testing.assert_allclose(gradient / normal, (gradient / normal)[0], rtol=1e-7)
    assert result.global_test == pytest.approx(adjustment @ gradient)


def test_what_is_wrong_is_refused():
    with pytest.raises(BalanceError, match="start must be given where unmeasured, missing for variable 1"):
        product([2.0, np.nan, 6.0], 0.1)
    with pytest.raises(BalanceError, match="jacobian must have shape"):
        reconcile_nonlinear(lambda x: [x[0]], lambda x: np.ones((2, 1)), [1.0], 1.0)
    with pytest.raises(BalanceError, match="finite at the start"):
        reconcile_nonlinear(lambda x: [np.nan], lambda x: np.ones((1, 1)), [1.0], 1.0)
    with pytest.raises(BalanceError, match="start must have shape"):
        product([2.0, 3.0, 6.0], 0.1, start=[1.0])


@pytest.mark.parametrize("std", [1e-3, 1e-5, 1e-6, 1e-7])
def test_rounding_is_rest(std):
    """Where values of ten digits and more leave steps above the tolerance, the search ends when they fall no longer."""

    def constraints(x):
        return [x[0] * x[1] - x[2], x[0] - x[3], x[1] - x[4], x[2] - x[5]]

    def jacobian(x):
        row = np.zeros((4, 6))
        row[0, :3] = x[1], x[0], -1.0
        row[[1, 2, 3], [0, 1, 2]] = 1.0
        row[[1, 2, 3], [3, 4, 5]] = -1.0
        return row

    spread = std * np.array([1.0, 1.0, 3000.0, 1.0, 1.0, 3000.0])
    true = np.array([1999.7, 3000.3, 1999.7 * 3000.3, 1999.7, 3000.3, 1999.7 * 3000.3])
    found = reconcile_nonlinear(
        constraints, jacobian, true + spread * [1.0, -1.0, 1.0, -0.5, 0.3, 2.0], spread, tolerance=1e-12)
    assert found.converged
    assert found.iterations < 10
    assert found.global_test == pytest.approx(4.27, abs=0.01)
