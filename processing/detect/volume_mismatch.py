"""Exchanges whose two ends differ: what the sender's meters say arrives, and what the receiver's say, do not agree.

Declared losses are taken off and delays allowed for (`ExchangeFlow.difference`). A difference counts when it is
beyond the exchange's tolerance *and* beyond what both parties' meters explain: k std of the difference, with k such
that honest meters raise an alarm on any exchange of the park in `FALSE_ALARMS` of all parks. Systematic errors stay,
so that is a rate for ever, not a rate a window. It must hold for `PERSISTENCE` windows and a minute; it ends when the
difference has been below `BACK` of the limit for as long.

Here: that verdict. The main path enters at `Mismatches.step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import ndtri

from park.model import Exchange, Park
from park.units import dimension, from_si, to_si
from processing.detect.events import Alarm, Change, Closed, Opened
from processing.exchanges import ExchangeFlow

KIND = "volume_mismatch"

FALSE_ALARMS = 1e-3
"""Share of parks with honest meters in which any exchange is called mismatched."""

PERSISTENCE, LEAST_S = 3, 60.0
"""Windows, and seconds, that a difference must last."""

BACK = 0.8
"""Share of the limit below which a mismatch is over: hysteresis against flutter at the limit."""

LEAST_FLOW = 0.05
"""The tolerance counts on at least this share of the agreed flow, so that a trickle is not held to percents."""


READABLE = {"kg/s": "t/h", "m3/s": "m3/h", "kW": "kW"}
"""What a difference is told in where the agreement names no unit of flow."""


class Mismatches:
    """All exchanges of a park; one object a run.

    Parameters
    ----------
    park
        The park.
    """

    def __init__(self, park: Park) -> None:
        self._exchanges: Sequence[Exchange] = park.exchanges
        self._alarms = [Alarm() for _ in park.exchanges]
        self._delay_us = round(max(PERSISTENCE * park.park.window_s, LEAST_S) * 1e6)
        self.std_allowed = float(-ndtri(0.5 * FALSE_ALARMS / max(len(park.exchanges), 1)))

    @property
    def open_exchanges(self) -> frozenset[str]:
        """Exchanges with an open mismatch."""
        pairs = zip(self._exchanges, self._alarms, strict=True)
        return frozenset(x.id for x, alarm in pairs if alarm.is_open)

    def step(self, start_us: int, end_us: int, flows: Sequence[ExchangeFlow]) -> list[Change]:
        """Judge a window by what each exchange amounts to, in the order of the park."""
        changes: list[Change] = []
        for k, (exchange, flow) in enumerate(zip(self._exchanges, flows, strict=True)):
            before = self._alarms[k]
            limit = self._limit(exchange, flow)
            alarm = before.updated(
                self._differs(flow, limit, before.is_open), start_us, end_us, (self._delay_us, self._delay_us))
            self._alarms[k] = alarm
            if alarm.is_open != before.is_open:
                at = alarm.changed_at(before, start_us)
                changes.append(self._opened(exchange, flow, limit, at) if alarm.is_open else Closed(
                    KIND, exchange.id, at))
        return changes

    def _limit(self, exchange: Exchange, flow: ExchangeFlow) -> float:
        """Return what the ends may differ by [SI]."""
        if flow.difference_std is None:
            return np.nan
        sizes = [abs(v) for v in (flow.reconciled, flow.receiver, flow.sender) if v is not None]
        agreed = exchange.agreement.nominal
        comparable = agreed is not None and dimension(agreed.unit) == dimension(flow.unit)
        least = LEAST_FLOW * abs(to_si(agreed.value, agreed.unit)) if agreed is not None and comparable else 0.0
        tolerance = 0.01 * exchange.agreement.tolerance_percent * max(sizes[0] if sizes else 0.0, least)
        return max(tolerance, self.std_allowed * flow.difference_std)

    def _differs(self, flow: ExchangeFlow, limit: float, was_open: bool) -> bool | None:
        if flow.difference is None or np.isnan(limit):
            return None
        return abs(flow.difference) > limit * (BACK if was_open else 1.0)

    def _opened(self, exchange: Exchange, flow: ExchangeFlow, limit: float, at: int) -> Opened:
        assert flow.difference is not None
        agreed = exchange.agreement.nominal
        unit = READABLE[flow.unit]
        if agreed is not None and dimension(agreed.unit) == dimension(flow.unit):
            unit = agreed.unit
        difference, bound = from_si(flow.difference, unit), from_si(limit, unit)
        name = f"{exchange.name} ({exchange.id})" if exchange.name else exchange.id
        more = "more" if flow.difference > 0 else "less"
        return Opened(
            KIND, exchange.id, at, "high",
            f"{name}: the sender's meters say {abs(difference):.4g} {unit} {more} than the receiver's; "
            f"meters and tolerance explain {bound:.3g} {unit}",
            difference, bound,
            evidence={"unit": unit, "sender": flow.sender, "receiver": flow.receiver, "reconciled": flow.reconciled,
                      "si_unit": flow.unit, "difference_std": flow.difference_std,
                      "tolerance_percent": exchange.agreement.tolerance_percent})

    def as_json(self) -> dict[str, object]:
        """Return the state for the store."""
        return {x.id: alarm.as_json() for x, alarm in zip(self._exchanges, self._alarms, strict=True)}

    def restore(self, stored: Mapping[str, object]) -> None:
        """Take up the state that `as_json` wrote; exchanges that the park no longer has are forgotten."""
        for k, exchange in enumerate(self._exchanges):
            kept = stored.get(exchange.id)
            if isinstance(kept, list):
                self._alarms[k] = Alarm.from_json(kept)

