"""Metrics of messages whose turn it is -> rows: readings, what is none, and the bad ones of a death.

Most metrics are plain: by an alias that is not 0, a real number other than 0 with a time of its own, not null, in a
payload without qualities. `_data_plain` reads these with four accesses each; every other one goes through `metrics`,
which has the rules. A test holds the one way against the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from collector.batches import Interruption, Rows
from collector.mqtt.values import Rejected
from collector.rejections import Kept, Rejections
from collector.sparkplug import metrics
from collector.sparkplug.node import BD_SEQ, NODE_CONTROL, Declared, Known, Node
from collector.sparkplug.order import Message
from collector.sparkplug.wire import Payload
from collector.times import AHEAD_US, EARLIEST_US, plausible
from park.quality import BAD_STATUS, GOOD_STATUS

NO_COMMUNICATION = 0x80310000       # OPC UA BadNoCommunication
_MILLI = 1000                       # us
_BIRTHS = frozenset({"NBIRTH", "DBIRTH"})


class Segment(NamedTuple):
    """Rows in order, with the interruption before them, if there was one."""

    interruption: Interruption | None
    rows: Rows


class Readings:
    """The rows of a source, until they are taken.

    Parameters
    ----------
    source
        The source.
    ids
        Ids of the meters by place.
    rejections
        Where goes what is no reading.

    Attributes
    ----------
    ignored
        Metrics without a meter, counted at each message.
    on_change
        Places of the meters that send only what has changed.
    """

    def __init__(self, source: str, ids: Sequence[str], rejections: Rejections) -> None:
        self.ignored = 0
        self.ids = ids
        self.on_change: frozenset[int] = frozenset()
        self._source = source
        self._rejections = rejections
        self._last_us: dict[int, int] = {}          # latest source time by place
        self._newest_us = 0                         # of all places
        self._dead: set[int] = set()                # places whose last reading is that of a death
        self._segments: list[Segment] = []

    def take(self) -> list[Segment]:
        """Remove and return the rows, in order."""
        taken, self._segments = self._segments, []
        return taken

    def interrupt(self, cause: str, *, kept: bool = False) -> None:
        """Note that readings may be missing from here on."""
        self._segments.append(Segment(Interruption(cause, kept), Rows()))

    def birth(self, message: Message, declared: Sequence[Known]) -> None:
        """Read the values of a BIRTH, whose metrics are declared in the same order."""
        for metric, of in zip(message.payload.metrics, declared, strict=True):
            if not (metric.is_null and self._is_unknown_yet(of)):
                self.read(metric, of, message)

    def _is_unknown_yet(self, of: Known) -> bool:
        """Whether nothing is known of a metric's meters: then a null says that there is no value yet, no reading."""
        return all(place in self._dead or place not in self._last_us for _, place in of.askers)

    def data(self, node: Node, message: Message) -> bool:
        """Read the metrics of DATA; return whether one of them is in no BIRTH."""
        declared = node.declared[message.device]
        others = self._data_plain(declared, message)
        unknown = False
        for metric in others:
            of = declared.aliases.get(metric.alias) if metric.HasField("alias") else None
            of = of or declared.names.get(metric.name)
            if of is None:
                unknown = True
                reason = "unknown alias" if metric.HasField("alias") else "metric is not in the BIRTH"
                self._reject(message, reason, metric, None)
            else:
                self.read(metric, of, message)
        return unknown

    def read(self, metric: Any, of: Known, message: Message) -> None:
        """Append the readings of one metric, or count why there are none."""
        if not of.askers:
            self.ignored += of.name != BD_SEQ and not of.name.startswith(NODE_CONTROL)
            return
        for index, place in of.askers:
            try:
                value, status = metrics.reading(metric, of.datatype, index)
                source_us = metrics.source_us(metric, message.payload, message.received_us)
            except Rejected as reason:
                self._reject(message, str(reason), metric, of, place)
                continue
            if place in self._dead and place in self.on_change and message.kind in _BIRTHS:
                source_us = max(source_us, self._last_us[place] + 1, _said_us(message))
            self._add(place, source_us, message.received_us, value, status)
            if status < BAD_STATUS:
                self._dead.discard(place)

    def die(self, places: Iterable[int], at_us: int, received_us: int) -> None:
        """Make meters bad from an instant, which is after their last reading whatever their clock says."""
        for place in places:
            if place not in self._dead:
                after_us = max(at_us, self._last_us.get(place, 0) + 1)
                self._add(place, after_us, received_us, math.nan, NO_COMMUNICATION)
                self._dead.add(place)

    def _data_plain(self, declared: Declared, message: Message) -> Sequence[Any]:
        """Read the plain metrics of DATA; return the others."""
        if message.tells_quality:
            return message.payload.metrics      # type: ignore[no-any-return]
        earliest_ms, latest_ms = EARLIEST_US // _MILLI, (message.received_us + AHEAD_US) // _MILLI
        doubles, floats = declared.doubles, declared.floats
        places: list[int] = []
        times: list[int] = []
        values: list[float] = []
        others: list[Any] = []
        for metric in message.payload.metrics:
            alias = metric.alias
            if (place := doubles.get(alias)) is not None:
                value = metric.double_value     # 0 too where another field is set: those go the long way
            elif (place := floats.get(alias)) is not None:
                value = metric.float_value
            else:
                others.append(metric)
                continue
            time_ms = metric.timestamp
            if alias and value and value - value == 0.0 and earliest_ms <= time_ms <= latest_ms and not metric.is_null:
                places.append(place)
                times.append(time_ms)
                values.append(value)
            else:
                others.append(metric)
        self._add_plain(places, [time_ms * _MILLI for time_ms in times], values, message.received_us)
        return others

    def _add_plain(self, places: list[int], times: list[int], values: list[float], received_us: int) -> None:
        """Append good readings."""
        if not places:
            return
        rows = self._rows()
        rows.place.extend(places)
        rows.source_us.extend(times)
        rows.received_us.extend([received_us] * len(places))
        rows.value.extend(values)
        rows.status.extend([GOOD_STATUS] * len(places))
        if self._dead:
            self._dead.difference_update(places)
        if min(times) >= self._newest_us:
            self._last_us.update(zip(places, times, strict=True))
        else:
            for place, source_us in zip(places, times, strict=True):
                self._last_us[place] = max(source_us, self._last_us.get(place, 0))
        self._newest_us = max(self._newest_us, *times)

    def _add(self, place: int, source_us: int, received_us: int, value: float, status: int) -> None:
        self._rows().add(place, source_us, received_us, value, status)
        self._last_us[place] = max(source_us, self._last_us.get(place, 0))
        self._newest_us = max(self._newest_us, source_us)

    def _rows(self) -> Rows:
        """Return the rows that are appended to."""
        if not self._segments:
            self._segments.append(Segment(None, Rows()))
        return self._segments[-1].rows

    def _reject(self, message: Message, reason: str, metric: Any, of: Known | None, place: int | None = None) -> None:
        subject = message.topic if place is None else f"{message.topic} ({self.ids[place]})"
        self._rejections.add(self._source, subject, reason, Kept(alone(metric, of, message.payload), metric))


def _said_us(message: Message) -> int:
    """Return when a BIRTH was made [us]: a value that has not changed since a death holds again from then on."""
    at_us = int(message.payload.timestamp) * _MILLI
    return at_us if plausible(at_us, message.received_us) else message.received_us


def alone(metric: Any, of: Known | None, payload: Any) -> bytes:
    """Return a metric as a payload of its own that needs no BIRTH, to be read again after a fix."""
    letter = Payload()
    if payload.HasField("timestamp"):
        letter.timestamp = payload.timestamp
    one = letter.metrics.add()
    one.CopyFrom(metric)
    if of is not None:
        one.name, one.datatype = of.name, of.datatype
    return letter.SerializeToString()       # type: ignore[no-any-return]
