"""Payloads of MQTT messages -> rows: JSON with a path to value, time and status, or a plain number.

Paths are RFC 9535 with names and indexes only, and are compiled once to steps (`compile_path`). `Topics.read` is the
way in for every message; it does no I/O and never raises for what a message holds. The connection is in `mqtt.client`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jsonpath_rfc9535 as jsonpath
from jsonpath_rfc9535.segments import JSONPathChildSegment
from jsonpath_rfc9535.selectors import IndexSelector, NameSelector

from collector.batches import Rows
from collector.register import MQTT, Register
from collector.rejections import Rejections
from collector.times import MICROS, micros, plausible
from park.errors import InputError
from park.quality import BAD_STATUS, GOOD_STATUS, UNCERTAIN_STATUS

Steps = tuple[str | int, ...]

SEVERITY: Mapping[str, int] = {"good": GOOD_STATUS, "uncertain": UNCERTAIN_STATUS, "bad": BAD_STATUS}

LARGEST_PAYLOAD = 1 << 20       # bytes; a JSON document of 1 MiB holds thousands of readings, no instrument sends it
_LARGEST_STATUS = 0xFFFFFFFF

# An epoch is told by its size: seconds until the year 5138, then milliseconds from 1973 on, and so forth.
_SECONDS_BELOW = 1e11
_MILLIS_BELOW = 1e14
_MICROS_BELOW = 1e17


class Rejected(Exception):
    """A value, time or status is not what a reading needs; the text is the reason it is counted by."""


class _Missing:
    """There is nothing at a path."""


MISSING = _Missing()


def compile_path(path: str) -> Steps:
    """Return the steps of an RFC 9535 path of names and indexes: ``$.a[0]['b c']`` -> ``('a', 0, 'b c')``.

    Raises
    ------
    InputError
        If the path is malformed or can name more than one value.
    """
    try:
        segments = jsonpath.compile(path).segments
    except jsonpath.JSONPathError as error:
        raise InputError(f"JSON path {path!r}: {error}") from None
    steps: list[str | int] = []
    for segment in segments:
        selector = segment.selectors[0]
        if not isinstance(segment, JSONPathChildSegment) or len(segment.selectors) != 1:
            raise InputError(f"JSON path {path!r} must be of names and indexes only")
        if isinstance(selector, NameSelector):
            steps.append(selector.name)
        elif isinstance(selector, IndexSelector):
            steps.append(selector.index)
        else:
            raise InputError(f"JSON path {path!r} must be of names and indexes only")
    return tuple(steps)


def at(document: Any, steps: Steps) -> Any:
    """Return what stands at the steps, or `MISSING`."""
    for step in steps:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return MISSING
    return document


def number(value: Any) -> float:
    """Return a JSON number as a float; anything else, infinities included, is rejected."""
    if type(value) is float or type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise Rejected("value is not finite") from None
        if math.isfinite(value):
            return value    # type: ignore[no-any-return]
        raise Rejected("value is not finite")
    raise Rejected("value is not a number")


def time_us(value: Any) -> int:
    """Return ISO 8601 with an offset, or an epoch in s, ms, us or ns told by its size, as microseconds; floored."""
    if type(value) is str:
        return _iso_us(value)
    if type(value) is int:
        return _epoch_us(value)
    if type(value) is float and math.isfinite(value):
        return round(value * MICROS) if abs(value) < _SECONDS_BELOW else _epoch_us(math.floor(value))
    raise Rejected("time is neither ISO 8601 nor an epoch")


def _iso_us(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Rejected("time is neither ISO 8601 nor an epoch") from None
    if moment.tzinfo is None:
        raise Rejected("time has no offset from UTC")
    return micros(moment)


def _epoch_us(value: int) -> int:
    size = abs(value)
    if size < _SECONDS_BELOW:
        return value * MICROS
    if size < _MILLIS_BELOW:
        return value * 1000
    return value if size < _MICROS_BELOW else value // 1000


def status_code(value: Any) -> int:
    """Return an OPC UA StatusCode from its number, or from good, uncertain, bad."""
    if type(value) is int and 0 <= value <= _LARGEST_STATUS:
        return value
    if type(value) is str and value.lower() in SEVERITY:
        return SEVERITY[value.lower()]
    raise Rejected("status is no StatusCode, good, uncertain or bad")


@dataclass(frozen=True)
class Rule:
    """Where one meter's reading stands in the payloads of its topic."""

    place: int
    meter: str
    value: Steps
    time: Steps | None
    status: Steps | None


