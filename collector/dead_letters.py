"""What came and is no reading, on its way to the table `dead_letter`, and back again after a fix.

`DeadLetters` takes what `Rejections` hands it, in bounded memory, and gives it up when the agent has stored it: beside
the readings, never before them. `Replay` reads letters again with the same code that reads what comes live.

    Rejections ── on_rejected ──► DeadLetters.add ──► take, stored ──► dead_letter ──► Replay ──► ReadingWriter

The counts are in `rejections`; the table itself is in `park.store.dead_letters`.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from collector.batches import Chunk, Rows, batch_of
from collector.mqtt.payload import Rule, Topics, rules_of
from collector.opcua.decode import Item
from collector.opcua.values import Values
from collector.register import SPARKPLUG, Register, protocol_of
from collector.rejections import Kept, Rejections
from collector.sparkplug.again import Letter, read_again
from collector.times import micros, micros_of_seconds, moment
from park.store.connection import connect
from park.store.dead_letters import DeadLetter, Which, mark_replayed, open_dead_letters
from park.store.readings import ReadingWriter

_logger = logging.getLogger(__name__)

PAGE = 1_000        # letters that are replayed at once


@dataclass(frozen=True)
class LetterLimits:
    """How much of what is no reading is kept.

    Attributes
    ----------
    waiting
        Letters in memory; more are only counted. One second of a flood that the collector still reads.
    waiting_bytes
        Their payloads in memory, together.
    payload_bytes
        A payload up to this size is kept whole, and can be replayed: a Sparkplug node with 1,000 metrics sends 40 kB.
    excerpt_bytes
        Kept of a larger one, to see what it was.
    batch
        Letters that are stored at once: about 20 ms, which is what a flood may delay readings by.
    kept
        Latest letters in the table; older ones are forgotten, lest one broken sender fill the disk.
    retry_s
        After the store refused letters, they wait this long [run s].
    """

    waiting: int = 20_000
    waiting_bytes: int = 32 << 20
    payload_bytes: int = 64 << 10
    excerpt_bytes: int = 4 << 10
    batch: int = 2_000
    kept: int = 100_000
    retry_s: float = 5.0


class DeadLetters:
    """Letters that wait to be stored; its `add` is the hook of `Rejections`.

    Parameters
    ----------
    register
        The meters, to tell them in what was rejected.
    now
        The run's clock [s].
    limits
        How much is kept.
    """

    def __init__(self, register: Register, now: Callable[[], float], limits: LetterLimits | None = None) -> None:
        self.limits = limits or LetterLimits()
        self.dropped = 0                # letters that found no room; they are counted among the rejected all the same
        self._now = now
        self.apply(register)
        self._waiting: deque[DeadLetter] = deque()
        self._bytes = 0
        self._last_us = 0
        self._not_before = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def apply(self, register: Register) -> None:
        """Tell the meters of a changed park in what is rejected."""
        self._subjects = _subjects(register)
        self._ids = frozenset(register.ids)

    def add(self, source: str, subject: str, reason: str, what: object) -> None:
        """Take one; where there is no room, count it."""
        if len(self._waiting) >= self.limits.waiting or self._bytes >= self.limits.waiting_bytes:
            self.dropped += 1
            if self.dropped == 1:
                _logger.warning("dead letters come faster than they are stored: some are only counted from now on")
            return
        subject, meter = self._subject(source, subject)
        # Letters differ in their arrival, so that readings without a time of their own stay apart when replayed.
        self._last_us = max(micros_of_seconds(self._now()), self._last_us + 1)
        form, payload, size = self._payload(what)
        letter = DeadLetter(source, subject, meter, reason, form, payload, size, moment(self._last_us))
        self._waiting.append(letter)
        self._bytes += len(payload)

    def due(self) -> list[DeadLetter]:
        """Return the oldest letters that wait, up to a batch; none for a while after the store refused them."""
        if not self._waiting or self._now() < self._not_before:
            return []
        return [self._waiting[place] for place in range(min(self.limits.batch, len(self._waiting)))]

    def stored(self, letters: Sequence[DeadLetter]) -> None:
        """Let the oldest letters go: they are in the table."""
        self._not_before = 0.0
        for _ in letters:
            self._bytes -= len(self._waiting.popleft().payload)

    def refused(self, reason: object) -> None:
        """Note that the store does not take them now."""
        if self._not_before == 0.0:
            _logger.warning("dead letters cannot be stored, they are tried again: %s", reason)
        self._not_before = self._now() + self.limits.retry_s

    def _subject(self, source: str, subject: str) -> tuple[str, str | None]:
        """Return the topic or meter that a rejection names, and the meter if it names one."""
        known = self._subjects.get((source, subject))
        if known is not None or protocol_of(source) != SPARKPLUG:
            return known or (subject, None)
        topic, _, meter = subject.removesuffix(")").rpartition(" (")        # `sparkplug.readings` adds it
        return (topic, meter) if meter in self._ids else (subject, None)

    def _payload(self, what: object) -> tuple[str, bytes, int]:
        """Return format, payload and whole size."""
        if isinstance(what, bytes | Kept):
            form, data = "mqtt", what if isinstance(what, bytes) else what.payload
        elif isinstance(what, Item):
            form, data = "opcua", _encoded(what)
        else:
            form, data = "text", repr(what).encode("utf-8", "backslashreplace")
        limit = self.limits
        return form, data if len(data) <= limit.payload_bytes else data[: limit.excerpt_bytes], len(data)


def _subjects(register: Register) -> dict[tuple[str, str], tuple[str, str]]:
    """Return topic and meter by source and subject, as `mqtt.payload` and `opcua.values` name what they reject."""
    found = {}
    for place, meter in enumerate(register.meters):
        source = register.source[place]
        found[source, meter.id] = (meter.id, meter.id)
        if meter.source.mqtt is not None:
            topic = meter.source.mqtt.topic
            found[source, f"{topic} ({meter.id})"] = (topic, meter.id)
    return found


def _encoded(item: Item) -> bytes:
    """Return a data value as JSON; what JSON does not know as its text, which no replay takes for a number."""
    document = {"value": item.value, "status": item.code, "source": item.source_ticks, "server": item.server_ticks}
    return json.dumps(document, default=repr).encode("utf-8", "backslashreplace")


def _decoded(payload: bytes, handle: int) -> Item:
    """Return the data value of a letter, as one that came under this handle."""
    document: dict[str, Any] = json.loads(payload)
    return Item(handle, document["value"], document["status"], document["source"], document["server"])


@dataclass
class Replayed:
    """What became of letters: stored as readings, still no readings, or not readable again (cut, text, no meter)."""

    stored: int = 0
    readings: int = 0
    still: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0

    def lines(self) -> list[str]:
        """Return it in words."""
        said = [f"{self.stored} dead letters gave {self.readings} readings"]
        said += [f"{count} still rejected: {reason}" for reason, count in sorted(self.still.items())]
        if self.unreadable:
            said.append(f"{self.unreadable} cannot be replayed: cut, without a meter of this park, or kept as text")
        return said


class Replay:
    """Reads letters again with a park as it is now, and stores their readings. Each reading is there once.

    Parameters
    ----------
    register
        The meters of the park.
    """

    def __init__(self, register: Register) -> None:
        self._register = register
        self._rules: dict[str, dict[str, list[Rule]]] = {}
        self._place = {name: place for place, name in enumerate(register.ids)}

    def run(self, dsn: str, which: Which | None = None) -> Replayed:
        """Replay all letters that are meant and not replayed yet.

        A letter is marked after its readings are committed: stopped between, it is replayed again, which changes
        nothing.

        Raises
        ------
        StoreError
            If the database is away or fails.
        """
        result = Replayed()
        with connect(dsn, autocommit=True, application="symbiosis deadletters") as conn, ReadingWriter(dsn) as writer:
            for page in open_dead_letters(conn, which or Which(), PAGE):
                mark_replayed(conn, self._page(page, writer, result))
        return result

    def _page(self, letters: Sequence[DeadLetter], writer: ReadingWriter, result: Replayed) -> list[int]:
        """Store the readings of a page; return the letters all of whose readings are stored."""
        read: list[tuple[DeadLetter, Rows]] = []
        for letter in letters:
            rejections = Rejections(log=False)
            rows = self.rows(letter, rejections)
            reasons = rejections.by_reason(letter.source)
            if rows is None:
                result.unreadable += 1
            elif reasons or not rows:
                reason = next(iter(reasons), "nothing in it for a meter of this park")
                result.still[reason] = result.still.get(reason, 0) + 1
            else:
                read.append((letter, rows))
        return self._write(read, writer, result)

    def _write(
        self, read: Sequence[tuple[DeadLetter, Rows]], writer: ReadingWriter, result: Replayed
    ) -> list[int]:
        """Write readings; return the ids of the letters that the store took whole."""
        batch = batch_of([Chunk(letter.source, rows) for letter, rows in read], self._register)
        refused = {row.row: row.reason for row in (writer.write(batch).rejected if len(batch) else ())}
        done, at = [], 0
        for letter, rows in read:
            reason = next((refused[row] for row in range(at, at + len(rows)) if row in refused), None)
            at += len(rows)
            if reason is not None:
                result.still[reason] = result.still.get(reason, 0) + 1
                continue
            assert letter.id is not None
            done.append(letter.id)
            result.stored += 1
            result.readings += len(rows)
        return done

    def rows(self, letter: DeadLetter, rejections: Rejections) -> Rows | None:
        """Return the readings of a letter, none with a rejection; None if it cannot be read again."""
        if letter.is_cut or letter.format == "text":
            return None
        rows = Rows()
        received_us = micros(letter.received_at)
        if letter.format == "mqtt" and protocol_of(letter.source) == SPARKPLUG:
            return self._metrics(letter, rejections)
        if letter.format == "mqtt":
            rules = self._rules_of(letter)
            if not rules:
                return None
            topics = Topics({letter.subject: rules}, rejections, letter.source)
            topics.read(letter.subject, letter.payload, received_us, rows)
            return rows
        place = self._place.get(letter.meter or "")
        if place is None or self._register.meters[place].source.opcua is None:
            return None
        values = Values(letter.source, rejections)
        source = self._register.meters[place].source.opcua
        handle = values.expect(place, self._register.ids[place], source.index if source is not None else None)
        values.read([_decoded(letter.payload, handle)], received_us, rows)
        return rows

    def _rules_of(self, letter: DeadLetter) -> list[Rule]:
        """Return the rules by which a message is read again."""
        if letter.source not in self._rules:
            self._rules[letter.source] = rules_of(self._register, letter.source)
        rules = self._rules[letter.source].get(letter.subject, [])
        return [rule for rule in rules if letter.meter in (None, rule.meter)]

    def _metrics(self, letter: DeadLetter, rejections: Rejections) -> Rows | None:
        """Return the readings of a Sparkplug message; None if none of its metrics has the name of a meter's."""
        again = Letter(letter.source, letter.subject, letter.payload, micros(letter.received_at), letter.meter)
        rows = read_again(again, self._register, rejections)
        return rows if len(rows) or rejections.total(letter.source) else None


