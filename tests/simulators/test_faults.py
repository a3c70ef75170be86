from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, pairwise

import numpy as np
import pytest

from park.errors import InputError
from park.model import Park
from simulators.faults import DEFECTS, FaultSchedule, answers_to
from simulators.instruments import Readings, Schedule
from simulators.sampling import Sampler
from simulators.scenario import FAULT_KINDS, Scenario
from simulators.state import Excursion
from tests.simulators.parks import meter, park_of

START = 1_800_000_000.0            # a multiple of the window of 20 s


def scenario(**fault: object) -> Scenario:
    """One fault, from 40 s to 80 s after arming, of the meter FT1."""
    default = {"id": "F1", "subject": "FT1", "after_s": 40, "duration_s": 40}
    return Scenario.model_validate({"faults": [default | fault]})


def readings(park: Park, faults: Scenario, ticks: int = 30, *, armed: float | None = START) -> list[Readings]:
    sampler = Sampler(park, faults, seed=5, start=START, on_state=lambda state: None)
    if armed is not None:
        sampler.faults.arm(armed)
    return [sampler.read(tick) for tick in islice(Schedule(park.meters).ticks(START), ticks)]


def series(given: Iterable[Readings], position: int) -> dict[float, float]:
    """Values of one meter by seconds after the start."""
    return {r.time_us / 1e6 - START: float(v) for r in given for i, v in zip(r.index, r.values, strict=True)
            if i == position}


PARK = park_of([meter("FT1"), meter("FT2", side="receiver")])
CLEAN = readings(PARK, Scenario())


def assert_only_struck(given: dict[float, float], clean: dict[float, float]) -> None:
    """Outside the fault's time every reading is as it would have been."""
    outside = [t for t in clean if not 40 <= t < 80]
    assert [given[t] for t in outside] == [clean[t] for t in outside]


def test_without_faults_and_before_arming_nothing_is_struck():
    unarmed = readings(PARK, scenario(kind="dropout"), armed=None)
    assert [series(unarmed, i) for i in (0, 1)] == [series(CLEAN, i) for i in (0, 1)]


@pytest.mark.parametrize(("size", "factor", "amount"), [
    ({"size_percent": 10}, 1.1, 0.0), ({"size_percent": -5}, 0.95, 0.0),
    ({"size": {"value": 2.0, "unit": "t/h"}}, 1.0, 2.0), ({"size": {"value": 1.0, "unit": "kg/s"}}, 1.0, 3.6),
])
def test_bias_is_off_by_its_size_while_it_is_on(size: dict[str, object], factor: float, amount: float):
    struck, clean = series(readings(PARK, scenario(kind="bias", **size)), 0), series(CLEAN, 0)
    during = [t for t in clean if 40 <= t < 80]
    assert len(during) == 8
    assert [struck[t] for t in during] == pytest.approx([clean[t] * factor + amount for t in during], abs=0.011)
    assert_only_struck(struck, clean)


def test_dropout_hands_on_nothing_while_it_is_on():
    struck, clean = series(readings(PARK, scenario(kind="dropout")), 0), series(CLEAN, 0)
    assert sorted(set(clean) - set(struck)) == [40, 45, 50, 55, 60, 65, 70, 75]
    assert_only_struck(struck, clean)


def test_stuck_repeats_the_last_value_at_new_source_times():
    struck, clean = series(readings(PARK, scenario(kind="stuck")), 0), series(CLEAN, 0)
    assert {struck[t] for t in struck if 40 <= t < 80} == {clean[35]}
    assert set(struck) == set(clean)
    assert_only_struck(struck, clean)


def test_stuck_from_the_first_reading_repeats_that():
    struck = series(readings(PARK, scenario(kind="stuck", after_s=0)), 0)
    assert {struck[t] for t in struck if t < 40} == {series(CLEAN, 0)[0]}


def test_other_meters_are_left_alone():
    for kind in ("dropout", "stuck"):
        assert series(readings(PARK, scenario(kind=kind)), 1) == series(CLEAN, 1)


def test_faults_come_again_and_may_move_to_the_next_meter():
    faults = scenario(kind="dropout", duration_s=20, every_s=60, subject=None, subjects=["FT1", "FT2"])
    given = readings(PARK, faults, ticks=40)
    missing = [sorted(set(series(CLEAN, i)) - set(series(given, i))) for i in (0, 1)]
    assert [t for t in missing[0] if t < 150] == [40, 45, 50, 55]
    assert [t for t in missing[1] if t < 150] == [100, 105, 110, 115]


