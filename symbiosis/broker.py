"""The MQTT broker of a run on one machine: mosquitto where it is installed, else iotcore.

`Broker(data_dir)` is a context manager: it starts the broker as a guarded child on a port of 127.0.0.1, returns when
a CONNECT is answered, and leaves nothing behind but the queues in the data folder. Clients are in `collector` and
`simulators`; what they do when the broker goes is theirs.

What the two can do, measured on two cores, 100-byte messages at QoS 1 (mosquitto 2.0.11, iotcore 0.4.0):

=============================  ======================================  ==========================================
what                           mosquitto                               iotcore
=============================  ======================================  ==========================================
MQTT                           3.1.1 and 5                             3.1.1; a CONNECT of MQTT 5 gets no answer
listens on                     127.0.0.1                               127.0.0.1, if told so
payload                        15 MB and more                          as configured here; above it disconnects
messages a second              about 700 saved one by one, 7,000 not   7,000
unacknowledged, to a client    as configured here                      100
a client that is away          gets all, in order                      gets all, in order, up to 8 MiB a filter:
                                                                       then the oldest are gone, and nobody is told
kill -9                        saved one by one: what it acknowledged  everything lost
                               while it was saving; else a second
=============================  ======================================  ==========================================

mosquitto saves by writing the whole queue and syncing it, for each message: on a disk that syncs slowly, or for a park
that sends more than 50 messages/s (a fast demo), this would hold up the park, so there it saves each second, and is
not called durable. A long queue (8,000 messages of a
collector that is away) slows saving to about 100 messages/s; publishers wait meanwhile. It acknowledges a message some
milliseconds before it has saved it, so a kill at that very moment loses it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from park.child_process import FolderLock, GuardedChild, ServerCommand
from park.errors import BrokerError, OperationError

HOST = "127.0.0.1"

_SBIN = ("/usr/sbin", "/usr/local/sbin")    # not in the PATH of ordinary users on Debian
_START_LIMIT_S = 20.0
_ANSWER_LIMIT_S = 2.0
_RETRY_S = 0.02
_PORT_TRIES = 5                             # a free port may be taken before the broker binds it
_SYNC_LIMIT_S = 0.010                       # a sync covers what all publishers sent since: 5 of them, 500 messages/s
_EACH_LIMIT_PER_S = 50.0                    # a busy disk stretches a sync twentyfold; a queue that grows makes it worse
_LOG_KEPT_BYTES = 5_000_000

_MOSQUITTO = """\
listener {port} {host}
allow_anonymous true
user {user}
persistence true
persistence_location {folder}/
autosave_on_changes {each}
autosave_interval 1
max_queued_messages 0
max_inflight_messages 1000
persistent_client_expiration 14d
set_tcp_nodelay true
connection_messages false
log_dest stderr
log_type error
log_type warning
log_type notice
"""

# A subscriber that is away or slow is served from the last 8 segments of 1 MiB of each filter's log.
_IOTCORE = """\
id = 0
[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 1048576
max_segment_count = 8
[v4.1]
name = "v4-1"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 16777216
max_inflight_count = 1000
dynamic_filters = true
"""
# rumqttd reports each packet as an error; its own errors it returns
_RUN_IOTCORE = (
    "import logging, sys; logging.disable(logging.CRITICAL); from iotcore.iotcore import IotCoreBroker; "
    "IotCoreBroker(config_path=sys.argv[1]).run_forever()"
)

# MQTT 3.1.1, 3.1: protocol name and level, clean session, keep-alive 60 s, client id; 3.14: DISCONNECT
_CLIENT_ID = b"symbiosis-ready"
_CONNECT = b"\x00\x04MQTT\x04\x02\x00\x3c" + len(_CLIENT_ID).to_bytes(2, "big") + _CLIENT_ID
_DISCONNECT = b"\xe0\x00"


@dataclass(frozen=True)
class _Program:
    """A broker that can be run here."""

    name: Literal["mosquitto", "iotcore"]
    version: str
    path: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Broker:
    """An MQTT broker on the data folder, as a context manager.

    Parameters
    ----------
    data_dir
        The data folder; the broker's queues, configuration and log are in ``broker`` there.
    port
        Port on 127.0.0.1; default a free one. A broker that is started again keeps its port.
    program
        ``mosquitto`` or ``iotcore``; default the first of them that is installed.
    messages_per_s
        How many messages it will get [1/s]; above 50 they are saved each second instead of each by itself.

    Attributes
    ----------
    url : str
        Such as ``mqtt://127.0.0.1:40123``.
    port : int
        The port.
    durable : bool
        Whether messages outlive a kill of the broker, but for those that it acknowledged some milliseconds before.
    description : str
        One sentence for the screen: which broker, where, how durable.

    Raises
    ------
    BrokerError
        On entry: if no broker is installed, another process has the folder, or it does not start.

    Examples
    --------
    >>> with Broker(Path("/srv/park")) as broker:                               # doctest: +SKIP
    ...     print(broker.description)
    """

    def __init__(
        self, data_dir: Path, *, port: int | None = None, program: Literal["mosquitto", "iotcore"] | None = None,
        messages_per_s: float = 0.0,
    ) -> None:
        self.folder = data_dir.absolute() / "broker"
        self.log = self.folder / "broker.log"
        self.port = port or 0
        self.durable = False
        self.description = ""
        self._wanted = program
        self._rate = messages_per_s
        self._child: GuardedChild | None = None
        self._lock = FolderLock(self.folder / "lock", what=f"the broker in {data_dir}")

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"mqtt://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the broker."""
        return self._running().pid

    def start(self) -> None:
        """Start the broker, and return when it answers."""
        program = _find_program(self._wanted)
        try:
            self._lock.acquire()
        except OperationError as error:
            raise BrokerError(str(error)) from None
        except OSError as error:
            raise BrokerError(f"cannot write to {self.folder}: {error.strerror}") from error
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            sync_s = _sync_time(self.folder) if program.name == "mosquitto" else 0.0
            is_slow = self._rate <= _EACH_LIMIT_PER_S
            self.durable = program.name == "mosquitto" and sync_s <= _SYNC_LIMIT_S and is_slow
            self._launch(program)
            why = f"this disk takes {sync_s * 1000:.0f} ms to sync" if is_slow else f"{self._rate:.0f} messages/s come"
            self.description = _describe(program, self.url, why, durable=self.durable)
            undo.pop_all()

    def stop(self) -> None:
        """Stop the broker and wait until it is gone; does nothing when stopped."""
        child, self._child = self._child, None
        try:
            if child is not None:
                child.stop()
        finally:
            self._lock.release()

    def exit_status(self) -> int | None:
        """Return the exit status of a broker that ended by itself; None while it runs."""
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
            raise BrokerError(f"the broker in {self.folder} is not running")
        return self._child

    def _launch(self, program: _Program) -> None:
        """Start the program on the port that is asked for, or on a free one."""
        if self.port:
            if not _is_free(self.port):     # else its present owner would answer for our broker
                raise BrokerError(f"port {self.port} of {HOST} is taken")
            self._launch_on(program, self.port)
            return
        for remaining in reversed(range(_PORT_TRIES)):
            port = _free_port()
            try:
                self._launch_on(program, port)
            except BrokerError:
                if not remaining or _is_free(port):
                    raise
            else:
                self.port = port
                return

    def _launch_on(self, program: _Program, port: int) -> None:
        """Start the program on this port and wait for its answer."""
        if self.log.exists() and self.log.stat().st_size > _LOG_KEPT_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        argv, env = self._configure(program, port)
        try:
            child = GuardedChild(
                ServerCommand(
                    argv=argv, log=self.log, cwd=self.folder, env=env, keep_open=[self._lock.fileno()]
                )
            )
        except OperationError as error:
            raise BrokerError(str(error)) from error
        try:
            self._await_answer(child, program, port)
        except BaseException:
            child.stop()
            raise
        self._child = child

    def _configure(self, program: _Program, port: int) -> tuple[list[str], Mapping[str, str]]:
        """Write the configuration; return command and environment."""
        if program.name == "mosquitto":
            settings = self.folder / "mosquitto.conf"
            settings.write_text(
                _MOSQUITTO.format(
                    port=port,
                    host=HOST,
                    user="root" if os.geteuid() == 0 else "mosquitto",     # else it gives up root, and its own folder
                    folder=self.folder,
                    each="true" if self.durable else "false",
                )
            )
            return [program.path, "-c", str(settings)], {"PATH": os.defpath}
        settings = self.folder / "iotcore.toml"
        settings.write_text(_IOTCORE.format(port=port, host=HOST))
        return [program.path, "-P", "-c", _RUN_IOTCORE, str(settings)], os.environ

    def _await_answer(self, child: GuardedChild, program: _Program, port: int) -> None:
        """Wait until the broker accepts a CONNECT."""
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline:
            if child.exit_status(_RETRY_S) is not None:
                lines = self.log.read_text("utf-8", "replace").splitlines()[-5:]
                raise BrokerError(f"{program} did not start: " + "; ".join(lines))
            with contextlib.suppress(OSError):
                if answers(port) and child.exit_status() is None:
                    return
        raise BrokerError(f"{program} does not answer on {HOST}:{port} after {_START_LIMIT_S:.0f} s")


def answers(port: int, host: str = HOST) -> bool:
    """Return whether an MQTT broker accepts a CONNECT there.

    Raises
    ------
    OSError
        If nothing listens there, or what listens does not answer in time.
    """
    with socket.create_connection((host, port), timeout=_ANSWER_LIMIT_S) as connection:
        connection.sendall(b"\x10" + len(_CONNECT).to_bytes(1, "big") + _CONNECT)
        answer = connection.recv(4)
        accepted = len(answer) == 4 and answer[0] == 0x20 and answer[3] == 0       # CONNACK, return code 0
        if accepted:
            connection.sendall(_DISCONNECT)
        return accepted


def _find_program(wanted: str | None) -> _Program:
    """Return the broker to run."""
    mosquitto = shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN]))
    if mosquitto is not None and wanted != "iotcore":
        return _Program("mosquitto", _mosquitto_version(mosquitto), mosquitto)
    if wanted != "mosquitto" and find_spec("iotcore") is not None:
        from importlib.metadata import version

        return _Program("iotcore", version("iotcore"), sys.executable)
    raise BrokerError(
        f"no MQTT broker found: {wanted or 'neither mosquitto nor iotcore'} is installed "
        "(hint: apt install mosquitto, or pip install iotcore, or name a broker with --broker)"
    )


