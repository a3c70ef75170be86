"""What each exchange amounts to in one window: by the sender's meters, by the receiver's, and reconciled.

Here: the flow of an exchange in SI (kg/s, m3/s or kW by what it settles), each end by its own party's meters, and
what the two ends differ by once declared losses and delays are taken off. Not here: whether a difference matters
(detect/volume_mismatch.py) and amounts over a settlement period. The main path enters at `ExchangeTable.flows`.

A stream of an exchange may run against it (a return): the sender's end of the exchange is then the receiver's end of
that stream (`Park.exchange_ends`). Where a party has a flow meter but no thermometer, its heat is taken at the
reconciled enthalpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from park.model import Exchange, Park, Side
from park.properties import reference_enthalpy
from park.units import from_si
from processing.combining import combine
from processing.equations import HEAT_QUANTITIES, NONE, End, Equations
from processing.estimate import Estimate, Estimator
from processing.meters import Floats, Variances
from processing.observation import Observation
from processing.plan import Plan

UNITS = {"mass": "kg/s", "volume": "m3/s", "energy": "kW"}
TOTALS = {"mass_flow": "mass", "mass_total": "mass", "volume_flow": "volume", "volume_total": "volume"}
HOUR_S = 3600.0
U95 = 1.96
"""Half-width of the 95 % interval in std (VDI 2048)."""

Amount = tuple[float, float]
"""A value and its variance; NaN where there is none."""

NOTHING: Amount = (np.nan, np.nan)


@dataclass(frozen=True)
class ExchangeFlow:
    """One exchange in one window; None where there is no value.

    Attributes
    ----------
    difference, difference_std
        What the sender's meters say arrives, less what the receiver's say; on the receiver's clock, losses taken off.
    """

    exchange: str
    unit: str
    sender: float | None
    sender_u95: float | None
    receiver: float | None
    receiver_u95: float | None
    reconciled: float | None
    reconciled_u95: float | None
    difference: float | None
    difference_std: float | None

    @property
    def is_known(self) -> bool:
        """Whether anybody says anything of it."""
        return any(value is not None for value in (self.sender, self.receiver, self.reconciled))


@dataclass(frozen=True)
class _Term:
    """A stream of an exchange: its sign, and which of its ends lies at the sender of the exchange."""

    stream: int
    sign: float
    at_sender: End

    def end(self, party: Side) -> End:
        """Return the end that lies at a party of the exchange."""
        if party == "sender":
            return self.at_sender
        return End.RECEIVER if self.at_sender is End.SENDER else End.SENDER


class ExchangeTable:
    """The exchanges of a park, made ready.

    Parameters
    ----------
    estimator
        Of the park.
    """

    def __init__(self, estimator: Estimator) -> None:
        self.park, self.plan, self.equations = estimator.park, estimator.plan, estimator.equations
        meters = {meter.id: m for m, meter in enumerate(self.park.meters)}
        self._exchanges = [
            _Allocated(self.park, x, meters[x.allocation.total]) if not x.signed_streams and x.allocation is not None
            else _Settled(self.park, self.plan, self.equations, x)
            for x in self.park.exchanges
        ]

    def flows(self, estimate: Estimate, seen: Observation) -> tuple[ExchangeFlow, ...]:
        """Return what every exchange amounts to.

        Parameters
        ----------
        estimate
            The window's state.
        seen
            What its meters say, suspects included.
        """
        return tuple(exchange.flow(estimate, seen) for exchange in self._exchanges)


class _Allocated:
    """A share of what one meter reads."""

    def __init__(self, park: Park, exchange: Exchange, meter: int) -> None:
        allocation = exchange.allocation
        assert allocation is not None
        self._id, self._meter = exchange.id, meter
        self._share = allocation.by.get(exchange.id, 0.0) / sum(allocation.by.values())
        self._unit = UNITS[exchange.settles]

    def flow(self, estimate: Estimate, seen: Observation) -> ExchangeFlow:
        """Return the share of the meter's reading, and of what it should have read."""
        value, variance, slope = (float(a[self._meter]) for a in (
            estimate.means.value, seen.slot_variance, seen.slope))
        u95 = U95 * self._share * np.sqrt(variance) / abs(slope)
        sides = (_none(self._share * value), _none(u95))
        return ExchangeFlow(self._id, self._unit, *sides, *sides, *sides, None, None)


