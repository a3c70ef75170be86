"""Data values of OPC UA -> rows: one loop over a notification, made for being cheap.

Not here: who asked for them (`tags`), over what (`client`), and the bytes (`decode`).
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

from asyncua import ua

from collector.batches import Rows
from collector.opcua.decode import Item, us_of_ticks
from collector.rejections import Rejections
from collector.times import plausible
from park.quality import BAD_STATUS

_logger = logging.getLogger(__name__)

WAITING_FOR_INITIAL_DATA = ua.StatusCodes.BadWaitingForInitialData
_DATA_VALUE_INFO = 0x0400       # info type bits of a StatusCode: the info bits speak of a data value (part 4, 7.39)
_OVERFLOW = 0x0080
_LOST_BITS = _DATA_VALUE_INFO | _OVERFLOW
_ABSENT = object()             # an element that an array has not


@dataclass(slots=True)
class _Asked:
    """A monitored item that was asked for: whose it is, and what came of it."""

    place: int
    meter: str
    index: int | None = None        # of an array
    whole: bool = False             # the server gives the whole array, and not the element asked for
    heard: bool = False             # a value came since the subscription was made


class Values:
    """Reads the notifications of one server.

    Parameters
    ----------
    source
        The server's source name.
    rejections
        Where values go that are no readings.
    first
        The first client handle.
    """

    def __init__(self, source: str, rejections: Rejections, first: int = 1) -> None:
        self._source = source
        self._rejections = rejections
        self._asked: dict[int, _Asked | None] = {}      # by client handle; None: given up, what still comes is no news
        self._handles = itertools.count(first)
        self._said_no_source_time = False
        self.overflowed = 0

    def expect(self, place: int, meter: str, index: int | None = None) -> int:
        """Return a client handle under which the values of this meter are expected; no handle is given twice."""
        handle = next(handle for handle in self._handles if handle not in self._asked)
        self.restore(handle, place, meter, index)
        return handle

    def restore(self, handle: int, place: int, meter: str, index: int | None = None) -> None:
        """Expect the values of this meter under a handle that an earlier collector has given."""
        self._asked[handle] = _Asked(place, meter, index)

    def move(self, handle: int, place: int) -> None:
        """Take the values of this handle for the meter that stands at another place now."""
        if (asked := self._asked.get(handle)) is not None:
            asked.place = place

    def take_whole(self, handle: int) -> None:
        """Pick the element out of the array ourselves: the server knows no index ranges."""
        if (asked := self._asked.get(handle)) is not None:
            asked.whole = True

    def wholes(self) -> frozenset[int]:
        """Return the handles of arrays that the server gives whole."""
        return frozenset(handle for handle, asked in self._asked.items() if asked is not None and asked.whole)

    def forget(self, handle: int) -> None:
        """Expect no more of this handle; what is still on its way is left out."""
        self._asked[handle] = None

    def drop(self, handles: Iterable[int]) -> None:
        """Expect no more of these handles: their subscription is gone, and nothing is on its way."""
        for handle in handles:
            self._asked.pop(handle, None)

    def read(self, items: Iterable[Item], received_us: int, rows: Rows) -> bool:
        """Append the readings of one notification.

        Parameters
        ----------
        items
            What the server sent.
        received_us
            Arrival on the run's clock [us].
        rows
            Where the readings are appended.

        Returns
        -------
        bool
            Whether the server says that it dropped values before these.
        """
        overflowed = False
        expected = self._asked
        for item in items:
            handle, value, code, source_ticks, server_ticks = item
            asked = expected.get(handle)
            if asked is None:
                self._unexpected(item)
                continue
            if code == WAITING_FOR_INITIAL_DATA and not asked.heard:
                continue
            if code & _LOST_BITS == _LOST_BITS:
                # The bit speaks of the queue, not of the value: stored without it, lest a repeat be another reading.
                code &= ~_LOST_BITS
                overflowed = True
                self.overflowed += 1
            if type(value) is not float or not math.isfinite(value):
                value = self._number(item, asked)
                if value is None:
                    continue
            if source_ticks:            # 0, the year 1601, is how some servers say that there is none
                if not plausible(source_us := us_of_ticks(source_ticks), received_us):
                    self._reject(asked, "time is before 2000 or more than a day ahead", item)
                    continue
            else:
                source_us = self._without_source_time(asked, server_ticks, received_us)
            asked.heard = True
            rows.add(asked.place, source_us, received_us, value, code)
        return overflowed

    def _unexpected(self, item: Item) -> None:
        """Count a value that nobody asked for; one of an item that was given up a moment ago is none."""
        if item.handle not in self._asked:
            self._rejections.add(
                self._source, f"handle {item.handle}", "value of an item that was not asked for", item)

    def _number(self, item: Item, asked: _Asked) -> float | None:
        """Return the value as a float, NaN if there is none; None if it is no reading."""
        value, code = item.value, item.code
        if asked.index is not None and isinstance(value, list):
            value = self._element(value, asked)
        if value is None:
            return math.nan
        if isinstance(value, int | float):        # every integer type, booleans and enumerations included
            number = float(value)
        elif code >= BAD_STATUS:
            return math.nan
        else:
            self._reject(asked, "array has no such element" if value is _ABSENT else "value is not a number", item)
            return None
        if math.isfinite(number):
            return number
        if code >= BAD_STATUS:
            return math.nan
        self._reject(asked, "value is not finite", item)
        return None

    def _element(self, array: list[object], asked: _Asked) -> object:
        """Return the element that is meant: the only one, unless the server gives the whole array."""
        place = (asked.index or 0) if asked.whole else 0
        if place >= len(array) or (len(array) > 1 and not asked.whole):
            return _ABSENT
        return array[place]

    def _without_source_time(self, asked: _Asked, server_ticks: int | None, received_us: int) -> int:
        """Return the server's time, else the arrival; say so once."""
        server_us = 0 if server_ticks is None else us_of_ticks(server_ticks)
        by_server = plausible(server_us, received_us)
        if not self._said_no_source_time:
            self._said_no_source_time = True
            _logger.warning("%s: %s gives no source time, its readings are kept by %s (said once a server)",
                            self._source, asked.meter, "the server's time" if by_server else "their arrival")
        return server_us if by_server else received_us

    def _reject(self, asked: _Asked, reason: str, what: object) -> None:
        self._rejections.add(self._source, asked.meter, reason, what)
