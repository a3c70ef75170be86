"""Advice on states and sizes: what cannot be gets a word, what can be somewhere in the declared ranges gets none."""

from __future__ import annotations

import pytest

from processing.design_point import expect
from symbiosis.advice_states import (
    advise_on_fractions,
    advise_on_heat_losses,
    advise_on_spans,
    advise_on_states_that_cannot_be,
    advise_on_temperatures_of_heat_meters,
    advise_on_vague_meters,
)
from symbiosis.check import check
from symbiosis.view import View
from tests.processing.small_parks import HEAD, NOW, park_of

PARK = """\
nodes: [{{id: n, participant: a}}, {{id: m, participant: b}}]
streams:
  - {{id: S, from: n, to: m, carrier: {carrier}{phase}, nominal: {{value: 10, unit: kg/s}}{more}}}
meters:
  - {{id: T, stream: S, side: receiver, quantity: temperature, unit: degC, u95_absolute: 1, span: [{t0}, {t1}],
     source: {{mqtt: {{topic: T}}}}}}
  - {{id: P, stream: S, side: receiver, quantity: pressure, unit: bar, u95_absolute: 0.1, span: [{p0}, {p1}],
     source: {{mqtt: {{topic: P}}}}}}
"""


def view(tmp_path, carrier, temperatures, pressures, phase="", more="", after=""):
    text = PARK.format(
        carrier=carrier, phase=phase and f", phase: {phase}", more=more, t0=temperatures[0], t1=temperatures[1],
        p0=pressures[0], p1=pressures[1],
    )
    return View(park_of(tmp_path, HEAD + text + after))


WET = "saturated, dryness: {value: 0.9}"


# Water boils at 99.6 degC under 1 bar, at 179.9 under 10 bar, at 212.4 under 20 bar (IAPWS-IF97).
@pytest.mark.parametrize(("carrier", "phase", "temperatures", "pressures", "words"), [
    ("steam", "vapour", (150, 170), (10, 20), "is vapour, but would be water"),
    ("steam", "vapour", (150, 185), (10, 20), None),
    ("steam", "", (20, 90), (1, 2), "is vapour, but would be water"),
    ("steam", "liquid", (190, 250), (1, 10), "is liquid, but would boil"),
    ("steam", WET, (150, 170), (10, 20), "off the saturation line"),
    ("steam", WET, (220, 250), (10, 20), "off the saturation line"),
    ("steam", WET, (170, 220), (10, 20), None),
    ("water", "", (190, 250), (1, 10), "is liquid, but would boil"),
    ("water", "", (170, 250), (1, 10), None),
    ("water", "", (-20, -1), (1, 10), "water would be ice"),
    ("water", "", (-20, 40), (1, 10), None),
    ("water", "", (380, 400), (1, 300), None),  # above the critical pressure nothing boils
    ("material", "", (-20, -1), (1, 10), None),
])
def test_what_cannot_be_anywhere_in_the_ranges(carrier, phase, temperatures, pressures, words, tmp_path):
    found = [str(a) for a in advise_on_states_that_cannot_be(view(tmp_path, carrier, temperatures, pressures, phase))]
    assert len(found) == (words is not None)
    if words:
        assert words in found[0]
        assert "span of meter 'T'" in found[0]


def test_the_limits_of_an_agreement_count_as_well(tmp_path):
    after = """exchanges:
  - {id: X, kind: energy, stream: S, settles: energy, unit: MWh,
     agreement: {quality: [{property: temperature, unit: degC, high: 150}]}}
"""
    found = advise_on_states_that_cannot_be(view(tmp_path, "steam", (0, 300), (10, 20), "vapour", after=after))
    assert [str(a) for a in found] == [
        "stream 'S': is vapour, but would be water at its temperature and pressure "
        "(limits of exchange 'X', 10 to 20 bar)"
    ]


# Steam of 200 degC and 10 bar has 2828 kJ/kg, dry steam there 2777 (IAPWS-IF97): 51 kJ/kg, 510 kW at 10 kg/s.
@pytest.mark.parametrize(("loss", "words"), [
    (490, None), (530, "it would arrive wet"), (30_000, "is as much as it carries at its nominal flow, 2.828e+04 kW"),
    (-1000, None),
])
def test_a_heat_loss_beside_the_heat_that_is_there(loss, words, tmp_path):
    more = f", heat_loss_kw: {{value: {loss}}}"
    found = [str(a) for a in advise_on_heat_losses(view(tmp_path, "steam", (190, 210), (9, 11), "vapour", more))]
    assert len(found) == (words is not None)
    assert not words or words in found[0]


def test_a_stream_of_heat_cannot_lose_more_than_it_is(tmp_path):
    text = HEAD + """\
nodes: [{id: n, participant: a}, {id: m, participant: b}]
streams:
  - {id: Q, from: n, to: m, carrier: heat, nominal: {value: 1, unit: MW}, heat_loss_kw: {value: 1000}}
  - {id: R, from: n, to: m, carrier: heat, nominal: {value: 1, unit: MW}, heat_loss_kw: {value: 999}}
  - {id: U, from: n, to: m, carrier: heat, heat_loss_kw: {value: 1000}}
meters: []
"""
    assert [a.subject for a in advise_on_heat_losses(View(park_of(tmp_path, text)))] == ["stream 'Q'"]


METER = "  - {{id: F, stream: S, quantity: {quantity}, unit: {unit}, {u95}, span: [{low}, {high}], side: sender, " \
        "source: {{mqtt: {{topic: F}}}}}}\n"