class _Settled:
    """An exchange over one stream or a signed set."""

    def __init__(self, park: Park, plan: Plan, equations: Equations, exchange: Exchange) -> None:
        self._plan, self._equations, self._exchange = plan, equations, exchange
        ends = park.exchange_ends(exchange, "sender")
        position = {stream.id: s for s, stream in enumerate(park.streams)}
        self._terms = tuple(
            _Term(position[name], sign, End.SENDER if ends[name] == "sender" else End.RECEIVER)
            for name, sign in exchange.signed_streams.items())
        self._streams = park.streams
        self._totals: dict[Side, list[int]] = {
            side: [m for m in equations.sums if self._is_total(park, m, side)] for side in ("sender", "receiver")}
        reference = exchange.agreement.energy_reference
        self._offset = 0.0
        if reference is not None and reference.stream is None:
            self._offset = plan.reference - reference_enthalpy(reference.temperature_degC)
        self._reference_stream = position[reference.stream] if reference is not None and reference.stream else NONE

    def _is_total(self, park: Park, m: int, side: Side) -> bool:
        """Whether a meter reads the whole exchange at a party's end."""
        meter = park.meters[m]
        settles = "energy" if meter.quantity in HEAT_QUANTITIES else TOTALS.get(meter.quantity)
        same = dict(meter.signed_streams) == dict(self._exchange.signed_streams)
        return same and settles == self._exchange.settles and park.meter_ends(meter) == park.exchange_ends(
            self._exchange, side)

    def flow(self, estimate: Estimate, seen: Observation) -> ExchangeFlow:
        """Return both ends as measured, and the exchange as reconciled where it is settled."""
        if estimate.absent is not None and all(estimate.absent[term.stream] for term in self._terms):
            return ExchangeFlow(self._exchange.id, UNITS[self._exchange.settles], *[None] * 8)
        self._above = self._above_reference(estimate)
        ends = [self._party(side, estimate, seen) for side in ("sender", "receiver")]
        reconciled = self._reconciled(estimate, seen)
        difference = self._difference(estimate, seen)
        return ExchangeFlow(
            self._exchange.id, UNITS[self._exchange.settles],
            *_with_u95(ends[0]), *_with_u95(ends[1]), *_with_u95(reconciled),
            _none(difference[0]), _none(float(np.sqrt(difference[1]))))

    def _above_reference(self, estimate: Estimate) -> float:
        """Return what to add to enthalpies so that they count from the agreement's reference [kJ/kg]."""
        if self._reference_stream == NONE:
            return self._offset
        return -float(estimate.values[self._equations.enthalpy[self._reference_stream, End.SENDER]])

    # -- as measured ----------------------------------------------------------------------------------------------

    def _party(self, side: Side, estimate: Estimate, seen: Observation) -> Amount:
        """Return what a party's own meters say."""
        value, variance = 0.0, 0.0
        for term in self._terms:
            part = self._measured(term.stream, term.end(side), estimate, seen)
            value, variance = value + term.sign * part[0], variance + term.sign**2 * part[1]
        totals = [m for m in self._totals[side] if seen.usable[m]]
        if not totals:
            return value, variance
        read = seen.slot_value[totals] / self._per_unit(totals, seen) + self._above * self._net(estimate)
        spread = seen.slot_variance[totals] / self._per_unit(totals, seen) ** 2
        return _mean(np.append(read, value), np.append(spread, variance))

    def _per_unit(self, totals: list[int], seen: Observation) -> Floats:
        """Return what turns a total's variable (kg/s, kW) into what is settled."""
        slope: Floats = seen.slope[totals] if self._exchange.settles == "volume" else np.ones(len(totals))
        return slope

    def _net(self, estimate: Estimate) -> float:
        """Return the net mass flow of a signed set, which its reference matters to [kg/s]."""
        if self._above == 0.0 or self._exchange.settles != "energy":
            return 0.0
        flows = [t.sign * estimate.values[self._equations.flow[t.stream, t.at_sender]] for t in self._terms
                 if self._equations.enthalpy[t.stream, 0] != NONE]
        return float(sum(flows))

    def _measured(self, s: int, end: End, estimate: Estimate, seen: Observation) -> Amount:
        """Return what the meters at one end of a stream say, in what is settled."""
        point = self._plan.flow_point(s, end)
        flow = float(seen.points.value[point]), float(seen.points.variance[point])
        settles = self._exchange.settles
        if settles == "mass" or (settles == "energy" and not self._streams[s].carries_mass):
            return flow
        if settles == "volume":
            rho = self._density(s, end, seen)
            return flow[0] / rho, flow[1] / rho**2
        return _times(flow, self._enthalpy(s, end, estimate, seen))

    def _enthalpy(self, s: int, end: End, estimate: Estimate, seen: Observation) -> Amount:
        """Return the enthalpy at one end above the agreement's reference: measured there, else reconciled."""
        if not self._streams[s].has_enthalpy:
            return NOTHING
        point, variable = self._plan.enthalpy_point(s, end), self._equations.enthalpy[s, end]
        value, variance = seen.points.value[point], seen.points.variance[point]
        if np.isnan(value):
            value, variance = estimate.values[variable], estimate.covariance[variable, variable]
        return float(value) + self._above, float(variance)

    def _density(self, s: int, end: End, seen: Observation) -> float:
        """Return the density that mass is turned into volume with [kg/m3]."""
        declared = self._streams[s].density_kg_m3
        return declared.value if declared is not None else float(seen.density[s * 3 + int(end)])

    # -- reconciled -----------------------------------------------------------------------------------------------

    def _reconciled(self, estimate: Estimate, seen: Observation) -> Amount:
        """Return the exchange where it is settled, with its variance by the gradient."""
        gradient = np.zeros(len(estimate.values))
        total = 0.0
        for term in self._terms:
            end = term.end(self._exchange.agreement.settled_at)
            total += term.sign * self._add(term.stream, end, term.sign, gradient, estimate, seen)
        used = np.flatnonzero(gradient)
        part = gradient[used]
        return total, float(part @ estimate.covariance[np.ix_(used, used)] @ part)

    def _add(
        self, s: int, end: End, sign: float, gradient: Floats, estimate: Estimate, seen: Observation
    ) -> float:
        """Return one stream's part, and add its slopes to the gradient."""
        flow, enthalpy = self._equations.flow[s, end], self._equations.enthalpy[s, end]
        value = float(estimate.values[flow])
        settles = self._exchange.settles
        if settles == "mass" or (settles == "energy" and not self._streams[s].carries_mass):
            gradient[flow] += sign
            return value
        if settles == "volume":
            rho = self._density(s, end, seen)
            gradient[flow] += sign / rho
            return value / rho
        if enthalpy == NONE:
            return np.nan
        h = float(estimate.values[enthalpy]) + self._above
        gradient[flow] += sign * h
        gradient[enthalpy] += sign * value
        if self._reference_stream != NONE:
            gradient[self._equations.enthalpy[self._reference_stream, End.SENDER]] -= sign * value
        return value * h

    # -- the two ends against each other --------------------------------------------------------------------------

    def _difference(self, estimate: Estimate, seen: Observation) -> Amount:
        """Return what the sender's meters say arrives less what the receiver's say."""
        if self._totals["sender"] or self._totals["receiver"]:
            return self._difference_of_totals(estimate, seen)
        value, variance = 0.0, 0.0
        for term in self._terms:
            arriving = self._arriving(term.stream, estimate, seen)
            there = self._measured(term.stream, End.RECEIVER, estimate, seen)
            sign = term.sign if term.at_sender is End.SENDER else -term.sign
            value += sign * (arriving[0] - there[0])
            variance += term.sign**2 * (arriving[1] + there[1])
        return value, variance

    def _difference_of_totals(self, estimate: Estimate, seen: Observation) -> Amount:
        """Return the difference where a party meters the whole: totals less declared losses of heat."""
        sender, receiver = (self._party(side, estimate, seen) for side in ("sender", "receiver"))
        value, variance = sender[0] - receiver[0], sender[1] + receiver[1]
        for loss in self._equations.losses:
            if any(term.stream == loss.stream for term in self._terms) and self._exchange.settles == "energy":
                value -= loss.value
                variance += (loss.u95 / U95) ** 2
        return value, variance

    def _arriving(self, s: int, estimate: Estimate, seen: Observation) -> Amount:
        """Return what the sender's meters say arrives now: as it departed, less declared losses."""
        equations, plan = self._equations, self._plan
        flow = self._departed(plan.flow_point(s, End.SENDER), equations.flow[s], seen)
        losses = {equations.unit[loss.variable]: (loss.value, (loss.u95 / U95) ** 2)
                  for loss in equations.losses if loss.stream == s}
        if "1" in losses:
            share, spread = losses["1"]
            flow = flow[0] * (1.0 - share), flow[1] * (1.0 - share) ** 2 + flow[0] ** 2 * spread
        settles = self._exchange.settles
        if settles == "volume":
            rho = self._density(s, End.RECEIVER, seen)
            return flow[0] / rho, flow[1] / rho**2
        if settles == "mass":
            return flow
        lost = losses.get("kW", (0.0, 0.0))
        heat = flow
        if self._streams[s].carries_mass:
            h = self._departed(plan.enthalpy_point(s, End.SENDER), equations.enthalpy[s], seen)
            departed = equations.enthalpy[s, End.DEPARTED]
            if np.isnan(h[0]):
                h = float(estimate.values[departed]), float(estimate.covariance[departed, departed])
            heat = _times(flow, (h[0] + self._above, h[1]))
        return heat[0] - lost[0], heat[1] + lost[1]

    def _departed(self, sender_point: int, variables: Floats, seen: Observation) -> Amount:
        """Return what the sender's meters said when what arrives now left."""
        delayed = variables[End.DEPARTED] != variables[End.SENDER]
        point = sender_point + int(End.DEPARTED) if delayed else sender_point
        return float(seen.points.value[point]), float(seen.points.variance[point])


