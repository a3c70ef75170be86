"""Fuzzed payloads: the decoders raise nothing, hang on nothing and make no impossible row of any.

By the hundred thousand here; by the million with ``python -m tests.collector.fuzzing 1000000 SEED``.
"""

from __future__ import annotations

import random

import pytest

from tests.collector import fuzzing
from tests.collector.fuzzing import LONGEST_S, fuzz_json, fuzz_sparkplug

PAYLOADS = 50_000       # of each


@pytest.mark.parametrize("fuzz", [fuzz_json, fuzz_sparkplug])
def test_broken_payloads_do_no_harm(fuzz):
    outcome = fuzz(PAYLOADS, random.Random(20260301))
    assert outcome.rows > PAYLOADS / 20         # some are whole enough to be read
    assert outcome.rejected > PAYLOADS / 4      # and many are not
    assert outcome.again > PAYLOADS / 4
    assert outcome.longest_s < LONGEST_S


def test_the_harness_sees_a_decoder_that_raises(monkeypatch):
    monkeypatch.setattr("collector.mqtt.payload.number", float)        # takes texts, NaN, true
    with pytest.raises((AssertionError, TypeError, ValueError, OverflowError)):
        fuzz_json(2_000, random.Random(1))


def test_the_harness_sees_a_row_that_no_store_takes(monkeypatch):
    monkeypatch.setattr("collector.sparkplug.metrics.plausible", lambda *_: True)
    with pytest.raises(AssertionError):
        fuzz_sparkplug(20_000, random.Random(1))


def test_the_same_seed_makes_the_same_payloads():
    made = [[fuzzing.mutated(dice, [b"abc"], [b"x"]) for _ in range(50)] for dice in map(random.Random, (1, 1))]
    assert made[0] == made[1]
