"""Days and times of day as an agreement writes them: ``mon-fri``, ``mon,wed``, ``06:00``, ``24:00``.

Here is their reading, into weekday numbers and minutes after local midnight. Not here: the calendar of a park
(its time zone is in `ParkInfo`), and what happens when a delivery is missed.
"""

from __future__ import annotations

import re

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")     # Monday is 0, as in datetime.weekday

_CLOCK = re.compile(r"([0-9]{2}):([0-9]{2})")


def weekdays(days: str) -> frozenset[int]:
    """Return the weekday numbers (Monday 0) of `days`: names and ranges, separated by commas.

    Raises
    ------
    ValueError
        If a word is not a weekday; the message is the word.

    Examples
    --------
    >>> sorted(weekdays("mon-wed,sun"))
    [0, 1, 2, 6]
    """
    found: set[int] = set()
    for part in days.lower().split(","):
        first, _, last = (word.strip() for word in part.partition("-"))
        start, end = _weekday(first), _weekday(last) if last or "-" in part else _weekday(first)
        found.update((start + step) % 7 for step in range((end - start) % 7 + 1))
    return frozenset(found)


def minutes(clock: str) -> int:
    """Return the minutes after midnight of `clock`, HH:MM from 00:00 to 24:00.

    Raises
    ------
    ValueError
        If it is not a time of day.
    """
    match = _CLOCK.fullmatch(clock)
    total = int(match[1]) * 60 + int(match[2]) if match else -1
    if match is None or int(match[2]) > 59 or not 0 <= total <= 24 * 60:
        raise ValueError(clock)
    return total


def _weekday(word: str) -> int:
    if word not in WEEKDAYS:
        raise ValueError(word)
    return WEEKDAYS.index(word)
