"""How complete the stored readings are: for each meter and source the time up to which nothing is missing any more.

A source is *complete to* T when every reading with a source time before T that it will ever send is stored, or lies in
a gap that is marked. The collector knows this before the readings of the next window are there:

    periodic meter     its next reading cannot be earlier than its last one and the shortest step from one to the next
    other meters       what was heard of the source at H had left the instruments before H less the usual way here
    not heard yet      nothing is known: a server's first value is older than the connection
    overdue            no reading arrives: does not hold its source back, it is silent, or the time is in a gap

A meter whose clock is behind is not silent while its readings arrive, and its mark is as far behind as its clock:
readings of earlier windows are still to come. It holds its source there (`held_by`); windows close by their lateness.

A source is as complete as the least complete of its meters. Only committed readings count, and silence is judged as of
the arrival of what was committed last: readings that wait for the database make nobody silent.

The clock of a device shows in how long its readings seem to take: the shortest of late is its way here less what its
clock is ahead. Behind a broker each meter may have a clock of its own; the worst is the source's. Pure: times come in;
the agent feeds it (`store`, `hear`) and keeps what `sources` and `meters` return.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from collector.coverage import OVERDUE, SKIPPED
from collector.register import Register
from collector.times import MICROS
from park.store.readings import ReadingBatch

Times = npt.NDArray[np.int64]       # shape (n_meters,) [us since 1970-01-01 UTC]
Reals = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NEVER = -(2**62)            # before any time [us]
LONG = 2**62                # longer than any step [us]
JITTER = 0.1                # share of its interval that a reading may come early, until its real steps are known:
TWO = 2                     # readings of a meter that tell of its clock: a first one may be as old as its last change
ENOUGH = 16                 # steps seen; from then on the shortest less their range is what is sure
HALF_S = 300.0              # "of late" is the present and the last stretch of this run time
SPREADS = 4.0               # of delays above the shortest that cover nearly all: ways here are short with a long tail


@dataclass(frozen=True)
class SourceMark:
    """How complete a source is.

    Attributes
    ----------
    complete_us
        Every reading with an earlier source time is stored or in a marked gap [us]; None: nothing is known yet.
    held_by
        The meter that holds it there; empty where none does.
    silent
        Meters that are overdue and hold nobody back.
    offset_s, spread_s
        How much a device's clock is ahead [s], and the mean of what its readings take beyond the shortest [s]; NaN
        where nothing came of late. Of the meter whose clock is farthest off. The shortest way here is in the offset: a
        clock that is right seems to lag by it.
    """

    source: str
    complete_us: int | None
    held_by: str
    silent: int
    offset_s: float
    spread_s: float


@dataclass(frozen=True)
class MeterMarks:
    """How complete each meter is, in columns of shape (n_meters,); what they mean is as of `SourceMark`.

    `last_us` is the source time of its newest reading, `complete_us` likewise `NEVER` where nothing is known.
    """

    ids: tuple[str, ...]
    source: tuple[str, ...]
    last_us: Times
    complete_us: Times
    silent: Bools
    offset_s: Reals
    spread_s: Reals


class _Recent:
    """Delays of each meter's readings and steps from one to the next, of late: this stretch of time and the one before.

    Each attribute has the shape (2, n_meters), the present stretch first; times in us.
    """

    def __init__(self, size: int) -> None:
        self._until_us = NEVER
        self.shortest = np.full((2, size), LONG, dtype=np.int64)
        self.total = np.zeros((2, size), dtype=np.float64)
        self.count = np.zeros((2, size), dtype=np.int64)
        self.steps = np.zeros((2, size), dtype=np.int64)
        self.least = np.full((2, size), LONG, dtype=np.int64)
        self.most = np.zeros((2, size), dtype=np.int64)

    def grow(self, size: int) -> None:
        """Make room for more meters."""
        more = size - self.count.shape[1]
        for name, empty in _EMPTY.items():
            setattr(self, name, np.pad(getattr(self, name), ((0, 0), (0, more)), constant_values=empty))

    def turn(self, now_us: int) -> None:
        """Begin a new stretch when the present one is over."""
        if now_us < self._until_us:
            return
        self._until_us = now_us + round(HALF_S * MICROS)
        for name, empty in _EMPTY.items():
            values = getattr(self, name)
            values[1], values[0] = values[0], empty

    def add(self, meter: npt.NDArray[np.int64], delay_us: npt.NDArray[np.int64]) -> None:
        """Take in delays [us] of readings, both of shape (n_rows,)."""
        np.minimum.at(self.shortest[0], meter, delay_us)
        np.add.at(self.total[0], meter, delay_us)
        np.add.at(self.count[0], meter, 1)

    def add_steps(self, meter: npt.NDArray[np.int64], step_us: npt.NDArray[np.int64]) -> None:
        """Take in steps [us] from one reading to the next, both of shape (n_steps,)."""
        np.minimum.at(self.least[0], meter, step_us)
        np.maximum.at(self.most[0], meter, step_us)
        np.add.at(self.steps[0], meter, 1)

    def sure_step(self, interval_us: Times) -> Times:
        """Return how long after a meter's reading its next one can come at the earliest, shape (n_meters,) [us]."""
        least = self.least.min(axis=0)
        known = np.maximum(2 * least - self.most.max(axis=0), 0)       # the shortest less the range of them
        assumed = np.minimum(((1.0 - JITTER) * interval_us).astype(np.int64), least)
        step: Times = np.minimum(np.where(self.steps.sum(axis=0) >= ENOUGH, known, assumed), interval_us)
        return step

    def worst(self, places: npt.NDArray[np.intp]) -> tuple[float, float]:
        """Return shortest delay and mean beyond it [us] of the one of these meters whose clock is farthest off.

        Where none has told often enough, of the one that is nearest; NaN where nothing came.
        """
        shortest, spread = (values[places] for values in self.each())
        told = self.count.sum(axis=0)[places]
        if not told.any():
            return np.nan, np.nan
        off = np.abs(shortest)
        often = told >= TWO
        place = np.argmax(np.where(often, off, -1.0)) if often.any() else np.nanargmin(off)
        return float(shortest[place]), float(spread[place])

    def each(self) -> tuple[Reals, Reals]:
        """Return the same of each meter, shape (n_meters,) [us]."""
        count = self.count.sum(axis=0)
        known = count > 0
        shortest = np.where(known, self.shortest.min(axis=0), np.nan)
        return shortest, np.where(known, self.total.sum(axis=0) / np.maximum(count, 1) - shortest, np.nan)


