"""Every compiled loop against the slow, obvious way; small, so that they also run without the compiler."""

from __future__ import annotations

import numpy as np
import pytest

from processing.balance import factors, inputs, kernels, lanes, steps, varying_kernels
from processing.balance.dense import project
from processing.balance.elimination import eliminate, grown
from processing.balance.ordering import minimum_degree
from processing.balance.product import product
from processing.balance.reduction import take_rows
from processing.balance.sharing import share_out
from processing.balance.sparse import project_sparse
from tests.balance.networks import plant


def made(seed, n_nodes=12, n_streams=26, real=0.3):
    """A sparse projection of a plant, all measured, and its matrices written out."""
    rng = np.random.default_rng(seed)
    rows = inputs.rows_of(plant(n_nodes, n_streams, seed, real=real), "incidence")
    std = rng.uniform(0.1, 2.0, n_streams)
    projection = project_sparse(rows, np.ones(n_streams, dtype=bool), std)
    r = projection.order.rows.dense()
    return projection, r, np.diag(std**2), rng


def lower_of(pattern_start, pattern_index, value, n):
    """L written out, unit diagonal included."""
    full = np.eye(n)
    for k in range(n):
        for p in range(pattern_start[k], pattern_start[k + 1]):
            full[pattern_index[p], k] = value[p]
    return full


@pytest.mark.parametrize("seed", range(4))
def test_factor(seed):
    projection, r, v, _ = made(seed)
    f = projection.factor
    lower = lower_of(f.start, f.row, f.value, len(f.inverse))
    np.testing.assert_allclose(lower @ np.diag(1 / f.inverse) @ lower.T, r @ v @ r.T, rtol=1e-10, atol=1e-12)
    for k in range(len(f.inverse)):
        rows = f.row[f.start[k] : f.start[k + 1]]
        assert (np.diff(rows) > 0).all()
        assert (rows > k).all()


@pytest.mark.parametrize("seed", range(4))
def test_pattern_is_that_of_elimination(seed):
    """Symbolic rows against elimination of a full matrix of ones and zeros."""
    projection, r, _, _ = made(seed)
    full = (r @ r.T != 0).astype(float) + 100 * np.eye(len(r))
    for k in range(len(full)):
        full[k + 1 :, k + 1 :] += 1e-3 * np.outer(full[k + 1 :, k], full[k, k + 1 :])
    f = projection.factor
    found = lower_of(f.start, f.row, np.ones(len(f.row)), len(full)) - np.eye(len(full))
    np.testing.assert_array_equal(found != 0, np.tril(full != 0, -1))


def reconciled(projection, y, rights, times=1):
    """Windows by the kernels, and whether all of them were finite."""
    out, block = np.empty_like(y), lanes.new_block(y.shape[1] + 2 * rights.shape[1] + 1)
    finite = kernels.reconcile_windows(y, rights, *projection._sums, projection.factor, times, block, out)
    return out, finite


@pytest.mark.parametrize("n_windows", [1, 3, 40])
def test_windows(n_windows):
    projection, r, v, rng = made(1)
    y = rng.uniform(1.0, 9.0, (n_windows, 26))
    right = rng.uniform(-1.0, 1.0, (n_windows, len(r)))
    gain = v @ r.T @ np.linalg.inv(r @ v @ r.T)
    for rights in (right, np.zeros((0, len(r)))):
        expected = y - (y @ r.T - (rights if len(rights) else 0.0)) @ gain.T
        for times in (1, 3):
            out, finite = reconciled(projection, y, rights, times)
            np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-12)
            assert finite
    solved = np.empty_like(right)
    kernels.solve_windows(right, projection._lower, projection.factor, lanes.new_block(len(r)), solved)
    np.testing.assert_allclose(solved, np.linalg.solve(r @ v @ r.T, right.T).T, rtol=1e-9)


def test_a_window_is_the_same_in_any_company():
    """Bit for bit, wherever it stands among others."""
    projection, r, _, rng = made(2)
    y = rng.uniform(1.0, 9.0, (lanes.WIDTH + 21, 26))
    none = np.zeros((0, len(r)))
    together, _ = reconciled(projection, y, none)
    for k in range(len(y)):
        np.testing.assert_array_equal(together[k : k + 1], reconciled(projection, y[k : k + 1], none)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("window", "stream"), [(0, 0), (31, 25), (39, 3)])
def test_a_gap_is_noticed_and_spoils_no_other_window(value, window, stream):
    projection, r, _, rng = made(2)
    y, none = rng.uniform(1.0, 9.0, (40, 26)), np.zeros((0, len(r)))
    whole, _ = reconciled(projection, y, none)
    y[window, stream] = value
    with np.errstate(invalid="ignore"):  # not compiled, NumPy minds
        out, finite = reconciled(projection, y, none)
    assert not finite
    others = np.arange(40) != window
    np.testing.assert_array_equal(out[others], whole[others])


