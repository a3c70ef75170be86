"""Loading a park: defaults, times, tables, files that cannot be read, a large park."""

from __future__ import annotations

import gc
import importlib.util
import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from park.errors import InputError, ParkError
from park.load import load_park, read_draft
from park.model import Park

ROOT = Path(__file__).parents[2]
PARKS = ROOT / "tests" / "cases" / "parks"

SMALL = """\
park: {name: Small, timezone: Europe/Copenhagen}
participants: [{id: a, name: A}, {id: b, name: B}]
nodes:
  - {id: a.1, participant: a, conserves: [mass]}
  - {id: a.2, participant: a, conserves: [mass]}
  - {id: b.1, participant: b}
streams:
  - {id: S1, from: a.1, to: a.2, carrier: water}
  - {id: S2, from: a.2, to: b.1, carrier: water}
  - {id: S3, from: b.1, to: environment, carrier: water}
  - {id: S4, from: environment, to: a.1, carrier: water}
"""
METER = "quantity: mass_flow, unit: t/h, u95_absolute: 1"


def load(tmp_path, text, **tables):
    path = tmp_path / "park.yaml"
    path.write_text(text, encoding="utf-8")
    for name, table in tables.items():
        (tmp_path / f"{name}.csv").write_text(table, encoding="utf-8")
    return load_park(path)


def faults(tmp_path, text, **tables):
    with pytest.raises(ParkError) as raised:
        load(tmp_path, text, **tables)
    return [str(fault) for fault in raised.value.faults]


def meter(keys, number=1):
    return f"  - {{id: m{number}, {METER}, source: {{mqtt: {{topic: t/{number}}}}}, {keys}}}\n"


def test_defaults_are_the_contracts():
    park = load_park(PARKS / "contract" / "park.yaml")
    assert (park.park.window_s, park.park.lateness_s) == (60, 30)
    assert park.park.enthalpy_reference.temperature_degC == 0.01
    first, second, third, tank = park.meters
    assert first.stale_after_s == 30
    assert (second.systematic_share, second.interval_s, second.stale_after_s) == (1, 10, 30)
    assert second.sampling == "periodic"
    assert third.source.sparkplug.device == "belt"
    assert [m.source.name for m in (first, second, third)] == ["opcua:opc.tcp://127.0.0.1:4840", "mqtt", "sparkplug"]
    assert (tank.source.mqtt.value, tank.source.mqtt.time, tank.source.mqtt.status) == ("$", None, None)
    assert park.tanks == {"power.tank"}
    assert park.stream["S02"].bounds_si == (0, float("inf"))
    assert park.exchange["X01"].agreement.settled_at == "receiver"


def test_an_agreement_left_out_is_the_default():
    park = load_park(PARKS / "unicode" / "park.yaml")
    terms = park.exchange["Udveksling ①"].agreement
    assert (terms.period, terms.settle_on, terms.tolerance_percent) == ("1d", ("reconciled",), 0)
    assert terms.delivery[0].weekdays == frozenset(range(7))
    assert terms.delivery[0].minutes == (22 * 60, 6 * 60)


def test_stale_after_follows_the_interval_and_null_means_never(tmp_path):
    text = SMALL + "meters:\n" + meter("stream: S1, interval_s: 2", 1) + meter("stream: S1, stale_after_s: null", 2)
    park = load(tmp_path, text)
    assert park.meter["m1"].stale_after_s == 6
    assert park.meter["m2"].stale_after_s is None


def test_times_without_offset_are_local_to_the_park():
    park = load_park(PARKS / "every_key" / "park.yaml")
    assert park.node["a.header"].valid_from == datetime(2025, 12, 31, 23, tzinfo=UTC)
    assert park.node["a.header"].valid_to == datetime(2035, 12, 31, 23, tzinfo=UTC)
    assert park.meter["a.FT1b"].valid_from == datetime(2026, 6, 30, 22, tzinfo=UTC)


