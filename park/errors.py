"""Every error that the program raises on purpose, on one screen.

Each is an answer to whoever runs the program, and says what to do::

    SymbiosisError
    ├── InputError            what the user gave is wrong: exit 2, before any connection is made
    │   └── ParkError         a park.yaml or meters.csv with faults, all of them at once
    └── OperationError        the work failed: exit 1
        ├── StoreError        the database, or its data folder
        ├── SpoolError        the collector's spool on disk
        ├── BrokerError       the MQTT broker
        └── SourceError       a server or broker that meters are read from, and that cannot serve them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Fault:
    """One fault of a configuration file: where it is, what is wrong, how to mend it."""

    file: str
    line: int
    subject: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        subject = f"{self.subject}: " if self.subject else ""
        hint = f" (hint: {self.hint})" if self.hint else ""
        return f"{self.file}:{self.line}: {subject}{self.message}{hint}"


class SymbiosisError(Exception):
    """Base of all errors raised on purpose."""


class InputError(SymbiosisError):
    """What the user gave is wrong."""


class ParkError(InputError):
    """A park's files have faults; `faults` holds all of them, in the order of the files."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class OperationError(SymbiosisError):
    """The work failed although the input was right."""


class StoreError(OperationError):
    """The database or its data folder."""


class SpoolError(OperationError):
    """The collector's spool on disk."""


class BrokerError(OperationError):
    """The MQTT broker."""


class SourceError(OperationError):
    """A server or broker that meters are read from cannot serve them as they need."""