def test_varying_windows():
    projection, r, _, rng = made(3)
    y, std = rng.uniform(1.0, 9.0, (11, 26)), rng.uniform(0.1, 2.0, (11, 26))
    rights = rng.uniform(-1.0, 1.0, (11, len(r)))
    for given in (rights, np.zeros((0, len(r)))):
        out, least = np.empty_like(y), np.empty(11)
        varying_kernels.reconcile_varying(
            y, given, std**2, projection.balances, projection.order.pattern, projection._terms, 4, out, least
        )
        for k in range(11):
            v = np.diag(std[k] ** 2)
            right = given[k] if len(given) else 0.0
            expected = y[k] - v @ r.T @ np.linalg.solve(r @ v @ r.T, r @ y[k] - right)
            np.testing.assert_allclose(out[k], expected, rtol=1e-9, atol=1e-12)
        assert ((least > 0) & (least <= 1)).all()


def test_inverse_on_pattern():
    projection, r, v, _ = made(4)
    f = projection.factor
    inverse = np.linalg.inv(r @ v @ r.T)
    below, on = factors.inverse_on_pattern(f.start, f.row, f.value, f.inverse)
    np.testing.assert_allclose(on, np.diagonal(inverse), rtol=1e-9)
    for k in range(len(on)):
        for p in range(f.start[k], f.start[k + 1]):
            assert below[p] == pytest.approx(inverse[f.row[p], k], rel=1e-7, abs=1e-12)
    columns = projection.order.rows.transposed()
    seen = factors.quadratic_by_column(columns.start, columns.index, columns.value, f.start, f.row, below, on)
    np.testing.assert_allclose(seen, np.einsum("ij,ik,kj->j", r, inverse, r), rtol=1e-8, atol=1e-12)


def test_products():
    rng = np.random.default_rng(0)
    full = np.where(rng.random((5, 7)) < 0.5, rng.standard_normal((5, 7)), 0.0)
    rows = inputs.rows_of(full, "matrix")
    values, out = rng.standard_normal((3, 7)), np.empty((3, 5))
    steps.multiply(rows.start, rows.index, rows.value, values, out)
    np.testing.assert_allclose(out, values @ full.T)
    many, together, alone = rng.standard_normal((41, 7)), np.empty((41, 5)), np.empty((41, 5))
    kernels.multiply_windows(many, rows.start, rows.index, rows.value, lanes.new_block(12), together)
    steps.multiply(rows.start, rows.index, rows.value, many, alone)
    np.testing.assert_array_equal(together, alone)
    for few in (many[:3], many, many[:, ::-1][:, ::-1], np.asfortranarray(many)):
        np.testing.assert_array_equal(product(rows, few), alone[: len(few)])
    np.testing.assert_array_equal(rows.dense(), full)
    np.testing.assert_array_equal(rows.transposed().dense(), full.T)
    np.testing.assert_array_equal(take_rows(rows, np.array([3, 0])).dense(), full[[3, 0]])
    np.testing.assert_allclose(rows.times(values), values @ full.T)


def test_steps_of_elimination_and_their_transpose():
    rng = np.random.default_rng(0)
    target, source, share = rng.integers(0, 4, 6), rng.integers(4, 6, 6), rng.standard_normal(6)
    step = np.eye(6)
    for to, of, by in zip(target, source, share, strict=True):
        step[to] -= by * step[of]
    values = rng.standard_normal((3, 6))
    forward, back = values.copy(), values.copy()
    steps.combine(forward, target, source, share)
    steps.combine_transposed(back, target, source, share)
    np.testing.assert_allclose(forward, values @ step.T)
    np.testing.assert_allclose(back, values @ step)


@pytest.mark.parametrize("seed", range(12))
def test_elimination(seed):
    rng = np.random.default_rng(seed)
    full = plant(8, 14, seed, real=0.4, outside=0.1).toarray()
    chosen = rng.random(14) < 0.6
    rows = inputs.rows_of(full, "matrix")
    start, index, value, row, column, target, source, share = eliminate(
        rows.start, rows.index, rows.value, chosen.copy()
    )
    after = inputs.Rows(start, index, value, 14).dense()
    expected = full.copy()
    for to, of, by in zip(target, source, share, strict=True):
        expected[to] -= by * expected[of]
    np.testing.assert_allclose(after, expected, atol=1e-12)
    rest = np.setdiff1d(np.arange(8), row)
    assert not after[np.ix_(rest, chosen)].any()
    assert len(row) == np.linalg.matrix_rank(full[:, chosen])
    for k, (i, j) in enumerate(zip(row, column, strict=True)):
        assert after[i, j] != 0
        assert not after[np.setdiff1d(row[k + 1 :], [i]), j].any()


