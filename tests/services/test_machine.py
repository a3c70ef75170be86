"""The one machine with its real servers: what ends by itself comes back where it was, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psycopg

from park.store.embedded import EmbeddedPostgres
from symbiosis.broker import Broker, answers
from symbiosis.datafolder import hold
from symbiosis.guard import guarded, processes_using
from symbiosis.machine import Machine, process_end
from symbiosis.terminal import PlainScreen


class Lines(PlainScreen):
    """Keeps what is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.more = asyncio.Event()

    def note(self, text: str) -> None:
        self.lines.append(text)
        self.more.set()

    async def heard(self, text: str) -> None:
        async with asyncio.timeout(30):
            while not any(text in line for line in self.lines):
                self.more.clear()
                await self.more.wait()


async def test_servers_that_are_killed_come_back_where_they_were_and_nothing_stays(tmp_path: Path):
    screen = Lines()
    with hold(tmp_path / "data") as folder, guarded(folder.root, temporary=True):
        async with Machine(folder, screen, headless=True) as machine:
            database, broker = EmbeddedPostgres(folder.root), Broker(folder.root)
            machine.start_server("the database", database)
            machine.start_server("the broker", broker)
            dsn, port, sockets = database.dsn, broker.port, _socket_folder(database.dsn)
            os.kill(database.pid, signal.SIGKILL)
            await screen.heard("the database runs again")
            assert database.dsn == dsn
            with psycopg.connect(dsn) as conn:
                assert conn.execute("select 1").fetchone() == (1,)
            os.kill(broker.pid, signal.SIGKILL)
            await screen.heard("the broker runs again")
            assert broker.port == port
            assert answers(port)
            pids = (database.pid, broker.pid)
        for pid in pids:
            await process_end(pid)
        assert processes_using(folder.root) == []
        assert not sockets.exists()
    assert not (tmp_path / "data").exists()
    assert screen.lines == [
        "the database ended unexpectedly; starting it again", "the database runs again",
        "the broker ended unexpectedly; starting it again", "the broker runs again",
    ]
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().remove_signal_handler(number)


def _socket_folder(dsn: str) -> Path:
    from psycopg.conninfo import conninfo_to_dict

    return Path(str(conninfo_to_dict(dsn)["host"]))
