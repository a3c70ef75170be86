"""Files of a park that change under a running service."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from park.load import load_park
from park.model import Park
from park.watch import LOOK_S, ParkWatch

PARK = """
park: {name: Test park, timezone: UTC}
participants: [{id: a, name: A}, {id: b, name: B}]
nodes: [{id: a.n, participant: a, conserves: [mass]}, {id: b.n, participant: b, conserves: [mass]}]
streams: [{id: S1, from: a.n, to: b.n, carrier: water}]
meters: {csv: meters.csv}
"""
METERS = """id,stream,side,quantity,unit,u95_percent_of_reading,mqtt.topic
A,S1,sender,mass_flow,t/h,1.0,plant/A
"""


class Watched:
    """A watch over files in a folder, with a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.yaml, self.csv = folder / "park.yaml", folder / "meters.csv"
        self.yaml.write_text(PARK)
        self.csv.write_text(METERS)
        self.told: list[tuple[str, str]] = []
        self.asked = 0
        self.now = 0.0
        self.watch = ParkWatch(self.yaml, load_park(self.yaml), lambda *said: self.told.append(said), self._ask,
                               lambda: self.now)

    def _ask(self) -> None:
        self.asked += 1

    def looks(self, times: int = 3) -> Park | None:
        """Ask over some looks; the reading is waited for."""
        for _ in range(times):
            self.now += LOOK_S
            if (park := self.watch.take()) is not None:
                return park
            if self.watch._reading is not None:
                self.watch._reading.join(10)
        return self.watch.take()


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_files_that_stay_as_they_are_give_nothing(watched):
    assert watched.looks(5) is None
    assert watched.asked == 6
    assert watched.told == []


def test_a_changed_table_of_meters_gives_the_park_once(watched):
    watched.csv.write_text(METERS + "B,S1,receiver,mass_flow,t/h,1.0,plant/B\n")
    park = watched.looks()
    assert [meter.id for meter in park.meters] == ["A", "B"]
    assert watched.looks(5) is None
    watched.watch.accept("it is collected")
    assert watched.told == [("applied", "park.yaml has changed: meter 'B' added; it is collected")]


def test_a_file_is_not_read_while_it_still_changes(watched):
    watched.csv.write_text(METERS + "B,S1")
    assert watched.looks(1) is None
    watched.csv.write_text(METERS + "B,S1,receiver,mass_flow,t/h,1.0,plant/B\n")
    assert watched.looks(1) is None
    assert len(watched.looks(2).meters) == 2
    assert watched.told == []


def test_a_wrong_file_is_refused_once_with_every_fault_and_a_right_one_after_it_is_taken(watched):
    watched.csv.write_text(METERS.replace("t/h", "t/fortnight").replace("1.0", "-1"))
    assert watched.looks(5) is None
    ((result, line),) = watched.told
    assert result == "refused"
    assert line.startswith("the changed park.yaml is refused, the one before goes on: meters.csv:2: ")
    assert "t/fortnight" in line
    assert "u95_percent_of_reading must be positive" in line
    watched.csv.write_text(METERS.replace("1.0", "2.0"))
    assert watched.looks().meters[0].u95_percent_of_reading == 2.0


def test_a_table_that_the_park_names_anew_is_watched_too(watched):
    other = watched.yaml.with_name("others.csv")
    other.write_text(METERS.replace("A,", "C,"))
    watched.yaml.write_text(PARK.replace("meters.csv", "others.csv"))
    assert [meter.id for meter in watched.looks().meters] == ["C"]
    watched.looks(2)
    other.write_text(METERS.replace("A,", "D,"))
    assert [meter.id for meter in watched.looks().meters] == ["D"]


def test_a_file_that_is_saved_unchanged_or_away_for_a_moment_changes_nothing(watched):
    watched.csv.unlink()
    assert watched.looks(1) is None
    watched.csv.write_text(METERS)
    assert watched.looks(4) is None
    assert watched.told == []


def test_a_file_that_is_gone_is_refused(watched):
    watched.yaml.unlink()
    assert watched.looks() is None
    assert "there is no file" in watched.told[0][1]


def test_another_name_is_refused(watched):
    watched.yaml.write_text(PARK.replace("Test park", "Other park"))
    assert watched.looks() is None
    assert "name is 'Other park' and was 'Test park'" in watched.told[0][1]


def test_in_a_hurry_a_change_is_read_at_once(watched):
    watched.csv.write_text(METERS.replace("1.0", "2.0"))
    watched.watch.hurry()
    deadline = time.monotonic() + 10
    park = None
    while park is None and time.monotonic() < deadline:
        park = watched.watch.take()
    assert park.meters[0].u95_percent_of_reading == 2.0


def test_what_was_taken_may_still_be_refused(watched):
    watched.watch.refuse("node id 'x' is malformed")
    assert watched.told == [
        ("refused", "the changed park.yaml is refused, the one before goes on: node id 'x' is malformed")]
