"""Our own broker: both kinds, what they keep, and how they end."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as mqtt
import pytest

from park.errors import BrokerError
from symbiosis import broker as module
from symbiosis.broker import HOST, Broker, answers

Kind = Literal["mosquitto", "iotcore"]
MOSQUITTO = shutil.which("mosquitto", path=os.pathsep.join([os.defpath, "/usr/sbin", "/usr/local/sbin"]))
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
KINDS = [pytest.param("mosquitto", marks=needs_mosquitto), "iotcore"]

PROGRAM = """
import sys
from pathlib import Path
from symbiosis.broker import Broker
with Broker(Path(sys.argv[1]), program=sys.argv[2]) as broker:
    print(broker.pid, broker.port, flush=True)
    input()
"""


class Client:
    """An MQTT client that counts."""

    def __init__(self, name: str, port: int, *, keep: bool = False) -> None:
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, clean_session=not keep)
        self.payloads: list[bytes] = []
        self.session_present = False
        self._events = {name: threading.Event() for name in ("connected", "subscribed", "arrived", "disconnected")}
        self.client.on_connect = self._connected
        self.client.on_subscribe = lambda *_: self._events["subscribed"].set()
        self.client.on_message = self._arrived
        self.client.on_disconnect = lambda *_: self._events["disconnected"].set()
        self.client.max_queued_messages_set(0)
        self.client.connect(HOST, port, keepalive=30)
        self.client.loop_start()
        self.wait("connected")

    def wait(self, what: str, seconds: float = 10.0) -> None:
        assert self._events[what].wait(seconds), what

    def subscribe(self, pattern: str) -> None:
        self.client.subscribe(pattern, qos=1)
        self.wait("subscribed")

    def publish(self, topic: str, *payloads: bytes) -> None:
        for info in [self.client.publish(topic, payload, qos=1) for payload in payloads]:
            info.wait_for_publish(30)
            assert info.is_published()

    def await_payloads(self, count: int) -> list[bytes]:
        deadline = time.monotonic() + 20
        while len(self.payloads) < count:
            self._events["arrived"].wait(max(0.0, deadline - time.monotonic()))
            self._events["arrived"].clear()
            assert time.monotonic() < deadline, len(self.payloads)
        return self.payloads

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client._reset_sockets()

    def _connected(self, _client: object, _data: object, flags: Any, *_: object) -> None:
        self.session_present = flags.session_present
        self._events["connected"].set()

    def _arrived(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        self.payloads.append(message.payload)
        self._events["arrived"].set()


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "data dir", program=request.param) as running:
        yield running


def listeners(pid: int) -> list[str]:
    """Local addresses that the process listens on, as the kernel says (proc(5), /proc/net/tcp)."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        target = str(link.readlink())
        if target.startswith("socket:["):
            sockets.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.append(fields[1])
    return found


def ends_within(pid: int, seconds: float) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ready, _, _ = select.select([descriptor], [], [], seconds)
    os.close(descriptor)
    return bool(ready)


def test_listens_on_this_machine_alone(broker: Broker) -> None:
    assert answers(broker.port)
    assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
    assert listeners(broker.pid) == [f"0100007F:{broker.port:04X}"]


def test_payload_of_ten_megabytes(broker: Broker) -> None:
    reader, writer = Client("reader", broker.port), Client("writer", broker.port)
    reader.subscribe("big/#")
    writer.publish("big/one", bytes(10_000_000))
    assert reader.await_payloads(1) == [bytes(10_000_000)]
    reader.close()
    writer.close()


def test_client_that_was_away_gets_all_in_order(broker: Broker) -> None:
    reader, writer = Client("reader", broker.port, keep=True), Client("writer", broker.port)
    reader.subscribe("t/#")
    reader.close()
    sent = [b"%d" % i for i in range(500)]
    writer.publish("t/x", *sent)
    again = Client("reader", broker.port, keep=True)
    assert again.session_present
    assert again.await_payloads(500) == sent
    again.close()
    writer.close()


def test_stop_leaves_no_process_and_no_port(tmp_path: Path) -> None:
    for kind in ("mosquitto", "iotcore") if MOSQUITTO else ("iotcore",):
        with Broker(tmp_path, program=kind) as running:
            pid, port = running.pid, running.port
        assert ends_within(pid, 0)
        with pytest.raises(ConnectionRefusedError):
            answers(port)


