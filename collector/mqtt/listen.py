"""What an MQTT broker carries: topics with numbers in them, found by listening for a while.

Each number in a JSON payload is a row, with the path to it, and to the time and status that stand beside it or around
it; each number that a Sparkplug BIRTH declares is one too (`sparkplug.births`). Listening has a session of its own that
ends with it: the collector's is not touched. The way in is `listen`.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import paho.mqtt.client as paho

from collector.discovery import Found, Offer, unit_named
from collector.mqtt.broker import Broker
from collector.mqtt.link import REFUSED, connect, new_client
from collector.mqtt.paths import Steps
from collector.mqtt.payload import LARGEST_PAYLOAD
from collector.mqtt.sifting import NOT_UTF8, Publish
from collector.mqtt.values import SEVERITY, Rejected, number, time_us
from collector.sparkplug.births import COLUMNS as OF_SPARKPLUG
from collector.sparkplug.births import MOST_METRICS, Births, path_of
from collector.times import MICROS, plausible
from park.errors import BrokerError
from park.quality import UNCERTAIN_STATUS

COLUMNS = ("mqtt.topic", "mqtt.value", "mqtt.time", "mqtt.status")     # and those of Sparkplug where there is any
SECONDS = 10.0          # hears every meter of the default interval once
MOST_TOPICS = 20_000
MOST_PATHS = 200        # in one topic
SPARKPLUG = ("spBv1.0/", "spAv1.0/", "STATE/")      # STATE: of hosts before version 3

_TIMES = frozenset({"ts", "time", "timestamp", "t", "datetime", "at", "source_time", "sourcetimestamp", "measured_at"})
_STATUSES = frozenset({"status", "statuscode", "status_code", "quality"})
_UNITS = frozenset({"unit", "units", "uom"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Beside:
    """What stands beside a number, or around it: where its time and status are, and its unit."""

    time: Steps | None = None
    status: Steps | None = None
    unit: str = ""


@dataclass
class Topic:
    """What was heard on one topic."""

    messages: int = 0
    numbers: dict[Steps, Beside] = field(default_factory=dict)


class Heard:
    """What was heard so far; pure, `add` is called for each message."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.births = Births()
        self.passed_over = 0

    def add(self, topic: str, payload: bytes, now_us: int) -> None:
        """Take in a message."""
        if topic not in self.topics and len(self.topics) >= MOST_TOPICS:
            self.passed_over += 1
            return
        heard = self.topics.setdefault(topic, Topic())
        heard.messages += 1
        if topic.startswith(SPARKPLUG):
            self.births.add(topic, payload)
            return
        if len(payload) > LARGEST_PAYLOAD:
            return
        try:
            for steps, beside in numbers(json.loads(payload), now_us):
                if steps in heard.numbers or len(heard.numbers) < MOST_PATHS:
                    heard.numbers.setdefault(steps, beside)
        except (ValueError, RecursionError):
            return              # said of the topic, if nothing else comes on it

    def offer(self) -> Offer:
        """Return it as rows and remarks."""
        offer = Offer()
        for name, topic in sorted(self.topics.items()):
            for steps, beside in topic.numbers.items():
                source = {"mqtt.topic": name, "mqtt.value": path_text(steps)}
                if beside.time is not None:
                    source["mqtt.time"] = path_text(beside.time)
                if beside.status is not None:
                    source["mqtt.status"] = path_text(beside.status)
                offer.found.append(Found(_names(name, steps, alone=len(topic.numbers) == 1), source, beside.unit))
            if len(topic.numbers) == MOST_PATHS:
                offer.remarks.append(f"{name}: of its numbers only the first {MOST_PATHS}")
        offer.found += self.births.found()
        self._remark(offer)
        return offer

    def _remark(self, offer: Offer) -> None:
        empty = [name for name, topic in self.topics.items() if not topic.numbers]
        other = sorted(name for name in empty if not name.startswith(SPARKPLUG))
        if not self.topics:
            offer.remarks.append("nothing was heard (hint: --seconds, --topic)")
        if nodes := sorted(self.births.without_birth()):
            offer.remarks.append(f"{len(nodes)} Sparkplug nodes sent data and no BIRTH, {'/'.join(nodes[0])} for one: "
                                 "what their metrics are is not known (hint: --rebirth, or more --seconds)")
        if self.births.arrays:
            offer.remarks.append(f"{self.births.arrays} Sparkplug metrics are arrays, and are left out: "
                                 "a meter reads one element with sparkplug.index")
        if self.births.passed_over:
            offer.remarks.append(f"{self.births.passed_over} Sparkplug metrics beyond {MOST_METRICS} were passed over")
        if other:
            offer.remarks.append(f"{len(other)} topics have no JSON with numbers, and are left out: {other[0]} for one")
        if self.passed_over:
            offer.remarks.append(f"more than {MOST_TOPICS} topics: {self.passed_over} messages were passed over "
                                 "(hint: --topic)")


def listen(
    broker: Broker, *, seconds: float = SECONDS, topics: Sequence[str] = ("#",), asks_rebirth: bool = False
) -> Offer:
    """Return what is heard on topics within some seconds, retained messages included.

    Parameters
    ----------
    broker
        The broker; the client id is another one.
    seconds
        How long, from the broker's answer on.
    topics
        What is subscribed.
    asks_rebirth
        Whether Sparkplug nodes whose data are heard are asked for their BIRTHs; else nothing is published.

    Raises
    ------
    BrokerError
        If the broker cannot be reached, refuses, or goes.
    """
    ear = _Ear(replace(broker, client_id=f"symbiosis-discover-{secrets.token_hex(6)}"), topics, asks_rebirth)
    return ear.listen(seconds).offer()


