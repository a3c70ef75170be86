"""Parks small enough to work by hand: a split of water with or without meters, water that is heated."""

from __future__ import annotations

from datetime import UTC, datetime

from park.load import load_park

HEAD = """\
park: {name: Small park, timezone: UTC, window_s: 10}
participants: [{id: a, name: A}, {id: b, name: B}]
"""
SPLIT = (
    HEAD
    + """\
nodes:
  - {id: split, participant: a, conserves: [mass]}
  - {id: b.use, participant: b}
streams:
  - {id: in, from: environment, to: split, carrier: water, nominal: {value: 10, unit: kg/s}}
  - {id: left, from: split, to: b.use, carrier: water, nominal: {value: 6, unit: kg/s}}
  - {id: right, from: split, to: environment, carrier: water, nominal: {value: 4, unit: kg/s}}
  - {id: other, from: b.use, to: environment, carrier: water, nominal: {value: 6, unit: kg/s}}
"""
)
NOW = datetime(2026, 7, 1, tzinfo=UTC)
U95 = 1.96  # so that std are whole numbers


def meter(stream, u95, quantity="mass_flow", unit="kg/s", **keys):
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return (
        f"  - {{id: {quantity}.{stream}{len(more)}, stream: {stream}, side: receiver, participant: a, "
        f"quantity: {quantity}, unit: {unit}, u95_absolute: {u95}, interval_s: 10, "
        f"source: {{mqtt: {{topic: {quantity}/{stream}/{len(more)}}}}}{more}}}\n"
    )


def park_of(tmp_path, text):
    path = tmp_path / "park.yaml"
    path.write_text(text, encoding="utf-8")
    return load_park(path)


def flow(expectation, stream, quantity="mass_flow", side="sender"):
    return next(r for r in expectation.flows if (r.stream, r.quantity, r.side) == (stream, quantity, side))


HEATED = (
    HEAD
    + """\
nodes:
  - {id: hx, participant: a, conserves: [mass, energy]}
streams:
  - {id: cold, from: environment, to: hx, carrier: water, nominal: {value: 10, unit: kg/s}}
  - {id: warm, from: hx, to: environment, carrier: water, nominal: {value: 10, unit: kg/s}}
  - {id: heat, from: environment, to: hx, carrier: heat}
meters:
"""
    + "".join(
        (
            meter("cold", 0.2),
            meter("cold", 1, "temperature", "degC", span="[10, 30]"),
            meter("cold", 0.1, "pressure", "bar", span="[4, 6]"),
            meter("warm", 1, "temperature", "degC", span="[70, 90]"),
            meter("warm", 0.1, "pressure", "bar", span="[4, 6]"),
        )
    )
)
