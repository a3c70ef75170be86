"""Settlement periods in local time, and what their statements say."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from park.model import Park
from processing.account.statement import Statements, period_of
from processing.exchanges import ExchangeFlow

S = 1_000_000
COPENHAGEN = ZoneInfo("Europe/Copenhagen")


def us(*moment: int) -> int:
    return round(datetime(*moment, tzinfo=UTC).timestamp() * S)


@pytest.mark.parametrize(("period", "at", "start", "end"), [
    ("15min", (2026, 1, 1, 10, 20), (2026, 1, 1, 10, 15), (2026, 1, 1, 10, 30)),
    ("1h", (2026, 1, 1, 10, 20), (2026, 1, 1, 10), (2026, 1, 1, 11)),
    ("1d", (2026, 1, 1, 22, 59), (2025, 12, 31, 23), (2026, 1, 1, 23)),
    ("1d", (2026, 1, 1, 23, 0), (2026, 1, 1, 23), (2026, 1, 2, 23)),
    ("1d", (2026, 3, 29, 12), (2026, 3, 28, 23), (2026, 3, 29, 22)),       # 23 hours: the clock goes forward
    ("1d", (2026, 10, 25, 12), (2026, 10, 24, 22), (2026, 10, 25, 23)),    # 25 hours
    ("1month", (2026, 12, 15), (2026, 11, 30, 23), (2026, 12, 31, 23)),
    ("1month", (2026, 3, 31, 22), (2026, 3, 31, 22), (2026, 4, 30, 22)),   # April in summer time
])
def test_periods_follow_local_days(period, at, start, end):
    assert period_of(us(*at), period, COPENHAGEN) == (us(*start), us(*end))


def park_of(**agreement) -> Park:
    return Park.model_validate({
        "park": {"name": "p", "timezone": "UTC"}, "participants": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}],
        "nodes": [{"id": "a.n", "participant": "a"}, {"id": "b.n", "participant": "b"}],
        "streams": [{"id": "S", "from": "a.n", "to": "b.n", "carrier": "water"}],
        "exchanges": [{"id": "X", "kind": "water", "stream": "S", "settles": "mass", "unit": "t",
                       "agreement": {"period": "15min", **agreement}}]})


def flow(sender=None, receiver=None, reconciled=None) -> ExchangeFlow:
    u95 = [None if v is None else 0.01 * v for v in (sender, receiver, reconciled)]
    return ExchangeFlow("X", "kg/s", sender, u95[0], receiver, u95[1], reconciled, u95[2], None, None)


def statements(park, windows, minutes=1):
    """Windows of a minute each from midnight; returns what came out as they went, and at the end."""
    found = Statements(park)
    start, length = us(2026, 1, 1), minutes * 60 * S
    passed = [s for k, w in enumerate(windows) for s in found.add(start + k * length, start + (k + 1) * length, [w])]
    return passed, list(found.finish())


def test_total_is_flow_times_time_in_the_exchanges_unit():
    passed, rest = statements(park_of(), [(flow(10.0, 9.0, 9.5), True)] * 16)
    first, = passed
    assert (first.period_start_us, first.period_end_us) == (us(2026, 1, 1), us(2026, 1, 1, 0, 15))
    assert first.sender_total == pytest.approx(9.0)
    assert first.receiver_total == pytest.approx(8.1)
    assert first.settled_total == first.reconciled_total == pytest.approx(8.55)
    assert (first.unit, first.settled_by, first.coverage, first.in_spec) == ("t", "reconciled", 1.0, 1.0)
    assert first.u95 == pytest.approx(0.0855)
    assert rest[0].coverage == pytest.approx(1 / 15)


def test_settled_on_the_first_that_has_data():
    park = park_of(settle_on=["receiver", "sender"])
    assert statements(park, [(flow(10.0, 9.0, 9.5), True)])[1][0].settled_by == "receiver"
    assert statements(park, [(flow(10.0, None, 9.5), True)])[1][0].settled_by == "sender"
    nothing = statements(park, [(flow(None, None, 9.5), True)])[1][0]
    assert (nothing.settled_by, nothing.settled_total, nothing.u95, nothing.coverage) == (None, None, None, 0.0)


def test_windows_without_a_value_lower_coverage_and_not_the_spec():
    _, (found,) = statements(park_of(), [(flow(1.0, 1.0, 1.0), True), (flow(), True), (flow(1.0, 1.0, 1.0), False)])
    assert found.coverage == pytest.approx(2 / 15)
    assert found.in_spec == 0.5
