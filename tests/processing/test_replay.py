"""Replay: the files of the contract, the results of the live chain, any order and form of the data, wrong files."""

from __future__ import annotations

import csv
import gzip
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from park.errors import InputError
from park.units import conversion
from processing.chain import Chain
from processing.recordings import Recordings
from processing.replay import replay
from processing.result_files import iso
from simulators.scenario import Scenario
from tests.processing.parks import SCENARIO, works
from tests.processing.simulated import START, Simulated
from tests.processing.test_chain import play

S = 1_000_000
FAULTS = [{"id": "d", "kind": "dropout", "subject": "WT4", "after_s": 200, "duration_s": 100}]
COLUMNS = {
    "reconciled": "window_start,stream,side,quantity,unit,measured,reconciled,std,adjustment,status,coverage",
    "nodes": "window_start,node,quantity,unit,imbalance,stored,std",
    "meters": "window_start,meter,unit,measured,expected,test_statistic,suspect",
    "events": "event,kind,subject,started_at,ended_at,severity,value,limit,message",
    "statements": "exchange,period_start,period_end,unit,sender_total,receiver_total,reconciled_total,u95,coverage,"
                  "in_spec,settled_total,settled_by,revision",
}


def recorded(seconds: float = 400, windows: int = 20) -> list[tuple[str, str, float, str]]:
    """Rows of a simulated run, in the meters' units."""
    sim = Simulated(works(), Scenario.model_validate({**SCENARIO, "faults": FAULTS}), seed=1)
    sim.sampler.faults.arm(START)
    list(sim.windows(windows, keep_s=1e9))
    units = [conversion(m.unit) for m in sim.park.meters]
    return [(iso(int(t)), sim.park.meters[m].id, float(units[m].from_si(v)), "good")
            for m, t, v in zip(sim.readings.meter, sim.readings.time_us, sim.readings.value, strict=True)]


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str, float, str]]:
    return recorded()