def _mosquitto_version(path: str) -> str:
    """Return the version that mosquitto prints with its help."""
    done = subprocess.run([path, "-h"], capture_output=True, text=True, check=False)
    match = re.search(r"version (\S+)", done.stdout)
    return match[1] if match else ""


def _describe(program: _Program, url: str, why_not_each: str, *, durable: bool) -> str:
    """Return one sentence for the screen."""
    if durable:
        return f"broker: {program} at {url}, each message saved"
    if program.name == "mosquitto":
        return (
            f"broker: {program} at {url}, saved each second because {why_not_each}: "
            "a kill of the broker loses up to a second"
        )
    return (
        f"broker: {program} at {url}, not durable: a kill of the broker loses what waits in it "
        "(hint: install mosquitto)"
    )


def _sync_time(folder: Path) -> float:
    """Return how long this disk takes to put a small file in safety, as mosquitto does it [s]; the best of five."""
    probe = folder / "sync.probe"
    taken = []
    try:
        for _ in range(5):
            start = time.perf_counter()
            with probe.open("wb") as file:
                file.write(bytes(20_000))
                file.flush()
                os.fsync(file.fileno())
            taken.append(time.perf_counter() - start)
    finally:
        probe.unlink(missing_ok=True)
    return min(taken)       # what the disk can do; the others waited for other programs


def _free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    """Whether a server could listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)     # as brokers do: old connections don't count
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
