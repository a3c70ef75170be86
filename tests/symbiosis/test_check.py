"""`symbiosis check`: what is printed, advice that fires and advice that stays silent."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.cells import cell_len

from park.errors import ParkError
from park.load import load_park
from processing.design_point import expect
from symbiosis.advice import ADVISERS, advice
from symbiosis.check import as_text, check, findings
from symbiosis.cli import main
from symbiosis.view import View
from tests.processing.small_parks import HEAD, HEATED, NOW, SPLIT, U95, flow, meter, park_of

CASES = Path(__file__).parents[1] / "cases"


def test_a_park_too_large_for_all_its_balances_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr("processing.design_point.LARGE", 2)
    assert "(balances of mass)" in "\n".join(as_text(findings(park_of(tmp_path, HEATED), NOW)))


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


def test_json_says_what_meters_are_worth_and_where_one_more_would_help(tmp_path):
    text = SPLIT + "meters:\n" + meter("in", 3 * U95) + meter("left", 4 * U95) + meter("right", 12 * U95)
    found = findings(park_of(tmp_path, text), NOW)
    assert found["detection"] == {"false_alarms": 0.05, "power": 0.9, "threshold": pytest.approx(1.96, rel=1e-3)}
    first = found["meters"][0]
    assert set(first) == {
        "meter", "adjustability", "detectability", "smallest_bias", "smallest_bias_percent", "unit",
    }
    assert first["detectability"] == pytest.approx(3 / 13)
    assert found["tied_meters"] == [[row["meter"] for row in found["meters"]]]
    best = found["extra_meters"][0]
    assert (best["stream"], best["side"], best["quantity"]) == ("other", "sender", "mass_flow")
    assert best["made_observable"] == [{"stream": "other", "side": "sender", "quantity": "mass_flow"}]
    assert set(best) == {
        "stream", "side", "quantity", "u95_percent", "made_observable", "newly_checked", "groups_resolved",
        "sharper_percent", "drop_percent",
    }
    json.dumps(found, allow_nan=False)


def test_the_text_says_the_same_as_json(tmp_path):
    text = SPLIT + "meters:\n" + meter("in", 3 * U95) + meter("left", 4 * U95) + meter("right", 12 * U95)
    shown = "\n".join(as_text(findings(park_of(tmp_path, text), NOW)))
    assert re.search(r"mass_flow\.in\S*\s+0\.03\s+0\.23\s+42\.14\s+kg/s", shown)
    assert "with probability 0.9" in shown
    assert "has probability 0.05 (largest test above 1.96)" in shown
    assert re.search(r"no balance tells these apart.*\n  mass_flow\.in\S*, mass_flow\.left\S*, mass_flow\.right", shown)
    assert re.search(r"one more meter would help most here:\n  mass_flow of other .*what nothing tells now", shown)


@pytest.mark.parametrize("name", ["unicode", "every_key", "contract"])
def test_lines_keep_to_eighty_columns_where_ids_let_them(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert check(CASES / "parks" / name / "park.yaml", as_json=False) == 0
    for line in capsys.readouterr().out.splitlines():
        assert cell_len(line) <= 80, line


def test_columns_stand_below_each_other_in_any_script(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    check(CASES / "parks" / "unicode" / "park.yaml", as_json=False)
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("stream"))
    at = {cell_len(re.split(r"(?=sender|receiver|side)", line)[0]) for line in lines[start : lines.index("", start)]}
    assert len(at) == 1


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
  - {id: p1, stream: S1, side: receiver, quantity: pressure, unit: bar, u95_absolute: 0.1, span: [1, 3],
     source: {mqtt: {topic: p1}}}
  - {id: f3, stream: S2, side: sender, quantity: mass_flow, unit: kg/s, u95_absolute: 2.9, span: [0, 10],
     source: {mqtt: {topic: f3}}}
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
    "water that would boil": (
        "degC, u95_absolute: 1,",
        "degC, u95_absolute: 1, span: [150, 200],",
        "is liquid, but would boil at its temperature and pressure (span of meter 't1', 1 to 3 bar)",
    ),
    "water that would be ice": ("low: 60", "high: -5", "would be ice at its temperature (limits of exchange 'X1'"),
    "more heat lost than carried": ("loss_kw: {value: 5}", "loss_kw: {value: 5000}", "is as much as it carries"),
    "a span below the nominal flow": ("span: [0, 10]", "span: [0, 5]", "does not hold the nominal flow of its stream"),
    "a vague meter": ("u95_absolute: 2.9", "u95_absolute: 3.1", "its u95 is 51.7 % of the nominal flow"),
    "a limit beyond the span": (
        "degC, u95_absolute: 1,",
        "degC, u95_absolute: 1, span: [0, 50],",
        "temperature 60 degC is outside of what meter 't1' can read",
    ),
}


def test_a_park_in_order_gets_no_advice(tmp_path):
    assert advice(View(park_of(tmp_path, QUIET))) == []


@pytest.mark.parametrize(("before", "after", "words"), LOUD.values(), ids=LOUD)
def test_what_is_odd_gets_advice(tmp_path, before, after, words):
    assert QUIET.count(before) == 1
    found = [str(a) for a in advice(View(park_of(tmp_path, QUIET.replace(before, after))))]
    assert any(words in a for a in found), found


@pytest.mark.parametrize("advise", ADVISERS, ids=lambda advise: advise.__name__)
def test_every_adviser_speaks_up_somewhere(tmp_path, advise):
    texts = [QUIET.replace(before, after) for before, after, _ in LOUD.values()]
    texts.append(QUIET.replace("quantity: temperature", "quantity: quality.salt").replace(
        "unit: degC, u95", 'unit: "%", u95').replace("participant: b, conserves: [mass]", "participant: b, conserves: "
        "[mass, component.salt]").replace("property: temperature, unit: degC", 'property: ash, unit: "%"'))
    texts.append(QUIET.replace("stream: S1, side: sender, quantity: volume_flow, unit: m3/h",
                               "streams: {S1: 1, S3: -1}, side: sender, quantity: heat_flow, unit: MW"))
    assert any(list(advise(View(park_of(tmp_path, text)))) for text in texts)


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
