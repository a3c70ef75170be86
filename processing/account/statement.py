"""What was exchanged in each settlement period: totals of both ends and reconciled, with their uncertainty.

Here: the sums over the windows of a period (in the park's local time, days with their changes of clock), and by which
end an agreement settles. Not here: prices, delivery windows, revisions that follow late data, signatures. The main
path enters at `Statements.add`, window by window in order; `Statements.finish` gives what is left.

A total is the sum of flow x time over the windows that have a value; coverage is their time over the period's. Errors
of a window are for the most part the meters' systematic ones, which stay; so the u95 of a total is the sum of those
of its windows (as if wholly correlated), which is never too small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from park.model import Exchange, Park
from park.units import from_si
from processing.exchanges import ExchangeFlow

PERIOD_MINUTES = {"15min": 15, "1h": 60}
TOTALS = ("sender", "receiver", "reconciled")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Statement:
    """One exchange in one period, in the exchange's unit; None where an end has no data.

    Attributes
    ----------
    period_start_us, period_end_us
        [us since 1970 UTC].
    u95
        Of the total that was settled on.
    coverage
        Share of the period in which the total settled on has data.
    in_spec
        Share of the windows with data in which the exchange was as agreed.
    settled_total, settled_by
        The first of the agreement's `settle_on` that has data, and which it is.
    """

    exchange: str
    period_start_us: int
    period_end_us: int
    unit: str
    sender_total: float | None
    receiver_total: float | None
    reconciled_total: float | None
    u95: float | None
    coverage: float
    in_spec: float | None
    settled_total: float | None
    settled_by: str | None
    revision: int = 0


@dataclass
class _Sum:
    """A total under way: amount, its u95 and the time it covers; SI."""

    amount: float = 0.0
    u95: float = 0.0
    seconds: float = 0.0

    def add(self, flow: float | None, u95: float | None, seconds: float) -> None:
        """Add a window."""
        if flow is not None:
            self.amount += flow * seconds
            self.u95 += (u95 or 0.0) * seconds
            self.seconds += seconds


@dataclass
class _Period:
    """The sums of one exchange in the period under way."""

    start_us: int
    end_us: int
    sums: dict[str, _Sum] = field(default_factory=lambda: {name: _Sum() for name in TOTALS})
    windows: int = 0
    agreed: int = 0


class Statements:
    """The statements of a park's exchanges over successive windows.

    Parameters
    ----------
    park
        The park.
    """

    def __init__(self, park: Park) -> None:
        self._exchanges = {x.id: x for x in park.exchanges}
        self._zone = ZoneInfo(park.park.timezone)
        self._periods: dict[str, _Period] = {}

    def add(
        self, start_us: int, end_us: int, flows: Iterable[tuple[ExchangeFlow, bool | None]]
    ) -> list[Statement]:
        """Add a window, and return the statements of the periods that it is beyond."""
        done = []
        for flow, agreed in flows:
            exchange = self._exchanges[flow.exchange]
            period = self._periods.get(flow.exchange)
            if period is None or start_us >= period.end_us:
                if period is not None:
                    done.append(_statement(exchange, period))
                bounds = period_of(start_us, exchange.agreement.period, self._zone)
                period = self._periods[flow.exchange] = _Period(*bounds)
            _add(period, flow, agreed, (end_us - start_us) / 1e6)
        return done

    def finish(self) -> Iterator[Statement]:
        """Yield the statements of the periods under way, as far as they have come."""
        for name, period in self._periods.items():
            yield _statement(self._exchanges[name], period)
        self._periods.clear()


def period_of(at_us: int, period: str, zone: tzinfo) -> tuple[int, int]:
    """Return start and end of the settlement period that a time falls in [us since 1970 UTC].

    Quarters and hours are those of UTC, which begin with the local ones in every time zone in use; days and months
    are local, so that a day has 23 or 25 hours where the clock changes.
    """
    if period in PERIOD_MINUTES:
        length = PERIOD_MINUTES[period] * 60 * 10**6
        return at_us // length * length, (at_us // length + 1) * length
    local = (EPOCH + timedelta(microseconds=at_us)).astimezone(zone)
    start = datetime(local.year, local.month, 1 if period == "1month" else local.day, tzinfo=zone)
    end = _next_month(start) if period == "1month" else _next_day(start)
    return _us(start), _us(end)


def _next_day(start: datetime) -> datetime:
    noon = start.replace(hour=12) + timedelta(days=1)
    return noon.replace(hour=0)


def _next_month(start: datetime) -> datetime:
    return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)


def _us(moment: datetime) -> int:
    return (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)


def _add(period: _Period, flow: ExchangeFlow, agreed: bool | None, seconds: float) -> None:
    period.sums["sender"].add(flow.sender, flow.sender_u95, seconds)
    period.sums["receiver"].add(flow.receiver, flow.receiver_u95, seconds)
    period.sums["reconciled"].add(flow.reconciled, flow.reconciled_u95, seconds)
    if agreed is not None and flow.is_known:
        period.windows += 1
        period.agreed += agreed


def _statement(exchange: Exchange, period: _Period) -> Statement:
    totals = {name: from_si(found.amount, exchange.unit) if found.seconds else None
              for name, found in period.sums.items()}
    by = next((name for name in exchange.agreement.settle_on if totals[name] is not None), None)
    chosen = period.sums[by] if by is not None else _Sum()
    return Statement(
        exchange.id, period.start_us, period.end_us, exchange.unit, totals["sender"], totals["receiver"],
        totals["reconciled"], from_si(chosen.u95, exchange.unit) if by is not None else None,
        chosen.seconds * 1e6 / (period.end_us - period.start_us),
        period.agreed / period.windows if period.windows else None,
        totals[by] if by is not None else None, by)
