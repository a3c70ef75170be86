"""Exchanges outside their agreed quality: a property below its low or above its high limit.

The value is the window mean of the meters of that property on the exchange's first stream: those at the end where
the exchange is settled, and only where that end has no usable one, those at the other end. The limits are taken as
agreed, without an allowance for the meters' uncertainty; `delay_on_s`, `delay_off_s` and the deadband are the
agreement's own guard against flutter, and the only one.

False alarms: as many as the agreement's limits, delays and deadband allow; a property that stays inside raises none.

Here: that verdict. The main path enters at `QualityLimits.step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from park.model import Exchange, Park, QualityLimit, Side, other_end
from park.units import from_si, to_si, to_si_difference
from processing.detect.events import Alarm, Change, Closed, Opened
from processing.meters import Bools, Floats, Ints

KIND = "quality_deviation"


@dataclass(frozen=True, eq=False)
class _Watch:
    """One limit of one exchange: its meters at the settled end, then at the other; limits in SI."""

    exchange: Exchange
    limit: QualityLimit
    meters: tuple[Ints, Ints]
    low: float
    high: float
    deadband: float

    def value(self, means: Floats, usable: Bools) -> tuple[float, list[int]]:
        """Return the property's value and the meters that it comes from; NaN where none is usable."""
        for meters in self.meters:
            good = meters[usable[meters] & ~np.isnan(means[meters])]
            if good.size:
                return float(means[good].mean()), good.tolist()
        return np.nan, []

    def is_outside(self, value: float, was_open: bool) -> bool:
        """Whether a value deviates; once it does, it must come back by the deadband."""
        back = self.deadband if was_open else 0.0
        return value < self.low + back or value > self.high - back


class QualityLimits:
    """All agreed limits of a park; one object a run.

    Parameters
    ----------
    park
        The park.
    """

    def __init__(self, park: Park) -> None:
        self._ids = tuple(m.id for m in park.meters)
        self._watches = tuple(
            _watch(park, exchange, limit) for exchange in park.exchanges for limit in exchange.agreement.quality
            if exchange.signed_streams)
        self._alarms = [Alarm() for _ in self._watches]

    @property
    def open_exchanges(self) -> frozenset[str]:
        """Exchanges with an open deviation."""
        return frozenset(w.exchange.id for w, alarm in zip(self._watches, self._alarms, strict=True) if alarm.is_open)

    def step(self, start_us: int, end_us: int, means: Floats, usable: Bools) -> list[Change]:
        """Judge a window.

        Parameters
        ----------
        start_us, end_us
            The window [us].
        means
            Each meter's window value, shape (n_meters,) [SI]; NaN where unmeasured.
        usable
            Meters that are believed, bool, shape (n_meters,).
        """
        changes: list[Change] = []
        for k, watch in enumerate(self._watches):
            value, meters = watch.value(means, usable)
            before = self._alarms[k]
            outside = None if np.isnan(value) else watch.is_outside(value, before.is_open)
            delays = (round(watch.limit.delay_on_s * 1e6), round(watch.limit.delay_off_s * 1e6))
            alarm = self._alarms[k] = before.updated(outside, start_us, end_us, delays)
            if alarm.is_open != before.is_open:
                at = alarm.changed_at(before, start_us)
                changes.append(self._opened(watch, value, meters, at) if alarm.is_open else Closed(
                    KIND, watch.exchange.id, at, watch.limit.property))
        return changes

    def _opened(self, watch: _Watch, value: float, meters: list[int], at: int) -> Opened:
        limit, exchange = watch.limit, watch.exchange
        shown = from_si(value, limit.unit)
        below = limit.low is not None and value < watch.low + watch.deadband
        bound = limit.low if below else limit.high
        name = f"{exchange.name} ({exchange.id})" if exchange.name else exchange.id
        side = "below" if below else "above"
        return Opened(
            KIND, exchange.id, at, "high",
            f"{name}: {limit.property} {shown:.5g} {limit.unit} is {side} the agreed {bound:g} {limit.unit}",
            shown, bound, limit.property,
            {"property": limit.property, "unit": limit.unit, "low": limit.low, "high": limit.high,
             "meters": [self._ids[m] for m in meters]})

    def as_json(self) -> dict[str, object]:
        """Return the state for the store."""
        return {_key(w): alarm.as_json() for w, alarm in zip(self._watches, self._alarms, strict=True)}

    def restore(self, stored: Mapping[str, object]) -> None:
        """Take up the state that `as_json` wrote; limits that are no longer agreed are forgotten."""
        for k, watch in enumerate(self._watches):
            kept = stored.get(_key(watch))
            if isinstance(kept, list):
                self._alarms[k] = Alarm.from_json(kept)


def _key(watch: _Watch) -> str:
    return f"{watch.exchange.id}\x1f{watch.limit.property}"


def _watch(park: Park, exchange: Exchange, limit: QualityLimit) -> _Watch:
    settled = exchange.agreement.settled_at
    first = next(iter(exchange.signed_streams))
    meters = tuple(_meters(park, first, park.exchange_ends(exchange, side)[first], limit.property)
                   for side in (settled, other_end(settled)))
    return _Watch(
        exchange, limit, (meters[0], meters[1]),
        -np.inf if limit.low is None else to_si(limit.low, limit.unit),
        np.inf if limit.high is None else to_si(limit.high, limit.unit),
        to_si_difference(limit.deadband, limit.unit))


def _meters(park: Park, stream: str, end: Side, name: str) -> Ints:
    """Return the meters of a property at one end of a stream."""
    found = [m for m, meter in enumerate(park.meters)
             if meter.property_name == name and park.meter_ends(meter) == {stream: end}]
    return np.array(found, dtype=np.int64)
