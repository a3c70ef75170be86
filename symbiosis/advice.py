"""What is odd about a park but allowed: meters that are missing, keys without effect, sources that nobody collects yet.

One `advise_on_<subject>` function a subject; each yields what it sees and what would help. Faults, which stop every
command, are in `park.checks`. The way in is `advice`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from park.model import Exchange, Meter, Park, Side, Stream

FLOWS = frozenset(
    {"mass_flow", "volume_flow", "heat_flow", "power", "mass_total", "volume_total", "energy_total", "mass_batch"}
)
VOLUMES, HEATS = frozenset({"volume_flow", "volume_total"}), frozenset({"heat_flow", "power", "energy_total"})
TOTALS = frozenset({"mass_total", "volume_total", "energy_total"})
ENDS: tuple[Side, Side] = ("sender", "receiver")
SHORT_LIST = 8  # as many ids stand in one line


@dataclass(frozen=True)
class Advice:
    """One oddity: of what, and what would help."""

    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}"


def advice(park: Park) -> list[Advice]:
    """Return what is odd about a checked park, subject by subject."""
    return [found for advise in ADVISERS for found in advise(park)]


def advise_on_metering_of_exchanges(park: Park) -> Iterator[Advice]:
    """Find exchanges whose ends are not both metered."""
    for exchange in park.exchanges:
        if not exchange.signed_streams:
            continue
        metered = [side for side in ENDS if is_metered(park, exchange, side)]
        if not metered:
            yield _of(
                "exchange", exchange.id, "no end is metered: it is settled on what the balances compute, if they can"
            )
        elif len(metered) == 1:
            yield _of(
                "exchange", exchange.id, f"only the {metered[0]}'s end is metered: nobody sees when the two differ"
            )


def advise_on_energy_of_exchanges(park: Park) -> Iterator[Advice]:
    """Find exchanges of energy whose enthalpy nobody measures."""
    for exchange in park.exchanges:
        for stream in _streams(park, exchange) if exchange.settles == "energy" else ():
            if stream.carrier == "gas" and not _meters(park, stream, HEATS):
                yield _of(
                    "exchange",
                    exchange.id,
                    f"the energy of gas {stream.id!r} follows from no formula here: "
                    "meter it as heat_flow or energy_total, or settle mass or volume",
                )
            if stream.has_enthalpy and not _enthalpy_is_known(park, stream):
                unknown = f"stream {stream.id!r} has no temperature: its energy is unknown unless the balances tell it"
                yield _of("exchange", exchange.id, unknown)


def advise_on_limits_that_nobody_measures(park: Park) -> Iterator[Advice]:
    """Find quality limits without a meter of the property."""
    for exchange in park.exchanges:
        for limit in exchange.agreement.quality:
            if not any(_has_property(park, stream, limit.property) for stream in _streams(park, exchange)):
                yield _of("exchange", exchange.id, f"nobody measures {limit.property}: a deviation cannot show")


def advise_on_volume_meters(park: Park) -> Iterator[Advice]:
    """Find volume meters whose density is not known."""
    for meter in park.meters:
        for stream in _placed(park, meter) if meter.quantity in VOLUMES else ():
            if stream.density_kg_m3 is not None:
                continue
            if stream.has_enthalpy and not _has_property(park, stream, "temperature"):
                yield _of("meter", meter.id, f"stream {stream.id!r} has no temperature: its density is a guess")
            elif not stream.has_enthalpy:
                yield _of(
                    "meter",
                    meter.id,
                    f"stream {stream.id!r} has no density_kg_m3: volume tells no mass, and no balance counts it",
                )


def advise_on_counters(park: Park) -> Iterator[Advice]:
    """Find totals of which nothing says where they roll over."""
    for meter in park.meters:
        if meter.quantity in TOTALS and meter.counter is None:
            yield _of("meter", meter.id, "without counter: {modulus, resolution} its roll-over will look like a reset")


def advise_on_timing(park: Park) -> Iterator[Advice]:
    """Find meters that cannot keep their own times, or leave windows without a reading."""
    rare = [m.id for m in park.meters if m.sampling == "periodic" and m.interval_s > park.park.window_s]
    if rare:
        yield Advice(
            _listed("meter", rare),
            f"interval_s is longer than window_s {park.park.window_s:g}: its readings are held over several windows",
        )
    for meter in park.meters:
        if meter.stale_after_s is not None and meter.sampling == "periodic" and meter.stale_after_s < meter.interval_s:
            yield _of(
                "meter",
                meter.id,
                f"stale_after_s {meter.stale_after_s:g} is below interval_s {meter.interval_s:g}: "
                "it counts as silent between two readings",
            )


def advise_on_nodes(park: Park) -> Iterator[Advice]:
    """Find nodes whose balances cannot hold, or hold nothing."""
    for node in park.nodes:
        around = [stream for stream in park.streams if node.id in (stream.from_node, stream.to_node)]
        if not around:
            yield _of("node", node.id, "no stream leads to it or from it")
            continue
        if "mass" in node.conserves and node.id not in park.tanks:
            mass = {stream.from_node == node.id for stream in around if stream.carries_mass}
            if len(mass) == 1:
                way = "leaves" if mass == {True} else "enters"
                yield _of(
                    "node",
                    node.id,
                    f"conserves mass, but mass only {way}: its streams must stand still. Add what "
                    "is missing, or a meter of quantity inventory, or take mass away",
                )
        if "energy" in node.conserves:
            unknown = [s.id for s in around if s.carries_mass and not s.has_enthalpy]
            if unknown:
                yield _of(
                    "node",
                    node.id,
                    f"conserves energy, but that of {_named('stream', unknown)} does not count: only "
                    "water, steam, heat and electricity have one",
                )
        for component in node.components:
            if not any(_has_property(park, stream, component) for stream in around if stream.carries_mass):
                yield _of(
                    "node",
                    node.id,
                    f"conserves component.{component}, but nobody measures quality.{component} around it",
                )


def advise_on_keys_without_effect(park: Park) -> Iterator[Advice]:
    """Find keys that nothing uses."""
    for node in park.nodes:
        for key, value, quantity in (
            ("closure_u95_kg_s", node.closure_u95_kg_s, "mass"),
            ("closure_u95_kw", node.closure_u95_kw, "energy"),
        ):
            if value and quantity not in node.conserves:
                yield _of("node", node.id, f"{key} has no effect: it does not conserve {quantity}")
    for stream in park.streams:
        if stream.heat_loss_kw is not None and stream.carries_mass and not stream.has_enthalpy:
            yield _of("stream", stream.id, f"heat_loss_kw has no effect: carrier {stream.carrier} has no heat flow")


def advise_on_validity(park: Park) -> Iterator[Advice]:
    """Find times of streams and nodes, which only those of meters go with."""
    for kind, entries in (("stream", park.streams), ("node", park.nodes)):
        bounded = [entry.id for entry in entries if entry.valid_from or entry.valid_to]
        if bounded:
            yield Advice(
                _listed(kind, bounded),
                f"valid_from and valid_to of a {kind} are not looked at yet: it is in the balances at all times",
            )


def advise_on_nominal_flows(park: Park) -> Iterator[Advice]:
    """Find streams of which nothing says how large they are."""
    bare = [stream.id for stream in park.streams if stream.nominal_si is None]
    if bare:
        yield Advice(
            _listed("stream", bare),
            "without a nominal flow (in mass, or with a density) the std to expect is "
            "taken at what the balances make of the others'",
        )


ADVISERS: tuple[Callable[[Park], Iterator[Advice]], ...] = tuple(
    function for name, function in globals().items() if name.startswith("advise_on_")
)


def is_metered(park: Park, exchange: Exchange, side: Side) -> bool:
    """Return whether one party's meters tell what is exchanged: every stream, or the set as a whole."""
    ends = park.exchange_ends(exchange, side)
    for meter in park.meters:
        at = park.meter_ends(meter)
        if meter.quantity in FLOWS and dict(meter.signed_streams) == dict(exchange.signed_streams) and at == ends:
            return True
    return all(
        any(meter.quantity in FLOWS and park.meter_ends(meter) == {stream: end} for meter in park.meters)
        for stream, end in ends.items()
    )


