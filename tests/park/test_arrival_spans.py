"""How the source times of a batch become spans."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from park.store.arrivals import Added, spans_of


def added(times: list[int]) -> Added:
    column = np.array(times, dtype=np.int64)
    return Added(column, np.ones(len(column), np.int64), column + 5)


def test_no_rows_no_spans() -> None:
    assert spans_of([]) == []
    assert spans_of([added([])]) == []


def test_times_are_split_at_wide_gaps() -> None:
    spans = spans_of([added([30, 10, 11]), added([12, 31])], gap_us=5)
    assert [s[1:] for s in spans] == [(10, 12, 3, 17), (30, 31, 2, 36)]


def test_a_gap_of_just_the_limit_is_none() -> None:
    assert len(spans_of([added([0, 5])], gap_us=5)) == 1
    assert len(spans_of([added([0, 6])], gap_us=5)) == 2


def test_many_spans_become_few_at_their_narrowest_gaps() -> None:
    spans = spans_of([added([0, 100, 110, 300])], gap_us=5, limit=3)
    assert [s[1:4] for s in spans] == [(0, 0, 1), (100, 110, 2), (300, 300, 1)]
    assert [s[1:4] for s in spans_of([added([0, 100, 110, 300])], gap_us=5, limit=1)] == [(0, 300, 4)]


@given(st.lists(st.integers(0, 1000), min_size=1), st.integers(0, 50), st.integers(1, 8))
def test_every_time_is_in_one_span(times: list[int], gap: int, limit: int) -> None:
    spans = spans_of([added(times)], gap_us=gap, limit=limit)
    assert len(spans) <= limit
    assert sum(s.row_count for s in spans) == len(times)
    assert all(sum(s.start_us <= t <= s.end_us for s in spans) == 1 for t in times)
    assert all(before.end_us < after.start_us for before, after in pairwise(spans))
    assert {t for s in spans for t in (s.start_us, s.end_us)} <= set(times)
