"""The views that boards read: coarser data say the same, revisions reach them, and the reader sees nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from park.store import connect, migrate
from park.store.embedded import EmbeddedPostgres
from park.units import UNITS, conversion
from tests.dashboards.filled import BEGAN, ENDED, WINDOWS

HIDDEN = {"window_tail", "exchange_tail", "node_tail", "meter_tail", "reading_list"}
HIDDEN |= {f"reading_{part}_{step}" for part in ("tail", "rollup") for step in ("1min", "15min", "1h")}


@pytest.fixture
def conn(filled_dsn: str) -> Iterator[psycopg.Connection]:
    with connect(filled_dsn) as connection:
        yield connection
        connection.rollback()


def rows(conn: psycopg.Connection, query: str, *values: object) -> list[tuple]:
    return conn.execute(query.encode(), values).fetchall()


def one(conn: psycopg.Connection, query: str, *values: object) -> object:
    return rows(conn, query, *values)[0][0]


def test_units_convert_as_the_park_does(conn: psycopg.Connection) -> None:
    found = {unit: (scale, offset) for unit, scale, offset in rows(conn, "select * from unit_list")}
    assert found.keys() == set(UNITS)
    for unit, (scale, offset) in found.items():
        assert (scale, offset) == pytest.approx((conversion(unit).scale, conversion(unit).offset), rel=1e-15)


COARSE = {
    "exchange": (
        "select date_bin(%s * interval '1 second', window_start, '2000-01-01Z') as time, exchange,"
        " avg(sender), avg(receiver), avg(reconciled), avg(in_agreement::int), count(*)"
        " from exchange_flow group by 1, 2",
        "select bucket, exchange, sender, receiver, reconciled, agreed::float / windows, windows from exchange_{}"
        " where step_s = %s",
    ),
    "node": (
        "select date_bin(%s * interval '1 second', window_start, '2000-01-01Z') as time, node || quantity,"
        " avg(imbalance), avg(std), max(abs(imbalance / std)) from node_balance group by 1, 2",
        "select bucket, node || quantity, imbalance, std, statistic from node_{} where step_s = %s",
    ),
    "meter": (
        "select date_bin(%s * interval '1 second', window_start, '2000-01-01Z') as time, meter, avg(measured),"
        " avg(expected), max(abs(test_statistic)), max(suspect::int), count(*) from meter_result group by 1, 2",
        "select bucket, meter, measured, expected, statistic, suspect::int, windows from meter_{} where step_s = %s",
    ),
    "window": (
        "select date_bin(%s * interval '1 second', window_start, '2000-01-01Z') as time, 'all', sum(readings),"
        " avg(global_test / degrees_of_freedom), count(*) from balance_window group by 1",
        "select bucket, 'all', readings, global_test, windows from window_{} where step_s = %s",
    ),
}


def held_coarsely(conn: psycopg.Connection, kind: str, step: int) -> None:
    """Hold the coarse rows, stored and pending ones together, against the windows themselves."""
    fine, coarse = COARSE[kind]
    expected = {(time, name): values for time, name, *values in rows(conn, fine, step)}
    stored = rows(conn, coarse.format("rollup"), step) + rows(conn, coarse.format("tail"), step)
    found = {(time, name): values for time, name, *values in stored}
    assert len(found) == len(stored) == len(expected) > 0
    for key, values in expected.items():
        for mine, theirs in zip(found[key], values, strict=True):
            assert (mine is None) == (theirs is None), key
            assert mine is None or float(mine) == pytest.approx(float(theirs), rel=1e-9, abs=1e-12), key


@pytest.mark.parametrize("step", [300, 3600])
@pytest.mark.parametrize("kind", COARSE)
def test_coarse_rows_are_the_means_of_their_windows(conn: psycopg.Connection, kind: str, step: int) -> None:
    held_coarsely(conn, kind, step)


def test_only_buckets_that_still_grow_are_pending(conn: psycopg.Connection) -> None:
    assert set(rows(conn, "select * from rollup_pending")) == {(300, BEGAN + timedelta(minutes=10)), (3600, BEGAN)}


def test_revision_of_an_old_window_reaches_its_bucket(conn: psycopg.Connection) -> None:
    before = one(conn, "select reconciled from exchange_rollup where exchange = 'X12' and bucket = %s", BEGAN)
    again = (
        "insert into balance_window select window_start, window_end, 'revised', readings, last_source_time,"
        " computed_at, revision + 1, park_version, global_test, degrees_of_freedom, max_relative_imbalance, taken_out"
        " from gone"
    )
    conn.execute(
        f"with gone as (delete from balance_window where window_start = %s returning *) {again}".encode(), [BEGAN]
    )
    conn.execute("update exchange_flow set reconciled = 2 * reconciled where window_start = %s", [BEGAN])
    conn.execute("set constraints all immediate")  # as the commit does
    assert one(conn, "select reconciled from exchange_rollup where exchange = 'X12' and bucket = %s", BEGAN) != before
    assert one(conn, "select revised from window_rollup where bucket = %s", BEGAN) == 1
    for kind in COARSE:
        held_coarsely(conn, kind, 300)
        held_coarsely(conn, kind, 3600)


@pytest.mark.parametrize(
    ("length", "step"),
    [(timedelta(hours=6), 0), (timedelta(hours=7), 300), (timedelta(days=3), 300), (timedelta(days=4), 3600)],
)
def test_long_ranges_read_coarser_data(conn: psycopg.Connection, length: timedelta, step: int) -> None:
    since, until = ENDED - length, ENDED
    assert one(conn, "select series_step(%s, %s)", since, until) == step
    for view, tables in {
        "exchange_series": ("exchange_flow", "exchange_rollup"),
        "meter_series": ("meter_result", "meter_rollup"),
        "node_series": ("node_balance", "node_rollup"),
        "quality_series": ("meter_result", "meter_rollup"),
    }.items():
        times = f"'{since.isoformat()}', '{until.isoformat()}'"
        query = f"explain select * from {view} where step_s = series_step({times})"
        query += f" and time between {times.replace(',', ' and')}"
        plan = "\n".join(line for (line,) in rows(conn, query))
        assert (f"on {tables[1]}" in plan) == (step > 0), plan
        assert (f"Scan on {tables[0]}" in plan or f" on {tables[0]} " in plan) or step > 0


def test_exchange_series_speaks_the_settled_unit(conn: psycopg.Connection) -> None:
    unit, rate = rows(
        conn, "select rate_unit, reconciled from exchange_series where exchange = 'X01' and step_s = 0 limit 1"
    )[0]
    assert unit == "MW"
    assert rate == pytest.approx(37, rel=0.1)  # 54 t/h of steam against water of 90 degC
    assert rows(conn, "select distinct rate_unit from exchange_series where exchange = 'X12'") == [("m3/h",)]


def test_a_day_begins_at_the_parks_midnight(conn: psycopg.Connection) -> None:
    [(day, amount, hours)] = rows(conn, "select time, reconciled, hours from exchange_day where exchange = 'X12'")
    assert day.isoformat() == "2025-12-31T23:00:00+00:00"  # Copenhagen, winter
    assert hours == pytest.approx(WINDOWS * 20 / 3600)
    mean = one(conn, "select avg(reconciled) from exchange_flow where exchange = 'X12'")
    assert amount == pytest.approx(float(mean) * WINDOWS * 20)  # type: ignore[arg-type]


def test_money_and_savings_follow_the_agreement(conn: psycopg.Connection) -> None:
    rate, money, co2 = rows(
        conn, "select rate, money_per_h, avoided_co2_kg_h from exchange_rate_now where exchange = 'X01'"
    )[0]
    assert (money, co2) == pytest.approx((rate * 26, rate * 193.133))


def test_quality_is_held_against_the_agreement_in_its_unit(conn: psycopg.Connection) -> None:
    states = dict(rows(conn, "select exchange || '.' || property, state from quality_now"))
    assert len(states) == 33
    assert states["X01.temperature"] == "inside"
    last = one(
        conn,
        "select value from quality_series where exchange = 'X27' and property = 'water' and step_s = 0"
        " order by time desc limit 1",
    )
    assert last == one(conn, "select value from quality_now where exchange = 'X27' and property = 'water'")
    while_it_lasted = one(
        conn, "select max(value) from quality_series where exchange = 'X27' and property = 'water' and step_s = 0"
    )
    assert while_it_lasted > 10  # type: ignore[operator]


def test_edges_end_in_nodes_and_sum_what_they_stand_for(conn: psycopg.Connection) -> None:
    nodes = {name for (name,) in rows(conn, "select id from network_node")}
    edges = rows(conn, "select source, target, exchanges from network_edge")
    assert nodes
    assert {end for source, target, _ in edges for end in (source, target)} <= nodes
    assert sum(n for *_, n in edges) == one(
        conn, "select count(*) from exchange_list where from_participant is not null"
    )


def test_events_name_the_exchange_that_they_concern(conn: psycopg.Connection) -> None:
    found = dict(rows(conn, "select kind || ' ' || subject, exchange from event_view"))
    assert found["meter_bias utility.FT-W02"] == "X13"
    assert found["quality_deviation X27"] == "X27"


def test_the_reader_sees_views_alone(filled_dsn: str, reader_dsn: str) -> None:
    with connect(filled_dsn) as conn:
        kinds = dict(
            rows(
                conn,
                "select relname, relkind::text from pg_class where relnamespace = 'public'::regnamespace"
                " and relkind in ('r', 'v')",
            )
        )
    with connect(reader_dsn, autocommit=True) as conn:
        for name, kind in kinds.items():
            if kind == "v" and name not in HIDDEN:
                conn.execute(f"select * from {name} limit 1".encode())
            else:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn.execute(f"select * from {name} limit 1".encode())
        for statement in (b"create table mine (x int)", b"select rollup_advance()", b"delete from window_log"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement)


def test_without_the_right_to_create_roles_the_tables_stand_and_a_warning_says_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedPostgres(tmp_path, settings={"fsync": "off"}) as server:
        with connect(server.dsn, autocommit=True) as admin:
            admin.execute("create role owner login")
            admin.execute("create database plant owner owner")
        dsn = make_conninfo(server.dsn, dbname="plant", user="owner")
        with caplog.at_level(logging.WARNING):
            migrate(dsn)
        assert "role owner may not create the role symbiosis_reader" in caplog.text
        assert "SELECT grant_reader()" in caplog.text
        with connect(server.dsn, autocommit=True) as admin:
            admin.execute("create role symbiosis_reader nologin")
            admin.execute("create role grafana login in role symbiosis_reader")
        with connect(dsn, autocommit=True) as conn:
            assert one(conn, "select grant_reader()") > 20  # type: ignore[operator]
        with connect(make_conninfo(dsn, user="grafana")) as conn:
            assert rows(conn, "select * from exchange_now") == []