def compared(exchange: Exchange, within: ExchangeFlow, without: ExchangeFlow) -> dict[str, object]:
    """Return what an exchange amounts to, and would settle in an hour, with a suspect in the balances and without.

    `with` and `without` are reconciled, in the unit of flow; `settled_` are by the end that the agreement settles on
    first, as an hour at this rate, in the exchange's unit and, where there is a price, in the park's currency.
    """
    told: dict[str, object] = {
        "unit": within.unit, "with": within.reconciled, "with_u95": within.reconciled_u95,
        "without": without.reconciled, "without_u95": without.reconciled_u95, "settled_unit": exchange.unit}
    price = exchange.agreement.price
    for name, flow in (("with", within), ("without", without)):
        by = next((end for end in exchange.agreement.settle_on if getattr(flow, end) is not None), None)
        told[f"settled_by_{name}"] = by
        if by is None:
            told[f"settled_an_hour_{name}"] = told[f"settled_an_hour_{name}_u95"] = None
            continue
        told[f"settled_an_hour_{name}"] = from_si(getattr(flow, by) * HOUR_S, exchange.unit)
        told[f"settled_an_hour_{name}_u95"] = from_si(getattr(flow, f"{by}_u95") * HOUR_S, exchange.unit)
        if price is not None:
            told[f"price_an_hour_{name}"] = price.value * from_si(getattr(flow, by) * HOUR_S, price.per)
    return told


def _times(first: Amount, second: Amount) -> Amount:
    """Return the product of independent amounts."""
    return first[0] * second[0], second[0] ** 2 * first[1] + first[0] ** 2 * second[1]


def _mean(values: Floats, variances: Floats) -> Amount:
    """Return the inverse-variance mean of what there is."""
    found = combine(
        np.zeros(len(values), dtype=np.int64), values, Variances(variances, np.zeros_like(variances)),
        ~np.isnan(values) & ~np.isnan(variances), 1)
    return float(found.value[0]), float(found.systematic[0])


def _none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _with_u95(amount: Amount) -> tuple[float | None, float | None]:
    value, variance = amount
    return _none(value), None if np.isnan(variance) else U95 * float(np.sqrt(max(variance, 0.0)))
