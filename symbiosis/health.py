"""How others see whether a service lives and works: three addresses on one port of each service.

    /healthz    200 while its main loop comes round, 503 when that has stood still
    /readyz     200 when it does its work, 503 with the reasons when not yet or not now; JSON both times
    /metrics    everything it counts, for Prometheus

Here is the server and what health is worked out from: the states that the service says, and the beats of its main loop.
What is counted is in `collector.metrics` and `processing.metrics`. The main path enters at `observed`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from park.errors import InputError
from park.watch import ParkWatch
from symbiosis.service import Say

STANDS_STILL_S = 60.0       # a main loop that has not come round for so long will not; windows take seconds at most
REQUEST_S = 5.0             # a client that says nothing for so long is left
_WORKS = frozenset({"armed", "collecting", "ready", "processing", "window"})
_DOES_NOT = frozenset({"waiting", "connecting"})
_LACKS = "not_collected"    # told beside readiness: one wrong tag of many shall not take the service out of service

Address = tuple[str, int]


class Health:
    """Whether a service lives and works, from what it says and does. For any thread.

    Parameters
    ----------
    name
        The service.
    now
        A monotonic clock [s].
    """

    def __init__(self, name: str, now: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._now = now
        self._beat: float | None = None
        self._works = False             # it has said once that it does
        self._lacking: Mapping[str, object] = {}
        self._hindered: tuple[str, Mapping[str, object]] | None = ("starting", {})

    def beat(self) -> None:
        """Note that the main loop has come round."""
        self._beat = self._now()

    def note(self, state: str, detail: Mapping[str, object]) -> None:
        """Take in a state that the service says."""
        if state in _WORKS:
            self._works = True
            if state != "armed" or not self._waits:     # subscriptions may be in force before the database is there
                self._hindered = None
        elif state in _DOES_NOT:
            self._hindered = (state, dict(detail))
        elif state == _LACKS:
            self._lacking = {_LACKS: dict(detail)} if detail["count"] else {}

    def alive(self) -> dict[str, object] | None:
        """Return why the service does not live; None while it does. Before its first beat it is starting."""
        silent_s = 0.0 if self._beat is None else self._now() - self._beat
        return {"reason": f"the main loop has stood still for {silent_s:.0f} s"} if silent_s > STANDS_STILL_S else None

    def unready(self) -> dict[str, object] | None:
        """Return why the service does not do its work; None while it does."""
        hindered = self._hindered
        return None if hindered is None else {"reason": hindered[0], **hindered[1]}

    @property
    def _waits(self) -> bool:
        return self._hindered is not None and self._hindered[0] == "waiting"

    @property
    def lacking(self) -> Mapping[str, object]:
        """What of its work it cannot do though it is ready; empty if there is nothing."""
        return self._lacking

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield readiness for Prometheus."""
        yield GaugeMetricFamily("symbiosis_ready", "1 while the service does its work", float(self.unready() is None))


def new_registry(health: Health) -> CollectorRegistry:
    """Return a registry that counts what every service has: readiness, processor time, memory, open files."""
    disable_created_metrics()       # type: ignore[no-untyped-call]  # as many series again, which nobody asks for
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_OfHealth(health))
    return registry


class _OfHealth(Collector):
    """`Health.collect` as a registry wants it."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[GaugeMetricFamily]:
        return self._health.collect()


@contextmanager
def serving(address: Address, health: Health, registry: CollectorRegistry) -> Iterator[str]:
    """Answer at an address while the block runs; give the URL.

    Raises
    ------
    InputError
        If the address cannot be listened at.
    """
    try:
        server = _server_at(address, health, registry)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"cannot serve metrics at {address[0]}:{address[1]}: {reason}") from error
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="health", daemon=True)
        thread.start()
        host, port = server.server_address[:2]
        try:
            yield f"http://[{host!s}]:{port}" if server.address_family == AF_INET6 else f"http://{host!s}:{port}"
        finally:
            server.shutdown()
            thread.join()


def _server_at(address: Address, health: Health, registry: CollectorRegistry) -> ThreadingHTTPServer:
    """Return a server that listens."""

    class Handler(_Handler):
        of_health, of_registry = health, registry

    class Server(ThreadingHTTPServer):
        address_family = AF_INET6 if ":" in address[0] else AF_INET
        daemon_threads = True
        block_on_close = False          # a scraper that keeps its connection does not hold up the end

    return Server(address, Handler)


@dataclass(frozen=True)
class Observed:
    """What a service says goes through `say`, what it counts into `registry`."""

    say: Say
    registry: CollectorRegistry


@contextmanager
def observed(
    name: str, address: Address | None, watch: ParkWatch, say: Say, on_applied: Callable[[], None] = lambda: None
) -> Iterator[Observed]:
    """Let others see how a service fares while the block runs, at an address if one is given.

    The service's main loop asks `watch` again and again, which shows that it lives; `on_applied` is called when a
    changed park is in force.
    """
    health = Health(name)
    registry = new_registry(health)
    reloads = Counter(
        "symbiosis_park_reloads", "Changes of the park's files, by what became of them", ["result"], registry=registry)
    for result in ("applied", "refused"):
        reloads.labels(result)      # shown as 0 before the first

    def reloaded(result: str, line: str) -> None:
        reloads.labels(result).inc()
        say("note", {"text": line})
        if result == "applied":
            on_applied()

    def tell(state: str, detail: Mapping[str, object]) -> None:
        health.note(state, detail)
        if state != _LACKS:             # the collector has logged it, and its state is what it was
            say(state, detail)

    watch.report_to(reloaded, health.beat)
    with ExitStack() as stack:
        if address is not None:
            say("metrics", {"url": stack.enter_context(serving(address, health, registry))})
        yield Observed(tell, registry)


class _Handler(BaseHTTPRequestHandler):
    """Answers one client."""

    of_health: Health
    of_registry: CollectorRegistry
    timeout = REQUEST_S
    protocol_version = "HTTP/1.1"
    server_version = "symbiosis"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with what the path asks for."""
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._answer_json(self.of_health.alive(), "alive", {})
        elif path == "/readyz":
            self._answer_json(self.of_health.unready(), "ready", self.of_health.lacking)
        elif path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, kind, encode(self.of_registry))
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"/healthz, /readyz, /metrics\n")

    do_HEAD = do_GET

    def _answer_json(self, wrong: Mapping[str, object] | None, right: str, beside: Mapping[str, object]) -> None:
        """Answer that all is right, or what is wrong, and what else there is to say."""
        said = {"service": self.of_health.name, right: wrong is None, **(wrong or {}), **beside}
        body = json.dumps(said, ensure_ascii=False, default=str).encode() + b"\n"
        self._answer(HTTPStatus.OK if wrong is None else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", body)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep no log of requests."""
