"""The small compiled loops that larger ones are made of, each against the obvious way; they also run uncompiled."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from processing.balance import elimination, factors, inputs, kernels, lanes, quadratic, screening, varying_kernels
from processing.balance.mixing import constraints_of, slots_of
from processing.balance.ordering import pattern_of_factor
from processing.balance.sparse import project_sparse
from tests.balance.networks import plant


def system(seed, n_nodes=9, n_streams=20):
    """A factored plant, its R and V written out, and a source of numbers."""
    rng = np.random.default_rng(seed)
    rows = inputs.rows_of(plant(n_nodes, n_streams, seed, real=0.3), "incidence")
    std = rng.uniform(0.1, 2.0, n_streams)
    made = project_sparse(rows, np.ones(n_streams, dtype=bool), std)
    return made, made.order.rows.dense(), np.diag(std**2), rng


def lower_of(pattern, values):
    """L of one matrix written out, unit diagonal included."""
    n = len(pattern.l_start) - 1
    full = np.eye(n)
    for k in range(n):
        for p in range(pattern.l_start[k], pattern.l_start[k + 1]):
            full[pattern.l_index[p], k] = values[p]
    return full


def below(pattern, full):
    """The entries of a full matrix at the places of L."""
    column = np.repeat(np.arange(len(full)), np.diff(pattern.l_start))
    return full[pattern.l_index, column]


def test_a_matrix_is_put_into_the_pattern_of_its_factor():
    made, r, v, _ = system(0)
    s = r @ v @ r.T
    rows = inputs.rows_of(s, "matrix")
    lower, diagonal = np.zeros((len(made.order.l_index), 1)), np.zeros((len(s), 1))
    factors.scatter(rows.start, rows.index, rows.value, made.order.l_start, made.order.l_index, lower, diagonal)
    np.testing.assert_array_equal(diagonal[:, 0], np.diagonal(s))
    np.testing.assert_array_equal(lower[:, 0], below(made.order.pattern, s))


def test_sums_of_terms_are_the_normal_equations_of_each_window():
    made, r, _, rng = system(1)
    variances = rng.uniform(0.1, 2.0, (r.shape[1], 3))
    lower, diagonal = np.zeros((len(made.order.l_index), 3)), np.zeros((len(r), 3))
    factors.assemble(variances, *made._terms, lower, diagonal)
    for b in range(3):
        s = r @ np.diag(variances[:, b]) @ r.T
        np.testing.assert_allclose(diagonal[:, b], np.diagonal(s), rtol=1e-12)
        np.testing.assert_allclose(lower[:, b], below(made.order.pattern, s), rtol=1e-12, atol=1e-15)


def test_a_triangle_for_each_window_is_solved_for_each():
    made, r, _, rng = system(2)
    pattern, m = made.order.pattern, len(r)
    lower, diagonal = rng.standard_normal((len(pattern.l_index), 3)), rng.uniform(0.5, 2.0, (m, 3))
    block = rng.standard_normal((m, 3))
    expected = [np.linalg.solve(lower_of(pattern, a) * d @ lower_of(pattern, a).T, b) for a, d, b in
                zip(lower.T, diagonal.T, block.T, strict=True)]  # fmt: skip
    factors.solve_each(block, pattern, lower, diagonal)
    np.testing.assert_allclose(block.T, expected, rtol=1e-8)


@pytest.mark.parametrize(("n_streams", "count"), [(5, 11), (8, 8), (19, 24), (16, 32)])
def test_windows_turned_and_back(n_streams, count):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((count + 2, n_streams))
    block, back = lanes.new_block(n_streams), np.zeros((count + 2, n_streams))
    kernels.take_windows(values, 2, count, block)
    np.testing.assert_array_equal(block[:, :count], values[2:].T)
    assert not block[:, count:].any()
    kernels.put_windows(block, 2, count, back)
    np.testing.assert_array_equal(back[2:], values[2:])
    assert not back[:2].any()


def test_a_window_repeated():
    values, x = np.random.default_rng(0).standard_normal((13, 5)), np.empty((5, 5))
    varying_kernels.take_repeated(values, 10, 3, x)
    np.testing.assert_array_equal(x, values[[10, 11, 12, 12, 12]].T)


def test_rows_of_a_block_start_a_cache_line():
    for n_rows in range(1, 9):
        block = lanes.new_block(n_rows)
        assert block.shape == (n_rows, lanes.WIDTH)
        assert block.ctypes.data % lanes.LINE == 0
        assert not block.any()


def test_a_block_is_kept_for_the_next_and_never_lent_twice(monkeypatch):
    monkeypatch.setattr(lanes, "_spare", [])
    with lanes.borrowed_block(5) as one, lanes.borrowed_block(7) as other:
        assert (one.shape, other.shape) == ((5, lanes.WIDTH), (7, lanes.WIDTH))
        assert not np.shares_memory(one, other)
    with lanes.borrowed_block(3) as again:
        assert np.shares_memory(again, one) or np.shares_memory(again, other)
    with contextlib.suppress(ValueError), lanes.borrowed_block(9) as larger:
        assert larger.shape == (9, lanes.WIDTH)
        raise ValueError
    with lanes.borrowed_block(8) as again:
        assert np.shares_memory(again, larger)  # given back all the same
    with contextlib.ExitStack() as many:
        for _ in range(lanes.SPARE + 2):
            many.enter_context(lanes.borrowed_block(1))
    assert len(lanes._spare) == lanes.SPARE


@njit
def every_operation(block, target):
    """What lanes.py has, once each."""
    total = lanes.plus(lanes.nothing(), 3.0, lanes.load(block, 1))
    lanes.fetch(block, 2)
    lanes.store(block, 0, lanes.scaled(0.1, lanes.minus(total, 0.3, lanes.load(block, 2))))
    lanes.store(block, 3, lanes.larger(lanes.load(block, 4), -2.0, lanes.load(block, 5)))
    lanes.turn(block, 1, 3, target, 2, 5)


def test_operations_are_what_they_say_compiled_and_not():
    rng = np.random.default_rng(0)
    given = rng.standard_normal((9, lanes.WIDTH))
    block, target = given.copy(), np.zeros((10, 13))
    every_operation(block, target)
    np.testing.assert_array_equal(block[0], 0.1 * (3.0 * given[1] - 0.3 * given[2]))
    np.testing.assert_array_equal(block[3], np.maximum(given[4], 2.0 * abs(given[5])))
    np.testing.assert_array_equal(np.delete(block, (0, 3), axis=0), np.delete(given, (0, 3), axis=0))
    np.testing.assert_array_equal(target[2:, 5:], block[1:, 3:11].T)
    assert not target[:2].any()
    assert not target[:, :5].any()
    if hasattr(every_operation, "py_func"):  # the compiled ones count addresses
        with pytest.raises(TypingError, match="contiguous"):
            every_operation(np.asfortranarray(given), target)
    plain, again = given.copy(), np.zeros((10, 13))
    getattr(every_operation, "py_func", every_operation)(plain, again)
    np.testing.assert_array_equal(plain, block)
    np.testing.assert_array_equal(again, target)


def test_pieces_of_one_adjustment():
    """There and back, pass by pass, and the same with variances of each window."""
    made, r, v, rng = system(3)
    there, back = made._sums
    n, m = r.shape[1], len(r)
    x, right = rng.standard_normal((n, lanes.WIDTH)), rng.standard_normal((m, lanes.WIDTH))
    lower = lower_of(made.order.pattern, made.factor.value)
    block = np.vstack([x, np.full_like(right, np.nan), np.full((1, lanes.WIDTH), np.nan)])
    kernels.forward(block[:-1], right, there)
    np.testing.assert_allclose(block[n:-1], np.linalg.solve(lower, right - r @ x), rtol=1e-9, atol=1e-12)
    kernels.backward(block[:-1], made.factor)
    np.testing.assert_allclose(block[n:-1], np.linalg.solve(r @ v @ r.T, right - r @ x), rtol=1e-9, atol=1e-12)
    kernels.correct(block, back, block[-1:])
    moved = x + v @ r.T @ np.linalg.solve(r @ v @ r.T, right - r @ x)
    np.testing.assert_allclose(block[:n], moved, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(r @ block[:n], right, atol=1e-9)
    assert not block[-1].any()
    kernels.forward(block[:-1], right[:0], there)
    np.testing.assert_allclose(block[n:-1], np.linalg.solve(lower, -right), rtol=1e-8, atol=1e-9)


def test_pieces_of_one_adjustment_with_variances_of_each_window():
    made, r, _, rng = system(3)
    x, right = rng.standard_normal((r.shape[1], 4)), rng.standard_normal((len(r), 4))
    work = np.empty_like(right)
    varying_kernels.leave_open(x, right, made.balances, work)
    np.testing.assert_allclose(work, r @ x - right, atol=1e-12)
    own, each = rng.uniform(0.1, 2.0, x.shape), x.copy()
    varying_kernels.adjust_each(each, own, work, made.balances)
    np.testing.assert_allclose(each, x - own * (r.T @ work), rtol=1e-12, atol=1e-12)


def test_smallest_pivot_of_each_window():
    least = np.empty(2)
    varying_kernels.least_share(np.array([[0.5, 1.0], [0.2, 3.0]]), np.array([[1.0, 1.0], [0.4, 30.0]]), least)
    np.testing.assert_allclose(least, [0.5, 0.1])


def test_pieces_of_one_elimination():
    full = np.array([[1.0, 2.0, 0.0], [4.0, 0.0, 3.0], [2.0, 1.0, 0.5]])
    rows = inputs.rows_of(full, "matrix")
    entry, number, first, length, room = elimination.spread_out(rows.start, rows.index, rows.value)
    assert (length.tolist(), (room >= length).all()) == ([2, 2, 3], True)
    table = elimination.Table(entry, number, first, length)
    found, seen = np.empty((2, 3), dtype=np.int64), np.full(3, -1, dtype=np.int64)
    link, holder, free = np.array([1, 2, -1]), np.array([0, 1, 2]), np.array([True, True, False])
    count = elimination.find_rows(0, 0, link, holder, free, seen, table, found)
    assert found[0, :count].tolist() == [0, 1]  # the third is used up
    assert number[found[1, :count]].tolist() == [1.0, 4.0]
    assert found[0, elimination.choose_pivot(found, count, number, np.array([1, 2, 3]))] == 0  # shorter, large enough
    assert found[0, elimination.choose_pivot(found, count, np.where(number == 1.0, 0.3, number), length)] == 1
    where, changed = np.full(3, -1, dtype=np.int64), np.empty((2, 3), dtype=np.int64)
    fresh, gone = elimination.subtract(2, 0, 0, 2.0, table, where, changed)
    assert (changed[0, :fresh].tolist(), changed[1, :gone].tolist()) == ([], [0])
    after = inputs.Rows(*elimination.gather_rows(table), 3).dense()
    np.testing.assert_array_equal(after[2], [0.0, -3.0, 0.5])
    np.testing.assert_array_equal(after[:2], full[:2])


@pytest.fixture
def bilinear():
    """Entries of flows with one property over a small plant, the pattern of their conditions, and two windows."""
    mass = inputs.rows_of(plant(3, 6, 1), "incidence")
    c = constraints_of(mass, mass, 1, [(0, 1)], np.zeros(6, dtype=bool))
    n, m = c.n_variables, c.n_rows
    import scipy.sparse as sp

    pairs = sp.coo_array((np.ones(len(c.row)), (c.row + n, c.variable)), shape=(n + m, n + m)).tocsc()
    pattern = pattern_of_factor((pairs + pairs.T + sp.eye_array(n + m)).tocsc())
    entries = quadratic.Entries(c.row, c.variable, c.other, c.share, slots_of(pattern, c.variable, c.row + n))
    rng = np.random.default_rng(4)
    return c, entries, pattern, rng.uniform(1.0, 3.0, (n, 2)), rng.standard_normal((m, 2)), rng


def jacobian_of(entries, value, shape):
    """The Jacobian of each window written out."""
    full = np.zeros((value.shape[1], *shape))
    for b in range(value.shape[1]):
        np.add.at(full[b], (entries.row, entries.variable), value[:, b])
    return full


def test_constraints_and_their_jacobian(bilinear):
    c, entries, _, z, rhs, _ = bilinear
    value, residual, size = np.empty((len(c.row), 2)), np.empty((c.n_rows, 2)), np.empty((c.n_rows, 2))
    quadratic.evaluate(entries, z, rhs, value, residual, size)
    full = jacobian_of(entries, value, (c.n_rows, c.n_variables))
    for b in range(2):
        np.testing.assert_allclose(residual[:, b], c.residual(z[:, b], rhs[:, b]), atol=1e-12)
        np.testing.assert_allclose(full[b], c.jacobian(z[:, b]).toarray(), atol=1e-12)
        own = np.where(c.other < 0, 1.0, 0.5 * z[c.other, b]) * c.share * z[c.variable, b]
        np.testing.assert_allclose(size[:, b], abs(rhs[:, b]) + np.bincount(c.row, abs(own), c.n_rows))


def test_scaled_rows_have_length_one(bilinear):
    c, entries, _, z, _, rng = bilinear
    value, scale, by_row = rng.standard_normal((len(c.row), 2)), rng.uniform(0.1, 3.0, z.shape), np.empty((c.n_rows, 2))
    before = jacobian_of(entries, value, (c.n_rows, c.n_variables))
    quadratic.scale_entries(entries, value, scale, by_row)
    after = jacobian_of(entries, value, (c.n_rows, c.n_variables))
    for b in range(2):
        np.testing.assert_allclose(after[b], by_row[:, b, None] * before[b] * scale[:, b])
    lengths = [np.bincount(c.row, value[:, b] ** 2, c.n_rows) for b in range(2)]
    np.testing.assert_allclose(lengths, 1.0)


def test_one_step_solves_the_conditions_of_optimality(bilinear):
    c, entries, pattern, _, _, rng = bilinear
    n, m = c.n_variables, c.n_rows
    value = rng.standard_normal((len(c.row), 2))
    measured = (rng.random((n, 2)) < 0.7).astype(float)
    away, left = np.where(measured > 0, rng.standard_normal((n, 2)), np.nan), rng.standard_normal((m, 2))
    place = np.arange(n + m)
    lower, diagonal = np.empty((len(pattern.l_index), 2)), np.empty((n + m, 2))
    quadratic.factor_conditions(entries, value, measured, pattern, place, lower, diagonal)
    step, multiplier = np.zeros((n, 2)), np.zeros((m, 2))
    full = jacobian_of(entries, value, (m, n))
    for b in range(2):
        shifted = np.block(
            [[np.diag(measured[:, b] + quadratic.SHIFT), full[b].T], [full[b], -quadratic.SHIFT * np.eye(m)]]
        )
        factored = lower_of(pattern, lower[:, b])
        np.testing.assert_allclose(factored * diagonal[:, b] @ factored.T, shifted, atol=1e-6)
    for _ in range(6):
        quadratic.refine(entries, value, away, left, place, (pattern, lower, diagonal), step, multiplier)
    for b in range(2):
        open_ = measured[:, b] * (step[:, b] + np.nan_to_num(away[:, b])) + full[b].T @ multiplier[:, b]
        np.testing.assert_allclose(open_, 0.0, atol=1e-7)
        np.testing.assert_allclose(full[b] @ step[:, b], -left[:, b], atol=1e-6)


def test_who_has_come_to_rest():
    report = np.array([[0.0, 0.0, 1.0], [9.0, 9.0, 2.0], [9.0, 9.0, 0.0]])
    step, residual, terms = np.array([[1e-3, 0.1, 9.0]]), np.array([[1e-3, 0.0, 9.0]]), np.ones((1, 3))
    assert not quadratic.judge(step, residual, terms, 0.01, 4, report)
    np.testing.assert_allclose(report, [[1.0, 0.0, 1.0], [5.0, 9.0, 2.0], [1e-3, 0.0, 0.0]])
    assert quadratic.judge(np.zeros((1, 3)), residual, terms, 0.01, 5, report)


@pytest.mark.parametrize("count", [3, 40])
def test_scores_of_many_windows(count):
    """Biases of some streams and leaks of some nodes, with right-hand sides and without."""
    made, r, v, rng = system(4)
    order, y = made.order.nodes, rng.uniform(1.0, 9.0, (count, r.shape[1]))
    streams, nodes = np.array([1, 4, 7, 19]), np.array([0, 5])
    per_std = rng.uniform(0.5, 2.0, 6)
    screen = made.screening(streams, nodes, per_std)
    plant_rows = made.source.dense()
    for rhs in (None, rng.uniform(-1.0, 1.0, (count, len(plant_rows)))):
        left = (y @ plant_rows.T - (0.0 if rhs is None else rhs))[:, order] * made.reduced.by_row[order]
        w = np.zeros((count, len(plant_rows)))
        w[:, order] = np.linalg.solve(r @ v @ r.T, left.T).T * made.reduced.by_row[order]
        expected = np.concatenate([(w @ plant_rows)[:, streams], w[:, nodes]], axis=1)
        scores, largest = screen(y, rhs)
        np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-11)
        np.testing.assert_array_equal(largest, abs(scores * per_std).max(axis=1))


@pytest.mark.parametrize("n", [5, screening.MANY + 3])
def test_the_likeliest_error_and_what_it_leaves(n):
    """With NumPy, and compiled."""
    rng = np.random.default_rng(0)
    scores, weight, chosen = rng.standard_normal((9, n)), rng.uniform(0.0, 2.0, n), np.array([1, 4, 8])
    scores[4] = 0.0  # of equals the first
    found = screening.likeliest(scores, chosen, weight)
    np.testing.assert_array_equal(found, abs(scores[chosen] * weight).argmax(axis=1))
    steps, response, bar = rng.standard_normal(3), rng.standard_normal(n), rng.uniform(0.5, 9.0, n)
    bar[1] = np.inf
    for share in (0.01, 1.0, 100.0):
        more = screening.shows_more(scores, chosen, steps, response, share * bar)
        rest = scores[chosen] - steps[:, None] * response
        np.testing.assert_array_equal(more, (rest**2 > share * bar).any(axis=1))
    before = scores.copy()
    screening.take_out(scores, chosen, steps, response)
    before[chosen] += steps[:, None] * response
    np.testing.assert_allclose(scores, before, rtol=1e-12)


def test_small_networks_are_searched_without_the_compiler():
    search = (
        "import sys; from processing.balance import identify_gross_errors as search;"
        "search([[1, -1, 0], [0, 1, -1]], [[10.0, 12.0, 10.1]] * 9, 0.1); sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", search], check=False).returncode == 0
