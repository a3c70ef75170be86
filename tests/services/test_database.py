"""`symbiosis db` on real databases, as a user calls it."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from park.errors import InputError, StoreError
from park.store import connect, migrate
from park.store.binaries import find_binaries
from park.store.embedded import EmbeddedPostgres
from park.store.location import open_database
from symbiosis.cli import main
from symbiosis.database import backup, csv_line, print_query


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def answer(dsn: str, query: str, **options: float) -> list[list[str]]:
    out = io.StringIO()
    print_query(dsn, query, out, **options)
    return list(csv.reader(io.StringIO(out.getvalue())))


def test_values_are_written_as_postgresql_writes_them(empty_postgres_dsn: str) -> None:
    query = """select 1 as a, null as b, '' as c, 'x,"y' as d, 0.1::float8 as e, true as f, array[1, 2] as g,
        '{"a": 1}'::jsonb as h, timestamptz '2026-01-01 01:00+01' as i, int4range(1, 3) as j, '\\x00ff'::bytea as k"""
    out = io.StringIO()
    print_query(empty_postgres_dsn, query, out)
    assert out.getvalue() == (
        "a,b,c,d,e,f,g,h,i,j,k\n"
        '1,,"","x,""y",0.1,t,"{1,2}","{""a"": 1}",2026-01-01 00:00:00+00,"[1,3)",\\x00ff\n'
    )


def test_all_rows_of_a_long_answer(empty_postgres_dsn: str) -> None:
    rows = answer(empty_postgres_dsn, "select x from generate_series(1, 2500) as x")
    assert rows == [["x"], *([str(n)] for n in range(1, 2501))]


def test_no_rows_have_a_header(empty_postgres_dsn: str) -> None:
    assert answer(empty_postgres_dsn, "select 1 as a where false") == [["a"]]
    assert answer(empty_postgres_dsn, "show timezone") == [["TimeZone"], ["UTC"]]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("create table t (x int)", "cannot execute CREATE TABLE in a read-only transaction"),
        ("select 1; select 2", "cannot insert multiple commands"),
        ("select nope", 'column "nope" does not exist'),
        ("select 1/0", "division by zero"),
        ("select x/(x-3) from generate_series(1, 5) as x", "division by zero"),
        (" ", "there is none"),
    ],
)
def test_wrong_query_is_wrong_input(empty_postgres_dsn: str, query: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        answer(empty_postgres_dsn, query)


def test_reading_a_transaction_open_for_writing_is_not_possible(empty_postgres_dsn: str) -> None:
    with pytest.raises(InputError, match="must be set before any query"):
        answer(empty_postgres_dsn, "set transaction read write")
    with connect(empty_postgres_dsn) as conn:
        conn.execute("create table t (x int)")
    with pytest.raises(InputError, match="read-only"):
        answer(empty_postgres_dsn, "with w as (insert into t values (1) returning x) select * from w")


def test_query_that_takes_too_long(empty_postgres_dsn: str) -> None:
    with pytest.raises(StoreError, match=r"took longer than 0\.1 s \(hint: --timeout\)"):
        answer(empty_postgres_dsn, "select pg_sleep(20)", timeout_s=0.1)


def test_csv_quotes_only_what_needs_it() -> None:
    assert csv_line(["a", None, "", 'b"', "c,d", "e\nf", " g"]) == 'a,,"","b""","c,d","e\nf", g\n'


def test_backup_can_be_restored(postgres_dsn: str, empty_postgres_dsn: str, tmp_path: Path) -> None:
    with connect(postgres_dsn) as conn:
        conn.execute("insert into reading values ('m', now(), now(), 1.5, 0)")
    file = backup(postgres_dsn, tmp_path / "park.dump")
    subprocess.run([find_binaries() / "pg_restore", "--dbname", empty_postgres_dsn, file], check=True)
    assert answer(empty_postgres_dsn, "select meter, value from reading") == [["meter", "value"], ["m", "1.5"]]
    assert [path.name for path in tmp_path.iterdir()] == ["park.dump"]


def test_failed_backup_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"backup failed: .*connection to server"):
        backup("host=/nowhere dbname=park password=secret", tmp_path / "park.dump")
    assert list(tmp_path.iterdir()) == []


def test_named_database_outranks_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_database("host=a", tmp_path) as dsn:
        assert dsn == "host=a"
    monkeypatch.setenv("SYMBIOSIS_DSN", "host=b")
    with open_database(None, tmp_path) as dsn:
        assert dsn == "host=b"
    with open_database("host=a", tmp_path) as dsn:
        assert dsn == "host=a"


def test_commands_start_the_embedded_server(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "sql", "select 1", "--data", str(data)]) == 2
    assert f"no database in {data} (hint: " in capsys.readouterr().err
    assert not data.exists()
    assert main(["db", "migrate", "--data", str(data)]) == 0
    assert "applied 0001_readings" in capsys.readouterr().err
    assert main(["db", "migrate", "--data", str(data)]) == 0
    assert "nothing to apply" in capsys.readouterr().err
    assert main(["db", "status", "--data", str(data)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("PostgreSQL ")
    assert "migration 0001_readings applied " in told
    assert "table reading: about 0 rows" in told
    assert main(["db", "sql", "select count(*) from reading", "--data", str(data)]) == 0
    assert capsys.readouterr().out == "count\n0\n"
    assert main(["db", "sql", "select nope", "--data", str(data)]) == 2
    assert main(["db", "backup", str(data / "x.dump"), "--data", str(data)]) == 0
    assert "wrote" in capsys.readouterr().err
    shutil.rmtree(data)


def test_command_uses_the_server_of_a_run(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EmbeddedPostgres(data, settings={"fsync": "off"}) as server:
        migrate(server.dsn)
        pid = server.pid
        assert main(["db", "sql", "select count(*) from reading", "--data", str(data)]) == 0
        assert capsys.readouterr().out == "count\n0\n"
        assert server.pid == pid
        assert server.exit_status() is None


def test_commands_beside_each_other(data: Path) -> None:
    with EmbeddedPostgres(data, settings={"fsync": "off"}):
        pass

    def ask(number: int) -> str:
        query = f"select {number}, pg_sleep(0.2)"
        command = [sys.executable, "-m", "symbiosis", "db", "sql", query, "--data", str(data)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[1]

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(ask, range(4))) == [f'{n},""' for n in range(4)]
