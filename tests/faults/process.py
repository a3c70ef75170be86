"""One service of the program in a process of its own, which a test may kill, halt and start again at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from symbiosis.supervisor import service_arguments


class Process:
    """A supervised service: what it says of itself, and what it is told.

    Parameters
    ----------
    command
        Its command line after the program's name.
    log
        File that its messages are added to.
    environment
        Variables beside those of this process.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._arguments = service_arguments(*command)
        self._log = log
        self._environment = {**os.environ, **(environment or {})}
        self._orders: list[str] = []
        self._said: dict[str, Mapping[str, Any]] = {}
        self._more = asyncio.Condition()
        self._process: asyncio.subprocess.Process | None = None
        self._hearing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and give it all orders again that it had."""
        self._said.clear()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                env=self._environment)
        for word in self._orders:
            self._write(word)
        self._hearing = asyncio.create_task(self._hear())

    def order(self, word: str) -> None:
        """Give it an order, now and whenever it is started."""
        self._orders.append(word)
        self._write(word)

    async def reached(self, state: str, within_s: float = 180.0) -> Mapping[str, Any]:
        """Wait until it says that it is in a state; return what it says of it."""
        async with asyncio.timeout(within_s), self._more:
            await self._more.wait_for(lambda: state in self._said)
        return self._said[state]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens where it has ended."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def kill(self) -> None:
        """End it as `kill -9` does, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def ended(self, within_s: float = 180.0) -> int:
        """Wait until it has ended by itself; return its exit code."""
        assert self._process is not None
        assert self._hearing is not None
        async with asyncio.timeout(within_s):
            code = await self._process.wait()
            await self._hearing
        return code

    def _write(self, word: str) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(f"{word}\n".encode())

    async def _hear(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            async with self._more:
                self._said[said.pop("state")] = said
                self._more.notify_all()
