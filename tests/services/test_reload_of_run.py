"""`symbiosis run` whose park file changes: wrong, killed meanwhile, right; with real processes, broker and database."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.collector.running import mqtt, park_of, rows
from tests.services.test_collector_mqtt import publishing

PATIENCE_S = 60.0


class Run:
    """The program as its user starts it, and what it says."""

    def __init__(self, folder: Path, dsn: str, broker: str) -> None:
        self.park, self.data = folder / "park.yaml", folder / "data"
        self.log = (folder / "log").open("w+")
        self.write("A")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "symbiosis", "run", str(self.park), "--dsn", dsn, "--data", str(self.data),
             "--broker", broker, "--headless"], stdin=subprocess.DEVNULL, stderr=self.log)

    def write(self, *meters: str) -> None:
        """Save the park with meters on topics of their names."""
        park = json.loads(park_of(*(mqtt(id) for id in meters)).model_dump_json(by_alias=True, exclude_defaults=True))
        self.park.write_text(json.dumps({key: value for key, value in park.items() if value}))

    def said(self, text: str) -> int:
        """How many lines of what it said hold a text."""
        return sum(text in line for line in Path(self.log.name).read_text().splitlines())

    def answer(self, service: str, path: str) -> str | None:
        """What a service answers with 200; None: it does not."""
        try:
            url = json.loads((self.data / "run.json").read_text())["metrics"][service]
            with urllib.request.urlopen(f"{url}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except (OSError, KeyError, urllib.error.URLError):
            return None

    def reloads(self, service: str, result: str) -> float:
        families = text_string_to_metric_families(self.answer(service, "/metrics") or "")
        return sum(sample.value for family in families for sample in family.samples
                   if sample.name == "symbiosis_park_reloads_total" and sample.labels["result"] == result)

    def kill(self, service: str) -> None:
        """Kill a service, not the run."""
        children = psutil.Process(self.process.pid).children()
        [child] = [child for child in children if f"symbiosis {service}" in " ".join(child.cmdline())]
        child.kill()

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, Path(self.log.name).read_text()
            assert time.monotonic() < deadline, f"{what} did not come about:\n{Path(self.log.name).read_text()}"
            time.sleep(0.05)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.log.close()
        return code


async def test_a_wrong_file_is_refused_survives_a_kill_and_a_right_one_is_taken_over(
    tmp_path: Path, postgres_dsn: str, broker
) -> None:
    run = Run(tmp_path, postgres_dsn, broker.url)
    try:
        run.until(lambda: run.answer("collect", "/readyz") and run.answer("process", "/readyz"), "readiness")
        run.park.write_text(run.park.read_text().replace('"t/h"', '"t/fortnight"'))
        run.process.send_signal(signal.SIGHUP)
        run.until(lambda: all(run.reloads(service, "refused") == 1 for service in ("collect", "process")), "refusal")
        assert run.answer("collect", "/readyz")
        assert run.said("the one before goes on: park.yaml:1: meter 'A': ") == 2
        run.kill("collect")
        run.until(lambda: run.said("collect ended unexpectedly (killed by SIGKILL)"), "the kill")
        run.until(lambda: run.answer("collect", "/readyz"), "readiness with the park before")
        assert run.said("the one before goes on: park.yaml:1: meter 'A': ") == 3
        run.write("A", "B")
        run.until(lambda: all(run.reloads(service, "applied") == 1 for service in ("collect", "process")), "the change")
        assert run.said("park.yaml has changed: meter 'B' added; ") == 2
        async with publishing(broker) as instrument:
            payload = json.dumps({"value": 1.0, "ts": datetime.now(UTC).isoformat()})
            for meter in ("A", "B"):
                await instrument.send(f"plant/{meter}", [payload])
        run.until(lambda: {meter for (meter,) in rows(postgres_dsn, "select meter from reading")} == {"A", "B"}, "both")
    finally:
        code = run.end()
    assert code == 0
