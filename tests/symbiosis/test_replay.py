"""`symbiosis replay`: results on disk, a line on stderr, and exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

import simulators.kalundborg
from symbiosis.cli import main

PARK = Path(simulators.kalundborg.__file__).parent / "park.yaml"


def test_replay_writes_results_and_says_how_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "a.csv"
    data.write_text("time,meter,value\n2026-01-01T00:00:00Z,utility.FT-W02,80\n2026-01-01T00:00:00Z,XX9,1\n")
    assert main(["replay", str(PARK), str(data), "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("1 rows are of meters that the park has not:\n  XX9: 1, first at ")
    assert "\n2 readings, 1 windows, 0 events in " in err
    assert (tmp_path / "out" / "reconciled.csv").stat().st_size > 1000


def test_wrong_data_are_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "a.csv"
    data.write_text("when,meter,value\n")
    assert main(["replay", str(PARK), str(data), "--out", str(tmp_path / "out")]) == 2
    assert "no column 'time'" in capsys.readouterr().err


@pytest.mark.parametrize("window", ["0", "-5", "inf"])
def test_a_window_is_positive(window: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["replay", str(PARK), "a.csv", "--out", str(tmp_path), "--window", window])
    assert caught.value.code == 2
