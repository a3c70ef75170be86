"""Which times a source did not cover: the rows of `gap`.

A source that was away could not hold its readings for ever. What is missing shows when its meters are heard again: a
periodic meter whose next reading was skipped has a hole, and an on-change meter may have one. The holes of one
interruption make one gap: from the last reading before to the first one after, over the meters that have a hole.

While a source is away, a gap is opened as soon as a reading is overdue, so that the time that is not covered is marked
even if the source never returns; it is withdrawn if nothing turns out to be missing (a broker kept it all).

Not here: when a source counts as interrupted (`opcua.client`, `mqtt.client`, `agent`), and the writing (`store`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from collector.batches import Chunk, Interruption
from collector.register import MQTT, Register
from collector.times import MICROS

SKIPPED = 1.5           # intervals from one reading to the next that mean one between is missing
OVERDUE = 2.5           # intervals without a reading that mean the next one is late: more than SKIPPED, for its way


@dataclass(eq=False)
class Gap:
    """A row of `gap`: times [us since 1970-01-01 UTC]; `ended_us` None while it is open; `id` None before it is stored.

    `withdrawn`: nothing was missing after all; the row goes.
    """

    source: str
    started_us: int
    ended_us: int | None
    cause: str
    id: int | None = None
    withdrawn: bool = False


@dataclass
class _Disturbance:
    """What followed one interruption of a source: who has not been heard since, and the gap that it made."""

    interruption: Interruption
    waiting: set[int]
    heard: bool = False
    overdue: set[int] = field(default_factory=set)
    gap: Gap | None = None
    holes: bool = False


class Coverage:
    """The last reading of each meter, and the gaps that interruptions leave.

    Parameters
    ----------
    register
        The meters and their sources.
    grace_s
        How much later than its instrument's time a reading may come without being overdue [run s].
    """

    def __init__(self, register: Register, grace_s: float = 2.0) -> None:
        self._last: dict[int, int] = {}
        self._interval_us = [round(meter.interval_s * MICROS) for meter in register.meters]
        self._periodic = [meter.sampling == "periodic" for meter in register.meters]
        self._places: dict[str, list[int]] = {}
        for place, source in enumerate(register.source):
            self._places.setdefault(source, []).append(place)
        self._disturbances: dict[str, _Disturbance] = {}
        self._changed: dict[Gap, None] = {}          # an ordered set
        self._grace_us = round(grace_s * MICROS)

    def resume(self, last_us: Mapping[int, int], open_gaps: Iterable[Gap], cause: str) -> None:
        """Begin where an earlier process of the same run stopped.

        Parameters
        ----------
        last_us
            Latest stored source time by place [us]; meters without one are new and have no gap.
        open_gaps
            Gaps of the store that have no end yet.
        cause
            Why the time since is not covered.
        """
        self._last.update(last_us)
        for source in {s for s, places in self._places.items() if any(p in last_us for p in places)}:
            self._interrupt(source, Interruption(cause, kept=source == MQTT))
        for gap in open_gaps:
            disturbance = self._disturbances.get(gap.source)
            if disturbance is not None and disturbance.gap is None:
                disturbance.gap, disturbance.holes = gap, True

    def advance(self, chunk: Chunk) -> None:
        """Take in a chunk of a source in the order of arrival."""
        if chunk.interruption is not None:
            self._interrupt(chunk.source, chunk.interruption)
        disturbance = self._disturbances.get(chunk.source)
        last = self._last
        for place, source_us in zip(chunk.rows.place, chunk.rows.source_us, strict=True):
            before = last.get(place)
            if before is None or source_us > before:
                if disturbance is not None and place in disturbance.waiting:
                    self._hear(disturbance, chunk.source, place, source_us)
                last[place] = source_us
        if disturbance is not None and len(chunk.rows):
            self._settle(chunk.source, disturbance)

    def tick(self, now_us: int) -> None:
        """Open a gap for each interrupted source that owes a reading by `now_us` (run time, us)."""
        for source, disturbance in self._disturbances.items():
            late = {place for place in disturbance.waiting if self._is_overdue(place, now_us)} - disturbance.overdue
            if late:
                disturbance.overdue |= late
                self._widen(disturbance, source, min(self._last[place] for place in late), None)

    def changes(self) -> list[Gap]:
        """Return the gaps that are not stored as they are now, in the order in which they changed."""
        return list(self._changed)

    def stored(self, gaps: Iterable[Gap]) -> None:
        """Note that these gaps are stored as they are now."""
        for gap in gaps:
            self._changed.pop(gap, None)

    def last_us(self, place: int) -> int | None:
        """Return the latest source time [us] of a meter; None if it was never heard."""
        return self._last.get(place)

    def _interrupt(self, source: str, interruption: Interruption) -> None:
        """Hold the next readings of all meters against their last ones; a source that is still away stays so."""
        known = {place for place in self._places.get(source, ()) if place in self._last}
        before = self._disturbances.get(source)
        if before is not None and not before.heard:
            if not interruption.kept:
                before.interruption = Interruption(before.interruption.cause)
            return
        if not known:
            return
        after = self._disturbances[source] = _Disturbance(interruption, known)
        if before is not None and before.gap is not None and before.gap.ended_us is None:
            after.gap, after.overdue, after.holes = before.gap, before.overdue, before.holes

    def _hear(self, disturbance: _Disturbance, source: str, place: int, source_us: int) -> None:
        """Judge the first new reading of a meter since the interruption."""
        disturbance.heard = True
        disturbance.waiting.discard(place)
        disturbance.overdue.discard(place)
        if self._has_hole(disturbance.interruption, place, source_us):
            disturbance.holes = True
            self._widen(disturbance, source, self._last[place], source_us)

    def _has_hole(self, interruption: Interruption, place: int, source_us: int) -> bool:
        if self._periodic[place]:
            return source_us - self._last[place] > SKIPPED * self._interval_us[place]
        return not interruption.kept

    def _is_overdue(self, place: int, now_us: int) -> bool:
        late_us = now_us - self._last[place] - self._grace_us
        return self._periodic[place] and late_us > OVERDUE * self._interval_us[place]

    def _widen(self, disturbance: _Disturbance, source: str, started_us: int, ended_us: int | None) -> None:
        """Let the disturbance's gap reach over one more hole; `ended_us` None: the hole is still open."""
        gap = disturbance.gap
        if gap is None:
            gap = disturbance.gap = Gap(source, started_us, ended_us, disturbance.interruption.cause)
        gap.started_us = min(gap.started_us, started_us)
        if ended_us is not None:
            gap.ended_us = max(gap.ended_us or ended_us, ended_us)
        self._changed[gap] = None

    def _settle(self, source: str, disturbance: _Disturbance) -> None:
        """Forget a disturbance that is over, and withdraw a gap that turned out to be none."""
        gap = disturbance.gap
        if gap is not None and disturbance.heard and not disturbance.holes and not disturbance.overdue:
            gap.withdrawn = True
            self._changed[gap] = None
            disturbance.gap = None
        if not disturbance.waiting:
            del self._disturbances[source]