def rules_of(register: Register) -> dict[str, list[Rule]]:
    """Return the rules of all MQTT meters by topic.

    Raises
    ------
    InputError
        If a path is malformed, or a topic holds a wildcard: a meter has one topic.
    """
    rules: dict[str, list[Rule]] = {}
    for place in register.mqtt:
        meter = register.meters[place]
        source = meter.source.mqtt
        assert source is not None
        if "+" in source.topic or "#" in source.topic:
            raise InputError(f"meter {meter.id!r}: topic {source.topic!r} must not hold a wildcard")
        rules.setdefault(source.topic, []).append(Rule(
            place, meter.id, compile_path(source.value),
            None if source.time is None else compile_path(source.time),
            None if source.status is None else compile_path(source.status),
        ))
    return rules


class Topics:
    """Reads messages by the rules of their topics.

    Parameters
    ----------
    rules
        Rules by topic.
    rejections
        Where messages go that hold no reading.
    """

    def __init__(self, rules: Mapping[str, Sequence[Rule]], rejections: Rejections) -> None:
        self._rules = rules
        self._rejections = rejections
        self._decode = json.JSONDecoder(parse_constant=_reject_constant).decode
        self._last_arrival: dict[int, int] = {}

    @property
    def topics(self) -> list[str]:
        """The topics to subscribe."""
        return sorted(self._rules)

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
            self._rejections.add(MQTT, topic, "topic has no meter", payload)
            return 0
        if retained:
            rules = [rule for rule in rules if rule.time is not None]
            if not rules:
                return 0
        try:
            document = self._document(payload)
        except Rejected as reason:
            self._rejections.add(MQTT, topic, str(reason), payload)
            return 0
        before = len(rows)
        absent = 0
        for rule in rules:
            try:
                absent += not self._read_one(document, rule, received_us, rows)
            except Rejected as reason:
                self._rejections.add(MQTT, f"{topic} ({rule.meter})", str(reason), payload)
        if absent == len(rules):
            self._rejections.add(MQTT, topic, "nothing at the path of the value", payload)
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

    def _read_one(self, document: Any, rule: Rule, received_us: int, rows: Rows) -> bool:
        """Append the reading of one meter; return False if the message does not speak of it."""
        raw = at(document, rule.value)
        status = GOOD_STATUS
        if rule.status is not None and (raw_status := at(document, rule.status)) is not MISSING:
            status = status_code(raw_status)
        if raw is MISSING and status < BAD_STATUS:
            return False
        value = math.nan
        if raw is None or raw is MISSING:
            status = max(status, BAD_STATUS)
        elif status < BAD_STATUS or type(raw) in (int, float):     # a bad reading may carry a text, not its number
            value = number(raw)
        rows.add(rule.place, self._source_us(document, rule, received_us), received_us, value, status)
        return True

    def _source_us(self, document: Any, rule: Rule, received_us: int) -> int:
        """Return the time in the message; without a path to one its arrival, made later than the one before."""
        if rule.time is None:
            arrival = max(received_us, self._last_arrival.get(rule.place, 0) + 1)
            self._last_arrival[rule.place] = arrival
            return arrival
        raw = at(document, rule.time)
        if raw is MISSING:
            raise Rejected("nothing at the path of the time")
        source_us = time_us(raw)
        if not plausible(source_us, received_us):
            raise Rejected("time is before 2000 or more than a day ahead")
        return source_us


def _reject_constant(name: str) -> float:
    """Refuse NaN and Infinity, which Python's reader takes and JSON does not know."""
    raise ValueError(f"{name} is not JSON")
