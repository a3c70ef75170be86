"""What a run was worth: what was sent against what was stored, results against truth, faults against events.

Written after the run, by nobody else and from nothing but the files of the simulators and the store. The parts:
`symbiosis.delivery` (readings), `symbiosis.accuracy` (flows), `processing.account` (the year table), and here events
and time. The main path enters at `make_report`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg

from park.clock import RunClock
from park.model import Park
from park.store import connect
from symbiosis.accuracy import Accuracy, InjectedFault, by_quantity, read_faults, results_with_truth, touched
from symbiosis.delivery import Delivery, Gap, compare
from symbiosis.runfile import RunFile
from symbiosis.tables import query

WINDOWS = """
    select (extract(epoch from window_end) * 1000000)::bigint as end_us, closed_by,
           (extract(epoch from last_source_time) * 1000000)::bigint as last_us,
           (extract(epoch from computed_at) * 1000000)::bigint as computed_us, max_relative_imbalance
      from window_log where window_start >= {since}
"""
EVENTS = """
    select event, kind, subject, started_at, ended_at, severity, state, value, limit_value, message
      from event_list where started_at >= to_timestamp(%s) order by event
"""


@dataclass(frozen=True)
class Report:
    """A report as JSON, and the verdict on it."""

    document: dict[str, Any]
    is_whole: bool              # nothing lost, unsent, altered, in conflict, and no unmarked gap
    summary: tuple[str, ...]    # lines for people


@dataclass(frozen=True)
class Event:
    """An event of the run; times in microseconds since 1970."""

    event: int
    kind: str
    subject: str
    started_us: int
    document: dict[str, Any]


def make_report(park: Park, run: RunFile) -> Report:
    """Make the report of a run whose services have stopped; its database still runs.

    Raises
    ------
    StoreError
        If the database cannot be reached.
    OSError
        If a file of the simulators cannot be read.
    """
    with connect(run.dsn, application="symbiosis report") as conn:
        delivery = compare(conn, park, run.clock, Path(run.sent))
        document: dict[str, Any] = {
            "participants": len(park.participants),
            "exchanges": len(park.exchanges),
            **_delivery_part(delivery),
            **_window_part(query(conn, WINDOWS, since=run.clock.start), run.clock, park.park.lateness_s),
            **_event_part(_read_events(conn, run.clock), read_faults(Path(run.faults)), park),
            "kpi": _kpi(conn, park, run.clock),
            **_accuracy_part(conn, park, run, delivery),
            "run": _run_part(delivery, run),
        }
    return Report(document, delivery.is_whole, tuple(_summary(document)))


def write_report(report: Report, path: Path) -> None:
    """Write a report as JSON with full precision, at once."""
    text = json.dumps(_plain(report.document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, "utf-8")
    draft.replace(path)


def _delivery_part(delivery: Delivery) -> dict[str, Any]:
    """Return what became of the readings."""
    return {
        "values_published": delivery.published,
        "values_expected": delivery.expected,
        "values_stored": delivery.stored,
        "values_lost": delivery.lost,
        "values_unsent": delivery.unsent,
        "values_altered": delivery.altered,
        "values_conflict": delivery.conflict,
        "values_in_gaps": delivery.in_gaps,
        "gaps": len(delivery.gaps),
        "gaps_unmarked": delivery.unmarked_gaps,
        "gap_list": [_gap(gap, missing) for gap, missing in delivery.gaps],
        "values_examples": delivery.examples,
    }


def _gap(gap: Gap, missing: int) -> dict[str, Any]:
    return {
        "source": gap.source, "meter": gap.meter, "started_at": _iso(gap.start_us), "ended_at": _iso(gap.end_us),
        "cause": gap.cause, "values_missing": missing,
    }


def _window_part(windows: pd.DataFrame, clock: RunClock, lateness_s: float) -> dict[str, Any]:
    """Return how the windows came along, and how long their results took."""
    imbalance = windows["max_relative_imbalance"].to_numpy(float)
    latency = _latency(windows, clock, lateness_s)
    return {
        "windows_reconciled": len(windows),
        "windows_closed_by": {str(k): int(v) for k, v in windows["closed_by"].value_counts().items()},
        "max_relative_imbalance": _finite_max(imbalance),
        "latency_p50_s": _quantile(latency, 0.5),
        "latency_p95_s": _quantile(latency, 0.95),
        "latency_excludes_lateness_s": lateness_s,
    }


def _latency(windows: pd.DataFrame, clock: RunClock, lateness_s: float) -> list[float]:
    """Return the wall time from the sending of a window's last reading to the commit of its result [s], by window.

    A window closed by lateness has waited `lateness_s` after its end on purpose; that is not counted. A revised one
    tells nothing: its first result is gone.
    """
    found = []
    for row in windows.dropna(subset=["last_us"]).to_dict("records"):
        if row["closed_by"] == "revised":
            continue
        begun = row["last_us"] / 1e6
        if row["closed_by"] == "lateness":
            begun = max(begun, row["end_us"] / 1e6 + lateness_s)
        found.append(clock.wall(row["computed_us"] / 1e6) - clock.wall(begun))
    return found


def _read_events(conn: psycopg.Connection, clock: RunClock) -> list[Event]:
    """Return the events of the run in order of their opening."""
    found = []
    for number, kind, subject, start, end, severity, state, value, limit, message in conn.execute(
        EVENTS, [clock.start]
    ):
        document = {
            "event": number, "kind": kind, "subject": subject, "started_at": _moment(start), "ended_at": _moment(end),
            "severity": severity, "state": state, "value": value, "limit": limit, "message": message,
        }
        found.append(Event(number, kind, subject, round(start.timestamp() * 1e6), document))
    return found


def _event_part(events: Sequence[Event], faults: Sequence[InjectedFault], park: Park) -> dict[str, Any]:
    """Return events and faults, and which of them answer each other."""
    answered: set[int] = set()
    told = []
    for fault in faults:
        answers = [event for event in events if answers_to(event, fault, park)]
        answered |= {event.event for event in answers}
        required = fault.answers[0] if fault.answers else None
        told.append({
            "fault": fault.fault, "kind": fault.kind, "subject": fault.subject,
            "started_at": _iso(fault.start_us), "ended_at": _iso(fault.end_us),
            "answered": any((event.kind, event.subject) == required for event in answers),
            "answered_by": [event.document for event in answers],
            "required_answer": None if required is None else {"kind": required[0], "subject": required[1]},
        })
    return {
        "events": [event.document for event in events],
        "faults_injected": told,
        "faults_unanswered": [fault["fault"] for fault in told if not fault["answered"]],
        "events_unexpected": [event.document for event in events if event.event not in answered],
    }


def answers_to(event: Event, fault: InjectedFault, park: Park) -> bool:
    """Whether an event answers a fault: one of its kinds and subjects, begun while the fault could be seen.

    That is from the window before it began, for an event begins with the window in which it is found, until what
    travelled has arrived and the windows around the end are through.
    """
    if (event.kind, event.subject) not in fault.answers:
        return False
    window_us = park.park.window_s * 1e6
    delays = [park.stream[s].property_delay_s + park.stream[s].flow_delay_s for s in fault.streams if s in park.stream]
    after_us = 3 * window_us + (park.park.lateness_s + max(delays, default=0.0)) * 1e6
    end_us = math.inf if fault.end_us is None else fault.end_us + after_us
    return fault.start_us - window_us <= event.started_us <= end_us


def _accuracy_part(conn: psycopg.Connection, park: Park, run: RunFile, delivery: Delivery) -> dict[str, Any]:
    """Return how near the results came to the truth; what faults touched apart."""
    rows = results_with_truth(conn, run.clock, Path(run.truth), delivery.armed_us or 0)
    hit = touched(rows, read_faults(Path(run.faults)), park)
    clean, faulted = by_quantity(rows.loc[~hit]), by_quantity(rows.loc[hit])
    return {
        **_main(clean["mass_flow"], ""),
        **_main(faulted["mass_flow"], "_faulted"),
        "accuracy_by_quantity": {
            quantity: {**asdict(clean[quantity]), "faulted": asdict(faulted[quantity])} for quantity in clean
        },
    }


def _main(accuracy: Accuracy, suffix: str) -> dict[str, Any]:
    """Return the figures of mass flow under their names in the report."""
    figures = asdict(accuracy)
    rows = figures.pop("rows")
    return {f"{name}{suffix}": value for name, value in figures.items()} | {f"accuracy_rows{suffix}": rows}


def _kpi(conn: psycopg.Connection, park: Park, clock: RunClock) -> dict[str, Any]:
    """Return the year table at the rate of the run, from reconciled flows."""
    from processing.account.kpi import year_table

    return dict(year_table(conn, park, since=datetime.fromtimestamp(clock.start, UTC)))


def _run_part(delivery: Delivery, run: RunFile) -> dict[str, Any]:
    """Return when the run was counted."""
    return {
        "start": _moment(datetime.fromtimestamp(run.clock.start, UTC)), "speed": run.clock.speed,
        "armed_at": _iso(delivery.armed_us), "last_reading_at": _iso(delivery.last_us), "park": run.park,
    }


def _summary(document: dict[str, Any]) -> list[str]:
    """Return the report in three lines."""
    faults = document["faults_injected"]
    return [
        "{values_published} values sent, {values_stored} stored, {values_lost} lost, {values_unsent} unsent, "
        "{values_altered} altered, {values_conflict} in conflict, {gaps} gaps ({gaps_unmarked} unmarked)".format(
            **document
        ),
        f"{document['windows_reconciled']} windows, result {_text(document['latency_p50_s'])} s after the last reading "
        f"(95 %: {_text(document['latency_p95_s'])} s), "
        f"balances closed to {_text(document['max_relative_imbalance'])}, "
        f"error {_percent(document['error_reconciled'])} (better meter {_percent(document['error_best_meter'])})",
        f"{len(faults)} faults injected, {len(faults) - len(document['faults_unanswered'])} answered, "
        f"{len(document['events'])} events, {len(document['events_unexpected'])} unexpected",
    ]


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.3%}"


def _finite_max(values: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    """Return the largest value; None without any."""
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else None


def _quantile(values: Sequence[float], share: float) -> float | None:
    """Return a quantile; None without values."""
    return float(np.quantile(values, share)) if values else None


def _iso(microsecond: int | None) -> str | None:
    """Return microseconds since 1970 as ISO 8601, exactly."""
    if microsecond is None:
        return None
    return _moment(datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microsecond))


def _moment(moment: datetime | None) -> str | None:
    """Return a moment as ISO 8601 in UTC ending in Z."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    """Return a value that JSON knows: a number that is none becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
