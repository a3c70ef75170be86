from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from park.model import Park
from simulators.faults import FaultRecord
from simulators.instruments import Readings
from simulators.record import SentFile, TruthFile, iso, write_faults
from simulators.state import State
from tests.simulators.parks import meter, park_of

START = 1_800_000_000          # 2027-01-15T08:00:00Z, a whole window


def tick(seconds: float, values: list[float], status: int = 0) -> Readings:
    n = len(values)
    return Readings(round((START + seconds) * 1e6), np.arange(n), np.array(values), np.full(n, status, dtype=np.uint32))


def state(time: float, mass: list[float], heat: list[float]) -> State:
    streams, nodes = np.zeros((2, 3)), np.zeros(2)
    return State(
        time=START + time, mass_flow=np.array([mass, [2 * f for f in mass]]), heat_flow=np.array([heat, heat]),
        temperature=streams, pressure=streams, density=streams, properties={}, inventory=nodes, heat_inventory=nodes,
        mass_stored=nodes, heat_stored=nodes, component_stored={})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("time_us", "text"), [
    (START * 1_000_000, "2027-01-15T08:00:00Z"),
    (START * 1_000_000 + 250_000, "2027-01-15T08:00:00.250Z"),
    (START * 1_000_000 + 1, "2027-01-15T08:00:00.000001Z"),
])
def test_times_have_as_many_decimals_as_it_takes(time_us: int, text: str):
    assert iso(time_us) == text


class TestSent:
    def test_each_meter_counts_from_zero_and_values_keep_their_digits(self, tmp_path: Path):
        with SentFile(tmp_path / "sent.csv", ["FT1", "Fühler, 2"]) as sent:
            sent.write(tick(0, [0.1 + 0.2, 1e-12]))
            sent.mark_armed()
            sent.write(tick(5, [float("nan"), 40.0], status=0x80000000))
            assert sent.count == 4
        assert (tmp_path / "sent.csv").read_text(encoding="utf-8") == (
            "meter,seq,source_time,value,status\n"
            "FT1,0,2027-01-15T08:00:00Z,0.30000000000000004,0\n"
            '"Fühler, 2",0,2027-01-15T08:00:00Z,1e-12,0\n'
            "armed\n"
            "FT1,1,2027-01-15T08:00:05Z,,2147483648\n"
            '"Fühler, 2",1,2027-01-15T08:00:05Z,40.0,2147483648\n')

    def test_is_on_disk_before_write_returns(self, tmp_path: Path):
        path = tmp_path / "sent.csv"
        with SentFile(path, ["FT1"]) as sent:
            sent.write(tick(0, [1.0]))
            assert path.read_text(encoding="utf-8").count("\n") == 2
            sent.mark_armed()
            assert path.read_text(encoding="utf-8").endswith("armed\n")


    def test_goes_on_in_the_file_of_simulators_that_crashed(self, tmp_path: Path):
        path = tmp_path / "sent.csv"
        with SentFile(path, ["FT1"]) as sent:
            sent.write(tick(0, [1.0]))
            sent.mark_armed()
            sent.write(tick(5, [2.0]))
        with path.open("a") as file:
            file.write("FT1,2,2027-01-15T08:0")      # killed in the middle of a line
        with SentFile(path, ["FT1"]) as sent:
            sent.mark_armed()
            sent.write(tick(20, [3.0]))
        assert path.read_text(encoding="utf-8").splitlines()[1:] == [
            "FT1,0,2027-01-15T08:00:00Z,1.0,0", "armed", "FT1,1,2027-01-15T08:00:05Z,2.0,0",
            "FT1,2,2027-01-15T08:00:20Z,3.0,0"]


