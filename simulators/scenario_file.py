"""Reads a scenario file: its shape first, then whether it fits its park, with every fault at once and its line.

What a scenario says is in `simulators.scenario`; what does not fit a park in `simulators.scenario_checks`. The main
path enters at `load_scenario`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from park.errors import Fault as FileFault
from park.errors import ParkError
from park.load import keys_at
from park.model import Park
from park.wording import Speller, clause
from park.yaml12 import Document, parse
from simulators.scenario import SUBJECT_TAGS, Scenario
from simulators.scenario_checks import mistakes

_ENTRIES: Mapping[str | int, str] = {"streams": "stream", "tanks": "tank", "profiles": "profile", "faults": "fault"}


def load_scenario(path: Path | None, park: Park) -> Scenario:
    """Read a scenario and hold it against its park; without a path, the default scenario.

    Raises
    ------
    ParkError
        With every fault of the file at once, each with its line; the file's shape first, then whether it fits the
        park.
    """
    if path is None:
        return Scenario()
    try:
        document = parse(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "not UTF-8"
        raise ParkError([FileFault(str(path), 1, "", f"cannot read the scenario: {reason}")]) from error
    faults = list(document.faults)
    try:
        scenario = Scenario.model_validate(document.data or {})
    except ValidationError as error:
        raise ParkError(_by_line([*faults, *_shape_faults(document, error)])) from None
    for path_, clause_, hint in mistakes(scenario, park):
        faults.append(FileFault(document.file, document.line(path_), _subject(document, path_), clause_, hint))
    if faults:
        raise ParkError(_by_line(faults))
    return scenario


def _by_line(faults: list[FileFault]) -> list[FileFault]:
    """Return the faults in the order of their lines."""
    return sorted(faults, key=lambda fault: fault.line)


def _shape_faults(document: Document, error: ValidationError) -> Iterator[FileFault]:
    """Yield what is wrong with the shape of a scenario file."""
    speller = Speller()
    for detail in error.errors(include_url=False):
        path = tuple(step for step in detail["loc"] if step not in ("[key]", *SUBJECT_TAGS))
        detail["loc"] = path[2:] if _subject(document, path) else path
        text, hint = clause(detail, speller, keys_at(Scenario, path[:-1]))
        if detail["type"] == "value_error":
            text = str(detail["ctx"]["error"])
        yield FileFault(document.file, document.line(path), _subject(document, path), text, hint)


def _subject(document: Document, path: Sequence[str | int]) -> str:
    """Return how messages name the entry at a path: by section and key, a fault by its id."""
    if len(path) < 2 or path[0] not in _ENTRIES:
        return ""
    section, key = path[0], path[1]
    if isinstance(key, str):
        return f"{_ENTRIES[section]} {key!r}"
    entries = document.data.get("faults") if isinstance(document.data, dict) else None
    entry = entries[key] if isinstance(entries, list) and key < len(entries) else None
    name = entry.get("id") if isinstance(entry, dict) else None
    return f"fault {name!r}" if isinstance(name, str) else f"fault {key + 1}"
