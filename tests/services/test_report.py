"""The report of a small run made by hand, from a real database."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from park.clock import RunClock
from park.store import connect, store_park
from symbiosis import report as reports
from symbiosis.runfile import RunFile
from tests.symbiosis.parks import small_park

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SENT = """\
meter,seq,source_time,value,status
armed
a.F,0,2026-01-01T00:00:10Z,36.0,0
b.T,0,2026-01-01T00:00:10Z,20.0,0
a.F,1,2026-01-01T00:00:15Z,36.9,0
"""
TRUTH = """\
window_start,stream,side,quantity,unit,value
2026-01-01T00:00:00Z,S1,sender,mass_flow,kg/s,99.0
2026-01-01T00:00:10Z,S1,sender,mass_flow,kg/s,10.0
2026-01-01T00:00:20Z,S1,sender,mass_flow,kg/s,10.0
2026-01-01T00:01:00Z,S1,sender,mass_flow,kg/s,10.0
"""
FAULTS = """\
fault,kind,subject,started_at,ended_at,meters,streams,nodes,answers
f1,bias,a.F,2026-01-01T00:00:20Z,2026-01-01T00:00:30Z,a.F,S1,a.n b.n,meter_bias:a.F volume_mismatch:X1
f2,dropout,b.T,2026-01-01T00:00:20Z,2026-01-01T00:00:30Z,b.T,S1,a.n b.n,meter_silent:b.T
"""


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


@pytest.fixture
def run(tmp_path, postgres_dsn):
    for name, text in (("sent", SENT), ("truth", TRUTH), ("faults", FAULTS)):
        (tmp_path / f"{name}.csv").write_text(text)
    with connect(postgres_dsn) as conn:
        version = store_park(conn, small_park())
        _store(conn, version)
    return RunFile(
        postgres_dsn, "park.yaml", {}, "", *(str(tmp_path / f"{name}.csv") for name in ("sent", "truth", "faults")),
        RunClock(epoch=5000.0, start=T0.timestamp(), speed=20.0),
    )


def _store(conn, version: int) -> None:
    readings = [("a.F", at(10), 10.0), ("b.T", at(10), 293.15), ("a.F", at(15), 36.9 / 3.6)]
    for meter, time, value in readings:
        conn.execute("insert into reading values (%s, %s, %s, %s, 0)", [meter, time, time, value])
    windows = [(10, "complete", 15, 25), (20, "lateness", 22, 45), (60, "revised", 61, 400)]
    for start, closed_by, last, computed in windows:
        conn.execute(
            "insert into balance_window (window_start, window_end, closed_by, readings, last_source_time, computed_at, "
            "park_version, max_relative_imbalance) values (%s, %s, %s, 2, %s, %s, %s, %s)",
            [at(start), at(start + 10), closed_by, at(last), at(computed), version, 1e-13 * start],
        )
    for start, reconciled in ((0, 10.0), (10, 10.1), (20, 12.0), (60, 9.9)):
        conn.execute(
            "insert into flow (window_start, stream, side, quantity, unit, measured, reconciled, std, status, "
            "coverage, best_meter, best_measured, park_version) values (%s, 'S1', 'sender', 'mass_flow', 'kg/s', 10, "
            "%s, 0.1, 'redundant', 1, 'a.F', 10.2, %s)", [at(start), reconciled, version],
        )
    events = [("meter_bias", "a.F", 20, "high"), ("volume_mismatch", "X1", 20, "high"), ("leak", "a.n", 40, "low")]
    for kind, subject, start, severity in events:
        conn.execute(
            "insert into event (kind, subject, started_at, severity, state, message, park_version) "
            "values (%s, %s, %s, %s, 'unacknowledged', 'm', %s)", [kind, subject, at(start), severity, version],
        )


@pytest.fixture
def made(run):
    return reports.make_report(small_park(), run)


def test_a_run_without_fault_of_delivery_is_whole(made):
    document = made.document
    assert made.is_whole
    assert (document["participants"], document["exchanges"]) == (2, 1)
    assert [document[f"values_{name}"] for name in ("published", "expected", "stored")] == [3, 3, 3]
    assert [document[f"values_{name}"] for name in ("lost", "unsent", "altered", "conflict")] == [0, 0, 0, 0]


def test_latency_is_wall_time_after_the_last_reading_without_the_lateness(made):
    # complete: (25 - 15) s of run time; lateness: (45 - (20 + 10 + 5)) s; the revised one does not count
    assert made.document["latency_p50_s"] == pytest.approx(10 / 20)
    assert made.document["latency_p95_s"] == pytest.approx(10 / 20)
    assert made.document["latency_excludes_lateness_s"] == 5.0
    assert made.document["windows_reconciled"] == 3
    assert made.document["max_relative_imbalance"] == pytest.approx(6e-12)


def test_errors_count_windows_after_arming_and_what_faults_touched_apart(made):
    document = made.document
    assert document["accuracy_rows"] == 2
    assert document["error_best_meter"] == pytest.approx(0.4 / 20)
    assert document["error_reconciled"] == pytest.approx(0.2 / 20)
    assert document["rms_over_predicted"] == pytest.approx(1.0)
    assert document["accuracy_rows_faulted"] == 1
    assert document["error_reconciled_faulted"] == pytest.approx(0.2)


def test_each_fault_is_answered_by_its_event_or_said_to_be_unanswered(made):
    bias, dropout = made.document["faults_injected"]
    assert bias["answered"]
    assert [event["kind"] for event in bias["answered_by"]] == ["meter_bias", "volume_mismatch"]
    assert not dropout["answered"]
    assert made.document["faults_unanswered"] == ["f2"]
    assert [event["kind"] for event in made.document["events_unexpected"]] == ["leak"]
    assert len(made.document["events"]) == 3


def test_an_event_long_before_or_after_a_fault_answers_nothing(run):
    with connect(run.dsn) as conn:
        conn.execute("update event set started_at = %s where kind = 'meter_bias'", [at(120)])
        conn.execute("update event set started_at = %s where kind = 'volume_mismatch'", [at(5)])
    document = reports.make_report(small_park(), run).document
    assert document["faults_unanswered"] == ["f1", "f2"]
    assert len(document["events_unexpected"]) == 3


def test_a_reading_that_is_gone_is_lost_and_one_in_a_marked_gap_is_not(run):
    with connect(run.dsn) as conn:
        conn.execute("delete from reading where meter = 'b.T'")
    made = reports.make_report(small_park(), run)
    assert (made.document["values_lost"], made.document["gaps_unmarked"], made.is_whole) == (1, 1, False)
    with connect(run.dsn) as conn:
        conn.execute("insert into gap (source, started_at, ended_at, cause) values ('mqtt', %s, %s, 'broker killed')",
                     [at(9), at(12)])
    made = reports.make_report(small_park(), run)
    assert (made.document["values_lost"], made.document["values_in_gaps"], made.is_whole) == (0, 1, True)
    assert made.document["gap_list"] == [{
        "source": "mqtt", "meter": None, "started_at": "2026-01-01T00:00:09Z", "ended_at": "2026-01-01T00:00:12Z",
        "cause": "broker killed", "values_missing": 1,
    }]


def test_readings_of_an_earlier_run_in_the_same_store_are_none_of_this_one(run):
    with connect(run.dsn) as conn:
        conn.execute("insert into reading values ('a.F', %s, %s, 1.0, 0)", [at(-100), at(-99)])
        conn.execute("insert into reading_conflict (meter, source_time, received_at, status, stored_status) "
                     "values ('a.F', %s, %s, 0, 0)", [at(-100), at(-99)])
    assert reports.make_report(small_park(), run).is_whole
    with connect(run.dsn) as conn:
        conn.execute("insert into reading values ('a.F', %s, %s, 1.0, 0)", [at(-98), at(11)])     # nobody sent it
        conn.execute("insert into reading_conflict (meter, source_time, received_at, status, stored_status) "
                     "values ('a.F', %s, %s, 0, 0)", [at(10), at(12)])
    made = reports.make_report(small_park(), run)
    assert (made.document["values_unsent"], made.document["values_conflict"], made.is_whole) == (1, 1, False)


def test_the_file_is_json_with_full_precision_and_without_nan(made, tmp_path):
    made.document["not_a_number"] = float("nan")
    made.document["third"] = 1 / 3
    reports.write_report(made, tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert read["not_a_number"] is None
    assert read["third"] == 1 / 3
    assert read["run"]["armed_at"] == "2026-01-01T00:00:10Z"
    assert [path.name for path in tmp_path.glob("*report*")] == ["report.json"]
