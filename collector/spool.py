"""The spool: what came while the database was away or slow, on disk until the database has it. Blocking.

One SQLite file in a folder of its own, held by one collector at a time. A batch is one transaction, and is on disk when
`append` returns (write-ahead log, `synchronous=FULL`); what a kill or a power cut tears off was never acknowledged.
`head` gives the oldest batches, `remove` lets them go; a removal that did not reach the disk makes a later collector
write them again, which changes nothing. Why SQLite: [spool.md](spool.md).

Here is the file; its bytes for a batch are in `spool_format`, what is done with a damaged file in `spool_rescue`, and
when something goes here instead of to the database in `writing`.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from collector.coverage import Gap
from collector.spool_format import DamagedBatchError, decode_batch, encode_batch, joined
from collector.times import micros, moment
from park.child_process import FolderLock
from park.errors import InputError, OperationError, SpoolError
from park.store.dead_letters import DeadLetter, storable_text
from park.store.readings import ReadingBatch, reading_batch

FILE_NAME = "spool.sqlite3"
LOG = "-wal"                # what SQLite calls the log beside it
LOCK_NAME = "lock"
_VERSION = 1                # of the file, in its user_version; a newer one is refused
_PAGE_BYTES = 4_096         # SQLite's own; what a batch of 20 rows, as a broker gives them, writes at least
_SMALLEST_BYTES = 1 << 20
NOTHING = reading_batch([], (), (), ())
_SCHEMA = """
    create table batch (number integer primary key, row_count integer not null, readings blob not null);
    create table gap (
        key text primary key, id integer, source text not null, started_us integer not null, ended_us integer,
        cause text not null, withdrawn integer not null, meter text
    );
    create table letter (
        number integer primary key, source text not null, subject text not null, meter text,
        reason text not null, format text not null, payload blob not null, payload_bytes integer not null,
        received_us integer not null
    );
