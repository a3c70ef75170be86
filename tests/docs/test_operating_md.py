"""docs/operating.md beside the metrics: every one that there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from collector.batches import Batches
from collector.coverage import Coverage
from collector.metrics import CollectorMetrics
from collector.register import register_of
from collector.rejections import Rejections
from collector.standing import Standing
from park.clock import REAL_TIME
from park.watch import ParkWatch
from processing.metrics import ProcessMetrics
from symbiosis.health import observed
from tests.collector.running import mqtt, park_of

TEXT = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")


def of_registry(registry: CollectorRegistry) -> set[str]:
    """Return the names of a registry's metrics, as they are written in a rule."""
    return {family.name + ("_total" if family.type == "counter" else "")
            for family in registry.collect() if family.name.startswith("symbiosis_")}


def test_every_metric_is_explained_and_every_one_explained_is_there(tmp_path):
    register = register_of(park := park_of(mqtt("A")))
    rejections = Rejections()
    with observed("collect", None, ParkWatch(tmp_path / "park.yaml", park), lambda *_: None) as seen:
        standing = Standing(register, Coverage(register), Batches(), rejections, REAL_TIME)
        seen.registry.register(CollectorMetrics(standing, None))
        ProcessMetrics(seen.registry)
        names = of_registry(seen.registry)
    tables = [line.partition("|")[2].partition("|")[0] for line in TEXT.splitlines() if line.startswith("|")]
    explained = {name for cell in tables for name in re.findall(r"`(symbiosis_[a-z_]+)", cell)}
    assert explained == names
    rules = set(re.findall(r"symbiosis_[a-z_]+(?=[\[{ )`])", TEXT))
    assert rules - names <= {"symbiosis_reader"}
