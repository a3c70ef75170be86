"""Times as the collector carries them: whole microseconds since 1970-01-01 UTC, the resolution of the store.

Reading them out of a payload is in `mqtt.payload` and `opcua.values`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

MICROS = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST_US = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * MICROS    # no instrument's clock is right before it
AHEAD_US = 86_400 * MICROS      # a clock may be wrong by a time zone and daylight saving, not by more than a day
_DAY_US = 86_400 * MICROS


def micros(moment: datetime) -> int:
    """Return a moment with an offset as microseconds since 1970-01-01 UTC; exact."""
    since = moment - EPOCH
    return since.days * _DAY_US + since.seconds * MICROS + since.microseconds


def micros_of_seconds(seconds: float) -> int:
    """Return seconds since 1970-01-01 UTC as microseconds, rounded to the nearest."""
    return round(seconds * MICROS)


def moment(micros: int) -> datetime:
    """Return microseconds since 1970-01-01 UTC as a moment in UTC; exact."""
    return EPOCH + timedelta(microseconds=micros)


def plausible(source_us: int, received_us: int) -> bool:
    """Whether an instrument's time can be meant: not before 2000, not more than a day ahead of its arrival."""
    return EARLIEST_US <= source_us <= received_us + AHEAD_US
