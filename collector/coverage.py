"""Which times a source did not cover: the rows of `gap`.

A source that was away could not hold its readings for ever. What is missing shows when its meters are heard again: a
periodic meter whose next reading was skipped has a hole, and an on-change meter may have one. The holes of one
interruption make one gap: from the last reading before to the first one after, over the meters that have a hole.

A source may also be there and have nothing to say of a meter: whoever publishes behind a broker was killed with
readings still in its memory, a server lost its instrument. Such a hole makes a gap of that meter alone, with the cause
that nothing came; holes that touch each other are one.

Holes are judged by the instruments' times, silence by arrival: a clock that is behind makes nobody silent.

While a source is away, a gap is opened as soon as a reading is overdue, so that the time that is not covered is marked
even if the source never returns; it is withdrawn if nothing turns out to be missing (a broker kept it all), and once
what was missing has been filled in (`holes`).

Not here: when a source counts as interrupted (`opcua.client`, `mqtt.client`, `agent`), and the writing (`store`).
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from collector.batches import Chunk, Interruption
from collector.holes import Hole, Holes
from collector.register import MQTT, Register, protocol_of
from collector.times import MICROS

SKIPPED = 1.5           # intervals from one reading to the next that mean one between is missing
OVERDUE = 2.5           # intervals without a reading that mean the next one is late: more than SKIPPED, for its way
NOTHING_CAME = "nothing came, though its source was there"
_NEVER = 1 << 62        # us


@dataclass
class Gap:
    """A row of `gap`: times [us since 1970-01-01 UTC]; `ended_us` None while it is open; `id` None before it is stored.

    `withdrawn`: nothing was missing after all; the row goes. `key` tells it from all others before it has an id.
    `meter`: whose gap it is; None: of all meters of the source.
    """

    source: str
    started_us: int
    ended_us: int | None
    cause: str
    id: int | None = None
    withdrawn: bool = False
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    meter: str | None = None


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
        self._arrived: dict[int, int] = {}           # when the latest reading came
        self._first: dict[int, int] = {}             # of this process, to hold against what is found stored later
        self._resumed: set[int] = set()
        self._own: dict[int, Gap] = {}               # each meter's latest gap of its own
        self._silent: set[int] = set()               # whose own gap is open
        self._owed: dict[int, int] = {}              # since when meters owe readings, though never heard
        self._disturbances: dict[str, _Disturbance] = {}
        self._continued: set[str] = set()            # sources that kept what came since an earlier process was killed
        self._changed: dict[str, Gap] = {}           # by key, in the order in which they changed
        self._grace_us = round(grace_s * MICROS)
        self.holes = Holes()
        self._gaps: dict[str, Gap] = {}              # of which holes are being filled, by key
        self._lay_out(register)

    def _lay_out(self, register: Register) -> None:
        """Prepare what is asked of each meter."""
        self._ids = register.ids
        self._source = register.source
        self._dropped = register.dropped
        self._heirs = register.heirs            # what is on its way for an old place counts for the new one
        self._interval_us = [round(meter.interval_s * MICROS) for meter in register.meters]
        self._periodic = [meter.sampling == "periodic" for meter in register.meters]
        self._skipped_us = [
            SKIPPED * interval if periodic else _NEVER
            for interval, periodic in zip(self._interval_us, self._periodic, strict=True)]
        self._patience_us = [
            _NEVER if meter.stale_after_s is None or meter.sampling != "periodic"
            else round(max(OVERDUE * meter.interval_s, meter.stale_after_s) * MICROS) for meter in register.meters]
        self._places: dict[str, list[int]] = {}
        for place in register.live:
            self._places.setdefault(register.source[place], []).append(place)

    def apply(self, register: Register, now_us: int) -> None:
        """Go over to the register of a changed park at a run time [us]: meters that are gone owe nothing any more."""
        earlier = {place for places in self._places.values() for place in places}
        self._lay_out(register)
        self._owed |= dict.fromkeys(set(register.live) - earlier, now_us)
        for place in register.dropped:
            self._leave(place, now_us)
        for source, disturbance in list(self._disturbances.items()):
            disturbance.waiting -= register.dropped
            disturbance.overdue -= register.dropped
            if not disturbance.waiting and disturbance.gap is not None and disturbance.gap.ended_us is None:
                disturbance.gap.ended_us = max(now_us, disturbance.gap.started_us)
                self._changed[disturbance.gap.key] = disturbance.gap
            self._settle(source, disturbance)

    def _leave(self, place: int, now_us: int) -> None:
        """Forget a place that is not collected any more; its heir goes on with what was heard."""
        heir = self._heirs.get(place)
        if place in self._silent:
            self._silent.discard(place)
            gap = self._own[place]
            gap.ended_us = max(now_us, gap.started_us)
            self._changed[gap.key] = gap
        elif heir is not None and place in self._last and heir not in self._last:
            self._last[heir], self._arrived[heir] = self._last[place], self._arrived.get(place, self._last[place])
            for disturbance in self._disturbances.values():
                for places in (disturbance.waiting, disturbance.overdue):
                    if place in places:
                        places.add(heir)
        for known in (self._last, self._arrived, self._first, self._owed):
            known.pop(place, None)

    def in_gap(self) -> set[str]:
        """Return the sources whose readings are all in a gap that is open."""
        gaps = {source: disturbance.gap for source, disturbance in self._disturbances.items()}
        return {source for source, gap in gaps.items()
                if gap is not None and gap.ended_us is None and not gap.withdrawn}

    def is_settled(self, source: str, *, resumed: bool) -> bool:
        """Whether no reading of a source may be missing that is not marked yet; `resumed`: the database was asked."""
        disturbance = self._disturbances.get(source)
        if disturbance is not None:
            return disturbance.interruption.kept
        return resumed or source in self._continued

    def open_gaps(self) -> Counter[str]:
        """Return the numbers of open gaps by source, those of single meters included."""
        return Counter([*self.in_gap(), *(self._source[place] for place in self._silent)])

    def resume(self, last_us: Mapping[int, int], open_gaps: Iterable[Gap], cause: str) -> None:
        """Go on where an earlier process of the same run stopped; what has been heard since is held against that.

        May be called for the spool first and for the database when that is back: what the first told of a meter stays.

        Parameters
        ----------
        last_us
            Latest stored source time by place [us]; meters without one are new and have no gap.
        open_gaps
            Gaps of the store that have no end yet.
        cause
            Why the time since is not covered.
        """
        opened: dict[str, Gap] = {}
        for gap in open_gaps:
            if gap.meter is None:
                opened.setdefault(gap.source, gap)
            elif gap.meter in self._ids:
                self._own[place := self._ids.index(gap.meter)] = gap
                self._silent.add(place)
        for source, places in self._places.items():
            known = {p: last_us[p] for p in places if p in last_us and p not in self._resumed}
            self._resumed |= known.keys()
            if known:
                kept = protocol_of(source) == MQTT or source in self._continued
                self._resume_source(source, known, Interruption(cause, kept), opened.get(source))

    def _resume_source(self, source: str, known: Mapping[int, int], why: Interruption, open_gap: Gap | None) -> None:
        """Hold the meters of a source against what was stored of them before this process."""
        disturbance = self._disturbances.setdefault(source, _Disturbance(why, set()))
        if open_gap is not None and disturbance.gap is None:
            disturbance.gap, disturbance.holes = open_gap, True
            self.holes.last(open_gap.key)       # what else is missing of it, the earlier process knew
        for place, stored_us in known.items():
            if self._last.get(place, stored_us) <= stored_us:
                self._last[place] = stored_us
                disturbance.waiting.add(place)
            elif self._first[place] > stored_us:
                disturbance.heard = True
                self._judge(disturbance, source, place, (stored_us, self._first[place]))
        self._settle(source, disturbance)

    def owe(self, since_us: Mapping[int, int]) -> None:
        """Take over since when meters owe readings by place [us], as an earlier process of the same run noted it."""
        self._owed = {**since_us, **self._owed}

    def begin(self, now_us: int) -> dict[int, int]:
        """Note that every subscription is in force [us]: from now on meters that were never heard owe readings too.

        Returns
        -------
        dict
            Since when each meter owes readings, by place [us].
        """
        for place in chain.from_iterable(self._places.values()):
            self._owed.setdefault(place, now_us)
        return dict(self._owed)

    def inherit(self, gaps: Iterable[Gap]) -> None:
        """Take over gaps whose state an earlier process could not store."""
        self._changed.update((gap.key, gap) for gap in gaps)

    def advance(self, chunk: Chunk) -> None:
        """Take in a chunk of a source in the order of arrival."""
        if chunk.interruption is not None:
            self._interrupt(chunk.source, chunk.interruption)
        disturbance = self._disturbances.get(chunk.source)
        rows = chunk.rows
        places = self._places_now(rows.place) if self._dropped else rows.place
        last, arrived, silent, skipped_us = self._last, self._arrived, self._silent, self._skipped_us
        for place, source_us, received_us in zip(places, rows.source_us, rows.received_us, strict=True):
            before = last.get(place)
            if source_us == before or place < 0:
                continue                            # delivered again, or not collected any more
            arrived[place] = received_us
            if before is None:
                self._first[place] = source_us
                begun_us = self._owed.get(place)
                if begun_us is not None and source_us - begun_us > skipped_us[place]:
                    self._miss(place, begun_us, source_us)
            if before is None or source_us > before:
                if disturbance is not None and place in disturbance.waiting:
                    self._hear(disturbance, chunk.source, place, source_us)
                elif before is not None and source_us - before > skipped_us[place]:
                    self._miss(place, before, source_us)
                last[place] = source_us
            if place in silent:
                self._hear_again(place, source_us if source_us == last[place] else received_us)
        if disturbance is not None and len(chunk.rows):
            self._settle(chunk.source, disturbance)

    def _places_now(self, places: Iterable[int]) -> list[int]:
        """Return the places of rows as they are now; -1 for those of meters that are not collected any more."""
        return [place if place not in self._dropped else self._heirs.get(place, -1) for place in places]

    def tick(self, now_us: int) -> None:
        """Open a gap for each interrupted source, and each meter of another, that owes a reading by `now_us` [us]."""
        marked = self._silent.union(*(disturbance.waiting for disturbance in self._disturbances.values()))
        for place in chain.from_iterable(self._places.values()):
            last_us = self._last.get(place, self._owed.get(place))
            if last_us is None or place in marked:
                continue
            if now_us - self._arrived.get(place, last_us) - self._grace_us > self._patience_us[place]:
                self._miss(place, last_us, None)
                self._silent.add(place)
        for source, disturbance in self._disturbances.items():
            late = {place for place in disturbance.waiting if self._is_overdue(place, now_us)} - disturbance.overdue
            if late:
                disturbance.overdue |= late
                self._widen(disturbance, source, min(self._last[place] for place in late), None)

    def changes(self) -> list[Gap]:
        """Return copies of the gaps that are not stored as they are now, in the order in which they changed."""
        return [replace(gap) for gap in self._changed.values()]

    def stored(self, gaps: Iterable[Gap]) -> None:
        """Note that these copies are stored, with their ids; what changed since stays to be stored."""
        for copy in gaps:
            gap = self._changed.get(copy.key)
            if gap is not None:
                gap.id = copy.id
                if gap == copy:
                    del self._changed[copy.key]

    def last_us(self, place: int) -> int | None:
        """Return the latest source time [us] of a meter; None if it was never heard."""
        return self._last.get(place)

    def _interrupt(self, source: str, interruption: Interruption) -> None:
        """Hold the next readings of all meters against their last ones; a source that is still away stays so."""
        before = self._disturbances.get(source)
        if interruption.continues:
            self._continued.add(source)
            if before is not None and not before.heard:
                before.interruption = replace(before.interruption, kept=True)
            return
        if not interruption.kept:
            self._continued.discard(source)
        known = {place for place in self._places.get(source, ()) if place in self._last}
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
        self._judge(disturbance, source, place, (self._last[place], source_us))

    def _miss(self, place: int, last_us: int, next_us: int | None) -> None:
        """Mark that nothing came of a meter between two readings, though its source was there; None: not yet."""
        gap = self._own.get(place)
        if gap is None or gap.withdrawn or (gap.ended_us is not None and gap.ended_us < last_us):
            gap = self._own[place] = Gap(self._source[place], last_us, next_us, NOTHING_CAME, meter=self._ids[place])
        gap.ended_us = next_us
        self._changed[gap.key] = gap
        if next_us is not None:
            self._note_hole(gap, place, last_us, next_us)

    def _hear_again(self, place: int, until_us: int) -> None:
        """Close the open gap of a meter that is heard again, or withdraw it where nothing was missing.

        It ends with the reading; or with its arrival, where the meter's clock was put back meanwhile.
        """
        gap = self._own[place]
        self._silent.discard(place)
        gap.withdrawn = until_us - gap.started_us <= self._skipped_us[place]
        gap.ended_us = max(until_us, gap.started_us)
        self._changed[gap.key] = gap

    def _judge(self, disturbance: _Disturbance, source: str, place: int, hole_us: tuple[int, int]) -> None:
        """Mark the time from one reading of a meter to its next as a hole if one between is missing."""
        last_us, next_us = hole_us
        if self._periodic[place]:
            is_hole = next_us - last_us > SKIPPED * self._interval_us[place]
        else:
            is_hole = not disturbance.interruption.kept
        if is_hole:
            disturbance.holes = True
            self._note_hole(self._widen(disturbance, source, last_us, next_us), place, last_us, next_us)

    def _note_hole(self, gap: Gap, place: int, started_us: int, ended_us: int) -> None:
        """Have a hole filled, if there is somebody who can."""
        if self.holes.on_hole is None:
            return
        self._gaps[gap.key] = gap
        skipped_us = self._skipped_us[place] if self._periodic[place] else None
        self.holes.note(gap.key, Hole(self._source[place], place, started_us, ended_us, skipped_us))

    def filled(self, hole: Hole, is_filled: bool) -> None:
        """Take note what came of a hole; a gap whose holes are all filled is withdrawn: nothing is missing any more."""
        for key, is_whole in self.holes.close(hole, is_filled=is_filled).items():
            gap = self._gaps.pop(key)
            disturbance = self._disturbances.get(gap.source)
            if not is_whole or gap.ended_us is None:
                continue
            if disturbance is not None and disturbance.gap is gap:
                if disturbance.overdue:         # another meter owes readings still
                    continue
                disturbance.gap, disturbance.holes = None, False
            gap.withdrawn = True
            self._changed[gap.key] = gap

    def _is_overdue(self, place: int, now_us: int) -> bool:
        late_us = now_us - self._arrived.get(place, self._last[place]) - self._grace_us
        return self._periodic[place] and late_us > OVERDUE * self._interval_us[place]

    def _widen(self, disturbance: _Disturbance, source: str, started_us: int, ended_us: int | None) -> Gap:
        """Let the disturbance's gap reach over one more hole, and return it; `ended_us` None: the hole is open."""
        gap = disturbance.gap
        if gap is None:
            gap = disturbance.gap = Gap(source, started_us, ended_us, disturbance.interruption.cause)
        gap.started_us = min(gap.started_us, started_us)
        if ended_us is not None:
            gap.ended_us = max(gap.ended_us or ended_us, ended_us)
        self._changed[gap.key] = gap
        return gap

    def _settle(self, source: str, disturbance: _Disturbance) -> None:
        """Forget a disturbance that is over, and withdraw a gap that turned out to be none."""
        gap = disturbance.gap
        if gap is not None and disturbance.heard and not disturbance.holes and not disturbance.overdue:
            gap.withdrawn = True
            self._changed[gap.key] = gap
            disturbance.gap = None
        if not disturbance.waiting:
            del self._disturbances[source]
