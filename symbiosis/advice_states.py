"""What is odd about temperatures, pressures and sizes that a park declares: states that cannot be, and what cannot fit.

park.yaml declares no states. What it says in passing (limits of agreements, spans of meters, nominal flows, losses) can
still contradict physics or itself. Warned of is what cannot be anywhere in the declared ranges: wide spans are quiet.
Not here: other advice (`symbiosis.advice`, where the main path enters).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from park.model import Meter, Park, Stream
from park.properties import ZERO_CELSIUS, enthalpy, saturation_temperature
from park.units import si_unit, to_si
from park.usual import HEAT_METERS
from symbiosis.view import Advice, View, named, of

VAGUE = 0.5  # of the nominal flow: a meter whose u95 is more tells little
NEAR_LINE_K = 0.5  # [K] nearer to boiling than any plant thermometer tells is no contradiction
WHOLE_FLOWS = {"mass_flow": True, "heat_flow": False, "power": False}  # quantity -> of streams that carry mass


@dataclass(frozen=True)
class _Range:
    """What something says of a property, in SI; infinite where it says nothing."""

    says: str
    low: float
    high: float


def advise_on_states_that_cannot_be(view: View) -> Iterator[Advice]:
    """Find steam that would be water, water that would boil, and saturated steam off its line."""
    for stream in view.park.streams:
        if not stream.has_enthalpy:
            continue
        pressures = list(_ranges(view, stream, "pressure"))
        low = min((p.low for p in pressures), default=0.0)
        high = max((p.high for p in pressures), default=float("inf"))
        for temperature in _ranges(view, stream, "temperature"):
            wrong = _contradiction(stream, temperature, _boiling(low), _boiling(high))
            if wrong:
                at = f", {_bar(low, high)}" if pressures else ""
                yield of("stream", stream.id, f"{wrong} ({temperature.says}{at})")


def _contradiction(stream: Stream, temperature: _Range, boils_from: float, boils_to: float) -> str | None:
    """Return what is wrong with a stream's range of temperatures, given the range over which it boils [K]."""
    too_cold = temperature.high < boils_from - NEAR_LINE_K
    too_hot = temperature.low > boils_to + NEAR_LINE_K
    liquid = stream.carrier == "water" or stream.phase == "liquid"
    if liquid and temperature.high < ZERO_CELSIUS:
        return "water would be ice at its temperature"
    if liquid and too_hot:
        return "is liquid, but would boil at its temperature and pressure"
    if stream.phase == "saturated" and (too_cold or too_hot):
        return "is saturated, but its temperature and pressure lie off the saturation line"
    if not liquid and stream.phase != "saturated" and too_cold:
        return "is vapour, but would be water at its temperature and pressure"
    return None


def advise_on_heat_losses(view: View) -> Iterator[Advice]:
    """Find streams that lose more heat than they carry at their nominal flow, or arrive in another phase."""
    from processing.guesses import Guesses

    guesses = Guesses(view.park)
    for stream in view.park.streams:
        flow, loss = stream.nominal_si, stream.heat_loss_kw
        if not flow or loss is None or (stream.carries_mass and not stream.has_enthalpy):
            continue
        carries = abs(flow) * (guesses.enthalpy(stream) if stream.has_enthalpy else 1.0)
        if loss.value >= carries:
            yield of(
                "stream",
                stream.id,
                f"heat_loss_kw {loss.value:g} is as much as it carries at its nominal flow, {carries:.4g} kW",
            )
        elif _is_dry(stream) and all(guesses.knows(stream, name) for name in ("temperature", "pressure")):
            pressure = guesses.property(stream, "pressure")
            there = enthalpy(pressure, guesses.property(stream, "temperature"), "vapour")
            dry = enthalpy(pressure, _boiling(pressure), "vapour")
            if there - loss.value / abs(flow) < dry:
                yield of(
                    "stream",
                    stream.id,
                    f"heat_loss_kw {loss.value:g} takes {loss.value / abs(flow):.3g} kJ/kg at its nominal flow: it "
                    "would arrive wet. Say phase: saturated with a dryness, or mend the loss",
                )


def advise_on_temperatures_of_heat_meters(view: View) -> Iterator[Advice]:
    """Find heat meters between a supply and a return of which nothing says how warm they are."""
    from processing.guesses import Guesses

    guesses = Guesses(view.park)
    for meter in view.park.meters:
        if meter.quantity not in HEAT_METERS or min(meter.signed_streams.values(), default=0.0) >= 0.0:
            continue
        streams = [view.park.stream[stream] for stream in meter.signed_streams]
        bare = [s for s in streams if s.has_enthalpy and not guesses.knows(s, "temperature")]
        if bare:
            taken = [f"{guesses.property(s, 'temperature') - ZERO_CELSIUS:.0f}" for s in bare]
            yield of(
                "meter",
                meter.id,
                f"nothing says how warm {named('stream', [s.id for s in bare])} may be: taken for "
                f"{' and '.join(taken)} degC, and what it should read with them. Give a thermometer there a span, or "
                "the agreement a limit of temperature",
            )