def test_elimination_passes_over_zeros():
    """An entry written as zero is no entry, and no pivot."""
    start, index, value = np.array([0, 2, 4]), np.array([0, 1, 0, 1]), np.array([0.0, 1.0, 2.0, 1.0])
    *_, row, column, target, _, _ = eliminate(start, index, value, np.array([True, False]))
    assert (row.tolist(), column.tolist(), len(target)) == ([1], [0], 0)


@pytest.mark.parametrize("seed", range(10))
def test_elimination_of_many_columns(seed):
    """Rows grow and move; the rest is free of what was eliminated, and the steps say how it came about."""
    rng = np.random.default_rng(seed)
    full = plant(60, 130, seed, real=0.2, outside=0.1).toarray()
    chosen = rng.random(130) < 0.5
    rows = inputs.rows_of(full, "matrix")
    start, index, value, row, _, target, source, share = eliminate(rows.start, rows.index, rows.value, chosen.copy())
    expected = full.copy()
    for to, of, by in zip(target, source, share, strict=True):
        expected[to] -= by * expected[of]
    np.testing.assert_allclose(inputs.Rows(start, index, value, 130).dense(), expected, atol=1e-9)
    assert not expected[np.setdiff1d(np.arange(60), row)][:, chosen].round(9).any()


def test_elimination_grows_its_room():
    """A full first column fills every row with the first row's entries."""
    full = np.eye(40, 60)
    full[0, 20:] = 2.0
    full[:, 0] = 1.0
    rows = inputs.rows_of(full, "matrix")
    chosen = np.zeros(60, dtype=bool)
    chosen[0] = True
    start, index, value, row, *_ = eliminate(rows.start, rows.index, rows.value, chosen)
    after = inputs.Rows(start, index, value, 60).dense()
    rest = np.setdiff1d(np.arange(40), row)
    np.testing.assert_allclose(after[rest], full[rest] - full[row[0]])
    assert len(grown(np.zeros(3), 20)) == 20


@pytest.mark.parametrize("seed", range(12))
def test_unmeasured_streams_and_their_functionals(seed):
    rng = np.random.default_rng(seed)
    matrix = plant(9, 20, seed, real=0.3)
    measured = rng.random(20) < 0.6
    std = rng.uniform(0.5, 2.0, 20)
    sparse = project_sparse(inputs.rows_of(matrix, "incidence"), measured, std)
    dense = project(matrix.toarray(), measured, std)
    values, rhs = rng.uniform(1.0, 9.0, (3, 20)), matrix @ rng.uniform(1.0, 9.0, 20)
    np.testing.assert_allclose(
        sparse.solve(values, rhs[None].repeat(3, 0)), dense.solve(values, rhs[None].repeat(3, 0))
    )
    seen = np.flatnonzero(dense.observable)
    np.testing.assert_allclose(sparse._functionals(seen), dense.gain[seen], atol=1e-10)
    np.testing.assert_allclose(sparse.std, dense.std, atol=1e-10)


def test_order_is_a_permutation_with_little_fill():
    """An arrow eliminated from its head fills entirely; from its tail not at all."""
    n = 30
    full = np.eye(n)
    full[0] = full[:, 0] = 1.0
    import scipy.sparse as sp

    order = minimum_degree(sp.csc_array(full))
    assert sorted(order.tolist()) == list(range(n))
    assert order.tolist().index(0) >= n - 2


def test_postorder():
    """Two trees: 4 over 0 and 3, 3 over 1 and 2; 6 over 5."""
    parent = np.array([4, 3, 3, 4, -1, 6, -1])
    assert factors.postorder(parent).tolist() == [0, 1, 2, 3, 4, 5, 6]
    parent = np.array([2, -1, 1, 2])
    assert factors.postorder(parent).tolist() == [0, 3, 2, 1]


def test_windows_shared_between_threads():
    assert share_out(lambda first, last: (first, last), 100, 16, 3) == [(0, 48), (48, 96), (96, 100)]
    assert share_out(lambda first, last: (first, last), 10, 16, 4) == [(0, 10)]
    assert share_out(lambda first, last: (first, last), 0, 16, 4) == [(0, 0)]


def test_what_a_thread_cannot_do_is_told():
    def task(first, _):
        if first:
            raise ValueError("not this half")

    with pytest.raises(ValueError, match="not this half"):
        share_out(task, 64, 32, 2)
