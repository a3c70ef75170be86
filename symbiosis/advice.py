"""What is odd about a park but allowed: meters that are missing, keys without effect, sources that nobody collects yet.

One `advise_on_<subject>` function a subject; each yields what it sees and what would help. Those on temperatures,
pressures and sizes are in `symbiosis.advice_states`; faults, which stop every command, are in `park.checks`. The way in
is `advice`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from park.model import Exchange, Meter, Park, Side, Stream
from symbiosis import advice_states
from symbiosis.view import Advice, View, listed, named, of

FLOWS = frozenset(
    {"mass_flow", "volume_flow", "heat_flow", "power", "mass_total", "volume_total", "energy_total", "mass_batch"}
)
VOLUMES, HEATS = frozenset({"volume_flow", "volume_total"}), frozenset({"heat_flow", "power", "energy_total"})
TOTALS = frozenset({"mass_total", "volume_total", "energy_total"})
PERIOD_S = {"15min": 900.0, "1h": 3600.0}  # a window is never longer than a day
ENDS: tuple[Side, Side] = ("sender", "receiver")


def advice(view: View) -> list[Advice]:
    """Return what is odd about a checked park, subject by subject."""
    return [found for advise in ADVISERS for found in advise(view)]


def advise_on_metering_of_exchanges(view: View) -> Iterator[Advice]:
    """Find exchanges whose ends are not both metered."""
    for exchange in view.park.exchanges:
        if not exchange.signed_streams:
            continue
        metered = [side for side in ENDS if is_metered(view, exchange, side)]
        if not metered:
            yield of(
                "exchange", exchange.id, "no end is metered: it is settled on what the balances compute, if they can"
            )
        elif len(metered) == 1:
            yield of(
                "exchange", exchange.id, f"only the {metered[0]}'s end is metered: nobody sees when the two differ"
            )


def advise_on_energy_of_exchanges(view: View) -> Iterator[Advice]:
    """Find exchanges of energy whose enthalpy nobody measures."""
    for exchange in view.park.exchanges:
        for stream in view.streams_of(exchange) if exchange.settles == "energy" else ():
            if stream.carrier == "gas" and not _meters(view, stream, HEATS):
                yield of(
                    "exchange",
                    exchange.id,
                    f"the energy of gas {stream.id!r} follows from no formula here: "
                    "meter it as heat_flow or energy_total, or settle mass or volume",
                )
            if stream.has_enthalpy and not _enthalpy_is_known(view, stream):
                unknown = f"stream {stream.id!r} has no temperature: its energy is unknown unless the balances tell it"
                yield of("exchange", exchange.id, unknown)


def advise_on_limits_that_nobody_measures(view: View) -> Iterator[Advice]:
    """Find quality limits without a meter of the property."""
    for exchange in view.park.exchanges:
        for limit in exchange.agreement.quality:
            if not any(_has_property(view, stream, limit.property) for stream in view.streams_of(exchange)):
                yield of("exchange", exchange.id, f"nobody measures {limit.property}: a deviation cannot show")


def advise_on_volume_meters(view: View) -> Iterator[Advice]:
    """Find volume meters whose density is not known."""
    for meter in view.park.meters:
        for stream in _placed(view.park, meter) if meter.quantity in VOLUMES else ():
            if stream.density_kg_m3 is not None:
                continue
            if stream.has_enthalpy and not _has_property(view, stream, "temperature"):
                yield of("meter", meter.id, f"stream {stream.id!r} has no temperature: its density is a guess")
            elif not stream.has_enthalpy:
                yield of(
                    "meter",
                    meter.id,
                    f"stream {stream.id!r} has no density_kg_m3: volume tells no mass, and no balance counts it",
                )


def advise_on_counters(view: View) -> Iterator[Advice]:
    """Find totals of which nothing says where they roll over."""
    for meter in view.park.meters:
        if meter.quantity in TOTALS and meter.counter is None:
            yield of("meter", meter.id, "without counter: {modulus, resolution} its roll-over will look like a reset")


def advise_on_timing(view: View) -> Iterator[Advice]:
    """Find meters that cannot keep their own times, or leave windows without a reading."""
    window_s = view.park.park.window_s
    rare = [m.id for m in view.park.meters if m.sampling == "periodic" and m.interval_s > window_s]
    if rare:
        yield Advice(
            listed("meter", rare),
            f"interval_s is longer than window_s {window_s:g}: its readings are held over several windows",
        )
    for exchange in view.park.exchanges:
        shortest = PERIOD_S.get(exchange.agreement.period, math.inf)
        if window_s > shortest:
            yield of(
                "exchange",
                exchange.id,
                f"window_s {window_s:g} is longer than its period {exchange.agreement.period}: periods "
                "share windows",
            )
    for meter in view.park.meters:
        if meter.stale_after_s is not None and meter.sampling == "periodic" and meter.stale_after_s < meter.interval_s:
            yield of(
                "meter",
                meter.id,
                f"stale_after_s {meter.stale_after_s:g} is below interval_s {meter.interval_s:g}: "
                "it counts as silent between two readings",
            )


def advise_on_nodes(view: View) -> Iterator[Advice]:
    """Find nodes whose balances cannot hold, or hold nothing."""
    for node in view.park.nodes:
        around = view.streams_at(node.id)
        if not around:
            yield of("node", node.id, "no stream leads to it or from it")
            continue
        if "mass" in node.conserves and node.id not in view.park.tanks:
            mass = {stream.from_node == node.id for stream in around if stream.carries_mass}
            if len(mass) == 1:
                way = "leaves" if mass == {True} else "enters"
                yield of(
                    "node",
                    node.id,
                    f"conserves mass, but mass only {way}: its streams must stand still. Add what "
                    "is missing, or a meter of quantity inventory, or take mass away",
                )
        if "energy" in node.conserves:
            unknown = [s.id for s in around if s.carries_mass and not s.has_enthalpy]
            if unknown:
                yield of(
                    "node",
                    node.id,
                    f"conserves energy, but that of {named('stream', unknown)} does not count: only "
                    "water, steam, heat and electricity have one",
                )
        for component in node.components:
            if not any(_has_property(view, stream, component) for stream in around if stream.carries_mass):
                yield of(
                    "node",
                    node.id,
                    f"conserves component.{component}, but nobody measures quality.{component} around it",
                )


def advise_on_keys_without_effect(view: View) -> Iterator[Advice]:
    """Find keys that nothing uses."""
    for node in view.park.nodes:
        for key, value, quantity in (
            ("closure_u95_kg_s", node.closure_u95_kg_s, "mass"),
            ("closure_u95_kw", node.closure_u95_kw, "energy"),
        ):
            if value and quantity not in node.conserves:
                yield of("node", node.id, f"{key} has no effect: it does not conserve {quantity}")
    for stream in view.park.streams:
        if stream.heat_loss_kw is not None and stream.carries_mass and not stream.has_enthalpy:
            yield of("stream", stream.id, f"heat_loss_kw has no effect: carrier {stream.carrier} has no heat flow")


def advise_on_nominal_flows(view: View) -> Iterator[Advice]:
    """Find streams of which nothing says how large they are."""
    bare = [stream.id for stream in view.park.streams if stream.nominal_si is None]
    if bare:
        yield Advice(
            listed("stream", bare),
            "without a nominal flow (in mass, or with a density) the std to expect is "
            "taken at what the balances make of the others'",
        )


ADVISERS: tuple[Callable[[View], Iterator[Advice]], ...] = tuple(
    function
    for module in (globals(), vars(advice_states))
    for name, function in module.items()
    if name.startswith("advise_on_")
)


def is_metered(view: View, exchange: Exchange, side: Side) -> bool:
    """Return whether one party's meters tell what is exchanged: every stream, or the set as a whole."""
    park = view.park
    ends = park.exchange_ends(exchange, side)
    for meter in view.meters_on(next(iter(ends))):
        at = park.meter_ends(meter)
        if meter.quantity in FLOWS and dict(meter.signed_streams) == dict(exchange.signed_streams) and at == ends:
            return True
    return all(
        any(meter.quantity in FLOWS and park.meter_ends(meter) == {stream: end} for meter in view.meters_on(stream))
        for stream, end in ends.items()
    )


def protocol(meter: Meter) -> str:
    """Return the protocol that a meter is read by."""
    return next(name for name in ("opcua", "mqtt", "sparkplug") if getattr(meter.source, name) is not None)


def _placed(park: Park, meter: Meter) -> list[Stream]:
    return [park.stream[stream] for stream in meter.signed_streams]


def _meters(view: View, stream: Stream, quantities: frozenset[str]) -> list[Meter]:
    return [meter for meter in view.meters_on(stream.id) if meter.quantity in quantities]


def _has_property(view: View, stream: Stream, name: str) -> bool:
    return bool(view.meters_of(stream.id, name))


def _enthalpy_is_known(view: View, stream: Stream) -> bool:
    """Return whether meters of the stream itself tell its enthalpy: by temperature, by the pressure at saturation."""
    by = ("temperature", "pressure") if stream.phase == "saturated" else ("temperature",)
    return any(_has_property(view, stream, name) for name in by) or bool(_meters(view, stream, HEATS))
