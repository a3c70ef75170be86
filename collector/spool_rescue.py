"""A spool whose file is not what was written: set aside under a name that says so, and read as far as it can be.

Nothing is deleted. The damaged file keeps its log beside it; what can be read of it goes into a new one, in order.
`open_or_rescue` is the way in at the start, `rescue` when damage shows later. `_keep_torn_log` is for what SQLite
passes over without a word: the end of its log after a frame that does not fit.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from collector.spool import LETTER_COLUMNS, LOG, NOTHING, Spool, SpoolDamagedError, letter_of
from collector.spool_format import DamagedBatchError, decode_batch

_logger = logging.getLogger(__name__)
_Row = TypeVar("_Row")

# SQLite, "Database File Format", 4.1: a head of 32 bytes, then frames of 24 bytes and a page
_LOG_HEAD = struct.Struct(">8I")
_FRAME_HEAD = struct.Struct(">6I")

_NEXT_BATCH = "select number, readings from batch where number > ? order by number limit 1"
_NEXT_LETTER = f"select number, {LETTER_COLUMNS} from letter where number > ? order by number limit 1"
_LOOK_ON = 1_000        # numbers to try after the last that could be read, where the end of a file cannot be found


@dataclass
class Rescued:
    """What became of a damaged file.

    Attributes
    ----------
    aside
        Its name now.
    rows
        Readings that could be read and are in the new file.
    lost
        Batches that could not, as far as their places are known.
    is_whole
        Whether the end of the file was found.
    holes
        Around each run of lost batches: the latest source time before and the earliest after [us]; None: unknown.
    """

    aside: Path
    rows: int = 0
    lost: int = 0
    is_whole: bool = True
    holes: list[tuple[int | None, int | None]] = field(default_factory=list)

    def __str__(self) -> str:
        lost = f"{self.lost} batches cannot be read" if self.lost or self.is_whole else "what else it held is lost"
        return f"it is set aside as {self.aside}; {self.rows} readings of it are taken over, {lost}"


def open_or_rescue(spool: Spool) -> tuple[Mapping[str, int], Rescued | None]:
    """Open a spool and see that all of it can be read; mend it if not.

    Returns
    -------
    tuple
        The latest source time [us since 1970-01-01 UTC] of each meter in it; what became of a damaged file, or None.

    Raises
    ------
    SpoolError
        If the disk takes or gives nothing.
    """
    log = spool.path.with_name(spool.path.name + LOG)
    frames = _committed_frames(log)
    try:
        spool.open()
        if frames > spool.log_frames():
            _keep_torn_log(log)
        return spool.last_times(), None
    except SpoolDamagedError as error:
        rescued = rescue(spool, error)
        return spool.last_times(), rescued


def rescue(spool: Spool, why: SpoolDamagedError) -> Rescued:
    """Set the file aside, begin a new one, and take over what can be read.

    Raises
    ------
    SpoolError
        If the disk takes nothing; what was not taken over is in the file that was set aside.
    """
    spool.drop()
    rescued = Rescued(_set_aside(spool.path))
    _logger.error("the spool is damaged (%s): it is set aside as %s", why, rescued.aside)
    spool.open()
    with closing(sqlite3.connect(f"{rescued.aside.absolute().as_uri()}?mode=ro", uri=True)) as conn:
        _take_over_batches(conn, spool, rescued)
        letters = _each(conn, _NEXT_LETTER, _last_number(conn, "letter"), lambda row: letter_of((*row[1:], row[0])))
        spool.append(NOTHING, letters=[letter for _, letter in letters if letter])
    rescued.aside.with_name(f"{rescued.aside.name}-shm").unlink(missing_ok=True)        # made by looking at it
    spool.open()            # counts what was taken over
    _logger.error("the spool was damaged: %s", rescued)
    return rescued


def _take_over_batches(conn: sqlite3.Connection, spool: Spool, rescued: Rescued) -> None:
    """Bring all batches that can be read into the new file, and note the others."""
    before: int | None = None
    skipped = 0
    last = _last_number(conn, "batch")
    rescued.is_whole = last is not None
    for number, batch in _each(conn, _NEXT_BATCH, last, lambda row: decode_batch(row[1])):
        if batch is None:
            skipped += 1
            continue
        if skipped:
            rescued.lost += skipped
            rescued.holes.append((before, int(batch.source_us.min())))
            skipped = 0
        spool.restore(number, batch)
        rescued.rows += len(batch)
        before = max(before or 0, int(batch.source_us.max()))
    if skipped or last is None:
        rescued.lost += skipped if last is not None else 0
        rescued.holes.append((before, None))


def _set_aside(path: Path) -> Path:
    """Give a file and its log a name that says that they are damaged; return it."""
    aside = path.with_name(f"{path.stem}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}{path.suffix}")
    path.rename(aside)
    with suppress(FileNotFoundError):
        path.with_name(path.name + LOG).rename(aside.with_name(aside.name + LOG))
    return aside


def _each(
    conn: sqlite3.Connection, query: str, last: int | None, decode: Callable[[tuple[Any, ...]], _Row],
) -> Iterator[tuple[int, _Row | None]]:
    """Yield number and row of each place of a damaged table in order, None for a row that cannot be read.

    Without the `last` number, it ends after `_LOOK_ON` places in a row that cannot be read.
    """
    number = read = 0
    while number < (read + _LOOK_ON if last is None else last):
        try:
            row = conn.execute(query, [number]).fetchone()
        except sqlite3.DatabaseError:
            number += 1
            yield number, None
            continue
        if row is None:
            return
        number = read = row[0]
        try:
            yield number, decode(row)
        except DamagedBatchError:
            yield number, None


def _last_number(conn: sqlite3.Connection, table: str) -> int | None:
    """Return the highest number of a table; None if that cannot be read."""
    try:
        row = conn.execute(f"select max(number) from {table}").fetchone()
    except sqlite3.DatabaseError:
        return None
    return row[0] or 0


def _committed_frames(log: Path) -> int:
    """Return how many frames a log has up to the last one that ends a transaction, readable or not."""
    try:
        with log.open("rb") as file:
            head = file.read(_LOG_HEAD.size)
            if len(head) < _LOG_HEAD.size:
                return 0
            _, _, page_bytes, _, *salts, _, _ = _LOG_HEAD.unpack(head)
            size, last, frames = log.stat().st_size, 0, 0
            while file.tell() + _FRAME_HEAD.size + page_bytes <= size:
                _, pages_after, *of_frame, _, _ = _FRAME_HEAD.unpack(file.read(_FRAME_HEAD.size))
                file.seek(page_bytes, 1)
                frames += 1
                if of_frame == salts and pages_after:       # other salts: left over from before the log began anew
                    last = frames
            return last
    except FileNotFoundError:
        return 0


def _keep_torn_log(log: Path) -> None:
    """Copy a log before SQLite writes over what it could not read."""
    aside = log.with_name(f"{log.stem}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}{log.suffix}")
    shutil.copyfile(log, aside)
    _logger.error("the spool's log %s goes on after a place that cannot be read: a copy is kept as %s", log, aside)