"""
LETTER_COLUMNS = "source, subject, meter, reason, format, payload, payload_bytes, received_us"
_COUNT = "select count(*), coalesce(sum(row_count), 0), coalesce(max(number), 0) from batch where number > ?"
_COUNT_LETTERS = "select count(*), coalesce(max(number), 0) from letter where number > ?"
_COUNT_READ = "select count(*), coalesce(sum(row_count), 0) from batch where number > ? and number <= ?"
_COUNT_LETTERS_READ = "select count(*) from letter where number > ? and number <= ?"
_HEAD = "select number, readings from batch where number > ? order by number"
_LETTERS = f"select {LETTER_COLUMNS}, number from letter where number > ? order by number limit ?"
_PUT_BATCH = "insert into batch values (?, ?, ?)"
_PUT_LETTER = f"insert into letter (number, {LETTER_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_GAP = "insert or replace into gap values (?, ?, ?, ?, ?, ?, ?, ?)"
_GAPS = "select source, started_us, ended_us, cause, id, withdrawn, key, meter from gap"
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ,
            sqlite3.SQLITE_IOERR_CORRUPTFS}


# what a disk says that takes nothing; of a quota it is the second
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}


class SpoolDamagedError(SpoolError):
    """The file is not what was written."""


class SpoolFullError(SpoolError):
    """There is no room. What is in the file can be read all the same."""


@dataclass(frozen=True)
class SpoolSettings:
    """Where the spool is, and how large it may become.

    Attributes
    ----------
    folder
        A folder of its own; made if it is not there.
    max_bytes
        Size of its file; the log beside it adds up to 16 MiB. A reading takes 36 bytes: 2 GiB are 59 million readings,
        16 hours of 1,000 a second.

    Raises
    ------
    InputError
        If the size is too small for a batch.
    """

    folder: Path
    max_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        if self.max_bytes < _SMALLEST_BYTES:
            raise InputError(f"the spool must be allowed at least 1 MiB, got {self.max_bytes} bytes")


@dataclass(frozen=True)
class Spooled:
    """The oldest batches as one, and the number of the last of them."""

    batch: ReadingBatch
    last: int


class Spool:
    """The spool's file, held until `close`. For one thread at a time.

    Attributes
    ----------
    batches, rows, letters
        What waits, and is not removed.

    Raises
    ------
    SpoolError
        From all methods: if another collector holds the folder, a newer version wrote the file, or the disk takes or
        gives nothing. What `append` could not take is not in the file.
    SpoolFullError
        The same, because there is no room.
    SpoolDamagedError
        If the file is not what was written (`spool_rescue` mends that).
    """

    def __init__(self, settings: SpoolSettings) -> None:
        self.settings = settings
        self.batches = self.rows = self.letters = 0
        self._read_to = self._letters_read_to = 0       # numbers go on in a file that replaces a damaged one
        self._last = self._last_letter = 0
        self._conn: sqlite3.Connection | None = None
        self._lock = _locked(settings.folder)

    @property
    def path(self) -> Path:
        """The file."""
        return self.settings.folder / FILE_NAME

    @property
    def is_empty(self) -> bool:
        """Whether neither readings nor dead letters wait; gaps are copies and do not count."""
        return not self.batches and not self.letters

    def open(self) -> None:
        """Open the file, or make it, and count what waits in it."""
        with self._using() as conn:
            self.batches, self.rows, last = conn.execute(_COUNT, [self._read_to]).fetchone()
            self.letters, last_letter = conn.execute(_COUNT_LETTERS, [self._letters_read_to]).fetchone()
        self._last, self._last_letter = max(self._last, last), max(self._last_letter, last_letter)

    def append(self, batch: ReadingBatch, gaps: Sequence[Gap] = (), letters: Sequence[DeadLetter] = ()) -> None:
        """Put rows, the state of gaps, and letters on disk, in one transaction."""
        number, letter_number = self._last + (len(batch) > 0), self._last_letter + len(letters)
        with self._writing() as conn:
            if len(batch):
                conn.execute(_PUT_BATCH, [number, len(batch), encode_batch(batch)])
            conn.executemany(_PUT_GAP, [
                (g.key, g.id, g.source, g.started_us, g.ended_us, g.cause, g.withdrawn, g.meter) for g in gaps])
            conn.executemany(_PUT_LETTER, [
                (place, *_letter_row(letter)) for place, letter in enumerate(letters, self._last_letter + 1)])
        self._last, self._last_letter = number, letter_number
        self.batches += len(batch) > 0
        self.rows += len(batch)
        self.letters += len(letters)

    def restore(self, number: int, batch: ReadingBatch) -> None:
        """Put a batch of a damaged file on disk under the number that it had."""
        with self._writing() as conn:
            conn.execute(_PUT_BATCH, [number, len(batch), encode_batch(batch)])

    def head(self, most_rows: int) -> Spooled:
        """Return the oldest batches with together up to `most_rows` rows, but at least one if there is one."""
        found: list[ReadingBatch] = []
        last, rows = self._read_to, 0
        with closing(self._stored()) as stored:
            for number, batch in stored:
                if found and rows + len(batch) > most_rows:
                    break
                found.append(batch)
                last, rows = number, rows + len(batch)
        return Spooled(joined(found), last)

    def remove(self, spooled: Spooled) -> None:
        """Let the oldest batches go. A disk that is full may keep them a while; they are not given again."""
        read_from, self._read_to = self._read_to, spooled.last
        with self._using() as conn:         # counted anew: the file may be another one since they were read
            batches, rows = conn.execute(_COUNT_READ, [read_from, spooled.last]).fetchone()
        self.batches -= batches
        self.rows -= rows
        self._forget("delete from batch where number <= ?", self._read_to)

    def oldest_letters(self, most: int) -> list[DeadLetter]:
        """Return the oldest letters; their ids are their numbers here."""
        with self._using() as conn:
            rows = conn.execute(_LETTERS, [self._letters_read_to, most]).fetchall()
        return [letter_of(row) for row in rows]

    def remove_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Let the oldest letters go."""
        read_from, self._letters_read_to = self._letters_read_to, max(letter.id or 0 for letter in letters)
        with self._using() as conn:
            [count] = conn.execute(_COUNT_LETTERS_READ, [read_from, self._letters_read_to]).fetchone()
        self.letters -= count
        self._forget("delete from letter where number <= ?", self._letters_read_to)

    def gaps(self) -> list[Gap]:
        """Return the gaps whose state may not be in the database."""
        with self._using() as conn:
            rows = conn.execute(_GAPS).fetchall()
        return [Gap(source, started_us, ended_us, cause, number, bool(withdrawn), key, meter)
                for source, started_us, ended_us, cause, number, withdrawn, key, meter in rows]

    def forget_gaps(self, gaps: Sequence[Gap]) -> None:
        """Let gaps go that are in the database as they are here."""
        with self._writing() as conn:
            conn.executemany("delete from gap where key = ?", [(gap.key,) for gap in gaps])

    def last_times(self) -> dict[str, int]:
        """Return the latest source time [us since 1970-01-01 UTC] of each meter in the spool."""
        last: dict[str, int] = {}
        with closing(self._stored()) as stored:
            for _, batch in stored:
                latest = np.full(len(batch.names), np.iinfo(np.int64).min)
                np.maximum.at(latest, batch.meter, batch.source_us)
                for name, source_us in zip(batch.names, latest.tolist(), strict=True):
                    last[name] = max(last.get(name, source_us), source_us)
        return last

    def drop(self) -> None:
        """Let the file go, to be opened anew, but keep the folder."""
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()

    def close(self) -> None:
        """Let file and folder go."""
        self.drop()
        self._lock.release()

    def _stored(self) -> Generator[tuple[int, ReadingBatch]]:
        """Yield number and rows of each batch that waits, oldest first."""
        with self._using() as conn:
            cursor = conn.execute(_HEAD, [self._read_to])
            try:
                for number, readings in cursor:
                    try:
                        batch = decode_batch(readings)
                    except DamagedBatchError as error:
                        raise SpoolDamagedError(f"{self.path}: batch {number}: {error}") from error
                    yield number, batch
            finally:
                cursor.close()

    def _forget(self, statement: str, upto: int) -> None:
        """Delete up to a number. A full disk may refuse even that, until nothing in the file is needed any more."""
        try:
            with self._writing() as conn:
                conn.execute(statement, [upto])
            if self.is_empty:
                self._shrink()
        except SpoolDamagedError:
            raise
        except SpoolError:
            if self.is_empty:
                self._begin_anew()

    def _begin_anew(self) -> None:
        """Make an empty file of one whose batches and letters are all let go."""
        gaps = self.gaps()
        self.drop()
        for path in (self.path, self.path.with_name(self.path.name + LOG)):
            path.unlink(missing_ok=True)
        self.append(NOTHING, gaps)

    def _shrink(self) -> None:
        """Give the disk back what an empty file holds."""
        with self._using() as conn:
            conn.executescript("pragma incremental_vacuum;")        # `execute` would give back one page
            conn.execute("pragma wal_checkpoint(truncate)").fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Provide a transaction that is on disk at the end of the block, or never was."""
        with self._using() as conn:
            conn.execute("begin immediate")
            try:
                yield conn
                conn.execute("commit")
            except BaseException:
                if conn.in_transaction:         # SQLite rolls back by itself when the disk is full
                    conn.execute("rollback")
                raise

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """Provide the file; what SQLite says becomes ours."""
        try:
            if self._conn is None:
                self._conn = _connected(self.path, self.settings.max_bytes)
            yield self._conn
        except sqlite3.DatabaseError as error:
            self._raise(error)

    def _raise(self, error: sqlite3.DatabaseError) -> NoReturn:
        code = getattr(error, "sqlite_errorcode", 0)
        if code in _DAMAGED or code & 0xFF in _DAMAGED:
            raise SpoolDamagedError(f"{self.path}: {error}") from error
        self.drop()         # after a failed sync nothing is sure but what is read anew
        if code & 0xFF == sqlite3.SQLITE_FULL and self._room() <= shutil.disk_usage(self.settings.folder).free:
            raise SpoolFullError(f"{self.path} has its full size of {self.settings.max_bytes} bytes") from error
        kind = SpoolFullError if _NO_ROOM & {code, code & 0xFF} else SpoolError
        raise kind(f"cannot use {self.path}: {error}") from error

    def _room(self) -> int:
        """Return how many bytes the file may still grow by."""
        return self.settings.max_bytes - self.path.stat().st_size


def _locked(folder: Path) -> FolderLock:
    """Make the folder, and hold it."""
    lock = FolderLock(folder / LOCK_NAME, what=f"spool {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)
        lock.acquire()
    except OSError as error:
        raise SpoolError(f"cannot write to the spool {folder}: {error.strerror}") from error
    except OperationError as error:
        raise SpoolError(f"{error} (hint: give another folder with --spool)") from error
    return lock


def _sync_folder(folder: Path) -> None:
    """Put the folder's entries on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _connected(path: Path, max_bytes: int) -> sqlite3.Connection:
    """Open the file, made if it is not there."""
    conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.0)
    try:
        # exclusive: nobody else is to have it, and no shared memory is needed, which network disks do not have
        _set(conn, "locking_mode = exclusive", "synchronous = full", "cell_size_check = on",
             f"journal_size_limit = {16 << 20}", f"max_page_count = {max_bytes // _PAGE_BYTES}")
        [version] = conn.execute("pragma user_version").fetchone()
        if version > _VERSION:
            raise SpoolError(f"{path} was written by a newer version (hint: let that version replay it)")
        if version == 0:
            _set(conn, f"page_size = {_PAGE_BYTES}", "auto_vacuum = incremental", "journal_mode = wal")
            conn.executescript(f"begin immediate; {_SCHEMA} pragma user_version = {_VERSION}; commit;")
    except BaseException:
        conn.close()
        raise
    return conn


def _set(conn: sqlite3.Connection, *settings: str) -> None:
    for setting in settings:
        conn.execute(f"pragma {setting}").fetchall()


def letter_of(row: Sequence[Any]) -> DeadLetter:
    """Return the letter of a row of `LETTER_COLUMNS` and its number."""
    source, subject, meter, reason, form, payload, payload_bytes, received_us, number = row
    return DeadLetter(source, subject, meter, reason, form, payload, payload_bytes, moment(received_us), number)


def _letter_row(letter: DeadLetter) -> tuple[object, ...]:
    """Return a letter as its row; SQLite takes no text that is not UTF-8."""
    meter = None if letter.meter is None else storable_text(letter.meter)
    return (storable_text(letter.source), storable_text(letter.subject), meter, storable_text(letter.reason),
            letter.format, letter.payload, letter.payload_bytes, micros(letter.received_at))
