"""Which URI stood behind each namespace index that meters name, at one server: an order that changes is noticed.

An index means what the server says at this start: another order, and ``ns=2;s=R`` is another instrument. What the first
contact showed is kept in a small file beside the spool, over restarts of either side. A meter whose index stands for
something else now is refused until somebody decides: whoever deletes the file accepts what the server says next.

Here is what is remembered. What is asked of a server is in `opcua.subscribing`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from collector.whole_file import write_whole

_logger = logging.getLogger(__name__)

FOLDER = "namespaces"               # in that of the spool
_STANDARD = 0                       # of OPC UA itself, at every server (part 3, 8.2.2)
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9.-]+")


class Namespaces:
    """The namespaces of one server, as meters know them.

    Parameters
    ----------
    folder
        The spool's; None: what is known goes with the process.
    source
        Name of the server's source.
    """

    def __init__(self, folder: Path | None, source: str) -> None:
        self._source = source
        name = f"{_NOT_IN_A_NAME.sub('-', source)[:80]}-{hashlib.sha256(source.encode()).hexdigest()[:8]}.json"
        self._file = None if folder is None else folder / FOLDER / name
        self._known: dict[int, str] = {}
        self._is_kept = False           # what is known is in the file
        self._said = False

    async def learn(self, indexes: set[int], uris: Sequence[str]) -> None:
        """Take from a server what stands behind indexes that are not known yet."""
        await asyncio.to_thread(self._recall)
        new = {index: uris[index] for index in indexes
               if index != _STANDARD and index not in self._known and index < len(uris)}
        if new:
            self._known |= new
            await asyncio.to_thread(self._keep)

    def change_of(self, index: int, uris: Sequence[str]) -> str | None:
        """Return what has become of an index, with what to do; None if it stands for what it did."""
        known, now = self._known.get(index), uris[index] if index < len(uris) else None
        if known is None or now == known:
            return None
        stands = f"is {now!r} now" if now is not None else "is not on the server now"
        accept = f"delete {self._file}" if self._file is not None else "start the collector again"
        return (f"namespace {index} was {known!r} and {stands} (hint: write nsu={known};... in park.yaml; "
                f"or {accept}, and the new order holds)")

    def _recall(self) -> None:
        """Read what was kept; a file that somebody deleted is to be forgotten."""
        if self._file is None:
            return
        try:
            kept = json.loads(self._file.read_text("utf-8"))["namespaces"]
            self._known = {int(index): str(uri) for index, uri in kept.items()}
            self._is_kept = True
        except FileNotFoundError:
            if self._is_kept:
                self._known = {}
                self._is_kept = False
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            self._say(f"cannot read {self._file}, which namespaces stood behind its meters' indexes: {error}")

    def _keep(self) -> None:
        if self._file is None:
            return
        document = {"source": self._source, "namespaces": {str(index): uri for index, uri in self._known.items()}}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
            self._is_kept = True
        except OSError as error:
            self._say(f"cannot keep which namespaces stand behind its meters' indexes: {error}")

    def _say(self, what: str) -> None:
        if not self._said:
            _logger.warning("%s: %s", self._source, what)
        self._said = True