def test_a_park_survives_its_own_json():
    for folder in PARKS.iterdir():
        park = load_park(folder / "park.yaml")
        document = json.loads(json.dumps(park.model_dump(mode="json", by_alias=True)))
        assert Park.model_validate(document) == park


def test_a_table_gives_the_same_meters_as_a_list():
    park = load_park(PARKS / "table" / "park.yaml")
    first, heat, back, tank = park.meters
    assert (first.span, first.systematic_share, first.stale_after_s) == ((0, 100), 0.25, None)
    assert first.never_suspect is True
    assert first.u95_percent_of_reading == 1
    assert first.source.opcua.node_id == "ns=2;s=a.FT1"
    assert heat.streams == {"S30": 1, "S31": -1}
    assert heat.counter.modulus == 1e8
    assert (back.span, back.sampling, back.source.sparkplug.edge_node) == ((0, 60), "on_change", "e")
    assert (tank.node, tank.stale_after_s, tank.source.mqtt.topic) == ("a.tank", 45, "a/LT1")


@pytest.mark.parametrize(
    ("keys", "side"),
    [
        ("stream: S1", "receiver"),                      # one participant, no loss: either end, so the receiver
        ("stream: S3", "sender"),                        # the end that is not the environment
        ("stream: S4", "receiver"),
        ("stream: S2, participant: a", "sender"),        # the end of the participant that it names
        ("stream: S2, participant: b", "receiver"),
        ("stream: S2, side: sender", "sender"),
        ("streams: {S2: 1, S3: -1}, participant: a", "sender"),
    ],
)
def test_a_side_left_out_follows_where_it_does_not_matter(tmp_path, keys, side):
    assert load(tmp_path, SMALL + "meters:\n" + meter(keys)).meters[0].side == side


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        ("{id: S9, from: a.1, to: a.2, carrier: water, mass_loss_percent: {value: 1}}", "loses something"),
        ("{id: S9, from: a.1, to: a.2, carrier: water, flow_delay_s: 9}", "takes its time"),
        ("{id: S9, from: a.1, to: environment, carrier: heat, heat_loss_kw: {value: 1}}", "loses something"),
    ],
)
def test_a_side_left_out_is_a_fault_where_it_matters(tmp_path, stream, why):
    quantity = METER if "water" in stream else "quantity: heat_flow, unit: kW, u95_absolute: 1"
    text = SMALL + f"  - {stream}\nmeters:\n" + meter("stream: S9").replace(METER, quantity)
    assert why in faults(tmp_path, text)[0]


def test_a_property_needs_a_side_where_it_is_delayed(tmp_path):
    text = SMALL + "  - {id: S9, from: a.1, to: a.2, carrier: water, property_delay_s: 9}\nmeters:\n"
    assert load(tmp_path, text + meter("stream: S9")).meters[0].side == "receiver"
    warm = meter("stream: S9").replace("mass_flow, unit: t/h", "temperature, unit: degC")
    assert "delays its properties" in faults(tmp_path, text + warm)[0]


def test_a_tag_may_go_on_with_a_new_meter(tmp_path):
    one = meter("stream: S1, valid_to: 2026-06-01", 1)
    other = meter("stream: S1, valid_from: 2026-06-01", 2).replace("t/2", "t/1")
    assert len(load(tmp_path, SMALL + "meters:\n" + one + other).meters) == 2
    overlapping = other.replace("06-01", "05-31")
    assert "is that of meter 'm1' too" in faults(tmp_path, SMALL + "meters:\n" + one + overlapping)[0]


def test_what_has_no_fault_of_its_own_is_checked_beside_what_has(tmp_path):
    text = SMALL + "meters:\n" + meter("stream: S7, side: both, interval_s: -1, span: [2, 1]").replace("t/h", "MW")
    found = faults(tmp_path, text)
    assert [f.split(": ", 2)[2].split()[0] for f in found] == ["side", "interval_s", "stream", "unit", "span"]