class _Ear:
    """One connection; its callbacks run in paho's thread."""

    def __init__(self, broker: Broker, topics: Sequence[str], asks_rebirth: bool) -> None:
        self._broker = broker
        self._topics = topics
        self._asks_rebirth = asks_rebirth
        self._heard = Heard()
        self._subscribed = threading.Event()
        self._ended = threading.Event()
        self._reason = ""
        self._client = new_client(broker, keeps_session=False)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publishes = self._on_publishes
        self._client.on_disconnect = self._on_disconnect

    def listen(self, seconds: float) -> Heard:
        """Connect, listen so long from the broker's answer on, and leave."""
        try:
            connect(self._client, self._broker, keeps_session=False)
        except OSError as error:
            self._client._reset_sockets()
            raise BrokerError(f"cannot reach {self._broker}: {error}") from error
        self._client.loop_start()
        try:
            while not self._subscribed.wait(0.05):
                self._check()
            self._ended.wait(seconds)
            self._check()
        finally:
            self._client.disconnect()
            self._client.loop_stop()
            self._client._reset_sockets()       # paho leaves a pair of them to its finaliser
        return self._heard

    def _check(self) -> None:
        if self._ended.is_set():
            raise BrokerError(f"{self._broker}: {self._reason}")

    def _end(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._ended.set()

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            self._end(f"the broker refuses the connection: {reason}")
        else:
            client.subscribe([(topic, 0) for topic in self._topics])

    def _on_subscribe(self, _client: paho.Client, _data: Any, _mid: int, reasons: Sequence[Any], _more: Any) -> None:
        refused = [topic for topic, reason in zip(self._topics, reasons, strict=False) if reason.value >= REFUSED]
        if refused:
            self._end(f"the broker refuses topic {refused[0]!r}")
        self._subscribed.set()

    def _on_publishes(self, messages: Sequence[Publish]) -> None:
        now_us = round(time.time() * MICROS)
        for message in messages:
            if message.topic != NOT_UTF8:
                self._heard.add(message.topic, message.payload, now_us)
        if self._asks_rebirth:
            for command in self._heard.births.requests(now_us // 1000):
                self._client.publish(command.topic, command.payload)

    def _on_disconnect(self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        self._end(f"connection lost: {reason}")


def columns_of(offer: Offer) -> tuple[str, ...]:
    """Return the columns of the sources that were found."""
    return COLUMNS + (OF_SPARKPLUG if any(OF_SPARKPLUG[0] in found.source for found in offer.found) else ())


def place_of(found: Found) -> str:
    """Return where something was found: its topic, or the path of its metric."""
    return found.source.get(COLUMNS[0]) or path_of(found)


def numbers(document: Any, now_us: int, steps: Steps = (), around: Beside | None = None) -> Iterator[
        tuple[Steps, Beside]]:
    """Yield the path of each number in a document, with what stands beside it; times and statuses are no numbers."""
    around = around or Beside()
    if _is_number(document):
        yield steps, around
    elif isinstance(document, dict):
        beside = _beside(document, now_us, steps, around)
        for name, value in document.items():
            path = (*steps, name)
            if path not in (beside.time, beside.status) and name.lower() not in _TIMES | _STATUSES:
                yield from numbers(value, now_us, path, beside)
    elif isinstance(document, list):
        for index, value in enumerate(document[:MOST_PATHS]):
            yield from numbers(value, now_us, (*steps, index), around)


def _beside(document: Mapping[str, Any], now_us: int, steps: Steps, around: Beside) -> Beside:
    """Return time, status and unit of an object, each that of the object around it where it has none."""
    beside = around
    for name, value in document.items():
        word = name.lower()
        if word in _TIMES and _is_time(value, now_us):
            beside = replace(beside, time=(*steps, name))
        elif word in _STATUSES and _is_status(word, value):
            beside = replace(beside, status=(*steps, name))
        elif word in _UNITS and isinstance(value, str):
            beside = replace(beside, unit=unit_named(value))
    return beside


def _is_number(value: Any) -> bool:
    """Whether a value is a number that the collector takes."""
    try:
        number(value)
    except Rejected:
        return False
    return True


def _is_time(value: Any, now_us: int) -> bool:
    """Whether a value is a time that the collector takes."""
    try:
        return plausible(time_us(value), now_us)
    except (Rejected, OverflowError):
        return False


def _is_status(word: str, value: Any) -> bool:
    """Whether a value is a status that the collector takes for what it means.

    Small numbers, and any number named quality, are left: in OPC DA 192 is good and 0 is bad, in OPC UA both are good.
    """
    if isinstance(value, str):
        return value.lower() in SEVERITY
    return word != "quality" and type(value) is int and (value == 0 or UNCERTAIN_STATUS <= value <= 0xFFFFFFFF)


def path_text(steps: Steps) -> str:
    """Return steps as an RFC 9535 path: ``('a', 0, 'b c')`` -> ``$.a[0]["b c"]``."""
    text = "$"
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if _NAME.fullmatch(step) else f"[{json.dumps(step, ensure_ascii=False)}]"
    return text


def _names(topic: str, steps: Steps, *, alone: bool) -> list[str]:
    """Return names for a number: its topic, and its path where the topic has several."""
    base = topic.strip("/").replace("/", ".")
    words = [str(step) for step in steps]
    whole = ".".join([base, *words])
    return [base, whole] if alone else [".".join([base, *words[-1:]]), whole]
