"""Health and metrics over real HTTP, and what readiness is worked out from."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from park.errors import InputError
from park.watch import ParkWatch
from symbiosis.health import STANDS_STILL_S, Health, new_registry, observed, serving
from symbiosis.options import address
from tests.symbiosis.parks import small_park


class Answer:
    """What a server answers to one request."""

    def __init__(self, url: str, path: str, method: str = "GET") -> None:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.request(method, path)
        response = connection.getresponse()
        self.status, self.kind, self.body = response.status, response.headers["Content-Type"], response.read()
        connection.close()

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.body)

    @property
    def samples(self) -> dict[tuple[str, ...], float]:
        return {(sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(self.body.decode()) for sample in family.samples}


@pytest.fixture
def health() -> Health:
    return Health("collect")


@pytest.fixture
def url(health: Health) -> Iterator[str]:
    with serving(("127.0.0.1", 0), health, new_registry(health)) as url:
        yield url


def test_a_service_is_ready_from_the_moment_that_it_says_so_until_something_is_away(health: Health, url: str) -> None:
    def ready() -> tuple[int, dict[str, object], float]:
        answer, metrics = Answer(url, "/readyz"), Answer(url, "/metrics")
        return answer.status, answer.json, metrics.samples["symbiosis_ready",]

    assert ready() == (503, {"service": "collect", "ready": False, "reason": "starting"}, 0.0)
    health.note("connecting", {"receiving": 1, "of": 2})
    assert ready() == (
        503, {"service": "collect", "ready": False, "reason": "connecting", "receiving": 1, "of": 2}, 0.0)
    health.note("armed", {"opcua": 2})
    assert ready() == (200, {"service": "collect", "ready": True}, 1.0)
    health.note("waiting", {"for": {"mqtt": "connection refused"}})
    assert ready() == (
        503, {"service": "collect", "ready": False, "reason": "waiting", "for": {"mqtt": "connection refused"}}, 0.0)
    health.note("note", {"text": "of no account"})
    assert ready()[0] == 503
    health.note("collecting", {})
    assert ready()[0] == 200


def test_meters_that_are_refused_are_listed_and_leave_a_service_ready(health: Health, url: str) -> None:
    lacking = {"count": 7, "meters": {"FT2": "opcua:opc.tcp://plc: BadNodeIdUnknown"}}
    health.note("armed", {"opcua": 20})
    health.note("not_collected", lacking)
    ready = Answer(url, "/readyz")
    assert (ready.status, ready.json) == (200, {"service": "collect", "ready": True, "not_collected": lacking})
    health.note("waiting", {"for": {"database": "gone"}})
    assert Answer(url, "/readyz").json == {
        "service": "collect", "ready": False, "reason": "waiting", "for": {"database": "gone"},
        "not_collected": lacking}
    assert Answer(url, "/healthz").json == {"service": "collect", "alive": True}
    health.note("collecting", {})
    health.note("not_collected", {"count": 0, "meters": {}})
    assert Answer(url, "/readyz").json == {"service": "collect", "ready": True}


def test_a_service_lives_while_its_main_loop_comes_round(url: str) -> None:
    now = 0.0
    health = Health("process", lambda: now)
    with serving(("127.0.0.1", 0), health, new_registry(health)) as other:
        now = 1000.0
        assert Answer(other, "/healthz").json == {"service": "process", "alive": True}     # it is still starting
        health.beat()
        now += STANDS_STILL_S
        assert Answer(other, "/healthz").status == 200
        now += 1.0
        answer = Answer(other, "/healthz")
        assert (answer.status, answer.json) == (503, {
            "service": "process", "alive": False, "reason": "the main loop has stood still for 61 s"})


def test_metrics_are_in_the_text_that_prometheus_reads(url: str) -> None:
    answer = Answer(url, "/metrics")
    assert answer.status == 200
    assert answer.kind.startswith("text/plain; version=")
    assert answer.samples["process_open_fds",] > 0


def test_head_is_answered_without_a_body_and_other_paths_with_those_there_are(url: str) -> None:
    assert Answer(url, "/healthz", "HEAD").body == b""
    assert Answer(url, "/metrics?name=x").status == 200
    assert (Answer(url, "/").status, Answer(url, "/").body) == (404, b"/healthz, /readyz, /metrics\n")


def test_a_client_that_says_nothing_holds_up_nobody(health: Health) -> None:
    with serving(("127.0.0.1", 0), health, new_registry(health)) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))):
            assert Answer(url, "/healthz").status == 200


def test_an_address_that_is_taken_is_wrong_input(health: Health, url: str) -> None:
    _, _, port = url.rpartition(":")
    with (
        pytest.raises(InputError, match=rf"cannot serve metrics at 127\.0\.0\.1:{port}: address already in use"),
        serving(("127.0.0.1", int(port)), health, new_registry(health)),
    ):
        pass


@pytest.mark.parametrize(("text", "found"), [
    ("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:0", ("::1", 0)), ("localhost:1", ("localhost", 1))])
def test_addresses_are_read(text: str, found: tuple[str, int]) -> None:
    assert address(text) == found


@pytest.mark.parametrize("text", ["9464", ":9464", "host:", "host:x", "host:70000", ""])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be HOST:PORT"):
        address(text)


def test_changes_of_the_park_are_counted_by_what_became_of_them_and_said(tmp_path: Path) -> None:
    watch = ParkWatch(tmp_path / "park.yaml", small_park())
    said: list[tuple[str, object]] = []
    with observed("process", ("127.0.0.1", 0), watch, lambda state, detail: said.append((state, dict(detail)))) as seen:
        ((_, where),) = said
        watch.refuse("a fault")
        watch.accept("a meter added")
        watch.accept("another")
        samples = Answer(where["url"], "/metrics").samples
        assert samples["symbiosis_park_reloads_total", "applied"] == 2
        assert samples["symbiosis_park_reloads_total", "refused"] == 1
        seen.say("ready", {})
        assert Answer(where["url"], "/readyz").status == 200
    assert [state for state, _ in said] == ["metrics", "note", "note", "note", "ready"]
    assert said[1][1] == {"text": "the changed park.yaml is refused, the one before goes on: a fault"}


def test_subscriptions_in_force_do_not_make_ready_what_waits_for_its_database():
    health = Health("collect")
    health.note("waiting", {"for": {"database": "read-only"}})
    health.note("armed", {"mqtt": 1})
    assert health.unready() == {"reason": "waiting", "for": {"database": "read-only"}}
    health.note("collecting", {})
    assert health.unready() is None
