"""What came and is no reading: into the table `dead_letter`, out of it again, and marked when its readings are stored.

What makes something a dead letter, and how one is read again, is in `collector.dead_letters`. Blocking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

_COLUMNS = "source, subject, meter, reason, format, payload, payload_bytes, received_at"
# Nobody's lock on this table, and no slow disk under it, may hold up the readings that share the connection's thread.
_HURRY = "select set_config('lock_timeout', '250ms', true), set_config('statement_timeout', '5s', true)"
_COPY = f"copy dead_letter ({_COLUMNS}) from stdin (format binary)"
_TYPES = ("text", "text", "text", "text", "text", "bytea", "int8", "timestamptz")
_PRUNE = "delete from dead_letter where id <= (select max(id) from dead_letter) - %s"
_OPEN = f"""
    select {_COLUMNS}, id from dead_letter
    where replayed_at is null and id > %(after)s
      and (%(source)s::text is null or source = %(source)s) and (%(meter)s::text is null or meter = %(meter)s)
      and (%(reason)s::text is null or reason = %(reason)s)
    order by id limit %(rows)s
"""
_MARK = "update dead_letter set replayed_at = now() where id = any(%s) and replayed_at is null"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One thing that came and is no reading.

    Attributes
    ----------
    source, subject
        Where it came from: the source, and the MQTT topic or what else it was about.
    meter
        The meter it was for; None if that is not known, or it was for all meters of its topic.
    reason
        Why it is no reading.
    format
        How the payload is read again: ``mqtt`` a message, ``opcua`` a data value as JSON, ``text`` not at all.
    payload
        As it came; of a large one the beginning.
    payload_bytes
        Its size as it came.
    received_at
        Arrival on the run's clock.
    id
        Number in the table; None before it is stored.
    """

    source: str
    subject: str
    meter: str | None
    reason: str
    format: str
    payload: bytes
    payload_bytes: int
    received_at: datetime
    id: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether only the beginning is here."""
        return len(self.payload) < self.payload_bytes


@dataclass(frozen=True)
class Which:
    """Which letters are meant; None: any."""

    source: str | None = None
    meter: str | None = None
    reason: str | None = None


def hurry(conn: psycopg.Connection) -> None:
    """Let the transaction give up early where somebody holds the table."""
    conn.execute(_HURRY)


def insert_dead_letters(conn: psycopg.Connection, letters: Sequence[DeadLetter], keep: int) -> None:
    """Store letters, and forget the oldest beyond the latest `keep`; to be called in a transaction."""
    hurry(conn)
    with conn.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for letter in letters:
            copy.write_row((
                storable_text(letter.source), storable_text(letter.subject),
                letter.meter and storable_text(letter.meter), letter.reason, letter.format, letter.payload,
                letter.payload_bytes, letter.received_at,
            ))
    conn.execute(_PRUNE, [keep])


def open_dead_letters(conn: psycopg.Connection, which: Which, page: int) -> Iterator[list[DeadLetter]]:
    """Yield the letters that are not replayed, oldest first, in pages; what is marked meanwhile is no matter."""
    after = 0
    while True:
        found = conn.execute(_OPEN, {
            "after": after, "rows": page, "source": which.source, "meter": which.meter, "reason": which.reason,
        }).fetchall()
        if not found:
            return
        yield [DeadLetter(*row) for row in found]
        after = found[-1][-1]


def mark_replayed(conn: psycopg.Connection, ids: Sequence[int]) -> None:
    """Note that the readings of these letters are stored."""
    conn.execute(_MARK, [list(ids)])


def storable_text(name: str) -> str:
    """Return a name as PostgreSQL can hold it, lest one letter keep all behind it from being stored."""
    return name.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
