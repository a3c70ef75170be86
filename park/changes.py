"""What a changed park.yaml says that the one before did not, in words for the log.

Here: `in_words`. Not here: when the files are read again (`park.watch`), and what a service makes of a change.
"""

from __future__ import annotations

from collections.abc import Iterator

from park.entry import Entry
from park.model import Park

SECTIONS = {"participants": "participant", "nodes": "node", "streams": "stream", "meters": "meter",
            "exchanges": "exchange", "servers": "server", "brokers": "broker"}
NAMED = 5           # ids, or entries, that one line names; of more it says how many


def in_words(before: Park, after: Park) -> str:
    """Return how two parks differ: entries that came and went, and the keys that changed of others."""
    found = list(_keys_of("park", before.park, after.park))
    for section, kind in SECTIONS.items():
        olds, news = ({entry.id: entry for entry in getattr(park, section)} for park in (before, after))
        found += _came(kind, [id for id in news if id not in olds], "added")
        found += _came(kind, [id for id in olds if id not in news], "dropped")
        for id in (id for id in news if id in olds):
            found += _keys_of(f"{kind} {id!r}", olds[id], news[id])
    more = f", and {len(found) - NAMED} changes more" if len(found) > NAMED else ""
    return (", ".join(found[:NAMED]) + more) or "nothing but its wording"


def _keys_of(subject: str, before: Entry, after: Entry) -> Iterator[str]:
    """Yield the keys of an entry whose values differ."""
    keys = [field.alias or name for name, field in type(before).model_fields.items()
            if getattr(before, name) != getattr(after, name)]
    if keys:
        yield f"{subject} has another {', '.join(keys)}"


def _came(kind: str, ids: list[str], word: str) -> Iterator[str]:
    """Yield that entries came or went."""
    if len(ids) == 1:
        yield f"{kind} {ids[0]!r} {word}"
    elif ids:
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        yield f"{len(ids)} {kind}s {word} ({', '.join(ids[:NAMED])}{more})"
