"""The park that a service falls back on when it starts again while the files are wrong."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from park.errors import ParkError
from symbiosis.park_in_force import ParkInForce
from tests.symbiosis.parks import small_park


def options(folder: Path, **more: object) -> argparse.Namespace:
    return argparse.Namespace(**{
        "park": folder / "park.yaml", "run": folder / "data" / "run.json", "supervised": True, "again": False, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    write(tmp_path)
    return tmp_path


def write(folder: Path, name: str = "Small") -> None:
    park = json.loads(small_park(name=name).model_dump_json(by_alias=True, exclude_defaults=True))
    (folder / "park.yaml").write_text(json.dumps({key: value for key, value in park.items() if value}))


def test_wrong_files_end_the_first_start(folder: Path) -> None:
    ParkInForce("collect", options(folder)).load()
    (folder / "park.yaml").write_text("park: 1")
    with pytest.raises(ParkError, match=r"park\.yaml:1"):
        ParkInForce("collect", options(folder)).load()


def test_a_service_that_starts_again_goes_on_with_the_park_it_had_and_says_so(folder: Path) -> None:
    before = ParkInForce("collect", options(folder)).load().in_force
    (folder / "park.yaml").write_text("park: 1")
    parks = ParkInForce("collect", options(folder, again=True))
    watch = parks.load()
    assert watch.in_force == before
    said: list[tuple[str, str]] = []
    watch.report_to(lambda *what: said.append(what), bool)
    parks.say(watch)
    ((result, line),) = said
    assert result == "refused"
    assert line.startswith("the changed park.yaml is refused, the one before goes on: park.yaml:1: ")


def test_a_park_that_was_taken_over_is_what_is_fallen_back_on(folder: Path) -> None:
    parks = ParkInForce("collect", options(folder))
    watch = parks.load()
    watch.in_force = watch.in_force.model_copy(update={"exchanges": ()})
    parks.keep(watch)
    (folder / "park.yaml").write_text("park: 1")
    assert ParkInForce("collect", options(folder, again=True)).load().in_force.exchanges == ()


def test_without_a_park_to_fall_back_on_wrong_files_end_it_again_too(folder: Path) -> None:
    (folder / "park.yaml").write_text("park: 1")
    with pytest.raises(ParkError):
        ParkInForce("collect", options(folder, again=True)).load()
    (folder / "data" / "park-collect.json").write_text("{")
    with pytest.raises(ParkError):
        ParkInForce("collect", options(folder, again=True)).load()


def test_a_service_by_hand_keeps_nothing(folder: Path) -> None:
    ParkInForce("collect", options(folder, supervised=False, run=None)).load()
    assert list((folder / "data").iterdir()) == []


def test_a_park_that_cannot_be_kept_is_worked_with_all_the_same(folder: Path, caplog) -> None:
    parks = ParkInForce("collect", options(folder))
    parks.load()
    kept = folder / "data" / "park-collect.json"
    before = kept.read_bytes()
    kept.with_name(kept.name + ".new").mkdir()          # what a full disk does, wherever the test runs
    assert ParkInForce("collect", options(folder)).load().in_force
    assert kept.read_bytes() == before
    assert "the park in force cannot be kept" in caplog.text
