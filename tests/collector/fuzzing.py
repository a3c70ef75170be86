"""Broken payloads by the hundred thousand, through the decoders of MQTT: what they make of each, and how long it takes.

    python -m tests.collector.fuzzing [PAYLOADS] [SEED]

Good payloads, cut, repeated, with bits turned over and bytes and awkward words put in, and payloads of dice alone. A
decoder may make rows of one or count it; it may not raise, hang, keep memory, or make a row that no store takes.
"""

from __future__ import annotations

import json
import math
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from collector.batches import Chunk, Rows, batch_of
from collector.dead_letters import DeadLetters, Replay
from collector.mqtt.listen import Heard
from collector.mqtt.payload import Topics, rules_of
from collector.register import Register, register_of
from collector.rejections import Rejections
from collector.sparkplug.host import Host
from collector.sparkplug.order import MOST_HELD
from collector.sparkplug.wire import Payload
from collector.times import micros, plausible
from tests.collector.running import START, meter, mqtt, park_of

NOW_US = micros(START)
NOW_MS = NOW_US // 1000
LONGEST_S = 1.0             # one payload, on a busy machine
ALIVE_EVERY = 10            # Sparkplug payloads after which the node is born again, whole
LETTERS_EVERY = 1_000       # payloads after which dead letters are read again, as a replay does