def write(path: Path, rows, header=("time", "meter", "value", "quality")) -> Path:
    with (gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w")) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(row[: len(header)] for row in rows)
    return path


def read(out: Path, name: str) -> list[dict[str, str]]:
    with (out / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def number(entry: object) -> float:
    return float(entry) if entry not in (None, "") else np.nan


def test_replay_writes_the_files_of_the_contract(tmp_path, rows):
    told = []
    done = replay(works(), [write(tmp_path / "a.csv", rows)], tmp_path / "out",
                  on_progress=lambda *state: told.append(state))
    assert (done.read.rows, done.read.unknown, done.windows, done.events) == (len(rows), {}, 20, 1)
    for name, columns in COLUMNS.items():
        assert (tmp_path / "out" / f"{name}.csv").read_text().startswith(columns)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(f"{name}.csv" for name in COLUMNS)
    size = (tmp_path / "a.csv").stat().st_size
    assert (told[0], ("reading", size, size) in told) == (("reading", 0, size), True)
    assert told[-1] == ("windows", 20, 20)
    event, = read(tmp_path / "out", "events")
    assert (event["kind"], event["subject"], event["started_at"], event["ended_at"]) == (
        "meter_silent", "WT4", "2026-01-01T00:03:20Z", "2026-01-01T00:05:00Z")


def test_replay_gives_what_the_chain_gives_to_the_last_digit(tmp_path, rows):
    replay(works(), [write(tmp_path / "a.csv", rows)], tmp_path / "out")
    twin = Simulated(works(), Scenario.model_validate({**SCENARIO, "faults": FAULTS}), seed=1)
    twin.sampler.faults.arm(START)
    expected = {(iso(r.start_us), f.stream, f.side, f.quantity): (number(f.reconciled), number(f.std))
                for r in play(Chain(works()), twin, 20) for f in r.rows.flows}
    found = {(r["window_start"], r["stream"], r["side"], r["quantity"]): (number(r["reconciled"]), number(r["std"]))
             for r in read(tmp_path / "out", "reconciled")}
    assert found.keys() == expected.keys()
    for key, values in expected.items():        # values went through the meters' units and back: not bit for bit
        assert found[key] == pytest.approx(values, rel=1e-9, nan_ok=True)


def test_order_files_and_form_do_not_matter(tmp_path, rows):
    replay(works(), [write(tmp_path / "a.csv", rows)], tmp_path / "plain")
    mixed = rows.copy()
    random.Random(0).shuffle(mixed)
    half = len(mixed) // 2
    names = ("time", "meter", "value", "quality")
    table = pa.table({name: [row[k] for row in mixed[half:]] for k, name in enumerate(names)})
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    replay(works(), [write(tmp_path / "b.csv.gz", mixed[:half]), tmp_path / "c.parquet"], tmp_path / "mixed")
    for name in COLUMNS:
        assert (tmp_path / "plain" / f"{name}.csv").read_bytes() == (tmp_path / "mixed" / f"{name}.csv").read_bytes()


def test_parquet_with_timestamps_is_read(tmp_path, rows):
    write(tmp_path / "a.csv", rows)
    times = pa.array([row[0] for row in rows]).cast(pa.timestamp("ms", "UTC"))
    pyarrow.parquet.write_table(pa.table({
        "time": times, "meter": [row[1] for row in rows], "value": [row[2] for row in rows]}), tmp_path / "a.parquet")
    for suffix in ("csv", "parquet"):
        replay(works(), [tmp_path / f"a.{suffix}"], tmp_path / suffix)
    assert (tmp_path / "csv" / "reconciled.csv").read_bytes() == (tmp_path / "parquet" / "reconciled.csv").read_bytes()


def test_bad_and_unknown_readings_and_other_windows(tmp_path, rows):
    bad = [(t, m, v, "bad" if m == "FT8" else q) for t, m, v, q in rows]
    done = replay(works(), [write(tmp_path / "a.csv", [*bad, (rows[0][0], "XX9", 1.0, "good")])], tmp_path / "out",
                  window_s=100)
    assert {meter: (e.rows, e.first) for meter, e in done.read.unknown.items()} == {
        "XX9": (1, f"{tmp_path / 'a.csv'}, row {len(bad) + 1}")}
    assert done.windows == 4
    assert "FT8" not in {r["meter"] for r in read(tmp_path / "out", "meters")}


def test_time_without_any_reading_has_no_windows_and_makes_nobody_silent(tmp_path, rows):
    cut = [row for row in rows if not "00:01:00" <= row[0][11:19] < "00:03:00" and row[0][11:19] < "00:03:20"]
    done = replay(works(), [write(tmp_path / "a.csv", cut)], tmp_path / "out")
    assert (done.windows, done.events) == (4, 0)


GOOD = ("2026-01-01T00:00:00Z", "FT1", "1.0", "good")


@pytest.mark.parametrize(("header", "row", "message"), [
    (("time", "meter"), GOOD, "wrong.csv:1: no column 'value'"),
    (("time", "meter", "value", "value"), GOOD, "wrong.csv:1: column 'value' is there twice"),
    (("time", "meter", "value"), ("2026-01-01T00:00:00", "FT1", 1.0),
     "wrong.csv:3: time '2026-01-01T00:00:00' must be ISO 8601 with an offset"),
    (("time", "meter", "value", "quality"), (*GOOD[:3], "fine"),
     "wrong.csv:3: quality must be good, uncertain or bad, got 'fine'"),
    (("time", "meter", "value"), (*GOOD[:2], "much"), "wrong.csv:3: value must be a finite number, got 'much'"),
    (("time", "meter", "value"), (*GOOD[:2], "inf"), "wrong.csv:3: value must be a finite number, got 'inf'"),
    (("time", "meter", "value"), ("yesterday+00:00", "FT1", 1.0), "wrong.csv:3: time 'yesterday.00:00' must be"),
    (("time", "meter", "value"), ("9999-12-31T23:59:59Z", "FT1", 1.0), "wrong.csv:3: time .* from 1970 to 2200"),
    (("time", "meter", "value"), ("0001-01-01T00:00:00Z", "FT1", 1.0), "wrong.csv:3: time .* from 1970 to 2200"),
    (("time", "meter", "value"), (GOOD[0],), "wrong.csv:3: must have as many entries"),
])
def test_wrong_rows_are_refused_with_file_line_and_reason(tmp_path, header, row, message):
    path = tmp_path / "wrong.csv"
    lines = [header, GOOD[: len(header)], row]
    path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    with pytest.raises(InputError, match=message) as caught:
        replay(works(), [path], tmp_path / "out")
    assert str(path) in str(caught.value)


def test_what_is_no_text_is_refused_with_its_file(tmp_path):
    path = tmp_path / "wrong.csv"
    path.write_bytes(bytes(range(128, 256)) * 100 + b"\n\xff\xfe,\x00\n")
    with pytest.raises(InputError, match=str(path)):
        replay(works(), [path], tmp_path / "out")


def test_times_of_parquet_beyond_any_calendar_are_refused_with_their_row(tmp_path):
    path = tmp_path / "a.parquet"
    times = pa.array([0, 2**62], pa.timestamp("us", "UTC"))
    pyarrow.parquet.write_table(pa.table({"time": times, "meter": ["FT1", "FT1"], "value": [1.0, 1.0]}), path)
    with pytest.raises(InputError, match="from 1970 to 2200"):
        replay(works(), [path], tmp_path / "out")


def test_every_fault_has_its_line_and_many_are_counted(tmp_path):
    path = tmp_path / "a.csv"
    wrong = ["2026-01-01T00:00:00Z,FT1,x", "", "2026-01-01T00:00:05Z,FT1,1", *["never,FT1,1"] * 12]
    path.write_text("\n".join(["time,meter,value", *wrong]) + "\n")
    with pytest.raises(InputError) as caught:
        replay(works(), [path], tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}:2: value must be a finite number, got 'x'")
    assert lines[1].startswith(f"{path}:5: time 'never'")
    assert (len(lines), lines[-1]) == (11, f"{path}: and 3 more")


def test_wrong_rows_of_parquet_have_their_number(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({
        "time": ["2026-01-01T00:00:00Z"] * 3, "meter": ["FT1"] * 3, "value": [1.0, float("inf"), 1.0]}), path)
    with pytest.raises(InputError, match=r"a\.parquet, row 2: value must be a finite number, got inf"):
        replay(works(), [path], tmp_path / "out")


def test_repeated_and_contradicting_rows_are_counted_and_the_first_stays(tmp_path, rows):
    time, meter, value, quality = rows[0]
    more = [(time, meter, value, quality), (time, meter, value + 1.0, quality), (time, meter, value, "bad")]
    done = replay(works(), [write(tmp_path / "a.csv", [*rows, *more])], tmp_path / "out")
    assert (done.read.rows, done.read.repeated, done.read.contradicted) == (len(rows) + 3, 1, 2)
    assert done.read.contradictions[0].startswith(f"{meter} at 2026-01-01T00:00:00")
    replay(works(), [write(tmp_path / "b.csv", rows)], tmp_path / "plain")
    assert (tmp_path / "out" / "meters.csv").read_bytes() == (tmp_path / "plain" / "meters.csv").read_bytes()


def test_row_without_a_value_is_a_bad_reading(tmp_path, rows):
    empty = [(t, m, "" if m == "FT8" else v, q) for t, m, v, q in rows]
    done = replay(works(), [write(tmp_path / "a.csv", empty)], tmp_path / "out", window_s=100)
    assert done.read.rows == len(rows)
    assert "FT8" not in {r["meter"] for r in read(tmp_path / "out", "meters")}
    assert any("only bad values" in r["message"] for r in read(tmp_path / "out", "events"))


def test_buckets_hold_hours_however_long_windows_are(tmp_path):
    park = works()
    for window_s, windows in ((20.0, 360), (3600.0, 2), (86400.0, 1)):
        info = park.park.model_copy(update={"window_s": window_s})
        assert Recordings(tmp_path, park.model_copy(update={"park": info})).windows == windows


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.xlsx").write_text("")
    for name in ("a.xlsx", "missing.csv"):
        with pytest.raises(InputError, match=name):
            replay(works(), [tmp_path / name], tmp_path / "out")


def test_memory_does_not_grow_with_the_length_of_the_data(tmp_path, monkeypatch, rows):
    """The readings in memory at once are those of a bucket and of the reach before it, however long the data."""
    monkeypatch.setattr("processing.recordings.BUCKET_S", 40.0)
    most = []
    run = Chain.run

    def watched(self, readings, *rest):
        most.append(len(readings))
        return run(self, readings, *rest)

    monkeypatch.setattr(Chain, "run", watched)
    one = [row for row in rows if row[1] == "FT8"]
    long = [(iso(START * S + k * 5 * S), "FT8", one[k % len(one)][2], "good") for k in range(1200)]
    replay(works(), [write(tmp_path / "a.csv", long)], tmp_path / "out")
    assert max(most) < 600
    assert len(most) == 300
    assert np.max(most[:150]) == np.max(most[-150:])
