"""Payloads of MQTT messages -> rows: JSON with paths to value, time and status, or a plain number.

    payload ──► document ──► Rule.samples: each sample ──► Rule.value, time, status ──► row
                             none: the document itself

`Topics.read` is the way in for every message; it does no I/O and never raises for what a message holds. Paths are in
`paths`, what a value may be in `values`, the connection in `link`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collector.batches import Rows
from collector.mqtt.paths import MISSING, Steps, at, compile_path
from collector.mqtt.values import Rejected, TimeFormat, number, status_code, time_us
from collector.register import MQTT, Register
from collector.rejections import Rejections
from collector.times import plausible
from park.errors import InputError
from park.model import Meter
from park.quality import BAD_STATUS, GOOD_STATUS

LARGEST_PAYLOAD = 1 << 20       # bytes; a JSON document of 1 MiB holds thousands of readings, no instrument sends it
MOST_STRANGE = 1_000            # topics without a meter that are remembered to be unsubscribed


@dataclass(frozen=True)
class Rule:
    """Where one meter's readings stand in the payloads of its topic; paths begin at a sample where there are samples.

    Attributes
    ----------
    place, meter
        The meter's place and id.
    time_format
        How its time is written; None: told by its kind and size.
    samples
        Where its array of samples stands; None: the document is one sample.
    """

    place: int
    meter: str
    value: Steps
    time: Steps | None
    status: Steps | None
    time_format: TimeFormat | None = None
    samples: Steps | None = None


def rules_of(register: Register, source: str = MQTT) -> dict[str, list[Rule]]:
    """Return the rules of the meters of a source by topic.

    Raises
    ------
    InputError
        If a path is malformed, or a topic holds a wildcard: a meter has one topic.
    """
    rules: dict[str, list[Rule]] = {}
    for place in register.mqtt:
        of = register.meters[place].source.mqtt
        if of is not None and register.source[place] == source:
            rules.setdefault(of.topic, []).append(_rule(place, register.meters[place]))
    return rules


def _rule(place: int, meter: Meter) -> Rule:
    of = meter.source.mqtt
    assert of is not None
    if "+" in of.topic or "#" in of.topic:
        raise InputError(f"meter {meter.id!r}: topic {of.topic!r} must not hold a wildcard")
    time, status, samples = (
        None if path is None else compile_path(path) for path in (of.time, of.status, of.samples))
    return Rule(place, meter.id, compile_path(of.value), time, status, of.time_format, samples)


class Topics:
    """Reads messages by the rules of their topics.

    Parameters
    ----------
    rules
        Rules by topic.
    rejections
        Where messages go that hold no reading.
    source
        Whose messages they are: a park may have several brokers.
    """

    def __init__(self, rules: Mapping[str, Sequence[Rule]], rejections: Rejections, source: str = MQTT) -> None:
        self.source = source
        self._rules = rules
        self._rejections = rejections
        self._decode = json.JSONDecoder(parse_constant=_reject_constant).decode
        self._last_arrival: dict[int, int] = {}
        self._strange: set[str] = set()

    @property
    def topics(self) -> list[str]:
        """The topics to subscribe."""
        return sorted(self._rules)

    def meters_of(self, topic: str) -> list[str]:
        """Return the meters that are read from a topic."""
        return [rule.meter for rule in self._rules.get(topic, ())]

    def apply(self, register: Register) -> None:
        """Read by the rules of a changed register from now on.

        Raises
        ------
        InputError
            If a path is malformed; then nothing has changed.
        """
        self._rules = rules_of(register, self.source)

    def take_strange(self) -> set[str]:
        """Return the topics without a meter that were heard since the last call."""
        strange, self._strange = self._strange, set()
        return strange

    def read(self, topic: str, payload: bytes, received_us: int, rows: Rows, *, retained: bool = False) -> int:
        """Append the readings of one message.

        Parameters
        ----------
        topic, payload
            The message.
        received_us
            Arrival on the run's clock [us].
        rows
            Where its readings are appended.
        retained
            Whether the broker had kept it for new subscribers: then it is a reading only by a time of its own.

        Returns
        -------
        int
            Number of readings appended.
        """
        rules = self._rules.get(topic)
        if rules is None:
            if len(self._strange) < MOST_STRANGE:
                self._strange.add(topic)
            self._rejections.add(self.source, topic, "topic has no meter", payload)
            return 0
        if retained:
            rules = [rule for rule in rules if rule.time is not None]
            if not rules:
                return 0
        try:
            document = self._document(payload)
        except Rejected as reason:
            self._rejections.add(self.source, topic, str(reason), payload)
            return 0
        before = len(rows)
        spoken_of = [self._read_meter(document, rule, (topic, payload, received_us), rows) for rule in rules]
        if not any(spoken_of):
            self._rejections.add(self.source, topic, "nothing at the path of the value", payload)
        return len(rows) - before

    def _document(self, payload: bytes) -> Any:
        """Return the JSON document."""
        if len(payload) > LARGEST_PAYLOAD:
            raise Rejected("payload is larger than 1 MiB")
        try:
            return self._decode(payload.decode())
        except UnicodeDecodeError:
            raise Rejected("payload is not UTF-8") from None
        except (ValueError, RecursionError):
            raise Rejected("payload is not JSON") from None

    def _read_meter(self, document: Any, rule: Rule, message: tuple[str, bytes, int], rows: Rows) -> bool:
        """Append the readings of one meter; return False if the message does not speak of it."""
        samples = [document] if rule.samples is None else at(document, rule.samples)
        if samples is MISSING:
            return False
        if type(samples) is not list:
            self._reject(rule, message, ["no array at the path of the samples"])
            return True
        spoken_of = not samples
        reasons: list[str] = []
        for sample in samples:
            try:
                spoken_of |= self._read_sample(sample, rule, message[2], rows)
            except Rejected as reason:
                reasons.append(str(reason))
        if reasons:
            self._reject(rule, message, reasons)
        return spoken_of or bool(reasons)

    def _reject(self, rule: Rule, message: tuple[str, bytes, int], reasons: Sequence[str]) -> None:
        """Count what is wrong in a message for one meter; the message is kept once a reason."""
        topic, payload, _ = message
        for reason, count in Counter(reasons).items():
            self._rejections.add(self.source, f"{topic} ({rule.meter})", reason, payload)
            self._rejections.count(self.source, reason, count - 1)

    def _read_sample(self, sample: Any, rule: Rule, received_us: int, rows: Rows) -> bool:
        """Append the reading of one sample; return False if there is none in it."""
        raw = at(sample, rule.value)
        status = GOOD_STATUS
        if rule.status is not None and (raw_status := at(sample, rule.status)) is not MISSING:
            status = status_code(raw_status)
        if raw is MISSING and status < BAD_STATUS:
            return False
        value = math.nan
        if raw is None or raw is MISSING:
            status = max(status, BAD_STATUS)
        elif status < BAD_STATUS or type(raw) in (int, float):  # a bad reading may carry a text instead of its number
            value = number(raw)
        rows.add(rule.place, self._source_us(sample, rule, received_us), received_us, value, status)
        return True

    def _source_us(self, sample: Any, rule: Rule, received_us: int) -> int:
        """Return the time in the sample; without a path to one the arrival, made later than the one before."""
        if rule.time is None:
            arrival = max(received_us, self._last_arrival.get(rule.place, 0) + 1)
            self._last_arrival[rule.place] = arrival
            return arrival
        raw = at(sample, rule.time)
        if raw is MISSING:
            raise Rejected("nothing at the path of the time")
        source_us = time_us(raw, rule.time_format)
        if not plausible(source_us, received_us):
            raise Rejected("time is before 2000 or more than a day ahead")
        return source_us


def _reject_constant(name: str) -> float:
    """Refuse NaN and Infinity, which Python's reader takes and JSON does not know."""
    raise ValueError(f"{name} is not JSON")