_JSON: Sequence[bytes] = [
    json.dumps(document).encode() for document in (
        {"value": 1.5, "ts": NOW_US // 10**6, "status": 0}, {"value": -1e300, "ts": START.isoformat(), "status": "bad"},
        {"value": None, "ts": NOW_MS, "status": True}, {"value": 2**70, "ts": NOW_US * 1000},
        {"s": [{"v": 1, "t": NOW_US}, {"v": 2.5, "t": NOW_US + 1, "q": "good"}]}, [1, [2, {"a": "\ud800"}], ""], 3.25)]
_JSON_WORDS: Sequence[bytes] = (
    b"NaN", b"-Infinity", b"1e999", b"-1e999", b"9" * 400, b"[" * 2_000, b'{"a":' * 500, b"null", b"true", b'"\\ud800"',
    b"\\u0000", b"\xff\xfe", b"\x00", b"1e-400", b"-0.0", b'"9999-12-31T23:59:59.999999+00:00"', b'"value"', b",",
    b'"0001-01-01T00:00:00+23:59"', b'"2026-03-01T12:00:00.5-23:59"', b"18446744073709551616", b'"s"', b"1e308", b'"1"')
_BYTES: Sequence[bytes] = (
    b"\xff" * 10, b"\x00", b"\x12\xff\xff\xff\xff\x0f", b"\x12\x00", b"\x80" * 11, b"\x08\x00", b"\x18\xff\x01",
    b"\x12\x09\x08\x01" + b"\xff" * 8, b"\x4a\x02\x0a\x00", b"\x0a\x03\xff\xfe\xfd")
_KINDS = ("NBIRTH", "NDATA", "NDEATH", "DBIRTH", "DDATA", "DDEATH", "NCMD", "X", "")


@dataclass
class Outcome:
    """What came of payloads."""

    payloads: int = 0
    rows: int = 0
    rejected: int = 0
    longest_s: float = 0.0
    again: int = 0                  # letters that were read again


def spark(id: str, metric: str, device: str | None = None, **keys: Any) -> dict[str, Any]:
    """A meter at the node that is fuzzed."""
    return meter(id, {"sparkplug": {"group": "g", "edge_node": "e", "device": device, "metric": metric, **keys}})


JSON_PARK = park_of(
    mqtt("A", "t"), mqtt("B", "t", paths={"value": "$.s[0].v", "time": "$.s[0].t"}),
    mqtt("C", "t", paths={"samples": "$.s", "value": "$.v", "time": "$.t", "status": "$.q"}),
    mqtt("D", "t", paths={"value": "$.value", "time": "$.ts", "time_format": "ns"}), mqtt("E", "t", paths={}))
SPARKPLUG_PARK = park_of(
    spark("A", "real", "d"), spark("B", "whole", "d"), spark("C", "list", "d", index=1), spark("D", "flag"),
    spark("E", "bits", index=0))


def mutated(dice: random.Random, corpus: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Return a payload that may be broken in some places, or is of dice alone."""
    if dice.random() < 0.05:
        return dice.randbytes(dice.randrange(200))
    data = bytearray(dice.choice(corpus))
    for _ in range(dice.randrange(5)):
        at, end = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
        match dice.randrange(6):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << dice.randrange(8)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = dice.choice(words)
            case 3:
                data[at:end] = dice.choice(words)
            case 4:
                data[at:at] = data[at:end]
            case _:
                del data[at:]
    return bytes(data)


def sparkplug_corpus(dice: random.Random) -> list[bytes]:
    """Return payloads of every kind, with every field that a metric may have."""
    made = []
    for seq in range(24):
        payload = Payload(timestamp=NOW_MS + seq, seq=seq)
        payload.metrics.add(name="bdSeq", datatype=4, long_value=dice.randrange(2))
        for alias, (name, datatype) in enumerate(
                (("real", 10), ("whole", 3), ("list", 30), ("flag", 11), ("bits", 32), ("strange", 19))):
            metric = payload.metrics.add(alias=alias, timestamp=NOW_MS + dice.randrange(10**6))
            if seq < 12:
                metric.name, metric.datatype = name, datatype
            _fill(dice, metric)
        made.append(payload.SerializeToString())
    return made


def _fill(dice: random.Random, metric: Any) -> None:
    fill: list[Callable[[], None]] = [
        lambda: setattr(metric, "double_value", dice.choice([1.5, math.nan, math.inf, 0.0, -1e308])),
        lambda: setattr(metric, "float_value", dice.choice([1.5, math.nan, -math.inf])),
        lambda: setattr(metric, "int_value", dice.randrange(2**32)),
        lambda: setattr(metric, "long_value", dice.randrange(2**64)),
        lambda: setattr(metric, "boolean_value", True), lambda: setattr(metric, "bytes_value", dice.randbytes(8)),
        lambda: setattr(metric, "string_value", "4"), lambda: setattr(metric, "is_null", True)]
    dice.choice(fill)()
    if dice.random() < 0.2:
        metric.properties.keys.append("Quality")
        metric.properties.values.add(int_value=dice.choice([0, 192, 500, 2**32 - 1]))
    metric.is_historical = dice.random() < 0.1


def check(rows: Rows, register: Register) -> None:
    """Fail if a row is none that a store takes."""
    assert len({len(rows.place), len(rows.source_us), len(rows.received_us), len(rows.value), len(rows.status)}) == 1
    for place, source_us, value, status in zip(rows.place, rows.source_us, rows.value, rows.status, strict=True):
        assert 0 <= place < len(register.meters)
        assert plausible(source_us, NOW_US + 10**12)
        assert math.isfinite(value) or (math.isnan(value) and status >= 0x80000000), (value, status)
        assert 0 <= status <= 0xFFFFFFFF


class _Letters:
    """Dead letters of a fuzzed source, read again now and then."""

    def __init__(self, register: Register) -> None:
        self._letters = DeadLetters(register, lambda: NOW_US / 1e6)
        self._replay = Replay(register)
        self._register = register
        self.rejections = Rejections(self._letters.add, log=False)

    def read_again(self) -> int:
        """Read what waits again; return how much it was."""
        letters = self._letters.due()
        for letter in letters:
            rows = self._replay.rows(letter, Rejections(log=False))
            if rows is not None:
                check(rows, self._register)
        self._letters.stored(letters)
        return len(letters)


def fuzz_json(payloads: int, dice: random.Random) -> Outcome:
    """Fuzz what reads JSON, and what listens to it for `symbiosis discover`."""
    register = register_of(JSON_PARK)
    letters, heard, outcome = _Letters(register), Heard(), Outcome(payloads)
    topics = Topics(rules_of(register), letters.rejections)
    for number in range(payloads):
        payload, rows = mutated(dice, _JSON, _JSON_WORDS), Rows()
        begun = time.perf_counter()
        topics.read("t", payload, NOW_US, rows, retained=dice.random() < 0.01)
        outcome.longest_s = max(outcome.longest_s, time.perf_counter() - begun)
        if number % 10 == 0:
            heard.add("t", payload, NOW_US)
        check(rows, register)
        outcome.rows += len(rows)
        if number % LETTERS_EVERY == 0:
            outcome.again += letters.read_again()
    outcome.rejected = letters.rejections.total("mqtt")
    heard.offer()
    assert topics.read("t", _JSON[0], NOW_US, Rows()) >= 1          # what came before has broken nothing
    return outcome


def fuzz_sparkplug(payloads: int, dice: random.Random) -> Outcome:
    """Fuzz a host application, whose state lasts from payload to payload."""
    register = register_of(SPARKPLUG_PARK)
    letters, outcome = _Letters(register), Outcome(payloads)
    host, corpus = Host(register, letters.rejections), sparkplug_corpus(dice)
    now = 0.0
    for number in range(payloads):
        if number % ALIVE_EVERY == 0:
            _be_born(host, corpus[0], number, now)
        payload, kind = mutated(dice, corpus, _BYTES), dice.choice(_KINDS)
        topic = f"spBv1.0/g/{kind}/e" + ("/d" if kind.startswith("D") else "")
        now += dice.choice([0.0, 0.001, 1.0, 3.0])
        begun = time.perf_counter()
        host.receive(topic, payload, NOW_US + number, now)
        host.tick(now, NOW_US + number)
        outcome.longest_s = max(outcome.longest_s, time.perf_counter() - begun)
        assert host.held <= MOST_HELD
        for segment in host.take()[0]:
            check(segment.rows, register)
            batch_of([Chunk("sparkplug", segment.rows)], register)
            outcome.rows += len(segment.rows)
        if number % LETTERS_EVERY == 0:
            outcome.again += letters.read_again()
    outcome.rejected = letters.rejections.total("sparkplug")
    _check_that_it_still_reads(host, now)
    return outcome


def _be_born(host: Host, birth: bytes, number: int, now: float) -> None:
    """Let node and device be born, so that what follows can be read."""
    for seq, topic in enumerate(("NBIRTH/e", "DBIRTH/e/d")):
        payload = Payload.FromString(birth)
        payload.timestamp, payload.seq = NOW_MS + number, seq
        host.receive(f"spBv1.0/g/{topic}", payload.SerializeToString(), NOW_US + number, now)


def _check_that_it_still_reads(host: Host, now: float) -> None:
    """Fail if a node that is born anew is not heard."""
    born = Payload(timestamp=NOW_MS + 10**9, seq=7)
    born.metrics.add(name="flag", alias=1, datatype=11, boolean_value=True, timestamp=NOW_MS)
    host.receive("spBv1.0/g/NBIRTH/e", born.SerializeToString(), NOW_US, now)
    data = Payload(timestamp=NOW_MS, seq=8)
    data.metrics.add(alias=1, boolean_value=True, timestamp=NOW_MS + 5)
    host.receive("spBv1.0/g/NDATA/e", data.SerializeToString(), NOW_US, now)
    assert [us for segment in host.take()[0] for us in segment.rows.source_us][-1] == (NOW_MS + 5) * 1000


def outcomes(payloads: int, seed: int) -> Iterator[tuple[str, Outcome]]:
    """Yield what came of half the payloads in each decoder."""
    for name, fuzz in (("JSON", fuzz_json), ("Sparkplug", fuzz_sparkplug)):
        yield name, fuzz(payloads // 2, random.Random(seed))


def main(payloads: int, seed: int) -> None:
    """Fuzz, and print what came of it."""
    for name, outcome in outcomes(payloads, seed):
        memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sys.stdout.write(
            f"{name}: {outcome.payloads:,} payloads, seed {seed}: {outcome.rows:,} rows, "
            f"{outcome.rejected:,} rejected, {outcome.again:,} letters read again, "
            f"longest {outcome.longest_s * 1e3:.1f} ms, at most {memory_mb:.0f} MB\n")


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    main(*arguments, *(1_000_000, 1)[len(arguments):])
