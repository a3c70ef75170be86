"""Meters that have fallen silent: no usable reading for `stale_after_s` of the time in which the system ran.

A meter that goes on sending, but bad values alone, is as silent as one that sends nothing; the message says which. A
bad value now and then is neither: what counts is the time without a usable one.

What counts as silence is judged by the data, not by the machine's clock: a meter is held against the newest reading
of its own source, so that a slow network or a fast replay makes nobody silent. A source of which nothing comes at all
is given `patience` more, and a source (or meter) whose outage the collector has marked as a gap is excused: the gap
says it all. Time before a source's first reading, between runs and within gaps is not silence; and while nothing comes
from any source, it is the collector that is silent.

False alarms: none by noise; a meter is called silent only when readings that were due three times over (the default
`stale_after_s`) did not come while its neighbours' did.

Here: that verdict. Not here: what silence means for windows (window.py). The main path enters at `SilentMeters.step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from park.model import Meter, Park
from processing.detect.events import Change, Closed, Opened
from processing.meters import Bools, Ints, MeterArrays
from processing.window import BEFORE

KIND = "meter_silent"


@dataclass(frozen=True, eq=False)
class Presence:
    """What is known of who sends, at the end of a window; arrays of shape (n_meters,).

    Attributes
    ----------
    last_us
        Last source time of a usable reading before the window's end [us]; `window.BEFORE` where none.
    first_us
        First source time of a usable reading in the window [us]; `window.BEFORE` where none.
    alive_since_us
        From when silence counts: the first reading from the meter's source since processing passed over a time
        without any, or the end of its last gap [us].
    excused
        Whether a gap is open, or the meter's source has not sent anything yet.
    end_us
        The window's end [us].
    patience_us
        How long a whole source may lag [us].
    heard_us
        As `last_us`, of any reading, bad ones among them; None: the same.
    """

    last_us: Ints
    first_us: Ints
    alive_since_us: Ints
    excused: Bools
    end_us: int
    patience_us: int
    heard_us: Ints | None = None

    @property
    def any_us(self) -> Ints:
        """Last source time of any reading, shape (n_meters,) [us]."""
        return self.last_us if self.heard_us is None else self.heard_us


class SilentMeters:
    """Which meters are silent; one object a run.

    Parameters
    ----------
    park
        The park.
    table
        Its meters.
    """

    def __init__(self, park: Park, table: MeterArrays) -> None:
        self._meters: Sequence[Meter] = park.meters
        self._table = table
        self._source = np.unique([m.source.name for m in park.meters], return_inverse=True)[1]
        self.flagged: Bools = np.zeros(len(table), dtype=np.bool_)
        self.out_of_force: Bools = np.zeros(len(table), dtype=np.bool_)     # before `valid_from`, after `valid_to`

    def step(self, now: Presence) -> list[Change]:
        """Judge every meter at the end of a window."""
        table = self._table
        self.out_of_force = (now.end_us <= table.valid_from_us) | (now.end_us > table.valid_to_us)
        if now.any_us.max(initial=BEFORE) < now.end_us - now.patience_us:
            return []                   # nothing at all has come: that is the collector's silence, not the meters'
        base = np.maximum(np.maximum(now.last_us, now.alive_since_us), table.valid_from_us)
        newest = np.full(self._source.max(initial=0) + 1, BEFORE, dtype=np.int64)
        np.maximum.at(newest, self._source, now.any_us)
        heard = np.minimum(newest[self._source], now.end_us)
        reference = np.maximum(heard, now.end_us - now.patience_us)
        stale = table.stale_us
        silent = (stale > 0) & ~now.excused & ~self.out_of_force & (reference - base > stale)
        changes: list[Change] = [
            self._opened(int(m), base, reference, now.any_us) for m in np.flatnonzero(silent & ~self.flagged)]
        back = self.flagged & ((now.first_us > BEFORE) | self.out_of_force)
        until = np.where(self.out_of_force, np.minimum(table.valid_to_us, now.end_us), now.first_us)
        changes += [Closed(KIND, table.ids[m], int(until[m])) for m in np.flatnonzero(back)]
        self.flagged = (self.flagged | silent) & ~back
        return changes

    def _opened(self, m: int, base: Ints, reference: Ints, heard: Ints) -> Opened:
        meter = self._meters[m]
        silent_s, limit_s = float(reference[m] - base[m]) / 1e6, float(self._table.stale_us[m]) / 1e6
        only_bad = bool(heard[m] > base[m])
        what = "only bad values" if only_bad else "nothing"
        return Opened(
            KIND, meter.id, int(base[m] + self._table.interval_us[m]), "medium",
            f"{meter.id} has sent {what} for {silent_s:.0f} s; it is due every {meter.interval_s:g} s",
            silent_s, limit_s,
            evidence={"last_reading_us": int(base[m]), "interval_s": meter.interval_s, "only_bad_values": only_bad})

    def as_json(self) -> dict[str, object]:
        """Return the state for the store."""
        return {"flagged": [self._table.ids[m] for m in np.flatnonzero(self.flagged)]}

    def restore(self, stored: Mapping[str, object]) -> None:
        """Take up the state that `as_json` wrote; meters that the park no longer has are forgotten."""
        names = stored["flagged"]
        assert isinstance(names, list)
        self.flagged = np.isin(np.array(self._table.ids), names)
