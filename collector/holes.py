"""Which readings of a gap are still missing, meter by meter: what a source's history may fill.

Coverage notes each hole with its gap (`Holes.note`), whoever can fill it is told (`Holes.on_hole`), and tells what came
of it (`Coverage.filled`). Not here: what is a hole (`coverage`), and the filling (`opcua.history`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MOST_LASTING = 10_000       # gaps that are remembered: older ones are not widened any more


@dataclass(frozen=True)
class Hole:
    """The time between two stored readings of a meter, of which readings are or may be missing.

    Attributes
    ----------
    source, place
        The meter, and where it is read.
    started_us, ended_us
        Source times of the two readings [us].
    skipped_us
        Of a periodic meter: so long without a reading, one is missing [us]; None: it is on change.
    """

    source: str
    place: int
    started_us: int
    ended_us: int
    skipped_us: float | None


class Holes:
    """The holes that somebody is asked to fill, by the key of their gap.

    Attributes
    ----------
    on_hole
        Told of each hole; None: nobody can fill any, and none is kept.
    """

    def __init__(self) -> None:
        self.on_hole: Callable[[Hole], None] | None = None
        self._of: dict[str, set[Hole]] = {}
        self._lasting: dict[str, None] = {}         # gaps with a hole that nobody could fill, oldest first

    def note(self, gap: str, hole: Hole) -> None:
        """Keep a hole of this gap, and have it filled."""
        if self.on_hole is not None:
            self._of.setdefault(gap, set()).add(hole)
            self.on_hole(hole)

    def last(self, gap: str) -> None:
        """Let a gap stay, whatever of it is filled: it has a hole that nobody can fill, or that nobody knows."""
        self._lasting[gap] = None
        if len(self._lasting) > MOST_LASTING:
            del self._lasting[next(iter(self._lasting))]

    def close(self, hole: Hole, *, is_filled: bool) -> dict[str, bool]:
        """Take note what came of a hole; return the gaps without another one, and whether nothing is missing of them.

        A gap of which one hole could not be filled stays, even if it is widened by others.
        """
        done = {}
        for gap, holes in list(self._of.items()):
            if hole in holes:
                holes.discard(hole)
                if not is_filled:
                    self.last(gap)
                if not holes:
                    done[gap] = gap not in self._lasting
                    del self._of[gap]
        return done