def test_a_bias_of_a_counter_adds_up():
    keys = {"quantity": "mass_total", "unit": "t", "counter": {"modulus": 1e6, "resolution": 0.0001},
            "u95_percent_of_reading": None}
    park = park_of([meter("FT1", **keys)])
    struck = series(readings(park, scenario(kind="bias", size_percent=50)), 0)
    clean = series(readings(park, Scenario()), 0)
    assert struck[40 - 5] == clean[40 - 5]
    assert struck[145] - clean[145] == pytest.approx(0.5 * (clean[75] - clean[35]), abs=0.001)


class TestSchedule:
    def schedule(self, faults: Scenario, park: Park = PARK) -> tuple[FaultSchedule, list[Excursion]]:
        told: list[Excursion] = []

        def tell(excursion: Excursion) -> None:
            if excursion.stream not in park.stream:
                raise ValueError(f"no stream {excursion.stream!r} in the park")
            if excursion.ended_at > START:
                told.append(excursion)

        return FaultSchedule(park, faults, tell), told

    def test_begins_with_the_first_whole_window_after_arming(self):
        schedule, _ = self.schedule(scenario(kind="dropout"))
        schedule.arm(START + 0.1)
        assert schedule.armed_at == START + 20
        schedule.arm(START + 500)
        assert schedule.armed_at == START + 20

    def test_is_on_from_start_to_end_and_says_when_that_changes(self):
        schedule, _ = self.schedule(scenario(kind="dropout"))
        assert not schedule.advance(START)
        schedule.arm(START)
        changed = {t: schedule.advance(START + t) for t in (0, 35, 40, 75, 80, 85)}
        assert [t for t, change in changed.items() if change] == [40, 80]
        assert schedule.struck == frozenset()

    def test_records_what_is_on_and_what_was(self):
        schedule, _ = self.schedule(scenario(kind="dropout"))
        schedule.arm(START)
        schedule.advance(START + 40)
        (record,) = schedule.records(START + 60)
        assert (record.started_at, record.ended_at) == (START + 40, START + 60)
        schedule.advance(START + 80)
        (record,) = schedule.records(START + 200)
        assert (record.fault, record.kind, record.subject) == ("F1", "dropout", "FT1")
        assert (record.started_at, record.ended_at) == (START + 40, START + 80)

    def test_an_excursion_is_told_before_it_starts_and_each_time(self):
        park = park_of([meter("QT1", quantity="quality.conductivity", unit="uS/cm", u95_absolute=5.0)])
        fault = {"kind": "quality_excursion", "subject": {"stream": "S1", "property": "conductivity"},
                 "size": {"value": 100, "unit": "uS/cm"}, "every_s": 100}
        schedule, told = self.schedule(scenario(**fault), park)
        schedule.arm(START)
        assert told == [Excursion("S1", "conductivity", START + 40, START + 80, pytest.approx(0.01))]
        schedule.advance(START + 40)
        assert [e.started_at - START for e in told] == [40, 140]
        (record,) = schedule.records()
        assert (record.subject, record.meters, record.streams) == ("S1.conductivity", ("QT1",), ("S1",))
        assert record.answers == ("quality_deviation:X1",)
        assert schedule.struck == frozenset()           # its meters tell the truth

    def test_everything_that_is_not_in_the_park_is_told_at_once(self):
        faults = Scenario.model_validate({"faults": [
            {"id": "a", "kind": "dropout", "subject": "nobody", "after_s": 0, "duration_s": 1},
            {"id": "b", "kind": "quality_excursion", "subject": {"stream": "S9", "property": "purity"},
             "size_percent": 5, "after_s": 0, "duration_s": 1}]})
        with pytest.raises(InputError, match=r"(?s)'a': no meter 'nobody'.*'b': no stream 'S9'"):
            self.schedule(faults)

    def test_a_kind_that_is_not_simulated_is_told(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("simulators.faults.DEFECTS", {})
        with pytest.raises(InputError, match="the kind 'dropout' is not simulated yet"):
            self.schedule(scenario(kind="dropout"))


def test_every_kind_that_strikes_a_meter_does_something():
    assert {kind.name for kind in FAULT_KINDS.values() if kind.strikes == "meter"} == set(DEFECTS)


@pytest.mark.parametrize(("keys", "kind", "answers"), [
    ({}, "bias", ("meter_bias:FT1", "volume_mismatch:X1", "volume_mismatch:X2")),
    ({"quantity": "temperature", "unit": "degC", "u95_absolute": 0.5}, "bias",
     ("meter_bias:FT1", "volume_mismatch:X2")),
    ({"quantity": "quality.conductivity", "unit": "uS/cm", "u95_absolute": 5.0}, "bias", ("meter_bias:FT1",)),
    ({"stream": "S0", "side": "receiver"}, "bias", ("meter_bias:FT1",)),
    ({}, "dropout", ("meter_silent:FT1",)),
    ({}, "stuck", ("meter_stuck:FT1",)),
])
def test_the_events_that_answer_a_fault(keys: dict[str, object], kind: str, answers: tuple[str, ...]):
    park = park_of([meter("FT1", **keys)])
    size = {"size_percent": 5} if kind == "bias" else {}
    occurrence = next(scenario(kind=kind, **size).faults[0].occurrences())
    assert answers_to(occurrence, park) == answers


def test_a_fault_touches_the_balances_that_its_reading_goes_into():
    tank = {"stream": None, "side": None, "node": "beta.vat", "quantity": "inventory", "unit": "t"}
    park = park_of([meter("FT1"), meter("LT1", **tank), meter("FT0", stream="S0", side="receiver")])
    for subject, streams, nodes in (("FT1", ("S1",), ("alpha.pump", "beta.vat")), ("LT1", (), ("beta.vat",)),
                                    ("FT0", ("S0",), ("alpha.pump",))):
        schedule = FaultSchedule(park, scenario(kind="dropout", subject=subject), lambda e: None)
        schedule.arm(START)
        schedule.advance(START + 50)
        (record,) = schedule.records()
        assert (record.streams, record.nodes) == (streams, nodes)


def test_on_change_hands_on_a_value_only_when_it_is_new():
    park = park_of([meter("FT1", sampling="on_change", u95_percent_of_reading=2.0),
                    meter("FT2", u95_percent_of_reading=2.0)])
    clean = readings(park, Scenario())
    periodic, on_change = series(clean, 1), series(clean, 0)
    assert len(periodic) == 30
    values = list(on_change.values())
    assert len(values) > 5
    assert all(before != after for before, after in pairwise(values))
    stuck = series(readings(park, scenario(kind="stuck")), 0)
    assert not [t for t in stuck if 40 <= t < 80]


def test_an_excursion_of_a_property_that_the_plant_has_not_is_told_at_once():
    fault = {"kind": "quality_excursion", "subject": {"stream": "S1", "property": "redness"}, "size_percent": 5}
    with pytest.raises(InputError, match=r"fault 'F1': no stream with a property S1.redness"):
        readings(PARK, scenario(**fault))


def test_a_meter_of_what_the_plant_has_not_is_known_and_reads_bad():
    base = park_of([meter("FT1")])
    solid = [s.model_dump(by_alias=True) | ({"carrier": "material"} if s.id == "S1" else {}) for s in base.streams]
    park = park_of([meter("FT1"), meter("HT1", quantity="heat_flow", unit="MW")], streams=solid)
    sampler = Sampler(park, Scenario(), seed=1, start=START, on_state=lambda state: None)
    assert sampler.unknown.tolist() == [False, True]
    first = sampler.read(next(Schedule(park.meters).ticks(START)))
    assert first.statuses.tolist() == [0, 0x80000000]
    assert np.isnan(first.values).tolist() == [False, True]


def test_a_meter_samples_only_while_it_stands_in_the_plant():
    since, until = "2027-01-15T08:00:20+00:00", "2027-01-15T08:00:40+00:00"       # START is 08:00:00
    park = park_of([meter("FT1", valid_from=since, valid_to=until)])
    assert list(series(readings(park, Scenario()), 0)) == [20, 25, 30, 35]


def test_a_meter_shows_the_steps_that_the_scenario_gives_it():
    shown = series(readings(PARK, Scenario.model_validate({"resolution": {"FT1": 2.0}})), 0)
    assert {value % 2.0 for value in shown.values()} == {0.0}
    with pytest.raises(InputError, match="resolution: no meters 'FT9' in the park"):
        readings(PARK, Scenario.model_validate({"resolution": {"FT9": 2.0}}))


def test_same_seed_same_readings():
    again = readings(PARK, Scenario())
    assert all(np.array_equal(a.values, b.values) for a, b in zip(CLEAN, again, strict=True))
