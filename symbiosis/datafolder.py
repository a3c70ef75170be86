"""The data folder of a run on this machine: where things lie in it, and who holds it.

    DATA/lock            held while a supervisor runs; says who
    DATA/postgres/       the embedded database (`park.store.embedded`)
    DATA/broker/         what the broker keeps for clients that are away
    DATA/spool/          readings that wait while the database is away (`collector.spool`)
    DATA/logs/           one file a service
    DATA/runs/<stamp>/   sent.csv, truth.csv, faults.csv of one run
    DATA/park-*.json     the park that a service works with (`symbiosis.park_in_force`)
    DATA/run.json        how to reach the run that holds the folder (`symbiosis.runfile`)

The folder of a run that does not persist is temporary; the guard (`symbiosis.guard`) removes it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from park.child_process import FolderLock
from park.errors import OperationError, StoreError

OURS = ("postgres", "postgres.new", "postgres.log", "postgres.log.1", "broker", "spool", "logs", "runs", "run.json",
        "park-collect.json", "park-process.json")


def default_data_folder() -> Path:
    """Return the user's data folder of this program (XDG base directories)."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "symbiosis"


@dataclass(frozen=True)
class DataFolder:
    """Where things lie in a data folder."""

    root: Path

    @property
    def broker(self) -> Path:
        """The broker's store."""
        return self.root / "broker"

    @property
    def logs(self) -> Path:
        """One file a service."""
        return self.root / "logs"

    @property
    def runfile(self) -> Path:
        """How to reach the run that holds the folder."""
        return self.root / "run.json"

    def new_run(self, now: datetime) -> Path:
        """Make and return a folder for the files of one run, named by its start."""
        folder = self.root / "runs" / now.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        folder.mkdir(parents=True)
        return folder

    def clear(self) -> None:
        """Remove what this program put there, and nothing else."""
        for name in OURS:
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class HeldFolder(DataFolder):
    """A data folder that this process holds; `lock` is the descriptor to hand on to children."""

    lock: int


@contextmanager
def hold(root: Path) -> Iterator[HeldFolder]:
    """Hold a data folder for as long as the block runs, or its children that got the lock live.

    Parameters
    ----------
    root
        The folder; made if it is not there.

    Raises
    ------
    StoreError
        If it is held already (says by which process), or cannot be written.
    """
    lock = FolderLock(root / "lock", what=f"data folder {root}")
    try:
        lock.acquire()
    except OSError as error:
        raise StoreError(f"cannot write to the data folder {root}: {error.strerror}") from error
    except OperationError as error:
        raise StoreError(f"{error} (hint: give another folder with --data)") from error
    try:
        yield HeldFolder(root, lock.fileno())
    finally:
        lock.release()


def temporary_root() -> Path:
    """Make and return a folder for a run that does not persist."""
    return Path(tempfile.mkdtemp(prefix="symbiosis-"))
