"""Who has sent what, as the detector of silence needs it: the same for the live cycle and for replay.

Silence of a meter counts from the first reading of its source since processing last passed over a time without any
reading (between two runs, say), and not within a gap that the collector has marked. Here: that bookkeeping over the
windows. Not here: the verdict (detect/meter_silent.py). The main path enters at `Attendance.presence`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from park.model import Park
from processing.detect.meter_silent import Presence
from processing.meters import Bools, Ints, MeterArrays
from processing.window import BEFORE, Readings

NEVER = 2**62
"""After any time [us]."""


@dataclass(frozen=True)
class Gap:
    """A time in which a source, or one meter of it, could not hold its readings; `ended_us` None: it still lasts."""

    source: str
    meter: str | None
    started_us: int
    ended_us: int | None


class Attendance:
    """From when on each meter's source has sent.

    Parameters
    ----------
    park
        The park.
    table
        Its meters.
    """

    def __init__(self, park: Park, table: MeterArrays) -> None:
        self._ids = table.ids
        self._names = tuple(m.source.name for m in park.meters)
        self.source: Ints = np.unique(self._names, return_inverse=True)[1].astype(np.int64)
        self.restart(BEFORE)

    @property
    def n_sources(self) -> int:
        """Number of sources."""
        return int(self.source.max(initial=-1)) + 1

    def of_sources(self, values: Mapping[str, int], default: int) -> Ints:
        """Return the value of each meter's source, `default` where there is none, shape (n_meters,)."""
        return np.array([values.get(name, default) for name in self._names], dtype=np.int64)

    def restart(self, from_us: int) -> None:
        """Count anew from the first reading at or after a time [us]."""
        self._from_us = from_us
        self._since: Ints = np.full(len(self._ids), BEFORE, dtype=np.int64)

    def note(self, readings: Readings) -> None:
        """Take in readings, in any order."""
        here = readings.time_us >= self._from_us
        first = np.full(self.n_sources, NEVER, dtype=np.int64)
        np.minimum.at(first, self.source[readings.meter[here]], readings.time_us[here])
        began = first[self.source]
        earlier = (began < NEVER) & ((self._since == BEFORE) | (began < self._since))
        self._since = np.where(earlier, began, self._since)

    def excused(self, gaps: Iterable[Gap], end_us: int) -> tuple[Bools, Ints]:
        """Return whom a gap excuses at `end_us`, and from when on silence counts for each meter.

        Returns
        -------
        tuple of ndarray
            bool of shape (n_meters,), and times of shape (n_meters,) [us].
        """
        since = self._since.copy()
        excused = since == BEFORE
        for gap in gaps:
            struck = np.array([
                name == gap.source and gap.meter in (None, meter)
                for name, meter in zip(self._names, self._ids, strict=True)], dtype=np.bool_)
            if gap.ended_us is None or gap.ended_us >= end_us:
                excused |= struck & (gap.started_us < end_us)
            else:
                since = np.where(struck, np.maximum(since, gap.ended_us), since)
        return excused, since

    def presence(
        self, readings: Readings, window_us: tuple[int, int], gaps: Iterable[Gap], patience_us: int
    ) -> Presence:
        """Return who has sent what until a window's end.

        Parameters
        ----------
        readings
            Those of the window, and those before it as far as meters may be late.
        window_us
            Its start and end [us].
        gaps
            Those that lasted in or shortly before the window.
        patience_us
            How long a whole source may lag [us].
        """
        start, end = window_us
        excused, since = self.excused(gaps, end)
        past = readings.between(BEFORE, end)
        usable = past.usable()
        inside = usable.between(start, end)
        first = np.full(len(self._ids), BEFORE, dtype=np.int64)
        some = inside.start[1:] > inside.start[:-1]
        first[some] = inside.time_us[inside.start[:-1][some]]
        return Presence(usable.last_time_us(), first, since, excused, end, patience_us, past.last_time_us())
