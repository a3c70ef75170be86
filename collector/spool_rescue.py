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
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from collector.spool import LETTER_COLUMNS, LOG, NOTHING, Spool, SpoolDamagedError, SpoolFullError, letter_of
from collector.spool_format import DamagedBatchError, decode_batch
from park.errors import SpoolError

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
    SpoolFullError
        If there is no file yet, and no room for one: nothing waits.
    SpoolError
        If the disk gives nothing, or what is damaged cannot be mended.
    """
    log = spool.path.with_name(spool.path.name + LOG)
    frames = _frames(log)
    if frames.committed > frames.sound:
        _keep_torn_log(log)
    try:
        spool.open()
        return spool.last_times(), None
    except SpoolDamagedError as error:
        rescued = rescue(spool, error)
        return spool.last_times(), rescued


def rescue(spool: Spool, why: SpoolDamagedError) -> Rescued:
    """Set the file aside, begin a new one, and take over what can be read.

    Raises
    ------
    SpoolError
        If the disk takes nothing; the damaged file is in its place again then, to be mended when there is room.
    """
    spool.drop()
    rescued = Rescued(_renamed(spool.path, _damaged_name(spool.path)))
    try:
        return _mend(spool, rescued, why)
    except SpoolFullError as error:
        spool.drop()
        _renamed(rescued.aside, spool.path)
        raise SpoolError(f"the spool is damaged ({why}), and there is no room to mend it: {error}") from error


def _mend(spool: Spool, rescued: Rescued, why: SpoolDamagedError) -> Rescued:
    """Begin a new file, and take over what can be read of the one that is set aside."""
    spool.open()
    _logger.error("the spool is damaged (%s): it is set aside as %s", why, rescued.aside)
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


def _renamed(path: Path, to: Path) -> Path:
    """Give a file and its log another name, in place of what has it; return it."""
    path.replace(to)
    log = to.with_name(to.name + LOG)
    try:
        path.with_name(path.name + LOG).replace(log)
    except FileNotFoundError:
        log.unlink(missing_ok=True)         # of the file that had the name
    return to


def _damaged_name(path: Path) -> Path:
    """Return a name beside a file that says that it is damaged, and since when."""
    return path.with_name(f"{path.stem}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}{path.suffix}")


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


@dataclass(frozen=True)
class _Frames:
    """Frames of a log up to the last one that ends a transaction: all, and those that SQLite reads."""

    committed: int = 0
    sound: int = 0


def _frames(log: Path) -> _Frames:
    """Return how many frames a log has; it is read as SQLite reads it, which needs no room on the disk."""
    try:
        with log.open("rb") as file:
            head = file.read(_LOG_HEAD.size)
            if len(head) < _LOG_HEAD.size:
                return _Frames()
            magic, _, page_bytes, _, *salts, sum0, sum1 = _LOG_HEAD.unpack(head)
            order: Literal["<", ">"] = ">" if magic & 1 else "<"
            sums = _checksum(order, head[:24], (0, 0))
            is_sound = sums == (sum0, sum1)
            committed = sound = number = 0
            while len(frame := file.read(_FRAME_HEAD.size + page_bytes)) == _FRAME_HEAD.size + page_bytes:
                number += 1
                page, pages_after, *of_frame, sum0, sum1 = _FRAME_HEAD.unpack_from(frame)
                is_of_it = of_frame == salts        # else left over from before the log began anew
                if is_sound := is_sound and is_of_it and page > 0:
                    sums = _checksum(order, frame[:8] + frame[_FRAME_HEAD.size:], sums)
                    is_sound = sums == (sum0, sum1)
                if is_of_it and pages_after:
                    committed, sound = number, number if is_sound else sound
            return _Frames(committed, sound)
    except FileNotFoundError:
        return _Frames()


def _checksum(order: Literal["<", ">"], data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    """Return the two running sums of a log after more of its bytes (SQLite, "Database File Format", 4.2)."""
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def _keep_torn_log(log: Path) -> None:
    """Copy a log before SQLite writes over what it could not read."""
    aside = _damaged_name(log)
    try:
        shutil.copyfile(log, aside)
    except OSError as error:        # a full disk: what SQLite cannot read is lost in either case
        aside.unlink(missing_ok=True)
        _logger.error("the spool's log %s goes on after a place that cannot be read; no copy is kept: %s", log, error)
        return
    _logger.error("the spool's log %s goes on after a place that cannot be read: a copy is kept as %s", log, aside)
