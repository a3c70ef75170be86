"""Alert rules on synthetic events: silent, firing, cleared; and the files that carry them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dashboards import alerts, house
from park.load import load_park
from park.store import connect, store_park
from tests.dashboards.filled import KALUNDBORG

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SUBJECTS = {"quality_deviation": "X27", "volume_mismatch": "X13", "schedule_mismatch": "X01", "delay_mismatch": "X27",
            "leak": "power.header"}
EVENT_RULES = [rule for rule in alerts.rules() if rule["uid"] != alerts.rule_uid(alerts.NO_RESULTS)]


@pytest.fixture(scope="module")
def park_dsn(postgres_server: Any, migrated_template: str) -> str:
    from psycopg.conninfo import make_conninfo

    with psycopg.connect(postgres_server.dsn, autocommit=True) as conn:
        conn.execute(f"create database alerts template {migrated_template} strategy file_copy".encode())
    dsn = make_conninfo(postgres_server.dsn, dbname="alerts")
    with connect(dsn) as conn:
        version = store_park(conn, load_park(KALUNDBORG / "park.yaml"))
        conn.execute(
            "insert into balance_window (window_start, window_end, closed_by, readings, computed_at, park_version)"
            " values (%s, %s, 'complete', 1, %s, %s)", [NOW - timedelta(seconds=20), NOW, NOW, version])
    return dsn


@pytest.fixture
def conn(park_dsn: str) -> Iterator[psycopg.Connection]:
    with connect(park_dsn) as connection:
        yield connection
        connection.rollback()


def happened(conn: psycopg.Connection, kind: str, *, ended: timedelta | None, state: str = "unacknowledged") -> None:
    """Write an event that began two hours ago and ended so long ago; None: it lasts."""
    conn.execute(
        "insert into event (kind, subject, started_at, ended_at, severity, state, message, park_version)"
        " select %s, %s, %s, %s, 'high', %s, 'a message', id from park_version",
        [kind, SUBJECTS.get(kind, "utility.FT-W02"), NOW - timedelta(hours=2), ended and NOW - ended, state])


def judged(conn: psycopg.Connection, rule: dict[str, Any]) -> dict[tuple[str, str], bool]:
    """Return what the rule says of each subject: the last value above its threshold or not."""
    query, _, compare = rule["data"]
    answer = conn.execute(query["model"]["rawSql"].encode())
    assert answer.description
    columns = [column.name for column in answer.description]
    [limit] = compare["model"]["conditions"][0]["evaluator"]["params"]
    found = [dict(zip(columns, row, strict=True)) for row in answer]
    return {(row["subject"], row["exchange"]): row["is_open"] > limit for row in found}


@pytest.mark.parametrize("rule", EVENT_RULES, ids=lambda rule: rule["uid"])
def test_rule_is_silent_fires_and_clears(rule: dict[str, Any], conn: psycopg.Connection) -> None:
    kind = rule["labels"]["kind"]
    for other in alerts.KINDS:
        if other.name != kind:
            happened(conn, other.name, ended=None)
    assert judged(conn, rule) == {}                                          # others' events are not its own
    happened(conn, kind, ended=timedelta(hours=1, seconds=1))
    assert judged(conn, rule) == {}
    happened(conn, kind, ended=None)
    assert list(judged(conn, rule).values()) == [True]
    conn.execute("update event set ended_at = %s, state = 'returned' where kind = %s and ended_at is null", [NOW, kind])
    assert list(judged(conn, rule).values()) == [False]                      # cleared by a value, not by its absence


def test_labels_name_participants_and_exchange(conn: psycopg.Connection) -> None:
    happened(conn, "meter_bias", ended=None)
    happened(conn, "quality_deviation", ended=None)
    found = {kind: rest for kind, *rest in conn.execute(
        "select kind, participant, other_participant, exchange, severity from event_alert")}
    assert found == {
        "meter_bias": ["utility", "", "X13", "high"], "quality_deviation": ["power", "plaster", "X27", "high"]}


@pytest.mark.parametrize("state", ["shelved", "suppressed", "out_of_service"])
def test_what_is_put_aside_is_not_told(state: str, conn: psycopg.Connection) -> None:
    happened(conn, "meter_bias", ended=None, state=state)
    assert judged(conn, EVENT_RULES[4]) == {}


def test_missing_results_are_told(conn: psycopg.Connection) -> None:
    rule = alerts.rules()[-1]
    seconds = conn.execute(rule["data"][0]["model"]["rawSql"].encode()).fetchone()   # type: ignore[index]
    assert seconds
    assert seconds[1] > alerts.NO_RESULTS_AFTER_S                # the newest window is of the first of March
    conn.execute("update balance_window set window_end = now() - interval '30 s'")
    seconds = conn.execute(rule["data"][0]["model"]["rawSql"].encode()).fetchone()   # type: ignore[index]
    assert seconds
    assert seconds[1] < alerts.NO_RESULTS_AFTER_S


def test_every_event_kind_of_the_contract_has_its_rule_and_its_page() -> None:
    kinds = {"quality_deviation", "volume_mismatch", "schedule_mismatch", "delay_mismatch", "meter_bias", "meter_stuck",
             "meter_silent", "meter_range", "clock_offset", "leak"}
    assert {kind.name for kind in alerts.KINDS} == kinds
    for rule in alerts.rules():
        page = (ROOT / rule["annotations"]["runbook_url"]).read_text()       # type: ignore[index]
        assert all(f"## {part}" in page for part in ("What it means", "What to check", "How it clears"))
        assert rule["annotations"]["__dashboardUid__"].removeprefix("symbiosis-") in house.BOARDS   # type: ignore[index]


def test_texts_of_rules_hold_nothing_that_provisioning_would_replace() -> None:
    assert "$" not in str(alerts.rules())
