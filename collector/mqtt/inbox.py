"""Messages on their way from paho's thread to the event loop, and back to be acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Acknowledging(Protocol):
    """A connection that brought messages."""

    outstanding: int                # handed to the event loop, not acknowledged

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Tell the broker that these messages are ours now, in the order in which they came."""


class Message(NamedTuple):
    """A message as paho's thread hands it on; `at` is its arrival [wall s]."""

    link: Acknowledging
    topic: str
    payload: bytes
    mid: int
    qos: int
    retained: bool
    at: float


class Inbox:
    """Messages on their way from paho's thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._messages: deque[Message] = deque()
        self._filled = asyncio.Event()
        self._signalled = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        """Append a message; for paho's thread. One wake-up for many messages: each costs a system call."""
        self._messages.append(message)
        if not self._signalled:
            self._signalled = True
            self._loop.call_soon_threadsafe(self._filled.set)

    async def take(self, limit: int) -> list[Message]:
        """Wait for messages, and remove up to `limit` of them, in order."""
        await self._wait()
        return [self._messages.popleft() for _ in range(min(limit, len(self._messages)))]

    async def filled_within(self, seconds: float) -> bool:
        """Wait for messages so long; return whether there are any."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wait()
        return bool(self._messages)

    async def _wait(self) -> None:
        while not self._messages:
            self._filled.clear()
            self._signalled = False
            if not self._messages:
                await self._filled.wait()


Receipts = dict[Acknowledging, list[int]]


def receipts_of(messages: Sequence[Message]) -> Receipts:
    """Return what is to be acknowledged when the messages' readings are committed; counted as outstanding."""
    receipts: Receipts = {}
    for message in messages:
        if message.qos:
            receipts.setdefault(message.link, []).append(message.mid)
            message.link.outstanding += 1
    return receipts


def acknowledge(receipts: Receipts) -> None:
    """Acknowledge each message on the connection that brought it."""
    for link, mids in receipts.items():
        link.acknowledge(mids)
