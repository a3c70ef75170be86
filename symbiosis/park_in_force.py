"""The park that a service works with, also when it has to start again while the files are wrong.

A service refuses a wrong change and goes on with the park before. Should it crash meanwhile, its supervisor starts it
again, and it must not find itself without a park: each service of a run keeps the park that it works with beside
run.json, and one that is started *again* falls back on that, and says so. At a run's first start wrong files end it.

Here: keeping and falling back. Not here: reading (`park.load`) and watching (`park.watch`). The main path enters at
`ParkInForce.load`.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from pydantic import ValidationError

from park.errors import ParkError
from park.load import load_park
from park.model import Park
from park.watch import ParkWatch

log = logging.getLogger(__name__)


class ParkInForce:
    """The park of one service.

    Parameters
    ----------
    name
        The service.
    options
        Of its command: `park`, the files; `supervised`, whether it is kept, beside the `run` file; `again`, whether the
        service has run before in this run.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self._path: Path = options.park
        self._kept = Path(options.run).with_name(f"park-{name}.json") if options.supervised else None
        self._again: bool = options.again
        self._fault: ParkError | None = None

    def load(self) -> ParkWatch:
        """Return a watch over the files, with the park to begin with.

        Raises
        ------
        ParkError
            If the files are wrong and there is no park to fall back on.
        """
        try:
            park = load_park(self._path)
        except ParkError as error:
            last = self._last() if self._again else None
            if last is None:
                raise
            self._fault, park = error, last
        watch = ParkWatch(self._path, park)
        if self._fault is None:
            self.keep(watch)
        return watch

    def say(self, watch: ParkWatch) -> None:
        """Say through the watch that the files are wrong, if they are."""
        if self._fault is not None:
            watch.refuse(str(self._fault))

    def keep(self, watch: ParkWatch) -> None:
        """Keep the park that is in force now, whole or not at all; on a full disk what was kept before stays."""
        if self._kept is None:
            return
        draft = self._kept.with_name(self._kept.name + ".new")
        try:
            draft.write_text(watch.in_force.model_dump_json(by_alias=True), "utf-8")
            draft.replace(self._kept)
        except OSError as error:
            log.warning("the park in force cannot be kept in %s for a next start: %s", self._kept, error.strerror)

    def _last(self) -> Park | None:
        """Return the park that was kept last; None where there is none, or another version of this program wrote it."""
        if self._kept is None:
            return None
        try:
            return Park.model_validate_json(self._kept.read_bytes())
        except (OSError, ValidationError):
            return None