@pytest.mark.parametrize(("quantity", "unit", "low", "high", "fires"), [
    ("mass_flow", "t/h", 0, 30, True), ("mass_flow", "t/h", 0, 40, False), ("mass_flow", "t/h", 40, 60, True),
    ("volume_flow", "m3/h", 0, 30, False),  # no flow of the stream's own quantity
])
def test_a_span_beside_the_nominal_flow(quantity, unit, low, high, fires, tmp_path):
    """10 kg/s is 36 t/h."""
    meter = METER.format(quantity=quantity, unit=unit, low=low, high=high, u95="u95_absolute: 1")
    found = [a.subject for a in advise_on_spans(view(tmp_path, "water", (0, 90), (1, 5), after=meter))]
    assert found == (["meter 'F'"] if fires else [])


@pytest.mark.parametrize(("u95", "fires"), [
    ("u95_absolute: 17", False), ("u95_absolute: 19", True), ("u95_percent_of_span: 25", True),
])
def test_a_u95_beside_the_nominal_flow(u95, fires, tmp_path):
    meter = METER.format(quantity="mass_flow", unit="t/h", low=0, high=80, u95=u95)
    found = [a.subject for a in advise_on_vague_meters(view(tmp_path, "water", (0, 90), (1, 5), after=meter))]
    assert found == (["meter 'F'"] if fires else [])


@pytest.mark.parametrize(("span", "fires"), [("", True), (", span: [0, 5]", False)])
def test_a_component_of_which_nothing_says_how_much_there_is(span, fires, tmp_path):
    text = HEAD + f"""\
nodes: [{{id: n, participant: a, conserves: [mass, component.salt]}}]
streams: [{{id: S, from: environment, to: n, carrier: water}}, {{id: R, from: n, to: environment, carrier: water}}]
meters:
  - {{id: A, stream: S, quantity: quality.salt, unit: g/l, u95_absolute: 1, source: {{mqtt: {{topic: A}}}}{span}}}
"""
    found = [str(a) for a in advise_on_fractions(View(park_of(tmp_path, text)))]
    assert [a.partition(" may carry")[0] for a in found] == (
        ["node 'n': nothing says how much salt stream 'S'"] if fires else [])


HEAT_METER = """\
nodes: [{id: n, participant: a}, {id: m, participant: b}]
streams:
  - {id: S, from: n, to: m, carrier: water, nominal: {value: 10, unit: kg/s}}
  - {id: R, from: m, to: n, carrier: water, nominal: {value: 10, unit: kg/s}}
meters:
  - {id: Q, streams: {S: 1, R: -1}, side: sender, quantity: heat_flow, unit: MW, u95_percent_of_reading: 2,
     source: {mqtt: {topic: Q}}}
"""
THERMOMETER = "  - {{id: T{0}, stream: {0}, side: sender, quantity: temperature, unit: degC, u95_absolute: 1, " \
              "source: {{mqtt: {{topic: T{0}}}}}{1}}}\n"


@pytest.mark.parametrize(("thermometers", "said"), [
    ("", ["nothing says how warm streams S, R may be: taken for 80 and 50 degC,"]),
    (THERMOMETER.format("S", ""), ["nothing says how warm streams S, R may be: taken for 80 and 50 degC,"]),
    (THERMOMETER.format("R", ", span: [60, 80]"), ["nothing says how warm stream 'S' may be: taken for 100 degC,"]),
    (THERMOMETER.format("S", ", span: [5, 9]"), ["nothing says how warm stream 'R' may be: taken for 14 degC,"]),
    (THERMOMETER.format("S", ", span: [80, 120]") + THERMOMETER.format("R", ", span: [40, 60]"), []),
])
def test_a_supply_and_a_return_of_which_nothing_says_how_warm_they_are(thermometers, said, tmp_path):
    found = list(advise_on_temperatures_of_heat_meters(View(park_of(tmp_path, HEAD + HEAT_METER + thermometers))))
    assert [a.subject for a in found] == ["meter 'Q'"] * len(said)
    assert [a.message.partition(" and what")[0] for a in found] == said


def test_a_heat_meter_of_a_whole_stream_asks_for_no_second_temperature(tmp_path):
    text = HEAD + HEAT_METER.replace("streams: {S: 1, R: -1}", "stream: S")
    assert list(advise_on_temperatures_of_heat_meters(View(park_of(tmp_path, text)))) == []


def test_check_judges_a_heat_meter_where_it_reads_something(tmp_path):
    """10 kg/s from 80 to 50 degC are 1.26 MW (IAPWS-IF97: 335.3 and 209.7 kJ/kg)."""
    meters = "".join(THERMOMETER.format(stream, "") for stream in ("S", "R")) + "".join(
        METER.format(quantity="mass_flow", unit="kg/s", u95="u95_percent_of_reading: 1", low=0, high=20).replace(
            "stream: S", f"stream: {stream}").replace(": F", f": F{stream}")
        for stream in ("S", "R"))
    expected = expect(park_of(tmp_path, HEAD + HEAT_METER + meters), NOW)
    heat = {row.stream: row.reconciled for row in expected.flows if row.quantity == "heat_flow"}
    assert heat["S"] - heat["R"] == pytest.approx(1256, rel=0.01)


def test_what_is_odd_is_no_fault(tmp_path, capsys):
    view(tmp_path, "water", (190, 250), (1, 10))
    assert check(tmp_path / "park.yaml", as_json=False) == 0
    said = capsys.readouterr()
    assert "would boil at its temperature" in said.out
    assert said.err == ""
