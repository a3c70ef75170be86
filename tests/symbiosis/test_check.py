"""`symbiosis check`: classes and std by hand, what is printed, advice that fires and advice that stays silent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from park.errors import ParkError
from park.load import load_park
from park.properties import enthalpy, enthalpy_slopes
from processing.estimate import Estimator
from processing.results import Reporter
from symbiosis.advice import ADVISERS, advice
from symbiosis.check import as_text, check, findings
from symbiosis.cli import main
from symbiosis.design_point import LARGE, DesignEstimator, design_point, expect, steady_readings

CASES = Path(__file__).parents[1] / "cases"

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


def test_by_hand_a_split_with_two_meters_computes_the_third(tmp_path):
    found = expect(park_of(tmp_path, SPLIT + "meters:\n" + meter("in", 3 * U95) + meter("left", 4 * U95)), NOW)
    assert {r.stream: r.status for r in found.flows if r.quantity == "mass_flow"} == {
        "in": "nonredundant",
        "left": "nonredundant",
        "right": "observable",
        "other": "unobservable",
    }
    assert flow(found, "in").std == pytest.approx(3)
    assert flow(found, "right").std == pytest.approx(5)  # 3 and 4 in quadrature
    assert flow(found, "right").reconciled == pytest.approx(4)
    assert flow(found, "other").std is None
    assert found.checked == set()


def test_by_hand_a_split_with_three_meters_checks_them_all(tmp_path):
    text = SPLIT + "meters:\n" + meter("in", 3 * U95) + meter("left", 4 * U95) + meter("right", 12 * U95)
    found = expect(park_of(tmp_path, text), NOW)
    assert flow(found, "in").status == "redundant"
    assert flow(found, "in").std == pytest.approx((1 / 9 + 1 / (16 + 144)) ** -0.5)
    assert flow(found, "right").std == pytest.approx((1 / 144 + 1 / (9 + 16)) ** -0.5)
    assert len(found.checked) == 3


def test_two_meters_of_one_stream_check_each_other(tmp_path):
    text = SPLIT + "meters:\n" + meter("other", 3 * U95) + meter("other", 4 * U95, never_suspect="false")
    found = expect(park_of(tmp_path, text), NOW)
    assert flow(found, "other").status == "nonredundant"
    assert flow(found, "other").std == pytest.approx((1 / 9 + 1 / 16) ** -0.5)
    assert len(found.checked) == 2


def test_flows_without_nominal_follow_from_the_others(tmp_path):
    text = SPLIT.replace(", nominal: {value: 10, unit: kg/s}", "")
    percent = meter("in", 1).replace("u95_absolute: 1", "u95_percent_of_reading: 1.96")
    found = expect(park_of(tmp_path, text + "meters:\n" + percent), NOW)
    assert flow(found, "in").reconciled == pytest.approx(10, rel=1e-3)
    assert flow(found, "in").std == pytest.approx(0.1, rel=1e-3)  # 1 % of 10 kg/s


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


def test_by_hand_heat_follows_from_flow_and_both_temperatures(tmp_path):
    found = expect(park_of(tmp_path, HEATED), NOW)
    heat = flow(found, "heat", "heat_flow")
    assert heat.status == "observable"
    rise = float(enthalpy(5e5, 353.15, "liquid") - enthalpy(5e5, 293.15, "liquid"))
    assert heat.reconciled == pytest.approx(10 * rise, rel=0.02)
    slopes = [float(enthalpy_slopes(5e5, kelvin, "liquid").per_kelvin) for kelvin in (293.15, 353.15)]
    by_hand = ((rise * 0.2) ** 2 + sum((10 * slope * 1.0) ** 2 for slope in slopes)) ** 0.5 / 1.96
    assert heat.std == pytest.approx(by_hand, rel=0.02)


def test_what_is_expected_is_what_the_live_cycle_finds(tmp_path):
    """The live estimator, fed with the steady readings of the design point, gives the same values and std."""
    park = park_of(tmp_path, HEATED)
    design = DesignEstimator(park)
    at = design.at(design_point(park, design.equations), np.ones(len(park.meters), dtype=bool))
    live = Estimator(park)
    seen = live.estimate(steady_readings(design, at.means.value[: len(park.meters)]), 0, 10_000_000)
    assert seen.converged
    nobody = np.zeros(len(park.meters), dtype=np.bool_)
    found = {(r.stream, r.quantity): r for r in Reporter(live).rows(seen, seen.observation, nobody).flows}
    for row in expect(park, NOW).flows:
        assert found[row.stream, row.quantity].status == row.status
        assert found[row.stream, row.quantity].reconciled == pytest.approx(row.reconciled, rel=1e-4)
        assert found[row.stream, row.quantity].std == pytest.approx(row.std, rel=1e-3)


def test_a_park_too_large_for_all_its_balances_keeps_those_of_mass(tmp_path, monkeypatch):
    monkeypatch.setattr("symbiosis.design_point.LARGE", 2)
    park = park_of(tmp_path, HEATED)
    assert len(park.streams) < LARGE
    found = expect(park, NOW)
    assert found.mass_only
    assert flow(found, "heat", "heat_flow").status == "unobservable"
    assert flow(found, "warm").status == "observable"
    assert "(balances of mass)" in "\n".join(as_text(findings(park, NOW)))


@pytest.mark.parametrize("folder", sorted((CASES / "parks").iterdir()), ids=lambda folder: folder.name)
def test_every_good_park_is_told_about(folder, capsys):
    assert check(folder / "park.yaml", as_json=False) == 0
    text = capsys.readouterr().out
    assert text.endswith("no faults\n")
    assert "nan" not in text.lower().split()
    park = load_park(folder / "park.yaml")
    for stream in park.streams:
        assert stream.id in text


def test_json_says_the_same(capsys):
    path = CASES / "parks" / "contract" / "park.yaml"
    assert main(["check", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"participants": 2, "nodes": 5, "streams": 4, "meters": 4, "exchanges": 1}
    assert found["protocols"] == {"opcua": 1, "mqtt": 2, "sparkplug": 1}
    assert sum(found["statuses"].values()) == 4
    first = found["streams"][0]
    assert [first[key] for key in ("stream", "side", "quantity", "status")] == [
        "S01",
        "sender",
        "mass_flow",
        "redundant",
    ]
    assert first["u95"] == pytest.approx(1.96 * first["std"])
    assert first["meters"] == ["power.FT101"]
    assert found["exchanges"][0]["metered"] == ["sender", "receiver"]
    assert {"subject", "message"} == set(found["advice"][0])


def test_faults_are_messages_and_with_json_data_too(capsys):
    path = CASES / "park_faults" / "u95_negative" / "park.yaml"
    assert main(["check", str(path)]) == 2
    said = capsys.readouterr()
    assert said.err == "park.yaml:35: meter 'power.FT101': u95_percent_of_reading must be positive, got -1.0\n"
    assert said.out == ""
    assert main(["check", str(path), "--json"]) == 2
    fault = json.loads(capsys.readouterr().out)["faults"][0]
    assert (fault["file"], fault["line"], fault["subject"]) == ("park.yaml", 35, "meter 'power.FT101'")
    with pytest.raises(ParkError):
        check(path, as_json=False)


# -- advice ----------------------------------------------------------------------------------------------------------

QUIET = (
    HEAD
    + """\
