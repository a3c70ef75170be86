"""Random networks of every kind that can go wrong, against exact rational arithmetic: only rounding is tolerated."""

from __future__ import annotations

import numpy as np
import pytest

from processing.balance import ContradictionError, classify, network, reconcile
from tests.reference.exact import Exact

KINDS = [
    "silent",
    "silent exact vague dependent",
    "silent full dependent",
    "silent units",
    "silent rows dependent",
    "silent spread exact",
    "units rows spread dependent silent",
    "silent correlated",
    "silent exact vague correlated",
    "silent dependent singular",
    "silent exact nearly",
]


@pytest.fixture(params=["dense", "sparse"])
def factors(request, monkeypatch):
    """Everything here holds for dense factors and for sparse ones."""
    if request.param == "sparse":
        monkeypatch.setattr(network, "DENSE_STREAMS", 0)


def joined(rng, n_nodes, n_streams, kind):
    """Places joined at random, parts of the network not connected; all numbers are exact in binary."""
    matrix = np.zeros((n_nodes, n_streams))
    for j in range(n_streams):
        start, end = rng.integers(0, n_nodes + 1, 2)
        if start != end and start < n_nodes:
            matrix[start, j] = -1.0
        if start != end and end < n_nodes:
            matrix[end, j] = 1.0 if rng.random() < 0.7 else rng.integers(1, 9) / 4
    if "full" in kind:
        matrix += np.where(rng.random(matrix.shape) < 0.3, rng.integers(-8, 9, matrix.shape) / 8, 0.0)
    if "dependent" in kind:
        matrix = np.vstack([matrix, rng.integers(-3, 4, (2, n_nodes)) @ matrix])
    return matrix


def spread_of(rng, n_streams, kind):
    """Std, exact and useless meters among them."""
    std = rng.integers(1, 32, n_streams) / 16
    if "exact" in kind:
        std[rng.random(n_streams) < 0.25] = 0.0
    if "spread" in kind:
        std *= 2.0 ** rng.integers(-13, 14, n_streams)
    if "vague" in kind:
        std[rng.random(n_streams) < 0.15] = np.inf
    return std


