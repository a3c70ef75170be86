"""Flows times what they carry: against the general nonlinear solver, and what must hold for any such network."""

from __future__ import annotations

import numpy as np
import pytest

from processing.balance import (
    BalanceError,
    find_gross_errors,
    prepare_bilinear,
    reconcile,
    reconcile_bilinear,
    reconcile_nonlinear,
)
from tests.balance.networks import plant


def case(seed, n_nodes=8, n_streams=16, k=2, silent=0.0):
    """A plant whose flows and properties close, read with 2 % error; some meters silent."""
    rng = np.random.default_rng(seed)
    matrix = plant(n_nodes, n_streams, seed, outside=0.3)
    flow, carried = rng.uniform(5.0, 50.0, n_streams), rng.uniform(0.1, 0.5, (n_streams, k))
    sides = {"rhs": matrix @ flow, "carried_rhs": matrix @ (flow[:, None] * carried)}
    std = 0.02 * flow, 0.02 * carried
    read = flow + std[0] * rng.standard_normal(n_streams), carried + std[1] * rng.standard_normal((n_streams, k))
    read[0][rng.random(n_streams) < silent] = np.nan
    read[1][rng.random((n_streams, k)) < silent] = np.nan
    return matrix, read, std, sides


def general(network, read, std, sides, start=None, **options):
    """Solve the same with the dense general solver: the slow twin."""
    given, spread = np.r_[read[0], read[1].ravel()], np.r_[std[0], std[1].ravel()]
    rhs = network.sizes.rhs(sides["rhs"], sides["carried_rhs"], 1)[0]
    begin = np.where(np.isnan(given), network.sizes.guess(given[None])[0], given)
    return reconcile_nonlinear(
        lambda z: network.constraints.residual(z, rhs),
        network.constraints.jacobian,
        given,
        spread,
        start=begin,
        **options,
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("silent", [0.0, 0.25])
def test_against_the_general_solver(seed, silent):
    matrix, read, std, sides = case(seed, silent=silent)
    network = prepare_bilinear(matrix, 2)
    result, twin = network.reconcile(*read, *std, **sides), general(network, read, std, sides)
    assert result.converged
    assert twin.converged
    values = np.r_[result.flow, result.carried.ravel()]
    np.testing.assert_allclose(values, twin.reconciled, rtol=1e-7)
    spread = np.r_[result.flow_std, result.carried_std.ravel()]
    np.testing.assert_allclose(spread, twin.std, rtol=1e-6, atol=1e-9)
    assert result.global_test == pytest.approx(twin.global_test, rel=1e-8)
    assert result.degrees_of_freedom == twin.degrees_of_freedom


def test_balances_close():
    matrix, read, std, sides = case(9)
    result = reconcile_bilinear(matrix, *read, *std, **sides)
    assert result.open_share < 1e-12
    np.testing.assert_allclose(matrix @ result.flow, sides["rhs"], atol=1e-10)
    moved = result.flow[:, None] * result.carried
    np.testing.assert_allclose(matrix @ moved, sides["carried_rhs"], atol=1e-10)


def test_many_windows_are_each_window_alone():
    """Bit for bit: no window depends on those computed beside it."""
    matrix, read, std, sides = case(1, silent=0.1)
    rng = np.random.default_rng(0)
    flows = read[0] * (1 + 0.01 * rng.standard_normal((11, 16)))
    carried = read[1] * (1 + 0.01 * rng.standard_normal((11, 16, 2)))
    network = prepare_bilinear(matrix, 2)
    together = network.reconcile(flows, carried, *std, **sides)
    assert together.flow.shape == together.flow_std.shape == (11, 16)
    assert together.carried.shape == together.carried_std.shape == (11, 16, 2)
    assert together.global_test.shape == together.converged.shape == together.iterations.shape == (11,)
    for k in range(11):
        alone = network.reconcile(flows[k], carried[k], *std, **sides)
        np.testing.assert_array_equal(alone.flow, together.flow[k])
        np.testing.assert_array_equal(alone.carried, together.carried[k])


def test_splitters_and_whole_compositions():
    """A splitter: both outlets carry what the inlet does, and fractions add up to one."""
    matrix = [[1.0, -1.0, -1.0]]
    flow, carried = [10.0, 6.1, 4.0], [[0.3, 0.72], [0.31, 0.7], [0.28, 0.69]]
    result = reconcile_bilinear(
        matrix, flow, carried, 0.1, 0.01, same=[(0, 1), (0, 2)], whole=np.array([True, False, False])
    )
    assert result.converged
    np.testing.assert_allclose(result.carried, np.tile(result.carried[0], (3, 1)))
    assert result.carried[0].sum() == pytest.approx(1.0)
    assert result.flow[0] == pytest.approx(result.flow[1] + result.flow[2])
    assert result.degrees_of_freedom == 6
    twin = reconcile([[1.0, -1.0, -1.0]], flow, 0.1)
    np.testing.assert_allclose(result.flow, twin.reconciled, rtol=1e-9)


def test_heat_balances_of_their_own():
    """An exchanger: two flows that do not mix, one energy balance over both."""
    mass = [[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]
    heat = [[1.0, -1.0, 1.0, -1.0]]
    flow, enthalpy = [10.0, 10.2, 5.0, np.nan], [[300.0], [200.0], [100.0], [np.nan]]
    result = reconcile_bilinear(mass, flow, enthalpy, 0.1, 2.0, carried_incidence=heat)
    f, h = result.flow, result.carried[:, 0]
    assert result.converged
    assert f[0] * h[0] - f[1] * h[1] + f[2] * h[2] == pytest.approx(f[3] * h[3])
    assert f[3] == pytest.approx(5.0)
    assert h[3] == pytest.approx(300.0, rel=0.02)


def test_what_cannot_be_computed_is_said():
    result = reconcile_bilinear([[1.0, -1.0, -1.0]], [10.0, np.nan, np.nan], [[0.3], [0.4], [np.nan]], 0.1, 0.01)
    assert result.converged
    assert np.isnan(result.flow).tolist() == [False, True, True]
    assert np.isnan(result.carried[:, 0]).tolist() == [False, False, True]


def test_exact_values_stay():
    matrix, read, std, sides = case(2)
    std[0][3] = 0.0
    result = reconcile_bilinear(matrix, *read, *std, **sides)
    assert result.flow[3] == read[0][3]
    assert result.flow_std[3] == 0.0


def test_bounds_hold():
    """A flow that reads below zero is held there; so is what the balance then says of the others."""
    options = {"bounds": ((0.0, np.inf), (0.0, np.inf))}
    result = reconcile_bilinear([[1.0, -1.0, -1.0]], [5.0, 6.0, -0.6], [[0.2], [0.2], [0.2]], 0.5, 0.01, **options)
    assert result.converged
    assert (result.flow >= 0.0).all()
    assert result.flow[2] == pytest.approx(0.0, abs=1e-9)
    free = reconcile_bilinear([[1.0, -1.0, -1.0]], [5.0, 6.0, -0.6], [[0.2], [0.2], [0.2]], 0.5, 0.01)
    assert free.flow[2] < 0.0


def test_no_convergence_is_said():
    """Exact values that contradict each other."""
    result = reconcile_bilinear([[1.0, -1.0]], [5.0, 6.0], [[0.2], [0.2]], 0.0, 0.01, max_iterations=5)
    assert not result.converged


def test_gross_errors_are_found_in_the_linearised_window():
    matrix, read, std, sides = case(3, n_nodes=6, n_streams=12)
    read[1][4, 1] += 0.4
    result = reconcile_bilinear(matrix, *read, *std, **sides)
    found = find_gross_errors(result.linear(), hypotheses=("bias",))
    groups = list(np.flatnonzero(found.suspects))
    assert 12 + 4 * 2 + 1 in groups


def test_a_start_for_what_is_unmeasured():
    matrix, read, std, sides = case(4, silent=0.2)
    network = prepare_bilinear(matrix, 2)
    plain = network.reconcile(*read, *std, **sides)
    begun = network.reconcile(*read, *std, **sides, start=(np.full(16, 20.0), np.full((16, 2), 0.3)))
    seen = ~np.isnan(plain.flow)
    np.testing.assert_allclose(begun.flow[seen], plain.flow[seen], rtol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flow": np.ones(3)}, "must have shapes"),
        ({"carried": np.ones((2, 2, 1))}, "must have shapes"),
        ({"flow_std": np.ones(3)}, "flow_std must have shape"),
        ({"carried_std": -1.0}, "must not have a negative std"),
        ({"flow": [np.inf, 1.0]}, "must be finite, or NaN"),
        ({"carried_incidence": np.ones((1, 3))}, "must have 2 columns"),
        ({"whole": [1, 0]}, "whole must be bool"),
        ({"same": [(0, -1)]}, r"same must be pairs of streams, each from 0 to 1, got \(0, -1\)"),
        ({"same": [(0, 2)]}, "same must be pairs"),
        ({"same": [(0, 1, 1)]}, "same must be pairs"),
        ({"rhs": [np.nan]}, r"rhs\[0, 0\] must be finite"),
        ({"rhs": [1.0, 2.0]}, "rhs must have shape"),
        ({"carried_rhs": np.ones((3, 3))}, "carried_rhs must have shape"),
        ({"bounds": (0, 100)}, "bounds must be"),
        ({"bounds": ((0, 1, 2), (0, 1))}, "bounds must be"),
        ({"bounds": ((0, [1, 2, 3]), (0, 1))}, "bounds must be a number or have shape"),
        ({"start": [1.0, 1.0, 1.0]}, r"start must be \(flow, carried\)"),
        ({"start": ([1.0], [[1.0]])}, "start must have the shapes"),
    ],
)
def test_wrong_input_is_refused(change, message):
    given = {"flow": [1.0, 1.0], "carried": [[0.1], [0.1]], "flow_std": 0.1, "carried_std": 0.1} | change
    with pytest.raises(BalanceError, match=message):
        reconcile_bilinear([[1.0, -1.0]], **given)


def test_what_is_wrong_is_refused_with_its_place():
    flow, carried = [[10.0, 5.0, 15.0]] * 2, np.full((2, 3, 2), 0.3)
    carried[1, 2, 1] = np.inf
    with pytest.raises(BalanceError, match="window 1: property 1 of stream 2 must be finite, or NaN"):
        reconcile_bilinear([[1, 1, -1]], flow, carried, 0.1, 0.1)
    with pytest.raises(BalanceError, match=r"window 0: flow of stream 1 must not have a negative std, got -1\.0"):
        reconcile_bilinear([[1, 1, -1]], flow, np.full((2, 3, 2), 0.3), [0.1, -1.0, 0.1], 0.1)
