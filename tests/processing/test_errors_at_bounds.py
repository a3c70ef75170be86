"""A meter that is far off pushes other flows to their bounds: it is named all the same, with its whole size."""

from __future__ import annotations

import numpy as np
import pytest

from park.model import Park
from processing.chain import Chain
from processing.detect.events import Opened
from processing.window import Readings
from tests.processing.parks import flow
from tests.processing.test_chain import presence_of
from tests.processing.test_estimate import node, park_of, stream

S = 1_000_000
TRUE = {"A": 100.0, "B": 60.0, "C": 40.0, "D": 60.0, "F": 100.0}


def header() -> Park:
    """A flow that parts in two branches and joins again, with a cross-line G between them that no meter sees."""
    streams = [
        stream("A", "environment", "a.in"), stream("B", "a.in", "a.left"), stream("C", "a.in", "a.right"),
        stream("G", "a.left", "a.right"), stream("D", "a.left", "a.out"), stream("E", "a.right", "a.out"),
        stream("F", "a.out", "environment")]
    nodes = [node(name, "mass") for name in ("a.in", "a.left", "a.right", "a.out")]
    return park_of(nodes, streams, [flow(name, name, "receiver", 1.0) for name in TRUE])


def bias_events(park: Park, wrong: str | None, seed: int) -> list[Opened]:
    """Run 40 windows in which the meter `wrong` reads zero from the start; return what was opened."""
    chain, rng, opened = Chain(park), np.random.default_rng(seed), []
    std = np.array([meter.u95(TRUE[meter.id]) for meter in park.meters]) / 1.96 * np.sqrt(0.5)
    systematic = np.clip(rng.standard_normal(len(std)), -1.0, 1.0) * std
    for window in range(40):
        start = 20 * window * S
        rows = [(m, start + 5 * k * S, 0.0 if meter.id == wrong else TRUE[meter.id] + systematic[m]
                 + rng.normal(0.0, std[m])) for m, meter in enumerate(park.meters) for k in range(4)]
        readings = Readings.of(len(std), *(list(column) for column in zip(*rows, strict=True)))
        result = chain.run(readings, start, start + 20 * S, presence_of(readings, start, start + 20 * S, 0))
        opened += [change for change in result.changes if isinstance(change, Opened)]
    return opened


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wrong", ["A", "F"])
def test_a_meter_that_fails_to_zero_is_named_though_others_go_to_their_bounds(wrong, seed):
    found = bias_events(header(), wrong, seed)
    assert [(event.kind, event.subject) for event in found] == [("meter_bias", wrong)]
    assert found[0].evidence["unit"] == "t/h"
    assert found[0].evidence["bias"] == pytest.approx(-360.0, abs=6.0)


def test_nothing_is_said_of_honest_meters_beside_an_idle_line():
    assert [event for seed in range(3) for event in bias_events(header(), None, seed)] == []