class TestTruth:
    @pytest.fixture
    def park(self) -> Park:
        return park_of([meter("FT1")])

    def test_a_window_is_the_mean_of_the_states_by_how_long_they_held(self, park: Park, tmp_path: Path):
        truth = TruthFile(tmp_path / "truth.csv", park)
        for time, flow in ((0, 10.0), (5, 20.0), (15, 40.0), (20, 7.0)):
            truth.add(state(time, [flow] * 3, [2 * flow] * 3))
        truth.close(START + 39.9)
        found = {(r["window_start"], r["stream"], r["quantity"]): float(r["value"])
                 for r in rows(tmp_path / "truth.csv")}
        mean = (5 * 10 + 10 * 20 + 5 * 40) / 20
        assert found["2027-01-15T08:00:00Z", "S1", "mass_flow"] == pytest.approx(mean, rel=1e-12)
        assert found["2027-01-15T08:00:00Z", "S2", "heat_flow"] == pytest.approx(2 * mean, rel=1e-12)
        assert {window for window, _, _ in found} == {"2027-01-15T08:00:00Z"}

    def test_a_window_that_began_before_the_run_is_left_out(self, park: Park, tmp_path: Path):
        truth = TruthFile(tmp_path / "truth.csv", park)
        truth.add(state(3, [1.0] * 3, [0.0] * 3))
        truth.close(START + 40)
        assert {r["window_start"] for r in rows(tmp_path / "truth.csv")} == {"2027-01-15T08:00:20Z"}

    def test_one_state_may_hold_for_several_windows(self, park: Park, tmp_path: Path):
        truth = TruthFile(tmp_path / "truth.csv", park)
        truth.add(state(0, [3.0] * 3, [0.0] * 3))
        truth.add(state(60, [9.0] * 3, [0.0] * 3))
        written = rows(tmp_path / "truth.csv")
        assert len({r["window_start"] for r in written}) == 3
        assert {r["value"] for r in written if r["quantity"] == "mass_flow"} == {"3.0"}
        truth.close(START + 60)
        truth.close(START + 100)

    def test_both_sides_where_losses_lie_between_and_energy_alone_for_heat(self, tmp_path: Path):
        base = park_of([meter("FT1")])
        streams = [base.stream["S0"].model_dump(by_alias=True) | {"mass_loss_percent": {"value": 1, "u95": 1}},
                   base.stream["S1"].model_dump(by_alias=True) | {"carrier": "material", "flow_delay_s": 60},
                   base.stream["S2"].model_dump(by_alias=True)
                   | {"carrier": "heat", "nominal": {"value": 1, "unit": "MW"}}]
        truth = TruthFile(tmp_path / "truth.csv", park_of([meter("FT1")], streams=streams))
        truth.add(state(0, [1.0, 2.0, 0.0], [5.0, float("nan"), 6.0]))
        truth.close(START + 20)
        found = [(r["stream"], r["side"], r["quantity"], r["unit"], r["value"]) for r in rows(tmp_path / "truth.csv")]
        assert found == [
            ("S0", "sender", "mass_flow", "kg/s", "1.0"), ("S0", "sender", "heat_flow", "kW", "5.0"),
            ("S0", "receiver", "mass_flow", "kg/s", "2.0"), ("S0", "receiver", "heat_flow", "kW", "5.0"),
            ("S1", "sender", "mass_flow", "kg/s", "2.0"), ("S1", "receiver", "mass_flow", "kg/s", "4.0"),
            ("S2", "sender", "heat_flow", "kW", "6.0")]


def test_faults_are_replaced_whole(tmp_path: Path):
    path = tmp_path / "faults.csv"
    write_faults(path, [])
    assert path.read_text(encoding="utf-8") == (
        "fault,kind,subject,started_at,ended_at,meters,streams,nodes,answers\n")
    record = FaultRecord("F1", "bias", "FT1", START + 40.0, START + 80.5, ("FT1",), ("S1",), ("a", "b"),
                         ("meter_bias:FT1", "volume_mismatch:X1"))
    write_faults(path, [record])
    assert path.read_text(encoding="utf-8").splitlines()[1] == (
        "F1,bias,FT1,2027-01-15T08:00:40Z,2027-01-15T08:01:20.500Z,FT1,S1,a b,meter_bias:FT1 volume_mismatch:X1")
    assert list(tmp_path.iterdir()) == [path]