@needs_mosquitto
def test_mosquitto_keeps_what_it_acknowledged_over_a_kill(tmp_path: Path) -> None:
    broker = Broker(tmp_path, program="mosquitto")
    broker.start()
    assert broker.durable == ("each message saved" in broker.description)
    reader, writer = Client("reader", broker.port, keep=True), Client("writer", broker.port)
    reader.subscribe("t/#")
    reader.close()
    sent = [b"%d" % i for i in range(50)]
    writer.publish("t/x", *sent)
    if not broker.durable:      # a disk that is slow just now: saved each second
        time.sleep(2.0)
    assert answers(broker.port)     # it acknowledges before it saves, and saves before it turns to the next client
    port = broker.port
    os.kill(broker.pid, signal.SIGKILL)
    while broker.exit_status() is None:
        time.sleep(0.01)
    writer.close()
    broker.stop()
    with broker:
        assert broker.port == port
        again = Client("reader", port, keep=True)
        assert again.session_present
        assert again.await_payloads(50) == sent
        again.close()


def test_iotcore_says_that_it_keeps_nothing(tmp_path: Path) -> None:
    with Broker(tmp_path, program="iotcore") as running:
        assert not running.durable
        assert running.description.startswith("broker: iotcore ")
        assert f"at {running.url}, not durable: a kill" in running.description


@needs_mosquitto
def test_many_messages_are_saved_each_second_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_sync_time", lambda _folder: 0.001)
    for rate, durable in ((50.0, True), (180.0, False)):
        with Broker(tmp_path, program="mosquitto", messages_per_s=rate) as running:
            assert running.durable == durable
            assert ("saved each second because 180 messages/s come" in running.description) == (not durable)


@needs_mosquitto
def test_disk_that_syncs_slowly_is_spared_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_sync_time", lambda _folder: 0.030)
    with Broker(tmp_path, program="mosquitto") as running:
        assert not running.durable
        assert "saved each second because this disk takes 30 ms to sync" in running.description
        assert "autosave_on_changes false" in (running.folder / "mosquitto.conf").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_kill_of_the_program_ends_its_broker(tmp_path: Path, kind: Kind) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path, kind], stdin=-1, stdout=-1, text=True) as program:
        assert program.stdout is not None
        pid, port = (int(word) for word in program.stdout.readline().split())
        assert answers(port)
        with pytest.raises(BrokerError, match=f"the broker in .* is in use by process {program.pid}"):
            Broker(tmp_path, program=kind).start()
        program.kill()
        assert ends_within(pid, 5)
    with Broker(tmp_path, port=port, program=kind) as again:        # at once, on its port
        assert again.port == port


def test_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with Broker(tmp_path / "a") as first, pytest.raises(BrokerError, match=f"port {first.port} of 127.0.0.1 is taken"):
        Broker(tmp_path / "b", port=first.port).start()


@pytest.mark.parametrize("kind", KINDS)
def test_port_that_is_taken_at_the_last_moment_is_given_up(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((HOST, 0)) as taken:
        ports = iter([taken.getsockname()[1], module._free_port()])
        monkeypatch.setattr(module, "_free_port", lambda: next(ports))
        monkeypatch.setattr(module, "_ANSWER_LIMIT_S", 0.2)
        with Broker(tmp_path, program=kind) as running:
            assert running.port != taken.getsockname()[1]


@needs_mosquitto
def test_broker_that_does_not_start_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOSQUITTO", "nonsense true\n")
    with pytest.raises(BrokerError, match=r"mosquitto .* did not start: .*nonsense"):
        Broker(tmp_path, program="mosquitto").start()


def test_no_broker_at_all_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_SBIN", ())
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(BrokerError, match=r"neither mosquitto nor iotcore is installed.*hint: apt install mosquitto"):
        Broker(tmp_path / "data").start()


@needs_mosquitto
def test_mosquitto_is_found_outside_of_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module._find_program(None).name == "mosquitto"


def test_what_does_not_speak_mqtt_does_not_answer() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with contextlib.suppress(ConnectionResetError):     # if it hangs up before it has read our CONNECT
            assert not answers(port)
        thread.join()
