"""One JSON value -> a number, a time or a status, or why it is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from collector.times import MICROS, micros
from park.quality import BAD_STATUS, GOOD_STATUS, UNCERTAIN_STATUS

TimeFormat = Literal["iso", "s", "ms", "us", "ns"]

SEVERITY: Mapping[str, int] = {"good": GOOD_STATUS, "uncertain": UNCERTAIN_STATUS, "bad": BAD_STATUS}
_LARGEST_STATUS = 0xFFFFFFFF

# Without a format an epoch is told by its size: seconds until the year 5138, then milliseconds from 1973 on, and so on.
_SECONDS_BELOW = 1e11
_MILLIS_BELOW = 1e14
_MICROS_BELOW = 1e17
_A_SECOND: Mapping[TimeFormat, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class Rejected(Exception):
    """A value, time or status is not what a reading needs; the text is the reason it is counted by."""


def number(value: Any) -> float:
    """Return a JSON number as a float; anything else, infinities included, is rejected."""
    if type(value) is float or type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise Rejected("value is not finite") from None
        if math.isfinite(value):
            return value    # type: ignore[no-any-return]
        raise Rejected("value is not finite")
    raise Rejected("value is not a number")


def time_us(value: Any, form: TimeFormat | None = None) -> int:
    """Return a time as microseconds, floored.

    Parameters
    ----------
    value
        What stands in the message.
    form
        ``iso``: ISO 8601 with an offset; ``s``, ``ms``, ``us``, ``ns``: an epoch. None: text is ISO 8601, a number an
        epoch told by its size.

    Raises
    ------
    Rejected
        If it is no such time.
    """
    if type(value) is str and form in (None, "iso"):
        return _iso_us(value)
    if type(value) not in (int, float) or form == "iso" or (type(value) is float and not math.isfinite(value)):
        raise Rejected("time is neither ISO 8601 nor an epoch" if form is None else f"time is not of the format {form}")
    a_second = _A_SECOND[form or _format_by_size(value)]
    if type(value) is int:
        return int(value * MICROS // a_second)
    if a_second <= MICROS:
        time: int = round(value * (MICROS // a_second))
        return time
    return int(math.floor(value) * MICROS // a_second)


def _format_by_size(value: float) -> TimeFormat:
    size = abs(value)
    if size < _SECONDS_BELOW:
        return "s"
    if size < _MILLIS_BELOW:
        return "ms"
    return "us" if size < _MICROS_BELOW else "ns"


def _iso_us(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Rejected("time is neither ISO 8601 nor an epoch") from None
    if moment.tzinfo is None:
        raise Rejected("time has no offset from UTC")
    return micros(moment)


def status_code(value: Any) -> int:
    """Return a StatusCode from its number, from good, uncertain, bad, or from true (good) and false (bad).

    Raises
    ------
    Rejected
        If it is none of these.
    """
    if type(value) is int and 0 <= value <= _LARGEST_STATUS:
        return value
    if type(value) is bool:
        return GOOD_STATUS if value else BAD_STATUS
    if type(value) is str and value.lower() in SEVERITY:
        return SEVERITY[value.lower()]
    raise Rejected("status is no StatusCode, good, uncertain, bad, true or false")