nodes:
  - {id: a.1, participant: a, conserves: [mass], closure_u95_kg_s: 0.1}
  - {id: b.1, participant: b, conserves: [mass]}
streams:
  - {id: S0, from: environment, to: a.1, carrier: water, nominal: {value: 5, unit: kg/s}}
  - {id: S1, from: a.1, to: b.1, carrier: water, heat_loss_kw: {value: 5}, nominal: {value: 4, unit: kg/s}}
  - {id: S2, from: b.1, to: environment, carrier: water, nominal: {value: 6, unit: kg/s}}
  - {id: S3, from: a.1, to: b.1, carrier: water, nominal: {value: 1, unit: kg/s}}
  - {id: S4, from: a.1, to: b.1, carrier: gas, nominal: {value: 1, unit: kg/s}}
meters:
  - {id: f1, stream: S1, side: sender, quantity: volume_flow, unit: m3/h, u95_absolute: 1, source: {mqtt: {topic: f1}}}
  - {id: f2, stream: S1, side: receiver, quantity: mass_total, unit: t, counter: {modulus: 1000}, u95_absolute: 1,
     source: {mqtt: {topic: f2}}}
  - {id: t1, stream: S1, side: receiver, quantity: temperature, unit: degC, u95_absolute: 1,
     source: {mqtt: {topic: t1}}}
exchanges:
  - {id: X1, kind: energy, stream: S1, settles: energy, unit: MWh,
     agreement: {quality: [{property: temperature, unit: degC, low: 60}]}}
