"""run.json: how a run that is under way is reached. The supervisor writes it; services and scripts read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from park.clock import RunClock
from park.errors import InputError


@dataclass(frozen=True)
class RunFile:
    """What run.json says.

    Parameters
    ----------
    dsn
        The database.
    park
        Path of park.yaml.
    endpoints
        Actual URL by configured URL of the OPC UA servers; equal where a run does not move them.
    broker
        URL of the MQTT broker; empty where the run has none.
    sent, truth, faults
        Files of the simulators; empty in a run without simulators.
    clock
        The run's clock; its `epoch` and `start` are in seconds since 1970.
    metrics
        Where each service answers with its metrics and health: URL by service; filled in when they begin.
    """

    dsn: str
    park: str
    endpoints: Mapping[str, str]
    broker: str
    sent: str
    truth: str
    faults: str
    clock: RunClock
    metrics: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file at once: a reader sees the old one or the new one, whole."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        draft = path.with_name(path.name + ".new")
        draft.write_text(text, "utf-8")
        draft.replace(path)

    @classmethod
    def read(cls, path: Path) -> RunFile:
        """Read a run.json.

        Raises
        ------
        InputError
            If the file cannot be read or is not a run.json.
        """
        try:
            document: dict[str, Any] = json.loads(path.read_text("utf-8"))
            return cls(**{**document, "clock": RunClock(**document["clock"])})
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no run.json: {error}") from error