def test_the_numbers_may_be_written_in_any_way_of_yaml(tmp_path):
    keys = "stream: S1, interval_s: 1e1, systematic_share: .5, span: [0, 0x10]"
    found = load(tmp_path, SMALL + "meters:\n" + meter(keys)).meters[0]
    assert (found.interval_s, found.systematic_share, found.span) == (10, 0.5, (0, 16))


def test_a_byte_order_mark_and_windows_lines_are_well(tmp_path):
    path = tmp_path / "park.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert len(load_park(path).streams) == 4


def test_the_unit_one_needs_no_quotes(tmp_path):
    text = SMALL + "meters:\n" + meter("stream: S1").replace("mass_flow, unit: t/h", "quality.purity, unit: 1")
    assert load(tmp_path, text).meters[0].unit == "1"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ParkError, match=r"^park\.yaml:1: there is no file .*nowhere/park\.yaml"):
        load_park(tmp_path / "nowhere" / "park.yaml")


def test_a_folder(tmp_path):
    with pytest.raises(ParkError, match=r"is a folder \(hint: name the file in it: .*park\.yaml\)"):
        load_park(str(tmp_path))


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ParkError, match=r"cannot read .*: permission denied \(hint: look at its permissions\)"):
        load_park(tmp_path / "park.yaml")


def test_a_fault_is_an_input_error_and_keeps_its_parts():
    with pytest.raises(InputError) as raised:
        load_park(ROOT / "tests" / "cases" / "park_faults" / "u95_negative" / "park.yaml")
    fault = raised.value.faults[0]
    assert (fault.file, fault.line, fault.subject) == ("park.yaml", 35, "meter 'power.FT101'")


def test_the_collector_runs_again_after_a_park_with_faults(tmp_path):
    assert faults(tmp_path, "")
    assert gc.isenabled()


def test_ten_thousand_meters_load_without_fault(tmp_path):
    spec = importlib.util.spec_from_file_location("park_load", ROOT / "benchmarks" / "park_load.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    text, table = bench.park_text(10_000, table=True)
    assert len(load(tmp_path, text, meters=table).meters) == 10_000


def test_ten_thousand_faults_are_all_told(tmp_path):
    rows = "".join(f"m{i},S9{i},sender,mass_flow,t/h,1,t/{i}\n" for i in range(10_000))
    found = faults(tmp_path, SMALL + "meters: {csv: meters.csv}\n",
                   meters="id,stream,side,quantity,unit,u95_absolute,mqtt.topic\n" + rows)
    assert len(found) == 10_000
    assert found[-1].startswith("meters.csv:10001: meter 'm9999': stream must be the id of a stream, got 'S99999'")


PIECES = (*"{}[]:,-'\"\n#&*!|>%@`?~ \t0\x00é", "null", "1e9", "[]", "{}", ": ", "true", "")


@pytest.mark.parametrize("mangle", range(100))
def test_a_mangled_park_gives_faults_and_nothing_else(tmp_path, mangle):
    """Cut, doubled and swapped lines and characters: a ParkError or a park, never another exception."""
    rng = random.Random(mangle)
    text = (PARKS / "every_key" / "park.yaml").read_text()
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(text)), rng.randrange(1, 30)
        piece = rng.choice([rng.choice(PIECES), text[at:at + length] * 2])
        text = text[:at] + piece + text[at + length:]
    path = tmp_path / "park.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        assert isinstance(load_park(path), Park)
        found = ()
    except ParkError as error:
        found = error.faults
    assert all(1 <= fault.line <= text.count("\n") + 2 for fault in found)


def test_a_draft_has_the_faults_of_shape_alone():
    draft = read_draft(ROOT / "tests" / "cases" / "park_faults" / "unknown_node" / "park.yaml")
    assert draft.faults == []
    assert len(draft.streams) == 4