"""
)
LOUD = {
    "one end without meter": (
        "side: sender, quantity: volume",
        "side: receiver, quantity: volume",
        "only the receiver's",
    ),
    "no end with a meter": ("stream: S1, settles", "stream: S3, settles", "no end is metered"),
    "energy of a gas": ("stream: S1, settles", "stream: S4, settles", "the energy of gas 'S4' follows from no formula"),
    "energy without temperature": ("quantity: temperature", "quantity: quality.heat", "its energy is unknown"),
    "a limit that nobody measures": (
        "{property: temperature, unit: degC",
        "{property: dew, unit: degC",
        "nobody measures dew",
    ),
    "volume without temperature": ("quantity: temperature", "quantity: quality.heat", "its density is a guess"),
    "volume without density": ("stream: S1, side: sender", "stream: S4, side: sender", "volume tells no mass"),
    "a stream with an end": (
        "S3, from: a.1", "S3, valid_to: 2030-01-01, from: a.1", "valid_to of a stream are not looked at yet"),
    "a counter without modulus": (", counter: {modulus: 1000}", "", "will look like a reset"),
    "longer than the window": ("m3/h, u95", "m3/h, interval_s: 60, u95", "interval_s is longer than window_s 10"),
    "stale too soon": ("m3/h, u95", "m3/h, stale_after_s: 5, u95", "stale_after_s 5 is below interval_s 10"),
    "a node that mass only enters": ("from: b.1, to: environment", "from: a.1, to: environment", "mass only enters"),
    "a node without streams": (
        "streams:",
        "  - {id: b.2, participant: b}\nstreams:",
        "node 'b.2': no stream leads to it",
    ),
    "energy that does not count": (
        "id: b.1, participant: b, conserves: [mass]",
        "id: b.1, participant: b, conserves: [mass, energy]",
        "that of stream 'S4' does not",
    ),
    "a component that nobody measures": (
        "id: b.1, participant: b, conserves: [mass]",
        "id: b.1, participant: b, conserves: [mass, component.salt]",
        "quality.salt",
    ),
    "closure without balance": (
        "conserves: [mass], closure_u95_kg_s",
        "closure_u95_kg_s",
        "closure_u95_kg_s has no effect",
    ),
    "heat loss of a gas": ("carrier: gas", "carrier: gas, heat_loss_kw: {value: 1}", "heat_loss_kw has no effect"),
    "no nominal flow": (", nominal: {value: 6, unit: kg/s}", "", "stream 'S2': without a nominal flow"),
}


def test_a_park_in_order_gets_no_advice(tmp_path):
    assert advice(park_of(tmp_path, QUIET)) == []


@pytest.mark.parametrize(("before", "after", "words"), LOUD.values(), ids=LOUD)
def test_what_is_odd_gets_advice(tmp_path, before, after, words):
    assert QUIET.count(before) == 1
    found = [str(a) for a in advice(park_of(tmp_path, QUIET.replace(before, after)))]
    assert any(words in a for a in found), found


@pytest.mark.parametrize("advise", ADVISERS, ids=lambda advise: advise.__name__)
def test_every_adviser_speaks_up_somewhere(tmp_path, advise):
    assert any(list(advise(park_of(tmp_path, QUIET.replace(before, after)))) for before, after, _ in LOUD.values())


def test_meters_that_no_longer_count_promise_nothing(tmp_path):
    """Two equal meters of which one is gone: as one; before it went, as two."""
    text = SPLIT + "meters:\n" + meter("in", 3 * U95) + meter("in", 3 * U95, valid_to="2026-06-01")
    park = park_of(tmp_path, text)
    early = datetime(2026, 5, 1, tzinfo=UTC)
    assert flow(expect(park, NOW), "in").std == pytest.approx(3)
    assert flow(expect(park, early), "in").std == pytest.approx(3 / 2**0.5)
    now, then = (findings(park, moment) for moment in (NOW, early))
    assert [len(found["streams"][0]["meters"]) for found in (now, then)] == [1, 2]
    assert len(now["unchecked_meters"]) == 1
    assert then["unchecked_meters"] == []


def test_nominal_flows_that_do_not_go_together_get_advice(tmp_path):
    found = findings(park_of(tmp_path, SPLIT.replace("value: 4,", "value: 40,") + "meters:\n" + meter("in", 1)), NOW)
    assert any("but the balances with the other nominal flows leave" in a["message"] for a in found["advice"])
    found = findings(park_of(tmp_path, SPLIT + "meters:\n" + meter("in", 1)), NOW)
    assert not any("nominal flows" in a["message"] for a in found["advice"])
