"""Sequence numbers of notifications: what is missing, what is durable, what may go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.opcua.receipts import LAST, MOST_MISSING, Receipts, following


def test_numbers_follow_each_other_and_leave_0_out():
    assert [following(number) for number in (0, 1, LAST - 1, LAST)] == [1, 2, LAST, 1]


@pytest.mark.parametrize(("next", "number", "missing"), [
    (None, 7, []),                                  # whatever comes is the first
    (5, 5, []),
    (5, 8, [5, 6, 7]),
    (LAST - 1, 2, [LAST - 1, LAST, 1]),
    (5, 4, []),                                     # it came already
    (1, LAST, []),
    (5, 0, []),                                     # a keep-alive without a number
])
def test_what_should_have_come_before(next, number, missing):
    assert Receipts(next).missing_before(number) == missing


@given(st.integers(1, LAST), st.integers(0, 50))
def test_what_is_missing_is_what_was_skipped(next, skipped):
    number, between = next, []
    for _ in range(skipped):
        between.append(number)
        number = following(number)
    assert Receipts(next).missing_before(number) == between


def test_of_very_many_the_latest_are_missing():
    missing = Receipts(1).missing_before(LAST // 2 - 5)
    assert len(missing) == MOST_MISSING
    assert following(missing[-1]) == LAST // 2 - 5


def test_what_came_is_followed_by_the_next():
    receipts = Receipts()
    assert receipts.is_expected(9)
    receipts.came(9)
    assert receipts.is_expected(10)
    assert not receipts.is_expected(9)
    assert not receipts.is_expected(11)
    receipts.skip_to(20)
    assert receipts.is_expected(20)


def test_only_what_is_durable_is_acknowledged_once():
    receipts = Receipts()
    for number in (1, 2, 3):
        receipts.came(number)
    assert (receipts.take(), receipts.durable_to) == ([], 0)
    receipts.durable(1)
    receipts.durable(2)
    assert (receipts.take(), receipts.durable_to) == ([1, 2], 2)
    assert receipts.take() == []


def test_what_may_not_have_been_heard_is_acknowledged_again():
    receipts = Receipts()
    receipts.durable(1)
    sent = receipts.take()
    receipts.durable(2)
    receipts.give_back(sent)
    assert receipts.take() == [1, 2]