def protocol(meter: Meter) -> str:
    """Return the protocol that a meter is read by."""
    return next(name for name in ("opcua", "mqtt", "sparkplug") if getattr(meter.source, name) is not None)


def _streams(park: Park, exchange: Exchange) -> list[Stream]:
    return [park.stream[stream] for stream in exchange.signed_streams]


def _placed(park: Park, meter: Meter) -> list[Stream]:
    return [park.stream[stream] for stream in meter.signed_streams]


def _meters(park: Park, stream: Stream, quantities: frozenset[str]) -> list[Meter]:
    return [meter for meter in park.meters if meter.quantity in quantities and stream.id in meter.signed_streams]


def _has_property(park: Park, stream: Stream, name: str) -> bool:
    return any(meter.property_name == name and meter.stream == stream.id for meter in park.meters)


def _enthalpy_is_known(park: Park, stream: Stream) -> bool:
    """Return whether meters of the stream itself tell its enthalpy: by temperature, by the pressure at saturation."""
    by = ("temperature", "pressure") if stream.phase == "saturated" else ("temperature",)
    return any(_has_property(park, stream, name) for name in by) or bool(_meters(park, stream, HEATS))


def _of(kind: str, identity: str, message: str) -> Advice:
    return Advice(f"{kind} {identity!r}", message)


def _listed(kind: str, identities: list[str]) -> str:
    return f"{kind} {identities[0]!r}" if len(identities) == 1 else f"{len(identities)} {kind}s ({_short(identities)})"


def _named(kind: str, identities: list[str]) -> str:
    return f"{kind} {identities[0]!r}" if len(identities) == 1 else f"{kind}s {_short(identities)}"


def _short(identities: list[str]) -> str:
    more = f" and {len(identities) - SHORT_LIST} more" if len(identities) > SHORT_LIST else ""
    return ", ".join(identities[:SHORT_LIST]) + more
