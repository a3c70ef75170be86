"""What a collector leaves for the next one, should it be killed: its session and subscription at a server.

Two small files beside the spool for each session. The one tells session, subscription and its items; it is written
whole whenever that changes, and is readable by its owner alone, for it holds the session's token. The other, of a fixed
size, tells which notification was the last durable one, and is brought up to date in place with each request before
what it says is acknowledged; so it may lag behind what is durable, which only repeats readings, and never runs ahead.

Here are the files. What is made of them is in `opcua.share`: a subscription that was left is taken up as after a lost
connection. A file that is missing, cannot be read, or is of another run or server leaves nothing, and all is asked for
anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, nodeid_to_binary, struct_from_binary, struct_to_binary
from asyncua.ua.uaerrors import UaError

from collector.opcua.session import Former
from collector.opcua.subscribing import Item, Subscription
from collector.opcua.tags import Tag
from collector.times import micros, moment
from collector.whole_file import write_whole
from park.servers import Deadband

_logger = logging.getLogger(__name__)

FOLDER = "opcua"            # in that of the spool
_VERSION = 1
_POSITION = struct.Struct("<IIId")      # subscription, last durable notification, whether settled, wall time [s]
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error, UaError)
_ASKED = ("meter", "node_id", "interval_s", "sampling_ms", "queue", "index")
NOWHERE = -1                # place of a meter before it is looked up in the register


@dataclass(frozen=True)
class Owner:
    """Whose files they are: what is left counts for the same session of the same source, server and run alone."""

    source: str
    url: str
    run_us: int
    session: int


@dataclass(frozen=True)
class Keeping:
    """Where a collector's sources note what they leave, and who knows how things stand.

    Attributes
    ----------
    folder
        Of the spool; None: nothing is left to anybody.
    is_settled
        Whether nothing may be missing of a source that is not marked yet.
    is_held_back
        Whether neither database nor spool takes anything: then sessions are left to the next collector at a stop too.
    """

    folder: Path | None = None
    is_settled: Callable[[str], bool] = lambda _source: True
    is_held_back: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Left:
    """What is at a server.

    Attributes
    ----------
    former
        The session.
    began
        Since when the server runs; None if it does not say.
    subscription
        The subscription; what it read back knows no places.
    wholes
        Handles of arrays that the server gives whole.
    """

    former: Former
    began: datetime | None
    subscription: Subscription
    wholes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Position:
    """How far readings were durable when a server was last asked for data.

    Attributes
    ----------
    durable_to
        Number of the latest durable notification; 0: none.
    settled
        Whether nothing was missing that was not marked.
    asked_s
        How long ago it was [wall s].
    """

    durable_to: int
    settled: bool
    asked_s: float


class Handover:
    """The files of one session.

    Parameters
    ----------
    folder
        The spool's; None: nothing is left to anybody.
    owner
        Whose files they are.
    """

    def __init__(self, folder: Path | None, owner: Owner) -> None:
        self._owner = owner
        name = hashlib.sha256(owner.source.encode()).hexdigest()[:16]
        self._file = None if folder is None else folder / FOLDER / f"{name}-{owner.session}.json"
        self._handle: int | None = None         # of the position's file
        self.is_behind = False                  # what was to be noted is not: the disk took nothing

    def read(self) -> tuple[Left, Position] | None:
        """Return what an earlier collector left at the server, and how far it was; None if nothing of use."""
        if self._file is None:
            return None
        try:
            document = json.loads(self._file.read_text("utf-8"))
            if document["version"] != _VERSION or document["owner"] != vars(self._owner):
                return None
            left = _left_of(document)
            number, durable_to, settled, asked_at = _POSITION.unpack(self._position_file(self._file).read_bytes())
        except _UNREADABLE:
            return None
        is_of_it = number == left.subscription.id
        return left, Position(durable_to if is_of_it else 0, bool(settled), max(0.0, time.time() - asked_at))

    async def write(self, left: Left) -> None:
        """Note what is at the server now; where the disk takes nothing, what was noted before stays."""
        if self._file is None:
            return
        document = {"version": _VERSION, "owner": vars(self._owner)} | _document_of(left)
        try:
            await asyncio.to_thread(_put, self._file, document)
            if self._handle is None:
                self._handle = os.open(self._position_file(self._file), os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            if not self.is_behind:
                _logger.warning("%s: what is at the server cannot be noted for a next collector: %s; tried again",
                                self._owner.source, error)
            self.is_behind = True
        else:
            self.is_behind = False

    def note(self, subscription: Subscription, *, settled: bool) -> None:
        """Note how far readings are durable, before that is acknowledged; too old a position does no harm."""
        if self._handle is not None:
            paused_s = 0.0 if subscription.paused_at is None else time.monotonic() - subscription.paused_at
            record = _POSITION.pack(
                subscription.id, subscription.receipts.durable_to, settled, time.time() - paused_s)
            with contextlib.suppress(OSError):
                os.pwrite(self._handle, record, 0)

    def drop(self) -> None:
        """Leave nothing: the session was closed."""
        self.close()
        if self._file is not None:
            for path in (self._file, self._position_file(self._file)):
                with contextlib.suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        """Let the files go."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    @staticmethod
    def _position_file(file: Path) -> Path:
        return file.with_suffix(".position")


def _put(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(document))


def _document_of(left: Left) -> dict[str, Any]:
    former, subscription = left.former, left.subscription
    return {
        "began_us": None if left.began is None else micros(left.began),
        "token": nodeid_to_binary(former.token).hex(),
        "nonce": None if former.nonce is None else former.nonce.hex(),
        "user_tokens": [struct_to_binary(policy).hex() for policy in former.user_tokens],
        "subscription": subscription.id,
        "asked_s": subscription.asked_s,
        "wholes": sorted(left.wholes),
        "items": [_document_of_item(item) for item in subscription.items.values()],
    }


def _document_of_item(item: Item) -> dict[str, Any]:
    tag = item.tag
    deadband = None if tag.deadband is None else tag.deadband.model_dump()
    return {name: getattr(tag, name) for name in _ASKED} | {
        "deadband": deadband, "node": nodeid_to_binary(item.node).hex(), "handle": item.handle, "number": item.number}


def _left_of(document: Mapping[str, Any]) -> Left:
    nonce, began_us = document["nonce"], document["began_us"]
    former = Former(
        _node_of(document["token"]), None if nonce is None else bytes.fromhex(nonce),
        [struct_from_binary(ua.UserTokenPolicy, Buffer(bytes.fromhex(text))) for text in document["user_tokens"]])
    items = [_item_of(row) for row in document["items"]]
    subscription = Subscription(
        document["subscription"], document["asked_s"], items={item.tag.meter: item for item in items})
    return Left(former, None if began_us is None else moment(began_us), subscription, frozenset(document["wholes"]))


def _item_of(row: Mapping[str, Any]) -> Item:
    deadband = None if row["deadband"] is None else Deadband.model_validate(row["deadband"])
    tag = Tag(NOWHERE, **{name: row[name] for name in _ASKED}, deadband=deadband)
    return Item(tag, _node_of(row["node"]), row["handle"], row["number"])


def _node_of(text: str) -> ua.NodeId:
    node = nodeid_from_binary(Buffer(bytes.fromhex(text)))
    return ua.NodeId(node.Identifier, node.NamespaceIndex, node.NodeIdType)
