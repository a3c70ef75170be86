"""What the live views ask of a real store, and that a store that is away is said, not raised."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from park.store import connect, store_park
from symbiosis.observe import Look, Observer, Watcher
from tests.symbiosis.parks import small_park

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def dsn(postgres_dsn):
    with connect(postgres_dsn) as conn:
        version = store_park(conn, small_park())
        conn.execute(
            "insert into balance_window (window_start, window_end, closed_by, readings, computed_at, park_version) "
            "values (%s, %s, 'complete', 2, %s, %s)", [T0, T0 + timedelta(seconds=10), T0, version],
        )
        conn.execute(
            "insert into exchange_flow values (%s, 'X1', 'kg/s', 10, 0.1, null, null, 10.1, 0.05, false, %s)",
            [T0, version],
        )
        conn.execute(
            "insert into node_balance values (%s, 'b.n', 'mass', 'kg/s', 0.5, 0, 0.1, 0, %s)", [T0, version],
        )
        for start in (T0 - timedelta(hours=1), T0):
            conn.execute(
                "insert into event (kind, subject, started_at, ended_at, severity, state, message, park_version) "
                "values ('leak', 'b.n', %s, %s, 'high', 'returned', 'm', %s)", [start, T0, version],
            )
        conn.execute("insert into arrival (period_start, period_end, row_count, received_at) values (%s, %s, 120, %s)",
                     [T0, T0, T0])
    return postgres_dsn


def test_a_look_holds_what_the_views_say_of_this_run(dsn):
    observer = Observer(dsn, since=T0.timestamp())
    look = observer.look()
    observer.close()
    assert look.away == ""
    assert (look.window.window_start, look.window.windows) == (T0, 1)
    exchange, = look.exchanges
    assert (exchange.exchange, exchange.from_name, exchange.to_name) == ("X1", "A", "B")
    assert (exchange.sender, exchange.receiver, exchange.reconciled, exchange.in_agreement) == (10, None, 10.1, False)
    assert [(node.node, node.ratio > 1) for node in look.nodes] == [("b.n", True)]
    assert [event.started_at for event in look.events] == [T0]
    assert look.rate.readings_per_s == 2.0


def test_the_view_cannot_write(dsn):
    observer = Observer(dsn, since=0)
    observer.look()
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        observer._conn.execute("delete from event")
    observer.close()


def test_a_database_that_goes_away_is_said_and_the_last_look_stays(dsn):
    observer = Observer(dsn, since=0)
    before = observer.look()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'symbiosis view'")
    look = observer.look()
    assert look.away != ""
    assert look.exchanges == before.exchanges
    assert observer.look().away == ""
    observer.close()
    nowhere = Observer(make_conninfo(dsn, host="/nonexistent"), since=0).look()
    assert nowhere == Look(away=nowhere.away)
    assert "cannot connect" in nowhere.away


def test_the_watcher_shows_a_last_look_when_it_is_stopped(dsn):
    looks = []
    watcher = Watcher(Observer(dsn, since=0), looks.append, every_s=60)
    watcher.start()
    watcher.stop()
    assert len(looks) >= 1
    assert looks[-1].window is not None
