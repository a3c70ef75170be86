"""Sparkplug messages that were set aside, read again: metrics that carry their name and datatype need no BIRTH."""

from __future__ import annotations

from typing import NamedTuple

from collector.batches import Rows
from collector.mqtt.values import Rejected
from collector.register import Register
from collector.rejections import Rejections
from collector.sparkplug.node import Meters, known, nodes_of, text
from collector.sparkplug.order import Message
from collector.sparkplug.readings import Readings
from collector.sparkplug.wire import decoded

_WITH_DEVICE = 5                    # levels of a topic: spBv1.0/GROUP/TYPE/NODE/DEVICE


class Letter(NamedTuple):
    """A message that was set aside.

    Attributes
    ----------
    received_us
        When it came [us].
    meter
        The id of the meter whose metric it holds; None: all.
    """

    source: str
    topic: str
    payload: bytes
    received_us: int
    meter: str | None = None


def read_again(letter: Letter, register: Register, rejections: Rejections) -> Rows:
    """Return the readings of a message; what is still none goes to `rejections`."""
    kind, device, meters = _meters(letter, register)
    readings = Readings(letter.source, register.ids, rejections)
    try:
        payload = decoded(letter.payload)
    except Rejected as reason:
        rejections.add(letter.source, letter.topic, str(reason), letter.payload)
        return Rows()
    message = Message(kind, device, payload, letter.received_us, letter.topic, letter.payload)
    for metric in payload.metrics:
        if text(metric.name) in meters:
            readings.read(metric, known(text(metric.name), metric.datatype, meters), message)
    segments = readings.take()
    return segments[0].rows if segments else Rows()


def _meters(letter: Letter, register: Register) -> tuple[str, str, Meters]:
    """Return kind and device of the message, and by metric who reads it."""
    levels = letter.topic.split("/")
    if len(levels) < _WITH_DEVICE - 1:
        return "", "", {}
    device = levels[4] if len(levels) == _WITH_DEVICE else ""
    found = nodes_of(register, letter.source).get((levels[1], levels[3]), {}).get(device, {})
    if letter.meter is None:
        return levels[2], device, found
    return levels[2], device, {
        metric: [asker for asker in askers if register.ids[asker[1]] == letter.meter]
        for metric, askers in found.items()}
