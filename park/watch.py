"""A park's files while a service runs: read again when they change, and given on if they are right.

A change shows in the files' times and sizes, which are looked at every second while somebody asks; what counts is their
content, so a file that is saved unchanged changes nothing. It is read when it has lain still for one look, so that one
that is half written is not taken for wrong; `hurry` (SIGHUP) reads it at once. The files are checked as a whole: wrong
ones are refused with their faults, and what runs goes on as it is.

Here: when to read. Not here: the reading and checking (`park.load`), and what a service does with a changed park: that
says `accept` or `refuse`. The main path enters at `ParkWatch.take`.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from park.changes import in_words
from park.errors import ParkError
from park.load import load_park
from park.model import Park
from park.yaml12 import parse

LOOK_S = 1.0            # between two looks at the files' times and sizes

Result = Literal["applied", "refused"]
Tell = Callable[[Result, str], None]
_Stamp = tuple[tuple[str, int, int, int], ...]


def files_of(path: Path) -> list[Path]:
    """Return the files that a park is read from: the park.yaml, and the table of meters that it names."""
    try:
        document = parse(path.read_text("utf-8-sig"), path.name)
    except (OSError, ValueError):
        return [path]
    data = document.data if isinstance(document.data, dict) else {}
    meters = data.get("meters")
    table = meters.get("csv") if isinstance(meters, dict) else None
    return [path, path.parent / table] if isinstance(table, str) else [path]


class ParkWatch:
    """Watches the files of one park for one service.

    Parameters
    ----------
    path
        The park.yaml.
    park
        What it says now.
    tell
        Told what became of a change: ``applied`` or ``refused``, and a line for people.
    on_asked
        Called whenever the service asks: its main loop comes round.
    now
        A monotonic clock [s].

    Attributes
    ----------
    in_force
        The park that the service works with.
    """

    def __init__(
        self, path: Path, park: Park, tell: Tell | None = None, on_asked: Callable[[], object] = bool,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.in_force = self._taken = park
        self._path = path
        self._now = now
        self.report_to(tell or (lambda result, line: None), on_asked)
        self._files = files_of(path)
        self._digest = self._content()
        self._stamp = self._before = self._looks()
        self._look_at = now() + LOOK_S
        self._hurried = threading.Event()
        self._reading: threading.Thread | None = None
        self._read: Park | None = None

    def report_to(self, tell: Tell, on_asked: Callable[[], object]) -> None:
        """Tell somebody else from now on; a watch begins when the park is read, which is before anybody listens."""
        self._tell = tell
        self._on_asked = on_asked

    def hurry(self) -> None:
        """Read the files at the next `take`, whether or not they seem to have changed; for any thread, and signals."""
        self._hurried.set()

    def asked(self) -> None:
        """Note that the service's main loop comes round, while it cannot take a park."""
        self._on_asked()

    def take(self) -> Park | None:
        """Return the park once after its files have changed and are right, else None; asked often, never waits."""
        self.asked()
        if self._reading is not None:
            if self._reading.is_alive():
                return None
            self._reading = None
            park, self._read = self._read, None
            self._taken = park or self._taken
            return park
        if self._is_due():
            self._reading = threading.Thread(target=self._load, name="park file", daemon=True)
            self._reading.start()
        return None

    def accept(self, line: str) -> None:
        """Note that the park that was taken is in force, and what the service does now."""
        changed = in_words(self.in_force, self._taken)
        self.in_force = self._taken
        self._tell("applied", f"{self._path.name} has changed: {changed}; {line}")

    def refuse(self, reason: str) -> None:
        """Note that the park that was taken cannot be put into force: the one before goes on."""
        self._tell("refused", f"the changed {self._path.name} is refused, the one before goes on: {reason}")

    def _is_due(self) -> bool:
        """Whether the files are to be read: they have changed and lie still, or somebody is in a hurry."""
        if self._hurried.is_set():
            self._hurried.clear()
            self._stamp = self._before = self._looks()
            return True
        if self._now() < self._look_at:
            return False
        self._look_at = self._now() + LOOK_S
        stamp = self._looks()
        lies_still, self._before = stamp == self._before, stamp
        if stamp == self._stamp or not lies_still:
            return False
        self._stamp = stamp
        return True

    def _load(self) -> None:
        """Read the files; in a thread of its own, since a large park takes seconds."""
        self._files = files_of(self._path)
        digest = self._content()
        if digest == self._digest:
            return
        self._digest = digest
        try:
            park = load_park(self._path)
        except ParkError as error:
            self.refuse(str(error))
            return
        name = self.in_force.park.name
        if park.park.name != name:
            self.refuse(f"park: name is {park.park.name!r} and was {name!r}, by which brokers know the collector "
                        "(hint: start the services anew for another name)")
            return
        self._read = park

    def _looks(self) -> _Stamp:
        """Return what tells a change of the files without reading them; a file that is not there looks like nothing."""
        stamps = []
        for file in self._files:
            try:
                found = file.stat()
            except OSError:
                stamps.append((str(file), 0, 0, 0))
            else:
                stamps.append((str(file), found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamps)

    def _content(self) -> str:
        """Return the digest of the files' content."""
        digest = hashlib.sha256()
        for file in self._files:
            try:
                content = file.read_bytes()
            except OSError:
                content = b""
            digest.update(b"%d\n" % len(content) + content)
        return digest.hexdigest()
