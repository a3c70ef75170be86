"""A changed park on its way into force: prepared beside the work, taken over where a window ends.

The park file may change while processing runs. Windows that had begun by then are closed with the park that they began
with; from the next boundary on the new one holds, and results say which version they came from (`park_version`).

Here: when, and the preparing. Not here: the reading and checking of the file (`park.watch`), and the restart of the
session with the new park (cycle.py). The main path enters at `Succession.due`.
"""

from __future__ import annotations

import threading

from park.errors import SymbiosisError
from park.model import Park
from park.watch import ParkWatch
from processing.estimate import Estimator


class _Heir:
    """A park whose estimator is being prepared in a thread: that takes seconds for a large one."""

    def __init__(self, park: Park, from_us: int) -> None:
        self.park, self.from_us = park, from_us
        self.estimator: Estimator | None = None
        self.failure: SymbiosisError | None = None
        self._thread = threading.Thread(target=self._prepare, name="new park", daemon=True)
        self._thread.start()

    @property
    def is_prepared(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return not self._thread.is_alive()

    def _prepare(self) -> None:
        try:
            estimator = Estimator(self.park)
            estimator.warm_up()
            self.estimator = estimator
        except SymbiosisError as error:
            self.failure = error


class Succession:
    """Asks for a changed park, and says when it comes into force.

    Parameters
    ----------
    watch
        Gives the park when its files have changed; None: it never does.
    """

    def __init__(self, watch: ParkWatch | None) -> None:
        self._watch = watch
        self._heir: _Heir | None = None

    def due(self, now_us: int, length_us: int, closed_us: int | None) -> tuple[Park, Estimator] | None:
        """Return the park that is in force from now on, with its estimator; None: the present one goes on.

        Parameters
        ----------
        now_us
            Run time [us].
        length_us
            Length of the present windows [us].
        closed_us
            Up to where windows are closed [us]; None before the first.
        """
        if self._watch is None:
            return None
        park = self._watch.take()
        if park is not None:
            self._heir = _Heir(park, -(-now_us // length_us) * length_us)
        heir = self._heir
        if heir is None or not heir.is_prepared or (closed_us is not None and closed_us < heir.from_us):
            return None
        self._heir = None
        if heir.estimator is None:
            self._watch.refuse(str(heir.failure or "it cannot be computed with"))
            return None
        self._watch.accept(f"windows from now on are those of {len(heir.park.streams)} streams and "
                           f"{len(heir.park.meters)} meters")
        return heir.park, heir.estimator