_EMPTY = {"shortest": LONG, "total": 0, "count": 0, "steps": 0, "least": LONG, "most": 0}


class Completeness:
    """The marks of all meters and sources.

    Parameters
    ----------
    register
        The meters.
    grace_s
        How much later than its instrument's time a reading may come without being overdue [run s].
    """

    def __init__(self, register: Register, grace_s: float) -> None:
        self._grace_us = round(grace_s * MICROS)
        self._last: Times = np.empty(0, dtype=np.int64)         # newest source time
        self._sure: Times = np.empty(0, dtype=np.int64)         # the same, but not ahead of its arrival
        self._arrived: Times = np.empty(0, dtype=np.int64)      # when its latest reading came
        self._since: Times = np.empty(0, dtype=np.int64)        # from when on it could have been heard
        self._heard: dict[str, int] = {}
        self._marks: dict[str, int] = {}
        self._recent = _Recent(0)
        self._committed_us = NEVER                              # arrival of what was committed last
        self._place_of_name = np.empty(0, dtype=np.int64)
        self.apply(register)

    def apply(self, register: Register) -> None:
        """Go over to the register of a changed park: places keep their meters, those that come back begin anew."""
        self._register = register
        self._names: object = None              # of the batches that come, and the place of each
        size = len(register.meters)
        more = size - len(self._last)
        self._last, self._sure, self._arrived, self._since = (
            np.pad(times, (0, more), constant_values=NEVER)
            for times in (self._last, self._sure, self._arrived, self._since))
        self._recent.grow(size)
        self._interval = np.array([round(m.interval_s * MICROS) for m in register.meters], dtype=np.int64)
        self._periodic = np.array(
            [m.sampling == "periodic" and m.quantity != "mass_batch" for m in register.meters], dtype=np.bool_)
        self._places: dict[str, list[int]] = {}
        for place in register.live:
            self._places.setdefault(register.source[place], []).append(place)
        self._live = np.zeros(size, dtype=np.bool_)
        self._live[list(register.live)] = True
        for times in (self._last, self._sure, self._arrived, self._since):
            times[~self._live] = NEVER

    def hear(self, source: str, at_us: int) -> None:
        """Note that a source is there at `at_us` (run time): whatever it had for us before, it has sent."""
        if source not in self._heard or at_us > self._heard[source]:
            self._heard[source] = at_us
        for place in self._places.get(source, ()):
            if self._since[place] == NEVER:
                self._since[place] = at_us

    def store(self, batch: ReadingBatch) -> None:
        """Take in a batch that is committed; readings of meters that are not collected any more are passed over."""
        if not len(batch):
            return
        self._committed_us = max(self._committed_us, int(batch.received_us.max()))
        self._recent.turn(self._committed_us)
        place = self._places_of(batch.names)[batch.meter]
        if (place < 0).any():
            batch, place = batch.take(np.flatnonzero(place >= 0)), place[place >= 0]
        if not len(place):
            return
        fresh = batch.source_us != self._last[place]    # what is delivered again tells of nobody
        np.maximum.at(self._arrived, place[fresh], batch.received_us[fresh])
        newer = batch.source_us > self._last[place]     # what is filled in later tells nothing of the way here
        newer &= ~np.isnan(batch.value)                 # nor does a death, which is told when it is noticed
        self._recent.add(place[newer], (batch.received_us - batch.source_us)[newer])
        order = np.lexsort((batch.source_us, place))
        meter, source_us = place[order], batch.source_us[order]
        before = np.concatenate([[NEVER], source_us[:-1]])
        first = np.concatenate([[True], meter[1:] != meter[:-1]])
        before[first] = self._last[meter[first]]
        step = np.where(before > NEVER, source_us - before, 0)
        known = (step > 0) & (step <= SKIPPED * self._interval[meter])        # a longer one has lost one between
        self._recent.add_steps(meter[known], step[known])
        np.maximum.at(self._last, meter, source_us)
        np.maximum.at(self._sure, place, np.minimum(batch.source_us, batch.received_us))

    def _places_of(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the place of each meter that a batch names, -1 for one that is not collected; most name the same."""
        if names is not self._names:
            places = {self._register.ids[place]: place for place in self._register.live}
            self._place_of_name = np.array([places.get(name, -1) for name in names], dtype=np.int64)
            self._names = names
        return self._place_of_name

    def as_of(self, now_us: int, *, waiting: bool) -> int:
        """Return the time up to whose arrivals everything is committed [us].

        Parameters
        ----------
        now_us
            Run time.
        waiting
            Whether readings have come that are not committed yet.
        """
        return min(now_us, self._committed_us) if waiting and self._committed_us > NEVER else now_us

    def behind_us(self, now_us: int) -> int:
        """Return how long ago came what was committed last [us]; 0 before the first."""
        return max(0, now_us - self._committed_us) if self._committed_us > NEVER else 0

    def sources(self, as_of_us: int, in_gap: Collection[str]) -> list[SourceMark]:
        """Return the marks of all sources that have meters; those of a source never go back.

        Parameters
        ----------
        as_of_us
            Up to whose arrival everything is committed (`as_of`) [us].
        in_gap
            Sources with a gap that is open: what they do not deliver is marked.
        """
        mark, silent = self._meter_marks(as_of_us)
        return [self._source_mark(source, np.array(places, dtype=np.intp), mark, silent, as_of_us, source in in_gap)
                for source, places in self._places.items()]

    def meters(self, as_of_us: int) -> MeterMarks:
        """Return the marks of all meters that are collected."""
        mark, silent = self._meter_marks(as_of_us)
        shortest, spread = self._recent.each()
        live = np.flatnonzero(self._live)
        ids, source = self._register.ids, self._register.source
        return MeterMarks(
            tuple(ids[place] for place in live), tuple(source[place] for place in live), self._last[live], mark[live],
            silent[live], -shortest[live] / MICROS, spread[live] / MICROS)

    def _meter_marks(self, as_of_us: int) -> tuple[Times, Bools]:
        """Return each meter's mark, `NEVER` where nothing is known, and whether it is overdue."""
        heard = np.array([self._heard.get(source, NEVER) for source in self._register.source], dtype=np.int64)
        reached = np.maximum(self._arrived, self._since)
        overdue = as_of_us - reached - self._grace_us > (OVERDUE * self._interval).astype(np.int64)
        silent = self._periodic & (reached > NEVER) & overdue
        due = np.where(self._sure > NEVER, self._sure + self._recent.sure_step(self._interval), NEVER)
        shortest, spread = self._recent.each()
        way = np.nan_to_num(shortest + SPREADS * spread, nan=self._grace_us).astype(np.int64)
        told = np.where(heard > NEVER, np.minimum(heard, as_of_us) - np.maximum(way, 0), NEVER)
        return np.where(self._periodic, due, told), silent

    def _source_mark(
        self, source: str, places: npt.NDArray[np.intp], mark: Times, silent: Bools, as_of_us: int, in_gap: bool
    ) -> SourceMark:
        """Return the mark of one source."""
        excused = silent | ~self._periodic if in_gap else silent
        holding = places[~excused[places]]
        held_by = ""
        if len(holding):
            least = holding[np.argmin(mark[holding])]
            complete, held_by = int(mark[least]), self._register.ids[least]
        elif in_gap:
            complete = as_of_us
        else:
            complete = max(NEVER, min(self._heard.get(source, NEVER), as_of_us) - self._grace_us)
        if complete > NEVER and complete > self._marks.get(source, NEVER):
            self._marks[source] = complete
        shortest, spread = self._recent.worst(places)
        return SourceMark(source, self._marks.get(source), held_by, int(silent[places].sum()),
                          -shortest / MICROS, spread / MICROS)
