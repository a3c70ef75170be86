"""Messages on their way from paho's thread to the event loop, and back to be acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from collector.mqtt.sifting import Publish

MOST_WAITING = 20_000           # messages in the inbox, or as many as a broker sends without acknowledgement
LONGEST_PAUSE_S = 0.25          # pings and acknowledgements wait as long


class Acknowledging(Protocol):
    """A connection that brought messages."""

    outstanding: int                # handed to the event loop, not acknowledged

    def acknowledge(self, receipts: Sequence[bytes]) -> None:
        """Tell the broker that these messages are ours now, in the order in which they came."""


class Parcel(NamedTuple):
    """Messages that paho's thread took from a connection at once, at least one; `at` is their arrival [wall s]."""

    link: Acknowledging
    messages: Sequence[Publish]
    at: float


class Inbox:
    """Messages on their way from paho's thread to the event loop.

    Parameters
    ----------
    loop
        The event loop.
    most
        Messages that may wait here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int = MOST_WAITING) -> None:
        self._loop = loop
        self._most = most
        self._parcels: deque[Parcel] = deque()
        self._put = self._taken = 0     # messages; each is counted by one thread alone
        self._filled = asyncio.Event()
        self._signalled = False

    def __len__(self) -> int:
        return self._put - self._taken

    def put(self, parcel: Parcel) -> bool:
        """Append messages; for paho's thread. Return whether no more wait than may.

        Where more than half of that waits, the caller sleeps: the rest stays in the broker's socket, which is all that
        holds back messages at QoS 0.
        """
        self._put += len(parcel.messages)
        self._parcels.append(parcel)
        if not self._signalled:
            self._signalled = True
            self._loop.call_soon_threadsafe(self._filled.set)     # one for many: each costs a system call
        crowd = 2.0 * len(self) / self._most - 1.0
        if 0.0 < crowd <= 1.0:
            time.sleep(crowd * LONGEST_PAUSE_S)
        return crowd <= 1.0

    async def take(self, limit: int) -> list[Parcel]:
        """Wait for messages, and remove them in order: whole parcels, up to `limit` messages or one parcel more."""
        await self._wait()
        taken: list[Parcel] = []
        messages = 0
        while self._parcels and messages < limit:
            taken.append(self._parcels.popleft())
            messages += len(taken[-1].messages)
        self._taken += messages
        return taken

    async def filled_within(self, seconds: float) -> bool:
        """Wait for messages so long; return whether there are any."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wait()
        return bool(self._parcels)

    async def _wait(self) -> None:
        while not self._parcels:
            self._filled.clear()
            self._signalled = False
            if not self._parcels:
                await self._filled.wait()


Receipts = Sequence[tuple[Acknowledging, Sequence[bytes]]]


def receipts_of(parcels: Sequence[Parcel]) -> Receipts:
    """Return what is to be sent when the messages' readings are committed; counted as outstanding."""
    receipts = []
    for parcel in parcels:
        if some := [message.receipt for message in parcel.messages if message.receipt]:
            parcel.link.outstanding += len(some)
            receipts.append((parcel.link, some))
    return receipts


def acknowledge(receipts: Receipts) -> None:
    """Acknowledge each message on the connection that brought it."""
    for link, some in receipts:
        link.acknowledge(some)