def covariance_of(rng, std, kind):
    """A covariance with these std about: full, singular or nearly so; exact meters have none."""
    n = len(std)
    mix = rng.integers(-4, 5, (n, max(1, n // 2) if "singular" in kind else n)) / 4
    if "nearly" in kind:
        mix = np.outer(np.ones(n), mix[0]) + 2.0**-14 * mix
    root = np.where(np.isfinite(std), std, 1.0)[:, None] * mix
    return root @ root.T


def random_case(seed, kind):
    """Return incidence, two or three windows, std, covariance or None, right-hand side."""
    rng = np.random.default_rng(seed)
    matrix = joined(rng, int(rng.integers(1, 8)), int(rng.integers(1, 14)), kind)
    m, n = matrix.shape
    true, std = rng.integers(1, 256, n) / 4, spread_of(rng, n, kind)
    if "units" in kind:
        unit = 2.0 ** rng.integers(-20, 21, n)
        matrix, true, std = matrix / unit, true * unit, std * unit
    if "rows" in kind:
        matrix *= 2.0 ** rng.integers(-20, 21, (m, 1))
    finite = np.isfinite(std)
    covariance, windows = None, int(rng.integers(1, 4))
    if any(word in kind for word in ("correlated", "singular", "nearly")):
        covariance = covariance_of(rng, std, kind)
        noise = rng.integers(-3, 4, (windows, n)) / 2**12 @ covariance
        covariance = np.where(np.outer(finite, finite), covariance, 0.0)
    else:
        noise = np.where(finite, std, 0.0) * rng.integers(-16, 17, (windows, n)) / 8
    measured = true + noise
    measured[rng.random(measured.shape) < 0.35] = np.nan
    return matrix, measured, std, covariance, matrix @ true


@pytest.mark.usefixtures("factors")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", KINDS)
def test_everything_against_exact_arithmetic(kind, seed):
    matrix, measured, std, covariance, rhs = random_case(seed, kind)
    finite = np.isfinite(std)
    usable = np.isfinite(measured) & finite
    exact_v = np.diag(np.where(finite, std, 0.0) ** 2) if covariance is None else covariance
    answers = [Exact(matrix, np.where(u, y, np.nan), exact_v, rhs) for u, y in zip(usable, measured, strict=True)]
    assert all(answer.consistent for answer in answers)
    if covariance is None:
        result = reconcile(matrix, measured, std, rhs=rhs)
    else:
        covariance[~finite, ~finite] = np.inf
        result = reconcile(matrix, measured, covariance=covariance, rhs=rhs)
    size = np.sqrt(np.diagonal(exact_v))
    size = np.where(size > 0, size, np.median(size[size > 0]) if size.any() else 1.0)
    for k, exact in enumerate(answers):
        np.testing.assert_array_equal(result.observable[k], exact.observable)
        np.testing.assert_array_equal(result.redundant[k], exact.redundant)
        np.testing.assert_allclose(result.reconciled[k], exact.reconciled, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(result.std[k] / size, exact.std / size, rtol=1e-6, atol=1e-8)
        adjusted = np.sqrt(np.maximum(exact.adjustment_variance, 0.0))
        np.testing.assert_allclose(result.adjustment_std[k] / size, adjusted / size, rtol=1e-5, atol=1e-8)
        assert result.global_test[k] == pytest.approx(exact.objective, rel=1e-6, abs=1e-9)
        tested = np.divide(abs(exact.adjustment), adjusted, out=np.full(len(std), np.nan), where=adjusted > 1e-9 * size)
        np.testing.assert_allclose(result.measurement_test[k], tested, rtol=1e-4, atol=1e-6)
        classes = classify(matrix, usable[k])
        np.testing.assert_array_equal(classes.observable, exact.observable)
        np.testing.assert_array_equal(classes.redundant, exact.redundant)


@pytest.mark.usefixtures("factors")
@pytest.mark.parametrize("spread", [2.0**-20, 1.0, 2.0**20])
def test_sure_values_that_contradict_are_seen_in_any_unit(spread):
    matrix = np.array([[1, -1, 0], [0, 1, -1], [1, 0, -1]]) * spread
    with pytest.raises(ContradictionError, match="window 1"):
        reconcile(matrix, [[1.0, 1.0, 1.0], [1.0, 1.0, 1.001]], [0.0, 1.0, 0.0])
    with pytest.raises(ContradictionError, match=r"nodes \[0, 1, 2\] leave"):
        reconcile(matrix, [1.0, 1.0, 1.0], 1.0, rhs=[0.0, 0.0, 0.1 * spread])


@pytest.mark.usefixtures("factors")
def test_meters_that_always_err_alike():
    """A correlation of one: what differs between them cannot be adjusted, and is refused or met."""
    covariance = [[0.04, 0.04, 0.0], [0.04, 0.04, 0.0], [0.0, 0.0, 0.01]]
    met = reconcile([[1, -1, 0], [1, 0, -1]], [5.2, 5.2, 5.0], covariance=covariance)
    np.testing.assert_allclose(met.reconciled, 5.04)
    assert met.degrees_of_freedom == 1
    with pytest.raises(ContradictionError, match=r"nodes \[0\] leave"):
        reconcile([[1, -1, 0], [1, 0, -1]], [5.2, 5.3, 5.0], covariance=covariance)


@pytest.mark.usefixtures("factors")
def test_measurement_test_of_a_sure_meter_among_vague_ones():
    """Its adjustment is the twelfth digit of its value; its test has the digits of the others'."""
    result = reconcile([[1, -1]], [1000.0, 1300.0], [1e-6, 100.0])
    np.testing.assert_allclose(result.measurement_test, 3.0, rtol=1e-9)
