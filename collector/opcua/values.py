"""Data values of OPC UA -> rows: one loop over a notification, made for being cheap.

Not here: who asked for them (`tags`), over what (`client`), and the bytes (`decode`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping

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


class Values:
    """Reads the notifications of one server.

    Parameters
    ----------
    source
        The server's source name.
    meters
        Ids of its meters by place.
    rejections
        Where values go that are no readings.
    """

    def __init__(self, source: str, meters: Mapping[int, str], rejections: Rejections) -> None:
        self._source = source
        self._meters = meters
        self._rejections = rejections
        self._heard = dict.fromkeys(meters, False)   # by place: a value came since the subscription was made
        self._said_no_source_time = False
        self.overflowed = 0

    def begin(self) -> None:
        """Take the next values as the initial ones of a new subscription."""
        self._heard = dict.fromkeys(self._meters, False)

    def read(self, items: Iterable[Item], received_us: int, rows: Rows) -> bool:
        """Append the readings of one notification.

        Parameters
        ----------
        items
            What the server sent; the client handle is the meter's place.
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
        heard = self._heard
        for item in items:
            place, value, code, source_ticks, server_ticks = item
            if place not in heard:
                self._rejections.add(self._source, f"handle {place}", "value of an item that was not asked for", item)
                continue
            if code == WAITING_FOR_INITIAL_DATA and not heard[place]:
                continue
            if code & _LOST_BITS == _LOST_BITS:
                # The bit speaks of the queue, not of the value: stored without it, lest a repeat be another reading.
                code &= ~_LOST_BITS
                overflowed = True
                self.overflowed += 1
            if type(value) is not float or not math.isfinite(value):
                value = self._number(item)
                if value is None:
                    continue
            if source_ticks:            # 0, the year 1601, is how some servers say that there is none
                if not plausible(source_us := us_of_ticks(source_ticks), received_us):
                    self._reject(place, "time is before 2000 or more than a day ahead", item)
                    continue
            else:
                source_us = self._without_source_time(place, server_ticks, received_us)
            heard[place] = True
            rows.add(place, source_us, received_us, value, code)
        return overflowed

    def _number(self, item: Item) -> float | None:
        """Return the value as a float, NaN if there is none; None if it is no reading."""
        place, value, code = item.handle, item.value, item.code
        if value is None:
            return math.nan
        if isinstance(value, int | float):        # every integer type, booleans and enumerations included
            number = float(value)
        elif code >= BAD_STATUS:
            return math.nan
        else:
            self._reject(place, "value is not a number", item)
            return None
        if math.isfinite(number):
            return number
        if code >= BAD_STATUS:
            return math.nan
        self._reject(place, "value is not finite", item)
        return None

    def _without_source_time(self, place: int, server_ticks: int | None, received_us: int) -> int:
        """Return the server's time, else the arrival; say so once."""
        server_us = 0 if server_ticks is None else us_of_ticks(server_ticks)
        by_server = plausible(server_us, received_us)
        if not self._said_no_source_time:
            self._said_no_source_time = True
            _logger.warning("%s: %s gives no source time, its readings are kept by %s (said once a server)",
                            self._source, self._meters[place], "the server's time" if by_server else "their arrival")
        return server_us if by_server else received_us

    def _reject(self, place: int, reason: str, what: object) -> None:
        self._rejections.add(self._source, self._meters[place], reason, what)
