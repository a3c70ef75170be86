from __future__ import annotations

import pytest

from park.schedule import minutes, weekdays


@pytest.mark.parametrize(
    ("days", "numbers"),
    [("mon-fri", range(5)), ("mon-sun", range(7)), ("sat,sun", (5, 6)), ("fri-mon", (4, 5, 6, 0)), ("Wed", (2,)),
     (" mon - tue , thu ", (0, 1, 3)), ("mon,mon", (0,))],
)
def test_days(days, numbers):
    assert weekdays(days) == frozenset(numbers)


@pytest.mark.parametrize("days", ["", "weekdays", "mon-", "-fri", "mon;tue", "mon--fri", "monday", "mon-tue-wed", "1"])
def test_other_days_are_refused(days):
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the word
        weekdays(days)


@pytest.mark.parametrize(("clock", "total"), [("00:00", 0), ("06:00", 360), ("23:59", 1439), ("24:00", 1440)])
def test_times(clock, total):
    assert minutes(clock) == total


@pytest.mark.parametrize(
    "clock", ["6:00", "24:01", "12:60", "noon", "", "06:00:00", "\u0660\u0666:\u0660\u0660", "-1:00"],
)
def test_other_times_are_refused(clock):
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the text
        minutes(clock)