def advise_on_fractions(view: View) -> Iterator[Advice]:
    """Find components of which nothing says how much of them streams carry."""
    from processing.guesses import Guesses

    guesses = Guesses(view.park)
    for node in view.park.nodes:
        for name in node.components:
            metered = [s for s in view.streams_at(node.id) if s.carries_mass and view.meters_of(s.id, name)]
            bare = [stream.id for stream in metered if not guesses.knows(stream, name)]
            if bare:
                yield of(
                    "node",
                    node.id,
                    f"nothing says how much {name} {named('stream', bare)} may carry: it is taken for alike, and the "
                    f"std to expect with it. Give the meters of quality.{name} a span",
                )


def advise_on_spans(view: View) -> Iterator[Advice]:
    """Find meters that cannot read what they should: a nominal flow, or the limit of an agreement."""
    for meter in view.park.meters:
        nominal = _nominal_of(view.park, meter)
        if nominal is not None and meter.span is not None:
            low, high = (to_si(bound, meter.unit) for bound in meter.span)
            if not low <= nominal <= high:
                yield of(
                    "meter",
                    meter.id,
                    f"its span {meter.span[0]:g} to {meter.span[1]:g} {meter.unit} does not hold the nominal flow of "
                    f"its stream, {nominal:.4g} {si_unit(meter.unit)}",
                )
    for exchange in view.park.exchanges:
        for limit in exchange.agreement.quality:
            meters = [m for s in exchange.signed_streams for m in view.meters_of(s, limit.property) if m.span]
            for bound in (limit.low, limit.high):
                if bound is None or not meters:
                    continue
                if not any(_reads(meter, to_si(bound, limit.unit)) for meter in meters):
                    yield of(
                        "exchange",
                        exchange.id,
                        f"{limit.property} {bound:g} {limit.unit} is outside of what meter {meters[0].id!r} can read: "
                        "it never shows whether the limit is kept",
                    )


def advise_on_vague_meters(view: View) -> Iterator[Advice]:
    """Find meters whose u95 at the nominal flow is a large part of it."""
    for meter in view.park.meters:
        nominal = _nominal_of(view.park, meter)
        if nominal and meter.u95_si(nominal) > VAGUE * abs(nominal):
            percent = 100.0 * meter.u95_si(nominal) / abs(nominal)
            yield of("meter", meter.id, f"its u95 is {percent:.3g} % of the nominal flow: it tells little there")


def _ranges(view: View, stream: Stream, name: str) -> Iterator[_Range]:
    """Yield what agreements and spans say of a property of a stream."""
    infinite = float("inf")
    for exchange in view.park.exchanges:
        if exchange.stream == stream.id:
            for limit in exchange.agreement.quality:
                if limit.property == name:
                    low = -infinite if limit.low is None else to_si(limit.low, limit.unit)
                    high = infinite if limit.high is None else to_si(limit.high, limit.unit)
                    yield _Range(f"limits of exchange {exchange.id!r}", low, high)
    for meter in view.meters_of(stream.id, name):
        if meter.span is not None:
            low, high = (to_si(bound, meter.unit) for bound in meter.span)
            yield _Range(f"span of meter {meter.id!r}", low, high)


def _nominal_of(park: Park, meter: Meter) -> float | None:
    """Return the nominal flow of the stream that a meter reads whole [kg/s, kW]; None where it reads something else."""
    stream = park.stream[meter.stream] if meter.stream is not None else None
    if stream is None or WHOLE_FLOWS.get(meter.quantity) != stream.carries_mass:
        return None
    return stream.nominal_si


def _reads(meter: Meter, value: float) -> bool:
    """Whether a value [SI] lies in a meter's span."""
    return meter.span is None or to_si(meter.span[0], meter.unit) <= value <= to_si(meter.span[1], meter.unit)


def _is_dry(stream: Stream) -> bool:
    return stream.carrier == "steam" and stream.phase in (None, "vapour")


def _boiling(pressure: float) -> float:
    """Return the temperature [K] at which water boils; beyond what a pressure allows, one that nothing reaches."""
    found = float(saturation_temperature(pressure)) if 0.0 < pressure < float("inf") else float("nan")
    if found == found:
        return found
    return 0.0 if pressure < 1e5 else float("inf")  # below the triple point, or above the critical one


def _bar(low: float, high: float) -> str:
    if low <= 0.0:
        return f"at most {high / 1e5:.4g} bar"
    return f"at least {low / 1e5:.4g} bar" if high == float("inf") else f"{low / 1e5:.4g} to {high / 1e5:.4g} bar"
